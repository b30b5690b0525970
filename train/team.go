package train

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
)

// member is a rank, for run.json and the log.
type member struct {
	Host    string `json:"host"`
	Device  string `json:"device"`
	Threads int    `json:"threads"`
	Rows    int    `json:"rows"` // of each batch
}

// fact is something that must be the same on all ranks.
type fact struct {
	Name, Value string
	Hashed      bool // Value says nothing to a reader
}

// local lists the settings that ranks may have each of their own, and those that only rank 0 looks at. Whatever
// decides when ranks exchange something is none of them: they all act on it.
var local = []string{"device", "threads", "workers", "profile", "pretrained_weights"}

// facts are everything that must be the same on all ranks, so that each trains what one would train alone.
func (t *trainer) facts() ([]fact, error) {
	c := &t.cfg
	libtorch, err := torch.Version()
	if err != nil {
		return nil, err
	}
	list := []fact{{"lntorch's version", c.Version, false}, {"libtorch's version", libtorch, false}, {"method", c.MethodName, false}, {"trainer", c.Trainer, false},
		{"configuration", c.Configuration, false}, {"fold", c.Fold, false},
		{"--val", fmt.Sprint(c.ValidateOnly), false}, {"--npz", fmt.Sprint(c.Npz), false}}
	list = append(list, settingFacts(t.settings())...)
	hashed, err := hashedFacts(
		document{"plans " + c.PlansName + ".json", t.data.Plans.Raw()},
		document{"dataset.json", t.data.Dataset.Raw()},
		document{"list of cases", [][]string{t.data.Split.Train, t.data.Split.Val}},
		document{"augmentation", t.list},
		t.weightNames())
	return append(list, hashed...), err
}

// document is something that ranks compare by its hash: JSON of plans, or what can become JSON.
type document struct {
	name  string
	value any
}

func (s *Session) weightNames() document {
	var names []string
	for _, p := range s.Params {
		names = append(names, fmt.Sprint(p.Name, p.Shape))
	}
	return document{"names and shapes of the network's weights", names}
}

func hashedFacts(documents ...document) ([]fact, error) {
	var list []fact
	for _, d := range documents {
		var b []byte
		var err error
		if doc, ok := d.value.(*plans.Object); ok {
			b, err = plans.EncodeJSON(doc, 0, false)
		} else {
			b, err = json.Marshal(d.value)
		}
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		list = append(list, fact{d.name, hex.EncodeToString(sum[:8]), true})
	}
	return list, nil
}

// settingFacts are the settings that must be the same, in the order of their names.
func settingFacts(all map[string]any) []fact {
	var list []fact
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(local, name) {
			list = append(list, fact{"setting " + name, fmt.Sprint(all[name]), false})
		}
	}
	return list
}

// agree is an error, the same on every rank, where facts differ.
func (p *peers) agree(own []fact) error {
	all, err := gather(p, own)
	if err != nil {
		return err
	}
	return differences(all)
}

// agree is an error, the same on every rank, where ranks are about to train different things.
func (t *trainer) agree() error {
	if t.peers == nil {
		return nil
	}
	own, err := t.facts()
	if err != nil {
		return err
	}
	if err := t.peers.agree(own); err != nil {
		return err
	}
	host := t.cfg.Ranks.Group.Members()[t.peers.rank()].Host
	t.team, err = gather(t.peers, member{host, t.cfg.Device.String(), t.cfg.Threads, int(t.rows.Count)})
	return err
}

// differences says in which facts other ranks differ from rank 0.
func differences(all [][]fact) error {
	var list []string
	for _, want := range all[0] {
		values := map[string][]int{} // and the ranks that have them
		var order []string
		for rank, facts := range all {
			value := "none"
			if j := slices.IndexFunc(facts, func(f fact) bool { return f.Name == want.Name }); j >= 0 {
				value = facts[j].Value
			}
			if values[value] == nil {
				order = append(order, value)
			}
			values[value] = append(values[value], rank)
		}
		if len(order) == 1 {
			continue
		}
		var each []string
		for _, value := range order {
			what := "another"
			switch {
			case !want.Hashed:
				what = value
			case value == order[0]:
				what = "one"
			}
			each = append(each, what+" on "+rankList(values[value]))
		}
		list = append(list, want.Name+" ("+strings.Join(each, ", ")+")")
	}
	if list == nil {
		return nil
	}
	return fmt.Errorf("the ranks were about to train different things, which differ in %s: start all of them with the same program, "+
		"settings and data", strings.Join(list, "; "))
}

func rankCount(n int64) string {
	if n == 1 {
		return "1 rank"
	}
	return fmt.Sprintf("%d ranks", n)
}

// rankList is "rank 1" or "ranks 1, 2".
func rankList(ranks []int) string {
	if len(ranks) == 1 {
		return fmt.Sprintf("rank %d", ranks[0])
	}
	return "ranks " + strings.Trim(strings.ReplaceAll(fmt.Sprint(ranks), " ", ", "), "[]")
}

// together says, for the log, who trains.
func (t *trainer) together() string {
	var hosts []string
	rows := fmt.Sprintf("%d", t.team[0].Rows)
	for _, m := range t.team {
		if !slices.Contains(hosts, m.Host) {
			hosts = append(hosts, m.Host)
		}
	}
	if last := t.team[len(t.team)-1].Rows; last != t.team[0].Rows {
		rows = fmt.Sprintf("%d or %d", last, t.team[0].Rows)
	}
	plural := ""
	if len(hosts) > 1 {
		plural = "s"
	}
	return fmt.Sprintf("%d ranks on %d host%s (%s): %d patches an iteration, %s a rank; gradients %.3g MB", len(t.team), len(hosts), plural,
		t.cfg.Ranks.Backend, t.cfg.BatchSize, rows, float64(t.GradientBytes())/1e6)
}

// aboutRanks is what run.json says of several ranks.
func (t *trainer) aboutRanks() (map[string]any, error) {
	buckets, err := t.ranks.reducer.Buckets()
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"world_size": t.peers.size(), "backend": t.cfg.Ranks.Backend, "launcher": t.cfg.Ranks.Launcher, "restart": t.cfg.Ranks.Restart,
		"ranks": t.team,
		"comm": map[string]any{
			"gradient_bytes": t.GradientBytes(), "buckets": len(buckets),
			"wait_ms": map[string]float64{"median": milliseconds(quantile(t.timing.others, 0.5)), "p90": milliseconds(quantile(t.timing.others, 0.9))},
		},
	}, nil
}

// pace is how a rank spent the training iterations of an epoch.
type pace struct{ Total, Data, Others time.Duration }

// own is the time that the rank itself needed.
func (p pace) own() time.Duration { return p.Total - p.Others }

// tooSlow is the part of the ranks' median that a rank may need without a word on it.
const tooSlow = 1.2

// paces tells how long the ranks waited for each other, and which of them the others waited for.
func paces(all []pace, team []member) []string {
	var waits []string
	var own, data []time.Duration
	for rank, p := range all {
		waits = append(waits, fmt.Sprintf("rank %d %.1f s (%.1f %%)", rank, p.Others.Seconds(), 100*share(p.Others, p.Total)))
		own, data = append(own, p.own()), append(data, p.Data)
	}
	lines := []string{"waited for other ranks: " + strings.Join(waits, ", ")}
	middle := between(own)
	for rank, p := range all {
		if float64(p.own()) <= tooSlow*float64(middle) {
			continue
		}
		why := "it computes longer: is another program on its host or its GPU, or has it more patches?"
		if p.Data-between(data) > (p.own()-middle)/2 {
			why = "it waits for its data: more --workers, or a faster disk, may help"
		}
		lines = append(lines, fmt.Sprintf("WARNING: rank %d (host %s, %s) needs %.1f times as long as the median of the ranks, which wait for it; %s",
			rank, team[rank].Host, team[rank].Device, float64(p.own())/float64(middle), why))
	}
	return lines
}

// between is the median, of two in the middle their mean.
func between(list []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(list))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

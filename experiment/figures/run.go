package figures

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/lntorch/lntorch/experiment/stats"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/internal/regular"
)

// Place is where a run counts in a table, by the names of the experiment's file. A run may have several:
// methods with the same settings are one run, and so are draws with the same set of cases.
type Place struct {
	Key                             string // of the run
	Dataset, Network, Method, Shots string
	Draw, Seed                      Name
}

// Run is what pictures and tables take from a run's run.json, at one of its places. All but the place may be
// missing. The record itself has the first place that the run was done for, by the names of that time.
type Run struct {
	Key     string `json:"key"`
	Dataset string `json:"dataset"`
	Network string `json:"network"`
	Method  string `json:"method"`
	Shots   string `json:"shots"`
	Draw    Name   `json:"draw"`
	Seed    Name   `json:"seed"`

	Seconds           *float64 `json:"train_seconds"`
	PeakBytes         *int64   `json:"peak_bytes"`         // of memory while it trained
	TrainedParameters *int64   `json:"trained_parameters"` // by the method
	Threads           *int64   `json:"threads"`

	Curves  Curves      `json:"curves"`
	Touched []Layer     `json:"touched"`        // in the network's order; none without DGST
	Sizes   []SizeClass `json:"recall_by_size"` // of all test cases together

	folder string // of the record, in runs
}

// Curves has a value for each epoch; null is none.
type Curves struct {
	Loss       []*float64 `json:"loss"` // of the training
	ValLoss    []*float64 `json:"val_loss"`
	PseudoDice []*float64 `json:"pseudo_dice"`
}

// Layer is a parameter and how many of its entries DGST updated at least once.
type Layer struct {
	Name    string `json:"name"`
	Touched int64  `json:"touched"`
	Entries int64  `json:"entries"`
}

// SizeClass counts the nodes of a class of sizes that were found.
type SizeClass struct {
	Label string `json:"label"`
	Class string `json:"class"` // of the short axis in mm, as in scores.json
	Found int    `json:"found"`
	Nodes int    `json:"nodes"`
}

// Name is a text that may be a number in JSON.
type Name string

// UnmarshalJSON takes a text or a number.
func (n *Name) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*n = Name(s)
		return nil
	}
	var v json.Number
	err := json.Unmarshal(b, &v)
	*n = Name(v)
	return err
}

// MarshalJSON writes a number as one.
func (n Name) MarshalJSON() ([]byte, error) {
	if v, err := strconv.ParseUint(string(n), 10, 64); err == nil &&
		strconv.FormatUint(v, 10) == string(n) {
		return []byte(n), nil
	}
	return json.Marshal(string(n))
}

// maxRecord bounds a run.json; mostPoints its curves, mostLayers its parameters, mostCounted what it counts.
const (
	maxRecord   = 64 << 20
	mostPoints  = 1_000_000
	mostLayers  = 10_000
	mostCounted = 1 << 40
)

// ReadPlaces reads runs/KEY/run.json of an experiment's folder for each place whose run is done: what was
// measured is the record's, the place is the one given. Other runs in the folder, of settings that have
// changed or of another file, are left alone.
func ReadPlaces(folder string, places []Place) ([]Run, error) {
	keys := names(len(places), func(i int) string { return places[i].Key })
	records, err := readRuns(folder, keys)
	if err != nil {
		return nil, err
	}
	byKey := map[string]*Run{}
	for i := range records {
		byKey[records[i].folder] = &records[i]
	}
	var list []Run
	for _, p := range places {
		if record := byKey[p.Key]; record != nil {
			r := *record
			r.Key, r.Dataset, r.Network, r.Method = p.Key, p.Dataset, p.Network, p.Method
			r.Shots, r.Draw, r.Seed = p.Shots, p.Draw, p.Seed
			list = append(list, r)
		}
	}
	return list, nil
}

// ReadScored reads runs/KEY/run.json beside scores of which nothing else is known, in the order of the scores:
// of each run that is done, where its record names a place that has scores. unclear are the keys of those that
// are left out since several name the same place.
func ReadScored(folder string, scored []table.Run) (list []Run, unclear []string, err error) {
	entries, err := os.ReadDir(filepath.Join(folder, "runs"))
	if os.IsNotExist(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var keys []string
	for _, e := range entries {
		if e.IsDir() {
			keys = append(keys, e.Name())
		}
	}
	records, err := readRuns(folder, keys)
	if err != nil {
		return nil, nil, err
	}
	type spot struct{ dataset, network, method, shots, draw, seed string }
	at := map[spot][]*Run{}
	for i := range records {
		r := &records[i]
		of := spot{r.Dataset, r.Network, r.Method, r.Shots, string(r.Draw), string(r.Seed)}
		at[of] = append(at[of], r)
	}
	for _, r := range scored {
		of := spot{r.Dataset, r.Network, r.Method, r.Shots, r.Draw, r.Seed}
		switch found := at[of]; {
		case len(found) == 1:
			list = append(list, *found[0])
		default:
			for _, other := range found {
				unclear = append(unclear, other.folder)
			}
		}
		delete(at, of) // the next label has the same run
	}
	return list, unclear, nil
}

// readRuns reads the records of those that are done.
func readRuns(folder string, keys []string) ([]Run, error) {
	var done []string
	for _, key := range keys {
		if _, err := os.Stat(filepath.Join(folder, "runs", key, "done")); err == nil {
			done = append(done, key)
		}
	}
	runs, errs := make([]Run, len(done)), make([]error, len(done))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(done)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(done)); i = next.Add(1) - 1 {
				errs[i] = runs[i].read(filepath.Join(folder, "runs", done[i], "run.json"))
				runs[i].folder = done[i]
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return runs, nil
}

func (r *Run) read(path string) error {
	if info, err := os.Stat(path); err == nil && info.Size() > maxRecord {
		return fmt.Errorf("%s: found %d bytes, expected %d at most: is it the record of a run?", path,
			info.Size(), maxRecord)
	}
	text, err := regular.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, r); err != nil {
		return fmt.Errorf("%s: %w: is it the record of a run?", path, err)
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (r *Run) check() error {
	for _, list := range [][]*float64{r.Curves.Loss, r.Curves.ValLoss, r.Curves.PseudoDice} {
		if len(list) > mostPoints {
			return fmt.Errorf("found a curve of %d epochs, expected %d at most", len(list), mostPoints)
		}
	}
	if len(r.Touched) > mostLayers {
		return fmt.Errorf("found %d layers, expected %d at most", len(r.Touched), mostLayers)
	}
	for _, l := range r.Touched {
		if l.Touched < 0 || l.Touched > l.Entries || l.Entries > mostCounted {
			return fmt.Errorf("layer %.60s: found %d entries updated of %d", l.Name, l.Touched, l.Entries)
		}
	}
	for _, s := range r.Sizes {
		if s.Found < 0 || s.Found > s.Nodes || s.Nodes > mostCounted {
			return fmt.Errorf("class %.20s: found %d nodes found of %d", s.Class, s.Found, s.Nodes)
		}
	}
	return nil
}

// cellOf is the cell of a table that a run belongs to.
type cellOf struct{ dataset, network, method, shots string }

func (r *Run) cell() cellOf { return cellOf{r.Dataset, r.Network, r.Method, r.Shots} }

// trainings counts runs, one that has several places once.
type trainings struct {
	n    int
	keys map[string]bool
}

// add reports whether the run is not counted yet. One without a key counts each time.
func (t *trainings) add(r *Run) bool {
	if t.keys[r.Key] {
		return false
	}
	t.n++
	if r.Key != "" {
		if t.keys == nil {
			t.keys = map[string]bool{}
		}
		t.keys[r.Key] = true
	}
	return true
}

// Complete gives the table's cells the cost of their trainings: the medians over the runs.
func Complete(t *table.Table, runs []Run) {
	type costs struct {
		trainings
		seconds, bytes, parameters []float64
	}
	by := map[cellOf]*costs{}
	add := func(to *[]float64, v *int64) {
		if v != nil && *v > 0 {
			*to = append(*to, float64(*v))
		}
	}
	for i := range runs {
		r := &runs[i]
		c := by[r.cell()]
		if c == nil {
			c = &costs{}
			by[r.cell()] = c
		}
		if !c.trainings.add(r) {
			continue
		}
		if r.Seconds != nil && *r.Seconds > 0 && finite(*r.Seconds) {
			c.seconds = append(c.seconds, *r.Seconds)
		}
		add(&c.bytes, r.PeakBytes)
		add(&c.parameters, r.TrainedParameters)
	}
	whole := func(list []float64) *int64 {
		if len(list) == 0 {
			return nil
		}
		v := int64(math.Round(stats.Percentile(list, 0.5)))
		return &v
	}
	for i := range t.Cells {
		c := &t.Cells[i]
		of := by[cellOf{c.Dataset, c.Network, c.Method, c.Shots}]
		if of == nil {
			continue
		}
		if len(of.seconds) > 0 {
			v := stats.Percentile(of.seconds, 0.5)
			c.Seconds = &v
		}
		c.PeakBytes, c.TrainedParameters = whole(of.bytes), whole(of.parameters)
	}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// names lists different names in the order in which they come.
func names(n int, of func(i int) string) []string {
	var list []string
	seen := map[string]bool{}
	for i := range n {
		if name := of(i); !seen[name] {
			seen[name] = true
			list = append(list, name)
		}
	}
	return list
}

// value is a point of a curve, NaN where there is none, or one that no training has.
func value(list []*float64, i int) float64 {
	if i >= len(list) || list[i] == nil || math.Abs(*list[i]) > 1e30 {
		return math.NaN()
	}
	return *list[i]
}

// CompareShots orders names of shots upwards, all last.
func CompareShots(a, b string) int {
	n := func(s string) int {
		if v, err := strconv.Atoi(s); err == nil {
			return v
		}
		return math.MaxInt
	}
	x, y := n(a), n(b)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// shotsOf lists the numbers of shots of runs, upwards.
func shotsOf(n int, of func(i int) string) []string {
	list := names(n, of)
	slices.SortStableFunc(list, CompareShots)
	return list
}

// middle is the median.
func middle(list []float64) float64 { return stats.Percentile(list, 0.5) }

package experiment

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

// gridNetwork is a network of the file with what was found of it.
type gridNetwork struct {
	*Network
	model   *pipeline.PretrainedModel
	bytes   int64           // of the weights
	weights string          // digest
	plans   json.RawMessage // what its adopted plans follow from
	learnt  *learnt         // nil: not known
}

// combination is a method on a network and a dataset.
type combination struct {
	dataset  *gridDataset
	network  *gridNetwork
	method   *Method
	config   pipeline.TrainConfig // without cases, seed and results
	settings map[string]any       // as Run has them
	weighing map[string]any       // those in keys
	digest   string               // of what all runs of it have in common in their keys
	work     string               // digest of what an iteration's time follows from
	predicts string               // digest of what the prediction's time follows from
}

func (c *combination) trains() bool { return c.settings["method"] != NoTraining }

// Open reads an experiment's file, checks it against datasets and checkpoints, draws the shots,
// refuses leaks, and finds the state of the runs. A mistake in the file is a *settings.UsageError
// that names key and line; a refusal is a *LeakError. Nothing is run.
func Open(ctx context.Context, path string, o Options) (*Plan, error) {
	f, err := Read(path)
	if err != nil {
		return nil, err
	}
	if err := f.complete(); err != nil {
		return nil, err
	}
	p := &Plan{File: f, Dir: o.Dir, options: o}
	if p.Dir, err = f.folder(o); err != nil {
		return nil, err
	}
	if err := ownFolder(p.Dir); err != nil {
		return nil, err
	}
	g := &grid{Plan: p, r: &reader{path: path, file: f}}
	if err := g.open(ctx); err != nil {
		return nil, err
	}
	if err := g.runs(); err != nil {
		return nil, err
	}
	if err := p.Refresh(); err != nil {
		return nil, err
	}
	return p, nil
}

// complete asks for what a grid needs.
func (f *File) complete() error {
	for _, part := range []struct {
		missing bool
		text    string
	}{
		{len(f.Datasets) == 0, "datasets: {NAME: {dataset: 502, test: imagesTs}}"},
		{len(f.Networks) == 0, "networks: {NAME: {checkpoint: FILE}}"},
		{len(f.Methods) == 0, "methods: {NAME: {method: dgst}}"},
		{len(f.Shots) == 0 && slices.ContainsFunc(f.Methods, trains), "shots: [1, 5, 10]"},
	} {
		if part.missing {
			key, _, _ := strings.Cut(part.text, ":")
			return settings.Usage("%s:1: %s: missing, expected %s", f.Path, key, part.text)
		}
	}
	return nil
}

func trains(m *Method) bool {
	return !slices.ContainsFunc(m.Settings, func(s Setting) bool {
		return s.Name == "method" && s.Values[0] == NoTraining
	})
}

// folder is the experiment's.
func (f *File) folder(o Options) (string, error) {
	if o.Dir != "" {
		return filepath.Abs(o.Dir)
	}
	if o.Results == "" {
		return "", settings.Usage("-o DIR is not given, nor --results, and nnUNet_results is not set")
	}
	return filepath.Abs(filepath.Join(o.Results, "experiments", f.Name))
}

// Names in an experiment's folder.
const (
	SettingsFile = "experiment.json"
	SplitsFile   = "splits.json"
	RunsFolder   = "runs"
)

// ownFolder refuses a folder that holds something else.
func ownFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return settings.Usage("-o %s: %w", dir, err)
	}
	for _, e := range entries {
		if slices.Contains([]string{SettingsFile, SplitsFile, RunsFolder, filehash.Name}, e.Name()) {
			return nil
		}
	}
	if len(entries) > 0 {
		return settings.Usage("-o %s: found a folder with other files (%s), expected an experiment's, or none", dir,
			entries[0].Name())
	}
	return nil
}

// grid makes the runs of a plan.
type grid struct {
	*Plan
	r        *reader // for mistakes
	reads    *reads
	datasets []*gridDataset
	networks []*gridNetwork
	leaks    []string
}

// open reads datasets and checkpoints, and checks them.
func (g *grid) open(ctx context.Context) error {
	if g.options.Raw == "" {
		return settings.Usage("--raw is not given and nnUNet_raw is not set")
	}
	for i, d := range g.File.Datasets {
		key := "datasets." + d.Name
		found, err := openDataset(d, g.options.Raw)
		if err == nil {
			err = found.readPatients()
		}
		if err == nil && g.File.SplitsFile == "" {
			err = found.choose(g.File.Seed)
		}
		if err != nil {
			g.mistake(d.line, key, err)
			continue
		}
		for _, other := range g.datasets[:min(i, len(g.datasets))] {
			if other.raw.Name == found.raw.Name {
				g.r.bad(d.line, key, "%s is dataset %s, too: give it once", other.Name, found.raw.Name)
			}
		}
		g.datasets = append(g.datasets, found)
	}
	for _, n := range g.File.Networks {
		m, err := pipeline.OpenPretrained(n.Checkpoint)
		if err != nil {
			g.r.bad(n.line, "networks."+n.Name+".checkpoint", "%w", err)
			continue
		}
		g.networks = append(g.networks, &gridNetwork{Network: n, model: m, bytes: m.WeightBytes})
	}
	if err := g.r.mistakes(); err != nil {
		return err
	}
	if err := g.draws(); err != nil {
		return err
	}
	return g.contents(ctx)
}

// mistake notes an error about an entry, at the line of its key where it knows one.
func (g *grid) mistake(line int, key string, err error) {
	var at *atLine
	if errors.As(err, &at) {
		g.r.bad(at.line, join(key, at.key), "%w", at.err)
		return
	}
	g.r.bad(line, key, "%w", err)
}

// draws makes the splits, or takes them from the file that says so.
func (g *grid) draws() error {
	f := g.File
	g.Splits = &Splits{Version: 1, Seed: uint64(f.Seed), Rule: f.Draw, Datasets: map[string]*DatasetSplit{}}
	if f.SplitsFile != "" {
		if err := g.givenSplits(); err != nil {
			g.badSplits(err)
		}
		return g.r.mistakes()
	}
	for _, d := range g.datasets {
		s := &DatasetSplit{Dataset: d.raw.Name, Test: names(d.test), Pool: names(d.pool),
			Patients: map[string]string{}, Content: map[string]string{}}
		slices.Sort(s.Test)
		slices.Sort(s.Pool)
		for _, c := range slices.Concat(s.Test, s.Pool) {
			s.Patients[c] = d.patients[c]
		}
		d.split = s
		g.Splits.Datasets[d.Name] = s
		if err := s.draw(f); err != nil {
			g.r.bad(f.lineOf("shots"), "shots", "dataset %s: %w", d.Name, err)
		}
	}
	return g.r.mistakes()
}

// badSplits notes an error about the file of draws.
func (g *grid) badSplits(err error) {
	g.r.bad(g.File.lineOf("splits"), "splits", "%s: %w", g.File.SplitsFile, err)
}

// contents reads what the cases hold, compares it with what must not be the same, and digests the
// networks' weights.
func (g *grid) contents(ctx context.Context) error {
	cache := filehash.Open(filepath.Join(g.Dir, filehash.Name))
	g.reads = &reads{cache, g.options.Output.Progress}
	defer g.saveCache(cache)
	for _, d := range g.datasets {
		var err error
		if d.testing, err = g.reads.all(ctx, d.raw.Name, d.test); err != nil {
			return err
		}
		if d.training, err = g.reads.all(ctx, d.raw.Name, d.pool); err != nil {
			return err
		}
		g.leaks = append(g.leaks, d.leaks()...)
		g.Warnings = append(g.Warnings, d.twins()...)
		if err := d.split.fill(d); err != nil {
			g.badSplits(err)
		}
	}
	for _, n := range g.networks {
		key := "networks." + n.Name
		var err error
		if n.learnt, err = g.reads.learnt(ctx, n, g.options.Raw); err != nil {
			if ctx.Err() != nil {
				return err
			}
			g.r.bad(n.line, key+".trained_on", "%w", err)
			continue
		}
		if n.learnt == nil {
			g.Warnings = append(g.Warnings, "training data of network "+n.Name+" unknown: it may hold test cases")
		}
		if n.learnt != nil && n.learnt.parts != nil {
			g.Warnings = append(g.Warnings, fmt.Sprintf("training data of network %s is known in part: %s: the rest may hold test cases",
				n.Name, strings.Join(n.learnt.parts, ", ")))
		}
		for _, d := range g.datasets {
			if n.learnt != nil {
				leaks, warnings := n.learnt.compare(n, d)
				g.leaks, g.Warnings = append(g.leaks, leaks...), append(g.Warnings, warnings...)
			}
		}
		digest, err := cache.Derived(n.model.File, "weights", func() (s filehash.Sum, err error) {
			text, err := n.model.WeightsDigest()
			if err == nil {
				_, err = hex.Decode(s[:], []byte(text))
			}
			return s, err
		})
		if err == nil {
			n.plans, err = n.model.Presentation()
		}
		if err != nil {
			g.r.bad(n.line, key+".checkpoint", "%w", err)
		}
		n.weights = digest.String()
	}
	if err := g.r.mistakes(); err != nil {
		return err
	}
	if g.leaks != nil {
		return &LeakError{g.leaks}
	}
	return nil
}

// saveCache keeps sums for the next command. Where that is not possible, it costs time alone.
func (g *grid) saveCache(c *filehash.Cache) {
	if err := os.MkdirAll(g.Dir, 0o755); err == nil {
		if err := c.Save(); err != nil {
			g.options.Output.Printf("%s: %v", g.Dir, err)
		}
	}
}

// fill adds contents, or compares them with those that a given file has.
func (s *DatasetSplit) fill(d *gridDataset) error {
	given := s.Content
	s.Content = map[string]string{}
	for _, set := range []map[string]*content{d.testing, d.training} {
		for name, c := range set {
			s.Content[name] = c.whole
			if was := given[name]; was != "" && was != c.whole {
				return fmt.Errorf("dataset %s: case %s holds other voxels than when the draws were made: "+
					"found content %.12s…, expected %.12s…", d.Name, name, c.whole, was)
			}
		}
	}
	return nil
}

// runs makes the runs of the grid.
func (g *grid) runs() error {
	var all []*combination
	for _, d := range g.datasets {
		var err error
		if d.tested, err = key(contentsOf(names(d.test), d.testing)); err != nil {
			return err
		}
		for _, n := range g.networks {
			for _, m := range g.File.Methods {
				c, err := g.combine(d, n, m)
				if err != nil {
					g.r.bad(m.line, "methods."+m.Name, "%w", err)
					continue
				}
				if err := c.identify(&g.File.Evaluate); err != nil {
					return err
				}
				all = append(all, c)
			}
		}
	}
	if err := g.r.mistakes(); err != nil {
		return err
	}
	byKey := map[string]*Run{}
	add := func(c *combination, shots string, d int, cases []string, seed uint64) error {
		r := &Run{Dataset: c.dataset.Name, Network: c.network.Name, Method: c.method.Name, Shots: shots, Draw: d,
			Seed: seed, Cases: cases, Settings: c.settings, State: Missing, base: c}
		if err := g.keys(r); err != nil {
			return err
		}
		if same, ok := byKey[r.Key]; ok {
			same.Also = append(same.Also, r.Places()[0])
			return nil
		}
		byKey[r.Key] = r
		g.Runs = append(g.Runs, r)
		return nil
	}
	for _, c := range all {
		if !c.trains() {
			if err := add(c, "0", 0, []string{}, 0); err != nil {
				return err
			}
		}
	}
	for _, shots := range g.File.Shots {
		draws := g.File.Draws
		if shots == AllShots {
			draws = 1
		}
		for d := range draws {
			for _, c := range all {
				if !c.trains() {
					continue
				}
				for _, seed := range g.File.Seeds {
					if err := add(c, shots, d, c.dataset.split.Draws[d].Shots[shots], seed); err != nil {
						return err
					}
				}
			}
		}
	}
	g.noteTwins(all)
	g.noteDraws()
	return nil
}

// noteDraws says which draws, and which numbers of shots, have the same cases, so that their runs are one.
func (g *grid) noteDraws() {
	for _, r := range g.Runs {
		draws := map[string][]string{}
		var shots []string
		for _, p := range r.Places() {
			if p.Dataset != r.Dataset || p.Network != r.Network || p.Method != r.Method {
				continue
			}
			draws[p.Shots] = append(draws[p.Shots], strconv.Itoa(p.Draw))
			if !slices.Contains(shots, p.Shots) {
				shots = append(shots, p.Shots)
			}
		}
		var notes []string
		for _, k := range shots {
			if list := draws[k]; len(list) > 1 {
				notes = append(notes, fmt.Sprintf("%s: draws %s have the same cases at %s shots: one run serves them, and they "+
					"count as one draw", r.Dataset, strings.Join(list, ", "), k))
			}
		}
		if len(shots) > 1 {
			notes = append(notes, fmt.Sprintf("%s: %s shots are the same cases: one run serves both", r.Dataset,
				strings.Join(shots, " and ")))
		}
		for _, note := range notes {
			if !slices.Contains(g.Warnings, note) {
				g.Warnings = append(g.Warnings, note)
			}
		}
	}
}

// noteTwins says which methods are one run each time.
func (g *grid) noteTwins(all []*combination) {
	for i, c := range all {
		for _, other := range all[:i] {
			if other.dataset != c.dataset || other.network != c.network {
				continue
			}
			a, err := key(other.weighing)
			b, err2 := key(c.weighing)
			if err == nil && err2 == nil && a == b {
				note := fmt.Sprintf("methods %s and %s have the same settings: one run serves both", other.method.Name,
					c.method.Name)
				if !slices.Contains(g.Warnings, note) {
					g.Warnings = append(g.Warnings, note)
				}
			}
		}
	}
}

// combine puts together the settings of a method on a network and a dataset.
func (g *grid) combine(d *gridDataset, n *gridNetwork, m *Method) (*combination, error) {
	c := &combination{dataset: d, network: n, method: m, settings: map[string]any{"method": NoTraining}}
	if err := c.fits(); err != nil {
		return nil, err
	}
	if !trains(m) {
		for _, s := range m.Settings {
			if s.Name != "method" {
				return nil, fmt.Errorf("method none trains nothing: %s is of no use", s.Name)
			}
		}
		c.weighing = c.settings
		return c, nil
	}
	t := settings.New[pipeline.TrainConfig]()
	t.Options = map[string]pipeline.OptionValue{}
	t.Dataset, t.Fold, t.Configuration = d.raw.Name, "all", n.model.Configuration
	t.Raw, t.Preprocessed = g.options.Raw, g.options.Preprocessed
	t.PlansName, t.NoPrepare, t.NoValidation = n.plansName(), true, true
	t.Trainer, t.Pretrained = n.model.Trainer, n.model.File
	for i, layer := range [][]Setting{g.File.Train, n.Settings, m.Settings} {
		if err := apply(&t, layer, i < 2); err != nil {
			return nil, err
		}
	}
	effective, err := t.Effective()
	if err != nil {
		return nil, err
	}
	if t.PatchSize == nil {
		effective["patch-size"] = n.model.PatchSize
	}
	if t.BatchSize == 0 {
		effective["batch-size"] = n.model.BatchSize
	}
	c.config, c.weighing = t, map[string]any{}
	c.settings = map[string]any{pretrained: t.Pretrained != ""}
	for name, value := range effective {
		if _, ok := reserved[name]; ok {
			continue
		}
		c.settings[name] = value
	}
	for name, value := range c.settings {
		if weighs(name) {
			c.weighing[name] = value
		}
	}
	if path := t.Augmentation; isFile(path) {
		text, err := regular.ReadFile(path)
		if err != nil {
			return nil, err
		}
		c.weighing["augmentation"] = "sha256:" + sum(string(text))
	}
	return c, nil
}

// apply sets a layer of settings. Options in shared may be those of other methods.
func apply(t *pipeline.TrainConfig, layer []Setting, shared bool) error {
	fields := map[string]*settings.Field{}
	for _, f := range settings.Fields(t) {
		fields[f.Name] = f
	}
	for _, s := range layer {
		f, ok := fields[s.Name]
		switch {
		case s.Name == pretrained:
			if use, err := strconv.ParseBool(s.Values[0]); err == nil && !use {
				t.Pretrained = ""
			}
		case s.Name == "epochs" && s.Values[0] == released:
			t.Epochs = 0
		case ok:
			for _, v := range s.Values {
				if err := f.Set(v); err != nil {
					return fmt.Errorf("%s: %w", s.Name, err)
				}
			}
		default:
			t.Options[s.Name] = pipeline.OptionValue{Text: s.Values[0], Shared: shared}
		}
	}
	return nil
}

// plansName names the plans that a dataset adopts from the network: the same for networks that
// present images in the same way, so that they share the prepared data.
func (n *gridNetwork) plansName() string {
	return "nnUNetPlansAdopted_" + sum(string(n.plans))[:8]
}

// fits refuses a network that does not take the dataset's channels or labels.
func (c *combination) fits() error {
	m, d := c.network.model, c.dataset.raw.JSON
	says := func(name string) string {
		for _, layer := range [][]Setting{c.method.Settings, c.network.Settings} {
			for _, s := range layer {
				if s.Name == name {
					return s.Values[0]
				}
			}
		}
		return ""
	}
	scratch := says(pretrained) == "false"
	if found := len(d.ChannelNames); m.Channels != found && says("channels") != "extend" && !scratch {
		return fmt.Errorf("network %s takes %d channels, dataset %s has %d (%s)", c.network.Name, m.Channels,
			c.dataset.Name, found, strings.Join(d.ChannelNames, ", "))
	}
	if m.Dataset == nil || scratch {
		return nil
	}
	there, here := m.Dataset.Labels.NumSegmentationHeads(), d.Labels.NumSegmentationHeads()
	if there == here || slices.Contains([]string{"reset", "extend"}, says("head")) && trains(c.method) {
		return nil
	}
	return fmt.Errorf("network %s segments %d classes, dataset %s has %d (background included): give head: reset or "+
		"head: extend, or another dataset", c.network.Name, there, c.dataset.Name, here)
}

// identify digests what all runs of a combination have in common in their train_key, and what their times follow
// from on a machine.
func (c *combination) identify(e *EvaluateSettings) (err error) {
	common := map[string]any{"engine": Engine, "settings": c.weighing, "plans": c.network.plans,
		"channels": c.dataset.raw.JSON.ChannelNames}
	c.dataset.addLabels(common)
	if c.settings[pretrained] != false {
		common["weights"] = c.network.weights
	}
	if c.digest, err = key(common); err != nil {
		return err
	}
	timeless := maps.Clone(c.weighing)
	maps.DeleteFunc(timeless, func(name string, _ any) bool { return slices.Contains(withoutTime, name) })
	common["settings"], common["weights"] = timeless, c.network.weights
	if c.work, err = key(common); err != nil {
		return err
	}
	c.predicts, err = key(map[string]any{"engine": Engine, "weights": c.network.weights, "plans": c.network.plans,
		"test": c.dataset.tested, "disable-tta": e.NoMirror, "step-size": e.StepSize})
	return err
}

// keys gives a run its keys: of what determines the weights, and of what determines the scores.
func (g *grid) keys(r *Run) (err error) {
	c := r.base
	weights := map[string]any{"common": c.digest}
	if c.trains() {
		weights["shots"] = contentsOf(r.Cases, c.dataset.training)
		weights["seed"] = r.Seed
	}
	if r.TrainKey, err = key(weights); err != nil {
		return err
	}
	r.Key, err = key(map[string]any{"train_key": r.TrainKey, "engine": Engine, "test": c.dataset.tested,
		"metrics": g.File.Evaluate.Metrics, "disable-tta": g.File.Evaluate.NoMirror,
		"step-size": g.File.Evaluate.StepSize})
	return err
}

// lineOf is the line of a key at the top of the file.
func (f *File) lineOf(key string) int { return f.lines[key] }

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/train"
)

// AdaptHead is what an adaptation does with the segmentation heads of the model.
type AdaptHead string

// Heads are kept as the labels' names and number tell, always, or never.
const (
	AdaptHeadAuto  AdaptHead = "auto"
	AdaptHeadKeep  AdaptHead = "keep"
	AdaptHeadReset AdaptHead = "reset"
)

// AdaptConfig is the adaptation of a model to a few annotated cases: the whole road from their files
// to a model folder, its scores and a report.
type AdaptConfig struct {
	Checkpoint string `flag:"checkpoint" path:"true" help:"model to adapt: a checkpoint, or a model folder of nnU-Net"`
	Output     string `flag:"output" short:"o" path:"true" help:"folder for the adapted model, its scores and the report"`
	AdaptCasesConfig
	Refit bool `flag:"refit" help:"after scoring train once more, on the held-out cases of --cases too, and deliver that model"`
	Method
	Head AdaptHead `flag:"head" default:"auto" values:"auto,keep,reset" help:"segmentation heads: auto (kept where the labels are the same, or as many under new names; else by name), keep, reset"`
	finetune.Refine
	Epochs        int    `flag:"epochs" range:"1.." help:"epochs (default: the method's)"`
	Iterations    int    `flag:"iterations" default:"250" range:"1.." help:"iterations per epoch"`
	ValIterations int    `flag:"val-iterations" range:"1.." help:"validation iterations per epoch (default: 50, fewer in proportion with fewer iterations)"`
	Time          string `flag:"time" help:"time that training may take, such as 30m or 2h: fewer epochs, or shorter ones, to fit it"`
	train.Optimizer
	train.BatchSettings
	NoMirror  bool `flag:"disable-tta" help:"no mirroring where cases are predicted"`
	Anonymous bool `flag:"anonymous" help:"hide names of cases and files in report.html"`
	DryRun    bool `flag:"dry-run" help:"end after the table of cases and the forecast, and write nothing"`
	Continue  bool `flag:"c" help:"continue at the stage where an adaptation stopped; settings that are not given are the ones it began with"`
	machine.Machine

	CommandLine []string // for run.json; may be nil
}

// Adapted is what Adapt made. Paths that stand for nothing are empty.
type Adapted struct {
	Model   string `json:"model"` // folder
	Adapter string `json:"adapter"`
	Delta   string `json:"delta"`
	Report  string `json:"report"`
	Cases   string `json:"cases"`
	Run     string `json:"run"`
	// Means are those of the held-out cases by label.
	Means    map[string]AdaptMeans `json:"means"`
	Notes    []string              `json:"notes"`
	Forecast *AdaptForecast        `json:"forecast"`

	// Scores of the held-out cases; nil where there are none.
	Before *scores.Scores `json:"-"`
	After  *scores.Scores `json:"-"`
	Table  []AdaptCase    `json:"-"` // the content of cases.json
}

// WriteTable prints the cases and what each is for.
func (a *Adapted) WriteTable(w io.Writer) error { return writeAdaptTable(w, a.Table) }

// AdaptMeans sets mean scores side by side.
type AdaptMeans struct {
	Name string `json:"name"`
	// Before and After are by metric: Dice, NSD_2 and recall, means over the cases where it is defined on
	// both sides; recall_all_nodes, of the nodes of all cases together, whose n counts nodes. Before is nil
	// where there is none.
	Before map[string]scores.Mean `json:"before"`
	After  map[string]scores.Mean `json:"after"`
}

// AdaptMetrics are those that an adaptation's table shows of each case.
var AdaptMetrics = []string{"Dice", "NSD_2", AdaptRecall}

// Recall of the nodes of a case, the mean of it being over cases, and of the nodes of all cases together.
const (
	AdaptRecall      = "recall"
	AdaptRecallNodes = "recall_all_nodes"
)

// stage is a part of the road that is done once.
type stage struct {
	name, title string
	run         func(context.Context) error
}

// Names of stages in the record.
const (
	stageCases   = "cases"
	stageBefore  = "before"
	stagePrepare = "prepare"
	stageTrain   = "train"
	stageAfter   = "after"
	stageRefit   = "refit"
	stageReport  = "report"
)

// adaptation is a run of Adapt.
type adaptation struct {
	AdaptConfig
	out        Output
	model      planner.Model
	expected   adaptModel
	dataset    *plans.Dataset // of the cases
	checkpoint string         // the file
	work       string         // folder of what the road needs on its way
	record     *adaptRecord
	entry      finetune.Entry // of the method
	limit      time.Duration  // of the training; 0: none
	before     *scores.Scores
	after      *scores.Scores
}

// check refuses settings that cannot be meant, and fills in defaults.
func (c *AdaptConfig) check() error {
	switch {
	case c.Output == "":
		return settings.Usage("-o is not given: a folder for the adapted model and the report")
	case c.DryRun && c.Continue:
		return settings.Usage("--dry-run and --c: a forecast is made before an adaptation begins")
	case c.Checkpoint == "" && !c.Continue:
		return settings.Usage("--checkpoint is not given: the model to adapt")
	case c.Cases == "" && !c.Continue:
		return settings.Usage("--cases is not given: a folder of annotated cases")
	}
	for _, path := range []*string{&c.Checkpoint, &c.Cases, &c.Test} {
		if *path != "" { // an adaptation may be continued elsewhere
			absolute, err := filepath.Abs(*path)
			if err != nil {
				return err
			}
			*path = absolute
		}
	}
	return nil
}

// timeLimit reads --time.
func (c *AdaptConfig) timeLimit() (time.Duration, error) {
	if c.Time == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.Time)
	if err != nil || d <= 0 {
		return 0, settings.Usage("--time: found %q, expected a time such as 30m or 2h", c.Time)
	}
	return d, nil
}

// Adapt fine-tunes a model on annotated cases and scores it, before and after, on cases that it does
// not train on. It writes into Output a model folder (model/), what is smaller where the method leaves
// it (adapter/ or delta.safetensors), the predictions and scores of the held-out cases (before/,
// after/), cases.json, run.json and report.html, and in train/ what it needs on the way. Cancelling
// ctx stops it, saved; with Continue it goes on at the stage that it was in.
func Adapt(ctx context.Context, c AdaptConfig, o Output) (*Adapted, error) {
	if err := settings.Check(&c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	a := &adaptation{AdaptConfig: c, out: o, work: filepath.Join(c.Output, "train")}
	if err := a.begin(ctx); err != nil {
		return nil, err
	}
	if c.DryRun {
		return a.dryRun(ctx)
	}
	if err := os.MkdirAll(a.work, 0o755); err != nil {
		return nil, fmt.Errorf("-o %s: %w: name a folder that can be written", c.Output, err)
	}
	lock, err := folderlock.In(a.work)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if lock.Warning != "" {
		o.Print("WARNING:", lock.Warning)
	}
	if err := a.sweep(); err != nil {
		return nil, err
	}
	if err := a.record.save(a.work); err != nil {
		return nil, err
	}
	if err := writeIndented(filepath.Join(c.Output, "cases.json"), a.record.Cases); err != nil {
		return nil, err
	}
	if err := a.runStages(ctx); err != nil {
		return nil, err
	}
	if err := a.scored(ctx); err != nil {
		return nil, err
	}
	return a.result(), nil
}

// begin opens the model, and finds the cases or reads what an adaptation that continues has found.
func (a *adaptation) begin(ctx context.Context) error {
	record, err := a.earlier()
	if err != nil {
		return err
	}
	if record != nil {
		if err := record.restore(&a.AdaptConfig); err != nil {
			return err
		}
	}
	output, err := filepath.Abs(a.Output)
	if err != nil {
		return err
	}
	a.DrawSeed, a.NoCases = a.Seed, []string{output} // it may lie in the folder of cases
	if a.MethodName == "" {
		a.MethodName = "dgst"
	}
	if a.limit, err = a.timeLimit(); err != nil {
		return err
	}
	if a.entry, _, err = a.Method.Make(); err != nil {
		return err
	}
	if a.checkpoint, err = CheckpointFile(a.Checkpoint); err != nil {
		return err
	}
	var warnings []string
	if a.model, warnings, err = openModel(a.checkpoint, "", nil); err != nil {
		return err
	}
	for _, w := range warnings {
		a.out.Print("WARNING: the model's weights are not what its plans say:", w)
	}
	if a.model.Dataset == nil {
		return fmt.Errorf("%s: the model's labels are not known: copy its dataset.json beside plans.json",
			a.checkpoint)
	}
	a.expected = adaptModel{Dataset: a.model.Dataset}
	if a.expected.Reader, err = images.ForName(a.model.Plans.ImageReaderWriter); err != nil {
		return err
	}
	if err := a.out.resolve(&a.Machine); err != nil {
		return err
	}
	if record != nil {
		a.record = record
		if record.done(stageCases) {
			a.dataset, err = plans.LoadDataset(filepath.Join(a.folder("raw"), adaptDataset, "dataset.json"))
		} else {
			a.dataset, err = a.AdaptCasesConfig.dataset(a.expected)
		}
		if err != nil {
			return err
		}
		return record.unchanged(ctx)
	}
	return a.find(ctx)
}

// find finds the cases of a new adaptation, and records what it begins with.
func (a *adaptation) find(ctx context.Context) error {
	for name, values := range a.texts() {
		for _, text := range values {
			if !utf8.ValidString(text) {
				return settings.Usage("--%s: %s", strings.TrimPrefix(name, recordOption), notUTF8(text))
			}
		}
	}
	if !utf8.ValidString(a.checkpoint) {
		return errors.New(notUTF8(a.checkpoint))
	}
	a.out.Print("finding and checking the cases")
	c := a.AdaptCasesConfig
	cases, err := findAdaptCases(ctx, c, a.expected, a.out)
	if len(cases) > 0 && (err != nil || !a.DryRun) && a.out.Log != nil {
		if tableErr := writeAdaptTable(a.out.Log, cases); tableErr != nil && err == nil {
			err = tableErr
		}
	}
	if err != nil {
		return err
	}
	if a.dataset, err = c.dataset(a.expected); err != nil {
		return err
	}
	a.record = newAdaptRecord(&a.AdaptConfig, a.out.Version, cases)
	if a.DryRun {
		return nil
	}
	return a.record.hash(ctx, a.checkpoint)
}

// stages lists what is to be done.
func (a *adaptation) stages() []stage {
	list := []stage{{stageCases, "cases and plans", a.planCases}}
	held := len(a.heldOut()) > 0
	if held && a.compared() {
		list = append(list, stage{stageBefore, "scores of the model as it is", a.scoreBefore})
	}
	list = append(list, stage{stagePrepare, "training data", a.prepareData},
		stage{stageTrain, "training", a.train})
	if held {
		list = append(list, stage{stageAfter, "scores of the adapted model", a.scoreAfter})
	}
	if a.refits() {
		list = append(list, stage{stageRefit, "training on all cases", a.refit})
	}
	return append(list, stage{stageReport, "report", a.report})
}

// runStages does the stages that are not done.
func (a *adaptation) runStages(ctx context.Context) error {
	list := a.stages()
	o := a.out
	for i, s := range list {
		if a.record.done(s.name) {
			o.Printf("%d of %d, %s: done already", i+1, len(list), s.title)
			continue
		}
		var later []string
		for _, next := range list[i+1:] {
			later = append(later, next.name)
		}
		p := newStageProgress(a, s.name, fmt.Sprintf("%d of %d, %s", i+1, len(list), s.title), later)
		o.Print(p.announcement())
		a.out = Output{Log: o.Log, Progress: p, Version: o.Version}
		started := time.Now()
		err := s.run(ctx)
		a.out = o
		if err != nil && ctx.Err() != nil {
			return &interrupted{fmt.Sprintf("stopped in stage %d of %d, %s; what is done is saved in %s: "+
				"the same command with --c goes on from there", i+1, len(list), s.title, a.Output), ctx.Err()}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
		a.record.Stages = append(a.record.Stages, stageRecord{s.name, time.Since(started).Seconds()})
		if err := a.record.save(a.work); err != nil {
			return err
		}
	}
	return nil
}

// dryRun makes the forecast in a folder that is thrown away.
func (a *adaptation) dryRun(ctx context.Context) (*Adapted, error) {
	var err error
	if a.work, err = os.MkdirTemp("", "lntorch-adapt-*"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(a.work)
	if err := a.planCases(ctx); err != nil {
		return nil, err
	}
	return &Adapted{Means: map[string]AdaptMeans{}, Notes: a.notes(), Forecast: &a.record.Plan.Forecast,
		Table: a.record.Cases}, nil
}

// heldOut lists the cases that are scored and not trained on.
func (a *adaptation) heldOut() []AdaptCase { return a.record.withRole(RoleVal, RoleTest) }

// refits says that there is something to refit on.
func (a *adaptation) refits() bool { return a.Refit && len(a.record.withRole(RoleVal)) > 0 }

// classNames are the names of what the network predicts besides the background.
func classNames(l *plans.Labels) []string {
	var names []string
	if l.HasRegions {
		for _, r := range l.Regions {
			names = append(names, r.Name)
		}
		return names
	}
	for _, v := range l.ForegroundLabels {
		for _, e := range l.Entries {
			if slices.Equal(e.Values, []int{v}) {
				names = append(names, e.Name)
			}
		}
	}
	return names
}

// heads is what training does with the model's segmentation heads, and why.
func (a *adaptation) heads() (train.Head, string) {
	switch a.Head {
	case AdaptHeadKeep:
		return train.HeadKeep, "--head keep"
	case AdaptHeadReset:
		return train.HeadReset, "--head reset"
	}
	there, here := a.model.Dataset.Labels, a.dataset.Labels
	was, is := classNames(there), classNames(here)
	list := func(names []string) string { return strings.Join(names, ", ") }
	sorted := func(names []string) []string { return slices.Sorted(slices.Values(names)) }
	switch {
	case there.HasRegions != here.HasRegions:
		return train.HeadReset, "only one of model and cases has regions"
	case slices.Equal(was, is):
		return train.HeadKeep, "the labels are the model's: " + list(is)
	case slices.Equal(sorted(was), sorted(is)):
		return train.HeadExtend, "the labels are the model's in another order: " + list(is)
	case shareNames(was, is):
		return train.HeadExtend, fmt.Sprintf("the model knows some of the labels %s: it has %s", list(is), list(was))
	case len(was) == len(is):
		return train.HeadKeep, fmt.Sprintf("as many labels, under other names: %s is the model's %s", list(is), list(was))
	}
	return train.HeadReset, fmt.Sprintf("the model has the labels %s, the cases %s", list(was), list(is))
}

// comparable says that the model as it is predicts the labels of the cases.
func (a *adaptation) comparable() bool {
	there, here := a.model.Dataset.Labels, a.dataset.Labels
	was, is := classNames(there), classNames(here)
	if there.HasRegions || here.HasRegions {
		return there.HasRegions && here.HasRegions && slices.Equal(was, is) &&
			slices.Equal(there.RegionsClassOrder, here.RegionsClassOrder)
	}
	return slices.Equal(was, is) || len(was) == len(is) && !shareNames(was, is)
}

// shareNames says that a name is in both lists. Labels that share some names and differ in others, or in their
// values, are not the same labels in the same order, however many they are.
func shareNames(a, b []string) bool {
	return slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// compared says that the model as it is has scores: it is comparable, or an earlier version thought so.
func (a *adaptation) compared() bool { return a.comparable() || a.record.done(stageBefore) }

// notes says what the results allow to conclude.
func (a *adaptation) notes() []string {
	held := len(a.heldOut())
	text := counted(held, "held-out case")
	switch {
	case held == 0:
		text = fmt.Sprintf("No case is held out: there is none to spare of %s, or --val 0 says so. So nothing here "+
			"shows whether the adapted model is better than the model was. Look at what it segments in cases that "+
			"it was not trained on, or annotate more and give them with --test.",
			counted(len(a.record.withRole(RoleTrain)), "annotated case"))
	case held < 5:
		text += ": only gross failure or gross success shows. Read each case's numbers, not the mean alone; a " +
			"change that is smaller than the spread between cases may be chance."
	default:
		text += ": the mean has a wide interval, and a small difference may be chance."
	}
	return append([]string{text}, a.remarks()...)
}

// remarks say what else is to know of the results, besides the number of cases.
func (a *adaptation) remarks() []string {
	notes := []string{}
	add := func(text string) { notes = append(notes, text) }
	held := len(a.heldOut())
	if len(a.record.withRole(RoleVal)) > 0 && a.Refit {
		add("The model that is delivered was trained on the held-out cases of --cases, too (--refit); the scores " +
			"are those of the model before that.")
	}
	if held > 0 && !a.compared() {
		add("The model as it is has no scores: it predicts other labels than the cases have.")
	}
	if a.Refit && !a.refits() {
		add("--refit changed nothing: no case of --cases is held out.")
	}
	return notes
}

// modelFolder is where the model that is delivered lies.
func (a *adaptation) modelFolder() string { return filepath.Join(a.Output, "model") }

// result tells what is in Output.
func (a *adaptation) result() *Adapted {
	there := func(name string) string {
		path := filepath.Join(a.Output, name)
		if _, err := os.Stat(path); err != nil {
			return ""
		}
		return path
	}
	r := &Adapted{Model: a.modelFolder(), Adapter: there("adapter"), Delta: there("delta.safetensors"),
		Report: there("report.html"), Cases: there("cases.json"), Run: there("run.json"), Notes: a.notes(),
		Forecast: &a.record.Plan.Forecast, Table: a.record.Cases, Before: a.before, After: a.after}
	r.Means = a.means()
	return r
}

// means collects what the table in the end shows.
func (a *adaptation) means() map[string]AdaptMeans {
	out := map[string]AdaptMeans{}
	if a.after == nil {
		return out
	}
	for _, key := range a.after.Keys() {
		m := AdaptMeans{Name: a.after.Labels[key]}
		m.Before, m.After = headline(a.before, a.after, key)
		out[key] = m
	}
	return out
}

// headline are the means of the table, before and after, over the same cases.
func headline(before, after *scores.Scores, key string) (was, is map[string]scores.Mean) {
	out := after.Unmeasured(key)
	if before != nil {
		out = append(out, before.Unmeasured(key)...)
		was = map[string]scores.Mean{AdaptRecallNodes: recallOfNodes(before, key, out)}
	}
	is = map[string]scores.Mean{AdaptRecallNodes: recallOfNodes(after, key, out)}
	for _, metric := range AdaptMetrics {
		var x, y []float64
		for _, c := range after.Cases {
			b, a := AdaptScore(before, c.Case, key, metric), AdaptScore(after, c.Case, key, metric)
			if a.Defined() && (before == nil || b.Defined()) {
				x, y = append(x, float64(b)), append(y, float64(a))
			}
		}
		is[metric] = scores.MeanOf(y)
		if before != nil {
			was[metric] = scores.MeanOf(x)
		}
	}
	return was, is
}

// recallOfNodes is the share of the nodes of all cases but some that are found by the headline rule.
func recallOfNodes(s *scores.Scores, key string, out []string) scores.Mean {
	d, _ := s.Together(key, s.Settings.Match[0], out)
	return scores.Mean{Mean: d.Recall, SD: scores.Number(math.NaN()), N: d.TP + d.FN}
}

// AdaptScore is one of AdaptMetrics of a case, recall being the share of its nodes that are found by the
// headline rule. It is NaN where it is undefined, where s has no such case, and where s is nil.
func AdaptScore(s *scores.Scores, name, key, metric string) scores.Number {
	if s == nil {
		return scores.Number(math.NaN())
	}
	for _, c := range s.Cases {
		l := c.Labels[key]
		switch {
		case c.Case != name || l == nil:
		case metric != AdaptRecall:
			return l.Metrics.Get(metric)
		case l.Detection[s.Settings.Match[0].String()] != nil:
			return l.Detection[s.Settings.Match[0].String()].Recall
		}
	}
	return scores.Number(math.NaN())
}

// errNothingToGoOn is that of --c where nothing began.
var errNothingToGoOn = errors.New("--c: no adaptation has begun there: give --checkpoint and --cases")

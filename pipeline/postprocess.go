package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
)

// LabelFiles says where the meaning of labels stands.
type LabelFiles struct {
	Plans   string `flag:"plans-json" nnunet:"plans_json" path:"true" help:"plans.json (default: in the input folder)"`
	Dataset string `flag:"dataset-json" nnunet:"dataset_json" path:"true" help:"dataset.json (default: in the input folder)"`
}

// DeterminePostprocessingConfig is the choice of post-processing for predictions with references.
type DeterminePostprocessingConfig struct {
	Input     string `flag:"input" short:"i" path:"true" help:"folder of predictions"`
	Reference string `flag:"reference" nnunet:"ref" path:"true" help:"folder of references, files of the same names"`
	LabelFiles
	Workers int  `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most)"`
	Remove  bool `flag:"remove-postprocessed" help:"do not keep the folder postprocessed"`
	Small   bool `flag:"small" help:"also try to remove components below 10, 20, 30, 50, 100 and 200 mm³"`
}

// Trial is one rule that was tried.
type Trial struct {
	Labels string  `json:"labels"` // a label, a region, or all of the foreground
	Before float64 `json:"dice_before"`
	After  float64 `json:"dice_after"`
	Kept   bool    `json:"kept"`
}

// Determined is the chosen post-processing.
type Determined struct {
	File   string       `json:"file"`             // the .json if it holds a rule that nnU-Net does not have
	Folder string       `json:"folder,omitempty"` // of post-processed predictions
	Trials []Trial      `json:"trials"`
	Small  []SmallTrial `json:"small,omitempty"` // with --small, the state before them first
	Before float64      `json:"dice_before"`     // mean over the foreground
	After  float64      `json:"dice_after"`
}

// DeterminePostprocessing tries whether removing all but the largest component, of the foreground and then of each label or
// region, raises the Dice, and writes postprocessing.pkl, postprocessing.json and the folder postprocessed as nnU-Net does.
// With c.Small it goes on to remove small components, which the .json alone holds.
// Compat: the foreground's rule is taken if its mean Dice rises and that of no label falls; a label's if its own rises,
// whatever happens to others. A summary.json that is there is trusted.
// Source: remove_connected_components.py, determine_postprocessing.
func DeterminePostprocessing(ctx context.Context, c DeterminePostprocessingConfig, o Output) (*Determined, error) {
	if c.Input == "" || c.Reference == "" {
		return nil, settings.Usage("-i and -ref must be given")
	}
	l, err := openLabelling(c.Input, c.Plans, c.Dataset)
	if err != nil {
		return nil, err
	}
	s := &search{labelling: l, c: c, o: o, workers: cmp.Or(c.Workers, casesAtATime())}
	files, err := filesEnding(c.Input, l.dataset.FileEnding)
	if err != nil {
		return nil, err
	}
	if s.cases, err = labelCases(files, c.Reference); err != nil {
		return nil, err
	}
	if references, err := filesEnding(c.Reference, l.dataset.FileEnding); err == nil && len(references) > len(files) {
		o.Printf("WARNING: %s has %d files, %d of them are predicted: determine post-processing on the whole dataset", c.Reference, len(references), len(files))
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	if c.Small {
		if err := s.trySmall(ctx); err != nil {
			return nil, err
		}
	}
	return s.save(ctx)
}

// search is the choice of post-processing under way.
type search struct {
	*labelling
	c       DeterminePostprocessingConfig
	o       Output
	workers int
	cases   *raw.Dataset

	chosen        Postprocessing
	before, after *eval.Summary
	trials        []Trial
	small         []SmallTrial
}

func (s *search) run(ctx context.Context) error {
	path := filepath.Join(s.c.Input, "summary.json")
	var err error
	if s.before, err = eval.ReadSummary(path); errors.Is(err, fs.ErrNotExist) {
		if s.before, err = s.score(ctx, s.cases, s.c.Input, s.workers, s.o, nil); err != nil {
			return err
		}
		err = s.before.Save(path)
	} else if err != nil {
		return fmt.Errorf("%w: remove the file; it is then written again", err)
	}
	if err != nil {
		return err
	}
	for _, t := range s.targets {
		if !slices.ContainsFunc(s.before.Targets, func(o eval.Target) bool { return o.Key() == t.Key() }) {
			return fmt.Errorf("%s: found no scores of %s, which dataset.json names: remove the file; it is then written again", path, t.Key())
		}
	}
	s.after = s.before

	all := KeepLargest{list: true, numpy: true}
	for _, v := range s.dataset.Labels.ForegroundLabels {
		all.Targets = append(all.Targets, eval.Label(v))
	}
	scored, err := s.try(ctx, all, "keep_largest_fg")
	if err != nil {
		return err
	}
	trial := Trial{"foreground", s.after.Foreground(eval.Dice), scored.Foreground(eval.Dice), false}
	trial.Kept = trial.After > trial.Before
	for _, t := range s.targets {
		if diceOf(scored, t) < diceOf(s.after, t) {
			trial.Kept = false
		}
	}
	s.take(trial, all, scored)
	if len(s.targets) == 1 {
		return nil
	}
	for _, t := range s.targets {
		rule := KeepLargest{Targets: []eval.Target{t}, numpy: !s.dataset.Labels.HasRegions}
		if scored, err = s.try(ctx, rule, "keep_largest_perClassOrRegion"); err != nil {
			return err
		}
		trial := Trial{t.Key(), diceOf(s.after, t), diceOf(scored, t), false}
		trial.Kept = trial.After > trial.Before
		s.take(trial, rule, scored)
	}
	return nil
}

func diceOf(s *eval.Summary, t eval.Target) float64 {
	return s.Mean(eval.Dice, slices.IndexFunc(s.Targets, func(o eval.Target) bool { return o.Key() == t.Key() }))
}

// try scores the predictions after what was chosen and one rule more.
// Compat: the summary names files of nnU-Net's temporary folder, as nnU-Net leaves it.
func (s *search) try(ctx context.Context, rule KeepLargest, temporary string) (*eval.Summary, error) {
	shown := joined(joined(joined(s.c.Input, "postprocessed"), "temp"), temporary)
	return s.score(ctx, s.cases, shown, s.workers, s.o, append(slices.Clone(s.chosen), Rule(rule)).apply)
}

func (s *search) take(t Trial, rule KeepLargest, scored *eval.Summary) {
	s.trials = append(s.trials, t)
	if t.Kept {
		s.chosen, s.after = append(s.chosen, rule), scored
	}
}

func (s *search) save(ctx context.Context) (*Determined, error) {
	in := s.c.Input
	d := &Determined{File: filepath.Join(in, "postprocessing.pkl"), Folder: filepath.Join(in, "postprocessed"), Trials: s.trials, Small: s.small,
		Before: s.before.Foreground(eval.Dice), After: s.after.Foreground(eval.Dice)}
	if s.c.Remove {
		if err := os.RemoveAll(d.Folder); err != nil {
			return nil, err
		}
		d.Folder = ""
	} else if err := s.saveFolder(ctx, d.Folder); err != nil {
		return nil, err
	}
	pkl, err := pickle.Marshal(s.chosen.pickled(), nil)
	if err == nil {
		err = atomicfile.Write(d.File, pkl)
	}
	if err != nil {
		return nil, err
	}
	described := filepath.Join(in, "postprocessing.json")
	if slices.ContainsFunc(s.small, func(t SmallTrial) bool { return t.Kept }) {
		d.File = described
	}
	functions, arguments := s.chosen.described()
	return d, plans.WriteJSON(described, plans.NewObject(
		"input_folder", means(s.before), "postprocessed", means(s.after),
		"postprocessing_fns", functions, "postprocessing_kwargs", arguments), true)
}

// saveFolder fills the folder of post-processed predictions. Where nothing was chosen, all files of the input are copied, as
// nnU-Net does.
func (s *search) saveFolder(ctx context.Context, folder string) error {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	if len(s.chosen) == 0 {
		files, err := filesEnding(s.c.Input, "")
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := errors.Join(ctx.Err(), copyFile(f, filepath.Join(folder, filepath.Base(f)))); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.postprocess(ctx, s.cases, s.chosen, folder, s.workers, s.o); err != nil {
		return err
	}
	return s.after.Save(filepath.Join(folder, "summary.json"))
}

// postprocess writes the label volumes of cases into a folder as p leaves them.
func (l *labelling) postprocess(ctx context.Context, cases *raw.Dataset, p Postprocessing, folder string, workers int, o Output) error {
	return cases.Each(ctx, workers, "post-processing", o.progress(), func(_ int, c raw.Case) error {
		m, err := l.read(c.Images[0])
		if err != nil {
			return err
		}
		if err := p.apply(m); err != nil {
			return fmt.Errorf("%s: %w", c.Images[0], err)
		}
		return m.Write(l.reader, filepath.Join(folder, c.ID))
	})
}

// means are the mean scores of a summary for postprocessing.json.
func means(s *eval.Summary) *plans.Object {
	values := func(of func(eval.Metric) float64) *plans.Object {
		o := &plans.Object{}
		for _, m := range eval.Metrics() {
			if m.NNUNet {
				o.Set(m.Name, of(m))
			}
		}
		return o
	}
	mean := &plans.Object{}
	for i, t := range s.Targets {
		mean.Set(t.Key(), values(func(m eval.Metric) float64 { return s.Mean(m, i) }))
	}
	return plans.NewObject("foreground_mean", values(s.Foreground), "mean", mean)
}

// ApplyPostprocessingConfig is post-processing that was determined, applied to a folder of predictions.
type ApplyPostprocessingConfig struct {
	Input  string `flag:"input" short:"i" path:"true" help:"folder of predictions"`
	Output string `flag:"output" short:"o" path:"true" help:"folder to write to"`
	File   string `flag:"pp-pkl-file" nnunet:"pp_pkl_file" path:"true" help:"postprocessing.pkl or postprocessing.json"`
	LabelFiles
	Workers int `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most)"`
}

// Applied is what ApplyPostprocessing did.
type Applied struct {
	Folder string   `json:"folder"`
	Files  int      `json:"files"`
	Rules  []string `json:"keep_largest"`               // labels or regions
	Small  float64  `json:"remove_small_mm3,omitempty"` // below which components were removed
}

// ApplyPostprocessing writes the post-processed label volumes. A case that fails does not cost another one its result: the
// error names each.
// Source: remove_connected_components.py, apply_postprocessing_to_folder.
func ApplyPostprocessing(ctx context.Context, c ApplyPostprocessingConfig, o Output) (*Applied, error) {
	if c.Input == "" || c.Output == "" || c.File == "" {
		return nil, settings.Usage("-i, -o and -pp_pkl_file must be given")
	}
	p, err := ReadPostprocessing(c.File)
	if err != nil {
		return nil, err
	}
	l, err := openLabelling(c.Input, c.Plans, c.Dataset)
	if err != nil {
		return nil, err
	}
	files, err := filesEnding(c.Input, l.dataset.FileEnding)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Output, 0o777); err != nil {
		return nil, err
	}
	if name, ok := strings.CutSuffix(c.File, ".pkl"); ok {
		warnOfSmall(name+".json", o)
	}
	cases := &raw.Dataset{}
	for _, f := range files {
		cases.Cases = append(cases.Cases, raw.Case{ID: filepath.Base(f), Images: []string{f}})
	}
	a := &Applied{Folder: c.Output, Files: len(files), Rules: []string{}}
	for _, rule := range p {
		switch r := rule.(type) {
		case KeepLargest:
			a.Rules = append(a.Rules, r.String())
		case RemoveSmall:
			a.Small = max(a.Small, r.Below)
		}
	}
	return a, l.postprocess(ctx, cases, p, c.Output, cmp.Or(c.Workers, casesAtATime()), o)
}

// warnOfSmall tells of a rule that a .json has and the .pkl beside it, nnU-Net's form, cannot have.
func warnOfSmall(path string, o Output) {
	p, err := ReadPostprocessing(path)
	if err != nil {
		return // there is none, or nobody asked for it
	}
	for _, rule := range p {
		if small, ok := rule.(RemoveSmall); ok {
			o.Printf("WARNING: %s also removes components below %g mm³, which a .pkl cannot say: give that file with -pp_pkl_file",
				path, small.Below)
		}
	}
}

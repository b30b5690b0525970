package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/report/page"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// pictureCases is how many held-out cases have pictures, the worst first.
const pictureCases = 20

// evaluate scores the predictions of the held-out cases in a folder of the output.
func (a *adaptation) evaluate(ctx context.Context, name string) (*scores.Scores, error) {
	c := settings.New[EvaluateConfig]()
	c.Reference, c.Prediction = a.heldOutFolder("labels"), filepath.Join(a.Output, name)
	c.Dataset = filepath.Join(a.folder("raw"), adaptDataset, "dataset.json")
	c.Plans, c.Summary = a.plansFile(), filepath.Join(a.Output, name, "summary.json")
	e, err := Evaluate(ctx, c, a.out)
	if err != nil {
		return nil, err
	}
	return e.Scores, nil
}

// scored gives the scores of stages that an earlier start has done.
func (a *adaptation) scored(ctx context.Context) error {
	if a.before == nil && a.record.done(stageBefore) {
		if err := a.evaluateBefore(ctx); err != nil {
			return err
		}
	}
	if a.after == nil && a.record.done(stageAfter) {
		return a.evaluateAfter(ctx)
	}
	return nil
}

// report writes run.json and report.html.
func (a *adaptation) report(ctx context.Context) error {
	if err := a.scored(ctx); err != nil {
		return err
	}
	run, err := a.runRecord()
	if err != nil {
		return err
	}
	if err := writeIndented(filepath.Join(a.Output, "run.json"), run); err != nil {
		return err
	}
	p := page.Adaptation{Title: "Adaptation of a lymph-node segmentation model", Checkpoint: a.checkpoint,
		Method: a.entry.Name, Before: a.before, After: a.after, Cases: a.record.Cases, Run: run,
		Notes: a.remarks(), Anonymous: a.Anonymous, // what the number of cases means it says itself
		Refit: a.refits(), CurvesOnTraining: a.delivered() == "all"}
	if err := a.curves(&p); err != nil {
		return err
	}
	if p.Pictures, err = a.pictures(ctx); err != nil {
		return err
	}
	return p.Write(filepath.Join(a.Output, "report.html"))
}

// delivered is the fold whose model is delivered.
func (a *adaptation) delivered() string {
	if a.refits() {
		return "all"
	}
	return a.record.Plan.Fold
}

// runRecord is run.json: all that one would need to do the same again, and how it went.
func (a *adaptation) runRecord() (map[string]any, error) {
	version, err := torch.Version()
	if err != nil {
		return nil, err
	}
	capability, err := torch.CPUCapability()
	if err != nil {
		return nil, err
	}
	model := filepath.Join(a.modelFolder(), "fold_0", finalCheckpoint)
	sum, err := (*filehash.Cache)(nil).SHA256(model)
	if err != nil {
		return nil, err
	}
	seconds, roles := map[string]float64{}, map[string]int{}
	for _, s := range a.record.Stages {
		seconds[s.Stage] = s.Seconds
	}
	for _, c := range a.record.Cases {
		if c.Role != "" {
			roles[c.Role]++
		}
	}
	all := settings.Record(&a.AdaptConfig)
	all["roi"], all["labels_map"] = a.ROIs, a.LabelsMap
	options := map[string]string{}
	for name, v := range a.Options {
		options[name] = v.Text
	}
	b, err := os.ReadFile(filepath.Join(a.resultFolder(a.delivered()), "run.json"))
	if err != nil {
		return nil, err
	}
	var training map[string]any
	if err := json.Unmarshal(b, &training); err != nil {
		return nil, err
	}
	return map[string]any{
		"command": "adapt", "command_line": a.CommandLine, "started": a.record.Started.Format(time.RFC3339),
		"written": time.Now().Format(time.RFC3339), "seconds": seconds,
		"versions": map[string]string{"lntorch": a.out.Version, "libtorch": version, "go": runtime.Version(),
			"cpu_capability": capability},
		"checkpoint": a.checkpoint, "sha256": a.record.SHA256, "voxels_sha256": a.record.Voxels, "model_sha256": sum.String(),
		"settings": all, "options": options, "plan": a.record.Plan, "cases": roles, "notes": a.notes(),
		"training": training,
	}, nil
}

// curves reads what the training logged from the delivered fold's checkpoint.
func (a *adaptation) curves(p *page.Adaptation) error {
	f, err := checkpoint.Open(filepath.Join(a.resultFolder(a.delivered()), finalCheckpoint))
	if err != nil {
		return err
	}
	defer f.Close()
	return torch.With(func(s *torch.Scope) error {
		t, err := f.Training(s)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		wide := func(list []float32) (out []float64) {
			for _, v := range list {
				out = append(out, float64(v))
			}
			return out
		}
		p.Loss, p.ValLoss = wide(t.Logging.TrainLosses), wide(t.Logging.ValLosses)
		p.PseudoDice = t.Logging.MeanFgDice
		return nil
	})
}

// pictures draws the held-out cases, the worst first.
func (a *adaptation) pictures(ctx context.Context) ([]page.Picture, error) {
	if a.after == nil {
		return nil, nil
	}
	worst := slices.Clone(a.after.Cases)
	slices.SortStableFunc(worst, func(x, y *scores.Case) int {
		return compareNumbers(caseDice(x), caseDice(y))
	})
	worst = worst[:min(len(worst), pictureCases)]
	var list []page.Picture
	progress := a.out.progress()
	progress.Begin("pictures", len(worst))
	defer progress.End()
	for i, c := range worst {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := a.heldOutCase(c)
		if err != nil {
			return nil, fmt.Errorf("case %s: %w", c.Case, err)
		}
		own, err := h.Pictures()
		if err != nil {
			return nil, err
		}
		list = append(list, own...)
		progress.Done(i+1, c.Case)
	}
	return list, nil
}

// caseDice is the mean Dice of a case's labels, NaN where none is defined.
func caseDice(c *scores.Case) float64 {
	sum, n := 0.0, 0
	for _, l := range c.Labels {
		if d := l.Metrics.Get("Dice"); d.Defined() {
			sum += float64(d)
			n++
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return sum / float64(n)
}

// compareNumbers puts NaN last.
func compareNumbers(x, y float64) int {
	switch {
	case x < y, !math.IsNaN(x) && math.IsNaN(y):
		return -1
	case y < x, !math.IsNaN(y) && math.IsNaN(x):
		return 1
	}
	return 0
}

// heldOutCase reads the image, the truth and the predictions of a held-out case.
func (a *adaptation) heldOutCase(c *scores.Case) (*page.HeldOut, error) {
	reader := a.expected.Reader
	im, _, err := reader.Read(a.channelFiles(AdaptCase{Case: c.Case}, a.heldOutFolder("images")))
	if err != nil {
		return nil, err
	}
	h := &page.HeldOut{Case: c.Case, Shape: [3]int{im.Shape[1], im.Shape[2], im.Shape[3]},
		Connectivity: components.Connectivity(a.after.Settings.Connectivity), Ignore: a.dataset.Labels.IgnoreLabel}
	values := volume.Cast[float32](im.Pixels)
	h.Image = values[:h.Shape[0]*h.Shape[1]*h.Shape[2]] // the first channel's
	if h.Truth, err = labelmap.Read(reader, c.ReferenceFile); err != nil {
		return nil, err
	}
	h.Geometry = h.Truth.Geometry
	predicted := func(s *scores.Scores) (*page.Predicted, error) {
		if s == nil {
			return nil, nil
		}
		for _, one := range s.Cases {
			if one.Case == c.Case {
				labels, err := labelmap.Read(reader, one.PredictionFile)
				return &page.Predicted{Labels: labels, Scores: one}, err
			}
		}
		return nil, nil
	}
	if h.Before, err = predicted(a.before); err != nil {
		return nil, err
	}
	h.After, err = predicted(a.after)
	return h, err
}

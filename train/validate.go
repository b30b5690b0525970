package train

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/volume"
)

// GridNote stands under "grid" in summary.json: scores are those of the preprocessed images, not of the original ones.
const GridNote = "preprocessed: predictions and references were compared at the plans' spacing, before resampling to the original images"

// validate predicts every validation case with a sliding window and scores it: <case>.npz (seg, uint8, z y x) and
// summary.json in the validation folder.
// Differs: nnU-Net resamples to the original grid and writes images; here the grid is the preprocessed one.
func (t *trainer) validate(ctx context.Context) (*Result, error) {
	c := &t.cfg
	result := &Result{Folder: t.fold}
	if !c.DisableCheckpointing && !c.ValidateOnly {
		result.Checkpoint = filepath.Join(t.fold, fileFinal)
	}
	if c.ValidateBest && !c.ValidateOnly {
		if err := t.loadBest(); err != nil {
			return nil, err
		}
	}
	out := c.ValidationFolder
	if out == "" {
		out = filepath.Join(t.fold, "validation")
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if c.ValidateOnly {
		if err := t.acquire(out); err != nil {
			return nil, err
		}
		for _, line := range t.notes {
			t.print(line)
		}
		if t.split.Warning != "" {
			t.print(t.split.Warning)
		}
	}
	if err := atomicfile.Sweep(out); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	predictor, err := t.predictor()
	if err != nil {
		return nil, err
	}
	targets := evalTargets(t.dataset.Labels)
	keys := slices.Sorted(slices.Values(t.split.Val))
	var cases []eval.Case
	for i, key := range keys {
		t.print("predicting", key)
		counts, err := t.validateCase(ctx, predictor, key, out, targets, fmt.Sprintf("%s (%d of %d)", key, i+1, len(keys)))
		if errors.Is(err, context.Canceled) {
			again := "run it again"
			if result.Checkpoint != "" {
				again = "training is complete, in " + result.Checkpoint + ": validate it with --val"
			}
			return nil, fmt.Errorf("train: validation stopped at case %s (%d of %d); %s: %w", key, i+1, len(keys), again, err)
		}
		if err != nil {
			return nil, fmt.Errorf("train: validation: case %s: %w", key, err)
		}
		cases = append(cases, eval.Case{PredictionFile: filepath.Join(out, key+".npz"),
			ReferenceFile: filepath.Join(t.data.Folder(), key+".npz"), Counts: counts})
	}
	summary, err := eval.Summarise(targets, cases)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	doc, err := plans.DecodeJSON(summary.Encode())
	if err != nil {
		return nil, err
	}
	doc.(*plans.Object).Set("grid", GridNote)
	b, err := plans.EncodeJSON(doc, 4, true)
	if err != nil {
		return nil, err
	}
	result.Validation = filepath.Join(out, "summary.json")
	if err := atomicfile.Write(result.Validation, b); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	result.Dice = summary.Foreground(eval.Dice)
	t.print("Validation complete")
	t.print("Mean Validation Dice: ", result.Dice, "(on the preprocessed grid)")
	if !c.ValidateOnly {
		return result, t.writeRun(statusValidated)
	}
	return result, nil
}

func (t *trainer) loadBest() error {
	return t.loadNetwork(filepath.Join(t.fold, fileBest), checkpoint.LoadOptions{})
}

// print logs a line; without a log file, which a mere validation has not, it goes where log lines are echoed.
func (t *trainer) print(args ...any) {
	if t.file != nil {
		t.file.Print(args...)
		return
	}
	fmt.Fprintln(t.cfg.Echo, append([]any{time.Now().Format("2006-01-02 15:04:05:")}, args...)...)
}

func (t *trainer) predictor() (*infer.Predictor, error) {
	c := &t.cfg
	ic := infer.DefaultConfig(c.Device)
	if !c.NoMirroring {
		ic.Mirror = t.mirrorAxes()
	}
	if c.IsReference() {
		ic.Numerics = infer.Reference
	}
	ic.Autocast = c.DType()
	return infer.New(t.Net, c.PatchSize, t.dataset.Labels.NumSegmentationHeads(), ic)
}

func (t *trainer) validateCase(ctx context.Context, p *infer.Predictor, key, out string, targets []eval.Target, task string) ([]eval.Counts, error) {
	cs, err := t.data.Load(key)
	if err != nil {
		return nil, err
	}
	labels, err := t.segment(ctx, p, cs, task)
	if err != nil {
		return nil, err
	}
	shape := cs.Seg.Spatial()
	if err := writeSegmentation(filepath.Join(out, key+".npz"), labels, shape[:]); err != nil {
		return nil, err
	}
	ref := eval.Map[int16]{Data: cs.Seg.Data[:len(labels)], Shape: shape[:]}
	return eval.Compare(ref, eval.Map[uint8]{Data: labels, Shape: shape[:]}, targets, t.dataset.Labels.IgnoreLabel)
}

func (t *trainer) segment(ctx context.Context, p *infer.Predictor, cs *dataset.Case, task string) (labels []uint8, err error) {
	bar := t.cfg.Progress
	began := false
	defer func() {
		if began {
			bar.End()
		}
	}()
	shape := cs.Data.Spatial()
	labels = make([]uint8, shape[0]*shape[1]*shape[2])
	err = p.Slabs(ctx, cs.Data.Data, cs.Data.Shape, func(done, total int) {
		if !began {
			bar.Begin(task, total)
			began = true
		}
		bar.Done(done, "")
	}, func(slab volume.Slab) error { return infer.SlabLabels(labels, shape, slab, t.dataset.Labels) })
	return labels, err
}

// evalTargets are what nnU-Net scores: foreground labels, or regions.
func evalTargets(l *plans.Labels) []eval.Target {
	var targets []eval.Target
	if l.HasRegions {
		for _, r := range l.Regions {
			if r.Region {
				targets = append(targets, eval.Region(r.Values...))
			} else {
				targets = append(targets, eval.Label(r.Values[0]))
			}
		}
		return targets
	}
	for _, label := range l.ForegroundLabels {
		targets = append(targets, eval.Label(label))
	}
	return targets
}

func writeSegmentation(path string, labels []uint8, shape []int) error {
	a, err := npz.New(labels, shape...)
	if err != nil {
		return err
	}
	w, err := npz.Create(path, true)
	if err != nil {
		return err
	}
	return errors.Join(w.Add("seg", a), w.Close())
}

package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/segment"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/dist"
	"github.com/lntorch/lntorch/volume"
)

// GridNote stands under "grid" in the summary.json of a dataset without gt_segmentations.
const GridNote = "preprocessed: there are no gt_segmentations, so predictions and references were " +
	"compared at the plans' spacing and not on the grid of the images"

// validation is the final validation: every validation case is predicted with a sliding window and
// scored. While one case is exported, the network runs the next one.
//
// With gt_segmentations the files and scores are nnU-Net's: <case><ending> on the grid of the image,
// with Config.Npz <case>.npz and <case>.pkl, summary.json, and for the first stage of a cascade
// predicted_next_stage. Without them the preprocessed grid serves: <case>.npz (seg, uint8, z y x).
// Source: nnU-Net 2.5.1, nnUNetTrainer.perform_actual_validation.
type validation struct {
	*trainer
	out       string // folder
	predictor *infer.Predictor
	targets   []eval.Target
	truth     string // folder of the references; empty: the preprocessed grid serves
	reader    images.Reader
	next      []nextStage
}

// nextStage is a configuration that takes the labels of this one as input.
type nextStage struct {
	name, folder string           // folder of the labels
	data         *dataset.Dataset // nil if it is not preprocessed
}

// validate runs the final validation. Where it is stopped, or another rank is lost or fails, the error says how to do it again.
func (t *trainer) validate(ctx context.Context) (*Result, error) {
	c := &t.cfg
	t.peers.beyondLimit(ctx)
	result := &Result{Folder: t.fold}
	if !c.DisableCheckpointing && !c.ValidateOnly {
		result.Checkpoint = filepath.Join(t.fold, fileFinal)
	}
	err := t.runValidation(ctx, result)
	if err == nil {
		if !t.peers.first() {
			return nil, nil
		}
		return result, nil
	}
	again := "run it again"
	if result.Checkpoint != "" {
		again = "training is complete, in " + result.Checkpoint + ": validate it with --val"
	}
	stopped := errors.Is(err, context.Canceled)
	cause := lost(err) // while it waited
	var elsewhere *dist.Failed
	if errors.As(err, &elsewhere) {
		cause = elsewhere
	}
	if stopped { // while it predicted
		cause = context.Cause(ctx)
	}
	switch {
	case stopped && (cause == nil || errors.Is(cause, context.Canceled)):
		return nil, fmt.Errorf("train: validation stopped %w; %s", err, again)
	case cause == nil:
		return nil, err
	}
	return nil, fmt.Errorf("train: validation: %w; %s", cause, again)
}

// runValidation predicts and scores the cases, and fills in result on rank 0.
func (t *trainer) runValidation(ctx context.Context, result *Result) error {
	c := &t.cfg
	if c.ValidateBest && !c.ValidateOnly {
		if err := t.loadBest(); err != nil {
			return err
		}
	}
	v := &validation{trainer: t, out: c.ValidationFolder, targets: labelmap.Targets(t.data.Dataset.Labels)}
	if v.out == "" {
		v.out = filepath.Join(t.fold, "validation")
	}
	if t.peers.first() {
		if err := v.prepareFolder(); err != nil {
			return err
		}
	}
	if err := t.peers.meet(); err != nil {
		return fmt.Errorf("train: validation: %w", err)
	}
	keys := v.keys()
	mine, err := v.part(len(keys))
	if err != nil {
		return fmt.Errorf("train: validation: %w", err)
	}
	if t.peers.first() || len(mine) > 0 {
		if err := v.open(); err != nil {
			return err
		}
	}
	cases, err := v.run(ctx, keys, mine)
	if errors.Is(err, context.Canceled) {
		return err
	}
	if err != nil {
		return fmt.Errorf("train: validation: %w", err)
	}
	if !t.peers.first() {
		return nil
	}
	summary, err := eval.Summarise(v.targets, cases)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	result.Validation = filepath.Join(v.out, "summary.json")
	result.Dice = summary.Foreground(eval.Dice)
	result.Preprocessed = v.truth == ""
	if err := v.save(summary, result.Validation); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	t.print("Validation complete")
	if result.Preprocessed {
		t.print("Mean Validation Dice: ", result.Dice, "(on the preprocessed grid)")
	} else {
		t.print("Mean Validation Dice: ", result.Dice)
	}
	if !c.ValidateOnly {
		return t.writeRun(statusValidated)
	}
	return nil
}

// prepareFolder makes the folder of the predictions, and says what is to be known of the weights.
func (v *validation) prepareFolder() error {
	if err := os.MkdirAll(v.out, 0o755); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if v.cfg.ValidateOnly {
		if err := v.acquire(v.out); err != nil {
			return err
		}
		for _, line := range v.notes {
			v.print(line)
		}
		if v.data.Split.Warning != "" {
			v.print(v.data.Split.Warning)
		}
	}
	if err := atomicfile.Sweep(v.out); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// open makes the predictor and finds the references.
func (v *validation) open() error {
	c := &v.cfg
	var err error
	if v.predictor, err = v.trainer.predictor(); err != nil {
		return err
	}
	truth := filepath.Join(c.Preprocessed, "gt_segmentations")
	if _, err := os.Stat(truth); errors.Is(err, fs.ErrNotExist) {
		v.print(fmt.Sprintf("WARNING: %s is not there: validation is scored on the preprocessed grid; "+
			"preprocess the dataset with lntorch or nnU-Net to have the references", truth))
		if c.Npz {
			return fmt.Errorf("train: --npz needs %s, which is not there: preprocess the dataset again", truth)
		}
		return nil
	}
	v.truth = truth
	if v.reader, err = images.ForName(v.data.Plans.ImageReaderWriter); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if c.ValidationFolder == "" { // the model's own
		return v.findNextStages()
	}
	return nil
}

// scored is what a rank scored: in the order of all cases, empty where another did.
type scored struct {
	Cases  []eval.Case
	Failed []string
}

// part lists which of n cases are this rank's. Ranks that do not see the folder have none.
func (v *validation) part(n int) ([]int, error) {
	sees, err := v.peers.sight(v.out)
	if err != nil {
		return nil, err
	}
	return dealt(sees, v.peers.rank(), n), nil
}

// dealt deals n cases out to the ranks that take part: the r-th of them has case r, r + their number, and so
// on.
func dealt(takesPart []bool, rank, n int) []int {
	if !takesPart[rank] {
		return nil
	}
	first, step := 0, 0
	for i, takes := range takesPart {
		if takes {
			step++
			if i < rank {
				first++
			}
		}
	}
	var mine []int
	for i := first; i < n; i += step {
		mine = append(mine, i)
	}
	return mine
}

// findNextStages makes the folders for the labels that the next stages of a cascade take.
func (v *validation) findNextStages() error {
	for _, name := range v.data.Conf.NextStages {
		conf, err := v.data.Plans.Configuration(name)
		if err != nil {
			return fmt.Errorf("train: next stage of %s: %w", v.data.Conf.Name, err)
		}
		n := nextStage{name: name, folder: filepath.Join(v.trainer.out, "predicted_next_stage", name)}
		// Without data there are no shapes to resample to: each case says so.
		n.data, _ = dataset.Open(filepath.Join(v.cfg.Preprocessed, conf.DataIdentifier))
		if err := os.MkdirAll(n.folder, 0o755); err != nil {
			return fmt.Errorf("train: %w", err)
		}
		v.next = append(v.next, n)
	}
	return nil
}

// keys lists the cases in the order of their files' names, all of whose endings begin with a dot.
func (v *validation) keys() []string {
	keys := slices.Clone(v.data.Split.Val)
	slices.SortFunc(keys, func(a, b string) int { return cmp.Compare(a+".", b+".") })
	return keys
}

// run predicts and scores all cases, each on one of the ranks, this one those that are mine. A case that
// fails does not end the others; a rank that is stopped or lost does.
func (v *validation) run(ctx context.Context, keys []string, mine []int) ([]eval.Case, error) {
	own := scored{Cases: make([]eval.Case, len(keys)), Failed: make([]string, len(keys))}
	if err := v.score(ctx, keys, mine, &own); err != nil {
		return nil, err // which the others hear of when this rank leaves
	}
	all, err := gather(v.peers, own)
	if err != nil {
		return nil, err
	}
	cases, failed := make([]eval.Case, len(keys)), make([]error, len(keys))
	for _, s := range all {
		for i := range keys {
			if s.Cases[i].ReferenceFile != "" {
				cases[i] = s.Cases[i]
			}
			if s.Failed[i] != "" {
				failed[i] = errors.New(s.Failed[i])
			}
		}
	}
	return cases, errors.Join(failed...)
}

// score predicts and scores the cases that are mine. Its error is that the user stopped it.
func (v *validation) score(ctx context.Context, keys []string, mine []int, own *scored) error {
	ending := v.ending()
	fail := func(i int, err error) { own.Failed[i] = fmt.Sprintf("case %s: %v", keys[i], err) }
	var wait sync.WaitGroup
	defer wait.Wait()
	exporting := make(chan struct{}, 1)
	for at, i := range mine {
		key := keys[i]
		v.print("predicting", key)
		loaded, err := v.data.Cases.Load(key)
		if at+1 < len(mine) {
			wait.Go(func() { v.data.Cases.Load(keys[mine[at+1]]) }) // an error comes back when it is its turn
		}
		var e *exportedCase
		if err == nil {
			e, err = v.predict(ctx, loaded, fmt.Sprintf("%s (%d of %d)", key, i+1, len(keys)))
		}
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("at case %s (%d of %d): %w", key, i+1, len(keys), ctx.Err())
			}
			fail(i, err)
			continue
		}
		exporting <- struct{}{}
		wait.Go(func() {
			defer func() { <-exporting }()
			counts, err := e.export(ctx)
			if err != nil {
				fail(i, err)
			}
			own.Cases[i] = eval.Case{PredictionFile: filepath.Join(v.out, key+ending),
				ReferenceFile: e.reference(), Counts: counts}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("while the last case was written: %w", ctx.Err())
	}
	return nil
}

// ending is that of the predictions' files.
func (v *validation) ending() string {
	if v.truth == "" {
		return ".npz"
	}
	return v.data.Dataset.FileEnding
}

// exportedCase is a case that the network has seen.
type exportedCase struct {
	v        *validation
	c        *dataset.Case
	labels   []uint8 // on the preprocessed grid, if that serves
	inverse  *preprocess.Inverse
	files    segment.Files
	next     []*preprocess.Inverse // of v.next; nil where the case is not preprocessed
	inverses []*preprocess.Inverse // all of them
}

// reference is the file that the labels are compared with.
func (e *exportedCase) reference() string {
	if e.v.truth == "" {
		return filepath.Join(e.v.data.Cases.Folder(), e.c.Key+".npz")
	}
	return filepath.Join(e.v.truth, e.c.Key+e.v.data.Dataset.FileEnding)
}

func (e *exportedCase) close() {
	for _, v := range e.inverses {
		v.Close()
	}
}

// predict runs the network over a case.
func (v *validation) predict(ctx context.Context, c *dataset.Case, task string) (*exportedCase, error) {
	e := &exportedCase{v: v, c: c}
	bar := v.cfg.Progress
	began := false
	progress := func(done, total int) {
		if !began {
			bar.Begin(task, total)
			began = true
		}
		bar.Done(done, "")
	}
	var err error
	if v.truth == "" {
		shape := c.Data.Spatial()
		e.labels = make([]uint8, shape[0]*shape[1]*shape[2])
		err = v.predictor.Slabs(ctx, c.Data.Data, c.Data.Shape, progress, func(slab volume.Slab) error {
			return infer.SlabLabels(e.labels, shape, slab, v.data.Dataset.Labels)
		})
	} else if err = e.prepare(); err == nil {
		_, err = segment.Run(ctx, v.predictor, c.Data, e.inverses, progress)
	}
	if began {
		bar.End()
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// prepare begins the ways back to the grid of the image and to those of the next stages.
func (e *exportedCase) prepare() error {
	v := e.v
	properties, path, err := v.data.Cases.Properties(e.c.Key)
	if err != nil {
		return err
	}
	grid, err := preprocess.NewGrid(v.data.Plans, v.data.Conf, properties, e.c.Data.Spatial())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	e.files = segment.Files{Stem: filepath.Join(v.out, e.c.Key), Reader: v.reader,
		Properties: properties, Threads: v.cfg.Threads}
	e.files.Labels = e.files.Stem + v.data.Dataset.FileEnding
	if e.files.Geometry, err = images.FromDict(properties); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	how := preprocess.InverseConfig{Labels: v.data.Dataset.Labels, Reference: v.cfg.IsReference(),
		Shorten: !v.cfg.IsReference(), Threads: v.cfg.Threads}
	begin := func(g preprocess.Grid) (*preprocess.Inverse, error) {
		inverse, err := preprocess.NewInverse(g, how)
		if err == nil {
			e.inverses = append(e.inverses, inverse)
		}
		return inverse, err
	}
	for _, n := range v.next {
		shape, err := n.shape(e.c.Key)
		if errors.Is(err, fs.ErrNotExist) {
			v.print(fmt.Sprintf("Predicting next stage %s failed for case %s because the preprocessed file is missing! "+
				"Run the preprocessing for this configuration first!", n.name, e.c.Key))
			e.next = append(e.next, nil)
			continue
		}
		if err != nil {
			return err
		}
		inverse, err := begin(grid.Resampled(shape))
		if err != nil {
			return fmt.Errorf("next stage %s: %w", n.name, err)
		}
		e.next = append(e.next, inverse)
	}
	if v.cfg.Npz {
		how.Probabilities = v.out
	}
	e.inverse, err = begin(grid)
	return err
}

// shape is the size of a case as the next stage sees it.
func (n *nextStage) shape(key string) ([3]int, error) {
	if n.data == nil {
		return [3]int{}, fs.ErrNotExist
	}
	shape, err := n.data.Shape(key)
	return [3]int(shape[1:]), err
}

// export writes the files of a case and compares the labels with the reference.
func (e *exportedCase) export(ctx context.Context) ([]eval.Counts, error) {
	defer e.close()
	v := e.v
	ignore := v.data.Dataset.Labels.IgnoreLabel
	if v.truth == "" {
		shape := e.c.Seg.Spatial()
		if err := segment.WriteSeg(filepath.Join(v.out, e.c.Key+".npz"), e.labels, shape); err != nil {
			return nil, err
		}
		ref := eval.Map[int16]{Data: e.c.Seg.Data[:len(e.labels)], Shape: shape[:]}
		return eval.Compare(ref, eval.Map[uint8]{Data: e.labels, Shape: shape[:]}, v.targets, ignore)
	}
	for i, inverse := range e.next {
		if inverse == nil {
			continue
		}
		labels, err := inverse.Finish()
		if err == nil {
			err = segment.WriteSeg(filepath.Join(v.next[i].folder, e.c.Key+".npz"),
				volume.Cast[uint8](labels.Pixels), [3]int(labels.Shape[1:]))
		}
		if err != nil {
			return nil, err
		}
	}
	labels, err := e.inverse.Finish()
	if err != nil {
		return nil, err
	}
	if err := e.files.Write(ctx, e.inverse, labels); err != nil {
		return nil, err
	}
	ref, err := labelmap.Read(v.reader, e.reference())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there, expected the labels of the case: preprocess the dataset again", e.reference())
	}
	if err != nil {
		return nil, err
	}
	pred, err := labelmap.New(labels)
	if err != nil {
		return nil, err
	}
	counts, err := labelmap.Compare(ref, pred, v.targets, ignore)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: was the case preprocessed from another image?", e.reference(), err)
	}
	return counts, nil
}

// save writes summary.json: as nnU-Net does, or with a note on the grid.
func (v *validation) save(summary *eval.Summary, path string) error {
	if v.truth != "" {
		return summary.Save(path)
	}
	doc, err := plans.DecodeJSON(summary.Encode())
	if err != nil {
		return err
	}
	doc.(*plans.Object).Set("grid", GridNote)
	return plans.WriteJSON(path, doc.(*plans.Object), true)
}

func (t *trainer) loadBest() error {
	path, remove, err := t.peers.spread(filepath.Join(t.fold, fileBest))
	defer remove()
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return t.loadNetwork(path, checkpoint.LoadOptions{})
}

// print logs a line. A validation alone has no log file; the line goes where log lines are echoed.
func (t *trainer) print(args ...any) {
	if t.file != nil {
		t.file.Print(args...)
		return
	}
	stamp := time.Now().Format("2006-01-02 15:04:05:")
	fmt.Fprintln(t.cfg.Echo, append([]any{stamp}, args...)...)
}

func (t *trainer) predictor() (*infer.Predictor, error) {
	c := &t.cfg
	ic := infer.DefaultConfig(c.Device)
	if !c.NoMirroring {
		ic.Mirror = t.list.MirrorAxes
	}
	if c.IsReference() {
		ic.Numerics = infer.Reference
	}
	ic.Autocast = c.DType()
	ic.Notice = func(text string) { t.print("WARNING:", text) }
	if memory, err := system.ReadMemory(); err == nil && c.Device.Type == torch.DeviceCPU {
		ic.MaxBytes = system.Budget(memory.Available)
	}
	return infer.New(t.Net, c.PatchSize, t.data.Dataset.Labels.NumSegmentationHeads(), ic)
}

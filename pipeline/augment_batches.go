package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/train"
	"github.com/lntorch/lntorch/volume"
)

// AugmentBatchesConfig writes batches of a training.
type AugmentBatchesConfig struct {
	Dataset       string // number or name
	Configuration string
	Fold          string // number or "all"

	RawFolder
	PreprocessedFolder
	Trainer   string `flag:"trainer" bare:"true" nnunet:"tr" default:"nnUNetTrainer" help:"trainer class, whose name may choose list and axes"`
	PlansName string `flag:"plans" bare:"true" nnunet:"p" default:"nnUNetPlans" help:"name of the plans file, without .json"`
	train.BatchSettings
	N      int    `flag:"number" short:"n" default:"1" range:"1..1000000" help:"batches to write"`
	Start  int    `flag:"start" range:"0..1000000000000" help:"iteration of the first batch, counted from 0 over the whole training"`
	Crops  bool   `flag:"crops" help:"also write the patches before any transform, and the noise"`
	Output string `flag:"output" short:"o" path:"true" help:"folder to write"`
	Force  bool   `flag:"force" help:"remove the batches that the folder has"`
}

// batchFiles are the names of files of batches.
var batchFiles = regexp.MustCompile(`^batch_[0-9]{2,}(\.json|_[a-z0-9_]+\.npy)$`)

// AugmentBatches writes the batches that a training with the same settings sees, as files that Trace
// reads. Each file appears complete or not at all, the image of a batch as its last; what is written
// when ctx is cancelled stays. Equal settings give equal bytes.
func AugmentBatches(ctx context.Context, c AugmentBatchesConfig, o Output) error {
	if err := settings.Check(&c); err != nil {
		return err
	}
	if c.Output == "" {
		return settings.Usage("-o is not given: expected a folder to write")
	}
	folder, err := preprocessedDataset(c.Dataset, c.RawFolder, c.PreprocessedFolder, "", false)
	if err != nil {
		return err
	}
	data, err := train.OpenData(folder, c.PlansName, c.Configuration, c.Fold)
	if err != nil {
		return err
	}
	list, err := BatchList(data, &c.BatchSettings, c.Trainer, o)
	if err != nil {
		return err
	}
	old, err := c.existing()
	if err != nil {
		return err
	}
	l, err := loader.New(data.Batches(&c.BatchSettings, list, c.Start))
	if err != nil {
		return err
	}
	defer l.Close()
	if err := os.MkdirAll(c.Output, 0o755); err != nil {
		return err
	}
	lock, err := folderlock.In(c.Output)
	if err != nil {
		return err
	}
	defer lock.Release()
	if lock.Warning != "" {
		o.Printf("WARNING: %s", lock.Warning)
	}
	if err := atomicfile.Sweep(c.Output); err != nil { // of a run that was killed
		return err
	}
	w := batchWriter{c: &c, data: data, list: list}
	progress := o.progress()
	progress.Begin("batches", c.N)
	defer progress.End()
	for i := range c.N {
		b, err := l.Next(ctx)
		if err != nil {
			if errors.Is(err, context.Canceled) {
				err = fmt.Errorf("stopped by the user; %s holds %d of %d batches: %w", c.Output, i, c.N, err)
			}
			return err
		}
		for _, path := range old { // a batch could be made: nothing is removed for a mistake
			if err := os.Remove(path); err != nil {
				return err
			}
		}
		old = nil
		if err := w.write(i, b); err != nil {
			return err
		}
		b.Release()
		progress.Done(i+1, fmt.Sprintf("iteration %d", c.Start+i))
	}
	return nil
}

// BatchList fills in the sizes that are the plans', and gives the list in force.
func BatchList(data *train.Data, c *train.BatchSettings, trainer string, o Output) (l augment.List, err error) {
	a, err := models.ForTrainer(trainer, data.Conf)
	if err != nil {
		return l, err
	}
	_, l, warning, err := data.List(c, trainer, a.DeepSupervisionScales())
	if warning != "" {
		o.Printf("WARNING: %s", warning)
	}
	if err == nil {
		err = l.CheckPatch()
	}
	return l, err
}

// existing lists the files of batches that are to be removed first.
func (c *AugmentBatchesConfig) existing() (paths []string, err error) {
	entries, err := os.ReadDir(c.Output)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if batchFiles.MatchString(e.Name()) {
			paths = append(paths, filepath.Join(c.Output, e.Name()))
		}
	}
	if paths != nil && !c.Force {
		return nil, fmt.Errorf("%s holds batches already (%s): choose another folder, or remove them with --force", c.Output,
			filepath.Base(paths[0]))
	}
	return paths, err
}

// batchRecord is batch_NN.json.
type batchRecord struct {
	Iteration int            `json:"iteration"`
	SHA256    string         `json:"sha256"`
	Samples   []sampleRecord `json:"samples"`
}

// sampleRecord is a sample of it. The bounding box and what chose it have the names of nnU-Net's
// loader.
type sampleRecord struct {
	Sample           int           `json:"sample"`
	Key              string        `json:"key"`
	Lower            []int         `json:"bbox_lbs"`
	Upper            []int         `json:"bbox_ubs"`
	ForceForeground  bool          `json:"force_fg"`
	SelectedClass    any           `json:"selected_class"` // a label, a region's labels, or nil
	SelectedSlice    *int          `json:"selected_slice,omitempty"`
	PatchSize        []int         `json:"patch_size"`
	InitialPatchSize []int         `json:"initial_patch_size"`
	Transforms       augment.Drawn `json:"transforms"`
}

type batchWriter struct {
	c    *AugmentBatchesConfig
	data *train.Data
	list augment.List
}

// write writes batch number n of the folder.
func (w *batchWriter) write(n int, b *loader.Batch) error {
	record := batchRecord{Iteration: b.Index}
	var err error
	if record.SHA256, err = b.SHA256(); err != nil {
		return err
	}
	for j := range b.Samples {
		r := w.record(j, &b.Samples[j])
		if w.c.Crops {
			name := func(k int) string {
				if k == 0 {
					return fmt.Sprintf("batch_%02d_noise_%d.npy", n, j)
				}
				return fmt.Sprintf("batch_%02d_noise_%d_%d.npy", n, j, k) // of a list that adds noise more than once
			}
			var noise []augment.NoiseFile
			if r.Transforms, noise, err = r.Transforms.NoiseFiles(r.InitialPatchSize, name); err != nil {
				return err
			}
			for _, f := range noise {
				if err := w.array(f.Name, f.Values, f.Shape); err != nil {
					return err
				}
			}
		}
		record.Samples = append(record.Samples, r)
	}
	if w.c.Crops {
		if err := w.crops(n, b); err != nil {
			return err
		}
	}
	for k, t := range b.Targets {
		name := fmt.Sprintf("batch_%02d_target_%d.npy", n, k)
		var values any = t.Labels
		if t.Masks != nil {
			masks := make([]bool, len(t.Masks))
			for i, v := range t.Masks {
				masks[i] = v != 0
			}
			values = masks
		}
		if err := w.array(name, values, t.Shape); err != nil {
			return err
		}
	}
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(w.path(fmt.Sprintf("batch_%02d.json", n)), append(text, '\n')); err != nil {
		return err
	}
	return w.array(fmt.Sprintf("batch_%02d_data.npy", n), b.Data, b.DataShape)
}

func (w *batchWriter) record(j int, s *loader.Sample) sampleRecord {
	r := sampleRecord{Sample: j, Key: s.Key, ForceForeground: s.Forced, PatchSize: w.list.PatchSize,
		InitialPatchSize: w.list.InitialPatchSize, Transforms: s.Transforms}
	dim := len(r.InitialPatchSize)
	for i, size := range r.InitialPatchSize {
		start := s.Start[3-dim+i]
		r.Lower, r.Upper = append(r.Lower, start), append(r.Upper, start+size)
	}
	if dim == 2 {
		r.SelectedSlice = &s.Start[0]
	}
	switch len(s.SelectedClass) {
	case 0:
	case 1:
		r.SelectedClass = s.SelectedClass[0]
	default:
		r.SelectedClass = s.SelectedClass
	}
	return r
}

// crops writes what the loader cut out of the cases. Beyond the image it is 0, beyond the
// segmentation -1.
func (w *batchWriter) crops(n int, b *loader.Batch) error {
	size := w.list.InitialPatchSize
	image := volume.Volume[float32]{Shape: volume.ShapeOf(b.DataShape[1], size)}
	seg := volume.Volume[int16]{Shape: volume.ShapeOf(1, size)}
	images := make([]float32, len(b.Samples)*volume.Numel(image.Shape))
	segs := make([]int16, len(b.Samples)*volume.Numel(seg.Shape))
	for j, s := range b.Samples {
		scan, err := w.data.Cases.Load(s.Key)
		if err != nil {
			return err
		}
		image.Data = images[j*volume.Numel(image.Shape):][:volume.Numel(image.Shape)]
		seg.Data = segs[j*volume.Numel(seg.Shape):][:volume.Numel(seg.Shape)]
		scan.Data.Crop(&image, s.Start, 0)
		scan.Seg.Crop(&seg, s.Start, -1)
	}
	shape := func(channels int) []int { return append([]int{len(b.Samples), channels}, size...) }
	if err := w.array(fmt.Sprintf("batch_%02d_crop_data.npy", n), images, shape(image.Shape[0])); err != nil {
		return err
	}
	return w.array(fmt.Sprintf("batch_%02d_crop_seg.npy", n), segs, shape(1))
}

func (w *batchWriter) path(name string) string { return filepath.Join(w.c.Output, name) }

// array writes float32, int16 or bool values as numpy.save does.
func (w *batchWriter) array(name string, values any, shape []int) error {
	var a *npz.Array
	var err error
	switch v := values.(type) {
	case []float32:
		a, err = npz.New(v, shape...)
	case []int16:
		a, err = npz.New(v, shape...)
	case []bool:
		a, err = npz.New(v, shape...)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", w.path(name), err)
	}
	f, err := atomicfile.Create(w.path(name))
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := npz.WriteNpy(f, a); err != nil {
		return fmt.Errorf("%s: %w", w.path(name), err)
	}
	return f.Commit()
}

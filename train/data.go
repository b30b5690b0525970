package train

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/nearest"
	"github.com/lntorch/lntorch/internal/settings"
)

// Data is what batches come from: the cases of a configuration, split for a fold.
type Data struct {
	Plans   *plans.Plans
	Dataset *plans.Dataset
	Conf    *plans.Configuration
	Cases   *dataset.Dataset
	Split   dataset.Split
}

// OpenData reads plans, dataset.json and folds of a preprocessed dataset's folder. plansName is
// without .json; fold is a number or "all". No case is read.
func OpenData(preprocessed, plansName, configuration, fold string) (*Data, error) {
	d := &Data{}
	var err error
	if d.Plans, err = plans.Load(filepath.Join(preprocessed, plansName+".json")); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if d.Dataset, err = plans.LoadDataset(filepath.Join(preprocessed, "dataset.json")); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if d.Conf, err = d.Plans.Configuration(configuration); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if d.Conf.PreviousStage != "" {
		return nil, fmt.Errorf("train: configuration %s is the second stage of a cascade (previous stage %s), "+
			"which lntorch does not train yet", configuration, d.Conf.PreviousStage)
	}
	if d.Cases, err = dataset.Open(filepath.Join(preprocessed, d.Conf.DataIdentifier)); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	d.Cases.Channels = d.Dataset.NumInputChannels(d.Conf)
	splits := filepath.Join(preprocessed, "splits_final.json")
	if d.Split, err = dataset.Fold(splits, d.Cases.Keys(), fold); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	return d, nil
}

// Only keeps those of the cases that are named, in the order that all have. No name keeps every case.
func (d *Data) Only(cases []string, fold string) error {
	if len(cases) == 0 {
		return nil
	}
	if fold != "all" {
		return settings.Usage("--cases are for fold all, found fold %s: splits_final.json says which cases a "+
			"numbered fold trains on", fold)
	}
	known := d.Cases.Keys()
	for i, name := range cases {
		if slices.Contains(cases[:i], name) {
			return settings.Usage("--cases: %s is there twice", name)
		}
		if !slices.Contains(known, name) {
			hint := ""
			if n := nearest.Name(name, known); n != "" {
				hint = "; did you mean " + n + "?"
			}
			return settings.Usage("--cases: %s is none of the %d cases in %s%s", name, len(known),
				d.Cases.Folder(), hint)
		}
	}
	d.Split.Train = slices.DeleteFunc(slices.Clone(known), func(name string) bool {
		return !slices.Contains(cases, name)
	})
	d.Split.Val = d.Split.Train
	return nil
}

// maxBatchVoxels bounds what is cut out for a batch: 4 GiB of float32.
const maxBatchVoxels = 1 << 30

// List fills in the sizes that are the plans', and returns what the list of transforms follows from,
// and the list in force. scales are those of the network's outputs; warning is as of augment.Choice.
func (d *Data) List(c *BatchSettings, trainer string, scales [][]float64) (s augment.Setting, l augment.List,
	warning string, err error) {
	if c.BatchSize == 0 {
		c.BatchSize = d.Conf.BatchSize
	}
	if c.PatchSize == nil {
		c.PatchSize = d.Conf.PatchSize
	}
	if len(c.PatchSize) != len(d.Conf.PatchSize) {
		return s, l, "", settings.Usage("--patch-size: found %d sizes, expected %d as in configuration %s",
			len(c.PatchSize), len(d.Conf.PatchSize), d.Conf.Name)
	}
	s = augment.Setting{PatchSize: c.PatchSize, Channels: d.Cases.Channels,
		UseMaskForNorm: d.Conf.UseMaskForNorm, Scales: scales, Trainer: trainer}
	s.SetClasses(d.Dataset.Labels)
	if l, warning, err = c.Choice.List(s); err != nil {
		return s, l, "", err
	}
	voxels := d.Cases.Channels
	for _, n := range l.InitialPatchSize {
		voxels *= n
	}
	if c.BatchSize > maxBatchVoxels/voxels {
		return s, l, "", settings.Usage("--batch-size %d: patches of %v are cut out, expected 2^30 voxels in a batch at most",
			c.BatchSize, l.InitialPatchSize)
	}
	return s, l, warning, nil
}

// Batches configures the loader of a training's batches, from the first of the stream on. c.BatchSize
// and c.PatchSize are set.
func (d *Data) Batches(c *BatchSettings, list augment.List, first int) loader.Config {
	return loader.Config{Dataset: d.Cases, Keys: d.Split.Train, Labels: d.Dataset.Labels,
		BatchSize: c.BatchSize, PatchSize: c.PatchSize, Oversample: c.Oversample, RequireForeground: true,
		Augmentation: list, Seed: c.Seed, Stream: "train", StartIndex: first, Workers: c.Workers}
}

// validation configures the loader of the online validation's batches: nothing random but cases and
// places.
func (d *Data) validation(c *BatchSettings, s augment.Setting, first int) (loader.Config, error) {
	s.Augmentation, s.Trainer = "none", ""
	list, err := augment.New(s)
	if err != nil {
		return loader.Config{}, err
	}
	l := d.Batches(c, list, first)
	l.Keys, l.Stream, l.RequireForeground = d.Split.Val, "val", false
	return l, nil
}

// openList finds the list of transforms that a new training has.
func (t *trainer) openList() error {
	c := &t.cfg
	var warning string
	var err error
	if t.setting, t.list, warning, err = t.data.List(&c.BatchSettings, c.Trainer, t.Scales); err != nil {
		return err
	}
	if warning != "" {
		t.listNotes = append(t.listNotes, "WARNING: "+warning)
	}
	t.fixes = c.Fixes
	return nil
}

// Entries of a checkpoint about the batches. One without them trained on mirrored patches, with
// other random numbers.
const (
	augmentationList    = "augmentation/list"   // JSON, as lntorch augment pipeline prints it
	augmentationFixes   = "augmentation/fixes"  // bool
	augmentationStream  = "augmentation/stream" // augment.RandomStream
	augmentationBatches = "augmentation/sha256" // of the first batches, joined
)

// resumeList goes on with the list of a checkpoint. What the user says must be the same.
func (t *trainer) resumeList(values map[string]any, nnUNet bool) error {
	c := &t.cfg
	given := c.Choice != augment.Choice{}
	entry, has := values[augmentationList]
	text, kept := entry.(string)
	if has && !kept {
		return fmt.Errorf("entry %s: found no text, expected a list of transforms as JSON: the file is damaged or "+
			"was edited", augmentationList)
	}
	var was augment.List
	var err error
	switch {
	case nnUNet:
		if !given {
			t.listNotes = append(t.listNotes, fmt.Sprintf("the checkpoint is nnU-Net's: the training goes on with the "+
				"augmentation of %s (%s)", c.Trainer, t.list.Augmentation))
		}
		return nil
	case kept:
		s := t.setting
		s.Fixes, _ = values[augmentationFixes].(bool)
		if was, err = augment.Restore([]byte(text), s); err != nil {
			return fmt.Errorf("entry %s: %w", augmentationList, err)
		}
		if given && c.Fixes != s.Fixes {
			return fmt.Errorf("it was trained with --augmentation-fixes %v (now %v): continue with those, or leave "+
				"the flags of augmentation out", s.Fixes, c.Fixes)
		}
		t.fixes = s.Fixes
	default:
		s := t.setting
		s.Augmentation = "mirror"
		if was, err = augment.New(s); err != nil {
			return err
		}
		t.fixes = false
		t.listNotes = append(t.listNotes, "the checkpoint is of an lntorch that only mirrored: the training goes on "+
			"with augmentation mirror, not with nnU-Net's")
	}
	if c.Augmentation == "" && c.MirrorAxes != "" { // axes alone are about the checkpoint's list
		if !slices.Equal(was.MirrorAxes, t.list.MirrorAxes) {
			return fmt.Errorf("it was trained with mirror axes %v (now %v): continue with those, or leave the flags of "+
				"augmentation out", was.MirrorAxes, t.list.MirrorAxes)
		}
	} else if given {
		before, err := json.Marshal(was)
		now, err2 := json.Marshal(t.list)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if d := augment.Difference(before, now); d != "" {
			return fmt.Errorf("it was trained with augmentation %s (now %s), which differ in %s: continue with that, "+
				"or leave the flags of augmentation out", was.Augmentation, t.list.Augmentation, d)
		}
	}
	t.list = was
	stream, _ := values[augmentationStream].(int64)
	if stream != augment.RandomStream {
		t.listNotes = append(t.listNotes, fmt.Sprintf("WARNING: the checkpoint's batches came from random stream %d, "+
			"this lntorch has %d: from here on they are not those of an uninterrupted training", stream, augment.RandomStream))
	}
	return nil
}

// augmentation tells, for the log, what the batches are.
func (t *trainer) augmentation() string {
	axes := "no mirroring"
	if t.list.MirrorAxes != nil {
		axes = fmt.Sprintf("mirrored over axes %v", t.list.MirrorAxes)
	}
	fixed := ""
	if t.fixes {
		fixed = ", with fixes"
	}
	return fmt.Sprintf("augmentation %s%s, %s, cut from patches of %v", t.list.Augmentation, fixed, axes,
		t.list.InitialPatchSize)
}

// hashedBatches is how many of a training's first batches run.json has sums of.
const hashedBatches = 4

// sumsOf says what the sums are of: what the workers hand over.
var sumsOf = map[AugmentOn]string{
	AugmentOnCPU:    "data and targets",
	AugmentOnDevice: "crops and parameters, before the device transforms them",
}

// keepSum keeps the sum of one of the first batches.
func (t *trainer) keepSum(b *fed) {
	if b.sum != "" && b.index == len(t.sums) {
		t.sums = append(t.sums, b.sum)
	}
}

// aboutData is what run.json says about the batches.
func (t *trainer) aboutData() map[string]any {
	var transforms any = t.list.Names()
	if !slices.Contains(augment.Augmentations, t.list.Augmentation) {
		transforms = t.list // a FILE's, whole
	}
	sums := t.sums
	if sums == nil {
		sums = []string{}
	}
	return map[string]any{
		"augmentation": t.list.Augmentation, "fixes": t.fixes, "on": t.cfg.AugmentOn,
		"patch_size": t.list.PatchSize, "initial_patch_size": t.list.InitialPatchSize,
		"mirror_axes": t.list.MirrorAxes, "transforms": transforms,
		"random_stream": augment.RandomStream, "batch_sha256": sums, "batch_sha256_of": sumsOf[t.cfg.AugmentOn],
	}
}

package pipeline

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train/ondevice"
	"github.com/lntorch/lntorch/volume"
)

// AugmentConfig says what a list of transforms is for.
type AugmentConfig struct {
	Plans         string `flag:"plans" path:"true" help:"plans file; dataset.json lies beside it"`
	Configuration string `flag:"configuration" short:"c" help:"configuration of the plans, such as 3d_fullres"`
	PatchSize     []int  `flag:"patch-size" range:"1..100000" help:"voxels z,y,x or y,x, instead of --plans"`
	Channels      int    `flag:"channels" range:"1..10000" help:"channels of the image, with --patch-size (default 1)"`
	CascadeLabels []int  `flag:"cascade-labels" range:"1..32767" help:"labels of a cascade's previous stage, with --patch-size"`
	Trainer       string `flag:"trainer" nnunet:"tr" default:"nnUNetTrainer" help:"trainer, whose name may choose list and axes"`
	augment.Choice
}

// augmentSetting is what a list follows from. planned is nil without plans.
func (c *AugmentConfig) augmentSetting() (s augment.Setting, p *planned, err error) {
	switch {
	case (c.Plans == "") == (c.PatchSize == nil):
		return s, nil, settings.Usage("found both or neither of --plans and --patch-size, expected one of them")
	case c.Plans == "":
		if len(c.PatchSize) != 2 && len(c.PatchSize) != 3 {
			return s, nil, settings.Usage("--patch-size: found %d sizes, expected z,y,x or y,x", len(c.PatchSize))
		}
		s = augment.Setting{PatchSize: c.PatchSize, Channels: max(c.Channels, 1), CascadeLabels: c.CascadeLabels}
	case c.Channels != 0 || c.CascadeLabels != nil:
		return s, nil, settings.Usage("--channels and --cascade-labels go with --patch-size: plans say what they are")
	case c.Configuration == "":
		return s, nil, settings.Usage("-c is not given: expected a configuration of %s", c.Plans)
	default:
		if p, err = readPlanned(c.Plans, c.Configuration); err != nil {
			return s, nil, err
		}
		if s, err = p.setting(c.Trainer); err != nil {
			return s, nil, err
		}
	}
	s.Trainer = c.Trainer
	return s, p, nil
}

// planned is what plans and dataset.json say of a configuration.
type planned struct {
	conf    *plans.Configuration
	dataset *plans.Dataset
}

func readPlanned(path, configuration string) (*planned, error) {
	p, err := plans.Load(path)
	if err != nil {
		return nil, err
	}
	c, err := p.Configuration(configuration)
	if err != nil {
		return nil, err
	}
	d, err := plans.LoadDataset(filepath.Join(filepath.Dir(path), "dataset.json"))
	if err != nil {
		return nil, err
	}
	return &planned{c, d}, nil
}

// batch is the plans' batch size, 1 without plans.
func (p *planned) batch() int {
	if p == nil {
		return 1
	}
	return max(p.conf.BatchSize, 1)
}

// setting is what a list follows from.
func (p *planned) setting(trainer string) (s augment.Setting, err error) {
	c, d := p.conf, p.dataset
	a, err := models.ForTrainer(trainer, c)
	if err != nil {
		return s, err
	}
	s = augment.Setting{PatchSize: c.PatchSize, Channels: len(d.ChannelNames), UseMaskForNorm: c.UseMaskForNorm,
		Scales: a.DeepSupervisionScales()}
	if c.PreviousStage != "" {
		s.CascadeLabels = d.Labels.ForegroundLabels
	}
	s.SetClasses(d.Labels)
	return s, nil
}

// list is the list in force.
func (c *AugmentConfig) list(s augment.Setting, o Output) (augment.List, error) {
	l, warning, err := c.Choice.List(s)
	if warning != "" {
		o.Printf("WARNING: %s", warning)
	}
	return l, err
}

// AugmentPipeline returns the list of transforms in force.
func AugmentPipeline(c AugmentConfig, o Output) (augment.List, error) {
	s, _, err := c.augmentSetting()
	if err != nil {
		return augment.List{}, err
	}
	return c.list(s, o)
}

// AugmentSampleConfig draws parameters.
type AugmentSampleConfig struct {
	AugmentConfig
	Seed      uint64 `flag:"seed" help:"seed of all random numbers"`
	N         int    `flag:"number" short:"n" default:"1" range:"1.." help:"samples to draw"`
	Start     int    `flag:"start" range:"0..1000000000000" help:"first sample, from the first of the training on"`
	BatchSize int    `flag:"batch-size" range:"1.." help:"samples of an iteration (default: the plans', 1 without plans)"`
	Output    string `flag:"output" short:"o" path:"true" help:"file to write instead of standard output"`
}

// AugmentSample draws the parameters of training samples and writes one JSON object a line, to out or
// to the file that the config names.
func AugmentSample(ctx context.Context, c AugmentSampleConfig, out io.Writer, o Output) error {
	s, p, err := c.augmentSetting()
	if err != nil {
		return err
	}
	l, err := c.list(s, o)
	if err != nil {
		return err
	}
	batch := p.batch()
	if c.BatchSize != 0 {
		batch = c.BatchSize
	}
	if c.Output != "" {
		f, err := atomicfile.Create(c.Output)
		if err != nil {
			return err
		}
		defer f.Abort()
		if err := writeSamples(ctx, f, c, l, batch); err != nil {
			return err
		}
		return f.Commit()
	}
	return writeSamples(ctx, out, c, l, batch)
}

func writeSamples(ctx context.Context, w io.Writer, c AugmentSampleConfig, l augment.List, batch int) error {
	b := bufio.NewWriter(w)
	lines := json.NewEncoder(b)
	for i := range c.N {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := augment.Sample{Seed: c.Seed, Stream: "train", Iteration: (c.Start + i) / batch, Index: (c.Start + i) % batch}
		err := lines.Encode(struct {
			Iteration        int           `json:"iteration"`
			Sample           int           `json:"sample"`
			PatchSize        []int         `json:"patch_size"`
			InitialPatchSize []int         `json:"initial_patch_size"`
			Transforms       augment.Drawn `json:"transforms"`
		}{at.Iteration, at.Index, l.PatchSize, l.InitialPatchSize, l.Draw(at.Augmentation)})
		if err != nil {
			return err
		}
	}
	return b.Flush()
}

// AugmentApplyConfig applies given parameters.
type AugmentApplyConfig struct {
	Spec   string
	Data   string `flag:"data" path:"true" help:"image, a .npy of (c,z,y,x) or (c,y,x)"`
	Seg    string `flag:"seg" path:"true" help:"segmentation, a .npy of integers with the axes of the image"`
	Output string `flag:"output" short:"o" path:"true" help:"file to write, .npz"`
	Repeat int    `flag:"repeat" default:"1" range:"1.." help:"apply so many times, each to the unchanged input; the last result is written"`
	On     string `flag:"augment-on" default:"cpu" values:"cpu,device" help:"cpu, or device: as operators of libtorch"`

	DeviceName string `flag:"device" nnunet:"device" help:"with --augment-on device: cpu, cuda or cuda:N (default: CUDA where libtorch and a GPU are there, else the CPU)"`
}

// AugmentApply applies the parameters of a SPEC in their order and writes the result.
func AugmentApply(ctx context.Context, c AugmentApplyConfig, o Output) error {
	if c.Data == "" || c.Output == "" {
		return settings.Usage("--data and -o must be given")
	}
	if c.DeviceName != "" && c.On != "device" {
		return settings.Usage("-device goes with --augment-on device: without it the CPU applies them")
	}
	text, err := regular.ReadFile(c.Spec)
	if err != nil {
		return err
	}
	drawn, err := augment.DecodeSpec(text)
	if err != nil {
		return fmt.Errorf("augment: %s: %w", c.Spec, err)
	}
	for i, s := range drawn {
		n, ok := s.Parameters.(*augment.GaussianNoiseParameters)
		if !ok || n.Noise == "" {
			continue
		}
		path := n.Noise
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(c.Spec), path)
		}
		shape, values, err := readImage(path, o)
		if err != nil {
			return fmt.Errorf("augment: %s: transform %d, %s: noise: %w", c.Spec, i, s.Transform, err)
		}
		n.SetNoise(shape, values)
	}
	input, err := readPatch(c, o)
	if err != nil {
		return err
	}
	apply := applyOnCPU
	if c.On == "device" {
		m := machine.Machine{DeviceName: cmp.Or(c.DeviceName, "auto")}
		note, err := m.Resolve()
		if err != nil {
			return err
		}
		if note != "" {
			o.Printf("%s", note)
		}
		apply = func(drawn augment.Drawn, input *augment.Patch, repeat func() bool) (*augment.Patch, error) {
			return applyOnDevice(&m, drawn, input, repeat)
		}
	}
	times := 0
	p, err := apply(drawn, &input, func() bool { times++; return times <= max(c.Repeat, 1) && ctx.Err() == nil })
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("augment: %s: %w", c.Spec, errors.New(strings.TrimPrefix(err.Error(), "augment: ")))
	}
	return writePatch(c.Output, p)
}

// applyOnCPU applies the steps to copies of the input while repeat says so, and returns the last.
func applyOnCPU(drawn augment.Drawn, input *augment.Patch, repeat func() bool) (*augment.Patch, error) {
	var p augment.Patch
	scratch := &augment.Scratch{}
	image, seg := &volume.Volume[float32]{}, &volume.Volume[int16]{}
	for repeat() {
		p = augment.Patch{Image: image, Dim: input.Dim, Scratch: scratch}
		image.Shape, image.Data = input.Image.Shape, append(image.Data[:0], input.Image.Data...)
		if input.Seg != nil {
			p.Seg, seg.Shape, seg.Data = seg, input.Seg.Shape, append(seg.Data[:0], input.Seg.Data...)
		}
		if err := drawn.Apply(&p); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

// applyOnDevice is applyOnCPU with operators on a device.
func applyOnDevice(m *machine.Machine, drawn augment.Drawn, input *augment.Patch,
	repeat func() bool) (p *augment.Patch, err error) {
	once := func(s *torch.Scope) error {
		tensors := ondevice.Upload(s, m.Device, nil, input.Image, input.Seg, input.Dim)
		if s.Err() != nil {
			return s.Err()
		}
		if err := ondevice.Apply(s, drawn, tensors); err != nil {
			return err
		}
		p, err = ondevice.Download(tensors)
		return err
	}
	err = torch.OnThread(m.Threads, func() error {
		for repeat() {
			if err := torch.With(once); err != nil {
				return err
			}
		}
		return nil
	})
	return p, err
}

// readPatch reads image and segmentation.
func readPatch(c AugmentApplyConfig, o Output) (p augment.Patch, err error) {
	shape, values, err := readImage(c.Data, o)
	if err != nil {
		return p, fmt.Errorf("augment: %w", err)
	}
	if len(shape) != 3 && len(shape) != 4 || slices.Min(shape) < 1 {
		return p, fmt.Errorf("augment: %s: found shape %v, expected (c,z,y,x) or (c,y,x), none of them 0", c.Data, shape)
	}
	if len(values) > 1<<30 {
		return p, fmt.Errorf("augment: %s: found %d voxels, expected 2^30 at most", c.Data, len(values))
	}
	p.Dim = len(shape) - 1
	p.Image = &volume.Volume[float32]{Data: values, Shape: volume.ShapeOf(shape[0], shape[1:])}
	if c.Seg == "" {
		return p, nil
	}
	a, err := npz.OpenNpy(c.Seg)
	if err != nil {
		return p, fmt.Errorf("augment: %w", err)
	}
	if len(a.Shape) != len(shape) || !slices.Equal(a.Shape[1:], shape[1:]) || a.Shape[0] < 1 {
		return p, fmt.Errorf("augment: %s: found shape %v, expected channels of %v as in %s", c.Seg, a.Shape, shape[1:], c.Data)
	}
	labels, err := a.Int16s()
	if err != nil {
		return p, fmt.Errorf("augment: %s: %w", c.Seg, err)
	}
	p.Seg = &volume.Volume[int16]{Data: labels, Shape: volume.ShapeOf(a.Shape[0], a.Shape[1:])}
	return p, nil
}

// readImage reads finite numbers from a .npy; other types than float32 are converted, and it is said.
func readImage(path string, o Output) (shape []int, values []float32, err error) {
	a, err := npz.OpenNpy(path)
	if err != nil {
		return nil, nil, err
	}
	if values, err = a.Float32s(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, v := range values {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			index := make([]int, len(a.Shape))
			for axis := len(index) - 1; axis >= 0; axis-- {
				index[axis], i = i%a.Shape[axis], i/a.Shape[axis]
			}
			return nil, nil, fmt.Errorf("%s: found %v at %v, expected finite numbers", path, v, index)
		}
	}
	if a.DType != "<f4" {
		o.Printf("%s: converted from %s to float32", path, a.DType)
	}
	return a.Shape, values, nil
}

// writePatch writes data, and seg or seg_0, seg_1, ….
func writePatch(path string, p *augment.Patch) (err error) {
	w, err := npz.Create(path, false)
	if err != nil {
		return err
	}
	shape := func(s [4]int) []int { return append([]int{s[0]}, s[4-p.Dim:]...) }
	data, err := npz.New(p.Image.Data, shape(p.Image.Shape)...)
	if err == nil {
		err = w.Add("data", data)
	}
	segs, name := p.Targets, func(k int) string { return fmt.Sprintf("seg_%d", k) }
	if segs == nil && p.Seg != nil {
		segs, name = []*volume.Volume[int16]{p.Seg}, func(int) string { return "seg" }
	}
	for k, s := range segs {
		var a *npz.Array
		if err != nil {
			break
		}
		if p.Masks {
			masks := make([]bool, len(s.Data))
			for i, v := range s.Data {
				masks[i] = v != 0
			}
			a, err = npz.New(masks, shape(s.Shape)...)
		} else {
			a, err = npz.New(s.Data, shape(s.Shape)...)
		}
		if err == nil {
			err = w.Add(name(k), a)
		}
	}
	return errors.Join(err, w.Close())
}

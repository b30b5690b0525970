package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
	"github.com/lntorch/lntorch/train"
	"github.com/lntorch/lntorch/volume"
)

const benchPlans = `{"dataset_name": "bench", "plans_name": "bench", "configurations": {"bench": {
  "data_identifier": "bench", "preprocessor_name": "DefaultPreprocessor", "patch_size": [1, 1, 1], "batch_size": 2, "spacing": [1, 1, 1],
  "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [false], "batch_dice": false,
  "architecture": %s}}}`

const benchDataset = `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": 1}, "numTraining": 1, "file_ending": ".nii.gz"}`

// Sizes lists the names of the networks' sizes, sorted, and for --help what each is and its patch.
func Sizes() (names, help []string) {
	for _, e := range models.Entries() {
		for _, s := range e.Sizes {
			names = append(names, s.Name)
			help = append(help, fmt.Sprintf("%s (%s; patch %s)", s.Name, s.Summary, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(s.Patch)), ","), "[]")))
		}
	}
	slices.Sort(names)
	return names, help
}

// architecture is a named size of a network, and the plans that mean it; nil where plans do not describe
// the network.
func architecture(e models.Entry, n models.Size) (models.Architecture, *plans.Plans, error) {
	if n.Block == "" {
		return e.Released(3), nil, nil
	}
	doc, err := plans.DecodeJSON(fmt.Appendf(nil, benchPlans, n.Block))
	if err != nil {
		return nil, nil, err
	}
	p, err := plans.FromObject(doc.(*plans.Object), "bench")
	if err != nil {
		return nil, nil, err
	}
	c, err := p.Configuration("bench")
	if err != nil {
		return nil, nil, err
	}
	a, err := models.Parse(c)
	return a, p, err
}

func dataset() (*plans.Object, *plans.Labels, error) {
	doc, err := plans.DecodeJSON([]byte(benchDataset))
	if err != nil {
		return nil, nil, err
	}
	d, err := plans.DatasetFromObject(doc.(*plans.Object), "bench")
	if err != nil {
		return nil, nil, err
	}
	return doc.(*plans.Object), d.Labels, nil
}

// build makes the session, with random weights and two classes.
func (b *bench) build() error {
	c := &b.cfg
	e, n, ok := models.Sized(c.Network)
	if !ok {
		names, _ := Sizes()
		return settings.Usage("--network %q: expected one of %s", c.Network, strings.Join(names, ", "))
	}
	var err error
	if b.arch, b.plans, err = architecture(e, n); err != nil {
		return err
	}
	if b.patch = n.Patch; c.PatchSize != nil {
		b.patch = c.PatchSize
	}
	_, labels, err := dataset()
	if err != nil {
		return err
	}
	if c.Device.Type != torch.DeviceCPU {
		if err := torch.BenchmarkCuDNN(true); err != nil {
			return err
		}
	}
	b.session, err = train.NewSession(train.SessionConfig{
		Spec:   models.Spec{Architecture: b.arch, InputChannels: 1, NumClasses: 2},
		Labels: labels, Patch: b.patch, MethodName: b.entry.Name, Method: b.method, Refine: c.Refine,
		Optimizer: train.Optimizer{LR: 1e-2, Momentum: 0.99, WeightDecay: 3e-5}, Machine: c.Machine, Seed: 1, Group: b.ranks.Group,
	})
	if errors.Is(err, train.ErrPatchSize) && c.PatchSize != nil {
		return settings.Usage("--%w", err)
	}
	if err != nil {
		return err
	}
	gen, err := torch.NewGenerator(torch.CPU, 1)
	if err != nil {
		return err
	}
	defer gen.Close()
	if err := b.session.Net.Module().Reset(gen, nil); err != nil {
		return err
	}
	if err := b.session.Join(); err != nil {
		return err
	}
	b.out.Parameters = models.ParameterCount(b.session.Net)
	if b.out.Torch, err = torch.Version(); err != nil {
		return err
	}
	b.out.CPU, err = torch.CPUCapability()
	return err
}

// step is an iteration of train on one batch of two random patches, a tenth of whose voxels are foreground. Several ranks
// have two patches each.
func (b *bench) step() (func() error, error) {
	s := b.session
	s.Net.SetTraining(true)
	s.Net.SetDeepSupervision(true)
	batch := train.Batch{Image: b.random(0, 1, append([]int64{2, 1}, torch.Sizes(b.patch)...)...)}
	for _, size := range s.TargetSizes() {
		size = append([]int64{2, 1}, size...)
		batch.Targets = append(batch.Targets, b.scope.To(b.scope.CompareScalar(b.random(0, 1, size...), torch.Gt, 1.28), torch.Int16, b.cfg.Device))
	}
	if g := b.ranks.Group; g != nil {
		b.out.Ranks, b.out.Exchanged = g.Size(), s.GradientBytes()
		batch.Rows = torch.Rows{First: int64(2 * g.Rank()), Count: 2, All: int64(2 * g.Size())}
	}
	s.Hook = b.memory
	n := int64(0)
	return func() error {
		var outcomes []train.Outcome
		for range b.cfg.Steps {
			if on, err := s.GoOn(b.ctx); err != nil || !on {
				return errors.Join(err, b.ctx.Err())
			}
			more, err := s.Step(n, func(*torch.Scope) (train.Batch, error) { return batch, nil })
			if err != nil {
				return err
			}
			outcomes = append(outcomes, more...)
			n++
		}
		last, err := s.Settle(0)
		if outcomes = append(outcomes, last...); len(outcomes) > 0 {
			b.out.Loss = outcomes[len(outcomes)-1].Loss
		}
		b.count()
		return errors.Join(err, b.waited(s.Waited()))
	}, nil
}

// waited notes what the rank that waited least waited after its backward pass: the others waited for it, too.
func (b *bench) waited(own time.Duration) error {
	g := b.ranks.Group
	if g == nil {
		return nil
	}
	all, err := g.Exchange(b.ctx, binary.LittleEndian.AppendUint64(nil, uint64(own)))
	for _, one := range all {
		own = min(own, time.Duration(binary.LittleEndian.Uint64(one)))
	}
	b.out.Waited = own.Seconds()
	return err
}

// memory notes what each phase of a step holds.
func (b *bench) memory(_ *torch.Scope, p train.Phase, _ []optim.Mask) error {
	inUse, _, _, err := torch.CPUMemory()
	switch p {
	case train.Cleared:
		b.out.Held = inUse
	case train.Forwarded:
		b.out.Kept = inUse - b.out.Held
	case train.Differentiated:
		b.out.Gradients = inUse - b.out.Held
	}
	return err
}

// count notes how many entries were chosen.
func (b *bench) count() {
	if c, ok := b.method.(finetune.Counter); ok {
		b.out.Entries, _ = c.Counts()
	}
}

// update is the end of a step, with random gradients.
func (b *bench) update() (func() error, error) {
	if err := b.gradients(); err != nil {
		return nil, err
	}
	n := int64(0)
	return func() error {
		err := torch.With(func(s *torch.Scope) error { return b.session.Update(s, n) })
		n++
		b.count()
		return err
	}, nil
}

// masks is the choice of entries alone: their indices, no mask of the weight's size.
func (b *bench) masks() (func() error, error) {
	m, ok := b.method.(finetune.Chooser)
	if !ok {
		return nil, settings.Usage("masks: --method chooses no entries")
	}
	if err := b.gradients(); err != nil {
		return nil, err
	}
	n := int64(0)
	return func() error {
		return torch.With(func(s *torch.Scope) error {
			var err error
			b.out.Entries, err = m.Choose(s, n, b.session.Trained)
			n++
			return err
		})
	}, nil
}

// open reads a checkpoint's weights into the network.
func (b *bench) open() (func() error, error) {
	path := b.cfg.Checkpoint
	if path == "" {
		if b.plans == nil {
			return nil, settings.Usage("open: --checkpoint must be given for a network that plans do not describe")
		}
		var err error
		if path, err = b.write(); err != nil {
			return nil, err
		}
	}
	return func() error {
		f, err := checkpoint.Open(path)
		if err != nil {
			return err
		}
		report, err := checkpoint.LoadWeights(b.session.Net.Module(), f.Weights, checkpoint.LoadOptions{})
		if err == nil {
			b.out.Loaded = report.Count(checkpoint.Loaded)
		}
		return errors.Join(err, f.Close())
	}, nil
}

// write saves the network with momentum, as training does, to a temporary file.
func (b *bench) write() (string, error) {
	if err := b.gradients(); err != nil {
		return "", err
	}
	sgd := b.session.SGD
	err := torch.With(func(s *torch.Scope) error { sgd.Step(s, nil); return s.Err() })
	if err != nil {
		return "", err
	}
	if b.folder, err = os.MkdirTemp("", "lntorch-bench-*"); err != nil {
		return "", err
	}
	data, _, err := dataset()
	if err != nil {
		return "", err
	}
	o := sgd.Options()
	path := filepath.Join(b.folder, "checkpoint.pth")
	return path, checkpoint.Save(path, &checkpoint.Training{
		Network: b.session.Net.Module(), SGD: checkpoint.SGDState{Options: o, InitialLR: o.LR, Buffers: sgd.State()}, Epoch: 1, Trainer: "nnUNetTrainer",
		InitArgs: checkpoint.InitArgs{Plans: b.plans.Raw(), Configuration: "bench", Fold: "0", Dataset: data, Device: "cpu"}})
}

// window predicts an image of noise.
func (b *bench) window() (func() error, error) {
	size := b.cfg.Image
	if len(size) != 3 {
		return nil, settings.Usage("--image %v: expected z,y,x", size)
	}
	shape := [4]int{1, size[0], size[1], size[2]}
	image, err := torch.Slice[float32](b.scope.To(b.random(0, 1, int64(size[0]*size[1]*size[2])), torch.Float32, torch.CPU))
	if err != nil {
		return nil, err
	}
	cfg := infer.DefaultConfig(b.cfg.Device)
	if b.cfg.IsReference() {
		cfg.Numerics = infer.Reference
	}
	cfg.Autocast = b.cfg.DType()
	cfg.Threads = b.cfg.Threads
	cfg.Mirror, cfg.BatchTiles = b.cfg.Mirror, b.cfg.Batch
	p, err := infer.New(b.session.Net, b.patch, 2, cfg)
	if err != nil {
		return nil, err
	}
	return func() error {
		return p.Slabs(b.ctx, image, shape, func(done, _ int) { b.out.Tiles = done }, func(volume.Slab) error { return nil })
	}, nil
}

// random makes a tensor of normally distributed numbers.
func (b *bench) random(mean, std float64, size ...int64) *torch.Tensor {
	t := b.scope.Empty(size, torch.Float32, b.cfg.Device)
	b.scope.Normal_(t, mean, std, nil)
	return t
}

// gradients gives the trained parameters random gradients.
func (b *bench) gradients() error {
	for _, p := range b.session.Trained {
		g := b.random(0, 1e-3, p.T.Shape()...)
		if b.scope.Err() != nil {
			return b.scope.Err()
		}
		if err := p.T.SetGrad(g); err != nil {
			return err
		}
	}
	return nil
}

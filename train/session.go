package train

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/dist"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// ErrPatchSize is wrapped by NewSession where the network cannot take inputs of the patch size.
var ErrPatchSize = errors.New("patch_size")

// Optimizer holds the settings of SGD.
type Optimizer struct {
	LR          float64 `flag:"lr" range:">0.." keep:"lr" help:"initial learning rate (default: the method's)"`
	WeightDecay float64 `flag:"weight-decay" default:"3e-5" range:"0.." keep:"weight_decay" help:"weight decay"`
	Momentum    float64 `flag:"momentum" default:"0.99" range:"0..<1" keep:"momentum" help:"Nesterov momentum; 0: plain SGD"`
}

// SessionConfig holds what a Session is built from.
type SessionConfig struct {
	Spec      models.Spec
	Labels    *plans.Labels
	BatchDice bool
	Patch     []int // voxels of an input along its spatial axes; nil: not checked

	MethodName string
	Method     finetune.Method
	Refine     finetune.Refine
	Optimizer  Optimizer
	Machine    machine.Machine // resolved
	Seed       uint64
	Recompute  bool
	NoAdapters bool // the method attaches none: weights come from a checkpoint that has them merged in
	Wait       bool // each step waits for its loss, on CUDA too

	Group    *dist.Group // ranks that train together; nil: this one alone
	Compress Compression // of their gradients on the way
	Steps    int64       // of the whole training: after the last one ranks compare their weights
	peers    *peers      // instead of Group
}

// Session is a network with everything that one training step needs: the parameters that train, the
// method, loss, optimizer and gradient scaler. Training, trace and the benchmarks make the same Step
// over it. It belongs to one OS thread (torch.OnThread).
type Session struct {
	Net     models.Network
	Params  []nn.Named       // all of the network's, in PyTorch's order
	Trained []finetune.Param // those that train
	SGD     *optim.SGD
	Scaler  *optim.GradScaler // nil without fp16
	Loss    *loss.Loss
	Scales  [][]float64 // of the targets: size relative to the patch, for each level of deep supervision

	// Hook, if not nil, is called after each phase of a step. Masks are given in phase Chosen only.
	Hook func(s *torch.Scope, phase Phase, masks []optim.Mask) error

	cfg     SessionConfig
	scope   *torch.Scope // owns the parameters
	tensors []*torch.Tensor
	late    *late  // losses that the device still owes; nil where steps wait for theirs
	peers   *peers // other ranks; nil alone
	ranks   *ranks // what steps share with them; nil alone
}

// NewSession builds the network, with parameters that have no values yet, and what belongs to it.
func NewSession(cfg SessionConfig) (*Session, error) {
	s := &Session{cfg: cfg}
	if err := s.build(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Session) build() error {
	c := &s.cfg
	if s.peers = c.peers; s.peers == nil {
		s.peers = newPeers(c.Group)
	}
	s.ranks = newRanks(s.peers, c.Compress)
	var err error
	if s.scope, err = torch.NewScope(); err != nil {
		return err
	}
	b := nn.Builder{Scope: s.scope, Device: c.Machine.Device}
	if s.Net, err = models.Build(b, c.Spec); err != nil {
		return err
	}
	s.Net.SetFast(!c.Machine.IsReference())
	if c.Recompute {
		if err := s.recompute(); err != nil {
			return err
		}
	}
	if c.Patch != nil {
		if err := s.Net.CheckInput(torch.Sizes(c.Patch)); err != nil {
			return fmt.Errorf("%w: %w", ErrPatchSize, err)
		}
	}
	if m, ok := c.Method.(finetune.Injector); ok && !c.NoAdapters {
		in := finetune.Injection{Module: s.Net.Module(), Builder: b, Seed: mix(c.Seed, injectionStream), Reference: c.Machine.IsReference()}
		if err := m.Inject(in); err != nil {
			return err
		}
	}
	if err := s.collect(); err != nil {
		return err
	}
	if c.Machine.AMP == machine.AMPFP16 {
		if s.Scaler, err = optim.NewGradScaler(c.Machine.Device, optim.DefaultGradScaler()); err != nil {
			return err
		}
	}
	s.Scales = c.Spec.Architecture.DeepSupervisionScales()
	s.Loss, err = loss.New(loss.Config{Regions: c.Labels.HasRegions, IgnoreLabel: c.Labels.IgnoreLabel,
		BatchDice: c.BatchDice, Weights: s.headWeights(), Fast: !c.Machine.IsReference(), Ranks: s.ranks.loss()})
	if err != nil {
		return err
	}
	if s.queues() {
		s.late, err = newLate(c.Machine.Device)
	}
	return err
}

// TargetSizes are the sizes of a target for each level of deep supervision, in voxels along each axis.
func (s *Session) TargetSizes() (list [][]int64) {
	for _, scale := range s.Scales {
		var size []int64
		for i, f := range scale {
			size = append(size, int64(math.Round(float64(s.cfg.Patch[i])*f)))
		}
		list = append(list, size)
	}
	return list
}

// headWeights are the weights of the network's outputs in the loss.
func (s *Session) headWeights() []float64 {
	if s.peers.size() > 1 && s.cfg.Machine.IsReference() {
		return plans.DistributedWeights(len(s.Scales))
	}
	return plans.DeepSupervisionWeights(len(s.Scales))
}

// injectionStream keeps the adapters' first values apart from the numbers that steps, which count from
// 0, draw.
const injectionStream = 1 << 62

func (s *Session) recompute() error {
	r, ok := s.Net.(models.Recomputer)
	if !ok {
		return fmt.Errorf("--recompute: %s keeps its activations; it is for networks such as those of %s",
			s.cfg.Spec.Architecture.Class(), strings.Join(models.Trainers(), ", "))
	}
	if _, ok := s.cfg.Method.(finetune.Injector); ok {
		return fmt.Errorf("--recompute: the adapters of method %s would draw other random numbers the second time", s.cfg.MethodName)
	}
	r.SetRecompute(true)
	return nil
}

// collect lists the network's parameters, asks the method which of them train, and makes the optimizer.
// It holds all parameters, as nnU-Net's does; those that do not train never have a gradient, and are
// left alone.
func (s *Session) collect() error {
	c := &s.cfg
	s.Params = s.Net.Module().Parameters()
	var names []string
	for _, p := range s.Params {
		names = append(names, p.Name)
	}
	if err := c.Refine.Check(names); err != nil {
		return err
	}
	for _, p := range s.Params {
		s.tensors = append(s.tensors, p.T)
		trains := c.Refine.Apply(p.Name, c.Method.Trains(p.Name, p.Shape))
		if err := p.T.SetRequiresGrad(trains); err != nil {
			return err
		}
		if trains {
			s.Trained = append(s.Trained, finetune.Param{Name: p.Name, T: p.T})
		}
	}
	if len(s.Trained) == 0 {
		return fmt.Errorf("method %s with --train %q and --freeze %q trains no parameter of this network", c.MethodName, c.Refine.Train, c.Refine.Freeze)
	}
	if m, ok := c.Method.(finetune.Seeded); ok {
		m.Seed(c.Seed)
	}
	o := c.Optimizer
	var err error
	s.SGD, err = optim.NewSGD(s.tensors, torch.SGD{LR: o.LR, Momentum: o.Momentum, WeightDecay: o.WeightDecay, Nesterov: o.Momentum > 0, Impl: s.impl()})
	return err
}

// impl: PyTorch steps tensor by tensor on the CPU and over whole lists on CUDA, where one kernel is
// quicker.
func (s *Session) impl() torch.Impl {
	switch {
	case s.cfg.Machine.Device.Type == torch.DeviceCPU:
		return torch.SingleTensor
	case s.cfg.Machine.IsReference():
		return torch.Foreach
	}
	return torch.Fused
}

// TrainedCount is the number of trainable entries.
func (s *Session) TrainedCount() int64 {
	n := int64(0)
	for _, p := range s.Trained {
		n += p.T.Numel()
	}
	return n
}

// Close frees the network and everything that belongs to it. The method is closed, too.
func (s *Session) Close() {
	if s == nil {
		return
	}
	if s.SGD != nil {
		s.SGD.Close()
	}
	if s.Scaler != nil {
		s.Scaler.Close()
	}
	if m, ok := s.cfg.Method.(io.Closer); ok {
		m.Close()
	}
	if s.late != nil {
		s.late.numbers.Close()
	}
	s.ranks.close()
	if s.scope != nil {
		s.scope.Close()
	}
}

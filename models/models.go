// Package models builds lntorch's networks: one file for each network, registered under the last component of its
// upstream class name. Names, order and shapes of parameters equal PyTorch's.
package models

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// Network is a segmentation network. It is used by one goroutine at a time.
type Network interface {
	// Module is the root of the tree of parameter names.
	Module() *nn.Module
	// Forward: x (n, channels, spatial…) float32 → logits (n, classes, spatial…). With deep supervision one tensor for
	// each decoder stage, highest resolution first; else the first alone.
	Forward(s *torch.Scope, x *torch.Tensor) []*torch.Tensor
	// SetDeepSupervision switches the lower heads; it is off in a new network, as in nnU-Net's.
	SetDeepSupervision(on bool)
	// SetTraining switches dropout; it is on in a new network, as in PyTorch's.
	SetTraining(on bool)
	// SetFast lets the network fuse operators and choose the order of axes in memory. It is off in a new network: then each
	// of the reference's operators runs in its turn, with its bits.
	SetFast(on bool)
	// CheckInput says whether the network can take an input of these spatial sizes, and if not why.
	CheckInput(spatial []int64) error
}

// Spec is what a network is built from.
type Spec struct {
	Architecture  *plans.Architecture
	InputChannels int
	NumClasses    int // segmentation heads: channels of the logits
}

// Recomputer is a network that can do without its activations: the backward pass computes them again, which takes less
// memory and more time (MONAI's use_checkpoint). It is off in a new network.
type Recomputer interface{ SetRecompute(on bool) }

// Sizer is a network that estimates by itself how many numbers a training step keeps for its backward pass; for others the
// architecture's stages tell.
type Sizer interface {
	Activations(batch int64, spatial []int64) int64
}

// Constructor builds a network whose parameters have no values yet; Reset or loading gives them.
type Constructor func(b nn.Builder, spec Spec) (Network, error)

// Entry describes a network to the registry.
type Entry struct {
	Class string // last component of its upstream class name
	New   Constructor
	// Recognise reads from the shapes of a state dict's tensors, by name, what the network was built from; nil when they are
	// not this class's.
	Recognise func(shapes map[string][]int64) *Spec

	// The rest is for networks that the plans do not describe: LN-Seg-FM's trainer that builds it whatever they say, what
	// that trainer builds for inputs of dim spatial axes, and its defaults.
	Trainer  string
	Released func(dim int) *plans.Architecture
	LR       float64
	Epochs   int
}

var entries = map[string]Entry{}

// Register makes a network known under its class name. Each network file calls it from init.
func Register(e Entry) { entries[e.Class] = e }

// Classes lists the registered class names, sorted.
func Classes() []string { return slices.Sorted(maps.Keys(entries)) }

// ByTrainer finds the network that a trainer class builds whatever the plans say.
func ByTrainer(trainer string) (Entry, bool) {
	for _, e := range entries {
		if e.Trainer != "" && e.Trainer == trainer {
			return e, true
		}
	}
	return Entry{}, false
}

// Trainers lists the trainers that ByTrainer knows, sorted.
func Trainers() []string {
	var names []string
	for _, e := range entries {
		if e.Trainer != "" {
			names = append(names, e.Trainer)
		}
	}
	slices.Sort(names)
	return names
}

// Planned tells whether plans describe networks of the class: their architecture block names it.
func Planned(class string) bool {
	e, ok := entries[class]
	return ok && e.Trainer == ""
}

// Architecture is the network that a trainer class builds for a configuration: its own one, else the plans'.
func Architecture(trainer string, c *plans.Configuration) (*plans.Architecture, error) {
	if e, ok := ByTrainer(trainer); ok {
		return e.Released(len(c.PatchSize)), nil
	}
	return c.Architecture()
}

// ArchitectureOf is the network that a checkpoint holds: as its tensors' shapes say where plans do not describe the class,
// else the plans'.
func ArchitectureOf(shapes map[string][]int64, c *plans.Configuration) (*plans.Architecture, error) {
	if s := Recognise(shapes); s != nil && !Planned(s.Architecture.NetworkClass) {
		return s.Architecture, nil
	}
	return c.Architecture()
}

// Recognise reads from the shapes of a state dict's tensors, by name, which network they belong to and what it was built
// from: all that shapes reveal, and no more. It gives nil for a network that is not known.
func Recognise(shapes map[string][]int64) *Spec {
	for _, class := range Classes() {
		if s := entries[class].Recognise(shapes); s != nil {
			return s
		}
	}
	return nil
}

// Build makes the network of spec, with parameters in b's scope and device and without values.
func Build(b nn.Builder, spec Spec) (Network, error) {
	if spec.Architecture == nil {
		return nil, fmt.Errorf("models: no architecture")
	}
	e, ok := entries[spec.Architecture.NetworkClass]
	if !ok {
		return nil, fmt.Errorf("models: network class %q is not known; known: %s", spec.Architecture.NetworkClass, strings.Join(Classes(), ", "))
	}
	if spec.InputChannels < 1 || spec.NumClasses < 1 {
		return nil, fmt.Errorf("models: %d input channels and %d classes: both must be at least 1", spec.InputChannels, spec.NumClasses)
	}
	n, err := e.New(b, spec)
	if err != nil {
		return nil, fmt.Errorf("models: %s: %w", spec.Architecture.NetworkClass, err)
	}
	return n, b.Scope.Err()
}

// ParameterCount is the number of trainable numbers, aliases counted once.
func ParameterCount(n Network) int64 {
	total := int64(0)
	for _, p := range n.Module().Parameters() {
		size := int64(1)
		for _, d := range p.Shape {
			size *= d
		}
		total += size
	}
	return total
}

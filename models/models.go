// Package models builds lntorch's networks. Each network is one file: its architecture, which is
// the arguments of its upstream class, and an entry in the registry with everything else that the
// program must know of it. Names, order and shapes of parameters equal PyTorch's.
package models

import (
	"fmt"
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

// Recomputer is a network that can do without its activations: the backward pass computes them again, which takes less
// memory and more time (MONAI's use_checkpoint). It is off in a new network.
type Recomputer interface{ SetRecompute(on bool) }

// Architecture is what a network is built from, besides the channels of its input and output: the
// arguments of its class. Each network has a type of its own, in its own file.
type Architecture interface {
	// Class is the last component of the upstream class name.
	Class() string
	// Dim is the number of spatial axes, 2 or 3.
	Dim() int
	// Stages is the number of resolutions, the input's included.
	Stages() int
	// Divisor is what the sizes of an input must be divisible by, per axis.
	Divisor() []int
	// DeepSupervisionScales has a row for each output with deep supervision, highest resolution
	// first: its size relative to the input's, per axis.
	DeepSupervisionScales() [][]float64
	// Activations estimates how many numbers a training step keeps for its backward pass.
	Activations(s Step) int64
	// Describe is the architecture in one line.
	Describe() string
	// Arguments are the constructor's arguments that show in the shapes of a state dict, by their
	// upstream names.
	Arguments() map[string]any
	// Compare says which of the arguments that show in shapes differ, where plans mean this
	// architecture and weights have the other one.
	Compare(weights Architecture) []string
	// New builds the network. Parameters have no values yet; Reset or loading gives them.
	New(b nn.Builder, inputChannels, classes int) (Network, error)
}

// Step is what Activations depends on.
type Step struct {
	Batch     int
	Patch     []int
	Fused     bool // with SetFast, on the CPU
	Recompute bool // with SetRecompute
}

// Topology is what nnU-Net's measure of a U-Net's memory goes by.
type Topology struct {
	Strides          [][]int // per stage, one entry per axis
	Features, Blocks []int   // per stage of the encoder; Blocks are convolutions, or with Residual blocks
	DecoderConvs     []int   // per stage of the decoder
	Residual         bool
}

// Measured is an architecture whose memory nnU-Net measures when it plans.
type Measured interface{ Topology() Topology }

// Spec is what a network is built from.
type Spec struct {
	Architecture  Architecture
	InputChannels int
	NumClasses    int // segmentation heads: channels of the logits
}

// Entry is what the program knows of a network without having one.
type Entry struct {
	Class   string // upstream class path
	Summary string // what it is, in a line

	// Parse reads the arguments of a plans file's architecture block, for patches of dim axes;
	// errors are left in args. It is nil for a network that plans do not describe, because a
	// trainer builds it whatever they say.
	Parse func(args plans.Arguments, dim int) Architecture
	// Recognise reads from the shapes of a state dict's tensors, by name, what the network was built from; nil when they are
	// not this class's.
	Recognise func(shapes map[string][]int64) *Spec

	// IsHead tells by its name whether a parameter belongs to a segmentation head: the layers whose
	// outputs are the logits of one resolution.
	IsHead func(name string) bool
	// IsTransposed tells by its name whether a parameter belongs to a transposed convolution, whose
	// weight is (in, out, kernel…).
	IsTransposed func(name string) bool
	// Canonical is the name under which PyTorch first lists a parameter that it lists several
	// times; nil: it lists none again.
	Canonical func(name string) string

	// Trainer is the class that trains the network by default where that is not nnU-Net's:
	// LN-Seg-FM's, with what it builds for inputs of dim spatial axes, and its defaults.
	Trainer  string
	Released func(dim int) Architecture
	LR       float64
	Epochs   int

	Sizes []Size
}

// Size is an architecture with a name, with one input channel and two classes in mind: the released
// ones, and smaller ones to time.
type Size struct {
	Name    string
	Summary string
	Patch   []int  // z, y, x
	Block   string // architecture block of plans.json; "": what Released builds
}

// Name is the last component of the class name.
func (e Entry) Name() string { return plans.LastComponent(e.Class) }

var entries []Entry // by Name

// Register makes a network known. Each network file calls it from init.
func Register(e Entry) {
	entries = append(entries, e)
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name(), b.Name()) })
}

// Entries lists the registered networks by name.
func Entries() []Entry { return slices.Clone(entries) }

// Classes lists the names of the registered networks, sorted.
func Classes() []string { return names(func(e Entry) string { return e.Name() }) }

// Trainers lists the trainers that ByTrainer knows, sorted.
func Trainers() []string { return names(func(e Entry) string { return e.Trainer }) }

// names lists what is not "", sorted.
func names(of func(Entry) string) []string {
	var list []string
	for _, e := range entries {
		if n := of(e); n != "" {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}

// ByTrainer finds the network that a trainer class builds whatever the plans say.
func ByTrainer(trainer string) (Entry, bool) {
	return find(func(e Entry) bool { return e.Trainer != "" && e.Trainer == trainer })
}

// Planned tells whether plans describe networks of the class, given by its name: their architecture
// block names it.
func Planned(class string) bool {
	_, ok := find(func(e Entry) bool { return e.Name() == class && e.Parse != nil })
	return ok
}

func find(is func(Entry) bool) (Entry, bool) {
	if i := slices.IndexFunc(entries, is); i >= 0 {
		return entries[i], true
	}
	return Entry{}, false
}

// Sized finds a size by its name, and whose it is.
func Sized(name string) (Entry, Size, bool) {
	for _, e := range entries {
		for _, s := range e.Sizes {
			if s.Name == name {
				return e, s, true
			}
		}
	}
	return Entry{}, Size{}, false
}

// Parse reads the architecture that a configuration's plans describe. The class is found by the
// last component of its dotted name. Arguments that it does not have are an error that names them.
func Parse(c *plans.Configuration) (Architecture, error) {
	n, err := c.Network()
	if err != nil {
		return nil, err
	}
	e, ok := find(func(e Entry) bool { return e.Parse != nil && e.Name() == plans.LastComponent(n.Class) })
	if !ok {
		return nil, n.UnknownClass(names(func(e Entry) string {
			if e.Parse == nil {
				return ""
			}
			return e.Name()
		}))
	}
	a := e.Parse(n.Arguments, len(c.PatchSize))
	if err := n.Arguments.Err(); err != nil {
		return nil, err
	}
	return a, nil
}

// ForTrainer is the architecture that a trainer class builds for a configuration: its own one, else
// the plans'.
func ForTrainer(trainer string, c *plans.Configuration) (Architecture, error) {
	if e, ok := ByTrainer(trainer); ok {
		return e.Released(len(c.PatchSize)), nil
	}
	return Parse(c)
}

// ForWeights is the architecture of the network that a checkpoint holds: as its tensors' shapes say
// where plans do not describe the class, else the plans'.
func ForWeights(shapes map[string][]int64, c *plans.Configuration) (Architecture, error) {
	if s := Recognise(shapes); s != nil && !Planned(s.Architecture.Class()) {
		return s.Architecture, nil
	}
	return Parse(c)
}

// Recognise reads from the shapes of a state dict's tensors, by name, which network they belong to and what it was built
// from: all that shapes reveal, and no more. It gives nil for a network that is not known.
func Recognise(shapes map[string][]int64) *Spec {
	for _, e := range entries {
		if s := e.Recognise(shapes); s != nil {
			return s
		}
	}
	return nil
}

// Differences lists where plans mean another network than weights have.
func Differences(want, weights Architecture) []string {
	return append(difference(nil, "network", want.Class(), weights.Class()), want.Compare(weights)...)
}

// difference adds a line where the two are not the same as text.
func difference(lines []string, what string, plans, weights any) []string {
	if p, w := fmt.Sprint(plans), fmt.Sprint(weights); p != w {
		lines = append(lines, fmt.Sprintf("%s: plans %s, weights %s", what, p, w))
	}
	return lines
}

// IsHead tells by its name whether a parameter belongs to a segmentation head of any of the
// networks.
func IsHead(name string) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.IsHead(name) })
}

// IsTransposed tells by its name whether a parameter belongs to a transposed convolution of any of
// the networks.
func IsTransposed(name string) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.IsTransposed(name) })
}

// Canonical is the name under which PyTorch first lists a parameter of any of the networks. Names
// that are not listed again are their own.
func Canonical(name string) string {
	for _, e := range entries {
		if e.Canonical != nil {
			if c := e.Canonical(name); c != name {
				return c
			}
		}
	}
	return name
}

// CanonicalLayer is Canonical for the name of a layer with a weight.
func CanonicalLayer(layer string) string {
	return strings.TrimSuffix(Canonical(layer+".weight"), ".weight")
}

// Build makes the network of spec, with parameters in b's scope and device and without values.
func Build(b nn.Builder, spec Spec) (Network, error) {
	if spec.Architecture == nil {
		return nil, fmt.Errorf("models: no architecture")
	}
	if spec.InputChannels < 1 || spec.NumClasses < 1 {
		return nil, fmt.Errorf("models: %d input channels and %d classes: both must be at least 1", spec.InputChannels, spec.NumClasses)
	}
	n, err := spec.Architecture.New(b, spec.InputChannels, spec.NumClasses)
	if err != nil {
		return nil, fmt.Errorf("models: %s: %w", spec.Architecture.Class(), err)
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

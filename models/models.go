// Package models builds lntorch's segmentation networks. Each network is one file with its
// architecture (the arguments of its upstream class) and its registry entry, which holds everything
// else that the program needs to know about it. Names, order and shapes of parameters equal
// PyTorch's. The package does not read files, hold pre-trained weights or train.
package models

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// Network is a segmentation network. It is not safe for concurrent use.
type Network interface {
	// Module is the root of the tree of parameter names.
	Module() *nn.Module
	// Forward: x (n, channels, spatial…) float32 → logits (n, classes, spatial…). With deep
	// supervision one tensor per decoder stage, highest resolution first; otherwise only the first.
	Forward(s *torch.Scope, x *torch.Tensor) []*torch.Tensor
	// SetDeepSupervision enables the lower-resolution heads; initially off, as in nnU-Net.
	SetDeepSupervision(on bool)
	// SetTraining enables dropout; initially on, as in PyTorch.
	SetTraining(on bool)
	// SetFast allows fused operators and other memory formats. Initially off: the network then runs
	// the reference's operators in order and is bit-equal to it.
	SetFast(on bool)
	// CheckInput returns an error if the network cannot process an input of these spatial sizes.
	CheckInput(spatial []int64) error
}

// Recomputer is a network that can recompute activations in the backward pass, which takes less
// memory and more time (MONAI's use_checkpoint). Initially off.
type Recomputer interface{ SetRecompute(on bool) }

// Architecture holds the constructor arguments of a network class, except the channels of input and
// output. Each network has its own type, in its own file.
type Architecture interface {
	// Class is the last component of the upstream class name.
	Class() string
	// Dim is the number of spatial axes, 2 or 3.
	Dim() int
	// Stages is the number of resolutions, including that of the input.
	Stages() int
	// Divisor is the required divisor of the input size, per axis.
	Divisor() []int
	// DeepSupervisionScales has a row per output with deep supervision, highest resolution first:
	// its size relative to the input, per axis.
	DeepSupervisionScales() [][]float64
	// Activations estimates the number of values that a training step keeps for the backward pass.
	Activations(s Step) int64
	// Describe returns a one-line description.
	Describe() string
	// Arguments returns the constructor arguments that can be inferred from the shapes of a state
	// dict, by upstream name.
	Arguments() map[string]any
	// Compare lists the differences between this architecture, from the plans, and that of the
	// weights, in the arguments that can be inferred from shapes.
	Compare(weights Architecture) []string
	// New builds the network with uninitialised parameters. Reset or loading a checkpoint sets
	// them.
	New(b nn.Builder, inputChannels, classes int) (Network, error)
}

// Step describes a training step to Activations.
type Step struct {
	Batch     int
	Patch     []int
	Fused     bool // with SetFast, on the CPU
	Recompute bool // with SetRecompute
}

// Topology is the input of nnU-Net's memory estimate of a U-Net.
type Topology struct {
	Strides          [][]int // per stage, one entry per axis
	Features, Blocks []int   // per encoder stage; Blocks: convolutions, or residual blocks
	DecoderConvs     []int   // per stage of the decoder
	Residual         bool
}

// Measured is an architecture whose memory nnU-Net estimates during planning.
type Measured interface{ Topology() Topology }

// Spec holds everything that a network is built from.
type Spec struct {
	Architecture  Architecture
	InputChannels int
	NumClasses    int // segmentation heads: channels of the logits
}

// Entry describes a network class to the registry.
type Entry struct {
	Class   string // upstream class path
	Summary string // one-line description

	// Parse reads the arguments of a plans file's architecture block, for patches of dim axes;
	// errors are recorded in args. It is nil for a network not described by the plans, because its
	// trainer builds it independently of them.
	Parse func(args plans.Arguments, dim int) Architecture
	// Recognise infers the Spec of a network from the shapes of its state dict's tensors, by name;
	// nil if they are of another class.
	Recognise func(shapes map[string][]int64) *Spec

	// IsHead reports by name whether a parameter belongs to a segmentation head: the layers that
	// output the logits of one resolution.
	IsHead func(name string) bool
	// IsTransposed reports by name whether a parameter belongs to a transposed convolution, whose
	// weight is (in, out, kernel…).
	IsTransposed func(name string) bool
	// Canonical returns the first of the names under which PyTorch lists a parameter; nil if no
	// parameter has aliases.
	Canonical func(name string) string

	// Trainer is the default trainer class of the network if it is not nnU-Net's but LN-Seg-FM's,
	// with the architecture it builds for inputs of dim spatial axes and its defaults.
	Trainer  string
	Released func(dim int) Architecture
	LR       float64
	Epochs   int

	Sizes []Size
}

// Size is a named architecture for one input channel and two classes: the released ones, and
// smaller ones for benchmarks.
type Size struct {
	Name    string
	Summary string
	Patch   []int  // z, y, x
	Block   string // architecture block of plans.json; "": the one that Released builds
}

// Name returns the last component of the class name.
func (e Entry) Name() string { return plans.LastComponent(e.Class) }

var entries []Entry // by Name

// Register adds a network to the registry. Each network file calls it from init.
func Register(e Entry) {
	entries = append(entries, e)
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name(), b.Name()) })
}

// Entries lists the registered networks by name.
func Entries() []Entry { return slices.Clone(entries) }

// Classes lists the names of the registered networks, sorted.
func Classes() []string { return names(func(e Entry) string { return e.Name() }) }

// Trainers lists the trainers known to ByTrainer, sorted.
func Trainers() []string { return names(func(e Entry) string { return e.Trainer }) }

// names lists the non-empty results of of, sorted.
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

// ByTrainer finds the network that a trainer class builds independently of the plans.
func ByTrainer(trainer string) (Entry, bool) {
	return find(func(e Entry) bool { return e.Trainer != "" && e.Trainer == trainer })
}

// Planned reports whether the class, given by name, can be described by plans, in their
// architecture block.
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

// Sized finds a size by name, and its entry.
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

// Parse reads the architecture of a configuration in the plans. The class is looked up by the last
// component of its dotted name. Unknown arguments are an error that lists them.
func Parse(c *plans.Configuration) (Architecture, error) {
	n, err := c.Network()
	if err != nil {
		return nil, err
	}
	e, ok := find(func(e Entry) bool {
		return e.Parse != nil &&
			e.Name() == plans.LastComponent(n.Class)
	})
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

// ForTrainer returns the architecture that a trainer class builds for a configuration: its own if
// it has one, otherwise that of the plans.
func ForTrainer(trainer string, c *plans.Configuration) (Architecture, error) {
	if e, ok := ByTrainer(trainer); ok {
		return e.Released(len(c.PatchSize)), nil
	}
	return Parse(c)
}

// ForWeights returns the architecture of a checkpoint's network: inferred from the tensor shapes if
// the class is not described by the plans, otherwise that of the plans.
func ForWeights(shapes map[string][]int64, c *plans.Configuration) (Architecture, error) {
	if s := Recognise(shapes); s != nil && !Planned(s.Architecture.Class()) {
		return s.Architecture, nil
	}
	return Parse(c)
}

// Recognise infers the Spec of a network from the shapes of its state dict's tensors, by name.
// Arguments that do not affect shapes are not set. It returns nil for an unknown network.
func Recognise(shapes map[string][]int64) *Spec {
	for _, e := range entries {
		if s := e.Recognise(shapes); s != nil {
			return s
		}
	}
	return nil
}

// Differences lists the differences between the architectures of plans and weights.
func Differences(want, weights Architecture) []string {
	return append(difference(nil, "network", want.Class(), weights.Class()),
		want.Compare(weights)...)
}

// difference appends a line if the text forms of the two differ.
func difference(lines []string, what string, plans, weights any) []string {
	if p, w := fmt.Sprint(plans), fmt.Sprint(weights); p != w {
		lines = append(lines, fmt.Sprintf("%s: plans %s, weights %s", what, p, w))
	}
	return lines
}

// IsHead reports by name whether a parameter belongs to a segmentation head of any of the networks.
func IsHead(name string) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.IsHead(name) })
}

// IsTransposed reports by name whether a parameter belongs to a transposed convolution of any of
// the networks.
func IsTransposed(name string) bool {
	return slices.ContainsFunc(entries, func(e Entry) bool { return e.IsTransposed(name) })
}

// Canonical returns the first of the names under which PyTorch lists a parameter of any of the
// networks; a name without aliases is returned unchanged.
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

// Build builds the network of spec with uninitialised parameters in b's scope and on b's device.
func Build(b nn.Builder, spec Spec) (Network, error) {
	if spec.Architecture == nil {
		return nil, fmt.Errorf("models: no architecture")
	}
	if spec.InputChannels < 1 || spec.NumClasses < 1 {
		return nil, fmt.Errorf("models: %d input channels and %d classes: expected at least 1 of "+
			"each", spec.InputChannels, spec.NumClasses)
	}
	n, err := spec.Architecture.New(b, spec.InputChannels, spec.NumClasses)
	if err != nil {
		return nil, fmt.Errorf("models: %s: %w", spec.Architecture.Class(), err)
	}
	return n, b.Scope.Err()
}

// ParameterCount returns the number of trainable values; aliases count once.
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

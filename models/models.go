// Package models builds lntorch's networks: one file for each network, registered under the last component of its
// upstream class name. Names, order and shapes of parameters equal PyTorch's.
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

// Spec is what a network is built from.
type Spec struct {
	Architecture  *plans.Architecture
	InputChannels int
	NumClasses    int // segmentation heads: channels of the logits
}

// Constructor builds a network whose parameters have no values yet; Reset or loading gives them.
type Constructor func(b nn.Builder, spec Spec) (Network, error)

var constructors = map[string]Constructor{}

// Register makes a network known under its class name. Each network file calls it from init.
func Register(class string, c Constructor) { constructors[class] = c }

// Classes lists the registered class names, sorted.
func Classes() []string {
	var names []string
	for n := range constructors {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Build makes the network of spec, with parameters in b's scope and device and without values.
func Build(b nn.Builder, spec Spec) (Network, error) {
	if spec.Architecture == nil {
		return nil, fmt.Errorf("models: no architecture")
	}
	c, ok := constructors[spec.Architecture.NetworkClass]
	if !ok {
		return nil, fmt.Errorf("models: network class %q is not known; known: %s", spec.Architecture.NetworkClass, strings.Join(Classes(), ", "))
	}
	if spec.InputChannels < 1 || spec.NumClasses < 1 {
		return nil, fmt.Errorf("models: %d input channels and %d classes: both must be at least 1", spec.InputChannels, spec.NumClasses)
	}
	n, err := c(b, spec)
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

// Package nn holds the layers of lntorch's networks and the module tree that gives parameters their
// PyTorch names. It is not a general neural-network library: it has only the layers used by package
// models. Behaviour follows torch.nn and, for initial values, nnU-Net and MONAI.
package nn

import (
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/torch"
)

// Param is one tensor of a network. It may have several names (aliases), which share one *Param.
type Param struct {
	T       *torch.Tensor
	Shape   []int64
	Buffer  bool    // saved with the network, not trained
	Use     Use     // the kind of layer it is the weight of
	Adapter Adapter // adapts that layer; nil for none
}

// Named is a parameter or buffer under its full name, such as
// "encoder.stages.0.0.convs.0.conv.weight".
type Named struct {
	Name string
	*Param
}

// Module is a node of the module tree. Children and parameters keep their order of registration, as
// in PyTorch: it is the order of a state dict and of an optimizer's parameter indices.
type Module struct {
	// Version is the module's version in the _metadata of a state dict: 2 for instance norms, 1
	// otherwise.
	Version  int
	params   []Named
	children []child
	reset    func(s *torch.Scope, g *torch.Generator)
	drawn    []*Module
}

type child struct {
	name string
	*Module
}

// NewModule returns an empty node.
func NewModule() *Module { return &Module{Version: 1} }

// Add registers p under name.
func (m *Module) Add(name string, p *Param) { m.params = append(m.params, Named{name, p}) }

// Child registers c under name. A child may be registered in several places; its parameters then
// have aliases.
func (m *Module) Child(name string, c *Module) { m.children = append(m.children, child{name, c}) }

// Sequence registers modules under the names 0, 1, … of a new node.
func Sequence(ms ...*Module) *Module {
	seq := NewModule()
	for i, m := range ms {
		seq.Child(fmt.Sprint(i), m)
	}
	return seq
}

// OnReset sets the function that Reset calls for the module's own parameters.
func (m *Module) OnReset(f func(s *torch.Scope, g *torch.Generator)) { m.reset = f }

// walk visits every path of the tree, aliases included, in PyTorch's order.
func (m *Module) walk(path string, visit func(path string, m *Module)) {
	visit(path, m)
	for _, c := range m.children {
		p := c.name
		if path != "" {
			p = path + "." + c.name
		}
		c.walk(p, visit)
	}
}

// StateDict lists every parameter and buffer under each of its names, in the order of PyTorch's
// state_dict().
func (m *Module) StateDict() []Named {
	var all []Named
	m.walk("", func(path string, m *Module) {
		for _, p := range m.params {
			all = append(all, Named{join(path, p.Name), p.Param})
		}
	})
	return all
}

// Parameters lists each trainable parameter once, under its first name, in the order of PyTorch's
// named_parameters(). Adapter parameters follow those of the adapted layer.
func (m *Module) Parameters() []Named {
	var list []Named
	seen := map[*Param]bool{}
	m.walk("", func(path string, m *Module) {
		var adapters []Named
		for _, n := range m.params {
			if seen[n.Param] {
				continue
			}
			seen[n.Param] = true
			if !n.Buffer {
				list = append(list, Named{join(path, n.Name), n.Param})
			}
			if n.Adapter != nil {
				for _, a := range n.Adapter.Params() {
					adapters = append(adapters, Named{join(path, a.Name), a.Param})
				}
			}
		}
		list = append(list, adapters...)
	})
	return list
}

// Metadata is one entry of a state dict's _metadata.
type Metadata struct {
	Path    string
	Version int
}

// Metadata lists every module path, those without parameters included, in PyTorch's order.
func (m *Module) Metadata() []Metadata {
	var all []Metadata
	m.walk("", func(path string, m *Module) { all = append(all, Metadata{path, m.Version}) })
	return all
}

// ResetOrder makes Reset start with the given modules, in this order, for networks whose reference
// constructs modules in another order than it registers them: a seed then gives the reference's
// values.
func (m *Module) ResetOrder(ms ...*Module) { m.drawn = ms }

// Reset reinitialises the parameters of every module whose first path match accepts; nil accepts
// all.
func (m *Module) Reset(g *torch.Generator, match func(path string) bool) error {
	return torch.NoGrad(func() error {
		return torch.With(func(s *torch.Scope) error {
			paths := map[*Module]string{}
			order := slices.Clone(m.drawn)
			m.walk("", func(path string, c *Module) {
				if _, seen := paths[c]; !seen {
					paths[c] = path
					order = append(order, c)
				}
			})
			done := map[*Module]bool{}
			for _, c := range order {
				if c.reset != nil && !done[c] && (match == nil || match(paths[c])) {
					c.reset(s, g)
				}
				done[c] = true
			}
			return nil
		})
	})
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// Builder creates the parameters of a network on Device, owned by Scope.
type Builder struct {
	Scope  *torch.Scope
	Device torch.Device
}

// Buffer returns an int64 tensor that is saved with the network but not trained.
func (b Builder) Buffer(values []int64, shape ...int64) *Param {
	return &Param{T: b.Scope.To(torch.FromSlice(b.Scope, values, shape...), torch.Int64, b.Device),
		Shape: shape, Buffer: true}
}

// Param returns a float32 parameter with uninitialised values.
func (b Builder) Param(shape ...int64) *Param {
	t := b.Scope.Empty(shape, torch.Float32, b.Device)
	if err := t.SetRequiresGrad(true); err != nil {
		b.Scope.Fail(err)
	}
	return &Param{T: t, Shape: shape}
}

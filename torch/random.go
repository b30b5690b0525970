package torch

// #include "shim_gen.h"
import "C"

import "unsafe"

// Generator is a random number generator (torch.Generator). Close frees it.
type Generator struct{ c unsafe.Pointer }

// NewGenerator returns a seeded generator for tensors on device.
func NewGenerator(device Device, seed uint64) (*Generator, error) {
	if err := Load(); err != nil {
		return nil, err
	}
	g := &Generator{}
	if err := message(C.lnt_generator_new(C.int64_t(device.Type), C.int64_t(device.Index),
		C.uint64_t(seed), &g.c)); err != nil {
		return nil, err
	}
	return g, nil
}

// Close frees the generator.
func (g *Generator) Close() {
	if g.c != nil {
		C.lnt_generator_free(g.c)
		g.c = nil
	}
}

// State copies the generator's state into a uint8 tensor of s.
func (s *Scope) State(g *Generator) *Tensor {
	if !s.ready("get_state") {
		return nil
	}
	var out unsafe.Pointer
	return s.result("get_state", C.lnt_generator_state(g.c, &out), &out)
}

// SetState restores the result of State.
func (g *Generator) SetState(state *Tensor) error {
	if state == nil || state.c == nil {
		return errNil
	}
	return message(C.lnt_generator_set_state(g.c, state.c))
}

// ManualSeed seeds libtorch's default generators, used by dropout (torch.manual_seed).
func ManualSeed(seed uint64) error {
	if err := Load(); err != nil {
		return err
	}
	return message(C.lnt_manual_seed(C.uint64_t(seed)))
}

func (g *Generator) handle() unsafe.Pointer {
	if g == nil {
		return nil
	}
	return g.c
}

// Normal_ fills x with N(mean, std²) from g (nil: the default generator).
func (s *Scope) Normal_(x *Tensor, mean, std float64, g *Generator) {
	if s.ready("normal_", x) {
		s.failed("normal_", C.lnt_normal_(x.c, C.double(mean), C.double(std), g.handle()), x)
	}
}

// Uniform_ fills x with U[from, to) from g (nil: the default generator).
func (s *Scope) Uniform_(x *Tensor, from, to float64, g *Generator) {
	if s.ready("uniform_", x) {
		s.failed("uniform_", C.lnt_uniform_(x.c, C.double(from), C.double(to), g.handle()), x)
	}
}

// RandPerm is a random permutation of 0…n-1 (int64) from g (nil: the default generator).
func (s *Scope) RandPerm(n int64, g *Generator) *Tensor {
	if !s.ready("randperm") {
		return nil
	}
	var out unsafe.Pointer
	return s.result("randperm", C.lnt_randperm(C.int64_t(n), g.handle(), &out), &out)
}

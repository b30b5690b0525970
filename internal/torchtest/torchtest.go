// Package torchtest holds what the tests of torch and of the packages above it share: skipping if
// libtorch or a GPU is missing, leak counts, deterministic random values, and the op suite. Only
// tests import it.
package torchtest

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/torch"
)

// Require skips the test if the shim cannot be loaded, or fails it if LNTORCH_REQUIRE names
// "torch".
func Require(t testing.TB) {
	t.Helper()
	if err := torch.Load(); err != nil {
		golden.Missing(t, "torch", err.Error())
	}
}

// Device parses "cpu" or "cuda" and skips the test if the device cannot be used, or fails it if
// LNTORCH_REQUIRE names it.
func Device(t testing.TB, name string) torch.Device {
	t.Helper()
	Require(t)
	d, err := torch.ParseDevice(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := torch.CheckDevice(d); err != nil {
		golden.Missing(t, name, err.Error())
	}
	return d
}

// EachDevice runs f in a subtest for the CPU, and in one for the GPU, which Device may skip; neither
// may leave tensors behind.
func EachDevice(t *testing.T, f func(t *testing.T, d torch.Device)) {
	t.Helper()
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			d := Device(t, name)
			NoLeak(t)
			f(t, d)
		})
	}
}

// NoLeak requires libtorch, as Require does, and fails the test if the number of live tensor
// handles at its end differs from now. Tests that use it must not run in parallel with others that
// create tensors.
func NoLeak(t testing.TB) {
	t.Helper()
	Require(t)
	before := torch.Live()
	t.Cleanup(func() {
		if after := torch.Live(); after != before {
			t.Errorf("%d tensor handles lived before the test, %d live after it", before, after)
		}
	})
}

// Rand returns a random source that depends only on seed.
func Rand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x6c6e746f726368)) }

// Fill returns n standard normal values that depend only on seed.
func Fill(seed uint64, n int64) []float32 {
	r := Rand(seed)
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

// Tensor returns a float32 CPU tensor of Fill's values.
func Tensor(s *torch.Scope, seed uint64, shape ...int64) *torch.Tensor {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return torch.FromSlice(s, Fill(seed, n), shape...)
}

// Float32s copies the elements of x, row-major; a failure ends the test.
func Float32s(t testing.TB, x *torch.Tensor) []float32 {
	t.Helper()
	v, err := torch.Slice[float32](x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Bits returns the bit patterns of v, for comparisons that distinguish NaNs and signed zeros.
func Bits(v []float32) []uint32 {
	b := make([]uint32, len(v))
	for i := range v {
		b[i] = math.Float32bits(v[i])
	}
	return b
}

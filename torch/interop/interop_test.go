//go:build gotorch

package interop

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gotorch "github.com/wangkuiyi/gotorch"
	"github.com/wangkuiyi/gotorch/nn/functional"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// An operator computes a case of the op suite with gotorch; nil where gotorch lacks this variant.
type operator func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor

// operators are those of the op suite that gotorch has, by torch.Scope's method.
var operators = map[string]operator{
	"Add":  func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Add(x[0], x[1], 1)) },
	"Sub":  func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Sub(x[0], x[1], 1)) },
	"Mul":  func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Mul(x[0], x[1])) },
	"Div":  func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Div(x[0], x[1])) },
	"Mul_": func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(x[0].MulI(x[1])) },
	"Div_": func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(x[0].DivI(x[1])) },
	"Add_": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(x[0].AddI(x[1], float32(c.Float(2))))
	},
	"AddScaled": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Add(x[0], x[1], float32(c.Float(2))))
	},
	"Compare": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		if torch.CompareOp(c.Int(1)) != torch.Eq {
			return nil
		}
		return one(gotorch.Eq(x[0], x[1]))
	},
	"Sum": func(_ *torchtest.Case,
		x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Sum(x[0]))
	},
	"Mean": func(_ *torchtest.Case,
		x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Mean(x[0]))
	},
	"Relu": func(_ *torchtest.Case,
		x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Relu(x[0]))
	},
	"Sigmoid": func(_ *torchtest.Case,
		x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Sigmoid(x[0]))
	},
	"Tanh": func(_ *torchtest.Case,
		x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Tanh(x[0]))
	},
	"SumDims": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		if len(c.Args) != 3 {
			return nil // gotorch sums over one axis
		}
		return one(gotorch.Sum(x[0], map[string]any{"dim": int(c.Int(2)), "keepDim": c.Flag(1)}))
	},
	"Argmax": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(x[0].Argmax(c.Int(1), c.Flag(2)))
	},
	"LeakyRelu": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.LeakyRelu(x[0], c.Float(1)))
	},
	"LeakyRelu_": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(functional.LeakyRelu(x[0], c.Float(1), true))
	},
	"LogSoftmax": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.LogSoftmax(x[0], c.Int(1)))
	},
	"CrossEntropy": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		reduction := map[torch.Reduction]string{torch.ReduceNone: "none", torch.ReduceMean: "mean",
			torch.ReduceSum: "sum"}
		return one(functional.CrossEntropy(x[0], x[1], gotorch.Tensor{}, c.Int(2),
			reduction[torch.Reduction(c.Int(3))]))
	},
	"Conv": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		if len(c.In[0].Shape) != 4 {
			return nil // gotorch has no 3d
		}
		return one(functional.Conv2d(x[0], x[1], optional(c, x, 2), c.Ints(3), c.Ints(4), c.Ints(5),
			c.Int(6)))
	},
	"ConvTranspose": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		if len(c.In[0].Shape) != 4 {
			return nil
		}
		return one(functional.ConvTranspose2d(x[0], x[1], optional(c, x, 2), c.Ints(3),
			[]int64{0, 0}, []int64{0, 0}, 1, []int64{1, 1}))
	},
	"Linear": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(functional.Linear(x[0], x[1], optional(c, x, 2)))
	},
	"MatMul": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		if len(c.In[0].Shape) != 2 {
			return nil // gotorch's is not batched
		}
		return one(gotorch.MM(x[0], x[1]))
	},
	"Permute": func(c *torchtest.Case,
		x []gotorch.Tensor) []gotorch.Tensor {
		return one(x[0].Permute(variadic(c)))
	},
	"Reshape": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.View(x[0], variadic(c)...))
	},
	"Squeeze": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Squeeze(x[0], c.Int(1)))
	},
	"Transpose": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Transpose(x[0], c.Int(1), c.Int(2)))
	},
	"IndexSelect": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.IndexSelect(x[0], c.Int(1), x[1]))
	},
	"Stack": func(c *torchtest.Case,
		x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.Stack(x, c.Int(0)))
	},
	"TopK": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		v, i := gotorch.TopK(x[0], c.Int(1), c.Int(2), true, true)
		return []gotorch.Tensor{v, i}
	},
}

func one(t gotorch.Tensor) []gotorch.Tensor { return []gotorch.Tensor{t} }

// optional is the operand of argument i, the last tensor of the case; empty if it is absent.
func optional(c *torchtest.Case, x []gotorch.Tensor, i int) gotorch.Tensor {
	if c.T(i) == nil {
		return gotorch.Tensor{}
	}
	return x[len(x)-1]
}

// variadic are the arguments after the first operand.
func variadic(c *torchtest.Case) []int64 {
	var v []int64
	for i := range c.Args[1:] {
		v = append(v, c.Int(i+1))
	}
	return v
}

// through computes with gotorch on tensors shared by both bindings, so that autograd crosses
// between them.
func through(t testing.TB, s *torch.Scope, c *torchtest.Case, in []*torch.Tensor) ([]*torch.Tensor,
	bool) {
	t.Helper()
	f, ok := operators[c.Op]
	if !ok {
		return nil, false
	}
	var theirs []gotorch.Tensor
	for _, x := range in {
		theirs = append(theirs, give(t, x))
	}
	results := f(c, theirs)
	runtime.KeepAlive(theirs)
	var out []*torch.Tensor
	for _, r := range results {
		out = append(out, take(t, s, r))
	}
	if c.InPlace && len(out) > 0 {
		require.True(t, out[0].SharesStorage(in[0]), "%s must have worked in place", c.Op)
		return in[:1], true
	}
	return out, len(out) > 0
}

func give(t testing.TB, x *torch.Tensor) gotorch.Tensor {
	t.Helper()
	g, err := ToGotorch(x)
	require.NoError(t, err)
	return g
}

func take(t testing.TB, s *torch.Scope, g gotorch.Tensor) *torch.Tensor {
	t.Helper()
	x, err := FromGotorch(s, g)
	require.NoError(t, err)
	return x
}

// gotorch's results are compared with PyTorch's, within the suite's tolerance, and against ours bit
// for bit: both bindings call the same functions of the same library.
func TestOpSuiteThroughGotorch(t *testing.T) {
	torchtest.NoLeak(t)
	theirs, ours := torchtest.Through(torch.CPU, through), torchtest.Torch(torch.CPU)
	ran := map[string]bool{}
	torchtest.OpSuite(t, func(t testing.TB, c *torchtest.Case) (out, grads []*torchtest.Array,
		ok bool) {
		// The number of OpenMP threads belongs to the OS thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if out, grads, ok = theirs(t, c); !ok {
			return nil, nil, false
		}
		ran[c.Op] = true
		ourOut, ourGrads, _ := ours(t, c)
		requireSameBits(t, ourOut, out)
		requireSameBits(t, ourGrads, grads)
		return out, grads, true
	})
	for op := range operators {
		require.True(t, ran[op], "no case of the suite has come to gotorch's %s", op)
	}
}

func requireSameBits(t testing.TB, want, got []*torchtest.Array) {
	t.Helper()
	require.Len(t, got, len(want))
	for i, w := range want {
		if w == nil {
			require.Nil(t, got[i])
			continue
		}
		require.Equal(t, w.DType, got[i].DType)
		require.Equal(t, w.Shape, got[i].Shape)
		require.Equal(t, bits64(w.Data), bits64(got[i].Data))
	}
}

func bits64(v []float64) []uint64 {
	b := make([]uint64, len(v))
	for i := range v {
		b[i] = math.Float64bits(v[i])
	}
	return b
}

var dtypes = []torch.DType{torch.Uint8, torch.Int8, torch.Int16, torch.Int32, torch.Int64,
	torch.Float16, torch.Float32,
	torch.Float64, torch.Bool, torch.BFloat16}

func TestEveryDTypeAndShapeCrossesBothWays(t *testing.T) {
	torchtest.NoLeak(t)
	for _, d := range dtypes {
		for _, shape := range [][]int64{{}, {0}, {3}, {2, 3}, {1, 2, 3, 4}, {2, 1, 2, 1, 2}} {
			t.Run(fmt.Sprint(d, shape), func(t *testing.T) {
				err := torch.With(func(s *torch.Scope) error {
					n := int64(1)
					for _, k := range shape {
						n *= k
					}
					want := make([]float64, n)
					for i := range want {
						want[i] = float64((i + 1) % 2) // fits every type, bool too
					}
					ours := s.To(torch.FromSlice(s, want, shape...), d, torch.CPU)
					require.NoError(t, s.Err())
					theirs := give(t, ours)
					require.Equal(t, int8(d), theirs.Dtype())
					require.Equal(t, shape, theirs.Shape())

					back := take(t, s, theirs)
					require.Equal(t, d, back.DType())
					require.Equal(t, shape, back.Shape())
					require.Equal(t, ours.Strides(), back.Strides())
					got, err := torch.Slice[float64](s.To(back, torch.Float64, torch.CPU))
					require.NoError(t, err)
					require.Equal(t, want, got)

					cast := theirs.CastTo(gotorch.Double) // what gotorch reads in it
					got, err = torch.Slice[float64](take(t, s, cast))
					require.NoError(t, err)
					require.Equal(t, want, got)
					runtime.KeepAlive(theirs.T)
					return nil
				})
				require.NoError(t, err)
			})
		}
	}
}

func TestViewsKeepTheirStridesAndStorage(t *testing.T) {
	torchtest.NoLeak(t)
	err := torch.With(func(s *torch.Scope) error {
		x := torchtest.Tensor(s, 1, 2, 3)
		g := give(t, s.Transpose(x, 0, 1))
		require.Equal(t, []int64{3, 2}, g.Shape())
		back := take(t, s, g)
		require.True(t, back.SharesStorage(x))
		require.Equal(t, []int64{1, 3}, back.Strides())
		return nil
	})
	require.NoError(t, err)
}

func TestWhatOneBindingWritesTheOtherReads(t *testing.T) {
	torchtest.NoLeak(t)
	err := torch.With(func(s *torch.Scope) error {
		ours := torch.FromSlice(s, []float32{1, 2, 3}, 3)
		theirs := give(t, ours)
		s.MulScalar_(ours, 2)
		require.Equal(t, " 2\n 4\n 6\n[ CPUFloatType{3} ]", theirs.String())

		added := theirs.AddI(theirs, 1)
		runtime.KeepAlive(theirs.T)
		runtime.KeepAlive(added.T)
		require.Equal(t, []float32{4, 8, 12}, torchtest.Float32s(t, ours))
		return nil
	})
	require.NoError(t, err)
}

func TestATensorOutlivesGotorchsHandle(t *testing.T) {
	torchtest.NoLeak(t)
	err := torch.With(func(s *torch.Scope) error {
		ours := func() *torch.Tensor {
			x, err := FromGotorch(s, gotorch.Ones([]int64{1000}, false))
			require.NoError(t, err)
			return x
		}()
		for range 5 {
			runtime.GC()
			time.Sleep(time.Millisecond)
		}
		sum, err := s.Sum(ours).Item()
		require.NoError(t, err)
		require.Equal(t, 1000.0, sum)
		return nil
	})
	require.NoError(t, err)
}

func TestGradientsOfBothBindingsAgree(t *testing.T) {
	torchtest.NoLeak(t)
	err := torch.With(func(s *torch.Scope) error {
		mine := torchtest.Tensor(s, 7, 4, 5)
		require.NoError(t, mine.SetRequiresGrad(true))
		require.NoError(t, s.Sum(s.Tanh(s.Mul(mine, mine))).Backward())

		other := torchtest.Tensor(s, 7, 4, 5)
		require.NoError(t, other.SetRequiresGrad(true))
		g, err := ToGotorch(other)
		require.NoError(t, err)
		product := gotorch.Mul(g, g)
		tanh := gotorch.Tanh(product)
		sum := gotorch.Sum(tanh)
		sum.Backward()
		runtime.KeepAlive([]gotorch.Tensor{g, product, tanh, sum})
		require.Equal(t, torchtest.Bits(torchtest.Float32s(t, s.Grad(mine))),
			torchtest.Bits(torchtest.Float32s(t, s.Grad(other))))
		return nil
	})
	require.NoError(t, err)
}

func TestATensorOutlivesItsScopeInGotorch(t *testing.T) {
	torchtest.NoLeak(t)
	var g gotorch.Tensor
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		g = give(t, torchtest.Tensor(s, 5, 100))
		return nil
	}))
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		torchtest.Tensor(s, 6, 100) // would take the memory, had it been freed
		require.Equal(t, torchtest.Bits(torchtest.Fill(5, 100)),
			torchtest.Bits(torchtest.Float32s(t, take(t, s, g))))
		return nil
	}))
}

// 1.6 GB cross in each direction; a leaked handle would show in the resident memory.
func TestWhatCrossesIsFreed(t *testing.T) {
	torchtest.NoLeak(t)
	cross := func(n int) {
		for range n {
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				give(t, s.Full([]int64{1 << 20}, 1, torch.Float32, torch.CPU))
				theirs := gotorch.Ones([]int64{1 << 20}, false)
				take(t, s, theirs)
				return s.Err()
			}))
			runtime.GC()
		}
	}
	cross(20)
	before := resident(t)
	cross(400)
	require.Less(t, resident(t)-before, int64(300<<20))
}

// resident is the process's memory in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var size, pages int64
	_, err = fmt.Sscan(string(text), &size, &pages)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}

func TestGotorchObeysOurGuards(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := torchtest.Tensor(s, 1, 3)
		require.NoError(t, x.SetRequiresGrad(true))
		g := give(t, x)
		followed := gotorch.Mul(g, g)
		require.True(t, take(t, s, followed).RequiresGrad())
		require.NoError(t, torch.NoGrad(func() error {
			product := gotorch.Mul(g, g)
			require.False(t, take(t, s, product).RequiresGrad())
			return nil
		}))
		runtime.KeepAlive(g.T)
		return nil
	}))
}

func TestOneLibtorchAndOneOpenMP(t *testing.T) {
	torchtest.NoLeak(t)
	require.NoError(t, check())
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	require.Len(t, mapped(string(maps), "libtorch_cpu.so"), 1)
	require.Len(t, mapped(string(maps), "libc10.so"), 1)
	require.Len(t, mapped(string(maps), "libgomp"), 1)
}

func TestTwoLibtorchesAreSeen(t *testing.T) {
	const maps = `7f00-7f01 r--p 00000000 08:01 11  /opt/a b/libtorch_cpu.so
7f01-7f02 r-xp 00001000 08:01 11  /opt/a b/libtorch_cpu.so
7f02-7f03 rw-p 00000000 00:00 0   [heap]
7f03-7f04 r--p 00000000 08:01 12  /usr/lib/libtorch_cpu.so (deleted)
7f04-7f05 r--p 00000000 08:01 13  /opt/libtorch_cpu.so.d/other.so
`
	require.Equal(t, []string{"/opt/a b/libtorch_cpu.so", "/usr/lib/libtorch_cpu.so (deleted)"},
		mapped(maps, "libtorch_cpu.so"))
}

// Tensors cross for three seconds beside a goroutine that keeps the garbage collector, and so
// gotorch's finalizers, busy.
func TestCrossingBesideAnAllocatingGoroutine(t *testing.T) {
	torchtest.NoLeak(t)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		var sink []byte
		for {
			select {
			case <-stop:
				runtime.KeepAlive(sink)
				return
			default:
				sink = make([]byte, 1<<20)
				runtime.GC()
			}
		}
	}()
	defer func() { close(stop); <-done }()
	before := torch.Live()
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); {
		err := torch.With(func(s *torch.Scope) error {
			x := torchtest.Tensor(s, 3, 16)
			g, err := ToGotorch(x)
			require.NoError(t, err)
			r := gotorch.Mul(g, g)
			y, err := FromGotorch(s, r)
			require.NoError(t, err)
			runtime.KeepAlive(g.T)
			runtime.KeepAlive(r.T)
			same, err := torch.Equal(y, s.Mul(x, x))
			require.NoError(t, err)
			require.True(t, same)
			return nil
		})
		require.NoError(t, err)
	}
	require.Equal(t, before, torch.Live())
}

func TestTensorsThatCannotCrossAreErrors(t *testing.T) {
	torchtest.NoLeak(t)
	with := func(f func(s *torch.Scope)) error {
		return torch.With(func(s *torch.Scope) error { f(s); return nil })
	}
	require.NoError(t, with(func(s *torch.Scope) {
		_, err := FromGotorch(s, gotorch.Tensor{})
		require.EqualError(t, err, "interop: gotorch's tensor is nil")
		_, err = ToGotorch(nil)
		require.ErrorContains(t, err, "interop: tensor to gotorch: torch: ")
	}))
	x := gotorch.Ones([]int64{2, 3}, false)
	for _, c := range []struct {
		name  string
		g     gotorch.Tensor
		error string
	}{
		{"complex", x.CastTo(gotorch.ComplexFloat),
			"torch: from_handle([2 3]): dtype(9) elements are not supported"},
		{"no gradient", x.Grad(), "torch: from_handle(): the tensor is undefined or has more " +
			"than 16 axes"},
		{"17 axes", gotorch.Ones(slices.Repeat([]int64{1}, 17), false),
			"torch: from_handle(): the tensor is undefined or has more than 16 axes"},
	} {
		err := with(func(s *torch.Scope) {
			_, err := FromGotorch(s, c.g)
			require.EqualError(t, err, "interop: tensor from gotorch: "+c.error, c.name)
		})
		require.EqualError(t, err, c.error, c.name)
	}
	runtime.KeepAlive(x.T)
}

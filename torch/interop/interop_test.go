//go:build gotorch

package interop

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gotorch "github.com/wangkuiyi/gotorch"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// operators are those that gotorch has of the op suite, with their operands as the suite gives them.
var operators = map[string]func(c *torchtest.Case, in []gotorch.Tensor) []gotorch.Tensor{
	"Add":     func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Add(x[0], x[1], 1)) },
	"Sub":     func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Sub(x[0], x[1], 1)) },
	"Mul":     func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Mul(x[0], x[1])) },
	"Div":     func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Div(x[0], x[1])) },
	"Mean":    func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Mean(x[0])) },
	"Relu":    func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Relu(x[0])) },
	"Sigmoid": func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Sigmoid(x[0])) },
	"Tanh":    func(_ *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Tanh(x[0])) },
	"LeakyRelu": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.LeakyRelu(x[0], c.Float(1)))
	},
	"LogSoftmax": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		return one(gotorch.LogSoftmax(x[0], c.Int(1)))
	},
	"Permute": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(x[0].Permute(variadic(c))) },
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
	"Stack": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor { return one(gotorch.Stack(x, c.Int(0))) },
	"TopK": func(c *torchtest.Case, x []gotorch.Tensor) []gotorch.Tensor {
		v, i := gotorch.TopK(x[0], c.Int(1), c.Int(2), true, true)
		return []gotorch.Tensor{v, i}
	},
}

func one(t gotorch.Tensor) []gotorch.Tensor { return []gotorch.Tensor{t} }

// variadic are the numbers behind the first operand.
func variadic(c *torchtest.Case) []int64 {
	var v []int64
	for i := range c.Args[1:] {
		v = append(v, c.Int(i+1))
	}
	return v
}

// through computes with gotorch on tensors that both bindings share, so that autograd crosses from one to the other.
func through(t testing.TB, s *torch.Scope, c *torchtest.Case, in []*torch.Tensor) ([]*torch.Tensor, bool) {
	f, ok := operators[c.Op]
	if !ok || len(c.In) > 0 && c.In[0].DType != "float32" {
		return nil, false
	}
	var theirs []gotorch.Tensor
	for _, x := range in {
		g, err := ToGotorch(x)
		require.NoError(t, err)
		theirs = append(theirs, g)
	}
	results := f(c, theirs)
	var out []*torch.Tensor
	for _, r := range results {
		x, err := FromGotorch(s, r)
		require.NoError(t, err)
		out = append(out, x)
	}
	runtime.KeepAlive(theirs)
	runtime.KeepAlive(results)
	return out, true
}

func TestOpSuiteThroughGotorch(t *testing.T) {
	torchtest.Require(t)
	n := torchtest.OpSuite(t, torchtest.Through(torch.CPU, through))
	require.GreaterOrEqual(t, n, len(operators), "every operator that gotorch has must have run")
}

func TestTensorsAreShared(t *testing.T) {
	torchtest.Require(t)
	for _, shape := range [][]int64{{3}, {2, 3}, {1, 2, 3, 4}} {
		err := torch.With(func(s *torch.Scope) error {
			ours := torchtest.Tensor(s, 1, shape...)
			theirs, err := ToGotorch(ours)
			require.NoError(t, err)
			require.Equal(t, shape, theirs.Shape())
			back, err := FromGotorch(s, theirs)
			require.NoError(t, err)
			require.True(t, back.SharesStorage(ours))
			s.MulScalar_(ours, 2) // seen on the other side
			require.Equal(t, torchtest.Bits(torchtest.Float32s(t, ours)), torchtest.Bits(torchtest.Float32s(t, back)))
			runtime.KeepAlive(theirs.T)
			return nil
		})
		require.NoError(t, err)
	}
}

func TestATensorOutlivesGotorchsHandle(t *testing.T) {
	torchtest.Require(t)
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
	torchtest.Require(t)
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
		require.Equal(t, torchtest.Bits(torchtest.Float32s(t, s.Grad(mine))), torchtest.Bits(torchtest.Float32s(t, s.Grad(other))))
		return nil
	})
	require.NoError(t, err)
}

func TestOneLibtorchAndOneOpenMP(t *testing.T) {
	torchtest.Require(t)
	require.NoError(t, check())
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	libs := map[string][]string{}
	for _, line := range strings.Split(string(maps), "\n") {
		i := strings.IndexByte(line, '/')
		for _, name := range []string{"libtorch_cpu.so", "libgomp"} {
			if i >= 0 && strings.Contains(line, name) && !slices.Contains(libs[name], line[i:]) {
				libs[name] = append(libs[name], line[i:])
			}
		}
	}
	require.Len(t, libs["libtorch_cpu.so"], 1)
	require.Len(t, libs["libgomp"], 1)
}

// Tensors cross for a second beside a goroutine that keeps the garbage collector, and so gotorch's finalizers, busy.
func TestCrossingBesideAnAllocatingGoroutine(t *testing.T) {
	torchtest.Require(t)
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
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
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

func TestNilTensorsAreErrors(t *testing.T) {
	torchtest.Require(t)
	err := torch.With(func(s *torch.Scope) error {
		_, err := FromGotorch(s, gotorch.Tensor{})
		require.ErrorContains(t, err, "nil")
		_, err = ToGotorch(nil)
		require.Error(t, err)
		return nil
	})
	require.NoError(t, err)
}

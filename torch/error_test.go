package torch_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// fails runs f in a new scope and returns the error, whose text must be one line without libtorch's
// backtrace.
func fails(t *testing.T, f func(s *torch.Scope) error) error {
	t.Helper()
	err := torch.With(f)
	require.Error(t, err)
	for _, trace := range []string{"Exception raised from", "frame #", "\n"} {
		require.NotContains(t, err.Error(), trace)
	}
	return err
}

func TestErrorsNameOperatorAndShapes(t *testing.T) {
	torchtest.NoLeak(t)
	one := []int64{1, 1, 1}
	err := fails(t, func(s *torch.Scope) error {
		s.Conv(torchtest.Tensor(s, 1, 1, 4, 8, 8, 8), torchtest.Tensor(s, 2, 2, 3, 3, 3, 3),
			torchtest.Tensor(s, 3, 2), one, one, one, 1)
		return nil
	})
	require.True(t, strings.HasPrefix(err.Error(),
		"torch: conv3d([1 4 8 8 8], [2 3 3 3 3], [2]): Given groups=1, weight of size [2, 3, 3, "+
			"3, 3]"), err)
	var e *torch.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "conv3d", e.Op)
	require.Equal(t, [][]int64{{1, 4, 8, 8, 8}, {2, 3, 3, 3, 3}, {2}}, e.Shapes)

	err = fails(t, func(s *torch.Scope) error {
		s.Conv(torchtest.Tensor(s, 1, 4, 4), torchtest.Tensor(s, 2, 2, 4, 3, 3), nil, one[:2],
			one[:2], one[:2], 1)
		return nil
	})
	require.True(t, strings.HasPrefix(err.Error(), "torch: conv2d([4 4], [2 4 3 3], none): "), err)

	err = fails(t, func(s *torch.Scope) error {
		s.Add(torchtest.Tensor(s, 1, 2, 3), torchtest.Tensor(s, 1, 4))
		return nil
	})
	require.EqualError(t, err, "torch: add([2 3], [4]): The size of tensor a (3) must match the "+
		"size of tensor b (4) at non-singleton dimension 1")

	require.EqualError(t, fails(t, func(s *torch.Scope) error {
		s.Conv(torchtest.Tensor(s, 1, 1, 1, 3), torchtest.Tensor(s, 1, 1, 1, 3), nil, one[:1],
			one[:1], one[:1], 1)
		return nil
	}), "torch: conv1d: 1 spatial axes, expected 2 or 3")
	require.EqualError(t, fails(t, func(s *torch.Scope) error {
		s.AvgPool(torchtest.Tensor(s, 1, 1, 1, 3, 3), one, one[:2])
		return nil
	}), "torch: avg_pool2d: lists of 3 and 2 entries")
}

func TestFirstErrorSticksToTheScope(t *testing.T) {
	torchtest.NoLeak(t)
	s, err := torch.NewScope()
	require.NoError(t, err)
	defer s.Close()
	a, b := torchtest.Tensor(s, 1, 2, 3), torchtest.Tensor(s, 1, 4)
	live := torch.Live()
	bad := s.Add(a, b)
	require.Nil(t, bad)
	first := s.Err()
	require.Error(t, first)
	// Later operators do nothing, whatever their operands, and the first error is kept.
	require.Nil(t, s.Relu(bad))
	require.Nil(t, s.Mul(a, a))
	require.Nil(t, s.Conv(bad, bad, bad, nil, nil, nil, 0))
	require.Nil(t, s.Cat(0, a, nil))
	s.Add_(a, a, 1)
	s.Fill_(a, 7)
	v, i := s.TopK(a, 1, 0)
	require.Nil(t, v)
	require.Nil(t, i)
	require.Nil(t, s.Block(func(*torch.Scope) *torch.Tensor { t.Error("block ran"); return nil }))
	require.Equal(t, first, s.With(func(*torch.Scope) error { t.Error("child ran"); return nil }))
	s.Fail(errors.New("later"))
	require.Equal(t, first, s.Err())
	require.Equal(t, live, torch.Live())
	require.Equal(t, torchtest.Fill(1, 6), torchtest.Float32s(t, a),
		"an operand changed after the failure")
}

func TestErrorsOfChildrenReachTheParent(t *testing.T) {
	torchtest.NoLeak(t)
	inner := errors.New("inner")
	err := fails(t, func(s *torch.Scope) error {
		y := s.Block(func(c *torch.Scope) *torch.Tensor {
			return c.Relu(c.Add(torchtest.Tensor(c, 1, 2), torchtest.Tensor(c, 1, 3)))
		})
		require.Nil(t, y)
		require.Error(t, s.Err())
		return errors.New("the operator's failure comes first")
	})
	require.Contains(t, err.Error(), "torch: add([2], [3]): ")
	require.Equal(t, inner, torch.With(func(s *torch.Scope) error {
		err := s.With(func(*torch.Scope) error { return inner })
		require.NoError(t, s.Err(), "an error that f returned is not an operator's")
		return err
	}))
}

func TestAbsentOperandsAreErrors(t *testing.T) {
	torchtest.NoLeak(t)
	require.EqualError(t, fails(t, func(s *torch.Scope) error { s.Relu(nil); return nil }),
		"torch: relu(): torch: operand is nil")
	require.EqualError(t, fails(t, func(s *torch.Scope) error {
		a := torchtest.Tensor(s, 1, 3)
		a.Free()
		a.Free()
		s.Add(a, a)
		return nil
	}), "torch: add(): tensor was freed")

	s, err := torch.NewScope()
	require.NoError(t, err)
	a := torchtest.Tensor(s, 1, 3)
	s.Close()
	s.Close()
	require.Nil(t, s.Full([]int64{2}, 0, torch.Float32, torch.CPU))
	require.EqualError(t, s.Err(), "torch: full: scope is closed")
	require.Nil(t, a.Shape())
	require.Equal(t, "torch.Tensor(freed)", a.String())
	require.False(t, a.HasGrad())
	for _, err := range []error{a.Backward(), a.SetGrad(nil), a.SetRequiresGrad(true),
		torch.CopyIn(a, []float32{1, 2, 3}),
		torch.CopyOut(a, make([]float32, 3)), torch.ClearGrads([]*torch.Tensor{a}),
		a.CopyBytesIn(nil), a.CopyBytesOut(nil)} {
		require.Error(t, err)
	}
	_, err = a.Item()
	require.Error(t, err)
	_, err = torch.Equal(a, a)
	require.Error(t, err)
	_, err = a.Bytes()
	require.Error(t, err)
}

// A freed optional operand must not be treated as absent.
func TestFreedOptionalOperandsAreErrors(t *testing.T) {
	torchtest.NoLeak(t)
	one := []int64{1, 1}
	for name, f := range map[string]func(s *torch.Scope, freed *torch.Tensor){
		"conv2d": func(s *torch.Scope, b *torch.Tensor) {
			s.Conv(torchtest.Tensor(s, 1, 1, 1, 2, 2), torchtest.Tensor(s, 1, 2, 1, 1, 1), b, one,
				[]int64{0, 0}, one, 1)
		},
		"conv_transpose2d": func(s *torch.Scope, b *torch.Tensor) {
			s.ConvTranspose(torchtest.Tensor(s, 1, 1, 1, 2, 2), torchtest.Tensor(s, 1, 1, 2, 1, 1),
				b, one)
		},
		"linear": func(s *torch.Scope, b *torch.Tensor) {
			s.Linear(torchtest.Tensor(s, 1, 2, 3), torchtest.Tensor(s, 1, 2, 3), b)
		},
		"instance_norm": func(s *torch.Scope,
			b *torch.Tensor) {
			s.InstanceNorm(torchtest.Tensor(s, 1, 1, 2, 4), b, nil, 1e-5)
		},
		"layer_norm": func(s *torch.Scope, b *torch.Tensor) {
			s.LayerNorm(torchtest.Tensor(s, 1, 2, 2), []int64{2}, nil, b, 1e-5)
		},
		"sgd": func(s *torch.Scope, b *torch.Tensor) {
			s.SGDStep(torch.SGD{Momentum: 1}, []*torch.Tensor{param(s, 1, 2)}, []*torch.Tensor{b},
				nil, nil, nil)
		},
	} {
		require.EqualError(t, fails(t, func(s *torch.Scope) error {
			freed := torchtest.Tensor(s, 1, 2)
			freed.Free()
			f(s, freed)
			return nil
		}), "torch: "+name+"(): tensor was freed")
	}
}

func TestErrorsInBackwardDoNotAbort(t *testing.T) {
	torchtest.NoLeak(t)
	for _, f := range []func(s *torch.Scope) error{
		func(s *torch.Scope) error { return torchtest.Tensor(s, 1, 2).Backward() },              // no graph
		func(s *torch.Scope) error { x := param(s, 1, 2); return s.MulScalar(x, 2).Backward() }, // not a scalar
		func(s *torch.Scope) error { // a second pass over a freed graph
			x := param(s, 1, 2)
			y := s.Sum(s.Mul(x, x))
			require.NoError(t, y.Backward())
			return y.Backward()
		},
		func(s *torch.Scope) error { // modified in place although autograd needs it
			x := param(s, 1, 2)
			y := s.Exp(x)
			z := s.Sum(s.Mul(y, y))
			s.MulScalar_(y, 2)
			return z.Backward()
		},
		func(s *torch.Scope) error { // gradient of another shape
			x := param(s, 1, 2)
			return s.MulScalar(x, 2).BackwardFrom(torchtest.Tensor(s, 1, 5), false)
		},
		func(s *torch.Scope) error { s.AddScalar_(param(s, 1, 2), 1); return nil }, // a leaf in place
		func(s *torch.Scope) error { return param(s, 1, 2).SetGrad(torchtest.Tensor(s, 1, 3)) },
		func(s *torch.Scope) error {
			return s.Compare(param(s, 1, 2), torch.Eq, param(s, 1, 2)).SetRequiresGrad(true) // bool
		},
		func(s *torch.Scope) error { s.Sum(s.Compare(nil, torch.Eq, nil)); return nil },
		func(s *torch.Scope) error {
			s.Compare(param(s, 1, 2), torch.CompareOp(9),
				param(s, 1, 2))
			return nil
		},
		func(s *torch.Scope) error { _, err := torchtest.Tensor(s, 1, 2).Item(); return err },
		func(s *torch.Scope) error {
			_, err := s.Transpose(torchtest.Tensor(s, 1, 2, 2), 0, 1).Bytes()
			return err
		},
		func(s *torch.Scope) error {
			return torchtest.Tensor(s, 1,
				2).CopyBytesIn(make([]byte, 7))
		},
		func(s *torch.Scope) error {
			return torchtest.Tensor(s, 1,
				2).CopyBytesOut(make([]byte, 9))
		},
	} {
		fails(t, f)
	}
}

func TestErrorsInOptimizerStepsDoNotAbort(t *testing.T) {
	torchtest.NoLeak(t)
	o := torch.SGD{LR: 0.1, Momentum: 0.9}
	with := func(f func(s *torch.Scope, p *torch.Tensor)) error {
		return fails(t, func(s *torch.Scope) error {
			p := param(s, 1, 2, 3)
			require.NoError(t, p.SetGrad(torchtest.Tensor(s, 2, 2, 3)))
			f(s, p)
			return nil
		})
	}
	ts := func(t ...*torch.Tensor) []*torch.Tensor { return t }
	index := func(s *torch.Scope, v ...int64) *torch.Tensor {
		return torch.FromSlice(s, v,
			int64(len(v)))
	}
	require.EqualError(t, with(func(s *torch.Scope, p *torch.Tensor) {
		s.SGDStep(o, ts(p), nil, nil,
			nil, nil)
	}),
		"torch: sgd: 1 parameters, 0 buffers, 0 masks, 0 rules")
	require.Contains(t, with(func(s *torch.Scope, p *torch.Tensor) {
		s.SGDStep(o, ts(p), ts(nil), ts(nil), []torch.Rule{torch.Plain}, nil)
	}).Error(), "torch: sgd(): parameter 0: rule 3 needs a mask")
	require.Contains(t, with(func(s *torch.Scope, p *torch.Tensor) {
		s.SGDStep(o, ts(p), ts(nil), ts(index(s, 1)), []torch.Rule{9}, nil)
	}).Error(), "parameter 0: no rule 9")
	with(func(s *torch.Scope, p *torch.Tensor) { // an index beyond the parameter
		s.SGDStep(o, ts(p), ts(nil), ts(index(s, 6)), []torch.Rule{torch.UpdateMasked}, nil)
	})
	for _, impl := range []torch.Impl{torch.SingleTensor, torch.Foreach, torch.Fused} {
		with(func(s *torch.Scope, p *torch.Tensor) { // a buffer of another shape
			o.Impl = impl
			s.SGDStep(o, ts(p), ts(torchtest.Tensor(s, 1, 5)), nil, nil, nil)
		})
	}
	with(func(s *torch.Scope, p *torch.Tensor) { s.AmpUnscale(ts(p), index(s, 1), index(s, 1)) })
	with(func(s *torch.Scope, p *torch.Tensor) { s.AmpUpdateScale(p, p, p, 2, 0.5, 1) })
}

func TestAbsurdSizesAreErrors(t *testing.T) {
	torchtest.NoLeak(t)
	for _, shape := range [][]int64{{1 << 45}, {1 << 40, 1 << 40}, {math.MaxInt64, 2}, {-1},
		{2, -3}} {
		fails(t, func(s *torch.Scope) error {
			s.Empty(shape, torch.Float32,
				torch.CPU)
			return nil
		})
		fails(t, func(s *torch.Scope) error {
			s.Full(shape, 1, torch.Float64,
				torch.CPU)
			return nil
		})
	}
	fails(t, func(s *torch.Scope) error { s.Arange(0, 1, 0, torch.Float32, torch.CPU); return nil })
	fails(t, func(s *torch.Scope) error {
		s.Empty([]int64{1}, torch.DType(99),
			torch.CPU)
		return nil
	})
	fails(t, func(s *torch.Scope) error { s.RandPerm(-1, nil); return nil })
	// The process and libtorch still work.
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		v, err := s.Sum(torch.FromSlice(s, []float32{1, 2, 3}, 3)).Item()
		require.Equal(t, 6.0, v)
		return err
	}))
}

// param returns a tensor that requires grad.
func param(s *torch.Scope, seed uint64, shape ...int64) *torch.Tensor {
	p := torchtest.Tensor(s, seed, shape...)
	if err := p.SetRequiresGrad(true); err != nil {
		s.Fail(err)
	}
	return p
}

package dist

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/torch"
)

// dice is a ratio of sums over all rows, as batch Dice: Σ wx / (1 + Σ (wx)²). total adds a rank's sum
// to the other ranks'.
func dice(s *torch.Scope, w, x *torch.Tensor, total func(t *torch.Tensor) *torch.Tensor,
) *torch.Tensor {
	y := s.Mul(x, w)
	return s.Div(total(s.Sum(y)), s.AddScalar(total(s.Sum(s.Mul(y, y))), 1))
}

const gradRows = 7

func init() {
	bodies["gradient of sums"] = func(g *Group, how string) (any, error) {
		var out []float64
		err := torch.With(func(s *torch.Scope) error {
			w := numbers(s, 1, 5)
			if err := w.SetRequiresGrad(true); err != nil {
				return err
			}
			r, err := NewReducer(g, []*torch.Tensor{w}, ReducerConfig{})
			if err != nil {
				return err
			}
			defer r.Close()
			first, last := int64(gradRows*g.Rank()/g.Size()), int64(gradRows*(g.Rank()+1)/g.Size())
			x := s.Narrow(numbers(s, 2, gradRows, 5), 0, first, last-first)
			total := func(t *torch.Tensor) *torch.Tensor { return g.SumGrad(s, t) }
			if how == "gather" {
				total = func(t *torch.Tensor) *torch.Tensor { return s.Sum(g.GatherGrad(s, t)) }
			}
			if err := r.Forward(); err != nil {
				return err
			}
			loss := dice(s, w, x, total)
			if err := r.Backward(); err != nil {
				return err
			}
			if s.Err() != nil {
				return s.Err()
			}
			if err := g.Explain(loss.Backward()); err != nil {
				return err
			}
			if _, err := r.Wait(context.Background()); err != nil {
				return err
			}
			v, err := torch.Slice[float32](s.Grad(w))
			l, _ := loss.Item()
			out = append(out, l)
			for _, f := range v {
				out = append(out, float64(f))
			}
			return err
		})
		return out, err
	}
}

// A loss of sums over uneven ranks has the value and the averaged gradient that one rank with all
// rows computes.
func TestSumsOverRanksHaveTheGradientOfOneLoss(t *testing.T) {
	var want []float64
	for _, size := range []int{1, 2, 3} {
		for _, how := range []string{"sum", "gather"} {
			for r, got := range values[[]float64](t, ranks(t, "gradient of sums", size, how)) {
				if want == nil {
					want = got
				}
				require.InDeltaSlice(t, want, got, 1e-6, fmt.Sprintf("%s, rank %d of %d", how, r, size))
			}
		}
	}
	require.NotZero(t, want[1])
	err := torch.With(func(s *torch.Scope) error { // and without ranks
		w := numbers(s, 1, 5)
		if err := w.SetRequiresGrad(true); err != nil {
			return err
		}
		loss := dice(s, w, numbers(s, 2, gradRows, 5), func(t *torch.Tensor) *torch.Tensor { return t })
		if err := loss.Backward(); err != nil {
			return err
		}
		v, err := torch.Slice[float32](s.Grad(w))
		for i, f := range v {
			require.InDelta(t, float64(f), want[1+i], 1e-6)
		}
		return err
	})
	require.NoError(t, err)
}

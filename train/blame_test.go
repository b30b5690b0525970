package train

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// Logits are float16 with --amp fp16. A rank whose sum is beyond that, as sums of millions are, is not to blame for
// another's loss; one with a logit that is no number is.
func TestOnlyLogitsThatAreNoNumbersAreBlamed(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		for name, test := range map[string]struct {
			odd  float64
			want bool
		}{"healthy": {40, true}, "NaN": {math.NaN(), false}, "infinite": {math.Inf(-1), false}} {
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				logits := s.Full([]int64{2, 2, 32, 32, 32}, 40, torch.Float16, d)
				s.Fill_(s.Narrow(logits, 4, 7, 1), test.odd)
				v, err := mark(s, logits).Item()
				require.NoError(t, err)
				require.Equal(t, test.want, isFinite(v), name)
				return s.Err()
			}))
		}
	})
}

// What a step read is of no use once the ranks' exchange has failed.
func TestAStepOfRanksThatWereLostHasNoOutcome(t *testing.T) {
	meeting(t, 1, func(p *peers) error {
		s := &Session{SGD: &optim.SGD{}, ranks: newRanks(p, "")}
		if _, err := s.outcome([]float64{1, 1, 1, 1}, nil); err != nil {
			return err
		}
		p.group.Fail(errors.New("lost"))
		_, err := s.outcome([]float64{1, 1, 1, 1}, nil)
		require.ErrorContains(t, err, "lost")
		return nil
	})
}

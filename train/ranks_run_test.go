package train_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

// runTogether trains as ranks, of which the first has c's results folder and the others none that they share. change, if not
// nil, is called for each rank.
func runTogether(t *testing.T, world int, c train.Config, change func(rank int, c *train.Config)) (*train.Result, []error) {
	t.Helper()
	entry, err := finetune.Lookup(c.MethodName)
	require.NoError(t, err)
	var result *train.Result
	errs := together(t, world, 20*time.Second, func(r train.Ranks) error {
		own := c
		if own.Method, err = entry.Make(finetune.Values(c.Options)); err != nil {
			return err
		}
		own.Ranks = r
		if r.Group.Rank() > 0 {
			own.Results, own.Progress, own.Echo = filepath.Join(c.Results, "none"), nil, nil
		}
		if change != nil {
			change(r.Group.Rank(), &own)
		}
		got, err := train.Run(t.Context(), own)
		if r.Group.Rank() == 0 {
			result = got
		} else if got != nil {
			return fmt.Errorf("rank %d has a result: %v", r.Group.Rank(), got)
		}
		return err
	})
	return result, errs
}

func mustTogether(t *testing.T, world int, c train.Config) *train.Result {
	t.Helper()
	r, errs := runTogether(t, world, c, nil)
	require.NoError(t, errors.Join(errs...))
	require.NoDirExists(t, filepath.Join(c.Results, "none"), "rank 0 alone writes")
	return r
}

// requireNear compares two trainings: losses within 1e-4, what became of the weights within 1e-3.
func requireNear(t *testing.T, start, want, got string) {
	t.Helper()
	a, b := logOf(t, want), logOf(t, got)
	for i := range a.TrainLosses {
		require.InEpsilon(t, a.TrainLosses[i], b.TrainLosses[i], 1e-4, "epoch %d", i)
		require.InEpsilon(t, a.ValLosses[i], b.ValLosses[i], 1e-4, "epoch %d, validation", i)
		require.InDelta(t, a.MeanFgDice[i], b.MeanFgDice[i], 1e-3, "epoch %d, Dice", i)
	}
	begin, x, y := readWeights(t, start), readWeights(t, want), readWeights(t, got)
	var moved, apart float64
	for name, w := range x {
		for i := range w {
			moved += math.Pow(float64(w[i])-float64(begin[name][i]), 2)
			apart += math.Pow(float64(w[i])-float64(y[name][i]), 2)
		}
	}
	require.NotZero(t, moved)
	require.Less(t, math.Sqrt(apart), 1e-3*math.Sqrt(moved))
}

// N ranks train what one rank trains on the same batches, whether they have as many rows each or not; and they do so to the
// same bits each time. What is saved is what one rank saves.
func TestRanksTrainWhatOneTrains(t *testing.T) {
	for _, c := range []struct {
		set, method string
		values      finetune.Values
		world, rows int
	}{
		{"plain", "full", nil, 2, 4},
		{"plain", "dgst", finetune.Values{"dgst-mode": "strict"}, 3, 4},
		{"regions", "norm", nil, 2, 3},
		{"ignore", "lora", finetune.Values{"lora-rank": "2", "lora-dropout": "0"}, 2, 3},
	} {
		t.Run(fmt.Sprintf("%s on %s, %d rows on %d ranks", c.method, c.set, c.rows, c.world), func(t *testing.T) {
			torchtest.NoLeak(t)
			one := tiny{}.config(t, c.set, c.method, c.values)
			one.Options, one.BatchSize = c.values, c.rows
			start := startOf(t, one)
			one.Pretrained, one.Head = start, train.HeadKeep
			want := run(t, one)
			var again map[string]any
			for range 2 {
				many := one
				many.Results = t.TempDir()
				got := mustTogether(t, c.world, many)
				requireNear(t, start, want.Checkpoint, got.Checkpoint)
				require.InDelta(t, want.Dice, got.Dice, 1e-2)
				s := state(t, got.Checkpoint)
				if again != nil {
					require.Equal(t, again, s, "the same bits each time")
				}
				again = s
			}
			require.Len(t, again, len(state(t, want.Checkpoint)), "weights and momentum of the same parameters")
		})
	}
}

// startOf writes the weights that a training with random ones begins with.
func startOf(t *testing.T, c train.Config) string {
	t.Helper()
	entry, err := finetune.Lookup("full")
	require.NoError(t, err)
	c.MethodName, c.Options, c.Results, c.NoValidation = "full", nil, t.TempDir(), true
	c.Method, err = entry.Make(nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = train.Run(ctx, c)
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	return stopped.Checkpoint
}

// Stopped on any of the ranks, all stop after the same iteration, rank 0 saves, and the training goes on to the bits of one
// that nobody stopped; with another number of ranks to the same result but for rounding.
func TestRanksStoppedAnywhereGoOn(t *testing.T) {
	torchtest.NoLeak(t)
	const world = 2
	random := rand.New(rand.NewPCG(1, 2))
	c := tiny{}.config(t, "plain", "dgst", nil)
	c.BatchSize = 4
	start := startOf(t, c)
	c.Pretrained, c.Head = start, train.HeadKeep
	whole := mustTogether(t, world, c)
	want := state(t, whole.Checkpoint)
	for i := range 4 {
		by, after := random.IntN(world), 1+random.IntN(9)
		stopped := c
		stopped.Results = t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		errs := together(t, world, 20*time.Second, func(r train.Ranks) error {
			own := again(t, stopped, nil)
			own.Ranks = r
			seen := context.Background()
			if r.Group.Rank() == by {
				own.Progress, seen = &stopper{after, cancel}, ctx
			}
			_, err := train.Run(seen, own)
			return err
		})
		var first *train.Interrupted
		for rank, err := range errs {
			var interrupted *train.Interrupted
			require.ErrorAs(t, err, &interrupted, "rank %d", rank)
			if first == nil {
				first = interrupted
			}
			require.Equal(t, first, interrupted)
		}
		goOn := stopped
		goOn.Pretrained, goOn.Continue = "", true
		if i%2 == 0 {
			require.Equal(t, want, state(t, mustTogether(t, world, goOn).Checkpoint), "stopped on rank %d by progress %d", by, after)
			continue
		}
		other := run(t, again(t, goOn, nil))
		requireNear(t, start, whole.Checkpoint, other.Checkpoint)
		require.Contains(t, textLog(t, other.Folder), "began with 2 ranks and goes on with 1 rank: the same batches")
	}
}

package train_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
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
	requireWithin(t, 1e-4, 1e-3, start, want, got)
}

func requireWithin(t *testing.T, loss, change float64, start, want, got string) {
	t.Helper()
	a, b := logOf(t, want), logOf(t, got)
	for i := range a.TrainLosses {
		require.InEpsilon(t, a.TrainLosses[i], b.TrainLosses[i], loss, "epoch %d", i)
		require.InEpsilon(t, a.ValLosses[i], b.ValLosses[i], loss, "epoch %d, validation", i)
		require.InDelta(t, a.MeanFgDice[i], b.MeanFgDice[i], 10*loss, "epoch %d, Dice", i)
	}
	begin, _ := floatsOf(t, start)
	x, _ := floatsOf(t, want)
	y, _ := floatsOf(t, got)
	var moved, apart float64
	for name, w := range x {
		for i := range w {
			moved += math.Pow(float64(w[i])-float64(begin[name][i]), 2)
			apart += math.Pow(float64(w[i])-float64(y[name][i]), 2)
		}
	}
	require.NotZero(t, moved)
	require.Less(t, math.Sqrt(apart), change*math.Sqrt(moved))
	t.Logf("weights: %.2g of their change", math.Sqrt(apart/moved))
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

// Whatever is trained, and however, two ranks train it as one does. (TestRanksDropAndAccumulateAsOneRank has dropout.)
func TestRanksTrainEverythingAsOneRank(t *testing.T) {
	tinyConfig := func(t *testing.T) train.Config {
		c := tiny{}.config(t, "plain", "full", nil)
		c.BatchSize, c.NoValidation = 2, true
		c.Pretrained, c.Head = startOf(t, c), train.HeadKeep
		return c
	}
	swin := func(t *testing.T) train.Config {
		c := tiny{dim: 2}.config(t, "plain", "full", nil)
		c.Trainer, c.Pretrained, c.Head = "nnUNetTrainer_SwinUNETR", swinWeights(t, "nnUNetTrainer_SwinUNETR", 2, 3, 4), train.HeadKeep
		c.PatchSize, c.BatchSize, c.NoValidation = []int{64, 64}, 2, true // norms over fewer voxels multiply what rounding does
		c.Epochs, c.Iterations, c.ValIterations = 1, 2, 1
		return c
	}
	for name, config := range map[string]func(t *testing.T) train.Config{
		"bf16": func(t *testing.T) train.Config {
			c := tinyConfig(t)
			c.AMP = machine.AMPBF16
			return c
		},
		"train and freeze": func(t *testing.T) train.Config {
			c := tinyConfig(t)
			c.Refine = finetune.Refine{Train: []string{"decoder.*", "encoder.stages.1.*"}, Freeze: []string{"*.bias"}}
			return c
		},
		"ResEnc": func(t *testing.T) train.Config {
			c := tiny{}.config(t, "plain", "full", nil)
			path := filepath.Join(c.Preprocessed, "nnUNetPlans.json")
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			text := strings.NewReplacer("PlainConvUNet", "ResidualEncoderUNet", `"n_conv_per_stage"`, `"n_blocks_per_stage"`).Replace(string(b))
			write(t, path, text)
			c.BatchSize, c.NoValidation = 2, true
			c.Pretrained, c.Head = startOf(t, c), train.HeadKeep
			return c
		},
		"SwinUNETR": swin,
		"SwinUNETR, recomputed": func(t *testing.T) train.Config {
			c := swin(t)
			c.Recompute = true
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			torchtest.NoLeak(t)
			one := config(t)
			want := run(t, one)
			many := one
			many.Results = t.TempDir()
			loss, change := 1e-4, 1e-3
			if one.AMP == machine.AMPBF16 { // each rank rounds its gradients to 8 bits before they are added up, PyTorch's likewise
				loss, change = 1e-3, 2e-2
			}
			requireWithin(t, loss, change, one.Pretrained, want.Checkpoint, mustTogether(t, 2, many).Checkpoint)
		})
	}
}

// Any number of ranks validates a checkpoint to the same files as one, byte for byte: three have a rank without a case.
func TestRanksValidateAsOneRank(t *testing.T) {
	torchtest.NoLeak(t)
	c := phantom(t, "full")
	c.ValidateOnly, c.Checkpoint, c.Pretrained, c.Threads = true, c.Pretrained, "", 1
	c.ValidationFolder = filepath.Join(t.TempDir(), "validation") // summary.json names it
	files := func() map[string]string {
		found := map[string]string{}
		entries, err := os.ReadDir(c.ValidationFolder)
		require.NoError(t, err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			b, err := os.ReadFile(filepath.Join(c.ValidationFolder, e.Name()))
			require.NoError(t, err)
			found[e.Name()] = string(b)
		}
		require.NoError(t, os.RemoveAll(c.ValidationFolder))
		return found
	}
	one := run(t, c)
	want := files()
	require.Len(t, want, 3)
	require.Contains(t, want, "summary.json")
	for _, world := range []int{2, 3} {
		r := mustTogether(t, world, c)
		require.Equal(t, one.Dice, r.Dice)
		require.Equal(t, want, files(), "%d ranks", world)
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
	random := rand.New(rand.NewPCG(1, 2))
	for _, o := range []struct {
		set, method string
		numerics    machine.Numerics
		world       int
		stops       int
	}{
		{"plain", "dgst", machine.Fast, 3, 4},
		{"plain", "full", machine.Fast, 2, 1},
		{"ignore", "full", machine.Reference, 3, 3},
		{"regions_ignore", "norm", machine.Fast, 3, 1},
	} {
		t.Run(fmt.Sprintf("%s on %s, %v, %d ranks", o.method, o.set, o.numerics, o.world), func(t *testing.T) {
			c := tiny{}.config(t, o.set, o.method, nil)
			c.BatchSize, c.Numerics = 4, o.numerics
			stopAndGoOn(t, c, o.world, o.stops, random)
		})
	}
}

func stopAndGoOn(t *testing.T, c train.Config, world, stops int, random *rand.Rand) {
	torchtest.NoLeak(t)
	start := startOf(t, c)
	c.Pretrained, c.Head = start, train.HeadKeep
	whole := mustTogether(t, world, c)
	want := state(t, whole.Checkpoint)
	for i := range stops {
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
			if _, missing := os.Stat(filepath.Join(fold900(own), "run.json")); missing != nil {
				return fmt.Errorf("rank %d left before rank 0 had written all: %w", r.Group.Rank(), missing)
			}
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
		said := "equal results but for rounding"
		if c.Numerics == machine.Reference {
			said = "and with --numerics reference a loss that depends on how they are shared out"
		} else {
			requireNear(t, start, whole.Checkpoint, other.Checkpoint)
		}
		require.Contains(t, textLog(t, other.Folder), fmt.Sprintf("began with %d ranks and goes on with 1 rank: the same batches, %s", world, said))
	}
}

// A training goes on with more ranks than it began with, or fewer: the same batches, so that the weights in the end are those
// of one that nobody stopped, but for rounding.
func TestAnotherNumberOfRanksGoesOn(t *testing.T) {
	torchtest.NoLeak(t)
	c := tiny{}.config(t, "plain", "full", nil)
	c.BatchSize = 4
	start := startOf(t, c)
	c.Pretrained, c.Head = start, train.HeadKeep
	for _, n := range []struct {
		from, to int
		log      string
	}{
		{1, 2, "began with 1 rank and goes on with 2 ranks: the same batches"},
		{3, 2, "began with 3 ranks and goes on with 2 ranks: the same batches"},
	} {
		undisturbed, stopped := c, c
		undisturbed.Results, stopped.Results = t.TempDir(), t.TempDir()
		whole := mustTogether(t, n.from, undisturbed)
		if n.from == 1 {
			alone := c
			alone.Results = t.TempDir()
			require.Equal(t, state(t, run(t, again(t, alone, nil)).Checkpoint), state(t, whole.Checkpoint), "a group of one trains what one does alone")
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for rank, err := range together(t, n.from, 20*time.Second, func(r train.Ranks) error {
			own := again(t, stopped, nil)
			own.Ranks = r
			if r.Group.Rank() == 0 {
				own.Progress = &stopper{3, cancel}
			}
			_, err := train.Run(ctx, own)
			return err
		}) {
			var interrupted *train.Interrupted
			require.ErrorAs(t, err, &interrupted, "rank %d", rank)
			require.Equal(t, 0, interrupted.Epoch)
			require.Positive(t, interrupted.Iteration)
		}
		stopped.Pretrained, stopped.Continue = "", true
		other := mustTogether(t, n.to, stopped)
		requireNear(t, start, whole.Checkpoint, other.Checkpoint)
		require.Contains(t, textLog(t, other.Folder), n.log)
	}
}

// drifting is a method whose rank changes a weight by itself.
type drifting struct {
	finetune.Method
	at int64 // step
}

func (d *drifting) Update(s *torch.Scope, step int64, params []finetune.Param) ([]optim.Mask, error) {
	if step == d.at {
		return nil, torch.NoGrad(func() error {
			s.Add_(s.Detach(params[3].T), s.Full(nil, 1e-3, torch.Float32, torch.CPU), 1)
			return s.Err()
		})
	}
	return nil, nil
}

// What goes wrong on one rank ends all of them with one message, and leaves weights that are whole.
func TestWhatFailsOnOneRankEndsAll(t *testing.T) {
	every := func(t *testing.T, errs []error, parts ...string) {
		for rank, err := range errs {
			for _, part := range parts {
				require.ErrorContains(t, err, part, "rank %d", rank)
			}
		}
	}
	// spoil gives rank 1 a copy of the data, with cases of its own.
	spoil := func(t *testing.T, c *train.Config, change func(path string)) {
		own := filepath.Join(t.TempDir(), filepath.Base(c.Preprocessed))
		require.NoError(t, os.CopyFS(own, os.DirFS(c.Preprocessed)))
		c.Preprocessed = own
		paths, err := filepath.Glob(filepath.Join(own, "nnUNetPlans_tiny", "*.npz"))
		require.NoError(t, err)
		require.NotEmpty(t, paths)
		for _, path := range paths {
			change(path)
		}
	}
	for name, o := range map[string]struct {
		change func(t *testing.T, rank int, c *train.Config)
		want   []string
	}{
		"a loss that is no number": {func(t *testing.T, rank int, c *train.Config) {
			if rank == 1 {
				spoil(t, c, func(path string) { overflow(t, path) })
			}
		}, []string{"loss is NaN, expected a number (cases case_", " (rank 1), learning rate 0.01); weights were not updated"}},
		"only the validation on one rank": {func(t *testing.T, rank int, c *train.Config) {
			if rank == 1 {
				c.ValidateOnly = true
			}
		}, []string{"train different things, which differ in --val (false on rank 0, true on rank 1)"}},
		"the best checkpoint on one rank": {func(t *testing.T, rank int, c *train.Config) {
			c.ValidateBest = rank == 1
		}, []string{"differ in setting val_best (false on rank 0, true on rank 1)"}},
		"checkpoints at other epochs": {func(_ *testing.T, rank int, c *train.Config) {
			c.SaveEvery = 1 + rank
		}, []string{"differ in setting save_every (1 on rank 0, 2 on rank 1)"}},
		"probabilities of one rank's cases": {func(_ *testing.T, rank int, c *train.Config) {
			c.Npz = rank == 0
		}, []string{"differ in --npz (true on rank 0, false on rank 1)"}},
		"another method": {func(t *testing.T, rank int, c *train.Config) {
			if rank == 1 {
				entry, err := finetune.Lookup("norm")
				require.NoError(t, err)
				c.MethodName = entry.Name
				c.Method, err = entry.Make(nil)
				require.NoError(t, err)
			}
		}, []string{"differ in method (full on rank 0, norm on rank 1)"}},
		"another option of the method": {func(_ *testing.T, rank int, c *train.Config) {
			c.Options = map[string]string{"lora-rank": fmt.Sprint(2 + 2*rank)}
		}, []string{"differ in setting lora-rank (2 on rank 0, 4 on rank 1)"}},
		"another lntorch": {func(_ *testing.T, rank int, c *train.Config) {
			c.Version = []string{"1.0", "1.1"}[rank]
		}, []string{"differ in lntorch's version (1.0 on rank 0, 1.1 on rank 1)"}},
		"a damaged case": {func(t *testing.T, rank int, c *train.Config) {
			if rank == 1 {
				spoil(t, c, func(path string) { require.NoError(t, os.Truncate(path, 300)) })
			}
		}, []string{"case_", ".npz"}},
		"other settings": {func(_ *testing.T, rank int, c *train.Config) {
			c.LR = []float64{1e-2, 2e-2}[rank]
		}, []string{"which differ in setting lr (0.01 on rank 0, 0.02 on rank 1)"}},
		"other plans": {func(t *testing.T, rank int, c *train.Config) {
			if rank == 1 {
				spoil(t, c, func(string) {})
				path := filepath.Join(c.Preprocessed, "nnUNetPlans.json")
				b, err := os.ReadFile(path)
				require.NoError(t, err)
				write(t, path, strings.Replace(string(b), `"mean": 0.0`, `"mean": 1.0`, 1))
			}
		}, []string{"plans nnUNetPlans.json (one on rank 0, another on rank 1)"}},
		"a case less": {func(t *testing.T, rank int, c *train.Config) {
			if rank == 1 {
				spoil(t, c, func(path string) {})
				write(t, filepath.Join(c.Preprocessed, "splits_final.json"), `[{"train": ["case_0", "case_1"], "val": ["case_0", "case_4"]}]`)
			}
		}, []string{"list of cases (one on rank 0, another on rank 1)"}},
		"fewer patches than ranks": {func(_ *testing.T, _ int, c *train.Config) { c.BatchSize = 1 },
			[]string{"batches of 1 for 2 ranks: each needs a patch at least; give --batch-size 2 or more"}},
		"weights that drift apart": {func(_ *testing.T, rank int, c *train.Config) {
			c.Method = &drifting{c.Method, []int64{-1, 2}[rank]}
		}, []string{"after iteration 5 the weights or masks of encoder.stages.0.0.convs.0.norm.bias differ between rank 0 and rank 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			torchtest.NoLeak(t)
			c := tiny{}.config(t, "plain", "full", nil)
			path := filepath.Join(c.Preprocessed, "nnUNetPlans.json")
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			write(t, path, strings.Replace(string(b), `"batch_dice": false`, `"batch_dice": true`, 1)) // every rank's loss has the sums of all
			_, errs := runTogether(t, 2, c, func(rank int, c *train.Config) { o.change(t, rank, c) })
			every(t, errs, o.want...)
			if strings.HasPrefix(name, "a loss") {
				require.NotContains(t, errs[0].Error(), "(rank 0)")
			}
			paths, err := filepath.Glob(filepath.Join(c.Results, "*", "*", "fold_0", "*.pth"))
			require.NoError(t, err)
			for _, path := range paths {
				require.Empty(t, notFinite(t, path))
			}
		})
	}
}

// overflow gives a case's image the largest numbers that there are.
func overflow(t *testing.T, path string) {
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	arrays := map[string]*npz.Array{}
	for _, name := range f.Names() {
		if arrays[name], err = f.Read(name); err != nil {
			break
		}
	}
	require.NoError(t, errors.Join(err, f.Close()))
	data, err := arrays["data"].Float32s()
	require.NoError(t, err)
	for i := range data {
		data[i] = float32(math.Copysign(math.MaxFloat32, float64(data[i])))
	}
	arrays["data"], err = npz.New(data, arrays["data"].Shape...)
	require.NoError(t, err)
	w, err := npz.Create(path, true)
	require.NoError(t, err)
	for name, a := range arrays {
		require.NoError(t, w.Add(name, a))
	}
	require.NoError(t, w.Close())
}

// Ranks that torchrun starts again go on from what the ones before saved, without their pretrained weights; a checkpoint
// that an earlier training left in the folder is not taken for theirs.
func TestRestartedRanksGoOn(t *testing.T) {
	torchtest.NoLeak(t)
	c := tiny{}.config(t, "plain", "full", nil)
	c.BatchSize = 4
	c.Pretrained, c.Head = startOf(t, c), train.HeadKeep
	want := state(t, mustTogether(t, 2, c).Checkpoint)
	// started trains as torchrun's job of an id, whose agent has a name, restarted that often, until a progress call.
	started := func(world int, c train.Config, job, agent string, restart, until int) []error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		return together(t, world, 20*time.Second, func(r train.Ranks) error {
			own := again(t, c, nil)
			r.Launcher, r.RunID, r.Agent, r.Restart = "torchrun", job, agent, restart
			own.Ranks = r
			if r.Group.Rank() == 1 {
				own.Progress = &stopper{until, cancel}
			}
			_, err := train.Run(ctx, own)
			return err
		})
	}
	latest, final := filepath.Join(fold900(c), "checkpoint_latest.pth"), filepath.Join(fold900(c), "checkpoint_final.pth")
	// The first attempt failed before it came to the folder, where an earlier job left its training.
	require.Error(t, errors.Join(started(2, c, "none", "a", 1, 4)...)) // stopped: a new training, beside the one before
	require.NoFileExists(t, final)
	require.FileExists(t, latest)
	kept, err := filepath.Glob(filepath.Join(fold900(c), "checkpoint_final_*.pth"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
	for rank, err := range started(2, c, "none", "b", 1, 1000) { // another agent: of the same job, or of another
		require.ErrorContains(t, err, latest+" is of a job without an id, as this one is", "rank %d", rank)
		require.ErrorContains(t, err, "--rdzv-id NAME", "rank %d", rank)
	}
	pretrained := c.Pretrained
	c.Pretrained = filepath.Join(t.TempDir(), "not there any more.pth")
	require.NoError(t, errors.Join(started(2, c, "none", "a", 2, 1000)...))
	require.Equal(t, want, state(t, final))
	c.Pretrained = pretrained
	require.Error(t, errors.Join(started(2, c, "job 6", "c", 1, 4)...)) // not taken for "none", nor the other way round
	require.NoFileExists(t, final)

	// Another number of ranks of the same job is a restart that torchrun does not count; another job is none.
	c = tiny{}.config(t, "plain", "full", nil)
	c.BatchSize = 4
	require.Error(t, errors.Join(started(3, c, "job 7", "d", 0, 4)...))
	require.NoError(t, errors.Join(started(2, c, "job 7", "e", 0, 1000)...))
	require.NoError(t, errors.Join(started(3, c, "job 8", "d", 0, 1000)...))
	logs, err := filepath.Glob(filepath.Join(fold900(c), "training_log_*.txt")) // those of one second are one
	require.NoError(t, err)
	all := ""
	for _, path := range logs {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		all += string(b)
	}
	require.Equal(t, 1, strings.Count(all, "goes on with"))
	require.Contains(t, all, "began with 3 ranks and goes on with 2 ranks")
}

func fold900(c train.Config) string {
	return filepath.Join(c.Results, "Dataset900_Tiny", c.Trainer+"__nnUNetPlans__tiny", "fold_0")
}

// Rank 0's weights are every rank's, whatever another had; what the ranks trained is what they agree on in the end.
func TestRankZerosWeightsCount(t *testing.T) {
	torchtest.NoLeak(t)
	path := mini(t, sourceModel+"/fold_0/checkpoint_final.pth")
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	e := checkpoint.NewEdit(f, models.Canonical)
	bias, err := checkpoint.NewFloat32([]float32{1, 2}, []int64{2})
	require.NoError(t, err)
	require.NoError(t, e.Replace("decoder.seg_layers.2.bias", bias))
	other := filepath.Join(t.TempDir(), "other.pth")
	require.NoError(t, e.Save(other, ""))
	traced := func(paths ...string) togetherLosses {
		out := t.TempDir()
		errs := together(t, 2, 20*time.Second, func(r train.Ranks) error {
			entry, err := finetune.Lookup("full")
			if err != nil {
				return err
			}
			m, err := entry.Make(nil)
			if err != nil {
				return err
			}
			return train.Trace(t.Context(), train.TraceConfig{Checkpoint: paths[r.Group.Rank()], Plans: f.Plans, Dataset: f.Dataset, Configuration: f.Configuration,
				Batches: mini(t, "trajectory"), Output: out, MethodName: "full", Method: m, Ranks: r,
				TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: 1e-2, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 1}})
		})
		require.NoError(t, errors.Join(errs...))
		l := readTogether(t, out)
		l.Waits = nil
		return l
	}
	want := traced(path, path)
	require.Equal(t, want.Weights[0], want.Weights[1])
	require.Equal(t, want, traced(path, other))
	require.NotEqual(t, want, traced(other, path))
}

// Ranks that were told to trace different things say so, before anything is written.
func TestRanksOfATraceAgree(t *testing.T) {
	f, err := checkpoint.Open(mini(t, sourceModel+"/fold_0/checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	p, err := plans.Load(mini(t, "preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json"))
	require.NoError(t, err)
	for name, o := range map[string]struct {
		change func(c *train.TraceConfig)
		want   string
	}{
		"steps": {func(c *train.TraceConfig) { c.Accumulate = 2 },
			"number of steps (4 on rank 0, 2 on rank 1); setting accumulate (1 on rank 0, 2 on rank 1): start"},
		"an option of the method": {func(c *train.TraceConfig) { c.Options = map[string]string{"k": "2"} }, "setting k (1 on rank 0, 2 on rank 1): start"},
		"plans":                   {func(c *train.TraceConfig) { c.Plans = p }, "plans (one on rank 0, another on rank 1): start"},
		"lntorch":                 {func(c *train.TraceConfig) { c.Version = "1.1" }, "lntorch's version (1.0 on rank 0, 1.1 on rank 1): start"},
	} {
		t.Run(name, func(t *testing.T) {
			entry, err := finetune.Lookup("full")
			require.NoError(t, err)
			out := filepath.Join(t.TempDir(), "out")
			errs := together(t, 2, 20*time.Second, func(r train.Ranks) error {
				m, err := entry.Make(nil)
				if err != nil {
					return err
				}
				c := train.TraceConfig{Source: f, Plans: f.Plans, Dataset: f.Dataset, Configuration: f.Configuration,
					Batches: mini(t, "trajectory"), Output: out, MethodName: "full", Method: m, Options: map[string]string{"k": "1"}, Ranks: r, Version: "1.0",
					TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: 1e-2, Momentum: 0.99}, Accumulate: 1},
					Machine:       machine.Machine{Device: torch.CPU, Threads: 1}}
				if r.Group.Rank() == 1 {
					o.change(&c)
				}
				return train.Trace(t.Context(), c)
			})
			for rank, err := range errs {
				require.ErrorContains(t, err, "differ in "+o.want, "rank %d", rank)
			}
			require.NoFileExists(t, filepath.Join(out, "losses.json"))
		})
	}
}

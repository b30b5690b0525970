package train_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
	"github.com/lntorch/lntorch/train"
)

// atTask calls f when a task begins.
type atTask struct {
	task string
	f    func()
}

func (a *atTask) Begin(task string, _ int) {
	if strings.HasPrefix(task, a.task) {
		a.f()
	}
}
func (*atTask) End()             {}
func (*atTask) Done(int, string) {}

// asked is a context that does something when it is asked whether to stop.
type asked struct {
	context.Context
	answer func()
}

func (a *asked) Err() error {
	if f := a.answer; f != nil {
		a.answer = nil
		f()
	}
	return a.Context.Err()
}

// Wherever a training waits for a rank that has left, even inside the loss of a validation batch, the others say how to go on.
func TestARankLostInAnEpochsValidationIsTold(t *testing.T) {
	torchtest.NoLeak(t)
	c := tiny{}.config(t, "plain", "full", nil)
	c.BatchSize = 4
	plans := filepath.Join(c.Preprocessed, "nnUNetPlans.json")
	b, err := os.ReadFile(plans)
	require.NoError(t, err)
	write(t, plans, strings.Replace(string(b), `"batch_dice": false`, `"batch_dice": true`, 1)) // losses exchange
	errs := together(t, 2, 20*time.Second, func(r train.Ranks) error {
		own := again(t, c, nil)
		own.Ranks = r
		if r.Group.Rank() == 0 {
			_, err := train.Run(t.Context(), own)
			return err
		}
		ctx := &asked{Context: t.Context()}
		own.Progress = &atTask{"validation", func() {
			ctx.answer = func() { // goes on, as far as the others know, and is no more when they have the loss to share
				_, _ = r.Group.Exchange(ctx, []byte("go"))
				r.Group.Close()
			}
		}}
		if _, err := train.Run(ctx, own); err == nil {
			return errors.New("rank 1 does not leave")
		}
		return nil
	})
	require.NoError(t, errs[1])
	require.Regexp(t, `^rank 1 \(host \S+, pid \d+\) has ended: epoch 0, iteration 3\. No checkpoint was written yet$`, errs[0].Error())
}

// A rank that has predicted its cases, and waits, says of another that is lost what those say that still predict.
func TestARankLostInTheFinalValidationIsTold(t *testing.T) {
	torchtest.NoLeak(t)
	for _, world := range []int{2, 3} { // of three, one has no case at all
		c := tiny{}.config(t, "plain", "full", nil)
		c.BatchSize = world
		errs := together(t, world, 20*time.Second, func(r train.Ranks) error {
			own := again(t, c, nil)
			own.Ranks = r
			if r.Group.Rank() != 1 {
				_, err := train.Run(t.Context(), own)
				return err
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			own.Progress = &atTask{"case_", func() { cancel(); r.Group.Close() }}
			_, err := train.Run(ctx, own)
			if err == nil {
				return errors.New("rank 1 does not leave")
			}
			return nil
		})
		require.NoError(t, errs[1])
		for rank, err := range errs {
			if rank != 1 {
				require.Regexp(t, `^train: validation: rank 1 \(host \S+, pid \d+\) has ended; training is complete, in `+
					regexp.QuoteMeta(filepath.Join(fold900(c), "checkpoint_final.pth"))+`: validate it with --val$`, err.Error(), "rank %d of %d", rank, world)
			}
		}
	}
}

// sluggish is a method whose steps take their time.
type sluggish struct{ finetune.Method }

const sluggishStep = 100 * time.Millisecond

func (*sluggish) Update(*torch.Scope, int64, []finetune.Param) ([]optim.Mask, error) {
	time.Sleep(sluggishStep)
	return nil, nil
}

// The speed of an epoch that was taken up in the middle is that of the iterations since.
func TestSpeedIsThatOfTheIterationsMade(t *testing.T) {
	torchtest.NoLeak(t)
	c := tiny{}.config(t, "plain", "full", nil)
	c.BatchSize, c.Epochs, c.Iterations, c.NoValidation = 4, 1, 8, true
	started := func(until int) (log string, err error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		errs := together(t, 2, 20*time.Second, func(r train.Ranks) error {
			own := again(t, c, nil)
			own.Ranks, own.Continue = r, until == 0
			own.Method = &sluggish{own.Method}
			if r.Group.Rank() == 0 && until > 0 {
				own.Progress = &stopper{until, cancel}
			}
			_, err := train.Run(ctx, own)
			return err
		})
		return textLog(t, fold900(c)), errs[0]
	}
	_, err := started(7) // one call for where the epoch stands
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	require.Equal(t, 6, stopped.Iteration)
	text, err := started(0)
	require.NoError(t, err)
	found := regexp.MustCompile(`(\d+\.\d+) patches a second`).FindAllStringSubmatch(text, -1)
	require.Len(t, found, 1, text)
	speed, err := strconv.ParseFloat(found[0][1], 64)
	require.NoError(t, err)
	require.Positive(t, speed)
	require.LessOrEqual(t, speed, float64(c.BatchSize)/sluggishStep.Seconds())
}

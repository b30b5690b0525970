package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/pynum"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

// gradNorm is the total gradient norm that nnU-Net clips to. Source: nnUNetTrainer.train_step.
const gradNorm = 12

// runEpoch trains, validates, logs and saves one epoch, from the iteration where the training stands.
func (t *trainer) runEpoch(ctx context.Context) error {
	c := &t.cfg
	lr := optim.PolyLR(c.LR, t.epoch, c.Epochs, 0.9)
	t.sgd.SetLR(lr)
	start := time.Now()
	if err := t.log.StartEpoch(t.epoch, start, lr); err != nil {
		return err
	}
	t.file.EpochStart(t.epoch, lr)
	if err := t.trainEpoch(ctx); err != nil {
		return err
	}
	if err := t.validateEpoch(ctx); err != nil {
		return err
	}
	if err := t.log.EndEpoch(t.epoch, time.Now()); err != nil {
		return err
	}
	if err := t.file.EpochEnd(&t.log, t.epoch); err != nil {
		return err
	}
	if m, ok := c.Method.(finetune.Counter); ok {
		if step, ever := m.Counts(); step > 0 {
			t.file.Print(fmt.Sprintf("sparse entries: %s in the last step, %s so far", thousands(step), thousands(ever)))
		}
	}
	if err := t.writeEvents(); err != nil {
		return err
	}
	return t.endEpoch()
}

// endEpoch moves on to the next epoch and saves.
// Differs: nnU-Net saves the latest checkpoint every 50 epochs, before it looks whether the epoch was the best; here the
// latest one knows, so that a resumed training goes on exactly.
func (t *trainer) endEpoch() error {
	e := t.epoch
	t.epoch, t.iteration, t.losses = e+1, 0, nil
	if ema := t.log.EMAFgDice[e]; eval.Better(ema, t.best) {
		t.best = &ema
		t.file.NewBest(ema)
		if err := t.save(fileBest); err != nil {
			return err
		}
	}
	if t.epoch%t.cfg.SaveEvery == 0 && t.epoch != t.cfg.Epochs {
		if err := t.save(fileLatest); err != nil {
			return err
		}
	}
	return report.Progress(filepath.Join(t.fold, "progress.png"), &t.log)
}

func (t *trainer) trainEpoch(ctx context.Context) error {
	c := &t.cfg
	t.net.SetTraining(true)
	t.net.SetDeepSupervision(true)
	c.Progress.Begin(fmt.Sprintf("epoch %d of %d", t.epoch+1, c.Epochs), c.Iterations)
	defer c.Progress.End()
	c.Progress.Done(t.iteration, "")
	for t.iteration < c.Iterations {
		if ctx.Err() != nil {
			if err := t.settle(0); err != nil {
				return fmt.Errorf("train: epoch %d: %w", t.epoch, err)
			}
			return t.interrupt()
		}
		begin := time.Now()
		// Workers are not told of ctx: what they hold is used up before the training stops.
		b, err := t.train.Next(context.WithoutCancel(ctx))
		if err != nil {
			return fmt.Errorf("train: epoch %d, iteration %d: %w", t.epoch, t.iteration, err)
		}
		waited := time.Since(begin)
		err = t.step(b)
		b.Release()
		if err == nil {
			err = t.settle(1)
		}
		if err != nil {
			return fmt.Errorf("train: epoch %d, iteration %d: %w", t.epoch, t.iteration, err)
		}
		t.iteration++
		t.timing.add(time.Since(begin), waited)
		note := "" // the first loss may still be owed
		if n := len(t.losses); n > 0 {
			note = t.note(t.losses[n-1])
		}
		c.Progress.Done(t.iteration, note)
	}
	if err := t.settle(0); err != nil {
		return fmt.Errorf("train: epoch %d, iteration %d: %w", t.epoch, t.iteration-1, err)
	}
	return t.log.TrainLoss(t.epoch, meanLoss(t.losses))
}

// note is what stands beside the progress bar.
func (t *trainer) note(loss float64) string {
	c := &t.cfg
	left := (c.Epochs-t.epoch)*c.Iterations - t.iteration
	left += (c.Epochs - t.epoch) * c.ValIterations / 3 // a validation iteration has no backward pass
	note := fmt.Sprintf("loss %.4f", loss)
	if m, ok := c.Method.(finetune.Counter); ok {
		if step, ever := m.Counts(); step > 0 {
			note += fmt.Sprintf(", %s entries (%s ever)", thousands(step), thousands(ever))
		}
	}
	if d := t.timing.median(); d > 0 {
		note += ", training ends in " + (d * time.Duration(left)).Round(time.Second).String()
	}
	return note
}

// step is one iteration: zero, forward, loss, backward, unscale, clip, finite check, mask, step. The loss comes to t.losses, or
// is owed (late).
func (t *trainer) step(b *loader.Batch) error {
	c := &t.cfg
	return torch.With(func(s *torch.Scope) error {
		n := int64(t.epoch)*int64(c.Iterations) + int64(t.iteration)
		if err := torch.ManualSeed(mix(c.Seed, uint64(n))); err != nil { // dropout draws from it
			return err
		}
		if err := torch.ClearGrads(t.tensors); err != nil {
			return err
		}
		x, targets := t.toDev.upload(s, b)
		l, _, err := t.forward(s, x, targets)
		if err != nil {
			return err
		}
		back := l
		if t.scaler != nil {
			back = t.scaler.Scale(s, l)
		}
		if s.Err() != nil {
			return s.Err()
		}
		if err := back.Backward(); err != nil {
			return err
		}
		if t.scaler != nil {
			t.scaler.Unscale(s, t.tensors)
		}
		norm := optim.ClipGradNorm(s, t.tensors, gradNorm)
		if t.late != nil {
			return t.stepLate(s, l, norm, b)
		}
		value, err := l.Item()
		if err != nil {
			return err
		}
		if err := t.finite(s, value, norm, b); err != nil {
			return err
		}
		t.losses = append(t.losses, value)
		if t.scaler != nil {
			var maskErr error
			t.scaler.Step(s, func() { maskErr = t.update(s, n) })
			t.scaler.Update(s)
			return errors.Join(maskErr, s.Err())
		}
		return t.update(s, n)
	})
}

// update lets the method choose and the optimizer step.
func (t *trainer) update(s *torch.Scope, n int64) error {
	chosen, err := t.choose(s, n)
	if err != nil {
		return err
	}
	t.sgd.Step(s, t.spread(chosen))
	return s.Err()
}

// choose asks the method for its masks, which are nil for an ordinary step.
func (t *trainer) choose(s *torch.Scope, n int64) ([]optim.Mask, error) {
	if m, ok := t.cfg.Method.(finetune.Updater); ok {
		return m.Update(s, n, t.trained)
	}
	return nil, s.Err()
}

// spread puts the masks of the trained parameters at their places among all parameters.
func (t *trainer) spread(chosen []optim.Mask) []optim.Mask {
	if chosen == nil || len(t.trained) == len(t.params) {
		return chosen
	}
	all := make([]optim.Mask, len(t.params))
	next := 0
	for i, p := range t.params {
		if next < len(t.trained) && t.trained[next].Name == p.Name {
			all[i] = chosen[next]
			next++
		}
	}
	return all
}

// forward gives the loss of a batch, and the network's heads.
func (t *trainer) forward(s *torch.Scope, x *torch.Tensor, targets []*torch.Tensor) (l *torch.Tensor, heads []*torch.Tensor, err error) {
	err = t.mixed(func() error {
		heads = t.net.Forward(s, x)
		l = t.loss.Forward(s, heads, targets)
		return s.Err()
	})
	return l, heads, err
}

// mixed runs f in the training's precision.
func (t *trainer) mixed(f func() error) error {
	switch t.cfg.AMP {
	case AMPFP16:
		return torch.Autocast(t.cfg.Device.Type, torch.Float16, f)
	case AMPBF16:
		return torch.Autocast(t.cfg.Device.Type, torch.BFloat16, f)
	}
	return f()
}

// finite refuses to go on from a loss or gradient that is no number: nothing was updated yet. With a gradient scaler
// overflowing gradients are in order; it skips their step.
func (t *trainer) finite(s *torch.Scope, loss float64, norm *torch.Tensor, b *loader.Batch) error {
	if !isFinite(loss) {
		return t.notFinite("loss", loss, b.Keys)
	}
	if t.scaler != nil {
		return nil
	}
	n, err := norm.Item()
	if err != nil {
		return errors.Join(s.Err(), err)
	}
	if !isFinite(n) {
		return t.notFinite("gradient norm", n, b.Keys)
	}
	return nil
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// notFinite is the error of an iteration over the cases keys.
func (t *trainer) notFinite(what string, value float64, keys []string) error {
	saved, latest := "no checkpoint was written yet", filepath.Join(t.fold, fileLatest)
	if _, err := os.Stat(latest); err == nil {
		saved = "the last saved state is in " + latest
	}
	return fmt.Errorf("%s is %v, expected a number (cases %s, learning rate %g); weights were not updated and %s. "+
		"Check these cases' intensities for NaN (`lntorch inspect`), or begin anew with a lower --lr", what, value, strings.Join(keys, ", "), t.sgd.LR(), saved)
}

// validateEpoch is nnU-Net's online validation: loss and pseudo-Dice over random patches of the validation cases.
func (t *trainer) validateEpoch(ctx context.Context) error {
	c := &t.cfg
	t.net.SetTraining(false)
	c.Progress.Begin("validation", c.ValIterations)
	defer c.Progress.End()
	classes := len(t.dataset.Labels.ForegroundLabels)
	if t.dataset.Labels.HasRegions {
		classes = len(t.dataset.Labels.Regions)
	}
	online := eval.NewOnline(classes, t.dataset.Labels.HasRegions)
	var losses []float64
	for i := range c.ValIterations {
		if ctx.Err() != nil {
			return t.interrupt()
		}
		b, err := t.val.Next(context.WithoutCancel(ctx))
		if err != nil {
			return fmt.Errorf("train: epoch %d, validation: %w", t.epoch, err)
		}
		l, counts, err := t.validationStep(b)
		b.Release()
		if err == nil {
			err = online.Add(counts)
		}
		if err != nil {
			return fmt.Errorf("train: epoch %d, validation: %w", t.epoch, err)
		}
		losses = append(losses, l)
		c.Progress.Done(i+1, "")
	}
	dice, mean := online.Dice()
	return t.log.Validation(t.epoch, dice, mean, meanLoss(losses))
}

// meanLoss is numpy's mean of float32 losses, to the bit.
func meanLoss(losses []float64) float32 {
	narrow := make([]float32, len(losses))
	for i, l := range losses {
		narrow[i] = float32(l)
	}
	return pynum.Mean(narrow)
}

func (t *trainer) validationStep(b *loader.Batch) (value float64, counts []eval.Counts, err error) {
	err = torch.NoGrad(func() error {
		return torch.With(func(s *torch.Scope) error {
			x, targets := t.toDev.upload(s, b)
			l, heads, err := t.forward(s, x, targets)
			if err != nil {
				return err
			}
			if value, err = l.Item(); err != nil {
				return err
			}
			tp, fp, fn, err := t.loss.OnlineCounts(s, heads[0], targets[0])
			if err != nil {
				return err
			}
			for i := range tp {
				counts = append(counts, eval.Counts{TP: tp[i], FP: fp[i], FN: fn[i]})
			}
			return nil
		})
	})
	return value, counts, err
}

// writeEvents adds the epoch to the TensorBoard file.
func (t *trainer) writeEvents() error {
	e := t.epoch
	scalars := []report.Scalar{
		{Tag: "loss/train", Value: t.log.TrainLosses[e]},
		{Tag: "loss/val", Value: t.log.ValLosses[e]},
		{Tag: "dice/pseudo", Value: float32(t.log.MeanFgDice[e])},
		{Tag: "dice/ema", Value: float32(t.log.EMAFgDice[e])},
		{Tag: "lr", Value: float32(t.log.LRs[e])},
	}
	return t.events.Write(int64(e), time.Now(), scalars...)
}

// mix spreads (seed, index) over 64 bits (SplitMix64).
func mix(seed, index uint64) uint64 {
	z := seed + (index+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

package train

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/pynum"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/dist"
	"github.com/lntorch/lntorch/torch/optim"
)

// runEpoch trains, validates, logs and saves one epoch, from the iteration where the training stands.
func (t *trainer) runEpoch(ctx context.Context) error {
	c := &t.cfg
	lr := optim.PolyLR(c.LR, t.epoch, c.Epochs, 0.9)
	t.SGD.SetLR(lr)
	start := time.Now()
	if err := t.log.StartEpoch(t.epoch, start, lr); err != nil {
		return err
	}
	t.file.EpochStart(t.epoch, lr)
	t.spent, t.began = pace{}, t.iteration
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
	if err := t.printWaiting(); err != nil {
		return err
	}
	if m, ok := c.Method.(finetune.Counter); ok {
		if step, ever := m.Counts(); step > 0 {
			t.file.Print(fmt.Sprintf("selected entries of sparse layers: %s in the last step, %s so far",
				thousands(step), thousands(ever)))
		}
	}
	if err := t.writeEvents(); err != nil {
		return err
	}
	return t.endEpoch()
}

// endEpoch moves on to the next epoch and saves.
// Differs: nnU-Net saves the latest checkpoint every 50 epochs, before it looks whether the epoch was the best; here the
// latest one knows, so that a resumed training run has the same bits.
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
	if !t.peers.first() {
		return nil
	}
	return report.Progress(filepath.Join(t.fold, "progress.png"), &t.log)
}

func (t *trainer) trainEpoch(ctx context.Context) error {
	c := &t.cfg
	t.Net.SetTraining(true)
	t.Net.SetDeepSupervision(true)
	c.Progress.Begin(fmt.Sprintf("epoch %d of %d", t.epoch+1, c.Epochs), c.Iterations)
	defer c.Progress.End()
	c.Progress.Done(t.iteration, "")
	t.feed.begin(t.train, (c.Iterations-t.iteration)*c.Accumulate, hashedBatches)
	for t.iteration < c.Iterations {
		begin, before := time.Now(), t.peers.wait()
		on, err := t.GoOn(ctx)
		if err != nil {
			return t.failed(err)
		}
		if !on {
			if err := t.settle(); err != nil {
				return fmt.Errorf("train: epoch %d: %w", t.epoch, err)
			}
			return t.interrupt()
		}
		var in intake
		if err := t.step(ctx, &in); err != nil {
			return t.failed(err)
		}
		waited := in.waited
		t.iteration++
		took, others := time.Since(begin), t.peers.wait()-before
		t.timing.add(took, waited)
		if t.peers != nil {
			t.timing.others = keep(t.timing.others, others)
		}
		t.spent.Total, t.spent.Data, t.spent.Others = t.spent.Total+took, t.spent.Data+waited, t.spent.Others+others
		if err := t.profile.iteration(took, waited, in.times); err != nil {
			return fmt.Errorf("train: profile: %w", err)
		}
		note := "" // the first loss may still be owed
		if n := len(t.losses); n > 0 {
			note = t.progress(t.losses[n-1])
		}
		c.Progress.Done(t.iteration, note)
	}
	if err := t.settle(); err != nil {
		return fmt.Errorf("train: epoch %d, iteration %d: %w", t.epoch, t.iteration-1, err)
	}
	return t.log.TrainLoss(t.epoch, meanLoss(t.losses))
}

// failed is the error of an iteration.
func (t *trainer) failed(err error) error {
	return fmt.Errorf("train: epoch %d, iteration %d: %w", t.epoch, t.iteration, err)
}

// lost is the error by which another rank is lost; nil where err is none.
func lost(err error) error {
	var gone *dist.Gone
	var late *dist.TimedOut
	var left *dist.Left
	switch {
	case errors.As(err, &gone):
		return gone
	case errors.As(err, &late):
		return late
	case errors.As(err, &left):
		return left
	}
	return nil
}

// howToGoOn is the error that ends the epochs; wherever in them another rank was lost, it says what to do about it.
func (t *trainer) howToGoOn(err error) error {
	var stopped *Interrupted
	cause := lost(err)
	if cause == nil || errors.As(err, &stopped) { // which is saved, and says so
		return err
	}
	saved := "No checkpoint was written yet"
	if t.saved != "" {
		saved = fmt.Sprintf("Last saved: %s (epoch %d). Go on with --c", t.saved, t.savedEpoch)
	}
	return fmt.Errorf("%w: epoch %d, iteration %d. %s", cause, t.epoch, t.iteration, saved)
}

// printWaiting logs how long the epoch's training waited for data, and for other ranks.
func (t *trainer) printWaiting() error {
	total, waited, stats := t.timing.total, t.timing.waited, t.train.Stats()
	lines := waiting(waited-t.waited, total-t.total, stats.Since(t.stats), t.cfg.AugmentOn)
	for _, line := range lines {
		t.file.Print(line)
	}
	t.total, t.waited, t.stats = total, waited, stats
	if t.peers == nil {
		return nil
	}
	if n := t.cfg.Iterations - t.began; n > 0 {
		t.file.Print(fmt.Sprintf("%.2f patches a second", float64(t.cfg.BatchSize*t.cfg.Accumulate*n)/t.spent.Total.Seconds()))
	}
	all, err := gather(t.peers, t.spent)
	if err != nil {
		return t.failed(err)
	}
	for _, line := range paces(all, t.team) {
		t.file.Print(line)
	}
	return nil
}

// muchWaiting is the share of an epoch that waiting for data may take without a word on it.
const muchWaiting = 0.05

// waiting tells how long iterations waited for data, and what helps where that was much.
func waiting(waited, total time.Duration, workers loader.Stats, on AugmentOn) []string {
	part := share(waited, total)
	lines := []string{fmt.Sprintf("waited for data %.1f s (%.1f %%), %d workers %.0f %% busy",
		waited.Seconds(), 100*part, workers.Workers, 100*workers.Busy())}
	if part > muchWaiting {
		device := "--augment-on device, or "
		if on == AugmentOnDevice {
			device = ""
		}
		lines = append(lines, "WARNING: much of the epoch went into waiting for data: more --workers may help, or "+
			device+"fewer programs beside this one; run.json (timing.loader) tells where the time went")
	}
	return lines
}

// progress is what stands beside the progress bar.
func (t *trainer) progress(loss float64) string {
	c := &t.cfg
	left := (c.Epochs-t.epoch)*c.Iterations - t.iteration
	left += (c.Epochs - t.epoch) * c.ValIterations / 3 // a validation iteration has no backward pass
	note := fmt.Sprintf("loss %.4f", loss)
	if m, ok := c.Method.(finetune.Counter); ok {
		if step, ever := m.Counts(); step > 0 {
			note += fmt.Sprintf(", %s selected (%s ever)", thousands(step), thousands(ever))
		}
	}
	if d := t.timing.median(); d > 0 {
		note += ", training ends in " + (d * time.Duration(left)).Round(time.Second).String()
	}
	return note
}

// intake is what an iteration takes of the feed: one batch at a time.
type intake struct {
	batch  *fed          // that the step has, or is to have next
	waited time.Duration // for batches
	times  loader.Times  // of all of them
}

// take turns to the next batch.
func (t *trainer) take(ctx context.Context, in *intake) error {
	in.release()
	begin := time.Now()
	// Workers do not see ctx: batches that are ready are used before training stops.
	b, err := t.feed.next(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	in.waited += time.Since(begin)
	in.batch, in.times = b, in.times.Plus(b.times)
	t.keepSum(b)
	return nil
}

func (in *intake) release() {
	if in.batch != nil {
		in.batch.release()
		in.batch = nil
	}
}

// step makes one iteration and takes in the losses that are there. The first batch is waited for before
// the step begins, others when it has done with the one before.
func (t *trainer) step(ctx context.Context, in *intake) error {
	defer in.release()
	if err := t.take(ctx, in); err != nil {
		return err
	}
	if err := t.profile.begin(); err != nil {
		return err
	}
	uploads := []Upload{func(s *torch.Scope) (Batch, error) { return in.batch.upload(s) }}
	for range t.cfg.Accumulate - 1 {
		uploads = append(uploads, func(s *torch.Scope) (Batch, error) {
			if err := t.take(ctx, in); err != nil {
				return Batch{}, err
			}
			if err := t.profile.waited(); err != nil {
				return Batch{}, err
			}
			return in.batch.upload(s)
		})
	}
	n := int64(t.epoch)*int64(t.cfg.Iterations) + int64(t.iteration)
	if err := t.note(t.Step(n, uploads...)); err != nil {
		return err
	}
	return t.profile.end()
}

// settle takes in the losses that the device still owes.
func (t *trainer) settle() error { return t.note(t.Settle(0)) }

func (t *trainer) note(outcomes []Outcome, err error) error {
	for _, o := range outcomes {
		t.losses = append(t.losses, o.Loss)
	}
	var bad *NotFiniteError
	if !errors.As(err, &bad) {
		return err
	}
	saved := "no checkpoint was written yet"
	if t.saved != "" {
		saved = "the last saved state is in " + t.saved
	}
	return fmt.Errorf("%w and %s. Check these cases' intensities for NaN (`lntorch inspect`), or start again with a lower --lr", bad, saved)
}

// validateEpoch is nnU-Net's online validation: loss and pseudo-Dice over random patches of the validation cases.
func (t *trainer) validateEpoch(ctx context.Context) error {
	c := &t.cfg
	t.Net.SetTraining(false)
	c.Progress.Begin("validation", c.ValIterations)
	defer c.Progress.End()
	classes := len(t.data.Dataset.Labels.ForegroundLabels)
	if t.data.Dataset.Labels.HasRegions {
		classes = len(t.data.Dataset.Labels.Regions)
	}
	var own validated
	t.feed.begin(t.val, c.ValIterations, 0)
	for i := range c.ValIterations {
		on, err := t.GoOn(ctx)
		if err != nil {
			return t.failed(err)
		}
		if !on {
			return t.interrupt()
		}
		b, err := t.feed.next(context.WithoutCancel(ctx))
		if err != nil {
			return fmt.Errorf("train: epoch %d, validation: %w", t.epoch, err)
		}
		l, counts, err := t.Validate(b.upload)
		b.release()
		if err != nil {
			return fmt.Errorf("train: epoch %d, validation: %w", t.epoch, err)
		}
		own.Losses, own.Counts = append(own.Losses, l), append(own.Counts, counts)
		c.Progress.Done(i+1, "")
	}
	all, err := gather(t.peers, own)
	if err != nil {
		return t.failed(err)
	}
	losses, counts := pool(all)
	online := eval.NewOnline(classes, t.data.Dataset.Labels.HasRegions)
	for _, batch := range counts {
		if err := online.Add(batch); err != nil {
			return fmt.Errorf("train: epoch %d, validation: %w", t.epoch, err)
		}
	}
	dice, mean := online.Dice()
	return t.log.Validation(t.epoch, dice, mean, meanLoss(losses))
}

// validated is what a rank found in an epoch's validation: of each batch, of its rows.
type validated struct {
	Losses []float64
	Counts [][]eval.Counts // of each class
}

// pool gives losses and counts of whole batches.
func pool(all []validated) (losses []float64, counts [][]eval.Counts) {
	losses, counts = all[0].Losses, all[0].Counts
	for _, v := range all[1:] {
		for i, batch := range v.Counts {
			losses[i] += v.Losses[i]
			for class, c := range batch {
				counts[i][class].TP += c.TP
				counts[i][class].FP += c.FP
				counts[i][class].FN += c.FN
			}
		}
	}
	for i := range losses {
		losses[i] /= float64(len(all))
	}
	return losses, counts
}

// meanLoss is numpy's mean of float32 losses, to the bit.
func meanLoss(losses []float64) float32 {
	narrow := make([]float32, len(losses))
	for i, l := range losses {
		narrow[i] = float32(l)
	}
	return pynum.Mean(narrow)
}

// writeEvents adds the epoch to the TensorBoard file.
func (t *trainer) writeEvents() error {
	if !t.peers.first() {
		return nil
	}
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

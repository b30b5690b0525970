// Package nnlog holds nnU-Net's records of a training run: the logging dictionary that is stored in
// every checkpoint, and the text file training_log_….txt with its line format.
//
// Plotting is report.Progress's, and converting a Log to nnU-Net's pickled dictionary and back is
// package checkpoint's.
//
// Source: nnunetv2/training/logging/nnunet_logger.py and
// nnUNetTrainer.print_to_log_file of nnU-Net 2.5.1.
package nnlog

import (
	"fmt"
	"slices"
	"time"

	"github.com/lntorch/lntorch/eval"
)

// Keys returns the keys of the logging dictionary in nnU-Net's order.
func Keys() []string {
	return []string{
		"mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region", "train_losses", "val_losses",
		"lrs",
		"epoch_start_timestamps", "epoch_end_timestamps",
	}
}

// Log has one list per key, each with one entry per epoch. The zero value is the log of a new
// training run. The Go types correspond to nnU-Net's: float64 stands for numpy.float64 in the three
// Dice lists and for Python's float in the last three, float32 for numpy.float32.
type Log struct {
	MeanFgDice  []float64   // pseudo-Dice: mean over the classes, NaN ignored
	EMAFgDice   []float64   // its moving average
	Dice        [][]float64 // pseudo-Dice per foreground class or region
	TrainLosses []float32
	ValLosses   []float32
	LRs         []float64
	EpochStart  []float64 // seconds since 1970
	EpochEnd    []float64
}

// StartEpoch records the start of an epoch and its learning rate. Here and in the following methods
// an existing entry of the epoch is overwritten (an interrupted epoch that is repeated); an epoch
// that would leave a gap is an error.
func (l *Log) StartEpoch(epoch int, start time.Time, lr float64) error {
	if err := set(&l.EpochStart, "epoch_start_timestamps", epoch, seconds(start)); err != nil {
		return err
	}
	return set(&l.LRs, "lrs", epoch, lr)
}

// TrainLoss records the epoch's mean training loss.
func (l *Log) TrainLoss(epoch int, loss float32) error {
	return set(&l.TrainLosses, "train_losses", epoch, loss)
}

// Validation records the epoch's mean validation loss and its pseudo-Dice, per class and as the
// mean (see eval.Online), and computes the moving average.
func (l *Log) Validation(epoch int, dice []float64, mean float64, loss float32) error {
	if err := set(&l.MeanFgDice, "mean_fg_dice", epoch, mean); err != nil {
		return err
	}
	previous := 0.0
	if epoch > 0 && epoch <= len(l.EMAFgDice) {
		previous = l.EMAFgDice[epoch-1]
	}
	ema := eval.EMA(previous, mean, epoch == 0)
	if err := set(&l.EMAFgDice, "ema_fg_dice", epoch, ema); err != nil {
		return err
	}
	if err := set(&l.Dice, "dice_per_class_or_region", epoch, slices.Clone(dice)); err != nil {
		return err
	}
	return set(&l.ValLosses, "val_losses", epoch, loss)
}

// EndEpoch records the end of an epoch.
func (l *Log) EndEpoch(epoch int, end time.Time) error {
	return set(&l.EpochEnd, "epoch_end_timestamps", epoch, seconds(end))
}

// Epochs returns the number of complete epochs: the length of the shortest list.
func (l *Log) Epochs() int { return slices.Min(l.lengths()) }

// Truncate cuts every list to epochs entries: a resumed run discards those of an interrupted epoch.
func (l *Log) Truncate(epochs int) {
	cut(&l.MeanFgDice, epochs)
	cut(&l.EMAFgDice, epochs)
	cut(&l.Dice, epochs)
	cut(&l.TrainLosses, epochs)
	cut(&l.ValLosses, epochs)
	cut(&l.LRs, epochs)
	cut(&l.EpochStart, epochs)
	cut(&l.EpochEnd, epochs)
}

// Check returns an error unless a log read from a checkpoint can be continued with the given epoch:
// every list must have at least that many entries.
func (l *Log) Check(epoch int) error {
	for i, n := range l.lengths() {
		if n < epoch {
			return fmt.Errorf("nnlog: %s has %d entries, but the checkpoint has %d complete epochs",
				Keys()[i], n, epoch)
		}
	}
	return nil
}

// lengths returns the lengths of the lists in the order of Keys.
func (l *Log) lengths() []int {
	return []int{
		len(l.MeanFgDice), len(l.EMAFgDice), len(l.Dice), len(l.TrainLosses), len(l.ValLosses),
		len(l.LRs), len(l.EpochStart), len(l.EpochEnd),
	}
}

func set[T any](list *[]T, key string, epoch int, value T) error {
	switch n := len(*list); {
	case epoch == n:
		*list = append(*list, value)
	case epoch == n-1:
		(*list)[epoch] = value
	default:
		return fmt.Errorf("nnlog: %s of epoch %d: found %d entries, expected %d or %d (one per "+
			"epoch)",
			key, epoch, n, epoch, epoch+1)
	}
	return nil
}

func cut[T any](list *[]T, n int) { *list = (*list)[:min(n, len(*list))] }

// seconds is Python's time.time().
func seconds(t time.Time) float64 { return float64(t.Unix()) + float64(t.Nanosecond())/1e9 }

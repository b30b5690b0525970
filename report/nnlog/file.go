package nnlog

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lntorch/lntorch/eval/pynum"
)

// File is a training log in nnU-Net's line format: a timestamp in local time, then each argument as
// formatted by Python's str(), followed by a space, the last one, too. It is safe for concurrent
// use. A nil File takes lines and drops them: only one rank of a distributed training has a log.
// Source: nnUNetTrainer.print_to_log_file.
type File struct {
	path  string
	echo  io.Writer
	clock func() time.Time
	pause time.Duration // between attempts to write
	mu    sync.Mutex
}

// FileName is nnU-Net's name for the log of a run started at that (local) time:
// training_log_2026_11_23_07_05_00.txt; month and day are not padded.
func FileName(start time.Time) string {
	return fmt.Sprintf("training_log_%d_%d_%d_%02d_%02d_%02d.txt", start.Year(), int(start.Month()),
		start.Day(), start.Hour(), start.Minute(), start.Second())
}

// Create starts the log of a run in folder, which must exist; an existing log of the same second is
// continued. Every line is also written to echo, unless nil, without the trailing space.
func Create(folder string, start time.Time, echo io.Writer) (*File, error) {
	f := &File{
		path: filepath.Join(folder, FileName(start)), echo: echo,
		clock: time.Now, pause: 500 * time.Millisecond,
	}
	if f.echo == nil {
		f.echo = io.Discard
	}
	if err := f.write(""); err != nil {
		return nil, fmt.Errorf("nnlog: %w", err)
	}
	return f, nil
}

// Path returns the path of the log.
func (f *File) Path() string { return f.path }

// Print writes one line with a timestamp. Arguments: string, bool, integers, float32 and float64
// (as printed by numpy and Python), []float64, []int, nil, error and fmt.Stringer.
//
// A log that cannot be written must not stop training: after five attempts half a second apart the
// failure is reported on echo and the line is dropped.
func (f *File) Print(args ...any) {
	if f == nil {
		return
	}
	f.print(append([]any{timestamp(f.clock()) + ":"}, args...))
}

// PrintPlain writes a line without a timestamp, for the settings at the start.
func (f *File) PrintPlain(args ...any) {
	if f != nil {
		f.print(args)
	}
}

// EpochStart writes the empty line and the two lines at the start of an epoch.
func (f *File) EpochStart(epoch int, lr float64) {
	f.Print("")
	f.Print(fmt.Sprintf("Epoch %d", epoch))
	f.Print("Current learning rate: " + Str(pynum.Round(lr, 5)))
}

// EpochEnd writes the four lines at the end of an epoch, from its entries in the log.
func (f *File) EpochEnd(l *Log, epoch int) error {
	if epoch < 0 || epoch >= l.Epochs() {
		return fmt.Errorf("nnlog: epoch %d is not in the log, which has %d complete epochs",
			epoch, l.Epochs())
	}
	dice := make([]float64, len(l.Dice[epoch]))
	for i, d := range l.Dice[epoch] {
		dice[i] = pynum.Round(d, 4)
	}
	f.Print("train_loss", pynum.Round(l.TrainLosses[epoch], 4))
	f.Print("val_loss", pynum.Round(l.ValLosses[epoch], 4))
	f.Print("Pseudo dice", dice)
	f.Print("Epoch time: " + Str(pynum.Round(l.EpochEnd[epoch]-l.EpochStart[epoch], 2)) + " s")
	return nil
}

// NewBest writes the line for a new best moving average.
func (f *File) NewBest(ema float64) {
	f.Print("Yayy! New best EMA pseudo Dice: " + Str(pynum.Round(ema, 4)))
}

func (f *File) print(args []any) {
	texts := make([]string, len(args))
	for i, a := range args {
		texts[i] = Str(a)
	}
	line := strings.Join(texts, " ")
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintln(f.echo, line)
	var err error
	for attempt := range 5 {
		if attempt > 0 {
			time.Sleep(f.pause)
		}
		if err = f.write(line + " \n"); err == nil {
			return
		}
	}
	fmt.Fprintf(f.echo, "%s: failed to log: %v\n", timestamp(f.clock()), err)
}

// write appends in one call, so that a line is complete or missing if the process is killed. The
// file is opened for each line, so that logging resumes after a network folder was unavailable.
func (f *File) write(text string) error {
	w, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = w.WriteString(text)
	if closed := w.Close(); err == nil {
		err = closed
	}
	return err
}

// timestamp is str(datetime), which omits microseconds if they are zero.
func timestamp(t time.Time) string {
	if t.Nanosecond()/1000 == 0 {
		return t.Format("2006-01-02 15:04:05")
	}
	return t.Format("2006-01-02 15:04:05.000000")
}

// Str formats a value as Python's str() does; see File.Print for the types.
func Str(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case float64:
		return pynum.Repr(v)
	case float32:
		return pynum.Repr(v)
	case []float64:
		return list(v)
	case []int:
		return list(v)
	}
	return fmt.Sprint(v)
}

func list[T any](items []T) string {
	texts := make([]string, len(items))
	for i, v := range items {
		texts[i] = Str(v)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

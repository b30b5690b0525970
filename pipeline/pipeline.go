// Package pipeline holds the program's roads as Go calls with a config struct each: from raw CTs to
// training data, from a pretrained model to plans that fit it, through training, validation, export.
// A config struct declares the settings of its road (internal/settings); the command line binds them
// to flags, and other callers fill them in. The calls print nothing: they return results, and log and
// show progress where an Output says.
package pipeline

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
)

// Progress shows how far long work is. Calls come from one goroutine.
type Progress interface {
	Begin(task string, total int)
	Done(n int, note string)
	End()
}

// Output is where a road logs and shows progress. The zero Output is silent.
type Output struct {
	Log      io.Writer // log lines; a line that begins with WARNING is one
	Progress Progress
	Version  string // of the program, for records
}

// Print logs a line.
func (o Output) Print(args ...any) {
	if o.Log != nil {
		fmt.Fprintln(o.Log, Printable(strings.TrimSuffix(fmt.Sprintln(args...), "\n")))
	}
}

// Printable replaces control characters, which names of files and labels may hold and terminals
// obey. Line ends and tabs stay.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// Printf logs a formatted line.
func (o Output) Printf(format string, args ...any) { o.Print(fmt.Sprintf(format, args...)) }

// notes logs what a user should know of how a checkpoint was read.
func (o Output) notes(f *checkpoint.File) {
	for _, n := range f.Notes() {
		o.Printf("%s: %s", f.Path, n)
	}
}

// resolve finds the machine's device and logs what was chosen.
func (o Output) resolve(m *machine.Machine) error {
	note, err := m.Resolve()
	if note != "" {
		o.Print(note)
	}
	return err
}

// RawFolder is nnU-Net's folder of raw datasets.
type RawFolder struct {
	Raw string `flag:"raw" env:"nnUNet_raw" path:"true" help:"nnU-Net's folder of raw datasets (default: $nnUNet_raw)"`
}

// PreprocessedFolder is nnU-Net's folder of preprocessed datasets.
type PreprocessedFolder struct {
	Preprocessed string `flag:"preprocessed" env:"nnUNet_preprocessed" path:"true" help:"nnU-Net's folder of preprocessed datasets (default: $nnUNet_preprocessed)"`
}

// ResultsFolder is nnU-Net's folder of trained models.
type ResultsFolder struct {
	Results string `flag:"results" env:"nnUNet_results" path:"true" help:"nnU-Net's folder of trained models (default: $nnUNet_results)"`
}

// given complains of a folder that is neither given nor set in the environment.
func given(name, path string) error {
	if path == "" {
		return settings.Usage("--%s is not given and nnUNet_%s is not set", name, name)
	}
	return nil
}

// replaced is the first of the files that one written at path would replace, "" if there is none.
func replaced(path string, files ...string) string {
	there, err := os.Stat(path)
	if err != nil {
		return ""
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && os.SameFile(info, there) {
			return f
		}
	}
	return ""
}

// progress is never nil.
func (o Output) progress() Progress {
	if o.Progress == nil {
		return silent{}
	}
	return o.Progress
}

type silent struct{}

func (silent) Begin(string, int) {}
func (silent) Done(int, string)  {}
func (silent) End()              {}

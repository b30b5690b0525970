// Command lntorch fine-tunes CT lymph-node segmentation models: nnU-Net's training for few-shot data, with DGST and the
// methods it is compared with, over libtorch.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/lntorch/lntorch/formats/dicom/openjpeg"
	"github.com/lntorch/lntorch/internal/launch"
	"github.com/lntorch/lntorch/train"
)

// version is set by the build.
var version = "dev"

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	if openjpeg.Start() {
		return // this process decoded JPEG 2000 for another
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // the first signal asks for an orderly end; a second one ends the program at once
	}()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(nnunetArgs(root, args))
	cmd, err := root.ExecuteContextC(ctx)
	var interrupted *train.Interrupted
	var usage *usageError
	var copies *launch.Failed
	switch {
	case err == nil:
		return 0
	case errors.As(err, &copies):
		fmt.Fprintln(os.Stderr, copies.Message)
		return copies.Code
	case errors.As(err, &interrupted), errors.Is(err, context.Canceled):
		lastWord("lntorch: %s", stopped(err))
		return exitInterrupted
	case errors.As(err, &usage):
		lastWord("lntorch: %v\nRun `lntorch %s--help` for the usage.", err, usage.command)
		if !usage.ran {
			refuse(ctx, cmd, err)
		}
		return exitUsage
	}
	lastWord("lntorch: %v", err)
	if strings.HasPrefix(err.Error(), "unknown command") { // cobra has no type for it
		return exitUsage
	}
	return exitFailed
}

// lastWord says why the program ends: to the program that started this copy of it, which says it once for
// all, or on stderr.
func lastWord(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !launch.LastWord(os.Getenv, text) {
		fmt.Fprintln(os.Stderr, text)
	}
}

// stopped says in place of Go's words what became of a run that the user stopped.
func stopped(err error) string {
	const by = "stopped by the user"
	text, cut := strings.CutSuffix(err.Error(), context.Canceled.Error())
	text = strings.TrimSuffix(text, ": ")
	switch {
	case text == "":
		return by
	case cut && !strings.Contains(text, by):
		return text + ": " + by
	}
	return strings.ReplaceAll(text, context.Canceled.Error(), by) // what to do may follow
}

// usageError is a mistake in the command line.
type usageError struct {
	command string // with a space behind it, empty for the root
	err     error
	ran     bool // the command found it, which has told other ranks
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

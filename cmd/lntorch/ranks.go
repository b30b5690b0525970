package main

import (
	"context"
	"fmt"
	"os"

	"github.com/lntorch/lntorch/internal/launch"
)

// ranks finds out which of how many ranks this process is. Where -num_gpus asks for copies of the program, it runs
// them: the work is done when it returns.
func ranks(ctx context.Context, c launch.Config) (w *launch.World, done bool, err error) {
	if w, err = c.World(os.Getenv); err != nil {
		return nil, false, err
	}
	if n := c.Copies(w); n > 0 {
		program, err := os.Executable()
		if err != nil {
			return nil, false, err
		}
		return nil, true, launch.Copies{N: n, Program: program, Args: os.Args[1:], Environ: os.Environ(), Master: c.Master,
			Stdout: os.Stdout, Stderr: os.Stderr}.Run(ctx)
	}
	if w.Alone() {
		return w, false, nil
	}
	if w.Note != "" && w.Rank == 0 {
		fmt.Fprintln(os.Stderr, "lntorch:", w.Note)
	}
	return w, false, w.Resolve(ctx)
}

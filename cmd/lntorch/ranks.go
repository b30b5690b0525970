package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/internal/launch"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
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
	if w.Note != "" && w.Rank == 0 {
		fmt.Fprintln(os.Stderr, "lntorch:", w.Note)
	}
	if w.Alone() {
		return w, false, nil
	}
	return w, false, w.Resolve(ctx)
}

// refuse tells other ranks of a mistake in this one's command line, for which they would wait. What the command line says
// of them counts as far as it was read.
func refuse(ctx context.Context, cmd *cobra.Command, mistake error) {
	if cmd.Flags().Lookup("dist-timeout") == nil {
		return // it knows no ranks
	}
	_ = applySettings(cmd, nil) // the mistake may be here
	c := settings.New[launch.Config]()
	for _, f := range settings.Fields(&c) {
		_ = f.Set(cmd.Flags().Lookup(f.Name).Value.String()) // which is what was set
	}
	if w, err := c.World(os.Getenv); err == nil {
		_, _ = pipeline.Join(ctx, c, w, &machine.Machine{}, &pipeline.Output{}, mistake)
	}
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
)

// console is where people look: log lines and progress on stderr. On a terminal progress is a bar below the lines,
// elsewhere a line every few seconds.
type console struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	quiet    bool
	bar      *progressbar.ProgressBar
	task     string
	total    int
	last     time.Time // of the last plain line
}

// plainEvery is how often progress says something where there is no terminal.
const plainEvery = 15 * time.Second

func newConsole(cmd *cobra.Command) *console {
	quiet, _ := cmd.Flags().GetBool("quiet")
	return &console{out: os.Stderr, terminal: term.IsTerminal(int(os.Stderr.Fd())), quiet: quiet}
}

// Write prints log lines, above the bar if there is one.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quiet && !urgent(b) {
		return len(b), nil
	}
	if c.bar != nil {
		c.bar.Clear()
	}
	return c.out.Write(b)
}

// urgent reports whether a log line is printed with --quiet, too: a warning, or a problem that was found.
// Lines of a training log begin with the time.
func urgent(line []byte) bool {
	return bytes.Contains(line, []byte("WARNING")) || bytes.Contains(line, []byte("PROBLEM"))
}

// Begin starts the progress of one task.
func (c *console) Begin(task string, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quiet {
		return
	}
	c.task, c.total, c.last = task, total, time.Now()
	if !c.terminal {
		return
	}
	c.bar = progressbar.NewOptions(total,
		progressbar.OptionSetWriter(c.out),
		progressbar.OptionSetDescription(task),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWidth(20),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetRenderBlankState(true),
	)
}

// Done reports that n of the task's units are finished.
func (c *console) Done(n int, note string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quiet {
		return
	}
	if c.bar != nil {
		c.bar.Describe(strings.TrimSuffix(c.task+", "+note, ", "))
		c.bar.Set(n)
		return
	}
	if n > 0 && n < c.total && time.Since(c.last) > plainEvery {
		c.last = time.Now()
		fmt.Fprintln(c.out, strings.TrimSuffix(fmt.Sprintf("%s: %d of %d, %s", c.task, n, c.total, note), ", "))
	}
}

// End takes the bar away.
func (c *console) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bar != nil {
		c.bar.Clear()
		c.bar = nil
	}
}

// output is where a road logs and shows progress: stderr.
func output(cmd *cobra.Command) pipeline.Output {
	c := newConsole(cmd)
	return pipeline.Output{Log: c, Progress: c, Version: version}
}

// jsonFlag declares --json.
func jsonFlag(cmd *cobra.Command, on *bool) {
	cmd.Flags().BoolVar(on, "json", false, "print JSON")
}

// printEach prints the results of run as they come, or all of them as a JSON list in the end. What came
// before an error is printed, too.
func printEach[T any](asJSON bool, text func(T), run func(done func(T) error) error) error {
	list := []T{}
	err := run(func(x T) error {
		list = append(list, x)
		if !asJSON {
			text(x)
		}
		return nil
	})
	if asJSON && len(list) > 0 {
		if err := printJSON(list); err != nil {
			return err
		}
	}
	return err
}

// printJSON prints a result for programs, and on stderr which of its numbers JSON does not have.
func printJSON(v any) error {
	nonFinite, err := report.JSON(os.Stdout, v)
	if len(nonFinite) > 0 {
		fmt.Fprintf(os.Stderr, "note: NaN or infinite, which JSON does not have, and so null: %s\n", strings.Join(nonFinite, ", "))
	}
	return err
}

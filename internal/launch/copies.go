package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lntorch/lntorch/internal/settings"
)

// copyMark is set for the copies that Copies.Run starts.
const copyMark = "LNTORCH_COPY_OF"

// lastWordFD is where a copy leaves its last message for the program that started it.
const lastWordFD = 3

// Copies is a number of copies of a program on this host that train together (-num_gpus).
type Copies struct {
	N       int
	Program string   // path of the executable
	Args    []string // without the program's name
	Environ []string // as os.Environ gives it
	Master  string   // HOST:PORT, or empty for a free port on 127.0.0.1

	Stdout, Stderr *os.File

	Leave time.Duration // after a failure, how long the others may take to end by themselves; zero: 2 s
	Grace time.Duration // between SIGTERM and SIGKILL; zero: 10 s
}

// Failed is how the copies ended where it was not well.
type Failed struct {
	Message string // what the first of them said, or what became of it
	Code    int    // exit code
}

func (f *Failed) Error() string { return f.Message }

// ended is one copy's end.
type ended struct {
	rank    int
	code    int // negative for a signal
	err     error
	state   *os.ProcessState
	message string
}

// exitInterrupted is the program's exit code after Ctrl-C.
const exitInterrupted = 130

// Run starts the copies and returns when all have ended: with nil, or with *Failed, the first failure.
// When one fails, the others have time to end by themselves, then get SIGTERM, then SIGKILL. Cancelling
// ctx passes SIGINT on; the copies then end in their own time. If this process dies, they get SIGTERM.
func (c Copies) Run(ctx context.Context) error {
	master := c.Master
	if master == "" {
		port, err := freePort()
		if err != nil {
			return err
		}
		master = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	host, port, err := net.SplitHostPort(master)
	if err != nil {
		return settings.Usage("--master: found %q, expected HOST:PORT", master)
	}
	// The kernel sends a child its parent-death signal when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	ends := make(chan ended, c.N)
	running := map[int]*exec.Cmd{}
	signal := func(s syscall.Signal) {
		for _, cmd := range running {
			_ = cmd.Process.Signal(s) // one that has just ended needs none
		}
	}
	var list []ended           // in the order in which they ended
	var force <-chan time.Time // when the others get the next signal
	next := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}
	for rank := range c.N {
		cmd, lastWord, err := c.start(rank, host, port)
		if err != nil {
			list = append(list, ended{rank: rank, code: 1, message: fmt.Sprintf("lntorch: -num_gpus %d: rank %d does not start: %v", c.N, rank, err)})
			force = time.After(0)
			break
		}
		running[rank] = cmd
		go func() {
			err := cmd.Wait()
			ends <- ended{rank, cmd.ProcessState.ExitCode(), err, cmd.ProcessState, readAll(lastWord)}
		}()
	}
	stop := ctx.Done()
	for len(running) > 0 {
		select {
		case e := <-ends:
			delete(running, e.rank)
			if e.err == nil {
				continue
			}
			list = append(list, e)
			if e.code != exitInterrupted && force == nil {
				force = time.After(or(c.Leave, 2*time.Second))
			}
		case <-stop:
			stop = nil
			signal(syscall.SIGINT)
		case <-force:
			force = nil
			if len(next) > 0 {
				signal(next[0])
				next = next[1:]
				force = time.After(or(c.Grace, 10*time.Second))
			}
		}
	}
	return verdict(list, ctx.Err() != nil)
}

// verdict is what the ends of copies that did not end well come to. The first failure stands. Copies that
// were stopped say least, and those that died say nothing: then the first that has a message follows.
func verdict(list []ended, stopped bool) error {
	var failures []ended
	var saved ended
	for _, e := range list {
		if e.code == exitInterrupted || (stopped && e.code < 0) {
			if saved.message == "" || e.rank == 0 {
				saved = e
			}
			continue
		}
		failures = append(failures, e)
	}
	switch {
	case len(list) == 0:
		return nil
	case len(failures) == 0 && saved.message == "":
		return &Failed{"lntorch: stopped by the user", exitInterrupted}
	case len(failures) == 0:
		return &Failed{saved.message, exitInterrupted}
	}
	first := failures[0]
	if first.message != "" {
		return &Failed{first.message, first.code}
	}
	failed := &Failed{died(first), 1}
	if i := slices.IndexFunc(failures, func(e ended) bool { return e.message != "" }); i > 0 {
		failed.Message += "\n" + failures[i].message
	}
	return failed
}

// died says how a copy ended that left no message.
func died(e ended) string {
	how := e.state.String()
	if status, ok := e.state.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
		how += " (memory that runs out looks like this)"
	}
	return fmt.Sprintf("lntorch: rank %d (pid %d) ended: %s", e.rank, e.state.Pid(), how)
}

// start starts the copy of a rank.
func (c Copies) start(rank int, host, port string) (*exec.Cmd, *os.File, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer write.Close()
	cmd := exec.Command(c.Program, c.Args...)
	n := strconv.Itoa(c.N)
	cmd.Env = append(withoutLauncher(c.Environ), copyMark+"="+strconv.Itoa(os.Getpid()), "RANK="+strconv.Itoa(rank), "WORLD_SIZE="+n,
		"LOCAL_RANK="+strconv.Itoa(rank), "LOCAL_WORLD_SIZE="+n, "MASTER_ADDR="+host, "MASTER_PORT="+port)
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	cmd.ExtraFiles = []*os.File{write} // lastWordFD
	// A group of their own: a terminal's Ctrl-C then reaches this process alone, which passes it on once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		read.Close()
		return nil, nil, err
	}
	return cmd, read, nil
}

// withoutLauncher leaves out what launchers set: ranks inside ranks are none of theirs.
func withoutLauncher(environ []string) []string {
	var kept []string
	for _, e := range environ {
		if !strings.HasPrefix(e, "TORCHELASTIC_") && !strings.HasPrefix(e, "OMPI_COMM_WORLD_") {
			kept = append(kept, e)
		}
	}
	return kept
}

// LastWord hands a rank's last message to what started it. It reports whether that was a program of ours (see
// Copies), which says it once for all ranks; if not, the message belongs on stderr. torchrun shows it in its summary.
func LastWord(env Env, message string) bool {
	if env(copyMark) == "" {
		if file := env("TORCHELASTIC_ERROR_FILE"); file != "" {
			text, _ := json.Marshal(map[string]any{"message": map[string]any{"message": message,
				"extraInfo": map[string]any{"timestamp": strconv.FormatInt(time.Now().Unix(), 10)}}})
			_ = os.WriteFile(file, text, 0o644) // stderr has it, too
		}
		return false
	}
	syscall.CloseOnExec(lastWordFD)
	f := os.NewFile(lastWordFD, "last word")
	defer f.Close()
	_, err := io.WriteString(f, message[:min(len(message), 1<<15)]) // a pipe takes that much without a reader
	return err == nil
}

// readAll reads the last message of a copy that has ended. What the copy itself started may still hold the
// pipe open.
func readAll(r *os.File) string {
	defer r.Close()
	if err := r.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// freePort finds a port of this host that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
)

func listen(t *testing.T, port int) net.Listener {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	require.NoError(t, err)
	return l
}

// The copies in these tests are this test program again; the first argument says what a rank does.
func TestMain(m *testing.M) {
	if os.Getenv(copyMark) != "" {
		os.Exit(copyOf(os.Args[1], os.Args[2]))
	}
	if os.Getenv("LNTORCH_TEST_COPIES") != "" {
		_ = Copies{N: 2, Program: os.Args[0], Args: []string{"wait", os.Args[1]}, Environ: os.Environ()}.Run(context.Background())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func copyOf(what, dir string) int {
	rank := os.Getenv("RANK")
	time.AfterFunc(20*time.Second, func() { os.Exit(99) }) // no test leaves one behind
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			panic(err)
		}
	}
	write("started"+rank, strconv.Itoa(os.Getpid()))
	last := func(text string) {
		if !LastWord(os.Getenv, text) {
			panic("nobody listens")
		}
	}
	switch {
	case what == "environment":
		write("env"+rank, strings.Join(os.Environ(), "\n"))
		fmt.Println("rank", rank)
		return 0
	case what == "fail" && rank == "1":
		last("lntorch: the disk is full")
		return 1
	case what == "usage" && rank == "1":
		last("lntorch: --lr: found -1")
		return 2
	case what == "die" && rank == "1", what == "die and tell" && rank == "1":
		time.Sleep(300 * time.Millisecond)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case what == "die and tell":
		time.Sleep(600 * time.Millisecond)
		last("lntorch: rank 1 is gone")
		return 1
	case what == "deaf":
		for range caught { // until it is killed
		}
	}
	s := <-caught
	write("signal"+rank, s.String())
	if what == "slow" && rank == "0" {
		time.Sleep(700 * time.Millisecond)
		last("lntorch: saved")
		return 130
	}
	if what == "save fails" && rank == "0" {
		time.Sleep(200 * time.Millisecond)
		last("lntorch: no space left")
		return 1
	}
	last("lntorch: stopped")
	return 130
}

func runCopies(t *testing.T, ctx context.Context, what string) (dir string, err error) {
	dir = t.TempDir()
	program, err := os.Executable()
	require.NoError(t, err)
	stdout, err := os.Create(filepath.Join(dir, "stdout"))
	require.NoError(t, err)
	defer stdout.Close()
	err = Copies{N: 3, Program: program, Args: []string{what, dir}, Environ: append(os.Environ(), "TORCHELASTIC_RUN_ID=x", "OMPI_COMM_WORLD_SIZE=2"),
		Stdout: stdout, Stderr: os.Stderr, Leave: 100 * time.Millisecond}.Run(ctx)
	for rank := range 3 {
		pid, convert := strconv.Atoi(read(dir, "started", rank))
		if convert == nil {
			require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "rank %d has not ended", rank)
		}
	}
	return dir, err
}

func read(dir, name string, rank int) string {
	text, _ := os.ReadFile(filepath.Join(dir, name+strconv.Itoa(rank)))
	return string(text)
}

func requireFailed(t *testing.T, err error, code int, message string) {
	var failed *Failed
	require.ErrorAs(t, err, &failed)
	require.Equal(t, code, failed.Code, failed.Message)
	require.Regexp(t, message, failed.Message)
}

func TestCopiesAreRanksOfOneWorld(t *testing.T) {
	dir, err := runCopies(t, t.Context(), "environment")
	require.NoError(t, err)
	masters := map[string]bool{}
	for rank := range 3 {
		env := read(dir, "env", rank)
		w, err := defaults().World(environment(strings.Split(env, "\n")...))
		require.NoError(t, err)
		masters[w.Master] = true
		w.Master = ""
		require.Equal(t, &World{Rank: rank, Size: 3, LocalRank: rank, LocalSize: 3, Launcher: NumGPUs, Serve: rank == 0}, w)
		require.NotContains(t, env, "TORCHELASTIC_")
	}
	require.Len(t, masters, 1)
	stdout, err := os.ReadFile(filepath.Join(dir, "stdout"))
	require.NoError(t, err)
	require.Equal(t, 3, bytes.Count(stdout, []byte("rank ")))
}

func TestFirstFailureOfACopyEndsTheOthers(t *testing.T) {
	dir, err := runCopies(t, t.Context(), "fail")
	requireFailed(t, err, 1, "^lntorch: the disk is full$")
	require.Equal(t, "terminated", read(dir, "signal", 0))
	require.Equal(t, "terminated", read(dir, "signal", 2))

	_, err = runCopies(t, t.Context(), "usage")
	requireFailed(t, err, 2, "^lntorch: --lr: found -1$")
}

func TestACopyThatIsKilledIsNamed(t *testing.T) {
	_, err := runCopies(t, t.Context(), "die")
	requireFailed(t, err, 1, `^lntorch: rank 1 \(pid \d+\) ended: signal: killed \(memory that runs out looks like this\)$`)
	_, err = runCopies(t, t.Context(), "die and tell")
	requireFailed(t, err, 1, `^lntorch: rank 1 \(pid \d+\) ended: signal: killed .*\nlntorch: rank 1 is gone$`)
}

func TestCopiesThatDoNotListenAreKilled(t *testing.T) {
	dir := t.TempDir()
	program, err := os.Executable()
	require.NoError(t, err)
	go func() {
		for read(dir, "started", 1) == "" {
			time.Sleep(10 * time.Millisecond)
		}
		pid, _ := strconv.Atoi(read(dir, "started", 1))
		syscall.Kill(pid, syscall.SIGKILL)
	}()
	start := time.Now()
	err = Copies{N: 2, Program: program, Args: []string{"deaf", dir}, Environ: os.Environ(), Leave: 50 * time.Millisecond, Grace: 100 * time.Millisecond}.Run(t.Context())
	requireFailed(t, err, 1, `^lntorch: rank 1 \(pid \d+\) ended: signal: killed`)
	require.Less(t, time.Since(start), 15*time.Second, "the copy ended by itself")
}

// Ranks that end at once after Ctrl-C do not cut short the one that saves.
func TestCtrlCIsPassedOnOnceAndWaitedFor(t *testing.T) {
	for what, test := range map[string]struct {
		code    int
		message string
	}{"slow": {130, "^lntorch: saved$"}, "save fails": {1, "^lntorch: no space left$"}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(400*time.Millisecond, func() { cancel(errors.New("Ctrl-C")) })
		dir, err := runCopies(t, ctx, what)
		requireFailed(t, err, test.code, test.message)
		for rank := range 3 {
			require.Equal(t, "interrupt", read(dir, "signal", rank), what)
		}
	}
}

// kill -9 of the program that started the copies leaves nobody behind.
func TestCopiesEndWithTheProgramThatStartedThem(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), "LNTORCH_TEST_COPIES=1")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return read(dir, "started", 0) != "" && read(dir, "started", 1) != "" }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return read(dir, "signal", 0) == "terminated" && read(dir, "signal", 1) == "terminated" },
		10*time.Second, 10*time.Millisecond)
}

func TestAProgramThatIsNotThereIsSaid(t *testing.T) {
	err := Copies{N: 2, Program: "/no/such/program"}.Run(t.Context())
	requireFailed(t, err, 1, "^lntorch: -num_gpus 2: rank 0 does not start: .*no such file")
}

// A --master that is none is the user's to mend, before any copy starts.
func TestCopiesNeedAMasterWithAPort(t *testing.T) {
	var usage *settings.UsageError
	err := Copies{N: 2, Program: "/nowhere", Master: "host"}.Run(t.Context())
	require.ErrorAs(t, err, &usage)
	require.EqualError(t, usage, `--master: found "host", expected HOST:PORT`)
}

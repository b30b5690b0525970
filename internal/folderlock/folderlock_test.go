package folderlock

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain acts as the other program when a test requests it: it locks a folder and waits to be
// stopped.
func TestMain(m *testing.M) {
	if folder := os.Getenv("LNTORCH_TEST_LOCK"); folder != "" {
		if _, err := In(folder); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("locked\n")
		time.Sleep(time.Minute)
	}
	os.Exit(m.Run())
}

// other starts a process that locks a folder.
func other(t *testing.T, folder string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LNTORCH_TEST_LOCK="+folder)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "locked\n", line)
	return cmd
}

func TestTheSecondRefusesAndNamesTheFirst(t *testing.T) {
	folder := t.TempDir()
	first := other(t, folder)
	_, err := In(folder)
	var held *HeldError
	require.ErrorAs(t, err, &held)
	require.Equal(t, first.Process.Pid, held.Holder.PID)
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, host, held.Holder.Host)
	require.Less(t, time.Since(held.Holder.Since), time.Minute)
	require.Equal(t, filepath.Base(os.Args[0]), held.Holder.Command)
	require.ErrorContains(t, held, folder+" is in use: process ")
	require.NotContains(t, held.Error(), "delete")

	// The lock of a killed process does not block, whatever its file holds.
	require.NoError(t, first.Process.Kill())
	first.Wait()
	require.FileExists(t, filepath.Join(folder, ".lntorch.lock"))
	l, err := In(folder)
	require.NoError(t, err)
	require.Empty(t, l.Warning)
	_, err = In(folder)
	require.ErrorAs(t, err, &held)
	require.Equal(t, os.Getpid(), held.Holder.PID)
	l.Release()
	l.Release()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestBesideLeavesTheFolderAlone(t *testing.T) {
	root := t.TempDir()
	folder := filepath.Join(root, "nnUNetPlans_3d_fullres")
	l, err := Beside(folder)
	require.NoError(t, err)
	require.NoDirExists(t, folder)
	require.FileExists(t, filepath.Join(root, ".nnUNetPlans_3d_fullres.lntorch.lock"))
	_, err = Beside(folder)
	require.ErrorContains(t, err, "is in use")
	neighbour, err := Beside(filepath.Join(root, "nnUNetPlans_2d"))
	require.NoError(t, err)
	neighbour.Release()
	l.Release()
	long, err := Beside(filepath.Join(root, strings.Repeat("n", 255)))
	require.NoError(t, err)
	long.Release()
	_, err = In(folder)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// At most one holder at a time.
func TestALockHasOneHolder(t *testing.T) {
	folder := t.TempDir()
	var inside, times atomic.Int32
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 300 {
				l, err := In(folder)
				if err != nil {
					var held *HeldError
					if !errors.As(err, &held) {
						t.Error(err)
					}
					continue
				}
				if inside.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				times.Add(1)
				inside.Add(-1)
				l.Release()
			}
		})
	}
	wait.Wait()
	require.Positive(t, times.Load())
}

// The last holder may remove the file between our open and flock: a lock on the removed file
// excludes nobody.
func TestALockOfARemovedFileIsNone(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, ".lntorch.lock")
	tries := 0
	l, err := acquireWith(folder, path, commandLine(), func(f *os.File) error {
		if tries++; tries == 1 {
			require.NoError(t, os.Remove(path))
		}
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	require.NoError(t, err)
	require.Equal(t, 2, tries)
	_, err = In(folder)
	require.ErrorContains(t, err, "is in use")

	l.Release()
	other, err := In(folder)
	require.NoError(t, err)
	l.Release() // does not remove the other's
	require.FileExists(t, path)
	other.Release()
}

func TestWithoutLocksTheFileIsJudged(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, ".lntorch.lock")
	for _, errno := range []syscall.Errno{syscall.ENOTSUP, syscall.ENOLCK, syscall.EINVAL,
		syscall.ENOSYS} {
		none := func(*os.File) error { return errno }
		l, err := acquireWith(folder, path, commandLine(), none)
		require.NoError(t, err)
		require.Contains(t, l.Warning, "has no locks")
		_, err = acquireWith(folder, path, commandLine(), none) // this process is alive
		require.ErrorContains(t, err, "is in use: process ")
		require.ErrorContains(t, err, "delete "+path)
		l.Release()
	}
	none := func(*os.File) error { return syscall.ENOLCK }
	gone := exec.Command(os.Args[0], "-test.run=^$")
	require.NoError(t, gone.Run())
	host, err := os.Hostname()
	require.NoError(t, err)
	for _, c := range []struct {
		holder  Holder
		warning string
	}{
		{Holder{PID: gone.Process.Pid, Host: host}, "has ended"},
		{Holder{PID: os.Getpid(), Host: "elsewhere", Command: "lntorch\x1b train 1"},
			"on elsewhere (since 0001-01-01 00:00:00, lntorch? train 1) wrote there and may still do so"},
	} {
		b, err := json.Marshal(c.holder)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b, 0o666))
		l, err := acquireWith(folder, path, commandLine(), none)
		require.NoError(t, err)
		require.Contains(t, l.Warning, c.warning)
		l.Release()
	}
	for _, text := range []string{"", "{", "[1]", strings.Repeat("x", 1<<20)} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		l, err := acquireWith(folder, path, commandLine(), none)
		require.NoError(t, err)
		l.Release()
	}
	_, err = acquireWith(folder, path, commandLine(), func(*os.File) error { return syscall.EIO })
	require.ErrorIs(t, err, syscall.EIO)
}

func TestNamedHoldsNoArguments(t *testing.T) {
	folder := t.TempDir()
	l, err := Named(folder, "program")
	require.NoError(t, err)
	defer l.Release()
	_, err = In(folder)
	var held *HeldError
	require.ErrorAs(t, err, &held)
	require.Equal(t, "program", held.Holder.Command)
	data, err := os.ReadFile(filepath.Join(folder, ".lntorch.lock"))
	require.NoError(t, err)
	require.NotContains(t, string(data), filepath.Base(os.Args[0]))
}

package atomicfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func names(t *testing.T, folder string) []string {
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Written as root, a file would be renamed over /dev/null for every other program of the machine.
func TestWhatIsNoFileIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	require.NoError(t, os.Symlink(os.DevNull, link))
	for _, path := range []string{pipe, link} {
		_, err := Create(path)
		require.ErrorIs(t, err, ErrNotRegular)
		require.ErrorContains(t, err, path)
	}
	require.Equal(t, []string{"link", "pipe"}, names(t, dir))
	info, err := os.Stat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeDevice)
}

func TestFileAppearsWholeOnCommit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.bin")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	f, err := Create(path)
	require.NoError(t, err)
	_, err = f.WriteString("new")
	require.NoError(t, err)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(b), "before Commit")
	require.NoError(t, f.Commit())
	b, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(b))
	require.Equal(t, []string{"a.bin"}, names(t, dir))
}

func TestAbortAndFailuresLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "a.bin"))
	require.NoError(t, err)
	f.Abort()
	require.Empty(t, names(t, dir))

	// a folder cannot be replaced by a file
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "b.bin", "x"), 0o755))
	require.Error(t, Write(filepath.Join(dir, "b.bin"), []byte("x")))
	require.Equal(t, []string{"b.bin"}, names(t, dir))
}

func TestSweepRemovesWhatTheDeadLeft(t *testing.T) {
	dir := t.TempDir()
	alive, err := Create(filepath.Join(dir, "a.bin"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".b.pth.0123abcd.tmp"), []byte("half"),
		0o666))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".lntorch.0123abcd.tmp"), []byte("half"),
		0o666))
	others := []string{"c.tmp", ".d.tmp", ".d.0123ABCD.tmp", ".e.nfs0123abcd.tmp"}
	for _, name := range others { // files of other programs
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o666))
	}
	require.NoError(t, Sweep(dir))
	require.ElementsMatch(t, append(others, filepath.Base(alive.Name())), names(t, dir))
	require.NoError(t, alive.Commit())
}

// Two training runs share the folder of a model: one sweeps it at its start while the other writes.
func TestSweepSparesFilesThatAreJustCreated(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	var sweepers sync.WaitGroup
	for range 4 {
		sweepers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = Sweep(dir)
				}
			}
		})
	}
	var writers sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		writers.Go(func() {
			for range 100 {
				errs[i] = errors.Join(errs[i], Write(filepath.Join(dir, "plans.json"), []byte("whole")))
			}
		})
	}
	writers.Wait()
	close(stop)
	sweepers.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Equal(t, []string{"plans.json"}, names(t, dir))
}

// File systems accept names of up to 255 bytes.
func TestNamesMayBeAsLongAsTheFileSystemAllows(t *testing.T) {
	dir := t.TempDir()
	name := strings.Repeat("n", 251) + ".npz"
	require.NoError(t, Write(filepath.Join(dir, name), []byte("x")))
	require.Equal(t, []string{name}, names(t, dir))
}

// The kernel does not support fsync on folders of /proc.
func TestAFolderThatCannotBeSyncedIsNoError(t *testing.T) {
	dir, err := os.Open("/proc/self")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	defer dir.Close()
	require.ErrorIs(t, dir.Sync(), syscall.EINVAL)
	require.NoError(t, SyncFolder("/proc/self"))

	for _, e := range []syscall.Errno{syscall.EINVAL, syscall.ENOTSUP, syscall.EOPNOTSUPP,
		syscall.ENOSYS} {
		require.NoError(t, bestEffort(&os.PathError{Op: "sync", Path: "x", Err: e}), e)
	}
	for _, e := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		require.ErrorIs(t, bestEffort(&os.PathError{Op: "sync", Path: "x", Err: e}), e)
	}
	require.ErrorIs(t, SyncFolder(filepath.Join(t.TempDir(), "none")), os.ErrNotExist)
}

// Large contents go to the disk in parts.
func TestLargeContentsAreWrittenWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large")
	content := make([]byte, 4*behind+behind/2)
	for i := range content {
		content[i] = byte(i >> 12)
	}
	f, err := Create(path)
	require.NoError(t, err)
	n, err := f.Write(content[:behind+3])
	require.NoError(t, err)
	require.Equal(t, behind+3, n)
	half := (behind + 3 + len(content)) / 2
	var group sync.WaitGroup
	for _, at := range []int{half, behind + 3} {
		group.Go(func() {
			part := content[at:]
			if at < half {
				part = content[at:half]
			}
			n, err := f.WriteAt(part, int64(at))
			if err != nil || n != len(part) {
				t.Errorf("%d of %d bytes: %v", n, len(part), err)
			}
		})
	}
	group.Wait()
	require.NoError(t, f.Commit())
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}

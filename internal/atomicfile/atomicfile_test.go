package atomicfile

import (
	"os"
	"path/filepath"
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

	require.NoError(t, os.MkdirAll(filepath.Join(dir, "b.bin", "x"), 0o755)) // a folder cannot be replaced by a file
	require.Error(t, Write(filepath.Join(dir, "b.bin"), []byte("x")))
	require.Equal(t, []string{"b.bin"}, names(t, dir))
}

func TestSweepRemovesWhatTheDeadLeft(t *testing.T) {
	dir := t.TempDir()
	alive, err := Create(filepath.Join(dir, "a.bin"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".b.pth.0123abcd.tmp"), []byte("half"), 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "c.tmp"), nil, 0o666))
	require.NoError(t, Sweep(dir))
	require.ElementsMatch(t, []string{filepath.Base(alive.Name()), "c.tmp"}, names(t, dir))
	require.NoError(t, alive.Commit())
}

package train

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An interrupted training does not wait for the sums of what it read: here one of 8 TB, which would take hours.
func TestAnInterruptDoesNotWaitForHashes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "case.npz")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	if err := os.Truncate(path, 8<<40); err != nil {
		t.Skipf("no sparse file of 8 TB: %v", err)
	}
	start := time.Now()
	h := startHashes(filepath.Join(dir, "cache"), map[string]string{"case": path})
	require.Empty(t, h.known(false))
	h.close()
	require.Less(t, time.Since(start), 5*time.Second)
	require.NoError(t, os.Truncate(path, 0)) // ends the reading
	h.known(true)                            // so that this returns
}

// The end of a training takes the sums from its start: a file that has changed since is not read again.
func TestTheEndOfATrainingDoesNotHashAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "plans.json")
	require.NoError(t, os.WriteFile(path, []byte("as trained with"), 0o600))
	h := startHashes(filepath.Join(dir, "cache"), map[string]string{"plans": path})
	defer h.close()
	first := h.known(true)
	require.Len(t, first["plans"], 64)
	require.NoError(t, os.Remove(path))
	require.Equal(t, first, h.known(true))
	require.Equal(t, first, h.known(false))

	// A checkpoint is read when it is asked for, and again only once it has changed.
	final := filepath.Join(dir, "final.pth")
	sum, err := h.checkpoint(final)
	require.NoError(t, err)
	require.Empty(t, sum)
	require.NoError(t, os.WriteFile(final, []byte("one"), 0o600))
	one, err := h.checkpoint(final)
	require.NoError(t, err)
	info, err := os.Stat(final)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(final, []byte("two"), 0o600))
	require.NoError(t, os.Chtimes(final, info.ModTime(), info.ModTime()))
	again, err := h.checkpoint(final)
	require.NoError(t, err)
	require.Equal(t, one, again, "not read: size and time are the same")
	require.NoError(t, os.WriteFile(final, []byte("three"), 0o600))
	three, err := h.checkpoint(final)
	require.NoError(t, err)
	require.NotEqual(t, one, three)
}

// Records are valid JSON, whatever became of a number.
func TestRecordsWithNaNAreJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "losses.json")
	nan := 0.0
	nan /= nan
	require.NoError(t, writeJSON(path, record{Method: "full", Losses: []float64{1, nan}}))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Regexp(t, `"losses": \[\s*1,\s*null\s*\]`, string(b))
}

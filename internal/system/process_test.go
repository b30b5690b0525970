package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProcessesThatEndedDoNotRun(t *testing.T) {
	runs, start := Process(os.Getpid())
	require.True(t, runs)
	require.Positive(t, start)

	cmd := exec.Command("sleep", "60")
	require.NoError(t, cmd.Start())
	runs, first := Process(cmd.Process.Pid)
	require.True(t, runs)
	require.GreaterOrEqual(t, first, start)
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { runs, _ := Process(cmd.Process.Pid); return !runs },
		10*time.Second, 10*time.Millisecond, "a process that nobody has waited for yet")
	require.Error(t, cmd.Wait())
	runs, _ = Process(cmd.Process.Pid)
	require.False(t, runs)
}

func TestTouchGivesTheTimeOfTheFileSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	require.Error(t, Touch(path))
	require.NoError(t, os.WriteFile(path, nil, 0o666))
	made, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0)))
	require.NoError(t, Touch(path))
	touched, err := os.Stat(path)
	require.NoError(t, err)
	require.False(t, touched.ModTime().Before(made.ModTime()))
}

package system

import (
	"os"
	"os/exec"
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

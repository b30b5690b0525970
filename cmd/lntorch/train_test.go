package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

// wholeArgs is a training whose final validation is short too: the plans' patches are few.
func wholeArgs(t *testing.T, results string, more ...string) []string {
	return append([]string{"train", "102", "3d_phantom", "0", "-p", "nnUNetPlansSource", "--preprocessed", repo(t, "testdata/phantom-mini/preprocessed"),
		"--results", results, "--method", "full", "--epochs", "2", "--iterations", "1", "--val-iterations", "1", "--disable_tta"}, more...)
}

// nnU-Net validates 50 iterations for 250 of training.
func TestValidationIterationsKeepNnUNetsProportion(t *testing.T) {
	for iterations, want := range map[int]int{250: 50, 100: 20, 25: 5, 5: 1, 1: 1, 1000: 50, 26: 6} {
		require.Equal(t, want, train.DefaultValIterations(iterations), iterations)
	}
}

// The second Ctrl-C ends the program at once, even where the first one waits for an iteration that takes long.
func TestSecondInterruptEndsAtOnce(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	cmd := command(t, "train", "102", "3d_fullres", "0", "-p", "nnUNetPlansSource", "--preprocessed", repo(t, "testdata/phantom-mini/preprocessed"),
		"--results", results, "--batch-size", "40", "--threads", "1", "--patch-size", "32,64,64") // an iteration takes a minute
	var log bytes.Buffer
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	fold := filepath.Join(results, "Dataset102_PhantomTarget/nnUNetTrainer__nnUNetPlansSource__3d_fullres/fold_0")
	require.Eventually(t, func() bool {
		logs, _ := filepath.Glob(filepath.Join(fold, "training_log_*"))
		for _, path := range logs {
			if b, _ := os.ReadFile(path); strings.Contains(string(b), "Epoch 0") {
				return true
			}
		}
		return false
	}, time.Minute, 5*time.Millisecond)
	time.Sleep(300 * time.Millisecond) // into the iteration
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	select {
	case <-ended:
		t.Fatalf("the first interrupt ended it within a second: %s", log.String())
	case <-time.After(time.Second):
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		t.Fatal("the second interrupt did not end it")
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, status.Signaled() && status.Signal() == syscall.SIGINT, "%v", cmd.ProcessState)
}

// When a checkpoint cannot be written the error says so, and the one before it is as good as ever.
func TestFullDiskKeepsTheLastCheckpoint(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	args := wholeArgs(t, results)
	require.Equal(t, 0, lntorch(t, args...).code)
	fold := foldOf(results, "nnUNetTrainer")
	final := filepath.Join(fold, "checkpoint_final.pth")
	before, err := os.ReadFile(final)
	require.NoError(t, err)

	// A limit on the size of files stands for the full disk: room for logs, none for a checkpoint.
	cmd := command(t, append(args, "--seed", "5")...)
	limited := exec.Command("bash", append([]string{"-c", `ulimit -f 300; exec "$@"`, "bash", cmd.Path}, cmd.Args[1:]...)...)
	limited.Env = cmd.Env
	r := execute(t, limited)
	require.Equal(t, 1, r.code, r.errOut)
	require.Contains(t, r.errOut, "checkpoint_best.pth")
	require.Contains(t, r.errOut, "file too large")
	after, err := os.ReadFile(final)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "the old checkpoint changed")
	for _, path := range []string{final, filepath.Join(fold, "checkpoint_best.pth")} {
		f, err := pth.Open(path)
		require.NoError(t, err)
		require.NoError(t, f.Verify(0))
		require.NoError(t, f.Close())
	}
	litter, err := filepath.Glob(filepath.Join(fold, ".*"))
	require.NoError(t, err)
	require.Empty(t, litter)
	require.Equal(t, 0, lntorch(t, append(args, "--c")...).code, "it goes on")
}

// A killed training leaves temporary files; the next one removes them, and ends as if nothing had been.
func TestTheNextTrainingSweeps(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	fold := foldOf(results, "nnUNetTrainer")
	require.NoError(t, os.MkdirAll(filepath.Join(fold, "validation"), 0o755))
	for _, name := range []string{".checkpoint_latest.pth.0badcafe.tmp", ".progress.png.00000001.tmp", "validation/.LN_002.npz.00000002.tmp", "../.plans.json.00000003.tmp"} {
		require.NoError(t, os.WriteFile(filepath.Join(fold, name), []byte("half"), 0o600))
	}
	require.Equal(t, 0, lntorch(t, wholeArgs(t, results)...).code)
	for _, pattern := range []string{".*.tmp", "../.*.tmp", "validation/.*.tmp"} {
		litter, err := filepath.Glob(filepath.Join(fold, pattern))
		require.NoError(t, err)
		require.Empty(t, litter)
	}
	f, err := checkpoint.Open(filepath.Join(fold, "checkpoint_final.pth"))
	require.NoError(t, err)
	require.Equal(t, 2, f.Epoch)
	require.NoError(t, f.Close())
}

// The forecast of activations is right within a factor of two: measured as the growth of the peak with the batch.
func TestMemoryForecastIsRoughlyRight(t *testing.T) {
	torchtest.Require(t)
	measure := func(batch int) (forecast, peak float64) {
		results := t.TempDir()
		r := lntorch(t, wholeArgs(t, results, "--batch-size", strconv.Itoa(batch), "--epochs", "1", "--workers", "1")...)
		require.Equal(t, 0, r.code, r.errOut)
		m := regexp.MustCompile(`activations ([0-9.]+) ([MG])iB`).FindStringSubmatch(r.errOut)
		require.NotNil(t, m, r.errOut)
		forecast, err := strconv.ParseFloat(m[1], 64)
		require.NoError(t, err)
		if m[2] == "G" {
			forecast *= 1024
		}
		b, err := os.ReadFile(filepath.Join(foldOf(results, "nnUNetTrainer"), "run.json"))
		require.NoError(t, err)
		p := regexp.MustCompile(`"peak_memory_bytes": ([0-9]+)`).FindSubmatch(b)
		require.NotNil(t, p)
		peak, err = strconv.ParseFloat(string(p[1]), 64)
		require.NoError(t, err)
		return forecast, peak / (1 << 20)
	}
	f2, p2 := measure(2)
	f14, p14 := measure(14)
	ratio := (p14 - p2) / (f14 - f2)
	t.Logf("forecast %.0f -> %.0f MiB, peak %.0f -> %.0f MiB: %.2f of the forecast", f2, f14, p2, p14, ratio)
	require.Greater(t, ratio, 0.5)
	require.Less(t, ratio, 2.0)
}

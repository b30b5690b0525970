package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
)

// adaptArgs adapts phantom-mini's model by a few iterations.
func adaptArgs(t *testing.T, out string, more ...string) []string {
	return append([]string{"adapt", "--checkpoint", repo(t, "testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom"),
		"--cases", repo(t, "testdata/phantom-mini/raw/Dataset102_PhantomTarget"), "-o", out, "--epochs", "3", "--iterations", "2", "--val-iterations", "1",
		"--disable_tta", "-device", "cpu", "--threads", "2", "--numerics", "reference"}, more...)
}

// The table has each held-out case before and after, then the means and the report's path; --json has the
// paths and the means; a forecast has the cases.
func TestAdaptPrintsBeforeAndAfter(t *testing.T) {
	torchtest.Require(t)
	out := filepath.Join(t.TempDir(), "out")
	r := lntorch(t, adaptArgs(t, out, "--dry-run")...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "LN_003  train")
	require.Contains(t, r.out, "LN_005  test")
	require.Contains(t, r.out, "forecast: training")
	require.NoFileExists(t, out)

	r = lntorch(t, adaptArgs(t, out)...)
	require.Equal(t, 0, r.code, r.errOut)
	lines := strings.Split(r.out, "\n")
	require.Equal(t, strings.Fields("case Dice before after NSD_2 before after recall before after"), strings.Fields(lines[0]))
	for i, name := range []string{"LN_004", "LN_005", "mean"} {
		require.Len(t, strings.Fields(lines[2+i]), 7, lines[2+i])
		require.True(t, strings.HasPrefix(lines[2+i], name), lines[2+i])
	}
	require.Contains(t, r.out, "2 held-out cases: only gross failure or gross success shows")
	require.True(t, strings.HasSuffix(r.out, "report  "+filepath.Join(out, "report.html")+"\n"), r.out)

	r = lntorch(t, "adapt", "-o", out, "--c", "--json", "-device", "cpu", "--threads", "2")
	require.Equal(t, 0, r.code, r.errOut)
	var doc struct {
		Model, Report string
		Means         map[string]struct {
			Before, After map[string]struct{ Mean float64 }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &doc))
	require.Equal(t, filepath.Join(out, "model"), doc.Model)
	require.NotZero(t, doc.Means["1"].Before["Dice"].Mean)
	require.NotZero(t, doc.Means["1"].After["NSD_2"].Mean)

	r = lntorch(t, adaptArgs(t, out, "--c", "--lr", "0.5")...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "--lr was not given and is 0.5")
}

// Killed between stages and inside them, and interrupted, an adaptation goes on to the bits of one that
// was left alone; what was done is not done again.
func TestAdaptIsKilledAndGoesOn(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	whole, out := filepath.Join(root, "whole"), filepath.Join(root, "out")
	r := lntorch(t, adaptArgs(t, whole)...)
	require.Equal(t, 0, r.code, r.errOut)

	there := func(path string) func() bool {
		return func() bool {
			found, err := filepath.Glob(filepath.Join(out, path))
			return err == nil && len(found) > 0
		}
	}
	done := func(stage string) func() bool {
		return func() bool {
			b, err := os.ReadFile(filepath.Join(out, "train", "adapt.json"))
			return err == nil && strings.Contains(string(b), `"stage": "`+stage+`"`)
		}
	}
	var first os.FileInfo
	for i, c := range []struct {
		when   func() bool
		signal syscall.Signal
	}{
		{there("before/LN_004.nii.gz"), syscall.SIGKILL},
		{done("before"), syscall.SIGKILL},
		{there("train/results/*/*/fold_all/checkpoint_latest.pth"), syscall.SIGKILL},
		{done("train"), syscall.SIGINT},
	} {
		args := adaptArgs(t, out)
		if i > 0 {
			args = []string{"adapt", "-o", out, "--c", "-device", "cpu", "--threads", "2"}
		}
		cmd := command(t, args...)
		var log bytes.Buffer
		cmd.Stderr = &log
		require.NoError(t, cmd.Start())
		require.Eventually(t, c.when, 2*time.Minute, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(c.signal))
		require.Error(t, cmd.Wait(), "it ended before it was stopped")
		if c.signal == syscall.SIGINT {
			require.Equal(t, 130, cmd.ProcessState.ExitCode(), log.String())
			require.Contains(t, log.String(), "the same command with --c goes on from there")
			require.NotContains(t, log.String(), ": Epoch 0", "training went on where it was killed")
		}
		if i == 0 {
			var err error
			first, err = os.Stat(filepath.Join(out, "before", "LN_004.nii.gz"))
			require.NoError(t, err)
		}
	}
	r = lntorch(t, "adapt", "-o", out, "--c", "-device", "cpu", "--threads", "2")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "4 of 6, training: done already")
	again, err := os.Stat(filepath.Join(out, "before", "LN_004.nii.gz"))
	require.NoError(t, err)
	require.True(t, os.SameFile(first, again), "a case that was predicted is predicted once")

	digest := func(folder string) string {
		f, err := checkpoint.Open(filepath.Join(folder, "model", "fold_0", "checkpoint_final.pth"))
		require.NoError(t, err)
		defer f.Close()
		sum, err := f.Digest(models.Canonical)
		require.NoError(t, err)
		return sum
	}
	require.Equal(t, digest(whole), digest(out))
	for _, name := range []string{"after/LN_004.nii.gz", "after/LN_005.nii.gz", "before/LN_005.nii.gz"} {
		want, err := os.ReadFile(filepath.Join(whole, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	left, err := filepath.Glob(filepath.Join(out, ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

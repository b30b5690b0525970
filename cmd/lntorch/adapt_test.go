package main

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/pipeline"
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
	requireMeans(t, lines)
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

// requireMeans checks a table of held-out cases: each mean is that of its column.
func requireMeans(t *testing.T, lines []string) {
	t.Helper()
	var sums [6]float64
	n := 0.0
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) != 7 || !strings.HasPrefix(line, "LN_") && fields[0] != "mean" {
			continue
		}
		for i := range sums {
			v, err := strconv.ParseFloat(fields[1+i], 64)
			require.NoError(t, err, line)
			if fields[0] == "mean" {
				require.InDelta(t, sums[i]/n, v, 0.00101, line) // of numbers with three digits
			}
			sums[i] += v
		}
		if n++; fields[0] == "mean" {
			return
		}
	}
	t.Fatal("there is no mean")
}

// The documents show the same table, and its means are those of its columns.
func TestDocumentedAdaptationAddsUp(t *testing.T) {
	var tables []string
	for _, path := range []string{"README.md", "docs/adapt.md"} {
		b, err := os.ReadFile(repo(t, path))
		require.NoError(t, err)
		at := strings.Index(string(b), "case       Dice before")
		require.Positive(t, at, path)
		table, _, _ := strings.Cut(string(b)[at:], "```")
		requireMeans(t, strings.Split(table, "\n"))
		require.Contains(t, table, "\nall nodes ")
		tables = append(tables, table)
	}
	require.Equal(t, tables[0], tables[1])
}

// A mean that leaves cases out says of how many it is, and a row of all nodes has no Dice.
func TestAdaptationTableSaysOfHowManyCases(t *testing.T) {
	nan := scores.Number(math.NaN())
	all := &scores.Scores{Labels: map[string]string{"1": "node"}, Cases: []*scores.Case{{Case: "a"}, {Case: "b"}}}
	a := &pipeline.Adapted{After: all, Means: map[string]pipeline.AdaptMeans{"1": {
		Before: map[string]scores.Mean{"Dice": {Mean: 0.8, N: 1}, "NSD_2": {Mean: 0.5, N: 2}, "recall": {Mean: nan},
			"recall_all_nodes": {Mean: 0.25, N: 4}},
		After: map[string]scores.Mean{"Dice": {Mean: 0.82, N: 1}, "NSD_2": {Mean: 0.6, N: 2}, "recall": {Mean: nan},
			"recall_all_nodes": {Mean: 0.75, N: 4}}}}}
	rows := adaptationTable(a).Rows
	require.Equal(t, []string{"a", "–", "–", "–", "–", "–", "–"}, rows[0])
	require.Equal(t, []string{"mean", "0.800 (n=1)", "0.820 (n=1)", "0.500", "0.600", "– (n=0)", "– (n=0)"}, rows[2])
	require.Equal(t, []string{"all nodes", "", "", "", "", "0.250", "0.750"}, rows[3])
	m := a.Means["1"]
	m.Before = nil // the model as it is predicts other labels
	a.Means["1"] = m
	require.Equal(t, []string{"mean", "–", "0.820 (n=1)", "–", "0.600", "–", "– (n=0)"}, adaptationTable(a).Rows[2])
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

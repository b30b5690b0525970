package train_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

// profileRow is a line of iteration.txt: milliseconds, and percent of the iterations' time.
type profileRow struct{ median, p90, share float64 }

// readProfile reads iteration.txt and checks that cpu.pprof is a profile.
func readProfile(t *testing.T, dir string) (rows map[string]profileRow, text string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "iteration.txt"))
	require.NoError(t, err)
	text = string(b)
	rows = map[string]profileRow{}
	line := regexp.MustCompile(`(?m)^(\w+) +([0-9.]+) +([0-9.]+) +([0-9.]+) %$`)
	for _, m := range line.FindAllStringSubmatch(text, -1) {
		var n [3]float64
		for i := range n {
			n[i], err = strconv.ParseFloat(m[2+i], 64)
			require.NoError(t, err)
		}
		rows[m[1]] = profileRow{n[0], n[1], n[2]}
	}
	b, err = os.ReadFile(filepath.Join(dir, "cpu.pprof"))
	require.NoError(t, err)
	z, err := gzip.NewReader(bytes.NewReader(b))
	require.NoError(t, err)
	all, err := io.ReadAll(z)
	require.NoError(t, err)
	require.Contains(t, string(all), "nanoseconds")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	return rows, text
}

// On the CPU the phases are consecutive, so with the wait they make up the iteration. The bits are
// those of a training without a profile.
func TestTheProfileSaysWhereAnIterationGoes(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			for _, method := range []string{"dgst", "full"} { // on CUDA, full does not wait for losses
				profiled(t, device, method)
			}
		})
	}
}

func profiled(t *testing.T, device torch.Device, method string) {
	training := func(profile string) map[string]any {
		c := tiny{}.config(t, "plain", method, nil)
		c.Iterations, c.Workers, c.Device, c.Deterministic, c.Profile = 30, 2, device, true, profile
		return state(t, run(t, c).Checkpoint)
	}
	folder := filepath.Join(t.TempDir(), "a", "profile")
	require.Equal(t, training(""), training(folder))
	rows, text := readProfile(t, folder)
	require.Contains(t, text, "59 iterations, the run's first left out")
	require.Contains(t, text, fmt.Sprintf("method %s, on %s", method, device))
	require.LessOrEqual(t, strings.Count(text, "\n"), 40, "one page")
	t.Log("\n" + text)

	require.Len(t, rows, 11)
	sum := 0.0
	for name, row := range rows {
		if name != "wait" && name != "rest" {
			require.Positive(t, row.median, name)
		}
		require.GreaterOrEqual(t, row.p90, row.median, name)
		switch name {
		case "copy", "forward", "loss", "backward", "step", "wait":
			sum += row.share
		}
	}
	require.InDelta(t, 100, rows["iteration"].share, 0.01)
	require.Greater(t, rows["backward"].median, rows["copy"].median)
	if device.Type != torch.DeviceCPU {
		require.Contains(t, text, "by the device's events")
		return
	}
	require.Contains(t, text, "by the host's clock")
	require.InDelta(t, 100, sum+rows["rest"].share, 0.5)
	require.Less(t, rows["rest"].share, 10.0)
	require.Less(t, rows["copy"].median, rows["forward"].median)
	require.Less(t, rows["loss"].median, rows["forward"].median)
	require.Less(t, rows["loss"].median, rows["backward"].median)
}

func TestAnInterruptedTrainingHasAProfile(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	c.Profile = t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{4, cancel}
	_, err := train.Run(ctx, c)
	var stopped *train.Interrupted
	require.ErrorAs(t, err, &stopped)
	_, text := readProfile(t, c.Profile)
	require.Contains(t, text, fmt.Sprintf("\n%d iterations", 2))
}

func TestAProfileThatCannotBeWrittenStopsTheTrainingAtOnce(t *testing.T) {
	c := tiny{}.config(t, "plain", "full", nil)
	c.Profile = filepath.Join(t.TempDir(), "file")
	write(t, c.Profile, "")
	_, err := train.Run(context.Background(), c)
	require.ErrorContains(t, err, "train: profile: mkdir "+c.Profile)
}

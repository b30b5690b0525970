package report

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

func at(seconds float64) time.Time {
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9))
}

func TestEventsEqualTensorBoardsOwnWriter(t *testing.T) {
	want, err := os.ReadFile(golden.Path(t, "report/events.tfevents"))
	require.NoError(t, err)
	folder := filepath.Join(t.TempDir(), "folder [*] name")
	require.NoError(t, os.Mkdir(folder, 0o755))
	e, err := OpenEvents(folder, 0, at(1700000000.5))
	require.NoError(t, err)
	require.Regexp(t, `/events\.out\.tfevents\.1700000000\..*\.lntorch$`, e.Path())
	require.NoError(t, e.Write(0, at(1700000001.25), Scalar{"loss/train", 0.25}, Scalar{"loss/val", float32(math.NaN())}))
	require.NoError(t, e.Write(300, at(1700000002), Scalar{"lr", 0}))
	require.NoError(t, e.Close())
	e, err = OpenEvents(folder, 300, at(1700000003))
	require.NoError(t, err)
	require.NoError(t, e.Close())
	got, err := os.ReadFile(e.Path())
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestEventsContinueAfterATruncatedRecord(t *testing.T) {
	whole, err := os.ReadFile(golden.Path(t, "report/events.tfevents"))
	require.NoError(t, err)
	ends := []int{0, 40, 103, 144, 176} // of the four records
	for cut := range whole {
		folder := t.TempDir()
		path := filepath.Join(folder, "events.out.tfevents.1700000000.host.lntorch")
		require.NoError(t, os.WriteFile(path, whole[:cut], 0o644))
		e, err := OpenEvents(folder, 7, at(1700000009))
		require.NoError(t, err)
		require.Equal(t, path, e.Path())
		require.NoError(t, e.Close())
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		kept := 0
		for _, end := range ends {
			if end <= cut {
				kept = end
			}
		}
		require.Equal(t, whole[:kept], got[:kept], "cut at %d", cut)
		again, err := wholeRecords(strings.NewReader(string(got)))
		require.NoError(t, err)
		require.EqualValues(t, len(got), again, "cut at %d", cut)
	}
}

func FuzzWholeRecords(f *testing.F) {
	whole, err := os.ReadFile(golden.Path(f, "report/events.tfevents"))
	require.NoError(f, err)
	f.Add(string(whole))
	f.Fuzz(func(t *testing.T, in string) {
		n, err := wholeRecords(strings.NewReader(in))
		require.NoError(t, err)
		require.LessOrEqual(t, n, int64(len(in)))
	})
}

func TestOpenEventsNeedsTheFolder(t *testing.T) {
	_, err := OpenEvents(filepath.Join(t.TempDir(), "missing"), 0, time.Now())
	require.ErrorContains(t, err, "report: events: open ")
	require.ErrorContains(t, err, "no such file or directory")
}

// TestLiveTensorBoardReadsOurEvents needs a Python with the package tensorboard.
func TestLiveTensorBoardReadsOurEvents(t *testing.T) {
	python := golden.Python(t)
	if err := exec.Command(python, "-c", "import tensorboard").Run(); err != nil {
		golden.Missing(t, "tensorboard", python+" has no package tensorboard; install it there with pip")
	}
	folder := t.TempDir()
	e, err := OpenEvents(folder, 0, at(1700000000))
	require.NoError(t, err)
	for step := range int64(5) {
		require.NoError(t, e.Write(step, at(1700000001+float64(step)), Scalar{"loss/train", float32(step) / 4}, Scalar{"lr", 0.01}))
	}
	// Killed while step 5 was being written, resumed from the checkpoint of step 3.
	require.NoError(t, e.Close())
	f, err := os.OpenFile(e.Path(), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("torn")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	e, err = OpenEvents(folder, 3, at(1700000100))
	require.NoError(t, err)
	require.NoError(t, e.Write(3, at(1700000101), Scalar{"loss/train", 8}, Scalar{"lr", 0.02}))
	require.NoError(t, e.Close())

	var got map[string][][3]float64
	require.NoError(t, json.Unmarshal(golden.Run(t, "tensorboard_events.py", folder), &got))
	require.Len(t, got, 2)
	require.Equal(t, [][3]float64{{0, 1700000001, 0}, {1, 1700000002, 0.25}, {2, 1700000003, 0.5}, {3, 1700000101, 8}}, got["loss/train"])
	require.Len(t, got["lr"], 4)
}

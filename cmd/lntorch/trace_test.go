package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
)

func traceArgs(t *testing.T, out string, more ...string) []string {
	return append([]string{"trace", "--checkpoint", sourceCheckpoint(t), "--batches", repo(t, "testdata/phantom-mini/trajectory"), "-o", out, "--threads", "2"}, more...)
}

type traced struct {
	Method  string
	LR0     float64
	Losses  []float64
	Norms   []float64 `json:"grad_norms_before_clip"`
	LRs     []float64
	Seconds []float64
}

func readTrace(t *testing.T, path string) (r traced) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &r))
	return r
}

func TestTraceWritesWhatTwoStacksCompare(t *testing.T) {
	torchtest.Require(t)
	out := filepath.Join(t.TempDir(), "new", "full")
	r := lntorch(t, traceArgs(t, out, "--method", "full")...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, out+"\n", r.out, "stdout is the folder")
	want, got := readTrace(t, repo(t, "testdata/phantom-mini/trajectory/full_losses.json")), readTrace(t, filepath.Join(out, "losses.json"))
	require.Equal(t, "full", got.Method)
	require.Equal(t, want.LR0, got.LR0)
	require.Equal(t, want.LRs, got.LRs)
	require.Len(t, got.Seconds, 4)
	golden.Close(t, "losses", "trajectory-loss", nil, want.Losses, got.Losses)
	golden.Close(t, "norms", "trajectory-norm", nil, want.Norms, got.Norms)
	for _, name := range []string{"first_gradients.npz", "final.pth"} {
		require.FileExists(t, filepath.Join(out, name))
	}
	require.NoFileExists(t, filepath.Join(out, "mask.npz"))
}

// Options reach method and optimizer: DGST's own learning rate, another one, static masks with their plain names.
func TestTraceTakesTheMethodsOptions(t *testing.T) {
	torchtest.Require(t)
	dynamic, static := filepath.Join(t.TempDir(), "d"), filepath.Join(t.TempDir(), "s")
	r := lntorch(t, traceArgs(t, dynamic, "--method", "dgst", "--dgst-mode", "strict")...)
	require.Equal(t, 0, r.code, r.errOut)
	var want traced
	golden.LoadJSON(t, "dgst/strict-dynamic.json", &want)
	golden.Close(t, "losses", "trajectory-loss", nil, want.Losses, readTrace(t, filepath.Join(dynamic, "losses.json")).Losses)

	r = lntorch(t, traceArgs(t, static, "--method", "dgst", "--dgst-select", "static", "--dgst-k", "1", "--lr", "0.5", "--momentum", "0", "--weight-decay", "0")...)
	require.Equal(t, 0, r.code, r.errOut)
	got := readTrace(t, filepath.Join(static, "losses.json"))
	require.Equal(t, 0.5, got.LRs[0])
	f, err := npz.OpenNpz(filepath.Join(static, "mask.npz"))
	require.NoError(t, err)
	defer f.Close()
	a, err := f.Read("encoder.stages.1.0.convs.0.conv.weight")
	require.NoError(t, err)
	mask, err := a.Bools()
	require.NoError(t, err)
	n := 0
	for _, on := range mask {
		if on {
			n++
		}
	}
	require.Equal(t, a.Shape[0], n, "one entry in each row")
}

func TestTraceErrorsSayWhatIsExpected(t *testing.T) {
	torchtest.Require(t)
	out := filepath.Join(t.TempDir(), "out")
	empty := t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"trace", "--checkpoint", sourceCheckpoint(t), "-o", out}, 2, []string{"--checkpoint, --batches and -o must be given", "lntorch trace --help"}},
		{[]string{"trace", "--checkpoint", sourceCheckpoint(t), "--batches", empty, "-o", out}, 1, []string{empty, "no batch_00_data.npy", "batch_NN_target_K.npy"}},
		{traceArgs(t, out, "--method", "adam"), 2, []string{"adam", "dgst", "full"}},
		{traceArgs(t, out, "--method", "full", "--dgst-k", "3"), 2, []string{"--dgst-k belongs to method dgst, not to full"}},
		{traceArgs(t, out, "--method", "dgst", "--dgst-select", "sometimes"), 2, []string{"dynamic, static, random"}},
		{traceArgs(t, out, "--method", "dgst", "--dgst-warmup", "3"), 2, []string{"--dgst-warmup 3", "only static selection"}},
		{traceArgs(t, out, "--freeze", "encodr.*"), 1, []string{`--freeze "encodr.*" matches none of the`}},
		{traceArgs(t, out, "--freeze", "*"), 1, []string{"trains no parameter"}},
		{traceArgs(t, out, "--amp", "fp16"), 2, []string{"use bf16 or off"}},
		{traceArgs(t, out, "--amp", "half"), 2, []string{"half", "auto, off, fp16 or bf16"}},
		{traceArgs(t, out, "--configuration", "3d_fullres"), 1, []string{"checkpoint_final.pth", "weights do not fit the network"}},
		{traceArgs(t, out, "--plans", filepath.Join(empty, "plans.json")), 1, []string{"plans.json", "no such file"}},
		{traceArgs(t, out, "extra"), 2, []string{"found 1 arguments, expected 0"}},
	} {
		r := lntorch(t, c.args...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.errOut)
		require.Empty(t, r.out)
		for _, w := range c.want {
			require.Contains(t, r.errOut, w, "%v", c.args)
		}
		require.NoFileExists(t, filepath.Join(out, "final.pth"))
	}
}

package pth

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/stretchr/testify/require"
)

// runPython runs a script and returns the lines of its output.
func runPython(t *testing.T, args ...string) []string {
	cmd := exec.Command(golden.Python(t), append([]string{"-W", "ignore"}, args...)...)
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=2")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return strings.Split(strings.TrimRight(string(out), "\n"), "\n")
}

// pythonDescribes runs pth_corpus.py with the mode "--describe" or "--weights-only".
func pythonDescribes(t *testing.T, mode string, files ...string) []string {
	lines := runPython(t, append([]string{"../../scripts/golden/pth_corpus.py", mode}, files...)...)
	require.Len(t, lines, len(files))
	return lines
}

func realCheckpoints(t testing.TB) []string {
	var out []string
	for _, pattern := range []string{"phantom-mini/results/*/*/*/*.pth",
		"phantom-mini/trajectory/*.pth", "phantom-demo/foundation/*/*/*.pth"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "testdata", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		out = append(out, files...)
	}
	return out
}

// nnU-Net's own checkpoints, torch's corpus and case properties: after reading and writing by us,
// Python finds them unchanged: keys, order, types, values, dtypes, shapes, bytes and shared
// storages.
func TestLiveRoundTripIsEqualForPython(t *testing.T) {
	golden.Python(t)
	originals := realCheckpoints(t)
	for _, pattern := range []string{"golden/pth/*.pth", "golden/pth/*.pkl",
		"phantom-mini/preprocessed/*/*/*.pkl"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "testdata", pattern))
		require.NoError(t, err)
		originals = append(originals, files...)
	}
	dir := t.TempDir()
	var copies []string
	for i, path := range originals {
		out := filepath.Join(dir, string(rune('a'+i/26))+string(rune('a'+i%26))+".pth")
		require.NoError(t, Save(out, openAny(t, path)))
		copies = append(copies, out)
	}
	lines := pythonDescribes(t, "--describe",
		append(append([]string{}, originals...), copies...)...)
	for i, path := range originals {
		want := lines[i]
		// see TestWrittenCorpusIsReadBack
		if strings.HasSuffix(path, "values_5.pkl") ||
			strings.HasSuffix(path, "values_legacy_5.pth") {
			want = lines[len(originals)+i-1]
		}
		require.Equal(t, want, lines[len(originals)+i], path)
	}
}

// built is a checkpoint made in memory, with only what the restricted loader accepts.
func built(t *testing.T) any {
	var raw []byte
	for i := range 24 {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(i)-3.5))
	}
	weights, err := NewStorage(Float32, raw)
	require.NoError(t, err)
	index, err := NewStorage(Int64, make([]byte, 40))
	require.NoError(t, err)
	empty, err := NewStorage(BFloat16, nil)
	require.NoError(t, err)
	tensor := func(s *Storage, offset int64, size, stride []int64) *Tensor {
		x, err := NewTensor(s, offset, size, stride)
		require.NoError(t, err)
		return x
	}
	state := &pickle.OrderedDict{Attrs: &pickle.Dict{}}
	state.Set("a.weight", tensor(weights, 0, []int64{2, 3, 4}, nil))
	state.Set("b.weight", tensor(weights, 0, []int64{2, 3, 4}, nil))
	state.Set("part", tensor(weights, 5, []int64{4, 3}, []int64{1, 4}))
	state.Set("scalar", tensor(weights, 23, nil, nil))
	state.Set("index", tensor(index, 0, []int64{5}, nil))
	state.Set("empty", tensor(empty, 0, []int64{0, 2}, nil))
	p := tensor(weights, 12, []int64{3}, nil)
	p.Parameter, p.RequiresGrad = true, true
	state.Set("parameter", p)
	version := &pickle.Dict{}
	version.Set("version", int64(2))
	meta := &pickle.OrderedDict{}
	meta.Set("", version)
	state.Attrs.Set("_metadata", meta)
	root := &pickle.Dict{}
	root.Set("network_weights", state)
	root.Set("current_epoch", int64(30))
	root.Set("lrs",
		&pickle.List{Items: []any{0.01, math.Inf(1), math.Copysign(0, -1), int64(1) << 40}})
	root.Set("axes", pickle.Tuple{int64(0), int64(1), int64(2)})
	root.Set("device", pickle.Device{Type: "cuda", Index: 0})
	root.Set("dtype", pickle.DType("float32"))
	root.Set("none", nil)
	return root
}

func TestLiveRestrictedLoaderOpensWhatSaveWrites(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "built.pth")}
	root := built(t)
	require.NoError(t, Save(files[0], root))
	want := []string{describe(t, root)}
	for i, path := range []string{"dtypes.pth", "views.pth", "parameters.pth", "state_dict.pth",
		"tensor.pth", "views_legacy.pth"} {
		v := openAny(t, filepath.Join(goldenFolder, "pth", path))
		out := filepath.Join(dir, string(rune('a'+i))+".pth")
		require.NoError(t, Save(out, v))
		files, want = append(files, out), append(want, describe(t, v))
	}
	for i, line := range pythonDescribes(t, "--weights-only", files...) {
		require.JSONEq(t, want[i], line, files[i])
	}
}

// Python's zipfile verifies the checksums, and torch maps the storages into memory, for which they
// must be stored uncompressed and aligned.
func TestLiveContainerIsSound(t *testing.T) {
	golden.Python(t)
	path := filepath.Join(t.TempDir(), "model.pth")
	require.NoError(t, Save(path, built(t)))
	lines := runPython(t, "-c", `
import sys, zipfile, torch
z = zipfile.ZipFile(sys.argv[1])
assert z.testzip() is None
for i in z.infolist():
    z.fp.seek(i.header_offset + 26)
    b = z.fp.read(4)
    start = i.header_offset + 30 + int.from_bytes(b[:2], "little") + int.from_bytes(b[2:], "little")
    assert i.compress_type == 0 and start % 64 == 0, i
    print(i.filename)
print(float(torch.load(sys.argv[1], mmap=True, map_location="cpu", weights_only=True)["network_weights"]["a.weight"].sum()))
`, path)
	require.Equal(t, []string{"model/data.pkl", "model/byteorder", "model/data/0", "model/data/1",
		"model/data/2", "model/version", "192.0"}, lines)
}

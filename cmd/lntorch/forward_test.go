package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

const sourceModel = "testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom"

func sourceCheckpoint(t *testing.T) string {
	return repo(t, sourceModel+"/fold_0/checkpoint_final.pth")
}

func writeArray(t *testing.T, path string, v []float32, shape ...int) {
	t.Helper()
	a, err := npz.New(v, shape...)
	require.NoError(t, err)
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, npz.WriteNpy(f, a))
	require.NoError(t, f.Close())
}

func readArrays(t *testing.T, path string) (names []string, shapes map[string][]int, values map[string][]float32) {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	shapes, values = map[string][]int{}, map[string][]float32{}
	for _, name := range f.Names() {
		shapes[name], values[name] = golden.Float32s(t, f, name)
	}
	return slices.Sorted(slices.Values(f.Names())), shapes, values
}

func TestForwardWritesTheHeads(t *testing.T) {
	torchtest.Require(t)
	dir := t.TempDir()
	x := repo(t, "testdata/phantom-mini/trajectory/batch_00_data.npy")
	one, all, again := filepath.Join(dir, "one.npz"), filepath.Join(dir, "all.npz"), filepath.Join(dir, "again.npz")
	args := []string{"forward", "--checkpoint", sourceCheckpoint(t), "--input", x, "--threads", "2", "--output"}
	r := lntorch(t, append(args, one)...)
	require.Equal(t, 0, r.code, r.errOut)
	names, shapes, first := readArrays(t, one)
	require.Equal(t, []string{"head_0"}, names)
	require.Equal(t, []int{2, 2, 16, 48, 48}, shapes["head_0"])

	r = lntorch(t, append(args, all, "--deep-supervision")...)
	require.Equal(t, 0, r.code, r.errOut)
	names, shapes, heads := readArrays(t, all)
	require.Equal(t, []string{"head_0", "head_1", "head_2"}, names)
	require.Equal(t, []int{2, 2, 16, 24, 24}, shapes["head_1"])
	golden.Equal(t, "head_0", shapes["head_0"], first["head_0"], heads["head_0"])

	// Plans that a file beside the checkpoint holds are those inside it.
	r = lntorch(t, append(args, again, "--plans", repo(t, sourceModel+"/plans.json"), "--dataset-json", repo(t, sourceModel+"/dataset.json"), "--configuration", "3d_phantom")...)
	require.Equal(t, 0, r.code, r.errOut)
	_, _, heads = readArrays(t, again)
	golden.Equal(t, "head_0", nil, first["head_0"], heads["head_0"])
}

// The stored outputs of hash-filled networks, through a weights-only file with plans beside it.
func TestForwardIsPyTorchs(t *testing.T) {
	for _, name := range []string{"plain-2d", "resenc-bottleneck", "plain-dropout"} {
		t.Run(name, func(t *testing.T) {
			torchtest.Require(t)
			args, output := hashedNetwork(t, name)
			r := lntorch(t, args...)
			require.Equal(t, 0, r.code, r.errOut)
			_, shapes, got := readArrays(t, output)
			want := golden.Load(t, "network/"+name+".npz")
			for head, v := range got {
				shape, w := golden.Float32s(t, want, head)
				require.Equal(t, shape, shapes[head])
				golden.Close(t, head, "forward", shape, w, v)
			}
			require.Contains(t, got, "head_1")
		})
	}
}

// hashedNetwork writes the files of a golden network with its hash-filled weights: a bare state dict, plans, dataset and
// input. It gives the command line that runs it, and where the heads go.
func hashedNetwork(t *testing.T, name string) (args []string, output string) {
	t.Helper()
	var file struct {
		Spec struct {
			Architecture  json.RawMessage
			InputChannels int     `json:"input_channels"`
			NumClasses    int     `json:"num_classes"`
			InputShape    []int64 `json:"input_shape"`
		}
	}
	golden.LoadJSON(t, "network/"+name+".json", &file)
	sp := file.Spec
	dir := t.TempDir()
	plansFile, datasetFile := filepath.Join(dir, "plans.json"), filepath.Join(dir, "dataset.json")
	patch, labels, channels := make([]int, len(sp.InputShape)-2), map[string]int{"background": 0}, map[string]string{}
	for i := range patch {
		patch[i] = 1
	}
	for i := 1; i < sp.NumClasses; i++ {
		labels["class "+string(rune('a'+i))] = i
	}
	schemes := make([]string, sp.InputChannels)
	for i := range schemes {
		schemes[i], channels[string(rune('0'+i))] = "CTNormalization", "CT"
	}
	for path, doc := range map[string]any{
		plansFile: map[string]any{"configurations": map[string]any{"c": map[string]any{"data_identifier": "d", "batch_size": 2, "patch_size": patch,
			"spacing": patch, "normalization_schemes": schemes, "architecture": sp.Architecture}}},
		datasetFile: map[string]any{"channel_names": channels, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"},
	} {
		b, err := json.Marshal(doc)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
	p, err := plans.Load(plansFile)
	require.NoError(t, err)
	c, err := p.Configuration("c")
	require.NoError(t, err)
	a, err := models.Parse(c)
	require.NoError(t, err)
	weights, input := filepath.Join(dir, "w.pth"), filepath.Join(dir, "x.npy")
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU}, models.Spec{Architecture: a, InputChannels: sp.InputChannels, NumClasses: sp.NumClasses})
		require.NoError(t, err)
		for i, q := range n.Module().Parameters() {
			require.NoError(t, torch.CopyIn(q.T, golden.HashParameter(i, q.Name, q.Shape)))
		}
		return checkpoint.SaveWeights(weights, n.Module())
	}))
	v, shape := golden.HashInput(-1, sp.InputShape), make([]int, len(sp.InputShape))
	for i, d := range sp.InputShape {
		shape[i] = int(d)
	}
	writeArray(t, input, v, shape...)
	output = filepath.Join(dir, "y.npz")
	return []string{"forward", "--checkpoint", weights, "--plans", plansFile, "--dataset-json", datasetFile, "--configuration", "c",
		"--input", input, "--output", output, "--deep-supervision", "--threads", "2"}, output
}

// Bit for bit on this machine: a real checkpoint on a real patch.
func TestLiveForwardHasPythonsBits(t *testing.T) {
	golden.Python(t)
	torchtest.Require(t)
	dir := t.TempDir()
	var file struct{ Spec map[string]any }
	golden.LoadJSON(t, "network/plain-3d.json", &file)
	var doc struct {
		Configurations map[string]struct{ Architecture any }
	}
	text, err := os.ReadFile(repo(t, sourceModel+"/plans.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &doc))
	file.Spec["architecture"], file.Spec["mode"], file.Spec["num_classes"] = doc.Configurations["3d_phantom"].Architecture, "eval", 2
	spec, theirs, ours := filepath.Join(dir, "spec.json"), filepath.Join(dir, "theirs.npz"), filepath.Join(dir, "ours.npz")
	b, err := json.Marshal(file.Spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(spec, b, 0o600))
	x := repo(t, "testdata/phantom-mini/trajectory/batch_01_data.npy")
	golden.Run(t, "network.py", "--spec", spec, "--weights", sourceCheckpoint(t), "--input", x, "--out", theirs, "--threads", "2")
	r := lntorch(t, "forward", "--checkpoint", sourceCheckpoint(t), "--input", x, "--output", ours, "--deep-supervision", "--threads", "2", "--numerics", "reference")
	require.Equal(t, 0, r.code, r.errOut)
	names, shapes, got := readArrays(t, ours)
	require.Len(t, names, 3)
	_, _, want := readArrays(t, theirs)
	for _, name := range names {
		golden.Equal(t, name, shapes[name], want[name], got[name])
	}
}

func TestForwardErrorsSayWhatIsExpected(t *testing.T) {
	torchtest.Require(t)
	dir := t.TempDir()
	wide, odd, flat := filepath.Join(dir, "wide.npy"), filepath.Join(dir, "odd.npy"), filepath.Join(dir, "flat.npy")
	writeArray(t, wide, make([]float32, 2*16*16*16), 1, 2, 16, 16, 16)
	writeArray(t, odd, make([]float32, 16*16*9), 1, 1, 16, 16, 9)
	writeArray(t, flat, make([]float32, 16*16), 1, 1, 16, 16)
	bare := repo(t, "testdata/phantom-mini/trajectory/full_final.pth")
	out := filepath.Join(dir, "y.npz")
	given := func(more ...string) []string { return append([]string{"forward", "--output", out}, more...) }
	plansFile, datasetFile := repo(t, sourceModel+"/plans.json"), repo(t, sourceModel+"/dataset.json")
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{given("--checkpoint", sourceCheckpoint(t)), 2, []string{"--checkpoint, --input and --output must be given", "lntorch forward --help"}},
		{given("--checkpoint", sourceCheckpoint(t), "--input", wide), 1, []string{"wide.npy", "[1 2 16 16 16]", "1 channels, 3 spatial axes"}},
		{given("--checkpoint", sourceCheckpoint(t), "--input", flat), 1, []string{"flat.npy", "[1 1 16 16]", "3 spatial axes"}},
		{given("--checkpoint", sourceCheckpoint(t), "--input", odd), 1, []string{"[16 16 9]"}},
		{given("--checkpoint", sourceCheckpoint(t), "--input", filepath.Join(dir, "none.npy")), 1, []string{"none.npy", "no such file"}},
		{given("--checkpoint", sourceCheckpoint(t), "--input", sourceCheckpoint(t)), 1, []string{"checkpoint_final.pth"}},
		{given("--checkpoint", filepath.Join(dir, "none.pth"), "--input", wide), 1, []string{"none.pth", "no such file"}},
		{given("--checkpoint", bare, "--input", wide), 1, []string{"full_final.pth does not hold plans", "give --plans, --dataset-json, --configuration\n"}},
		{given("--checkpoint", bare, "--input", wide, "--plans", plansFile), 1, []string{"give --dataset-json, --configuration\n"}},
		{given("--checkpoint", bare, "--input", wide, "--plans", plansFile, "--dataset-json", datasetFile), 1, []string{"give --configuration\n"}},
		{given("--checkpoint", sourceCheckpoint(t), "--input", wide, "--configuration", "2d_huge"), 1, []string{"2d_huge", "3d_phantom"}},
		{given("--checkpoint", sourceCheckpoint(t), "--input", wide, "--numerics", "exact"), 2, []string{"expected fast or reference"}},
		{given("--checkpoint", sourceCheckpoint(t), "--input", repo(t, "testdata/phantom-mini/trajectory/batch_00_data.npy"), "--configuration", "3d_fullres"), 1,
			[]string{"weights do not fit the network", "missing", "lntorch inspect"}},
	} {
		r := lntorch(t, c.args...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.errOut)
		require.Empty(t, r.out)
		for _, w := range c.want {
			require.Contains(t, r.errOut, w, "%v", c.args)
		}
		require.NoFileExists(t, out)
	}
}

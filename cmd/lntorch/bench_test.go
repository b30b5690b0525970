package main

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/bench"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/volume"
)

// phantomWeights counts in a checkpoint of nnU-Net: parameters by name, numbers in all, and DGST's two entries of each row.
func phantomWeights(t *testing.T) (names int, numbers, entries int64) {
	t.Helper()
	f, err := checkpoint.Open(repo(t, foundation+"/fold_0/checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	for _, w := range f.Weights {
		if strings.Contains(w.Name, "all_modules") || strings.HasPrefix(w.Name, "decoder.encoder.") { // aliases
			continue
		}
		size := int64(1)
		for _, n := range w.Tensor.Size {
			size *= n
		}
		names, numbers = names+1, numbers+size
		if !strings.Contains(w.Name, "norm") && !strings.Contains(w.Name, "bias") && !strings.Contains(w.Name, "seg_layers") {
			entries += w.Tensor.Size[0] * 2
		}
	}
	return names, numbers, entries
}

// benchResult is a line of `bench --json`.
type benchResult struct {
	Part, Variant string
	Ready         bool
	Seconds, Loss float64
	PeakRSS       int64 `json:"peak_rss_bytes"`
	Parameters    int64
	Threads       int
	Entries       int64
	Loaded, Tiles int
}

func benchLines(t *testing.T, out string) (lines []benchResult) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var r benchResult
		require.NoError(t, json.Unmarshal([]byte(line), &r), line)
		lines = append(lines, r)
	}
	return lines
}

func TestBenchDoesTheWorkItTimes(t *testing.T) {
	torchtest.Require(t)
	names, numbers, entries := phantomWeights(t)
	tmp := t.TempDir()
	for _, c := range []struct {
		args  []string
		check func(r benchResult)
	}{
		{[]string{"step"}, func(r benchResult) { require.Equal(t, "phantom full", r.Variant); require.InDelta(t, 1, r.Loss, 1) }},
		{[]string{"step", "--steps", "3"}, func(r benchResult) { require.InDelta(t, 1, r.Loss, 1) }},
		{[]string{"step", "--amp", "bf16"}, func(r benchResult) { require.InDelta(t, 1, r.Loss, 1) }},
		{[]string{"step", "--method", "dgst", "--dgst-mode", "strict"}, func(r benchResult) {
			require.Equal(t, "phantom dgst strict", r.Variant)
			require.Equal(t, entries, r.Entries)
		}},
		{[]string{"update", "--method", "dgst"}, func(r benchResult) { require.Equal(t, entries, r.Entries) }},
		{[]string{"update"}, func(r benchResult) { require.Zero(t, r.Entries) }},
		{[]string{"masks"}, func(r benchResult) { require.Equal(t, entries, r.Entries) }},
		{[]string{"step", "--method", "head"}, func(r benchResult) { require.Equal(t, "phantom head", r.Variant); require.Zero(t, r.Entries) }},
		{[]string{"step", "--method", "bias", "--freeze", "encoder.*"}, func(r benchResult) { require.Equal(t, "phantom bias encoder.*", r.Variant) }},
		{[]string{"step", "--method", "dgst", "--dgst-select", "random"}, func(r benchResult) { require.Equal(t, entries, r.Entries) }},
		{[]string{"masks", "--dgst-k", "3"}, func(r benchResult) { require.Equal(t, entries/2*3, r.Entries) }},
		{[]string{"open"}, func(r benchResult) { require.Equal(t, names, r.Loaded) }},
		{[]string{"open", "--checkpoint", repo(t, foundation+"/fold_0/checkpoint_final.pth")}, func(r benchResult) { require.Equal(t, names, r.Loaded) }},
		{[]string{"window", "--image", "24,24,24"}, func(r benchResult) { require.Equal(t, 2*2*2, r.Tiles) }},
	} {
		cmd := command(t, append([]string{"bench", "--network", "phantom", "--patch-size", "16,16,16", "--repeats", "2", "--warmup", "0", "--json", "--threads", "1"}, c.args...)...)
		cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
		r := execute(t, cmd)
		require.Equal(t, 0, r.code, "%v: %s", c.args, r.errOut)
		lines := benchLines(t, r.out)
		require.Len(t, lines, 2, "%v", c.args)
		for _, line := range lines {
			require.Equal(t, c.args[0], line.Part)
			require.Equal(t, numbers, line.Parameters, "%v", c.args)
			require.Equal(t, 1, line.Threads)
			require.Positive(t, line.Seconds, "%v", c.args)
			require.Greater(t, line.PeakRSS, int64(10<<20), "%v: libtorch alone takes more", c.args)
			c.check(line)
		}
	}
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left, "what open wrote is gone")
}

func TestBenchPrintsASummary(t *testing.T) {
	torchtest.Require(t)
	r := lntorch(t, "bench", "masks", "--network", "phantom", "--repeats", "3")
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `^masks, phantom: median \S+s, \S+s to \S+s in 3 repeats; \d+ threads, libtorch \S+ with \S+ kernels, peak memory 0\.\d\d GiB\n$`, r.out)
}

func TestBenchRepeatsWhenTold(t *testing.T) {
	torchtest.Require(t)
	cmd := command(t, "bench", "masks", "--network", "phantom", "--serve")
	cmd.Stdin = strings.NewReader("\n\n")
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	lines := benchLines(t, r.out)
	require.Len(t, lines, 3)
	require.True(t, lines[0].Ready)
	require.Zero(t, lines[0].Seconds)
	for _, line := range lines[1:] {
		require.False(t, line.Ready)
		require.Positive(t, line.Seconds)
	}
}

func TestBenchFirstEndsAfterTheFirstIteration(t *testing.T) {
	torchtest.Require(t)
	tmp := t.TempDir()
	cmd := command(t, "bench", "first", "--preprocessed", repo(t, "testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget"), "--plans", "nnUNetPlansSource",
		"--configuration", "3d_phantom", "--patch-size", "8,16,16", "--checkpoint", repo(t, foundation+"/fold_0/checkpoint_final.pth"))
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `^\{"note":"loss \d\.\d+.*","part":"first"\}\n$`, r.out)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestBenchTileEndsAfterTheFirstTile(t *testing.T) {
	torchtest.Require(t)
	tmp := t.TempDir()
	cmd := command(t, "bench", "tile", "--model", repo(t, foundation), "--device", "cpu",
		"--input", repo(t, "testdata/phantom-demo/raw/Dataset102_PhantomTarget/imagesTs"))
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `^\{"note":".*","part":"tile"\}\n$`, r.out)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)
}

// Logits that rise along z from -1 to 1 and fall back: the image is foreground where they are above
// those of the background, 0.
func TestBenchExportWritesWhatPredictionWrites(t *testing.T) {
	raw := "testdata/phantom-demo/raw/Dataset102_PhantomTarget/labelsTr/LN_000.nii.gz"
	folder := t.TempDir()
	const depth, plane = 199, 128 * 128 // two slabs
	b := make([]byte, 4*depth*plane)    // of the background
	for z := range depth {
		v := 1 - math.Abs(float64(z-depth/2))/50
		for range plane {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
		}
	}
	logits := filepath.Join(folder, "logits")
	require.NoError(t, os.WriteFile(logits, b, 0o666))
	r := lntorch(t, "bench", "export", "--model", repo(t, foundation), "--logits", logits, "--image", "199,128,128",
		"--properties", repo(t, "testdata/phantom-demo/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource_3d_fullres/LN_000.pkl"),
		"-o", filepath.Join(folder, "case"), "--save-probabilities")
	require.Equal(t, 0, r.code, r.errOut)
	line := benchLines(t, r.out)
	require.Len(t, line, 1)
	require.Equal(t, "export", line[0].Part)
	require.Positive(t, line[0].Seconds)
	reader, err := images.ForName("SimpleITKIO")
	require.NoError(t, err)
	want, _, err := reader.ReadSeg(repo(t, raw))
	require.NoError(t, err)
	got, _, err := reader.ReadSeg(filepath.Join(folder, "case.nii.gz"))
	require.NoError(t, err)
	require.Equal(t, want.Shape, got.Shape)
	require.Equal(t, want.Geometry, got.Geometry)
	// Sample z of n lies at (z+½)·9/n - ½ of the logits, which are above 0 within 50 of the middle.
	labels := volume.Cast[uint8](got.Pixels)
	n, size := got.Shape[1], got.Shape[2]*got.Shape[3]
	for z := range n {
		inside := math.Abs((float64(z)+0.5)*depth/float64(n)-0.5-depth/2) < 50
		require.Equal(t, inside, labels[z*size] == 1, "slice %d of %d", z, n)
		require.Equal(t, labels[z*size], labels[(z+1)*size-1])
	}
	file, err := npz.OpenNpz(filepath.Join(folder, "case.npz"))
	require.NoError(t, err)
	defer file.Close()
	shape, _, err := file.Shape("probabilities")
	require.NoError(t, err)
	require.Equal(t, []int{2, n, got.Shape[2], got.Shape[3]}, shape)
	require.FileExists(t, filepath.Join(folder, "case.pkl"))
}

func TestBenchErrors(t *testing.T) {
	sizes, _ := bench.Sizes()
	require.Subset(t, sizes, []string{"full", "mid", "phantom", "resenc", "resencl", "swinunetr", "swinunetrv2"})
	torchtest.Require(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"stepp"}, 2, "expected step, update, masks, open, window, first, tile or export"},
		{[]string{"step", "--network", "big"}, 2, `--network "big": expected one of ` + strings.Join(sizes, ", ")},
		{[]string{"step", "--network", "phantom", "--patch-size", "8,17,16"}, 2, "not divisible"},
		{[]string{"step", "--amp", "fp16"}, 2, "--amp fp16 needs a CUDA device"},
		{[]string{"step", "--network", "phantom", "--steps", "0"}, 2, "--steps: found"},
		{[]string{"step", "--method", "full", "--dgst-k", "1"}, 2, "belongs to method dgst"},
		{[]string{"masks", "--network", "phantom", "--method", "full"}, 2, "chooses no entries"},
		{[]string{"masks", "--network", "phantom", "--repeats", "0"}, 2, "--repeats: found"},
		{[]string{"window", "--network", "phantom", "--image", "12,24"}, 2, "expected z,y,x"},
		{[]string{"open", "--network", "phantom", "--checkpoint", "/nowhere.pth"}, 1, "/nowhere.pth"},
		{[]string{"window", "--network", "phantom", "--mirror", "3"}, 1, "mirror axes [3]"},
		{[]string{"first"}, 2, "first needs --preprocessed"},
		{[]string{"tile"}, 2, "tile needs --model and --input"},
		{[]string{"export"}, 2, "export needs --model, --logits"},
		{[]string{"export", "--model", repo(t, foundation), "--logits", "/nowhere", "--image", "4,4,4", "-o", "x", "--properties",
			repo(t, "testdata/phantom-demo/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource_3d_fullres/LN_000.pkl")}, 1, "/nowhere"},
		{[]string{"first", "--preprocessed", "/nowhere"}, 1, "/nowhere"},
	} {
		r := lntorch(t, append([]string{"bench"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.errOut)
		require.Contains(t, r.errOut, c.want, "%v", c.args)
		require.Empty(t, r.out, "%v", c.args)
	}
}

// scripts/bench.py itself fails when the two sides differ in libtorch, network, entries or patches.
func TestLiveBenchComparesEqualWork(t *testing.T) {
	torchtest.Require(t)
	python := golden.Python(t)
	bin, err := build()
	require.NoError(t, err)
	page := filepath.Join(t.TempDir(), "page.md")
	cmd := exec.Command(python, repo(t, "scripts/bench.py"), "--quick", "--repeats", "1", "--threads", "2", "--parts", "masks", "step", "window", "export",
		"--lntorch", bin, "--out", page)
	cmd.Env = append(os.Environ(), "LNTORCH_LIB="+repo(t, "build/lib/liblntorch.so"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	for _, who := range []string{"torch.topk loop", "released loop", "PyTorch eager", "PyTorch eager, channels-last", "nnUNetPredictor", "nnU-Net"} {
		require.Contains(t, string(text), "| "+who+" |")
	}
	var figures struct {
		Rows []struct {
			Who     string
			Seconds []float64
		}
	}
	b, err := os.ReadFile(strings.TrimSuffix(page, ".md") + ".json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &figures))
	for _, row := range figures.Rows {
		require.Len(t, row.Seconds, 1, row.Who)
		require.Positive(t, row.Seconds[0], row.Who)
	}
}

// loaderResult is what `bench loader --json` prints.
type loaderResult struct {
	Patches    int
	Seconds    float64
	Rate       float64 `json:"patches_per_second"`
	Wait       float64 `json:"wait_share"`
	Workers    int
	Busy       float64            `json:"busy_share"`
	Queue      map[string]int     `json:"queue_depth"`
	PerPatch   map[string]float64 `json:"per_patch_ms"`
	CPU        float64            `json:"cpu_ms_per_patch"`
	Transforms map[string]float64 `json:"transforms_ms"`
	StepMS     float64            `json:"step_ms"`
	BatchMS    float64            `json:"batch_ms"`
	Expected   *bool              `json:"wait_expected"`
	PatchSize  []int              `json:"patch_size"`
	BatchSize  int                `json:"batch_size"`
}

func TestBenchLoaderTakesBatches(t *testing.T) {
	data := repo(t, "testdata/phantom-demo/preprocessed/Dataset102_PhantomTarget")
	loader := func(more ...string) string {
		r := lntorch(t, append([]string{"bench", "loader", "--preprocessed", data, "--plans", "nnUNetPlansSource",
			"-c", "3d_phantom", "--iterations", "12", "--warmup", "2"}, more...)...)
		require.Equal(t, 0, r.code, r.errOut)
		return r.out
	}
	parse := func(out string) (r loaderResult) {
		require.NoError(t, json.Unmarshal([]byte(out), &r), out)
		require.Equal(t, 12*r.BatchSize, r.Patches)
		require.InEpsilon(t, float64(r.Patches)/r.Seconds, r.Rate, 1e-9)
		require.InEpsilon(t, (r.PerPatch["read"]+r.PerPatch["augment"]+r.PerPatch["targets"])*
			float64(r.BatchSize)/float64(r.Workers), r.BatchMS, 1e-9)
		require.Positive(t, r.CPU)
		require.Positive(t, r.PerPatch["augment"])
		require.LessOrEqual(t, r.Queue["min"], r.Queue["median"])
		require.Positive(t, r.Busy)
		return r
	}
	r := parse(loader("--json", "--workers", "1"))
	require.Equal(t, []int{24, 64, 64}, r.PatchSize)
	require.Equal(t, []int{1, 2}, []int{r.Workers, r.BatchSize})
	require.Greater(t, r.Wait, 0.9, "the consumer does nothing but wait")
	require.Nil(t, r.Expected)
	require.Contains(t, r.Transforms, "SpatialTransform")

	r = parse(loader("--json", "--workers", "2", "--threads", "2", "--patch-size", "16,32,32", "--batch-size", "3",
		"--augmentation", "mirror", "--step-ms", "40", "--seed", "4"))
	require.Equal(t, []int{16, 32, 32}, r.PatchSize)
	require.Equal(t, []int{2, 3}, []int{r.Workers, r.BatchSize})
	require.GreaterOrEqual(t, r.Seconds, 12*0.040)
	require.InDelta(t, r.Seconds, 12*0.040/(1-r.Wait), 0.2*r.Seconds, "the rest of the time is waiting")
	require.Equal(t, 40.0, r.StepMS)
	require.Equal(t, r.BatchMS > 40, *r.Expected)
	require.Contains(t, r.Transforms, "MirrorTransform")
	require.NotContains(t, r.Transforms, "GaussianNoiseTransform")

	out := loader("--workers", "2", "--step-ms", "30")
	require.Regexp(t, `^24 patches of 24×64×64 in \S+ s, augmentation nnunet: \S+ a second; 2 workers on \d+ cores?, \d+ % busy
waited for data \S+ % of the time; batches ready when one was taken: median \d, least \d
a patch: \S+ ms of a worker \(read \S+, augment \S+, targets \S+\), \S+ ms of processor time
`, out)
	require.Regexp(t, `\na batch: \S+ ms × 2 patches ÷ 2 workers = \S+ ms, (less|more) than the 30 ms of a step\n$`, out)

	r2 := lntorch(t, "bench", "loader")
	require.Equal(t, 2, r2.code)
	require.Contains(t, r2.errOut, "--preprocessed is not given")
	r2 = lntorch(t, "bench", "loader", "--preprocessed", t.TempDir())
	require.Equal(t, 1, r2.code)
	require.Contains(t, r2.errOut, "nnUNetPlans.json")
}

func TestBenchTransformsAppliesASpec(t *testing.T) {
	folder := t.TempDir()
	file := func(name string) string { return filepath.Join(folder, name) }
	save := func(name string, a *npz.Array, err error) {
		require.NoError(t, err)
		f, err := os.Create(file(name))
		require.NoError(t, err)
		require.NoError(t, npz.WriteNpy(f, a))
		require.NoError(t, f.Close())
	}
	a, err := npz.New(make([]float32, 2*4*5*6), 2, 4, 5, 6)
	save("data.npy", a, err)
	a, err = npz.New(make([]int16, 4*5*6), 1, 4, 5, 6)
	save("seg.npy", a, err)
	a, err = npz.New(make([]int16, 4*5*7), 1, 4, 5, 7)
	save("other.npy", a, err)
	require.NoError(t, os.WriteFile(file("spec.json"), []byte(`{"transforms":[{"transform":"MirrorTransform","axes":[0,2]}]}`), 0o600))
	require.NoError(t, os.WriteFile(file("wrong.json"), []byte(`{"transforms":[{"transform":"MirrorTransform","axes":[3]}]}`), 0o600))
	r := lntorch(t, "bench", "transforms", file("spec.json"), "--data", file("data.npy"), "--seg", file("seg.npy"), "--repeats", "3", "--each", "2")
	require.Equal(t, 0, r.code, r.errOut)
	lines := benchLines(t, r.out)
	require.Len(t, lines, 3)
	for _, line := range lines {
		require.Equal(t, "transforms", line.Part)
		require.Positive(t, line.Seconds)
	}
	for _, c := range []struct{ spec, seg, want string }{
		{"wrong.json", "seg.npy", "axes"},
		{"spec.json", "other.npy", "expected (1,z,y,x) with the axes of"},
		{"spec.json", "data.npy", "data.npy"},
		{"missing.json", "seg.npy", "missing.json"},
	} {
		r := lntorch(t, "bench", "transforms", file(c.spec), "--data", file("data.npy"), "--seg", file(c.seg))
		require.Equal(t, 1, r.code)
		require.Contains(t, r.errOut, c.want)
	}
}

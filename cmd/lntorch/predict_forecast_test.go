package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/volume"
)

// plannedCases runs predict --dry-run --json.
func plannedCases(t *testing.T, r result) map[string]pipeline.Prediction {
	t.Helper()
	var list []pipeline.Prediction
	require.NoError(t, json.Unmarshal([]byte(r.out), &list))
	cases := map[string]pipeline.Prediction{}
	for _, c := range list {
		cases[c.Case] = c
	}
	return cases
}

// A dry run reads headers only, says what a run does then, and writes nothing.
func TestDryRunForecastsAndWritesNothing(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	in, out := filepath.Join(root, "in"), filepath.Join(root, "out")
	require.NoError(t, os.Mkdir(in, 0o755))
	whole, err := os.ReadFile(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	put := func(name string, content []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(in, name), content, 0o644))
	}
	put("a_0000.nii.gz", whole)
	put("cut_0000.nii.gz", whole[:len(whole)/2]) // its header is there
	r := predict(t, in, out, "-m", repo(t, sourceModel), "--dry-run", "--json")
	require.Equal(t, 0, r.code, r.errOut)
	require.NoDirExists(t, out)
	require.Regexp(t, `forecast: 2 cases, 36 tiles, 36 passes of the network, [\d.]+m?s each: about \d+ s`, r.errOut)
	require.Regexp(t, `needs about \d+ MiB of memory, at most 177 KiB on disk`, r.errOut)
	planned := plannedCases(t, r)
	for _, name := range []string{"a", "cut"} {
		c := planned[name]
		require.Equal(t, "planned", c.Status)
		require.Equal(t, filepath.Join(out, name+".nii.gz"), c.Output)
		require.Equal(t, [3]int{23, 68, 58}, c.Forecast.Size)
		require.InDelta(t, 1.755, c.Forecast.Spacing[2], 1e-6)
		require.Equal(t, [3]int{28, 81, 69}, c.Forecast.Grid, "as nnU-Net's preprocessing makes it")
		require.Positive(t, c.Forecast.Seconds)
		require.Equal(t, 1, c.Strips)
	}
	r = predict(t, in, out, "-m", repo(t, sourceModel), "--dry-run")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, filepath.Join(out, "a.nii.gz")+"  58×68×23 at 1.75×1.75×3 mm  18 tiles, 18 passes  4.1 MiB  ")

	// Probabilities: 8 bytes a voxel in each .npz, and in the temporary files of the case in the network
	// and the one being written.
	r = predict(t, in, out, "-m", repo(t, sourceModel), "--dry-run", "--save_probabilities")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "at most 2.9 MiB on disk")
	// --skip-air=check runs the network twice.
	r = predict(t, in, out, "-m", repo(t, sourceModel), "--dry-run", "--skip-air=check")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "36 tiles, 72 passes of the network")

	// What cannot be read, or is done, is said; nothing in the folder changes.
	require.NoError(t, os.Remove(filepath.Join(in, "cut_0000.nii.gz")))
	real := predict(t, in, out, "-m", repo(t, sourceModel))
	require.Equal(t, 0, real.code, real.errOut)
	require.Contains(t, real.errOut, "forecast: 1 case, 18 tiles, 18 passes")
	ran := readRun(t, filepath.Join(out, "run.json")).Cases[0]
	require.Equal(t, planned["a"].Tiles, ran.Tiles)
	require.Equal(t, planned["a"].Forecast.Grid, ran.Forecast.Grid)
	require.Equal(t, planned["a"].Forecast.Bytes, ran.Forecast.Bytes)
	// Both are mostly libtorch, and the forecast of it.
	forecast := memoryForecast(t, real.errOut)
	require.InDelta(t, float64(ran.PeakBytes), forecast, 0.5*forecast)
	before := listing(t, root)
	put("b_0000.nii.gz", []byte("no image"))
	put("c_0000.nii.gz", whole)
	put("d.nii.gz", whole)
	r = predict(t, in, out, "-m", repo(t, sourceModel), "--dry-run", "--json", "--continue_prediction")
	require.Equal(t, 1, r.code, r.errOut)
	for _, name := range []string{"b_0000.nii.gz", "c_0000.nii.gz", "d.nii.gz"} {
		require.NoError(t, os.Remove(filepath.Join(in, name)))
	}
	require.Equal(t, before, listing(t, root))
	planned = plannedCases(t, r)
	require.Equal(t, "skipped", planned["a"].Status)
	require.Equal(t, "failed", planned["b"].Status)
	require.Equal(t, "planned", planned["c"].Status)
	require.Equal(t, "failed", planned["d"].Status)
	require.Contains(t, r.errOut, "PROBLEM case b: "+filepath.Join(in, "b_0000.nii.gz"))
	require.Contains(t, r.errOut, "2 of 4 cases failed: ")
}

func memoryForecast(t *testing.T, errOut string) float64 {
	t.Helper()
	found := regexp.MustCompile(`needs about (\d+) MiB of memory`).FindStringSubmatch(errOut)
	require.NotNil(t, found, errOut)
	n, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	return float64(n) * (1 << 20)
}

// listing is every file below a folder with its content.
func listing(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	}))
	return files
}

// fourFolds copies phantom-mini's model and gives it a fold_1 of other weights, and copies of both.
func fourFolds(t *testing.T, folder string) {
	t.Helper()
	require.NoError(t, os.CopyFS(folder, os.DirFS(repo(t, sourceModel))))
	f, err := checkpoint.Open(sourceCheckpoint(t))
	require.NoError(t, err)
	defer f.Close()
	edit := checkpoint.NewEdit(f, models.Canonical)
	const name = "encoder.stages.0.0.convs.0.conv.weight"
	w := edit.Tensor(name)
	raw := make([]byte, w.Bytes())
	require.NoError(t, w.ReadInto(raw))
	values := make([]float32, w.Numel())
	require.NoError(t, binary.Read(bytes.NewReader(raw), binary.LittleEndian, values))
	for i := range values {
		values[i] *= 1 + float32(i%3)/2 // not evenly: norms follow
	}
	tensor, err := checkpoint.NewFloat32(values, w.Size)
	require.NoError(t, err)
	require.NoError(t, edit.Replace(name, tensor))
	require.NoError(t, os.Mkdir(filepath.Join(folder, "fold_1"), 0o755))
	require.NoError(t, edit.Save(filepath.Join(folder, "fold_1", "checkpoint_final.pth"), ""))
	for i := 2; i < 4; i++ {
		from := filepath.Join(folder, fmt.Sprintf("fold_%d", i%2))
		require.NoError(t, os.CopyFS(filepath.Join(folder, fmt.Sprintf("fold_%d", i)), os.DirFS(from)))
	}
}

// A limit of memory cuts planes into strips, or loads folds in turn; both are said, and change
// nothing in what comes out.
func TestPredictKeepsToItsMemory(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model := filepath.Join(root, "nnUNetTrainer__nnUNetPlans__3d_phantom")
	fourFolds(t, model)
	scan := repo(t, targetScans+"/LN_004_0000.nii.gz")
	segment := func(name string, more ...string) (result, pipeline.Prediction, []float32) {
		out := filepath.Join(root, name)
		r := predict(t, scan, out, append(more, "-m", model, "--save_probabilities")...)
		require.Equal(t, 0, r.code, r.errOut)
		_, v := probabilities(t, filepath.Join(out, "LN_004.npz"))
		return r, readRun(t, filepath.Join(out, "run.json")).Cases[0], v
	}
	r, c, want := segment("free")
	require.NotContains(t, r.errOut, "one fold is in memory")
	require.Equal(t, 18, c.Tiles)
	require.Equal(t, 1, c.Strips)
	require.Zero(t, c.Repeated)
	_, _, first := segment("first", "-f", "0")
	require.Greater(t, distanceOf(want, first), 1e-3, "the folds differ")

	r, c, got := segment("reloaded", "--max-ram", "0.004")
	require.Regexp(t, `weights of 4 folds take 5\.\d MiB, more than --max-ram \(4\.1 MiB\) allows: one fold is in memory at a time, loaded 10 times`, r.errOut)
	require.Equal(t, 1, c.Strips)
	require.True(t, slices.Equal(want, got), "the same bits")

	r, c, got = segment("strips", "--max-ram", "0.0025")
	require.Greater(t, c.Strips, 1)
	require.Positive(t, c.Repeated)
	require.Equal(t, 18+c.Repeated, c.Tiles)
	require.Contains(t, r.errOut, " of them again at the borders of strips: 1 case in more than one)")
	require.LessOrEqual(t, distanceOf(want, got), 1e-6)

	r = predict(t, scan, filepath.Join(root, "x"), "-m", model, "--max-ram", "0.0001")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "the limit is 0 MiB; raise the limit or close other programs")
	r = predict(t, scan, filepath.Join(root, "y"), "-m", model, "--max-vram", "1")
	require.Equal(t, 0, r.code)
	require.Contains(t, r.errOut, "WARNING: --max-vram has no effect on the CPU")
}

// airScan writes phantom-mini's first scan with n slices of air before and behind it along x.
func airScan(t *testing.T, path string, n int) {
	t.Helper()
	f, err := image.Read(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	size := f.Head().Size
	wide := []int{size[0] + 2*n, size[1], size[2]}
	pixels := make(volume.Slice[int16], wide[0]*wide[1]*wide[2])
	values := volume.Cast[int16](f.Values())
	for i := range pixels {
		x := i%wide[0] - n
		pixels[i] = -1000
		if x >= 0 && x < size[0] {
			pixels[i] = values[i/wide[0]*size[0]+x]
		}
	}
	require.NoError(t, image.Write(path, wide, f.Head().Geometry, pixels, 1))
}

func readLabels(t *testing.T, path string) (size []int, labels []uint8) {
	t.Helper()
	f, err := image.Read(path)
	require.NoError(t, err)
	return f.Head().Size, f.Values().(volume.Slice[uint8])
}

// Tiles of air are left out where that is asked for: those and no others are missing, and check
// counts what they change.
func TestPredictSkipsAir(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	scan := filepath.Join(root, "wide.nii.gz")
	airScan(t, scan, 100)
	segment := func(name string, more ...string) (pipeline.Prediction, []uint8) {
		out := filepath.Join(root, name)
		r := predict(t, scan, out, append(more, "-m", repo(t, sourceModel))...)
		require.Equal(t, 0, r.code, r.errOut)
		size, labels := readLabels(t, filepath.Join(out, "wide.nii.gz"))
		require.Equal(t, []int{258, 68, 23}, size)
		return readRun(t, filepath.Join(out, "run.json")).Cases[0], labels
	}
	r := predict(t, scan, filepath.Join(root, "none"), "--skip-air", "check", "-m", repo(t, sourceModel))
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `"check" follows no flag that takes it`)
	require.Contains(t, r.errOut, "--skip-air=check")
	require.NoDirExists(t, filepath.Join(root, "none"))
	plain, want := segment("plain")
	require.Nil(t, plain.Air)
	skipped, fewer := segment("skipped", "--skip-air")
	// 258 voxels of 1.755 mm become 308 of 1.47 mm: 12 tiles of 48 start 23.6 voxels apart, the scan
	// lies at 119 to 188: of 3×3 in each place along x, at least three places on either side are air.
	require.Equal(t, 12*9, plain.Tiles)
	require.GreaterOrEqual(t, skipped.Air.Tiles, 2*3*9)
	require.Less(t, skipped.Air.Tiles, plain.Tiles-2*9)
	require.Nil(t, skipped.Air.LabelsChanged)
	checked, same := segment("checked", "--skip-air=check")
	require.Equal(t, want, same, "the files are those of all tiles")
	require.Equal(t, skipped.Air.Tiles, checked.Air.Tiles)
	changed, inside, found := int64(0), 0, 0
	for i := range want {
		x := i % 258
		if want[i] != fewer[i] {
			changed++
			if x >= 100 && x < 158 {
				inside++
			}
		}
		if x >= 100 && x < 158 && want[i] == 1 {
			found++
		}
		if x < 40 || x >= 218 {
			require.Zero(t, fewer[i], "background where only air was left out")
		}
	}
	require.Equal(t, changed, *checked.Air.LabelsChanged)
	require.LessOrEqual(t, inside, found/100, "what changes is what the network finds in air")
	t.Logf("%d of %d tiles skipped, %d labels changed, %d of them in the scan, which has %d", skipped.Air.Tiles, plain.Tiles, changed, inside, found)

	// Nothing is known of air where intensities are not HU.
	model := filepath.Join(root, "model", filepath.Base(sourceModel))
	require.NoError(t, os.CopyFS(model, os.DirFS(repo(t, sourceModel))))
	b, err := os.ReadFile(filepath.Join(model, "plans.json"))
	require.NoError(t, err)
	b = bytes.ReplaceAll(b, []byte("CTNormalization"), []byte("ZScoreNormalization"))
	require.NoError(t, os.WriteFile(filepath.Join(model, "plans.json"), b, 0o644))
	r = predict(t, scan, filepath.Join(root, "x"), "-m", model, "--skip-air")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "--skip-air: channel 0 (CT) of this model is normalised by ZScoreNormalization, expected CTNormalization")
	r = predict(t, scan, filepath.Join(root, "x"), "-m", model, "--skip-air=maybe")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `found "maybe", expected on or check`)
}

// turned writes an LPS image as one whose axes lead to S, R and A, as a program would that stores
// sagittal slices: x' = z, y' = -x, z' = -y.
func turned(t *testing.T, from, to string) {
	t.Helper()
	f, err := image.Read(from)
	require.NoError(t, err)
	size, g := f.Head().Size, f.Head().Geometry
	require.Equal(t, []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}, g.Direction)
	stored := volume.Cast[int16](f.Values())
	out := make(volume.Slice[int16], len(stored))
	n := []int{size[2], size[0], size[1]}
	for z := range n[2] {
		for y := range n[1] {
			for x := range n[0] {
				out[(z*n[1]+y)*n[0]+x] = stored[(x*size[1]+size[1]-1-z)*size[0]+size[0]-1-y]
			}
		}
	}
	s := g.Spacing
	geometry := &volume.ITK{Spacing: []float64{s[2], s[0], s[1]},
		Origin: []float64{g.Origin[0] + s[0]*float64(size[0]-1), g.Origin[1] + s[1]*float64(size[1]-1), g.Origin[2]},
		// Columns: S is +z, R is -x, A is -y of LPS.
		Direction: []float64{0, -1, 0, 0, 0, -1, 1, 0, 0}}
	require.NoError(t, image.Write(to, n, geometry, out, 1))
}

// An image whose axes run unlike the training images' is warned of; --reorient turns it there, and
// its labels back onto its own grid.
func TestPredictReorients(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	r := lntorch(t, trainArgs(t, root, "-pretrained_weights", sourceCheckpoint(t), "-tr", "nnUNetTrainer_DGST")...)
	require.Equal(t, 0, r.code, r.errOut)
	fold := foldOf(root, "nnUNetTrainer_DGST")
	b, err := os.ReadFile(filepath.Join(fold, "run.json"))
	require.NoError(t, err)
	var run struct {
		Cases struct{ Train []string }
		Data  struct{ Orientations map[string]int }
	}
	require.NoError(t, json.Unmarshal(b, &run))
	require.Equal(t, map[string]int{"LPS": len(run.Cases.Train)}, run.Data.Orientations)

	straight := repo(t, targetScans+"/LN_004_0000.nii.gz")
	sra := filepath.Join(root, "sra.nii.gz")
	turned(t, straight, sra)
	segment := func(name, scan string, more ...string) (result, string, pipeline.Prediction) {
		out := filepath.Join(root, name)
		r := predict(t, scan, out, append(more, "-m", fold)...)
		require.Equal(t, 0, r.code, r.errOut)
		c := readRun(t, filepath.Join(out, "run.json")).Cases[0]
		return r, c.Output, c
	}
	_, want, c := segment("straight", straight)
	require.Equal(t, "LPS", c.Orientation)
	require.Empty(t, c.Warnings)
	r, unturned, c := segment("unturned", sra)
	require.Contains(t, r.errOut, "WARNING: case sra: orientation SRA; the training images have LPS (")
	require.Len(t, c.Warnings, 1)
	expected := filepath.Join(root, "expected.nii.gz")
	turned(t, want, expected)
	_, as, _ := segment("as", straight, "--reorient")
	requireSegmentation(t, want, as)
	for i, more := range [][]string{{"--reorient"}, {"--reorient=LPS"}} {
		r, got, c := segment("turned"+strconv.Itoa(i), sra, more...)
		require.NotContains(t, r.errOut, "WARNING")
		require.Equal(t, "SRA", c.Orientation)
		require.Equal(t, "LPS", c.TurnedTo)
		_, a := readLabels(t, got)
		f, err := image.Read(expected)
		require.NoError(t, err)
		require.Equal(t, volume.Cast[uint8](f.Values()), a)
		in, err := image.Header(sra)
		require.NoError(t, err)
		out, err := image.Header(got)
		require.NoError(t, err)
		require.Equal(t, in.Size, out.Size)
		require.Equal(t, in.Geometry, out.Geometry)
		_, other := readLabels(t, unturned)
		require.NotEqual(t, a, other, "it matters")
	}
	r = predict(t, sra, filepath.Join(root, "dry"), "-m", fold, "--reorient", "--dry-run", "--json")
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, [3]int{28, 81, 69}, plannedCases(t, r)["sra"].Forecast.Grid)

	// A reader that turns images itself needs no help, and its forecast is of the turned image.
	nibabel := filepath.Join(root, "nibabel", filepath.Base(sourceModel))
	require.NoError(t, os.CopyFS(nibabel, os.DirFS(repo(t, sourceModel))))
	b, err = os.ReadFile(filepath.Join(nibabel, "plans.json"))
	require.NoError(t, err)
	b = bytes.ReplaceAll(b, []byte(`"SimpleITKIO"`), []byte(`"NibabelIOWithReorient"`))
	require.NoError(t, os.WriteFile(filepath.Join(nibabel, "plans.json"), b, 0o644))
	r = predict(t, sra, filepath.Join(root, "dry"), "-m", nibabel, "--reorient=LPS", "--dry-run", "--json")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "WARNING: --reorient: the model's NibabelIOWithReorient turns every image to RAS itself")
	require.Equal(t, [3]int{23, 68, 58}, plannedCases(t, r)["sra"].Forecast.Size)
	require.Equal(t, [3]int{28, 81, 69}, plannedCases(t, r)["sra"].Forecast.Grid)
	r = predict(t, sra, filepath.Join(root, "dry"), "-m", repo(t, sourceModel), "--dry-run", "--json")
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, [3]int{68, 58, 23}, plannedCases(t, r)["sra"].Forecast.Size)

	for want, args := range map[string][]string{
		"--reorient: no run.json of lntorch train beside ":                          {"-m", repo(t, sourceModel), "--reorient"},
		`--reorient: orientation "LLS": expected three letters, one each of R or L`: {"-m", fold, "--reorient=LLS"},
		"--reorient and --save_probabilities are both given":                        {"-m", fold, "--reorient", "--save_probabilities"},
	} {
		r := predict(t, sra, filepath.Join(root, "x"), args...)
		require.Equal(t, 2, r.code)
		require.Contains(t, r.errOut, want)
	}
}

// Each key of the contract is in run.json.
func TestPredictRecordsTheRun(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	out := filepath.Join(root, "out")
	r := predict(t, repo(t, targetScans+"/LN_004_0000.nii.gz"), out, "-m", repo(t, sourceModel))
	require.Equal(t, 0, r.code, r.errOut)
	v, err := plans.ReadJSON(filepath.Join(out, "run.json"))
	require.NoError(t, err)
	run := v.(*plans.Object)
	keys := func(v any) []string { return slices.Sorted(slices.Values(v.(*plans.Object).Keys())) }
	require.Equal(t, strings.Fields("cases command memory pass_ms reloaded settings started versions weights written"), keys(run))
	list, _ := run.Get("cases")
	c := list.([]any)[0].(*plans.Object)
	require.Equal(t, strings.Fields("case error forecast labels output peak_bytes seconds status strips tiles tiles_repeated warnings"), keys(c))
	for key, want := range map[string]string{
		"forecast": "bytes disk_bytes grid passes seconds size spacing_mm",
		"seconds":  "export network preprocess read",
		"labels":   "1",
	} {
		v, _ := c.Get(key)
		require.Equal(t, strings.Fields(want), keys(v), key)
	}
	labels, _ := c.Get("labels")
	one, _ := labels.(*plans.Object).Get("1")
	require.Equal(t, strings.Fields("components mm3 name voxels"), keys(one))
	weights, _ := run.Get("weights")
	sum, _ := weights.(*plans.Object).Get("0")
	require.Equal(t, sumOf(t, sourceCheckpoint(t)), sum)
	settings, _ := run.Get("settings")
	for _, name := range []string{"step_size", "max_ram", "max_vram", "skip_air", "reorient", "numerics", "threads"} {
		_, ok := settings.(*plans.Object).Get(name)
		require.True(t, ok, name)
	}
	memory, _ := run.Get("memory")
	require.Equal(t, []string{"forecast_bytes", "limit_bytes"}, keys(memory))
	pass, _ := run.Get("pass_ms")
	require.NotNil(t, pass)
	require.False(t, math.IsNaN(readRun(t, filepath.Join(out, "run.json")).Cases[0].Seconds.Network))
}

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/volume"
)

const (
	targetScans = "testdata/phantom-mini/raw/Dataset102_PhantomTarget/imagesTs"
	predictions = "testdata/phantom-mini/predictions"
)

// requireSegmentation compares a segmentation with one that nnU-Net wrote: labels, type, geometry.
func requireSegmentation(t *testing.T, want, got string) {
	t.Helper()
	reader, err := images.ForName("SimpleITKIO")
	require.NoError(t, err)
	a, theirs, err := reader.ReadSeg(want)
	require.NoError(t, err)
	b, ours, err := reader.ReadSeg(got)
	require.NoError(t, err)
	require.Equal(t, theirs, ours, "geometry of %s", got)
	require.Equal(t, a.Shape, b.Shape)
	require.Equal(t, a.Pixels.Type(), b.Pixels.Type())
	different := 0
	x, y := volume.Cast[int32](a.Pixels), volume.Cast[int32](b.Pixels)
	for i := range x {
		if x[i] != y[i] {
			different++
		}
	}
	require.Zero(t, different, "voxels of %s whose label is not nnU-Net's", got)
}

// predict runs the command on cases of phantom-mini without mirroring, which is slow.
func predict(t *testing.T, in, out string, more ...string) result {
	t.Helper()
	return lntorch(t, append([]string{"predict", "-i", in, "-o", out, "--disable_tta", "-device", "cpu"}, more...)...)
}

func probabilities(t *testing.T, path string) (shape []int, values []float32) {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, []string{"probabilities"}, f.Names())
	return golden.Float32s(t, f, "probabilities")
}

// predictionRun is what the tests look at of run.json.
type predictionRun struct {
	Command string
	Weights map[string]string
	Cases   []pipeline.Prediction
}

func readRun(t *testing.T, path string) (r predictionRun) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &r))
	return r
}

// With nnU-Net's flags come nnU-Net's files, both numerics: every voxel, the geometry, the
// probabilities, the properties, and the three JSON files.
func TestPredictMakesNnUNetsFiles(t *testing.T) {
	torchtest.Require(t)
	for _, numerics := range []string{"fast", "reference"} {
		for _, folder := range []string{"source_notta", "source_tta"} {
			mirrored := folder == "source_tta"
			if mirrored && testing.Short() {
				continue
			}
			out := filepath.Join(t.TempDir(), "made", "here")
			args := []string{"predict", "-i", repo(t, targetScans), "-o", out, "-d", "101", "-c", "3d_phantom", "-tr", "nnUNetTrainer",
				"-p", "nnUNetPlans", "-f", "0", "-chk", "checkpoint_final.pth", "-npp", "1", "-nps", "1", "-step_size", "0.5",
				"-num_parts", "1", "-part_id", "0", "-device", "cpu", "--verbose", "--disable_progress_bar",
				"--results", repo(t, "testdata/phantom-mini/results"), "--numerics", numerics}
			if !mirrored {
				args = append(args, "--disable_tta", "--save_probabilities")
			}
			r := lntorch(t, args...)
			require.Equal(t, 0, r.code, r.errOut)
			require.Len(t, strings.Split(strings.TrimSpace(r.out), "\n"), 2, r.out)
			require.Contains(t, r.out, filepath.Join(out, "LN_005.nii.gz")+"  lymph_node ")
			for _, name := range []string{"LN_004.nii.gz", "LN_005.nii.gz"} {
				requireSegmentation(t, repo(t, filepath.Join(predictions, folder, name)), filepath.Join(out, name))
			}
			for _, name := range []string{"dataset.json", "plans.json"} {
				requireSameFile(t, repo(t, filepath.Join(predictions, folder, name)), filepath.Join(out, name))
			}
			var keys [2][]string
			var saved [2]any
			for i, dir := range []string{repo(t, filepath.Join(predictions, folder)), out} {
				v, err := plans.ReadJSON(filepath.Join(dir, "predict_from_raw_data_args.json"))
				require.NoError(t, err)
				keys[i] = v.(*plans.Object).Keys()
				saved[i], _ = v.(*plans.Object).Get("save_probabilities")
			}
			require.Equal(t, keys[0], keys[1])
			require.Equal(t, saved[0], saved[1])

			run := readRun(t, filepath.Join(out, "run.json"))
			require.Equal(t, "predict", run.Command)
			require.Equal(t, map[string]string{"0": sumOf(t, repo(t, sourceModel+"/fold_0/checkpoint_final.pth"))}, run.Weights)
			require.Len(t, run.Cases, 2)
			require.Equal(t, "ok", run.Cases[0].Status)
			require.Positive(t, run.Cases[0].Tiles)
			require.Positive(t, run.Cases[0].Seconds.Network)
			require.Positive(t, run.Cases[0].PeakBytes)
			count := run.Cases[0].Labels["1"]
			require.Equal(t, "lymph_node", count.Name)
			require.Greater(t, count.Voxels, int64(200))
			require.Equal(t, map[bool]int{false: 37, true: 35}[mirrored], count.Components, "as scipy.ndimage.label counts in nnU-Net's file")
			require.InDelta(t, float64(count.Voxels)*3*1.755*1.755, count.MM3, 0.01)
			if mirrored {
				require.NoFileExists(t, filepath.Join(out, "LN_004.npz"))
				continue
			}
			shape, want := probabilities(t, repo(t, predictions+"/source_notta/LN_004.npz"))
			gotShape, got := probabilities(t, filepath.Join(out, "LN_004.npz"))
			require.Equal(t, shape, gotShape)
			// One step of float16 of a logit is up to 2e-3.
			diff := golden.Compare(shape, want, got, golden.Tolerance{Abs: 2e-3})
			t.Logf("%s: probabilities: %v", numerics, diff)
			require.LessOrEqual(t, diff.Excess, 1.0, "%v", diff)
			theirs, err := pickle.ReadFile(repo(t, predictions+"/source_notta/LN_004.pkl"))
			require.NoError(t, err)
			ours, err := pickle.ReadFile(filepath.Join(out, "LN_004.pkl"))
			require.NoError(t, err)
			require.Equal(t, theirs, ours)
		}
	}
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

func requireSameFile(t *testing.T, want, got string) {
	t.Helper()
	a, err := os.ReadFile(want)
	require.NoError(t, err)
	b, err := os.ReadFile(got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(a, b), "%s is not byte for byte %s", got, want)
}

// The mean of a network and itself is itself. Without -f every fold is taken, fold_all only alone.
func TestPredictAveragesFolds(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model := filepath.Join(root, "nnUNetTrainer__nnUNetPlans__3d_phantom")
	require.NoError(t, os.CopyFS(model, os.DirFS(repo(t, sourceModel))))
	copyFold := func(to string) {
		require.NoError(t, os.CopyFS(filepath.Join(model, to), os.DirFS(repo(t, sourceModel+"/fold_0"))))
	}
	scan := repo(t, targetScans+"/LN_004_0000.nii.gz")
	segment := func(name string, more ...string) (predictionRun, string) {
		out := filepath.Join(root, name)
		args := append([]string{"predict_from_modelfolder", "-i", scan, "-o", out, "-m", model, "--disable_tta", "--save_probabilities"}, more...)
		r := lntorch(t, args...)
		require.Equal(t, 0, r.code, r.errOut)
		return readRun(t, filepath.Join(out, "run.json")), out
	}
	folds := func(r predictionRun) (names []string) {
		for n := range r.Weights {
			names = append(names, n)
		}
		slices.Sort(names)
		return names
	}
	copyFold("fold_1")
	copyFold("fold_all")
	one, first := segment("one", "-f", "0", "--numerics", "reference")
	require.Equal(t, []string{"0"}, folds(one))
	two, second := segment("two", "-f", "0", "1", "--numerics", "reference")
	require.Equal(t, []string{"0", "1"}, folds(two))
	_, want := probabilities(t, filepath.Join(first, "LN_004.npz"))
	shape, got := probabilities(t, filepath.Join(second, "LN_004.npz"))
	require.True(t, slices.Equal(want, got))
	requireSegmentation(t, repo(t, predictions+"/source_notta/LN_004.nii.gz"), filepath.Join(second, "LN_004.nii.gz"))
	every, third := segment("every")
	require.Equal(t, []string{"0", "1"}, folds(every))
	_, got = probabilities(t, filepath.Join(third, "LN_004.npz"))
	// Sums in float32 are of twice as many numbers; the others are rounded to float16.
	diff := golden.Compare(shape, want, got, golden.Tolerance{Abs: 2e-3})
	require.LessOrEqual(t, diff.Excess, 1.0, "%v", diff)

	r := predict(t, scan, filepath.Join(root, "none"), "-m", model, "-f", "3")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "no fold_3/checkpoint_final.pth; the folds with it are 0, 1, all")
	require.NoError(t, os.RemoveAll(filepath.Join(model, "fold_0")))
	require.NoError(t, os.RemoveAll(filepath.Join(model, "fold_1")))
	alone, _ := segment("all")
	require.Equal(t, []string{"all"}, folds(alone))
}

// Somebody with one CT and a checkpoint needs no folder, no number and no renamed file.
func TestPredictTakesOneFileAndOneCheckpoint(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	scan := filepath.Join(root, "my scan.nii")
	require.Equal(t, 0, lntorch(t, "image", "convert", repo(t, targetScans+"/LN_004_0000.nii.gz"), scan).code)
	checkpoint := filepath.Join(root, "weights.pth") // with no model folder around it
	b, err := os.ReadFile(repo(t, sourceModel+"/fold_0/checkpoint_final.pth"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(checkpoint, b, 0o644))
	require.Equal(t, 0, lntorch(t, "convert", checkpoint, "-o", filepath.Join(root, "weights.safetensors")).code)
	want := repo(t, predictions+"/source_notta/LN_004.nii.gz")
	for i, model := range []string{checkpoint, filepath.Join(root, "weights.safetensors"), repo(t, sourceModel+"/fold_0"), repo(t, sourceModel)} {
		out := filepath.Join(root, "out", string('a'+rune(i)))
		r := predict(t, scan, filepath.Join(out, "nodes.nii.gz"), "-m", model)
		require.Equal(t, 0, r.code, r.errOut)
		requireSegmentation(t, want, filepath.Join(out, "nodes.nii.gz"))
		entries, err := os.ReadDir(out)
		require.NoError(t, err)
		require.Len(t, entries, 1, "the file alone")
	}
	out := filepath.Join(root, "folder")
	r := predict(t, scan, out, "-m", checkpoint, "--json")
	require.Equal(t, 0, r.code, r.errOut)
	var cases []pipeline.Prediction
	require.NoError(t, json.Unmarshal([]byte(r.out), &cases))
	require.Equal(t, filepath.Join(out, "my scan.nii"), cases[0].Output, "in the image's own format")
	requireSegmentation(t, want, cases[0].Output)

	r = predict(t, scan, root, "-m", checkpoint)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "the segmentation of "+scan+" would take its place")
}

// An adapter or delta on its base is the model that it was trained to; another base is refused.
func TestPredictPutsAChangeOnItsBase(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	base, scan := sourceCheckpoint(t), repo(t, targetScans+"/LN_004_0000.nii.gz")
	for _, c := range []struct {
		trainer, change string
		args            []string
		limit           float64
	}{
		{"nnUNetTrainer_DGST", "delta.safetensors", []string{"--dgst-mode", "strict", "--lr", "0.01"}, 0},
		{"nnUNetTrainer_lora", "adapter", []string{"--lora-rank", "4", "--lr", "0.01"}, 1e-4},
	} {
		r := lntorch(t, trainArgs(t, root, append(c.args, "-tr", c.trainer, "-pretrained_weights", base)...)...)
		require.Equal(t, 0, r.code, r.errOut)
		fold := foldOf(root, c.trainer)
		segment := func(name string, model ...string) []float32 {
			out := filepath.Join(root, c.trainer, name)
			r := predict(t, scan, out, append(model, "--save_probabilities")...)
			require.Equal(t, 0, r.code, r.errOut)
			_, v := probabilities(t, filepath.Join(out, "LN_004.npz"))
			return v
		}
		want := segment("final", "-m", filepath.Join(fold, "checkpoint_final.pth"))
		got := segment("change", "-m", filepath.Join(fold, c.change), "--base", base)
		before := segment("base", "-m", base)
		require.LessOrEqual(t, distanceOf(want, got), c.limit)
		require.Greater(t, distanceOf(want, before), max(c.limit, 1e-4), "the training changed something")
		require.Len(t, readRun(t, filepath.Join(root, c.trainer, "change", "run.json")).Weights, 2)

		r = predict(t, scan, filepath.Join(root, "x"), "-m", filepath.Join(fold, c.change))
		require.Equal(t, 2, r.code)
		require.Contains(t, r.errOut, "--base is not given")
		r = predict(t, scan, filepath.Join(root, "x"), "-m", filepath.Join(fold, c.change), "--base", filepath.Join(fold, "checkpoint_final.pth"))
		require.Equal(t, 1, r.code)
		require.Contains(t, r.errOut, "was not trained from")
	}
}

// distanceOf is the largest difference of two arrays' values.
func distanceOf(a, b []float32) (most float64) {
	for i := range a {
		most = max(most, math.Abs(float64(a[i])-float64(b[i])))
	}
	return most
}

// cascade makes a model of phantom-mini's whose input has a second channel for the label of a
// previous stage, with the weights of the first channel times factor.
func cascade(t *testing.T, folder string, factor float32) {
	t.Helper()
	require.NoError(t, os.CopyFS(folder, os.DirFS(repo(t, sourceModel))))
	v, err := plans.ReadJSON(filepath.Join(folder, "plans.json"))
	require.NoError(t, err)
	configurations, _ := v.(*plans.Object).Get("configurations")
	own, _ := configurations.(*plans.Object).Get("3d_phantom")
	own.(*plans.Object).Set("previous_stage", "3d_lowres")
	b, err := plans.EncodeJSON(v, 4, false)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "plans.json"), b, 0o644))

	f, err := checkpoint.Open(sourceCheckpoint(t))
	require.NoError(t, err)
	defer f.Close()
	edit := checkpoint.NewEdit(f, models.Canonical)
	const first = "encoder.stages.0.0.convs.0.conv.weight"
	w := edit.Tensor(first)
	require.Equal(t, int64(1), w.Size[1])
	raw := make([]byte, w.Bytes())
	require.NoError(t, w.ReadInto(raw))
	kernel := int(w.Numel() / w.Size[0])
	var wide []float32
	for i := range int(w.Size[0]) {
		own := make([]float32, kernel)
		require.NoError(t, binary.Read(bytes.NewReader(raw[4*i*kernel:]), binary.LittleEndian, own))
		wide = append(wide, own...)
		for _, x := range own {
			wide = append(wide, factor*x)
		}
	}
	size := slices.Clone(w.Size)
	size[1] = 2
	tensor, err := checkpoint.NewFloat32(wide, size)
	require.NoError(t, err)
	require.NoError(t, edit.Replace(first, tensor))
	path := filepath.Join(folder, "fold_0", "checkpoint_final.pth")
	require.NoError(t, os.Remove(path))
	require.NoError(t, edit.Save(path, ""))
}

// The second stage of a cascade sees the label of the first: a network whose weights for it are 0
// gives what nnU-Net's network without it gave, and so does one with weights where the label is
// nowhere; else it gives something else.
func TestPredictFeedsThePreviousStage(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	scan, truth := repo(t, targetScans+"/LN_004_0000.nii.gz"), repo(t, predictions+"/source_notta/LN_004.nii.gz")
	blind, seeing := filepath.Join(root, "blind"), filepath.Join(root, "seeing")
	cascade(t, blind, 0)
	cascade(t, seeing, 3)
	previous := func(name string, keep bool, size []int) string {
		folder := filepath.Join(root, name)
		require.NoError(t, os.Mkdir(folder, 0o755))
		f, err := image.Read(truth)
		require.NoError(t, err)
		if size == nil {
			size = f.Head().Size[:3]
		}
		labels := make(volume.Slice[uint8], size[0]*size[1]*size[2])
		if keep {
			copy(labels, f.Values().(volume.Slice[uint8]))
		}
		require.NoError(t, image.Write(filepath.Join(folder, "LN_004.nii.gz"), size, f.Head().Geometry, labels, 1))
		return folder
	}
	nodes, nothing, small := previous("nodes", true, nil), previous("nothing", false, nil), previous("small", false, []int{10, 12, 14})
	segment := func(name, model, stage string) string {
		out := filepath.Join(root, name)
		r := predict(t, scan, out, "-m", model, "-prev_stage_predictions", stage)
		require.Equal(t, 0, r.code, r.errOut)
		return filepath.Join(out, "LN_004.nii.gz")
	}
	requireSegmentation(t, truth, segment("a", blind, nodes))
	requireSegmentation(t, truth, segment("b", seeing, nothing))
	read := func(path string) volume.Pixels {
		f, err := image.Read(path)
		require.NoError(t, err)
		return f.Values()
	}
	require.False(t, slices.Equal(read(truth).Bytes(), read(segment("c", seeing, nodes)).Bytes()), "the label does not reach the network")

	r := predict(t, scan, filepath.Join(root, "x"), "-m", blind)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "give the segmentations of 3d_lowres with -prev_stage_predictions")
	r = predict(t, scan, filepath.Join(root, "x"), "-m", blind, "-prev_stage_predictions", small)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, filepath.Join(small, "LN_004.nii.gz")+": a segmentation of (z, y, x) [14 12 10], expected [23 68 58]")
}

// writeScan writes an image of phantom-mini's first scan after a change of its voxels.
func writeScan(t *testing.T, path string, change func(v []float32)) {
	t.Helper()
	f, err := image.Read(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	v := volume.Cast[float32](f.Values())
	change(v)
	require.NoError(t, image.Convert(path, f, volume.Slice[float32](v), 1))
}

// An image in another format has the same labels, in its own format: uint8, compressed.
func TestPredictReadsAndWritesEveryFormat(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	f, err := image.Read(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	args := []string{"predict", "-o", filepath.Join(root, "out"), "-m", repo(t, sourceModel), "--disable_tta", "-device", "cpu"}
	endings := []string{".nii.gz", ".nrrd", ".mha", ".nhdr", ".mhd"}
	for i, ending := range endings {
		path := filepath.Join(root, string(rune('a'+i))+ending)
		require.NoError(t, image.Convert(path, f, nil, 1))
		args = append(args, "-i", path)
	}
	r := lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
	want, err := image.Read(filepath.Join(root, "out", "a.nii.gz"))
	require.NoError(t, err)
	_, most := volume.Range(want.Values())
	require.EqualValues(t, 1, most)
	for i, ending := range endings {
		is, err := image.Read(filepath.Join(root, "out", string(rune('a'+i))+ending))
		require.NoError(t, err)
		require.Equal(t, want.Stored(), is.Stored(), ending)
		require.Equal(t, "uint8", is.Head().Type)
		require.InDeltaSlice(t, want.Head().Geometry.Origin, is.Head().Geometry.Origin, 1e-4)
		require.InDeltaSlice(t, want.Head().Geometry.Direction, is.Head().Geometry.Direction, 1e-6)
	}
	require.FileExists(t, filepath.Join(root, "out", "d.raw.gz"))
	require.FileExists(t, filepath.Join(root, "out", "e.zraw"))
}

// One bad case never costs another one its result, and is named with the file and the reason.
func TestPredictFinishesTheOthers(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	in, out := filepath.Join(root, "in"), filepath.Join(root, "out")
	require.NoError(t, os.Mkdir(in, 0o755))
	whole, err := os.ReadFile(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	file := func(name string, content []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(in, name), content, 0o644))
	}
	file("a_cut_0000.nii.gz", whole[:len(whole)/2])
	sick := slices.Clone(whole)
	sick[len(sick)-6] ^= 1 // in the checksum
	file("b_sum_0000.nii.gz", sick)
	file("c_empty_0000.nii.gz", nil)
	file("d_two_0000.nii.gz", whole)
	file("d_two_0001.nii.gz", whole)
	file("nonumber.nii.gz", whole)
	file("z_good_0000.nii.gz", whole)
	writeScan(t, filepath.Join(in, "e_inf_0000.nii.gz"), func(v []float32) { v[5], v[9] = float32(math.Inf(1)), float32(math.Inf(-1)) })
	writeScan(t, filepath.Join(in, "f_nan_0000.nii.gz"), func(v []float32) { v[7] = float32(math.NaN()) })
	writeScan(t, filepath.Join(in, "g_grey_0000.nii.gz"), func(v []float32) {
		for i := range v {
			v[i] = max(v[i], 0)
		}
	})
	r := predict(t, in, out, "-m", repo(t, sourceModel))
	require.Equal(t, 1, r.code, r.errOut)
	for _, want := range []string{
		"PROBLEM case a_cut: " + filepath.Join(in, "a_cut_0000.nii.gz") + ": ",
		"PROBLEM case b_sum: " + filepath.Join(in, "b_sum_0000.nii.gz") + ": after 181776 of 181776 bytes: the checksum of the gzip data is wrong",
		"PROBLEM case c_empty: " + filepath.Join(in, "c_empty_0000.nii.gz"),
		"d_two_0001.nii.gz: found 2 channels, expected 1 for this model: CT",
		"e_inf_0000.nii.gz: 2 voxels are infinite",
		"PROBLEM case nonumber: " + filepath.Join(in, "nonumber.nii.gz") + ": expected the name nonumber_0000.nii.gz",
		"WARNING: case f_nan: 1 voxels are NaN and count as 0",
		"WARNING: case g_grey: no voxel of channel 0 is below -200, the least is 0: are these HU?",
		"6 of 9 cases failed: a_cut, b_sum, c_empty, d_two, e_inf, nonumber",
	} {
		require.Contains(t, r.errOut, want)
	}
	requireSegmentation(t, repo(t, predictions+"/source_notta/LN_004.nii.gz"), filepath.Join(out, "z_good.nii.gz"))
	run := readRun(t, filepath.Join(out, "run.json"))
	require.Len(t, run.Cases, 9)
	require.Equal(t, "failed", run.Cases[0].Status)
	require.Contains(t, run.Cases[0].Error, "a_cut_0000.nii.gz")
	found, err := filepath.Glob(filepath.Join(out, "*.nii.gz"))
	require.NoError(t, err)
	require.Len(t, found, 3)

	// What failed is done again, what is there stays.
	before, err := os.Stat(filepath.Join(out, "z_good.nii.gz"))
	require.NoError(t, err)
	file("a_cut_0000.nii.gz", whole)
	for _, name := range []string{"b_sum_0000", "c_empty_0000", "d_two_0001", "nonumber", "e_inf_0000"} {
		require.NoError(t, os.Remove(filepath.Join(in, name+".nii.gz")))
	}
	r = predict(t, in, out, "-m", repo(t, sourceModel), "--c")
	require.Equal(t, 0, r.code, r.errOut)
	after, err := os.Stat(filepath.Join(out, "z_good.nii.gz"))
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after))
	require.Contains(t, r.out, filepath.Join(out, "z_good.nii.gz")+"  already there")
	requireSegmentation(t, filepath.Join(out, "z_good.nii.gz"), filepath.Join(out, "a_cut.nii.gz"))

	// With probabilities a case is only done when these are there.
	r = predict(t, in, out, "-m", repo(t, sourceModel), "--continue_prediction", "--save_probabilities", "-num_parts", "5", "-part_id", "4")
	require.Equal(t, 0, r.code, r.errOut)
	require.FileExists(t, filepath.Join(out, "z_good.npz"))
	require.FileExists(t, filepath.Join(out, "z_good.pkl"))
	require.NoFileExists(t, filepath.Join(out, "a_cut.npz"), "not of this part")
	require.FileExists(t, filepath.Join(out, "run_4_of_5.json"))
}

// A spacing far from the training data's is told.
func TestPredictWarnsOfAnotherSpacing(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	f, err := image.Read(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	g := *f.Head().Geometry
	g.Spacing = []float64{1.755, 1.755, 30}
	scan := filepath.Join(root, "thick.nii.gz")
	require.NoError(t, image.Write(scan, f.Head().Size[:3], &g, f.Values(), 1))
	r := predict(t, scan, filepath.Join(root, "out"), "-m", repo(t, sourceModel))
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "WARNING: case thick: the spacing along z is 30 mm, the model was trained with ")
	require.NotContains(t, r.errOut, "along x")
}

// Ctrl-C leaves whole files, and the same command goes on from there to the same segmentations.
func TestPredictIsInterruptedAndGoesOn(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	in, out := filepath.Join(root, "in"), filepath.Join(root, "out")
	require.NoError(t, os.Mkdir(in, 0o755))
	scan, err := os.ReadFile(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		require.NoError(t, os.WriteFile(filepath.Join(in, name+"_0000.nii.gz"), scan, 0o644))
	}
	args := []string{"predict", "-i", in, "-o", out, "-m", repo(t, sourceModel), "--disable_tta", "--threads", "1", "-step_size", "0.3"}
	cmd := command(t, args...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(out, "a.nii.gz"))
		return err == nil
	}, time.Minute, 5*time.Millisecond)
	second := lntorch(t, args...)
	require.Equal(t, 1, second.code)
	require.Contains(t, second.errOut, out+" is in use: process ")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Equal(t, 130, cmd.ProcessState.ExitCode(), errOut.String())
	require.Contains(t, errOut.String(), "--continue_prediction goes on from there\n") // and no Go phrase behind it
	require.NotContains(t, errOut.String(), "PROBLEM")
	done, err := filepath.Glob(filepath.Join(out, "?.nii.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, done)
	require.Less(t, len(done), 6)
	hidden, err := filepath.Glob(filepath.Join(out, ".*"))
	require.NoError(t, err)
	require.Empty(t, hidden)
	require.Len(t, readRun(t, filepath.Join(out, "run.json")).Cases, len(done))

	r := lntorch(t, append(args, "--continue_prediction")...)
	require.Equal(t, 0, r.code, r.errOut)
	for _, name := range []string{"b", "f"} {
		requireSegmentation(t, filepath.Join(out, "a.nii.gz"), filepath.Join(out, name+".nii.gz"))
	}
	run := readRun(t, filepath.Join(out, "run.json"))
	require.Len(t, run.Cases, 6)
	require.Equal(t, "skipped", run.Cases[0].Status)
	require.Equal(t, "ok", run.Cases[5].Status)
}

func TestPredictNamesWhatIsWrong(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model, scans := repo(t, sourceModel), repo(t, targetScans)
	out := filepath.Join(root, "out")
	other := filepath.Join(root, "other")
	require.NoError(t, os.MkdirAll(filepath.Join(other, "x"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(other, "notes.txt"), nil, 0o644))
	results := repo(t, "testdata/phantom-mini/results")
	shut := filepath.Join(root, "shut")
	require.NoError(t, os.WriteFile(shut, nil, 0o644))
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "-i is not given", []string{"-o", out, "-m", model}},
		{2, "-o is not given", []string{"-i", scans, "-m", model}},
		{2, "neither -m nor -d is given", []string{"-i", scans, "-o", out}},
		{2, "-m and -d are both given", []string{"-i", scans, "-o", out, "-m", model, "-d", "101"}},
		{2, "-c is not given", []string{"-i", scans, "-o", out, "-d", "101"}},
		{2, "nnUNet_results is not set", []string{"-i", scans, "-o", out, "-d", "101", "-c", "2d"}},
		{1, "Dataset101_PhantomSource has nnUNetTrainer__nnUNetPlans__3d_phantom", []string{"-i", scans, "-o", out, "-d", "101", "-c", "2d", "--results", results}},
		{1, "found fold_0/checkpoint_final.pth; name another with -chk", []string{"-i", scans, "-o", out, "-m", model, "-chk", "checkpoint_best.pth"}},
		{1, "no images: expected names such as CASE_0000.nii.gz or DICOM, found notes.txt, x", []string{"-i", other, "-o", out, "-m", model}},
		{1, "no such file", []string{"-i", filepath.Join(root, "gone.nii.gz"), "-o", out, "-m", model}},
		{2, "expected a name that ends in .nii", []string{"-i", filepath.Join(other, "notes.txt"), "-o", out, "-m", model}},
		{2, "is a file, but there are 2 images", []string{"-i", scans, "-o", filepath.Join(root, "a.nii.gz"), "-m", model}},
		{2, "-part_id 2: expected 0 to 1", []string{"-i", scans, "-o", out, "-m", model, "-num_parts", "2", "-part_id", "2"}},
		{2, "folds are chosen in a model folder", []string{"-i", scans, "-o", out, "-m", model + "/fold_0", "-f", "0"}},
		{2, "--step-size", []string{"-i", scans, "-o", out, "-m", model, "-step_size", "1.5"}},
		{2, "--threads: found 100000, expected at most ", []string{"-i", scans, "-o", out, "-m", model, "--threads", "100000"}},
		{1, "not a directory", []string{"-i", scans, "-o", filepath.Join(shut, "x"), "-m", model}},
	} {
		r := lntorch(t, append([]string{"predict"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%v\n%s", c.args, r.errOut)
		require.Contains(t, r.errOut, c.want, c.args)
		require.Empty(t, r.out)
	}
	require.NoDirExists(t, out)
}

// A network that cannot be built ends the run at once, however many images are being prepared ahead.
func TestPredictEndsWhereANetworkCannotBeBuilt(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model := filepath.Join(root, filepath.Base(sourceModel))
	require.NoError(t, os.CopyFS(model, os.DirFS(repo(t, sourceModel))))
	require.NoError(t, os.MkdirAll(filepath.Join(model, "fold_1"), 0o755))
	other, err := os.ReadFile(repo(t, "testdata/golden/state/v2.pth")) // of another network
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(model, "fold_1", "checkpoint_final.pth"), other, 0o600))
	scan, err := os.ReadFile(filepath.Join(repo(t, targetScans), "LN_004_0000.nii.gz"))
	require.NoError(t, err)
	in := filepath.Join(root, "in")
	require.NoError(t, os.Mkdir(in, 0o755))
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, os.WriteFile(filepath.Join(in, name+"_0000.nii.gz"), scan, 0o600))
	}
	cmd := command(t, "predict", "-i", in, "-o", filepath.Join(root, "out"), "-m", model, "-device", "cpu")
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	r := execute(t, cmd)
	require.Equal(t, 1, r.code, r.errOut)
	require.Contains(t, r.errOut, "weights do not fit the network")
}

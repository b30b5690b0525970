package main

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/volume"
)

// What is not there is answered by what is.
func TestPredictSaysWhatIsThereInstead(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model, scans, out := repo(t, sourceModel), repo(t, targetScans), filepath.Join(root, "out")
	second := filepath.Join(root, "second")
	cascade(t, second, 0)
	stage := filepath.Join(root, "stage")
	require.NoError(t, os.Mkdir(stage, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(stage, "OTHER.nii.gz"), nil, 0o644))
	empty := filepath.Join(root, "empty")
	require.NoError(t, os.Mkdir(empty, 0o755))
	noPlans := filepath.Join(root, "noplans", filepath.Base(sourceModel))
	require.NoError(t, os.CopyFS(noPlans, os.DirFS(model)))
	v, err := plans.ReadJSON(filepath.Join(noPlans, "plans.json"))
	require.NoError(t, err)
	all, _ := v.(*plans.Object).Get("configurations")
	only := plans.NewObject()
	full, _ := all.(*plans.Object).Get("3d_fullres")
	only.Set("3d_fullres", full)
	v.(*plans.Object).Set("configurations", only)
	b, err := plans.EncodeJSON(v, 4, false)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(noPlans, "plans.json"), b, 0o644))
	copied := filepath.Join(root, "images")
	require.NoError(t, os.CopyFS(copied, os.DirFS(scans)))
	before := listing(t, copied)
	for _, c := range []struct {
		code int
		want []string
		args []string
	}{
		{1, []string{"-i " + root + "/gone: no such file or folder, expected a folder of images, or image files; " + root + " holds empty, images, noplans, second, stage"},
			[]string{"-i", root + "/gone", "-o", out, "-m", model}},
		{1, []string{"-i " + root + "/no/where/gone.nii.gz: no such file or folder", root + " holds "},
			[]string{"-i", root + "/no/where/gone.nii.gz", "-o", out, "-m", model}},
		{1, []string{"-m " + stage + "/model: no such file or folder, expected a model folder, a fold's folder or a checkpoint; " + stage + " holds OTHER.nii.gz"},
			[]string{"-i", scans, "-o", out, "-m", stage + "/model"}},
		{1, []string{"--base " + stage + "/base.pth: no such file or folder, expected the checkpoint that the fine-tuning began with"},
			[]string{"-i", scans, "-o", out, "-m", model, "--base", stage + "/base.pth"}},
		{1, []string{"-prev_stage_predictions " + stage + "/x: no such file or folder, expected the folder of the segmentations of 3d_lowres; " + stage + " holds OTHER.nii.gz"},
			[]string{"-i", scans, "-o", out, "-m", second, "-prev_stage_predictions", stage + "/x"}},
		{1, []string{empty + ": no images: expected names such as CASE_0000.nii.gz or DICOM, found none"},
			[]string{"-i", empty, "-o", out, "-m", model}},
		{1, []string{"3d_phantom", "3d_fullres"}, []string{"-i", scans, "-o", out, "-m", noPlans}},
		{2, []string{"-o " + copied + " is the folder of the images", "name another folder"},
			[]string{"-i", copied, "-o", copied, "-m", model}},
		{2, []string{"is the folder of the images"}, []string{"-i", copied, "-o", copied + "/../images/", "-m", model}},
		{1, []string{"-o /proc/nothing: ", "name a folder that can be written"},
			[]string{"-i", scans, "-o", "/proc/nothing", "-m", model}},
	} {
		r := lntorch(t, append([]string{"predict"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%v\n%s", c.args, r.errOut)
		for _, want := range c.want {
			require.Contains(t, r.errOut, want, c.args)
		}
		require.Empty(t, r.out)
	}
	require.NoDirExists(t, out)
	require.Equal(t, before, listing(t, copied))

	// A case without its previous stage does not cost the others theirs.
	require.NoError(t, os.Remove(filepath.Join(stage, "OTHER.nii.gz")))
	ours, err := os.ReadFile(repo(t, predictions+"/source_notta/LN_005.nii.gz"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(stage, "LN_005.nii.gz"), ours, 0o644))
	r := predict(t, scans, out, "-m", second, "-prev_stage_predictions", stage)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "PROBLEM case LN_004: -prev_stage_predictions "+stage+"/LN_004.nii.gz: no such file or folder, expected the previous stage's segmentation of this case; "+stage+" holds LN_005.nii.gz")
	require.FileExists(t, filepath.Join(out, "LN_005.nii.gz"))
}

// twoChannels makes a model of phantom-mini's for two channels; the network does not look at the
// second one.
func twoChannels(t *testing.T, folder string) {
	t.Helper()
	cascade(t, folder, 0)
	for _, name := range []string{"plans.json", "dataset.json"} {
		v, err := plans.ReadJSON(repo(t, filepath.Join(sourceModel, name)))
		require.NoError(t, err)
		o := v.(*plans.Object)
		if name == "dataset.json" {
			o.Set("channel_names", plans.NewObject("0", "CT", "1", "PET"))
		} else {
			intensities, _ := o.Get("foreground_intensity_properties_per_channel")
			first, _ := intensities.(*plans.Object).Get("0")
			intensities.(*plans.Object).Set("1", first)
			all, _ := o.Get("configurations")
			for _, c := range all.(*plans.Object).Keys() {
				v, _ := all.(*plans.Object).Get(c)
				own := v.(*plans.Object)
				if _, ok := own.Get("normalization_schemes"); ok {
					own.Set("normalization_schemes", []any{"CTNormalization", "CTNormalization"})
					own.Set("use_mask_for_norm", []any{false, false})
				}
			}
		}
		b, err := plans.EncodeJSON(v, 4, false)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), b, 0o644))
	}
}

// Two channels are one case, in a folder and as files; on different grids they are none, and one
// alone is too few.
func TestPredictTakesSeveralChannels(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model, in := filepath.Join(root, "model"), filepath.Join(root, "in")
	twoChannels(t, model)
	require.NoError(t, os.Mkdir(in, 0o755))
	whole, err := os.ReadFile(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	for _, name := range []string{"good_0000", "good_0001", "grid_0000", "one_0000"} {
		require.NoError(t, os.WriteFile(filepath.Join(in, name+".nii.gz"), whole, 0o644))
	}
	f, err := image.Read(filepath.Join(in, "grid_0000.nii.gz"))
	require.NoError(t, err)
	size := f.Head().Size
	g := *f.Head().Geometry
	shifted := filepath.Join(in, "shifted_0001.nii.gz")
	require.NoError(t, os.WriteFile(filepath.Join(in, "shifted_0000.nii.gz"), whole, 0o644))
	g.Spacing = []float64{1.5, 1.5, 3}
	require.NoError(t, image.Write(shifted, size, &g, f.Values(), 1))
	smaller := filepath.Join(in, "grid_0001.nii.gz")
	require.NoError(t, image.Write(smaller, []int{10, 11, 12}, f.Head().Geometry, make(volume.Slice[int16], 1320), 1))

	out := filepath.Join(root, "out")
	r := predict(t, in, out, "-m", model)
	require.Equal(t, 1, r.code)
	requireSegmentation(t, repo(t, predictions+"/source_notta/LN_004.nii.gz"), filepath.Join(out, "good.nii.gz"))
	require.Contains(t, r.errOut, "one_0000.nii.gz: found 1 channels, expected 2 for this model: CT, PET")
	require.Contains(t, r.errOut, "PROBLEM case grid: the channels of a case have different shapes: "+in+"/grid_0000.nii.gz [1 23 68 58], "+smaller+" [1 12 11 10] (channels, z, y, x): resample one onto the grid of the other")
	require.Contains(t, r.errOut, "PROBLEM case shifted: the channels of a case have different spacings: ")
	require.Contains(t, r.errOut, shifted+" [1.5 1.5 3]: resample one onto the grid of the other")
	require.Contains(t, r.errOut, "3 of 4 cases failed: grid, one, shifted")
	r = lntorch(t, "predict", "-i", in+"/good_0001.nii.gz", in+"/good_0000.nii.gz", "-o", filepath.Join(root, "named"), "-m", model, "--disable_tta")
	require.Equal(t, 0, r.code, r.errOut)
	requireSegmentation(t, repo(t, predictions+"/source_notta/LN_004.nii.gz"), filepath.Join(root, "named", "good.nii.gz"))
}

// On a full disk the case fails with a message, and what stands there is whole.
func TestPredictOnAFullDisk(t *testing.T) {
	torchtest.Require(t)
	for name, shell := range map[string]string{
		// A file system of 300 KiB.
		"full": `exec unshare -rm sh -c 'mount -t tmpfs -o size=300k tmpfs "$0" && "$@"; rc=$?; cp -r "$0" "$0.seen"; exit $rc' `,
		// No file above 100 KiB; in blocks of 512 bytes.
		"limit": `ulimit -f 200; exec sh -c '"$@"; rc=$?; cp -r "$0" "$0.seen"; exit $rc' `,
	} {
		t.Run(name, func(t *testing.T) {
			if name == "full" && exec.Command("unshare", "-rm", "true").Run() != nil {
				t.Skip("needs a mount namespace of its own (unshare -rm)")
			}
			root := t.TempDir()
			out := filepath.Join(root, "out")
			require.NoError(t, os.Mkdir(out, 0o755))
			own := command(t, "predict", "-i", repo(t, targetScans), "-o", out, "-m", repo(t, sourceModel), "--disable_tta", "--save_probabilities")
			cmd := exec.Command("sh", append([]string{"-c", shell + `"$0" "$@"`, out}, own.Args...)...)
			cmd.Env = own.Env
			r := execute(t, cmd)
			require.Equal(t, 1, r.code, r.errOut)
			require.Contains(t, r.errOut, "PROBLEM case LN_004: ")
			require.Regexp(t, "(no space left on device|file too large)", r.errOut)
			require.Contains(t, r.errOut, ": make room there and run again with --continue_prediction")
			entries, err := os.ReadDir(out + ".seen")
			require.NoError(t, err)
			for _, e := range entries {
				name := e.Name()
				require.False(t, strings.HasSuffix(name, ".nii.gz") || strings.HasSuffix(name, ".npz") || strings.HasPrefix(name, "."), name)
			}
		})
	}
}

// kill -9 leaves whole files and no lock that blocks; the same command goes on.
func TestPredictIsKilledAndGoesOn(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	in, out := filepath.Join(root, "in"), filepath.Join(root, "out")
	require.NoError(t, os.Mkdir(in, 0o755))
	scan, err := os.ReadFile(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(in, name+"_0000.nii.gz"), scan, 0o644))
	}
	args := []string{"predict", "-i", in, "-o", out, "-m", repo(t, sourceModel), "--disable_tta", "--threads", "1", "--save_probabilities"}
	cmd := command(t, args...)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(out, "b.nii.gz"))
		return err == nil
	}, time.Minute, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	require.Error(t, cmd.Wait())
	require.NoFileExists(t, filepath.Join(out, "d.nii.gz"))
	want := repo(t, predictions+"/source_notta/LN_004.nii.gz")
	requireSegmentation(t, want, filepath.Join(out, "a.nii.gz"))
	requireSegmentation(t, want, filepath.Join(out, "b.nii.gz"))
	first, err := os.Stat(filepath.Join(out, "a.nii.gz"))
	require.NoError(t, err)

	r := lntorch(t, append(args, "--continue_prediction")...)
	require.Equal(t, 0, r.code, r.errOut)
	run := readRun(t, filepath.Join(out, "run.json"))
	require.Equal(t, "skipped", run.Cases[0].Status)
	require.Equal(t, "ok", run.Cases[3].Status)
	again, err := os.Stat(filepath.Join(out, "a.nii.gz"))
	require.NoError(t, err)
	require.True(t, os.SameFile(first, again))
	for _, name := range names {
		requireSegmentation(t, want, filepath.Join(out, name+".nii.gz"))
		probabilities(t, filepath.Join(out, name+".npz"))
	}
	left, err := filepath.Glob(filepath.Join(out, ".*"))
	require.NoError(t, err)
	require.Empty(t, left, "what the killed run began is swept away")
}

// NibabelIO hands NaN on to the network, as nnU-Net's does: such an image is refused.
func TestPredictRefusesNaNReadByNibabel(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model := filepath.Join(root, filepath.Base(sourceModel))
	require.NoError(t, os.CopyFS(model, os.DirFS(repo(t, sourceModel))))
	path := filepath.Join(model, "plans.json")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(b), `"SimpleITKIO"`, `"NibabelIO"`)), 0o644))
	in := filepath.Join(root, "in")
	require.NoError(t, os.Mkdir(in, 0o755))
	sick := filepath.Join(in, "a_nan_0000.nii.gz")
	writeScan(t, sick, func(v []float32) { v[7], v[8] = float32(math.NaN()), float32(math.NaN()) })
	writeScan(t, filepath.Join(in, "b_0000.nii.gz"), func([]float32) {})
	out := filepath.Join(root, "out")
	r := predict(t, in, out, "-m", model)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "PROBLEM case a_nan: "+sick+": 2 voxels are NaN, which NibabelIO keeps: export the image again")
	require.Contains(t, r.errOut, "1 of 2 cases failed: a_nan")
	require.FileExists(t, filepath.Join(out, "b.nii.gz"))
	require.NoFileExists(t, filepath.Join(out, "a_nan.nii.gz"))
}

// Every wrongly named image is named, beside those that are right; so is an ending that no
// segmentation has.
func TestPredictNamesEveryMisnamedImage(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	scan, err := os.ReadFile(repo(t, targetScans+"/LN_005_0000.nii.gz"))
	require.NoError(t, err)
	in := filepath.Join(root, "in")
	require.NoError(t, os.Mkdir(in, 0o755))
	for _, name := range []string{"patient1.nii.gz", "patient2.nii.gz", "patch_0000.nii.gz"} {
		require.NoError(t, os.WriteFile(filepath.Join(in, name), scan, 0o600))
	}
	r := predict(t, in, filepath.Join(root, "out"), "-m", repo(t, sourceModel))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "2 of 3 cases failed: patient1, patient2")
	require.Contains(t, r.errOut, "patient2.nii.gz: expected the name patient2_0000.nii.gz")
	require.FileExists(t, filepath.Join(root, "out", "patch.nii.gz"))

	r = predict(t, filepath.Join(in, "patient1.nii.gz"), filepath.Join(root, "x.png"), "-m", repo(t, sourceModel))
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "x.png: segmentations end in ")
	require.NoFileExists(t, filepath.Join(root, "x.png"))
}

// A folder of results tells no lies: probabilities of an earlier run go when the labels are written
// again, and --continue_prediction keeps what is known of a case and says if its weights are others.
func TestPredictIntoAUsedFolder(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	out, scan := filepath.Join(root, "out"), repo(t, targetScans+"/LN_005_0000.nii.gz")
	r := predict(t, scan, out, "-m", repo(t, sourceModel), "--save_probabilities", "-step_size", "1")
	require.Equal(t, 0, r.code, r.errOut)
	require.FileExists(t, filepath.Join(out, "LN_005.npz"))
	r = predict(t, scan, out, "-m", repo(t, sourceModel), "-step_size", "1")
	require.Equal(t, 0, r.code, r.errOut)
	require.NoFileExists(t, filepath.Join(out, "LN_005.npz"))
	require.NoFileExists(t, filepath.Join(out, "LN_005.pkl"))
	first := readRun(t, filepath.Join(out, "run.json")).Cases[0]

	r = predict(t, scan, out, "-m", repo(t, sourceModel), "--c")
	require.Equal(t, 0, r.code, r.errOut)
	require.NotContains(t, r.errOut, "other weights")
	kept := readRun(t, filepath.Join(out, "run.json")).Cases[0]
	require.Equal(t, "skipped", kept.Status)
	require.Equal(t, first.Labels, kept.Labels)

	other := filepath.Join(root, "other.pth")
	r = lntorch(t, "convert", repo(t, sourceModel+"/fold_0/checkpoint_final.pth"), "-o", other)
	require.Equal(t, 0, r.code, r.errOut)
	for _, name := range []string{"plans.json", "dataset.json"} {
		b, err := os.ReadFile(repo(t, sourceModel+"/"+name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(root, name), b, 0o600))
	}
	b, err := os.ReadFile(other)
	require.NoError(t, err)
	if sumOf(t, other) == sumOf(t, repo(t, sourceModel+"/fold_0/checkpoint_final.pth")) {
		t.Fatalf("the copy of %d bytes is the same file", len(b))
	}
	r = predict(t, scan, out, "-m", other, "--c")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "WARNING: case LN_005 was there, of other weights than these")
}

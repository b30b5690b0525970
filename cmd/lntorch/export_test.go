package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
)

// modelFolder is a copy of a model of the test data, in the given folds, whose checkpoints were changed.
func modelFolder(t *testing.T, name string, folds []string, change func(root *pickle.Dict)) string {
	t.Helper()
	from := repo(t, sourceModel)
	folder := filepath.Join(t.TempDir(), name)
	for _, fold := range folds {
		require.NoError(t, os.MkdirAll(filepath.Join(folder, fold), 0o755))
		f, err := checkpoint.Open(from + "/fold_0/checkpoint_final.pth")
		require.NoError(t, err)
		change(f.Root())
		require.NoError(t, pth.Save(filepath.Join(folder, fold, "checkpoint_final.pth"), f.Root()))
		require.NoError(t, f.Close())
	}
	for _, doc := range []string{"plans.json", "dataset.json", "dataset_fingerprint.json"} {
		b, err := os.ReadFile(filepath.Join(from, doc))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, doc), b, 0o600))
	}
	return folder
}

// byDGST makes a checkpoint one that lntorch's DGST training wrote.
func byDGST(root *pickle.Dict) {
	root.Set("trainer_name", "nnUNetTrainer_DGST")
	root.Set("lntorch", &pickle.Dict{})
}

func TestExportWritesWhatNnUNetReads(t *testing.T) {
	model := modelFolder(t, "nnUNetTrainer_DGST__nnUNetPlans__3d_phantom", []string{"fold_0", "fold_all"}, byDGST)
	out := filepath.Join(t.TempDir(), "for nnU-Net")
	r := lntorch(t, "export", model, "-o", out)
	require.Equal(t, 0, r.code, r.errOut)
	folder := filepath.Join(out, "nnUNetTrainer__nnUNetPlans__3d_phantom")
	require.Equal(t, folder+"\nnnUNetv2_predict_from_modelfolder -i IMAGES -o PREDICTIONS -m '"+folder+"' -f 0 all -chk checkpoint_final.pth\n", r.out)
	for _, doc := range []string{"plans.json", "dataset.json", "dataset_fingerprint.json"} {
		want, err := os.ReadFile(filepath.Join(model, doc))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(folder, doc))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	}
	f, err := checkpoint.Open(filepath.Join(folder, "fold_all", "checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, []any{"nnUNetTrainer", "3d_phantom", []int{0, 1, 2}}, []any{f.Trainer, f.Configuration, f.MirrorAxes})
	require.Len(t, f.Weights, 188)
	v, _ := f.Root().Get("optimizer_state")
	require.Nil(t, v)
	_, own := f.Root().Get("lntorch")
	require.False(t, own)

	r = lntorch(t, "export", model, "-o", out)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "exists already: give --force")
	r = lntorch(t, "export", model, "-o", out, "--force", "--with-optimizer")
	require.Equal(t, 0, r.code, r.errOut)
	kept, err := checkpoint.Open(filepath.Join(folder, "fold_0", "checkpoint_final.pth"))
	require.NoError(t, err)
	defer kept.Close()
	v, _ = kept.Root().Get("optimizer_state")
	require.NotNil(t, v)
	entries, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing temporary is left")
}

// The model itself is never written to, not even by --force.
func TestExportSparesItsSource(t *testing.T) {
	model := modelFolder(t, "nnUNetTrainer__nnUNetPlans__3d_phantom", []string{"fold_0"}, func(*pickle.Dict) {})
	before, err := os.ReadFile(filepath.Join(model, "fold_0/checkpoint_final.pth"))
	require.NoError(t, err)
	r := lntorch(t, "export", model, "-o", filepath.Dir(model), "--force")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "is the model itself: give another -o")
	after, err := os.ReadFile(filepath.Join(model, "fold_0/checkpoint_final.pth"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))
}

func TestExportRefusesWhatNnUNetCouldNotLoad(t *testing.T) {
	weights := func(change func(w *pickle.Dict)) func(*pickle.Dict) {
		return func(root *pickle.Dict) {
			w, _ := root.Get("network_weights")
			change(pickle.AsDict(w))
		}
	}
	for want, change := range map[string]func(*pickle.Dict){
		"classes: plans 2, weights 3": weights(func(w *pickle.Dict) {
			w.Set("decoder.seg_layers.2.weight", tensor(t, make([]byte, 3*8*4), 0, []int64{3, 8, 1, 1, 1}, nil))
		}),
		"adapters (such as encoder.x.lora_A.weight)": weights(func(w *pickle.Dict) {
			w.Set("encoder.x.lora_A.weight", tensor(t, make([]byte, 4), 0, []int64{1}, nil))
		}),
		"its network is not recognised": weights(func(w *pickle.Dict) { w.Delete("decoder.transpconvs.0.weight") }),
		"names no configuration":        func(root *pickle.Dict) { root.Delete("init_args") },
		"holds only weights":            func(root *pickle.Dict) { root.Delete("network_weights") },
	} {
		model := modelFolder(t, "a__nnUNetPlans__3d_phantom", []string{"fold_0"}, change)
		if strings.HasPrefix(want, "holds only weights") {
			path := filepath.Join(model, "fold_0/checkpoint_final.pth")
			require.Equal(t, 0, lntorch(t, "convert", repo(t, sourceModel+"/fold_0/checkpoint_final.pth"), "--weights-only", "--force", "-o", path).code)
		}
		out := t.TempDir()
		r := lntorch(t, "export", model, "-o", out)
		require.Equal(t, 1, r.code)
		require.Contains(t, r.errOut, want)
		require.Contains(t, r.errOut, "fold_0/checkpoint_final.pth")
		entries, err := os.ReadDir(out)
		require.NoError(t, err)
		require.Empty(t, entries, "an error leaves nothing")
	}
	r := lntorch(t, "export", repo(t, sourceModel), "-o", t.TempDir(), "--checkpoint", "checkpoint_best.pth")
	require.Contains(t, r.errOut, "no fold_*/checkpoint_best.pth")
}

func gunzip(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	b, err := io.ReadAll(z)
	require.NoError(t, err)
	return b
}

// Stock nnU-Net predicts the test images with an exported DGST model as it did with the original when the test data were
// made: the same labels but for a few voxels, since another CPU's kernels round differently.
func TestLiveStockNnUNetPredictsWithAnExport(t *testing.T) {
	golden.Python(t)
	model := modelFolder(t, "nnUNetTrainer_DGST__nnUNetPlans__3d_phantom", []string{"fold_0"}, byDGST)
	out, predictions := t.TempDir(), t.TempDir()
	r := lntorch(t, "export", model, "-o", out)
	require.Equal(t, 0, r.code, r.errOut)
	folder := filepath.Join(out, "nnUNetTrainer__nnUNetPlans__3d_phantom")
	golden.Run(t, "nnunet_stack.py", "predict", "--model-folder", folder, "--input-dir", repo(t, "testdata/phantom-mini/raw/Dataset102_PhantomTarget/imagesTs"),
		"--output-dir", predictions, "--disable-tta", "--save-probabilities")
	for _, name := range []string{"LN_004", "LN_005"} {
		want := gunzip(t, repo(t, "testdata/phantom-mini/predictions/source_notta/"+name+".nii.gz"))
		got := gunzip(t, filepath.Join(predictions, name+".nii.gz"))
		require.Len(t, got, len(want))
		require.Equal(t, want[:348], got[:348], "header: geometry and type")
		different, foreground := 0, 0
		for i := 352; i < len(want); i++ {
			if want[i] != got[i] {
				different++
			}
			foreground += int(want[i])
		}
		t.Logf("%s: %d of %d voxels differ, %d of foreground", name, different, len(want)-352, foreground)
		require.LessOrEqual(t, different, 5, name)
		require.Greater(t, foreground, 100)
	}
	read := func(path string) []float32 {
		f, err := npz.OpenNpz(path)
		require.NoError(t, err)
		defer f.Close()
		a, err := f.Read("probabilities")
		require.NoError(t, err)
		v, err := a.Float32s()
		require.NoError(t, err)
		return v
	}
	want := read(repo(t, "testdata/phantom-mini/predictions/source_notta/LN_004.npz"))
	got := read(filepath.Join(predictions, "LN_004.npz"))
	require.Len(t, got, len(want))
	var worst float32
	for i := range want {
		worst = max(worst, max(want[i]-got[i], got[i]-want[i]))
	}
	t.Logf("largest difference of a probability: %g", worst)
	require.Less(t, worst, float32(0.02))
}

// With the optimizer the copy of a stock model is the original, for Python: every type, alias and byte.
func TestLiveExportWithOptimizerKeepsEverythingElse(t *testing.T) {
	golden.Python(t)
	out := t.TempDir()
	r := lntorch(t, "export", repo(t, sourceModel), "-o", out, "--with-optimizer")
	require.Equal(t, 0, r.code, r.errOut)
	report := golden.Run(t, "nnunet_stack.py", "compare-pth", repo(t, sourceModel+"/fold_0/checkpoint_final.pth"),
		filepath.Join(out, "nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth"))
	lines := strings.Split(strings.TrimSpace(string(report)), "\n")
	var verdict struct{ Equal bool }
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &verdict))
	require.True(t, verdict.Equal)
}

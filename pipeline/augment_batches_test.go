package pipeline

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

// batchesOf are batches of a case of phantom-mini, of small patches.
func batchesOf(t *testing.T, configuration string, patch ...int) AugmentBatchesConfig {
	c := settings.New[AugmentBatchesConfig]()
	c.Dataset, c.Configuration, c.Fold = "101", configuration, "0"
	c.Preprocessed = filepath.Join(golden.Root(t), "testdata/phantom-mini/preprocessed")
	c.PatchSize, c.Output = patch, filepath.Join(t.TempDir(), "batches")
	return c
}

// tinyOf are batches of a small dataset of data/loader's golden files, with plans of a small network;
// 2d patches are slices of the same cases.
func tinyOf(t *testing.T, set string, patch ...int) AugmentBatchesConfig {
	t.Helper()
	root := t.TempDir()
	folder := filepath.Join(root, "Dataset900_Tiny")
	require.NoError(t, os.CopyFS(filepath.Join(folder, "nnUNetPlans_tiny"), os.DirFS(golden.Path(t, "loader/"+set))))
	require.NoError(t, os.Rename(filepath.Join(folder, "nnUNetPlans_tiny", "dataset.json"), filepath.Join(folder, "dataset.json")))
	three := func(z, rest string) string {
		if len(patch) == 2 {
			return fmt.Sprintf("[%s,%s]", rest, rest)
		}
		return fmt.Sprintf("[%s,%s,%s]", z, rest, rest)
	}
	size, err := json.Marshal(patch)
	require.NoError(t, err)
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o666))
	}
	write("dataset_fingerprint.json", "{}")
	write("splits_final.json", `[{"train": ["case_0", "case_1", "case_3"], "val": ["case_0", "case_4"]}]`)
	write("nnUNetPlans.json", fmt.Sprintf(`{"dataset_name": "Dataset900_Tiny", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
"original_median_spacing_after_transp": [1.0, 1.0, 1.0], "original_median_shape_after_transp": [12, 12, 12],
"foreground_intensity_properties_per_channel": {"0": {"max": 1.0, "mean": 0.0, "median": 0.0, "min": -1.0, "percentile_00_5": -1.0, "percentile_99_5": 1.0, "std": 1.0}},
"configurations": {"tiny": {"data_identifier": "nnUNetPlans_tiny", "preprocessor_name": "DefaultPreprocessor", "batch_size": 3, "patch_size": %s,
"spacing": %s, "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [true], "batch_dice": false,
"architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet", "arch_kwargs": {
"n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv%dd", "kernel_sizes": [%s, %s, %s],
"strides": [%s, %s, %s], "n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1], "conv_bias": true,
"norm_op": "torch.nn.modules.instancenorm.InstanceNorm%dd", "norm_op_kwargs": {"eps": 1e-05, "affine": true}, "dropout_op": null, "dropout_op_kwargs": null,
"nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}}, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}}}}`,
		size, three("1.0", "1.0"), len(patch), three("1", "3"), three("3", "3"), three("3", "3"), three("1", "1"), three("1", "2"), three("2", "2"), len(patch)))
	c := settings.New[AugmentBatchesConfig]()
	c.Dataset, c.Configuration, c.Fold, c.Preprocessed, c.Output = "900", "tiny", "0", root, filepath.Join(root, "batches")
	return c
}

// often makes every transform act in most samples.
func often(t *testing.T, c *AugmentBatchesConfig) {
	t.Helper()
	folder, err := preprocessedDataset(c.Dataset, c.RawFolder, c.PreprocessedFolder, "", false)
	require.NoError(t, err)
	data, err := train.OpenData(folder, c.PlansName, c.Configuration, c.Fold)
	require.NoError(t, err)
	l, err := BatchList(data, &c.BatchSettings, c.Trainer, Output{})
	require.NoError(t, err)
	text, err := json.Marshal(l)
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, json.Unmarshal(text, &file))
	for _, step := range file["transforms"].([]any) {
		for key := range step.(map[string]any) {
			if slices.Contains([]string{"apply_probability", "p_rotation", "p_scaling"}, key) {
				step.(map[string]any)[key] = 0.6
			}
		}
	}
	text, err = json.Marshal(file)
	require.NoError(t, err)
	c.Augmentation = filepath.Join(t.TempDir(), "list.json")
	require.NoError(t, os.WriteFile(c.Augmentation, text, 0o666))
}

func written(t *testing.T, c AugmentBatchesConfig) map[string][]byte {
	t.Helper()
	require.NoError(t, AugmentBatches(context.Background(), c, Output{}))
	return contents(t, c.Output)
}

func contents(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(folder, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = b
	}
	return files
}

func readArray(t *testing.T, folder, name string) *npz.Array {
	t.Helper()
	a, err := npz.OpenNpy(filepath.Join(folder, name))
	require.NoError(t, err)
	return a
}

func readRecord(t *testing.T, folder string, n int) (r batchRecord, samples []json.RawMessage) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("batch_%02d.json", n)))
	require.NoError(t, err)
	var raw struct {
		Iteration int
		SHA256    string
		Samples   []json.RawMessage
	}
	require.NoError(t, json.Unmarshal(text, &raw))
	r.Iteration, r.SHA256 = raw.Iteration, raw.SHA256
	for _, text := range raw.Samples {
		var s sampleRecord
		s.Transforms = nil
		var plain map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(text, &plain))
		delete(plain, "transforms")
		b, err := json.Marshal(plain)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &s))
		r.Samples = append(r.Samples, s)
	}
	return r, raw.Samples
}

// Crops are the cases' boxes; applying the JSON's transforms to a crop gives the batch, bit for bit.
func TestBatchesFollowFromTheirJSON(t *testing.T) {
	for name, c := range map[string]AugmentBatchesConfig{
		"3d":      batchesOf(t, "3d_fullres", 10, 24, 16),
		"dummy":   batchesOf(t, "3d_fullres", 4, 24, 16),
		"regions": tinyOf(t, "regions_ignore", 6, 8, 8),
		"ignore":  tinyOf(t, "ignore", 6, 8, 8),
		"2d":      tinyOf(t, "plain", 8, 12),
	} {
		t.Run(name, func(t *testing.T) {
			c.N, c.Crops, c.Seed = 3, true, 5
			often(t, &c)
			written(t, c)
			folder, err := preprocessedDataset(c.Dataset, c.RawFolder, c.PreprocessedFolder, "", false)
			require.NoError(t, err)
			data, err := train.OpenData(folder, c.PlansName, c.Configuration, c.Fold)
			require.NoError(t, err)
			noisy, forced := 0, 0
			for n := range c.N {
				record, raw := readRecord(t, c.Output, n)
				require.Equal(t, n, record.Iteration)
				file := func(what string) string { return fmt.Sprintf("batch_%02d_%s.npy", n, what) }
				image, crop, seg := readArray(t, c.Output, file("data")), readArray(t, c.Output, file("crop_data")), readArray(t, c.Output, file("crop_seg"))
				require.Equal(t, []string{"<f4", "<f4", "<i2"}, []string{image.DType, crop.DType, seg.DType})
				sum := sha256.New()
				sum.Write(image.Data)
				var targets []*npz.Array
				for k := 0; ; k++ {
					if _, err := os.Stat(filepath.Join(c.Output, file(fmt.Sprintf("target_%d", k)))); err != nil {
						break
					}
					targets = append(targets, readArray(t, c.Output, file(fmt.Sprintf("target_%d", k))))
					sum.Write(targets[k].Data)
				}
				require.Greater(t, len(targets), 1)
				require.Equal(t, hex.EncodeToString(sum.Sum(nil)), record.SHA256)
				for j, s := range record.Samples {
					require.Equal(t, j, s.Sample)
					require.Contains(t, data.Split.Train, s.Key)
					scan, err := data.Cases.Load(s.Key)
					require.NoError(t, err)
					checkCrop(t, scan, s, sampleOf(t, crop, j), sampleOf(t, seg, j))
					if s.ForceForeground {
						forced++
						checkSelected(t, s, sampleOf(t, seg, j))
					}

					// the sample's object is a SPEC
					dir := t.TempDir()
					saveNpy(t, filepath.Join(dir, "x.npy"), sampleOf(t, crop, j))
					saveNpy(t, filepath.Join(dir, "s.npy"), sampleOf(t, seg, j))
					spec := filepath.Join(c.Output, fmt.Sprintf("spec_%d_%d.json", n, j)) // beside its noise
					require.NoError(t, os.WriteFile(spec, raw[j], 0o666))
					noisy += bytes.Count(raw[j], []byte(`"noise":"batch_`))
					require.NotContains(t, string(raw[j]), "noise_seed")
					require.NoError(t, AugmentApply(context.Background(), AugmentApplyConfig{Spec: spec, Data: filepath.Join(dir, "x.npy"),
						Seg: filepath.Join(dir, "s.npy"), Output: filepath.Join(dir, "out.npz"), Repeat: 1}, Output{}))
					out, err := npz.OpenNpz(filepath.Join(dir, "out.npz"))
					require.NoError(t, err)
					got, err := out.Read("data")
					require.NoError(t, err)
					require.Equal(t, sampleOf(t, image, j), got)
					for k := range targets {
						got, err := out.Read(fmt.Sprintf("seg_%d", k))
						require.NoError(t, err)
						require.Equal(t, sampleOf(t, targets[k], j), got)
						require.Equal(t, strings.HasPrefix(name, "regions"), got.DType == "|b1")
						labels, err := got.Int16s()
						require.NoError(t, err)
						require.GreaterOrEqual(t, slices.Min(labels), int16(0))
					}
					require.NoError(t, out.Close())
				}
			}
			require.Positive(t, noisy)
			require.Positive(t, forced)
		})
	}
}

// sampleOf is sample j of an array.
func sampleOf(t *testing.T, a *npz.Array, j int) *npz.Array {
	n := len(a.Data) / a.Shape[0]
	return &npz.Array{DType: a.DType, Shape: a.Shape[1:], Data: a.Data[j*n:][:n]}
}

// checkCrop compares a crop with the case, voxel for voxel.
func checkCrop(t *testing.T, scan *dataset.Case, s sampleRecord, image, seg *npz.Array) {
	t.Helper()
	lower, upper := slices.Clone(s.Lower), slices.Clone(s.Upper)
	require.Equal(t, s.InitialPatchSize, image.Shape[1:])
	if len(lower) == 2 {
		lower, upper = append([]int{*s.SelectedSlice}, lower...), append([]int{*s.SelectedSlice + 1}, upper...)
	} else {
		require.Nil(t, s.SelectedSlice)
	}
	values, err := image.Float32s()
	require.NoError(t, err)
	labels, err := seg.Int16s()
	require.NoError(t, err)
	shape, i := scan.Data.Shape, 0
	for c := range shape[0] {
		for z := lower[0]; z < upper[0]; z++ {
			for y := lower[1]; y < upper[1]; y++ {
				for x := lower[2]; x < upper[2]; x++ {
					want, label := float32(0), int16(-1)
					if z >= 0 && z < shape[1] && y >= 0 && y < shape[2] && x >= 0 && x < shape[3] {
						at := (z*shape[2]+y)*shape[3] + x
						want, label = scan.Data.Data[c*len(scan.Seg.Data)+at], scan.Seg.Data[at]
					}
					if values[i] != want || c == 0 && labels[i] != label {
						require.Fail(t, "the crop is not the case's", "voxel %d: %v %v, expected %v %v", i, values[i], labels[i%len(labels)], want, label)
					}
					i++
				}
			}
		}
	}
	require.Len(t, values, i)
}

// checkSelected demands a voxel of the selected label, or of the region, in a crop.
func checkSelected(t *testing.T, s sampleRecord, seg *npz.Array) {
	t.Helper()
	labels, err := seg.Int16s()
	require.NoError(t, err)
	selected, region := s.SelectedClass.([]any)
	if !region {
		selected = []any{s.SelectedClass}
	}
	found := false
	for _, label := range selected {
		require.NotNil(t, label, "every case has foreground")
		require.NotZero(t, label)
		found = found || slices.Contains(labels, int16(label.(float64)))
	}
	require.True(t, found, "%s: class %v", s.Key, s.SelectedClass)
}

// Files follow from the settings alone: not from the workers, the first batch, or the time. Their
// transforms are the lines of sample.
func TestBatchesAreTheSameFromAnyStart(t *testing.T) {
	c := batchesOf(t, "3d_phantom", 6, 16, 16)
	c.N, c.Crops, c.Workers, c.Seed = 4, true, 1, 11
	all := written(t, c)
	again := c
	again.Workers, again.Output = 3, filepath.Join(t.TempDir(), "again")
	require.Equal(t, all, written(t, again))
	again.Output, again.Start, again.N = filepath.Join(t.TempDir(), "later"), 2, 2
	for name, b := range written(t, again) {
		was := bytes.ReplaceAll(all[strings.Replace(strings.Replace(name, "batch_00", "batch_02", 1), "batch_01", "batch_03", 1)], []byte("batch_02_"), []byte("batch_00_"))
		was = bytes.ReplaceAll(was, []byte("batch_03_"), []byte("batch_01_"))
		require.Equal(t, was, b, name)
	}

	c.Crops, c.Output = false, filepath.Join(t.TempDir(), "plain")
	files := written(t, c)
	s := AugmentSampleConfig{AugmentConfig: AugmentConfig{Plans: filepath.Join(c.Preprocessed, "Dataset101_PhantomSource", "nnUNetPlans.json"),
		Configuration: c.Configuration, Trainer: c.Trainer}, Seed: c.Seed, N: 8}
	s.PatchSize = nil
	require.Len(t, files, 4*(2+targetsOf(files)))
	for i, line := range sampled(t, s) {
		var drawn struct{ Transforms []map[string]any }
		require.NoError(t, json.Unmarshal([]byte(line), &drawn))
		_, raw := readRecord(t, c.Output, i/2)
		var got struct{ Transforms []map[string]any }
		require.NoError(t, json.Unmarshal(raw[i%2], &got))
		for k := range drawn.Transforms { // sample has the plans' patch size
			for _, key := range []string{"patch_size", "center_location_in_pixels"} {
				delete(drawn.Transforms[k], key)
				delete(got.Transforms[k], key)
			}
		}
		require.Equal(t, drawn, got)
	}
}

func targetsOf(files map[string][]byte) int {
	n := 0
	for name := range files {
		if strings.HasPrefix(name, "batch_00_target_") {
			n++
		}
	}
	return n
}

// What train sees is what batches writes, and trace reads it: labels and regions.
func TestBatchesAreTheTrainingsAndTraceReadsThem(t *testing.T) {
	torchtest.NoLeak(t)
	for _, set := range []string{"plain", "regions_ignore"} {
		c := tinyOf(t, set, 8, 8, 8)
		c.N, c.Seed, c.Oversample = 4, 7, 0.5
		written(t, c)
		tc := settings.New[TrainConfig]()
		tc.Dataset, tc.Configuration, tc.Fold, tc.Preprocessed, tc.Results = c.Dataset, c.Configuration, c.Fold, c.Preprocessed, filepath.Join(t.TempDir(), "results")
		tc.MethodName, tc.Epochs, tc.Iterations, tc.ValIterations, tc.Seed, tc.Oversample = "full", 1, 4, 1, c.Seed, c.Oversample
		tc.NoMirroring, tc.NoPrepare = true, true
		tc.Machine = machine.Machine{Device: torch.CPU, Threads: 1}
		r, err := Train(context.Background(), tc, Output{})
		require.NoError(t, err)
		text, err := os.ReadFile(filepath.Join(r.Folder, "run.json"))
		require.NoError(t, err)
		var record struct {
			Data struct {
				Sums []string `json:"batch_sha256"`
			}
		}
		require.NoError(t, json.Unmarshal(text, &record))
		require.Len(t, record.Data.Sums, 4)
		for n, sum := range record.Data.Sums {
			b, _ := readRecord(t, c.Output, n)
			require.Equal(t, b.SHA256, sum, "%s, iteration %d", set, n)
		}

		trace := settings.New[TraceConfig]()
		trace.Checkpoint, trace.Batches, trace.Output = r.Checkpoint, c.Output, filepath.Join(t.TempDir(), "trace")
		trace.MethodName, trace.Machine = "full", machine.Machine{Device: torch.CPU, Threads: 1}
		require.NoError(t, Trace(context.Background(), trace, Output{}))
		text, err = os.ReadFile(filepath.Join(trace.Output, "losses.json"))
		require.NoError(t, err)
		var losses struct{ Losses []float64 }
		require.NoError(t, json.Unmarshal(text, &losses))
		require.Len(t, losses.Losses, c.N)

		// a training from the same weights has the loss of batch 0 in its first iteration
		tc.Pretrained, tc.Head, tc.Iterations, tc.Results = r.Checkpoint, train.HeadKeep, 1, filepath.Join(t.TempDir(), "next")
		next, err := Train(context.Background(), tc, Output{})
		require.NoError(t, err)
		f, err := checkpoint.Open(next.Checkpoint)
		require.NoError(t, err)
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			state, err := f.Training(s)
			require.NoError(t, err)
			require.Equal(t, float32(losses.Losses[0]), state.Logging.TrainLosses[0])
			return nil
		}))
		require.NoError(t, f.Close())
	}
}

func TestBatchesExplainBadInput(t *testing.T) {
	for _, c := range []struct {
		change func(c *AugmentBatchesConfig)
		usage  bool
		want   string
	}{
		{func(c *AugmentBatchesConfig) { c.Output = "" }, true, "-o is not given"},
		{func(c *AugmentBatchesConfig) { c.Preprocessed = "" }, true, "nnUNet_preprocessed is not set"},
		{func(c *AugmentBatchesConfig) { c.Dataset = "999" }, false, "999"},
		{func(c *AugmentBatchesConfig) { c.Configuration = "3d" }, false, "3d"},
		{func(c *AugmentBatchesConfig) { c.Fold = "first" }, false, "first"},
		{func(c *AugmentBatchesConfig) { c.Trainer = "nnUNetTrainerDA5" }, true, "uses another library's transforms"},
		{func(c *AugmentBatchesConfig) { c.PatchSize = []int{8, 8} }, true, "--patch-size: found 2 sizes, expected 3 as in configuration 3d_phantom"},
		{func(c *AugmentBatchesConfig) { c.PatchSize = []int{100000, 100000, 100000} }, true, "expected 2^27 voxels at most"},
		{func(c *AugmentBatchesConfig) { c.BatchSize = 1 << 40 }, true, "expected 2^30 voxels in a batch at most"},
		{func(c *AugmentBatchesConfig) { c.Augmentation = "nnUnet" }, true, `--augmentation: found "nnUnet"`},
		{func(c *AugmentBatchesConfig) { c.MirrorAxes = "3" }, true, "mirror axes [3]"},
	} {
		config := batchesOf(t, "3d_phantom", 8, 8, 8)
		c.change(&config)
		err := AugmentBatches(context.Background(), config, Output{})
		require.ErrorContains(t, err, c.want)
		var usage *settings.UsageError
		if c.usage {
			require.ErrorAs(t, err, &usage, c.want)
		} else {
			require.NotErrorAs(t, err, &usage, c.want)
		}
		if config.Output != "" {
			require.NoDirExists(t, config.Output)
		}
	}
}

func TestBatchesReplaceOthersOnlyWhenAsked(t *testing.T) {
	c := batchesOf(t, "3d_phantom", 6, 8, 8)
	c.N, c.Crops = 3, true
	all := written(t, c)
	require.NoError(t, os.WriteFile(filepath.Join(c.Output, "batch_notes.txt"), nil, 0o666))
	c.N, c.Crops = 1, false
	err := AugmentBatches(context.Background(), c, Output{})
	require.ErrorContains(t, err, "holds batches already (batch_00.json): choose another folder, or remove them with --force")
	require.Len(t, contents(t, c.Output), len(all)+1)

	c.Force, c.Fold = true, "first" // a mistake removes nothing
	require.Error(t, AugmentBatches(context.Background(), c, Output{}))
	require.Len(t, contents(t, c.Output), len(all)+1)
	c.Fold = "0"
	files := written(t, c)
	require.Contains(t, files, "batch_notes.txt")
	require.Equal(t, all["batch_00_data.npy"], files["batch_00_data.npy"])
	require.Len(t, files, 1+2+targetsOf(files), "nothing of the others is left")
}

// cancelling cancels at the end of a batch.
type cancelling struct {
	silent
	after  int
	cancel func()
}

func (c cancelling) Done(n int, _ string) {
	if n == c.after {
		c.cancel()
	}
}

func TestStoppedBatchesAreWhole(t *testing.T) {
	c := batchesOf(t, "3d_phantom", 6, 8, 8)
	c.N, c.Crops = 50, true
	ctx, cancel := context.WithCancel(context.Background())
	err := AugmentBatches(ctx, c, Output{Progress: cancelling{after: 2, cancel: cancel}})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "holds 2 of 50 batches")
	files := contents(t, c.Output)
	whole := c
	whole.N, whole.Output = 2, filepath.Join(t.TempDir(), "whole")
	require.Equal(t, written(t, whole), files)
}

// batchgeneratorsv2's own transforms with the parameters of the JSON give the batch.
func TestLiveBatchesAreBatchgenerators(t *testing.T) {
	golden.Python(t)
	seed := rand.Uint64() >> 33
	t.Logf("seed %d", seed)
	two := batchesOf(t, "2d", 48, 40)
	configs := map[string]AugmentBatchesConfig{
		"3d": batchesOf(t, "3d_fullres", 20, 40, 48), "dummy": batchesOf(t, "3d_fullres", 8, 48, 40),
		"regions with ignore": tinyOf(t, "regions_ignore", 10, 12, 11), "ignore, 2d": tinyOf(t, "ignore", 14, 10), "2d": two,
		"nearest": batchesOf(t, "3d_phantom", 12, 24, 20),
	}
	var runs [][]string
	outputs := map[string]string{}
	for name, c := range configs {
		if name == "2d" { // its cases are those of 3d_fullres, slice by slice
			root := t.TempDir()
			folder := filepath.Join(root, "Dataset101_PhantomSource")
			require.NoError(t, os.CopyFS(folder, os.DirFS(filepath.Join(c.Preprocessed, "Dataset101_PhantomSource"))))
			text, err := os.ReadFile(filepath.Join(folder, "nnUNetPlans.json"))
			require.NoError(t, err)
			text = bytes.Replace(text, []byte(`"nnUNetPlans_2d"`), []byte(`"nnUNetPlans_3d_fullres"`), 1)
			require.NoError(t, os.WriteFile(filepath.Join(folder, "nnUNetPlans.json"), text, 0o666))
			c.Preprocessed = root
		}
		c.N, c.BatchSize, c.Crops, c.Seed = 3, 4, true, seed
		if name == "nearest" {
			c.Trainer = "nnUNetTrainer_DASegOrd0_NoMirroring"
		}
		often(t, &c)
		written(t, c)
		folder, err := preprocessedDataset(c.Dataset, c.RawFolder, c.PreprocessedFolder, "", false)
		require.NoError(t, err)
		data, err := train.OpenData(folder, c.PlansName, c.Configuration, c.Fold)
		require.NoError(t, err)
		configs[name], outputs[name] = c, filepath.Join(t.TempDir(), "theirs.npz")
		runs = append(runs, []string{c.Output, data.Cases.Folder(), outputs[name]})
	}
	golden.RunAll(t, "augment_batches.py", runs...)
	for name, c := range configs {
		f, err := npz.OpenNpz(outputs[name])
		require.NoError(t, err)
		voxels, different, largest := 0, 0, golden.Difference{}
		for n := range c.N {
			file := func(what string) *npz.Array { return readArray(t, c.Output, fmt.Sprintf("batch_%02d_%s.npy", n, what)) }
			image, crop := file("data"), file("crop_data")
			for j := range c.BatchSize {
				what := fmt.Sprintf("%s, batch %d, sample %d", name, n, j)
				in, err := sampleOf(t, crop, j).Float64s()
				require.NoError(t, err)
				got, err := sampleOf(t, image, j).Float64s()
				require.NoError(t, err)
				shape, theirs := golden.Float32s(t, f, fmt.Sprintf("%d/%d/data", n, j))
				require.Equal(t, image.Shape[1:], shape)
				width := max(slices.Max(in)-slices.Min(in), 1e-3)
				want := make([]float64, len(theirs))
				for i := range want {
					want[i], got[i] = float64(theirs[i])/width, got[i]/width
				}
				if d := golden.Close(t, what, "augment-chain", shape, want, got); d.Abs >= largest.Abs {
					largest = d
				}
				for k := 0; f.Has(fmt.Sprintf("%d/%d/target/%d", n, j, k)); k++ {
					ours := file(fmt.Sprintf("target_%d", k))
					theirs, err := f.Read(fmt.Sprintf("%d/%d/target/%d", n, j, k))
					require.NoError(t, err)
					require.Equal(t, ours.Shape[1:], theirs.Shape)
					require.Equal(t, ours.DType, theirs.DType)
					a, err := sampleOf(t, ours, j).Int16s()
					require.NoError(t, err)
					b, err := theirs.Int16s()
					require.NoError(t, err)
					voxels += len(a)
					for i := range a {
						if a[i] != b[i] {
							different++
							t.Logf("%s, target %d, voxel %d: found %d, expected %d", what, k, i, a[i], b[i])
						}
					}
				}
			}
		}
		require.NoError(t, f.Close())
		t.Logf("%s: %d of %d labels differ; images, as a part of the input's range: %v", name, different, voxels, largest)
		require.LessOrEqual(t, different, max(1, voxels/100000), name)
		require.Positive(t, voxels)
	}
}

// The first loss of a training is the one that nnU-Net's network and loss have on batch 0, to the bit.
func TestLiveFirstLossIsNnUNets(t *testing.T) {
	golden.Python(t)
	torchtest.Require(t)
	c := batchesOf(t, "3d_phantom")
	c.Dataset, c.PlansName, c.N, c.Seed = "102", "nnUNetPlansSource", 1, rand.Uint64()>>1
	t.Logf("seed %d", c.Seed)
	written(t, c)
	model := filepath.Join(golden.Root(t), "testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom")
	weights, theirs := filepath.Join(model, "fold_0/checkpoint_final.pth"), t.TempDir()
	golden.Run(t, "train_steps.py", "--out", theirs, "--plans", filepath.Join(model, "plans.json"), "--dataset-json", filepath.Join(model, "dataset.json"),
		"--configuration", "3d_phantom", "--weights", weights, "--batches", c.Output, "--threads", "2", "--deterministic", "--lr", "0.01")
	text, err := os.ReadFile(filepath.Join(theirs, "losses.json"))
	require.NoError(t, err)
	var losses struct{ Losses []float64 }
	require.NoError(t, json.Unmarshal(text, &losses))
	require.Len(t, losses.Losses, 1)

	tc := settings.New[TrainConfig]()
	tc.Dataset, tc.Configuration, tc.Fold, tc.PlansName = c.Dataset, c.Configuration, c.Fold, c.PlansName
	tc.Preprocessed, tc.Results = filepath.Join(t.TempDir(), "preprocessed"), filepath.Join(t.TempDir(), "results")
	require.NoError(t, os.CopyFS(tc.Preprocessed, os.DirFS(c.Preprocessed)))
	tc.MethodName, tc.Epochs, tc.Iterations, tc.ValIterations, tc.Seed, tc.Oversample = "full", 1, 1, 1, c.Seed, c.Oversample
	tc.Pretrained, tc.Head, tc.NoMirroring, tc.NoPrepare = weights, train.HeadKeep, true, true
	tc.Machine = machine.Machine{Device: torch.CPU, Threads: 2, Numerics: machine.Reference}
	r, err := Train(context.Background(), tc, Output{})
	require.NoError(t, err)
	f, err := checkpoint.Open(r.Checkpoint)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		state, err := f.Training(s)
		require.NoError(t, err)
		require.Equal(t, float32(losses.Losses[0]), state.Logging.TrainLosses[0])
		return nil
	}))
}

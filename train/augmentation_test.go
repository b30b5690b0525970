package train_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

// runData is what run.json says about batches.
type runData struct {
	Data struct {
		Augmentation     string
		Fixes            bool
		On               string
		PatchSize        []int           `json:"patch_size"`
		InitialPatchSize []int           `json:"initial_patch_size"`
		MirrorAxes       []int           `json:"mirror_axes"`
		Transforms       json.RawMessage `json:"transforms"`
		RandomStream     int             `json:"random_stream"`
		Sums             []string        `json:"batch_sha256"`
		SumsOf           string          `json:"batch_sha256_of"`
	}
	Timing struct {
		Wait struct {
			Share *float64
		} `json:"wait_for_data_ms"`
		Loader struct {
			Workers    int
			BusyShare  float64            `json:"busy_share"`
			QueueDepth map[string]int     `json:"queue_depth"`
			PerPatch   map[string]float64 `json:"per_patch_ms"`
		}
	}
}

func readRun(t *testing.T, checkpoint string) (d runData) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(checkpoint), "run.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &d))
	return d
}

// short is a training of two epochs of three iterations.
func short(t *testing.T) train.Config {
	c := tiny{}.config(t, "plain", "full", nil)
	c.Epochs, c.Iterations, c.ValIterations, c.Workers = 2, 3, 1, 2
	return c
}

func TestTrainersChooseListsAndMirrorAxes(t *testing.T) {
	torchtest.NoLeak(t)
	for trainer, want := range map[string]struct {
		list string
		axes []int
	}{
		"nnUNetTrainer":              {"nnunet", []int{0, 1, 2}},
		"nnUNetTrainerNoDA":          {"none", nil},
		"nnUNetTrainerNoMirroring":   {"nnunet", nil},
		"nnUNetTrainer_onlyMirror01": {"nnunet", []int{0, 1}},
	} {
		c := short(t)
		c.Trainer = trainer
		r := run(t, c)
		d := readRun(t, r.Checkpoint).Data
		require.Equal(t, want.list, d.Augmentation, trainer)
		require.Equal(t, want.list, listOf(t, r.Checkpoint), trainer)
		require.Equal(t, want.axes, d.MirrorAxes, trainer)
		f := open(t, r.Checkpoint)
		require.True(t, f.MirrorAxesKnown)
		require.Equal(t, want.axes, f.MirrorAxes, trainer)
	}
	c := short(t)
	c.Trainer = "nnUNetTrainerDA5"
	_, err := train.Run(context.Background(), c)
	require.ErrorContains(t, err, "trainer nnUNetTrainerDA5 uses another library's transforms")
}

func TestRunTellsWhatTheBatchesAre(t *testing.T) {
	torchtest.NoLeak(t)
	c := short(t)
	r := run(t, c)
	d := readRun(t, r.Checkpoint)
	require.Equal(t, "nnunet", d.Data.Augmentation)
	require.Equal(t, "cpu", d.Data.On)
	require.Equal(t, []int{8, 8, 8}, d.Data.PatchSize)
	require.Equal(t, []int{12, 12, 12}, d.Data.InitialPatchSize)
	require.Equal(t, augment.RandomStream, d.Data.RandomStream)
	require.Len(t, d.Data.Sums, 4)
	require.Equal(t, "data and targets", d.Data.SumsOf)
	var names []string
	require.NoError(t, json.Unmarshal(d.Data.Transforms, &names))
	require.Equal(t, "SpatialTransform", names[0])
	require.Equal(t, "DownsampleSegForDSTransform", names[len(names)-1])
	require.NotNil(t, d.Timing.Wait.Share)
	require.Equal(t, 2, d.Timing.Loader.Workers)
	require.Contains(t, d.Timing.Loader.QueueDepth, "median")
	for _, part := range []string{"read", "augment", "targets"} {
		require.Positive(t, d.Timing.Loader.PerPatch[part])
	}
	b, err := filepath.Glob(filepath.Join(r.Folder, "training_log*"))
	require.NoError(t, err)
	text, err := os.ReadFile(b[0])
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(text), "waited for data "))

	// the sums follow from data, list and seed alone
	c = short(t)
	c.Workers, c.LR = 1, 0.001
	require.Equal(t, d.Data.Sums, readRun(t, run(t, c).Checkpoint).Data.Sums)
	c = short(t)
	c.Seed++
	require.NotEqual(t, d.Data.Sums[0], readRun(t, run(t, c).Checkpoint).Data.Sums[0])
}

// edited writes the list in force to a file, with other numbers.
func edited(t *testing.T, old, new string) string {
	t.Helper()
	list, err := augment.New(augment.Setting{PatchSize: []int{8, 8, 8}, Channels: 3})
	require.NoError(t, err)
	text, err := json.Marshal(list)
	require.NoError(t, err)
	require.Contains(t, string(text), old)
	path := filepath.Join(t.TempDir(), "list.json")
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, new)), 0o600))
	return path
}

func TestInterruptedTrainingGoesOnWithItsList(t *testing.T) {
	torchtest.NoLeak(t)
	file := edited(t, `"p_rotation":0.2`, `"p_rotation":0.9`)
	config := func() train.Config {
		c := short(t)
		c.Augmentation, c.Fixes = file, true
		return c
	}
	whole := run(t, config())
	d := readRun(t, whole.Checkpoint).Data
	require.Regexp(t, `^list\.json \(sha256 [0-9a-f]{16}\)$`, d.Augmentation)
	require.True(t, d.Fixes)
	require.Contains(t, string(d.Transforms), `"p_rotation": 0.9`)

	c := config()
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{2, cancel}
	_, err := train.Run(ctx, c)
	var stopped *train.Interrupted
	require.True(t, errors.As(err, &stopped), "%v", err)
	require.NoError(t, os.Rename(file, file+".moved")) // the checkpoint has it
	c.Progress, c.Continue, c.Choice = nil, true, augment.Choice{}
	r := run(t, c)
	require.Equal(t, state(t, whole.Checkpoint), state(t, r.Checkpoint))
	require.Equal(t, d, readRun(t, r.Checkpoint).Data)
}

func TestAnotherListThanTheCheckpointsIsRefused(t *testing.T) {
	torchtest.NoLeak(t)
	c := short(t)
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{2, cancel}
	_, err := train.Run(ctx, c)
	var stopped *train.Interrupted
	require.True(t, errors.As(err, &stopped), "%v", err)
	c.Progress, c.Continue = nil, true

	for want, choice := range map[string]augment.Choice{
		"trained with augmentation nnunet (now mirror), which differ in initial_patch_size [12 12 12], now [8 8 8]": {Augmentation: "mirror"},
		"it was trained with mirror axes [0 1 2] (now [0])":                                                         {MirrorAxes: "0"},
		"trained with --augmentation-fixes false (now true)":                                                        {Fixes: true},
		`"p_rotation":0.2`: {Augmentation: edited(t, `"p_rotation":0.2`, `"p_rotation":0.3`)},
	} {
		c := c
		c.Choice = choice
		_, err := train.Run(context.Background(), c)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "leave the flags of augmentation out")
	}
	c.Augmentation = "nnunet" // the same
	run(t, c)
}

// witness looks at the goroutines while a case is predicted.
type witness struct {
	stopper
	cases, working int
}

func (w *witness) Begin(task string, _ int) {
	if strings.HasPrefix(task, "case_") {
		stacks := make([]byte, 1<<20)
		w.cases++
		w.working += bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("data/loader.(*Loader).work"))
	}
}

// During the final validation no worker waits with batches, and its time is not the workers'.
func TestWorkersEndWithTheTraining(t *testing.T) {
	torchtest.NoLeak(t)
	c := short(t)
	w := &witness{}
	c.Progress = w
	r := run(t, c)
	require.Equal(t, 2, w.cases)
	require.Zero(t, w.working)
	require.Positive(t, readRun(t, r.Checkpoint).Timing.Loader.BusyShare)
}

// What would be cut out is bounded before anything is read: by a FILE, by flags, by a checkpoint.
func TestHugePatchesAndBatchesAreRefused(t *testing.T) {
	torchtest.NoLeak(t)
	for _, on := range []train.AugmentOn{train.AugmentOnCPU, train.AugmentOnDevice} {
		for _, size := range []string{"[9000000000000000000,12,12]", "[4000,4000,4000]"} {
			c := short(t)
			c.AugmentOn, c.Augmentation = on, edited(t, `"initial_patch_size":[12,12,12]`, `"initial_patch_size":`+size)
			_, err := train.Run(context.Background(), c)
			require.ErrorContains(t, err, "list.json: patch size [8 8 8]: patches of ")
			require.ErrorContains(t, err, "with 3 channels would be cut out, expected 2^27 voxels at most")
		}
		c := short(t)
		c.AugmentOn, c.BatchSize = on, 1<<40
		_, err := train.Run(context.Background(), c)
		require.ErrorContains(t, err, "--batch-size 1099511627776: patches of [12 12 12] are cut out, expected 2^30 voxels in a batch at most")
	}
}

// Final validation mirrors over the axes that training mirrored over, which the checkpoint says.
func TestValidationMirrorsAsTrainingDid(t *testing.T) {
	torchtest.NoLeak(t)
	c := phantom(t, "full")
	c.Trainer, c.Npz, c.NoMirroring = "nnUNetTrainerNoMirroring", true, false
	c.Epochs, c.Iterations, c.ValIterations = 1, 1, 1
	r := run(t, c)
	files, err := filepath.Glob(filepath.Join(r.Folder, "validation", "*.npz"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	probabilities := func(folder string) []byte {
		b, err := os.ReadFile(filepath.Join(folder, filepath.Base(files[0])))
		require.NoError(t, err)
		return b
	}
	want := probabilities(filepath.Dir(files[0]))
	validate := func(checkpoint string, mirror bool) []byte {
		c := c
		c.Pretrained, c.ValidateOnly, c.ValidationFolder = "", true, t.TempDir()
		c.Checkpoint, c.NoMirroring = checkpoint, !mirror
		run(t, c)
		return probabilities(c.ValidationFolder)
	}
	require.Equal(t, want, validate(r.Checkpoint, false))
	require.Equal(t, want, validate(r.Checkpoint, true))
	require.NotEqual(t, validate(c.Pretrained, false), validate(c.Pretrained, true))
}

// Batches of the device are those of the workers up to rounding; they do not depend on the workers,
// and an interrupted training goes on with them.
func TestTrainingOnBatchesOfTheDevice(t *testing.T) {
	torchtest.NoLeak(t)
	config := func() train.Config {
		c := tiny{}.config(t, "plain", "full", nil)
		c.Epochs, c.Iterations, c.ValIterations, c.Workers = 2, 6, 1, 2
		c.Augmentation = edited(t, `"p_rotation":0.2`, `"p_rotation":0.6`)
		return c
	}
	cpu := config()
	want := logOf(t, run(t, cpu).Checkpoint)
	c := config()
	c.AugmentOn, c.Augmentation = train.AugmentOnDevice, cpu.Augmentation
	r := run(t, c)
	got := logOf(t, r.Checkpoint)
	for e := range want.TrainLosses {
		require.InDelta(t, want.TrainLosses[e], got.TrainLosses[e], 1e-3)
	}
	require.NotEqual(t, want.TrainLosses, got.TrainLosses, "other roundings")
	d := readRun(t, r.Checkpoint).Data
	require.Equal(t, "device", d.On)
	require.Equal(t, "crops and parameters, before the device transforms them", d.SumsOf)
	require.Len(t, d.Sums, 4)

	again := config()
	again.AugmentOn, again.Augmentation, again.Workers = train.AugmentOnDevice, cpu.Augmentation, 1
	ctx, cancel := context.WithCancel(context.Background())
	again.Progress = &stopper{3, cancel}
	_, err := train.Run(ctx, again)
	var stopped *train.Interrupted
	require.True(t, errors.As(err, &stopped), "%v", err)
	again.Progress, again.Continue, again.Choice, again.AugmentOn = nil, true, augment.Choice{}, train.AugmentOnCPU
	_, err = train.Run(context.Background(), again)
	require.ErrorContains(t, err, "augment_on device (now cpu)")
	again.AugmentOn = train.AugmentOnDevice
	r2 := run(t, again)
	require.Equal(t, state(t, r.Checkpoint), state(t, r2.Checkpoint))
	require.Equal(t, d, readRun(t, r2.Checkpoint).Data)
}

// Transforms that would fail at some draw are refused before anything is written: of the trainer's
// list, of a FILE. A checkpoint's list counts, not the one that flags would have made.
func TestListsThatMayFailAreRefusedAtTheStart(t *testing.T) {
	torchtest.NoLeak(t)
	config := func() train.Config {
		c := short(t)
		c.PatchSize = []int{2, 8, 8}
		return c
	}
	c := config()
	_, err := train.Run(context.Background(), c)
	require.ErrorContains(t, err, "train: augmentation nnunet: transform 4, GaussianBlurTransform: blur_sigma: found up to 1, "+
		"whose kernel of 7 needs 4 voxels, but axis 0 of the patch has 2; leave it out of a FILE for --augmentation")
	require.NoDirExists(t, c.Results)

	path := filepath.Join(t.TempDir(), "blur.json")
	blur := `{"transform":"GaussianBlurTransform","blur_sigma":[0.5,1],"synchronize_channels":false,"synchronize_axes":false,"p_per_channel":1}`
	require.NoError(t, os.WriteFile(path, []byte(`{"transforms":[`+blur+`]}`), 0o600))
	c = config()
	c.Augmentation = path
	_, err = train.Run(context.Background(), c)
	require.ErrorContains(t, err, "augmentation blur.json (sha256 ")
	require.ErrorContains(t, err, "transform 0, GaussianBlurTransform: blur_sigma")

	require.NoError(t, os.WriteFile(path, []byte(`{"transforms":[]}`), 0o600))
	c = config()
	c.Augmentation = path
	ctx, cancel := context.WithCancel(context.Background())
	c.Progress = &stopper{2, cancel}
	_, err = train.Run(ctx, c)
	var stopped *train.Interrupted
	require.True(t, errors.As(err, &stopped), "%v", err)
	c.Progress, c.Continue, c.Choice = nil, true, augment.Choice{}
	run(t, c)
}

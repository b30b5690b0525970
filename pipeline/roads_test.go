package pipeline

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

const (
	foundation = "testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom"
	target     = "Dataset102_PhantomTarget"
)

// From raw CTs and a foundation model to a model folder for nnU-Net, without a command line: what adapt
// and experiments call.
func TestRoadsNeedNoCommandLine(t *testing.T) {
	torchtest.Require(t)
	ctx, root := context.Background(), t.TempDir()
	raw, preprocessed := filepath.Join(root, "raw"), filepath.Join(root, "preprocessed")
	require.NoError(t, os.CopyFS(filepath.Join(raw, target), os.DirFS(repo(t, "testdata/phantom-mini/raw/"+target))))
	var log bytes.Buffer
	o := Output{Log: &log, Version: "test"}

	a := settings.New[AdoptConfig]()
	a.Model, a.Dataset, a.Raw, a.Preprocessed = repo(t, foundation), "102", raw, preprocessed
	adopted, err := Adopt(ctx, a, o)
	require.NoError(t, err)
	require.Equal(t, "nnUNetPlansAdopted", adopted.Plans)

	p := settings.New[PreprocessConfig]()
	p.Names, p.Raw, p.Preprocessed = []string{"102"}, raw, preprocessed
	p.PlansName, p.Configurations = adopted.Plans, []string{adopted.Configuration}
	require.NoError(t, os.WriteFile(filepath.Join(preprocessed, target, "splits_final.json"),
		[]byte(`[{"train": ["LN_000", "LN_001", "LN_002"], "val": ["LN_003"]}]`), 0o600))
	made := 0
	require.NoError(t, Preprocess(ctx, p, o, func(x Preprocessed) error { made += x.Made; return nil }))
	require.Equal(t, 4, made)

	c := settings.New[TrainConfig]()
	c.Dataset, c.Configuration, c.Fold = "102", adopted.Configuration, "0"
	c.Raw, c.Preprocessed, c.Results = raw, preprocessed, filepath.Join(root, "results")
	c.PlansName, c.Pretrained, c.MethodName = adopted.Plans, repo(t, foundation+"/fold_0/checkpoint_final.pth"), "dgst"
	c.Epochs, c.Iterations, c.ValIterations, c.NoMirroring, c.DeviceName = 1, 1, 1, true, "cpu"
	trained, err := Train(ctx, c, o)
	require.NoError(t, err)
	require.FileExists(t, trained.Checkpoint)
	require.FileExists(t, trained.Validation)
	require.Contains(t, log.String(), "0 cases made, 4 kept")

	v := settings.New[ValidateConfig]()
	v.Dataset, v.Configuration, v.Fold, v.Preprocessed, v.PlansName = "102", adopted.Configuration, "0", preprocessed, adopted.Plans
	v.Checkpoint, v.Output, v.NoMirror, v.DeviceName = trained.Checkpoint, filepath.Join(root, "validation"), true, "cpu"
	validated, err := Validate(ctx, v, o)
	require.NoError(t, err)
	require.Equal(t, trained.Dice, validated.Dice)

	e := settings.New[ExportConfig]()
	e.Model, e.Output = filepath.Dir(trained.Folder), filepath.Join(root, "exported")
	exported, err := Export(ctx, e, o)
	require.NoError(t, err)
	require.Equal(t, []string{"0"}, exported.Folds)
	require.FileExists(t, filepath.Join(exported.Folder, "fold_0", "checkpoint_final.pth"))
}

// Mistakes in a config struct are the caller's, whoever that is.
func TestMistakesOfTheCallerAreUsageErrors(t *testing.T) {
	var usage *settings.UsageError
	c := settings.New[TrainConfig]()
	_, err := Train(context.Background(), c, Output{})
	require.ErrorAs(t, err, &usage)
	require.ErrorContains(t, err, "--results is not given")
	c.Results, c.MethodName = "r", "dgts"
	_, err = Train(context.Background(), c, Output{})
	require.ErrorAs(t, err, &usage)
	_, err = Export(context.Background(), settings.New[ExportConfig](), Output{})
	require.ErrorAs(t, err, &usage)
	m := machine.Machine{DeviceName: "tpu"}
	_, err = m.Resolve()
	require.ErrorAs(t, err, &usage)
	m = machine.Machine{DeviceName: "cpu", AMP: machine.AMPFP16}
	_, err = m.Resolve()
	require.ErrorAs(t, err, &usage)
	require.Equal(t, 250, settings.New[train.Settings]().Iterations)
}

// auto takes the GPU that libtorch can use, else the CPU, and says which.
func TestAutoChoosesADevice(t *testing.T) {
	torchtest.Require(t)
	m := settings.New[machine.Machine]()
	note, err := m.Resolve()
	require.NoError(t, err)
	require.Contains(t, note, "device "+m.DeviceName)
	require.NotEqual(t, "auto", m.DeviceName)
	require.Positive(t, m.Threads)
	require.NotEqual(t, machine.AMPAuto, m.AMP)
	again, err := m.Resolve()
	require.NoError(t, err)
	require.Empty(t, again, "a device that was chosen is not chosen again")
}

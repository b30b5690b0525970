package train_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

// newer is what nnU-Net 2.6.2 wrote (scripts/golden/newer_nnunet.py).
func newer(t *testing.T, name string) string { return golden.Path(t, "nnunet/2.6.2/"+name) }

// newerPlans gives a training the plans of that nnU-Net's checkpoint.
func newerPlans(t *testing.T, c train.Config) train.Config {
	t.Helper()
	b, err := os.ReadFile(newer(t, "plans.json"))
	require.NoError(t, err)
	write(t, filepath.Join(c.Preprocessed, "nnUNetPlans.json"), string(b))
	return c
}

// Its checkpoints have fewer init_args; trainings go on from them and begin with them.
func TestACheckpointOfNnUNet262IsContinued(t *testing.T) {
	torchtest.NoLeak(t)
	c := newerPlans(t, tiny{}.config(t, "plain", "full", nil))
	fold := filepath.Join(c.Results, "Dataset900_Tiny/nnUNetTrainer__nnUNetPlans__tiny/fold_0")
	require.NoError(t, os.MkdirAll(fold, 0o755))
	b, err := os.ReadFile(newer(t, "checkpoint.pth"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(fold, "checkpoint_latest.pth"), b, 0o600))
	var log strings.Builder
	c.Continue, c.Epochs, c.Echo = true, 3, &log
	r := run(t, c)
	f := open(t, r.Checkpoint)
	require.Equal(t, 3, f.Epoch)
	require.Contains(t, log.String(), "the checkpoint is nnU-Net's: the training goes on with the augmentation of nnUNetTrainer (nnunet)")
	require.Equal(t, "nnunet", listOf(t, r.Checkpoint))
	require.Contains(t, log.String(), "Epoch 1")
	require.NotContains(t, log.String(), "Epoch 0")
	require.NotContains(t, log.String(), "could not be read")
	require.NotContains(t, log.String(), "is not prepared like")

	c = newerPlans(t, tiny{}.config(t, "plain", "full", nil))
	c.Pretrained, c.Head = newer(t, "checkpoint.pth"), train.HeadKeep
	got, _ := still(t, c)
	want := readWeights(t, newer(t, "checkpoint.pth"))
	require.Len(t, got, len(want))
	for name, w := range want {
		golden.Equal(t, name, nil, w, got[name])
	}
}

// Its folders of cases are known for what they are, and left alone.
func TestAFolderOfNnUNet262IsNamedAndLeftAlone(t *testing.T) {
	torchtest.NoLeak(t)
	owner, err := preprocess.FindOwner(newer(t, "tiny"))
	require.NoError(t, err)
	require.Equal(t, preprocess.NNUNetBlosc2, owner.Maker)
	require.ErrorContains(t, owner.Refusal(), "nnU-Net 2.6 or newer")
	_, err = dataset.Open(newer(t, "tiny"))
	require.ErrorContains(t, err, "preprocessed by nnU-Net 2.6 or newer (.b2nd), expected .npz")

	c := newerPlans(t, tiny{}.config(t, "plain", "full", nil))
	folder := filepath.Join(c.Preprocessed, "nnUNetPlans_tiny")
	require.NoError(t, os.RemoveAll(folder))
	require.NoError(t, os.CopyFS(folder, os.DirFS(newer(t, "tiny"))))
	_, err = train.Run(context.Background(), c)
	require.ErrorContains(t, err, folder)
	require.ErrorContains(t, err, "plan -overwrite_plans_name")
	require.NoDirExists(t, c.Results)
	require.Equal(t, contents(t, newer(t, "tiny")), contents(t, folder))
}

// contents are the files of a folder.
func contents(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, fs.WalkDir(os.DirFS(folder), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(folder, path))
		files[path] = string(b)
		return err
	}))
	require.NotEmpty(t, files)
	return files
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAugmentDrawsWithoutLibtorch(t *testing.T) {
	cmd := command(t, "augment", "sample", "--patch-size", "16,32,32", "--channels", "2", "-n", "3", "--seed", "4")
	cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so")
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	require.Len(t, lines, 3)
	for i, line := range lines {
		var s struct {
			Iteration, Sample int
			Transforms        []map[string]any
		}
		require.NoError(t, json.Unmarshal([]byte(line), &s))
		require.Equal(t, i, s.Iteration)
		require.Equal(t, 0, s.Sample)
		require.Len(t, s.Transforms, 10)
		for _, step := range s.Transforms {
			if step["apply_transform"] == false {
				require.Len(t, step, 2)
			}
		}
	}
	require.Equal(t, r.out, lntorch(t, "augment", "sample", "--patch-size", "16,32,32", "--channels", "2", "-n", "3", "--seed", "4").out)
}

func TestAugmentMistakesAreExplained(t *testing.T) {
	spec := filepath.Join(t.TempDir(), "spec.json")
	require.NoError(t, os.WriteFile(spec, []byte(`{"transforms":[{"transform":"Mirror"}]}`), 0o666))
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"augment draw", 2, `unknown command "draw": expected pipeline, sample, apply, preview or batches`},
		{"augment pipeline", 2, "found both or neither of --plans and --patch-size"},
		{"augment pipeline --patch-size 8", 2, "--patch-size: found 1 sizes, expected z,y,x or y,x"},
		{"augment pipeline --patch-size 8,8,8 --mirror-axes x", 2, `--mirror-axes: found "x"`},
		{"augment pipeline --patch-size 8,8,8 --mirror-axes 3", 2, "mirror axes [3], expected each of 0 to 2"},
		{"augment pipeline --patch-size 8,8,8 --augmentation none --mirror-axes 0", 2, "mirror axes [0], but augmentation none does not mirror"},
		{"augment pipeline --patch-size 8,8,8 --augmentation nnUnet", 2, `--augmentation: found "nnUnet", expected nnunet, mirror, none, or a file`},
		{"augment pipeline --patch-size 8,8,8 --augmentation " + spec, 1, spec + `: transform 0: unknown transform "Mirror"; did you mean "MirrorTransform"?`},
		{"augment pipeline --patch-size 8,8,8 -tr nnUNetTrainerDA5", 2, "trainer nnUNetTrainerDA5 uses another library's transforms"},
		{"augment pipeline --patch-size 8,8,8 --augmentation=", 2, "found an empty value: give one, or leave the flag out"},
		{"augment pipeline --patch-size 8,8,8 --seed 3", 2, "unknown flag: --seed"},
		{"augment pipeline --plans " + spec, 2, "-c is not given"},
		{"augment pipeline --plans p.json -c 2d --channels 2", 2, "--channels and --cascade-labels go with --patch-size"},
		{"augment sample --patch-size 8,8,8 -n 0", 2, "expected a whole number of at least 1"},
		{"augment apply", 2, "expected 1: SPEC.json"},
		{"augment apply " + spec, 2, "--data and -o must be given"},
		{"augment apply " + spec + " --data x.npy -o o.npz -device cpu", 2, "-device goes with --augment-on device"},
		{"augment apply " + spec + " --data x.npy -o o.npz --augment-on gpu", 2, "expected cpu or device"},
		{"augment apply " + spec + " --data x.npy -o o.npz", 1, spec + `: transform 0: unknown transform "Mirror"`},
		{"augment batches 102 3d_fullres", 2, "expected 3: DATASET CONFIGURATION FOLD"},
		{"augment batches 102 3d_fullres 0", 2, "-o is not given"},
		{"augment batches 102 3d_fullres 0 -o b", 2, "nnUNet_preprocessed is not set"},
		{"augment batches 102 3d_fullres 0 -o b -n 0", 2, "expected a whole number"},
		{"augment preview", 2, "expected 1: CASE"},
		{"augment preview LN_1.npz --plans p.json -c 2d", 2, "-o is not given"},
		{"augment preview LN_1.npz --patch-size 8,8,8 -n 51 -o s.png", 2, "expected a whole number"},
	} {
		r := lntorch(t, strings.Fields(c.args)...)
		require.Equal(t, c.code, r.code, "%s\n%s", c.args, r.errOut)
		require.Contains(t, r.errOut, c.want, c.args)
		require.Empty(t, r.out, c.args)
	}
}

func TestAugmentPreviewNeedsNoLibtorch(t *testing.T) {
	folder := repo(t, "testdata/phantom-mini/preprocessed/Dataset101_PhantomSource")
	path := filepath.Join(t.TempDir(), "sheet.png")
	cmd := command(t, "augment", "preview", filepath.Join(folder, "nnUNetPlans_3d_fullres/LN_000.npz"),
		"--plans", filepath.Join(folder, "nnUNetPlans.json"), "-c", "3d_fullres", "-o", path)
	cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so")
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, path+"\n", r.out)
	require.FileExists(t, path)
	require.Contains(t, lntorch(t, "augment", "preview", "--help").out, "-o sheet.png")
}

func TestAugmentBatchesNeedsNoLibtorch(t *testing.T) {
	out := filepath.Join(t.TempDir(), "new", "batches")
	args := []string{"augment", "batches", "102", "3d_phantom", "0", "-p", "nnUNetPlansSource", "-tr", "nnUNetTrainer_DGST",
		"--preprocessed", repo(t, "testdata/phantom-mini/preprocessed"), "--patch-size", "8,16,16", "-n", "2", "-o", out}
	cmd := command(t, args...)
	cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so")
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, out+"\n", r.out)
	for _, name := range []string{"data.npy", "target_0.npy"} {
		require.FileExists(t, filepath.Join(out, "batch_01_"+name))
	}
	require.FileExists(t, filepath.Join(out, "batch_01.json"))
	r = lntorch(t, args...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "--force")
	r = lntorch(t, append(args, "--force")...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, lntorch(t, "augment", "batches", "--help").out, "--crops")
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
)

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lntorch-test-*")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "lntorch")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if bin, err := build(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// result of a run of the program.
type result struct {
	code        int
	out, errOut string
}

// command prepares a run of the real program, in an environment without nnU-Net's folders.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	bin, err := build()
	require.NoError(t, err)
	cmd := exec.Command(bin, args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "nnUNet_") && !strings.HasPrefix(e, "LNTORCH_") || strings.HasPrefix(e, "LNTORCH_LIB=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	if os.Getenv("LNTORCH_LIB") == "" {
		cmd.Env = append(cmd.Env, "LNTORCH_LIB="+filepath.Join(golden.Root(t), "build/lib/liblntorch.so"))
	}
	return cmd
}

func execute(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

func lntorch(t *testing.T, args ...string) result { return execute(t, command(t, args...)) }

const foundation = "testdata/phantom-demo/foundation/nnUNetTrainer__nnUNetPlans__3d_phantom"

func repo(t testing.TB, path string) string { return filepath.Join(golden.Root(t), path) }

// trainArgs is a short training on phantom-mini's target cases.
func trainArgs(t *testing.T, results string, more ...string) []string {
	return append([]string{"train", "102", "3d_phantom", "0", "-p", "nnUNetPlansSource", "--preprocessed", repo(t, "testdata/phantom-mini/preprocessed"),
		"--results", results, "--epochs", "2", "--iterations", "3", "--val-iterations", "1", "--patch-size", "8,16,16", "--disable_tta"}, more...)
}

func foldOf(results, trainer string) string {
	return filepath.Join(results, "Dataset102_PhantomTarget", trainer+"__nnUNetPlansSource__3d_phantom", "fold_0")
}

func TestHelpNeedsNoLibtorch(t *testing.T) {
	cmd := command(t, "--help")
	cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so")
	r := execute(t, cmd)
	require.Equal(t, 0, r.code)
	for _, name := range []string{"train", "inspect", "doctor", "export"} {
		require.Contains(t, r.out, name)
		cmd := command(t, name, "--help")
		require.Contains(t, execute(t, cmd).out, "Examples:", name)
	}
}

// "context canceled" tells nobody what happened.
func TestWhatTheUserStoppedIsSaidInWords(t *testing.T) {
	for want, err := range map[string]error{
		"stopped by the user":              context.Canceled,
		"reading: stopped by the user":     fmt.Errorf("reading: %w", context.Canceled),
		"stopped by the user; 3 are there": fmt.Errorf("stopped by the user; 3 are there: %w", context.Canceled),
	} {
		require.Equal(t, want, stopped(err))
	}
}

func TestExitCodesAndMessages(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"trian"}, 2, []string{"unknown command", "train"}},
		{[]string{"train", "--foo"}, 2, []string{"unknown flag: --foo", "lntorch train --help"}},
		{[]string{"train", "102", "3d"}, 2, []string{"expected 3: DATASET CONFIGURATION FOLD"}},
		{[]string{"train", "102", "3d", "0", "--results", "r"}, 2, []string{"nnUNet_preprocessed is not set"}},
		{[]string{"train", "102", "3d", "0", "--results", "r", "--preprocessed", "/nowhere"}, 1, []string{"Dataset102_", "/nowhere"}},
		{[]string{"train", "102", "3d", "0", "--results", "r", "--preprocessed", repo(t, "testdata/phantom-mini/preprocessed"), "-device", "tpu"}, 2, []string{"cpu, cuda or cuda:N"}},
		{trainArgs(t, "r", "-tr", "nnUNetTrainer_DGST", "--method", "full"), 2, []string{"trainer of method dgst"}},
		{trainArgs(t, "r", "-tr", "nnUNetTrainerX"), 2, []string{"nnUNetTrainer_DGST"}},
		{trainArgs(t, "r", "--method", "full", "--dgst-k", "3"), 2, []string{"belongs to method dgst"}},
		{trainArgs(t, "r", "--method", "dgst", "--dgst-k", "0"), 2, []string{"1 or more"}},
		{trainArgs(t, "r", "--workers", "100000"), 2, []string{"--workers", "at most 256"}},
		{[]string{"inspect", repo(t, "README.md")}, 1, []string{"README.md", "expected a PyTorch checkpoint"}},
		{[]string{"convert", "a.pth", "-o", "a.txt"}, 2, []string{".pth"}},
		{[]string{"export", "somewhere", "-o", "x"}, 1, []string{"<trainer>__<plans>__<configuration>"}},
	} {
		r := lntorch(t, c.args...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.errOut)
		require.Empty(t, r.out, "%v: stdout is for results", c.args)
		for _, w := range c.want {
			require.Contains(t, r.errOut, w, "%v", c.args)
		}
	}
}

func TestWithoutLibtorchTheErrorTellsHowToGetIt(t *testing.T) {
	for _, args := range [][]string{{"doctor"}, trainArgs(t, t.TempDir(), "--method", "full")} {
		cmd := command(t, args...)
		cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so")
		r := execute(t, cmd)
		require.Equal(t, 1, r.code)
		require.Contains(t, r.out+r.errOut, "/nowhere.so: no such file")
		require.Contains(t, r.out+r.errOut, "make shim")
	}
	cmd := command(t, "inspect", repo(t, foundation))
	cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so")
	require.Equal(t, 0, execute(t, cmd).code, "what needs no libtorch works without")
}

func TestSettingsPrecedence(t *testing.T) {
	dir := t.TempDir()
	yaml := filepath.Join(dir, "s.yaml")
	require.NoError(t, os.WriteFile(yaml, []byte("epochs: 5\nval_iterations: 6\npatch-size: [8, 16, 16]\nthreads: 3\n"), 0o600))
	settings := func(env string, args ...string) map[string][2]string {
		cmd := command(t, append([]string{"config", "train", "--json"}, args...)...)
		if env != "" {
			cmd.Env = append(cmd.Env, env)
		}
		r := execute(t, cmd)
		require.Equal(t, 0, r.code, r.errOut)
		var list []struct{ Name, Value, Source string }
		require.NoError(t, json.Unmarshal([]byte(r.out), &list))
		out := map[string][2]string{}
		for _, s := range list {
			out[s.Name] = [2]string{s.Value, s.Source}
		}
		return out
	}
	s := settings("LNTORCH_THREADS=2", "--config", yaml)
	require.Equal(t, [2]string{"5", yaml}, s["epochs"])
	require.Equal(t, "6", s["val-iterations"][0])
	require.Equal(t, "8,16,16", s["patch-size"][0])
	require.Equal(t, [2]string{"2", "LNTORCH_THREADS"}, s["threads"])
	require.Equal(t, [2]string{"gradmask", "default"}, s["dgst-mode"])

	for name, text := range map[string]string{"s.toml": "epochs = 9\n", "s.json": `{"epochs": 9}`} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.Equal(t, "9", settings("", "--config", path)["epochs"][0])
	}
	bad := filepath.Join(dir, "bad.yaml")
	require.NoError(t, os.WriteFile(bad, []byte("epoch: 5\n"), 0o600))
	r := lntorch(t, "config", "--config", bad)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `no command has a flag "epoch"`)
}

func TestInspectKnowsWhatPyTorchSaved(t *testing.T) {
	r := lntorch(t, "inspect", "--json", "--digest", repo(t, foundation))
	require.Equal(t, 0, r.code, r.errOut)
	var doc inspection
	require.NoError(t, json.Unmarshal([]byte(r.out), &doc))
	require.Equal(t, "nnU-Net checkpoint", doc.Kind)
	require.Equal(t, "nnUNetTrainer", doc.Trainer)
	require.Equal(t, 36, *doc.Epoch)
	require.EqualValues(t, []int64{346006, 1, 2}, []int64{doc.Parameters, doc.Channels, doc.Classes})
	require.Contains(t, doc.Network, "PlainConvUNet, 4 stages")
	require.Len(t, doc.Tensors, 188)
	require.Contains(t, doc.Globals, "numpy.core.multiarray.scalar")
	for _, x := range doc.Tensors {
		require.Len(t, x.SHA256, 64)
	}
	require.Equal(t, "encoder.stages.0.0.convs.0.conv.weight", doc.Tensors[4].Alias)
	require.Equal(t, doc.Tensors[0].SHA256, doc.Tensors[4].SHA256)

	r = lntorch(t, "inspect", repo(t, "testdata/phantom-mini/trajectory/batch_00_target_0.npy"))
	require.Contains(t, r.out, "<i2")
	require.Contains(t, r.out, "[2 1 16 48 48]")
}

func TestConvertAndStrip(t *testing.T) {
	dir := t.TempDir()
	in := repo(t, foundation+"/fold_0/checkpoint_final.pth")
	copied, small, weights := filepath.Join(dir, "copy.pth"), filepath.Join(dir, "small.pth"), filepath.Join(dir, "w.pth")
	require.Equal(t, 0, lntorch(t, "convert", in, "-o", copied).code)
	require.Equal(t, 0, lntorch(t, "convert", in, "-o", small, "--strip-optimizer").code)
	require.Equal(t, 0, lntorch(t, "convert", in, "-o", weights, "--weights-only").code)
	r := lntorch(t, "convert", in, "-o", copied)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "--force")
	f, err := checkpoint.Open(small)
	require.NoError(t, err)
	defer f.Close()
	require.Len(t, f.Weights, 188)
	v, ok := f.Root().Get("optimizer_state")
	require.True(t, ok)
	require.Nil(t, v)
	w, err := checkpoint.Open(weights)
	require.NoError(t, err)
	defer w.Close()
	require.False(t, w.NNUNet)
}

func TestLiveConvertEqualsTheOriginalForPython(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	in := repo(t, foundation+"/fold_0/checkpoint_final.pth")
	require.Equal(t, 0, lntorch(t, "convert", in, "-o", filepath.Join(dir, "copy.pth")).code)
	golden.Run(t, "nnunet_stack.py", "compare-pth", in, filepath.Join(dir, "copy.pth"))
	require.Equal(t, 0, lntorch(t, "convert", in, "--weights-only", "-o", filepath.Join(dir, "w.pth")).code)
	golden.Run(t, "nnunet_stack.py", "weights-only", filepath.Join(dir, "w.pth"))
}

func TestInterruptSavesAndExits130(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	cmd := command(t, trainArgs(t, results, "--method", "dgst", "--epochs", "50")...)
	var log bytes.Buffer
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	fold := foldOf(results, "nnUNetTrainer_DGST")
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(fold, "checkpoint_latest.pth"))
		return err == nil
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	cmd.Wait()
	require.Equal(t, 130, cmd.ProcessState.ExitCode(), log.String())
	require.Contains(t, log.String(), "continue with --c")
	f, err := checkpoint.Open(filepath.Join(fold, "checkpoint_latest.pth"))
	require.NoError(t, err)
	epochs := f.Epoch + 1
	require.NoError(t, f.Close())
	cmd = command(t, trainArgs(t, results, "--method", "dgst", "--c", "--epochs", "50")...)
	log.Reset()
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	for past := false; !past; { // interrupted again once it has come past that epoch
		select {
		case <-ended:
			past = true
		case <-time.After(10 * time.Millisecond):
			if f, err := checkpoint.Open(filepath.Join(fold, "checkpoint_latest.pth")); err == nil {
				if past = f.Epoch > epochs; past {
					cmd.Process.Signal(os.Interrupt)
				}
				f.Close()
			}
		}
	}
	<-ended
	require.Contains(t, []int{0, 130}, cmd.ProcessState.ExitCode(), log.String())
}

// At whatever moment the program is killed, every checkpoint in the folder can be read, and training goes on from it.
func TestKilledAtAnyMomentLeavesReadableCheckpoints(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	fold := foldOf(results, "nnUNetTrainer_DGST")
	args := trainArgs(t, results, "--method", "dgst", "--epochs", "400")
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	progressed := 0
	for i := range 25 {
		more := args
		if i > 0 {
			more = append(append([]string{}, args...), "--c")
		}
		cmd := command(t, more...)
		begin := time.Now()
		require.NoError(t, cmd.Start())
		if i%2 == 0 { // while or just after a checkpoint is written
			require.Eventually(t, func() bool {
				info, err := os.Stat(filepath.Join(fold, "checkpoint_latest.pth"))
				return err == nil && info.ModTime().After(begin)
			}, time.Minute, time.Millisecond)
			time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
		} else {
			time.Sleep(time.Duration(rng.IntN(900)) * time.Millisecond)
		}
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		cmd.Wait()
		found, err := filepath.Glob(filepath.Join(fold, "*.pth"))
		require.NoError(t, err)
		for _, path := range found {
			f, err := pth.Open(path)
			require.NoError(t, err, "seed %d, kill %d", seed, i)
			require.NoError(t, f.Verify(0), "seed %d, kill %d: %s", seed, i, path)
			require.NoError(t, f.Close())
			if c, err := checkpoint.Open(path); err == nil {
				progressed = max(progressed, c.Epoch)
				c.Close()
			}
		}
	}
	require.Greater(t, progressed, 1, "training went on between the kills")
	litter, err := filepath.Glob(filepath.Join(fold, ".*"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(litter), 2, "at most what the last kill left: %v", litter)
}

func TestValidateAndCompare(t *testing.T) {
	torchtest.Require(t)
	dir := t.TempDir()
	pre := repo(t, "testdata/phantom-mini/preprocessed")
	r := lntorch(t, "validate", "102", "3d_phantom", "0", "--plans", "nnUNetPlansSource", "--preprocessed", pre, "--disable-tta",
		"--checkpoint", repo(t, "testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth"), "-o", dir+"/before")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "mean Dice")
	r = lntorch(t, "compare", "102", "3d_phantom", "a="+dir+"/before", "b="+dir+"/before", "--plans", "nnUNetPlansSource", "--preprocessed", pre,
		"--raw", repo(t, "testdata/phantom-mini/raw"), "-o", dir+"/c.png")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "LN_002")
	require.Contains(t, r.out, "mean")
	require.FileExists(t, dir+"/c.png")
	r = lntorch(t, "compare", "102", "3d_phantom", "a="+dir+"/before", "--plans", "nnUNetPlansSource", "--preprocessed", pre, "-o", dir+"/d.png")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "--raw is not given and nnUNet_raw is not set: the picture shows the images")

	// Scores on different grids are not set beside each other.
	b, err := os.ReadFile(dir + "/before/summary.json")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(dir+"/other", 0o755))
	require.NoError(t, os.WriteFile(dir+"/other/summary.json", bytes.ReplaceAll(b, []byte(".nii.gz"), []byte(".npz")), 0o600))
	r = lntorch(t, "compare", "102", "3d_phantom", "a="+dir+"/before", "b="+dir+"/other", "--preprocessed", pre)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "were scored on different grids")

	// The column of a metric that summary.json lacks comes from the counts in it.
	summary, err := eval.ReadSummary(dir + "/before/summary.json")
	require.NoError(t, err)
	r = lntorch(t, "compare", "102", "3d_phantom", "a="+dir+"/before", "--preprocessed", pre, "--metric", "Recall")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, fmt.Sprintf("%.3f", summary.Foreground(eval.Recall)))
	require.NotEqual(t, fmt.Sprintf("%.3f", summary.Foreground(eval.Recall)), fmt.Sprintf("%.3f", summary.Foreground(eval.Dice)))
	r = lntorch(t, "compare", "102", "3d_phantom", "a="+dir+"/before", "--preprocessed", pre, "--metric", "recall")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `metric "recall", expected one of Dice, FN, `)
}

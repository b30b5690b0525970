package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
)

// running is a program that was started.
type running struct {
	*exec.Cmd
	log *printed
}

// printed collects what a program prints while it runs.
type printed struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *printed) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *printed) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// background starts the program and waits until it has printed text.
func background(t *testing.T, text string, args ...string) *running {
	t.Helper()
	r := &running{command(t, args...), &printed{}}
	r.Stderr = r.log
	require.NoError(t, r.Start())
	ended := make(chan struct{})
	go func() { _ = r.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = r.Process.Kill()
		<-ended
	})
	require.Eventually(t, func() bool {
		select {
		case <-ended:
			t.Errorf("it ended: %s", r.log)
			return true
		default:
			return strings.Contains(r.log.String(), text)
		}
	}, time.Minute, 5*time.Millisecond, "%s", r.log)
	return r
}

// Two trainings of one fold: the second refuses and names the first, whose result stays its own. A lock of one
// that was killed does not block.
func TestASecondTrainingOfAFoldIsRefused(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	first := background(t, "Epoch 0", trainArgs(t, results, "--method", "full", "--epochs", "500")...)
	for _, more := range [][]string{{"--method", "full"}, {"--method", "full", "--c"}} {
		second := lntorch(t, trainArgs(t, results, more...)...)
		require.Equal(t, 1, second.code, second.errOut)
		require.Contains(t, second.errOut, fmt.Sprintf("%s is in use: process %d on ", foldOf(results, "nnUNetTrainer"), first.Process.Pid))
	}
	logs, err := filepath.Glob(filepath.Join(foldOf(results, "nnUNetTrainer"), "training_log_*"))
	require.NoError(t, err)
	require.Len(t, logs, 1, "the second wrote nothing")
	require.NoError(t, first.Process.Signal(syscall.SIGKILL))
	require.Eventually(t, func() bool { return first.Process.Signal(syscall.Signal(0)) != nil }, 10*time.Second, 5*time.Millisecond)
	third := lntorch(t, wholeArgs(t, results)...)
	require.Equal(t, 0, third.code, third.errOut)
}

func TestASecondValidationIntoAFolderIsRefused(t *testing.T) {
	torchtest.Require(t)
	out := filepath.Join(t.TempDir(), "before")
	require.NoError(t, os.Mkdir(out, 0o755))
	lock, err := folderlock.In(out) // as a validation under way has it
	require.NoError(t, err)
	args := []string{"validate", "102", "3d_phantom", "0", "--plans", "nnUNetPlansSource", "--preprocessed", repo(t, mini+"/preprocessed"),
		"--disable-tta", "--checkpoint", sourceCheckpoint(t), "-o", out}
	r := lntorch(t, args...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, fmt.Sprintf("%s is in use: process %d on ", out, os.Getpid()))
	require.NoFileExists(t, filepath.Join(out, "summary.json"))
	lock.Release()
	r = lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
}

// Folds of one model are trained side by side: they share its folder, and the data that the first one makes.
func TestFoldsAreTrainedAtTheSameTime(t *testing.T) {
	torchtest.Require(t)
	root, where := rawFolders(t, targetSet)
	results := filepath.Join(root, "results")
	copyFiles(t, repo(t, mini+"/preprocessed/"+targetSet), filepath.Join(root, "pre", targetSet), "splits_final.json")
	args := func(fold string) []string {
		return append([]string{"train", "102", "3d_phantom", fold, "-p", "nnUNetPlansSource", "-pretrained_weights", sourceCheckpoint(t), "--results", results,
			"--epochs", "2", "--iterations", "1", "--val-iterations", "1", "--disable_tta", "--threads", "1"}, where...)
	}
	var wg sync.WaitGroup
	folds := []string{"0", "1", "all"}
	got := make([]result, len(folds))
	for i, fold := range folds {
		wg.Go(func() { got[i] = lntorch(t, args(fold)...) })
	}
	wg.Wait()
	for i, fold := range folds {
		require.Equal(t, 0, got[i].code, "fold %s: %s", fold, got[i].errOut)
		require.FileExists(t, filepath.Join(results, targetSet, "nnUNetTrainer__nnUNetPlansSource__3d_phantom", "fold_"+fold, "validation", "summary.json"))
	}
	litter, err := filepath.Glob(filepath.Join(results, targetSet, "*", ".*.tmp"))
	require.NoError(t, err)
	require.Empty(t, litter)
}

// A training whose data another one is just making waits for it.
func TestTrainingWaitsForDataThatIsBeingMade(t *testing.T) {
	torchtest.Require(t)
	root, where := rawFolders(t, targetSet)
	folder := filepath.Join(root, "pre", targetSet)
	copyFiles(t, repo(t, mini+"/preprocessed/"+targetSet), folder, "nnUNetPlansSource.json", "splits_final.json")
	lock, err := folderlock.Beside(filepath.Join(folder, "nnUNetPlansSource_3d_fullres"))
	require.NoError(t, err)
	args := append([]string{"train", "102", "3d_phantom", "0", "-p", "nnUNetPlansSource", "--results", filepath.Join(root, "results"),
		"--epochs", "1", "--iterations", "1", "--val-iterations", "1", "--disable_tta"}, where...)
	r := background(t, "waiting: ", args...)
	require.Contains(t, r.log.String(), fmt.Sprintf("process %d on ", os.Getpid()))
	require.NotContains(t, r.log.String(), "Epoch 0")
	lock.Release()
	require.Eventually(t, func() bool { return strings.Contains(r.log.String(), "Validation complete") }, time.Minute, 10*time.Millisecond, "%s", r.log)
	require.Equal(t, 1, strings.Count(r.log.String(), "waiting"))
}

// foreign puts cases that nnU-Net 2.6.2 preprocessed where lntorch's would be, and gives what is there.
func foreign(t *testing.T, folder string) map[string]string {
	t.Helper()
	require.NoError(t, os.RemoveAll(folder))
	require.NoError(t, os.CopyFS(folder, os.DirFS(golden.Path(t, "nnunet/2.6.2/tiny"))))
	return folderContents(t, folder)
}

func folderContents(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		if !e.IsDir() {
			b, err := os.ReadFile(filepath.Join(folder, e.Name()))
			require.NoError(t, err)
			files[e.Name()] = string(b)
		}
	}
	return files
}

// Data of nnU-Net 2.6 stays as it is, and so do its plans, whatever is asked for.
func TestDataOfNewerNnUNetIsLeftAlone(t *testing.T) {
	torchtest.Require(t)
	root, where := rawFolders(t, sourceSet)
	require.NoError(t, os.CopyFS(filepath.Join(root, "pre", sourceSet), os.DirFS(repo(t, mini+"/preprocessed/"+sourceSet))))
	dir := filepath.Join(root, "pre", sourceSet)
	data := filepath.Join(dir, "nnUNetPlans_3d_fullres")
	cases, plans := foreign(t, data), folderContents(t, dir)
	train := []string{"train", "101", "3d_phantom", "0", "--results", filepath.Join(root, "results"), "--epochs", "1", "--iterations", "1", "--val-iterations", "1"}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"train":               {train, "plan and preprocess for lntorch under another name (plan -overwrite_plans_name)"},
		"train --no-prepare":  {append(train[:len(train):len(train)], "--no-prepare"), "found cases preprocessed by nnU-Net 2.6 or newer (.b2nd)"},
		"preprocess":          {[]string{"preprocess", "-d", "101", "-c", "3d_fullres"}, "plan under another name"},
		"preprocess --clean":  {[]string{"preprocess", "-d", "101", "-c", "3d_fullres", "--clean"}, "plan under another name"},
		"plan-and-preprocess": {[]string{"plan-and-preprocess", "-d", "101", "-c", "3d_fullres"}, "nothing was planned"},
		"through inheritance": {[]string{"plan-and-preprocess", "-d", "101", "-c", "3d_phantom"}, "nothing was planned"},
	} {
		r := lntorch(t, append(c.args, where...)...)
		require.Equal(t, 1, r.code, "%s: %s", name, r.errOut)
		require.Contains(t, r.errOut, c.want, name)
		require.Contains(t, r.errOut, data, name)
		require.Equal(t, cases, folderContents(t, data), name)
		require.Equal(t, plans, folderContents(t, dir), name)
	}
	// The way that the messages name.
	r := lntorch(t, append([]string{"plan-and-preprocess", "-d", "101", "-c", "3d_fullres", "-overwrite_plans_name", "ours"}, where...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, cases, folderContents(t, data))
}

// --quiet hides progress and log lines, not what is wrong.
func TestQuietKeepsWarningsAndProblems(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	args := wholeArgs(t, results, "--quiet")
	args[3] = "9" // splits_final.json has fewer folds
	r := lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: WARNING: You requested fold 9`, r.errOut)
	require.NotContains(t, r.errOut, "Epoch")
	require.NotContains(t, r.errOut, "train_loss")
	require.Contains(t, r.out, "mean Dice")

	r = lntorch(t, "validate", "102", "3d_phantom", "9", "--plans", "nnUNetPlansSource", "--preprocessed", repo(t, mini+"/preprocessed"), "--quiet",
		"--disable-tta", "--checkpoint", sourceCheckpoint(t), "-o", filepath.Join(results, "v"))
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "WARNING: You requested fold 9")
	require.NotContains(t, r.errOut, "predicting")

	// Cases that the dataset no longer has are removed, and named.
	root, where := rawFolders(t, targetSet)
	preprocess := append([]string{"preprocess", "-d", "102", "-c", "3d_fullres", "-plans_name", "nnUNetPlansSource", "--quiet"}, where...)
	copyFiles(t, repo(t, mini+"/preprocessed/"+targetSet), filepath.Join(root, "pre", targetSet), "nnUNetPlansSource.json")
	r = lntorch(t, preprocess...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Empty(t, r.errOut)
	for _, name := range []string{"imagesTr/LN_001_0000.nii.gz", "labelsTr/LN_001.nii.gz"} {
		require.NoError(t, os.Remove(filepath.Join(root, "raw", targetSet, name)))
	}
	r = lntorch(t, preprocess...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "WARNING: removing 1 preprocessed cases that the dataset no longer has: LN_001")

	// An integrity check names every problem.
	require.NoError(t, os.Remove(filepath.Join(root, "raw", targetSet, "labelsTr", "LN_002.nii.gz")))
	r = lntorch(t, append([]string{"fingerprint", "-d", "102", "--verify-dataset-integrity", "--quiet"}, where...)...)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "PROBLEM: ")
	require.NotContains(t, r.errOut, "problems, 0 warnings\n", "a log line")
}

// An emptied imagesTr, such as a share that is not mounted, costs no preprocessed case.
func TestAnEmptiedRawDatasetCostsNothing(t *testing.T) {
	torchtest.Require(t)
	root, where := rawFolders(t, targetSet)
	dir := filepath.Join(root, "pre", targetSet)
	copyFiles(t, repo(t, mini+"/preprocessed/"+targetSet), dir, "nnUNetPlansSource.json", "splits_final.json")
	preprocess := append([]string{"preprocess", "-d", "102", "-c", "3d_fullres", "-plans_name", "nnUNetPlansSource"}, where...)
	require.Equal(t, 0, lntorch(t, preprocess...).code)
	before := folderContents(t, filepath.Join(dir, "nnUNetPlansSource_3d_fullres"))
	images := filepath.Join(root, "raw", targetSet, "imagesTr")
	require.NoError(t, os.RemoveAll(images))
	require.NoError(t, os.Mkdir(images, 0o755))
	train := append([]string{"train", "102", "3d_phantom", "0", "-p", "nnUNetPlansSource", "--results", filepath.Join(root, "results"), "--epochs", "1",
		"--iterations", "1", "--val-iterations", "1"}, where...)
	for _, args := range [][]string{preprocess, append(preprocess, "--clean"), train} {
		r := lntorch(t, args...)
		require.Equal(t, 1, r.code, "%v: %s", args, r.errOut)
		require.Contains(t, r.errOut, "LN_000")
		require.Equal(t, before, folderContents(t, filepath.Join(dir, "nnUNetPlansSource_3d_fullres")))
	}
}

// Threads are the cores that the process may use, not those of the machine.
func TestThreadsRespectTheCoresOfTheProcess(t *testing.T) {
	torchtest.Require(t)
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		t.Skip("no taskset")
	}
	own := command(t, wholeArgs(t, t.TempDir(), "--epochs", "1")...)
	cmd := exec.Command(taskset, append([]string{"-c", "0", own.Path}, own.Args[1:]...)...)
	cmd.Env = own.Env
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "device cpu, 1 threads")
}

// --val writes no checkpoint, and names none.
func TestValidationAloneNamesNoCheckpoint(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	r := lntorch(t, wholeArgs(t, results, "--epochs", "1")...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, regexp.MustCompile(`(?m)^checkpoint  \S+checkpoint_final\.pth$`), r.out)
	for _, more := range []string{"--val", "--disable_checkpointing"} {
		r = lntorch(t, wholeArgs(t, results, "--epochs", "1", more)...)
		require.Equal(t, 0, r.code, r.errOut)
		require.NotContains(t, r.out, "checkpoint")
		require.Contains(t, r.out, "validation  ")
	}
}

// Weights that another program keeps under a key of its own are taken, and the log says from where.
func TestTheLogSaysHowACheckpointWasRead(t *testing.T) {
	f, err := pth.Open(sourceCheckpoint(t))
	require.NoError(t, err)
	defer f.Close()
	state, _ := f.Root.(*pickle.Dict).Get("network_weights")
	root := &pickle.Dict{}
	root.Set("epoch", int64(3))
	root.Set("model", state)
	dir := t.TempDir()
	path := filepath.Join(dir, "lightning.pth")
	require.NoError(t, pth.Save(path, root))
	note := path + `: the weights are those under the key "model"`
	for _, args := range [][]string{
		{"convert", path, "-o", filepath.Join(dir, "out.safetensors")},
		{"convert", path, "--weights-only", "-o", filepath.Join(dir, "out.pth")},
	} {
		r := lntorch(t, args...)
		require.Equal(t, 0, r.code, r.errOut)
		require.Contains(t, r.errOut, note)
	}
	r := lntorch(t, "merge", path, "-o", filepath.Join(dir, "merged.pth"))
	require.Contains(t, r.errOut, note)
	torchtest.Require(t)
	r = lntorch(t, wholeArgs(t, t.TempDir(), "--epochs", "1", "-pretrained_weights", path)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, note)

	// Metadata that cannot be understood is named where it matters to nobody else.
	model := modelFolder(t, "nnUNetTrainer__nnUNetPlans__3d_phantom", []string{"fold_0"}, func(root *pickle.Dict) { root.Set("current_epoch", "many") })
	r = lntorch(t, "export", model, "-o", filepath.Join(dir, "exported"))
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "metadata that could not be read, which does not affect the weights: ")
	require.Contains(t, r.errOut, "current_epoch")
}

// A checkpoint of nnU-Net 2.6.2 gives the logits that it gave there.
func TestForwardOfNnUNet262(t *testing.T) {
	torchtest.Require(t)
	out := filepath.Join(t.TempDir(), "logits.npz")
	r := lntorch(t, "forward", "--checkpoint", golden.Path(t, "nnunet/2.6.2/checkpoint.pth"), "--input", golden.Path(t, "nnunet/2.6.2/input.npy"), "-o", out)
	require.Equal(t, 0, r.code, r.errOut)
	shape, want := golden.Float32s(t, golden.Load(t, "nnunet/2.6.2/logits.npz"), "head_0")
	_, shapes, got := readArrays(t, out)
	require.Equal(t, shape, shapes["head_0"])
	golden.Close(t, "head_0", "forward", shape, want, got["head_0"])
	r = lntorch(t, "inspect", golden.Path(t, "nnunet/2.6.2/checkpoint.pth"))
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "nnUNetPlans of Dataset900_Tiny, configuration tiny, fold all")
}

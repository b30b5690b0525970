package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// startedRank is a process of a training that a launcher could have started.
type startedRank struct {
	*exec.Cmd
	out, err printed
	ended    chan struct{}
}

// startRanks starts a training as ranks, whose results folders are apart: rank 0's is the first.
func startRanks(t *testing.T, world int, args []string) []*startedRank {
	t.Helper()
	return startRanksEach(t, world, func(int) []string { return args })
}

// startRanksEach is startRanks with arguments of each rank's own.
func startRanksEach(t *testing.T, world int, args func(rank int) []string) []*startedRank {
	t.Helper()
	return startCommands(t, world, func(rank int) *exec.Cmd { return command(t, args(rank)...) })
}

// startCommands starts commands as ranks.
func startCommands(t *testing.T, world int, of func(rank int) *exec.Cmd) []*startedRank {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, l.Close())
	list := make([]*startedRank, world)
	for rank := range list {
		cmd := of(rank)
		cmd.Env = append(cmd.Env, fmt.Sprintf("RANK=%d", rank), fmt.Sprintf("WORLD_SIZE=%d", world), fmt.Sprintf("LOCAL_RANK=%d", rank),
			fmt.Sprintf("LOCAL_WORLD_SIZE=%d", world), "MASTER_ADDR=127.0.0.1", "MASTER_PORT="+port)
		r := &startedRank{Cmd: cmd, ended: make(chan struct{})}
		cmd.Stdout, cmd.Stderr = &r.out, &r.err
		require.NoError(t, cmd.Start())
		go func() {
			_ = cmd.Wait() // the state says how it ended
			close(r.ended)
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-r.ended
		})
		list[rank] = r
	}
	return list
}

// within waits for the end of a rank.
func (r *startedRank) within(t *testing.T, limit time.Duration) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(limit):
		t.Fatalf("does not end within %v", limit)
	}
}

// longRanks is a training that does not end by itself in a test's time.
func longRanks(t *testing.T, results string, more ...string) []string {
	return trainArgs(t, results, append([]string{"-device", "cpu", "--threads", "1", "--epochs", "400", "--iterations", "3"}, more...)...)
}

// awaitFile waits until a file is there, and a little, chosen by chance, so that what follows comes anywhere in an iteration.
func awaitFile(t *testing.T, path string, random *rand.Rand) {
	t.Helper()
	require.Eventually(t, func() bool { _, err := os.Stat(path); return err == nil }, time.Minute, 10*time.Millisecond, path)
	time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
}

// awaitBest waits until the best checkpoint is of a later epoch than the latest, which --c goes on from nevertheless.
func awaitBest(t *testing.T, latest string) {
	t.Helper()
	epoch := func(path string) int {
		f, err := checkpoint.Open(path)
		require.NoError(t, err)
		defer f.Close()
		return f.Epoch
	}
	best := filepath.Join(filepath.Dir(latest), "checkpoint_best.pth")
	require.Eventually(t, func() bool { return epoch(best) > epoch(latest) }, time.Minute, 10*time.Millisecond)
}

// requireWhole reads a checkpoint to its end and gives the epoch that it goes on with.
func requireWhole(t *testing.T, path string) int {
	t.Helper()
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	for _, w := range f.Weights {
		require.NoError(t, w.ReadInto(make([]byte, w.Bytes())))
	}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		_, err := f.Training(s)
		return err
	}))
	return f.Epoch
}

// torchrun's single rank trains alone, whatever -num_gpus asks for, and says so.
func TestNumGPUsThatIsNotUsedIsSaid(t *testing.T) {
	cmd := command(t, "trace", "-num_gpus", "2")
	cmd.Env = append(cmd.Env, "RANK=0", "WORLD_SIZE=1", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1", "TORCHELASTIC_RUN_ID=job")
	out, _ := cmd.CombinedOutput() // there is nothing to trace
	require.Contains(t, string(out), "lntorch: -num_gpus 2 is not used: torchrun started 1 rank\n")
	require.Contains(t, string(out), "--checkpoint, --batches and -o must be given")
}

// -num_gpus trains on the CPU, too: one rank speaks and writes, both predict the final validation.
func TestNumGPUsTrainsTogether(t *testing.T) {
	torchtest.Require(t)
	results, alone := t.TempDir(), t.TempDir()
	r := lntorch(t, trainArgs(t, results, "-device", "cpu", "-num_gpus", "2", "--threads", "1")...)
	require.Equal(t, 0, r.code, r.errOut)
	fold := foldOf(results, "nnUNetTrainer")
	require.Equal(t, 1, strings.Count(r.out, "mean Dice"), r.out)
	require.Contains(t, r.errOut, "2 ranks on 1 host (gloo): 2 patches an iteration, 1 a rank; gradients 1.38 MB")
	require.Contains(t, r.errOut, "[rank 1] ")
	require.Regexp(t, `\[rank 1\] .*predicting LN_003`, r.errOut)
	require.Equal(t, 2, strings.Count(r.errOut, "predicting LN_"), r.errOut)
	require.Regexp(t, `\d+\.\d\d patches a second`, r.errOut)
	require.Regexp(t, `waited for other ranks: rank 0 .* s \(.* %\), rank 1 `, r.errOut)
	logs, err := filepath.Glob(filepath.Join(fold, "training_log_*.txt"))
	require.NoError(t, err)
	require.Len(t, logs, 1)
	var doc struct {
		Status      string
		Distributed struct {
			World    int    `json:"world_size"`
			Backend  string `json:"backend"`
			Launcher string `json:"launcher"`
			Restart  int    `json:"restart"`
			Ranks    []struct {
				Host, Device  string
				Threads, Rows int
			}
			Comm struct {
				Bytes   int64              `json:"gradient_bytes"`
				Buckets int                `json:"buckets"`
				Wait    map[string]float64 `json:"wait_ms"`
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(fold, "run.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &doc))
	d := doc.Distributed
	require.Equal(t, "validated", doc.Status)
	require.Equal(t, []any{2, "gloo", "num_gpus", 0}, []any{d.World, d.Backend, d.Launcher, d.Restart})
	require.Len(t, d.Ranks, 2)
	for _, r := range d.Ranks {
		require.NotEmpty(t, r.Host)
		require.Equal(t, []any{"cpu", 1, 1}, []any{r.Device, r.Threads, r.Rows})
	}
	require.Equal(t, int64(4*(346006-66)), d.Comm.Bytes, "without the lowest head")
	require.Positive(t, d.Comm.Buckets)
	require.Positive(t, d.Comm.Wait["median"])

	require.Equal(t, 0, lntorch(t, trainArgs(t, alone, "-device", "cpu", "--threads", "1")...).code)
	lines := func(results string) (found []string) {
		logs, err := filepath.Glob(filepath.Join(foldOf(results, "nnUNetTrainer"), "training_log_*.txt"))
		require.NoError(t, err)
		text, err := os.ReadFile(logs[0])
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if i := strings.Index(line, "_loss "); i > 0 {
				found = append(found, line[i:])
			}
		}
		return found
	}
	require.Len(t, lines(alone), 4)
	require.Equal(t, lines(alone), lines(results), "losses to four digits")
}

// A rank that is killed, wherever it is, ends the others soon, with who it was and how to go on; the checkpoint that they name
// is whole.
func TestKilledRankEndsTheOthers(t *testing.T) {
	torchtest.Require(t)
	random := rand.New(rand.NewPCG(7, uint64(time.Now().UnixNano())))
	for i := range repeats(t, 2) {
		const world = 3
		results := t.TempDir()
		latest := filepath.Join(foldOf(results, "nnUNetTrainer"), "checkpoint_latest.pth")
		list := startRanks(t, world, longRanks(t, results, "--batch-size", "3", "--save-every", "3"))
		awaitFile(t, latest, random)
		if i%2 == 1 {
			awaitBest(t, latest)
		}
		dead := random.IntN(world)
		require.NoError(t, list[dead].Process.Kill())
		start := time.Now()
		for rank, r := range list {
			r.within(t, 10*time.Second)
			if rank == dead {
				continue
			}
			require.Equal(t, 1, r.ProcessState.ExitCode(), r.err.String())
			require.Regexp(t, fmt.Sprintf(`lntorch: rank %d \(host \S+, pid %d\) is gone: epoch \d+, iteration \d+\. Last saved: %s \(epoch \d+\)\. Go on with --c\n$`,
				dead, list[dead].Process.Pid, latest), r.err.String())
		}
		t.Logf("rank %d was killed; the others ended after %v", dead, time.Since(start).Round(time.Millisecond))
		require.Positive(t, requireWhole(t, latest))
		entries, err := filepath.Glob(filepath.Join(filepath.Dir(latest), "*.pth"))
		require.NoError(t, err)
		for _, path := range entries {
			requireWhole(t, path)
		}
		if python := os.Getenv("LNTORCH_PYTHON"); python != "" {
			const load = "import sys, torch\nfor p in sys.argv[1:]: assert torch.load(p, map_location='cpu', weights_only=False)['network_weights']"
			out, err := exec.Command(python, append([]string{"-c", load}, entries...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
}

// A rank that cannot begin, for what is wrong where it runs, ends all at once, each with one message: no time limit is
// waited for.
func TestARankThatCannotBeginEndsTheOthers(t *testing.T) {
	torchtest.Require(t)
	add := func(flags ...string) func(t *testing.T, args []string) []string {
		return func(_ *testing.T, args []string) []string { return append(args, flags...) }
	}
	for name, c := range map[string]struct {
		at     []int
		change func(t *testing.T, args []string) []string // of those ranks
		want   string
	}{
		"no results folder": {[]int{0}, func(_ *testing.T, args []string) []string {
			i := slices.Index(args, "--results")
			return slices.Delete(args, i, i+2)
		}, "nnUNet_results"},
		"another method": {[]int{1}, add("--method", "norm"), "method (full on rank 0, norm on rank 1)"},
		"a missing GPU":  {[]int{1}, add("-device", "cuda:7"), "cuda:7"},
		"other plans": {[]int{1}, func(t *testing.T, args []string) []string {
			preprocessed := t.TempDir()
			require.NoError(t, os.CopyFS(preprocessed, os.DirFS(repo(t, "testdata/phantom-mini/preprocessed"))))
			plans := filepath.Join(preprocessed, "Dataset102_PhantomTarget", "nnUNetPlansSource.json")
			text := strings.Replace(read(t, plans), `"batch_dice": false`, `"batch_dice": true`, 1)
			require.NotEqual(t, read(t, plans), text)
			require.NoError(t, os.WriteFile(plans, []byte(text), 0o600))
			return append(args, "--preprocessed", preprocessed)
		}, "which differ in plans nnUNetPlansSource.json (one on rank 0, another on rank 1)"},
		"fewer patches than ranks":   {[]int{0, 1}, add("--batch-size", "1"), "batches of 1 for 2 ranks: each needs a patch at least; give --batch-size 2 or more"},
		"an unknown flag":            {[]int{1}, add("--no-such-flag"), "unknown flag: --no-such-flag"},
		"an unknown flag on rank 0":  {[]int{0}, add("--no-such-flag"), "unknown flag: --no-such-flag"},
		"an unknown flag everywhere": {[]int{0, 1}, add("--no-such-flag"), "unknown flag: --no-such-flag"},
		"a setting out of range":     {[]int{1}, add("--lr", "-1"), `--lr: found "-1"`},
		"an argument too many":       {[]int{1}, add("more"), "found 4 arguments, expected 3"},
		"a file of settings that is none": {[]int{1}, add("--config", "/no/such.yaml"),
			"--config /no/such.yaml: "},
	} {
		t.Run(name, func(t *testing.T) {
			list := startRanksEach(t, 2, func(rank int) []string {
				args := longRanks(t, t.TempDir(), "--dist-timeout", "3600")
				if slices.Contains(c.at, rank) {
					args = c.change(t, args)
				}
				return args
			})
			start := time.Now()
			requireRefused(t, list, c.want)
			t.Logf("after %v", time.Since(start).Round(time.Millisecond))
		})
	}
}

// requireRefused waits until all ranks have ended, each with one message that says what is wanted.
func requireRefused(t *testing.T, list []*startedRank, want string) {
	t.Helper()
	for rank, r := range list {
		r.within(t, time.Minute)
		require.Contains(t, []int{1, 2}, r.ProcessState.ExitCode(), "rank %d: %s", rank, &r.err)
		require.Equal(t, 1, strings.Count(r.err.String(), "lntorch: "), "rank %d: %s", rank, &r.err)
		require.Contains(t, r.err.String(), want, "rank %d", rank)
	}
}

// Ranks of two builds of the program do not train together.
func TestRanksAreOfOneProgram(t *testing.T) {
	torchtest.Require(t)
	other := filepath.Join(t.TempDir(), "lntorch")
	out, err := exec.Command("go", "build", "-ldflags", "-X main.version=v0.0.7", "-o", other, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	requireRefused(t, startCommands(t, 2, func(rank int) *exec.Cmd {
		cmd := command(t, longRanks(t, t.TempDir(), "--dist-timeout", "3600")...)
		if rank == 1 {
			cmd.Path = other
		}
		return cmd
	}), "which differ in lntorch's version (dev on rank 0, v0.0.7 on rank 1): start all of them with the same program")
}

// repeats is how often a test of chance is made: n times, or as LNTORCH_REPEATS says.
func repeats(t *testing.T, n int) int {
	if text := os.Getenv("LNTORCH_REPEATS"); text != "" {
		_, err := fmt.Sscan(text, &n)
		require.NoError(t, err)
	}
	return n
}

// A rank that hangs is given up after --dist-timeout.
func TestHangingRankIsGivenUp(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	latest := filepath.Join(foldOf(results, "nnUNetTrainer"), "checkpoint_latest.pth")
	list := startRanks(t, 2, longRanks(t, results, "--dist-timeout", "3"))
	awaitFile(t, latest, rand.New(rand.NewPCG(1, 1)))
	require.NoError(t, list[1].Process.Signal(syscall.SIGSTOP))
	list[0].within(t, 20*time.Second)
	require.Equal(t, 1, list[0].ProcessState.ExitCode())
	require.Regexp(t, fmt.Sprintf(`rank 1 \(host \S+, pid %d\) does not answer \(time limit 3s\): epoch \d+, iteration \d+\. Last saved: `, list[1].Process.Pid),
		list[0].err.String())
	requireWhole(t, latest)
}

// Ctrl-C at one rank, or SIGTERM, ends all after the same iteration, saved by rank 0, with exit code 130.
func TestCtrlCAtOneRankEndsAll(t *testing.T) {
	torchtest.Require(t)
	for by, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		results := t.TempDir()
		latest := filepath.Join(foldOf(results, "nnUNetTrainer"), "checkpoint_latest.pth")
		list := startRanks(t, 2, longRanks(t, results))
		awaitFile(t, latest, rand.New(rand.NewPCG(1, uint64(by))))
		require.NoError(t, list[by].Process.Signal(signal))
		var said []string
		for _, r := range list {
			r.within(t, 10*time.Second)
			require.Equal(t, 130, r.ProcessState.ExitCode(), r.err.String())
			i := strings.LastIndex(r.err.String(), "lntorch: train: stopped in epoch")
			require.GreaterOrEqual(t, i, 0, r.err.String())
			said = append(said, r.err.String()[i:])
		}
		require.Equal(t, said[0], said[1])
		require.Contains(t, said[0], "saved in "+latest+"; continue with --c")
		requireWhole(t, latest)
	}
}

// Ranks that a launcher started predict every n-th case each; one without a case ends well. --dist off is for all cases.
func TestRanksPredictTheirCases(t *testing.T) {
	torchtest.Require(t)
	scans, model := repo(t, "testdata/phantom-mini/raw/Dataset102_PhantomTarget/imagesTs"), repo(t, sourceModel)
	out := t.TempDir()
	files := func() (found []string) {
		paths, err := filepath.Glob(filepath.Join(out, "*.nii.gz"))
		require.NoError(t, err)
		for _, p := range paths {
			found = append(found, filepath.Base(p))
		}
		return found
	}
	asRank := func(rank int, more ...string) result {
		cmd := command(t, append([]string{"predict", "-i", scans, "-o", out, "-m", model, "--disable_tta", "-device", "cpu", "--threads", "1"}, more...)...)
		cmd.Env = append(cmd.Env, fmt.Sprintf("RANK=%d", rank), "WORLD_SIZE=3", fmt.Sprintf("LOCAL_RANK=%d", rank), "LOCAL_WORLD_SIZE=3")
		return execute(t, cmd)
	}
	for rank, want := range [][]string{{"LN_004.nii.gz"}, {"LN_004.nii.gz", "LN_005.nii.gz"}, {"LN_004.nii.gz", "LN_005.nii.gz"}} {
		r := asRank(rank)
		require.Equal(t, 0, r.code, r.errOut)
		require.Equal(t, want, files(), "after rank %d", rank)
		require.FileExists(t, filepath.Join(out, fmt.Sprintf("run_%d_of_3.json", rank)))
	}
	out = t.TempDir()
	r := asRank(0, "--dist", "off", "--dry-run")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "LN_005")
}

// Dropout is that of the row in the global batch: ranks lose what one rank loses.
func TestRanksDropWhatOneDrops(t *testing.T) {
	torchtest.Require(t)
	preprocessed := t.TempDir()
	require.NoError(t, os.CopyFS(preprocessed, os.DirFS(repo(t, "testdata/phantom-mini/preprocessed"))))
	plans := filepath.Join(preprocessed, "Dataset102_PhantomTarget", "nnUNetPlansSource.json")
	b, err := os.ReadFile(plans)
	require.NoError(t, err)
	text := strings.ReplaceAll(string(b), `"dropout_op": null`, `"dropout_op": "torch.nn.modules.dropout.Dropout3d"`)
	text = strings.ReplaceAll(text, `"dropout_op_kwargs": null`, `"dropout_op_kwargs": {"p": 0.5}`)
	require.NotEqual(t, string(b), text)
	require.NoError(t, os.WriteFile(plans, []byte(text), 0o600))
	losses := func(more ...string) []float32 {
		results := t.TempDir()
		r := lntorch(t, trainArgs(t, results, append([]string{"--preprocessed", preprocessed, "--threads", "1", "-device", "cpu"}, more...)...)...)
		require.Equal(t, 0, r.code, r.errOut)
		f, err := checkpoint.Open(filepath.Join(foldOf(results, "nnUNetTrainer"), "checkpoint_final.pth"))
		require.NoError(t, err)
		defer f.Close()
		var found []float32
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			training, err := f.Training(s)
			if err == nil {
				found = training.Logging.TrainLosses
			}
			return err
		}))
		require.Len(t, found, 2)
		return found
	}
	one, two := losses(), losses("-num_gpus", "2")
	for i := range one {
		require.InEpsilon(t, one[i], two[i], 1e-4, "epoch %d", i)
	}
}

// A second Ctrl-C ends a rank at once, though another keeps it waiting; that one then says who is gone.
func TestASecondCtrlCEndsARankAtOnce(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	latest := filepath.Join(foldOf(results, "nnUNetTrainer"), "checkpoint_latest.pth")
	list := startRanks(t, 2, longRanks(t, results, "--save-every", "1"))
	awaitFile(t, latest, rand.New(rand.NewPCG(1, 1)))
	require.NoError(t, list[0].Process.Signal(syscall.SIGSTOP))
	list[1].rests(t)
	require.NoError(t, list[1].Process.Signal(os.Interrupt))
	list[1].rests(t)
	require.False(t, list[1].over(), "after the first it waits for the others, to stop when they do")
	list[1].again(t, os.Interrupt)
	require.NoError(t, list[0].Process.Signal(syscall.SIGCONT))
	list[0].within(t, 10*time.Second)
	require.Equal(t, 1, list[0].ProcessState.ExitCode(), &list[0].err)
	require.Regexp(t, fmt.Sprintf(`lntorch: rank 1 \(host \S+, pid %d\) is gone: epoch \d+, iteration \d+\. Last saved: %s \(epoch \d+\)\. Go on with --c\n$`,
		list[1].Process.Pid, latest), list[0].err.String())
	requireWhole(t, latest)
}

// again sends a signal until it has ended the process, which it does at once: the process may not have made out the one
// before yet.
func (r *startedRank) again(t *testing.T, signal os.Signal) {
	t.Helper()
	require.Eventually(t, func() bool {
		_ = r.Process.Signal(signal)
		return r.over()
	}, 10*time.Second, 200*time.Millisecond)
	status := r.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, status.Signaled())
	require.Equal(t, signal, os.Signal(status.Signal()), "which a shell calls exit code 130")
}

// A second Ctrl-C ends -num_gpus and its ranks at once, even where one does not answer.
func TestASecondCtrlCEndsNumGPUsAtOnce(t *testing.T) {
	torchtest.Require(t)
	results := t.TempDir()
	cmd := command(t, longRanks(t, results, "-num_gpus", "2")...)
	r := &startedRank{Cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &r.out, &r.err
	require.NoError(t, cmd.Start())
	go func() {
		_ = cmd.Wait() // until the ranks have closed its output, too
		close(r.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-r.ended
	})
	awaitFile(t, filepath.Join(foldOf(results, "nnUNetTrainer"), "checkpoint_latest.pth"), rand.New(rand.NewPCG(1, 1)))
	var ranks []int
	for _, path := range glob(t, fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid)) {
		for _, field := range strings.Fields(read(t, path)) {
			pid, err := strconv.Atoi(field)
			require.NoError(t, err)
			ranks = append(ranks, pid)
		}
	}
	require.Len(t, ranks, 2)
	require.NoError(t, syscall.Kill(ranks[0], syscall.SIGSTOP))
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	time.Sleep(300 * time.Millisecond)
	require.False(t, r.over(), "after the first all stop together")
	r.again(t, os.Interrupt)
}

// Only rank 0 need see pretrained weights and results: the training of ranks of which one sees neither has the bits of one
// where both do, stopped and gone on with or not.
func TestOnlyRankZeroNeedsItsFiles(t *testing.T) {
	torchtest.Require(t)
	weights := repo(t, sourceModel+"/fold_0/checkpoint_final.pth")
	trained := func(results string) map[string][]byte {
		f, err := checkpoint.Open(filepath.Join(foldOf(results, "nnUNetTrainer"), "checkpoint_final.pth"))
		require.NoError(t, err)
		defer f.Close()
		all := map[string][]byte{}
		for _, w := range f.Weights {
			all[w.Name] = make([]byte, w.Bytes())
			require.NoError(t, w.ReadInto(all[w.Name]))
		}
		require.NotEmpty(t, all)
		return all
	}
	args := func(t *testing.T, results, weights string) []string {
		return trainArgs(t, results, "-device", "cpu", "--threads", "1", "--epochs", "6", "--iterations", "8", "-pretrained_weights", weights)
	}
	calm := t.TempDir()
	for _, r := range startRanks(t, 2, args(t, calm, weights)) {
		r.within(t, time.Minute)
		require.Equal(t, 0, r.ProcessState.ExitCode(), &r.err)
	}
	results, none := t.TempDir(), t.TempDir()
	list := startRanksEach(t, 2, func(rank int) []string {
		if rank > 0 {
			return args(t, none, filepath.Join(none, "not here.pth"))
		}
		return args(t, results, weights)
	})
	list[0].says(t, "train_loss")
	require.NoError(t, list[0].Process.Signal(os.Interrupt))
	for _, r := range list {
		r.within(t, time.Minute)
		require.Equal(t, 130, r.ProcessState.ExitCode(), &r.err)
	}
	for rank, r := range startRanksEach(t, 2, func(rank int) []string {
		args := args(t, []string{results, none}[rank], "")
		return append(args[:len(args)-2], "--c")
	}) {
		r.within(t, time.Minute)
		require.Equal(t, 0, r.ProcessState.ExitCode(), "rank %d: %s", rank, &r.err)
		require.NotContains(t, r.err.String(), "holds no checkpoint")
	}
	require.True(t, maps.EqualFunc(trained(calm), trained(results), bytes.Equal), "the same bits")
	require.Empty(t, glob(t, none, "*"))
}

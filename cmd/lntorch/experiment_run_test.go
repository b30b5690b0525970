package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/internal/torchtest"
)

// grid is an experiment of small runs on testdata/phantom-mini.
type grid struct {
	t    *testing.T
	file string
	text string
}

func newGrid(t *testing.T, methods string) *grid {
	t.Helper()
	torchtest.Require(t)
	model := repo(t, "testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth")
	g := &grid{t: t, file: filepath.Join(t.TempDir(), "grid.yaml"), text: fmt.Sprintf(`
name: mini
datasets: {b: {dataset: 102, test: imagesTs, pool: imagesTr}}
networks: {unet: {checkpoint: %q}}
methods: {%s}
train: {epochs: 3, iterations: 2, val-iterations: 1}
shots: [1]
draws: 2
seeds: 1
evaluate: {disable-tta: true}
`, model, methods)}
	g.write(g.text)
	return g
}

func (g *grid) write(text string) { require.NoError(g.t, os.WriteFile(g.file, []byte(text), 0o666)) }

// command works on the grid in a folder, with one thread so that any number of workers gives the same bits.
func (g *grid) command(dir string, args ...string) *exec.Cmd {
	g.t.Helper()
	return command(g.t, append([]string{"experiment", "run", g.file, "-o", dir, "--raw", repo(g.t, "testdata/phantom-mini/raw"),
		"--threads", "1", "--lock-timeout", "3"}, args...)...)
}

func (g *grid) run(dir string, args ...string) result {
	g.t.Helper()
	return execute(g.t, g.command(dir, args...))
}

type journalLine struct {
	Time                      time.Time
	Worker, Run, Event, Error string
}

// journal is what all workers of a folder did.
func journal(t *testing.T, dir string) (all []journalLine) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "journal", "*.jsonl"))
	require.NoError(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			var l journalLine
			if json.Unmarshal([]byte(line), &l) == nil { // the last line of one that was killed may be cut
				all = append(all, l)
			}
		}
	}
	return all
}

func count(list []journalLine, event string) (n int) {
	for _, l := range list {
		if l.Event == event {
			n++
		}
	}
	return n
}

// runFolders are the folders of runs that are done, and what is in them.
func doneRuns(t *testing.T, dir string) (keys []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "runs", "*", "done"))
	require.NoError(t, err)
	for _, f := range found {
		keys = append(keys, filepath.Base(filepath.Dir(f)))
	}
	return keys
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// children are the processes that a process has started.
func children(pid int) (list []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range found {
		text, err := os.ReadFile(f)
		var child, parent int
		var state string
		if err != nil {
			continue
		}
		fmt.Sscanf(filepath.Base(filepath.Dir(f)), "%d", &child)
		fmt.Sscanf(string(text[strings.LastIndexByte(string(text), ')')+1:]), " %1s %d", &state, &parent)
		if parent == pid && state != "Z" {
			list = append(list, child)
		}
	}
	return list
}

// oneAtATime says that no two trainings of a folder were under way together.
func oneAtATime(t *testing.T, dir string) {
	t.Helper()
	events := journal(t, dir)
	slices.SortFunc(events, func(a, b journalLine) int { return a.Time.Compare(b.Time) })
	at, workers := "", map[string]bool{}
	for _, e := range events {
		rec := read(t, filepath.Join(dir, "runs", e.Run, "run.json"))
		if strings.Contains(rec, `"method": "none"`) {
			continue
		}
		workers[e.Worker] = true
		switch e.Event {
		case "start":
			require.Empty(t, at, "%v", events)
			at = e.Run
		case "done":
			require.Equal(t, at, e.Run, "%v", events)
			at = ""
		}
	}
	if len(workers) < 2 {
		t.Log("one worker was so late that the other did it all")
	}
}

// A grid whose workers are killed and stopped again and again comes to the same scores, to the byte, and does
// nothing twice. Then other metrics are scored without training again, and what is left over is pruned.
// LNTORCH_REPEATS=50 kills fifty times, in a grid of as many more seeds.
func TestGridsSurviveKill9AndCtrlC(t *testing.T) {
	g := newGrid(t, "none: {method: none}, full: {method: full}, lora: {method: lora}")
	toKill := repeats(t, 6)
	seeds := max(1, toKill/5)
	runs := 1 + 2*2*seeds
	g.text = strings.Replace(g.text, "seeds: 1", fmt.Sprintf("seeds: %d", seeds), 1)
	g.write(g.text)
	calm := filepath.Join(t.TempDir(), "calm")
	// Two workers, and memory for one training at a time.
	r := execute(t, command(t, "experiment", g.file, "-o", calm, "--raw", repo(t, "testdata/phantom-mini/raw"), "--threads", "1",
		"--jobs", "2", "--max-ram", "0.1"))
	require.Equal(t, 0, r.code, r.errOut)
	oneAtATime(t, calm)
	require.Contains(t, r.out, "| full ")
	keys := doneRuns(t, calm)
	require.Len(t, keys, runs)
	scores := read(t, filepath.Join(calm, "scores.csv"))
	rows, err := csv.NewReader(strings.NewReader(scores)).ReadAll()
	require.NoError(t, err)
	require.Equal(t, strings.Split("dataset,network,method,shots,draw,seed,case,patient,label,Dice,NSD_2,HD95,recall,F1", ","), rows[0])
	require.Len(t, rows, 1+runs*2)
	require.Equal(t, []string{"b", "unet", "full", "1", "0", "0", "LN_004", "LN_004", "1"}, rows[1][:9])
	for _, name := range []string{"table.md", "table.csv", "table.tex", "table.json"} {
		require.FileExists(t, filepath.Join(calm, name))
	}
	for _, key := range keys {
		folder := filepath.Join(calm, "runs", key)
		var rec struct {
			Key, Method string
			Seconds     float64
			Threads     int
			Cases       []string
		}
		require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(folder, "run.json"))), &rec))
		require.Equal(t, key, rec.Key)
		require.Equal(t, 1, rec.Threads)
		require.Positive(t, rec.Seconds)
		require.FileExists(t, filepath.Join(folder, "scores.json"))
		require.NoDirExists(t, filepath.Join(folder, "predictions"))
		fold := filepath.Join(folder, "model", "fold_all")
		switch rec.Method { // keep: delta
		case "none":
			require.Empty(t, rec.Cases)
			require.NoDirExists(t, fold)
			continue
		case "full":
			require.FileExists(t, filepath.Join(fold, "checkpoint_final.pth"))
		case "lora":
			require.FileExists(t, filepath.Join(fold, "adapter", "adapter_model.safetensors"))
			require.NoFileExists(t, filepath.Join(fold, "checkpoint_final.pth"))
		}
		require.Len(t, rec.Cases, 1)
		require.NoFileExists(t, filepath.Join(fold, "checkpoint_best.pth"))
	}

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	rough := filepath.Join(t.TempDir(), "rough")
	deadline := time.Now().Add(time.Duration(4+toKill) * 30 * time.Second)
	kills, stops, parents := 0, 0, 0
	// A worker is killed once one has begun something since the last kill: there is always work left to kill.
	begun := func() int {
		events := journal(t, rough)
		return count(events, "start") + count(events, "resume") + count(events, "takeover")
	}
	for code, before := -1, 0; code != 0; {
		require.True(t, time.Now().Before(deadline), "after %d kills", kills)
		cmd := g.command(rough, "--jobs", "2")
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for running := true; running; {
			select {
			case <-ended:
				running = false
			case <-time.After(time.Duration(random.IntN(600)) * time.Millisecond):
				workers := children(cmd.Process.Pid)
				now := begun()
				if len(workers) == 0 || now == before {
					continue
				}
				before = now
				switch {
				case stops == 0 && kills > 0 && len(workers) == 2:
					cmd.Process.Signal(syscall.SIGINT)
					stops++
					<-ended
					require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
					running = false
				case kills < toKill && kills%16 == 2: // the parent: its workers stop, saved
					cmd.Process.Kill()
					kills++
					parents++
					for _, w := range workers {
						require.Eventually(t, func() bool { runs, _ := system.Process(w); return !runs }, 30*time.Second, 20*time.Millisecond)
					}
				case kills < toKill:
					syscall.Kill(workers[random.IntN(len(workers))], syscall.SIGKILL)
					kills++
				}
			}
		}
		code = cmd.ProcessState.ExitCode()
	}
	require.GreaterOrEqual(t, kills, toKill/2, "the grid was done before") // a kill may meet a worker between two runs
	require.Equal(t, 1, stops)
	t.Logf("%d workers and %d parents killed, %d runs begun %d times", kills-parents, parents, runs, begun())
	require.Equal(t, scores, read(t, filepath.Join(rough, "scores.csv")))
	events := journal(t, rough)
	done := map[string]int{}
	for _, e := range events {
		if e.Event == "done" {
			done[e.Run]++
		}
	}
	for key, n := range done {
		require.Equal(t, 1, n, key)
	}
	require.Positive(t, count(events, "takeover")+count(events, "resume"), "%v", events)
	require.Zero(t, count(events, "lost"), "no live worker loses its run: %v", events)
	require.Equal(t, keys, doneRuns(t, rough))
	found, err := filepath.Glob(filepath.Join(rough, "runs", "*.lock*"))
	require.NoError(t, err)
	require.Empty(t, found)

	// Another metric: scored again, and trained no more.
	g.write(strings.ReplaceAll(g.text, "evaluate: {", "evaluate: {metrics: [Dice, HD95], "))
	r = g.run(calm, "--only", "method=lora")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, ": weights of run ")
	r = g.run(calm)
	require.Equal(t, 0, r.code, r.errOut)
	again, err := csv.NewReader(strings.NewReader(read(t, filepath.Join(calm, "scores.csv")))).ReadAll()
	require.NoError(t, err)
	require.Len(t, again, len(rows))
	for i := range rows {
		require.Equal(t, append(slices.Clone(rows[i][:10]), rows[i][11]), again[i])
	}
	logs, err := filepath.Glob(filepath.Join(calm, "runs", "*", "run.log"))
	require.NoError(t, err)
	trained := 0
	for _, l := range logs {
		trained += strings.Count(read(t, l), "Training done.")
	}
	require.Equal(t, runs-1, trained)

	prune := func(args ...string) result {
		return execute(t, command(t, append([]string{"experiment", "prune", g.file, "-o", calm, "--raw",
			repo(t, "testdata/phantom-mini/raw")}, args...)...))
	}
	r = prune()
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, regexp.MustCompile(fmt.Sprintf(`(?m)^%d runs, .*: --yes removes them$`, runs)), r.out)
	require.Len(t, doneRuns(t, calm), 2*runs)
	r = prune("--yes")
	require.Equal(t, 0, r.code, r.errOut)
	require.Len(t, doneRuns(t, calm), runs)
	for _, key := range keys {
		require.NoDirExists(t, filepath.Join(calm, "runs", key))
	}
}

// pictures are the names of an experiment's pictures, each of which must be there as SVG and as PNG.
func pictures(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "plots"))
	require.NoError(t, err)
	for _, e := range entries {
		name, ending, _ := strings.Cut(e.Name(), ".")
		require.Contains(t, []string{"svg", "png"}, ending)
		info, err := e.Info()
		require.NoError(t, err)
		require.Positive(t, info.Size(), e.Name())
		if ending == "svg" {
			names = append(names, name)
		}
	}
	require.Len(t, entries, 2*len(names))
	return names
}

// overhead is how long a run took, by its log, from taking it to its first iteration, and from its last iteration to done
// without prediction and scoring.
func overhead(t *testing.T, folder string) (before, after time.Duration) {
	t.Helper()
	at := map[string]time.Time{}
	line := regexp.MustCompile(`^(\S+ \S+): (run|Epoch 0|Pseudo dice|predict|keep)`)
	for text := range strings.Lines(read(t, filepath.Join(folder, "run.log"))) {
		if m := line.FindStringSubmatch(text); m != nil {
			when, err := time.ParseInLocation("2006-01-02 15:04:05.000000", m[1], time.Local)
			require.NoError(t, err)
			at[m[2]] = when
		}
	}
	require.Len(t, at, 5, "%v", at)
	done, err := os.Stat(filepath.Join(folder, "done"))
	require.NoError(t, err)
	return at["Epoch 0"].Sub(at["run"]), at["predict"].Sub(at["Pseudo dice"]) + done.ModTime().Sub(at["keep"])
}

// What keep keeps is what is left of a run, and predicts what the run predicted, an adapter or a delta with its base. The
// run of all methods leaves all pictures.
func TestWhatIsKeptPredictsTheSame(t *testing.T) {
	const final = "checkpoint_final.pth"
	g := newGrid(t, "full: {method: full}, lora: {method: lora}, dgst: {method: dgst, dgst-mode: strict}")
	text := strings.NewReplacer("draws: 2", "draws: 1", "epochs: 3", "epochs: 1").Replace(g.text)
	base := regexp.MustCompile(`checkpoint: "(.*)"`).FindStringSubmatch(text)[1]
	scans := repo(t, "testdata/phantom-mini/raw/Dataset102_PhantomTarget/imagesTs")
	first := ""
	before, after := time.Hour, time.Hour
	for _, x := range []struct {
		keep string
		kept map[string][]string // weights of each method
	}{
		{"delta", map[string][]string{"full": {final}, "lora": {"adapter"}, "dgst": {"delta.safetensors"}}},
		{"final", map[string][]string{"dgst": {final}}},
		{"all", map[string][]string{"lora": {"adapter", "checkpoint_best.pth", final}}},
		{"none", map[string][]string{"dgst": nil}},
	} {
		g.write(text + "keep: {checkpoints: " + x.keep + ", predictions: true}\n")
		dir, only := filepath.Join(t.TempDir(), x.keep), []string{}
		if first == "" {
			first = dir
		} else {
			withData(t, dir, first)
			for method := range x.kept {
				only = append(only, "--only", "method="+method)
			}
		}
		r := g.run(dir, only...)
		require.Equal(t, 0, r.code, r.errOut)
		if len(only) == 0 {
			require.Equal(t, []string{"cost", "curves", "differences", "recall", "shots", "touched"}, pictures(t, dir))
			var settings struct{ Datasets, Keep map[string]any }
			require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(dir, "experiment.json"))), &settings))
			require.Equal(t, map[string]any{"b": map[string]any{"dataset": "Dataset102_PhantomTarget", "test": "imagesTs",
				"pool": "imagesTr", "patient": "", "patients": ""}}, settings.Datasets)
			require.Equal(t, map[string]any{"checkpoints": "delta", "predictions": true}, settings.Keep)
		}
		runs := doneRuns(t, dir)
		require.Len(t, runs, len(x.kept))
		for _, key := range runs {
			var rec struct{ Method string }
			folder := filepath.Join(dir, "runs", key)
			require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(folder, "run.json"))), &rec))
			what := x.keep + " " + rec.Method
			b, a := overhead(t, folder)
			before, after = min(before, b), min(after, a)
			require.Equal(t, []string{"done", "model", "predictions", "run.json", "run.log", "scores.json"}, names(t, folder), what)
			var weights []string
			for _, name := range names(t, filepath.Join(folder, "model", "fold_all")) {
				if strings.HasPrefix(name, "checkpoint_") || name == "adapter" || name == "delta.safetensors" {
					weights = append(weights, name)
				}
			}
			require.Equal(t, x.kept[rec.Method], weights, what)

			out := filepath.Join(t.TempDir(), "again")
			predict := func(more ...string) result {
				return lntorch(t, append([]string{"predict", "-i", scans, "-o", out, "-m", filepath.Join(folder, "model"),
					"--disable_tta", "--threads", "1"}, more...)...)
			}
			switch {
			case weights == nil:
				r = predict()
				require.Equal(t, exitFailed, r.code, what)
				require.Contains(t, r.errOut, "model: expected checkpoint_final.pth, or fold_*/checkpoint_final.pth; found none")
				r = predict("--base", base)
				require.Equal(t, exitUsage, r.code, what)
				require.Contains(t, r.errOut, "model is a model folder without them")

				// Other metrics are scored with the predictions alone, whatever lies beside them.
				for i, metrics := range []string{"Dice, HD95", "Dice, F1"} {
					g.write(strings.ReplaceAll(text, "evaluate: {", "evaluate: {metrics: ["+metrics+"], ") + "keep: {checkpoints: none}\n")
					r = g.run(dir, only...)
					require.Equal(t, 0, r.code, r.errOut)
					require.Contains(t, r.errOut, ": predictions of run "+key+"\n")
					runs := slices.DeleteFunc(doneRuns(t, dir), func(k string) bool { return k == key })
					require.Len(t, runs, 1+i)
					for _, other := range runs {
						require.NotContains(t, read(t, filepath.Join(dir, "runs", other, "run.log")), "Epoch 0")
						require.Equal(t, casesOf(t, filepath.Join(folder, "scores.json"))[0]["labels"],
							casesOf(t, filepath.Join(dir, "runs", other, "scores.json"))[0]["labels"])
						require.NoDirExists(t, filepath.Join(dir, "runs", other, "predictions"), "which the file does not ask for now")
					}
				}
				require.FileExists(t, filepath.Join(folder, "predictions", "LN_004.nii.gz"))

				// A file that keeps weights wants them trained; from then on they are found, beside the predictions of the other run.
				trained := ""
				for _, metrics := range []string{"Dice, recall", "Dice, precision"} {
					was := doneRuns(t, dir)
					g.write(strings.ReplaceAll(text, "evaluate: {", "evaluate: {metrics: ["+metrics+"], ") + "keep: {checkpoints: final}\n")
					r = g.run(dir, only...)
					require.Equal(t, 0, r.code, r.errOut)
					runs := slices.DeleteFunc(doneRuns(t, dir), func(k string) bool { return slices.Contains(was, k) })
					require.Len(t, runs, 1)
					require.FileExists(t, filepath.Join(dir, "runs", runs[0], "model", "fold_all", final))
					require.Equal(t, trained == "", strings.Contains(read(t, filepath.Join(dir, "runs", runs[0], "run.log")), "Epoch 0"))
					if trained != "" {
						require.Contains(t, r.errOut, ": weights of run "+trained+"\n")
						require.Contains(t, r.errOut, ": predictions of run "+key+"\n")
					}
					trained = runs[0]
				}
				continue
			case weights[0] == final || len(weights) > 1:
				r = predict()
			default:
				r = predict()
				require.Equal(t, exitUsage, r.code, what)
				require.Contains(t, r.errOut, "model holds no weights but what has changed of them (fold_all/"+weights[0]+"): give --base, ")
				r = predict("--base", base)
			}
			require.Equal(t, 0, r.code, "%s: %s", what, r.errOut)
			for _, name := range []string{"LN_004.nii.gz", "LN_005.nii.gz"} {
				require.True(t, read(t, filepath.Join(folder, "predictions", name)) == read(t, filepath.Join(out, name)), "%s: %s", what, name)
			}
		}
	}
	// A second each is to be reached, on a machine that does nothing else.
	t.Logf("taken to first iteration %v, last iteration to done without prediction %v", before, after)
	require.Positive(t, min(before, after))
}

// withData makes an experiment's folder with the training data of another one.
func withData(t *testing.T, dir, of string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "runs"), 0o777))
	require.NoError(t, os.CopyFS(filepath.Join(dir, "data"), os.DirFS(filepath.Join(of, "data"))))
	return dir
}

// start starts a worker in the background.
func (g *grid) start(dir string, args ...string) *running {
	g.t.Helper()
	r := &running{g.command(dir, args...), &printed{}}
	r.Stderr = r.log
	require.NoError(g.t, r.Start())
	g.t.Cleanup(func() { r.Process.Kill() })
	return r
}

// frozenInItsData starts a worker in a folder of its own, and freezes it when it has made the first of the
// cases of its training data.
func (g *grid) frozenInItsData(args ...string) (dir string, b *running) {
	g.t.Helper()
	for range 5 {
		dir = filepath.Join(g.t.TempDir(), "grid")
		b = g.start(dir, args...)
		there := func(pattern string) bool {
			found, err := filepath.Glob(filepath.Join(dir, "data", pattern))
			return err == nil && len(found) > 0
		}
		require.Eventually(g.t, func() bool { return there("*/*/*_3d_phantom/*.npz") }, 2*time.Minute, 2*time.Millisecond)
		require.NoError(g.t, b.Process.Signal(syscall.SIGSTOP))
		if !there("*/*/*_3d_phantom/LN_003.npz") && there("*.lock") {
			return dir, b
		}
		b.Process.Kill() // it was too fast
		b.Wait()
	}
	require.Fail(g.t, "no worker was frozen in time")
	return "", nil
}

// Training data is made once, by one worker; others do something else meanwhile, and wait. What a worker that
// was frozen had begun another takes over after the time-out, on the same host, too: the first one drops it
// when it wakes, asks again, and no run has failed.
func TestTrainingDataIsMadeOnce(t *testing.T) {
	g := newGrid(t, "none: {method: none}, full: {method: full}")
	g.write(strings.NewReplacer("draws: 2", "draws: 1", "epochs: 3", "epochs: 1").Replace(g.text))
	const makes = "data of b for unet: plans are adopted and cases preprocessed"

	dir, first := g.frozenInItsData("--only", "method=full")
	other := g.start(dir, "--lock-timeout", "60")
	says := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(other.log.String(), text) }, 2*time.Minute, 5*time.Millisecond)
	}
	says("): done in ") // the network as it is
	require.NoError(t, first.Process.Signal(syscall.SIGCONT))
	require.NoError(t, first.Wait(), first.log.String())
	require.NoError(t, other.Wait(), other.log.String())
	logs := first.log.String() + other.log.String()
	require.Equal(t, 1, strings.Count(logs, makes), logs)
	require.Equal(t, 1, strings.Count(logs, ": 4 cases made, 0 kept"), logs)
	events := journal(t, dir)
	require.Equal(t, 2, count(events, "done"), "%v", events)
	for _, e := range events {
		require.Contains(t, []string{"start", "done"}, e.Event, "%v", events)
	}
	full, err := filepath.Glob(filepath.Join(dir, "runs", "*", "model", "fold_all"))
	require.NoError(t, err)
	require.Len(t, full, 1)
	scores, err := filepath.Rel(dir, filepath.Join(filepath.Dir(filepath.Dir(full[0])), "scores.json"))
	require.NoError(t, err)

	again, first := g.frozenInItsData("--only", "method=full")
	other = g.start(again, "--only", "method=full", "--lock-timeout", "1")
	says(makes + ", taken over from a worker that is gone\n")
	require.NoError(t, first.Process.Signal(syscall.SIGCONT)) // while the other one is at it
	require.NoError(t, first.Wait(), first.log.String())
	require.NoError(t, other.Wait(), other.log.String())
	logs = first.log.String() + other.log.String()
	require.Contains(t, first.log.String(), "data of b for unet: lost: another worker has taken it over\n")
	require.Equal(t, 2, strings.Count(logs, makes), logs)
	require.Regexp(t, `: [123] cases made, [123] kept\n`, other.log.String(), "it goes on where the first one was")
	events = journal(t, again)
	require.Equal(t, 1, count(events, "done"), "%v", events)
	require.Zero(t, count(events, "failed"), "%v", events)
	require.Equal(t, read(t, filepath.Join(dir, scores)), read(t, filepath.Join(again, scores)))
	for _, d := range []string{dir, again} {
		left, err := os.ReadDir(filepath.Join(d, "data"))
		require.NoError(t, err)
		require.Len(t, left, 1, "the data, without locks and work folders")
	}
}

// Live workers share a folder though the clock of one is a day ahead, so that the file system shows its touches in the
// future: one that has nothing to do takes no other's run, and goes on with what the others have ended.
func TestWorkersOfDifferentClocksShareAFolder(t *testing.T) {
	g := newGrid(t, "full: {method: full}, lora: {method: lora}")
	g.write(strings.NewReplacer("draws: 2", "draws: 1", "epochs: 3", "epochs: 100000").Replace(g.text))
	dir := filepath.Join(t.TempDir(), "grid")
	ahead := g.start(dir, "--lock-timeout", "6")
	require.Eventually(t, func() bool { return count(journal(t, dir), "start") == 1 }, time.Minute, 5*time.Millisecond)
	behind := g.start(dir, "--lock-timeout", "6")
	require.Eventually(t, func() bool { return count(journal(t, dir), "start") == 2 }, time.Minute, 5*time.Millisecond)
	idle := g.start(dir, "--lock-timeout", "6")
	touches := map[string]int{} // as seen here, by lock
	last := map[string]time.Time{}
	shift := func() {
		locks, err := filepath.Glob(filepath.Join(dir, "*", "*.lock"))
		require.NoError(t, err)
		for _, lock := range locks {
			var holder struct{ PID int }
			text, err := os.ReadFile(lock)
			info, err2 := os.Stat(lock)
			if err != nil || err2 != nil || json.Unmarshal(text, &holder) != nil || info.ModTime().Equal(last[lock]) {
				continue
			}
			touches[lock]++
			if last[lock] = info.ModTime(); holder.PID == ahead.Process.Pid {
				last[lock] = info.ModTime().Add(24 * time.Hour)
				os.Chtimes(lock, last[lock], last[lock]) // an error: it is given back
			}
		}
	}
	// Each has touched its run's lock, six times a time-out, for longer than that.
	require.Eventually(t, func() bool {
		shift()
		n := 0
		for lock, times := range touches {
			if strings.HasPrefix(lock, filepath.Join(dir, "runs")) && times > 9 {
				n++
			}
		}
		return n == 2
	}, 2*time.Minute, 10*time.Millisecond, "%v", touches)
	require.Len(t, journal(t, dir), 2)
	for _, w := range []*running{idle, ahead, behind} {
		require.NoError(t, w.Process.Signal(os.Interrupt))
		require.Error(t, w.Wait())
		require.Equal(t, exitInterrupted, w.ProcessState.ExitCode(), w.log.String())
	}
	events := journal(t, dir)
	workers := map[string]bool{}
	for _, e := range events {
		workers[e.Worker] = true
	}
	require.Len(t, workers, 2)
	require.Equal(t, []int{2, 2, 4}, []int{count(events, "start"), count(events, "stopped"), len(events)}, "%v", events)
	third := g.start(dir, "--only", "method=lora")
	require.Eventually(t, func() bool { return count(journal(t, dir), "resume") == 1 }, time.Minute, 5*time.Millisecond)
	third.Process.Kill()
	third.Wait()
}

// A run that fails stops no other and is tried again; a worker that was frozen drops what another has taken
// over; locks of hosts that are gone and of clocks that are ahead are taken over; a full disk fails a run,
// which goes on when there is room.
func TestWhatGoesWrongInAGridStaysThere(t *testing.T) {
	g := newGrid(t, "full: {method: full}, bad: {method: full, patch-size: [15, 48, 48]}")
	g.text = strings.ReplaceAll(g.text, "draws: 2", "draws: 1")
	g.write(g.text)
	dir := filepath.Join(t.TempDir(), "grid")
	r := g.run(dir)
	require.Equal(t, exitFailed, r.code, r.errOut)
	require.Contains(t, r.errOut, "1 run failed, 1 is done")
	require.Contains(t, r.out, "| full ")
	full := doneRuns(t, dir)
	require.Len(t, full, 1)
	failed, err := filepath.Glob(filepath.Join(dir, "runs", "*", "failed.json"))
	require.NoError(t, err)
	require.Len(t, failed, 1)
	var why struct {
		Time, Error string
		Log         []string
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, failed[0])), &why))
	require.Contains(t, why.Error, "input size [15 48 48] is not divisible by [4 8 8]")
	r = g.run(dir)
	require.Equal(t, exitFailed, r.code, r.errOut)
	events := journal(t, dir)
	require.Equal(t, 2, count(events, "failed"))
	require.Equal(t, 1, count(events, "done"))
	require.Equal(t, 0, g.run(dir, "--only", "method=full").code)
	r = g.run(dir, "--only", "method=ful")
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.errOut, "--only method=ful: the experiment has no such run")
	scores := read(t, filepath.Join(dir, "runs", full[0], "scores.json"))

	t.Run("frozen", func(t *testing.T) {
		frozen := withData(t, filepath.Join(t.TempDir(), "frozen"), dir)
		cmd := g.command(frozen, "--only", "method=full")
		var errOut strings.Builder
		cmd.Stderr = &errOut
		require.NoError(t, cmd.Start())
		defer cmd.Process.Kill()
		training := func() bool {
			saved, err := filepath.Glob(filepath.Join(frozen, "runs", full[0], "work-*", "results", "*", "*", "fold_all", "checkpoint_latest.pth"))
			return err == nil && len(saved) > 0
		}
		require.Eventually(t, training, 30*time.Second, 2*time.Millisecond)
		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		r := g.run(frozen, "--only", "method=full", "--lock-timeout", "1")
		require.Equal(t, 0, r.code, r.errOut)
		require.Contains(t, r.errOut, "taken over from a worker that is gone")
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		require.NoError(t, cmd.Wait(), errOut.String())
		events := journal(t, frozen)
		require.Equal(t, 1, count(events, "done"), "%v", events)
		require.Equal(t, 1, count(events, "lost"), "%v\n%s", events, errOut.String())
		require.Equal(t, 0, count(events, "failed"), "%v", events)
		require.Equal(t, scores, read(t, filepath.Join(frozen, "runs", full[0], "scores.json")))
		require.Contains(t, read(t, filepath.Join(frozen, "runs", full[0], "run.log")), "weights from the checkpoint: ",
			"it goes on inside the training")
		left, err := filepath.Glob(filepath.Join(frozen, "runs", full[0], "work-*"))
		require.NoError(t, err)
		require.Empty(t, left)
	})

	t.Run("clocks", func(t *testing.T) {
		for name, age := range map[string]time.Duration{"gone": time.Hour, "ahead": -24 * time.Hour} {
			shared := withData(t, filepath.Join(t.TempDir(), name), dir)
			lock := filepath.Join(shared, "runs", full[0]+".lock")
			require.NoError(t, os.WriteFile(lock, []byte(`{"worker":"far-7-00000000","host":"far","pid":7,"boot":"none","time":"2020-01-01T00:00:00Z"}`), 0o666))
			require.NoError(t, os.Chtimes(lock, time.Now().Add(-age), time.Now().Add(-age)))
			began := time.Now()
			r := g.run(shared, "--only", "method=full", "--lock-timeout", "2")
			require.Equal(t, 0, r.code, r.errOut)
			if name == "ahead" { // it was watched first
				require.Greater(t, time.Since(began), 2*time.Second)
			}
			require.Equal(t, 1, count(journal(t, shared), "takeover"), name)
			require.Equal(t, scores, read(t, filepath.Join(shared, "runs", full[0], "scores.json")))
		}
	})

	// A file system of its own, with 2 MB for all but the training data: too little for a checkpoint.
	for name, own := range map[string]struct{ unshare, mount string }{
		"memory": {"-rm", "mount -t tmpfs -o size=96m tmpfs"},
		"disk":   {"-m", "truncate -s 96M image && mkfs.ext4 -q image && mount -o loop image"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := withData(t, filepath.Join(t.TempDir(), "grid"), dir)
			mounted, here := t.TempDir(), t.TempDir()
			mount := func(args ...string) *exec.Cmd {
				cmd := exec.Command("unshare", append([]string{own.unshare, "sh", "-c", args[0]}, args[1:]...)...)
				cmd.Dir = here
				return cmd
			}
			if out, err := mount(own.mount+` "$0"`, mounted).CombinedOutput(); err != nil {
				t.Skipf("no file system can be mounted here: %s", out)
			}
			run := g.command(mounted, "--only", "method=full")
			cmd := mount(append([]string{`
set -e
from=$1 to=$2
` + own.mount + ` "$to"
shift 2
cp -r "$from"/. "$to"
head -c $((1024 * ($(df -k --output=avail "$to" | tail -n 1) - 2048))) /dev/zero >"$to/other"
code=0; "$@" || code=$?
echo "first $code"
rm "$to/other"
"$@"
echo "second $?"
cp -r "$to"/. "$from"
`, "sh", dir, mounted, run.Path}, run.Args[1:]...)...)
			cmd.Env = run.Env
			r := execute(t, cmd)
			require.Equal(t, 0, r.code, r.errOut)
			require.Contains(t, r.out, "first 1\n")
			require.Contains(t, r.out, "second 0\n")
			require.Contains(t, r.errOut, "no space left on device")
			require.Contains(t, r.errOut, "("+full[0]+"): goes on\n")
			require.Equal(t, scores, read(t, filepath.Join(dir, "runs", full[0], "scores.json")))
			require.Equal(t, 1, count(journal(t, dir), "done"))
		})
	}
}

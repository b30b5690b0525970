package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// planGrid writes the file of a grid on phantom-demo's raw cases; it needs no libtorch.
func planGrid(t *testing.T, text string) (file string, args []string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "grid.yaml")
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(text, "MODEL", repo(t, foundation))), 0o644))
	return file, []string{file, "-o", filepath.Join(filepath.Dir(file), "grid"), "--raw", repo(t, "testdata/phantom-demo/raw")}
}

const planText = `name: demo
datasets:
  target: {dataset: 102, test: imagesTs}
networks:
  unet: {checkpoint: MODEL}
methods:
  none: {method: none}
  dgst: {method: dgst}
shots: [1, all]
draws: 2
seeds: 1
`

func TestExperimentPlan(t *testing.T) {
	_, args := planGrid(t, planText)
	r := lntorch(t, append([]string{"experiment", "plan"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `(?m)^[0-9a-f]{16}  target   unet     dgst        1     1     0  missing  unknown time  [\d.]+ GiB$`, r.out)
	require.Regexp(t, `(?m)^[0-9a-f]{16}  target   unet     none        0              missing  unknown time  [\d.]+ MiB$`, r.out)
	require.Regexp(t, `4 runs, 4 left: unknown time one after the other, up to [\d.]+ GiB of memory each, about `, r.out)
	require.Contains(t, r.errOut, "WARNING: training data of network unet unknown")

	r = lntorch(t, append([]string{"experiment", "plan", "--json"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	var plan struct {
		Runs []map[string]any
		Cost map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &plan))
	require.Len(t, plan.Runs, 4)
	for _, name := range []string{"key", "train_key", "dataset", "network", "method", "shots", "draw", "seed", "cases", "settings", "state", "seconds", "memory"} {
		require.Contains(t, plan.Runs[1], name)
	}
	require.Len(t, plan.Runs[1], 13)
	require.Equal(t, "1", plan.Runs[1]["shots"])
	require.Equal(t, "missing", plan.Runs[1]["state"])
	require.Nil(t, plan.Runs[1]["seconds"])
	require.Contains(t, plan.Cost, "seconds")
	require.Contains(t, plan.Cost, "gpu_hours")
	require.Positive(t, plan.Cost["bytes"])
	require.Len(t, plan.Cost, 4)
	memory := plan.Cost["memory"].(map[string]any)
	require.Equal(t, plan.Runs[1]["memory"], plan.Cost["memory"])
	require.Positive(t, memory["host"])
	require.Zero(t, memory["device"])

	r = lntorch(t, append([]string{"experiment", "plan", "--device", "cuda:1"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `(?m)^[0-9a-f]{16}  target   unet     none        0 .* [\d.]+ GiB +[\d.]+ MiB$`, r.out)
	require.Regexp(t, `up to [\d.]+ GiB of memory each and [\d.]+ (G|M)iB of cuda:1, about `, r.out)
	r = lntorch(t, append([]string{"experiment", "plan", "--device", "gpu"}, args...)...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `--device: torch: device "gpu": expected cpu, cuda or cuda:N`)
	for _, other := range []string{"--measure", "--json"} {
		r = lntorch(t, append([]string{"experiment", "plan", other, "--make"}, args...)...)
		require.Equal(t, 2, r.code)
		require.Contains(t, r.errOut, "--make prints a Makefile and nothing else")
	}

	r = lntorch(t, append([]string{"experiment", "plan", "--make"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "runs/"+plan.Runs[1]["key"].(string)+"/done:\n\t$(LNTORCH) experiment run "+args[0]+" -o "+args[2]+
		" --raw "+args[4]+" --only key="+plan.Runs[1]["key"].(string)+"\n")

	r = lntorch(t, append([]string{"experiment", "splits"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	var splits map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.out), &splits))
	require.NotContains(t, r.out, filepath.Dir(args[0]))

	r = lntorch(t, append([]string{"experiment", "status"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, "0 of 4 runs done, 4 left: unknown time to go\n", r.out)
	failed := filepath.Join(args[2], "runs", plan.Runs[1]["key"].(string))
	require.NoError(t, os.MkdirAll(failed, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(failed, "failed.json"), []byte(`{"error":"no space\nleft"}`), 0o644))
	r = lntorch(t, append([]string{"experiment", "status"}, args...)...)
	require.Contains(t, r.out, "failed   "+plan.Runs[1]["key"].(string)+"  target unet dgst, 1 shots, draw 0, seed 0: no space\n")
	lock := filepath.Join(args[2], "runs", plan.Runs[2]["key"].(string)+".lock")
	require.NoError(t, os.WriteFile(lock, []byte(`{"worker":"w","host":"far","pid":7,"boot":"x"}`), 0o644))
	require.NoError(t, os.Chtimes(lock, time.Time{}, time.Now().Add(-3*time.Minute)))
	r = lntorch(t, append([]string{"experiment", "status"}, args...)...)
	require.Regexp(t, `(?m)^partial  `+plan.Runs[2]["key"].(string)+`  .*: its worker has not been seen for [34]m \(far, process 7\)$`, r.out)
	require.NotContains(t, r.out, "begun and stopped")
	r = lntorch(t, append([]string{"experiment", "status", "--json"}, args...)...)
	var status map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.out), &status))
	require.Equal(t, 4.0, status["left"])

	r = lntorch(t, append([]string{"experiment", "command", args[0], "zzz"}, args[1:]...)...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `no run has the key "zzz": `)
	r = lntorch(t, append([]string{"experiment", "command", args[0], plan.Runs[0]["key"].(string)[:10]}, args[1:]...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, 2, strings.Count(r.out, "\n"), "the network as it is predicts and is scored")
}

// 2: the file is wrong; 1: a check refuses.
func TestExperimentPlanRefuses(t *testing.T) {
	for _, x := range []struct {
		code     int
		old, new string
		want     string
	}{
		{2, "method: dgst", "methode: dgst", "grid.yaml:8: methods.dgst.methode: no such key; did you mean method?\nRun `lntorch experiment plan --help`"},
		{2, "shots: [1, all]", "shots: [1, 9]", "grid.yaml:9: shots: dataset target: 9 shots are more than the 8 cases of the pool"},
		{2, "MODEL", "/dev/null", "grid.yaml:5: networks.unet.checkpoint: "},
		{1, "test: imagesTs", "test: [LN_001], pool: imagesTr", "lntorch: test cases are training cases:\n  target: case LN_001 is in test and in pool\n"},
	} {
		require.Contains(t, planText, x.old)
		_, args := planGrid(t, strings.Replace(planText, x.old, x.new, 1))
		r := lntorch(t, append([]string{"experiment", "plan"}, args...)...)
		require.Equal(t, x.code, r.code, r.errOut)
		require.Contains(t, r.errOut, x.want)
		require.Empty(t, r.out)
	}
	file, args := planGrid(t, planText)
	require.NoError(t, os.Rename(file, file+".txt"))
	r := lntorch(t, "experiment", "plan", file+".txt", "--raw", args[4], "-o", args[2])
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `grid.yaml.txt: found ending ".txt", expected .yaml, .toml or .json`)
	r = lntorch(t, "experiment", "plan", file, "--raw", args[4])
	require.Equal(t, 2, r.code)
}

// The lines of `command` do a run by hand to the same bits.
func TestCommandRepeatsARunByHand(t *testing.T) {
	g := newGrid(t, "lora: {method: lora, lora-rank: 2}, gradmask: {method: dgst, head: keep}")
	g.write(strings.Replace(g.text, "shots: [1]", "shots: [2]", 1))
	dir := filepath.Join(filepath.Dir(g.file), "grid")
	raw := []string{"-o", dir, "--raw", repo(t, "testdata/phantom-mini/raw")}
	r := g.run(dir, "--only", "draw=0")
	require.Equal(t, 0, r.code, r.errOut)
	runs := doneRuns(t, dir)
	require.Len(t, runs, 2)
	for _, key := range runs {
		by := filepath.Join(t.TempDir(), "by hand")
		r := lntorch(t, append([]string{"experiment", "command", g.file, key, "--folder", by}, raw...)...)
		require.Equal(t, 0, r.code, r.errOut)
		for line := range strings.Lines(r.out) {
			words := strings.Split(strings.TrimSpace(line), " ")
			require.Equal(t, "lntorch", words[0])
			line := strings.ReplaceAll(strings.Join(words[1:], "\x00"), "by\x00hand", "by hand")
			step := lntorch(t, append(strings.Split(strings.ReplaceAll(line, "'", ""), "\x00"), "--quiet")...)
			require.Equal(t, 0, step.code, "%s: %s", line, step.errOut)
		}
		want := casesOf(t, filepath.Join(dir, "runs", key, "scores.json"))
		require.Len(t, want, 2)
		require.Equal(t, want, casesOf(t, filepath.Join(by, "predictions", "scores.json")), key)
		trained, err := filepath.Glob(filepath.Join(dir, "runs", key, "model", "fold_all", "*", "adapter_model.safetensors"))
		require.NoError(t, err)
		for _, path := range trained {
			again, err := filepath.Glob(filepath.Join(by, "results", "*", "*", "fold_all", "adapter", "adapter_model.safetensors"))
			require.NoError(t, err)
			require.Len(t, again, 1)
			require.Equal(t, read(t, path), read(t, again[0]))
		}
	}
}

// casesOf are the cases of a scores.json without the names of their files.
func casesOf(t *testing.T, path string) []map[string]any {
	t.Helper()
	var s struct{ Cases []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(read(t, path)), &s))
	for _, c := range s.Cases {
		delete(c, "reference_file")
		delete(c, "prediction_file")
	}
	return s.Cases
}

// A plan measures what nothing is known of, on the data that the runs will have, and remembers it; plan, status and
// Slurm's submission then know the time. What is measured once is not measured again.
func TestPlanMeasures(t *testing.T) {
	g := newGrid(t, "none: {method: none}, full: {method: full}, more: {method: full, epochs: 9}, head: {method: head}")
	dir, temporary := filepath.Join(t.TempDir(), "grid"), t.TempDir()
	plan := func(name string, more ...string) result {
		t.Helper()
		c := command(t, append([]string{"experiment", name, g.file, "-o", dir, "--raw", repo(t, "testdata/phantom-mini/raw")}, more...)...)
		c.Env = append(c.Env, "TMPDIR="+temporary)
		r := execute(t, c)
		require.Equal(t, 0, r.code, r.errOut)
		return r
	}
	type document struct {
		Runs []struct {
			Key, Method string
			Seconds     *float64
		}
		Cost struct {
			Seconds *float64
			Covers  string
		}
	}
	parse := func(r result) (d document) {
		t.Helper()
		require.NoError(t, json.Unmarshal([]byte(r.out), &d))
		return d
	}
	require.Nil(t, parse(plan("plan", "--json")).Cost.Seconds)
	r := plan("plan", "--json", "--measure", "--threads", "1")
	require.Equal(t, 3, strings.Count(r.errOut, "measured "), r.errOut)
	require.Contains(t, r.errOut, "measured 1 of 3: b unet, prediction of the test cases: ")
	require.Contains(t, r.errOut, "measured 2 of 3: b unet full, an iteration: ")
	require.Contains(t, r.errOut, "measured 3 of 3: b unet head, an iteration: ")
	require.Equal(t, 1, strings.Count(r.errOut, "plans are adopted and cases preprocessed"), r.errOut)
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, doneRuns(t, dir))
	require.NoDirExists(t, filepath.Join(dir, "predictions"))
	figures := map[string]float64{}
	files, err := filepath.Glob(filepath.Join(dir, "measured", "*"))
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, f := range files {
		var one struct {
			Of, Method, Device string
			Seconds            float64
			Threads            int
		}
		require.NoError(t, json.Unmarshal([]byte(read(t, f)), &one))
		require.Positive(t, one.Seconds)
		require.Equal(t, 1, one.Threads)
		figures[one.Of+one.Method] = one.Seconds
	}
	d := parse(r)
	require.Equal(t, d, parse(plan("plan", "--json")), "the figures are kept")
	require.Equal(t, "training and prediction", d.Cost.Covers)
	total := 0.0
	for _, run := range d.Runs { // 3 epochs of 2 iterations and of 1 for the validation
		want := figures["prediction"]
		switch run.Method {
		case "full":
			want += 3 * (2 + 1.0/3) * figures["iterationfull"]
		case "more":
			want += 9 * (2 + 1.0/3) * figures["iterationfull"]
		case "head":
			want += 3 * (2 + 1.0/3) * figures["iterationhead"]
		}
		require.InDelta(t, want, *run.Seconds, 1e-9, run.Method)
		total += want
	}
	require.InDelta(t, total, *d.Cost.Seconds, 1e-6)
	require.NotContains(t, plan("status").out, "unknown")
	require.NotContains(t, plan("plan", "--measure", "--threads", "1").errOut, "measured ")
	r = plan("run", "--slurm", "--slurm-dry-run")
	require.Regexp(t, `(?m)^7 workers for 7 runs, about \d+\w+ one after the other\nnot submitted: sbatch `, r.errOut)

	r = plan("run", "--only", "method=full", "--threads", "1")
	require.NotContains(t, r.errOut, "plans are adopted", "the data is there")
	require.Len(t, doneRuns(t, dir), 2)
	// What a run says counts, and is not measured, with other threads either.
	r = plan("plan", "--measure", "--threads", "2")
	require.Equal(t, 1, strings.Count(r.errOut, "measured "), r.errOut)
	require.Contains(t, r.errOut, "measured 1 of 1: b unet head, an iteration: ")
}

// --watch prints the status when it has changed, and ends when all is done, or with Ctrl-C.
func TestStatusIsWatched(t *testing.T) {
	_, args := planGrid(t, planText)
	keys := pretend(t, args, 10)
	done := func(key string) string { return filepath.Join(args[2], "runs", key, "done") }
	for _, key := range keys {
		require.NoError(t, os.Rename(done(key), done(key)+".later"))
	}
	watch := func(more ...string) *running {
		r := &running{command(t, append(append([]string{"experiment", "status"}, args...), append(more, "--watch")...)...), &printed{}}
		r.Stdout = r.log
		require.NoError(t, r.Start())
		t.Cleanup(func() { r.Process.Kill() })
		return r
	}
	says := func(r *running, text string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(r.log.String(), text) }, time.Minute, 5*time.Millisecond, text)
	}
	lock := filepath.Join(args[2], "runs", keys[2]+".lock")
	require.NoError(t, os.WriteFile(lock, []byte(`{"worker":"w","host":"far","pid":7,"boot":"x"}`), 0o644))
	stopped, whole := watch("--json"), watch()
	says(stopped, `"left": 4`)
	says(whole, "0 of 4 runs done, 4 left: unknown time to go\nrunning  "+keys[2]+"  target unet dgst, 1 shots, draw 1, seed 0: begins (far, process 7)\n"+
		"partial  3 runs, begun and stopped: the next run goes on with them\n")
	require.NoError(t, stopped.Process.Signal(os.Interrupt))
	require.Error(t, stopped.Wait())
	require.Equal(t, exitInterrupted, stopped.ProcessState.ExitCode())

	// Each look at a lock touches a file; what has not changed is not printed again.
	for range 2 {
		was, err := os.Stat(filepath.Join(args[2], "runs", ".clock"))
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			now, err := os.Stat(filepath.Join(args[2], "runs", ".clock"))
			return err == nil && now.ModTime().After(was.ModTime())
		}, time.Minute, 5*time.Millisecond)
	}
	require.Equal(t, 1, strings.Count(whole.log.String(), " runs done, "), whole.log.String())
	require.NoError(t, os.Remove(lock))
	require.NoError(t, os.Rename(done(keys[1])+".later", done(keys[1])))
	says(whole, "\n1 of 4 runs done, 3 left: ")
	for _, i := range []int{0, 2, 3} {
		require.NoError(t, os.Rename(done(keys[i])+".later", done(keys[i])))
	}
	require.NoError(t, whole.Wait(), "it ends by itself")
	require.True(t, strings.HasSuffix(whole.log.String(), "\n4 of 4 runs done, 0 left: 0s to go\n"), whole.log.String())
}

// prune leaves what a worker is at, wherever that is, and takes what nobody is at any more.
func TestPruneLeavesRunsThatAreHeld(t *testing.T) {
	file, args := planGrid(t, planText)
	keys := pretend(t, args, 10) // none, and three that train
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(read(t, file), "seeds: 1", "seeds: [5]", 1)), 0o644))
	at := func(key string) string { return filepath.Join(args[2], "runs", key) }
	lock := func(key string, ago time.Duration) {
		require.NoError(t, os.WriteFile(at(key)+".lock", []byte(`{"worker":"w","host":"far","pid":7,"boot":"x"}`), 0o644))
		require.NoError(t, os.Chtimes(at(key)+".lock", time.Time{}, time.Now().Add(-ago)))
	}
	lock(keys[1], 0)
	lock(keys[2], 3*time.Minute)
	require.NoError(t, os.WriteFile(filepath.Join(args[2], "runs", "letter"), nil, 0o644))
	prune := func(more ...string) result {
		r := lntorch(t, slices.Concat([]string{"experiment", "prune"}, args, more)...)
		require.Equal(t, 0, r.code, r.errOut)
		return r
	}
	require.Regexp(t, `(?m)^3 runs, .*: --yes removes them$`, prune().out)
	r := prune("--yes")
	require.Regexp(t, `(?m)^`+keys[1]+` .*, left: a worker is at it$`, r.out)
	require.Regexp(t, `(?m)^`+keys[2]+` .*, removed$`, r.out)
	require.Regexp(t, `(?m)^`+keys[3]+` .*, removed$`, r.out)
	require.ElementsMatch(t, []string{".clock", keys[0], keys[1], keys[1] + ".lock", "letter"}, names(t, filepath.Join(args[2], "runs")))
	require.FileExists(t, filepath.Join(at(keys[1]), "done"))
	lock(keys[1], 3*time.Minute)
	require.Contains(t, prune("--yes", "--json").out, `"held": false`)
	require.NoDirExists(t, at(keys[1]))
}

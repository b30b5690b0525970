package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

// slurm calls one of Slurm's programs.
func slurm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
	return strings.TrimSpace(string(out))
}

// A grid as jobs of a real Slurm: a task that is told to stop saves, is queued again and goes on; the tasks of
// slurmstepds that are killed, and that are cancelled, are taken over; the table comes behind all of them.
// scripts/slurm.sh run starts the Slurm of one node.
func TestSlurm(t *testing.T) {
	if os.Getenv("SLURM_CONF") == "" {
		golden.Missing(t, "slurm", "no Slurm here: SLURM_CONF is not set (make test-slurm)")
	}
	g := newGrid(t, "none: {method: none}, full: {method: full}, lora: {method: lora}")
	g.write(strings.ReplaceAll(g.text, "epochs: 3", "epochs: 5"))
	dir := filepath.Join(t.TempDir(), "with blank 50%")
	calm := filepath.Join(t.TempDir(), "calm")

	r := g.run(dir, "--slurm", "--slurm-dry-run", "--slurm-args", "--time=10:00 --comment='of two words'")
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, filepath.Join(dir, "slurm", "job.sh")+"\n", r.out)
	require.Contains(t, r.errOut, "sbatch --parsable --time=10:00 '--comment=of two words'")
	require.Contains(t, r.errOut, "--time=10:00 '--comment=of two words' --dependency=afterany:JOB")
	require.Contains(t, read(t, filepath.Join(dir, "slurm", "job.sh")), "#SBATCH --array=0-4\n")
	require.Empty(t, slurm(t, "squeue", "-h"))

	cmd := g.command(dir, "--slurm", "--slurm-workers", "2", "--slurm-args", "--time=10:00", "--wait", "--json")
	// Slurm hands on the environment of sbatch.
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	require.NoError(t, cmd.Start())
	defer cmd.Process.Kill()
	var submitted struct {
		Job, Script string
		TableJob    string `json:"table_job"`
	}
	wait := func(what string, until func() bool) {
		t.Helper()
		require.Eventually(t, until, 4*time.Minute, 50*time.Millisecond, "%s\n%s\n%s", what, errOut.String(),
			slurm(t, "squeue", "-o", "%i %T %r"))
	}
	wait("submitted", func() bool { return strings.Contains(errOut.String(), "; table: job ") })
	_, text, _ := strings.Cut(errOut.String(), ": job ")
	job, _, _ := strings.Cut(text, ";")
	// busy counts workers that are at a run.
	busy := func() int {
		last := map[string]string{}
		for _, l := range journal(t, dir) {
			last[l.Worker] = l.Event
		}
		n := 0
		for _, event := range last {
			if event == "start" || event == "resume" || event == "takeover" {
				n++
			}
		}
		return n
	}
	running := func(task string) string { return slurm(t, "squeue", "-h", "-o", "%T", "-j", job+"_"+task) }

	// One task gets the signal that comes before a time limit. Of the other the slurmstepd is killed, with all
	// that it started. Slurm holds both back for two minutes, at the same time.
	wait("two at work", func() bool { return busy() == 2 && running("0") == "RUNNING" && running("1") == "RUNNING" })
	raw := ""
	for _, line := range strings.Fields(slurm(t, "squeue", "-h", "-o", "%A_%i", "-j", job)) {
		if id, task, _ := strings.Cut(line, "_"); task == job+"_1" {
			raw = id
		}
	}
	require.NotEmpty(t, raw)
	slurm(t, "scancel", "--signal=TERM", "--batch", job+"_0")
	killStep(t, "slurmstepd: ["+raw+".batch]")
	wait("queued again", func() bool { return running("0") == "PENDING" })
	next := time.Now()
	wait("missed", func() bool {
		if time.Now().After(next) { // Slurm asks the node what it runs, as it does every few minutes
			slurm(t, "scontrol", "reconfigure")
			next = time.Now().Add(3 * time.Second)
		}
		return running("1") == "PENDING"
	})
	require.NoError(t, cmd.Wait(), "%s", &errOut)
	require.NoError(t, json.Unmarshal([]byte(out.String()), &submitted), out.String())
	require.Equal(t, job, submitted.Job)
	require.NotEmpty(t, submitted.TableJob)
	events := journal(t, dir)
	require.Equal(t, 5, count(events, "done"), "%v", events)
	require.Equal(t, 0, count(events, "failed")+count(events, "lost"), "%v", events)
	require.Equal(t, 1, count(events, "stopped"), "%v", events)
	require.Equal(t, 2, count(events, "resume")+count(events, "takeover"), "%v", events)
	require.FileExists(t, filepath.Join(dir, "table.md"), "by the job of the table")
	require.FileExists(t, filepath.Join(dir, "report.html"))
	require.Equal(t, 0, g.run(calm).code)
	require.Equal(t, read(t, filepath.Join(calm, "scores.csv")), read(t, filepath.Join(dir, "scores.csv")))

	// A cancelled task saves, and is not queued again.
	dir = filepath.Join(t.TempDir(), "cancelled")
	r = g.run(dir, "--slurm", "--slurm-workers", "1", "--only", "method=full")
	require.Equal(t, 0, r.code, r.errOut)
	job = strings.TrimSpace(r.out)
	wait("at work", func() bool { return busy() == 1 })
	slurm(t, "scancel", job)
	wait("gone", func() bool { return slurm(t, "squeue", "-h") == "" })
	require.Equal(t, 1, count(journal(t, dir), "stopped"))
	require.Equal(t, 0, count(journal(t, dir), "failed"))
	r = g.run(dir, "--only", "method=full") // and goes on elsewhere
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, ": goes on")

	r = g.run(dir, "--slurm", "--only", "method=full")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "nothing is submitted")
	r = g.run(filepath.Join(t.TempDir(), "refused"), "--slurm", "--slurm-args", "--partition=nowhere")
	require.Equal(t, exitFailed, r.code, r.errOut)
	require.Contains(t, r.errOut, "invalid partition")
}

// --wait ends when the queue has none of the jobs, with the grid's exit code; that Slurm does not answer for a while is no
// end. The programs of Slurm are not the real ones.
func TestWaitingForSlurmEndsAsTheGridDoes(t *testing.T) {
	for name, x := range map[string]struct {
		jobs, table string // what they do
		code        int
		says        string
	}{
		"done":           {`mv "$RUN/later" "$RUN/done"`, "", 0, ""},
		"a run failed":   {`echo '{"error": "no space"}' >"$RUN/failed.json"`, "", exitFailed, "1 run failed, 3 are done: "},
		"a run is left":  {":", "", exitFailed, "1 is left, 3 are done: run it again"},
		"table is lost":  {":", "echo 'no such partition' >&2; exit 1", exitFailed, "the workers are submitted (job 4711), the table is not: "},
		"Slurm is away":  {"exit 1", "", exitFailed, "exit status 1"},
		"nothing to do":  {"", "", 0, "4 runs, all done: nothing is submitted"},
		"other clusters": {`mv "$RUN/later" "$RUN/done"`, `echo "4712;far"; exit`, 0, "job 4711; table: job 4712; "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, args := planGrid(t, planText)
			run := filepath.Join(args[2], "runs", pretend(t, args, 10)[1])
			if x.jobs != "" {
				require.NoError(t, os.Rename(filepath.Join(run, "done"), filepath.Join(run, "later")))
			}
			bin := t.TempDir()
			for name, text := range map[string]string{
				"sbatch": `case "$*" in *--dependency=afterany:4711*) ` + x.table + `
echo 4712 ;; *) ` + x.jobs + `
echo 4711 ;; esac`,
				"squeue": `echo "$@" >>"$RUN/asked"
case $(wc -l <"$RUN/asked") in 1) echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1 ;; esac`,
			} {
				require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o777))
			}
			cmd := command(t, append(append([]string{"experiment", "run"}, args...), "--slurm", "--wait")...)
			cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"), "RUN="+run)
			r := execute(t, cmd)
			require.Equal(t, x.code, r.code, r.errOut)
			require.Contains(t, r.errOut, x.says)
			asked, err := os.ReadFile(filepath.Join(run, "asked"))
			if x.jobs == "" || x.jobs == "exit 1" || name == "table is lost" {
				require.ErrorIs(t, err, os.ErrNotExist, "nothing to wait for")
				return
			}
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("-h -o %A -j 4711,4712\n", 2), string(asked))
			require.Equal(t, "4711\n", r.out)
		})
	}
}

// killStep kills a process by its title, and the processes of its children's groups.
func killStep(t *testing.T, title string) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, f := range found {
		text, err := os.ReadFile(f)
		if err != nil || !strings.HasPrefix(string(text), title) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		require.NoError(t, err)
		below := []int{pid}
		for i := 0; i < len(below); i++ {
			below = append(below, children(below[i])...)
		}
		for _, p := range below {
			syscall.Kill(p, syscall.SIGKILL)
		}
		return
	}
	t.Fatalf("no process %s", title)
}

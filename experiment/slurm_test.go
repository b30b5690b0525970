package experiment

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

// program writes an executable of sh.
func program(t *testing.T, path, text string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o777))
	return path
}

// Names and folders put no line into a job's script.
func TestScriptsHaveTheirOwnLinesAlone(t *testing.T) {
	p := newDemo(t).replace("name: demo", "name: 'study $(x) 2'").plan()
	c := settings.New[WorkConfig]()
	c.Command = []string{"lntorch"}
	s := SlurmConfig{Slurm: true, SlurmDryRun: true}
	o := pipeline.Output{Log: io.Discard}
	submitted, err := p.Submit(context.Background(), c, s, o)
	require.NoError(t, err)
	text, err := os.ReadFile(submitted.Script)
	require.NoError(t, err)
	require.Contains(t, string(text), "\n#SBATCH --job-name=study___x__2\n")
	p.Dir = filepath.Join(t.TempDir(), "a\ntouch owned")
	_, err = p.Submit(context.Background(), c, s, o)
	require.ErrorContains(t, err, "found a control character in")
}

// A task whose worker was stopped and has saved, by the signal before a time limit or by preemption, is queued again,
// unless it was cancelled or has been queued a hundred times; no other is.
func TestTasksAreQueuedAgain(t *testing.T) {
	folder := t.TempDir()
	worker := program(t, filepath.Join(folder, "worker"), `
echo "$@" >>"$OUT/worker"
[ -z "$WAITS" ] || { trap 'exit 130' TERM; : >"$OUT/waits"; while :; do sleep 0.01; done; }
[ -z "$DIES" ] || kill -KILL $$
exit "$CODE"`)
	program(t, filepath.Join(folder, "squeue"), `echo "$@" >>"$OUT/squeue"; echo "$STATE"`)
	program(t, filepath.Join(folder, "scontrol"), `echo "$@" >>"$OUT/scontrol"; exit ${SCONTROL:-0}`)
	d := newDemo(t)
	p := d.plan()
	c := settings.New[WorkConfig]()
	c.Command, c.Args, c.Threads, c.Only = []string{worker, "a b"}, []string{"grid.yaml"}, 3, []string{"method=full"}
	s := SlurmConfig{Slurm: true, SlurmDryRun: true, SlurmWorkers: 2}
	submitted, err := p.Submit(context.Background(), c, s, pipeline.Output{Log: io.Discard})
	require.NoError(t, err)

	for name, x := range map[string]struct {
		env      string
		code     int
		requeued bool
	}{
		"done":                     {"CODE=0 STATE=RUNNING", 0, false},
		"a run failed":             {"CODE=1 STATE=RUNNING", 1, false},
		"stopped":                  {"CODE=130 STATE=RUNNING", 130, true},
		"stopped again":            {"CODE=130 STATE=RUNNING SLURM_RESTART_COUNT=99", 130, true},
		"stopped too often":        {"CODE=130 STATE=RUNNING SLURM_RESTART_COUNT=100", 130, false},
		"cancelled":                {"CODE=130 STATE=COMPLETING", 130, false},
		"Slurm has forgotten it":   {"CODE=130 STATE=", 130, false},
		"Slurm was faster":         {"CODE=130 STATE=RUNNING SCONTROL=1", 130, true},
		"killed":                   {"DIES=1 STATE=RUNNING", 137, false},
		"a signal":                 {"WAITS=1 STATE=RUNNING", 130, true},
		"preempted":                {"WAITS=1 STATE=PREEMPTED", 130, false}, // Slurm itself queues it again
		"a signal, the last times": {"WAITS=1 STATE=RUNNING SLURM_RESTART_COUNT=100", 130, false},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			limit, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(limit, "bash", submitted.Script)
			cmd.Env = append(append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"), "OUT="+out, "SLURM_ARRAY_JOB_ID=47",
				"SLURM_ARRAY_TASK_ID=1", "SLURM_CPUS_PER_TASK=5"), strings.Fields(x.env)...)
			require.NoError(t, cmd.Start())
			t.Cleanup(func() { cmd.Process.Kill() })
			if strings.HasPrefix(x.env, "WAITS") {
				require.Eventually(t, func() bool { return isThere(filepath.Join(out, "waits")) }, time.Minute, time.Millisecond)
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM)) // to the shell alone, as by --signal=B:TERM@120
			}
			cmd.Wait()
			require.NoError(t, limit.Err(), "a signal was lost")
			require.Equal(t, x.code, cmd.ProcessState.ExitCode())
			text, err := os.ReadFile(filepath.Join(out, "worker"))
			require.NoError(t, err)
			require.Equal(t, "a b grid.yaml --worker=task --lock-timeout=60 --only=method=full --threads 5\n", string(text))
			text, err = os.ReadFile(filepath.Join(out, "scontrol"))
			if !x.requeued {
				require.ErrorIs(t, err, os.ErrNotExist)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "requeue 47_1\n", string(text))
			text, err = os.ReadFile(filepath.Join(out, "squeue"))
			require.NoError(t, err)
			require.Equal(t, "-h -j 47_1 -o %T\n", string(text), "of this task")
		})
	}
}

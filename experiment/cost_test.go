package experiment

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

// figureIn writes a figure as Measure does.
func figureIn(t *testing.T, p *Plan, f figure) {
	t.Helper()
	name, err := f.name()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(p.Dir, figuresFolder), 0o777))
	require.NoError(t, writeJSON(filepath.Join(p.Dir, figuresFolder, name), f))
}

// Before a run has finished, times are those of iterations: of runs that were begun, and of figures that were
// measured. 2 epochs of 3 iterations and of 1 for the validation, which goes forward only, are 6⅔ iterations.
func TestTimesBeforeAnyRunHasFinished(t *testing.T) {
	d := newDemo(t).replace("full: {method: full}", "full: {method: full}\n  slow: {method: full, epochs: 4, lr: 0.1}\n  wide: {method: full, batch-size: 4}")
	p := d.plan()
	seconds := func(what string) *float64 { return byWhat(p)["target unet "+what+", 3 shots, draw 1, seed 0"].Seconds }
	run := byWhat(p)["target unet full, 1 shots, draw 0, seed 0"]
	const each = 2 * (3 + 1.0/3)
	note := func(text string) {
		write(t, filepath.Join(p.Folder(run), progressFile), text)
		require.NoError(t, p.Refresh())
	}
	note(`{"stage":"train","epoch":1,"epochs":2}`)
	require.Nil(t, seconds("full"), "no iteration is known yet")
	note(`{"stage":"train","epoch":1,"epochs":2,"iteration_seconds":10,"device":"cuda:0","threads":4}`)
	require.InDelta(t, 10*each, *seconds("full"), 1e-9)
	require.InDelta(t, 20*each, *seconds("slow"), 1e-9, "an iteration of the same work, twice as many")
	require.InDelta(t, 10*each, *seconds("wide"), 1e-9, "of the same method, where nothing better is known")
	require.InDelta(t, 10*each, *seconds("dgst"), 1e-9, "of the same network")
	require.Nil(t, p.Runs[0].Seconds, "nothing was predicted")
	require.Nil(t, p.Cost.Seconds)

	base := func(method string) *combination {
		return byWhat(p)["target unet "+method+", 1 shots, draw 0, seed 0"].base
	}
	require.Equal(t, base("full").work, base("slow").work)
	require.NotEqual(t, base("full").work, base("wide").work)
	require.NotEqual(t, base("full").work, base("dgst").work)
	host, err := os.Hostname()
	require.NoError(t, err)
	one := figure{Work: base("dgst").work, Of: ofIteration, Seconds: 30, Host: host, Device: "cpu", Threads: 2, Time: "2026-01-01T00:00:00Z"}
	figureIn(t, p, one)
	require.NoError(t, p.Refresh())
	require.InDelta(t, 30*each, *seconds("dgst"), 1e-9, "measured")
	require.InDelta(t, 10*each, *seconds("wide"), 1e-9)
	require.Nil(t, p.Cost.Seconds)
	figureIn(t, p, figure{Work: p.Runs[0].base.predicts, Of: ofPrediction, Seconds: 7, Host: host, Device: "cuda:0", Threads: 2})
	require.NoError(t, p.Refresh())
	require.InDelta(t, 30*each+7, *seconds("dgst"), 1e-9, "with the prediction")
	require.InDelta(t, 7, *p.Runs[0].Seconds, 1e-9)
	require.InDelta(t, 7+40*7+10*each*(10+20+10+30), *p.Cost.Seconds, 1e-6)
	require.InDelta(t, (*p.Cost.Seconds-10*(7+30*each))/3600, *p.Cost.GPUHours, 1e-9, "dgst was measured on the CPU")
	require.Equal(t, CoversAll, p.Cost.Covers)
	require.InDelta(t, *p.Cost.Seconds, *p.Status().Seconds, 1e-9, "as many as one worker")

	// A figure of this host counts before one of another, a newer one before an older one, and none of another kind of
	// device than the one that is asked for.
	for i, f := range []figure{{Seconds: 40, Host: "elsewhere", Device: "cpu", Threads: 2, Time: "2026-05-01T00:00:00Z"},
		{Seconds: 50, Host: "elsewhere", Device: "cuda:1", Threads: 2, Time: "2026-02-01T00:00:00Z"},
		{Seconds: 60, Host: host, Device: "cpu", Threads: 3, Time: "2026-01-02T00:00:00Z"}} {
		f.Work, f.Of = one.Work, one.Of
		figureIn(t, p, f)
		require.NoError(t, p.Refresh())
		require.InDelta(t, []float64{30, 30, 60}[i]*each+7, *seconds("dgst"), 1e-9)
	}
	require.NoError(t, p.Prefer(MeasureConfig{Device: "cuda:0"}))
	require.InDelta(t, 50*each+7, *seconds("dgst"), 1e-9)
	require.InDelta(t, 10*each+7, *seconds("full"), 1e-9)
	require.NoError(t, p.Prefer(MeasureConfig{Device: "cpu"}))
	require.InDelta(t, 60*each, *seconds("dgst"), 1e-9, "the prediction was timed on a GPU")
	require.InDelta(t, 60*each, *seconds("full"), 1e-9, "and so was this training: an iteration of another method")
	require.NoError(t, p.Prefer(MeasureConfig{Threads: 2}))
	require.InDelta(t, 30*each+7, *seconds("dgst"), 1e-9)
	require.ErrorContains(t, p.Prefer(MeasureConfig{Device: "gpu"}), `--device: torch: device "gpu"`)
	require.NoError(t, p.Prefer(MeasureConfig{Device: "auto"}))

	// A finished run says it better, of its own settings.
	write(t, filepath.Join(p.Folder(run), DoneFile), `{"key":"k","seconds":70,"train_seconds":60,"device":"cpu"}`)
	require.NoError(t, p.Refresh())
	require.InDelta(t, 70, *seconds("full"), 1e-9)
	require.InDelta(t, 60*2+10, *seconds("slow"), 1e-9)
	var others []*Run // of the same settings: a GPU's time counts alone, whichever is first
	for _, r := range p.Runs {
		if r.base == run.base && r != run {
			others = append(others, r)
		}
	}
	for i, record := range []string{`{"key":"k","seconds":4,"train_seconds":3,"device":"cuda:1"}`,
		`{"key":"k","seconds":90,"train_seconds":80,"device":"cpu"}`} {
		write(t, filepath.Join(p.Folder(others[i]), DoneFile), record)
		require.NoError(t, p.Refresh())
		require.InDelta(t, 4, *others[2].Seconds, 1e-9)
	}
	require.NoError(t, p.Prefer(MeasureConfig{Device: "cpu"}))
	require.InDelta(t, 80, *others[2].Seconds, 1e-9)
	write(t, filepath.Join(p.Dir, figuresFolder, "damaged.json"), "{")
	require.NoError(t, p.Refresh())
}

// Where no prediction was timed, the time is of the trainings, and says so.
func TestTimesWithoutAPrediction(t *testing.T) {
	p := newDemo(t).replace("  none: {method: none}\n", "").plan()
	write(t, filepath.Join(p.Folder(p.Runs[0]), progressFile), `{"iteration_seconds":3,"device":"cpu"}`)
	require.NoError(t, p.Refresh())
	require.InDelta(t, float64(len(p.Runs))*3*2*(3+1.0/3), *p.Cost.Seconds, 1e-6)
	require.Equal(t, CoversTraining, p.Cost.Covers)
	require.Nil(t, p.Cost.GPUHours)
	require.Equal(t, ", about 7m one after the other", togo(p.Runs))
	p.Runs[0].Seconds = nil
	require.Empty(t, togo(p.Runs))
}

// The first iterations, and the time between epochs, are no measure.
func TestPaceOfIterations(t *testing.T) {
	var p pace
	at := time.Now()
	done := func(n int, after time.Duration) {
		at = at.Add(after)
		p.done(n, at)
	}
	done(0, 0)
	done(1, 9*time.Second)
	done(2, 7*time.Second)
	require.Zero(t, p.seconds())
	require.Equal(t, 7*time.Second, p.first)
	done(3, time.Second)
	done(5, 6*time.Second)
	require.InDelta(t, 7.0/3, p.seconds(), 1e-9)
	done(0, time.Hour) // another epoch
	done(1, time.Second)
	require.InDelta(t, 8.0/4, p.seconds(), 1e-9)
}

// What a worker notes of its training is what plan reads, at its next stages, too.
func TestTrainingsNoteTheirPace(t *testing.T) {
	p := newDemo(t).plan()
	r := byWhat(p)["target unet full, 1 shots, draw 0, seed 0"]
	require.NoError(t, os.MkdirAll(p.Folder(r), 0o777))
	a := &attempt{worker: &worker{plan: p, device: "cuda:1", threads: 3}, run: r, folder: p.Folder(r)}
	e := &epochs{pace: &a.pace, note: func(p Progress) { require.NoError(t, a.progress(p)) }}
	at := func() (now Progress) {
		read(filepath.Join(p.Folder(r), progressFile), &now)
		return now
	}
	e.Begin("epoch 1 of 2", 5)
	require.Equal(t, Progress{Stage: "train", Epoch: 1, Epochs: 2}, at())
	for n := range 6 {
		e.Done(n, "")
	}
	now := at()
	require.Positive(t, now.IterationSeconds, "within the epoch")
	require.Equal(t, []any{"train", 1, "cuda:1", 3}, []any{now.Stage, now.Epoch, now.Device, now.Threads})
	e.End()
	e.Begin("validation", 2)
	e.Done(1, "")
	e.Done(2, "")
	require.Equal(t, 3, a.pace.count, "of the training alone")
	require.NoError(t, a.progress(Progress{Stage: "predict"}))
	require.Positive(t, at().IterationSeconds)
	require.NoError(t, p.Refresh())
	require.Positive(t, *r.Seconds)
}

// The forecast of a run is that of its training or its prediction, on the host and on the GPU.
func TestMemoryOfRuns(t *testing.T) {
	p := newDemo(t).replace("dgst: {method: dgst}", "dgst: {method: dgst}\n  wide: {method: full, batch-size: 8}").plan()
	require.Nil(t, p.Cost.Memory)
	device, err := p.Forecast(context.Background())
	require.NoError(t, err)
	require.Equal(t, "cpu", device)
	memory := func(what string) pipeline.Memory { return *byWhat(p)["target unet "+what].Memory }
	const one = ", 1 shots, draw 0, seed 0"
	none, full, wide := memory("none"), memory("full"+one), memory("wide"+one)
	require.Positive(t, none.Host, "a network as it is takes memory, too")
	require.Greater(t, full.Host, none.Host)
	require.Greater(t, wide.Host, full.Host)
	require.Zero(t, full.Device)
	require.Equal(t, &wide, p.Cost.Memory)
	require.NoError(t, p.Prefer(MeasureConfig{Device: "cuda:3"}))
	device, err = p.Forecast(context.Background())
	require.NoError(t, err)
	require.Equal(t, "cuda:3", device)
	gpu := memory("wide" + one)
	require.Greater(t, gpu.Device, wide.Host-full.Host)
	require.Positive(t, memory("none").Device)
	require.Equal(t, gpu.Device, p.Cost.Memory.Device)
	require.Contains(t, jsonOf(t, p.Document()), `"memory":{"host":`)

	require.Equal(t, int64(4<<30), p.taskMemory(context.Background(), p.Runs, "cpu"), "no task of Slurm asks for less")

	// The GPU of runs that were timed is that of those to come; a prediction that cannot be forecast is left out.
	p = newDemo(t).plan()
	write(t, filepath.Join(p.Folder(p.Runs[1]), progressFile), `{"iteration_seconds":3,"device":"cuda:1"}`)
	require.NoError(t, p.Refresh())
	for _, test := range p.Runs[0].base.dataset.test {
		require.NoError(t, os.Remove(test.images[0]))
	}
	device, err = p.Forecast(context.Background())
	require.NoError(t, err)
	require.Equal(t, "cuda:1", device)
	require.Nil(t, p.Runs[0].Memory)
	require.Positive(t, p.Runs[1].Memory.Device)
}

// Workers on a GPU wait until their runs fit beside those that are running there; another GPU is free for others.
func TestAGPUIsShared(t *testing.T) {
	p := newDemo(t).replace("dgst: {method: dgst}", "dgst: {method: dgst}\n  wide: {method: full, batch-size: 64}").plan()
	const one = ", 1 shots, draw 0, seed 0"
	need := func(what string) pipeline.Memory {
		return *p.need(context.Background(), byWhat(p)["target unet "+what], "cuda:0")
	}
	none, full, wide := need("none"), need("full"+one), need("wide"+one)
	require.Greater(t, wide.Device, full.Device)
	// The size of the GPU: three quarters of what is free hold the wide training and the network as it is.
	free := (wide.Device + none.Device) / 3 * 4
	free += 8
	require.Less(t, none.Device, full.Device)
	s := newShares(1<<50, 0)
	s.found("cuda:0", free)
	s.found("cuda:0", 1) // what a second worker finds free has the first one's work in it
	s.found("cuda:1", free)
	ctx := context.Background()
	fits := func(device string, m pipeline.Memory) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		require.NoError(t, s.take(ctx, device, m))
		s.give(device, m)
	}
	waits := func(device string, m pipeline.Memory) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, s.take(ctx, device, m), context.DeadlineExceeded)
	}
	require.NoError(t, s.take(ctx, "cuda:0", wide))
	waits("cuda:0", full)
	fits("cuda:0", none) // a prediction beside it
	fits("cuda:1", full)
	fits("cpu", pipeline.Memory{Host: 1 << 40})
	require.NoError(t, s.take(ctx, "cpu", pipeline.Memory{Host: 1 << 49}))
	waits("cuda:1", pipeline.Memory{Host: 1 << 50, Device: wide.Device})
	fits("cuda:1", wide) // which was given back when there was no room on the host
	s.give("cuda:0", wide)
	fits("cuda:0", full)
	fits("cuda:0", pipeline.Memory{Device: 1 << 50}) // what is too large for the GPU has it alone

	s = newShares(1<<50, wide.Device) // --max-vram
	s.found("cuda:0", 1<<50)
	require.NoError(t, s.take(ctx, "cuda:0", none))
	waits("cuda:0", wide)
}

// workerScript is a worker that has a run of 600 bytes of its device, and says on what GPU, of how many bytes.
const workerScript = `#!/bin/sh
case "$*" in *cuda:1*) device=cuda:1;; *) device=cuda:0;; esac
echo "free $FREE $device" >&3
touch "$FOLDER/asks.$$"
echo "take 10 600" >&3
read -r word <&4
[ "$word" = go ] || exit 3
mkdir "$FOLDER/$device" || touch "$FOLDER/together"
touch "$FOLDER/took.$$"
took() { ls "$FOLDER" | grep -c took; }
[ "$KILLED" = yes ] && [ "$(took)" = 1 ] && { rmdir "$FOLDER/$device"; kill -9 $$; }
n=0
while [ "$(took)" -lt "$WAIT" ]; do
  sleep 0.05
  n=$((n+1))
  [ $n -gt 400 ] && { touch "$FOLDER/alone"; break; }
done
[ "$KILLED" = yes ] || while [ "$(ls "$FOLDER" | grep -c asks)" -lt 2 ]; do sleep 0.05; done
sleep 0.3
rmdir "$FOLDER/$device"
echo give >&3
`

// Processes that work on one GPU take its memory in turn, those on two at the same time; one that is killed gives back
// what it had.
func TestWorkersBookTheirGPU(t *testing.T) {
	script := write(t, filepath.Join(t.TempDir(), "worker"), workerScript)
	require.NoError(t, os.Chmod(script, 0o755))
	p := newDemo(t).plan()
	for _, x := range []struct {
		name, devices, free, wait, killed string
		together                          bool
	}{
		{"one GPU", "cuda:0", "1000", "1", "", false},    // 750 bytes
		{"a large GPU", "cuda:0", "9000", "2", "", true}, // room for both
		{"two GPUs", "cuda:0,cuda:1", "1000", "2", "", false},
		{"a killed worker", "cuda:0", "1000", "1", "yes", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			folder := t.TempDir()
			for name, value := range map[string]string{"FOLDER": folder, "FREE": x.free, "WAIT": x.wait, "KILLED": x.killed} {
				t.Setenv(name, value)
			}
			c := settings.New[WorkConfig]()
			c.Jobs, c.Threads, c.Devices, c.Command = 2, 1, strings.Split(x.devices, ","), []string{script}
			var log bytes.Buffer
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // where one waits for ever
			defer cancel()
			_, err := p.Work(ctx, c, pipeline.Output{Log: &log})
			require.NoError(t, err)
			took, err := filepath.Glob(filepath.Join(folder, "took.*"))
			require.NoError(t, err)
			require.Len(t, took, 2, "both had their turn")
			require.NoFileExists(t, filepath.Join(folder, "alone"))
			require.Equal(t, x.together, isThere(filepath.Join(folder, "together")))
			require.Equal(t, x.killed != "", strings.Contains(log.String(), "has died"), log.String())
		})
	}
}

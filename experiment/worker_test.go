package experiment

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
)

// A worker that finds every run of a large grid in other hands asks seldom, and little.
func TestAnIdleWorkerRests(t *testing.T) {
	p := &Plan{Dir: t.TempDir()}
	require.NoError(t, os.MkdirAll(filepath.Join(p.Dir, RunsFolder), 0o777))
	for i := range 5000 {
		r := &Run{Key: fmt.Sprintf("%016x", i), Settings: map[string]any{"method": NoTraining}}
		p.Runs = append(p.Runs, r)
		hold(t, p.Lock(r), remote("far"))
	}
	c := settings.New[WorkConfig]()
	w, err := newWorker(p, p.Runs, &c, noMemory{}, p.options.Output)
	require.NoError(t, err)
	const seconds = 5
	ctx, cancel := context.WithTimeout(context.Background(), seconds*time.Second)
	defer cancel()
	opened := opens(t, filepath.Join(p.Dir, RunsFolder))
	before := system.CPUTime()
	require.ErrorIs(t, w.work(ctx), context.DeadlineExceeded)
	used := system.CPUTime() - before
	const passes = 3 // after 0, 1 and 3 s; later one every ten
	calls := 4 * float64(opened()) / passes / longWait.Seconds()
	t.Logf("%.1f calls to the file system a second, later", calls) // open, fstat, read or touch, close
	require.Less(t, calls, 5.0)
	require.Positive(t, calls)
	t.Logf("%s of a core in %d s, with its first looks", used, seconds)
	require.Less(t, used, seconds*time.Second/10, "a busy loop") // the first looks are most of it; on a quiet machine all is 1.5 %
	require.NoError(t, w.journal.close())
	require.LessOrEqual(t, w.next, 3*looksEach)
}

// The folder of runs is read again when it has changed, as far as its time can tell.
func TestTheFolderOfRunsIsReadWhenItHasChanged(t *testing.T) {
	folder := t.TempDir()
	w := &worker{locks: newLocks(newHolder(), t.TempDir(), time.Minute)}
	list := func() (names []string) {
		t.Helper()
		found, err := w.list(folder)
		require.NoError(t, err)
		return slices.Sorted(maps.Keys(found))
	}
	add := func(name string, ago time.Duration) {
		t.Helper()
		hold(t, filepath.Join(folder, name), remote("far"))
		age(t, folder, ago)
	}
	require.Empty(t, list())
	add("a", time.Minute)
	require.Equal(t, []string{"a"}, list())
	at, err := os.Stat(folder)
	require.NoError(t, err)
	hold(t, filepath.Join(folder, "b"), remote("far"))
	require.NoError(t, os.Chtimes(folder, at.ModTime(), at.ModTime()))
	require.Equal(t, []string{"a"}, list(), "it is not read again")
	for i, ago := range []time.Duration{30 * time.Second, 0, -time.Hour} {
		name := string(rune('c' + i))
		add(name, ago)
		require.Contains(t, list(), name)
	}
	at, err = os.Stat(folder) // in the future: of a clock that is wrong
	require.NoError(t, err)
	add("f", 0)
	require.NoError(t, os.Chtimes(folder, at.ModTime(), at.ModTime()))
	require.Contains(t, list(), "f", "a change may have had the same time")
}

// All runs that are done, are not asked for and trained the same may have what another one needs.
func TestEarlierRunsAreAllFound(t *testing.T) {
	p := &Plan{Dir: t.TempDir(), Runs: []*Run{{Key: strings.Repeat("d", 16)}}}
	for key, x := range map[string]struct {
		trained string
		done    bool
	}{"a": {"t", true}, "b": {"t", true}, "c": {"other", true}, "d": {"t", true}, "e": {"t", false}} {
		folder := filepath.Join(p.Dir, RunsFolder, strings.Repeat(key, 16))
		write(t, filepath.Join(folder, RunFile), fmt.Sprintf(`{"train_key": %q}`, x.trained))
		if x.done {
			write(t, filepath.Join(folder, DoneFile), "")
		}
	}
	found, err := (&worker{plan: p}).earlier("t")
	require.NoError(t, err)
	var keys string
	for _, f := range found {
		keys += filepath.Base(f)[:1]
	}
	require.Equal(t, "ab", keys)
}

// opens counts how often a folder and files in it are opened, from now on.
func opens(t *testing.T, folder string) func() int {
	t.Helper()
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	_, err = syscall.InotifyAddWatch(fd, folder, syscall.IN_OPEN)
	require.NoError(t, err)
	return func() (n int) {
		events := make([]byte, 1<<16)
		for {
			size, err := syscall.Read(fd, events)
			if errors.Is(err, syscall.EAGAIN) {
				return n
			}
			require.NoError(t, err)
			for at := 0; at < size; n++ {
				at += syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[at+12:])) // with the name's length
			}
		}
	}
}

// Of the many runs that wait for data that another worker makes, one a pass asks for it.
func TestDataInOtherHandsIsAskedForOnceAPass(t *testing.T) {
	p := newDemo(t).plan()
	c := settings.New[WorkConfig]()
	w, err := newWorker(p, p.Runs, &c, noMemory{}, p.options.Output)
	require.NoError(t, err)
	defer w.journal.close()
	var runs []*Run
	for _, r := range p.Runs {
		if r.Trains() {
			runs = append(runs, r)
		}
	}
	w.runs = runs
	adopt, err := p.Adoption(runs[0])
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(adopt.Preprocessed), 0o777))
	hold(t, adopt.Preprocessed+lockEnding, remote("far"))
	left, took, err := w.pass(context.Background())
	require.NoError(t, err)
	require.False(t, took)
	require.Len(t, runs, left)
	require.NoError(t, os.Remove(adopt.Preprocessed+lockEnding))
	write(t, filepath.Join(adopt.Preprocessed, dataReady), "{}")
	var held *heldError
	_, err = w.dataOf(context.Background(), runs[1])
	require.ErrorAs(t, err, &held)
	w.runs = nil
	_, _, err = w.pass(context.Background())
	require.NoError(t, err)
	d, err := w.dataOf(context.Background(), runs[1])
	require.NoError(t, err)
	require.Equal(t, adopt.Preprocessed, d.folder)
}

// Blocks of shots and draws stay in their order; within them a worker begins anywhere.
func TestWorkersBeginAtDifferentRuns(t *testing.T) {
	var runs []*Run
	for _, shots := range []string{"1", "5"} {
		for draw := range 2 {
			for i := range 6 {
				runs = append(runs, &Run{Shots: shots, Draw: draw, Seed: uint64(i)})
			}
		}
	}
	first := map[uint64]bool{}
	for range 200 {
		order := workOrder(runs)
		require.ElementsMatch(t, runs, order)
		first[order[0].Seed] = true
		for i, r := range order {
			require.Equal(t, runs[i].Shots, r.Shots)
			require.Equal(t, runs[i].Draw, r.Draw)
			require.Equal(t, (order[i/6*6].Seed+uint64(i%6))%6, r.Seed)
		}
	}
	require.Len(t, first, 6)
}

func TestOnlyChoosesRuns(t *testing.T) {
	p := &Plan{Runs: []*Run{
		{Key: "1", Dataset: "b", Network: "unet", Method: "full", Shots: "1", Seed: 3},
		{Key: "2", Dataset: "b", Network: "unet", Method: "dgst", Shots: "1", Also: []Place{{Dataset: "b", Network: "unet", Method: "same", Shots: "1", Draw: 2}}},
		{Key: "3", Dataset: "b", Network: "swin", Method: "dgst", Shots: "all"},
	}}
	for text, keys := range map[string]string{
		"": "1 2 3", "network=unet": "1 2", "network=unet,method=dgst": "2", "network=unet,network=swin": "1 2 3",
		"method=same": "2", "draw=2": "2", "seed=3": "1", "shots=all": "3", "key=3": "3", "key=3,key=1": "1 3",
	} {
		var only []string
		if text != "" {
			only = strings.Split(text, ",")
		}
		runs, err := p.only(only)
		require.NoError(t, err, text)
		var found []string
		for _, r := range runs {
			found = append(found, r.Key)
		}
		require.Equal(t, keys, strings.Join(found, " "), text)
	}
	for text, says := range map[string]string{
		"network=vnet":             "--only network=vnet: the experiment has no such run",
		"net=unet":                 `--only: found "net=unet", expected dataset=, network=, method=, shots=, draw=, seed= or key=`,
		"unet":                     `found "unet"`,
		"network=swin,method=full": "has no run that is all of it",
	} {
		_, err := p.only(strings.Split(text, ","))
		require.ErrorContains(t, err, says)
		var mistake *settings.UsageError
		require.True(t, errors.As(err, &mistake))
	}
}

// What a shell would make of --slurm-args: compared with sh itself.
func TestSlurmArgumentsAreWords(t *testing.T) {
	for text, want := range map[string][]string{
		"": nil, "  ": nil, "--time=1:00 -p gpu": {"--time=1:00", "-p", "gpu"},
		`--comment='two words' x"y z"\ w ''`: {"--comment=two words", "xy z w", ""},
	} {
		list, err := words(text)
		require.NoError(t, err)
		require.Equal(t, want, list, text)
	}
	_, err := words("--comment='two")
	require.ErrorContains(t, err, "expected a closing quote")
	require.Equal(t, []string{"--partition=gpu", "--time", "5"},
		withoutGPUs([]string{"--partition=gpu", "--gres=gpu:1", "-G", "1", "--time", "5", "--mem=4G"}))
}

func TestThePapersGridIsWhatItSays(t *testing.T) {
	f, err := Read(filepath.Join("..", "docs", "studies", "paper.yaml"))
	require.NoError(t, err)
	require.Len(t, f.Networks, 5)
	require.Len(t, f.Methods, 9) // with none
	require.Equal(t, []string{"1", "5", "10", "all"}, f.Shots)
	require.Equal(t, 3, f.Draws)
	require.Equal(t, []uint64{0, 1, 2}, f.Seeds)
}

// newAttempt is one on a run that the worker has taken.
func newAttempt(t *testing.T) *attempt {
	p := &Plan{Dir: t.TempDir()}
	r := &Run{Key: strings.Repeat("a", 16)}
	require.NoError(t, os.MkdirAll(filepath.Join(p.Dir, RunsFolder), 0o777))
	k, err := newLocks(newHolder(), t.TempDir(), time.Minute).take(p.Lock(r))
	require.NoError(t, err)
	return &attempt{worker: &worker{plan: p}, run: r, lock: k, folder: p.Folder(r), work: filepath.Join(p.Folder(r), workFolder+"x")}
}

// A worker whose lock is another's when it has done a run drops it: nothing of it is in the run's folder.
func TestARunOfALostLockIsNotDone(t *testing.T) {
	a := newAttempt(t)
	p, r, k := a.plan, a.run, a.lock
	write(t, a.final(RunFile), `{"key": "k"}`)
	write(t, a.path(completeFile), "")
	hold(t, p.Lock(r), remote("far"))
	require.ErrorIs(t, a.finish(), errLost)
	entries, err := os.ReadDir(a.folder)
	require.NoError(t, err)
	require.Len(t, entries, 1, "the work folder")
	hold(t, p.Lock(r), k.holder)
	require.NoError(t, a.finish())
	require.True(t, isDone(a.folder))
}

// A run that is interrupted anywhere between its first file's move and done is completed by the next attempt.
func TestAnAttemptEndsWhatWasMoved(t *testing.T) {
	files := []string{modelFolder + "/weights", RunFile, logFile, scoresFile}
	for moved := 0; moved <= len(files); moved++ {
		a := newAttempt(t)
		write(t, a.path(completeFile), "")
		write(t, a.path(trainedFile), `{"model": "m"}`)
		for i, name := range files {
			to := a.final(name)
			if i < moved {
				to = filepath.Join(a.folder, name)
			}
			write(t, to, `{"key": "`+name+`"}`)
		}
		next := *a
		next.work = filepath.Join(a.folder, workFolder+"y")
		_, err := next.open()
		require.NoError(t, err)
		require.NoError(t, next.do(context.Background(), nil), moved)
		require.True(t, isDone(a.folder))
		entries, err := os.ReadDir(a.folder)
		require.NoError(t, err)
		require.Len(t, entries, len(files)+1, "and done")
		for _, name := range files {
			text, err := os.ReadFile(filepath.Join(a.folder, name))
			require.NoError(t, err)
			require.Equal(t, `{"key": "`+name+`"}`, string(text))
		}
	}
}

// A worker that is frozen while it moves its run up removes nothing when it wakes, of a run that another has done since.
func TestAFrozenWorkerRemovesNothing(t *testing.T) {
	a := newAttempt(t)
	write(t, a.final(scoresFile), "")
	entries, err := os.ReadDir(a.final())
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(a.work)) // by the other one, which then ends the run
	write(t, filepath.Join(a.folder, scoresFile), "theirs")
	write(t, filepath.Join(a.folder, DoneFile), "{}")
	require.ErrorIs(t, a.moveUp(entries), os.ErrNotExist)
	text, err := os.ReadFile(filepath.Join(a.folder, scoresFile))
	require.NoError(t, err)
	require.Equal(t, "theirs", string(text))
}

// A disk that is full in the middle of a line of the journal costs that line alone, and stops no worker.
func TestAJournalOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	self := newHolder()
	j, err := openJournal(dir, &self)
	require.NoError(t, err)
	defer j.close()
	var log bytes.Buffer
	p := &Plan{}
	w := &worker{plan: p, journal: j, out: pipeline.Output{Log: &log}}
	require.NoError(t, j.write("a", eventStart, nil))
	info, err := j.file.Stat()
	require.NoError(t, err)
	var was syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was))
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	full := was
	full.Cur = uint64(info.Size()) + 20
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full))
	w.note(&Run{Key: "a"}, eventDone)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was))
	require.Contains(t, log.String(), "the journal lacks this")
	require.NoError(t, j.write("b", eventStart, nil))
	require.NoError(t, j.write("b", eventDone, nil))
	text, err := os.ReadFile(j.file.Name())
	require.NoError(t, err)
	var read []string
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range lines {
		var e event
		if json.Unmarshal([]byte(line), &e) == nil {
			read = append(read, e.Run+" "+e.Event)
		}
	}
	require.Equal(t, []string{"a start", "b start", "b done"}, read)
	require.Len(t, lines, 4)
}

// Predictions of cases whose grid has changed are no predictions of these cases.
func TestPredictionsAreOfAGrid(t *testing.T) {
	p := newDemo(t).plan()
	a := &attempt{worker: &worker{plan: p}, run: p.Runs[0]}
	was := a.predicted()
	require.NotEmpty(t, was.Test)
	for _, c := range a.run.base.dataset.testing {
		c.geometry = "another"
	}
	is := a.predicted()
	for name := range was.Test {
		require.NotEqual(t, was.Test[name], is.Test[name])
	}
}

// The order in which regions are painted decides the labels, so it is part of a run's keys and of its data's.
func TestTheOrderOfRegionsIsInKeys(t *testing.T) {
	p := newDemo(t).plan()
	c := p.Runs[0].base
	of := func(regions bool, order ...int) string {
		labels := *c.dataset.raw.JSON.Labels
		labels.HasRegions, labels.RegionsClassOrder = regions, order
		c.dataset.raw.JSON.Labels = &labels
		require.NoError(t, c.identify(&p.File.Evaluate))
		folder, err := p.dataFolder(c)
		require.NoError(t, err)
		return c.digest + " " + filepath.Base(folder)
	}
	plain := strings.Fields(of(false))
	one, other := strings.Fields(of(true, 1, 2)), strings.Fields(of(true, 2, 1))
	for i := range plain {
		require.NotEqual(t, one[i], other[i])
		require.NotEqual(t, plain[i], one[i])
	}
}

// A run that is interrupted after its weights were removed, and before it is complete, is completed by the next
// attempt, with all that its record has of them.
func TestAnAttemptMayEndBehindKeep(t *testing.T) {
	p := &Plan{Dir: t.TempDir(), File: &File{}}
	p.File.Keep.Checkpoints = keepNone
	p.Splits = &Splits{Datasets: map[string]*DatasetSplit{"": {}}}
	r := &Run{Key: strings.Repeat("a", 16), Settings: map[string]any{}}
	p.Runs = []*Run{r}
	c := settings.New[WorkConfig]()
	w, err := newWorker(p, p.Runs, &c, noMemory{}, p.options.Output)
	require.NoError(t, err)
	defer w.journal.close()
	k, err := w.locks.take(p.Lock(r))
	require.NoError(t, err)
	a := &attempt{worker: w, run: r, lock: k, folder: p.Folder(r), work: filepath.Join(p.Folder(r), workFolder+"x"), began: time.Now()}
	fold := a.final(modelFolder, foldFolder)
	require.NoError(t, os.MkdirAll(fold, 0o777))
	write := func(path, text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o666)) }
	write(a.path(trainedFile), `{"seconds": 7, "model": "m"}`)
	write(filepath.Join(fold, RunFile), `{"parameters": {"trained": 11}}`)
	final, err := os.ReadFile("../testdata/foundation/fold_0/checkpoint_final.pth")
	require.NoError(t, err)
	write(filepath.Join(fold, finalName), string(final))
	text, err := json.Marshal(scores.New(scores.Default(), []eval.Target{eval.Label(1)}, nil, nil, nil))
	require.NoError(t, err)
	write(a.final(scoresFile), string(text))

	require.NoError(t, a.settle())
	require.NoFileExists(t, filepath.Join(fold, finalName))
	require.NoError(t, a.finish())
	require.True(t, isDone(a.folder))
	var record runRecord
	require.NoError(t, readJSON(filepath.Join(a.folder, RunFile), &record))
	require.EqualValues(t, 11, record.Trained)
	require.EqualValues(t, 7, record.TrainedIn)
	require.Positive(t, record.Bytes)
	require.NotEmpty(t, record.Curves.Loss)
}

package experiment

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// remote is a worker on another host.
func remote(name string) Holder {
	h := newHolder()
	h.Host, h.Boot, h.Worker = name, "boot of "+name, name+"-1-00000000"
	return h
}

func hold(t *testing.T, path string, h Holder) {
	t.Helper()
	text, err := json.Marshal(h)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o666))
}

func age(t *testing.T, path string, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	require.NoError(t, os.Chtimes(path, at, at))
}

// left lists the files of a folder but for the clock.
func left(t *testing.T, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Name() != clockFile {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestALockIsHeldUntilItIsGivenBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	one := newLocks(newHolder(), filepath.Dir(path), time.Minute)
	other := newLocks(newHolder(), filepath.Dir(path), time.Minute)
	k, err := one.take(path)
	require.NoError(t, err)
	_, err = other.take(path)
	var held *heldError
	require.ErrorAs(t, err, &held)
	require.Equal(t, one.self.Worker, held.holder.Worker)

	var file map[string]any
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &file))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, host, file["host"])
	require.EqualValues(t, os.Getpid(), file["pid"])
	require.Equal(t, strings.TrimSpace(string(boot)), file["boot"])
	require.Contains(t, file, "worker")
	require.Contains(t, file, "time")

	require.NoError(t, k.release())
	k, err = other.take(path)
	require.NoError(t, err)
	require.False(t, k.over)
	require.NoError(t, k.release())
	require.Empty(t, left(t, filepath.Dir(path)))
}

// The locks of processes that are gone, of hosts that are gone, that nobody can read, or that were touched
// by a clock that was wrong.
func TestWhichLocksAreDead(t *testing.T) {
	child := exec.Command("true")
	require.NoError(t, child.Run())
	gone := newHolder()
	gone.PID, gone.Start = child.Process.Pid, 0
	again := newHolder() // this process' number was another's
	again.Start--
	container := newHolder()
	container.PID, container.Namespace = child.Process.Pid, "pid:[1]"
	rebooted := newHolder()
	rebooted.PID, rebooted.Boot = child.Process.Pid, "before"
	for _, x := range []struct {
		name    string
		holder  Holder
		touched time.Duration // ago
		dead    bool
	}{
		{"a live process, touched now", newHolder(), 0, false},
		{"a live process that is frozen", newHolder(), time.Hour, true},
		{"a process that is gone", gone, 0, true},
		{"a process that is gone, its number given away", again, 0, true},
		{"a process of another container", container, 0, false},
		{"a host of that name, started again or another", rebooted, 0, false},
		{"another host", remote("far"), 30 * time.Second, false},
		{"another host that is gone", remote("far"), 61 * time.Second, true},
		{"touched by a clock that is ahead", remote("far"), -24 * time.Hour, false},
		{"not readable", Holder{}, 0, false},
		{"not readable and old", Holder{}, 61 * time.Second, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.lock")
			hold(t, path, x.holder)
			if x.holder.Worker == "" {
				require.NoError(t, os.WriteFile(path, []byte(`{"worker":`), 0o666))
			}
			age(t, path, x.touched)
			l := newLocks(newHolder(), filepath.Dir(path), time.Minute)
			k, err := l.take(path)
			if !x.dead {
				var held *heldError
				require.ErrorAs(t, err, &held)
				return
			}
			require.NoError(t, err)
			require.True(t, k.over)
			own, err := k.own()
			require.NoError(t, err)
			require.True(t, own)
		})
	}
}

// A lock whose time is ahead of the file system's is dead when it stays as it is.
func TestALockFromTheFutureIsWatched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	hold(t, path, remote("far"))
	age(t, path, -time.Hour)
	l := newLocks(newHolder(), filepath.Dir(path), 100*time.Millisecond)
	began := time.Now()
	require.Eventually(t, func() bool { k, err := l.take(path); return err == nil && k.over }, 10*time.Second, 10*time.Millisecond)
	require.Greater(t, time.Since(began), 100*time.Millisecond)

	hold(t, path, remote("far"))
	for i := range 30 { // touched again and again, always in the future
		age(t, path, -time.Hour+time.Duration(i)*time.Second)
		_, err := l.take(path)
		var held *heldError
		require.ErrorAs(t, err, &held)
		time.Sleep(10 * time.Millisecond)
	}
}

// When the file system's clock is set, or a machine with it has slept, live workers' locks look old, or as from the future.
// They are not taken over then, but when their workers do not touch them for the time-out.
func TestAClockThatJumpsEndsNoRun(t *testing.T) {
	const timeout = time.Second
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		path := filepath.Join(t.TempDir(), "a.lock")
		l := newLocks(newHolder(), filepath.Dir(path), timeout)
		_, ok := l.now()
		require.True(t, ok)
		hold(t, path, remote("far"))
		// It is the clock from now on that is right.
		l.read, l.readAt = l.read.Add(-by-2*timeout), l.readAt.Add(-2*timeout)
		age(t, path, by)
		began := time.Now()
		_, err := l.take(path)
		var held *heldError
		require.ErrorAs(t, err, &held)
		require.Eventually(t, func() bool { k, err := l.take(path); return err == nil && k.over }, time.Minute, 10*time.Millisecond)
		require.Greater(t, time.Since(began), timeout)
		require.Eventually(t, func() bool { return time.Since(l.jumped) > timeout }, time.Minute, time.Millisecond)
		hold(t, path, remote("far"))
		age(t, path, time.Hour)
		_, err = l.take(path)
		require.NoError(t, err, "the clock goes as it should again")
	}
}

// Of many that see the same dead lock one takes it over.
func TestOneOfManyTakesALockOver(t *testing.T) {
	folder := t.TempDir()
	for range 50 {
		path := filepath.Join(folder, "a.lock")
		hold(t, path, remote("far"))
		age(t, path, time.Hour)
		var won atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				l := newLocks(newHolder(), folder, time.Minute)
				if _, err := l.take(path); err == nil {
					won.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, won.Load())
		require.NoError(t, os.Remove(path))
	}
	require.Empty(t, left(t, folder))
}

// A worker may be killed anywhere in a takeover: nothing of it stays.
func TestWhatAKilledTakeoverLeavesIsSwept(t *testing.T) {
	for _, left := range [][]string{
		{"", takeoverEnding}, {takeoverEnding}, {takeoverEnding, deadEnding}, {"", deadEnding}, {"", takeoverEnding, deadEnding}, {deadEnding},
	} {
		path := filepath.Join(t.TempDir(), "a.lock")
		for _, ending := range left {
			hold(t, path+ending, remote("far"))
			age(t, path+ending, time.Hour)
		}
		l := newLocks(newHolder(), filepath.Dir(path), time.Minute)
		var k *lock
		for range 2 { // a dead takeover is removed first
			var held *heldError
			var err error
			if k, err = l.take(path); err == nil {
				break
			}
			require.ErrorAs(t, err, &held, "%q", left)
		}
		require.NotNil(t, k, "%q", left)
		require.Equal(t, left[0] == "", k.over, "%q", left)
		require.NoError(t, k.release())
		entries, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		for _, e := range entries {
			require.Equal(t, clockFile, e.Name(), "%q", left)
		}
	}
	// A takeover that is under way stays.
	path := filepath.Join(t.TempDir(), "a.lock")
	hold(t, path+takeoverEnding, remote("far"))
	_, err := newLocks(newHolder(), filepath.Dir(path), time.Minute).take(path)
	require.NoError(t, err)
	require.FileExists(t, path+takeoverEnding)
}

// One that judged a lock dead and comes late does not take away the lock that took its place.
func TestALateTakeoverLeavesTheNewLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	dead := remote("far")
	hold(t, path, dead)
	age(t, path, time.Hour)
	fast := newLocks(newHolder(), filepath.Dir(path), time.Minute)
	k, err := fast.take(path)
	require.NoError(t, err)
	late := newLocks(newHolder(), filepath.Dir(path), time.Minute)
	won, err := late.remove(path, &dead)
	require.NoError(t, err)
	require.False(t, won)
	own, err := k.own()
	require.NoError(t, err)
	require.True(t, own)
}

// A holder that was frozen finds that its lock is another's, and does not touch or remove that.
func TestALostLockEndsTheWork(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	l := newLocks(newHolder(), filepath.Dir(path), time.Minute)
	k, err := l.take(path)
	require.NoError(t, err)
	ctx := k.keep(context.Background(), 10*time.Millisecond)
	age(t, path, time.Hour)
	require.Eventually(t, func() bool {
		info, err := os.Stat(path)
		return err == nil && time.Since(info.ModTime()) < time.Minute
	}, 10*time.Second, 5*time.Millisecond, "it is touched")
	require.NoError(t, ctx.Err())

	require.NoError(t, os.Rename(path, path+".dead")) // as a takeover does
	hold(t, path, remote("far"))
	<-ctx.Done()
	require.ErrorIs(t, context.Cause(ctx), errLost)
	age(t, path, time.Hour)
	require.NoError(t, k.release())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Greater(t, time.Since(info.ModTime()), time.Minute)
}

func TestJournalsAreLinesOfJSON(t *testing.T) {
	dir := t.TempDir()
	self := newHolder()
	self.Host = "../hos t"
	j, err := openJournal(dir, &self)
	require.NoError(t, err)
	require.NoError(t, j.write("0123456789abcdef", eventStart, nil))
	require.NoError(t, j.write("0123456789abcdef", eventFailed, os.ErrPermission))
	require.NoError(t, j.close())
	files, err := filepath.Glob(filepath.Join(dir, "journal", "*.jsonl"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.Equal(t, "_hos_t", strings.TrimRight(strings.Split(filepath.Base(files[0]), "-")[0], "."))
	text, err := os.ReadFile(files[0])
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	require.Len(t, lines, 2)
	var e map[string]string
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &e))
	_, err = time.Parse(time.RFC3339, e["time"])
	require.NoError(t, err)
	require.Equal(t, "failed", e["event"])
	require.Equal(t, "0123456789abcdef", e["run"])
	require.Equal(t, self.Worker, e["worker"])
	require.Equal(t, "permission denied", strings.TrimPrefix(e["error"], "permission denied")+"permission denied")
}

package experiment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/lntorch/lntorch/internal/system"
)

// DefaultLockTimeout is after how long without a touch a lock is dead.
const DefaultLockTimeout = time.Minute

// touchEvery is how often a worker touches its locks, unless the time-out is so short that a few touches would
// not fit into it.
const touchEvery = 10 * time.Second

func (l *locks) touchEvery() time.Duration { return min(touchEvery, l.timeout/6) }

// clockFile is touched to read the file system's clock. All workers share it: whoever touched it last, its
// time is not before one's own touch.
const clockFile = ".clock"

// maxLock bounds what is read of a lock, which another program may have put there.
const maxLock = 64 << 10

// Holder is who holds a lock, and the content of its file.
type Holder struct {
	Worker string `json:"worker"` // a name of its own for each start of a worker
	Host   string `json:"host"`
	PID    int    `json:"pid"`
	Boot   string `json:"boot"` // the kernel's boot id
	Time   string `json:"time"` // RFC 3339, by the holder's clock: for people, compared with nothing

	// A process ID means nothing in another container of the same host, or once it was given to
	// another process.
	Namespace string `json:"pid_namespace,omitempty"`
	Start     uint64 `json:"start,omitempty"` // of the process, in the kernel's ticks
}

// newHolder describes this process.
func newHolder() Holder {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	namespace, _ := os.Readlink("/proc/self/ns/pid")
	h := Holder{Host: host, PID: os.Getpid(), Boot: strings.TrimSpace(string(boot)), Namespace: namespace}
	_, h.Start = system.Process(h.PID)
	h.Worker = fmt.Sprintf("%s-%d-%08x", fileName(host), h.PID, rand.Uint32())
	return h
}

// fileName makes a name, such as a host's, one that a file or a job can have on any system.
func fileName(text string) string {
	name := strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, text)
	return strings.TrimLeft(name[:min(len(name), 64)], ".")
}

// gone says that the process of h does not run any more, as far as h's own process can know.
func (h *Holder) gone(self *Holder) bool {
	if h.Host != self.Host || h.Boot != self.Boot || h.Boot == "" || h.Namespace != self.Namespace || h.PID <= 0 {
		return false
	}
	lives, start := system.Process(h.PID)
	return !lives || h.Start != 0 && start != 0 && h.Start != start
}

// locks takes locks for one worker. It is used by one goroutine.
type locks struct {
	self    Holder
	timeout time.Duration
	clock   string    // a file that is touched to read the file system's clock
	read    time.Time // by it, at a time of this process' steady clock; zero: never
	readAt  time.Time
	jumped  time.Time // when that clock was found to have jumped; zero: never
	seen    map[string]sighting
}

// sighting is the time of a lock as it was when it was first seen with it, by this process' steady clock.
type sighting struct {
	touched time.Time
	at      time.Time
}

// newLocks makes the locks of a worker; folder is on the file system of all of them.
func newLocks(self Holder, folder string, timeout time.Duration) *locks {
	return &locks{self: self, timeout: timeout, clock: filepath.Join(folder, clockFile), seen: map[string]sighting{}}
}

// clockKept is how long a look at the file system's clock is enough.
const clockKept = time.Second

// now is the file system's time; false where it cannot be had, as on a disk that is full.
func (l *locks) now() (time.Time, bool) {
	if since := time.Since(l.readAt); !l.read.IsZero() && since < min(clockKept, l.timeout/10) {
		return l.read.Add(since), true
	}
	f, err := os.OpenFile(l.clock, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return time.Time{}, false
	}
	defer f.Close()
	if system.Touch(l.clock) != nil {
		return time.Time{}, false
	}
	info, err := f.Stat()
	if err != nil {
		return time.Time{}, false
	}
	now := time.Now()
	if !l.read.IsZero() && info.ModTime().Sub(l.read.Add(now.Sub(l.readAt))).Abs() > l.timeout/2 {
		l.jumped = now
	}
	l.read, l.readAt = info.ModTime(), now
	return l.read, true
}

// readLock reads a lock. holder is nil if it cannot be understood, and touched is then right still. The
// file is opened, since a network's file system checks then, and not before, that what it remembers is true.
func readLock(path string) (holder *Holder, touched time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, err
	}
	text := make([]byte, min(info.Size(), maxLock))
	if n, err := io.ReadFull(f, text); err != nil {
		text = text[:n] // it is being written, and not understood
	}
	var h Holder
	if json.Unmarshal(text, &h) != nil || h.Worker == "" {
		return nil, info.ModTime(), nil
	}
	return &h, info.ModTime(), nil
}

// A heldError says that another worker holds a lock.
type heldError struct {
	path   string
	holder *Holder // nil if not known
}

func (e *heldError) Error() string {
	if e.holder == nil {
		return e.path + " is held by an unknown worker"
	}
	return fmt.Sprintf("%s is held by process %d on %s", e.path, e.holder.PID, e.holder.Host)
}

// errLost is the cause of a context whose lock another worker has taken over.
var errLost = errors.New("another worker has taken it over")

// A lock is held until release.
type lock struct {
	path   string
	holder Holder
	taken  *Holder // whose dead lock it was; nil for none
	over   bool    // it was taken over from a dead worker
	stop   func()
	done   sync.WaitGroup
}

// take takes a lock, that of a dead worker too. It returns a *heldError if a live one holds it.
func (l *locks) take(path string) (*lock, error) {
	k, err := l.create(path)
	if err == nil {
		l.sweep(path)
	}
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return k, err
	}
	dead, holder, err := l.dead(path)
	if err != nil {
		return nil, err
	}
	if !dead {
		return nil, &heldError{path, holder}
	}
	if k, err = l.takeOver(path); k != nil || err != nil {
		return k, err
	}
	holder, _, _ = readLock(path)
	return nil, &heldError{path, holder}
}

// takeoverEnding ends the name of the lock under which a dead lock is taken over. It is held for as long as
// that takes.
const takeoverEnding = ".takeover"

// takeOver replaces a dead lock. One worker at a time does so, and looks once more: else one that has judged the
// lock dead, and comes late, would move the new one away, and a third could create its own meanwhile. k is nil
// where another worker is at it, or was.
func (l *locks) takeOver(path string) (k *lock, err error) {
	guard, err := l.create(path + takeoverEnding)
	if errors.Is(err, fs.ErrExist) {
		dead, holder, err := l.dead(path + takeoverEnding)
		if dead {
			_, err = l.remove(path+takeoverEnding, holder)
		}
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	defer guard.release() // one that stays is dead when its time is over
	dead, holder, err := l.dead(path)
	if err != nil || !dead {
		return nil, err
	}
	if won, err := l.remove(path, holder); err != nil || !won {
		return nil, err
	}
	k, err = l.create(path)
	if errors.Is(err, fs.ErrExist) { // by one that found none there
		return nil, nil
	}
	if k != nil {
		k.taken, k.over = holder, true
	}
	return k, err
}

// deadEnding ends the name of a dead lock that is being taken away.
const deadEnding = ".dead"

// sweep removes what a worker left that was killed while it took over a lock which is not there any more.
func (l *locks) sweep(path string) {
	if dead, holder, err := l.dead(path + takeoverEnding); dead && err == nil {
		l.remove(path+takeoverEnding, holder)
	}
	os.Remove(path + deadEnding)
}

// create makes a lock that is not there.
func (l *locks) create(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	h := l.self
	h.Time = time.Now().Format(time.RFC3339Nano)
	text, err := json.Marshal(h)
	if err == nil {
		_, err = f.Write(append(text, '\n'))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path) // else it would be a lock of nobody until the time is over
		return nil, err
	}
	return &lock{path: path, holder: h, stop: func() {}}, nil
}

// dead says whether a lock may be taken over. A lock that is gone meanwhile is not dead.
func (l *locks) dead(path string) (bool, *Holder, error) {
	holder, touched, err := readLock(path)
	if errors.Is(err, fs.ErrNotExist) {
		delete(l.seen, path)
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	if holder != nil && holder.gone(&l.self) {
		return true, holder, nil
	}
	return l.idle(path, touched) > l.timeout, holder, nil
}

// idle is how long a lock was not touched for, as far as is known. Of one that was touched in the future, since
// a clock was wrong, this process' own clock says whether it is still touched; and so it is of all, until they must have
// been touched again, when the clock was set, or this machine slept: they all look old then.
func (l *locks) idle(path string, touched time.Time) time.Duration {
	s, ok := l.seen[path]
	if !ok || !s.touched.Equal(touched) {
		s = sighting{touched, time.Now()}
		l.seen[path] = s
	}
	long := time.Since(s.at)
	if now, ok := l.now(); ok && (l.jumped.IsZero() || time.Since(l.jumped) > l.timeout) {
		long = max(long, now.Sub(touched))
	}
	return long
}

// live says that somebody holds a lock, and is alive.
func (l *locks) live(path string) (bool, error) {
	dead, _, err := l.dead(path)
	if err != nil || dead {
		return false, err
	}
	_, there := l.seen[path]
	return there, nil
}

// remove takes a dead lock away; of several workers one wins. Should another have replaced the dead lock
// by its own meanwhile, that is put back.
func (l *locks) remove(path string, dead *Holder) (won bool, err error) {
	delete(l.seen, path)
	aside := path + deadEnding
	if strings.HasSuffix(path, takeoverEnding) {
		aside += "-" + l.self.Worker // of another one no two are taken away at once
	}
	if err := os.Rename(path, aside); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	found, _, err := readLock(aside)
	won = err == nil && (found == nil && dead == nil || found != nil && dead != nil && found.Worker == dead.Worker)
	if !won {
		os.Link(aside, path) // where it fails, its holder finds that the lock is lost
	}
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) { // or swept
		return won, err
	}
	return won, nil
}

// keep touches the lock until release, and ends ctx with errLost once it is another's.
func (k *lock) keep(ctx context.Context, every time.Duration) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	k.stop = sync.OnceFunc(func() { close(stop) })
	k.done.Go(func() {
		defer cancel(nil)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			own, err := k.own()
			if err == nil && !own {
				cancel(errLost)
				return
			}
			system.Touch(k.path) // an error is that of a file system which may come back
		}
	})
	return ctx
}

// own says whether the lock is still this worker's.
func (k *lock) own() (bool, error) {
	h, _, err := readLock(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && h != nil && h.Worker == k.holder.Worker, err
}

// lost says that work under the lock ended with err since the lock is another's. ctx is that of keep. Whatever
// went wrong then, it is no failure.
func (k *lock) lost(ctx context.Context, err error) bool {
	if err == nil || errors.Is(err, errLost) || errors.Is(context.Cause(ctx), errLost) {
		return err != nil
	}
	own, ownErr := k.own()
	return ownErr == nil && !own
}

// release gives the lock back, if it is still this worker's.
func (k *lock) release() error {
	k.stop()
	k.done.Wait()
	own, err := k.own()
	if err != nil || !own {
		return err
	}
	return os.Remove(k.path)
}

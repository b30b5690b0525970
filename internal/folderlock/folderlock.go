// Package folderlock keeps two programs from writing one folder at the same time. The lock is a
// kernel lock (flock) on a small file, so that a killed program leaves none behind; the file names
// its holder. It guards against mistakes such as a job array with a wrong index, not against
// programs that do not take the lock.
package folderlock

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// Lock is held until Release or the end of the program.
type Lock struct {
	// Warning is not empty if the file system has no locks, so that another program may be writing
	// nevertheless.
	Warning string

	f    *os.File
	path string
}

// Holder identifies the process that holds a lock.
type Holder struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Command string    `json:"command"`
}

// HeldError reports that another program holds the lock.
type HeldError struct {
	Folder string
	Holder *Holder // nil if unknown
	file   string
	sure   bool // reported by the kernel, not judged from the file
}

func (e *HeldError) Error() string {
	who := "another program is writing there"
	if e.Holder != nil {
		who = fmt.Sprintf("process %d on %s has been writing there since %s (%s)",
			e.Holder.PID, e.Holder.Host, e.Holder.Since.Format(time.DateTime), e.Holder.Command)
	}
	text := fmt.Sprintf("%s is in use: %s; wait for it, stop it, or choose another folder",
		e.Folder, who)
	if !e.sure {
		text += fmt.Sprintf(". If that process ID now belongs to another program, delete %s",
			e.file)
	}
	return text
}

// In locks a folder, which must exist, with the file .lntorch.lock in it. It returns a *HeldError
// if another program holds the lock.
func In(folder string) (*Lock, error) {
	return acquire(folder, filepath.Join(folder, ".lntorch.lock"), commandLine())
}

// Named is In for a program whose arguments the file must not hold, as they may name patients: it says
// command in their place.
func Named(folder, command string) (*Lock, error) {
	return acquire(folder, filepath.Join(folder, ".lntorch.lock"), command)
}

// Beside locks a folder, which need not exist, with the file .NAME.lntorch.lock next to it. It is
// for folders in which other programs interpret all files by their endings, as nnU-Net 2.6 does in
// folders of cases. The parent folder must exist.
func Beside(folder string) (*Lock, error) {
	name := filepath.Base(folder)
	return acquire(folder, filepath.Join(filepath.Dir(folder),
		"."+name[:min(len(name), 200)]+".lntorch.lock"), commandLine())
}

// commandLine is how this program was called.
func commandLine() string {
	return strings.Join(append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...), " ")
}

func acquire(folder, path, command string) (*Lock, error) {
	return acquireWith(folder, path, command, func(f *os.File) error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
}

func acquireWith(folder, path, command string, flock func(*os.File) error) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return nil, fmt.Errorf("lock of %s: %w", folder, err)
		}
		l := &Lock{f: f, path: path}
		switch err := flock(f); {
		case errors.Is(err, syscall.EWOULDBLOCK):
			h := holder(f)
			f.Close()
			return nil, &HeldError{Folder: folder, Holder: h, file: path, sure: true}
		case unsupported(err):
			if err := l.judge(folder); err != nil {
				f.Close()
				return nil, err
			}
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("lock of %s: %s: %w", folder, path, err)
		}
		if !l.current() { // its last holder removed it before we got the lock
			f.Close()
			continue
		}
		if err := l.sign(command); err != nil {
			l.Release()
			return nil, fmt.Errorf("lock of %s: %w", folder, err)
		}
		return l, nil
	}
}

// unsupported recognises the errors of file systems without flock: SMB, NFS without a lock daemon,
// some FUSE.
func unsupported(err error) bool {
	for _, e := range []error{syscall.ENOTSUP, syscall.ENOLCK, syscall.EINVAL, syscall.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// judge decides from the file's content if there is no flock: a live process on this host holds the
// lock; one on another host cannot be checked and causes a warning.
func (l *Lock) judge(folder string) error {
	h := holder(l.f)
	host, _ := os.Hostname()
	switch {
	case h == nil:
		l.Warning = fmt.Sprintf("the file system of %s has no locks: make sure that no other "+
			"program writes there", folder)
	case h.Host != host:
		l.Warning = fmt.Sprintf("the file system of %s has no locks, and process %d on %s (since "+
			"%s, %s) wrote there and may still do so",
			folder, h.PID, h.Host, h.Since.Format(time.DateTime), h.Command)
	case lives(h.PID):
		return &HeldError{Folder: folder, Holder: h, file: l.path}
	default:
		l.Warning = fmt.Sprintf("the file system of %s has no locks: process %d, which wrote "+
			"there, has ended; programs on other hosts cannot be checked", folder, h.PID)
	}
	return nil
}

func lives(pid int) bool {
	if pid <= 0 {
		return false
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// current reports whether the path still refers to this file.
func (l *Lock) current() bool {
	mine, err := l.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.path)
	return err == nil && os.SameFile(mine, there)
}

func (l *Lock) sign(command string) error {
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed host"
	}
	b, err := json.Marshal(Holder{os.Getpid(), host, time.Now().Truncate(time.Second), command})
	if err == nil {
		err = l.f.Truncate(0)
	}
	if err == nil {
		_, err = l.f.WriteAt(append(b, '\n'), 0)
	}
	return err
}

// holder reads the holder from the file, nil if there is none yet.
func holder(f *os.File) *Holder {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 64<<10))
	var h Holder
	if err != nil || json.Unmarshal(b, &h) != nil || h.PID == 0 {
		return nil
	}
	h.Host, h.Command = printable(h.Host), printable(h.Command)
	return &h
}

// printable makes text from the file safe for a one-line message.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s[:min(len(s), 300)])
}

// Release releases the lock and removes its file. It does nothing on a second call or on a nil
// Lock.
func (l *Lock) Release() {
	if l == nil || l.f == nil {
		return
	}
	if l.current() {
		os.Remove(l.path) // while still locked, so that it cannot be another holder's
	}
	l.f.Close()
	l.f = nil
}

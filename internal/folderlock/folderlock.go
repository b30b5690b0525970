// Package folderlock keeps two programs from writing one folder at the same time. The lock is the kernel's (flock) on a small
// file, so that a program that is killed leaves none behind; the file tells who holds it. It guards against mistakes such as a
// job array with a wrong index, not against programs that do not ask.
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

// Lock is held until Release, or until the program ends.
type Lock struct {
	// Warning is not empty where the file system has no locks and another program may be at work all the same.
	Warning string

	f    *os.File
	path string
}

// Holder is who holds a lock.
type Holder struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Command string    `json:"command"`
}

// HeldError says that another program holds the lock.
type HeldError struct {
	Folder string
	Holder *Holder // nil if it is not known
	file   string
	sure   bool // the kernel says so
}

func (e *HeldError) Error() string {
	who := "another program is writing there"
	if e.Holder != nil {
		who = fmt.Sprintf("process %d on %s has been writing there since %s (%s)",
			e.Holder.PID, e.Holder.Host, e.Holder.Since.Format(time.DateTime), e.Holder.Command)
	}
	text := fmt.Sprintf("%s is in use: %s; wait for it or end it, or choose another folder", e.Folder, who)
	if !e.sure {
		text += fmt.Sprintf(". If it is another program that has this number now, delete %s", e.file)
	}
	return text
}

// In locks a folder, which must exist, by the file .lntorch.lock in it. A lock that another holds is a *HeldError.
func In(folder string) (*Lock, error) {
	return acquire(folder, filepath.Join(folder, ".lntorch.lock"))
}

// Beside locks a folder, which need not exist, by the file .NAME.lntorch.lock next to it: for folders in which other programs
// judge by the endings of all files (nnU-Net 2.6 does in those of cases). The folder that both are in must exist.
func Beside(folder string) (*Lock, error) {
	name := filepath.Base(folder)
	return acquire(folder, filepath.Join(filepath.Dir(folder), "."+name[:min(len(name), 200)]+".lntorch.lock"))
}

func acquire(folder, path string) (*Lock, error) {
	return acquireWith(folder, path, func(f *os.File) error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
}

func acquireWith(folder, path string, flock func(*os.File) error) (*Lock, error) {
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
		if !l.current() { // its last holder removed it before we had it
			f.Close()
			continue
		}
		if err := l.sign(); err != nil {
			l.Release()
			return nil, fmt.Errorf("lock of %s: %w", folder, err)
		}
		return l, nil
	}
}

// unsupported tells the errors of file systems that have no flock: SMB, NFS without a lock daemon, some FUSE.
func unsupported(err error) bool {
	for _, e := range []error{syscall.ENOTSUP, syscall.ENOLCK, syscall.EINVAL, syscall.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// judge goes by what the file says, where there is no flock: a process that lives on this host holds the lock; one of another
// host cannot be asked, and is warned of.
func (l *Lock) judge(folder string) error {
	h := holder(l.f)
	host, _ := os.Hostname()
	switch {
	case h == nil:
		l.Warning = fmt.Sprintf("the file system of %s has no locks: see to it that no other program writes there", folder)
	case h.Host != host:
		l.Warning = fmt.Sprintf("the file system of %s has no locks, and process %d on %s (since %s, %s) wrote there and may still do so",
			folder, h.PID, h.Host, h.Since.Format(time.DateTime), h.Command)
	case lives(h.PID):
		return &HeldError{Folder: folder, Holder: h, file: l.path}
	default:
		l.Warning = fmt.Sprintf("the file system of %s has no locks: process %d, which wrote there, is gone; programs of other hosts are not seen", folder, h.PID)
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

// current reports whether the file is still the one of its name.
func (l *Lock) current() bool {
	mine, err := l.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.path)
	return err == nil && os.SameFile(mine, there)
}

func (l *Lock) sign() error {
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed host"
	}
	command := append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...)
	b, err := json.Marshal(Holder{os.Getpid(), host, time.Now().Truncate(time.Second), strings.Join(command, " ")})
	if err == nil {
		err = l.f.Truncate(0)
	}
	if err == nil {
		_, err = l.f.WriteAt(append(b, '\n'), 0)
	}
	return err
}

// holder reads who wrote the file, nil where that is nobody, or nobody yet.
func holder(f *os.File) *Holder {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 64<<10))
	var h Holder
	if err != nil || json.Unmarshal(b, &h) != nil || h.PID == 0 {
		return nil
	}
	h.Host, h.Command = printable(h.Host), printable(h.Command)
	return &h
}

// printable makes text of a file fit for a line of a message.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s[:min(len(s), 300)])
}

// Release ends the lock and removes its file. Releasing again, and a nil Lock, do nothing.
func (l *Lock) Release() {
	if l == nil || l.f == nil {
		return
	}
	if l.current() {
		os.Remove(l.path) // while it is locked, so that it is no other's
	}
	l.f.Close()
	l.f = nil
}

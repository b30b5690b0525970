// Package atomicfile writes files that appear complete or not at all: it writes to a temporary name
// in the same folder, syncs, then renames. A folder that its file system cannot sync is not an
// error.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrNotRegular is the error of a path that is a pipe, socket or device.
var ErrNotRegular = errors.New("not a regular file, which another could replace: give another name")

// File is a file being written, by one goroutine or by several with WriteAt. Finish it with Commit or
// Abort.
type File struct {
	*os.File
	path    string
	written atomic.Int64 // bytes, as often as they were written
}

// behind is after how many bytes the disk is told to begin: Commit then waits for the last ones alone.
const behind = 8 << 20

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	return f.inParts(p, func(part []byte, _ int) (int, error) { return f.File.Write(part) })
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	return f.inParts(p, func(part []byte, done int) (int, error) {
		return f.File.WriteAt(part, off+int64(done))
	})
}

// inParts writes p in parts, between which the disk can begin.
func (f *File) inParts(p []byte, write func(part []byte, done int) (int, error)) (done int, err error) {
	for {
		n, err := write(p[done:min(done+behind, len(p))], done)
		done += n
		if now := f.written.Add(int64(n)); now/behind > (now-int64(n))/behind {
			beginWriting(f.File)
		}
		if err != nil || done == len(p) {
			return done, err
		}
	}
}

// Temporary files are named .lntorch.xxxxxxxx.tmp, independent of the final name, which may be as
// long as the file system allows.
const temporaryName = ".lntorch.%08x.tmp"

// temporary matches them, and those of earlier versions, .NAME.xxxxxxxx.tmp.
var temporary = regexp.MustCompile(`^\..+\.[0-9a-f]{8}\.tmp$`)

// Create starts a file that will replace path on Commit. Its permissions are those of any new file. A path
// that is a pipe, socket or device, /dev/null or /dev/stdout, is an error: a file would take its place.
func Create(path string) (*File, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return nil, &fs.PathError{Op: "create", Path: path, Err: ErrNotRegular}
	}
	for try := 0; ; try++ {
		name := filepath.Join(filepath.Dir(path), fmt.Sprintf(temporaryName, rand.Uint32()))
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			if locked(f) {
				return &File{File: f, path: path}, nil
			}
			f.Close()
			continue
		}
		if !errors.Is(err, os.ErrExist) || try == 100 {
			return nil, err
		}
	}
}

// locked marks a temporary file as that of a living writer, for Sweep. It reports false where a sweep
// of another process came between creating and locking the file, and removed it. A file system without
// locks has no sweeping either.
func locked(f *os.File) bool {
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX) != nil {
		return true
	}
	own, err := f.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(f.Name())
	return err == nil && os.SameFile(own, now)
}

// Write writes a file with the given content.
func Write(path string, content []byte) error {
	f, err := Create(path)
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		f.Abort()
		return err
	}
	return f.Commit()
}

// Commit makes the content durable and renames the file to its final name. On an error no file is
// left behind and an existing file is untouched; only an error from syncing the folder can follow
// the rename.
func (f *File) Commit() error {
	err := f.Sync()
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		f.Abort()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(f.path))
}

// Copy writes what it reads from in into a file. modified, if not zero, is the file's time.
func Copy(path string, in io.Reader, modified time.Time) error {
	out, err := Create(path)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = os.Chtimes(out.Name(), time.Time{}, modified) // a zero time is left as it is
	}
	if err != nil {
		out.Abort()
		return err
	}
	return out.Commit()
}

// SyncFolder makes the names in a folder durable, as far as possible: file systems that cannot sync
// folders (SMB, some FUSE) and folders that are writable but not readable are no error; a failing
// disk is.
func SyncFolder(folder string) error {
	dir, err := os.Open(folder)
	if errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return bestEffort(dir.Sync())
}

// bestEffort drops errors that mean that a folder cannot be synced.
func bestEffort(err error) error {
	for _, none := range []error{syscall.EINVAL, syscall.ENOTSUP, syscall.ENOSYS} {
		if errors.Is(err, none) {
			return nil
		}
	}
	return err
}

// Abort removes the temporary file.
func (f *File) Abort() {
	f.Close()
	os.Remove(f.Name())
}

// Sweep removes temporary files in folder whose writers were killed. It keeps those of running
// programs and any files not created by this package.
func Sweep(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !temporary.MatchString(name) || !e.Type().IsRegular() {
			continue
		}
		if err := sweep(filepath.Join(folder, name)); err != nil && !errors.Is(err,
			os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func sweep(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // still being written
	}
	return os.Remove(path)
}

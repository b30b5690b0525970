// Package regular opens files whose content is to be read, and refuses at once what is none: opening a
// named pipe waits for a writer that may never come.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ErrNotRegular is the error of a pipe, socket or device.
var ErrNotRegular = errors.New("not a regular file: give a file that is stored on disk")

// Open opens a file for reading. Folders open, too: their readers have messages of their own.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// largest file that ReadFile reads: many times the largest summary of an evaluation, and small enough to
// be held a few times over.
const largest = 256 << 20

// ReadFile reads a whole file of text, such as JSON. One above 256 MiB is refused before it takes memory.
func ReadFile(path string) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > largest {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("found %d MiB, expected a text "+
			"such as JSON, %d MiB at most: is it another file?", info.Size()>>20, largest>>20)}
	}
	return io.ReadAll(io.LimitReader(f, largest))
}

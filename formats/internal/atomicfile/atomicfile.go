// Package atomicfile writes files that appear whole or not at all: to a temporary name in the same folder, made durable,
// then renamed.
package atomicfile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// File is a file being written. End it with Commit or Abort.
type File struct {
	*os.File
	path string
}

// Create starts a file that will replace path on Commit. Its permissions are those of any new file.
func Create(path string) (*File, error) {
	for try := 0; ; try++ {
		name := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%08x.tmp", filepath.Base(path), rand.Uint32()))
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			return &File{f, path}, nil
		}
		if !errors.Is(err, os.ErrExist) || try == 100 {
			return nil, err
		}
	}
}

// Commit makes the content durable and gives the file its name. On an error nothing is left and a file that had the
// name before is untouched; only an error from making the folder durable comes after the renaming.
func (f *File) Commit() error {
	err := f.Sync()
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Abort removes the temporary file.
func (f *File) Abort() {
	f.Close()
	os.Remove(f.Name())
}

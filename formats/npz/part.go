package npz

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lntorch/lntorch/internal/regular"
)

// Npy is an open .npy file of which parts are read.
type Npy struct {
	Shape   []int
	DType   string // as of Array
	Fortran bool   // column-major

	f     *os.File
	start int64 // of the data
	size  int64 // of the data, bytes
}

// OpenNpyParts opens a .npy file and reads its header; the file must hold as much as it says. Close
// closes it.
func OpenNpyParts(path string) (n *Npy, err error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	a, need, used, err := readHeader(f)
	if err != nil {
		return nil, fmt.Errorf("npz: %s: %w", path, err)
	}
	if need != info.Size()-used {
		return nil, fmt.Errorf("npz: %s: an array of shape %v and type %s needs %d bytes, the file holds "+
			"%d (truncated?)", path, a.Shape, a.DType, need, info.Size()-used)
	}
	return &Npy{Shape: a.Shape, DType: a.DType, Fortran: a.Fortran, f: f, start: used, size: need}, nil
}

// ReadAt fills b with the data's bytes from the byte at on, as they are in the file. Fewer are an
// error.
func (n *Npy) ReadAt(b []byte, at int64) error {
	if at < 0 || at > n.size-int64(len(b)) {
		return fmt.Errorf("npz: %s: bytes %d to %d, expected some of %d", n.f.Name(), at, at+int64(len(b)), n.size)
	}
	_, err := n.f.ReadAt(b, n.start+at)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("npz: %s: the file ends before byte %d of its data (truncated since it was opened?)",
			n.f.Name(), at+int64(len(b)))
	}
	if err != nil {
		return fmt.Errorf("npz: %w", err)
	}
	return nil
}

// Close closes the file.
func (n *Npy) Close() error { return n.f.Close() }

package npz

import (
	"archive/zip"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/flate"
	"github.com/lntorch/lntorch/formats/internal/archive"
	"github.com/lntorch/lntorch/formats/internal/deflate"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/sniff"
)

// File is an open .npz archive. Its methods may be called from several goroutines.
type File struct {
	path    string
	f       *os.File
	names   []string
	entries map[string]*zip.File
}

// OpenNpz reads the directory of a .npz file.
func OpenNpz(path string) (*File, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		var out *File
		if out, err = read(f, info.Size()); err == nil {
			out.path, out.f = path, f
			return out, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("npz: %s: %w", path, err)
}

func read(r io.ReaderAt, size int64) (*File, error) {
	z, err := archive.Open(r, size)
	if err != nil {
		head := make([]byte, min(sniff.HeadSize, size))
		if _, headErr := r.ReadAt(head, 0); headErr == nil || headErr == io.EOF {
			if found, next := sniff.What(head); found != "" && found != "a zip archive" {
				return nil, fmt.Errorf("found %s, expected a .npz file: %s", found, next)
			}
		}
		return nil, fmt.Errorf("damaged or truncated .npz: %w", err)
	}
	out := &File{entries: map[string]*zip.File{}}
	for _, e := range z.File {
		name, ok := strings.CutSuffix(e.Name, ".npy")
		if !ok {
			return nil, fmt.Errorf("member %.80q is not a .npy array", e.Name)
		}
		if out.entries[name] != nil {
			return nil, fmt.Errorf("two members are named %.80q", e.Name)
		}
		if e.Flags&1 != 0 || (e.Method != zip.Store && e.Method != zip.Deflate) {
			return nil, fmt.Errorf("member %.80q is encrypted or compressed by an unknown method",
				e.Name)
		}
		start, err := e.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("member %.80q: %w", e.Name, err)
		}
		if start < 0 || start > size || e.CompressedSize64 > uint64(size-start) {
			return nil, fmt.Errorf("member %.80q of %d bytes reaches beyond the end of the file "+
				"(truncated?)", e.Name, e.CompressedSize64)
		}
		if e.Method == zip.Store && e.UncompressedSize64 != e.CompressedSize64 {
			return nil, fmt.Errorf("member %.80q states contradictory sizes", e.Name)
		}
		// Deflate compresses by a factor of 1032 at most.
		if e.Method == zip.Deflate && e.UncompressedSize64/1040 > e.CompressedSize64+1 {
			return nil, fmt.Errorf("member %.80q claims %d bytes out of %d", e.Name,
				e.UncompressedSize64, e.CompressedSize64)
		}
		out.entries[name] = e
		out.names = append(out.names, name)
	}
	return out, nil
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// Names lists the arrays in file order, without ".npy".
func (f *File) Names() []string { return f.names }

// Has reports whether the archive holds an array with that name.
func (f *File) Has(name string) bool { return f.entries[name] != nil }

// Read reads one array and checks its CRC. The error for a missing name lists the names in the
// file.
func (f *File) Read(name string) (*Array, error) {
	e := f.entries[name]
	if e == nil {
		return nil, fmt.Errorf("npz: %s: no array %q; the file holds %q", f.path, name, f.names)
	}
	a, err := readMember(e)
	if err != nil {
		return nil, fmt.Errorf("npz: %s: array %q: %w", f.path, name, err)
	}
	return a, nil
}

func readMember(e *zip.File) (*Array, error) {
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	a, err := readNpy(r, int64(e.UncompressedSize64))
	if err != nil {
		return nil, err
	}
	// The checksum is verified at the end of the entry.
	var b [1]byte
	switch n, err := r.Read(b[:]); {
	case n > 0:
		return nil, errors.New("more data than stated in the directory")
	case err == io.EOF:
		return a, nil
	case err == nil:
		return nil, io.ErrNoProgress
	default:
		return nil, err
	}
}

// Shape returns the shape and type of an array without reading its data.
func (f *File) Shape(name string) (shape []int, dtype string, err error) {
	e := f.entries[name]
	if e == nil {
		return nil, "", fmt.Errorf("npz: %s: no array %q; the file holds %q", f.path, name, f.names)
	}
	r, err := e.Open()
	if err != nil {
		return nil, "", fmt.Errorf("npz: %s: array %q: %w", f.path, name, err)
	}
	defer r.Close()
	a, _, _, err := readHeader(r)
	if err != nil {
		return nil, "", fmt.Errorf("npz: %s: array %q: %w", f.path, name, err)
	}
	return a.Shape, a.DType, nil
}

// Writer writes a .npz archive. The file appears under its name only when Close succeeds.
type Writer struct {
	path   string
	f      *atomicfile.File
	buf    *bufio.Writer
	z      *zip.Writer
	method uint16
	names  map[string]bool
	open   []*deflate.Writer
	err    error
}

// Options control how an archive is written.
type Options struct {
	Deflate bool // compress the members, as numpy.savez_compressed does
	// goroutines that compress; 0 is one goroutine at numpy's level 6, other values use a faster
	// level
	Threads int
	Comment string // comment of the archive; ignored by numpy
}

// Create starts a .npz file; deflate compresses its members as numpy.savez_compressed does.
func Create(path string, deflate bool) (*Writer, error) {
	return CreateWith(path, Options{Deflate: deflate})
}

// CreateWith starts a .npz file.
func CreateWith(path string, o Options) (*Writer, error) {
	f, err := atomicfile.Create(path)
	if err != nil {
		return nil, fmt.Errorf("npz: %w", err)
	}
	w := &Writer{path: path, f: f, buf: bufio.NewWriterSize(f, 1<<20), method: zip.Store,
		names: map[string]bool{}}
	if o.Deflate {
		w.method = zip.Deflate
	}
	w.z = zip.NewWriter(w.buf)
	if err := w.z.SetComment(o.Comment); err != nil {
		f.Abort()
		return nil, fmt.Errorf("npz: %s: %w", path, err)
	}
	w.z.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) {
		switch {
		case o.Threads == 0:
			return flate.NewWriter(out, 6)
		case o.Threads == 1:
			return flate.NewWriter(out, deflate.Level)
		}
		d := deflate.New(out, o.Threads, deflate.Level)
		w.open = append(w.open, d)
		return d, nil
	})
	return w, nil
}

// Comment returns the comment of an archive.
func Comment(path string) (string, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return "", fmt.Errorf("npz: %s: %w", path, err)
	}
	defer z.Close()
	return z.Comment, nil
}

// Add writes one array under a name without ".npy".
func (w *Writer) Add(name string, a *Array) error {
	if w.err != nil {
		return w.err
	}
	w.err = w.add(name, a)
	if w.err != nil {
		w.err = fmt.Errorf("npz: %s: array %q: %w", w.path, name, w.err)
	}
	return w.err
}

func (w *Writer) add(name string, a *Array) error {
	out, err := w.begin(name)
	if err != nil {
		return err
	}
	return WriteNpy(out, a)
}

// begin starts a member.
func (w *Writer) begin(name string) (io.Writer, error) {
	if w.names[name] {
		return nil, errors.New("written twice")
	}
	w.names[name] = true
	return w.z.CreateHeader(&zip.FileHeader{Name: name + ".npy", Method: w.method})
}

// Close completes the archive, makes it durable and gives it its name. After an error in Add or
// Close no file is left.
func (w *Writer) Close() error {
	if w.err != nil {
		for _, d := range w.open {
			d.Close()
		}
		w.f.Abort()
		return w.err
	}
	err := w.z.Close()
	if err == nil {
		err = w.buf.Flush()
	}
	if err == nil {
		err = w.f.Commit()
	} else {
		w.f.Abort()
	}
	if err != nil {
		return fmt.Errorf("npz: %s: %w", w.path, err)
	}
	return nil
}

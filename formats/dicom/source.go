package dicom

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/archive"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/sniff"
)

// A Source is something that may be a DICOM file: a file, or a member of a zip, which is never
// unpacked to disk.
type Source struct {
	Name    string // for messages: "scan/0001.dcm", "scan.zip: scan/0001.dcm"
	Base    string // the last part of its path
	Folder  string // that it lies in
	Size    int64
	InOrder bool // reads are fast only if they go front to back
	open    func() (Reader, error)
}

// A Reader reads a source.
type Reader interface {
	io.ReaderAt
	io.Closer
}

// Open opens the source.
func (s *Source) Open() (Reader, error) { return s.open() }

// FileSource returns the source of a file, whatever it holds.
func FileSource(path string) (*Source, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a folder, expected a file", path)
	}
	return &Source{Name: path, Base: filepath.Base(path), Folder: filepath.Dir(path),
		Size: info.Size(),
		open: func() (Reader, error) { return regular.Open(path) }}, nil
}

// Found is what lies in a file, a folder or a zip.
type Found struct {
	Sources []*Source  // in the order of their paths
	Failed  []*Failure // members and files that cannot be opened
	Links   int        // symbolic links, which are not followed
}

// A Failure is a file, a folder or a member of a zip that cannot be opened.
type Failure struct {
	Err    error  // names it
	Folder string // that it lies in
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the error itself.
func (f *Failure) Unwrap() error { return f.Err }

// maxUnpacked bounds the members of a zip together.
const maxUnpacked = 64 << 30

// List returns the source of a file, the regular files of a folder and of the folders in it, or the
// members of a zip. It reads no more than the first bytes and the zip's directory. A zip in a folder
// or a zip is not looked into.
func List(path string) (*Found, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return folder(path)
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: regular.ErrNotRegular}
	}
	if kind(path) == isZip {
		return members(path)
	}
	s, err := FileSource(path)
	if err != nil {
		return nil, err
	}
	return &Found{Sources: []*Source{s}}, nil
}

func folder(root string) (*Found, error) {
	found := &Found{}
	// The folder itself may be a link.
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(real, func(at string, d fs.DirEntry, err error) error {
		name := at
		if rel, failed := filepath.Rel(real, at); failed == nil {
			name = filepath.Join(root, rel)
		}
		switch {
		case err != nil:
			found.Failed = append(found.Failed, &Failure{err, filepath.Dir(name)})
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			found.Links++
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			found.Failed = append(found.Failed, &Failure{err, filepath.Dir(name)})
			return nil
		}
		found.Sources = append(found.Sources, &Source{Name: name, Base: d.Name(),
			Folder: filepath.Dir(name), Size: info.Size(),
			open: func() (Reader, error) { return regular.Open(at) }})
		return nil
	})
	return found, err
}

// reopened reads a file that is open only during a read: a zip's members are read at any time, by
// any number of goroutines, and nobody has to close it.
type reopened string

func (path reopened) ReadAt(p []byte, off int64) (int, error) {
	f, err := regular.Open(string(path))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

func members(file string) (*Found, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	z, err := archive.Open(reopened(file), info.Size())
	if errors.Is(err, zip.ErrFormat) {
		return nil, fmt.Errorf("%s: found no directory at the end of the zip: it is damaged or was "+
			"not copied to its end", file)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	found := &Found{}
	total := uint64(0)
	for _, m := range z.File {
		if strings.HasSuffix(m.Name, "/") || !m.Mode().IsRegular() {
			continue
		}
		name := file + ": " + m.Name
		folder := file
		if in := path.Dir(m.Name); in != "." {
			folder += ": " + in
		}
		fail := func(format string, args ...any) {
			found.Failed = append(found.Failed, &Failure{fmt.Errorf(format, args...), folder})
		}
		const encrypted = 1
		if m.Flags&encrypted != 0 {
			fail("%s: the member is encrypted: unpack the zip", name)
			continue
		}
		size := m.UncompressedSize64
		if size > maxUnpacked || size/maxInflation > m.CompressedSize64+1 {
			fail("%s: the member says that it has %d bytes, more than its %d in the zip can hold", name,
				size, m.CompressedSize64)
			continue
		}
		if total += size; total > maxUnpacked {
			return nil, fmt.Errorf("%s: its members have more than 64 GiB: unpack it", file)
		}
		found.Sources = append(found.Sources, &Source{Name: name, Base: path.Base(m.Name),
			Folder: folder, Size: int64(size), InOrder: true,
			open: func() (Reader, error) {
				return &forward{open: func() (io.ReadCloser, error) {
					r, err := m.Open()
					if err != nil {
						return nil, err
					}
					// one byte more: the checksum is compared at the end
					return limited{io.LimitReader(r, int64(size)+1), r}, nil
				}}, nil
			}})
	}
	return found, nil
}

// limited closes what it limits.
type limited struct {
	io.Reader
	io.Closer
}

// forward is a Reader of a stream. It reads on where the last read ended; further back it begins the
// stream anew.
type forward struct {
	open func() (io.ReadCloser, error)
	r    io.ReadCloser
	at   int64
}

// ReadAt implements io.ReaderAt, for one goroutine.
func (f *forward) ReadAt(p []byte, off int64) (int, error) {
	if f.r == nil || off < f.at {
		if err := f.Close(); err != nil {
			return 0, err
		}
		r, err := f.open()
		if err != nil {
			return 0, err
		}
		f.r, f.at = r, 0
	}
	n, err := io.CopyN(io.Discard, f.r, off-f.at)
	if f.at += n; err != nil {
		return 0, err
	}
	got, err := io.ReadFull(f.r, p)
	f.at += int64(got)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return got, err
}

// Finish reads to the end, where a zip's checksum stands.
func (f *forward) Finish() error {
	if f.r == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, f.r)
	return err
}

// Close implements io.Closer.
func (f *forward) Close() error {
	if f.r == nil {
		return nil
	}
	err := f.r.Close()
	f.r = nil
	return err
}

const (
	isOther = iota
	isDICOM
	isZip
)

// kind looks at the first bytes of a file.
func kind(path string) int {
	first := head(path)
	switch {
	case Match(first):
		return isDICOM
	case strings.HasPrefix(string(first), "PK\x03\x04"),
		strings.HasPrefix(string(first), "PK\x05\x06"):
		return isZip
	}
	return isOther
}

func head(path string) []byte {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := regular.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	first := make([]byte, sniff.HeadSize)
	n, _ := io.ReadFull(f, first)
	return first[:n]
}

// Match reports whether a file that begins with these bytes (at least 132) says that it is DICOM.
func Match(first []byte) bool {
	return len(first) >= preamble+len(magic) && string(first[preamble:][:len(magic)]) == magic
}

// IsName reports whether the name of a file says that it is DICOM. What macOS writes beside files
// (._0001.dcm) is none.
func IsName(base string) bool {
	return slices.Contains([]string{".dcm", ".dicom", ".ima"}, strings.ToLower(path.Ext(base))) &&
		!strings.HasPrefix(base, "._")
}

// Holds reports whether a folder, or one below it, holds a file that is DICOM by its content or its
// name. It does not look into files whose names end in passing, which is "" for none, nor into zips.
func Holds(folder, passing string) bool {
	real, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return false
	}
	found := false
	filepath.WalkDir(real, func(at string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || passing != "" && strings.HasSuffix(at, passing) {
			return nil
		}
		if found = IsName(d.Name()) || kind(at) == isDICOM; found {
			return fs.SkipAll
		}
		return nil
	})
	return found
}

// Is reports whether a path may hold DICOM: a DICOM file, a folder or a zip.
func Is(path string) bool {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return true
	}
	return kind(path) != isOther
}

package rawdata

import (
	"fmt"
	"path/filepath"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/volume"
)

// Writer writes the pixels of an image without compression, behind its header or to a file of their
// own. It implements volume.PixelWriter.
type Writer struct {
	path   string // of the header
	beside string // of the pixels; "" if they follow the header
	header []byte // of a file of its own, which is written last
	file   *atomicfile.File
	from   int64 // where the pixels begin in the file
}

// Create begins an image file with a header; beside, unless it is "", is the path of the pixels.
func Create(path, beside string, header []byte) (*Writer, error) {
	w := &Writer{path: path, beside: beside, header: header}
	var err error
	if beside != "" {
		if w.file, err = atomicfile.Create(beside); err != nil {
			return nil, w.named(err)
		}
		return w, nil
	}
	if w.file, err = atomicfile.Create(path); err != nil {
		return nil, w.named(err)
	}
	if _, err := w.file.Write(header); err != nil {
		w.file.Abort()
		return nil, w.named(err)
	}
	w.from = int64(len(header))
	return w, nil
}

func (w *Writer) named(err error) error {
	switch {
	case err == nil:
		return nil
	case w.beside != "":
		return fmt.Errorf("%s: %s: %w", w.path, filepath.Base(w.beside), err)
	}
	return fmt.Errorf("%s: %w", w.path, err)
}

// WriteAt implements io.WriterAt; off counts from the first pixel.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.file.WriteAt(p, w.from+off)
	return n, w.named(err)
}

// Commit makes the file appear, or the files, that of the pixels first.
func (w *Writer) Commit() error {
	if err := w.file.Commit(); err != nil || w.beside == "" {
		return w.named(err)
	}
	if err := atomicfile.Write(w.path, w.header); err != nil {
		return fmt.Errorf("%s: %w", w.path, err)
	}
	return nil
}

// Abort leaves no file behind.
func (w *Writer) Abort() { w.file.Abort() }

// All writes the pixels of an image of that size and commits it.
func (w *Writer) All(size []int, pixels volume.Pixels) error {
	raw, err := LittleEndian(size, pixels)
	if err == nil {
		_, err = w.WriteAt(raw, 0)
	}
	if err != nil {
		w.Abort()
		return err
	}
	return w.Commit()
}

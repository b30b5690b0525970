package dicom

import (
	"errors"
	"fmt"
	"io"
)

// windowSize is how many bytes are read at a time: most headers of slices fit.
const windowSize = 16 << 10

// input reads a file front to back through a window.
type input struct {
	from   io.ReaderAt
	size   int64 // bytes of the file; of a deflated data set what it may have at most
	window []byte
	used   int   // bytes of the window that were read
	at     int64 // of the window's first byte
}

var errEnd = fmt.Errorf("the file ends too early: copy it again (%w)", io.ErrUnexpectedEOF)

func (in *input) offset() int64 { return in.at + int64(in.used) }

// left is how many bytes the file has from here on.
func (in *input) left() int64 { return in.size - in.offset() }

// peek returns the next n bytes, at most a window's. At the end of the file it returns those that
// there are, and io.EOF.
func (in *input) peek(n int) ([]byte, error) {
	if len(in.window)-in.used >= n {
		return in.window[in.used:][:n], nil
	}
	// What is left of the window stays: a stream cannot go back.
	if cap(in.window) == 0 {
		in.window = make([]byte, 0, windowSize)
	}
	kept := copy(in.window[:cap(in.window)], in.window[in.used:])
	in.at, in.used = in.offset(), 0
	in.window = in.window[:min(int64(cap(in.window)), max(in.size-in.at, int64(kept)))]
	got, err := in.from.ReadAt(in.window[kept:], in.at+int64(kept))
	in.window = in.window[:kept+got]
	if len(in.window) >= n {
		return in.window[:n], nil
	}
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return in.window, err
}

// next is peek that reads the bytes and fails if there are fewer.
func (in *input) next(n int) ([]byte, error) {
	b, err := in.peek(n)
	if errors.Is(err, io.EOF) {
		return nil, errEnd
	}
	if err == nil {
		in.used += n
	}
	return b, err
}

// skip leaves out n bytes, which the caller has checked against left.
func (in *input) skip(n int64) {
	if n <= int64(len(in.window)-in.used) {
		in.used += int(n)
		return
	}
	in.at, in.window, in.used = in.offset()+n, in.window[:0], 0
}

// read appends the next n bytes to dst, as they come: no memory is taken for bytes that are not
// there.
func (in *input) read(dst []byte, n int64) ([]byte, error) {
	for n > 0 {
		b, err := in.next(int(min(n, windowSize)))
		if err != nil {
			return dst, err
		}
		dst = append(dst, b...)
		n -= int64(len(b))
	}
	return dst, nil
}

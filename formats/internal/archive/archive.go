// Package archive opens zip files that may be hostile, for the formats built on zip. It limits the
// size of the central directory; entries and their sizes are checked by the format's package.
package archive

import (
	"archive/zip"
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"github.com/lntorch/lntorch/formats/internal/inflate"
)

// maxDirectory bounds the central directory, whose memory is several times its size in the file. It
// is enough for 90,000 entries.
const maxDirectory = 8 << 20

// limitedReaderAt fails after a total of left bytes. Entries are read by several goroutines.
type limitedReaderAt struct {
	io.ReaderAt
	left atomic.Int64
}

var errDirectory = fmt.Errorf("its central directory has more than %d MB", maxDirectory>>20)

func (m *limitedReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if m.left.Add(-int64(len(p))) < 0 {
		return 0, errDirectory
	}
	return m.ReaderAt.ReadAt(p, off)
}

// Open reads the central directory of a zip file of size bytes. A directory of more than 8 MB is an
// error.
func Open(r io.ReaderAt, size int64) (*zip.Reader, error) {
	m := &limitedReaderAt{ReaderAt: r}
	m.left.Store(maxDirectory + 1<<20)
	z, err := zip.NewReader(m, size)
	if err != nil {
		return nil, err
	}
	m.left.Store(math.MaxInt64 / 2)
	z.RegisterDecompressor(zip.Deflate,
		func(r io.Reader) io.ReadCloser { return inflate.NewReader(r) })
	return z, nil
}

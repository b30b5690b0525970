// Package archive opens zip files that may be hostile, for the formats that are zip files. What an entry holds, and whether
// its sizes can be true, is the business of the format.
package archive

import (
	"archive/zip"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/flate"
)

// maxDirectory bounds the table of contents, of which each byte becomes several in memory. It is enough for 90,000 entries.
const maxDirectory = 8 << 20

// metered lets only so many bytes be read.
type metered struct {
	io.ReaderAt
	left int64
}

var errDirectory = fmt.Errorf("its table of contents has more than %d MB", maxDirectory>>20)

func (m *metered) ReadAt(p []byte, off int64) (int, error) {
	if m.left -= int64(len(p)); m.left < 0 {
		return 0, errDirectory
	}
	return m.ReaderAt.ReadAt(p, off)
}

// Open reads the table of contents of a zip file of size bytes. A table of more than 8 MB is an error.
func Open(r io.ReaderAt, size int64) (*zip.Reader, error) {
	m := &metered{r, maxDirectory + 1<<20}
	z, err := zip.NewReader(m, size)
	if err != nil {
		return nil, err
	}
	m.left = math.MaxInt64 / 2
	z.RegisterDecompressor(zip.Deflate, func(r io.Reader) io.ReadCloser { return flate.NewReader(r) })
	return z, nil
}

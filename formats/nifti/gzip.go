package nifti

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
)

// members decompresses the gzip members of a file in sequence. Zeros between or after members are
// padding, as in Python's gzip (nibabel). Anything else after a member that is not another member
// ends the data, as in zlib's gzread (SimpleITK). A truncated member returns io.ErrUnexpectedEOF, a
// wrong checksum an error that says so.
type members struct {
	r   *bufio.Reader
	z   *gzip.Reader
	err error // of the last read
}

func newMembers(r *bufio.Reader) (*members, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &members{r: r, z: z}, nil
}

func (m *members) Read(p []byte) (n int, err error) {
	for n == 0 && len(p) > 0 && m.err == nil {
		switch n, m.err = m.z.Read(p); m.err {
		case io.EOF:
			m.err = m.next()
		case gzip.ErrChecksum:
			m.err = errors.New("the checksum of the gzip data is wrong: the file is damaged, " +
				"copy or export it again")
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, m.err
}

// next moves on to the next member, or returns io.EOF if there is none.
func (m *members) next() error {
	for {
		switch first, err := m.r.Peek(2); {
		case len(first) > 0 && first[0] == 0:
			m.r.Discard(1)
		case len(first) < 2 && err != io.EOF:
			return err
		case !compressed(first) || m.z.Reset(m.r) != nil:
			return io.EOF
		default:
			m.z.Multistream(false)
			return nil
		}
	}
}

// compressed reports whether a file with these first bytes is a gzip file.
func compressed(first []byte) bool {
	return len(first) >= 2 && first[0] == 0x1f && first[1] == 0x8b
}

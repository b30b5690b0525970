package pth

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sparse is a file of zeros with some data written into it.
type sparse map[int64][]byte

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, b := range s {
		if at < off+int64(len(p)) && off < at+int64(len(b)) {
			copy(p[max(at-off, 0):], b[max(off-at, 0):])
		}
	}
	return len(p), nil
}

// Records and offsets beyond 4 GiB need ZIP64 fields; checked with the standard library's reader.
func TestLargeFilesUseZip64(t *testing.T) {
	parts := []*part{{name: "a/data.pkl", size: 100}, {name: "a/data/0", size: 5 << 30},
		{name: "a/data/1", size: big32}, {name: "a/data/2", size: big32 - 1},
		{name: "a/version", size: 2}}
	end := layout(parts)
	file := sparse{int64(end): directory(parts, end)}
	for _, p := range parts {
		local := p.local()
		require.EqualValues(t, p.start, p.header+uint64(len(local)))
		require.Zero(t, p.start%alignment)
		file[int64(p.header)] = local
	}
	c, err := readDirectory(file, int64(end)+int64(len(file[int64(end)])))
	require.NoError(t, err)
	for _, p := range parts {
		require.Equal(t, p.size, c.entries[p.name].UncompressedSize64)
		require.EqualValues(t, p.start, c.starts[p.name])
	}
}

// As in torch's own writer, every record is stored uncompressed, with its data at a multiple of 64
// bytes after a padding field named FB.
func TestSaveAlignsLikeTorch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.best.pth")
	require.NoError(t, Save(path, built(t)))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(b, []byte("PK\x03\x04")))
	c, err := readDirectory(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	for name, e := range c.entries {
		require.Contains(t, name, "model.best/")
		require.Zero(t, e.Method)
		require.Zero(t, c.starts[name]%64)
		extra := b[bytes.Index(b, []byte(name))+len(name) : c.starts[name]]
		require.Equal(t, "FB", string(extra[:2]))
		require.EqualValues(t, len(extra)-4, binary.LittleEndian.Uint16(extra[2:]))
		require.Equal(t, strings.Repeat("Z", len(extra)-4), string(extra[4:]))
		r, err := e.Open()
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, r) // compares the CRC
		require.NoError(t, err)
	}
	for path, want := range map[string]string{"x/a.b.pth": "a.b", "m": "m", ".pth": "archive",
		"...pth": "archive", `a\b.pth`: "archive"} {
		require.Equal(t, want, archiveName(path), path)
	}
}

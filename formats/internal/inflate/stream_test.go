package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

func gzipped(t testing.TB, level int, data []byte) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, level)
	require.NoError(t, err)
	_, err = z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

func sample(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.ExpFloat64() * 4)
	}
	return b
}

func TestStreamsGiveWhatOtherDecodersGive(t *testing.T) {
	data := sample(700_000)
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	var members []byte
	for at := 0; at < len(data); {
		n := min(1+at/3, len(data)-at)
		members = append(members, gzipped(t, at%10, data[at:at+n])...)
		if at%2 == 0 {
			members = append(members, 0, 0, 0)
		}
		at += n
	}
	for name, in := range map[string][]byte{"zlib": z.Bytes(), "gzip": gzipped(t, 6, data), "stored": gzipped(t, 0, data), "members": members,
		"followed": append(gzipped(t, 6, data), "\x1f\x8bno member"...)} {
		for _, r := range []io.Reader{bytes.NewReader(in), iotest.OneByteReader(bytes.NewReader(in)), iotest.DataErrReader(bytes.NewReader(in))} {
			s, err := newStream(r, nil)
			require.NoError(t, err, name)
			_, err = io.CopyN(io.Discard, s, 1000)
			require.NoError(t, err, name)
			got := make([]byte, len(data)-1000)
			n, more, err := s.Fill(got)
			require.NoError(t, err, name)
			require.False(t, more, name)
			require.Equal(t, len(got), n, name)
			require.True(t, bytes.Equal(data[1000:], got), name)
		}
		s, err := NewStream(section(in))
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, s)
		require.NoError(t, err)
		require.EqualValues(t, len(data), n)
		s, err = NewStream(section(in))
		require.NoError(t, err)
		_, more, err := s.Fill(make([]byte, 1000))
		require.NoError(t, err)
		require.True(t, more)
		// Each damaged byte of the checksum, or cut, is found.
		if name != "members" && name != "followed" {
			size := 8 // checksum and length
			if name == "zlib" {
				size = 4
			}
			for i := 1; i <= size; i++ {
				bad := bytes.Clone(in)
				bad[len(bad)-i] ^= 8
				s, err = NewStream(section(bad))
				require.NoError(t, err)
				_, _, err = s.Fill(make([]byte, len(data)))
				require.Equal(t, ErrChecksum, err)
				s, err = NewStream(section(in[:len(in)-i]))
				require.NoError(t, err)
				n, _, err := s.Fill(make([]byte, len(data)))
				require.Equal(t, io.ErrUnexpectedEOF, err)
				require.Equal(t, len(data), n)
			}
		}
	}
}

// A member is a stream of its own: what refers to the bytes of the one before is damaged.
func TestMembersDoNotReachBack(t *testing.T) {
	text := bytes.Repeat([]byte("lymph node "), 20)
	var b bytes.Buffer
	w, err := flate.NewWriterDict(&b, 9, text)
	require.NoError(t, err)
	_, err = w.Write(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	first := gzipped(t, 9, text)
	in := append(bytes.Clone(first), first[:10]...)
	in = append(append(in, b.Bytes()...), first[len(first)-8:]...)
	s, err := NewStream(section(in))
	require.NoError(t, err)
	n, _, err := s.Fill(make([]byte, 2*len(text)))
	require.Equal(t, ErrCorrupt, err)
	require.Equal(t, len(text), n)
}

// Hundreds of thousands of empty members in a small file take no time to speak of.
func TestManyMembersTakeLittleTime(t *testing.T) {
	start := time.Now()
	s, err := NewStream(section(bytes.Repeat(gzipped(t, 6, nil), 200_000)))
	require.NoError(t, err)
	_, _, err = s.Fill(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.Less(t, time.Since(start), 5*time.Second)
}

// The stream reads what Go's gzip reads and refuses what it refuses.
func FuzzStream(f *testing.F) {
	f.Add(gzipped(f, 6, sample(5000)))
	f.Add(append(gzipped(f, 0, sample(50)), gzipped(f, 9, make([]byte, 70_000))...))
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Name, z.Comment, z.Extra = "name", "comment", []byte("extra")
	require.NoError(f, z.Close())
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		g, err := gzip.NewReader(bytes.NewReader(in))
		if err != nil {
			return
		}
		g.Multistream(false)
		want, wantErr := io.ReadAll(io.LimitReader(g, 1<<22))
		s, err := NewStream(section(in))
		if err != nil {
			return // a header's checksum, and reserved flags, which Go looks at later or not
		}
		got := make([]byte, len(want))
		_, _, err = s.Fill(got)
		if wantErr == nil && len(want) < 1<<22 && err == nil {
			require.True(t, bytes.Equal(want, got))
		}
		if wantErr != nil && len(want) < 1<<22 && err == nil {
			_, err = io.Copy(io.Discard, s)
			require.Error(t, err)
		}
	})
}

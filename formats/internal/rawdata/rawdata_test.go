package rawdata

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

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
			s, err := newStream(r)
			require.NoError(t, err, name)
			require.NoError(t, s.pass(1000))
			got := make([]byte, len(data)-1000)
			more, err := s.fill(got)
			require.NoError(t, err, name)
			require.False(t, more, name)
			require.True(t, bytes.Equal(data[1000:], got), name)
		}
		s, err := newStream(bytes.NewReader(in))
		require.NoError(t, err)
		n, err := s.count()
		require.NoError(t, err)
		require.EqualValues(t, len(data), n)
		s, err = newStream(bytes.NewReader(in))
		require.NoError(t, err)
		more, err := s.fill(make([]byte, 1000))
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
				s, err = newStream(bytes.NewReader(bad))
				require.NoError(t, err)
				_, err = s.fill(make([]byte, len(data)))
				require.ErrorContains(t, err, "the checksum is wrong")
				s, err = newStream(bytes.NewReader(in[:len(in)-i]))
				require.NoError(t, err)
				_, err = s.fill(make([]byte, len(data)))
				require.ErrorContains(t, err, "cut off")
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
	s, err := newStream(bytes.NewReader(in))
	require.NoError(t, err)
	_, err = s.fill(make([]byte, 2*len(text)))
	require.ErrorContains(t, err, "damaged after 220 of 440 bytes")
}

// Hundreds of thousands of empty members in a small file take no time to speak of.
func TestManyMembersTakeLittleTime(t *testing.T) {
	start := time.Now()
	s, err := newStream(bytes.NewReader(bytes.Repeat(gzipped(t, 6, nil), 200_000)))
	require.NoError(t, err)
	_, err = s.fill(make([]byte, 1))
	require.ErrorContains(t, err, "cut off after 0 of 1 bytes")
	require.Less(t, time.Since(start), 5*time.Second)
}

func TestTextGivesNumbers(t *testing.T) {
	p := make(volume.Slice[float32], 4)
	require.NoError(t, text(bufio.NewReader(strings.NewReader(",1 ,,-2.5e1\v nan\f+inf")), p, 0, 4))
	require.Equal(t, []float32{1, -25}, []float32(p[:2]))
	require.True(t, p[2] != p[2])
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 1e39 3 4")), p, 0, 4), "number 2 of the text is one that float32 does not hold")
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 0x1p1 3 4")), p, 0, 4), "number 2 of the text is none")
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 1_0 3 4")), p, 0, 4), "number 2 of the text is none")
	q := make(volume.Slice[uint8], 2)
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 -1")), q, 0, 2), "number 2")
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 ")), q, 0, 2), "found 1 numbers, expected 2")
}

// The parts of an image go to their places, in both byte orders.
func TestPartsAreInOrder(t *testing.T) {
	folder := t.TempDir()
	names := []string{"b", "a", "c"}
	for i, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte{'x', 0, byte(i), 1, byte(i)}, 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "header"), nil, 0o666))
	header, err := os.Open(filepath.Join(folder, "header"))
	require.NoError(t, err)
	defer header.Close()
	d := Data{BigEndian: true, From: 1, Names: names}
	p, err := d.Read(header, folder, []int{2, 3}, "int16")
	require.NoError(t, err)
	require.Equal(t, volume.Pixels(volume.Slice[int16]{0, 256, 1, 257, 2, 258}), p)
	d.BigEndian = false
	p, err = d.Read(header, folder, []int{2, 3}, "int16")
	require.NoError(t, err)
	require.Equal(t, volume.Pixels(volume.Slice[int16]{0, 1, 256, 257, 512, 513}), p)
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
		s, err := newStream(bytes.NewReader(in))
		if err != nil {
			return // a header's checksum, and reserved flags, which Go looks at later or not
		}
		got := make([]byte, len(want))
		_, err = s.fill(got)
		if wantErr == nil && len(want) < 1<<22 && err == nil {
			require.True(t, bytes.Equal(want, got))
		}
		if wantErr != nil && len(want) < 1<<22 && err == nil {
			_, err = s.count()
			require.Error(t, err)
		}
	})
}

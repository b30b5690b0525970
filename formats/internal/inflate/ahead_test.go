package inflate

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	klauspost "github.com/klauspost/compress/flate"
	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/internal/deflate"
)

// wrapped is a gzip member around a deflate stream.
func wrapped(stream, data []byte) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3}, stream...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(data))
	return binary.LittleEndian.AppendUint32(b, uint32(len(data)))
}

// flushed compresses data with a flush behind every n bytes; matches reach back over it if linked.
func flushed(t testing.TB, data []byte, level, n int, linked bool) []byte {
	var b bytes.Buffer
	w, err := klauspost.NewWriter(&b, level)
	require.NoError(t, err)
	for at := 0; at < len(data); at += n {
		_, err := w.Write(data[at:min(at+n, len(data))])
		require.NoError(t, err)
		require.NoError(t, w.Flush())
		if !linked {
			w.Reset(&b)
		}
	}
	require.NoError(t, w.Close())
	return wrapped(b.Bytes(), data)
}

// filled is what Fill gives of the first n bytes of a stream.
type filled struct {
	data []byte
	more bool
	err  error
}

func fill(t testing.TB, in []byte, skip int64, n int, l limits) (filled, int) {
	s, err := NewStream(section(in))
	if err != nil {
		return filled{err: err}, 0
	}
	if _, err := io.CopyN(io.Discard, s, skip); err != nil {
		return filled{err: err}, 0
	}
	s.limits = l
	raw := make([]byte, n)
	n, more, err := s.Fill(raw)
	return filled{raw[:n], more, err}, s.joined
}

var inTurn = limits{workers: 1}

// ct is like 16-bit pixels of CT: every second byte is noise, with areas of air.
func ct(n int) []byte {
	r := rand.New(rand.NewPCG(5, 6))
	b := make([]byte, n)
	for i := 0; i+1 < n; i += 2 {
		v := int16(-1000)
		if i/40_000%3 > 0 {
			v = int16(40 + r.NormFloat64()*20)
		}
		binary.LittleEndian.PutUint16(b[i:], uint16(v))
	}
	return b
}

func TestPartsDecodedAheadAreTheStream(t *testing.T) {
	data := ct(900_001)
	repeated := bytes.Repeat(ct(3000), 100)
	zeros := make([]byte, 5_000_000)
	// In blocks that are stored: where decoding could begin out of turn, and give other data.
	inner := flushed(t, data, 2, 5000, false)
	for _, c := range []struct {
		name   string
		in     []byte
		data   []byte
		joined bool // whether what is decoded ahead counts
	}{
		{"blocks apart", flushed(t, data, 2, 70_000, false), data, true},
		{"small blocks", flushed(t, data, 4, 3000, false), data, true},
		{"stored blocks", flushed(t, data, 0, 20_000, false), data, true},
		{"linked blocks", flushed(t, repeated, 6, 20_000, true), repeated, false},
		{"no flush", flushed(t, data, 6, len(data), false), data, false},
		{"zeros", flushed(t, zeros, 6, 100_000, false), zeros, true},
		{"two members", append(flushed(t, data[:400_000], 2, 30_000, false),
			flushed(t, data[400_000:], 2, 50_000, false)...), data, true},
		{"looks like flushes", flushed(t, inner, 0, len(inner), false), inner, false},
		{"looks like more flushes", flushed(t, inner, 0, 7000, false), inner, true},
	} {
		want := c.data
		for _, l := range []limits{{1000, 1 << 20, 2}, {20_000, 1 << 20, 3}, {30_000, 1 << 20, 8},
			{50_000, 100_000, 2}, {5000, slack + 10, 2}, {500, 1, 2},
			inTurn} {
			for _, skip := range []int{0, 1, 540, 50_000, outSize - slack - 1000} {
				what := fmt.Sprintf("%s, %+v, from %d", c.name, l, skip)
				got, joined := fill(t, c.in, int64(skip), len(want)-skip, l)
				require.NoError(t, got.err, what)
				require.True(t, bytes.Equal(want[skip:], got.data), what)
				require.False(t, got.more, what)
				if l.workers > 1 && l.input < int64(len(c.in)/20) {
					require.Equal(t, c.joined, joined > 0, what)
				}
				// The first bytes alone.
				n := (len(want) - skip) * 2 / 3
				got, _ = fill(t, c.in, int64(skip), n, l)
				require.NoError(t, got.err, what)
				require.True(t, got.more, what)
				require.True(t, bytes.Equal(want[skip:][:n], got.data), what)
				// More than there is.
				got, _ = fill(t, c.in, int64(skip), len(want)-skip+1, l)
				require.Equal(t, io.EOF, got.err, what)
				require.True(t, bytes.Equal(want[skip:], got.data), what)
			}
		}
	}
}

// What our own writers make is decoded ahead, with the limits that everybody gets.
func TestFilesOfOurOwnAreDecodedAhead(t *testing.T) {
	data := ct(6 << 20)
	var b bytes.Buffer
	require.NoError(t, deflate.Gzip(&b, 2, data[:352], data[352:]))
	l := limits{partInput, partMemory, 2}
	got, joined := fill(t, b.Bytes(), 540, len(data)-540, l)
	require.NoError(t, got.err)
	require.True(t, bytes.Equal(data[540:], got.data))
	require.GreaterOrEqual(t, joined, 3)
}

// A member whose matches reach back into the one before is damaged, wherever decoding pauses.
func TestMembersDoNotReachBackAhead(t *testing.T) {
	text := bytes.Repeat([]byte("lymph node "), 20)
	var b bytes.Buffer
	w, err := klauspost.NewWriterDict(&b, 9, text)
	require.NoError(t, err)
	_, err = w.Write([]byte("0123456789"))
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	_, err = w.Write(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	data := append([]byte("0123456789"), text...)
	in := append(gzipped(t, 9, text), wrapped(b.Bytes(), data)...)
	for input := int64(8); input < 100; input++ {
		got, _ := fill(t, in, 0, len(text)+len(data), limits{input, 1 << 20, 2})
		require.Equal(t, ErrCorrupt, got.err)
	}
}

// A flush is found wherever it lies.
func TestFlushesAreFound(t *testing.T) {
	p := part{low: 10, high: 150_000, z: NewReader(nil)}
	in := make([]byte, 200_000)
	require.EqualValues(t, -1, p.find(bytes.NewReader(in)))
	for _, end := range []int64{9, 10, 11, inSize - 10, inSize, inSize + 5, inSize + 6, inSize + 7, inSize + 8,
		inSize + 9, inSize + 10, 2 * inSize, 149_999, 150_000} {
		copy(in[end-4:], flush)
		want := end
		if end < p.low || end >= p.high {
			want = -1
		}
		require.Equal(t, want, p.find(bytes.NewReader(in)), end)
		clear(in[end-4 : end])
	}
}

// Damaged streams give the same bytes and the same error, decoded ahead or in turn.
func TestDamageIsTheSameAhead(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	data := ct(150_000)
	for _, in := range [][]byte{flushed(t, data, 2, 10_000, false), flushed(t, data, 6, 10_000, true),
		append(flushed(t, data[:70_000], 2, 5000, false), flushed(t, data[70_000:], 1, 7000, false)...)} {
		for i := range 150 {
			bad := bytes.Clone(in)
			if i%3 == 0 {
				bad = bad[:r.IntN(len(bad))]
			}
			for range i % 3 {
				bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			}
			want, _ := fill(t, bad, 0, len(data), inTurn)
			got, _ := fill(t, bad, 0, len(data), limits{4000, 1 << 20, 2})
			require.Equal(t, want.err, got.err)
			require.Equal(t, want.more, got.more)
			require.True(t, bytes.Equal(want.data, got.data))
		}
	}
}

// For any bytes, decoding ahead changes nothing.
func FuzzAhead(f *testing.F) {
	data := ct(4000)
	f.Add(flushed(f, data, 2, 500, false), uint16(100), uint16(0), uint16(4000))
	f.Add(flushed(f, data, 6, 700, true), uint16(30), uint16(7), uint16(3000))
	f.Add(append(flushed(f, data, 0, 300, false), flushed(f, data, 1, 300, false)...), uint16(50),
		uint16(1000), uint16(7000))
	f.Add(flushed(f, flushed(f, data, 2, 300, false), 0, 700, false), uint16(10), uint16(0),
		uint16(5000))
	f.Fuzz(func(t *testing.T, in []byte, input, skip, n uint16) {
		want, _ := fill(t, in, int64(skip), int(n), inTurn)
		got, _ := fill(t, in, int64(skip), int(n), limits{8 + int64(input), 1 << 16, 2})
		require.Equal(t, want.err, got.err)
		require.Equal(t, want.more, got.more)
		require.True(t, bytes.Equal(want.data, got.data))
	})
}

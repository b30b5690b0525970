package inflate

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	klauspost "github.com/klauspost/compress/flate"
	"github.com/stretchr/testify/require"
)

// samples are data of many kinds: runs, noise, floats, text, and lengths around the buffers' sizes.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	skewed := make([]byte, 500_000) // codes of all lengths
	for i := range skewed {
		skewed[i] = byte(math.Min(255, r.ExpFloat64()*r.ExpFloat64()*6))
	}
	var floats []byte
	for i := range 200_000 {
		v := float32(1)
		if i%5000 > 1500 {
			v = float32(1 / (1 + math.Exp(math.Sin(float64(i)/700)*8+r.Float64()/10)))
		}
		floats = binary.LittleEndian.AppendUint32(floats, math.Float32bits(v))
	}
	far := bytes.Clone(noise[:window])
	far = append(far, noise[:5000]...) // matches at the greatest distance
	var periods []byte
	for d := 1; d < 20; d++ {
		for range 700 / d {
			periods = append(periods, noise[:d]...)
		}
		periods = append(periods, noise[100*d:100*d+50]...)
	}
	return map[string][]byte{"empty": {}, "one": {7}, "zeros": make([]byte, 1_000_000), "noise": noise, "skewed": skewed,
		"floats": floats, "far": far, "periods": periods, "mixed": append(bytes.Clone(noise[:70_000]), floats...),
		"window": noise[:window], "beyond": make([]byte, outSize+1), "text": bytes.Repeat([]byte("a lymph node, "), 9000)}
}

// encodings compresses data with two libraries: stored, Huffman codes alone, and matches.
func encodings(t testing.TB, data []byte) (all [][]byte) {
	add := func(w io.WriteCloser, err error, b *bytes.Buffer) {
		require.NoError(t, err)
		_, err = w.Write(data)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		all = append(all, b.Bytes())
	}
	for _, level := range []int{flate.HuffmanOnly, 0, 1, 6, 9} {
		b, k := &bytes.Buffer{}, &bytes.Buffer{}
		w, err := flate.NewWriter(b, level)
		add(w, err, b)
		w2, err := klauspost.NewWriter(k, level)
		add(w2, err, k)
	}
	return all
}

func TestStreamsOfEveryKindAreDecompressed(t *testing.T) {
	for name, data := range samples() {
		for i, stream := range encodings(t, data) {
			got, err := io.ReadAll(NewReader(bytes.NewReader(stream)))
			require.NoError(t, err, "%s, encoding %d", name, i)
			require.True(t, bytes.Equal(data, got), "%s, encoding %d", name, i)
			if len(stream) < 5000 {
				got, err = io.ReadAll(NewReader(iotest.OneByteReader(bytes.NewReader(stream))))
				require.NoError(t, err, name)
				require.True(t, bytes.Equal(data, got), name)
			}
			got, err = io.ReadAll(iotest.HalfReader(NewReader(iotest.DataErrReader(bytes.NewReader(stream)))))
			require.NoError(t, err, name)
			require.True(t, bytes.Equal(data, got), name)
		}
	}
}

func TestStreamsThatEndEarlyOrFailSaySo(t *testing.T) {
	data := samples()["skewed"][:3000]
	failure := errors.New("disk on fire")
	for _, stream := range encodings(t, data) {
		for n := range len(stream) {
			got, err := io.ReadAll(NewReader(bytes.NewReader(stream[:n])))
			require.Equal(t, io.ErrUnexpectedEOF, err, n)
			require.True(t, bytes.HasPrefix(data, got))
			_, err = io.ReadAll(NewReader(io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(failure))))
			require.Equal(t, failure, err, n)
		}
	}
	r := NewReader(bytes.NewReader(nil))
	require.NoError(t, r.Close())
	_, err := r.Read(make([]byte, 1))
	require.ErrorContains(t, err, "read after Close")
	_, err = io.ReadAll(NewReader(stuck{}))
	require.Equal(t, io.ErrNoProgress, err)
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// judge compares with the standard library, which decides what is a stream.
func judge(t *testing.T, stream []byte) {
	const most = 4 << 20
	want, wantErr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(stream)), most))
	got, err := io.ReadAll(io.LimitReader(NewReader(bytes.NewReader(stream)), most))
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%x: %v, the standard library says %v", stream, err, wantErr)
	}
	if err == nil && !bytes.Equal(want, got) {
		t.Fatalf("%x: other data than the standard library's", stream)
	}
}

func TestDamagedStreamsAreJudgedAsByTheStandardLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"skewed", "floats", "text", "periods"} {
		for _, stream := range encodings(t, samples()[name][:2500]) {
			for range 60 {
				bad := bytes.Clone(stream)
				for range 1 + r.IntN(3) {
					bad[r.IntN(min(len(bad), 1+r.IntN(len(bad))))] ^= 1 << r.IntN(8)
				}
				judge(t, bad)
			}
		}
	}
	for range 4_000 {
		noise := make([]byte, 1+r.IntN(200))
		for i := range noise {
			noise[i] = byte(r.Uint32())
		}
		noise[0] = noise[0]&^7 | []byte{2, 3, 4, 5}[r.IntN(4)]
		judge(t, noise)
	}
}

func FuzzInflate(f *testing.F) {
	for _, data := range samples() {
		for _, stream := range encodings(f, data[:min(len(data), 500)])[:4] {
			f.Add(stream)
		}
	}
	f.Fuzz(judge)
}

// BenchmarkInflate reads float32 probabilities as numpy.savez_compressed writes them, beside the other decoders.
func BenchmarkInflate(b *testing.B) {
	data := samples()["floats"]
	for len(data) < 16<<20 {
		data = append(data, data...)
	}
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, 6)
	w.Write(data)
	w.Close()
	for name, open := range map[string]func(io.Reader) io.Reader{
		"lntorch":   func(r io.Reader) io.Reader { return NewReader(r) },
		"klauspost": func(r io.Reader) io.Reader { return klauspost.NewReader(r) },
		"standard":  func(r io.Reader) io.Reader { return flate.NewReader(r) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			buf := make([]byte, 1<<20)
			for b.Loop() {
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{open(bytes.NewReader(out.Bytes()))}, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

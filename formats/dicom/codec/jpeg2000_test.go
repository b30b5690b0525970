package codec_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/codec"
	"github.com/lntorch/lntorch/internal/golden"
)

// What OpenJPEG makes of a codestream is tested in formats/dicom/openjpeg; here is what is known
// before it starts.

func corpus2000(t testing.TB) map[string]sample {
	t.Helper()
	samples := map[string]sample{}
	golden.LoadJSON(t, "dicom_jpeg2000/expected.json", &samples)
	f := golden.Load(t, "dicom_jpeg2000/codestreams.npz")
	for name, s := range samples {
		a, err := f.Read(name)
		require.NoError(t, err)
		s.codestream, err = a.Uint8s()
		require.NoError(t, err)
		samples[name] = s
	}
	require.Equal(t, 91, len(samples))
	return samples
}

// register gives the package a decoder for the time of a test.
func register(t testing.TB, available func() error, decode codec.JPEG2000Decoder) {
	codec.RegisterJPEG2000(available, decode)
	t.Cleanup(func() { codec.RegisterJPEG2000(nil, nil) })
}

func there() error { return nil }

func TestJPEG2000IsDecodedByWhatIsRegistered(t *testing.T) {
	s := corpus2000(t)["bits-13-signed"]
	_, err := decode(s.Syntax, s.codestream, s.frame())
	require.EqualError(t, err, "JPEG 2000 (Lossless Only) (1.2.840.10008.1.2.4.90) needs OpenJPEG, "+
		"which is not there: `make openjpeg` fetches and builds it, libopenjp2 of the system (2.5 or "+
		"newer) serves too; or decompress the file first: `gdcmconv --raw IN OUT` (this program has "+
		"none)")
	require.ErrorContains(t, codec.Check(s.Syntax, s.codestream, s.frame()), "needs OpenJPEG")

	missing := errors.New("tried nothing")
	register(t, func() error { return missing }, func([]byte, codec.JPEG2000, codec.Frame) error {
		panic("not there")
	})
	_, err = decode(s.Syntax, s.codestream, s.frame())
	require.ErrorIs(t, err, missing)

	broken := errors.New("broken")
	register(t, there, func(dst []byte, c codec.JPEG2000, got codec.Frame) error {
		require.Equal(t, s.frame(), got)
		require.Equal(t, codec.JPEG2000{Codestream: s.codestream, Precision: 13, Signed: true}, c)
		copy(dst, "pixels")
		return broken
	})
	pixels, err := decode(s.Syntax, s.codestream, s.frame())
	require.ErrorIs(t, err, broken)
	require.Equal(t, "pixels", string(pixels[:6]))
}

func TestJPEG2000HeadersAreRead(t *testing.T) {
	samples := corpus2000(t)
	register(t, there, func(_ []byte, c codec.JPEG2000, f codec.Frame) error {
		require.Equal(t, []byte{0xFF, 0x4F, 0xFF, 0x51}, c.Codestream[:4])
		require.LessOrEqual(t, c.Precision, f.BitsAllocated)
		return nil
	})
	for name, s := range samples {
		require.NoError(t, codec.Check(s.Syntax, s.codestream, s.frame()), name)
		_, err := decode(s.Syntax, s.codestream, s.frame())
		require.NoError(t, err, name)
		for n := range min(len(s.codestream), 90) {
			require.Error(t, codec.Check(s.Syntax, s.codestream[:n], s.frame()), "%s: %d bytes", name, n)
		}
		for _, change := range []func(*codec.Frame){
			func(f *codec.Frame) { f.Rows++ },
			func(f *codec.Frame) { f.Columns++ },
			func(f *codec.Frame) { f.Rows *= 2 },
		} {
			f := s.frame()
			change(&f)
			require.ErrorContains(t, codec.Check(s.Syntax, s.codestream, f), "but Rows is ", name)
		}
	}
}

func TestJPEG2000HeadersThatLieAreRefused(t *testing.T) {
	samples := corpus2000(t)
	register(t, there, func([]byte, codec.JPEG2000, codec.Frame) error { return nil })
	set32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[at:], v)
			return b
		}
	}
	set := func(at int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte {
			copy(b[at:], v)
			return b
		}
	}
	components := func(n int) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.BigEndian.PutUint16(b[4:], uint16(38+3*n))
			binary.BigEndian.PutUint16(b[40:], uint16(n))
			return slices.Insert(b, 45, bytes.Repeat([]byte{11, 1, 1}, n-1)...)
		}
	}
	large := func(side uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			for _, at := range []int{8, 12, 24, 28} {
				binary.BigEndian.PutUint32(b[at:], side)
			}
			return b
		}
	}
	sot := func(b []byte) int { return bytes.Index(b, []byte{0xFF, 0x90, 0, 10}) }
	plain, boxes, tiles := samples["bits-12"], samples["boxes"], samples["tiles-16-16"]
	for name, c := range map[string]struct {
		sample
		change   func([]byte) []byte
		header   func(*codec.Frame)
		expected string
	}{
		"no JPEG 2000":        {sample: plain, change: set(0, 0xFF, 0xD8), expected: "is no JPEG 2000"},
		"SIZ is not first":    {sample: plain, change: set(3, 0x52), expected: "is no JPEG 2000"},
		"columns of 2^31":     {sample: plain, change: set32(8, 1<<31), expected: "33 rows and 2147483648 columns"},
		"rows of 2^32-1":      {sample: plain, change: set32(12, 1<<32-1), expected: "but Rows is 33"},
		"offset behind image": {sample: plain, change: set32(16, 1<<31), expected: "but Rows is 33"},
		"a step of 2":         {sample: plain, change: set(43, 2), expected: "one sample in 1 and 2"},
		"a step of 0":         {sample: plain, change: set(44, 0), expected: "one sample in 0 and 1"},
		"no tile size":        {sample: plain, change: set32(24, 0), expected: "tiles of the JPEG 2000"},
		"tiles beyond":        {sample: plain, change: set32(32, 5), expected: "tiles of the JPEG 2000"},
		"tiles of a pixel":    {sample: plain, change: set32(24, 1), expected: "has 1 of its 37 tiles"},
		"more tiles than bytes": {sample: plain, change: func(b []byte) []byte {
			return set32(28, 1)(set32(24, 1)(b))
		}, expected: "too short for so many pixels"},
		"no component":        {sample: plain, change: set(4, 0, 38, 0, 0), expected: "wrong length"},
		"three components":    {sample: plain, change: components(3), expected: "has 3 components"},
		"a thousand":          {sample: plain, change: components(1000), expected: "has 1000 components"},
		"components that lie": {sample: plain, change: set(40, 0xFF, 0xFF), expected: "wrong length"},
		"precision of 17":     {sample: plain, change: set(42, 16), expected: "samples of 17 bits, but BitsAllocated is 16"},
		"precision of 38":     {sample: plain, change: set(42, 0xA5), expected: "samples of 38 bits"},
		"16 bits for 8": {sample: plain, header: func(f *codec.Frame) { f.BitsAllocated, f.BitsStored = 8, 8 },
			expected: "samples of 12 bits, but BitsAllocated is 8"},
		"32 bits": {sample: plain, header: func(f *codec.Frame) { f.BitsAllocated = 32 },
			expected: "BitsAllocated: found 32"},
		"a bomb": {sample: plain, change: large(8192),
			header: func(f *codec.Frame) { f.Rows, f.Columns = 8192, 8192 }, expected: "too short for so many"},
		"a large bomb": {sample: plain, change: large(65535),
			header: func(f *codec.Frame) { f.Rows, f.Columns = 65535, 65535 }, expected: "are more than the 67108864"},
		"tile-part longer than all": {sample: plain, change: func(b []byte) []byte {
			return set32(sot(b)+6, 1<<31)(b)
		}, expected: "cut off or damaged in tile 1 of 1"},
		"tile-part of nothing": {sample: plain, change: func(b []byte) []byte {
			return set32(sot(b)+6, 13)(b)
		}, expected: "cut off or damaged in tile 1 of 1"},
		"a tile that is not": {sample: plain, change: func(b []byte) []byte {
			return set(sot(b)+4, 0xFF, 0xFF)(b)
		}, expected: "in tile 65536 of 1"},
		"one tile twice": {sample: tiles, change: func(b []byte) []byte {
			return set(bytes.LastIndex(b, []byte{0xFF, 0x90, 0, 10})+4, 0, 0)(b)
		}, expected: "it has 11 of its 12 tiles"},
		"no marker": {sample: plain, change: set(45, 0x12), expected: "byte 45 of the JPEG 2000 codestream: found 0x1252"},
		"header without end": {sample: plain, change: func(b []byte) []byte {
			return set(47, 0xFF, 0xFF)(b)
		}, expected: "cut off in its header"},
		"boxes without codestream": {sample: boxes, change: func(b []byte) []byte {
			return set(bytes.Index(b, []byte("jp2c")), 'f', 'r', 'e', 'e')(b)
		}, expected: "hold no codestream"},
		"a box of 2^32-1": {sample: boxes, change: set32(12, 1<<32-1), expected: "hold no codestream"},
		"a box of 3":      {sample: boxes, change: set32(12, 3), expected: "hold no codestream"},
		"a long box of 2^64-1": {sample: samples["boxes-long"], change: func(b []byte) []byte {
			return set(bytes.Index(b, []byte("jp2c"))+4, bytes.Repeat([]byte{0xFF}, 8)...)(b)
		}, expected: "hold no codestream"},
		"a palette": {sample: boxes, change: func(b []byte) []byte {
			return set(bytes.Index(b, []byte("colr")), 'p', 'c', 'l', 'r')(b)
		}, expected: "has a palette"},
	} {
		b, f := slices.Clone(c.codestream), c.frame()
		if c.change != nil {
			b = c.change(b)
		}
		if c.header != nil {
			c.header(&f)
		}
		require.ErrorContains(t, codec.Check(c.Syntax, b, f), c.expected, name)
	}
}

// However many tiles and boxes a codestream has, looking at them takes no time.
func TestJPEG2000HeadersAreReadFast(t *testing.T) {
	register(t, there, func([]byte, codec.JPEG2000, codec.Frame) error { return nil })
	begin := time.Now()
	const signature = "\x00\x00\x00\x0CjP  \r\n\x87\n"
	b := append([]byte(signature), bytes.Repeat([]byte("\x00\x00\x00\x08free"), 1<<20)...)
	f := codec.Frame{Rows: 1, Columns: 1, BitsAllocated: 8, BitsStored: 8}
	require.ErrorContains(t, codec.Check(jpeg2000, b, f), "hold no codestream")
	require.Less(t, time.Since(begin), 5*time.Second)
}

func FuzzJPEG2000(f *testing.F) {
	samples := corpus2000(f)
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		if s := samples[name]; len(s.codestream) < 2500 {
			f.Add(s.codestream, uint16(s.Rows), uint16(s.Columns), uint8(s.Allocated))
		}
	}
	f.Fuzz(func(t *testing.T, codestream []byte, rows, columns uint16, allocated uint8) {
		decoded := false
		register(t, there, func(_ []byte, c codec.JPEG2000, f codec.Frame) error {
			decoded = true
			if c.Precision < 1 || c.Precision > f.BitsAllocated || len(c.Codestream) > len(codestream) {
				t.Fatalf("%+v of %+v", c, f)
			}
			return nil
		})
		frame := codec.Frame{Rows: int(rows), Columns: int(columns), BitsAllocated: int(allocated),
			BitsStored: 8}
		checked := codec.Check(jpeg2000, codestream, frame)
		if n, err := frame.Bytes(); err != nil || n > 1<<20 {
			return
		}
		_, err := decode(jpeg2000, codestream, frame)
		if (err == nil) != (checked == nil) || decoded != (err == nil) {
			t.Fatalf("Check: %v, Decode: %v", checked, err)
		}
	})
}

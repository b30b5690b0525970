package codec_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/codec"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
)

const (
	rle       = "1.2.840.10008.1.2.5"
	baseline  = "1.2.840.10008.1.2.4.50"
	lossless  = "1.2.840.10008.1.2.4.57"
	lossless1 = "1.2.840.10008.1.2.4.70"
	jpegLS    = "1.2.840.10008.1.2.4.80"
	jpeg2000  = "1.2.840.10008.1.2.4.90"
)

// A sample is a frame of testdata/golden/dicom_codec, which scripts/golden/dicom_codec.py wrote.
type sample struct {
	Syntax            string
	Rows, Columns     int
	Allocated, Stored int
	Signed            bool
	Writer, SHA256    string

	codestream []byte
}

func (s sample) frame() codec.Frame {
	return codec.Frame{Rows: s.Rows, Columns: s.Columns, BitsAllocated: s.Allocated,
		BitsStored: s.Stored, Signed: s.Signed}
}

func corpus(t testing.TB) map[string]sample {
	t.Helper()
	return corpusOf(t, golden.Path(t, "dicom_codec"))
}

// corpusOf reads a folder that the script wrote.
func corpusOf(t testing.TB, folder string) map[string]sample {
	t.Helper()
	samples := map[string]sample{}
	text, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &samples))
	f, err := npz.OpenNpz(filepath.Join(folder, "codestreams.npz"))
	require.NoError(t, err)
	defer f.Close()
	for name, s := range samples {
		a, err := f.Read(name)
		require.NoError(t, err)
		s.codestream, err = a.Uint8s()
		require.NoError(t, err)
		samples[name] = s
	}
	return samples
}

// decode decodes to memory with other memory behind it, which must stay as it is.
func decode(syntax string, codestream []byte, f codec.Frame) ([]byte, error) {
	n, err := f.Bytes()
	if err != nil {
		return nil, err
	}
	memory := bytes.Repeat([]byte{0xA5}, n+64)
	err = codec.Decode(memory[:n], syntax, codestream, f)
	if !bytes.Equal(memory[n:], bytes.Repeat([]byte{0xA5}, 64)) {
		panic("written beyond the frame")
	}
	return memory[:n], err
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// Of lossless frames the pixels are those that were compressed, of others what the decoders of
// others make of them, by several goroutines that share what the package keeps.
func TestFramesAreReadAsElsewhere(t *testing.T) { readAsElsewhere(t, corpus(t)) }

// Frames of other sizes and with other pixels, by the same encoders.
func TestLiveImagesOfFramesAreReadAsElsewhere(t *testing.T) {
	golden.Program(t, "dcmcjpeg", "dcmtk")
	folder := t.TempDir()
	golden.RunImages(t, "dicom_codec.py", folder, "--seed", golden.Seed(t))
	readAsElsewhere(t, corpusOf(t, folder))
}

func readAsElsewhere(t *testing.T, samples map[string]sample) {
	names := slices.Sorted(maps.Keys(samples))
	count := map[string]int{}
	for _, name := range names {
		kind, _, _ := strings.Cut(name, "-")
		count[kind]++
	}
	require.Equal(t, map[string]int{"rle": 15, "lossless": 85, "jpegls": 59, "baseline": 12}, count)
	var all sync.WaitGroup
	for seed := range uint64(4) {
		all.Go(func() {
			for _, i := range rand.New(rand.NewPCG(seed, 0)).Perm(len(names)) {
				s := samples[names[i]]
				if err := codec.Check(s.Syntax, s.codestream, s.frame()); err != nil {
					t.Errorf("%s of %s: Check: %v", names[i], s.Writer, err)
				}
				pixels, err := decode(s.Syntax, s.codestream, s.frame())
				if err != nil || digest(pixels) != s.SHA256 {
					t.Errorf("%s of %s: other pixels, or %v", names[i], s.Writer, err)
				}
			}
		})
	}
	all.Wait()
}

// Samples of up to 8 bits go into cells of 16 where the header says so.
func TestCellsAreAsWideAsTheHeaderSays(t *testing.T) {
	samples := corpus(t)
	for _, name := range []string{"lossless-3-8", "jpegls-bits-7", "jpegls-near-2-runs-8",
		"baseline-odd"} {
		s := samples[name]
		narrow, err := decode(s.Syntax, s.codestream, s.frame())
		require.NoError(t, err)
		s.Allocated = 16
		wide, err := decode(s.Syntax, s.codestream, s.frame())
		require.NoError(t, err)
		for i, v := range narrow {
			require.Equal(t, uint16(v), binary.LittleEndian.Uint16(wide[2*i:]), name)
		}
	}
}

func TestCutCodestreamsAreErrors(t *testing.T) {
	for name, s := range corpus(t) {
		step := max(1, len(s.codestream)/40)
		for n := 0; n < len(s.codestream); n++ {
			if n%step != 0 && n < len(s.codestream)-12 {
				continue
			}
			pixels, err := decode(s.Syntax, s.codestream[:n], s.frame())
			if len(s.codestream)-n > 6 { // more than end of image, padding and a stuffed byte
				require.Error(t, err, "%s, %d of %d bytes", name, n, len(s.codestream))
			}
			if err != nil {
				require.NotContains(t, err.Error(), "more data", name)
			} else {
				require.Equal(t, s.SHA256, digest(pixels), "%s, %d of %d bytes", name, n,
					len(s.codestream))
			}
		}
		longer, err := decode(s.Syntax, append(slices.Clip(s.codestream), 0, 0), s.frame())
		require.NoError(t, err, "%s, padded", name)
		require.Equal(t, s.SHA256, digest(longer), name)
	}
}

func TestCodestreamsOfAnotherSizeAreRefused(t *testing.T) {
	for name, s := range corpus(t) {
		for _, change := range []func(*codec.Frame){
			func(f *codec.Frame) { f.Rows++ },
			func(f *codec.Frame) { f.Columns++ },
			func(f *codec.Frame) { f.Rows-- },
			func(f *codec.Frame) { f.Columns-- },
			func(f *codec.Frame) { f.Rows *= 2 },
		} {
			f := s.frame()
			change(&f)
			_, err := decode(s.Syntax, s.codestream, f)
			require.Error(t, err, "%s, %+v", name, f)
			if s.Syntax != rle && f.Rows > 0 && f.Columns > 0 {
				require.ErrorContains(t, codec.Check(s.Syntax, s.codestream, f), "but Rows is ",
					name)
			}
		}
		f := s.frame()
		if f.BitsAllocated /= 2; f.BitsAllocated >= 8 && (s.Syntax == rle || s.Stored > 8) {
			f.BitsStored = min(f.BitsStored, f.BitsAllocated)
			require.Error(t, codec.Check(s.Syntax, s.codestream, f), name)
		}
	}
}

// segment returns the content of the first segment with a marker, to be changed in place.
func segment(b []byte, marker byte) []byte {
	i := bytes.Index(b, []byte{0xFF, marker})
	return b[i+4 : i+2+int(binary.BigEndian.Uint16(b[i+2:]))]
}

func TestCodestreamsThatLieAreRefused(t *testing.T) {
	const sof0, sof3, sofLS, dht = 0xC0, 0xC3, 0xF7, 0xC4
	const dri, sos, lse, dqt = 0xDD, 0xDA, 0xF8, 0xDB
	samples := corpus(t)
	set := func(marker byte, at int, values ...byte) func([]byte) []byte {
		return func(b []byte) []byte {
			copy(segment(b, marker)[at:], values)
			return b
		}
	}
	insert := func(values ...byte) func([]byte) []byte { // behind the start of image
		return func(b []byte) []byte { return slices.Insert(b, 2, values...) }
	}
	replaceLast := func(old []byte, values ...byte) func([]byte) []byte {
		return func(b []byte) []byte {
			copy(b[bytes.LastIndex(b, old):], values)
			return b
		}
	}
	more := func(b []byte) []byte { // than pixels
		return slices.Insert(b, bytes.LastIndex(b, []byte{0xFF, 0xD9}), 0x12, 0x34)
	}
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		want   string
	}{
		{"lossless-odd", func(b []byte) []byte { return b[1:] }, "does not begin with FF D8"},
		{"lossless-odd", func(b []byte) []byte { return b[:2] }, "ends before its first scan"},
		{"lossless-odd", insert(0xFF, 0xD9), "ends before its first scan"},
		{"lossless-odd", insert(0x12), "expected a marker"},
		{"lossless-odd", insert(0xFF, 0xDC, 0, 4, 0, 9), "stands before the first scan"},
		{"lossless-odd", insert(0xFF, 0xFE, 0xFF, 0xFF), "cut off in the segment of marker 0xfe"},
		{"lossless-odd", insert(0xFF, 0xFE, 0, 1), "cut off in the segment of marker 0xfe"},
		{"lossless-odd", insert(0xFF, 0xC3, 0, 11, 12, 0, 9, 0, 9, 1, 1, 0x11, 0),
			"two frame headers"},
		{"lossless-odd", insert(0xFF, 0xC3, 0, 11, 12, 0, 9, 0, 9, 3, 1, 0x11, 0), "wrong length"},
		{"lossless-odd", insert(0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 0, 0),
			"a scan before its frame header"},
		{"lossless-odd", insert(0xFF, 0xDD, 0, 3, 1),
			"restart interval of the JPEG codestream has a wrong length"},
		{"lossless-odd", insert(0xFF, 0xDD, 0, 4, 0, 28),
			"restart interval of 28 pixels, expected whole rows of 29"},
		{"lossless-odd", set(sof3, 0, 17), "samples of 17 bits"},
		{"lossless-odd", set(sof3, 1, 0, 0),
			"the codestream has 0 rows and 29 columns, but Rows is 33 and Columns is 29"},
		{"lossless-odd", set(sos, 0, 2), "wrong length"},
		{"lossless-odd", set(sos, 3, 0), "the predictor 0, expected 1 to 7"},
		{"lossless-odd", set(sos, 3, 8), "the predictor 8"},
		{"lossless-odd", set(sos, 5, 12), "a point transform of 12 bits for samples of 12"},
		{"lossless-odd", set(sos, 2, 0x30), "no Huffman table 3"},
		{"lossless-odd", set(sos, 2, 0xF0), "no Huffman table 15"},
		{"lossless-odd", set(dht, 0, 0x04),
			"Huffman table of the JPEG codestream is cut off or damaged"},
		{"lossless-odd", set(dht, 1, 200),
			"Huffman table of the JPEG codestream is cut off or damaged"},
		{"lossless-odd", set(dht, 1, 3, 0, 0, 0, 0, 0, 0, 8), "more codes than there are"},
		{"lossless-odd", set(dht, 17, 17), "the category 17"},
		{"lossless-1-restart-3", set(dri, 0, 0, 18), "damaged in row 3 of 19"},
		{"lossless-1-restart-3", set(dri, 0, 0, 0), "damaged in row 4 of 19"},
		{"lossless-4-noise", replaceLast([]byte{0xFF, 0}, 0xFF, 1),
			"JPEG lossless codestream is cut off or damaged in row "},
		{"lossless-odd", more, "JPEG lossless codestream has more data than pixels"},
		{"lossless-4-restart-5", more, "JPEG lossless codestream has more data than pixels"},
		{"jpegls-bits-12", more, "JPEG-LS codestream has more data than pixels"},
		{"jpegls-restart-7-near", more, "JPEG-LS codestream has more data than pixels"},
		{"baseline-odd", more, "baseline JPEG has more data than pixels"},
		{"jpegls-odd", set(sofLS, 5, 2), "wrong length"},
		{"jpegls-odd", set(sos, 3, 255), "do not fit MAXVAL 65535 and NEAR 255"},
		{"jpegls-bits-3", set(sos, 3, 4), "NEAR of 4, expected up to half of MAXVAL, 7"},
		{"jpegls-odd", set(sos, 4, 1), "interleave mode 1"},
		{"jpegls-odd", set(sos, 5, 1), "point transform of 1"},
		{"jpegls-odd", set(sos, 2, 1), "mapping table 1"},
		{"jpegls-presets", set(lse, 1, 0x10, 0), "MAXVAL of 4096 with 12 bits"},
		{"jpegls-presets", set(lse, 3, 0, 50), "thresholds [50 12 40]"},
		{"jpegls-presets", set(lse, 9, 0, 2), "RESET 2"},
		{"jpegls-presets", set(lse, 0, 4), "parameters of kind 4"},
		{"jpegls-restart-7", set(dri, 0, 0, 6), "damaged in row 7 of 61"},
		{"baseline-odd", set(sof0, 0, 12), "samples of 12 bits, but BitsAllocated is 8"},
		{"baseline-odd", set(sof0, 0, 7), "samples of 7 bits, expected 8"},
		{"baseline-odd", set(sof0, 8, 1), "no quantisation table 1"},
		{"baseline-odd", set(dqt, 0, 0x20),
			"quantisation table of the JPEG codestream is cut off or damaged"},
		{"baseline-odd", set(sos, 4, 5), "coefficients 0 to 5"},
		{"baseline-odd", set(sos, 2, 0x22), "no Huffman table"},
		{"baseline-odd", replaceLast([]byte{0xFF, sof0}, 0xFF, 0xC2),
			"the codestream is progressive JPEG, but the transfer syntax says baseline JPEG"},
		{"rle-odd", func(b []byte) []byte { return b[:63] }, "shorter than their header"},
		{"rle-odd", func(b []byte) []byte { b[0] = 3; return b }, "3 segments, expected 2"},
		{"rle-odd", func(b []byte) []byte { b[4] = 63; return b }, "segment 1 begins at byte 63"},
		{"rle-odd", func(b []byte) []byte { b[11] = 0xFF; return b },
			"segment 2 begins at byte 42"},
		{"rle-odd", func(b []byte) []byte { copy(b[8:12], b[4:8]); return b },
			"too short for so many pixels"},
		{"rle-odd", func(b []byte) []byte { return append(b, 1, 2) },
			"RLE segment 2 has more data than pixels"},
	} {
		s := samples[c.name]
		_, err := decode(s.Syntax, c.change(slices.Clone(s.codestream)), s.frame())
		if c.want == "too short for so many pixels" {
			err = codec.Check(s.Syntax, c.change(slices.Clone(s.codestream)), s.frame())
		}
		require.ErrorContains(t, err, c.want, c.name)
	}

	// A second scan, and pixels of several samples.
	s := samples["lossless-odd"]
	i := bytes.Index(s.codestream, []byte{0xFF, sos})
	end := []byte{0xFF, 0xD9}
	_, err := decode(s.Syntax, append(bytes.TrimSuffix(slices.Clone(s.codestream), end),
		s.codestream[i:]...), s.frame())
	require.ErrorContains(t, err, "a second scan")
	colour := slices.Clone(s.codestream)
	j := bytes.Index(colour, []byte{0xFF, sof3})
	colour = slices.Insert(colour, j+10+3, 2, 0x11, 0, 3, 0x11, 0)
	colour[j+3], colour[j+9] = 17, 3
	_, err = decode(s.Syntax, colour, s.frame())
	require.ErrorContains(t, err, "3 components")
}

func TestMemoryIsNotTakenForShortCodestreams(t *testing.T) {
	samples := corpus(t)
	for name, marker := range map[string]byte{"lossless-odd": 0xC3, "jpegls-one": 0xF7,
		"baseline-odd": 0xC0} {
		s := samples[name]
		s.Rows, s.Columns = 65535, 65535
		b := slices.Clone(s.codestream)
		copy(segment(b, marker)[1:], []byte{0xFF, 0xFF, 0xFF, 0xFF})
		require.ErrorContains(t, codec.Check(s.Syntax, b, s.frame()), "too short", name)
	}
	s := samples["rle-odd"]
	s.Rows, s.Columns = 65535, 65535
	require.ErrorContains(t, codec.Check(s.Syntax, s.codestream, s.frame()), "too short")

	s = samples["lossless-odd"]
	require.ErrorContains(t, codec.Decode(make([]byte, 10), s.Syntax, s.codestream, s.frame()),
		"has 10 bytes")
	for _, f := range []codec.Frame{
		{Rows: 0, Columns: 1, BitsAllocated: 8, BitsStored: 8},
		{Rows: 1, Columns: 65536, BitsAllocated: 8, BitsStored: 8},
		{Rows: 1, Columns: 1, BitsAllocated: 1, BitsStored: 1},
		{Rows: 1, Columns: 1, BitsAllocated: 8, BitsStored: 9},
		{Rows: 1, Columns: 1, BitsAllocated: 64, BitsStored: 64},
		{Rows: 1, Columns: 1, BitsAllocated: 8},
	} {
		require.ErrorContains(t, codec.Check(s.Syntax, s.codestream, f), "expected", "%+v", f)
		require.Error(t, codec.Decode(make([]byte, 8), s.Syntax, s.codestream, f))
	}
}

// Damaged frames of any kind end soon and without a panic.
func TestDamagedCodestreamsEnd(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	begin, refused, all := time.Now(), 0, 0
	for _, s := range corpus(t) {
		for range 30 {
			b := slices.Clone(s.codestream)
			for range 1 + rng.IntN(4) {
				b[rng.IntN(len(b))] = byte(rng.Uint32())
			}
			all++
			if _, err := decode(s.Syntax, b, s.frame()); err != nil {
				refused++
			}
		}
	}
	require.Greater(t, refused, all/2) // lossless data have no checksum
	require.Less(t, time.Since(begin), time.Minute)
}

func TestOtherTransferSyntaxesAreRefusedWithWhatToDo(t *testing.T) {
	for uid, want := range map[string]string{
		"1.2.840.10008.1.2.4.51": "the transfer syntax JPEG Extended (Process 2 and 4) " +
			"(1.2.840.10008.1.2.4.51) is not supported",
		"1.2.3": `the transfer syntax "1.2.3" is not known`,
	} {
		err := codec.Supported(uid)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "`gdcmconv --raw IN OUT` or `dcmdjpeg IN OUT`")
		require.Equal(t, err, codec.Decode(nil, uid, nil, codec.Frame{}))
		require.Equal(t, err, codec.Check(uid, nil, codec.Frame{}))
	}
	// which those programs cannot decode
	const video = "it is video or sound, not the slices of an image: choose another series"
	const fetch = "uncompressed, as Explicit VR Little Endian (1.2.840.10008.1.2.1)"
	for uid, want := range map[string]string{".4.100": video, ".4.102": video, ".4.106.1": video,
		".4.108": video, ".7.1": video, ".7.3": video, ".4.94": fetch, ".4.205": fetch,
		".4.110": fetch, ".4.112": fetch, ".1.98": fetch} {
		uid = "1.2.840.10008.1.2" + uid
		err := codec.Supported(uid)
		require.ErrorContains(t, err, "("+uid+") is not supported; ")
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "gdcmconv")
	}
	require.ErrorContains(t, codec.Supported("1.2.840.10008.1.2.1"), "are not compressed")
	for _, uid := range []string{rle, baseline, lossless, lossless1, jpegLS,
		"1.2.840.10008.1.2.4.81"} {
		require.NoError(t, codec.Supported(uid))
		s, known := codec.Find(uid)
		require.True(t, known && s.Encapsulated && s.UID == uid && s.Name != "")
	}
	s, known := codec.Find("1.2.840.10008.1.2.2")
	require.True(t, known && !s.Encapsulated)
	_, known = codec.Find("")
	require.False(t, known)
}

func fuzz(f *testing.F, syntaxes ...string) {
	for _, s := range corpus(f) {
		if slices.Contains(syntaxes, s.Syntax) && len(s.codestream) < 4000 {
			f.Add(s.codestream, uint16(s.Rows), uint16(s.Columns), uint8(s.Allocated))
		}
	}
	f.Fuzz(func(t *testing.T, codestream []byte, rows, columns uint16, allocated uint8) {
		frame := codec.Frame{Rows: int(rows), Columns: int(columns), BitsAllocated: int(allocated),
			BitsStored: 8}
		checked := codec.Check(syntaxes[0], codestream, frame)
		if n, err := frame.Bytes(); err != nil || n > 1<<20 {
			return
		}
		once, err := decode(syntaxes[0], codestream, frame)
		if err != nil {
			return
		}
		require.NoError(t, checked)
		twice, err := decode(syntaxes[0], codestream, frame)
		require.NoError(t, err)
		require.Equal(t, once, twice)
	})
}

func FuzzRLE(f *testing.F)      { fuzz(f, rle) }
func FuzzBaseline(f *testing.F) { fuzz(f, baseline) }
func FuzzLossless(f *testing.F) { fuzz(f, lossless, lossless1) }
func FuzzJPEGLS(f *testing.F)   { fuzz(f, jpegLS, "1.2.840.10008.1.2.4.81") }

func BenchmarkDecode(b *testing.B) {
	samples := corpus(b)
	for _, name := range []string{"rle-large", "lossless-large", "jpegls-large",
		"baseline-blocks-95"} {
		s := samples[name]
		n, err := s.frame().Bytes()
		require.NoError(b, err)
		dst := make([]byte, n)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if err := codec.Decode(dst, s.Syntax, s.codestream, s.frame()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

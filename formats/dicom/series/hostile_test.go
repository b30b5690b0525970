package series_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/internal/golden"
)

var le = binary.LittleEndian

// member returns a file of the corpus.
func member(t testing.TB, name, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(unpacked(t, name), file))
	require.NoError(t, err)
	return data
}

func first(t testing.TB, name string) []byte {
	t.Helper()
	folder := unpacked(t, name)
	all, err := os.ReadDir(folder)
	require.NoError(t, err)
	return member(t, name, all[0].Name())
}

func us(n uint16) string { return string(le.AppendUint16(nil, n)) }

// A file for each lie of an image: it is refused, with the tag, and costs nothing.
func TestLiesOfImagesAreRefused(t *testing.T) {
	slice, multi := first(t, "regular"), first(t, "enhanced")
	rle := first(t, "rle")
	item := func(n int) []byte {
		return append(le.AppendUint32([]byte{0xfe, 0xff, 0, 0xe0}, uint32(n)), make([]byte, n)...)
	}
	rle1 := golden.ReplaceElement(t, slice, 2, 0x10, "UI", "1.2.840.10008.1.2.5\x00")
	at := bytes.Index(rle1, []byte("\xe0\x7f\x10\x00OW"))
	rle1 = append(bytes.Clone(rle1[:at]), "\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"...)
	rle1 = append(rle1, item(0)...)
	long := append(bytes.Clone(rle1), item(1100000)...)
	rle1 = append(rle1, item(200)...)
	pixels := bytes.Index(slice, []byte("\xe0\x7f\x10\x00OW"))
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"frames":            {golden.ReplaceElement(t, multi, 0x28, 8, "IS", "2000000000"), "NumberOfFrames (0028,0008): expected a whole number from 1 to 1048576"},
		"one frame more":    {golden.ReplaceElement(t, multi, 0x28, 8, "IS", "5"), "PixelData (7fe0,0010): found 432 bytes, expected 540"},
		"one frame less":    {golden.ReplaceElement(t, multi, 0x28, 8, "IS", "3"), "found 4 items, expected one for each of 3 frames"},
		"no frames":         {golden.ReplaceElement(t, multi, 0x28, 8, "IS", "0"), "NumberOfFrames (0028,0008): expected a whole number"},
		"rows":              {golden.ReplaceElement(t, slice, 0x28, 0x10, "US", us(65535)), "PixelData (7fe0,0010): found 108 bytes, expected 1179630"},
		"no rows":           {golden.ReplaceElement(t, slice, 0x28, 0x10, "US", us(0)), "Rows (0028,0010): expected a whole number from 1 to 65535"},
		"64 bits":           {golden.ReplaceElement(t, slice, 0x28, 0x100, "US", us(64)), "BitsAllocated (0028,0100): found 64, expected 8, 16 or 32"},
		"1 bit":             {golden.ReplaceElement(t, slice, 0x28, 0x100, "US", us(1)), "BitsAllocated (0028,0100): found 1, expected 8, 16 or 32"},
		"32 bits":           {golden.ReplaceElement(t, slice, 0x28, 0x100, "US", us(32)), "PixelData (7fe0,0010): found 108 bytes, expected 216"},
		"17 of 16":          {golden.ReplaceElement(t, slice, 0x28, 0x101, "US", us(17)), "BitsStored (0028,0101): expected a whole number from 1 to 16"},
		"high bit":          {golden.ReplaceElement(t, slice, 0x28, 0x102, "US", us(16)), "HighBit (0028,0102): expected a whole number from 15 to 15"},
		"sign":              {golden.ReplaceElement(t, slice, 0x28, 0x103, "US", us(2)), "PixelRepresentation (0028,0103): expected a whole number from 0 to 1"},
		"NaN position":      {golden.ReplaceElement(t, slice, 0x20, 0x32, "DS", "nan\\0\\0"), "ImagePositionPatient (0020,0032): expected 3 numbers"},
		"infinite position": {golden.ReplaceElement(t, slice, 0x20, 0x32, "DS", "1e999\\0\\0"), "ImagePositionPatient (0020,0032): expected 3 numbers"},
		"far position":      {golden.ReplaceElement(t, slice, 0x20, 0x32, "DS", "1e300\\0\\0"), "ImagePositionPatient (0020,0032): expected at most 1e+07 mm"},
		"two coordinates":   {golden.ReplaceElement(t, slice, 0x20, 0x32, "DS", "1\\2"), "ImagePositionPatient (0020,0032): expected 3 numbers"},
		"zero spacing":      {golden.ReplaceElement(t, slice, 0x28, 0x30, "DS", "0\\0"), "PixelSpacing (0028,0030): expected 0.0001 to 10000 mm"},
		"negative spacing":  {golden.ReplaceElement(t, slice, 0x28, 0x30, "DS", "-1\\1"), "PixelSpacing (0028,0030): expected 0.0001 to 10000 mm"},
		"zero direction":    {golden.ReplaceElement(t, slice, 0x20, 0x37, "DS", "0\\0\\0\\0\\0\\0"), "ImageOrientationPatient (0020,0037): expected two orthogonal"},
		"parallel":          {golden.ReplaceElement(t, slice, 0x20, 0x37, "DS", "1\\0\\0\\1\\0\\0"), "ImageOrientationPatient (0020,0037): expected two orthogonal"},
		"slope":             {golden.ReplaceElement(t, slice, 0x28, 0x1053, "DS", "1e300"), "RescaleSlope (0028,1053)"},
		"no pixels":         {slice[:pixels], "PixelData (7fe0,0010) is missing"},
		"cut":               {slice[:len(slice)-1], "PixelData (7fe0,0010): its length runs beyond the file"},
		"syntax":            {golden.ReplaceElement(t, rle, 2, 0x10, "UI", "ZQMARKERQZ"), "f.dcm: a transfer syntax that is not of the standard is not supported"},
		"private syntax":    {golden.ReplaceElement(t, rle, 2, 0x10, "UI", "1.2.840.113619.5.2"), "f.dcm: a transfer syntax that is not of the standard is not supported"},
		"new syntax":        {golden.ReplaceElement(t, rle, 2, 0x10, "UI", "1.2.840.10008.1.2.4.999"), "1.2.840.10008.1.2.4.999"},
		"video":             {golden.ReplaceElement(t, rle, 2, 0x10, "UI", "1.2.840.10008.1.2.4.102"), "MPEG-4 AVC/H.264 High Profile / Level 4.1 (1.2.840.10008.1.2.4.102) is not supported; it is video or sound, not the slices of an image: choose another series"},
		"native fragments":  {golden.ReplaceElement(t, rle, 2, 0x10, "UI", "1.2.840.10008.1.2.1\x00"), "PixelData (7fe0,0010): found fragments, which Explicit VR Little Endian"},
		"no fragments":      {golden.ReplaceElement(t, slice, 2, 0x10, "UI", "1.2.840.10008.1.2.5\x00"), "PixelData (7fe0,0010): found no fragments, which RLE Lossless"},
		"many pixels": {golden.ReplaceElement(t, golden.ReplaceElement(t, rle1, 0x28, 0x10, "US", us(65535)), 0x28, 0x11, "US", us(65535)),
			"bytes of codestreams cannot hold 8589672450 bytes of pixels"},
		"long codestream":   {long, "PixelData (7fe0,0010): found a codestream of 1100000 bytes for a frame of 108"},
		"frames, fragments": {rle[:bytes.LastIndex(rle, []byte("\xfe\xff\x00\xe0"))], "PixelData (7fe0,0010): found 3 fragments, expected 4 frames"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f.dcm")
			require.NoError(t, os.WriteFile(path, test.data, 0o666))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := series.Open(path, "", series.Options{Fix: true})
			runtime.ReadMemStats(&after)
			require.ErrorContains(t, err, path+": ")
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "MARKER")
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20))
		})
	}
}

// One damaged slice fails the stack, with its file's name; one of another series does not.
func TestADamagedSliceFailsItsStack(t *testing.T) {
	unnamed := []string{"early", "empty", "zeros"} // these do not say of which series they are
	for name, damage := range map[string]func([]byte) []byte{
		"cut":       func(b []byte) []byte { return b[:len(b)-20] },
		"early":     func(b []byte) []byte { return b[:300] },
		"position":  func(b []byte) []byte { return golden.ReplaceElement(t, b, 0x20, 0x32, "DS", "x\\y\\z") },
		"empty":     func(b []byte) []byte { return nil },
		"zeros":     func(b []byte) []byte { return make([]byte, len(b)) },
		"colour":    func(b []byte) []byte { return golden.ReplaceElement(t, b, 0x28, 0x04, "CS", "MONOCHROMEx") },
		"no pixels": func(b []byte) []byte { return b[:bytes.Index(b, []byte("\xe0\x7f\x10\x00OW"))] },
	} {
		folder := unpacked(t, "regular")
		all, err := os.ReadDir(folder)
		require.NoError(t, err)
		path := filepath.Join(folder, all[0].Name())
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, damage(data), 0o666))
		_, _, err = series.Open(folder, "", series.Options{})
		require.ErrorContains(t, err, path+": ", name)
		require.ErrorContains(t, err, "may be a slice of the image", name)
		require.NotContains(t, err.Error(), "MARKER")

		// beside a sound series it is no hindrance
		for i, e := range all {
			if slices.Contains(unnamed, name) {
				break
			}
			other := filepath.Join(folder, e.Name())
			if i == 0 {
				continue
			}
			b, err := os.ReadFile(other)
			require.NoError(t, err)
			uid := []byte("8.498.14.2.1")
			require.Contains(t, string(b), string(uid))
			require.NoError(t, os.WriteFile(other, bytes.ReplaceAll(b, uid, []byte("8.498.14.2.7")), 0o666))
		}
		x, err := series.Find(folder, 2)
		require.NoError(t, err)
		s, err := x.Choose("")
		if slices.Contains(unnamed, name) {
			require.ErrorContains(t, err, path+": ")
			continue
		}
		require.NoError(t, err, name)
		require.Len(t, s.Slices, 4)
	}
}

// What is not DICOM is passed over; where nothing is, that is said.
func TestOtherFilesArePassedOver(t *testing.T) {
	folder := unpacked(t, "regular")
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "docs", "deep"), 0o777))
	for name, text := range map[string]string{"README.txt": "hello", "._0001 2.dcm": "\x00\x05\x16\x07", "docs/scan.nii": "\x5c\x01\x00\x00", "docs/deep/empty": "",
		"docs/archive.zip": "PK\x03\x04", "docs/DICOMDIR": strings.Repeat("\x00", 128) + "DICMjunk"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, filepath.FromSlash(name)), []byte(text), 0o666))
	}
	// an object that is no image
	object := first(t, "regular")
	object = bytes.Replace(object, []byte("\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.2\x00"),
		[]byte("\x08\x00\x16\x00UI\x1e\x001.2.840.10008.5.1.4.1.1.481.3\x00"), 1)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "docs", "rs"), object, 0o666))
	x, err := series.Find(folder, 2)
	require.NoError(t, err)
	require.Len(t, x.Stacks, 1)
	require.Len(t, x.Stacks[0].Slices, 5)
	require.Equal(t, 6, x.Others)
	require.Equal(t, []string{filepath.Join(folder, "docs", "archive.zip")}, x.Zips)
	require.Len(t, x.Objects, 1)
	require.Equal(t, "1.2.840.10008.5.1.4.1.1.481.3", x.Objects[0].Class)
	require.Equal(t, x.Stacks[0].SeriesUID, x.Objects[0].SeriesUID)

	alone := filepath.Join(t.TempDir(), "rs.dcm")
	require.NoError(t, os.WriteFile(alone, object, 0o666))
	_, _, err = series.Open(alone, "", series.Options{})
	require.ErrorContains(t, err, "no image: it holds 1 DICOM files of other kinds")

	empty := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(empty, "a"), []byte("hello"), 0o666))
	_, err = series.Find(empty, 1)
	require.ErrorContains(t, err, "none of its 1 files is DICOM")
	require.NoError(t, os.WriteFile(filepath.Join(empty, "a.ZIP"), []byte("PK\x03\x04"), 0o666))
	_, err = series.Find(empty, 1)
	require.ErrorContains(t, err, "zips in it are not looked into: give them, as in "+empty+"/a.ZIP")
	_, err = series.Find(filepath.Join(empty, "a"), 1)
	require.ErrorContains(t, err, "found no DICM at byte 128")
}

// --series takes the number of info or the UID; a UID of two stacks is not enough.
func TestChoose(t *testing.T) {
	x, err := series.Find(filepath.Join(corpus, "two-series.zip"), 1)
	require.NoError(t, err)
	for choice, number := range map[string]int{"": 2, "1": 1, "2": 2, x.Stacks[0].SeriesUID: 1, x.Stacks[1].SeriesUID: 2} {
		s, err := x.Choose(choice)
		require.NoError(t, err)
		require.Equal(t, number, s.Number)
	}
	for _, choice := range []string{"0", "3", "1.2.3"} {
		_, err = x.Choose(choice)
		require.ErrorContains(t, err, "no such stack")
		require.ErrorContains(t, err, "1: 2 slices of 9 × 6, CT, spacing 0.5 × 0.75 × 2.5 mm")
	}
	x, err = series.Find(filepath.Join(corpus, "acquisitions.zip"), 1)
	require.NoError(t, err)
	_, err = x.Choose(x.Stacks[0].SeriesUID)
	require.ErrorContains(t, err, "several image stacks of that series")
}

// Thousands of slices that all have their own orientation, or lie far apart, end soon.
func TestHostileCollectionsEndSoon(t *testing.T) {
	if testing.Short() {
		t.Skip("writes thousands of files")
	}
	slice := first(t, "regular")
	start := time.Now()
	folder := t.TempDir()
	for i := range 3000 {
		angle := fmt.Sprintf("0\\%.4f\\%.4f\\-1\\0\\0", 0.9999-float64(i%7)*1e-5, float64(i)*1e-6)
		data := golden.ReplaceElement(t, slice, 0x20, 0x32, "DS", fmt.Sprintf("%d\\0\\0", i))
		data = golden.ReplaceElement(t, data, 0x20, 0x37, "DS", angle)
		data = golden.ReplaceElement(t, data, 0x28, 0x30, "DS", fmt.Sprintf("%.3f\\1", 1+float64(i)*1e-3))
		require.NoError(t, os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), data, 0o666))
	}
	written := time.Since(start)
	x, err := series.Find(folder, 2)
	require.NoError(t, err)
	require.Equal(t, 1001, len(x.Stacks))
	_, err = x.Choose("1")
	require.ErrorContains(t, err, "the series has more than 1000 orientations and pixel spacings")
	require.Less(t, time.Since(start)-written, 10*time.Second)

	// a gap of 10 km is no gap of slices, and is not filled
	folder = t.TempDir()
	for i, z := range []string{"0", "0.02", "1e7"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), golden.ReplaceElement(t, slice, 0x20, 0x32, "DS", "0\\0\\"+z), 0o666))
	}
	_, x, err = series.Open(folder, "", series.Options{})
	require.ErrorContains(t, err, "the distances between slices differ")
	require.Equal(t, []string{series.Irregular}, x.Stacks[0].Geometry.Problems)
	for i, x := range []string{"0", "1000", "9e6"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, fmt.Sprint(i)),
			golden.ReplaceElement(t, slice, 0x20, 0x32, "DS", x+"\\0\\"+fmt.Sprint(i)), 0o666))
	}
	_, _, err = series.Open(folder, "", series.Options{Fix: true})
	require.ErrorContains(t, err, "too far apart to be resampled")
}

// Truncated and damaged members of a zip, and files that shrink after they were indexed.
func TestFilesThatChange(t *testing.T) {
	folder := unpacked(t, "regular")
	x, err := series.Find(folder, 1)
	require.NoError(t, err)
	path := x.Stacks[0].Slices[2].File.Name
	require.NoError(t, os.Truncate(path, 500))
	_, err = x.Stacks[0].Read(series.Options{})
	require.ErrorContains(t, err, path+": PixelData (7fe0,0010): the file ends too early")
	require.NoError(t, os.Remove(path))
	_, err = x.Stacks[0].Read(series.Options{})
	require.ErrorContains(t, err, "no such file")

	data, err := os.ReadFile(filepath.Join(corpus, "regular.zip"))
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for range 100 {
		b := bytes.Clone(data)
		b[random.IntN(len(b)*9/10)] ^= 1 << random.IntN(8)
		path := filepath.Join(t.TempDir(), "z.zip")
		require.NoError(t, os.WriteFile(path, b, 0o666))
		im, x, err := series.Open(path, "", series.Options{})
		if err != nil {
			refused++
			require.True(t, strings.HasPrefix(err.Error(), path), err)
			continue
		}
		if len(x.Stacks) > 1 { // a UID was changed: the user is told of the other stack
			continue
		}
		// what the checksums let pass are dates and attributes of members
		require.Equal(t, expectations(t)["regular"].Stacks[0].SHA256, digest(im.Values().Bytes()))
	}
	require.Greater(t, refused, 50)
}

// Whatever is in the files, an index, a stack and an image come or an error that names the path.
func FuzzSeries(f *testing.F) {
	for name := range expectations(f) {
		folder := unpacked(f, name)
		all, err := filepath.Glob(filepath.Join(folder, "*.dcm"))
		require.NoError(f, err)
		if len(all) == 0 {
			continue
		}
		a, err := os.ReadFile(all[0])
		require.NoError(f, err)
		b, err := os.ReadFile(all[len(all)-1])
		require.NoError(f, err)
		f.Add(a, b)
	}
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, a, b []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, "a"), a, 0o666))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "b"), b, 0o666))
		x, err := series.Find(folder, 2)
		if err != nil {
			require.Contains(t, err.Error(), folder)
			return
		}
		for _, s := range x.Stacks {
			h := s.Header()
			require.NotEmpty(t, h.Size)
			im, err := s.Read(series.Options{Fix: true, Workers: 2})
			if err != nil {
				require.Contains(t, err.Error(), folder)
				continue
			}
			n := 1
			for _, k := range im.Head().Size {
				n *= k
			}
			require.Equal(t, n, im.Values().Len())
		}
	})
}

// Several paths are one archive: a series may lie in two of them, and a damaged file of an unknown
// series blocks the stacks of its folder alone.
func TestAnArchiveIsOneIndex(t *testing.T) {
	regular, other := unpacked(t, "regular"), unpacked(t, "coronal")
	half := t.TempDir()
	all, err := os.ReadDir(regular)
	require.NoError(t, err)
	name := all[0].Name()
	require.NoError(t, os.Rename(filepath.Join(regular, name), filepath.Join(half, name)))
	for _, e := range all[1:] { // the corpus has the same UIDs for all series
		path := filepath.Join(regular, e.Name())
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, bytes.ReplaceAll(b, []byte("8.498.14.2.1"), []byte("8.498.14.2.7")), 0o666))
	}
	b, err := os.ReadFile(filepath.Join(half, name))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(half, name), bytes.ReplaceAll(b, []byte("8.498.14.2.1"), []byte("8.498.14.2.7")), 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(other, "bad.dcm"), []byte("no DICOM"), 0o666))
	read := make(chan int, 100)
	x, err := series.FindAll(context.Background(), []string{regular, half, other}, 2, func(n, of int) { read <- of })
	require.NoError(t, err)
	require.Len(t, x.Stacks, 2)
	require.Len(t, x.Damaged, 1)
	require.Len(t, read, <-read-1)
	for _, s := range x.Stacks {
		require.True(t, s.Volume())
		_, err = x.Choose(s.SeriesUID)
		require.ErrorContains(t, err, "bad.dcm")
		if s.Slices[0].File.Folder == other {
			require.ErrorContains(t, x.Whole(s), "bad.dcm")
			continue
		}
		require.Len(t, s.Slices, len(all))
		require.NoError(t, x.Whole(s))
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_, err = series.FindAll(ctx, []string{regular}, 2, nil)
	require.ErrorIs(t, err, context.Canceled)
	_, err = series.FindAll(context.Background(), []string{regular, "absent"}, 2, nil)
	require.ErrorContains(t, err, "absent")

	cut := filepath.Join(t.TempDir(), "cut.zip")
	require.NoError(t, os.WriteFile(cut, []byte("PK\x03\x04 not copied to its end"), 0o666))
	_, err = series.Find(cut, 2)
	require.ErrorContains(t, err, cut+": found no directory at the end of the zip")
	x, err = series.FindAll(context.Background(), []string{cut, regular, half}, 2, nil)
	require.NoError(t, err)
	require.Len(t, x.Damaged, 1)
	require.Len(t, x.Stacks, 1)
	require.NoError(t, x.Whole(x.Stacks[0]))
}

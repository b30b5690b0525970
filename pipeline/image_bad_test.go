package pipeline

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// bomb is a gigabyte of zeros behind the header of a gzip or zlib stream, in a megabyte, without an end.
func bomb(t *testing.T, header string) []byte {
	t.Helper()
	var part bytes.Buffer
	w, err := flate.NewWriter(&part, flate.BestSpeed)
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 16<<20))
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	return append([]byte(header), bytes.Repeat(part.Bytes(), 64)...)
}

const (
	gzipHeader = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
	zlibHeader = "\x78\x01"
)

// niftiFile is a header of int16 with these sizes and its pixels at byte offset, and what follows it.
func niftiFile(offset float32, sizes [3]int16, rest []byte) []byte {
	b := make([]byte, 352)
	le := binary.LittleEndian
	le.PutUint32(b, 348)
	for i, n := range []int16{3, sizes[0], sizes[1], sizes[2], 1, 1, 1, 1} {
		le.PutUint16(b[40+2*i:], uint16(n))
	}
	le.PutUint16(b[70:], 4)
	le.PutUint16(b[72:], 16)
	_, err := binary.Encode(b[76:], le, []float32{1, 1, 1, 1, 1, 1, 1, 1, offset})
	if err != nil {
		panic(err)
	}
	le.PutUint16(b[254:], 1) // sform
	for i := range 3 {
		_, _ = binary.Encode(b[280+20*i:], le, float32(1))
	}
	copy(b[148:], marker) // descrip
	copy(b[344:], "n+1\x00")
	return append(b, rest...)
}

func nrrdFile(sizes, fields, rest string) []byte {
	return fmt.Appendf(nil, "NRRD0004\n# %s\ntype: short\ndimension: 3\nsizes: %s\nendian: little\n%s\npatient:=%[1]s\n\n%[4]s",
		marker, sizes, fields, rest)
}

func metaFile(fields, size, file, rest string) []byte {
	return fmt.Appendf(nil, "NDims = 3\nBinaryData = True\nComment = %s\n%sDimSize = %s\nElementType = MET_SHORT\n"+
		"ElementDataFile = %s\n%s", marker, fields, size, file, rest)
}

// An image file for each lie. By every road it is refused, with its name and what is wrong, in little time
// and memory, and with no text of its header.
func TestBadImageFilesAreRefusedByEveryRoad(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret.raw")
	require.NoError(t, os.WriteFile(secret, bytes.Repeat([]byte("secret"), 100), 0o600))
	gzipBomb, zlibBomb := bomb(t, gzipHeader), bomb(t, zlibHeader)
	for name, test := range map[string]struct {
		file  string
		data  []byte
		place func(folder string) error // what lies beside
		want  string
	}{
		"NIfTI beyond the file":   {file: "a-ct.nii", data: niftiFile(352, [3]int16{512, 512, 400}, nil), want: "expected 209715552"},
		"NIfTI of 2⁴⁴ voxels":     {file: "a-ct.nii", data: niftiFile(352, [3]int16{32767, 32767, 32767}, nil), want: "cut off or its header is wrong"},
		"NIfTI negative size":     {file: "a-ct.nii", data: niftiFile(352, [3]int16{4, -4, 4}, make([]byte, 128)), want: "-4"},
		"NIfTI huge offset":       {file: "a-ct.nii", data: niftiFile(1e18, [3]int16{4, 4, 4}, make([]byte, 128)), want: "offset"},
		"NIfTI NaN offset":        {file: "a-ct.nii", data: niftiFile(float32nan, [3]int16{4, 4, 4}, make([]byte, 128)), want: "offset"},
		"gzip bomb":               {file: "a-ct.nii.gz", data: gzipBomb, want: "header"},
		"gzip beyond its ratio":   {file: "a-ct.nii.gz", data: gzippedBytes(niftiFile(352, [3]int16{2000, 2000, 2000}, nil)), want: "compressed bytes, which hold at most"},
		"gzip cut":                {file: "a-ct.nii.gz", data: twoThirds(gzippedBytes(niftiFile(352, [3]int16{64, 64, 64}, noise(1<<19)))), want: "the file is cut off"},
		"gzip checksum":           {file: "a-ct.nii.gz", data: damagedEnd(gzippedBytes(niftiFile(352, [3]int16{4, 4, 4}, make([]byte, 128)))), want: "checksum"},
		"NRRD beyond the file":    {file: "a-ct.nrrd", data: nrrdFile("512 512 400", "encoding: raw", "1"), want: "found 1 bytes of pixels, expected 209715200"},
		"NRRD negative size":      {file: "a-ct.nrrd", data: nrrdFile("4 -4 4", "encoding: raw", "1"), want: "sizes"},
		"NRRD of 3000 axes":       {file: "a-ct.nrrd", data: []byte("NRRD0004\ntype: short\ndimension: 3000\nsizes: " + strings.Repeat("1 ", 3000) + "\nencoding: raw\n\n11"), want: "dimension"},
		"NRRD huge byte skip":     {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\nbyte skip: 9000000000000000000", strings.Repeat("1", 16)), want: "skip"},
		"NRRD negative byte skip": {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\nbyte skip: -9000000000000000000", strings.Repeat("1", 16)), want: "skip"},
		"NRRD huge line skip":     {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\nline skip: 9000000000000000000", strings.Repeat("1", 16)), want: "line skip"},
		"NRRD gzip bomb":          {file: "a-ct.nrrd", data: nrrdFile("30000 30000 3000", "encoding: gzip", string(gzipBomb)), want: "compressed bytes, which hold at most"},
		"NRRD gzip cut":           {file: "a-ct.nrrd", data: twoThirds(nrrdFile("64 64 64", "encoding: gzip", string(gzippedBytes(noise(1<<19))))), want: "cut off"},
		"NRRD that names itself":  {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\ndata file: a-ct.nrrd", ""), want: "the header names itself as data file"},
		"NRRD a file outside":     {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\ndata file: /etc/passwd", ""), want: "expected a file in the folder of the header or below it"},
		"NRRD a file above":       {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\ndata file: ../x.raw", ""), want: "expected a file in the folder of the header or below it"},
		"NRRD a list outside":     {file: "a-ct.nrrd", data: []byte("NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nendian: little\nencoding: raw\ndata file: LIST\n/etc/passwd\n/etc/group\n"), want: "expected a file in the folder of the header or below it"},
		"NRRD a pipe": {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\ndata file: x.raw", ""), want: "not a regular file",
			place: func(folder string) error { return syscall.Mkfifo(filepath.Join(folder, "x.raw"), 0o600) }},
		"NRRD a link outside": {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\ndata file: x.raw", ""), want: "x.raw",
			place: func(folder string) error { return os.Symlink(secret, filepath.Join(folder, "x.raw")) }},
		"NRRD a link to a device": {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\ndata file: x.raw", ""), want: "x.raw",
			place: func(folder string) error { return os.Symlink("/dev/zero", filepath.Join(folder, "x.raw")) }},
		"NRRD NaN origin":          {file: "a-ct.nrrd", data: nrrdFile("2 2 2", "encoding: raw\nspace: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (nan,0,0)", strings.Repeat("1", 16)), want: "origin"},
		"MetaImage beyond":         {file: "a-ct.mha", data: metaFile("", "512 512 400", "LOCAL", "1"), want: "found 1 bytes of pixels, expected 209715200"},
		"MetaImage huge skip":      {file: "a-ct.mha", data: metaFile("HeaderSize = 9000000000000000000\n", "2 2 2", "LOCAL", strings.Repeat("1", 16)), want: "skip"},
		"MetaImage zlib bomb":      {file: "a-ct.mha", data: metaFile("CompressedData = True\n", "2 2 2", "LOCAL", string(zlibBomb)), want: "hold more than 16 bytes"},
		"MetaImage beyond ratio":   {file: "a-ct.mha", data: metaFile("CompressedData = True\n", "30000 30000 3000", "LOCAL", string(zlibBomb)), want: "compressed bytes, which hold at most"},
		"MetaImage names itself":   {file: "a-ct.mha", data: metaFile("", "2 2 2", "a-ct.mha", ""), want: "the header names itself as data file"},
		"MetaImage outside":        {file: "a-ct.mha", data: metaFile("", "2 2 2", "/etc/passwd", ""), want: "expected a file in the folder of the header or below it"},
		"MetaImage list outside":   {file: "a-ct.mha", data: metaFile("", "2 2 2", "LIST", "/etc/passwd\n/etc/group\n"), want: "expected a file in the folder of the header or below it"},
		"MetaImage a device":       {file: "a-ct.mha", data: metaFile("", "2 2 2", "/dev/zero", ""), want: "expected a file in the folder of the header or below it"},
		"MetaImage 2·10⁹ files":    {file: "a-ct.mha", data: metaFile("", "2 2 2", "x%03d.raw 1 2000000000 1", ""), want: "files"},
		"MetaImage NaN spacing":    {file: "a-ct.mha", data: metaFile("ElementSpacing = nan 1 1\n", "2 2 2", "LOCAL", strings.Repeat("1", 16)), want: "ElementSpacing"},
		"no image":                 {file: "a-ct.nrrd", data: []byte(strings.Repeat("This is no image. "+marker, 40000)), want: "NRRD"},
		"nothing":                  {file: "a-ct.mha", data: nil, want: "a-ct.mha"},
		"DICOM nested 20000 times": {file: "a-ct.dcm", data: nestedDICOM(20000), want: "nested more than 32 deep"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, test.file)
			require.NoError(t, os.WriteFile(path, test.data, 0o600))
			unit := &volume.ITK{Spacing: []float64{1, 1, 1}, Origin: []float64{0, 0, 0}, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
			require.NoError(t, image.Write(filepath.Join(folder, "a-seg.mha"), []int{2, 2, 2}, unit, volume.Slice[uint8]{1, 0, 0, 0, 0, 0, 0, 0}, 1))
			if test.place != nil {
				require.NoError(t, test.place(folder))
			}
			var said bytes.Buffer
			o := Output{Log: &said}
			golden.Quick(t, func() {
				_, err := InspectImages(path, false, "")
				requireRefused(t, err, test.file, test.want)
			})
			out := filepath.Join(t.TempDir(), "out.nii.gz")
			golden.Quick(t, func() {
				c := settings.New[ConvertImageConfig]()
				c.In, c.Out = path, out
				_, err := ConvertImage(c, o)
				requireRefused(t, err, test.file, test.want)
			})
			require.NoFileExists(t, out)
			golden.Quick(t, func() {
				c := settings.New[ImportConfig]()
				c.Sources, c.Raw, c.ID, c.Name, c.Labels = []string{folder}, t.TempDir(), 7, "LN", []string{"LN=1"}
				c.ImageFiles, c.LabelFiles = "{case}-ct"+strings.TrimPrefix(test.file, "a-ct"), "{case}-seg.mha"
				r, err := Import(context.Background(), c, o)
				require.Error(t, err)
				told := err.Error() + said.String() + fmt.Sprintf("%+v", r)
				require.Contains(t, told, test.file)
				// The label map is drawn before the pixels of the image are read.
				require.Regexp(t, regexp.QuoteMeta(test.want)+"|does not lie on the grid of the image", told)
				require.NotContains(t, told, marker)
				require.NotContains(t, told, "secret")
			})
			require.NotContains(t, said.String(), marker)
		})
	}
}

// A lie in one slice of a series, or in the RTSTRUCT or SEG of it. By every road it is refused, with the
// file's name and what is wrong, in little time and memory, and with no text of it.
func TestBadDICOMIsRefusedByEveryRoad(t *testing.T) {
	us := func(n uint16) string { return string(binary.LittleEndian.AppendUint16(nil, n)) }
	// The bytes of the first ContourData, in implicit VR, and what they become.
	points := func(from, to string) func([]byte) []byte {
		return func(b []byte) []byte {
			at := bytes.Index(b, []byte("\x06\x30\x50\x00"))
			require.Positive(t, at)
			end := bytes.IndexByte(b[at+8:], '\\') + at + 8
			require.LessOrEqual(t, len(to), end-at-8)
			return slices.Concat(b[:at+8], []byte(fmt.Sprintf("%*s", end-at-8, to)), b[end:])
		}
	}
	slice := func(group, number uint16, vr, value string) func([]byte) []byte {
		return func(b []byte) []byte { return golden.ReplaceElement(t, b, group, number, vr, value) }
	}
	const ct, rt, seg = "03.dcm", "stars-square.dcm", "binary-square.dcm"
	for name, test := range map[string]struct {
		file   string
		change func([]byte) []byte
		want   string
	}{
		"rows beyond the file":   {ct, slice(0x28, 0x10, "US", us(65535)), "PixelData (7fe0,0010): found"},
		"64 bits":                {ct, slice(0x28, 0x100, "US", us(64)), "BitsAllocated (0028,0100): found 64, expected 8, 16 or 32"},
		"NaN position":           {ct, slice(0x20, 0x32, "DS", "nan\\0\\0"), "ImagePositionPatient (0020,0032): expected 3 numbers"},
		"position at 1e300":      {ct, slice(0x20, 0x32, "DS", "1e300\\0\\0"), "ImagePositionPatient (0020,0032): expected at most 1e+07 mm"},
		"a text for a position":  {ct, slice(0x20, 0x32, "DS", marker), "ImagePositionPatient (0020,0032): expected 3 numbers"},
		"slope of 1e300":         {ct, slice(0x28, 0x1053, "DS", "1e300"), "RescaleSlope (0028,1053)"},
		"an unknown syntax":      {ct, slice(2, 0x10, "UI", marker), "a transfer syntax that is not of the standard"},
		"JPEG 2000 that is none": {ct, slice(2, 0x10, "UI", "1.2.840.10008.1.2.4.90"), "PixelData (7fe0,0010)"},
		"pixels cut off":         {ct, func(b []byte) []byte { return b[:len(b)-7] }, "PixelData (7fe0,0010): its length runs beyond"},
		"header cut off":         {ct, func(b []byte) []byte { return b[:1000] }, "03.dcm"},
		"4 GiB of text": {ct, func(b []byte) []byte {
			at := bytes.Index(b, []byte("\xe0\x7f\x10\x00O"))
			return slices.Concat(b[:at], []byte("\x10\x70\x10\x10UT\x00\x00\xfe\xff\xff\xff"), b[at:])
		}, "its length runs beyond"},
		"contour at 1e300":      {rt, points("", "1e300"), "ContourData (3006,0050): expected numbers up to 1e+07 mm"},
		"contour at NaN":        {rt, points("", "nan"), "ContourData (3006,0050): expected numbers"},
		"a text for a contour":  {rt, points("", "ZQ"), "ContourData (3006,0050): expected numbers"},
		"RTSTRUCT cut off":      {rt, func(b []byte) []byte { return b[:len(b)-9] }, "its length runs beyond"},
		"SEG of 2·10⁹ frames":   {seg, slice(0x28, 8, "IS", "2000000000"), "NumberOfFrames (0028,0008)"},
		"SEG of one frame more": {seg, slice(0x28, 8, "IS", "20"), "frames"},
		"SEG of 2³² pixels": {seg, func(b []byte) []byte {
			return golden.ReplaceElement(t, golden.ReplaceElement(t, b, 0x28, 0x10, "US", us(65535)), 0x28, 0x11, "US", us(65535))
		}, "found frames of 65535 × 65535 pixels, expected at most 16777216"},
		"SEG pixels cut off": {seg, func(b []byte) []byte { return b[:len(b)-5] }, "PixelData (7fe0,0010): its length runs beyond"},
	} {
		t.Run(name, func(t *testing.T) {
			object := strings.TrimSuffix(seg, ".dcm")
			if test.file == rt {
				object = strings.TrimSuffix(rt, ".dcm")
			}
			changed := false
			archive := patients{"p16": {"square", []string{object}}}.archive(t, func(path string, data []byte) []byte {
				if filepath.Base(path) != test.file {
					return data
				}
				changed = true
				return test.change(data)
			})
			require.True(t, changed)
			var said bytes.Buffer
			o := Output{Log: &said}
			out := filepath.Join(t.TempDir(), "out.nii.gz")
			golden.Quick(t, func() {
				c := settings.New[ConvertImageConfig]()
				c.In, c.Out = filepath.Join(archive, "p16/ct"), out
				if test.file != ct {
					c.In, c.Reference = filepath.Join(archive, "p16", test.file), c.In
				}
				_, err := ConvertImage(c, o)
				requireRefused(t, err, test.file, test.want)
			})
			require.NoFileExists(t, out)
			golden.Quick(t, func() { // headers alone may be well
				_, err := InspectImages(archive, false, "")
				if err != nil {
					requireRefused(t, err, test.file, test.want)
				}
			})
			golden.Quick(t, func() {
				r, err := Import(context.Background(), importConfig(t.TempDir(), archive), o)
				require.Error(t, err)
				told := err.Error() + said.String() + fmt.Sprintf("%+v", r)
				require.Contains(t, told, test.file)
				require.Contains(t, told, test.want)
				require.NotContains(t, told, marker)
			})
			require.NotContains(t, said.String(), marker)
		})
	}
}

// A zip of a gigabyte that begins as DICOM, in a megabyte.
func TestAZipBombIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bomb.zip")
	f, err := os.Create(path)
	require.NoError(t, err)
	z := zip.NewWriter(f)
	w, err := z.Create("a.dcm")
	require.NoError(t, err)
	_, err = w.Write(append(make([]byte, 128), "DICM\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00\x10\x00\x10\x00UT\x00\x00\x00\x00\x00\x40"...))
	require.NoError(t, err)
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		_, err := w.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	require.NoError(t, f.Close())
	for _, in := range []string{path, filepath.Dir(path)} {
		golden.Quick(t, func() {
			c := settings.New[ConvertImageConfig]()
			c.In, c.Out = in, filepath.Join(t.TempDir(), "out.nii.gz")
			_, err := ConvertImage(c, Output{})
			require.ErrorContains(t, err, in)
		})
	}
}

// requireRefused asks for an error that names the file and what is wrong, and quotes nothing of it.
func requireRefused(t *testing.T, err error, file, want string) {
	t.Helper()
	require.Error(t, err)
	require.Contains(t, err.Error(), file)
	require.Contains(t, err.Error(), want)
	require.NotContains(t, err.Error(), marker)
	require.NotContains(t, err.Error(), "secret")
	require.NotContains(t, err.Error(), "root:")
}

var float32nan = float32(math.NaN())

func gzippedBytes(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil || w.Close() != nil {
		panic("a buffer failed")
	}
	return out.Bytes()
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func twoThirds(b []byte) []byte { return b[:len(b)*2/3] }

// damagedEnd changes the checksum of a gzip file.
func damagedEnd(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-6] ^= 1
	return b
}

// nestedDICOM is a file of sequences in sequences.
func nestedDICOM(n int) []byte {
	b := append(make([]byte, 128), "DICM\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"...)
	return append(b, bytes.Repeat([]byte("\x08\x00\x32\x10SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"), n)...)
}

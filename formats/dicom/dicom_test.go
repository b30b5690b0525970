package dicom

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/internal/golden"
)

const corpus = "../../testdata/golden/dicom"

var le = binary.LittleEndian

// element writes an element in explicit VR little endian with a length of its own.
func element(group, number uint16, vr string, length uint32, value []byte) []byte {
	b := le.AppendUint16(le.AppendUint16(nil, group), number)
	b = append(b, vr...)
	if strings.Contains("AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US", vr) {
		b = le.AppendUint16(b, uint16(length))
	} else {
		b = le.AppendUint32(append(b, 0, 0), length)
	}
	return append(b, value...)
}

// honest writes an element with the length of its value.
func honest(group, number uint16, vr, value string) []byte {
	if len(value)%2 == 1 {
		value += " "
	}
	return element(group, number, vr, uint32(len(value)), []byte(value))
}

func us(group, number uint16, v uint16) []byte {
	return honest(group, number, "US", string(le.AppendUint16(nil, v)))
}

func item(number uint16, length uint32) []byte {
	return le.AppendUint32(le.AppendUint16([]byte{0xfe, 0xff}, number), length)
}

// file writes a file of this transfer syntax and with these elements.
func file(syntax string, elements ...[]byte) []byte {
	b := append(make([]byte, 128), "DICM"...)
	b = append(b, honest(2, 0x10, "UI", strings.TrimSpace(syntax)+strings.Repeat("\x00", len(syntax)%2))...)
	return append(b, bytes.Join(elements, nil)...)
}

func read(t testing.TB, data []byte) (*File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.dcm")
	require.NoError(t, os.WriteFile(path, data, 0o666))
	s, err := FileSource(path)
	require.NoError(t, err)
	f, err := Read(s)
	if err != nil {
		require.True(t, strings.HasPrefix(err.Error(), path+": "), err)
	}
	return f, err
}

var undefinedLength = uint32(math.MaxUint32)

// nested writes sequences in sequences.
func nested(n int, vr string, length func(inside int) uint32, implicit bool) []byte {
	b := honest(8, 0x60, "CS", "CT")
	if implicit {
		b = nil
	}
	for range n {
		inner := append(item(0xe000, length(len(b))), b...)
		if length(0) == undefinedLength {
			inner = append(append(inner, item(0xe00d, 0)...), item(0xe0dd, 0)...)
		}
		if implicit {
			b = append(le.AppendUint32([]byte{8, 0, 0x32, 0x10}, length(len(inner))), inner...)
		} else {
			b = element(8, 0x1032, vr, length(len(inner)), inner)
		}
	}
	return b
}

func own(n int) uint32     { return uint32(n) }
func unknown(n int) uint32 { return undefinedLength }

// A file for each lie: what is said, and that it costs little.
func TestLiesAreRefused(t *testing.T) {
	rows := bytes.Join([][]byte{us(0x28, 0x10, 4), us(0x28, 0x11, 4), us(0x28, 0x100, 16)}, nil)
	text := honest(0x20, 0xd, "UI", "1.2.3")
	nest := func(n int, vr string, length func(int) uint32) []byte {
		return file(explicitVR, nested(n, vr, length, false))
	}
	// nested writes quadratically many bytes: build the deep ones once by repetition
	deep := func(vr string) []byte {
		open := append(element(8, 0x1032, vr, undefinedLength, nil), item(0xe000, undefinedLength)...)
		return file(explicitVR, bytes.Repeat(open, 20000))
	}
	deepImplicit := bytes.Repeat(append(le.AppendUint32([]byte{8, 0, 0x32, 0x10}, undefinedLength),
		item(0xe000, undefinedLength)...), 20000)
	var tiny bytes.Buffer // elements without a value
	for range 4 << 20 {
		tiny.Write(element(0x10, 0x10, "PN", 0, nil))
	}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":               {nil, "found no DICM at byte 128"},
		"readme":              {[]byte(strings.Repeat("This is not DICOM. ", 40000)), "found no DICM"},
		"preamble":            {make([]byte, 131), "found no DICM"},
		"nothing more":        {append(make([]byte, 128), "DICM"...), "ends too early"},
		"zeros":               {append(append(make([]byte, 128), "DICM"...), make([]byte, 1000)...), ""},
		"half an element":     {append(file(explicitVR, text), 8, 0, 0x60), "ends too early"},
		"meta beyond":         {append(append(make([]byte, 128), "DICM"...), element(2, 1, "OB", 0xfffffffe, nil)...), "FileMetaInformationVersion (0002,0001): its length runs beyond"},
		"meta undefined":      {append(append(make([]byte, 128), "DICM"...), element(2, 1, "OB", undefinedLength, nil)...), "(0002,0001): its length runs beyond"},
		"4 GiB of text":       {file(explicitVR, element(0x40, 0xa160, "UT", 0xfffffffe, nil)), "TextValue (0040,a160): its length runs beyond"},
		"4 GiB of bytes":      {file(explicitVR, element(0x42, 0x11, "OB", 0xfffffffe, nil)), "EncapsulatedDocument (0042,0011): its length runs beyond"},
		"4 GiB of pixels":     {file(explicitVR, rows, element(0x7fe0, 0x10, "OW", 0xfffffffe, nil)), "PixelData (7fe0,0010): its length runs beyond"},
		"4 GiB of items":      {file(explicitVR, element(8, 0x1032, "SQ", 0xfffffffe, nil)), "ProcedureCodeSequence (0008,1032): its length runs beyond"},
		"item beyond":         {file(explicitVR, element(8, 0x1032, "SQ", 16, append(item(0xe000, 100), make([]byte, 8)...)), make([]byte, 200)), "ProcedureCodeSequence (0008,1032): its length runs beyond"},
		"element beyond item": {file(explicitVR, element(8, 0x1032, "SQ", 16, append(item(0xe000, 8), element(8, 0x60, "CS", 99, nil)...)), make([]byte, 200)), "Modality (0008,0060): its length runs beyond"},
		"text undefined":      {file(explicitVR, element(0x40, 0xa160, "UT", undefinedLength, nil)), ""},
		"no item":             {file(explicitVR, element(8, 0x1032, "SQ", 8, honest(8, 0x60, "CS", ""))), "found no item in the sequence"},
		"item at the top":     {file(explicitVR, item(0xe000, 0)), "(fffe,e000): found where an element was expected"},
		"no representation":   {file(explicitVR, []byte{8, 0, 0x60, 0, 2, 0, 0, 0, 'C', 'T'}), "(0008,0060): found no value representation"},
		"nested 33":           {nest(33, "SQ", own), "sequences are nested more than 32 deep"},
		"nested 33 undefined": {nest(33, "SQ", unknown), "sequences are nested more than 32 deep"},
		"nested 33 unknown":   {nest(33, "UN", unknown), ""},
		"nested 20000":        {deep("SQ"), "sequences are nested more than 32 deep"},
		"nested 20000 UN":     {deep("UN"), ""},
		"nested 20000 implicit": {file(implicitVR, deepImplicit),
			"sequences are nested more than 32 deep"},
		"backslashes": {file(explicitVR, element(0x40, 0xa160, "UT", 40<<20, bytes.Repeat([]byte{'\\'}, 40<<20))),
			"TextValue (0040,a160): its header would take more than 384 MB of memory"},
		"small elements": {file(explicitVR, tiny.Bytes()), "its header would take more than 384 MB of memory"},
		"long text":      {file(explicitVR, element(0x40, 0xa160, "UT", 100<<20, make([]byte, 100<<20))), "its header would take more than"},
		"fragments": {file("1.2.840.10008.1.2.5", rows, element(0x7fe0, 0x10, "OB", undefinedLength, item(0xe000, 0)),
			item(0xe000, 1<<30), make([]byte, 100)), "PixelData (7fe0,0010): item 1 is longer than the rest of the file"},
		"fragments of undefined length": {file("1.2.840.10008.1.2.5", rows, element(0x7fe0, 0x10, "OB", undefinedLength, item(0xe000, undefinedLength)),
			make([]byte, 100)), "found no item of known length"},
		"many fragments": {file("1.2.840.10008.1.2.5", rows, element(0x7fe0, 0x10, "OB", undefinedLength, item(0xe000, 0)),
			bytes.Repeat(item(0xe000, 0), maxFragments+2)), "more than 1048576 fragments"},
		"offset table": {file("1.2.840.10008.1.2.5", rows, element(0x7fe0, 0x10, "OB", undefinedLength, item(0xe000, 5<<20)),
			make([]byte, 5<<20)), "its offset table is longer than 1048576 frames"},
		"extended offset table": {file("1.2.840.10008.1.2.5", element(0x7fe0, 1, "OV", 9<<20, make([]byte, 9<<20))),
			"ExtendedOffsetTable (7fe0,0001): expected at most 1048576 frames"},
		"deflated nothing": {file(deflatedExplicitVR), ""},
		"deflated garbage": {file(deflatedExplicitVR, []byte("\xff\xff\xff\xff\xff\xff")), "inflate: damaged data"},
	} {
		t.Run(name, func(t *testing.T) {
			golden.Quick(t, func() {
				f, err := read(t, test.data)
				if test.want != "" {
					require.ErrorContains(t, err, test.want)
				}
				require.NotErrorIs(t, err, errHeader)
				_ = f
			})
		})
	}
}

// A gigabyte of zeros, deflated to a megabyte, as text and as bytes.
func TestDeflatedBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("inflates gigabytes")
	}
	for name, head := range map[string][]byte{
		"text":  element(0x40, 0xa160, "UT", 1<<30, nil),
		"bytes": element(0x42, 0x11, "OB", 1<<30, nil),
	} {
		var deflated bytes.Buffer
		w, err := flate.NewWriter(&deflated, flate.BestSpeed)
		require.NoError(t, err)
		w.Write(head)
		zeros := make([]byte, 1<<20)
		for range 1 << 10 {
			w.Write(zeros)
		}
		require.NoError(t, w.Close())
		golden.Quick(t, func() {
			_, err := read(t, file(deflatedExplicitVR, deflated.Bytes()))
			if name == "text" {
				require.ErrorContains(t, err, "its header would take more than 384 MB")
			}
		})
	}
}

// What stands before the damage is there: a damaged slice is known to belong to its series.
func TestADamagedFileStillNamesItsSeries(t *testing.T) {
	f, err := read(t, file(explicitVR, honest(8, 0x60, "CS", "CT"), honest(0x20, 0xe, "UI", "1.2.3"),
		element(0x20, 0x9111, "SQ", 1000, item(0xe000, 500))))
	require.ErrorContains(t, err, "FrameContentSequence (0020,9111)")
	require.Equal(t, "1.2.3", f.Text(tag.SeriesInstanceUID))
	require.Equal(t, "CT", f.Text(tag.Modality))
}

// Values of all kinds and encodings, and which elements are left out.
func TestElementsAreRead(t *testing.T) {
	fl := le.AppendUint32(nil, math.Float32bits(1.5))
	fd := le.AppendUint64(nil, math.Float64bits(-2.25))
	code := append(item(0xe000, undefinedLength), honest(8, 0x104, "LO", "Meaning")...)
	code = append(append(code, item(0xe00d, 0)...), item(0xe0dd, 0)...)
	f, err := read(t, file(explicitVR,
		honest(8, 5, "CS", "ISO_IR 100"),
		honest(8, 0x60, "CS", " CT "),
		element(8, 0x1032, "SQ", undefinedLength, code),
		honest(9, 0x1001, "LO", "private"),
		honest(0x10, 0x10, "PN", "M\xfcller^A\\B"),
		honest(0x18, 0x9306, "FD", string(fd)),
		honest(0x20, 0x32, "DS", "1.5\\-2e1 \\ 3"),
		honest(0x20, 0x37, "DS", "nan\\1\\0x1p3"),
		us(0x28, 0x10, 77),
		honest(0x28, 0x11, "US", "odd"),
		honest(0x28, 0x8, "IS", "12 "),
		element(0x28, 0x3006, "OW", 4, make([]byte, 4)),
		element(0x28, 0x1101, "UN", 4, make([]byte, 4)), // bulk data and numbers of unknown kind
		element(0x28, 0x1201, "UN", 4, make([]byte, 4)),
		element(0x18, 0x9311, "UN", 8, fd),
		element(0x18, 0x9316, "UN", 3, make([]byte, 3)),
		honest(0x18, 0x50, "DS", "0x1p3"),
		honest(0x70, 0x22, "FL", string(append(fl, fl...))),
		honest(0x7fe0, 0x10, "OW", "pixels")))
	require.NoError(t, err)
	require.Equal(t, "CT", f.Text(tag.Modality))
	require.Equal(t, []string{"Müller^A", "B"}, f.Texts(tag.PatientName))
	require.Equal(t, "Meaning", f.Item(tag.ProcedureCodeSequence).Text(tag.CodeMeaning))
	v, err := f.Floats(tag.ImagePositionPatient, 3)
	require.NoError(t, err)
	require.Equal(t, []float64{1.5, -20, 3}, v)
	_, err = f.Floats(tag.ImagePositionPatient, 2)
	require.EqualError(t, err, "ImagePositionPatient (0020,0032): expected 2 numbers")
	_, err = f.Floats(tag.ImageOrientationPatient, 0)
	require.EqualError(t, err, "ImageOrientationPatient (0020,0037): expected numbers")
	n, err := f.Int(tag.Rows, 1, 100)
	require.NoError(t, err)
	require.Equal(t, 77, n)
	_, err = f.Int(tag.Rows, 1, 76)
	require.EqualError(t, err, "Rows (0028,0010): expected a whole number from 1 to 76")
	_, err = f.Int(tag.PixelRepresentation, 0, 1)
	require.EqualError(t, err, "PixelRepresentation (0028,0103) is missing")
	x, err := f.Float(tag.RevolutionTime, 9)
	require.NoError(t, err)
	require.Equal(t, 9.0, x)
	v, err = f.Floats(tag.SingleCollimationWidth, 1)
	require.NoError(t, err)
	require.Equal(t, -2.25, v[0])
	v, err = f.Floats(tag.SpiralPitchFactor, 1)
	require.NoError(t, err)
	require.Equal(t, -2.25, v[0])
	_, err = f.Float(tag.SliceThickness, 1)
	require.EqualError(t, err, "SliceThickness (0018,0050): expected a number")
	v, err = f.Floats(tag.GraphicData, 2)
	require.NoError(t, err)
	require.Equal(t, []float64{1.5, 1.5}, v)
	for _, missing := range []tag.Tag{{Group: 9, Element: 0x1001}, tag.LUTData, tag.PixelData,
		tag.RedPaletteColorLookupTableData, tag.CTDIvol} {
		require.Nil(t, f.element(missing), missing)
	}
	require.Equal(t, int64(6), f.Pixels.Length)
	r, err := f.OpenPixels()
	require.NoError(t, err)
	defer r.Close()
	b := make([]byte, 6)
	_, err = r.ReadAt(b, f.Pixels.Offset)
	require.NoError(t, err)
	require.Equal(t, "pixels", string(b))
}

// Frames of compressed pixels: by a table, by the number of fragments, by markers; a table that lies
// is not believed.
func TestFramesAreDivided(t *testing.T) {
	fragment := func(s string) []byte { return append(item(0xe000, uint32(len(s))), s...) }
	table := func(offsets ...uint32) []byte {
		b := item(0xe000, uint32(4*len(offsets)))
		for _, o := range offsets {
			b = le.AppendUint32(b, o)
		}
		return b
	}
	for name, test := range map[string]struct {
		items  [][]byte
		frames int
		want   []string // "" if it fails
	}{
		"one":             {[][]byte{table(), fragment("ab"), fragment("cd")}, 1, []string{"abcd"}},
		"one each":        {[][]byte{table(), fragment("ab"), fragment("cd")}, 2, []string{"ab", "cd"}},
		"table":           {[][]byte{table(0, 20), fragment("ab"), fragment("cd"), fragment("ef")}, 2, []string{"abcd", "ef"}},
		"table first":     {[][]byte{table(0, 10), fragment("ab"), fragment("cd"), fragment("ef")}, 2, []string{"ab", "cdef"}},
		"odd":             {[][]byte{table(0, 11), fragment("abc"), fragment("cd")}, 2, []string{"abc", "cd"}},
		"lie, one each":   {[][]byte{table(0, 4096), fragment("ab"), fragment("cd")}, 2, []string{"ab", "cd"}},
		"lie":             {[][]byte{table(0, 4096), fragment("ab"), fragment("cd"), fragment("ef")}, 2, nil},
		"markers":         {[][]byte{table(), fragment("\xff\xd8"), fragment("cd"), fragment("\xff\xd8ef")}, 2, []string{"\xff\xd8cd", "\xff\xd8ef"}},
		"markers of J2K":  {[][]byte{table(), fragment("\xff\x4fb"), fragment("\xff\x4f"), fragment("f")}, 2, []string{"\xff\x4fb", "\xff\x4ff"}},
		"too few":         {[][]byte{table(), fragment("ab")}, 2, nil},
		"without markers": {[][]byte{table(), fragment("ab"), fragment("cd"), fragment("ef")}, 2, nil},
	} {
		for _, delimiter := range [][]byte{item(0xe0dd, 0), nil} {
			f, err := read(t, file("1.2.840.10008.1.2.5",
				element(0x7fe0, 0x10, "OB", undefinedLength, bytes.Join(test.items, nil)), delimiter))
			require.NoError(t, err, name)
			frames, err := f.Frames(test.frames)
			if test.want == nil {
				require.ErrorContains(t, err, "PixelData (7fe0,0010)", name)
				continue
			}
			require.NoError(t, err, name)
			data, err := os.ReadFile(f.Name)
			require.NoError(t, err)
			var got []string
			for _, spans := range frames {
				s := ""
				for _, span := range spans {
					s += string(data[span.Offset:][:span.Length])
				}
				got = append(got, s)
			}
			require.Equal(t, test.want, got, name)
		}
	}
}

// Pipes, devices, links and what lies outside of the folder are not read.
func TestOnlyRegularFilesOfTheFolderAreListed(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside.dcm")
	require.NoError(t, os.WriteFile(outside, file(explicitVR), 0o666))
	folder := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "a", "b"), 0o777))
	inside := filepath.Join(folder, "a", "b", "x")
	require.NoError(t, os.WriteFile(inside, file(explicitVR), 0o666))
	require.NoError(t, os.Symlink(outside, filepath.Join(folder, "link.dcm")))
	require.NoError(t, os.Symlink(filepath.Dir(outside), filepath.Join(folder, "links")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(folder, "pipe"), 0o600))
	found, err := List(folder)
	require.NoError(t, err)
	require.Len(t, found.Sources, 1)
	require.Equal(t, inside, found.Sources[0].Name)
	require.Equal(t, 2, found.Links)

	// the folder itself may be a link
	linked := filepath.Join(t.TempDir(), "study")
	require.NoError(t, os.Symlink(folder, linked))
	found, err = List(linked)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(linked, "a", "b", "x"), found.Sources[0].Name)

	for _, path := range []string{filepath.Join(folder, "pipe"), os.DevNull} {
		_, err := List(path)
		require.ErrorContains(t, err, "not a regular file")
	}
}

// Zips: names are only names, lies about sizes are refused, a zip in a zip is not looked into.
func TestHostileZips(t *testing.T) {
	path := filepath.Join(t.TempDir(), "z.zip")
	write := func(f func(z *zip.Writer)) {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		f(z)
		require.NoError(t, z.Close())
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
	}
	good := file(explicitVR, honest(8, 0x60, "CS", "CT"))
	write(func(z *zip.Writer) {
		for _, name := range []string{"../../../../tmp/evil", "/etc/passwd", "a/b/c.dcm", "d/"} {
			w, err := z.Create(name)
			require.NoError(t, err)
			if name != "d/" {
				w.Write(good)
			}
		}
		raw, err := z.CreateRaw(&zip.FileHeader{Name: "bomb", Method: zip.Deflate,
			CompressedSize64: 10, UncompressedSize64: 1 << 40})
		require.NoError(t, err)
		raw.Write(make([]byte, 10))
		raw, err = z.CreateRaw(&zip.FileHeader{Name: "secret", Flags: 1, CompressedSize64: 10, UncompressedSize64: 10})
		require.NoError(t, err)
		raw.Write(make([]byte, 10))
		raw, err = z.CreateRaw(&zip.FileHeader{Name: "odd method", Method: 99, CompressedSize64: 10, UncompressedSize64: 10})
		require.NoError(t, err)
		raw.Write(make([]byte, 10))
		// it has more than it says
		var deflated bytes.Buffer
		w, err := flate.NewWriter(&deflated, 9)
		require.NoError(t, err)
		w.Write(good)
		w.Write(make([]byte, 1<<26))
		require.NoError(t, w.Close())
		raw, err = z.CreateRaw(&zip.FileHeader{Name: "longer", Method: zip.Deflate,
			CompressedSize64: uint64(deflated.Len()), UncompressedSize64: uint64(len(good))})
		require.NoError(t, err)
		raw.Write(deflated.Bytes())
	})
	golden.Quick(t, func() {
		found, err := List(path)
		require.NoError(t, err)
		require.Len(t, found.Sources, 5)
		require.Len(t, found.Failed, 2)
		require.ErrorContains(t, found.Failed[0], "z.zip: bomb: the member says that it has 1099511627776 bytes, more than its 10")
		require.ErrorContains(t, found.Failed[1], "z.zip: secret: the member is encrypted")
		for _, s := range found.Sources {
			f, err := Read(s)
			if strings.HasSuffix(s.Name, "odd method") {
				require.ErrorContains(t, err, "z.zip: odd method: ")
				continue
			}
			require.NoError(t, err, s.Name)
			require.Equal(t, "CT", f.Text(tag.Modality))
		}
	})
	write(func(z *zip.Writer) {
		for i := range 3 {
			raw, err := z.CreateRaw(&zip.FileHeader{Name: fmt.Sprint(i), Method: zip.Deflate,
				CompressedSize64: 40 << 20, UncompressedSize64: 30 << 30})
			require.NoError(t, err)
			raw.Write(make([]byte, 40<<20))
		}
	})
	_, err := List(path)
	require.ErrorContains(t, err, "its members have more than 64 GiB")
}

func TestIsLooksAtTheContent(t *testing.T) {
	folder := t.TempDir()
	for name, data := range map[string]string{"dicom": string(file(explicitVR)), "zip": "PK\x03\x04…", "nifti": "\x5c\x01\x00\x00", "empty": ""} {
		path := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(path, []byte(data), 0o666))
		require.Equal(t, name == "dicom" || name == "zip", Is(path), name)
	}
	require.True(t, Is(folder))
	require.False(t, Is(filepath.Join(folder, "absent")))
	require.False(t, Is(os.DevNull))
}

// A text that is no UID of the standard is not shown.
// A folder holds DICOM if a file in it or below it is, by what it says or by its name.
func TestHoldsLooksForDICOM(t *testing.T) {
	said := append(make([]byte, 128), "DICM"...)
	for name, c := range map[string]struct {
		content []byte
		holds   bool
	}{
		"a/b/IM0001":     {said, true},
		"x.DCM":          {nil, true},
		"a/._x.dcm":      {nil, false},
		"README":         {[]byte("a text"), false},
		"exam.zip":       {[]byte("PK\x03\x04"), false},
		"ct_0000.nii.gz": {said, false}, // is passed over
	} {
		folder := t.TempDir()
		path := filepath.Join(folder, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		require.NoError(t, os.WriteFile(path, c.content, 0o666))
		require.Equal(t, c.holds, Holds(folder, ".nii.gz"), name)
	}
	require.False(t, Holds(filepath.Join(t.TempDir(), "gone"), ""))
}

func TestStandardUID(t *testing.T) {
	for _, text := range []string{"1.2.840.113619.5.2", "Doe^John", "", "1.2.840.10008.1.2 Doe", "1.2.840.10008." + strings.Repeat("1", 60)} {
		require.Equal(t, "", StandardUID(text))
	}
	require.Equal(t, implicitVR, StandardUID(implicitVR))
}

// seeds are the files of the corpus.
func seeds(t testing.TB, f func(data []byte)) {
	paths, err := filepath.Glob(filepath.Join(corpus, "*.zip"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		z, err := zip.OpenReader(path)
		require.NoError(t, err)
		for _, m := range z.File[:1] {
			r, err := m.Open()
			require.NoError(t, err)
			data, err := io.ReadAll(r)
			require.NoError(t, err)
			f(data)
		}
		z.Close()
	}
}

// Whatever the file, the module can read the header that the walker wrote, and says nothing.
func FuzzRead(f *testing.F) {
	seeds(f, func(data []byte) { f.Add(data) })
	f.Add(file(explicitVR, nested(20, "SQ", own, false)))
	f.Add(file(explicitVR, nested(10, "UN", unknown, false)))
	f.Add(file(implicitVR, nested(10, "", own, true)))
	var said bytes.Buffer
	log.SetOutput(&said)
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &Source{Name: "f", Size: int64(len(data)), open: func() (Reader, error) {
			return struct {
				io.ReaderAt
				io.Closer
			}{bytes.NewReader(data), io.NopCloser(nil)}, nil
		}}
		file, err := Read(s)
		require.NotErrorIs(t, err, errHeader)
		require.Empty(t, said.String())
		if err == nil && file.Pixels != nil && file.Pixels.Compressed {
			file.Frames(1)
			file.Frames(len(file.Pixels.Fragments) / 2)
		}
	})
}

// A stream cannot go back: a header of many windows is inflated once.
func TestAStreamIsReadOnce(t *testing.T) {
	var elements [][]byte
	for i := range 300 {
		elements = append(elements, honest(0x40, 0xa160, "UT", strings.Repeat("x", 1001+i)))
	}
	data := file(explicitVR, append(elements, honest(8, 0x60, "CS", "CT"))...)
	opened := 0
	f, err := Read(&Source{Name: "f", Size: int64(len(data)), open: func() (Reader, error) {
		return &forward{open: func() (io.ReadCloser, error) {
			opened++
			return io.NopCloser(bytes.NewReader(data)), nil
		}}, nil
	}})
	require.NoError(t, err)
	require.Equal(t, "CT", f.Text(tag.Modality))
	require.Equal(t, 1, opened)
}

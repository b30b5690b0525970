package nifti

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

const corpus = "../../testdata/golden/nifti"

var typesOfPixels = []string{"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64",
	"int64", "float32", "float64"}

// random returns pixels with random bits, without NaN.
func random(name string, n int, rng *rand.Rand) volume.Pixels {
	pixels := volume.MakePixels(name, n)
	switch p := pixels.(type) {
	case volume.Slice[float32]:
		for i := range p {
			p[i] = float32(rng.NormFloat64() * 1000)
		}
	case volume.Slice[float64]:
		for i := range p {
			p[i] = rng.NormFloat64() * 1000
		}
	default:
		raw := pixels.Bytes()
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
	}
	return pixels
}

func plainHeader(typeName string, dims ...int) *Header {
	g := &volume.ITK{Spacing: make([]float64, len(dims)), Origin: make([]float64, len(dims)),
		Direction: make([]float64, len(dims)*len(dims))}
	for i := range dims {
		g.Spacing[i] = 1
		g.Direction[i*len(dims)+i] = 1
	}
	h, err := NewITK(dims, typeName, g)
	if err != nil {
		panic(err)
	}
	return h
}

// Header and pixels of any version, byte order, type and number of axes are read back bit for bit,
// plain and compressed.
func TestFilesComeBackAsTheyWere(t *testing.T) {
	folder := t.TempDir()
	rng := rand.New(rand.NewPCG(3, 4))
	for version := 1; version <= 2; version++ {
		for _, big := range []bool{false, true} {
			for _, name := range typesOfPixels {
				for _, ending := range Endings {
					dims := []int{1 + rng.IntN(5), 1 + rng.IntN(5), 1 + rng.IntN(5),
						1 + rng.IntN(3)}[:2+rng.IntN(3)]
					h := plainHeader(name, dims...)
					h.Version, h.BigEndian = version, big
					if version == 2 {
						h.regular = 0 // NIfTI-2 has no such byte
					}
					h.Slope, h.Inter = 2, float64(float32(rng.NormFloat64()))
					h.Descrip, h.Intent = "a description", 1002
					h.QFormCode, h.SFormCode = rng.IntN(5), rng.IntN(5)
					for i := range 3 {
						h.Quatern[i] = float64(float32(rng.Float64()))
						h.SRow[i][i] = float64(float32(rng.NormFloat64()))
					}
					h.TOffset = 0.5
					n := 1
					for _, d := range dims {
						n *= d
					}
					pixels := random(name, n, rng)
					path := filepath.Join(folder, "a"+ending)
					require.NoError(t, Write(path, h, pixels, 2))
					f, err := Read(path)
					require.NoError(t, err)
					h.Offset = map[int]int64{1: offset1, 2: offset2}[version]
					require.Equal(t, *h, f.Header)
					require.Equal(t, pixels, f.Pixels)
					only, err := ReadHeader(path)
					require.NoError(t, err)
					require.Equal(t, h, only)
				}
			}
		}
	}
}

// Every file of the corpus is written again with its own header: the header's fields keep their
// bits.
func TestHeadersOfOtherProgramsComeBack(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(corpus, "*.nii*"))
	require.NoError(t, err)
	require.Greater(t, len(files), 100)
	for _, file := range files {
		f, err := Read(file)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "a.nii")
		require.NoError(t, Write(path, &f.Header, f.Pixels, 1))
		was, is := inflated(t, file), inflated(t, path)
		from := 352
		if f.Version == 2 {
			from = 544
		}
		require.Equal(t, was[f.Offset:][:len(is)-from], is[from:], file)
		for _, at := range headerFields(f.Version) {
			if !bytes.Equal(was[at[0]:at[1]], is[at[0]:at[1]]) {
				t.Errorf("%s: bytes %v of the header: % x, now % x", file, at, was[at[0]:at[1]],
					is[at[0]:at[1]])
			}
		}
	}
}

// headerFields are the bytes that a header must keep: axes, type, spacings, scaling, units, qform
// and sform.
func headerFields(version int) [][2]int {
	if version == 1 {
		return [][2]int{{0, 4}, {38, 39}, {40, 56}, {68, 74}, {76, 108}, {112, 120}, {123, 124},
			{136, 140}, {148, 228}, {252, 328}, {344, 348}}
	}
	return [][2]int{{0, 16}, {16, 80}, {104, 168}, {176, 192}, {216, 224}, {240, 320}, {344, 376},
		{376, 508}}
}

func inflated(t testing.TB, path string) []byte {
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	if !strings.HasSuffix(path, ".gz") {
		return content
	}
	z, err := gzip.NewReader(bytes.NewReader(content))
	require.NoError(t, err)
	content, err = io.ReadAll(z)
	require.NoError(t, err)
	return content
}

// The standard library's gzip reads our blocks, and the bytes do not depend on the number of
// goroutines.
func TestCompressedFilesAreTheSameForAnyNumberOfWorkers(t *testing.T) {
	folder := t.TempDir()
	rng := rand.New(rand.NewPCG(5, 6))
	pixels := make(volume.Slice[int16], 200*150*60) // more than three blocks
	for i := range pixels {
		pixels[i] = int16(rng.NormFloat64() * 20)
	}
	h := plainHeader("int16", 200, 150, 60)
	var first []byte
	for workers := range 5 {
		path := filepath.Join(folder, "a.nii.gz")
		require.NoError(t, Write(path, h, pixels, workers))
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		if first == nil {
			first = content
		}
		require.Equal(t, first, content)
		require.Equal(t, pixels.Bytes(), inflated(t, path)[offset1:])
	}
	require.NoError(t, Write(filepath.Join(folder, "a.nii"), h, pixels, 1))
	require.Less(t, len(first), len(pixels)*2*3/4)
}

// A file of several gzip members is read as one.
func TestSeveralMembersAreRead(t *testing.T) {
	content := inflated(t, filepath.Join(corpus, "sitk.nii.gz"))
	var b bytes.Buffer
	for _, part := range [][]byte{content[:100], content[100:352], content[352:360],
		content[360:]} {
		z := gzip.NewWriter(&b)
		_, err := z.Write(part)
		require.NoError(t, err)
		require.NoError(t, z.Close())
	}
	path := filepath.Join(t.TempDir(), "a.nii.gz")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
	got, err := Read(path)
	require.NoError(t, err)
	want, err := Read(filepath.Join(corpus, "sitk.nii.gz"))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// SimpleITK and nibabel read our files with the same pixels and the geometry that was written.
func TestLiveOtherProgramsReadOurFiles(t *testing.T) {
	python := golden.Python(t)
	folder := t.TempDir()
	rng := rand.New(rand.NewPCG(7, 8))
	count := 0
	for _, name := range typesOfPixels {
		for _, big := range []bool{false, true} {
			for axes := 2; axes <= 4; axes++ {
				dims := []int{3, 4, 5, 2}[:axes]
				h := plainHeader(name, dims...)
				h.BigEndian = big
				n := map[int]int{2: 12, 3: 60, 4: 120}[axes]
				pixels := random(name, n, rng)
				for _, ending := range Endings {
					path := filepath.Join(folder,
						fmt.Sprintf("%s_%v_%d%s", name, big, axes, ending))
					// next to an X.nii, ITK reads the pixels of X.nii.gz from X.nii
					if ending == ".nii.gz" {
						path = filepath.Join(folder,
							fmt.Sprintf("z%s_%v_%d%s", name, big, axes, ending))
					}
					require.NoError(t, Write(path, h, pixels, 2))
					require.NoError(t, os.WriteFile(path+".raw", pixels.Bytes(), 0o666))
					count++
				}
			}
		}
	}
	// an oblique volume of several blocks
	g := &volume.ITK{Spacing: []float64{0.7, 0.9, 3}, Origin: []float64{-10.5, 20.25, 30},
		Direction: []float64{0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1}}
	h, err := NewITK([]int{256, 256, 40}, "int16", g)
	require.NoError(t, err)
	pixels := random("int16", 256*256*40, rng)
	path := filepath.Join(folder, "large.nii.gz")
	require.NoError(t, Write(path, h, pixels, 3))
	require.NoError(t, os.WriteFile(path+".raw", pixels.Bytes(), 0o666))
	out, err := exec.Command(python, "-c", `
import glob, sys
import nibabel as nib, numpy as np, SimpleITK as sitk
n = 0
for path in glob.glob(sys.argv[1] + "/*.nii*"):
    if path.endswith(".raw"): continue
    raw = open(path + ".raw", "rb").read()
    im = sitk.ReadImage(path)
    assert sitk.GetArrayFromImage(im).tobytes() == raw, path
    b = nib.load(path)
    a = np.asanyarray(b.dataobj)
    assert a.astype(a.dtype.newbyteorder("<")).tobytes(order="F") == raw, path
    if path.endswith("large.nii.gz"):
        assert np.allclose(im.GetSpacing(), (0.7, 0.9, 3), rtol=1e-6)
        assert im.GetOrigin() == (-10.5, 20.25, 30)
        assert np.allclose(im.GetDirection(), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1), atol=1e-6)
        assert np.allclose(b.affine, b.get_qform(), atol=1e-5)
    n += 1
print(n)
`, folder).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, fmt.Sprint(count+1), strings.TrimSpace(string(out)))
	gunzip := exec.Command("gzip", "-t", path)
	if gunzip.Err == nil {
		out, err := gunzip.CombinedOutput()
		require.NoError(t, err, string(out))
	}
}

// raw returns a NIfTI-1 header, changed by edit, followed by n bytes.
func raw(n int, edit func(b []byte)) []byte {
	h := plainHeader("int16", 2, 2, 2)
	b, err := h.encode()
	if err != nil {
		panic(err)
	}
	edit(b)
	return append(b, make([]byte, n)...)
}

func zipped(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(b)
	z.Close()
	return buf.Bytes()
}

// Damaged and malicious files: each is refused with a message that says why, and uses little
// memory.
func TestHostileFilesAreRefused(t *testing.T) {
	le := binary.LittleEndian
	dims := func(d ...int16) func(b []byte) {
		return func(b []byte) {
			for i, v := range d {
				le.PutUint16(b[40+2*i:], uint16(v))
			}
		}
	}
	float := func(at int, v float32) func(b []byte) {
		return func(b []byte) { le.PutUint32(b[at:], math.Float32bits(v)) }
	}
	version2 := func(edit func(b []byte)) []byte {
		h := plainHeader("int16", 2, 2, 2)
		h.Version = 2
		b, err := h.encode()
		require.NoError(t, err)
		edit(b)
		return append(b, make([]byte, 16)...)
	}
	whole := raw(16, func([]byte) {})
	broken := zipped(whole)
	broken[len(broken)-6] ^= 1 // the checksum
	middle := zipped(append(bytes.Clone(whole),
		random("uint8", 4096, rand.New(rand.NewPCG(1, 1))).Bytes()...))
	for name, test := range map[string]struct {
		content []byte
		want    string
	}{
		"empty":           {nil, "found 0 bytes, expected a header of 348"},
		"one byte":        {[]byte{0x1f}, "found 1 bytes"},
		"gzip magic only": {[]byte{0x1f, 0x8b}, "not a readable gzip file"},
		"gzip of nothing": {zipped(nil), "found 0 bytes, expected a header"},
		"other file": {bytes.Repeat([]byte("PNG "), 200),
			"expected the header size 348 or 540: not NIfTI"},
		"cut off header": {whole[:300], "found 300 bytes, expected a header"},
		"cut off pixels": {whole[:len(whole)-1], "found 367 bytes, expected 368"},
		"no pixels":      {whole[:352], "found 352 bytes, expected 368"},
		"no pixels, zipped": {zipped(whole[:352]),
			"the file is cut off: found 352 bytes, expected 368"},
		"cut off gzip":   {zipped(whole)[:len(zipped(whole))-16], "cut off"},
		"wrong checksum": {broken, "checksum"},
		"mark": {raw(16, func(b []byte) { b[344] = 'x' }),
			`found the magic "x+1\x00" at byte 344`},
		"analyze": {raw(16, func(b []byte) { clear(b[344:348]) }),
			"an Analyze file, or not NIfTI"},
		"pair": {raw(16, func(b []byte) { copy(b[344:], "ni1\x00") }),
			"one half of a .hdr/.img pair"},
		"mark of version 2": {version2(func(b []byte) { b[6] = '1' }), `expected "n+2\x00"`},
		"no axes":           {raw(16, dims(0)), "dim[0]: found 0 axes"},
		"eight axes":        {raw(16, dims(8)), "dim[0]: found 8 axes"},
		"negative axis":     {raw(16, dims(3, 2, -2, 2)), "dim[2]: found -2 voxels"},
		"zero axis":         {raw(16, dims(3, 2, 0, 2)), "dim[2]: found 0 voxels"},
		"huge axes": {raw(16, dims(3, 32767, 32767, 32767)),
			"found 368 bytes, expected 70362301923678"},
		"overflowing axes": {raw(16, dims(7, 32767, 32767, 32767, 32767, 32767, 32767, 32767)),
			"more than any file can hold"},
		"huge axes, zipped": {zipped(raw(16, dims(3, 32767, 32767, 32767))),
			"compressed bytes, which hold at most"},
		"bomb": {zipped(raw(1<<24, dims(3, 4096, 4096, 1024))),
			"which hold at most"},
		"version 2 overflow": {version2(func(b []byte) { le.PutUint64(b[24:], 1<<62) }),
			"expected at most 2147483647"},
		"version 2 negative": {version2(func(b []byte) { le.PutUint64(b[24:], 1<<63) }),
			"voxels, expected 1 or more"},
		"version 2 offset": {version2(func(b []byte) { le.PutUint64(b[168:], 1<<62) }),
			"from byte 4611686018427387904"},
		"offset is NaN": {raw(16, float(108, float32(math.NaN()))), "vox_offset: found NaN"},
		"offset is infinite": {raw(16, float(108, float32(math.Inf(1)))),
			"vox_offset: found +Inf"},
		"offset far away": {raw(16, float(108, 1e15)),
			"the file is cut off or its header is wrong"},
		"offset beyond":  {raw(16, float(108, 360)), "expected 376"},
		"offset, zipped": {zipped(raw(16, float(108, 1e5))), "expected 16 for [2 2 2] pixels"},
		"offset, cut off": {zipped(append(raw(16, float(108, 5000)), middle[:2000]...)),
			"the file is cut off"},
		"complex": {raw(16, func(b []byte) { le.PutUint16(b[70:], 32) }),
			"found 32 (complex64), expected one of uint8"},
		"colour": {raw(16, func(b []byte) { le.PutUint16(b[70:], 128) }),
			"(RGB colour)"},
		"float128": {raw(16, func(b []byte) { le.PutUint16(b[70:], 1536) }),
			"(float128)"},
		"unknown type": {raw(16, func(b []byte) { le.PutUint16(b[70:], 77) }),
			"found 77 (unknown)"},
		"cut off in a member": {middle[:len(middle)/2], "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "scan.nii")
			require.NoError(t, os.WriteFile(path, test.content, 0o666))
			if name == "cut off in a member" {
				// the pixels are complete; the damage after them is found by the checksum
				f, err := Read(path)
				if err == nil {
					require.Equal(t, 8, len(f.Pixels.(volume.Slice[int16])))
				}
				return
			}
			debug.FreeOSMemory()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Read(path)
			runtime.ReadMemStats(&after)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, "scan.nii: ")
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
		})
	}
	_, err := Read(filepath.Join(t.TempDir(), "absent.nii"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, 1, strings.Count(err.Error(), "absent.nii"))
	_, err = Read(t.TempDir())
	require.ErrorContains(t, err, "not a regular file")
}

func TestGeometryThatNobodyCanUseIsRefused(t *testing.T) {
	h := plainHeader("uint8", 2, 2, 2)
	h.QFormCode, h.SFormCode = 0, 1
	h.SRow[0] = [4]float64{1, 0.3, 0, 0}
	_, err := h.ITK()
	require.ErrorContains(t, err, "ITK only supports orthonormal direction cosines")
	h.SRow[0] = [4]float64{math.Inf(1), 0, 0, 0}
	_, err = h.Affine()
	require.ErrorContains(t, err, "not finite")
	_, err = NewITK([]int{2, 2, 2}, "uint8",
		&volume.ITK{Spacing: []float64{1, 1, math.NaN()}, Origin: make([]float64, 3),
			Direction: make([]float64, 9)})
	require.ErrorContains(t, err, "not finite")
	h.Dim = []int{2}
	_, err = h.ITK()
	require.ErrorContains(t, err, "found 1 axes")
}

func TestWriteRefusesWhatAFileCannotHold(t *testing.T) {
	folder := t.TempDir()
	h := plainHeader("int16", 2, 2, 2)
	pixels := make(volume.Slice[int16], 8)
	require.ErrorContains(t, Write(filepath.Join(folder, "a.img"), h, pixels, 1),
		"expected a name that ends in .nii or .nii.gz")
	require.ErrorContains(t, Write(filepath.Join(folder, "a.nii"), h, pixels[:7], 1),
		"found 14 bytes of pixels, expected 16")
	require.ErrorContains(t, Write(filepath.Join(folder, "a.nii"), h, make(volume.Slice[uint8], 8),
		1), "pixels of type uint8 for a header of type \"int16\"")
	h.Dim[0] = 40000
	require.ErrorContains(t, Write(filepath.Join(folder, "a.nii"), h, pixels, 1),
		"axis 0 has 40000 voxels, NIfTI-1 holds 1 to 32767")
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// For any bytes, reading returns an image or an error and uses no more memory than those bytes can
// stand for.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"type_i2_le.nii", "type_f8_be.nii", "v2_le.nii.gz",
		"v2_be.nii.gz", "sitk.nii.gz", "nibabel.nii.gz", "4d.nii.gz", "extension.nii.gz",
		"2d.nii.gz"} {
		content, err := os.ReadFile(filepath.Join(corpus, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
		f.Add(inflated(f, filepath.Join(corpus, name)))
	}
	f.Add(raw(16, func(b []byte) { binary.LittleEndian.PutUint16(b[42:], 32767) }))
	f.Add(zipped(raw(16, func(b []byte) { binary.LittleEndian.PutUint16(b[42:], 32767) })))
	for _, e := range gzipEndings(f) {
		f.Add(e.content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		s, err := newSource(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return
		}
		file, err := s.read()
		if err != nil {
			return
		}
		if len(file.Pixels.Bytes()) > len(content)*maxRatio {
			t.Fatalf("%d bytes of pixels from %d", len(file.Pixels.Bytes()), len(content))
		}
		if im, g, err := file.Image(); err == nil {
			if volume.Numel(im.Shape) != volume.Numel(volume.Shape(file.Dim)) ||
				len(g.Direction) != len(g.Spacing)*len(g.Spacing) {
				t.Fatalf("shape %v, geometry %v", im.Shape, g)
			}
			volume.Cast[float32](im.Pixels)
			if h, err := NewITK(file.Dim[:len(g.Spacing)], file.Type, g); err == nil {
				if _, err := h.encode(); err != nil && !strings.Contains(err.Error(),
					"NIfTI-1 holds") {
					t.Fatal(err)
				}
			}
		}
		if affine, err := file.Affine(); err == nil {
			if _, err := NewNibabel(file.Dim, file.Type, affine); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := file.Header.encode(); err != nil && !strings.Contains(err.Error(),
			"NIfTI-1 holds") {
			t.Fatal(err)
		}
	})
}

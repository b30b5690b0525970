package images

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

func TestReadersAreFoundByName(t *testing.T) {
	for _, class := range classes {
		r, err := ForName(class)
		require.NoError(t, err)
		require.Equal(t, class, r.Name())
	}
	_, err := ForName("NaturalImage2DIO")
	require.ErrorContains(t, err, "files of type .png, .bmp, .tif are not supported, expected "+
		".nii.gz or .nrrd or .mha or .nii: convert them, one channel per file, with python3 -c")
	_, err = ForName("Tiff3DIO")
	require.ErrorContains(t, err, ".tif, .tiff are not supported")
	_, err = ForName("ITKIO")
	require.ErrorContains(t, err, `image reader "ITKIO" is unknown: expected SimpleITKIO, NibabelIO, NibabelIOWithReorient`)
}

func TestChooseTriesNnUNetsOrder(t *testing.T) {
	for _, test := range []struct{ ending, file, want, err string }{
		{".nii.gz", "", "SimpleITKIO", ""},
		{".NII.GZ", "sitk.nii.gz", "SimpleITKIO", ""},
		{".nii", "", "NibabelIO", ""},
		{".nii", "sitk_plain.nii", "NibabelIO", ""},
		{".nii.gz", "skew_01.nii.gz", "NibabelIO", ""}, // SimpleITK refuses it
		{".nii.gz", "absent.nii.gz", "", "SimpleITKIO: "},
		{".png", "", "", "NaturalImage2DIO: files of type .png"},
		{".xyz", "", "", `no image reader for file ending ".xyz": expected .nii.gz or .nrrd or .mha or .nii`},
		{".mhd", "", "", `no image reader for file ending ".mhd": expected .nii.gz`},
		{".gipl", "", "", "SimpleITKIO: files of type .gipl are not supported, expected .nii.gz or .nrrd or .mha or .nii: convert them"},
		{".gipl", "sitk.nii.gz", "", "SimpleITKIO: files of type .gipl are not supported"},
		{".bmp", "", "", "files of type .png, .bmp, .tif are not supported"},
		{".tif", "", "", "Tiff3DIO: image reader Tiff3DIO: files of type .tif, .tiff are not supported"},
		{".nrrd", "", "SimpleITKIO", ""},
		{".mha", "", "SimpleITKIO", ""},
	} {
		path := test.file
		if path != "" {
			path = filepath.Join(corpus, path)
		}
		r, err := Choose(test.ending, path)
		if test.want == "" {
			require.Error(t, err)
			require.Contains(t, strings.ReplaceAll(err.Error(), "image reader NaturalImage2DIO: ", "NaturalImage2DIO: "), test.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, test.want, r.Name())
	}
}

func TestLiveChooseIsNnUNets(t *testing.T) {
	python := golden.Python(t)
	var args, want []string
	for _, test := range [][2]string{{".nii.gz", "sitk.nii.gz"}, {".nii", "sitk_plain.nii"}, {".nii.gz", "skew_01.nii.gz"}, {".nii.gz", "2d.nii.gz"}, {".nii.gz", "4d.nii.gz"}, {".nii", "type_u8_be.nii"}, {".Nii.gz", "scl_nan.nii.gz"}} {
		path, err := filepath.Abs(filepath.Join(corpus, test[1]))
		require.NoError(t, err)
		r, err := Choose(test[0], path)
		require.NoError(t, err)
		args, want = append(args, test[0], path), append(want, r.Name())
	}
	out, err := exec.Command(python, append([]string{"-c", `
import sys
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending as d
print(*[d(e, f, verbose=False).__name__ for e, f in zip(sys.argv[1::2], sys.argv[2::2])])
`}, args...)...).Output()
	require.NoError(t, err)
	require.Equal(t, strings.Join(want, " "), strings.TrimSpace(string(out)))
}

// write writes a file with the given header and pixels counting from 0, and returns its path.
func write(t *testing.T, name string, edit func(h *nifti.Header)) string {
	g := &volume.ITK{Spacing: []float64{1, 1.5, 3}, Origin: []float64{1, 2, 3}, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	h, err := nifti.NewITK([]int{4, 3, 2}, "int16", g)
	require.NoError(t, err)
	edit(h)
	n := 1
	for _, d := range h.Dim {
		n *= d
	}
	var pixels volume.Pixels
	if h.Type == "int16" {
		p := make(volume.Slice[int16], n)
		for i := range p {
			p[i] = int16(i)
		}
		pixels = p
	} else {
		p := make(volume.Slice[uint8], n)
		for i := range p {
			p[i] = uint8(i)
		}
		pixels = p
	}
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, nifti.Write(path, h, pixels, 1))
	return path
}

func TestChannelsAreStackedAndCompared(t *testing.T) {
	first := write(t, "a_0000.nii.gz", func(*nifti.Header) {})
	bytes := write(t, "a_0001.nii.gz", func(h *nifti.Header) { h.Type = "uint8" })
	size := write(t, "size.nii.gz", func(h *nifti.Header) { h.Dim[0] = 5 })
	spacing := write(t, "spacing.nii.gz", func(h *nifti.Header) { h.PixDim[3] = 3.1; h.SRow[2][2] = 3.1 })
	little := write(t, "little.nii.gz", func(h *nifti.Header) { h.PixDim[3] = 3.00001; h.SRow[2][2] = 3.00001 })
	origin := write(t, "origin.nii.gz", func(h *nifti.Header) { h.QOffset[0], h.SRow[0][3] = -7, -7 })
	turned := write(t, "turned.nii.gz", func(h *nifti.Header) {
		h.QFormCode = 0
		h.SRow[0], h.SRow[1] = [4]float64{0, 1.5, 0, -1}, [4]float64{1, 0, 0, -2}
	})
	for _, class := range classes {
		r, err := ForName(class)
		require.NoError(t, err)
		im, p, err := r.Read([]string{first, first, first})
		require.NoError(t, err)
		require.Equal(t, [4]int{3, 2, 3, 4}, im.Shape)
		require.Equal(t, "int16", im.Pixels.Type())
		require.Empty(t, p.Warnings)
		require.Equal(t, []float64{3, 1.5, 1}, p.Spacing)
		require.Equal(t, [3]float64{3, 1.5, 1}, im.Spacing)
		im, _, err = r.Read([]string{first, bytes})
		require.NoError(t, err)
		require.Equal(t, "float32", im.Pixels.Type())
		data := volume.Cast[float32](im.Pixels)
		require.Equal(t, data[:24], data[24:])
		_, _, err = r.Read([]string{first, little})
		require.NoError(t, err)

		_, _, err = r.Read([]string{first, size})
		require.ErrorContains(t, err, "the channels of a case have different shapes: "+first+" [1 2 3 4], "+size+" [1 2 3 5]")
		_, _, err = r.Read([]string{first, spacing})
		require.ErrorContains(t, err, "different spacings: "+first)
		im, p, err = r.Read([]string{first, origin})
		require.NoError(t, err)
		require.Len(t, p.Warnings, 1)
		require.Contains(t, p.Warnings[0], map[bool]string{true: "different origins", false: "different affines"}[class == "SimpleITKIO"])
		if class == "SimpleITKIO" {
			require.Equal(t, []float64{1, 2, 3}, p.SITK.Origin, "of the first file")
			require.Equal(t, [3]float64{1, 2, 3}, im.OriginXYZ)
		}
		if class != "NibabelIOWithReorient" { // there the shape differs, too
			_, p, err = r.Read([]string{first, turned})
			require.NoError(t, err)
			require.NotEmpty(t, p.Warnings)
		}
		_, _, err = r.Read([]string{first, "absent.nii.gz"})
		require.ErrorIs(t, err, os.ErrNotExist)
		require.Equal(t, 1, strings.Count(err.Error(), "absent.nii.gz"))
		_, _, err = r.Read(nil)
		require.ErrorContains(t, err, "found no image files")
	}
}

// The entries for the .pkl have the class's values and Python types.
func TestLivePropertiesAreNnUNets(t *testing.T) {
	python := golden.Python(t)
	folder := t.TempDir()
	var args []string
	for _, class := range classes {
		r, err := ForName(class)
		require.NoError(t, err)
		for i, name := range []string{"sitk.nii.gz", "nibabel.nii.gz", "axes_201.nii.gz", "oblique_120.nii.gz", "2d.nii.gz", "4d.nii.gz", "codes_10.nii.gz", "codes_00.nii.gz"} {
			if class != "SimpleITKIO" && (name == "2d.nii.gz" || name == "4d.nii.gz") {
				continue
			}
			path := filepath.Join(corpus, name)
			_, p, err := r.Read([]string{path})
			require.NoError(t, err)
			content, err := pickle.Marshal(p.Dict(), nil)
			require.NoError(t, err)
			pkl := filepath.Join(folder, fmt.Sprintf("%s_%d.pkl", class, i))
			require.NoError(t, os.WriteFile(pkl, content, 0o666))
			args = append(args, class, path, pkl)
			// and back
			v, err := pickle.ReadFile(pkl)
			require.NoError(t, err)
			q, err := FromDict(v.(*pickle.Dict))
			require.NoError(t, err)
			require.Equal(t, p, q)
		}
	}
	out, err := exec.Command(python, append([]string{"-c", `
import pickle, sys
import numpy as np
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
def same(a, b, at):
    assert type(a) is type(b), (at, type(a), type(b))
    if isinstance(a, dict):
        assert list(a) == list(b), (at, list(a), list(b))
        for k in a: same(a[k], b[k], at + (k,))
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for x, y in zip(a, b): same(x, y, at)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and a.flags.c_contiguous == b.flags.c_contiguous and a.tobytes() == b.tobytes(), (at, a, b)
    else:
        assert repr(a) == repr(b), (at, a, b)
n = 0
for cls, path, pkl in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    same(globals()[cls]().read_images((path,))[1], pickle.load(open(pkl, "rb")), (cls, path))
    n += 1
print(n)
`}, args...)...).CombinedOutput()
	require.NoError(t, err, tail(out))
	require.Equal(t, "20", strings.TrimSpace(string(out)))
}

// The properties that nnU-Net stored for its cases are read, and are the same when written again.
func TestStoredPropertiesAreRead(t *testing.T) {
	files, err := filepath.Glob("../../testdata/phantom-mini/preprocessed/*/*/*.pkl")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		v, err := pickle.ReadFile(file)
		require.NoError(t, err)
		stored := v.(*pickle.Dict)
		p, err := FromDict(stored)
		require.NoError(t, err)
		for key, got := range p.Dict().All() {
			want, ok := stored.Get(key)
			require.True(t, ok)
			require.Equal(t, want, got, "%s %v", file, key)
		}
	}
}

func TestPropertiesOfOtherReadersAreRefused(t *testing.T) {
	d := &pickle.Dict{}
	_, err := FromDict(d)
	require.ErrorContains(t, err, "spacing is missing")
	d.Set("spacing", &pickle.List{Items: []any{1.0, 1.0, "x"}})
	_, err = FromDict(d)
	require.ErrorContains(t, err, "spacing: found a str among them, expected numbers")
	d.Set("spacing", &pickle.List{Items: []any{1.0, 1.0}})
	_, err = FromDict(d)
	require.ErrorContains(t, err, "spacing: found 2 numbers, expected 3")
	d.Set("spacing", &pickle.List{Items: []any{1.0, 1.0, 1.0}})
	_, err = FromDict(d)
	require.ErrorContains(t, err, "found neither sitk_stuff nor nibabel_stuff")
	stuff := &pickle.Dict{}
	d.Set("nibabel_stuff", stuff)
	_, err = FromDict(d)
	require.ErrorContains(t, err, "original_affine: found a NoneType, expected a 4×4 array")
	stuff = &pickle.Dict{}
	for _, name := range []string{"spacing", "origin", "direction"} {
		stuff.Set(name, pickle.Tuple{1.0, 2.0, 3.0})
	}
	d.Set("sitk_stuff", stuff)
	_, err = FromDict(d)
	require.ErrorContains(t, err, "found 3 spacings, 3 origins and 3 directions")
}

// SimpleITKIO reads pixels that are NaN or infinite as 0; Properties counts them, in every channel.
func TestReadersCountNaNAndInfinity(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	dir := t.TempDir()
	var paths []string
	for i, v := range []volume.Slice[float32]{{1, nan, inf, 4, 5, 6, 7, 8}, {nan, 2, 3, -inf, 5, 6, 7, nan}} {
		path := filepath.Join(dir, fmt.Sprintf("x_%04d.nii.gz", i))
		g := &volume.ITK{Spacing: []float64{1, 1, 1}, Origin: []float64{0, 0, 0},
			Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
		require.NoError(t, image.Write(path, []int{2, 2, 2}, g, v, 1))
		paths = append(paths, path)
	}
	for _, name := range []string{"SimpleITKIO", "NibabelIO"} {
		r, err := ForName(name)
		require.NoError(t, err)
		im, p, err := r.Read(paths)
		require.NoError(t, err)
		require.Equal(t, []int{3, 2}, []int{p.NaNs, p.Infinities}, name)
		if name == "SimpleITKIO" {
			require.Zero(t, im.Pixels.Value(1))
			require.Zero(t, im.Pixels.Value(2))
		}
	}
}

// Finite pixels that the slope of a file makes infinite count like those that are stored so.
func TestReadersCountInfinitiesOfTheScaling(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x_0000.nii")
	g := &volume.ITK{Spacing: []float64{1, 1, 1}, Origin: []float64{0, 0, 0}, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	require.NoError(t, image.Write(path, []int{2, 2, 2}, g, volume.Slice[int16]{0, 1, 2, 3, 4, -1000, 1000, 2}, 1))
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	binary.LittleEndian.PutUint32(raw[112:], math.Float32bits(1e36)) // scl_slope
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	for _, name := range []string{"SimpleITKIO", "NibabelIO"} {
		r, err := ForName(name)
		require.NoError(t, err)
		_, p, err := r.Read([]string{path})
		require.NoError(t, err)
		require.Equal(t, 2, p.Infinities, name)
	}
}

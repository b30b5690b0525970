package images

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// pattern has labels 0 to 4 that change under every rotation and flip.
func pattern(shape [4]int) *volume.Image {
	p := make([]uint8, volume.Numel(shape))
	for i := range p {
		p[i] = uint8(i * 7 % 11 % 5)
	}
	return &volume.Image{Shape: shape, Pixels: volume.Slice[uint8](p)}
}

// compareWritten lets each class write the labels of pattern with the properties that it reads from a
// file, and compares header and pixels with ours, byte by byte.
const compareWritten = `
import contextlib, glob, gzip, io, os, sys
import nibabel as nib, numpy as np, SimpleITK as sitk
sitk.ProcessObject_GlobalWarningDisplayOff()
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
sources, ours = sys.argv[1:]
nib.imageglobals.logger.setLevel(100)
content = lambda p: (gzip.open(p) if p.endswith(".gz") else open(p, "rb")).read()
counts, fail = {}, 0
for cls in (SimpleITKIO, NibabelIO, NibabelIOWithReorient):
    for path in sorted(glob.glob(f"{ours}/{cls.__name__}/*")):
        name = os.path.basename(path)
        with contextlib.redirect_stdout(io.StringIO()):
            a, props = cls().read_images((f"{sources}/{name}",))
            a = a[0]
            seg = (np.arange(a.size) * 7 % 11 % 5).astype(np.uint8).reshape(a.shape)
            ref = f"{ours}/ref_{name}"
            cls().write_seg(seg, ref, props)
            back, _ = cls().read_images((path,))
        assert np.array_equal(back[0], seg), (cls.__name__, name, "labels that were read back")
        if cls is not SimpleITKIO:
            # the sform is float32
            assert np.allclose(nib.load(path).affine, props["nibabel_stuff"]["original_affine"], rtol=1e-6, atol=1e-5), (cls.__name__, name, nib.load(path).affine, props)
        kind = "same bytes"
        x, y = content(path), content(ref)
        if x != y:
            hx, hy = nib.load(path).header, nib.load(ref).header
            fields = [f for f in hx.keys() if hx[f].tobytes() != hy[f].tobytes()]
            q = [f"quatern_{c}" for c in "bcd"]
            if all(abs(hx[f] + hy[f]) < 1e-6 for f in q):  # a half turn: both signs are the same rotation
                fields = [f for f in fields if f not in q]
            near = all(hx[f].dtype.kind in "fi" and np.allclose(hx[f], hy[f], rtol=1e-6, atol=1e-6, equal_nan=True) for f in fields)
            # Without code the quaternion is not used; its last digits are those of another eigensolver.
            only = {"quatern_b", "quatern_c", "quatern_d"}
            if cls is not SimpleITKIO:
                only |= {"srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z", "pixdim"}
            if len(x) == len(y) and x[108:124] == y[108:124] and x[352:] == y[352:] and near and set(fields) <= only:
                kind = "last digits of " + " ".join(sorted({f.split("_")[0] for f in fields}))
            elif cls is NibabelIOWithReorient and not np.allclose(nib.load(ref).affine, props["nibabel_stuff"]["original_affine"], atol=1e-3):
                kind = "nnU-Net turned it the wrong way"
            else:
                fail += 1
                kind = "differs"
                print(cls.__name__, name, fields, [(hx[f], hy[f]) for f in fields], x[352:] == y[352:])
        counts[cls.__name__, kind] = counts.get((cls.__name__, kind), 0) + 1
for k, n in sorted(counts.items()):
    print(*k, n, sep=": ")
sys.exit(fail > 0)
`

func TestLiveLabelsAreWrittenAsNnUNetsClassesWrite(t *testing.T) {
	python := golden.Python(t)
	sources, ours := t.TempDir(), t.TempDir()
	out, err := exec.Command(python, "../../scripts/golden/nifti_corpus.py", sources, "--random", "300", "--seed", "77").CombinedOutput()
	require.NoError(t, err, tail(out))
	written := map[string]int{}
	for file, byClass := range expectations(t, sources) {
		for class, want := range byClass {
			if want.Error != "" || want.Twin || differs(file, class, want) || want.Shape[0] > 1 {
				continue
			}
			reader, err := ForName(class)
			require.NoError(t, err)
			im, p, err := reader.Read([]string{filepath.Join(sources, file)})
			require.NoError(t, err)
			require.NoError(t, mkdir(filepath.Join(ours, class)))
			require.NoError(t, reader.WriteSeg(filepath.Join(ours, class, file), pattern(im.Shape), p))
			written[class]++
		}
	}
	require.Len(t, written, 3)
	for class, n := range written {
		require.Greater(t, n, 150, class)
	}
	out, err = exec.Command(python, "-c", compareWritten, sources, ours).CombinedOutput()
	require.NoError(t, err, tail(out))
	t.Log(tail(out))
	require.Contains(t, string(out), "SimpleITKIO: same bytes")
	require.NotContains(t, string(out), "SimpleITKIO: last digits")
}

// Labels are restored for every permutation and reversal of the axes, by every class.
func TestLabelsComeBackFromEveryOrientation(t *testing.T) {
	folder := t.TempDir()
	for _, class := range classes {
		reader, err := ForName(class)
		require.NoError(t, err)
		for k, axis := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			for flips := range 8 {
				what := fmt.Sprintf("%s %v %03b", class, axis, flips)
				var affine [4][4]float64
				affine[3][3] = 1
				for j := range 3 {
					affine[axis[j]][j] = []float64{0.5, 2, 3}[j] * float64(1-flips>>j&1*2)
					affine[j][3] = float64(10 * j)
				}
				h, err := nifti.NewNibabel([]int{5, 4, 3}, "int16", affine)
				require.NoError(t, err)
				pixels := make(volume.Slice[int16], 60)
				for i := range pixels {
					pixels[i] = int16(i)
				}
				source := filepath.Join(folder, fmt.Sprintf("%d_%d.nii", k, flips))
				require.NoError(t, nifti.Write(source, h, pixels, 1))
				im, p, err := reader.Read([]string{source})
				require.NoError(t, err)
				if class == "NibabelIOWithReorient" {
					for j := range 3 {
						require.Positive(t, p.Nibabel.Reoriented[j][j], what)
					}
				}
				out := filepath.Join(folder, "out.nii.gz")
				// every voxel has its own label: the result is the file
				require.NoError(t, reader.WriteSeg(out, im, p))
				f, err := nifti.Read(out)
				require.NoError(t, err)
				require.Equal(t, volume.Slice[uint8](volume.Cast[uint8](pixels)), f.Pixels, what)
				got, err := f.Affine()
				require.NoError(t, err)
				require.Equal(t, affine, got, what)
				if class == "SimpleITKIO" { // the qform equals the sform
					require.Equal(t, [2]int{1, 1}, [2]int{f.QFormCode, f.SFormCode})
					f.SFormCode = 0
					g, err := f.ITK()
					require.NoError(t, err)
					require.InDeltaSlice(t, p.SITK.Direction, g.Direction, 1e-6, what)
					require.Equal(t, p.SITK.Origin, g.Origin, what)
				}
				back, q, err := reader.ReadSeg(out)
				require.NoError(t, err)
				require.Equal(t, volume.Cast[float32](im.Pixels), volume.Cast[float32](back.Pixels), what)
				require.Equal(t, p.Spacing, q.Spacing, what)
			}
		}
	}
}

func TestLabelsAbove255AreNotWrappedAround(t *testing.T) {
	folder := t.TempDir()
	for _, class := range classes {
		reader, err := ForName(class)
		require.NoError(t, err)
		im, p, err := reader.Read([]string{filepath.Join(corpus, "sitk.nii.gz")})
		require.NoError(t, err)
		seg := &volume.Image{Shape: im.Shape, Pixels: make(volume.Slice[int16], volume.Numel(im.Shape))}
		seg.Pixels.(volume.Slice[int16])[7] = 300
		path := filepath.Join(folder, class+".nii.gz")
		require.NoError(t, reader.WriteSeg(path, seg, p))
		back, _, err := reader.ReadSeg(path)
		require.NoError(t, err)
		require.Equal(t, "uint16", back.Pixels.Type())
		require.Equal(t, volume.Slice[uint16](volume.Cast[uint16](seg.Pixels)), back.Pixels)
		seg.Pixels.(volume.Slice[int16])[7] = -1
		require.ErrorContains(t, reader.WriteSeg(path, seg, p), "labels from -1 to 0, expected 0 to 65535")
	}
}

func TestWrongPropertiesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.nii.gz")
	seg := pattern([4]int{1, 2, 2, 2})
	for _, class := range classes {
		reader, err := ForName(class)
		require.NoError(t, err)
		require.ErrorContains(t, reader.WriteSeg(path, seg, &Properties{}), "the properties were read by another class than "+class)
		require.NoFileExists(t, path)
	}
}

func TestLabelsWithAFractionAreRefused(t *testing.T) {
	reader, err := ForName("SimpleITKIO")
	require.NoError(t, err)
	im, p, err := reader.Read([]string{filepath.Join(corpus, "sitk.nii.gz")})
	require.NoError(t, err)
	seg := &volume.Image{Shape: im.Shape, Pixels: slices.Repeat(volume.Slice[float32]{1.5}, volume.Numel(im.Shape))}
	err = reader.WriteSeg(filepath.Join(t.TempDir(), "a.nii.gz"), seg, p)
	require.ErrorContains(t, err, "expected whole numbers")
	require.True(t, strings.Contains(err.Error(), "a.nii.gz"))
}

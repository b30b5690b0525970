package images

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// .mha, .mhd, .nrrd and .nhdr files are read as nnU-Net's SimpleITKIO does, which it chooses for .mha
// and .nrrd, and labels come back with the geometry of their image.
func TestReadsMetaImageAndNRRDAsNnUNet(t *testing.T) {
	readsAsNnUNet(t, "../../testdata/golden/meta", ".mha", 70)
	readsAsNnUNet(t, "../../testdata/golden/nrrd", ".nrrd", 200)
}

func readsAsNnUNet(t *testing.T, folder, ending string, least int) {
	text, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	require.NoError(t, err)
	var expected map[string]struct {
		NnUNet *struct {
			Shape   []int
			Spacing []float64
			SHA256  string
		}
	}
	require.NoError(t, json.Unmarshal(text, &expected))
	read := 0
	for name, want := range expected {
		if want.NnUNet == nil || strings.HasPrefix(name, "differs-") ||
			strings.HasPrefix(name, "pynrrd-ascii") && strings.HasSuffix(name, "int64.nrrd") {
			continue // as the tests of the format say
		}
		path := filepath.Join(folder, name)
		r, err := ForName("SimpleITKIO")
		if filepath.Ext(name) == ending {
			r, err = Choose(ending, path)
		}
		require.NoError(t, err)
		require.Equal(t, "SimpleITKIO", r.Name())
		im, p, err := r.Read([]string{path})
		require.NoError(t, err)
		require.Equal(t, want.NnUNet.Shape, im.Shape[:], name)
		require.Equal(t, want.NnUNet.Spacing, p.Spacing, name)
		require.Equal(t, want.NnUNet.SHA256, digest(t, volume.Cast[float32](im.Pixels)), name)
		read++
		if len(p.SITK.Spacing) == 4 {
			continue // nnU-Net writes no labels of four axes
		}
		seg := *im
		seg.Pixels = make(volume.Slice[uint8], im.Pixels.Len())
		out := filepath.Join(t.TempDir(), "seg"+ending)
		require.NoError(t, r.WriteSeg(out, &seg, p))
		again, q, err := r.ReadSeg(out)
		require.NoError(t, err)
		require.Equal(t, p.SITK.Origin, q.SITK.Origin, name)
		// A NRRD has the product of spacing and direction: their last bits may differ, as with ITK.
		require.InDeltaSlice(t, p.SITK.Spacing, q.SITK.Spacing, 1e-14, name)
		require.InDeltaSlice(t, p.SITK.Direction, q.SITK.Direction, 1e-14, name)
		require.Equal(t, seg.Pixels, again.Pixels)
	}
	require.Greater(t, read, least)
}

// compareSegmentations lets SimpleITKIO write the labels of pattern for each source, and compares its
// file with ours: what SimpleITK reads, to the bit, and the header but for the compressed length.
const compareSegmentations = `
import contextlib, glob, io, os, re, sys
import numpy as np, SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
sources, ours = sys.argv[1:]
def head(path):
    b = open(path, "rb").read()
    end = b"\n\n" if b.startswith(b"NRRD") else b"ElementDataFile"
    # ITK drops the sign of some zeros.
    return re.sub(rb"CompressedDataSize = \d+|-(?=0[ ,)\n])", b"", b[:b.index(end)])
n = 0
for path in sorted(glob.glob(f"{ours}/*")):
    name = os.path.basename(path)
    with contextlib.redirect_stdout(io.StringIO()):
        a, props = SimpleITKIO().read_images((f"{sources}/{name}",))
    a = a[0]
    seg = (np.arange(a.size) * 7 % 11 % 5).astype(np.uint8).reshape(a.shape)
    ref = f"{ours}/ref_{name}"
    SimpleITKIO().write_seg(seg, ref, props)
    x, y = sitk.ReadImage(path), sitk.ReadImage(ref)
    assert x.GetPixelID() == y.GetPixelID() == sitk.sitkUInt8, name
    assert np.array_equal(sitk.GetArrayFromImage(x), sitk.GetArrayFromImage(y)), name
    for f in "GetSpacing", "GetOrigin", "GetDirection":
        assert getattr(x, f)() == getattr(y, f)(), (name, f)
    assert head(path) == head(ref), (name, head(path), head(ref))
    n += 1
print(n)
`

func TestLiveLabelsOfMetaImageAndNRRDAreNnUNets(t *testing.T) {
	python := golden.Python(t)
	for _, f := range []struct{ script, ending string }{{"meta_corpus.py", ".mha"}, {"nrrd_corpus.py", ".nrrd"}} {
		sources, ours := t.TempDir(), t.TempDir()
		golden.Run(t, f.script, sources, "--random", "60", "--seed", "8")
		reader, err := Choose(f.ending, "")
		require.NoError(t, err)
		names, err := filepath.Glob(filepath.Join(sources, "*"+f.ending))
		require.NoError(t, err)
		n := 0
		for _, name := range names {
			im, p, err := reader.Read([]string{name})
			require.NoError(t, err)
			if len(p.SITK.Spacing) != 3 {
				continue // nnU-Net writes no labels of four axes
			}
			n++
			require.NoError(t, reader.WriteSeg(filepath.Join(ours, filepath.Base(name)), pattern(im.Shape), p))
		}
		require.Greater(t, n, 5)
		out, err := exec.Command(python, "-c", compareSegmentations, sources, ours).CombinedOutput()
		require.NoError(t, err, tail(out))
	}
}

// One value for each pixel: nnU-Net would take the slices of a file of vectors for channels.
func TestPixelVectorsAreRefused(t *testing.T) {
	for _, path := range []string{"nrrd/vector.nrrd", "nrrd/list-last.nrrd", "meta/differs-channels.mha"} {
		reader, err := ForName("SimpleITKIO")
		require.NoError(t, err)
		_, _, err = reader.Read([]string{filepath.Join("../../testdata/golden", path)})
		require.ErrorContains(t, err, "store one channel per file")
	}
}

package images

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

// .mha and .mhd files are read as nnU-Net's SimpleITKIO does, which it chooses for .mha, and labels
// come back with the geometry of their image.
func TestReadsMetaImagesAsNnUNet(t *testing.T) {
	text, err := os.ReadFile("../../testdata/golden/meta/expected.json")
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
		if want.NnUNet == nil || strings.HasPrefix(name, "differs-") {
			continue
		}
		path := filepath.Join("../../testdata/golden/meta", name)
		r, err := ForName("SimpleITKIO")
		if filepath.Ext(name) == ".mha" {
			r, err = Choose(".mha", path)
		}
		require.NoError(t, err)
		require.Equal(t, "SimpleITKIO", r.Name())
		im, p, err := r.Read([]string{path})
		require.NoError(t, err)
		require.Equal(t, want.NnUNet.Shape, im.Shape[:], name)
		require.Equal(t, want.NnUNet.Spacing, p.Spacing, name)
		require.Equal(t, want.NnUNet.SHA256, digest(t, volume.Cast[float32](im.Pixels)), name)
		read++
		if im.Shape[0] > 1 {
			continue // nnU-Net writes no labels of four axes
		}
		seg := *im
		seg.Pixels = make(volume.Slice[uint8], im.Pixels.Len())
		out := filepath.Join(t.TempDir(), "seg.mha")
		require.NoError(t, r.WriteSeg(out, &seg, p))
		again, q, err := r.ReadSeg(out)
		require.NoError(t, err)
		require.Equal(t, p.SITK, q.SITK, name)
		require.Equal(t, seg.Pixels, again.Pixels)
	}
	require.Greater(t, read, 60)
}

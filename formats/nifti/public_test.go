package nifti

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// Images from public packages: stored pixels and affine as read by nibabel, values and geometry as
// read by SimpleITK.
func TestPublicFilesAreReadAsNibabelAndSimpleITKReadThem(t *testing.T) {
	hexes := func(v []float64) []string {
		out := []string{}
		for _, x := range v {
			out = append(out, strconv.FormatFloat(x, 'g', -1, 64))
		}
		return out
	}
	parsed := func(v []string) []string { // Python's float.hex is not Go's
		var x []float64
		for _, text := range v {
			f, err := strconv.ParseFloat(text, 64)
			require.NoError(t, err)
			x = append(x, f)
		}
		return hexes(x)
	}
	sum := func(pixels volume.Pixels) string {
		s := sha256.Sum256(pixels.Bytes())
		return hex.EncodeToString(s[:])
	}
	golden.Public(t, []string{"nifti"}, func(t *testing.T, p golden.PublicFile) {
		f, err := Read(p.Path)
		if !p.Refusals(t, err) {
			return
		}
		var want struct {
			Shape  []int
			DType  string
			Affine []string
			SHA256 string
			ITK    *struct {
				Size                       []int
				DType, SHA256              string
				Spacing, Origin, Direction []string
			}
			Refused string `json:"itk_refused"`
		}
		require.NoError(t, json.Unmarshal(p.Read, &want))
		require.Equal(t, want.Shape, f.Dim)
		require.Equal(t, want.DType, f.Type)
		require.Equal(t, want.SHA256, sum(f.Pixels), "stored pixels")
		affine, err := f.Affine()
		require.NoError(t, err)
		require.Equal(t, parsed(want.Affine),
			hexes(slices.Concat(affine[0][:], affine[1][:], affine[2][:], affine[3][:])))
		im, g, err := f.Image()
		if want.ITK == nil {
			t.Logf("only SimpleITK refuses the geometry or the pixels: %s; lntorch: %v",
				want.Refused, err)
			return
		}
		require.NoError(t, err, "SimpleITK reads this file")
		require.Equal(t, want.ITK.DType, im.Pixels.Type())
		require.Equal(t, want.ITK.SHA256, sum(im.Pixels), "values")
		require.Equal(t, parsed(want.ITK.Spacing), hexes(g.Spacing))
		require.Equal(t, parsed(want.ITK.Origin), hexes(g.Origin))
		require.Equal(t, parsed(want.ITK.Direction), hexes(g.Direction))
	})
}

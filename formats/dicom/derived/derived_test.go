package derived_test

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/derived"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/volume"
)

const corpus = "../../../testdata/golden"

func open(t *testing.T, path string) *derived.Series {
	t.Helper()
	x, err := series.Find(filepath.Join(corpus, path), 0)
	require.NoError(t, err)
	stack, err := x.Choose("")
	require.NoError(t, err)
	s, err := derived.From(stack)
	require.NoError(t, err)
	return s
}

// permutations of three axes.
var permutations = [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}

// A label map whose axes are in any order and lead anywhere comes to the grid of the series. The
// voxel of the map at a place is made that of the series at the same place.
func TestPlaceTakesAxesInAnyOrder(t *testing.T) {
	for _, name := range []string{"dicom/rotated.zip", "dicom/sagittal.zip", "dicom/one-slice.zip",
		"dicom_objects/oblique.zip", "dicom_objects/enhanced.zip"} {
		s := open(t, name)
		size := s.Grid.Size
		want := make([]uint16, s.Grid.Voxels())
		for i := range want {
			want[i] = uint16(i)
		}
		for _, axis := range permutations { // axis of the series that each axis of the map follows
			for flips := range 8 {
				im := mapOf(s, axis, flips)
				got, err := s.Place(im)
				require.NoError(t, err, "%s: %v, flips %03b, size %v", name, axis, flips, size)
				require.Equal(t, want, got, "%s: %v, flips %03b, size %v", name, axis, flips, size)
			}
		}
	}
}

// mapOf is a map whose voxels are the indices of the series' voxels at their place.
func mapOf(s *derived.Series, axis [3]int, flips int) *volume.Image {
	var size [3]int
	var first [3]float64
	itk := s.Grid.ITK
	im := &volume.Image{}
	for k, a := range axis {
		size[k] = s.Grid.Size[a]
		sign := 1.0
		if flips>>k&1 == 1 {
			sign = -1
			first[a] = float64(size[k] - 1)
		}
		im.Spacing[2-k] = itk.Spacing[a]
		for i := range 3 {
			im.DirectionXYZ[3*i+k] = sign * itk.Direction[3*i+a]
		}
	}
	im.OriginXYZ = s.Grid.Place(first)
	im.Shape = [4]int{1, size[2], size[1], size[0]}
	pixels := make(volume.Slice[uint16], 0, s.Grid.Voxels())
	for c := range size[2] {
		for b := range size[1] {
			for a := range size[0] {
				var at [3]int
				for k, index := range [3]int{a, b, c} {
					if flips>>k&1 == 1 {
						index = size[k] - 1 - index
					}
					at[axis[k]] = index
				}
				pixels = append(pixels, uint16((at[2]*s.Grid.Size[1]+at[1])*s.Grid.Size[0]+at[0]))
			}
		}
	}
	im.Pixels = pixels
	return im
}

// 0.01 voxel off is the most, at any corner.
func TestPlaceRefusesWhatIsOffTheGrid(t *testing.T) {
	s := open(t, "dicom/rotated.zip")
	itk := s.Grid.ITK
	move := func(voxels float64, axis int) *volume.Image {
		im := mapOf(s, [3]int{2, 0, 1}, 5)
		for i := range 3 {
			im.OriginXYZ[i] += voxels * itk.Spacing[axis] * itk.Direction[3*i+axis]
		}
		return im
	}
	for axis := range 3 {
		_, err := s.Place(move(0.0099, axis))
		require.NoError(t, err)
		_, err = s.Place(move(-0.0101, axis))
		require.ErrorContains(t, err, "does not lie on the grid of the series: it has 5 × 9 × 6 voxels")
		_, err = s.Place(move(1, axis))
		require.Error(t, err)
		// a spacing that is wrong by 0.011 voxel at the far end
		im := move(0, axis)
		im.Spacing[axis] *= 1 + 0.011/float64(im.Shape[1+axis]-1)
		_, err = s.Place(im)
		require.Error(t, err)
	}
	im := move(0, 0)
	im.DirectionXYZ[0] += 0.01
	_, err := s.Place(im)
	require.Error(t, err)
	im = move(0, 0)
	im.DirectionXYZ = [9]float64{}
	_, err = s.Place(im)
	require.Error(t, err)
	im = move(0, 0)
	im.Pixels, err = volume.Convert(im.Pixels, "float32", false)
	require.NoError(t, err)
	_, err = s.Place(im)
	require.NoError(t, err)
	for _, bad := range []float32{0.5, -1, 65536} {
		im.Pixels.(volume.Slice[float32])[3] = bad
		_, err = s.Place(im)
		require.ErrorContains(t, err, "the label map: ")
	}
}

// Slices that are jittered lie where they lie: a contour's points are in the plane of the slice, at
// the pixels of the grid.
func TestPointsLieInThePlaneOfTheSlice(t *testing.T) {
	s := open(t, "dicom/jitter.zip")
	random := rand.New(rand.NewPCG(1, 1))
	moved := false
	for z := range s.Slices {
		x, y := random.Float64()*8, random.Float64()*5
		voxel := s.Grid.Voxel(s.Point(x, y, z))
		require.InDelta(t, x, voxel[0], 1e-9)
		require.InDelta(t, y, voxel[1], 1e-9)
		require.InDelta(t, s.Grid.Voxel(s.Slices[z].Position)[2], voxel[2], 1e-9)
		moved = moved || voxel[2] < float64(z)-1e-3 || voxel[2] > float64(z)+1e-3
	}
	require.True(t, moved)
}

// Names are texts of 1 to 64 characters (LO).
func TestCheckName(t *testing.T) {
	for _, name := range []string{"LN", "Lymph node 12", "Milz, groß"} {
		require.NoError(t, derived.CheckName(name))
	}
	for _, name := range []string{"", " a", "a ", "a\\b", "a\nb", "\xff", string(make([]byte, 3)),
		"12345678901234567890123456789012345678901234567890123456789012345"} {
		require.Error(t, derived.CheckName(name), "%q", name)
	}
}

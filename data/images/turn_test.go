package images

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

// every is all 48 orientations.
func every() (list []string) {
	sides := []string{"RL", "AP", "SI"}
	for a := range 3 {
		for b := range 3 {
			for c := range 3 {
				if a == b || b == c || a == c {
					continue
				}
				for i := range 8 {
					list = append(list, string([]byte{sides[a][i&1], sides[b][i>>1&1], sides[c][i>>2]}))
				}
			}
		}
	}
	return list
}

// direction is that of an orientation, by the meaning of its letters in LPS.
func direction(letters string) (d [9]float64) {
	for j := range 3 {
		for i, sides := range []string{"LR", "PA", "SI"} {
			switch letters[j] {
			case sides[0]:
				d[3*i+j] = 1
			case sides[1]:
				d[3*i+j] = -1
			}
		}
	}
	return d
}

// A voxel keeps its value and its place in the patient through every turn, in each channel.
func TestTurnsLeaveVoxelsWhereTheyAre(t *testing.T) {
	require.Len(t, every(), 48)
	im := &volume.Image{Shape: [4]int{2, 2, 3, 4}}
	im.Geometry = volume.Geometry{Spacing: [3]float64{5, 2, 1}, OriginXYZ: [3]float64{10, -20, 30}}
	pixels := make(volume.Slice[int16], 48)
	for i := range pixels {
		pixels[i] = int16(i)
	}
	im.Pixels = pixels
	type voxel struct {
		channel int
		place   [3]float64
	}
	places := func(im *volume.Image) map[voxel]any {
		found := map[voxel]any{}
		i := 0
		for c := range im.Shape[0] {
			for z := range im.Shape[1] {
				for y := range im.Shape[2] {
					for x := range im.Shape[3] {
						at := im.OriginXYZ
						for j, n := range []int{x, y, z} {
							for k := range 3 {
								at[k] += im.DirectionXYZ[3*k+j] * im.Spacing[2-j] * float64(n)
							}
						}
						found[voxel{c, at}] = im.Pixels.Value(i)
						i++
					}
				}
			}
		}
		return found
	}
	for _, from := range []string{"LPS", "RAS", "PIR", "SLA"} {
		im.DirectionXYZ = direction(from)
		name, err := Orientation(im.DirectionXYZ)
		require.NoError(t, err)
		require.Equal(t, from, name)
		want := places(im)
		require.Len(t, want, 48)
		for _, to := range every() {
			turn, err := NewTurn(from, to)
			require.NoError(t, err)
			require.Equal(t, from == to, turn.None())
			got := turn.Apply(im)
			require.Equal(t, direction(to), got.DirectionXYZ, "%s to %s", from, to)
			require.Equal(t, want, places(got), "%s to %s", from, to)
			require.Equal(t, [3]int(got.Shape[1:]), Size(turn, [3]int(im.Shape[1:])))
			require.Equal(t, got.Spacing, Size(turn, im.Spacing))
			back := turn.Inverse().Apply(got)
			require.True(t, slices.Equal(pixels, back.Pixels.(volume.Slice[int16])), "%s to %s", from, to)
			require.Equal(t, im.Geometry, back.Geometry)
		}
	}
	require.True(t, Turn{}.None())
	require.Same(t, im, Turn{}.Inverse().Apply(im))
	require.Equal(t, im.Spacing, Size(Turn{}, im.Spacing))
	for _, wrong := range []string{"", "LP", "LPSA", "LLS", "lps", "XYZ"} {
		_, err := NewTurn(wrong, "RAS")
		require.EqualError(t, err, fmt.Sprintf("orientation %q: expected three letters, one each of R or L, A or P, S or I", wrong))
	}
}

package labels

import (
	"errors"
	"fmt"
	"math"

	"github.com/lntorch/lntorch/volume"
)

// A Vector is a place or a direction, LPS, mm, or in voxels x, y, z.
type Vector = [3]float64

// Dot is the scalar product.
func Dot(a, b Vector) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }

// Sub is a - b.
func Sub(a, b Vector) Vector { return Vector{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }

// Along is a + k·b.
func Along(a Vector, k float64, b Vector) Vector {
	return Vector{a[0] + k*b[0], a[1] + k*b[1], a[2] + k*b[2]}
}

// Unit is a vector of length 1 in the direction of a.
func Unit(a Vector) Vector {
	n := math.Sqrt(Dot(a, a))
	return Vector{a[0] / n, a[1] / n, a[2] / n}
}

// A Grid is where the voxels of an image lie.
type Grid struct {
	Size    [3]int      // x, y, z
	ITK     *volume.ITK // of three axes
	step    [3]Vector   // from a voxel to the next one along x, y, z
	inverse [3]Vector   // rows of the inverse of the matrix with the columns step
}

// NewGrid returns the grid of an image with these sizes (x, y, z, …) and this geometry. Axes after z
// are left out. It fails if there are fewer than three, or if they do not span the space.
func NewGrid(size []int, g *volume.ITK) (*Grid, error) {
	n := len(g.Spacing)
	if n < 3 || len(size) < 3 {
		return nil, fmt.Errorf("found an image of %d axes, expected x, y and z", n)
	}
	grid := &Grid{Size: [3]int(size[:3]), ITK: &volume.ITK{Spacing: g.Spacing[:3],
		Origin: g.Origin[:3], Direction: make([]float64, 9)}}
	for i := range 3 {
		for k := range 3 {
			d := g.Direction[n*i+k]
			grid.ITK.Direction[3*i+k] = d
			grid.step[k][i] = d * g.Spacing[k]
		}
	}
	s := grid.step
	det := Dot(s[0], Cross(s[1], s[2]))
	if !(math.Abs(det) > 0) || math.IsInf(det, 0) {
		return nil, errors.New("the axes of the image do not span the space")
	}
	for k := range 3 {
		c := Cross(s[(k+1)%3], s[(k+2)%3])
		grid.inverse[k] = Vector{c[0] / det, c[1] / det, c[2] / det}
	}
	return grid, nil
}

// Cross is the vector product.
func Cross(a, b Vector) Vector {
	return Vector{a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]}
}

// Voxels is the number of voxels.
func (g *Grid) Voxels() int { return g.Size[0] * g.Size[1] * g.Size[2] }

// Place returns where a voxel (x, y, z) lies.
func (g *Grid) Place(voxel Vector) Vector {
	p := Vector(g.ITK.Origin)
	for k := range 3 {
		p = Along(p, voxel[k], g.step[k])
	}
	return p
}

// Voxel returns the voxel (x, y, z) at a place: whole numbers at the centres of voxels.
func (g *Grid) Voxel(p Vector) Vector { return g.Steps(Sub(p, Vector(g.ITK.Origin))) }

// Steps returns a way in mm as steps from voxel to voxel.
func (g *Grid) Steps(way Vector) Vector {
	return Vector{Dot(g.inverse[0], way), Dot(g.inverse[1], way), Dot(g.inverse[2], way)}
}

// String describes the grid for messages.
func (g *Grid) String() string {
	i := g.ITK
	return fmt.Sprintf("%d × %d × %d voxels of %.5g × %.5g × %.5g mm from (%.6g, %.6g, %.6g) "+
		"along %s", g.Size[0], g.Size[1], g.Size[2], i.Spacing[0], i.Spacing[1], i.Spacing[2],
		i.Origin[0], i.Origin[1], i.Origin[2], Directions(g.step[0], g.step[1], g.step[2]))
}

// Directions describes directions for messages.
func Directions(all ...Vector) string {
	text := ""
	for i, v := range all {
		if i > 0 {
			text += ", "
		}
		n := math.Sqrt(Dot(v, v))
		text += fmt.Sprintf("(%.4g, %.4g, %.4g)", v[0]/n, v[1]/n, v[2]/n)
	}
	return text
}

package images

import (
	"fmt"
	"math"
	"strings"

	"github.com/lntorch/lntorch/volume"
)

// Orientation names where the axes x, y and z of an array lead, by the patient's sides: "LPS" for
// left, posterior, superior, to which they lead as nearly as axis-aligned axes can. direction is
// that of volume.Geometry.
func Orientation(direction [9]float64) (string, error) {
	var affine [4][4]float64
	for i := range 3 {
		for j := range 3 {
			affine[i][j] = direction[3*i+j]
		}
		if i < 2 { // LPS to RAS
			for j := range 3 {
				affine[i][j] = -affine[i][j]
			}
		}
	}
	o, err := orient(affine)
	if err != nil {
		return "", fmt.Errorf("direction %v is singular, expected three axes that differ", direction)
	}
	var letters string
	for j, axis := range o.axis {
		sides := "RAS"
		if o.flip[j] {
			sides = "LPI"
		}
		letters += sides[axis : axis+1]
	}
	return letters, nil
}

// Turn brings images from one orientation to another, by exchanging and reversing axes. The zero
// Turn leaves them as they are.
type Turn struct{ o orientation }

// NewTurn returns the turn between two orientations, such as "LPS" and "RAS".
func NewTurn(from, to string) (Turn, error) {
	a, err := parseOrientation(from)
	if err != nil {
		return Turn{}, err
	}
	b, err := parseOrientation(to)
	if err != nil {
		return Turn{}, err
	}
	var t Turn
	back := b.inverse()
	for j, axis := range a.axis {
		t.o.axis[j] = back.axis[axis]
		t.o.flip[j] = a.flip[j] != back.flip[axis]
	}
	return t, nil
}

// parseOrientation reads letters as Orientation gives them: the turn to RAS.
func parseOrientation(letters string) (orientation, error) {
	fail := fmt.Errorf("orientation %q: expected three letters, one each of R or L, A or P, S or I",
		letters)
	if len(letters) != 3 {
		return orientation{}, fail
	}
	var o orientation
	var seen [3]bool
	for j := range 3 {
		axis, flip := strings.IndexByte("RAS", letters[j]), false
		if axis < 0 {
			axis, flip = strings.IndexByte("LPI", letters[j]), true
		}
		if axis < 0 || seen[axis] {
			return orientation{}, fail
		}
		seen[axis] = true
		o.axis[j], o.flip[j] = axis, flip
	}
	return o, nil
}

// None reports whether the turn leaves images as they are.
func (t Turn) None() bool { return t.o == straight || t.o == orientation{} }

// Inverse returns the turn back.
func (t Turn) Inverse() Turn {
	if t.None() {
		return t
	}
	return Turn{t.o.inverse()}
}

// Apply returns the image with its axes turned and its geometry adapted: each voxel stays where it
// is in the patient.
func (t Turn) Apply(im *volume.Image) *volume.Image {
	if t.None() {
		return im
	}
	voxels := im.Shape[1] * im.Shape[2] * im.Shape[3]
	var channels []*volume.Image
	for c := range im.Shape[0] {
		one := &volume.Image{Shape: im.Shape}
		one.Shape[0] = 1
		one.Pixels = im.Pixels.Make(voxels)
		copy(one.Pixels.Bytes(), im.Pixels.Bytes()[c*voxels*im.Pixels.Size():])
		channels = append(channels, t.o.apply(one))
	}
	out := stack(channels)
	out.Memory = [3]int{}
	g := im.Geometry
	for j, k := range t.o.axis { // of x, y, z
		out.Spacing[2-k] = g.Spacing[2-j]
		sign := 1.0
		if t.o.flip[j] {
			sign = -1
		}
		for i := range 3 {
			d := g.DirectionXYZ[3*i+j]
			out.DirectionXYZ[3*i+k] = sign * d
			if t.o.flip[j] {
				g.OriginXYZ[i] += d * g.Spacing[2-j] * float64(im.Shape[3-j]-1)
			}
		}
	}
	out.OriginXYZ = g.OriginXYZ
	return out
}

// Size returns the sizes or spacings (z, y, x) of an image after the turn.
func Size[T int | float64](t Turn, zyx [3]T) [3]T {
	if t.None() {
		return zyx
	}
	var out [3]T
	for j, k := range t.o.axis {
		out[2-k] = zyx[2-j]
	}
	return out
}

// Orientation names where the axes of the image lead as it is stored in its file.
func (p *Properties) Orientation() (string, error) {
	var direction [9]float64
	switch {
	case p.SITK != nil:
		n := len(p.SITK.Spacing)
		for i := range 3 {
			for j := range 3 {
				switch {
				case i < n && j < n:
					direction[3*i+j] = p.SITK.Direction[n*i+j]
				case i == j:
					direction[3*i+j] = 1
				}
			}
		}
	case p.Nibabel != nil:
		direction = geometry(p.Nibabel.Original).DirectionXYZ
	}
	for _, d := range direction {
		if math.IsNaN(d) || math.IsInf(d, 0) {
			return "", fmt.Errorf("direction %v is not finite", direction)
		}
	}
	return Orientation(direction)
}

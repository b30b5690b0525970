package nifti

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/volume"
)

// unitScale is how many mm the header's unit of length and how many seconds its unit of time are, 1 where it names none.
func (h *Header) unitScale() (space, time float64) {
	space, time = 1, 1
	switch h.Units & 7 {
	case 1: // metre
		space = 1e3
	case 3: // micron
		space = 1e-3
	}
	switch h.Units & 0x38 {
	case 16:
		time = 1e-3
	case 24:
		time = 1e-6
	}
	return space, time
}

// axes is the number of axes without those of one voxel behind the third.
func (h *Header) axes() int {
	n := len(h.Dim)
	for n > 3 && h.Dim[n-1] == 1 {
		n--
	}
	return n
}

// pixdims are the distances along the axes with what cannot be one replaced by 1, as nifti_clib does.
func (h *Header) pixdims() [8]float64 {
	p := h.PixDim
	for i := 1; i <= len(h.Dim); i++ {
		if p[i] == 0 || !finite(p[i]) {
			p[i] = 1
		}
	}
	return p
}

// ITK gives the geometry that ITK 5.4 finds in the file.
// Source: itkNiftiImageIO.cxx, ReadImageInformation and SetImageIOOrientationFromNIfTI; itkImageFileReader.hxx.
func (h *Header) ITK() (*volume.ITK, error) {
	n := h.axes()
	if n < 2 || n > 4 {
		return nil, fmt.Errorf("found %d axes of %v voxels, expected 2, 3 or 4", n, h.Dim)
	}
	space, time := h.unitScale()
	pixdim := h.pixdims()
	g := &volume.ITK{Spacing: make([]float64, n), Origin: make([]float64, n), Direction: make([]float64, n*n)}
	for i := range n {
		g.Direction[i*n+i] = 1
		g.Spacing[i] = pixdim[i+1] * space
	}
	if n == 4 {
		g.Spacing[3] = pixdim[4] * time
	}
	if h.QFormCode > 0 || h.SFormCode > 0 {
		m, err := h.choose(pixdim)
		if err != nil {
			return nil, err
		}
		for i := range min(n, 3) {
			sign := 1.0
			if i < 2 {
				sign = -1 // RAS to LPS
			}
			g.Origin[i] = sign * m[i][3] * space
			for j := range min(n, 3) {
				g.Direction[i*n+j] = m[i][j] * sign
			}
		}
		if n == 4 {
			g.Origin[3] = fixed(h.TOffset) * time
		}
		for j := range min(n, 3) {
			sum := 0.0
			for i := range min(n, 3) {
				sum += float64(g.Direction[i*n+j] * g.Direction[i*n+j])
			}
			if sum == 0 {
				continue
			}
			for i := range min(n, 3) {
				g.Direction[i*n+j] /= math.Sqrt(sum)
			}
		}
	}
	for j, s := range g.Spacing {
		if s < 0 {
			g.Spacing[j] = -s
			for i := range n {
				g.Direction[i*n+j] *= -1
			}
		}
	}
	if n == 2 && g.Direction[0]*g.Direction[3] == g.Direction[1]*g.Direction[2] {
		return nil, errors.New("the directions of the two axes of the image lie in one line, seen along z, as those of a sagittal or coronal slice may: store it as a volume of one slice")
	}
	positiveZeros(g)
	for _, v := range append(append(g.Spacing[:n:n], g.Origin...), g.Direction...) {
		if !finite(v) {
			return nil, fmt.Errorf("the geometry is not finite: spacing %v, origin %v, direction %v", g.Spacing, g.Origin, g.Direction)
		}
	}
	return g, nil
}

// positiveZeros makes zeros +0 where ITK's image keeps the ones that it began with: off the diagonal of the directions, and
// the origin if it is zero altogether. Source: itkImageBase.hxx, SetDirection, which sets what is unequal.
func positiveZeros(g *volume.ITK) {
	n := len(g.Spacing)
	for k, v := range g.Direction {
		if v == 0 && k%(n+1) != 0 {
			g.Direction[k] = 0
		}
	}
	if !slices.ContainsFunc(g.Origin, func(v float64) bool { return v != 0 }) {
		clear(g.Origin)
	}
}

// choose gives the affine that ITK goes by, of qform and sform. At least one of them has a code.
func (h *Header) choose(pixdim [8]float64) (matrix, error) {
	q := h.qform(pixdim)
	var s matrix // zero without a code, its last row too
	if h.SFormCode > 0 {
		s = matrix{h.SRow[0], h.SRow[1], h.SRow[2], {0, 0, 0, 1}}
	}
	sform := similar(s, q)
	if !sform || h.SFormCode > 0 {
		if s.affine() && s.orthogonal() {
			switch {
			case h.QFormCode <= 0 && h.SFormCode > 0, h.SFormCode == 1:
				sform = true
			case h.QFormCode > 0 && h.SFormCode > 0:
				sform = verySimilar(s, q)
			}
		}
	}
	switch {
	case sform:
		return s, nil
	case h.QFormCode > 0:
		return q, nil
	}
	return s, errors.New("the axes of the sform are not at right angles, and there is no qform: ITK and nnU-Net cannot read this file either (\"ITK only supports orthonormal direction cosines\"). " +
		"Resample it, or store directions at right angles")
}

// matrix maps voxel indices (x, y, z, 1) to mm, RAS.
type matrix [4][4]float64

// qform is the affine of the quaternion, rounded to the precision of the file.
// Source: nifti1_io.c, nifti_convert_nhdr2nim and nifti_quatern_to_mat44.
func (h *Header) qform(pixdim [8]float64) matrix {
	round := func(v float64) float64 { return v }
	if h.Version == 1 {
		round = func(v float64) float64 { return float64(float32(v)) }
	}
	if h.QFormCode <= 0 {
		return matrix{{pixdim[1]}, {0, pixdim[2]}, {0, 0, pixdim[3]}, {0, 0, 0, 1}}
	}
	b, c, d := fixed(h.Quatern[0]), fixed(h.Quatern[1]), fixed(h.Quatern[2])
	a := 1 - (float64(b*b) + float64(c*c) + float64(d*d))
	if a < 1e-7 {
		a = 1 / math.Sqrt(float64(b*b)+float64(c*c)+float64(d*d))
		b, c, d, a = b*a, c*a, d*a, 0
	} else {
		a = math.Sqrt(a)
	}
	size := [3]float64{1, 1, 1}
	for i := range size {
		if pixdim[i+1] > 0 {
			size[i] = pixdim[i+1]
		}
	}
	if h.PixDim[0] < 0 {
		size[2] = -size[2]
	}
	r := matrix{
		{(float64(a*a) + float64(b*b) - float64(c*c) - float64(d*d)), 2 * (float64(b*c) - float64(a*d)), 2 * (float64(b*d) + float64(a*c)), fixed(h.QOffset[0])},
		{2 * (float64(b*c) + float64(a*d)), (float64(a*a) + float64(c*c) - float64(b*b) - float64(d*d)), 2 * (float64(c*d) - float64(a*b)), fixed(h.QOffset[1])},
		{2 * (float64(b*d) - float64(a*c)), 2 * (float64(c*d) + float64(a*b)), (float64(a*a) + float64(d*d) - float64(c*c) - float64(b*b)), fixed(h.QOffset[2])},
		{0, 0, 0, 1},
	}
	for i := range 3 {
		for j := range 3 {
			r[i][j] = round(r[i][j] * size[j])
		}
	}
	return r
}

// similar tells whether two affines are the same up to rounding.
func similar(a, b matrix) bool {
	moved, below := 0.0, 0.0
	for i := range 3 {
		for j := range 3 {
			if math.Abs(a[i][j]-b[i][j]) > 1e-5 {
				return false
			}
		}
		moved += math.Abs(a[i][3] - b[i][3])
	}
	moved += math.Abs(a[3][3] - b[3][3])
	for j := range 4 {
		below += math.Abs(a[3][j] - b[3][j])
	}
	return !(moved > 1e-7 || below > 1e-7)
}

// affine tells whether the matrix can be inverted and its last row is 0 0 0 1.
func (m matrix) affine() bool {
	return m[3] == [4]float64{0, 0, 0, 1} && math.Abs(m.determinant()) > 0
}

func (m matrix) determinant() float64 {
	return m[0][0]*(m[1][1]*m[2][2]-m[1][2]*m[2][1]) - m[0][1]*(m[1][0]*m[2][2]-m[1][2]*m[2][0]) + m[0][2]*(m[1][0]*m[2][1]-m[1][1]*m[2][0])
}

// orthogonal tells whether the columns are at right angles, to 1e-4 for columns of length 1.
func (m matrix) orthogonal() bool {
	var r [3][3]float32
	for j := range 3 {
		sum := float32(0)
		for i := range 3 {
			r[i][j] = float32(m[i][j])
			sum += r[i][j] * r[i][j]
		}
		if sum != 0 {
			f := 1 / math.Sqrt(float64(sum))
			for i := range 3 {
				r[i][j] = float32(f * float64(r[i][j]))
			}
		}
	}
	for i := range 3 {
		for j := range 3 {
			v := r[i][0]*r[j][0] + r[i][1]*r[j][1] + r[i][2]*r[j][2]
			if i == j {
				v--
			}
			if math.Abs(float64(v)) > 1e-4 {
				return false
			}
		}
	}
	return true
}

// verySimilar tells whether ITK finds two affines with columns at right angles to be the same.
// Compat: it compares what a singular value decomposition puts to the left, so that an axis that is reversed in one of
// the two, for instance, goes unnoticed.
func verySimilar(a, b matrix) bool {
	for i := range 3 {
		if math.Abs(float64(float32(a[i][3])-float32(b[i][3]))) > 1e-4 {
			return false
		}
	}
	va, ua := leftVectors(a)
	vb, ub := leftVectors(b)
	for i := range 3 {
		if math.Abs(float64(va[i]-vb[i])) > 1e-4 {
			return false
		}
		for j := range 3 {
			v := dot(ua[i][:], ub[j][:])
			if i == j {
				v--
			}
			if math.Abs(float64(v)) > 1e-4 {
				return false
			}
		}
	}
	return true
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// fixed is v, or 0 where it is no number.
func fixed(v float64) float64 {
	if !finite(v) {
		return 0
	}
	return v
}

// scale gives the file's scaling of pixels as ITK takes it, and whether there is one.
func (h *Header) scale() (slope, inter float64, scaled bool) {
	const epsilon = 0x1p-52
	slope, inter = fixed(h.Slope), fixed(h.Inter)
	if math.Abs(slope) < epsilon {
		slope = 1
	}
	return slope, inter, math.Abs(slope) > epsilon && (math.Abs(slope-1) > epsilon || math.Abs(inter) > epsilon)
}

// numbers is p, or a copy with 0 for what is no number where there is such.
func numbers[T float32 | float64](p volume.Slice[T]) volume.Slice[T] {
	no := func(v T) bool { return !finite(float64(v)) }
	first := slices.IndexFunc(p, no)
	if first < 0 {
		return p
	}
	p = slices.Clone(p)
	for i := first; i < len(p); i++ {
		if no(p[i]) {
			p[i] = 0
		}
	}
	return p
}

// Values are the pixels with the file's scaling applied, as ITK does: those of an integer type become float32, computed in
// double precision. Without a scaling they are the stored ones.
func (f *File) Values() volume.Pixels {
	slope, inter, scaled := f.scale()
	if !scaled {
		return f.Pixels
	}
	if p, ok := f.Pixels.(volume.Slice[float64]); ok {
		q := make(volume.Slice[float64], len(p))
		for i, v := range p {
			q[i] = float64(v*slope) + inter
		}
		return q
	}
	from := volume.Cast[float32](f.Pixels)
	q := make(volume.Slice[float32], len(from))
	for i, v := range from {
		q[i] = float32(float64(float64(v)*slope) + inter)
	}
	return q
}

// Image is the image as ITK reads it, with axes (t as c, z, y, x) and Values as pixels. An image of two axes is one slice of
// spacing 1.
// Compat: what is no number (NaN or infinite) is 0 before the scaling.
func (f *File) Image() (*volume.Image, *volume.ITK, error) {
	g, err := f.ITK()
	if err != nil {
		return nil, nil, err
	}
	if vectors[f.Intent] && len(f.Dim) > 4 && f.Dim[4] > 1 {
		return nil, nil, fmt.Errorf("found vectors of %d numbers, expected one number a pixel", f.Dim[4])
	}
	im := &volume.Image{Shape: f.shape()}
	n := len(g.Spacing)
	im.Geometry = volume.Geometry{Spacing: [3]float64{1, 1, 1}, DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	for i := range min(n, 3) {
		im.Spacing[2-i] = g.Spacing[i]
		im.OriginXYZ[i] = g.Origin[i]
		for j := range min(n, 3) {
			im.DirectionXYZ[3*i+j] = g.Direction[n*i+j]
		}
	}
	known := *f
	switch p := f.Pixels.(type) {
	case volume.Slice[float32]:
		known.Pixels = numbers(p)
	case volume.Slice[float64]:
		known.Pixels = numbers(p)
	}
	im.Pixels = known.Values()
	return im, g, nil
}

// vectors are the intents whose fifth axis ITK takes for the numbers of one pixel.
var vectors = map[int]bool{1005: true, 1006: true, 1007: true}

// shape is (c, z, y, x); further axes have one voxel.
func (h *Header) shape() [4]int {
	s := [4]int{1, 1, 1, 1}
	for i, d := range h.Dim[:min(len(h.Dim), 4)] {
		s[3-i] = d
	}
	return s
}

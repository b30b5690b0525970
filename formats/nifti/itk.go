package nifti

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/volume"
)

// unitScale returns the header's unit of length in mm and its unit of time in seconds, 1 if none is
// given.
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

// axes returns the number of axes, not counting trailing axes of size 1 after the third.
func (h *Header) axes() int {
	n := len(h.Dim)
	for n > 3 && h.Dim[n-1] == 1 {
		n--
	}
	return n
}

// pixdims returns the spacings along the axes, with invalid ones replaced by 1 as nifti_clib does.
func (h *Header) pixdims() [8]float64 {
	p := h.PixDim
	for i := 1; i <= len(h.Dim); i++ {
		if p[i] == 0 || !finite(p[i]) {
			p[i] = 1
		}
	}
	return p
}

// ITK returns the geometry that ITK 5.4 reads from the file.
// Source: itkNiftiImageIO.cxx, ReadImageInformation and SetImageIOOrientationFromNIfTI;
// itkImageFileReader.hxx.
func (h *Header) ITK() (*volume.ITK, error) {
	n := h.axes()
	if n < 2 || n > 4 {
		return nil, fmt.Errorf("found %d axes of %v voxels, expected 2, 3 or 4", n, h.Dim)
	}
	space, time := h.unitScale()
	pixdim := h.pixdims()
	g := &volume.ITK{Spacing: make([]float64, n), Origin: make([]float64, n),
		Direction: make([]float64, n*n)}
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
			g.Origin[3] = finiteOrZero(h.TOffset) * time
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
		return nil, errors.New("the directions of the two axes are parallel when projected along " +
			"z, as can happen for a sagittal or coronal slice: store the image as a volume of " +
			"one slice")
	}
	positiveZeros(g)
	for _, v := range append(append(g.Spacing[:n:n], g.Origin...), g.Direction...) {
		if !finite(v) {
			return nil, fmt.Errorf("the geometry is not finite: spacing %v, origin %v, direction "+
				"%v", g.Spacing, g.Origin, g.Direction)
		}
	}
	return g, nil
}

// positiveZeros makes zeros +0 where ITK's image keeps its initial ones: off the diagonal of the
// direction matrix, and in the origin if all of it is zero. Source: itkImageBase.hxx, SetDirection,
// which assigns only elements that differ.
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

// choose returns the affine that ITK uses, the qform or the sform. At least one of them has a
// nonzero code.
func (h *Header) choose(pixdim [8]float64) (matrix, error) {
	q := h.qform(pixdim)
	var s matrix // all zero without a code, including the last row
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
	return s, errors.New("the axes of the sform are not orthogonal, and there is no qform: ITK " +
		"and nnU-Net cannot read this file either (\"ITK only supports orthonormal direction " +
		"cosines\"). Resample it, or store orthogonal directions")
}

// matrix maps voxel indices (x, y, z, 1) to mm, RAS.
type matrix [4][4]float64

// qform returns the affine of the quaternion, rounded to float32 as in the file.
// Source: nifti1_io.c, nifti_convert_nhdr2nim and nifti_quatern_to_mat44.
func (h *Header) qform(pixdim [8]float64) matrix {
	round := func(v float64) float64 { return v }
	if h.Version == 1 {
		round = func(v float64) float64 { return float64(float32(v)) }
	}
	if h.QFormCode <= 0 {
		return matrix{{pixdim[1]}, {0, pixdim[2]}, {0, 0, pixdim[3]}, {0, 0, 0, 1}}
	}
	b, c, d := finiteOrZero(h.Quatern[0]), finiteOrZero(h.Quatern[1]), finiteOrZero(h.Quatern[2])
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
		{(float64(a*a) + float64(b*b) - float64(c*c) - float64(d*d)),
			2 * (float64(b*c) - float64(a*d)), 2 * (float64(b*d) + float64(a*c)),
			finiteOrZero(h.QOffset[0])},
		{2 * (float64(b*c) + float64(a*d)),
			(float64(a*a) + float64(c*c) - float64(b*b) - float64(d*d)),
			2 * (float64(c*d) - float64(a*b)), finiteOrZero(h.QOffset[1])},
		{2 * (float64(b*d) - float64(a*c)), 2 * (float64(c*d) + float64(a*b)),
			(float64(a*a) + float64(d*d) - float64(c*c) - float64(b*b)),
			finiteOrZero(h.QOffset[2])},
		{0, 0, 0, 1},
	}
	for i := range 3 {
		for j := range 3 {
			r[i][j] = round(r[i][j] * size[j])
		}
	}
	return r
}

// similar reports whether two affines are equal up to rounding.
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

// affine reports whether the matrix is invertible and its last row is 0 0 0 1.
func (m matrix) affine() bool {
	return m[3] == [4]float64{0, 0, 0, 1} && math.Abs(m.determinant()) > 0
}

func (m matrix) determinant() float64 {
	return m[0][0]*(m[1][1]*m[2][2]-m[1][2]*m[2][1]) - m[0][1]*(m[1][0]*m[2][2]-m[1][2]*m[2][0]) +
		m[0][2]*(m[1][0]*m[2][1]-m[1][1]*m[2][0])
}

// orthogonal reports whether the columns are orthogonal, to 1e-4 for columns of length 1.
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

// verySimilar reports whether ITK considers two affines with orthogonal columns equal.
// Compat: ITK compares the left singular vectors, so it does not notice an axis that is reversed in
// one of the two, for example.
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

// finiteOrZero returns v, or 0 if v is NaN or infinite.
func finiteOrZero(v float64) float64 {
	if !finite(v) {
		return 0
	}
	return v
}

// scale returns the file's pixel scaling as ITK interprets it, and whether there is one.
func (h *Header) scale() (slope, inter float64, scaled bool) {
	const epsilon = 0x1p-52
	slope, inter = finiteOrZero(h.Slope), finiteOrZero(h.Inter)
	if math.Abs(slope) < epsilon {
		slope = 1
	}
	return slope, inter, math.Abs(slope) > epsilon && (math.Abs(slope-1) > epsilon ||
		math.Abs(inter) > epsilon)
}

// zeroNonFinite returns p, or a copy in which NaN and infinite values are 0 if p has any.
func zeroNonFinite[T float32 | float64](p volume.Slice[T]) volume.Slice[T] {
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

// Values returns the pixels with the file's scaling applied as ITK does: integer pixels become
// float32, computed in double precision. Without a scaling they are the stored pixels.
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

// Image returns the image as ITK reads it, with axes (t as c, z, y, x) and Values as pixels. A
// two-dimensional image becomes one slice of spacing 1.
// Compat: NaN and infinite pixels are set to 0 before the scaling.
func (f *File) Image() (*volume.Image, *volume.ITK, error) {
	g, err := f.ITK()
	if err != nil {
		return nil, nil, err
	}
	if vectors[f.Intent] && len(f.Dim) > 4 && f.Dim[4] > 1 {
		return nil, nil, fmt.Errorf("found vector pixels of %d components, expected scalar pixels",
			f.Dim[4])
	}
	known := *f
	switch p := f.Pixels.(type) {
	case volume.Slice[float32]:
		known.Pixels = zeroNonFinite(p)
	case volume.Slice[float64]:
		known.Pixels = zeroNonFinite(p)
	}
	return g.Image(f.Dim, known.Values()), g, nil
}

// vectors lists the intent codes for which ITK reads the fifth axis as the components of a pixel.
var vectors = map[int]bool{1005: true, 1006: true, 1007: true}

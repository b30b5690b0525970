package nifti

import (
	"fmt"
	"math"
	"math/big"

	"github.com/lntorch/lntorch/volume"
)

// Affine returns the affine that nibabel uses: the sform if it has a code, else the qform if it has
// one, else the spacings with the origin at the image's centre. It maps voxel indices (x, y, z, 1)
// to mm, RAS.
// Source: nibabel 5.4, nifti1.py, get_best_affine; the quaternion is computed with a 64-bit
// mantissa, as there.
func (h *Header) Affine() ([4][4]float64, error) {
	code := func(c int) bool { return c >= 1 && c <= 5 }
	vox := h.Zooms()
	var m matrix
	switch {
	case code(h.SFormCode):
		m = matrix{h.SRow[0], h.SRow[1], h.SRow[2], {0, 0, 0, 1}}
	case code(h.QFormCode):
		var err error
		if m, err = h.quaternion(vox); err != nil {
			return m, err
		}
	default:
		shape := volume.Shape(h.Dim)
		for i := range 3 {
			if i == 0 {
				vox[i] = -vox[i]
			}
			m[i][i] = vox[i]
			m[i][3] = -(float64(shape[3-i]-1) / 2) * vox[i]
		}
		m[3][3] = 1
	}
	for i := range 3 {
		for j := range 4 {
			if !finite(m[i][j]) {
				return m, fmt.Errorf("the affine is not finite: %v", m)
			}
		}
	}
	return m, nil
}

// Zooms returns the spacings along the axes x, y and z as nibabel does.
func (h *Header) Zooms() [3]float64 {
	z := [3]float64(h.PixDim[1:4])
	for i, v := range z {
		z[i] = math.Abs(v)
		if v == 0 {
			z[i] = 1
		}
	}
	return z
}

func (h *Header) quaternion(vox [3]float64) (matrix, error) {
	threshold := 3 * 0x1p-23
	if h.Version == 2 {
		threshold = 3 * 0x1p-52
	}
	for _, v := range append(h.Quatern[:], append(vox[:], h.QOffset[:]...)...) {
		if !finite(v) {
			return matrix{}, fmt.Errorf("the qform is not finite: quaternion %v, spacings %v, "+
				"offset %v", h.Quatern, vox, h.QOffset)
		}
	}
	number := func(v float64) *big.Float { return new(big.Float).SetPrec(64).SetFloat64(v) }
	mul := func(a, b *big.Float) *big.Float { return number(0).Mul(a, b) }
	add := func(a, b *big.Float) *big.Float { return number(0).Add(a, b) }
	sub := func(a, b *big.Float) *big.Float { return number(0).Sub(a, b) }
	x, y, z := number(h.Quatern[0]), number(h.Quatern[1]), number(h.Quatern[2])
	w2 := sub(number(1), add(add(mul(x, x), mul(y, y)), mul(z, z)))
	w := number(0)
	if f, _ := w2.Float64(); math.Abs(f) >= threshold {
		if f < 0 {
			return matrix{}, fmt.Errorf("the quaternion %v of the qform is longer than 1",
				h.Quatern)
		}
		w.Sqrt(w2)
	}
	r := [3][3]*big.Float{}
	one, zero := number(1), number(0)
	nq := add(add(add(mul(w, w), mul(x, x)), mul(y, y)), mul(z, z))
	if f, _ := nq.Float64(); f < 0x1p-52 {
		r = [3][3]*big.Float{{one, zero, zero}, {zero, one, zero}, {zero, zero, one}}
	} else {
		s := number(0).Quo(number(2), nq)
		bx, by, bz := mul(x, s), mul(y, s), mul(z, s)
		wx, wy, wz := mul(w, bx), mul(w, by), mul(w, bz)
		xx, xy, xz := mul(x, bx), mul(x, by), mul(x, bz)
		yy, yz, zz := mul(y, by), mul(y, bz), mul(z, bz)
		r = [3][3]*big.Float{
			{sub(one, add(yy, zz)), sub(xy, wz), add(xz, wy)},
			{add(xy, wz), sub(one, add(xx, zz)), sub(yz, wx)},
			{sub(xz, wy), add(yz, wx), sub(one, add(xx, yy))},
		}
	}
	if h.PixDim[0] == -1 {
		vox[2] = -vox[2]
	}
	m := matrix{3: {0, 0, 0, 1}}
	for i := range 3 {
		for j := range 3 {
			m[i][j], _ = mul(r[i][j], number(vox[j])).Float64()
			m[i][j] += 0 // adding 0 turns -0 into +0
		}
		m[i][3] = h.QOffset[i]
	}
	return m, nil
}

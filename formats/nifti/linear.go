package nifti

import "math"

// mat33 is nifti_clib's 3×3 matrix of float32; its methods round where the library does.
type mat33 [3][3]float32

func (m mat33) transposed() mat33 {
	for i := range 3 {
		for j := range i {
			m[i][j], m[j][i] = m[j][i], m[i][j]
		}
	}
	return m
}

func (m mat33) wide() mat3 {
	var r mat3
	for i := range 3 {
		for j := range 3 {
			r[i][j] = float64(m[i][j])
		}
	}
	return r
}

// orthogonal returns the matrix with orthonormal rows nearest to m after normalising its rows.
// Source: nifti1_io.c, nifti_make_orthog_mat44.
func (m mat33) orthogonal() mat33 {
	for i := range 3 {
		val := float64(float32(float32(m[i][0]*m[i][0])+float32(m[i][1]*m[i][1])) +
			float32(m[i][2]*m[i][2]))
		switch {
		case val > 0:
			f := float32(1 / math.Sqrt(val))
			for j := range 3 {
				m[i][j] *= f
			}
		case i == 2:
			m[2][0] = float32(m[0][1]*m[1][2]) - float32(m[0][2]*m[1][1])
			m[2][1] = float32(m[0][2]*m[1][0]) - float32(m[0][0]*m[1][2])
			m[2][2] = float32(m[0][0]*m[1][1]) - float32(m[0][1]*m[1][0])
		default:
			m[i] = [3]float32{}
			m[i][i] = 1
		}
	}
	return m.polar()
}

// polar returns the orthogonal matrix nearest to m. Source: nifti1_io.c, nifti_mat33_polar.
func (m mat33) polar() mat33 {
	x := m
	for tries := 0; float32(x.wide().determinant()) == 0 && tries < 100; tries++ {
		gam := float32(0.00001 * (0.001 + float64(x.rowNorm())))
		for i := range 3 {
			x[i][i] += gam
		}
	}
	dif := float32(1)
	for k := 1; ; k++ {
		y := x.inverse()
		gam, gmi := float32(1), float32(1)
		if float64(dif) > 0.3 {
			alp := float32(math.Sqrt(float64(x.rowNorm() * x.transposed().rowNorm())))
			bet := float32(math.Sqrt(float64(y.rowNorm() * y.transposed().rowNorm())))
			gam = float32(math.Sqrt(float64(bet / alp)))
			gmi = float32(1 / float64(gam))
		}
		var z mat33
		sum := 0.0
		for i := range 3 {
			for j := range 3 {
				z[i][j] = float32(0.5 * float64(float32(gam*x[i][j])+float32(gmi*y[j][i])))
				sum += math.Abs(float64(z[i][j] - x[i][j]))
			}
		}
		if dif = float32(sum); k > 100 || float64(dif) < 3e-6 {
			return z
		}
		x = z
	}
}

// rowNorm returns the largest row sum of absolute values.
func (m mat33) rowNorm() float32 {
	largest := float32(0)
	for _, r := range m {
		largest = max(largest,
			float32(math.Abs(float64(r[0]))+math.Abs(float64(r[1]))+math.Abs(float64(r[2]))))
	}
	return largest
}

func (m mat33) inverse() mat33 {
	r := m.wide()
	d := r.determinant()
	if d != 0 {
		d = 1 / d
	}
	at := func(i, j int) float64 { return r[i][j] }
	minor := func(a, b, c, e float64) float32 { return float32(d * (float64(a*b) - float64(c*e))) }
	return mat33{
		{minor(at(1, 1), at(2, 2), at(2, 1), at(1, 2)),
			minor(at(2, 1), at(0, 2), at(0, 1), at(2, 2)),
			minor(at(0, 1), at(1, 2), at(1, 1), at(0, 2))},
		{minor(at(2, 0), at(1, 2), at(1, 0), at(2, 2)),
			minor(at(0, 0), at(2, 2), at(2, 0), at(0, 2)),
			minor(at(1, 0), at(0, 2), at(0, 0), at(1, 2))},
		{minor(at(1, 0), at(2, 1), at(2, 0), at(1, 1)),
			minor(at(2, 0), at(0, 1), at(0, 0), at(2, 1)),
			minor(at(0, 0), at(1, 1), at(1, 0), at(0, 1))},
	}
}

// quaternion returns b, c, d of the rotation nearest to m after normalising its columns, and the
// handedness (qfac), which a quaternion cannot hold. Source: nifti1_io.c, nifti_mat44_to_quatern.
func (m mat33) quaternion() (bcd [3]float64, qfac float64) {
	q := m
	for j := range 3 {
		c := [3]float64{float64(m[0][j]), float64(m[1][j]), float64(m[2][j])}
		length := math.Sqrt(float64(c[0]*c[0]) + float64(c[1]*c[1]) + float64(c[2]*c[2]))
		if length == 0 {
			c, length = [3]float64{}, 1
			c[j] = 1
		}
		for i := range 3 {
			q[i][j] = float32(c[i] / length)
		}
	}
	r := q.polar().wide()
	qfac = 1
	if !(r.determinant() > 0) {
		qfac = -1
		for i := range 3 {
			r[i][2] = -r[i][2]
		}
	}
	var a, b, c, d float64
	if a = r[0][0] + r[1][1] + r[2][2] + 1; a > 0.5 {
		a = 0.5 * math.Sqrt(a)
		b = 0.25 * (r[2][1] - r[1][2]) / a
		c = 0.25 * (r[0][2] - r[2][0]) / a
		d = 0.25 * (r[1][0] - r[0][1]) / a
	} else {
		xd := 1 + r[0][0] - (r[1][1] + r[2][2])
		yd := 1 + r[1][1] - (r[0][0] + r[2][2])
		zd := 1 + r[2][2] - (r[0][0] + r[1][1])
		switch {
		case xd > 1:
			b = 0.5 * math.Sqrt(xd)
			c = 0.25 * (r[0][1] + r[1][0]) / b
			d = 0.25 * (r[0][2] + r[2][0]) / b
			a = 0.25 * (r[2][1] - r[1][2]) / b
		case yd > 1:
			c = 0.5 * math.Sqrt(yd)
			b = 0.25 * (r[0][1] + r[1][0]) / c
			d = 0.25 * (r[1][2] + r[2][1]) / c
			a = 0.25 * (r[0][2] - r[2][0]) / c
		default:
			d = 0.5 * math.Sqrt(zd)
			b = 0.25 * (r[0][2] + r[2][0]) / d
			c = 0.25 * (r[1][2] + r[2][1]) / d
			a = 0.25 * (r[1][0] - r[0][1]) / d
		}
		if a < 0 {
			b, c, d = -b, -c, -d
		}
	}
	return [3]float64{float64(float32(b)), float64(float32(c)), float64(float32(d))}, qfac
}

// mat3 is a 3×3 matrix in double precision.
type mat3 [3][3]float64

// determinant sums the products in nifti_clib's order.
func (m mat3) determinant() float64 {
	p := func(a, b, c float64) float64 { return float64(float64(a*b) * c) }
	return p(m[0][0], m[1][1], m[2][2]) - p(m[0][0], m[2][1], m[1][2]) - p(m[1][0], m[0][1],
		m[2][2]) +
		p(m[1][0], m[2][1], m[0][2]) + p(m[2][0], m[0][1], m[1][2]) - p(m[2][0], m[1][1], m[0][2])
}

func (m mat3) transposed() mat3 {
	for i := range 3 {
		for j := range i {
			m[i][j], m[j][i] = m[j][i], m[i][j]
		}
	}
	return m
}

func (m mat3) times(n mat3) mat3 {
	var r mat3
	for i := range 3 {
		for j := range 3 {
			r[i][j] = m[i][0]*n[0][j] + m[i][1]*n[1][j] + m[i][2]*n[2][j]
		}
	}
	return r
}

// svd returns u, s and v with m = u·diag(s)·vᵀ by one-sided Jacobi rotations. Columns of u for a
// singular value of 0 are 0.
func (m mat3) svd() (u mat3, s [3]float64, v mat3) {
	u, v = m, mat3{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
	for range 60 {
		rotated := false
		for p := range 2 {
			for q := p + 1; q < 3; q++ {
				var a, b, c float64
				for i := range 3 {
					a, b, c = a+u[i][p]*u[i][p], b+u[i][q]*u[i][q], c+u[i][p]*u[i][q]
				}
				if math.Abs(c) <= 1e-17*math.Sqrt(a*b) || c == 0 {
					continue
				}
				rotated = true
				zeta := (b - a) / (2 * c)
				t := math.Copysign(1, zeta) / (math.Abs(zeta) + math.Sqrt(1+zeta*zeta))
				cos := 1 / math.Sqrt(1+t*t)
				sin := cos * t
				for i := range 3 {
					u[i][p], u[i][q] = cos*u[i][p]-sin*u[i][q], sin*u[i][p]+cos*u[i][q]
					v[i][p], v[i][q] = cos*v[i][p]-sin*v[i][q], sin*v[i][p]+cos*v[i][q]
				}
			}
		}
		if !rotated {
			break
		}
	}
	for j := range 3 {
		s[j] = math.Sqrt(u[0][j]*u[0][j] + u[1][j]*u[1][j] + u[2][j]*u[2][j])
		for i := range 3 {
			if s[j] > 0 {
				u[i][j] /= s[j]
			}
		}
	}
	return u, s, v
}

// polar returns the orthogonal matrix nearest to m; the null space of m is mapped to 0.
func (m mat3) polar() mat3 {
	u, s, v := m.svd()
	least := max(s[0], s[1], s[2]) * 3 * 0x1p-52
	for j := range 3 {
		if s[j] <= least {
			for i := range 3 {
				u[i][j] = 0
			}
		}
	}
	return u.times(v.transposed())
}

// quaternion returns b, c, d of a rotation.
func (m mat3) quaternion() [3]float64 {
	// divide by the largest of the four squares, for accuracy
	t := [4]float64{m[0][0] + m[1][1] + m[2][2], m[0][0] - m[1][1] - m[2][2],
		m[1][1] - m[0][0] - m[2][2], m[2][2] - m[0][0] - m[1][1]}
	k := 0
	for i := range t {
		if t[i] > t[k] {
			k = i
		}
	}
	r := math.Sqrt(1 + t[k])
	f := 0.5 / r
	var q [4]float64
	switch k {
	case 0:
		q = [4]float64{r / 2, (m[2][1] - m[1][2]) * f, (m[0][2] - m[2][0]) * f,
			(m[1][0] - m[0][1]) * f}
	case 1:
		q = [4]float64{(m[2][1] - m[1][2]) * f, r / 2, (m[0][1] + m[1][0]) * f,
			(m[0][2] + m[2][0]) * f}
	case 2:
		q = [4]float64{(m[0][2] - m[2][0]) * f, (m[0][1] + m[1][0]) * f, r / 2,
			(m[1][2] + m[2][1]) * f}
	case 3:
		q = [4]float64{(m[1][0] - m[0][1]) * f, (m[0][2] + m[2][0]) * f, (m[1][2] + m[2][1]) * f,
			r / 2}
	}
	if q[0] < 0 {
		return [3]float64{-q[1], -q[2], -q[3]}
	}
	return [3]float64(q[1:])
}

// NearestRotation returns the orthogonal matrix nearest to m: the factor of its polar
// decomposition, which may include a reflection. The null space of m is mapped to 0.
func NearestRotation(m [3][3]float64) [3][3]float64 { return mat3(m).polar() }

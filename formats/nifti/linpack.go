package nifti

import "math"

// leftVectors returns the singular values of m in descending order and the left singular vectors as
// columns, in single precision and with the signs and order of LINPACK's ssvdc. ITK compares these
// vectors of two matrices and so accepts some as equal that are not. Arrays are indexed from 1, as
// there; the right vectors are not computed.
// Source: LINPACK, ssvdc (G. W. Stewart, 1979, with the correction of 1985), for 3×3.
func leftVectors(m matrix) (values [3]float32, vectors mat33) {
	const n = 3
	var x, u [n + 1][n + 1]float32 // [column][row]
	var s, e, work [n + 2]float32
	for i := range n {
		for j := range n {
			x[j+1][i+1] = float32(m[i][j])
		}
	}
	// reduce to bidiagonal form: diagonal in s, superdiagonal in e
	for l := 1; l <= 2; l++ {
		s[l] = norm(x[l][l:])
		if s[l] != 0 {
			if x[l][l] != 0 {
				s[l] = sign(s[l], x[l][l])
			}
			scaleBy(1/s[l], x[l][l:])
			x[l][l]++
		}
		s[l] = -s[l]
		for j := l + 1; j <= n; j++ {
			if s[l] != 0 {
				axpy(-dot(x[l][l:], x[j][l:])/x[l][l], x[l][l:], x[j][l:])
			}
			e[j] = x[j][l]
		}
		copy(u[l][l:], x[l][l:])
		if l > 1 {
			continue
		}
		e[l] = norm(e[l+1 : n+1])
		if e[l] != 0 {
			if e[l+1] != 0 {
				e[l] = sign(e[l], e[l+1])
			}
			scaleBy(1/e[l], e[l+1:n+1])
			e[l+1]++
		}
		e[l] = -e[l]
		if e[l] != 0 {
			for j := l + 1; j <= n; j++ {
				axpy(e[j], x[j][l+1:], work[l+1:n+1])
			}
			for j := l + 1; j <= n; j++ {
				axpy(-e[j]/e[l+1], work[l+1:n+1], x[j][l+1:])
			}
		}
	}
	s[3] = x[3][3]
	e[2] = x[3][2]
	e[3] = 0
	u[3] = [n + 1]float32{3: 1}
	for l := 2; l >= 1; l-- {
		if s[l] == 0 {
			u[l] = [n + 1]float32{}
			u[l][l] = 1
			continue
		}
		for j := l + 1; j <= n; j++ {
			axpy(-dot(u[l][l:], u[j][l:])/u[l][l], u[l][l:], u[j][l:])
		}
		scaleBy(-1, u[l][l:])
		u[l][l]++
		for i := 1; i < l; i++ {
			u[l][i] = 0
		}
	}
	// one singular value at a time, the smallest first
	last := n
	for iter := 0; last > 0 && iter < 1000; {
		l := last - 1
		for ; l > 0; l-- {
			if test := abs(s[l]) + abs(s[l+1]); test+abs(e[l]) == test {
				e[l] = 0
				break
			}
		}
		if l == last-1 { // s[last] has converged
			l++
			if s[l] < 0 {
				s[l] = -s[l]
			}
			for ; l < n && s[l] < s[l+1]; l++ {
				s[l], s[l+1] = s[l+1], s[l]
				u[l], u[l+1] = u[l+1], u[l]
			}
			iter = 0
			last--
			continue
		}
		ls := last
		for ; ls > l; ls-- {
			test := float32(0)
			if ls != last {
				test += abs(e[ls])
			}
			if ls != l+1 {
				test += abs(e[ls-1])
			}
			if test+abs(s[ls]) == test {
				s[ls] = 0
				break
			}
		}
		switch {
		case ls == l: // a QR step
			l++
			scale := max(abs(s[last]), abs(s[last-1]), abs(e[last-1]), abs(s[l]), abs(e[l]))
			sm, smm1, emm1 := s[last]/scale, s[last-1]/scale, e[last-1]/scale
			sl, el := s[l]/scale, e[l]/scale
			b := (float32((smm1+sm)*(smm1-sm)) + float32(emm1*emm1)) / 2
			c := float32(sm*emm1) * float32(sm*emm1)
			shift := float32(0)
			if b != 0 || c != 0 {
				shift = float32(math.Sqrt(float64(float32(b*b) + c)))
				if b < 0 {
					shift = -shift
				}
				shift = c / (b + shift)
			}
			f := float32((sl+sm)*(sl-sm)) + shift
			g := float32(sl * el)
			for k := l; k < last; k++ {
				r, cs, sn := givens(f, g)
				if k != l {
					e[k-1] = r
				}
				f = float32(cs*s[k]) + float32(sn*e[k])
				e[k] = float32(cs*e[k]) - float32(sn*s[k])
				g = float32(sn * s[k+1])
				s[k+1] = float32(cs * s[k+1])
				s[k], cs, sn = givens(f, g)
				f = float32(cs*e[k]) + float32(sn*s[k+1])
				s[k+1] = float32(-sn*e[k]) + float32(cs*s[k+1])
				g = float32(sn * e[k+1])
				e[k+1] = float32(cs * e[k+1])
				if k < n {
					rotate(u[k][1:], u[k+1][1:], cs, sn)
				}
			}
			e[last-1] = f
			iter++
		case ls == last: // s[last] is 0
			l++
			f := e[last-1]
			e[last-1] = 0
			for k := last - 1; k >= l; k-- {
				var cs, sn float32
				s[k], cs, sn = givens(s[k], f)
				if k != l {
					f = -sn * e[k-1]
					e[k-1] = cs * e[k-1]
				}
			}
		default: // s[ls] is 0
			l = ls + 1
			f := e[l-1]
			e[l-1] = 0
			for k := l; k <= last; k++ {
				var cs, sn float32
				s[k], cs, sn = givens(s[k], f)
				f = -sn * e[k]
				e[k] = cs * e[k]
				rotate(u[k][1:], u[l-1][1:], cs, sn)
			}
		}
	}
	for j := range n {
		values[j] = abs(s[j+1])
		for i := range n {
			vectors[i][j] = u[j+1][i+1]
		}
	}
	return values, vectors
}

func abs(v float32) float32 { return float32(math.Abs(float64(v))) }

func sign(v, of float32) float32 { return float32(math.Copysign(float64(v), float64(of))) }

func norm(x []float32) float32 {
	if len(x) == 1 {
		return abs(x[0])
	}
	scale, sum := float32(0), float32(1)
	for _, v := range x {
		switch a := abs(v); {
		case a == 0:
		case scale < a:
			sum = 1 + float32(sum*float32((scale/a)*(scale/a)))
			scale = a
		default:
			sum += float32((a / scale) * (a / scale))
		}
	}
	return float32(float64(scale) * math.Sqrt(float64(sum)))
}

func dot(x, y []float32) float32 {
	sum := float32(0)
	for i, v := range x {
		sum += float32(v * y[i])
	}
	return sum
}

func scaleBy(a float32, x []float32) {
	for i := range x {
		x[i] *= a
	}
}

// axpy adds a·x to y.
func axpy(a float32, x, y []float32) {
	for i, v := range x {
		y[i] += float32(a * v)
	}
}

// givens returns the rotation that maps (a, b) to (r, 0).
func givens(a, b float32) (r, c, s float32) {
	roe := b
	if abs(a) > abs(b) {
		roe = a
	}
	scale := abs(a) + abs(b)
	if scale == 0 {
		return 0, 1, 0
	}
	p, q := a/scale, b/scale
	r = sign(float32(float64(scale)*math.Sqrt(float64(float32(p*p)+float32(q*q)))), roe)
	return r, a / r, b / r
}

func rotate(x, y []float32, c, s float32) {
	for i := range x {
		x[i], y[i] = float32(c*x[i])+float32(s*y[i]), float32(c*y[i])-float32(s*x[i])
	}
}

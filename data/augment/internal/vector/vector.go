// Package vector holds the inner loops of data/augment over rows of voxels. Each is plain Go, and on
// amd64 with AVX2 also assembly that computes whole blocks of 8 voxels. Both give the same bits:
// nothing is fused, and sums have the same parts in the same order.
//
// The plain form is the yardstick, does what is left of a row, and is all there is elsewhere.
package vector

// Axpy adds a·x to y. x has at least as many voxels as y.
func Axpy(y, x []float32, a float32) {
	x = x[:len(y)]
	n := axpy(y, x, a)
	y, x = y[n:], x[n:]
	for i := range y {
		y[i] += float32(a * x[i])
	}
}

// Scale multiplies v by a.
func Scale(v []float32, a float32) {
	v = v[scale(v, a):]
	for i := range v {
		v[i] *= a
	}
}

// Affine sets v to (v-shift)·factor + offset, clamped to low and high.
func Affine(v []float32, shift, factor, offset, low, high float32) {
	v = v[affine(v, shift, factor, offset, low, high):]
	for i, x := range v {
		x = float32((x-shift)*factor) + offset
		if x < low {
			x = low
		}
		if x > high {
			x = high
		}
		v[i] = x
	}
}

// Between interpolates linearly: part 0 is a, part 1 is b. Both have at least as many voxels as dst.
func Between(dst, a, b []float32, part float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	n := between(dst, a, b, part)
	dst, a, b = dst[n:], a[n:], b[n:]
	for i := range dst {
		dst[i] = a[i] + float32((b[i]-a[i])*part)
	}
}

// Resample interpolates linearly between two voxels of src for each of dst: those at left and at
// right, which must lie in src. part is that of right.
func Resample(dst, src []float32, left, right []int32, part []float32) {
	left, right, part = left[:len(dst)], right[:len(dst)], part[:len(dst)]
	n := resample(dst, src, left, right, part)
	for i := n; i < len(dst); i++ {
		a, b := src[left[i]], src[right[i]]
		dst[i] = a + float32((b-a)*part[i])
	}
}

// Filter weighs rows of src with a symmetric kernel: taps[0] the row that begins at offsets[0],
// taps[j] the sum of those at offsets[2j-1] and offsets[2j]. dst may not overlap these rows.
func Filter(dst, src []float32, offsets []int, taps []float32) {
	offsets = offsets[:2*len(taps)-1]
	for _, o := range offsets {
		_ = src[o:][:len(dst)]
	}
	n := filter(dst, src, offsets, taps)
	if dst = dst[n:]; len(dst) == 0 {
		return
	}
	row := func(i int) []float32 { return src[offsets[i]+n:][:len(dst)] }
	k, middle := taps[0], row(0)
	if len(taps) == 1 {
		for i := range dst {
			dst[i] = k * middle[i]
		}
		return
	}
	k1, l, r := taps[1], row(1), row(2)
	done := 2
	switch len(taps) {
	case 2:
		for i := range dst {
			dst[i] = float32(k*middle[i]) + float32(k1*(l[i]+r[i]))
		}
	default:
		k2, l2, r2 := taps[2], row(3), row(4)
		for i := range dst {
			dst[i] = float32(k*middle[i]) + float32(k1*(l[i]+r[i])) + float32(k2*(l2[i]+r2[i]))
		}
		done = 3
	}
	for j := done; j < len(taps); j++ {
		k, l, r := taps[j], row(2*j-1), row(2*j)
		for i := range dst {
			dst[i] += float32(k * (l[i] + r[i]))
		}
	}
}

// Replace sets the labels that are from to another.
func Replace(v []int16, from, to int16) {
	v = v[replace(v, from, to):]
	for i, label := range v {
		if label == from {
			v[i] = to
		}
	}
}

// ExchangeReversed exchanges the first voxel of a with the last one of b, and so on. Both have the
// same length and do not overlap.
func ExchangeReversed[T float32 | int16](a, b []T) {
	n := len(a)
	b = b[:n]
	done := exchangeReversed(a, b)
	a, b = a[done:], b[:n-done]
	for i := range a {
		j := len(b) - 1 - i
		a[i], b[j] = b[j], a[i]
	}
}

package preprocess

// The inner loops of resampling, over rows of equal length.

// recur sets dst[i] = a[i] + z*b[i]; dst may be a.
func recur(dst, a, b []float64, z float64) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] + z*b[i]
	}
}

// taps2 sets dst to the weighted sum of two rows.
func taps2(dst, r0, r1 []float64, w *[4]float64) {
	n := len(dst)
	r0, r1 = r0[:n], r1[:n]
	w0, w1 := w[0], w[1]
	for i := range dst {
		dst[i] = w0*r0[i] + w1*r1[i]
	}
}

// taps4 sets dst to the weighted sum of four rows.
func taps4(dst, r0, r1, r2, r3 []float64, w *[4]float64) {
	n := len(dst)
	r0, r1, r2, r3 = r0[:n], r1[:n], r2[:n], r3[:n]
	w0, w1, w2, w3 := w[0], w[1], w[2], w[3]
	for i := range dst {
		dst[i] = w0*r0[i] + w1*r1[i] + w2*r2[i] + w3*r3[i]
	}
}

// clip sets dst to src, limited to [lo, hi].
func clip(dst []float32, src []float64, lo, hi float64) {
	src = src[:len(dst)]
	for i, v := range src {
		if v < lo {
			v = lo
		}
		if v > hi {
			v = hi
		}
		dst[i] = float32(v)
	}
}

// flip sets dst[c*dstStride+r] = src[r*srcStride+c] for eight rows r and cols columns c.
func flip(dst, src []float64, dstStride, srcStride, cols int) {
	s := srcStride
	r0, r1, r2, r3 := src[:cols], src[s:][:cols], src[2*s:][:cols], src[3*s:][:cols]
	r4, r5, r6, r7 := src[4*s:][:cols], src[5*s:][:cols], src[6*s:][:cols], src[7*s:][:cols]
	for c := range cols {
		d := dst[c*dstStride:][:8]
		d[0], d[1], d[2], d[3] = r0[c], r1[c], r2[c], r3[c]
		d[4], d[5], d[6], d[7] = r4[c], r5[c], r6[c], r7[c]
	}
}

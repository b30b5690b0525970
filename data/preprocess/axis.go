package preprocess

import "math"

// axis interpolates one axis from n samples to m, without the spline prefilter. Output k is the sum
// of up to four neighbouring samples, from base[k] on, weighted by w[k]; beyond both ends the axis
// is extended as the interpolation order requires.
type axis struct {
	n, m  int
	order int
	base  []int
	w     [][4]float64
}

// pole is the pole of the cubic spline prefilter; gain normalises its response to a constant.
var (
	pole = math.Sqrt(3) - 2
	gain = -6 * pole
)

// newAxis follows scipy.ndimage.zoom in mode nearest with grid_mode, which
// skimage.transform.resize calls: voxel centres are at (k+0.5)·n/m-0.5. order is 0, 1 or 3. The
// order of operations is scipy's, because labels depend on ties.
// Source: scipy, ni_interpolation.c, NI_ZoomShift; ni_splines.c, get_spline_interpolation_weights.
func newAxis(n, m, order int) *axis {
	a := &axis{n: n, m: m, order: order, base: make([]int, m), w: make([][4]float64, m)}
	scale := float64(n) / float64(m)
	for k := range m {
		x := float64((float64(k)+0.5)*scale) - 0.5
		switch order {
		case 0:
			a.base[k] = min(max(int(math.Floor(x+0.5)), 0), n-1)
			a.w[k] = [4]float64{1}
		case 1:
			f := math.Floor(x) // -1 before the centre of the first sample
			a.base[k] = int(f)
			w := 1 - (x - f)
			a.w[k] = [4]float64{w, 1 - w}
		case 3:
			f := math.Floor(x)
			t := x - f
			u := 1 - t
			a.base[k] = int(f) - 1
			w0 := u * u * u / 6
			w1 := (t*t*(t-2)*3 + 4) / 6
			w2 := (u*u*(u-2)*3 + 4) / 6
			a.w[k] = [4]float64{w0, w1, w2, 1 - w0 - w1 - w2}
		}
	}
	return a
}

// identity reports whether input and output samples are the same.
func (a *axis) identity() bool { return a.n == a.m }

// nearest returns the sample that each output of a separately resampled axis takes. The expression
// is evaluated in nnU-Net's order: other orders differ halfway between two samples.
// Source: nnU-Net 2.5.1, default_resampling.py, resample_data_or_seg; map_coordinates of order 0.
func nearest(n, m int) []int {
	scale := float64(n) / float64(m)
	index := make([]int, m)
	for k := range index {
		x := float64(scale*(float64(k)+0.5)) - 0.5
		index[k] = min(max(int(math.Floor(x+0.5)), 0), n-1)
	}
	return index
}

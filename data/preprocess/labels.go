package preprocess

import (
	"slices"
	"sort"

	"github.com/lntorch/lntorch/volume"
)

// Label is the voxel type of a label map; -1 is outside the non-zero region.
type Label interface{ int8 | int16 }

// ResampleLabels resamples a label map of one channel as nnU-Net does: each label, in ascending
// order, is interpolated as a binary map and assigned to the voxels with a value of at least 0.5,
// overwriting labels before it; voxels that no label claims are 0. current and new are the
// spacings, which decide whether an axis is resampled separately. If the shape is unchanged, v
// itself is returned.
//
// Where all neighbours with a weight have the same label, that label is the result, so only the
// surroundings of borders are computed: operation by operation as scipy does, because borders often
// lie exactly on 0.5.
// Source: nnU-Net 2.5.1, default_resampling.py, resample_data_or_seg; batchgenerators,
// resize_segmentation.
func ResampleLabels[L Label](v *volume.Volume[L], shape [3]int, current, new [3]float64, o Options,
	threads int) (*volume.Volume[L], error) {
	n := v.Spatial()
	if n == shape {
		return v, nil
	}
	if err := o.check(true); err != nil {
		return nil, err
	}
	separate := SeparateAxis(o.ForceSeparateZ, current, new)
	if separate > 0 {
		perm := coarseFirst(separate)
		t := v.Transpose(perm)
		out := volume.New[L]([4]int{1, shape[perm[0]], shape[perm[1]], shape[perm[2]]})
		resampleLabels(out, t, true, o.Order, threads)
		return out.Transpose(inverse(perm)), nil
	}
	out := volume.New[L]([4]int{1, shape[0], shape[1], shape[2]})
	resampleLabels(out, v, separate == 0, o.Order, threads)
	return out, nil
}

// side holds the two samples around an output and their weights.
type side struct {
	at [2]int
	w  [2]float64
}

func sides(n, m, order int) []side {
	a := newAxis(n, m, order)
	s := make([]side, m)
	for k := range s {
		s[k] = side{
			[2]int{max(a.base[k], 0), min(a.base[k]+1, n-1)},
			[2]float64{a.w[k][0], a.w[k][1]},
		}
		if order == 0 {
			s[k].at[1] = s[k].at[0]
		}
	}
	return s
}

// resampleLabels computes out. With apart, the nearest slice is taken along the first axis.
func resampleLabels[L Label](out, v *volume.Volume[L], apart bool, order, threads int) {
	n, m := v.Spatial(), out.Spatial()
	sy, sx := sides(n[1], m[1], order), sides(n[2], m[2], order)
	var sz []side
	taps := 8
	if apart {
		// A separate axis has one slice, so that the product of the weights begins with y, as in
		// 2D.
		taps = 4
		for _, i := range nearest(n[0], m[0]) {
			sz = append(sz, side{[2]int{i, i}, [2]float64{1, 0}})
		}
	} else {
		sz = sides(n[0], m[0], order)
	}
	// For each row of v: the first voxel that differs from the row's first, and the end of the last
	// one that does.
	spans := make([][2]int32, n[0]*n[1])
	each(n[0], threads, func() func(int) {
		return func(z int) {
			for y := range n[1] {
				row := v.Data[(z*n[1]+y)*n[2]:][:n[2]]
				lo, hi := 0, n[2]
				for lo < hi && row[lo] == row[0] {
					lo++
				}
				for hi > lo && row[hi-1] == row[0] {
					hi--
				}
				spans[z*n[1]+y] = [2]int32{int32(lo), int32(hi)}
			}
		}
	})
	each(m[0], threads, func() func(int) {
		mixed := make([]bool, n[2]) // columns in which the rows differ
		return func(k int) {
			z := sz[k]
			if apart && k > 0 && sz[k-1].at[0] == z.at[0] {
				return // constant: copied below
			}
			for j := range m[1] {
				y := sy[j]
				dst := out.Data[(k*m[1]+j)*m[2]:][:m[2]]
				var r [4][]L
				lo, hi := int32(n[2]), int32(0)
				same := true
				for i := range r {
					at := z.at[i>>1]*n[1] + y.at[i&1]
					r[i] = v.Data[at*n[2]:][:n[2]]
					same = same && r[i][0] == r[0][0]
					if s := spans[at]; s[0] < s[1] {
						lo, hi = min(lo, s[0]), max(hi, s[1])
					}
				}
				if !same {
					lo, hi = 0, int32(n[2])
				}
				first := r[0][0]
				from := sort.Search(m[2], func(x int) bool { return sx[x].at[1] >= int(lo) })
				to := max(from,
					sort.Search(m[2], func(x int) bool { return sx[x].at[0] >= int(hi) }))
				if first != 0 { // out is zero-initialised
					for x := range dst[:from] {
						dst[x] = first
					}
					for x := range dst[to:] {
						dst[to+x] = first
					}
				}
				for x := lo; x < hi; x++ {
					l := r[0][x]
					mixed[x] = r[1][x] != l || r[2][x] != l || r[3][x] != l
				}
				for x := from; x < to; x++ {
					s := &sx[x]
					a, b := s.at[0], s.at[1]
					inA, inB := a >= int(lo) && a < int(hi), b >= int(lo) && b < int(hi)
					switch {
					case !inA && !inB:
						dst[x] = first
					case r[0][a] == r[0][b] && !(inA && mixed[a]) && !(inB && mixed[b]):
						dst[x] = r[0][a]
					default:
						dst[x] = decide(&r, &z, &y, s, taps)
					}
				}
			}
			if apart {
				size := m[1] * m[2]
				for i := k + 1; i < m[0] && sz[i].at[0] == z.at[0]; i++ {
					copy(out.Data[i*size:][:size], out.Data[k*size:][:size])
				}
			}
		}
	})
}

// decide returns the label of one voxel. r holds the rows (z0,y0), (z0,y1), (z1,y0), (z1,y1); with
// four taps only the first two are used.
func decide[L Label](r *[4][]L, z, y, x *side, taps int) L {
	var label [8]L
	var w [8]float64
	for i := range taps {
		a, b, c := i>>2, i>>1&1, i&1
		label[i] = r[a<<1|b][x.at[c]]
		if taps == 4 {
			w[i] = float64(y.w[b] * x.w[c])
		} else {
			w[i] = float64(float64(z.w[a]*y.w[b]) * x.w[c])
		}
	}
	var result L
	seen := label
	slices.Sort(seen[:taps])
	for i, l := range seen[:taps] {
		if i > 0 && l == seen[i-1] {
			continue
		}
		sum := 0.0
		for j := range taps {
			if label[j] == l {
				sum += w[j]
			}
		}
		if sum >= 0.5 {
			result = l
		}
	}
	return result
}

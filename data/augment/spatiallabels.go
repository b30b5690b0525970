package augment

import (
	"math"
	"slices"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
	"github.com/lntorch/lntorch/volume"
)

// sampleLabels decides each voxel by the weights of the labels around it: t = 1000·weight, rounded
// to float16. Of the labels with t above 700 the largest wins, otherwise the one of largest t, of
// equal ones the smallest. Where no label has weight the channel's smallest one is taken, or
// outside.
//
// Compat: the rounding to float16 and the smallest label beyond the border.
// Source: batchgeneratorsv2 0.2.1, SpatialTransform._apply_to_segmentation.
func sampleLabels(dst *volume.Volume[int16], src *view[int16], whole *sampling, beyond *int16) {
	row := 0
	for c := range dst.Shape[0] {
		lower, box, data := src.box(c)
		g := whole.of(lower, box, src.shape)
		none := smallest{labels: data, box: box, width: g.width, plane: g.plane, lowest: src.lowest}
		if g.padded {
			none = smallest{value: -1, known: true}
		}
		// What touches no voxel of the box lies beyond the input, or between voxels that are all -1.
		each := false
		if beyond != nil {
			none = smallest{value: *beyond, known: true}
			each = g.padded // the two differ
		}
		for z := range g.out[0] {
			for y := range g.out[1] {
				l := g.row(z, y)
				out := dst.Data[row*g.out[2]:][:g.out[2]]
				row++
				if each {
					g.labels(out, data, &l, 0, len(out), &none)
					continue
				}
				none.fill(out[:l.touching[0]])
				g.labels(out, data, &l, l.touching[0], l.inside[0], &none)
				if g.dim == 3 {
					g.equal3D(out, data, &l, &none)
				} else {
					g.equal2D(out, data, &l, &none)
				}
				g.labels(out, data, &l, l.inside[1], l.touching[1], &none)
				none.fill(out[max(l.touching[1], l.inside[1]):])
			}
		}
	}
}

// smallest is the smallest label of a box, searched when it is first needed.
type smallest struct {
	labels       []int16
	box          [3]int
	width, plane int
	lowest       int16 // none is below it
	value        int16
	known        bool
}

func (s *smallest) get() int16 {
	if s.known {
		return s.value
	}
	s.known, s.value = true, s.labels[0]
	for z := range s.box[0] {
		for y := range s.box[1] {
			if s.value <= s.lowest {
				return s.value
			}
			s.value = min(s.value, slices.Min(s.labels[z*s.plane+y*s.width:][:s.box[2]]))
		}
	}
	return s.value
}

func (s *smallest) fill(out []int16) {
	if len(out) == 0 {
		return
	}
	v := s.get()
	for i := range out {
		out[i] = v
	}
}

// equal3D fills the voxels whose cells lie wholly in the input. Where the eight corners agree, that
// label has all the weight.
func (g *sampling) equal3D(out, data []int16, l *line, none *smallest) {
	var mixed [256]int32
	w, plane := g.width, g.plane
	for x := l.inside[0]; x < l.inside[1]; x += len(mixed) {
		part, line := out[x:min(x+len(mixed), l.inside[1])], g.from(x, l)
		n := vector.Uniform(part, data, &line, mixed[:len(part)])
		for _, i := range mixed[:n] {
			qz := line.Origin[0] + int64(i)*line.Step[0]
			qy := line.Origin[1] + int64(i)*line.Step[1]
			qx := line.Origin[2] + int64(i)*line.Step[2]
			at := int(qz>>32)*plane + int(qy>>32)*w + int(qx>>32)
			a, b := data[at:at+2:at+2], data[at+w:at+w+2:at+w+2]
			at += plane
			c, d := data[at:at+2:at+2], data[at+w:at+w+2:at+w+2]
			part[i] = decide3D([8]int16{a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]},
				vector.Fraction(qz), vector.Fraction(qy), vector.Fraction(qx), none)
		}
	}
}

// equal2D is equal3D in a plane.
func (g *sampling) equal2D(out, data []int16, l *line, none *smallest) {
	x0 := int64(l.inside[0])
	qy, qx := l.origin[1]+x0*l.step[1], l.origin[2]+x0*l.step[2]
	w := g.width
	for x := l.inside[0]; x < l.inside[1]; x++ {
		at := int(qy>>32)*w + int(qx>>32)
		a, b := data[at:at+2:at+2], data[at+w:at+w+2:at+w+2]
		v := a[0]
		if (v^a[1])|(v^b[0])|(v^b[1]) == 0 {
			out[x] = v
		} else {
			fy, fx := vector.Fraction(qy), vector.Fraction(qx)
			var d decision
			d.add(v, float32((1-fy)*(1-fx)))
			d.add(a[1], float32((1-fy)*fx))
			d.add(b[0], float32(fy*(1-fx)))
			d.add(b[1], float32(fy*fx))
			out[x] = d.label(none)
		}
		qy += l.step[1]
		qx += l.step[2]
	}
}

// decide3D decides between the labels of the eight corners, x fastest.
func decide3D(corners [8]int16, fz, fy, fx float32, none *smallest) int16 {
	var d decision
	ez, ey, ex := 1-fz, 1-fy, 1-fx
	d.add(corners[0], float32(float32(ez*ey)*ex))
	d.add(corners[1], float32(float32(ez*ey)*fx))
	d.add(corners[2], float32(float32(ez*fy)*ex))
	d.add(corners[3], float32(float32(ez*fy)*fx))
	d.add(corners[4], float32(float32(fz*ey)*ex))
	d.add(corners[5], float32(float32(fz*ey)*fx))
	d.add(corners[6], float32(float32(fz*fy)*ex))
	d.add(corners[7], float32(float32(fz*fy)*fx))
	return d.label(none)
}

// labels fills voxels whose cells may lie partly outside.
func (g *sampling) labels(out, data []int16, l *line, from, to int, none *smallest) {
	for x := from; x < to; x++ {
		var d decision
		g.corners(l, x, func(at int, weight float32) {
			if at == outside {
				d.add(-1, weight)
			} else {
				d.add(data[at], weight)
			}
		})
		out[x] = d.label(none)
	}
}

// decision collects the weights of the labels around a voxel.
type decision struct {
	of     [8]int16
	weight [8]float32 // times 1000
	n      int
}

func (d *decision) add(label int16, weight float32) {
	for i := range d.n {
		if d.of[i] == label {
			d.weight[i] += float32(weight * 1000)
			return
		}
	}
	d.of[d.n], d.weight[d.n] = label, weight*1000
	d.n++
}

func (d *decision) label(none *smallest) int16 {
	best, most, sure := int16(0), float32(0), false
	for i := range d.n {
		label, t := d.of[i], roundHalf(d.weight[i])
		switch {
		case t > 700:
			if !sure || label > best {
				best, sure = label, true
			}
		case sure:
		case t > most || t == most && t > 0 && label < best:
			best, most = label, t
		}
	}
	if !sure && most == 0 {
		return none.get()
	}
	return best
}

// roundHalf rounds a number from 0 to 65000 to float16, halves to even.
func roundHalf(v float32) float32 {
	if v < 0x1p-14 { // subnormal in float16: multiples of 2^-24
		return float32(math.RoundToEven(float64(v)*0x1p24)) * 0x1p-24
	}
	bits := math.Float32bits(v)
	bits += 0xfff + bits>>13&1
	return math.Float32frombits(bits &^ 0x1fff)
}

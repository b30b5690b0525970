package augment

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
	"github.com/lntorch/lntorch/volume"
)

// SpatialTransform cuts the middle out of a patch, rotated and scaled where a coin says so.
//
// Compat: three angles are drawn in 2d, too, the last one counts.
// Source: batchgeneratorsv2 0.2.1, SpatialTransform.
type SpatialTransform struct {
	PatchSize               []int   `json:"patch_size" need:"true"`
	PatchCenterDist         float64 `json:"patch_center_dist_from_border"`
	RandomCrop              bool    `json:"random_crop"`
	PElasticDeform          float64 `json:"p_elastic_deform"`
	PRotation               float64 `json:"p_rotation"`
	Rotation                Range   `json:"rotation"` // radians
	PScaling                float64 `json:"p_scaling"`
	Scaling                 Range   `json:"scaling"` // above 1 objects shrink
	PSynchronizeScalingAxes float64 `json:"p_synchronize_scaling_across_axes"`
	BGStyleSegSampling      bool    `json:"bg_style_seg_sampling"`
	ModeSeg                 string  `json:"mode_seg"`

	where input
}

// Name returns SpatialTransform.
func (SpatialTransform) Name() string { return "SpatialTransform" }

// check refuses what is not built.
func (t SpatialTransform) check(input) error {
	switch {
	case t.PElasticDeform != 0:
		return fmt.Errorf("p_elastic_deform: found %v, expected 0: elastic deformation is not built",
			t.PElasticDeform)
	case t.RandomCrop:
		return errors.New("random_crop: found true, expected false: random crops are not built")
	case t.BGStyleSegSampling:
		return errBGStyle
	}
	return knownMode(t.ModeSeg)
}

var errBGStyle = errors.New("bg_style_seg_sampling: found true, expected false: it is not built")

// segModes are the ways to sample labels.
var segModes = []string{"bilinear", "nearest"}

func knownMode(mode string) error {
	if mode == segModes[0] || mode == segModes[1] {
		return nil
	}
	return fmt.Errorf("mode_seg: found %.40q, expected bilinear or nearest%s", mode,
		didYouMean(mode, segModes))
}

// Draw draws two coins, and angles and scales where they say so.
func (t SpatialTransform) Draw(rng *rand.Rand) Parameters {
	dim := t.where.dim
	p := &SpatialParameters{PatchSize: t.PatchSize, ModeSeg: t.ModeSeg}
	if t.where.fixes { // labels beyond the crop are background
		p.SegOutsideTo = new(int16)
	}
	rotate, scale := rng.Float64() < t.PRotation, rng.Float64() < t.PScaling
	p.Angles, p.Scales = make([]float64, dim), make([]float64, dim)
	if rotate {
		p.Angles = make([]float64, 3)
		for i := range p.Angles {
			p.Angles[i] = t.Rotation.Draw(rng)
		}
	}
	for i := range p.Scales {
		p.Scales[i] = 1
	}
	if scale {
		same := rng.Float64() <= t.PSynchronizeScalingAxes
		for i := range p.Scales {
			if p.Scales[i] = p.Scales[0]; i == 0 || !same {
				p.Scales[i] = t.Scaling.Draw(rng)
			}
		}
	}
	if rotate || scale {
		p.Affine = affine(dim, p.Angles, p.Scales)
	}
	for _, size := range t.where.size {
		p.Center = append(p.Center, float64(size)/2)
	}
	return p
}

// affine returns Rz·Ry·Rx·S; in 2d the rotation by the last angle, times S.
func affine(dim int, angles, scales []float64) [][]float64 {
	sin, cos := math.Sin, math.Cos
	a := angles[len(angles)-1]
	m := [][]float64{{cos(a), -sin(a)}, {sin(a), cos(a)}}
	if dim == 3 {
		x, y := angles[0], angles[1]
		rx := [][]float64{{1, 0, 0}, {0, cos(x), -sin(x)}, {0, sin(x), cos(x)}}
		ry := [][]float64{{cos(y), 0, sin(y)}, {0, 1, 0}, {-sin(y), 0, cos(y)}}
		rz := [][]float64{{cos(a), -sin(a), 0}, {sin(a), cos(a), 0}, {0, 0, 1}}
		m = product(product(rz, ry), rx)
	}
	for i := range m {
		for j := range m[i] {
			m[i][j] *= scales[j]
		}
	}
	return m
}

func product(a, b [][]float64) [][]float64 {
	out := make([][]float64, len(a))
	for i := range out {
		out[i] = make([]float64, len(b))
		for j := range out[i] {
			for k := range b {
				out[i][j] += float64(a[i][k] * b[k][j])
			}
		}
	}
	return out
}

// SpatialParameters say which voxels become the patch.
type SpatialParameters struct {
	PatchSize []int     `json:"patch_size" need:"true"` // of the result
	Angles    []float64 `json:"angles" null:"true"`     // told, not used: the affine has them
	Scales    []float64 `json:"scales" null:"true"`     // likewise
	// Affine: an output voxel at p from the centre samples the input at p·Affine from its centre,
	// a row vector times the matrix, in voxels. nil: the middle is cut out.
	Affine             [][]float64 `json:"affine" need:"true" null:"true"`
	ElasticOffsets     *struct{}   `json:"elastic_offsets" null:"true"`
	Center             []float64   `json:"center_location_in_pixels" need:"true"`
	BGStyleSegSampling bool        `json:"bg_style_seg_sampling"`
	ModeSeg            string      `json:"mode_seg"`
	// SegOutsideTo is the label beyond the border; nil: the smallest label of the channel, as in
	// batchgeneratorsv2, which has no such key.
	SegOutsideTo *int16 `json:"seg_outside_to,omitempty" null:"true"`
}

// sampling is the geometry of one application: where the voxels of the result lie in the input.
// Axes are (z, y, x); in 2d z is 0.
type sampling struct {
	in, out [3]int
	dim     int
	matrix  [3][3]float64 // rounded to float32
	// offset of the centre of the result from that of the input, and the middle of both
	shift [3]float64

	// Of the input there are only the voxels of a box: the rest of a window lies outside its case.
	lower, box   [3]int // its first voxel in the input, and its size
	width, plane int    // from row to row, and from slice to slice
	padded       bool   // it is not all of the input
}

// check complains of what can be seen without a patch.
func (s *SpatialParameters) check() error {
	dim := len(s.PatchSize)
	if dim != 2 && dim != 3 {
		return fmt.Errorf("patch_size: found %d axes, expected 2 or 3", dim)
	}
	n := 1
	for _, size := range s.PatchSize {
		if size < 1 || size > maxVoxels || n*size > maxVoxels {
			return fmt.Errorf("patch_size: found %v, expected sizes from 1 on, 2^27 voxels at most",
				s.PatchSize)
		}
		n *= size
	}
	if len(s.Center) != dim {
		return fmt.Errorf("center_location_in_pixels: found %d values, expected %d as in patch_size",
			len(s.Center), dim)
	}
	for _, c := range s.Center {
		if math.Abs(c) > maxVoxels {
			return fmt.Errorf("center_location_in_pixels: found %v, expected 2^27 at most", c)
		}
	}
	if s.ElasticOffsets != nil {
		return errors.New("elastic_offsets: found offsets, expected null: elastic deformation is not built")
	}
	if s.BGStyleSegSampling {
		return errBGStyle
	}
	if err := knownMode(s.ModeSeg); err != nil || s.Affine == nil {
		return err
	}
	square := len(s.Affine) == dim
	for _, row := range s.Affine {
		square = square && len(row) == dim
	}
	if !square {
		return fmt.Errorf("affine: found %v, expected %d rows of %d numbers as in patch_size, or null",
			shapeOf(s.Affine), dim, dim)
	}
	for i, row := range s.Affine {
		for _, v := range row {
			if !(math.Abs(v)*float64(s.PatchSize[i]) < 1<<28) {
				return fmt.Errorf("affine: found %v, which moves voxels 2^27 voxels away or further", v)
			}
		}
	}
	return nil
}

func shapeOf(rows [][]float64) []int {
	lengths := []int{}
	for _, r := range rows[:min(len(rows), 8)] {
		lengths = append(lengths, len(r))
	}
	return lengths
}

// Apply replaces image and segmentation. Coordinates are linear in fixed point along a row, with an
// error below 1e-6 voxel.
func (s *SpatialParameters) Apply(p *Patch) error {
	from := viewOf(p, p.Image)
	whole := Shape{Image: [4]int{0: from.channels()}, Dim: p.Dim}
	if p.Seg != nil {
		whole.Seg[0] = p.Seg.Shape[0] * max(p.slices(), 1)
	}
	out, err := s.fit(whole)
	if err != nil {
		return err
	}
	if s.Affine == nil {
		s.crop(p, out)
		return nil
	}
	image := p.newImage([4]int{whole.Image[0], out[0], out[1], out[2]})
	geometry := s.sampling(from.size, out, p.Dim)
	sampleImage(image, &from, &geometry)
	if p.Seg != nil {
		labels, seg := viewOf(p, p.Seg), p.newSeg([4]int{whole.Seg[0], out[0], out[1], out[2]})
		if s.ModeSeg == "nearest" {
			sampleNearest(seg, &labels, &geometry)
		} else {
			sampleLabels(seg, &labels, &geometry, s.SegOutsideTo)
		}
		p.Seg = seg
	}
	p.Image, p.Window = image, Window{}
	return nil
}

// fit returns the size of the result, and complains of what does not fit the channels and axes of a
// patch.
func (s *SpatialParameters) fit(shape Shape) (out [3]int, err error) {
	if err := s.check(); err != nil {
		return out, err
	}
	if len(s.PatchSize) != shape.Dim {
		return out, fmt.Errorf("patch_size: found %v, expected %d axes as in the patch", s.PatchSize,
			shape.Dim)
	}
	out = [3]int{1, 1, 1}
	copy(out[3-shape.Dim:], s.PatchSize)
	if volume.Numel([4]int{max(shape.Image[0], shape.Seg[0]), out[0], out[1], out[2]}) > maxVoxels {
		return out, fmt.Errorf("patch_size: found %v, which makes more than 2^27 voxels in all channels",
			s.PatchSize)
	}
	return out, nil
}

// Sampling says which voxels of the input become the patch.
type Sampling struct {
	In, Out []int // sizes along (z, y, x) or (y, x)
	Crop    bool  // no interpolation: the box that begins at Start, which may lie outside
	Start   []int
	// Without Crop, voxel x of row r of the result lies at Origin[axis][r] + x·Step[axis]. Both are
	// multiples of 2^-32.
	Origin [][]float64
	Step   []float64
}

// Sampling returns the geometry of one application.
func (s *SpatialParameters) Sampling(shape Shape) (g Sampling, err error) {
	out, err := s.fit(shape)
	if err != nil {
		return g, err
	}
	dim := shape.Dim
	g = Sampling{In: append([]int(nil), shape.axes()...), Out: s.PatchSize, Crop: s.Affine == nil}
	if g.Crop {
		for i, c := range s.Center {
			g.Start = append(g.Start, int(math.Floor(c))-s.PatchSize[i]/2)
		}
		return g, nil
	}
	lines := s.sampling([3]int(shape.Image[1:]), out, dim)
	g.Origin, g.Step = make([][]float64, dim), make([]float64, dim)
	for z := range out[0] {
		for y := range out[1] {
			l := lines.row(z, y)
			for i := range dim {
				g.Origin[i] = append(g.Origin[i], float64(l.origin[3-dim+i])/one)
				g.Step[i] = float64(l.step[3-dim+i]) / one
			}
		}
	}
	return g, nil
}

// crop cuts the result out without interpolation.
func (s *SpatialParameters) crop(p *Patch, out [3]int) {
	var start [3]int
	inside := true // of the window
	for i, c := range s.Center {
		axis := i + 3 - p.Dim
		start[axis] = int(math.Floor(c)) - s.PatchSize[i]/2
		inside = inside && start[axis] >= 0 && start[axis]+out[axis] <= p.Window.Size[axis]
	}
	if p.isWindow() && inside { // nothing else is read of the case
		out[0] = max(out[0], p.slices())
		for axis := range start {
			start[axis] += p.Window.Start[axis]
		}
		p.cutBox(start, out)
		return
	}
	p.cut()
	image := p.newImage([4]int{p.Image.Shape[0], out[0], out[1], out[2]})
	p.Image.Crop(image, start, 0)
	p.Image = image
	if p.Seg != nil {
		seg := p.newSeg([4]int{p.Seg.Shape[0], out[0], out[1], out[2]})
		p.Seg.Crop(seg, start, 0)
		p.Seg = seg
	}
}

func (s *SpatialParameters) sampling(in, out [3]int, dim int) sampling {
	g := sampling{in: in, out: out, dim: dim}
	for i, row := range s.Affine {
		for j, v := range row {
			g.matrix[i+3-dim][j+3-dim] = float32Of(v)
		}
		axis := i + 3 - dim
		g.shift[axis] = float32Of(s.Center[i]-float64(in[axis])/2) + float64(in[axis]-1)/2
	}
	return g
}

// of narrows the sampling to a channel: the box that there are voxels of, and their strides.
func (g sampling) of(lower, box [3]int, shape [4]int) sampling {
	g.lower, g.box = lower, box
	g.width, g.plane = shape[3], shape[2]*shape[3]
	g.padded = box != g.in
	return g
}

// at returns the coordinate of an output voxel along an axis of the input.
func (g *sampling) at(z, y, x, axis int) float64 {
	from := func(i, k int) float64 {
		return float64((float64(i) - float64(g.out[k]-1)/2) * g.matrix[k][axis])
	}
	return from(z, 0) + from(y, 1) + from(x, 2) + g.shift[axis]
}

// line is a row of the result in the box, in fixed point with 32 bits for the fraction: voxel x lies
// at origin + x·step.
type line struct {
	origin, step [3]int64
	// From inside[0], below inside[1], all corners of the cells are voxels of the box; from
	// touching[0], below touching[1], at least one may be.
	inside, touching [2]int
}

// one is a voxel in fixed point.
const one = 1 << 32

// row returns the line of a row of the result.
func (g *sampling) row(z, y int) (l line) {
	n := g.out[2]
	l.inside, l.touching = [2]int{0, n}, [2]int{0, n}
	for axis := 3 - g.dim; axis < 3; axis++ {
		l.origin[axis] = int64(math.Floor(g.at(z, y, 0, axis)*one+0.5)) - int64(g.lower[axis])*one
		l.step[axis] = int64(math.Floor(g.matrix[2][axis]*one + 0.5))
		size := int64(g.box[axis])
		l.limit(&l.inside, axis, 0, (size-1)*one)
		l.limit(&l.touching, axis, 1-one, size*one)
	}
	if l.inside[1] <= l.inside[0] {
		l.inside = [2]int{l.touching[0], l.touching[0]}
	}
	return l
}

// limit narrows a range to the voxels whose coordinate is at least low, and below high.
func (l *line) limit(r *[2]int, axis int, low, high int64) {
	o, s := l.origin[axis], l.step[axis]
	first, last := o+int64(r[0])*s, o+int64(r[1]-1)*s
	switch {
	case r[1] <= r[0]:
	case min(first, last) >= low && max(first, last) < high: // and so is what lies between
	case s == 0:
		if o < low || o >= high {
			r[1] = r[0]
		}
	case s > 0:
		r[0] = max(r[0], clampIndex(ceilDiv(low-o, s), r[1]))
		r[1] = min(r[1], clampIndex(ceilDiv(high-o, s), r[1]))
	default:
		r[0], r[1] = max(r[0], clampIndex(ceilDiv(o-high+1, -s), r[1])),
			min(r[1], clampIndex(ceilDiv(o-low+1, -s), r[1]))
	}
}

// ceilDiv returns a/b rounded up; b is positive.
func ceilDiv(a, b int64) int64 {
	q := a / b
	if a%b > 0 {
		q++
	}
	return q
}

func clampIndex(i int64, n int) int { return int(min(max(i, 0), int64(n))) }

// sampleImage interpolates linearly between the centres of voxels; beyond the border is 0.
func sampleImage(dst *volume.Volume[float32], src *view[float32], whole *sampling) {
	row := 0
	for c := range dst.Shape[0] {
		lower, box, data := src.box(c)
		g := whole.of(lower, box, src.shape)
		for z := range g.out[0] {
			for y := range g.out[1] {
				l := g.row(z, y)
				out := dst.Data[row*g.out[2]:][:g.out[2]]
				row++
				clear(out[:l.touching[0]])
				g.border(out, data, &l, l.touching[0], l.inside[0])
				if g.dim == 3 {
					g.inside3D(out[l.inside[0]:l.inside[1]], data, &l)
				} else {
					g.inside2D(out[l.inside[0]:l.inside[1]], data, &l)
				}
				g.border(out, data, &l, l.inside[1], l.touching[1])
				clear(out[max(l.touching[1], l.inside[1]):])
			}
		}
	}
}

// from is the line from voxel x on, in three axes.
func (g *sampling) from(x int, l *line) vector.Line {
	v := vector.Line{Size: g.box, Width: g.width, Plane: g.plane, Origin: l.origin, Step: l.step}
	for axis := range v.Origin {
		v.Origin[axis] += int64(x) * l.step[axis]
	}
	return v
}

// inside3D fills the voxels from l.inside[0] on, whose cells lie wholly in the box.
func (g *sampling) inside3D(out, data []float32, l *line) {
	if len(out) > 0 {
		line := g.from(l.inside[0], l)
		vector.Trilinear(out, data, &line)
	}
}

// inside2D is inside3D in a plane.
func (g *sampling) inside2D(out, data []float32, l *line) {
	x0 := int64(l.inside[0])
	qy, qx := l.origin[1]+x0*l.step[1], l.origin[2]+x0*l.step[2]
	sy, sx := l.step[1], l.step[2]
	w := g.width
	for i := range out {
		at := int(qy>>32)*w + int(qx>>32)
		fy, fx := vector.Fraction(qy), vector.Fraction(qx)
		a, b := data[at:at+2:at+2], data[at+w:at+w+2:at+w+2]
		a0 := a[0] + float32((a[1]-a[0])*fx)
		b0 := b[0] + float32((b[1]-b[0])*fx)
		out[i] = a0 + float32((b0-a0)*fy)
		qy += sy
		qx += sx
	}
}

// outside is the index of a voxel that is in the input, and not in the box.
const outside = -1

// corners visits the voxels of the input around voxel x of a line, with their weights.
func (g *sampling) corners(l *line, x int, visit func(at int, weight float32)) {
	var lower [3]int
	var part [3]float32
	for axis := 3 - g.dim; axis < 3; axis++ {
		q := l.origin[axis] + int64(x)*l.step[axis]
		lower[axis], part[axis] = int(q>>32), vector.Fraction(q)
	}
	stride := [3]int{g.plane, g.width, 1}
	for corner := range 1 << g.dim {
		at, weight, in, ok := 0, float32(1), true, true
		for axis := 3 - g.dim; axis < 3; axis++ {
			i, w := lower[axis], 1-part[axis]
			if corner>>(2-axis)&1 == 1 {
				i, w = i+1, part[axis]
			}
			in = in && i >= 0 && i < g.box[axis]
			ok = ok && i >= -g.lower[axis] && i < g.in[axis]-g.lower[axis]
			at, weight = at+i*stride[axis], weight*w
		}
		if !in {
			at = outside
		}
		if ok && weight > 0 {
			visit(at, weight)
		}
	}
}

// border fills voxels whose cells may lie partly outside, where the image is 0. Their bits are those
// of a case that has zeros there.
func (g *sampling) border(out, data []float32, l *line, from, to int) {
	for x := from; x < to; x++ {
		q := [3]int64{}
		for axis := 3 - g.dim; axis < 3; axis++ {
			q[axis] = l.origin[axis] + int64(x)*l.step[axis]
		}
		var v [8]float32
		for corner := range v {
			at, ok := 0, true
			for axis, stride := range [3]int{g.plane, g.width, 1} {
				i := int(q[axis]>>32) + corner>>(2-axis)&1
				ok = ok && i >= 0 && i < g.box[axis]
				at += i * stride
			}
			if ok {
				v[corner] = data[at]
			}
		}
		fz, fy, fx := vector.Fraction(q[0]), vector.Fraction(q[1]), vector.Fraction(q[2])
		a := v[0] + float32((v[1]-v[0])*fx)
		b := v[2] + float32((v[3]-v[2])*fx)
		c := v[4] + float32((v[5]-v[4])*fx)
		d := v[6] + float32((v[7]-v[6])*fx)
		a += float32((b - a) * fy)
		if g.dim == 3 {
			c += float32((d - c) * fy)
			a += float32((c - a) * fz)
		}
		out[x] = a
	}
}

// sampleNearest takes the nearest voxel's label, of two the one of even index; beyond the border 0.
//
// Compat: beyond the border labels are 0 here, not the smallest one as in sampleLabels.
func sampleNearest(dst *volume.Volume[int16], src *view[int16], whole *sampling) {
	row := 0
	for c := range dst.Shape[0] {
		lower, box, data := src.box(c)
		g := whole.of(lower, box, src.shape)
		stride := [3]int{g.plane, g.width, 1}
		for z := range g.out[0] {
			for y := range g.out[1] {
				l := g.row(z, y)
				out := dst.Data[row*g.out[2]:][:g.out[2]]
				row++
				clear(out)
				// a voxel that touches no cell lies one voxel from the border or further
				from, to := l.touching[0], l.touching[1]
				if g.padded {
					from, to = 0, len(out)
				}
				for x := from; x < to; x++ {
					at, in, ok := 0, true, true
					for axis := 3 - g.dim; axis < 3; axis++ {
						// as if the box began at voxel 0 of the input: of two it is the even one there
						i := roundEven(l.origin[axis]+int64(x)*l.step[axis]+int64(g.lower[axis])*one) -
							g.lower[axis]
						in = in && i >= 0 && i < g.box[axis]
						ok = ok && i >= -g.lower[axis] && i < g.in[axis]-g.lower[axis]
						at += i * stride[axis]
					}
					switch {
					case in:
						out[x] = data[at]
					case ok:
						out[x] = -1
					}
				}
			}
		}
	}
}

// roundEven rounds a fixed-point coordinate, halves to even.
func roundEven(q int64) int {
	i := int((q + one/2) >> 32)
	if q&(one-1) == one/2 && i%2 != 0 {
		i--
	}
	return i
}

package phantom

import "math"

// vec is a point or a displacement in mm, LPS: x to the patient's left, y to the back, z to the
// head.
type vec struct{ x, y, z float32 }

func (a vec) add(b vec) vec           { return vec{a.x + b.x, a.y + b.y, a.z + b.z} }
func (a vec) sub(b vec) vec           { return vec{a.x - b.x, a.y - b.y, a.z - b.z} }
func (a vec) mul(f float32) vec       { return vec{a.x * f, a.y * f, a.z * f} }
func (a vec) dot(b vec) float32       { return a.x*b.x + a.y*b.y + a.z*b.z }
func (a vec) cross(b vec) vec         { return vec{a.y*b.z - a.z*b.y, a.z*b.x - a.x*b.z, a.x*b.y - a.y*b.x} }
func (a vec) unit() vec               { return a.mul(1 / sqrt(a.dot(a))) }
func (a vec) min(b vec) vec           { return vec{min(a.x, b.x), min(a.y, b.y), min(a.z, b.z)} }
func (a vec) max(b vec) vec           { return vec{max(a.x, b.x), max(a.y, b.y), max(a.z, b.z)} }
func sqrt(x float32) float32          { return float32(math.Sqrt(float64(x))) }
func hypot(x, y float32) float32      { return sqrt(x*x + y*y) }
func clamp(x, lo, hi float32) float32 { return min(max(x, lo), hi) }

// box is axis-aligned, in mm.
type box struct{ lo, hi vec }

func (b box) pad(mm float32) box {
	d := vec{mm, mm, mm}
	return box{b.lo.sub(d), b.hi.add(d)}
}

func (b box) union(c box) box { return box{b.lo.min(c.lo), b.hi.max(c.hi)} }

func (b box) contains(p vec) bool {
	return p.x >= b.lo.x && p.x <= b.hi.x && p.y >= b.lo.y && p.y <= b.hi.y && p.z >= b.lo.z &&
		p.z <= b.hi.z
}

// A part is an implicit surface. Its distance in mm is negative inside; away from the surface it is
// an estimate. Everything inside is within bounds.
type part interface {
	dist(p vec) float32
	bounds() box
}

// ellipse estimates the distance to an ellipse with half-axes a and b as k(k−1)/|∇k|.
func ellipse(u, v, a, b float32) float32 {
	ua, vb := u/a, v/b
	k := hypot(ua, vb)
	g := hypot(ua/a, vb/b)
	if g < 1e-6 {
		return -min(a, b)
	}
	return k * (k - 1) / g
}

// ellipsoid has half-axes r along the rows of rot.
type ellipsoid struct {
	centre, r vec
	rot       [3]vec // orthonormal
}

var upright = [3]vec{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}

func (e *ellipsoid) dist(p vec) float32 {
	q := p.sub(e.centre)
	q = vec{q.dot(e.rot[0]) / e.r.x, q.dot(e.rot[1]) / e.r.y, q.dot(e.rot[2]) / e.r.z}
	k := sqrt(q.dot(q))
	q = vec{q.x / e.r.x, q.y / e.r.y, q.z / e.r.z}
	g := sqrt(q.dot(q))
	if g < 1e-6 {
		return -min(e.r.x, e.r.y, e.r.z)
	}
	return k * (k - 1) / g
}

func (e *ellipsoid) bounds() box {
	var h vec
	for i, r := range [3]float32{e.r.x, e.r.y, e.r.z} {
		a := e.rot[i].mul(r)
		h = h.add(vec{a.x * a.x, a.y * a.y, a.z * a.z})
	}
	h = vec{sqrt(h.x), sqrt(h.y), sqrt(h.z)}
	return box{e.centre.sub(h), e.centre.add(h)}
}

// turned returns the rows of a rotation about the z axis by degrees.
func turned(degrees float32) [3]vec {
	s, c := math.Sincos(float64(degrees) * math.Pi / 180)
	return [3]vec{{float32(c), float32(s), 0}, {-float32(s), float32(c), 0}, {0, 0, 1}}
}

// slab is a box with rounded edges, rotated about the z axis.
type slab struct {
	centre, half vec
	round        float32 // radius of the edges, at most the smallest of half
	rot          [3]vec
}

func (b *slab) dist(p vec) float32 {
	q := p.sub(b.centre)
	x := abs(q.dot(b.rot[0])) - b.half.x + b.round
	y := abs(q.dot(b.rot[1])) - b.half.y + b.round
	z := abs(q.dot(b.rot[2])) - b.half.z + b.round
	out := vec{max(x, 0), max(y, 0), max(z, 0)}
	return sqrt(out.dot(out)) + min(max(x, y, z), 0) - b.round
}

func (b *slab) bounds() box {
	e := ellipsoid{centre: b.centre, r: b.half.mul(1.7321), rot: b.rot}
	return e.bounds()
}

func abs(x float32) float32 { return max(x, -x) }

// A section is a station of a tube: an ellipse in the axial plane at height z, with half-axis a
// rotated by degrees from x.
type section struct{ z, x, y, a, b, degrees float32 }

// tube runs from foot to head. Its cross-section at each height is an ellipse, smoothly
// interpolated between stations. Its ends are flat.
type tube struct {
	z0   float32
	cuts []cut // every mm upwards from z0
	all  box
}

type cut struct{ x, y, a, b, cos, sin, slope float32 } // slope: cosine of the axis' tilt from z

// newTube accepts stations in descending or ascending z.
func newTube(stations []section) *tube {
	if stations[0].z > stations[len(stations)-1].z {
		reversed := make([]section, len(stations))
		for i, s := range stations {
			reversed[len(stations)-1-i] = s
		}
		stations = reversed
	}
	n := len(stations)
	t := &tube{z0: stations[0].z}
	steps := int(math.Ceil(float64(stations[n-1].z - t.z0)))
	get := func(s section) [5]float32 { return [5]float32{s.x, s.y, s.a, s.b, s.degrees} }
	tangent := func(i, k int) float32 {
		a, b := max(i-1, 0), min(i+1, n-1)
		return (get(stations[b])[k] - get(stations[a])[k]) / (stations[b].z - stations[a].z)
	}
	i := 0
	for s := range steps + 1 {
		z := min(t.z0+float32(s), stations[n-1].z)
		for i < n-2 && z > stations[i+1].z {
			i++
		}
		h := stations[i+1].z - stations[i].z
		f := (z - stations[i].z) / h
		var v [5]float32
		for k := range v { // cubic Hermite
			p, q := get(stations[i])[k], get(stations[i+1])[k]
			v[k] = (1+2*f)*(1-f)*(1-f)*p + f*(1-f)*(1-f)*h*tangent(i, k) + f*f*(3-2*f)*q + f*f*(f-1)*h*tangent(i+1, k)
		}
		sin, cos := math.Sincos(float64(v[4]) * math.Pi / 180)
		t.cuts = append(t.cuts, cut{x: v[0], y: v[1], a: max(v[2], 0.3), b: max(v[3], 0.3),
			cos: float32(cos), sin: float32(sin)})
	}
	for k := range t.cuts {
		a, b := t.cuts[max(k-1, 0)], t.cuts[min(k+1, len(t.cuts)-1)]
		dz := float32(min(k+1, len(t.cuts)-1) - max(k-1, 0))
		t.cuts[k].slope = dz / sqrt(dz*dz+(b.x-a.x)*(b.x-a.x)+(b.y-a.y)*(b.y-a.y))
	}
	t.all = t.span(0, len(t.cuts)-1)
	return t
}

func (t *tube) top() float32 { return t.z0 + float32(len(t.cuts)-1) }

// at returns the cross-section at height z, clamped to the tube's ends.
func (t *tube) at(z float32) cut {
	f := clamp(z-t.z0, 0, float32(len(t.cuts)-1))
	i := min(int(f), len(t.cuts)-2)
	f -= float32(i)
	a, b := &t.cuts[i], &t.cuts[i+1]
	return cut{
		x: a.x + f*(b.x-a.x), y: a.y + f*(b.y-a.y), a: a.a + f*(b.a-a.a), b: a.b + f*(b.b-a.b),
		cos: a.cos + f*(b.cos-a.cos), sin: a.sin + f*(b.sin-a.sin),
		slope: a.slope + f*(b.slope-a.slope),
	}
}

func (t *tube) dist(p vec) float32 {
	c := t.at(p.z)
	x, y := p.x-c.x, p.y-c.y
	d := ellipse(x*c.cos+y*c.sin, y*c.cos-x*c.sin, c.a, c.b) * c.slope
	if end := max(t.z0-p.z, p.z-t.top()); end > -c.b {
		if d > 0 && end > 0 {
			return hypot(d, end)
		}
		return max(d, end)
	}
	return d
}

func (t *tube) bounds() box { return t.all }

func (t *tube) span(from, to int) box {
	b := box{vec{1e9, 1e9, t.z0 + float32(from)}, vec{-1e9, -1e9, t.z0 + float32(to)}}
	for _, c := range t.cuts[from : to+1] {
		h := vec{hypot(c.a*c.cos, c.b*c.sin), hypot(c.a*c.sin, c.b*c.cos), 0}
		b.lo.x, b.hi.x = min(b.lo.x, c.x-h.x), max(b.hi.x, c.x+h.x)
		b.lo.y, b.hi.y = min(b.lo.y, c.y-h.y), max(b.hi.y, c.y+h.y)
	}
	return b
}

// stretch is the part of a tube between two heights, with a small bounding box.
type stretch struct {
	*tube
	b      box
	lo, hi float32
}

func (s *stretch) bounds() box { return s.b }

// dist is the tube's distance, or far beyond the stretch, where its neighbours are.
func (s *stretch) dist(p vec) float32 {
	if p.z < s.lo || p.z >= s.hi {
		return far
	}
	return s.tube.dist(p)
}

// pieces cuts a long tube into stretches.
func (t *tube) pieces() []part {
	const length = 12
	var out []part
	for from := 0; from < len(t.cuts)-1; from += length {
		to := min(from+length, len(t.cuts)-1)
		s := &stretch{t, t.span(from, to), t.z0 + float32(from), t.z0 + float32(to)}
		if from == 0 {
			s.lo = -far
		}
		if to == len(t.cuts)-1 {
			s.hi = far
		}
		out = append(out, s)
	}
	return out
}

// rod is a straight piece with round ends and radii ra, rb; tall > 1 makes it that many times
// higher than wide.
type rod struct {
	a, b   vec
	ra, rb float32
	tall   float32
}

func (r *rod) dist(p vec) float32 {
	flat := 1 / r.tall
	ab := vec{r.b.x - r.a.x, r.b.y - r.a.y, (r.b.z - r.a.z) * flat}
	ap := vec{p.x - r.a.x, p.y - r.a.y, (p.z - r.a.z) * flat}
	t := clamp(ap.dot(ab)/ab.dot(ab), 0, 1)
	q := ap.sub(ab.mul(t))
	return sqrt(q.dot(q)) - (r.ra + t*(r.rb-r.ra))
}

func (r *rod) bounds() box {
	a, b := vec{r.ra, r.ra, r.ra * r.tall}, vec{r.rb, r.rb, r.rb * r.tall}
	return box{r.a.sub(a), r.a.add(a)}.union(box{r.b.sub(b), r.b.add(b)})
}

// chain places rods along a smooth curve through points, with interpolated radii.
func chain(points []vec, radii []float32, tall float32) []part {
	const per = 4
	n := len(points)
	at := func(i int) vec { return points[min(max(i, 0), n-1)] }
	var out []part
	last, lastR := points[0], radii[0]
	for i := range n - 1 {
		for k := 1; k <= per; k++ { // Catmull-Rom
			f := float32(k) / per
			p0, p1, p2, p3 := at(i-1), at(i), at(i+1), at(i+2)
			next := p1.mul(2).add(p2.sub(p0).mul(f)).
				add(p0.mul(2).sub(p1.mul(5)).add(p2.mul(4)).sub(p3).mul(f * f)).
				add(p1.mul(3).sub(p0).sub(p2.mul(3)).add(p3).mul(f * f * f)).mul(0.5)
			r := radii[i] + f*(radii[i+1]-radii[i])
			out = append(out, &rod{last, next, lastR, r, tall})
			last, lastR = next, r
		}
	}
	return out
}

// far is a distance in mm beyond which nothing matters.
const far = 1e3

// join is the smooth minimum of two distances: surfaces closer than k mm blend into each other.
func join(a, b, k float32) float32 {
	h := max(k-abs(a-b), 0)
	return min(a, b) - h*h/(4*k)
}

// noise is a smooth random function of space, periodic with side cells; mean 0, standard deviation
// about 0.6.
type noise struct{ v []float32 }

const side = 32

func newNoise(normal func() float64) *noise {
	n := &noise{v: make([]float32, side*side*side)}
	for i := range n.v {
		n.v[i] = clamp(float32(normal()), -2.5, 2.5)
	}
	return n
}

// at samples with cells of the given size in mm.
func (n *noise) at(p vec, cell float32) float32 {
	x, y, z := p.x/cell+4096, p.y/cell+4096, p.z/cell+4096 // positive: truncation is floor
	ix, iy, iz := int(x), int(y), int(z)
	fx, fy, fz := x-float32(ix), y-float32(iy), z-float32(iz)
	x0, x1 := ix%side, (ix+1)%side
	y0, y1 := iy%side*side, (iy+1)%side*side
	z0, z1 := iz%side*side*side, (iz+1)%side*side*side
	row := func(o int) float32 { return n.v[o+x0] + fx*(n.v[o+x1]-n.v[o+x0]) }
	a, b := row(z0+y0), row(z1+y0)
	a += fy * (row(z0+y1) - a)
	b += fy * (row(z1+y1) - b)
	return a + fz*(b-a)
}

package phantom

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// scanner is a patient's pose on the couch and the grid that samples it. World coordinates are in
// mm, LPS, with z relative to the table position shift.
type scanner struct {
	origin  [3]float64 // of the image, (x, y, z)
	shift   [3]float64 // world minus local, so that float32 coordinates stay small
	first   vec        // centre of the first voxel, local
	spacing vec
	shape   [3]int // (z, y, x)
	pose    [3]vec // rows of the rotation from the local to the patient's axes
	move    vec    // the patient's origin, local
	scale   float32
	seed    uint64
}

// warpSize bounds the deformation of the patient, mm.
const (
	warpSize = 2.4
	warpCell = 48
)

func newScanner(rng *rand.Rand, c *Config) *scanner {
	s := &scanner{shape: c.Shape, seed: rng.Uint64()}
	s.spacing = vec{float32(c.Spacing[2]), float32(c.Spacing[1]), float32(c.Spacing[0])}
	u := func(by float64) float64 { return by * (2*rng.Float64() - 1) }
	yaw, roll, pitch := u(5)*math.Pi/180, u(2.5)*math.Pi/180, u(6)*math.Pi/180
	sa, ca := math.Sincos(yaw)
	sb, cb := math.Sincos(pitch)
	sc, cc := math.Sincos(roll)
	// Rz(yaw)·Rx(pitch)·Ry(roll)
	s.pose = [3]vec{
		{float32(ca*cc - sa*sb*sc), float32(-sa * cb), float32(ca*sc + sa*sb*cc)},
		{float32(sa*cc + ca*sb*sc), float32(ca * cb), float32(sa*sc - ca*sb*cc)},
		{float32(-cb * sc), float32(sb), float32(cb * cc)},
	}
	s.scale = float32(1 + 0.06*max(min(rng.NormFloat64(), 2), -2))
	extent := func(axis int) float64 { return float64(c.Shape[axis]-1) * c.Spacing[axis] }
	s.move = vec{float32(u(6)), float32(u(6)), float32(u(8))}
	// The field of view is centred on the middle of head and neck, slightly in front of and below
	// C4/C5.
	s.first = vec{float32(-extent(2) / 2), float32(-4 - extent(1)/2), float32(-4 - extent(0)/2)}
	table := math.Round((-900+800*rng.Float64())*2) / 2
	s.shift = [3]float64{0, -math.Round(150 + 40*rng.Float64()), table}
	for i, v := range []float32{s.first.x, s.first.y, s.first.z} {
		s.origin[i] = math.Round((float64(v)+s.shift[i])*1000) / 1000
	}
	return s
}

// toPatient transforms local coordinates to the patient's, without the warp.
func (s *scanner) toPatient(p vec) vec {
	q := p.sub(s.move).mul(1 / s.scale)
	return vec{q.dot(s.pose[0]), q.dot(s.pose[1]), q.dot(s.pose[2])}
}

// toWorld is the inverse of toPatient, without shift.
func (s *scanner) toWorld(p vec) vec {
	q := s.pose[0].mul(p.x).add(s.pose[1].mul(p.y)).add(s.pose[2].mul(p.z))
	return q.mul(s.scale).add(s.move)
}

// local is the bounding box in local coordinates of a patient's box, with a margin for the warp.
func (s *scanner) local(b box) box {
	b = b.pad(warpSize)
	out := box{vec{1e9, 1e9, 1e9}, vec{-1e9, -1e9, -1e9}}
	for i := range 8 {
		p := b.lo
		if i&1 > 0 {
			p.x = b.hi.x
		}
		if i&2 > 0 {
			p.y = b.hi.y
		}
		if i&4 > 0 {
			p.z = b.hi.z
		}
		q := s.toWorld(p)
		out.lo, out.hi = out.lo.min(q), out.hi.max(q)
	}
	return out
}

func (s *scanner) last() vec {
	return s.first.add(vec{s.spacing.x * float32(s.shape[2]-1), s.spacing.y * float32(s.shape[1]-1),
		s.spacing.z * float32(s.shape[0]-1)})
}

// sees reports whether a patient's box lies inside the field of view.
func (s *scanner) sees(b box) bool {
	l := s.local(b)
	return box{s.first, s.last()}.contains(l.lo) && box{s.first, s.last()}.contains(l.hi)
}

// heights is the approximate range of the patient's heights on the grid.
func (s *scanner) heights() (lo, hi float32) {
	return (s.first.z - s.move.z) / s.scale, (s.last().z - s.move.z) / s.scale
}

// warp deforms the patient, since nobody is symmetric.
func warp(n *noise, p vec) vec {
	const shift = 1000 // another part of the noise for each axis
	w := func(q vec) float32 { return clamp(1.6*n.at(q, warpCell), -warpSize, warpSize) }
	return p.add(vec{w(vec{p.x + shift, p.y, p.z}), w(vec{p.x, p.y + shift, p.z}),
		w(vec{p.x, p.y, p.z + shift})})
}

// plan is a part with the voxels that it can affect: slices in mm, columns [x0, x1), rows [y0, y1).
type plan struct {
	part
	lo, hi         float32 // local z
	x0, x1, y0, y1 int
}

func (s *scanner) plan(p part, margin float32) plan {
	b := s.local(p.bounds().pad(margin))
	index := func(v, first, spacing float32, n int) int {
		return min(max(int(math.Floor(float64((v-first)/spacing))), 0), n)
	}
	return plan{
		part: p, lo: b.lo.z, hi: b.hi.z,
		x0: index(b.lo.x, s.first.x, s.spacing.x, s.shape[2]),
		x1: index(b.hi.x, s.first.x-2*s.spacing.x, s.spacing.x, s.shape[2]),
		y0: index(b.lo.y, s.first.y, s.spacing.y, s.shape[1]),
		y1: index(b.hi.y, s.first.y-2*s.spacing.y, s.spacing.y, s.shape[1]),
	}
}

// job is the read-only state shared by all slices.
type job struct {
	*scanner
	a      *anatomy
	out    *Case
	body   []plan
	organs [][]plan // of each structure
	nodes  []*lymphNode
	thick  []float32 // heights in a slice that are averaged, relative to its centre
	filter filter
	gain   float32 // white noise before the filter per HU after it
	metals []streak
}

// scan fills the case slice by slice and returns the number of voxels of each node.
func (s *scanner) scan(ctx context.Context, a *anatomy, out *Case, nodes []*lymphNode) ([]int,
	error) {
	j := &job{scanner: s, a: a, out: out, nodes: nodes}
	soft := s.softness()
	for _, p := range a.body {
		j.body = append(j.body, s.plan(p, skinBlend+a.padding+soft))
	}
	for _, st := range a.structures {
		var plans []plan
		for _, p := range st.parts {
			plans = append(plans, s.plan(p, st.blend/4+2*st.rough+soft))
		}
		j.organs = append(j.organs, plans)
	}
	n := max(1, int(math.Round(float64(s.spacing.z)/1.3)))
	for k := range n {
		j.thick = append(j.thick, (float32(k)+0.5)/float32(n)*s.spacing.z-s.spacing.z/2)
	}
	j.filter, j.gain = newFilter(out.Kernel, s.spacing)
	j.metals = newStreaks(a, s)

	threads := out.Threads
	if threads < 1 {
		threads = runtime.GOMAXPROCS(0)
	}
	threads = min(threads, s.shape[0])
	var next atomic.Int64
	var wg sync.WaitGroup
	counts := make([][]int, threads)
	for t := range threads {
		wg.Go(func() {
			w := newWorker(j)
			for ctx.Err() == nil {
				z := int(next.Add(1)) - 1
				if z >= s.shape[0] {
					break
				}
				w.slice(z)
			}
			counts[t] = w.counts
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sum := make([]int, len(nodes))
	for _, c := range counts {
		for i, v := range c {
			sum[i] += v
		}
	}
	return sum, nil
}

// softness is the width in mm over which a surface is blurred by the voxel size.
func (s *scanner) softness() float32 { return max(s.spacing.x, s.spacing.y, 0.5) }

// worker holds one slice's buffers, row-major (y, x).
type worker struct {
	*job
	nx, ny int
	p      []vec // the patient's coordinates
	coarse []vec
	d      []float32 // distance to the structure being drawn
	inside []float32 // fraction of the voxel in the body
	hu     []float32 // of one height
	sum    []float32 // over the heights of a slice
	bodies []float32 // inside, over the heights
	tmp    []float32
	kind   []tissue
	counts []int
}

func newWorker(j *job) *worker {
	w := &worker{job: j, nx: j.shape[2], ny: j.shape[1], counts: make([]int, len(j.nodes))}
	n := w.nx * w.ny
	w.p, w.kind = make([]vec, n), make([]tissue, n)
	for _, b := range []*[]float32{&w.d, &w.inside, &w.hu, &w.sum, &w.bodies, &w.tmp} {
		*b = make([]float32, n)
	}
	return w
}

// slice computes slice z of the image and its labels.
func (w *worker) slice(z int) {
	clear(w.sum)
	clear(w.bodies)
	middle := w.first.z + float32(z)*w.spacing.z
	for _, dz := range w.thick {
		w.place(middle + dz)
		w.draw(middle + dz)
		for i, v := range w.hu {
			w.sum[i] += v
			w.bodies[i] += w.inside[i]
		}
	}
	f := 1 / float32(len(w.thick))
	for i := range w.sum {
		w.sum[i] *= f
		w.bodies[i] *= f
	}
	if len(w.thick) > 1 {
		w.place(middle)
		if w.out.tissues != nil {
			w.draw(middle)
		}
	}
	w.label(z, middle)
	for y := w.ny - 1; y >= 0 && w.out.Back[z] == 0; y-- {
		if slices.Max(w.bodies[y*w.nx:(y+1)*w.nx]) > 0.5 {
			w.out.Back[z] = y + 1
		}
	}
	for _, m := range w.metals {
		m.add(w, middle)
	}
	rng := rand.New(rand.NewPCG(w.seed, uint64(z)))
	w.addNoise(rng)
	w.filter.apply(w.sum, w.tmp, w.hu, w.nx, w.ny)
	out := w.out.CT[z*len(w.sum) : (z+1)*len(w.sum)]
	for i, v := range w.sum {
		out[i] = int16(clamp(float32(math.Round(float64(v))), -1024, 3071))
	}
	if w.out.tissues != nil {
		copy(w.out.tissues[z*len(w.sum):], w.kind)
	}
}

// place computes the patient's coordinates of the pixels at local height z: exactly at every eighth
// pixel, linearly interpolated between.
func (w *worker) place(z float32) {
	const step = 8
	cx, cy := w.nx/step+2, w.ny/step+2
	if w.coarse == nil {
		w.coarse = make([]vec, cx*cy)
	}
	for y := range cy {
		for x := range cx {
			p := vec{w.first.x + float32(x*step)*w.spacing.x,
				w.first.y + float32(y*step)*w.spacing.y, z}
			w.coarse[y*cx+x] = warp(w.a.noise, w.toPatient(p))
		}
	}
	for y := range w.ny {
		top, bottom := w.coarse[y/step*cx:], w.coarse[(y/step+1)*cx:]
		fy := float32(y%step) / step
		row := w.p[y*w.nx : (y+1)*w.nx]
		for x0 := 0; x0 < w.nx; x0 += step {
			i := x0 / step
			a := top[i].add(bottom[i].sub(top[i]).mul(fy))
			b := top[i+1].add(bottom[i+1].sub(top[i+1]).mul(fy))
			d := b.sub(a).mul(1.0 / step)
			for x := x0; x < min(x0+step, w.nx); x++ {
				row[x] = a
				a = a.add(d)
			}
		}
	}
}

// surface computes into w.d the distance to the union of parts at local height z, and returns the
// rectangle that was computed; inside it the distance is far where no part is near.
func (w *worker) surface(plans []plan, blend, z float32) (x0, x1, y0, y1 int) {
	x0, y0 = w.nx, w.ny
	for i := range plans {
		if p := &plans[i]; z >= p.lo && z <= p.hi {
			x0, x1, y0, y1 = min(x0, p.x0), max(x1, p.x1), min(y0, p.y0), max(y1, p.y1)
		}
	}
	for y := y0; y < y1; y++ {
		row := w.d[y*w.nx+x0 : y*w.nx+max(x0, x1)]
		for i := range row {
			row[i] = far
		}
	}
	for i := range plans {
		p := &plans[i]
		if z < p.lo || z > p.hi {
			continue
		}
		for y := p.y0; y < p.y1; y++ {
			for i := y*w.nx + p.x0; i < y*w.nx+p.x1; i++ {
				d := p.dist(w.p[i])
				if blend > 0 {
					w.d[i] = join(w.d[i], d, blend)
				} else {
					w.d[i] = min(w.d[i], d)
				}
			}
		}
	}
	return x0, x1, y0, y1
}

// draw draws one height: air, couch, body, then the structures in order.
func (w *worker) draw(z float32) {
	for i := range w.hu {
		w.hu[i] = -1000
	}
	clear(w.inside)
	clear(w.kind)
	w.couch(z)
	soft := w.softness()
	x0, x1, y0, y1 := w.surface(w.body, skinBlend, z)
	n := w.a.noise
	for y := y0; y < y1; y++ {
		for i := y*w.nx + x0; i < y*w.nx+x1; i++ {
			d := w.d[i] - w.a.padding
			f := clamp(0.5-d/soft, 0, 1)
			if f == 0 {
				continue
			}
			w.inside[i] = f
			p := w.p[i]
			hu := -104 + 7*n.at(p, 3.5)
			if strand := n.at(vec{p.x, p.y, p.z * 0.3}, 5); abs(strand) < 0.05 && d < -3 {
				hu += 45 // septa
			}
			if d > -1.7 {
				hu += clamp((d+1.7)/0.6, 0, 1) * (5 - hu)
			}
			w.hu[i] += f * (hu - w.hu[i])
			if f >= 0.5 {
				w.kind[i] = fat
			}
		}
	}
	for k, st := range w.a.structures {
		x0, x1, y0, y1 := w.surface(w.organs[k], st.blend, z)
		for y := y0; y < y1; y++ {
			for i := y*w.nx + x0; i < y*w.nx+x1; i++ {
				d := w.d[i]
				if st.rough > 0 && abs(d) < 4 {
					d += st.rough * n.at(w.p[i], 8)
				}
				// a plane of fat between muscles
				if st.kind == muscle && d > 0 && d < 1.3 && w.kind[i] == muscle {
					w.hu[i] += 0.5 * (-80 - w.hu[i])
				}
				if d > soft/2 {
					continue
				}
				f := min(0.5-d/soft, 1) * w.inside[i]
				if f <= 0 {
					continue
				}
				w.hu[i] += f * (st.hu(d, w.p[i]) - w.hu[i])
				// a node on a vessel would be visible in the map of tissues
				if f >= 0.5 && !(st.kind == lymph && w.kind[i].hard()) {
					w.kind[i] = st.kind
				}
			}
		}
	}
}

// label writes the labels of slice z at its centre.
func (w *worker) label(z int, middle float32) {
	out := w.out.Labels[z*w.nx*w.ny : (z+1)*w.nx*w.ny]
	for k, st := range w.a.structures {
		if st.node == 0 {
			continue
		}
		x0, x1, y0, y1 := w.surface(w.organs[k], 0, middle)
		for y := y0; y < y1; y++ {
			for i := y*w.nx + x0; i < y*w.nx+x1; i++ {
				if w.d[i] < 0 {
					out[i] = uint8(w.nodes[st.node-1].Label)
					w.counts[st.node-1]++
				}
			}
		}
	}
}

// couch draws the table and, at the head, the head rest: foam in a thin shell.
func (w *worker) couch(z float32) {
	head := clamp((z-35)/10, 0, 1)
	for y := range w.ny {
		ly := w.first.y + float32(y)*w.spacing.y - w.move.y
		if ly < 40 {
			continue
		}
		for x := range w.nx {
			lx := w.first.x + float32(x)*w.spacing.x
			paint := func(d, thick float32) { // d: distance to the foam's surface, negative inside
				f := clamp(0.5-d/w.spacing.x, 0, 1)
				if f == 0 {
					return
				}
				hu := float32(-945)
				if d > -thick {
					hu = -90
				}
				i := y*w.nx + x
				w.hu[i] += f * (hu - w.hu[i])
				if f >= 0.5 {
					w.kind[i] = couch
				}
			}
			top := 122 + lx*lx/1400
			paint(max(abs(ly-top-18)-18, abs(lx)-215), 2)
			if head > 0 {
				r := hypot(lx, ly-2)
				paint(max(abs(r-108)-6*head, 45-ly), 1.5)
			}
		}
	}
}

// addNoise adds quantum noise: white noise, to be coloured by the filter, stronger along rows that
// cross much of the body (the shoulders), with streaks along those.
func (w *worker) addNoise(rng *rand.Rand) {
	if w.out.Noise == 0 {
		return
	}
	sigma := float32(w.out.Noise) * w.gain
	for y := range w.ny {
		row := w.sum[y*w.nx : (y+1)*w.nx]
		in := w.bodies[y*w.nx : (y+1)*w.nx]
		width := float32(0)
		for _, f := range in {
			width += f
		}
		width *= w.spacing.x
		long := clamp(float32(math.Exp(float64(width-115)/260)), 0.75, 2.6)
		streak := float32(w.out.Noise) * clamp((width-210)/70, 0, 1.6)
		line := float32(0)
		keep := float32(math.Exp(float64(-w.spacing.x / 40)))
		fresh := sqrt(1 - keep*keep)
		for x := range row {
			n := float32(rng.NormFloat64())
			line = keep*line + fresh*n // reuses n, which is cheap and hardly visible
			row[x] += sigma*long*(0.45+0.55*in[x])*n + streak*in[x]*line
		}
	}
}

// A filter is the effect of the reconstruction kernel in a slice: blur and, if sharp, edge
// enhancement.
type filter struct {
	x, y         []float32 // taps of the blur, odd
	edgeX, edgeY []float32 // taps of the wider blur whose difference is added
	edge         float32
}

// newFilter returns the filter, and the standard deviation of white noise that becomes 1 after it.
func newFilter(k Kernel, spacing vec) (filter, float32) {
	var f filter
	blur := map[Kernel]float32{KernelSoft: 0.62, KernelMedium: 0.45, KernelSharp: 0.32}[k] // mm
	f.x, f.y = gaussian(blur/spacing.x), gaussian(blur/spacing.y)
	if k == KernelSharp {
		f.edge = 0.7
		f.edgeX, f.edgeY = gaussian(0.9/spacing.x), gaussian(0.9/spacing.y)
	}
	// The energy of the impulse response.
	const n = 65
	point, tmp, edges := make([]float32, n*n), make([]float32, n*n), make([]float32, n*n)
	point[n/2*n+n/2] = 1
	f.apply(point, tmp, edges, n, n)
	energy := float32(0)
	for _, v := range point {
		energy += v * v
	}
	return f, 1 / sqrt(energy)
}

// gaussian returns normalised taps; just 1 if the blur is below a fifth of a voxel.
func gaussian(sigma float32) []float32 {
	if sigma < 0.2 {
		return []float32{1}
	}
	r := min(int(math.Ceil(float64(2.7*sigma))), 15)
	taps := make([]float32, 2*r+1)
	sum := float32(0)
	for i := range taps {
		x := float64(float32(i-r) / sigma)
		taps[i] = float32(math.Exp(-x * x / 2))
		sum += taps[i]
	}
	for i := range taps {
		taps[i] /= sum
	}
	return taps
}

// apply filters the image in place; tmp and edges are workspace.
func (f *filter) apply(image, tmp, edges []float32, nx, ny int) {
	blur(image, image, tmp, f.x, f.y, nx, ny)
	if f.edge == 0 {
		return
	}
	blur(edges, image, tmp, f.edgeX, f.edgeY, nx, ny)
	for i, v := range image {
		image[i] = v + f.edge*(v-edges[i])
	}
}

// blur convolves src with the taps along x and y into dst, which may be src. Edges are replicated.
func blur(dst, src, tmp, tapsX, tapsY []float32, nx, ny int) {
	r := len(tapsX) / 2
	for y := range ny {
		in, out := src[y*nx:(y+1)*nx], tmp[y*nx:(y+1)*nx]
		for x := range out {
			sum := float32(0)
			if x >= r && x+r < nx {
				for k, v := range in[x-r : x+r+1] {
					sum += tapsX[k] * v
				}
			} else {
				for k, t := range tapsX {
					sum += t * in[min(max(x+k-r, 0), nx-1)]
				}
			}
			out[x] = sum
		}
	}
	r = len(tapsY) / 2
	for y := range ny {
		out := dst[y*nx : (y+1)*nx]
		clear(out)
		for k, t := range tapsY {
			row := min(max(y+k-r, 0), ny-1)
			for x, v := range tmp[row*nx : (row+1)*nx] {
				out[x] += t * v
			}
		}
	}
}

// streak is the artefact around one piece of dental metal: bright and dark rays.
type streak struct {
	at      vec // local
	reach   float32
	profile []float32 // HU at angles of a full turn
}

func newStreaks(a *anatomy, s *scanner) []streak {
	var out []streak
	for i, m := range a.metals {
		k := streak{at: s.toWorld(m), reach: 2.5 + float32(a.rng.Float64())*1.5,
			profile: make([]float32, 720)}
		add := func(angle, width, hu float64) { // a ray and the one opposite
			for b := range k.profile {
				d := math.Remainder(float64(b)/720*2*math.Pi-angle, math.Pi)
				k.profile[b] += float32(hu * math.Exp(-d*d/(2*width*width)))
			}
		}
		for range 26 {
			add(a.rng.Float64()*math.Pi, 0.012+0.03*a.rng.Float64(), 230*a.rng.NormFloat64())
		}
		for _, o := range a.metals[:i] { // dark bands between metals
			p := s.toWorld(o).sub(k.at)
			if abs(p.z) < 6 {
				add(math.Atan2(float64(p.y), float64(p.x)), 0.07, -380)
			}
		}
		out = append(out, k)
	}
	return out
}

// add adds the streaks to a slice.
func (k *streak) add(w *worker, z float32) {
	height := (z - k.at.z) / k.reach
	weight := float32(math.Exp(float64(-height * height)))
	if weight < 0.02 {
		return
	}
	n := float32(len(k.profile))
	turn := height * 0.06 // rays rotate from slice to slice
	for y := range w.ny {
		dy := w.first.y + float32(y)*w.spacing.y - k.at.y
		for x := range w.nx {
			dx := w.first.x + float32(x)*w.spacing.x - k.at.x
			r := hypot(dx, dy)
			if r > 160 {
				continue
			}
			angle := float32(math.Atan2(float64(dy), float64(dx)))/(2*math.Pi) + turn
			b := (angle - float32(math.Floor(float64(angle)))) * n
			i := int(b) % len(k.profile)
			f := b - float32(int(b))
			v := k.profile[i] + f*(k.profile[(i+1)%len(k.profile)]-k.profile[i])
			in := w.bodies[y*w.nx+x]
			fall := r / (r + 4) * float32(math.Exp(float64(-r/38)))
			w.sum[y*w.nx+x] += weight * v * fall * (0.25 + 0.75*in) * 1.6
		}
	}
}

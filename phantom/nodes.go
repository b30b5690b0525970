package phantom

import (
	"fmt"
	"math"
	"slices"
)

// region is where nodes of a level lie: along a vessel or nerve, between two heights.
type region struct {
	level  string
	chain  string // in anatomy.chains
	lo, hi float32
	weight float64 // relative frequency of nodes
	around float32 // mm: maximum distance from the chain's wall
}

// After the levels of the neck (Robbins et al. 2002) and where nodes are usually visible in them.
var regions = []region{
	{"I", "submental", 12, 24, 0.05, 5},
	{"I", "facial", 4, 26, 0.13, 9},
	{"II", "jugular", 14, 60, 0.34, 7},
	{"III", "jugular", -18, 14, 0.18, 7},
	{"IV", "jugular", -80, -18, 0.14, 8},
	{"V", "accessory", -80, 50, 0.18, 6},
}

// levelLabel is the label of a level, if levels have labels of their own.
func levelLabel(level string) int {
	return slices.Index([]string{"I", "II", "III", "IV", "V"}, level) + 1
}

// lymphNode is a node being placed; surface is in the patient's coordinates, mm.
type lymphNode struct {
	Node
	surface *nodeSurface
}

// nodeSurface is an ellipsoid with bumps.
type nodeSurface struct {
	ellipsoid
	noise *noise
	bump  float32 // mm
	cell  float32 // mm
}

func (n *nodeSurface) dist(p vec) float32 {
	d := n.ellipsoid.dist(p)
	if abs(d) > 3*n.bump+4 {
		return d
	}
	return d + n.bump*n.noise.at(p, n.cell)
}

func (n *nodeSurface) bounds() box { return n.ellipsoid.bounds().pad(2.5 * n.bump) }

// placeNodes draws the nodes, finds space for them and adds them to the patient. A node may
// displace muscles and glands, but touches no vessel, bone, cartilage or airway, and no other node:
// nodes are at least a voxel apart.
func (a *anatomy) placeNodes(s *scanner, c *Config) []*lymphNode {
	var placed []*lymphNode
	n := c.Nodes[0] + a.rng.IntN(c.Nodes[1]-c.Nodes[0]+1)
	coarse := max(c.Spacing[0], c.Spacing[1], c.Spacing[2])
	least := max(MinShortAxis, 1.25*coarse) // visible on the grid
	var sizes []float64
	for range n {
		d := c.ShortAxis * math.Exp(c.Spread*a.rng.NormFloat64())
		sizes = append(sizes, min(max(d, least), max(MaxShortAxis, least)))
	}
	// Largest first: they need the most space.
	slices.SortFunc(sizes, func(x, y float64) int { return int(math.Copysign(1, y-x)) })
	dz, dy, dx := c.Spacing[0], c.Spacing[1], c.Spacing[2]
	gap := float32(1.2 + math.Sqrt(dz*dz+dy*dy+dx*dx))
	for _, size := range sizes {
		for ; size >= least; size *= 0.85 {
			if m := a.placeNode(s, size, gap, placed); m != nil {
				placed = append(placed, m)
				break
			}
		}
	}
	var planes []*structure
	for i, m := range placed {
		m.Label = 1
		if c.Levels {
			m.Label = levelLabel(m.Level)
		}
		planes = append(planes, &structure{name: "fat plane", kind: fat, hu: a.flat(-75, 10, 2),
			parts: []part{&shell{m.surface, 0.9}}})
		st := a.add(fmt.Sprintf("node %d", i+1), lymph, a.nodal(m), m.surface)
		st.node = i + 1
	}
	a.structures = slices.Insert(a.structures, a.planes, planes...)
	return placed
}

// shell is a part enlarged by some mm.
type shell struct {
	part
	by float32
}

func (s *shell) dist(p vec) float32 { return s.part.dist(p) - s.by }
func (s *shell) bounds() box        { return s.part.bounds().pad(s.by) }

// nodal is the interior of a node.
func (a *anatomy) nodal(m *lymphNode) func(float32, vec) float32 {
	e := m.surface
	hu := a.hu.node + a.hu.nodeSpread*float32(a.rng.NormFloat64())*0.6
	fluid := 18 + 14*float32(a.rng.Float64())
	depth := e.r.z * (0.25 + 0.2*float32(a.rng.Float64()))
	rim := float32(0)
	if a.hu.artery > 100 {
		rim = 12
	}
	toward := e.rot[2].mul(e.r.z * 0.55)
	hilum := &ellipsoid{e.centre.add(toward), vec{e.r.x * 0.5, e.r.y * 0.42, e.r.z * 0.5}, e.rot}
	return func(d float32, p vec) float32 {
		v := hu + 8*a.noise.at(p, 2)
		if m.Necrotic {
			f := clamp((-d-depth+1.2*a.noise.at(p, 4))/1.5+0.5, 0, 1)
			v += rim*(1-f) + f*(fluid-hu)
		}
		if m.Hilum {
			v += clamp(0.5-hilum.dist(p)/1.2, 0, 1) * (-55 - v)
		}
		return v
	}
}

// placeNode tries positions for a node with that short axis (a diameter in mm in the scanner); nil
// if there is no space.
func (a *anatomy) placeNode(s *scanner, size float64, gap float32, others []*lymphNode) *lymphNode {
	const tries = 80
	var best *lymphNode
	bestCost := float32(0.45) // maximum fraction of the node in muscle or gland
	// Small nodes are elongated, large ones round.
	round := float32(clamp(float32(size-8)/12, 0, 1))
	var g *region
	for try := range tries {
		if try%20 == 0 { // no space there: try another level
			if g = a.pick(s); g == nil {
				return nil
			}
		}
		long := (1.25 + 0.8*float32(a.rng.Float64())) * (1 - 0.3*round)
		long = max(long, 1.05)
		mid := 1 + (long-1)*0.6*float32(a.rng.Float64())
		r := float32(size) / 2 / s.scale
		i := a.rng.IntN(2)
		t := a.chains[g.chain][i]
		z := g.lo + (g.hi-g.lo)*float32(a.rng.Float64())
		at := t.at(z)
		angle := a.rng.Float64() * 2 * math.Pi
		wall := float32(0)
		if g.chain == "jugular" {
			wall = max(at.a, at.b) + r*mid + 0.8
		}
		away := wall + g.around*float32(a.rng.Float64())
		sin, cos := math.Sincos(angle)
		centre := vec{at.x + away*float32(cos), at.y + away*float32(sin), z}
		// The long axis follows the chain, with a small random tilt.
		axis := vec{float32(a.rng.NormFloat64()) * 0.35, float32(a.rng.NormFloat64()) * 0.35,
			1}.unit()
		second := axis.cross(vec{float32(cos), float32(sin), 0.1}).unit()
		m := &lymphNode{surface: &nodeSurface{noise: a.noise}}
		m.surface.ellipsoid = ellipsoid{centre, vec{r * long, r * mid, r},
			[3]vec{axis, second, axis.cross(second)}}
		m.surface.bump = r * (0.06 + 0.07*float32(a.rng.Float64()))
		m.surface.cell = max(2.5, r*0.8)
		kind := a.rng.Float64()
		m.Necrotic = size > 11 && kind < 0.4
		m.Hilum = !m.Necrotic && size > 5 && kind > 0.55
		if cost := a.cost(s, m, gap, others); cost < bestCost {
			bestCost, best = cost, m
			m.Level = g.level
			m.Side = [2]string{"left", "right"}[i]
			centre := s.toWorld(m.surface.centre)
			for k, v := range []float32{centre.x, centre.y, centre.z} {
				m.Centre[k] = math.Round((float64(v)+s.shift[k])*100) / 100
			}
			for k, v := range []float32{m.surface.r.z, m.surface.r.y, m.surface.r.x} {
				m.Axes[k] = math.Round(float64(2*v*s.scale)*100) / 100
			}
			if cost < 0.08 {
				break
			}
		}
	}
	return best
}

// pick draws a region within the field of view.
func (a *anatomy) pick(s *scanner) *region {
	var seen []region
	sum := 0.0
	lo, hi := s.heights()
	for _, g := range regions {
		part := g
		part.lo, part.hi = max(g.lo, lo+4), min(g.hi, hi-4)
		if part.hi > part.lo {
			part.weight *= float64((part.hi - part.lo) / (g.hi - g.lo))
			seen = append(seen, part)
			sum += part.weight
		}
	}
	u := a.rng.Float64() * sum
	for i := range seen {
		if u -= seen[i].weight; u < 0 {
			return &seen[i]
		}
	}
	return nil
}

// cost is the fraction of the node in muscles and glands, above 1 if the position is not possible.
func (a *anatomy) cost(s *scanner, m *lymphNode, gap float32, others []*lymphNode) float32 {
	const never, step = 2, 1.4 // mm: finer than any vessel with the space around it
	const clearance = 1.2
	b := m.surface.bounds()
	if !s.sees(b) {
		return never
	}
	// Structures that could be near.
	near := b.pad(gap + 2)
	var hards, softs []*structure
	for _, st := range a.structures {
		touches := false
		for _, p := range st.parts {
			q := p.bounds()
			if q.lo.x <= near.hi.x && q.hi.x >= near.lo.x && q.lo.y <= near.hi.y &&
				q.hi.y >= near.lo.y && q.lo.z <= near.hi.z && q.hi.z >= near.lo.z {
				touches = true
				break
			}
		}
		if touches && st.kind.hard() {
			hards = append(hards, st)
		} else if touches && (st.kind == muscle || st.kind == gland || st.kind == mucosa) {
			softs = append(softs, st)
		}
	}
	inside, soft := 0, 0
	for z := near.lo.z; z <= near.hi.z; z += step {
		for y := near.lo.y; y <= near.hi.y; y += step {
			for x := near.lo.x; x <= near.hi.x; x += step {
				p := vec{x, y, z}
				d := m.surface.dist(p)
				if d > gap {
					continue
				}
				for _, o := range others {
					if d+o.surface.dist(p) < gap && d < gap && o.surface.dist(p) < gap {
						return never
					}
				}
				if d > clearance {
					continue
				}
				for _, st := range hards {
					if st.dist(p, 3) < 0.3 {
						return never
					}
				}
				if a.skin(p) > -4 {
					return never
				}
				if d < 0 {
					inside++
					for _, st := range softs {
						if st.dist(p, 1) < 0 {
							soft++
							break
						}
					}
				}
			}
		}
	}
	if inside == 0 {
		return 0
	}
	return float32(soft) / float32(inside)
}

// skin is the distance to the skin, negative inside the body.
func (a *anatomy) skin(p vec) float32 {
	d := float32(1e3)
	for _, q := range a.body {
		if q.bounds().pad(skinBlend + a.padding).contains(p) {
			d = join(d, q.dist(p), skinBlend)
		}
	}
	return d - a.padding
}

// skinBlend is the distance over which parts of the body blend into each other, mm.
const skinBlend = 16

package phantom

import "math/rand/v2"

// tissue is the material of a voxel; later kinds are drawn over earlier ones.
type tissue uint8

const (
	air tissue = iota
	fat
	muscle
	gland
	mucosa
	cartilage
	lymph
	vessel
	bone
	airway
	brain
	tooth
	metal
	couch
)

// hard reports tissues that a node must not touch; others are displaced.
func (t tissue) hard() bool {
	return t == vessel || t == bone || t == airway || t == cartilage || t == tooth || t == metal ||
		t == brain
}

// structure is one organ: the union of its parts, with intensities depending on depth and position.
type structure struct {
	name  string
	kind  tissue
	parts []part
	blend float32 // mm over which parts blend into each other
	rough float32 // amplitude of the surface roughness, mm
	hu    func(d float32, p vec) float32
	node  int // number of the lymph node, from 1; 0: none
}

// dist is the distance in mm to the structure, computed only below far.
func (s *structure) dist(p vec, far float32) float32 {
	d := far
	for _, q := range s.parts {
		if q.bounds().pad(far).contains(p) {
			d = min(d, q.dist(p))
		}
	}
	return d
}

// anatomy is one patient. Lengths are those of a person of average size, with the disc C4/C5 at z =
// 0; the pose transforms them to the scanner.
type anatomy struct {
	rng        *rand.Rand
	noise      *noise
	hu         enhancement
	body       []part  // its surface, of blended parts
	padding    float32 // mm of additional fat
	structures []*structure
	planes     int                 // index in structures of the fat around nodes
	chains     map[string][2]*tube // vessels that nodes lie along, by name and side
	metals     []vec               // centres of dental metal
}

// enhancement holds the HU of the tissues in a contrast phase.
type enhancement struct {
	artery, vein, muscle, thyroid, submandibular, parotid, mucosa, node, nodeSpread float32
}

// Rounded from neck CT protocols: portal-venous-like delays of 50–70 s for "venous", 25–30 s for
// "arterial".
var enhancements = map[Phase]enhancement{
	PhaseNone: {artery: 42, vein: 44, muscle: 55, thyroid: 105, submandibular: 45, parotid: -8,
		mucosa: 48, node: 42, nodeSpread: 6},
	PhaseArterial: {artery: 330, vein: 115, muscle: 60, thyroid: 165, submandibular: 82,
		parotid: 14, mucosa: 72, node: 72, nodeSpread: 11},
	PhaseVenous: {artery: 180, vein: 195, muscle: 66, thyroid: 150, submandibular: 98,
		parotid: 22, mucosa: 92, node: 94, nodeSpread: 13},
}

// vary returns a random factor around 1.
func (a *anatomy) vary(by float32) float32 { return 1 + by*float32(2*a.rng.Float64()-1) }

// off returns a random length around 0.
func (a *anatomy) off(by float32) float32 { return by * float32(2*a.rng.Float64()-1) }

func (a *anatomy) add(name string, kind tissue, hu func(d float32, p vec) float32,
	parts ...part) *structure {
	s := &structure{name: name, kind: kind, hu: hu, parts: parts}
	if kind == muscle || kind == gland {
		s.rough = 0.9
	}
	a.structures = append(a.structures, s)
	return s
}

// flat is tissue of uniform density with texture; grain is in HU, cell in mm.
func (a *anatomy) flat(hu, grain, cell float32) func(float32, vec) float32 {
	if grain == 0 {
		return func(float32, vec) float32 { return hu }
	}
	return func(_ float32, p vec) float32 { return hu + grain*a.noise.at(p, cell) }
}

// muscular is muscle with fibres along z and fat between them, more of it towards the surface.
func (a *anatomy) muscular() func(float32, vec) float32 {
	hu := a.hu.muscle * a.vary(0.05)
	return func(_ float32, p vec) float32 {
		n := a.noise.at(vec{p.x, p.y, p.z * 0.2}, 2.2)
		return hu + 9*n - 45*max(n-0.75, 0)
	}
}

// bony is spongy bone with a dense cortex of the given thickness (rim).
func (a *anatomy) bony(cortex, spongy, rim float32) func(float32, vec) float32 {
	return func(d float32, p vec) float32 {
		f := clamp((-d-rim)/1.2+0.5, 0, 1)
		return cortex + 80*a.noise.at(p, 4) + f*(spongy-cortex+110*a.noise.at(p, 1.6))
	}
}

// tube returns a tube through the stations, with random wobble, mirrored by side.
func (a *anatomy) tube(side float32, wobble float32, stations ...section) *tube {
	s := make([]section, len(stations))
	dx, dy, f := a.off(wobble), a.off(wobble), a.vary(0.08)
	for i, t := range stations {
		t.x = side*t.x + dx + a.off(wobble*0.6)
		t.y += dy + a.off(wobble*0.6)
		t.a *= f
		t.b *= f
		if side < 0 {
			t.degrees = 180 - t.degrees
		}
		s[i] = t
	}
	return newTube(s)
}

func blob(x, y, z, rx, ry, rz, degrees float32) *ellipsoid {
	return &ellipsoid{vec{x, y, z}, vec{rx, ry, rz}, turned(degrees)}
}

// spineY is the y of the vertebral bodies' centres at height z: cervical lordosis, kyphosis below.
func spineY(z float32) float32 {
	at := [][2]float32{{-160, 44}, {-120, 32}, {-79, 19}, {-57, 12}, {-37, 5}, {-19, 0}, {-2, -3},
		{15, -4}, {32, -2}, {50, 1}, {68, 4}, {90, 6}}
	for i := 1; i < len(at); i++ {
		if z <= at[i][0] || i == len(at)-1 {
			f := clamp((z-at[i-1][0])/(at[i][0]-at[i-1][0]), 0, 1)
			return at[i-1][1] + f*(at[i][1]-at[i-1][1])
		}
	}
	return 0
}

// vertebrae, from the axis downwards: height of the body's centre, its half-axes, length of the
// spinous process.
var vertebrae = []struct{ z, a, b, spine float32 }{
	{49, 10, 8, 17}, {32, 11, 8, 11}, {15, 11.5, 8, 11}, {-2, 12, 8.2, 12}, {-19, 12.5, 8.5, 17},
	{-37, 13.5, 9, 27},
	{-57, 14.5, 10, 29}, {-79, 15, 11, 29}, {-101, 15, 12, 29}, {-124, 15, 13, 29},
}

var sides = [2]float32{1, -1} // left, right

func newAnatomy(rng *rand.Rand, phase Phase, metals int) *anatomy {
	a := &anatomy{rng: rng, noise: newNoise(rng.NormFloat64), hu: enhancements[phase],
		chains: map[string][2]*tube{}}
	for _, v := range []*float32{&a.hu.artery, &a.hu.vein, &a.hu.thyroid, &a.hu.submandibular,
		&a.hu.node} {
		*v *= a.vary(0.1)
	}
	a.hu.parotid += a.off(15)
	a.surface()
	a.head()
	a.muscles()
	a.glands()
	a.planes = len(a.structures)
	a.vessels()
	a.pharynx()
	a.skull()
	a.spine()
	a.shoulders()
	a.jaw(metals)
	return a
}

// surface adds the skin.
func (a *anatomy) surface() {
	wide := a.vary(0.06)
	a.padding = 4 + a.off(2)
	neck := []section{
		{70, 0, 22, 57, 54, 0}, {40, 0, 18, 57, 54, 0}, {0, 0, 16, 57, 53, 0},
		{-35, 0, 19, 60, 52, 0}, {-62, 0, 21, 80, 54, 0},
		{-84, 0, 20, 128, 60, 0}, {-106, 0, 18, 172, 70, 0}, {-150, 0, 16, 200, 94, 0},
		{-220, 0, 16, 205, 110, 0},
	}
	throat := []section{{34, 0, -20, 38, 34, 0}, {10, 0, -22, 34, 33, 0}, {-30, 0, -22, 35, 31, 0},
		{-70, 0, -20, 42, 29, 0}, {-100, 0, -18, 60, 32, 0}}
	for i := range neck {
		neck[i].a *= wide
	}
	for i := range throat {
		throat[i].a *= wide
	}
	face := []section{
		{18, 0, -42, 27, 27, 0}, {27, 0, -42, 41, 44, 0}, {38, 0, -42, 49, 51, 0},
		{56, 0, -40, 58, 57, 0}, {80, 0, -38, 64, 57, 0},
		{110, 0, -34, 67, 57, 0}, {170, 0, -20, 66, 60, 0},
	}
	a.body = append(a.body, newTube(neck).pieces()...)
	a.body = append(a.body, newTube(throat).pieces()...)
	a.body = append(a.body, newTube(face).pieces()...)
	a.body = append(a.body, blob(0, 5, 140, 76, 95, 95, 0), blob(0, -101, 84, 12, 14, 17, 0),
		blob(0, -96, 56, 22, 9, 10, 0), blob(0, -88, 34, 17, 10, 10, 0))
	for _, s := range sides { // ears
		a.body = append(a.body, blob(s*75, 12, 86, 2, 12, 24, s*-20))
	}
}

func (a *anatomy) head() {
	for _, s := range sides {
		a.add("temporalis", muscle, a.muscular(), blob(s*60, -24, 112, 8, 32, 38, 0))
		a.add("ear", cartilage, a.flat(10, 0, 0), blob(s*75, 12, 86, 2.5, 12, 24, s*-20))
		a.add("buccinator", muscle, a.muscular(), blob(s*42, -58, 60, 2.5, 20, 12, s*-25))
	}
	a.add("lips", muscle, a.muscular(), blob(0, -95, 57, 22, 5, 11, 0))
}

func (a *anatomy) muscles() {
	for _, s := range sides {
		m := func(name string, stations ...section) {
			a.add(name, muscle, a.muscular(), a.tube(s, 0.8, stations...).pieces()...)
		}
		m("trapezius", section{78, 10, 74, 9, 3, 0}, section{45, 19, 65, 18, 3.6, -20},
			section{0, 29, 57, 29, 4.2, -30}, section{-40, 38, 55, 38, 6, -26},
			section{-70, 56, 52, 54, 7, -14}, section{-95, 66, 54, 62, 9, -5},
			section{-150, 50, 70, 56, 8, 10})
		m("semispinalis", section{80, 14, 54, 12, 10, 0}, section{45, 13.5, 42, 12.5, 10.5, 0},
			section{0, 13, 38.5, 12, 9.5, -10}, section{-50, 13, 44, 11, 9, -10},
			section{-120, 13, 62, 11, 9, 0})
		m("multifidus", section{42, 11, 28, 9, 7, -25}, section{0, 12, 25.5, 10, 8, -30},
			section{-50, 13, 32, 9, 8, -20}, section{-120, 15, 50, 9, 9, 0})
		m("splenius", section{78, 36, 44, 16, 6, -35}, section{45, 30, 43, 18, 6.5, -40},
			section{0, 24, 47, 19, 6.5, -32}, section{-50, 17, 57, 12, 4, -15},
			section{-90, 10, 66, 6, 3, 0})
		m("longissimus", section{70, 44, 26, 6, 9, -10}, section{30, 27, 24, 6, 8, 20},
			section{0, 27, 25, 6, 8.5, 20}, section{-50, 28, 31, 6, 7, 0},
			section{-120, 30, 53, 12, 8, 0})
		m("levator scapulae", section{60, 28, 13, 6, 8, 20}, section{30, 36, 20, 8, 12, 35},
			section{0, 40, 25, 9, 14, 35}, section{-40, 46, 32, 9, 15, 25},
			section{-80, 62, 42, 8, 10, 0}, section{-105, 70, 48, 6, 7, 0})
		m("scalenes", section{34, 23, 0, 4, 5, 0}, section{10, 25, 2, 5, 8, 20},
			section{-20, 29, 5, 7, 11, 20}, section{-45, 34, 8, 9, 13, 15},
			section{-70, 42, 9, 9, 14, 0}, section{-88, 48, 6, 7, 11, 0})
		m("longus", section{80, 8, -9, 6, 4, 10}, section{40, 9, -12, 7, 4, 12},
			section{0, 10, -14, 6.5, 4, 15}, section{-40, 10, -7, 6, 3.5, 15},
			section{-80, 9, 6, 4, 2.5, 15})
		m("sternocleidomastoid", section{76, 55, 27, 9, 4.5, 60}, section{50, 53, 17, 15, 5.5, 76},
			section{20, 50, 7, 18, 6, 76}, section{-10, 47, -5, 18.5, 6.3, 66},
			section{-40, 41, -19, 18, 6, 52}, section{-68, 29, -34, 15, 5.2, 38},
			section{-90, 17, -43, 9, 4, 20}, section{-98, 14, -46, 6, 3, 10})
		m("omohyoid", section{12, 14, -46, 5, 2, 20}, section{-20, 24, -38, 5, 2, 45},
			section{-50, 38, -18, 5, 2, 50}, section{-75, 62, 2, 5, 2, 30})
		m("sternohyoid", section{14, 9, -48, 7, 2.2, 8}, section{-15, 12, -47, 8, 2.4, 16},
			section{-45, 13, -43, 9, 2.6, 18}, section{-92, 10, -42, 9, 2.6, 10})
		m("sternothyroid", section{-5, 16, -40, 6, 2, 30}, section{-40, 16, -40, 8, 2.2, 22},
			section{-95, 8, -36, 8, 2.4, 10})
		m("constrictor", section{62, 13, -15, 3, 8, -35}, section{30, 14, -16, 3, 8, -35},
			section{0, 15, -16, 2.5, 7, -35}, section{-16, 12, -16, 2.5, 5, -40})
		m("masseter", section{36, 49, -24, 5, 13, 12}, section{55, 54, -28, 7, 17, 12},
			section{78, 57, -34, 6, 14, 14}, section{90, 58, -36, 4, 12, 14})
		m("medial pterygoid", section{38, 42, -18, 5, 11, 15}, section{58, 37, -21, 6.5, 13, 15},
			section{82, 27, -25, 6, 10, 15})
		m("lateral pterygoid", section{76, 40, -20, 9, 7, -30}, section{94, 38, -22, 12, 7, -30})
		m("digastric", section{68, 46, 18, 4, 6, 20}, section{45, 42, 2, 4, 6, 20},
			section{26, 32, -22, 3.5, 5, 30})
		a.add("digastric, anterior belly", muscle, a.muscular(),
			chain([]vec{{s * 8, -78, 26}, {s * 10, -62, 23}, {s * 17, -44, 19}},
				[]float32{4, 5.5, 3}, 0.8)...)
		a.add("mylohyoid", muscle, a.muscular(), &slab{vec{s * 17, -55, 32}, vec{14, 22, 2}, 1.5,
			turned(s * -12)})
	}
	a.add("nuchal ligament", cartilage, a.flat(70, 0, 0),
		newTube([]section{{78, 0, 70, 1.2, 8, 0}, {30, 0, 50, 1.2, 14, 0}, {0, 0, 47, 1.2, 14, 0},
			{-40, 0, 60, 1.2, 8, 0}}).pieces()...)
	a.add("geniohyoid", muscle, a.muscular(), chain([]vec{{0, -76, 34}, {0, -62, 30}, {0, -50, 24}},
		[]float32{6, 7, 6}, 0.9)...)
	tongue := a.add("tongue", muscle, a.flat(a.hu.muscle+4, 16, 3), blob(0, -54, 52, 22, 30, 15, 0),
		blob(0, -38, 42, 19, 17, 20, 0), blob(0, -62, 44, 15, 20, 14, 0))
	tongue.blend = 6
}

func (a *anatomy) glands() {
	for _, s := range sides {
		p := a.add("parotid", gland, a.flat(a.hu.parotid, 26, 2.2), blob(s*(57+a.off(1.5)), 2, 60,
			8, 16, 24*a.vary(0.15), s*-12), blob(s*60, -18, 66, 4, 16, 15, s*-14),
			blob(s*48, 6, 58, 9, 9, 17, 0))
		p.blend = 5
		a.add("submandibular", gland, a.flat(a.hu.submandibular, 9, 2.5),
			blob(s*(34+a.off(1.5)), -34, 25+a.off(3), 9*a.vary(0.12), 14*a.vary(0.1),
				13*a.vary(0.12), s*-25))
		a.add("sublingual", gland, a.flat(a.hu.submandibular-10, 8, 2.5),
			blob(s*16, -66, 40, 4, 13, 6, s*-20))
		a.add("tonsil", mucosa, a.flat(a.hu.mucosa, 10, 2), blob(s*17, -26, 52, 4.5*a.vary(0.3), 7,
			11, 0))
		t := a.add("thyroid", gland, a.flat(a.hu.thyroid, 12, 3), blob(s*(18+a.off(1)), -27, -34,
			7.5*a.vary(0.2), 9.5*a.vary(0.15), 23*a.vary(0.12), s*15),
			blob(s*7, -38, -39, 8, 3, 7, s*-20))
		t.blend = 4
	}
	if a.rng.Float64() < 0.35 { // colloid nodule
		s := sides[a.rng.IntN(2)]
		a.add("thyroid nodule", gland, a.flat(a.hu.thyroid*0.5, 15, 2),
			blob(s*19, -27, -38+a.off(8), 4, 4.5, 6, 0))
	}
}

// vessels adds arteries, veins and the chains along which nodes lie, some of which are not drawn.
func (a *anatomy) vessels() {
	var jugular, accessory, facial, submental [2]*tube
	artery, vein := a.flat(a.hu.artery, 0, 0), a.flat(a.hu.vein, 6, 4)
	fork := 12 + a.off(6)
	for i, s := range sides {
		v := func(name string, hu func(float32, vec) float32, wobble float32,
			stations ...section) *tube {
			t := a.tube(s, wobble, stations...)
			a.add(name, vessel, hu, t.pieces()...)
			return t
		}
		common := a.tube(s, 1.2, section{-150, 10, 4, 4.5, 4.5, 0},
			section{-110, 14, -6, 4.2, 4.2, 0}, section{-80, 20, -15, 3.8, 3.8, 0},
			section{-50, 25, -18, 3.6, 3.6, 0}, section{-20, 27, -17, 3.6, 3.6, 0},
			section{fork - 10, 28, -16, 3.9, 3.9, 0}, section{fork, 28.5, -15.5, 4.8, 4.4, 0},
			section{fork + 9, 29, -13, 3.6, 3.4, 0}, section{fork + 25, 29.5, -9, 2.6, 2.6, 0},
			section{66, 27, -6, 2.6, 2.6, 0}, section{86, 23, -3, 2.6, 2.6, 0})
		a.add("carotid", vessel, artery, common.pieces()...)
		at := common.at(fork + 4)
		a.add("external carotid", vessel, artery, a.branch(vec{at.x, at.y - 2, fork + 2},
			vec{s * 27, -23, fork + 14}, vec{s * 33, -21, fork + 32}, vec{s * 46, -10, 62},
			vec{s * 52, -4, 78})...)
		a.add("facial artery", vessel, artery, a.thin(1.1, vec{s * 27, -23, fork + 14},
			vec{s * 32, -32, 36}, vec{s * 40, -47, 30}, vec{s * 42, -54, 36},
			vec{s * 34, -72, 56})...)
		a.add("superior thyroid artery", vessel, artery, a.thin(1, vec{s * 26, -21, fork + 4},
			vec{s * 22, -30, fork - 8}, vec{s * 18, -34, -12})...)
		big := 1.0 + 0.25*float32(1-s)/2 // the right one is usually larger
		big *= a.vary(0.15)
		jugular[i] = v("jugular", vein, 1.2, section{-105, 18, -20, 6 * big, 5 * big, 0},
			section{-85, 25, -22, 6.5 * big, 5 * big, 20},
			section{-55, 34, -20, 6.5 * big, 4.6 * big, 30},
			section{-20, 37, -15, 6 * big, 4.5 * big, 35},
			section{10, 38, -11, 5.6 * big, 4.3 * big, 50},
			section{35, 37.5, -6, 4.8 * big, 3.8 * big, 60},
			section{60, 34, 0, 4 * big, 3.4 * big, 0}, section{84, 28, 4, 3.6, 3.4, 0})
		a.add("external jugular", vessel, vein, a.thin(2*a.vary(0.3), vec{s * 57, 2, 52},
			vec{s * 58, 6, 25}, vec{s * 54, 7, -10}, vec{s * 51, 2, -45}, vec{s * 50, -8, -76})...)
		a.add("anterior jugular", vessel, vein, a.thin(1.4*a.vary(0.3), vec{s * 9, -58, 14},
			vec{s * 9, -53, -20}, vec{s * 8, -50, -60}, vec{s * 12, -49, -88})...)
		a.add("retromandibular vein", vessel, vein, a.thin(2.1, vec{s * 55, -4, 84},
			vec{s * 53, -2, 60}, vec{s * 50, -6, 42}, vec{s * 42, -14, 22},
			vec{s * 40, -13, 10})...)
		a.add("facial vein", vessel, vein, a.thin(1.7, vec{s * 44, -54, 38}, vec{s * 44, -42, 24},
			vec{s * 42, -26, 18}, vec{s * 41, -14, 8})...)
		a.add("lingual artery", vessel, artery, a.thin(1, vec{s * 27, -24, 25},
			vec{s * 20, -36, 26}, vec{s * 10, -52, 36}, vec{s * 7, -66, 46})...)
		a.add("subclavian artery", vessel, artery,
			chain([]vec{{s * 18, -2, -104}, {s * 30, -2, -88}, {s * 48, -4, -84},
				{s * 75, -10, -92}, {s * 120, -8, -108}}, []float32{4.8, 4.6, 4.4, 4.2, 3.8}, 1)...)
		a.add("subclavian vein",
			vessel, vein, chain([]vec{{s * 20, -24, -102}, {s * 38, -26, -94}, {s * 60, -28, -94},
				{s * 90, -22, -104}, {s * 125, -16, -116}}, []float32{5.5, 5.2, 5, 4.8, 4.4}, 1)...)
		accessory[i] = a.tube(s, 1, section{60, 43, 14, 1, 1, 0}, section{30, 46, 20, 1, 1, 0},
			section{0, 49, 24, 1, 1, 0}, section{-30, 54, 22, 1, 1, 0},
			section{-60, 58, 10, 1, 1, 0}, section{-82, 56, 0, 1, 1, 0})
		facial[i] = a.tube(s, 1, section{4, 27, -40, 1, 1, 0}, section{14, 30, -44, 1, 1, 0},
			section{24, 32, -50, 1, 1, 0})
		submental[i] = a.tube(s, 1, section{12, 4, -56, 1, 1, 0}, section{24, 5, -66, 1, 1, 0})
		if a.rng.Float64() < 0.4 { // plaque
			a.add("plaque", vessel, a.flat(650, 150, 1), blob(at.x+s*3.4, at.y+1.5, fork+a.off(4),
				1.2, 1.9, 3, 0))
		}
	}
	a.chains["jugular"], a.chains["accessory"], a.chains["facial"], a.chains["submental"] = jugular,
		accessory, facial, submental
	a.add("brachiocephalic vein",
		vessel, vein, chain([]vec{{20, -24, -104}, {4, -26, -112}, {-16, -22, -120},
			{-22, -18, -150}}, []float32{6, 6.5, 7.5, 9}, 1)...)
}

// branch is a vessel that tapers.
func (a *anatomy) branch(points ...vec) []part {
	radii := make([]float32, len(points))
	for i := range radii {
		radii[i] = 2.6 - 0.25*float32(i)
	}
	return chain(points, radii, 1)
}

// thin is a small vessel of radius r through points with random offsets.
func (a *anatomy) thin(r float32, points ...vec) []part {
	radii := make([]float32, len(points))
	for i := range points {
		points[i] = points[i].add(vec{a.off(0.8), a.off(0.8), a.off(1.5)})
		radii[i] = r * a.vary(0.1)
	}
	return chain(points, radii, 1)
}

// pharynx adds the airway with its walls, larynx, trachea and oesophagus.
func (a *anatomy) pharynx() {
	wide, deep := a.vary(0.12), a.vary(0.15)
	way := []section{{88, 0, -24, 11, 6, 0}, {76, 0, -21, 13, 8, 0}, {62, 0, -21, 12, 5, 0},
		{46, 0, -20, 13, 6, 0}, {28, 0, -20, 15, 8, 0}, {16, 0, -22, 12, 8, 0},
		{6, 0, -28, 8, 8, 0}, {-3, 0, -31, 5, 9, 0}, {-8, 0, -32, 1.8, 9.5, 0},
		{-13, 0, -32, 4.5, 9.5, 0}, {-21, 0, -31, 8, 9.5, 0}, {-36, 0, -29, 8.5, 8.5, 0},
		{-60, 0, -22, 9, 8, 0}, {-90, 0, -10, 9, 8, 0}, {-120, 0, 2, 9, 8, 0},
		{-150, 0, 10, 10, 8, 0}}
	wall := make([]section, len(way))
	for i := range way {
		way[i].a *= wide
		way[i].b *= deep
		wall[i] = way[i]
		thick := float32(3.6)
		if way[i].z < -25 {
			thick = 1.6
		}
		wall[i].a += thick + max(0, 5-way[i].a)
		wall[i].b += thick
	}
	a.add("pharyngeal wall", mucosa, a.flat(a.hu.mucosa, 8, 2.5), newTube(wall).pieces()...)
	a.add("soft palate", mucosa, a.flat(a.hu.muscle+10, 8, 2),
		chain([]vec{{0, -42, 70}, {0, -34, 68}, {0, -28, 58}, {0, -28, 50}}, []float32{4, 5, 4, 2},
			1)...)
	a.add("oesophagus", muscle, a.flat(a.hu.muscle, 8, 2),
		a.tube(1, 0.7, section{-18, 0, -16, 9, 3.5, 0}, section{-40, 1, -15, 8, 4.2, 0},
			section{-70, 4, -2, 7, 5, 0}, section{-110, 3, 15, 7, 5, 0},
			section{-150, 2, 25, 7, 5, 0}).pieces()...)
	ossified := 160 + 150*float32(a.rng.Float64()) // with age
	for _, s := range sides {
		c := a.add("thyroid cartilage", cartilage, a.flat(ossified, 130, 2.5),
			chain([]vec{{0, -49, 0}, {s * 9, -42, 0}, {s * 17, -32, 0}, {s * 20, -20, 0}},
				[]float32{1.5, 1.4, 1.4, 1.6}, 8)...)
		c.parts = append(c.parts, &rod{vec{s * 20, -19, 8}, vec{s * 19, -17, 18}, 1.4, 1.2, 1},
			&rod{vec{s * 19, -20, -8}, vec{s * 16, -22, -18}, 1.4, 1.3, 1})
		a.add("arytenoid", cartilage, a.flat(ossified, 80, 2), blob(s*5, -21.5, -6, 2, 2.4, 4, 0))
		a.add("hyoid", bone, a.bony(650, 260, 0.8),
			chain([]vec{{s * 19, -24, 20}, {s * 18, -34, 18.5}, {s * 12, -43, 17}, {0, -48, 16.5}},
				[]float32{1.5, 1.9, 2.3, 2.8}, 1.4)...)
	}
	a.add("cricoid", cartilage, a.flat(ossified+40, 130, 2.5),
		newTube([]section{{-26, 0, -30, 12, 13.5, 0}, {-16, 0, -28, 12, 12.5, 0},
			{-10, 0, -24, 9, 7.5, 0}}).pieces()...)
	a.add("cricoid, inside", mucosa, a.flat(a.hu.mucosa, 6, 2),
		newTube([]section{{-26, 0, -30.5, 9.5, 11, 0}, {-16, 0, -29, 9.2, 10.5, 0},
			{-11, 0, -27, 7, 7, 0}}).pieces()...)
	rings := func(_ float32, p vec) float32 {
		if p.y < -26+(-36-p.z)*0.3 && int(p.z+1000)%5 < 3 {
			return 150
		}
		return 60
	}
	a.add("trachea", cartilage, rings, newTube([]section{{-27, 0, -31, 10.5 * wide, 10.5 * deep, 0},
		{-36, 0, -29, 10.3 * wide, 10.3 * deep, 0}, {-60, 0, -22, 10.6 * wide, 9.7 * deep, 0},
		{-90, 0, -10, 10.6 * wide, 9.7 * deep, 0},
		{-150, 0, 10, 11.5 * wide, 9.7 * deep, 0}}).pieces()...)
	lumen := a.flat(-1000, 0, 0)
	a.add("airway", airway, lumen, newTube(way).pieces()...)
	for _, s := range sides {
		a.add("piriform sinus", airway, lumen, blob(s*12, -22, 0, 2.6*wide, 4.5, 9, s*-35))
		a.add("vallecula", airway, lumen, blob(s*5, -31, 22, 4, 3, 5, 0))
	}
	a.add("epiglottis", mucosa, a.flat(a.hu.mucosa, 6, 2),
		chain([]vec{{0, -36, 8}, {0, -30, 18}, {0, -27, 30}}, []float32{2, 1.7, 1.2}, 1)...)
	a.add("oral cavity", airway, lumen, blob(0, -58, 68, 14*wide, 20, 1.8+a.off(1.2), 0))
	if a.rng.Float64() < 0.5 {
		a.add("oesophageal air", airway, lumen, blob(1+a.off(2), -14, -42, 2.2, 1.4, 12, 0))
	}
}

func (a *anatomy) skull() {
	// The cranium: bone, then its contents.
	a.add("cranium", bone, a.bony(1150, 420, 2), blob(0, 8, 148, 70, 88, 76, 0))
	a.add("brain", brain, a.flat(36, 10, 5), blob(0, 8, 148, 64, 82, 70.5, 0))
	a.add("clivus", bone, a.bony(850, 330, 1.6),
		chain([]vec{{0, -4, 78}, {0, -14, 90}, {0, -26, 104}}, []float32{6, 8, 9}, 1)...)
	for _, s := range sides {
		a.add("condyle", bone, a.bony(850, 380, 1.5), blob(s*17, 6, 75.5, 6, 9, 5.5, s*30))
		a.add("jugular process", bone, a.bony(900, 380, 1.6), blob(s*36, 26, 80, 18, 26, 6, 0))
		a.add("petrous", bone, a.bony(1500, 1250, 1), blob(s*34, 4, 95, 24, 9, 8, s*-40))
		a.add("mastoid", bone, func(d float32, p vec) float32 {
			if d < -2.2 && a.noise.at(p, 2.6) > -0.25 {
				return -650
			}
			return 900
		}, blob(s*53, 24, 80, 11, 15, 18, 0), blob(s*52, 20, 100, 12, 18, 16, 0))
		a.add("ear canal", airway, a.flat(-1000, 0, 0),
			chain([]vec{{s * 78, 8, 92}, {s * 64, 6, 93}, {s * 50, 3, 93}}, []float32{3.2, 3, 3.4},
				1)...)
		a.add("zygoma", bone, a.bony(1000, 450, 1.3),
			chain([]vec{{s * 60, 0, 92}, {s * 67, -24, 90}, {s * 62, -50, 90}, {s * 44, -72, 92}},
				[]float32{2.8, 2.2, 3.6, 5}, 1.6)...)
		a.add("maxilla", bone, a.bony(900, 500, 1.2), blob(s*27, -62, 88, 17, 23, 19, s*-14))
		a.add("maxillary sinus", airway, a.flat(-990, 0, 0),
			blob(s*27.5, -61, 90, 14.5, 20, 16, s*-14))
		a.add("pterygoid plate", bone, a.bony(800, 600, 1),
			&slab{vec{s * 17, -30, 80}, vec{1.2, 6, 14}, 1, turned(s * -12)},
			&slab{vec{s * 23, -30, 80}, vec{1.2, 7, 14}, 1, turned(s * 22)})
		if a.rng.Float64() < 0.4 {
			a.add("sinus mucosa", mucosa, a.flat(22, 4, 3), blob(s*27, -60, 75.5, 10, 13, 4, 0))
		}
		a.add("orbit", fat, a.flat(-95, 4, 3), blob(s*31, -62, 121, 18, 24, 17, 0))
		a.add("globe", brain, a.flat(12, 0, 0), blob(s*32, -72, 121, 12, 12, 12, 0))
	}
	a.add("sphenoid", bone, a.bony(900, 400, 1.3), blob(0, -28, 108, 20, 15, 13, 0))
	a.add("sphenoid sinus", airway, a.flat(-980, 0, 0), blob(4, -29, 109, 12, 11, 9, 0))
	a.add("nasal walls", bone, a.bony(600, 500, 1), &slab{vec{0, -60, 91}, vec{14, 32, 20}, 6,
		upright})
	a.add("nasal cavity", airway, a.flat(-1000, 0, 0), &slab{vec{0, -59, 91}, vec{13, 34, 18.5}, 6,
		upright}, blob(0, -88, 80, 8, 12, 6, 0))
	a.add("septum", cartilage, a.flat(220, 90, 3), &slab{vec{a.off(1), -60, 92}, vec{1.1, 31, 19},
		1, turned(a.off(3))})
	for _, s := range sides {
		a.add("turbinate", mucosa, a.flat(55, 10, 2), blob(s*7.5, -58, 82, 3.6*a.vary(0.2), 21, 5.5,
			0), blob(s*7, -54, 96, 2.6, 16, 6, 0))
	}
	a.add("hard palate", bone, a.bony(850, 500, 1), &slab{vec{0, -63, 72.5}, vec{19, 22, 2.4}, 2,
		upright})
}

func (a *anatomy) spine() {
	for i, v := range vertebrae {
		y := spineY(v.z)
		grow := a.vary(0.04)
		body := newTube([]section{{v.z - 6.6, 0, spineY(v.z - 6), v.a * grow * 1.06, v.b * grow, 0},
			{v.z, 0, y, v.a * grow * 0.96, v.b * grow * 0.93, 0}, {v.z + 6.4, 0, spineY(v.z + 6),
				v.a * grow * 1.04, v.b * grow, 0}})
		disc := v.z - 8.6
		a.add("disc", cartilage, a.flat(88, 10, 3),
			newTube([]section{{disc - 2.4, 0, spineY(disc), v.a * 0.98, v.b * 0.98, 0},
				{disc, 0, spineY(disc), v.a, v.b, 0}, {disc + 2.4, 0, spineY(disc), v.a * 0.98,
					v.b * 0.98, 0}}))
		parts := []part{body}
		for _, s := range sides {
			parts = append(parts, blob(s*19.5, y+9, v.z-1, 6, 7, 8.6, s*20),
				blob(s*12.5, y+8, v.z+1, 5, 4, 4.5, 0))
			if i < 6 { // transverse process around the foramen of the vertebral artery
				parts = append(parts, chain([]vec{{s * 12, y - 2, v.z}, {s * 19, y - 4, v.z - 1},
					{s * 25, y - 1, v.z - 2}, {s * 24, y + 5, v.z - 1}},
					[]float32{2.2, 2, 2.4, 2.6}, 1.2)...)
			} else {
				parts = append(parts,
					chain([]vec{{s * 18, y + 9, v.z + 1}, {s * 30, y + 15, v.z + 3},
						{s * 37, y + 18, v.z + 3}}, []float32{4, 3.5, 3.5}, 1.3)...)
			}
			parts = append(parts, chain([]vec{{s * 19, y + 13, v.z - 2}, {s * 11, y + 22, v.z - 4},
				{0, y + 27.5, v.z - 5}}, []float32{2.6, 2.2, 2.6}, 2.2)...)
		}
		parts = append(parts, &rod{vec{0, y + 27, v.z - 6}, vec{a.off(1), y + 27 + v.spine,
			v.z - 9 - v.spine*0.35}, 2.3, 2.6, 1.8})
		if i == 0 { // the axis: dens
			parts = append(parts, newTube([]section{{52, 0, 1, 6, 6, 0}, {62, 0, -1, 4.6, 5, 0},
				{73, 0, -1.5, 4.2, 4.6, 0}, {76, 0, -1.5, 2.5, 3, 0}}))
		}
		s := a.add("vertebra", bone, a.bony(760, 290, 1.1), parts...)
		s.blend = 1.5
	}
	var atlas []part
	for _, s := range sides {
		atlas = append(atlas, blob(s*20, 3, 67, 7.5, 8, 8, s*20), blob(s*31, 5, 67, 8, 4, 4, 0))
		atlas = append(atlas, chain([]vec{{s * 16, -4, 67}, {s * 8, -9, 67}, {0, -10.5, 67}},
			[]float32{3, 2.6, 3}, 1.6)...)
		atlas = append(atlas, chain([]vec{{s * 20, 10, 68}, {s * 16, 24, 67}, {s * 7, 31, 66},
			{0, 33, 66}}, []float32{3, 2.8, 3, 3}, 1.6)...)
	}
	a.add("atlas", bone, a.bony(820, 330, 1.3), atlas...).blend = 2
	var canal, cord []section
	for z := float32(100); z >= -150; z -= 10 {
		canal = append(canal, section{z, 0, spineY(z) + 17, 11.5, 7.6, 0})
		cord = append(cord, section{z, 0, spineY(z) + 16.6, 6.3, 3.9, 0})
	}
	canal[0].a, canal[1].a, canal[2].a = 14, 14, 13
	a.add("canal", brain, a.flat(10, 3, 4), newTube(canal).pieces()...)
	a.add("cord", brain, a.flat(38, 4, 4), newTube(cord).pieces()...)
	for _, s := range sides {
		for _, v := range vertebrae[:6] { // roots in their foramina
			y := spineY(v.z - 8)
			a.add("foramen", fat, a.flat(-30, 15, 2), &rod{vec{s * 11, y + 9, v.z - 8},
				vec{s * 20, y + 3, v.z - 9}, 2.8, 3, 1.4})
		}
		var stations []section
		for z := float32(66); z >= -40; z -= 9 {
			stations = append(stations, section{z, s * (18.5 + max(0, z-52)*0.5), spineY(z) - 0.5,
				1.8, 1.8, 0})
		}
		stations = append(stations, section{-56, s * 20, -1, 1.8, 1.8, 0},
			section{-80, s * 26, -2, 1.8, 1.8, 0})
		around := make([]section, 0, len(stations))
		for _, t := range stations[:len(stations)-2] {
			t.a, t.b = 3, 3
			around = append(around, t)
		}
		a.add("foramen transversarium", fat, a.flat(-20, 0, 0), newTube(around).pieces()...)
		a.add("vertebral artery", vessel, a.flat(a.hu.artery, 0, 0), newTube(stations).pieces()...)
	}
}

func (a *anatomy) shoulders() {
	for _, s := range sides {
		a.add("supraspinatus", muscle, a.muscular(), blob(s*100, 48, -104, 44, 16, 14, 0),
			blob(s*88, 62, -145, 52, 16, 46, s*-10))
		a.add("deltoid", muscle, a.muscular(), blob(s*172, 14, -128, 22, 40, 46, 0))
		a.add("serratus", muscle, a.muscular(), blob(s*66, 26, -112, 13, 26, 26, s*30))
		a.add("rhomboid", muscle, a.muscular(), blob(s*40, 66, -120, 40, 6, 34, s*-4))
		a.add("pectoral", muscle, a.muscular(), blob(s*80, -56, -140, 62, 12, 34, s*16))
		a.add("subclavius", muscle, a.muscular(),
			chain([]vec{{s * 30, -38, -100}, {s * 80, -30, -100}, {s * 120, -10, -100}},
				[]float32{4, 5, 5}, 1)...)
		a.add("clavicle", bone, a.bony(900, 330, 1.5),
			chain([]vec{{s * 13, -44, -100}, {s * 40, -41, -94}, {s * 80, -22, -88},
				{s * 120, 2, -86}, {s * 150, 10, -88}}, []float32{7.5, 5.5, 5, 5, 6}, 1)...)
		a.add("lung", airway, func(_ float32, p vec) float32 { return -850 + 45*a.noise.at(p, 3) },
			blob(s*46, 18, -150, 40, 48, 62, 0))
		a.add("first rib", bone, a.bony(700, 300, 1),
			chain([]vec{{s * 18, 22, -64}, {s * 42, 24, -72}, {s * 58, 2, -84}, {s * 48, -26, -98},
				{s * 26, -42, -110}}, []float32{3.4, 3.4, 4, 4, 4}, 0.9)...)
		a.add("second rib", bone, a.bony(700, 300, 1),
			chain([]vec{{s * 20, 32, -86}, {s * 52, 42, -98}, {s * 80, 18, -116},
				{s * 74, -24, -134}}, []float32{3.2, 3.4, 3.6, 3.6}, 1.4)...)
		a.add("third rib", bone, a.bony(700, 300, 1),
			chain([]vec{{s * 20, 42, -108}, {s * 60, 58, -122}, {s * 94, 30, -142},
				{s * 90, -24, -164}}, []float32{3.2, 3.4, 3.6, 3.6}, 1.4)...)
		a.add("humerus", bone, a.bony(700, 230, 1.6), blob(s*158, 14, -116, 23, 23, 23, 0),
			&rod{vec{s * 166, 14, -130}, vec{s * 172, 14, -230}, 14, 11, 1})
		a.add("scapula", bone, a.bony(700, 350, 1.2),
			chain([]vec{{s * 72, 62, -112}, {s * 110, 46, -104}, {s * 140, 30, -110}},
				[]float32{3, 5, 9}, 1)...)
		a.add("scapular spine", bone, a.bony(700, 350, 1.2),
			chain([]vec{{s * 78, 74, -122}, {s * 120, 60, -98}, {s * 160, 30, -86},
				{s * 164, 4, -84}}, []float32{3, 4.5, 5.5, 5}, 1)...)
	}
	a.add("manubrium", bone, a.bony(700, 230, 1.3), blob(0, -52, -122, 26, 7, 22, 0))
}

// jaw adds mandible and teeth; metals is the number of teeth with fillings or crowns of metal.
func (a *anatomy) jaw(metals int) {
	f := a.vary(0.05) // width of the arch
	for _, s := range sides {
		body := a.add("mandible", bone, a.bony(1350, 420, 2.4),
			chain([]vec{{s * 46 * f, -20, 47}, {s * 37 * f, -40, 40}, {s * 27.5 * f, -60, 36},
				{s * 15 * f, -77, 35}, {0, -83, 35}}, []float32{5, 5.2, 5.4, 5.4, 6}, 2.3)...)
		body.parts = append(body.parts, &slab{vec{s * 48 * f, -15, 56}, vec{4, 14, 20}, 3.5,
			turned(s * -10)}, &slab{vec{s * 50 * f, -18, 76}, vec{3, 12, 12}, 2.5, turned(s * -10)},
			blob(s*51*f, -5, 86, 8.5, 5, 6, 0), &rod{vec{s * 50 * f, -8, 66},
				vec{s * 51 * f, -6, 84}, 4.5, 4, 1}, &rod{vec{s * 50 * f, -28, 72},
				vec{s * 51 * f, -30, 88}, 3.5, 2, 1})
		body.blend = 3
	}
	// The dental arches: a parabola-like curve, with teeth at arc lengths according to their
	// widths.
	arch := func(t float32) vec { // t from −1 to 1
		return vec{t * 29 * (1.12 - 0.12*t*t) * f, -84 + 43*t*t, 0}
	}
	var places []vec
	alveoli := func(name string, z, r float32) {
		var points []vec
		var radii []float32
		for t := float32(-1.05); t <= 1.06; t += 0.15 {
			p := arch(t)
			points, radii = append(points, vec{p.x, p.y, z}), append(radii, r)
		}
		a.add(name, bone, a.bony(950, 480, 1.4), chain(points, radii, 1.5)...)
	}
	alveoli("lower alveolar ridge", 46, 4.6)
	alveoli("upper alveolar ridge", 74, 5.2)
	for row, z := range []float32{53, 65.5} {
		down := float32(1 - 2*row) // the root's direction: 1 is downwards
		for i := range 14 {
			t := (float32(i) - 6.5) / 6.8
			p := arch(t)
			if row == 0 {
				p.y += 2
			}
			molar := abs(float32(i)-6.5) > 4
			if a.rng.Float64() < 0.06 {
				continue // missing
			}
			w, h := float32(3.1), float32(6)
			if molar {
				w, h = 4.7, 5
			}
			p.z = z
			crown := a.add("crown", tooth, func(d float32, _ vec) float32 {
				return 2500 - 900*clamp((-d-1.1)/1.2, 0, 1)
			}, blob(p.x, p.y, p.z, w, w*1.05, h, 0))
			crown.parts = append(crown.parts,
				&rod{vec{p.x, p.y, z}, vec{p.x * 0.97, p.y + 1, z - down*14}, w * 0.75, w * 0.35,
					1})
			if molar || a.rng.Float64() < 0.3 {
				places = append(places, vec{p.x, p.y, z + down*2.5})
			}
		}
	}
	for range min(metals, len(places)) {
		i := a.rng.IntN(len(places))
		p := places[i]
		places = append(places[:i], places[i+1:]...)
		a.metals = append(a.metals, p)
		a.add("filling", metal, a.flat(9000, 0, 0), blob(p.x, p.y, p.z, 2.6*a.vary(0.3),
			2.6*a.vary(0.3), 2.4*a.vary(0.3), 0))
	}
}

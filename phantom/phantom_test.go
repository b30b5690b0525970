package phantom

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// small is a CT that takes half a second.
func small(seed uint64) Config {
	return Config{
		Shape: [3]int{64, 104, 104}, Spacing: [3]float64{2.5, 2, 2}, Phase: PhaseVenous, Kernel: KernelSoft, Noise: 10,
		Nodes: [2]int{12, 18}, ShortAxis: 8, Spread: 0.4, Metals: 1, Seed: seed, Threads: 2,
	}
}

func mustMake(t *testing.T, c Config, tissues bool) *Case {
	t.Helper()
	k, err := build(context.Background(), c, tissues)
	require.NoError(t, err)
	return k
}

func TestSameSeedSameVoxelsWhateverTheThreads(t *testing.T) {
	c := small(3)
	c.Threads = 1
	one := mustMake(t, c, false)
	for _, threads := range []int{2, 7, 100} {
		c.Threads = threads
		k := mustMake(t, c, false)
		require.Equal(t, one.CT, k.CT, "%d threads", threads)
		require.Equal(t, one.Labels, k.Labels, "%d threads", threads)
		require.Equal(t, one.Found, k.Found, "%d threads", threads)
		require.Equal(t, one.Origin, k.Origin, "%d threads", threads)
	}
	c.Seed++
	require.NotEqual(t, one.CT, mustMake(t, c, false).CT)
}

// deep reports whether voxel i and its 26 neighbours are all of one tissue.
func deep(k *Case, i int) bool {
	nz, ny, nx := k.Shape[0], k.Shape[1], k.Shape[2]
	z, y, x := i/(ny*nx), i/nx%ny, i%nx
	for dz := -1; dz <= 1; dz++ {
		for dy := -1; dy <= 1; dy++ {
			for dx := -1; dx <= 1; dx++ {
				if a, b, c := z+dz, y+dy, x+dx; a < 0 || b < 0 || c < 0 || a >= nz || b >= ny || c >= nx || k.tissues[(a*ny+b)*nx+c] != k.tissues[i] {
					return false
				}
			}
		}
	}
	return true
}

// Ranges from radiology's textbooks, wide enough for the noise of a median.
func TestTissuesHaveTheirDensities(t *testing.T) {
	ranges := map[tissue][2]float64{
		air: {-1024, -990}, fat: {-120, -85}, muscle: {40, 85}, bone: {250, 1600}, airway: {-1024, -800}, brain: {5, 50}, gland: {-30, 180},
	}
	vessels := map[Phase][2]float64{PhaseNone: {30, 60}, PhaseArterial: {90, 380}, PhaseVenous: {140, 230}}
	nodes := map[Phase][2]float64{PhaseNone: {25, 60}, PhaseArterial: {45, 105}, PhaseVenous: {60, 130}}
	for _, phase := range Phases {
		c := small(11)
		c.Spacing, c.Shape = [3]float64{1.6, 1.2, 1.2}, [3]int{110, 180, 180}
		c.Phase, c.Metals, c.ShortAxis = phase, 0, 12
		k := mustMake(t, c, true)
		values := map[tissue][]float64{}
		for i, kind := range k.tissues {
			if deep(k, i) {
				values[kind] = append(values[kind], float64(k.CT[i]))
			}
		}
		ranges[vessel], ranges[lymph] = vessels[phase], nodes[phase]
		for kind, want := range ranges {
			v := values[kind]
			require.Greater(t, len(v), 20, "%s: tissue %d is almost missing", phase, kind)
			slices.Sort(v)
			median := v[len(v)/2]
			require.True(t, median >= want[0] && median <= want[1], "%s: tissue %d has a median of %v HU, expected %v", phase, kind, median, want)
		}
	}
}

// component is a connected component of a label map, by faces, edges or corners.
type component struct {
	label  uint8
	voxels []int
}

func components(labels []uint8, shape [3]int) []component {
	nz, ny, nx := shape[0], shape[1], shape[2]
	seen := make([]bool, len(labels))
	var out []component
	for start, l := range labels {
		if l == 0 || seen[start] {
			continue
		}
		c := component{label: l, voxels: []int{start}}
		seen[start] = true
		for k := 0; k < len(c.voxels); k++ {
			i := c.voxels[k]
			z, y, x := i/(ny*nx), i/nx%ny, i%nx
			for a := max(z-1, 0); a <= min(z+1, nz-1); a++ {
				for b := max(y-1, 0); b <= min(y+1, ny-1); b++ {
					for d := max(x-1, 0); d <= min(x+1, nx-1); d++ {
						if j := (a*ny+b)*nx + d; !seen[j] && labels[j] != 0 {
							seen[j] = true
							c.voxels = append(c.voxels, j)
						}
					}
				}
			}
		}
		out = append(out, c)
	}
	return out
}

func TestNodesAreWhatTheListSays(t *testing.T) {
	for seed := range uint64(4) {
		c := small(seed)
		c.Levels = seed%2 == 1
		if seed >= 2 {
			c.Spacing, c.Shape = [3]float64{3, 0.9, 0.9}, [3]int{54, 230, 230}
		}
		k := mustMake(t, c, false)
		found := components(k.Labels, k.Shape)
		require.GreaterOrEqual(t, len(k.Found), 7, "seed %d: hardly any node found room", seed)
		require.Len(t, found, len(k.Found), "seed %d", seed)
		voxel := c.Spacing[0] * c.Spacing[1] * c.Spacing[2]
		for _, m := range k.Found {
			// The component with the nearest centre.
			best, at := math.Inf(1), component{}
			for _, f := range found {
				var mean [3]float64
				for _, i := range f.voxels {
					for a, v := range []int{i % k.Shape[2], i / k.Shape[2] % k.Shape[1], i / (k.Shape[1] * k.Shape[2])} {
						mean[a] += (k.Origin[a] + float64(v)*c.Spacing[2-a]) / float64(len(f.voxels))
					}
				}
				if d := math.Hypot(math.Hypot(mean[0]-m.Centre[0], mean[1]-m.Centre[1]), mean[2]-m.Centre[2]); d < best {
					best, at = d, f
				}
			}
			require.Less(t, best, 3.2, "seed %d: no component near %+v", seed, m) // the warp moves nodes by up to 2.4 mm along an axis
			require.Len(t, at.voxels, m.Voxels, "seed %d: %+v", seed, m)
			require.EqualValues(t, m.Label, at.label)
			require.InDelta(t, float64(m.Voxels)*voxel/1000, m.Volume, 1e-4)
			require.True(t, slices.IsSorted(m.Axes[:]), "%v", m.Axes)
			if m.Voxels > 150 { // bumps and voxels matter less
				ellipsoid := math.Pi / 6 * m.Axes[0] * m.Axes[1] * m.Axes[2] / 1000
				require.InEpsilon(t, ellipsoid, m.Volume, 0.25, "seed %d: %+v", seed, m)
			}
			if c.Levels {
				require.Equal(t, levelLabel(m.Level), m.Label)
			}
		}
	}
}

func TestNodesHaveRealisticSizes(t *testing.T) {
	var short []float64
	for seed := range uint64(8) {
		c := small(100 + seed)
		c.Threads = 2
		for _, m := range mustMake(t, c, false).Found {
			short = append(short, m.Axes[0])
			require.LessOrEqual(t, m.Axes[2]/m.Axes[0], 2.2)
		}
	}
	slices.Sort(short)
	require.GreaterOrEqual(t, short[0], 3.0)
	require.LessOrEqual(t, short[len(short)-1], 25.01)
	require.InDelta(t, 8, short[len(short)/2], 1.5) // the median asked for
	// Log-normal with a spread of 0.4: 16 and 84 % lie at 5.4 and 11.9 mm.
	require.InDelta(t, 5.4, short[len(short)*16/100], 1.2)
	require.InDelta(t, 11.9, short[len(short)*84/100], 2.4)
}

func TestNodesTouchNoBoneVesselOrAirway(t *testing.T) {
	for seed := range uint64(4) {
		c := small(200 + seed)
		c.Phase = Phases[seed%3]
		if seed%2 == 1 {
			c.ShortAxis = 14
		}
		k := mustMake(t, c, true)
		nodes := 0
		for i, l := range k.Labels {
			if l == 0 {
				continue
			}
			nodes++
			require.Equal(t, lymph, k.tissues[i], "seed %d: a labelled voxel is of another tissue", 200+seed) // hard tissues win in this map
		}
		require.Positive(t, nodes)
	}
}

// The noise is the difference from the same CT without noise.
func TestNoiseHasTheStrengthAndTheGrainOfTheKernel(t *testing.T) {
	grain := map[Kernel]float64{}
	for _, kernel := range Kernels {
		c := small(5)
		c.Shape, c.Spacing, c.Kernel, c.Noise, c.Metals = [3]int{8, 200, 200}, [3]float64{2, 0.8, 0.8}, kernel, 20, 0
		noisy := mustMake(t, c, true)
		c.Noise = 0
		clean := mustMake(t, c, true)
		var sum, squares, products float64
		n := 0
		for i := range noisy.CT {
			if x := i % 200; x == 0 || noisy.tissues[i] == air || !deepIn(noisy, i, 4) || clean.CT[i] < -900 {
				continue
			}
			d, e := float64(noisy.CT[i])-float64(clean.CT[i]), float64(noisy.CT[i-1])-float64(clean.CT[i-1])
			sum += d
			squares += d * d
			products += d * e
			n++
		}
		require.Greater(t, n, 10000)
		sigma := math.Sqrt(squares / float64(n))
		require.InDelta(t, 0, sum/float64(n), 1)
		require.InEpsilon(t, 20, sigma, 0.15, "%s", kernel)
		grain[kernel] = products / squares
		t.Logf("%s: σ %.1f HU, correlation %.2f", kernel, sigma, grain[kernel])
	}
	require.Greater(t, grain[KernelSoft], 0.5) // correlation of neighbours
	require.Greater(t, grain[KernelSoft], grain[KernelMedium]+0.1)
	require.Greater(t, grain[KernelMedium], grain[KernelSharp]+0.1)
	require.Less(t, grain[KernelSharp], 0.03) // edge enhancement: neighbours are not correlated
}

// deepIn reports whether the row has no air around voxel i.
func deepIn(k *Case, i, by int) bool {
	x := i % k.Shape[2]
	if x < by || x+by >= k.Shape[2] {
		return false
	}
	return !slices.Contains(k.tissues[i-by:i+by+1], air) && !slices.Contains(k.tissues[i-by:i+by+1], airway)
}

func TestMetalMakesStreaks(t *testing.T) {
	extreme := func(metals int) (most int16, spread float64) {
		c := small(9)
		c.Noise, c.Metals = 0, metals
		k := mustMake(t, c, true)
		squares, n := 0.0, 0
		for i, kind := range k.tissues {
			most = max(most, k.CT[i])
			if kind == muscle && deep(k, i) && i/(104*104) > 40 { // at the height of the teeth
				d := float64(k.CT[i]) - 66
				squares += d * d
				n++
			}
		}
		require.Greater(t, n, 100)
		return most, math.Sqrt(squares / float64(n))
	}
	without, calm := extreme(0)
	with, torn := extreme(6)
	require.Less(t, without, int16(2800))
	require.EqualValues(t, 3071, with) // the end of the scale
	require.Greater(t, torn, 1.5*calm)
}

func TestOddGridsWork(t *testing.T) {
	for _, shape := range [][3]int{{1, 1, 1}, {1, 300, 200}, {3, 2, 1}, {200, 3, 5}, {7, 9, 8}, {2, 16, 17}} {
		c := small(1)
		c.Shape = shape
		k := mustMake(t, c, true)
		require.Len(t, k.CT, shape[0]*shape[1]*shape[2])
		require.Len(t, components(k.Labels, k.Shape), len(k.Found))
	}
	c := small(1)
	c.Nodes = [2]int{0, 0}
	k := mustMake(t, c, false)
	require.Empty(t, k.Found)
	require.Zero(t, slices.Max(k.Labels))
}

func TestBackIsBehindThePatient(t *testing.T) {
	c := small(2)
	c.Shape[1] = 160 // with the couch
	k := mustMake(t, c, true)
	couches := 0
	for i, kind := range k.tissues {
		z, y := i/(160*104), i/104%160
		if kind == couch {
			couches++
			require.GreaterOrEqual(t, y, k.Back[z]-40)
		} else if kind == fat || kind == muscle || kind == bone {
			require.Less(t, y, k.Back[z]+1, "slice %d", z)
		}
	}
	require.Greater(t, couches, 1000)
}

func TestMakeErrorsAreExplicit(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"shape [0 104 104]: expected 1 to 4096 voxels along z":                    func(c *Config) { c.Shape[0] = 0 },
		"shape [4096 4096 4096]: 68719476736 voxels, expected at most 1073741824": func(c *Config) { c.Shape = [3]int{4096, 4096, 4096} },
		"spacing [2.5 NaN 2] mm: expected 0.05 to 20 along y":                     func(c *Config) { c.Spacing[1] = math.NaN() },
		`phase "late": expected one of none, arterial, venous`:                    func(c *Config) { c.Phase = "late" },
		`kernel "": expected one of soft, medium, sharp`:                          func(c *Config) { c.Kernel = "" },
		"noise -1 HU: expected 0 to 500":                                          func(c *Config) { c.Noise = -1 },
		"nodes 3 to 2: expected a range within 0 to 100":                          func(c *Config) { c.Nodes = [2]int{3, 2} },
		"median short axis 30 mm: expected 3 to 25":                               func(c *Config) { c.ShortAxis = 30 },
		"29 teeth with metal: expected 0 to 28":                                   func(c *Config) { c.Metals = 29 },
		"spread of the short axes -1: expected 0 to 2":                            func(c *Config) { c.Spread = -1 },
	} {
		c := small(0)
		change(&c)
		_, err := Make(context.Background(), c)
		require.ErrorContains(t, err, "phantom: ")
		require.ErrorContains(t, err, want)
	}
}

func TestMakeStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Make(ctx, small(0))
	require.ErrorIs(t, err, context.Canceled)
}

// Everything inside a part must be within its bounds, or it would not be drawn.
func TestBoundsHoldWhatIsInside(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	a := newAnatomy(rng, PhaseVenous, 3)
	check := func(name string, p part) {
		b := p.bounds()
		around := b.pad(6)
		for range 400 {
			q := vec{
				around.lo.x + rng.Float32()*(around.hi.x-around.lo.x),
				around.lo.y + rng.Float32()*(around.hi.y-around.lo.y),
				around.lo.z + rng.Float32()*(around.hi.z-around.lo.z),
			}
			if s, ok := p.(*stretch); ok && (q.z < s.b.lo.z || q.z > s.b.hi.z) {
				continue // its neighbour's
			}
			if p.dist(q) < 0 {
				require.True(t, b.pad(0.3).contains(q), "%s: %v lies inside, but not in %v", name, q, b)
			}
		}
	}
	parts := 0
	for _, s := range a.structures {
		for _, p := range s.parts {
			check(s.name, p)
			parts++
		}
	}
	for _, p := range a.body {
		check("body", p)
	}
	require.Greater(t, parts, 1000)
}

func TestDistances(t *testing.T) {
	ball := blob(1, 2, 3, 5, 5, 5, 30)
	require.InDelta(t, -5, ball.dist(vec{1, 2, 3}), 1e-5)
	require.InDelta(t, 2, ball.dist(vec{1, 9, 3}), 1e-4)
	box := &slab{vec{0, 0, 0}, vec{3, 2, 1}, 0.5, turned(90)}
	require.InDelta(t, 1, box.dist(vec{0, 4, 0}), 1e-5) // its first half-axis lies along y
	require.InDelta(t, -1, box.dist(vec{0, 0, 0}), 1e-5)
	line := &rod{vec{0, 0, 0}, vec{10, 0, 0}, 2, 1, 1}
	require.InDelta(t, 1, line.dist(vec{-3, 0, 0}), 1e-5)
	require.InDelta(t, 3, line.dist(vec{10, 4, 0}), 1e-5)
	pipe := newTube([]section{{10, 0, 0, 3, 2, 0}, {0, 0, 0, 3, 2, 0}, {-10, 0, 0, 3, 2, 0}})
	require.InDelta(t, 1, pipe.dist(vec{4, 0, 0}), 1e-4)
	require.InDelta(t, -2, pipe.dist(vec{0, 0, 0}), 1e-4)
	require.InDelta(t, 5, pipe.dist(vec{0, 0, 15}), 1e-4)
	long := newTube([]section{{-20, 0, 0, 3, 2, 0}, {0, 5, 0, 3, 2, 0}, {25, 0, 4, 3, 4, 40}})
	for z := float32(-26); z < 30; z += 0.7 { // the pieces together are the tube
		d := float32(far)
		for _, p := range long.pieces() {
			d = min(d, p.dist(vec{4, 1, z}))
		}
		require.Equal(t, long.dist(vec{4, 1, z}), d, "%v", z)
	}
}

func TestPoseAndItsInverse(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	c := small(0)
	s := newScanner(rng, &c)
	for range 100 {
		p := vec{rng.Float32()*200 - 100, rng.Float32()*200 - 100, rng.Float32()*200 - 100}
		q := s.toPatient(s.toWorld(p))
		require.InDelta(t, 0, hypot(hypot(p.x-q.x, p.y-q.y), p.z-q.z), 1e-3)
	}
}

func BenchmarkMake512x512x100(b *testing.B) {
	c := small(1)
	c.Shape, c.Spacing, c.Threads = [3]int{100, 512, 512}, [3]float64{1.5, 0.977, 0.977}, 0
	for b.Loop() {
		if _, err := Make(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}

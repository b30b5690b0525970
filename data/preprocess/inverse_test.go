package preprocess

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
	"github.com/stretchr/testify/require"
)

const exported = "../../testdata/golden/export"

// An export is one entry of cases.json of scripts/golden/export.py.
type export struct {
	name   string
	plans  *plans.Plans
	config *plans.Configuration
	labels *plans.Labels
	props  *pickle.Dict
	shape  [3]int
	logits []float32 // (heads, z, y, x), values of float16
}

func exports(t testing.TB, folder string) []export {
	doc, err := plans.ReadJSON(filepath.Join(folder, "cases.json"))
	require.NoError(t, err)
	get := func(o any, key string) any {
		v, ok := o.(*plans.Object).Get(key)
		require.True(t, ok, key)
		return v
	}
	var list []export
	for _, c := range get(doc, "cases").([]any) {
		e := export{name: get(c, "name").(string), props: &pickle.Dict{}}
		e.plans, err = plans.FromObject(get(c, "plans").(*plans.Object), e.name)
		require.NoError(t, err)
		e.config, err = e.plans.Configuration("c")
		require.NoError(t, err)
		d, err := plans.DatasetFromObject(get(c, "dataset").(*plans.Object), e.name)
		require.NoError(t, err)
		e.labels = d.Labels
		for _, key := range get(c, "properties").(*plans.Object).Keys() {
			e.props.Set(key, pythonList(get(get(c, "properties"), key)))
		}
		n := int64(e.labels.NumSegmentationHeads())
		size := []int64{n}
		for i, v := range get(c, "shape").([]any) {
			e.shape[i] = int(v.(int64))
			size = append(size, v.(int64))
		}
		scale := float32(get(c, "scale").(float64))
		e.logits = golden.HashInput(int(get(c, "number").(int64)), size)
		for i, v := range e.logits {
			v *= scale
			if get(c, "whole").(bool) {
				v = float32(math.RoundToEven(float64(v)))
			}
			e.logits[i] = float32(roundToHalf(float64(v)))
		}
		list = append(list, e)
	}
	return list
}

// pythonList converts the lists of a decoded JSON value to those of a pickle.
func pythonList(v any) any {
	list, ok := v.([]any)
	if !ok {
		return v
	}
	out := &pickle.List{}
	for _, item := range list {
		out.Items = append(out.Items, pythonList(item))
	}
	return out
}

// cutting is how logits are cut into slabs: along axis, count slices each, in strips of rows along
// the next axis; 0: all.
type cutting struct {
	axis, count, rows int
}

// slabs cuts the logits (heads, z, y, x).
func slabs(logits []float32, heads int, shape [3]int, c cutting, yield func(volume.Slab) error) error {
	s := volume.Slab{Axis: c.axis}
	a := s.Axes()
	stride := [3]int{shape[1] * shape[2], shape[2], 1}
	n := [3]int{shape[a[0]], shape[a[1]], shape[a[2]]}
	rows := c.rows
	if rows == 0 {
		rows = n[1]
	}
	for from := 0; from == 0 || from < n[1]; from += rows {
		s.Strip = [2]int{max(from-1, 0), min(from+rows, n[1])}
		for first := 0; first < n[0]; first += s.Count {
			s.First, s.Count = first, n[0]-first
			if c.count > 0 {
				s.Count = min(s.Count, c.count+first%2)
			}
			s.Data = s.Data[:0]
			for h := range heads {
				for i := first; i < first+s.Count; i++ {
					for j := s.Strip[0]; j < s.Strip[1]; j++ {
						for k := range n[2] {
							s.Data = append(s.Data, logits[h*shape[0]*stride[0]+i*stride[a[0]]+j*stride[a[1]]+k*stride[a[2]]])
						}
					}
				}
			}
			if err := yield(s); err != nil {
				return err
			}
			for i := range s.Data { // the memory is reused
				s.Data[i] = float32(math.NaN())
			}
		}
	}
	return nil
}

// back runs an Inverse over a case and returns labels and, if configured, probabilities.
func back(t testing.TB, e *export, cfg InverseConfig, c cutting) (im *volume.Image, probabilities []float32) {
	t.Helper()
	g, err := NewGrid(e.plans, e.config, e.props, e.shape)
	require.NoError(t, err, e.name)
	cfg.Labels = e.labels
	v, err := NewInverse(g, cfg)
	require.NoError(t, err, e.name)
	defer func() { require.NoError(t, v.Close()) }()
	require.NoError(t, slabs(e.logits, e.labels.NumSegmentationHeads(), e.shape, c, v.Add), e.name)
	im, err = v.Finish()
	require.NoError(t, err, e.name)
	if p := v.Probabilities(); p != nil {
		shape := p.Shape()
		require.Equal(t, im.Shape[1:], shape[1:])
		var b bytes.Buffer
		n, err := p.WriteTo(&b)
		require.NoError(t, err)
		require.Equal(t, int64(4*volume.Numel(shape)), n)
		probabilities = make([]float32, volume.Numel(shape))
		require.NoError(t, binary.Read(&b, binary.LittleEndian, probabilities))
	}
	return im, probabilities
}

func wideLabels(t testing.TB, im *volume.Image) []int32 {
	t.Helper()
	require.Contains(t, []string{"uint8", "uint16"}, im.Pixels.Type())
	return volume.Cast[int32](im.Pixels)
}

// asNnUNets converts labels to nnU-Net's: it uses two bytes if there are many labels, not if they are
// large (Differs: here 300 stays 300).
func asNnUNets(name string, labels []int32) []int32 {
	if name == "wide" {
		for i, l := range labels {
			labels[i] = int32(uint8(l))
		}
	}
	return labels
}

// compareExports compares with nnU-Net's results. Reference is bit-equal, except for probabilities
// whose exponential libtorch rounds differently; the fast path is close to nnU-Net's own code in
// float32.
func compareExports(t *testing.T, folder string) {
	f := open(t, filepath.Join(folder, "cases.npz"))
	list := exports(t, folder)
	require.Greater(t, len(list), 30)
	same, values := 0, 0
	for i := range list {
		e := &list[i]
		heads := e.labels.NumSegmentationHeads()
		read := func(name string) []int32 {
			v, err := array(t, f, name+e.name).Int32s()
			require.NoError(t, err)
			return v
		}
		want := array(t, f, "probabilities_"+e.name)
		wantProbabilities, err := want.Float32s()
		require.NoError(t, err)
		im, got := back(t, e, InverseConfig{Reference: true, Threads: 2, Probabilities: t.TempDir()}, cutting{count: 2})
		require.Equal(t, want.Shape[1:], im.Shape[1:], e.name)
		require.Equal(t, read("labels_"), asNnUNets(e.name, wideLabels(t, im)), e.name)
		for j, v := range got {
			if math.Float32bits(v) == math.Float32bits(wantProbabilities[j]) {
				same++
			}
			values++
		}
		most, at := difference(got, wantProbabilities)
		require.LessOrEqual(t, most, 2e-7, "%s: value %d: %v, expected %v", e.name, at, got[at], wantProbabilities[at])
		require.Equal(t, e.name == "many" || e.name == "wide", im.Pixels.Type() == "uint16", e.name)

		truth, err := array(t, f, "truth_"+e.name).Float32s()
		require.NoError(t, err)
		labels := read("truth_labels_")
		im, got = back(t, e, InverseConfig{Threads: 2, Probabilities: t.TempDir()}, cutting{axis: i % 3, count: 1 + i%4, rows: i % 5})
		most, at = difference(got, truth)
		require.LessOrEqual(t, most, 1e-5, "%s: value %d: %v, expected %v", e.name, at, got[at], truth[at])
		n := len(labels)
		for x, l := range asNnUNets(e.name, wideLabels(t, im)) {
			if l == labels[x] {
				continue
			}
			margin := math.Inf(1) // how close the decision was
			best := 0.0
			for h := range heads {
				best = max(best, float64(truth[h*n+x]))
			}
			for h := range heads {
				p := float64(truth[h*n+x])
				if e.labels.HasRegions {
					margin = min(margin, math.Abs(p-0.5))
				} else if h == int(l) {
					margin = best - p
				}
			}
			require.LessOrEqual(t, margin, 1e-5, "%s: voxel %d has label %d, expected %d", e.name, x, l, labels[x])
		}
	}
	t.Logf("%d of %d probabilities are bit-equal to nnU-Net's", same, values)
	require.GreaterOrEqual(t, float64(same), 0.999*float64(values))
}

func TestInverseIsNnUNets(t *testing.T) { compareExports(t, exported) }

func TestLiveInverseIsNnUNets(t *testing.T) {
	for _, seed := range []string{"1", "2", "3"} {
		out := t.TempDir()
		golden.Run(t, "export.py", out, seed)
		compareExports(t, out)
	}
}

// Labels and probabilities are the same for all slabs, strips and numbers of threads; labels also
// without probabilities.
func TestInverseDoesNotDependOnSlabs(t *testing.T) {
	for _, e := range exports(t, exported) {
		want, wantProbabilities := back(t, &e, InverseConfig{Threads: 1, Probabilities: t.TempDir()}, cutting{})
		exact, _ := back(t, &e, InverseConfig{Threads: 1, Reference: true}, cutting{})
		for _, threads := range []int{1, 3} {
			for axis := range 3 {
				for _, count := range []int{1, 2, 5} {
					for _, rows := range []int{0, 1, 2, 4} {
						name := fmt.Sprintf("%s, %d threads, axis %d, slabs of %d, strips of %d", e.name, threads, axis, count, rows)
						c := cutting{axis, count, rows}
						im, _ := back(t, &e, InverseConfig{Threads: threads}, c)
						if axis == 0 {
							require.Equal(t, want.Pixels, im.Pixels, name)
							im, _ := back(t, &e, InverseConfig{Threads: threads, Reference: true}, c)
							require.Equal(t, exact.Pixels, im.Pixels, name)
						}
						im2, probabilities := back(t, &e, InverseConfig{Threads: threads, Probabilities: t.TempDir()}, c)
						require.Equal(t, im.Pixels, im2.Pixels, name)
						if axis == 0 {
							require.Equal(t, wantProbabilities, probabilities, name)
							continue
						}
						most, at := difference(probabilities, wantProbabilities)
						require.LessOrEqual(t, most, 1e-5, "%s: value %d", name, at)
					}
				}
			}
		}
	}
}

func TestInverseLeavesNoFile(t *testing.T) {
	e := exports(t, exported)[0]
	folder := t.TempDir()
	g, err := NewGrid(e.plans, e.config, e.props, e.shape)
	require.NoError(t, err)
	v, err := NewInverse(g, InverseConfig{Labels: e.labels, Probabilities: folder})
	require.NoError(t, err)
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, files, "the temporary file has no name")
	require.NoError(t, v.Close())
	_, err = NewInverse(g, InverseConfig{Labels: e.labels, Probabilities: folder + "/none"})
	require.ErrorContains(t, err, "cannot create a temporary file for probabilities")
}

func TestInverseRefusesWhatDoesNotFit(t *testing.T) {
	e := exports(t, exported)[0]
	heads := 3
	g, err := NewGrid(e.plans, e.config, e.props, e.shape)
	require.NoError(t, err)
	slab := func(first, count, from, to int) volume.Slab {
		return volume.Slab{First: first, Count: count, Strip: [2]int{from, to}, Data: make([]float32, max(heads*count*(to-from)*e.shape[2], 0))}
	}
	whole := slab(0, e.shape[0], 0, e.shape[1])
	half := whole
	half.Count--
	other := whole
	other.Axis = 3
	for _, c := range []struct {
		slabs   []volume.Slab
		message string
	}{
		{nil, "are incomplete"},
		{[]volume.Slab{slab(0, 1, 0, e.shape[1])}, "are incomplete: they end at slice 1 along axis 0"},
		{[]volume.Slab{slab(0, e.shape[0], 0, 2)}, "are incomplete"},
		{[]volume.Slab{slab(1, 1, 0, e.shape[1])}, "expected slice 0 next"},
		{[]volume.Slab{slab(0, 1, 0, e.shape[1]), slab(2, 1, 0, e.shape[1])}, "expected slice 1 next"},
		{[]volume.Slab{whole, whole}, "expected slice"},
		{[]volume.Slab{slab(0, 1, 1, e.shape[1])}, "expected a strip that continues"},
		{[]volume.Slab{slab(0, 1, 0, 2), slab(0, 1, 1, 4)}, "the strip before ended with slice 1"},
		{[]volume.Slab{slab(0, e.shape[0], 0, 2), slab(0, 1, 2, 4)}, "expected a strip that continues"},
		{[]volume.Slab{half}, "do not fill them"},
		{[]volume.Slab{slab(0, e.shape[0]+1, 0, e.shape[1])}, "lie outside"},
		{[]volume.Slab{slab(-1, 1, 0, e.shape[1])}, "lie outside"},
		{[]volume.Slab{slab(0, 1, -1, e.shape[1])}, "lie outside"},
		{[]volume.Slab{{First: math.MaxInt, Count: 1, Strip: whole.Strip}}, "lie outside"},
		{[]volume.Slab{other}, "the axis differs"},
	} {
		v, err := NewInverse(g, InverseConfig{Labels: e.labels})
		require.NoError(t, err)
		for _, s := range c.slabs {
			err = v.Add(s)
		}
		if err == nil {
			_, err = v.Finish()
		}
		require.ErrorContains(t, err, c.message)
		_, again := v.Finish()
		require.Error(t, again)
	}
	v, err := NewInverse(g, InverseConfig{Labels: e.labels, Reference: true})
	require.NoError(t, err)
	require.ErrorContains(t, v.Add(volume.Slab{Axis: 1, Count: 1, Strip: [2]int{0, e.shape[0]}, Data: make([]float32, heads*e.shape[0]*e.shape[2])}),
		"reference numerics need slabs along axis 0")

	change := func(f func(*Grid)) error {
		g := g
		f(&g)
		_, err := NewInverse(g, InverseConfig{Labels: e.labels})
		return err
	}
	require.ErrorContains(t, change(func(g *Grid) { g.Box[1][1]++ }), "does not fit an image")
	require.ErrorContains(t, change(func(g *Grid) { g.Box[0][0] = -1 }), "does not fit an image")
	require.ErrorContains(t, change(func(g *Grid) { g.Shape[2] = 0 }), "does not fit an image")
	require.ErrorContains(t, change(func(g *Grid) { g.Whole = [3]int{1 << 20, 1 << 20, 1 << 20} }), "at most 8.6e+09 are supported")
	require.ErrorContains(t, change(func(g *Grid) { g.Current[0] = math.NaN() }), "expected positive numbers")
	require.ErrorContains(t, change(func(g *Grid) { g.Transpose = [3]int{0, 0, 1} }), "expected a permutation of 0, 1, 2")
	require.ErrorContains(t, change(func(g *Grid) { g.Resample.Order = 3 }), "change order and order_z in the plans' resampling_fn_probabilities_kwargs")
	_, err = NewInverse(g, InverseConfig{Labels: &plans.Labels{HasRegions: true, Regions: make([]plans.Label, 1), RegionsClassOrder: []int{70000}}})
	require.ErrorContains(t, err, "labels from 0 to 65535 are supported")

	for _, c := range []struct {
		key     string
		value   any
		message string
	}{
		{"spacing", nil, "properties: spacing: expected 3 numbers"},
		{"spacing", &pickle.List{Items: []any{1.0, "a", 2.0}}, "properties: spacing: expected 3 numbers"},
		{"shape_before_cropping", pickle.Tuple{int64(1), int64(2)}, "properties: shape_before_cropping"},
		{"bbox_used_for_cropping", pickle.Tuple{int64(1)}, "expected three ranges"},
		{"shape_after_cropping_and_before_resampling", pickle.Tuple{int64(1), int64(2), int64(3)}, "does not match shape_after_cropping"},
	} {
		e := exports(t, exported)[0]
		e.props.Set(c.key, c.value)
		_, err := NewGrid(e.plans, e.config, e.props, e.shape)
		require.ErrorContains(t, err, c.message)
	}
}

func TestRoundToHalfIsIEEE(t *testing.T) {
	for _, c := range [][2]float64{
		{0, 0}, {1, 1}, {-1.0009765625, -1.0009765625}, {1.00048828125, 1}, {1.0004882812500002, 1.0009765625}, {1.00146484375, 1.001953125},
		{2047.5, 2048}, {2048, 2048}, {2049, 2048}, {2051, 2052}, {65504, 65504}, {65519.99, 65504}, {65520, math.Inf(1)}, {-1e300, math.Inf(-1)},
		{math.Ldexp(1, -24), math.Ldexp(1, -24)}, {math.Ldexp(1, -25), 0}, {math.Ldexp(1.0000001, -25), math.Ldexp(1, -24)}, {-math.Ldexp(3, -25), -math.Ldexp(1, -23)},
		{math.Ldexp(1, -14) - math.Ldexp(1, -26), math.Ldexp(1, -14)}, {5e-324, 0},
	} {
		require.Equal(t, c[1], roundToHalf(c[0])+0, "%v", c[0])
	}
}

// The next stage of a cascade gets labels on its own grid: nothing cropped, axes as they are, and
// both spacings those of this configuration, as resample_and_save passes them.
func TestResampledGridIsThatOfTheNextStage(t *testing.T) {
	g := Grid{Shape: [3]int{2, 3, 4}, Box: [3][2]int{{1, 3}, {0, 4}, {2, 9}}, Whole: [3]int{5, 6, 9},
		Current: [3]float64{4, 1, 1}, Original: [3]float64{1, 1, 1}, Transpose: [3]int{2, 0, 1}}
	n := g.Resampled([3]int{4, 6, 8})
	require.NoError(t, n.check())
	require.Equal(t, Grid{Shape: g.Shape, Box: [3][2]int{{0, 4}, {0, 6}, {0, 8}}, Whole: [3]int{4, 6, 8},
		Current: g.Current, Original: g.Current, Transpose: [3]int{0, 1, 2}}, n)
	require.Equal(t, [3]int{2, 0, 1}, g.Transpose)
}

// Stored probabilities lose bits that only fill files: less than 2^-14 of them, less than 2^-11 of
// the value. The label keeps the largest one, and a region stays on its side of 0.5.
func TestShortenedProbabilitiesKeepTheLabel(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 8))
	for range 200000 {
		p := float32(math.Pow(rng.Float64(), 1+7*rng.Float64()))
		if rng.IntN(2) == 0 {
			p = 1 - p
		}
		down, up := shortened(p, false), shortened(p, true)
		require.LessOrEqual(t, down, p)
		require.GreaterOrEqual(t, up, p)
		for _, v := range []float32{down, up} {
			require.Less(t, math.Abs(float64(v-p)), 0x1p-14, "%v", p)
			require.LessOrEqual(t, math.Abs(float64(v-p)), float64(p)*0x1p-11, "%v", p)
			require.LessOrEqual(t, v, float32(1))
			require.Equal(t, v, shortened(v, true), "a second time changes nothing")
		}
	}
	for _, p := range []float32{0, 0.125, 0.25, 0.5, 1} {
		require.Equal(t, p, shortened(p, true))
		require.Equal(t, p, shortened(p, false))
	}
	row := []float32{0.5, 0.5000001, 0.4999999}
	shortenRegion(row)
	require.Equal(t, []bool{false, true, false}, []bool{row[0] > 0.5, row[1] > 0.5, row[2] > 0.5})
}

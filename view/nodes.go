package view

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/mask"
	"github.com/lntorch/lntorch/eval/nodes"
	"github.com/lntorch/lntorch/volume"
)

// Limits of what is taken for labels and for nodes.
const (
	mostValues     = 1000    // different values of a label map: more are intensities
	mostComponents = 50_000  // of a label: more are noise, and are not measured
	mostMeasured   = 100_000 // nodes of a map: labels with more than are left are not measured
	mostListed     = 1000    // nodes of a map in the list: the largest
)

// leastIoU is that of a match: evaluation's first rule, iou:0.3.
const leastIoU = 0.3

// described is a label map with its nodes.
type described struct {
	labelJSON
	noise    []int // places of labels with more components than a label's nodes can be
	leftOver []int // of labels that were left out because others have many nodes
}

// describe finds the labels of a map and measures their nodes.
func describe(ctx context.Context, m *labelmap.Map) (described, error) {
	if m.Small != nil {
		return describeLabels(ctx, m.Small, m)
	}
	return describeLabels(ctx, m.Wide, m)
}

func describeLabels[T mask.Integer](ctx context.Context, data []T, m *labelmap.Map) (d described,
	err error) {
	d.Values, d.Nodes = []valueJSON{}, []nodeJSON{}
	counts, err := count(data)
	if err != nil || len(counts) == 0 {
		return d, err
	}
	var values []int
	for _, v := range counts {
		values = append(values, v.Value)
	}
	pairs, err := mask.NewPairs(data, data, m.Shape, nil, values)
	if err != nil {
		return d, err
	}
	for i, v := range counts {
		if err := ctx.Err(); err != nil {
			return d, err
		}
		of, _ := pairs.Of([]int{v.Value})
		found, err := components.FindMask(of, components.Full)
		if err != nil {
			return d, err
		}
		v.Nodes = len(found.Voxels)
		d.Values = append(d.Values, v)
		switch {
		case v.Nodes > mostComponents:
			d.noise = append(d.noise, i)
			continue
		case len(d.Nodes)+v.Nodes > mostMeasured:
			d.leftOver = append(d.leftOver, i)
			continue
		}
		sizes := nodes.Measure(of, found, m.Geometry)
		at := places(of, found, sizes, m.Geometry)
		for i, size := range sizes {
			d.Nodes = append(d.Nodes, nodeJSON{Label: v.Value, Node: i + 1, Voxels: size.Voxels,
				MM3: size.MM3, LongAxis: size.LongAxis, ShortAxis: size.ShortAxis, Slice: size.Slice,
				Centroid: size.Centroid, At: at[i], Matches: []matchJSON{}})
		}
	}
	return d, nil
}

const isImage = ": is this an image? Give it first, and label maps behind it"

// count counts the voxels of each label but 0, in ascending order.
func count[T mask.Integer](data []T) ([]valueJSON, error) {
	voxels := map[T]int64{}
	for i := 0; i < len(data); {
		v, from := data[i], i
		for i++; i < len(data) && data[i] == v; i++ {
		}
		if v < 0 {
			return nil, fmt.Errorf("found the value %d, expected labels, which are not negative%s", v,
				isImage)
		}
		voxels[v] += int64(i - from)
		if len(voxels) > mostValues {
			return nil, fmt.Errorf("found more than %d different values, expected labels%s",
				mostValues, isImage)
		}
	}
	delete(voxels, 0)
	var all []valueJSON
	for v, n := range voxels {
		all = append(all, valueJSON{Value: int(v), Voxels: n})
	}
	slices.SortFunc(all, func(a, b valueJSON) int { return cmp.Compare(a.Value, b.Value) })
	return all, nil
}

// places finds for each node the voxel in the slice in which it was measured that lies nearest to the
// middle of its voxels there: where the list jumps to. RAS, mm.
func places(m *mask.Mask, c *components.Components, sizes []nodes.Size,
	g volume.Geometry) [][3]float64 {
	axial := nodes.Axial(g)
	inSlice := func(f func(node int, at [3]int)) {
		c.Runs(func(k, from, to int) {
			at := [3]int{from/m.Shape[2]/m.Shape[1] + m.Origin[0],
				from/m.Shape[2]%m.Shape[1] + m.Origin[1], from%m.Shape[2] + m.Origin[2]}
			if axial < 2 && at[axial] != sizes[k].Slice {
				return
			}
			for range to - from {
				if axial < 2 || at[2] == sizes[k].Slice {
					f(k, at)
				}
				at[2]++
			}
		})
	}
	sums, n := make([][3]float64, len(sizes)), make([]float64, len(sizes))
	inSlice(func(k int, at [3]int) {
		for a := range 3 {
			sums[k][a] += float64(at[a])
		}
		n[k]++
	})
	nearest, where := make([]float64, len(sizes)), make([][3]float64, len(sizes))
	for k := range nearest {
		nearest[k] = math.Inf(1)
	}
	inSlice(func(k int, at [3]int) {
		apart, index := 0.0, [3]float64{}
		for a := range 3 {
			index[a] = float64(at[a])
			d := (index[a] - sums[k][a]/n[k]) * g.Spacing[a]
			apart += d * d
		}
		if apart < nearest[k] {
			nearest[k] = apart
			p := g.Point(index)
			where[k] = [3]float64{-p[0], -p[1], p[2]}
		}
	})
	return where
}

// axialName is the name of the array axis along which nodes count slices.
func axialName(g volume.Geometry) string { return [3]string{"k", "j", "i"}[nodes.Axial(g)] }

// compare matches the nodes of a reference with those of another map on its grid, label by label.
// with is the place of the other map among the label maps.
func compare(ctx context.Context, reference, other *labelmap.Map, r, o *labelJSON, with int) error {
	o.Compared = true
	switch {
	case reference.Small != nil && other.Small != nil:
		return compareLabels(ctx, reference.Small, other.Small, reference.Shape, r, o, with)
	case reference.Small != nil:
		return compareLabels(ctx, reference.Small, other.Wide, reference.Shape, r, o, with)
	case other.Small != nil:
		return compareLabels(ctx, reference.Wide, other.Small, reference.Shape, r, o, with)
	}
	return compareLabels(ctx, reference.Wide, other.Wide, reference.Shape, r, o, with)
}

func compareLabels[R, O mask.Integer](ctx context.Context, reference []R, other []O, shape [3]int,
	r, o *labelJSON, with int) error {
	labels := labelsOf(r, o)
	pairs, err := mask.NewPairs(reference, other, shape, nil, labels)
	if err != nil {
		return err
	}
	inReference, inOther := r.byLabel(), o.byLabel()
	for _, label := range labels {
		if err := ctx.Err(); err != nil {
			return err
		}
		a, b := pairs.Of([]int{label})
		foundA, err := components.FindMask(a, components.Full)
		if err != nil {
			return err
		}
		foundB, err := components.FindMask(b, components.Full)
		if err != nil {
			return err
		}
		if len(foundA.Voxels) != len(inReference[label]) || len(foundB.Voxels) != len(inOther[label]) {
			continue // they were not measured
		}
		overlaps, err := nodes.Compare(foundA, foundB)
		if err != nil {
			return err
		}
		match(overlaps, inReference[label], inOther[label], with)
	}
	return nil
}

// labelsOf lists the labels of two maps, each once.
func labelsOf(r, o *labelJSON) []int {
	var all []int
	for _, v := range slices.Concat(r.Values, o.Values) {
		all = append(all, v.Value)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// byLabel are the nodes of each label, in their order.
func (l *labelJSON) byLabel() map[int][]*nodeJSON {
	by := map[int][]*nodeJSON{}
	for i := range l.Nodes {
		n := &l.Nodes[i]
		by[n.Label] = append(by[n.Label], n)
	}
	return by
}

// match writes into each node what it is in the other map.
func match(o *nodes.Overlaps, reference, other []*nodeJSON, with int) {
	start := func(list []*nodeJSON, with int) []*matchJSON {
		added := make([]*matchJSON, len(list))
		for i, n := range list {
			n.Matches = append(n.Matches, matchJSON{With: with})
			added[i] = &n.Matches[len(n.Matches)-1]
		}
		return added
	}
	a, b := start(reference, with), start(other, 0)
	note := func(m *matchJSON, node int, iou float64, matched bool) {
		if matched || !m.Matched && iou > m.IoU {
			m.Node, m.IoU, m.Matched = node+1, math.Round(1e4*iou)/1e4, matched
		}
	}
	for _, p := range o.Pairs {
		note(a[p.Reference], p.Prediction, p.IoU, false)
		note(b[p.Prediction], p.Reference, p.IoU, false)
	}
	for _, p := range o.Match(leastIoU) {
		note(a[p.Reference], p.Prediction, p.IoU, true)
		note(b[p.Prediction], p.Reference, p.IoU, true)
	}
}

// shorten leaves the largest nodes in the list.
func (l *labelJSON) shorten() {
	if len(l.Nodes) <= mostListed {
		return
	}
	order := make([]int, len(l.Nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Compare(l.Nodes[j].Voxels, l.Nodes[i].Voxels)
	})
	order = order[:mostListed]
	slices.Sort(order)
	l.Hidden = len(l.Nodes) - mostListed
	kept := make([]nodeJSON, len(order))
	for k, i := range order {
		kept[k] = l.Nodes[i]
	}
	l.Nodes = kept
}

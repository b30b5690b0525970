// Package scores measures what lymph-node work asks of a segmentation, beside nnU-Net's summary:
// how far surfaces lie apart, and which nodes were found, missed and invented, by size. It holds
// the content of scores.json and its tables.
//
// It is pure Go and works on label maps in memory. Reading files, and that both maps are of one
// image, is the caller's. Definitions: docs/scores.md.
package scores

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/mask"
	"github.com/lntorch/lntorch/eval/nodes"
	"github.com/lntorch/lntorch/eval/surface"
	"github.com/lntorch/lntorch/volume"
)

// Score scores a prediction for each target; where the reference has the ignore label (nil: none)
// both are background. The reference's geometry counts. The result is keyed by Target.Key. It
// returns an error if the shapes differ.
func (s Settings) Score(reference, prediction *labelmap.Map, targets []eval.Target,
	ignore *int) (map[string]*Label, error) {
	return s.ScoreWithin(Room{Bytes: math.MaxInt64}, reference, prediction, targets, ignore)
}

// NodeBytes is what a node takes at most until it is in all files: 4.2 KB were measured with 65,000 to 260,000 nodes,
// whose numbers had many digits.
const NodeBytes = 5 << 10

// elementBytes is about what an element of a surface takes until distances are sorted, measured with two
// million.
const elementBytes = 128

// largeBytes is what the nodes or surfaces of a label take that are many.
const largeBytes = 8 << 20

// Room is the memory for what noise has more of than masks of nodes do.
type Room struct {
	Bytes int64  // for the nodes of all labels, and the surfaces of one
	Large func() // if not nil, called before more than largeBytes of it are taken
}

// take tells that so many bytes are about to be taken.
func (r Room) take(bytes int64) {
	if bytes > largeBytes && r.Large != nil {
		r.Large()
	}
}

// ScoreWithin is Score for maps that may be noise: of a label with more nodes, or larger surfaces, than there
// is room for, nodes are not measured, and distances undefined; see Label.Measured.
func (s Settings) ScoreWithin(room Room, reference, prediction *labelmap.Map, targets []eval.Target,
	ignore *int) (map[string]*Label, error) {
	grid := reference.Geometry
	if reference.Shape != prediction.Shape {
		return nil, fmt.Errorf("the reference has shape %v, the prediction %v: expected the same "+
			"grid", reference.Shape, prediction.Shape)
	}
	switch {
	case reference.Small != nil && prediction.Small != nil:
		return score(s, room, reference.Small, prediction.Small, reference.Shape, grid, targets, ignore)
	case reference.Small != nil:
		return score(s, room, reference.Small, prediction.Wide, reference.Shape, grid, targets, ignore)
	case prediction.Small != nil:
		return score(s, room, reference.Wide, prediction.Small, reference.Shape, grid, targets, ignore)
	}
	return score(s, room, reference.Wide, prediction.Wide, reference.Shape, grid, targets, ignore)
}

func score[R, P mask.Integer](s Settings, room Room, reference []R, prediction []P, shape [3]int,
	grid volume.Geometry, targets []eval.Target, ignore *int) (map[string]*Label, error) {
	var values []int
	for _, t := range targets {
		values = append(values, t.Labels()...)
	}
	pairs, err := mask.NewPairs(reference, prediction, shape, ignore, values)
	if err != nil {
		return nil, err
	}
	diagonal := 0.0
	for a, n := range shape {
		diagonal += float64(n) * grid.Spacing[a] * float64(n) * grid.Spacing[a]
	}
	labels := map[string]*Label{}
	for _, t := range targets {
		r, p := pairs.Of(t.Labels())
		l, err := s.label(r, p, grid, math.Sqrt(diagonal), room)
		if err != nil {
			return nil, fmt.Errorf("label %s: %w", t.Key(), err)
		}
		room.Bytes -= int64(l.Nodes.Len()) * NodeBytes
		labels[t.Key()] = l
	}
	return labels, nil
}

// label scores one target, whose masks lie in one box.
func (s Settings) label(r, p *mask.Mask, grid volume.Geometry, diagonal float64,
	room Room) (*Label, error) {
	l := &Label{Empty: "none", tp: mask.Shared(r, p)}
	nr, np := r.Voxels(), p.Voxels()
	l.fn, l.fp = nr-l.tp, np-l.tp
	switch {
	case nr == 0 && np == 0:
		l.Empty = "both"
	case nr == 0:
		l.Empty = "reference"
	case np == 0:
		l.Empty = "prediction"
	}
	add := func(name string, v float64) { l.Metrics = append(l.Metrics, Metric{name, Number(v)}) }
	add("Dice", ratio(2*l.tp, nr+np))
	add("IoU", ratio(l.tp, nr+np-l.tp))
	foundR, err := components.FindMask(r, s.Connectivity)
	if err != nil {
		return nil, err
	}
	foundP, err := components.FindMask(p, s.Connectivity)
	if err != nil {
		return nil, err
	}
	taken := int64(len(foundR.Voxels)+len(foundP.Voxels)) * NodeBytes
	room.take(taken)
	var surfaceR, surfaceP *surface.Surface // not needed where a mask is empty
	enough := taken <= room.Bytes
	if enough && l.Empty == "none" {
		surfaceR, surfaceP = bothSurfaces(r, p, grid.Spacing, (room.Bytes-taken)/elementBytes)
		if enough = surfaceP != nil; enough {
			room.take(int64(surfaceR.Elements()+surfaceP.Elements()) * elementBytes)
		}
	}
	s.surfaces(l, surfaceR, surfaceP, diagonal)
	voxel := grid.Spacing[0] * grid.Spacing[1] * grid.Spacing[2]
	add("volume_ref_mm3", float64(nr)*voxel)
	add("volume_pred_mm3", float64(np)*voxel)
	if !enough {
		more, what := "", "nodes and distances are"
		if taken <= room.Bytes {
			more = ", with rugged surfaces"
		}
		if l.Empty != "none" {
			what = "nodes are"
		}
		l.Excess = excess(len(foundR.Voxels), len(foundP.Voxels), more, what)
		return l, nil
	}

	overlaps, err := nodes.Compare(foundR, foundP)
	if err != nil {
		return nil, err
	}
	sizesR, sizesP := nodes.Measure(r, foundR, grid), nodes.Measure(p, foundP, grid)
	l.Nodes = Nodes{s.nodes(sizesR), s.nodes(sizesP)}
	l.Detection = map[string]*Detection{}
	for i, rule := range s.Match {
		matched := rule.match(overlaps)
		l.Detection[rule.String()] = s.detection(rule, matched, overlaps, sizesR, sizesP)
		if i == 0 {
			l.mark(matched)
		}
	}
	return l, nil
}

// bothSurfaces finds the surfaces of two masks, nil if they have more elements than most together.
func bothSurfaces(r, p *mask.Mask, spacing [3]float64, most int64) (ofR, ofP *surface.Surface) {
	if ofR = surface.Of(r, spacing, int(most)); ofR == nil {
		return nil, nil
	}
	return ofR, surface.Of(p, spacing, int(most)-ofR.Elements())
}

// metrics are the names of the metrics that label adds, in their order.
func (s Settings) metrics() []string {
	names := []string{"Dice", "IoU"}
	for _, t := range s.Tolerances {
		names = append(names, "NSD_"+short(t))
	}
	return append(names, "HD95", "HD", "ASSD", "ASD_ref_to_pred", "ASD_pred_to_ref",
		"volume_ref_mm3", "volume_pred_mm3")
}

// ratio is undefined where there is nothing to count.
func ratio(a, b int64) float64 {
	if b == 0 {
		return math.NaN()
	}
	return float64(a) / float64(b)
}

// surfaces adds the metrics of the distances between two surfaces; all are undefined where two masks have none.
func (s Settings) surfaces(l *Label, r, p *surface.Surface, diagonal float64) {
	add := func(name string, v float64) { l.Metrics = append(l.Metrics, Metric{name, Number(v)}) }
	if l.Empty != "none" || p == nil {
		overlap, distance := 0.0, math.NaN()
		if l.Empty == "both" || l.Empty == "none" {
			overlap = math.NaN()
		} else if s.EmptyDistance == "diagonal" {
			distance = diagonal
		}
		for _, t := range s.Tolerances {
			add("NSD_"+short(t), overlap)
		}
		for _, name := range []string{"HD95", "HD", "ASSD", "ASD_ref_to_pred", "ASD_pred_to_ref"} {
			add(name, distance)
		}
		return
	}
	there, back := surface.Between(r, p)
	areaR, areaP := there.Total(), back.Total()
	for _, t := range s.Tolerances {
		add("NSD_"+short(t), (there.Within(t)+back.Within(t))/(areaR+areaP))
	}
	add("HD95", max(there.Percentile(0.95), back.Percentile(0.95)))
	add("HD", max(there.Percentile(1), back.Percentile(1)))
	sumR, sumP := there.Weighted(), back.Weighted()
	add("ASSD", (sumR+sumP)/(areaR+areaP))
	add("ASD_ref_to_pred", sumR/areaR)
	add("ASD_pred_to_ref", sumP/areaP)
}

func (s Settings) nodes(sizes []nodes.Size) []Node {
	classes := s.Classes()
	list := make([]Node, len(sizes))
	for i, z := range sizes {
		list[i] = Node{Node: i + 1, Voxels: z.Voxels, MM3: z.MM3, LongAxis: z.LongAxis,
			ShortAxis: z.ShortAxis, Slice: z.Slice, Centroid: z.Centroid}
		if classes != nil {
			list[i].SizeClass = classes[s.class(z.ShortAxis)]
		}
	}
	return list
}

// match returns the overlaps that count by the rule. By any, a node can be in several.
func (r Rule) match(o *nodes.Overlaps) []nodes.Overlap {
	if r.Any {
		return o.Pairs
	}
	return o.Match(r.IoU)
}

// mark writes into the nodes what became of them: the partner, of several the one with the largest
// IoU, then the lowest number.
func (l *Label) mark(matched []nodes.Overlap) {
	set := func(list []Node, i, other int, o nodes.Overlap) {
		n := &list[i]
		if n.Matched && *n.IoU >= o.IoU {
			return
		}
		number, iou, dice := other+1, o.IoU, 2*o.IoU/(1+o.IoU)
		n.Matched, n.Match, n.IoU, n.Dice = true, &number, &iou, &dice
	}
	for _, o := range matched {
		set(l.Nodes.Reference, o.Reference, o.Prediction, o)
		set(l.Nodes.Prediction, o.Prediction, o.Reference, o)
	}
}

// detection counts the nodes of both masks by a rule, all and by size.
func (s Settings) detection(rule Rule, matched []nodes.Overlap, o *nodes.Overlaps,
	sizesR, sizesP []nodes.Size) *Detection {
	found, right := make([]bool, len(o.Reference)), make([]bool, len(o.Prediction))
	for _, m := range matched {
		found[m.Reference], right[m.Prediction] = true, true
	}
	d := &Detection{}
	bySize := make([]Detection, len(s.SizeClasses)+1)
	missed, invented := 0.0, 0.0
	for i, f := range found {
		c := &bySize[s.class(sizesR[i].ShortAxis)]
		if f {
			c.TP++
		} else {
			c.FN++
			missed += sizesR[i].MM3
		}
	}
	for i, r := range right {
		c := &bySize[s.class(sizesP[i].ShortAxis)]
		c.Predicted++
		if !r {
			c.FP++
			invented += sizesP[i].MM3
		}
	}
	if names := s.Classes(); names != nil {
		d.BySize = map[string]*Detection{}
		for i, name := range names {
			d.BySize[name] = &bySize[i]
		}
	}
	for i := range bySize {
		d.Add(bySize[i].Counts)
	}
	if rule.Any {
		d.MissedMM3, d.InventedMM3 = &missed, &invented
	}
	d.ratios()
	return d
}

// ratios works out the ratios from the counts.
func (d *Detection) ratios() {
	d.Recall, d.Precision = Number(d.Counts.Recall()), Number(d.Counts.Precision())
	d.F1 = Number(d.Counts.F1())
	for _, c := range d.BySize {
		c.ratios()
	}
}

// add adds the counts of another case; ratios follow them.
func (d *Detection) add(other *Detection) {
	d.Add(other.Counts)
	for name, c := range other.BySize {
		if c == nil {
			continue
		}
		if d.BySize == nil {
			d.BySize = map[string]*Detection{}
		}
		if d.BySize[name] == nil {
			d.BySize[name] = &Detection{}
		}
		d.BySize[name].add(c)
	}
	sum := func(to **float64, v *float64) {
		if v == nil {
			return
		}
		total := *v
		if *to != nil {
			total += **to
		}
		*to = &total
	}
	sum(&d.MissedMM3, other.MissedMM3)
	sum(&d.InventedMM3, other.InventedMM3)
	d.ratios()
}

package page

import (
	"bytes"
	"cmp"
	"fmt"
	"image/png"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/nodes"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/volume"
)

// Picture is a slice of a held-out case with contours.
type Picture struct {
	Case   string
	What   string    // why this slice: "slice with most truth", "largest missed node"
	Slice  int       // along the grid's axial axis, from 0
	Slices int       // that the volume has along it; 0 if not known
	Dice   []float64 // of the case, before and after; NaN where undefined
	Nodes  []string  // the nodes of the reference in the slice: sizes, and what became of them
	Image  []byte    // PNG
	Alt    string    // what is seen, for those who cannot see it
}

// HeldOut is a held-out case to draw. All arrays lie on one grid.
type HeldOut struct {
	Case     string
	Image    []float32 // intensities of one channel in HU, (z, y, x)
	Shape    [3]int
	Geometry volume.Geometry
	Truth    *labelmap.Map
	Ignore   *int // label of the truth whose voxels Pictures makes background in all maps, as scores do; or nil
	// Before and After are what the model predicted as it was and as it became; nil where there is
	// none.
	Before, After *Predicted
	// Connectivity is that of the scores; the zero value stands for components.Full.
	Connectivity components.Connectivity
}

// Predicted is a prediction and how it scored.
type Predicted struct {
	Labels *labelmap.Map
	Scores *scores.Case // nil if not known: then no node is named
}

// Pictures draws the axial slice with most truth, or without truth most prediction, and the slice of
// the largest node that was missed. Where this is one slice, it is one picture. Arrays that do not
// fill the shape are an error.
func (h *HeldOut) Pictures() ([]Picture, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("report: draw case %s: %w", h.Case, err)
	}
	h.dropIgnored()
	axial := nodes.Axial(h.Geometry)
	all, err := h.nodes(axial)
	if err != nil {
		return nil, fmt.Errorf("report: draw case %s: %w", h.Case, err)
	}
	slice, what := h.most(axial)
	missed := -1
	for i, n := range all {
		if n.state() == "missed" && (missed < 0 || n.MM3 > all[missed].MM3) {
			missed = i
		}
	}
	focus := -1
	if missed >= 0 && all[missed].Slice == slice {
		what += ", and the largest missed node"
		focus = missed
	}
	first, err := h.picture(axial, slice, what, all, focus)
	if err != nil || missed < 0 || focus == missed {
		return []Picture{first}, err
	}
	second, err := h.picture(axial, all[missed].Slice, "largest missed node", all, missed)
	return []Picture{first, second}, err
}

func (h *HeldOut) check() error {
	n := 1
	for a, d := range h.Shape {
		if d <= 0 || !(h.Geometry.Spacing[a] > 0) {
			return fmt.Errorf("found shape %v and spacing %v mm, expected positive numbers", h.Shape,
				h.Geometry.Spacing)
		}
		n *= d
	}
	if len(h.Image) != n {
		return fmt.Errorf("found %d voxels of the image, expected %d for shape %v", len(h.Image), n,
			h.Shape)
	}
	if h.Truth == nil {
		return fmt.Errorf("found no truth")
	}
	for _, m := range h.maps() {
		if m.labels != nil && (m.labels.Shape != h.Shape || len(m.labels.Small)+
			len(m.labels.Wide) != n) {
			return fmt.Errorf("%s has shape %v, expected %v as the image", m.name, m.labels.Shape,
				h.Shape)
		}
	}
	return nil
}

// labelled is one of the three contours of a picture.
type labelled struct {
	name   string
	labels *labelmap.Map // nil if there is none
}

func (h *HeldOut) maps() [3]labelled {
	maps := [3]labelled{{"truth", h.Truth}, {"before", nil}, {"after", nil}}
	for i, p := range []*Predicted{h.Before, h.After} {
		if p != nil {
			maps[1+i].labels = p.Labels
		}
	}
	return maps
}

// dropIgnored makes voxels that the truth ignores background in all maps.
func (h *HeldOut) dropIgnored() {
	if h.Ignore == nil {
		return
	}
	maps := h.maps()
	for i := range h.Image {
		if label(h.Truth, i) != *h.Ignore {
			continue
		}
		for _, m := range maps {
			switch {
			case m.labels == nil:
			case m.labels.Small != nil:
				m.labels.Small[i] = 0
			default:
				m.labels.Wide[i] = 0
			}
		}
	}
}

// label is that of a voxel.
func label(m *labelmap.Map, i int) int {
	if m.Small != nil {
		return int(m.Small[i])
	}
	return int(m.Wide[i])
}

// node is a node of the reference and what became of it.
type node struct {
	scores.Node
	label         string // name of its label where there are several, else ""
	before, after *bool  // found; nil if not known
	crosses       map[int]box
}

// state is what became of the node in the end: found, missed, or "" if not known.
func (n *node) state() string {
	found := n.after
	if found == nil {
		found = n.before
	}
	switch {
	case found == nil:
		return ""
	case *found:
		return "found"
	}
	return "missed"
}

// box is pixels of a slice along the two other array axes, the ends excluded.
type box struct{ from, to [2]int }

func (b *box) include(at [2]int) {
	for i, v := range at {
		b.from[i], b.to[i] = min(b.from[i], v), max(b.to[i], v+1)
	}
}

// nodes lists the reference's nodes with the slices that they cross. Without scores there are none.
func (h *HeldOut) nodes(axial int) ([]node, error) {
	var scored [2]*scores.Case
	for i, p := range []*Predicted{h.Before, h.After} {
		if p != nil {
			scored[i] = p.Scores
		}
	}
	main := cmp.Or(scored[1], scored[0])
	if main == nil {
		return nil, nil
	}
	connectivity := cmp.Or(h.Connectivity, components.Full)
	var all []node
	for _, key := range sortedKeys(main.Labels) {
		target, err := eval.ParseTarget(key)
		if err != nil {
			return nil, err
		}
		l := main.Labels[key]
		if !l.Measured() && scored[0] != nil && scored[0].Labels[key] != nil {
			l = scored[0].Labels[key]
		}
		if !l.Measured() { // noise on both sides: no node is named
			continue
		}
		list := l.Nodes.Reference
		var found *components.Components
		if h.Truth.Small != nil {
			found, err = components.Find(h.Truth.Small, h.Shape, target.Labels(), connectivity)
		} else {
			found, err = components.Find(h.Truth.Wide, h.Shape, target.Labels(), connectivity)
		}
		if err != nil {
			return nil, err
		}
		if len(list) != len(found.Voxels) {
			return nil, fmt.Errorf("found %d nodes of label %s in the truth and %d in its scores, expected "+
				"scores of the same file", len(found.Voxels), key, len(list))
		}
		from := len(all)
		for i, n := range list {
			one := node{Node: n, crosses: map[int]box{}}
			if len(main.Labels) > 1 {
				one.label = key
			}
			for k, to := range []**bool{&one.before, &one.after} {
				if scored[k] == nil || scored[k].Labels[key] == nil || !scored[k].Labels[key].Measured() ||
					len(scored[k].Labels[key].Nodes.Reference) != len(list) {
					continue
				}
				*to = &scored[k].Labels[key].Nodes.Reference[i].Matched
			}
			all = append(all, one)
		}
		u, v := others(axial)
		found.Runs(func(k, start, end int) {
			at := [3]int{start / h.Shape[2] / h.Shape[1], start / h.Shape[2] % h.Shape[1],
				start % h.Shape[2]}
			for range end - start {
				b, ok := all[from+k].crosses[at[axial]]
				if !ok {
					b = box{[2]int{at[u], at[v]}, [2]int{at[u] + 1, at[v] + 1}}
				}
				b.include([2]int{at[u], at[v]})
				all[from+k].crosses[at[axial]] = b
				at[2]++
			}
		})
	}
	return all, nil
}

func sortedKeys(m map[string]*scores.Label) []string {
	s := scores.Scores{Labels: map[string]string{}}
	for key := range m {
		s.Labels[key] = key
	}
	return s.Keys()
}

// others are the array axes of a slice.
func others(axial int) (u, v int) {
	switch axial {
	case 0:
		return 1, 2
	case 1:
		return 0, 2
	}
	return 0, 1
}

// most returns the slice with most truth, of equals the lowest, or without truth of a prediction.
func (h *HeldOut) most(axial int) (slice int, what string) {
	for _, m := range h.maps() {
		if m.labels == nil {
			continue
		}
		counts := make([]int, h.Shape[axial])
		step := 1
		for a := axial + 1; a < 3; a++ {
			step *= h.Shape[a]
		}
		count := func(i int) { counts[i/step%h.Shape[axial]]++ }
		for i, l := range m.labels.Small {
			if l != 0 {
				count(i)
			}
		}
		for i, l := range m.labels.Wide {
			if l != 0 {
				count(i)
			}
		}
		best := slices.Index(counts, slices.Max(counts))
		if counts[best] == 0 {
			continue
		}
		if m.name == "truth" {
			return best, "slice with most truth"
		}
		return best, "no truth; slice with most prediction " + m.name
	}
	return h.Shape[axial] / 2, "no truth and no prediction; middle slice"
}

// picture draws one slice; focus is the node in the middle of the enlarged part, or -1.
func (h *HeldOut) picture(axial, slice int, what string, all []node, focus int) (Picture, error) {
	p := Picture{Case: h.Case, What: what, Slice: slice, Slices: h.Shape[axial]}
	for _, one := range []*Predicted{h.Before, h.After} {
		d := math.NaN()
		if one != nil && one.Scores != nil {
			d = caseMean(one.Scores, "Dice")
		}
		p.Dice = append(p.Dice, d)
	}
	v := h.view(axial, slice)
	var inside []node
	for i, n := range all {
		if b, ok := n.crosses[slice]; ok {
			inside = append(inside, n)
			if i == focus {
				v.focus = v.place(b)
			}
		}
	}
	slices.SortStableFunc(inside, func(a, b node) int { return cmp.Compare(b.ShortAxis, a.ShortAxis) })
	for _, n := range inside {
		p.Nodes = append(p.Nodes, n.text())
	}
	var kinds []string
	for i, m := range h.maps() {
		if m.labels != nil {
			kinds = append(kinds, m.name+" "+contours[i].style)
		}
	}
	p.Alt = fmt.Sprintf("Axial slice %d of %d in a soft-tissue window: the whole slice, a part of it "+
		"enlarged, and the same part without contours. Contours: %s.", slice+1, p.Slices,
		strings.Join(kinds, ", "))
	if len(p.Nodes) > 0 {
		p.Alt += " In the slice: " + strings.Join(p.Nodes, "; ") + "."
	}
	var out bytes.Buffer
	if err := png.Encode(&out, v.draw()); err != nil {
		return p, err
	}
	p.Image = out.Bytes()
	return p, nil
}

// text describes the node in a line.
func (n *node) text() string {
	text := fmt.Sprintf("node %d, short axis %.1f mm", n.Node.Node, n.ShortAxis)
	if n.label != "" {
		text = "label " + n.label + " " + text
	}
	word := map[bool]string{true: "found", false: "missed"}
	switch {
	case n.before != nil && n.after != nil:
		text += fmt.Sprintf(", %s before, %s after", word[*n.before], word[*n.after])
	case n.before != nil || n.after != nil:
		text += ", " + n.state()
	}
	return text
}

// caseMean is a metric of a case, over its labels where it is defined.
func caseMean(c *scores.Case, metric string) float64 {
	sum, n := 0.0, 0
	for _, l := range c.Labels {
		if v := l.Metrics.Get(metric); v.Defined() {
			sum += float64(v)
			n++
		}
	}
	return sum / float64(n)
}

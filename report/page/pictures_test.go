package page

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/nodes"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/volume"
)

// body is a grid whose axes are the patient's, with 24 slices of 4 mm, rows of 1.5 and columns of
// 0.75 mm: an ellipse of tissue and noise in air. The truth is a large node at the patient's left
// and front, 12 mm to 18 mm wide, and a small one elsewhere, lower; the prediction misses the small
// one.
func body(t *testing.T) *HeldOut {
	t.Helper()
	h := &HeldOut{Case: "x", Shape: [3]int{24, 60, 100}, Geometry: volume.Geometry{
		Spacing: [3]float64{4, 1.5, 0.75}, OriginXYZ: [3]float64{-40, -50, 10},
		DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}}
	h.Image = make([]float32, 24*60*100)
	truth, found := make([]uint8, len(h.Image)), make([]uint8, len(h.Image))
	random := rand.New(rand.NewPCG(1, 2))
	i := 0
	for z := range 24 {
		for y := range 60 {
			for x := range 100 {
				h.Image[i] = -1000
				if math.Hypot(float64(y-30)/28, float64(x-50)/46) < 1 {
					h.Image[i] = float32(random.IntN(80))
				}
				if z >= 10 && z < 13 && y >= 10 && y < 18 && x >= 64 && x < 88-(z-11)*(z-11)*4 {
					truth[i], found[i] = 1, 1
				}
				if z >= 4 && z < 6 && y >= 40 && y < 44 && x >= 30 && x < 38-(z-4)*4 {
					truth[i] = 1
				}
				i++
			}
		}
	}
	h.Truth = &labelmap.Map{Shape: h.Shape, Small: truth, Geometry: h.Geometry}
	h.After = &Predicted{Labels: &labelmap.Map{Shape: h.Shape, Small: found, Geometry: h.Geometry}}
	h.scored(t)
	return h
}

// scored scores the prediction.
func (h *HeldOut) scored(t *testing.T) {
	t.Helper()
	l, err := scores.Default().Score(h.Truth, h.After.Labels, []eval.Target{eval.Label(1)}, nil)
	require.NoError(t, err)
	h.After.Scores = &scores.Case{Case: h.Case, Labels: l}
}

// turned is the same patient on a grid with its axes in another order, some of them reversed.
func turned(t *testing.T, h *HeldOut, order [3]int, reverse [3]bool) *HeldOut {
	t.Helper()
	g := &HeldOut{Case: h.Case, Image: make([]float32, len(h.Image))}
	var origin [3]float64
	for a, from := range order {
		g.Shape[a], g.Geometry.Spacing[a] = h.Shape[from], h.Geometry.Spacing[from]
		sign := 1.0
		if reverse[a] {
			sign = -1
			origin[from] = float64(h.Shape[from] - 1)
		}
		for r := range 3 {
			g.Geometry.DirectionXYZ[3*r+2-a] = sign * h.Geometry.DirectionXYZ[3*r+2-from]
		}
	}
	g.Geometry.OriginXYZ = h.Geometry.Point(origin)
	move := func(to func(i, from int)) {
		i := 0
		var at [3]int
		for at[0] = range g.Shape[0] {
			for at[1] = range g.Shape[1] {
				for at[2] = range g.Shape[2] {
					var p [3]int
					for a, from := range order {
						p[from] = at[a]
						if reverse[a] {
							p[from] = g.Shape[a] - 1 - at[a]
						}
					}
					to(i, (p[0]*h.Shape[1]+p[1])*h.Shape[2]+p[2])
					i++
				}
			}
		}
	}
	truth, found := make([]uint8, len(h.Image)), make([]int32, len(h.Image))
	move(func(i, from int) {
		g.Image[i], truth[i] = h.Image[from], h.Truth.Small[from]
		found[i] = int32(h.After.Labels.Small[from])
	})
	g.Truth = &labelmap.Map{Shape: g.Shape, Small: truth, Geometry: g.Geometry}
	g.After = &Predicted{Labels: &labelmap.Map{Shape: g.Shape, Wide: found, Geometry: g.Geometry}}
	g.scored(t)
	return g
}

func decoded(t *testing.T, p Picture) image.Image {
	t.Helper()
	im, err := png.Decode(bytes.NewReader(p.Image))
	require.NoError(t, err)
	return im
}

// inked is the smallest rectangle around the pixels of a colour in a panel, and how many they are.
func inked(im image.Image, panelOf int, ink color.RGBA) (r image.Rectangle, n int) {
	left := panelOf * (panel + panelGap)
	for y := range panel {
		for x := left; x < left+panel; x++ {
			if color.RGBAModel.Convert(im.At(x, y)) == ink {
				p := image.Rect(x-left, y, x-left+1, y+1)
				if n == 0 {
					r = p
				}
				r = r.Union(p)
				n++
			}
		}
	}
	return r, n
}

// A slice stands upright, seen from the feet, with its proportions in mm.
func TestPicturesAreUprightAndInProportion(t *testing.T) {
	pictures, err := body(t).Pictures()
	require.NoError(t, err)
	require.Len(t, pictures, 2)
	first, second := pictures[0], pictures[1]
	require.Equal(t, "slice with most truth", first.What)
	require.Equal(t, 11, first.Slice)
	require.Equal(t, 24, first.Slices)
	require.Equal(t, []string{"node 2, short axis 19.7 mm, found"}, first.Nodes) // across the diagonal
	require.Equal(t, "largest missed node", second.What)
	require.Equal(t, 4, second.Slice)
	require.Equal(t, []string{"node 1, short axis 7.9 mm, missed"}, second.Nodes)
	require.Contains(t, first.Alt, "Axial slice 12 of 24")
	require.Contains(t, first.Alt, "truth solid, after dashed")
	require.True(t, math.IsNaN(first.Dice[0]))
	require.InDelta(t, 0.95, first.Dice[1], 0.05)

	im := decoded(t, first)
	r, _ := inked(im, 0, contours[0].ink)
	require.Greater(t, r.Min.X, panel/2, "the patient's left is on the right")
	require.Less(t, r.Max.Y, panel/2, "the front is above")
	// In the enlarged part, 50 mm wide: 18 × 12 mm, and the line.
	r, _ = inked(im, 1, contours[0].ink)
	require.InDelta(t, 18*panel/50, r.Dx(), 4)
	require.InDelta(t, 12*panel/50, r.Dy(), 4)
	_, n := inked(im, 1, contours[2].ink)
	require.NotZero(t, n)
	// The last panel has none; missed nodes have no contour but the truth's.
	for _, c := range contours {
		_, n := inked(im, 2, c.ink)
		require.Zero(t, n)
	}
	im = decoded(t, second)
	r, _ = inked(im, 1, contours[0].ink)
	require.InDelta(t, 6*panel/50, r.Dx(), 4)
	require.InDelta(t, 6*panel/50, r.Dy(), 4)
	require.InDelta(t, panel/2, (r.Min.X+r.Max.X)/2, 4, "the missed node is in the middle")
	_, n = inked(im, 1, contours[2].ink)
	require.Zero(t, n)
}

// What the truth ignores is background, as in the scores, whatever is predicted there: slices, contours and
// nodes are those of the annotated rest.
func TestPicturesLeaveOutWhatIsIgnored(t *testing.T) {
	plain := body(t)
	plain.Before = plain.After
	want, err := plain.Pictures()
	require.NoError(t, err)
	for _, wide := range []bool{false, true} {
		h := body(t)
		ignore := 2
		before := make([]int32, len(h.Image))
		for i, l := range h.After.Labels.Small {
			before[i] = int32(l)
		}
		for i := range h.Image {
			z, y := i/6000, i/100%60
			if z >= 14 || z < 3 || y >= 58 { // nearly all of it is not annotated
				h.Truth.Small[i] = uint8(ignore)
				if z >= 16 && y > 20 {
					h.After.Labels.Small[i], before[i] = 1, 1
				}
			}
		}
		h.Before = &Predicted{Labels: &labelmap.Map{Shape: h.Shape, Wide: before, Geometry: h.Geometry}}
		if wide {
			h.Truth.Wide = volume.Cast[int32](volume.Slice[uint8](h.Truth.Small))
			h.Truth.Small = nil
		}
		for _, p := range []*Predicted{h.Before, h.After} {
			l, err := scores.Default().Score(h.Truth, p.Labels, []eval.Target{eval.Label(1)}, &ignore)
			require.NoError(t, err)
			p.Scores = &scores.Case{Case: h.Case, Labels: l}
		}
		h.Ignore = &ignore
		got, err := h.Pictures()
		require.NoError(t, err)
		require.Len(t, got, 2)
		for i := range want {
			require.Equal(t, want[i].What, got[i].What)
			require.Equal(t, want[i].Slice, got[i].Slice)
			require.Equal(t, want[i].Nodes, got[i].Nodes)
			require.Equal(t, want[i].Dice, got[i].Dice)
			require.True(t, bytes.Equal(want[i].Image, got[i].Image), "picture %d", i)
		}
	}
}

// However the file stores the patient, a slice looks the same: axial, coronal and sagittal arrays,
// each axis either way.
func TestPicturesDoNotDependOnTheGridsAxes(t *testing.T) {
	h := body(t)
	want := h.view(0, 11)
	pictures, err := h.Pictures()
	require.NoError(t, err)
	for _, order := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for k := range 8 {
			g := turned(t, h, order, [3]bool{k&1 > 0, k&2 > 0, k&4 > 0})
			axial := nodes.Axial(g.Geometry)
			require.Equal(t, 0, order[axial])
			slice, _ := g.most(axial)
			got := g.view(axial, slice)
			require.Equal(t, [2]int{want.ny, want.nx}, [2]int{got.ny, got.nx})
			require.Equal(t, [2]float64{want.dy, want.dx}, [2]float64{got.dy, got.dx})
			require.Equal(t, want.image, got.image)
			require.Equal(t, want.labels, got.labels)
			require.Equal(t, want.letters, got.letters)
			if k != 3 {
				continue
			}
			drawn, err := g.Pictures()
			require.NoError(t, err)
			require.Len(t, drawn, 2)
			for i := range pictures {
				require.Equal(t, pictures[i].What, drawn[i].What)
				require.True(t, bytes.Equal(pictures[i].Image, drawn[i].Image), "%v: picture %d", order, i)
			}
		}
	}
}

// An oblique grid is drawn along its own axes, as the nearest upright one, with its letters.
func TestObliqueGridsAreDrawnAsTheNearestUprightOne(t *testing.T) {
	h := body(t)
	want, err := h.Pictures()
	require.NoError(t, err)
	c, s := math.Cos(0.5), math.Sin(0.5)
	h.Geometry.DirectionXYZ = [9]float64{c, -s * c, s * s, s, c * c, -s * c, 0, s, c}
	got, err := h.Pictures()
	require.NoError(t, err)
	require.True(t, bytes.Equal(want[0].Image, got[0].Image))
	for _, l := range []struct {
		direction  [3]float64
		flip       bool
		start, end string
	}{{[3]float64{1, 0, 0}, false, "R", "L"}, {[3]float64{-0.8, 0.6, 0}, true, "R", "L"},
		{[3]float64{-0.8, 0.6, 0}, false, "L", "R"}, {[3]float64{0.1, 0.9, 0.2}, false, "A", "P"},
		{[3]float64{0, 0, -1}, false, "H", "F"}, {[3]float64{}, false, "", ""}} {
		start, end := letters(l.direction[0], l.direction[1], l.direction[2], l.flip)
		require.Equal(t, [2]string{l.start, l.end}, [2]string{start, end})
	}
}

// The couch does not make the patient small.
func TestTheCouchIsLeftOut(t *testing.T) {
	h := body(t)
	size := func() float64 { r := h.view(0, 11).body(); return r.side() }
	want := size()
	require.InDelta(t, 60*1.5*56/60*1.04, want, 2)
	for x := range 100 {
		for z := range 24 {
			h.Image[(z*60+59)*100+x] = 200 // a row below the patient, whose last one is row 57
			h.Image[(z*60+58)*100+x] = -1000
		}
	}
	require.Equal(t, want, size())
	h.Truth.Small[(11*60+59)*100+50] = 1 // but what has a label is seen
	require.Greater(t, size(), want)
}

// Where contours coincide, each is seen.
func TestContoursThatCoincideAreAllSeen(t *testing.T) {
	h := body(t)
	h.Before = h.After
	pictures, err := h.Pictures()
	require.NoError(t, err)
	for i, c := range contours {
		_, n := inked(decoded(t, pictures[0]), 1, c.ink)
		require.Greater(t, n, 200, i)
	}
}

// The lines go once along each side between different labels, and along nothing else.
func TestBordersAreTheSidesBetweenLabels(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		ny, nx := 1+random.IntN(7), 1+random.IntN(7)
		labels := make([]int32, ny*nx)
		for i := range labels {
			labels[i] = int32(random.IntN(3))
		}
		at := func(y, x int) int32 {
			if y < 0 || x < 0 || y >= ny || x >= nx {
				return 0
			}
			return labels[y*nx+x]
		}
		want := map[[4]int]bool{}
		for y := range ny + 1 {
			for x := range nx + 1 {
				if at(y, x) != at(y-1, x) {
					want[[4]int{y, x, y, x + 1}] = true
				}
				if at(y, x) != at(y, x-1) {
					want[[4]int{y, x, y + 1, x}] = true
				}
			}
		}
		last := [2]int{-1, -1}
		for e := range borders(labels, ny, nx) {
			if !e.starts {
				require.Equal(t, last, [2]int{e.y0, e.x0})
			}
			last = [2]int{e.y1, e.x1}
			side := [4]int{min(e.y0, e.y1), min(e.x0, e.x1), max(e.y0, e.y1), max(e.x0, e.x1)}
			require.True(t, want[side], "%v", side)
			delete(want, side)
		}
		require.Empty(t, want)
	}
}

// The middle of the grey levels is level 40, black and white lie 200 HU away, and other images than
// CTs have their own range.
func TestPicturesHaveASoftTissueWindow(t *testing.T) {
	h := &HeldOut{Case: "x", Shape: [3]int{1, 8, 8}, Geometry: volume.Geometry{
		Spacing: [3]float64{1, 1, 1}, DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}},
		Image: make([]float32, 64)}
	h.Truth = &labelmap.Map{Shape: h.Shape, Small: make([]uint8, 64)}
	grey := func(hu float32) color.RGBA {
		for i := range h.Image {
			h.Image[i] = hu
		}
		h.Image[0] = -1000
		pictures, err := h.Pictures()
		require.NoError(t, err)
		require.Equal(t, "no truth and no prediction; middle slice", pictures[0].What)
		return color.RGBAModel.Convert(decoded(t, pictures[0]).At(panel/2+40, panel/2+40)).(color.RGBA)
	}
	require.Equal(t, color.RGBA{128, 128, 128, 255}, grey(40))
	require.Equal(t, color.RGBA{0, 0, 0, 255}, grey(-160))
	require.Equal(t, color.RGBA{255, 255, 255, 255}, grey(240))
	require.Equal(t, color.RGBA{0, 0, 0, 255}, grey(float32(math.NaN())))
}

func TestPicturesRefuseArraysThatDoNotFit(t *testing.T) {
	for _, c := range []struct {
		change func(*HeldOut)
		says   string
	}{
		{func(h *HeldOut) { h.Image = h.Image[1:] }, "found 143999 voxels of the image, expected 144000"},
		{func(h *HeldOut) { h.Truth = nil }, "found no truth"},
		{func(h *HeldOut) { h.Geometry.Spacing[1] = math.NaN() }, "expected positive numbers"},
		{func(h *HeldOut) { h.After.Labels.Small = h.After.Labels.Small[1:] }, "after has shape [24 60 100]"},
		{func(h *HeldOut) { h.Shape = [3]int{} }, "expected positive numbers"},
		{func(h *HeldOut) { h.Truth.Small[0] = 1 }, "found 3 nodes of label 1 in the truth and 2 in its scores"},
	} {
		h := body(t)
		c.change(h)
		_, err := h.Pictures()
		require.ErrorContains(t, err, "report: draw case x: ")
		require.ErrorContains(t, err, c.says)
	}
}

// Where a model made noise of a case, its nodes are those of the other's scores; without either none is named.
func TestPicturesOfNoiseAreDrawn(t *testing.T) {
	a := sample(t)
	drawn, err := drawnCases()
	require.NoError(t, err)
	h := *drawn[0]
	pictures := func(before, after *scores.Case) []Picture {
		h.Before, h.After = &Predicted{h.Truth, before}, &Predicted{h.Truth, after}
		list, err := h.Pictures()
		require.NoError(t, err)
		return list
	}
	before, after := a.Before.Cases[0], a.After.Cases[0]
	noiseBefore, noiseAfter := forget(a.Before, 0).Cases[0], forget(a.After, 0).Cases[0]
	both := pictures(before, after)
	require.Contains(t, both[0].Alt, " In the slice: ")
	one := pictures(before, noiseAfter)
	require.Contains(t, one[0].Alt, " In the slice: ")
	require.NotEqual(t, both[0].Alt, one[0].Alt) // found after is not known
	none := pictures(noiseBefore, noiseAfter)
	require.NotEmpty(t, none)
	require.NotContains(t, none[0].Alt, " In the slice: ")
}

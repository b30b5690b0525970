package report

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"
	"slices"

	"codeberg.org/go-fonts/liberation/liberationsansbold"
	"codeberg.org/go-fonts/liberation/liberationsansregular"
	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// OverlayData is the input of Overlay: one row per case with the CT slice, the truth, and one panel
// per prediction.
type OverlayData struct {
	Title       string
	Predictions []string // titles of the prediction columns, e.g. "before", "after"
	Labels      []string // legend of labels 1, 2, …; labels without a name are drawn, too
	Cases       []OverlayCase
}

// OverlayCase is one case on one grid (z,y,x), row-major.
type OverlayCase struct {
	Name        string
	Image       []float32 // any intensities; the slice's range is mapped to the grey levels
	Shape       [3]int
	Spacing     [3]float64 // mm, (z,y,x)
	Truth       []uint8
	Predictions [][]uint8 // in the order of OverlayData.Predictions
	Dice        []float64 // of each prediction; NaN is drawn as a dash
}

const (
	panelWidth = 288 // pixels, for any slice size
	gap        = 10
	border     = 20
	captionH   = 26 // line of text above a panel
	headH      = 30
	titleH     = 36
	legendH    = 34
)

// Colours of the panels, distinguishable with colour blindness and on grey.
var (
	truthColor  = color.RGBA{R: 255, G: 214, B: 0, A: 255}
	labelColors = []color.RGBA{
		{R: 0, G: 190, B: 255, A: 255}, {R: 255, G: 110, B: 30, A: 255},
		{R: 190, G: 120, B: 255, A: 255},
		{R: 0, G: 200, B: 130, A: 255}, {R: 240, G: 80, B: 160, A: 255},
		{R: 150, G: 160, B: 60, A: 255},
	}
	pageColor = color.RGBA{R: 255, G: 255, B: 255, A: 255}
	inkColor  = color.RGBA{R: 25, G: 25, B: 35, A: 255}
	dimColor  = color.RGBA{R: 110, G: 110, B: 120, A: 255}
)

// labelColor is the colour of a label from 1 on.
func labelColor(label uint8) color.RGBA { return labelColors[(int(label)-1)%len(labelColors)] }

// Overlay writes the cases as panels to a PNG at path: for each case the axial slice with the
// largest truth (without truth, the largest prediction). Predictions are filled, with the outline
// of the truth on top, so false negatives are empty outlines and false positives are colour outside
// of one. The empty margin around the body is cropped, and physical proportions are kept. Arrays
// that do not match the shape are an error.
func Overlay(path string, data OverlayData) error {
	if len(data.Cases) == 0 {
		return fmt.Errorf("report: draw %s: no case", path)
	}
	columns := 2 + len(data.Predictions)
	width := 2*border + columns*panelWidth + (columns-1)*gap
	height := titleH + headH + legendH + border
	views := make([]view, len(data.Cases))
	for i := range data.Cases {
		c := &data.Cases[i]
		if err := c.check(len(data.Predictions)); err != nil {
			return fmt.Errorf("report: draw %s: case %s: %w", path, c.Name, err)
		}
		views[i] = c.view()
		height += captionH + views[i].height + gap
	}
	page := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(page, page.Bounds(), image.NewUniform(pageColor), image.Point{}, draw.Src)
	write, err := newWriter(page)
	if err != nil {
		return fmt.Errorf("report: draw %s: %w", path, err)
	}
	columnX := func(i int) int { return border + i*(panelWidth+gap) }

	write.text(write.title, inkColor, border, titleH-8, data.Title)
	for i, name := range append([]string{"CT", "truth"}, data.Predictions...) {
		write.text(write.bold, inkColor, columnX(i), titleH+headH-9, name)
	}
	y := titleH + headH
	for i := range data.Cases {
		c := &data.Cases[i]
		v := &views[i]
		write.text(write.regular, inkColor, columnX(0), y+captionH-8,
			fmt.Sprintf("%s, slice %d of %d", c.Name, v.z+1, c.Shape[0]))
		for p, d := range c.Dice {
			caption := "Dice –"
			if !math.IsNaN(d) {
				caption = fmt.Sprintf("Dice %.3f", d)
			}
			write.text(write.regular, inkColor, columnX(2+p), y+captionH-8, caption)
		}
		y += captionH
		ct := v.grey()
		for col := range columns {
			panel := page.SubImage(image.Rect(columnX(col), y, columnX(col)+panelWidth,
				y+v.height)).(*image.RGBA)
			draw.Draw(panel, panel.Bounds(), ct, image.Point{}, draw.Src)
			switch {
			case col == 1:
				v.fill(panel, v.truth)
			case col > 1:
				v.fill(panel, v.predictions[col-2])
			}
			if col > 0 {
				v.outline(panel, v.truth, func(uint8) color.RGBA { return truthColor })
			}
		}
		y += v.height + gap
	}

	y += legendH / 2
	x := border
	draw.Draw(page, image.Rect(x, y-6, x+18, y+6), image.NewUniform(truthColor), image.Point{},
		draw.Src)
	draw.Draw(page, image.Rect(x+2, y-4, x+16, y+4),
		image.NewUniform(color.RGBA{R: 90, G: 90, B: 90, A: 255}), image.Point{}, draw.Src)
	x = write.text(write.regular, dimColor, x+24, y+5, "outline: truth") + 24
	for i, name := range data.Labels {
		draw.Draw(page, image.Rect(x, y-6, x+18, y+6), image.NewUniform(labelColor(uint8(min(i+1, 255)))),
			image.Point{}, draw.Src)
		x = write.text(write.regular, dimColor, x+24, y+5, "filled: "+name) + 24
	}
	return writePNG(path, page)
}

func (c *OverlayCase) check(predictions int) error {
	n := c.Shape[0] * c.Shape[1] * c.Shape[2]
	for _, d := range c.Shape {
		if d <= 0 {
			return fmt.Errorf("found shape %v, expected positive sizes", c.Shape)
		}
	}
	if len(c.Image) != n || len(c.Truth) != n {
		return fmt.Errorf("found %d voxels of the image and %d of the truth, expected %d for "+
			"shape %v",
			len(c.Image), len(c.Truth), n, c.Shape)
	}
	if len(c.Predictions) != predictions || len(c.Dice) != predictions {
		return fmt.Errorf("%d predictions and %d Dice values, expected %d of each",
			len(c.Predictions), len(c.Dice), predictions)
	}
	for i, p := range c.Predictions {
		if len(p) != n {
			return fmt.Errorf("found %d voxels of prediction %d, expected %d for shape %v",
				len(p), i+1, n, c.Shape)
		}
	}
	if !(c.Spacing[1] > 0 && c.Spacing[2] > 0) {
		return fmt.Errorf("spacing %v mm: expected positive numbers", c.Spacing)
	}
	return nil
}

// slice returns the index of the axial slice with the largest truth or prediction.
func (c *OverlayCase) slice() int {
	n := c.Shape[1] * c.Shape[2]
	for _, m := range append([][]uint8{c.Truth}, c.Predictions...) {
		best, most := 0, 0
		for z := range c.Shape[0] {
			area := 0
			for _, v := range m[z*n : (z+1)*n] {
				if v > 0 {
					area++
				}
			}
			if area > most {
				best, most = z, area
			}
		}
		if most > 0 {
			return best
		}
	}
	return c.Shape[0] / 2
}

// view is the part of one slice that is drawn, without the margin around the body.
type view struct {
	z           int
	ny, nx      int
	height      int       // of a panel in pixels
	image       []float32 // (ny, nx), like the maps
	lo, hi      float64   // intensities of black and white
	truth       []uint8
	predictions [][]uint8
}

func (c *OverlayCase) view() view {
	v := view{z: c.slice()}
	n := c.Shape[1] * c.Shape[2]
	plane := c.Image[v.z*n : (v.z+1)*n]
	v.lo, v.hi = Window(plane)

	// The bounding box of everything but background: intensities above the lowest tenth of the grey
	// levels, and all labels.
	box := image.Rectangle{}
	maps := append([][]uint8{c.Truth}, c.Predictions...)
	for i, value := range plane {
		seen := float64(value) > v.lo+(v.hi-v.lo)/10
		for _, m := range maps {
			seen = seen || m[v.z*n+i] > 0
		}
		if seen {
			x, y := i%c.Shape[2], i/c.Shape[2]
			box = box.Union(image.Rect(x, y, x+1, y+1))
		}
	}
	whole := image.Rect(0, 0, c.Shape[2], c.Shape[1])
	if box.Empty() {
		box = whole
	}
	box = box.Inset(-3).Intersect(whole)
	v.ny, v.nx = box.Dy(), box.Dx()
	v.image = crop(plane, c.Shape[2], box)
	v.truth = crop(c.Truth[v.z*n:(v.z+1)*n], c.Shape[2], box)
	for _, p := range c.Predictions {
		v.predictions = append(v.predictions, crop(p[v.z*n:(v.z+1)*n], c.Shape[2], box))
	}
	v.height = panelHeight(v.ny, v.nx, c.Spacing[1], c.Spacing[2])
	return v
}

// panelHeight keeps the proportions of a plane of ny rows, up to four to one.
func panelHeight(ny, nx int, spacingY, spacingX float64) int {
	ratio := float64(ny) * spacingY / (float64(nx) * spacingX)
	return int(math.Round(panelWidth * min(max(ratio, 0.25), 4)))
}

func crop[T any](plane []T, nx int, box image.Rectangle) []T {
	var out []T
	for y := box.Min.Y; y < box.Max.Y; y++ {
		out = append(out, plane[y*nx+box.Min.X:y*nx+box.Max.X]...)
	}
	return out
}

// Window returns the intensities of black and white that leave out the darkest 1 % and the
// brightest 0.5 % of the values. hi is above lo.
func Window(values []float32) (lo, hi float64) {
	sorted := slices.DeleteFunc(slices.Clone(values), func(v float32) bool {
		return math.IsNaN(float64(v))
	})
	slices.Sort(sorted)
	if n := len(sorted); n > 0 {
		lo, hi = float64(sorted[n/100]), float64(sorted[n-1-n/200])
	}
	if hi <= lo {
		hi = lo + 1
	}
	return lo, hi
}

// grey is the slice at panel size, linearly interpolated.
func (v *view) grey() *image.Gray {
	out := image.NewGray(image.Rect(0, 0, panelWidth, v.height))
	for py := range v.height {
		y0, y1, fy := between(py, v.height, v.ny)
		for px := range panelWidth {
			x0, x1, fx := between(px, panelWidth, v.nx)
			top := float64(v.image[y0*v.nx+x0])*(1-fx) + float64(v.image[y0*v.nx+x1])*fx
			bottom := float64(v.image[y1*v.nx+x0])*(1-fx) + float64(v.image[y1*v.nx+x1])*fx
			level := (top*(1-fy) + bottom*fy - v.lo) / (v.hi - v.lo)
			if !(level > 0) { // NaN too
				level = 0
			}
			out.Pix[py*out.Stride+px] = uint8(255*min(level, 1) + 0.5)
		}
	}
	return out
}

// between maps the centre of pixel p of n to m samples: the two neighbours and the weight of the
// second.
func between(p, n, m int) (a, b int, f float64) {
	x := (float64(p)+0.5)*float64(m)/float64(n) - 0.5
	x = min(max(x, 0), float64(m-1))
	a = int(x)
	return a, min(a+1, m-1), x - float64(a)
}

// label is the label under a pixel of the panel, 0 outside.
func (v *view) label(m []uint8, px, py int) uint8 {
	if px < 0 || py < 0 || px >= panelWidth || py >= v.height {
		return 0
	}
	return m[py*v.ny/v.height*v.nx+px*v.nx/panelWidth]
}

// fill colours the labelled voxels of the panel, half transparent.
func (v *view) fill(panel *image.RGBA, m []uint8) {
	corner := panel.Bounds().Min
	for py := range v.height {
		for px := range panelWidth {
			label := v.label(m, px, py)
			if label == 0 {
				continue
			}
			tint := labelColor(label)
			i := panel.PixOffset(corner.X+px, corner.Y+py)
			for k, t := range []uint8{tint.R, tint.G, tint.B} {
				panel.Pix[i+k] = uint8((int(panel.Pix[i+k])*45 + int(t)*55) / 100)
			}
		}
	}
}

// outline draws the borders between different labels, two pixels wide along the edges of the
// voxels. ink is the colour of a label, here of the largest one that meets at the border.
func (v *view) outline(panel *image.RGBA, m []uint8, ink func(label uint8) color.RGBA) {
	corner := panel.Bounds().Min
	for py := range v.height {
		for px := range panelWidth {
			label := v.label(m, px, py)
			left, right := v.label(m, px-1, py), v.label(m, px+1, py)
			up, down := v.label(m, px, py-1), v.label(m, px, py+1)
			if label != left || label != right || label != up || label != down {
				panel.SetRGBA(corner.X+px, corner.Y+py, ink(max(label, left, right, up, down)))
			}
		}
	}
}

// writer draws text.
type writer struct {
	page                 *image.RGBA
	title, bold, regular font.Face
}

func newWriter(page *image.RGBA) (*writer, error) {
	bold, err := opentype.Parse(liberationsansbold.TTF)
	if err != nil {
		return nil, err
	}
	regular, err := opentype.Parse(liberationsansregular.TTF)
	if err != nil {
		return nil, err
	}
	w := &writer{page: page}
	for _, f := range []struct {
		face *font.Face
		font *opentype.Font
		size float64
	}{{&w.title, bold, 18}, {&w.bold, bold, 15}, {&w.regular, regular, 14}} {
		if *f.face, err = opentype.NewFace(f.font,
			&opentype.FaceOptions{Size: f.size, DPI: 72, Hinting: font.HintingFull}); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// text draws text with the baseline at y and returns the x at its end.
func (w *writer) text(face font.Face, ink color.Color, x, y int, text string) int {
	d := font.Drawer{Dst: w.page, Src: image.NewUniform(ink), Face: face, Dot: fixed.P(x, y)}
	d.DrawString(text)
	return d.Dot.X.Ceil()
}

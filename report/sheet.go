package report

import (
	"errors"
	"fmt"
	"image"
	"image/draw"
	"strings"

	"golang.org/x/image/font"
)

// SheetData is the input of Sheet: rows of planes, with text beside them.
type SheetData struct {
	Title   string
	Columns []string // titles of the planes of a row
	Labels  []string // legend of labels 1, 2, …
	Low     float64  // intensity of black in all planes
	High    float64  // intensity of white, above Low
	Rows    []SheetRow
}

// SheetRow is one row: its name and lines of text, which are wrapped, to the right of its planes.
type SheetRow struct {
	Name   string
	Text   []string
	Planes []SheetPlane // one per column
}

// SheetPlane is a plane of Shape (rows, columns), row-major.
type SheetPlane struct {
	Image   []float32
	Shape   [2]int
	Spacing [2]float64 // mm, of rows and columns
	// Labels are maps whose borders are drawn, one over the other, 0 to 255.
	Labels [][]uint8
}

// Texts beside the planes.
const (
	textWidth = 320
	lineH     = 20
)

// Sheet writes the rows to a PNG at path. Every plane has the same grey levels and is drawn whole, as
// wide as the others, with its physical proportions; the labels are outlined in their colours. The
// same data give the same bytes. Arrays that do not match their shape are an error.
func Sheet(path string, data SheetData) error {
	if err := data.check(); err != nil {
		return fmt.Errorf("report: draw %s: %w", path, err)
	}
	columnX := func(i int) int { return border + i*(panelWidth+gap) }
	heights := make([]int, len(data.Rows))
	height := titleH + headH + legendH + border
	text := make([][]string, len(data.Rows))
	write, err := newWriter(nil)
	if err != nil {
		return fmt.Errorf("report: draw %s: %w", path, err)
	}
	for i, row := range data.Rows {
		for _, line := range row.Text {
			text[i] = append(text[i], wrap(write.regular, line, textWidth)...)
		}
		heights[i] = (1 + len(text[i])) * lineH
		for _, p := range row.Planes {
			heights[i] = max(heights[i], p.height())
		}
		height += heights[i] + gap
	}
	width := columnX(len(data.Columns)) + textWidth + border
	page := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(page, page.Bounds(), image.NewUniform(pageColor), image.Point{}, draw.Src)
	write.page = page
	write.text(write.title, inkColor, border, titleH-8, data.Title)
	for i, name := range data.Columns {
		write.text(write.bold, inkColor, columnX(i), titleH+headH-9, name)
	}
	y := titleH + headH
	for i, row := range data.Rows {
		for col, p := range row.Planes {
			p.draw(page, columnX(col), y, data.Low, data.High)
		}
		x := columnX(len(data.Columns))
		write.text(write.bold, inkColor, x, y+lineH-6, row.Name)
		for k, line := range text[i] {
			write.text(write.regular, inkColor, x, y+(k+2)*lineH-6, line)
		}
		y += heights[i] + gap
	}
	y += legendH / 2
	x := border
	for i, name := range data.Labels {
		ink := image.NewUniform(labelColor(uint8(min(i+1, 255))))
		draw.Draw(page, image.Rect(x, y-6, x+18, y+6), ink, image.Point{}, draw.Src)
		draw.Draw(page, image.Rect(x+2, y-4, x+16, y+4), image.NewUniform(pageColor), image.Point{},
			draw.Src)
		x = write.text(write.regular, dimColor, x+24, y+5, name) + 24
	}
	return writePNG(path, page)
}

func (d *SheetData) check() error {
	if len(d.Rows) == 0 {
		return errors.New("no row")
	}
	if !(d.High > d.Low) {
		return fmt.Errorf("grey levels from %v to %v, expected the second above the first", d.Low, d.High)
	}
	for _, row := range d.Rows {
		if len(row.Planes) != len(d.Columns) {
			return fmt.Errorf("%s: found %d planes, expected %d", row.Name, len(row.Planes), len(d.Columns))
		}
		for _, p := range row.Planes {
			n := p.Shape[0] * p.Shape[1]
			ok := p.Shape[0] > 0 && p.Shape[1] > 0 && len(p.Image) == n
			for _, m := range p.Labels {
				ok = ok && len(m) == n
			}
			if !ok || !(p.Spacing[0] > 0 && p.Spacing[1] > 0) {
				return fmt.Errorf("%s: found a plane of shape %v and spacing %v mm with %d values, expected "+
					"one value, and one of each map of labels, per pixel", row.Name, p.Shape, p.Spacing,
					len(p.Image))
			}
		}
	}
	return nil
}

func (p *SheetPlane) height() int {
	return panelHeight(p.Shape[0], p.Shape[1], p.Spacing[0], p.Spacing[1])
}

func (p *SheetPlane) draw(page *image.RGBA, x, y int, low, high float64) {
	v := view{ny: p.Shape[0], nx: p.Shape[1], height: p.height(), image: p.Image, lo: low, hi: high}
	panel := page.SubImage(image.Rect(x, y, x+panelWidth, y+v.height)).(*image.RGBA)
	draw.Draw(panel, panel.Bounds(), v.grey(), image.Point{}, draw.Src)
	for _, m := range p.Labels {
		v.outline(panel, m, labelColor)
	}
}

// wrap breaks a text between words into lines of at most so many pixels; a longer word has a line of
// its own.
func wrap(face font.Face, text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		longer := strings.TrimPrefix(line+" "+word, " ")
		if line != "" && font.MeasureString(face, longer).Ceil() > width {
			lines = append(lines, line)
			longer = word
		}
		line = longer
	}
	return append(lines, line)
}

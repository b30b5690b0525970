// Package figures draws the pictures of an experiment, as SVG and PNG: scores by shots, paired
// differences, recall by size of nodes, training curves, what DGST updated, cost beside score. Methods
// differ in colour, mark and dashes, so that colour-blind readers and prints in grey tell them apart.
//
// It computes no statistics: numbers are those of a table.Table, and of the runs' records. Pictures of
// cases are package report's.
package figures

import (
	"bytes"
	"fmt"
	"html"
	"image/png"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/lntorch/lntorch/experiment/table"
)

// Figure is a picture of the width of a journal's page.
type Figure struct {
	Name    string // of the files, without ending
	Title   string
	Caption string // what is drawn, of how many, what the intervals cover
	Alt     string // the same for those who cannot see it, with numbers

	height vg.Length
	draw   func(c draw.Canvas)
}

// width is two columns of a journal, 180 mm; dpi is what journals ask of a picture in pixels.
const (
	width = 180 * mm
	dpi   = 300
	mm    = vg.Millimeter
)

// Size is the width and height in points of 1/72 inch.
func (f *Figure) Size() (w, h float64) { return width.Points(), f.height.Points() }

// svgText is a text in gonum's SVG, with its size.
var svgText = regexp.MustCompile(`<text ([^>]*font-size:([0-9.]+)px[^>]*)>([^<]*)</text>`)

// SVG writes the figure as SVG. Its texts are texts, in Liberation Sans or, where that is not installed,
// another font stretched to its width.
func (f *Figure) SVG(w io.Writer) error {
	c := vgsvg.New(width, f.height)
	f.paint(c)
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return fmt.Errorf("figures: %s: %w", f.Name, err)
	}
	text := strings.ReplaceAll(b.String(), "font-family:Liberation Sans;font-variant:normal",
		"font-family:'Liberation Sans',Arial,Helvetica,sans-serif")
	text = svgText.ReplaceAllStringFunc(text, func(whole string) string {
		part := svgText.FindStringSubmatch(whole)
		size, err := strconv.ParseFloat(part[2], 64)
		if err != nil || part[3] == "" {
			return whole
		}
		room := words(size, ink, left, bottom).Width(html.UnescapeString(part[3]))
		return fmt.Sprintf(`<text textLength="%.2f" lengthAdjust="spacingAndGlyphs" %s>%s</text>`, room.Points(),
			part[1], part[3])
	})
	_, err := io.WriteString(w, text)
	return err
}

// PNG writes the figure as PNG of 300 dots an inch.
func (f *Figure) PNG(w io.Writer) error {
	c := vgimg.NewWith(vgimg.UseWH(width, f.height), vgimg.UseDPI(dpi))
	f.paint(c)
	if err := (&png.Encoder{CompressionLevel: png.DefaultCompression}).Encode(w, c.Image()); err != nil {
		return fmt.Errorf("figures: %s: %w", f.Name, err)
	}
	return nil
}

func (f *Figure) paint(on vg.CanvasSizer) {
	c := draw.New(on)
	c.SetColor(paper)
	c.Fill(c.Rectangle.Path())
	f.draw(c)
}

// Bounds of what is drawn, beyond which a picture would hold nothing that can be seen.
const (
	mostFigures = 60
	mostPanels  = 12
	mostMethods = 27 // three times the colours
	mostRows    = 120
)

// Draw makes the figures for which there are numbers.
func Draw(t *table.Table, runs []Run) []*Figure {
	s := newSheet(t, runs)
	var list []*Figure
	for _, add := range []func() []*Figure{s.shots, s.differences, s.recall, s.curves, s.touched, s.cost} {
		list = append(list, add()...)
	}
	seen := map[string]int{}
	for _, f := range list {
		if seen[f.Name]++; seen[f.Name] > 1 {
			f.Name = fmt.Sprintf("%s-%d", f.Name, seen[f.Name])
		}
	}
	return list[:min(len(list), mostFigures)]
}

// sheet is what all figures are drawn from.
type sheet struct {
	t       *table.Table
	runs    []Run
	groups  []*table.Group // of the primary metric
	methods []string       // in the order of the table
	several struct{ datasets, networks, labels bool }
}

func newSheet(t *table.Table, runs []Run) *sheet {
	s := &sheet{t: t, runs: runs, groups: t.Groups(true)}
	s.methods = t.Methods()
	for _, of := range []struct {
		to   *bool
		name func(c *table.Cell) string
	}{
		{&s.several.datasets, func(c *table.Cell) string { return c.Dataset }},
		{&s.several.networks, func(c *table.Cell) string { return c.Network }},
		{&s.several.labels, func(c *table.Cell) string { return c.Label }},
	} {
		*of.to = len(names(len(t.Cells), func(i int) string { return of.name(&t.Cells[i]) })) > 1
	}
	return s
}

// subject names what a figure is about where there are several: dataset, network, label.
func (s *sheet) subject(dataset, network, label string) string {
	var parts []string
	if s.several.datasets && dataset != "" {
		parts = append(parts, dataset)
	}
	if s.several.networks && network != "" {
		parts = append(parts, network)
	}
	if s.several.labels && label != "" {
		parts = append(parts, label)
	}
	return strings.Join(parts, ", ")
}

// titled is a title with the figure's subject.
func titled(what, subject string) string {
	if subject == "" {
		return what
	}
	return what + ": " + subject
}

// fileName is a name of a file for a figure of a subject.
func fileName(kind, subject string) string {
	var b strings.Builder
	b.WriteString(kind)
	gap := true
	for _, r := range subject {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_') {
			if gap {
				b.WriteByte('-')
			}
			gap = false
			b.WriteRune(r)
		} else {
			gap = true
		}
		if b.Len() > 80 {
			break
		}
	}
	return b.String()
}

// byDataset puts the groups of each dataset and label together, which share a figure with a panel for
// each network.
func (s *sheet) byDataset() [][]*table.Group {
	type place struct{ dataset, label string }
	at := map[place]int{}
	var list [][]*table.Group
	for _, g := range s.groups {
		p := place{g.Dataset, g.Label}
		i, ok := at[p]
		if !ok {
			i = len(list)
			at[p] = i
			list = append(list, nil)
		}
		list[i] = append(list[i], g)
	}
	return list
}

// lowerIsBetter reports whether less of the primary metric is better.
func (s *sheet) lowerIsBetter() bool { return slices.Contains(s.t.Lower, s.t.Primary) }

// shortened keeps the start and end of a long name.
func shortened(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1-n/3]) + "…" + string(r[len(r)-n/3:])
}

// runsText counts runs.
func runsText(n int) string {
	if n == 1 {
		return "1 run"
	}
	return fmt.Sprintf("%d runs", n)
}

// shotsText is a number of shots in words.
func shotsText(shots string) string {
	switch shots {
	case "1":
		return "1 training case"
	case "all":
		return "all training cases"
	}
	return shots + " training cases"
}

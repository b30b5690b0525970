// Package page writes pages that travel: one HTML file with its style, script, pictures and data
// inside, which asks for nothing elsewhere and opens from a file. report.html of an adaptation and
// scores.html of an evaluation are made of the same parts: a Document has Sections, a Section has
// Blocks (Table, Chart, Figure, Gallery, Tiles, Facts, Prose). Package experiment/page makes the one of
// an experiment.
//
// It computes no score: numbers come from eval/scores. It reads no volume: HeldOut takes arrays.
package page

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/report"
)

// maxBytes bounds a page: mail servers refuse larger attachments.
const maxBytes = 15_000_000

// mostData bounds the part of a page that is for programs.
const mostData = 6 << 20

// Document is a page. All text is escaped.
type Document struct {
	Title    string
	Subtitle string // a line below the title
	Sections []Section
	// Data is what the page holds for programs, in a script element with the id report-data; nil for
	// nothing. NaN becomes null.
	Data any
}

// Section is a part of a page with a heading.
type Section struct {
	ID     string // of the element, and the target of the link in the page's contents
	Title  string
	Blocks []Block
}

// Block is a component of a section.
type Block interface{ kind() string }

// Prose is paragraphs, or the items of a list.
type Prose struct {
	Head       string // above them; "" for none
	Paragraphs []string
	List       bool
	Warning    bool // stands out
}

// Fact is a name and what it is.
type Fact struct{ Name, Value string }

// Facts is a list of facts.
type Facts []Fact

// Figure is a drawing with its caption.
type Figure struct {
	ID            string
	Title         string // the caption's first words
	Caption       string
	Alt           string // what it shows, in words
	SVG           []byte
	Width, Height float64 // of the drawing, in any unit
}

// URL is the drawing as a data URL.
func (f *Figure) URL() template.URL {
	return template.URL("data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString(f.SVG))
}

// Tile is a number to be seen first.
type Tile struct {
	Name   string
	Before string // "" if there is none
	After  string
	Detail string // a line below
	Better int    // 1 if After is better than Before, -1 if worse, 0 if neither
}

// Tiles is a row of tiles.
type Tiles []Tile

func (*Prose) kind() string  { return "prose" }
func (Facts) kind() string   { return "facts" }
func (Tiles) kind() string   { return "tiles" }
func (*Figure) kind() string { return "figure" }

var (
	//go:embed page.html
	html string
	//go:embed page.css
	css string
	//go:embed page.js
	js string
)

var (
	parsed *template.Template
	parse  sync.Once
)

// pages returns the template of all pages, with one template for each kind of block. It is parsed when
// the first page is made: most commands, and the decoders of frames, make none.
func pages() *template.Template {
	parse.Do(func() {
		funcs := template.FuncMap{"part": part, "class": classText}
		parsed = template.Must(template.New("page").Funcs(funcs).Parse(html))
	})
	return parsed
}

// part renders one block with the template of its kind.
func part(b Block) (template.HTML, error) {
	var out strings.Builder
	err := pages().ExecuteTemplate(&out, b.kind(), b)
	return template.HTML(out.String()), err
}

// source is an entry of a content security policy that allows one inline element.
func source(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Encode returns the page as HTML.
func (d *Document) Encode() ([]byte, error) {
	view := struct {
		*Document
		Policy string
		CSS    template.CSS
		JS     template.JS
		JSON   template.JS
	}{Document: d, CSS: template.CSS(css), JS: template.JS(js)}
	view.Policy = "default-src 'none'; img-src data:; style-src " + source(css) +
		"; script-src " + source(js) + "; base-uri 'none'; form-action 'none'"
	if d.Data != nil {
		text, err := encodeData(d.Data)
		if err != nil {
			return nil, err
		}
		view.JSON = template.JS(text)
	}
	var out bytes.Buffer
	if err := pages().ExecuteTemplate(&out, "document", view); err != nil {
		return nil, fmt.Errorf("report: page: %w", err)
	}
	return out.Bytes(), nil
}

// leastNode is how many bytes of JSON a node takes at least.
const leastNode = 150

// tooMany reports whether the nodes of scores alone are more than mostData.
func tooMany(list ...*scores.Scores) bool {
	n := 0
	for _, s := range list {
		if s == nil {
			continue
		}
		for _, c := range s.Cases {
			for _, l := range c.Labels {
				n += l.Nodes.Len()
			}
		}
	}
	return n > mostData/leastNode
}

// encodeData is JSON that can stand in a script element: <, > and & are escaped.
func encodeData(data any) (string, error) {
	var wide, compact, safe bytes.Buffer
	if _, err := report.JSON(&wide, data); err != nil {
		return "", err
	}
	if err := json.Compact(&compact, wide.Bytes()); err != nil {
		return "", err
	}
	json.HTMLEscape(&safe, compact.Bytes())
	return safe.String(), nil
}

// Fit shortens the tables until the page is small enough, and returns it as HTML.
func (d *Document) Fit() ([]byte, error) {
	for most := mostRows; ; most /= 2 {
		content, err := d.Encode()
		if err != nil || len(content) <= maxBytes || most < 10 {
			return content, err
		}
		for _, s := range d.Sections {
			for _, b := range s.Blocks {
				if t, ok := b.(*Table); ok {
					t.cut(most)
				}
			}
		}
	}
}

// WriteFitted is Write of what Fit gives.
func (d *Document) WriteFitted(path string) error {
	content, err := d.Fit()
	if err != nil {
		return err
	}
	return atomicfile.Write(path, content)
}

// Write writes the page to path, which appears when it is complete.
func (d *Document) Write(path string) error {
	content, err := d.Encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(path, content)
}

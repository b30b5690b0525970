package page

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

// mostPictures bounds a gallery.
const mostPictures = 40

// Gallery is pictures that a click enlarges.
type Gallery struct {
	Pictures []Picture
	Legend   []string // the contours: of "truth", "before", "after"
	Note     string
}

func (*Gallery) kind() string { return "gallery" }

// URL is the picture as an address.
func (p *Picture) URL() template.URL {
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(p.Image))
}

// Place says which slice of which case it is.
func (p *Picture) Place() string {
	if p.Slices > 0 {
		return fmt.Sprintf("%s, slice %d of %d", p.Case, p.Slice+1, p.Slices)
	}
	return fmt.Sprintf("%s, slice %d", p.Case, p.Slice+1)
}

// Scores is the Dice of the case.
func (p *Picture) Scores() string {
	var parts []string
	for _, d := range p.Dice {
		parts = append(parts, number(d, 2).Text)
	}
	if len(parts) == 0 {
		return ""
	}
	return "Dice " + strings.Join(parts, " → ")
}

// worst orders pictures by the last Dice that is defined, the lowest first; a case's stay together.
func worst(pictures []Picture) []Picture {
	value := func(p Picture) float64 {
		for _, d := range slices.Backward(p.Dice) {
			if !math.IsNaN(d) {
				return d
			}
		}
		return 2
	}
	list := slices.Clone(pictures)
	slices.SortStableFunc(list, func(a, b Picture) int {
		return cmp.Or(cmp.Compare(value(a), value(b)), cmp.Compare(a.Case, b.Case))
	})
	return list
}

// gallery takes as many pictures as there is room for, the worst cases first: room is the bytes of
// the page that they may take.
func gallery(pictures []Picture, room int) *Gallery {
	g := &Gallery{Legend: []string{"truth", "before", "after"}}
	for _, p := range worst(pictures) {
		size := base64.StdEncoding.EncodedLen(len(p.Image)) + 1000
		if len(g.Pictures) == mostPictures || room < size {
			break
		}
		room -= size
		g.Pictures = append(g.Pictures, p)
	}
	if left := len(pictures) - len(g.Pictures); left > 0 {
		g.Note = fmt.Sprintf("%d of %d pictures are shown, those of the worst cases.", len(g.Pictures),
			len(pictures))
	}
	return g
}

package page

import (
	"github.com/lntorch/lntorch/eval/scores"
)

// Adaptation is the content of report.html.
type Adaptation struct {
	Title      string
	Checkpoint string // what was adapted
	Method     string
	// Before and After are the scores of the held-out cases by the model as it was and as it became;
	// nil where nothing is held out.
	Before, After *scores.Scores
	// Loss, ValLoss and PseudoDice are of each epoch; NaN where there is none.
	Loss, ValLoss, PseudoDice []float64
	// Cases is the content of cases.json: it becomes JSON as it is, and its objects' members case,
	// role, image, label, size, spacing_mm, nodes, ml and problems are shown.
	Cases    any
	Run      any // the content of run.json
	Pictures []Picture
	Notes    []string // on what the numbers allow to conclude, beside what n says
	// Anonymous hides names of cases, folders and files: cases become case-1, case-2, ….
	Anonymous bool
}

// Write writes the report to path.
func (a *Adaptation) Write(path string) error { return a.document().Write(path) }

func (a *Adaptation) document() *Document {
	d := &Document{Title: a.Title, Subtitle: a.Checkpoint, Data: a.data()}
	for _, s := range [][2]string{{"summary", "Summary"}, {"cases", "Cases"}, {"curves", "Curves"},
		{"nodes", "Nodes"}, {"pictures", "Pictures"}, {"run", "Run"}} {
		d.Sections = append(d.Sections, Section{ID: s[0], Title: s[1]})
	}
	return d
}

// data is what the page holds for programs.
func (a *Adaptation) data() any {
	return struct {
		Before     *scores.Scores `json:"before"`
		After      *scores.Scores `json:"after"`
		Loss       []float64      `json:"loss"`
		ValLoss    []float64      `json:"val_loss"`
		PseudoDice []float64      `json:"pseudo_dice"`
		Cases      any            `json:"cases"`
		Run        any            `json:"run"`
	}{a.Before, a.After, a.Loss, a.ValLoss, a.PseudoDice, a.Cases, a.Run}
}

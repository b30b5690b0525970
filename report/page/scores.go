package page

import (
	"fmt"
	"strings"

	"github.com/lntorch/lntorch/eval/scores"
)

// Scores writes scores.html: what scores.json, scores.csv and nodes.csv hold, to be read. title is
// what was scored.
func Scores(path string, s *scores.Scores, title string) error {
	if err := s.Settings.Check(); err != nil {
		return fmt.Errorf("report: scores: %w", err)
	}
	d := scoresDocument(s, title)
	if tooMany(s) {
		d.Data = nil // scores.json has it
	} else if text, err := encodeData(d.Data); err != nil || len(text) > mostData {
		d.Data = nil
	}
	return d.WriteFitted(path)
}

func scoresDocument(s *scores.Scores, title string) *Document {
	all := sides{{"", s}}
	d := &Document{Title: title, Subtitle: fmt.Sprintf("Scores of %s", plural(len(s.Cases), "case")),
		Data: map[string]any{"scores": s}}
	summary, cases := Section{ID: "summary", Title: "Summary"}, Section{ID: "cases", Title: "Cases"}
	if len(s.Failed) > 0 {
		summary.add(&Prose{Paragraphs: []string{fmt.Sprintf("%s could not be scored and %s in no "+
			"number here; see Cases.", plural(len(s.Failed), "case"), isAre(len(s.Failed)))}, Warning: true})
	}
	for _, key := range s.Keys() {
		if len(s.Cases) == 0 {
			break
		}
		if len(s.Labels) <= 3 {
			summary.add(all.tiles(key))
		}
		summary.add(all.means(key), all.detection(key), all.rules(key), all.bars(key))
		cases.add(all.cases(key))
	}
	summary.add(&Prose{Paragraphs: []string{research}})
	if t := all.failures(); t != nil {
		cases.add(t)
	}
	d.Sections = []Section{summary, cases,
		{ID: "nodes", Title: "Nodes", Blocks: []Block{all.found(), all.invented()}},
		{ID: "settings", Title: "Settings", Blocks: []Block{settingsFacts(s)}}}
	return d
}

// plural is a number of things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// settingsFacts is what the scores depend on.
func settingsFacts(s *scores.Scores) Facts {
	var labels, rules []string
	for _, key := range s.Keys() {
		if name := s.Labels[key]; name != key {
			labels = append(labels, key+" "+name)
		} else {
			labels = append(labels, key)
		}
	}
	for _, r := range s.Settings.Match {
		rules = append(rules, r.String())
	}
	f := Facts{{"Labels", strings.Join(labels, ", ")},
		{"Surfaces", "DeepMind's surface elements; NSD within " +
			list(s.Settings.Tolerances) + " mm; distances in mm, weighted by area"},
		{"Nodes", fmt.Sprintf("connected components over %d neighbours", int(s.Settings.Connectivity))},
		{"A node is found", strings.Join(rules, ", ") + "; the first rule is in the tables: " +
			ruleText(s.Settings.Match[0])},
		{"Size", "short axis in the axial slice with most of the node; classes " +
			strings.ReplaceAll(strings.Join(s.Settings.Classes(), ", "), ">=", "≥") + " mm"}}
	if s.Settings.EmptyDistance == "" {
		f = append(f, Fact{"Empty masks", "distances to an empty mask are undefined and left out of " +
			"means; a dash stands for undefined"})
	} else {
		f = append(f, Fact{"Empty masks", "a distance to an empty mask counts as the image's diagonal"})
	}
	return f
}

func list(values []float64) string {
	var parts []string
	for _, v := range values {
		parts = append(parts, fmt.Sprintf("%g", v))
	}
	return strings.Join(parts, ", ")
}

func (s *Section) add(blocks ...Block) { s.Blocks = append(s.Blocks, blocks...) }

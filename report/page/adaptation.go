package page

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/report"
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
	// Refit says that the model that is delivered is not the one that is scored: it was trained anew,
	// on the cases of the role val, too.
	Refit bool
	// CurvesOnTraining says that the curves of the delivered model have no validation cases of their
	// own: their patches are of the cases that it was trained on.
	CurvesOnTraining bool
	// Anonymous hides the names of cases, folders and files: cases become case-1, case-2, ….
	Anonymous bool
}

// Write writes the report to path, which appears when it is complete. It is at most 15 MB large:
// where that is too little, the pictures of the best cases and long lists of nodes are left out, and
// the page says so.
func (a *Adaptation) Write(path string) error {
	d, err := a.document()
	if err != nil {
		return err
	}
	return d.Write(path)
}

// caseRow is what the page shows of a row of cases.json.
type caseRow struct {
	Case     string    `json:"case"`
	Image    any       `json:"image"` // a path or several
	Label    any       `json:"label"`
	Role     string    `json:"role"`
	Size     []int     `json:"size"`       // z, y, x
	Spacing  []float64 `json:"spacing_mm"` // z, y, x
	Nodes    int       `json:"nodes"`
	ML       float64   `json:"ml"`
	Problems []string  `json:"problems"`
}

// decode turns what becomes JSON into what JSON holds.
func decode(from, to any) error {
	if from == nil {
		return nil
	}
	var b strings.Builder
	if _, err := report.JSON(&b, from); err != nil {
		return err
	}
	return json.Unmarshal([]byte(b.String()), to)
}

func (a *Adaptation) document() (*Document, error) {
	if a.Anonymous {
		var err error
		if a, err = a.anonymous(); err != nil {
			return nil, fmt.Errorf("report: hide names: %w", err)
		}
	}
	for _, s := range []*scores.Scores{a.Before, a.After} {
		if s != nil {
			if err := s.Settings.Check(); err != nil {
				return nil, fmt.Errorf("report: scores: %w", err)
			}
		}
	}
	var rows []caseRow
	if err := decode(a.Cases, &rows); err != nil {
		return nil, fmt.Errorf("report: cases: %w", err)
	}
	d := &Document{Title: a.Title, Subtitle: research}
	var compared sides
	switch {
	case a.Before != nil && a.After != nil:
		compared = sides{{"before", a.Before}, {"after", a.After}}
	case a.After != nil:
		compared = sides{{"after", a.After}}
	case a.Before != nil:
		compared = sides{{"before", a.Before}}
	}
	run, err := runTable(a.Run)
	if err != nil {
		return nil, fmt.Errorf("report: run: %w", err)
	}
	d.Sections = []Section{
		a.summary(rows, compared),
		a.cases(rows, compared),
		a.curves(),
		nodesSection(compared),
		{ID: "pictures", Title: "Pictures"},
		{ID: "run", Title: "Run", Blocks: []Block{run}},
	}
	if d.Data, err = a.data(); err != nil {
		return nil, err
	}
	content, err := d.Fit()
	if err != nil {
		return nil, err
	}
	pictures := &d.Sections[4]
	if g := gallery(a.Pictures, maxBytes-len(content)-4096); len(g.Pictures) > 0 {
		pictures.add(g)
	} else {
		pictures.add(&Prose{Paragraphs: []string{"There is no picture: no case was held out, or its " +
			"image was not drawn."}})
	}
	return d, nil
}

func (a *Adaptation) summary(rows []caseRow, compared sides) Section {
	s := Section{ID: "summary", Title: "Summary"}
	roles := map[string]int{}
	for _, r := range rows {
		roles[r.Role]++
	}
	facts := Facts{{"Adapted", a.Checkpoint}, {"Method", a.Method}}
	held := 0
	if len(compared) > 0 {
		held = len(compared.main().Cases)
	}
	trained := plural(roles["train"], "case")
	switch {
	case a.Refit:
		facts = append(facts,
			Fact{"Scored", fmt.Sprintf("a model trained on %s, with %s held out of its training", trained,
				plural(held, "case"))},
			Fact{"Delivered", fmt.Sprintf("another model, trained on %s, %d of those held out among them (--refit)",
				plural(roles["train"]+roles["val"], "case"), roles["val"])})
	case held > 0:
		facts = append(facts, Fact{"Trained on", trained},
			Fact{"Held out", plural(held, "case") + ", never trained on"})
	default:
		facts = append(facts, Fact{"Trained on", trained}, Fact{"Held out", "none"})
	}
	s.add(facts)
	for _, one := range compared {
		if n := len(one.Failed); n > 0 {
			s.add(&Prose{Paragraphs: []string{fmt.Sprintf("%s could not be scored %s and %s in no number "+
				"here; see Cases.", plural(n, "case"), one.name, isAre(n))}, Warning: true})
		}
	}
	if held > 0 {
		for _, key := range compared.main().Keys() {
			if len(compared.main().Labels) <= 3 {
				s.add(compared.tiles(key))
			}
			s.add(compared.bars(key), compared.means(key), compared.detection(key))
		}
	}
	notes := append(compared.conclusions(), a.Notes...)
	s.add(&Prose{Head: "What these numbers allow to conclude", Paragraphs: notes, List: true,
		Warning: held == 0})
	return s
}

func (a *Adaptation) cases(rows []caseRow, compared sides) Section {
	s := Section{ID: "cases", Title: "Cases"}
	if len(compared) > 0 {
		for _, key := range compared.main().Keys() {
			if len(compared.main().Cases) > 0 {
				s.add(compared.cases(key))
			}
		}
		if t := compared.failures(); t != nil {
			s.add(t)
		}
	}
	roles := "train: trained on; val, test: held out"
	if a.Refit {
		roles = "train: trained on; val: held out of the scored model, trained on by the delivered one; " +
			"test: held out of both"
	}
	t := &Table{ID: "all-cases", Caption: "All cases that were found", Columns: []Column{{Name: "Case"},
		{Name: "Role", Help: roles},
		{Name: "Size", Help: "voxels along x, y, z", Whole: true}, {Name: "Spacing (mm)", Help: "along x, y, z", Whole: true},
		{Name: "Nodes", Number: true}, {Name: "Volume (ml)", Number: true, Help: "of all nodes"},
		{Name: "Problems"}, {Name: "Image"}, {Name: "Label"}}}
	hidden := true
	for _, r := range rows {
		hidden = hidden && r.Image == nil && r.Label == nil
		t.Rows = append(t.Rows, Row{Cells: []Cell{text(r.Case), text(r.Role), text(sizes(r.Size)),
			text(spacings(r.Spacing)), count(r.Nodes), number(r.ML, 2),
			text(strings.Join(r.Problems, "; ")), pathCell(r.Image), pathCell(r.Label)}})
	}
	if hidden { // anonymous
		t.Columns = t.Columns[:7]
		for i := range t.Rows {
			t.Rows[i].Cells = t.Rows[i].Cells[:7]
		}
	}
	s.add(t)
	return s
}

// pathCell shows the end of a long path; the whole of it is copied.
func pathCell(v any) Cell {
	whole := paths(v)
	var short []string
	for path := range strings.SplitSeq(whole, ", ") {
		parts := strings.Split(path, "/")
		if n := len(parts); n > 3 && len(path) > 40 {
			path = "…/" + strings.Join(parts[n-2:], "/")
		}
		short = append(short, path)
	}
	return Cell{Text: strings.Join(short, ", "), Value: whole}
}

func sizes(zyx []int) string {
	var parts []string
	for i := len(zyx) - 1; i >= 0; i-- {
		parts = append(parts, fmt.Sprint(zyx[i]))
	}
	return strings.Join(parts, "×")
}

func spacings(zyx []float64) string {
	var parts []string
	for i := len(zyx) - 1; i >= 0; i-- {
		parts = append(parts, fmt.Sprintf("%.3g", zyx[i]))
	}
	return strings.Join(parts, "×")
}

// paths is one path or several as they stand in cases.json.
func paths(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		var parts []string
		for _, p := range v {
			parts = append(parts, fmt.Sprint(p))
		}
		return strings.Join(parts, ", ")
	}
	return ""
}

func (a *Adaptation) curves() Section {
	s := Section{ID: "curves", Title: "Curves"}
	loss := &Chart{ID: "loss", Title: "Loss", X: "Epoch", Y: "Loss",
		Series: []Series{{"training", a.Loss}}}
	patches, of, shows := "validation", "validation cases", "It shows whether training goes on to learn, and is "
	if a.CurvesOnTraining {
		patches, of = "training cases, other patches", "training cases"
		shows = "No case was kept from this training, so neither curve can show overfitting: they show only that " +
			"training ran. Pseudo-Dice is "
	}
	if len(a.ValLoss) > 0 {
		loss.Series = append(loss.Series, Series{patches, a.ValLoss})
	}
	dice := &Chart{ID: "pseudo-dice", Title: "Pseudo-Dice", X: "Epoch", Y: "Pseudo-Dice", Unit: true,
		Series: []Series{{patches, a.PseudoDice}}}
	for _, c := range []*Chart{loss, dice} {
		if c.Empty() {
			s.add(&Prose{Paragraphs: []string{c.Title + ": no epoch has a value."}})
			continue
		}
		s.add(c)
	}
	s.add(&Prose{Paragraphs: []string{"Pseudo-Dice is nnU-Net's: the Dice of all voxels of random " +
		"patches of the " + of + " together. " + shows + "not comparable with the Dice of whole cases above."}})
	return s
}

func nodesSection(compared sides) Section {
	s := Section{ID: "nodes", Title: "Nodes"}
	if len(compared) == 0 || len(compared.main().Cases) == 0 {
		s.add(&Prose{Paragraphs: []string{"No case was held out, so no node was looked for."}})
		return s
	}
	s.add(compared.found(), compared.invented())
	return s
}

// runTable lists the members of run.json, nested ones by their path.
func runTable(run any) (*Table, error) {
	t := &Table{ID: "run-record", Caption: "Versions, hashes, settings and command line, as in run.json",
		Columns: []Column{{Name: "Entry"}, {Name: "Value"}}}
	var b strings.Builder
	if _, err := report.JSON(&b, run); err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(b.String()))
	d.UseNumber()
	if err := flatten(d, "", t); err != nil {
		return nil, err
	}
	t.cut(mostRows)
	return t, nil
}

// flatten adds a row for each value of the JSON that comes next, in its order.
func flatten(d *json.Decoder, path string, t *Table) error {
	add := func(v string) {
		if path != "" {
			t.Rows = append(t.Rows, Row{Cells: []Cell{text(path), text(v)}})
		}
	}
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('{'):
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return err
			}
			if err := flatten(d, strings.TrimPrefix(path+"."+key.(string), "."), t); err != nil {
				return err
			}
		}
		_, err = d.Token()
		return err
	case json.Delim('['):
		var plain []string
		for i := 0; d.More(); i++ {
			inner := &Table{}
			if err := flatten(d, fmt.Sprintf("%s[%d]", path, i), inner); err != nil {
				return err
			}
			if len(inner.Rows) == 1 && inner.Rows[0].Cells[0].Text == fmt.Sprintf("%s[%d]", path, i) {
				plain = append(plain, inner.Rows[0].Cells[1].Text)
				continue
			}
			t.Rows = append(t.Rows, inner.Rows...)
		}
		if plain != nil {
			add(strings.Join(plain, ", "))
		}
		_, err = d.Token()
		return err
	}
	if token == nil {
		add(dash)
		return nil
	}
	add(fmt.Sprint(token))
	return nil
}

// data is what the page holds for programs: the scores without their nodes where these are too
// many.
func (a *Adaptation) data() (any, error) {
	data := struct {
		Before     *scores.Scores `json:"before"`
		After      *scores.Scores `json:"after"`
		Loss       []float64      `json:"loss"`
		ValLoss    []float64      `json:"val_loss"`
		PseudoDice []float64      `json:"pseudo_dice"`
		Cases      any            `json:"cases"`
		Run        any            `json:"run"`
		NoNodes    bool           `json:"nodes_left_out,omitempty"`
	}{a.Before, a.After, full(a.Loss), full(a.ValLoss), full(a.PseudoDice), a.Cases, a.Run, false}
	many := tooMany(a.Before, a.After)
	if !many {
		text, err := encodeData(data)
		if err != nil {
			return nil, err
		}
		many = len(text) > mostData
	}
	if many {
		data.Before, data.After, data.NoNodes = withoutNodes(a.Before), withoutNodes(a.After), true
	}
	return data, nil
}

// full is a list that is [] in JSON where there is nothing.
func full(v []float64) []float64 {
	if v == nil {
		return []float64{}
	}
	return v
}

// withoutNodes is a copy of the scores in which no case lists its nodes.
func withoutNodes(s *scores.Scores) *scores.Scores {
	if s == nil {
		return nil
	}
	c := *s
	c.Cases = make([]*scores.Case, len(s.Cases))
	for i, one := range s.Cases {
		copied := *one
		copied.Labels = map[string]*scores.Label{}
		for key, l := range one.Labels {
			label := *l // of nodes that were not measured null is written
			label.Nodes = scores.Nodes{Reference: []scores.Node{}, Prediction: []scores.Node{}}
			copied.Labels[key] = &label
		}
		c.Cases[i] = &copied
	}
	return &c
}

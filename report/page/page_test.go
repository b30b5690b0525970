package page

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/phantom"
	"github.com/lntorch/lntorch/volume"
)

// evil is a name that is markup, ends a script element, a comment and a string.
const evil = `<script>alert(1)</script></script><!--"'&=1+1`

// drawnCases are held-out phantoms: before, the model misses every other node; after, the third.
var drawnCases = sync.OnceValues(func() ([]*HeldOut, error) {
	var list []*HeldOut
	for seed := range uint64(3) {
		p, err := phantom.Make(context.Background(), phantom.Config{Shape: [3]int{40, 104, 104},
			Spacing: [3]float64{4, 2.4, 2.4}, Phase: "venous", Kernel: "medium", Noise: 12,
			Nodes: [2]int{5, 9}, ShortAxis: 9, Spread: 0.35, Seed: seed + 7, Threads: 2})
		if err != nil {
			return nil, err
		}
		h := &HeldOut{Case: fmt.Sprintf("LN_%03d", seed+4), Shape: p.Shape,
			Geometry: volume.Geometry{Spacing: p.Spacing, OriginXYZ: p.Origin,
				DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}},
			Image: make([]float32, len(p.CT))}
		for i, v := range p.CT {
			h.Image[i] = float32(v)
		}
		h.Truth = &labelmap.Map{Shape: h.Shape, Small: p.Labels, Geometry: h.Geometry}
		list = append(list, h)
	}
	return list, nil
})

// without is the truth without the nodes that drop names, moved by so many voxels along x, with a
// node that is not there.
func without(h *HeldOut, found []scores.Node, drop func(i int) bool, shift int) *labelmap.Map {
	m := &labelmap.Map{Shape: h.Shape, Geometry: h.Geometry, Small: make([]uint8, len(h.Truth.Small))}
	nx, ny := h.Shape[2], h.Shape[1]
	gone := func(z, y, x int) bool {
		for i, n := range found {
			var at [3]float64
			for a := range 3 {
				at[a] = (n.Centroid[2-a] - h.Geometry.OriginXYZ[2-a]) / h.Geometry.Spacing[a]
			}
			d := math.Hypot(math.Hypot((at[0]-float64(z))*h.Geometry.Spacing[0],
				(at[1]-float64(y))*h.Geometry.Spacing[1]), (at[2]-float64(x))*h.Geometry.Spacing[2])
			if drop(i) && d < n.LongAxis*0.8+4 {
				return true
			}
		}
		return false
	}
	for i, l := range h.Truth.Small {
		z, y, x := i/nx/ny, i/nx%ny, i%nx
		if l != 0 && x+shift < nx && !gone(z, y, x) {
			m.Small[i+shift] = l
		}
	}
	for z := 3; z < 6; z++ {
		for y := 40; y < 44; y++ {
			for x := 60; x < 63; x++ {
				m.Small[(z*ny+y)*nx+x] = 1
			}
		}
	}
	return m
}

// sample is a report of phantoms, as adapt would make it. Its fields may be replaced.
func sample(t testing.TB) *Adaptation {
	t.Helper()
	once.Do(func() { made = makeSample(t) })
	require.NotNil(t, made, "the first test that needed it has failed")
	a := *made
	return &a
}

var (
	once sync.Once
	made *Adaptation
)

func makeSample(t testing.TB) *Adaptation {
	t.Helper()
	drawn, err := drawnCases()
	require.NoError(t, err)
	s := scores.Default()
	targets := []eval.Target{eval.Label(1)}
	names := map[string]string{"1": "lymph_node"}
	a := &Adaptation{Title: "Adaptation of LN-Seg-FM to Target CT",
		Checkpoint: "foundation/checkpoint_final.pth", Method: "dgst",
		Notes: []string{"The delivered model was trained for 40 epochs of 20 iterations."}}
	var before, after []*scores.Case
	type row struct {
		Case     string     `json:"case"`
		Image    []string   `json:"image"`
		Label    string     `json:"label"`
		Role     string     `json:"role"`
		Size     [3]int     `json:"size"`
		Spacing  [3]float64 `json:"spacing_mm"`
		Nodes    int        `json:"nodes"`
		ML       float64    `json:"ml"`
		Problems []string   `json:"problems"`
	}
	var rows []row
	for i := range 4 {
		rows = append(rows, row{fmt.Sprintf("LN_%03d", i), []string{fmt.Sprintf("/data/ct/LN_%03d_0000.nii.gz", i)},
			fmt.Sprintf("/data/labels/LN_%03d.nii.gz", i), "train", [3]int{40, 104, 104},
			[3]float64{4, 2.4, 2.4}, 5 + i, 6.125 + float64(i), nil})
	}
	rows[2].Problems = []string{"no voxel below −200: not HU?"}
	for _, h := range drawn {
		h := *h
		truth, err := s.Score(h.Truth, h.Truth, targets, nil)
		require.NoError(t, err)
		found := truth["1"].Nodes.Reference
		score := func(m *labelmap.Map, where string) *Predicted {
			l, err := s.Score(h.Truth, m, targets, nil)
			require.NoError(t, err)
			return &Predicted{Labels: m, Scores: &scores.Case{Case: h.Case,
				ReferenceFile:  "/data/labels/" + h.Case + ".nii.gz",
				PredictionFile: "/out/" + where + "/" + h.Case + ".nii.gz", Spacing: h.Geometry.Spacing,
				Labels: l}}
		}
		h.Before = score(without(&h, found, func(i int) bool { return i%2 == 0 }, 1), "before")
		h.After = score(without(&h, found, func(i int) bool { return i == 2 }, 0), "after")
		before, after = append(before, h.Before.Scores), append(after, h.After.Scores)
		pictures, err := h.Pictures()
		require.NoError(t, err)
		a.Pictures = append(a.Pictures, pictures...)
		rows = append(rows, row{h.Case, []string{"/data/ct/" + h.Case + "_0000.nii.gz"},
			"/data/labels/" + h.Case + ".nii.gz", "val", h.Shape, h.Geometry.Spacing, len(found), 9.5, nil})
	}
	a.Before = scores.New(s, targets, names, before, nil)
	a.After = scores.New(s, targets, names, after, nil)
	a.Cases = rows
	for i := range 40 {
		x := float64(i)
		a.Loss = append(a.Loss, 0.4*math.Exp(-x/9)-0.62+0.02*math.Sin(7*x))
		v := math.NaN()
		if i > 1 {
			v = 0.45*math.Exp(-x/11) - 0.55 + 0.04*math.Sin(5*x)
		}
		a.ValLoss = append(a.ValLoss, v)
		a.PseudoDice = append(a.PseudoDice, 0.78-0.5*math.Exp(-x/8)+0.03*math.Sin(3*x))
	}
	a.Run = map[string]any{"command": "lntorch adapt --checkpoint foundation --cases /data -o out",
		"versions": map[string]any{"lntorch": "v0.9", "libtorch": "2.4.1"},
		"sha256":   map[string]any{"checkpoint": strings.Repeat("ab", 32)},
		"settings": map[string]any{"epochs": 40, "method": "dgst", "patch": []int{24, 64, 64},
			"lr": 1e-3, "val": nil}}
	return a
}

// encoded is the page's HTML.
func encoded(t testing.TB, a *Adaptation) string {
	t.Helper()
	d, err := a.document()
	require.NoError(t, err)
	content, err := d.Encode()
	require.NoError(t, err)
	return string(content)
}

// held is what the page holds for programs.
func held(t testing.TB, html string) map[string]any {
	t.Helper()
	_, text, ok := strings.Cut(html, `<script type="application/json" id="report-data">`)
	require.True(t, ok)
	text, _, _ = strings.Cut(text, "</script>")
	var data map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &data))
	return data
}

func TestReportHoldsItsDataForPrograms(t *testing.T) {
	a := sample(t)
	a.Loss = []float64{0.5, math.NaN()}
	html := encoded(t, a)
	for _, id := range []string{"summary", "cases", "curves", "nodes", "pictures", "run"} {
		require.Contains(t, html, `<section id="`+id+`"`)
	}
	data := held(t, html)
	for key, want := range map[string]any{"before": a.Before, "after": a.After, "cases": a.Cases,
		"run": a.Run, "pseudo_dice": a.PseudoDice} {
		text, err := json.Marshal(want)
		require.NoError(t, err)
		got, err := json.Marshal(data[key])
		require.NoError(t, err)
		require.JSONEq(t, string(text), string(got), key)
	}
	require.Equal(t, []any{0.5, nil}, data["loss"])
	require.Contains(t, html, "not a medical device")
}

// Names of files and cases are text, wherever they stand.
func TestTextFromOutsideStaysText(t *testing.T) {
	html := encoded(t, evilReport(t))
	require.NotContains(t, html, "<script>alert")
	require.NotContains(t, html, "</script><!--")
	require.Equal(t, 2, strings.Count(html, "</script>"), "the data and the page's own script")
	require.Equal(t, 2, strings.Count(html, "<script"))
	require.NotRegexp(t, `(?i)onerror=`, regexp.MustCompile(`&#34;[^<>]*`).ReplaceAllString(html, ""))
	data := held(t, html)
	after := data["after"].(map[string]any)
	require.Equal(t, evil, after["cases"].([]any)[0].(map[string]any)["case"])
	require.Equal(t, evil, data["run"].(map[string]any)[evil])

	scoresPage, err := scoresDocument(evilReport(t).After, evil).Encode()
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(scoresPage), "<script"))
}

// evilReport has markup wherever text comes from outside.
func evilReport(t testing.TB) *Adaptation {
	a := sample(t)
	a.Title, a.Checkpoint, a.Method, a.Notes = evil, "/"+evil, evil, []string{evil}
	rename := func(s *scores.Scores) *scores.Scores {
		c := *s
		c.Labels = map[string]string{"1": evil}
		c.Cases = nil
		for _, one := range s.Cases {
			renamed := *one
			renamed.Case, renamed.ReferenceFile = evil, "/data/"+evil+".nii.gz"
			c.Cases = append(c.Cases, &renamed)
		}
		c.Failed = []scores.Failed{{Case: evil, ReferenceFile: evil, PredictionFile: evil, Error: evil}}
		return &c
	}
	a.Before, a.After = rename(a.Before), rename(a.After)
	a.Cases = []map[string]any{{"case": evil, "image": []string{"/data/" + evil}, "label": evil,
		"role": evil, "problems": []string{evil}}}
	a.Run = map[string]any{evil: evil, "list": []any{evil, map[string]any{evil: evil}}}
	a.Pictures = []Picture{{Case: evil, What: evil, Nodes: []string{evil}, Alt: evil + `" onerror="alert(1)`,
		Image: a.Pictures[0].Image}}
	return a
}

// What is undefined is a dash, never 0, and says how many cases are in.
func TestUndefinedIsADash(t *testing.T) {
	shape := [3]int{4, 12, 12}
	grid := volume.Geometry{Spacing: [3]float64{3, 1, 1}, DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	empty := &labelmap.Map{Shape: shape, Geometry: grid, Small: make([]uint8, 4*12*12)}
	node := &labelmap.Map{Shape: shape, Geometry: grid, Small: make([]uint8, 4*12*12)}
	for i := range 4 {
		node.Small[144+50+i] = 1
	}
	s := scores.Default()
	targets := []eval.Target{eval.Label(1)}
	var cases []*scores.Case
	for i, pair := range [][2]*labelmap.Map{{empty, empty}, {node, empty}, {node, node}} {
		l, err := s.Score(pair[0], pair[1], targets, nil)
		require.NoError(t, err)
		cases = append(cases, &scores.Case{Case: fmt.Sprint("c", i), Labels: l})
	}
	all := sides{{"", scores.New(s, targets, nil, cases, nil)}}
	means := all.means("1")
	require.Equal(t, "0.500", means.Rows[0].Cells[1].Text) // Dice of two
	require.Equal(t, "± 0.707 n = 2", means.Rows[0].Cells[1].Detail)
	require.Equal(t, Cell{Text: "0.0", Value: "0", Detail: "n = 1"}, means.Rows[2].Cells[1]) // HD95
	table := all.cases("1")
	require.Equal(t, dash, table.Rows[0].Cells[1].Text)
	require.Equal(t, "0.000", table.Rows[1].Cells[1].Text)
	one := sides{{"", scores.New(s, targets, nil, cases[:1], nil)}}
	require.Equal(t, Cell{Text: dash, Value: " ", Detail: "n = 0"}, one.means("1").Rows[2].Cells[1])
	require.Equal(t, dash, one.detection("1").Rows[0].Cells[2].Text)
	require.Equal(t, "0 of 0", one.detection("1").Rows[0].Cells[2].Detail)

	// A difference is over the cases where both sides are defined.
	both := sides{{"before", scores.New(s, targets, nil, cases[:2], nil)},
		{"after", scores.New(s, targets, nil, cases, nil)}}
	row := both.means("1").Rows[0].Cells
	require.Equal(t, "0.000", row[3].Text)
	require.Equal(t, "0 of 1", row[4].Text)
	require.Equal(t, "1", row[5].Text)
	require.Equal(t, "n = 1 of 3, where it is defined on both sides", both.tiles("1")[0].Detail)

	// One invented voxel where there is no node makes an undefined Dice 0, and no case worse.
	part := func(voxels int) *labelmap.Map {
		m := &labelmap.Map{Shape: shape, Geometry: grid, Small: make([]uint8, 4*12*12)}
		copy(m.Small[144+50:], node.Small[144+50:][:voxels])
		return m
	}
	side := func(emptys, nodes *labelmap.Map) *scores.Scores {
		var list []*scores.Case
		for i, pair := range [][2]*labelmap.Map{{empty, emptys}, {node, nodes}} {
			l, err := s.Score(pair[0], pair[1], targets, nil)
			require.NoError(t, err)
			list = append(list, &scores.Case{Case: fmt.Sprint("c", i), Labels: l})
		}
		return scores.New(s, targets, nil, list, nil)
	}
	both = sides{{"before", side(empty, part(2))}, {"after", side(part(1), part(3))}}
	require.Equal(t, Tile{Name: "Dice, mean", Before: "0.67", After: "0.86", Better: 1,
		Detail: "n = 1 of 2, where it is defined on both sides"}, both.tiles("1")[0])
}

func TestReportSaysWhatNAllowsToConclude(t *testing.T) {
	a := sample(t)
	html := encoded(t, a)
	require.Contains(t, html, "3 held-out cases: read each case, not the mean.")
	require.Contains(t, html, "Dice is better after adaptation in 3 of 3 cases and worse in 0. Had "+
		"adaptation no effect, all 3 would still agree by chance in one of 4 such studies")
	a.Before, a.After, a.Pictures = nil, nil, nil
	html = encoded(t, a)
	require.Contains(t, html, "No case was held out: nothing here shows that the adapted model is better")
	require.Contains(t, html, "No case was held out, so no node was looked for.")
	for _, id := range []string{"summary", "cases", "curves", "nodes", "pictures", "run"} {
		require.Contains(t, html, `<section id="`+id+`"`)
	}
	require.Nil(t, held(t, html)["after"])
}

// A refit's model has seen the cases of the role val, and the curves of a training on all cases are of what
// it was trained on: the page says so, and nothing else.
func TestReportSaysWhatTheDeliveredModelHasSeen(t *testing.T) {
	a := sample(t)
	html := encoded(t, a)
	for _, text := range []string{"<dt>Trained on</dt><dd>4 cases</dd>", "<dd>3 cases, never trained on</dd>",
		"patches of the validation cases together. It shows whether training goes on to learn", ">validation<"} {
		require.Contains(t, html, text)
	}

	a.CurvesOnTraining = true
	html = encoded(t, a)
	require.Contains(t, html, "<dd>3 cases, never trained on</dd>")
	require.Contains(t, html, "patches of the training cases together. No case was kept from this training")
	require.Contains(t, html, ">training cases, other patches<")
	require.NotContains(t, html, ">validation<")
	require.NotContains(t, html, "of the validation cases")

	a.Refit = true
	var rows []map[string]any
	require.NoError(t, decode(a.Cases, &rows))
	for i, role := range []string{"val", "val", "test"} {
		rows[4+i]["role"] = role
	}
	a.Cases = rows
	html = encoded(t, a)
	require.Contains(t, html, "<dt>Scored</dt><dd>a model trained on 4 cases, with 3 cases held out of its training</dd>")
	require.Contains(t, html, "<dt>Delivered</dt><dd>another model, trained on 6 cases, 2 of those held out among "+
		"them (--refit)</dd>")
	require.Contains(t, html, "val: held out of the scored model, trained on by the delivered one")
	for _, text := range []string{"never trained on", "<dt>Trained on", "val, test: held out"} {
		require.NotContains(t, html, text)
	}
}

// A change that is not seen in the digits is not called better, and cases that disagree show nothing.
func TestReportClaimsNothingThatIsNotThere(t *testing.T) {
	a := sample(t)
	same := sides{{"before", a.After}, {"after", a.After}}
	for _, tile := range same.tiles("1") {
		require.Zero(t, tile.Better)
		require.Equal(t, tile.Before, tile.After)
	}
	mixed := *a.Before
	mixed.Cases = append([]*scores.Case{a.After.Cases[0]}, a.Before.Cases[1:]...)
	worse := *a.After
	worse.Cases = append([]*scores.Case{a.Before.Cases[0]}, a.After.Cases[1:]...)
	text := strings.Join(sides{{"before", &mixed}, {"after", &worse}}.conclusions(), " ")
	require.Contains(t, text, "better after adaptation in 2 of 3 cases and worse in 1. The cases do not "+
		"agree: no effect is shown.")
}

// Expected: scipy 1.17, binomtest(...).pvalue and .proportion_ci(method="wilson").
func TestStatisticsAreScipys(t *testing.T) {
	for _, c := range []struct {
		better, worse int
		p             float64
	}{{1, 7, 0.0703125}, {6, 0, 0.03125}, {4, 5, 1}, {0, 0, 1}} {
		require.InDelta(t, c.p, signP(c.better, c.worse), 1e-12)
	}
	for _, c := range []struct {
		k, n      int
		low, high float64
	}{{20, 23, 0.6787251772990405, 0.9546234090636877}, {0, 7, 0, 0.35433043506668743},
		{5, 5, 0.5655175352168251, 1}} {
		low, high := wilson(c.k, c.n)
		require.InDelta(t, c.low, low, 1e-6)
		require.InDelta(t, c.high, high, 1e-6)
	}
}

// No name of a case, a file or a folder is anywhere in an anonymous report.
func TestAnonymousReportNamesNobody(t *testing.T) {
	a := sample(t)
	a.Anonymous = true
	rename := func(s *scores.Scores) *scores.Scores {
		c := *s
		c.Cases = nil
		for i, one := range s.Cases {
			renamed := *one
			renamed.Case = fmt.Sprintf("Doe_Jane_%d", i)
			renamed.ReferenceFile = "/clinic/ward/Doe_Jane/nodes.nii.gz"
			c.Cases = append(c.Cases, &renamed)
		}
		c.Failed = []scores.Failed{{Case: "Roe", ReferenceFile: "/clinic/Roe.nii.gz",
			Error: "case Roe: /clinic/Roe.nii.gz: not there"}}
		return &c
	}
	a.Before, a.After = rename(a.Before), rename(a.After)
	a.Checkpoint = "/clinic/models/checkpoint_final.pth"
	a.Cases = []map[string]any{
		{"case": "Doe_Jane_1", "image": []string{"/clinic/ward/Doe_Jane_1/ct.nii.gz"},
			"label": `C:\clinic\Doe_Jane_1.nrrd`, "role": "val",
			"problems": []string{"/clinic/ward/Doe_Jane_1/ct.nii.gz: empty", "Doe_Jane_1 has no node"}},
		{"case": "a", "image": "/clinic/Poe/ct.nii.gz", "label": "/clinic/Poe/Poe_label.nii.gz",
			"problems": []string{"Poe_label.nii.gz: value 3", "the folder Poe has two labels", "no ct"}},
		{"case": "Smith", "image": []string{"Smith.nii.gz"}, "label": "Smith_label.nii.gz", "role": "train"}}
	a.Run = map[string]any{"command": []string{"lntorch", "adapt", "--cases", "/clinic/ward"},
		"hostname": "ward7", "folder": "ward", "held": map[string]any{"Doe_Jane_2": 1, "Smith": "Smith"}}
	a.Notes = []string{"Smith was left out."}
	a.Pictures = []Picture{{Case: "Doe_Jane_1", What: "slice with most truth", Image: []byte("no name")}}
	html := encoded(t, a)
	visible := strings.NewReplacer(css, "", js, "").Replace(html)
	for _, name := range []string{"Doe", "Jane", "Smith", "Roe", "Poe", "clinic", "ward", ".nii.gz", ".nrrd"} {
		if at := strings.Index(visible, name); at >= 0 {
			t.Fatalf("found %s in: %s", name, visible[max(at-60, 0):at+60])
		}
	}
	data := held(t, html)
	cases := data["cases"].([]any)
	require.Equal(t, "case-1", cases[0].(map[string]any)["case"])
	require.Equal(t, "case-1 has no node", cases[0].(map[string]any)["problems"].([]any)[1])
	scored := data["after"].(map[string]any)["cases"].([]any)
	require.Equal(t, "case-1", scored[1].(map[string]any)["case"], "the same number everywhere")
	require.Equal(t, []any{"(hidden): value 3", "the folder (hidden) has two labels", "no ct"},
		cases[1].(map[string]any)["problems"])
	require.Contains(t, html, "case-3 was left out.")
	require.Contains(t, html, "checkpoint_final.pth")
	require.Equal(t, "Doe_Jane_1", a.Pictures[0].Case, "the report itself is not changed")
}

// Names that are numbers are not taken for those that replace others.
func TestAnonymousNamesAreReplacedOnce(t *testing.T) {
	a := &Adaptation{Cases: []map[string]any{{"case": "2"}, {"case": "1"}, {"case": "12"}},
		Notes: []string{"1, 2 and 12; v1, 123, é1"}}
	b, err := a.anonymous()
	require.NoError(t, err)
	require.Equal(t, []string{"case-2, case-1 and case-3; v1, 123, é1"}, b.Notes)
}

// A page fits into a mail: the pictures of the best cases go first, then long lists.
func TestReportIsAtMost15MB(t *testing.T) {
	a := sample(t)
	a.Pictures = nil
	random := make([]byte, 600_000)
	for i := range 50 {
		a.Pictures = append(a.Pictures, Picture{Case: fmt.Sprintf("case %02d", i),
			Dice: []float64{math.NaN(), float64(i*7%50) / 50}, Image: random})
	}
	crowd := func(s *scores.Scores) *scores.Scores {
		c := *s
		one := *s.Cases[0]
		l := *one.Labels["1"]
		for i := range 40_000 {
			n := l.Nodes.Prediction[0]
			n.Node, n.ShortAxis, n.Matched = i, float64(i%97)/10, false
			l.Nodes.Prediction = append(l.Nodes.Prediction, n)
		}
		one.Labels = map[string]*scores.Label{"1": &l}
		c.Cases = append([]*scores.Case{&one}, s.Cases[1:]...)
		return &c
	}
	a.After = crowd(a.After)
	path := filepath.Join(t.TempDir(), "report.html")
	require.NoError(t, a.Write(path))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.LessOrEqual(t, len(content), 15_000_000)
	require.Greater(t, len(content), 12_000_000)
	html := string(content)
	require.Regexp(t, `\d+ of 50 pictures are shown, those of the worst cases`, html)
	shown := regexp.MustCompile(`Enlarge (case \d\d)`).FindAllStringSubmatch(html, -1)
	require.Equal(t, "case 00", shown[0][1])
	require.Equal(t, "case 43", shown[1][1]) // 43·7 mod 50 = 1
	require.Regexp(t, `The first 2000 of 400\d\d rows`, html)
	require.Equal(t, true, held(t, html)["nodes_left_out"])

	a.Pictures = a.Pictures[:45]
	for i := range a.Pictures {
		a.Pictures[i].Image = random[:100]
	}
	require.Len(t, regexp.MustCompile(`Enlarge case`).FindAllString(encoded(t, a), -1), 40)
}

// scores.html shows the numbers of scores.csv.
func TestScoresPageShowsTheNumbersOfTheCSV(t *testing.T) {
	s := sample(t).After
	var b bytes.Buffer
	require.NoError(t, s.WriteCSV(&b))
	lines, err := csv.NewReader(&b).ReadAll()
	require.NoError(t, err)
	table := sides{{"", s}}.cases("1")
	require.Len(t, table.Rows, len(lines)-1)
	for i, row := range table.Rows {
		line := lines[i+1]
		require.Equal(t, line[0], row.Cells[0].Text)
		for k := 3; lines[0][k] != "empty"; k++ {
			want, err := strconv.ParseFloat(line[k], 64)
			require.NoError(t, err)
			got, err := strconv.ParseFloat(row.Cells[k-2].Value, 64)
			require.NoError(t, err)
			require.InEpsilon(t, want+1, got+1, 1e-9, lines[0][k])
		}
	}
	path := filepath.Join(t.TempDir(), "scores.html")
	require.NoError(t, Scores(path, s, "r and p"))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, id := range []string{"summary", "cases", "nodes", "settings"} {
		require.Contains(t, string(content), `<section id="`+id+`"`)
	}
	require.NotContains(t, string(content), "image/png")
	broken := *s
	broken.Settings.Match = nil
	require.ErrorContains(t, Scores(path, &broken, ""), "match: found no rule")
}

// The first cases of a list of nodes are the large ones that are missed.
func TestMissedNodesComeFirst(t *testing.T) {
	a := sample(t)
	table := sides{{"before", a.Before}, {"after", a.After}}.found()
	column := func(name string) int {
		for i, c := range table.Columns {
			if c.Name == name {
				return i
			}
		}
		t.Fatal(name)
		return 0
	}
	last, found := "missed", math.Inf(1)
	missed := 0
	for _, r := range table.Rows {
		state := r.Cells[column("Found after")].Text
		short, err := strconv.ParseFloat(r.Cells[column("Short axis (mm)")].Value, 64)
		require.NoError(t, err)
		if state != last {
			require.Equal(t, "found", state)
			last, found = state, math.Inf(1)
		}
		require.LessOrEqual(t, short, found)
		found = short
		if state == "missed" {
			missed++
		}
		require.Equal(t, map[[2]string]string{{"found", "found"}: "same", {"missed", "missed"}: "same",
			{"missed", "found"}: "gained", {"found", "missed"}: "lost"}[[2]string{
			r.Cells[column("Found before")].Text, state}], r.Cells[column("Adaptation")].Text)
	}
	require.Equal(t, a.After.Aggregate["1"].Detection["iou:0.3"].FN, missed)
}

// forget is a copy of scores in which nodes of one case were not measured.
func forget(s *scores.Scores, k int) *scores.Scores {
	cases := slices.Clone(s.Cases)
	copied, label := *cases[k], *cases[k].Labels["1"]
	label.Forget(0)
	copied.Labels = map[string]*scores.Label{"1": &label}
	cases[k] = &copied
	return scores.New(s.Settings, []eval.Target{eval.Label(1)}, s.Labels, cases, nil)
}

// A case whose nodes were not measured, by one model or both, is in no count of either, and every table says so.
func TestPagesSayWhatWasNotMeasured(t *testing.T) {
	a := sample(t)
	name, n := a.After.Cases[0].Case, len(a.After.Cases)
	require.Greater(t, n, 1)
	others := func(s *scores.Scores) string {
		d := scores.New(s.Settings, []eval.Target{eval.Label(1)}, s.Labels, s.Cases[1:], nil).Aggregate["1"].Detection["iou:0.3"]
		return fmt.Sprintf("%d of %d", d.TP, d.TP+d.FN)
	}
	wantBefore, wantAfter := others(a.Before), others(a.After)
	require.NotEqual(t, others(forget(a.Before, 1)), wantBefore)
	for _, noisy := range []string{"before", "after", "both"} {
		b := *a
		if noisy != "after" {
			b.Before = forget(a.Before, 0)
		}
		if noisy != "before" {
			b.After = forget(a.After, 0)
		}
		all := sides{{"before", b.Before}, {"after", b.After}}
		left := fmt.Sprintf("n = %d of %d cases: left out is what had more nodes than there was memory for, %s.", n-1, n, name)
		d := all.detection("1")
		require.Equal(t, []string{wantBefore, wantAfter}, []string{d.Rows[0].Cells[2].Detail, d.Rows[0].Cells[3].Detail}, noisy)
		require.Contains(t, d.Note, left)
		rules := all.rules("1")
		require.Equal(t, []string{wantBefore, wantAfter}, []string{rules.Rows[0].Cells[1].Detail, rules.Rows[0].Cells[2].Detail})
		require.Equal(t, left, rules.Note)
		tile := all.tiles("1")[1]
		require.Equal(t, fmt.Sprintf("%s of %s", tile.After, strings.Split(wantAfter, " of ")[1]), wantAfter[:len(tile.After)]+
			" of "+strings.Split(tile.Detail, ";")[0][len("of "):])
		require.Contains(t, tile.Detail, fmt.Sprintf("; n = %d of %d cases", n-1, n))

		table := all.cases("1")
		row := table.Rows[slices.IndexFunc(table.Rows, func(r Row) bool { return r.Cells[0].Text == name })].Cells
		for i, side := range []string{"before", "after"} {
			said := noisy == side || noisy == "both"
			require.Equal(t, said, row[len(row)-4+i].Text == notMeasured, "%s %s found", noisy, side)
			require.Equal(t, said, row[len(row)-2+i].Text == notMeasured, "%s %s invented", noisy, side)
			require.Equal(t, said, strings.Contains(all.found().Note, name+" ("+side+")"), "%s %s", noisy, side)
			require.Equal(t, said, strings.Contains(all.invented().Note, name+" ("+side+")"), "%s %s", noisy, side)
		}
		rows := 0
		for _, r := range all.found().Rows {
			if r.Cells[0].Text == name {
				rows++
				require.Equal(t, notMeasured, r.Cells[7].Text)
				require.Equal(t, dash, r.Cells[9].Text) // what adaptation did
			}
		}
		require.Equal(t, noisy == "before", rows > 0)
		require.Contains(t, encoded(t, &b), left)
		b.Anonymous = true
		require.NotContains(t, encoded(t, &b), name)
	}
}

// Data that are too long by their nodes alone are not made to learn it; others are not left out for that.
func TestNodesAloneCanBeTooMuchData(t *testing.T) {
	text, err := json.Marshal(scores.Node{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(text), leastNode)
	s := func(n int) *scores.Scores {
		return &scores.Scores{Cases: []*scores.Case{{Labels: map[string]*scores.Label{"1": {Nodes: scores.Nodes{
			Reference: make([]scores.Node, n/2), Prediction: make([]scores.Node, n-n/2)}}}}}}
	}
	const most = mostData / leastNode
	require.False(t, tooMany(s(most), nil))
	require.True(t, tooMany(s(most+1)))
	require.True(t, tooMany(s(most), s(1)))
}

// Of many nodes the first ones alone become rows.
func TestRowsAreMadeOfWhatIsShown(t *testing.T) {
	made := 0
	var rows []nodeRow
	for i := range 3 * mostRows {
		rows = append(rows, nodeRow{rank: i % 2, short: float64(i), index: i, make: func(i int) Row {
			made++
			return Row{Cells: []Cell{count(i)}}
		}})
	}
	table := &Table{}
	table.nodeRows(rows)
	require.Equal(t, mostRows, made)
	require.Len(t, table.Rows, mostRows)
	require.Equal(t, fmt.Sprint(3*mostRows-2), table.Rows[0].Cells[0].Text)
	require.Equal(t, fmt.Sprintf("The first %d of %d rows.", mostRows, 3*mostRows), table.Shown())
}

func TestChartsHaveRoundTicksAndGaps(t *testing.T) {
	require.InDeltaSlice(t, []float64{-0.6, -0.4, -0.2, 0}, steps(-0.61, 0.05, 5), 1e-12)
	require.InDeltaSlice(t, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}, steps(0, 1, 5), 1e-12)
	c := &Chart{X: "Epoch", Series: []Series{{"a", []float64{1, 2, math.NaN(), 3, math.Inf(1)}}}}
	require.Equal(t, 2, strings.Count(c.Lines()[0].Path, "M"))
	require.Len(t, c.Lines()[0].Points, 3)
	for _, values := range [][]float64{{5}, {2, 2}, {-1e-9, 1e9}} {
		c := &Chart{Series: []Series{{"a", values}}}
		require.NotEmpty(t, c.YTicks())
		require.NotContains(t, c.Lines()[0].Path, "NaN")
		require.NotEmpty(t, c.XTicks())
	}
	require.True(t, (&Chart{Series: []Series{{"a", []float64{math.NaN()}}}}).Empty())
}

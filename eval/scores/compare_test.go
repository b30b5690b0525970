package scores

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/volume"
)

// cubes is a volume of 4×12×50 voxels with cubes of 2×s×s voxels of label 1 at x = 0, 10, 20, … of
// these sizes s.
func cubes(sizes ...int) *labelmap.Map {
	m := &labelmap.Map{Shape: [3]int{4, 12, 50}, Small: make([]uint8, 4*12*50),
		Geometry: volume.Geometry{Spacing: [3]float64{2, 1, 1},
			DirectionXYZ: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}}
	for i, s := range sizes {
		for z := 1; z < 3; z++ {
			for y := range s {
				for x := range s {
					m.Small[(z*12+1+y)*50+10*i+x] = 1
				}
			}
		}
	}
	return m
}

// scored scores predictions of the cases a, b, …
func scored(t testing.TB, s Settings, references, predictions []*labelmap.Map) *Scores {
	t.Helper()
	targets := []eval.Target{eval.Label(1)}
	var cases []*Case
	for i, r := range references {
		labels, err := s.Score(r, predictions[i], targets, nil)
		require.NoError(t, err)
		cases = append(cases, &Case{Case: string(rune('a' + i)), Labels: labels})
	}
	return New(s, targets, map[string]string{"1": "node"}, cases, nil)
}

// threeModels are scores of two cases: five nodes of 3, 6, 8, 8, 3 voxels along
// an edge, and no node.
func threeModels(t *testing.T) []*Scores {
	references := []*labelmap.Map{cubes(3, 6, 8, 8, 3), cubes()}
	return []*Scores{
		scored(t, Default(), references, []*labelmap.Map{cubes(3, 6, 0, 0), cubes()}),
		scored(t, Default(), references, []*labelmap.Map{cubes(0, 6, 8, 0), cubes(5)}),
		scored(t, Default(), references, []*labelmap.Map{cubes(0, 6, 8, 0, 3), cubes()}),
	}
}

func TestCompareSetsModelsSideBySide(t *testing.T) {
	c, err := Compare([]string{"A", "B", "C"}, threeModels(t))
	require.NoError(t, err)

	// A has 18 + 72, B 72 + 128, C 18 more of 2·18 + 72 + 2·128 voxels.
	dice := c.Cases[0].Labels["1"]["Dice"]
	a, b, c3 := 2*90./(364+90), 2*200./(364+200), 2*218./(364+218)
	require.InDeltaSlice(t, []float64{a, b, c3}, numbers(dice.Values), 1e-15)
	require.InDeltaSlice(t, []float64{b - a, c3 - a}, numbers(dice.Difference), 1e-15)

	// The second case has no node: A's Dice is not defined there, B's is 0, and no pair is left.
	second := c.Cases[1].Labels["1"]
	require.False(t, second["Dice"].Values[0].Defined())
	require.EqualValues(t, 0, second["Dice"].Values[1])
	require.False(t, second["Dice"].Difference[0].Defined())
	g := c.Mean["1"]["Dice"]
	require.Len(t, g, 2)
	require.Equal(t, "B", g[0].Model)
	require.Equal(t, []int{1, 1, 0, 0}, []int{g[0].N, g[0].Higher, g[0].Lower, g[0].Equal})
	require.InDelta(t, b-a, float64(g[0].Mean.Mean), 1e-15)
	require.InDelta(t, a, float64(g[0].First), 1e-15)
	require.InDelta(t, b, float64(g[0].Value), 1e-15)
	require.False(t, g[0].SD.Defined())

	// Invented nodes are counted in both: B has one more in the second case.
	fp := c.Mean["1"]["fp"]
	require.Equal(t, []int{2, 1, 0, 1}, []int{fp[0].N, fp[0].Higher, fp[0].Lower, fp[0].Equal})
	require.EqualValues(t, 0.5, fp[0].Mean.Mean)
	require.InDelta(t, 0.7071067811865476, float64(fp[0].SD), 1e-15)
	require.Equal(t, []int{2, 0, 0, 2}, []int{fp[1].N, fp[1].Higher, fp[1].Lower, fp[1].Equal})

	// The nodes, with short axes of 3.6 to 10.6 mm: found by A, by all, by B and C, by none, by C.
	require.Len(t, c.Nodes, 5)
	var found [][]bool
	for _, n := range c.Nodes {
		found = append(found, n.Found)
	}
	require.Equal(t, [][]bool{{true, false, false}, {true, true, true}, {false, true, true},
		{false, false, false}, {false, false, true}}, found)
	require.Equal(t, &Shared{5, 1, 1, map[string]int{"A": 1, "B": 0, "C": 1}, 1}, c.Found["1"]["all"])
	require.Equal(t, &Shared{2, 0, 0, map[string]int{"A": 1, "B": 0, "C": 1}, 0}, c.Found["1"]["<5"])
	require.Equal(t, &Shared{1, 1, 0, map[string]int{"A": 0, "B": 0, "C": 0}, 0},
		c.Found["1"]["5-10"])
	require.Equal(t, &Shared{2, 0, 1, map[string]int{"A": 0, "B": 0, "C": 0}, 1},
		c.Found["1"][">=10"])

	var table, nodes bytes.Buffer
	require.NoError(t, c.WriteCSV(&table))
	require.Contains(t, table.String(), "case,label,name,metric,A,B,C,B - A,C - A\n")
	require.Contains(t, table.String(), "\na,1,node,recall,0.4,0.4,0.6,0,")
	require.Contains(t, table.String(), "\nb,1,node,Dice,,0,,,\n")
	require.Equal(t, 1+2*len(c.MetricNames()), strings.Count(table.String(), "\n"))
	require.NoError(t, c.WriteNodesCSV(&nodes))
	require.Contains(t, nodes.String(), ",A found,A iou,B found,B iou,C found,C iou\n")
	require.Contains(t, nodes.String(), ",true,1,false,,false,\n")

	_, err = json.Marshal(c)
	require.NoError(t, err)
}

func numbers(list []Number) (out []float64) {
	for _, v := range list {
		out = append(out, float64(v))
	}
	return out
}

// The order of cases in the files does not matter.
func TestCompareFindsCasesByName(t *testing.T) {
	m := threeModels(t)
	want, err := Compare([]string{"A", "B"}, m[:2])
	require.NoError(t, err)
	slices.Reverse(m[1].Cases)
	got, err := Compare([]string{"A", "B"}, m[:2])
	require.NoError(t, err)
	require.Equal(t, plain(t, want), plain(t, got))
}

// A model that made noise of a case has no nodes there: who found them is told of the other cases, and which are
// left out. The reference must be the same all the same.
func TestCompareLeavesOutNodesThatWereNotMeasured(t *testing.T) {
	want, err := Compare([]string{"A", "B"}, threeModels(t)[:2])
	require.NoError(t, err)
	require.Nil(t, want.NotMeasured)
	for noisy := range 2 {
		m := threeModels(t)[:2]
		m[noisy].Cases[0].Labels["1"].Forget(0)
		c, err := Compare([]string{"A", "B"}, m)
		require.NoError(t, err)
		require.Equal(t, map[string][]string{"1": {"a"}}, c.NotMeasured)
		require.Empty(t, c.Nodes)
		require.Zero(t, c.Found["1"]["all"].Nodes)
		require.Equal(t, plain(t, want.Mean["1"]["HD95"]), plain(t, c.Mean["1"]["HD95"]))
		require.Equal(t, []int{1, 0}, []int{c.Mean["1"]["fp"][0].N, c.Mean["1"]["recall"][0].N})

		metrics := m[noisy].Cases[0].Labels["1"].Metrics
		for i := range metrics {
			if metrics[i].Name == "volume_ref_mm3" {
				metrics[i].Value *= 1.001
			}
		}
		_, err = Compare([]string{"A", "B"}, m)
		require.ErrorContains(t, err, "the references of case a, label 1, are not the same, ")
	}
}

func TestCompareRefusesWhatIsNotAPair(t *testing.T) {
	references := []*labelmap.Map{cubes(4, 6, 8), cubes(4)}
	predictions := []*labelmap.Map{cubes(4, 6, 8), cubes(4)}
	a := scored(t, Default(), references, predictions)
	for name, c := range map[string]struct {
		settings   func(*Settings)
		references func([]*labelmap.Map)
		scores     func(*Scores)
		says       string
	}{
		"settings": {settings: func(s *Settings) { s.Connectivity = 6 },
			says: "A and B were scored with different settings, connectivity 26 and 6: evaluate both"},
		"rules": {settings: func(s *Settings) { s.Match = s.Match[1:] },
			says: "different settings, match [iou:0.3 iou:0.5 any] and [iou:0.5 any]"},
		"distance": {settings: func(s *Settings) { s.EmptyDistance = "diagonal" },
			says: "different settings, empty distance undefined and diagonal"},
		"voxels": {references: func(r []*labelmap.Map) { r[0] = cubes(4, 6, 7) },
			says: "the references of case a, label 1, are not the same, node 3 has 128 voxels, most in " +
				"slice 1, and 98"},
		"nodes": {references: func(r []*labelmap.Map) { r[1] = cubes() },
			says: "case b, label 1, are not the same, 1 and 0 nodes: compare predictions of one reference"},
		"place": {references: func(r []*labelmap.Map) { r[1].Geometry.OriginXYZ[1] = 9 },
			says: "node 1 lies at [1.50 2.50 3.00] and at [1.50 11.50 3.00] mm"},
		"cases": {scores: func(s *Scores) { s.Cases, s.Failed = s.Cases[:1], []Failed{{Case: "b"}} },
			says: "B lacks 1 of the 2 cases of A (b; 1 failed there): evaluate the same cases"},
		"more cases": {scores: func(s *Scores) {
			more := *s.Cases[0]
			more.Case = "z"
			s.Cases = append(s.Cases, &more)
		}, says: "A lacks 1 of the 3 cases of B (z): evaluate the same cases"},
		"labels": {scores: func(s *Scores) { s.Labels = map[string]string{"2": "node"} },
			says: "A and B were scored for different labels, 1 and 2: evaluate both"},
		"names": {scores: func(s *Scores) { s.Labels["1"] = "tumour" },
			says: `A and B call label 1 "node" and "tumour": these are different labels`},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := Default(), slices.Clone(references)
			copied := *references[1]
			r[1] = &copied
			if c.settings != nil {
				c.settings(&s)
			}
			if c.references != nil {
				c.references(r)
			}
			b := scored(t, s, r, predictions)
			if c.scores != nil {
				c.scores(b)
			}
			_, err := Compare([]string{"A", "B"}, []*Scores{a, b})
			require.ErrorContains(t, err, c.says)
		})
	}
	// A label that has a name in one of them alone is the same label.
	b := scored(t, Default(), references, predictions)
	b.Labels["1"] = "1"
	_, err := Compare([]string{"A", "B"}, []*Scores{a, b})
	require.NoError(t, err)
}

func fileOf(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scores.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestReadReturnsWhatWasWritten(t *testing.T) {
	for _, s := range threeModels(t) {
		text, err := json.MarshalIndent(s, "", " ")
		require.NoError(t, err)
		for _, c := range [][]byte{text, must(json.Marshal(s))} {
			got, err := Read(fileOf(t, string(c)))
			require.NoError(t, err)
			require.Equal(t, plain(t, s), plain(t, got))
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestReadSaysWhatIsWrong(t *testing.T) {
	text := string(must(json.Marshal(threeModels(t)[0])))
	for _, c := range []struct{ from, to, says string }{
		{`"version":1`, `"version":2`, "version: found 2, expected 1"},
		{`"connectivity":26`, `"connectivity":7`, "settings: connectivity: found 7, expected 6, 18 or 26"},
		{`"match":["iou:0.3"`, `"match":["iou:3"`, `rule "iou:3": expected`},
		{`"labels":{"1":"node"}`, `"labels":{}`, "labels: found none"},
		{`"labels":{"1":"node"}`, `"labels":{"x":"node"}`, `labels: eval: key "x"`},
		{`"labels":{"1":"node"}`, `"labels":{"1":"node","2":"b"}`, `case "a": found 1 labels, expected 2`},
		{`"case":"b"`, `"case":"a"`, `cases[1]: case "a" is there twice`},
		{`"Dice":`, `"Dise":`, `case "a", label "1": found the metric "Dise", expected [Dice IoU`},
		{`"Dice":`, `"Dice":0,"Dice":`, `found the metric "Dice" twice`},
		{`"Dice":`, `"x":`, `found the metric "x", expected`},
		{`"HD95":null,`, ``, `the metric "HD95" is missing`},
		{`"node":2`, `"node":7`, `case "a", label "1": nodes.reference[1]: found node 7 of 72 voxels, ` +
			`expected node 2`},
		{`"size_class":"5-10"`, `"size_class":"x"`, `found the size class "x", expected one of`},
		{`"tp":2`, `"tp":3`, "detection by any: found tp 3, fn 3, fp 0, predicted 2 for 5 and 2 nodes"},
		{`"iou:0.5":{`, `"iou:0.6":{`, "detection: the rule iou:0.5 is missing"},
		{`"empty":"none"`, `"empty":"?"`, `empty: found "?"`},
		{`"cases":[`, `"cases":[null,`, "found null among the values of a list, at byte "},
		{`"cases":[`, `"cases":[` + strings.Repeat("{},", 10000), "objects in "},
		{text, text[:100], "unexpected end of JSON input"},
		{text, `[]`, "found array as the document"},
		{`"cases":[`, `"cases":["x",`, "found string as cases"},
	} {
		require.Contains(t, text, c.from)
		path := fileOf(t, strings.Replace(text, c.from, c.to, 1))
		_, err := Read(path)
		require.ErrorContains(t, err, path+" is no scores.json of `lntorch evaluate`: ", c.to)
		require.ErrorContains(t, err, c.says)
	}
}

// Every value of a scores.json is taken away and replaced; what Read lets pass can be compared and
// written.
func TestDamagedScoresAreRefusedOrHarmless(t *testing.T) {
	text := must(json.Marshal(scored(t, Default(), []*labelmap.Map{cubes(3, 6)},
		[]*labelmap.Map{cubes(3)})))
	var doc any
	require.NoError(t, json.Unmarshal(text, &doc))
	read, refused := 0, 0
	try := func() {
		text := must(json.Marshal(doc))
		if survives(t, text) {
			read++
		} else {
			refused++
		}
	}
	others := []any{nil, map[string]any{}, []any{}, -1, 1e300, "x", []any{nil}, map[string]any{"x": nil}}
	var damage func(v any, put func(any))
	damage = func(v any, put func(any)) {
		for _, other := range others {
			put(other)
			try()
		}
		put(v)
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				inner := v[k]
				delete(v, k)
				try()
				v[k] = inner
				damage(inner, func(x any) { v[k] = x })
			}
		case []any:
			for i, inner := range v {
				damage(inner, func(x any) { v[i] = x })
			}
		}
	}
	damage(doc, func(v any) { doc = v })
	require.Greater(t, read, 500)
	require.Greater(t, refused, 500)
}

// survives reads text and, if it is read, compares it with itself.
func survives(t testing.TB, text []byte) bool {
	s, err := parse(text)
	if err != nil {
		return false
	}
	again, err := parse(text)
	require.NoError(t, err)
	c, err := Compare([]string{"A", "B"}, []*Scores{s, again})
	if err != nil {
		return false
	}
	var b bytes.Buffer
	require.NoError(t, c.WriteCSV(&b))
	require.NoError(t, c.WriteNodesCSV(&b))
	require.NoError(t, s.WriteCSV(&b))
	require.NoError(t, s.WriteNodesCSV(&b))
	_, err = json.Marshal(c)
	require.NoError(t, err)
	return true
}

func FuzzRead(f *testing.F) {
	f.Add(must(json.Marshal(scored(f, Default(), []*labelmap.Map{cubes(3, 6)},
		[]*labelmap.Map{cubes(3)}))))
	f.Fuzz(func(t *testing.T, text []byte) { survives(t, text) })
}

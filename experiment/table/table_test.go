package table

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/report"
)

func TestTablesAreThoseOfPandasAndSciPy(t *testing.T) {
	compareFolder(t, golden.Path(t, "experiment_table"))
}

// The same with other scores, drawn anew.
func TestLiveTablesAreThoseOfPandasAndSciPy(t *testing.T) {
	golden.Python(t)
	folder := t.TempDir()
	golden.Run(t, "experiment_table.py", "--seed", golden.Seed(t), "--out", folder)
	compareFolder(t, folder)
}

// compareFolder makes the tables of each NAME.csv and compares them with NAME.json.
func compareFolder(t *testing.T, folder string) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 12)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			var g struct {
				Settings struct {
					Alpha     float64
					Resamples int
					Seed      uint32
					Ties      map[string]float64
					Reference string
				}
				Table map[string][]map[string]any
			}
			require.NoError(t, json.Unmarshal(text, &g))
			scores, err := os.ReadFile(strings.TrimSuffix(file, ".json") + ".csv")
			require.NoError(t, err)
			got := asJSON(t, made(t, string(scores), Settings{Primary: "Dice", Alpha: g.Settings.Alpha,
				Resamples: g.Settings.Resamples, Seed: g.Settings.Seed, Tie: g.Settings.Ties,
				Reference: g.Settings.Reference, Lower: LowerIsBetter}))
			require.Equal(t, g.Settings.Reference, got["reference"])
			for _, part := range []string{"cells", "pairs", "gains", "next"} {
				list := got[part].([]any)
				require.Len(t, list, len(g.Table[part]), part)
				byID := map[string]any{}
				for _, row := range list {
					byID[id(row.(map[string]any))] = row
				}
				require.Len(t, byID, len(list), part)
				for _, want := range g.Table[part] {
					row := byID[id(want)]
					require.NotNil(t, row, "%s: %s", part, id(want))
					same(t, part+": "+id(want), want, row)
				}
			}
		})
	}
}

// id is what a row is about.
func id(row map[string]any) string {
	var b strings.Builder
	for _, key := range []string{"dataset", "network", "method", "shots", "label", "metric", "by",
		"within", "a", "b", "from", "to"} {
		fmt.Fprint(&b, row[key], "|")
	}
	return b.String()
}

// same compares what is expected with what is there, which may have more.
func same(t *testing.T, where string, want, got any) {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		require.True(t, ok, where)
		for k := range w {
			require.Contains(t, g, k, where)
			same(t, where+" "+k, w[k], g[k])
		}
	case []any:
		g, ok := got.([]any)
		require.True(t, ok, "%s: found %v, expected %v", where, got, want)
		require.Len(t, g, len(w), where)
		for i := range w {
			same(t, fmt.Sprint(where, " ", i), w[i], g[i])
		}
	case float64:
		g, ok := got.(float64)
		require.True(t, ok, "%s: found %v, expected %v", where, got, want)
		if math.Abs(w-g) > 1e-8*math.Abs(w) && math.Abs(w-g) > 1e-14 {
			t.Errorf("%s: found %.17g, expected %.17g", where, g, w)
		}
	default:
		require.Equal(t, want, got, where)
	}
}

func asJSON(t *testing.T, table *Table) map[string]any {
	var b bytes.Buffer
	_, err := report.JSON(&b, table)
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &v))
	return v
}

func settings() Settings {
	return Settings{Primary: "Dice", Alpha: 0.05, Resamples: 200, Lower: LowerIsBetter,
		Tie: map[string]float64{"Dice": 0.005}}
}

func made(t *testing.T, text string, s Settings) *Table {
	t.Helper()
	scores, err := Read([]byte(text), "scores.csv", nil)
	require.NoError(t, err)
	table, err := Make(context.Background(), scores, s)
	require.NoError(t, err)
	return table
}

// grid is a file of scores: methods a, b, … at shots, of which each is a little better.
func grid(methods, patients, draws, seeds int, shots ...string) string {
	var b strings.Builder
	b.WriteString("method,shots,draw,seed,case,Dice,HD95\n")
	r := rand.New(rand.NewPCG(1, 1))
	for m := range methods {
		for k, shot := range shots {
			for d := range draws {
				for s := range seeds {
					for p := range patients {
						dice := 0.5 + 0.1*float64(m) + 0.02*float64(k) + 0.02*r.NormFloat64()
						fmt.Fprintf(&b, "%c,%s,%d,%d,p%02d,%.4f,%.2f\n", 'a'+m, shot, d, s, p, dice, 10-5*dice)
					}
				}
			}
		}
	}
	return b.String()
}

// Each mistake in a file is told with its line, and what was expected.
func TestBadScoresAreRefused(t *testing.T) {
	const head = "method,shots,draw,seed,case,Dice\n"
	const good = "a,5,0,0,p1,0.5\n"
	wide := strings.Repeat("x,", 2000)
	for name, c := range map[string]struct{ text, want string }{
		"empty":        {"", "scores.csv: found an empty file, expected a header"},
		"header alone": {head, "found a header without rows"},
		"no column":    {"method,shots,seed,case,Dice\n", "no column draw: expected method, shots, draw, seed, case, and metrics; the header has method, shots, seed"},
		"no metric":    {"method,shots,draw,seed,case\na,5,0,0,p\n", "no column holds a metric"},
		"no name":      {",method,shots,draw,seed,case,Dice\n0," + good, "column 1 has no name; remove it"},
		"semicolons":   {strings.ReplaceAll(head+good, ",", ";"), `found columns separated by ";", expected commas`},
		"tabs":         {strings.ReplaceAll(head+good, ",", "\t"), `separated by "\t"`},
		"twice":        {"method,shots,draw,seed,case,Dice,Dice\n", "two columns have the name Dice"},
		"columns":      {wide, "found 2001 columns, expected 1000 at most"},
		"short row":    {head + good + "a,5,0,0\n", "line 3: found 4 fields, expected 6 as in the header"},
		"long row":     {head + "a,5,0,0,p1,0,5\n", "line 2: found 7 fields, expected 6"},
		"quote":        {head + "\"a,5,0,0,p1,0.5\n", "line 2: found a quotation mark that is not closed"},
		"bare quotes":  {head + "a\"b\",5,0,0,p1,0.5\n", `line 2, column 2: bare " in non-quoted`},
		"long line":    {head + strings.Repeat("a", 300000) + "\n", "line 2: found 300001 bytes, expected 262144 at most"},
		"text":         {head + "a,5,0,0,p1,good\n", `line 2: Dice: found "good", expected a number, or nothing where the score is undefined`},
		"nan":          {head + good + "a,5,0,0,p2,NaN\n", "line 3: Dice: found NaN: an undefined score is an empty field"},
		"NA":           {head + "a,5,0,0,p2,NA\n", "line 2: Dice: found NA: an undefined score is an empty field"},
		"inf":          {head + "a,5,0,0,p2,-inf\n", `line 2: Dice: found "-inf", expected a number`},
		"huge":         {head + "a,5,0,0,p2,1e999\n", `line 2: Dice: found "1e999", expected a number`},
		"duplicate":    {head + good + "a,5,0,1,p1,0.4\n" + good, "lines 2 and 4: two rows of one case and run"},
		"shots":        {head + "a,few,0,0,p1,0.5\n", `line 2: shots: found "few", expected a whole number, or all`},
		"negative":     {head + "a,-1,0,0,p1,0.5\n", `shots: found "-1"`},
		"no draw":      {head + "a,5,,0,p1,0.5\n", "line 2: draw: found nothing, expected a value in each row"},
		"control":      {head + "\"a\x1b[31m\",5,0,0,p1,0.5\n", "line 2: method: found a control character"},
		"line break":   {head + "\"a\nb\",5,0,0,p1,0.5\n", "line 2: found a quotation mark that is not closed"},
		"latin-1":      {head + "m\xe9thode,5,0,0,p1,0.5\n", "line 2: method: found text that is not UTF-8"},
		"long name":    {head + strings.Repeat("a", 300) + ",5,0,0,p1,0.5\n", "found a name of 300 bytes, expected 200 at most"},
		"two patients": {"method,shots,draw,seed,case,patient,Dice\na,5,0,0,c,p,1\nb,5,0,0,c,q,1\n", "lines 2 and 3: one case of two patients"},
		"zeros":        {head + "\x00\x00\x00", "found"},
	} {
		_, err := Read([]byte(c.text), "scores.csv", nil)
		require.ErrorContains(t, err, c.want, name)
		require.ErrorContains(t, err, "scores.csv: ", name)
		require.Less(t, len(err.Error()), 500, name)
	}
	// Runs and cases that hardly meet would need their product.
	var b strings.Builder
	b.WriteString(head)
	for i := range 10000 {
		fmt.Fprintf(&b, "a,5,%d,0,p%d,0.5\n", i, i)
	}
	_, err := Read([]byte(b.String()), "scores.csv", nil)
	require.ErrorContains(t, err, "found 10000 runs and 10000 cases, few of which have scores")
}

func TestMetricsAreChosen(t *testing.T) {
	text := "method,shots,draw,seed,case,comment,Dice,HD95\na,5,0,0,p1,fine,0.5,3\n"
	_, err := Read([]byte(text), "s.csv", nil)
	require.ErrorContains(t, err, `s.csv: line 2: comment: found "fine", expected a number`)
	require.ErrorContains(t, err, "--metrics names the columns that are metrics")
	s, err := Read([]byte("\ufeff"+text), "s.csv", []string{"HD95", "Dice"})
	require.NoError(t, err)
	require.Equal(t, []string{"HD95", "Dice"}, s.Metrics)
	// as evaluate writes it
	s, err = Read([]byte("method,shots,draw,seed,case,label,name,Dice,IoU,empty,rule\na,5,0,0,p1,1,node,0.5,,prediction,iou:0.3\n"), "s.csv", nil)
	require.NoError(t, err)
	require.Equal(t, []string{"Dice", "IoU"}, s.Metrics)
	_, err = Read([]byte(text), "s.csv", []string{"HD9"})
	require.ErrorContains(t, err, `no metric "HD9": did you mean HD95?`)
	_, err = Read([]byte(text), "s.csv", []string{"draw"})
	require.ErrorContains(t, err, `no metric "draw"`)
	_, err = Read([]byte(text), "s.csv", []string{"Dice", "Dice"})
	require.ErrorContains(t, err, "asked for twice")
}

func TestSettingsThatDoNotFitAreRefused(t *testing.T) {
	s, err := Read([]byte(grid(2, 3, 2, 1, "5")), "s.csv", nil)
	require.NoError(t, err)
	for want, change := range map[string]func(*Settings){
		`no primary metric "Dise": did you mean Dice?`: func(s *Settings) { s.Primary = "Dise" },
		"the primary metric is not named":              func(s *Settings) { s.Primary = "" },
		`no method or network for a reference "full"`:  func(s *Settings) { s.Reference = "full" },
		"alpha: found 1": func(s *Settings) { s.Alpha = 1 },
		"resamples":      func(s *Settings) { s.Resamples = 0 },
		"tie of Dice":    func(s *Settings) { s.Tie = map[string]float64{"Dice": -1} },
	} {
		c := settings()
		change(&c)
		_, err := Make(context.Background(), s, c)
		require.ErrorContains(t, err, want)
	}
	_, err = ParseTies([]string{"Dice"}, nil)
	require.ErrorContains(t, err, `found "Dice", expected METRIC=NUMBER`)
	ties, err := ParseTies([]string{"F1=0.1"}, map[string]float64{"Dice": 0.5})
	require.NoError(t, err)
	require.Equal(t, map[string]float64{"Dice": 0.5, "F1": 0.1}, ties)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Make(ctx, s, settings())
	require.ErrorIs(t, err, context.Canceled)
}

// A thousand methods are half a million pairs: with a reference they are a thousand.
func TestTooManyComparisonsAreRefused(t *testing.T) {
	var b strings.Builder
	b.WriteString("method,shots,draw,seed,case,Dice\n")
	for m := range 1000 {
		for p := range 2 {
			fmt.Fprintf(&b, "m%d,5,0,0,p%d,0.%d\n", m, p, 1+(m+p)%9)
		}
	}
	s, err := Read([]byte(b.String()), "s.csv", nil)
	require.NoError(t, err)
	_, err = Make(context.Background(), s, settings())
	require.ErrorContains(t, err, "found 499500 comparisons")
	require.ErrorContains(t, err, "--reference")
	c := settings()
	c.Reference = "m7"
	table, err := Make(context.Background(), s, c)
	require.NoError(t, err)
	require.Len(t, table.Pairs, 999)
	require.Equal(t, "m7", table.Pairs[0].B)
	b.Reset()
	b.WriteString("method,shots,draw,seed,case,Dice\n")
	for m := range 100000 {
		fmt.Fprintf(&b, "m%d,5,0,0,p,0.5\n", m)
	}
	s, err = Read([]byte(b.String()), "s.csv", nil)
	require.NoError(t, err)
	_, err = Make(context.Background(), s, settings())
	require.ErrorContains(t, err, "found 4999950000 comparisons")
}

// Neither the order of rows nor that of columns changes a number.
func TestOrderOfRowsChangesNothing(t *testing.T) {
	text := grid(3, 6, 3, 2, "1", "5", "all")
	want := made(t, text, settings())
	lines := strings.Split(strings.TrimSpace(text), "\n")
	head, rows := lines[0], lines[1:]
	// the first rows of the methods stay in order: it is that of the table
	r := rand.New(rand.NewPCG(3, 3))
	per := len(rows) / 3
	mixed := []string{rows[0], rows[per], rows[2*per]}
	rest := append(append(append([]string{}, rows[1:per]...), rows[per+1:2*per]...), rows[2*per+1:]...)
	r.Shuffle(len(rest), func(i, k int) { rest[i], rest[k] = rest[k], rest[i] })
	got := made(t, head+"\n"+strings.Join(append(mixed, rest...), "\n"), settings())
	require.Equal(t, asJSON(t, want), asJSON(t, got))
}

func TestPatientsAreMeansOfTheirCases(t *testing.T) {
	const text = `method,shots,draw,seed,case,patient,Dice
a,5,0,0,c1,p,0.2
a,5,0,0,c2,p,0.4
a,5,0,0,c3,q,0.9
a,5,1,0,c1,p,0.2
a,5,1,0,c2,p,0.4
a,5,1,0,c3,q,
`
	c := made(t, text, settings()).Cells[0]
	require.Equal(t, 1, c.Patients)
	require.Equal(t, []string{"q"}, c.LeftOut)
	require.InDelta(t, 0.3, c.Mean, 1e-15)
}

func TestWhatIsNotKnownIsSaid(t *testing.T) {
	warnings := func(text string) string { return strings.Join(made(t, text, settings()).Warnings, "\n") }
	few := warnings(grid(2, 6, 3, 1, "5"))
	require.Contains(t, few, "2 of 2 rows: intervals are optimistic below 20 test patients; found 6")
	require.NotContains(t, few, "draws")
	require.Empty(t, warnings(grid(2, 20, 3, 1, "5")))
	require.Contains(t, warnings(grid(2, 20, 2, 1, "5")), "2 of 2 rows: intervals are optimistic below 3 draws")
	require.Contains(t, warnings(grid(2, 20, 1, 3, "5")), "trained on one draw: intervals are for new seeds")
	require.Contains(t, warnings(grid(2, 20, 1, 1, "5")), "trained once, so that nothing is known about other draws")

	one := made(t, grid(2, 1, 3, 1, "5"), settings())
	require.Contains(t, strings.Join(one.Warnings, "\n"),
		"2 of 2 rows: one test patient with a score in all runs: nothing is tested, and no interval is known")
	require.True(t, math.IsNaN(one.Pairs[0].P) && math.IsNaN(one.Pairs[0].Wilcoxon.P))
	require.Equal(t, 0, one.Tests["Dice"])

	// two names of one method
	rows := grid(1, 20, 3, 2, "1", "5")
	twin := made(t, rows+strings.ReplaceAll(strings.SplitN(rows, "\n", 2)[1], "a,", "b,"), settings())
	require.Contains(t, twin.Warnings,
		"equal in every patient: a and b at 1 shots; a and b at 5 shots: are these two names of one training?")
	require.Equal(t, 1.0, twin.Pairs[0].P)
	require.Equal(t, 1.0, twin.Pairs[0].Wilcoxon.P)

	// a run is missing
	text := strings.Join(without(grid(2, 20, 3, 2, "5"), "b,5,1,1,"), "\n")
	table := made(t, text, settings())
	require.Contains(t, strings.Join(table.Warnings, "\n"), "1 of 2 rows: runs are missing")
	require.True(t, table.Pairs[0].Incomplete)
	require.Equal(t, 2, table.Pairs[0].Draws)
	require.Equal(t, 3, table.Cells[0].Draws, "a is whole")

	// a row is missing
	table = made(t, strings.Join(without(grid(2, 20, 3, 1, "5"), "b,5,1,0,p03"), "\n"), settings())
	require.Contains(t, strings.Join(table.Warnings, "\n"), "1 of 6 runs have no row of some case")
	require.Equal(t, []string{"p03"}, table.Pairs[0].LeftOut)
	require.Equal(t, 19, table.Pairs[0].N)

	// seeds that never meet
	table = made(t, strings.Join(without(grid(2, 20, 3, 2, "5"), "b,5,0,1", "b,5,1,1", "b,5,2,1"), "\n"), settings())
	require.Contains(t, strings.Join(table.Warnings, "\n"), "cannot be compared: a and b at 5 shots: no draw has the same seeds on both sides")
	require.True(t, math.IsNaN(table.Pairs[0].Difference))
	require.Equal(t, 0, table.Tests["Dice"])
	for _, write := range []func(*Table) string{markdownOf, csvOf, latexOf} {
		require.NotContains(t, write(table), "NaN")
	}
}

func without(text string, prefixes ...string) []string {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		keep := true
		for _, p := range prefixes {
			keep = keep && !strings.HasPrefix(line, p)
		}
		if keep {
			lines = append(lines, line)
		}
	}
	return lines
}

func markdownOf(t *Table) string {
	var b strings.Builder
	_ = t.Markdown(&b)
	return b.String()
}

func csvOf(t *Table) string {
	var b strings.Builder
	_ = t.CSV(&b)
	return b.String()
}

func latexOf(t *Table) string {
	var b strings.Builder
	_ = t.LaTeX(&b)
	return b.String()
}

// Of a clear difference the best is bold alone; of none, both; where nothing was tested, nothing.
func TestBoldIsTheBestAndWhatItDoesNotBeat(t *testing.T) {
	text := grid(2, 20, 3, 1, "5")
	md := markdownOf(made(t, text, settings()))
	require.Regexp(t, `(?m)^\| +5 \| b +\| \*\*0\.\d+\*\* \| .* \| +best \|`, md)
	require.Regexp(t, `(?m)^\| +5 \| a +\| +0\.\d+ \| .* \| <0\.001 \| 0/0/20 \|`, md)
	require.Contains(t, md, "n = 20 patients, 3 draws, 1 seed.")
	require.Contains(t, md, "Intervals hold with 95 % for new patients and newly drawn shots")
	require.Contains(t, md, "1 test between methods or networks was made of Dice")
	require.Contains(t, md, "HD95 (exploratory)")
	require.Regexp(t, `(?m)^\| +5 \| b +\| \*\*\d\.\d+\*\* .* \| +best \|`, md[strings.Index(md, "exploratory"):], "less is better")

	equal := strings.Join(without(text, "b,"), "\n") + "\n" + strings.ReplaceAll(
		strings.Join(without(text, "b,", "method"), "\n"), "a,5", "b,5")
	md = markdownOf(made(t, equal, settings()))
	require.Equal(t, 2, strings.Count(md[:strings.Index(md, "###")+strings.Index(md[3:], "###")], "| **0."))
	require.Contains(t, md, "| 0.000 to 0.000 ")

	require.NotContains(t, markdownOf(made(t, grid(2, 20, 1, 1, "5"), settings())), "**")

	s := settings()
	s.Reference = "a"
	md = markdownOf(made(t, text, s))
	require.Regexp(t, `(?m)^\| +5 \| a +\| +0\.\d+ \| .* \| reference \|`, md)
	require.Regexp(t, `(?m)^\| +5 \| b +\| \*\*0\.\d+\*\* \| .* \| +<0\.001 \| +20/0/0 \|`, md)
}

// A column has one number of decimals, whatever the size of its numbers.
func TestNumbersOfAMetricHaveTheSameDecimals(t *testing.T) {
	var b strings.Builder
	b.WriteString("method,shots,draw,seed,case,Dice,HD95\n")
	r := rand.New(rand.NewPCG(2, 2))
	for _, m := range []string{"a", "b"} {
		for d := range 3 {
			for p := range 8 {
				fmt.Fprintf(&b, "%s,5,%d,0,p%d,%.4f,%.3f\n", m, d, p, r.Float64(), 8+6*r.Float64())
			}
		}
	}
	table := made(t, b.String(), settings())
	md := markdownOf(table)
	for _, of := range []struct{ head, cell string }{{"### Dice", `^-?\d+\.\d{3}$`}, {"### HD95", `^-?\d+\.\d{2}$`}} {
		_, part, found := strings.Cut(md, of.head)
		require.True(t, found)
		part, _, _ = strings.Cut(part, "\n###")
		lines := strings.Split(part, "\n")[4:6]
		for _, line := range lines {
			cells := strings.Split(line, "|")
			for _, i := range []int{3, 5, 6} { // mean, sd of patients and draws
				require.Regexp(t, of.cell, strings.Trim(cells[i], " *"), line)
			}
			ends := strings.Split(strings.TrimSpace(cells[4]), " to ")
			require.Regexp(t, of.cell, ends[0], line)
			require.Regexp(t, of.cell, ends[1], line)
		}
	}
	require.Contains(t, latexOf(table), "S[table-format=2.2,detect-weight,mode=text]")
}

// What a table is worth stands below it, in every form that people read.
func TestNotesSayWhatATableIsWorth(t *testing.T) {
	table := made(t, grid(2, 6, 2, 1, "5"), settings())
	for _, text := range []string{markdownOf(table), latexOf(table)} {
		require.Contains(t, text, "Caution: intervals are optimistic below 20 test patients.")
		require.Contains(t, text, "Caution: intervals and p are optimistic below 3 draws.")
		require.Contains(t, text, "tied (within 0.005)")
		require.Contains(t, text, "n = 6 patients, 2 draws, 1 seed.")
	}
	table = made(t, grid(2, 20, 3, 2, "5"), settings())
	require.NotContains(t, markdownOf(table), "Caution")
	table.Warn([]string{"pool of b: 2 cases are in the training data of unet"})
	for text, n := range map[string]int{markdownOf(table): 3, latexOf(table): 2} {
		require.Equal(t, n, strings.Count(text, "Caution: pool of b: 2 cases are in the training data of unet."),
			"below the table of each metric, and of the pairs")
	}
	require.Equal(t, "pool of b: 2 cases are in the training data of unet", table.Warnings[0])
	table = made(t, grid(2, 20, 1, 1, "5"), settings())
	require.Contains(t, markdownOf(table), "What was trained once has no interval and no p")
	table = made(t, strings.Join(without(grid(2, 20, 3, 1, "5"), "b,5,1,0,p03"), "\n"), settings())
	require.Contains(t, markdownOf(table), "Without a score somewhere and left out there: 1 of the patients.")
}

// Every table says of how many patients, draws and seeds it is, how many tests were made, what its intervals
// hold for, and what is wrong with how the scores came about.
func TestEveryTableSaysWhatItIsOf(t *testing.T) {
	with := func(draws int, shots ...string) *Table {
		head, rows, _ := strings.Cut(grid(2, 20, draws, 2, shots...), "\n")
		text := "network," + head + "\n"
		for line := range strings.Lines(rows) {
			text += "u," + line + "v," + line
		}
		table := made(t, text, settings())
		table.Warn([]string{"pool of b: 2 cases are in the training data of u"})
		return table
	}
	sections := func(table *Table) []string {
		return strings.Split(markdownOf(table), "### ")[1:]
	}
	const (
		draws = "Intervals hold with 95 % for new patients and newly drawn shots (crossed random effects, patients × draws)"
		mixed = "newly drawn shots (crossed random effects, patients × draws; with one draw, patients × seeds: for new seeds of " +
			"that draw)"
		seeds = "Intervals hold with 95 % for new patients and new seeds of one draw, and not for other draws (crossed random " +
			"effects, patients × seeds)"
	)
	// Three draws; one of them alone.
	for covers, table := range map[string]*Table{draws: with(3, "1", "5"), seeds: with(1, "1", "5")} {
		found := sections(table)
		titles := ""
		for _, s := range found {
			title, _, _ := strings.Cut(s, "\n")
			titles += strings.Fields(title)[0] + " "
			require.Contains(t, s, covers, title)
			require.Regexp(t, `n = 20 patients, (3 draws|1 draw), 2 seeds\.`, s, title)
			require.Contains(t, s, "Caution: pool of b: 2 cases are in the training data of u.", title)
			require.Regexp(t, `(\d+ tests? .*made|Nothing is tested)`, s, title)
		}
		require.Equal(t, "Dice: Dice: Differences Differences More What HD95: HD95: ", titles)
		for _, s := range found[2:6] {
			require.Regexp(t, `\n\|.*\| +n \| draws \| seeds \|\n`, s)
			require.Regexp(t, fmt.Sprintf(`\n\|.*\| +20 \| +%d \| +2 \|\n`, map[string]int{draws: 3, seeds: 1}[covers]), s)
		}
		require.Contains(t, found[4], "p is not adjusted; 4 tests of it were made.")
		for _, g := range table.Gains {
			require.Equal(t, 2, g.Seeds)
		}
		require.Equal(t, 2, table.Next[0].Seeds)
		records, err := csv.NewReader(strings.NewReader(csvOf(table))).ReadAll()
		require.NoError(t, err)
		for _, r := range records[1:] {
			require.Equal(t, map[string][]string{
				draws: {"draw", "pool of b: 2 cases are in the training data of u"},
				seeds: {"seed", "pool of b: 2 cases are in the training data of u"}}[covers], r[len(r)-2:])
		}
	}
	// Of several draws and of one in the same table: all is of one draw.
	var lines []string
	for _, line := range strings.Split(grid(2, 20, 3, 2, "5", "all"), "\n") {
		if !strings.Contains(line, ",all,1,") && !strings.Contains(line, ",all,2,") {
			lines = append(lines, line)
		}
	}
	found := sections(made(t, strings.Join(lines, "\n"), settings()))
	require.Len(t, found, 4)
	require.Contains(t, found[0], mixed)
	require.Contains(t, found[1], mixed)
	require.Contains(t, found[1], "n = 20 patients, 1 to 3 draws, 2 seeds.")
	require.Contains(t, found[2], seeds, "from 5 to all there is one draw that both have")
	// Pairs of single runs have no interval.
	require.Contains(t, sections(made(t, grid(2, 20, 1, 1, "5"), settings()))[1], "What was trained once has no interval and no p")
}

// A grid's table is in the order of its file: datasets, networks and methods, the direction of pairs, and what
// takes the order from there. Scores alone are in their own.
func TestATableIsInTheOrderOfItsGrid(t *testing.T) {
	var b strings.Builder
	b.WriteString("dataset,network,method,shots,draw,seed,case,label,Dice\n")
	for _, place := range []string{"a,v", "a,w", "b,v", "b,w"} {
		for _, run := range []string{"dgst,1", "dgst,5", "full,1", "full,5", "none,0"} {
			if place == "b,w" && run == "none,0" {
				continue // not done yet
			}
			for i := range 6 {
				for _, label := range []string{"7", "3"} {
					fmt.Fprintf(&b, "%s,%s,%d,0,p%d,%s,%.3f\n", place, run, i%2, i/2, label, 0.5+0.07*float64(i))
				}
			}
		}
	}
	order := func(o *Order) (cells, pairs []string, of *Table) {
		scores, err := Read([]byte(b.String()), "scores.csv", nil)
		require.NoError(t, err)
		if o != nil {
			scores.Sort(*o)
		}
		of, err = Make(context.Background(), scores, settings())
		require.NoError(t, err)
		for _, c := range of.Cells {
			cells = append(cells, strings.Join([]string{c.Dataset, c.Label, c.Network, c.Method, c.Shots}, " "))
		}
		for _, p := range of.Pairs {
			pairs = append(pairs, strings.Join([]string{p.Dataset, p.Label, p.By, p.Within, p.Shots, p.A, p.B}, " "))
		}
		return cells, pairs, of
	}
	cells, pairs, of := order(nil)
	require.Equal(t, []string{"a 7 v dgst 1", "a 7 v dgst 5", "a 7 v full 1", "a 7 v full 5", "a 7 v none 0", "a 7 w dgst 1"}, cells[:6])
	require.Equal(t, "a 7 method v 1 dgst full", pairs[0])
	require.Equal(t, []string{"dgst", "full", "none"}, of.Methods())

	cells, pairs, of = order(&Order{Datasets: []string{"b", "a"}, Networks: []string{"w", "v"}, Methods: []string{"none", "full", "more", "dgst"}})
	require.Equal(t, []string{"b 7 w full 1", "b 7 w full 5", "b 7 w dgst 1", "b 7 w dgst 5", "b 7 v none 0", "b 7 v full 1"}, cells[:6])
	require.Equal(t, "b 3 w full 1", cells[9])
	require.Equal(t, "a 7 w none 0", cells[18])
	require.Equal(t, "b 7 method w 1 full dgst", pairs[0])
	require.Contains(t, pairs, "a 3 network full 5 w v")
	require.Equal(t, []string{"none", "full", "dgst"}, of.Methods(), "whatever the first network has")
	require.Equal(t, "0 1 1 5 5", strings.Join(func() (list []string) {
		for _, r := range of.Groups(true)[1].Rows {
			list = append(list, r.Shots)
		}
		return list
	}(), " "))
	cells, _, _ = order(&Order{Methods: []string{"full"}})
	require.Equal(t, []string{"a 7 v full 1", "a 7 v full 5", "a 7 v dgst 1"}, cells[:3], "others come last")
}

// LaTeX takes the tables as they are.
func TestLaTeXTakesTheTables(t *testing.T) {
	program, err := exec.LookPath("pdflatex")
	if err != nil {
		golden.Missing(t, "latex", "needs pdflatex with booktabs and siunitx")
	}
	folder := t.TempDir()
	text := strings.ReplaceAll(grid(3, 6, 3, 2, "1", "5", "all"), "\na,", "\n50%_é<x>&#{},")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "table.tex"), []byte(latexOf(made(t, text, settings()))), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "main.tex"), []byte("\\documentclass{article}\n"+
		"\\usepackage{booktabs,siunitx}\n\\begin{document}\n\\input{table.tex}\n\\end{document}\n"), 0o644))
	cmd := exec.Command(program, "-interaction=nonstopmode", "-halt-on-error", "main.tex")
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "siunitx.sty' not found") {
		golden.Missing(t, "latex", "needs siunitx")
	}
	require.NoError(t, err, string(out))
	require.FileExists(t, filepath.Join(folder, "main.pdf"))
}

// Names are text in every form of the table.
func TestNamesAreEscaped(t *testing.T) {
	text := strings.ReplaceAll(grid(2, 4, 2, 1, "5"), "\na,", "\n<b>50%_|x&\\$,")
	table := made(t, text, settings())
	md := markdownOf(table)
	require.Contains(t, md, `&lt;b>50%_\|x&\$`)
	require.NotContains(t, md, "<b>")
	require.Contains(t, latexOf(table), `$<$b$>$50\%\_|x\&\textbackslash{}\$`)
	records, err := csv.NewReader(strings.NewReader(csvOf(table))).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 5)
	require.Equal(t, `<b>50%_|x&\$`, records[1][2])
}

// The CSV and the JSON have the same numbers, seen from the method of the row.
func TestCSVHasTheNumbersOfTheJSON(t *testing.T) {
	// the middle one is the best, so that it is compared with rows before and after it
	text := strings.NewReplacer("\nb,", "\nc,", "\nc,", "\nb,").Replace(grid(3, 8, 3, 2, "1", "5"))
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(lines[1:])
	table := made(t, strings.Join(lines, "\n"), settings())
	records, err := csv.NewReader(strings.NewReader(csvOf(table))).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 1+len(table.Cells))
	at := map[string]int{}
	for i, name := range records[0] {
		at[name] = i
	}
	n := 0
	for _, r := range records[1:] {
		get := func(name string) string { return r[at[name]] }
		for _, p := range table.Pairs {
			if p.Metric != get("metric") || p.Shots != get("shots") {
				continue
			}
			switch {
			case p.A == get("method") && p.B == get("against"):
				require.Equal(t, []string{full(p.Difference), full(p.CI[0]), full(p.PHolm), fmt.Sprint(p.Win)},
					[]string{get("difference"), get("difference_ci_low"), get("p_holm"), get("win")})
				n++
			case p.B == get("method") && p.A == get("against"):
				require.Equal(t, []string{full(-p.Difference), full(-p.CI[1]), full(p.PHolm), fmt.Sprint(p.Loss)},
					[]string{get("difference"), get("difference_ci_low"), get("p_holm"), get("win")})
				n++
			}
		}
	}
	require.Equal(t, 2*2*2, n, "two metrics, two shots, two beside the best")
}

func FuzzRead(f *testing.F) {
	f.Add(grid(2, 2, 2, 1, "5", "all"))
	f.Add("method,shots,draw,seed,case,patient,Dice\na,5,0,0,c1,p,0.2\nb,5,0,0,c1,p,\n")
	f.Add("\ufeffmethod,shots,draw,seed,case,Dice\n\"a\",all,x,y,c,1e99\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Read([]byte(text), "scores.csv", nil)
		if err != nil {
			return
		}
		c := settings()
		c.Primary, c.Resamples = s.Metrics[0], 3
		table, err := Make(context.Background(), s, c)
		if err != nil {
			return
		}
		for _, write := range []func(*Table) string{markdownOf, csvOf, latexOf} {
			if strings.Contains(write(table), "NaN") && !strings.Contains(text, "NaN") {
				t.Error("NaN in a table")
			}
		}
		asJSON(t, table)
	})
}

// BenchmarkTable is 5,000 runs of 40 cases in 5 metrics.
func BenchmarkTable(b *testing.B) {
	var text strings.Builder
	text.WriteString("network,method,shots,draw,seed,case,Dice,NSD_2,HD95,recall,F1\n")
	r := rand.New(rand.NewPCG(1, 1))
	for run := range 5000 {
		draw := run / (5 * 9 * 4 * 3)
		for c := range 40 {
			fmt.Fprintf(&text, "n%d,m%d,%d,%d,%d,c%02d", run%5, run/5%9, []int{1, 5, 10, 20}[run/45%4], draw,
				run/180%3, c)
			for range 5 {
				fmt.Fprintf(&text, ",%.15g", r.Float64())
			}
			text.WriteString("\n")
		}
	}
	s := settings()
	s.Resamples = 10000
	for b.Loop() {
		scores, err := Read([]byte(text.String()), "scores.csv", nil)
		require.NoError(b, err)
		table, err := Make(context.Background(), scores, s)
		require.NoError(b, err)
		require.Len(b, table.Pairs, (5*36+9*10)*4*5)
		_, err = report.JSON(io.Discard, table)
		require.NoError(b, err)
		require.NoError(b, table.Markdown(io.Discard))
	}
}

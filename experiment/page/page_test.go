package page

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/experiment/figures"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/internal/browsertest"
	"github.com/lntorch/lntorch/report"
)

// study is scores of methods, of which each is a little better than the one before, at shots.
func study(t *testing.T, methods, shots []string, patients int, s table.Settings) *Experiment {
	t.Helper()
	r := rand.New(rand.NewPCG(5, 5))
	var b strings.Builder
	b.WriteString("dataset,network,method,shots,draw,seed,case,Dice,HD95\n")
	for m, method := range methods {
		for k, shot := range shots {
			for d := range 3 {
				if d > 0 && shot == "all" {
					continue
				}
				for s := range 2 {
					for p := range patients {
						v := 0.4 + 0.1*float64(m%5) + 0.03*float64(k) + 0.02*r.NormFloat64()
						fmt.Fprintf(&b, "hospital,unet,%s,%s,%d,%d,c%02d,%.5f,%.4f\n", method, shot, d, s, p, v, 30-20*v)
					}
				}
			}
		}
	}
	return analysed(t, b.String(), s)
}

func analysed(t *testing.T, text string, s table.Settings) *Experiment {
	t.Helper()
	scores, err := table.Read([]byte(text), "scores.csv", nil)
	require.NoError(t, err)
	if s.Primary == "" {
		s.Primary = scores.Metrics[0]
	}
	s.Alpha, s.Resamples, s.Lower = 0.05, 50, table.LowerIsBetter
	s.Tie = map[string]float64{"Dice": 0.005}
	made, err := table.Make(context.Background(), scores, s)
	require.NoError(t, err)
	return &Experiment{Name: "ln-fewshot", Table: made, Scores: scores.Runs(made.Primary), Figures: figures.Draw(made, nil),
		Version: "1.2.3"}
}

func encoded(t *testing.T, e *Experiment) string {
	t.Helper()
	d, err := e.document()
	require.NoError(t, err)
	content, err := d.Fit()
	require.NoError(t, err)
	return string(content)
}

var data = regexp.MustCompile(`(?s)<script type="application/json" id="report-data">(.*?)</script>`)

// What the page holds for programs is table.json.
func TestThePageHoldsTheTable(t *testing.T) {
	e := study(t, []string{"full", "dgst"}, []string{"1", "5"}, 20, table.Settings{})
	found := data.FindStringSubmatch(encoded(t, e))
	require.NotNil(t, found)
	var want bytes.Buffer
	_, err := report.JSON(&want, e.Table)
	require.NoError(t, err)
	require.JSONEq(t, want.String(), found[1])
}

// The summary says of each method whether it is better, worse or not shown to differ.
func TestTheSummarySaysWhatTheTestsFound(t *testing.T) {
	e := study(t, []string{"head", "bias", "full"}, []string{"5", "all"}, 20, table.Settings{})
	e.Table.Pairs[0].PHolm = 0.3                // head and bias at 5
	best := e.Table.Cells[len(e.Table.Cells)-4] // full at 5, Dice
	require.Equal(t, "full 5 Dice", best.Method+" "+best.Shots+" "+best.Metric)
	mean := fmt.Sprintf("full has the best mean Dice (%.3f)", best.Mean)
	found := strings.Join(e.findings(), "\n")
	require.Contains(t, found, "hospital, unet, 5 shots: "+mean+"; worse: head, bias.")
	require.Contains(t, found, "hospital, unet, all shots: full has the best mean Dice")
	require.Contains(t, encoded(t, e), "trained on one draw: intervals are for new seeds")
	for i := range e.Table.Pairs {
		if p := &e.Table.Pairs[i]; p.A == "bias" && p.B == "full" {
			p.PHolm = 0.05
		}
	}
	require.Contains(t, strings.Join(e.findings(), "\n"), mean+"; worse: head; not shown to differ: bias.")

	e = study(t, []string{"head", "bias", "full"}, []string{"5"}, 20, table.Settings{Reference: "bias"})
	require.Regexp(t, `5 shots: beside bias \(Dice 0\.\d{3}\); better: full; worse: head\.`, strings.Join(e.findings(), "\n"))

	// less is better
	e = study(t, []string{"head", "bias", "full"}, []string{"5"}, 20, table.Settings{Reference: "bias", Primary: "HD95"})
	require.Regexp(t, `5 shots: beside bias \(HD95 20\.\d\d\); better: full; worse: head\.`, strings.Join(e.findings(), "\n"))

	// Nothing is tested with one run of each
	e = analysed(t, "method,shots,draw,seed,case,HD95\na,5,0,0,p,3\na,5,0,0,q,3\nb,5,0,0,p,4\nb,5,0,0,q,4.5\n", table.Settings{})
	require.NotContains(t, encoded(t, e), "allow to conclude")
}

// The method's text has the numbers of the study, and does not claim what was not done.
func TestTheMethodIsThatOfTheStudy(t *testing.T) {
	e := study(t, []string{"head", "full"}, []string{"1", "5", "all"}, 20, table.Settings{})
	text := strings.Join(Method(e.Table, "1.2.3"), "\n")
	for _, part := range []string{
		"trained on 1 and 5 training cases (3 draws of these) and all training cases, each time with 2 seeds",
		"the same test patients (20 patients)", "Dice is the primary metric; HD95 was analysed", "95 % confidence intervals",
		"Where there was one draw only, its seeds took the place of draws", "3 tests were made of Dice",
		"50 resamples, seed 0", "a tie where the difference is at most 0.005 in Dice", "What 5 more cases", "lntorch 1.2.3",
		"all pairs of methods",
	} {
		require.Contains(t, text, part)
	}
	e = study(t, []string{"head", "full"}, []string{"5"}, 20, table.Settings{Reference: "full"})
	text = strings.Join(Method(e.Table, ""), "\n")
	require.Contains(t, text, "the comparisons with full")
	for _, part := range []string{"one draw only", "more cases would bring", "and all training cases", "neighbouring"} {
		require.NotContains(t, text, part)
	}
	require.Contains(t, text, "and over all pairs of networks within a method")

	// What the others are compared with: a network, of networks alone; the network as it is.
	of := func(reference string) (method, found string) {
		scores := "network,method,shots,draw,seed,case,Dice\n"
		for _, network := range []string{"u", "v"} {
			for p := range 6 {
				scores += fmt.Sprintf("%s,none,0,0,0,p%d,0.20%d\n", network, p, p%4)
				for i := range 4 {
					scores += fmt.Sprintf("%s,%s,5,%d,0,p%d,0.%d0%d\n", network, []string{"full", "lora"}[i/2], i%2, p, 4+i/2, (p+i)%3)
				}
			}
		}
		e := analysed(t, scores, table.Settings{Reference: reference})
		return strings.Join(Method(e.Table, ""), "\n"), strings.Join(e.findings(), "\n")
	}
	method, found := of("u")
	require.Contains(t, method, "over all pairs of methods [7] of one dataset")
	require.Contains(t, method, "and over the comparisons of networks with u within a method; not")
	require.NotContains(t, method, "stands for each draw")
	require.Contains(t, found, "u, 5 shots: lora has the best mean Dice (0.501); worse: full.")
	method, found = of("none")
	require.Contains(t, method, "over the comparisons with none [7] of one dataset")
	require.Contains(t, method, "none is one run, of the network as it is, which stands for each draw and seed.")
	require.Contains(t, found, "u, 5 shots: beside none (Dice 0.201); better: full, lora.")

	// each reference is cited, and no other
	cited := map[string]bool{}
	for _, m := range regexp.MustCompile(`\[([0-9–, ]+)\]`).FindAllStringSubmatch(text+"[1, 2, 3, 4]", -1) {
		for _, n := range strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' || r == '–' }) {
			cited[n] = true
		}
	}
	require.Len(t, cited, len(references))
	whole := strings.Join(references, "\n")
	for number, who := range map[int]string{5: "Bouthillier", 6: "Holm", 7: "Benavoli", 8: "Wilcoxon", 9: "Wiesenfarth", 10: "Maier-Hein",
		11: "Christodoulou", 12: "El Jurdi", 13: "André", 14: "André", 15: "Maier-Hein"} {
		require.True(t, strings.HasPrefix(references[number-1], who), "[%d] is that of %s", number, who)
	}
	for _, title := range []string{"Confidence intervals uncovered", "in 3D medical image segmentation", "coverage issues", "investigation of " +
		"confidence intervals"} {
		require.Contains(t, whole, title)
	}
}

// Names from outside stay text, on the page and in its data.
func TestNamesStayText(t *testing.T) {
	const evil = `</script><b onclick=x>`
	e := study(t, []string{evil, "full"}, []string{"5"}, 4, table.Settings{})
	e.Name = evil
	text := encoded(t, e)
	require.NotContains(t, text, "<b onclick")
	require.Equal(t, 2, strings.Count(text, "</script>"))
	var v struct{ Cells []struct{ Method string } }
	require.NoError(t, json.Unmarshal([]byte(data.FindStringSubmatch(text)[1]), &v))
	require.Equal(t, evil, v.Cells[0].Method)
}

// A page of a large grid can still be sent: it leaves out what table.json has, and says so.
func TestLargeGridsFit(t *testing.T) {
	var methods []string
	for i := range 90 {
		methods = append(methods, fmt.Sprint("a method of the large grid ", i))
	}
	e := study(t, methods, []string{"1", "5"}, 3, table.Settings{})
	require.Greater(t, len(e.Table.Pairs), 15000)
	text := encoded(t, e)
	require.Less(t, len(text), 15_000_000)
	require.Contains(t, text, "The data in this page have the comparisons of the primary metric alone; table.json has all.")
	require.Contains(t, text, "The first 2000 of 8010 pairs; table.json has all.")
	var v struct{ Pairs []struct{ Exploratory bool } }
	require.NoError(t, json.Unmarshal([]byte(data.FindStringSubmatch(text)[1]), &v))
	require.Len(t, v.Pairs, 8010)
	require.Len(t, e.Table.Pairs, 2*8010, "the table itself is whole")
}

func TestReportInABrowser(t *testing.T) {
	p := browsertest.New(t)
	path := filepath.Join(t.TempDir(), "report.html")
	methods := []string{"full", "head", "bias", "norm", "lora", "dgst-dynamic", "dgst-static", "dgst-random", "scratch"}
	e := study(t, methods, []string{"1", "5", "all"}, 12, table.Settings{})
	seconds := 90.0
	e.Runs = []figures.Run{{Key: "0123456789abcdef", Dataset: "hospital", Network: "unet", Method: "full", Shots: "1",
		Draw: "0", Seed: "0", Seconds: &seconds}}
	require.NoError(t, e.Write(path))
	p.Show(1280, 1000, false)
	p.Open(path)
	require.Empty(t, p.Console())
	for i, r := range p.Requests() {
		require.True(t, i == 0 || strings.HasPrefix(r, "data:"), r)
	}
	for _, id := range []string{"summary", "table", "pairs", "shots", "runs", "pictures", "method"} {
		var there bool
		p.Eval(`document.querySelector('section#`+id+`').getBoundingClientRect().height > 40`, &there)
		require.True(t, there, id)
	}
	var primary string
	p.Eval(`JSON.parse(document.getElementById('report-data').textContent).primary`, &primary)
	require.Equal(t, "Dice", primary)

	// Drawings are drawn, as wide as they say, and have words for who cannot see them.
	var images []struct {
		Width, Height, Shown float64
		Alt                  string
	}
	p.Eval(`[...document.querySelectorAll('figure img')].map(i => ({Width: i.naturalWidth, Height: i.naturalHeight,
		Shown: i.getBoundingClientRect().width, Alt: i.alt}))`, &images)
	require.Len(t, images, len(e.Figures))
	for i, im := range images {
		w, h := e.Figures[i].Size()
		require.InDelta(t, w/h, im.Width/im.Height, 0.01)
		require.Greater(t, im.Shown, 600.0)
		require.Equal(t, e.Figures[i].Alt, im.Alt)
	}

	// The table sorts by a number, and copies what it shows.
	column := func(i int) (cells []string) {
		p.Eval(fmt.Sprintf(`[...document.querySelectorAll('#methods-1 tbody tr')].filter(r => !r.hidden).map(r =>
			r.cells[%d].textContent)`, i), &cells)
		return cells
	}
	p.Eval(`document.querySelectorAll('#methods-1 thead th button')[2].click()`, nil)
	require.IsNonDecreasing(t, column(2))
	var copied string
	p.Eval(`(async () => {
		let copied = null;
		navigator.clipboard.writeText = async text => { copied = text; };
		const s = document.querySelector('#methods-1 select');
		s.value = 'the whole pool';
		s.dispatchEvent(new Event('change'));
		document.querySelector('#methods-1 .copy').click();
		await new Promise(done => setTimeout(done, 100));
		return copied;})()`, &copied)
	lines := strings.Split(strings.TrimSpace(copied), "\r\n")
	require.Len(t, lines, 10)
	require.Equal(t, "Method,Shots,Dice,95\u00a0% interval,SD patients,SD draws,SD seeds,p,W/T/L,n", lines[0])
	for _, line := range lines[1:] {
		require.Regexp(t, `^[a-z-]+,all,0\.\d{6,},`, line, "all digits of the whole pool's means")
	}
	var run string
	p.Eval(`[...document.querySelectorAll('#all-runs tbody tr')].find(r => r.textContent.includes('0123456789abcdef')).textContent`, &run)
	require.Contains(t, run, "full")
	require.Contains(t, run, "1.5", "minutes")

	for _, dark := range []bool{false, true} {
		for _, width := range []int{1280, 390} {
			p.Show(width, 1000, dark)
			p.Open(path)
			require.Empty(t, p.Console())
			var wide int
			p.Eval(`document.documentElement.scrollWidth`, &wide)
			require.LessOrEqual(t, wide, width, "the page itself does not scroll sideways")
		}
	}
	require.Regexp(t, `/MediaBox \[0 0 59[45][^ ]* 84[12]`, string(p.PDF()))
}

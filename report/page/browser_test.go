package page

import (
	"bytes"
	"image/png"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/browsertest"
)

// loads opens a page from a file and requires that it asks for nothing and says nothing.
func loads(t *testing.T, p *browsertest.Page, path string) {
	t.Helper()
	p.Open(path)
	var state string
	p.Eval("document.readyState", &state)
	require.Equal(t, "complete", state)
	require.Empty(t, p.Console())
	requests := p.Requests()
	require.NotEmpty(t, requests)
	require.Equal(t, "file://"+path, requests[0])
	for _, r := range requests[1:] {
		require.True(t, strings.HasPrefix(r, "data:"), r)
	}
}

// column is the texts of a column of a table, of the rows that are shown.
func column(p *browsertest.Page, table string, i int) []string {
	var cells []string
	p.Eval(`[...document.querySelectorAll('#`+table+` tbody tr')].filter(r => !r.hidden).map(r => r.cells[`+
		strconv.Itoa(i)+`].textContent.trim())`, &cells)
	return cells
}

func numbers(t *testing.T, texts []string) []float64 {
	t.Helper()
	var list []float64
	for _, s := range texts {
		v, err := strconv.ParseFloat(strings.Replace(s, "−", "-", 1), 64)
		require.NoError(t, err)
		list = append(list, v)
	}
	return list
}

// headed is the number of the column with this head.
func headed(t *testing.T, p *browsertest.Page, table, name string) int {
	t.Helper()
	var names []string
	p.Eval(`[...document.querySelectorAll('#`+table+` thead tr:last-child th')].map(h => h.textContent.trim())`,
		&names)
	i := slices.Index(names, name)
	require.GreaterOrEqual(t, i, 0, "%s in %v", name, names)
	return i
}

func TestReportInABrowser(t *testing.T) {
	p := browsertest.New(t)
	folder := t.TempDir()
	path := filepath.Join(folder, "report.html")
	a := sample(t)
	require.NoError(t, a.Write(path))
	p.Show(1200, 1000, false)
	loads(t, p, path)
	for _, id := range []string{"summary", "cases", "curves", "nodes", "pictures", "run"} {
		var there bool
		p.Eval(`document.querySelector('section#`+id+`').getBoundingClientRect().height > 40`, &there)
		require.True(t, there, id)
	}
	var keys []string
	p.Eval(`Object.keys(JSON.parse(document.getElementById('report-data').textContent))`, &keys)
	require.Subset(t, keys, []string{"before", "after", "loss", "pseudo_dice", "cases", "run"})

	t.Run("sorts", func(t *testing.T) {
		short := headed(t, p, "reference-nodes", "Short axis (mm)")
		click := func(i int) (state string) {
			p.Eval(`(() => {const h = document.querySelectorAll('#reference-nodes thead tr:last-child th')[`+
				strconv.Itoa(i)+`]; h.querySelector('button').click(); return h.getAttribute('aria-sort')})()`, &state)
			return state
		}
		require.Equal(t, "ascending", click(short))
		up := numbers(t, column(p, "reference-nodes", short))
		require.IsNonDecreasing(t, up)
		require.Len(t, up, 23)
		require.Equal(t, "descending", click(short))
		require.IsNonIncreasing(t, numbers(t, column(p, "reference-nodes", short)))
		// Undefined values are last either way.
		iou := headed(t, p, "reference-nodes", "IoU after")
		for range 2 {
			click(iou)
			cells := column(p, "reference-nodes", iou)
			require.Equal(t, []string{dash, dash, dash}, cells[len(cells)-3:])
			require.NotContains(t, cells[:len(cells)-3], dash)
		}
		var sorted []string
		p.Eval(`[...document.querySelectorAll('#reference-nodes [aria-sort]')].map(h => h.getAttribute('aria-sort'))`+
			`.filter(s => s !== 'none')`, &sorted)
		require.Equal(t, []string{"descending"}, sorted)
	})

	t.Run("filters", func(t *testing.T) {
		choose := func(class, words string) []string {
			p.Eval(`(() => {const box = document.getElementById('reference-nodes');
				const s = box.querySelector('select'); s.value = `+strconv.Quote(class)+`;
				s.dispatchEvent(new Event('change'));
				const f = box.querySelector('input'); f.value = `+strconv.Quote(words)+`;
				f.dispatchEvent(new Event('input'));})()`, nil)
			return column(p, "reference-nodes", 0)
		}
		by := a.After.Aggregate["1"].Detection["iou:0.3"].BySize
		for _, class := range []string{"<5", "5-10", ">=10"} {
			require.Len(t, choose(class, ""), by[class].TP+by[class].FN, class)
		}
		require.Equal(t, []string{"LN_005"}, choose(">=10", "ln_005 missed same"))
		var shown string
		p.Eval(`document.querySelector('#reference-nodes .shown').textContent`, &shown)
		require.Equal(t, "1 of 23 rows", shown)

		// What is copied is what is shown, with the digits that the page has.
		var text string
		p.Eval(`(async () => {
			let copied = null;
			navigator.clipboard.writeText = async text => { copied = text; };
			document.querySelector('#reference-nodes .copy').click();
			await new Promise(done => setTimeout(done, 100));
			return copied;})()`, &text)
		lines := strings.Split(strings.TrimSpace(text), "\r\n")
		require.Len(t, lines, 2)
		require.Equal(t, `Case,Node,Short axis (mm),Long axis (mm),Volume (mm³),Slice,"Centre (mm, LPS)",`+
			`Found before,Found after,Adaptation,IoU after,Dice after`, lines[0])
		require.Regexp(t, `^LN_005,3,15\.16\d+,17\.47\d+,2211\.84,5,"66\.8, .*",missed,missed,same,,$`, lines[1])
		require.Len(t, choose("", ""), 23)
	})

	t.Run("enlarges, by keyboard", func(t *testing.T) {
		p.Eval(`document.querySelector('.picture').focus()`, nil)
		p.Key("Enter")
		state := func() (s struct {
			Open             bool
			Alt, Text, Focus string
			Width, Natural   int
		}) {
			p.Eval(`(() => {const d = document.querySelector('dialog'), i = d.querySelector('img');
				return {Open: d.open, Alt: i.alt, Text: d.querySelector('p').textContent, Width: i.width,
				Natural: i.naturalWidth, Focus: document.activeElement.className}})()`, &s)
			return s
		}
		s := state()
		require.True(t, s.Open)
		require.Equal(t, worst(a.Pictures)[0].Alt, s.Alt)
		require.Contains(t, s.Text, "LN_005, slice 5 of 40")
		require.Equal(t, 1212, s.Natural)
		p.Key("ArrowRight")
		require.Contains(t, state().Text, "LN_004")
		p.Key("Escape")
		s = state()
		require.False(t, s.Open)
		require.Equal(t, "picture", s.Focus)
	})

	t.Run("is reached by keyboard", func(t *testing.T) {
		p.Open(path)
		seen := map[string]bool{}
		for range 150 {
			p.Key("Tab")
			var at string
			p.Eval(`(() => {const e = document.activeElement;
				return e === document.body ? '' : e.localName + ' ' + (e.closest('[id]')?.id ?? '')})()`, &at)
			if at == "" {
				break
			}
			seen[at] = true
		}
		for _, want := range []string{"a ", "button scores-1", "select reference-nodes",
			"input reference-nodes", "button reference-nodes", "div reference-nodes", "button invented-nodes",
			"summary loss", "button pictures", "button run-record"} {
			require.Contains(t, seen, want)
		}
		p.Eval(`document.querySelector('#scores-1 thead tr:last-child th:nth-child(3) button').focus()`, nil)
		p.Key("Enter")
		require.IsNonDecreasing(t, numbers(t, column(p, "scores-1", 2)))
	})

	t.Run("has names for who cannot see", func(t *testing.T) {
		var nameless []string
		p.Eval(`[...document.querySelectorAll('img, svg, button, select, input, table, section, [role=region]')]
			.filter(e => !e.closest('dialog') && !e.closest('[aria-hidden]')).filter(e => !(e.alt ||
			e.getAttribute('aria-label') || e.labels?.length && e.labels[0].textContent ||
			e.caption?.textContent || e.localName === 'button' && e.textContent.trim() ||
			document.getElementById(e.getAttribute('aria-labelledby'))?.textContent))
			.map(e => e.outerHTML.slice(0, 100))`, &nameless)
		require.Empty(t, nameless)
		var twice []string
		p.Eval(`[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)`,
			&twice)
		require.Empty(t, twice)
	})

	t.Run("fits screens and paper", func(t *testing.T) {
		colours := map[bool]float64{}
		for _, dark := range []bool{false, true} {
			for _, width := range []int{1200, 390} {
				p.Show(width, 1200, dark)
				loads(t, p, path)
				var wide int
				p.Eval(`document.documentElement.scrollWidth`, &wide)
				require.LessOrEqual(t, wide, width, "the page itself does not scroll sideways")
				colours[dark] = brightness(t, p.Screenshot())
			}
		}
		require.Greater(t, colours[false], 0.8)
		require.Less(t, colours[true], 0.25)
		pdf := p.PDF()
		require.Regexp(t, regexp.MustCompile(`/MediaBox \[0 0 59[45][^ ]* 84[12]`), string(pdf))
	})
}

// brightness is the mean of a picture from 0 to 1, which must not be blank.
func brightness(t *testing.T, content []byte) float64 {
	t.Helper()
	im, err := png.Decode(bytes.NewReader(content))
	require.NoError(t, err)
	sum, n := 0.0, 0
	seen := map[[3]uint32]bool{}
	for y := im.Bounds().Min.Y; y < im.Bounds().Max.Y; y++ {
		for x := im.Bounds().Min.X; x < im.Bounds().Max.X; x++ {
			r, g, b, _ := im.At(x, y).RGBA()
			seen[[3]uint32{r, g, b}] = true
			sum += float64(r+g+b) / 3 / 0xffff
			n++
		}
	}
	require.Greater(t, len(seen), 100, "the page is blank")
	return sum / float64(n)
}

// Markup in names does nothing in a browser, nor a formula in a spreadsheet.
func TestTextFromOutsideDoesNothingInABrowser(t *testing.T) {
	p := browsertest.New(t)
	path := filepath.Join(t.TempDir(), "report.html")
	a := evilReport(t)
	a.Cases = []map[string]any{{"case": "=1+1", "role": "@x", "label": `say "a", b`}}
	require.NoError(t, a.Write(path))
	loads(t, p, path)
	var found struct {
		Scripts int
		Title   string
		Run     map[string]any
	}
	p.Eval(`({Scripts: document.scripts.length, Title: document.querySelector('h1').textContent,
		Run: JSON.parse(document.getElementById('report-data').textContent).run})`, &found)
	require.Equal(t, 2, found.Scripts)
	require.Equal(t, evil, found.Title)
	require.Equal(t, evil, found.Run[evil])
	var text string
	p.Eval(`(async () => {
		let copied = null;
		navigator.clipboard.writeText = async text => { copied = text; };
		document.querySelector('#all-cases .copy').click();
		await new Promise(done => setTimeout(done, 100));
		return copied;})()`, &text)
	require.Contains(t, text, "\r\n'=1+1,'@x,")
	require.Contains(t, text, `,"say ""a"", b"`)

	// The page's policy stops what escaping would let through.
	p.Eval(`document.body.insertAdjacentHTML('beforeend', '<img src="data:," onerror="window.done = 1">');
		new Promise(done => setTimeout(done, 200))`, nil)
	var done bool
	p.Eval(`window.done === 1`, &done)
	require.False(t, done)
	require.Contains(t, strings.Join(p.Console(), "\n"), "Content Security Policy")
}

func TestScoresPageInABrowser(t *testing.T) {
	p := browsertest.New(t)
	path := filepath.Join(t.TempDir(), "scores.html")
	require.NoError(t, Scores(path, sample(t).After, "labelsTs, predictions"))
	p.Show(1200, 1000, false)
	loads(t, p, path)
	require.Greater(t, brightness(t, p.Screenshot()), 0.8)
	dice := headed(t, p, "scores-1", "Dice")
	p.Eval(`document.querySelectorAll('#scores-1 thead tr:last-child th button')[`+strconv.Itoa(dice)+`].click()`, nil)
	require.IsNonDecreasing(t, numbers(t, column(p, "scores-1", dice)))
}

package table

import (
	"context"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/experiment/stats"
	"github.com/lntorch/lntorch/internal/brief"
)

// Settings say what is compared, and how.
type Settings struct {
	Primary   string             // metric; the others are exploratory
	Reference string             // method or network that the others are compared with; "": all pairs
	Alpha     float64            // intervals hold with 1-Alpha
	Resamples int                // of the bootstrap
	Seed      uint32             // of the bootstrap
	Tie       map[string]float64 // by metric: a patient's difference up to it is a tie; default 0
	Lower     []string           // metrics of which less is better
}

// LowerIsBetter are the metrics of scores.json of which less is better.
var LowerIsBetter = []string{"HD95", "HD", "ASSD", "ASD_ref_to_pred", "ASD_pred_to_ref", "fp"}

// An Interval is null in JSON where it is not known.
type Interval *[2]float64

// Table is table.json. Numbers that are not defined are NaN, null in JSON.
type Table struct {
	Version   int     `json:"version"`
	Primary   string  `json:"primary"`
	Alpha     float64 `json:"alpha"`
	Resamples int     `json:"resamples"`
	Seed      uint32  `json:"seed"`
	// Reference is the method or network that the others are compared with, "" for all pairs.
	Reference string   `json:"reference"`
	Metrics   []string `json:"metrics"`
	Lower     []string `json:"lower_is_better"`
	// Tie is the difference, by metric, up to which a patient counts as a tie; 0 for the others.
	Tie map[string]float64 `json:"tie"`

	Cells []Cell `json:"cells"`
	Pairs []Pair `json:"pairs"`
	Gains []Gain `json:"gains"`
	Next  []Next `json:"next"`

	// Tests counts the crossed tests between methods and between networks, by metric.
	Tests    map[string]int `json:"tests"`
	Warnings []string       `json:"warnings"`

	about   []string // warnings on how the scores came about, which stand below each table
	inOrder []string // methods, in the order of the scores
}

// Methods lists the methods in the order of the scores, or of Scores.Sort.
func (t *Table) Methods() []string { return t.inOrder }

// Warn adds warnings on how the scores came about, such as a leak: they stand below each table, too.
func (t *Table) Warn(list []string) {
	t.about = append(t.about, list...)
	t.Warnings = append(slices.Clone(list), t.Warnings...)
}

// Cell has the scores of one method.
type Cell struct {
	Dataset    string   `json:"dataset"`
	Network    string   `json:"network"`
	Method     string   `json:"method"`
	Shots      string   `json:"shots"`
	Label      string   `json:"label"`
	Metric     string   `json:"metric"`
	Patients   int      `json:"n_patients"`
	Draws      int      `json:"n_draws"`
	Seeds      int      `json:"n_seeds"`
	Mean       float64  `json:"mean"`
	SDPatients float64  `json:"sd_patients"` // of their means over draws and seeds
	SDDraws    float64  `json:"sd_draws"`    // of their means over patients and seeds
	SDSeeds    float64  `json:"sd_seeds"`    // root mean over draws of the variance of runs' means
	CI         Interval `json:"ci"`          // of the crossed analysis
	DF         float64  `json:"df"`
	CIPatients Interval `json:"ci_patients"` // of the bootstrap over patients
	Median     float64  `json:"median"`      // of patients' means
	IQR        float64  `json:"iqr"`         // third quartile less first, of patients' means

	// of the trainings; null for scores alone
	TrainedParameters *int64   `json:"trained_parameters"`
	Seconds           *float64 `json:"seconds"`
	PeakBytes         *int64   `json:"peak_bytes"`

	LeftOut    []string `json:"left_out"`   // patients without a score in some run
	Incomplete bool     `json:"incomplete"` // draws with a missing run, which do not count
}

// Test is Wilcoxon's.
type Test struct {
	Statistic float64 `json:"statistic"`
	P         float64 `json:"p"`
	PHolm     float64 `json:"p_holm"`
}

// Pair compares two methods, or two networks: the difference a-b, paired by patient, draw and seed.
type Pair struct {
	By         string   `json:"by"`     // method or network
	Within     string   `json:"within"` // the network or method that both share
	Dataset    string   `json:"dataset"`
	Shots      string   `json:"shots"`
	Label      string   `json:"label"`
	Metric     string   `json:"metric"`
	A          string   `json:"a"`
	B          string   `json:"b"`
	N          int      `json:"n"` // patients
	Draws      int      `json:"n_draws"`
	Seeds      int      `json:"n_seeds"`
	Difference float64  `json:"difference"`
	CI         Interval `json:"ci"`
	T          float64  `json:"t"`
	DF         float64  `json:"df"`
	P          float64  `json:"p"`
	PHolm      float64  `json:"p_holm"`
	// Factor is what stands for trainings: draw; seed, with one draw; null with one run.
	Factor      *string  `json:"factor"`
	Wilcoxon    Test     `json:"wilcoxon"`
	CIPatients  Interval `json:"ci_patients"`
	Win         int      `json:"win"` // patients with a better by more than a tie
	Tie         int      `json:"tie"`
	Loss        int      `json:"loss"`
	LeftOut     []string `json:"left_out"` // patients without a score in some run of the two
	Incomplete  bool     `json:"incomplete"`
	Exploratory bool     `json:"exploratory"` // not the primary metric
}

// Gain is the difference that more shots make: within a draw, whose shots are nested. From 0 shots it is that to
// the network as it is.
type Gain struct {
	Dataset    string   `json:"dataset"`
	Network    string   `json:"network"`
	Method     string   `json:"method"`
	Label      string   `json:"label"`
	Metric     string   `json:"metric"`
	From       string   `json:"from"` // shots
	To         string   `json:"to"`
	Difference float64  `json:"difference"`
	CI         Interval `json:"ci"`
	DF         float64  `json:"df"`
	P          float64  `json:"p"` // not adjusted
	N          int      `json:"n"`
	Draws      int      `json:"n_draws"`
	Seeds      int      `json:"n_seeds"`
	Factor     *string  `json:"factor"`
}

// Next extrapolates the slope over log2(shots) to five more cases.
type Next struct {
	Dataset      string   `json:"dataset"`
	Network      string   `json:"network"`
	Method       string   `json:"method"`
	Label        string   `json:"label"`
	Metric       string   `json:"metric"`
	Slope        float64  `json:"slope"` // for a doubling
	CI           Interval `json:"ci"`    // of the slope
	DF           float64  `json:"df"`
	From         string   `json:"from"` // the largest number of shots, K
	More         int      `json:"more"`
	Difference   float64  `json:"difference"` // slope · log2((K+More)/K)
	CIDifference Interval `json:"ci_difference"`
	N            int      `json:"n"`
	Draws        int      `json:"n_draws"`
	Seeds        int      `json:"n_seeds"`
	Factor       *string  `json:"factor"`
}

// more is the number of cases that Next looks ahead.
const more = 5

// maxResults is the largest number of cells or of pairs, metrics counted.
const maxResults = 200_000

// Check finds what is wrong with the settings for these scores.
func (s *Settings) Check(scores *Scores) error {
	if !slices.Contains(scores.Metrics, s.Primary) {
		if s.Primary == "" {
			return fmt.Errorf("the primary metric is not named: expected one of %s",
				listed(scores.Metrics))
		}
		return unknown("primary metric", s.Primary, scores.Metrics)
	}
	if s.Reference != "" {
		have := slices.Concat(scores.names["method"], scores.names["network"])
		if !slices.Contains(have, s.Reference) {
			return unknown("method or network for a reference", s.Reference, have)
		}
	}
	for metric, v := range s.Tie {
		if !(v >= 0) || math.IsInf(v, 0) {
			return fmt.Errorf("tie of %s: found %g, expected a number from 0 on", metric, v)
		}
	}
	if !(s.Alpha > 0 && s.Alpha < 1) {
		return fmt.Errorf("alpha: found %g, expected a number between 0 and 1", s.Alpha)
	}
	if s.Resamples < 1 {
		return fmt.Errorf("resamples: found %d, expected 1 or more", s.Resamples)
	}
	return nil
}

// Make analyses scores. The analysis is that of package stats: Crossed for the question of new
// patients and newly drawn shots, and beside it Wilcoxon and the bootstrap for new patients of
// these trained models.
func Make(ctx context.Context, scores *Scores, s Settings) (*Table, error) {
	if err := s.Check(scores); err != nil {
		return nil, err
	}
	m := &maker{scores: scores, settings: s, bootstrap: stats.NewBootstrap(s.Seed, s.Resamples),
		draws: map[*cell][]string{},
		table: &Table{Version: 1, Primary: s.Primary, Alpha: s.Alpha, Resamples: s.Resamples,
			Seed: s.Seed, Reference: s.Reference, Metrics: scores.Metrics, Lower: []string{}, Tie: map[string]float64{},
			inOrder: slices.Clone(scores.names["method"]),
			Gains:   []Gain{}, Next: []Next{}, Tests: map[string]int{}, Warnings: []string{}}}
	for _, metric := range scores.Metrics {
		if slices.Contains(s.Lower, metric) {
			m.table.Lower = append(m.table.Lower, metric)
		}
	}
	for metric, v := range s.Tie {
		if slices.Contains(scores.Metrics, metric) {
			m.table.Tie[metric] = v
		}
	}
	m.same = scores.draws()
	families := m.families()
	pairs, cells := 0, 0
	for _, f := range families {
		pairs += m.countPairs(f)
	}
	for _, g := range scores.groups {
		cells += len(g.cells)
	}
	if n := len(scores.Metrics); pairs*n > maxResults || cells*n > maxResults {
		return nil, fmt.Errorf("found %d comparisons and %d methods at all shots, each of %d metrics: "+
			"expected %d at most; compare with one method (--reference), or name fewer metrics (--metrics)",
			pairs, cells, n, maxResults)
	}
	for _, f := range families {
		m.pair(f)
	}
	m.table.Cells = make([]Cell, cells*len(scores.Metrics))
	m.table.Pairs = make([]Pair, pairs*len(scores.Metrics))
	var work []func()
	at := 0
	for _, g := range scores.groups {
		for _, c := range g.cells {
			for k := range scores.Metrics {
				out := &m.table.Cells[at]
				at++
				work = append(work, func() { m.cell(out, g, c, k) })
			}
		}
	}
	at = 0
	for _, f := range families {
		for k := range scores.Metrics {
			out := m.table.Pairs[at : at+len(f.pairs)]
			at += len(f.pairs)
			work = append(work, func() { m.family(out, f, k) })
		}
	}
	if err := parallel(ctx, work); err != nil {
		return nil, err
	}
	for _, g := range scores.groups {
		for k := range scores.Metrics {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			m.shots(g, k)
		}
	}
	for i := range m.table.Pairs {
		if p := &m.table.Pairs[i]; !math.IsNaN(p.P) {
			m.table.Tests[p.Metric]++
		}
	}
	m.warn(families)
	return m.table, nil
}

// parallel does all of work, on all cores.
func parallel(ctx context.Context, work []func()) error {
	var wg sync.WaitGroup
	next := make(chan func())
	for range min(runtime.GOMAXPROCS(0), len(work)) {
		wg.Go(func() {
			for f := range next {
				f()
			}
		})
	}
	for _, f := range work {
		if ctx.Err() != nil {
			break
		}
		next <- f
	}
	close(next)
	wg.Wait()
	return ctx.Err()
}

type maker struct {
	scores    *Scores
	settings  Settings
	bootstrap *stats.Bootstrap
	table     *Table
	draws     map[*cell][]string // that some method has at the cell's network and shots, the same cases once
	same      []string           // notes on draws of the same cases
}

// family is the comparisons whose p values are adjusted together.
type family struct {
	group  *group
	by     string
	within string
	cells  []*cell
	pairs  [][2]*cell
	draws  []string // of any of the cells, the same cases once

	// reference is what the others are compared with: one of the cells, or the network as it is, which is at 0
	// shots; nil if there is none.
	reference *cell
}

// families lists the methods of each network and shots, then the networks of each method and shots.
func (m *maker) families() []*family {
	var list []*family
	for _, g := range m.scores.groups {
		for _, by := range []string{"method", "network"} {
			type place struct{ within, shots string }
			found := map[place]*family{}
			for _, c := range g.cells {
				p := place{c.network, c.shots}
				if by == "network" {
					p.within = c.method
				}
				f := found[p]
				if f == nil {
					f = &family{group: g, by: by, within: p.within}
					found[p] = f
					list = append(list, f)
				}
				f.cells = append(f.cells, c)
				for _, d := range c.draws {
					f.draws = append(f.draws, c.first(d))
				}
			}
		}
	}
	for _, f := range list {
		f.draws = different(f.draws)
		f.reference = m.reference(f)
		if f.by == "method" {
			for _, c := range f.cells {
				m.draws[c] = f.draws
			}
		}
	}
	return list
}

// reference is the family's.
func (m *maker) reference(f *family) *cell {
	if m.settings.Reference == "" {
		return nil
	}
	for _, c := range f.cells {
		if f.name(c) == m.settings.Reference {
			return c
		}
	}
	if f.by == "method" {
		return f.group.untrained(f.within, m.settings.Reference)
	}
	return nil
}

func (m *maker) countPairs(f *family) int {
	n := len(f.cells)
	switch {
	case f.reference == nil && m.isReference(f.by):
		return 0
	case f.reference == nil:
		return n * (n - 1) / 2
	case slices.Contains(f.cells, f.reference):
		return n - 1
	}
	return n
}

// pair lists the pairs of a family: all, or each cell with the reference, if it is there.
func (m *maker) pair(f *family) {
	inside := slices.Contains(f.cells, f.reference)
	for i, c := range f.cells {
		switch {
		case f.reference == nil && m.isReference(f.by), c == f.reference:
		case f.reference == nil:
			for _, other := range f.cells[i+1:] {
				f.pairs = append(f.pairs, [2]*cell{c, other})
			}
		case inside:
			f.pairs = append(f.pairs, [2]*cell{c, f.reference})
		default:
			f.pairs = append(f.pairs, [2]*cell{c, f.reference.inPlaceOf(c)})
		}
	}
}

// isReference reports whether the reference is a method, or a network.
func (m *maker) isReference(by string) bool {
	return m.settings.Reference != "" && slices.Contains(m.scores.names[by], m.settings.Reference)
}

func (f *family) shots() string { return f.cells[0].shots }

func (f *family) name(c *cell) string {
	if f.by == "network" {
		return c.network
	}
	return c.method
}

// joint is what several cells have in common: the patients with scores in all runs, the draws of
// which all runs are there. Of draws with the same training cases in some cell one counts.
type joint struct {
	x        [][][]float64 // by cell: patients × trainings, a draw's mean over its seeds, or seeds
	runs     [][]float64   // of the first cell: by draw, means of its seeds
	draws    []string
	seeds    int
	factor   *string
	patients int
	leftOut  []string
	scale    float64 // the largest score
}

var factors = struct{ draw, seed string }{"draw", "seed"}

// join finds what cells have in common in one metric.
func join(g *group, metric int, cells ...*cell) *joint {
	j := &joint{leftOut: []string{}}
	var seeds []string
	for _, c := range cells {
		seeds = append(seeds, c.seeds...)
	}
	seeds = different(seeds)
	j.seeds = len(seeds)
	type cases struct {
		cell  int
		first string
	}
	counted := map[cases]bool{}
	for _, d := range cells[0].draws {
		missing := func(c *cell) bool {
			return slices.ContainsFunc(seeds, func(s string) bool { return c.runs[runID{d, s}] == nil })
		}
		again := false
		for i, c := range cells {
			again = again || counted[cases{i, c.first(d)}]
		}
		if again || slices.ContainsFunc(cells, missing) {
			continue
		}
		j.draws = append(j.draws, d)
		for i, c := range cells {
			counted[cases{i, c.first(d)}] = true
		}
	}
	if len(j.draws) == 0 {
		j.seeds = 0
		return j
	}
	scores := make([][][][]float64, len(cells)) // by draw, seed: those of patients
	for i, c := range cells {
		for _, d := range j.draws {
			var of [][]float64
			for _, s := range seeds {
				of = append(of, c.runs[runID{d, s}].scores[metric])
			}
			scores[i] = append(scores[i], of)
		}
	}
	var kept []int
	for p := range g.patients {
		whole := true
		for i := range cells {
			for _, of := range scores[i] {
				for _, run := range of {
					whole = whole && !math.IsNaN(run[p])
					if a := math.Abs(run[p]); a > j.scale {
						j.scale = a
					}
				}
			}
		}
		if whole {
			kept = append(kept, p)
		} else {
			j.leftOut = append(j.leftOut, g.patients[p])
		}
	}
	j.patients = len(kept)
	switch {
	case len(j.draws) > 1:
		j.factor = &factors.draw
	case j.seeds > 1:
		j.factor = &factors.seed
	}
	for i := range cells {
		x := make([][]float64, len(kept))
		for r, p := range kept {
			if len(j.draws) == 1 {
				for _, run := range scores[i][0] {
					x[r] = append(x[r], run[p])
				}
				continue
			}
			for _, of := range scores[i] {
				sum := 0.0
				for _, run := range of {
					sum += run[p]
				}
				x[r] = append(x[r], sum/float64(len(of)))
			}
		}
		j.x = append(j.x, x)
	}
	for _, of := range scores[0] {
		var means []float64
		for _, run := range of {
			sum := 0.0
			for _, p := range kept {
				sum += run[p]
			}
			means = append(means, sum/float64(len(kept)))
		}
		j.runs = append(j.runs, means)
	}
	return j
}

// combine makes one array of those of the cells, entry by entry.
func (j *joint) combine(f func(values []float64) float64) [][]float64 {
	out := make([][]float64, j.patients)
	values := make([]float64, len(j.x))
	for p := range out {
		out[p] = make([]float64, len(j.x[0][p]))
		for d := range out[p] {
			for i := range j.x {
				values[i] = j.x[i][p][d]
			}
			out[p][d] = f(values)
		}
	}
	return out
}

// analysis is what is said about one array of patients × trainings.
type analysis struct {
	stats.Estimate
	ci, ciPatients Interval
	patients       []float64 // their means
}

func (m *maker) analyse(x [][]float64, scale float64) analysis {
	a := analysis{Estimate: stats.Crossed(x, m.settings.Alpha, scale)}
	for _, row := range x {
		a.patients = append(a.patients, stats.Mean(row))
	}
	a.ci = interval(a.Low, a.High)
	return a
}

func (m *maker) resample(a *analysis) {
	a.ciPatients = interval(m.bootstrap.Mean(a.patients, m.settings.Alpha))
}

func interval(low, high float64) Interval {
	if math.IsNaN(low-high) || math.IsInf(low-high, 0) {
		return nil
	}
	return &[2]float64{low, high}
}

// cell describes a method.
func (m *maker) cell(out *Cell, g *group, c *cell, metric int) {
	j := join(g, metric, c)
	*out = Cell{Dataset: g.dataset, Network: c.network, Method: c.method, Shots: c.shots,
		Label: g.label, Metric: m.scores.Metrics[metric], Patients: j.patients, Draws: len(j.draws),
		Seeds: j.seeds, LeftOut: j.leftOut, Incomplete: len(j.draws) < len(m.draws[c]),
		SDDraws: math.NaN(), SDSeeds: math.NaN()}
	var x [][]float64
	if len(j.draws) > 0 {
		x = j.x[0]
	}
	a := m.analyse(x, j.scale)
	m.resample(&a)
	out.Mean, out.CI, out.DF, out.CIPatients = a.Mean, a.ci, a.DF, a.ciPatients
	out.SDPatients = stats.SD(a.patients)
	out.Median = stats.Percentile(a.patients, 0.5)
	out.IQR = stats.Percentile(a.patients, 0.75) - stats.Percentile(a.patients, 0.25)
	if j.patients == 0 {
		return
	}
	var means, variances []float64
	for _, runs := range j.runs {
		means, variances = append(means, stats.Mean(runs)), append(variances, stats.Variance(runs))
	}
	out.SDDraws, out.SDSeeds = stats.SD(means), math.Sqrt(stats.Mean(variances))
}

// family compares the pairs of a family.
func (m *maker) family(out []Pair, f *family, metric int) {
	name := m.scores.Metrics[metric]
	var p, w []float64
	for i, pair := range f.pairs {
		a, b := pair[0], pair[1]
		out[i] = Pair{By: f.by, Within: f.within, Dataset: f.group.dataset, Shots: a.shots,
			Label: f.group.label, Metric: name, A: f.name(a), B: f.name(b),
			Exploratory: name != m.settings.Primary}
		m.difference(&out[i], f, metric, a, b)
		p, w = append(p, out[i].P), append(w, out[i].Wilcoxon.P)
	}
	p, w = stats.Holm(p), stats.Holm(w)
	for i := range out {
		out[i].PHolm, out[i].Wilcoxon.PHolm = p[i], w[i]
	}
}

// difference compares two.
func (m *maker) difference(out *Pair, f *family, metric int, a, b *cell) {
	j := join(f.group, metric, a, b)
	out.N, out.Draws, out.Seeds, out.Factor = j.patients, len(j.draws), j.seeds, j.factor
	out.LeftOut, out.Incomplete = j.leftOut, len(j.draws) < len(f.draws)
	x := j.combine(minus)
	r := m.analyse(x, j.scale)
	m.resample(&r)
	out.Difference, out.CI, out.T, out.DF, out.P = r.Mean, r.ci, r.T, r.DF, r.P
	out.CIPatients = r.ciPatients
	out.Wilcoxon = Test{math.NaN(), math.NaN(), math.NaN()}
	if j.patients > 1 {
		w := stats.Wilcoxon(r.patients)
		out.Wilcoxon.Statistic, out.Wilcoxon.P = w.Statistic, w.P
	}
	sign := 1.0
	if slices.Contains(m.settings.Lower, out.Metric) {
		sign = -1
	}
	for _, d := range r.patients {
		// to ten decimals, as Wilcoxon's
		d = math.RoundToEven(sign*d*1e10) / 1e10
		switch tie := m.settings.Tie[out.Metric]; {
		case d > tie:
			out.Win++
		case d < -tie:
			out.Loss++
		default:
			out.Tie++
		}
	}
}

func minus(v []float64) float64 { return v[0] - v[1] }

// untrained is the cell of a network as it is: at 0 shots, of the method of that name, or with "" of one method
// alone, and of one run; or nil.
func (g *group) untrained(network, method string) *cell {
	var found *cell
	for _, c := range g.cells {
		if c.network == network && c.shots == "0" && (method == "" || c.method == method) {
			if found != nil || len(c.runs) != 1 {
				return nil
			}
			found = c
		}
	}
	return found
}

// inPlaceOf is the cell with its only run in the place of each run of another cell.
func (c *cell) inPlaceOf(other *cell) *cell {
	same := *c
	same.draws, same.seeds, same.same, same.runs = other.draws, other.seeds, other.same, map[runID]*run{}
	for _, only := range c.runs {
		for id := range other.runs {
			same.runs[id] = only
		}
	}
	return &same
}

// shots adds gains and the price of more cases, for each network and method of the group.
func (m *maker) shots(g *group, metric int) {
	for first := 0; first < len(g.cells); {
		last := first + 1
		for last < len(g.cells) && g.cells[last].network == g.cells[first].network &&
			g.cells[last].method == g.cells[first].method {
			last++
		}
		cells := g.cells[first:last]
		first = last
		if from := g.untrained(cells[0].network, ""); from != nil && from.method != cells[0].method {
			for _, to := range cells {
				m.gain(g, metric, from.inPlaceOf(to), to)
			}
		}
		for i := range cells[:len(cells)-1] {
			m.gain(g, metric, cells[i], cells[i+1])
		}
		var counted []*cell
		for _, c := range cells {
			if n := c.order[2]; n > 0 && n != allShots {
				counted = append(counted, c)
			}
		}
		if len(counted) > 1 {
			m.next(g, metric, counted)
		}
	}
}

func (m *maker) gain(g *group, metric int, from, to *cell) {
	j := join(g, metric, to, from)
	r := m.analyse(j.combine(minus), j.scale)
	m.table.Gains = append(m.table.Gains, Gain{Dataset: g.dataset, Network: to.network,
		Method: to.method, Label: g.label, Metric: m.scores.Metrics[metric], From: from.shots,
		To: to.shots, Difference: r.Mean, CI: r.ci, DF: r.DF, P: r.P, N: j.patients, Draws: len(j.draws),
		Seeds: j.seeds, Factor: j.factor})
}

func (m *maker) next(g *group, metric int, cells []*cell) {
	j := join(g, metric, cells...)
	var log2 []float64
	for _, c := range cells {
		log2 = append(log2, math.Log2(float64(c.order[2])))
	}
	r := m.analyse(j.combine(func(v []float64) float64 { return stats.Slope(log2, v) }), j.scale)
	last := cells[len(cells)-1]
	k := float64(last.order[2])
	factor := math.Log2((k + more) / k)
	m.table.Next = append(m.table.Next, Next{Dataset: g.dataset, Network: last.network,
		Method: last.method, Label: g.label, Metric: m.scores.Metrics[metric], Slope: r.Mean, CI: r.ci, DF: r.DF,
		From: last.shots, More: more, Difference: r.Mean * factor,
		CIDifference: interval(r.Low*factor, r.High*factor), N: j.patients, Draws: len(j.draws),
		Seeds: j.seeds, Factor: j.factor})
}

// warn says what a reader of the table must know.
func (m *maker) warn(families []*family) {
	warn := func(format string, args ...any) {
		m.table.Warnings = append(m.table.Warnings, fmt.Sprintf(format, args...))
	}
	var runs, gaps int
	for _, g := range m.scores.groups {
		gaps += g.gaps
		for _, c := range g.cells {
			runs += len(c.runs)
		}
	}
	if gaps > 0 {
		warn("%d of %d runs have no row of some case; its patient is left out of comparisons with "+
			"them", gaps, runs)
	}
	var few, alone, once, seeds, two, left, incomplete int
	least := math.MaxInt
	for i := range m.table.Cells {
		c := &m.table.Cells[i]
		if c.Metric != m.settings.Primary {
			continue
		}
		if c.Incomplete {
			incomplete++
		}
		if len(c.LeftOut) > 0 {
			left++
		}
		switch {
		case c.Patients == 1:
			alone++
		case c.Patients < enoughPatients:
			few, least = few+1, min(least, c.Patients)
		}
		switch {
		case c.Draws == 1 && c.Seeds == 1:
			once++
		case c.Draws == 1:
			seeds++
		case c.Draws == 2:
			two++
		}
	}
	total := len(m.table.Cells) / len(m.scores.Metrics)
	of := func(n int, format string, args ...any) {
		if n > 0 {
			warn("%d of %d rows: %s", n, total, fmt.Sprintf(format, args...))
		}
	}
	of(incomplete, "runs are missing; a draw counts only where all its runs are there on both sides")
	of(left, "%s is undefined or missing for some patient, who is left out; left_out in table.json "+
		"lists them", m.settings.Primary)
	of(alone, "one test patient with a score in all runs: nothing is tested, and no interval is known")
	of(few, "intervals are optimistic below %d test patients; found %d", enoughPatients, least)
	of(once, "trained once, so that nothing is known about other draws or seeds")
	of(seeds, "trained on one draw: intervals are for new seeds, and nothing is known about other draws")
	of(two, "intervals are optimistic below %d draws; with two that differ much, a test at 5 %% calls "+
		"10 %% of null differences significant", enoughDraws)
	wide := 0
	for i := range m.table.Pairs {
		if p := &m.table.Pairs[i]; p.Metric == m.settings.Primary && p.DF < 1 {
			wide++
		}
	}
	if wide > 0 {
		warn("%d of %d comparisons have less than one degree of freedom: too few trainings for an "+
			"interval", wide, len(m.table.Pairs)/len(m.scores.Metrics))
	}
	var equal, unmatched []string
	for i := range m.table.Pairs {
		p := &m.table.Pairs[i]
		if p.Metric != m.settings.Primary {
			continue
		}
		name := fmt.Sprintf("%s and %s at %s shots", p.A, p.B, p.Shots)
		if p.Draws == 0 {
			unmatched = append(unmatched, name)
		} else if p.Difference == 0 && p.CIPatients != nil && *p.CIPatients == [2]float64{} {
			equal = append(equal, name)
		}
	}
	if len(unmatched) > 0 {
		warn("cannot be compared: %s: no draw has the same seeds on both sides; a model that is not "+
			"trained anew gets its rows repeated for each draw and seed", some(unmatched))
	}
	var without []string
	for _, f := range families {
		if f.reference == nil && m.isReference(f.by) && !(f.by == "method" && f.shots() == "0") {
			place := []string{f.group.dataset, f.within, f.group.label, f.shots() + " shots"}
			without = append(without, strings.Join(slices.DeleteFunc(place, func(s string) bool { return s == "" }), ", "))
		}
	}
	if len(without) > 0 {
		warn("nothing is compared where %s has no scores: %s", m.settings.Reference, some(without))
	}
	if len(equal) > 0 {
		warn("equal in every patient: %s: are these two names of one training?", some(equal))
	}
	m.table.Warn(m.same)
}

// some joins the first three.
func some(list []string) string {
	return brief.Join(list, "; ", 3)
}

// ParseTies adds METRIC=NUMBER texts to base, over its numbers.
func ParseTies(texts []string, base map[string]float64) (map[string]float64, error) {
	ties := maps.Clone(base)
	for _, text := range texts {
		name, number, found := strings.Cut(text, "=")
		v, err := strconv.ParseFloat(number, 64)
		if !found || name == "" || err != nil || !(v >= 0) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("found %q, expected METRIC=NUMBER, such as Dice=0.005", text)
		}
		ties[name] = v
	}
	return ties, nil
}

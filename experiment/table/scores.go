// Package table makes the tables of fine-tuning experiments: it reads scores, a row for each run,
// test case and label, and gives means with intervals, comparisons of methods and of networks,
// gains with more shots, as JSON, Markdown, CSV and LaTeX. The mathematics are experiment/stats'.
// It does not train or score; scores of anybody's will do.
package table

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lntorch/lntorch/experiment/stats"
	"github.com/lntorch/lntorch/internal/brief"
	"github.com/lntorch/lntorch/internal/nearest"
)

// keys are the columns of scores.csv that say what a row is about. All other columns are metrics.
var keys = []string{"dataset", "network", "method", "shots", "draw", "seed", "case", "patient",
	"label"}

// passedOver are the columns of evaluate's scores.csv that are neither.
var passedOver = []string{"name", "empty", "rule"}

// needed are those that must be there.
var needed = []string{"method", "shots", "draw", "seed", "case"}

// Limits of what Read takes, many times the largest grid.
const (
	maxNumbers = 1 << 25 // runs × cases × metrics
	maxRows    = 2e6
	maxColumns = 1000
	maxName    = 200     // bytes
	maxLine    = 1 << 18 // bytes
)

// Scores are the scores of an experiment.
type Scores struct {
	Metrics []string // in the file's order

	groups []*group
	names  map[string][]string // values of the key columns, in the order of the file, or of Sort
}

// group is a dataset and a label: all that may be compared.
type group struct {
	dataset, label string
	patients       []string // code-point order
	cells          []*cell  // in the order of their names, shots upwards
	gaps           int      // runs without a row of some case
}

// cell is a network, a method and a number of shots.
type cell struct {
	network, method, shots string
	order                  [3]int // of the names; shots as their number
	runs                   map[runID]*run
	draws, seeds           []string
	same                   map[string]string // by draw: the first of those with the same training cases
}

// first is the first of the draws with the training cases of a draw.
func (c *cell) first(draw string) string { return cmp.Or(c.same[draw], draw) }

type runID struct{ draw, seed string }

// run has the scores of one training: by metric, the mean over the cases of each patient, NaN where
// one is missing or undefined.
type run struct {
	scores [][]float64
	others uint64 // a sum of the numbers in columns that are no metrics
	key    string // what the caller knows the training by; "": nothing
}

// digest adds the scores to a sum.
func (r *run) digest(h hash.Hash) {
	b := binary.LittleEndian.AppendUint64(nil, r.others)
	for _, of := range r.scores {
		for _, v := range of {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
	}
	h.Write(b)
}

// row is a line of the file.
type row struct {
	line   int
	key    [9]int32 // by keys: which of the column's values
	values []float64
	others uint64 // a sum of the numbers in columns that are no metrics
}

// mix adds the bits of a number to a sum, by FNV-1a.
func mix(sum, bits uint64) uint64 { return (sum ^ bits) * 1099511628211 }

// allShots is the whole pool as a number of shots, which orders it last.
const allShots = math.MaxInt

// Read reads the text of scores.csv; name is that of the file, for messages. The columns method, shots
// (a number, or all), draw, seed and case must be there; dataset, network, label and patient (else
// a case is a patient) may be; name, empty and rule, which evaluate writes, are passed over. Every
// other column is a metric: a number, or empty where the score is undefined. metrics, if not empty, names those that are wanted; the others may hold anything.
func Read(text []byte, name string, metrics []string) (*Scores, error) {
	s, err := read(text, metrics)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func read(text []byte, metrics []string) (*Scores, error) {
	if err := lines(text); err != nil {
		return nil, err
	}
	c := csv.NewReader(bytes.NewReader(text))
	c.ReuseRecord, c.FieldsPerRecord = true, -1
	header, err := c.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("found an empty file, expected a header and rows of scores")
	}
	if err != nil {
		return nil, syntax(err)
	}
	h, err := parseHeader(slices.Clone(header), metrics)
	if err != nil {
		return nil, err
	}
	s := &Scores{Metrics: h.metrics, names: map[string][]string{}}
	number := make([]map[string]int32, len(keys))
	for i := range number {
		number[i] = map[string]int32{}
	}
	var rows []row
	for {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, syntax(err)
		}
		line, _ := c.FieldPos(0)
		if len(record) != h.width {
			return nil, fmt.Errorf("line %d: found %d fields, expected %d as in the header", line,
				len(record), h.width)
		}
		if len(rows) >= maxRows || (len(rows)+1)*len(h.metrics) > maxNumbers {
			return nil, fmt.Errorf("line %d: found more than %d rows or %d scores: leave out rows, or "+
				"name fewer metrics (--metrics)", line, int(maxRows), maxNumbers)
		}
		w := row{line: line, values: make([]float64, len(h.metrics))}
		for i, key := range keys {
			text := ""
			if h.key[i] >= 0 {
				if text, err = keyOf(key, record[h.key[i]]); err != nil {
					return nil, fmt.Errorf("line %d: %w", line, err)
				}
			}
			n, known := number[i][text]
			if !known {
				n = int32(len(s.names[key]))
				text = strings.Clone(text)
				number[i][text] = n
				s.names[key] = append(s.names[key], text)
			}
			w.key[i] = n
		}
		for k, at := range h.metric {
			if w.values[k], err = score(record[at]); err != nil {
				return nil, fmt.Errorf("line %d: %s: %w", line, h.metrics[k], err)
			}
		}
		for _, at := range h.others {
			if v, err := score(record[at]); err == nil {
				w.others = mix(w.others, math.Float64bits(v))
			}
		}
		rows = append(rows, w)
	}
	if len(rows) == 0 {
		return nil, errors.New("found a header without rows of scores below it")
	}
	if h.key[7] < 0 {
		for i := range rows {
			rows[i].key[7] = rows[i].key[6]
		}
		s.names["patient"] = s.names["case"]
	}
	return s, s.arrange(rows)
}

// lines checks that each line is a row: no name has line breaks, and a quotation mark that is not
// closed would make one field of all that follows.
func lines(text []byte) error {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if len(line) > maxLine {
			return fmt.Errorf("line %d: found %d bytes, expected %d at most: is it a table of scores?", n,
				len(line), maxLine)
		}
		if bytes.Count(line, []byte{'"'})%2 != 0 {
			return fmt.Errorf("line %d: found a quotation mark that is not closed", n)
		}
	}
	return nil
}

// syntax is an error of the form of the file, with its line.
func syntax(err error) error {
	var p *csv.ParseError
	if errors.As(err, &p) {
		return fmt.Errorf("line %d, column %d: %w", p.Line, p.Column, p.Err)
	}
	return err
}

// header says where the columns are.
type header struct {
	width   int
	key     [9]int // by keys; -1 for one that is missing
	metrics []string
	metric  []int
	others  []int // not asked for
}

func parseHeader(names []string, wanted []string) (*header, error) {
	h := &header{width: len(names)}
	if len(names) > maxColumns {
		return nil, fmt.Errorf("found %d columns, expected %d at most", len(names), maxColumns)
	}
	names[0] = strings.TrimPrefix(names[0], "\ufeff") // as Excel writes it
	if len(names) == 1 {
		for _, other := range []string{";", "\t"} {
			if strings.Contains(names[0], other) {
				return nil, fmt.Errorf("found columns separated by %q, expected commas", other)
			}
		}
	}
	for i := range names {
		name, err := Name(names[i])
		if err != nil {
			return nil, fmt.Errorf("name of column %d: %w", i+1, err)
		}
		if name == "" {
			if slices.Contains(wanted, "") || len(wanted) == 0 {
				return nil, fmt.Errorf("column %d has no name; remove it (row numbers of a data "+
					"frame?), or name the metrics (--metrics)", i+1)
			}
		} else if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("two columns have the name %s", name)
		}
		names[i] = name
	}
	for i, key := range keys {
		h.key[i] = slices.Index(names, key)
		if h.key[i] < 0 && slices.Contains(needed, key) {
			return nil, fmt.Errorf("no column %s: expected %s, and metrics; the header has %s", key,
				strings.Join(needed, ", "), listed(names))
		}
	}
	if len(wanted) == 0 {
		for i, name := range names {
			if !slices.Contains(keys, name) && !slices.Contains(passedOver, name) {
				h.metrics, h.metric = append(h.metrics, name), append(h.metric, i)
			}
		}
		if len(h.metrics) == 0 {
			return nil, fmt.Errorf("no column holds a metric: besides %s expected Dice, for instance",
				strings.Join(keys, ", "))
		}
		return h, nil
	}
	for _, name := range wanted {
		at := slices.Index(names, name)
		if at < 0 || slices.Contains(keys, name) {
			return nil, unknown("metric", name, others(names))
		}
		if slices.Contains(h.metrics, name) {
			return nil, fmt.Errorf("metric %s is asked for twice", name)
		}
		h.metrics, h.metric = append(h.metrics, name), append(h.metric, at)
	}
	for i, name := range names {
		if !slices.Contains(keys, name) && !slices.Contains(passedOver, name) && !slices.Contains(wanted, name) {
			h.others = append(h.others, i)
		}
	}
	return h, nil
}

// others are the columns that are no keys.
func others(names []string) []string {
	var list []string
	for _, n := range names {
		if !slices.Contains(keys, n) {
			list = append(list, n)
		}
	}
	return list
}

// unknown is the error of a name that the scores do not have.
func unknown(what, name string, have []string) error {
	if n := nearest.Name(name, have); n != "" {
		return fmt.Errorf("the scores have no %s %q: did you mean %s?", what, name, n)
	}
	return fmt.Errorf("the scores have no %s %q: expected one of %s", what, name, listed(have))
}

// listed joins names, the first twenty.
func listed(names []string) string {
	return brief.Join(names, ", ", 20)
}

// Name is a name as tables have it: without the spaces around it. Control characters and names of pages are
// refused: they would get into tables and terminals.
func Name(text string) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case len(text) > maxName:
		return "", fmt.Errorf("found a name of %d bytes, expected %d at most", len(text), maxName)
	case !utf8.ValidString(text):
		return "", errors.New("found text that is not UTF-8")
	case strings.ContainsFunc(text, unicode.IsControl):
		return "", errors.New("found a control character or line break in a name")
	}
	return text, nil
}

// keyOf checks the value of a key column.
func keyOf(key, text string) (string, error) {
	text, err := Name(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	if text == "" && (slices.Contains(needed, key) || key == "patient") {
		return "", fmt.Errorf("%s: found nothing, expected a value in each row", key)
	}
	if key == "shots" && text != "all" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return "", fmt.Errorf("shots: found %.40q, expected a whole number, or all", text)
		}
		text = strconv.FormatUint(n, 10)
	}
	return text, nil
}

// score reads a number.
func score(text string) (float64, error) {
	if text = strings.TrimSpace(text); text == "" {
		return math.NaN(), nil
	}
	v, err := strconv.ParseFloat(text, 64)
	switch {
	case err == nil && math.IsNaN(v), strings.EqualFold(text, "na"):
		return 0, fmt.Errorf("found %s: an undefined score is an empty field", text)
	case err != nil && !errors.Is(err, strconv.ErrRange), math.IsInf(v, 0), math.Abs(v) > 1e100:
		return 0, fmt.Errorf("found %.40q, expected a number, or nothing where the score is "+
			"undefined; --metrics names the columns that are metrics", text)
	}
	return v, nil
}

// arrange sorts rows into groups, cells and runs.
func (s *Scores) arrange(rows []row) error {
	type place struct{ dataset, label int32 }
	byGroup := map[place][]row{}
	var places []place
	patientOf := map[[2]int32]row{} // of a dataset's case
	for _, w := range rows {
		p := place{w.key[0], w.key[8]}
		if byGroup[p] == nil {
			places = append(places, p)
		}
		byGroup[p] = append(byGroup[p], w)
		of := [2]int32{w.key[0], w.key[6]}
		if first, ok := patientOf[of]; !ok {
			patientOf[of] = w
		} else if first.key[7] != w.key[7] {
			return fmt.Errorf("lines %d and %d: one case of two patients", first.line, w.line)
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.dataset, b.dataset), cmp.Compare(a.label, b.label))
	})
	for _, p := range places {
		g := &group{dataset: s.names["dataset"][p.dataset], label: s.names["label"][p.label]}
		if err := s.fill(g, byGroup[p]); err != nil {
			return err
		}
		s.groups = append(s.groups, g)
	}
	return nil
}

// fill makes the runs of a group.
func (s *Scores) fill(g *group, rows []row) error {
	type caseOf struct{ patient, name string }
	var cases []caseOf
	known := map[int32]bool{}
	for _, w := range rows {
		if !known[w.key[6]] {
			known[w.key[6]] = true
			cases = append(cases, caseOf{s.names["patient"][w.key[7]], s.names["case"][w.key[6]]})
		}
	}
	slices.SortFunc(cases, func(a, b caseOf) int {
		return cmp.Or(strings.Compare(a.patient, b.patient), strings.Compare(a.name, b.name))
	})
	at, patient := map[string]int{}, make([]int, len(cases))
	for i, c := range cases {
		if len(g.patients) == 0 || g.patients[len(g.patients)-1] != c.patient {
			g.patients = append(g.patients, c.patient)
		}
		at[c.name], patient[i] = i, len(g.patients)-1
	}
	if len(g.patients) > stats.MaxPatients {
		return fmt.Errorf("found %d patients, expected %d at most", len(g.patients),
			stats.MaxPatients)
	}
	type runKey [5]int32 // network to seed
	byRun := map[runKey][]row{}
	var order []runKey
	for _, w := range rows {
		k := runKey(w.key[1:6])
		if byRun[k] == nil {
			order = append(order, k)
		}
		byRun[k] = append(byRun[k], w)
	}
	if len(order)*len(cases)*max(len(s.Metrics), 1) > maxNumbers {
		return fmt.Errorf("found %d runs and %d cases, few of which have scores: expected a row for "+
			"each case of each run", len(order), len(cases))
	}
	cells := map[[3]int32]*cell{}
	seen := make([]int, len(cases)) // lines of the run at work
	for _, k := range order {
		name := func(i int) string { return s.names[keys[1+i]][k[i]] }
		c := cells[[3]int32(k[:3])]
		if c == nil {
			c = &cell{network: name(0), method: name(1), shots: name(2), runs: map[runID]*run{}}
			c.order = [3]int{int(k[0]), int(k[1]), shotsOf(c.shots)}
			cells[[3]int32(k[:3])] = c
			g.cells = append(g.cells, c)
		}
		clear(seen)
		r := &run{}
		numbers := make([]float64, len(s.Metrics)*len(g.patients))
		for m := range s.Metrics {
			r.scores = append(r.scores, numbers[m*len(g.patients):][:len(g.patients)])
		}
		size := make([]float64, len(g.patients))
		for i := range cases {
			size[patient[i]]++
		}
		slices.SortFunc(byRun[k], func(a, b row) int { // sums in one order
			return cmp.Compare(at[s.names["case"][a.key[6]]], at[s.names["case"][b.key[6]]])
		})
		for _, w := range byRun[k] {
			i := at[s.names["case"][w.key[6]]]
			if seen[i] != 0 {
				return fmt.Errorf("lines %d and %d: two rows of one case and run: is a column "+
					"(network, dataset, label) missing that tells them apart?",
					min(seen[i], w.line), max(seen[i], w.line))
			}
			seen[i] = w.line
			r.others = mix(r.others, w.others)
			for m, v := range w.values {
				r.scores[m][patient[i]] += v / size[patient[i]]
			}
		}
		gap := false
		for i, line := range seen {
			if line == 0 {
				gap = true
				for m := range s.Metrics {
					r.scores[m][patient[i]] = math.NaN()
				}
			}
		}
		if gap {
			g.gaps++
		}
		c.runs[runID{name(3), name(4)}] = r
		c.draws, c.seeds = append(c.draws, name(3)), append(c.seeds, name(4))
	}
	for _, c := range g.cells {
		c.draws, c.seeds = different(c.draws), different(c.seeds)
	}
	g.sort()
	return nil
}

// Order is how datasets, networks and methods are listed, such as those of an experiment's file.
type Order struct{ Datasets, Networks, Methods []string }

// Sort brings datasets, networks and methods into an order, shots upwards in each. Names that it does not
// have come last, in the order of the scores. Without it all are in the order of the scores.
func (s *Scores) Sort(o Order) {
	at := map[string]map[string]int{}
	for key, first := range map[string][]string{"dataset": o.Datasets, "network": o.Networks, "method": o.Methods} {
		place := func(name string) int {
			if i := slices.Index(first, name); i >= 0 {
				return i
			}
			return len(first)
		}
		slices.SortStableFunc(s.names[key], func(a, b string) int { return cmp.Compare(place(a), place(b)) })
		at[key] = map[string]int{}
		for i, name := range s.names[key] {
			at[key][name] = i
		}
	}
	slices.SortStableFunc(s.groups, func(a, b *group) int {
		return cmp.Compare(at["dataset"][a.dataset], at["dataset"][b.dataset])
	})
	for _, g := range s.groups {
		for _, c := range g.cells {
			c.order[0], c.order[1] = at["network"][c.network], at["method"][c.method]
		}
		g.sort()
	}
}

// sort orders the cells.
func (g *group) sort() {
	slices.SortFunc(g.cells, func(a, b *cell) int { return slices.Compare(a.order[:], b.order[:]) })
}

// Identify says which training each run is: those of one key are the same. Draws whose runs are the same at some
// shots have the same training cases there, and count as one. Of runs without a key, "", the scores decide.
func (s *Scores) Identify(key func(Run) string) {
	for _, g := range s.groups {
		for _, c := range g.cells {
			for id, r := range c.runs {
				r.key = key(Run{Dataset: g.dataset, Network: c.network, Method: c.method, Shots: c.shots, Draw: id.draw,
					Seed: id.seed, Label: g.label})
			}
		}
	}
}

// draws finds the draws that have the same training cases at some shots of a dataset: every run of one has the key
// of the other's, or, of unknown runs, its scores of all patients, labels and metrics. It returns a note on each
// that the scores alone tell of. Nothing is drawn at 0 shots.
func (s *Scores) draws() (notes []string) {
	type place struct{ dataset, shots string }
	cells := map[place][]*cell{}
	var places []place
	for _, g := range s.groups {
		for _, c := range g.cells {
			p := place{g.dataset, c.shots}
			if c.same = nil; p.shots == "0" {
				continue
			}
			if cells[p] == nil {
				places = append(places, p)
			}
			cells[p] = append(cells[p], c)
		}
	}
	for _, p := range places {
		var all []string
		for _, c := range cells[p] {
			all = append(all, c.draws...)
		}
		same, with := map[string]string{}, map[[sha256.Size]byte][]string{}
		var order [][sha256.Size]byte
		known := true
		for _, d := range different(all) {
			h := sha256.New()
			for i, c := range cells[p] {
				for _, seed := range c.seeds {
					if r := c.runs[runID{d, seed}]; r != nil {
						fmt.Fprintf(h, "%d %q %q\n", i, seed, r.key)
						known = known && r.key != ""
						if r.key == "" {
							r.digest(h)
						}
					}
				}
			}
			sum := [sha256.Size]byte(h.Sum(nil))
			if with[sum] = append(with[sum], d); len(with[sum]) == 1 {
				order = append(order, sum)
			}
			same[d] = with[sum][0]
		}
		for _, c := range cells[p] {
			c.same = same
		}
		for _, sum := range order {
			if list := with[sum]; len(list) > 1 && !known {
				of := ""
				if p.dataset != "" {
					of = p.dataset + ": "
				}
				notes = append(notes, fmt.Sprintf("%sdraws %s have the same scores everywhere at %s shots: they are taken for the "+
					"same training cases, and count as one draw", of, listed(list), p.shots))
			}
		}
	}
	return notes
}

// Run is a training in the scores, by label.
type Run struct {
	Dataset, Network, Method, Shots, Draw, Seed, Label string

	Patients int     // with a score
	Mean     float64 // over them
}

// Runs lists the runs with their means in a metric, in the order of the tables.
func (s *Scores) Runs(metric string) []Run {
	at := slices.Index(s.Metrics, metric)
	if at < 0 {
		return nil
	}
	var list []Run
	for _, g := range s.groups {
		for _, c := range g.cells {
			for _, draw := range c.draws {
				for _, seed := range c.seeds {
					r := c.runs[runID{draw, seed}]
					if r == nil {
						continue
					}
					var known []float64
					for _, v := range r.scores[at] {
						if !math.IsNaN(v) {
							known = append(known, v)
						}
					}
					list = append(list, Run{g.dataset, c.network, c.method, c.shots, draw, seed, g.label,
						len(known), stats.Mean(known)})
				}
			}
		}
	}
	return list
}

func shotsOf(text string) int {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	return allShots
}

// different sorts names, numbers upwards, then words, and leaves each once. It reorders its argument.
func different(names []string) []string {
	slices.SortFunc(names, compareNames)
	return slices.Compact(names)
}

func compareNames(a, b string) int {
	x, errA := strconv.ParseInt(a, 10, 64)
	y, errB := strconv.ParseInt(b, 10, 64)
	switch {
	case errA == nil && errB == nil && x != y:
		return cmp.Compare(x, y)
	case (errA == nil) != (errB == nil):
		if errA == nil {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

// HasMetric is the error of a metric that is not there.
func (s *Scores) HasMetric(name string) error {
	if slices.Contains(s.Metrics, name) {
		return nil
	}
	return unknown("metric", name, s.Metrics)
}

package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/lntorch/lntorch/eval/pynum"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/regular"
)

// Case is one scored case.
type Case struct {
	ReferenceFile, PredictionFile string
	Counts                        []Counts // in the order of Summary.Targets

	stated []stated // per target, nil unless read from a file
}

// stated holds the values of one target in a summary.json, by Metric.Name.
type stated map[string]float64

// Value returns a metric of target number t: the value in the summary.json that the case was read
// from, or else computed from the counts.
func (c *Case) Value(m Metric, t int) float64 {
	if c.stated != nil {
		if v, ok := c.stated[t][m.Name]; ok {
			return v
		}
	}
	return m.Of(c.Counts[t])
}

// Summary is the content of nnU-Net's summary.json.
type Summary struct {
	Targets []Target
	Cases   []Case

	means      []stated // per target, nil unless read from a file
	foreground stated
}

// Summarise combines cases. Every case has one Counts per target. The order of cases is kept
// (nnU-Net: sorted by file name).
func Summarise(targets []Target, cases []Case) (*Summary, error) {
	if err := checkTargets(targets); err != nil {
		return nil, err
	}
	if len(cases) == 0 {
		return nil, fmt.Errorf("eval: no case to summarise: the prediction folder is empty")
	}
	for _, c := range cases {
		if len(c.Counts) != len(targets) {
			return nil, fmt.Errorf("eval: case %s has counts of %d targets, expected %d",
				c.PredictionFile, len(c.Counts), len(targets))
		}
	}
	return &Summary{Targets: slices.Clone(targets), Cases: slices.Clone(cases)}, nil
}

// Mean returns the mean of a metric of target number t over the cases where it is not NaN. As with
// Case.Value, the value of a summary.json that was read takes precedence.
// Source: evaluate_predictions.py, compute_metrics_on_folder.
func (s *Summary) Mean(m Metric, t int) float64 {
	if s.means != nil {
		if v, ok := s.means[t][m.Name]; ok {
			return v
		}
	}
	column := make([]float64, len(s.Cases))
	for i := range s.Cases {
		column[i] = s.Cases[i].Value(m, t)
	}
	return pynum.NanMean(column)
}

// Foreground returns the mean of Mean over the targets except label 0, NaN if any of them is NaN.
// As with Case.Value, the value of a summary.json that was read takes precedence.
// Source: evaluate_predictions.py, compute_metrics_on_folder.
func (s *Summary) Foreground(m Metric) float64 {
	if v, ok := s.foreground[m.Name]; ok {
		return v
	}
	var values []float64
	for t, target := range s.Targets {
		if target.Key() != "0" {
			values = append(values, s.Mean(m, t))
		}
	}
	return pynum.Mean(values)
}

// Encode returns summary.json byte for byte as nnU-Net writes it: keys sorted as strings, an indent
// of 4, ASCII only, NaN as the bare word NaN (which is not valid JSON; see ReadSummary), no newline
// at the end.
func (s *Summary) Encode() []byte {
	order := make([]int, len(s.Targets))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return strings.Compare(s.Targets[a].Key(), s.Targets[b].Key())
	})

	e := &encoder{}
	e.object(func() {
		e.key("foreground_mean")
		e.values(func(m Metric) { e.number(s.Foreground(m)) })
		e.key("mean")
		e.object(func() {
			for _, t := range order {
				e.key(s.Targets[t].Key())
				e.values(func(m Metric) { e.number(s.Mean(m, t)) })
			}
		})
		e.key("metric_per_case")
		e.list(len(s.Cases), func(i int) {
			c := &s.Cases[i]
			e.object(func() {
				e.key("metrics")
				e.object(func() {
					for _, t := range order {
						e.key(s.Targets[t].Key())
						e.values(func(m Metric) { e.value(m, c.Value(m, t)) })
					}
				})
				e.key("prediction_file")
				e.text(c.PredictionFile)
				e.key("reference_file")
				e.text(c.ReferenceFile)
			})
		})
	})
	return e.buf
}

// Save writes summary.json atomically.
func (s *Summary) Save(path string) error {
	if err := atomicfile.Write(path, s.Encode()); err != nil {
		return fmt.Errorf("eval: write %s: %w", path, err)
	}
	return nil
}

// encoder writes JSON in the layout of Python's json.dump(indent=4).
type encoder struct {
	buf   []byte
	depth int
	first bool // the open object or list is still empty
}

func (e *encoder) line() {
	if !e.first {
		e.buf = append(e.buf, ',')
	}
	e.first = false
	e.newline()
}

func (e *encoder) newline() {
	e.buf = append(e.buf, '\n')
	for range e.depth {
		e.buf = append(e.buf, "    "...)
	}
}

func (e *encoder) nest(open, closing byte, body func()) {
	e.buf = append(e.buf, open)
	e.depth++
	e.first = true
	body()
	e.depth--
	if !e.first {
		e.newline()
	}
	e.first = false
	e.buf = append(e.buf, closing)
}

func (e *encoder) object(body func()) { e.nest('{', '}', body) }

func (e *encoder) list(n int, item func(i int)) {
	e.nest('[', ']', func() {
		for i := range n {
			e.line()
			item(i)
		}
	})
}

func (e *encoder) key(k string) {
	e.line()
	e.text(k)
	e.buf = append(e.buf, ": "...)
}

// values writes an object with the metrics of summary.json.
func (e *encoder) values(write func(Metric)) {
	e.object(func() {
		for _, m := range summaryMetrics() {
			e.key(m.Name)
			write(m)
		}
	})
}

func (e *encoder) value(m Metric, v float64) {
	if m.Voxels {
		e.buf = strconv.AppendInt(e.buf, int64(v), 10)
		return
	}
	e.number(v)
}

func (e *encoder) number(v float64) {
	switch {
	case math.IsNaN(v):
		e.buf = append(e.buf, "NaN"...)
	case math.IsInf(v, 0):
		e.buf = append(e.buf, strings.Replace(pynum.Repr(v), "inf", "Infinity", 1)...)
	default:
		e.buf = append(e.buf, pynum.Repr(v)...)
	}
}

// text writes a string as Python's json does with ensure_ascii: everything outside printable ASCII
// as \uXXXX, beyond the BMP as a surrogate pair, and bytes of a file name that are not UTF-8 as
// Python's lone surrogates.
func (e *encoder) text(s string) {
	e.buf = append(e.buf, '"')
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			e.buf = fmt.Appendf(e.buf, `\u%04x`, 0xdc00+int(s[0]))
		case r == '"' || r == '\\':
			e.buf = append(e.buf, '\\', byte(r))
		case r == '\n':
			e.buf = append(e.buf, `\n`...)
		case r == '\r':
			e.buf = append(e.buf, `\r`...)
		case r == '\t':
			e.buf = append(e.buf, `\t`...)
		case r == '\b':
			e.buf = append(e.buf, `\b`...)
		case r == '\f':
			e.buf = append(e.buf, `\f`...)
		case r >= ' ' && r <= '~':
			e.buf = append(e.buf, byte(r))
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			e.buf = fmt.Appendf(e.buf, `\u%04x\u%04x`, hi, lo)
		default:
			e.buf = fmt.Appendf(e.buf, `\u%04x`, r)
		}
		s = s[n:]
	}
	e.buf = append(e.buf, '"')
}

// maxSummary is the size of the largest summary.json that ReadSummary reads: about 100,000 cases of
// one label.
const maxSummary = 64 << 20

// ReadSummary reads a summary.json written by nnU-Net or Save. It accepts the bare words NaN,
// Infinity and -Infinity, counts written as floats, and additional keys, which are ignored. Targets
// are in the file's order: by key as a string. All cases must have the same targets.
func ReadSummary(path string) (*Summary, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("eval: read summary: %w", err)
	}
	if info.Size() > maxSummary {
		return nil, fmt.Errorf("eval: read %s: found %d bytes, expected a summary.json of at most "+
			"%d",
			path, info.Size(), maxSummary)
	}
	raw, err := regular.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("eval: read summary: %w", err)
	}
	s, err := decodeSummary(raw)
	if err != nil {
		return nil, fmt.Errorf("eval: read %s: %w", path, err)
	}
	return s, nil
}

func decodeSummary(raw []byte) (*Summary, error) {
	type values = map[string]number
	var doc struct {
		Foreground values            `json:"foreground_mean"`
		Mean       map[string]values `json:"mean"`
		Cases      []struct {
			Metrics    map[string]values `json:"metrics"`
			Prediction string            `json:"prediction_file"`
			Reference  string            `json:"reference_file"`
		} `json:"metric_per_case"`
	}
	var wrong *json.UnmarshalTypeError
	if err := json.Unmarshal(quoteWords(raw), &doc); errors.As(err, &wrong) {
		where := "the document"
		if wrong.Field != "" {
			where = wrong.Field
		}
		return nil, fmt.Errorf("found a %s as %s: expected a summary.json of nnU-Net's evaluation", wrong.Value, where)
	} else if err != nil {
		return nil, err
	}
	if doc.Mean == nil || doc.Foreground == nil {
		return nil, fmt.Errorf("found no keys foreground_mean and mean: expected a summary.json " +
			"of " +
			"nnU-Net's evaluation")
	}
	keys := make([]string, 0, len(doc.Mean))
	for k := range doc.Mean {
		keys = append(keys, k)
	}
	slices.Sort(keys)

	s := &Summary{}
	for _, k := range keys {
		target, err := ParseTarget(k)
		if err != nil {
			return nil, err
		}
		s.Targets = append(s.Targets, target)
		mean, err := readValues(doc.Mean[k])
		if err != nil {
			return nil, fmt.Errorf("mean of %s: %w", k, err)
		}
		s.means = append(s.means, mean)
	}
	if err := checkTargets(s.Targets); err != nil { // "1" and "01" are the same
		return nil, err
	}
	var err error
	if s.foreground, err = readValues(doc.Foreground); err != nil {
		return nil, fmt.Errorf("foreground_mean: %w", err)
	}
	for _, c := range doc.Cases {
		out := Case{ReferenceFile: c.Reference, PredictionFile: c.Prediction}
		if len(c.Metrics) != len(keys) {
			return nil, fmt.Errorf("case %s has %d targets, expected %d as in mean",
				c.Prediction, len(c.Metrics), len(keys))
		}
		for _, k := range keys {
			values, err := readValues(c.Metrics[k])
			if err != nil {
				return nil, fmt.Errorf("case %s: target %s: %w", c.Prediction, k, err)
			}
			for _, m := range summaryMetrics() {
				if v := values[m.Name]; m.Voxels && float64(int64(v)) != v {
					return nil, fmt.Errorf("case %s: %s of %s is %v, expected a number of voxels",
						c.Prediction, m.Name, k, v)
				}
			}
			out.stated = append(out.stated, values)
			out.Counts = append(out.Counts, Counts{
				TP: int64(values["TP"]), FP: int64(values["FP"]),
				FN: int64(values["FN"]), TN: int64(values["TN"]),
			})
		}
		s.Cases = append(s.Cases, out)
	}
	return s, nil
}

// readValues reads the metrics of summary.json; others are ignored.
func readValues(from map[string]number) (stated, error) {
	to := stated{}
	for _, m := range summaryMetrics() {
		v, ok := from[m.Name]
		if !ok {
			return nil, fmt.Errorf("%s is missing", m.Name)
		}
		to[m.Name] = float64(v)
	}
	return to, nil
}

// number is a JSON number or one of the quoted words.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	s := string(b)
	switch s {
	case "null", `"NaN"`:
		*n = number(math.NaN())
		return nil
	case `"Infinity"`:
		*n = number(math.Inf(1))
		return nil
	case `"-Infinity"`:
		*n = number(math.Inf(-1))
		return nil
	}
	v, err := strconv.ParseFloat(s, 64)
	*n = number(v)
	return err
}

// quoteWords puts quotes around NaN, Infinity and -Infinity outside strings.
func quoteWords(raw []byte) []byte {
	out := make([]byte, 0, len(raw)+64)
	words := [][]byte{[]byte("NaN"), []byte("-Infinity"), []byte("Infinity")}
	inString := false
scan:
	for i := 0; i < len(raw); i++ {
		b := raw[i]
		switch {
		case inString && b == '\\' && i+1 < len(raw):
			out = append(out, b, raw[i+1])
			i++
			continue
		case b == '"':
			inString = !inString
		case !inString:
			for _, w := range words {
				if bytes.HasPrefix(raw[i:], w) {
					out = append(append(append(out, '"'), w...), '"')
					i += len(w) - 1
					continue scan
				}
			}
		}
		out = append(out, b)
	}
	return out
}

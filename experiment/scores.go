package experiment

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/experiment/table"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/pipeline"
)

// ScoresFile is the scores of all runs.
const ScoresFile = "scores.csv"

// WriteScores writes scores.csv of the runs that are done, and returns how many these are. Its rows are
// sorted: the same runs give the same bytes, whoever did them in which order.
func (p *Plan) WriteScores(ctx context.Context) (runs int, err error) {
	metrics := p.File.Evaluate.Metrics
	type line struct {
		place Place
		row   []string
	}
	var lines []line
	for _, r := range p.Runs {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		folder := p.Folder(r)
		if !isDone(folder) {
			continue
		}
		s, err := scores.Read(filepath.Join(folder, scoresFile))
		if errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("%w: the run is marked as done: remove its folder, and `experiment run` does it again", err)
		}
		if err != nil {
			return 0, err
		}
		runs++
		for _, at := range r.Places() {
			patients := p.Splits.Datasets[at.Dataset].Patients
			for _, c := range s.Cases {
				for _, key := range s.Keys() {
					row := []string{at.Dataset, at.Network, at.Method, at.Shots, strconv.Itoa(at.Draw),
						strconv.FormatUint(at.Seed, 10), c.Case, cmp.Or(patients[c.Case], c.Case), key}
					for _, m := range metrics {
						row = append(row, score(s, c.Labels[key], m))
					}
					lines = append(lines, line{at, row})
				}
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int {
		return cmp.Or(slices.Compare(a.row[:3], b.row[:3]), cmp.Compare(shotNumber(a.place.Shots), shotNumber(b.place.Shots)),
			cmp.Compare(a.place.Draw, b.place.Draw), cmp.Compare(a.place.Seed, b.place.Seed),
			strings.Compare(a.row[6], b.row[6]))
	})
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.Write(append([]string{"dataset", "network", "method", "shots", "draw", "seed", "case", "patient", "label"}, metrics...))
	for _, l := range lines {
		w.Write(l.row)
	}
	w.Flush()
	return runs, atomicfile.Write(filepath.Join(p.Dir, ScoresFile), b.Bytes())
}

// shotNumber orders shots; all comes last.
func shotNumber(shots string) int {
	n, err := strconv.Atoi(shots)
	if err != nil {
		return math.MaxInt
	}
	return n
}

// score is a metric of a label by its name in scores.json; those of nodes are by the first rule.
func score(s *scores.Scores, l *scores.Label, metric string) string {
	v := l.Value(metric, s.Settings.Match[0].String())
	if !v.Defined() {
		return ""
	}
	return strconv.FormatFloat(float64(v), 'g', -1, 64)
}

// MixedMachines says that runs that are done were computed on different devices, or by different numbers of
// threads on the CPU, which round differently; nil if not.
func (p *Plan) MixedMachines() []string {
	count := map[string]int{}
	for _, r := range p.Runs {
		if !isDone(p.Folder(r)) {
			continue
		}
		record := p.record(r)
		if record == nil {
			continue
		}
		kind, _, _ := strings.Cut(record.Device, ":") // GPUs of a machine are taken to be alike
		if kind == "cpu" {
			kind = fmt.Sprintf("the CPU with %d threads", record.Threads)
		}
		count[kind]++
	}
	if len(count) < 2 {
		return nil
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d on %s", count[kind], kind))
	}
	return []string{"runs were computed in different ways, which round differently: " + strings.Join(parts, ", ")}
}

// WriteTables writes scores.csv and, where a run is done, tables, pictures and the page of it. Without one
// the table is nil.
func (p *Plan) WriteTables(ctx context.Context, o pipeline.Output) (*table.Table, error) {
	runs, err := p.WriteScores(ctx)
	if err != nil || runs == 0 {
		return nil, err
	}
	return pipeline.ExperimentFiles(ctx, p.Analysis(), o)
}

package eval_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/internal/golden"
)

// target decodes 3 as a label and [1, 2] as a region.
type target struct{ eval.Target }

func (t *target) UnmarshalJSON(b []byte) error {
	var label int
	if json.Unmarshal(b, &label) == nil {
		t.Target = eval.Label(label)
		return nil
	}
	var labels []int
	err := json.Unmarshal(b, &labels)
	t.Target = eval.Region(labels...)
	return err
}

type goldenMaps struct {
	Targets []target
	Ignore  *int
	Shape   []int
	Cases   []struct{ Name, Ref, Pred string }
}

func voxels[T eval.Integer](t *testing.T, text string) []T {
	out := make([]T, len(text))
	for i, c := range text {
		v, err := strconv.ParseInt(string(c), 36, 8)
		require.NoError(t, err)
		out[i] = T(v)
	}
	return out
}

func scoreGolden[R, P eval.Integer](t *testing.T, g goldenMaps) *eval.Summary {
	var targets []eval.Target
	for _, x := range g.Targets {
		targets = append(targets, x.Target)
	}
	var cases []eval.Case
	for _, c := range g.Cases {
		counts, err := eval.Compare(eval.Map[R]{Data: voxels[R](t, c.Ref), Shape: g.Shape}, eval.Map[P]{Data: voxels[P](t, c.Pred), Shape: g.Shape}, targets, g.Ignore)
		require.NoError(t, err)
		cases = append(cases, eval.Case{ReferenceFile: "ref/" + c.Name + ".nii.gz", PredictionFile: "pred/" + c.Name + ".nii.gz", Counts: counts})
	}
	s, err := eval.Summarise(targets, cases)
	require.NoError(t, err)
	return s
}

func TestSummaryEqualsTheReferencesByteForByte(t *testing.T) {
	files, err := filepath.Glob(golden.Path(t, "eval/maps_*.summary.json"))
	require.NoError(t, err)
	require.Len(t, files, 7)
	for _, file := range files {
		stem := file[:len(file)-len(".summary.json")]
		t.Run(filepath.Base(stem), func(t *testing.T) {
			var g goldenMaps
			golden.LoadJSON(t, "eval/"+filepath.Base(stem)+".json", &g)
			want, err := os.ReadFile(file)
			require.NoError(t, err)

			require.Equal(t, string(want), string(scoreGolden[uint8, uint8](t, g).Encode()))
			require.Equal(t, string(want), string(scoreGolden[int16, uint8](t, g).Encode()))
			require.Equal(t, string(want), string(scoreGolden[int32, int8](t, g).Encode()))

			// Decoding and encoding again changes nothing.
			s, err := eval.ReadSummary(file)
			require.NoError(t, err)
			out := filepath.Join(t.TempDir(), "summary.json")
			require.NoError(t, s.Save(out))
			got, err := os.ReadFile(out)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		})
	}
}

func TestSummariesOfPhantomMiniRoundTrip(t *testing.T) {
	files := []string{}
	for _, pattern := range []string{"predictions/*/summary.json", "results/*/*/fold_0/validation/summary.json"} {
		f, err := filepath.Glob(filepath.Join("../testdata/phantom-mini", pattern))
		require.NoError(t, err)
		files = append(files, f...)
	}
	require.Len(t, files, 3)
	for _, file := range files {
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		s, err := eval.ReadSummary(file)
		require.NoError(t, err)
		require.Equal(t, string(want), string(s.Encode()))

		// The means are recomputed from the cases too.
		again, err := eval.Summarise(s.Targets, s.Cases)
		require.NoError(t, err)
		require.Equal(t, string(want), string(again.Encode()))

		// The cases are recomputed from their counts.
		for i, c := range again.Cases {
			again.Cases[i] = eval.Case{ReferenceFile: c.ReferenceFile, PredictionFile: c.PredictionFile, Counts: c.Counts}
		}
		require.Equal(t, string(want), string(again.Encode()))
	}
}

// naive counts one target the way its definition reads.
func naive(ref, pred []uint8, labels []int, ignore int) (c eval.Counts) {
	in := func(v uint8) bool {
		for _, l := range labels {
			if int(v) == l {
				return true
			}
		}
		return false
	}
	for i := range ref {
		switch r, p := in(ref[i]), in(pred[i]); {
		case int(ref[i]) == ignore:
		case r && p:
			c.TP++
		case p:
			c.FP++
		case r:
			c.FN++
		default:
			c.TN++
		}
	}
	return c
}

func TestCompareIsTheSameHoweverManyProcessors(t *testing.T) {
	const seed = 11
	rng := rand.New(rand.NewPCG(seed, 0))
	n := 3<<20 + 17
	ref, pred := make([]uint8, n), make([]uint8, n)
	for i := range ref {
		ref[i], pred[i] = uint8(rng.IntN(5)), uint8(rng.IntN(6))
	}
	ignore := 4
	targets := []eval.Target{eval.Label(1), eval.Region(2, 3), eval.Region(4, 1), eval.Label(200)}
	shape := []int{n}
	for _, procs := range []int{1, 3, 8} {
		before := runtime.GOMAXPROCS(procs)
		got, err := eval.Compare(eval.Map[uint8]{Data: ref, Shape: shape}, eval.Map[uint8]{Data: pred, Shape: shape}, targets, &ignore)
		runtime.GOMAXPROCS(before)
		require.NoError(t, err)
		for i, target := range targets {
			require.Equal(t, naive(ref, pred, target.Labels(), ignore), got[i], "%s with %d processors, seed %d", target.Key(), procs, seed)
		}
	}
}

func TestDiceAndIoUAreSymmetricAndOneForEqualMaps(t *testing.T) {
	a := eval.Map[int16]{Data: []int16{0, 1, 1, -1, 2, 1}, Shape: []int{1, 2, 3}}
	b := eval.Map[int16]{Data: []int16{1, 1, 0, -1, 2, 1}, Shape: []int{1, 2, 3}}
	targets := []eval.Target{eval.Label(1), eval.Label(2)}
	ab, err := eval.Compare(a, b, targets, nil)
	require.NoError(t, err)
	ba, err := eval.Compare(b, a, targets, nil)
	require.NoError(t, err)
	require.Equal(t, eval.Counts{TP: 2, FP: 1, FN: 1, TN: 2}, ab[0])
	for i := range ab {
		require.Equal(t, eval.Dice.Of(ab[i]), eval.Dice.Of(ba[i]))
		require.Equal(t, eval.IoU.Of(ab[i]), eval.IoU.Of(ba[i]))
	}
	require.Equal(t, 1.0, eval.Dice.Of(ab[1]))
	require.True(t, math.IsNaN(eval.Dice.Of(eval.Counts{TN: 6})))
	require.Equal(t, 0.0, eval.Dice.Of(eval.Counts{FP: 1}))
}

func TestCompareErrorsAreExplicit(t *testing.T) {
	m := func(n int, shape ...int) eval.Map[uint8] {
		return eval.Map[uint8]{Data: make([]uint8, n), Shape: shape}
	}
	one := []eval.Target{eval.Label(1)}
	for _, c := range []struct {
		ref, pred eval.Map[uint8]
		targets   []eval.Target
		want      string
	}{
		{m(6, 1, 2, 3), m(6, 2, 3), one, "eval: the reference has shape [1 2 3], the prediction [2 3]: expected the same grid"},
		{m(5, 2, 3), m(6, 2, 3), one, "eval: found 5 voxels of the reference and 6 of the prediction, expected 6 for shape [2 3]"},
		{m(6, 2, 3), m(6, 2, 3), nil, "eval: no label or region to score: dataset.json has no foreground"},
		{m(6, 2, 3), m(6, 2, 3), []eval.Target{eval.Region(1, 2), eval.Region(1, 2)}, "eval: (1, 2) is listed twice"},
		{m(6, 2, 3), m(6, 2, 3), []eval.Target{eval.Label(70000)}, "eval: found labels from 70000 to 70000, expected -32768 to 65535"},
	} {
		_, err := eval.Compare(c.ref, c.pred, c.targets, nil)
		require.EqualError(t, err, c.want)
	}
}

func TestMetricsAreFoundByNameAndSorted(t *testing.T) {
	var names []string
	for _, m := range eval.Metrics() {
		names = append(names, m.Name)
		found, err := eval.MetricNamed(m.Name)
		require.NoError(t, err)
		require.Equal(t, m.Name, found.Name)
	}
	require.IsIncreasing(t, names)
	_, err := eval.MetricNamed("dice")
	require.ErrorContains(t, err, `eval: metric "dice", expected one of Dice, FN, `)
}

func TestPrecisionAndRecallAreThoseOfMONAI(t *testing.T) {
	var g struct {
		Counts            [][4]int64 // TP, FP, TN, FN
		Precision, Recall []*float64 // nil: undefined
	}
	golden.LoadJSON(t, "eval/ratios.json", &g)
	require.Len(t, g.Counts, 25)
	for i, n := range g.Counts {
		c := eval.Counts{TP: n[0], FP: n[1], TN: n[2], FN: n[3]}
		for m, want := range map[*eval.Metric]*float64{&eval.Precision: g.Precision[i], &eval.Recall: g.Recall[i]} {
			if want == nil {
				require.True(t, math.IsNaN(m.Of(c)), "%s of %+v", m.Name, c)
				continue
			}
			require.Equal(t, *want, m.Of(c), "%s of %+v", m.Name, c)
		}
	}
}

func TestMetricsThatNnUNetLacksAreComputedFromTheSummaryAndNotWritten(t *testing.T) {
	s, err := eval.ReadSummary(golden.Path(t, "eval/maps_labels.summary.json"))
	require.NoError(t, err)
	require.NotContains(t, string(s.Encode()), "Precision")
	sum, n := 0.0, 0
	for _, c := range s.Cases {
		if v := c.Value(eval.Precision, 0); !math.IsNaN(v) {
			require.Equal(t, float64(c.Counts[0].TP)/float64(c.Counts[0].TP+c.Counts[0].FP), v)
			sum += v
			n++
		}
	}
	require.Less(t, n, len(s.Cases), "one case has no prediction")
	require.InDelta(t, sum/float64(n), s.Mean(eval.Precision, 0), 1e-15)
	require.InDelta(t, (s.Mean(eval.Precision, 0)+s.Mean(eval.Precision, 1)+s.Mean(eval.Precision, 2))/3, s.Foreground(eval.Precision), 1e-15)
}

func TestTargetKeysRoundTrip(t *testing.T) {
	for key, want := range map[string]eval.Target{"1": eval.Label(1), "(1,)": eval.Region(1), "(1, 2, 3)": eval.Region(1, 2, 3), "-1": eval.Label(-1)} {
		require.Equal(t, key, want.Key())
		got, err := eval.ParseTarget(key)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{"", "()", "(1", "1)", "node", "(1, x)"} {
		_, err := eval.ParseTarget(bad)
		require.Error(t, err, bad)
	}
}

func TestReadSummaryIsTolerantAndExplains(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "summary.json")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	values := func(fp string) string {
		return `{"Dice": NaN, "FN": 1, "FP": ` + fp + `, "IoU": null, "TN": 1e3, "TP": 0.0, "n_pred": 2, "n_ref": 1, "HD95": Infinity}`
	}
	s, err := eval.ReadSummary(write(`{"mean":{"1":` + values("-Infinity") + `},"foreground_mean":` + values("2.5") + `,"note":"NaN \" Infinity",
		"metric_per_case":[{"metrics":{"1":` + values("2.0") + `},"prediction_file":"NaN.nii.gz","reference_file":"r"}]}`))
	require.NoError(t, err)
	require.True(t, math.IsNaN(s.Cases[0].Value(eval.Dice, 0)))
	require.True(t, math.IsNaN(s.Cases[0].Value(eval.IoU, 0)))
	require.Equal(t, eval.Counts{FP: 2, FN: 1, TN: 1000}, s.Cases[0].Counts[0])
	require.Equal(t, "NaN.nii.gz", s.Cases[0].PredictionFile)
	fp, err := eval.MetricNamed("FP")
	require.NoError(t, err)
	require.True(t, math.IsInf(s.Mean(fp, 0), -1))
	require.Equal(t, 2.5, s.Foreground(fp))

	for text, want := range map[string]string{
		`{}`:                                     "found no keys foreground_mean and mean: expected a summary.json of nnU-Net's evaluation",
		`{"mean": {`:                             "unexpected end of JSON input",
		`{"metric_per_case": "x"}`:               "found a string as metric_per_case: expected a summary.json of nnU-Net's evaluation",
		`[]`:                                     "found a array as the document: expected a summary.json of nnU-Net's evaluation",
		`{"mean":{"1":{}},"foreground_mean":{}}`: "mean of 1: Dice is missing",
		`{"mean":{"x":` + values("1") + `},"foreground_mean":` + values("1") + `}`:                                                                                   `key "x"`,
		`{"mean":{"1":` + values("1") + `,"01":` + values("1") + `},"foreground_mean":` + values("1") + `}`:                                                          "1 is listed twice",
		`{"mean":{"1":` + values("1") + `},"foreground_mean":` + values("1") + `,"metric_per_case":[{"metrics":{}}]}`:                                                "has 0 targets, expected 1 as in mean",
		`{"mean":{"1":` + values("1") + `},"foreground_mean":` + values("1") + `,"metric_per_case":[{"metrics":{"1":` + values("1.5") + `},"prediction_file":"p"}]}`: "case p: FP of 1 is 1.5, expected a number of voxels",
	} {
		path := write(text)
		_, err := eval.ReadSummary(path)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
	}
}

func TestSummariseRefusesAnEmptyFolder(t *testing.T) {
	_, err := eval.Summarise([]eval.Target{eval.Label(1)}, nil)
	require.EqualError(t, err, "eval: no case to summarise: the prediction folder is empty")
}

func TestFileNamesAreEscapedAsPythonDoes(t *testing.T) {
	c := eval.Case{PredictionFile: "a\"\\\n\x7f\xffé", ReferenceFile: "r", Counts: []eval.Counts{{}}}
	s, err := eval.Summarise([]eval.Target{eval.Label(1)}, []eval.Case{c})
	require.NoError(t, err)
	// json.dumps(os.fsdecode(b'a"\\\n\x7f\xff\xc3\xa9'))
	require.Contains(t, string(s.Encode()), `"prediction_file": "a\"\\\n\u007f\udcff\u00e9"`)
}

func BenchmarkCompare(b *testing.B) {
	shape := []int{300, 400, 400}
	n := shape[0] * shape[1] * shape[2]
	ref, pred := make([]uint8, n), make([]uint8, n)
	for i := range ref { // blobs of about 40 voxels
		if i/40%50 == 0 {
			ref[i], pred[(i+7)%n] = 1, 1
		}
	}
	b.SetBytes(int64(2 * n))
	for b.Loop() {
		_, err := eval.Compare(eval.Map[uint8]{Data: ref, Shape: shape}, eval.Map[uint8]{Data: pred, Shape: shape}, []eval.Target{eval.Label(1)}, nil)
		require.NoError(b, err)
	}
}

func ExampleCompare() {
	ref := eval.Map[uint8]{Data: []uint8{0, 1, 1, 2}, Shape: []int{1, 2, 2}}
	pred := eval.Map[uint8]{Data: []uint8{0, 1, 0, 2}, Shape: []int{1, 2, 2}}
	counts, err := eval.Compare(ref, pred, []eval.Target{eval.Label(1), eval.Region(1, 2)}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%.3f %.3f\n", eval.Dice.Of(counts[0]), eval.Dice.Of(counts[1]))
	// Output: 0.667 0.800
}

package pipeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/report"
)

// twoModels writes a reference of one case, and the scores of a prediction that has both of its nodes
// and of one that has the first.
func twoModels(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	labelFile(t, "r/x.nii.gz", shape, nodesOf(true, true), nil)
	labelFile(t, "a/x.nii.gz", shape, nodesOf(true, false), nil)
	labelFile(t, "b/x.nii.gz", shape, nodesOf(true, true), nil)
	for _, folder := range []string{"a", "b"} {
		_, err := evaluated(t, EvaluateConfig{Reference: "r", Prediction: folder})
		require.NoError(t, err)
	}
}

func TestCompareScoresPrintsAndWrites(t *testing.T) {
	twoModels(t)
	c := CompareConfig{Validations: []string{"one=a", "two=b/scores.json"}, Metric: "Dice",
		Picture: "c.csv"}
	compared, files, err := CompareScores(c)
	require.NoError(t, err)
	require.Equal(t, []string{"c.csv", "c.nodes.csv"}, files)
	require.Contains(t, content(t, "c.csv"), "\nx,1,1,Dice,0.6666666666666666,1,0.33333333333333337\n")
	require.Contains(t, content(t, "c.nodes.csv"), ",false,,true,1\n")
	var b bytes.Buffer
	require.NoError(t, PrintComparison(&b, compared, "Dice"))
	require.Equal(t, `== means over the cases that are defined for both, differences to one
label  metric     n    one  model   mean  difference  sd  higher  lower
-----  ---------  -  -----  -----  -----  ----------  --  ------  -----
1      Dice       1  0.667  two    1.000      +0.333   –       1      0
1      NSD_2      1  0.667  two    1.000      +0.333   –       1      0
1      HD95       1  9.765  two    0.000      -9.765   –       0      1
1      recall     1  0.500  two    1.000      +0.500   –       1      0
1      precision  1  1.000  two    1.000      +0.000   –       0      0
1      F1         1  0.667  two    1.000      +0.333   –       1      0
1      fp         1  0.000  two    0.000      +0.000   –       0      0
== Dice of each case
case  label    one    two  two - one
----  -----  -----  -----  ---------
x     1      0.667  1.000     +0.333
== nodes of the reference, by iou:0.3
label  mm    nodes  found by all  by none  by one alone  by two alone
-----  ----  -----  ------------  -------  ------------  ------------
1      all       2             1        0             0             1
1      <5        0             0        0             0             0
1      5-10      2             1        0             0             1
1      >=10      0             0        0             0             0
`, b.String())

	// What a model left without nodes is compared in what it has, and named.
	noisy, err := scores.Read("a/scores.json")
	require.NoError(t, err)
	noisy.Cases[0].Labels["1"].Forget(0)
	text, err := json.Marshal(noisy)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("noisy.json", text, 0o600))
	less, _, err := CompareScores(CompareConfig{Validations: []string{"one=noisy.json", "two=b"}, Metric: "Dice"})
	require.NoError(t, err)
	b.Reset()
	require.NoError(t, PrintComparison(&b, less, "Dice"))
	require.Contains(t, b.String(), "\n1      HD95       1  9.765  two")
	require.Contains(t, b.String(), "\n1      recall     0      –  two        –")
	require.Contains(t, b.String(), "\n1      all       0  ")
	require.True(t, strings.HasSuffix(b.String(), "\nlabel 1: without the nodes of 1 of 1 cases, which were not measured for "+
		"all models (x)\n"), b.String())

	c.Picture = "c.json"
	_, files, err = CompareScores(c)
	require.NoError(t, err)
	require.Equal(t, []string{"c.json"}, files)
	var doc struct {
		Models   []string
		Settings struct{ Match []string }
		Mean     map[string]map[string][]struct {
			Model         string
			Mean          float64
			SD            *float64
			N, Higher     int
			First, Value  float64
			Lower, Equals int
		}
		Nodes []struct{ Found []bool }
	}
	require.NoError(t, json.Unmarshal([]byte(content(t, "c.json")), &doc))
	require.Equal(t, []string{"one", "two"}, doc.Models)
	require.Equal(t, []string{"iou:0.3", "iou:0.5", "any"}, doc.Settings.Match)
	dice := doc.Mean["1"]["Dice"][0]
	require.InDelta(t, 1/3., dice.Mean, 1e-15)
	require.Equal(t, []int{1, 1, 0}, []int{dice.N, dice.Higher, dice.Lower})
	require.Nil(t, dice.SD)
	require.Equal(t, []bool{false, true}, doc.Nodes[1].Found)
}

// What --json prints is what scores.json holds.
func TestScoresArePrintedAsTheyAreWritten(t *testing.T) {
	twoModels(t)
	e, err := evaluated(t, EvaluateConfig{Reference: "r", Prediction: "a"})
	require.NoError(t, err)
	var b bytes.Buffer
	nonFinite, err := report.JSON(&b, e.Scores)
	require.NoError(t, err)
	require.Empty(t, nonFinite)
	require.JSONEq(t, content(t, "a/scores.json"), b.String())
}

func TestCompareScoresSaysWhatIsWrong(t *testing.T) {
	twoModels(t)
	require.NoError(t, os.WriteFile("other.json", []byte(`{"mean": 1}`), 0o600))
	require.NoError(t, os.Mkdir("empty", 0o755))
	for _, c := range []struct {
		args, metric, out, says string
		usage                   bool
	}{
		{"one=a", "Dice", "", "expected at least two", true},
		{"one=a one=b", "Dice", "", `"one=b": the name one is there twice`, true},
		{"=a two=b", "Dice", "", `"=a": expected NAME=SCORES`, true},
		{"one= two=b", "Dice", "", `"one=": expected NAME=SCORES`, true},
		{"one=a two=b", "dice", "", "--metric dice: expected one of Dice, IoU, NSD_1", true},
		{"one=a two=b", "Dice", "c.png", "-o c.png: expected a name that ends in .json or .csv", true},
		{"one=a two=nowhere", "Dice", "", "nowhere: no such file", false},
		{"one=a two=empty", "Dice", "", "empty holds no scores.json: `lntorch evaluate` writes it", false},
		{"one=a two=other.json", "Dice", "", "other.json is no scores.json of `lntorch evaluate`: found " +
			"number as mean", false},
		{"one=a two=a/scores.csv", "Dice", "", "a/scores.csv is no scores.json", false},
	} {
		_, _, err := CompareScores(CompareConfig{Validations: strings.Fields(c.args), Metric: c.metric,
			Picture: c.out})
		require.ErrorContains(t, err, c.says)
		var usage *settings.UsageError
		require.Equal(t, c.usage, errors.As(err, &usage), c.says)
	}
	_, err := evaluated(t, EvaluateConfig{Reference: "r", Prediction: "b", Connectivity: 6})
	require.NoError(t, err)
	_, _, err = CompareScores(CompareConfig{Validations: []string{"one=a", "two=b"}, Metric: "Dice"})
	require.ErrorContains(t, err, "one and two were scored with different settings, connectivity 26 and 6")
}

// A comparison is not written over the scores that it compares.
func TestComparisonSparesItsScores(t *testing.T) {
	twoModels(t)
	before := content(t, "b/scores.json")
	_, _, err := CompareScores(CompareConfig{Validations: []string{"one=a", "two=b"}, Metric: "Dice",
		Picture: "b/../b/scores.json"})
	var usage *settings.UsageError
	require.ErrorAs(t, err, &usage)
	require.ErrorContains(t, err, "would take the place of scores that it compares")
	require.Equal(t, before, content(t, "b/scores.json"))
}

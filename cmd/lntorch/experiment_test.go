package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

func scoresOf(t *testing.T, name string) string {
	return golden.Path(t, filepath.Join("experiment_table", name+".csv"))
}

func TestExperimentTable(t *testing.T) {
	out := filepath.Join(t.TempDir(), "tables")
	r := lntorch(t, "experiment", "table", "--scores", scoresOf(t, "grid"), "-o", out, "--resamples", "500",
		"--seed", "7")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "### Dice: hospital, unet, node\n")
	require.Contains(t, r.out, "27 tests between methods or networks were made of Dice")
	require.Contains(t, r.errOut, "WARNING: 18 of 18 rows: intervals are optimistic below 20 test patients")
	require.NotContains(t, r.errOut, "LN_", "patients are named in table.json alone")
	md, err := os.ReadFile(filepath.Join(out, "table.md"))
	require.NoError(t, err)
	require.Equal(t, string(md), r.out)
	for _, name := range []string{"table.csv", "table.tex", "table.json"} {
		require.FileExists(t, filepath.Join(out, name))
	}

	// --json prints table.json; its numbers are experiment/table's test.
	r = lntorch(t, "experiment", "table", "--scores", scoresOf(t, "grid"), "--json", "--resamples", "500", "--seed", "7",
		"--quiet")
	require.Equal(t, 0, r.code, r.errOut)
	require.NotContains(t, r.errOut, "NaN or infinite")
	file, err := os.ReadFile(filepath.Join(out, "table.json"))
	require.NoError(t, err)
	require.Equal(t, string(file), r.out)
	var table struct {
		Primary   string
		Seed      int
		Resamples int
		Pairs     []struct {
			A, B   string
			P      *float64
			CI     []float64
			Factor *string
		}
	}
	require.NoError(t, json.Unmarshal(file, &table))
	require.Equal(t, "Dice", table.Primary)
	require.Equal(t, 7, table.Seed)
	require.Equal(t, 500, table.Resamples)
	require.Len(t, table.Pairs, (9+9+9)*2)

	// A reference, another primary metric, ties, metrics of one's own direction.
	r = lntorch(t, "experiment", "table", "--scores", scoresOf(t, "grid"), "--reference", "full", "--primary", "HD95",
		"--metrics", "HD95", "Dice", "--tie", "HD95=100", "--lower-is-better", "Dice")
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `(?m)^\| +1 \| full .* \| reference \|`, r.out)
	require.Contains(t, r.out, "0/6/0", "all are ties")
	require.Contains(t, r.out, "Dice, mean over patients, draws of shots and seeds; less is better.")
}

func TestExperimentTableRefuses(t *testing.T) {
	scores := scoresOf(t, "one_run")
	folder := t.TempDir()
	bad := filepath.Join(folder, "bad.csv")
	require.NoError(t, os.WriteFile(bad, []byte("method,shots,draw,seed,case,Dice\na,5,0,0,p,x\n"), 0o644))
	file := filepath.Join(folder, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	for want, c := range map[string]struct {
		code int
		args string
	}{
		"neither FILE nor --scores is given: expected an experiment's file, or scores, scores.csv": {2, ""},
		"found 2 arguments, expected FILE alone, or --scores FILE.csv":                             {2, "one two"},
		"open more: no such file or directory":                                                     {2, "more"},
		`--alpha: found "1", expected a number above 0`:                                            {2, "--alpha 1"},
		`--resamples: found "0"`:                                                                   {2, "--resamples 0"},
		`--seed: found "-1"`:                                                                       {2, "--seed -1 --scores " + scores},
		`--tie: found "Dice", expected METRIC=NUMBER`:                                              {2, "--tie Dice --scores " + scores},
		folder + ": found a folder, expected a file of scores":                                     {1, "--scores " + folder},
		"no such file or directory":                                                                {1, "--scores " + bad + "2"},
		"not a regular file":                                                                       {1, "--scores /dev/zero"},
		bad + `: line 2: Dice: found "x", expected a number`:                                       {1, "--scores " + bad},
		`the scores have no metric "HD9": expected one of Dice`:                                    {1, "--metrics HD9 --scores " + scores},
		`no primary metric "Dise": did you mean Dice?`:                                             {1, "--primary Dise --scores " + scores},
		`no method or network for a reference "z": expected one`:                                   {1, "--reference z --scores " + scores},
		`--lower-is-better: the scores have no metric "F1"`:                                        {1, "--lower-is-better F1 --scores " + scores},
		"not a directory":                                                                          {1, "-o " + filepath.Join(file, "x") + " --scores " + scores},
	} {
		r := lntorch(t, append([]string{"experiment", "table"}, strings.Fields(c.args)...)...)
		require.Equal(t, c.code, r.code, "%s: %s", c.args, r.errOut)
		require.Contains(t, r.errOut, want)
		require.Empty(t, r.out, c.args)
	}
	r := lntorch(t, "experiment", "tabel")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `unknown command "tabel": expected a file that ends in .yaml, .toml or .json, or command, plan, `)
	// One run of each method: nothing is tested across trainings, and nothing is bold.
	r = lntorch(t, "experiment", "table", "--scores", scores)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "trained once, so that nothing is known about other draws or seeds")
	require.NotContains(t, r.out, "**")
}

// What an experiment's file says of statistics holds for scores of anybody; a flag goes over it.
func TestExperimentTableTakesStatisticsOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "statistics.yaml")
	require.NoError(t, os.WriteFile(file, []byte("seed: 3\nstatistics: {primary: HD95, reference: full, alpha: 0.1, "+
		"resamples: 60, tie: {HD95: 0.7}}\n"), 0o644))
	table := func(args ...string) (found struct {
		Primary, Reference string
		Alpha              float64
		Seed, Resamples    int
		Tie                map[string]float64
	}) {
		r := lntorch(t, append([]string{"experiment", "table", file, "--scores", scoresOf(t, "grid"), "--json"}, args...)...)
		require.Equal(t, 0, r.code, r.errOut)
		require.NoError(t, json.Unmarshal([]byte(r.out), &found))
		return found
	}
	got := table()
	require.Equal(t, "HD95 full 0.1 3 60 map[Dice:0.005 HD95:0.7]", fmt.Sprint(got.Primary, " ", got.Reference, " ", got.Alpha, " ",
		got.Seed, " ", got.Resamples, " ", got.Tie))
	got = table("--primary", "Dice", "--seed", "9", "--tie", "Dice=0.01")
	require.Equal(t, "Dice full 9", fmt.Sprint(got.Primary, " ", got.Reference, " ", got.Seed))
	require.Equal(t, 0.01, got.Tie["Dice"])

	// Without --scores the file must be that of an experiment.
	r := lntorch(t, "experiment", "report", file, "-o", t.TempDir())
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, "statistics.yaml:1: datasets: missing")
	require.NoError(t, os.WriteFile(file, []byte("statistics: {primry: Dice}\n"), 0o644))
	r = lntorch(t, "experiment", "plot", file, "--scores", scoresOf(t, "grid"))
	require.Equal(t, 2, r.code)
	require.Regexp(t, `statistics.yaml:1: statistics\.primry: .*primary`, r.errOut)
}

// Pictures and page stand where -o says, else beside the scores, with the records of the runs there.
func TestExperimentPlotAndReport(t *testing.T) {
	folder := t.TempDir()
	text, err := os.ReadFile(scoresOf(t, "grid"))
	require.NoError(t, err)
	scores := filepath.Join(folder, "scores.csv")
	require.NoError(t, os.WriteFile(scores, text, 0o644))
	run := filepath.Join(folder, "runs", "0123456789abcdef")
	require.NoError(t, os.MkdirAll(run, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(run, "run.json"), []byte(`{"key": "0123456789abcdef", "dataset": "hospital",
		"network": "unet", "method": "dgst", "shots": "5", "draw": 0, "seed": 0, "train_seconds": 60, "peak_bytes": 1000000000,
		"curves": {"loss": [1, 0.5]}, "touched": [{"name": "conv.weight", "touched": 1, "entries": 4}]}`), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(run, "done"), nil, 0o644))
	r := lntorch(t, "experiment", "plot", "--scores", scores, "--resamples", "20")
	require.Equal(t, 0, r.code, r.errOut)
	var names []string
	for _, path := range strings.Fields(r.out) {
		require.FileExists(t, path)
		require.Equal(t, filepath.Join(folder, "plots"), filepath.Dir(path))
		names = append(names, filepath.Base(path))
	}
	require.Subset(t, names, []string{"shots.svg", "shots.png", "differences-unet.svg", "curves-unet.png", "touched-unet.png",
		"cost.png"})

	out := filepath.Join(t.TempDir(), "report")
	r = lntorch(t, "experiment", "report", "--scores", scores, "--resamples", "20", "-o", out, "--title", "A <study>")
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, filepath.Join(out, "report.html")+"\n", r.out)
	page, err := os.ReadFile(filepath.Join(out, "report.html"))
	require.NoError(t, err)
	for _, part := range []string{"<h1>A &lt;study&gt;</h1>", `id="report-data"`, "0123456789abcdef", "Entries that DGST updated"} {
		require.Contains(t, string(page), part)
	}
	require.NoError(t, os.WriteFile(filepath.Join(run, "run.json"), []byte("{"), 0o644))
	r = lntorch(t, "experiment", "plot", "--scores", scores)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "run.json: unexpected end of JSON input: is it the record of a run?")
}

// What evaluate writes of each run becomes a file of scores with four columns before it.
func TestScoresOfEvaluateMakeATable(t *testing.T) {
	folder := t.TempDir()
	labels := repo(t, mini+"/raw/"+targetSet+"/labelsTs")
	r := lntorch(t, "evaluate", labels, labels, "-l", "1", "-o", filepath.Join(folder, "summary.json"))
	require.Equal(t, 0, r.code, r.errOut)
	text, err := os.ReadFile(filepath.Join(folder, "scores.csv"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var all strings.Builder
	all.WriteString("method,shots,draw,seed," + lines[0] + "\n")
	for _, run := range []string{"a,5,0,0,", "a,5,1,0,", "b,5,0,0,", "b,5,1,0,"} {
		for _, line := range lines[1:] {
			all.WriteString(run + line + "\n")
		}
	}
	scores := filepath.Join(folder, "all.csv")
	require.NoError(t, os.WriteFile(scores, []byte(all.String()), 0o644))
	r = lntorch(t, "experiment", "table", "--scores", scores)
	require.Equal(t, 0, r.code, r.errOut)
	require.Regexp(t, `(?m)^\| +5 \| b +\| \*\*1\.000\*\* \| 1\.000 to 1\.000 .* \| 1\.000 \|`, r.out)
	require.Contains(t, r.out, "### HD95: 1 (exploratory)")
}

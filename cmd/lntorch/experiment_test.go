package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/scores"
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
	// The tables are not written over the scores.
	text, err := os.ReadFile(scores)
	require.NoError(t, err)
	own := filepath.Join(folder, "table.csv")
	require.NoError(t, os.WriteFile(own, text, 0o644))
	r := lntorch(t, "experiment", "table", "--scores", own, "-o", folder)
	require.Equal(t, 2, r.code, r.errOut)
	require.Contains(t, r.errOut, "would take the place of the scores: name another folder with -o")
	kept, err := os.ReadFile(own)
	require.NoError(t, err)
	require.Equal(t, string(text), string(kept))
	require.NoFileExists(t, filepath.Join(folder, "table.md"), "it is known before anything is written")
	r = lntorch(t, "experiment", "tabel")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errOut, `unknown command "tabel": expected a file that ends in .yaml, .toml or .json, or command, plan, `)
	// One run of each method: nothing is tested across trainings, and nothing is bold.
	r = lntorch(t, "experiment", "table", "--scores", scores)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "trained once, so that nothing is known about other draws or seeds")
	require.NotContains(t, r.out, "**")
}

// The tables of the study in docs are those of its scores, in the order of its file.
func TestTablesOfTheStudyAreOfItsScores(t *testing.T) {
	study, out := filepath.Join("..", "..", "docs", "studies"), t.TempDir()
	r := lntorch(t, "experiment", "table", filepath.Join(study, "phantom.yaml"), "--scores",
		filepath.Join(study, "phantom", "scores.csv"), "-o", out)
	require.Equal(t, 0, r.code, r.errOut)
	for _, name := range []string{"table.md", "table.tex"} {
		want, err := os.ReadFile(filepath.Join(study, "phantom", name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "%s differs; `make study` copies it from the grid", name)
	}
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
	for _, run := range []string{"a,5,0,0,", "a,5,0,1,", "b,5,0,0,", "b,5,0,1,"} { // draws of the same scores would be one
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

const twinsText = `name: twins
datasets:
  target: {dataset: 102, test: imagesTs}
networks:
  unet: {checkpoint: MODEL, trained_on: []}
  again: {checkpoint: MODEL, trained_on: []}
methods:
  none: {method: none}
  full: {method: full}
  dgst: {method: dgst}
  bias: {method: full}
train: {epochs: 5, iterations: 2}
shots: [1, 3]
draws: 2
seeds: 2
evaluate: {metrics: [Dice]}
statistics: {resamples: 20}
`

// plannedRun is an entry of plan --json.
type plannedRun struct {
	Key, Dataset, Network, Method, Shots string
	Draw, Seed                           int
	State                                string
}

// pretend leaves what a grid's runs leave, all of which are missing, as if their trainings had taken so long. It
// returns the keys.
func pretend(t *testing.T, args []string, seconds float64) (keys []string) {
	t.Helper()
	r := lntorch(t, append([]string{"experiment", "plan", "--json"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	var plan struct{ Runs []plannedRun }
	require.NoError(t, json.Unmarshal([]byte(r.out), &plan))
	for _, one := range plan.Runs {
		require.Equal(t, "missing", one.State)
		if slices.Contains(keys, one.Key) { // another place of a run
			continue
		}
		keys = append(keys, one.Key)
		folder := filepath.Join(args[2], "runs", one.Key)
		require.NoError(t, os.MkdirAll(folder, 0o755))
		h := fnv.New32()
		var cases []*scores.Case
		for i := range 4 {
			fmt.Fprint(h, one.Key)
			label := &scores.Label{Empty: "none", Detection: map[string]*scores.Detection{}}
			for _, rule := range scores.Default().Match {
				label.Detection[rule.String()] = &scores.Detection{}
			}
			for _, name := range scores.Default().Metrics() {
				label.Metrics = append(label.Metrics, scores.Metric{Name: name, Value: scores.Number(h.Sum32()%1000) / 1000})
			}
			cases = append(cases, &scores.Case{Case: fmt.Sprintf("LN_%03d", 8+i), Labels: map[string]*scores.Label{"1": label}})
		}
		text, err := json.Marshal(scores.New(scores.Default(), []eval.Target{eval.Label(1)}, nil, cases, nil))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, "scores.json"), text, 0o644))
		record := map[string]any{"key": one.Key, "dataset": one.Dataset, "network": one.Network, "method": one.Method, "shots": one.Shots,
			"draw": one.Draw, "seed": one.Seed, "device": "cpu", "threads": 1, "seconds": seconds + 1,
			"recall_by_size": []map[string]any{{"label": "1", "class": "<5", "found": 3, "nodes": 4}}}
		if one.Method != "none" {
			record["train_seconds"], record["peak_bytes"], record["trained_parameters"] = seconds, 1e9*seconds, 77
			record["curves"] = map[string]any{"loss": []float64{seconds, 1}}
		}
		if one.Method == "dgst" {
			record["touched"] = []map[string]any{{"name": "conv.weight", "touched": seconds, "entries": 10000}}
		}
		text, err = json.Marshal(record)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, "run.json"), text, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "done"), nil, 0o644))
	}
	return keys
}

// Tables, pictures and the page are of the runs that the file asks for, under the names that it has for them, in
// its order: old runs in the folder do not count, twins have the cost of the run that serves them, and names may
// change.
func TestTablesAreOfTheGridAlone(t *testing.T) {
	file, args := planGrid(t, twinsText)
	write := func(old, new string) {
		t.Helper()
		text := read(t, file)
		require.Contains(t, text, old)
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(text, old, new, 1)), 0o644))
	}
	dir := args[2]
	old := pretend(t, args, 4000)
	write("epochs: 5", "epochs: 2")
	// The runs of the method none are the same as before.
	require.NoError(t, os.Rename(filepath.Join(dir, "runs"), dir+"-old"))
	keys := pretend(t, args, 60)
	for _, key := range old {
		if !slices.Contains(keys, key) {
			require.NoError(t, os.Rename(filepath.Join(dir+"-old", key), filepath.Join(dir, "runs", key)))
		}
	}
	require.Len(t, keys, 1+2*2*2*2, "both networks are one, and two methods are")
	write("dgst: {method: dgst}", "ours: {method: dgst}")

	r := lntorch(t, append([]string{"experiment", "run"}, args...)...) // all is done: it makes the tables
	require.Equal(t, 0, r.code, r.errOut)
	require.NotContains(t, r.errOut, "is the folder of experiment")
	var table struct {
		Cells []struct {
			Network, Method, Shots string
			Seconds                *float64
			Bytes                  *float64 `json:"peak_bytes"`
			Trained                *int     `json:"trained_parameters"`
		}
		Pairs []struct{ By, Within, Shots, A, B string }
	}
	text := read(t, filepath.Join(dir, "table.json"))
	require.NoError(t, json.Unmarshal([]byte(text), &table))
	var cells, pairs []string
	for _, c := range table.Cells {
		cells = append(cells, strings.Join([]string{c.Network, c.Method, c.Shots}, " "))
		if c.Method != "none" {
			require.NotNil(t, c.Seconds, cells)
			require.Equal(t, []float64{60, 60e9, 77}, []float64{*c.Seconds, *c.Bytes, float64(*c.Trained)}, cells)
		}
	}
	for _, p := range table.Pairs {
		pairs = append(pairs, strings.Join([]string{p.By, p.Within, p.Shots, p.A, p.B}, " "))
	}
	require.Equal(t, []string{"unet none 0", "unet full 1", "unet full 3", "unet ours 1", "unet ours 3", "unet bias 1", "unet bias 3",
		"again none 0", "again full 1", "again full 3", "again ours 1", "again ours 3", "again bias 1", "again bias 3"}, cells)
	require.Equal(t, []string{"method unet 1 full ours", "method unet 1 full bias", "method unet 1 ours bias"}, pairs[:3])
	require.Contains(t, pairs, "network ours 3 unet again")
	rows := strings.Split(strings.TrimSpace(read(t, filepath.Join(dir, "scores.csv"))), "\n")[1:]
	require.True(t, strings.HasPrefix(rows[0], "target,again,bias,1,0,0,LN_008,LN_008,1,"), "sorted by letter")
	require.True(t, slices.IsSortedFunc(rows, func(a, b string) int {
		return strings.Compare(strings.Join(strings.Split(a, ",")[:6], " "), strings.Join(strings.Split(b, ",")[:6], " "))
	}))

	for _, network := range []string{"unet", "again"} {
		curves := read(t, filepath.Join(dir, "plots", "curves-"+network+".svg"))
		at := 0
		for _, method := range []string{"full", "ours", "bias"} { // the legend
			i := strings.Index(curves, ">"+method+"<")
			require.Greater(t, i, at, network+" "+method)
			at = i
		}
		require.NotContains(t, curves, ">dgst<")
		require.NotContains(t, curves, ">4000<")
		require.Contains(t, curves, ">60<")
		require.Contains(t, read(t, filepath.Join(dir, "plots", "touched-"+network+".svg")), ">ours<")
	}
	recall := read(t, filepath.Join(dir, "plots", "recall.svg"))
	for _, method := range []string{"none", "full", "ours", "bias"} {
		require.Contains(t, recall, ">"+method+"<")
	}
	page := read(t, filepath.Join(dir, "report.html"))
	for _, key := range keys {
		require.Contains(t, page, key)
	}
	for _, key := range old {
		if !slices.Contains(keys, key) {
			require.NotContains(t, page, key)
		}
	}

	// The other commands make the same.
	pictures := read(t, filepath.Join(dir, "plots", "cost.svg"))
	for _, name := range []string{"table.json", "report.html", "plots/cost.svg"} {
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
	}
	for _, command := range []string{"table", "plot", "report"} {
		r := lntorch(t, append([]string{"experiment", command}, args...)...)
		require.Equal(t, 0, r.code, r.errOut)
	}
	require.Equal(t, text, read(t, filepath.Join(dir, "table.json")))
	require.Equal(t, page, read(t, filepath.Join(dir, "report.html")))
	require.Equal(t, pictures, read(t, filepath.Join(dir, "plots", "cost.svg")))

	// Of scores alone it is not known which runs they are of.
	r = lntorch(t, "experiment", "table", "--scores", filepath.Join(dir, "scores.csv"), "--resamples", "20", "--json")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "WARNING: 16 runs beside the scores have the place of another one, such as ")
	require.Contains(t, r.out, `"method": "bias"`)
	require.NotContains(t, r.out, "4000")
}

// Draws that come to the same cases, here the whole pool, are one in tables: announced before anything runs, and
// below each table.
func TestDrawsOfTheSameCasesAreOneInTables(t *testing.T) {
	_, args := planGrid(t, strings.Replace(twinsText, "[1, 3]", "[1, 8]", 1))
	const note = "target: draws 0, 1 have the same cases at 8 shots: one run serves them, and they count as one draw"
	r := lntorch(t, append([]string{"experiment", "plan"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, 1, strings.Count(r.errOut, "WARNING: "+note+"\n"), r.errOut)
	pretend(t, args, 60)
	r = lntorch(t, append([]string{"experiment", "table"}, args...)...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, 1, strings.Count(r.errOut, note), r.errOut)
	require.NotContains(t, r.errOut, "the same scores everywhere", "the runs are known")
	require.Equal(t, strings.Count(r.out, "### "), strings.Count(r.out, "Caution: "+note+"."))
	type numbers struct {
		Cells []struct {
			Shots string
			Draws int `json:"n_draws"`
			Seeds int `json:"n_seeds"`
		}
		Pairs, Gains []struct {
			Shots, To, Factor string
			Draws             int `json:"n_draws"`
		}
	}
	var table, alone numbers
	require.NoError(t, json.Unmarshal([]byte(read(t, filepath.Join(args[2], "table.json"))), &table))
	for _, c := range table.Cells {
		require.Equal(t, map[string][]int{"0": {1, 1}, "1": {2, 2}, "8": {1, 2}}[c.Shots], []int{c.Draws, c.Seeds}, c.Shots)
	}
	for _, p := range append(table.Pairs, table.Gains...) {
		switch p.Shots + p.To {
		case "1":
			require.Equal(t, "draw 2", fmt.Sprint(p.Factor, " ", p.Draws))
		case "8":
			require.Equal(t, "seed 1", fmt.Sprint(p.Factor, " ", p.Draws))
		}
	}

	// Of scores alone the same is seen in them, and said.
	r = lntorch(t, "experiment", "table", "--scores", filepath.Join(args[2], "scores.csv"), "--resamples", "20", "--json")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "WARNING: target: draws 0, 1 have the same scores everywhere at 8 shots: they are taken for the "+
		"same training cases, and count as one draw")
	require.NoError(t, json.Unmarshal([]byte(r.out), &alone))
	require.ElementsMatch(t, table.Cells, alone.Cells)
	require.ElementsMatch(t, table.Pairs, alone.Pairs)
	require.ElementsMatch(t, table.Gains, alone.Gains)
}

// Two files may share a folder; that they overwrite each other's tables is said.
func TestAFolderOfAnotherExperimentIsNamed(t *testing.T) {
	file, args := planGrid(t, planText)
	dir := args[2]
	touch := func(text string, names ...string) {
		for _, name := range names {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
	}
	pretend(t, args, 10)
	warning := func(command ...string) string {
		r := lntorch(t, slices.Concat([]string{"experiment"}, command, args)...)
		for line := range strings.Lines(r.errOut) {
			if strings.Contains(line, "of experiment") {
				return strings.TrimPrefix(line, "WARNING: "+dir+" is the folder of ")
			}
		}
		return ""
	}
	touch(`{"name": "demo"}`, "experiment.json")
	require.Empty(t, warning("run"), "the same experiment's")
	for command, files := range map[string]string{"run": "experiment.json, splits.json, scores.csv, table.*, plots/*, report.html",
		"run --only=draw=0": "experiment.json, splits.json", "table": "scores.csv, table.*", "plot": "scores.csv, plots/*",
		"report": "scores.csv, report.html"} {
		touch(`{"name": "study \u001b one"}`, "experiment.json")
		require.Equal(t, `experiment "study \x1b one", and this one is "demo": they share its runs, and what the other has made of them is `+
			"overwritten: "+files+". For a folder of its own give another -o\n", warning(strings.Fields(command)...), command)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "experiment.json")))
	require.Empty(t, warning("table"), "nobody's")
	touch("{", "experiment.json")
	require.Empty(t, warning("run"), "damaged")
	require.Contains(t, read(t, filepath.Join(dir, "experiment.json")), `"name": "demo"`)
	touch(`{"name": "other"}`, "experiment.json")
	require.Empty(t, warning("plan"), "it writes nothing")
	require.Empty(t, warning("prune"))
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(read(t, file), "seeds: 1", "seeds: [5]")), 0o644))
	require.Equal(t, "experiment \"other\", too: runs that it asks for are among these\n", warning("prune"))
}

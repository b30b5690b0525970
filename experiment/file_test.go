package experiment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	_ "github.com/lntorch/lntorch/baselines"
	_ "github.com/lntorch/lntorch/dgst"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/settings"
)

const inYAML = `
name: ln-fewshot
datasets:
  hospital-B:
    dataset: 502
    test: imagesTs
    patient: '^([^_]+)_'
networks:
  UNet: {checkpoint: models/unet.pth, trained_on: [501]}
  swin: {checkpoint: /models/swin.pth, trainer: nnUNetTrainer_SwinUNETR}
methods:
  none:    {method: none}
  Full:    {method: full}
  static:  {method: dgst, dgst-select: static}
  scratch: {method: full, pretrained: false, epochs: 200, patch-size: [16, 32, 32]}
train: {epochs: released, iterations: 100, momentum: 0.9}
shots: [1, 5, all]
draws: 2
seeds: [3, 1]
seed: 7
draw: random
evaluate: {metrics: [Dice, NSD_2.5], disable-tta: true}
statistics: {primary: NSD_2.5, reference: Full, alpha: 0.1, resamples: 500, tie: {Dice: 0.01}}
keep: {checkpoints: final, predictions: true}
`

const inTOML = `
name = "ln-fewshot"
shots = [1, 5, "all"]  # numbers
draws = 2
seeds = [3,
  1, # the second
]
seed = 7
draw = "random"
evaluate.metrics = ["Dice", "NSD_2.5"]
evaluate."disable-tta" = true
train = {epochs = "released", iterations = 1_00, momentum = 0.9}
[datasets.hospital-B]
dataset = 502
test = "imagesTs"
patient = '^([^_]+)_'
[networks]
UNet = {checkpoint = "models/unet.pth", trained_on = [501]}
[networks.swin]
checkpoint = "/models/swin.pth"
trainer = "nnUNetTrainer_SwinUNETR"
[methods]
none = {method = "none"}
[methods.Full]
method = "full"
[methods.static]
method = "dgst"
dgst-select = "static"
[methods.scratch]
method = "full"
pretrained = false
epochs = 200
patch-size = [16, 32, 32]
[statistics]
primary = "NSD_2.5"
reference = "Full"
alpha = 0.1
resamples = 500
[statistics.tie]
Dice = 0.01
[keep]
checkpoints = "final"
predictions = true
`

const inJSON = `{"name": "ln-fewshot",
"datasets": {"hospital-B": {"dataset": 502, "test": "imagesTs", "patient": "^([^_]+)_"}},
"networks": {"UNet": {"checkpoint": "models/unet.pth", "trained_on": [501]},
  "swin": {"checkpoint": "/models/swin.pth", "trainer": "nnUNetTrainer_SwinUNETR"}},
"methods": {"none": {"method": "none"}, "Full": {"method": "full"},
  "static": {"method": "dgst", "dgst-select": "static"},
  "scratch": {"method": "full", "pretrained": false, "epochs": 200, "patch-size": [16, 32, 32]}},
"train": {"epochs": "released", "iterations": 100, "momentum": 0.9},
"shots": [1, 5, "all"], "draws": 2, "seeds": [3, 1], "seed": 7, "draw": "random",
"evaluate": {"metrics": ["Dice", "NSD_2.5"], "disable-tta": true},
"statistics": {"primary": "NSD_2.5", "reference": "Full", "alpha": 0.1, "resamples": 500, "tie": {"Dice": 0.01}},
"keep": {"checkpoints": "final", "predictions": true}}
`

func write(t testing.TB, path, text string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// withoutLines forgets where things stand in a file.
func withoutLines(f *File) *File {
	f.Path, f.lines = "", nil
	for _, d := range f.Datasets {
		d.line, d.Test.line, d.Pool.line, d.pattern = 0, 0, 0, nil
	}
	forget := func(list []Setting) {
		for i := range list {
			list[i].line = 0
		}
	}
	forget(f.Train)
	for _, n := range f.Networks {
		n.line = 0
		forget(n.Settings)
	}
	for _, m := range f.Methods {
		m.line = 0
		forget(m.Settings)
	}
	return f
}

// The three formats say the same; names keep their case, and tables and lists the file's order.
func TestFormatsSayTheSame(t *testing.T) {
	folder := t.TempDir()
	f, err := Read(write(t, filepath.Join(folder, "grid.yaml"), inYAML))
	require.NoError(t, err)
	require.Equal(t, 6, f.Datasets[0].Test.line)
	require.Equal(t, 9, f.Networks[0].line)
	require.Equal(t, "methods.static.dgst-select", f.Methods[2].Settings[1].at)
	var names []string
	for _, m := range f.Methods {
		names = append(names, m.Name)
	}
	require.Equal(t, []string{"none", "Full", "static", "scratch"}, names)
	require.Equal(t, filepath.Join(folder, "models/unet.pth"), f.Networks[0].Checkpoint, "beside the file")
	require.Equal(t, "/models/swin.pth", f.Networks[1].Checkpoint)
	require.Equal(t, []string{"501"}, f.Networks[0].TrainedOn)
	require.Nil(t, f.Networks[1].TrainedOn)
	require.Equal(t, "imagesTr", f.Datasets[0].Pool.Folder)
	require.Equal(t, []uint64{3, 1}, f.Seeds)
	require.Equal(t, map[string]float64{"Dice": 0.01}, f.Statistics.Tie)
	require.Equal(t, []float64{1, 2, 2.5, 3}, f.Evaluate.tolerances())
	require.Equal(t, uint32(7), f.Table().Seed)
	want := withoutLines(f)
	for name, text := range map[string]string{"grid.toml": inTOML, "grid.json": inJSON} {
		f, err := Read(write(t, filepath.Join(folder, name), text))
		require.NoError(t, err, name)
		require.Equal(t, want, withoutLines(f), name)
	}
}

// What is left out has the defaults of the description.
func TestDefaultsOfAFile(t *testing.T) {
	f, err := Read(write(t, filepath.Join(t.TempDir(), "few.yaml"), "shots: [1]\n"))
	require.NoError(t, err)
	require.Equal(t, "few", f.Name)
	require.Equal(t, 3, f.Draws)
	require.Equal(t, []uint64{0, 1, 2}, f.Seeds)
	require.Equal(t, Balanced, f.Draw)
	require.Equal(t, []string{"Dice", "NSD_2", "HD95", "recall", "F1"}, f.Evaluate.Metrics)
	require.Equal(t, Statistics{Primary: "Dice", Alpha: 0.05, Resamples: 10000,
		Tie: map[string]float64{"Dice": 0.005, "NSD_2": 0.005, "HD95": 0.1}}, f.Statistics)
	require.Equal(t, Keep{Checkpoints: "delta"}, f.Keep)
	_, err = Read(write(t, filepath.Join(t.TempDir(), "none.yaml"), "# nothing\n"))
	require.NoError(t, err, "a table of scores needs no more")
}

// Every mistake names the file, the line, the key and, where there is one, the nearest valid one.
func TestMistakesNameLineKeyAndNearestKey(t *testing.T) {
	folder := t.TempDir()
	for _, x := range []struct{ text, want string }{
		{"shots: [1]\ndrows: 3\n", "2: drows: no such key; did you mean draws?"},
		{"quite-other: 3\n", "1: quite-other: no such key; expected datasets, draw, draws, evaluate, keep, methods, name, "},
		{"draws: 0\n", `1: draws: found "0", expected a whole number of at least 1 and at most 1000`},
		{"draws: [3]\n", "1: draws: found a list, expected one value"},
		{"draws: {a: 1}\n", "1: draws: found a table, expected a value"},
		{"draw: balance\n", `1: draw: found "balance", expected balanced or random`},
		{"name: a/b\n", `1: name: found "a/b", expected a name without a folder`},
		{`name: "x\ntouch owned"`, `1: name: found "x\ntouch owned", expected one line without control characters`},
		{`networks: {"a\eb": {checkpoint: x}}`, `1: networks.a` + "\x1b" + `b: found "a\x1bb", expected a name of one line, without a comma`},
		{"seed: -1\n", `1: seed: found "-1", expected a whole number of at least 0`},
		{"seed: 4294967295\n", "1: seed: found 4294967295, expected a number that with 3 draws stays below 2^32"},
		{"seeds: 0\n", `1: seeds: found "0", expected a number from 1 to 1000, or a list of seeds`},
		{"seeds: [1, 1]\n", "1: seeds: 1 is there twice"},
		{"seeds: [-1]\n", `1: seeds: found "-1", expected whole numbers from 0 on`},
		{"seeds: []\n", "1: seeds: found an empty list"},
		{"shots: [5, 1]\n", "1: shots: found 1 behind 5, expected ascending numbers"},
		{"shots: [5, 5]\n", "1: shots: found 5 behind 5, expected ascending numbers"},
		{"shots: [all, 5]\n", "1: shots: found all before 5, expected it last"},
		{"shots: [0]\n", `1: shots: found "0", expected numbers of cases from 1 on, and all last`},
		{"shots: [01]\n", `1: shots: found "01", expected numbers of cases from 1 on, and all last`},
		{"shots: []\n", "1: shots: found an empty list"},
		{"shots:\n- [1]\n", "2: shots: found a list in the list, expected values"},
		{"datasets: 5\n", `1: datasets: found "5", expected names with a table each`},
		{"datasets: {a: 5}\n", `1: datasets.a: found "5", expected a table`},
		{"datasets:\n  a:\n    test: imagesTs\n", "2: datasets.a: dataset is missing: the number or name of a raw dataset"},
		{"datasets:\n  a: {dataset: 1}\n", "2: datasets.a: test is missing: imagesTs, a list of cases, or a number"},
		{"datasets:\n  a:\n    dataset: 1\n    test: imagesTr\n", `4: datasets.a.test: found "imagesTr", expected imagesTs, a list of cases, or a number`},
		{"datasets:\n  a:\n    dataset: 1\n    test: 0\n", `4: datasets.a.test: found "0", expected imagesTs`},
		{"datasets:\n  a:\n    dataset: 1\n    test: [x,\n x]\n", "5: datasets.a.test: case x is there twice"},
		{"datasets:\n  a:\n    dataset: 1\n    test: 1\n    pool: 3\n", `5: datasets.a.pool: found "3", expected imagesTr or a list of cases`},
		{"datasets:\n  a:\n    dataset: 1\n    test: 1\n    patient: x(\n", "5: datasets.a.patient: error parsing regexp: missing closing ): `x(`"},
		{"datasets:\n  a:\n    dataset: 1\n    test: 1\n    patient: x\n", `5: datasets.a.patient: found "x", expected a pattern with a group: (…) is the patient`},
		{"datasets:\n  a:\n    dataset: 1\n    test: 1\n    patient: (x)\n    patients: y.csv\n", "6: datasets.a.patients: found patient, too: give one of them"},
		{"datasets:\n  a: {dataset: 1, test: 1, pol: 3}\n", "2: datasets.a.pol: no such key; did you mean pool?"},
		{"networks: {a: {checkpoint: x, trained: 3}}\n", "1: networks.a.trained: no such key; did you mean trained-on?"},
		{"networks: {a: {trainer: x}}\n", "1: networks.a: checkpoint is missing: a file, or a model folder"},
		{"networks: {a: {checkpoint: x, method: full}}\n", "1: networks.a.method: belongs into methods"},
		{"train: {pretrained: false}\n", "1: train.pretrained: belongs into methods"},
		{"train:\n  epocs: 3\n", "2: train.epocs: no such key; did you mean epochs?"},
		{"train:\n  epochs: x\n", `2: train.epochs: found "x", expected a whole number of at least 1`},
		{"train:\n  lr: 0\n", `2: train.lr: found "0", expected a number above 0`},
		{"train: {seed: 3}\n", "1: train.seed: an experiment sets this flag itself; give seeds"},
		{"train: {results: x}\n", "1: train.results: an experiment sets this flag itself"},
		{"train: {device: cuda}\n", "1: train.device: an experiment sets this flag itself; give --devices of experiment run"},
		{"methods:\n  a:\n    methd: dgst\n", "3: methods.a.methd: no such key; did you mean method?"},
		{"methods:\n  a:\n    method: dgs\n", `3: methods.a.method: "dgs" is no method of lntorch train; did you mean dgst?`},
		{"methods:\n  a:\n    method: dgst\n    dgst-select: dynamc\n", `4: methods.a.dgst-select: "dynamc" is no value of --dgst-select; did you mean dynamic?`},
		{"methods:\n  a:\n    dgst-selct: static\n", "3: methods.a.dgst-selct: no such key; did you mean dgst-select?"},
		{"methods:\n  a: {method: full, pretrained: maybe}\n", `2: methods.a.pretrained: found "maybe", expected true or false`},
		{"methods:\n  'a,b': {method: full}\n", `2: methods.a,b: found "a,b", expected a name of one line, without a comma`},
		{"train:\n  augmentation: nofile.json\n", `2: train.augmentation: found "nofile.json", expected nnunet, mirror, none, or a file`},
		{"evaluate: {metrics: [Dice, Dise]}\n", `1: evaluate.metrics: "Dise" is no metric of scores.json; did you mean Dice?`},
		{"evaluate: {metrics: [Dice, Dice]}\n", "1: evaluate.metrics: Dice is there twice"},
		{"evaluate: {metrics: 'Dice,HD95'}\n", `1: evaluate.metrics: found "Dice,HD95", expected a list: [Dice, HD95]`},
		{"evaluate: {tta: true}\n", "1: evaluate.tta: no such key; expected disable-tta, metrics, step-size"},
		{"evaluate: {step-size: 2}\n", `1: evaluate.step-size: found "2", expected a number above 0 and at most 1`},
		{"evaluate: {}\nstatistics:\n  primary: dice\n", `3: statistics.primary: "dice" is no metric of evaluate; did you mean Dice?`},
		{"evaluate: {}\nstatistics:\n  tie:\n    IoU: 1\n", `4: statistics.tie.IoU: "IoU" is no metric of evaluate; expected Dice, NSD_2, HD95, recall, F1`},
		{"statistics: {tie: {Dice: -1}}\n", `1: statistics.tie.Dice: found "-1", expected a number of at least 0`},
		{"statistics: {alpha: 1}\n", `1: statistics.alpha: found "1", expected a number above 0 and below 1`},
		{"methods: {full: {method: full}}\nstatistics: {reference: ful}\n", `2: statistics.reference: "ful" is no method and no network; did you mean full?`},
		{"keep: {checkpoints: some}\n", `1: keep.checkpoints: found "some", expected all, final, delta or none`},
		{"keep: [all]\n", "1: keep: found a list, expected a table of checkpoints, predictions"},
	} {
		path := write(t, filepath.Join(folder, "grid.yaml"), x.text)
		_, err := Read(path)
		require.ErrorContains(t, err, path+":"+x.want, x.text)
		var mistake *settings.UsageError
		require.True(t, errors.As(err, &mistake), x.text)
	}
	// All mistakes come at once, in the order of lines.
	_, err := Read(write(t, filepath.Join(folder, "grid.yaml"), "seed: x\nevaluate: {metrics: [Dise]}\ndrows: 1\n"))
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 4, "the primary metric is none of evaluate's, too")
	require.Contains(t, lines[0], ":1: seed")
	require.Contains(t, lines[3], ":3: drows")
}

// Lines are right in TOML and JSON, too.
func TestMistakesInTOMLAndJSON(t *testing.T) {
	folder := t.TempDir()
	for name, x := range map[string]struct{ text, want string }{
		"a.toml": {"draws = 3\n[train]\n# more\nepocs = 3\n", "4: train.epocs: no such key; did you mean epochs?"},
		"b.toml": {"[methods.a]\nmethod = \"dgst\"\nlr = 0.0\n", `3: methods.a.lr: found "0.0", expected a number above 0`},
		"c.json": {"{\"draws\": 3,\n \"train\":\n {\"epocs\": 3}}", "3: train.epocs: no such key; did you mean epochs?"},
		"d.json": {"{\"seeds\": [1,\n\n\"x\"]}", `1: seeds: found "x", expected whole numbers from 0 on`},
	} {
		path := write(t, filepath.Join(folder, name), x.text)
		_, err := Read(path)
		require.ErrorContains(t, err, path+":"+x.want)
	}
}

// Files that are damaged or hostile are refused, with the line where that is known.
func TestDamagedFilesAreRefused(t *testing.T) {
	folder := t.TempDir()
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	for name, x := range map[string]struct{ text, want string }{
		"a.yaml": {"draws: 3\nx: [", "line 2: did not find expected node content"},
		"b.yaml": {"draws: 3\ndraws: 4\n", "line 2: draws is there twice, first on line 1"},
		"c.yaml": {"methods: {a: {method: full, method: dgst}}\n", "line 1: methods.a.method is there twice, first on line 1"},
		"d.yaml": {"- 1\n", "line 1: found a list, expected keys with values"},
		"e.yaml": {"a: 1\n---\nb: 1\n", "found a second document behind ---, expected one"},
		"f.yaml": {"shots: " + deep + "\n", "found more than 200000 values, or more than 16 levels"},
		"g.yaml": {bomb, "found more than 200000 values, or more than 16 levels"},
		"h.yaml": {"shots: &a [*a]\n", "found more than 200000 values, or more than 16 levels"},
		"i.yaml": {"? [a]\n: 1\n", "line 1: found a key that is no text"},
		"a.json": {"{\"draws\": 3,\n", "line 2: unexpected EOF"},
		"b.json": {"{\"draws\": 3}\n{}", "line 2: found more behind the first value"},
		"c.json": {"{\"draws\":\n 3,}", "line 2: invalid character '}'"},
		"d.json": {"{\"shots\":" + deep + "}", "found more than 200000 values, or more than 16 levels"},
		"e.json": {"{\"draws\": 3,\n\"draws\": 4}", "line 2: draws is there twice, first on line 1"},
		"f.json": {"[]", "line 1: found a list, expected keys with values"},
		"a.toml": {"draws = 3\ndraws = 4\n", "draws"},
		"b.toml": {"draws = 3\nx = [\n", "line 2: "},
		"c.toml": {"shots = " + deep + "\n", "found more than 200000 values, or more than 16 levels"},
		"x.ini":  {"", `found ending ".ini", expected .yaml, .toml or .json`},
		"y.yaml": {strings.Repeat("#", 5<<20), "found 5242880 bytes, expected an experiment's file of at most 4194304"},
	} {
		path := write(t, filepath.Join(folder, name), x.text)
		_, err := Read(path)
		require.ErrorContains(t, err, x.want, name)
		require.ErrorContains(t, err, path, name)
		var mistake *settings.UsageError
		require.True(t, errors.As(err, &mistake), name)
	}
	_, err := Read(folder)
	require.ErrorContains(t, err, folder)
	_, err = Read(filepath.Join(folder, "missing.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Anchors and merges of YAML work; a table's own keys win.
func TestYAMLMerges(t *testing.T) {
	f, err := Read(write(t, filepath.Join(t.TempDir(), "a.yaml"), `
methods:
  a: &a {method: dgst, dgst-select: static, epochs: 3}
  b: {<<: *a, epochs: 5}
  c: *a
`))
	require.NoError(t, err)
	require.Equal(t, []string{"5"}, f.Methods[1].Settings[0].Values)
	require.Len(t, f.Methods[1].Settings, 3)
	require.Equal(t, f.Methods[0].Settings[1].Values, f.Methods[2].Settings[1].Values)
}

// A method that registers itself is known to a file without any further code.
func TestNewMethodsWorkInAFile(t *testing.T) {
	finetune.Register(finetune.Entry{Name: "brand-new", Trainer: "nnUNetTrainer_BrandNew", LR: 0.5, Epochs: 7,
		Options: []finetune.Option{{Name: "brand-size", Default: "1", Values: []string{"1", "2"}}},
		New:     func(finetune.Values) (finetune.Method, error) { return nil, nil }})
	folder := t.TempDir()
	f, err := Read(write(t, filepath.Join(folder, "a.yaml"), "methods: {n: {method: brand-new, brand-size: 2}}\n"))
	require.NoError(t, err)
	require.Equal(t, []string{"2"}, f.Methods[0].Settings[1].Values)
	_, err = Read(write(t, filepath.Join(folder, "b.yaml"), "methods: {n: {method: brand-new, brand_size: 3}}\n"))
	require.ErrorContains(t, err, `b.yaml:1: methods.n.brand_size: "3" is no value of --brand-size; expected 1, 2`)
}

func FuzzRead(f *testing.F) {
	for _, x := range []struct{ ending, text string }{{"yaml", inYAML}, {"toml", inTOML}, {"json", inJSON},
		{"yaml", "a: &a [*a]\n"}, {"toml", "[[a]]\nb.c=[{d=1}]\n[a.e]\n"}} {
		f.Add(x.ending, x.text)
	}
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, ending, text string) {
		if ending != "yaml" && ending != "toml" && ending != "json" {
			return
		}
		path := filepath.Join(folder, "a."+ending)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		if _, err := Read(path); err != nil {
			require.ErrorContains(t, err, path)
		}
	})
}

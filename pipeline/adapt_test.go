package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval/nodes"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/train"
	"github.com/lntorch/lntorch/volume"
)

// rawTarget has four training cases (LN_000 to LN_003) and two test cases.
const rawTarget = "testdata/phantom-mini/raw/" + target

// fewCases are the middles of two training cases and one test case: small, so that tests take little.
func fewCases(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "cases")
	for _, name := range []string{"imagesTr/LN_000_0000.nii.gz", "imagesTr/LN_001_0000.nii.gz", "labelsTr/LN_000.nii.gz",
		"labelsTr/LN_001.nii.gz", "imagesTs/LN_004_0000.nii.gz", "labelsTs/LN_004.nii.gz"} {
		f, err := image.Read(repo(t, rawTarget+"/"+name))
		require.NoError(t, err)
		size := f.Head().Size
		values := volume.Cast[int16](f.Values())
		edge := []int{min(32, size[0]), min(32, size[1]), min(16, size[2])}
		var from [3]int
		for i := range from {
			from[i] = (size[i] - edge[i]) / 2
		}
		var middle volume.Slice[int16]
		for z := range edge[2] {
			for y := range edge[1] {
				row := ((from[2]+z)*size[1]+from[1]+y)*size[0] + from[0]
				middle = append(middle, values[row:row+edge[0]]...)
			}
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, image.Write(filepath.Join(root, name), edge, f.Head().Geometry, middle, 1))
	}
	require.NoError(t, copyFile(repo(t, rawTarget+"/dataset.json"), filepath.Join(root, "dataset.json")))
	return root
}

// adaptConfig adapts the small foundation model by two iterations.
func adaptConfig(t *testing.T, cases string) AdaptConfig {
	t.Helper()
	c := settings.New[AdaptConfig]()
	c.Checkpoint, c.Cases, c.Output = repo(t, foundation), cases, filepath.Join(t.TempDir(), "out")
	c.Epochs, c.Iterations, c.ValIterations, c.NoMirror, c.DeviceName = 1, 2, 1, true, "cpu"
	c.Threads = 2
	return c
}

// adapt runs an adaptation and checks what every one leaves.
func adapt(t *testing.T, c AdaptConfig) (*Adapted, string) {
	t.Helper()
	var log bytes.Buffer
	a, err := Adapt(context.Background(), c, Output{Log: &log, Version: "test"})
	require.NoError(t, err, log.String())
	for _, name := range []string{"model/plans.json", "model/dataset.json", "model/fold_0/checkpoint_final.pth",
		"cases.json", "run.json", "report.html", "train/adapt.json"} {
		require.FileExists(t, filepath.Join(c.Output, name))
	}
	hidden, err := filepath.Glob(filepath.Join(c.Output, ".*"))
	require.NoError(t, err)
	require.Empty(t, hidden)
	return a, log.String()
}

// requireReproduces predicts the held-out cases with the delivered model: the files are those in after.
func requireReproduces(t *testing.T, c AdaptConfig, cases ...string) {
	t.Helper()
	p := settings.New[PredictConfig]()
	p.Model, p.Folds, p.Output = filepath.Join(c.Output, "model"), []string{"0"}, t.TempDir()
	p.NoMirror, p.DeviceName, p.Threads = true, "cpu", 2
	for _, name := range cases {
		folder := "imagesTs"
		if name < "LN_004" {
			folder = "imagesTr"
		}
		p.Input = append(p.Input, filepath.Join(c.Cases, folder, name+"_0000.nii.gz"))
	}
	require.NoError(t, Predict(context.Background(), p, Output{}, nil))
	for _, name := range cases {
		want, err := os.ReadFile(filepath.Join(c.Output, "after", name+".nii.gz"))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(p.Output, name+".nii.gz"))
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
}

func readScores(t *testing.T, path string) *scores.Scores {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var s scores.Scores
	require.NoError(t, json.Unmarshal(b, &s))
	return &s
}

// One call takes a model and annotated cases to a model folder, its scores and a report.
func TestAdaptIsTheWholeRoad(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, repo(t, rawTarget))
	a, log := adapt(t, c)
	require.Equal(t, []string{"1 of 6", "2 of 6", "3 of 6", "4 of 6", "5 of 6", "6 of 6"}, stagesIn(log))
	require.Less(t, strings.Index(log, "2 of 6, scores of the model as it is"), strings.Index(log, "4 of 6, training"))
	require.Contains(t, log, "segmentation heads are kept: the labels are the model's: lymph_node")
	requireReproduces(t, c, "LN_004", "LN_005")

	before, after := readScores(t, c.Output+"/before/scores.json"), readScores(t, c.Output+"/after/scores.json")
	require.Len(t, before.Cases, 2)
	require.Equal(t, a.Before.Mean, a.Before.Mean)
	require.Equal(t, before.Mean["1"]["Dice"], a.Means["1"].Before["Dice"])
	require.Equal(t, after.Mean["1"]["NSD_2"], a.Means["1"].After["NSD_2"])
	require.NotEqual(t, before.Mean["1"]["Dice"].Mean, after.Mean["1"]["Dice"].Mean)
	require.FileExists(t, c.Output+"/after/summary.json")

	// The scores before are those of the checkpoint itself.
	p := settings.New[PredictConfig]()
	p.Model, p.Output, p.NoMirror, p.DeviceName, p.Threads = repo(t, foundation), t.TempDir(), true, "cpu", 2
	p.Input = []string{repo(t, rawTarget+"/imagesTs")}
	require.NoError(t, Predict(context.Background(), p, Output{}, nil))
	e := settings.New[EvaluateConfig]()
	e.Reference, e.Prediction = repo(t, rawTarget+"/labelsTs"), p.Output
	own, err := Evaluate(context.Background(), e, Output{})
	require.NoError(t, err)
	require.Equal(t, own.Mean["1"]["Dice"], before.Mean["1"]["Dice"])

	// Held-out cases are not trained on.
	var run struct {
		Cases    map[string]int
		Training struct{ Cases map[string][]string }
		SHA256   map[string]string `json:"sha256"`
	}
	b, err := os.ReadFile(a.Run)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &run))
	require.Equal(t, map[string]int{RoleTrain: 4, RoleTest: 2}, run.Cases)
	require.ElementsMatch(t, []string{"LN_000", "LN_001", "LN_002", "LN_003"}, run.Training.Cases["train"])
	require.Len(t, run.SHA256, 1+2*6)

	var cases []AdaptCase
	b, err = os.ReadFile(a.Cases)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &cases))
	require.Len(t, cases, 6)
	require.Contains(t, strings.Join(a.Notes, " "), "2 held-out cases: only gross failure or gross success shows")
	require.Empty(t, a.Adapter)

	f, err := checkpoint.Open(filepath.Join(a.Model, "fold_0", "checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, "nnUNetTrainer", f.Trainer)

	// Done is done: nothing is written again.
	stamp := func() time.Time {
		info, err := os.Stat(filepath.Join(c.Output, "after", "LN_004.nii.gz"))
		require.NoError(t, err)
		return info.ModTime()
	}
	was := stamp()
	c.Continue = true
	again, log := adapt(t, c)
	require.Equal(t, was, stamp())
	require.NotContains(t, log, "Epoch 0")
	require.Contains(t, log, "6 of 6, report: done already")
	require.Equal(t, a.Means["1"].After["Dice"], again.Means["1"].After["Dice"])

	// One folder holds one adaptation.
	c.Continue = false
	_, err = Adapt(context.Background(), c, Output{})
	require.ErrorContains(t, err, "holds an adaptation already: --c goes on with it")
}

// Means are over the cases where a score is defined before and after, and recall is a mean like the others:
// that of all cases' nodes stands by itself.
func TestAdaptMeansAreOfTheSameCases(t *testing.T) {
	nan := math.NaN()
	side := func(dice []float64, found, count []int) *scores.Scores {
		s := &scores.Scores{Settings: scores.Default(), Labels: map[string]string{"1": "node"}}
		rule := s.Settings.Match[0].String()
		for i, v := range dice {
			d := &scores.Detection{Recall: scores.Number(float64(found[i]) / float64(count[i])),
				Counts: nodes.Counts{TP: found[i], FN: count[i] - found[i]}}
			s.Cases = append(s.Cases, &scores.Case{Case: string(rune('a' + i)), Labels: map[string]*scores.Label{"1": {
				Metrics: scores.Metrics{{Name: "Dice", Value: scores.Number(v)}}, Detection: map[string]*scores.Detection{rule: d}}}})
		}
		return s
	}
	// The second case has no nodes: the model found none, which is undefined, and then one voxel, which is 0.
	a := &adaptation{before: side([]float64{0.8, nan, 0.5}, []int{1, 0, 8}, []int{2, 0, 8}),
		after: side([]float64{0.82, 0, 0.6}, []int{2, 0, 6}, []int{2, 0, 8})}
	m := a.means()["1"]
	require.Equal(t, 2, m.Before["Dice"].N)
	require.InDelta(t, 0.65, float64(m.Before["Dice"].Mean), 1e-12)
	require.InDelta(t, 0.71, float64(m.After["Dice"].Mean), 1e-12)
	require.InDelta(t, 0.15*math.Sqrt2, float64(m.Before["Dice"].SD), 1e-12)
	require.InDelta(t, 0.75, float64(m.Before["recall"].Mean), 1e-12) // of 1/2 and 8/8
	require.InDelta(t, 0.875, float64(m.After["recall"].Mean), 1e-12) // of 2/2 and 6/8
	require.Equal(t, 2, m.After["recall"].N)
	require.InDelta(t, 0.9, float64(m.Before["recall_all_nodes"].Mean), 1e-12)
	require.InDelta(t, 0.8, float64(m.After["recall_all_nodes"].Mean), 1e-12)
	require.Equal(t, 10, m.After["recall_all_nodes"].N)

	a.before.Cases[2].Labels["1"].Detection = nil // noise, not measured: left out on both sides
	m = a.means()["1"]
	require.InDelta(t, 0.5, float64(m.Before["recall_all_nodes"].Mean), 1e-12)
	require.InDelta(t, 1, float64(m.After["recall_all_nodes"].Mean), 1e-12)
	require.Equal(t, []int{2, 2, 1}, []int{m.Before["recall_all_nodes"].N, m.After["recall_all_nodes"].N, m.After["recall"].N})

	a.before = nil // a model of other labels: nothing to be paired with
	m = a.means()["1"]
	require.Nil(t, m.Before)
	require.Equal(t, 3, m.After["Dice"].N)
	require.InDelta(t, 1.42/3, float64(m.After["Dice"].Mean), 1e-12)
	a.after = side([]float64{nan}, []int{0}, []int{0})
	require.False(t, a.means()["1"].After["Dice"].Mean.Defined())
	require.Zero(t, a.means()["1"].After["Dice"].N)
}

// stagesIn lists the stages that a log announces.
func stagesIn(log string) (list []string) {
	for line := range strings.SplitSeq(log, "\n") {
		if before, _, ok := strings.Cut(line, ", "); ok && strings.Contains(before, " of ") && len(before) == 6 {
			list = append(list, before)
		}
	}
	return list
}

// LoRA leaves an adapter, and a model without one.
func TestAdaptWithLoRA(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, fewCases(t))
	c.MethodName = "lora"
	a, _ := adapt(t, c)
	require.FileExists(t, filepath.Join(a.Adapter, "adapter_config.json"))
	requireReproduces(t, c, "LN_004")
	f, err := checkpoint.Open(filepath.Join(a.Model, "fold_0", "checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	require.Zero(t, recogniseNetwork(f.Weights).Adapters)

	// Adapter and base predict what the merged model does.
	p := settings.New[PredictConfig]()
	p.Model, p.Base, p.Output = a.Adapter, repo(t, foundation+"/fold_0/checkpoint_final.pth"), t.TempDir()
	p.NoMirror, p.DeviceName, p.Threads = true, "cpu", 2
	p.Input = []string{filepath.Join(c.Cases, "imagesTs", "LN_004_0000.nii.gz")}
	require.NoError(t, Predict(context.Background(), p, Output{}, nil))
	want, err := os.ReadFile(filepath.Join(c.Output, "after", "LN_004.nii.gz"))
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(p.Output, "LN_004.nii.gz"))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// Strict DGST leaves a sparse delta.
func TestAdaptLeavesADelta(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, fewCases(t))
	c.Options = map[string]OptionValue{"dgst-mode": {Text: "strict"}}
	a, _ := adapt(t, c)
	require.FileExists(t, a.Delta)
	requireReproduces(t, c, "LN_004")
}

// swinFoundation is a checkpoint of a small SwinUNETR with random weights.
func swinFoundation(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	v, err := plans.ReadJSON(repo(t, foundation+"/plans.json"))
	require.NoError(t, err)
	all, _ := v.(*plans.Object).Get("configurations")
	own, _ := all.(*plans.Object).Get("3d_phantom")
	own.(*plans.Object).Set("patch_size", anys([]int{32, 32, 64}))
	dataset, err := plans.ReadJSON(repo(t, foundation+"/dataset.json"))
	require.NoError(t, err)
	file := filepath.Join(root, "checkpoint_final.pth")
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		net, err := models.Build(nn.Builder{Scope: s}, models.Spec{InputChannels: 1, NumClasses: 2,
			Architecture: &models.SwinUNETR{Axes: 3, FeatureSize: 12, Depths: []int{2, 2, 2, 2}, Heads: []int{3, 6, 12, 24}}})
		require.NoError(t, err)
		g, err := torch.NewGenerator(torch.CPU, 5)
		require.NoError(t, err)
		defer g.Close()
		require.NoError(t, net.Module().Reset(g, nil))
		return checkpoint.Save(file, &checkpoint.Training{Network: net.Module(), Trainer: "nnUNetTrainer_SwinUNETR", Epoch: 1,
			SGD: checkpoint.SGDState{Options: torch.SGD{LR: 0.01}, InitialLR: 0.01},
			InitArgs: checkpoint.InitArgs{Plans: v.(*plans.Object), Configuration: "3d_phantom", Fold: "0",
				Dataset: dataset.(*plans.Object), Device: "cpu"}})
	}))
	return file
}

// A network that plans do not describe keeps its trainer, and the log says that nnU-Net must have it.
func TestAdaptSwinUNETR(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, fewCases(t))
	c.Checkpoint, c.BatchSize = swinFoundation(t), 1
	a, log := adapt(t, c)
	require.Contains(t, log, "stock nnU-Net has no nnUNetTrainer_SwinUNETR")
	requireReproduces(t, c, "LN_004")
	f, err := checkpoint.Open(filepath.Join(a.Model, "fold_0", "checkpoint_final.pth"))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, "nnUNetTrainer_SwinUNETR", f.Trainer)
}

// relabelled is a copy of the cases whose labels are changed voxel by voxel, with its own dataset.json.
func relabelled(t *testing.T, labels string, change func(i int, value uint8) uint8) string {
	t.Helper()
	root := fewCases(t)
	for _, folder := range []string{"labelsTr", "labelsTs"} {
		files, err := filepath.Glob(filepath.Join(root, folder, "*.nii.gz"))
		require.NoError(t, err)
		for _, path := range files {
			f, err := image.Read(path)
			require.NoError(t, err)
			values := volume.Cast[uint8](f.Values())
			changed := make(volume.Slice[uint8], len(values))
			for i, v := range values {
				changed[i] = change(i, v)
			}
			h := f.Head()
			require.NoError(t, os.Remove(path))
			require.NoError(t, image.Write(path, h.Size, h.Geometry, changed, 1))
		}
	}
	if labels != "" {
		require.NoError(t, os.WriteFile(filepath.Join(root, "dataset.json"), []byte(labels), 0o644))
	}
	return root
}

// half gives every other row of voxels of a node another label.
func half(i int, value uint8) uint8 {
	if value == 1 && i/7%2 == 1 {
		return 2
	}
	return value
}

// With a label that the model does not know its own head stays, and the model as it is has no scores.
func TestAdaptToTwoLabels(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, relabelled(t, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": 1,
		"necrosis": 2}, "numTraining": 2, "file_ending": ".nii.gz"}`, half))
	a, log := adapt(t, c)
	require.Contains(t, log, "segmentation heads are kept as far as the model knows the labels")
	require.Equal(t, []string{"1 of 5", "2 of 5", "3 of 5", "4 of 5", "5 of 5"}, stagesIn(log))
	require.Nil(t, a.Before)
	require.Len(t, a.Means, 2)
	require.Equal(t, "necrosis", a.Means["2"].Name)
	require.NoFileExists(t, filepath.Join(c.Output, "before"))
	requireReproduces(t, c, "LN_004")
}

// Regions begin with new heads where the model has labels.
func TestAdaptToRegions(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, relabelled(t, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": [1, 2],
		"necrosis": [2]}, "regions_class_order": [1, 2], "numTraining": 2, "file_ending": ".nii.gz"}`, half))
	a, log := adapt(t, c)
	require.Contains(t, log, "segmentation heads are reinitialised: only one of model and cases has regions")
	require.Nil(t, a.Before)
	require.Len(t, a.Means, 2)
	requireReproduces(t, c, "LN_004")

	// The adapted model is of regions itself: adapted again, it is scored before.
	d := adaptConfig(t, c.Cases)
	d.Checkpoint = a.Model
	a, log = adapt(t, d)
	require.Contains(t, log, "segmentation heads are kept: the labels are the model's")
	require.NotNil(t, a.Before)
	require.Equal(t, a.Before.Labels, a.After.Labels)
}

// Label maps with other values are read by --labels-map: everything is as with the values of the model.
func TestAdaptWithALabelMap(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, relabelled(t, "", func(i int, v uint8) uint8 {
		if v == 1 && i%2 == 0 {
			return 7
		}
		return 4 * v
	}))
	require.NoError(t, os.Remove(filepath.Join(c.Cases, "dataset.json")))
	c.LabelsMap = []string{"lymph_node=4,7"}
	_, log := adapt(t, c)
	want := adaptConfig(t, fewCases(t))
	want.Cases = fewCases(t)
	adapt(t, want)
	require.Contains(t, log, "the labels are the model's")
	for _, folder := range []string{"before", "after"} {
		mean := func(output string) string { // as text: NaN is not equal to itself
			return fmt.Sprint(readScores(t, filepath.Join(output, folder, "scores.json")).Mean)
		}
		require.Equal(t, mean(want.Output), mean(c.Output), folder)
	}
}

// With three cases none is held out, and the notes say what that means. The model is trained on all.
func TestAdaptWithNothingHeldOut(t *testing.T) {
	torchtest.Require(t)
	root := filepath.Join(t.TempDir(), "cases")
	for _, name := range []string{"LN_000", "LN_001", "LN_002"} {
		for from, to := range map[string]string{"imagesTr/" + name + "_0000.nii.gz": "images/" + name + ".nii.gz",
			"labelsTr/" + name + ".nii.gz": "labels/" + name + ".nii.gz"} {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, to)), 0o755))
			require.NoError(t, copyFile(repo(t, rawTarget+"/"+from), filepath.Join(root, to)))
		}
	}
	c := adaptConfig(t, root)
	a, log := adapt(t, c)
	require.Equal(t, []string{"1 of 4", "2 of 4", "3 of 4", "4 of 4"}, stagesIn(log))
	require.Contains(t, strings.Join(a.Notes, " "), "No case is held out: there is none to spare of 3 annotated cases")
	require.Nil(t, a.Before)
	require.Nil(t, a.After)
	require.Contains(t, log, "3 training and 3 validation cases")
	page, err := os.ReadFile(a.Report)
	require.NoError(t, err)
	require.Contains(t, string(page), "No case was held out: nothing here shows that the adapted model is better")
	require.Contains(t, string(page), "patches of the training cases together")
}

// A refit trains on the held-out cases too; the scores stay those of the model before it.
func TestAdaptRefits(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, fewCases(t))
	c.Val, c.Refit, c.Anonymous = "LN_001", true, true
	c.CommandLine = []string{"lntorch", "adapt", "--cases", c.Cases}
	a, log := adapt(t, c)
	require.Len(t, stagesIn(log), 7)
	require.Contains(t, log, "1 training and 1 validation cases")
	require.Contains(t, log, "2 training and 2 validation cases")
	require.Contains(t, strings.Join(a.Notes, " "), "The model that is delivered was trained on the held-out cases")
	require.Len(t, a.After.Cases, 2) // LN_001, and the test set
	sum := func(folder string) string {
		f, err := checkpoint.Open(filepath.Join(folder, "fold_0", "checkpoint_final.pth"))
		require.NoError(t, err)
		defer f.Close()
		digest, err := f.Digest(models.Canonical)
		require.NoError(t, err)
		return digest
	}
	require.NotEqual(t, sum(a.Model), sum(filepath.Join(c.Output, "train", "model")))

	// --anonymous: the page that travels names no case and no folder; cases.json, which stays, does.
	page, err := os.ReadFile(a.Report)
	require.NoError(t, err)
	for _, name := range []string{"LN_00", c.Cases, c.Output} {
		require.NotContains(t, string(page), name)
	}
	require.Contains(t, string(page), "case-1")
	require.Contains(t, string(page), "a model trained on 1 case, with 2 cases held out of its training")
	require.Contains(t, string(page), "another model, trained on 2 cases, 1 of those held out among them (--refit)")
	require.Contains(t, string(page), "patches of the training cases together")
	require.NotContains(t, string(page), "never trained on")
}

// A forecast writes nothing.
func TestAdaptDryRun(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, repo(t, rawTarget))
	c.DryRun = true
	a, err := Adapt(context.Background(), c, Output{})
	require.NoError(t, err)
	require.NoFileExists(t, c.Output)
	require.Len(t, a.Table, 6)
	require.Positive(t, a.Forecast.Iteration)
	require.Positive(t, a.Forecast.Predict)
	require.InDelta(t, a.Forecast.Train, a.Forecast.Iteration*(2+1.0/3), 1e-9)
}

// spy looks into a folder whenever there is progress or a line of the log: it notes files that have the ending
// of images and any content, and keeps the last content of JSON files by name.
type spy struct {
	folder string
	images []string
	json   map[string]string
}

func (s *spy) look() {
	_ = filepath.WalkDir(s.folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil && len(b) > 0 && strings.HasSuffix(path, ".nii.gz") {
			s.images = append(s.images, path)
		}
		if err == nil && strings.HasSuffix(path, ".json") {
			s.json[filepath.Base(path)] = string(b)
		}
		return nil
	})
}

func (s *spy) Begin(string, int)           { s.look() }
func (s *spy) Done(int, string)            { s.look() }
func (s *spy) End()                        { s.look() }
func (s *spy) Write(b []byte) (int, error) { s.look(); return len(b), nil }

// A forecast of images that have to be converted copies none of them, and comes to the plans and sizes that the
// adaptation then has.
func TestAdaptDryRunCopiesNoImage(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, three.archive(t, nil))
	c.ROIs, c.Val = []string{".* [ab]"}, "p16"
	s := &spy{folder: t.TempDir(), json: map[string]string{}}
	t.Setenv("TMPDIR", s.folder)
	dry := c
	dry.DryRun = true
	a, err := Adapt(context.Background(), dry, Output{Log: s, Progress: s})
	require.NoError(t, err)
	require.Positive(t, a.Forecast.Predict)
	require.NoFileExists(t, c.Output)
	left, err := os.ReadDir(s.folder)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, s.images)

	ctx, cancel := context.WithCancel(context.Background())
	_, err = Adapt(ctx, c, Output{Progress: &stageStopper{"2 of 6", cancel}})
	require.ErrorIs(t, err, context.Canceled)
	for _, name := range []string{"dataset_fingerprint.json", "nnUNetPlansAdopted.json"} {
		b, err := os.ReadFile(filepath.Join(c.Output, "train", "preprocessed", adaptDataset, name))
		require.NoError(t, err)
		require.Equal(t, string(b), s.json[name], name)
	}
	// What the forecast takes from the table is what the converted files say.
	e := &adaptation{AdaptConfig: c, work: filepath.Join(c.Output, "train"), record: &adaptRecord{Cases: a.Table}}
	e.dataset, err = plans.LoadDataset(filepath.Join(e.folder("raw"), adaptDataset, "dataset.json"))
	require.NoError(t, err)
	headers := e.headers()
	require.Len(t, headers, 1)
	for path, h := range headers {
		own, err := image.Header(path)
		require.NoError(t, err)
		require.Equal(t, own.Size, h.Size)
		require.InDeltaSlice(t, own.Geometry.Spacing, h.Geometry.Spacing, 1e-6)
	}
}

// --time makes training fit: fewer epochs, or few shorter ones, and never longer than asked for.
func TestAdaptFitsTheTime(t *testing.T) {
	for _, c := range []struct {
		iteration, limit   float64
		epochs, iterations int
	}{
		{0.1, 1e9, 50, 250},
		{0.1, 600, 22, 250}, // 26.67 s an epoch
		{0.1, 60, 20, 28},
		{0.1, 1, 7, 1},
		{10, 1, 1, 1}, // cannot be less
	} {
		f := AdaptForecast{Iteration: c.iteration, Epochs: 50, Iterations: 250, ValIterations: 50}
		f.fit(c.limit, false)
		require.Equal(t, c.epochs, f.Epochs, "%+v", c)
		require.Equal(t, c.iterations, f.Iterations, "%+v", c)
		if c.iteration < 10 {
			require.LessOrEqual(t, f.train(), c.limit, "%+v", c)
		}
	}
}

// Ctrl-C stops in any stage, and --c ends with the bits of a run that was not stopped.
func TestAdaptIsStoppedAndGoesOn(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, fewCases(t))
	c.Epochs, c.Numerics = 2, machine.Reference
	adapt(t, c)
	want, err := os.ReadFile(filepath.Join(c.Output, "after", "LN_004.nii.gz"))
	require.NoError(t, err)

	d := adaptConfig(t, c.Cases)
	d.Epochs, d.Numerics = 2, machine.Reference
	// What a kill leaves while a model is delivered and while the record is written, and what is another's.
	halfWritten := map[string]string{".adapt-3571": "model/fold_0/checkpoint_final.pth", ".lntorch.0123abcd.tmp": "",
		"train/.adapt-1": "model/plans.json", "train/.lntorch.00000000.tmp": ""}
	foreign := map[string]string{".adapt-notes": "mine", ".adapt-12": ""}
	for i, task := range []string{"1 of 6", "2 of 6", "3 of 6", "4 of 6, training: epoch 2", "5 of 6", ""} {
		ctx, cancel := context.WithCancel(context.Background())
		p := &stageStopper{task: task, cancel: cancel}
		e := d
		if i > 0 { // all but the folder is known
			e = settings.New[AdaptConfig]()
			e.Output, e.Continue, e.DeviceName, e.Threads = d.Output, true, "cpu", 2
			for _, list := range []map[string]string{halfWritten, foreign} {
				for name, below := range list {
					path := filepath.Join(d.Output, name, below)
					require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
					require.NoError(t, os.WriteFile(path, []byte("half"), 0o644))
				}
			}
		}
		var log bytes.Buffer
		_, err := Adapt(ctx, e, Output{Log: &log, Progress: p, Version: "test"})
		cancel()
		for name := range halfWritten {
			_, err := os.Stat(filepath.Join(d.Output, name))
			require.ErrorIs(t, err, fs.ErrNotExist, name)
		}
		if task == "" {
			require.NoError(t, err, log.String())
			break
		}
		require.ErrorIs(t, err, context.Canceled, log.String())
		require.ErrorContains(t, err, "stopped in stage "+task[:6])
		require.ErrorContains(t, err, "the same command with --c goes on from there")
	}
	got, err := os.ReadFile(filepath.Join(d.Output, "after", "LN_004.nii.gz"))
	require.NoError(t, err)
	require.Equal(t, want, got)

	for name := range foreign {
		_, err := os.Stat(filepath.Join(d.Output, name))
		require.NoError(t, err)
	}

	// Other settings than it began with are refused by name.
	e := d
	e.Continue, e.Iterations, e.MethodName = true, 5, "full"
	_, err = Adapt(context.Background(), e, Output{})
	var usage *settings.UsageError
	require.ErrorAs(t, err, &usage)
	require.ErrorContains(t, err, "--iterations was 2 and is 5; --method was dgst and is full")
}

// stageStopper cancels when the progress of a task begins.
type stageStopper struct {
	task   string
	cancel func()
}

func (s *stageStopper) Begin(task string, _ int) {
	if s.task != "" && strings.HasPrefix(task, s.task) {
		s.cancel()
	}
}
func (s *stageStopper) Done(int, string) {}
func (s *stageStopper) End()             {}

// A folder appears whole, with the files below it, in the place of what was there; where writing it fails, what
// was there stays.
func TestFoldersAreReplacedWhole(t *testing.T) {
	root := t.TempDir()
	from, to := filepath.Join(root, "from"), filepath.Join(root, "to")
	for _, name := range []string{"from/adapter_config.json", "from/deep/adapter_model.safetensors", "to/old"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(name), 0o644))
	}
	failed := errors.New("full")
	require.ErrorIs(t, replaceFolder(to, func(folder string) error {
		require.NoError(t, copyFolder(from, folder))
		return failed
	}), failed)
	require.FileExists(t, filepath.Join(to, "old"))
	require.NoError(t, replaceFolder(to, func(folder string) error { return copyFolder(from, folder) }))
	require.NoFileExists(t, filepath.Join(to, "old"))
	for _, name := range []string{"adapter_config.json", "deep/adapter_model.safetensors"} {
		b, err := os.ReadFile(filepath.Join(to, name))
		require.NoError(t, err)
		require.Equal(t, "from/"+name, string(b))
	}
	left, err := filepath.Glob(filepath.Join(root, ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A file that changed while an adaptation rested is found.
func TestAdaptGoesOnOnlyWithTheSameFiles(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, relabelled(t, "", func(_ int, v uint8) uint8 { return v }))
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Adapt(ctx, c, Output{Progress: &stageStopper{"3 of 6", cancel}})
	require.ErrorIs(t, err, context.Canceled)
	path := filepath.Join(c.Cases, "labelsTr", "LN_001.nii.gz")
	other, err := os.ReadFile(filepath.Join(c.Cases, "labelsTs", "LN_004.nii.gz"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, other, 0o644))
	c.Continue = true
	_, err = Adapt(context.Background(), c, Output{})
	require.ErrorContains(t, err, path+" has changed since the adaptation began")
}

// A slice that changed while the cases were being converted is found by the image's voxels.
func TestAdaptGoesOnOnlyWithTheSameSlices(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, three.archive(t, nil))
	c.ROIs = []string{".* [ab]"}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Adapt(ctx, c, Output{Progress: &stageStopper{"1 of 4", cancel}})
	require.ErrorIs(t, err, context.Canceled)
	files, err := filepath.Glob(filepath.Join(c.Cases, "p17", "ct", "*.dcm"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	was, err := os.ReadFile(files[0])
	require.NoError(t, err)
	other := bytes.Clone(was)
	other[len(other)-2]++ // the last pixel's low byte
	require.NoError(t, os.WriteFile(files[0], other, 0o644))
	c.Continue = true
	_, err = Adapt(context.Background(), c, Output{})
	require.ErrorContains(t, err, "case p17: the image "+filepath.Join(c.Cases, "p17", "ct")+" has changed since the adaptation began")

	require.NoError(t, os.WriteFile(files[0], was, 0o644))
	ctx, cancel = context.WithCancel(context.Background())
	_, err = Adapt(ctx, c, Output{Progress: &stageStopper{"2 of 4", cancel}})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "stopped in stage 2 of 4")
}

// The data that a header names belong to the image.
func TestAdaptGoesOnOnlyWithTheSameData(t *testing.T) {
	torchtest.Require(t)
	from, root := fewCases(t), filepath.Join(t.TempDir(), "cases")
	c := adaptConfig(t, root)
	for _, name := range []string{"LN_000", "LN_001"} {
		f, err := image.Read(filepath.Join(from, "imagesTr", name+"_0000.nii.gz"))
		require.NoError(t, err)
		g, size := f.Head().Geometry, f.Head().Size
		text := fmt.Sprintf("ObjectType = Image\nNDims = 3\nDimSize = %d %d %d\nElementType = MET_SHORT\n", size[0], size[1], size[2])
		for key, values := range map[string][]float64{"TransformMatrix": g.Direction, "Offset": g.Origin, "ElementSpacing": g.Spacing} {
			text += key + " = " + strings.Trim(fmt.Sprint(values), "[]") + "\n"
		}
		var data bytes.Buffer
		require.NoError(t, binary.Write(&data, binary.LittleEndian, []int16(volume.Cast[int16](f.Values()))))
		require.NoError(t, os.MkdirAll(filepath.Join(root, "images"), 0o755))
		require.NoError(t, os.MkdirAll(filepath.Join(root, "labels"), 0o755))
		path := filepath.Join(root, "images", name)
		require.NoError(t, os.WriteFile(path+".raw", data.Bytes(), 0o644))
		require.NoError(t, os.WriteFile(path+".mhd", []byte(text+"ElementDataFile = "+name+".raw\n"), 0o644))
		require.NoError(t, copyFile(filepath.Join(from, "labelsTr", name+".nii.gz"), filepath.Join(root, "labels", name+".nii.gz")))
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Adapt(ctx, c, Output{Progress: &stageStopper{"2 of 4", cancel}})
	require.ErrorIs(t, err, context.Canceled)
	path := filepath.Join(root, "images", "LN_001.raw")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[100]++
	require.NoError(t, os.WriteFile(path, data, 0o644))
	c.Continue = true
	_, err = Adapt(context.Background(), c, Output{})
	require.ErrorContains(t, err, path+" has changed since the adaptation began")
}

func TestAdaptRefusals(t *testing.T) {
	torchtest.Require(t)
	for name, c := range map[string]struct {
		change func(c *AdaptConfig)
		want   string
	}{
		"no output":      {func(c *AdaptConfig) { c.Output = "" }, "-o is not given"},
		"no checkpoint":  {func(c *AdaptConfig) { c.Checkpoint = "" }, "--checkpoint is not given"},
		"no cases":       {func(c *AdaptConfig) { c.Cases = "" }, "--cases is not given"},
		"time":           {func(c *AdaptConfig) { c.Time = "half an hour" }, `--time: found "half an hour", expected a time such as 30m or 2h`},
		"negative time":  {func(c *AdaptConfig) { c.Time = "-5m" }, "--time: found"},
		"method":         {func(c *AdaptConfig) { c.MethodName = "dgts" }, "dgts"},
		"other option":   {func(c *AdaptConfig) { c.Options = map[string]OptionValue{"lora-r": {Text: "4"}} }, "--lora-r"},
		"dry and again":  {func(c *AdaptConfig) { c.DryRun, c.Continue = true, true }, "--dry-run and --c"},
		"nothing before": {func(c *AdaptConfig) { c.Continue, c.Cases = true, "" }, "no adaptation has begun there"},
		"no model":       {func(c *AdaptConfig) { c.Checkpoint = t.TempDir() }, "name the file"},
		"not empty": {func(c *AdaptConfig) {
			require.NoError(t, os.MkdirAll(filepath.Join(c.Output, "photos"), 0o755))
		}, "is not empty, it holds photos: name a new folder"},
		"file": {func(c *AdaptConfig) { require.NoError(t, os.WriteFile(c.Output, nil, 0o644)) }, "-o "},
	} {
		t.Run(name, func(t *testing.T) {
			config := adaptConfig(t, repo(t, rawTarget))
			c.change(&config)
			_, err := Adapt(context.Background(), config, Output{})
			require.ErrorContains(t, err, c.want)
			require.NoFileExists(t, filepath.Join(config.Output, "train", "adapt.json"))
		})
	}
	// Heads of other classes cannot be kept.
	c := adaptConfig(t, relabelled(t, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": 1,
		"necrosis": 2}, "numTraining": 2, "file_ending": ".nii.gz"}`, half))
	c.Head = AdaptHeadKeep
	_, err := Adapt(context.Background(), c, Output{})
	require.ErrorContains(t, err, "--head keep: the model has 2 segmentation heads, the labels of the cases need 3")
}

// DICOM series and RTSTRUCTs become files that nnU-Net reads, and the model predicts from a series what it
// predicts from its file.
func TestAdaptFromDICOM(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, three.archive(t, nil))
	c.ROIs = []string{".* [ab]"}
	a, log := adapt(t, c)
	require.Contains(t, log, "3 training and 3 validation cases")
	made := filepath.Join(c.Output, "train", "raw", adaptDataset, "imagesTr", "p17_0000.nii.gz")
	var predicted []volume.Pixels
	for _, in := range []string{filepath.Join(c.Cases, "p17", "ct"), made} {
		p := settings.New[PredictConfig]()
		p.Model, p.Output, p.NoMirror, p.DeviceName, p.Threads = a.Model, t.TempDir(), true, "cpu", 2
		p.Input = []string{in}
		require.NoError(t, Predict(context.Background(), p, Output{}, func(x Prediction) error {
			f, err := image.Read(x.Output)
			require.NoError(t, err)
			predicted = append(predicted, f.Values())
			return nil
		}))
	}
	require.Len(t, predicted, 2)
	require.Equal(t, predicted[0], predicted[1])

	// run.json has the voxels' sum: of the shape as text, and of float32.
	f, err := image.Read(made)
	require.NoError(t, err)
	size := f.Head().Size
	sum := sha256.New()
	fmt.Fprintf(sum, "[1 %d %d %d]\n", size[2], size[1], size[0])
	require.NoError(t, binary.Write(sum, binary.LittleEndian, []float32(volume.Cast[float32](f.Values()))))
	var run struct {
		Voxels map[string]map[string]string `json:"voxels_sha256"`
	}
	b, err := os.ReadFile(a.Run)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &run))
	require.Len(t, run.Voxels, 3)
	require.Equal(t, hex.EncodeToString(sum.Sum(nil)), run.Voxels["p17"]["image"])
	require.Len(t, run.Voxels["p17"]["label"], 64)
}

// A case in which something is wrong ends it before anything is there.
func TestAdaptRefusesBadCases(t *testing.T) {
	torchtest.Require(t)
	c := adaptConfig(t, relabelled(t, "", func(_ int, v uint8) uint8 { return 2 * v }))
	_, err := Adapt(context.Background(), c, Output{})
	require.ErrorContains(t, err, "LN_000")
	require.NoFileExists(t, c.Output)
}

// What JSON cannot name an adaptation could not go on with: it is refused before anything is trained.
func TestAdaptRefusesNamesThatAreNotUTF8(t *testing.T) {
	torchtest.Require(t)
	const name = "M\xfcller" // of a share with Latin-1 names
	refused := func(c AdaptConfig, want string) {
		t.Helper()
		_, err := Adapt(context.Background(), c, Output{})
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "not UTF-8")
		require.ErrorContains(t, err, "rename it, or make a link to it")
		require.NoFileExists(t, c.Output)
	}
	c := adaptConfig(t, fewCases(t))
	for from, to := range map[string]string{"imagesTr/LN_001_0000.nii.gz": "imagesTr/" + name + "_0000.nii.gz",
		"labelsTr/LN_001.nii.gz": "labelsTr/" + name + ".nii.gz"} {
		require.NoError(t, os.Rename(filepath.Join(c.Cases, from), filepath.Join(c.Cases, to)))
	}
	refused(c, `M\xfcller_0000.nii.gz"`)
	c.DryRun = true
	refused(c, `labelsTr/M\xfcller.nii.gz"`)
	c.SkipBad = true // without that case
	_, err := Adapt(context.Background(), c, Output{})
	require.NoError(t, err)

	for _, flag := range []string{"cases", "test", "checkpoint"} {
		c := adaptConfig(t, fewCases(t))
		for known, path := range map[string]*string{"cases": &c.Cases, "checkpoint": &c.Checkpoint, "test": &c.Test} {
			if known == flag {
				link := filepath.Join(t.TempDir(), name)
				require.NoError(t, os.Symlink(cmp.Or(*path, c.Cases), link))
				*path = link
			}
		}
		refused(c, "--"+flag+`: "/`)
	}
}

// Heads follow the labels.
func TestAdaptChoosesHeads(t *testing.T) {
	dataset := func(labels string) *plans.Dataset {
		v, err := plans.DecodeJSON([]byte(`{"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", ` + labels + `}`))
		require.NoError(t, err)
		d, err := plans.DatasetFromObject(v.(*plans.Object), "dataset.json")
		require.NoError(t, err)
		return d
	}
	one := dataset(`"labels": {"background": 0, "node": 1}`)
	two := dataset(`"labels": {"background": 0, "node": 1, "vessel": 2}`)
	turned := dataset(`"labels": {"background": 0, "vessel": 1, "node": 2}`)
	moved := dataset(`"labels": {"background": 0, "vessel": 1, "tumor": 2}`)
	half := dataset(`"labels": {"background": 0, "node": 1, "tumor": 2}`)
	renamed := dataset(`"labels": {"background": 0, "knoten": 1, "gefaess": 2}`)
	other := dataset(`"labels": {"background": 0, "liver": 1}`)
	three := dataset(`"labels": {"background": 0, "liver": 1, "kidney": 2, "spleen": 3}`)
	regions := dataset(`"labels": {"background": 0, "node": [1, 2], "core": [2]}, "regions_class_order": [1, 2]`)
	for _, c := range []struct {
		model, cases *plans.Dataset
		head         train.Head
		comparable   bool
	}{
		{one, one, train.HeadKeep, true},
		{one, other, train.HeadKeep, true},
		{two, turned, train.HeadExtend, false},
		{two, moved, train.HeadExtend, false},
		{two, half, train.HeadExtend, false},
		{two, renamed, train.HeadKeep, true},
		{one, two, train.HeadExtend, false},
		{two, three, train.HeadReset, false},
		{two, regions, train.HeadReset, false},
		{regions, regions, train.HeadKeep, true},
	} {
		a := &adaptation{dataset: c.cases, record: &adaptRecord{}}
		a.model.Dataset, a.Head = c.model, AdaptHeadAuto
		head, why := a.heads()
		require.Equal(t, c.head, head, why)
		require.Equal(t, c.comparable, a.comparable(), why)
		require.Equal(t, c.comparable, a.compared(), why)
		a.record.Stages = []stageRecord{{Stage: stageBefore}} // by an earlier version
		require.True(t, a.compared(), why)
		a.Head = AdaptHeadReset
		head, _ = a.heads()
		require.Equal(t, train.HeadReset, head)
	}
}

// Stock nnU-Net's command loads the delivered model and segments as lntorch does.
func TestLiveAdaptedModelIsStockNnUNets(t *testing.T) {
	golden.Python(t)
	torchtest.Require(t)
	for _, method := range []string{"dgst", "lora"} {
		c := adaptConfig(t, fewCases(t))
		c.MethodName, c.Numerics = method, machine.Reference
		a, _ := adapt(t, c)
		out := t.TempDir()
		golden.Run(t, "nnunet_stack.py", "--threads", "2", "predict", "--entry", "--disable-tta", "--folds", "0",
			"--model-folder", a.Model, "--input-dir", filepath.Join(c.Cases, "imagesTs"), "--output-dir", out)
		stock, err := image.Read(filepath.Join(out, "LN_004.nii.gz"))
		require.NoError(t, err)
		own, err := image.Read(filepath.Join(c.Output, "after", "LN_004.nii.gz"))
		require.NoError(t, err)
		want, got := volume.Cast[int32](stock.Values()), volume.Cast[int32](own.Values())
		require.Contains(t, want, int32(1))
		t.Logf("%s: %d of %d labels differ", method, different(got, want), len(want))
		require.Len(t, got, len(want))
		require.LessOrEqual(t, different(got, want), len(want)/10000)
	}
}

package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// labelFile writes labels on a grid.
func labelFile(t *testing.T, path string, shape [3]int, labels []uint8, change func(*volume.ITK)) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	g := &volume.ITK{Spacing: []float64{0.8, 0.8, 3}, Origin: []float64{-10, 20, 5},
		Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	if change != nil {
		change(g)
	}
	require.NoError(t, image.Write(path, []int{shape[2], shape[1], shape[0]}, g,
		volume.Slice[uint8](labels), 1))
}

// summary.json is nnU-Net's to the byte for labels, regions and ignored voxels.
func TestEvaluateWritesNnUNetsSummary(t *testing.T) {
	files, err := filepath.Glob(golden.Path(t, "eval/maps_*.summary.json"))
	require.NoError(t, err)
	require.Len(t, files, 7)
	for _, path := range files {
		want := content(t, path)
		var doc struct {
			Targets []any
			Ignore  *int
			Shape   [3]int
			Cases   []struct{ Name, Ref, Pred string }
		}
		require.NoError(t, json.Unmarshal([]byte(content(t,
			strings.TrimSuffix(path, ".summary.json")+".json")), &doc))
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Chdir(t.TempDir())
			digits := func(s string) []uint8 {
				v := []uint8(s)
				for i, d := range v {
					if v[i] = d - '0'; d >= 'a' {
						v[i] = d - 'a' + 10
					}
				}
				return v
			}
			for _, c := range doc.Cases {
				labelFile(t, "ref/"+c.Name+".nii.gz", doc.Shape, digits(c.Ref), nil)
				labelFile(t, "pred/"+c.Name+".nii.gz", doc.Shape, digits(c.Pred), nil)
			}
			c := EvaluateConfig{Reference: "ref", Prediction: "pred", Summary: "out/summary.json"}
			describeTargets(t, &c, doc.Targets, doc.Ignore)
			settings.Defaults(&c)
			e, err := Evaluate(t.Context(), c, Output{})
			require.NoError(t, err)
			require.Equal(t, want, content(t, "out/summary.json"))
			require.Equal(t, []string{"nodes.csv", "scores.csv", "scores.html", "scores.json",
				"summary.json"},
				namesIn(t, "out"))
			var again scores.Scores
			require.NoError(t, json.Unmarshal([]byte(content(t, "out/scores.json")), &again))
			require.Len(t, again.Cases, len(doc.Cases))
			require.Equal(t, e.Keys(), again.Keys())
		})
	}
}

// describeTargets gives labels as flags, and regions as a dataset.json.
func describeTargets(t *testing.T, c *EvaluateConfig, targets []any, ignore *int) {
	t.Helper()
	regions := false
	for _, target := range targets {
		_, ok := target.([]any)
		regions = regions || ok
	}
	if !regions {
		for _, target := range targets {
			c.Labels = append(c.Labels, int(target.(float64)))
		}
		if ignore != nil {
			c.Ignore = *ignore
		}
		return
	}
	labels := `"background": 0`
	for i, target := range targets {
		text, err := json.Marshal(target)
		require.NoError(t, err)
		labels += fmt.Sprintf(`, "region %d": %s`, i, text)
	}
	if ignore != nil {
		labels += fmt.Sprintf(`, "ignore": %d`, *ignore)
	}
	order := make([]string, len(targets))
	for i := range order {
		order[i] = fmt.Sprint(i + 1)
	}
	c.Dataset = "dataset.json"
	require.NoError(t, os.WriteFile(c.Dataset, []byte(`{"channel_names": {"0": "CT"}, "labels": {`+
		labels+`}, "regions_class_order": [`+strings.Join(order, ", ")+
		`], "numTraining": 1, "file_ending": ".nii.gz"}`), 0o600))
}

// nodesOf is two nodes in a small volume, or fewer.
func nodesOf(first, second bool) []uint8 {
	v := make([]uint8, 6*20*20)
	for z := 1; z < 4; z++ {
		for y := 2; y < 8; y++ {
			for x := 2; x < 8; x++ {
				if first {
					v[(z*20+y)*20+x] = 1
				}
				if second {
					v[(z*20+y+10)*20+x+9] = 1
				}
			}
		}
	}
	return v
}

func evaluated(t *testing.T, c EvaluateConfig) (*Evaluated, error) {
	t.Helper()
	c.Labels = []int{1}
	settings.Defaults(&c)
	return Evaluate(t.Context(), c, Output{})
}

// Swapping the sides swaps what is missed and what is invented; moving both moves nothing but
// centroids.
func TestEvaluateIsSymmetricAndKnowsNoPlace(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	labelFile(t, "a/x.nii.gz", shape, nodesOf(true, true), nil)
	labelFile(t, "b/x.nii.gz", shape, nodesOf(true, false), nil)
	turned := func(g *volume.ITK) {
		g.Origin = []float64{100, -50, 7}
		g.Direction = []float64{0, 0, 1, 1, 0, 0, 0, 1, 0}
	}
	labelFile(t, "c/x.nii.gz", shape, nodesOf(true, true), turned)
	labelFile(t, "d/x.nii.gz", shape, nodesOf(true, false), turned)

	score := func(r, p string) *scores.Label {
		e, err := evaluated(t, EvaluateConfig{Reference: r, Prediction: p, Summary: "o/summary.json"})
		require.NoError(t, err)
		return e.Cases[0].Labels["1"]
	}
	ab, ba := score("a", "b"), score("b", "a")
	require.EqualValues(t, 0.5, ab.Detection["iou:0.3"].Recall)
	require.EqualValues(t, 1, ab.Detection["iou:0.3"].Precision)
	for rule, d := range ab.Detection {
		require.Equal(t, d.Recall, ba.Detection[rule].Precision)
		require.Equal(t, d.Precision, ba.Detection[rule].Recall)
	}
	for _, m := range ab.Metrics {
		switch m.Name {
		case "ASD_ref_to_pred", "ASD_pred_to_ref", "volume_ref_mm3", "volume_pred_mm3":
		default:
			require.Equal(t, m.Value, ba.Metrics.Get(m.Name), m.Name)
		}
	}
	require.Equal(t, ab.Metrics.Get("ASD_ref_to_pred"), ba.Metrics.Get("ASD_pred_to_ref"))

	cd := score("c", "d")
	require.Equal(t, ab.Metrics, cd.Metrics)
	for i, n := range ab.Nodes.Reference {
		require.NotEqual(t, n.Centroid, cd.Nodes.Reference[i].Centroid)
		require.Equal(t, n.Voxels, cd.Nodes.Reference[i].Voxels)
		require.Equal(t, n.Matched, cd.Nodes.Reference[i].Matched)
	}
}

func TestEvaluateSaysWhatIsWrong(t *testing.T) {
	shape := [3]int{6, 20, 20}
	moved := func(g *volume.ITK) { g.Origin = []float64{-10, 20, 5.2} }
	a := nodesOf(true, true)
	for name, c := range map[string]struct {
		make   func(t *testing.T)
		config EvaluateConfig
		says   []string
	}{
		"elsewhere": {
			func(t *testing.T) { labelFile(t, "p/x.nii.gz", shape, a, moved) },
			EvaluateConfig{},
			[]string{"case x: the grids do not agree", "r/x.nii.gz: size 20×20×6, spacing 0.8×0.8×3 mm, " +
				"origin -10, 20, 5,", "p/x.nii.gz: size 20×20×6", "origin -10, 20, 5.2,",
				"--ignore-geometry"}},
		"another size": {
			func(t *testing.T) { labelFile(t, "p/x.nii.gz", [3]int{3, 20, 20}, a[:1200], nil) },
			EvaluateConfig{AnyGeometry: true},
			[]string{"size 20×20×6", "size 20×20×3", "score files of one image"}},
		"no reference": {
			func(t *testing.T) {
				labelFile(t, "p/x.nii.gz", shape, a, nil)
				labelFile(t, "p/y.nii.gz", shape, a, nil)
			},
			EvaluateConfig{},
			[]string{"case y: r/y.nii.gz is not there"}},
		"no prediction": {
			func(t *testing.T) {
				labelFile(t, "p/x.nii.gz", shape, a, nil)
				labelFile(t, "r/z.nii.gz", shape, a, nil)
			},
			EvaluateConfig{},
			[]string{"p: found no prediction for 1 of 2 references (z.nii.gz)", "--chill"}},
		"nothing": {
			func(t *testing.T) { require.NoError(t, os.Mkdir("p", 0o755)) },
			EvaluateConfig{},
			[]string{"p holds no label volumes, expected files that end in .nii, .nii.gz"}},
		"a file and a folder": {
			func(t *testing.T) { labelFile(t, "p/x.nii.gz", shape, a, nil) },
			EvaluateConfig{Prediction: "p/x.nii.gz"},
			[]string{"found a file and a folder"}},
		"fractions": {
			func(t *testing.T) {
				require.NoError(t, os.Mkdir("p", 0o755))
				v := make(volume.Slice[float32], len(a))
				v[7] = 0.5
				require.NoError(t, image.Write("p/x.nii.gz", []int{20, 20, 6}, &volume.ITK{
					Spacing: []float64{1, 1, 1}, Origin: []float64{0, 0, 0},
					Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}, v, 1))
			},
			EvaluateConfig{},
			[]string{"p/x.nii.gz: found the value 0.5, expected whole numbers"}},
		"a rule": {func(t *testing.T) { labelFile(t, "p/x.nii.gz", shape, a, nil) },
			EvaluateConfig{Match: []string{"dice:0.5"}}, []string{`--match: rule "dice:0.5"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			labelFile(t, "r/x.nii.gz", shape, a, nil)
			c.make(t)
			if c.config.Prediction == "" {
				c.config.Prediction = "p"
			}
			c.config.Reference = "r"
			_, err := evaluated(t, c.config)
			require.Error(t, err)
			for _, text := range c.says {
				require.ErrorContains(t, err, text)
			}
			require.NoFileExists(t, "p/summary.json")
		})
	}
}

// Labels that dataset.json does not have are named, once for each side.
func TestEvaluateNamesUnknownLabels(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	odd := nodesOf(true, true)
	odd[0], odd[1] = 2, 200
	for _, name := range []string{"x", "y"} {
		labelFile(t, "r/"+name+".nii.gz", shape, nodesOf(true, true), nil)
		labelFile(t, "p/"+name+".nii.gz", shape, odd, nil)
	}
	require.NoError(t, os.WriteFile("p/dataset.json", []byte(`{"channel_names": {"0": "CT"}, "numTraining": 1,
		"labels": {"background": 0, "node": 1, "ignore": 2}, "file_ending": ".nii.gz"}`), 0o600))
	var said bytes.Buffer
	c := EvaluateConfig{Reference: "r", Prediction: "p"}
	settings.Defaults(&c)
	_, err := Evaluate(t.Context(), c, Output{Log: &said})
	require.NoError(t, err)
	require.Contains(t, said.String(), "WARNING: 2 of 2 predictions hold labels that dataset.json does "+
		"not have, [200] (p/x.nii.gz, p/y.nii.gz): these voxels count as background\n")
	require.NotContains(t, said.String(), "references")
}

// A case that fails stops no other: scores.json lists it, and summary.json needs --chill.
func TestEvaluateScoresWhatItCan(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	for _, name := range []string{"x", "y"} {
		labelFile(t, "r/"+name+".nii.gz", shape, nodesOf(true, true), nil)
		labelFile(t, "p/"+name+".nii.gz", shape, nodesOf(true, false), nil)
	}
	require.NoError(t, os.WriteFile("p/y.nii.gz", []byte("no volume"), 0o600))
	require.NoError(t, os.WriteFile("p/summary.json", []byte("{}"), 0o600)) // of an earlier run
	c := settings.New[EvaluateConfig]()
	c.Reference, c.Prediction, c.Labels = "r", "p", []int{1}
	said := &said{}
	_, err := Evaluate(t.Context(), c, Output{Log: said})
	require.ErrorContains(t, err, "case y: p/y.nii.gz")
	require.Contains(t, said.String(), "p/summary.json is not written, as cases failed, and the one "+
		"that is there is of an earlier run: --chill")
	require.Equal(t, "{}", content(t, "p/summary.json"))
	require.NoError(t, os.Remove("p/summary.json"))

	c = EvaluateConfig{Reference: "r", Prediction: "p"}
	e, err := evaluated(t, c)
	require.ErrorContains(t, err, "case y: p/y.nii.gz")
	require.Len(t, e.Cases, 1)
	require.NoFileExists(t, "p/summary.json")
	require.Contains(t, content(t, "p/scores.json"), `"failed": [
  {
   "case": "y"`)
	c.Chill = true
	_, err = evaluated(t, c)
	require.Error(t, err)
	require.FileExists(t, "p/summary.json")
}

// scores.html has every case, those that failed too, and whatever their files are called.
func TestEvaluateWritesAPage(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	for _, name := range []string{"<script>alert(1)<", "b&\"'"} {
		labelFile(t, "r/"+name+".nii.gz", shape, nodesOf(true, true), nil)
		labelFile(t, "p/"+name+".nii.gz", shape, nodesOf(true, false), nil)
	}
	labelFile(t, "r/z.nii.gz", shape, nodesOf(true, true), nil)
	require.NoError(t, os.WriteFile("p/z.nii.gz", []byte("no volume"), 0o600))
	_, err := evaluated(t, EvaluateConfig{Reference: "r", Prediction: "p"})
	require.ErrorContains(t, err, "case z: ")
	page := content(t, "p/scores.html")
	require.NotContains(t, page, "<script>alert")
	require.Contains(t, page, "&lt;script&gt;alert(1)&lt;")
	require.Contains(t, page, "b&amp;&#34;&#39;")
	require.Contains(t, page, "p against r")
	require.Contains(t, page, "1 case could not be scored and is in no number here")
	_, failed, _ := strings.Cut(page, "Cases that could not be scored")
	require.True(t, strings.Contains(failed, "p/z.nii.gz"), "the reason names the file")
}

// A place that cannot be written to is told before the work.
func TestEvaluateKnowsWhereItCannotWrite(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	labelFile(t, "r/x.nii.gz", shape, nodesOf(true, true), nil)
	labelFile(t, "p/x.nii.gz", shape, nodesOf(true, true), nil)
	require.NoError(t, os.WriteFile("file", nil, 0o600))
	e, err := evaluated(t, EvaluateConfig{Reference: "r", Prediction: "p", Summary: "file/summary.json"})
	require.ErrorContains(t, err, "-o file/summary.json: ")
	require.ErrorContains(t, err, "name a place that can be written to")
	require.Nil(t, e)
	_, err = evaluated(t, EvaluateConfig{Reference: "r", Prediction: "p", Summary: "s/summary.json"})
	require.NoError(t, err)
	require.Equal(t, []string{"nodes.csv", "scores.csv", "scores.html", "scores.json", "summary.json"}, namesIn(t, "s"))
}

// No file that is written takes the place of another one, or of what was read.
func TestEvaluateRefusesToWriteOverFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	for _, folder := range []string{"r", "p"} {
		labelFile(t, folder+"/x.nii.gz", shape, nodesOf(true, true), nil)
	}
	require.NoError(t, os.WriteFile("p/dataset.json", []byte(`{"channel_names": {"0": "CT"}, "numTraining": 1,
		"labels": {"background": 0, "node": 1}, "file_ending": ".nii.gz"}`), 0o600))
	require.NoError(t, os.Link("p/x.nii.gz", "link.json"))
	require.NoError(t, os.Mkdir("linked", 0o700))
	require.NoError(t, os.Link("r/x.nii.gz", "linked/scores.csv"))
	read := []string{"r/x.nii.gz", "p/x.nii.gz", "p/dataset.json"}
	before := map[string]string{}
	for _, path := range read {
		before[path] = content(t, path)
	}
	for name, says := range map[string]string{
		"p/x.nii.gz":          "expected a file that ends in .json",
		"scores.csv":          "expected a file that ends in .json",
		"scores.html":         "expected a file that ends in .json",
		"scores":              "expected a file that ends in .json",
		"scores.json":         "a scores.json of its own comes beside summary.json",
		"link.json":           "link.json would take the place of p/x.nii.gz",
		"p/dataset.json":      "p/dataset.json would take the place of p/dataset.json",
		"linked/summary.json": "linked/scores.csv would take the place of r/x.nii.gz",
	} {
		for _, paths := range [][2]string{{"r/x.nii.gz", "p/x.nii.gz"}, {"r", "p"}} {
			c := EvaluateConfig{Reference: paths[0], Prediction: paths[1], Summary: name}
			settings.Defaults(&c)
			_, err := Evaluate(t.Context(), c, Output{})
			require.ErrorContains(t, err, "-o "+name+": ")
			require.ErrorContains(t, err, says)
			var usage *settings.UsageError
			require.ErrorAs(t, err, &usage, name)
			for _, path := range read {
				require.Equal(t, before[path], content(t, path), name)
			}
			require.NoFileExists(t, "nodes.csv", name)
		}
	}
	for range 2 { // files of an earlier run may be replaced
		_, err := evaluated(t, EvaluateConfig{Reference: "r/x.nii.gz", Prediction: "p/x.nii.gz", Summary: "p/mine.json"})
		require.NoError(t, err)
	}
	require.FileExists(t, "p/scores.json")
}

// specks is a volume of single voxels, so many along each axis.
func specks(along int) (shape [3]int, labels []uint8) {
	n := 2 * along
	labels = make([]uint8, n*n*n)
	for z := 0; z < n; z += 2 {
		for y := 0; y < n; y += 2 {
			for x := 0; x < n; x += 2 {
				labels[(z*n+y)*n+x] = 1
			}
		}
	}
	return [3]int{n, n, n}, labels
}

// A case of noise is scored by its voxels before its nodes take memory; who called learns what is left out, and what
// to do about it where it has flags for that.
func TestEvaluateScoresTheVoxelsOfNoise(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	for _, folder := range []string{"r", "p"} {
		labelFile(t, folder+"/a.nii.gz", shape, nodesOf(true, true), nil)
	}
	along := 1 + int(math.Cbrt(leastRoom/scores.NodeBytes))
	shape, noise := specks(along)
	require.Less(t, 8*len(noise), smallCase)
	labelFile(t, "p/noise.nii.gz", shape, noise, nil)
	labelFile(t, "r/noise.nii.gz", shape, make([]uint8, len(noise)), nil)
	for _, command := range []bool{false, true} {
		var out bytes.Buffer
		var percents collected
		before := gcPercent()
		c := EvaluateConfig{Reference: "r", Prediction: "p", MaxRAM: 0.1, Labels: []int{1}, Command: command}
		settings.Defaults(&c)
		e, err := Evaluate(t.Context(), c, Output{Log: &out, Progress: &percents})
		require.NoError(t, err)
		require.Equal(t, collected{garbageOfSmall, 100}, percents) // the volume is small, what comes of it is not
		require.Equal(t, before, gcPercent())
		require.Empty(t, e.Failed)
		require.Len(t, e.Cases, 2)
		l := e.Cases[1].Labels["1"]
		require.Equal(t, "noise", e.Cases[1].Case)
		require.False(t, l.Measured())
		require.EqualValues(t, 0, l.Metrics.Get("Dice"))
		require.EqualValues(t, 0, l.Metrics.Get("NSD_2")) // by definition: its reference is empty
		spacing := e.Cases[1].Spacing
		require.InDelta(t, float64(along*along*along)*spacing[0]*spacing[1]*spacing[2],
			float64(l.Metrics.Get("volume_pred_mm3")), 1e-6)
		require.Equal(t, 1, e.Aggregate["1"].N)
		require.Equal(t, 2, e.Aggregate["1"].Detection["any"].TP)
		says := fmt.Sprintf("WARNING: case noise, label 1: found 0 nodes in the reference and %d in the prediction, more "+
			"than there is memory for: nodes are not measured, and in no mean or count. Are they labels, and not noise?",
			along*along*along)
		if command {
			says += " If they are, give it more memory with --max-ram."
		}
		require.Contains(t, out.String(), says+"\n")
		require.Equal(t, 1, strings.Count(out.String(), "WARNING"))

		read, err := scores.Read("p/scores.json")
		require.NoError(t, err)
		require.False(t, read.Cases[1].Labels["1"].Measured())
		require.Contains(t, content(t, "p/summary.json"), `p/noise.nii.gz"`)
		require.Contains(t, content(t, "p/scores.html"), "not measured")
	}
}

// collected notes the garbage collector's percent after each case.
type collected []int

func (*collected) Begin(string, int)  {}
func (*collected) End()               {}
func (g *collected) Done(int, string) { *g = append(*g, gcPercent()) }

func gcPercent() int {
	percent := debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	return percent
}

// What cases at work may take together is within the limit, and a case that is alone has all of it.
func TestEvaluateDividesMemoryByTheCasesAtWork(t *testing.T) {
	const g = int64(1) << 30
	for _, x := range []struct {
		workers, cases int
		ram            float64
		free           int64
		want           bounds
	}{
		{8, 20, 0, 16 * g, bounds{8, 16 * g, 16 * g}},
		{8, 1, 0, 16 * g, bounds{1, 16 * g, 16 * g}},
		{8, 2, 0, 16 * g, bounds{2, 16 * g, 16 * g}},
		{8, 20, 0, 2 * g, bounds{4, 2 * g, 2 * g}}, // each has its least
		{8, 20, 1, 16 * g, bounds{2, g, 10 * g}},   // as much is held as the least of twenty is
		{8, 20, 1, 3 * g, bounds{2, g, 3 * g}},     // but not more than there is
		{8, 20, 0.1, g / 8, bounds{1, g / 10, g / 2}},
		{8, 0, 1, g, bounds{1, g, g}},
	} {
		c := EvaluateConfig{Workers: x.workers, MaxRAM: x.ram}
		got := c.boundsOf(x.cases, x.free)
		x.want.limit = max(x.want.limit, got.limit) // 0.1 GiB is rounded
		require.Equal(t, x.want, got, x)
		for _, need := range []int64{0, 1 << 20, g / 4, 3 * g} {
			taken := need + got.room(need)
			require.GreaterOrEqual(t, got.room(need), int64(leastRoom), x)
			if share := got.limit / int64(got.workers); need+leastRoom <= share {
				require.Equal(t, share, taken, x)
			}
		}
	}
}

// The nodes of all cases, too, are held until they are written: those of which, follows from their order, whichever
// is scored first.
func TestEvaluateKeepsSoManyNodesInTheOrderOfCases(t *testing.T) {
	labels := func(reference, prediction int) *scores.Case {
		return &scores.Case{Labels: map[string]*scores.Label{"1": {Detection: map[string]*scores.Detection{}, Nodes: scores.Nodes{
			Reference: make([]scores.Node, reference), Prediction: make([]scores.Node, prediction)}}}}
	}
	for _, order := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {3, 1, 4, 0, 2}} {
		cases := []*scores.Case{labels(3, 2), labels(0, 6), nil, labels(5, 0), labels(1, 0)}
		for i, c := range cases {
			if c != nil {
				c.Case = string(rune('a' + i))
			}
		}
		k := keeping{cases: cases, done: make([]bool, 5), most: 10, forgotten: map[*scores.Label]bool{}}
		for _, i := range order {
			k.add(i)
		}
		for i, kept := range map[int]bool{0: true, 1: false, 3: true, 4: false} {
			require.Equal(t, kept, cases[i].Labels["1"].Measured(), "%v: %d", order, i)
		}
		var out bytes.Buffer
		k.warn(Output{Log: &out}, []eval.Target{eval.Label(1)}, true, 1)
		require.Equal(t, "WARNING: case b, label 1: found 0 nodes in the reference and 6 in the prediction, after 5 in the "+
			"cases before, more than there is memory for: nodes are not measured, and in no mean or count. Are they "+
			"labels, and not noise? If they are, score fewer cases with one call, or give it more memory with --max-ram.\n"+
			"WARNING: case e, label 1: found 1 nodes in the reference and 0 in the prediction, after 10 in the cases before, "+
			"more than there is memory for: nodes are not measured, and in no mean or count. Are they labels, and not "+
			"noise? If they are, score fewer cases with one call, or give it more memory with --max-ram.\n", out.String())
	}
	// Nodes that will be written are many for the garbage collector, too.
	told := 0
	k := keeping{cases: []*scores.Case{labels(0, smallCase/scores.NodeBytes), labels(1, 1)}, done: make([]bool, 2), most: 1e6,
		large: func() { told++ }}
	k.add(0)
	require.Zero(t, told)
	k.add(1)
	require.Equal(t, 1, told)
}

// Of much noise the first lines say enough.
func TestEvaluateWarnsOfNoiseInFewLines(t *testing.T) {
	k := keeping{}
	for range 17 {
		k.cases = append(k.cases, &scores.Case{Case: "x", Labels: map[string]*scores.Label{"1": {Excess: "noise"}}})
	}
	var out bytes.Buffer
	k.warn(Output{Log: &out}, []eval.Target{eval.Label(1)}, false, 1)
	require.Equal(t, 10, strings.Count(out.String(), "case x, label 1: found noise. Are they labels, and not noise?\n"))
	require.Contains(t, out.String(), "WARNING: the same holds for 7 further labels of cases: ")
}

// Without a case that can be scored there is no number, either: 0 mm would be the best of distances.
func TestEvaluateOfNoCase(t *testing.T) {
	t.Chdir(t.TempDir())
	labelFile(t, "r/x.nii.gz", [3]int{6, 20, 20}, nodesOf(true, true), nil)
	require.NoError(t, os.MkdirAll("p", 0o700))
	require.NoError(t, os.WriteFile("p/x.nii.gz", []byte("no volume"), 0o600))
	e, err := evaluated(t, EvaluateConfig{Reference: "r", Prediction: "p"})
	require.ErrorContains(t, err, "case x: p/x.nii.gz")
	require.Len(t, e.Mean["1"], 12)
	for name, m := range e.Mean["1"] {
		require.False(t, m.Mean.Defined(), name)
		require.Zero(t, m.N, name)
	}
	for _, rule := range e.Settings.Match {
		d := e.Aggregate["1"].Detection[rule.String()]
		require.Len(t, d.BySize, 3)
		for _, n := range []scores.Number{d.Recall, d.Precision, d.F1, d.BySize["<5"].Recall} {
			require.False(t, n.Defined(), rule)
		}
	}
}

// A mask that is empty leaves no number behind that looks like one.
func TestEvaluateOfEmptyMasks(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	labelFile(t, "r/both.nii.gz", shape, nodesOf(false, false), nil)
	labelFile(t, "p/both.nii.gz", shape, nodesOf(false, false), nil)
	labelFile(t, "r/missed.nii.gz", shape, nodesOf(true, false), nil)
	labelFile(t, "p/missed.nii.gz", shape, nodesOf(false, false), nil)
	e, err := evaluated(t, EvaluateConfig{Reference: "r", Prediction: "p"})
	require.NoError(t, err)
	text := content(t, "p/scores.csv")
	require.Contains(t, text, "both,1,1,,,,,,,,,,,0,0,both,iou:0.3,0,0,0,,,\n")
	require.Regexp(t, `(?m)^missed,1,1,0,0,0,0,0,,,,,,207\.36\d*,0,prediction,iou:0\.3,0,0,1,0,,$`, text)
	require.Equal(t, 1, e.Mean["1"]["Dice"].N)
	require.Zero(t, e.Mean["1"]["HD95"].N)
	require.Contains(t, content(t, "p/scores.json"), `"HD95": null`)

	c := EvaluateConfig{Reference: "r", Prediction: "p", EmptyDistance: "diagonal"}
	e, err = evaluated(t, c)
	require.NoError(t, err)
	require.InDelta(t, 28.9, float64(e.Mean["1"]["HD95"].Mean), 0.02) // of 16 × 16 × 18 mm
	require.Equal(t, 1, e.Mean["1"]["HD95"].N)
}

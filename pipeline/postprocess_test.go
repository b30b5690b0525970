package pipeline

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

func namesIn(t *testing.T, folder string) (names []string) {
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func content(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// sameLabels compares label files of two folders, voxels and geometry, and gives how many voxels are no background.
func sameLabels(t *testing.T, reader, want, got string) (foreground int) {
	files, err := filesEnding(want, ".nii.gz")
	require.NoError(t, err)
	r, err := images.ForName(reader)
	require.NoError(t, err)
	for _, f := range files {
		a, p, err := r.ReadSeg(f)
		require.NoError(t, err)
		b, q, err := r.ReadSeg(filepath.Join(got, filepath.Base(f)))
		require.NoError(t, err)
		require.Equal(t, a.Shape, b.Shape, f)
		require.Equal(t, a.Pixels, b.Pixels, f)
		require.Equal(t, p, q, f)
		for _, v := range volume.Cast[int32](a.Pixels) {
			if v != 0 {
				foreground++
			}
		}
	}
	return foreground
}

// TestLivePostprocessingEnsemblesAndFoldsAreThoseOfNnUNet runs nnU-Net's functions and ours on the same folders.
func TestLivePostprocessingEnsemblesAndFoldsAreThoseOfNnUNet(t *testing.T) {
	golden.Python(t)
	root := t.TempDir()
	golden.Run(t, "postprocess.py", root)
	t.Run("determine and apply", func(t *testing.T) { comparePostprocessing(t, filepath.Join(root, "pp")) })
	t.Run("ensemble", func(t *testing.T) { compareEnsembles(t, filepath.Join(root, "ensemble")) })
	t.Run("accumulate", func(t *testing.T) { compareAccumulation(t, root) })
	t.Run("find-best", func(t *testing.T) { compareBestConfigurations(t, root) })
}

func comparePostprocessing(t *testing.T, root string) {
	var pkl []string
	kept, small := map[string]bool{}, map[string]float64{}
	for _, name := range namesIn(t, root) {
		in, want := filepath.Join(root, name, "pred"), filepath.Join(root, name, "nnunet")
		p, err := plans.Load(filepath.Join(in, "plans.json"))
		require.NoError(t, err)
		reader := p.ImageReaderWriter
		c := DeterminePostprocessingConfig{Input: in, Reference: filepath.Join(root, name, "ref"), Remove: name == "ignore", Workers: 2}
		d, err := DeterminePostprocessing(t.Context(), c, Output{})
		require.NoError(t, err, name)
		for _, trial := range d.Trials {
			kept[trial.Labels] = kept[trial.Labels] || trial.Kept
		}
		require.Equal(t, namesIn(t, want), namesIn(t, in), name)
		for _, file := range []string{"summary.json", "postprocessing.json"} {
			require.Equal(t, content(t, filepath.Join(want, file)), content(t, filepath.Join(in, file)), "%s: %s", name, file)
		}
		if !c.Remove {
			post, ours := filepath.Join(want, "postprocessed"), filepath.Join(in, "postprocessed")
			require.Equal(t, namesIn(t, post), namesIn(t, ours), name)
			require.Equal(t, content(t, filepath.Join(post, "summary.json")), content(t, filepath.Join(ours, "summary.json")), name)
			require.Positive(t, sameLabels(t, reader, post, ours))
		}
		theirs, err := ReadPostprocessing(filepath.Join(want, "postprocessing.pkl"))
		require.NoError(t, err, name)
		mine, err := ReadPostprocessing(filepath.Join(in, "postprocessing.pkl"))
		require.NoError(t, err, name)
		require.Equal(t, theirs, mine, name)
		pkl = append(pkl, filepath.Join(want, "postprocessing.pkl"), filepath.Join(in, "postprocessing.pkl"))

		for _, file := range []string{filepath.Join(want, "postprocessing.pkl"), filepath.Join(in, "postprocessing.json")} {
			out := filepath.Join(t.TempDir(), "out")
			a, err := ApplyPostprocessing(t.Context(), ApplyPostprocessingConfig{Input: in, Output: out, File: file}, Output{})
			require.NoError(t, err, name)
			require.Len(t, a.Rules, len(theirs))
			applied := filepath.Join(root, name, "applied")
			require.Equal(t, namesIn(t, applied), namesIn(t, out))
			require.Positive(t, sameLabels(t, reader, applied, out))
		}
		if !c.Remove {
			small[name] = compareSmall(t, filepath.Join(root, name), reader, content(t, filepath.Join(in, "postprocessing.pkl")))
		}
	}
	require.Equal(t, map[string]float64{"classes": 0, "falls": 0, "joined": 0, "no_gain": 0, "one": 0, "region": 0, "regions": 20,
		"specks": 20, "touching": 0, "trade": 0}, small, "every kind of choice")
	for _, k := range []string{"foreground", "1", "12", "(2, 3)", "3"} {
		require.True(t, kept[k], "no case keeps the largest component of %s alone", k)
	}
	golden.Run(t, "postprocess.py", append([]string{"--same"}, pkl...)...)
}

// compareSmall determines with --small, and compares with nnU-Net's scores and nodes by brute force. It gives the volume that
// was chosen.
func compareSmall(t *testing.T, folder, reader, pkl string) (chosen float64) {
	in := filepath.Join(folder, "pred")
	c := DeterminePostprocessingConfig{Input: in, Reference: filepath.Join(folder, "ref"), Small: true, Workers: 2}
	d, err := DeterminePostprocessing(t.Context(), c, Output{})
	require.NoError(t, err)
	v, err := plans.ReadJSON(filepath.Join(folder, "small.json"))
	require.NoError(t, err)
	want := v.([]any)
	require.Len(t, d.Small, len(want))
	best := 0
	for i, trial := range d.Small {
		o := want[i].(*plans.Object)
		number := func(key string) float64 {
			value, _ := o.Get(key)
			if n, ok := value.(int64); ok {
				return float64(n)
			}
			return value.(float64)
		}
		require.Equal(t, number("below_mm3"), trial.Below)
		require.Equal(t, plans.PythonFloat(number("dice")), plans.PythonFloat(trial.Dice), "%s below %v", in, trial.Below)
		counts, _ := o.Get("tp_fn_fp")
		falls := false
		for _, key := range counts.(*plans.Object).Keys() {
			list, _ := counts.(*plans.Object).Get(key)
			var n [3]int64
			for k, value := range list.([]any) {
				n[k] = value.(int64)
			}
			got := trial.Nodes[key]
			require.Equal(t, n, [3]int64{int64(got.TP), int64(got.FN), int64(got.FP)}, "%s below %v: %s", in, trial.Below, key)
			f1 := 2 * float64(n[0]) / float64(2*n[0]+n[1]+n[2])
			before := d.Small[0].F1[key]
			falls = falls || f1 < before-1e-9
			if !math.IsNaN(trial.F1[key]) {
				require.InDelta(t, f1, trial.F1[key], 1e-12)
			}
		}
		if number("dice") > d.Small[best].Dice && !falls {
			best = i
		}
	}
	file := filepath.Join(in, "postprocessing.json")
	for i, trial := range d.Small {
		require.Equal(t, i == best && i > 0, trial.Kept, "%s below %v", in, trial.Below)
	}
	require.Equal(t, pkl, content(t, filepath.Join(in, "postprocessing.pkl")), "the pkl holds nnU-Net's rules alone")
	out := filepath.Join(t.TempDir(), "out")
	a, err := ApplyPostprocessing(t.Context(), ApplyPostprocessingConfig{Input: in, Output: out, File: file}, Output{})
	require.NoError(t, err)
	require.Equal(t, d.Small[best].Below, a.Small)
	expected := filepath.Join(folder, fmt.Sprintf("small_%g", a.Small))
	require.Positive(t, sameLabels(t, reader, expected, out))
	require.Positive(t, sameLabels(t, reader, expected, filepath.Join(in, "postprocessed")))
	require.Equal(t, d.Small[best].Dice, d.After)
	if best > 0 {
		require.Equal(t, file, d.File)
		p, err := ReadPostprocessing(file)
		require.NoError(t, err)
		l, err := plans.LoadDataset(filepath.Join(in, "dataset.json"))
		require.NoError(t, err)
		require.Equal(t, RemoveSmall{Labels: l.Labels.ForegroundLabels, Below: a.Small}, p[len(p)-1])
	}
	return a.Small
}

func compareEnsembles(t *testing.T, root string) {
	for _, name := range namesIn(t, root) {
		folder := filepath.Join(root, name)
		inputs := []string{filepath.Join(folder, "first"), filepath.Join(folder, "second"), filepath.Join(folder, "third")}
		out, want := filepath.Join(t.TempDir(), "out"), filepath.Join(folder, "nnunet")
		e, err := Ensemble(t.Context(), EnsembleConfig{Inputs: inputs, Output: out, SaveNpz: true, Workers: 2}, Output{})
		require.NoError(t, err, name)
		require.Equal(t, []string{"LN_0", "LN_1", "LN_2"}, e.Cases)
		require.Subset(t, namesIn(t, out), namesIn(t, want), name)
		require.Positive(t, sameLabels(t, "SimpleITKIO", want, out), name)
		for _, id := range e.Cases {
			shape, a := probabilitiesOf(t, filepath.Join(want, id+".npz"))
			_, b := probabilitiesOf(t, filepath.Join(out, id+".npz"))
			golden.Equal(t, name+" "+id, shape, a, b)
			require.Equal(t, content(t, filepath.Join(inputs[0], id+".pkl")), content(t, filepath.Join(out, id+".pkl")))
		}
		for _, file := range []string{"plans.json", "dataset.json"} {
			require.Equal(t, content(t, filepath.Join(inputs[0], file)), content(t, filepath.Join(out, file)))
		}

		// The ensemble can be a member: twice the first with the second and the third, by files or by weights.
		weighted, again := filepath.Join(t.TempDir(), "weighted"), filepath.Join(t.TempDir(), "again")
		_, err = Ensemble(t.Context(), EnsembleConfig{Inputs: inputs, Output: weighted, Weights: []float64{2, 1, 1}, Workers: 1}, Output{})
		require.NoError(t, err)
		_, err = Ensemble(t.Context(), EnsembleConfig{Inputs: append([]string{inputs[0]}, inputs...), Output: again, Workers: 1}, Output{})
		require.NoError(t, err)
		require.Positive(t, sameLabels(t, "SimpleITKIO", again, weighted))
		require.NoFileExists(t, filepath.Join(weighted, "LN_0.npz"))
		_, err = Ensemble(t.Context(), EnsembleConfig{Inputs: []string{out, inputs[0]}, Output: filepath.Join(t.TempDir(), "o"), Workers: 1}, Output{})
		require.NoError(t, err)
	}
}

func probabilitiesOf(t *testing.T, path string) ([]int, []float32) {
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	a, err := f.Read("probabilities")
	require.NoError(t, err)
	v, err := a.Float32s()
	require.NoError(t, err)
	return a.Shape, v
}

func compareAccumulation(t *testing.T, root string) {
	c := AccumulateConfig{Dataset: "777", Configuration: "3d_fullres", Folds: []int{0, 1, 2}, PlansName: "nnUNetPlans", Trainer: "nnUNetTrainer"}
	c.Raw, c.Preprocessed, c.Results = filepath.Join(root, "raw"), filepath.Join(root, "preprocessed"), filepath.Join(root, "results")
	model := filepath.Join(c.Results, "Dataset777_Pp/nnUNetTrainer__nnUNetPlans__3d_fullres")
	want := filepath.Join(root, "nnunet_accumulated")
	for range 2 { // the folder of the first time is replaced
		a, err := Accumulate(t.Context(), c, Output{})
		require.NoError(t, err)
		require.Equal(t, filepath.Join(model, "crossval_results_folds_0_1_2"), a.Folder)
		require.Equal(t, 7, a.Cases)
		require.Equal(t, namesIn(t, want), namesIn(t, a.Folder))
		for _, file := range namesIn(t, want) {
			require.Equal(t, content(t, filepath.Join(want, file)), content(t, filepath.Join(a.Folder, file)), file)
		}
	}

	refused := func(message string, change func(c *AccumulateConfig)) {
		t.Helper()
		other := c
		change(&other)
		_, err := Accumulate(t.Context(), other, Output{})
		require.ErrorContains(t, err, message)
	}
	refused("has no validation of fold 3, 4; it has folds 0, 1, 2: train them (lntorch train … --val for one that is trained), or name those that there are with -f", func(c *AccumulateConfig) { c.Folds = []int{0, 1, 2, 3, 4} })
	refused("fold 1 is named twice", func(c *AccumulateConfig) { c.Folds = []int{0, 1, 1} })
	refused("holds files already", func(c *AccumulateConfig) { c.Output = want })
	refused("nnUNetTrainer__nnUNetPlans__2d is not there: train the model", func(c *AccumulateConfig) { c.Configuration = "2d" })
	refused("found no references: expected the folder", func(c *AccumulateConfig) { c.Raw = filepath.Join(root, "nowhere") })
	require.NoError(t, copyFile(filepath.Join(model, "fold_1/validation/LN_001.nii.gz"), filepath.Join(model, "fold_0/validation/LN_001.nii.gz")))
	refused("found cases more than once: LN_001.nii.gz in folds 0 and 1", func(*AccumulateConfig) {})
	require.Equal(t, namesIn(t, want), namesIn(t, filepath.Join(model, "crossval_results_folds_0_1_2")), "a failure leaves what was there")
	entries := namesIn(t, model)
	require.Len(t, entries, 6, "%v: nothing temporary stays", entries)
}

// A file that is named as -o stays what it is.
func TestAccumulateReplacesNoFile(t *testing.T) {
	root := t.TempDir()
	c := AccumulateConfig{Dataset: "101", Configuration: "3d_phantom", Folds: []int{0},
		PlansName: "nnUNetPlans", Trainer: "nnUNetTrainer", Output: filepath.Join(root, "notes.txt")}
	c.Results, c.Preprocessed = filepath.Join(root, "results"), filepath.Join(root, "preprocessed")
	model := filepath.Join(c.Results, "Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom")
	writeLabels(t, model, nil)
	labels := map[string][]uint8{"a": {0, 1}}
	writeLabels(t, filepath.Join(model, "fold_0/validation"), labels)
	for _, dataset := range []string{"Dataset101_PhantomSource", "Dataset102_PhantomTarget"} {
		writeLabels(t, filepath.Join(c.Preprocessed, dataset, "gt_segmentations"), labels)
	}
	require.NoError(t, os.WriteFile(c.Output, []byte("mine"), 0o600))
	_, err := Accumulate(t.Context(), c, Output{})
	require.EqualError(t, err, "-o "+c.Output+" is a file: name an empty folder, or one that is not there")
	require.Equal(t, "mine", content(t, c.Output))
	c.Output = filepath.Join(root, "empty")
	require.NoError(t, os.Mkdir(c.Output, 0o700))
	a, err := Accumulate(t.Context(), c, Output{})
	require.NoError(t, err)
	require.Equal(t, 1, a.Cases)
	_, err = Accumulate(t.Context(), c, Output{})
	require.ErrorContains(t, err, "holds files already")
}

// writeLabels writes a folder of label volumes with plans.json and dataset.json of the phantoms.
func writeLabels(t *testing.T, folder string, cases map[string][]uint8) {
	require.NoError(t, os.MkdirAll(folder, 0o777))
	from := "../testdata/phantom-mini/predictions/source_notta"
	for _, file := range []string{"plans.json", "dataset.json"} {
		require.NoError(t, copyFile(filepath.Join(from, file), filepath.Join(folder, file)))
	}
	r, err := images.ForName("SimpleITKIO")
	require.NoError(t, err)
	for name, voxels := range cases {
		p := &images.Properties{SITK: &images.SITK{Spacing: []float64{1, 1, 1}, Origin: []float64{0, 0, 0}, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}}
		im := &volume.Image{Shape: [4]int{1, 1, 1, len(voxels)}, Pixels: volume.Slice[uint8](voxels)}
		require.NoError(t, r.WriteSeg(filepath.Join(folder, name+".nii.gz"), im, p))
	}
}

func TestPostprocessingFilesAreDataAndErrorsSayWhatIsWrong(t *testing.T) {
	folder := t.TempDir()
	in := filepath.Join(folder, "in")
	writeLabels(t, in, map[string][]uint8{"a": {1, 0, 1, 1}})
	apply := func(file string) error {
		_, err := ApplyPostprocessing(t.Context(), ApplyPostprocessingConfig{Input: in, Output: filepath.Join(folder, "out"), File: file}, Output{})
		return err
	}
	pickled := func(functions, arguments []any) string {
		b, err := pickle.Marshal(pickle.Tuple{&pickle.List{Items: functions}, &pickle.List{Items: arguments}}, nil)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "postprocessing.pkl")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	dict := func(key string, value any) *pickle.Dict {
		d := &pickle.Dict{}
		d.Set(key, value)
		return d
	}
	small := func(arguments string) string {
		path := filepath.Join(t.TempDir(), "postprocessing.json")
		require.NoError(t, os.WriteFile(path, []byte(`{"postprocessing_fns": ["remove_small_components"], "postprocessing_kwargs": `+arguments+`}`), 0o600))
		return path
	}
	system := pickle.Global{Module: "posix", Name: "system"}
	for _, c := range []struct{ file, want string }{
		{pickled([]any{system}, []any{dict("command", "touch x")}), `global "posix system" is not allowed`},
		{pickled([]any{pickle.Call{Func: largest, Args: pickle.Tuple{}}}, nil), "calling"},
		{pickled([]any{"remove_everything"}, []any{dict("a", int64(1))}), "found the function remove_everything, expected remove_all_but_largest_component_from_segmentation, the only one of nnU-Net's, or remove_small_components in a .json"},
		{pickled([]any{largest}, nil), "found 1 functions and arguments of 0"},
		{pickled([]any{largest}, []any{dict("labels_or_regions", "1")}), "function 1: labels_or_regions: found a str, expected labels and regions"},
		{pickled([]any{largest}, []any{dict("labels_or_regions", int64(1)<<40)}), "labels_or_regions: found a int, expected labels and regions"},
		{pickled([]any{largest}, []any{dict("voxels", int64(1))}), "found the argument voxels, expected labels_or_regions and background_label"},
		{pickled([]any{largest}, []any{&pickle.Dict{}}), "found no argument labels_or_regions"},
		{small(`[{"below_mm3": 5}]`), "function 1: labels: found none, expected a list of labels"},
		{small(`[{"labels": {"a": 1}, "below_mm3": 5}]`), "function 1: labels: found an object, expected a list of labels"},
		{small(`[{"labels": [1]}]`), "function 1: below_mm3: found none, expected a volume in mm³"},
		{filepath.Join(in, "dataset.json"), "found no lists postprocessing_fns and postprocessing_kwargs"},
		{filepath.Join(in, "a.nii.gz"), "no postprocessing.pkl that can be read"},
		{filepath.Join(in, "nowhere.pkl"), "nowhere.pkl is not there: determine-postprocessing writes it"},
	} {
		err := apply(c.file)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, c.file)
	}
	require.NoDirExists(t, filepath.Join(folder, "out"))

	// A case that cannot be read costs no other one its result.
	require.NoError(t, os.WriteFile(filepath.Join(in, "b.nii.gz"), []byte("no image"), 0o600))
	good := pickled([]any{largest}, []any{dict("labels_or_regions", pickle.Tuple{int64(1), int64(2)})})
	require.ErrorContains(t, apply(good), "case b.nii.gz")
	require.Equal(t, []string{"a.nii.gz"}, namesIn(t, filepath.Join(folder, "out")))

	require.NoError(t, os.Remove(filepath.Join(in, "plans.json")))
	require.ErrorContains(t, apply(good), "plans.json is not there: prediction writes it; name that of the model with -plans_json")
}

func TestLargestComponentsOfTheSameSizeAllStay(t *testing.T) {
	m := &labelmap.Map{Shape: [3]int{1, 1, 9}, Small: []uint8{1, 2, 0, 2, 2, 0, 3, 0, 1}}
	k := KeepLargest{Targets: []eval.Target{eval.Label(1), eval.Region(2, 3)}, list: true, Background: 7}
	require.NoError(t, k.apply(m))
	require.Equal(t, []uint8{1, 2, 0, 2, 2, 0, 7, 0, 7}, m.Small)
	wide := &labelmap.Map{Shape: [3]int{1, 1, 3}, Wide: []int32{300, 0, 300}}
	require.NoError(t, KeepLargest{Targets: []eval.Target{eval.Label(300)}}.apply(wide))
	require.Equal(t, []int32{300, 0, 300}, wide.Wide)
	require.ErrorContains(t, KeepLargest{Targets: k.Targets, Background: 300}.apply(m), "background_label 300 does not fit")
}

func TestDetermineAndEnsembleExplainWhatIsMissing(t *testing.T) {
	folder := t.TempDir()
	in, ref := filepath.Join(folder, "in"), filepath.Join(folder, "ref")
	writeLabels(t, in, map[string][]uint8{"a": {1, 0}, "b": {1, 1}})
	writeLabels(t, ref, map[string][]uint8{"a": {1, 0, 1}})
	determine := func() error {
		_, err := DeterminePostprocessing(t.Context(), DeterminePostprocessingConfig{Input: in, Reference: ref}, Output{})
		return err
	}
	require.ErrorContains(t, determine(), "found no reference for b.nii.gz: every prediction needs the file of its name there")
	writeLabels(t, ref, map[string][]uint8{"b": {1, 1}})
	require.ErrorContains(t, determine(), "case a.nii.gz: "+filepath.Join(ref, "a.nii.gz")+" and "+filepath.Join(in, "a.nii.gz")+
		": eval: the reference has shape [1 1 3], the prediction [1 1 2]: expected the same grid: both must be of the same image")
	require.NoFileExists(t, filepath.Join(in, "postprocessing.pkl"))

	ensemble := func(inputs ...string) error {
		_, err := Ensemble(t.Context(), EnsembleConfig{Inputs: inputs, Output: filepath.Join(folder, "out"), Workers: 1}, Output{})
		return err
	}
	require.ErrorContains(t, ensemble(in, ref), "holds no files that end in .npz; there are a.nii.gz, b.nii.gz, dataset.json, plans.json: predict with --save_probabilities")
	write := func(folder, name string, shape ...int) {
		writeProbabilities(t, filepath.Join(folder, name+".npz"), make([]float32, shape[0]*shape[1]*shape[2]*shape[3]), shape...)
	}
	write(in, "a", 2, 1, 1, 2)
	write(in, "b", 2, 1, 1, 2)
	write(ref, "b", 3, 1, 1, 2)
	write(ref, "c", 2, 1, 1, 2)
	require.ErrorContains(t, ensemble(in, ref), "the folders hold different cases: "+in+" lacks c; "+ref+" lacks a: predict them")
	require.NoDirExists(t, filepath.Join(folder, "out"))
	require.NoError(t, os.Remove(filepath.Join(ref, "c.npz")))
	write(ref, "a", 2, 1, 2, 1)
	require.ErrorContains(t, ensemble(in, ref), "a.pkl is not there: prediction writes it beside the .npz")
	properties := "../testdata/phantom-mini/predictions/source_notta/LN_004.pkl"
	for _, name := range []string{"a", "b"} {
		require.NoError(t, copyFile(properties, filepath.Join(in, name+".pkl")))
	}
	err := ensemble(in, ref)
	require.ErrorContains(t, err, "a.npz: found probabilities of shape [2 1 2 1], expected [2 1 1 2] as in "+in)
	require.ErrorContains(t, err, "b.npz: found probabilities of 3 classes, expected the 2 of "+in)
	require.ErrorContains(t, func() error {
		_, err := Ensemble(t.Context(), EnsembleConfig{Inputs: []string{in, ref}, Output: ref, Workers: 1}, Output{})
		return err
	}(), "is one of the input folders")
	_, err = Ensemble(t.Context(), EnsembleConfig{Inputs: []string{in, ref}, Output: "o", Weights: []float64{1}, Workers: 1}, Output{})
	require.EqualError(t, err, "--weights: found 1, expected one for each of the 2 folders")

	write(ref, "a", 2, 1, 1, 2)
	broken := filepath.Join(ref, "b.npz")
	require.NoError(t, os.WriteFile(broken, []byte("no archive"), 0o600))
	require.ErrorContains(t, ensemble(in, ref), "case b: npz: "+broken+": ")
	require.FileExists(t, filepath.Join(folder, "out", "a.nii.gz"), "a bad case costs no other one its result")
	w, err := npz.Create(broken, true)
	require.NoError(t, err)
	a, err := npz.New([]float32{1})
	require.NoError(t, err)
	require.NoError(t, w.Add("softmax", a))
	require.NoError(t, w.Close())
	require.ErrorContains(t, ensemble(in, ref), broken+`: no array "probabilities"; there are ["softmax"]`)
	require.ErrorContains(t, ensemble(filepath.Join(folder, "nowhere"), ref), filepath.Join(folder, "nowhere")+": found no folder there")

	// Values that are no probabilities, NaN among them, do not become labels.
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), -0.5, 7} {
		writeProbabilities(t, broken, []float32{1, 0, 0, v}, 2, 1, 1, 2)
		for _, save := range []bool{false, true} {
			_, err := Ensemble(t.Context(), EnsembleConfig{Inputs: []string{in, ref}, Output: filepath.Join(folder, "improbable"), Workers: 1, SaveNpz: save}, Output{})
			require.EqualError(t, err, fmt.Sprintf("case b: %s: found %g for class 1, expected probabilities from 0 to 1: predict the case again with --save_probabilities", broken, v))
			require.NoFileExists(t, filepath.Join(folder, "improbable", "b.npz"))
			require.NoFileExists(t, filepath.Join(folder, "improbable", "b.nii.gz"))
		}
	}

	// A summary.json that cannot be read, and one of other labels.
	writeLabels(t, ref, map[string][]uint8{"a": {1, 0}})
	summary := filepath.Join(in, "summary.json")
	for _, text := range []string{"{", `{"foreground_mean": {}, "mean": {}, "metric_per_case": []}`} {
		require.NoError(t, os.WriteFile(summary, []byte(text), 0o600))
		require.ErrorContains(t, determine(), summary)
		require.ErrorContains(t, determine(), "remove the file; it is then written again")
	}
	require.NoError(t, os.Remove(summary))
	require.NoError(t, determine())
}

// writeProbabilities writes what prediction and validation write with --save_probabilities and --npz.
func writeProbabilities(t *testing.T, path string, values []float32, shape ...int) {
	a, err := npz.New(values, shape...)
	require.NoError(t, err)
	w, err := npz.Create(path, true)
	require.NoError(t, err)
	require.NoError(t, w.Add("probabilities", a))
	require.NoError(t, w.Close())
}

// All that an ensemble allocates is at most 12 bytes a voxel, whatever the number of classes and members.
func TestEnsembleTakesAtMostTwelveBytesAVoxel(t *testing.T) {
	folder := t.TempDir()
	in := filepath.Join(folder, "in")
	writeLabels(t, in, nil)
	allocated := func(classes, slices int) float64 {
		labels := plans.NewObject("background", 0)
		for i := 1; i < classes; i++ {
			labels.Set(fmt.Sprint("label", i), i)
		}
		d, err := plans.LoadDataset("../testdata/phantom-mini/predictions/source_notta/dataset.json")
		require.NoError(t, err)
		raw := d.Raw().Clone()
		raw.Set("labels", labels)
		require.NoError(t, plans.WriteJSON(filepath.Join(in, "dataset.json"), raw, false))
		values := make([]float32, classes*slices*128*128)
		writeProbabilities(t, filepath.Join(in, "a.npz"), values, classes, slices, 128, 128)
		require.NoError(t, copyFile("../testdata/phantom-mini/predictions/source_notta/LN_004.pkl", filepath.Join(in, "a.pkl")))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = Ensemble(t.Context(), EnsembleConfig{Inputs: []string{in, in, in}, Output: filepath.Join(folder, "out"), Workers: 1}, Output{})
		runtime.ReadMemStats(&after)
		require.NoError(t, err)
		return float64(after.TotalAlloc - before.TotalAlloc)
	}
	for _, classes := range []int{2, 9} {
		few, many := allocated(classes, 40), allocated(classes, 120)
		perVoxel := (many - few) / (80 * 128 * 128)
		t.Logf("%d classes: %.2f bytes a voxel", classes, perVoxel)
		require.Less(t, perVoxel, 12.0, "%d classes", classes)
		require.Less(t, few, float64(40<<20), "apart from the voxels there are buffers of a fixed size")
	}
}

// A rule that a .pkl cannot hold is not lost without a word.
func TestApplyWarnsOfARuleThatThePickleLacks(t *testing.T) {
	folder := t.TempDir()
	in := filepath.Join(folder, "in")
	writeLabels(t, in, map[string][]uint8{"a": {1, 0}})
	p := Postprocessing{RemoveSmall{Labels: []int{1}, Below: 50}}
	pkl, err := pickle.Marshal(p.pickled(), nil)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "postprocessing.pkl"), pkl, 0o600))
	functions, arguments := p.described()
	require.NoError(t, plans.WriteJSON(filepath.Join(folder, "postprocessing.json"),
		plans.NewObject("postprocessing_fns", functions, "postprocessing_kwargs", arguments), true))
	var log strings.Builder
	c := ApplyPostprocessingConfig{Input: in, Output: filepath.Join(folder, "out"), File: filepath.Join(folder, "postprocessing.pkl")}
	_, err = ApplyPostprocessing(t.Context(), c, Output{Log: &log})
	require.NoError(t, err)
	require.Contains(t, log.String(), "WARNING: "+filepath.Join(folder, "postprocessing.json")+" also removes components below 50 mm³, which a .pkl cannot say")
	require.Equal(t, []string{"a.nii.gz"}, namesIn(t, c.Output))
}

package experiment

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/pipeline"
)

// demo is a grid on phantoms: 8 cases in the pool, 4 test cases.
type demo struct {
	t     testing.TB
	dir   string
	raw   string
	model string
	text  string // of the file
	log   bytes.Buffer
}

const demoText = `
name: demo
datasets:
  target: {dataset: 102, test: imagesTs}
networks:
  unet: {checkpoint: MODEL}
methods:
  none: {method: none}
  full: {method: full}
  dgst: {method: dgst}
train: {epochs: 2, iterations: 3}
shots: [1, 3, all]
draws: 2
seeds: 2
`

// newDemo links the phantoms into a folder where tests may change them.
func newDemo(t testing.TB) *demo {
	from := filepath.Join(golden.Root(t), "testdata", "phantom-demo")
	d := &demo{t: t, dir: t.TempDir(), text: demoText,
		model: filepath.Join(from, "foundation", "nnUNetTrainer__nnUNetPlans__3d_phantom", "fold_0", "checkpoint_final.pth")}
	d.raw = filepath.Join(d.dir, "raw")
	to := d.dataset()
	for _, folder := range []string{"imagesTr", "imagesTs", "labelsTr", "labelsTs"} {
		require.NoError(t, os.MkdirAll(filepath.Join(to, folder), 0o755))
		entries, err := os.ReadDir(filepath.Join(from, "raw", "Dataset102_PhantomTarget", folder))
		require.NoError(t, err)
		for _, e := range entries {
			require.NoError(t, os.Symlink(filepath.Join(from, "raw", "Dataset102_PhantomTarget", folder, e.Name()),
				filepath.Join(to, folder, e.Name())))
		}
	}
	text, err := os.ReadFile(filepath.Join(from, "raw", "Dataset102_PhantomTarget", "dataset.json"))
	require.NoError(t, err)
	write(t, filepath.Join(to, "dataset.json"), string(text))
	return d
}

func (d *demo) dataset() string { return filepath.Join(d.raw, "Dataset102_PhantomTarget") }

func (d *demo) replace(old, new string) *demo {
	d.t.Helper()
	require.Contains(d.t, d.text, old)
	d.text = strings.ReplaceAll(d.text, old, new)
	return d
}

func (d *demo) path() string {
	return write(d.t, filepath.Join(d.dir, "grid.yaml"), strings.ReplaceAll(d.text, "MODEL", d.model))
}

func (d *demo) open() (*Plan, error) {
	d.log.Reset()
	o := Options{Dir: filepath.Join(d.dir, "grid"), Output: pipeline.Output{Log: &d.log}}
	o.Raw = d.raw
	return Open(context.Background(), d.path(), o)
}

func (d *demo) plan() *Plan {
	d.t.Helper()
	p, err := d.open()
	require.NoError(d.t, err)
	return p
}

// refused is the error of a grid that is refused as a mistake of its file.
func (d *demo) refused() string {
	d.t.Helper()
	_, err := d.open()
	var mistake *settings.UsageError
	require.True(d.t, errors.As(err, &mistake), "%v", err)
	return err.Error()
}

// copied makes a case of another's files, under another name, compressed in another way.
func (d *demo) copied(from, to string, label bool) {
	for i, folder := range []string{"images", "labels"} {
		name := func(c string) string {
			side := "Tr/"
			if number, _, _ := strings.Cut(strings.TrimPrefix(c, "LN_"), "_"); number >= "008" && number < "020" {
				side = "Ts/"
			}
			return filepath.Join(d.dataset(), folder+side+c+[]string{"_0000", ""}[i]+".nii.gz")
		}
		if i == 1 && !label {
			continue
		}
		f, err := os.Open(name(from))
		require.NoError(d.t, err)
		defer f.Close()
		z, err := gzip.NewReader(f)
		require.NoError(d.t, err)
		var b bytes.Buffer
		w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		require.NoError(d.t, err)
		_, err = io.Copy(w, z)
		require.NoError(d.t, err)
		require.NoError(d.t, w.Close())
		require.NoError(d.t, os.WriteFile(name(to), b.Bytes(), 0o644))
	}
}

func keys(p *Plan) (list []string) {
	for _, r := range p.Runs {
		list = append(list, r.Key)
	}
	return list
}

func byWhat(p *Plan) map[string]*Run {
	all := map[string]*Run{}
	for _, r := range p.Document().Runs {
		all[r.What()] = r
	}
	return all
}

// The grid of a file: shots and draws outermost, all shots once, the network as it is once.
func TestOpenListsTheRuns(t *testing.T) {
	d := newDemo(t)
	p := d.plan()
	require.Len(t, p.Runs, 1+(2+2+1)*2*2)
	require.Equal(t, "target unet none", p.Runs[0].What())
	require.Equal(t, "0", p.Runs[0].Shots)
	require.False(t, p.Runs[0].Trains())
	require.Equal(t, map[string]any{"method": "none"}, p.Runs[0].Settings)
	var order []string
	for _, r := range p.Runs[1:] {
		if at := r.Shots + "/" + fmt.Sprint(r.Draw); !slices.Contains(order, at) {
			order = append(order, at)
		}
		require.Regexp(t, `^[0-9a-f]{16}$`, r.Key)
		require.Regexp(t, `^[0-9a-f]{16}$`, r.TrainKey)
		require.Equal(t, Missing, r.State)
	}
	require.Equal(t, []string{"1/0", "1/1", "3/0", "3/1", "all/0"}, order)
	r := byWhat(p)["target unet dgst, 3 shots, draw 1, seed 1"]
	require.Equal(t, p.Splits.Datasets["target"].Draws[1].Order[:3], r.Cases)
	require.Equal(t, "dgst", r.Settings["method"])
	require.Equal(t, "dynamic", r.Settings["dgst-select"], "what is not given is there, too")
	require.Equal(t, 2, r.Settings["epochs"])
	require.Equal(t, 1, r.Settings["val-iterations"])
	require.Equal(t, true, r.Settings[pretrained])
	require.NotContains(t, r.Settings, "device")
	require.Equal(t, byWhat(p)["target unet full, 3 shots, draw 1, seed 0"].Cases, r.Cases, "every method has the same draws")
	require.Equal(t, []string{"training data of network unet unknown: it may hold test cases"}, p.Warnings)
	var file struct{ Contents map[string]string }
	golden.LoadJSON(t, "experiment_draws.json", &file)
	require.Equal(t, file.Contents, p.Splits.Datasets["target"].Content, "as SimpleITK and hashlib find them")

	c, err := p.Training(r)
	require.NoError(t, err)
	require.Equal(t, "all", c.Fold)
	require.Equal(t, uint64(1), c.Seed)
	require.Equal(t, slices.Sorted(slices.Values(r.Cases)), c.Cases)
	require.Equal(t, d.model, c.Pretrained)
	a, err := p.Adoption(r)
	require.NoError(t, err)
	require.Equal(t, []int{24, 64, 64}, a.PatchSize, "the network's, whatever memory the machine has")
	require.Equal(t, 2, a.BatchSize)
	require.Equal(t, a.Preprocessed, c.Preprocessed)
	require.Equal(t, a.PlansName, c.PlansName)
	_, err = p.Training(p.Runs[0])
	require.ErrorContains(t, err, "method none, which does not train")
	e, err := p.Evaluation(r, "x")
	require.NoError(t, err)
	require.False(t, e.Chill)
}

// The training's own learning rate and epochs count, whatever is released.
func TestReleasedEpochsAreTheMethods(t *testing.T) {
	d := newDemo(t).replace("epochs: 2", "epochs: released").replace("{method: full}", "{method: full, epochs: 5}")
	all := byWhat(d.plan())
	require.Equal(t, 5, all["target unet full, 1 shots, draw 0, seed 0"].Settings["epochs"])
	r := all["target unet dgst, 1 shots, draw 0, seed 0"]
	require.Equal(t, 50, r.Settings["epochs"])
	require.Equal(t, 0.001, r.Settings["lr"])
}

// Keys follow from content. What changes no weight and no score changes no key, and every other change
// touches the runs that it is about and no others.
func TestKeysFollowFromContent(t *testing.T) {
	shared := newDemo(t)
	before := shared.plan()
	same := func(name string, d *demo) {
		t.Helper()
		p := d.plan()
		for i, r := range p.Runs {
			require.Equal(t, before.Runs[i].Key, r.Key, "%s: %s", name, r.What())
			require.Equal(t, before.Runs[i].TrainKey, r.TrainKey, name)
		}
		require.Len(t, p.Runs, len(before.Runs))
	}
	same("names in the file", shared.again().replace("target:", "hospital:").replace("unet:", "net:").
		replace("full: {", "everything: {").replace("name: demo", "name: other"))
	same("statistics and what is kept", shared.again().
		replace("seeds: 2", "seeds: 2\nstatistics: {primary: HD95, alpha: 0.1}\nkeep: {checkpoints: all, predictions: true}"))
	same("what is the default anyway", shared.again().replace("{method: full}", "{method: full, momentum: 0.99, lr: 0.01, patch-size: [24, 64, 64], batch-size: 2}").
		replace("{method: dgst}", "{method: dgst, dgst-select: dynamic, val-iterations: 1}"))
	same("threads that prepare batches", shared.again().replace("iterations: 3", "iterations: 3, workers: 1, save-every: 2"))
	copied := shared.again()
	text, err := os.ReadFile(copied.model)
	require.NoError(t, err)
	copied.model = write(t, filepath.Join(copied.dir, "other.pth"), string(text))
	same("a network's own file name", copied)
	renamed := newDemo(t)
	for i := range 12 {
		for _, f := range []string{"imagesTr/LN_%03d_0000", "labelsTr/LN_%03d", "imagesTs/LN_%03d_0000", "labelsTs/LN_%03d"} {
			old := filepath.Join(renamed.dataset(), fmt.Sprintf(f, i)+".nii.gz")
			err := os.Rename(old, strings.ReplaceAll(old, "LN_", "case_"))
			require.True(t, err == nil || os.IsNotExist(err))
		}
	}
	same("case names, and another folder", renamed)

	changes := func(name string, d *demo, key, trainKey func(r *Run) bool) {
		t.Helper()
		after := byWhat(d.plan())
		for what, r := range byWhat(before) {
			require.Equal(t, key(r), r.Key != after[what].Key, "%s: key of %s", name, what)
			require.Equal(t, trainKey(r), r.TrainKey != after[what].TrainKey, "%s: train_key of %s", name, what)
		}
	}
	every := func(*Run) bool { return true }
	none := func(*Run) bool { return false }
	of := func(method string) func(r *Run) bool {
		return func(r *Run) bool { return r.Method == method }
	}
	with := func(name string) func(r *Run) bool {
		return func(r *Run) bool { return slices.Contains(r.Cases, name) }
	}
	changes("a method's option", shared.again().replace("{method: dgst}", "{method: dgst, dgst-k: 3}"), of("dgst"), of("dgst"))
	changes("a setting for all", shared.again().replace("iterations: 3", "iterations: 4"), (*Run).Trains, (*Run).Trains)
	changes("a metric", shared.again().replace("seeds: 2", "seeds: 2\nevaluate: {metrics: [Dice, HD95]}"), every, none)
	changes("mirroring", shared.again().replace("seeds: 2", "seeds: 2\nevaluate: {disable-tta: true}"), every, none)
	changes("the tiles' step", shared.again().replace("seeds: 2", "seeds: 2\nevaluate: {step-size: 0.75}"), every, none)
	changes("no pretraining", shared.again().replace("{method: full}", "{method: full, pretrained: false}"), of("full"), of("full"))
	other := shared.again()
	other.model = filepath.Join(golden.Root(t), "testdata", "phantom-mini", "results", "Dataset101_PhantomSource",
		"nnUNetTrainer__nnUNetPlans__3d_phantom", "fold_0", "checkpoint_final.pth")
	changes("a network", other, every, every)
	other = shared.again()
	other.model = otherWeights(t, other.model)
	changes("a weight", other, every, every)

	d := newDemo(t)
	label := filepath.Join(d.dataset(), "labelsTr", "LN_006.nii.gz")
	require.NoError(t, os.Remove(label))
	d.swap("labelsTr/LN_003.nii.gz", label)
	changes("a label of the pool", d, with("LN_006"), with("LN_006"))
	d = newDemo(t)
	d.respace("imagesTr/LN_006_0000.nii.gz")
	changes("the spacing of an image", d, with("LN_006"), with("LN_006"))
	d.respace("imagesTs/LN_008_0000.nii.gz")
	changes("a test case, too", d, every, with("LN_006"))

	list := write(t, filepath.Join(t.TempDir(), "list.json"), "{}")
	augmented := keys(shared.again().replace("iterations: 3", "iterations: 3, augmentation: "+list).plan())
	write(t, list, "{ }")
	require.NotEqual(t, augmented, keys(shared.again().replace("iterations: 3", "iterations: 3, augmentation: "+list).plan()),
		"the content of a list of transforms")
}

// otherWeights is a checkpoint of the same plans with one bit of one weight changed.
func otherWeights(t *testing.T, path string) string {
	z, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer z.Close()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		text, err := io.ReadAll(r)
		require.NoError(t, err)
		if strings.HasSuffix(f.Name, "/data/0") {
			text[0] ^= 1
		}
		to, err := w.CreateHeader(&zip.FileHeader{Name: f.Name, Method: zip.Store})
		require.NoError(t, err)
		_, err = to.Write(text)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return write(t, filepath.Join(t.TempDir(), "other.pth"), b.String())
}

// again is the same folder with the text of a new file.
func (d *demo) again() *demo {
	return &demo{t: d.t, dir: d.dir, raw: d.raw, model: d.model, text: demoText}
}

// swap copies a file of the dataset to a path.
func (d *demo) swap(from, to string) {
	text, err := os.ReadFile(filepath.Join(d.dataset(), from))
	require.NoError(d.t, err)
	require.NoError(d.t, os.WriteFile(to, text, 0o644))
}

// respace changes the spacing of a NIfTI file, and no voxel.
func (d *demo) respace(name string) {
	path := filepath.Join(d.dataset(), name)
	f, err := os.Open(path)
	require.NoError(d.t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(d.t, err)
	b, err := io.ReadAll(z)
	require.NoError(d.t, err)
	copy(b[76+4*3:], []byte{0, 0, 0x90, 0x40}) // pixdim[3] = 4.5
	b[252], b[254] = 0, 0                      // qform_code and sform_code: the spacing is pixdim
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err = w.Write(b)
	require.NoError(d.t, err)
	require.NoError(d.t, w.Close())
	require.NoError(d.t, os.Remove(path))
	require.NoError(d.t, os.WriteFile(path, out.Bytes(), 0o644))
}

// Test cases in the pool are refused: by name, by patient, by voxels whatever the file is called or how it
// is compressed, and whatever its label.
func TestLeaksOfTheDrawsAreRefused(t *testing.T) {
	leaks := func(d *demo) []string {
		t.Helper()
		_, err := d.open()
		var leak *LeakError
		require.True(t, errors.As(err, &leak), "%v", err)
		require.Contains(t, err.Error(), "test cases are training cases:\n  ")
		return leak.Leaks
	}
	d := newDemo(t)
	d.copied("LN_008", "LN_020", true)
	require.Equal(t, []string{"target: test case LN_008 has the voxels of case LN_020 of the pool"}, leaks(d))

	d = newDemo(t)
	d.copied("LN_009", "LN_021", false)
	d.swap("labelsTr/LN_000.nii.gz", filepath.Join(d.dataset(), "labelsTr", "LN_021.nii.gz"))
	require.Equal(t, []string{"target: test case LN_009 has the voxels of case LN_021 of the pool"}, leaks(d), "with another label")

	d = newDemo(t).replace("test: imagesTs", "test: [LN_003], pool: imagesTr")
	require.Equal(t, []string{"target: case LN_003 is in test and in pool"}, leaks(d))

	d = newDemo(t).replace("test: imagesTs", `test: imagesTs, patient: 'LN_0(.)'`)
	require.Equal(t, []string{"target: test case LN_008 is of the same patient as case LN_007 of the pool",
		"target: test case LN_009 is of the same patient as case LN_007 of the pool"}, leaks(d))

	d = newDemo(t).replace("test: imagesTs", "test: imagesTs, patients: patients.csv")
	text := "case,patient\n"
	for i := range 12 {
		text += fmt.Sprintf("LN_%03d,%d\n", i, i%11)
	}
	write(t, filepath.Join(d.dir, "patients.csv"), text)
	require.Equal(t, []string{"target: test case LN_011 is of the same patient as case LN_000 of the pool"}, leaks(d))

	// Spaces around a patient, and the mark that Excel puts before a file, make no other patient.
	d = newDemo(t).replace("test: imagesTs", "test: imagesTs, patients: patients.csv")
	for old, new := range map[string]string{"case,patient\n": "\ufeffcase, patient\n", "LN_000,0": "LN_000 ,P1", "LN_011,0": "LN_011,P1 \u00a0"} {
		require.Contains(t, text, old)
		text = strings.Replace(text, old, new, 1)
	}
	write(t, filepath.Join(d.dir, "patients.csv"), text)
	require.Equal(t, []string{"target: test case LN_011 is of the same patient as case LN_000 of the pool"}, leaks(d))
	write(t, filepath.Join(d.dir, "patients.csv"), strings.Replace(text, "LN_000 ,P1", "LN_000,\"P\x1b1\"", 1))
	require.Contains(t, d.refused(), "patients.csv: line 2: patient: found a control character or line break in a name")
	write(t, filepath.Join(d.dir, "patients.csv"), strings.Replace(text, "LN_000 ,P1", "LN_000, ", 1))
	require.Contains(t, d.refused(), "patients.csv: line 2: found no case or no patient")
	write(t, filepath.Join(d.dir, "patients.csv"), strings.Replace(text, "LN_001,1", "LN_000,1", 1))
	require.Contains(t, d.refused(), "patients.csv: line 3: case LN_000 is there twice")
	// Nor do they in a case's name, or in splits that are given.
	d = newDemo(t).replace("test: imagesTs", `test: imagesTs, patient: '^LN_0.(.)'`)
	for _, f := range []string{"imagesTr/LN_000_0000", "labelsTr/LN_000"} {
		old := filepath.Join(d.dataset(), f+".nii.gz")
		require.NoError(t, os.Rename(old, strings.Replace(old, "LN_000", "LN_01 ", 1)))
	}
	require.Contains(t, d.refused(), `the pattern "^LN_0.(.)" finds no patient in the name of case LN_01 `)
	d.replace(`'^LN_0.(.)'`, `'^LN_0(..)'`)
	require.Equal(t, "1", d.plan().Splits.Datasets["target"].Patients["LN_01 "])
	d = newDemo(t)
	splits := jsonOf(t, d.plan().Splits)
	d.replace(", test: imagesTs", "")
	d.text += "splits: splits.json\n"
	for _, c := range []string{"LN_000", "LN_011"} {
		require.Contains(t, splits, `"`+c+`":"`+c+`"`)
		splits = strings.Replace(splits, `"`+c+`":"`+c+`"`, `"`+c+`":"P1`+map[string]string{"LN_000": "", "LN_011": " "}[c]+`"`, 1)
	}
	write(t, filepath.Join(d.dir, "splits.json"), splits)
	require.Equal(t, []string{"target: test case LN_011 is of the same patient as case LN_000 of the pool"}, leaks(d))
	write(t, filepath.Join(d.dir, "splits.json"), strings.Replace(splits, `"P1 "`, `"P\t1"`, 1))
	require.Contains(t, d.refused(), "patient of case LN_011: found a control character")

	// Named and drawn test cases leave the pool by themselves.
	p := newDemo(t).replace("test: imagesTs", "test: [LN_003, LN_005]").plan()
	require.NotContains(t, p.Splits.Datasets["target"].Pool, "LN_003")
	p = newDemo(t).replace("test: imagesTs", "test: 3, pool: imagesTr").plan()
	s := p.Splits.Datasets["target"]
	require.Len(t, s.Test, 3)
	require.Len(t, s.Pool, 5)
	require.NotSubset(t, s.Pool, s.Test)
	c, err := p.Prediction(p.Runs[0], "m", "o")
	require.NoError(t, err)
	require.Len(t, c.Input, 3)
	e, err := p.Evaluation(p.Runs[0], "o")
	require.NoError(t, err)
	require.True(t, e.Chill, "the folder of labels has others")
}

// Test cases that a network was trained on are refused, pool cases are warned of; where the data is not
// known, that is said.
func TestLeaksOfTheFoundationAreRefused(t *testing.T) {
	trained := func(d *demo, name string, cases ...string) {
		to := filepath.Join(d.raw, name)
		text, err := os.ReadFile(filepath.Join(d.dataset(), "dataset.json"))
		require.NoError(t, err)
		require.Contains(t, string(text), `"numTraining": 8`)
		write(t, filepath.Join(to, "dataset.json"), strings.Replace(string(text), `"numTraining": 8`,
			fmt.Sprintf(`"numTraining": %d`, len(cases)), 1))
		require.NoError(t, os.MkdirAll(filepath.Join(to, "imagesTr"), 0o755))
		for i, c := range cases {
			d.swap(c+"_0000.nii.gz", filepath.Join(to, "imagesTr", fmt.Sprintf("S_%d_0000.nii.gz", i)))
		}
	}
	d := newDemo(t)
	trained(d, "Dataset101_PhantomSource", "imagesTs/LN_009", "imagesTr/LN_001")
	want := &LeakError{[]string{"target: test case LN_009 was in the training data of network unet (Dataset101_PhantomSource, case S_0)"}}
	_, err := d.open()
	require.Equal(t, want, err, "the dataset that the checkpoint names")

	d = newDemo(t).replace("MODEL}", "MODEL, trained_on: [501]}")
	trained(d, "Dataset501_X", "imagesTr/LN_001", "imagesTr/LN_002")
	require.Equal(t, []string{"target: network unet was trained on 2 of the 8 cases of the pool"}, d.plan().Warnings)

	// Of images that are not there nothing is known: some, or one of a case's channels; all; or in another format.
	gone := func(d *demo, name string) {
		require.NoError(t, os.Remove(filepath.Join(d.raw, name, "imagesTr", "S_0_0000.nii.gz")))
	}
	gone(d, "Dataset501_X")
	require.Equal(t, []string{"training data of network unet is known in part: images of 1 of the 2 cases of Dataset501_X are there: " +
		"the rest may hold test cases", "target: network unet was trained on 1 of the 8 cases of the pool"}, d.plan().Warnings)
	other := filepath.Join(d.raw, "Dataset501_X", "imagesTr", "S_1_000")
	require.NoError(t, os.Rename(other+"0.nii.gz", other+"0.nrrd"))
	require.Contains(t, d.refused(), "grid.yaml:6: networks.unet.trained_on: Dataset501_X: found no training images, expected CASE_0000.nii.gz, … in "+
		filepath.Dir(other)+": give a file of their content hashes")
	d = newDemo(t)
	trained(d, "Dataset101_PhantomSource", "imagesTr/LN_001")
	require.Equal(t, []string{"target: network unet was trained on 1 of the 8 cases of the pool"}, d.plan().Warnings)
	const unknown = "training data of network unet unknown: it may hold test cases"
	gone(d, "Dataset101_PhantomSource")
	require.Equal(t, []string{unknown}, d.plan().Warnings, "the folder is empty")
	write(t, filepath.Join(d.raw, "Dataset101_PhantomSource", "dataset.json"), `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "node": 1}, `+
		`"numTraining": 1, "file_ending": ".nii.gz", "dataset": {"S_0": {"images": ["imagesTr/S_0_0000.nii.gz"], "label": "x.nii.gz"}}}`)
	require.Equal(t, []string{unknown}, d.plan().Warnings, "a list of images that are not there")
	write(t, filepath.Join(d.raw, "Dataset101_PhantomSource", "dataset.json"), `{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, `+
		`"node": 1}, "numTraining": 1, "file_ending": ".nii.gz"}`)
	d.swap("imagesTr/LN_001_0000.nii.gz", filepath.Join(d.raw, "Dataset101_PhantomSource", "imagesTr", "S_0_0000.nii.gz"))
	require.Equal(t, []string{unknown}, d.plan().Warnings, "a channel is missing")

	d = newDemo(t)
	contents := d.plan().Splits.Datasets["target"].Content
	d.replace("MODEL}", "MODEL, trained_on: seen.txt}")
	write(t, filepath.Join(d.dir, "seen.txt"), contents["LN_011"]+"\n"+contents["LN_001"]+"\n")
	_, err = d.open()
	require.Equal(t, &LeakError{[]string{"target: test case LN_011 was in the training data of network unet (seen.txt)"}}, err)
	write(t, filepath.Join(d.dir, "seen.txt"), strings.Repeat("0", 64)+"\n")
	require.Empty(t, d.plan().Warnings)
	write(t, filepath.Join(d.dir, "seen.txt"), "nothing")
	require.Contains(t, d.refused(), "networks.unet.trained_on: "+filepath.Join(d.dir, "seen.txt")+": found no content hash")
	d.replace("seen.txt", "[999]")
	require.Contains(t, d.refused(), "grid.yaml:6: networks.unet.trained_on: dataset 999: no folder Dataset999_… in ")
}

// What does not fit is refused before anything runs, with key and line.
func TestWhatDoesNotFitIsRefused(t *testing.T) {
	d := newDemo(t).replace("[1, 3, all]", "[1, 9]")
	require.Contains(t, d.refused(), "grid.yaml:12: shots: dataset target: 9 shots are more than the 8 cases of the pool")

	d = newDemo(t)
	d.model = write(t, filepath.Join(d.dir, "none.pth"), "no checkpoint")
	require.Contains(t, d.refused(), "grid.yaml:6: networks.unet.checkpoint: checkpoint: pth: "+d.model+": found a text, expected a PyTorch checkpoint")
	d.model = filepath.Join(d.dir, "missing.pth")
	require.Contains(t, d.refused(), "grid.yaml:6: networks.unet.checkpoint: stat "+d.model)

	describe := func(d *demo, old, new string) {
		path := filepath.Join(d.dataset(), "dataset.json")
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		plain := regexp.MustCompile(`\s+`).ReplaceAllString(string(text), "")
		require.Contains(t, plain, old)
		write(t, path, strings.Replace(plain, old, new, 1))
	}
	d = newDemo(t)
	describe(d, `"0":"CT"`, `"0":"CT","1":"PET"`)
	require.Contains(t, d.refused(), "grid.yaml:4: datasets.target: case LN_008 has 1 image files in ")
	for _, side := range []string{"imagesTr", "imagesTs"} {
		entries, err := os.ReadDir(filepath.Join(d.dataset(), side))
		require.NoError(t, err)
		for _, e := range entries {
			d.swap(side+"/"+e.Name(), filepath.Join(d.dataset(), side, strings.Replace(e.Name(), "_0000", "_0001", 1)))
		}
	}
	require.Contains(t, d.refused(), "grid.yaml:9: methods.full: network unet takes 1 channels, dataset target has 2 (CT, PET)")

	d = newDemo(t)
	describe(d, `"background":0,`, `"background":0,"other":2,`)
	require.Contains(t, d.refused(), "grid.yaml:10: methods.dgst: network unet segments 2 classes, dataset target has 3 (background included): give head: reset or head: extend")
	d.replace("  none: {method: none}\n", "").replace("iterations: 3", "iterations: 3, head: extend")
	require.Contains(t, d.refused(), "segments 2 classes", "train's flags are for all, and may be another method's")
	d.replace("iterations: 3, head: extend", "iterations: 3").replace("{checkpoint: MODEL}", "{checkpoint: MODEL, head: extend}")
	d.plan()

	d = newDemo(t).replace("test: imagesTs", "test: [LN_003, LN_010]")
	require.Contains(t, d.refused(), "grid.yaml:4: datasets.target.test: found cases of imagesTr (LN_003) and of imagesTs (LN_010), "+
		"expected those of one folder")

	d = newDemo(t)
	require.NoError(t, os.RemoveAll(filepath.Join(d.dataset(), "imagesTs")))
	require.Contains(t, d.refused(), "grid.yaml:4: datasets.target.test: Dataset102_PhantomTarget has no test case: expected images in ")
	require.NoError(t, os.RemoveAll(filepath.Join(d.dataset(), "labelsTr", "LN_004.nii.gz")))
	d.replace("test: imagesTs", "test: 2")
	require.Contains(t, d.refused(), "datasets.target: case LN_004 has no label: expected ")
	d.replace("test: 2", "test: 8")
	require.Contains(t, d.refused(), "datasets.target.test: found 8 test cases to draw of 8 cases of 8 patients")
	d.replace("test: 8", "test: [LN_001, LN_01]")
	require.Contains(t, d.refused(), "datasets.target.test: Dataset102_PhantomTarget has no case LN_01; did you mean LN_001?")
	d.replace("dataset: 102", "dataset: 103")
	require.Contains(t, d.refused(), "grid.yaml:4: datasets.target: dataset 103: no folder Dataset103_… in ")

	require.Contains(t, newDemo(t).replace("{method: dgst}", "{method: dgst, lora-rank: 3}").refused(),
		"grid.yaml:10: methods.dgst: --lora-rank belongs to method lora, not to dgst")
	require.Contains(t, newDemo(t).replace("{method: none}", "{method: none, lr: 1}").refused(),
		"grid.yaml:8: methods.none: method none trains nothing: lr is of no use")
	newDemo(t).replace("iterations: 3", "iterations: 3, lora-rank: 3").plan()
	for _, x := range []struct{ key, text string }{{"datasets", "datasets:\n  target: {dataset: 102, test: imagesTs}\n"},
		{"networks", "networks:\n  unet: {checkpoint: MODEL}\n"}, {"shots", "shots: [1, 3, all]\n"}} {
		require.Contains(t, newDemo(t).replace(x.text, "").refused(), "grid.yaml:1: "+x.key+": missing, expected "+x.key+": ")
	}
	d = newDemo(t)
	write(t, filepath.Join(d.dir, "grid", "letter.txt"), "")
	require.Contains(t, d.refused(), "found a folder with other files (letter.txt), expected an experiment's, or none")
	d = newDemo(t)
	d.raw = ""
	require.Contains(t, d.refused(), "--raw is not given and nnUNet_raw is not set")
}

// Methods with the same settings, shots that are the whole pool, and draws with the same set of cases are
// one run each, listed in every place.
func TestOneRunServesTwins(t *testing.T) {
	d := newDemo(t).replace("dgst: {method: dgst}", "twin: {method: full, momentum: 0.99}").replace("[1, 3, all]", "[8, all]")
	p := d.plan()
	require.Equal(t, []string{"training data of network unet unknown: it may hold test cases",
		"methods full and twin have the same settings: one run serves both",
		"target: draws 0, 1 have the same cases at 8 shots: one run serves them, and they count as one draw",
		"target: 8 and all shots are the same cases: one run serves both"}, p.Warnings)
	require.Len(t, p.Runs, 1+2, "a seed each")
	require.Len(t, p.Document().Runs, 1+2*2*(2+1))
	r := p.Runs[1]
	require.Equal(t, []Place{{"target", "unet", "full", "8", 0, 0}, {"target", "unet", "twin", "8", 0, 0},
		{"target", "unet", "full", "8", 1, 0}, {"target", "unet", "twin", "8", 1, 0},
		{"target", "unet", "full", "all", 0, 0}, {"target", "unet", "twin", "all", 0, 0}}, r.Places())
	for _, one := range p.Document().Runs {
		if one.Key == r.Key {
			require.ElementsMatch(t, p.Splits.Datasets["target"].Pool, one.Cases)
		}
	}
	require.Equal(t, p.Document().Runs[2].Method, "twin")
}

// splits.json can be given back: the draws are taken as they are, and the contents are compared.
func TestSplitsCanBeGivenBack(t *testing.T) {
	d := newDemo(t)
	p := d.plan()
	text := jsonOf(t, p.Splits)
	require.NotContains(t, text, d.dir, "no path")
	d.replace(", test: imagesTs", "")
	d.text += "splits: splits.json\nseed: 99\n"
	write(t, filepath.Join(d.dir, "splits.json"), text)
	again := d.plan()
	require.Equal(t, p.Splits, again.Splits)
	require.Equal(t, keys(p), keys(again), "whatever the seed now")

	bad := func(old, new, want string) {
		t.Helper()
		require.Contains(t, text, old)
		write(t, filepath.Join(d.dir, "splits.json"), strings.Replace(text, old, new, 1))
		line := 1 + strings.Count(d.text[:strings.Index(d.text, "splits:")], "\n")
		require.Regexp(t, "^"+regexp.QuoteMeta(fmt.Sprintf("%s:%d: splits: %s: ", d.path(), line, filepath.Join(d.dir, "splits.json")))+
			".*"+regexp.QuoteMeta(want), d.refused())
	}
	c := p.Splits.Datasets["target"].Content["LN_004"]
	bad(c, strings.Repeat("a", 64), "case LN_004 holds other voxels than when the draws were made: found content "+c[:12]+"…, expected aaaaaaaaaaaa…")
	bad(`"version":1`, `"version":2`, "found version 2, expected 1")
	bad(`"target"`, `"targt"`, `"target" is no dataset of this file; did you mean targt?`)
	bad("Dataset102", "Dataset103", "found splits of Dataset103_PhantomTarget, expected of Dataset102_PhantomTarget")
	bad(`"order":["LN_0`, `"order":["LN_1`, "draw 0 is no order of the pool")
	bad(`"version":1`, `"version":1,"voxels":3`, `unknown field "voxels"`)
	bad(`"pool":["LN_000"`, `"pool":["LN_900"`, "has no case LN_900")
	bad(`{"version":1`, `{"version":1 1`, "line 1: invalid character '1'")
	bad(`"version":1`, `"version":"x"`, "line 1: json: cannot unmarshal string into Go struct field ")
	bad(`{"version":1`, `{} {"version":1`, "line 1: found more behind the first value")
	bad(`{"version":1`, "\n{\"version\":", "line 2: invalid character")
	bad(`"test":["LN_008"`, `"test":["LN_000"`, "expected those of one folder")
	bad(`"1":["LN_`, `"1":["LX_`, "draw 0: 1 shots are not the first of its order")
	write(t, filepath.Join(d.dir, "splits.json"), text)
	d.replace("draws: 2", "draws: 3")
	bad(`"version":1`, `"version":1`, "found 2 draws, expected the 3 of draws")
	require.NoError(t, os.Remove(filepath.Join(d.dir, "splits.json")))
	require.Contains(t, d.refused(), ": splits: "+filepath.Join(d.dir, "splits.json")+": open ")
}

// experiment.json has the settings in force, the datasets' among them.
func TestSettingsOfDatasetsAreWrittenDown(t *testing.T) {
	d := newDemo(t)
	d.replace("dataset: 102, test: imagesTs", `dataset: 102, test: [LN_003, LN_001], patient: '(.*)'`)
	p := d.plan()
	settings := func(p *Plan) (all map[string]map[string]any) {
		require.NoError(t, os.MkdirAll(p.Dir, 0o777))
		require.NoError(t, p.describe("v"))
		var doc struct{ Datasets map[string]map[string]any }
		require.NoError(t, readJSON(filepath.Join(p.Dir, SettingsFile), &doc))
		return doc.Datasets
	}
	want := map[string]any{"dataset": "Dataset102_PhantomTarget", "test": []any{"LN_003", "LN_001"}, "pool": "imagesTr",
		"patient": "(.*)", "patients": ""}
	require.Equal(t, map[string]map[string]any{"target": want}, settings(p))
	d.replace(`test: [LN_003, LN_001], patient: '(.*)'`, "test: 2")
	want["test"], want["patient"] = 2.0, ""
	require.Equal(t, map[string]map[string]any{"target": want}, settings(d.plan()))
	d.replace("test: 2", "test: imagesTs, pool: [LN_000, LN_001, LN_002]")
	want["test"], want["pool"] = "imagesTs", []any{"LN_000", "LN_001", "LN_002"}
	require.Equal(t, map[string]map[string]any{"target": want}, settings(d.plan()))
}

// States come from the folder; times from finished runs of the same settings, else from their iterations.
func TestStatesAndCost(t *testing.T) {
	d := newDemo(t).replace("{method: dgst}", "{method: dgst, epochs: 4}")
	p := d.plan()
	require.Nil(t, p.Cost.Seconds, "nothing was measured")
	require.Positive(t, p.Cost.Bytes)
	all := byWhat(p)
	at := func(what string) *Run { return all["target unet "+what] }
	done := at("full, 1 shots, draw 0, seed 0")
	write(t, filepath.Join(p.Folder(done), RunFile), `{"key":"k","seconds":70,"train_seconds":60,"peak_bytes":5,"device":"cuda:0"}`)
	write(t, filepath.Join(p.Folder(done), DoneFile), "")
	write(t, filepath.Join(p.Folder(at("full, 3 shots, draw 0, seed 0")), FailedFile), `{"error":"no space"}`)
	write(t, filepath.Join(p.Folder(at("full, 3 shots, draw 1, seed 0")), "run.log"), "")
	running := at("dgst, 1 shots, draw 0, seed 0")
	write(t, filepath.Join(p.Folder(running), progressFile), `{"stage":"train","epoch":2,"epochs":2}`)
	write(t, p.Lock(running), `{"worker":"w","host":"elsewhere","pid":7,"boot":"x"}`)
	unknown := at("dgst, 1 shots, draw 1, seed 0")
	write(t, p.Lock(unknown), "damaged")
	dead := at("dgst, 3 shots, draw 1, seed 0")
	gone := newHolder()
	gone.PID = 1<<22 + 1
	write(t, p.Lock(dead), jsonOf(t, gone))
	unseen := at("dgst, 3 shots, draw 0, seed 1")
	write(t, p.Lock(unseen), jsonOf(t, remote("far")))
	age(t, p.Lock(unseen), 3*time.Minute)
	age(t, p.Lock(running), 50*time.Second)
	age(t, p.Lock(unknown), -time.Hour)
	p = d.plan()
	states := map[string]State{}
	for what, r := range byWhat(p) {
		states[strings.TrimPrefix(what, "target unet ")] = r.State
	}
	require.Equal(t, Done, states["full, 1 shots, draw 0, seed 0"])
	require.Equal(t, Failed, states["full, 3 shots, draw 0, seed 0"])
	require.Equal(t, Partial, states["full, 3 shots, draw 1, seed 0"])
	require.Equal(t, Running, states["dgst, 1 shots, draw 0, seed 0"])
	require.Equal(t, Running, states["dgst, 1 shots, draw 1, seed 0"], "a lock that cannot be read is held")
	require.Equal(t, Partial, states["dgst, 3 shots, draw 0, seed 1"], "its worker was not seen for long")
	require.Equal(t, Missing, states["dgst, 3 shots, draw 1, seed 0"], "its process is gone")
	require.Equal(t, 70.0, *byWhat(p)["target unet full, all shots, draw 0, seed 1"].Seconds)
	require.Equal(t, 2*60+10.0, *byWhat(p)["target unet dgst, all shots, draw 0, seed 1"].Seconds, "twice the iterations")
	const left = 9*70.0 + 10*130
	require.Equal(t, 10.0, *p.Runs[0].Seconds, "the network as it is only predicts")
	require.Equal(t, left+10, *p.Cost.Seconds)
	require.Equal(t, int64(5), p.Cost.Peak)
	s := p.Status()
	require.Equal(t, 1, s.Done)
	require.Equal(t, 20, s.Left)
	require.Equal(t, []FailedRun{{byWhat(p)["target unet full, 3 shots, draw 0, seed 0"].Key, "target unet full, 3 shots, draw 0, seed 0", "no space"}}, s.Failed)
	require.Len(t, s.Running, 2)
	require.Equal(t, RunningRun{HeldRun{running.Key, "target unet dgst, 1 shots, draw 0, seed 0", "w", "elsewhere", 7},
		Progress{Stage: "train", Epoch: 2, Epochs: 2}}, s.Running[0])
	require.Equal(t, []string{unseen.Key, at("full, 3 shots, draw 1, seed 0").Key}, s.Partial)
	require.Len(t, s.Unseen, 1)
	require.InDelta(t, 180, s.Unseen[0].Seconds, 60)
	s.Unseen[0].Seconds = 0
	require.Equal(t, UnseenRun{HeldRun{unseen.Key, "target unet dgst, 3 shots, draw 0, seed 1", "far-1-00000000", "far", os.Getpid()}, 0}, s.Unseen[0])
	age(t, p.Lock(unseen), 0)
	require.NoError(t, p.Refresh())
	require.Len(t, p.Status().Running, 3, "it is touched again")
	require.Empty(t, p.Status().Unseen)
	age(t, p.Lock(unseen), 3*time.Minute)

	none := p.Runs[0]
	write(t, filepath.Join(p.Folder(none), RunFile), `{"key":"k","seconds":10,"train_seconds":0,"device":"cuda:0"}`)
	write(t, filepath.Join(p.Folder(none), DoneFile), "")
	require.NoError(t, p.Refresh())
	require.Equal(t, left, *p.Cost.Seconds)
	require.InDelta(t, left/3600, *p.Cost.GPUHours, 1e-12)

	require.Empty(t, p.MixedMachines())
	other := at("dgst, 3 shots, draw 0, seed 0")
	write(t, filepath.Join(p.Folder(other), RunFile), `{"key":"k","seconds":10,"train_seconds":0,"device":"cpu","threads":3}`)
	write(t, filepath.Join(p.Folder(other), DoneFile), "")
	require.Equal(t, []string{"runs were computed in different ways, which round differently: 2 on cuda, 1 on the CPU with 3 threads"},
		p.MixedMachines())
	require.Equal(t, left/2, *p.Status().Seconds, "two workers")
}

// The Makefile is one that GNU make runs: in parallel, behind failures, or not at all.
func TestMakefile(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not installed")
	}
	d := newDemo(t).replace("[1, 3, all]", "[1]").replace("seeds: 2", "seeds: 1").replace("name: demo", `name: 'a # $b \'`)
	d.dir = filepath.Join(d.dir, "with space $x #1")
	p := d.plan()
	text, err := p.Makefile([]string{"--raw", d.raw})
	require.NoError(t, err)
	makefile := write(t, filepath.Join(d.dir, "Makefile"), text)
	program := write(t, filepath.Join(t.TempDir(), "lntorch"), `#!/bin/sh
echo "$@" >>calls.txt
case "$*" in *key=*) key=${9#key=};; *) exit 0;; esac
[ "$key" = "$FAILS" ] && exit 1
mkdir -p "runs/$key" && touch "runs/$key/done"
`)
	require.NoError(t, os.Chmod(program, 0o755))
	run := func(args ...string) (string, error) {
		c := exec.Command("make", append([]string{"-f", makefile, "LNTORCH=" + program}, args...)...)
		c.Dir = filepath.Join(d.dir, "grid")
		c.Env = append(os.Environ(), "FAILS="+p.Runs[2].Key)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	call := "experiment run '" + filepath.Join(d.dir, "grid.yaml") + "' -o '" + filepath.Join(d.dir, "grid") + "' --raw " + d.raw
	out, err := run("-n")
	require.NoError(t, err, out)
	require.Equal(t, len(p.Runs), strings.Count(out, call+" --only key="))
	require.NoFileExists(t, filepath.Join(d.dir, "grid", "calls.txt"))
	out, err = run("-j2", "-k", "all")
	require.Error(t, err, out)
	for i, r := range p.Runs {
		_, err := os.Stat(filepath.Join(p.Folder(r), DoneFile))
		require.Equal(t, i == 2, err != nil)
	}
	calls, err := os.ReadFile(filepath.Join(d.dir, "grid", "calls.txt"))
	require.NoError(t, err)
	require.NotContains(t, string(calls), "experiment table")
	p.Runs[2].Key = "x" // so that nothing fails
	out, err = run()
	require.NoError(t, err, out)
	calls, err = os.ReadFile(filepath.Join(d.dir, "grid", "calls.txt"))
	require.NoError(t, err)
	require.Equal(t, len(p.Runs)+2, strings.Count(string(calls), "\n"), "the failed one again, and the table")
	require.Contains(t, string(calls), "experiment table "+filepath.Join(d.dir, "grid.yaml")+" -o ")
}

// 5,000 runs are listed in less than a second, and in less than 100 MB, when contents are cached; when all are done,
// too.
func TestPlanOfManyRunsIsFast(t *testing.T) {
	d := newDemo(t).replace("draws: 2", "draws: 20").replace("seeds: 2", "seeds: 13").replace("[1, 3, all]", "[1, 2, 3, 4, 5]").
		replace("  none: {method: none}\n", "  bias: {method: bias}\n  norm: {method: norm}\n")
	p := d.plan()
	require.Greater(t, len(p.Document().Runs), 5000)
	long := `"curves": {"loss": [` + strings.Repeat("0.1234567, ", 1500) + "1]}}"
	for _, r := range p.Runs {
		require.NoError(t, os.MkdirAll(p.Folder(r), 0o777))
		short := jsonOf(t, RunRecord{Key: r.Key, Seconds: 7, Device: "cpu", Threads: 1})
		write(t, filepath.Join(p.Folder(r), DoneFile), short)
		write(t, filepath.Join(p.Folder(r), RunFile), strings.TrimRight(short, "}\n")+", "+long)
	}
	var before, after syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	p = d.plan()
	_, err := p.Forecast(context.Background())
	require.NoError(t, err)
	require.Nil(t, p.MixedMachines())
	p.Status()
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	spent := func(r *syscall.Rusage) time.Duration { return time.Duration(r.Utime.Nano() + r.Stime.Nano()) }
	took := spent(&after) - spent(&before)
	for _, r := range p.Document().Runs {
		require.Equal(t, Done, r.State)
		require.Equal(t, 7.0, *r.Seconds)
	}
	t.Logf("%d runs: %v of processor time", len(p.Document().Runs), took)
	require.Less(t, took, 2*time.Second, "with margin for a loaded machine")
}

func jsonOf(t testing.TB, v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	require.NoError(t, e.Encode(v))
	return b.String()
}

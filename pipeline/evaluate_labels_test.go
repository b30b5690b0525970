package pipeline

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// labelExam is a series of the corpus and the masks of objects that belong to it, as the programs that
// wrote them were given these: by object and the last letter of the part's name.
type labelExam struct {
	size  []int
	grid  *volume.ITK
	masks map[string]map[string][]bool
}

// openLabelExam unpacks a series of the corpus to exam/, its objects to objects/.
func openLabelExam(t *testing.T, name string) *labelExam {
	t.Helper()
	corpus, err := filepath.Abs(labelCorpus)
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	put := func(zip, prefix string) {
		for name, data := range zipped(t, filepath.Join(corpus, zip)) {
			path := filepath.Join(prefix, filepath.FromSlash(name))
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, data, 0o600))
		}
	}
	put("ct.zip", "exam")
	put("objects.zip", "objects")
	x, err := series.Find(filepath.Join("exam", name), 2)
	require.NoError(t, err)
	stack, err := x.Choose("")
	require.NoError(t, err)
	e := &labelExam{masks: map[string]map[string][]bool{}}
	e.size, e.grid, err = stack.Grid(false)
	require.NoError(t, err)
	var want struct {
		Objects map[string]struct {
			Series string
			Parts  []struct{ Name, Mask string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(content(t, filepath.Join(corpus, "expected.json"))), &want))
	for object, o := range want.Objects {
		if o.Series != name {
			continue
		}
		e.masks[object] = map[string][]bool{}
		for _, p := range o.Parts {
			packed, err := base64.StdEncoding.DecodeString(p.Mask)
			require.NoError(t, err)
			z, err := zlib.NewReader(bytes.NewReader(packed))
			require.NoError(t, err)
			b, err := io.ReadAll(z)
			require.NoError(t, err)
			mask := make([]bool, e.size[0]*e.size[1]*e.size[2])
			for i := range mask {
				mask[i] = b[i/8]>>(7-i%8)&1 == 1
			}
			e.masks[object][p.Name[len(p.Name)-1:]] = mask
		}
	}
	return e
}

// write writes masks as labels 1, 2, …; a later one wins.
func (e *labelExam) write(t *testing.T, path string, masks ...[]bool) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	labels := make(volume.Slice[uint8], len(masks[0]))
	for k, m := range masks {
		for i, in := range m {
			if in {
				labels[i] = uint8(k + 1)
			}
		}
	}
	require.NoError(t, image.Write(path, e.size, e.grid, labels, 1))
}

func overlapOf(a, b []bool) float64 {
	both, all := 0, 0
	for i := range a {
		if a[i] && b[i] {
			both++
		}
		if a[i] {
			all++
		}
		if b[i] {
			all++
		}
	}
	return 2 * float64(both) / float64(all)
}

func evaluatedAs(t *testing.T, c EvaluateConfig) (*Evaluated, error) {
	t.Helper()
	settings.Defaults(&c)
	return Evaluate(t.Context(), c, Output{})
}

// An RTSTRUCT and a SEG are scored against label maps of every format, and against each other, by the
// masks that their writers were given.
func TestEvaluateDrawsObjects(t *testing.T) {
	e := openLabelExam(t, "square")
	stars, binary := e.masks["stars-square.dcm"], e.masks["binary-all-square.dcm"]
	require.NotEqual(t, stars["a"], binary["a"])
	dice := func(c EvaluateConfig, key string, want float64) {
		t.Helper()
		got, err := evaluatedAs(t, c)
		require.NoError(t, err)
		require.InDelta(t, want, float64(got.Cases[0].Labels[key].Metrics.Get("Dice")), 1e-12)
	}
	for _, ending := range image.Endings() {
		path := "maps/a" + ending
		e.write(t, path, binary["a"])
		dice(EvaluateConfig{Reference: "objects/stars-square.dcm", Prediction: path,
			EvaluateObjects: EvaluateObjects{ROIs: []string{"A=.* a"}}}, "1", overlapOf(stars["a"], binary["a"]))
		dice(EvaluateConfig{Reference: path, Prediction: "objects/binary-all-square.dcm",
			EvaluateObjects: EvaluateObjects{ROIs: []string{"A=.* a"}}}, "1", 1)
		for _, other := range image.Endings() {
			e.write(t, "more/b"+other, stars["a"])
			dice(EvaluateConfig{Reference: path, Prediction: "more/b" + other, Labels: []int{1}}, "1",
				overlapOf(stars["a"], binary["a"]))
		}
	}
	// Both are objects: drawn on the series of --image that they refer to; a folder holds several.
	both := EvaluateConfig{Reference: "objects/stars-square.dcm", Prediction: "objects/binary-all-square.dcm",
		Labels: []int{7}, EvaluateObjects: EvaluateObjects{ROIs: []string{"B=.* b"}, Image: "exam"}}
	dice(both, "7", overlapOf(stars["b"], binary["b"]))
	both.Image = "maps/a.nii.gz"
	dice(both, "7", overlapOf(stars["b"], binary["b"]))
	// A folder that holds the series and the object is one case, too.
	require.NoError(t, os.Rename("objects/stars-square.dcm", "exam/square/rt.dcm"))
	both.Image, both.Reference = "", "exam/square"
	dice(both, "7", overlapOf(stars["b"], binary["b"]))
}

// In folders a case is a file, whatever its format, and the labels have the names of dataset.json.
func TestEvaluateFoldersOfObjects(t *testing.T) {
	e := openLabelExam(t, "square")
	stars, binary := e.masks["stars-square.dcm"], e.masks["binary-all-square.dcm"]
	require.NoError(t, os.MkdirAll("r", 0o755))
	require.NoError(t, os.MkdirAll("p", 0o755))
	require.NoError(t, os.Rename("objects/stars-square.dcm", "r/one.dcm"))
	require.NoError(t, os.Rename("objects/binary-all-square.dcm", "p/one.dcm"))
	require.NoError(t, os.WriteFile("p/dataset.json", []byte(`{"channel_names": {"0": "CT"}, "numTraining": 1,
		"labels": {"background": 0, "ZQMARKERQZ b": 1, "other": 300}, "file_ending": ".nii.gz"}`), 0o600))
	c := EvaluateConfig{Reference: "r", Prediction: "p", EvaluateObjects: EvaluateObjects{Image: "exam"}}
	got, err := evaluatedAs(t, c)
	require.NoError(t, err)
	require.Equal(t, "ZQMARKERQZ b", got.Labels["1"])
	require.Equal(t, "one", got.Cases[0].Case)
	require.InDelta(t, overlapOf(stars["b"], binary["b"]),
		float64(got.Cases[0].Labels["1"].Metrics.Get("Dice")), 1e-12)
	require.Equal(t, "both", got.Cases[0].Labels["300"].Empty)
	require.FileExists(t, "p/summary.json")
	// A pattern for a label above 255.
	c.ROIs = []string{"other=.* a"}
	got, err = evaluatedAs(t, c)
	require.NoError(t, err)
	require.InDelta(t, overlapOf(stars["a"], binary["a"]),
		float64(got.Cases[0].Labels["300"].Metrics.Get("Dice")), 1e-12)
	require.Equal(t, "both", got.Cases[0].Labels["1"].Empty)

	// References of another format than the predictions.
	require.NoError(t, os.Remove("r/one.dcm"))
	e.write(t, "r/one.nrrd", stars["b"])
	c.ROIs, c.Image = nil, ""
	got, err = evaluatedAs(t, c)
	require.NoError(t, err)
	require.InDelta(t, overlapOf(stars["b"], binary["b"]),
		float64(got.Cases[0].Labels["1"].Metrics.Get("Dice")), 1e-12)
}

// What is written as a SEG or an RTSTRUCT, a segment for each node or one for each label, is scored
// without naming anything.
func TestEvaluateFindsLabelsByTheirNames(t *testing.T) {
	e := openLabelExam(t, "square")
	binary := e.masks["binary-all-square.dcm"]
	e.write(t, "maps/a.nii.gz", binary["a"], binary["c"])
	require.NoError(t, os.WriteFile("maps/dataset.json", []byte(`{"channel_names": {"0": "CT"}, "numTraining": 1,
		"labels": {"background": 0, "node": 1, "node (right)": 2}, "file_ending": ".nii.gz"}`), 0o600))
	for _, perNode := range []bool{false, true} {
		c := ConvertImageConfig{In: "maps/a.nii.gz", Out: "maps/seg.dcm", Force: true}
		settings.Defaults(&c)
		c.Reference, c.To, c.PerNode = "exam/square", "seg", perNode
		done, err := ConvertImage(c, Output{})
		require.NoError(t, err)
		require.Equal(t, perNode, len(done.Labels) > 2)
		got, err := evaluatedAs(t, EvaluateConfig{Reference: "maps/a.nii.gz", Prediction: "maps/seg.dcm"})
		require.NoError(t, err)
		for _, key := range []string{"1", "2"} {
			require.EqualValues(t, 1, got.Cases[0].Labels[key].Metrics.Get("Dice"), key)
		}
	}
}

// A label map that is stored as a DICOM series, in a folder or a zip, is read as it is: each value is a
// label.
func TestEvaluateReadsSeriesOfLabels(t *testing.T) {
	path, err := filepath.Abs(filepath.Join(dicomCorpus, "coronal.zip"))
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	f, err := openImage(path, DICOMChoice{}, Output{})
	require.NoError(t, err)
	e := &labelExam{size: f.Head().Size, grid: f.Head().Geometry}
	values := volume.Cast[int32](f.Values())
	label := slices.Max(values)
	mask, n := make([]bool, len(values)), 0
	for i, v := range values {
		if mask[i] = v == label; mask[i] {
			n++
		}
	}
	e.write(t, "coronal.mha", mask)
	got, err := evaluatedAs(t, EvaluateConfig{Reference: path, Prediction: "coronal.mha", Labels: []int{int(label), 1}})
	require.NoError(t, err)
	voxel := e.grid.Spacing[0] * e.grid.Spacing[1] * e.grid.Spacing[2]
	labels := got.Cases[0].Labels
	require.InDelta(t, float64(n)*voxel, float64(labels[fmt.Sprint(label)].Metrics.Get("volume_ref_mm3")), 1e-6)
	require.InDelta(t, float64(n)*voxel, float64(labels["1"].Metrics.Get("volume_pred_mm3")), 1e-6)
}

func TestEvaluateSaysWhatIsWrongWithObjects(t *testing.T) {
	e := openLabelExam(t, "square")
	binary := e.masks["binary-all-square.dcm"]
	e.write(t, "maps/a.nii.gz", binary["a"])
	e.write(t, "two/a.nii.gz", binary["a"])
	e.write(t, "two/a.nrrd", binary["a"])
	require.NoError(t, os.MkdirAll("several", 0o755))
	for _, name := range []string{"binary-square.dcm", "stars-square.dcm"} {
		require.NoError(t, os.WriteFile("several/"+name, []byte(content(t, "objects/"+name)), 0o600))
	}
	stars, seg := "objects/stars-square.dcm", "objects/binary-all-square.dcm"
	rois := func(texts ...string) EvaluateObjects { return EvaluateObjects{ROIs: texts} }
	on := func(image string, texts ...string) EvaluateObjects {
		return EvaluateObjects{ROIs: texts, Image: image}
	}
	for _, c := range []struct {
		config EvaluateConfig
		says   string
	}{
		{EvaluateConfig{Reference: stars, Prediction: "maps/a.nii.gz", Labels: []int{1}},
			stars + " holds RTSTRUCT or SEG: name what is scored with --roi NAME=PATTERN"},
		{EvaluateConfig{Reference: stars, Prediction: "maps/a.nii.gz"}, "name it with -djfile, or the labels"},
		{EvaluateConfig{Reference: stars, Prediction: "maps/a.nii.gz", EvaluateObjects: rois("A=(")},
			"is no regular expression"},
		{EvaluateConfig{Reference: stars, Prediction: "maps/a.nii.gz", EvaluateObjects: rois("A=nodes")},
			`no name of a ROI matches "nodes"; there are "ZQMARKERQZ a"`},
		{EvaluateConfig{Reference: stars, Prediction: "maps/a.nii.gz", Labels: []int{1, 2},
			EvaluateObjects: rois("A=.* a")}, "found 1 --roi and 2 labels in -l"},
		{EvaluateConfig{Reference: stars, Prediction: seg, EvaluateObjects: rois("A=.* a")},
			"both are objects without an image: name the DICOM series"},
		{EvaluateConfig{Reference: stars, Prediction: seg, EvaluateObjects: on("exam/rotated", "A=.* a")},
			"refers to another series and another frame of reference than stack 1 of exam/rotated"},
		{EvaluateConfig{Reference: stars, Prediction: seg, EvaluateObjects: on("nowhere", "A=.* a")},
			"nowhere: no such file"},
		{EvaluateConfig{Reference: "several", Prediction: "maps/a.nii.gz", EvaluateObjects: rois("A=.* a")},
			"several: found several RTSTRUCT or SEG, expected one"},
		{EvaluateConfig{Reference: "maps", Prediction: seg, EvaluateObjects: rois("A=.* a")},
			"found a file and a folder"},
		{EvaluateConfig{Reference: "two", Prediction: "two", Labels: []int{1}, Dataset: ""}, ""},
		{EvaluateConfig{Reference: "two", Prediction: "several", EvaluateObjects: rois("A=.* a")},
			"two/a.nii.gz and two/a.nrrd are both labels of case a, expected one"},
	} {
		_, err := evaluatedAs(t, c.config)
		if c.says == "" { // of two files the one of the predictions' format counts
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.says)
	}
}

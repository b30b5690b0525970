package pipeline

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// said collects what a road logs, from several goroutines.
type said struct {
	lock sync.Mutex
	bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.Buffer.Write(b)
}

// patients are parts of the corpus of labels: for each the series, and objects by name. Each has UIDs of
// its own: the corpus has those below .498.15.
type patients map[string]struct {
	series  string // square or rotated
	objects []string
}

// archive writes patients to a folder: NAME/ct/*.dcm and NAME/OBJECT.dcm. change may alter a file.
func (p patients) archive(t *testing.T, change func(path string, data []byte) []byte) string {
	t.Helper()
	ct := zipped(t, filepath.Join(labelCorpus, "ct.zip"))
	objects := zipped(t, filepath.Join(labelCorpus, "objects.zip"))
	files := map[string][]byte{}
	for name, patient := range p {
		put := func(path string, data []byte) {
			require.NotEmpty(t, data, path)
			data = bytes.ReplaceAll(data, []byte(".498.15."), fmt.Appendf(nil, ".498.%s.", name[len(name)-2:]))
			if change != nil {
				data = change(path, data)
			}
			if data != nil {
				files[path] = data
			}
		}
		for slice, data := range ct {
			if folder, base, _ := strings.Cut(slice, "/"); folder == patient.series {
				put(name+"/ct/"+base, data)
			}
		}
		for _, o := range patient.objects {
			put(name+"/"+o+".dcm", objects[o+".dcm"])
		}
	}
	return folderOf(t, files)
}

// importConfig imports sources to a dataset in root with labels A to D, all parts of the corpus' objects.
func importConfig(root string, sources ...string) ImportConfig {
	c := settings.New[ImportConfig]()
	c.Sources, c.Raw, c.ID, c.Name = sources, root, 7, "LN"
	c.Labels = []string{"A=.* a", "B=.* b", "C=.* c", "D=.* d"}
	return c
}

func statuses(r *Imported) map[string]string {
	all := map[string]string{}
	for _, c := range r.Cases {
		all[c.Case] = c.Status
	}
	return all
}

func reasons(r *Imported) string {
	text := ""
	for _, l := range r.LeftOut {
		text += l.Source + ": " + l.Reason + "\n"
	}
	return text
}

var three = patients{
	"p16": {"square", []string{"stars-square"}},
	"p17": {"rotated", []string{"stars-rotated"}},
	"p18": {"rotated", []string{"binary-rotated"}},
}

// The label maps are the masks of other programs, the images what image convert makes of the series.
func TestImportMakesADatasetOfDICOM(t *testing.T) {
	for _, ending := range []string{".nii.gz", ".nrrd"} {
		root, archive := t.TempDir(), three.archive(t, nil)
		c := importConfig(root, archive)
		c.FileEnding = ending
		r, err := Import(context.Background(), c, Output{})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"LN_0001": ImportWritten, "LN_0002": ImportWritten, "LN_0003": ImportWritten}, statuses(r))
		folder := filepath.Join(root, "Dataset007_LN")
		require.Equal(t, folder, r.Dataset)
		require.Empty(t, r.LeftOut)
		for i, object := range []string{"stars-square.dcm", "stars-rotated.dcm", "binary-rotated.dcm"} {
			name := fmt.Sprintf("LN_%04d", i+1)
			pixels, voxels := expectedLabels(t, object)
			label, err := image.Read(filepath.Join(folder, "labelsTr", name+ending))
			require.NoError(t, err)
			require.Equal(t, pixels, label.Values(), object)
			for k, n := range voxels {
				require.Equal(t, n, r.Cases[i].Voxels[string(rune('A'+k))])
			}
			picture, err := image.Read(filepath.Join(folder, "imagesTr", name+"_0000"+ending))
			require.NoError(t, err)
			require.Equal(t, picture.Head().Geometry, label.Head().Geometry)
			same := filepath.Join(t.TempDir(), "i"+ending)
			_, err = ConvertImage(ConvertImageConfig{In: filepath.Join(archive, fmt.Sprintf("p%d", 16+i), "ct"), Out: same}, Output{})
			require.NoError(t, err)
			require.Equal(t, content(t, same), content(t, filepath.Join(folder, "imagesTr", name+"_0000"+ending)))
		}
		report, err := raw.Verify(context.Background(), folder, 1, nil)
		require.NoError(t, err)
		require.Equal(t, 3, report.Cases)
		require.Empty(t, report.Problems)
		require.Empty(t, report.Warnings)
	}
}

func TestLiveNnUNetAcceptsImportedDatasets(t *testing.T) {
	golden.Python(t)
	root := t.TempDir()
	c := importConfig(root, three.archive(t, nil))
	c.Labels = []string{"LN=.*"}
	r, err := Import(context.Background(), c, Output{})
	require.NoError(t, err)
	var got struct {
		Verified bool
		Cases    map[string]struct {
			Size, Spacing   []float64
			Type, LabelType string
			Components      []struct{ Label, Voxels int }
		}
	}
	// its own check, and SimpleITK and scipy
	require.NoError(t, json.Unmarshal(golden.Run(t, "phantom_dataset.py", r.Dataset), &got))
	require.True(t, got.Verified)
	require.Len(t, got.Cases, 3)
	for _, x := range r.Cases {
		y := got.Cases[x.Case]
		require.Equal(t, "8-bit unsigned integer", y.LabelType)
		require.Equal(t, "16-bit signed integer", y.Type)
		for i := range 3 {
			require.Equal(t, float64(x.Size[i]), y.Size[i])
			require.InDelta(t, x.Spacing[i], y.Spacing[i], 1e-6)
		}
		require.NotEmpty(t, y.Components)
	}
	for i, ending := range []string{".nrrd", ".mha", ".nii"} {
		c.FileEnding, c.ID = ending, 8+i
		_, err := Import(context.Background(), c, Output{})
		require.NoError(t, err)
	}
	pairs := importConfig(root, objectCorpus)
	pairs.ID, pairs.ImageFiles, pairs.LabelFiles, pairs.Labels = 12, "{case}.zip", "{case}.mha", []string{"LN=1,2,3,4,5,6,7,8,9"}
	_, err = Import(context.Background(), pairs, Output{})
	require.NoError(t, err)
	var refused map[string]*string
	require.NoError(t, json.Unmarshal(golden.Run(t, "raw_cases.py", "--verify", root), &refused))
	require.Len(t, refused, 5)
	for name, why := range refused {
		require.Nil(t, why, name)
	}
}

// replace changes bytes in files whose path holds a text. Lengths stay.
func replace(in, from, to string) func(path string, data []byte) []byte {
	return func(path string, data []byte) []byte {
		if !strings.Contains(path, in) {
			return data
		}
		return bytes.ReplaceAll(data, []byte(from), []byte(to))
	}
}

func chain(all ...func(string, []byte) []byte) func(string, []byte) []byte {
	return func(path string, data []byte) []byte {
		for _, f := range all {
			if data != nil {
				data = f(path, data)
			}
		}
		return data
	}
}

// The series is .498.NN.2.1 or .2.2, its frame of reference .3.1 or .3.2, the study .1.
func TestImportSaysWhatIsLinkedAndWhyNot(t *testing.T) {
	archive := patients{
		"by-frame-20":  {"square", []string{"stars-square"}},
		"no-series-21": {"square", []string{"stars-square"}},
		"alone-22":     {"rotated", nil},
		"several-23":   {"square", []string{"stars-square", "rtutils", "binary-square"}},
		"no-match-24":  {"rotated", []string{"stars-rotated"}},
		"other-25":     {"square", []string{"stars-square"}},
		"fits-26":      {"square", []string{"binary-square", "stars-square"}},
	}.archive(t, chain(
		replace("by-frame-20/stars", ".498.20.2.1", ".498.20.2.7"),
		replace("no-series-21/stars", ".498.21.2.1", ".498.21.2.7"), replace("no-series-21/stars", ".498.21.3.1", ".498.21.3.7"),
		replace("fits-26/binary", marker+" ", "ZQMARKERQZ_"), replace("no-match-24/", marker+" ", "ZQMARKERQZ_"),
		replace("other-25/ct", "\x08\x00\x60\x00CS\x02\x00CT", "\x08\x00\x60\x00CS\x02\x00MR"),
		replace("several-23/rtutils", "19000104", "19000106"), replace("several-23/binary", "19000104", "19000105"),
	))
	c := importConfig(t.TempDir(), archive)
	c.DryRun = true
	r, err := Import(context.Background(), c, Output{})
	require.NoError(t, err)
	found := map[string]ImportedCase{}
	for _, x := range r.Cases {
		rel, err := filepath.Rel(archive, x.Image)
		require.NoError(t, err)
		found[rel] = x
	}
	require.Len(t, found, 3)
	frame := found["by-frame-20/ct"]
	require.Equal(t, ImportPlanned, frame.Status)
	require.Contains(t, frame.Warnings[0], "by-frame-20/stars-square.dcm refers to no series that is here; it shares frame of reference and study")
	require.Equal(t, map[string]int{"A": 1, "B": 1, "C": 1, "D": 1}, frame.Parts)
	require.Equal(t, []int{24, 24, 7}, frame.Size)
	several := found["several-23/ct"]
	require.Equal(t, ImportFailed, several.Status)
	require.Contains(t, several.Error, "3 RTSTRUCT or SEG with such labels belong to it: --newest takes the last by date")
	fits := found["fits-26/ct"]
	require.Equal(t, ImportPlanned, fits.Status)
	require.Contains(t, fits.Labels, "stars-square.dcm")
	text := reasons(r)
	for _, want := range []string{
		"no-series-21/stars-square.dcm: refers to no series that is here, and shares frame of reference and study with none",
		"no-series-21/ct: has no labels",
		"alone-22/ct: has no labels",
		"no-match-24/ct: no ROI of " + archive + "/no-match-24/stars-rotated.dcm matches",
		"other-25/stars-square.dcm: refers to a series that is here, but is of another modality",
		"fits-26/binary-square.dcm: holds nothing that matches; " + archive + "/fits-26/stars-square.dcm does",
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "other-25/ct")
	require.NoDirExists(t, r.Dataset)

	names := map[string]FoundName{}
	for _, n := range r.Names {
		names[n.Kind+" "+n.Name] = n
	}
	require.Equal(t, FoundName{marker + " a", "ROI", 6, []string{"A"}}, names["ROI "+marker+" a"])
	require.Equal(t, FoundName{"ZQMARKERQZ_b", "ROI", 1, []string{}}, names["ROI ZQMARKERQZ_b"])
	require.Equal(t, 1, names["segment "+marker+" a"].Count)

	// the last by date, by modality, an empty map, tests
	c.Newest, c.AllowEmpty, c.Unlabelled, c.DryRun = true, true, "test", false
	var log said
	r, err = Import(context.Background(), c, Output{Log: &log})
	require.NoError(t, err)
	by := map[string]ImportedCase{}
	for _, x := range r.Cases {
		by[filepath.Base(filepath.Dir(x.Image))] = x
	}
	require.Contains(t, by["several-23"].Labels, "rtutils.dcm")
	require.Equal(t, map[string]int{"A": 0, "B": 0, "C": 0, "D": 0}, by["no-match-24"].Voxels)
	require.True(t, by["alone-22"].Test)
	require.True(t, by["no-series-21"].Test)
	require.NotContains(t, by, "other-25")
	require.Contains(t, log.String(), "not of modality CT): 1")
	require.Contains(t, log.String(), "it shares frame of reference and study with this one")
	require.Equal(t, 1, strings.Count(log.String(), "frame of reference"))
	require.ElementsMatch(t, []string{by["alone-22"].Case + "_0000.nii.gz", by["no-series-21"].Case + "_0000.nii.gz"},
		namesIn(t, filepath.Join(r.Dataset, "imagesTs")))
	require.Len(t, namesIn(t, filepath.Join(r.Dataset, "imagesTr")), 4)
	report, err := raw.Verify(context.Background(), r.Dataset, 1, nil)
	require.NoError(t, err)
	require.Empty(t, report.Problems)

	c.Modality, c.ID, c.Unlabelled = "MR", 9, "skip"
	r, err = Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Len(t, r.Cases, 1)
	require.Contains(t, r.Cases[0].Image, "other-25/ct")
	require.Contains(t, content(t, filepath.Join(r.Dataset, "dataset.json")), `"0": "MR"`)
}

func TestTheNewestNeedsDates(t *testing.T) {
	for _, test := range []struct{ from, to, want string }{
		{"19000104", "ABCDEFGH", "has no date"},
		{"none", "none", "two of 2 RTSTRUCT or SEG have the last date"},
	} {
		archive := patients{"p31": {"square", []string{"rtutils", "binary-square"}}}.archive(t,
			replace("binary", test.from, test.to))
		c := importConfig(t.TempDir(), archive)
		c.Newest = true
		_, err := Import(context.Background(), c, Output{})
		require.ErrorContains(t, err, test.want)
		require.NotContains(t, err.Error(), "ABCDEFGH")
		require.NotContains(t, err.Error(), "19000104")
	}
}

// Cases keep their names; what is missing is made, under the same name and with the same bytes.
func TestImportDoesWhatIsMissing(t *testing.T) {
	root, archive := t.TempDir(), three.archive(t, nil)
	sub := func(names ...string) []string {
		var all []string
		for _, n := range names {
			all = append(all, filepath.Join(archive, n))
		}
		return all
	}
	again := func(change func(*ImportConfig), sources ...string) (*Imported, error) {
		c := importConfig(root, sources...)
		c.Map = filepath.Join(root, "map.csv")
		if change != nil {
			change(&c)
		}
		return Import(context.Background(), c, Output{})
	}
	r, err := again(nil, sub("p17")...)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"LN_0001": ImportWritten}, statuses(r))
	// a file of the user's is no one's to replace
	folder := r.Dataset
	mine := filepath.Join(folder, "imagesTr", "LN_0003_0000.nii.gz")
	require.NoError(t, os.WriteFile(mine, []byte("mine"), 0o666))
	r, err = again(nil, archive)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"LN_0001": ImportKept, "LN_0002": ImportWritten, "LN_0004": ImportWritten}, statuses(r))
	require.Contains(t, r.Cases[1].Image, "p17")
	require.Equal(t, "LN_0001", r.Cases[1].Case)
	require.Equal(t, "mine", content(t, mine))
	require.NoError(t, os.Remove(mine))
	rows := strings.Split(strings.TrimSpace(content(t, filepath.Join(root, "map.csv"))), "\n")
	require.Len(t, rows, 4)
	require.Equal(t, "LN_0001,"+archive+"/p17/ct,1.2.826.0.1.3680043.8.498.17.2.2,"+archive+"/p17/stars-rotated.dcm", rows[1])
	info, err := os.Stat(filepath.Join(root, "map.csv"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())

	path := filepath.Join(folder, "imagesTr", "LN_0001_0000.nii.gz")
	require.Contains(t, content(t, filepath.Join(folder, recordFile)), fmt.Sprintf("%x", sha256.Sum256([]byte(content(t, path)))))
	before, record := content(t, path), content(t, filepath.Join(folder, recordFile))
	require.NoError(t, os.Remove(path))
	r, err = again(nil, sub("p17", "p16")...)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"LN_0001": ImportWritten, "LN_0002": ImportKept}, statuses(r))
	require.Equal(t, before, content(t, path))
	require.Equal(t, record, content(t, filepath.Join(folder, recordFile)))
	require.Len(t, strings.Split(strings.TrimSpace(content(t, filepath.Join(root, "map.csv"))), "\n"), 4)

	// other labels for the same image
	object := filepath.Join(archive, "p18", "binary-rotated.dcm")
	data := content(t, object)
	require.NoError(t, os.WriteFile(object, []byte(strings.Replace(data, "19000104", "19000105", 1)), 0o666))
	_, err = again(nil, archive)
	require.ErrorContains(t, err, "1 of 3 cases were not imported")
	image4 := filepath.Join(folder, "imagesTr", "LN_0004_0000.nii.gz")
	require.ErrorContains(t, err, "its labels are others than when it was imported: delete "+image4)
	require.Equal(t, record, content(t, filepath.Join(folder, recordFile)))
	require.NoError(t, os.Remove(image4))
	r, err = again(nil, archive)
	require.NoError(t, err)
	require.Equal(t, ImportWritten, statuses(r)["LN_0004"])
	require.NotEqual(t, record, content(t, filepath.Join(folder, recordFile)))

	// what the user changed in dataset.json stays; other settings are refused
	description := filepath.Join(folder, "dataset.json")
	require.NoError(t, os.WriteFile(description, []byte(strings.Replace(content(t, description), "made by lntorch import", "my nodes", 1)), 0o666))
	_, err = again(nil, archive)
	require.NoError(t, err)
	require.Contains(t, content(t, description), "my nodes")
	require.Contains(t, content(t, description), `"numTraining": 3`)
	for want, change := range map[string]func(*ImportConfig){
		"was imported with --label A=.* a B=.* b C=.* c D=.* d, now it is X=.* a": func(c *ImportConfig) { c.Labels = []string{"X=.* a"} },
		"with --file-ending .nii.gz, now it is .nrrd":                             func(c *ImportConfig) { c.FileEnding = ".nrrd" },
		"already has the number 7":                                                func(c *ImportConfig) { c.Name = "Other" },
		"lies in the dataset":                                                     func(c *ImportConfig) { c.Map = filepath.Join(folder, "map.csv") },
		"is no map of lntorch import":                                             func(c *ImportConfig) { c.Map = filepath.Join(archive, "p16/ct/00.dcm") },
	} {
		_, err = again(change, archive)
		require.ErrorContains(t, err, want)
	}
	// a record that would lead out of the dataset
	require.NoError(t, os.WriteFile(filepath.Join(folder, recordFile),
		[]byte(strings.Replace(content(t, filepath.Join(folder, recordFile)), "LN_0001", "LN_/../../../0001", 1)), 0o666))
	_, err = again(nil, archive)
	require.ErrorContains(t, err, "expected a record of lntorch import")
	require.NoError(t, os.Remove(filepath.Join(folder, recordFile)))
	_, err = again(nil, archive)
	require.ErrorContains(t, err, "it was not made by lntorch import")
}

// A series of which slices come later is imported once: a second case would be the same patient.
func TestASeriesThatWasCopiedInPartIsOneCase(t *testing.T) {
	archive := three.archive(t, nil)
	last := filepath.Join(archive, "p16", "ct", "06.dcm")
	data := content(t, last)
	require.NoError(t, os.Remove(last))
	c := importConfig(t.TempDir(), archive)
	r, err := Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Equal(t, 6, r.Cases[0].Size[2])

	require.NoError(t, os.WriteFile(last, []byte(data), 0o666))
	r, err = Import(context.Background(), c, Output{})
	image := filepath.Join(r.Dataset, "imagesTr", "LN_0001_0000.nii.gz")
	require.ErrorContains(t, err, "its slices are others than when it was imported: delete "+image)
	require.Equal(t, map[string]string{"LN_0001": ImportFailed, "LN_0002": ImportKept, "LN_0003": ImportKept}, statuses(r))
	require.NoError(t, os.Remove(image))
	r, err = Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"LN_0001": ImportWritten, "LN_0002": ImportKept, "LN_0003": ImportKept}, statuses(r))
	require.Equal(t, 7, r.Cases[0].Size[2])

	fresh := importConfig(t.TempDir(), archive)
	want, err := Import(context.Background(), fresh, Output{})
	require.NoError(t, err)
	require.Equal(t, tree(t, want.Dataset), tree(t, r.Dataset))
}

// stopper cancels when so many cases are done.
type stopper struct {
	after int
	stop  func()
}

func (s stopper) Begin(string, int) {}
func (s stopper) End()              {}
func (s stopper) Done(n int, note string) {
	if strings.HasPrefix(note, "LN_") && n == s.after {
		s.stop()
	}
}

func TestImportIsInterruptedAndGoesOn(t *testing.T) {
	archive := three.archive(t, nil)
	whole := importConfig(t.TempDir(), archive)
	want, err := Import(context.Background(), whole, Output{})
	require.NoError(t, err)

	c := importConfig(t.TempDir(), archive)
	c.Workers = 1
	ctx, stop := context.WithCancel(context.Background())
	r, err := Import(ctx, c, Output{Progress: stopper{1, stop}})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "stopped by the user; 1 cases of "+r.Dataset+" are complete")
	require.Equal(t, map[string]string{"LN_0001": ImportWritten, "LN_0002": ImportPlanned, "LN_0003": ImportPlanned}, statuses(r))
	report, err := raw.Verify(context.Background(), r.Dataset, 1, nil)
	require.NoError(t, err)
	require.Equal(t, 1, report.Cases)
	require.Empty(t, report.Problems)

	// as after a kill: files without a record, one of them begun
	var record importRecord
	require.NoError(t, json.Unmarshal([]byte(content(t, filepath.Join(r.Dataset, recordFile))), &record))
	require.Empty(t, record.Pending)
	record.Pending = []string{"LN_0002", "LN_0003"}
	text, err := json.Marshal(record)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(r.Dataset, recordFile), text, 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(r.Dataset, "imagesTr", "LN_0002_0000.nii.gz"), []byte("x"), 0o666))
	begun := filepath.Join(r.Dataset, "labelsTr", ".lntorch.0123abcd.tmp")
	require.NoError(t, os.WriteFile(begun, []byte("x"), 0o666))
	r, err = Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"LN_0001": ImportKept, "LN_0002": ImportWritten, "LN_0003": ImportWritten}, statuses(r))
	require.NoFileExists(t, begun)
	require.Equal(t, tree(t, want.Dataset), tree(t, r.Dataset))
}

// stopsAt is done when there is a file.
type stopsAt struct {
	context.Context
	path string
}

func (c stopsAt) Err() error {
	if _, err := os.Stat(c.path); err == nil {
		return context.Canceled
	}
	return nil
}

// Wherever an import of pairs is stopped, a case is there with its record or not at all.
func TestAnInterruptedPairIsThereOnce(t *testing.T) {
	archive := t.TempDir()
	for _, name := range []string{"axial", "oblique"} {
		for from, to := range map[string]string{".zip": "-ct.nii.gz", ".mha": "-seg.nii.gz"} {
			_, err := ConvertImage(ConvertImageConfig{In: filepath.Join(objectCorpus, name+from),
				Out: filepath.Join(archive, name+to)}, Output{})
			require.NoError(t, err)
		}
	}
	c := importConfig(t.TempDir(), archive)
	c.ImageFiles, c.LabelFiles, c.Labels = "{case}-ct.nii.gz", "{case}-seg.nii.gz", []string{"LN=1"}
	c.Workers = 1
	whole, err := Import(context.Background(), c, Output{})
	require.NoError(t, err)
	for _, file := range []string{"import.json", "labelsTr/LN_0001.nii.gz", "imagesTr/LN_0001_0000.nii.gz",
		"labelsTr/LN_0002.nii.gz", "imagesTr/LN_0002_0000.nii.gz"} {
		c.Raw = t.TempDir()
		folder := filepath.Join(c.Raw, "Dataset007_LN")
		_, err := Import(stopsAt{context.Background(), filepath.Join(folder, file)}, c, Output{})
		require.ErrorIs(t, err, context.Canceled, file)
		report, err := raw.Verify(context.Background(), folder, 1, nil)
		if err == nil { // or there is no case yet
			require.Empty(t, report.Problems, file)
		}
		_, err = Import(context.Background(), c, Output{})
		require.NoError(t, err, file)
		require.Equal(t, tree(t, whole.Dataset), tree(t, folder), file)
	}
}

// tree is all files below a folder.
func tree(t *testing.T, folder string) map[string]string {
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(folder, path)
			all[rel] = content(t, path)
		}
		return err
	}))
	return all
}

// A bad case does not stop the others.
func TestImportFinishesTheOthers(t *testing.T) {
	archive := three.archive(t, chain(func(path string, data []byte) []byte {
		switch {
		case strings.HasSuffix(path, "p16/ct/03.dcm"): // missing in the middle
			return nil
		case strings.HasSuffix(path, "p17/ct/02.dcm"): // damaged
			return data[:len(data)-100]
		}
		return data
	}))
	require.NoError(t, os.WriteFile(filepath.Join(archive, "p18", "other.dcm"), []byte("no DICOM"), 0o666))
	c := importConfig(t.TempDir(), archive)
	r, err := Import(context.Background(), c, Output{})
	require.ErrorContains(t, err, "2 of 3 cases were not imported, 1 other files could not be used")
	require.ErrorContains(t, err, "1 slices are missing")
	require.ErrorContains(t, err, "p17/ct/02.dcm: PixelData (7fe0,0010)")
	require.ErrorContains(t, err, "other.dcm")
	require.Equal(t, 1, strings.Count(err.Error(), "02.dcm"))
	require.Equal(t, map[string]string{"LN_0001": ImportFailed, "LN_0002": ImportFailed, "LN_0003": ImportWritten}, statuses(r))
	require.Equal(t, []string{"missing"}, r.Cases[0].Problems)
	require.Equal(t, []string{"LN_0003.nii.gz"}, namesIn(t, filepath.Join(r.Dataset, "labelsTr")))

	// mended: the name is that of its place
	require.NoError(t, os.Remove(filepath.Join(archive, "p18", "other.dcm")))
	c.FixGeometry = true
	r, err = Import(context.Background(), c, Output{})
	require.ErrorContains(t, err, "1 of 3 cases were not imported;")
	require.Equal(t, map[string]string{"LN_0001": ImportWritten, "LN_0002": ImportFailed, "LN_0003": ImportKept}, statuses(r))
	require.Contains(t, content(t, filepath.Join(r.Dataset, recordFile)), `"missing"`)
	im, err := image.Header(filepath.Join(r.Dataset, "imagesTr", "LN_0001_0000.nii.gz"))
	require.NoError(t, err)
	require.Equal(t, []int{24, 24, 7}, im.Size)
}

// Images and label maps in pairs, the images DICOM in zips; a label map on another grid, an image alone,
// labels alone.
func TestImportTakesPairsOfFiles(t *testing.T) {
	files := map[string][]byte{}
	for _, name := range []string{"axial", "oblique", "empty"} {
		for _, ending := range []string{".zip", ".mha"} {
			data, err := os.ReadFile(filepath.Join(objectCorpus, name+ending))
			require.NoError(t, err)
			files[name+"/"+name+ending] = data
		}
	}
	files["lone/lone.zip"] = files["axial/axial.zip"]
	files["labels/labels.mha"] = files["axial/axial.mha"]
	files["another/another.zip"], files["another/another.mha"] = files["oblique/oblique.zip"], files["axial/axial.mha"]
	archive := folderOf(t, files)
	c := importConfig(t.TempDir(), archive)
	c.ImageFiles, c.LabelFiles, c.Labels = "{case}/{case}.zip", "{case}/{case}.mha", []string{"X=2", "Y=3,1"}
	dry := c
	dry.DryRun, dry.Labels = true, nil
	r, err := Import(context.Background(), dry, Output{})
	require.NoError(t, err)
	require.Len(t, r.Cases, 4)
	values := map[string]int{}
	for _, n := range r.Names {
		require.Equal(t, "value", n.Kind)
		values[n.Name] = n.Count
	}
	require.Equal(t, 3, values["1"])

	r, err = Import(context.Background(), c, Output{})
	require.ErrorContains(t, err, "the label map does not lie on the grid of the image")
	require.ErrorContains(t, err, "1 of 3 cases were not imported")
	require.Contains(t, reasons(r), "lone/lone.zip: has no labels")
	require.Contains(t, reasons(r), "labels/labels.mha: have no image")
	require.Contains(t, reasons(r), "empty/empty.zip: no value of "+archive+"/empty/empty.mha matches")
	require.Equal(t, map[string]string{"LN_0001": ImportFailed, "LN_0002": ImportWritten, "LN_0003": ImportWritten}, statuses(r))
	for i, name := range []string{"axial", "oblique"} {
		was, err := image.Read(filepath.Join(objectCorpus, name+".mha"))
		require.NoError(t, err)
		is, err := image.Read(filepath.Join(r.Dataset, "labelsTr", fmt.Sprintf("LN_%04d.nii.gz", i+2)))
		require.NoError(t, err)
		from, to := volume.Cast[int32](was.Values()), volume.Cast[int32](is.Values())
		require.Len(t, to, len(from))
		counts := map[string]int{}
		for k, v := range from {
			want := map[int32]int32{0: 0, 1: 2, 2: 1, 3: 2}[v]
			if name == "axial" { // on the series' grid in the same order
				require.Equal(t, want, to[k])
			}
			if want > 0 {
				counts[string(rune('W'+want))]++
			}
		}
		for label, n := range counts {
			require.Equal(t, n, r.Cases[i+1].Voxels[label])
		}
	}
	// the same images as files, one label map in another order of axes, one written by others as NIfTI
	_, err = ConvertImage(ConvertImageConfig{In: filepath.Join(archive, "axial", "axial.zip"), Out: filepath.Join(archive, "axial.nrrd")}, Output{})
	require.NoError(t, err)
	_, err = ConvertImage(ConvertImageConfig{In: filepath.Join(archive, "axial", "axial.mha"), Out: filepath.Join(archive, "axial.nii")}, Output{})
	require.NoError(t, err)
	c = importConfig(t.TempDir(), archive)
	c.ImageFiles, c.LabelFiles, c.Labels = "{case}.nrrd", "{case}.nii", []string{"X=2", "Y=3,1"}
	again, err := Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Equal(t, r.Cases[1].Voxels, again.Cases[0].Voxels)
	kept, err := Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Equal(t, ImportKept, kept.Cases[0].Status)

	c.DryRun, c.ImageFiles = true, "{case}.mhd"
	_, err = Import(context.Background(), c, Output{})
	require.ErrorContains(t, err, archive+": no file is called as --images says, {case}.mhd; there is "+archive+"/axial.nii, for example")
	c.DryRun, c.ImageFiles = false, "{case}.nrrd"

	for want, change := range map[string]func(*ImportConfig){
		"expected values of the label maps": func(c *ImportConfig) { c.Labels = []string{"LN=.*"} },
		"the value 1 is there twice":        func(c *ImportConfig) { c.Labels = []string{"A=1", "B=2,1"} },
		"expected {case} in it":             func(c *ImportConfig) { c.ImageFiles = "ct.nrrd" },
		"--images is for folders":           func(c *ImportConfig) { c.Sources = []string{filepath.Join(archive, "axial.nii")} },
		"--labels needs --images":           func(c *ImportConfig) { c.ImageFiles = "" },
		"--images needs --labels":           func(c *ImportConfig) { c.LabelFiles = "" },
		"background is label 0":             func(c *ImportConfig) { c.Labels = []string{"background=1"} },
		"--label NAME=PATTERN is not given": func(c *ImportConfig) { c.Labels = nil },
		"-d ID and --name NAME":             func(c *ImportConfig) { c.ID = 0 },
		"expected letters, digits":          func(c *ImportConfig) { c.Name = "a b" },
		"give --images and --labels":        func(c *ImportConfig) { c.ImageFiles, c.LabelFiles = "", ""; c.Sources[0] += "/axial.nii" },
	} {
		bad := importConfig(c.Raw, archive)
		bad.ImageFiles, bad.LabelFiles, bad.ID = c.ImageFiles, c.LabelFiles, 99
		bad.Labels = c.Labels
		change(&bad)
		_, err := Import(context.Background(), bad, Output{})
		var mistake *settings.UsageError
		require.ErrorAs(t, err, &mistake, want)
		require.ErrorContains(t, err, want)
	}
}

// Labels as RTSTRUCT beside image files.
func TestImportDrawsObjectsOnImageFiles(t *testing.T) {
	archive := three.archive(t, nil)
	for _, p := range []string{"p17", "p18"} {
		_, err := ConvertImage(ConvertImageConfig{In: filepath.Join(archive, p, "ct"), Out: filepath.Join(archive, p, "ct.nii.gz")}, Output{})
		require.NoError(t, err)
	}
	for name, picture := range map[string]string{"files": "{case}/ct.nii.gz", "folders": "{case}/ct"} {
		c := importConfig(t.TempDir(), archive)
		c.ImageFiles, c.LabelFiles = picture, "{case}/stars-rotated.dcm"
		r, err := Import(context.Background(), c, Output{})
		require.NoError(t, err, name)
		require.Len(t, r.Cases, 1)
		pixels, _ := expectedLabels(t, "stars-rotated.dcm")
		label, err := image.Read(filepath.Join(r.Dataset, "labelsTr", "LN_0001.nii.gz"))
		require.NoError(t, err)
		require.Equal(t, pixels, label.Values())
	}
}

// No text of a patient's files reaches output, messages or the dataset, nor does a path reach the
// dataset: every text of the sources is the marker, all folders hold another one. They are imported,
// broken, imported.
func TestNoTextOfAPatientIsImported(t *testing.T) {
	const folder = "ZQPATHQZ"
	objects := []string{"stars-rotated", "binary-rotated", "fractional", "labelmap16", "dcmqi"}
	random := rand.New(rand.NewPCG(9, 10))
	written, texts := 0, 0
	for round := range 8 {
		p := patients{}
		for i, o := range objects {
			p[fmt.Sprintf("%s-%d", folder, 40+i)] = struct {
				series  string
				objects []string
			}{"rotated", []string{o}}
		}
		archive := p.archive(t, func(path string, data []byte) []byte {
			texts += bytes.Count(data, []byte(marker))
			if round == 0 {
				return data
			}
			if random.IntN(4) > 0 { // most of a series must be sound for anything to be written
				return data
			}
			return broken(map[string][]byte{"": data}, random)[""]
		})
		c := importConfig(t.TempDir(), archive)
		c.FileEnding, c.Labels, c.Unlabelled = ".nii", []string{"LN=.* b", "A=.* a"}, "test"
		c.Newest, c.AllowEmpty = true, true
		c.Map = filepath.Join(t.TempDir(), "map")
		var out said
		for _, dry := range []bool{true, false} {
			c.DryRun = dry
			r, err := Import(context.Background(), c, Output{Log: &out})
			if err != nil {
				fmt.Fprintln(&out, err)
			}
			if r == nil {
				continue
			}
			r.Names = nil // shown on purpose
			text, err := json.Marshal(r)
			require.NoError(t, err)
			out.Write(text)
			if dry {
				continue
			}
			for name, data := range tree(t, r.Dataset) {
				out.WriteString(name)
				if filepath.Ext(name) == ".nii" {
					data = data[:352] // its pixels may be anything
					written++
				}
				out.WriteString(data)
				require.NotContains(t, name+data, folder)
				require.NotContains(t, name+data, "1.2.826")
				require.NotContains(t, name+data, "190001")
			}
		}
		require.NotContains(t, out.String(), marker)
		require.NotContains(t, out.String(), "QMARKERQ")
	}
	require.Greater(t, written, 20)
	require.Greater(t, texts, 1000)
}

// The lock's file is there while a program runs, and stays if it is killed.
func TestTheLockOfAnImportHoldsNoArguments(t *testing.T) {
	archive := three.archive(t, nil)
	c := importConfig(t.TempDir(), archive)
	var found string
	_, err := Import(context.Background(), c, Output{Progress: stopper{1, func() {
		data, err := os.ReadFile(filepath.Join(c.Raw, "Dataset007_LN", ".lntorch.lock"))
		require.NoError(t, err)
		found = string(data)
	}}})
	require.NoError(t, err)
	require.Contains(t, found, `"lntorch import"`)
	require.NotContains(t, found, os.Args[0])
}

// Compressed NIfTI of other programs may hold texts, too.
func TestTextsOfImageFilesAreLeftOut(t *testing.T) {
	archive := t.TempDir()
	_, err := ConvertImage(ConvertImageConfig{In: filepath.Join(objectCorpus, "axial.zip"), Out: filepath.Join(archive, "a-ct.nii")}, Output{})
	require.NoError(t, err)
	data := []byte(content(t, filepath.Join(archive, "a-ct.nii")))
	copy(data[148:], marker)    // descrip
	copy(data[228:], marker)    // aux_file
	copy(data[14:], marker[:4]) // db_name
	require.NoError(t, os.WriteFile(filepath.Join(archive, "a-ct.nii"), data, 0o666))
	mask := content(t, filepath.Join(objectCorpus, "axial.mha"))
	require.NoError(t, os.WriteFile(filepath.Join(archive, "a-seg.mha"), []byte(mask), 0o666))
	c := importConfig(t.TempDir(), archive)
	c.ImageFiles, c.LabelFiles, c.Labels = "{case}-ct.nii", "{case}-seg.mha", []string{"LN=1"}
	r, err := Import(context.Background(), c, Output{})
	require.NoError(t, err)
	z, err := gzip.NewReader(strings.NewReader(content(t, filepath.Join(r.Dataset, "imagesTr", "LN_0001_0000.nii.gz"))))
	require.NoError(t, err)
	plain, err := io.ReadAll(z)
	require.NoError(t, err)
	require.NotContains(t, string(plain), "ZQMA")
	was, err := image.Read(filepath.Join(archive, "a-ct.nii"))
	require.NoError(t, err)
	is, err := image.Read(filepath.Join(r.Dataset, "imagesTr", "LN_0001_0000.nii.gz"))
	require.NoError(t, err)
	require.Equal(t, was.Values(), is.Values())
}

// Memory is shared: what does not fit waits, and what never fits goes alone.
func TestCasesWaitForMemory(t *testing.T) {
	r := newRoom()
	r.all, r.free = 10, 10
	require.Equal(t, int64(7), r.take(7))
	done := make(chan int64)
	go func() { done <- r.take(50) }()
	select {
	case <-done:
		require.Fail(t, "there was no room")
	default:
	}
	r.give(7)
	require.Equal(t, int64(10), <-done)
	r.give(10)
	require.Equal(t, int64(10), r.free)
}

// Links and folders that lead elsewhere are not followed, a folder within another is read once.
func TestImportStaysInItsSources(t *testing.T) {
	archive := three.archive(t, nil)
	outside := patients{"p19": {"square", []string{"stars-square"}}}.archive(t, nil)
	require.NoError(t, os.Symlink(filepath.Join(outside, "p19"), filepath.Join(archive, "p19")))
	c := importConfig(t.TempDir(), archive, filepath.Join(archive, "p16"), archive+"/.")
	var log said
	r, err := Import(context.Background(), c, Output{Log: &log})
	require.NoError(t, err)
	require.Len(t, r.Cases, 3)
	require.Empty(t, r.LeftOut)
	require.Contains(t, log.String(), "symbolic links, which are not followed: 1")
	// a series in two sources is one
	half := filepath.Join(t.TempDir(), "half")
	require.NoError(t, os.Mkdir(half, 0o777))
	for _, name := range []string{"04.dcm", "05.dcm", "06.dcm"} {
		require.NoError(t, os.Rename(filepath.Join(archive, "p16", "ct", name), filepath.Join(half, name)))
	}
	c = importConfig(t.TempDir(), half, archive)
	r, err = Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Len(t, r.Cases, 3)
	for _, x := range r.Cases {
		require.NotEqual(t, 3, x.Size[2])
	}
}

// A file that is there twice is one, wherever it lies. A name that waits for its files is not given away.
func TestImportKnowsCopiesAndNames(t *testing.T) {
	archive := three.archive(t, nil)
	data := content(t, filepath.Join(archive, "p17", "stars-rotated.dcm"))
	require.NoError(t, os.WriteFile(filepath.Join(archive, "p17", "z-copy.dcm"), []byte(data), 0o666))
	c := importConfig(t.TempDir(), filepath.Join(archive, "p17"))
	r, err := Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Contains(t, reasons(r), "z-copy.dcm: is a copy of another file")
	require.Contains(t, r.Cases[0].Labels, "stars-rotated.dcm")

	image, label := filepath.Join(r.Dataset, "imagesTr", "LN_0001_0000.nii.gz"), filepath.Join(r.Dataset, "labelsTr", "LN_0001.nii.gz")
	before := content(t, image)
	require.NoError(t, os.Remove(image))
	require.NoError(t, os.Remove(label))
	c.Sources = []string{archive} // p16 comes before it
	r, err = Import(context.Background(), c, Output{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"LN_0001": ImportWritten, "LN_0002": ImportWritten, "LN_0003": ImportWritten}, statuses(r))
	require.Equal(t, before, content(t, image))
}

// An image that turns out to be damaged only when its pixels are read leaves nothing behind.
func TestADamagedImageLeavesNoLabels(t *testing.T) {
	archive := t.TempDir()
	whole := filepath.Join(archive, "a-ct.nii.gz")
	_, err := ConvertImage(ConvertImageConfig{In: filepath.Join(objectCorpus, "axial.zip"), Out: whole}, Output{})
	require.NoError(t, err)
	data := content(t, whole)
	require.NoError(t, os.WriteFile(whole, []byte(data[:len(data)-8]+"checksum"), 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(archive, "a-seg.mha"), []byte(content(t, filepath.Join(objectCorpus, "axial.mha"))), 0o666))
	c := importConfig(t.TempDir(), archive)
	c.ImageFiles, c.LabelFiles, c.Labels = "{case}-ct.nii.gz", "{case}-seg.mha", []string{"LN=1"}
	r, err := Import(context.Background(), c, Output{})
	require.ErrorContains(t, err, "1 of 1 cases were not imported")
	require.ErrorContains(t, err, "a-ct.nii.gz")
	require.Empty(t, namesIn(t, filepath.Join(r.Dataset, "imagesTr")))
	require.Empty(t, namesIn(t, filepath.Join(r.Dataset, "labelsTr")))
}

// One zip that was not copied to its end stops no other source, and a zip in a folder is named.
func TestZipsOfAnArchive(t *testing.T) {
	archive := three.archive(t, nil)
	cut := filepath.Join(t.TempDir(), "cut.zip")
	data := content(t, filepath.Join(objectCorpus, "axial.zip"))
	require.NoError(t, os.WriteFile(cut, []byte(data[:len(data)/2]), 0o666))
	inside := filepath.Join(archive, "p16", "more.zip")
	require.NoError(t, os.WriteFile(inside, []byte(data), 0o666))
	r, err := Import(context.Background(), importConfig(t.TempDir(), cut, archive), Output{})
	require.ErrorContains(t, err, "1 files could not be used; the same command")
	require.ErrorContains(t, err, cut+": found no directory at the end of the zip")
	require.Equal(t, map[string]string{"LN_0001": ImportWritten, "LN_0002": ImportWritten, "LN_0003": ImportWritten}, statuses(r))
	require.Contains(t, reasons(r), inside+": is a zip in a folder, which is not looked into")
	_, err = Import(context.Background(), importConfig(t.TempDir(), cut), Output{})
	require.ErrorContains(t, err, cut+": found no directory at the end of the zip")
	require.NotContains(t, err.Error(), "--images")
}

// A ROI that matches and has nothing in it is not one that does not match.
func TestWhyNoLabelMatches(t *testing.T) {
	f := &foundLabels{name: "rs.dcm", kind: "ROI", parts: []labels.Part{{Name: "LN", Empty: true}},
		match: []labels.Label{{Name: "A"}, {Name: "B", Parts: []int{0}}}}
	require.False(t, f.matches())
	require.Equal(t, "each ROI of rs.dcm that matches is empty", f.mismatch())
	f.match = f.match[:1]
	require.Equal(t, "no ROI of rs.dcm matches", f.mismatch())
}

// Of two phases in one series, labels are those of the one whose slices they name.
func TestLabelsOfAPhaseAreThatPhases(t *testing.T) {
	for _, object := range []string{"stars-square", "binary-square"} {
		archive := patients{"p21": {"square", []string{object}}}.archive(t, nil)
		first := filepath.Join(archive, "p21", "ct")
		second := filepath.Join(archive, "p21", "another phase")
		require.NoError(t, os.Mkdir(second, 0o777))
		for _, name := range namesIn(t, first) {
			data := content(t, filepath.Join(first, name))
			number := strings.Index(data, "\x20\x00\x13\x00IS")
			data = data[:number] + "\x20\x00\x12\x00IS\x02\x002 " + data[number:] // AcquisitionNumber
			data = strings.ReplaceAll(data, ".498.21.4.1.", ".498.21.5.1.")       // SOPInstanceUID
			require.NoError(t, os.WriteFile(filepath.Join(second, name), []byte(data[:len(data)-1]+"\xff"), 0o666))
		}
		r, err := Import(context.Background(), importConfig(t.TempDir(), archive), Output{})
		require.NoError(t, err, object)
		require.Len(t, r.Cases, 1)
		require.Equal(t, first, r.Cases[0].Image)
		require.Equal(t, ImportWritten, r.Cases[0].Status)
		require.Contains(t, reasons(r), second+": has no labels")
	}
}

// Of a structure set whose ROIs lie on two series in different frames of reference, those of the series
// are drawn; a set with none of it fails.
func TestROIsOfAnotherFrameAreLeftOut(t *testing.T) {
	// A second frame of reference with a series of its own, and the ROI d in it.
	second := func(object []byte) []byte {
		sequence := bytes.Index(object, []byte{0x06, 0x30, 0x10, 0x00})
		item := object[sequence+8:]
		item = bytes.Clone(item[:8+binary.LittleEndian.Uint32(item[4:])])
		size := binary.LittleEndian.Uint32(object[sequence+4:])
		require.EqualValues(t, len(item), size)
		moved := func(b []byte, tag string) []byte { // the UID ends in another digit
			at := bytes.Index(b, []byte(tag))
			require.Positive(t, at)
			end := at + 8 + int(binary.LittleEndian.Uint32(b[at+4:]))
			for b[end-1] == 0 {
				end--
			}
			b = bytes.Clone(b)
			b[end-1] = '9'
			return b
		}
		item = moved(moved(item, "\x20\x00\x52\x00"), "\x20\x00\x0e\x00")
		at := bytes.LastIndex(object[:bytes.Index(object, []byte(marker+" d"))], []byte("\x06\x30\x24\x00"))
		object = append(bytes.Clone(object[:at]), moved(object[at-1:], "\x06\x30\x24\x00")[1:]...)
		binary.LittleEndian.PutUint32(object[sequence+4:], 2*size)
		return slices.Insert(object, sequence+8+len(item), item...)
	}
	archive := func(change func([]byte) []byte) string {
		return patients{"p16": {"square", []string{"stars-square"}}}.archive(t, func(name string, data []byte) []byte {
			if filepath.Base(name) == "stars-square.dcm" {
				return change(data)
			}
			return data
		})
	}
	drawn := func(sources, want string, rois ...string) volume.Pixels {
		c := importConfig(t.TempDir(), sources)
		c.Labels = rois
		r, err := Import(context.Background(), c, Output{})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"LN_0001": ImportWritten}, statuses(r))
		said := strings.Join(r.Cases[0].Warnings, "\n")
		require.Equal(t, want != "", strings.Contains(said, "left out"), said)
		require.Contains(t, said, want)
		f, err := image.Read(filepath.Join(r.Dataset, "labelsTr", "LN_0001.nii.gz"))
		require.NoError(t, err)
		return f.Values()
	}
	same := archive(func(b []byte) []byte { return b })
	changed := archive(second)
	left := filepath.Join(changed, "p16/stars-square.dcm") + ": ROIs of another series and another frame of reference are left out: 4"
	require.Equal(t, drawn(same, "", "LN=.* [abc]"), drawn(changed, left, "LN=.* [abcd]"))

	c := importConfig(t.TempDir(), changed)
	c.Labels = []string{"D=.* d"}
	r, err := Import(context.Background(), c, Output{})
	require.Error(t, err)
	require.Equal(t, map[string]string{"LN_0001": ImportFailed}, statuses(r))
	require.Contains(t, r.Cases[0].Error, "ROI 4 refers to another series and another frame of reference")
}

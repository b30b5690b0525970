package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/pipeline"
)

// phantomSeries is phantom-mini's LN_004 as a DICOM series that pydicom wrote; its texts are markers.
const phantomSeries = "testdata/golden/dicom_phantom/LN_004.zip"

// unzip writes the members of a zip to a folder.
func unzip(t *testing.T, path, folder string) {
	t.Helper()
	z, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer z.Close()
	require.NoError(t, os.MkdirAll(folder, 0o755))
	for _, m := range z.File {
		r, err := m.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(folder, m.Name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(folder, m.Name), data, 0o644))
	}
}

// valuesOf reads the pixels of an image file.
func valuesOf(t *testing.T, path string) []byte {
	t.Helper()
	f, err := image.Read(path)
	require.NoError(t, err)
	return f.Values().Bytes()
}

// requireNoMarker searches all files of a folder but DICOM objects, and a command's output, for
// texts of the series.
func requireNoMarker(t *testing.T, folder string, said ...string) {
	t.Helper()
	files := 0
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".dcm") {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		said = append(said, string(b))
		return err
	}))
	require.Positive(t, files)
	for _, text := range said {
		for _, marker := range []string{"ZQMARKERQZ", "QMARKERQ", "19700101", "19000101"} {
			require.NotContains(t, text, marker)
		}
	}
}

// A series has the segmentation that nnU-Net makes of its image: as a zip, a folder and among files,
// every voxel, in the model's format and in others, on the grid of the series. No text of it gets
// anywhere.
func TestPredictOnASeriesIsNnUNetsOnItsImage(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	truth := repo(t, predictions+"/source_notta/LN_004.nii.gz")
	series := filepath.Join(root, "exam.1")
	unzip(t, repo(t, phantomSeries), filepath.Join(series, "below"))
	require.NoError(t, os.WriteFile(filepath.Join(series, "README"), []byte("a text"), 0o644))
	scan := filepath.Join(root, "ct_0000.nrrd")
	f, err := image.Read(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	require.NoError(t, image.Convert(scan, f, nil, 1))

	out := filepath.Join(root, "out")
	r := lntorch(t, "predict", "-i", repo(t, phantomSeries), series, scan, "-o", out, "-m", repo(t, sourceModel),
		"--disable_tta", "-device", "cpu", "--save_probabilities")
	require.Equal(t, 0, r.code, r.errOut)
	require.Len(t, strings.Split(strings.TrimSpace(r.out), "\n"), 3, r.out)
	for _, name := range []string{"LN_004.nii.gz", "exam.1.nii.gz"} {
		require.Contains(t, r.out, filepath.Join(out, name)+"  lymph_node 37, ")
		requireSegmentation(t, truth, filepath.Join(out, name))
	}
	require.Equal(t, valuesOf(t, truth), valuesOf(t, filepath.Join(out, "ct.nrrd")))
	requireSameFile(t, filepath.Join(out, "LN_004.npz"), filepath.Join(out, "ct.npz"))
	run := readRun(t, filepath.Join(out, "run.json"))
	require.Len(t, run.Cases, 3)
	require.Equal(t, "exam.1", run.Cases[1].Case)
	require.Empty(t, run.Cases[1].Warnings)
	requireNoMarker(t, out, r.out, r.errOut)
	v, err := plans.ReadJSON(filepath.Join(out, "predict_from_raw_data_args.json"))
	require.NoError(t, err)
	inputs, _ := v.(*plans.Object).Get("list_of_lists_or_source_folder")
	require.Equal(t, []any{[]any{repo(t, phantomSeries)}, []any{series}, []any{scan}}, inputs)

	// alone: the folder is no folder in nnU-Net's naming, and -o may be a file of any format, whose
	// grid is that of the series to the bit, where NIfTI would round it
	whole, err := image.Read(filepath.Join(root, "exam.1", "below", "IM0000"))
	require.NoError(t, err)
	for _, ending := range []string{".nrrd", ".mha", ".nii"} {
		file := filepath.Join(root, "nodes"+ending)
		r = predict(t, series+"/", file, "-m", repo(t, sourceModel))
		require.Equal(t, 0, r.code, r.errOut)
		require.Equal(t, valuesOf(t, truth), valuesOf(t, file))
		head, err := image.Header(file)
		require.NoError(t, err)
		if ending != ".nii" {
			require.Equal(t, []float64{1.755, 1.755, 3}, head.Geometry.Spacing)
		}
		require.Equal(t, whole.Head().Geometry.Direction, head.Geometry.Direction)
	}
	r = predict(t, repo(t, phantomSeries), filepath.Join(root, "one"), "-m", repo(t, sourceModel), "--dry-run", "--json")
	require.Equal(t, 0, r.code, r.errOut)
	series004 := plannedCases(t, r)["LN_004"].Forecast
	r = predict(t, repo(t, targetScans+"/LN_004_0000.nii.gz"), filepath.Join(root, "one"), "-m", repo(t, sourceModel), "--dry-run", "--json")
	require.Equal(t, 0, r.code, r.errOut)
	image004 := plannedCases(t, r)["LN_004"].Forecast
	require.Equal(t, image004.Size, series004.Size)
	require.InDeltaSlice(t, image004.Spacing[:], series004.Spacing[:], 1e-6)
	require.Equal(t, image004.Bytes, series004.Bytes)
	require.Equal(t, image004.Passes, series004.Passes)
}

// With the model's other readers, too, and where the geometry is fixed, a series is segmented as the
// file that image convert makes of it, byte for byte.
func TestPredictOnASeriesIsThatOnTheConvertedFile(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	for _, class := range []string{"SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"} {
		model := filepath.Join(root, class, filepath.Base(sourceModel))
		require.NoError(t, os.CopyFS(model, os.DirFS(repo(t, sourceModel))))
		path := filepath.Join(model, "plans.json")
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(b), `"SimpleITKIO"`, `"`+class+`"`)), 0o644))
		for _, c := range []struct {
			series string
			more   []string
		}{
			{phantomSeries, nil},
			{"testdata/golden/dicom/rotated.zip", nil},
			{"testdata/golden/dicom/rescale-per-slice.zip", nil},
			{"testdata/golden/dicom/two-series.zip", []string{"--series", "1"}},
			{"testdata/golden/dicom/tilt.zip", []string{"--fix-geometry"}},
		} {
			if class != "SimpleITKIO" && c.series != phantomSeries && c.more == nil {
				continue // how the reader takes others is tested in data/images
			}
			series, file := repo(t, c.series), filepath.Join(root, class, "image.nii.gz")
			r := lntorch(t, append([]string{"image", "convert", "--force", series, file}, c.more...)...)
			require.Equal(t, 0, r.code, r.errOut)
			want, is := filepath.Join(root, class, "want.nii.gz"), filepath.Join(root, class, "is.nii.gz")
			r = predict(t, file, want, "-m", model)
			require.Equal(t, 0, r.code, r.errOut)
			r = predict(t, series, is, append(c.more, "-m", model)...)
			require.Equal(t, 0, r.code, r.errOut)
			require.Equal(t, valuesOf(t, want), valuesOf(t, is), "%s, %s", class, c.series)
			a, err := image.Header(file)
			require.NoError(t, err)
			b, err := image.Header(is)
			require.NoError(t, err)
			require.Equal(t, a.Size, b.Size)
			require.InDeltaSlice(t, a.Geometry.Origin, b.Geometry.Origin, 1e-4)
			require.InDeltaSlice(t, a.Geometry.Direction, b.Geometry.Direction, 1e-6)
			if len(c.more) > 0 && c.more[0] == "--fix-geometry" {
				require.Contains(t, r.errOut, "WARNING: case tilt: the slices were resampled to a regular grid")
			}
		}
		if class != "SimpleITKIO" {
			r := predict(t, repo(t, phantomSeries), filepath.Join(root, "x.nrrd"), "-m", model)
			require.Equal(t, 2, r.code)
			require.Contains(t, r.errOut, "x.nrrd: the model's "+class+" writes files that end in .nii or .nii.gz")
		}
		// the labels lie on the slices, whatever the reader's order of axes
		object := filepath.Join(root, class, "seg.dcm")
		r := predict(t, repo(t, phantomSeries), object, "--to", "seg", "-m", model)
		require.Equal(t, 0, r.code, r.errOut)
		requireObject(t, object, valuesOf(t, repo(t, predictions+"/source_notta/LN_004.nii.gz")), class == "NibabelIOWithReorient")
	}
}

// requireObject draws an object on the slices of phantomSeries. The reorienting reader's network sees
// the image mirrored, so that its labels are others.
func requireObject(t *testing.T, object string, want []byte, others bool) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "drawn.nii.gz")
	r := lntorch(t, "image", "convert", object, file, "--reference", repo(t, phantomSeries))
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "  1  lymph_node  ")
	is := valuesOf(t, file)
	if !others {
		require.Equal(t, want, is)
		return
	}
	both, either := 0, 0
	for i := range want {
		if want[i]+is[i] > 0 {
			either++
		}
		if want[i]+is[i] > 1 {
			both++
		}
	}
	require.Greater(t, float64(both)/float64(either), 0.6, "the labels lie elsewhere")
}

// --to writes objects of the series that others' readers and ours draw where the labels are.
func TestPredictWritesDICOMObjects(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model, series := repo(t, sourceModel), repo(t, phantomSeries)
	truth := valuesOf(t, repo(t, predictions+"/source_notta/LN_004.nii.gz"))
	for _, kind := range []string{"seg", "rtstruct"} {
		out := filepath.Join(root, kind)
		args := []string{"-m", model, "--to", kind, "--save_probabilities"}
		r := predict(t, series, out, args...)
		require.Equal(t, 0, r.code, r.errOut)
		require.Contains(t, r.out, filepath.Join(out, "LN_004.dcm")+"  lymph_node 37, ")
		requireObject(t, filepath.Join(out, "LN_004.dcm"), truth, false)
		require.FileExists(t, filepath.Join(out, "LN_004.npz"))
		require.NoFileExists(t, filepath.Join(out, "LN_004.nii.gz"))
		requireNoMarker(t, out, r.out, r.errOut)
		before, err := os.ReadFile(filepath.Join(out, "LN_004.dcm"))
		require.NoError(t, err)
		require.Contains(t, string(before), "ZQMARKERQZ", "the patient of the series")

		r = predict(t, series, out, append(args, "--continue_prediction")...)
		require.Equal(t, 0, r.code, r.errOut)
		require.Contains(t, r.out, "already there")
		r = predict(t, series, out, args...) // the same input, the same bytes
		require.Equal(t, 0, r.code, r.errOut)
		after, err := os.ReadFile(filepath.Join(out, "LN_004.dcm"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(before, after))
	}
	// a file, and nothing else; a segment for each node
	file := filepath.Join(root, "alone", "nodes.dcm")
	r := predict(t, series, file, "-m", model, "--to", "seg", "--per-node", "--segment", "1=LN")
	require.Equal(t, 0, r.code, r.errOut)
	entries, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	r = lntorch(t, "image", "info", "--json", file)
	require.Equal(t, 0, r.code, r.errOut)
	var list []struct{ Segments []struct{ Label string } }
	require.NoError(t, json.Unmarshal([]byte(r.out), &list))
	require.Len(t, list[0].Segments, 37)
	require.Equal(t, "LN 37", list[0].Segments[36].Label)

	// a series without the UIDs that an object refers to is refused before the network has worked
	r = predict(t, repo(t, "testdata/golden/dicom/emptied.zip"), filepath.Join(root, "x.dcm"), "-m", model, "--to", "seg", "--series", "1")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "missing or no UID")
	require.NotContains(t, r.errOut, "forecast")
}

// One bad series costs no other its segmentation; a folder of several is one input, of which one
// must be chosen.
func TestPredictFinishesTheOtherSeries(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	var inputs []string
	folder := func(name string) string {
		inputs = append(inputs, filepath.Join(root, name))
		unzip(t, repo(t, phantomSeries), inputs[len(inputs)-1])
		return inputs[len(inputs)-1]
	}
	change := func(path string, edit func([]byte) []byte) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, edit(b), 0o644))
	}
	change(filepath.Join(folder("a_cut"), "IM0003"), func(b []byte) []byte { return b[:len(b)/2] })
	require.NoError(t, os.Remove(filepath.Join(folder("b_gap"), "IM0003")))
	change(filepath.Join(folder("c_lies"), "IM0004"), func(b []byte) []byte {
		return bytes.Replace(b, []byte("US\x02\x00\x44\x00"), []byte("US\x02\x00\x45\x00"), 1) // Rows
	})
	empty := filepath.Join(root, "d_empty.zip")
	require.NoError(t, os.WriteFile(empty, []byte("PK\x05\x06"+strings.Repeat("\x00", 18)), 0o644))
	many := filepath.Join(root, "e_many")
	unzip(t, repo(t, "testdata/golden/dicom/acquisitions.zip"), many)
	pixels := filepath.Join(root, "f_pixels")
	unzip(t, repo(t, "testdata/golden/dicom/rle.zip"), pixels)
	change(filepath.Join(pixels, "e.dcm"), func(b []byte) []byte {
		copy(b[len(b)-60:], strings.Repeat("\x7f", 30))
		return b
	})
	inputs = append(inputs, empty, many, pixels, repo(t, "testdata/golden/dicom/tilt.zip"), repo(t, phantomSeries))
	out := filepath.Join(root, "out")
	args := []string{"predict", "-o", out, "-m", repo(t, sourceModel), "--disable_tta", "-device", "cpu"}
	for _, path := range inputs {
		args = append(args, "-i", path)
	}
	r := lntorch(t, append(args, "--dry-run", "--json")...) // reads headers alone
	require.Equal(t, 1, r.code, r.errOut)
	require.NoDirExists(t, out)
	for name, c := range plannedCases(t, r) {
		want := pipeline.PredictionFailed
		if name == "f_pixels" || name == "LN_004" {
			want = pipeline.PredictionPlanned
		}
		require.Equal(t, want, c.Status, name)
	}
	r = lntorch(t, args...)
	require.Equal(t, 1, r.code, r.errOut)
	require.Contains(t, r.errOut, "7 of 8 cases failed: a_cut, b_gap, c_lies, d_empty, e_many, f_pixels, tilt")
	for name, want := range map[string]string{
		"a_cut":    "PROBLEM case a_cut: " + filepath.Join(root, "a_cut", "IM0003") + ": ",
		"b_gap":    "--fix-geometry",
		"c_lies":   "PROBLEM case c_lies: " + filepath.Join(root, "c_lies", "IM0004") + ": ",
		"d_empty":  "none of its 0 files is DICOM",
		"e_many":   "give --series with the number",
		"f_pixels": filepath.Join(root, "f_pixels", "e.dcm") + ": frame 4: RLE segment 2 is cut off",
		"tilt":     "an angle of 15°",
	} {
		at := strings.Index(r.errOut, "PROBLEM case "+name)
		require.GreaterOrEqual(t, at, 0, name)
		text, _, _ := strings.Cut(r.errOut[at+1:], "PROBLEM")
		require.Contains(t, "P"+text, want)
	}
	require.Contains(t, r.errOut, "To segment several, give the folder of each with -i")
	requireSegmentation(t, repo(t, predictions+"/source_notta/LN_004.nii.gz"), filepath.Join(out, "LN_004.nii.gz"))
	requireNoMarker(t, out, r.out, r.errOut)
	done, err := filepath.Glob(filepath.Join(out, "*.nii.gz"))
	require.NoError(t, err)
	require.Len(t, done, 1)
}

// A folder is nnU-Net's where an image in its naming is there, whatever else; else it is DICOM.
func TestPredictTellsFoldersByWhatTheyHold(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model := repo(t, sourceModel)
	both := filepath.Join(root, "both")
	unzip(t, repo(t, phantomSeries), filepath.Join(both, "dicom"))
	scan, err := os.ReadFile(repo(t, targetScans+"/LN_004_0000.nii.gz"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(both, "ct.nii.gz"), scan, 0o644)) // in no naming
	plan := func(in ...string) (map[string]pipeline.Prediction, string) {
		args := []string{"predict", "-o", filepath.Join(root, "out"), "-m", model, "--disable_tta", "-device", "cpu", "--dry-run", "--json"}
		for _, path := range in {
			args = append(args, "-i", path)
		}
		r := lntorch(t, args...)
		require.Equal(t, 0, r.code, r.errOut)
		return plannedCases(t, r), r.errOut
	}
	cases, _ := plan(both)
	require.Contains(t, cases, "both")
	require.Len(t, cases, 1)
	require.NoError(t, os.Rename(filepath.Join(both, "ct.nii.gz"), filepath.Join(both, "ct_0000.nii.gz")))
	cases, said := plan(both)
	require.Contains(t, said, both+": the images in nnU-Net's naming are taken; DICOM that lies there, too, is not")
	require.Contains(t, cases, "ct")
	require.NotContains(t, cases, "both")
	cases, _ = plan(filepath.Join(both, "dicom"), filepath.Join(both, "ct_0000.nii.gz"), filepath.Join(both, "dicom", "IM0000"))
	require.ElementsMatch(t, []string{"dicom", "ct", "IM0000"}, slices.Collect(keysOf(cases)))
	cases, _ = plan(filepath.Join(both, "dicom") + "/../dicom/.")
	require.Contains(t, cases, "dicom")
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// What does not fit DICOM is refused before anything is done.
func TestPredictRefusesWhatDoesNotFitDICOM(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	model, series, scan := repo(t, sourceModel), repo(t, phantomSeries), repo(t, targetScans+"/LN_004_0000.nii.gz")
	exam, out := filepath.Join(root, "exam"), filepath.Join(root, "out")
	unzip(t, series, exam)
	require.NoError(t, os.WriteFile(filepath.Join(exam, "slice.dcm"), nil, 0o644))
	require.NoError(t, os.Rename(filepath.Join(exam, "IM0000"), filepath.Join(exam, "slice.dcm")))
	two := filepath.Join(root, "two")
	twoChannels(t, two)
	before := listing(t, exam)
	for _, c := range []struct {
		want string
		args []string
	}{
		{"-o x.dcm: a segmentation of a DICOM series becomes a DICOM object with --to seg or --to rtstruct", []string{"-i", exam, "-o", "x.dcm", "-m", model}},
		{"-o x.nii.gz: --to seg writes files that end in .dcm", []string{"-i", exam, "-o", "x.nii.gz", "-m", model, "--to", "seg"}},
		{"-o x.zip: --to seg writes files that end in .dcm", []string{"-i", exam, "-o", "x.zip", "-m", model, "--to", "seg"}},
		{"--to seg makes an object that belongs to a DICOM series: " + scan + " is none", []string{"-i", exam, scan, "-o", out, "-m", model, "--to", "seg"}},
		{"--to seg makes an object that belongs to a DICOM series: " + repo(t, targetScans), []string{"-i", repo(t, targetScans), "-o", out, "-m", model, "--to", "seg"}},
		{"--series and --fix-geometry are for DICOM: " + scan + " is none", []string{"-i", scan, "-o", out, "-m", model, "--series", "1"}},
		{"--segment, --segments, --per-node", []string{"-i", exam, "-o", out, "-m", model, "--per-node"}},
		{"slice.dcm is there, and lntorch did not make it", []string{"-i", exam, "-o", filepath.Join(exam, "slice.dcm"), "-m", model, "--to", "seg"}},
		{"slice.dcm would take its place", []string{"-i", filepath.Join(exam, "slice.dcm"), "-o", exam, "-m", model, "--to", "seg"}},
		{"-o " + exam + " is the folder of the images", []string{"-i", exam, "-o", exam, "-m", model}},
		{"are both of a case named LN_004", []string{"-i", series, scan, "-o", out, "-m", model}},
		{repo(t, targetScans) + " is a folder of images in nnU-Net's naming: give it alone", []string{"-i", exam, repo(t, targetScans), "-o", out, "-m", model}},
		{"a DICOM series is one channel, and the model takes 2 (CT, PET): convert each series, `lntorch image convert SERIES exam_0000.nii.gz`, and give the files", []string{"-i", exam, "-o", out, "-m", two}},
		{"--to", []string{"-i", exam, "-o", out, "-m", model, "--to", "nifti"}},
	} {
		r := lntorch(t, append([]string{"predict"}, c.args...)...)
		require.Equal(t, 2, r.code, "%v\n%s", c.args, r.errOut)
		require.Contains(t, r.errOut, c.want)
		require.Empty(t, r.out)
	}
	require.Equal(t, before, listing(t, exam))
	require.NoDirExists(t, out)

	// a cascade's first stage is label maps
	second, stage := filepath.Join(root, "second"), filepath.Join(root, "stage")
	cascade(t, second, 0)
	r := predict(t, series, stage, "-m", model, "--to", "seg")
	require.Equal(t, 0, r.code, r.errOut)
	r = predict(t, series, out, "-m", second, "-prev_stage_predictions", stage)
	require.Equal(t, 1, r.code)
	object := filepath.Join(stage, "LN_004")
	require.Contains(t, r.errOut, fmt.Sprintf("-prev_stage_predictions %s.dcm is DICOM, expected %s.nii.gz: predict that stage without --to, "+
		"or `lntorch image convert %s.dcm %s.nii.gz --reference SERIES`", object, object, object, object))
	r = lntorch(t, "image", "convert", object+".dcm", object+".nii.gz", "--reference", series)
	require.Equal(t, 0, r.code, r.errOut)
	r = predict(t, series, out, "-m", second, "-prev_stage_predictions", stage)
	require.Equal(t, 0, r.code, r.errOut)
	requireSegmentation(t, repo(t, predictions+"/source_notta/LN_004.nii.gz"), filepath.Join(out, "LN_004.nii.gz"))
}

// The SeriesInstanceUID that chose a series stands in no record.
func TestPredictRecordsNoUID(t *testing.T) {
	torchtest.Require(t)
	out := filepath.Join(t.TempDir(), "out")
	r := predict(t, repo(t, phantomSeries), out, "-m", repo(t, sourceModel), "--series", "1.2.826.0.1.3680043.8.498.15.2")
	require.Equal(t, 0, r.code, r.errOut)
	b, err := os.ReadFile(filepath.Join(out, "run.json"))
	require.NoError(t, err)
	require.NotContains(t, string(b), "1.2.826")
	require.Contains(t, string(b), `"series": "a SeriesInstanceUID"`)
}

// Ctrl-C leaves whole files, of series as of other images, and the next run goes on.
func TestPredictOnSeriesIsInterrupted(t *testing.T) {
	torchtest.Require(t)
	root := t.TempDir()
	out := filepath.Join(root, "out")
	args := []string{"predict", "-o", out, "-m", repo(t, sourceModel), "--disable_tta", "--threads", "1", "-step_size", "0.3", "--to", "seg"}
	data, err := os.ReadFile(repo(t, phantomSeries))
	require.NoError(t, err)
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		path := filepath.Join(root, name+".zip")
		require.NoError(t, os.WriteFile(path, data, 0o644))
		args = append(args, "-i", path)
	}
	cmd := command(t, args...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(out, "a.dcm"))
		return err == nil
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Equal(t, 130, cmd.ProcessState.ExitCode(), errOut.String())
	require.NotContains(t, errOut.String(), "PROBLEM")
	done, err := filepath.Glob(filepath.Join(out, "?.dcm"))
	require.NoError(t, err)
	require.NotEmpty(t, done)
	require.Less(t, len(done), 6)
	hidden, err := filepath.Glob(filepath.Join(out, ".*"))
	require.NoError(t, err)
	require.Empty(t, hidden)
	r := lntorch(t, append(args, "--continue_prediction")...)
	require.Equal(t, 0, r.code, r.errOut)
	for _, name := range []string{"b", "f"} {
		requireSameFile(t, filepath.Join(out, "a.dcm"), filepath.Join(out, name+".dcm"))
	}
}

// Commands that take folders of label maps say how DICOM objects become some.
func TestFoldersOfObjectsAreExplained(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"plans.json", "dataset.json"} {
		b, err := os.ReadFile(repo(t, filepath.Join(sourceModel, name)))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), b, 0o644))
	}
	unzip(t, repo(t, "testdata/golden/dicom_labels/objects.zip"), folder)
	r := lntorch(t, "determine-postprocessing", "-i", folder, "-ref", folder)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "DICOM objects become label maps by `lntorch image convert OBJECT LABELS.nii.gz --reference SERIES`")
	slice := filepath.Join(t.TempDir(), "x")
	unzip(t, repo(t, phantomSeries), slice)
	r = lntorch(t, "inspect", filepath.Join(slice, "IM0000"))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "found a DICOM file, expected a PyTorch checkpoint: lntorch image info shows what is in it")

	raw := filepath.Join(t.TempDir(), "Dataset300_X")
	require.NoError(t, os.MkdirAll(filepath.Join(raw, "labelsTr"), 0o755))
	require.NoError(t, os.CopyFS(filepath.Join(raw, "imagesTr", "case"), os.DirFS(slice)))
	for _, ending := range []string{".nii.gz", ".dcm"} {
		require.NoError(t, os.WriteFile(filepath.Join(raw, "dataset.json"), []byte(`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1},
			"numTraining": 1, "file_ending": "`+ending+`"}`), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(raw, "imagesTr", "a_0000.dcm"), nil, 0o644))
		r = lntorch(t, "fingerprint", "-d", "300", "--raw", filepath.Dir(raw), "--preprocessed", t.TempDir())
		require.Equal(t, 1, r.code)
		require.Contains(t, r.errOut, "lntorch import makes a dataset of it", ending)
	}
}

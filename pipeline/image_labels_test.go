package pipeline

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

const labelCorpus = "../testdata/golden/dicom_labels"

// folderOf puts files into a folder.
func folderOf(t *testing.T, files map[string][]byte) string {
	t.Helper()
	folder := t.TempDir()
	for name, data := range files {
		path := filepath.Join(folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		require.NoError(t, os.WriteFile(path, data, 0o666))
	}
	return folder
}

// expectedLabels is what all parts of an object of the corpus together give.
func expectedLabels(t *testing.T, name string) (pixels volume.Slice[uint8], voxels []int) {
	text, err := os.ReadFile(filepath.Join(labelCorpus, "expected.json"))
	require.NoError(t, err)
	var want struct {
		Series  map[string][3]int
		Objects map[string]struct {
			Series string
			Parts  []struct{ Mask string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &want))
	size := want.Series[want.Objects[name].Series]
	pixels = make(volume.Slice[uint8], size[0]*size[1]*size[2])
	for i, p := range want.Objects[name].Parts {
		packed, err := base64.StdEncoding.DecodeString(p.Mask)
		require.NoError(t, err)
		z, err := zlib.NewReader(bytes.NewReader(packed))
		require.NoError(t, err)
		b, err := io.ReadAll(z)
		require.NoError(t, err)
		for k := range pixels {
			if b[k/8]>>(7-k%8)&1 == 1 {
				pixels[k] = uint8(i + 1)
			}
		}
		voxels = append(voxels, 0)
	}
	for _, v := range pixels {
		if v > 0 {
			voxels[v-1]++
		}
	}
	return pixels, voxels
}

// An RTSTRUCT and a SEG on the series that they refer to, of two in a zip, and on an image file made of
// it.
func TestConvertDrawsLabelsOnTheReference(t *testing.T) {
	objects := folderOf(t, zipped(t, filepath.Join(labelCorpus, "objects.zip")))
	ct := filepath.Join(labelCorpus, "ct.zip")
	asFile := filepath.Join(t.TempDir(), "ct.nii.gz")
	_, err := ConvertImage(ConvertImageConfig{In: ct, Out: asFile, DICOMChoice: DICOMChoice{Series: "2"}}, Output{})
	require.NoError(t, err)
	for _, name := range []string{"stars-rotated.dcm", "binary-rotated.dcm"} {
		pixels, voxels := expectedLabels(t, name)
		for _, reference := range []string{ct, asFile} {
			c := settings.New[ConvertImageConfig]()
			c.In, c.Out, c.Reference = filepath.Join(objects, name), filepath.Join(t.TempDir(), "l.nii.gz"), reference
			done, err := ConvertImage(c, Output{})
			require.NoError(t, err)
			back, err := image.Read(c.Out)
			require.NoError(t, err)
			require.Equal(t, pixels, back.Values())
			want, err := image.Header(asFile)
			require.NoError(t, err)
			require.Equal(t, want.Size, back.Head().Size)
			for i := range want.Geometry.Direction {
				require.InDelta(t, want.Geometry.Direction[i], back.Head().Geometry.Direction[i], 1e-6)
			}
			for i := range 3 {
				require.InDelta(t, want.Geometry.Origin[i], back.Head().Geometry.Origin[i], 1e-5)
				require.InDelta(t, want.Geometry.Spacing[i], back.Head().Geometry.Spacing[i], 1e-6)
			}
			require.Equal(t, "uint8", done.Type)
			require.Equal(t, c.Out, done.File)
			require.Positive(t, done.Bytes)
			require.Len(t, done.Labels, len(voxels))
			require.Equal(t, ConvertedLabel{marker + " b", []string{marker + " b"}, voxels[1]}, done.Labels["2"])
		}
	}
}

// Slices that jitter as far as is tolerated: frames lie on them, not on the regular grid. What is written
// for such a series is read back.
func TestSegmentsOfJitteredSlicesNeedNoResampling(t *testing.T) {
	objects := folderOf(t, zipped(t, filepath.Join(labelCorpus, "objects.zip")))
	convert := func(in, out string, change func(*ConvertImageConfig)) string {
		c := settings.New[ConvertImageConfig]()
		c.In, c.Out = in, filepath.Join(t.TempDir(), out)
		c.Reference = filepath.Join(labelCorpus, "ct.zip")
		if change != nil {
			change(&c)
		}
		_, err := ConvertImage(c, Output{})
		require.NoError(t, err)
		return c.Out
	}
	want, _ := expectedLabels(t, "jitter-binary.dcm")
	pixels := func(path string) volume.Pixels {
		f, err := image.Read(path)
		require.NoError(t, err)
		return f.Values()
	}
	drawn := convert(filepath.Join(objects, "jitter-binary.dcm"), "l.nii.gz", nil)
	require.Equal(t, want, pixels(drawn))
	written := convert(drawn, "l.dcm", func(c *ConvertImageConfig) {
		c.To, c.ReferenceSeries = "seg", "3"
	})
	require.Equal(t, want, pixels(convert(written, "m.nii.gz", nil)))
}

func TestLabelsOfAnotherImageAreRefused(t *testing.T) {
	objects := folderOf(t, zipped(t, filepath.Join(labelCorpus, "objects.zip")))
	ct := filepath.Join(labelCorpus, "ct.zip")
	for _, name := range []string{"stars-rotated.dcm", "turned-coronal.dcm"} {
		c := settings.New[ConvertImageConfig]()
		c.In, c.Out = filepath.Join(objects, name), filepath.Join(t.TempDir(), "l.mha")
		try := func(change func(*ConvertImageConfig)) error {
			c := c
			change(&c)
			_, err := ConvertImage(c, Output{})
			if err != nil {
				require.NoFileExists(t, c.Out)
				require.NotContains(t, err.Error(), marker)
				require.NotContains(t, err.Error(), "1.2.826")
			}
			os.Remove(c.Out)
			return err
		}
		on := func(reference, stack string, more ...func(*ConvertImageConfig)) error {
			return try(func(c *ConvertImageConfig) {
				c.Reference, c.ReferenceSeries = reference, stack
				for _, m := range more {
					m(c)
				}
			})
		}
		require.NoError(t, on(ct, "2"))
		require.ErrorContains(t, on(ct, "1"), "refers to another series and another frame of reference than stack 1")
		ignore := func(c *ConvertImageConfig) { c.IgnoreReferences = true }
		err := on(ct, "1", ignore)
		if name == "stars-rotated.dcm" { // it is tilted against the other series
			require.ErrorContains(t, err, "does not lie in the plane of a slice")
		} else {
			require.ErrorContains(t, err, "does not fall on the voxels of the image")
			require.NoError(t, on(ct, "1", ignore, func(c *ConvertImageConfig) { c.Resample = true }))
		}
		// references that lead nowhere, or to the object itself
		require.ErrorContains(t, on(c.In, ""), "--reference: "+c.In+": no image")
		require.ErrorContains(t, on(objects, ""), "no image")
		require.ErrorContains(t, on("absent.nii", ""), "absent.nii")
		require.ErrorContains(t, on("../testdata/golden/nifti/2d.nii.gz", ""), "expected x, y and z")
		require.ErrorContains(t, on("../testdata/golden/nifti/sitk.nii.gz", "2"), "are for DICOM")

		require.ErrorContains(t, try(func(c *ConvertImageConfig) {}), "holds RTSTRUCT or SEG and no image: --reference IMAGE")
		require.ErrorContains(t, try(func(c *ConvertImageConfig) { c.ROIs = []string{"x"} }), "are for --reference")
		require.ErrorContains(t, on(ct, "", func(c *ConvertImageConfig) { c.Series = "1" }), "give --reference-series")
		require.ErrorContains(t, on(ct, "", func(c *ConvertImageConfig) { c.ROIs = []string{"A=("} }), "--roi ")
		require.ErrorContains(t, on(ct, "", func(c *ConvertImageConfig) { c.In = ct }), "found no RTSTRUCT or SEG")
		require.ErrorContains(t, on(ct, "", func(c *ConvertImageConfig) { c.In = objects }), "found several RTSTRUCT or SEG")
		require.ErrorContains(t, on(ct, "", func(c *ConvertImageConfig) { c.In = "../testdata/golden/nifti/2d.nii.gz" }), "is no DICOM")
	}
}

func TestReferencesAreCompared(t *testing.T) {
	stack := func(series_, frame string) *reference {
		return &reference{path: "ct", stack: &series.Stack{Number: 3, SeriesUID: series_, FrameOfReference: frame}}
	}
	to := func(s, f string) labels.References {
		r := labels.References{}
		if s != "" {
			r.Series = []string{"0", s}
		}
		if f != "" {
			r.Frames = []string{f}
		}
		return r
	}
	for _, test := range []struct {
		image *reference
		to    labels.References
		other bool
		want  string
	}{
		{stack("1", "2"), to("1", "2"), false, ""},
		{stack("1", "2"), to("1", "9"), false, ""},
		{stack("1", "2"), to("9", "2"), true, ""},
		{stack("1", "2"), to("", "2"), false, ""},
		{stack("1", "2"), to("9", "9"), false, "refers to another series and another frame of reference than stack 3 of ct"},
		{stack("1", "2"), to("", ""), false, "names no series and no frame of reference"},
		{stack("", ""), to("1", "2"), false, "cannot be compared with stack 3 of ct"},
		{&reference{}, to("1", "2"), false, ""},
	} {
		other, err := test.image.check(test.to, "x", false)
		require.Equal(t, test.other, other)
		if test.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, test.want)
		_, err = test.image.check(test.to, "x", true)
		require.NoError(t, err)
	}
}

func TestInspectImagesListsROIsAndSegments(t *testing.T) {
	list, err := InspectImages(filepath.Join(labelCorpus, "objects.zip"), true, "")
	require.NoError(t, err)
	found := map[string]map[string]any{}
	for _, info := range list {
		_, name, _ := strings.Cut(info.File, ": ")
		text, err := json.Marshal(info)
		require.NoError(t, err)
		var object map[string]any
		require.NoError(t, json.Unmarshal(text, &object))
		found[name] = object
		require.NoError(t, info.Text(io.Discard))
	}
	require.Greater(t, len(found), 25)
	xor := found["stars-xor.dcm"]
	require.Equal(t, "DICOM RTSTRUCT", xor["format"])
	require.Equal(t, "1.2.826.0.1.3680043.8.498.15.2.2", xor["series_uid"])
	roi := xor["rois"].([]any)[1].(map[string]any)
	require.Equal(t, []any{2.0, marker + " b"}, []any{roi["number"], roi["name"]})
	types := roi["types"].(map[string]any)
	require.Equal(t, []any{1.0, 1.0}, []any{types["POINT"], types["OPEN_PLANAR"]})
	require.Equal(t, roi["contours"], types["CLOSEDPLANAR_XOR"].(float64)+2)
	require.Equal(t, map[string]any{"number": 300.0, "label": marker + " b", "frames": 6.0},
		found["labelmap16.dcm"]["segments"].([]any)[2])
	require.Equal(t, "LABELMAP", found["labelmap16.dcm"]["segmentation_type"])
	// without OpenJPEG, which a test has not
	require.Equal(t, found["labelmap16.dcm"]["segments"].([]any)[2].(map[string]any)["label"],
		found["labelmap16-j2k.dcm"]["segments"].([]any)[2].(map[string]any)["label"])
	require.Equal(t, []any{29.0, 21.0, 18.0}, found["binary-all-rotated.dcm"]["size"])
	require.Equal(t, "1.2.826.0.1.3680043.8.498.15.2.2", found["dcmqi.dcm"]["series_uid"])
}

// No text of an RTSTRUCT or a SEG reaches a message or a file but the names that were asked for: every
// text in the objects is the marker, their names begin with it. They are converted, broken, converted.
func TestNoTextOfLabelsIsShown(t *testing.T) {
	objects := zipped(t, filepath.Join(labelCorpus, "objects.zip"))
	reference := folderOf(t, zipped(t, filepath.Join(labelCorpus, "ct.zip")))
	texts, drawn := 0, 0
	random := rand.New(rand.NewPCG(7, 8))
	var out bytes.Buffer
	convert := func(files map[string][]byte) {
		folder := folderOf(t, files)
		for name := range files {
			c := settings.New[ConvertImageConfig]()
			c.In, c.Out = filepath.Join(folder, name), filepath.Join(t.TempDir(), "l.nii")
			c.Reference, c.ROIs = reference, []string{"A=.* a", "B=.*"}
			c.IgnoreReferences = random.IntN(2) == 0
			done, err := ConvertImage(c, Output{Log: &out})
			var none *labels.NoMatchError
			if errors.As(err, &none) { // which shows names on purpose
				continue
			}
			if err != nil {
				out.WriteString(err.Error())
				continue
			}
			drawn++
			require.NotContains(t, strings.Join(done.Warnings, " "), marker)
			data, err := os.ReadFile(c.Out)
			require.NoError(t, err)
			out.Write(data[:352])
		}
		list, err := InspectImages(folder, true, "")
		if err != nil {
			out.WriteString(err.Error())
		}
		for _, info := range list { // shown on purpose
			info.Description, info.roiInfo, info.segInfo, info.SeriesUID = "", nil, nil, ""
			require.NoError(t, info.Text(&out))
		}
	}
	for _, data := range objects {
		texts += bytes.Count(data, []byte(marker))
	}
	convert(objects)
	require.Greater(t, drawn, 25)
	for range 3 {
		convert(broken(objects, random))
	}
	require.Greater(t, texts, 500)
	require.NotContains(t, out.String(), marker)
	require.NotContains(t, out.String(), "QMARKERQ")
}

// Slices that are all damaged are no folder of labels alone.
func TestConvertSaysThatSlicesAreDamaged(t *testing.T) {
	objects, ct := zipped(t, filepath.Join(labelCorpus, "objects.zip")), zipped(t, filepath.Join(labelCorpus, "ct.zip"))
	slice := ct["square/00.dcm"]
	folder := folderOf(t, map[string][]byte{"rs.dcm": objects["stars-square.dcm"], "00.dcm": slice[:len(slice)-20]})
	_, err := ConvertImage(ConvertImageConfig{In: folder, Out: filepath.Join(t.TempDir(), "ct.nii.gz")}, Output{})
	require.ErrorContains(t, err, filepath.Join(folder, "00.dcm")+": PixelData")
}

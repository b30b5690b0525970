package pipeline

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

const objectCorpus = "../testdata/golden/dicom_objects"

// An objectFile is a file that other programs read: which series and flags, what we wrote, and the
// label maps that they returned.
type objectFile struct {
	Series  string
	Flags   []string
	SHA256  string
	Readers map[string]string
}

func objectFiles(t *testing.T) []objectFile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(objectCorpus, "expected.json"))
	require.NoError(t, err)
	var file struct{ Files []objectFile }
	require.NoError(t, json.Unmarshal(text, &file))
	require.Greater(t, len(file.Files), 35)
	return file.Files
}

// objectConfig is what the flags of a file ask for.
func objectConfig(t *testing.T, f objectFile, out string) ConvertImageConfig {
	t.Helper()
	var c ConvertImageConfig
	settings.Defaults(&c)
	c.In, c.Out = filepath.Join(objectCorpus, f.Series+".mha"), out
	c.Reference = filepath.Join(objectCorpus, f.Series+".zip")
	for i := 0; i < len(f.Flags); i++ {
		next := func() string { i++; return f.Flags[i] }
		switch f.Flags[i] {
		case "--to":
			c.To = next()
		case "--per-node":
			c.PerNode = true
		case "--seg-type":
			c.Pixels = next()
		case "--segment":
			c.Names = append(c.Names, next())
		case "--segments":
			c.Attributes = filepath.Join(objectCorpus, next())
		default:
			t.Fatal(f.Flags[i])
		}
	}
	return c
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// The files that highdicom, dcmqi, rt-utils, dcmrtstruct2nii and plastimatch have read are still
// written to the bit, on one core and on several; our own reader gives back what they did.
func TestObjectsAreThoseThatOthersRead(t *testing.T) {
	readers := map[string]int{}
	for _, f := range objectFiles(t) {
		name := f.Series + " " + strings.Join(f.Flags, " ")
		out := filepath.Join(t.TempDir(), "o.dcm")
		c := objectConfig(t, f, out)
		for _, cores := range []int{1, 5} {
			before := runtime.GOMAXPROCS(cores)
			c.Force = true
			_, err := ConvertImage(c, Output{Version: "dev"})
			runtime.GOMAXPROCS(before)
			require.NoError(t, err, name)
			data, err := os.ReadFile(out)
			require.NoError(t, err)
			require.Equal(t, f.SHA256, hashOf(data), name)
		}
		var back ConvertImageConfig
		settings.Defaults(&back)
		back.In, back.Out = out, filepath.Join(t.TempDir(), "o.nrrd")
		back.Reference = c.Reference
		if f.Series == "empty" { // our reader takes no ROI without contours
			continue
		}
		done, err := ConvertImage(back, Output{})
		require.NoError(t, err, name)
		require.Empty(t, done.Warnings, name)
		read, err := image.Read(back.Out)
		require.NoError(t, err)
		for reader, hash := range f.Readers {
			require.Equal(t, hash, hashOf(volume.Slice[uint8](volume.Cast[uint8](read.Values())).Bytes()), "%s: %s", name, reader)
			readers[reader]++
		}
	}
	for _, reader := range []string{"rt_utils", "dcmrtstruct2nii", "plastimatch", "highdicom", "dcmqi"} {
		require.GreaterOrEqual(t, readers[reader], 6, reader)
	}
}

// Nothing of the series reaches an object but patient, study and frame of reference, in the
// encoding of the object.
func TestObjectsHoldNothingElseOfTheSeries(t *testing.T) {
	for _, to := range []string{"seg", "rtstruct"} {
		out := filepath.Join(t.TempDir(), "o.dcm")
		_, err := ConvertImage(objectConfig(t, objectFile{Series: "axial", Flags: []string{"--to", to}}, out), Output{Version: "dev"})
		require.NoError(t, err)
		data, err := os.ReadFile(out)
		require.NoError(t, err)
		require.NotContains(t, string(data), marker)
		require.Contains(t, string(data), "Müller^Eva")
		require.NotContains(t, string(data), "1.2.826.0.1.3680043.8.498.1407.1.5.6") // no slice more
		for _, tag := range []string{"1.2.826.0.1.3680043.8.498.1407.1.5.5", "1407.1.1", "1407.1.2", "1407.1.3", "pseudonyms"} {
			require.Contains(t, string(data), tag)
		}
	}
}

// Series that an object cannot belong to, label maps off its grid, flags that do not fit.
func TestObjectsAreRefused(t *testing.T) {
	folder := t.TempDir()
	shifted := filepath.Join(folder, "shifted.mha")
	f, err := image.Read(filepath.Join(objectCorpus, "axial.mha"))
	require.NoError(t, err)
	g := *f.Head().Geometry
	g.Origin = []float64{g.Origin[0] + 0.02*0.7, g.Origin[1], g.Origin[2]}
	require.NoError(t, image.Write(shifted, f.Head().Size, &g, f.Values(), 1))
	negative := filepath.Join(folder, "negative.mha")
	require.NoError(t, image.Write(negative, []int{1, 1, 1}, &volume.ITK{Spacing: []float64{1, 1, 1}, Origin: []float64{0, 0, 0},
		Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}, volume.Slice[int16]{-1}, 1))
	for name, c := range map[string]struct {
		change func(*ConvertImageConfig)
		want   string
	}{
		"off the grid": {func(c *ConvertImageConfig) { c.In = shifted }, "has 24 × 24 × 5 voxels of 0.7 × 0.7 × 2.5 mm from (-120.3, 40.25, -310)"},
		"another size": {func(c *ConvertImageConfig) { c.In = negative }, "does not lie on the grid of the series: it has 1 × 1 × 1 voxels"},
		"emptied": {func(c *ConvertImageConfig) {
			c.Reference, c.ReferenceSeries = filepath.Join(dicomCorpus, "emptied.zip"), "1"
		}, "FrameOfReferenceUID (0020,0052), SeriesInstanceUID (0020,000e), StudyInstanceUID (0020,000d): missing or no UID"},
		"gap":          {func(c *ConvertImageConfig) { c.Reference = filepath.Join(dicomCorpus, "gap.zip") }, "do not lie on a regular grid (missing)"},
		"tilt":         {func(c *ConvertImageConfig) { c.Reference = filepath.Join(dicomCorpus, "tilt.zip") }, "do not lie on a regular grid (tilt)"},
		"no series":    {func(c *ConvertImageConfig) { c.Reference = shifted }, "found no DICOM"},
		"no such":      {func(c *ConvertImageConfig) { c.ReferenceSeries = "7" }, "no such stack"},
		"no reference": {func(c *ConvertImageConfig) { c.Reference = "" }, "needs --reference"},
		"ending":       {func(c *ConvertImageConfig) { c.Out = "o.nii" }, "ends in .dcm"},
		"name":         {func(c *ConvertImageConfig) { c.Names = []string{"1=a\\b"} }, "no backslash"},
		"value":        {func(c *ConvertImageConfig) { c.Names = []string{"0=a"} }, "expected VALUE=NAME"},
		"twice":        {func(c *ConvertImageConfig) { c.Names = []string{"1=a", "1=b"} }, "value 1 is there twice"},
		"type":         {func(c *ConvertImageConfig) { c.Type = "int16" }, "are not for --to"},
		"roi":          {func(c *ConvertImageConfig) { c.ROIs = []string{"a"} }, "are not for --to"},
		"seg-type":     {func(c *ConvertImageConfig) { c.Pixels = "labelmap" }, "--seg-type is for --to seg"},
		"without --to": {func(c *ConvertImageConfig) { c.To, c.PerNode = "", true }, "are for --to"},
	} {
		out := filepath.Join(folder, "o.dcm")
		config := objectConfig(t, objectFile{Series: "axial", Flags: []string{"--to", "rtstruct"}}, out)
		c.change(&config)
		var log bytes.Buffer
		_, err := ConvertImage(config, Output{Log: &log})
		require.ErrorContains(t, err, c.want, name)
		require.NotContains(t, err.Error()+log.String(), "QMARKERQ")
		_, err = os.Stat(out)
		require.Error(t, err, name)
	}
	config := objectConfig(t, objectFile{Series: "one-slice", Flags: []string{"--to", "seg"}}, filepath.Join(folder, "o.dcm"))
	one, err := image.Read(config.In)
	require.NoError(t, err)
	values, err := volume.Convert(one.Values(), "int16", false)
	require.NoError(t, err)
	values.(volume.Slice[int16])[0] = -1
	config.In = negative
	require.NoError(t, image.Write(negative, one.Head().Size, one.Head().Geometry, values, 1))
	_, err = ConvertImage(config, Output{})
	require.ErrorContains(t, err, "negative.mha: the label map:")
}

// Names come from --segment, else --segments, else the dataset.json beside or above; a label of
// these that the map lacks is left out with a warning if it was asked for.
func TestNamesOfObjects(t *testing.T) {
	folder := t.TempDir()
	write := func(name string, content []byte) {
		require.NoError(t, os.MkdirAll(filepath.Join(folder, filepath.Dir(name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), content, 0o666))
	}
	labels, err := os.ReadFile(filepath.Join(objectCorpus, "axial.mha"))
	require.NoError(t, err)
	write("labelsTr/a.mha", labels)
	write("dataset.json", []byte(`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "node": 1, "vessel": 2, "bone": 4},
		"numTraining": 1, "file_ending": ".mha"}`))
	config := objectConfig(t, objectFile{Series: "axial", Flags: []string{"--to", "seg", "--segment", "2=vein", "--segment", "9=x"}},
		filepath.Join(folder, "o.dcm"))
	config.In = filepath.Join(folder, "labelsTr/a.mha")
	done, err := ConvertImage(config, Output{})
	require.NoError(t, err)
	require.Equal(t, []string{"label 9 has no voxels: it is left out"}, done.Warnings)
	names := map[string]string{}
	for k, l := range done.Labels {
		names[k] = l.Name
	}
	require.Equal(t, map[string]string{"1": "node", "2": "vein", "3": "label 3"}, names)
	require.Equal(t, "seg", done.Type)
	counts := map[uint8]int{}
	f, err := image.Read(config.In)
	require.NoError(t, err)
	for _, v := range f.Values().(volume.Slice[uint8]) {
		counts[v]++
	}
	require.Equal(t, counts[2], done.Labels["2"].Voxels)

	config.In = filepath.Join(objectCorpus, "empty.mha")
	config.Reference = filepath.Join(objectCorpus, "empty.zip")
	config.Force = true
	done, err = ConvertImage(config, Output{})
	require.NoError(t, err)
	require.Equal(t, map[string]ConvertedLabel{"1": {"vein", []string{"vein"}, 0}, "2": {"x", []string{"x"}, 0}}, done.Labels)
	require.Contains(t, done.Warnings, "the label map is all background")
	s, err := dicom.FileSource(config.Out)
	require.NoError(t, err)
	header, err := dicom.Read(s)
	require.NoError(t, err)
	require.Equal(t, int64(8*8/8), header.Pixels.Length) // one frame of 8 × 8 bits
}

// Names of regions are those of what is left of them in a label map.
func TestNamesOfRegions(t *testing.T) {
	for _, c := range []struct {
		labels, order string
		want          map[int]string
	}{
		{`"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]`, "[1, 2, 3]",
			map[int]string{1: "whole without core", 2: "core without enhancing", 3: "enhancing"}},
		{`"left": 1, "both": [1, 2]`, "[1, 2]", map[int]string{}}, // both is written over left
		{`"both": [1, 2], "left": 1`, "[2, 1]", map[int]string{2: "both without left", 1: "left"}},
		{`"both": [1, 2], "left": 1`, "[1, 2]", map[int]string{}}, // other values than in the labels
		{`"left": 1, "right": 2`, "null", map[int]string{1: "left", 2: "right"}},
	} {
		path := filepath.Join(t.TempDir(), "dataset.json")
		require.NoError(t, os.WriteFile(path, []byte(`{"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz",
			"labels": {"background": 0, `+c.labels+`}, "regions_class_order": `+c.order+`}`), 0o600))
		d, err := plans.LoadDataset(path)
		require.NoError(t, err)
		require.Equal(t, c.want, labelNames(d.Labels), c.labels)
	}
}

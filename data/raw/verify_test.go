package raw

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// image is an image that a test writes as NIfTI.
type image struct {
	shape   []int     // x, y, z
	spacing []float64 // x, y, z
	origin  []float64
	pixels  volume.Pixels
}

func (im image) write(t *testing.T, path string) {
	t.Helper()
	g := &volume.ITK{Spacing: im.spacing, Origin: im.origin, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	typeName := im.pixels.Type()
	h, err := nifti.NewITK(im.shape, typeName, g)
	require.NoError(t, err)
	require.NoError(t, nifti.Write(path, h, im.pixels, 1))
}

func scan() image {
	p := make(volume.Slice[int16], 60)
	for i := range p {
		p[i] = int16(i * 7)
	}
	return image{[]int{5, 4, 3}, []float64{1, 1, 2}, []float64{0, -3, 5}, p}
}

func truth() image {
	p := make(volume.Slice[uint8], 60)
	p[20], p[21] = 1, 2
	im := scan()
	im.pixels = p
	return im
}

// sound writes a dataset without problems: two cases, one channel, labels 0, 1, 2.
func sound(t *testing.T, folder string) {
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		require.NoError(t, os.MkdirAll(filepath.Join(folder, sub), 0o777))
	}
	describe(t, folder, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 2, "file_ending": ".nii.gz"}`)
	for _, c := range []string{"c1", "c2"} {
		scan().write(t, folder+"/imagesTr/"+c+"_0000.nii.gz")
		truth().write(t, folder+"/labelsTr/"+c+".nii.gz")
	}
}

func describe(t *testing.T, folder, text string) {
	require.NoError(t, os.WriteFile(filepath.Join(folder, "dataset.json"), []byte(text), 0o666))
}

const nibabel = `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 2, "file_ending": ".nii.gz",
	"overwrite_image_reader_writer": "NibabelIO"}`

// breakages damage a sound dataset; problems and warnings are what is reported then, in order.
var breakages = []struct {
	name               string
	harm               func(t *testing.T, folder string)
	problems, warnings []string
}{
	{name: "sound"},
	{"no description", func(t *testing.T, f string) { os.Remove(f + "/dataset.json") }, []string{"dataset.json: found no such file, expected a dataset.json"}, nil},
	{"no folders and no keys", func(t *testing.T, f string) {
		os.RemoveAll(f + "/imagesTr")
		os.RemoveAll(f + "/labelsTr")
		describe(t, f, `{"labels": {"background": 0}, "file_ending": ".nii.gz"}`)
	}, []string{"imagesTr: found none, expected a folder", "labelsTr: found none, expected a folder",
		"dataset.json: found only labels, file_ending, expected the key channel_names", "dataset.json: found only labels, file_ending, expected the key numTraining"}, nil},
	{"count", func(t *testing.T, f string) {
		describe(t, f, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 3, "file_ending": ".nii.gz"}`)
	}, []string{"dataset.json: found 3, expected numTraining 2, the number of cases found"}, nil},
	{"labels with a hole", func(t *testing.T, f string) {
		describe(t, f, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "c": 3, "b": 2, "d": 5}, "numTraining": 2, "file_ending": ".nii.gz"}`)
	}, []string{"dataset.json: found 5 after 3, expected consecutive labels 0, 1, 2, …"}, nil},
	{"ignore label", func(t *testing.T, f string) {
		describe(t, f, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "ignore": 2}, "numTraining": 2, "file_ending": ".nii.gz"}`)
	}, nil, nil},
	{"missing label", func(t *testing.T, f string) { os.Remove(f + "/labelsTr/c2.nii.gz") },
		[]string{"labelsTr/c2.nii.gz: found no such file or directory, expected the segmentation of case c2"}, nil},
	{"everything at once", func(t *testing.T, f string) {
		os.Remove(f + "/labelsTr/c2.nii.gz")
		im := truth()
		im.pixels.(volume.Slice[uint8])[3] = 9
		im.spacing = []float64{1, 1, 2.1}
		im.write(t, f+"/labelsTr/c1.nii.gz")
		describe(t, f, `{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "a": 1, "c": 4}, "numTraining": 7, "file_ending": ".nii.gz"}`)
	}, []string{
		"dataset.json: found 7, expected numTraining 2, the number of cases found",
		"dataset.json: found 4 after 1, expected consecutive labels 0, 1, 2, …",
		"labelsTr/c2.nii.gz: found no such file or directory, expected the segmentation of case c2",
		"imagesTr/c1_0000.nii.gz: found 1 channels, expected 2, as in dataset.json",
		"labelsTr/c1.nii.gz: found the values 2 (1 voxels), 9 (1 voxels), expected the labels of dataset.json, [0 1 4]",
		"labelsTr/c1.nii.gz: found a spacing of [2.0999999046325684 1 1] mm (z, y, x), expected [2 1 1], the image's",
	}, nil},
	{"unknown label", func(t *testing.T, f string) {
		im := truth()
		im.pixels.(volume.Slice[uint8])[3] = 3
		im.write(t, f+"/labelsTr/c2.nii.gz")
	}, []string{"labelsTr/c2.nii.gz: found the values 3 (1 voxels), expected the labels of dataset.json, [0 1 2]"}, nil},
	{"fractions", func(t *testing.T, f string) {
		im := truth()
		p := make(volume.Slice[float32], 60)
		p[3], p[4], p[5] = 0.5, 1, 2
		im.pixels = p
		im.write(t, f+"/labelsTr/c2.nii.gz")
	}, []string{"labelsTr/c2.nii.gz: found the values 0.5 (1 voxels), expected the labels of dataset.json, [0 1 2]"}, nil},
	{"NaN in the image", func(t *testing.T, f string) { // ITK reads NaN of NIfTI as 0
		describe(t, f, nibabel)
		im := scan()
		p := make(volume.Slice[float32], 60)
		p[7] = float32(math.NaN())
		im.pixels = p
		im.write(t, f+"/imagesTr/c1_0000.nii.gz")
	}, []string{"imagesTr/c1_0000.nii.gz: found 1 voxels that are NaN, expected finite values"}, nil},
	{"NaN in the labels", func(t *testing.T, f string) {
		describe(t, f, nibabel)
		im := truth()
		p := make(volume.Slice[float32], 60)
		p[7], p[8] = float32(math.NaN()), 1
		im.pixels = p
		im.write(t, f+"/labelsTr/c1.nii.gz")
	}, []string{"labelsTr/c1.nii.gz: found 1 voxels that are NaN, expected labels"}, nil},
	{"shape", func(t *testing.T, f string) {
		im := truth()
		im.shape = []int{4, 5, 3}
		im.write(t, f+"/labelsTr/c1.nii.gz")
	}, []string{"labelsTr/c1.nii.gz: found [3 5 4] voxels (z, y, x), expected [3 4 5], the image's"}, nil},
	{"channels", func(t *testing.T, f string) { scan().write(t, f+"/imagesTr/c1_0001.nii.gz") },
		[]string{"imagesTr/c1_0000.nii.gz: found 2 channels, expected 1, as in dataset.json"}, nil},
	{"channels of different shapes", func(t *testing.T, f string) {
		im := scan()
		im.shape = []int{3, 4, 5}
		im.write(t, f+"/imagesTr/c1_0001.nii.gz")
	}, []string{"imagesTr/c1_0000.nii.gz: found the channels of a case have different shapes"}, nil},
	{"name", func(t *testing.T, f string) { os.Rename(f+"/imagesTr/c1_0000.nii.gz", f+"/imagesTr/c1_000.nii.gz") },
		[]string{`imagesTr: found files of case "c" with other names, expected names that end in _0000.nii.gz`,
			"labelsTr/c.nii.gz: found no such file or directory, expected the segmentation of case c"},
		[]string{"labelsTr/c1.nii.gz: found no image, expected images of that case in imagesTr"}},
	{"truncated", func(t *testing.T, f string) {
		b, err := os.ReadFile(f + "/imagesTr/c2_0000.nii.gz")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(f+"/imagesTr/c2_0000.nii.gz", b[:len(b)/2], 0o666))
	}, []string{"imagesTr/c2_0000.nii.gz: found"}, nil},
	{"origin", func(t *testing.T, f string) {
		im := truth()
		im.origin = []float64{0, -3, 5.01}
		im.write(t, f+"/labelsTr/c1.nii.gz")
	}, nil, []string{"labelsTr/c1.nii.gz: found origin [0 -3 5.01"}},
	{"spacing nearly the same", func(t *testing.T, f string) {
		im := truth()
		im.spacing = []float64{1, 1, 2.00001}
		im.write(t, f+"/labelsTr/c1.nii.gz")
	}, nil, nil},
	{"no foreground", func(t *testing.T, f string) {
		im := truth()
		clear(im.pixels.(volume.Slice[uint8]))
		im.write(t, f+"/labelsTr/c1.nii.gz")
	}, nil, []string{"labelsTr/c1.nii.gz: found only label 0, expected foreground"}},
	{"a label without image", func(t *testing.T, f string) { truth().write(t, f+"/labelsTr/c9.nii.gz") }, nil,
		[]string{"labelsTr/c9.nii.gz: found no image, expected images of that case in imagesTr"}},
	{"listed, with a file missing", func(t *testing.T, f string) {
		os.Rename(f+"/imagesTr", f+"/scans")
		describe(t, f, `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 2, "file_ending": ".nii.gz", "dataset": {
			"z": {"images": ["scans/c1_0000.nii.gz"], "label": "labelsTr/c1.nii.gz"}, "y": {"images": ["scans/c3_0000.nii.gz"], "label": "labelsTr/c2.nii.gz"}}}`)
	}, []string{"scans/c3_0000.nii.gz: found no such file or directory, expected an image of case y"}, nil},
}

func TestIntegrityCheckReportsEverythingAtOnce(t *testing.T) {
	for _, b := range breakages {
		folder := filepath.Join(t.TempDir(), "Dataset001_X")
		sound(t, folder)
		if b.harm != nil {
			b.harm(t, folder)
		}
		r, err := Verify(t.Context(), folder, 2, nil)
		require.NoError(t, err)
		matches := func(kind string, want []string, got []Problem) {
			require.Len(t, got, len(want), "%s: %s: %v", b.name, kind, got)
			for i := range want {
				require.True(t, strings.HasPrefix(got[i].String(), filepath.Join(folder, want[i])), "%s: %s: want %s\ngot %s", b.name, kind, want[i], got[i])
			}
		}
		matches("problems", b.problems, r.Problems)
		matches("warnings", b.warnings, r.Warnings)
	}
}

// TestLiveIntegrityCheckRefusesWhatNnUNetRefuses runs nnU-Net's own check on the same datasets.
func TestLiveIntegrityCheckRefusesWhatNnUNetRefuses(t *testing.T) {
	golden.Python(t)
	root := t.TempDir()
	for i, b := range breakages {
		folder := filepath.Join(root, fmt.Sprintf("Dataset%03d_X", i))
		sound(t, folder)
		if b.harm != nil {
			b.harm(t, folder)
		}
	}
	var refused map[string]*string
	require.NoError(t, json.Unmarshal(golden.Run(t, "raw_cases.py", "--verify", root), &refused))
	require.Len(t, refused, len(breakages))
	for i, b := range breakages {
		reason := refused[fmt.Sprintf("Dataset%03d_X", i)]
		if b.name == "truncated" {
			require.Nil(t, reason) // Differs: ITK reads the remainder of a truncated file, so nnU-Net accepts it
			continue
		}
		if reason == nil {
			require.Empty(t, b.problems, "%s: nnU-Net accepts it", b.name)
		} else {
			require.NotEmpty(t, b.problems, "%s: nnU-Net says %s", b.name, *reason)
		}
	}
}

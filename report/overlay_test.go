package report

import (
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
)

func readPNG(t *testing.T, path string) image.Image {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	return img
}

// square is a case of 3 slices of 40 by 40, grey, with a truth of 10 by 10 voxels in slice 1.
func square() OverlayCase {
	const n = 40
	c := OverlayCase{Name: "square", Shape: [3]int{3, n, n}, Spacing: [3]float64{3, 1, 1}, Image: make([]float32, 3*n*n), Truth: make([]uint8, 3*n*n)}
	for i := range c.Image {
		c.Image[i] = float32(i % n) // a ramp in x
	}
	for y := 10; y < 20; y++ {
		for x := 10; x < 20; x++ {
			c.Truth[n*n+y*n+x] = 1
		}
	}
	shifted := make([]uint8, len(c.Truth))
	copy(shifted[10:], c.Truth) // ten voxels to the right: beside the truth
	c.Predictions, c.Dice = [][]uint8{shifted, slices.Clone(c.Truth)}, []float64{0, 1}
	return c
}

func TestOverlayShowsTruthAsOutlineAndPredictionsAsColour(t *testing.T) {
	path := filepath.Join(t.TempDir(), "o.png")
	c := square()
	require.NoError(t, Overlay(path, OverlayData{Predictions: []string{"before", "after"}, Cases: []OverlayCase{c}}))
	img := readPNG(t, path)

	v := c.view()
	require.Equal(t, 1, v.z)
	top := titleH + headH + captionH
	at := func(column, y, x int) color.RGBA { // the centre of a voxel of slice 1
		left := 40 - v.nx // the dark left margin is cropped
		px := ((x-left)*2 + 1) * panelWidth / (2 * v.nx)
		py := (y*2 + 1) * v.height / (2 * v.ny)
		return color.RGBAModel.Convert(img.At(border+column*(panelWidth+gap)+px, top+py)).(color.RGBA)
	}
	grey := func(c color.RGBA) bool { return c.R == c.G && c.G == c.B }
	cyan := func(c color.RGBA) bool { return int(c.B) > int(c.R)+80 }
	inTruth, beside := [2]int{15, 15}, [2]int{15, 25}
	require.True(t, grey(at(0, inTruth[0], inTruth[1])), "the CT panel has no colour")
	require.True(t, cyan(at(1, inTruth[0], inTruth[1])))
	require.True(t, grey(at(2, inTruth[0], inTruth[1])), "false negative: outlined, not filled")
	require.True(t, cyan(at(2, beside[0], beside[1])), "false positive: filled")
	require.True(t, cyan(at(3, inTruth[0], inTruth[1])))
	require.True(t, grey(at(3, beside[0], beside[1])))
	require.Less(t, at(0, 30, 12).R, at(0, 30, 30).R, "the ramp is kept")

	yellow := 0
	for px := range panelWidth {
		for py := range v.height {
			if color.RGBAModel.Convert(img.At(border+2*(panelWidth+gap)+px, top+py)) == color.Color(truthColor) {
				yellow++
			}
		}
	}
	perimeter := 4 * 10 * panelWidth / v.nx
	require.InDelta(t, 2*perimeter, yellow, float64(perimeter)/4, "an outline of two pixels")
}

func TestOverlayKeepsProportionsAndSurvivesPlainCases(t *testing.T) {
	c := square()
	c.Spacing = [3]float64{3, 2, 1}
	v := c.view()
	require.InDelta(t, float64(panelWidth)*2*float64(v.ny)/float64(v.nx), v.height, 1)

	empty := OverlayCase{Name: "empty", Shape: [3]int{4, 1, 2}, Spacing: [3]float64{1, 1, 1}, Image: make([]float32, 8), Truth: make([]uint8, 8), Predictions: [][]uint8{make([]uint8, 8)}, Dice: []float64{math.NaN()}}
	require.Equal(t, 2, empty.slice())
	empty.Image[5] = float32(math.NaN())
	require.NoError(t, Overlay(filepath.Join(t.TempDir(), "o.png"), OverlayData{Predictions: []string{"before"}, Labels: []string{"a", "b"}, Cases: []OverlayCase{empty}}))
	empty.Predictions[0][7] = 9
	require.Equal(t, 3, empty.slice(), "without truth, the slice of the largest prediction")
}

func TestOverlayErrorsAreExplicit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "o.png")
	for want, spoil := range map[string]func(*OverlayCase){
		"case square: found 4799 voxels of the image and 4800 of the truth, expected 4800 for shape [3 40 40]": func(c *OverlayCase) { c.Image = c.Image[1:] },
		"case square: found 4798 voxels of prediction 2, expected 4800 for shape [3 40 40]":                    func(c *OverlayCase) { c.Predictions[1] = c.Predictions[1][2:] },
		"case square: 2 predictions and 1 Dice values, expected 2 of each":                                     func(c *OverlayCase) { c.Dice = c.Dice[1:] },
		"case square: spacing [3 1 NaN] mm: expected positive numbers":                                         func(c *OverlayCase) { c.Spacing[2] = math.NaN() },
		"case square: found shape [0 40 40], expected positive sizes":                                          func(c *OverlayCase) { c.Shape[0] = 0 },
	} {
		c := square()
		spoil(&c)
		err := Overlay(path, OverlayData{Predictions: []string{"before", "after"}, Cases: []OverlayCase{c}})
		require.EqualError(t, err, "report: draw "+path+": "+want)
	}
	require.EqualError(t, Overlay(path, OverlayData{}), "report: draw "+path+": no case")
	require.NoFileExists(t, path)
}

func TestOverlayOfTheDemo(t *testing.T) {
	data := OverlayData{Title: "Held-out cases", Predictions: []string{"before", "after"}, Labels: []string{"lymph node"}}
	for _, name := range []string{"LN_004", "LN_005"} {
		f, err := npz.OpenNpz("../testdata/phantom-demo/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource_3d_fullres/" + name + ".npz")
		require.NoError(t, err)
		img, err := f.Read("data")
		require.NoError(t, err)
		seg, err := f.Read("seg")
		require.NoError(t, err)
		require.NoError(t, f.Close())
		c := OverlayCase{Name: name, Shape: [3]int(img.Shape[1:]), Spacing: [3]float64{2.5, 0.98, 0.98}, Dice: []float64{0.471, 0.517}}
		c.Image, err = img.Float32s()
		require.NoError(t, err)
		labels, err := seg.Int8s()
		require.NoError(t, err)
		for _, v := range labels {
			c.Truth = append(c.Truth, uint8(max(v, 0)))
		}
		c.Predictions = [][]uint8{slices.Concat(make([]uint8, 2), c.Truth[:len(c.Truth)-2]), c.Truth}
		data.Cases = append(data.Cases, c)
	}
	path := filepath.Join(t.TempDir(), "demo.png")
	require.NoError(t, Overlay(path, data))
	require.Greater(t, readPNG(t, path).Bounds().Dy(), 2*250)
}

package report

import (
	"image"
	"image/color"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/image/font"
)

func TestSheetOutlinesLabelsInTheirColours(t *testing.T) {
	plane := SheetPlane{Image: make([]float32, 100), Shape: [2]int{10, 10}, Spacing: [2]float64{1, 1},
		Labels: [][]uint8{make([]uint8, 100), make([]uint8, 100)}}
	for y := 2; y < 8; y++ {
		for x := 2; x < 8; x++ {
			plane.Labels[0][y*10+x] = 1
		}
	}
	plane.Labels[1][44] = 2 // inside the first one
	data := SheetData{Title: "title", Columns: []string{"a"}, Labels: []string{"node", "core"}, Low: 0, High: 1,
		Rows: []SheetRow{{Name: "row", Planes: []SheetPlane{plane}}, {Name: "row", Planes: []SheetPlane{plane},
			Text: []string{strings.Repeat("word ", 400)}}}}
	path := filepath.Join(t.TempDir(), "s.png")
	require.NoError(t, Sheet(path, data))
	img := readPNG(t, path)
	at := func(row, y, x int) color.Color {
		return color.RGBAModel.Convert(img.At(border+x, titleH+headH+row*(panelWidth+gap)+y))
	}
	voxel := func(i int) int { return i * panelWidth / 10 } // its first pixel, or the one before it
	for row := range 2 {
		require.Equal(t, labelColors[0], at(row, voxel(2)+1, voxel(5)), "the upper border of label 1")
		require.Equal(t, labelColors[1], at(row, voxel(4)+1, voxel(4)+10), "the upper border of label 2")
		require.Equal(t, color.RGBA{A: 255}, at(row, voxel(4)+10, voxel(4)+10), "label 2 is not filled")
		require.Equal(t, color.RGBA{A: 255}, at(row, voxel(3)+10, voxel(3)+10))
	}
	require.Greater(t, img.Bounds().Dy(), titleH+headH+2*(panelWidth+gap)+legendH+border, "a long text makes its row higher")

	data.Labels = make([]string, 300) // labels from 255 on share a colour
	require.NoError(t, Sheet(path, data))
}

func TestSheetRefusesWhatDoesNotFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.png")
	good := func() SheetData {
		return SheetData{Columns: []string{"a"}, High: 1, Rows: []SheetRow{{Name: "row", Planes: []SheetPlane{
			{Image: make([]float32, 6), Shape: [2]int{2, 3}, Spacing: [2]float64{1, 1}, Labels: [][]uint8{make([]uint8, 6)}}}}}}
	}
	require.NoError(t, Sheet(path, good()))
	for want, change := range map[string]func(d *SheetData){
		"no row":                      func(d *SheetData) { d.Rows = nil },
		"grey levels from 0 to 0":     func(d *SheetData) { d.High = 0 },
		"row: found 1 planes":         func(d *SheetData) { d.Columns = nil },
		"shape [2 2]":                 func(d *SheetData) { d.Rows[0].Planes[0].Shape[1] = 2 },
		"spacing [0 1] mm":            func(d *SheetData) { d.Rows[0].Planes[0].Spacing[0] = 0 },
		"row: found a plane of shape": func(d *SheetData) { d.Rows[0].Planes[0].Labels[0] = nil },
	} {
		d := good()
		change(&d)
		require.ErrorContains(t, Sheet(path, d), want)
	}
}

func TestTextIsWrappedBetweenWords(t *testing.T) {
	w, err := newWriter(image.NewRGBA(image.Rect(0, 0, 1, 1)))
	require.NoError(t, err)
	lines := wrap(w.regular, "rotation 12° -3° 20°, scale 1.2 and so on "+strings.Repeat("x", 200), 120)
	require.Equal(t, "rotation 12° -3° 20°, scale 1.2 and so on "+strings.Repeat("x", 200), strings.Join(lines, " "))
	require.Greater(t, len(lines), 2)
	for _, line := range lines[:len(lines)-1] {
		require.LessOrEqual(t, font.MeasureString(w.regular, line).Ceil(), 120)
	}
}

package rtstruct

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/raster"
)

// drawing parses pixels: "#" is label 1, "+" label 2.
func drawing(lines ...string) (slice []uint16, width int) {
	for _, line := range lines {
		for _, c := range line {
			slice = append(slice, uint16(strings.IndexRune(".#+", c)))
		}
	}
	return slice, len(lines[0])
}

func TestContoursOfSmallShapes(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string
		want  [][]point
	}{
		"a pixel is a diamond": {[]string{"...", ".#.", "..."},
			[][]point{{{1000, 501}, {1499, 1000}, {1000, 1499}, {501, 1000}}}},
		"straight lines have no points between": {[]string{"##", "##"},
			[][]point{{{0, -499}, {1000, -499}, {1499, 0}, {1499, 1000}, {1000, 1499}, {0, 1499},
				{-499, 1000}, {-499, 0}}}},
		"pixels that touch at a corner are apart": {[]string{"#.", ".#"},
			[][]point{{{0, -499}, {499, 0}, {0, 499}, {-499, 0}},
				{{1000, 501}, {1499, 1000}, {1000, 1499}, {501, 1000}}}},
		"a hole hangs on a keyhole": {[]string{"###", "#.#", "###"},
			[][]point{{{0, -499}, {2000, -499}, {2499, 0}, {2499, 2000}, {2000, 2499}, {0, 2499},
				{-499, 2000}, {-499, 1000}, {499, 1000}, {1000, 1501}, {1501, 1000}, {1000, 499},
				{499, 1000}, {-499, 1000}, {-499, 0}}}},
		"another label is background": {[]string{"+#"},
			[][]point{{{1000, -499}, {1499, 0}, {1000, 499}, {501, 0}}}},
	} {
		slice, width := drawing(c.lines...)
		require.Equal(t, c.want, contours(slice, width, 1, boxes(slice, width)[1]), name)
	}
}

// Contours of random pixels, blobs and chessboards, with holes in holes, come back as the pixels by
// the rule for reading. A keyhole runs through foreground alone: rounding all points to pixels, as
// rt-utils does, touches no background.
func TestContoursComeBackAsPixels(t *testing.T) {
	random := rand.New(rand.NewPCG(14, 7))
	for range 2000 {
		width, height := 1+random.IntN(20), 1+random.IntN(20)
		slice := make([]uint16, width*height)
		share := random.Float64()
		chess := random.IntN(4) == 0
		for i := range slice {
			if chess {
				slice[i] = uint16((i%width + i/width) % 2)
			}
			if random.Float64() < share {
				slice[i] = uint16(random.IntN(3))
			}
		}
		for value, in := range boxes(slice, width) {
			traced := contours(slice, width, value, in)
			var paths [][]raster.Point
			for _, c := range traced {
				var path []raster.Point
				for i, p := range c {
					path = append(path, raster.Point{float64(p.x) / milli, float64(p.y) / milli})
					a, b := rounded(p), rounded(c[(i+1)%len(c)])
					steps := max(abs(b.x-a.x), abs(b.y-a.y), 1)
					for s := range steps + 1 {
						x, y := a.x+(b.x-a.x)*s/steps, a.y+(b.y-a.y)*s/steps
						require.Equal(t, value, slice[y*width+x])
					}
				}
				paths = append(paths, path)
			}
			plane := raster.New(width, height)
			plane.Fill(paths...)
			for i, v := range slice {
				want := uint8(0)
				if v == value {
					want = 1
				}
				require.Equal(t, want, plane.Cells[i/width*plane.Stride+i%width], "pixel %d of %v, width %d", i, slice, width)
			}
		}
	}
}

func rounded(p point) point {
	round := func(v int) int { return (v+10*milli+milli/2)/milli - 10 }
	return point{round(p.x), round(p.y)}
}

func abs(x int) int { return max(x, -x) }

func TestBoxes(t *testing.T) {
	slice, width := drawing(".....", ".#+#.", "#....", "....+")
	require.Equal(t, map[uint16]box{1: {0, 1, 4, 3}, 2: {2, 1, 5, 4}}, boxes(slice, width))
}

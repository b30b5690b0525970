package raster

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// inside says by another road whether a point is inside an odd number of paths: a ray along y. near is
// how far it is from the nearest path.
func inside(p Point, paths [][]Point) (odd bool, near float64) {
	near = math.Inf(1)
	for _, path := range paths {
		for i, b := range path {
			a := path[(i+1)%len(path)]
			d := Point{b[0] - a[0], b[1] - a[1]}
			k := 0.0
			if n := d[0]*d[0] + d[1]*d[1]; n > 0 {
				k = min(max(((p[0]-a[0])*d[0]+(p[1]-a[1])*d[1])/n, 0), 1)
			}
			near = min(near, math.Hypot(p[0]-a[0]-k*d[0], p[1]-a[1]-k*d[1]))
			if (a[0] > p[0]) != (b[0] > p[0]) && p[1] < a[1]+(p[0]-a[0])*d[1]/d[0] {
				odd = !odd
			}
		}
	}
	return odd, near
}

// Random paths of all sizes: with corners on centres, on lines of centres and between them, that cross
// themselves, repeat points, run beyond the raster, or go back on themselves.
func TestFillIsEvenOddAndThePathItself(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	onPath := 0
	plane := New(13, 11)
	for range 1500 {
		paths := make([][]Point, 1+random.IntN(4))
		scale := []float64{3, 12, 20, 1e5}[random.IntN(4)]
		for i := range paths {
			step := []float64{0, 1, 0.5, 1e-3}[random.IntN(4)]
			for range random.IntN(9) {
				p := Point{6 + scale*(random.Float64()-0.5), 5 + scale*(random.Float64()-0.5)}
				if step > 0 {
					p = Point{math.Round(p[0]/step) * step, math.Round(p[1]/step) * step}
				}
				paths[i] = append(paths[i], p)
				if random.IntN(5) == 0 {
					paths[i] = append(paths[i], p)
				}
			}
			if random.IntN(8) == 0 {
				for k := len(paths[i]) - 1; k >= 0; k-- {
					paths[i] = append(paths[i], paths[i][k])
				}
			}
		}
		box := plane.Fill(paths...)
		for y := range plane.Rows {
			for x := range plane.Columns {
				odd, near := inside(Point{float64(x), float64(y)}, paths)
				if math.Abs(near-Reach) < 1e-9 {
					continue
				}
				if near < Reach {
					onPath++
				}
				want := odd || near < Reach
				got := plane.Cells[y*plane.Stride+x]
				require.Equal(t, want, got == 1, "%v: (%d, %d), %g from a path", paths, x, y, near)
				if got == 1 {
					require.True(t, x >= box.X0 && x < box.X1 && y >= box.Y0 && y < box.Y1)
				}
			}
		}
		plane.Clear(box)
		for _, c := range plane.Cells {
			require.Zero(t, c)
		}
	}
	require.Greater(t, onPath, 2000)
}

// A contour's points lie a little beside the centres that they were made from.
func TestCentresNearAPathAreInside(t *testing.T) {
	for _, test := range []struct {
		off  float64
		want uint8
	}{{0, 1}, {0.9e-3, 1}, {-0.9e-3, 1}, {1.1e-3, 0}, {-1.1e-3, 0}} {
		plane := New(5, 5)
		plane.Fill([]Point{{2 + test.off, 2}})
		require.Equal(t, test.want, plane.Cells[2*plane.Stride+2], test.off)
		plane = New(5, 5)
		plane.Fill([]Point{{1, 2 + test.off}, {3, 2 + test.off}})
		require.Equal(t, test.want, plane.Cells[2*plane.Stride+2], test.off)
	}
	// diagonally, with two points
	plane := New(5, 5)
	plane.Fill([]Point{{0, 0}, {4, 4}})
	for i := range 5 {
		require.Equal(t, uint8(1), plane.Cells[i*plane.Stride+i])
	}
	require.Zero(t, plane.Cells[1])
}

// Coordinates far outside, not representable as pixels, or so near to each other that slopes are
// infinite.
func TestFillSurvivesAnyNumber(t *testing.T) {
	strange := []float64{0, 1, -1, 4.5, 1e-320, -1e-320, 5e-324, 1e11, -1e11, 1e160, -1e300, 1e308, -1e308}
	random := rand.New(rand.NewPCG(5, 6))
	plane := New(6, 7)
	for range 8000 {
		path := make([]Point, 1+random.IntN(6))
		for i := range path {
			path[i] = Point{strange[random.IntN(len(strange))], strange[random.IntN(len(strange))]}
		}
		plane.Clear(plane.Fill(path))
		for _, c := range plane.Cells {
			require.Zero(t, c, "%v", path)
		}
	}
}

// A million points on 200 slices of 512 × 512 take a tenth of a second on one core: the limit leaves room
// for a busy machine and the race detector.
func TestAMillionPointsAreFast(t *testing.T) {
	plane := New(512, 512)
	start := time.Now()
	set := 0
	for z := range 200 {
		path := make([]Point, 5000)
		for i := range path {
			a := 2 * math.Pi * float64(i) / 5000
			r := 180 + 40*math.Sin(17*a+float64(z))
			path[i] = Point{255.5 + r*math.Cos(a), 255.5 + r*math.Sin(a)}
		}
		box := plane.Fill(path)
		set += int(plane.Cells[256*plane.Stride+256])
		plane.Clear(box)
	}
	require.Equal(t, 200, set)
	t.Log(time.Since(start))
	require.Less(t, time.Since(start), 5*time.Second)
}

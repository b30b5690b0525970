package series

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
)

// Geometry is how far a stack's slices are from a regular grid.
type Geometry struct {
	Regular  bool     `json:"regular"`
	Problems []string `json:"problems"` // of tilt, missing, irregular, duplicate
	// between the normal of the slices and the line from the first origin to the last
	TiltDegrees  float64   `json:"tilt_degrees"`
	MaxDeviation float64   `json:"max_deviation_mm"` // of an origin from the regular grid
	Missing      []float64 `json:"missing"`          // positions t, mm
	Duplicates   int       `json:"duplicates"`       // slices at the position of another
	sideways     float64   // mm that the origins move in the plane of the slices
	deviation    float64   // mm along the normal
}

// Problems of a stack.
const (
	Tilt      = "tilt"      // the slices move sideways
	Missing   = "missing"   // there are gaps of whole slices
	Irregular = "irregular" // the distances differ
	Duplicate = "duplicate" // there are different pixels at one position
)

const (
	samePlace   = 0.01 // mm
	offGrid     = 0.05 // of the spacing
	offMultiple = 0.05 // of the smallest distance
	sideways    = 0.5  // of a pixel
	// maxMissing bounds how many slices a gap may stand for, as a multiple of those there are.
	maxMissing = 100
)

type vector = [3]float64

func dot(a, b vector) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }

func cross(a, b vector) vector {
	return vector{a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]}
}

func minus(a, b vector) vector { return vector{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }

func unit(a vector) vector {
	n := math.Sqrt(dot(a, a))
	return vector{a[0] / n, a[1] / n, a[2] / n}
}

// axes are the directions of rows (x), columns (y) and the normal (z), orthogonal and of length 1.
type axes [3]vector

// axesOf returns the axes for an ImageOrientationPatient, made orthogonal as ITK does.
func axesOf(o [6]float64) (axes, error) {
	row, column := vector(o[:3]), vector(o[3:])
	const length, angle = 1e-2, 1e-3
	if math.Abs(dot(row, row)-1) > length || math.Abs(dot(column, column)-1) > length ||
		math.Abs(dot(row, column)) > angle {
		return axes{}, fmt.Errorf("%s: expected two orthogonal vectors of length 1",
			dicom.Name(tag.ImageOrientationPatient))
	}
	n := unit(cross(row, column))
	row = unit(cross(column, n))
	return axes{row, cross(n, row), n}, nil
}

// measure compares the positions of slices, which ascend along the normal, with a regular grid of
// spacing mm along it. pixel is the spacing in the plane.
func measure(at []vector, a axes, pixel [2]float64) (g Geometry, spacing float64) {
	last := len(at) - 1
	g.Problems, g.Missing = []string{}, []float64{}
	if last < 1 {
		g.Regular = true
		return g, 0
	}
	t := make([]float64, len(at))
	for i := range at {
		t[i] = dot(minus(at[i], at[0]), a[2])
	}
	spacing = t[last] / float64(last)
	shift := func(i int) vector { // from the first slice, in its plane
		d := minus(at[i], at[0])
		return vector{dot(d, a[0]), dot(d, a[1]), 0}
	}
	for i := range at {
		s, along := shift(i), t[i]-float64(i)*spacing
		g.sideways = max(g.sideways, math.Sqrt(dot(s, s)))
		g.deviation = max(g.deviation, math.Abs(along))
		g.MaxDeviation = max(g.MaxDeviation, math.Sqrt(dot(s, s)+along*along))
	}
	s := shift(last)
	g.TiltDegrees = math.Atan2(math.Sqrt(dot(s, s)), t[last]) * 180 / math.Pi
	if g.sideways > sideways*min(pixel[0], pixel[1]) {
		g.Problems = append(g.Problems, Tilt)
	}
	if g.deviation > offGrid*spacing {
		if g.Missing = missing(t, dot(at[0], a[2])); len(g.Missing) > 0 {
			g.Problems = append(g.Problems, Missing)
		} else {
			g.Problems = append(g.Problems, Irregular)
		}
	}
	g.Regular = len(g.Problems) == 0
	return g, spacing
}

// distances returns those between neighbours.
func distances(t []float64) []float64 {
	d := make([]float64, len(t)-1)
	for i := range d {
		d[i] = t[i+1] - t[i]
	}
	return d
}

// missing returns the positions of the slices that the gaps stand for, if all distances are whole
// multiples of the smallest one. t counts from first.
func missing(t []float64, first float64) []float64 {
	d := distances(t)
	smallest := slices.Min(d)
	all := []float64{}
	for i, x := range d {
		n := math.Round(x / smallest)
		if math.Abs(x/smallest-n) > offMultiple || n > float64(maxMissing*len(t)-len(all)) {
			return []float64{}
		}
		for k := 1.0; k < n; k++ {
			all = append(all, first+t[i]+x*k/n)
		}
	}
	return all
}

// Refusal says what is wrong with the geometry, where and how much; nil if nothing is.
func (g *Geometry) Refusal() error {
	var what []string
	for _, p := range g.Problems {
		switch p {
		case Tilt:
			what = append(what, fmt.Sprintf("the slices move sideways by %.4g mm in all, an angle of "+
				"%.3g° (gantry tilt?)", g.sideways, g.TiltDegrees))
		case Missing:
			const show = 8
			var at []string
			for _, t := range g.Missing[:min(len(g.Missing), show)] {
				at = append(at, fmt.Sprintf("%.4g", t))
			}
			if len(g.Missing) > show {
				at = append(at, "…")
			}
			what = append(what, fmt.Sprintf("%d slices are missing, at %s mm along the normal",
				len(g.Missing), strings.Join(at, ", ")))
		case Irregular:
			what = append(what, fmt.Sprintf("the distances between slices differ: up to %.4g mm off a "+
				"regular grid", g.deviation))
		case Duplicate:
			what = append(what, fmt.Sprintf("%d slices lie where another lies and have other pixels",
				g.Duplicates))
		}
	}
	if what == nil {
		return nil
	}
	next := "; --fix-geometry resamples the slices to a regular grid"
	if slices.Contains(g.Problems, Duplicate) {
		next = "; remove the slices that do not belong to the image"
	}
	return errors.New(strings.Join(what, "; ") + next)
}

package rtstruct

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom"
)

// How many points contours can have is known from their lengths and from what they say, and bounded
// before any is read.
func TestPointsAreBounded(t *testing.T) {
	of := func(kind string, length int64, count int) contour {
		return contour{kind: kind, points: dicom.Span{Length: length}, count: count}
	}
	for most, c := range map[int]contour{101: of(ClosedPlanar, 600, -1), 20: of(ClosedPlanar, 600, 20),
		2: of(ClosedPlanar, 6, maxPoints), 1: of(ClosedPlanar, 0, -1), 0: of(ClosedPlanar, 9, 0)} {
		require.Equal(t, most, c.most())
	}
	for _, contours := range [][]contour{
		{of(ClosedPlanar, 6*maxPoints, -1)},
		{of(ClosedPlanar, 60*maxPoints, maxPoints/2), of(ClosedPlanarXOR, 60*maxPoints, maxPoints/2+1)},
	} {
		s := &StructureSet{ROIs: []*ROI{{contours: contours}}}
		require.ErrorContains(t, s.place(nil, [][]placed{make([]placed, len(contours))}, 1),
			"points, expected at most 16777216: draw fewer ROIs at a time, with --roi")
	}
}

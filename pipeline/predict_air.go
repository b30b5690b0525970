package pipeline

import (
	"fmt"

	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// Values of --skip-air.
const (
	airSkipped = "on"
	airChecked = "check" // computed all the same, and compared
)

const (
	airHU = -900 // below it is air
	// airLogit is the logit of every class but the background where only air was left out.
	airLogit = -20
	// airBlock is the edge of the cubes of voxels that are air or not as a whole.
	airBlock = 8
	// airMargin is how many voxels outside a tile count, too: resampling reaches there.
	airMargin = 2
)

// AirRecord is what --skip-air left out of a case.
type AirRecord struct {
	Tiles int `json:"tiles_skipped"` // places of the window
	// LabelsChanged counts the voxels whose label would change; only with --skip-air=check, where the
	// files are those of all tiles.
	LabelsChanged *int64 `json:"labels_changed,omitempty"`
}

// checkAir refuses --skip-air where the values of the first channel are not known to be HU.
func (s *segmenter) checkAir() error {
	if s.SkipAir == "" || s.how.Schemes[0].Name == "CTNormalization" {
		return nil
	}
	return settings.Usage("--skip-air: channel 0 (%s) of this model is normalised by %s, expected CTNormalization: only CT has air below %d HU",
		s.model.dataset.ChannelNames[0], s.how.Schemes[0].Name, airHU)
}

// airMap holds where an image has only air, cube by cube. It is made from the image as it was read:
// CTNormalization clips at a percentile of the tissue, behind which air is not told from fat.
type airMap struct {
	shape  [3]int // of the image, z, y, x
	cubes  [3]int
	tissue []bool // of cubes: some voxel is not air
}

// newAirMap looks at the first channel. NaN is not air.
func newAirMap(im *volume.Image) *airMap {
	m := &airMap{shape: [3]int(im.Shape[1:])}
	for i, n := range m.shape {
		m.cubes[i] = (n + airBlock - 1) / airBlock
	}
	m.tissue = make([]bool, m.cubes[0]*m.cubes[1]*m.cubes[2])
	row := make([]float64, m.shape[2])
	for z := range m.shape[0] {
		for y := range m.shape[1] {
			im.Pixels.Float64s(row, (z*m.shape[1]+y)*m.shape[2])
			own := m.tissue[(z/airBlock*m.cubes[1]+y/airBlock)*m.cubes[2]:][:m.cubes[2]]
			for x, v := range row {
				if !(v < airHU) {
					own[x/airBlock] = true
				}
			}
		}
	}
	return m
}

// in reports whether a box of the preprocessed case is air. Where a cube reaches over the box, it
// counts whole.
func (m *airMap) in(g *preprocess.Grid, box [3][2]int) bool {
	var cubes [3][2]int
	for i, r := range box {
		axis := g.Transpose[i]
		size := g.Box[i][1] - g.Box[i][0]
		lo := g.Box[i][0] + r[0]*size/g.Shape[i] - airMargin
		hi := g.Box[i][0] + (r[1]*size+g.Shape[i]-1)/g.Shape[i] + airMargin
		cubes[axis] = [2]int{max(lo, 0) / airBlock, (min(hi, m.shape[axis]) + airBlock - 1) / airBlock}
	}
	for z := cubes[0][0]; z < cubes[0][1]; z++ {
		for y := cubes[1][0]; y < cubes[1][1]; y++ {
			for x := cubes[2][0]; x < cubes[2][1]; x++ {
				if m.tissue[(z*m.cubes[1]+y)*m.cubes[2]+x] {
					return false
				}
			}
		}
	}
	return true
}

// air is what infer leaves out of a case, with logits of background where nothing else reaches.
func (s *segmenter) air(p *preparedCase) *infer.Air {
	logits := make([]float64, s.model.heads())
	for i := range logits {
		if i > 0 || s.model.dataset.Labels.HasRegions {
			logits[i] = airLogit
		}
	}
	return &infer.Air{Logits: logits, Is: func(box [3][2]int) bool { return p.tissue.in(&p.grid, box) }}
}

// differences counts the voxels that have another label.
func differences(a, b *volume.Image) (int64, error) {
	switch x := a.Pixels.(type) {
	case volume.Slice[uint8]:
		if y, ok := b.Pixels.(volume.Slice[uint8]); ok && len(x) == len(y) {
			return unequal(x, y), nil
		}
	case volume.Slice[uint16]:
		if y, ok := b.Pixels.(volume.Slice[uint16]); ok && len(x) == len(y) {
			return unequal(x, y), nil
		}
	}
	return 0, fmt.Errorf("two segmentations of the same image differ in size or type")
}

func unequal[L uint8 | uint16](a, b []L) (n int64) {
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

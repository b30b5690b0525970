package infer

import (
	"fmt"

	"github.com/lntorch/lntorch/torch"
)

// Air says which tiles of an image are left out because they show nothing but air.
type Air struct {
	// Is reports whether a box of the image, half-open ranges of z, y and x, holds nothing but air.
	Is func(box [3][2]int) bool
	// Logits of each class for the voxels that are in no other tile than those left out.
	Logits []float64
}

// SkipAir leaves tiles out of the following runs; nil leaves out none. A tile counts as air by its
// voxels inside the image: padding is no tissue. Where other tiles reach into it, the mean is over
// these.
// Differs: nnU-Net runs every tile.
func (p *Predictor) SkipAir(air *Air) error {
	if air != nil && len(air.Logits) != p.classes {
		return fmt.Errorf("infer: %d logits for air, expected one for each of %d classes",
			len(air.Logits), p.classes)
	}
	p.air = air
	return nil
}

// Skipped is the number of tiles, of those in Need.Tiles, that SkipAir leaves out of an image of
// shape (c,z,y,x).
func (p *Predictor) Skipped(shape [4]int) (int, error) {
	if err := checkShape(shape); err != nil {
		return 0, err
	}
	pl, err := newPlan(p.patch, p.classes, p.folds, shape, p.cfg)
	if err != nil {
		return 0, err
	}
	before := pl.tileCount()
	pl.leaveOut(p.air)
	return before - pl.tileCount(), nil
}

// leaveOut takes the tiles of air out of the strips.
func (p *plan) leaveOut(air *Air) {
	if air == nil {
		return
	}
	for i := range p.strips {
		st := &p.strips[i]
		var tiles []tile
		for _, t := range st.tiles {
			var box [3][2]int
			for a, start := range t.start {
				lo := start - p.offset[a]
				box[a] = [2]int{max(lo, 0), min(lo+p.patch[a], p.inside[a])}
			}
			if !air.Is(box) {
				tiles = append(tiles, t)
			}
		}
		p.skipped += len(st.tiles) - len(tiles)
		st.tiles = tiles
	}
}

// fill sets the mean logits (classes, …) of voxels whose weights sum to 0 in count to those of air.
func (a *Air) fill(s *torch.Scope, mean, count *torch.Tensor) {
	if a == nil || s.Err() != nil {
		return
	}
	empty := s.CompareScalar(count, torch.Eq, 0)
	for class, v := range a.Logits {
		x := s.Select(mean, 0, int64(class))
		s.Copy_(x, s.MaskedFill(x, empty, v), false)
	}
}

package loader

import (
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/plans"
)

// source draws integers uniformly from [0, n). *rand.Rand is one.
type source interface{ IntN(n int) int }

// sampler chooses cases and patch positions as nnU-Net's loaders do, draw for draw.
// Source: nnU-Net 2.5.1, base_data_loader.py, data_loader_3d.py, data_loader_2d.py.
type sampler struct {
	keys       []string
	batchSize  int
	rows       [2]int // of the batch: the first to choose, and the one after the last
	size       []int  // of the patches to sample
	needToPad  []int  // how far positions may extend beyond the border, both sides together
	oversample float64
	labels     *plans.Labels
	load       func(key string) (*dataset.Case, error)
}

// pick is a chosen patch: its first voxel in the case, which may lie outside. A 2d patch is in
// slice start[0].
type pick struct {
	c      *dataset.Case
	start  [3]int
	forced bool
	class  []int // labels of what it was placed at; nil: anywhere
}

// draw chooses the patches of one batch's rows: first all cases, then each position. random gives
// the numbers of a row for a purpose.
func (s *sampler) draw(random func(i int, purpose string) source) ([]pick, error) {
	first := s.rows[0]
	picks := make([]pick, s.rows[1]-first)
	chosen := make([]string, len(picks))
	for i := range chosen {
		chosen[i] = s.keys[random(first+i, "case").IntN(len(s.keys))]
	}
	for i := range picks {
		c, err := s.load(chosen[i])
		if err != nil {
			return nil, err
		}
		if err := s.check(c); err != nil {
			return nil, err
		}
		place := s.place3D
		if len(s.size) == 2 {
			place = s.place2D
		}
		rng, forced := random(first+i, "place"), s.forced(first+i)
		class, err := s.class(rng, c, forced)
		if err != nil {
			return nil, err
		}
		picks[i] = pick{c: c, start: place(rng, c, class), forced: forced}
		if class != nil {
			picks[i].class = class.Labels
		}
	}
	return picks, nil
}

// forced reports whether row i of a batch must contain foreground: the last ones must.
//
// Compat: with nnU-Net's 0.33 the only sample of a batch of one never must.
func (s *sampler) forced(i int) bool {
	return i >= int(math.RoundToEven(float64(s.batchSize)*(1-s.oversample)))
}

// check returns an error for labels that the network has no class for.
func (s *sampler) check(c *dataset.Case) error {
	for _, v := range c.SegValues {
		ignored := s.labels.IgnoreLabel != nil && int(v) == *s.labels.IgnoreLabel
		if v != -1 && !ignored && !slices.Contains(s.labels.AllLabels, int(v)) {
			return fmt.Errorf("loader: %s: the segmentation has value %d, expected labels of "+
				"dataset.json %v (or -1 outside the image); correct labels in dataset.json or "+
				"preprocess again",
				c.Source, v, s.labels.AllLabels)
		}
	}
	return nil
}

// annotated returns the locations of all labels together, which exist only with an ignore label.
func (s *sampler) annotated(c *dataset.Case) (*dataset.Locations, error) {
	for i := range c.Locations {
		if s.isAnnotated(&c.Locations[i]) {
			return &c.Locations[i], nil
		}
	}
	return nil, fmt.Errorf("loader: case %s (%s): class_locations has no entry for all labels %v "+
		"together, expected one since dataset.json has an ignore label; preprocess again",
		c.Key, c.Source, s.labels.AllLabels)
}

func (s *sampler) isAnnotated(l *dataset.Locations) bool {
	return slices.Equal(l.Labels, s.labels.AllLabels)
}

// eligible returns the classes that occur in the case; all labels together only if there is no
// other.
func (s *sampler) eligible(c *dataset.Case) []*dataset.Locations {
	var out []*dataset.Locations
	for i := range c.Locations {
		if len(c.Locations[i].Voxels) > 0 {
			out = append(out, &c.Locations[i])
		}
	}
	if len(out) > 1 {
		if i := slices.IndexFunc(out, s.isAnnotated); i >= 0 {
			out = slices.Delete(out, i, i+1)
		}
	}
	return out
}

// class chooses the class to place the patch at a voxel of; nil: any position.
func (s *sampler) class(rng source, c *dataset.Case, forced bool) (*dataset.Locations, error) {
	if !forced && s.labels.IgnoreLabel == nil {
		return nil, nil
	}
	if !forced {
		l, err := s.annotated(c)
		if err != nil || len(l.Voxels) == 0 {
			return nil, err
		}
		return l, nil
	}
	eligible := s.eligible(c)
	if len(eligible) == 0 {
		return nil, nil
	}
	return eligible[rng.IntN(len(eligible))], nil
}

// place3D chooses a voxel of the class, or any position if that is nil.
func (s *sampler) place3D(rng source, c *dataset.Case, class *dataset.Locations) [3]int {
	shape := c.Data.Spatial()
	if class == nil {
		return [3]int(s.anywhere(rng, shape[:]))
	}
	voxel := class.Voxels[rng.IntN(len(class.Voxels))]
	return [3]int(s.around(voxel[:], shape[:]))
}

// place2D chooses a slice in proportion to its voxels of the class, and one of those voxels; if the
// class is nil any slice and position.
//
// Differs: the reference raises an exception if, in a dataset with an ignore label, a case has no
// annotated voxels, or no foreground when forced; here any position is taken.
func (s *sampler) place2D(rng source, c *dataset.Case, class *dataset.Locations) [3]int {
	shape := c.Data.Spatial()
	if class == nil {
		z := rng.IntN(shape[0])
		start := s.anywhere(rng, shape[1:])
		return [3]int{z, start[0], start[1]}
	}
	z := class.Voxels[rng.IntN(len(class.Voxels))][0]
	inSlice := 0
	for _, v := range class.Voxels {
		if v[0] == z {
			inSlice++
		}
	}
	nth := rng.IntN(inSlice)
	for _, v := range class.Voxels {
		if v[0] != z {
			continue
		}
		if nth == 0 {
			start := s.around(v[1:], shape[1:])
			return [3]int{int(z), start[0], start[1]}
		}
		nth--
	}
	panic("unreachable: nth < inSlice")
}

// bounds returns the first and last position along an axis of n voxels.
func (s *sampler) bounds(axis, n int) (lower, upper int) {
	pad := max(s.needToPad[axis], s.size[axis]-n)
	half := (pad + 1) / 2
	return -half, n + half - s.size[axis]
}

func (s *sampler) anywhere(rng source, shape []int) []int {
	start := make([]int, len(shape))
	for axis, n := range shape {
		lower, upper := s.bounds(axis, n)
		start[axis] = lower + rng.IntN(upper-lower+1)
	}
	return start
}

// around centres the patch on the voxel, but extends it before the first voxel no further than
// anywhere does.
//
// Compat: there is no such bound after the last voxel; patches may extend beyond it by half their
// size.
func (s *sampler) around(voxel []int32, shape []int) []int {
	start := make([]int, len(shape))
	for axis, n := range shape {
		lower, _ := s.bounds(axis, n)
		start[axis] = max(lower, int(voxel[axis])-s.size[axis]/2)
	}
	return start
}

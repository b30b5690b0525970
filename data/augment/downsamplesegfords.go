package augment

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/lntorch/lntorch/volume"
)

// DownsampleSegForDSTransform makes a target for each output of a network with deep supervision.
// Source: batchgeneratorsv2 0.2.1, DownsampleSegForDSTransform.
type DownsampleSegForDSTransform struct {
	// DSScales has a row per output, highest resolution first: its size relative to the patch, per
	// axis; a row of one number counts for all axes.
	DSScales []Scale `json:"ds_scales" need:"true"`
}

// Scale is a number per axis; in JSON also one number for all.
type Scale []float64

// UnmarshalJSON reads a number or a list.
func (s *Scale) UnmarshalJSON(text []byte) error {
	var one float64
	if json.Unmarshal(text, &one) == nil {
		*s = Scale{one}
		return nil
	}
	return json.Unmarshal(text, (*[]float64)(s))
}

// of returns the number of an axis.
func (s Scale) of(axis int) float64 { return s[min(axis, len(s)-1)] }

// scaled returns how many voxels become of n, rounded half to even.
func scaled(n int, scale float64) float64 { return math.RoundToEven(float64(float64(n) * scale)) }

// Name returns DownsampleSegForDSTransform.
func (DownsampleSegForDSTransform) Name() string { return "DownsampleSegForDSTransform" }

// Draw draws nothing.
func (t DownsampleSegForDSTransform) Draw(*rand.Rand) Parameters { return &t }

// Apply fills Targets with the nearest voxels ("nearest-exact").
func (t *DownsampleSegForDSTransform) Apply(p *Patch) error {
	if p.Seg == nil {
		return nil
	}
	s := p.scratch()
	for len(s.targets) < len(t.DSScales) {
		s.targets = append(s.targets, volume.Volume[int16]{})
	}
	p.Targets = grown(&s.list, len(t.DSScales))
	in := p.Seg.Spatial()
	for level, row := range t.DSScales {
		shape, same, err := row.target(p.shape())
		if err != nil {
			return err
		}
		if same {
			p.Targets[level] = p.Seg
			continue
		}
		for axis := range 3 {
			nearestExact(grown(&s.nearest[axis], shape[1+axis]), in[axis])
		}
		out := &s.targets[level]
		out.Resize(shape)
		p.Targets[level] = out
		i := 0
		for c := range shape[0] {
			for _, z := range s.nearest[0] {
				for _, y := range s.nearest[1] {
					src := p.Seg.Data[((c*in[0]+int(z))*in[1]+int(y))*in[2]:][:in[2]]
					dst := out.Data[i:][:shape[3]]
					for k, x := range s.nearest[2] {
						dst[k] = src[x]
					}
					i += shape[3]
				}
			}
		}
	}
	return nil
}

// target returns the shape of the target of a segmentation; same: it is the segmentation itself.
func (s Scale) target(of Shape) (shape [4]int, same bool, err error) {
	if len(s) != 1 && len(s) != of.Dim {
		return shape, false, fmt.Errorf("ds_scales: found a row of %d numbers, expected %d, one per axis",
			len(s), of.Dim)
	}
	shape, same = of.Seg, true
	for axis := range of.Dim {
		scale := s.of(axis)
		same = same && scale == 1
		at := axis + 4 - of.Dim
		exact := scaled(shape[at], scale)
		if !(exact >= 1) || exact > float64(shape[at])*64 {
			return shape, false, fmt.Errorf("ds_scales: found %v, which makes %v of the %d voxels of axis "+
				"%d, expected 1 to %d", scale, exact, shape[at], axis, shape[at]*64)
		}
		shape[at] = int(exact)
	}
	if !same && volume.Numel(shape) > maxVoxels {
		return shape, false, fmt.Errorf("ds_scales: found %v, which makes %d voxels, expected %d at most",
			s, volume.Numel(shape), maxVoxels)
	}
	return shape, same, nil
}

// Levels returns for each target, and each axis, the voxels of the segmentation that it takes; nil
// for a target that is the segmentation itself.
func (t *DownsampleSegForDSTransform) Levels(s Shape) (levels [][][]int64, err error) {
	for _, row := range t.DSScales {
		shape, same, err := row.target(s)
		if err != nil {
			return nil, err
		}
		var level [][]int64
		for at := 4 - s.Dim; at < 4 && !same; at++ {
			index := make([]int32, shape[at])
			nearestExact(index, s.Seg[at])
			level = append(level, wide(index))
		}
		levels = append(levels, level)
	}
	return levels, nil
}

// nearestExact sets each index to the one of in voxels with the nearest centre, like torch's
// interpolate(mode="nearest-exact"): floor((i+0.5)·in/out), in float32.
func nearestExact(index []int32, in int) {
	scale := float32(in) / float32(len(index))
	for i := range index {
		index[i] = int32(min(int((float32(i)+0.5)*scale), in-1))
	}
}

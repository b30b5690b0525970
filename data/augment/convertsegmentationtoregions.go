package augment

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/lntorch/lntorch/volume"
)

// ConvertSegmentationToRegionsTransform turns labels into masks, a channel per region; with an
// ignore label that is the last one.
// Source: batchgeneratorsv2 0.2.1, ConvertSegmentationToRegionsTransform.
type ConvertSegmentationToRegionsTransform struct {
	Regions      []Region `json:"regions" need:"true"`
	ChannelInSeg int      `json:"channel_in_seg"`
}

// Region is a set of labels; in JSON a label, or a list of them.
type Region []int

// UnmarshalJSON reads a label or a list of labels.
func (r *Region) UnmarshalJSON(text []byte) error {
	var one int
	if json.Unmarshal(text, &one) == nil {
		*r = Region{one}
		return nil
	}
	return json.Unmarshal(text, (*[]int)(r))
}

// MarshalJSON writes a single label as a number.
func (r Region) MarshalJSON() ([]byte, error) {
	if len(r) == 1 {
		return json.Marshal(r[0])
	}
	return json.Marshal([]int(r))
}

// Name returns ConvertSegmentationToRegionsTransform.
func (ConvertSegmentationToRegionsTransform) Name() string {
	return "ConvertSegmentationToRegionsTransform"
}

// Draw draws nothing.
func (t ConvertSegmentationToRegionsTransform) Draw(*rand.Rand) Parameters { return &t }

// Apply replaces the segmentation by masks.
func (t *ConvertSegmentationToRegionsTransform) Apply(p *Patch) error {
	if p.Seg == nil {
		return nil
	}
	channel, err := t.Source(p.shape())
	if err != nil {
		return err
	}
	shape, n := p.Seg.Shape, len(p.channel(0))
	shape[0] = len(t.Regions)
	masks := p.newSeg(shape)
	seg := p.Seg.Data[channel*n:][:n]
	for r, labels := range t.Regions {
		dst := masks.Data[r*n:][:n]
		for i, v := range seg {
			dst[i] = 0
			if slices.Contains(labels, int(v)) {
				dst[i] = 1
			}
		}
	}
	p.Seg, p.Masks = masks, true
	return nil
}

// Source returns the channel of the segmentation that becomes regions.
func (t *ConvertSegmentationToRegionsTransform) Source(s Shape) (int, error) {
	source, err := s.SegChannel("channel_in_seg", t.ChannelInSeg)
	if s.Seg[0] = len(t.Regions); err == nil && (s.Seg[0] == 0 || volume.Numel(s.Seg) > maxVoxels) {
		err = errors.New("regions: found none or too many, expected at least one and 2^27 voxels at most")
	}
	return source, err
}

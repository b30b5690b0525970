package augment

import (
	"math/rand/v2"
)

// MaskImageTransform sets the image to a value outside of its nonzero region, where the
// segmentation is below 0.
//
// Compat: all channels are masked, not only those of apply_to_channels.
// Source: batchgeneratorsv2 0.2.1, MaskImageTransform.
type MaskImageTransform struct {
	ApplyToChannels []int   `json:"apply_to_channels"`
	ChannelIdxInSeg int     `json:"channel_idx_in_seg"`
	SetOutsideTo    float64 `json:"set_outside_to"`
}

// Name returns MaskImageTransform.
func (MaskImageTransform) Name() string { return "MaskImageTransform" }

// Draw draws nothing.
func (t MaskImageTransform) Draw(*rand.Rand) Parameters { return &t }

// Apply masks the image.
func (t *MaskImageTransform) Apply(p *Patch) error {
	channel, err := p.shape().SegChannel("channel_idx_in_seg", t.ChannelIdxInSeg)
	if err != nil {
		return err
	}
	n := len(p.channel(0))
	seg := p.Seg.Data[channel*n:][:n]
	for c := range p.Image.Shape[0] {
		v := p.channel(c)
		for i, label := range seg {
			if label < 0 {
				v[i] = float32(t.SetOutsideTo)
			}
		}
	}
	return nil
}

package augment

import (
	"math"
	"math/rand/v2"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// ContrastTransform moves the voxels of a channel away from its mean, or towards it.
// Source: batchgeneratorsv2 0.2.1, ContrastTransform.
type ContrastTransform struct {
	ContrastRange       Range   `json:"contrast_range"`
	PreserveRange       bool    `json:"preserve_range"`
	SynchronizeChannels bool    `json:"synchronize_channels"`
	PPerChannel         float64 `json:"p_per_channel"`

	where input
}

// Name returns ContrastTransform.
func (ContrastTransform) Name() string { return "ContrastTransform" }

// Draw draws a coin per channel, and a number for each selected one.
func (t ContrastTransform) Draw(rng *rand.Rand) Parameters {
	_, selected := someChannels(rng, t.where.channels, t.PPerChannel)
	return &ContrastParameters{
		ApplyToChannel: Channels{Index: selected},
		Multipliers:    numbers(rng, t.ContrastRange, len(selected), t.SynchronizeChannels),
		PreserveRange:  t.PreserveRange,
	}
}

// ContrastParameters are the factors of the selected channels.
type ContrastParameters struct {
	ApplyToChannel Channels  `json:"apply_to_channel" need:"true"`
	Multipliers    []float64 `json:"multipliers" need:"true"`
	PreserveRange  bool      `json:"preserve_range"` // clamp to the minimum and maximum of before
}

// Apply computes (x - mean)·factor + mean of each selected channel.
func (c *ContrastParameters) Apply(p *Patch) error {
	channels, err := c.selected(p.Image.Shape[0], &p.scratch().channels)
	if err != nil {
		return err
	}
	for i, k := range channels {
		v := p.channel(k)
		var s vector.Statistics
		s.Add(v)
		mean, _ := s.Moments()
		low, high := float32(math.Inf(-1)), float32(math.Inf(1))
		if c.PreserveRange {
			low, high = s.Range()
		}
		vector.Affine(v, float32(mean), float32(c.Multipliers[i]), float32(mean), low, high)
	}
	return nil
}

func (c *ContrastParameters) selected(n int, into *[]int) ([]int, error) {
	return c.ApplyToChannel.selected(n, into, "multipliers", len(c.Multipliers))
}

// Selected returns the channels that Apply changes.
func (c *ContrastParameters) Selected(s Shape) ([]int, error) {
	return c.selected(s.Image[0], new([]int))
}

package augment

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// GammaTransform raises the intensities of a channel, taken from 0 to 1 over its range, to a power.
// Source: batchgeneratorsv2 0.2.1, GammaTransform.
type GammaTransform struct {
	Gamma               Range   `json:"gamma"`
	PInvertImage        float64 `json:"p_invert_image"`
	SynchronizeChannels bool    `json:"synchronize_channels"`
	PPerChannel         float64 `json:"p_per_channel"`
	PRetainStats        float64 `json:"p_retain_stats"`

	where input
}

// Name returns GammaTransform.
func (GammaTransform) Name() string { return "GammaTransform" }

// Draw draws a coin per channel, and two coins and a number for each selected one.
func (t GammaTransform) Draw(rng *rand.Rand) Parameters {
	_, selected := someChannels(rng, t.where.channels, t.PPerChannel)
	retain, _ := someChannels(rng, len(selected), t.PRetainStats)
	invert, _ := someChannels(rng, len(selected), t.PInvertImage)
	return &GammaParameters{
		ApplyToChannel: Channels{Index: selected},
		RetainStats:    retain,
		InvertImage:    invert,
		Gamma:          numbers(rng, t.Gamma, len(selected), t.SynchronizeChannels),
	}
}

// GammaParameters hold an entry per selected channel.
type GammaParameters struct {
	ApplyToChannel Channels  `json:"apply_to_channel" need:"true"`
	RetainStats    []bool    `json:"retain_stats" need:"true"` // mean and deviation of before
	InvertImage    []bool    `json:"invert_image" need:"true"` // of -x
	Gamma          []float64 `json:"gamma" need:"true"`
}

// Apply changes the selected channels.
func (g *GammaParameters) Apply(p *Patch) error {
	s := p.scratch()
	channels, err := g.selected(p.Image.Shape[0], &s.channels)
	if err != nil {
		return err
	}
	for i, c := range channels {
		gamma(p.channel(c), float32(g.Gamma[i]), g.InvertImage[i], g.RetainStats[i], &s.powers)
	}
	return nil
}

func (g *GammaParameters) selected(n int, into *[]int) ([]int, error) {
	channels, err := g.ApplyToChannel.of(n, into)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(count("retain_stats", len(g.RetainStats), len(channels)),
		count("invert_image", len(g.InvertImage), len(channels)),
		count("gamma", len(g.Gamma), len(channels))); err != nil {
		return nil, err
	}
	for _, v := range g.Gamma {
		if !(v > 0) {
			return nil, fmt.Errorf("gamma: found %v, expected numbers above 0", v)
		}
	}
	return channels, nil
}

// Selected returns the channels that Apply changes.
func (g *GammaParameters) Selected(s Shape) ([]int, error) {
	return g.selected(s.Image[0], new([]int))
}

// smallRange is torch.clamp(…, min=1e-7) of ranges and deviations.
const smallRange = 1e-7

// gammaBlock voxels stay in the cache while they are raised and measured. It is a multiple of 8, as
// Statistics.Add asks for.
const gammaBlock = 4096

func gamma(v []float32, exponent float32, invert, retain bool, powers *vector.Powers) {
	var before, after vector.Statistics
	before.Add(v)
	low, high := before.Range()
	mean, deviation := before.Moments()
	if invert {
		low, high, mean = -high, -low, -mean
	}
	width := high - low
	divisor := max(width, smallRange)
	powers.Set(exponent)
	for rest := v; len(rest) > 0; {
		block := rest[:min(len(rest), gammaBlock)]
		rest = rest[len(block):]
		if invert {
			vector.Scale(block, -1)
		}
		powers.Raise(block, low, divisor, width)
		if retain {
			after.Add(block)
		} else if invert {
			vector.Scale(block, -1)
		}
	}
	if !retain {
		return
	}
	shift, deviationAfter := after.Moments()
	factor := float32(deviation) / max(float32(deviationAfter), smallRange)
	below, above := float32(math.Inf(-1)), float32(math.Inf(1))
	for rest := v; len(rest) > 0; {
		block := rest[:min(len(rest), gammaBlock)]
		rest = rest[len(block):]
		vector.Affine(block, float32(shift), factor, float32(mean), below, above)
		if invert {
			vector.Scale(block, -1)
		}
	}
}

package augment

import (
	"math/rand/v2"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// MultiplicativeBrightnessTransform multiplies channels by a number each.
// Source: batchgeneratorsv2 0.2.1, MultiplicativeBrightnessTransform.
type MultiplicativeBrightnessTransform struct {
	MultiplierRange     Range   `json:"multiplier_range"`
	SynchronizeChannels bool    `json:"synchronize_channels"`
	PPerChannel         float64 `json:"p_per_channel"`

	where input
}

// Name returns MultiplicativeBrightnessTransform.
func (MultiplicativeBrightnessTransform) Name() string { return "MultiplicativeBrightnessTransform" }

// Draw draws a coin per channel, and a number for each selected one.
func (t MultiplicativeBrightnessTransform) Draw(rng *rand.Rand) Parameters {
	_, selected := someChannels(rng, t.where.channels, t.PPerChannel)
	return &MultiplicativeBrightnessParameters{
		ApplyToChannel: Channels{Index: selected},
		Multipliers:    numbers(rng, t.MultiplierRange, len(selected), t.SynchronizeChannels),
	}
}

// MultiplicativeBrightnessParameters are the factors of the selected channels.
type MultiplicativeBrightnessParameters struct {
	ApplyToChannel Channels  `json:"apply_to_channel" need:"true"`
	Multipliers    []float64 `json:"multipliers" need:"true"`
}

// Apply multiplies in float32.
func (m *MultiplicativeBrightnessParameters) Apply(p *Patch) error {
	channels, err := m.selected(p.Image.Shape[0], &p.scratch().channels)
	if err != nil {
		return err
	}
	for i, c := range channels {
		vector.Scale(p.channel(c), float32(m.Multipliers[i]))
	}
	return nil
}

func (m *MultiplicativeBrightnessParameters) selected(n int, into *[]int) ([]int, error) {
	return m.ApplyToChannel.selected(n, into, "multipliers", len(m.Multipliers))
}

// Selected returns the channels that Apply multiplies.
func (m *MultiplicativeBrightnessParameters) Selected(s Shape) ([]int, error) {
	return m.selected(s.Image[0], new([]int))
}

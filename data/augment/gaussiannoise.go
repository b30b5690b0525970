package augment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// GaussianNoiseTransform adds white noise.
//
// Compat: what is called variance is used as standard deviation; with one number for all channels
// they get the same field.
// Source: batchgeneratorsv2 0.2.1, GaussianNoiseTransform.
type GaussianNoiseTransform struct {
	NoiseVariance       Range   `json:"noise_variance"`
	PPerChannel         float64 `json:"p_per_channel"`
	SynchronizeChannels bool    `json:"synchronize_channels"`

	where input
}

// Name returns GaussianNoiseTransform.
func (GaussianNoiseTransform) Name() string { return "GaussianNoiseTransform" }

// Draw draws a coin per channel and the deviations. List.Draw adds the seed of the field.
func (t GaussianNoiseTransform) Draw(rng *rand.Rand) Parameters {
	mask, selected := someChannels(rng, t.where.channels, t.PPerChannel)
	p := &GaussianNoiseParameters{ApplyToChannel: Channels{Mask: mask}}
	if p.Sigmas.One = t.SynchronizeChannels; p.Sigmas.One {
		p.Sigmas.Values = []float64{t.NoiseVariance.Draw(rng)}
		return p
	}
	for range selected {
		p.Sigmas.Values = append(p.Sigmas.Values, t.NoiseVariance.Draw(rng))
	}
	return p
}

// GaussianNoiseParameters are the deviations, and the noise: an array of standard normal numbers
// (1 or selected channels, …), or the seed of a field.
type GaussianNoiseParameters struct {
	ApplyToChannel Channels `json:"apply_to_channel" need:"true"`
	Sigmas         Scalars  `json:"sigmas" need:"true"`
	Noise          string   `json:"noise,omitempty"`      // file, relative to the one that names it
	NoiseSeed      string   `json:"noise_seed,omitempty"` // uint64, decimal

	noise      []float32 // read from the file
	noiseShape []int
}

func (g *GaussianNoiseParameters) seed(s uint64) { g.NoiseSeed = strconv.FormatUint(s, 10) }

// check complains of what can be seen without a patch.
func (g *GaussianNoiseParameters) check() error {
	switch {
	case g.Noise == "" && g.NoiseSeed == "":
		return errors.New("found neither noise nor noise_seed, expected one of them")
	case g.Noise != "" && g.NoiseSeed != "":
		return errors.New("found noise and noise_seed, expected one of them")
	case g.NoiseSeed != "":
		if _, err := strconv.ParseUint(g.NoiseSeed, 10, 64); err != nil {
			return fmt.Errorf("noise_seed: found %.40q, expected an integer from 0 to 2^64-1 as text",
				g.NoiseSeed)
		}
	}
	for _, s := range g.Sigmas.Values {
		if s < 0 {
			return fmt.Errorf("sigmas: found %v, expected none below 0", s)
		}
	}
	return nil
}

// Apply adds sigma times the noise.
func (g *GaussianNoiseParameters) Apply(p *Patch) error {
	s := p.scratch()
	channels, err := g.selected(p.shape(), &s.channels)
	if err != nil || len(channels) == 0 {
		return err
	}
	var seed uint64
	if g.Noise == "" {
		seed, _ = strconv.ParseUint(g.NoiseSeed, 10, 64)
	}
	n := p.Image.Shape[1] * p.Image.Shape[2] * p.Image.Shape[3]
	block := grown(&s.field, min(n, noiseBlock))
	for from := 0; from < n; from += len(block) {
		to := min(from+len(block), n)
		noise := block[:to-from]
		for i, c := range channels {
			field := i // all channels share field 0 where they share sigma
			if g.Sigmas.One {
				field = 0
			}
			switch at := field*n + from; {
			case g.Noise != "":
				noise = g.noise[at:][:to-from]
			case i == 0 || !g.Sigmas.One:
				fillField(noise, seed, at)
			}
			vector.Axpy(p.channel(c)[from:to], noise, float32(g.Sigmas.Values[field]))
		}
	}
	return nil
}

// noiseBlock numbers stay in the cache between being made and being added.
const noiseBlock = 4096

func (g *GaussianNoiseParameters) selected(s Shape, into *[]int) ([]int, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	channels, err := g.ApplyToChannel.of(s.Image[0], into)
	if err != nil {
		return nil, err
	}
	if !g.Sigmas.One {
		err = count("sigmas", len(g.Sigmas.Values), len(channels))
	}
	if err == nil && g.Noise != "" && len(channels) > 0 {
		err = g.checkNoise(s)
	}
	return channels, err
}

// checkNoise compares the shape of the noise from a file with that of the patch.
func (g *GaussianNoiseParameters) checkNoise(s Shape) error {
	axes := s.axes()
	if len(g.noiseShape) == 0 || g.noiseShape[0] != len(g.Sigmas.Values) ||
		!slices.Equal(g.noiseShape[1:], axes) {
		return fmt.Errorf("noise: %s: found shape %v, expected %d channels of %v", g.Noise,
			g.noiseShape, len(g.Sigmas.Values), axes)
	}
	return nil
}

// Selected returns the channels that get noise.
func (g *GaussianNoiseParameters) Selected(s Shape) ([]int, error) {
	return g.selected(s, new([]int))
}

// Field returns the noise of a patch, (fields, z, y, x): one field for all channels where they share
// sigma, or one for each selected channel; nil where there is none.
func (g *GaussianNoiseParameters) Field(s Shape) ([]float32, error) {
	channels, err := g.Selected(s)
	if err != nil || len(channels) == 0 {
		return nil, err
	}
	if g.Noise != "" {
		return g.noise, nil
	}
	return g.field(s.Image[1] * s.Image[2] * s.Image[3])
}

// field makes the noise of a seed, for patches of so many voxels.
func (g *GaussianNoiseParameters) field(voxels int) ([]float32, error) {
	seed, err := strconv.ParseUint(g.NoiseSeed, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("noise_seed: %w", err)
	}
	field := make([]float32, len(g.Sigmas.Values)*voxels)
	fillField(field, seed, 0)
	return field, nil
}

// SetNoise gives the parameters the array that Noise names: standard normal numbers, of shape
// (1 or selected channels, …).
func (g *GaussianNoiseParameters) SetNoise(shape []int, values []float32) {
	g.noiseShape, g.noise = shape, values
}

package augment

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
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
	channels, err := g.ApplyToChannel.of(p.Image.Shape[0], &s.channels)
	if err != nil {
		return err
	}
	if err := errors.Join(count("retain_stats", len(g.RetainStats), len(channels)),
		count("invert_image", len(g.InvertImage), len(channels)),
		count("gamma", len(g.Gamma), len(channels))); err != nil {
		return err
	}
	for i, c := range channels {
		if !(g.Gamma[i] > 0) {
			return fmt.Errorf("gamma: found %v, expected numbers above 0", g.Gamma[i])
		}
		v := p.channel(c)
		if g.InvertImage[i] {
			negate(v)
		}
		gamma(v, float32(g.Gamma[i]), g.RetainStats[i], s)
		if g.InvertImage[i] {
			negate(v)
		}
	}
	return nil
}

func negate(v []float32) {
	for i := range v {
		v[i] = -v[i]
	}
}

// smallRange is torch.clamp(…, min=1e-7) of ranges and deviations.
const smallRange = 1e-7

func gamma(v []float32, exponent float32, retain bool, s *Scratch) {
	before := measure(v)
	low, width := before.low, before.high-before.low
	divisor := max(width, smallRange)
	if exponent >= 0.4 && exponent <= 2.5 {
		table := powers(grown(&s.table, powersLength), exponent)
		for i, x := range v {
			v[i] = float32(power(table, (x-low)/divisor, exponent)*width) + low
		}
	} else { // the table is too coarse for other powers
		for i, x := range v {
			u := math.Pow(float64((x-low)/divisor), float64(exponent))
			v[i] = float32(float32(u)*width) + low
		}
	}
	if !retain {
		return
	}
	after := measure(v)
	shift, mean := float32(after.mean), float32(before.mean)
	factor := float32(before.deviation) / max(float32(after.deviation), smallRange)
	for i, x := range v {
		v[i] = float32((x-shift)*factor) + mean
	}
}

// A table of u^g for u from 2^-powersOctaves to 1 has 2^powersBits cells per octave; within one u^g
// is taken as linear, which is 5e-7 off at most for the powers it is used for.
const (
	powersBits    = 8
	powersOctaves = 24
	powersShift   = 23 - powersBits
	powersFirst   = (127 - powersOctaves) << powersBits // index of the first cell
	powersLength  = powersOctaves<<powersBits + 2
)

func powers(table []float32, exponent float32) []float32 {
	g := float64(exponent)
	const cells = 1 << powersBits
	for i := range cells {
		top := math.Pow((1+float64(i)/cells)/2, g) // in the octave below 1
		down := math.Exp2(-g)
		for octave := powersOctaves - 1; octave >= 0; octave-- {
			table[octave*cells+i] = float32(top)
			top *= down
		}
	}
	table[powersOctaves*cells], table[powersOctaves*cells+1] = 1, 1
	return table
}

// power returns u^exponent for u from 0 to 1.
func power(table []float32, u, exponent float32) float32 {
	bits := math.Float32bits(u)
	cell := int(bits>>powersShift) - powersFirst
	if uint(cell) >= uint(len(table)-1) {
		return float32(math.Pow(float64(u), float64(exponent)))
	}
	a, b := table[cell], table[cell+1]
	return a + float32((b-a)*float32(bits&(1<<powersShift-1))*(1.0/(1<<powersShift)))
}

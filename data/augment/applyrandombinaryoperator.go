package augment

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// ApplyRandomBinaryOperatorTransform dilates, erodes, closes or opens channels that hold 0 and 1 with
// a ball. What a channel wins is taken from the other ones.
// Source: batchgeneratorsv2 0.2.1, ApplyRandomBinaryOperatorTransform.
type ApplyRandomBinaryOperatorTransform struct {
	ChannelIdx []int    `json:"channel_idx" need:"true"`
	AnyOfThese []string `json:"any_of_these"`
	StrelSize  Range    `json:"strel_size"` // radius, voxels
	PPerLabel  float64  `json:"p_per_label"`
}

// binaryOperators are the operators by the names of batchgeneratorsv2's functions.
var binaryOperators = []string{"binary_dilation_torch", "binary_erosion_torch",
	"binary_closing_torch", "binary_opening_torch"}

// Name returns ApplyRandomBinaryOperatorTransform.
func (ApplyRandomBinaryOperatorTransform) Name() string { return "ApplyRandomBinaryOperatorTransform" }

// shuffled draws an order of the channels, and which of them are selected.
func shuffled(rng *rand.Rand, channels []int, p float64) (order, selected []int) {
	order, selected = slices.Clone(channels), []int{}
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, c := range order {
		if rng.Float64() < p {
			selected = append(selected, c)
		}
	}
	return order, selected
}

// Draw draws the order of the channels, and an operator and a radius for each selected one.
func (t ApplyRandomBinaryOperatorTransform) Draw(rng *rand.Rand) Parameters {
	p := &ApplyRandomBinaryOperatorParameters{}
	p.ChannelIdx, p.ApplyToChannels = shuffled(rng, t.ChannelIdx, t.PPerLabel)
	p.Operators, p.StrelSize = []string{}, []float64{}
	for range p.ApplyToChannels {
		p.Operators = append(p.Operators, t.AnyOfThese[rng.IntN(len(t.AnyOfThese))])
	}
	for range p.ApplyToChannels {
		p.StrelSize = append(p.StrelSize, t.StrelSize.Draw(rng))
	}
	return p
}

// check complains of operators that there are not.
func (t ApplyRandomBinaryOperatorTransform) check(in input) error {
	if len(t.AnyOfThese) == 0 {
		return errors.New("any_of_these: found no operator, expected at least one")
	}
	for _, o := range t.AnyOfThese {
		if err := knownOperator("any_of_these", o); err != nil {
			return err
		}
	}
	if !(t.StrelSize.Low > 0) || t.StrelSize.High > maxRadius {
		return fmt.Errorf("strel_size: found %v to %v, expected numbers above 0, up to %d",
			t.StrelSize.Low, t.StrelSize.High, maxRadius)
	}
	return cascadeChannels(t.ChannelIdx, in)
}

// cascadeChannels complains of channels that the patch does not have.
func cascadeChannels(channels []int, in input) error {
	for _, c := range channels {
		if _, err := channelOf("channel_idx", c, in.channels); err != nil {
			return err
		}
	}
	return nil
}

func knownOperator(key, name string) error {
	if slices.Contains(binaryOperators, name) {
		return nil
	}
	return fmt.Errorf("%s: found %.60q, expected %v%s", key, name, binaryOperators,
		didYouMean(name, binaryOperators))
}

// ApplyRandomBinaryOperatorParameters hold an operator and a radius for each of apply_to_channels,
// which are worked on in that order.
type ApplyRandomBinaryOperatorParameters struct {
	ChannelIdx      []int     `json:"channel_idx" need:"true"`
	ApplyToChannels []int     `json:"apply_to_channels" need:"true"`
	Operators       []string  `json:"operators" need:"true"`
	StrelSize       []float64 `json:"strel_size" need:"true"`
}

// maxRadius bounds the ball.
const maxRadius = 1000

// Apply works on one channel after the other.
func (a *ApplyRandomBinaryOperatorParameters) Apply(p *Patch) error {
	channels := p.Image.Shape[0]
	if err := a.fit(channels); err != nil {
		return err
	}
	s := p.scratch()
	in := p.Image.Spatial()
	for i, c := range a.ApplyToChannels {
		channel := fromStart(c, channels)
		m := newMorphology(s, in, p.Dim, a.StrelSize[i])
		v := p.channel(channel)
		m.read(v)
		switch a.Operators[i] {
		case "binary_dilation_torch":
			m.dilate()
		case "binary_erosion_torch":
			m.erode()
		case "binary_closing_torch":
			m.dilate()
			m.erode()
		case "binary_opening_torch":
			m.erode()
			m.dilate()
		}
		for _, c := range a.ChannelIdx {
			if o := fromStart(c, channels); o != channel {
				m.won(v, p.channel(o))
			}
		}
		m.write(v)
	}
	return nil
}

// fit complains of what does not fit an image of so many channels.
func (a *ApplyRandomBinaryOperatorParameters) fit(channels int) error {
	n := len(a.ApplyToChannels)
	if len(a.Operators) != n || len(a.StrelSize) != n {
		return fmt.Errorf("operators and strel_size: found %d and %d values, expected %d, one for each "+
			"of apply_to_channels", len(a.Operators), len(a.StrelSize), n)
	}
	for _, c := range a.ChannelIdx {
		if _, err := channelOf("channel_idx", c, channels); err != nil {
			return err
		}
	}
	for i, c := range a.ApplyToChannels {
		if _, err := channelOf("apply_to_channels", c, channels); err != nil {
			return err
		}
		if err := knownOperator("operators", a.Operators[i]); err != nil {
			return err
		}
		if r := a.StrelSize[i]; !(r > 0) || r > maxRadius {
			return fmt.Errorf("strel_size: found %v, expected numbers above 0, up to %d", r, maxRadius)
		}
	}
	return nil
}

// BinaryOperation is one channel's part of an ApplyRandomBinaryOperatorTransform.
type BinaryOperation struct {
	Channel int
	Others  []int  // lose what the channel wins
	Dilate  []bool // dilations and erosions, in order
	Ball    []Run
}

// Operations returns what Apply does, in order.
func (a *ApplyRandomBinaryOperatorParameters) Operations(s Shape) (list []BinaryOperation, err error) {
	channels := s.Image[0]
	if err := a.fit(channels); err != nil {
		return nil, err
	}
	for i, c := range a.ApplyToChannels {
		o := BinaryOperation{Channel: fromStart(c, channels), Ball: footprint(nil, s.Dim, a.StrelSize[i])}
		switch a.Operators[i] {
		case "binary_dilation_torch":
			o.Dilate = []bool{true}
		case "binary_erosion_torch":
			o.Dilate = []bool{false}
		case "binary_closing_torch":
			o.Dilate = []bool{true, false}
		case "binary_opening_torch":
			o.Dilate = []bool{false, true}
		}
		for _, c := range a.ChannelIdx {
			if other := fromStart(c, channels); other != o.Channel {
				o.Others = append(o.Others, other)
			}
		}
		list = append(list, o)
	}
	return list, nil
}

// Run is one row of a footprint: the voxels from first to last, relative to the centre.
type Run struct{ Z, Y, First, Last int }

// footprint writes the rows of a ball (or disk) of real radius.
//
// Compat: a ball has n = int(2r+1) points per axis, a disk n = ceil(2r+1) at distances of 1; with an
// even n they are lopsided, and rounding may lose the far tip.
// Source: scikit-image 0.26, ball over numpy's mgrid, disk over numpy's arange.
func footprint(rows []Run, dim int, r float64) []Run {
	n, start, step := int(2*r+1), -r, 1.0
	if dim == 2 {
		n = int(math.Ceil(r + 1 - start))
		step = (start + 1) - start // as numpy.arange has it, not exactly 1
	} else if n > 1 {
		step = (r - start) / float64(n-1)
	}
	square := func(i int) float64 {
		at := float64(float64(i)*step) + start
		return float64(at * at)
	}
	before := (n - 1) / 2
	depth, z0 := n, before
	if dim == 2 {
		depth, z0 = 1, 0
	}
	for k := range depth {
		z := 0.0
		if dim == 3 {
			z = square(k)
		}
		for j := range n {
			y := square(j)
			one := Run{Z: k - z0, Y: j - before, First: 1, Last: 0}
			for i := range n {
				if square(i)+y+z <= float64(r*r) {
					if one.First > one.Last {
						one.First = i - before
					}
					one.Last = i - before
				}
			}
			if one.First <= one.Last {
				rows = append(rows, one)
			}
		}
	}
	return rows
}

// morphology holds a mask as bits, a row of words for each row of voxels.
type morphology struct {
	size  [3]int
	words int // per row
	mask  []uint64
	other []uint64
	row   []uint64 // one row, dilated along x
	rows  []Run
}

func newMorphology(s *Scratch, size [3]int, dim int, r float64) morphology {
	m := morphology{size: size, words: (size[2] + 63) / 64}
	n := size[0] * size[1] * m.words
	m.mask, m.other = grown(&s.bits[0], n), grown(&s.bits[1], n)
	m.row = grown(&s.bits[2], m.words)
	s.footprint = footprint(s.footprint[:0], dim, r)
	// rows of one extent beside each other: a row of the mask is then dilated once for all of them
	slices.SortFunc(s.footprint, func(a, b Run) int {
		if a.First != b.First {
			return a.First - b.First
		}
		return a.Last - b.Last
	})
	m.rows = s.footprint
	return m
}

func (m *morphology) read(v []float32) {
	clear(m.mask)
	x := m.size[2]
	for row := range m.size[0] * m.size[1] {
		words := m.mask[row*m.words:][:m.words]
		for i, value := range v[row*x:][:x] {
			if value != 0 {
				words[i/64] |= 1 << (i % 64)
			}
		}
	}
}

func (m *morphology) write(v []float32) {
	x := m.size[2]
	for row := range m.size[0] * m.size[1] {
		words := m.mask[row*m.words:][:m.words]
		for i := range x {
			v[row*x+i] = float32(words[i/64] >> (i % 64) & 1)
		}
	}
}

// won clears in other what the mask has and v had not.
func (m *morphology) won(v, other []float32) {
	x := m.size[2]
	for row := range m.size[0] * m.size[1] {
		words := m.mask[row*m.words:][:m.words]
		for w, word := range words {
			for ; word != 0; word &= word - 1 {
				if i := row*x + w*64 + bits.TrailingZeros64(word); v[i] == 0 {
					other[i] = 0
				}
			}
		}
	}
}

func (m *morphology) invert() {
	last := ^uint64(0) >> (uint(-m.size[2]) % 64)
	for i := range m.mask {
		m.mask[i] = ^m.mask[i]
		if i%m.words == m.words-1 {
			m.mask[i] &= last
		}
	}
}

// erode counts what lies outside as 1.
func (m *morphology) erode() {
	m.invert()
	m.dilate()
	m.invert()
}

// dilate: a voxel is set where the footprint around it meets the mask; outside is 0.
func (m *morphology) dilate() {
	clear(m.other)
	last := ^uint64(0) >> (uint(-m.size[2]) % 64)
	for z := range m.size[0] {
		for y := range m.size[1] {
			src := m.mask[(z*m.size[1]+y)*m.words:][:m.words]
			if isClear(src) {
				continue
			}
			var done Run
			for i, f := range m.rows {
				if i == 0 || f.First != done.First || f.Last != done.Last {
					clear(m.row)
					// output i looks at i+first … i+last
					for shift := max(f.First, 1-m.size[2]); shift <= min(f.Last, m.size[2]-1); shift++ {
						orShifted(m.row, src, -shift)
					}
					m.row[m.words-1] &= last
					done = f
				}
				oz, oy := z-f.Z, y-f.Y
				if oz < 0 || oz >= m.size[0] || oy < 0 || oy >= m.size[1] {
					continue
				}
				dst := m.other[(oz*m.size[1]+oy)*m.words:][:m.words]
				for w, word := range m.row {
					dst[w] |= word
				}
			}
		}
	}
	m.mask, m.other = m.other, m.mask
}

func isClear(words []uint64) bool {
	for _, w := range words {
		if w != 0 {
			return false
		}
	}
	return true
}

// orShifted sets in dst the bits of src, moved up by shift.
func orShifted(dst, src []uint64, shift int) {
	if shift >= 0 {
		whole, part := shift/64, uint(shift%64)
		for w := whole; w < len(dst); w++ {
			v := src[w-whole] << part
			if part > 0 && w > whole {
				v |= src[w-whole-1] >> (64 - part)
			}
			dst[w] |= v
		}
		return
	}
	whole, part := -shift/64, uint(-shift%64)
	for w := 0; w+whole < len(src); w++ {
		v := src[w+whole] >> part
		if part > 0 && w+whole+1 < len(src) {
			v |= src[w+whole+1] << (64 - part)
		}
		dst[w] |= v
	}
}

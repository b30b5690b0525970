package augment

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
)

// Range is what numbers are drawn from: one number, uniform between two, or batchgeneratorsv2's
// BGContrast. In JSON: a, [a,b], {"BGContrast":[a,b]}.
type Range struct {
	Low, High float64
	Contrast  bool
}

// Draw returns one number.
func (r Range) Draw(rng *rand.Rand) float64 {
	low, high := r.Low, r.High
	if r.Contrast {
		if rng.Float64() < 0.5 && low < 1 {
			high = 1
		} else {
			low = max(low, 1)
		}
	}
	if low == high {
		return low
	}
	return low + float64((high-low)*rng.Float64())
}

// MarshalJSON writes the range as it is read.
func (r Range) MarshalJSON() ([]byte, error) {
	switch pair := []float64{r.Low, r.High}; {
	case r.Contrast:
		return json.Marshal(map[string][]float64{"BGContrast": pair})
	case r.Low == r.High:
		return json.Marshal(r.Low)
	default:
		return json.Marshal(pair)
	}
}

var errRange = errors.New("no range")

// UnmarshalJSON reads one of the three forms.
func (r *Range) UnmarshalJSON(text []byte) error {
	var one float64
	if json.Unmarshal(text, &one) == nil {
		*r = Range{Low: one, High: one}
		return nil
	}
	pair := text
	var object map[string]json.RawMessage
	if json.Unmarshal(text, &object) == nil {
		if pair = object["BGContrast"]; len(object) != 1 || pair == nil {
			return errRange
		}
	}
	var ends []float64
	if json.Unmarshal(pair, &ends) != nil || len(ends) != 2 || ends[0] > ends[1] {
		return errRange
	}
	*r = Range{Low: ends[0], High: ends[1], Contrast: object != nil}
	return nil
}

func (Range) expected() string {
	return `a number, [a,b] with a not above b, or {"BGContrast":[a,b]}`
}

// Channels selects channels: a mask of all of them, or a list of indices, negative ones counted from
// the end.
type Channels struct {
	Mask  []bool // nil: Index
	Index []int
}

// MarshalJSON writes the mask or the indices.
func (c Channels) MarshalJSON() ([]byte, error) {
	if c.Mask != nil {
		return json.Marshal(c.Mask)
	}
	if c.Index == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(c.Index)
}

// UnmarshalJSON reads a mask or indices.
func (c *Channels) UnmarshalJSON(text []byte) error {
	*c = Channels{}
	if json.Unmarshal(text, &c.Index) == nil {
		return nil
	}
	*c = Channels{}
	return json.Unmarshal(text, &c.Mask)
}

func (Channels) expected() string { return "a list of true and false, or of indices of channels" }

// of writes the selected ones of n channels to into.
func (c Channels) of(n int, into *[]int) ([]int, error) {
	out := (*into)[:0]
	if c.Mask != nil {
		if len(c.Mask) != n {
			return nil, fmt.Errorf("apply_to_channel: found a mask of %d channels, expected %d as in "+
				"the image", len(c.Mask), n)
		}
		for i, on := range c.Mask {
			if on {
				out = append(out, i)
			}
		}
	}
	for _, i := range c.Index {
		channel, err := channelOf("apply_to_channel", i, n)
		if err != nil {
			return nil, err
		}
		out = append(out, channel)
	}
	*into = out
	return out, nil
}

// selected is of, and complains of a list that has not one entry per selected channel.
func (c Channels) selected(n int, into *[]int, key string, entries int) ([]int, error) {
	channels, err := c.of(n, into)
	if err == nil {
		err = count(key, entries, len(channels))
	}
	return channels, err
}

// channelOf resolves an index that may be negative.
func channelOf(key string, i, n int) (int, error) {
	if i < -n || i >= n {
		return 0, fmt.Errorf("%s: found channel %d, expected %d to %d", key, i, -n, n-1)
	}
	return fromStart(i, n), nil
}

// fromStart counts an index, negative from the end, of n channels.
func fromStart(i, n int) int {
	if i < 0 {
		i += n
	}
	return i
}

// Scalars is one number for all, or a list of them.
type Scalars struct {
	One    bool
	Values []float64
}

// MarshalJSON writes the number or the list.
func (s Scalars) MarshalJSON() ([]byte, error) {
	if s.One {
		return json.Marshal(s.Values[0])
	}
	if s.Values == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(s.Values)
}

// UnmarshalJSON reads a number or a list.
func (s *Scalars) UnmarshalJSON(text []byte) error {
	var one float64
	if json.Unmarshal(text, &one) == nil {
		*s = Scalars{One: true, Values: []float64{one}}
		return nil
	}
	*s = Scalars{}
	return json.Unmarshal(text, &s.Values)
}

func (Scalars) expected() string { return "a number or a list of numbers" }

// float32Of rounds to what batchgeneratorsv2 keeps as float32.
func float32Of(v float64) float64 { return float64(float32(v)) }

// someChannels draws a coin for each of n channels.
func someChannels(rng *rand.Rand, n int, p float64) (mask []bool, selected []int) {
	mask, selected = make([]bool, n), []int{}
	for c := range mask {
		if mask[c] = rng.Float64() < p; mask[c] {
			selected = append(selected, c)
		}
	}
	return mask, selected
}

// numbers draws one number for each of n channels, or one for all, rounded to float32.
func numbers(rng *rand.Rand, r Range, n int, synchronize bool) []float64 {
	out := make([]float64, n)
	for i := range out {
		if i > 0 && synchronize {
			out[i] = out[0]
			continue
		}
		out[i] = float32Of(r.Draw(rng))
	}
	return out
}

// count complains of a list that has not one entry per selected channel.
func count(key string, found, channels int) error {
	if found == channels {
		return nil
	}
	return fmt.Errorf("%s: found %d values, expected %d, one per selected channel", key, found,
		channels)
}

// channel returns the voxels of a channel of the image.
func (p *Patch) channel(c int) []float32 {
	n := p.Image.Shape[1] * p.Image.Shape[2] * p.Image.Shape[3]
	return p.Image.Data[c*n:][:n]
}

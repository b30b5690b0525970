package augment

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// RemoveRandomConnectedComponentFromOneHotEncodingTransform clears a connected component of channels
// that hold 0 and 1.
// Source: batchgeneratorsv2 0.2.1, RemoveRandomConnectedComponentFromOneHotEncodingTransform.
type RemoveRandomConnectedComponentFromOneHotEncodingTransform struct {
	ChannelIdx          []int   `json:"channel_idx" need:"true"`
	FillWithOtherClassP float64 `json:"fill_with_other_class_p"`
	DontDoIfCoversMore  float64 `json:"dont_do_if_covers_more_than_x_percent"`
	PPerLabel           float64 `json:"p_per_label"`
}

// Name returns RemoveRandomConnectedComponentFromOneHotEncodingTransform.
func (RemoveRandomConnectedComponentFromOneHotEncodingTransform) Name() string {
	return "RemoveRandomConnectedComponentFromOneHotEncodingTransform"
}

// Draw draws the order of the channels, and a number from 0 to 1 for each selected one.
//
// Differs: the reference draws the component while it applies the transform.
func (t RemoveRandomConnectedComponentFromOneHotEncodingTransform) Draw(rng *rand.Rand) Parameters {
	p := &RemoveRandomConnectedComponentFromOneHotEncodingParameters{
		RandomComponent: []float64{}, DontDoIfCoversMore: t.DontDoIfCoversMore}
	p.ChannelIdx, p.ApplyToChannels = shuffled(rng, t.ChannelIdx, t.PPerLabel)
	for range p.ApplyToChannels {
		p.RandomComponent = append(p.RandomComponent, rng.Float64())
	}
	return p
}

// check complains of what is not built.
func (t RemoveRandomConnectedComponentFromOneHotEncodingTransform) check(in input) error {
	if t.FillWithOtherClassP != 0 {
		return fmt.Errorf("fill_with_other_class_p: found %v, expected 0: filling is not built",
			t.FillWithOtherClassP)
	}
	return cascadeChannels(t.ChannelIdx, in)
}

// RemoveRandomConnectedComponentFromOneHotEncodingParameters hold a number u in [0,1) for each of
// apply_to_channels: of the n components that are small enough, in the order of their first voxels
// in memory, number floor(u·n) goes.
type RemoveRandomConnectedComponentFromOneHotEncodingParameters struct {
	ChannelIdx         []int     `json:"channel_idx" need:"true"`
	ApplyToChannels    []int     `json:"apply_to_channels" need:"true"`
	RandomComponent    []float64 `json:"random_component" need:"true"`
	DontDoIfCoversMore float64   `json:"dont_do_if_covers_more_than_x_percent"` // fraction of the patch
}

// Apply clears the components. Neighbours touch by a face, an edge or a corner.
func (r *RemoveRandomConnectedComponentFromOneHotEncodingParameters) Apply(p *Patch) error {
	if len(r.RandomComponent) != len(r.ApplyToChannels) {
		return fmt.Errorf("random_component: found %d values, expected %d, one for each of "+
			"apply_to_channels", len(r.RandomComponent), len(r.ApplyToChannels))
	}
	for _, c := range r.ChannelIdx {
		if _, err := channelOf("channel_idx", c, p.Image.Shape[0]); err != nil {
			return err
		}
	}
	s := p.scratch()
	for i, c := range r.ApplyToChannels {
		channel, err := channelOf("apply_to_channels", c, p.Image.Shape[0])
		if err != nil {
			return err
		}
		u := r.RandomComponent[i]
		if !(u >= 0 && u < 1) {
			return fmt.Errorf("random_component: found %v, expected numbers from 0, below 1", u)
		}
		v := p.channel(channel)
		component, sizes := components(v, p.Image.Spatial(), s)
		limit := float64(len(v)) * r.DontDoIfCoversMore
		small := 0
		for _, n := range sizes {
			if float64(n) < limit {
				small++
			}
		}
		chosen := int(u * float64(small))
		if small == 0 {
			continue
		}
		at := slices.IndexFunc(sizes, func(n int32) bool {
			if float64(n) < limit {
				chosen--
			}
			return chosen < 0
		})
		for k, of := range component {
			if of == int32(at)+1 {
				v[k] = 0
			}
		}
	}
	return nil
}

// components numbers the connected components of v from 1 on, in the order of their first voxels,
// and counts their voxels.
func components(v []float32, size [3]int, s *Scratch) (component, sizes []int32) {
	component, sizes = grown(&s.component, len(v)), s.sizes[:0]
	clear(component)
	stack := s.stack[:0]
	for first, value := range v {
		if value == 0 || component[first] != 0 {
			continue
		}
		number, count := int32(len(sizes)+1), int32(0)
		component[first] = number
		stack = append(stack, int32(first))
		for len(stack) > 0 {
			at := int(stack[len(stack)-1])
			stack = stack[:len(stack)-1]
			count++
			x, y, z := at%size[2], at/size[2]%size[1], at/size[2]/size[1]
			for k := max(z-1, 0); k <= min(z+1, size[0]-1); k++ {
				for j := max(y-1, 0); j <= min(y+1, size[1]-1); j++ {
					for i := max(x-1, 0); i <= min(x+1, size[2]-1); i++ {
						to := (k*size[1]+j)*size[2] + i
						if v[to] != 0 && component[to] == 0 {
							component[to] = number
							stack = append(stack, int32(to))
						}
					}
				}
			}
		}
		sizes = append(sizes, count)
	}
	s.stack, s.sizes = stack, sizes
	return component, sizes
}

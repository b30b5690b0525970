package ondevice

import (
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// Sample is what the loader hands over. It is not modified. A loader does the first Drawn.CutsOut steps itself, so that without an affine
// no more than the final patch is read and uploaded.
type Sample struct {
	Image *volume.Volume[float32]
	Seg   *volume.Volume[int16]
	Dim   int           // spatial axes, 2 or 3
	Drawn augment.Drawn // what is still to be done; workers make its noise: Drawn.WithNoise
}

// Batch uploads samples, applies to each what was drawn for it, and stacks them: the image
// (n, c, …) float32, and the targets, highest resolution first, (n, 1, …) int16 or, of regions,
// (n, regions, …) uint8. They live in s. All samples must come out in one shape. Nothing waits for
// the device, but for what the package names. Samples may lie in memory of from, which may be nil;
// that must keep its values until the thread's current stream has passed. Other memory may be used
// again when Batch returns.
func Batch(s *torch.Scope, d torch.Device, from *torch.Staging, samples []Sample) (
	image *torch.Tensor, targets []*torch.Tensor, err error) {
	for i, sample := range samples {
		err := s.With(func(c *torch.Scope) error {
			p := Upload(c, d, from, sample.Image, sample.Seg, sample.Dim)
			if c.Err() != nil {
				return c.Err()
			}
			if err := Apply(c, sample.Drawn, p); err != nil {
				return err
			}
			parts := slices.Concat([]*torch.Tensor{p.Image}, p.Targets)
			if p.Targets == nil && p.Seg != nil {
				parts = append(parts, p.Seg)
			}
			if i == 0 {
				image, targets = batchTensors(c, parts, p.Masks, len(samples))
			}
			if c.Err() != nil {
				return c.Err()
			}
			return p.put(c, i, parts, slices.Concat([]*torch.Tensor{image}, targets))
		})
		if err != nil {
			return nil, nil, fmt.Errorf("sample %d of the batch: %w", i, err)
		}
	}
	return image, targets, nil
}

// batchTensors makes the tensors of a batch of n like the parts of a sample, in c's parent.
func batchTensors(c *torch.Scope, parts []*torch.Tensor, masks bool, n int) (image *torch.Tensor,
	targets []*torch.Tensor) {
	for k, t := range parts {
		dtype := torch.Int16
		switch {
		case k == 0:
			dtype = torch.Float32
		case masks:
			dtype = torch.Uint8
		}
		whole := c.Keep(c.Empty(slices.Concat([]int64{int64(n)}, t.Shape()), dtype, t.Device()))
		if k == 0 {
			image = whole
		} else {
			targets = append(targets, whole)
		}
	}
	return image, targets
}

// put copies the parts of sample i to the batch.
func (p *Patch) put(c *torch.Scope, i int, parts, batch []*torch.Tensor) error {
	for k, t := range parts {
		if len(parts) != len(batch) || !slices.Equal(t.Shape(), batch[k].Shape()[1:]) {
			return fmt.Errorf("found %v and %d targets, expected the shapes of the first sample",
				t.Shape(), len(parts)-1)
		}
		c.Copy_(c.Select(batch[k], 0, int64(i)), t, true)
	}
	return c.Err()
}

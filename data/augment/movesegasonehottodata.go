package augment

import (
	"errors"
	"math/rand/v2"

	"github.com/lntorch/lntorch/volume"
)

// MoveSegAsOneHotToDataTransform turns a channel of the segmentation, the prediction of a cascade's
// previous stage, into channels of the image, one per label.
// Source: batchgeneratorsv2 0.2.1, MoveSegAsOneHotToDataTransform.
type MoveSegAsOneHotToDataTransform struct {
	SourceChannelIdx int     `json:"source_channel_idx" need:"true"`
	AllLabels        []int16 `json:"all_labels" need:"true"`
}

// Name returns MoveSegAsOneHotToDataTransform.
func (MoveSegAsOneHotToDataTransform) Name() string { return "MoveSegAsOneHotToDataTransform" }

// Draw draws nothing.
func (t MoveSegAsOneHotToDataTransform) Draw(*rand.Rand) Parameters { return &t }

// Apply appends the channels to the image and removes theirs from the segmentation.
func (t *MoveSegAsOneHotToDataTransform) Apply(p *Patch) error {
	source, err := t.Source(p.shape())
	if err != nil {
		return err
	}
	shape, n := p.Image.Shape, len(p.channel(0))
	shape[0] += len(t.AllLabels)
	image := p.newImage(shape)
	at := copy(image.Data, p.Image.Data)
	seg := p.Seg.Data[source*n:][:n]
	for _, label := range t.AllLabels {
		dst := image.Data[at:][:n]
		for i, v := range seg {
			dst[i] = 0
			if v == label {
				dst[i] = 1
			}
		}
		at += n
	}
	p.Image = image
	shape = p.Seg.Shape
	shape[0]--
	rest := p.newSeg(shape)
	copy(rest.Data, p.Seg.Data[:source*n])
	copy(rest.Data[source*n:], p.Seg.Data[(source+1)*n:])
	p.Seg = rest
	return nil
}

// Source returns the channel of the segmentation that moves.
func (t *MoveSegAsOneHotToDataTransform) Source(s Shape) (int, error) {
	source, err := s.SegChannel("source_channel_idx", t.SourceChannelIdx)
	if s.Image[0] += len(t.AllLabels); err == nil && volume.Numel(s.Image) > maxVoxels {
		err = errors.New("all_labels: the image would have more than 2^27 voxels")
	}
	return source, err
}

package train

import (
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train/ondevice"
)

// uploader turns batches into tensors on the training's device. On CUDA it copies through pinned buffers that it keeps, so
// that the copy need not wait; on the CPU it copies once, since loaders use their memory again.
type uploader struct {
	device torch.Device
	scope  *torch.Scope
	pinned map[int]*torch.Tensor // by place in the batch, 0 the image, 1… the targets; batches alternate between two sets
	batch  int
}

func newUploader(d torch.Device) *uploader {
	return &uploader{device: d, pinned: map[int]*torch.Tensor{}}
}

func (u *uploader) close() {
	if u != nil && u.scope != nil {
		u.scope.Close()
	}
}

// upload: image (n, c, …) float32; targets int16 (n, 1, …), or uint8 (n, regions, …). Crops become
// that on the device.
func (u *uploader) upload(s *torch.Scope, b *loader.Batch) (*torch.Tensor, []*torch.Tensor, error) {
	if b.Crops != nil {
		samples := make([]ondevice.Sample, len(b.Crops))
		for i, c := range b.Crops {
			samples[i] = ondevice.Sample{Image: c.Image, Seg: c.Seg, Dim: len(b.DataShape) - 2, Drawn: c.Drawn}
		}
		return ondevice.Batch(s, u.device, samples)
	}
	places := 1 + len(b.Targets)
	first := u.batch % 2 * places
	u.batch++
	x := put(u, s, first, b.Data, torch.Sizes(b.DataShape))
	var targets []*torch.Tensor
	for i, t := range b.Targets {
		if t.Masks != nil {
			targets = append(targets, put(u, s, first+i+1, t.Masks, torch.Sizes(t.Shape)))
			continue
		}
		targets = append(targets, put(u, s, first+i+1, t.Labels, torch.Sizes(t.Shape)))
	}
	return x, targets, s.Err()
}

func put[T torch.Element](u *uploader, s *torch.Scope, place int, data []T, shape []int64) *torch.Tensor {
	if u.device.Type == torch.DeviceCPU {
		return torch.FromSlice(s, data, shape...)
	}
	if u.scope == nil {
		scope, err := torch.NewScope()
		if err != nil {
			s.Fail(err)
			return nil
		}
		u.scope = scope
	}
	host := u.pinned[place]
	if host == nil {
		host = u.scope.EmptyPinned(shape, torch.DTypeOf[T]())
		u.pinned[place] = host
	}
	if err := u.scope.Err(); err != nil {
		s.Fail(err)
		return nil
	}
	// The loss of the batch before the last one was read, so the copy from this buffer is over.
	if err := torch.CopyIn(host, data); err != nil {
		s.Fail(err)
		return nil
	}
	return s.ToAsync(host, torch.DTypeOf[T](), u.device)
}

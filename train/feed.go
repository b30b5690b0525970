package train

import (
	"context"
	"errors"
	"slices"

	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train/ondevice"
)

// feed gives a training its batches as tensors on the device. Ahead of the steps, a goroutine of its
// own takes the loader's next batch while a step runs, and uploads it on a stream of its own, where
// it is augmented, too, with --augment-on device. One batch is ahead at the most. The step waits by
// an event: on CUDA neither the host nor the stream of the network waits for a copy that is over.
//
// A batch on its way belongs to the goroutine, then to the step. Nothing of it outlasts the training:
// an interrupted one begins again at the batch of its next step.
type feed struct {
	device torch.Device
	ahead  bool
	rows   torch.Rows // of each batch, that the loaders prepare; zero: all

	source phase // of the batches that next gives, not ahead

	stream  torch.Stream
	staging *torch.Staging  // what the loaders' batches lie in, and are copied from
	events  [2]*torch.Event // of the batch that a step has and of the next one, in turn
	begun   chan phase
	ready   chan *fed
	stop    context.CancelFunc
	ended   chan error
}

// phase is a loader, and how many of its batches are asked for.
type phase struct {
	loader *loader.Loader
	left   int
	hashed int // the first batches of the loader's stream that are told by their sum
}

// fed is a batch that is on the device or on its way there.
type fed struct {
	batch *loader.Batch // the goroutine's, where there is one
	cases []string
	times loader.Times
	index int
	sum   string // SHA256 of one that is hashed

	feed   *feed
	scope  *torch.Scope // owns image and targets; nil: they are not uploaded yet
	image  *torch.Tensor
	target []*torch.Tensor
	there  *torch.Event // reached when they are
	err    error
}

// newFeed makes the feed of a training. Ahead of the steps a goroutine works on as many threads as
// they do, so that --augment-on device has the bits that it would have beside them.
func newFeed(m *machine.Machine, on AugmentOn) (*feed, error) {
	f := &feed{device: m.Device, ahead: m.Device.Type != torch.DeviceCPU || on == AugmentOnDevice}
	if !f.ahead { // a copy in main memory takes less than handing it over
		return f, nil
	}
	var err error
	if f.staging, err = torch.NewStaging(f.device); err != nil {
		return nil, err
	}
	if f.stream, err = f.device.NewStream(); err != nil {
		f.close()
		return nil, err
	}
	for i := range f.events {
		if f.events[i], err = f.device.NewEvent(); err != nil {
			f.close()
			return nil, err
		}
	}
	f.begun, f.ready, f.ended = make(chan phase, 1), make(chan *fed), make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go func() {
		f.ended <- torch.OnThread(m.Threads, func() error {
			return torch.OnStream(f.stream, func() error {
				return torch.NoGrad(func() error { return f.work(ctx) })
			})
		})
		close(f.ended)
	}()
	return f, nil
}

// memory is what a loader's batches lie in.
func (f *feed) memory() loader.Memory {
	if f.staging == nil {
		return nil // not a nil *torch.Staging
	}
	return f.staging
}

// begin turns to the next n batches of a loader, all of which are then taken by next. Of the first
// batches of its stream, up to hashed, sums are made.
func (f *feed) begin(l *loader.Loader, n, hashed int) {
	p := phase{loader: l, left: n, hashed: hashed}
	if f.ahead {
		f.begun <- p
		return
	}
	f.source = p
}

// next gives the next batch. After an error there is none. release ends its use.
func (f *feed) next(ctx context.Context) (*fed, error) {
	if !f.ahead {
		b := f.take(ctx, &f.source)
		return b, b.err
	}
	select {
	case b := <-f.ready:
		return b, b.err
	case err := <-f.ended:
		return nil, errors.Join(errors.New("train: no batches come any more"), err)
	}
}

// take takes a batch of the loader.
func (f *feed) take(ctx context.Context, p *phase) *fed {
	b := &fed{feed: f}
	if b.batch, b.err = p.loader.Next(ctx); b.err != nil {
		return b
	}
	b.cases, b.times, b.index = slices.Clone(b.batch.Keys), b.batch.Times, b.batch.Index
	if b.index < p.hashed {
		b.sum, b.err = b.batch.SHA256()
	}
	return b
}

// work puts batches on the device, from phase to phase, until ctx ends.
func (f *feed) work(ctx context.Context) error {
	var p phase
	for n := 0; ; n++ {
		for p.left == 0 {
			select {
			case p = <-f.begun:
			case <-ctx.Done():
				return nil
			}
		}
		p.left--
		b := f.prepare(ctx, &p, f.events[n%2])
		select {
		case f.ready <- b:
		case <-ctx.Done():
			b.drop()
			return nil
		}
		if b.err != nil {
			return b.err
		}
		// When the copies are over, workers may fill the memory again.
		if err := b.there.Synchronize(); err != nil {
			return err
		}
		b.batch.Release()
	}
}

// prepare takes a batch of the loader and queues all that brings it to the device.
func (f *feed) prepare(ctx context.Context, p *phase, there *torch.Event) *fed {
	b := f.take(ctx, p)
	if b.err != nil {
		return b
	}
	b.there = there
	if b.scope, b.err = torch.NewScope(); b.err != nil {
		return b
	}
	b.image, b.target, b.err = f.upload(b.scope, b.batch)
	if b.err == nil {
		b.err = b.there.Record()
	}
	if b.err != nil {
		b.drop()
	}
	return b
}

// upload: image (n, c, …) float32; targets int16 (n, 1, …), or uint8 (n, regions, …). Crops become
// that on the device.
func (f *feed) upload(s *torch.Scope, b *loader.Batch) (*torch.Tensor, []*torch.Tensor, error) {
	if b.Crops != nil {
		samples := make([]ondevice.Sample, len(b.Crops))
		for i, c := range b.Crops {
			samples[i] = ondevice.Sample{Image: c.Image, Seg: c.Seg, Dim: len(b.DataShape) - 2,
				Drawn: c.Drawn}
		}
		return ondevice.Batch(s, f.device, f.staging, samples)
	}
	x := torch.Upload(s, f.device, f.staging, b.Data, torch.Sizes(b.DataShape)...)
	var targets []*torch.Tensor
	for _, t := range b.Targets {
		if t.Masks != nil {
			targets = append(targets, torch.Upload(s, f.device, f.staging, t.Masks,
				torch.Sizes(t.Shape)...))
			continue
		}
		targets = append(targets, torch.Upload(s, f.device, f.staging, t.Labels,
			torch.Sizes(t.Shape)...))
	}
	return x, targets, s.Err()
}

// upload is the step's: the calling thread's stream waits until the batch is on the device.
func (b *fed) upload(s *torch.Scope) (Batch, error) {
	out := Batch{Cases: b.cases, Rows: b.feed.rows}
	if b.scope == nil {
		var err error
		out.Image, out.Targets, err = b.feed.upload(s, b.batch)
		return out, err
	}
	if err := b.there.Block(); err != nil {
		return out, err
	}
	for _, t := range append([]*torch.Tensor{b.image}, b.target...) {
		if err := t.RecordStream(); err != nil {
			return out, err
		}
		t.MoveTo(s)
	}
	out.Image, out.Targets = b.image, b.target
	return out, nil
}

// release ends the step's use of a batch.
func (b *fed) release() {
	if b.scope == nil {
		b.batch.Release() // otherwise the goroutine does, which knows when the copies are over
	}
	b.drop()
}

// drop frees the tensors that no step has taken.
func (b *fed) drop() {
	if b.scope != nil {
		b.scope.Close()
	}
}

// halt ends the goroutine. Loaders may be closed then, and after them the feed.
func (f *feed) halt() {
	if f == nil || f.stop == nil {
		return
	}
	f.stop()
	for range f.ended { // closed behind what it may hold
		continue
	}
}

// close frees what the feed holds, when no loader uses its memory any more.
func (f *feed) close() {
	if f == nil {
		return
	}
	f.halt()
	for i, e := range f.events {
		if e != nil {
			_ = e.Synchronize() // copies come from the memory
			e.Free()
			f.events[i] = nil
		}
	}
	f.staging.Close()
}

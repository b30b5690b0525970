package infer

import (
	"slices"
	"time"

	"github.com/lntorch/lntorch/torch"
)

// Cost is what a forward pass takes on this machine.
type Cost struct {
	Pass time.Duration // of one patch
	// Bytes is the memory of the activations and other large temporary tensors of a batch; 0 if the
	// device does not report it.
	Bytes int64
}

const (
	// briefly is how long a first pass may take to be followed by others: the first one also sets up
	// libtorch's kernels.
	briefly = 3 * time.Second
	// enough is how long the others may take together, and most their number.
	enough = 100 * time.Millisecond
	most   = 5
)

// Measure runs the network of the first fold on empty patches of the given number of channels, in
// batches as an image of so many tiles fills them, and states what the quickest of them took: other
// programs only make it slower.
func (p *Predictor) Measure(channels, tiles int) (Cost, error) {
	shape := [4]int{channels, 1, 1, 1}
	copy(shape[4-len(p.patch):], p.patch)
	cfg := p.cfg
	cfg.MaxBytes = 0
	pl, err := newPlan(p.patch, p.classes, 1, shape, cfg)
	if err != nil {
		return Cost{}, err
	}
	r := &pass{p: p, plan: pl, image: make([]float32, channels*pl.patch[0]*pl.patch[1]*pl.patch[2])}
	r.input = make([]float32, len(r.image))
	defer r.restore()
	batch := min(p.cfg.batch(), max(tiles, 1)*len(p.mirrors))
	patches := slices.Repeat(pl.tiles, batch)
	var cost Cost
	var total time.Duration
	once := func() error {
		start := time.Now()
		err := torch.With(func(s *torch.Scope) error {
			y, err := r.forward(s, patches, 0, batch)
			if err != nil {
				return err
			}
			_, err = s.To(s.Sum(y), torch.Float32, torch.CPU).Item() // waits for the device
			return err
		})
		taken := time.Since(start)
		if pass := taken / time.Duration(batch); cost.Pass == 0 || pass < cost.Pass {
			cost.Pass = pass
		}
		total += taken
		return err
	}
	err = torch.OnThread(p.cfg.Threads, func() error {
		return torch.NoGrad(func() error {
			return p.autocast(func() error {
				if err := r.use(0); err != nil {
					return err
				}
				before, err := r.startPeak()
				if err != nil {
					return err
				}
				if err := once(); err != nil {
					return err
				}
				again := total < briefly
				total = 0
				for n := 0; again && n < most; n++ {
					if err := once(); err != nil {
						return err
					}
					again = total < enough
				}
				cost.Bytes, err = r.peak()
				cost.Bytes = max(cost.Bytes-before, 0)
				return err
			})
		})
	})
	return cost, err
}

// startPeak gives the bytes of tensors in use, from where on peak counts.
func (r *pass) startPeak() (int64, error) {
	device := r.p.cfg.Device
	if device.Type != torch.DeviceCPU {
		_, err := device.Peak(true)
		if err != nil {
			return 0, err
		}
		return device.Peak(false)
	}
	if err := device.EmptyCache(); err != nil {
		return 0, err
	}
	used, _, _, err := torch.CPUMemory()
	return used, err
}

// peak gives the most bytes of tensors in use since startPeak.
func (r *pass) peak() (int64, error) {
	if device := r.p.cfg.Device; device.Type != torch.DeviceCPU {
		return device.Peak(false)
	}
	_, most, _, err := torch.CPUMemory()
	return most, err
}

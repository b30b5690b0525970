package infer

import (
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

// briefly is how long a first pass may take to be followed by a second one, which is timed alone:
// the first one also sets up libtorch's kernels.
const briefly = time.Second

// Measure runs the network of the first fold on a batch of empty patches of the given number of
// channels, and states what that took.
func (p *Predictor) Measure(channels int) (Cost, error) {
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
	var cost Cost
	once := func() error {
		batch := min(p.cfg.batch(), len(p.mirrors))
		start := time.Now()
		err := torch.With(func(s *torch.Scope) error {
			y, err := r.forward(s, pl.tiles, 0, batch)
			if err != nil {
				return err
			}
			_, err = s.To(s.Sum(y), torch.Float32, torch.CPU).Item() // waits for the device
			return err
		})
		cost.Pass = time.Since(start) / time.Duration(batch)
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
				if cost.Pass < briefly {
					if err := once(); err != nil {
						return err
					}
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

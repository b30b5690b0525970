package pipeline

import (
	"errors"
	"fmt"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// ForwardConfig is one pass through the network of a checkpoint.
type ForwardConfig struct {
	ModelFiles
	Input           string `flag:"input" path:"true" help:"array (n, c, z, y, x), .npy"`
	Output          string `flag:"output" short:"o" path:"true" help:"logits, .npz"`
	DeepSupervision bool   `flag:"deep-supervision" help:"all heads"`
	machine.Machine
}

// Forward runs the network on an array and writes the logits of its heads: head_0, head_1, …
func Forward(c ForwardConfig, o Output) error {
	if err := settings.Check(&c); err != nil {
		return err
	}
	if c.Checkpoint == "" || c.Input == "" || c.Output == "" {
		return settings.Usage("--checkpoint, --input and --output must be given")
	}
	f, p, d, name, err := c.ModelFiles.open()
	if err != nil {
		return err
	}
	defer f.Close()
	conf, err := p.Configuration(name)
	if err != nil {
		return err
	}
	arch, err := models.ForWeights(checkpoint.Shapes(f.Weights), conf)
	if err != nil {
		return err
	}
	if err := o.resolve(&c.Machine); err != nil {
		return err
	}
	a, err := npz.OpenNpy(c.Input)
	if err != nil {
		return err
	}
	x, err := a.Float32s()
	if err != nil {
		return fmt.Errorf("%s: %w", c.Input, err)
	}
	channels := d.NumInputChannels(conf)
	if len(a.Shape) != arch.Dim()+2 || a.Shape[1] != channels {
		return fmt.Errorf("%s: shape %v, expected (n, %d channels, %d spatial axes) for this network", c.Input, a.Shape, channels, arch.Dim())
	}
	shape := torch.Sizes(a.Shape)
	pass := func(s *torch.Scope) error {
		net, err := models.Build(nn.Builder{Scope: s, Device: c.Device},
			models.Spec{Architecture: arch, InputChannels: channels, NumClasses: d.Labels.NumSegmentationHeads()})
		if err != nil {
			return err
		}
		if _, err := checkpoint.LoadWeights(net.Module(), f.Weights, checkpoint.LoadOptions{}); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		net.SetFast(!c.IsReference())
		net.SetTraining(false)
		net.SetDeepSupervision(c.DeepSupervision)
		in := s.To(torch.FromSlice(s, x, shape...), torch.Float32, c.Device)
		var heads []*torch.Tensor
		err = c.Machine.Autocast(func() error {
			heads = net.Forward(s, in)
			return s.Err()
		})
		if err != nil {
			return err
		}
		return writeHeads(s, c.Output, heads)
	}
	return c.Machine.Run(func() error {
		return torch.NoGrad(func() error { return torch.With(pass) })
	})
}

func writeHeads(s *torch.Scope, path string, heads []*torch.Tensor) error {
	w, err := npz.Create(path, false)
	if err != nil {
		return err
	}
	for i, h := range heads {
		v, err := torch.Slice[float32](s.To(h, torch.Float32, torch.CPU))
		if err == nil {
			var shape []int
			for _, n := range h.Shape() {
				shape = append(shape, int(n))
			}
			var a *npz.Array
			if a, err = npz.New(v, shape...); err == nil {
				err = w.Add(fmt.Sprintf("head_%d", i), a)
			}
		}
		if err != nil {
			return errors.Join(s.Err(), err, w.Close())
		}
	}
	return w.Close()
}

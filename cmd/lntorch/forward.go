package main

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/train"
)

func newForward() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forward --checkpoint FILE --input X.npy --output Y.npz",
		Short: "runs the network of a checkpoint on an array",
		Long: `forward runs a checkpoint's network, in evaluation mode, on an array (n, c, z, y, x; float32) and writes the logits of
its heads: head_0 at full resolution and, with --deep-supervision, head_1, head_2, …`,
		Example: `  lntorch forward --checkpoint model/fold_0/checkpoint_final.pth --input x.npy --output y.npz --deep-supervision`,
		Args:    exactly(),
		RunE:    runForward,
	}
	plansFlags(cmd)
	cmd.Flags().String("input", "", "array, .npy")
	cmd.Flags().StringP("output", "o", "", "logits, .npz")
	cmd.Flags().Bool("deep-supervision", false, "all heads")
	machineFlags(cmd, "cpu")
	return cmd
}

func runForward(cmd *cobra.Command, _ []string) error {
	f := cmd.Flags()
	path, _ := f.GetString("checkpoint")
	input, _ := f.GetString("input")
	output, _ := f.GetString("output")
	if path == "" || input == "" || output == "" {
		return usage(cmd, fmt.Errorf("--checkpoint, --input and --output must be given"))
	}
	p, d, name, err := readPlans(cmd, path)
	if err != nil {
		return err
	}
	conf, err := p.Configuration(name)
	if err != nil {
		return err
	}
	ck, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer ck.Close()
	arch, err := models.ForWeights(checkpoint.Shapes(ck.Weights), conf)
	if err != nil {
		return err
	}
	m, err := readMachine(cmd)
	if err != nil {
		return err
	}
	if err := torch.CheckDevice(m.device); err != nil {
		return err
	}
	a, err := npz.OpenNpy(input)
	if err != nil {
		return err
	}
	x, err := a.Float32s()
	if err != nil {
		return fmt.Errorf("%s: %w", input, err)
	}
	if len(a.Shape) != arch.Dim()+2 || a.Shape[1] != d.NumInputChannels(conf) {
		return fmt.Errorf("%s: shape %v, expected (n, %d channels, %d spatial axes) for this network", input, a.Shape, d.NumInputChannels(conf), arch.Dim())
	}
	if m.threads == 0 {
		m.threads = runtime.NumCPU()
	}
	deep, _ := f.GetBool("deep-supervision")
	return torch.OnThread(m.threads, func() error {
		return torch.NoGrad(func() error {
			return torch.With(func(s *torch.Scope) error {
				net, err := models.Build(nn.Builder{Scope: s, Device: m.device},
					models.Spec{Architecture: arch, InputChannels: d.NumInputChannels(conf), NumClasses: d.Labels.NumSegmentationHeads()})
				if err != nil {
					return err
				}
				if _, err := checkpoint.LoadWeights(net.Module(), ck.Weights, checkpoint.LoadOptions{}); err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				net.SetFast(!m.reference)
				net.SetTraining(false)
				net.SetDeepSupervision(deep)
				shape := make([]int64, len(a.Shape))
				for i, n := range a.Shape {
					shape[i] = int64(n)
				}
				in := s.To(torch.FromSlice(s, x, shape...), torch.Float32, m.device)
				var heads []*torch.Tensor
				run := func() error {
					heads = net.Forward(s, in)
					return s.Err()
				}
				switch m.amp {
				case train.AMPFP16:
					err = torch.Autocast(m.device.Type, torch.Float16, run)
				case train.AMPBF16:
					err = torch.Autocast(m.device.Type, torch.BFloat16, run)
				default:
					err = run()
				}
				if err != nil {
					return err
				}
				return writeHeads(s, output, heads)
			})
		})
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

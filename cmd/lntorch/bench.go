package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/dgst"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// benchNetworks are the networks that are timed, in the terms of plans.json: "mid" (patch 32×96×96) and "full", nnU-Net's
// standard one with 31,195,594 parameters for one channel and two classes.
var benchNetworks = map[string]struct {
	features, kernels, strides string
	patch                      []int64
}{
	"mid": {"[16, 32, 64, 128, 160]", "[[1, 3, 3], 3, 3, 3, 3]", "[1, [1, 2, 2], 2, 2, 2]", []int64{32, 96, 96}},
	"full": {"[32, 64, 128, 256, 320, 320]", "[[1, 3, 3], [3, 3, 3], 3, 3, 3, 3]", "[1, [1, 2, 2], 2, 2, 2, [1, 2, 2]]",
		[]int64{32, 64, 64}},
	"tiny": {"[4, 8, 8]", "3", "[1, 2, 2]", []int64{8, 8, 8}},
}

func benchArchitecture(name string) (*plans.Architecture, []int64, error) {
	n, ok := benchNetworks[name]
	if !ok {
		return nil, nil, fmt.Errorf("bench: network %q: expected mid, full or tiny", name)
	}
	stages := len(mustJSON(n.features).([]any))
	doc := fmt.Sprintf(`{"configurations": {"bench": {"data_identifier": "x", "preprocessor_name": "x", "patch_size": [%d, %d, %d], "batch_size": 2,
"spacing": [1, 1, 1], "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [false], "batch_dice": false, "architecture":
{"network_class_name": "PlainConvUNet", "arch_kwargs": {"n_stages": %d, "features_per_stage": %s, "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": %s,
"strides": %s, "n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2, "conv_bias": true, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
"norm_op_kwargs": {"eps": 1e-05, "affine": true}, "dropout_op": null, "dropout_op_kwargs": null, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}}}}}}`,
		n.patch[0], n.patch[1], n.patch[2], stages, n.features, n.kernels, n.strides)
	p, err := plans.FromObject(mustJSON(doc).(*plans.Object), "bench")
	if err != nil {
		return nil, nil, err
	}
	c, err := p.Configuration("bench")
	if err != nil {
		return nil, nil, err
	}
	a, err := c.Architecture()
	return a, n.patch, err
}

// mustJSON decodes text that is part of the program.
func mustJSON(text string) any {
	v, err := plans.DecodeJSON([]byte(text))
	if err != nil {
		panic(err)
	}
	return v
}

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench step|open|masks",
		Short: "times parts of the program",
		Long: `bench prepares one part, then repeats it for every line on standard input and answers each with a line of JSON: the seconds it took and
the process's peak memory. ` + "`make bench`" + ` drives it beside the Python stack, one repeat of each in turn.

  step   a training step: forward, loss, backward, clip, SGD (--method, --network)
  open   opening a checkpoint with momentum and reading its weights into a network (--checkpoint FILE)
  masks  DGST's selection for every weight of the network`,
		Example: `  yes | head -5 | lntorch bench step --network mid`,
		Args:    exactly("PART"),
		RunE:    runBench,
	}
	f := cmd.Flags()
	f.String("network", "mid", "mid, full or tiny")
	f.String("method", "full", "fine-tuning method of a step")
	f.String("checkpoint", "", "file that open opens")
	machineFlags(cmd, "cpu")
	methodFlags(cmd)
	return cmd
}

func runBench(cmd *cobra.Command, args []string) error {
	f := cmd.Flags()
	m, err := readMachine(cmd)
	if err != nil {
		return err
	}
	if m.threads == 0 {
		m.threads = runtime.NumCPU()
	}
	name, _ := f.GetString("network")
	path, _ := f.GetString("checkpoint")
	method, _ := f.GetString("method")
	entry, err := finetune.Lookup(method)
	if err != nil {
		return usage(cmd, err)
	}
	chosen, _, err := makeMethod(cmd, entry)
	if err != nil {
		return err
	}
	return torch.OnThread(m.threads, func() error {
		return torch.With(func(s *torch.Scope) error {
			b, err := newBenchNetwork(s, name, m)
			if err != nil {
				return err
			}
			switch args[0] {
			case "step":
				return serve(b.step(chosen))
			case "masks":
				return serve(b.masks())
			case "open":
				if path == "" {
					return usage(cmd, errors.New("open needs --checkpoint"))
				}
				return serve(b.open(path))
			}
			return usage(cmd, fmt.Errorf("part %q: expected step, open or masks", args[0]))
		})
	})
}

// serve repeats f for each line on standard input.
func serve(f func() error, err error) error {
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		start := time.Now()
		if err := f(); err != nil {
			return err
		}
		_, peak, _, err := torch.CPUMemory()
		if err != nil {
			return err
		}
		b, err := json.Marshal(map[string]any{"seconds": time.Since(start).Seconds(), "tensors_peak_bytes": peak})
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return in.Err()
}

type benchNetwork struct {
	s       *torch.Scope
	m       machine
	arch    *plans.Architecture
	patch   []int64
	net     models.Network
	params  []finetune.Param
	tensors []*torch.Tensor
}

func newBenchNetwork(s *torch.Scope, name string, m machine) (*benchNetwork, error) {
	a, patch, err := benchArchitecture(name)
	if err != nil {
		return nil, err
	}
	b := &benchNetwork{s: s, m: m, arch: a, patch: patch}
	if b.net, err = models.Build(nn.Builder{Scope: s, Device: m.device}, models.Spec{Architecture: a, InputChannels: 1, NumClasses: 2}); err != nil {
		return nil, err
	}
	gen, err := torch.NewGenerator(torch.CPU, 1)
	if err != nil {
		return nil, err
	}
	defer gen.Close()
	for _, p := range b.net.Module().Parameters() {
		b.params = append(b.params, finetune.Param{Name: p.Name, T: p.T})
		b.tensors = append(b.tensors, p.T)
	}
	return b, b.net.Module().Reset(gen, nil)
}

// step is one training step on random data, batch 2.
func (b *benchNetwork) step(method finetune.Method) (func() error, error) {
	scales := b.arch.DeepSupervisionScales()
	l, err := loss.New(loss.Config{Weights: plans.DeepSupervisionWeights(len(scales))})
	if err != nil {
		return nil, err
	}
	for _, p := range b.params {
		if err := p.T.SetRequiresGrad(method.Trains(p.Name, p.T.Shape())); err != nil {
			return nil, err
		}
	}
	sgd, err := optim.NewSGD(b.tensors, torch.SGD{LR: 1e-2, Momentum: 0.99, WeightDecay: 3e-5, Nesterov: true})
	if err != nil {
		return nil, err
	}
	b.net.SetDeepSupervision(true)
	x := b.s.Empty(append([]int64{2, 1}, b.patch...), torch.Float32, b.m.device)
	b.s.Normal_(x, 0, 1, nil)
	var targets []*torch.Tensor
	for _, scale := range scales {
		size := []int64{2, 1}
		for i, f := range scale {
			size = append(size, int64(float64(b.patch[i])*f+0.5))
		}
		u := b.s.Empty(size, torch.Float32, b.m.device)
		b.s.Uniform_(u, 0, 1, nil)
		targets = append(targets, b.s.To(b.s.CompareScalar(u, torch.Gt, 0.9), torch.Int16, b.m.device))
	}
	n := int64(0)
	return func() error {
		return torch.With(func(s *torch.Scope) error {
			if err := torch.ClearGrads(b.tensors); err != nil {
				return err
			}
			var v *torch.Tensor
			forward := func() error {
				v = l.Forward(s, b.net.Forward(s, x), targets)
				return s.Err()
			}
			var err error
			if b.m.amp == "bf16" {
				err = torch.Autocast(b.m.device.Type, torch.BFloat16, forward)
			} else {
				err = forward()
			}
			if err != nil {
				return err
			}
			if err := v.Backward(); err != nil {
				return err
			}
			optim.ClipGradNorm(s, b.tensors, 12)
			var masks []optim.Mask
			if u, ok := method.(finetune.Updater); ok {
				if masks, err = u.Update(s, n, b.params); err != nil {
					return err
				}
			}
			n++
			sgd.Step(s, masks)
			_, err = v.Item()
			return errors.Join(s.Err(), err)
		})
	}, nil
}

// masks selects for every sparse weight from random gradients.
func (b *benchNetwork) masks() (func() error, error) {
	var sparse []finetune.Param
	for _, p := range b.params {
		if dgst.Classify(p.Name, p.T.Shape()) != dgst.Sparse {
			continue
		}
		g := b.s.ZerosLike(p.T)
		b.s.Normal_(g, 0, 1, nil)
		if err := p.T.SetGrad(b.s.Detach(g)); err != nil {
			return nil, err
		}
		sparse = append(sparse, p)
	}
	return func() error {
		return torch.With(func(s *torch.Scope) error {
			for _, p := range sparse {
				s.TopKRows(s.Grad(p.T), 2)
			}
			return s.Err()
		})
	}, b.s.Err()
}

// open reads a checkpoint's weights into the network.
func (b *benchNetwork) open(path string) (func() error, error) {
	if filepath.Ext(path) != ".pth" {
		return nil, fmt.Errorf("bench: %s: expected a .pth file", path)
	}
	return func() error {
		f, err := checkpoint.Open(path)
		if err != nil {
			return err
		}
		report, err := checkpoint.LoadWeights(b.net.Module(), f.Weights, checkpoint.LoadOptions{})
		if err == nil && !slices.ContainsFunc(report.Rows, func(r checkpoint.Row) bool { return r.Status == checkpoint.Loaded }) {
			err = errors.New("nothing was loaded")
		}
		return errors.Join(err, f.Close())
	}, nil
}

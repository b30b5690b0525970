package models

import (
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

func init() { Register("PlainConvUNet", newPlainConvUNet) }

// newPlainConvUNet builds nnU-Net's default network: each encoder stage is a stack of convolution blocks of which the
// first strides; there is no pooling.
// Source: dynamic_network_architectures 0.3.1, unet.PlainConvUNet and PlainConvEncoder.
func newPlainConvUNet(b nn.Builder, spec Spec) (Network, error) {
	a := spec.Architecture
	if err := checkUNet(a); err != nil {
		return nil, err
	}
	m := &mode{training: true}
	var stages []*stackedConvs
	var modules []*nn.Module
	in := spec.InputChannels
	for i, f := range a.FeaturesPerStage {
		st := newStackedConvs(b, a, m, a.ConvsPerStage[i], in, f, a.KernelSizes[i], a.Strides[i])
		stages = append(stages, st)
		modules = append(modules, nn.Sequence(st.module)) // one-element Sequential: names read stages.S.0.convs
		in = f
	}
	encoder := nn.NewModule()
	encoder.Child("stages", nn.Sequence(modules...))
	return newUNet(b, spec, m, encoder, func(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
		var skips []*torch.Tensor
		for _, st := range stages {
			x = st.forward(s, x, false)
			skips = append(skips, x)
		}
		return skips
	}), nil
}

package models

import (
	"fmt"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

func init() {
	Register(Entry{Class: "PlainConvUNet", New: newPlainConvUNet, Recognise: recognisePlainConvUNet})
}

func recognisePlainConvUNet(shapes map[string][]int64) *Spec {
	stage := func(s int) string { return fmt.Sprintf("encoder.stages.%d.0.convs.", s) }
	first := stage(0) + "0.conv"
	if shapes[first+".weight"] == nil {
		return nil
	}
	a := &plans.Architecture{NetworkClass: "PlainConvUNet"}
	for s := 0; shapes[stage(s)+"0.conv.weight"] != nil; s++ {
		a.FeaturesPerStage = append(a.FeaturesPerStage, axisOf(shapes, stage(s)+"0.conv.weight", 0))
		a.ConvsPerStage = append(a.ConvsPerStage, countOf(shapes, stage(s), ".conv.weight"))
		a.KernelSizes = append(a.KernelSizes, kernelOf(shapes, stage(s)+"0.conv.weight"))
	}
	return recogniseUNet(a, shapes, first)
}

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

package models

import (
	"fmt"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// PlainConvUNet is nnU-Net's default network: each encoder stage is a stack of convolution blocks,
// the first of them strided; there is no pooling.
// Source: dynamic_network_architectures 0.3.1, unet.PlainConvUNet and PlainConvEncoder.
type PlainConvUNet struct {
	UNet
	ConvsPerStage []int // convolutions per encoder stage
}

func init() {
	const class = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
	const convs = `"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2`
	registerUNet(Entry{Class: class, Summary: "nnU-Net's default, stacked convolutions",
		Parse: parsePlainConvUNet, Recognise: recognisePlainConvUNet, Sizes: []Size{
			{Name: "mid", Summary: "a smaller PlainConvUNet", Patch: []int{32, 96, 96},
				Block: unetBlock(class, "[16,32,64,128,160]",
					"[[1,3,3],[3,3,3],[3,3,3],[3,3,3],[3,3,3]]",
					"[[1,1,1],[1,2,2],[2,2,2],[2,2,2],[2,2,2]]", convs)},
			{Name: "phantom", Summary: "the one of the test data", Patch: []int{16, 48, 48},
				Block: unetBlock(class, "[8,16,32,64]",
					"[[1,3,3],[3,3,3],[3,3,3],[3,3,3]]", "[[1,1,1],[1,2,2],[2,2,2],[2,2,2]]", convs)},
			{Name: "full", Summary: "nnU-Net's standard one", Patch: []int{64, 64, 64},
				Block: unetBlock(class, releasedFeatures, releasedKernels, releasedStrides, convs)},
		}})
}

func parsePlainConvUNet(args plans.Arguments, dim int) Architecture {
	a := &PlainConvUNet{}
	a.parse(args, a.Class(), dim, "n_conv_per_stage", "nonlin_first")
	if args.OK() {
		args.Require("n_conv_per_stage", "convolutions per stage")
		a.ConvsPerStage = args.PerStage("n_conv_per_stage", a.Stages())
		a.NonlinFirst = args.Bool("nonlin_first", false)
	}
	return a
}

func recognisePlainConvUNet(shapes map[string][]int64) *Spec {
	stage := func(s int) string { return fmt.Sprintf("encoder.stages.%d.0.convs.", s) }
	first := stage(0) + "0.conv"
	if shapes[first+".weight"] == nil {
		return nil
	}
	a := &PlainConvUNet{}
	for s := 0; shapes[stage(s)+"0.conv.weight"] != nil; s++ {
		a.FeaturesPerStage = append(a.FeaturesPerStage, axisOf(shapes, stage(s)+"0.conv.weight", 0))
		a.ConvsPerStage = append(a.ConvsPerStage, countOf(shapes, stage(s), ".conv.weight"))
		a.KernelSizes = append(a.KernelSizes, kernelOf(shapes, stage(s)+"0.conv.weight"))
	}
	return a.recognise(a, shapes, first, convLayers)
}

// Class returns the last component of the upstream class name.
func (a *PlainConvUNet) Class() string { return "PlainConvUNet" }

// Describe returns a one-line description.
func (a *PlainConvUNet) Describe() string {
	return a.describe(a.Class(), fmt.Sprintf("convolutions %v", a.ConvsPerStage))
}

// Arguments returns the arguments that can be inferred from shapes.
func (a *PlainConvUNet) Arguments() map[string]any {
	m := a.arguments()
	m["n_conv_per_stage"] = a.ConvsPerStage
	return m
}

// Compare lists the arguments of the weights that differ.
func (a *PlainConvUNet) Compare(weights Architecture) []string { return compareUNets(a, weights) }

// Topology is the input of nnU-Net's memory estimate.
func (a *PlainConvUNet) Topology() Topology {
	return a.topology(a.ConvsPerStage, a.DecoderConvs, false)
}

// Activations estimates the number of values that a step keeps.
func (a *PlainConvUNet) Activations(s Step) int64 {
	return a.activations(s, a.ConvsPerStage, a.DecoderConvs)
}

// New builds the network.
func (a *PlainConvUNet) New(b nn.Builder, inputChannels, classes int) (Network, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	m := &mode{training: true}
	var stages []*stackedConvs
	var modules []*nn.Module
	in := inputChannels
	for i, f := range a.FeaturesPerStage {
		st := newStackedConvs(b, &a.UNet, m, a.ConvsPerStage[i], in, f, a.KernelSizes[i],
			a.Strides[i])
		stages = append(stages, st)
		// A one-element Sequential: names are stages.S.0.convs.
		modules = append(modules, nn.Sequence(st.module))
		in = f
	}
	encoder := nn.NewModule()
	encoder.Child("stages", nn.Sequence(modules...))
	return newUNet(b, &a.UNet, classes, m, encoder,
		func(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
			var skips []*torch.Tensor
			for _, st := range stages {
				x = st.forward(s, x, false)
				skips = append(skips, x)
			}
			return skips
		}, a.convStage), nil
}

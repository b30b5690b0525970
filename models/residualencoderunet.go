package models

import (
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch/nn"
)

// ResidualEncoderUNet is the class of nnU-Net's ResEnc networks (M, L and XL are one architecture):
// a stem and residual blocks in the encoder; the decoder is that of PlainConvUNet.
// Source: dynamic_network_architectures 0.3.1, unet.ResidualEncoderUNet.
type ResidualEncoderUNet struct{ ResidualEncoder }

func init() {
	const class = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
	const blocks = `"n_blocks_per_stage": [1,3,4,6,6,6], "n_conv_per_stage_decoder": 1`
	registerUNet(Entry{Class: class, Summary: "nnU-Net's ResEnc M, L and XL",
		Parse: parseResidualEncoderUNet, Recognise: recogniseResidualEncoderUNet, Sizes: []Size{
			{Name: "resencl", Summary: "ResEnc M and L", Patch: []int{64, 64, 64},
				Block: unetBlock(class, releasedFeatures, releasedKernels, releasedStrides, blocks)},
			// Patch and topology are those of the published example for lymph nodes.
			{Name: "resenc", Summary: "ResEnc L of the published patch", Patch: []int{80, 112, 224},
				Block: unetBlock(class, releasedFeatures, releasedKernels,
					"[[1,1,1],[2,2,2],[2,2,2],[2,2,2],[2,2,2],[1,1,2]]", blocks)},
		}})
}

func parseResidualEncoderUNet(args plans.Arguments, dim int) Architecture {
	a := &ResidualEncoderUNet{}
	a.parse(args, a.Class(), dim)
	return a
}

func recogniseResidualEncoderUNet(shapes map[string][]int64) *Spec {
	a := &ResidualEncoderUNet{}
	return a.recognise(a, shapes, convLayers)
}

// Class returns the last component of the upstream class name.
func (a *ResidualEncoderUNet) Class() string { return "ResidualEncoderUNet" }

// Describe returns a one-line description.
func (a *ResidualEncoderUNet) Describe() string { return a.describe(a.Class()) }

// Compare lists the arguments of the weights that differ.
func (a *ResidualEncoderUNet) Compare(weights Architecture) []string {
	return compareUNets(a, weights)
}

// Topology is the input of nnU-Net's memory estimate.
func (a *ResidualEncoderUNet) Topology() Topology {
	return a.topology(a.BlocksPerStage, a.DecoderConvs, true)
}

// Activations estimates the number of values that a step keeps.
func (a *ResidualEncoderUNet) Activations(s Step) int64 {
	return a.activations(s, a.convsPerStage(), a.DecoderConvs)
}

// New builds the network.
func (a *ResidualEncoderUNet) New(b nn.Builder, inputChannels, classes int) (Network, error) {
	return a.build(b, inputChannels, classes, a.convStage)
}

package models

import (
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/torch/nn"
)

// ResidualUNet has the encoder of ResidualEncoderUNet and residual blocks in the decoder, counted by
// n_conv_per_stage_decoder. Blocks of the decoder are BasicBlockD, whatever those of the encoder.
// Source: dynamic_network_architectures 0.3.1, unet.ResidualUNet and UNetResDecoder.
type ResidualUNet struct{ ResidualEncoder }

func init() {
	const class = "dynamic_network_architectures.architectures.unet.ResidualUNet"
	const blocks = `"n_blocks_per_stage": [1,3,4,6,6,6], "n_conv_per_stage_decoder": 1`
	registerUNet(Entry{Class: class, Summary: "residual blocks in encoder and decoder",
		Parse: parseResidualUNet, Recognise: recogniseResidualUNet, Sizes: []Size{
			{Name: "resunet", Summary: "ResEnc M and L with a residual decoder", Patch: []int{64, 64, 64},
				Block: unetBlock(class, releasedFeatures, releasedKernels, releasedStrides, blocks)},
		}})
}

func parseResidualUNet(args plans.Arguments, dim int) Architecture {
	a := &ResidualUNet{}
	a.parse(args, a.Class(), dim)
	return a
}

func recogniseResidualUNet(shapes map[string][]int64) *Spec {
	a := &ResidualUNet{}
	return a.recognise(a, shapes, blockLayers)
}

// Class returns the last component of the upstream class name.
func (a *ResidualUNet) Class() string { return "ResidualUNet" }

// Describe returns a one-line description.
func (a *ResidualUNet) Describe() string { return a.describe(a.Class()) }

// Compare lists the arguments of the weights that differ.
func (a *ResidualUNet) Compare(weights Architecture) []string { return compareUNets(a, weights) }

// decoderConvs counts convolutions: two for each block of the decoder, and that of the shortcut in
// the first block of a stage, whose input has twice the channels.
func (a *ResidualUNet) decoderConvs() []int {
	var convs []int
	for _, n := range a.DecoderConvs {
		convs = append(convs, 2*n+1)
	}
	return convs
}

// Topology is the input of nnU-Net's memory estimate.
func (a *ResidualUNet) Topology() Topology {
	return a.topology(a.BlocksPerStage, a.decoderConvs(), true)
}

// Activations estimates the number of values that a step keeps.
func (a *ResidualUNet) Activations(s Step) int64 {
	return a.activations(s, a.convsPerStage(), a.decoderConvs())
}

// New builds the network.
func (a *ResidualUNet) New(b nn.Builder, inputChannels, classes int) (Network, error) {
	return a.build(b, inputChannels, classes, func(b nn.Builder, m *mode, n, in, out int,
		kernel []int) (stage, *nn.Module) {
		st := newStackedBlocks(b, &a.UNet, m, n, in, 0, out, kernel, ones(a.Axes))
		return st, st.module
	})
}

package models

import (
	"fmt"
	"slices"

	"github.com/lntorch/lntorch/data/plans"
)

// This file holds what networks need to be recognised by the names and shapes of their tensors.

// axisOf is the size of axis i of a tensor, 0 without it.
func axisOf(shapes map[string][]int64, name string, i int) int {
	if s := shapes[name]; len(s) > i {
		return int(s[i])
	}
	return 0
}

// countOf is the number of prefix0suffix, prefix1suffix, … that are there.
func countOf(shapes map[string][]int64, prefix, suffix string) int {
	i := 0
	for shapes[fmt.Sprint(prefix, i, suffix)] != nil {
		i++
	}
	return i
}

// kernelOf is a convolution weight's kernel.
func kernelOf(shapes map[string][]int64, name string) []int {
	var k []int
	for i := 2; i < len(shapes[name]); i++ {
		k = append(k, int(shapes[name][i]))
	}
	return k
}

// recogniseUNet fills in what the two U-Nets have in common. first is the first convolution. nil where parts are missing.
// Source: the module trees of dynamic_network_architectures 0.3.1.
func recogniseUNet(a *plans.Architecture, shapes map[string][]int64, first string) *Spec {
	a.NumStages = len(a.FeaturesPerStage)
	if a.NumStages < 2 || countOf(shapes, "decoder.transpconvs.", ".weight") != a.NumStages-1 {
		return nil
	}
	a.Dim = len(a.KernelSizes[0])
	a.Strides = [][]int{slices.Repeat([]int{1}, a.Dim)} // stage 0 keeps the resolution in every plan of nnU-Net
	for i := range a.NumStages - 1 {
		// The transposed convolution into a resolution undoes the stride that left it.
		a.Strides = append(a.Strides, kernelOf(shapes, fmt.Sprintf("decoder.transpconvs.%d.weight", a.NumStages-2-i)))
		a.DecoderConvs = append(a.DecoderConvs, countOf(shapes, fmt.Sprintf("decoder.stages.%d.convs.", i), ".conv.weight"))
	}
	a.ConvBias = shapes[first+".bias"] != nil
	return &Spec{Architecture: a, InputChannels: axisOf(shapes, first+".weight", 1),
		NumClasses: axisOf(shapes, fmt.Sprintf("decoder.seg_layers.%d.weight", a.NumStages-2), 0)}
}

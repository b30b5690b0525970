package main

import (
	"fmt"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/models"
)

// network is what the names and shapes of a file's tensors tell about the network they belong to.
type network struct {
	Class      string // or "not recognised"
	Channels   int    // of the input
	Classes    int    // of the logits
	Parameters int64  // trainable numbers, aliases counted once
	// Architecture holds the arguments that shapes reveal, and no others; nil where the network is not recognised.
	Architecture *plans.Architecture
	Adapters     int    // tensors of LoRA adapters
	Adapter      string // one of their names
}

const notRecognised = "not recognised"

// recogniseNetwork recovers the class and the constructor's arguments.
func recogniseNetwork(weights []checkpoint.Weight) *network {
	n := &network{Class: notRecognised}
	for _, w := range weights {
		if strings.Contains(w.Name, ".lora_") {
			n.Adapters, n.Adapter = n.Adapters+1, w.Name
		}
	}
	if s := models.Recognise(checkpoint.Shapes(weights)); s != nil {
		n.Class, n.Architecture, n.Channels, n.Classes = s.Architecture.NetworkClass, s.Architecture, s.InputChannels, s.NumClasses
	}
	n.count(weights)
	return n
}

// count sums up Parameters. Aliases share their memory, unless the file was written by a program that copied them: then
// their names tell. Buffers are no parameters.
func (n *network) count(weights []checkpoint.Weight) {
	seen := map[view]bool{}
	for _, w := range weights {
		v := viewOf(w.Tensor)
		buffer := strings.HasSuffix(w.Name, ".running_mean") || strings.HasSuffix(w.Name, ".running_var")
		alias := n.Architecture != nil && (strings.Contains(w.Name, ".all_modules.") || strings.HasPrefix(w.Name, "decoder.encoder."))
		if seen[v] || alias || buffer || !floating(w.DType) {
			continue
		}
		seen[v] = true
		n.Parameters += w.Numel()
	}
}

func floating(d pth.DType) bool {
	switch d {
	case pth.Float64, pth.Float32, pth.Float16, pth.BFloat16:
		return true
	}
	return false
}

// view is the memory that a tensor shows: aliases have equal ones.
type view struct {
	storage *pth.Storage
	offset  int64
	layout  string
}

func viewOf(t *pth.Tensor) view {
	return view{t.Storage, t.Offset, fmt.Sprint(t.DType, t.Size, t.Stride)}
}

// String is the network in one line.
func (n *network) String() string {
	a := n.Architecture
	if a == nil {
		return n.Class
	}
	if a.NumStages == 0 {
		return fmt.Sprintf("%s, %dd, feature size %d, blocks %v, heads %v", n.Class, a.Dim, a.FeatureSize, a.Depths, a.Heads)
	}
	inner := fmt.Sprintf("convolutions %v", a.ConvsPerStage)
	if a.Block != "" {
		inner = fmt.Sprintf("blocks %v (%s)", a.BlocksPerStage, a.Block)
	}
	return fmt.Sprintf("%s, %d stages, %dd, features %v, %s, decoder %v, kernels %v, strides %v",
		n.Class, a.NumStages, a.Dim, a.FeaturesPerStage, inner, a.DecoderConvs, a.KernelSizes, a.Strides)
}

// compare lists where the file's plans and dataset.json mean another network than its weights.
func (n *network) compare(f *checkpoint.File) []string {
	if f.Plans == nil || n.Architecture == nil || !models.Planned(n.Class) {
		return nil
	}
	conf, err := f.Plans.Configuration(f.Configuration)
	if err != nil {
		return []string{err.Error()}
	}
	want, err := conf.Architecture()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	check := func(what string, plans, weights any) {
		if p, w := fmt.Sprint(plans), fmt.Sprint(weights); p != w {
			out = append(out, fmt.Sprintf("%s: plans %s, weights %s", what, p, w))
		}
	}
	a := n.Architecture
	check("network", want.NetworkClass, a.NetworkClass)
	check("features_per_stage", want.FeaturesPerStage, a.FeaturesPerStage)
	check("kernel_sizes", want.KernelSizes, a.KernelSizes)
	if len(want.Strides) == len(a.Strides) {
		check("strides", want.Strides[1:], a.Strides[1:]) // the first shows in no shape
	}
	check("n_conv_per_stage", want.ConvsPerStage, a.ConvsPerStage)
	check("n_blocks_per_stage", want.BlocksPerStage, a.BlocksPerStage)
	check("n_conv_per_stage_decoder", want.DecoderConvs, a.DecoderConvs)
	check("conv_bias", want.ConvBias, a.ConvBias)
	check("block", want.Block, a.Block)
	check("bottleneck_channels", want.BottleneckChannels, a.BottleneckChannels)
	check("stem_channels", want.StemChannels, a.StemChannels)
	if f.Dataset != nil {
		check("input channels", f.Dataset.NumInputChannels(conf), n.Channels)
		check("classes", f.Dataset.Labels.NumSegmentationHeads(), n.Classes)
	}
	return out
}

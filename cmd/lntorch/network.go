package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pth"
)

// network is what the names and shapes of a file's tensors tell about the network they belong to.
type network struct {
	Class      string // PlainConvUNet, ResidualEncoderUNet, SwinUNETR, SwinUNETRv2 or "not recognised"
	Channels   int    // of the input
	Classes    int    // of the logits
	Parameters int64  // trainable numbers, aliases counted once
	// Architecture is set for the two U-Nets: the arguments that shapes reveal, and no others.
	Architecture *plans.Architecture
	Adapters     int    // tensors of LoRA adapters
	Adapter      string // one of their names
}

const notRecognised = "not recognised"

// recogniseNetwork recovers the class and the constructor's arguments.
// Source: the module trees of dynamic_network_architectures 0.3.1 and of MONAI 1.3.0's SwinUNETR.
func recogniseNetwork(weights []checkpoint.Weight) *network {
	n := &network{Class: notRecognised}
	shapes := map[string][]int64{}
	for _, w := range weights {
		shapes[w.Name] = w.Size
		if strings.Contains(w.Name, ".lora_") {
			n.Adapters, n.Adapter = n.Adapters+1, w.Name
		}
	}
	switch {
	case shapes["swinViT.patch_embed.proj.weight"] != nil:
		n.Class = "SwinUNETR"
		if shapes["swinViT.layers1c.0.layer.conv1.conv.weight"] != nil {
			n.Class = "SwinUNETRv2"
		}
		n.Channels = axis(shapes, "swinViT.patch_embed.proj.weight", 1)
		n.Classes = axis(shapes, "out.conv.conv.weight", 0)
	case shapes["encoder.stages.0.0.convs.0.conv.weight"] != nil, shapes["encoder.stem.convs.0.conv.weight"] != nil:
		n.unet(shapes)
	}
	n.count(weights)
	return n
}

func axis(shapes map[string][]int64, name string, i int) int {
	if s := shapes[name]; len(s) > i {
		return int(s[i])
	}
	return 0
}

// unet fills in what is common to the two U-Nets; Class stays as it is where parts are missing.
func (n *network) unet(shapes map[string][]int64) {
	a := &plans.Architecture{NetworkClass: "PlainConvUNet"}
	stage := func(s int) string { return fmt.Sprintf("encoder.stages.%d.0.convs.", s) }
	first, last := stage(0)+"0.conv", ".conv"
	if first2 := "encoder.stem.convs.0.conv"; shapes[first2+".weight"] != nil {
		a.NetworkClass, a.Block, first, last = "ResidualEncoderUNet", "BasicBlockD", first2, ".conv2.conv"
		stage = func(s int) string { return fmt.Sprintf("encoder.stages.%d.blocks.", s) }
		a.StemChannels = axis(shapes, first+".weight", 0)
		if shapes["encoder.stages.0.blocks.0.conv3.conv.weight"] != nil {
			a.Block, last = "BottleneckD", ".conv3.conv"
		}
	}
	// count is the number of prefix0suffix, prefix1suffix, … that are there.
	count := func(prefix, suffix string) int {
		i := 0
		for shapes[fmt.Sprint(prefix, i, suffix)] != nil {
			i++
		}
		return i
	}
	kernel := func(name string) []int {
		var k []int
		for i := 2; i < len(shapes[name]); i++ {
			k = append(k, int(shapes[name][i]))
		}
		return k
	}
	for s := 0; shapes[stage(s)+"0"+last+".weight"] != nil; s++ {
		a.FeaturesPerStage = append(a.FeaturesPerStage, axis(shapes, stage(s)+"0"+last+".weight", 0))
		inner := count(stage(s), last+".weight")
		if a.Block == "" {
			a.ConvsPerStage = append(a.ConvsPerStage, inner)
			a.KernelSizes = append(a.KernelSizes, kernel(stage(s)+"0.conv.weight"))
			continue
		}
		a.BlocksPerStage = append(a.BlocksPerStage, inner)
		a.KernelSizes = append(a.KernelSizes, kernel(stage(s)+"0.conv2.conv.weight"))
		if a.Block == "BottleneckD" {
			a.BottleneckChannels = append(a.BottleneckChannels, axis(shapes, stage(s)+"0.conv2.conv.weight", 0))
		}
	}
	a.NumStages = len(a.FeaturesPerStage)
	if a.NumStages < 2 || count("decoder.transpconvs.", ".weight") != a.NumStages-1 {
		return
	}
	a.Dim = len(a.KernelSizes[0])
	a.Strides = [][]int{slices.Repeat([]int{1}, a.Dim)} // stage 0 keeps the resolution in every plan of nnU-Net
	for i := range a.NumStages - 1 {
		// The transposed convolution into a resolution undoes the stride that left it.
		a.Strides = append(a.Strides, kernel(fmt.Sprintf("decoder.transpconvs.%d.weight", a.NumStages-2-i)))
		a.DecoderConvs = append(a.DecoderConvs, count(fmt.Sprintf("decoder.stages.%d.convs.", i), ".conv.weight"))
	}
	a.ConvBias = shapes[first+".bias"] != nil
	n.Class, n.Architecture = a.NetworkClass, a
	n.Channels = axis(shapes, first+".weight", 1)
	n.Classes = axis(shapes, fmt.Sprintf("decoder.seg_layers.%d.weight", a.NumStages-2), 0)
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
	inner := fmt.Sprintf("convolutions %v", a.ConvsPerStage)
	if a.Block != "" {
		inner = fmt.Sprintf("blocks %v (%s)", a.BlocksPerStage, a.Block)
	}
	return fmt.Sprintf("%s, %d stages, %dd, features %v, %s, decoder %v, kernels %v, strides %v",
		n.Class, a.NumStages, a.Dim, a.FeaturesPerStage, inner, a.DecoderConvs, a.KernelSizes, a.Strides)
}

// compare lists where the file's plans and dataset.json mean another network than its weights.
func (n *network) compare(f *checkpoint.File) []string {
	if f.Plans == nil || n.Architecture == nil {
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

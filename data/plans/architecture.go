package plans

import (
	"fmt"
	"slices"
	"strings"
)

// Network is the architecture block of a configuration, uninterpreted: the class that nnU-Net
// builds and its arguments. Their meaning is up to the class.
type Network struct {
	Class     string    // dotted path of the class, network_class_name
	Arguments Arguments // arch_kwargs
	where     string
}

// Network returns the architecture block, or an error if the configuration has none. Networks that
// do not use the block (a trainer's own) need not call it.
func (c *Configuration) Network() (*Network, error) {
	var err error
	top := section{where: c.file + ": configuration " + c.Name, obj: c.raw, err: &err}
	if !top.required("architecture", "an architecture block (copy it from the plans of the model "+
		"to fine-tune)") {
		return nil, fmt.Errorf("plans: %w", err)
	}
	block := section{where: top.where + ": architecture", obj: top.object("architecture"),
		err: &err}
	if err != nil || !block.required("network_class_name", "a class name") ||
		!block.required("arch_kwargs", "an object") {
		return nil, fmt.Errorf("plans: %w", err)
	}
	n := &Network{Class: block.str("network_class_name"), where: block.where}
	n.Arguments = Arguments{section{where: block.where + ".arch_kwargs",
		obj: block.object("arch_kwargs"), err: &err}}
	if err != nil {
		return nil, fmt.Errorf("plans: %w", err)
	}
	return n, nil
}

// UnknownClass is the error for a class that is not among the known ones.
func (n *Network) UnknownClass(known []string) error {
	return fmt.Errorf("plans: %s: network_class_name: expected %s, found %q",
		n.where, strings.Join(known, " or "), n.Class)
}

// LastComponent is the class or function that a dotted path names.
func LastComponent(dotted string) string {
	return dotted[strings.LastIndexByte(dotted, '.')+1:]
}

// Arguments are the keyword arguments of a class in plans.json. The first error is kept; it names
// the file, the path of the argument, what was expected and what was found. Values read after it
// are meaningless. An argument that is absent or null has its default.
type Arguments struct{ section }

// Err is the first error.
func (a Arguments) Err() error {
	if *a.err == nil {
		return nil
	}
	return fmt.Errorf("plans: %w", *a.err)
}

// OK reports whether there was no error so far.
func (a Arguments) OK() bool { return *a.err == nil }

// Fail records the error that an argument is not as wanted.
func (a Arguments) Fail(key, want string, found any) { a.fail(key, want, found) }

// Allow records an error that names the arguments which are not among the class's known ones.
func (a Arguments) Allow(class string, known []string) {
	unknown := slices.DeleteFunc(a.obj.Keys(),
		func(k string) bool { return slices.Contains(known, k) })
	if len(unknown) > 0 && a.OK() {
		*a.err = fmt.Errorf("%s: %s has no argument %s; expected %s", a.where, class, list(unknown),
			list(known))
	}
}

// Require records an error if an argument, described by want, is absent or null.
func (a Arguments) Require(key, want string) { a.required(key, want) }

// Int reads an integer.
func (a Arguments) Int(key string, def int) int { return a.integer(key, def) }

// Float reads a float.
func (a Arguments) Float(key string, def float64) float64 { return a.float(key, def) }

// Bool reads true or false.
func (a Arguments) Bool(key string, def bool) bool { return a.boolean(key, def) }

// String reads a string; the default is "".
func (a Arguments) String(key string) string { return a.str(key) }

// PerStage reads an integer for all stages or a list of n integers.
func (a Arguments) PerStage(key string, n int) []int {
	want := fmt.Sprintf("a positive integer or a list of %d of them", n)
	return field(a.section, key, want, func(v any) ([]int, bool) {
		if i, ok := asInt(v); ok {
			return slices.Repeat([]int{i}, n), i > 0
		}
		l, ok := listOf(asInt)(v)
		return l, ok && len(l) == n && (n == 0 || slices.Min(l) > 0)
	}, nil)
}

// PerStageAndAxis reads one integer for everything, or a list with an integer or a list of one
// integer per axis for each stage.
func (a Arguments) PerStageAndAxis(key string, stages, dim int) [][]int {
	want := fmt.Sprintf("a positive integer or, for each of %d stages, an integer or a list of %d",
		stages, dim)
	axes := func(v any) ([]int, bool) {
		if i, ok := asInt(v); ok {
			return slices.Repeat([]int{i}, dim), i > 0
		}
		l, ok := listOf(asInt)(v)
		return l, ok && len(l) == dim && slices.Min(l) > 0
	}
	return field(a.section, key, want, func(v any) ([][]int, bool) {
		if i, ok := asInt(v); ok {
			out := make([][]int, stages)
			for k := range out {
				out[k] = slices.Repeat([]int{i}, dim)
			}
			return out, i > 0
		}
		l, ok := listOf(axes)(v)
		return l, ok && len(l) == stages
	}, nil)
}

// Layer reads the class of a layer, which must be one of classes, and its keyword arguments
// (key_kwargs), which must be among known. The name is empty if there is no such layer.
func (a Arguments) Layer(key string, classes, known []string) (string, Arguments) {
	class := LastComponent(a.str(key))
	if class == "" {
		return "", a
	}
	if !slices.Contains(classes, class) {
		a.fail(key, strings.Join(classes, " or "), class)
		return "", a
	}
	kwargs := Arguments{section{where: a.where + "." + key + "_kwargs",
		obj: a.object(key + "_kwargs"), err: a.err}}
	kwargs.Allow(class, known)
	return class, kwargs
}

// convertOldArchitecture converts a configuration of plans from before nnU-Net 2.4: it adds the
// equivalent architecture block and removes the keys that it replaces. raw is modified.
// Source: nnU-Net 2.5.1, plans_handler.py, ConfigurationManager.
func convertOldArchitecture(raw *Object, where string) error {
	var err error
	s := section{where: where, obj: raw, err: &err}
	old := []string{"UNet_class_name", "UNet_base_num_features", "n_conv_per_stage_encoder",
		"n_conv_per_stage_decoder",
		"num_pool_per_axis", "pool_op_kernel_sizes", "conv_kernel_sizes", "unet_max_num_features"}
	for _, key := range old {
		s.required(key, "a value, since the plans have no architecture block")
	}
	convs := s.ints("n_conv_per_stage_encoder")
	base, limit := s.integer("UNet_base_num_features", 0), s.integer("unet_max_num_features", 0)
	if err != nil {
		return err
	}
	class := s.str("UNet_class_name")
	path, perStage := "dynamic_network_architectures.architectures.unet.PlainConvUNet",
		"n_conv_per_stage"
	switch class {
	case "PlainConvUNet":
	case "ResidualEncoderUNet":
		path, perStage = "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet", "n_blocks_per_stage"
	default:
		return fmt.Errorf("%s: UNet_class_name: expected PlainConvUNet or ResidualEncoderUNet, "+
			"found %q", where, class)
	}
	features := make([]any, len(convs))
	for i, f := 0, base; i < len(convs); i, f = i+1, min(2*f, limit) {
		features[i] = int64(min(f, limit))
	}
	dim := len(raw.values["patch_size"].([]any))
	kwargs := NewObject(
		"n_stages", int64(len(convs)),
		"features_per_stage", features,
		"conv_op", fmt.Sprintf("torch.nn.modules.conv.Conv%dd", dim),
		"kernel_sizes", raw.values["conv_kernel_sizes"],
		"strides", raw.values["pool_op_kernel_sizes"],
		perStage, raw.values["n_conv_per_stage_encoder"],
		"n_conv_per_stage_decoder", raw.values["n_conv_per_stage_decoder"],
		"conv_bias", true,
		"norm_op", fmt.Sprintf("torch.nn.modules.instancenorm.InstanceNorm%dd", dim),
		"norm_op_kwargs", NewObject("eps", 1e-5, "affine", true),
		"dropout_op", nil,
		"dropout_op_kwargs", nil,
		"nonlin", "torch.nn.LeakyReLU",
		"nonlin_kwargs", NewObject("inplace", true),
	)
	for _, key := range old {
		raw.Delete(key)
	}
	raw.Set("architecture", NewObject(
		"network_class_name", path,
		"arch_kwargs", kwargs,
		"_kw_requires_import", []any{"conv_op", "norm_op", "dropout_op", "nonlin"},
	))
	return nil
}

// DeepSupervisionScales returns, for each output of a U-Net with deep supervision, highest
// resolution first, the size of its target relative to the patch per axis: 1 / the cumulative
// product of the strides of the encoder's stages, without the last (lowest) stage.
// Source: nnU-Net 2.5.1, nnUNetTrainer.py, _get_deep_supervision_scales.
func DeepSupervisionScales(strides [][]int) [][]float64 {
	product := slices.Repeat([]int{1}, len(strides[0]))
	scales := make([][]float64, 0, len(strides)-1)
	for _, stride := range strides[:len(strides)-1] {
		row := make([]float64, len(stride))
		for axis := range row {
			product[axis] *= stride[axis]
			row[axis] = 1 / float64(product[axis])
		}
		scales = append(scales, row)
	}
	return scales
}

// DeepSupervisionWeights returns the loss weights of n outputs, highest resolution first: halved at
// each step, 0 for the last, normalised to a sum of 1. Terms of weight 0 are not computed, so the
// lowest head never gets a gradient.
//
// Differs: a single output has weight 1; the reference divides 0 by 0.
func DeepSupervisionWeights(n int) []float64 { return halved(n, 0) }

// DistributedWeights are DeepSupervisionWeights as nnU-Net's distributed training has them: the last
// is 1e-6 before normalising, so that every parameter gets a gradient, as DistributedDataParallel
// asks.
//
// Compat: so decay and momentum act on the lowest head. Source: nnUNetTrainer._build_loss.
func DistributedWeights(n int) []float64 { return halved(n, 1e-6) }

func halved(n int, last float64) []float64 {
	if n == 1 {
		return []float64{1}
	}
	w := make([]float64, n)
	sum := 0.0
	for i := range w {
		w[i] = 1 / float64(uint64(1)<<i)
		if i == n-1 {
			w[i] = last
		}
		sum += w[i]
	}
	for i := range w {
		w[i] /= sum
	}
	return w
}

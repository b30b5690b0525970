package models

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// SwinUNETR and SwinUNETRv2: a Swin transformer whose five resolutions feed convolutional encoders
// and a U-Net decoder. Names, order and arithmetic are MONAI's; v2 has a residual convolution block
// before each transformer stage.
// Source: MONAI 1.3.0, networks/nets/swin_unetr.py, blocks/dynunet_block.py, blocks/unetr_block.py.
//
// Shapes in this file: n batch, c channels, d spatial axes (2 or 3) as "…", w windows of the whole
// batch, t tokens per window, h heads.

// SwinUNETR is the architecture of SwinUNETR and SwinUNETRv2.
type SwinUNETR struct {
	V2            bool
	Axes          int   // 2 or 3
	FeatureSize   int   // channels of the first hidden state
	Depths, Heads []int // blocks and attention heads of each stage
}

func init() {
	for _, v2 := range []bool{false, true} {
		released := func(dim int) Architecture {
			return &SwinUNETR{V2: v2, Axes: dim, FeatureSize: 48, Depths: []int{2, 2, 2, 2},
				Heads: []int{3, 6, 12, 24}}
		}
		class := released(3).Class()
		Register(Entry{Class: "monai.networks.nets.swin_unetr." + class, Summary: "MONAI's " +
			class + ", a Swin transformer with a convolutional decoder",
			Recognise: func(shapes map[string][]int64) *Spec {
				return recogniseSwin(shapes,
					v2)
			},
			IsHead: func(name string) bool {
				return strings.HasPrefix(name,
					"out.conv.conv.")
			},
			IsTransposed: func(name string) bool { return strings.Contains(name, "transp_conv.") },
			// LN-Seg-FM's trainers.
			Trainer: "nnUNetTrainer_" + class, LR: 1e-2, Epochs: 2000, Released: released,
			Sizes: []Size{{Name: strings.ToLower(class), Summary: "MONAI's " + class,
				Patch: []int{64, 64, 64}}}})
	}
}

// recogniseSwin infers heads from the bias tables and depths from the number of blocks.
func recogniseSwin(shapes map[string][]int64, v2 bool) *Spec {
	const embed, out = "swinViT.patch_embed.proj.weight", "out.conv.conv.weight"
	if len(shapes[embed]) < 4 || shapes[out] == nil ||
		v2 != (shapes["swinViT.layers1c.0.layer.conv1.conv.weight"] != nil) {
		return nil
	}
	a := &SwinUNETR{V2: v2, Axes: len(shapes[embed]) - 2, FeatureSize: axisOf(shapes, embed, 0)}
	const table = ".attn.relative_position_bias_table"
	for i := range swinStages {
		blocks := fmt.Sprintf("swinViT.layers%d.0.blocks.", i+1)
		a.Depths = append(a.Depths, countOf(shapes, blocks, table))
		a.Heads = append(a.Heads, axisOf(shapes, blocks+"0"+table, 1))
	}
	return &Spec{Architecture: a, InputChannels: axisOf(shapes, embed, 1),
		NumClasses: axisOf(shapes, out, 0)}
}

const (
	swinStages = 4 // of the transformer, after the patch embedding
	swinWindow = 7 // tokens along each axis of a window
	swinFactor = 32
	swinEps    = 1e-5
	swinSlope  = 1e-2
	// swinMasked is added to the attention between tokens that are neighbours only because of the
	// shift.
	swinMasked = -100.0
)

// Class returns the last component of the upstream class name; MONAI has one class for both, with
// the argument use_v2.
func (a *SwinUNETR) Class() string {
	if a.V2 {
		return "SwinUNETRv2"
	}
	return "SwinUNETR"
}

// Dim is the number of spatial axes.
func (a *SwinUNETR) Dim() int { return a.Axes }

// Stages is the number of resolutions: five halvings.
func (a *SwinUNETR) Stages() int { return swinStages + 2 }

// Divisor is that of five halvings.
func (a *SwinUNETR) Divisor() []int { return slices.Repeat([]int{swinFactor}, a.Axes) }

// DeepSupervisionScales: there is one output, at input resolution.
func (a *SwinUNETR) DeepSupervisionScales() [][]float64 {
	return [][]float64{slices.Repeat([]float64{1}, a.Axes)}
}

// Describe returns a one-line description.
func (a *SwinUNETR) Describe() string {
	return fmt.Sprintf("%s, %dd, feature size %d, blocks %v, heads %v", a.Class(), a.Axes,
		a.FeatureSize, a.Depths, a.Heads)
}

// Arguments returns the arguments that can be inferred from shapes.
func (a *SwinUNETR) Arguments() map[string]any {
	return map[string]any{"feature_size": a.FeatureSize, "depths": a.Depths, "num_heads": a.Heads,
		"spatial_dims": a.Axes}
}

// Compare returns nil: the network is not described by the plans.
func (a *SwinUNETR) Compare(Architecture) []string { return nil }

// Activations counts about 22 values per token and channel and the attention for a transformer
// block; five values per voxel and channel, and the concatenated input if any, for a convolution
// block.
func (a *SwinUNETR) Activations(st Step) int64 {
	total, largest := int64(0), int64(0)
	batch, spatial := int64(st.Batch), torch.Sizes(st.Patch)
	shape := append([]int64{batch, 0}, spatial...)
	f := int64(a.FeatureSize)
	for i, depth := range a.Depths {
		for axis := range spatial {
			shape[2+axis] = spatial[axis] >> (i + 1)
		}
		g, c := newWindowGrid(shape), f<<i
		block := batch * product(g.padded) * (22*c + int64(a.Heads[i])*g.tokens())
		if st.Recompute {
			largest = max(largest, block)
			block = batch * product(g.sizes) * 2 * c
		}
		total += int64(depth) * block
	}
	voxels := batch * product(spatial)
	total += 5 * f * voxels
	for level := range 5 {
		out := f << max(level-1, 0)
		total += 10 * out * (voxels >> (level * a.Axes))
	}
	return total + largest
}

// swin is the whole network.
type swin struct {
	root      *nn.Module
	name      string
	dim       int
	mode      *mode
	recompute bool
	embed     *nn.Conv
	stages    [swinStages]*swinStage
	before    [swinStages]*unetrBlock // v2: the residual block before each stage
	encoders  [5]*unetrBlock          // of the image, the first three hidden states and the last
	up        [5]*unetrUp             // from low to high resolution
	head      *nn.Conv
}

// New builds the network.
func (a *SwinUNETR) New(b nn.Builder, inputChannels, classes int) (Network, error) {
	switch {
	case a.Axes != 2 && a.Axes != 3:
		return nil, fmt.Errorf("%d spatial axes, expected 2 or 3", a.Axes)
	case a.V2 && a.Axes == 2:
		return nil, fmt.Errorf("2 spatial axes, expected 3: its residual blocks are 3d")
	case a.FeatureSize < 1 || a.FeatureSize%12 != 0:
		return nil, fmt.Errorf("feature size %d, expected a multiple of 12", a.FeatureSize)
	case len(a.Depths) != swinStages || len(a.Heads) != swinStages || slices.Min(a.Depths) < 1 ||
		slices.Min(a.Heads) < 1:
		return nil, fmt.Errorf("depths %v and heads %v, expected %d positive numbers each",
			a.Depths, a.Heads, swinStages)
	}
	for i, h := range a.Heads {
		if c := a.FeatureSize << i; c%h != 0 {
			return nil, fmt.Errorf("%d heads for the %d channels of stage %d, expected a divisor",
				h, c, i+1)
		}
	}
	n := &swin{root: nn.NewModule(), name: a.Class(), dim: a.Axes, mode: &mode{}}
	f := int64(a.FeatureSize)
	var drawn []*nn.Module // in MONAI's order of construction

	vit, embed := nn.NewModule(), nn.NewModule()
	two := slices.Repeat([]int64{2}, a.Axes)
	n.embed = b.NewConv(int64(inputChannels), f, two, two, true).DefaultInit()
	embed.Child("proj", n.embed.Module)
	drawn = append(drawn, n.embed.Module)
	vit.Child("patch_embed", embed)
	vit.Child("pos_drop", nn.NewModule())
	for i := range swinStages {
		n.stages[i] = newSwinStage(b, a, i, &drawn)
		vit.Child(fmt.Sprintf("layers%d", i+1), nn.Sequence(n.stages[i].module))
		if a.V2 {
			n.before[i] = newUnetrBlock(b, n.mode, a.Axes, f<<i, f<<i, &drawn)
		}
	}
	for i, c := range n.before {
		if c != nil {
			vit.Child(fmt.Sprintf("layers%dc", i+1), nn.Sequence(c.wrapped))
		}
	}
	n.root.Child("swinViT", vit)
	for i, e := range []struct {
		name    string
		in, out int64
	}{{"encoder1", int64(inputChannels), f}, {"encoder2", f, f}, {"encoder3", 2 * f, 2 * f},
		{"encoder4", 4 * f, 4 * f}, {"encoder10", 16 * f, 16 * f}} {
		n.encoders[i] = newUnetrBlock(b, n.mode, a.Axes, e.in, e.out, &drawn)
		n.root.Child(e.name, n.encoders[i].wrapped)
	}
	for i, out := range []int64{8 * f, 4 * f, 2 * f, f, f} {
		in := 2 * out
		if i == 4 {
			in = f
		}
		n.up[i] = newUnetrUp(b, n.mode, a.Axes, in, out, &drawn)
		n.root.Child(fmt.Sprintf("decoder%d", 5-i), n.up[i].module)
	}
	one := slices.Repeat([]int64{1}, a.Axes)
	n.head = b.NewConv(f, int64(classes), one, one, true).DefaultInit()
	out, conv := nn.NewModule(), nn.NewModule()
	conv.Child("conv", n.head.Module)
	out.Child("conv", conv)
	n.root.Child("out", out)
	n.root.ResetOrder(append(drawn, n.head.Module)...)
	return n, nil
}

func (n *swin) Module() *nn.Module { return n.root }

// SetDeepSupervision has no effect: there is one head.
func (n *swin) SetDeepSupervision(bool) {}

// SetTraining affects only adapters: all dropout rates of the released networks are 0.
func (n *swin) SetTraining(on bool) { n.root.SetTraining(on) }

// SetFast: see Network.
func (n *swin) SetFast(on bool) { n.mode.fast = on }

// SetRecompute: see Recomputer.
func (n *swin) SetRecompute(on bool) { n.recompute = on }

// CheckInput: the image is halved five times and must then have more than one voxel.
func (n *swin) CheckInput(spatial []int64) error {
	return checkInput(spatial, slices.Repeat([]int64{swinFactor}, n.dim),
		"as "+n.name+" halves the image five times")
}

// Forward returns only the logits.
func (n *swin) Forward(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	shape := x.Shape()
	if len(shape) != 2+n.dim {
		s.Fail(fmt.Errorf("models: input has shape %v, expected (n, c, %d spatial axes)", shape,
			n.dim))
		return nil
	}
	if err := n.CheckInput(shape[2:]); err != nil {
		s.Fail(err)
		return nil
	}
	logits := s.Block(func(s *torch.Scope) *torch.Tensor {
		hidden := n.transform(s, x)
		if s.Err() != nil {
			return nil
		}
		// The encoders run in the reference's order; hidden[3] has no encoder.
		skips := []*torch.Tensor{n.encoders[0].forward(s, x)}
		for i := range 3 {
			skips = append(skips, n.encoders[i+1].forward(s, hidden[i]))
			hidden[i].Free()
		}
		z := n.encoders[4].forward(s, hidden[4])
		hidden[4].Free()
		for i, skip := range []*torch.Tensor{hidden[3], skips[3], skips[2], skips[1], skips[0]} {
			below := z
			z = n.up[i].forward(s, below, skip)
			below.Free()
			skip.Free()
		}
		return n.head.Forward(s, z)
	})
	if s.Err() != nil {
		return nil
	}
	return []*torch.Tensor{logits}
}

// transform: x (n, c, …) → the five hidden states, each layer-normalised over its channels: (n, f,
// …/2), (n, 2f, …/4), ….
func (n *swin) transform(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	h := n.part(s, n.embed.Module, x, n.embed.Forward)
	hidden := []*torch.Tensor{n.normalised(s, h)}
	for i, stage := range n.stages {
		if c := n.before[i]; c != nil {
			h = n.next(h, n.part(s, c.wrapped, h,
				func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
					return c.forward(s, n.rowMajor(s, x))
				}))
		}
		h = stage.forward(s, n, h)
		hidden = append(hidden, n.normalised(s, h))
	}
	h.Free()
	return hidden
}

// next frees a tensor that is no longer needed and returns its successor.
func (n *swin) next(old, made *torch.Tensor) *torch.Tensor {
	old.Free()
	return made
}

// part runs a part of the transformer, with recomputation if enabled.
func (n *swin) part(s *torch.Scope, m *nn.Module, x *torch.Tensor,
	f func(*torch.Scope, *torch.Tensor) *torch.Tensor) *torch.Tensor {
	if !n.recompute {
		return s.Block(func(s *torch.Scope) *torch.Tensor { return f(s, x) })
	}
	var params []*torch.Tensor
	for _, p := range m.Parameters() {
		params = append(params, p.T)
	}
	return s.Recompute(x, params, f)
}

// rowMajor returns x in row-major order, as in the reference; fast mode keeps the mostly
// channels-last layout, which is faster.
func (n *swin) rowMajor(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if n.mode.fast {
		return x
	}
	return s.Contiguous(x, torch.Contiguous)
}

// normalised applies a layer norm over the channels, without weight and bias (proj_out).
func (n *swin) normalised(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		if s.Err() != nil {
			return nil
		}
		last := tokensLast(s, x)
		return tokensBack(s, s.LayerNorm(last, x.Shape()[1:2], nil, nil, swinEps))
	})
}

// tokensLast views (n, c, …) as (n, …, c).
func tokensLast(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if x.Dim() == 4 {
		return s.Permute(x, 0, 2, 3, 1)
	}
	return s.Permute(x, 0, 2, 3, 4, 1)
}

// tokensBack is the inverse of tokensLast.
func tokensBack(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if x.Dim() == 4 {
		return s.Permute(x, 0, 3, 1, 2)
	}
	return s.Permute(x, 0, 4, 1, 2, 3)
}

// swinStage is BasicLayer: blocks with windowed attention, shifted in every second block, then
// patch merging, which halves the resolution and doubles the channels.
type swinStage struct {
	module *nn.Module
	blocks []*swinBlock
	merge  *patchMerging
}

func newSwinStage(b nn.Builder, a *SwinUNETR, i int, drawn *[]*nn.Module) *swinStage {
	st := &swinStage{module: nn.NewModule()}
	channels := int64(a.FeatureSize) << i
	var blocks []*nn.Module
	for j := range a.Depths[i] {
		k := newSwinBlock(b, a.Axes, channels, int64(a.Heads[i]), j%2 == 1, drawn)
		st.blocks, blocks = append(st.blocks, k), append(blocks, k.module)
	}
	st.module.Child("blocks", nn.Sequence(blocks...))
	st.merge = newPatchMerging(b, a.Axes, channels, drawn)
	st.module.Child("downsample", st.merge.module)
	return st
}

// forward: (n, c, …) → (n, 2c, …/2). The caller still owns x unless a later part has freed it.
func (st *swinStage) forward(s *torch.Scope, n *swin, x *torch.Tensor) *torch.Tensor {
	g := newWindowGrid(x.Shape())
	for i, k := range st.blocks {
		x = n.next(x, n.part(s, k.module, x, func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			if i == 0 {
				x = tokensLast(s, n.rowMajor(s, x))
			}
			return k.forward(s, g, n.mode.fast, x)
		}))
	}
	return n.next(x, n.part(s, st.merge.module, x,
		func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
			return tokensBack(s, st.merge.forward(s, x))
		}))
}

// windowGrid is the partition of the tokens of an image (n, c, sizes) into windows.
type windowGrid struct {
	n, c                  int64
	sizes, padded, window []int64 // padded: sizes after zero-padding to whole windows
	shift                 []int64 // of every second block; 0 along axes with one window
}

// newWindowGrid returns the grid of an image of shape (n, c, …): an axis of at most 7 tokens has
// one window and no shift.
func newWindowGrid(shape []int64) windowGrid {
	if len(shape) < 4 {
		return windowGrid{} // the scope has failed already
	}
	g := windowGrid{n: shape[0], c: shape[1], sizes: shape[2:]}
	for _, size := range g.sizes {
		w, shift := int64(swinWindow), int64(swinWindow/2)
		if size <= swinWindow {
			w, shift = size, 0
		}
		g.window, g.shift = append(g.window, w), append(g.shift, shift)
		g.padded = append(g.padded, (size+w-1)/w*w)
	}
	return g
}

func (g windowGrid) shifts() bool { return len(g.shift) > 0 && slices.Max(g.shift) > 0 }

// tokens is the number of tokens per window.
func (g windowGrid) tokens() int64 { return product(g.window) }

// windows is the number of windows per image.
func (g windowGrid) windows() int64 { return product(g.padded) / product(g.window) }

func product(v []int64) int64 {
	p := int64(1)
	for _, x := range v {
		p *= x
	}
	return p
}

// split lists the number of windows and the window size per axis.
func (g windowGrid) split() []int64 {
	var v []int64
	for i, w := range g.window {
		v = append(v, g.padded[i]/w, w)
	}
	return v
}

// partition: (n, padded…, c) → (n·windows, tokens, c), windows and tokens in row-major order.
func (g windowGrid) partition(s *torch.Scope, x *torch.Tensor, n, c int64) *torch.Tensor {
	shape := append(append([]int64{n}, g.split()...), c)
	order := []int64{0, 1, 3, 2, 4, 5}
	if len(g.sizes) == 3 {
		order = []int64{0, 1, 3, 5, 2, 4, 6, 7}
	}
	return s.Reshape(s.Permute(s.Reshape(x, shape...), order...), -1, g.tokens(), c)
}

// reverse is the inverse of partition.
func (g windowGrid) reverse(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	shape := []int64{g.n}
	for i, w := range g.window {
		shape = append(shape, g.padded[i]/w)
	}
	shape = append(append(shape, g.window...), g.c)
	order := []int64{0, 1, 3, 2, 4, 5}
	if len(g.sizes) == 3 {
		order = []int64{0, 1, 4, 2, 5, 3, 6, 7}
	}
	return s.Reshape(s.Permute(s.Reshape(x, shape...), order...),
		append(append([]int64{g.n}, g.padded...), g.c)...)
}

// roll shifts the tokens cyclically by sign·shift along every axis; x is (n, …, c).
func (g windowGrid) roll(s *torch.Scope, x *torch.Tensor, sign int64) *torch.Tensor {
	var shifts, axes []int64
	for i, v := range g.shift {
		shifts, axes = append(shifts, sign*v), append(axes, int64(i)+1)
	}
	return s.Roll(x, shifts, axes)
}

// regions labels the parts that the shift brings together: the label of a token encodes, per
// shifted axis, whether it is before the last window, in the contiguous part of that window, or in
// the part wrapped round from the other end. Axes without shift have one part. Row-major over
// padded; on device.
func (g windowGrid) regions(s *torch.Scope, device torch.Device) *torch.Tensor {
	v := make([]float32, product(g.padded))
	for i := range v {
		rest, number, scale := int64(i), int64(0), int64(1)
		for axis := len(g.padded) - 1; axis >= 0; axis-- {
			p, at := g.padded[axis], rest%g.padded[axis]
			rest /= p
			if shift := g.shift[axis]; shift > 0 {
				switch {
				case at >= p-shift:
					number += 2 * scale
				case at >= p-g.window[axis]:
					number += scale
				}
			}
			scale *= 3
		}
		v[i] = float32(number)
	}
	return s.To(torch.FromSlice(s, v, append(append([]int64{1}, g.padded...), 1)...), torch.Float32,
		device)
}

// mask is added to the attention of shifted windows: (windows, t, t), 0 between tokens of the same
// region, otherwise -100.
func (g windowGrid) mask(s *torch.Scope, device torch.Device) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		region := s.Squeeze(g.partition(s, g.regions(s, device), 1, 1), -1)
		difference := s.Sub(s.Unsqueeze(region, 1), s.Unsqueeze(region, 2))
		return s.MaskedFill(difference, s.CompareScalar(difference, torch.Ne, 0), swinMasked)
	})
}

// windowGroup holds the windows of an image that share a mask.
type windowGroup struct {
	windows []int64
	mask    []float32 // (t, t), as in mask; nil if it is 0 everywhere
}

// groups returns the windows by mask: a window is masked only if it is the last one along a shifted
// axis.
func (g windowGrid) groups() []windowGroup {
	counts := make([]int64, len(g.window))
	for i, w := range g.window {
		counts[i] = g.padded[i] / w
	}
	all := make([]windowGroup, 1<<len(g.window))
	for i := range g.windows() {
		last := 0 // the set of shifted axes along which window i is the last
		for axis, rest := len(counts)-1, i; axis >= 0; axis-- {
			if g.shift[axis] > 0 && rest%counts[axis] == counts[axis]-1 {
				last |= 1 << axis
			}
			rest /= counts[axis]
		}
		all[last].windows = append(all[last].windows, i)
	}
	var used []windowGroup
	for last, group := range all {
		if group.windows == nil {
			continue
		}
		if last != 0 {
			side := make([]int, g.tokens()) // the axes along which a token wrapped round
			for i := range side {
				for axis, rest := len(g.window)-1, int64(i); axis >= 0; axis-- {
					if last&(1<<axis) != 0 && rest%g.window[axis] >= g.window[axis]-g.shift[axis] {
						side[i] |= 1 << axis
					}
					rest /= g.window[axis]
				}
			}
			group.mask = make([]float32, len(side)*len(side))
			for i := range group.mask {
				if side[i/len(side)] != side[i%len(side)] {
					group.mask[i] = swinMasked
				}
			}
		}
		used = append(used, group)
	}
	return used
}

// swinBlock is SwinTransformerBlock: windowed attention and an MLP, each after a layer norm and
// with a residual connection.
type swinBlock struct {
	module           *nn.Module
	norm1, norm2     *nn.LayerNorm
	attention        *windowAttention
	expand, contract *nn.Linear
	shifted          bool
}

func newSwinBlock(b nn.Builder, dim int, channels, heads int64, shifted bool,
	drawn *[]*nn.Module) *swinBlock {
	k := &swinBlock{module: nn.NewModule(), norm1: b.NewLayerNorm(channels),
		norm2: b.NewLayerNorm(channels), shifted: shifted}
	k.attention = newWindowAttention(b, dim, channels, heads, drawn)
	k.expand, k.contract = b.NewLinear(channels, 4*channels, true),
		b.NewLinear(4*channels, channels, true)
	mlp := nn.NewModule()
	mlp.Child("linear1", k.expand.Module)
	mlp.Child("linear2", k.contract.Module)
	for _, name := range []string{"fn", "drop1", "drop2"} {
		mlp.Child(name, nn.NewModule())
	}
	k.module.Child("norm1", k.norm1.Module)
	k.module.Child("attn", k.attention.module)
	k.module.Child("drop_path", nn.NewModule())
	k.module.Child("norm2", k.norm2.Module)
	k.module.Child("mlp", mlp)
	*drawn = append(*drawn, k.expand.Module, k.contract.Module)
	return k
}

// forward: x (n, …, c), not modified.
func (k *swinBlock) forward(s *torch.Scope, g windowGrid, fast bool,
	x *torch.Tensor) *torch.Tensor {
	x = s.Add(x, s.Block(func(s *torch.Scope) *torch.Tensor { return k.attend(s, g, fast, x) }))
	return s.Add(x, s.Block(func(s *torch.Scope) *torch.Tensor {
		return k.contract.Forward(s, s.Gelu(k.expand.Forward(s, k.norm2.Forward(s, x))))
	}))
}

// attend is forward_part1. Zero padding follows the norm: padded tokens take part in attention.
func (k *swinBlock) attend(s *torch.Scope, g windowGrid, fast bool, x *torch.Tensor) *torch.Tensor {
	x = k.norm1.Forward(s, x)
	pad := []int64{0, 0}
	for axis := len(g.sizes) - 1; axis >= 0; axis-- {
		pad = append(pad, 0, g.padded[axis]-g.sizes[axis])
	}
	filled := slices.Max(pad) > 0
	if filled {
		x = s.Pad(x, pad, 0)
	}
	shifted := k.shifted && g.shifts()
	if shifted {
		x = g.roll(s, x, -1)
	}
	windows := g.partition(s, x, g.n, g.c)
	x.Free()
	windows = s.Block(func(s *torch.Scope) *torch.Tensor {
		qkv := k.attention.project(s, windows)
		if s.Err() == nil && fast && !qkv.RequiresGrad() {
			var groups []windowGroup
			if shifted {
				groups = g.groups()
			}
			return k.attention.fused(s, qkv, groups)
		}
		var mask *torch.Tensor
		if shifted {
			mask = g.mask(s, windows.Device())
		}
		return k.attention.forward(s, qkv, mask)
	})
	x = g.reverse(s, windows)
	if shifted {
		x = g.roll(s, x, 1)
	}
	if filled {
		for axis, size := range g.sizes {
			x = s.SliceDim(x, int64(axis)+1, 0, size, 1)
		}
		x = s.Contiguous(x, torch.Contiguous)
	}
	return x
}

// windowAttention is multi-head self-attention within windows, with a learnt bias per relative
// position and head.
type windowAttention struct {
	module       *nn.Module
	table, index *nn.Param
	qkv, proj    *nn.Linear
	heads        int64
	scale        float64
}

func newWindowAttention(b nn.Builder, dim int, channels, heads int64,
	drawn *[]*nn.Module) *windowAttention {
	a := &windowAttention{module: nn.NewModule(), heads: heads}
	offsets := int64(1)
	for range dim {
		offsets *= 2*swinWindow - 1
	}
	index, tokens := relativePositions(dim)
	a.table, a.index = b.Param(offsets, heads), b.Buffer(index, tokens, tokens)
	a.qkv, a.proj = b.NewLinear(channels, 3*channels, true), b.NewLinear(channels, channels, true)
	a.module.Add("relative_position_bias_table", a.table)
	a.module.Add("relative_position_index", a.index)
	a.module.Child("qkv", a.qkv.Module)
	a.module.Child("attn_drop", nn.NewModule())
	a.module.Child("proj", a.proj.Module)
	a.module.Child("proj_drop", nn.NewModule())
	a.module.Child("softmax", nn.NewModule())
	a.module.OnReset(func(s *torch.Scope, g *torch.Generator) {
		nn.TruncatedNormal(s, g, a.table,
			0.02)
	})
	a.scale = math.Pow(float64(channels/heads), -0.5)
	*drawn = append(*drawn, a.qkv.Module, a.proj.Module, a.module)
	return a
}

// relativePositions returns, for tokens p and q of a full window in row-major order, the row of the
// bias table: the offset p - q with coordinates shifted to 0 … 12, as a base-13 number.
func relativePositions(dim int) (index []int64, tokens int64) {
	const base = 2*swinWindow - 1
	tokens = 1
	for range dim {
		tokens *= swinWindow
	}
	for p := range tokens {
		for q := range tokens {
			row, scale := int64(0), int64(1)
			for i, j, axis := p, q, 0; axis < dim; axis++ {
				row += (i%swinWindow - j%swinWindow + swinWindow - 1) * scale
				i, j, scale = i/swinWindow, j/swinWindow, scale*base
			}
			index = append(index, row)
		}
	}
	return index, tokens
}

// bias: (heads, t, t).
// Compat: a window with fewer than 7 tokens along an axis uses the first rows and columns of the
// full window's matrix, whatever the positions of its tokens.
func (a *windowAttention) bias(s *torch.Scope, t int64) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		index := s.Narrow(s.Narrow(a.index.T, 0, 0, t), 1, 0, t)
		rows := s.Reshape(a.lookup(s, s.Reshape(index, -1)), t, t, -1)
		return s.Contiguous(s.Permute(rows, 2, 0, 1), torch.Contiguous)
	})
}

// lookup selects rows of the table.
// Differs: with several threads the gradient of the reference's lookup is summed in an order that
// varies between runs; here, on the CPU, it is bit-equal to the reference on one thread.
func (a *windowAttention) lookup(s *torch.Scope, index *torch.Tensor) *torch.Tensor {
	if a.table.T.Device().Type == torch.DeviceCPU {
		return s.IndexSelect(a.table.T, 0, index)
	}
	return s.Index(a.table.T, index)
}

// project: x (w, t, c) → queries, keys and values (3, w, h, t, c/h).
func (a *windowAttention) project(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	shape := x.Shape()
	return s.Permute(s.Reshape(a.qkv.Forward(s, x), shape[0], shape[1], 3, a.heads,
		shape[2]/a.heads), 2, 0, 3, 1, 4)
}

// forward: qkv as project gives it → (w, t, c); mask (windows, t, t) or nil.
func (a *windowAttention) forward(s *torch.Scope, qkv, mask *torch.Tensor) *torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	shape := qkv.Shape()
	w, t := shape[1], shape[3]
	q, k, v := s.Select(qkv, 0, 0), s.Select(qkv, 0, 1), s.Select(qkv, 0, 2)
	attention := s.Block(func(s *torch.Scope) *torch.Tensor {
		return s.MatMul(s.MulScalar(q, a.scale), s.Transpose(k, -2, -1))
	})
	attention = s.Add(attention, s.Unsqueeze(a.bias(s, t), 0))
	if mask != nil {
		windows := mask.Shape()[0]
		attention = s.Reshape(attention, w/windows, windows, a.heads, t, t)
		attention = s.Reshape(s.Add(attention, s.Unsqueeze(s.Unsqueeze(mask, 1), 0)), -1, a.heads,
			t, t)
	}
	attention = s.Softmax(attention, -1)
	attention = s.To(attention, v.DType(), v.Device())
	return a.proj.Forward(s, s.Reshape(s.Transpose(s.MatMul(attention, v), 1, 2), w, t, -1))
}

// fused is forward with scaled_dot_product_attention, which does not materialise the whole
// attention matrix. It is for inference: with a trainable bias libtorch materialises it, and more.
// groups may be nil for one group without mask.
func (a *windowAttention) fused(s *torch.Scope, qkv *torch.Tensor,
	groups []windowGroup) *torch.Tensor {
	shape := qkv.Shape()
	w, t, device := shape[1], shape[3], qkv.Device()
	bias := s.Unsqueeze(a.bias(s, t), 0)
	attend := func(s *torch.Scope, qkv, bias *torch.Tensor) *torch.Tensor {
		bias = s.To(bias, qkv.DType(), device)
		return s.ScaledDotProductAttention(s.Select(qkv, 0, 0), s.Select(qkv, 0, 1),
			s.Select(qkv, 0, 2), bias, 0, a.scale)
	}
	if groups == nil {
		return a.proj.Forward(s, s.Reshape(s.Transpose(attend(s, qkv, bias), 1, 2), w, t, -1))
	}
	var parts []*torch.Tensor
	place := make([]int64, w) // position of a window's result among the parts
	next, perImage := int64(0), int64(0)
	for _, g := range groups {
		perImage += int64(len(g.windows))
	}
	for _, g := range groups {
		var index []int64
		for image := int64(0); image < w; image += perImage {
			for _, i := range g.windows {
				index = append(index, image+i)
				place[image+i] = next
				next++
			}
		}
		parts = append(parts, s.Block(func(s *torch.Scope) *torch.Tensor {
			bias := bias
			if g.mask != nil {
				bias = s.Add(bias, s.To(torch.FromSlice(s, g.mask, t, t), torch.Float32, device))
			}
			chosen := s.To(torch.FromSlice(s, index, int64(len(index))), torch.Int64, device)
			return attend(s, s.IndexSelect(qkv, 1, chosen), bias)
		}))
	}
	order := s.To(torch.FromSlice(s, place, w), torch.Int64, device)
	return a.proj.Forward(s, s.Reshape(s.Transpose(s.IndexSelect(s.Cat(0, parts...), 0, order), 1,
		2), w, t, -1))
}

// patchMerging concatenates the tokens of each 2×2(×2) neighbourhood and projects them to twice the
// channels.
type patchMerging struct {
	module  *nn.Module
	reduce  *nn.Linear
	norm    *nn.LayerNorm
	offsets [][]int64 // of the concatenated tokens, in order
}

func newPatchMerging(b nn.Builder, dim int, channels int64, drawn *[]*nn.Module) *patchMerging {
	m := &patchMerging{module: nn.NewModule()}
	// Compat: in 3d two of the eight neighbours are used twice and two are omitted, MONAI's default
	// ("merging").
	m.offsets = [][]int64{{0, 0, 0}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 0, 1}, {0, 1, 0},
		{0, 0, 1}, {1, 1, 1}}
	if dim == 2 {
		m.offsets = [][]int64{{0, 0}, {1, 0}, {0, 1}, {1, 1}}
	}
	joined := int64(len(m.offsets)) * channels
	m.reduce, m.norm = b.NewLinear(joined, 2*channels, false), b.NewLayerNorm(joined)
	m.module.Child("reduction", m.reduce.Module)
	m.module.Child("norm", m.norm.Module)
	*drawn = append(*drawn, m.reduce.Module)
	return m
}

// forward: (n, …, c) → (n, …/2, 2c). CheckInput ensures that sizes are even.
func (m *patchMerging) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if s.Err() != nil {
		return nil
	}
	shape := x.Shape()
	var parts []*torch.Tensor
	for _, offset := range m.offsets {
		part := x
		for axis, start := range offset {
			part = s.SliceDim(part, int64(axis)+1, start, shape[axis+1], 2)
		}
		parts = append(parts, part)
	}
	return m.reduce.Forward(s, m.norm.Forward(s, s.Cat(-1, parts...)))
}

// unetrBlock is UnetResBlock: two convolutions with instance norms and a residual connection, with
// a convolution if the channels change. Norms are not affine, convolutions have no bias.
type unetrBlock struct {
	module  *nn.Module
	wrapped *nn.Module // module under the name "layer", as UnetrBasicBlock has it
	convs   [2]*nn.Conv
	project *nn.Conv // nil if the channels do not change
	norm    *nn.InstanceNorm
	mode    *mode
}

func newUnetrBlock(b nn.Builder, m *mode, dim int, in, out int64, drawn *[]*nn.Module) *unetrBlock {
	r := &unetrBlock{module: nn.NewModule(), wrapped: nn.NewModule(),
		norm: b.NewInstanceNorm(out, swinEps, false), mode: m}
	r.wrapped.Child("layer", r.module)
	one := slices.Repeat([]int64{1}, dim)
	conv := func(name string, in, kernel int64) *nn.Conv {
		c := b.NewConv(in, out, slices.Repeat([]int64{kernel}, dim), one, false).DefaultInit()
		*drawn = append(*drawn, c.Module)
		holder := nn.NewModule()
		holder.Child("conv", c.Module)
		r.module.Child(name, holder)
		return c
	}
	r.convs = [2]*nn.Conv{conv("conv1", in, 3), conv("conv2", out, 3)}
	r.module.Child("lrelu", nn.NewModule())
	r.module.Child("norm1", r.norm.Module)
	r.module.Child("norm2", r.norm.Module)
	if in != out {
		r.project = conv("conv3", in, 1)
		r.module.Child("norm3", r.norm.Module)
	}
	return r
}

// forward: (n, in, …) → (n, out, …); x is not modified.
func (r *unetrBlock) forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if r.mode.fuses(x) {
		return r.forwardFused(s, x)
	}
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		y := s.Block(func(s *torch.Scope) *torch.Tensor {
			y := s.LeakyRelu_(s.Block(func(s *torch.Scope) *torch.Tensor {
				return r.norm.Forward(s,
					r.convs[0].Forward(s, x))
			}), swinSlope)
			return r.norm.Forward(s, r.convs[1].Forward(s, y))
		})
		skip := x
		if r.project != nil {
			skip = r.norm.Forward(s, r.project.Forward(s, x))
		}
		s.Add_(y, skip, 1)
		return s.LeakyRelu_(y, swinSlope)
	})
}

// forwardFused is forward with norm, sum and LeakyReLU as one operator, channels last.
func (r *unetrBlock) forwardFused(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		x = s.Contiguous(x, channelsLast(x.Dim()-2))
		y := s.Block(func(s *torch.Scope) *torch.Tensor {
			y := s.Block(func(s *torch.Scope) *torch.Tensor {
				return r.norm.ForwardLeakyReLU(s, r.convs[0].Forward(s, x), nil, swinSlope)
			})
			return r.convs[1].Forward(s, y)
		})
		skip := x
		if r.project != nil {
			skip = s.Block(func(s *torch.Scope) *torch.Tensor {
				return r.norm.ForwardLeakyReLU(s, r.project.Forward(s, x), nil, 1)
			})
		}
		return r.norm.ForwardLeakyReLU(s, y, skip, swinSlope)
	})
}

// unetrUp is UnetrUpBlock: it doubles the resolution, concatenates a skip connection and convolves.
type unetrUp struct {
	module *nn.Module
	up     *nn.ConvTranspose
	block  *unetrBlock
}

func newUnetrUp(b nn.Builder, m *mode, dim int, in, out int64, drawn *[]*nn.Module) *unetrUp {
	u := &unetrUp{module: nn.NewModule(),
		up: b.NewConvTranspose(in, out, slices.Repeat([]int64{2}, dim), false).DefaultInit()}
	*drawn = append(*drawn, u.up.Module)
	u.block = newUnetrBlock(b, m, dim, 2*out, out, drawn)
	holder := nn.NewModule()
	holder.Child("conv", u.up.Module)
	u.module.Child("transp_conv", holder)
	u.module.Child("conv_block", u.block.module)
	return u
}

func (u *unetrUp) forward(s *torch.Scope, x, skip *torch.Tensor) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		joined := s.Block(func(s *torch.Scope) *torch.Tensor {
			return s.Cat(1, u.up.Forward(s, x),
				skip)
		})
		return u.block.forward(s, joined)
	})
}

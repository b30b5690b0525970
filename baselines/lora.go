package baselines

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/formats/safetensors"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

func init() {
	finetune.Register(finetune.Entry{
		Name:    "lora",
		Trainer: "nnUNetTrainer_lora",
		Summary: "trains low-rank adapters of convolutions and linear layers, all biases and the " +
			"segmentation heads",
		LR:     1e-3,
		Epochs: 200,
		Options: []finetune.Option{
			{Name: "lora-rank", Default: "32", Help: "rank of the adapters"},
			{Name: "lora-alpha", Default: "16", Help: "adapters are scaled by alpha/rank"},
			{Name: "lora-dropout", Default: "0.1",
				Help: "dropout before the adapters; at 0 they are folded into the weights, which " +
					"is faster"},
			{Name: "lora-targets", Default: "conv",
				Help: "layers to adapt, as PEFT's target_modules: name suffixes separated by " +
					"commas, or a regular expression that matches the full name"},
			{Name: "lora-transposed", Default: "false", Values: []string{"false", "true"},
				Help: "adapt transposed convolutions too, which PEFT does not support"},
			{Name: "lora-init", Help: "PEFT folder with the initial lora_A and lora_B (default: " +
				"A random, B zero)"},
			{Name: "lora-as-released", Default: "false", Values: []string{"false", "true"},
				Help: "behave as the published trainer: adapters never run, biases and " +
					"segmentation heads train"},
		},
		New: newLora,
	})
}

// lora is LoRA as PEFT 0.14.0 computes it: y = base(x) + alpha/rank·B(A(dropout(x))), where A has
// the kernel, stride and padding of the base layer and B is a 1×1 convolution. The base weights are
// frozen. As in the released trainer, all biases and the segmentation heads train too.
//
// Differs: in the released trainer PEFT replaces an attribute of each block that the block's
// forward does not use, so the adapters never run; here they do. asReleased reproduces that
// behaviour.
// Source: LN-Seg-FM nnUNetTrainer_lora.py; PEFT 0.14.0 tuners/lora/layer.py.
type lora struct {
	rank                   int64
	alpha, dropout         float64
	targets                func(layer string) bool
	transposed, asReleased bool
	init                   string

	module  *nn.Module
	layers  []*loraLayer
	skipped int // transposed convolutions among the targets
}

func newLora(v finetune.Values) (finetune.Method, error) {
	m := &lora{transposed: v["lora-transposed"] == "true",
		asReleased: v["lora-as-released"] == "true", init: v["lora-init"]}
	var err error
	if m.rank, err = strconv.ParseInt(v["lora-rank"], 10, 64); err != nil || m.rank < 1 {
		return nil, fmt.Errorf("lora: --lora-rank %q: expected a whole number of 1 or more",
			v["lora-rank"])
	}
	if m.alpha, err = strconv.ParseFloat(v["lora-alpha"], 64); err != nil || !(m.alpha > 0) ||
		math.IsInf(m.alpha, 0) {
		return nil, fmt.Errorf("lora: --lora-alpha %q: expected a number above 0", v["lora-alpha"])
	}
	if m.dropout, err = strconv.ParseFloat(v["lora-dropout"], 64); err != nil ||
		!(m.dropout >= 0 && m.dropout < 1) {
		return nil, fmt.Errorf("lora: --lora-dropout %q: expected a number from 0 to below 1",
			v["lora-dropout"])
	}
	if m.targets, err = parseTargets(v["lora-targets"]); err != nil {
		return nil, fmt.Errorf("lora: --lora-targets %q: %w", v["lora-targets"], err)
	}
	return m, nil
}

// parseTargets returns the predicate on layer names that text describes.
func parseTargets(text string) (func(string) bool, error) {
	if strings.ContainsAny(text, `*+?()[]{}|^$\`) {
		re, err := regexp.Compile(`^(?:` + text + `)$`)
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	}
	suffixes := strings.Split(text, ",")
	for i, e := range suffixes {
		if suffixes[i] = strings.TrimSpace(e); suffixes[i] == "" {
			return nil, errors.New("a suffix is empty")
		}
	}
	return func(layer string) bool {
		return slices.ContainsFunc(suffixes, func(e string) bool { return endsWith(layer, e) })
	}, nil
}

// endsWith is PEFT's match of a layer name against an entry of target_modules.
func endsWith(layer, end string) bool { return layer == end || strings.HasSuffix(layer, "."+end) }

// Trains is the released trainer's rule, which depends only on the name.
func (m *lora) Trains(name string, _ []int64) bool {
	return strings.Contains(name, ".lora_") || models.IsHead(name) || strings.Contains(name, "bias")
}

// Notes describes the adapters, and where they differ from ordinary LoRA.
func (m *lora) Notes() []string {
	if m.asReleased {
		return []string{"lora as released: the adapters never run, because PEFT replaces an " +
			"attribute that the blocks' forward does not use; " +
			"only biases and segmentation heads train"}
	}
	notes := []string{fmt.Sprintf("lora: %d layers adapted, rank %d, alpha %g, dropout %g",
		len(m.layers), m.rank, m.alpha, m.dropout)}
	if m.skipped > 0 {
		notes = append(notes, fmt.Sprintf("lora: %d transposed convolutions are among the "+
			"targets and are not adapted; --lora-transposed adapts them", m.skipped))
	}
	return notes
}

// Inject attaches an A and a B to every target layer.
func (m *lora) Inject(in finetune.Injection) error {
	if m.asReleased {
		return nil
	}
	m.module = in.Module
	gen, err := torch.NewGenerator(torch.CPU, in.Seed)
	if err != nil {
		return err
	}
	defer gen.Close()
	m.layers, m.skipped = nil, 0
	var names []string
	for _, p := range in.Module.Parameters() {
		layer, ok := strings.CutSuffix(p.Name, ".weight")
		if !ok || p.Use == nn.NoWeight || models.IsHead(p.Name) {
			continue
		}
		names = append(names, layer)
		if !m.targets(layer) {
			continue
		}
		if p.Use == nn.ConvTransposeWeight && !m.transposed {
			m.skipped++
			continue
		}
		l := m.newLayer(in, layer, p.Param)
		if err := l.reset(gen); err != nil {
			return fmt.Errorf("lora: %s: %w", layer, err)
		}
		p.Adapter = l
		m.layers = append(m.layers, l)
	}
	if len(m.layers) == 0 {
		return fmt.Errorf("lora: --lora-targets matches none of the %d layers of this network; "+
			"their names end in %s", len(names), strings.Join(lastComponents(names), ", "))
	}
	if m.init != "" {
		return m.load(m.init)
	}
	return in.Builder.Scope.Err()
}

// lastComponents lists the distinct last components of names.
func lastComponents(names []string) []string {
	seen := map[string]bool{}
	var list []string
	for _, n := range names {
		end := "…." + n[strings.LastIndex(n, ".")+1:]
		if !seen[end] {
			list = append(list, end)
		}
		seen[end] = true
	}
	return list
}

// newLayer creates the parameters of one layer's adapter.
func (m *lora) newLayer(in finetune.Injection, name string, weight *nn.Param) *loraLayer {
	w := weight.Shape
	l := &loraLayer{name: name, weight: weight, scaling: m.alpha / float64(m.rank),
		dropout: m.dropout, training: true, fast: !in.Reference, lean: !in.Reference}
	a, out := append([]int64{m.rank, w[1]}, w[2:]...), w[0]
	l.fanIn = w[1]
	for _, k := range w[2:] {
		l.fanIn *= k
	}
	if weight.Use == nn.ConvTransposeWeight {
		// Where the stride equals the kernel size, an output voxel of a transposed convolution sums
		// one product per input channel.
		a, out, l.fanIn = append([]int64{w[0], m.rank}, w[2:]...), w[1], w[0]
	}
	b := []int64{out, m.rank}
	for range w[2:] {
		b = append(b, 1)
	}
	l.a, l.b = in.Builder.Param(a...), in.Builder.Param(b...)
	return l
}

// Merge adds the adapters to the weights and detaches them.
func (m *lora) Merge() error {
	return torch.NoGrad(func() error {
		for _, l := range m.layers {
			err := torch.With(func(s *torch.Scope) error {
				s.Copy_(l.weight.T, l.Merged(s, l.weight.T), false)
				return s.Err()
			})
			if err != nil {
				return fmt.Errorf("lora: %s: %w", l.name, err)
			}
			l.weight.Adapter = nil
		}
		m.layers = nil
		return nil
	})
}

// Name prefixes of the tensors in the state. The network weights of a checkpoint have the adapters
// merged in, so that any program can use them; resuming needs the frozen weights, bit for bit.
const (
	stateA      = "A/"
	stateB      = "B/"
	stateFrozen = "frozen/"
)

// State holds the adapters and the frozen weights of the adapted layers. Dropout has no state: it
// is seeded in each iteration.
func (m *lora) State() ([]finetune.StateEntry, error) {
	var state []finetune.StateEntry
	for _, l := range m.layers {
		for kind, p := range l.tensors() {
			b, err := bytesOf(p)
			if err != nil {
				return nil, fmt.Errorf("lora: %s%s: %w", kind, l.name, err)
			}
			state = append(state, finetune.StateEntry{Name: kind + l.name, Value: b})
		}
	}
	slices.SortFunc(state, func(a, b finetune.StateEntry) int {
		return strings.Compare(a.Name,
			b.Name)
	})
	return state, nil
}

// Restore loads the result of State into the network passed to Inject.
func (m *lora) Restore(state []finetune.StateEntry) error {
	values := map[string][]byte{}
	for _, e := range state {
		b, ok := e.Value.([]byte)
		if !ok {
			return fmt.Errorf("lora: state %q of the checkpoint has an unexpected type; is it a "+
				"checkpoint of another version of lntorch?", e.Name)
		}
		values[e.Name] = b
	}
	if len(values) != 3*len(m.layers) {
		return fmt.Errorf("lora: the checkpoint holds %d adapter tensors, expected %d for this "+
			"network and these --lora-… settings", len(values), 3*len(m.layers))
	}
	for _, l := range m.layers {
		for kind, p := range l.tensors() {
			b, ok := values[kind+l.name]
			if !ok {
				return fmt.Errorf("lora: the checkpoint has no adapter of %s", l.name)
			}
			if want := p.T.Numel() * p.T.DType().Size(); int64(len(b)) != want {
				return fmt.Errorf("lora: %s%s has %d bytes in the checkpoint, expected %d", kind,
					l.name, len(b), want)
			}
			if err := p.T.CopyBytesIn(b); err != nil {
				return fmt.Errorf("lora: %s%s: %w", kind, l.name, err)
			}
		}
	}
	return nil
}

func bytesOf(p *nn.Param) ([]byte, error) {
	b := make([]byte, p.T.Numel()*p.T.DType().Size())
	return b, p.T.CopyBytesOut(b)
}

// load reads A and B from a PEFT folder, which must have the same rank, scaling and layers.
func (m *lora) load(folder string) error {
	a, err := peft.Open(folder, models.CanonicalLayer)
	if err != nil {
		return fmt.Errorf("lora: --lora-init: %w", err)
	}
	defer a.Close()
	from := map[string]peft.Layer{}
	for _, l := range a.Layers {
		from[l.Name] = l
	}
	for _, l := range m.layers {
		f, ok := from[l.name]
		if !ok {
			return fmt.Errorf("lora: --lora-init %s: it has no adapter of %s; check that "+
				"--lora-targets are the same", folder, l.name)
		}
		if f.Scaling != l.scaling {
			return fmt.Errorf("lora: --lora-init %s: the scaling of %s is %g, expected %g from "+
				"--lora-alpha and --lora-rank", folder, l.name, f.Scaling, l.scaling)
		}
		if f.Init != peft.Plain {
			return fmt.Errorf("lora: --lora-init %s: init_lora_weights in its %s modified the "+
				"base weights; merge it (lntorch merge) and start from the result, or convert it "+
				"to a plain LoRA adapter with PEFT",
				folder, peft.ConfigFile)
		}
		for part, t := range map[string]*pth.Tensor{"lora_A": f.A, "lora_B": f.B} {
			p := map[string]*nn.Param{"lora_A": l.a, "lora_B": l.b}[part]
			if !slices.Equal(t.Size, p.Shape) {
				return fmt.Errorf("lora: --lora-init %s: %s of %s has shape %v, expected %v",
					folder, part, l.name, t.Size, p.Shape)
			}
			b := make([]byte, t.Bytes())
			if err := t.ReadInto(b); err != nil {
				return fmt.Errorf("lora: --lora-init: %w", err)
			}
			if err := p.T.CopyBytesIn(b); err != nil {
				return fmt.Errorf("lora: --lora-init %s: %s of %s: %w", folder, part, l.name, err)
			}
		}
	}
	return nil
}

// Export writes a PEFT folder named adapter with lora_A, lora_B and the other trained parameters:
// biases (bias: all) and the segmentation heads (modules_to_save). Aliases are written under each
// of their names, as PEFT does.
func (m *lora) Export(folder string, about map[string]string) (string, error) {
	if m.asReleased {
		return "", nil
	}
	c := peft.Config{Rank: int(m.rank), Alpha: m.alpha, Dropout: m.dropout, Bias: "none",
		Targets: m.targetNames()}
	first := map[*nn.Param]string{}
	layers := map[string]*loraLayer{} // by the layer's name and its aliases
	var entries []safetensors.Entry
	add := func(name string, p *nn.Param) error {
		b, err := bytesOf(p)
		if err != nil {
			return fmt.Errorf("lora: %s: %w", name, err)
		}
		entries = append(entries, safetensors.Entry{Name: peft.Prefix + name,
			DType: safetensors.Float32, Shape: p.Shape, Read: safetensors.Bytes(b)})
		return nil
	}
	for _, p := range m.module.StateDict() {
		if first[p.Param] == "" {
			first[p.Param] = p.Name
		}
		l, ok := p.Adapter.(*loraLayer)
		layer := strings.TrimSuffix(p.Name, ".weight")
		// PEFT replaces the layer only under its own name; its alias with a number stays plain.
		if !ok || !endsWith(layer, l.name[strings.LastIndex(l.name, ".")+1:]) {
			continue
		}
		layers[layer] = l
		if l.weight.Use == nn.ConvTransposeWeight {
			c.Transposed = append(c.Transposed, layer)
		}
		if err := errors.Join(add(layer+".lora_A.weight", l.a), add(layer+".lora_B.weight",
			l.b)); err != nil {
			return "", err
		}
	}
	for _, p := range m.module.StateDict() {
		if p.Buffer || !m.Trains(first[p.Param], p.Shape) {
			continue
		}
		name := p.Name
		layer := name[:strings.LastIndex(name, ".")]
		if models.IsHead(name) {
			if !slices.Contains(c.ModulesToSave, layer) {
				c.ModulesToSave = append(c.ModulesToSave, layer)
			}
		} else {
			c.Bias = "all"
			if layers[layer] != nil {
				name = layer + ".base_layer" + name[len(layer):]
			}
		}
		if err := add(name, p.Param); err != nil {
			return "", err
		}
	}
	path := filepath.Join(folder, "adapter")
	return path, peft.Save(path, c, entries, about)
}

// targetNames returns name suffixes that match the adapted layers and no others; if there are none,
// the full names.
func (m *lora) targetNames() []string {
	adapted := map[string]bool{}
	var short, long []string
	for _, l := range m.layers {
		adapted[l.name] = true
		long = append(long, l.name)
		if end := l.name[strings.LastIndex(l.name, ".")+1:]; !slices.Contains(short, end) {
			short = append(short, end)
		}
	}
	for _, module := range m.module.Metadata() {
		for _, end := range short {
			if endsWith(module.Path, end) && !adapted[module.Path] && !m.alias(module.Path) {
				return long
			}
		}
	}
	return short
}

// alias reports whether a layer's weight is an adapted one under another name.
func (m *lora) alias(layer string) bool {
	for _, p := range m.module.StateDict() {
		if p.Name == layer+".weight" {
			return p.Adapter != nil
		}
	}
	return false
}

// loraLayer is the adapter of one layer.
type loraLayer struct {
	name             string
	weight           *nn.Param
	a, b             *nn.Param
	scaling, dropout float64
	fanIn            int64
	training, fast   bool
	lean             bool // use DropoutLean, which is faster and draws other masks
}

func (l *loraLayer) tensors() map[string]*nn.Param {
	return map[string]*nn.Param{stateA: l.a, stateB: l.b, stateFrozen: l.weight}
}

// reset draws A as PEFT does, by torch's kaiming_uniform_ with a = √5, which is U(±1/√fan_in), and
// sets B to 0. The values are drawn on the CPU, so a seed gives the same adapters on every device.
func (l *loraLayer) reset(g *torch.Generator) error {
	return torch.NoGrad(func() error {
		return torch.With(func(s *torch.Scope) error {
			bound := 1 / math.Sqrt(float64(l.fanIn))
			t := s.Empty(l.a.Shape, torch.Float32, torch.CPU)
			s.Uniform_(t, -bound, bound, g)
			s.Copy_(l.a.T, t, false)
			s.Fill_(l.b.T, 0)
			return s.Err()
		})
	})
}

// Params: see nn.Adapter; the names are PEFT's.
func (l *loraLayer) Params() []nn.Named {
	return []nn.Named{{Name: "lora_A.default.weight", Param: l.a}, {Name: "lora_B.default.weight",
		Param: l.b}}
}

// SetTraining turns dropout on or off.
func (l *loraLayer) SetTraining(on bool) { l.training = on }

// Folds reports whether one convolution with W + ΔW replaces PEFT's three: without dropout it does.
func (l *loraLayer) Folds() bool { return l.fast && (l.dropout == 0 || !l.training) }

// Merged is W + scaling·B·A, also for 1×1×1 kernels, on which PEFT 0.14.0 fails.
func (l *loraLayer) Merged(s *torch.Scope, weight *torch.Tensor) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor {
		return s.AddScaled(weight, l.product(s),
			l.scaling)
	})
}

// product is B·A in the weight's shape.
func (l *loraLayer) product(s *torch.Scope) *torch.Tensor {
	w, r := l.weight.Shape, l.b.Shape[1]
	a := s.Reshape(l.a.T, r, -1)
	if l.weight.Use == nn.ConvTransposeWeight {
		a = s.Reshape(l.a.T, w[0], r, -1) // the product is (in, out, kernel)
	}
	return s.Reshape(s.MatMul(s.Reshape(l.b.T, l.b.Shape[0], r), a), w...)
}

// Forward is PEFT's: the output of the base layer plus scaling·B(A(dropout(x))).
//
// With dropout the two cannot be one convolution. In convolutions of the layer's size, full
// fine-tuning costs three (forward, gradients of input and weight). Here the base costs two,
// because its weight is frozen, and A costs 3·rank/out, or three when combined with B: 5/3 of full
// fine-tuning where out is at most the rank, as in the most expensive layers.
func (l *loraLayer) Forward(s *torch.Scope, x, weight, bias *torch.Tensor,
	run func(x, weight, bias *torch.Tensor) *torch.Tensor) *torch.Tensor {
	out := run(x, weight, bias)
	switch {
	case l.dropout > 0 && l.lean:
		x = s.DropoutLean(x, l.dropout, l.training)
	case l.dropout > 0:
		x = s.Dropout(x, l.dropout, l.training)
	}
	if !l.fast {
		return s.Add(out, s.MulScalar(l.up(s, run(x, l.a.T, nil), l.b.T), l.scaling))
	}
	err := s.With(func(s *torch.Scope) error {
		// With at least as many channels between A and B as after B, B·A is one convolution as wide
		// as the layer.
		if l.b.Shape[0] <= l.b.Shape[1] {
			s.Add_(out, run(x, s.MulScalar(l.product(s), l.scaling), nil), 1)
		} else {
			s.Add_(out, l.up(s, run(x, l.a.T, nil), s.MulScalar(l.b.T, l.scaling)), 1)
		}
		return nil
	})
	if err != nil { // already recorded in s
		return nil
	}
	return out
}

// up applies B.
func (l *loraLayer) up(s *torch.Scope, low, b *torch.Tensor) *torch.Tensor {
	axes := len(l.b.Shape) - 2
	if axes == 0 {
		return s.Linear(low, b, nil)
	}
	one, zero := make([]int64, axes), make([]int64, axes)
	for i := range one {
		one[i] = 1
	}
	return s.Conv(low, b, nil, one, zero, one, 1)
}

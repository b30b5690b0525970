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
		Summary: "low-rank adapters of convolutions and linear layers, with all biases and the segmentation heads",
		LR:      1e-3,
		Epochs:  200,
		Options: []finetune.Option{
			{Name: "lora-rank", Default: "32", Help: "rank of the adapters"},
			{Name: "lora-alpha", Default: "16", Help: "adapters are scaled by alpha/rank"},
			{Name: "lora-dropout", Default: "0.1", Help: "dropout before the adapters; at 0 they are folded into the weights, which is faster"},
			{Name: "lora-targets", Default: "conv", Help: "layers to adapt: ends of their names, with commas, as PEFT's target_modules; or a regular expression of the whole name"},
			{Name: "lora-transposed", Default: "false", Values: []string{"false", "true"}, Help: "adapt transposed convolutions too, which PEFT cannot"},
			{Name: "lora-init", Help: "PEFT folder whose lora_A and lora_B to begin with (default: A random, B zero)"},
			{Name: "lora-as-released", Default: "false", Values: []string{"false", "true"},
				Help: "as the published trainer behaves: adapters never run, biases and segmentation heads train"},
		},
		New: newLora,
	})
}

// lora is LoRA as PEFT 0.14.0 computes it: y = base(x) + alpha/rank·B(A(dropout(x))), where A has the base layer's geometry
// and B is a 1×1 convolution. The base weights are frozen; as in the released trainer all biases and the segmentation
// heads train too.
//
// Differs: in the released trainer PEFT replaces an attribute of each block that the block's forward does not use, so that
// the adapters never run; here they do. asReleased is what it does in effect.
// Source: LN-Seg-FM nnUNetTrainer_lora.py; PEFT 0.14.0 tuners/lora/layer.py.
type lora struct {
	rank                   int64
	alpha, dropout         float64
	targets                func(layer string) bool
	transposed, asReleased bool
	init                   string

	module *nn.Module
	layers []*loraLayer
	left   int // transposed convolutions that the targets name
}

func newLora(v finetune.Values) (finetune.Method, error) {
	m := &lora{transposed: v["lora-transposed"] == "true", asReleased: v["lora-as-released"] == "true", init: v["lora-init"]}
	var err error
	if m.rank, err = strconv.ParseInt(v["lora-rank"], 10, 64); err != nil || m.rank < 1 {
		return nil, fmt.Errorf("lora: --lora-rank %q: expected a whole number of 1 or more", v["lora-rank"])
	}
	if m.alpha, err = strconv.ParseFloat(v["lora-alpha"], 64); err != nil || !(m.alpha > 0) || math.IsInf(m.alpha, 0) {
		return nil, fmt.Errorf("lora: --lora-alpha %q: expected a number above 0", v["lora-alpha"])
	}
	if m.dropout, err = strconv.ParseFloat(v["lora-dropout"], 64); err != nil || !(m.dropout >= 0 && m.dropout < 1) {
		return nil, fmt.Errorf("lora: --lora-dropout %q: expected a number from 0 to below 1", v["lora-dropout"])
	}
	if m.targets, err = parseTargets(v["lora-targets"]); err != nil {
		return nil, fmt.Errorf("lora: --lora-targets %q: %w", v["lora-targets"], err)
	}
	return m, nil
}

// parseTargets makes the test of a layer's name.
func parseTargets(text string) (func(string) bool, error) {
	if strings.ContainsAny(text, `*+?()[]{}|^$\`) {
		re, err := regexp.Compile(`^(?:` + text + `)$`)
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	}
	ends := strings.Split(text, ",")
	for i, e := range ends {
		if ends[i] = strings.TrimSpace(e); ends[i] == "" {
			return nil, errors.New("an end of a name is empty")
		}
	}
	return func(layer string) bool {
		return slices.ContainsFunc(ends, func(e string) bool { return endsWith(layer, e) })
	}, nil
}

// endsWith is PEFT's test of a layer against an entry of target_modules.
func endsWith(layer, end string) bool { return layer == end || strings.HasSuffix(layer, "."+end) }

// Trains is the released trainer's rule of names.
func (m *lora) Trains(name string, _ []int64) bool {
	return strings.Contains(name, ".lora_") || models.IsHead(name) || strings.Contains(name, "bias")
}

// Notes says what an ordinary LoRA would not do.
func (m *lora) Notes() []string {
	if m.asReleased {
		return []string{"lora as released: the adapters never run, for PEFT replaces an attribute that the blocks' forward does not use; " +
			"biases and segmentation heads train, and nothing else"}
	}
	notes := []string{fmt.Sprintf("lora: %d layers adapted, rank %d, alpha %g, dropout %g", len(m.layers), m.rank, m.alpha, m.dropout)}
	if m.left > 0 {
		notes = append(notes, fmt.Sprintf("lora: %d transposed convolutions are among the targets and stay as they are; --lora-transposed adapts them", m.left))
	}
	return notes
}

// Inject gives every targeted layer its A and B.
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
	m.layers, m.left = nil, 0
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
			m.left++
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
		return fmt.Errorf("lora: --lora-targets names none of this network's %d layers, which are %s", len(names), strings.Join(ends(names), ", "))
	}
	if m.init != "" {
		return m.load(m.init)
	}
	return in.Builder.Scope.Err()
}

// ends lists the different last components of names.
func ends(names []string) []string {
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

// newLayer makes the parameters of one layer's adapter.
func (m *lora) newLayer(in finetune.Injection, name string, weight *nn.Param) *loraLayer {
	w := weight.Shape
	l := &loraLayer{name: name, weight: weight, scaling: m.alpha / float64(m.rank), dropout: m.dropout, training: true, fast: !in.Reference, lean: !in.Reference}
	a, out := append([]int64{m.rank, w[1]}, w[2:]...), w[0]
	l.fanIn = w[1]
	for _, k := range w[2:] {
		l.fanIn *= k
	}
	if weight.Use == nn.ConvTransposeWeight {
		// An output voxel of a transposed convolution whose stride is its kernel adds up one product for each input channel.
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

// The kinds of tensors in the state. A checkpoint's own weights have the adapters merged in, so that every program can
// use them; going on needs the frozen weight, to the bit.
const (
	stateA      = "A/"
	stateB      = "B/"
	stateFrozen = "frozen/"
)

// State carries the adapters and the frozen weights below them. Dropout needs none: each iteration seeds it.
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
	slices.SortFunc(state, func(a, b finetune.StateEntry) int { return strings.Compare(a.Name, b.Name) })
	return state, nil
}

// Restore takes what State gave, into the network that Inject has seen.
func (m *lora) Restore(state []finetune.StateEntry) error {
	values := map[string][]byte{}
	for _, e := range state {
		b, ok := e.Value.([]byte)
		if !ok {
			return fmt.Errorf("lora: state %q of type %T is not understood", e.Name, e.Value)
		}
		values[e.Name] = b
	}
	if len(values) != 3*len(m.layers) {
		return fmt.Errorf("lora: the checkpoint holds %d tensors of adapters, the network with these --lora-… settings has %d", len(values), 3*len(m.layers))
	}
	for _, l := range m.layers {
		for kind, p := range l.tensors() {
			b, ok := values[kind+l.name]
			if !ok {
				return fmt.Errorf("lora: the checkpoint has no adapter of %s", l.name)
			}
			if want := p.T.Numel() * p.T.DType().Size(); int64(len(b)) != want {
				return fmt.Errorf("lora: %s%s has %d bytes in the checkpoint, expected %d", kind, l.name, len(b), want)
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

// load takes A and B from a PEFT folder, which must be of this rank and scaling and have exactly these layers.
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
			return fmt.Errorf("lora: --lora-init %s: it has no adapter of %s; are --lora-targets the same?", folder, l.name)
		}
		if f.Scaling != l.scaling {
			return fmt.Errorf("lora: --lora-init %s: %s is scaled by %g, --lora-alpha and --lora-rank mean %g", folder, l.name, f.Scaling, l.scaling)
		}
		if f.Init != peft.Plain {
			return fmt.Errorf("lora: --lora-init %s: its init_lora_weights of %s changed the weights that it was trained on; merge it (lntorch merge) and begin with the result, or give an adapter that PEFT made a plain one",
				folder, peft.ConfigFile)
		}
		for part, t := range map[string]*pth.Tensor{"lora_A": f.A, "lora_B": f.B} {
			p := map[string]*nn.Param{"lora_A": l.a, "lora_B": l.b}[part]
			if !slices.Equal(t.Size, p.Shape) {
				return fmt.Errorf("lora: --lora-init %s: %s of %s has shape %v, expected %v", folder, part, l.name, t.Size, p.Shape)
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

// Export writes a PEFT folder, "adapter": lora_A and lora_B, and whatever else trained: biases (bias: all) and the
// segmentation heads (modules_to_save). Aliases stand under each of their names, as PEFT writes them.
func (m *lora) Export(folder string, about map[string]string) (string, error) {
	if m.asReleased {
		return "", nil
	}
	c := peft.Config{Rank: int(m.rank), Alpha: m.alpha, Dropout: m.dropout, Bias: "none", Targets: m.targetNames()}
	first := map[*nn.Param]string{}
	layers := map[string]*loraLayer{} // by the layer's name and its aliases
	var entries []safetensors.Entry
	add := func(name string, p *nn.Param) error {
		b, err := bytesOf(p)
		if err != nil {
			return fmt.Errorf("lora: %s: %w", name, err)
		}
		entries = append(entries, safetensors.Entry{Name: peft.Prefix + name, DType: safetensors.Float32, Shape: p.Shape, Read: safetensors.Bytes(b)})
		return nil
	}
	for _, p := range m.module.StateDict() {
		if first[p.Param] == "" {
			first[p.Param] = p.Name
		}
		l, ok := p.Adapter.(*loraLayer)
		layer := strings.TrimSuffix(p.Name, ".weight")
		// PEFT replaces the layer where it stands under its own name; where it is listed again, under a number, it stays plain.
		if !ok || !endsWith(layer, l.name[strings.LastIndex(l.name, ".")+1:]) {
			continue
		}
		layers[layer] = l
		if l.weight.Use == nn.ConvTransposeWeight {
			c.Transposed = append(c.Transposed, layer)
		}
		if err := errors.Join(add(layer+".lora_A.weight", l.a), add(layer+".lora_B.weight", l.b)); err != nil {
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

// targetNames are the ends of names that mean the adapted layers and no others; failing that, their whole names.
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

// alias tells whether a layer's weight is an adapted one under another name.
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
	lean             bool // dropout by DropoutLean: fast, with a mask of its own
}

func (l *loraLayer) tensors() map[string]*nn.Param {
	return map[string]*nn.Param{stateA: l.a, stateB: l.b, stateFrozen: l.weight}
}

// reset draws A as PEFT does, by torch's kaiming_uniform_ with a = √5, which is U(±1/√fan_in), and sets B to 0. The numbers
// are drawn on the CPU, so that a seed gives the same adapters on every device.
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
	return []nn.Named{{Name: "lora_A.default.weight", Param: l.a}, {Name: "lora_B.default.weight", Param: l.b}}
}

// SetTraining switches dropout.
func (l *loraLayer) SetTraining(on bool) { l.training = on }

// Folds: without dropout one convolution with W + ΔW does what PEFT does with three.
func (l *loraLayer) Folds() bool { return l.fast && (l.dropout == 0 || !l.training) }

// Merged is W + scaling·B·A. For a 1×1×1 kernel too, where PEFT 0.14.0 fails.
func (l *loraLayer) Merged(s *torch.Scope, weight *torch.Tensor) *torch.Tensor {
	return s.Block(func(s *torch.Scope) *torch.Tensor { return s.AddScaled(weight, l.product(s), l.scaling) })
}

// product is B·A, of the weight's shape.
func (l *loraLayer) product(s *torch.Scope) *torch.Tensor {
	w, r := l.weight.Shape, l.b.Shape[1]
	a := s.Reshape(l.a.T, r, -1)
	if l.weight.Use == nn.ConvTransposeWeight {
		a = s.Reshape(l.a.T, w[0], r, -1) // the product is (in, out, kernel)
	}
	return s.Reshape(s.MatMul(s.Reshape(l.b.T, l.b.Shape[0], r), a), w...)
}

// Forward is PEFT's: the layer's own output plus scaling·B(A(dropout(x))).
//
// Dropout keeps the two from being one convolution. Counted in convolutions of the layer's size, full fine-tuning takes three
// (forward, gradients of input and weight). Here the base takes two, for its weight is frozen, and A takes 3·rank/out, or,
// together with B, three: 5/3 of full fine-tuning's work where out is at most the rank, as in the layers that cost most.
func (l *loraLayer) Forward(s *torch.Scope, x, weight, bias *torch.Tensor, run func(x, weight, bias *torch.Tensor) *torch.Tensor) *torch.Tensor {
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
		if l.b.Shape[0] <= l.b.Shape[1] { // no fewer channels between A and B than behind them: both in one, as wide as the layer
			s.Add_(out, run(x, s.MulScalar(l.product(s), l.scaling), nil), 1)
		} else {
			s.Add_(out, l.up(s, run(x, l.a.T, nil), s.MulScalar(l.b.T, l.scaling)), 1)
		}
		return nil
	})
	if err != nil { // s has it already
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

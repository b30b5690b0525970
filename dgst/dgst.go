// Package dgst implements Dynamic Gradient Sparsification Training (Luo et al., 2025): each
// iteration updates only the k entries with the largest gradients in each row of a weight; norms,
// biases and segmentation heads train densely.
//
// It selects entries and update rules. Gradients come from the training loop (package train),
// momentum and the update itself from torch/optim. Rules follow LN-Seg-FM's nnUNetTrainer_DGST.py.
package dgst

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

func init() {
	finetune.Register(finetune.Entry{
		Name:    "dgst",
		Trainer: "nnUNetTrainer_DGST",
		Summary: "updates the k entries with the largest gradients in each weight row (dynamic " +
			"gradient sparsification)",
		LR:     1e-3,
		Epochs: 50,
		Options: []finetune.Option{
			{Name: "dgst-k", Default: "2", Help: "entries selected per row"},
			{Name: "dgst-select", Default: string(Dynamic),
				Values: []string{string(Dynamic), string(Static), string(Random)},
				Help: "selection by the gradients of every iteration, by those of the first " +
					"iterations only, or at random"},
			{Name: "dgst-warmup", Default: "1",
				Help: "static selection: number of iterations whose summed gradients select the " +
					"entries; no weight is updated before the last of them"},
			{Name: "dgst-rows", Default: string(Axis0),
				Values: []string{string(Axis0), string(Output), string(Kernel)},
				Help: "a row is an index of axis 0, as released (an input channel of transposed " +
					"convolutions), an output channel of every layer, or one (out,in) kernel"},
			{Name: "dgst-mode", Default: string(GradMask),
				Values: []string{string(GradMask), string(Strict), string(Paper), string(Released)},
				Help: "what the mask applies to: the gradient, the whole update, plain gradient " +
					"descent, or nothing, as in the released file"},
		},
		New: newFromValues,
	})
}

// Mode is what a mask applies to.
type Mode string

// Modes. GradMask is what the released code intends. Strict is the same without drift of entries
// outside the mask. Paper is the paper's formula. Released is what the released file does: its
// masks stay empty, so it is full fine-tuning.
const (
	GradMask Mode = "gradmask"
	Strict   Mode = "strict"
	Paper    Mode = "paper"
	Released Mode = "released"
)

var rules = map[Mode]torch.Rule{GradMask: torch.GradMasked, Strict: torch.UpdateMasked,
	Paper: torch.Plain}

// Select is how the entries of a row are selected.
type Select string

// Selections. Dynamic: the largest gradients of each iteration. Static: the largest summed
// gradients of the first Warmup iterations, then constant. Random: drawn at random in each
// iteration.
const (
	Dynamic Select = "dynamic"
	Static  Select = "static"
	Random  Select = "random"
)

// Config holds DGST's settings.
type Config struct {
	K      int64 // entries per row; LN-Seg-FM calls it γ and time_para, and uses 2
	Mode   Mode
	Select Select // "": Dynamic
	Rows   Rows   // "": Axis0
	// Warmup is the number of iterations whose summed gradients determine a static selection; 0
	// means 1. No weight is updated before the last of them.
	Warmup int64
}

// Method is DGST. Close frees the tensors it holds.
type Method struct {
	cfg     Config
	seed    uint64
	fixed   fixed
	touched map[string][]uint64 // one bit per entry, set once it was updated; by parameter name
	step    int64
	ever    int64
}

func newFromValues(v finetune.Values) (finetune.Method, error) {
	counts := map[string]int64{"dgst-k": 0, "dgst-warmup": 0}
	for name := range counts {
		n, err := strconv.ParseInt(v[name], 10, 64)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("dgst: --%s %q: expected a whole number of 1 or more", name,
				v[name])
		}
		counts[name] = n
	}
	return New(Config{K: counts["dgst-k"], Warmup: counts["dgst-warmup"],
		Mode: Mode(v["dgst-mode"]), Select: Select(v["dgst-select"]),
		Rows: Rows(v["dgst-rows"])})
}

// New validates cfg, fills in its defaults and returns the method.
func New(cfg Config) (*Method, error) {
	if cfg.Select == "" {
		cfg.Select = Dynamic
	}
	if cfg.Rows == "" {
		cfg.Rows = Axis0
	}
	if cfg.Warmup == 0 {
		cfg.Warmup = 1
	}
	if _, ok := rules[cfg.Mode]; !ok && cfg.Mode != Released {
		return nil, fmt.Errorf("dgst: mode %q: expected gradmask, strict, paper or released",
			cfg.Mode)
	}
	if cfg.Select != Dynamic && cfg.Select != Static && cfg.Select != Random {
		return nil, fmt.Errorf("dgst: selection %q: expected dynamic, static or random", cfg.Select)
	}
	if cfg.Rows != Axis0 && cfg.Rows != Output && cfg.Rows != Kernel {
		return nil, fmt.Errorf("dgst: rows %q: expected axis0, output or kernel", cfg.Rows)
	}
	if cfg.K < 1 || cfg.Warmup < 1 {
		return nil, fmt.Errorf("dgst: k is %d and warmup %d, expected 1 or more", cfg.K, cfg.Warmup)
	}
	if cfg.Warmup > 1 && cfg.Select != Static {
		return nil, fmt.Errorf("dgst: --dgst-warmup %d: only static selection accumulates "+
			"gradients, not %s; use --dgst-select static", cfg.Warmup, cfg.Select)
	}
	return &Method{cfg: cfg, touched: map[string][]uint64{}}, nil
}

// Seed sets the seed of random selection (finetune.Seeded).
func (m *Method) Seed(seed uint64) { m.seed = seed }

// Close frees the static masks (io.Closer, called by the training loop).
func (m *Method) Close() error {
	m.fixed.close()
	return nil
}

// Trains reports true: every parameter is in DGST's optimizer; Update selects the entries.
func (m *Method) Trains(string, []int64) bool { return true }

// FixedFrom returns the iteration from which static masks are constant (finetune.Fixed).
func (m *Method) FixedFrom() (int64, bool) { return m.cfg.Warmup - 1, m.cfg.Select == Static }

// Entries returns the number of entries of a parameter that are selected per step (finetune.Sparse).
func (m *Method) Entries(name string, shape []int64) int64 {
	switch kind := Classify(name, shape); {
	case kind == Frozen && m.cfg.Mode != Released:
		return 0
	case kind == Sparse && m.cfg.Mode != Released:
		l := rowsOf(m.cfg.Rows, name, shape)
		return l.rows * min(m.cfg.K, l.width)
	}
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// Notes states what a step does to entries outside the mask (finetune.Noter).
func (m *Method) Notes() []string {
	const rest = "dgst: entries that are not selected "
	switch m.cfg.Mode {
	case GradMask:
		return []string{rest + "have no gradient, but momentum and weight decay (where set) still move them " +
			"(--dgst-mode strict keeps them as they are)"}
	case Released:
		return []string{"dgst as released: the masks are empty, so that every entry is updated"}
	}
	return []string{rest + "keep their values"}
}

// Kind is DGST's treatment of a parameter.
type Kind int

// Kinds of parameters.
const (
	Dense  Kind = iota // all entries are updated
	Sparse             // the selected entries of each row are updated
	Frozen             // no entry is selected
)

// Classify returns the kind of a parameter from its full name, in this order: frozen if it contains
// pos_embed or cls_token; dense if it contains norm, bias, head or gamma, or belongs to a
// segmentation head; otherwise sparse. Vectors have no rows and are dense.
// Source: LN-Seg-FM nnUNetTrainer_DGST.py, dynamic_gradient_sparsification.
// Differs: the source recognises heads by the name seg_layers, which leaves SwinUNETR's head
// (out.conv.conv.weight) sparse; here it is dense like nnU-Net's.
func Classify(name string, shape []int64) Kind {
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(name, p) {
				return true
			}
		}
		return false
	}
	plain := strings.TrimPrefix(strings.TrimPrefix(name, "module."), "_orig_mod.")
	switch {
	case has("pos_embed", "cls_token"):
		return Frozen
	case has("norm", "bias", "head", "gamma"), models.IsHead(plain), len(shape) < 2:
		return Dense
	}
	return Sparse
}

// Update selects entries by the clipped gradients. Clipping scales all gradients by one factor, so
// it does not change their order. A parameter without gradient gets no mask. The gradients are not
// modified.
func (m *Method) Update(s *torch.Scope, step int64, params []finetune.Param) ([]optim.Mask, error) {
	m.step = 0
	if m.cfg.Mode == Released {
		return nil, nil
	}
	if m.cfg.Select == Static {
		ready, err := m.fixed.prepare(s, params, m.cfg)
		if err != nil || !ready {
			return freezeAll(s, params), err
		}
	}
	masks := make([]optim.Mask, len(params))
	for i, p := range params {
		kind := Classify(p.Name, p.T.Shape())
		if kind == Dense || !p.T.HasGrad() {
			continue
		}
		var index *torch.Tensor
		if m.cfg.Select == Static {
			index = m.fixed.masks[p.Name]
		} else {
			index = m.choose(s, step, p, kind)
		}
		if s.Err() != nil {
			return nil, fmt.Errorf("dgst: %s: %w", p.Name, s.Err())
		}
		if index == nil {
			return nil, fmt.Errorf("dgst: %s: the checkpoint has no static mask for it; is it a "+
				"checkpoint of another network?", p.Name)
		}
		masks[i] = optim.Mask{Indices: index, Rule: rules[m.cfg.Mode]}
		if err := m.count(s, p, index); err != nil {
			return nil, err
		}
	}
	return masks, s.Err()
}

// Choose runs the selection of an iteration and discards it (finetune.Chooser).
func (m *Method) Choose(s *torch.Scope, step int64, params []finetune.Param) (int64, error) {
	n := int64(0)
	for _, p := range params {
		if Classify(p.Name, p.T.Shape()) != Sparse {
			continue
		}
		index := m.choose(s, step, p, Sparse)
		if s.Err() != nil {
			return 0, fmt.Errorf("dgst: %s: %w", p.Name, s.Err())
		}
		n += index.Numel()
	}
	return n, nil
}

// choose returns the flat indices of the entries of p to update, selected by gradient or at random.
func (m *Method) choose(s *torch.Scope, step int64, p finetune.Param, kind Kind) *torch.Tensor {
	if kind == Frozen {
		return s.Empty([]int64{0}, torch.Int64, p.T.Device())
	}
	l := rowsOf(m.cfg.Rows, p.Name, p.T.Shape())
	if m.cfg.Select == Random {
		return indices(s, l.draw(m.seed, step, p.Name, m.cfg.K), p.T.Device())
	}
	return l.largest(s, s.Grad(p.T), m.cfg.K)
}

// freezeAll returns masks under which no entry changes and no momentum accumulates.
func freezeAll(s *torch.Scope, params []finetune.Param) []optim.Mask {
	masks := make([]optim.Mask, len(params))
	for i, p := range params {
		masks[i] = optim.Mask{Indices: s.Empty([]int64{0}, torch.Int64, p.T.Device()),
			Rule: torch.Plain}
	}
	return masks
}

// count records the entries updated so far.
func (m *Method) count(s *torch.Scope, p finetune.Param, index *torch.Tensor) error {
	flat, err := torch.Slice[int64](s.To(index, torch.Int64, torch.CPU))
	if err != nil {
		return fmt.Errorf("dgst: %s: %w", p.Name, err)
	}
	words := int(p.T.Numel()+63) / 64
	set := m.touched[p.Name]
	if set == nil {
		set = make([]uint64, words)
		m.touched[p.Name] = set
	}
	if last := p.T.Numel() % 64; len(set) != words || last != 0 && set[words-1]>>last != 0 {
		return fmt.Errorf("dgst: %s: the checkpoint's record of updated entries does not match "+
			"its %d "+
			"entries; is it a checkpoint of another network?", p.Name, p.T.Numel())
	}
	for _, i := range flat {
		if set[i/64]&(1<<(i%64)) == 0 {
			set[i/64] |= 1 << (i % 64)
			m.ever++
		}
	}
	m.step += int64(len(flat))
	return nil
}

// Counts returns the number of sparse entries updated in the last step, and in any step so far
// (finetune.Counter).
func (m *Method) Counts() (step, ever int64) { return m.step, m.ever }

// State holds the set of updated entries and, for static selection, the masks or the gradients
// summed so far. Dynamic selection has no state; random selection depends only on seed and
// iteration.
func (m *Method) State() ([]finetune.StateEntry, error) {
	var state []finetune.StateEntry
	for _, name := range slices.Sorted(maps.Keys(m.touched)) {
		set := m.touched[name]
		b := make([]byte, 8*len(set))
		for i, w := range set {
			binary.LittleEndian.PutUint64(b[8*i:], w)
		}
		state = append(state, finetune.StateEntry{Name: "touched/" + name, Value: b})
	}
	fixed, err := m.fixed.state()
	return append(state, fixed...), err
}

// Restore replaces the method's state by the result of State.
func (m *Method) Restore(state []finetune.StateEntry) error {
	m.fixed.close()
	m.touched, m.step, m.ever = map[string][]uint64{}, 0, 0
	for _, e := range state {
		kind, name, _ := strings.Cut(e.Name, "/")
		b, isBytes := e.Value.([]byte)
		if kind == "touched" && isBytes && len(b)%8 == 0 {
			set := make([]uint64, len(b)/8)
			for i := range set {
				set[i] = binary.LittleEndian.Uint64(b[8*i:])
				m.ever += int64(bits.OnesCount64(set[i]))
			}
			m.touched[name] = set
			continue
		}
		if !m.fixed.restore(kind, name, e.Value) {
			return fmt.Errorf("dgst: state %q of the checkpoint is unknown or has an unexpected "+
				"type; is it a checkpoint of another version of lntorch?", e.Name)
		}
	}
	return nil
}

// Package dgst is Dynamic Gradient Sparsification Training (Luo et al., 2025): in every iteration only the few entries
// of each weight row with the largest gradients are updated, while norms, biases and segmentation heads train densely.
//
// It chooses entries and update rules; gradients, momentum and the optimizer's arithmetic are elsewhere.
package dgst

import (
	"fmt"
	"math/bits"
	"sort"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/optim"
)

func init() {
	finetune.Register(finetune.Entry{
		Name:    "dgst",
		Trainer: "nnUNetTrainer_DGST",
		Summary: "dynamic gradient sparsification: the k largest gradients of each weight row",
		LR:      1e-3,
		Epochs:  50,
		Options: []finetune.Option{
			{Name: "dgst-k", Default: "2", Help: "entries that move in each row (a row is an index of axis 0)"},
			{Name: "dgst-select", Default: "dynamic", Values: []string{"dynamic", "static"},
				Help: "choose anew in every iteration, or once at the first"},
			{Name: "dgst-mode", Default: "gradmask", Values: []string{"gradmask", "strict", "paper", "released"},
				Help: "what a mask governs: the gradient; the whole update; plain gradient descent; nothing, as the released file"},
		},
		New: newFromValues,
	})
}

// Mode is what a mask governs.
type Mode string

// Modes. GradMask is what the released code means to do, Strict the same without drift of entries outside the mask,
// Paper the paper's formula, Released what the released file does: its masks stay empty, so it is full fine-tuning.
const (
	GradMask Mode = "gradmask"
	Strict   Mode = "strict"
	Paper    Mode = "paper"
	Released Mode = "released"
)

var rules = map[Mode]torch.Rule{GradMask: torch.GradMasked, Strict: torch.UpdateMasked, Paper: torch.Plain}

// Config holds DGST's settings.
type Config struct {
	K      int64 // entries of each row; LN-Seg-FM calls it γ and time_para, and uses 2
	Static bool  // select once, at the first iteration
	Mode   Mode
}

// Method is DGST. Close frees the static masks it holds.
type Method struct {
	cfg     Config
	scope   *torch.Scope             // owns static masks
	static  map[string]*torch.Tensor // by parameter name; nil before the first selection
	pending map[string][]int64       // static masks from a checkpoint, not on a device yet
	touched map[string][]uint64      // one bit for each entry that ever moved, by parameter name
	step    int64
	ever    int64
}

func newFromValues(v finetune.Values) (finetune.Method, error) {
	k, err := strconv.ParseInt(v["dgst-k"], 10, 64)
	if err != nil || k < 1 {
		return nil, fmt.Errorf("dgst: --dgst-k %q: expected a whole number of 1 or more", v["dgst-k"])
	}
	return New(Config{K: k, Static: v["dgst-select"] == "static", Mode: Mode(v["dgst-mode"])})
}

// New makes the method.
func New(cfg Config) (*Method, error) {
	if _, ok := rules[cfg.Mode]; !ok && cfg.Mode != Released {
		return nil, fmt.Errorf("dgst: mode %q: expected gradmask, strict, paper or released", cfg.Mode)
	}
	if cfg.K < 1 {
		return nil, fmt.Errorf("dgst: k is %d, expected 1 or more", cfg.K)
	}
	return &Method{cfg: cfg, touched: map[string][]uint64{}}, nil
}

// Close gives the static masks back (io.Closer, which the training loop looks for).
func (m *Method) Close() error {
	if m.scope != nil {
		m.scope.Close()
		m.scope, m.static = nil, nil
	}
	return nil
}

// Trains: every parameter is in DGST's optimizer; which entries move is Update's matter.
func (m *Method) Trains(string, []int64) bool { return true }

// FixedMasks tells whether the selection of the first iteration holds for all.
func (m *Method) FixedMasks() bool { return m.cfg.Static }

// Kind is how DGST treats a parameter.
type Kind int

// Kinds of parameters.
const (
	Dense  Kind = iota // updated as a whole
	Sparse             // the selected entries of each row
	Frozen             // no entry is selected
)

// Classify decides by the parameter's full name, tests in this order:
// frozen with pos_embed or cls_token; dense with norm, bias, head, gamma or seg_layers; sparse otherwise. Vectors have no
// rows and are dense.
// Source: LN-Seg-FM nnUNetTrainer_DGST.py, dynamic_gradient_sparsification.
// Differs: SwinUNETR's segmentation head (out.conv.conv.weight), which that test would leave sparse, is dense like nnU-Net's.
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
	case has("norm", "bias", "head", "gamma", "seg_layers"), plain == "out.conv.conv.weight", len(shape) < 2:
		return Dense
	}
	return Sparse
}

// Update selects entries by the gradients, which are clipped already: clipping scales them all alike and keeps their order.
// A parameter without gradient gets no mask. The gradients are not modified.
func (m *Method) Update(s *torch.Scope, _ int64, params []finetune.Param) ([]optim.Mask, error) {
	m.step = 0
	if m.cfg.Mode == Released {
		return nil, nil
	}
	choose := m.static == nil
	if m.cfg.Static && choose {
		if err := m.openStatic(params); err != nil {
			return nil, err
		}
		choose = m.pending == nil
		m.pending = nil
	}
	masks := make([]optim.Mask, len(params))
	for i, p := range params {
		kind := Classify(p.Name, p.T.Shape())
		if kind == Dense || !p.T.HasGrad() {
			continue
		}
		index := m.static[p.Name]
		if index == nil && (choose || !m.cfg.Static) {
			index = m.selectEntries(s, p, kind)
			if m.cfg.Static {
				m.static[p.Name] = index.MoveTo(m.scope)
			}
		}
		if s.Err() != nil {
			return nil, fmt.Errorf("dgst: %s: %w", p.Name, s.Err())
		}
		if index == nil {
			return nil, fmt.Errorf("dgst: %s: the static masks of the checkpoint do not name it", p.Name)
		}
		masks[i] = optim.Mask{Indices: index, Rule: rules[m.cfg.Mode]}
		if err := m.count(s, p, index); err != nil {
			return nil, err
		}
	}
	return masks, s.Err()
}

func (m *Method) selectEntries(s *torch.Scope, p finetune.Param, kind Kind) *torch.Tensor {
	if kind == Frozen {
		return s.Empty([]int64{0}, torch.Int64, p.T.Device())
	}
	return s.Reshape(s.TopKRows(s.Grad(p.T), m.cfg.K), -1)
}

// openStatic makes room for static masks and fills it with those of a checkpoint.
func (m *Method) openStatic(params []finetune.Param) error {
	scope, err := torch.NewScope()
	if err != nil {
		return err
	}
	m.scope, m.static = scope, map[string]*torch.Tensor{}
	for _, p := range params {
		index, ok := m.pending[p.Name]
		if !ok {
			continue
		}
		seen := map[int64]bool{}
		for _, i := range index {
			if i < 0 || i >= p.T.Numel() {
				return fmt.Errorf("dgst: %s: mask entry %d of a checkpoint lies outside its %d entries", p.Name, i, p.T.Numel())
			}
			if seen[i] {
				return fmt.Errorf("dgst: %s: mask entry %d of a checkpoint stands twice", p.Name, i)
			}
			seen[i] = true
		}
		t := torch.FromSlice(scope, index, int64(len(index)))
		m.static[p.Name] = scope.To(t, torch.Int64, p.T.Device())
	}
	return scope.Err()
}

// count notes which entries have moved so far.
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
		return fmt.Errorf("dgst: %s: the checkpoint's record of moved entries is for another size", p.Name)
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

// Counts gives the sparse entries of the last step, and of all steps so far.
func (m *Method) Counts() (step, ever int64) { return m.step, m.ever }

// State carries which entries moved and, with static selection, the masks.
func (m *Method) State() ([]finetune.StateEntry, error) {
	var state []finetune.StateEntry
	for _, name := range sortedKeys(m.touched) {
		set := m.touched[name]
		b := make([]byte, 8*len(set))
		for i, w := range set {
			for j := range 8 {
				b[8*i+j] = byte(w >> (8 * j))
			}
		}
		state = append(state, finetune.StateEntry{Name: "touched/" + name, Value: b})
	}
	if !m.cfg.Static {
		return state, nil
	}
	for _, name := range sortedKeys(m.pending) { // restored and not used yet
		state = append(state, finetune.StateEntry{Name: "mask/" + name, Value: m.pending[name]})
	}
	err := torch.With(func(s *torch.Scope) error {
		for _, name := range sortedKeys(m.static) {
			flat, err := torch.Slice[int64](s.To(m.static[name], torch.Int64, torch.CPU))
			if err != nil {
				return fmt.Errorf("dgst: %s: %w", name, err)
			}
			state = append(state, finetune.StateEntry{Name: "mask/" + name, Value: flat})
		}
		return nil
	})
	return state, err
}

// Restore takes what State gave, in place of what the method remembers.
func (m *Method) Restore(state []finetune.StateEntry) error {
	if err := m.Close(); err != nil {
		return err
	}
	m.pending, m.touched, m.step, m.ever = nil, map[string][]uint64{}, 0, 0
	for _, e := range state {
		kind, name, _ := strings.Cut(e.Name, "/")
		switch v := e.Value.(type) {
		case []byte:
			if kind != "touched" || len(v)%8 != 0 {
				return fmt.Errorf("dgst: state %q of %d bytes is not understood", e.Name, len(v))
			}
			set := make([]uint64, len(v)/8)
			for i := range set {
				for j := range 8 {
					set[i] |= uint64(v[8*i+j]) << (8 * j)
				}
				m.ever += int64(bits.OnesCount64(set[i]))
			}
			m.touched[name] = set
		case []int64:
			if kind != "mask" {
				return fmt.Errorf("dgst: state %q is not understood", e.Name)
			}
			if m.pending == nil {
				m.pending = map[string][]int64{}
			}
			m.pending[name] = v
		default:
			return fmt.Errorf("dgst: state %q of type %T is not understood", e.Name, e.Value)
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

package checkpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
)

// Digest returns the sha256, in hexadecimal, of a file's weights, independent of the file format:
// for each canonical name, sorted, the name, type and shape as a line of text and the elements,
// row-major and little-endian. Aliases count once: canonical maps each name to the one that stands
// for it. The result is cached.
func (f *File) Digest(canonical func(name string) string) (string, error) {
	if f.digest == "" {
		var err error
		if f.digest, err = f.computeDigest(canonical); err != nil {
			return "", err
		}
	}
	return f.digest, nil
}

func (f *File) computeDigest(canonical func(name string) string) (string, error) {
	tensors := map[string]*pth.Tensor{}
	for _, w := range f.Weights {
		if c := canonical(w.Name); tensors[c] == nil || c == w.Name {
			tensors[c] = w.Tensor
		}
	}
	h := sha256.New()
	var buf []byte
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		t := tensors[name]
		size := t.Size
		if size == nil {
			size = []int64{}
		}
		fmt.Fprintf(h, "%s %s %v\n", name, t.DType, size)
		if int64(cap(buf)) < t.Bytes() {
			buf = make([]byte, t.Bytes())
		}
		buf = buf[:t.Bytes()]
		if err := t.ReadInto(buf); err != nil {
			return "", fmt.Errorf("checkpoint: %s: %s: %w", f.Path, name, err)
		}
		h.Write(buf)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Edit changes a file's weights without libtorch. The file must stay open until Save.
type Edit struct {
	file      *File
	tensors   map[string]*pth.Tensor // by canonical name
	canonical func(name string) string
	about     string
}

// NewEdit starts from the weights of f, without parameters of adapters. canonical maps each
// weight's name to the one that stands for all its aliases.
func NewEdit(f *File, canonical func(name string) string) *Edit {
	e := &Edit{file: f, tensors: map[string]*pth.Tensor{}, canonical: canonical}
	for _, w := range f.Weights {
		if _, _, ok := peft.SplitName(w.Name); ok {
			continue
		}
		if c := e.canonical(w.Name); e.tensors[c] == nil || c == w.Name {
			e.tensors[c] = w.Tensor
		}
	}
	return e
}

// SetAbout sets the metadata of the result to text, as returned by File.About for another file.
func (e *Edit) SetAbout(text string) { e.about = text }

// Tensor returns the current tensor of a weight, nil if there is no such weight.
func (e *Edit) Tensor(name string) *pth.Tensor { return e.tensors[e.canonical(name)] }

// Replace replaces a weight with t, which may have any shape.
func (e *Edit) Replace(name string, t *pth.Tensor) error {
	if e.Tensor(name) == nil {
		return fmt.Errorf("checkpoint: %s has no weight %s: is it the right base?", e.file.Path,
			name)
	}
	e.tensors[e.canonical(name)] = t
	return nil
}

// MergeAdapter merges an open adapter into the weights and returns the number of layers changed,
// counting a layer with several names once. The adapter stays open until Save.
func (e *Edit) MergeAdapter(a *peft.Adapter) (layers int, err error) {
	done := map[string]bool{}
	for _, l := range a.Layers {
		name := strings.TrimSuffix(e.canonical(l.Name+".weight"), ".weight")
		if done[name] {
			continue
		}
		done[name] = true
		if err := e.AddLowRank(LowRank{Layer: l.Name, A: l.A, B: l.B, Scaling: l.Scaling,
			Init: l.Init, Transposed: l.Transposed}); err != nil {
			return 0, err
		}
	}
	for _, v := range a.Values {
		if err := e.Replace(v.Name, v.Tensor); err != nil {
			return 0, err
		}
	}
	return len(done), nil
}

// LowRank is an update of a layer's weight: Init is applied, then Scaling·B·A is added.
type LowRank struct {
	Layer      string
	A, B       *pth.Tensor // float32; shapes as in peft.Layer
	Scaling    float64
	Init       peft.Init
	Transposed bool
}

// AddLowRank applies l to a float32 weight. Products are summed in float64 and rounded once.
// Source: PEFT 0.14.0, get_delta_weight, for every kernel size.
func (e *Edit) AddLowRank(l LowRank) error {
	name := l.Layer + ".weight"
	w := e.Tensor(name)
	if w == nil {
		return fmt.Errorf("checkpoint: %s has no weight %s: is it the right base?", e.file.Path,
			name)
	}
	in := 1 // A's axis of size in: (r, in, kernel…) or (in, r, kernel…)
	if l.Transposed {
		in = 0
	}
	fits := len(w.Size) >= 2 && len(l.A.Size) == len(w.Size) && len(l.B.Size) == len(w.Size) &&
		slices.Equal(l.A.Size[2:], w.Size[2:]) && l.A.Size[in] == w.Size[in] &&
		l.A.Size[1-in] == l.B.Size[1] && l.B.Size[0] == w.Size[1-in]
	for i := 2; fits && i < len(l.B.Size); i++ {
		fits = l.B.Size[i] == 1
	}
	if !fits {
		return fmt.Errorf("checkpoint: %s: weight %v does not fit an adapter with A %v and B %v: "+
			"is %s the right base?", name, w.Size, l.A.Size, l.B.Size, e.file.Path)
	}
	if w.Numel() == 0 {
		return nil
	}
	values, err := float32s(w)
	if err != nil {
		return fmt.Errorf("checkpoint: %s: %w", name, err)
	}
	a, err := float32s(l.A)
	if err != nil {
		return fmt.Errorf("checkpoint: lora_A of %s: %w", l.Layer, err)
	}
	b, err := float32s(l.B)
	if err != nil {
		return fmt.Errorf("checkpoint: lora_B of %s: %w", l.Layer, err)
	}
	rank, out := int(l.B.Size[1]), int(l.B.Size[0])
	if err := applyInit(values, w.Size, rank, l); err != nil {
		return fmt.Errorf("checkpoint: %s: %w", name, err)
	}
	kernel := 1
	for _, k := range w.Size[2:] {
		kernel *= int(k)
	}
	// add adds scaling·Σ_r b[o,r]·a[r-th row] to row: rows of a begin at offset and are stride
	// apart.
	sum := make([]float64, 0, len(values)/out)
	add := func(row []float32, o, offset, stride int) {
		sum = append(sum[:0], make([]float64, len(row))...)
		for r := range rank {
			f := float64(b[o*rank+r])
			for i, x := range a[offset+r*stride : offset+r*stride+len(row)] {
				sum[i] += f * float64(x)
			}
		}
		for i, x := range sum {
			row[i] = float32(float64(row[i]) + l.Scaling*x)
		}
	}
	if l.Transposed {
		for i := range int(w.Size[0]) {
			for o := range out {
				at := (i*out + o) * kernel
				add(values[at:at+kernel], o, i*rank*kernel, kernel)
			}
		}
	} else {
		width := int(w.Size[1]) * kernel
		for o := range out {
			add(values[o*width:(o+1)*width], o, 0, width)
		}
	}
	t, err := NewFloat32(values, w.Size)
	if err != nil {
		return err
	}
	e.tensors[e.canonical(name)] = t
	return nil
}

func float32s(t *pth.Tensor) ([]float32, error) {
	if t.DType != pth.Float32 {
		return nil, fmt.Errorf("its elements are %s, expected float32", t.DType)
	}
	if t.Numel() > t.Storage.Numel {
		return nil, fmt.Errorf("its shape %v needs %d elements, the file holds %d of them", t.Size,
			t.Numel(), t.Storage.Numel)
	}
	b := make([]byte, t.Bytes())
	if err := t.ReadInto(b); err != nil {
		return nil, err
	}
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v, nil
}

// NewFloat32 returns a tensor for a checkpoint with the given values.
func NewFloat32(values []float32, shape []int64) (*pth.Tensor, error) {
	b := make([]byte, 0, 4*len(values))
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	s, err := pth.NewStorage(pth.Float32, b)
	if err != nil {
		return nil, err
	}
	return pth.NewTensor(s, 0, slices.Clone(shape), nil)
}

// Save writes the weights under all of the file's names, in the file's form: nnU-Net's dictionary,
// with trainer as trainer_name and without optimizer state, or a bare state dict. If path ends in
// .safetensors, it writes that format. The names are those of an unwrapped network without
// adapters.
func (e *Edit) Save(path, trainer string) error {
	root, weights, list, err := e.assemble()
	if err != nil {
		return err
	}
	if root == nil {
		if strings.HasSuffix(path, Extension) {
			return SaveSafetensors(path, list, "")
		}
		return saved(pth.Save(path, weights))
	}
	if trainer != "" {
		root.Set("trainer_name", trainer)
	}
	if strings.HasSuffix(path, Extension) {
		text, err := about(root)
		if err != nil {
			return err
		}
		return SaveSafetensors(path, list, text)
	}
	return saved(pth.Save(path, root))
}

// File returns the result as an open checkpoint, as Open would return it after Save. The files that
// it is made of must stay open; Close closes none of them.
func (e *Edit) File() (*File, error) {
	root, weights, _, err := e.assemble()
	if err != nil {
		return nil, err
	}
	f := &File{Path: e.file.Path, closer: io.NopCloser(nil)}
	if root == nil {
		err = f.interpret(weights)
	} else {
		err = f.interpret(root)
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %s: %w", e.file.Path, err)
	}
	return f, nil
}

// assemble returns nnU-Net's dictionary, nil if there is none, and the weights.
func (e *Edit) assemble() (root *pickle.Dict, weights *pickle.OrderedDict, list []Weight, err error) {
	weights = &pickle.OrderedDict{}
	original, _ := e.file.root.Get("network_weights")
	if state, ok := original.(*pickle.OrderedDict); ok && len(e.file.Weights) > 0 {
		if _, same := state.Get(e.file.Weights[0].Name); same { // not a wrapped network's names
			weights.Attrs = state.Attrs
		}
	}
	for _, w := range e.file.Weights {
		if _, _, ok := peft.SplitName(w.Name); ok {
			continue
		}
		t := e.tensors[e.canonical(w.Name)]
		weights.Set(w.Name, t)
		list = append(list, Weight{w.Name, t})
	}
	switch {
	case e.about != "":
		if root, err = aboutRoot(e.about, weights); err != nil {
			return nil, nil, nil, fmt.Errorf("checkpoint: metadata of the change: %w", err)
		}
	case e.file.NNUNet:
		root = &pickle.Dict{}
		for k, v := range e.file.root.All() {
			if k != "lntorch" {
				root.Set(k, v)
			}
		}
		root.Set("network_weights", weights)
		root.Set("optimizer_state", nil)
		root.Set("grad_scaler_state", nil)
	}
	return root, weights, list, nil
}

func saved(err error) error {
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

package dgst

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/torch"
)

// fixed is the state of static selection: the summed gradients during warm-up, then the masks.
type fixed struct {
	scope  *torch.Scope             // owns the tensors; nil until the first Update
	masks  map[string]*torch.Tensor // by parameter name; nil before selection
	sums   map[string]*torch.Tensor // summed gradients
	warmed int64                    // iterations summed so far

	// Restored from a checkpoint, not yet on a device.
	savedMasks map[string][]int64
	savedSums  map[string][]float32
}

func (f *fixed) close() {
	if f.scope != nil {
		f.scope.Close()
	}
	*f = fixed{}
}

// prepare adds the gradients of an iteration, and selects the masks after the last warm-up
// iteration. ready reports whether there are masks.
func (f *fixed) prepare(s *torch.Scope, params []finetune.Param, cfg Config) (ready bool,
	err error) {
	if f.scope == nil {
		if err := f.open(params); err != nil {
			return false, err
		}
	}
	if f.masks != nil {
		return true, nil
	}
	f.warmed++
	if f.warmed == cfg.Warmup {
		f.masks = map[string]*torch.Tensor{}
	}
	for _, p := range params {
		kind := Classify(p.Name, p.T.Shape())
		if kind == Dense || !p.T.HasGrad() {
			continue
		}
		g := s.Grad(p.T)
		if sum := f.sums[p.Name]; sum != nil {
			s.Add_(sum, g, 1)
			g = sum
		}
		switch {
		case f.masks != nil && kind == Frozen:
			f.masks[p.Name] = s.Empty([]int64{0}, torch.Int64, p.T.Device()).MoveTo(f.scope)
		case f.masks != nil:
			index := rowsOf(cfg.Rows, p.Name, p.T.Shape()).largest(s, g, cfg.K)
			if s.Err() == nil {
				f.masks[p.Name] = index.MoveTo(f.scope)
			}
		case f.sums[p.Name] == nil:
			f.sums[p.Name] = s.Clone(g).MoveTo(f.scope)
		}
		if s.Err() != nil {
			return false, fmt.Errorf("dgst: %s: %w", p.Name, s.Err())
		}
	}
	if f.masks == nil {
		return false, nil
	}
	for _, sum := range f.sums {
		sum.Free()
	}
	f.sums = nil
	return true, nil
}

// open moves the restored state to the devices of the parameters.
func (f *fixed) open(params []finetune.Param) error {
	scope, err := torch.NewScope()
	if err != nil {
		return err
	}
	f.scope, f.sums = scope, map[string]*torch.Tensor{}
	if f.savedMasks != nil {
		f.masks = map[string]*torch.Tensor{}
	}
	for _, p := range params {
		if index, ok := f.savedMasks[p.Name]; ok {
			seen := map[int64]bool{}
			for _, i := range index {
				if i < 0 || i >= p.T.Numel() {
					return fmt.Errorf("dgst: %s: mask index %d in the checkpoint, expected 0 or "+
						"more and below its %d entries; is it a checkpoint of another network?",
						p.Name, i, p.T.Numel())
				}
				if seen[i] {
					return fmt.Errorf("dgst: %s: mask index %d is in the checkpoint twice; the "+
						"checkpoint is damaged", p.Name, i)
				}
				seen[i] = true
			}
			f.masks[p.Name] = indices(scope, index, p.T.Device())
		}
		if sum, ok := f.savedSums[p.Name]; ok {
			if int64(len(sum)) != p.T.Numel() {
				return fmt.Errorf("dgst: %s: the checkpoint holds %d summed gradients, expected "+
					"%d; is it a checkpoint of another network?", p.Name, len(sum), p.T.Numel())
			}
			f.sums[p.Name] = scope.To(torch.FromSlice(scope, sum, p.T.Shape()...), torch.Float32,
				p.T.Device())
		}
	}
	f.savedMasks, f.savedSums = nil, nil
	return scope.Err()
}

// state lists the masks or, during warm-up, the summed gradients and the number of iterations.
func (f *fixed) state() ([]finetune.StateEntry, error) {
	var list []finetune.StateEntry
	if f.warmed > 0 && f.masks == nil {
		list = append(list, finetune.StateEntry{Name: "warmed", Value: f.warmed})
	}
	for _, name := range slices.Sorted(maps.Keys(f.savedMasks)) { // restored, not yet used
		list = append(list, finetune.StateEntry{Name: "mask/" + name, Value: f.savedMasks[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(f.savedSums)) {
		list = append(list, finetune.StateEntry{Name: "sum/" + name,
			Value: bytesOf(f.savedSums[name])})
	}
	if f.scope == nil {
		return list, nil
	}
	err := torch.With(func(s *torch.Scope) error {
		for _, name := range slices.Sorted(maps.Keys(f.masks)) {
			flat, err := torch.Slice[int64](s.To(f.masks[name], torch.Int64, torch.CPU))
			if err != nil {
				return fmt.Errorf("dgst: %s: %w", name, err)
			}
			list = append(list, finetune.StateEntry{Name: "mask/" + name, Value: flat})
		}
		for _, name := range slices.Sorted(maps.Keys(f.sums)) {
			sum, err := torch.Slice[float32](s.To(f.sums[name], torch.Float32, torch.CPU))
			if err != nil {
				return fmt.Errorf("dgst: %s: %w", name, err)
			}
			list = append(list, finetune.StateEntry{Name: "sum/" + name, Value: bytesOf(sum)})
		}
		return nil
	})
	return list, err
}

// restore loads one entry of state; false means that the entry is not valid.
func (f *fixed) restore(kind, name string, value any) bool {
	switch v := value.(type) {
	case []int64:
		if kind != "mask" {
			return false
		}
		if f.savedMasks == nil {
			f.savedMasks = map[string][]int64{}
		}
		f.savedMasks[name] = v
	case []byte:
		if kind != "sum" || len(v)%4 != 0 {
			return false
		}
		if f.savedSums == nil {
			f.savedSums = map[string][]float32{}
		}
		sum := make([]float32, len(v)/4)
		for i := range sum {
			sum[i] = math.Float32frombits(binary.LittleEndian.Uint32(v[4*i:]))
		}
		f.savedSums[name] = sum
	case int64:
		if kind != "warmed" || v < 1 {
			return false
		}
		f.warmed = v
	default:
		return false
	}
	return true
}

func bytesOf(v []float32) []byte {
	b := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(x))
	}
	return b
}

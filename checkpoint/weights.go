package checkpoint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// Status is the outcome of loading one parameter.
type Status string

// The statuses of a Row.
const (
	Loaded     Status = "loaded"
	Kept       Status = "kept"       // by LoadOptions.Keep: the network keeps its own values
	Adapted    Status = "adapted"    // by LoadOptions.Remap: only some channels come from the file
	Missing    Status = "missing"    // in the network, not in the file
	Unexpected Status = "unexpected" // in the file, not in the network
	Mismatched Status = "mismatched" // shapes differ
	NoEffect   Status = "no effect"  // a LoRA adapter in the file with B = 0
)

// Row is the outcome for one tensor; aliases share a row under their first name.
type Row struct {
	Name        string
	Status      Status
	File, Model []int64 // shapes; nil if absent
}

// Report lists the outcome of loading: rows in network order, then unexpected names in file order.
type Report struct{ Rows []Row }

// Count returns the number of rows with a status.
func (r *Report) Count(s Status) int {
	n := 0
	for _, row := range r.Rows {
		if row.Status == s {
			n++
		}
	}
	return n
}

// Table returns a line with the counts and a line for each row with another status than Loaded or
// NoEffect, at most limit of them (0: all).
func (r *Report) Table(limit int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d loaded, %d kept, %d missing, %d unexpected, %d mismatched", r.Count(Loaded),
		r.Count(Kept),
		r.Count(Missing), r.Count(Unexpected), r.Count(Mismatched))
	if n := r.Count(Adapted); n > 0 {
		fmt.Fprintf(&b, ", %d adapted", n)
	}
	if idle := r.Count(NoEffect); idle > 0 {
		fmt.Fprintf(&b, ", %d adapter tensors without effect", idle)
	}
	n := 0
	for _, row := range r.Rows {
		if row.Status == Loaded || row.Status == NoEffect {
			continue
		}
		if n++; limit > 0 && n > limit {
			continue
		}
		fmt.Fprintf(&b, "\n  %-10s  %s", row.Status, row.Name)
		switch row.Status {
		case Mismatched, Adapted:
			fmt.Fprintf(&b, "  file %v, network %v", row.File, row.Model)
		case Missing, Kept:
			fmt.Fprintf(&b, "  network %v", row.Model)
		case Unexpected:
			fmt.Fprintf(&b, "  file %v", row.File)
		}
	}
	if limit > 0 && n > limit {
		fmt.Fprintf(&b, "\n  … and %d more", n-limit)
	}
	return b.String()
}

// LoadOptions controls how strict LoadWeights is.
type LoadOptions struct {
	// Keep names the parameters that keep the network's own values.
	Keep func(name string) bool
	// Remap returns the channel mapping of a tensor that is to be transferred in part; nil for all
	// others.
	Remap func(name string, file, model []int64) *Remap
	// AllowUnexpected allows tensors in the file that the network does not have.
	AllowUnexpected bool
}

// Remap fills a parameter along one axis from selected indices of the file's tensor; the other axes
// must agree.
type Remap struct {
	Axis int
	From []int // the file's index for each index of the parameter's axis; -1 for none
	Zero bool  // unmapped indices become 0; otherwise they keep the network's values
}

// fits reports whether the remap is valid for these shapes.
func (r *Remap) fits(file, model []int64) bool {
	if len(file) != len(model) || r.Axis >= len(model) || int64(len(r.From)) != model[r.Axis] {
		return false
	}
	for i := range model {
		if i != r.Axis && file[i] != model[i] {
			return false
		}
	}
	return !slices.ContainsFunc(r.From,
		func(i int) bool { return i < -1 || int64(i) >= file[r.Axis] })
}

// LoadWeights fills the parameters and buffers of a network from a file, converting their element
// type. Nothing is changed unless everything fits: the error lists what is missing, mismatched or
// unexpected. At least one alias of each parameter must be in the file; if aliases differ, the last
// one counts, as in PyTorch.
func LoadWeights(m *nn.Module, weights []Weight, o LoadOptions) (*Report, error) {
	inFile := map[string]*pth.Tensor{}
	for _, w := range weights {
		inFile[w.Name] = w.Tensor
	}
	report := &Report{}
	rows := map[*nn.Param]*Row{}
	source := map[*nn.Param]*pth.Tensor{}
	remaps := map[*nn.Param]*Remap{}
	var order []*nn.Param
	known := map[string]bool{}
	for _, p := range m.StateDict() {
		known[p.Name] = true
		row := rows[p.Param]
		if row == nil {
			row = &Row{Name: p.Name, Status: Missing, Model: p.Shape}
			rows[p.Param] = row
			order = append(order, p.Param)
		}
		if o.Keep != nil && o.Keep(p.Name) {
			row.Status = Kept
			continue
		}
		t := inFile[p.Name]
		if t == nil || row.Status == Mismatched {
			continue
		}
		if _, err := dtypeOf(t.DType); err != nil {
			return nil, fmt.Errorf("weight %s: %w", p.Name, err)
		}
		row.File = t.Size
		if o.Remap != nil {
			if m := o.Remap(p.Name, t.Size, p.Shape); m != nil && m.fits(t.Size, p.Shape) {
				row.Status, source[p.Param], remaps[p.Param] = Adapted, t, m
				continue
			}
		}
		if !slices.Equal(t.Size, p.Shape) {
			row.Status = Mismatched
			continue
		}
		row.Status = Loaded
		source[p.Param] = t
	}
	for _, p := range order {
		report.Rows = append(report.Rows, *rows[p])
	}
	for _, w := range weights {
		if known[w.Name] {
			continue
		}
		row := Row{Name: w.Name, Status: Unexpected, File: w.Size}
		if layer, part, ok := peft.SplitName(w.Name); ok {
			row.Status = NoEffect
			if part == "B" && !allZero(w.Tensor) {
				return nil, fmt.Errorf("the file holds adapters (for example of %s) that change "+
					"the network's output: merge them into the weights with `lntorch merge`", layer)
			}
		}
		report.Rows = append(report.Rows, row)
	}
	if report.Count(Missing)+report.Count(Mismatched) > 0 ||
		!o.AllowUnexpected && report.Count(Unexpected) > 0 {
		return report, fmt.Errorf("weights do not fit the network: %s\n(is the architecture in "+
			"the plans the one that the checkpoint was trained with? `lntorch inspect` shows the "+
			"file's)", report.Table(20))
	}
	return report, fill(order, source, remaps)
}

// allZero reports whether every element of a floating-point tensor is 0; false if it cannot be
// read.
func allZero(t *pth.Tensor) bool {
	b := make([]byte, t.Bytes())
	if t.ReadInto(b) != nil {
		return false
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// Shapes returns the shapes of tensors by name, by which a network is recognised.
func Shapes(weights []Weight) map[string][]int64 {
	shapes := map[string][]int64{}
	for _, w := range weights {
		shapes[w.Name] = w.Size
	}
	return shapes
}

// fill reads all tensors in parallel, directly into parameters if dtype and device allow it.
func fill(params []*nn.Param, source map[*nn.Param]*pth.Tensor, remaps map[*nn.Param]*Remap) error {
	return torch.NoGrad(func() error {
		return torch.With(func(s *torch.Scope) error {
			var tensors []*pth.Tensor
			var dsts [][]byte
			var later []func()
			for _, p := range params {
				t, ok := source[p]
				if !ok {
					continue
				}
				dtype, err := dtypeOf(t.DType)
				if err != nil {
					return err
				}
				dst := p.T
				if m := remaps[p]; m != nil {
					dst = s.Empty(t.Size, dtype, torch.CPU)
					later = append(later, func() { m.apply(s, p.T, dst) })
				} else if p.T.DType() != dtype || p.T.Device().Type != torch.DeviceCPU ||
					!p.T.IsContiguous() {
					dst = s.Empty(p.Shape, dtype, torch.CPU)
					later = append(later, func() { s.Copy_(p.T, dst, false) })
				}
				if dst == nil {
					return s.Err()
				}
				b, err := dst.Bytes()
				if err != nil {
					return err
				}
				tensors, dsts = append(tensors, t), append(dsts, b)
			}
			if err := pth.ReadAll(tensors, dsts, 0); err != nil {
				return err
			}
			for _, f := range later {
				f()
			}
			return nil
		})
	})
}

// apply copies the mapped channels of the file's tensor.
func (r *Remap) apply(s *torch.Scope, dst, file *torch.Tensor) {
	if r.Zero {
		s.Fill_(dst, 0)
	}
	for to, from := range r.From {
		if from >= 0 {
			s.Copy_(s.Narrow(dst, int64(r.Axis), int64(to), 1),
				s.Narrow(file, int64(r.Axis), int64(from), 1), false)
		}
	}
}

// dtypes maps the element types of files to those of tensors.
var dtypes = map[pth.DType]torch.DType{
	pth.Uint8: torch.Uint8, pth.Int8: torch.Int8, pth.Int16: torch.Int16, pth.Int32: torch.Int32,
	pth.Int64:   torch.Int64,
	pth.Float16: torch.Float16, pth.BFloat16: torch.BFloat16, pth.Float32: torch.Float32,
	pth.Float64: torch.Float64, pth.Bool: torch.Bool,
}

func dtypeOf(d pth.DType) (torch.DType, error) {
	t, ok := dtypes[d]
	if !ok {
		return 0, fmt.Errorf("element type %s is not supported", d)
	}
	return t, nil
}

// toFile converts t to a tensor for a file: a view of its memory on the CPU, a copy on other
// devices. t must live until the file is saved.
func toFile(t *torch.Tensor) (*pth.Tensor, error) {
	var dtype pth.DType
	found := false
	for f, d := range dtypes {
		if d == t.DType() {
			dtype, found = f, true
		}
	}
	if !found {
		return nil, fmt.Errorf("element type %s cannot be saved", t.DType())
	}
	var data []byte
	var err error
	if t.Device().Type == torch.DeviceCPU && t.IsContiguous() {
		data, err = t.Bytes()
	} else {
		data = make([]byte, t.Numel()*t.DType().Size())
		err = t.CopyBytesOut(data)
	}
	if err != nil {
		return nil, err
	}
	storage, err := pth.NewStorage(dtype, data)
	if err != nil {
		return nil, err
	}
	return pth.NewTensor(storage, 0, t.Shape(), nil)
}

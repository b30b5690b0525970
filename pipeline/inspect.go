package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/report"
)

// InspectConfig is a look into a file.
type InspectConfig struct {
	File   string // checkpoint, model folder, .npz, .npy or .pkl
	Digest bool   `flag:"digest" help:"sha256 of every tensor"`
	All    bool   `flag:"all" help:"every tensor of the file, under each of its names"`
}

// Inspected is what a file holds: as JSON for programs, as text for people.
type Inspected interface{ Text(w io.Writer) error }

// Inspect shows what is in a file, without running anything from it.
func Inspect(ctx context.Context, c InspectConfig, o Output) (Inspected, error) {
	path, err := CheckpointFile(c.File)
	if err != nil {
		return nil, err
	}
	switch filepath.Ext(path) {
	case ".npz", ".npy":
		return inspectArrays(path)
	case ".pkl":
		return inspectPickle(path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	doc := &inspection{all: c.All, File: path, Kind: "torch file", Container: container{Bytes: info.Size()}, Network: notRecognised,
		Globals: []string{}, Keys: []string{}, Tensors: []tensorSummary{}}
	root, tensors, closer, err := doc.open(path)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	if d := pickle.AsDict(root); d != nil && doc.Kind != "state dict" {
		for k, v := range d.All() {
			doc.Keys, doc.values = append(doc.Keys, keyText(k)), append(doc.values, oneLine(v))
		}
	}
	if doc.all {
		tensors = nil
		err := pth.Walk(root, func(name string, t *pth.Tensor) error {
			tensors = append(tensors, checkpoint.Weight{Name: name, Tensor: t})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	doc.list(tensors)
	if c.Digest {
		if err := digests(ctx, tensors, doc.Tensors, o.progress()); err != nil {
			return nil, err
		}
	}
	return doc, nil
}

// open opens a checkpoint, or another file of PyTorch's, whatever is in it.
func (d *inspection) open(path string) (root any, tensors []checkpoint.Weight, c io.Closer, err error) {
	named := func(globals []pickle.Global) {
		for _, g := range globals {
			d.Globals = append(d.Globals, g.String())
		}
	}
	f, err := checkpoint.Open(path)
	if err == nil {
		d.Container.Format, d.Container.Version = f.Format, f.Version
		named(f.Globals())
		d.checkpoint(f)
		d.Notes = f.Notes()
		return f.Root(), f.Weights, f, nil
	}
	if filepath.Ext(path) == checkpoint.Extension {
		return nil, nil, nil, err
	}
	d.all, d.note = true, strings.TrimPrefix(err.Error(), "checkpoint: "+path+": ")
	p, err := pth.Open(path)
	if err != nil {
		return nil, nil, nil, err
	}
	d.Container.Format, d.Container.Version = "zip", p.Version
	if p.Legacy {
		d.Container.Format = "legacy"
	}
	named(p.Globals)
	return p.Root, nil, p, nil
}

// inspection is what --json prints of a checkpoint; keys keep their meaning.
type inspection struct {
	File         string            `json:"file"`
	Kind         string            `json:"kind"` // "nnU-Net checkpoint", "lntorch checkpoint", "state dict" or "torch file"
	Container    container         `json:"container"`
	Trainer      string            `json:"trainer,omitempty"`
	Epoch        *int              `json:"current_epoch,omitempty"`
	Dataset      string            `json:"dataset_name,omitempty"`
	Plans        string            `json:"plans_name,omitempty"`
	Config       string            `json:"configuration,omitempty"`
	Fold         string            `json:"fold,omitempty"`
	MirrorAxes   []int             `json:"mirror_axes,omitempty"`
	BestEMA      *float64          `json:"best_ema,omitempty"`
	Optimizer    *optimizerSummary `json:"optimizer,omitempty"`
	GradScaler   bool              `json:"grad_scaler"`
	Method       string            `json:"lntorch_method,omitempty"`
	Iteration    int64             `json:"lntorch_iteration,omitempty"` // done in the epoch
	Lntorch      map[string]string `json:"lntorch,omitempty"`
	Network      string            `json:"network"`
	Architecture map[string]any    `json:"architecture,omitempty"`
	Channels     int64             `json:"input_channels,omitempty"`
	Classes      int64             `json:"classes,omitempty"`
	Parameters   int64             `json:"parameters"`
	Differences  []string          `json:"differences,omitempty"`
	Globals      []string          `json:"globals"`
	Keys         []string          `json:"keys"`
	Tensors      []tensorSummary   `json:"tensors"`
	Notes        []string          `json:"notes,omitempty"` // how the file was read, and what of it was not understood

	values []string // of Keys, for a file of unknown kind
	all    bool     // every name of every tensor
	note   string
}

type container struct {
	Format  string `json:"format"` // zip or legacy
	Version int    `json:"version"`
	Bytes   int64  `json:"bytes"`
}

type optimizerSummary struct {
	LR          float64 `json:"lr"`
	Momentum    float64 `json:"momentum"`
	WeightDecay float64 `json:"weight_decay"`
	Parameters  int     `json:"parameters"` // that it knows
	Buffers     int     `json:"buffers"`    // parameters that have a state
}

type tensorSummary struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	Alias  string  `json:"alias_of,omitempty"` // first name of the same memory
	SHA256 string  `json:"sha256,omitempty"`
}

// checkpoint takes over what the dictionary says of itself, and recognises the network.
func (d *inspection) checkpoint(f *checkpoint.File) {
	n := recogniseNetwork(f.Weights)
	d.Network, d.Channels, d.Classes, d.Parameters = n.String(), int64(n.Channels), int64(n.Classes), n.Parameters
	if n.Adapters > 0 {
		d.Network += fmt.Sprintf(", with %d tensors of adapters", n.Adapters)
	}
	if n.Architecture != nil {
		d.Architecture = n.Architecture.Arguments()
	}
	if d.Kind = "state dict"; !f.NNUNet {
		return
	}
	d.Kind, d.Trainer, d.Epoch = "nnU-Net checkpoint", f.Trainer, &f.Epoch
	d.Config, d.Fold, d.MirrorAxes = f.Configuration, f.Fold, f.MirrorAxes
	if f.Plans != nil {
		d.Dataset, d.Plans = f.Plans.DatasetName, f.Plans.PlansName
	}
	d.Differences = n.compare(f)
	root := f.Root()
	if v, _ := root.Get("_best_ema"); v != nil {
		if x, ok := pickle.AsFloat(v); ok {
			d.BestEMA = &x
		}
	}
	v, _ := root.Get("grad_scaler_state")
	d.GradScaler = v != nil
	v, _ = root.Get("optimizer_state")
	d.Optimizer = describeOptimizer(pickle.AsDict(v))
	v, _ = root.Get("lntorch")
	if own := pickle.AsDict(v); own != nil {
		d.Method, d.Iteration = f.Lntorch()
		d.Kind, d.Lntorch = "lntorch checkpoint", map[string]string{}
		for k, e := range own.All() {
			d.Lntorch[keyText(k)] = oneLine(e)
		}
	}
}

func describeOptimizer(d *pickle.Dict) *optimizerSummary {
	if d == nil {
		return nil
	}
	o := &optimizerSummary{}
	state, _ := d.Get("state")
	if s := pickle.AsDict(state); s != nil {
		o.Buffers = s.Len()
	}
	groups, _ := d.Get("param_groups")
	list, _ := groups.(*pickle.List)
	if list == nil {
		return o
	}
	for i, g := range list.Items {
		group := pickle.AsDict(g)
		if group == nil {
			continue
		}
		if params, _ := group.Get("params"); params != nil {
			if l, ok := params.(*pickle.List); ok {
				o.Parameters += len(l.Items)
			}
		}
		if i > 0 {
			continue
		}
		number := func(key string) float64 {
			v, _ := group.Get(key)
			x, _ := pickle.AsFloat(v)
			return x
		}
		o.LR, o.Momentum, o.WeightDecay = number("lr"), number("momentum"), number("weight_decay")
	}
	return o
}

func (d *inspection) list(tensors []checkpoint.Weight) {
	first := map[pth.View]string{}
	for _, w := range tensors {
		t := tensorSummary{Name: w.Name, DType: w.DType.String(), Shape: w.Size}
		if t.Shape == nil {
			t.Shape = []int64{}
		}
		v := w.Tensor.View()
		if name, ok := first[v]; ok {
			t.Alias = name
		} else {
			first[v] = w.Name
		}
		d.Tensors = append(d.Tensors, t)
	}
}

// Text prints the inspection for people.
func (d *inspection) Text(w io.Writer) error {
	all := d.all
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("file", "%s", d.File)
	line("kind", "%s, %s container, version %d, %s", d.Kind, d.Container.Format, d.Container.Version, BytesText(d.Container.Bytes))
	if d.Epoch != nil {
		line("trainer", "%s, next epoch %d", d.Trainer, *d.Epoch)
		line("plans", "%s of %s, configuration %s, fold %s", d.Plans, d.Dataset, d.Config, d.Fold)
		axes := "none"
		if d.MirrorAxes != nil {
			axes = fmt.Sprint(d.MirrorAxes)
		}
		line("mirror axes", "%s", axes)
		if d.BestEMA != nil {
			line("best EMA", "%.4f (pseudo Dice)", *d.BestEMA)
		}
		if o := d.Optimizer; o != nil {
			line("optimizer", "lr %g, momentum %g, weight decay %g, %d parameters, state of %d", o.LR, o.Momentum, o.WeightDecay, o.Parameters, o.Buffers)
		} else {
			line("optimizer", "none")
		}
		line("grad scaler", "%s", map[bool]string{true: "present", false: "none"}[d.GradScaler])
	}
	if d.Method != "" {
		line("method", "%s, %d iterations into the epoch", d.Method, d.Iteration)
	}
	for i, name := range slices.Sorted(maps.Keys(d.Lntorch)) {
		line(map[bool]string{true: "lntorch"}[i == 0], "%s = %s", name, d.Lntorch[name])
	}
	if d.Kind == "torch file" {
		line("note", "%s", d.note)
		for i, k := range d.Keys {
			line(map[bool]string{true: "keys"}[i == 0], "%s = %s", k, d.values[i])
		}
	} else {
		line("network", "%s", d.Network)
		if d.Network == notRecognised {
			line("parameters", "%d", d.Parameters)
		} else {
			line("parameters", "%d; %d input channels, %d classes", d.Parameters, d.Channels, d.Classes)
		}
	}
	for i, x := range d.Differences {
		line(map[bool]string{true: "differences"}[i == 0], "%s", x)
	}
	for i, x := range d.Notes {
		line(map[bool]string{true: "notes"}[i == 0], "%s", x)
	}
	line("globals", "%s", strings.Join(d.Globals, " "))
	if len(d.Tensors) == 0 {
		line("tensors", "none")
		return nil
	}
	fmt.Fprintln(w)
	names := map[string]int{}
	for _, x := range d.Tensors {
		if x.Alias != "" {
			names[x.Alias]++
		}
	}
	t := report.Table{Columns: []report.Column{{Name: "tensor"}, {Name: "dtype"}, {Name: "shape"}, {Name: "aliases", Right: true}}}
	if all {
		t.Columns[3] = report.Column{Name: "alias of"}
	}
	digest := d.Tensors[0].SHA256 != ""
	if digest {
		t.Columns = append(t.Columns, report.Column{Name: "sha256"})
	}
	for _, x := range d.Tensors {
		aliases := x.Alias
		if !all {
			if x.Alias != "" {
				continue
			}
			if n := names[x.Name]; n > 0 {
				aliases = fmt.Sprint(n)
			}
		}
		row := []string{x.Name, x.DType, fmt.Sprint(x.Shape), aliases}
		if digest {
			row = append(row, x.SHA256)
		}
		t.Add(row...)
	}
	return t.Text(w)
}

// BytesText prints the size of a file: exact where it is small.
func BytesText(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// digestChunk is how much of a contiguous tensor is read at a time.
const digestChunk = 1 << 20

// digests fills the sha256 of every tensor, on all cores, aliases with that of the tensor itself.
func digests(ctx context.Context, tensors []checkpoint.Weight, out []tensorSummary, c Progress) error {
	var jobs []int
	for i := range tensors {
		if out[i].Alias == "" {
			jobs = append(jobs, i)
		}
	}
	c.Begin("sha256", len(jobs))
	defer c.End()
	errs := make([]error, system.Cores())
	var next atomic.Int64
	var done int
	var mu sync.Mutex // Progress hears from one goroutine at a time
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for errs[w] == nil {
				n := int(next.Add(1)) - 1
				if n >= len(jobs) {
					return
				}
				i := jobs[n]
				if errs[w] = ctx.Err(); errs[w] == nil {
					out[i].SHA256, errs[w] = digest(tensors[i].Tensor)
				}
				mu.Lock()
				done++
				c.Done(done, tensors[i].Name)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	sums := map[string]string{}
	for _, i := range jobs {
		sums[out[i].Name] = out[i].SHA256
	}
	for i := range out {
		if out[i].Alias != "" {
			out[i].SHA256 = sums[out[i].Alias]
		}
	}
	return nil
}

func digest(t *pth.Tensor) (string, error) {
	sum := sha256.New()
	if t.Contiguous() {
		from := t.Offset * int64(t.DType.Size())
		buf := make([]byte, min(digestChunk, t.Bytes()))
		for off := int64(0); off < t.Bytes(); off += int64(len(buf)) {
			buf = buf[:min(int64(len(buf)), t.Bytes()-off)]
			if _, err := t.Storage.ReadAt(buf, from+off); err != nil {
				return "", err
			}
			sum.Write(buf)
		}
	} else {
		buf := make([]byte, t.Bytes())
		if err := t.ReadInto(buf); err != nil {
			return "", err
		}
		sum.Write(buf)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

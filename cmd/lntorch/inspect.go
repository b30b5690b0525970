package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/report"
)

func newInspect() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "shows what is in a checkpoint, without running anything from it",
		Long: `inspect opens a checkpoint (.pth of PyTorch, nnU-Net or lntorch), or the final checkpoint of a model folder, and tells what it is:
trainer, epoch, plans, the Python names in it, which network it holds and how many parameters, and every tensor's name, type and shape.
--digest adds the sha256 of each tensor's bytes (row-major, little-endian). Of .npz and .npy files it shows each array with its range
and the number of values that are not finite. It needs no libtorch.`,
		Example: `  lntorch inspect model/fold_0/checkpoint_final.pth
  lntorch inspect --json --digest model/fold_0/checkpoint_final.pth
  lntorch inspect nnUNet_preprocessed/Dataset102_X/nnUNetPlans_3d_fullres/LN_000.npz`,
		Args: exactly("FILE"),
		RunE: runInspect,
	}
	cmd.Flags().Bool("json", false, "print JSON")
	cmd.Flags().Bool("digest", false, "sha256 of every tensor")
	return cmd
}

// inspection is what --json prints of a checkpoint; keys keep their meaning.
type inspection struct {
	File       string          `json:"file"`
	Kind       string          `json:"kind"` // "nnU-Net checkpoint" or "state dict"
	Trainer    string          `json:"trainer,omitempty"`
	Epoch      *int            `json:"current_epoch,omitempty"`
	Dataset    string          `json:"dataset_name,omitempty"`
	Plans      string          `json:"plans_name,omitempty"`
	Config     string          `json:"configuration,omitempty"`
	Fold       string          `json:"fold,omitempty"`
	MirrorAxes []int           `json:"mirror_axes,omitempty"`
	Method     string          `json:"lntorch_method,omitempty"`
	Iteration  int64           `json:"lntorch_iteration,omitempty"`
	Network    string          `json:"network"`
	Channels   int64           `json:"input_channels,omitempty"`
	Classes    int64           `json:"classes,omitempty"`
	Parameters int64           `json:"parameters"`
	Momentum   bool            `json:"optimizer_state"`
	Globals    []string        `json:"globals"`
	Keys       []string        `json:"keys"`
	Tensors    []tensorSummary `json:"tensors"`
}

type tensorSummary struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	Alias  string  `json:"alias_of,omitempty"` // first name of the same storage and view
	SHA256 string  `json:"sha256,omitempty"`
}

func runInspect(cmd *cobra.Command, args []string) error {
	path, err := checkpointFile(args[0])
	if err != nil {
		return err
	}
	asJSON, _ := cmd.Flags().GetBool("json")
	if strings.HasSuffix(path, ".npz") || strings.HasSuffix(path, ".npy") {
		return inspectArrays(path, asJSON)
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	doc := inspection{File: path, Kind: "state dict", Globals: []string{}, Keys: []string{}, Tensors: []tensorSummary{}}
	for _, g := range f.Globals() {
		if !slices.Contains(doc.Globals, g.String()) {
			doc.Globals = append(doc.Globals, g.String())
		}
	}
	if f.NNUNet {
		doc.Kind, doc.Trainer, doc.Epoch = "nnU-Net checkpoint", f.Trainer, &f.Epoch
		doc.Config, doc.Fold, doc.MirrorAxes = f.Configuration, f.Fold, f.MirrorAxes
		for _, k := range f.Root().Keys() {
			doc.Keys = append(doc.Keys, fmt.Sprint(k))
		}
		if f.Plans != nil {
			doc.Dataset, doc.Plans = f.Plans.DatasetName, f.Plans.PlansName
		}
		doc.Method, doc.Iteration = f.Lntorch()
		v, _ := f.Root().Get("optimizer_state")
		doc.Momentum = v != nil
	}
	doc.describe(f.Weights)
	if digest, _ := cmd.Flags().GetBool("digest"); digest {
		if err := digests(f.Weights, doc.Tensors, newConsole(cmd)); err != nil {
			return err
		}
	}
	if asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(doc)
	}
	return doc.print(os.Stdout)
}

// checkpointFile takes a file, or the first fold's final checkpoint of a model folder.
func checkpointFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return path, err
	}
	for _, pattern := range []string{"checkpoint_final.pth", "fold_*/checkpoint_final.pth"} {
		if found, err := filepath.Glob(filepath.Join(path, pattern)); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("%s is a folder without checkpoint_final.pth and without fold_*/checkpoint_final.pth: name the file", path)
}

// describe lists the tensors and recognises the network by their names.
func (d *inspection) describe(weights []checkpoint.Weight) {
	type view struct {
		storage *pth.Storage
		offset  int64
		shape   string
	}
	first := map[view]string{}
	shapes := map[string][]int64{}
	stages := 0
	for _, w := range weights {
		t := tensorSummary{Name: w.Name, DType: w.DType.String(), Shape: w.Size}
		if t.Shape == nil {
			t.Shape = []int64{}
		}
		v := view{w.Storage, w.Offset, fmt.Sprint(w.Size, w.Stride)}
		if name, ok := first[v]; ok {
			t.Alias = name
		} else {
			first[v] = w.Name
			d.Parameters += w.Numel()
		}
		d.Tensors = append(d.Tensors, t)
		shapes[w.Name] = w.Size
		var s int
		if n, _ := fmt.Sscanf(w.Name, "encoder.stages.%d.", &s); n == 1 {
			stages = max(stages, s+1)
		}
		if _, ok := strings.CutPrefix(w.Name, "decoder.seg_layers."); ok && len(w.Size) > 1 {
			d.Classes = w.Size[0]
		}
	}
	d.Network = "not recognised"
	axis := func(name string, i int) int64 {
		if s := shapes[name]; len(s) > i {
			return s[i]
		}
		return 0
	}
	switch {
	case shapes["encoder.stem.convs.0.conv.weight"] != nil:
		d.Network = fmt.Sprintf("ResidualEncoderUNet, %d stages", stages)
		d.Channels = axis("encoder.stem.convs.0.conv.weight", 1)
	case shapes["encoder.stages.0.0.convs.0.conv.weight"] != nil:
		d.Network = fmt.Sprintf("PlainConvUNet, %d stages", stages)
		d.Channels = axis("encoder.stages.0.0.convs.0.conv.weight", 1)
	case shapes["swinViT.patch_embed.proj.weight"] != nil:
		d.Network = "SwinUNETR"
		for name := range shapes {
			if strings.HasPrefix(name, "swinViT.layers1c") {
				d.Network = "SwinUNETRv2"
			}
		}
		d.Channels = axis("swinViT.patch_embed.proj.weight", 1)
		d.Classes = axis("out.conv.conv.weight", 0)
	}
}

func (d *inspection) print(w io.Writer) error {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("file", "%s", d.File)
	line("kind", "%s", d.Kind)
	if d.Epoch != nil {
		line("trainer", "%s, next epoch %d", d.Trainer, *d.Epoch)
		line("plans", "%s of %s, configuration %s, fold %s", d.Plans, d.Dataset, d.Config, d.Fold)
		line("mirror axes", "%v", d.MirrorAxes)
	}
	if d.Method != "" {
		line("lntorch", "method %s, %d iterations into the epoch", d.Method, d.Iteration)
	}
	line("network", "%s: %d parameters, %d input channels, %d classes", d.Network, d.Parameters, d.Channels, d.Classes)
	line("optimizer", "%v", d.Momentum)
	line("globals", "%s", strings.Join(d.Globals, " "))
	fmt.Fprintln(w)
	t := report.Table{Columns: []report.Column{{Name: "tensor"}, {Name: "dtype"}, {Name: "shape"}}}
	digest := len(d.Tensors) > 0 && d.Tensors[0].SHA256 != ""
	if digest {
		t.Columns = append(t.Columns, report.Column{Name: "sha256"})
	}
	aliases := 0
	for _, x := range d.Tensors {
		if x.Alias != "" {
			aliases++
			continue
		}
		row := []string{x.Name, x.DType, fmt.Sprint(x.Shape)}
		if digest {
			row = append(row, x.SHA256)
		}
		t.Add(row...)
	}
	if err := t.Text(w); err != nil {
		return err
	}
	if aliases > 0 {
		fmt.Fprintf(w, "and %d further names of these tensors (--json lists them)\n", aliases)
	}
	return nil
}

// digests fills the sha256 of every tensor, on all cores.
func digests(weights []checkpoint.Weight, out []tensorSummary, c *console) error {
	c.Begin("sha256", len(weights))
	defer c.End()
	jobs := make(chan int)
	errs := make([]error, len(weights))
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := range jobs {
				b := make([]byte, weights[i].Bytes())
				if errs[i] = weights[i].ReadInto(b); errs[i] == nil {
					sum := sha256.Sum256(b)
					out[i].SHA256 = hex.EncodeToString(sum[:])
				}
			}
		})
	}
	for i := range weights {
		jobs <- i
		c.Done(i+1, "")
	}
	close(jobs)
	wg.Wait()
	return errors.Join(errs...)
}

// arraySummary is what --json prints of each array of an .npz or .npy file.
type arraySummary struct {
	Name      string   `json:"name"`
	DType     string   `json:"dtype"`
	Shape     []int    `json:"shape"`
	Min       *float64 `json:"min"` // of the finite values; null without
	Max       *float64 `json:"max"`
	NotFinite int      `json:"not_finite"`
}

func inspectArrays(path string, asJSON bool) error {
	var list []arraySummary
	add := func(name string, a *npz.Array) error {
		v, err := a.Float64s()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
		s := arraySummary{Name: name, DType: a.DType, Shape: a.Shape}
		for _, x := range v {
			if math.IsNaN(x) || math.IsInf(x, 0) {
				s.NotFinite++
				continue
			}
			if s.Min == nil || x < *s.Min {
				s.Min = &x
			}
			if s.Max == nil || x > *s.Max {
				s.Max = &x
			}
		}
		list = append(list, s)
		return nil
	}
	if strings.HasSuffix(path, ".npy") {
		a, err := npz.OpenNpy(path)
		if err != nil {
			return err
		}
		if err := add(filepath.Base(path), a); err != nil {
			return err
		}
	} else {
		f, err := npz.OpenNpz(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for _, name := range f.Names() {
			a, err := f.Read(name)
			if err != nil {
				return err
			}
			if err := add(name, a); err != nil {
				return err
			}
		}
	}
	if asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(list)
	}
	t := report.Table{Columns: []report.Column{{Name: "array"}, {Name: "dtype"}, {Name: "shape"}, {Name: "min", Right: true}, {Name: "max", Right: true},
		{Name: "not finite", Right: true}}}
	number := func(v *float64) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprintf("%g", *v)
	}
	for _, a := range list {
		t.Add(a.Name, a.DType, fmt.Sprint(a.Shape), number(a.Min), number(a.Max), fmt.Sprint(a.NotFinite))
	}
	return t.Text(os.Stdout)
}

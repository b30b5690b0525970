package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/phantom"
	"github.com/lntorch/lntorch/report"
)

func newPhantom() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "phantom",
		Short: "writes synthetic head-and-neck CTs with lymph nodes in nnU-Net's raw layout",
		Long: `phantom writes a dataset of synthetic CTs: airway, larynx, spine, skull base, jaw with teeth and dental metal, muscles, glands,
carotids and jugular veins, and lymph nodes of 3 to 25 mm along them, with the noise and blur of a reconstruction kernel.
It is a demonstration and a test object, not evidence about patients: no shape, size or frequency in it was measured on anyone.

A domain is a hospital. source: 0.98×0.98×1.5 or 0.49×0.49×3 mm, mostly venous phase, soft kernel, little noise, larger nodes.
target: 1.17×1.17×2.5 mm, arterial phase or no contrast, sharp kernel, more noise, smaller nodes, more dental metal. --phase,
--kernel, --noise and the like replace single choices of the domain. --size small takes voxels of 2 to 3 mm, for trying out.

The same seed gives the same voxels, whatever --threads is. A dataset appears when all of it is written. The table shows, for
each case, the nodes of the label map (none is thinner than 1.25 voxels); phantom.json in the dataset's folder lists every one
of them, and --json prints the same.`,
		Example: `  lntorch phantom --id 501 --name PhantomSource --cases 20 -o nnUNet_raw
  lntorch phantom --id 502 --name PhantomTarget --domain target --cases 5 --test-cases 10 -o nnUNet_raw
  lntorch phantom --id 503 --name Tiny --size small --cases 5 --phase arterial --seed 7
  lntorch phantom --seed 4 --preview neck.png`,
		Args: exactly(),
		RunE: runPhantom,
	}
	f := cmd.Flags()
	f.StringP("raw", "o", os.Getenv("nnUNet_raw"), "nnU-Net's folder of raw datasets (default: $nnUNet_raw)")
	f.Lookup("raw").DefValue = ""
	f.Int("id", 0, "number of the dataset, 1 to 999")
	f.String("name", "", "name of the dataset (default: PhantomSource or PhantomTarget)")
	f.Int("cases", 10, "cases for training")
	f.Int("test-cases", 0, "cases for testing (imagesTs, labelsTs)")
	f.String("domain", "source", "hospital: source or target")
	f.String("size", "full", "small (about 60×104×104 voxels) or full (about 100×512×512)")
	f.Uint64("seed", 0, "seed of all patients")
	f.IntSlice("shape", nil, "voxels along z,y,x")
	f.Float64Slice("spacing", nil, "spacing along z,y,x in mm")
	f.Lookup("spacing").DefValue = ""
	f.String("phase", "", "contrast phase: none, arterial or venous")
	f.String("kernel", "", "reconstruction kernel: soft, medium or sharp")
	f.Float64("noise", 0, "standard deviation of the noise in soft tissue, HU")
	f.IntSlice("nodes", nil, "least and most nodes in a case; there are fewer where there is no room")
	f.Float64("node-size", 0, "median short axis of the nodes, mm")
	f.Int("metals", 0, "teeth with metal")
	f.Int("classes", 1, "1: lymph_node; 5: the levels I to V, one label each")
	f.Int("threads", 0, "at most so many cores (default: all)")
	f.Bool("force", false, "replace a dataset of that name")
	f.Bool("json", false, "print JSON")
	f.String("preview", "", "draw the first case there, .png; without --id nothing else is written")
	return cmd
}

func runPhantom(cmd *cobra.Command, _ []string) error {
	f := cmd.Flags()
	d, err := phantomFlags(cmd)
	if err != nil {
		return err
	}
	preview, _ := f.GetString("preview")
	if d.ID == 0 && preview == "" {
		return usage(cmd, errors.New("--id is not given"))
	}
	id := d.ID
	d.ID = max(id, 1)
	configs, err := d.Configs()
	if err != nil {
		return usage(cmd, err)
	}
	if id == 0 {
		c, err := phantom.Make(cmd.Context(), configs[0])
		if err != nil {
			return err
		}
		if err := drawPhantom(preview, c, phantom.CaseName(0)); err != nil {
			return err
		}
		fmt.Println("picture:", preview)
		return nil
	}
	raw, err := folder(cmd, "raw")
	if err != nil {
		return err
	}
	force, _ := f.GetBool("force")
	asJSON, _ := f.GetBool("json")
	out := newConsole(cmd)
	voxels := 0
	for _, c := range configs {
		voxels += c.Shape[0] * c.Shape[1] * c.Shape[2]
	}
	fmt.Fprintf(out, "%s: %d synthetic cases, about %d MB\n", d.Folder(), len(configs), voxels/1_000_000+1)
	out.Begin("phantom", len(configs))
	s, err := d.Write(cmd.Context(), raw, force, func(done int, c *phantom.Case, r *phantom.Record) error {
		out.Done(done, r.Case)
		if done == 1 && preview != "" {
			return drawPhantom(preview, c, r.Case)
		}
		return nil
	})
	out.End()
	var exists *phantom.Exists
	if errors.As(err, &exists) {
		return fmt.Errorf("%w; --force replaces it", err)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("stopped by the user; nothing of the dataset is left: %w", err)
	}
	if err != nil {
		return err
	}
	if asJSON {
		b, err := s.JSON()
		if err == nil {
			_, err = os.Stdout.Write(b)
		}
		return err
	}
	return printPhantom(s, preview)
}

// phantomFlags takes over the flags that were given.
func phantomFlags(cmd *cobra.Command) (*phantom.Dataset, error) {
	f := cmd.Flags()
	d := &phantom.Dataset{}
	d.ID, _ = f.GetInt("id")
	d.Name, _ = f.GetString("name")
	d.Cases, _ = f.GetInt("cases")
	d.TestCases, _ = f.GetInt("test-cases")
	d.Domain, _ = f.GetString("domain")
	d.Size, _ = f.GetString("size")
	d.Seed, _ = f.GetUint64("seed")
	phase, _ := f.GetString("phase")
	kernel, _ := f.GetString("kernel")
	d.Phase, d.Kernel = phantom.Phase(phase), phantom.Kernel(kernel)
	if d.Threads, _ = f.GetInt("threads"); d.Threads < 1 {
		d.Threads = runtime.GOMAXPROCS(0)
	}
	if d.Name == "" {
		d.Name = map[string]string{"target": "PhantomTarget"}[d.Domain]
		if d.Name == "" {
			d.Name = "PhantomSource"
		}
	}
	if f.Changed("id") && d.ID == 0 {
		return nil, usage(cmd, errors.New("--id 0: expected 1 to 999"))
	}
	three := func(n int, flag string) error {
		if n != 3 {
			return usage(cmd, fmt.Errorf("--%s has %d values, expected three: z,y,x", flag, n))
		}
		return nil
	}
	if f.Changed("shape") {
		v, _ := f.GetIntSlice("shape")
		if err := three(len(v), "shape"); err != nil {
			return nil, err
		}
		d.Shape = (*[3]int)(v)
	}
	if f.Changed("spacing") {
		v, _ := f.GetFloat64Slice("spacing")
		if err := three(len(v), "spacing"); err != nil {
			return nil, err
		}
		d.Spacing = (*[3]float64)(v)
	}
	if f.Changed("nodes") {
		v, _ := f.GetIntSlice("nodes")
		if len(v) != 2 {
			return nil, usage(cmd, fmt.Errorf("--nodes has %d values, expected two: least,most", len(v)))
		}
		d.Nodes = (*[2]int)(v)
	}
	if f.Changed("noise") {
		v, _ := f.GetFloat64("noise")
		d.Noise = &v
	}
	if f.Changed("node-size") {
		v, _ := f.GetFloat64("node-size")
		d.ShortAxis = &v
	}
	if f.Changed("metals") {
		v, _ := f.GetInt("metals")
		d.Metals = &v
	}
	switch n, _ := f.GetInt("classes"); n {
	case 1:
	case 5:
		d.Levels = true
	default:
		return nil, usage(cmd, fmt.Errorf("--classes %d: expected 1 or 5", n))
	}
	return d, nil
}

func printPhantom(s *phantom.Summary, preview string) error {
	t := report.Table{Columns: []report.Column{{Name: "case"}, {Name: "for"}, {Name: "shape z,y,x"}, {Name: "spacing mm"}, {Name: "phase"}, {Name: "noise HU", Right: true},
		{Name: "nodes", Right: true}, {Name: "short axes mm", Right: true}, {Name: "volume ml", Right: true}}}
	nodes, volume := 0, 0.0
	for _, c := range s.Cases {
		use := "training"
		if c.Test {
			use = "test"
		}
		axes := "–"
		if len(c.Nodes) > 0 {
			short := make([]float64, len(c.Nodes))
			for i, n := range c.Nodes {
				short[i] = n.Axes[0]
			}
			axes = fmt.Sprintf("%.1f – %.1f", slices.Min(short), slices.Max(short))
		}
		number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
		t.Add(c.Case, use, fmt.Sprintf("%d×%d×%d", c.Shape[0], c.Shape[1], c.Shape[2]), number(c.Spacing[0])+"×"+number(c.Spacing[1])+"×"+number(c.Spacing[2]),
			string(c.Phase), number(c.Noise), strconv.Itoa(len(c.Nodes)), axes, fmt.Sprintf("%.2f", c.Volume))
		nodes += len(c.Nodes)
		volume += c.Volume
	}
	t.Add("all", "", "", "", "", "", strconv.Itoa(nodes), "", fmt.Sprintf("%.2f", volume))
	if err := t.Text(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("%s\n%s\n", s.Note, s.Folder)
	if preview != "" {
		fmt.Println("picture:", preview)
	}
	return nil
}

// drawPhantom draws the axial, coronal and sagittal slices with most of the nodes, in a soft-tissue window.
func drawPhantom(path string, c *phantom.Case, name string) error {
	const low, high = -160, 240 // level 40, width 400
	nz, ny, nx := c.Shape[0], c.Shape[1], c.Shape[2]
	sz, sy, sx := c.Spacing[0], c.Spacing[1], c.Spacing[2]
	data := report.OverlayData{Title: "synthetic CT (not a patient), soft-tissue window"}
	for l := range 5 {
		if c.Levels {
			data.Labels = append(data.Labels, []string{"I", "II", "III", "IV", "V"}[l])
		} else if l == 0 {
			data.Labels = append(data.Labels, "lymph node")
		}
	}
	for _, v := range []struct {
		name    string
		shape   [3]int
		spacing [3]float64
		index   func(s, r, x int) (z, y, column int)
	}{
		{"axial", [3]int{nz, ny, nx}, [3]float64{sz, sy, sx}, func(s, r, x int) (int, int, int) { return s, r, x }},
		{"coronal", [3]int{ny, nz, nx}, [3]float64{sy, sz, sx}, func(s, r, x int) (int, int, int) { return nz - 1 - r, s, x }},
		{"sagittal", [3]int{nx, nz, ny}, [3]float64{sx, sz, sy}, func(s, r, x int) (int, int, int) { return nz - 1 - r, x, s }},
	} {
		o := report.OverlayCase{Name: name + ", " + v.name, Shape: v.shape, Spacing: v.spacing, Image: make([]float32, len(c.CT)), Truth: make([]uint8, len(c.CT))}
		i := 0
		for s := range v.shape[0] {
			for r := range v.shape[1] {
				for x := range v.shape[2] {
					z, y, column := v.index(s, r, x)
					k := (z*ny+y)*nx + column
					o.Image[i] = low
					if y < c.Back[z] { // without the couch, which would shrink the rest
						o.Image[i] = float32(min(max(c.CT[k], low), high))
					}
					o.Truth[i] = c.Labels[k]
					i++
				}
			}
		}
		data.Cases = append(data.Cases, o)
	}
	return report.Overlay(path, data)
}

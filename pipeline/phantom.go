package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/phantom"
	"github.com/lntorch/lntorch/report"
)

// PhantomConfig is a dataset of synthetic CTs, or a picture of one.
type PhantomConfig struct {
	Raw       string    `flag:"raw" short:"o" env:"nnUNet_raw" path:"true" help:"nnU-Net's folder of raw datasets (default: $nnUNet_raw)"`
	ID        int       `flag:"id" range:"1..999" help:"number of the dataset, 1 to 999"`
	Name      string    `flag:"name" help:"name of the dataset (default: PhantomSource or PhantomTarget)"`
	Cases     int       `flag:"cases" default:"10" range:"1.." help:"cases for training"`
	TestCases int       `flag:"test-cases" range:"0.." help:"cases for testing (imagesTs, labelsTs)"`
	Domain    string    `flag:"domain" default:"source" values:"source,target" help:"hospital"`
	Size      string    `flag:"size" default:"full" values:"small,full" help:"small (about 60×104×104 voxels) or full (about 100×512×512)"`
	Seed      uint64    `flag:"seed" help:"seed of all patients"`
	Shape     []int     `flag:"shape" range:"1.." help:"voxels along z,y,x"`
	Spacing   []float64 `flag:"spacing" range:">0.." help:"spacing along z,y,x in mm"`
	Phase     string    `flag:"phase" values:"none,arterial,venous" help:"contrast phase"`
	Kernel    string    `flag:"kernel" values:"soft,medium,sharp" help:"reconstruction kernel"`
	Noise     *float64  `flag:"noise" range:"0.." help:"standard deviation of the noise in soft tissue, HU"`
	Nodes     []int     `flag:"nodes" range:"0.." help:"least and most nodes in a case; there are fewer where there is no room"`
	NodeSize  *float64  `flag:"node-size" range:">0.." help:"median short axis of the nodes, mm"`
	Metals    *int      `flag:"metals" range:"0.." help:"teeth with metal"`
	Classes   int       `flag:"classes" default:"1" range:"1..5" help:"1: lymph_node; 5: the levels I to V, one label each"`
	Threads   int       `flag:"threads" range:"1.." help:"at most so many cores (default: all)"`
	Force     bool      `flag:"force" help:"replace a dataset of that name"`
	Preview   string    `flag:"preview" path:"true" help:"draw the first case there, .png; without --id nothing else is written"`
}

// Phantom writes the dataset; nil where only a picture was wanted.
func Phantom(ctx context.Context, c PhantomConfig, o Output) (*phantom.Summary, error) {
	d, err := c.dataset()
	if err != nil {
		return nil, err
	}
	configs, err := d.Configs()
	if err != nil {
		return nil, &settings.UsageError{Err: err}
	}
	if c.ID == 0 {
		first, err := phantom.Make(ctx, configs[0])
		if err != nil {
			return nil, err
		}
		return nil, drawPhantom(c.Preview, first, phantom.CaseName(0))
	}
	if err := given("raw", c.Raw); err != nil {
		return nil, err
	}
	voxels := 0
	for _, x := range configs {
		voxels += x.Shape[0] * x.Shape[1] * x.Shape[2]
	}
	o.Printf("%s: %d synthetic cases, about %d MB", d.Folder(), len(configs), voxels/1_000_000+1)
	progress := o.progress()
	progress.Begin("phantom", len(configs))
	defer progress.End()
	s, err := d.Write(ctx, c.Raw, c.Force, func(done int, x *phantom.Case, r *phantom.Record) error {
		progress.Done(done, r.Case)
		if done == 1 && c.Preview != "" {
			return drawPhantom(c.Preview, x, r.Case)
		}
		return nil
	})
	var exists *phantom.Exists
	switch {
	case errors.As(err, &exists):
		return nil, fmt.Errorf("%w; --force replaces it", err)
	case errors.Is(err, context.Canceled):
		return nil, fmt.Errorf("stopped by the user; nothing of the dataset is left: %w", err)
	}
	return s, err
}

// dataset describes what is to be made.
func (c *PhantomConfig) dataset() (*phantom.Dataset, error) {
	if c.ID == 0 && c.Preview == "" {
		return nil, settings.Usage("--id is not given")
	}
	if c.Classes != 1 && c.Classes != 5 {
		return nil, settings.Usage("--classes %d: expected 1 or 5", c.Classes)
	}
	d := &phantom.Dataset{ID: max(c.ID, 1), Name: c.Name, Cases: c.Cases, TestCases: c.TestCases, Domain: c.Domain, Size: c.Size, Seed: c.Seed,
		Phase: phantom.Phase(c.Phase), Kernel: phantom.Kernel(c.Kernel), Noise: c.Noise, ShortAxis: c.NodeSize, Metals: c.Metals,
		Levels: c.Classes == 5, Threads: cmp.Or(c.Threads, system.Cores())}
	if d.Name == "" {
		d.Name = map[string]string{"source": "PhantomSource", "target": "PhantomTarget"}[c.Domain]
	}
	if c.Shape != nil {
		if len(c.Shape) != 3 {
			return nil, settings.Usage("--shape has %d values, expected three: z,y,x", len(c.Shape))
		}
		d.Shape = (*[3]int)(c.Shape)
	}
	if c.Spacing != nil {
		if len(c.Spacing) != 3 {
			return nil, settings.Usage("--spacing has %d values, expected three: z,y,x", len(c.Spacing))
		}
		d.Spacing = (*[3]float64)(c.Spacing)
	}
	if c.Nodes != nil {
		if len(c.Nodes) != 2 {
			return nil, settings.Usage("--nodes has %d values, expected two: least,most", len(c.Nodes))
		}
		d.Nodes = (*[2]int)(c.Nodes)
	}
	return d, nil
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

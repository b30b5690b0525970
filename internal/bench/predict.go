package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/segment"
	"github.com/lntorch/lntorch/volume"
)

// tile is a prediction up to its first tile. Nothing of it stays.
func tile(ctx context.Context, c Config, out io.Writer, o pipeline.Output) error {
	if c.Model == "" || c.Input == "" {
		return settings.Usage("tile needs --model and --input")
	}
	folder, err := os.MkdirTemp("", "lntorch-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	inner, stop := context.WithCancel(ctx)
	defer stop()
	p := settings.New[pipeline.PredictConfig]()
	p.Input, p.Output, p.ModelChoice.Model, p.Machine = []string{c.Input}, folder, c.Model, c.Machine
	first := &untilFirst{stop: stop, out: out, part: c.Part}
	o.Progress = first
	err = pipeline.Predict(inner, p, o, nil)
	if first.came && ctx.Err() == nil {
		return nil
	}
	return err
}

// slabBytes is the size of the slabs of logits, as package infer emits them.
const slabBytes = 16 << 20

// exporting is the export of one case without a network: the logits come from a file, slab by slab.
type exporting struct {
	cfg    Config
	grid   preprocess.Grid
	labels *plans.Labels
	files  segment.Files
	logits *os.File
}

// openExport reads what the export of a case needs to know.
func openExport(c Config) (*exporting, error) {
	if c.Threads == 0 {
		c.Threads = system.Cores()
	}
	if c.Model == "" || c.Logits == "" || c.Properties == "" || c.Output == "" || len(c.Image) != 3 {
		return nil, settings.Usage("export needs --model, --logits, --image z,y,x of the logits, --properties and -o")
	}
	p, err := plans.Load(filepath.Join(c.Model, "plans.json"))
	if err != nil {
		return nil, err
	}
	d, err := plans.LoadDataset(filepath.Join(c.Model, "dataset.json"))
	if err != nil {
		return nil, err
	}
	configuration, err := p.Configuration(c.Configuration)
	if err != nil {
		return nil, err
	}
	e := &exporting{cfg: c, labels: d.Labels}
	e.files = segment.Files{Labels: c.Output + d.FileEnding, Stem: c.Output, Threads: c.Threads}
	v, err := pickle.ReadFile(c.Properties)
	if err != nil {
		return nil, err
	}
	var ok bool
	if e.files.Properties, ok = v.(*pickle.Dict); !ok {
		return nil, fmt.Errorf("%s: found a %s, expected the properties of an image", c.Properties,
			pickle.TypeName(v))
	}
	if e.files.Geometry, err = images.FromDict(e.files.Properties); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Properties, err)
	}
	if e.files.Reader, err = images.ForName(p.ImageReaderWriter); err != nil {
		return nil, err
	}
	e.grid, err = preprocess.NewGrid(p, configuration, e.files.Properties, [3]int(c.Image))
	if err != nil {
		return nil, err
	}
	e.logits, err = os.Open(c.Logits)
	return e, err
}

// export prints what one export takes. Reading the logits, which the network would hand over, is
// not timed.
func export(ctx context.Context, c Config, out io.Writer) error {
	e, err := openExport(c)
	if err != nil {
		return err
	}
	defer e.logits.Close()
	seconds, err := e.run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result{Part: c.Part, Seconds: seconds.Seconds(),
		PeakRSS: system.PeakRSS(), Threads: e.cfg.Threads})
}

// run exports the case as prediction does, and returns the time that resampling, labels and files
// take.
func (e *exporting) run(ctx context.Context) (taken time.Duration, err error) {
	how := preprocess.InverseConfig{Labels: e.labels, Reference: e.cfg.IsReference(), Shorten: !e.cfg.IsReference(),
		Threads: e.cfg.Threads}
	if e.cfg.Probabilities {
		how.Probabilities = filepath.Dir(e.cfg.Output)
	}
	begin := time.Now()
	v, err := preprocess.NewInverse(e.grid, how)
	if err != nil {
		return 0, err
	}
	defer v.Close()
	taken = time.Since(begin)
	depth, plane := e.grid.Shape[0], e.grid.Shape[1]*e.grid.Shape[2]
	heads := e.labels.NumSegmentationHeads()
	step := max(slabBytes/(4*heads*plane), 1)
	data, raw := make([]float32, heads*step*plane), make([]byte, 4*step*plane)
	for first := 0; first < depth; first += step {
		n := min(step, depth-first)
		for h := range heads {
			part := data[h*n*plane:][:n*plane]
			if _, err := e.logits.ReadAt(raw[:4*len(part)], int64(h*depth+first)*int64(4*plane)); err != nil {
				return 0, fmt.Errorf("%s: %w", e.cfg.Logits, err)
			}
			for i := range part {
				part[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
			}
		}
		begin = time.Now()
		err := v.Add(volume.Slab{First: first, Count: n, Strip: [2]int{0, e.grid.Shape[1]},
			Data: data[:heads*n*plane]})
		if err != nil {
			return 0, err
		}
		taken += time.Since(begin)
	}
	begin = time.Now()
	labels, err := v.Finish()
	if err == nil {
		err = e.files.Write(ctx, v, labels)
	}
	return taken + time.Since(begin), err
}

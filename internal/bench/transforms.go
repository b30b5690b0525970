package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// TransformsConfig says which parameters are applied to what.
type TransformsConfig struct {
	Spec    string
	Data    string `flag:"data" path:"true" help:"image, a .npy of (c,z,y,x), float32"`
	Seg     string `flag:"seg" path:"true" help:"segmentation, a .npy of (1,z,y,x), int16"`
	Repeats int    `flag:"repeats" default:"5" range:"1.." help:"timed repeats"`
	Each    int    `flag:"each" default:"1" range:"1.." help:"applications of a repeat; the time printed is that of one"`
	Serve   bool   `flag:"serve" hidden:"true" help:"one repeat for each line of standard input, answered in JSON; the first line says that all is prepared"`
}

// transformsResult is a repeat: the processor time of one application.
type transformsResult struct {
	Part    string  `json:"part"`
	Ready   bool    `json:"ready,omitempty"`
	Seconds float64 `json:"seconds"`
	PeakRSS int64   `json:"peak_rss_bytes"`
}

// Transforms times the application of given parameters, as lntorch augment apply applies them. The
// copy of the input, which is unchanged each time, is not timed.
func Transforms(ctx context.Context, c TransformsConfig, in io.Reader, out io.Writer) error {
	apply, err := c.open()
	if err != nil {
		return err
	}
	w := json.NewEncoder(out)
	repeat := func() error {
		var used time.Duration
		for range c.Each {
			if err := ctx.Err(); err != nil {
				return err
			}
			d, err := apply()
			if err != nil {
				return err
			}
			used += d
		}
		return w.Encode(transformsResult{Part: "transforms", Seconds: used.Seconds() / float64(c.Each),
			PeakRSS: system.PeakRSS()})
	}
	if !c.Serve {
		for range c.Repeats {
			if err := repeat(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := w.Encode(transformsResult{Part: "transforms", Ready: true}); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if err := repeat(); err != nil {
			return err
		}
	}
	return lines.Err()
}

// open reads parameters and arrays, and gives what applies them once and says how long that took.
func (c *TransformsConfig) open() (apply func() (time.Duration, error), err error) {
	if c.Data == "" || c.Seg == "" {
		return nil, settings.Usage("--data and --seg must be given")
	}
	text, err := regular.ReadFile(c.Spec)
	if err != nil {
		return nil, err
	}
	drawn, err := augment.DecodeSpec(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Spec, err)
	}
	data, err := read4(c.Data, (*npz.Array).Float32s)
	if err != nil {
		return nil, err
	}
	seg, err := read4(c.Seg, (*npz.Array).Int16s)
	if err != nil {
		return nil, err
	}
	if data.Spatial() != seg.Spatial() || seg.Shape[0] != 1 {
		return nil, fmt.Errorf("%s: found shape %v, expected (1,z,y,x) with the axes of %s, which has %v",
			c.Seg, seg.Shape, c.Data, data.Shape)
	}
	image := volume.Volume[float32]{Shape: data.Shape, Data: slices.Clone(data.Data)}
	labels := volume.Volume[int16]{Shape: seg.Shape, Data: slices.Clone(seg.Data)}
	scratch := &augment.Scratch{}
	return func() (time.Duration, error) {
		image.Shape, image.Data = data.Shape, append(image.Data[:0], data.Data...)
		labels.Shape, labels.Data = seg.Shape, append(labels.Data[:0], seg.Data...)
		p := augment.Patch{Image: &image, Seg: &labels, Dim: 3, Scratch: scratch}
		begin := system.CPUTime()
		err := drawn.Apply(&p)
		return system.CPUTime() - begin, err
	}, nil
}

// read4 reads an array of four axes.
func read4[T any](path string, values func(*npz.Array) ([]T, error)) (*volume.Volume[T], error) {
	a, err := npz.OpenNpy(path)
	if err != nil {
		return nil, err
	}
	if len(a.Shape) != 4 || slices.Min(a.Shape) < 1 {
		return nil, fmt.Errorf("%s: found shape %v, expected (c,z,y,x), none of them 0", path, a.Shape)
	}
	v, err := values(a)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &volume.Volume[T]{Data: v, Shape: [4]int(a.Shape)}, nil
}

// Package fingerprint extracts the fingerprint of a raw dataset as nnU-Net does before planning:
// spacing and cropped shape of every case, and the intensities of the foreground. It reads and
// writes dataset_fingerprint.json. Planning is data/planner's.
package fingerprint

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/lntorch/lntorch/data/plans"
)

// File is the name of the fingerprint in the preprocessed dataset's folder.
const File = "dataset_fingerprint.json"

// Fingerprint is what nnU-Net's planners use of a dataset's images.
type Fingerprint struct {
	Spacings     [][]float64       // per case, mm, in the axis order of the arrays as read
	Shapes       [][]int           // per case, voxels after the crop to non-zero
	RelativeSize float64           // median over the cases of voxels after the crop / before
	Channels     []plans.Intensity // of the sampled foreground, one per channel

	intensities *plans.Object
}

// Intensities returns foreground_intensity_properties_per_channel, which plans copy. It must not be
// modified.
func (f *Fingerprint) Intensities() *plans.Object { return f.intensities }

// Load reads a dataset_fingerprint.json.
func Load(path string) (*Fingerprint, error) {
	v, err := plans.ReadJSON(path)
	if err != nil {
		return nil, fmt.Errorf("fingerprint: %w", err)
	}
	f, err := FromJSON(v)
	if err != nil {
		return nil, fmt.Errorf("fingerprint: %s: %w", path, err)
	}
	return f, nil
}

// FromJSON interprets a decoded dataset_fingerprint.json. The document is kept, not copied.
func FromJSON(v any) (*Fingerprint, error) {
	o, ok := v.(*plans.Object)
	if !ok {
		return nil, errors.New("expected a JSON object with nnU-Net's keys: spacings, " +
			"shapes_after_crop, …")
	}
	f := &Fingerprint{}
	spacings, err := rows(o, "spacings")
	if err != nil {
		return nil, err
	}
	shapes, err := rows(o, "shapes_after_crop")
	if err != nil {
		return nil, err
	}
	if len(spacings) == 0 || len(spacings) != len(shapes) {
		return nil, fmt.Errorf("found %d spacings and %d shapes_after_crop, expected one of each "+
			"per case, and at least one case", len(spacings), len(shapes))
	}
	f.Spacings = spacings
	for i, row := range shapes {
		shape := make([]int, len(row))
		for a, x := range row {
			if x < 1 || x > math.MaxInt32 || x != math.Trunc(x) {
				return nil, fmt.Errorf("shapes_after_crop: case %d: expected positive integers, "+
					"found %v", i, row)
			}
			shape[a] = int(x)
		}
		f.Shapes = append(f.Shapes, shape)
		for _, s := range spacings[i] {
			if !(s > 0) || math.IsInf(s, 0) {
				return nil, fmt.Errorf("spacings: case %d: expected positive numbers, found %v",
					i, spacings[i])
			}
		}
	}
	relative, _ := o.Get("median_relative_size_after_cropping")
	if f.RelativeSize, ok = number(relative); !ok {
		return nil, fmt.Errorf("median_relative_size_after_cropping: expected a number, found %v",
			relative)
	}
	channels, _ := o.Get("foreground_intensity_properties_per_channel")
	if f.intensities, ok = channels.(*plans.Object); !ok {
		return nil, fmt.Errorf("foreground_intensity_properties_per_channel: expected an object "+
			"with one entry per channel, found %v", channels)
	}
	f.Channels, err = plans.Intensities(f.intensities)
	return f, err
}

// rows reads a list of lists of three numbers.
func rows(o *plans.Object, key string) ([][]float64, error) {
	v, _ := o.Get(key)
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("%s: expected a list with three numbers per case, found %v", key, v)
	}
	out := make([][]float64, len(list))
	for i, e := range list {
		row, ok := e.([]any)
		if !ok || len(row) != 3 {
			return nil, fmt.Errorf("%s: case %d: expected three numbers, found %v", key, i, e)
		}
		out[i] = make([]float64, 3)
		for a, x := range row {
			if out[i][a], ok = number(x); !ok {
				return nil, fmt.Errorf("%s: case %d: expected three numbers, found %v", key, i, e)
			}
		}
	}
	return out, nil
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int64:
		return float64(v), true
	}
	return 0, false
}

// object returns the document as nnU-Net writes it, before the keys are sorted.
func (f *Fingerprint) object() *plans.Object {
	channels := &plans.Object{}
	for i, c := range f.Channels {
		channels.Set(strconv.Itoa(i), plans.NewObject(
			"max", c.Max, "mean", c.Mean, "median", c.Median, "min", c.Min,
			"percentile_00_5", c.Percentile005, "percentile_99_5", c.Percentile995, "std", c.Std))
	}
	return plans.NewObject(
		"foreground_intensity_properties_per_channel", channels,
		"median_relative_size_after_cropping", f.RelativeSize,
		"shapes_after_crop", list(f.Shapes),
		"spacings", list(f.Spacings),
	)
}

func list[T any](rows []T) []any {
	out := make([]any, len(rows))
	for i, r := range rows {
		out[i] = r
	}
	return out
}

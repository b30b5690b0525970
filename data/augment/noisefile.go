package augment

import (
	"fmt"
	"slices"
)

// NoiseFile is the noise that a GaussianNoiseTransform adds, before its sigma: standard normal
// numbers, row-major, of the shape that SetNoise takes.
type NoiseFile struct {
	Name   string
	Shape  []int
	Values []float32
}

// NoiseFiles returns parameters with the same effect, in which files stand for the seeds of noise,
// and what belongs into the files, so that a program without the generator can apply them. initial
// is the size of the patch that they are applied to, 2 or 3 axes; name names the n-th file.
func (d Drawn) NoiseFiles(initial []int, name func(n int) string) (Drawn, []NoiseFile, error) {
	out, files := slices.Clone(d), []NoiseFile(nil)
	axes := initial
	for i, s := range d {
		switch p := s.Parameters.(type) {
		case *SpatialParameters:
			axes = slices.Concat(axes[:len(axes)-len(p.PatchSize)], p.PatchSize)
		case *Convert3DTo2DTransform:
			axes = axes[1:]
		case *Convert2DTo3DTransform:
			axes = slices.Concat(initial[:1], axes)
		case *GaussianNoiseParameters:
			if p.NoiseSeed == "" {
				continue
			}
			voxels := 1
			for _, size := range axes {
				voxels *= size
			}
			f := NoiseFile{Name: name(len(files)), Shape: slices.Concat([]int{len(p.Sigmas.Values)}, axes)}
			var err error
			if f.Values, err = p.field(voxels); err != nil {
				return nil, nil, fmt.Errorf("augment: transform %d, %s: %w", i, s.Transform, err)
			}
			named := *p
			named.NoiseSeed, named.Noise = "", f.Name
			out[i].Parameters = &named
			files = append(files, f)
		}
	}
	return out, files, nil
}

// WithNoise returns parameters with the same effect that hold their noise already, for a patch of the
// initial size.
func (d Drawn) WithNoise(initial []int) (Drawn, error) {
	held, files, err := d.NoiseFiles(initial, func(int) string { return "noise" })
	if err != nil {
		return nil, err
	}
	for i, s := range held {
		if p, ok := s.Parameters.(*GaussianNoiseParameters); ok && d[i].Parameters != s.Parameters {
			p.SetNoise(files[0].Shape, files[0].Values)
			files = files[1:]
		}
	}
	return held, nil
}

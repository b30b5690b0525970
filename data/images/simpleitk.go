package images

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/volume"
)

// simpleITK is nnU-Net's SimpleITKIO, which reads with SimpleITK.
// Source: nnunetv2/imageio/simpleitk_reader_writer.py.
type simpleITK struct{}

func (simpleITK) Name() string      { return "SimpleITKIO" }
func (simpleITK) Endings() []string { return []string{".nii.gz", ".nrrd", ".mha", ".gipl"} }

func (r simpleITK) Read(channels []string) (*volume.Image, *Properties, error) {
	if err := one(channels); err != nil {
		return nil, nil, err
	}
	var all []*volume.Image
	var first *Properties
	for _, path := range channels {
		f, err := image.Read(path)
		if err != nil {
			return nil, nil, err
		}
		im, p, err := r.image(f)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		if first == nil {
			first = p
		} else if err := first.compare(p, all[0].Shape, im.Shape, channels[0], path); err != nil {
			return nil, nil, err
		}
		first.count(f, im)
		all = append(all, im)
	}
	return stack(all), first, nil
}

// image returns the image of a file with SimpleITK's geometry.
func (simpleITK) image(f volume.File) (*volume.Image, *Properties, error) {
	im, g, err := f.Image()
	if err != nil {
		return nil, nil, err
	}
	p := &Properties{SITK: &SITK{g.Spacing, g.Origin, g.Direction}}
	switch n := len(g.Spacing); n {
	case 2:
		p.Spacing = []float64{999 * max(g.Spacing[0], g.Spacing[1]), g.Spacing[1], g.Spacing[0]}
	case 4:
		// Compat: the axis t becomes the channels, and the spacing is reversed[1:]: z, y, x.
		fallthrough
	default:
		p.Spacing = []float64{g.Spacing[2], g.Spacing[1], g.Spacing[0]}
	}
	for i, v := range p.Spacing {
		p.Spacing[i] = math.Abs(v)
	}
	im.Spacing = [3]float64(p.Spacing)
	return im, p, nil
}

func (r simpleITK) Take(f volume.File, ending string) (*volume.Image, *Properties, error) {
	f, err := image.As(ending, f)
	if err != nil {
		return nil, nil, err
	}
	im, p, err := r.image(f)
	if err != nil {
		return nil, nil, err
	}
	p.count(f, im)
	return im, p, nil
}

// compare compares another channel of a case with the first.
func (p *Properties) compare(q *Properties, shape, other [4]int, path, second string) error {
	if shape != other {
		return fmt.Errorf("the channels of a case have different shapes: %s %v, %s %v (channels, "+
			"z, y, x): resample one onto the grid of the other",
			path, shape, second, other)
	}
	spacing, spacing2 := p.Spacing, q.Spacing
	if p.SITK != nil {
		spacing, spacing2 = p.SITK.Spacing, q.SITK.Spacing
	}
	if !close(spacing, spacing2) {
		return fmt.Errorf("the channels of a case have different spacings: %s %v, %s %v: "+
			"resample one onto the grid of the other",
			path, spacing, second, spacing2)
	}
	warn := func(what string, a, b []float64) {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the channels of a case have different %ss: "+
			"%s %v, %s %v",
			what, path, a, second, b))
	}
	if p.SITK != nil {
		if !close(p.SITK.Origin, q.SITK.Origin) {
			warn("origin", p.SITK.Origin, q.SITK.Origin)
		}
		if !close(p.SITK.Direction, q.SITK.Direction) {
			warn("direction", p.SITK.Direction, q.SITK.Direction)
		}
		return nil
	}
	a, b := p.Nibabel.Original, q.Nibabel.Original
	if p.Nibabel.Reoriented != nil {
		a, b = *p.Nibabel.Reoriented, *q.Nibabel.Reoriented
	}
	if !close(flat(b), flat(a)) { // nnU-Net compares in this order
		warn("affine", flat(a), flat(b))
	}
	return nil
}

func flat(m [4][4]float64) []float64 { return slices.Concat(m[0][:], m[1][:], m[2][:], m[3][:]) }

// close is numpy.allclose with default tolerances.
func close(a, b []float64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !(math.Abs(a[i]-b[i]) <= 1e-8+1e-5*math.Abs(b[i])) && a[i] != b[i] {
			return false
		}
	}
	return true
}

func (r simpleITK) ReadSeg(path string) (*volume.Image, *Properties, error) {
	return r.Read([]string{path})
}

func (simpleITK) WriteSeg(path string, seg *volume.Image, p *Properties) error {
	if p.SITK == nil {
		return fmt.Errorf("%s: the properties were read by another class than SimpleITKIO", path)
	}
	pixels, err := labels(seg)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	shape := []int{seg.Shape[3], seg.Shape[2], seg.Shape[1]}
	switch len(p.SITK.Spacing) {
	case 2:
		if seg.Shape[1] != 1 {
			return fmt.Errorf("%s: found %d slices of labels for an image with two axes, expected "+
				"one",
				path, seg.Shape[1])
		}
		shape = shape[:2]
	case 3:
	default:
		return fmt.Errorf("%s: %w", path, errors.New("labels of an image with four axes cannot be "+
			"written, as in nnU-Net: store one channel per file"))
	}
	itk := &volume.ITK{Spacing: p.SITK.Spacing, Origin: p.SITK.Origin, Direction: p.SITK.Direction}
	return image.Write(path, shape, itk, pixels, workers)
}

package images

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/volume"
)

// Properties is what a reader returns about a case in addition to the pixels.
type Properties struct {
	SITK     *SITK     // of SimpleITKIO
	Nibabel  *Nibabel  // of NibabelIO and NibabelIOWithReorient
	Spacing  []float64 // mm, order (z, y, x)
	Warnings []string  // differences between the channels of the case; not in the .pkl
	// NaNs and Infinities count such pixels in the case's files; not in the .pkl. SimpleITKIO reads
	// both as 0.
	NaNs, Infinities int
}

// SITK is the geometry in SimpleITK's convention: x first, LPS.
type SITK struct {
	Spacing, Origin, Direction []float64
}

// Nibabel holds affines of voxel indices (x, y, z, 1) to mm, RAS.
type Nibabel struct {
	Original   [4][4]float64
	Reoriented *[4][4]float64 // of NibabelIOWithReorient
}

// count adds the stored pixels of a file that are NaN or infinite, and those of im, which was read
// from it, that the file's scaling makes infinite.
func (p *Properties) count(f volume.File, im *volume.Image) {
	stored := f.Stored()
	p.NaNs += volume.NaNs(stored, 0, stored.Len())
	p.Infinities += max(volume.Infinities(stored), volume.Infinities(im.Pixels))
}

// Dict returns the entries for the .pkl of the case, in nnU-Net's order and with its Python types:
// for SimpleITKIO sitk_stuff with tuples of float, and the spacing as a list of numpy.float64; for
// the others nibabel_stuff with numpy arrays, and the spacing as a list of float.
func (p *Properties) Dict() *pickle.Dict {
	d := &pickle.Dict{}
	spacing := &pickle.List{}
	if s := p.SITK; s != nil {
		stuff := &pickle.Dict{}
		stuff.Set("spacing", tuple(s.Spacing))
		stuff.Set("origin", tuple(s.Origin))
		stuff.Set("direction", tuple(s.Direction))
		d.Set("sitk_stuff", stuff)
		for _, v := range p.Spacing {
			data := binary.LittleEndian.AppendUint64(nil, math.Float64bits(v))
			scalar := &pickle.NumpyScalar{DType: float64Type(), Data: data}
			spacing.Items = append(spacing.Items, scalar)
		}
	}
	if n := p.Nibabel; n != nil {
		stuff := &pickle.Dict{}
		stuff.Set("original_affine", array(n.Original))
		if n.Reoriented != nil {
			stuff.Set("reoriented_affine", array(*n.Reoriented))
		}
		d.Set("nibabel_stuff", stuff)
		for _, v := range p.Spacing {
			spacing.Items = append(spacing.Items, v)
		}
	}
	d.Set("spacing", spacing)
	return d
}

func tuple(values []float64) pickle.Tuple {
	t := make(pickle.Tuple, len(values))
	for i, v := range values {
		t[i] = v
	}
	return t
}

func float64Type() pickle.NumpyDType {
	var t pickle.NumpyDType
	t.Order, t.Kind, t.Size = '<', 'f', 8
	return t
}

func array(m [4][4]float64) *pickle.NumpyArray {
	a := &pickle.NumpyArray{DType: float64Type(), Shape: []int64{4, 4}}
	for _, row := range m {
		for _, v := range row {
			a.Data = binary.LittleEndian.AppendUint64(a.Data, math.Float64bits(v))
		}
	}
	return a
}

// FromDict reads the entries that Dict writes, from the .pkl of a case.
func FromDict(d *pickle.Dict) (*Properties, error) {
	p := &Properties{}
	var err error
	if p.Spacing, err = floats(d, "spacing"); err != nil {
		return nil, err
	}
	if len(p.Spacing) != 3 {
		return nil, fmt.Errorf("spacing: found %d numbers, expected 3", len(p.Spacing))
	}
	if v, ok := d.Get("sitk_stuff"); ok {
		stuff, ok := v.(*pickle.Dict)
		if !ok {
			return nil, fmt.Errorf("sitk_stuff: found a %s, expected a dict", pickle.TypeName(v))
		}
		s := &SITK{}
		for name, to := range map[string]*[]float64{
			"spacing": &s.Spacing, "origin": &s.Origin, "direction": &s.Direction,
		} {
			if *to, err = floats(stuff, name); err != nil {
				return nil, fmt.Errorf("sitk_stuff: %w", err)
			}
		}
		n := len(s.Spacing)
		if n < 2 || n > 4 || len(s.Origin) != n || len(s.Direction) != n*n {
			return nil, fmt.Errorf("sitk_stuff: found %d spacings, %d origins and %d directions",
				n, len(s.Origin), len(s.Direction))
		}
		p.SITK = s
		return p, nil
	}
	v, _ := d.Get("nibabel_stuff")
	stuff, ok := v.(*pickle.Dict)
	if !ok {
		return nil, errors.New("found neither sitk_stuff nor nibabel_stuff: properties of another " +
			"reader class")
	}
	n := &Nibabel{}
	if n.Original, err = affine(stuff, "original_affine"); err != nil {
		return nil, err
	}
	if _, ok := stuff.Get("reoriented_affine"); ok {
		m, err := affine(stuff, "reoriented_affine")
		if err != nil {
			return nil, err
		}
		n.Reoriented = &m
	}
	p.Nibabel = n
	return p, nil
}

func floats(d *pickle.Dict, name string) ([]float64, error) {
	v, ok := d.Get(name)
	if !ok {
		return nil, fmt.Errorf("%s is missing", name)
	}
	var items []any
	switch x := v.(type) {
	case pickle.Tuple:
		items = x
	case *pickle.List:
		items = x.Items
	case *pickle.NumpyArray:
		return x.Float64s()
	default:
		return nil, fmt.Errorf("%s: found a %s, expected numbers", name, pickle.TypeName(v))
	}
	out := make([]float64, len(items))
	for i, item := range items {
		if out[i], ok = pickle.AsFloat(item); !ok {
			return nil, fmt.Errorf("%s: found a %s among them, expected numbers",
				name, pickle.TypeName(item))
		}
	}
	return out, nil
}

func affine(d *pickle.Dict, name string) (m [4][4]float64, err error) {
	v, _ := d.Get(name)
	a, ok := v.(*pickle.NumpyArray)
	if !ok || len(a.Shape) != 2 || a.Shape[0] != 4 || a.Shape[1] != 4 {
		return m, fmt.Errorf("nibabel_stuff: %s: found a %s, expected a 4×4 array",
			name, pickle.TypeName(v))
	}
	flat, err := a.Float64s()
	if err != nil {
		return m, fmt.Errorf("nibabel_stuff: %s: %w", name, err)
	}
	for i := range m {
		copy(m[i][:], flat[4*i:])
	}
	return m, nil
}

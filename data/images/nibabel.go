package images

import (
	"fmt"
	"math"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/volume"
)

// nibabel is nnU-Net's NibabelIO, or NibabelIOWithReorient, which reorients images to RAS.
// Source: nnunetv2/imageio/nibabel_reader_writer.py.
type nibabel struct{ reorient bool }

func (r nibabel) Name() string {
	if r.reorient {
		return "NibabelIOWithReorient"
	}
	return "NibabelIO"
}

func (nibabel) Endings() []string { return []string{".nii", ".nii.gz"} }

func (r nibabel) Read(channels []string) (*volume.Image, *Properties, error) {
	if err := one(channels); err != nil {
		return nil, nil, err
	}
	var all []*volume.Image
	var first *Properties
	for _, path := range channels {
		im, f, p, err := r.read(path)
		if err != nil {
			return nil, nil, err
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

func (r nibabel) Take(f volume.File, _ string) (*volume.Image, *Properties, error) {
	own, err := nifti.Of(f)
	if err != nil {
		return nil, nil, err
	}
	im, p, err := r.oriented(own)
	if err != nil {
		return nil, nil, err
	}
	p.count(own, im)
	return im, p, nil
}

func (r nibabel) read(path string) (*volume.Image, volume.File, *Properties, error) {
	file, err := image.Read(path)
	if err != nil {
		return nil, nil, nil, err
	}
	f, ok := file.(*nifti.File)
	if !ok {
		return nil, nil, nil, fmt.Errorf("%s: found %s, expected NIfTI, the only format of %s: set "+
			"overwrite_image_reader_writer to SimpleITKIO in dataset.json, or convert the file",
			path, file.Head().Format, r.Name())
	}
	im, p, err := r.oriented(f)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return im, f, p, nil
}

// oriented returns the image of a file with nibabel's geometry.
func (r nibabel) oriented(f *nifti.File) (*volume.Image, *Properties, error) {
	if len(f.Dim) != 3 {
		return nil, nil, fmt.Errorf("found %d axes, %s reads images of 3: store one volume per "+
			"file, or set overwrite_image_reader_writer to SimpleITKIO in dataset.json",
			len(f.Dim), r.Name())
	}
	affine, err := f.Affine()
	if err != nil {
		return nil, nil, err
	}
	im := &volume.Image{Shape: [4]int{1, f.Dim[2], f.Dim[1], f.Dim[0]}}
	if im.Pixels, err = scaled(f); err != nil {
		return nil, nil, err
	}
	zooms := f.Zooms()
	p := &Properties{Nibabel: &Nibabel{Original: affine}}
	turned := affine
	if r.reorient {
		o, err := orient(affine)
		if err != nil {
			return nil, nil, err
		}
		p.Nibabel.Reoriented = &turned
		if o != straight {
			turned = o.affine(affine, f.Dim)
			im = o.apply(im)
			for j := range 3 { // the spacing of a reoriented image is its affine's
				zooms[j] = length(turned, j)
				if f.Version == 1 {
					zooms[j] = float64(float32(zooms[j]))
				}
			}
		}
	}
	for _, z := range zooms {
		if math.IsNaN(z) || math.IsInf(z, 0) {
			return nil, nil, fmt.Errorf("the voxel spacing is not finite: %v", zooms)
		}
	}
	p.Spacing = []float64{zooms[2], zooms[1], zooms[0]}
	im.Geometry = geometry(turned)
	im.Spacing = [3]float64(p.Spacing)
	return im, p, nil
}

// geometry converts an affine to a geometry in LPS.
func geometry(affine [4][4]float64) volume.Geometry {
	var g volume.Geometry
	for i := range 3 {
		sign := -1.0
		if i == 2 {
			sign = 1
		}
		g.OriginXYZ[i] = sign * affine[i][3]
		for j := range 3 {
			if n := length(affine, j); n > 0 {
				g.DirectionXYZ[3*i+j] = sign * affine[i][j] / n
			}
		}
	}
	return g
}

// length is the length of a column of an affine.
func length(m [4][4]float64, j int) float64 {
	return math.Sqrt(float64(m[0][j]*m[0][j]) + float64(m[1][j]*m[1][j]) + float64(m[2][j]*m[2][j]))
}

// scaled returns the values that nnU-Net gets from nibabel's get_fdata: scaled in double precision,
// then rounded to float32. Pixels that this does not change are returned as they are.
func scaled(f *nifti.File) (volume.Pixels, error) {
	slope, inter := f.Slope, f.Inter
	if slope == 0 || math.IsNaN(slope) || math.IsInf(slope, 0) {
		slope, inter = 1, 0
	}
	if math.IsNaN(inter) || math.IsInf(inter, 0) {
		return nil, fmt.Errorf("scl_inter: found %v with scl_slope %v, expected a finite number",
			inter, slope)
	}
	rounded := f.Pixels.Size() == 8 && !f.Pixels.Floating() // twice: to float64, then to float32
	if slope == 1 && inter == 0 && !rounded {
		return f.Pixels, nil
	}
	from := volume.Cast[float64](f.Pixels)
	to := make(volume.Slice[float32], len(from))
	for i, v := range from {
		v *= slope
		if inter != 0 { // adding 0 would turn -0 of a negative slope into 0
			v += inter
		}
		to[i] = float32(v)
	}
	return to, nil
}

func (r nibabel) ReadSeg(path string) (*volume.Image, *Properties, error) {
	return r.Read([]string{path})
}

func (r nibabel) WriteSeg(path string, seg *volume.Image, p *Properties) error {
	if p.Nibabel == nil || r.reorient && p.Nibabel.Reoriented == nil {
		return fmt.Errorf("%s: the properties were read by another class than %s", path, r.Name())
	}
	pixels, err := labels(seg)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	im := &volume.Image{Shape: seg.Shape, Pixels: pixels}
	if r.reorient {
		// Differs: for some permutations of the axes nnU-Net 2.5.1 reorients wrongly (2.5.2 does
		// not).
		o, err := orient(p.Nibabel.Original)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		im = o.inverse().apply(im)
	}
	dims := []int{im.Shape[3], im.Shape[2], im.Shape[1]}
	h, err := nifti.NewNibabel(dims, im.Pixels.Type(), p.Nibabel.Original)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nifti.Write(path, h, im.Pixels, workers)
}

// orientation maps each axis x, y, z of an array to an axis of the reoriented array, maybe
// reversed.
type orientation struct {
	axis [3]int
	flip [3]bool
}

var straight = orientation{axis: [3]int{0, 1, 2}}

// orient returns the orientation that brings an image to RAS, or as near as axis-aligned turns can.
// Source: nibabel 5.4, orientations.py, io_orientation.
func orient(affine [4][4]float64) (orientation, error) {
	var m [3][3]float64
	for j := range 3 {
		n := length(affine, j)
		if n == 0 {
			n = 1
		}
		for i := range 3 {
			m[i][j] = affine[i][j] / n
		}
	}
	r := nifti.NearestRotation(m)
	var strength [3]float64
	for j := range 3 {
		strength[j] = max(r[0][j]*r[0][j], r[1][j]*r[1][j], r[2][j]*r[2][j])
	}
	order := [3]int{0, 1, 2}
	for i := 1; i < 3; i++ { // strongest first, stable
		for k := i; k > 0 && strength[order[k]] > strength[order[k-1]]; k-- {
			order[k], order[k-1] = order[k-1], order[k]
		}
	}
	var o orientation
	for _, j := range order {
		out := 0
		for i := range 3 {
			if math.Abs(r[i][j]) > math.Abs(r[out][j]) {
				out = i
			}
		}
		if math.Abs(r[out][j]) <= 1e-8 {
			return o, fmt.Errorf("the affine %v is singular: the image cannot be reoriented to RAS",
				affine)
		}
		o.axis[j], o.flip[j] = out, r[out][j] < 0
		r[out] = [3]float64{}
	}
	return o, nil
}

// inverse returns the inverse orientation.
func (o orientation) inverse() orientation {
	var back orientation
	for i, k := range o.axis {
		back.axis[k], back.flip[k] = i, o.flip[i]
	}
	return back
}

// affine returns the affine of the reoriented image; shape is (x, y, z) before. It is the product
// that numpy computes, with one rounding per multiply-add, as with FMA.
func (o orientation) affine(a [4][4]float64, shape []int) [4][4]float64 {
	var back [4][4]float64 // from indices of the reoriented array to indices of the original
	back[3][3] = 1
	for j, k := range o.axis {
		back[j][k] = 1
		if o.flip[j] {
			back[j][k] = -1
			back[j][3] = float64(shape[j] - 1)
		}
	}
	var turned [4][4]float64
	for i := range 4 {
		for j := range 4 {
			for k := range 4 {
				turned[i][j] = math.FMA(a[i][k], back[k][j], turned[i][j])
			}
		}
	}
	return turned
}

// apply reorients the pixels of an image of one channel.
func (o orientation) apply(im *volume.Image) *volume.Image {
	if o == straight {
		return im
	}
	out := &volume.Image{Shape: im.Shape}
	strides := [3]int{1, im.Shape[3], im.Shape[3] * im.Shape[2]} // of x, y, z in im
	var step [3]int                                              // the same, of the reoriented axes
	first := 0
	for j, k := range o.axis {
		n := im.Shape[3-j]
		out.Shape[3-k], step[k] = n, strides[j]
		if o.flip[j] {
			first += (n - 1) * strides[j]
			step[k] = -strides[j]
		}
	}
	out.Shape[0] = 1
	for i, k := range o.axis {
		out.Memory[2-i] = 2 - k // numpy returns a view; x is the last axis in the file's memory
	}
	out.Pixels = im.Pixels.Gather([3]int(out.Shape[1:]), first, [3]int{step[2], step[1], step[0]})
	return out
}

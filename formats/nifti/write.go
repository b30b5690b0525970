package nifti

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/internal/deflate"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/volume"
)

// Write writes a single-file image, compressed if the name ends in .gz, with workers goroutines (at
// least one). The pixels have the header's type, x fastest. Header fields are written as given,
// except for Offset, as no extensions are written. The file appears under its name once it is
// complete.
func Write(path string, h *Header, pixels volume.Pixels, workers int) error {
	if err := write(path, h, pixels, workers); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Endings are the file name endings that Write accepts.
var Endings = []string{".nii", ".nii.gz"}

func write(path string, h *Header, pixels volume.Pixels, workers int) error {
	lower := strings.ToLower(filepath.Base(path))
	if !slices.ContainsFunc(Endings, func(e string) bool { return strings.HasSuffix(lower, e) }) {
		return fmt.Errorf("expected a name that ends in %s", strings.Join(Endings, " or "))
	}
	head, raw, err := Encode(h, pixels)
	if err != nil {
		return err
	}
	f, err := atomicfile.Create(path)
	if err != nil {
		return err
	}
	if strings.HasSuffix(lower, ".gz") {
		err = deflate.Gzip(f, max(workers, 1), head, raw)
	} else if _, err = f.Write(head); err == nil {
		_, err = f.Write(raw)
	}
	if err != nil {
		f.Abort()
		return err
	}
	return f.Commit()
}

// Encode returns the two parts of an uncompressed file: what Write writes before the pixels, and the
// pixels, which may share memory with those given.
func Encode(h *Header, pixels volume.Pixels) (head, raw []byte, err error) {
	if found := pixels.Type(); found != h.Type {
		return nil, nil, fmt.Errorf("pixels of type %s for a header of type %q", found, h.Type)
	}
	if head, err = h.encode(); err != nil {
		return nil, nil, err
	}
	raw = pixels.Bytes()
	need, err := h.bytes()
	if err != nil {
		return nil, nil, err
	}
	if int64(len(raw)) != need {
		return nil, nil, fmt.Errorf("found %d bytes of pixels, expected %d for %v pixels of %s",
			len(raw), need, h.Dim, h.Type)
	}
	if size := pixelSize(h.Type); h.BigEndian == bits.LittleEndian && size > 1 {
		raw = slices.Clone(raw)
		bits.Swap(raw, size)
	}
	return head, raw, nil
}

// NewITK returns the header that ITK 5.4 writes for an image with the given pixel type and sizes of
// the axes x, y, …. Directions that are not orthogonal are replaced by the nearest that are, as ITK
// does.
// Source: itkNiftiImageIO.cxx, WriteImageInformation and SetNIfTIOrientationFromImageIO.
func NewITK(shape []int, typeName string, g *volume.ITK) (*Header, error) {
	n := len(shape)
	if n < 2 || n > 4 || len(g.Spacing) != n || len(g.Origin) != n || len(g.Direction) != n*n {
		return nil, fmt.Errorf("found %d axes, with %d spacings, %d origins and %d directions: "+
			"expected 2, 3 or 4 axes", n, len(g.Spacing), len(g.Origin), len(g.Direction))
	}
	for _, v := range slices.Concat(g.Spacing, g.Origin, g.Direction) {
		if !finite(v) {
			return nil, fmt.Errorf("the geometry is not finite: spacing %v, origin %v, direction "+
				"%v", g.Spacing, g.Origin, g.Direction)
		}
	}
	h := &Header{Version: 1, Dim: slices.Clone(shape), Type: typeName, Slope: 1, Units: 2 | 8,
		QFormCode: 1, SFormCode: 1, regular: 'r'}
	// Row i of rows is the direction of axis i, RAS.
	rows := mat33{2: {0, 0, 1}}
	for i := range min(n, 3) {
		for j := range min(n, 3) {
			rows[i][j] = float32(-g.Direction[n*j+i])
		}
		if n > 2 {
			rows[i][2] = -rows[i][2]
		}
	}
	m := rows.orthogonal().transposed()
	var origin [3]float32
	for i := range min(n, 3) {
		sign := -1.0
		if i == 2 {
			sign = 1
		}
		origin[i] = float32(sign * g.Origin[i])
		h.QOffset[i] = float64(origin[i])
	}
	quatern, qfac := m.quaternion()
	h.Quatern = quatern
	h.PixDim[0] = qfac
	for i := range n {
		h.PixDim[i+1] = math.Abs(float64(float32(g.Spacing[i])))
	}
	if n == 2 {
		h.PixDim[3] = 1
	}
	for i := range 3 {
		for j := range 3 {
			v := m[i][j]
			if i < n && j < n {
				v = float32(g.Spacing[j]) * v
			}
			h.SRow[i][j] = float64(v)
		}
		h.SRow[i][3] = float64(origin[i])
	}
	if n == 4 {
		h.TOffset = float64(float32(g.Origin[3]))
	}
	return h, nil
}

// NewNibabel returns the header that nibabel writes for a new image with that affine: the affine
// becomes the sform, with code 2.
func NewNibabel(shape []int, typeName string, affine [4][4]float64) (*Header, error) {
	h := &Header{Version: 1, Dim: slices.Clone(shape), Type: typeName, Slope: 1, SFormCode: 2}
	h.PixDim = [8]float64{1, 1, 1, 1, 1, 1, 1, 1}
	var r mat3
	for j := range 3 {
		sum := 0.0
		for i := range 3 {
			sum += affine[i][j] * affine[i][j]
		}
		zoom := math.Sqrt(sum)
		h.PixDim[j+1] = zoom
		for i := range 3 {
			r[i][j] = affine[i][j] / zoom
		}
	}
	for i := range 3 {
		h.SRow[i] = affine[i]
		h.QOffset[i] = affine[i][3]
		for j := range 4 {
			if !finite(affine[i][j]) {
				return nil, fmt.Errorf("the affine is not finite: %v", affine)
			}
		}
	}
	if r.determinant() <= 0 {
		h.PixDim[0] = -1
		for i := range 3 {
			r[i][2] = -r[i][2]
		}
	}
	h.Quatern = r.polar().quaternion()
	return h, nil
}

package preprocess

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
)

// planeBytes bounds the planes assembled at a time when probabilities are read back; at least one
// plane is.
const planeBytes = 16 << 20

// Probabilities holds the probabilities of an image, (heads, z, y, x) in the image's own axis
// order. They are stored in an unlinked temporary file, which disappears with the process: the
// cropped image as float32, in the order of the slabs' axes.
type Probabilities struct {
	v    *Inverse
	file *os.File
}

func newProbabilities(folder string, v *Inverse) (*Probabilities, error) {
	f, err := os.CreateTemp(folder, ".probabilities-")
	if err != nil {
		return nil, fmt.Errorf("preprocess: cannot create a temporary file for probabilities: %w",
			err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("preprocess: %w", err)
	}
	return &Probabilities{v, f}, nil
}

func (p *Probabilities) close() error { return p.file.Close() }

// Shape is (heads, z, y, x).
func (p *Probabilities) Shape() [4]int {
	return [4]int{p.v.heads, p.v.shape[0], p.v.shape[1], p.v.shape[2]}
}

// offset is the position of output (ka, kb, kc) of a class in the file.
func (p *Probabilities) offset(h, ka, kb, kc int) int64 {
	v := p.v
	a, b, c := v.tables[v.axes[0]].m, v.tables[v.axes[1]].m, v.tables[v.axes[2]].m
	return 4 * (((int64(h)*int64(a)+int64(ka))*int64(b)+int64(kb))*int64(c) + int64(kc))
}

// write stores whole rows from (ka, kb) on, encoded in raw. It may be called concurrently.
func (p *Probabilities) write(raw []byte, values []float32, h, ka, kb int) error {
	raw = raw[:4*len(values)]
	encode(raw, values)
	if _, err := p.file.WriteAt(raw, p.offset(h, ka, kb, 0)); err != nil {
		return fmt.Errorf("preprocess: temporary file of probabilities: %w", err)
	}
	return nil
}

func encode(raw []byte, values []float32) {
	for i, x := range values {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
	}
}

// WriteTo writes all values as little-endian float32 in row-major order: the data of an .npy file
// of Shape.
func (p *Probabilities) WriteTo(w io.Writer) (int64, error) {
	v := p.v
	plane := v.shape[1] * v.shape[2]
	many := min(max(planeBytes/(4*plane), 1), v.shape[0])
	planes := make([]float32, many*plane)
	raw := make([]byte, 4*len(planes))
	var buf []byte
	written := int64(0)
	for h := range v.heads {
		for z := 0; z < v.shape[0]; z += many {
			n := min(many, v.shape[0]-z)
			part := planes[:n*plane]
			outside := float32(0)
			if h == 0 && v.values == nil {
				outside = 1
			}
			for i := range part {
				part[i] = outside
			}
			var err error
			if buf, err = p.read(part, h, z, n, buf); err != nil {
				return written, err
			}
			encode(raw, part)
			k, err := w.Write(raw[:4*len(part)])
			written += int64(k)
			if err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// read fills n planes of a class, from plane z of the image on, with what lies in the box.
func (p *Probabilities) read(planes []float32, h, z, n int, buf []byte) ([]byte, error) {
	v := p.v
	var from, to, stride [3]int // along the slabs' axes: range in the box and stride in planes
	first := -z * v.shape[1] * v.shape[2]
	for i, axis := range v.axes {
		to[i] = v.tables[axis].m
		stride[i] = v.stride[axis]
		box := v.grid.Box[axis]
		if v.grid.Transpose[axis] == 0 {
			from[i] = max(z-box[0], 0)
			to[i] = min(z+n-box[0], to[i])
			if from[i] >= to[i] {
				return buf, nil
			}
		}
	}
	first += v.first
	rows := 1 // consecutive in the file
	if to[2]-from[2] == v.tables[v.axes[2]].m {
		rows = to[1] - from[1]
	}
	length := to[2] - from[2]
	if need := 4 * rows * length; cap(buf) < need {
		buf = make([]byte, need)
	}
	for ka := from[0]; ka < to[0]; ka++ {
		for kb := from[1]; kb < to[1]; kb += rows {
			raw := buf[:4*rows*length]
			if _, err := p.file.ReadAt(raw, p.offset(h, ka, kb, from[2])); err != nil {
				return buf, fmt.Errorf("preprocess: temporary file of probabilities: %w", err)
			}
			for j := range rows {
				at := first + ka*stride[0] + (kb+j)*stride[1] + from[2]*stride[2]
				row := raw[4*j*length:][:4*length]
				for k := range length {
					planes[at+k*stride[2]] = math.Float32frombits(binary.LittleEndian.Uint32(row[4*k:]))
				}
			}
		}
	}
	return buf, nil
}

package series

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/codec"
	"github.com/lntorch/lntorch/formats/internal/parallel"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/volume"
)

const (
	// maxHeader is what a codestream may have besides its pixels: profiles, comments.
	maxHeader = 1 << 20
	// Frames of one value are compressed to nearly nothing. What all codestreams together stand for
	// is bounded all the same: as deflate's data is, and some room.
	maxRatio = 1032
	room     = 256 << 20
)

// framesAtATime are how many frames of a file a goroutine takes.
const framesAtATime = 8

// A job is slices of one file, in the order in which they lie in it.
type job struct {
	file   *File
	slices []int // indices
}

// jobs divides slices into what goroutines read at a time.
func jobs(all []*Slice) []job {
	of := map[*File]int{}
	var list []job
	for i, s := range all {
		k, ok := of[s.File]
		if !ok || !s.File.Sequential() && len(list[k].slices) == framesAtATime {
			k = len(list)
			of[s.File] = k
			list = append(list, job{file: s.File})
		}
		list[k].slices = append(list[k].slices, i)
	}
	for _, j := range list {
		slices.SortFunc(j.slices, func(a, b int) int { return cmp.Compare(all[a].Frame, all[b].Frame) })
	}
	return list
}

// A frameReader reads frames of one file.
type frameReader struct {
	file       *File
	r          dicom.Reader
	codestream []byte
	buffer     []byte
}

func open(f *File) (*frameReader, error) {
	if f.Pixels.Compressed && f.frames == nil {
		return nil, fmt.Errorf("%s: its frames were not divided", f.Name)
	}
	r, err := f.OpenPixels()
	if err != nil {
		return nil, err
	}
	return &frameReader{file: f, r: r}, nil
}

// divideFrames finds the fragments of each frame.
func (f *File) divideFrames() (err error) {
	if f.Pixels.Compressed && f.frames == nil {
		f.frames, err = f.Frames(f.FrameCount)
	}
	return err
}

// bytes reads a range of the file.
func (r *frameReader) bytes(dst []byte, at int64) error {
	n, err := r.r.ReadAt(dst, at)
	if n == len(dst) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%s: the file ends too early: copy it again", dicom.Name(tag.PixelData))
	}
	return err
}

// stream reads the codestream of a compressed frame. The result is valid until the next call.
func (r *frameReader) stream(frame int) ([]byte, error) {
	n := int64(0)
	for _, s := range r.file.frames[frame] {
		n += s.Length
	}
	if size := r.file.frameSize(); n > 4*size+maxHeader {
		return nil, fmt.Errorf("%s: found a codestream of %d bytes for a frame of %d",
			dicom.Name(tag.PixelData), n, size)
	}
	if int64(cap(r.codestream)) < n {
		r.codestream = make([]byte, n)
	}
	r.codestream = r.codestream[:n]
	at := int64(0)
	for _, s := range r.file.frames[frame] {
		if err := r.bytes(r.codestream[at:at+s.Length], s.Offset); err != nil {
			return nil, err
		}
		at += s.Length
	}
	return r.codestream, nil
}

// cells reads the pixels of a frame to dst, in native byte order, as many bits each as are
// allocated.
func (r *frameReader) cells(dst []byte, frame int) error {
	f := r.file
	size := f.allocated / 8
	big := f.Pixels.BigEndian
	switch {
	case f.Pixels.Compressed:
		codestream, err := r.stream(frame)
		if err != nil {
			return err
		}
		if err := codec.Decode(dst, f.Syntax, codestream, f.coded()); err != nil {
			return err
		}
		big = false
	case big && size == 1 && f.Pixels.VR == "OW":
		// Bytes lie in words of two, which big endian swaps. A frame may begin within one.
		at := int64(frame) * int64(len(dst))
		for i := range dst {
			k := (at + int64(i)) ^ 1
			if k >= f.Pixels.Length {
				return fmt.Errorf("%s: expected an even length", dicom.Name(tag.PixelData))
			}
			if i == 0 || k%2 == 1 {
				if err := r.bytes(r.word(), f.Pixels.Offset+k&^1); err != nil {
					return err
				}
			}
			dst[i] = r.buffer[k%2]
		}
		return nil
	default:
		if err := r.bytes(dst, f.Pixels.Offset+int64(frame)*int64(len(dst))); err != nil {
			return err
		}
	}
	if big == bits.LittleEndian && size > 1 {
		bits.Swap(dst, size)
	}
	return nil
}

// word returns room for two bytes.
func (r *frameReader) word() []byte {
	if cap(r.buffer) < 2 {
		r.buffer = make([]byte, 2)
	}
	r.buffer = r.buffer[:2]
	return r.buffer
}

// cell is how a pixel lies in memory: with as many bits as are allocated, or 16 for 8.
type cell interface{ int16 | int32 }

// frame reads a frame into cells that are at least as wide as those of the file.
func frame[T cell](r *frameReader, dst []T, number int) error {
	size := r.file.allocated / 8
	to := bits.Bytes(dst)
	if size*len(dst) == len(to) {
		return r.cells(to, number)
	}
	small := make([]byte, size*len(dst))
	if err := r.cells(small, number); err != nil {
		return err
	}
	for i := range dst {
		if size == 1 {
			dst[i] = T(small[i])
		} else {
			dst[i] = T(binary.NativeEndian.Uint16(small[2*i:]))
		}
	}
	return nil
}

// scale is how the bits of a cell become a value.
type scale struct {
	left, right      uint // shifts that leave the stored bits in 32
	signed           bool
	slope, intercept float64
}

func (s *Slice) scale() scale {
	f := s.File
	return scale{left: uint(32 - f.Bits - f.shift), right: uint(32 - f.Bits), signed: f.Signed,
		slope: s.slope, intercept: s.intercept}
}

// stored returns the number in a cell.
func stored[T cell](c *scale, x T) int64 {
	if c.signed {
		return int64(int32(uint32(x)<<c.left) >> c.right)
	}
	return int64(uint32(x) << c.left >> c.right)
}

// value is that of a stored number. The conversion keeps the product from being fused with the sum,
// which would round differently on other processors.
func (c *scale) value(stored int64) float64 {
	return float64(float64(stored)*c.slope) + c.intercept
}

// Types that hold the values of a slice, from narrow to wide.
const (
	fitsInt16 = iota
	fitsInt32
	fitsFloat
)

var typeNames = []string{fitsInt16: "int16", fitsInt32: "int32", fitsFloat: "float32"}

// fit returns the narrowest type for values from low to high, which are whole or not.
func fit(low, high float64, isWhole bool) int {
	switch {
	case !isWhole || low < math.MinInt32 || high > math.MaxInt32:
		return fitsFloat
	case low < math.MinInt16 || high > math.MaxInt16:
		return fitsInt32
	}
	return fitsInt16
}

// wholeNumbers reports whether all values are whole because slope and intercept are.
func (c *scale) wholeNumbers() bool {
	return c.slope == math.Trunc(c.slope) && c.intercept == math.Trunc(c.intercept)
}

// typeOf finds the type that holds all values of a slice's cells.
func typeOf[T cell](cells []T, c *scale) int {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, x := range cells {
		v := stored(c, x)
		least, most = min(least, v), max(most, v)
	}
	a, b := c.value(least), c.value(most)
	isWhole := c.wholeNumbers()
	if !isWhole {
		isWhole = !slices.ContainsFunc(cells, func(x T) bool {
			v := c.value(stored(c, x))
			return v != math.Trunc(v)
		})
	}
	return fit(min(a, b), max(a, b), isWhole)
}

// possibleType is the type that holds whatever the stored bits of a slice may be.
func (s *Slice) possibleType() int {
	c := s.scale()
	least, most := 0.0, math.Ldexp(1, s.File.Bits)-1
	if s.File.Signed {
		least, most = -math.Ldexp(1, s.File.Bits-1), math.Ldexp(1, s.File.Bits-1)-1
	}
	a, b := c.value(int64(least)), c.value(int64(most))
	return fit(min(a, b), max(a, b), c.wholeNumbers())
}

// convert writes the values of cells to dst, which may be the cells.
func convert[T cell, V int16 | int32 | float32](dst []V, cells []T, c *scale) {
	if c.wholeNumbers() && math.Abs(c.slope) < 1<<20 {
		slope, intercept := int64(c.slope), int64(c.intercept)
		for i, x := range cells {
			dst[i] = V(stored(c, x)*slope + intercept)
		}
		return
	}
	for i, x := range cells {
		dst[i] = V(c.value(stored(c, x)))
	}
}

// Four cells of 16 bits lie in a word, each in a lane.
const (
	ones = 0x0001_0001_0001_0001
	tops = 0x8000_8000_8000_8000
)

// lanes repeats 16 bits.
func lanes(x uint16) uint64 { return uint64(x) * ones }

// addLanes adds lane by lane, modulo 2^16.
func addLanes(a, b uint64) uint64 { return (a&^tops + b&^tops) ^ (a^b)&tops }

// toInt16 makes cells their values, if the slope is 1 and all values are of int16. Otherwise it
// reports false and leaves the cells as they are. It is typeOf and convert for most CTs, four cells at
// a time.
func (c *scale) toInt16(cells []int16) bool {
	if c.slope != 1 || c.intercept != math.Trunc(c.intercept) {
		return false
	}
	// A stored number is u - sign, and its value u + add; u is the cell's stored bits, the sign
	// flipped. Of u, those from least to most have a value of int16.
	stored := 32 - c.right
	mask, sign := uint16(1)<<stored-1, 0
	if c.signed {
		sign = 1 << (stored - 1)
	}
	add := int(c.intercept) - sign
	least, most := max(0, math.MinInt16-add), min(int(mask), math.MaxInt16-add)
	if least > most {
		return false
	}
	var (
		shift    = c.right - c.left
		masks    = lanes(mask)
		signs    = lanes(uint16(sign))
		fromLow  = lanes(uint16(-least))
		overflow = lanes(uint16(math.MaxUint16 - (most - least)))
		toValue  = lanes(uint16(least + add))
		beyond   = uint64(0)
		whole    = cells[:len(cells)&^3]
		rest     = cells[len(whole):]
		b        = bits.Bytes(whole)
		order    = binary.NativeEndian
	)
	if least > 0 || most < int(mask) {
		for b := b; len(b) >= 8; b = b[8:] {
			u := addLanes(order.Uint64(b)>>shift&masks^signs, fromLow)
			beyond |= u&overflow | (u|overflow)&^addLanes(u, overflow) // carries
		}
		if beyond&tops != 0 || len(rest) > 0 && typeOf(rest, c) != fitsInt16 {
			return false
		}
	}
	for ; len(b) >= 8; b = b[8:] {
		u := order.Uint64(b)>>shift&masks ^ signs
		order.PutUint64(b, addLanes(addLanes(u, fromLow), toValue))
	}
	convert(rest, rest, c)
	return true
}

// values reads the values of one slice.
func (s *Slice) values() (volume.Pixels, error) {
	p, err := pixels([]*Slice{s}, 1)
	return p, err
}

// pixels reads slices, one after the other in memory, as the narrowest of int16, int32 and float32
// that holds all values.
func pixels(all []*Slice, workers int) (volume.Pixels, error) {
	work := jobs(all)
	wide := false
	for _, s := range all {
		wide = wide || s.File.allocated == 32
	}
	if err := checkStreams(all, work, workers); err != nil {
		return nil, err
	}
	if wide {
		return read[int32](all, work, workers)
	}
	return read[int16](all, work, workers)
}

// checkStreams looks at the header of every compressed frame before memory is taken for any.
func checkStreams(all []*Slice, work []job, workers int) error {
	compressed, announced := int64(0), int64(0)
	for _, j := range work {
		if err := j.file.divideFrames(); err != nil {
			return err
		}
		if !j.file.Pixels.Compressed {
			continue
		}
		announced += j.file.frameSize() * int64(len(j.slices))
		for _, k := range j.slices {
			for _, s := range j.file.frames[all[k].Frame] {
				compressed += s.Length
			}
		}
	}
	if announced > room+maxRatio*compressed {
		return fmt.Errorf("%s: %s: %d bytes of codestreams cannot hold %d bytes of pixels",
			all[0].File.Name, dicom.Name(tag.PixelData), compressed, announced)
	}
	return parallel.Each(len(work), workers, func(i int) error {
		j := work[i]
		if !j.file.Pixels.Compressed {
			return nil
		}
		r, err := open(j.file)
		if err != nil {
			return err
		}
		defer r.r.Close()
		for _, k := range j.slices {
			codestream, err := r.stream(all[k].Frame)
			if err == nil {
				err = codec.Check(j.file.Syntax, codestream, j.file.coded())
			}
			if err != nil {
				return all[k].error(err)
			}
		}
		return nil
	})
}

// error names the file, and the frame if there are several.
func (s *Slice) error(err error) error {
	if s.File.FrameCount > 1 {
		return fmt.Errorf("%s: frame %d: %w", s.File.Name, s.Frame+1, err)
	}
	return fmt.Errorf("%s: %w", s.File.Name, err)
}

// read reads slices into cells of type T, which become values in place where T holds them.
func read[T cell](all []*Slice, work []job, workers int) (volume.Pixels, error) {
	n := all[0].File.Rows * all[0].File.Columns
	cells := make([]T, n*len(all))
	of := func(i int) []T { return cells[i*n : (i+1)*n] }
	own := ownType[T]()
	types := make([]int, len(all))
	err := each(all, work, workers, func() func(int) []T { return of },
		func(k, fits int, _ []T) error {
			types[k] = fits
			return nil
		})
	if err != nil {
		return nil, err
	}
	widest := slices.Max(types)
	same, _ := any(volume.Slice[T](cells)).(volume.Pixels)
	if widest == own {
		return same, nil
	}
	out := volume.MakePixels(typeNames[widest], len(cells))
	err = parallel.Each(len(all), workers, func(k int) error {
		// what is a value already is converted as it is
		unused := uint(32 - 8*same.Size())
		c := scale{signed: true, slope: 1, left: unused, right: unused}
		if types[k] > own {
			c = all[k].scale()
		}
		switch out := out.(type) {
		case volume.Slice[int16]:
			convert(out[k*n:(k+1)*n], of(k), &c)
		case volume.Slice[int32]:
			convert(out[k*n:(k+1)*n], of(k), &c)
		case volume.Slice[float32]:
			convert(out[k*n:(k+1)*n], of(k), &c)
		}
		return nil
	})
	return out, err
}

// ownType is the type of values that cells become in place.
func ownType[T cell]() int {
	if len(bits.Bytes(make([]T, 1))) == 4 {
		return fitsInt32
	}
	return fitsInt16
}

// each reads slices in no particular order, on several goroutines. Each of these calls room once;
// what that returns is the memory for the cells of slice k. done is called with the slice's narrowest
// type and its cells, which are values where their type holds them.
func each[T cell](all []*Slice, work []job, workers int, room func() func(k int) []T,
	done func(k, fits int, cells []T) error) error {
	own := ownType[T]()
	return parallel.EachWith(len(work), workers, room, func(of func(int) []T, i int) error {
		j := work[i]
		r, err := open(j.file)
		if err != nil {
			return err
		}
		defer r.r.Close()
		for _, k := range j.slices {
			cells := of(k)
			if err := frame(r, cells, all[k].Frame); err != nil {
				return all[k].error(err)
			}
			c := all[k].scale()
			fits := fitsInt16
			if small, ok := any(cells).([]int16); !ok || !c.toInt16(small) {
				if fits = typeOf(cells, &c); fits <= own {
					convert(cells, cells, &c)
				}
			}
			if err := done(k, fits, cells); err != nil {
				return err
			}
		}
		// behind the pixels there may be a checksum
		if f, ok := r.r.(interface{ Finish() error }); ok && j.file.Sequential() {
			if err := f.Finish(); err != nil {
				return fmt.Errorf("%s: %w", j.file.Name, err)
			}
		}
		return nil
	})
}

// errWide is how each ends when a value is beyond int16.
var errWide = errors.New("a value is not of int16")

// Int16s reads the values of all slices one by one, if all are of int16, and hands them to write: from
// several goroutines, in no particular order, each in memory that is used again. It reports false
// where a value is of another type; it may have written slices before. So no more than a slice for
// each goroutine is in memory. The geometry must be regular.
func (s *Stack) Int16s(workers int, write func(slice int, values []int16) error) (bool, error) {
	if _, _, err := s.Grid(false); err != nil {
		return false, err
	}
	work := jobs(s.Slices)
	for _, slice := range s.Slices {
		if slice.File.allocated == 32 || slice.slope != math.Trunc(slice.slope) {
			return false, nil
		}
	}
	if err := checkStreams(s.Slices, work, workers); err != nil {
		return false, err
	}
	n := s.Size[0] * s.Size[1]
	err := each(s.Slices, work, workers, func() func(int) []int16 {
		cells := make([]int16, n)
		return func(int) []int16 { return cells }
	}, func(k, fits int, cells []int16) error {
		if fits != fitsInt16 {
			return errWide
		}
		return write(k, cells)
	})
	if errors.Is(err, errWide) {
		return false, nil
	}
	return err == nil, err
}

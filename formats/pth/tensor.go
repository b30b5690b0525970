package pth

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/lntorch/lntorch/formats/internal/array"
	"github.com/lntorch/lntorch/formats/pickle"
)

// DType is the element type of a storage or tensor.
type DType uint8

// The supported element types.
const (
	Float64 DType = iota + 1
	Float32
	Float16
	BFloat16
	Int64
	Int32
	Int16
	Int8
	Uint8
	Bool
	Complex64
	Complex128
	Uint16
	Uint32
	Uint64
)

// dtypes holds torch's name, bytes per element and storage class; types without a class are written
// as an untyped storage, as in torch.
var dtypes = map[DType]struct {
	name  string
	size  int
	class string
}{
	Float64: {"float64", 8, "DoubleStorage"}, Float32: {"float32", 4, "FloatStorage"},
	Float16: {"float16", 2, "HalfStorage"}, BFloat16: {"bfloat16", 2, "BFloat16Storage"},
	Int64: {"int64", 8, "LongStorage"}, Int32: {"int32", 4, "IntStorage"},
	Int16: {"int16", 2, "ShortStorage"},
	Int8:  {"int8", 1, "CharStorage"}, Uint8: {"uint8", 1, "ByteStorage"},
	Bool:       {"bool", 1, "BoolStorage"},
	Complex64:  {"complex64", 8, "ComplexFloatStorage"},
	Complex128: {"complex128", 16, "ComplexDoubleStorage"},
	Uint16:     {"uint16", 2, ""}, Uint32: {"uint32", 4, ""}, Uint64: {"uint64", 8, ""},
}

// String returns torch's name without "torch.".
func (d DType) String() string {
	if t, ok := dtypes[d]; ok {
		return t.name
	}
	return fmt.Sprintf("dtype(%d)", uint8(d))
}

// Size returns the number of bytes per element, 0 for an unknown type.
func (d DType) Size() int { return dtypes[d].size }

// dtypeNamed returns the type with that name in torch.
func dtypeNamed(name pickle.DType) (DType, error) {
	for d, t := range dtypes {
		if t.name == string(name) {
			return d, nil
		}
	}
	return 0, fmt.Errorf("dtype torch.%s is not supported", name)
}

// Storage is a sequence of elements in memory or in a file. Tensors that share a storage are
// aliases or views of each other. Its methods may be called from several goroutines.
type Storage struct {
	DType DType // Uint8 for an untyped storage
	Numel int64
	// Location is the device named in the file, such as "cpu" or "cuda:0"; Save always writes
	// "cpu".
	Location string

	untyped bool   // stored as torch.storage.UntypedStorage
	name    string // for errors: the file and the record
	mem     []byte
	src     io.ReaderAt // nil for memory
	off     int64

	inflate func() ([]byte, error) // for a compressed record, which is read whole on first use
	once    sync.Once
	err     error
}

// NewStorage returns a storage of little-endian elements in memory. data is not copied.
func NewStorage(dtype DType, data []byte) (*Storage, error) {
	if dtype.Size() == 0 {
		return nil, fmt.Errorf("pth: NewStorage: unknown %s", dtype)
	}
	if len(data)%dtype.Size() != 0 {
		return nil, fmt.Errorf("pth: NewStorage: %d bytes are not a whole number of %s elements",
			len(data), dtype)
	}
	return &Storage{DType: dtype, Numel: int64(len(data) / dtype.Size()), Location: "cpu",
		name: "memory", mem: data}, nil
}

// NewStorageFrom returns a storage of numel little-endian elements at the start of src, which may
// be a section of another file. They are read on demand. name appears in errors.
func NewStorageFrom(dtype DType, numel int64, src io.ReaderAt, name string) (*Storage, error) {
	if dtype.Size() == 0 || numel < 0 || numel > math.MaxInt64/16 {
		return nil, fmt.Errorf("pth: NewStorageFrom: %d elements of %s", numel, dtype)
	}
	return &Storage{DType: dtype, Numel: numel, Location: "cpu", name: name, src: src}, nil
}

// Bytes returns the size of the storage in bytes.
func (s *Storage) Bytes() int64 { return s.Numel * int64(s.DType.Size()) }

// ReadAt fills p from byte off of the storage; a range that reaches beyond its end is an error.
func (s *Storage) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > s.Bytes()-off {
		return 0, fmt.Errorf("pth: %s: bytes %d to %d of a storage of %d", s.name, off,
			off+int64(len(p)), s.Bytes())
	}
	if len(p) == 0 {
		return 0, nil
	}
	if s.inflate != nil {
		s.once.Do(func() { s.mem, s.err = s.inflate() })
		if s.err != nil {
			return 0, fmt.Errorf("pth: %s: %w", s.name, s.err)
		}
	}
	if s.src == nil {
		return copy(p, s.mem[off:]), nil
	}
	n, err := s.src.ReadAt(p, s.off+off)
	if n == len(p) {
		return n, nil
	}
	if err == io.EOF || err == nil {
		return n, fmt.Errorf("pth: %s: the file ends inside the data; it was truncated while "+
			"being read", s.name)
	}
	return n, fmt.Errorf("pth: %s: %w", s.name, err)
}

// Tensor is a strided view of a storage. Offset and Stride count elements of DType; strides are
// never negative.
type Tensor struct {
	Storage      *Storage
	Offset       int64
	Size, Stride []int64
	DType        DType
	RequiresGrad bool
	Parameter    bool // torch.nn.Parameter
}

// NewTensor returns a view of a storage with the storage's dtype. A nil stride means contiguous. A
// view that reaches beyond the storage is an error.
func NewTensor(s *Storage, offset int64, size, stride []int64) (*Tensor, error) {
	if stride == nil {
		stride = array.RowMajor(size)
	}
	t := &Tensor{Storage: s, Offset: offset, Size: size, Stride: stride, DType: s.DType}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("pth: NewTensor: %w", err)
	}
	return t, nil
}

// check verifies that every element lies in the storage; later code relies on it.
func (t *Tensor) check() error {
	if len(t.Stride) != len(t.Size) {
		return fmt.Errorf("%d sizes but %d strides", len(t.Size), len(t.Stride))
	}
	n, err := array.Numel(t.Size)
	if err != nil {
		return fmt.Errorf("tensor of shape %v: %w", t.Size, err)
	}
	if hi, b := bits.Mul64(uint64(n), uint64(t.DType.Size())); hi != 0 || b > 1<<60 {
		return fmt.Errorf("tensor of shape %v is larger than any memory", t.Size)
	}
	if t.Offset < 0 {
		return fmt.Errorf("negative storage offset %d", t.Offset)
	}
	for _, s := range t.Stride {
		if s < 0 {
			return fmt.Errorf("negative stride %d", s)
		}
	}
	if n == 0 {
		return nil
	}
	last := uint64(t.Offset)
	for i, s := range t.Size {
		hi, step := bits.Mul64(uint64(s-1), uint64(t.Stride[i]))
		sum, carry := bits.Add64(last, step, 0)
		if hi != 0 || carry != 0 || sum >= 1<<62 {
			return t.beyond()
		}
		last = sum
	}
	if hi, end := bits.Mul64(last+1, uint64(t.DType.Size())); hi != 0 ||
		end > uint64(t.Storage.Bytes()) {
		return t.beyond()
	}
	return nil
}

func (t *Tensor) beyond() error {
	return fmt.Errorf("tensor of shape %v, strides %v, offset %d and type %s reaches beyond its "+
		"storage of %d bytes",
		t.Size, t.Stride, t.Offset, t.DType, t.Storage.Bytes())
}

// PythonType returns the type's name for messages.
func (t *Tensor) PythonType() string { return "torch.Tensor" }

// PythonType returns the type's name for messages.
func (s *Storage) PythonType() string { return "torch.Storage" }

// Numel is the number of elements.
func (t *Tensor) Numel() int64 {
	n, _ := array.Numel(t.Size)
	return n
}

// Bytes is the size of the tensor when written out contiguously.
func (t *Tensor) Bytes() int64 { return t.Numel() * int64(t.DType.Size()) }

// Contiguous reports whether the elements lie in row-major order without gaps.
func (t *Tensor) Contiguous() bool {
	want := int64(1)
	for i := len(t.Size) - 1; i >= 0; i-- {
		if t.Size[i] == 0 {
			return true
		}
		if t.Size[i] != 1 && t.Stride[i] != want {
			return false
		}
		want *= t.Size[i]
	}
	return true
}

// ReadInto fills dst, which must have exactly Bytes() bytes, with the elements, row-major and
// little-endian. It may be called from several goroutines.
func (t *Tensor) ReadInto(dst []byte) error {
	if int64(len(dst)) != t.Bytes() {
		return fmt.Errorf("pth: %s: a tensor of %d bytes into a buffer of %d", t.Storage.name,
			t.Bytes(), len(dst))
	}
	if len(dst) == 0 {
		return nil
	}
	item := int64(t.DType.Size())
	if t.Contiguous() {
		_, err := t.Storage.ReadAt(dst, t.Offset*item)
		return err
	}
	last := int64(0)
	for i, s := range t.Size {
		last += (s - 1) * t.Stride[i]
	}
	span := make([]byte, (last+1)*item)
	if _, err := t.Storage.ReadAt(span, t.Offset*item); err != nil {
		return err
	}
	array.Gather(dst, span, int(item), t.Size, t.Stride)
	return nil
}

// readChunk is the number of bytes of a contiguous tensor that a worker of ReadAll reads at a time.
const readChunk = 4 << 20

// ReadAll fills dsts[i] with tensors[i] as ReadInto does, with the given number of workers (0: one
// per CPU). Large contiguous tensors are read by several workers. After an error it stops, and the
// contents of the buffers are undefined.
func ReadAll(tensors []*Tensor, dsts [][]byte, workers int) error {
	if len(tensors) != len(dsts) {
		return fmt.Errorf("pth: ReadAll: %d tensors into %d buffers", len(tensors), len(dsts))
	}
	type job struct {
		i        int
		from, to int64 // bytes; to is 0 for the whole tensor
	}
	var jobs []job
	for i, t := range tensors {
		if int64(len(dsts[i])) != t.Bytes() {
			return fmt.Errorf("pth: ReadAll: tensor %d has %d bytes, its buffer %d", i, t.Bytes(),
				len(dsts[i]))
		}
		if !t.Contiguous() {
			jobs = append(jobs, job{i: i})
			continue
		}
		for from := int64(0); from < t.Bytes(); from += readChunk {
			jobs = append(jobs, job{i, from, min(from+readChunk, t.Bytes())})
		}
	}
	return parallel(len(jobs), workers, func(n int) error {
		j := jobs[n]
		t := tensors[j.i]
		if j.to == 0 {
			return t.ReadInto(dsts[j.i])
		}
		_, err := t.Storage.ReadAt(dsts[j.i][j.from:j.to], t.Offset*int64(t.DType.Size())+j.from)
		return err
	})
}

// parallel runs do(0) … do(n-1) on several goroutines and joins their errors; after an error it
// starts no further calls.
func parallel(n, workers int, do func(i int) error) error {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	workers = min(workers, n)
	errs := make([]error, workers)
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					errs[w] = err
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// View identifies the memory that a tensor shows: tensors that are aliases have equal views.
type View struct {
	storage *Storage
	offset  int64
	layout  string
}

// View returns the tensor's view.
func (t *Tensor) View() View {
	return View{t.Storage, t.Offset, fmt.Sprint(t.DType, t.Size, t.Stride)}
}

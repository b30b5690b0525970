package torch

// #include "shim_gen.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// DeviceType is a kind of device; values are c10::DeviceType's.
type DeviceType int

// Kinds of devices.
const (
	DeviceCPU  DeviceType = 0
	DeviceCUDA DeviceType = 1
)

// Device is a device of tensors. Index -1 is the current device of its type.
type Device struct {
	Type  DeviceType
	Index int
}

// CPU is main memory.
var CPU = Device{DeviceCPU, -1}

// ParseDevice parses "cpu", "cuda" or "cuda:1".
func ParseDevice(s string) (Device, error) {
	name, index, found := strings.Cut(s, ":")
	d := Device{Index: -1}
	switch name {
	case "cpu":
	case "cuda":
		d.Type, d.Index = DeviceCUDA, 0
	default:
		return d, fmt.Errorf("torch: device %q: expected cpu, cuda or cuda:N", s)
	}
	if found {
		n, err := strconv.Atoi(index)
		if err != nil || n < 0 || d.Type == DeviceCPU {
			return d, fmt.Errorf("torch: device %q: expected cpu, cuda or cuda:N", s)
		}
		d.Index = n
	}
	return d, nil
}

// String is PyTorch's notation: "cpu", "cuda:0".
func (d Device) String() string {
	name := "cpu"
	if d.Type == DeviceCUDA {
		name = "cuda"
	}
	if d.Index < 0 || d.Type == DeviceCPU {
		return name
	}
	return fmt.Sprintf("%s:%d", name, d.Index)
}

// DeviceCount is the number of devices of a kind that this libtorch can use.
func DeviceCount(t DeviceType) (int, error) {
	if err := Load(); err != nil {
		return 0, err
	}
	var out C.int64_t
	err := message(C.lnt_device_count(C.int64_t(t), &out))
	return int(out), err
}

// CheckDevice returns an error, with the remedy, if d cannot be used.
func CheckDevice(d Device) error {
	if d.Type == DeviceCPU {
		return Load()
	}
	n, err := DeviceCount(d.Type)
	if err != nil {
		return err
	}
	if n == 0 {
		v, _ := Version()
		return fmt.Errorf("torch: device %s: libtorch %s has no CUDA device; use --device cpu, "+
			"or build with `make libtorch CUDA=1` on a machine with an NVIDIA GPU", d, v)
	}
	if d.Index >= n {
		return fmt.Errorf("torch: device %s: this machine has %d CUDA device(s), cuda:0 to cuda:%d",
			d, n, n-1)
	}
	return nil
}

// Name is the driver's name of the device.
func (d Device) Name() (string, error) {
	if err := Load(); err != nil {
		return "", err
	}
	var out *C.char
	if err := message(C.lnt_device_name(C.int64_t(d.Type), C.int64_t(d.Index), &out)); err != nil {
		return "", err
	}
	return text(out), nil
}

// Synchronize waits for all work queued on the device's current stream.
func (d Device) Synchronize() error {
	if err := Load(); err != nil {
		return err
	}
	return message(C.lnt_synchronize(C.int64_t(d.Type), C.int64_t(d.Index)))
}

// Memory returns the device's free and total bytes as reported by its driver; zeros for the CPU.
func (d Device) Memory() (free, total int64, err error) {
	if err := Load(); err != nil {
		return 0, 0, err
	}
	var out [2]int64
	err = message(C.lnt_memory(C.int64_t(d.Type), C.int64_t(d.Index),
		(*C.int64_t)(unsafe.Pointer(&out[0]))))
	return out[0], out[1], err
}

// CPUMemory returns the bytes of large tensor blocks in main memory: in use, peak use since the
// last EmptyCache, and cached for reuse.
func CPUMemory() (inUse, peak, kept int64, err error) {
	if err := Load(); err != nil {
		return 0, 0, 0, err
	}
	var out [3]int64
	err = message(C.lnt_cpu_memory((*C.int64_t)(unsafe.Pointer(&out[0]))))
	return out[0], out[1], out[2], err
}

// Peak is the peak of the device's tensor memory in bytes since the last call with reset; 0 for the
// CPU (see CPUMemory) and where libtorch, before 2.9, does not report it.
func (d Device) Peak(reset bool) (int64, error) {
	if err := Load(); err != nil {
		return 0, err
	}
	var out C.int64_t
	err := message(C.lnt_device_peak(C.int64_t(d.Type), C.int64_t(d.Index), flag(reset), &out))
	return int64(out), err
}

// HasKernels reports whether InstanceNormLeakyReLU has its own kernel on such devices, which needs
// channels-last input: on the CPU, and on CUDA if `make shim` found nvcc.
func (t DeviceType) HasKernels() bool {
	var out C.int64_t
	return Load() == nil && message(C.lnt_has_kernels(C.int64_t(t), &out)) == nil && out != 0
}

// EmptyCache releases cached blocks of the device's allocator.
func (d Device) EmptyCache() error {
	if err := Load(); err != nil {
		return err
	}
	return message(C.lnt_empty_cache(C.int64_t(d.Type)))
}

// Stream is a queue of work of a device. Work of two streams may overlap. The CPU has one, where
// all work is over when a call returns.
type Stream struct {
	device Device
	raw    [3]int64 // id, device index and device type of the device's
}

// NewStream takes a stream from the device's pool.
func (d Device) NewStream() (Stream, error) {
	s := Stream{device: d}
	if err := Load(); err != nil || d.Type == DeviceCPU {
		return s, err
	}
	return s, message(C.lnt_stream_new(C.int64_t(d.Type), C.int64_t(d.Index), ints(s.raw[:])))
}

// OnStream runs f, tied to its OS thread, with s as the thread's current stream: what f queues on
// the device goes there. On the CPU it runs f.
func OnStream(s Stream, f func() error) (err error) {
	if err := Load(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if s.device.Type == DeviceCPU {
		return f()
	}
	var previous, unused [3]int64
	if err := message(C.lnt_stream_exchange(ints(s.raw[:]), ints(previous[:]))); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, message(C.lnt_stream_exchange(ints(previous[:]), ints(unused[:]))))
	}()
	return f()
}

// RecordStream tells the device's allocator that the calling thread's current stream uses t, too:
// when t is freed its memory is not reused before the work queued there is over. It is needed for a
// tensor that was made on another stream; on the CPU it does nothing.
func (t *Tensor) RecordStream() error {
	if t == nil || t.c == nil {
		return errNil
	}
	return message(C.lnt_record_stream(t.c))
}

// Event marks a point in the work queued on a device. An event of the CPU, where work is over when
// a call returns, is always reached.
type Event struct {
	c      unsafe.Pointer // nil for the CPU, unless timed, and when freed
	device Device
}

// NewEvent returns an event; Free frees it.
func (d Device) NewEvent() (*Event, error) {
	if d.Type == DeviceCPU {
		return &Event{device: d}, Load()
	}
	return d.newEvent(false)
}

// NewTimedEvent returns an event that knows when the device reached it, for Elapsed.
func (d Device) NewTimedEvent() (*Event, error) { return d.newEvent(true) }

func (d Device) newEvent(timed bool) (*Event, error) {
	if err := Load(); err != nil {
		return nil, err
	}
	e := &Event{device: d}
	return e, message(C.lnt_event_new(C.int64_t(d.Type), flag(timed), &e.c))
}

// do calls the device unless there is nothing to do.
func (e *Event) do(call func() *C.char) error {
	switch {
	case e.c != nil:
		return message(call())
	case e.device.Type == DeviceCPU:
		return nil
	}
	return errors.New("torch: the event was freed")
}

// Record places e after the work queued so far on the calling thread's current stream.
func (e *Event) Record() error {
	return e.do(func() *C.char { return C.lnt_event_record(e.c, C.int64_t(e.device.Index)) })
}

// Block makes work that is queued from now on, on the calling thread's current stream, wait for e.
// The calling thread does not wait.
func (e *Event) Block() error {
	return e.do(func() *C.char { return C.lnt_event_block(e.c, C.int64_t(e.device.Index)) })
}

// Synchronize waits for e.
func (e *Event) Synchronize() error {
	return e.do(func() *C.char { return C.lnt_event_synchronize(e.c) })
}

// Elapsed is the time that the device took from e to a later event. Both are timed, on one device,
// and over: Synchronize waits for that. The CPU has no timed events.
func (e *Event) Elapsed(later *Event) (time.Duration, error) {
	var ms C.double
	err := message(C.lnt_event_elapsed(e.c, later.c, &ms))
	return time.Duration(float64(ms) * float64(time.Millisecond)), err
}

// Free frees e.
func (e *Event) Free() {
	if e.c != nil {
		C.lnt_event_free(e.c)
		e.c = nil
	}
}

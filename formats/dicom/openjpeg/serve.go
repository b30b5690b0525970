package openjpeg

/*
#cgo CFLAGS: -O2
#cgo linux LDFLAGS: -ldl
#include <stdlib.h>
#include "openjpeg.h"
*/
import "C"

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// serve is a decoder's life: it opens the library, gives up what it does not need, and answers
// requests until there are no more.
func serve(in io.Reader, out io.Writer, path string) {
	runtime.LockOSThread()
	version, err := open(path)
	if err != nil {
		_ = writeResponse(out, refused, []byte(err.Error()))
		return
	}
	defaultSignals()
	base, err := addressSpace()
	if err == nil {
		err = confine()
	}
	if err != nil {
		_ = writeResponse(out, refused, []byte(err.Error()))
		return
	}
	if writeResponse(out, greeting, []byte(hello+version)) != nil {
		return
	}
	var (
		r                 request
		codestream, frame []byte
		reader            = bufio.NewReaderSize(in, 1<<16)
	)
	for binary.Read(reader, binary.LittleEndian, &r) == nil {
		cells := uint64(r.Rows) * uint64(r.Columns) * uint64(r.Allocated/8)
		if r.Length == 0 || r.Length > maxBytes || cells > maxBytes {
			return
		}
		if allow(base, r) != nil {
			return
		}
		codestream, frame = resize(codestream, r.Length), resize(frame, cells)
		if _, err := io.ReadFull(reader, codestream); err != nil {
			return
		}
		kind, content := uint32(decoded), frame
		if err := decode(frame, codestream, r); err != nil {
			kind, content = refused, []byte(err.Error())
		}
		if writeResponse(out, kind, content) != nil {
			return
		}
	}
}

// defaultSignals makes a crash an end without a trace, with a signal as its reason.
func defaultSignals() { C.lnt_default_signals() }

func resize(b []byte, n uint64) []byte {
	if uint64(cap(b)) < n || uint64(cap(b)) > 4*n+1<<20 {
		return make([]byte, n)
	}
	return b[:n]
}

func open(path string) (version string, err error) {
	const size = 1024
	cpath := C.CString(path)
	v, e := (*C.char)(C.calloc(2, size)), (*C.char)(nil)
	e = (*C.char)(unsafe.Add(unsafe.Pointer(v), size))
	defer C.free(unsafe.Pointer(cpath))
	defer C.free(unsafe.Pointer(v))
	C.lnt_opj_open(cpath, v, e, size)
	if text := C.GoString(e); text != "" {
		return "", fmt.Errorf("%s", strings.TrimPrefix(text, path+": "))
	}
	return C.GoString(v), nil
}

// addressSpace is what the process takes of it, in bytes.
func addressSpace() (uint64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var pages uint64
	if _, err := fmt.Sscan(string(b), &pages); err != nil {
		return 0, err
	}
	return pages * uint64(os.Getpagesize()), nil
}

// confine gives up for good what decoding does not need: files, those that the program left open
// to its children too, and dumps of what is in memory.
func confine() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, f := range open {
		fd, err := strconv.Atoi(f.Name())
		if err != nil || fd <= 2 {
			continue
		}
		// Go's own files have the flag, inherited ones cannot.
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	for _, resource := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_FSIZE, unix.RLIMIT_CORE} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{}); err != nil {
			return err
		}
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// allow sets what decoding the next frame may take. The kernel ends the process when it takes more
// processor time; when it takes more memory there is none.
func allow(base uint64, r request) error {
	if err := lower(unix.RLIMIT_AS, base+r.AddressSpace); err != nil {
		return err
	}
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return err
	}
	seconds := uint64(used.Utime.Sec+used.Stime.Sec) + 2 // rounded up
	return lower(unix.RLIMIT_CPU, seconds+r.ProcessorTime)
}

// lower sets a soft limit, within the hard one that the process was started with.
func lower(resource int, to uint64) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(resource, &l); err != nil {
		return err
	}
	l.Cur = min(to, l.Max)
	return unix.Setrlimit(resource, &l)
}

// decode decodes the codestream to the frame's cells.
func decode(frame, codestream []byte, r request) error {
	var report C.lnt_report
	var s C.lnt_samples
	C.lnt_opj_decode((*C.uint8_t)(unsafe.SliceData(codestream)), C.int64_t(len(codestream)), &s,
		&report)
	defer C.lnt_opj_free(&s)
	if text := C.GoString(&report.error[0]); text != "" {
		return fmt.Errorf("%s", text)
	}
	if text := C.GoString(&report.damage[0]); text != "" {
		return fmt.Errorf("%s", text)
	}
	if uint32(s.rows) != r.Rows || uint32(s.columns) != r.Columns ||
		uint32(s.precision) != r.Precision || uint32(s.is_signed) != r.SignedSamples {
		return fmt.Errorf("another image came out than the header says")
	}
	samples := unsafe.Slice((*int32)(unsafe.Pointer(s.samples)), int(r.Rows)*int(r.Columns))
	if !store(frame, samples, r) {
		return fmt.Errorf("values need more than the %d bits that BitsStored says", r.Stored)
	}
	return nil
}

// store writes samples as cells. A sample that is signed where the frame is not, or the other way
// round, is its bits. It reports whether all bits above BitsStored say nothing.
//
// Compat: pydicom 3.0, _apply_sign_correction.
func store(frame []byte, samples []int32, r request) bool {
	var (
		shift    = 32 - r.Precision
		low      = int32(0)
		high     = int32(1)<<r.Stored - 1
		signed   = r.Signed == 1
		mismatch = r.Signed != r.SignedSamples
		bad      = int32(0)
	)
	if signed {
		low = -1 << (r.Stored - 1)
	}
	for i, v := range samples {
		switch {
		case mismatch && signed:
			v = v << shift >> shift
		case mismatch:
			v = int32(uint32(v) << shift >> shift)
		}
		bad |= (v - low) | (high - v) // negative if v is not between them
		if r.Allocated == 8 {
			frame[i] = byte(v)
		} else {
			binary.LittleEndian.PutUint16(frame[2*i:], uint16(v))
		}
	}
	return bad >= 0
}

// Package bits views slices of numbers as bytes, so that files are read into and written from their
// memory without a copy.
package bits

import (
	"encoding/binary"
	"unsafe"
)

// Number lists the element types that can be viewed as bytes: every bit pattern is a valid value.
type Number interface {
	~uint8 | ~int8 | ~uint16 | ~int16 | ~uint32 | ~int32 | ~uint64 | ~int64 | ~float32 | ~float64
}

// Bytes returns the memory of s, in native byte order.
func Bytes[T Number](s []T) []byte {
	var zero T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))),
		len(s)*int(unsafe.Sizeof(zero)))
}

// LittleEndian reports whether the native byte order is little-endian.
var LittleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// Swap reverses the bytes of every number of the given size (1, 2, 4 or 8 bytes) in place; it
// panics on another size and if the length of b is not a multiple of it.
func Swap(b []byte, size int) {
	if size < 1 || size > 8 || size&(size-1) != 0 || len(b)%size != 0 {
		panic("bits: not whole numbers of 1, 2, 4 or 8 bytes")
	}
	switch size {
	case 2:
		for ; len(b) >= 8; b = b[8:] { // four numbers at a time
			v := binary.LittleEndian.Uint64(b)
			binary.LittleEndian.PutUint64(b, v>>8&0x00ff00ff00ff00ff|v&0x00ff00ff00ff00ff<<8)
		}
		for ; len(b) > 0; b = b[2:] {
			binary.LittleEndian.PutUint16(b, binary.BigEndian.Uint16(b))
		}
	case 4:
		for ; len(b) > 0; b = b[4:] {
			binary.LittleEndian.PutUint32(b, binary.BigEndian.Uint32(b))
		}
	case 8:
		for ; len(b) > 0; b = b[8:] {
			binary.LittleEndian.PutUint64(b, binary.BigEndian.Uint64(b))
		}
	}
}

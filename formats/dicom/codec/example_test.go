package codec_test

import (
	"fmt"

	"github.com/lntorch/lntorch/formats/dicom/codec"
)

func Example() {
	const syntax = "1.2.840.10008.1.2.5"
	header := codec.Frame{Rows: 2, Columns: 4, BitsAllocated: 8, BitsStored: 8}
	frame := make([]byte, 64, 72)
	frame[0], frame[4] = 1, 64                // one segment, which begins at byte 64
	frame = append(frame, 2, 7, 8, 9, 252, 5) // three bytes as they are, then 5 five times

	if err := codec.Check(syntax, frame, header); err != nil {
		fmt.Println(err)
		return
	}
	pixels := make([]byte, 8)
	fmt.Println(codec.Decode(pixels, syntax, frame, header), pixels)
	fmt.Println(codec.Supported("1.2.840.10008.1.2.4.51"))
	// Output:
	// <nil> [7 8 9 5 5 5 5 5]
	// the transfer syntax JPEG Extended (Process 2 and 4) (1.2.840.10008.1.2.4.51) is not supported; decompress the file first: `gdcmconv --raw IN OUT` or `dcmdjpeg IN OUT`
}

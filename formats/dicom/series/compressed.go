package series

import (
	"fmt"

	"github.com/lntorch/lntorch/formats/dicom"
)

// supported returns why frames of a compressed transfer syntax cannot be decoded, or nil.
func supported(syntax string) error {
	return fmt.Errorf("%s is not supported: decompress the file first: `gdcmconv --raw IN OUT` or "+
		"`dcmdjpeg IN OUT`", dicom.SyntaxName(syntax))
}

// check reads the header of a frame's codestream: whether it can be decoded and can hold so many
// pixels.
func check(f *File, codestream []byte) error { return supported(f.Syntax) }

// decode writes a frame's pixels to dst, little endian, as many as the file says.
func decode(dst []byte, f *File, codestream []byte) error { return supported(f.Syntax) }

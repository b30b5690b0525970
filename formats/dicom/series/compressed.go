package series

import (
	"errors"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/codec"
)

// native reports whether pixels in this transfer syntax are not compressed.
func native(syntax string) bool {
	s, known := codec.Find(syntax)
	return known && !s.Encapsulated
}

// syntaxName is how a message shows a transfer syntax: what is no UID of the standard is a text of
// the file, and not shown.
func syntaxName(syntax string) string {
	if s, known := codec.Find(syntax); known {
		return s.Name + " (" + syntax + ")"
	}
	if uid := dicom.StandardUID(syntax); uid != "" {
		return "transfer syntax " + uid
	}
	return "a transfer syntax that is not of the standard"
}

// supported returns why frames of a compressed transfer syntax cannot be decoded, or nil.
func supported(syntax string) error {
	if dicom.StandardUID(syntax) == "" {
		return errors.New("a transfer syntax that is not of the standard is not supported: " +
			"decompress the file with its maker's program first")
	}
	return codec.Supported(syntax)
}

// coded is what a decoder has to know of a file's frames.
func (f *File) coded() codec.Frame {
	return codec.Frame{Rows: f.Rows, Columns: f.Columns, BitsAllocated: f.allocated,
		BitsStored: f.Bits, Signed: f.Signed}
}

package openjpeg

import (
	"encoding/binary"
	"io"
	"strings"

	"github.com/lntorch/lntorch/formats/dicom/codec"
)

// What goes through the pipes between the program and a decoder. A decoder says once who it is and
// whether it can decode: a greeting. Then it answers
// a request with a response. Numbers are little endian.

const hello = "lntorch jpeg2000 1 "

// A request is followed by Length bytes of a codestream.
type request struct {
	Length        uint64
	Rows, Columns uint32
	Allocated     uint32 // bits of a cell in the answer
	Stored        uint32 // bits that values may have
	Precision     uint32 // of the codestream
	Signed        uint32 // 1: values are
	SignedSamples uint32 // 1: the codestream's are
	AddressSpace  uint64 // bytes that may be taken for this frame
	ProcessorTime uint64 // seconds
}

// A response is followed by Length bytes: a frame, or a text.
type response struct{ Kind, Length uint32 }

// Kinds of responses.
const (
	refused  = iota // why
	decoded         // the frame
	greeting        // hello and the library's version
)

const (
	maxText  = 512
	maxBytes = 1 << 31 // of a codestream
)

func newRequest(c codec.JPEG2000, f codec.Frame, a allowance) request {
	r := request{Length: uint64(len(c.Codestream)), Rows: uint32(f.Rows),
		Columns: uint32(f.Columns), Allocated: uint32(f.BitsAllocated),
		Stored: uint32(f.BitsStored), Precision: uint32(c.Precision), AddressSpace: a.memory,
		ProcessorTime: a.processor}
	if f.Signed {
		r.Signed = 1
	}
	if c.Signed {
		r.SignedSamples = 1
	}
	return r
}

func (r request) write(w io.Writer, codestream []byte) error {
	if err := binary.Write(w, binary.LittleEndian, r); err != nil {
		return err
	}
	_, err := w.Write(codestream)
	return err
}

func writeResponse(w io.Writer, kind uint32, content []byte) error {
	if kind != decoded {
		content = content[:min(len(content), maxText)]
	}
	err := binary.Write(w, binary.LittleEndian, response{kind, uint32(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	return err
}

// plain is what can be shown of a text that a decoder wrote: its first line in ASCII.
func plain(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, line)
}

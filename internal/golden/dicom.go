package golden

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// ReplaceElement returns a DICOM file in explicit VR little endian with another value of its first element
// of that tag: a text, or the bytes of a US.
func ReplaceElement(t testing.TB, file []byte, group, number uint16, vr, value string) []byte {
	t.Helper()
	le := binary.LittleEndian
	at := bytes.Index(file, append(le.AppendUint16(le.AppendUint16(nil, group), number), vr...))
	require.Positive(t, at, "%04x,%04x", group, number)
	if len(value)%2 == 1 {
		value += " "
	}
	length := int(le.Uint16(file[at+6:]))
	out := le.AppendUint16(bytes.Clone(file[:at+6]), uint16(len(value)))
	return append(append(out, value...), file[at+8+length:]...)
}

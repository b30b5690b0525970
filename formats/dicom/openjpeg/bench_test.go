package openjpeg

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/codec"
)

// BenchmarkFrame decodes one frame of the corpus, most of whose time is the way to the decoder and
// back.
func BenchmarkFrame(b *testing.B) {
	need(b)
	s := corpus(b)["size-odd"]
	dst := make([]byte, s.Rows*s.Columns*2)
	for b.Loop() {
		require.NoError(b, codec.Decode(dst, s.Syntax, s.codestream, s.frame()))
	}
}

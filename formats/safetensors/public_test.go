package safetensors

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

// Weights from public packages, as the reference library reads them.
func TestPublicFilesAreReadAsSafetensorsReadsThem(t *testing.T) {
	names := map[DType]string{Float32: "float32", Float16: "float16", BFloat16: "bfloat16",
		Float64: "float64", Int64: "int64", Int32: "int32", Uint8: "uint8", Bool: "bool"}
	golden.Public(t, []string{"safetensors"}, func(t *testing.T, p golden.PublicFile) {
		f, err := Open(p.Path)
		if !p.Refusals(t, err) {
			return
		}
		defer f.Close()
		var want struct {
			Metadata map[string]string
			Tensors  map[string][3]any
		}
		require.NoError(t, json.Unmarshal(p.Read, &want))
		got := map[string][3]any{}
		for _, x := range f.Tensors {
			b := make([]byte, x.Bytes())
			require.NoError(t, x.ReadInto(b))
			sum := sha256.Sum256(b)
			shape := []any{}
			for _, n := range x.Shape {
				shape = append(shape, float64(n))
			}
			got[x.Name] = [3]any{names[x.DType], shape, hex.EncodeToString(sum[:])}
		}
		require.Equal(t, want.Tensors, got)
		require.Len(t, f.Metadata, len(want.Metadata))
	})
}

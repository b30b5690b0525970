package pth

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
)

// Checkpoints and pickles from public packages: types, order, values, dtypes, shapes, strides,
// bytes and shared storages.
func TestPublicFilesAreReadAsTorchReadsThem(t *testing.T) {
	golden.Public(t, []string{"torch", "pickle"}, func(t *testing.T, f golden.PublicFile) {
		var root any
		var err error
		if f.Kind == "pickle" {
			root, err = pickle.ReadFile(f.Path)
		} else {
			var file *File
			if file, err = Open(f.Path); err == nil {
				defer file.Close()
				root = file.Root
			}
		}
		if !f.Refusals(t, err) {
			return
		}
		var want struct{ Value json.RawMessage }
		require.NoError(t, json.Unmarshal(f.Read, &want))
		require.JSONEq(t, string(want.Value), describe(t, root))
	})
}

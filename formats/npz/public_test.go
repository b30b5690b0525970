package npz_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
)

// Arrays from public packages, as numpy reads them without unpickling.
func TestPublicFilesAreReadAsNumpyReadsThem(t *testing.T) {
	golden.Public(t, []string{"npz", "npy"}, func(t *testing.T, f golden.PublicFile) {
		arrays := map[string]*npz.Array{}
		read := func() error {
			if f.Kind == "npy" {
				a, err := npz.OpenNpy(f.Path)
				arrays[""] = a
				return err
			}
			file, err := npz.OpenNpz(f.Path)
			if err != nil {
				return err
			}
			defer file.Close()
			for _, name := range file.Names() {
				if arrays[name], err = file.Read(name); err != nil {
					return err
				}
			}
			return nil
		}
		if !f.Refusals(t, read()) {
			return
		}
		var want struct{ Arrays map[string][3]any }
		require.NoError(t, json.Unmarshal(f.Read, &want))
		got := map[string][3]any{}
		for name, a := range arrays {
			shape := []any{}
			for _, n := range a.Shape {
				shape = append(shape, float64(n))
			}
			sum := sha256.Sum256(a.Data)
			got[name] = [3]any{a.DType, shape, hex.EncodeToString(sum[:])}
		}
		require.Equal(t, want.Arrays, got)
	})
}

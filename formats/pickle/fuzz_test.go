package pickle

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzPickle: no input panics, hangs or uses disproportionate memory, and what was read can be
// written and read again.
func FuzzPickle(f *testing.F) {
	data, err := Marshal(sample(), nil)
	require.NoError(f, err)
	f.Add(data)
	path := "../../testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource_3d_fullres/LN_000.pkl"
	data, err = os.ReadFile(path)
	require.NoError(f, err)
	f.Add(data[:1024])
	for _, h := range hostile {
		if len(h.data) < 4096 { // the fuzzer is slow on large seeds
			f.Add([]byte(h.data))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Unmarshal(data, Options{})
		if err != nil {
			return
		}
		// Once written, a value is in the writer's form, which no longer changes.
		var size []int
		for range 3 {
			data, err := Marshal(v, nil)
			require.NoError(t, err)
			v, err = Unmarshal(data,
				Options{Limits: Limits{Bytes: 1 << 30, Memory: 1 << 30, Depth: 500}})
			require.NoError(t, err)
			size = append(size, len(data))
		}
		require.Equal(t, size[1], size[2])
	})
}

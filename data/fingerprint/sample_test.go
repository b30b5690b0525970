package fingerprint

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/mt19937"
)

// sampled is an entry of testdata/golden/fingerprint.json, by scripts/golden/fingerprint.py.
type sampled struct {
	Draws int
	Cases [][][]float32 // case, channel, foreground voxel
	Want  []map[string]float64
}

func sequential(n int, f func(int)) {
	for i := range n {
		f(i)
	}
}

func TestIntensitiesAreNumpysToTheBit(t *testing.T) {
	var list []sampled
	golden.LoadJSON(t, "fingerprint.json", &list)
	require.Greater(t, len(list), 30)
	wide, drawn := 0, 0
	for i, g := range list {
		samples := make([][]*sample, len(g.Want)) // channel, case
		for _, c := range g.Cases {
			source := mt19937.New(sampleSeed)
			for ch := range g.Want {
				s := draw(c[ch], g.Draws, source)
				samples[ch] = append(samples[ch], s)
				if s.n == 0 {
					wide++
				}
				if s.drawn {
					drawn++
				}
			}
		}
		for ch, w := range g.Want {
			require.Equal(t, plans.Intensity{Mean: w["mean"], Median: w["median"], Std: w["std"], Min: w["min"], Max: w["max"],
				Percentile005: w["percentile_00_5"], Percentile995: w["percentile_99_5"]}, statistics(samples[ch], sequential), "entry %d channel %d: %d draws", i, ch, g.Draws)
		}
	}
	require.Positive(t, wide)
	require.Positive(t, drawn)
}

func TestLiveGoldenIsWhatPythonWrites(t *testing.T) {
	golden.Python(t)
	path := filepath.Join(t.TempDir(), "fingerprint.json")
	golden.Run(t, "fingerprint.py", path)
	want, err := plans.ReadJSON(golden.Path(t, "fingerprint.json"))
	require.NoError(t, err)
	got, err := plans.ReadJSON(path)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

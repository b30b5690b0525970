package loader

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/internal/golden"
)

// Sizes and forced foreground of every rank are those of nnU-Net's trainer and loader, in all batches
// of up to 64 samples on up to 16 ranks.
func TestRanksHaveTheRowsOfNnUNet(t *testing.T) {
	areSplit(t, golden.Path(t, "ranks/split.json"))
}

func areSplit(t *testing.T, path string) {
	var want map[string]string
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &want))
	require.Len(t, want, 904, path)
	for world := 1; world <= 16; world++ {
		for n := world; n <= 64; n++ {
			s := &sampler{batchSize: n, oversample: 0.33}
			var ranks []string
			for rank := range world {
				rows := Split(n, rank, world)
				var forced strings.Builder
				for i := rows[0]; i < rows[1]; i++ {
					if s.forced(i) {
						forced.WriteByte('1')
					} else {
						forced.WriteByte('0')
					}
				}
				ranks = append(ranks, forced.String())
			}
			key := fmt.Sprintf("%d/%d", n, world)
			require.Equal(t, want[key], strings.Join(ranks, " "), key)
		}
	}
}

// whole is what ranks have prepared together of one batch.
func whole(t *testing.T, of []*Loader) *Batch {
	t.Helper()
	out := &Batch{}
	for r, l := range of {
		b, err := l.Next(t.Context())
		require.NoError(t, err)
		out.Index = b.Index
		out.Keys, out.Samples = append(out.Keys, b.Keys...), append(out.Samples, b.Samples...)
		out.Data, out.Crops = append(out.Data, b.Data...), append(out.Crops, b.Crops...)
		for k, target := range b.Targets {
			require.Equal(t, len(b.Keys), target.Shape[0])
			if r == 0 {
				out.Targets = append(out.Targets, Target{})
			}
			to := &out.Targets[k]
			to.Labels = append(to.Labels, target.Labels...)
			to.Masks = append(to.Masks, target.Masks...)
		}
		if b.Data != nil {
			require.Equal(t, len(b.Keys), b.DataShape[0])
		}
	}
	return out
}

// The rows that ranks prepare are those of the batch that one rank prepares, to the bit: with every
// augmentation, with crops, and with any number of ranks.
func TestRanksPrepareTheSameBatch(t *testing.T) {
	const n = 5
	for _, set := range []string{"plain", "ignore", "regions_ignore"} {
		for _, augmentation := range augment.Augmentations {
			for _, crops := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/crops=%v", set, augmentation, crops), func(t *testing.T) {
					cfg := config(t, set)
					augmented(t, &cfg, augmentation, []int{5, 8, 7},
						[][]float64{{1, 1, 1}, {1, 0.5, 0.5}})
					cfg.BatchSize, cfg.Crops, cfg.Workers, cfg.StartIndex = n, crops, 2, 3
					one := start(t, cfg)
					var worlds [][]*Loader
					for _, world := range []int{2, 3, 5} {
						var ranks []*Loader
						for rank := range world {
							cfg.Rows = Split(n, rank, world)
							ranks = append(ranks, start(t, cfg))
						}
						worlds = append(worlds, ranks)
					}
					for range 2 {
						want, err := one.Next(t.Context())
						require.NoError(t, err)
						require.Len(t, want.Samples, n)
						sum, err := want.SHA256()
						require.NoError(t, err)
						for _, ranks := range worlds {
							got := whole(t, ranks)
							require.Equal(t, want.Index, got.Index)
							require.Equal(t, want.Samples, got.Samples)
							again, err := got.SHA256()
							require.NoError(t, err)
							require.Equal(t, sum, again, "%d ranks", len(ranks))
						}
					}
				})
			}
		}
	}
}

func TestRowsOutsideTheBatchAreRefused(t *testing.T) {
	for _, rows := range [][2]int{{-1, 2}, {2, 2}, {1, 0}, {2, 4}, {3, 3}} {
		cfg := config(t, "plain")
		cfg.Rows = rows
		_, err := New(cfg)
		require.EqualError(t, err, fmt.Sprintf("loader: rows %d to before %d of a batch of 3, expected "+
			"at least one of its rows", rows[0], rows[1]))
	}
}

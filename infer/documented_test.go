package infer

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/torch"
)

// The table of docs/segment.md is what Forecast says.
func TestDocumentedMemoryIsTheForecast(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(golden.Root(t), "docs/segment.md"))
	require.NoError(t, err)
	for _, classes := range []int{2, 20, 117} {
		row := fmt.Sprintf("| %d |", classes)
		for _, limit := range []float64{0, 8, 4} {
			cfg := config(Fast, []int{0, 1, 2})
			cfg.MaxBytes = int64(limit * (1 << 30))
			need, err := Forecast([]int{128, 128, 128}, classes, 1, [4]int{1, 400, 512, 512}, cfg)
			if err != nil {
				row += " refused |"
				continue
			}
			switch {
			case limit == 0:
				row += fmt.Sprintf(" %.2f GiB", float64(need.Bytes)/(1<<30))
			case need.Strips == 1:
				row += " one strip"
			default:
				row += fmt.Sprintf(" %.2f GiB: %d strips, %d tiles instead of %d", float64(need.Bytes)/(1<<30),
					need.Strips, need.Tiles, need.Tiles-need.Repeated)
			}
			row += " |"
		}
		require.Contains(t, string(b), row+"\n")
	}
}

// A step so small that the tiles could not be listed is refused before they are.
func TestTooManyTilesAreRefused(t *testing.T) {
	cfg := DefaultConfig(torch.CPU)
	cfg.TileStep = 1e-4
	_, err := Forecast([]int{128, 128, 128}, 2, 1, [4]int{1, 400, 512, 512}, cfg)
	require.ErrorContains(t, err, "tile step 0.0001: ")
	require.ErrorContains(t, err, "raise the tile step")
	for _, patch := range [][]int{{128, 128, 128}, {48, 64, 16}, {64, 128}} {
		for _, step := range []float64{1, 0.5, 0.3} {
			shape := [4]int{1, 130, 70, 200}
			require.Len(t, newGrid(patch, shape, step).tiles, int(tileEstimate(patch, shape, step)))
		}
	}
}

package infer

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
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

package train

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/loader"
)

func TestMuchWaitingIsToldWithWhatHelps(t *testing.T) {
	stats := loader.Stats{Workers: 4, Elapsed: 40 * time.Second,
		Times: loader.Times{Read: time.Second, Augment: 30 * time.Second, Targets: 4200 * time.Millisecond}}
	lines := waiting(400*time.Millisecond, 40*time.Second, stats, AugmentOnCPU)
	require.Equal(t, []string{"waited for data 0.4 s (1.0 %), 4 workers 22 % busy"}, lines)
	require.Len(t, waiting(2*time.Second, 40*time.Second, stats, AugmentOnCPU), 1, "5 % are not above 5 %")

	lines = waiting(2100*time.Millisecond, 40*time.Second, stats, AugmentOnCPU)
	require.Equal(t, "waited for data 2.1 s (5.2 %), 4 workers 22 % busy", lines[0])
	require.Contains(t, lines[1], "--workers")
	require.Contains(t, lines[1], "--augment-on device")
	lines = waiting(2100*time.Millisecond, 40*time.Second, stats, AugmentOnDevice)
	require.Contains(t, lines[1], "--workers")
	require.NotContains(t, lines[1], "--augment-on")

	require.Equal(t, "waited for data 0.0 s (0.0 %), 0 workers 0 % busy", waiting(0, 0, loader.Stats{}, AugmentOnCPU)[0])
}

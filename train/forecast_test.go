package train

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShortagesAreTold(t *testing.T) {
	need := needs{memory: 10 << 30, disk: 5 << 30}
	require.Empty(t, need.shortages(11<<30, 6<<30, "/data"))
	require.Equal(t, []string{
		"WARNING: only 2.0 GiB of memory are free: a smaller --patch-size or --batch-size needs less",
		"WARNING: only 100 MiB are free where the results go (/data)"}, need.shortages(2<<30, 100<<20, "/data"))
	require.Empty(t, need.shortages(-1, -1, "/data"), "not known")
}

func TestSizesAreForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 20: "10 MiB", 3 << 29: "1.5 GiB", 5 << 50: "5120 TiB"} {
		require.Equal(t, want, size(n))
	}
}

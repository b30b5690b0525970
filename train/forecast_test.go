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

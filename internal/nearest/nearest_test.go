package nearest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNameIsTheOneProbablyMeant(t *testing.T) {
	names := []string{"sigmas", "scales", "apply_to_channel"}
	require.Equal(t, "sigmas", Name("sigma", names))
	require.Equal(t, "scales", Name("scalse", names))
	require.Equal(t, "apply_to_channel", Name("apply", names))
	require.Empty(t, Name("noise", names))
	require.Empty(t, Name(strings.Repeat("a", 1<<20), names))
}

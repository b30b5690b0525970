package brief

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJoin(t *testing.T) {
	list := []string{"a", "b", "c", "d"}
	require.Equal(t, "a, b, c, d", Join(list, ", ", 4))
	require.Equal(t, "a, b and 2 more", Join(list, ", ", 2))
	require.Equal(t, "a; b; c and 1 more", Join(list, "; ", 3))
	require.Empty(t, Join(nil, ", ", 4))
}

package train

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A list that cannot be read is not taken for that of an lntorch which had none.
func TestACheckpointsListOfAnotherTypeIsRefused(t *testing.T) {
	err := new(trainer).resumeList(map[string]any{augmentationList: int64(5)}, false)
	require.ErrorContains(t, err, "entry augmentation/list: found no text")
}

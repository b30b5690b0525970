package train

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
)

// A list that cannot be read is not taken for that of an lntorch which had none.
func TestACheckpointsListOfAnotherTypeIsRefused(t *testing.T) {
	err := new(trainer).resumeList(map[string]any{augmentationList: int64(5)}, false)
	require.ErrorContains(t, err, "entry augmentation/list: found no text")
}

// What is wrong with a list is told with the entry that it stands in.
func TestErrorsOfACheckpointsListNameItsEntry(t *testing.T) {
	for text, want := range map[string]string{
		"{": "unexpected end of JSON input",
		`{"augmentation":"mine","transforms":[{"transform":"Nothing"}]}`: `unknown transform "Nothing"`,
		`{"augmentation":"none","patch_size":[8,8,8]}`:                   "the list none has become another one",
	} {
		tr := new(trainer)
		tr.setting = augment.Setting{PatchSize: []int{8, 8, 8}, Channels: 1}
		err := tr.resumeList(map[string]any{augmentationList: text}, false)
		require.ErrorContains(t, err, "entry augmentation/list: ")
		require.ErrorContains(t, err, want)
	}
}

package pipeline

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/settings"
)

// Pictures of a dataset with an ignore label show the annotated slice with most truth, not the most ignored.
func TestPicturesOfAdaptKnowTheIgnoreLabel(t *testing.T) {
	t.Chdir(t.TempDir())
	shape := [3]int{6, 20, 20}
	truth := nodesOf(true, true)
	for i := 4 * 400; i < len(truth); i++ {
		truth[i] = 2
	}
	labelFile(t, "held_out/labels/x.nii.gz", shape, truth, nil)
	labelFile(t, "held_out/images/x_0000.nii.gz", shape, make([]uint8, len(truth)), nil)
	labelFile(t, "after/x.nii.gz", shape, nodesOf(true, false), nil)
	require.NoError(t, os.WriteFile("dataset.json", []byte(`{"channel_names": {"0": "CT"}, "numTraining": 1,
		"labels": {"background": 0, "node": 1, "ignore": 2}, "file_ending": ".nii.gz"}`), 0o600))
	c := EvaluateConfig{Reference: "held_out/labels", Prediction: "after", Dataset: "dataset.json"}
	settings.Defaults(&c)
	e, err := Evaluate(t.Context(), c, Output{})
	require.NoError(t, err)
	a := &adaptation{work: ".", after: e.Scores}
	a.dataset, err = plans.LoadDataset("dataset.json")
	require.NoError(t, err)
	a.expected.Reader, err = images.ForName("SimpleITKIO")
	require.NoError(t, err)

	drawn, err := a.pictures(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, len(drawn))
	require.Equal(t, "slice with most truth, and the largest missed node", drawn[0].What)
	require.Contains(t, []int{1, 2, 3}, drawn[0].Slice)
	require.Len(t, drawn[0].Nodes, 2)
}

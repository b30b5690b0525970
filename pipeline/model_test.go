package pipeline

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
)

// A trainer's own network asks for another patch than the plans' does, and nnU-Net does not measure its memory.
func TestPlannerLearnsOfTheTrainersNetwork(t *testing.T) {
	p, err := plans.Load(repo(t, "testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json"))
	require.NoError(t, err)
	c, err := p.Configuration("3d_phantom")
	require.NoError(t, err)
	n, err := plannedNetwork("nnUNetTrainer", c)
	require.NoError(t, err)
	require.Equal(t, []int{4, 8, 8}, n.Divisor)
	require.Equal(t, &planner.UNet{Strides: [][]int{{1, 1, 1}, {1, 2, 2}, {2, 2, 2}, {2, 2, 2}}, Features: []int{8, 16, 32, 64},
		Blocks: []int{2, 2, 2, 2}, DecoderConvs: []int{2, 2, 2}}, n.UNet)
	n, err = plannedNetwork("nnUNetTrainer_SwinUNETR", c)
	require.NoError(t, err)
	require.Equal(t, planner.Network{Divisor: []int{32, 32, 32}}, n)
}

package baselines_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	_ "github.com/lntorch/lntorch/baselines"
	"github.com/lntorch/lntorch/finetune"
)

// LN-Seg-FM's nnUNetTrainer.py: nnU-Net's trainer with 200 epochs and nnU-Net's learning rate.
func TestFullHasTheReleasedSettings(t *testing.T) {
	e, err := finetune.Lookup("full")
	require.NoError(t, err)
	require.Equal(t, "nnUNetTrainer", e.Trainer)
	require.Equal(t, 1e-2, e.LR)
	require.Equal(t, 200, e.Epochs)
	require.Empty(t, e.Options)
	_, err = e.Make(finetune.Values{"dgst-k": "2"})
	require.ErrorContains(t, err, "method full has no option --dgst-k")
}

func TestFullTrainsEveryParameterOfEveryNetwork(t *testing.T) {
	e, err := finetune.Lookup("full")
	require.NoError(t, err)
	m, err := e.Make(nil)
	require.NoError(t, err)
	for _, parameters := range networks(t) {
		for _, p := range parameters {
			require.True(t, m.Trains(p.name, p.shape))
		}
	}
	_, updates := m.(finetune.Updater)
	require.False(t, updates, "it takes ordinary optimizer steps")
	_, remembers := m.(finetune.Stateful)
	require.False(t, remembers)
}

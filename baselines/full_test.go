package baselines_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	_ "github.com/lntorch/lntorch/baselines"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/golden"
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
	files, err := filepath.Glob(filepath.Join(golden.Root(t), "testdata/state-dicts/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		var doc struct {
			Parameters [][]any `json:"named_parameters"` // index, name, shape, elements
		}
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &doc))
		require.NotEmpty(t, doc.Parameters)
		for _, p := range doc.Parameters {
			var shape []int64
			for _, d := range p[2].([]any) {
				shape = append(shape, int64(d.(float64)))
			}
			require.True(t, m.Trains(p[1].(string), shape))
		}
	}
	_, updates := m.(finetune.Updater)
	require.False(t, updates, "its step is the ordinary one")
	_, remembers := m.(finetune.Stateful)
	require.False(t, remembers)
}

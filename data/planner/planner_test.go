package planner_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/golden"
)

// made is one planning run of nnU-Net, see scripts/golden/planner.py.
type made struct {
	DatasetName          string `json:"dataset_name"`
	Dataset, Fingerprint json.RawMessage
	Existing, Plans      *string
	Planner              string
	Error                *string
	Options              struct {
		Memory       float64   `json:"gpu_memory_target_in_gb"`
		Spacing      []float64 `json:"overwrite_target_spacing"`
		Name         string    `json:"plans_name"`
		Preprocessor string    `json:"preprocessor_name"`
	}
}

// plan repeats the run.
func (m *made) plan(t *testing.T) (*planner.Result, error) {
	p, err := planner.ForName(m.Planner)
	require.NoError(t, err)
	d, err := plans.DecodeJSON(m.Dataset)
	require.NoError(t, err)
	dataset, err := plans.DatasetFromObject(d.(*plans.Object), "dataset.json")
	require.NoError(t, err)
	f, err := plans.DecodeJSON(m.Fingerprint)
	require.NoError(t, err)
	fp, err := fingerprint.FromJSON(f)
	require.NoError(t, err)
	return p.Plan(planner.Input{DatasetName: m.DatasetName, Dataset: dataset, Fingerprint: fp, Reader: "SimpleITKIO"}, planner.Options{
		MemoryGB: m.Options.Memory, TargetSpacing: m.Options.Spacing, PlansName: m.Options.Name, PreprocessorName: m.Options.Preprocessor})
}

func check(t *testing.T, list []made) {
	planned, kept := 0, 0
	for i := range list {
		m := &list[i]
		what := fmt.Sprintf("case %d: %s, dataset %s, fingerprint %s, options %+v", i, m.Planner, m.Dataset, m.Fingerprint, m.Options)
		r, err := m.plan(t)
		if m.Error != nil {
			require.Error(t, err, "%s: nnU-Net failed with %s", what, *m.Error)
			continue
		}
		require.NoError(t, err, what)
		folder := t.TempDir()
		if m.Existing != nil {
			kept++
			require.NoError(t, os.WriteFile(filepath.Join(folder, r.Name+".json"), []byte(*m.Existing), 0o666))
		}
		path, err := r.Save(folder)
		require.NoError(t, err)
		got, err := plans.ReadJSON(path)
		require.NoError(t, err)
		want, err := plans.DecodeJSON([]byte(*m.Plans))
		require.NoError(t, err)
		require.Equal(t, text(t, want), text(t, got), what)
		planned++
	}
	t.Logf("%d plans are nnU-Net's, %d of them beside configurations that were there", planned, kept)
	require.Greater(t, planned, len(list)*3/4)
	require.Positive(t, kept)
}

// text returns v as in files, in key order, with ints and floats distinguished.
func text(t *testing.T, v any) string {
	b, err := plans.EncodeJSON(v, 4, false)
	require.NoError(t, err)
	return string(b)
}

func TestPlansEqualNnUNets(t *testing.T) {
	var list []made
	golden.LoadJSON(t, "planner.json", &list)
	require.Greater(t, len(list), 30)
	check(t, list)
}

func TestLivePlansOfRandomDatasetsEqualNnUNets(t *testing.T) {
	seed := rand.IntN(1 << 30)
	t.Log("seed", seed)
	path := filepath.Join(t.TempDir(), "planner.json")
	golden.Run(t, "planner.py", path, "--seed", fmt.Sprint(seed), "--count", "60")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var list []made
	require.NoError(t, json.Unmarshal(data, &list))
	check(t, list)
}

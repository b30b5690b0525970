package pickle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// propertyFiles are the .pkl files written by nnU-Net.
func propertyFiles(t testing.TB) []string {
	var out []string
	for _, pattern := range []string{"phantom-*/preprocessed/*/*/*.pkl",
		"phantom-mini/predictions/*/*.pkl"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "testdata", pattern))
		require.NoError(t, err)
		out = append(out, files...)
	}
	require.NotEmpty(t, out)
	return out
}

func TestReadFileReadsCaseProperties(t *testing.T) {
	for _, path := range propertyFiles(t) {
		v, err := ReadFile(path)
		require.NoError(t, err)
		d := v.(*Dict)
		require.Equal(t, "sitk_stuff", d.Keys()[0])
		spacing, ok := d.Get("spacing")
		require.True(t, ok)
		require.Len(t, spacing.(*List).Items, 3)
		for _, s := range spacing.(*List).Items {
			mm, ok := AsFloat(s)
			require.True(t, ok)
			require.InDelta(t, 2, mm, 1.5)
		}
		data, err := Marshal(v, nil)
		require.NoError(t, err)
		again, err := Unmarshal(data, Options{})
		require.NoError(t, err)
		require.Equal(t, v, again)
	}
}

// Values printed by Python's own unpickler for this file.
func TestClassLocationsAreArrays(t *testing.T) {
	path := "../../testdata/phantom-mini/preprocessed/Dataset101_PhantomSource/nnUNetPlans_3d_fullres/LN_000.pkl"
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	v, err := ReadFile(path)
	require.NoError(t, err)
	locations, _ := v.(*Dict).Get("class_locations")
	a, ok := locations.(*Dict).Get(1) // the key is numpy.int64(1)
	require.True(t, ok)
	array := a.(*NumpyArray)
	rows, err := array.Int64s()
	require.NoError(t, err)
	require.Len(t, array.Shape, 2)
	require.EqualValues(t, 4, array.Shape[1])
	require.Len(t, rows, array.Numel())
	for i := 0; i < len(rows); i += 4 {
		require.Zero(t, rows[i])
		require.Positive(t, rows[i+2])
	}
}

package preprocess

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/lntorch/lntorch/volume"
	"github.com/stretchr/testify/require"
)

func compareRules(t *testing.T, folder string) {
	var g struct {
		Separate []struct {
			Current, New [3]float64
			Force        *bool
			Axis         int
		}
		Shapes []struct {
			Shape, Result [3]int
			Current, New  [3]float64
		}
		Nearest []struct {
			N, M  int
			Index []int
		}
	}
	b, err := os.ReadFile(filepath.Join(folder, "rules.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &g))
	require.Greater(t, len(g.Separate), 200)
	for _, c := range g.Separate {
		require.Equal(t, c.Axis, SeparateAxis(c.Force, c.Current, c.New), "%+v", c)
	}
	for _, c := range g.Shapes {
		require.Equal(t, c.Result, NewShape(c.Shape, c.Current, c.New), "%+v", c)
	}
	for _, c := range g.Nearest {
		require.Equal(t, c.Index, nearest(c.N, c.M), "%d to %d", c.N, c.M)
	}
}

func TestRulesAreNnUNets(t *testing.T) { compareRules(t, goldens) }

// Transposing back restores the volume, and resampling does not depend on the number of threads.
func TestTransposeAndThreads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	v := volume.New[float32]([4]int{2, 37, 41, 35})
	for i := range v.Data {
		v.Data[i] = r.Float32()
	}
	for _, p := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		turned := v.Transpose(p)
		require.Equal(t, [4]int{2, v.Shape[1+p[0]], v.Shape[1+p[1]], v.Shape[1+p[2]]}, turned.Shape)
		z, y, x := 3, 5, 7
		at := [3]int{}
		at[p[0]], at[p[1]], at[p[2]] = z, y, x
		n := turned.Spatial()
		require.Equal(t, v.Data[((v.Shape[1]+at[0])*v.Shape[2]+at[1])*v.Shape[3]+at[2]], turned.Data[((n[0]+z)*n[1]+y)*n[2]+x])
		require.Equal(t, v, turned.Transpose(inverse(p)))
	}
	for _, to := range [][3]int{{50, 31, 44}, {20, 60, 35}, {37, 41, 36}, {1, 1, 1}, {37, 41, 35}} {
		want, err := Resample(v, to, [3]float64{1, 1, 1}, [3]float64{1, 1, 1}, Options{Order: 3}, 1)
		require.NoError(t, err)
		for _, threads := range []int{0, 2, 7, 100} {
			got, err := Resample(v, to, [3]float64{1, 1, 1}, [3]float64{1, 1, 1}, Options{Order: 3}, threads)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	}
	_, err := Resample(v, [3]int{1, 2, 3}, [3]float64{1, 1, 1}, [3]float64{1, 1, 1}, Options{Order: 5}, 1)
	require.ErrorContains(t, err, "order 5")
}

// A constant volume stays constant at every size.
func TestConstantsStay(t *testing.T) {
	for n := 1; n < 40; n += 3 {
		v := volume.New[float32]([4]int{1, n, 5, 6})
		for i := range v.Data {
			v.Data[i] = -1.7
		}
		out, err := Resample(v, [3]int{7, 9, n}, [3]float64{1, 1, 1}, [3]float64{1, 1, 1}, Options{Order: 3}, 2)
		require.NoError(t, err)
		for _, x := range out.Data {
			require.Equal(t, float32(-1.7), x)
		}
	}
}

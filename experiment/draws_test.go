package experiment

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

// Draws are NumPy's to the last case: scripts/golden/experiment_draws.py.
func TestDrawsAreNumPys(t *testing.T) {
	var file struct {
		Cases []struct {
			Pool   map[string]string
			Rule   string
			Seed   int64
			Draws  int
			Orders [][]string
			Test   map[int][]string
		}
	}
	golden.LoadJSON(t, "experiment_draws.json", &file)
	require.Len(t, file.Cases, 40)
	for _, c := range file.Cases {
		name := fmt.Sprintf("%d cases, %s, seed %d, %d draws", len(c.Pool), c.Rule, c.Seed, c.Draws)
		pool := slices.Collect(maps.Keys(c.Pool)) // in no order
		require.Equal(t, c.Orders, drawOrders(c.Rule, c.Seed, c.Draws, pool, c.Pool), name)
		for n, want := range c.Test {
			got, err := drawTest(n, c.Seed, pool, c.Pool)
			require.NoError(t, err, name)
			require.Equal(t, want, got, name)
		}
	}
}

func ids(n int) (list []string, patient map[string]string) {
	patient = map[string]string{}
	for i := range n {
		list = append(list, fmt.Sprintf("c%03d", i))
		patient[list[i]] = list[i]
	}
	return list, patient
}

// One shot of each of m draws is another patient's, and m draws together use every case about equally often.
func TestBalancedDrawsShareTheCases(t *testing.T) {
	for _, p := range []int{1, 2, 5, 8, 30} {
		for _, draws := range []int{1, 3, 5, 12} {
			pool, patient := ids(p)
			orders := drawOrders(Balanced, 3, draws, pool, patient)
			require.Len(t, orders, draws)
			m := min(draws, p)
			first := map[string]bool{}
			for _, o := range orders[:m] {
				require.ElementsMatch(t, pool, o)
				first[o[0]] = true
			}
			require.Len(t, first, m, "%d patients, %d draws", p, draws)
			used := map[string]int{}
			for _, o := range orders[:m] {
				for _, c := range o[:p/m] {
					used[c]++
				}
			}
			require.Equal(t, p/m*m, len(used), "the first %d shots of %d draws are all different", p/m, m)
		}
	}
}

// More shots are the fewer and others; the whole pool is of the first draw alone; a patient's second case
// comes behind everybody's first.
func TestShotsAreNested(t *testing.T) {
	pool, patient := ids(7)
	patient["c001"] = "c000"
	s := &DatasetSplit{Pool: pool, Patients: patient}
	f := &File{Draw: Balanced, Draws: 4, Shots: []string{"1", "3", "6", AllShots}}
	require.NoError(t, s.draw(f))
	require.Len(t, s.Draws, 4)
	for d, draw := range s.Draws {
		require.Equal(t, d, draw.Draw)
		require.Equal(t, draw.Order[:1], draw.Shots["1"])
		require.Equal(t, draw.Order[:6], draw.Shots["6"])
		require.Equal(t, "c001", draw.Order[6])
		if d == 0 {
			require.Equal(t, draw.Order, draw.Shots[AllShots])
		} else {
			require.NotContains(t, draw.Shots, AllShots)
		}
	}
	f.Shots = []string{"8"}
	require.EqualError(t, s.draw(f), "8 shots are more than the 7 cases of the pool")
}

// Test cases are drawn with all cases of their patients, and a pool is left.
func TestDrawnTestCasesAreWholePatients(t *testing.T) {
	pool, patient := ids(9)
	for i, c := range pool {
		patient[c] = fmt.Sprint(i / 3)
	}
	for n := 1; n <= 6; n++ {
		test, err := drawTest(n, 1, pool, patient)
		require.NoError(t, err)
		require.Len(t, test, (n+2)/3*3)
	}
	_, err := drawTest(7, 1, pool, patient)
	require.EqualError(t, err, "found 7 test cases to draw of 9 cases of 3 patients: fewer, so that a pool is left")
}

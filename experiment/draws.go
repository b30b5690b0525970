package experiment

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/lntorch/lntorch/internal/mt19937"
)

// Rules of draws.
const (
	Balanced = "balanced"
	Random   = "random"
)

// patientOrders gives the orders of p patients of the draws: indices into their sorted ids.
//
// Random: draw d is NumPy's RandomState(seed + d).permutation(p). Balanced: with m = min(draws, p),
// draw d is RandomState(seed + d div m).permutation(p) rotated left by (d mod m)·(p div m): the first
// patients of m draws differ, and every patient comes early about equally often.
func patientOrders(rule string, seed int64, draws, p int) [][]int {
	orders := make([][]int, draws)
	m := min(draws, p)
	for d := range orders {
		if rule == Random {
			orders[d] = mt19937.New(uint32(seed + int64(d))).Permutation(p)
			continue
		}
		order := mt19937.New(uint32(seed + int64(d/m))).Permutation(p)
		by := d % m * (p / m)
		orders[d] = slices.Concat(order[by:], order[:by])
	}
	return orders
}

// drawOrders orders the pool for each draw. A round takes a case of every patient, in the order of
// the draw: the first in the first round, the second in the second.
func drawOrders(rule string, seed int64, draws int, pool []string, patient map[string]string) [][]string {
	cases := map[string][]string{}
	for _, c := range slices.Sorted(slices.Values(pool)) {
		cases[patient[c]] = append(cases[patient[c]], c)
	}
	patients := slices.Sorted(maps.Keys(cases))
	var orders [][]string
	for _, order := range patientOrders(rule, seed, draws, len(patients)) {
		var out []string
		for round := 0; len(out) < len(pool); round++ {
			for _, i := range order {
				if c := cases[patients[i]]; round < len(c) {
					out = append(out, c[round])
				}
			}
		}
		orders = append(orders, out)
	}
	return orders
}

// draw fills in the draws of a dataset, nested: k shots are the first k cases of an order.
func (s *DatasetSplit) draw(f *File) error {
	s.Draws = []Draw{}
	for d, order := range drawOrders(f.Draw, f.Seed, f.Draws, s.Pool, s.Patients) {
		draw := Draw{Draw: d, Order: order, Shots: map[string][]string{}}
		for _, text := range f.shotsOf(d) {
			k, err := shotCount(text, len(order))
			if err != nil {
				return err
			}
			draw.Shots[text] = order[:k]
		}
		s.Draws = append(s.Draws, draw)
	}
	return nil
}

// shotsOf are the shots of a draw: the whole pool is of the first alone.
func (f *File) shotsOf(draw int) []string {
	if n := len(f.Shots); draw > 0 && n > 0 && f.Shots[n-1] == AllShots {
		return f.Shots[:n-1]
	}
	return f.Shots
}

// shotCount is how many cases a text of shots stands for.
func shotCount(text string, pool int) (int, error) {
	if text == AllShots {
		return pool, nil
	}
	k, err := strconv.Atoi(text)
	if err == nil && k > pool {
		return 0, fmt.Errorf("%d shots are more than the %d cases of the pool", k, pool)
	}
	return k, err
}

// drawTest draws a number of test cases, patients whole: patients in the order of
// RandomState(seed).permutation, until there are enough cases.
func drawTest(n int, seed int64, all []string, patient map[string]string) ([]string, error) {
	cases := map[string][]string{}
	for _, c := range slices.Sorted(slices.Values(all)) {
		cases[patient[c]] = append(cases[patient[c]], c)
	}
	patients := slices.Sorted(maps.Keys(cases))
	var test []string
	for i, p := range mt19937.New(uint32(seed)).Permutation(len(patients)) {
		if len(test) >= n {
			return slices.Sorted(slices.Values(test)), nil
		}
		if i == len(patients)-1 {
			break // a pool must be left
		}
		test = append(test, cases[patients[p]]...)
	}
	if len(test) >= n {
		return slices.Sorted(slices.Values(test)), nil
	}
	return nil, fmt.Errorf("found %d test cases to draw of %d cases of %d patients: fewer, so that "+
		"a pool is left", n, len(all), len(patients))
}

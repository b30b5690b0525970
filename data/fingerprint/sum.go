package fingerprint

import "github.com/lntorch/lntorch/eval/pynum"

// buffered is the number of values that numpy sums pairwise at a time; such blocks are then added
// up.
const buffered = pynum.Buffer

// sum is np.sum of the concatenation of all draws, in F and bit for bit, after change is applied.
// The concatenation is never materialised: each case sums the blocks that lie within it and keeps
// the values of those that it shares with its neighbours.
func sum[F float](samples []*sample, total int, run func(int, func(int)), change func([]F)) F {
	sums := make([]F, (total+buffered-1)/buffered)
	heads, tails := make([][]F, len(samples)), make([][]F, len(samples)) // values of shared blocks
	first := make([]int, len(samples)+1)
	for i, s := range samples {
		first[i+1] = first[i] + s.n
	}
	run(len(samples), func(i int) {
		r := newReader(samples[i], change)
		at, end := first[i], first[i+1]
		if rest := at % buffered; rest != 0 {
			n := min(buffered-rest, end-at)
			heads[i] = append(heads[i], r.next(n)...)
			at += n
		}
		for ; end-at >= buffered; at += buffered {
			sums[at/buffered] = pynum.Sum(r.next(buffered))
		}
		if at < end {
			tails[i] = append(tails[i], r.next(end-at)...)
		}
	})
	shared := map[int][]F{}
	for i := range samples {
		for _, piece := range []struct {
			at     int
			values []F
		}{{first[i], heads[i]}, {first[i+1] - len(tails[i]), tails[i]}} {
			if len(piece.values) > 0 {
				shared[piece.at/buffered] = append(shared[piece.at/buffered], piece.values...)
			}
		}
	}
	var s F
	for i := range sums {
		if v, ok := shared[i]; ok {
			sums[i] = pynum.Sum(v)
		}
		s += sums[i]
	}
	return s
}

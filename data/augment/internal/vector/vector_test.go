package vector

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// numbers are finite: ordinary, tiny, denormal, large, zeros of both signs, equal ones.
func numbers(rng *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		switch x := rng.Float32()*4 - 2; rng.IntN(12) {
		case 0:
			v[i] = 0
		case 1:
			v[i] = float32(math.Copysign(0, -1))
		case 2:
			v[i] = x * 1e-41 // denormal
		case 3:
			v[i] = x * 1e-38 // sums and products are
		case 4:
			v[i] = x * 1e15
		case 5:
			v[i] = -1.5
		default:
			v[i] = x
		}
	}
	return v
}

// rows are parts of longer ones that begin anywhere. check fails if anything around them changes.
type rows struct {
	rng   *rand.Rand
	whole [][]float32
	was   [][]float32
	parts [][2]int
}

func (r *rows) row(n int) []float32 {
	from := r.rng.IntN(9)
	whole := numbers(r.rng, from+n+9)
	r.whole, r.was = append(r.whole, whole), append(r.was, slices.Clone(whole))
	r.parts = append(r.parts, [2]int{from, from + n})
	return whole[from : from+n : from+n]
}

func (r *rows) check(t *testing.T, what string) {
	for i, p := range r.parts {
		sameBits(t, r.was[i][:p[0]], r.whole[i][:p[0]], what+": before a row")
		sameBits(t, r.was[i][p[1]:], r.whole[i][p[1]:], what+": behind a row")
	}
}

func sameBits(t *testing.T, want, got []float32, what string) {
	t.Helper()
	require.Equal(t, len(want), len(got), what)
	for i := range want {
		if math.Float32bits(want[i]) != math.Float32bits(got[i]) {
			t.Fatalf("%s: %d of %d: found %v (%#x), expected %v (%#x)", what, i, len(want), got[i],
				math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// each runs a test for rows of 0 to 70 and some more voxels, with vectors and without.
func each(t *testing.T, test func(t *testing.T, n int, r *rows, what string)) {
	const seed = 7
	run := func(form string) {
		for n := range 80 {
			if n > 70 {
				n = n*n/7 + n
			}
			for round := range 6 {
				r := &rows{rng: rand.New(rand.NewPCG(seed, uint64(n*10+round)))}
				what := fmt.Sprintf("%s, %d voxels, round %d", form, n, round)
				test(t, n, r, what)
				r.check(t, what)
			}
		}
	}
	run("vectors")
	Plain(func() { run("plain") })
}

func TestRowsAreComputedAsTheirFormulaSays(t *testing.T) {
	tests := map[string]func(n int, r *rows) (got, want []float32){
		"Axpy": func(n int, r *rows) (got, want []float32) {
			y, x, a := r.row(n), r.row(n+r.rng.IntN(3)), numbers(r.rng, 1)[0]
			for i := range y {
				want = append(want, y[i]+float32(a*x[i]))
			}
			Axpy(y, x, a)
			return y, want
		},
		"Scale": func(n int, r *rows) (got, want []float32) {
			v, a := r.row(n), numbers(r.rng, 1)[0]
			for i := range v {
				want = append(want, v[i]*a)
			}
			Scale(v, a)
			return v, want
		},
		"Affine": func(n int, r *rows) (got, want []float32) {
			v, p := r.row(n), numbers(r.rng, 5)
			low, high := min(p[3], p[4]), max(p[3], p[4])
			if n%3 == 0 {
				low, high = float32(math.Inf(-1)), float32(math.Inf(1))
			}
			for i := range v {
				x := float32((v[i]-p[0])*p[1]) + p[2]
				switch { // of equal zeros the number's own sign stays
				case x < low:
					x = low
				case x > high:
					x = high
				}
				want = append(want, x)
			}
			Affine(v, p[0], p[1], p[2], low, high)
			return v, want
		},
		"Between": func(n int, r *rows) (got, want []float32) {
			dst, a, b, part := r.row(n), r.row(n+2), r.row(n+1), r.rng.Float32()
			for i := range dst {
				want = append(want, a[i]+float32((b[i]-a[i])*part))
			}
			Between(dst, a, b, part)
			return dst, want
		},
		"Resample": func(n int, r *rows) (got, want []float32) {
			dst, src, part := r.row(n), r.row(1+r.rng.IntN(40)), r.row(n)
			left, right := make([]int32, n), make([]int32, n)
			for i := range dst {
				left[i], right[i] = int32(r.rng.IntN(len(src))), int32(r.rng.IntN(len(src)))
				a, b := src[left[i]], src[right[i]]
				want = append(want, a+float32((b-a)*part[i]))
			}
			Resample(dst, src, left, right, part)
			return dst, want
		},
		"Filter": func(n int, r *rows) (got, want []float32) {
			taps := r.row(1 + r.rng.IntN(6))
			extra := r.rng.IntN(30)
			dst, src := r.row(n), r.row(n+extra)
			offsets := make([]int, 2*len(taps)-1)
			for i := range offsets {
				offsets[i] = r.rng.IntN(extra + 1)
			}
			for i := range dst {
				sum := taps[0] * src[offsets[0]+i]
				for j := 1; j < len(taps); j++ {
					sum += float32(taps[j] * (src[offsets[2*j-1]+i] + src[offsets[2*j]+i]))
				}
				want = append(want, sum)
			}
			Filter(dst, src, offsets, taps)
			return dst, want
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, n int, r *rows, what string) {
				got, want := test(n, r)
				sameBits(t, want, got, what)
			})
		})
	}
}

func TestReplaceSetsOneLabel(t *testing.T) {
	each(t, func(t *testing.T, n int, r *rows, what string) {
		from := r.rng.IntN(17)
		whole := make([]int16, from+n+9)
		for i := range whole {
			whole[i] = []int16{-1, 0, 1, 255, 256, -32768}[r.rng.IntN(6)]
		}
		old, to := whole[r.rng.IntN(len(whole))], int16(r.rng.IntN(600)-300)
		want := slices.Clone(whole)
		for i := from; i < from+n; i++ {
			if want[i] == old {
				want[i] = to
			}
		}
		Replace(whole[from:from+n], old, to)
		require.Equal(t, want, whole, what)
	})
}

func TestExchangeReversedTurnsBothRows(t *testing.T) {
	each(t, func(t *testing.T, n int, r *rows, what string) {
		a, b := r.row(n), r.row(n)
		wantA, wantB := slices.Clone(b), slices.Clone(a)
		slices.Reverse(wantA)
		slices.Reverse(wantB)
		ExchangeReversed(a, b)
		sameBits(t, wantA, a, what)
		sameBits(t, wantB, b, what)

		// halves of one row with what lies around it
		labels := make([]int16, 2*n+12)
		for i := range labels {
			labels[i] = int16(i * 77)
		}
		from := r.rng.IntN(7)
		want := slices.Clone(labels)
		slices.Reverse(want[from:][:n])
		slices.Reverse(want[from+n+5:][:n])
		for i := range n {
			want[from+i], want[from+n+5+i] = want[from+n+5+i], want[from+i]
		}
		ExchangeReversed(labels[from:][:n], labels[from+n+5:][:n])
		require.Equal(t, want, labels, what)
	})
}

// Sums are of differences to the first voxel, in float64: one of every eighth voxel, added in pairs.
func TestStatisticsAddInTheirOrder(t *testing.T) {
	each(t, func(t *testing.T, n int, r *rows, what string) {
		if n == 0 {
			return
		}
		v := r.row(n)
		var sum, square [8]float64
		low, high := v[0], v[0]
		for i, x := range v {
			e := float64(x - v[0])
			sum[i%8] += e
			square[i%8] += float64(e * e)
			low, high = min(low, x), max(high, x)
		}
		pairs := func(p [8]float64) float64 {
			for width := 4; width > 0; width /= 2 {
				for i := range width {
					p[i] = p[2*i] + p[2*i+1]
				}
			}
			return p[0] / float64(n)
		}
		mean := pairs(sum)
		deviation := math.Sqrt(max(pairs(square)-float64(mean*mean), 0))

		var s Statistics
		for rest := v; len(rest) > 0; {
			part := min(len(rest), 8*(1+r.rng.IntN(5)))
			s.Add(rest[:part])
			rest = rest[part:]
		}
		gotLow, gotHigh := s.Range()
		require.Equal(t, low, gotLow, what) // -0 and 0 are equal
		require.Equal(t, high, gotHigh, what)
		gotMean, gotDeviation := s.Moments()
		require.Equal(t, math.Float64bits(float64(v[0])+mean), math.Float64bits(gotMean), what)
		require.Equal(t, math.Float64bits(deviation), math.Float64bits(gotDeviation), what)
	})
}

// Both forms of a row give the zero of the same sign as smallest and largest voxel.
func TestStatisticsOfZerosOfBothSigns(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for n := 1; n < 60; n++ {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(math.Copysign(0, rng.Float64()-0.5))
		}
		var vectors, plain Statistics
		vectors.Add(v)
		Plain(func() { plain.Add(v) })
		low, high := vectors.Range()
		plainLow, plainHigh := plain.Range()
		sameBits(t, []float32{plainLow, plainHigh}, []float32{low, high}, fmt.Sprint(v))
	}
}

func TestRaiseIsWithinTheErrorOfItsTable(t *testing.T) {
	const low, width = -0.75, 2.5
	var p Powers
	for _, exponent := range []float32{0.1, 0.4, 0.7, 1, 1.5, 2.5, 6} {
		p.Set(exponent)
		each(t, func(t *testing.T, n int, r *rows, what string) {
			v := r.row(n)
			for i := range v {
				switch u := r.rng.Float32(); r.rng.IntN(40) {
				case 0:
					v[i] = low
				case 1:
					v[i] = low + width
				case 2:
					v[i] = low + u*1e-7
				default:
					v[i] = low + u*width
				}
			}
			was := slices.Clone(v)
			p.Raise(v, low, width, width)
			for i := range v {
				u := float64(was[i]-low) / width
				delta := 2.1e-6 * width // 1e-7 is that of float32
				if exponent <= 1.5 {
					delta = 6e-7 * width
				}
				require.InDelta(t, math.Pow(u, float64(exponent))*width+low, v[i], delta,
					"%s: %v^%v", what, u, exponent)
			}
		})
	}
}

// Numbers below the table's smallest one, 2^-24, are in every place of a block.
func TestRaiseGivesTheSameBitsInBothForms(t *testing.T) {
	var p Powers
	for _, exponent := range []float32{0.4, 0.85, 1, 2.5, 3} {
		p.Set(exponent)
		each(t, func(t *testing.T, n int, r *rows, what string) {
			v := r.row(n)
			for i := range v {
				switch u := r.rng.Float32(); r.rng.IntN(20) {
				case 0:
					v[i] = u * 1e-8
				case 1:
					v[i] = u * 1e-41
				case 2:
					v[i] = 0
				case 3:
					v[i] = float32(math.Copysign(0, -1))
				case 4:
					v[i] = 3
				default:
					v[i] = u * 3
				}
			}
			plain := slices.Clone(v)
			low := []float32{0, -1e-9}[n%2]
			p.Raise(v, low, 3-low, 2.5)
			for i, x := range plain { // one by one: never in vectors
				p.Raise(plain[i:i+1], low, 3-low, 2.5)
				if x == 0 && low == 0 {
					require.Zero(t, v[i], what)
				}
			}
			sameBits(t, plain, v, what)
		})
	}
}

func TestRowsThatAreTooShortPanic(t *testing.T) {
	v := make([]float32, 64)
	index := make([]int32, 64)
	for name, f := range map[string]func(){
		"Axpy":         func() { Axpy(v, v[:63:63], 1) },
		"Between":      func() { Between(v, v, v[:63:63], 1) },
		"Resample":     func() { Resample(v, v, index[:63:63], index, v) },
		"Filter":       func() { Filter(v[:8], v[:63:63], []int{0, 3, 56}, v[:2]) },
		"Filter below": func() { Filter(v[:8], v, []int{0, 3, -1}, v[:2]) },
		"Filter taps":  func() { Filter(v[:8], v, []int{0, 3, 3}[:2:2], v[:2]) },
	} {
		require.Panics(t, f, name)
		Plain(func() { require.Panics(t, f, name) })
	}
}

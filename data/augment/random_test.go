package augment

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

func texts(t *testing.T, d Drawn) map[string]string {
	t.Helper()
	out, seen := map[string]string{}, map[string]int{}
	for _, s := range d {
		text, err := json.Marshal(s)
		require.NoError(t, err)
		out[fmt.Sprintf("%s/%d", s.Transform, seen[s.Transform])] = string(text)
		seen[s.Transform]++
	}
	return out
}

func TestAnotherTransformMovesNoOthersNumbers(t *testing.T) {
	list, err := New(Setting{PatchSize: []int{16, 16, 16}, Channels: 2, CascadeLabels: []int{1, 2}})
	require.NoError(t, err)
	more := list
	extra := RandomTransform{GaussianBlurTransform{BlurSigma: Range{Low: 0.5, High: 1}, PPerChannel: 0.5,
		where: input{channels: 2, dim: 3}}, 0.5}
	more.Transforms = slices.Insert(slices.Clone(list.Transforms), 3, Transform(extra))
	less := list
	less.Transforms = slices.Delete(slices.Clone(list.Transforms), 1, 2) // the noise
	for i := range 200 {
		s := Sample{Seed: 7, Stream: "train", Iteration: i}
		own := texts(t, list.Draw(s.Augmentation))
		with := texts(t, more.Draw(s.Augmentation))
		require.Len(t, with, len(own)+1)
		for name, text := range own {
			if name != "GaussianBlurTransform/0" {
				require.Equal(t, text, with[name], "iteration %d", i)
			}
		}
		for name, text := range texts(t, less.Draw(s.Augmentation)) {
			require.Equal(t, own[name], text, "iteration %d", i)
		}
	}
}

func TestStreamsAreApart(t *testing.T) {
	seen := map[uint64]string{}
	for _, seed := range []uint64{0, 1} {
		for _, stream := range []string{"train", "val", "train1"} {
			for iteration := range 5 {
				for index := range 5 {
					for _, purpose := range []string{"case", "place", "augmentation/MirrorTransform/0", "1case"} {
						s := Sample{seed, stream, iteration, index}
						v := s.Rand(purpose).Uint64()
						what := fmt.Sprint(s, purpose)
						require.Empty(t, seen[v], what)
						seen[v] = what
						require.Equal(t, v, s.Rand(purpose).Uint64())
					}
				}
			}
		}
	}
}

func TestAnyPartOfAFieldIsTheFields(t *testing.T) {
	whole := make([]float32, 5000)
	fillField(whole, 42, 0)
	for _, from := range []int{0, 1, 777, 4999} {
		part := make([]float32, len(whole)-from)
		fillField(part, 42, from)
		require.Equal(t, whole[from:], part)
	}
	// the numbers that random_stream 1 names; where one needs a logarithm or an exponential, another
	// processor's may differ in the last bit
	require.Equal(t, []float32{0.1287761, 1.1906573, -0.9254415, 0.12275795}, whole[:4])
	if runtime.GOARCH == "amd64" {
		field := make([]float32, 1<<16)
		fillField(field, 42, 0)
		h := fnv.New64a()
		require.NoError(t, binary.Write(h, binary.LittleEndian, field))
		require.Equal(t, uint64(0x20848e56d0caaf1e), h.Sum64())
	}
	require.Equal(t, uint64(0xe220a8397b1dcdaf), vector.Mix(vector.CounterStep), "SplitMix64 of 0, as published")
}

func TestFieldsAreWhiteAndNormal(t *testing.T) {
	seed := rand.Uint64()
	const n = 1 << 20
	v := make([]float32, n)
	other := make([]float32, n)
	fillField(v, seed, 0)
	fillField(other, seed+1, 0)
	sorted := make([]float64, n)
	for i := range v {
		sorted[i] = float64(v[i])
	}
	slices.Sort(sorted)
	largest := 0.0
	for i, x := range sorted {
		p := 0.5 * math.Erfc(-x/math.Sqrt2)
		largest = max(largest, math.Abs(p-float64(i)/n), math.Abs(p-float64(i+1)/n))
	}
	require.Less(t, largest*math.Sqrt(n), 2.9, "seed %d: Kolmogorov-Smirnov against the normal distribution", seed)
	beyond := 0
	for _, x := range sorted {
		if math.Abs(x) > fieldTail {
			beyond++
		}
	}
	expected := n * math.Erfc(fieldTail/math.Sqrt2)
	require.InDelta(t, expected, beyond, 6*math.Sqrt(expected), "seed %d: values in the tail", seed)
	for _, lag := range []int{1, 2, 64, 128 * 128} {
		sum := 0.0
		for i := range n - lag {
			sum += float64(v[i]) * float64(v[i+lag])
		}
		require.Less(t, math.Abs(sum)/math.Sqrt(n), 6.0, "seed %d: correlation at a distance of %d", seed, lag)
	}
	sum := 0.0
	for i := range v {
		sum += float64(v[i]) * float64(other[i])
	}
	require.Less(t, math.Abs(sum)/math.Sqrt(n), 6.0, "seed %d: correlation with the next seed's field", seed)
}

func TestDrawnParametersSurviveTheirJSON(t *testing.T) {
	list, err := New(Setting{PatchSize: []int{9, 11, 13}, Channels: 3, CascadeLabels: []int{1, 2}, Regions: [][]int{{1, 2}, {2}},
		UseMaskForNorm: []bool{true, false, false}, Scales: [][]float64{{1, 1, 1}, {0.5, 0.5, 0.5}}})
	require.NoError(t, err)
	for i := range 300 {
		drawn := list.Draw(Sample{Seed: 3, Iteration: i}.Augmentation)
		text, err := json.Marshal(map[string]any{"iteration": i, "transforms": drawn})
		require.NoError(t, err)
		again, err := DecodeSpec(text)
		require.NoError(t, err)
		second, err := json.Marshal(map[string]any{"iteration": i, "transforms": again})
		require.NoError(t, err)
		require.Equal(t, string(text), string(second))
	}
}

// TestSamplesAreIndependent: the numbers of one sample say nothing of each other, or of the next
// sample's, and coins fall as often as nnU-Net's.
func TestSamplesAreIndependent(t *testing.T) {
	const n = 20000
	seed := rand.Uint64()
	l, err := New(Setting{PatchSize: []int{7, 9, 11}, Channels: 2})
	require.NoError(t, err)
	columns := map[string][]float64{}
	for i := range n {
		sample := Sample{Seed: seed, Stream: "train", Iteration: i / 2, Index: i % 2}
		for k, s := range l.Draw(sample.Augmentation) {
			key := fmt.Sprintf("%d %s", k, s.Transform)
			if s.Gated {
				columns[key] = append(columns[key], map[bool]float64{true: 1}[s.Parameters != nil])
			}
			if sp, ok := s.Parameters.(*SpatialParameters); ok {
				columns[key+" angle"] = append(columns[key+" angle"], sp.Angles[0])
				columns[key+" scale"] = append(columns[key+" scale"], sp.Scales[0])
			}
			if m, ok := s.Parameters.(*MirrorParameters); ok {
				for a := range 3 {
					axis := fmt.Sprintf("%s %d", key, a)
					columns[axis] = append(columns[axis], map[bool]float64{true: 1}[slices.Contains(m.Axes, a)])
				}
			}
		}
	}
	for name, p := range map[string]float64{"1 GaussianNoiseTransform": 0.1, "2 GaussianBlurTransform": 0.2,
		"3 MultiplicativeBrightnessTransform": 0.15, "4 ContrastTransform": 0.15,
		"5 SimulateLowResolutionTransform": 0.25, "6 GammaTransform": 0.1, "7 GammaTransform": 0.3,
		"8 MirrorTransform 0": 0.5, "8 MirrorTransform 1": 0.5, "8 MirrorTransform 2": 0.5} {
		require.InDelta(t, p, mean(columns[name]), 6*math.Sqrt(p*(1-p)/n), "seed %d: %s", seed, name)
	}
	correlation := func(a, b []float64) float64 {
		ma, mb := mean(a), mean(b)
		var ab, aa, bb float64
		for i := range a {
			ab += (a[i] - ma) * (b[i] - mb)
			aa += (a[i] - ma) * (a[i] - ma)
			bb += (b[i] - mb) * (b[i] - mb)
		}
		return ab / math.Sqrt(aa*bb) * math.Sqrt(float64(len(a)))
	}
	for x, a := range columns {
		for y, b := range columns {
			if x < y {
				require.Less(t, math.Abs(correlation(a, b)), 6.0, "seed %d: %s and %s", seed, x, y)
			}
			require.Less(t, math.Abs(correlation(a[1:], b[:n-1])), 6.0, "seed %d: %s after %s", seed, x, y)
		}
	}
}

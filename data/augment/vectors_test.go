package augment

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment/internal/vector"
)

// Kernels of one tap and of more than four, scales up and down, powers with table and without.
func TestTransformsGiveTheSameBitsWithoutVectors(t *testing.T) {
	steps := map[string]string{
		"blur": `{"transform":"GaussianBlurTransform","apply_to_channel":[true,true],
			"sigmas":[[0.05,2.7,0.95],[1.6,0.1,2.3]]}`,
		"coarse": `{"transform":"SimulateLowResolutionTransform","apply_to_channel":[0,1],
			"scales":[[1.7,2,0.2],[0.1,0.1,0.1]]}`,
		"noise of each": `{"transform":"GaussianNoiseTransform","apply_to_channel":[true,true],
			"sigmas":[0.05,0.3],"noise_seed":"17"}`,
		"contrast": `{"transform":"ContrastTransform","apply_to_channel":[0,1],"multipliers":[1.3,0.7],
			"preserve_range":true}`,
		"gamma": `{"transform":"GammaTransform","apply_to_channel":[0,1],"retain_stats":[true,false],
			"invert_image":[true,true],"gamma":[0.8,1.4]}`,
		"gamma without table": `{"transform":"GammaTransform","apply_to_channel":[0],
			"retain_stats":[true],"invert_image":[false],"gamma":[3]}`,
	}
	channels := map[string]int{}
	for name, step := range benchSteps {
		steps[name], channels[name] = step, 1
	}
	for name, step := range steps {
		drawn, err := DecodeSpec([]byte(`{"transforms":[` + step + `]}`))
		require.NoError(t, err)
		before := random([4]int{max(2-channels[name], 1), 37, 45, 53}, rand.New(rand.NewPCG(1, 2)))
		for i := range before.Image.Data {
			before.Image.Data[i] -= 0.3
			if i%13 < 3 {
				before.Image.Data[i] = -0.3 // the smallest
			}
		}
		if name == "BinaryOperator" {
			for i, label := range before.Seg.Data {
				before.Image.Data[i] = float32(min(max(label, 0), 1))
			}
		}
		vectors, plain := clone(before), clone(before)
		require.NoError(t, drawn.Apply(&vectors), name)
		vector.Plain(func() { require.NoError(t, drawn.Apply(&plain), name) })
		require.Equal(t, plain.Image, vectors.Image, name)
		require.Equal(t, plain.Seg, vectors.Seg, name)
		require.Equal(t, plain.Targets, vectors.Targets, name)
		if name != "Mirror" && name != "Tail" && name != "SpatialCut" {
			require.NotEqual(t, before.Image, vectors.Image, name)
		}
	}
}

// large has more voxels than noise and gamma work on at a time, and not a multiple of them.
func large() (p Patch, n int) {
	p = random([4]int{2, 13, 29, 31}, rand.New(rand.NewPCG(3, 4)))
	return p, 13 * 29 * 31
}

func TestNoiseOfALargePatchIsTheField(t *testing.T) {
	for text, fields := range map[string][2]int{
		`{"transform":"GaussianNoiseTransform","apply_to_channel":[true,true],"sigmas":0.5,
			"noise_seed":"17"}`: {0, 0},
		`{"transform":"GaussianNoiseTransform","apply_to_channel":[1,0],"sigmas":[0.5,0.5],
			"noise_seed":"17"}`: {1, 0},
	} {
		p, n := large()
		field := make([]float32, 2*n)
		fillField(field, 17, 0)
		want := clone(p).Image.Data
		for i := range want {
			want[i] += float32(0.5 * field[fields[i/n]*n+i%n])
		}
		drawn, err := DecodeSpec([]byte(`{"transforms":[` + text + `]}`))
		require.NoError(t, err)
		fromFile := clone(p)
		require.NoError(t, drawn.Apply(&p))
		require.Equal(t, want, p.Image.Data)

		g := *drawn[0].Parameters.(*GaussianNoiseParameters)
		g.Noise, g.NoiseSeed = "noise.npy", ""
		shape := []int{1 + fields[0], 13, 29, 31}
		g.SetNoise(shape, field[:shape[0]*n])
		require.NoError(t, g.Apply(&fromFile))
		require.Equal(t, want, fromFile.Image.Data)
	}
}

func TestGammaOfALargePatchIsItsFormula(t *testing.T) {
	moments := func(v []float64) (mean, deviation float64) {
		for _, x := range v {
			mean += x / float64(len(v))
		}
		for _, x := range v {
			deviation += (x - mean) * (x - mean) / float64(len(v))
		}
		return mean, math.Sqrt(deviation)
	}
	for bits := range 4 {
		invert, retain := bits&1 != 0, bits&2 != 0
		p, n := large()
		v := make([]float64, n)
		low, high, sign := math.Inf(1), math.Inf(-1), 1.0
		if invert {
			sign = -1
		}
		for i, x := range p.channel(1) {
			v[i] = sign * float64(x)
			low, high = min(low, v[i]), max(high, v[i])
		}
		mean, deviation := moments(v)
		for i, x := range v {
			v[i] = math.Pow((x-low)/(high-low), 1.4)*(high-low) + low
		}
		after, deviationAfter := moments(v)
		for i, x := range v {
			if retain {
				x = (x-after)/deviationAfter*deviation + mean
			}
			v[i] = sign * x
		}
		g := GammaParameters{ApplyToChannel: Channels{Index: []int{1}}, RetainStats: []bool{retain},
			InvertImage: []bool{invert}, Gamma: []float64{1.4}}
		require.NoError(t, g.Apply(&p))
		for i, got := range p.channel(1) {
			require.InDelta(t, v[i], got, 2e-6, "invert %v, retain %v, voxel %d", invert, retain, i)
		}
	}
}

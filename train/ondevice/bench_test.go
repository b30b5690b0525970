package ondevice_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train/ondevice"
	"github.com/lntorch/lntorch/volume"
)

// BenchmarkDevice times batches of two from the loader's memory to tensors: nnU-Net's list as it
// falls ("list"), and with an affine for every sample ("affine").
func BenchmarkDevice(b *testing.B) {
	for _, device := range []string{"cpu", "cuda"} {
		b.Run(device, func(b *testing.B) {
			d := torchtest.Device(b, device)
			for _, size := range [][]int{{64, 128, 128}, {128, 128, 128}} {
				for _, what := range []string{"list", "affine"} {
					b.Run(fmt.Sprintf("%dx%dx%d/%s", size[0], size[1], size[2], what), func(b *testing.B) {
						benchmarkBatches(b, d, size, what == "affine")
					})
				}
			}
		})
	}
}

func benchmarkBatches(b *testing.B, d torch.Device, size []int, affine bool) {
	s := augment.Setting{PatchSize: size, Channels: 1,
		Scales: [][]float64{{1, 1, 1}, {0.5, 0.5, 0.5}, {0.25, 0.25, 0.25}}}
	l, err := augment.New(s)
	require.NoError(b, err)
	if affine {
		for i, t := range l.Transforms {
			if x, ok := t.(augment.SpatialTransform); ok {
				x.PRotation = 1
				l.Transforms[i] = x
			}
		}
	}
	whole := crop(s, l.InitialPatchSize, rand.New(rand.NewPCG(1, 2)))
	final := crop(s, size, rand.New(rand.NewPCG(1, 2)))
	batches := make([][]ondevice.Sample, 16)
	for i := range batches {
		for k := range 2 {
			drawn := l.Draw(augment.Sample{Seed: 1, Iteration: i, Index: k}.Augmentation)
			p, n := whole, drawn.CutsOut()
			if n > 0 {
				p = final
			}
			drawn, err := drawn[n:].WithNoise(size)
			require.NoError(b, err)
			batches[i] = append(batches[i], ondevice.Sample{Image: p.Image, Seg: p.Seg, Dim: 3, Drawn: drawn})
		}
	}
	one := func(i int) {
		require.NoError(b, torch.With(func(s *torch.Scope) error {
			_, _, err := ondevice.Batch(s, d, nil, batches[i%len(batches)])
			if err != nil {
				return err
			}
			return d.Synchronize()
		}))
	}
	one(0)
	_, err = d.Peak(true)
	require.NoError(b, err)
	n := 0
	for b.Loop() {
		one(n)
		n++
	}
	perBatch := b.Elapsed().Seconds() * 1e3 / float64(n)
	b.ReportMetric(perBatch, "ms/batch")
	b.ReportMetric(perBatch/2, "ms/patch")
	peak, err := d.Peak(false)
	require.NoError(b, err)
	if d.Type == torch.DeviceCPU {
		_, peak, _, err = torch.CPUMemory()
		require.NoError(b, err)
	}
	b.ReportMetric(float64(peak)/(1<<20), "MiB-peak") // 0: this libtorch does not say
	b.ReportMetric(float64(4*volume.Numel(whole.Image.Shape))/(1<<20), "MiB/crop")
}

package infer

import (
	"bytes"
	"context"
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// From the raw CT to labels on its grid: phantom-mini's model on the test cases of the other
// scanner, compared with the output of nnUNetv2_predict; one and several strips, along different
// axes.
func TestPhantomsAreSegmentedAsByNnUNet(t *testing.T) {
	needTorch(t)
	net, patch, mirror := foundationNetwork(t, scope(t))
	root := golden.Root(t)
	p, err := plans.Load(filepath.Join(root, foundation, "plans.json"))
	require.NoError(t, err)
	configuration, err := p.Configuration("3d_phantom")
	require.NoError(t, err)
	d, err := plans.LoadDataset(filepath.Join(root, foundation, "dataset.json"))
	require.NoError(t, err)
	settings, err := preprocess.NewSettings(p, configuration, d)
	require.NoError(t, err)
	reader, err := images.ForName(p.ImageReaderWriter)
	require.NoError(t, err)
	for _, c := range []struct {
		file          string
		mirror        []int
		probabilities string
	}{
		{"source_notta/LN_004", nil, "source_notta/LN_004.npz"},
		{"source_notta/LN_005", nil, ""},
		{"source_tta/LN_004", mirror, ""},
	} {
		if testing.Short() && c.mirror != nil {
			continue
		}
		raw := filepath.Join(root, "testdata/phantom-mini/raw/Dataset102_PhantomTarget/imagesTs",
			filepath.Base(c.file)+"_0000.nii.gz")
		im, read, err := reader.Read([]string{raw})
		require.NoError(t, err)
		properties := read.Dict()
		preprocessed, err := settings.Run(im, nil, im.Spacing, properties, 2)
		require.NoError(t, err)
		grid, err := preprocess.NewGrid(p, configuration, properties, preprocessed.Data.Spatial())
		require.NoError(t, err)
		truth, _, err := reader.ReadSeg(filepath.Join(root, "testdata/phantom-mini/predictions",
			c.file+".nii.gz"))
		require.NoError(t, err)
		want := volume.Cast[float32](truth.Pixels)

		for _, numerics := range []Numerics{Reference, Fast} {
			cfg := config(numerics, c.mirror)
			if numerics == Fast {
				need, err := Forecast(patch, 2, 1, preprocessed.Data.Shape, cfg)
				require.NoError(t, err)
				cfg.MaxBytes = need.Bytes * 9 / 10
			}
			predictor, err := New(net, patch, 2, cfg)
			require.NoError(t, err)
			back := preprocess.InverseConfig{Labels: d.Labels, Reference: numerics == Reference,
				Threads: 2}
			if c.probabilities != "" {
				back.Probabilities = t.TempDir()
			}
			inverse, err := preprocess.NewInverse(grid, back)
			require.NoError(t, err)
			slabs := 0
			require.NoError(t, predictor.Slabs(context.Background(), preprocessed.Data.Data,
				preprocessed.Data.Shape, nil, func(s volume.Slab) error {
					slabs++
					return inverse.Add(s)
				}))
			require.Greater(t, slabs, 1)
			labels, err := inverse.Finish()
			require.NoError(t, err)
			require.Equal(t, im.Shape, labels.Shape)
			require.Equal(t, truth.Shape, labels.Shape)
			different, foreground := 0, 0
			for i, l := range labels.Pixels.(volume.Slice[uint8]) {
				if float32(l) != want[i] {
					different++
				}
				if want[i] > 0 {
					foreground++
				}
			}
			require.Greater(t, foreground, 200)
			// Kernels differ between processors; with the same kernels no voxel differs.
			t.Logf("%s, numerics %d: %d of %d voxels differ, %d foreground", c.file, numerics,
				different, len(want), foreground)
			require.LessOrEqual(t, different, len(want)/10000)

			if c.probabilities != "" {
				f, err := npz.OpenNpz(filepath.Join(root, "testdata/phantom-mini/predictions",
					c.probabilities))
				require.NoError(t, err)
				shape, reference := golden.Float32s(t, f, "probabilities")
				require.NoError(t, f.Close())
				got := make([]float32, len(reference))
				var b bytes.Buffer
				_, err = inverse.Probabilities().WriteTo(&b)
				require.NoError(t, err)
				require.NoError(t, binary.Read(&b, binary.LittleEndian, got))
				// A step of float16 of a logit is up to 2e-3; Fast is that far from nnU-Net's own
				// rounding.
				diff := golden.Compare(shape, reference, got, golden.Tolerance{Abs: 2e-3})
				t.Logf("probabilities: %v", diff)
				require.LessOrEqual(t, diff.Excess, 1.0, "%v", diff)
			}
			require.NoError(t, inverse.Close())
		}
	}
}

package pipeline

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/volume"
)

// What predict does with a network of each kind, from one checkpoint, is what the network itself
// does with an image of the size of its patch and of the plans' spacing.
func TestPredictRunsEveryKindOfNetwork(t *testing.T) {
	torchtest.Require(t)
	swin := func(v2 bool) models.Architecture {
		return &models.SwinUNETR{V2: v2, Axes: 3, FeatureSize: 12, Depths: []int{2, 2, 2, 2}, Heads: []int{3, 6, 12, 24}}
	}
	for _, c := range []struct {
		name, configuration, trainer string
		arch                         models.Architecture // nil: the plans'
		patch, size                  []int
		spacing                      []float64
	}{
		{"SwinUNETR", "3d_phantom", "nnUNetTrainer_SwinUNETR", swin(false), []int{32, 32, 64}, []int{32, 32, 64}, []float64{3, 1.5, 1.5}},
		{"SwinUNETRv2", "3d_phantom", "nnUNetTrainer_SwinUNETRv2", swin(true), []int{32, 32, 64}, []int{32, 32, 64}, []float64{3, 1.5, 1.5}},
		{"ResEnc", "3d_phantom_resenc", "nnUNetTrainer", nil, []int{16, 32, 48}, []int{16, 32, 48}, []float64{3, 1.5, 1.5}},
		{"2d", "2d", "nnUNetTrainer", nil, []int{32, 48}, []int{5, 32, 48}, []float64{1.5, 1.5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			v, err := plans.ReadJSON(repo(t, foundation+"/plans.json"))
			require.NoError(t, err)
			all, _ := v.(*plans.Object).Get("configurations")
			own, _ := all.(*plans.Object).Get(c.configuration)
			own.(*plans.Object).Set("patch_size", anys(c.patch))
			own.(*plans.Object).Set("spacing", anys(c.spacing))
			b, err := plans.EncodeJSON(v, 4, false)
			require.NoError(t, err)
			path := filepath.Join(root, "plans.json")
			require.NoError(t, os.WriteFile(path, b, 0o644))
			p, err := plans.Load(path)
			require.NoError(t, err)
			conf, err := p.Configuration(c.configuration)
			require.NoError(t, err)
			dataset, err := plans.ReadJSON(repo(t, foundation+"/dataset.json"))
			require.NoError(t, err)
			if c.arch == nil {
				c.arch, err = models.Parse(conf)
				require.NoError(t, err)
			}

			voxels := c.size[0] * c.size[1]
			if len(c.size) == 3 {
				voxels *= c.size[2]
			}
			hu := make(volume.Slice[int16], voxels)
			for i := range hu {
				hu[i] = int16(300*math.Sin(float64(i*i%997)) - 100)
			}
			scan := filepath.Join(root, "scan.nii.gz")
			geometry := &volume.ITK{Spacing: []float64{1.5, 1.5, 3}, Origin: make([]float64, 3), Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
			require.NoError(t, image.Write(scan, []int{c.size[2], c.size[1], c.size[0]}, geometry, hu, 1))

			file := filepath.Join(root, "checkpoint_final.pth")
			var want []float32 // probabilities (class, z, y, x)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				net, err := models.Build(nn.Builder{Scope: s}, models.Spec{Architecture: c.arch, InputChannels: 1, NumClasses: 2})
				require.NoError(t, err)
				g, err := torch.NewGenerator(torch.CPU, 5)
				require.NoError(t, err)
				defer g.Close()
				require.NoError(t, net.Module().Reset(g, nil))
				require.NoError(t, checkpoint.Save(file, &checkpoint.Training{Network: net.Module(), Trainer: c.trainer, Epoch: 1,
					SGD: checkpoint.SGDState{Options: torch.SGD{LR: 0.01}, InitialLR: 0.01},
					InitArgs: checkpoint.InitArgs{Plans: p.Raw(), Configuration: c.configuration, Fold: "0",
						Dataset: dataset.(*plans.Object), Device: "cpu"}}))
				net.SetTraining(false)
				net.SetFast(true)
				stats := p.ChannelIntensities[0]
				x := make([]float32, voxels)
				for i, v := range hu {
					clipped := min(max(float32(v), float32(stats.Percentile005)), float32(stats.Percentile995))
					x[i] = (clipped - float32(stats.Mean)) / float32(max(stats.Std, 1e-8))
				}
				shape := []int64{1, 1, int64(c.size[0]), int64(c.size[1]), int64(c.size[2])}
				return torch.NoGrad(func() error {
					in := torch.FromSlice(s, x, shape...)
					if len(c.patch) == 2 {
						in = s.Permute(s.Squeeze(in, 0), 1, 0, 2, 3) // slices as a batch
					}
					out := s.Softmax(net.Forward(s, in)[0], 1)
					if len(c.patch) == 2 {
						out = s.Unsqueeze(s.Permute(out, 1, 0, 2, 3), 0)
					}
					want, err = torch.Slice[float32](s.Contiguous(out, torch.Contiguous))
					return err
				})
			}))

			o := settings.New[PredictConfig]()
			o.Input, o.Output, o.Model = []string{scan}, filepath.Join(root, "out"), file
			o.NoMirror, o.Probabilities, o.DeviceName, o.Threads = true, true, "cpu", 2
			var done []Prediction
			require.NoError(t, Predict(context.Background(), o, Output{}, func(p Prediction) error {
				done = append(done, p)
				return nil
			}))
			require.Len(t, done, 1)
			tiles := 1
			if len(c.patch) == 2 {
				tiles = c.size[0]
			}
			require.Equal(t, tiles, done[0].Tiles)
			archive, err := npz.OpenNpz(filepath.Join(root, "out", "scan.npz"))
			require.NoError(t, err)
			defer archive.Close()
			shape, got := golden.Float32s(t, archive, "probabilities")
			require.Equal(t, []int{2, c.size[0], c.size[1], c.size[2]}, shape)
			diff := golden.Compare(shape, want, got, golden.Tolerance{Abs: 1e-5 + 1.0/(1<<14)}) // saved ones are shortened
			t.Logf("%v", diff)
			require.LessOrEqual(t, diff.Excess, 1.0, "%v", diff)
			f, err := image.Read(filepath.Join(root, "out", "scan.nii.gz"))
			require.NoError(t, err)
			count := int64(0)
			for i, l := range volume.Cast[int64](f.Values()) {
				if p := got[voxels+i]; math.Abs(float64(p)-0.5) > 1e-6 {
					require.Equal(t, p > 0.5, l == 1, "voxel %d", i)
				}
				count += l
			}
			require.Equal(t, count, done[0].Labels["1"].Voxels)
		})
	}
}

func anys[T any](list []T) (out []any) {
	for _, v := range list {
		out = append(out, v)
	}
	return out
}

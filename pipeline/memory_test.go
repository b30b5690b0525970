package pipeline

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// What a batch of patches (of a usual size) is forecast to take is more than libtorch's allocator measures, and not many times more.
func TestPassesAreForecast(t *testing.T) {
	torchtest.Require(t)
	p, err := plans.Load(repo(t, foundation+"/plans.json"))
	require.NoError(t, err)
	parsed := func(name string) models.Architecture {
		c, err := p.Configuration(name)
		require.NoError(t, err)
		a, err := models.Parse(c)
		require.NoError(t, err)
		return a
	}
	swin := &models.SwinUNETR{Axes: 3, FeatureSize: 12, Depths: []int{2, 2, 2, 2}, Heads: []int{3, 6, 12, 24}}
	for _, c := range []struct {
		name  string
		arch  models.Architecture
		patch []int
	}{
		{"PlainConvUNet", parsed("3d_phantom"), []int{32, 64, 64}},
		{"ResEnc", parsed("3d_phantom_resenc"), []int{32, 64, 64}},
		{"2d", parsed("2d"), []int{192, 192}},
		{"SwinUNETR", swin, []int{32, 32, 64}},
	} {
		for _, numerics := range []infer.Numerics{infer.Fast, infer.Reference} {
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				net, err := models.Build(nn.Builder{Scope: s}, models.Spec{Architecture: c.arch, InputChannels: 1, NumClasses: 2})
				require.NoError(t, err)
				g, err := torch.NewGenerator(torch.CPU, 5)
				require.NoError(t, err)
				defer g.Close()
				require.NoError(t, net.Module().Reset(g, nil))
				net.SetFast(numerics == infer.Fast)
				w := infer.DefaultConfig(torch.CPU)
				w.Numerics, w.Threads, w.Mirror = numerics, 1, []int{0}
				predictor, err := infer.NewEnsemble(1, func(int) (models.Network, error) { return net, nil }, c.patch, 2, w)
				require.NoError(t, err)
				cost, err := predictor.Measure(1, 2)
				require.NoError(t, err)
				need, err := infer.Forecast(c.patch, 2, 1, [4]int{1, 64, 256, 256}, w)
				require.NoError(t, err)
				forecast := passMemory(c.arch, need.Batch, c.patch, w)
				require.GreaterOrEqual(t, forecast, cost.Bytes, "%s, %v", c.name, numerics)
				require.LessOrEqual(t, forecast, 7*cost.Bytes, "%s, %v", c.name, numerics)
				return nil
			}))
		}
	}
}

// Training and prediction are forecast for a GPU that is not there: weights, activations and the sums of logits are
// the device's, cases and labels the host's.
func TestMemoryIsForecastForEitherDevice(t *testing.T) {
	m, err := OpenPretrained(repo(t, foundation))
	require.NoError(t, err)
	train := settings.New[TrainConfig]()
	train.DeviceName = "cpu"
	host, err := TrainingMemory(train, m)
	require.NoError(t, err)
	require.Zero(t, host.Device)
	train.DeviceName = absent.String()
	gpu, err := TrainingMemory(train, m)
	require.NoError(t, err)
	require.Greater(t, gpu.Device, int64(gpuContext)+12*m.parameters, "weights, gradients, momentum, and activations")
	twice := train
	twice.BatchSize = 2 * m.BatchSize
	more, err := TrainingMemory(twice, m)
	require.NoError(t, err)
	fixed := gpuContext + 12*m.parameters
	require.Equal(t, 2*(gpu.Device-fixed), more.Device-fixed, "activations grow with the batch")
	require.Equal(t, gpu.Host, more.Host)
	train.DeviceName = "auto"
	_, err = TrainingMemory(train, m)
	require.ErrorContains(t, err, `device "auto"`)

	predict := settings.New[PredictConfig]()
	predict.Input = []string{repo(t, "testdata/phantom-mini/raw/"+target+"/imagesTs")}
	predict.Output, predict.Model, predict.DeviceName = t.TempDir(), repo(t, foundation), "cpu"
	host, err = PredictionMemory(t.Context(), predict)
	require.NoError(t, err)
	require.Zero(t, host.Device)
	predict.DeviceName = absent.String()
	gpu, err = PredictionMemory(t.Context(), predict)
	require.NoError(t, err)
	// The largest image is preprocessed to 28×81×69 (cmd/lntorch's dry run); the sums of its logits are on the GPU.
	w := infer.DefaultConfig(absent)
	w.Mirror = []int{0, 1, 2}
	need, err := infer.Forecast(m.PatchSize, 2, 1, [4]int{1, 28, 81, 69}, w)
	require.NoError(t, err)
	require.Greater(t, need.Bytes, int64(28*81*69*4), "a float32 a voxel and more")
	require.Equal(t, gpuContext+m.WeightBytes+passMemory(m.network, 2, m.PatchSize, w)+need.Bytes, gpu.Device)
	require.Less(t, gpu.Host, host.Host+gpuHost)
	predict.Input = []string{t.TempDir()}
	_, err = PredictionMemory(t.Context(), predict)
	require.Error(t, err, "no image")
}

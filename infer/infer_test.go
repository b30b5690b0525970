package infer

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

const foundation = "testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom"

// needTorch skips the test if libtorch is missing, and checks at its end that no tensor leaks.
func needTorch(t *testing.T) {
	t.Helper()
	if err := torch.Load(); err != nil {
		golden.Missing(t, "torch", err.Error())
	}
	before := torch.Live()
	t.Cleanup(func() {
		if after := torch.Live(); after != before {
			t.Errorf("%d tensors are left", after-before)
		}
	})
}

// scope lives until the test ends.
func scope(t *testing.T) *torch.Scope {
	t.Helper()
	s, err := torch.NewScope()
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// foundationNetwork is phantom-mini's pre-trained network, with its patch and mirror axes.
func foundationNetwork(t testing.TB, s *torch.Scope) (net models.Network, patch, mirror []int) {
	t.Helper()
	file, err := checkpoint.Open(filepath.Join(golden.Root(t), foundation, "fold_0",
		"checkpoint_final.pth"))
	require.NoError(t, err)
	defer file.Close()
	configuration, err := file.Plans.Configuration(file.Configuration)
	require.NoError(t, err)
	architecture, err := models.Parse(configuration)
	require.NoError(t, err)
	net, err = models.Build(nn.Builder{Scope: s, Device: torch.CPU},
		models.Spec{Architecture: architecture, InputChannels: 1, NumClasses: 2})
	require.NoError(t, err)
	_, err = checkpoint.LoadWeights(net.Module(), file.Weights, checkpoint.LoadOptions{})
	require.NoError(t, err)
	return net, configuration.PatchSize, []int{0, 1, 2}
}

// specNetwork builds the network of a spec of scripts/golden (JSON) and fills it by the
// integer-hash rule.
func specNetwork(t *testing.T, s *torch.Scope, spec []byte) (net models.Network, channels,
	classes int) {
	t.Helper()
	var sizes struct {
		InputShape    []int `json:"input_shape"`
		InputChannels int   `json:"input_channels"`
		NumClasses    int   `json:"num_classes"`
	}
	require.NoError(t, json.Unmarshal(spec, &sizes))
	decoded, err := plans.DecodeJSON(spec)
	require.NoError(t, err)
	architecture, ok := decoded.(*plans.Object).Get("architecture")
	require.True(t, ok)
	whole, err := plans.ReadJSON(filepath.Join(golden.Root(t), foundation, "plans.json"))
	require.NoError(t, err)
	configurations, _ := whole.(*plans.Object).Get("configurations")
	name := fmt.Sprintf("%dd", len(sizes.InputShape)-2)
	if name == "3d" {
		name = "3d_fullres"
	}
	configuration, _ := configurations.(*plans.Object).Get(name)
	configuration.(*plans.Object).Set("architecture", architecture)
	p, err := plans.FromObject(whole.(*plans.Object), "spec")
	require.NoError(t, err)
	c, err := p.Configuration(name)
	require.NoError(t, err)
	a, err := models.Parse(c)
	require.NoError(t, err)
	net, err = models.Build(nn.Builder{Scope: s, Device: torch.CPU},
		models.Spec{Architecture: a, InputChannels: sizes.InputChannels,
			NumClasses: sizes.NumClasses})
	require.NoError(t, err)
	for i, parameter := range net.Module().Parameters() {
		require.NoError(t, torch.CopyIn(parameter.T,
			hashParameter(i, parameter.Shape, filepath.Ext(parameter.Name) == ".weight")))
	}
	return net, sizes.InputChannels, sizes.NumClasses
}

// hashValues is the integer-hash rule of testdata/state-dicts: count values in [-0.5, 0.5) for
// tensor p.
func hashValues(p, count int) []float64 {
	out := make([]float64, count)
	for j := range out {
		h := uint32(j)*2654435761 + uint32(p+1)*2246822519
		h ^= h >> 15
		h *= 2246822519
		h ^= h >> 13
		h *= 3266489917
		h ^= h >> 16
		out[j] = float64(h)/4294967296 - 0.5
	}
	return out
}

func hashParameter(p int, shape []int64, weight bool) []float32 {
	count := int64(1)
	for _, n := range shape {
		count *= n
	}
	out := make([]float32, count)
	for j, u := range hashValues(p, int(count)) {
		switch {
		case len(shape) >= 2:
			u = 2 * u * math.Sqrt(3/(float64(count)/float64(shape[0])))
		case weight:
			u = 1 + 0.5*u
		default:
			u = 0.5 * u
		}
		out[j] = float32(u)
	}
	return out
}

// hashImage is an image of generated values in [-1, 1).
func hashImage(shape [4]int) []float32 {
	out := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
	for i, u := range hashValues(-1, len(out)) {
		out[i] = float32(2 * u)
	}
	return out
}

// phantomCase reads the image of a preprocessed case and crops it to its first voxels; nil: no
// crop.
func phantomCase(t *testing.T, path string, crop []int) (image []float32, shape [4]int) {
	t.Helper()
	f, err := npz.OpenNpz(filepath.Join(golden.Root(t), path))
	require.NoError(t, err)
	defer f.Close()
	a, err := f.Read("data")
	require.NoError(t, err)
	whole, err := a.Float32s()
	require.NoError(t, err)
	from := [4]int(a.Shape)
	if crop == nil {
		return whole, from
	}
	shape = [4]int{from[0], crop[0], crop[1], crop[2]}
	return cut(whole, from, [3]int{}, [3]int(crop)), shape
}

// cut copies the voxels from start (inclusive) to end (exclusive) of every channel.
func cut[T any](x []T, shape [4]int, start, end [3]int) []T {
	var out []T
	for c := range shape[0] {
		for z := start[0]; z < end[0]; z++ {
			for y := start[1]; y < end[1]; y++ {
				row := ((c*shape[1]+z)*shape[2] + y) * shape[3]
				out = append(out, x[row+start[2]:row+end[2]]...)
			}
		}
	}
	return out
}

// flip mirrors every channel along spatial axes.
func flip(x []float32, shape [4]int, axes ...int) []float32 {
	out := make([]float32, len(x))
	mirrored := [3]bool{}
	for _, a := range axes {
		mirrored[a] = true
	}
	i := 0
	for c := range shape[0] {
		for z := range shape[1] {
			for y := range shape[2] {
				for w := range shape[3] {
					at := [3]int{z, y, w}
					for a := range at {
						if mirrored[a] {
							at[a] = shape[a+1] - 1 - at[a]
						}
					}
					out[((c*shape[1]+at[0])*shape[2]+at[1])*shape[3]+at[2]] = x[i]
					i++
				}
			}
		}
	}
	return out
}

// run makes a predictor and returns the bytes, values and shape of its logits.
func run(t *testing.T, net models.Network, patch []int, classes int, cfg Config, image []float32,
	shape [4]int) (raw []byte, values []float32, size []int64) {
	t.Helper()
	p, err := New(net, patch, classes, cfg)
	require.NoError(t, err)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		logits, err := p.Logits(context.Background(), s, image, shape, nil)
		require.NoError(t, err)
		size = logits.Shape()
		require.Equal(t, cfg.accumulator(), logits.DType())
		raw = make([]byte, logits.Numel()*logits.DType().Size())
		if err := logits.CopyBytesOut(raw); err != nil {
			return err
		}
		values, err = torch.Slice[float32](s.To(logits, torch.Float32, torch.CPU))
		return err
	}))
	return raw, values, size
}

func config(numerics Numerics, mirror []int) Config {
	c := DefaultConfig(torch.CPU)
	c.Numerics, c.Mirror, c.Threads = numerics, mirror, 2
	return c
}

// readSpec is the spec inside a golden file of scripts/golden/network.py.
func readSpec(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(golden.Path(t, "network/"+name+".json"))
	require.NoError(t, err)
	var file struct{ Spec json.RawMessage }
	require.NoError(t, json.Unmarshal(text, &file))
	return file.Spec
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func numbers(v []int) []string {
	out := make([]string, len(v))
	for i, x := range v {
		out[i] = strconv.Itoa(x)
	}
	return out
}

func ints(v []int64) []int {
	out := make([]int, len(v))
	for i, x := range v {
		out[i] = int(x)
	}
	return out
}

func writeNpy(t *testing.T, path string, values []float32, shape [4]int) {
	t.Helper()
	a, err := npz.New(values, shape[:]...)
	require.NoError(t, err)
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, npz.WriteNpy(f, a))
	require.NoError(t, f.Close())
}

func readFloats(t *testing.T, path, name string) []float32 {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	_, values := golden.Float32s(t, f, name)
	return values
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, v))
}

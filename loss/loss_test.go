package loss_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/torch"
	"github.com/stretchr/testify/require"
)

const goldenDir = "../testdata/golden/loss"

// threads is what the oracle runs with.
const threads = 2

// description is the JSON file beside a golden npz.
type description struct {
	Spec struct {
		Name              string         `json:"name"`
		Labels            map[string]any `json:"labels"`
		RegionsClassOrder []int          `json:"regions_class_order"`
		BatchDice         bool           `json:"batch_dice"`
	} `json:"spec"`
	Weights []float64 `json:"ds_weights"`
}

func (d description) config() loss.Config {
	c := loss.Config{Regions: d.Spec.RegionsClassOrder != nil, BatchDice: d.Spec.BatchDice, Weights: d.Weights}
	if v, ok := d.Spec.Labels["ignore"]; ok {
		ignore := int(v.(float64))
		c.IgnoreLabel = &ignore
	}
	return c
}

// onTorch runs f in a scope on one thread with the oracle's number of threads.
func onTorch(t *testing.T, f func(s *torch.Scope)) {
	t.Helper()
	if err := torch.Load(); err != nil {
		if strings.Contains(os.Getenv("LNTORCH_REQUIRE"), "torch") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	live := torch.Live()
	require.NoError(t, torch.OnThread(threads, func() error {
		return torch.With(func(s *torch.Scope) error {
			f(s)
			return s.Err()
		})
	}))
	require.Equal(t, live, torch.Live(), "tensors leaked")
}

// tensor makes an array of an npz a tensor of its own type.
func tensor(t *testing.T, s *torch.Scope, a *npz.Array) *torch.Tensor {
	t.Helper()
	var shape []int64
	for _, n := range a.Shape {
		shape = append(shape, int64(n))
	}
	types := map[string]torch.DType{"<f4": torch.Float32, "<i2": torch.Int16, "|b1": torch.Bool}
	dtype, ok := types[a.DType]
	require.True(t, ok, "type %s", a.DType)
	x := s.Empty(shape, dtype, torch.CPU)
	data, err := a.RowMajor()
	require.NoError(t, err)
	require.NoError(t, x.CopyBytesIn(data))
	return x
}

// result is what a golden file holds of one case, and what Forward and Backward make of its inputs.
type result struct {
	loss  []float32
	grads [][]float32 // nil for a head that gets none
}

// forward runs the case stored in an npz and returns its result.
func forward(t *testing.T, s *torch.Scope, path string, d description) result {
	t.Helper()
	z, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer z.Close()
	l, err := loss.New(d.config())
	require.NoError(t, err)
	var heads, targets []*torch.Tensor
	for k := 0; z.Has(fmt.Sprintf("logits_%d", k)); k++ {
		x, err := z.Read(fmt.Sprintf("logits_%d", k))
		require.NoError(t, err)
		y, err := z.Read(fmt.Sprintf("target_%d", k))
		require.NoError(t, err)
		heads = append(heads, tensor(t, s, x))
		targets = append(targets, tensor(t, s, y))
		require.NoError(t, heads[k].SetRequiresGrad(true))
	}
	value := l.Forward(s, heads, targets)
	require.NoError(t, s.Err())
	require.NoError(t, value.Backward())
	var r result
	r.loss, err = torch.Slice[float32](value)
	require.NoError(t, err)
	for _, h := range heads {
		var g []float32
		if h.HasGrad() {
			g, err = torch.Slice[float32](s.Grad(h))
			require.NoError(t, err)
		}
		r.grads = append(r.grads, g)
	}
	return r
}

// stored reads the result that the reference wrote.
func stored(t *testing.T, path string, heads int) result {
	t.Helper()
	z, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer z.Close()
	read := func(name string) []float32 {
		if !z.Has(name) {
			return nil
		}
		a, err := z.Read(name)
		require.NoError(t, err)
		v, err := a.Float32s()
		require.NoError(t, err)
		return v
	}
	r := result{loss: read("loss")}
	for k := range heads {
		r.grads = append(r.grads, read(fmt.Sprintf("grad_%d", k)))
	}
	return r
}

// cases lists the cases in a folder of golden files.
func cases(t *testing.T, dir string) map[string]description {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, dir)
	all := map[string]description{}
	for _, f := range files {
		var d description
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &d), f)
		all[strings.TrimSuffix(f, ".json")+".npz"] = d
	}
	return all
}

// TestGolden: value and gradients of every case lie within rounding of the reference's, on any machine and libtorch. A
// gradient is compared with the largest of its tensor.
func TestGolden(t *testing.T) {
	const tolerance = 2e-6
	for path, d := range cases(t, goldenDir) {
		t.Run(d.Spec.Name, func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				got := forward(t, s, path, d)
				want := stored(t, path, len(got.grads))
				require.InEpsilon(t, want.loss[0], got.loss[0], tolerance)
				for k, w := range want.grads {
					require.Len(t, got.grads[k], len(w), "gradient of head %d", k)
					largest, scale, at := 0.0, 0.0, 0
					for i := range w {
						scale = max(scale, math.Abs(float64(w[i])))
						if d := math.Abs(float64(w[i]) - float64(got.grads[k][i])); !(d <= largest) {
							largest, at = d, i
						}
					}
					require.LessOrEqual(t, largest, tolerance*scale, "head %d, element %d: %v, reference %v", k, at, got.grads[k], w)
				}
			})
		})
	}
}

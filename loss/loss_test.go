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
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/torch"
	"github.com/stretchr/testify/require"
)

// threads is the thread count of the oracle.
const threads = 2

// description is the JSON file of a golden npz.
type description struct {
	Spec struct {
		Name              string         `json:"name"`
		Labels            map[string]any `json:"labels"`
		RegionsClassOrder []int          `json:"regions_class_order"`
		BatchDice         bool           `json:"batch_dice"`
		Batch             int            `json:"batch"`
	} `json:"spec"`
	Weights []float64 `json:"ds_weights"`
	fast    bool
	device  torch.Device
}

func (d description) config() loss.Config {
	c := loss.Config{Regions: d.Spec.RegionsClassOrder != nil, BatchDice: d.Spec.BatchDice,
		Weights: d.Weights, Fast: d.fast}
	if v, ok := d.Spec.Labels["ignore"]; ok {
		ignore := int(v.(float64))
		c.IgnoreLabel = &ignore
	}
	return c
}

// onTorch runs f in a scope on a locked thread with the oracle's thread count, and requires that no
// tensor leaks.
func onTorch(t *testing.T, f func(s *torch.Scope)) {
	t.Helper()
	torchtest.NoLeak(t)
	require.NoError(t, torch.OnThread(threads, func() error {
		return torch.With(func(s *torch.Scope) error {
			f(s)
			return s.Err()
		})
	}))
}

// tensor converts an npz array to a tensor of the same type.
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

// result is the loss and gradients of one case, from a golden file or from Forward and Backward.
type result struct {
	loss  []float32
	grads [][]float32 // nil for a head without gradient
}

// inputs reads the logits and targets of a case from an npz.
func inputs(t *testing.T, s *torch.Scope, path string, device torch.Device) (heads,
	targets []*torch.Tensor) {
	t.Helper()
	z, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer z.Close()
	for k := 0; z.Has(fmt.Sprintf("logits_%d", k)); k++ {
		x, err := z.Read(fmt.Sprintf("logits_%d", k))
		require.NoError(t, err)
		y, err := z.Read(fmt.Sprintf("target_%d", k))
		require.NoError(t, err)
		heads = append(heads, s.To(tensor(t, s, x), torch.Float32, device))
		label := tensor(t, s, y)
		targets = append(targets, s.To(label, label.DType(), device))
	}
	return heads, targets
}

// forward runs the case stored in an npz and returns its result.
func forward(t *testing.T, s *torch.Scope, path string, d description) result {
	t.Helper()
	l, err := loss.New(d.config())
	require.NoError(t, err)
	heads, targets := inputs(t, s, path, d.device)
	for _, h := range heads {
		require.NoError(t, h.SetRequiresGrad(true))
	}
	value := l.Forward(s, heads, targets)
	require.NoError(t, s.Err())
	require.NoError(t, value.Backward())
	r := result{loss: torchtest.Float32s(t, value)}
	for _, h := range heads {
		var g []float32
		if h.HasGrad() {
			g = torchtest.Float32s(t, s.Grad(h))
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
	var r result
	_, r.loss = golden.Float32s(t, z, "loss")
	for k := range heads {
		var g []float32
		if name := fmt.Sprintf("grad_%d", k); z.Has(name) {
			_, g = golden.Float32s(t, z, name)
		}
		r.grads = append(r.grads, g)
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

// TestGolden: value and gradients of every case lie within rounding of the reference's, on any
// machine and libtorch.
func TestGolden(t *testing.T) {
	for _, device := range []string{"cpu", "cuda"} {
		t.Run(device, func(t *testing.T) { isGolden(t, torchtest.Device(t, device)) })
	}
}

func isGolden(t *testing.T, device torch.Device) {
	for path, d := range cases(t, golden.Path(t, "loss")) {
		for fast, name := range map[bool]string{false: "reference", true: "fast"} {
			t.Run(d.Spec.Name+"/"+name, func(t *testing.T) {
				d.fast, d.device = fast, device
				onTorch(t, func(s *torch.Scope) {
					got := forward(t, s, path, d)
					want := stored(t, path, len(got.grads))
					golden.Close(t, "loss", "loss", nil, want.loss, got.loss)
					for k, w := range want.grads {
						require.Equal(t, w == nil, got.grads[k] == nil, "head %d has a gradient", k)
						golden.Close(t, fmt.Sprintf("gradient of head %d", k), "loss-gradient", nil,
							w, got.grads[k])
					}
				})
			})
		}
	}
}

// TestLiveLoss: value and gradients have Python's bits, also where several threads share the sums.
func TestLiveLoss(t *testing.T) {
	golden.Python(t)
	t.Setenv("OMP_NUM_THREADS", fmt.Sprint(threads))
	dir := t.TempDir()
	runs := [][]string{{"--golden", dir, "--threads", fmt.Sprint(threads)}}
	for name, spatial := range map[string][]string{
		"ce-four-batchdice-b3":     {"17", "40", "33"},
		"ce-ignore":                {"16", "64", "48"},
		"bce-ignore":               {"24", "48", "40"},
		"bce-regions-batchdice-2d": {"200", "136"},
	} {
		out := filepath.Join(dir, "large-"+name)
		runs = append(runs, append([]string{"--spec", golden.Path(t, "loss/"+name+".json"), "--out",
			out + ".npz",
			"--threads", fmt.Sprint(threads), "--spatial"}, spatial...))
	}
	golden.RunAll(t, "loss.py", runs...)
	for path, d := range cases(t, dir) {
		d.device = torch.CPU
		t.Run(filepath.Base(path), func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				got := forward(t, s, path, d)
				want := stored(t, path, len(got.grads))
				golden.Equal(t, "loss", nil, want.loss, got.loss)
				for k, w := range want.grads {
					require.Equal(t, w == nil, got.grads[k] == nil, "head %d has a gradient", k)
					golden.Equal(t, fmt.Sprintf("gradient of head %d", k), nil, w, got.grads[k])
				}
			})
		})
	}
}

// TestOnlineCounts: the counts of every case are those of nnUNetTrainer.validation_step.
func TestOnlineCounts(t *testing.T) {
	var want map[string]struct{ TP, FP, FN []int64 }
	golden.LoadJSON(t, "online_counts.json", &want)
	for path, d := range cases(t, golden.Path(t, "loss")) {
		t.Run(d.Spec.Name, func(t *testing.T) {
			w, ok := want[d.Spec.Name]
			require.True(t, ok)
			onTorch(t, func(s *torch.Scope) {
				heads, targets := inputs(t, s, path, torch.CPU)
				l, err := loss.New(d.config())
				require.NoError(t, err)
				tp, fp, fn, err := l.OnlineCounts(s, heads[0], targets[0])
				require.NoError(t, err)
				require.Equal(t, w.TP, tp, "tp")
				require.Equal(t, w.FP, fp, "fp")
				require.Equal(t, w.FN, fn, "fn")
				require.False(t, heads[0].HasGrad())
			})
		})
	}
}

// TestUint8Regions: a uint8 target of 0 and 1 is the same as a bool one.
func TestUint8Regions(t *testing.T) {
	for _, name := range []string{"bce-regions", "bce-ignore"} {
		path := golden.Path(t, "loss/"+name+".npz")
		d := cases(t, golden.Path(t, "loss"))[path]
		onTorch(t, func(s *torch.Scope) {
			l, err := loss.New(d.config())
			require.NoError(t, err)
			heads, targets := inputs(t, s, path, torch.CPU)
			want, err := l.Forward(s, heads, targets).Item()
			require.NoError(t, err)
			tp, fp, fn, err := l.OnlineCounts(s, heads[0], targets[0])
			require.NoError(t, err)
			for k, y := range targets {
				targets[k] = s.To(y, torch.Uint8, torch.CPU)
			}
			got, err := l.Forward(s, heads, targets).Item()
			require.NoError(t, err)
			require.Equal(t, want, got)
			tp8, fp8, fn8, err := l.OnlineCounts(s, heads[0], targets[0])
			require.NoError(t, err)
			require.Equal(t, [][]int64{tp, fp, fn}, [][]int64{tp8, fp8, fn8})
		})
	}
}

// TestIgnoredVoxels: the regions of a target under the ignore mask change neither value, gradients
// nor counts. nnU-Net's own targets have no region there, so the stored cases do not cover this.
func TestIgnoredVoxels(t *testing.T) {
	for _, name := range []string{"bce-ignore", "bce-ignore-batchdice", "bce-ignore-2d"} {
		t.Run(name, func(t *testing.T) {
			path := golden.Path(t, "loss/"+name+".npz")
			d := cases(t, golden.Path(t, "loss"))[path]
			onTorch(t, func(s *torch.Scope) {
				l, err := loss.New(d.config())
				require.NoError(t, err)
				run := func(targets []*torch.Tensor) (value, grad []float32, counts [][]int64) {
					heads, _ := inputs(t, s, path, torch.CPU)
					require.NoError(t, heads[0].SetRequiresGrad(true))
					v := l.Forward(s, heads, targets)
					require.NoError(t, s.Err())
					require.NoError(t, v.Backward())
					tp, fp, fn, err := l.OnlineCounts(s, heads[0], targets[0])
					require.NoError(t, err)
					return torchtest.Float32s(t, v), torchtest.Float32s(t, s.Grad(heads[0])),
						[][]int64{tp, fp, fn}
				}
				_, targets := inputs(t, s, path, torch.CPU)
				var filled []*torch.Tensor
				for _, y := range targets {
					ignored := s.Narrow(y, 1, y.Shape()[1]-1, 1)
					filled = append(filled, s.Maximum(y, ignored)) // every region, wherever the mask is set
				}
				same, err := torch.Equal(targets[0], filled[0])
				require.NoError(t, err)
				require.False(t, same)
				value, grad, counts := run(targets)
				value2, grad2, counts2 := run(filled)
				require.Equal(t, value, value2)
				require.Equal(t, grad, grad2)
				require.Equal(t, counts, counts2)
			})
		})
	}
}

// TestErrors: mismatches are refused with the index of the head, what was found and what was
// expected.
func TestErrors(t *testing.T) {
	_, err := loss.New(loss.Config{Weights: []float64{0, 0}})
	require.EqualError(t, err, "loss: weights [0 0]: expected at least one that is not 0")

	ignore := 2
	deep := []float64{0.75, 0.25, 0}
	type shapes [][]int64
	for want, c := range map[string]struct {
		cfg            loss.Config
		heads, targets shapes
		fill           float64 // of the targets
	}{
		"loss: 1 heads and 3 targets for 3 weights: the network's deep supervision, the loader's " +
			"and the loss's must agree": {
			cfg: loss.Config{Weights: deep}, heads: shapes{{1, 2, 4, 4}},
			targets: shapes{{1, 1, 4, 4}, {1, 1, 2, 2}, {1, 1, 1, 1}}},
		"loss: 2 heads and 2 targets for 1 weights: the network's deep supervision, the loader's " +
			"and the loss's must agree": {
			heads: shapes{{1, 2, 4, 4}, {1, 2, 2, 2}}, targets: shapes{{1, 1, 4, 4}, {1, 1, 2, 2}}},
		"loss: head 1 has shape [1 2 2 2], its target [1 1 2 3]: batch and spatial sizes must agree": {
			cfg: loss.Config{Weights: deep}, heads: shapes{{1, 2, 4, 4}, {1, 2, 2, 2},
				{1, 2, 1, 1}}, targets: shapes{{1, 1, 4, 4}, {1, 1, 2, 3}, {1, 1, 1, 1}}},
		"loss: head 0 has shape [2 2 4 4], its target [1 1 4 4]: batch and spatial sizes must agree": {
			heads: shapes{{2, 2, 4, 4}}, targets: shapes{{1, 1, 4, 4}}},
		"loss: head 0 has shape [1 2 4 4], its target [1 4 4]: expected (n, c, …) and the same " +
			"number of axes": {
			heads: shapes{{1, 2, 4, 4}}, targets: shapes{{1, 4, 4}}},
		"loss: target 0 has 2 channels, expected 1 (a label map)": {
			heads: shapes{{1, 2, 4, 4}}, targets: shapes{{1, 2, 4, 4}}},
		"loss: target 0 has 2 channels, expected 3: the network's regions": {
			cfg: loss.Config{Regions: true}, heads: shapes{{1, 3, 4, 4}},
			targets: shapes{{1, 2, 4, 4}}},
		"loss: target 0 has 3 channels, expected 4: the network's 3 regions and the ignore mask": {
			cfg: loss.Config{Regions: true, IgnoreLabel: &ignore}, heads: shapes{{1, 3, 4, 4}},
			targets: shapes{{1, 3, 4, 4}}},
		"loss: target 0 holds label 2, but the network has 2 classes (0 to 1): check the labels " +
			"in dataset.json against the segmentations": {
			heads: shapes{{1, 2, 4, 4}}, targets: shapes{{1, 1, 4, 4}}, fill: 2},
		"loss: target 0 holds label 7, but the network has 2 classes (0 to 1): check the labels " +
			"in dataset.json against the segmentations": {
			cfg: loss.Config{IgnoreLabel: &ignore}, heads: shapes{{1, 2, 4, 4}},
			targets: shapes{{1, 1, 4, 4}}, fill: 7},
		"loss: target 0 holds label -1, but the network has 2 classes (0 to 1): check the labels " +
			"in dataset.json against the segmentations": {
			heads: shapes{{1, 2, 4, 4, 4}}, targets: shapes{{1, 1, 4, 4, 4}}, fill: -1},
	} {
		check := func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				l, err := loss.New(c.cfg)
				require.NoError(t, err)
				var heads, targets []*torch.Tensor
				for _, shape := range c.heads {
					heads = append(heads, s.Zeros(shape, torch.Float32, torch.CPU))
				}
				for _, shape := range c.targets {
					targets = append(targets, s.Full(shape, c.fill, torch.Int16, torch.CPU))
				}
				err = torch.With(func(s *torch.Scope) error {
					require.Nil(t, l.Forward(s, heads, targets))
					return nil
				})
				require.EqualError(t, err, want)
				if len(heads) == 1 && len(targets) == 1 {
					err = torch.With(func(s *torch.Scope) error {
						_, _, _, err := l.OnlineCounts(s, heads[0], targets[0])
						return err
					})
					require.EqualError(t, err, want)
				}
			})
		}
		t.Run(want, check)
		c.cfg.Fast = true
		t.Run(want+", fast", check)
	}
	t.Run("missing tensors", func(t *testing.T) {
		onTorch(t, func(s *torch.Scope) {
			l, err := loss.New(loss.Config{})
			require.NoError(t, err)
			err = torch.With(func(c *torch.Scope) error {
				require.Nil(t, l.Forward(c, []*torch.Tensor{nil}, []*torch.Tensor{nil}))
				return nil
			})
			require.EqualError(t, err, "loss: head 0 or its target is missing")
		})
	})
}

// An invalid label: on the CPU the scope fails and names it; on a GPU fast losses do not
// synchronise and give NaN. OnlineCounts synchronises everywhere.
func TestAWrongLabelIsFoundOnEachDevice(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			l, err := loss.New(loss.Config{Fast: true})
			require.NoError(t, err)
			values := func(label int16) (value float64, forward, count error) {
				batch := func(f func(s *torch.Scope, x, y *torch.Tensor) error) error {
					return torch.With(func(s *torch.Scope) error {
						x := s.To(torchtest.Tensor(s, 1, 1, 2, 2, 2, 2), torch.Float32, device)
						y := s.To(torch.FromSlice(s, []int16{0, 1, label, 0, 1, 1, 0, 0}, 1, 1, 2,
							2, 2), torch.Int16, device)
						return f(s, x, y)
					})
				}
				forward = batch(func(s *torch.Scope, x, y *torch.Tensor) error {
					v := l.Forward(s, []*torch.Tensor{x}, []*torch.Tensor{y})
					if s.Err() != nil {
						return s.Err()
					}
					value, err = v.Item()
					return err
				})
				count = batch(func(s *torch.Scope, x, y *torch.Tensor) error {
					_, _, _, err := l.OnlineCounts(s, x, y)
					return err
				})
				return value, forward, count
			}
			value, forward, count := values(1)
			require.NoError(t, forward)
			require.NoError(t, count)
			require.False(t, math.IsNaN(value))
			value, forward, count = values(2)
			require.ErrorContains(t, count, "holds label 2, but the network has 2 classes")
			if device.Type == torch.DeviceCPU {
				require.ErrorContains(t, forward, "holds label 2, but the network has 2 classes")
				return
			}
			require.NoError(t, forward)
			require.True(t, math.IsNaN(value))
		})
	}
}

package models_test

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
	"github.com/stretchr/testify/require"
)

// batch is one batch of an oracle.
type batch struct {
	data    *npz.Array
	targets []*npz.Array
}

// schedule is what train_steps.py records of a run; the phantom trajectory has the same file.
type schedule struct {
	Losses  []float32 `json:"losses"`
	Norms   []float32 `json:"grad_norms_before_clip"`
	LRs     []float64 `json:"lrs"`
	Weights []float64 `json:"ds_weights"`
	Clip    float64   `json:"clip"`
}

// tensor converts an array to a tensor of the same type.
func tensor(t *testing.T, s *torch.Scope, a *npz.Array) *torch.Tensor {
	t.Helper()
	dtype, ok := map[string]torch.DType{"<f4": torch.Float32, "<i2": torch.Int16,
		"|b1": torch.Bool}[a.DType]
	require.True(t, ok, "type %s", a.DType)
	var shape []int64
	for _, n := range a.Shape {
		shape = append(shape, int64(n))
	}
	x := s.Empty(shape, dtype, torch.CPU)
	data, err := a.RowMajor()
	require.NoError(t, err)
	require.NoError(t, x.CopyBytesIn(data))
	return x
}

// lossOf returns nnU-Net's loss for the labels of sp.
func lossOf(t *testing.T, sp spec, weights []float64) *loss.Loss {
	t.Helper()
	var labels map[string]any
	require.NoError(t, json.Unmarshal(sp.Labels, &labels))
	c := loss.Config{Regions: len(sp.RegionsClassOrder) > 0, BatchDice: sp.BatchDice,
		Weights: weights, Fast: sp.Fast}
	if v, ok := labels["ignore"]; ok {
		ignore := int(v.(float64))
		c.IgnoreLabel = &ignore
	}
	l, err := loss.New(c)
	require.NoError(t, err)
	return l
}

// train runs nnU-Net's training steps on n, as package train does with numerics reference, and
// calls each after every step with the unclipped gradients and the optimizer.
func train(t *testing.T, n models.Network, l *loss.Loss, batches []batch, run schedule,
	each func(step int, raw arrays, sgd *optim.SGD)) (losses, norms []float32) {
	t.Helper()
	var params []*torch.Tensor
	for _, p := range n.Module().Parameters() {
		params = append(params, p.T)
	}
	sgd, err := optim.NewSGD(params, torch.SGD{LR: 1e-2, Momentum: 0.99, WeightDecay: 3e-5,
		Nesterov: true, Impl: torch.SingleTensor})
	require.NoError(t, err)
	defer sgd.Close()
	for i, b := range batches {
		require.Equal(t, run.LRs[i], optim.PolyLR(1e-2, i, len(batches), 0.9), "learning rate")
		sgd.SetLR(run.LRs[i])
		require.NoError(t, torch.ClearGrads(params))
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			var targets []*torch.Tensor
			for _, a := range b.targets {
				targets = append(targets, tensor(t, s, a))
			}
			heads := n.Forward(s, tensor(t, s, b.data))
			value := l.Forward(s, heads, targets)
			require.NoError(t, s.Err())
			require.NoError(t, value.Backward())
			raw := gradients(t, s, n, "")
			norm := optim.ClipGradNorm(s, params, run.Clip)
			sgd.Step(s, nil)
			require.NoError(t, s.Err())
			losses, norms = append(losses, torchtest.Float32s(t, value)...),
				append(norms, torchtest.Float32s(t, norm)...)
			each(i, raw, sgd)
			return nil
		}))
	}
	return losses, norms
}

func l2(v []float32) float32 {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	return float32(math.Sqrt(sum))
}

// TestGoldenSteps: four steps of every kind of loss and network with a clip that does not act and
// one that does: losses, norms, sizes of the first gradients, samples of the final weights.
func TestGoldenSteps(t *testing.T) {
	files, err := filepath.Glob(golden.Path(t, "train/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		var c struct {
			Spec spec `json:"spec"`
			Runs []struct {
				schedule
				FirstL2 map[string]float32 `json:"first_gradient_l2"`
				Final   map[string]struct {
					L2     float32   `json:"l2"`
					At     []int     `json:"at"`
					Values []float32 `json:"values"`
				} `json:"final"`
			} `json:"runs"`
		}
		readJSON(t, f, &c)
		z, err := npz.OpenNpz(strings.TrimSuffix(f, ".json") + ".npz")
		require.NoError(t, err)
		defer z.Close()
		for _, run := range c.Runs {
			check := func(t *testing.T) {
				batches := readBatches(t, len(run.Losses), func(name string) (*npz.Array, bool) {
					if name = strings.Replace(name, "_data", "/data", 1); !z.Has(name) {
						name = strings.Replace(name, "_target", "/target", 1)
					}
					if !z.Has(name) {
						return nil, false
					}
					a, err := z.Read(name)
					require.NoError(t, err)
					return a, true
				})
				want, got := arrays{"losses": run.Losses, "norms": run.Norms}, arrays{}
				onTorch(t, func(s *torch.Scope) {
					n := build(t, s, c.Spec)
					fill(t, n)
					got["losses"], got["norms"] = train(t, n, lossOf(t, c.Spec, run.Weights),
						batches, run.schedule, func(step int, raw arrays, _ *optim.SGD) {
							if step == 0 {
								require.Len(t, run.FirstL2, len(raw))
								for name, g := range raw { // the file has only their norms
									want["first/"+name],
										got["first/"+name] = []float32{run.FirstL2[name]},
										[]float32{l2(g)}
								}
							}
						})
					for _, p := range n.Module().Parameters() {
						v, f := torchtest.Float32s(t, p.T), run.Final[p.Name]
						want["final/"+p.Name] = append(f.Values, f.L2)
						for _, i := range f.At {
							got["final/"+p.Name] = append(got["final/"+p.Name], v[i])
						}
						got["final/"+p.Name] = append(got["final/"+p.Name], l2(v))
					}
				})
				requireClose(t, want, got)
			}
			for fast, name := range numerics {
				c.Spec.Fast = fast
				t.Run(fmt.Sprintf("%s/clip%v/%s", c.Spec.Name, run.Clip, name), check)
			}
		}
	}
}

// readBatches reads count batches whose arrays are found by names such as batch_00_data and
// batch_00_target_1.
func readBatches(t *testing.T, count int, read func(name string) (*npz.Array, bool)) []batch {
	t.Helper()
	var all []batch
	for i := range count {
		data, ok := read(fmt.Sprintf("batch_%02d_data", i))
		require.True(t, ok, "batch %d", i)
		b := batch{data: data}
		for k := 0; ; k++ {
			a, ok := read(fmt.Sprintf("batch_%02d_target_%d", i, k))
			if !ok {
				break
			}
			b.targets = append(b.targets, a)
		}
		all = append(all, b)
	}
	return all
}

// batchFiles reads the batches that an oracle wrote into a folder as .npy files.
func batchFiles(t *testing.T, dir string, count int) []batch {
	t.Helper()
	return readBatches(t, count, func(name string) (*npz.Array, bool) {
		path := filepath.Join(dir, name+".npy")
		if found, err := filepath.Glob(path); err != nil || found == nil {
			return nil, false
		}
		a, err := npz.OpenNpy(path)
		require.NoError(t, err)
		return a, true
	})
}

const phantom = "testdata/phantom-mini"

// foundation builds the network of the phantom foundation model from its plans, with deep
// supervision, uninitialised.
func foundation(t *testing.T, s *torch.Scope) models.Network {
	t.Helper()
	p, err := plans.Load(filepath.Join(golden.Root(t), phantom,
		"results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/plans.json"))
	require.NoError(t, err)
	c, err := p.Configuration("3d_phantom")
	require.NoError(t, err)
	a, err := models.Parse(c)
	require.NoError(t, err)
	n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU},
		models.Spec{Architecture: a, InputChannels: 1, NumClasses: 2})
	require.NoError(t, err)
	n.SetDeepSupervision(true)
	return n
}

// foundationWeights are the network weights in the checkpoint that nnU-Net wrote.
func foundationWeights(t *testing.T) *pickle.OrderedDict {
	t.Helper()
	root := openPth(t, filepath.Join(golden.Root(t), phantom,
		"results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth"))
	w, ok := root.(*pickle.Dict).Get("network_weights")
	require.True(t, ok)
	return w.(*pickle.OrderedDict)
}

// TestTrajectory: four steps from the foundation checkpoint on recorded batches of the target:
// losses, norms, every first gradient and every final weight.
func TestTrajectory(t *testing.T) {
	for fast, name := range numerics {
		t.Run(name, func(t *testing.T) { trajectory(t, fast) })
	}
}

func trajectory(t *testing.T, fast bool) {
	dir := filepath.Join(golden.Root(t), phantom, "trajectory")
	var run schedule
	readJSON(t, filepath.Join(dir, "full_losses.json"), &run)
	readJSON(t, filepath.Join(dir, "meta.json"), &struct {
		Weights *[]float64 `json:"deep_supervision_weights"`
	}{&run.Weights})
	run.Clip = 12
	want := arrays{"losses": run.Losses, "norms": run.Norms}
	for name, g := range readNpz(t, filepath.Join(dir, "full_first_gradients.npz")) {
		want["first/"+name] = g
	}
	got := arrays{}
	onTorch(t, func(s *torch.Scope) {
		n := foundation(t, s)
		n.SetFast(fast)
		load(t, n, openPth(t, filepath.Join(dir, "full_final.pth")).(*pickle.OrderedDict))
		for _, p := range n.Module().Parameters() {
			want["final/"+p.Name] = torchtest.Float32s(t, p.T)
		}
		load(t, n, foundationWeights(t))
		l, err := loss.New(loss.Config{Weights: run.Weights, Fast: fast})
		require.NoError(t, err)
		got["losses"], got["norms"] = train(t, n, l, batchFiles(t, dir, len(run.Losses)), run,
			func(step int, raw arrays, _ *optim.SGD) {
				for name, g := range raw {
					if step == 0 {
						got["first/"+name] = g
					}
				}
			})
		for _, p := range n.Module().Parameters() {
			got["final/"+p.Name] = torchtest.Float32s(t, p.T)
		}
	})
	requireClose(t, want, got)
}

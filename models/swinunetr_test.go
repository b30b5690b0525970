package models_test

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
	"github.com/stretchr/testify/require"
)

// sampled is an array of which a golden file holds only a few values.
type sampled struct {
	L2     float32   `json:"l2"`
	Max    float32   `json:"max"`
	At     []int     `json:"at"`
	Values []float32 `json:"values"`
}

// put adds the values in the file and the corresponding ones of got to both sides, with the largest
// magnitude, to which tolerances are relative.
func (f sampled) put(want, have arrays, name string, got []float32) {
	want[name], want[name+"/l2"] = append(f.Values, f.Max), []float32{f.L2}
	largest := float32(0)
	for _, x := range got {
		largest = max(largest, float32(math.Abs(float64(x))))
	}
	have[name], have[name+"/l2"] = nil, []float32{l2(got)}
	for _, i := range f.At {
		have[name] = append(have[name], got[i])
	}
	have[name] = append(have[name], largest)
}

// swinCase is a file that scripts/golden/swinunetr.py wrote.
type swinCase struct {
	Spec spec `json:"spec"`
	Head struct {
		sampled
		Shape []int64 `json:"shape"`
	} `json:"head"`
	Loss            float32            `json:"loss"`
	Gradients       map[string]sampled `json:"gradients"`
	Initial         map[string]sampled `json:"initial"`
	StateDict       [][4]any           `json:"state_dict"`
	NamedParameters [][4]any           `json:"named_parameters"`
	Metadata        [][2]any           `json:"metadata"`
	Steps           *struct {
		schedule
		Final map[string]sampled `json:"final"`
	} `json:"steps"`
}

func swinCases(t *testing.T) []swinCase {
	t.Helper()
	files, err := filepath.Glob(golden.Path(t, "swinunetr/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var all []swinCase
	for _, f := range files {
		var c swinCase
		readJSON(t, f, &c)
		all = append(all, c)
	}
	return all
}

// TestSwinUNETRGolden: names, output, every gradient and the initial values of a seed are MONAI's.
func TestSwinUNETRGolden(t *testing.T) {
	for _, c := range swinCases(t) {
		t.Run(c.Spec.Name, func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				n := build(t, s, c.Spec)
				var rows, named [][4]any
				var meta [][2]any
				for i, p := range n.Module().StateDict() {
					rows = append(rows, [4]any{p.Name, p.Shape, p.T.DType().String(), i})
				}
				for i, p := range n.Module().Parameters() {
					named = append(named, [4]any{i, p.Name, p.Shape, numel(p.Shape)})
				}
				for _, m := range n.Module().Metadata() {
					meta = append(meta, [2]any{m.Path, m.Version})
				}
				requireSameJSON(t, c.StateDict, rows)
				requireSameJSON(t, c.NamedParameters, named)
				requireSameJSON(t, c.Metadata, meta)

				want, got := arrays{}, arrays{}
				initial := drawn(t, n, 7)
				for name, f := range c.Initial {
					f.put(want, got, "initial/"+name, initial[name])
				}
				run := forwardBackward(t, s, c.Spec)
				c.Head.put(want, got, "head_0", run["head_0"])
				want["loss"], got["loss"] = []float32{c.Loss}, run["loss"]
				require.Len(t, run, len(c.Gradients)+2)
				for name, f := range c.Gradients {
					f.put(want, got, c.gradientName(c.Spec)+name, run["grad/"+name])
				}
				requireClose(t, want, got)
			})
		})
	}
}

// gradientName is the prefix of a gradient's name; it selects the tolerance.
func (swinCase) gradientName(sp spec) string {
	if sp.Fast || sp.Swin.Class == "SwinUNETRv2" {
		return "rectified/"
	}
	return "grad/"
}

// TestSwinUNETRFast: with numerics fast, output and gradients are MONAI's but for rounding, in
// training, where blocks of convolutions run fused, and in inference, where attention does too:
// windows masked and not, several images, 2d.
func TestSwinUNETRFast(t *testing.T) {
	for _, c := range swinCases(t) {
		t.Run(c.Spec.Name, func(t *testing.T) {
			sp := c.Spec
			sp.Fast = true
			onTorch(t, func(s *torch.Scope) {
				want, got := arrays{}, arrays{}
				run := forwardBackward(t, s, sp)
				c.Head.put(want, got, "head_0", run["head_0"])
				for name, f := range c.Gradients {
					f.put(want, got, c.gradientName(sp)+name, run["grad/"+name])
				}
				requireClose(t, want, got)

				want, got = arrays{}, arrays{}
				n := build(t, s, sp)
				fill(t, n)
				require.NoError(t, torch.NoGrad(func() error {
					c.Head.put(want, got, "head_0",
						torchtest.Float32s(t, n.Forward(s, hashTensor(s, -1, sp.InputShape))[0]))
					return nil
				}))
				requireClose(t, want, got)
			})
		})
	}
}

// drawn resets n with a seed and returns the values of the parameters.
func drawn(t *testing.T, n models.Network, seed uint64) arrays {
	t.Helper()
	g, err := torch.NewGenerator(torch.CPU, seed)
	require.NoError(t, err)
	defer g.Close()
	require.NoError(t, n.Module().Reset(g, nil))
	all := arrays{}
	for _, p := range n.Module().Parameters() {
		all[p.Name] = torchtest.Float32s(t, p.T)
	}
	return all
}

// hashBatches are the batches of swinunetr.py.
func hashBatches(t *testing.T, s *torch.Scope, sp spec, count int) []batch {
	t.Helper()
	const coarse = 8
	shape, size := make([]int, len(sp.InputShape)), make([]int, len(sp.InputShape))
	for i, n := range sp.InputShape {
		shape[i], size[i] = int(n), int(n)
	}
	size[1] = 1
	var all []batch
	for i := range count {
		data, err := npz.New(torchtest.Float32s(t, hashTensor(s, -1000-i, sp.InputShape)), shape...)
		require.NoError(t, err)
		labels := make([]int16, size[0]*product(size[2:]))
		for v := range labels {
			// The voxel's place among the coarse ones, axis by axis from the last.
			rest, place, scale := v, 0, 1
			for axis := len(size) - 1; axis >= 2; axis-- {
				place += rest % size[axis] / coarse * scale
				rest, scale = rest/size[axis], scale*(size[axis]/coarse)
			}
			if golden.Hash(-2000-i, rest*scale+place) > 0 {
				labels[v] = 1
			}
		}
		target, err := npz.New(labels, size...)
		require.NoError(t, err)
		all = append(all, batch{data: data, targets: []*npz.Array{target}})
	}
	return all
}

func product(v []int) int {
	p := 1
	for _, n := range v {
		p *= n
	}
	return p
}

// TestSwinUNETRGoldenSteps: ten training steps.
func TestSwinUNETRGoldenSteps(t *testing.T) {
	for _, c := range swinCases(t) {
		if c.Steps == nil {
			continue
		}
		t.Run(c.Spec.Name, func(t *testing.T) {
			want, got := arrays{"losses": c.Steps.Losses, "norms": c.Steps.Norms}, arrays{}
			onTorch(t, func(s *torch.Scope) {
				n := build(t, s, c.Spec)
				fill(t, n)
				batches := hashBatches(t, s, c.Spec, len(c.Steps.Losses))
				got["losses"], got["norms"] = train(t, n, lossOf(t, c.Spec, nil), batches,
					c.Steps.schedule, func(int, arrays, *optim.SGD) {})
				for _, p := range n.Module().Parameters() {
					c.Steps.Final[p.Name].put(want, got, "final/"+p.Name,
						torchtest.Float32s(t, p.T))
				}
			})
			requireClose(t, want, got)
		})
	}
}

// TestSwinUNETRRecompute: recomputed activations change no bit of the loss and no gradient's, and
// frozen parts have none.
func TestSwinUNETRRecompute(t *testing.T) {
	for _, c := range swinCases(t) {
		t.Run(c.Spec.Name, func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				var want arrays
				require.NoError(t, torch.With(func(s *torch.Scope) error {
					want = forwardBackward(t, s, c.Spec)
					return nil
				}))
				again := c.Spec
				again.Swin = &swinSpec{Class: c.Spec.Swin.Class,
					FeatureSize: c.Spec.Swin.FeatureSize, Recompute: true}
				requireSameBits(t, want, forwardBackward(t, s, again))
			})
		})
	}
	t.Run("frozen transformer", func(t *testing.T) {
		sp := swinCases(t)[0].Spec
		sp.Swin.Recompute = true
		onTorch(t, func(s *torch.Scope) {
			n := build(t, s, sp)
			fill(t, n)
			for _, p := range n.Module().Parameters() {
				require.NoError(t, p.T.SetRequiresGrad(!strings.HasPrefix(p.Name, "swinViT.")))
			}
			require.NoError(t, s.Mean(n.Forward(s, hashTensor(s, -1, sp.InputShape))[0]).Backward())
			for _, p := range n.Module().Parameters() {
				require.Equal(t, !strings.HasPrefix(p.Name, "swinViT."), p.T.HasGrad(), p.Name)
			}
		})
	})
}

// TestSwinUNETRErrors: what a user can get wrong.
func TestSwinUNETRErrors(t *testing.T) {
	onTorch(t, func(s *torch.Scope) {
		e, ok := models.ByTrainer("nnUNetTrainer_SwinUNETRv2")
		require.True(t, ok)
		make := func(change func(a *models.SwinUNETR)) error {
			a := e.Released(3).(*models.SwinUNETR)
			a.FeatureSize = 12
			change(a)
			_, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU},
				models.Spec{Architecture: a, InputChannels: 1, NumClasses: 2})
			return err
		}
		require.NoError(t, make(func(*models.SwinUNETR) {}))
		require.EqualError(t, make(func(a *models.SwinUNETR) { a.Axes = 2 }),
			"models: SwinUNETRv2: 2 spatial axes, expected 3: its residual blocks are 3d")
		require.EqualError(t, make(func(a *models.SwinUNETR) { a.Axes = 1 }),
			"models: SwinUNETRv2: 1 spatial axes, expected 2 or 3")
		require.EqualError(t, make(func(a *models.SwinUNETR) { a.FeatureSize = 20 }),
			"models: SwinUNETRv2: feature size 20, expected a multiple of 12")
		require.EqualError(t, make(func(a *models.SwinUNETR) { a.Heads = []int{3, 5, 12, 24} }),
			"models: SwinUNETRv2: 5 heads for the 24 channels of stage 2, expected a divisor")
		require.EqualError(t, make(func(a *models.SwinUNETR) { a.Depths = []int{2, 2, 2} }),
			"models: SwinUNETRv2: depths [2 2 2] and heads [3 6 12 24], expected 4 positive "+
				"numbers each")

		n := build(t, s, spec{Swin: &swinSpec{Class: "SwinUNETR", FeatureSize: 12},
			InputChannels: 1, NumClasses: 2, InputShape: []int64{1, 1, 32, 32, 64}})
		require.NoError(t, n.CheckInput([]int64{96, 96, 96}))
		require.EqualError(t, n.CheckInput([]int64{80, 112, 224}),
			"models: input size [80 112 224] is not divisible by [32 32 32], "+
				"as SwinUNETR halves the image five times; the nearest valid size is [96 128 224]")
		require.EqualError(t, n.CheckInput([]int64{32, 32, 32}),
			"models: input size [32 32 32] leaves one voxel at the lowest resolution (strides "+
				"[32 32 32]), expected at least two; use a larger patch")
		require.EqualError(t, n.CheckInput([]int64{32, 64}),
			"models: input size [32 64] has 2 axes, expected 3")
		for shape, want := range map[[5]int64]string{
			{1, 1, 32, 32, 48}: "models: input size [32 32 48] is not divisible by [32 32 32]",
			{1, 3, 32, 32, 64}: "to have 1 channels, but got 3 channels instead",
		} {
			for _, recompute := range []bool{false, true} {
				n.(models.Recomputer).SetRecompute(recompute)
				err := torch.With(func(s *torch.Scope) error {
					require.Empty(t, n.Forward(s, s.Zeros(shape[:], torch.Float32, torch.CPU)))
					return nil
				})
				require.ErrorContains(t, err, want)
			}
		}
		for _, p := range n.Module().Parameters() {
			if p.Name == "swinViT.layers3.0.blocks.1.attn.proj.weight" {
				p.T.Free()
			}
		}
		err := torch.With(func(s *torch.Scope) error {
			require.Empty(t, n.Forward(s, s.Zeros([]int64{1, 1, 32, 32, 64}, torch.Float32,
				torch.CPU)))
			return nil
		})
		require.ErrorContains(t, err, "freed")
	})
}

// TestSwinUNETRActivations: the estimate grows with the batch and shrinks with recomputation. At
// 64³ a step of the released network was measured to take 2.6 GiB beyond weights and gradients, a
// third of it in the backward pass.
func TestSwinUNETRActivations(t *testing.T) {
	e, ok := models.ByTrainer("nnUNetTrainer_SwinUNETR")
	require.True(t, ok)
	size := func(batch int, recompute bool) float64 {
		return float64(e.Released(3).Activations(models.Step{Batch: batch, Patch: []int{64, 64, 64},
			Recompute: recompute}))
	}
	one := size(1, false)
	require.InEpsilon(t, 2.6*(1<<30)/4/1.5, one, 0.25)
	require.Equal(t, 2*one, size(2, false))
	require.Less(t, size(1, true), 0.8*one)
}

// TestRecognise: the arguments of a network are inferred from names and shapes.
func TestRecognise(t *testing.T) {
	for _, name := range []string{"plainconvunet", "resencl", "tiny-plainconvunet-aniso",
		"tiny-resenc-bottleneck", "swinunetr", "tiny-swinunetr", "tiny-swinunetrv2"} {
		d, sp := readStateDict(t, name)
		shapes := map[string][]int64{}
		for _, row := range d.StateDict {
			shapes[row[0].(string)] = []int64{}
			for _, n := range row[1].([]any) {
				shapes[row[0].(string)] = append(shapes[row[0].(string)], int64(n.(float64)))
			}
		}
		got := models.Recognise(shapes)
		require.NotNil(t, got, name)
		require.Equal(t, [2]int{sp.InputChannels, sp.NumClasses},
			[2]int{got.InputChannels, got.NumClasses}, name)
		want := sp.architecture(t)
		require.Equal(t, want.Class(), got.Architecture.Class(), name)
		require.Equal(t, sp.Swin == nil, models.Planned(want.Class()))
		if sp.Swin != nil {
			require.Equal(t, want, got.Architecture, name)
		}
	}
	require.Nil(t, models.Recognise(map[string][]int64{"encoder.weight": {1}}))
}

// swinLive returns golden specs by name, as text; "name, recomputed" is the spec with recomputation
// on both sides.
func swinLive(t *testing.T, names ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, c := range swinCases(t) {
		for _, name := range names {
			sp, recompute := c.Spec, strings.HasSuffix(name, ", recomputed")
			if strings.TrimSuffix(name, ", recomputed") != sp.Name {
				continue
			}
			sp.Swin = &swinSpec{Class: sp.Swin.Class, FeatureSize: sp.Swin.FeatureSize,
				Recompute: recompute}
			text, err := json.Marshal(sp)
			require.NoError(t, err)
			all[name] = string(text)
		}
	}
	require.Len(t, all, len(names))
	return all
}

// TestLiveMonaiNetworks: logits, loss and every gradient have MONAI's bits, with and without
// recomputation on both sides.
func TestLiveMonaiNetworks(t *testing.T) {
	python(t)
	for name, text := range swinLive(t, "3d", "3d, recomputed", "v2", "v2, recomputed", "channels",
		"2d") {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out.npz")
			golden.Run(t, "network.py", "--spec", writeSpec(t, text), "--out", path, "--threads",
				fmt.Sprint(threads), "--deterministic")
			var sp spec
			require.NoError(t, json.Unmarshal([]byte(text), &sp))
			onTorch(t, func(s *torch.Scope) {
				requireSameBits(t, readNpz(t, path),
					forwardBackward(t, s, sp))
			})
		})
	}
}

// TestLiveMonaiFullSize: checkpoints of the released networks that Python wrote; output, loss and
// every gradient on a small patch have MONAI's bits. The released patch gives MONAI's output.
func TestLiveMonaiFullSize(t *testing.T) {
	python(t)
	for _, name := range []string{"swinunetr", "swinunetrv2"} {
		t.Run(name, func(t *testing.T) {
			d, sp := readStateDict(t, name)
			sp.InputShape = []int64{1, 1, 32, 32, 64}
			requireFullSize(t, sp)
			onTorch(t, func(s *torch.Scope) {
				n := build(t, s, sp)
				fill(t, n)
				d.requireForward(t, s, n, largePatch, math.MaxInt64)
			})
		})
	}
}

// TestLiveMonaiInitialisation: a seed gives the values that MONAI draws after torch.manual_seed.
func TestLiveMonaiInitialisation(t *testing.T) {
	python(t)
	for name, text := range swinLive(t, "v2", "channels") {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out.npz")
			golden.Run(t, "swinunetr.py", "--init", "12345", "--spec", writeSpec(t, text), "--out",
				path)
			var sp spec
			require.NoError(t, json.Unmarshal([]byte(text), &sp))
			onTorch(t, func(s *torch.Scope) {
				requireSameBits(t, readNpz(t, path),
					drawn(t, build(t, s, sp), 12345))
			})
		})
	}
}

// TestLiveMonaiSteps: ten training steps have Python's bits, all weights after them included.
func TestLiveMonaiSteps(t *testing.T) {
	python(t)
	for name, text := range swinLive(t, "2d", "v2, recomputed") {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			golden.Run(t, "train_steps.py", "--spec", writeSpec(t, text), "--out", dir,
				"--make-batches", "10", "--batches-out", dir,
				"--clip", "0.25", "--threads", fmt.Sprint(threads), "--seed", "3",
				"--deterministic")
			var sp spec
			require.NoError(t, json.Unmarshal([]byte(text), &sp))
			var run schedule
			readJSON(t, filepath.Join(dir, "losses.json"), &run)
			onTorch(t, func(s *torch.Scope) {
				n := build(t, s, sp)
				fill(t, n)
				losses, norms := train(t, n, lossOf(t, sp, nil), batchFiles(t, dir, 10), run,
					func(step int, raw arrays, _ *optim.SGD) {
						if step == 0 {
							requireSameBits(t, readNpz(t, filepath.Join(dir, "first_gradients.npz")),
								raw)
						}
					})
				want, got := arrays{"losses": run.Losses, "norms": run.Norms},
					arrays{"losses": losses, "norms": norms}
				for _, p := range n.Module().Parameters() {
					got["final/"+p.Name] = torchtest.Float32s(t, p.T)
				}
				load(t, n, openPth(t, filepath.Join(dir, "final.pth")).(*pickle.OrderedDict))
				for _, p := range n.Module().Parameters() {
					want["final/"+p.Name] = torchtest.Float32s(t, p.T)
				}
				requireSameBits(t, want, got)
			})
		})
	}
}

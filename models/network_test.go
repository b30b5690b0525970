package models_test

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/stretchr/testify/require"
)

// networkCases reads the specs in a folder that network.py wrote, by npz file.
func networkCases(t *testing.T, dir string) map[string]spec {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, dir)
	all := map[string]spec{}
	for _, f := range files {
		var c struct {
			Spec spec `json:"spec"`
		}
		readJSON(t, f, &c)
		all[strings.TrimSuffix(f, ".json")+".npz"] = c.Spec
	}
	return all
}

// forwardBackward is what scripts/golden/network.py computes: every head, a loss over them, every
// gradient.
func forwardBackward(t *testing.T, s *torch.Scope, sp spec) arrays {
	t.Helper()
	n := build(t, s, sp)
	fill(t, n)
	return propagate(t, s, n, sp)
}

// propagate is forwardBackward of a network with weights.
func propagate(t *testing.T, s *torch.Scope, n models.Network, sp spec) arrays {
	t.Helper()
	heads := n.Forward(s, s.To(hashTensor(s, -1, sp.InputShape), torch.Float32, sp.Device))
	var loss *torch.Tensor
	for i, h := range heads {
		term := s.Mean(s.Mul(h, s.To(hashTensor(s, -2-i, h.Shape()), torch.Float32, sp.Device)))
		if loss != nil {
			term = s.Add(loss, term)
		}
		loss = term
	}
	require.NoError(t, s.Err())
	require.NoError(t, loss.Backward())
	got := gradients(t, s, n, "grad/")
	got["loss"] = torchtest.Float32s(t, loss)
	for i, h := range heads {
		got[fmt.Sprintf("head_%d", i)] = torchtest.Float32s(t,
			s.To(s.Detach(h), torch.Float32, torch.CPU))
	}
	return got
}

// TestGolden: the heads, the loss and every gradient of every case, on any machine and libtorch.
func TestGolden(t *testing.T) {
	for _, device := range []string{"cpu", "cuda"} {
		t.Run(device, func(t *testing.T) {
			d := torchtest.Device(t, device)
			for path, sp := range networkCases(t, golden.Path(t, "network")) {
				for fast, name := range numerics {
					t.Run(sp.Name+"/"+name, func(t *testing.T) {
						sp.Fast, sp.Device = fast, d
						onTorch(t, func(s *torch.Scope) {
							requireClose(t, readNpz(t, path), forwardBackward(t, s, sp))
						})
					})
				}
			}
		})
	}
}

// Under autocast the heads equal those of float32 within half precision, also with the fused
// operators and their layouts. float16 is for GPUs.
func TestAutocastKeepsTheHeads(t *testing.T) {
	for device, limits := range map[string]map[torch.DType]float64{
		"cpu":  {torch.BFloat16: 0.05},
		"cuda": {torch.BFloat16: 0.05, torch.Float16: 0.01},
	} {
		t.Run(device, func(t *testing.T) {
			d := torchtest.Device(t, device)
			for path, sp := range networkCases(t, golden.Path(t, "network")) {
				for dtype, limit := range limits {
					for fast, name := range numerics {
						t.Run(fmt.Sprintf("%s/%v/%s", sp.Name, dtype, name), func(t *testing.T) {
							sp.Fast, sp.Device = fast, d
							want := readNpz(t, path)
							var got arrays
							onTorch(t, func(s *torch.Scope) {
								require.NoError(t, torch.Autocast(d.Type, dtype, func() error {
									got = forwardBackward(t, s, sp)
									return nil
								}))
							})
							for key, w := range want {
								g := got[key]
								require.Len(t, g, len(w), key)
								if !strings.HasPrefix(key, "head_") {
									continue
								}
								far, most := 0.0, 0.0
								for j, v := range w {
									far, most = math.Max(far, math.Abs(float64(g[j]-v))),
										math.Max(most, math.Abs(float64(v)))
								}
								t.Logf("%s: at most %.4f of its largest", key, far/most)
								require.LessOrEqual(t, far, limit*most, key)
							}
						})
					}
				}
			}
		})
	}
}

// stateDict is a file of testdata/state-dicts.
type stateDict struct {
	NetworkClass    string                     `json:"network_class"`
	Constructor     map[string]json.RawMessage `json:"constructor"`
	Counts          map[string]int64           `json:"counts"`
	StateDict       [][4]any                   `json:"state_dict"`
	NamedParameters [][4]any                   `json:"named_parameters"`
	Metadata        struct {
		Entries         int `json:"entries"`
		Version2Entries int `json:"version2_entries"`
	} `json:"state_dict_metadata"`
	GoldenForward struct {
		Cases []struct {
			InputShape      []int64 `json:"input_shape"`
			DeepSupervision bool    `json:"deep_supervision"`
			Outputs         []struct {
				Shape   []int64   `json:"shape"`
				L2      float64   `json:"l2"`
				Indices []int     `json:"sample_flat_indices"`
				Values  []float32 `json:"sample_values"`
			} `json:"outputs"`
		} `json:"cases"`
	} `json:"golden_forward"`
}

// argument returns the constructor argument by its nnU-Net or MONAI name.
func (d stateDict) argument(name, monai string) json.RawMessage {
	if v, ok := d.Constructor[name]; ok {
		return v
	}
	return d.Constructor[monai]
}

// largePatch is the number of voxels from which forward passes run only in make test-monai.
const largePatch = 64 * 128 * 192

func readStateDict(t *testing.T, name string) (stateDict, spec) {
	t.Helper()
	var d stateDict
	readJSON(t, filepath.Join(golden.Root(t), "testdata", "state-dicts", name+".json"), &d)
	sp := spec{Name: name, Mode: "eval"}
	require.NoError(t, json.Unmarshal(d.argument("input_channels", "in_channels"),
		&sp.InputChannels))
	require.NoError(t, json.Unmarshal(d.argument("num_classes", "out_channels"), &sp.NumClasses))
	if v, ok := d.Constructor["feature_size"]; ok {
		sp.Swin = &swinSpec{Class: "SwinUNETR"}
		if strings.HasSuffix(name, "v2") {
			sp.Swin.Class = "SwinUNETRv2"
		}
		require.NoError(t, json.Unmarshal(v, &sp.Swin.FeatureSize))
		sp.InputShape = d.GoldenForward.Cases[0].InputShape
		return d, sp
	}
	// The files have short class names; plans.json, and so our reader, has full ones.
	kwargs := map[string]json.RawMessage{
		"conv_op":    json.RawMessage(`"torch.nn.modules.conv.Conv3d"`),
		"norm_op":    json.RawMessage(`"torch.nn.modules.instancenorm.InstanceNorm3d"`),
		"dropout_op": json.RawMessage("null"), "nonlin": json.RawMessage(`"torch.nn.LeakyReLU"`),
		"nonlin_kwargs": json.RawMessage(`{"inplace": true}`),
	}
	for _, k := range []string{"n_stages", "features_per_stage", "kernel_sizes", "strides",
		"n_conv_per_stage", "n_blocks_per_stage",
		"n_conv_per_stage_decoder", "conv_bias", "norm_op_kwargs", "bottleneck_channels",
		"stem_channels"} {
		if v, ok := d.Constructor[k]; ok {
			kwargs[k] = v
		}
	}
	imports := []string{"conv_op", "norm_op", "dropout_op", "nonlin"}
	if v, ok := d.Constructor["block"]; ok {
		imports = append(imports, "block")
		kwargs["block"] = json.RawMessage(`"dynamic_network_architectures.building_blocks.residual.` + strings.Trim(string(v), `"`) + `"`)
	}
	block, err := json.Marshal(map[string]any{"network_class_name": "dynamic_network_architectures.architectures.unet." + d.NetworkClass[strings.LastIndexByte(d.NetworkClass, '.')+1:], "arch_kwargs": kwargs, "_kw_requires_import": imports})
	require.NoError(t, err)
	sp.Architecture = block
	return d, sp
}

// requireSameJSON compares rows of mixed types.
func requireSameJSON(t *testing.T, want, got any) {
	t.Helper()
	w, err := json.Marshal(want)
	require.NoError(t, err)
	g, err := json.Marshal(got)
	require.NoError(t, err)
	require.Equal(t, string(w), string(g))
}

// TestStateDicts: names, order, shapes, aliases and optimizer indices of nnU-Net's standard
// networks and of small ones, and their outputs for hash-filled weights.
func TestStateDicts(t *testing.T) {
	parameters := map[string]int64{"plainconvunet": 31195594, "resencm": 102349770,
		"resencl": 102349770, "swinunetr": 62186708, "swinunetrv2": 72762068}
	for _, name := range []string{"plainconvunet", "resencm", "resencl", "tiny-plainconvunet-aniso",
		"tiny-resenc-basic", "tiny-resenc-bottleneck",
		"swinunetr", "swinunetrv2", "tiny-swinunetr", "tiny-swinunetrv2"} {
		t.Run(name, func(t *testing.T) {
			d, sp := readStateDict(t, name)
			onTorch(t, func(s *torch.Scope) {
				n := build(t, s, sp)
				var rows, named [][4]any
				ids := map[*nn.Param]int{}
				for _, p := range n.Module().StateDict() {
					if _, ok := ids[p.Param]; !ok {
						ids[p.Param] = len(ids)
					}
					rows = append(rows, [4]any{p.Name, p.Shape, p.T.DType().String(), ids[p.Param]})
				}
				for i, p := range n.Module().Parameters() {
					named = append(named, [4]any{i, p.Name, p.Shape, numel(p.Shape)})
				}
				requireSameJSON(t, d.StateDict, rows)
				requireSameJSON(t, d.NamedParameters, named)
				require.Equal(t, d.Counts["parameters"], models.ParameterCount(n))
				if want, ok := parameters[name]; ok {
					require.Equal(t, want, models.ParameterCount(n))
				}
				meta, second := n.Module().Metadata(), 0
				for _, m := range meta {
					if m.Version == 2 {
						second++
					}
				}
				require.Len(t, meta, d.Metadata.Entries)
				require.Equal(t, d.Metadata.Version2Entries, second)

				if name == "resencm" {
					return // its network is resencl's
				}
				fill(t, n)
				d.requireForward(t, s, n, 0, largePatch)
			})
		})
	}
}

// requireForward runs the golden forward cases of least to less than limit voxels.
func (d stateDict) requireForward(t *testing.T, s *torch.Scope, n models.Network, least,
	limit int64) {
	t.Helper()
	ran := 0
	require.NoError(t, torch.NoGrad(func() error {
		for _, c := range d.GoldenForward.Cases {
			if voxels := numel(c.InputShape[2:]); voxels < least || voxels >= limit {
				continue
			}
			ran++
			n.SetDeepSupervision(c.DeepSupervision)
			require.NoError(t, s.With(func(s *torch.Scope) error {
				heads := n.Forward(s, hashTensor(s, -1, c.InputShape))
				require.NoError(t, s.Err())
				require.Len(t, heads, len(c.Outputs))
				for i, want := range c.Outputs {
					require.Equal(t, want.Shape, heads[i].Shape())
					v, l2 := torchtest.Float32s(t, heads[i]), 0.0
					var sample []float32
					for _, j := range want.Indices {
						sample = append(sample, v[j])
					}
					for _, x := range v {
						l2 += float64(x) * float64(x)
					}
					golden.Close(t, fmt.Sprintf("head %d", i), "forward-wide", nil, want.Values,
						sample)
					require.InEpsilon(t, want.L2, math.Sqrt(l2), 1e-5, "head %d", i)
				}
				return nil
			}))
		}
		return nil
	}))
	require.Positive(t, ran)
}

// TestMetadata: module paths and versions, and the names' order, equal those in a checkpoint that
// nnU-Net wrote.
func TestMetadata(t *testing.T) {
	onTorch(t, func(s *torch.Scope) {
		n := foundation(t, s)
		weights := foundationWeights(t)
		var names, want []any
		for _, p := range n.Module().StateDict() {
			names = append(names, p.Name)
		}
		require.Equal(t, weights.Keys(), names)
		m, ok := weights.Attrs.Get("_metadata")
		require.True(t, ok)
		meta := m.(*pickle.OrderedDict)
		var got []any
		for _, path := range meta.Keys() {
			v, _ := meta.Get(path)
			version, _ := v.(*pickle.Dict).Get("version")
			want = append(want, path, version)
		}
		for _, m := range n.Module().Metadata() {
			got = append(got, m.Path, int64(m.Version))
		}
		require.Equal(t, want, got)
	})
}

// TestInitialisation: Reset draws from nnU-Net's distributions, reproducibly for a seed.
// Source: dynamic_network_architectures 0.3.1, InitWeights_He(1e-2) and
// init_last_bn_before_add_to_0.
func TestInitialisation(t *testing.T) {
	for _, name := range []string{"plain-channels", "resenc-basic", "resenc-bottleneck",
		"resunet-bottleneck"} {
		t.Run(name, func(t *testing.T) {
			sp := networkCases(t, golden.Path(t, "network"))[golden.Path(t, "network/"+name+".npz")]
			// Enough elements per tensor for narrow limits.
			block := strings.NewReplacer("[5, 7, 9]", "[30, 40, 50]", "[4, 6, 6, 8]",
				"[30, 40, 40, 50]", "[4, 8, 8]", "[30, 40, 40]",
				"[2, 4, 4]", "[30, 30, 30]", `"stem_channels": 6`,
				`"stem_channels": 30`).Replace(string(sp.Architecture))
			require.NotEqual(t, string(sp.Architecture), block)
			sp.Architecture = json.RawMessage(block)
			onTorch(t, func(s *torch.Scope) {
				draw := func(seed uint64) (models.Network, arrays) {
					n := build(t, s, sp)
					g, err := torch.NewGenerator(torch.CPU, seed)
					require.NoError(t, err)
					defer g.Close()
					require.NoError(t, n.Module().Reset(g, nil))
					all := arrays{}
					for _, p := range n.Module().Parameters() {
						all[p.Name] = torchtest.Float32s(t, p.T)
					}
					return n, all
				}
				n, first := draw(1)
				_, again := draw(1)
				_, other := draw(2)
				requireSameBits(t, first, again)
				require.NotEqual(t, first, other)
				zeroed := 0
				for _, p := range n.Module().Parameters() {
					v, last := first[p.Name], "conv2.norm."
					if strings.HasSuffix(name, "bottleneck") && strings.HasPrefix(p.Name, "encoder.") {
						last = "conv3.norm."
					}
					switch {
					case len(p.Shape) > 1: // fan_in is axis 1 times the kernel, transposed or not
						std := math.Sqrt(2/(1+1e-4)) / math.Sqrt(float64(numel(p.Shape[1:])))
						requireNormal(t, p.Name, v, std)
					case strings.Contains(p.Name, ".blocks.") && strings.Contains(p.Name, last):
						zeroed++
						requireAll(t, p.Name, v, 0)
					case strings.HasSuffix(p.Name, "norm.weight"):
						requireAll(t, p.Name, v, 1)
					default:
						requireAll(t, p.Name, v, 0)
					}
				}
				require.Equal(t, name != "plain-channels", zeroed > 0)

				// A predicate reinitialises some modules only: the heads of a transferred network.
				g, err := torch.NewGenerator(torch.CPU, 3)
				require.NoError(t, err)
				defer g.Close()
				require.NoError(t, n.Module().Reset(g,
					func(path string) bool { return strings.Contains(path, "seg_layers.") }))
				for _, p := range n.Module().Parameters() {
					if strings.Contains(p.Name, "seg_layers.") &&
						strings.HasSuffix(p.Name, "weight") {
						require.NotEqual(t, first[p.Name], torchtest.Float32s(t, p.T), p.Name)
					} else {
						require.Equal(t, first[p.Name], torchtest.Float32s(t, p.T), p.Name)
					}
				}
			})
		})
	}
}

// requireNormal checks that v is a plausible sample of N(0, std²): mean, variance and kurtosis
// within five standard errors.
func requireNormal(t *testing.T, name string, v []float32, std float64) {
	t.Helper()
	n, mean, second, fourth := float64(len(v)), 0.0, 0.0, 0.0
	for _, x := range v {
		z := float64(x) / std
		mean += z / n
		second += z * z / n
		fourth += z * z * z * z / n
	}
	require.InDelta(t, 0, mean, 5/math.Sqrt(n), "%s: mean in standard deviations", name)
	require.InDelta(t, 1, second, 5*math.Sqrt(2/n), "%s: variance relative to %v²", name, std)
	require.InDelta(t, 3, fourth, 5*math.Sqrt(96/n), "%s: fourth moment", name)
}

func requireAll(t *testing.T, name string, v []float32, want float32) {
	t.Helper()
	for _, x := range v {
		require.Equal(t, want, x, name)
	}
}

// TestDropout: in training Dropout3d zeroes whole channels with its probability and scales the
// rest; in evaluation nothing.
func TestDropout(t *testing.T) {
	// The decoder's only block gives 3 everywhere before its dropout, and the head copies its
	// channels.
	block := `{"network_class_name": "x.PlainConvUNet", "arch_kwargs": {"n_stages": 2, "features_per_stage": [64, 4],
		"conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [[1, 1, 1], [1, 1, 1]], "strides": [[1, 1, 1], [2, 2, 2]],
		"n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1], "conv_bias": true, "norm_op": null,
		"dropout_op": "torch.nn.%s", "dropout_op_kwargs": {"p": 0.25, "inplace": true}, "nonlin": null}, "_kw_requires_import": []}`
	for _, op := range []string{"Dropout3d", "Dropout"} {
		t.Run(op, func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				n := build(t, s, spec{Architecture: json.RawMessage(fmt.Sprintf(block, op)),
					InputChannels: 1, NumClasses: 64, Mode: "train"})
				g, err := torch.NewGenerator(torch.CPU, 1)
				require.NoError(t, err)
				defer g.Close()
				require.NoError(t, n.Module().Reset(g, nil))
				require.NoError(t, torch.NoGrad(func() error {
					for _, p := range n.Module().Parameters() {
						switch p.Name {
						case "decoder.stages.0.convs.0.conv.weight":
							s.Fill_(p.T, 0)
						case "decoder.stages.0.convs.0.conv.bias":
							s.Fill_(p.T, 3)
						case "decoder.seg_layers.0.weight":
							eye := make([]float32, 64*64)
							for i := range 64 {
								eye[65*i] = 1
							}
							require.NoError(t, torch.CopyIn(p.T, eye))
						}
					}
					require.NoError(t, torch.ManualSeed(1))
					shape := []int64{8, 1, 4, 4, 4}
					// count returns the number of zeros and of channels with both zeros and other
					// values, which must be other.
					count := func(other float64) (zeros, mixed int) {
						v := torchtest.Float32s(t, n.Forward(s, hashTensor(s, -1, shape))[0])
						for channel := range 8 * 64 {
							dead := 0
							for _, x := range v[64*channel : 64*channel+64] {
								if x == 0 {
									dead++
									continue
								}
								require.InDelta(t, other, x, 1e-5)
							}
							zeros += dead
							if dead != 0 && dead != 64 {
								mixed++
							}
						}
						return zeros, mixed
					}
					zeros, mixed := count(4)
					fraction, draws := float64(zeros)/(8*64*64), 8.0*64
					if op == "Dropout3d" {
						require.Zero(t, mixed, "channels zeroed in part")
					} else {
						require.Greater(t, mixed, 500, "channels zeroed in part")
						draws *= 64
					}
					require.InDelta(t, 0.25, fraction, 5*math.Sqrt(0.25*0.75/draws))
					n.SetTraining(false)
					zeros, _ = count(3)
					require.Zero(t, zeros)
					return nil
				}))
			})
		})
	}
}

// TestErrors: user errors, with messages that state the next step.
func TestErrors(t *testing.T) {
	sp := networkCases(t, golden.Path(t, "network"))[golden.Path(t, "network/plain-aniso.npz")]
	onTorch(t, func(s *torch.Scope) {
		b := nn.Builder{Scope: s, Device: torch.CPU}
		a := architecture(t, string(sp.Architecture))
		_, err := models.Build(b, models.Spec{InputChannels: 1, NumClasses: 2})
		require.EqualError(t, err, "models: no architecture")
		_, err = models.Build(b, models.Spec{Architecture: a, NumClasses: 2})
		require.EqualError(t, err, "models: 0 input channels and 2 classes: expected at least 1 "+
			"of each")

		batch := strings.Replace(string(sp.Architecture), "instancenorm.InstanceNorm3d",
			"batchnorm.BatchNorm3d", 1)
		_, err = models.Build(b, models.Spec{Architecture: architecture(t, batch), InputChannels: 1,
			NumClasses: 2})
		require.EqualError(t, err, "models: PlainConvUNet: norm_op BatchNorm3d is not supported, "+
			"expected InstanceNorm2d or InstanceNorm3d")

		running := strings.Replace(string(sp.Architecture), `"affine": true`,
			`"affine": true, "track_running_stats": true`, 1)
		_, err = models.Build(b, models.Spec{Architecture: architecture(t, running),
			InputChannels: 1, NumClasses: 2})
		require.EqualError(t, err, "models: PlainConvUNet: norm_op_kwargs: track_running_stats "+
			"is not supported")

		n := build(t, s, sp)
		require.NoError(t, n.CheckInput([]int64{4, 16, 12}))
		require.EqualError(t, n.CheckInput([]int64{16, 12}),
			"models: input size [16 12] has 2 axes, expected 3")
		require.EqualError(t, n.CheckInput([]int64{3, 16, 12}),
			"models: input size [3 16 12] is not divisible by [2 4 4], the product of the "+
				"strides; the nearest valid size is [4 16 12]")
		require.EqualError(t, n.CheckInput([]int64{4, 0, 12}),
			"models: input size [4 0 12] is not divisible by [2 4 4], the product of the "+
				"strides; the nearest valid size is [4 4 12]")
		require.EqualError(t, n.CheckInput([]int64{2, 4, 4}),
			"models: input size [2 4 4] leaves one voxel at the lowest resolution (strides [2 4 "+
				"4]), expected at least two; use a larger patch")
		for shape, want := range map[[5]int64]string{
			{1, 1, 4, 16, 10}: "models: input size [4 16 10] is not divisible by [2 4 4], the " +
				"product of the strides; the nearest valid size is [4 16 12]",
			{1, 3, 4, 16, 12}: "expected input[1, 3, 4, 16, 12] to have 1 channels, but got 3 " +
				"channels instead",
		} {
			err := torch.With(func(s *torch.Scope) error {
				n.Forward(s, s.Zeros(shape[:], torch.Float32, torch.CPU))
				return nil
			})
			require.ErrorContains(t, err, want)
		}
		err = torch.With(func(s *torch.Scope) error {
			n.Forward(s, s.Zeros([]int64{1, 1, 16, 12}, torch.Float32, torch.CPU))
			return nil
		})
		require.EqualError(t, err, "models: input has shape [1 1 16 12], expected (n, c, 3 "+
			"spatial axes)")
	})
}

// TestFailedForward: after a failure inside a network, Forward gives nothing and the scope says
// what happened.
func TestFailedForward(t *testing.T) {
	for _, name := range []string{"plain-3d", "resenc-basic"} {
		sp := networkCases(t, golden.Path(t, "network"))[golden.Path(t, "network/"+name+".npz")]
		onTorch(t, func(s *torch.Scope) {
			n := build(t, s, sp)
			fill(t, n)
			parameters := n.Module().Parameters()
			parameters[len(parameters)/2].T.Free()
			err := torch.With(func(c *torch.Scope) error {
				require.Empty(t, n.Forward(c, hashTensor(c, -1, sp.InputShape)))
				return nil
			})
			require.ErrorContains(t, err, "freed", name)
		})
	}
}

package baselines_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/baselines"
	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/formats/safetensors"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// threads is the thread count of the Python oracle.
const threads = 2

// loraCase is one case of scripts/golden/lora.py.
type loraCase struct {
	Spec struct {
		Architecture  json.RawMessage `json:"architecture"`
		InputChannels int             `json:"input_channels"`
		NumClasses    int             `json:"num_classes"`
		InputShape    []int64         `json:"input_shape"`
	} `json:"spec"`
	Rank  int64   `json:"rank"`
	Alpha float64 `json:"alpha"`
	Steps int     `json:"steps"`
}

func loraCases(t *testing.T) map[string]loraCase {
	t.Helper()
	files, err := filepath.Glob(golden.Path(t, "lora/*.json"))
	require.NoError(t, err)
	require.Len(t, files, 3)
	cases := map[string]loraCase{}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		var c loraCase
		golden.LoadJSON(t, "lora/"+name+".json", &c)
		cases[name] = c
	}
	return cases
}

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

func (c loraCase) build(t *testing.T, s *torch.Scope) models.Network {
	t.Helper()
	axes := strings.TrimSuffix(strings.Repeat("1, ", len(c.Spec.InputShape)-2), ", ")
	v, err := plans.DecodeJSON(fmt.Appendf(nil, `{"configurations": {"c": {"data_identifier": "d", "batch_size": 2,
		"patch_size": [%s], "spacing": [%s], "architecture": %s}}}`, axes, axes, c.Spec.Architecture))
	require.NoError(t, err)
	p, err := plans.FromObject(v.(*plans.Object), "test")
	require.NoError(t, err)
	conf, err := p.Configuration("c")
	require.NoError(t, err)
	a, err := models.Parse(conf)
	require.NoError(t, err)
	n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU}, models.Spec{Architecture: a,
		InputChannels: c.Spec.InputChannels, NumClasses: c.Spec.NumClasses})
	require.NoError(t, err)
	n.SetDeepSupervision(true)
	return n
}

func hashTensor(s *torch.Scope, p int, shape []int64) *torch.Tensor {
	return torch.FromSlice(s, golden.HashInput(p, shape), shape...)
}

// fill sets the network's parameters to their hash values and those of the adapters to the
// oracle's.
func fill(t *testing.T, m *nn.Module) {
	t.Helper()
	i, adapter := 0, 0
	for _, p := range m.Parameters() {
		if strings.Contains(p.Name, ".lora_") {
			v := golden.HashInput(1000+adapter, p.Shape)
			for j := range v {
				v[j] *= 0.3
			}
			adapter++
			require.NoError(t, torch.CopyIn(p.T, v))
			continue
		}
		require.NoError(t, torch.CopyIn(p.T, golden.HashParameter(i, p.Name, p.Shape)))
		i++
	}
}

// method builds lora with the settings "name value name value …".
func method(t *testing.T, settings ...string) finetune.Method {
	t.Helper()
	e, err := finetune.Lookup("lora")
	require.NoError(t, err)
	v := finetune.Values{}
	for i := 0; i < len(settings); i += 2 {
		v[settings[i]] = settings[i+1]
	}
	m, err := e.Make(v)
	require.NoError(t, err)
	return m
}

func inject(t *testing.T, m finetune.Method, s *torch.Scope, module *nn.Module, reference bool) {
	t.Helper()
	require.NoError(t, m.(finetune.Injector).Inject(finetune.Injection{Module: module,
		Builder: nn.Builder{Scope: s, Device: torch.CPU}, Seed: 1, Reference: reference}))
	for _, p := range module.Parameters() {
		require.NoError(t, p.T.SetRequiresGrad(m.Trains(p.Name, p.Shape)))
	}
}

func (c loraCase) method(t *testing.T, dropout string) finetune.Method {
	return method(t, "lora-rank", fmt.Sprint(c.Rank), "lora-alpha", fmt.Sprint(c.Alpha),
		"lora-dropout", dropout)
}

// forwarder is a network, or a single layer in its place.
type forwarder interface {
	Module() *nn.Module
	Forward(s *torch.Scope, x *torch.Tensor) []*torch.Tensor
	SetTraining(on bool)
}

type arrays map[string][]float32

// run repeats the oracle's steps and returns the arrays that it writes.
func run(t *testing.T, s *torch.Scope, net forwarder, shape []int64, steps int) arrays {
	t.Helper()
	got := arrays{}
	net.SetTraining(true)
	params := net.Module().Parameters()
	var tensors []*torch.Tensor
	for _, p := range params {
		tensors = append(tensors, p.T)
	}
	sgd, err := optim.NewSGD(tensors, torch.SGD{LR: 1e-2, Momentum: 0.99, WeightDecay: 3e-5,
		Nesterov: true, Impl: torch.SingleTensor})
	require.NoError(t, err)
	defer sgd.Close()
	for i := range steps {
		require.NoError(t, s.With(func(s *torch.Scope) error {
			require.NoError(t, torch.ManualSeed(uint64(i)))
			sgd.SetLR(1e-2 * math.Pow(1-float64(i)/float64(steps), 0.9))
			require.NoError(t, torch.ClearGrads(tensors))
			heads := net.Forward(s, hashTensor(s, -100-i, shape))
			var loss *torch.Tensor
			for k, h := range heads {
				l := s.Mean(s.Pow(s.Sub(h, hashTensor(s, -2-k, h.Shape())), 2))
				if loss == nil {
					loss = s.AddScalar(l, 0) // Python's sum starts at 0
					continue
				}
				loss = s.Add(loss, l)
			}
			if i == 0 {
				for k, h := range heads {
					got[fmt.Sprintf("head_%d", k)] = torchtest.Float32s(t, h)
				}
			}
			require.NoError(t, s.Err())
			require.NoError(t, loss.Backward())
			for _, p := range params {
				require.Equal(t, p.T.RequiresGrad(), p.T.HasGrad(), p.Name) // a frozen weight has none
				if i == 0 && p.T.HasGrad() {
					got["grad/"+p.Name] = torchtest.Float32s(t, s.Grad(p.T))
				}
			}
			norm := optim.ClipGradNorm(s, tensors, 12)
			got["norms"] = append(got["norms"], torchtest.Float32s(t, norm)...)
			got["losses"] = append(got["losses"], torchtest.Float32s(t, loss)...)
			sgd.Step(s, nil)
			return s.Err()
		}))
	}
	for _, p := range params {
		if p.T.RequiresGrad() {
			got["final/"+p.Name] = torchtest.Float32s(t, p.T)
		}
	}
	for name, v := range evaluate(t, s, net, shape) {
		got[name] = v
	}
	return got
}

func evaluate(t *testing.T, s *torch.Scope, net forwarder, shape []int64) arrays {
	t.Helper()
	got := arrays{}
	net.SetTraining(false)
	require.NoError(t, torch.NoGrad(func() error {
		return s.With(func(s *torch.Scope) error {
			for k, h := range net.Forward(s, hashTensor(s, -1, shape)) {
				got[fmt.Sprintf("eval_%d", k)] = torchtest.Float32s(t, h)
			}
			return s.Err()
		})
	}))
	return got
}

func readNpz(t *testing.T, path string) arrays {
	t.Helper()
	z, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer z.Close()
	all := arrays{}
	for _, name := range z.Names() {
		_, all[name] = golden.Float32s(t, z, name)
	}
	return all
}

var loraTolerances = map[string]string{"head": "forward", "eval": "adapter-trained",
	"grad": "gradient", "losses": "trajectory-loss", "norms": "trajectory-norm",
	"final": "adapter-trained"}

func requireClose(t *testing.T, want, got arrays) {
	t.Helper()
	require.Equal(t, names(want), names(got))
	for _, n := range names(want) {
		kind, _, _ := strings.Cut(strings.ReplaceAll(n, "_", "/"), "/")
		require.NotEmpty(t, loraTolerances[kind], n)
		golden.Close(t, n, loraTolerances[kind], nil, want[n], got[n])
	}
}

func requireSameBits(t *testing.T, want, got arrays) {
	t.Helper()
	require.Equal(t, names(want), names(got))
	for _, n := range names(want) {
		golden.Equal(t, n, nil, want[n], got[n])
	}
}

func names(a arrays) []string {
	var list []string
	for n := range a {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// PEFT's heads, gradients and ten steps with B ≠ 0: computed as in PEFT, and with W + ΔW folded.
func TestLoRAIsPEFTs(t *testing.T) {
	for name, c := range loraCases(t) {
		want := readNpz(t, golden.Path(t, "lora/"+name+".npz"))
		for _, reference := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s reference=%v", name, reference), func(t *testing.T) {
				onTorch(t, func(s *torch.Scope) {
					n := c.build(t, s)
					n.SetFast(!reference)
					inject(t, c.method(t, "0"), s, n.Module(), reference)
					fill(t, n.Module())
					requireClose(t, want, run(t, s, n, c.Spec.InputShape, c.Steps))
				})
			})
		}
	}
}

func spec(t *testing.T, name string) string { return golden.Path(t, "lora/"+name+".json") }

// TestLiveLoRA: bit-equal to PEFT, with dropout too.
func TestLiveLoRA(t *testing.T) {
	golden.Python(t)
	t.Setenv("OMP_NUM_THREADS", fmt.Sprint(threads))
	root := t.TempDir()
	folder := func(name, dropout string) string { return filepath.Join(root, name+"-"+dropout) }
	dropouts := []string{"0.1", "0"}
	var runs [][]string
	for name := range loraCases(t) {
		for _, dropout := range dropouts {
			runs = append(runs, []string{"--spec", spec(t, name), "--out", folder(name, dropout),
				"--threads", fmt.Sprint(threads), "--dropout", dropout})
		}
	}
	golden.RunAll(t, "lora.py", runs...)
	for name, c := range loraCases(t) {
		for _, dropout := range dropouts {
			t.Run(name+" dropout "+dropout, func(t *testing.T) {
				dir := folder(name, dropout)
				onTorch(t, func(s *torch.Scope) {
					n := c.build(t, s)
					inject(t, c.method(t, dropout), s, n.Module(), true)
					fill(t, n.Module())
					requireSameBits(t, readNpz(t, filepath.Join(dir, "lora.npz")),
						run(t, s, n, c.Spec.InputShape, c.Steps))
				})
			})
		}
	}
}

// linears is lora.py's network of two linear layers.
type linears struct {
	root      *nn.Module
	qkv, proj *nn.Linear
}

func newLinears(s *torch.Scope) *linears {
	b := nn.Builder{Scope: s, Device: torch.CPU}
	l := &linears{nn.NewModule(), b.NewLinear(5, 12, true), b.NewLinear(12, 3, false)}
	l.root.Child("qkv", l.qkv.Module)
	l.root.Child("proj", l.proj.Module)
	return l
}

func (l *linears) Module() *nn.Module  { return l.root }
func (l *linears) SetTraining(on bool) { l.root.SetTraining(on) }
func (l *linears) Forward(s *torch.Scope, x *torch.Tensor) []*torch.Tensor {
	return []*torch.Tensor{l.proj.Forward(s, l.qkv.Forward(s, x))}
}

func (l *linears) run(t *testing.T, s *torch.Scope, dropout string, reference bool) arrays {
	inject(t, method(t, "lora-rank", "2", "lora-alpha", "3", "lora-dropout", dropout,
		"lora-targets", "qkv,proj"), s, l.root, reference)
	fill(t, l.root)
	return run(t, s, l, []int64{2, 4, 5}, 10)
}

func TestLoRAOfLinearLayersIsPEFTs(t *testing.T) {
	for _, reference := range []bool{true, false} {
		onTorch(t, func(s *torch.Scope) {
			requireClose(t, readNpz(t, golden.Path(t, "lora/linear.npz")), newLinears(s).run(t, s,
				"0", reference))
		})
	}
}

func TestLiveLoRAOfLinearLayers(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	golden.Run(t, "lora.py", "--linear", "--out", dir, "--threads", fmt.Sprint(threads))
	onTorch(t, func(s *torch.Scope) {
		requireSameBits(t, readNpz(t, filepath.Join(dir, "lora.npz")), newLinears(s).run(t, s,
			"0.1", true))
	})
}

// TestLivePEFTLoadsOurFolder: after ten of our steps, PEFT loads the exported folder, uses every
// tensor and returns our outputs; our own reader returns the same.
func TestLivePEFTLoadsOurFolder(t *testing.T) {
	golden.Python(t)
	t.Setenv("OMP_NUM_THREADS", fmt.Sprint(threads))
	for name, c := range loraCases(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			onTorch(t, func(s *torch.Scope) {
				n := c.build(t, s)
				m := c.method(t, "0.1")
				fill(t, n.Module())
				base := filepath.Join(dir, "base.pth")
				require.NoError(t, checkpoint.SaveWeights(base, n.Module()))
				inject(t, m, s, n.Module(), true)
				fill(t, n.Module())
				trained := run(t, s, n, c.Spec.InputShape, c.Steps)
				folder, err := m.(finetune.Exporter).Export(dir, map[string]string{"note": "ours"})
				require.NoError(t, err)
				require.Equal(t, filepath.Join(dir, "adapter"), folder)
				out := golden.Run(t, "lora.py", "--spec", spec(t, name), "--out", dir, "--threads",
					fmt.Sprint(threads), "--weights", base, "--load", folder)
				var report struct {
					Unexpected, Missing []string
					Adapted             int
					Config              map[string]any
				}
				require.NoError(t, json.Unmarshal(out, &report))
				require.Empty(t, report.Unexpected)
				require.Empty(t, report.Missing)
				require.Equal(t, float64(c.Rank), report.Config["r"])
				require.Equal(t, []any{"conv"}, report.Config["target_modules"])
				want := readNpz(t, filepath.Join(dir, "loaded.npz"))
				require.NotEmpty(t, want)
				for k, v := range want {
					golden.Equal(t, k, nil, v, trained[k])
				}
				a, err := peft.Open(folder, models.CanonicalLayer)
				require.NoError(t, err)
				defer a.Close()
				require.Equal(t, "ours", a.Metadata["note"])
				unique := map[string]bool{}
				for _, l := range a.Layers {
					unique[strings.TrimPrefix(l.Name,
						"decoder.")] = unique[strings.TrimPrefix(l.Name, "decoder.")] ||
						strings.HasPrefix(l.Name, "encoder.")
				}
				require.LessOrEqual(t, report.Adapted, len(a.Layers))
			})
		})
	}
}

// TestLiveReleasedCheckpoints: checkpoints of the released trainer load directly, as their B is
// zero; with nonzero B they are refused, and merging them gives the outputs of PEFT's active
// adapters to 1e-6.
func TestLiveReleasedCheckpoints(t *testing.T) {
	golden.Python(t)
	t.Setenv("OMP_NUM_THREADS", fmt.Sprint(threads))
	root := t.TempDir()
	var runs [][]string
	for name := range loraCases(t) {
		runs = append(runs, []string{"--spec", spec(t, name), "--released",
			filepath.Join(root, name), "--threads", fmt.Sprint(threads)})
	}
	golden.RunAll(t, "lora.py", runs...)
	for name, c := range loraCases(t) {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, name)
			onTorch(t, func(s *torch.Scope) {
				n := c.build(t, s)
				fill(t, n.Module())
				plain := evaluate(t, s, n, c.Spec.InputShape)
				load := func(file string) (*checkpoint.Report, error) {
					f, err := checkpoint.Open(filepath.Join(dir, file))
					require.NoError(t, err)
					defer f.Close()
					require.NoError(t, n.Module().Reset(nil, nil))
					return checkpoint.LoadWeights(n.Module(), f.Weights, checkpoint.LoadOptions{})
				}
				for _, file := range []string{"zero.pth", "compiled.pth"} {
					report, err := load(file)
					require.NoError(t, err)
					require.Positive(t, report.Count(checkpoint.NoEffect))
					require.Contains(t, report.Table(0), "adapter tensors without effect")
					requireSameBits(t, plain, evaluate(t, s, n, c.Spec.InputShape))
				}
				_, err := load("B.pth")
				require.ErrorContains(t, err, "merge them into the weights with `lntorch merge`")

				f, err := checkpoint.Open(filepath.Join(dir, "B.pth"))
				require.NoError(t, err)
				defer f.Close()
				e := checkpoint.NewEdit(f, models.Canonical)
				pairs, layers := map[string]checkpoint.LowRank{}, 0
				for _, w := range f.Weights {
					layer, part, ok := peft.SplitName(w.Name)
					if !ok || strings.HasPrefix(layer, "decoder.encoder.") {
						continue
					}
					p := pairs[layer]
					if p.Layer, p.Scaling = layer, c.Alpha/float64(c.Rank); part == "A" {
						p.A = w.Tensor
					} else {
						p.B = w.Tensor
					}
					pairs[layer] = p
				}
				for _, p := range pairs {
					require.NoError(t, e.AddLowRank(p))
					layers++
				}
				require.Positive(t, layers)
				require.NoError(t, e.Save(filepath.Join(dir, "merged.pth"), "nnUNetTrainer"))
				_, err = load("merged.pth")
				require.NoError(t, err)
				want, got := readNpz(t, filepath.Join(dir, "merged.npz")),
					evaluate(t, s, n, c.Spec.InputShape)
				require.Equal(t, names(want), names(got))
				for k, v := range want {
					golden.Close(t, k, "merged", nil, v, got[k])
				}
			})
		})
	}
}

// Folding is differentiable: the gradients of A and B are those of PEFT's three convolutions, also
// through transposed convolutions and the network's fused operators.
func TestFoldAndForwardAgree(t *testing.T) {
	c := loraCases(t)["resenc-basic"]
	compute := func(reference, fused bool) arrays {
		var got arrays
		onTorch(t, func(s *torch.Scope) {
			n := c.build(t, s)
			n.SetFast(fused)
			m := method(t, "lora-rank", "3", "lora-dropout", "0", "lora-transposed", "true",
				"lora-targets", `.*(conv|transpconvs\.\d+)`)
			inject(t, m, s, n.Module(), reference)
			fill(t, n.Module())
			got = run(t, s, n, c.Spec.InputShape, 2)
		})
		return got
	}
	want := compute(true, false)
	require.Contains(t, want, "grad/decoder.transpconvs.0.lora_A.default.weight")
	require.Contains(t, want, "grad/encoder.stages.1.blocks.0.skip.1.conv.lora_B.default.weight",
		"a 1×1×1 convolution")
	requireClose(t, want, compute(false, false))
	requireClose(t, want, compute(false, true))
	requireClose(t, want, compute(true, true))
}

// Dropout acts on the input of the adapters, only in training mode, with every numerics setting.
func TestDropoutActsWhileTraining(t *testing.T) {
	c := loraCases(t)["plain-aniso"]
	for _, reference := range []bool{true, false} {
		onTorch(t, func(s *torch.Scope) {
			n := c.build(t, s)
			inject(t, c.method(t, "0.5"), s, n.Module(), reference)
			fill(t, n.Module())
			forward := func(seed uint64, training bool) []float32 {
				n.SetTraining(training)
				require.NoError(t, torch.ManualSeed(seed))
				return torchtest.Float32s(t, n.Forward(s, hashTensor(s, -1, c.Spec.InputShape))[0])
			}
			one := forward(1, true)
			require.Equal(t, one, forward(1, true))
			require.NotEqual(t, one, forward(2, true))
			require.Equal(t, forward(1, false), forward(2, false))
			require.NotEqual(t, one, forward(1, false))
		})
	}
}

// With dropout, fast numerics combine A and B where the rank is at least the number of output
// channels: both forms have the same masks, and the same gradients within rounding.
func TestFastDropoutIsTheSameArithmetic(t *testing.T) {
	c := loraCases(t)["resenc-basic"] // 4 to 8 channels
	for _, rank := range []string{"5", "16"} {
		compute := func(reference bool) (got arrays) {
			onTorch(t, func(s *torch.Scope) {
				n := c.build(t, s)
				m := method(t, "lora-rank", rank, "lora-dropout", "0.3", "lora-transposed", "true",
					"lora-targets", `.*(conv|transpconvs\.\d+)`)
				inject(t, m, s, n.Module(), reference)
				baselines.PlainDropout(m)
				fill(t, n.Module())
				got = run(t, s, n, c.Spec.InputShape, 2)
			})
			return got
		}
		requireClose(t, compute(true), compute(false))
	}
}

// Initial values: A is U(±1/√fan_in), B is 0, so the network initially equals its base; a seed
// gives the same values.
func TestInitialisationIsPEFTs(t *testing.T) {
	c := loraCases(t)["plain-aniso"]
	onTorch(t, func(s *torch.Scope) {
		n := c.build(t, s)
		fill(t, n.Module())
		before := evaluate(t, s, n, c.Spec.InputShape)
		m := method(t)
		inject(t, m, s, n.Module(), true)
		requireSameBits(t, before, evaluate(t, s, n, c.Spec.InputShape))
		first := map[string][]float32{}
		for _, p := range n.Module().Parameters() {
			switch {
			case strings.HasSuffix(p.Name, "lora_B.default.weight"):
				require.Equal(t, int64(32), p.Shape[1])
				for _, v := range torchtest.Float32s(t, p.T) {
					require.Zero(t, v)
				}
			case strings.HasSuffix(p.Name, "lora_A.default.weight"):
				require.Equal(t, int64(32), p.Shape[0])
				fan := int64(1)
				for _, d := range p.Shape[1:] {
					fan *= d
				}
				bound := 1 / math.Sqrt(float64(fan))
				var squares, largest float64
				v := torchtest.Float32s(t, p.T)
				for _, x := range v {
					squares += float64(x) * float64(x)
					largest = max(largest, math.Abs(float64(x)))
				}
				require.LessOrEqual(t, largest, bound)
				require.Greater(t, largest, 0.95*bound)
				require.InEpsilon(t, bound/math.Sqrt(3), math.Sqrt(squares/float64(len(v))), 0.1)
				first[p.Name] = v
			}
		}
		require.Len(t, first, 8)
		again := c.build(t, s)
		inject(t, method(t), s, again.Module(), true)
		for _, p := range again.Module().Parameters() {
			if v, ok := first[p.Name]; ok {
				require.Equal(t, v, torchtest.Float32s(t, p.T))
			}
		}
	})
}

// Merging yields a plain network with the outputs of the adapted one, to 1e-6.
func TestMergeKeepsTheOutputs(t *testing.T) {
	for name, c := range loraCases(t) {
		t.Run(name, func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				n := c.build(t, s)
				m := c.method(t, "0.1")
				inject(t, m, s, n.Module(), true)
				fill(t, n.Module())
				want := evaluate(t, s, n, c.Spec.InputShape)
				require.NoError(t, m.(finetune.Injector).Merge())
				for _, p := range n.Module().Parameters() {
					require.NotContains(t, p.Name, "lora_")
				}
				for k, v := range evaluate(t, s, n, c.Spec.InputShape) {
					golden.Close(t, k, "merged", nil, want[k], v)
				}
			})
		})
	}
}

// State holds the adapters and the frozen weights: another network resumes to the same bits.
func TestStateAndRestore(t *testing.T) {
	c := loraCases(t)["plain-aniso"]
	onTorch(t, func(s *torch.Scope) {
		n := c.build(t, s)
		m := c.method(t, "0.1")
		inject(t, m, s, n.Module(), true)
		fill(t, n.Module())
		state, err := m.(finetune.Stateful).State()
		require.NoError(t, err)
		require.Len(t, state, 3*8)
		path := filepath.Join(t.TempDir(), "weights.pth")
		require.NoError(t, checkpoint.SaveWeights(path, n.Module()))
		want := run(t, s, n, c.Spec.InputShape, 3)

		other := c.build(t, s)
		o := c.method(t, "0.1")
		inject(t, o, s, other.Module(), true)
		f, err := checkpoint.Open(path)
		require.NoError(t, err)
		defer f.Close()
		_, err = checkpoint.LoadWeights(other.Module(), f.Weights, checkpoint.LoadOptions{})
		require.NoError(t, err, "a checkpoint has the plain network's names")
		require.NoError(t, o.(finetune.Stateful).Restore(state))
		requireSameBits(t, want, run(t, s, other, c.Spec.InputShape, 3))

		require.ErrorContains(t, o.(finetune.Stateful).Restore(state[1:]),
			"holds 23 adapter tensors")
		bad := slices.Clone(state)
		bad[0].Value = []byte{1, 2}
		require.ErrorContains(t, o.(finetune.Stateful).Restore(bad),
			"has 2 bytes in the checkpoint")
		bad[0].Value = "text"
		require.ErrorContains(t, o.(finetune.Stateful).Restore(bad), "has an unexpected type")
		bad[0] = finetune.StateEntry{Name: "A/nowhere", Value: []byte{}}
		require.ErrorContains(t, o.(finetune.Stateful).Restore(bad),
			"no adapter of decoder.stages.0.convs.0.conv")
	})
}

// --lora-init starts from the A and B of a folder.
func TestInitFromAFolder(t *testing.T) {
	c := loraCases(t)["plain-aniso"]
	onTorch(t, func(s *torch.Scope) {
		n := c.build(t, s)
		m := c.method(t, "0")
		inject(t, m, s, n.Module(), true)
		fill(t, n.Module())
		folder, err := m.(finetune.Exporter).Export(t.TempDir(), nil)
		require.NoError(t, err)
		other := c.build(t, s)
		o := method(t, "lora-rank", fmt.Sprint(c.Rank), "lora-alpha", fmt.Sprint(c.Alpha),
			"lora-init", folder)
		inject(t, o, s, other.Module(), true)
		want := n.Module().Parameters()
		for i, p := range other.Module().Parameters() {
			if strings.Contains(p.Name, "lora_") {
				require.Equal(t, torchtest.Float32s(t, want[i].T), torchtest.Float32s(t, p.T),
					p.Name)
			}
		}
		fails := func(message string, settings ...string) {
			err := method(t, append(settings, "lora-init",
				folder)...).(finetune.Injector).Inject(finetune.Injection{
				Module: c.build(t, s).Module(), Builder: nn.Builder{Scope: s, Device: torch.CPU}})
			require.ErrorContains(t, err, message)
		}
		fails("is 1.5, expected 0.5 from --lora-alpha and --lora-rank", "lora-rank",
			fmt.Sprint(c.Rank), "lora-alpha", "1")
		fails("has shape", "lora-rank", "4", "lora-alpha", "6")
		fails("has no adapter of decoder.transpconvs.0", "lora-rank", fmt.Sprint(c.Rank),
			"lora-alpha", fmt.Sprint(c.Alpha),
			"lora-transposed", "true", "lora-targets", "conv,transpconvs.0")
		path := filepath.Join(folder, peft.ConfigFile)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path,
			[]byte(strings.Replace(string(text), `"init_lora_weights": true`,
				`"init_lora_weights": "olora"`, 1)), 0o644))
		fails("init_lora_weights in its adapter_config.json modified the base weights", "lora-rank",
			fmt.Sprint(c.Rank), "lora-alpha", fmt.Sprint(c.Alpha))
	})
}

// architectures.md's counts of the released trainer: 22 and 62 layers, and the number of trainable
// parameters.
func TestReleasedNetworksHaveTheReleasedCounts(t *testing.T) {
	for file, want := range map[string]struct {
		layers            int
		adapters, trained int64
	}{
		"plainconvunet": {22, 3856224, 3866314},
		"resencl":       {62, 12153696, 12182986},
	} {
		t.Run(file, func(t *testing.T) {
			var doc struct {
				Class       string         `json:"network_class"`
				Constructor map[string]any `json:"constructor"`
			}
			b, err := os.ReadFile(filepath.Join(golden.Root(t), "testdata/state-dicts",
				file+".json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(b, &doc))
			for _, k := range []string{"input_channels", "num_classes", "deep_supervision"} {
				delete(doc.Constructor, k)
			}
			if block, ok := doc.Constructor["block"]; ok {
				doc.Constructor["block"] = "dynamic_network_architectures.building_blocks.residual." + block.(string)
			}
			architecture, err := json.Marshal(map[string]any{"network_class_name": doc.Class,
				"arch_kwargs": doc.Constructor, "_kw_requires_import": []string{}})
			require.NoError(t, err)
			onTorch(t, func(s *torch.Scope) {
				c := loraCase{}
				c.Spec.Architecture, c.Spec.InputChannels, c.Spec.NumClasses,
					c.Spec.InputShape = architecture, 1, 2, make([]int64, 5)
				n := c.build(t, s)
				m := method(t)
				inject(t, m, s, n.Module(), false)
				layers, adapters, trained := 0, int64(0), int64(0)
				for _, p := range n.Module().Parameters() {
					size := p.T.Numel()
					if strings.Contains(p.Name, ".lora_") {
						adapters += size
					}
					if strings.HasSuffix(p.Name, ".lora_A.default.weight") {
						layers++
					}
					if p.T.RequiresGrad() {
						trained += size
					}
				}
				require.Equal(t, want.layers, layers)
				require.Equal(t, want.adapters, adapters)
				require.Equal(t, want.trained, trained)

				released := method(t, "lora-as-released", "true")
				plain := c.build(t, s)
				inject(t, released, s, plain.Module(), false)
				trained = 0
				for _, p := range plain.Module().Parameters() {
					require.NotContains(t, p.Name, "lora_")
					if p.T.RequiresGrad() {
						trained += p.T.Numel()
					}
				}
				require.Equal(t, want.trained-want.adapters, trained, "biases and heads")
			})
		})
	}
}

func TestAsReleasedSaysSo(t *testing.T) {
	m := method(t, "lora-as-released", "true")
	require.Contains(t, strings.Join(m.(finetune.Noter).Notes(), "\n"), "the adapters never run")
	path, err := m.(finetune.Exporter).Export(t.TempDir(), nil)
	require.NoError(t, err)
	require.Empty(t, path)
	state, err := m.(finetune.Stateful).State()
	require.NoError(t, err)
	require.Empty(t, state)
	require.NoError(t, m.(finetune.Stateful).Restore(nil))
}

func TestTargets(t *testing.T) {
	c := loraCases(t)["resenc-2d"]
	adapted := func(settings ...string) (list []string, notes string) {
		onTorch(t, func(s *torch.Scope) {
			n := c.build(t, s)
			m := method(t, settings...)
			inject(t, m, s, n.Module(), false)
			for _, p := range n.Module().Parameters() {
				if layer, ok := strings.CutSuffix(p.Name, ".lora_A.default.weight"); ok {
					list = append(list, layer)
				}
			}
			notes = strings.Join(m.(finetune.Noter).Notes(), "\n")
		})
		return list, notes
	}
	all, _ := adapted()
	require.NotEmpty(t, all)
	for _, l := range all {
		require.True(t, strings.HasSuffix(l, ".conv"), l)
	}
	some, notes := adapted("lora-targets", "conv1.conv, transpconvs.0")
	require.NotEmpty(t, some)
	for _, l := range some {
		require.True(t, strings.HasSuffix(l, ".conv1.conv"), l)
	}
	require.Contains(t, notes, "1 transposed convolutions are among the targets")
	more, _ := adapted("lora-targets", "conv1.conv,transpconvs.0", "lora-transposed", "true")
	require.Equal(t, append(slices.Clone(some), "decoder.transpconvs.0"), more)
	stem, _ := adapted("lora-targets", `encoder\.stem\..*`)
	require.Equal(t, []string{"encoder.stem.convs.0.conv"}, stem)
	heads, _ := adapted("lora-targets", `.*`)
	require.NotContains(t, strings.Join(heads, " "), "seg_layers", "heads train as a whole")

	onTorch(t, func(s *torch.Scope) {
		err := method(t, "lora-targets",
			"qkv").(finetune.Injector).Inject(finetune.Injection{Module: c.build(t, s).Module(),
			Builder: nn.Builder{Scope: s, Device: torch.CPU}})
		require.ErrorContains(t, err, "matches none of the")
		require.ErrorContains(t, err, "….conv")
	})
}

func TestSettingsAreChecked(t *testing.T) {
	e, err := finetune.Lookup("lora")
	require.NoError(t, err)
	require.Equal(t, "nnUNetTrainer_lora", e.Trainer)
	require.Equal(t, 1e-3, e.LR)
	require.Equal(t, 200, e.Epochs)
	for name, values := range map[string][]string{"lora-rank": {"0", "x", "1.5"},
		"lora-alpha": {"0", "-1", "NaN", "inf"}, "lora-dropout": {"1", "-0.1", "NaN"},
		"lora-targets": {"", "conv,", "(("}, "lora-transposed": {"yes"}} {
		for _, v := range values {
			_, err := e.Make(finetune.Values{name: v})
			require.ErrorContains(t, err, "--"+name, v)
		}
	}
}

func TestFolderHoldsAliasesAsPEFTs(t *testing.T) {
	c := loraCases(t)["plain-aniso"]
	onTorch(t, func(s *torch.Scope) {
		n := c.build(t, s)
		m := c.method(t, "0.1")
		inject(t, m, s, n.Module(), false)
		folder, err := m.(finetune.Exporter).Export(t.TempDir(), nil)
		require.NoError(t, err)
		f, err := safetensors.Open(filepath.Join(folder, peft.TensorsFile))
		require.NoError(t, err)
		defer f.Close()
		for _, name := range []string{"encoder.stages.0.0.convs.0.conv.lora_A.weight",
			"decoder.encoder.stages.0.0.convs.0.conv.lora_B.weight",
			"encoder.stages.0.0.convs.0.conv.base_layer.bias",
			"encoder.stages.0.0.convs.0.all_modules.0.bias", "decoder.transpconvs.0.bias",
			"decoder.seg_layers.0.weight"} {
			require.NotNil(t, f.Tensor("base_model.model."+name), name)
		}
		require.Nil(t, f.Tensor("base_model.model.encoder.stages.0.0.convs.0.all_modules.0.lora_A.weight"))
		require.Nil(t, f.Tensor("base_model.model.encoder.stages.0.0.convs.0.norm.weight"))
	})
}

// Ranks that hold some rows of a batch compute what one rank computes for these rows: adapters' dropout
// and the plans' draw for the rows of the batch, with every numerics setting, in windows of a
// transformer too.
func TestRanksDropWhatOneRankDrops(t *testing.T) {
	cases := map[string]loraCase{"swin": {}}
	for name, op := range map[string]string{"resenc-basic": "torch.nn.Dropout3d", "resenc-2d": "torch.nn.Dropout"} {
		c := loraCases(t)[name]
		with := strings.Replace(string(c.Spec.Architecture), `"dropout_op": null, "dropout_op_kwargs": null`,
			fmt.Sprintf(`"dropout_op": %q, "dropout_op_kwargs": {"p": 0.2}`, op), 1)
		require.NotEqual(t, string(c.Spec.Architecture), with)
		c.Spec.Architecture = json.RawMessage(with)
		cases[name] = c
	}
	for name, c := range cases {
		for _, reference := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, reference %v", name, reference), func(t *testing.T) {
				onTorch(t, func(s *torch.Scope) {
					shape := append([]int64{}, c.Spec.InputShape...)
					var n models.Network
					targets := `.*(conv|transpconvs\.\d+)`
					if name == "swin" {
						shape, targets = []int64{3, 1, 64, 32}, `.*(qkv|proj|linear\d)`
						var err error
						n, err = models.Build(nn.Builder{Scope: s, Device: torch.CPU},
							models.Spec{InputChannels: 1, NumClasses: 2, Architecture: &models.SwinUNETR{
								Axes: 2, FeatureSize: 12, Depths: []int{2, 2, 2, 2}, Heads: []int{3, 6, 12, 24}}})
						require.NoError(t, err)
					} else {
						n = c.build(t, s)
					}
					shape[0] = 3
					inject(t, method(t, "lora-rank", "3", "lora-dropout", "0.3", "lora-targets", targets), s,
						n.Module(), reference)
					fill(t, n.Module())
					x := hashTensor(s, -1, shape)
					forward := func(r torch.Rows, seed uint64) (out []float32) {
						require.NoError(t, torch.ManualSeed(seed))
						require.NoError(t, s.With(func(s *torch.Scope) error {
							s.SetRows(r)
							out = torchtest.Float32s(t, n.Forward(s, s.Narrow(x, 0, r.First, r.Count))[0])
							return nil
						}))
						return out
					}
					whole := forward(torch.Rows{Count: 3}, 1)
					row := len(whole) / 3
					for _, r := range []torch.Rows{{First: 0, Count: 1, All: 3}, {First: 1, Count: 2, All: 3}} {
						want := whole[int(r.First)*row:][:int(r.Count)*row]
						golden.Close(t, fmt.Sprint("rows ", r), "forward-rows", nil, want, forward(r, 1))
					}
					require.NotEqual(t, whole, forward(torch.Rows{Count: 3}, 2))
				})
			})
		}
	}
}

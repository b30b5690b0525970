package train_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/train"
)

// methodRuns are the runs of scripts/golden/methods.py by their names there, and how Python is told of each live.
var methodRuns = map[string]struct {
	method string
	values finetune.Values
	script string
	args   []string
}{
	"full": {"full", nil, "train_steps.py", []string{"--trained", "full", "--lr", "0.01"}},
	"head": {"head", nil, "train_steps.py", []string{"--trained", "head", "--lr", "0.01"}},
	"bias": {"bias", nil, "train_steps.py", []string{"--trained", "bias", "--lr", "0.01"}},
	"norm": {"norm", nil, "train_steps.py", []string{"--trained", "norm", "--lr", "0.001"}},
	"dgst-gradmask-dynamic": {"dgst", nil,
		"dgst.py", []string{"--mode", "gradmask"}},
	"dgst-strict-dynamic-output": {"dgst", finetune.Values{"dgst-mode": "strict", "dgst-rows": "output"},
		"dgst.py", []string{"--mode", "strict", "--rows", "output"}},
	"dgst-paper-dynamic-kernel": {"dgst", finetune.Values{"dgst-mode": "paper", "dgst-rows": "kernel", "dgst-k": "1"},
		"dgst.py", []string{"--mode", "paper", "--rows", "kernel", "--k", "1"}},
	"dgst-strict-static": {"dgst", finetune.Values{"dgst-mode": "strict", "dgst-select": "static"},
		"dgst.py", []string{"--mode", "strict", "--select", "static"}},
	"dgst-gradmask-static-warmup": {"dgst", finetune.Values{"dgst-select": "static", "dgst-rows": "output", "dgst-k": "3", "dgst-warmup": "4"},
		"dgst.py", []string{"--select", "static", "--rows", "output", "--k", "3", "--warmup", "4"}},
	"dgst-strict-random": {"dgst", finetune.Values{"dgst-mode": "strict", "dgst-select": "random"},
		"dgst.py", []string{"--mode", "strict", "--select", "random"}},
	"dgst-gradmask-random-kernel": {"dgst", finetune.Values{"dgst-select": "random", "dgst-rows": "kernel", "dgst-k": "1"},
		"dgst.py", []string{"--select", "random", "--rows", "kernel", "--k", "1"}},
	"dgst-released": {"dgst", finetune.Values{"dgst-mode": "released"}, "dgst.py", []string{"--mode", "released"}},
}

// hashStart writes the network of a spec, filled by the integer hash of scripts/golden/stack.py.
func hashStart(t *testing.T, spec trainSpec, path string) {
	t.Helper()
	p, _ := spec.documents(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		conf, err := p.Configuration("c")
		require.NoError(t, err)
		a, err := models.Parse(conf)
		require.NoError(t, err)
		n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU}, models.Spec{Architecture: a, InputChannels: spec.InputChannels, NumClasses: spec.NumClasses})
		require.NoError(t, err)
		for i, p := range n.Module().Parameters() {
			require.NoError(t, torch.CopyIn(p.T, golden.HashParameter(i, p.Name, p.Shape)))
		}
		return checkpoint.SaveWeights(path, n.Module())
	}))
}

// writeBatches writes the arrays of an .npz file as the .npy files that Trace reads.
func writeBatches(t *testing.T, f *npz.File, folder string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(folder, 0o755))
	for _, name := range f.Names() {
		a, err := f.Read(name)
		require.NoError(t, err)
		file, err := os.Create(filepath.Join(folder, strings.Replace(name, "/", "_", 1)+".npy"))
		require.NoError(t, err)
		require.NoError(t, npz.WriteNpy(file, a))
		require.NoError(t, file.Close())
	}
}

// Ten steps of every method are the oracle's: losses, norms, counts and weights. Where this machine computes as the oracle's
// did, every bit.
func TestTenStepsOfEveryMethod(t *testing.T) {
	for _, network := range []string{"binary", "resenc-2d"} {
		for name, c := range methodRuns {
			t.Run(network+"-"+name, func(t *testing.T) {
				torchtest.NoLeak(t)
				var want struct {
					Spec trainSpec
					oracleRun
					Trained string
				}
				golden.LoadJSON(t, "methods/"+network+"-"+name+".json", &want)
				dir := t.TempDir()
				start, batches, out := filepath.Join(dir, "start.pth"), filepath.Join(dir, "batches"), filepath.Join(dir, "out")
				hashStart(t, want.Spec, start)
				writeBatches(t, golden.Load(t, "methods/"+network+".npz"), batches)
				m, entry := makeMethod(t, c.method, c.values)
				p, d := want.Spec.documents(t)
				require.NoError(t, train.Trace(context.Background(), train.TraceConfig{Checkpoint: start, Plans: p, Dataset: d, Configuration: "c", Batches: batches,
					Output: out, MethodName: c.method, Method: m, TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: entry.LR, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2, Numerics: machine.Reference}}))
				wantLosses := readLosses(t, golden.Path(t, "methods/"+network+"-"+name+".json"))
				require.Len(t, wantLosses.Losses, 10)
				compareLosses(t, wantLosses, readLosses(t, filepath.Join(out, "losses.json")))
				if want.Now != nil && want.Now[9] > 0 {
					now, ever := m.(finetune.Counter).Counts()
					require.Equal(t, want.Now[9], now)
					if sameMachine(t) || c.values["dgst-select"] == "random" {
						require.Equal(t, want.Ever[9], ever)
					}
				}
				before, after := readWeights(t, start), readWeights(t, filepath.Join(out, "final.pth"))
				require.NotEmpty(t, want.Final)
				for name, sample := range want.Final {
					var got []float32
					for _, i := range sample.At {
						got = append(got, after[name][i])
					}
					golden.Close(t, name, "trajectory-weight", nil, sample.Values, got)
					if sameMachine(t) {
						require.Equal(t, want.SHA256[name], digest(after[name]), "%s: every bit", name)
					}
					if !m.Trains(name, nil) {
						require.Equal(t, digest(before[name]), digest(after[name]), "%s: frozen, every bit", name)
					}
				}
			})
		}
	}
}

// Ten steps of every method, bit for bit, against Python on this machine: each on one of two networks.
func TestLiveTenStepsOfEveryMethod(t *testing.T) {
	for i, name := range slices.Sorted(maps.Keys(methodRuns)) {
		c := methodRuns[name]
		network := []string{"resenc-3d", "multi-ignore"}[i%2]
		t.Run(network+"-"+name, func(t *testing.T) {
			golden.Python(t)
			torchtest.NoLeak(t)
			var file struct{ Spec json.RawMessage }
			golden.LoadJSON(t, "train/"+network+".json", &file)
			var spec trainSpec
			require.NoError(t, json.Unmarshal(file.Spec, &spec))
			p, d := spec.documents(t)
			dir := t.TempDir()
			start, batches := filepath.Join(dir, "start.pth"), filepath.Join(dir, "batches")
			theirs, ours := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
			hashStart(t, spec, start)
			write(t, filepath.Join(dir, "spec.json"), string(file.Spec))
			args := append([]string{"--out", theirs, "--spec", filepath.Join(dir, "spec.json"), "--weights", "hash", "--make-batches", "10", "--batches-out", batches,
				"--seed", "5", "--threads", "2", "--deterministic"}, c.args...)
			golden.Run(t, c.script, args...)
			m, entry := makeMethod(t, c.method, c.values)
			require.NoError(t, train.Trace(context.Background(), train.TraceConfig{Checkpoint: start, Plans: p, Dataset: d, Configuration: "c", Batches: batches,
				Output: ours, MethodName: c.method, Method: m, TraceSettings: train.TraceSettings{Seed: 5, Optimizer: train.Optimizer{LR: entry.LR, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2, Numerics: machine.Reference}}))
			require.Equal(t, readLosses(t, filepath.Join(theirs, "losses.json")), readLosses(t, filepath.Join(ours, "losses.json")))
			sameArrays(t, filepath.Join(theirs, "first_gradients.npz"), filepath.Join(ours, "first_gradients.npz"))
			if _, err := os.Stat(filepath.Join(theirs, "mask.npz")); err == nil {
				sameArrays(t, filepath.Join(theirs, "mask.npz"), filepath.Join(ours, "mask.npz"))
			}
			want, got := readWeights(t, filepath.Join(theirs, "final.pth")), readWeights(t, filepath.Join(ours, "final.pth"))
			require.Len(t, got, len(want))
			for name, w := range want {
				golden.Equal(t, name, nil, w, got[name])
			}
		})
	}
}

// Chance follows the seed of the training.
func TestRandomSelectionFollowsTheSeed(t *testing.T) {
	torchtest.NoLeak(t)
	path := mini(t, sourceModel+"/fold_0/checkpoint_final.pth")
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	batches := t.TempDir()
	for _, name := range []string{"data", "target_0", "target_1", "target_2"} {
		b, err := os.ReadFile(mini(t, "trajectory/batch_00_"+name+".npy"))
		require.NoError(t, err)
		write(t, filepath.Join(batches, "batch_00_"+name+".npy"), string(b))
	}
	masks := map[uint64]string{}
	for _, seed := range []uint64{1, 2, 1} {
		m, entry := makeMethod(t, "dgst", finetune.Values{"dgst-select": "random"})
		out := t.TempDir()
		require.NoError(t, train.Trace(context.Background(), train.TraceConfig{Checkpoint: path, Plans: f.Plans, Dataset: f.Dataset, Configuration: f.Configuration,
			Batches: batches, Output: out, MethodName: "dgst", Method: m, TraceSettings: train.TraceSettings{Seed: seed, Optimizer: train.Optimizer{LR: entry.LR, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2}}))
		b, err := os.ReadFile(filepath.Join(out, "mask.npz"))
		require.NoError(t, err)
		if masks[seed] != "" {
			require.Equal(t, masks[seed], string(b))
		}
		masks[seed] = string(b)
	}
	require.NotEqual(t, masks[1], masks[2])
}

// Without --numerics reference the biases' gradients are added up in another order, and nothing else changes.
func TestFastStepsOfMethodsAreClose(t *testing.T) {
	for _, method := range []string{"bias", "norm"} {
		var want struct{ Spec trainSpec }
		golden.LoadJSON(t, "methods/binary-"+method+".json", &want)
		torchtest.NoLeak(t)
		dir := t.TempDir()
		start, batches := filepath.Join(dir, "start.pth"), filepath.Join(dir, "batches")
		hashStart(t, want.Spec, start)
		writeBatches(t, golden.Load(t, "methods/binary.npz"), batches)
		p, d := want.Spec.documents(t)
		var runs []map[string][]float32
		for _, reference := range []bool{true, false} {
			m, entry := makeMethod(t, method, nil)
			out := t.TempDir()
			require.NoError(t, train.Trace(context.Background(), train.TraceConfig{Checkpoint: start, Plans: p, Dataset: d, Configuration: "c", Batches: batches,
				Output: out, MethodName: method, Method: m, TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: entry.LR, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2, Numerics: map[bool]machine.Numerics{false: machine.Fast, true: machine.Reference}[reference]}}))
			runs = append(runs, readWeights(t, filepath.Join(out, "final.pth")))
		}
		for name, w := range runs[0] {
			golden.Close(t, name, "trajectory-weight", nil, w, runs[1][name])
		}
	}
}

// What does not train has no gradient, no momentum, and its bits after a whole training; what trains has all three.
func TestFrozenParametersCostNothing(t *testing.T) {
	for _, c := range []struct {
		method string
		refine finetune.Refine
		trains func(name string) bool
	}{
		{"head", finetune.Refine{}, func(n string) bool { return strings.Contains(n, "seg_layers") }},
		{"bias", finetune.Refine{}, func(n string) bool { return strings.Contains(n, "bias") || strings.Contains(n, "seg_layers") }},
		{"norm", finetune.Refine{}, func(n string) bool { return strings.Contains(n, "norm") || strings.Contains(n, "seg_layers") }},
		{"head", finetune.Refine{Train: []string{"decoder.stages.*"}, Freeze: []string{"*.bias", "decoder.stages.0.*"}}, func(n string) bool {
			return !strings.HasSuffix(n, ".bias") && (strings.Contains(n, "seg_layers") || strings.HasPrefix(n, "decoder.stages.1."))
		}},
		{"dgst", finetune.Refine{Freeze: []string{"encoder.*"}}, func(n string) bool { return !strings.HasPrefix(n, "encoder.") }},
		{"full", finetune.Refine{Freeze: []string{"*norm*"}}, func(n string) bool { return !strings.Contains(n, "norm") }},
	} {
		t.Run(fmt.Sprint(c.method, c.refine), func(t *testing.T) {
			torchtest.NoLeak(t)
			source := run(t, tiny{}.config(t, "plain", "full", nil))
			conf := tiny{}.config(t, "plain", c.method, nil)
			conf.Pretrained, conf.Head, conf.Refine = source.Checkpoint, train.HeadKeep, c.refine
			var log strings.Builder
			conf.Echo = &log
			r := run(t, conf)
			before, after := readWeights(t, source.Checkpoint), readWeights(t, r.Checkpoint)
			f, err := checkpoint.Open(r.Checkpoint)
			require.NoError(t, err)
			defer f.Close()
			seen, numbers := 0, int64(0)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				tr, err := f.Training(s)
				require.NoError(t, err)
				for i, name := range parameterNames(t, conf) {
					buffer := tr.SGD.Buffers[i] != nil
					if !c.trains(name) {
						require.False(t, buffer, "%s: momentum of a frozen parameter", name)
						require.Equal(t, digest(before[name]), digest(after[name]), name)
						continue
					}
					seen, numbers = seen+1, numbers+int64(len(after[name]))
					if !strings.Contains(name, "seg_layers.0.") { // never has a gradient
						require.True(t, buffer, name)
						require.NotEqual(t, digest(before[name]), digest(after[name]), name)
					}
				}
				return nil
			}))
			require.Positive(t, seen)
			require.Contains(t, log.String(), "method "+c.method+" trains "+thousands(numbers)+" of ")
			require.Regexp(t, `(?m)^\s*all +[0-9,]+ +`+thousands(numbers)+`\b`, log.String())
		})
	}
}

// thousands is how the log writes numbers.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// parameterNames are the parameters of tiny's network in order.
func parameterNames(t *testing.T, c train.Config) (names []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.Preprocessed, c.PlansName+".json"))
	require.NoError(t, err)
	var doc struct {
		Configurations map[string]struct{ Architecture json.RawMessage }
	}
	require.NoError(t, json.Unmarshal(b, &doc))
	p, _ := trainSpec{Architecture: doc.Configurations["tiny"].Architecture, InputChannels: 1, NumClasses: 2, Labels: json.RawMessage(`{"background": 0, "a": 1}`)}.documents(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		conf, err := p.Configuration("c")
		require.NoError(t, err)
		a, err := models.Parse(conf)
		require.NoError(t, err)
		n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU}, models.Spec{Architecture: a, InputChannels: 1, NumClasses: 2})
		require.NoError(t, err)
		for _, p := range n.Module().Parameters() {
			names = append(names, p.Name)
		}
		return nil
	}))
	require.True(t, slices.Contains(names, "decoder.seg_layers.0.weight"))
	return names
}

// A step of head needs a fraction of full's memory: no layer of the trunk keeps what it computed. bias and norm need the
// activations, for gradients go through them, and no gradient of a convolution's weight.
func TestMethodsTakeLessMemory(t *testing.T) {
	peak := func(method string) (bytes int64) {
		require.NoError(t, torch.OnThread(2, func() error {
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				spec := trainSpec{InputChannels: 1, NumClasses: 2, Labels: json.RawMessage(`{"background": 0, "a": 1}`), Architecture: json.RawMessage(`{
					"network_class_name": "PlainConvUNet", "arch_kwargs": {"n_stages": 4, "features_per_stage": [16, 32, 64, 64], "conv_op": "torch.nn.modules.conv.Conv3d",
					"kernel_sizes": [[3,3,3],[3,3,3],[3,3,3],[3,3,3]], "strides": [[1,1,1],[2,2,2],[2,2,2],[2,2,2]], "n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2,
					"conv_bias": true, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": true},
					"dropout_op": null, "dropout_op_kwargs": null, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}}}`)}
				p, _ := spec.documents(t)
				conf, err := p.Configuration("c")
				require.NoError(t, err)
				a, err := models.Parse(conf)
				require.NoError(t, err)
				n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU}, models.Spec{Architecture: a, InputChannels: 1, NumClasses: 2})
				require.NoError(t, err)
				gen, err := torch.NewGenerator(torch.CPU, 1)
				require.NoError(t, err)
				defer gen.Close()
				require.NoError(t, n.Module().Reset(gen, nil))
				n.SetDeepSupervision(true)
				n.SetFast(true)
				m, _ := makeMethod(t, method, nil)
				grads := 0
				for _, p := range n.Module().Parameters() {
					trains := m.Trains(p.Name, p.Shape)
					require.NoError(t, p.T.SetRequiresGrad(trains))
					if trains {
						grads++
					}
				}
				x := torchtest.Tensor(s, 1, 2, 1, 32, 64, 64)
				require.NoError(t, torch.CPU.EmptyCache())
				before, _, _, err := torch.CPUMemory()
				require.NoError(t, err)
				require.NoError(t, s.With(func(c *torch.Scope) error {
					heads := n.Forward(c, x)
					sum := c.Mean(heads[0])
					for _, h := range heads[1:] {
						sum = c.Add(sum, c.Mean(h))
					}
					if c.Err() != nil {
						return c.Err()
					}
					return sum.Backward()
				}))
				_, bytes, _, err = torch.CPUMemory()
				require.NoError(t, err)
				bytes -= before
				has := 0
				for _, p := range n.Module().Parameters() {
					if p.T.HasGrad() {
						require.True(t, m.Trains(p.Name, p.Shape), "%s: a gradient that nobody asked for", p.Name)
						has++
					}
				}
				require.Equal(t, grads, has)
				return nil
			}))
			return nil
		}))
		return bytes
	}
	torchtest.NoLeak(t)
	full := peak("full")
	head, bias, norm := peak("head"), peak("bias"), peak("norm")
	t.Logf("peak of a step in MiB: full %d, head %d, bias %d, norm %d", full>>20, head>>20, bias>>20, norm>>20)
	require.Less(t, head, full/2)
	require.Less(t, bias, full)
	require.Less(t, norm, full)
}

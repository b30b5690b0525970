package train_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/dist"
	"github.com/lntorch/lntorch/train"
)

// together runs f as each of the ranks of a group, all in this process, and gives their errors. A rank
// that fails tells the others.
func together(t *testing.T, world int, limit time.Duration, f func(r train.Ranks) error) []error {
	t.Helper()
	torchtest.Require(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	errs := make([]error, world)
	var wait sync.WaitGroup
	for rank := range world {
		wait.Go(func() {
			g, err := dist.Connect(context.Background(), dist.Config{Rank: rank, Size: world, Host: "127.0.0.1", Port: port, Serve: rank == 0, Timeout: limit})
			if err == nil {
				if err = f(train.Ranks{Group: g, Backend: "gloo", Launcher: "num_gpus"}); err != nil {
					g.Fail(err)
				} else {
					err = g.Close()
				}
			}
			errs[rank] = err
		})
	}
	wait.Wait()
	return errs
}

// ddpCase is a training of scripts/golden/ddp_training.py.
type ddpCase struct {
	Name   string         `json:"name"`
	Spec   map[string]any `json:"spec"`
	Rows   int            `json:"rows"`
	Steps  int            `json:"steps"`
	Method string         `json:"method"`
	LR     float64        `json:"lr"`
	Rank   int            `json:"rank"`
	Alpha  float64        `json:"alpha"`

	lntorch string // its method
	values  finetune.Values
}

// ddpCases differ in network, loss and method.
func ddpCases(t *testing.T) []ddpCase {
	var swin map[string]any
	require.NoError(t, json.Unmarshal([]byte(`{"name": "swin", "swin": {"class": "SwinUNETR", "feature_size": 12}, "input_channels": 1, "num_classes": 2,
		"input_shape": [1, 1, 64, 32], "deep_supervision": false, "labels": {"background": 0, "node": 1}, "batch_dice": true}`), &swin))
	spec := func(name string) map[string]any {
		var file struct{ Spec map[string]any }
		golden.LoadJSON(t, "train/"+name+".json", &file)
		return file.Spec
	}
	cases := []ddpCase{
		{Name: "sample Dice", Spec: spec("binary"), Rows: 2, Steps: 10, Method: "full", lntorch: "full"},
		{Name: "batch Dice", Spec: spec("multi-batchdice"), Rows: 2, Steps: 10, Method: "full", lntorch: "full"},
		{Name: "ignore", Spec: spec("multi-ignore"), Rows: 1, Steps: 10, Method: "norm", lntorch: "norm"},
		{Name: "regions", Spec: spec("regions"), Rows: 1, Steps: 10, Method: "bias", lntorch: "bias"},
		{Name: "regions, ignore, batch Dice", Spec: spec("regions-ignore"), Rows: 2, Steps: 10, Method: "full", lntorch: "full"},
		{Name: "ResEnc", Spec: spec("resenc-3d"), Rows: 1, Steps: 10, Method: "strict", lntorch: "dgst", values: finetune.Values{"dgst-mode": "strict"}},
		{Name: "LoRA", Spec: spec("resenc-2d"), Rows: 2, Steps: 10, Method: "lora", Rank: 2, Alpha: 3, lntorch: "lora",
			values: finetune.Values{"lora-rank": "2", "lora-alpha": "3", "lora-dropout": "0"}},
		{Name: "SwinUNETR", Spec: swin, Rows: 1, Steps: 10, Method: "full", lntorch: "full"},
	}
	for i := range cases {
		entry, err := finetune.Lookup(cases[i].lntorch)
		require.NoError(t, err)
		cases[i].LR = entry.LR
	}
	return cases
}

// hashedLoRA is method lora with the adapters that scripts/golden/lora.py begins with. It keeps those
// that it ends with.
type hashedLoRA struct {
	finetune.Method
	finetune.Injector
	adapters map[string]*torch.Tensor
	final    map[string][]float32
}

func (m *hashedLoRA) Inject(in finetune.Injection) error {
	if err := m.Injector.Inject(in); err != nil {
		return err
	}
	m.adapters = map[string]*torch.Tensor{}
	for _, p := range in.Module.Parameters() {
		if !strings.Contains(p.Name, "lora_") {
			continue
		}
		v := golden.HashInput(1000+len(m.adapters), p.Shape)
		for i := range v {
			v[i] *= 0.3
		}
		if err := torch.CopyIn(p.T, v); err != nil {
			return err
		}
		m.adapters[p.Name] = p.T
	}
	return nil
}

func (m *hashedLoRA) Close() error {
	m.final = map[string][]float32{}
	for name, a := range m.adapters {
		v, err := torch.Slice[float32](a)
		if err != nil {
			return err
		}
		m.final[name] = v
	}
	return nil
}

// documents are those of the spec; a network that plans do not describe gets another's.
func (c ddpCase) documents(t *testing.T) (*plans.Plans, *plans.Dataset) {
	var spec trainSpec
	require.NoError(t, json.Unmarshal([]byte(text(t, c.Spec)), &spec))
	if spec.Architecture == nil {
		var other struct{ Spec trainSpec }
		golden.LoadJSON(t, "train/2d.json", &other)
		spec.Architecture = other.Spec.Architecture
	}
	return spec.documents(t)
}

// trace runs the batches in a folder from the weights beside them. It gives the adapters that rank 0 ends with.
func (c ddpCase) trace(t *testing.T, world int, from, to string, numerics machine.Numerics) map[string][]float32 {
	t.Helper()
	p, d := c.documents(t)
	var adapters map[string][]float32
	errs := together(t, world, time.Minute, func(r train.Ranks) error {
		entry, err := finetune.Lookup(c.lntorch)
		if err != nil {
			return err
		}
		m, err := entry.Make(c.values)
		if err != nil {
			return err
		}
		if in, ok := m.(finetune.Injector); ok {
			hashed := &hashedLoRA{Method: m, Injector: in}
			m = hashed
			if r.Group.Rank() == 0 {
				defer func() { adapters = hashed.final }()
			}
		}
		return train.Trace(context.Background(), train.TraceConfig{Checkpoint: filepath.Join(from, "start.pth"), Plans: p, Dataset: d, Configuration: "c",
			Batches: from, Output: to, MethodName: c.lntorch, Method: m, Ranks: r,
			TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: c.LR, WeightDecay: 3e-5, Momentum: 0.99}},
			Machine:       machine.Machine{Device: torch.CPU, Threads: 1, Numerics: numerics}})
	})
	require.NoError(t, errors.Join(errs...))
	return adapters
}

// togetherLosses is losses.json of several ranks.
type togetherLosses struct {
	Losses     []float64   `json:"losses"`
	World      int         `json:"world_size"`
	Rows       []int       `json:"rows"`
	RankLosses [][]float64 `json:"rank_losses"`
	Waits      []float64   `json:"comm_seconds"`
	Weights    []string    `json:"weights_sha256"`
	Masks      []string    `json:"mask_sha256"`
}

func readTogether(t *testing.T, folder string) togetherLosses {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder, "losses.json"))
	require.NoError(t, err)
	var l togetherLosses
	require.NoError(t, json.Unmarshal(b, &l))
	return l
}

// N ranks with the reference's numerics train nnU-Net's network and loss as PyTorch's DistributedDataParallel does, bit
// for bit: every rank's losses, the averaged gradients, ten steps' weights.
func TestLiveRanksAreDistributedDataParallel(t *testing.T) {
	golden.Python(t)
	for _, world := range []int{2, 3} {
		dir := t.TempDir()
		cases := ddpCases(t)
		write(t, filepath.Join(dir, "cases.json"), text(t, cases))
		golden.Run(t, "ddp_training.py", filepath.Join(dir, "cases.json"), "--out", dir, "--world", fmt.Sprint(world))
		for _, c := range cases {
			t.Run(fmt.Sprintf("%d ranks, %s", world, c.Name), func(t *testing.T) {
				torchtest.NoLeak(t)
				theirs, ours := filepath.Join(dir, c.Name), filepath.Join(dir, c.Name, "ours")
				var want struct{ Losses [][]float64 }
				b, err := os.ReadFile(filepath.Join(theirs, "losses.json"))
				require.NoError(t, err)
				require.NoError(t, json.Unmarshal(b, &want))
				adapters := c.trace(t, world, theirs, ours, machine.Reference)
				got := readTogether(t, ours)
				require.Equal(t, world, got.World)
				require.Equal(t, slices.Repeat([]int{c.Rows}, world), got.Rows)
				require.Len(t, got.RankLosses, c.Steps)
				for step, each := range got.RankLosses {
					sum := 0.0
					for rank, l := range each {
						require.Equal(t, want.Losses[rank][step], l, "rank %d, step %d", rank, step)
						sum += l
					}
					require.InEpsilon(t, sum/float64(world), got.Losses[step], 1e-6)
				}
				sameArrays(t, filepath.Join(theirs, "first_gradients.npz"), filepath.Join(ours, "first_gradients.npz"))
				if c.lntorch == "dgst" {
					sameArrays(t, filepath.Join(theirs, "mask.npz"), filepath.Join(ours, "mask.npz"))
					require.Len(t, got.Masks, world)
					require.Len(t, slices.Compact(got.Masks), 1)
				}
				require.Len(t, got.Weights, world)
				f, err := checkpoint.Open(filepath.Join(ours, "final.pth"))
				require.NoError(t, err)
				defer f.Close()
				digest, err := f.Digest(models.Canonical)
				require.NoError(t, err)
				require.Equal(t, slices.Repeat([]string{digest}, world), got.Weights)
				final, err := npz.OpenNpz(filepath.Join(theirs, "final.npz"))
				require.NoError(t, err)
				defer final.Close()
				weights, _ := floatsOf(t, filepath.Join(ours, "final.pth"))
				maps.Copy(weights, adapters)
				require.NotEmpty(t, final.Names())
				for _, name := range final.Names() {
					_, w := npzFloats(t, filepath.Join(theirs, "final.npz"), name)
					golden.Equal(t, name, nil, w, weights[name])
				}
			})
		}
	}
}

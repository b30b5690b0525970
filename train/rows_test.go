package train_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/dist"
	"github.com/lntorch/lntorch/train"
)

// rankProcess tells a process of the tests, which libtorch's generator of random numbers belongs to, what to
// trace as which rank.
type rankProcess struct {
	Spec        trainSpec
	Method      string
	Values      finetune.Values
	Start       string
	Batches     string
	Output      string
	Numerics    machine.Numerics
	Accumulate  int
	Rank, World int
	Port        int
}

const rankVariable = "LNTORCH_TEST_RANK"

func (r *rankProcess) trace(t *testing.T) error {
	m, entry := makeMethod(t, r.Method, r.Values)
	p, d := r.Spec.documents(t)
	c := train.TraceConfig{Checkpoint: r.Start, Plans: p, Dataset: d, Configuration: "c", Batches: r.Batches, Output: r.Output, MethodName: r.Method, Method: m,
		TraceSettings: train.TraceSettings{Seed: 5, Accumulate: r.Accumulate, Optimizer: train.Optimizer{LR: entry.LR, WeightDecay: 3e-5, Momentum: 0.99}},
		Machine:       machine.Machine{Device: torch.CPU, Threads: 1, Numerics: r.Numerics}}
	if r.World == 1 {
		return train.Trace(t.Context(), c)
	}
	g, err := dist.Connect(t.Context(), dist.Config{Rank: r.Rank, Size: r.World, Host: "127.0.0.1", Port: r.Port, Serve: r.Rank == 0, Timeout: time.Minute})
	if err != nil {
		return err
	}
	c.Ranks = train.Ranks{Group: g, Backend: "gloo", Launcher: "num_gpus"}
	if err := train.Trace(t.Context(), c); err != nil {
		g.Fail(err)
		return err
	}
	return errors.Join(g.Barrier(t.Context()), g.Close())
}

// TestRankProcess is a rank of TestRanksDropAndAccumulateAsOneRank.
func TestRankProcess(t *testing.T) {
	text := os.Getenv(rankVariable)
	if text == "" {
		t.Skip("a process of another test")
	}
	var r rankProcess
	require.NoError(t, json.Unmarshal([]byte(text), &r))
	require.NoError(t, r.trace(t))
}

// start runs r as so many ranks, each in a process of its own.
func (r rankProcess) start(t *testing.T, world int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.World, r.Port = world, l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	errs := make([]error, world)
	var wait sync.WaitGroup
	for rank := range world {
		r.Rank = rank
		text, err := json.Marshal(r)
		require.NoError(t, err)
		wait.Go(func() {
			c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestRankProcess$")
			c.Env = append(os.Environ(), rankVariable+"="+string(text))
			if out, err := c.CombinedOutput(); err != nil {
				errs[rank] = fmt.Errorf("rank %d: %w\n%s", rank, err, out)
			}
		})
	}
	wait.Wait()
	require.NoError(t, errors.Join(errs...))
}

// pairs writes four batches, each of which joins the rows of two of a golden file's.
func pairs(t *testing.T, f *npz.File, folder string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(folder, 0o755))
	for _, name := range f.Names() {
		prefix, what, _ := strings.Cut(name, "/")
		if prefix != "batch_00" {
			continue
		}
		for i := range 4 {
			var a, b *npz.Array
			var err error
			a, err = f.Read(fmt.Sprintf("batch_%02d/%s", i, what))
			require.NoError(t, err)
			b, err = f.Read(fmt.Sprintf("batch_%02d/%s", (i+1)%4, what))
			require.NoError(t, err)
			both := join(t, a, b)
			file, err := os.Create(filepath.Join(folder, fmt.Sprintf("batch_%02d_%s.npy", i, what)))
			require.NoError(t, err)
			require.NoError(t, npz.WriteNpy(file, both))
			require.NoError(t, file.Close())
		}
	}
}

// join puts the rows of b behind those of a.
func join(t *testing.T, a, b *npz.Array) (out *npz.Array) {
	t.Helper()
	shape := slices.Clone(a.Shape)
	shape[0] += b.Shape[0]
	x, err := a.Float32s()
	if err == nil {
		y, err := b.Float32s()
		require.NoError(t, err)
		out, err = npz.New(slices.Concat(x, y), shape...)
		require.NoError(t, err)
		return out
	}
	if v, err := a.Int16s(); err == nil {
		w, err := b.Int16s()
		require.NoError(t, err)
		out, err = npz.New(slices.Concat(v, w), shape...)
		require.NoError(t, err)
		return out
	}
	v, err := a.Uint8s()
	require.NoError(t, err)
	w, err := b.Uint8s()
	require.NoError(t, err)
	out, err = npz.New(slices.Concat(v, w), shape...)
	require.NoError(t, err)
	return out
}

// N ranks, in processes of their own, train what one rank trains: rows even and uneven, dropout of
// the plans and of adapters, gradients of several batches.
func TestRanksDropAndAccumulateAsOneRank(t *testing.T) {
	torchtest.Require(t)
	for _, c := range []struct {
		spec, dropout, method string
		values                finetune.Values
		numerics              machine.Numerics
		accumulate            int
		worlds                []int
	}{
		{"multi-batchdice", "torch.nn.Dropout3d", "full", nil, machine.Fast, 1, []int{2, 3}},
		{"multi-ignore", "torch.nn.Dropout", "lora", finetune.Values{"lora-rank": "2", "lora-dropout": "0.2"}, machine.Fast, 2, []int{2, 3}},
		{"binary", "torch.nn.Dropout", "lora", finetune.Values{"lora-rank": "2", "lora-dropout": "0.2"}, machine.Reference, 1, []int{2}},
	} {
		t.Run(fmt.Sprint(c.spec, " ", c.method, " ", c.numerics), func(t *testing.T) {
			var file struct{ Spec trainSpec }
			golden.LoadJSON(t, "train/"+c.spec+".json", &file)
			if c.dropout != "" {
				before := string(file.Spec.Architecture)
				after := strings.Replace(before, `"dropout_op": null, "dropout_op_kwargs": null`,
					fmt.Sprintf(`"dropout_op": %q, "dropout_op_kwargs": {"p": 0.2}`, c.dropout), 1)
				require.NotEqual(t, before, after)
				file.Spec.Architecture = json.RawMessage(after)
			}
			dir := t.TempDir()
			r := rankProcess{Spec: file.Spec, Method: c.method, Values: c.values, Start: filepath.Join(dir, "start.pth"),
				Batches: filepath.Join(dir, "batches"), Output: filepath.Join(dir, "1"), Numerics: c.numerics, Accumulate: c.accumulate}
			hashStart(t, file.Spec, r.Start)
			pairs(t, golden.Load(t, "train/"+c.spec+".npz"), r.Batches)
			r.start(t, 1)
			want, start, end := readLosses(t, filepath.Join(r.Output, "losses.json")), readWeights(t, r.Start), readWeights(t, filepath.Join(r.Output, "final.pth"))
			for _, world := range c.worlds {
				r.Output = filepath.Join(dir, fmt.Sprint(world))
				r.start(t, world)
				got := readLosses(t, filepath.Join(r.Output, "losses.json"))
				require.Len(t, got.Losses, 4/c.accumulate)
				require.InEpsilonSlice(t, want.Losses, got.Losses, 1e-4, "%d ranks", world)
				change, off := 0.0, 0.0
				for name, w := range readWeights(t, filepath.Join(r.Output, "final.pth")) {
					for i := range w {
						change = math.Max(change, math.Abs(float64(end[name][i]-start[name][i])))
						off = math.Max(off, math.Abs(float64(end[name][i]-w[i])))
					}
				}
				require.Positive(t, change)
				require.LessOrEqual(t, off, 1e-3*change, "weights, %d ranks", world)
			}
		})
	}
}

package dist

import (
	"bytes"
	"context"
	"encoding/json"
	"hash/crc32"
	"math"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// A ddpCase is a training of scripts/golden/ddp.py.
type ddpCase struct {
	Net        string `json:"net"`
	World      int    `json:"world"`
	Steps      int    `json:"steps"`
	Accumulate int    `json:"accumulate"`
	Hook       string `json:"hook,omitempty"`
	Gather     bool   `json:"gather"`
	Views      bool   `json:"views"`

	// Of ours alone.
	Split  bool  `json:"split"`
	Bucket int64 `json:"bucket"`
}

type ddpResult struct {
	Gradients []uint32  `json:"gradients"`
	Loss      []float64 `json:"loss"`
	Buckets   [][]int64 `json:"buckets"` // ours alone: in each step
}

var large = []int{3_000_000, 1_000, 7_000_001, 100_000, 1, 12_000_000, 64, 5_000_000, 2_900_000,
	333}

// numbers are those of the script's function of this name.
func numbers(s *torch.Scope, seed uint32, shape ...int64) *torch.Tensor {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(float64(uint32(i)*2654435761+seed*40503)/math.Exp2(32) - 0.5)
	}
	return torch.FromSlice(s, v, shape...)
}

// train is the script's function run.
func train(g *Group, c ddpCase) (*ddpResult, error) {
	out := &ddpResult{}
	err := torch.With(func(s *torch.Scope) error {
		var params []*torch.Tensor
		if c.Net == "small" {
			params = []*torch.Tensor{numbers(s, 1, 33, 17), numbers(s, 2, 33), numbers(s, 3, 5, 33),
				numbers(s, 4, 5)}
		} else {
			for i, n := range large {
				params = append(params, numbers(s, uint32(i), int64(n)))
			}
		}
		for _, p := range params {
			if err := p.SetRequiresGrad(true); err != nil {
				return err
			}
		}
		compress := map[string]Compress{"": Uncompressed, "fp16": FP16, "bf16": BF16}[c.Hook]
		r, err := NewReducer(g, params, ReducerConfig{Split: c.Split, FirstBucket: c.Bucket,
			Bucket: c.Bucket, Views: c.Views, Compress: compress})
		if err != nil {
			return err
		}
		defer r.Close()
		for step := range c.Steps {
			if err := torch.ClearGrads(params); err != nil {
				return err
			}
			err := s.With(func(s *torch.Scope) error {
				return c.step(s, g, r, params, uint32(step), out)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func (c *ddpCase) step(s *torch.Scope, g *Group, r *Reducer, params []*torch.Tensor, step uint32,
	out *ddpResult) error {
	var last float64
	for m := range c.Accumulate {
		seed := 1000*(step+1) + 100*uint32(m) + 10*uint32(g.Rank())
		if err := r.Forward(); err != nil {
			return err
		}
		var loss *torch.Tensor
		if c.Net == "small" {
			h := s.Relu(s.Linear(numbers(s, seed, 8, 17), params[0], params[1]))
			y := s.Mul(s.Linear(h, params[2], params[3]), numbers(s, seed+1, 8, 5))
			loss = s.Mean(s.Mul(y, y))
			if c.Gather {
				each := s.Mul(g.GatherGrad(s, s.SumDims(y, false, 0)), numbers(s, 7, int64(c.World), 5))
				top := s.SumDims(each, false, 0)
				bottom := s.SumDims(g.GatherGrad(s, s.SumDims(s.Mul(y, y), false, 0)), false, 0)
				loss = s.Add(loss, s.Mean(s.Div(top, s.AddScalar(bottom, 1))))
			}
		} else {
			loss = s.Full([]int64{}, 0, torch.Float32, torch.CPU)
			for i, p := range params {
				loss = s.Add(loss, s.Sum(s.Mul(p, numbers(s, seed+uint32(i), int64(large[i])))))
			}
		}
		if s.Err() != nil {
			return s.Err()
		}
		reduce := m+1 == c.Accumulate
		if reduce {
			if err := r.Backward(); err != nil {
				return err
			}
		}
		if err := g.Explain(s.DivScalar(loss, float64(c.Accumulate)).Backward()); err != nil {
			return err
		}
		if reduce {
			if _, err := r.Wait(context.Background()); err != nil {
				return err
			}
		}
		var err error
		if last, err = loss.Item(); err != nil {
			return err
		}
	}
	crc := uint32(0)
	for _, p := range params {
		grad := s.Grad(p)
		b, err := grad.Bytes()
		if err != nil {
			return err
		}
		crc = crc32.Update(crc, crc32.IEEETable, b)
		err = torch.NoGrad(func() error {
			s.Add_(s.Detach(p), grad, -0.1)
			return s.Err()
		})
		if err != nil {
			return err
		}
	}
	buckets, err := r.Buckets()
	out.Gradients = append(out.Gradients, crc)
	out.Loss = append(out.Loss, last)
	out.Buckets = append(out.Buckets, buckets)
	return err
}

func init() {
	bodies["ddp"] = func(g *Group, arg string) (any, error) {
		var c ddpCase
		if err := json.Unmarshal([]byte(arg), &c); err != nil {
			return nil, err
		}
		return train(g, c)
	}
}

// ours is rank 0's result; the other ranks' gradients are the same.
func ours(t *testing.T, c ddpCase) ddpResult {
	t.Helper()
	arg, err := json.Marshal(c)
	require.NoError(t, err)
	got := values[ddpResult](t, ranks(t, "ddp", c.World, string(arg)))
	for r := range got {
		require.Equal(t, got[0].Gradients, got[r].Gradients, "rank %d", r)
	}
	return got[0]
}

// Averaged gradients have the bits of DistributedDataParallel: two, three and four ranks,
// micro-batches accumulated under no_sync, its float16 and bfloat16 hooks, nnU-Net's AllGatherGrad.
func TestLiveGradientsAreThoseOfDDP(t *testing.T) {
	cases := []ddpCase{
		{Net: "small", World: 2, Steps: 4},
		{Net: "small", World: 3, Steps: 4, Gather: true},
		{Net: "small", World: 3, Steps: 3, Accumulate: 3, Views: true},
		{Net: "small", World: 4, Steps: 3, Gather: true, Accumulate: 2},
		{Net: "small", World: 3, Steps: 3, Hook: "fp16"},
		{Net: "small", World: 3, Steps: 3, Hook: "bf16"},
		{Net: "large", World: 3, Steps: 2},
	}
	for i := range cases {
		cases[i].Accumulate = max(1, cases[i].Accumulate)
	}
	theirs := python(t, cases)
	var last ddpResult
	for i, c := range cases {
		got := ours(t, c)
		require.Equal(t, theirs[i].Gradients, got.Gradients, "%+v", c)
		require.Equal(t, theirs[i].Loss, got.Loss, "%+v", c)
		last = got
	}

	// The rule of buckets is what makes the large one equal: in the first iteration one with every
	// parameter, then up to 1 MiB, and 25 MiB, in the order in which gradients come, from the last
	// parameter on. Other buckets have other bits.
	require.Len(t, last.Buckets[0], 1)
	require.Equal(t, []int64{4 * (333 + 2_900_000), 4 * (5_000_000 + 64 + 12_000_000),
		4 * (1 + 100_000 + 7_000_001), 4 * (1_000 + 3_000_000)}, last.Buckets[1])
	want := last.Gradients
	c := cases[len(cases)-1]
	c.Split = true
	other := ours(t, c).Gradients
	require.NotEqual(t, want[0], other[0], "several buckets in the first iteration")
	require.Equal(t, want[1], other[1])
	c.Split, c.Bucket = false, 4<<20
	other = ours(t, c).Gradients
	require.Equal(t, want[0], other[0])
	require.NotEqual(t, want[1], other[1], "smaller buckets")
}

func python(t *testing.T, cases []ddpCase) []ddpResult {
	t.Helper()
	list, err := json.Marshal(cases)
	require.NoError(t, err)
	results := make([]ddpResult, len(cases))
	d := json.NewDecoder(bytes.NewReader(golden.Run(t, "ddp.py", string(list))))
	for i := range results {
		require.NoError(t, d.Decode(&results[i]))
	}
	return results
}

// PyTorch's own store, as torchrun's agent serves it.
func TestLiveStoreOfPython(t *testing.T) {
	torchtest.Require(t)
	port := freePort(t)
	const script = `import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", int(sys.argv[1]), None, True, wait_for_workers=False)
print("ready", flush=True)
sys.stdin.read()`
	cmd := exec.Command(golden.Python(t), "-c", script, strconv.Itoa(port))
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer stdin.Close()
	_, err = stdout.Read(make([]byte, 5))
	require.NoError(t, err)
	clients(t, port)
}

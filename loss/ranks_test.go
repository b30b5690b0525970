package loss_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/dist"
	"github.com/stretchr/testify/require"
)

// exchange stands for the other ranks: what each of them sends is known from an earlier pass.
type exchange struct {
	rank, next int
	sent       [][]*torch.Tensor // of each rank, in the order of its calls
	known      bool
	scope      *torch.Scope // owns what is sent
}

// send keeps what a rank sends in the first pass, and gives what all have sent in the second.
func (e *exchange) send(s *torch.Scope, t *torch.Tensor) []*torch.Tensor {
	if !e.known {
		e.sent[e.rank] = append(e.sent[e.rank], e.scope.Detach(t))
	}
	var all []*torch.Tensor
	for r := range e.sent {
		if e.known {
			all = append(all, e.sent[r][e.next])
		} else {
			all = append(all, s.Detach(t))
		}
	}
	e.next++
	return all
}

// times is t with a gradient of w times its own.
func times(s *torch.Scope, t *torch.Tensor, w int) *torch.Tensor {
	many := s.MulScalar(t, float64(w))
	return s.Add(s.Sub(many, s.Detach(many)), s.Detach(t))
}

func (e *exchange) sum(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	var others *torch.Tensor
	for r, o := range e.send(s, t) {
		if r == e.rank {
			continue
		}
		if others != nil {
			o = s.Add(others, o)
		}
		others = o
	}
	return s.Add(times(s, t, len(e.sent)), others)
}

// gather: every rank makes the same of the stack, so the summed gradient is World times one's.
func (e *exchange) gather(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	all := e.send(s, t)
	if t.RequiresGrad() {
		all[e.rank] = times(s, t, len(all))
	}
	return s.Stack(0, all...)
}

// onRanks is the loss of each rank that holds so many rows of a batch, and the gradients of the
// logits, each rank's own in its rows.
func onRanks(t *testing.T, s *torch.Scope, c loss.Config, heads, targets []*torch.Tensor,
	rows []int) (losses []float32, grads [][]float32, exchanges int) {
	t.Helper()
	all := 0
	for _, n := range rows {
		all += n
	}
	e := &exchange{sent: make([][]*torch.Tensor, len(rows)), scope: s}
	c.Ranks = &loss.Ranks{World: len(rows), All: all, Sum: e.sum, Gather: e.gather}
	l, err := loss.New(c)
	require.NoError(t, err)
	parts := make([][]*torch.Tensor, len(heads))
	for _, e.known = range []bool{false, true} {
		first := int64(0)
		for r, n := range rows {
			e.rank, e.next = r, 0
			var mine, truth []*torch.Tensor
			for k := range heads {
				x := s.Clone(s.Narrow(heads[k], 0, first, int64(n)))
				require.NoError(t, x.SetRequiresGrad(true))
				mine = append(mine, x)
				truth = append(truth, s.Narrow(targets[k], 0, first, int64(n)))
			}
			first += int64(n)
			value := l.Forward(s, mine, truth)
			require.NoError(t, s.Err())
			require.Equal(t, torch.Float32, value.DType())
			if !e.known {
				continue
			}
			require.NoError(t, value.Backward())
			losses = append(losses, torchtest.Float32s(t, value)...)
			for k, x := range mine {
				if x.HasGrad() {
					parts[k] = append(parts[k], s.Grad(x))
				}
			}
		}
	}
	for _, p := range parts {
		var g []float32
		if p != nil {
			g = torchtest.Float32s(t, s.Cat(0, p...))
		}
		grads = append(grads, g)
	}
	return losses, grads, len(e.sent[0])
}

// splits are the ways to give a batch of n rows to ranks.
func splits(n int) [][]int {
	return map[int][][]int{1: nil, 2: {{1, 1}}, 3: {{2, 1}, {1, 2}, {1, 1, 1}}}[n]
}

// mean averages losses of ranks, and divides their gradients by as many, as DistributedDataParallel
// does.
func mean(losses []float32, grads [][]float32) (float32, [][]float32) {
	sum := 0.0
	for _, l := range losses {
		sum += float64(l)
	}
	for _, g := range grads {
		for i := range g {
			g[i] /= float32(len(losses))
		}
	}
	return float32(sum / float64(len(losses))), grads
}

// TestRanksShareTheLossOfTheirBatch: with fast numerics the mean over ranks of value and gradient is
// nnU-Net's loss of the whole batch, rows even and uneven.
func TestRanksShareTheLossOfTheirBatch(t *testing.T) {
	for _, device := range []string{"cpu", "cuda"} {
		t.Run(device, func(t *testing.T) {
			device := torchtest.Device(t, device)
			for path, d := range cases(t, golden.Path(t, "loss")) {
				d.fast, d.device = true, device
				for _, rows := range splits(d.Spec.Batch) {
					t.Run(fmt.Sprint(d.Spec.Name, rows), func(t *testing.T) {
						onTorch(t, func(s *torch.Scope) { isShared(t, s, path, d, rows) })
					})
				}
			}
		})
	}
}

func isShared(t *testing.T, s *torch.Scope, path string, d description, rows []int) {
	heads, targets := inputs(t, s, path, d.device)
	want := stored(t, path, len(heads))
	if d.Weights == nil {
		heads, targets = heads[:1], targets[:1]
	}
	c := d.config()
	losses, grads, n := onRanks(t, s, c, heads, targets, rows)
	got, grads := mean(losses, grads)
	golden.Close(t, "loss", "loss", nil, want.loss, []float32{got})
	for k := range heads {
		w := want.grads[k]
		require.Equal(t, w == nil, grads[k] == nil, "head %d has a gradient", k)
		golden.Close(t, fmt.Sprintf("gradient of head %d", k), "loss-gradient", nil, w, grads[k])
	}
	exchanges := 0 // of all heads together
	if c.BatchDice || c.IgnoreLabel != nil {
		exchanges = 1
	}
	require.Equal(t, exchanges, n)
}

// A rank all of whose voxels are ignored has a share of the Dice and none of the cross-entropy.
func TestARankWithoutCountedVoxels(t *testing.T) {
	for _, name := range []string{"ce-ignore", "bce-ignore", "bce-ignore-batchdice"} {
		path := golden.Path(t, "loss/"+name+".npz")
		d := cases(t, golden.Path(t, "loss"))[path]
		d.fast = true
		onTorch(t, func(s *torch.Scope) {
			heads, targets := inputs(t, s, path, torch.CPU)
			for k, y := range targets {
				row := s.Full(s.Narrow(y, 0, 0, 1).Shape(), 4, y.DType(), torch.CPU) // 4: ignore
				if y.DType() == torch.Bool {
					last := y.Shape()[1] - 1
					row = s.Cat(1, s.Narrow(s.Zeros(row.Shape(), torch.Bool, torch.CPU), 1, 0, last),
						s.Narrow(row, 1, last, 1))
				}
				targets[k] = s.Cat(0, row, s.Narrow(y, 0, 1, 1))
			}
			l, err := loss.New(loss.Config{Regions: d.config().Regions,
				IgnoreLabel: d.config().IgnoreLabel, BatchDice: d.config().BatchDice,
				Weights: d.Weights})
			require.NoError(t, err)
			x := s.Clone(heads[0])
			require.NoError(t, x.SetRequiresGrad(true))
			want := l.Forward(s, append([]*torch.Tensor{x}, heads[1:]...), targets)
			require.NoError(t, s.Err())
			require.NoError(t, want.Backward())
			losses, grads, _ := onRanks(t, s, d.config(), heads, targets, []int{1, 1})
			got, grads := mean(losses, grads)
			golden.Close(t, "loss", "loss", nil, torchtest.Float32s(t, want), []float32{got})
			golden.Close(t, "gradient", "loss-gradient", nil, torchtest.Float32s(t, s.Grad(x)),
				grads[0])
		})
	}
}

// Logits with one spatial axis go through separate operators, as those on a GPU do.
func TestRanksShareTheLossOfSeparateOperators(t *testing.T) {
	for _, batch := range []bool{false, true} {
		onTorch(t, func(s *torch.Scope) {
			heads := []*torch.Tensor{torchtest.Tensor(s, 1, 3, 4, 50)}
			r := torchtest.Rand(2)
			labels := make([]int16, 150)
			for i := range labels {
				labels[i] = int16(r.IntN(4))
			}
			targets := []*torch.Tensor{torch.FromSlice(s, labels, 3, 1, 50)}
			c := loss.Config{BatchDice: batch, Fast: true}
			l, err := loss.New(c)
			require.NoError(t, err)
			x := s.Clone(heads[0])
			require.NoError(t, x.SetRequiresGrad(true))
			want := l.Forward(s, []*torch.Tensor{x}, targets)
			require.NoError(t, want.Backward())
			for _, rows := range splits(3) {
				losses, grads, _ := onRanks(t, s, c, heads, targets, rows)
				got, grads := mean(losses, grads)
				golden.Close(t, "loss", "loss", nil, torchtest.Float32s(t, want), []float32{got})
				golden.Close(t, "gradient", "loss-gradient", nil,
					torchtest.Float32s(t, s.Grad(x)), grads[0])
			}
		})
	}
}

// ranksCase is the JSON file of a golden npz of ranks.py.
type ranksCase struct {
	description
	World int
	Rows  []int
}

func rankCases(t *testing.T, dir string) map[string]ranksCase {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*-w?.json"))
	require.NoError(t, err)
	require.Len(t, files, 13, dir)
	all := map[string]ranksCase{}
	for _, f := range files {
		var c ranksCase
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &c), f)
		c.device = torch.CPU
		all[strings.TrimSuffix(f, ".json")+".npz"] = c
	}
	return all
}

// TestReferenceRanksAreThoseOfNnUNet: without fast numerics each rank's loss and gradient are those
// of nnU-Net's under DistributedDataParallel.
func TestReferenceRanksAreThoseOfNnUNet(t *testing.T) {
	areNnUNets(t, golden.Path(t, "ranks"), func(t *testing.T, what string, want, got []float32) {
		key := "loss-gradient"
		if what == "losses" {
			key = "loss"
		}
		golden.Close(t, what, key, nil, want, got)
	})
}

// TestLiveRanks: they have Python's bits.
func TestLiveRanks(t *testing.T) {
	golden.Python(t)
	t.Setenv("OMP_NUM_THREADS", fmt.Sprint(threads))
	dir := t.TempDir()
	golden.Run(t, "ranks.py", "--golden", dir, "--threads", fmt.Sprint(threads))
	areNnUNets(t, dir, func(t *testing.T, what string, want, got []float32) {
		golden.Equal(t, what, nil, want, got)
	})
}

func areNnUNets(t *testing.T, dir string,
	compare func(t *testing.T, what string, want, got []float32)) {
	for path, c := range rankCases(t, dir) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".npz"), func(t *testing.T) {
			onTorch(t, func(s *torch.Scope) {
				heads, targets := inputs(t, s, path, torch.CPU)
				if c.Weights == nil {
					heads, targets = heads[:1], targets[:1]
				}
				losses, grads, _ := onRanks(t, s, c.config(), heads, targets, c.Rows)
				z, err := npz.OpenNpz(path)
				require.NoError(t, err)
				defer z.Close()
				_, want := golden.Float32s(t, z, "losses")
				compare(t, "losses", want, losses)
				for k := range heads {
					_, want := golden.Float32s(t, z, fmt.Sprintf("grad_%d", k))
					compare(t, fmt.Sprintf("gradient of head %d", k), want, grads[k])
				}
			})
		})
	}
}

// The exchanges of a real group of ranks do what the tests above know of them: with fast numerics, rows
// uneven, the whole batch's loss; else nnU-Net's of each rank.
func TestRanksOfAGroup(t *testing.T) {
	fast := cases(t, golden.Path(t, "loss"))
	for path, c := range rankCases(t, golden.Path(t, "ranks")) {
		for numerics, d := range map[string]description{"reference": c.description, "fast": fast[golden.Path(t, "loss/"+c.Spec.Name+".npz")]} {
			from, rows := path, c.Rows
			if numerics == "fast" {
				from, rows = golden.Path(t, "loss/"+c.Spec.Name+".npz"), splits(d.Spec.Batch)[0]
				d.fast = true
			}
			t.Run(strings.TrimSuffix(filepath.Base(path), ".npz")+"/"+numerics, func(t *testing.T) {
				torchtest.NoLeak(t)
				losses, grads := inGroup(t, d.config(), from, rows)
				if numerics == "fast" {
					want := stored(t, from, len(grads))
					got, grads := mean(losses, grads)
					golden.Close(t, "loss", "loss", nil, want.loss, []float32{got})
					golden.Close(t, "gradient", "loss-gradient", nil, want.grads[0], grads[0])
					return
				}
				z, err := npz.OpenNpz(path)
				require.NoError(t, err)
				defer z.Close()
				_, want := golden.Float32s(t, z, "losses")
				golden.Close(t, "losses", "loss", nil, want, losses)
				_, want = golden.Float32s(t, z, "grad_0")
				golden.Close(t, "gradient", "loss-gradient", nil, want, grads[0])
			})
		}
	}
}

// inGroup is onRanks with ranks that exchange over Gloo.
func inGroup(t *testing.T, c loss.Config, path string, rows []int) (losses []float32,
	grads [][]float32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	all := 0
	for _, n := range rows {
		all += n
	}
	losses = make([]float32, len(rows))
	parts := make([][][]float32, len(rows))
	errs := make([]error, len(rows))
	var wait sync.WaitGroup
	first := 0
	for rank, n := range rows {
		lo := int64(first)
		first += n
		wait.Go(func() {
			errs[rank] = torch.OnThread(1, func() error {
				g, err := dist.Connect(t.Context(), dist.Config{Rank: rank, Size: len(rows),
					Host: "127.0.0.1", Port: port, Serve: rank == 0, Timeout: time.Minute})
				if err != nil {
					return err
				}
				c := c
				c.Ranks = &loss.Ranks{World: len(rows), All: all, Sum: g.SumGrad, Gather: g.GatherGrad}
				err = torch.With(func(s *torch.Scope) error {
					heads, targets := inputs(t, s, path, torch.CPU)
					if c.Weights == nil {
						heads, targets = heads[:1], targets[:1]
					}
					for k := range heads {
						heads[k] = s.Clone(s.Narrow(heads[k], 0, lo, int64(n)))
						targets[k] = s.Narrow(targets[k], 0, lo, int64(n))
						if err := heads[k].SetRequiresGrad(true); err != nil {
							return err
						}
					}
					f, err := loss.New(c)
					if err != nil {
						return err
					}
					value := f.Forward(s, heads, targets)
					if s.Err() != nil {
						return s.Err()
					}
					if err := value.Backward(); err != nil {
						return err
					}
					v, err := value.Item()
					losses[rank] = float32(v)
					for _, x := range heads {
						var part []float32
						if x.HasGrad() {
							part = torchtest.Float32s(t, s.Grad(x))
						}
						parts[rank] = append(parts[rank], part)
					}
					return err
				})
				if err != nil {
					g.Fail(err)
					return err
				}
				return errors.Join(g.Barrier(t.Context()), g.Close())
			})
		})
	}
	wait.Wait()
	require.NoError(t, errors.Join(errs...))
	for k := range parts[0] {
		var whole []float32
		for _, p := range parts {
			whole = append(whole, p[k]...)
		}
		grads = append(grads, whole)
	}
	return losses, grads
}

// Uneven rows, which end nnU-Net's process, give the batch Dice of all rows, too.
func TestReferenceBatchDiceOfUnevenRows(t *testing.T) {
	path := golden.Path(t, "loss/ce-four-batchdice-b3.npz")
	d := cases(t, golden.Path(t, "loss"))[path]
	onTorch(t, func(s *torch.Scope) {
		heads, targets := inputs(t, s, path, torch.CPU)
		even, _, _ := onRanks(t, s, d.config(), heads, targets, []int{1, 1, 1})
		uneven, _, _ := onRanks(t, s, d.config(), heads, targets, []int{2, 1})
		// Cross-entropies of ranks differ, their Dice does not: 3·mean of the one and 2·first+second
		// of the other are the same.
		require.InDelta(t, even[0]+even[1]+even[2], 2*uneven[0]+uneven[1], 1e-5)
	})
}

// A batch of another size, and what cannot be.
func TestRanksOfABatch(t *testing.T) {
	failed := errors.New("rank 1 is gone")
	r := &loss.Ranks{World: 2, All: 3, Sum: func(s *torch.Scope, _ *torch.Tensor) *torch.Tensor {
		s.Fail(failed)
		return nil
	}}
	forward := func(l *loss.Loss, rows int64, batch float64) error {
		return torch.With(func(s *torch.Scope) error {
			l.Forward(s, []*torch.Tensor{s.Zeros([]int64{rows, 2, 4, 4}, torch.Float32, torch.CPU)},
				[]*torch.Tensor{s.Full([]int64{rows, 1, 4, 4}, batch, torch.Int16, torch.CPU)})
			return s.Err()
		})
	}
	for _, reference := range []bool{false, true} {
		r.Gather = r.Sum
		l, err := loss.New(loss.Config{BatchDice: true, Fast: !reference, Ranks: r})
		require.NoError(t, err)
		require.Same(t, l, l.OfBatch(3))
		require.ErrorIs(t, forward(l, 2, 1), failed)
		require.ErrorContains(t, forward(l, 2, 2), "target 0 holds label 2")
		if !reference {
			require.EqualError(t, forward(l, 4, 1), "loss: head 0 has 4 rows of a batch of 3")
			require.ErrorIs(t, forward(l.OfBatch(4), 4, 1), failed)
		}
	}
	one, err := loss.New(loss.Config{})
	require.NoError(t, err)
	require.Same(t, one, one.OfBatch(7))
}

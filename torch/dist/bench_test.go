package dist

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/torch"
)

// benchResult is what a rank measures.
type benchResult struct {
	Alone, Waited, Backward time.Duration // medians
	Bytes, Peak             int64         // of gradients, of tensors
}

const benchLayers = 14

func init() {
	bodies["bench"] = func(g *Group, arg string) (any, error) {
		var r benchResult
		var c struct {
			Reduce bool
			Config ReducerConfig
			Rows   int64
			Width  int64
		}
		if err := json.Unmarshal([]byte(arg), &c); err != nil {
			return nil, err
		}
		err := torch.With(func(s *torch.Scope) error {
			var ps []*torch.Tensor
			for i := range benchLayers {
				ps = append(ps, numbers(s, uint32(i), c.Width, c.Width))
				if err := ps[i].SetRequiresGrad(true); err != nil {
					return err
				}
				r.Bytes += 4 * c.Width * c.Width
			}
			x := numbers(s, 99, c.Rows, c.Width)
			var reducer *Reducer
			if c.Reduce {
				var err error
				if reducer, err = NewReducer(g, ps, c.Config); err != nil {
					return err
				}
				defer reducer.Close()
			}
			var waits, passes []time.Duration
			for range 8 {
				if err := torch.ClearGrads(ps); err != nil {
					return err
				}
				err := s.With(func(s *torch.Scope) error {
					if c.Reduce {
						if err := reducer.Forward(); err != nil {
							return err
						}
					}
					var loss *torch.Tensor
					err := s.With(func(s *torch.Scope) error { // from here on autograd alone holds activations
						h := x
						for _, p := range ps {
							h = s.Relu(s.MulScalar(s.Linear(h, p, nil), 0.1))
						}
						loss = s.Mean(h)
						s.Keep(loss)
						return s.Err()
					})
					if err != nil {
						return err
					}
					if c.Reduce {
						if err := reducer.Backward(); err != nil {
							return err
						}
					}
					start := time.Now()
					if err := g.Explain(loss.Backward()); err != nil {
						return err
					}
					passes = append(passes, time.Since(start))
					if c.Reduce {
						waited, err := reducer.Wait(context.Background())
						waits = append(waits, waited)
						return err
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			var err error
			if _, r.Peak, _, err = torch.CPUMemory(); err != nil {
				return err
			}
			r.Waited, r.Backward = median(waits), median(passes)
			if c.Reduce {
				all := torch.FromSlice(s, make([]float32, r.Bytes/4), r.Bytes/4)
				var alone []time.Duration
				for range 5 {
					start := time.Now()
					if err := g.AllReduce(s, all); err != nil {
						return err
					}
					alone = append(alone, time.Since(start))
				}
				r.Alone = median(alone)
			}
			return nil
		})
		return r, err
	}
}

// Views of the buckets are the only gradients, and take memory in the backward pass alone, as gradients of one process do;
// copies are a second one.
func TestViewsAreTheOnlyGradients(t *testing.T) {
	for _, rows := range []int{8, 512} { // most memory is in use where the backward pass ends, and where it begins
		peak := func(more string) (peak, gradients int64) {
			r := values[benchResult](t, ranks(t, "bench", 2, fmt.Sprintf(`{"Rows": %d, "Width": 384%s}`, rows, more)))[0]
			return r.Peak, r.Bytes
		}
		const bucket = 1 << 20
		reduce := fmt.Sprintf(`, "Reduce": true, "Config": {"Split": true, "Bucket": %d`, bucket)
		none, gradients := peak("")
		views, _ := peak(reduce + `, "Views": true}`)
		t.Logf("%d rows: peak %d bytes, with views %d; gradients %d", rows, none, views, gradients)
		require.Less(t, views, none+2*bucket)
		if rows == 8 {
			copies, _ := peak(reduce + `}`)
			require.Greater(t, copies, views+gradients/2)
		}
	}
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// Two ranks, 125 MB of gradients: what a backward pass waits for the reduction, in percent of what
// the reduction takes alone, and the peak of tensors.
func BenchmarkReducer(b *testing.B) {
	for name, arg := range map[string]string{
		"none":         ``,
		"copies":       `, "Reduce": true`,
		"views":        `, "Reduce": true, "Config": {"Views": true, "Split": true}`,
		"views, 8 MiB": `, "Reduce": true, "Config": {"Views": true, "Split": true, "Bucket": 8388608}`,
		"bf16":         `, "Reduce": true, "Config": {"Views": true, "Split": true, "Compress": 2}`,
	} {
		arg := `{"Rows": 256, "Width": 1496` + arg + `}` // 31.3 million parameters
		b.Run(name, func(b *testing.B) {
			for range b.N {
				r := values[benchResult](b, ranks(b, "bench", 2, arg))[0]
				b.ReportMetric(float64(r.Backward.Milliseconds()), "backward-ms")
				b.ReportMetric(float64(r.Peak)/(1<<20), "peak-MiB")
				if r.Alone > 0 {
					b.ReportMetric(float64(r.Waited.Milliseconds()), "wait-ms")
					b.ReportMetric(float64(r.Alone.Milliseconds()), "alone-ms")
					b.ReportMetric(100*float64(r.Waited)/float64(r.Alone), "wait-%")
				}
			}
		})
	}
}

func init() {
	bodies["latency"] = func(g *Group, _ string) (any, error) {
		const n = 500
		start := time.Now()
		for range n {
			if err := g.Barrier(context.Background()); err != nil {
				return nil, err
			}
		}
		barrier := time.Since(start) / n
		start = time.Now()
		err := torch.With(func(s *torch.Scope) error {
			t := torch.FromSlice(s, []float32{1, 2, 3}, 3)
			for range n {
				if err := g.AllReduce(s, t); err != nil {
					return err
				}
			}
			return nil
		})
		return []time.Duration{barrier, time.Since(start) / n}, err
	}
}

// What a step's own exchanges cost: a barrier, and the sum of three numbers.
func BenchmarkLatency(b *testing.B) {
	for _, size := range []int{2, 4} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			for range b.N {
				d := values[[]time.Duration](b, ranks(b, "latency", size, ""))[0]
				b.ReportMetric(float64(d[0].Microseconds()), "barrier-us")
				b.ReportMetric(float64(d[1].Microseconds()), "all-reduce-us")
			}
		})
	}
}

package dist

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// steps runs f over and over, until it fails. After three times it leaves a file named like the
// rank in folder.
func steps(g *Group, folder string, f func(s *torch.Scope, i int) error) error {
	for i := 0; ; i++ {
		if err := torch.With(func(s *torch.Scope) error { return f(s, i) }); err != nil {
			return err
		}
		if i == 3 {
			file := filepath.Join(folder, strconv.Itoa(g.Rank()))
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return err
			}
		}
	}
}

// await waits until all of these ranks have left their file.
func (p *running) await(folder string, ranks ...int) {
	p.t.Helper()
	for _, r := range ranks {
		require.Eventually(p.t, func() bool {
			_, err := os.Stat(filepath.Join(folder, strconv.Itoa(r)))
			return err == nil
		}, time.Minute, 10*time.Millisecond, "rank %d: %s %s", r, &p.stdout[r], &p.stderr[r])
	}
}

func weights(s *torch.Scope, n int64) ([]*torch.Tensor, error) {
	ps := []*torch.Tensor{torch.FromSlice(s, make([]float32, n), n),
		torch.FromSlice(s, make([]float32, 2*n), 2*n)}
	for _, p := range ps {
		if err := p.SetRequiresGrad(true); err != nil {
			return nil, err
		}
	}
	return ps, nil
}

// reduced is a step with a Reducer; of the parameters only those in used take part in the loss.
func reduced(s *torch.Scope, g *Group, r *Reducer, used []*torch.Tensor) error {
	if err := r.Forward(); err != nil {
		return err
	}
	loss := s.Sum(used[0])
	for _, p := range used[1:] {
		loss = s.Add(loss, s.Sum(p))
	}
	if s.Err() != nil {
		return s.Err()
	}
	if err := r.Backward(); err != nil {
		return err
	}
	if err := g.Explain(loss.Backward()); err != nil {
		return err
	}
	_, err := r.Wait(context.Background())
	return err
}

func init() {
	bodies["loop of all-reduces"] = func(g *Group, folder string) (any, error) {
		return nil, steps(g, folder, func(s *torch.Scope, _ int) error {
			return g.AllReduce(s, torch.FromSlice(s, make([]float32, 100_000), 100_000))
		})
	}
	bodies["loop of backward passes"] = func(g *Group, folder string) (any, error) {
		return nil, torch.With(func(s *torch.Scope) error {
			ps, err := weights(s, 300_000)
			if err != nil {
				return err
			}
			r, err := NewReducer(g, ps, ReducerConfig{})
			if err != nil {
				return err
			}
			return steps(g, folder, func(s *torch.Scope, _ int) error {
				return reduced(s, g, r, ps)
			})
		})
	}
	hang := func(g *Group) {
		if g.Rank() == 1 {
			<-g.Done()
		}
	}
	bodies["hang before an all-reduce"] = func(g *Group, _ string) (any, error) {
		hang(g)
		return nil, torch.With(func(s *torch.Scope) error {
			return g.AllReduce(s, torch.FromSlice(s, make([]float32, 10), 10))
		})
	}
	bodies["hang before a backward pass"] = func(g *Group, _ string) (any, error) {
		return nil, torch.With(func(s *torch.Scope) error {
			ps, err := weights(s, 10)
			if err != nil {
				return err
			}
			r, err := NewReducer(g, ps, ReducerConfig{})
			if err != nil {
				return err
			}
			hang(g)
			return reduced(s, g, r, ps)
		})
	}
	bodies["loop of barriers without limit"] = func(g *Group, folder string) (any, error) {
		return nil, steps(g, folder, func(*torch.Scope, int) error {
			return g.BarrierWithoutLimit(context.Background())
		})
	}
	bodies["late to an exchange without limit"] = func(g *Group, _ string) (any, error) {
		if g.Rank() == 1 {
			time.Sleep(4 * time.Second)
		}
		all, err := g.ExchangeWithoutLimit(context.Background(), []byte{byte(g.Rank())})
		return all, err
	}
	bodies["barrier without limit"] = func(g *Group, folder string) (any, error) {
		return nil, steps(g, folder, func(s *torch.Scope, i int) error {
			if i == 4 && g.Rank() == 1 {
				time.Sleep(time.Hour)
			}
			return g.BarrierWithoutLimit(context.Background())
		})
	}
}

// Whatever the ranks wait in, they learn within moments which rank has died.
func TestDeadRank(t *testing.T) {
	for _, c := range []struct {
		body       string
		size, dies int
	}{
		{"loop of all-reduces", 4, 2},
		{"loop of all-reduces", 2, 0},
		{"loop of backward passes", 3, 1},
		{"loop of backward passes", 3, 0},
		{"barrier without limit", 3, 1},
	} {
		t.Run(fmt.Sprintf("%s, rank %d of %d", c.body, c.dies, c.size), func(t *testing.T) {
			folder := t.TempDir()
			p := start(t, c.body, c.size, folder, time.Minute)
			for r := range c.size {
				p.await(folder, r)
			}
			dead := p.cmds[c.dies].Process
			require.NoError(t, dead.Kill())
			killed := time.Now()
			reports := p.wait()
			require.Less(t, time.Since(killed), 10*time.Second)
			host, err := os.Hostname()
			require.NoError(t, err)
			for r, rep := range reports {
				if r != c.dies {
					want := fmt.Sprintf("rank %d (host %s, pid %d) is gone", c.dies, host, dead.Pid)
					require.Equal(t, want, rep.Error, "rank %d", r)
					require.Equal(t, "*dist.Gone", rep.Kind)
				}
			}
		})
	}
}

// A rank that is stopped keeps its connections open: the time limit ends the others' wait, and the
// error names it.
func TestStoppedRank(t *testing.T) {
	for _, c := range []struct {
		body  string
		stops int
	}{
		{"loop of all-reduces", 1}, {"loop of backward passes", 2}, {"loop of backward passes", 0},
		{"loop of barriers without limit", 1}, {"loop of barriers without limit", 0},
	} {
		t.Run(fmt.Sprintf("%s, rank %d", c.body, c.stops), func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			p := start(t, c.body, 3, folder, 5*time.Second)
			p.await(folder, 0, 1, 2)
			stopped := p.cmds[c.stops].Process
			require.NoError(t, stopped.Signal(syscall.SIGSTOP))
			at := time.Now()
			for r := range 3 {
				if r != c.stops {
					for p.cmds[r].Process.Signal(syscall.Signal(0)) == nil && time.Since(at) < time.Minute {
						time.Sleep(20 * time.Millisecond)
					}
				}
			}
			require.Less(t, time.Since(at), 45*time.Second)
			require.NoError(t, stopped.Kill())
			host, err := os.Hostname()
			require.NoError(t, err)
			for r, rep := range p.wait() {
				if r != c.stops {
					require.Equal(t, fmt.Sprintf("rank %d (host %s, pid %d) does not answer (time limit 5s)",
						c.stops, host, stopped.Pid), rep.Error)
					require.Equal(t, "*dist.TimedOut", rep.Kind)
				}
			}
		})
	}
}

// A rank that answers is waited for beyond the time limit where there is none.
func TestWaitWithoutLimit(t *testing.T) {
	p := start(t, "late to an exchange without limit", 3, "", time.Second)
	for _, all := range values[[][]byte](t, p.wait()) {
		require.Equal(t, [][]byte{{0}, {1}, {2}}, all)
	}
}

// A rank whose loop hangs still answers on its line: the others name whoever is behind.
func TestHangingRank(t *testing.T) {
	for _, body := range []string{"hang before an all-reduce", "hang before a backward pass"} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			p := start(t, body, 3, "", 3*time.Second)
			for _, rep := range p.wait() {
				require.Regexp(t, `^rank 1 \(host .*, pid \d+\) does not answer \(time limit 3s\)$`, rep.Error)
				require.Less(t, rep.Took, 20*time.Second)
			}
		})
	}
}

func TestAbsentRank(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	p := start(t, "collectives", 4, "", 3*time.Second, 0, 2)
	reports := p.wait()
	for _, r := range []int{0, 2} {
		require.Regexp(t, fmt.Sprintf(`^ranks that did not come to 127\.0\.0\.1:\d+ within 3s: 1, 3 `+
			`\(came: rank 0 \(host %s, pid %d\), rank 2 \(host %s, pid %d\)\)$`,
			host, p.cmds[0].Process.Pid, host, p.cmds[2].Process.Pid), reports[r].Error)
		require.Equal(t, "*dist.Absent", reports[r].Kind)
	}
	reports = start(t, "collectives", 2, "", 2*time.Second, 1).wait()
	require.Regexp(t, `^ranks that did not come to 127\.0\.0\.1:\d+ within 2s: 0 \(none came\)$`, reports[1].Error)
}

func init() {
	bodies["different shapes"] = func(g *Group, size string) (any, error) {
		return nil, torch.With(func(s *torch.Scope) error {
			n, err := strconv.Atoi(size)
			if err != nil {
				return err
			}
			n += 2 * (g.Rank() / 2)
			return g.AllReduce(s, torch.FromSlice(s, make([]float32, n), int64(n)))
		})
	}
	bodies["different calls"] = func(g *Group, _ string) (any, error) {
		if g.Rank() == 1 {
			return nil, g.Barrier(context.Background())
		}
		_, err := g.Exchange(context.Background(), nil)
		return nil, err
	}
	bodies["different parameters"] = func(g *Group, _ string) (any, error) {
		return nil, torch.With(func(s *torch.Scope) error {
			ps, err := weights(s, 2+int64(g.Rank()))
			if err != nil {
				return err
			}
			_, err = NewReducer(g, ps, ReducerConfig{})
			return err
		})
	}
	bodies["ends early"] = func(g *Group, _ string) (any, error) {
		if g.Rank() == 1 {
			return nil, nil
		}
		return nil, g.Barrier(context.Background())
	}
	bodies["error on one rank"] = func(g *Group, _ string) (any, error) {
		return nil, torch.With(func(s *torch.Scope) error {
			ps, err := weights(s, 300_000)
			if err != nil {
				return err
			}
			r, err := NewReducer(g, ps, ReducerConfig{})
			if err != nil {
				return err
			}
			return steps(g, os.TempDir(), func(s *torch.Scope, i int) error {
				if i == 2 && g.Rank() == 1 {
					err := errors.New("case LN_007: no space left on device")
					g.Fail(err)
					return err
				}
				return reduced(s, g, r, ps)
			})
		})
	}
	// Rank 1 fails and keeps its connections; the others wait in a backward pass.
	bodies["fails and stays"] = func(g *Group, folder string) (any, error) {
		file := func(rank int) string { return filepath.Join(folder, strconv.Itoa(rank)) }
		return nil, torch.With(func(s *torch.Scope) error {
			ps, err := weights(s, 3)
			if err != nil {
				return err
			}
			r, err := NewReducer(g, ps, ReducerConfig{})
			if err != nil {
				return err
			}
			if g.Rank() != 1 {
				err := reduced(s, g, r, ps)
				return errors.Join(err, os.WriteFile(file(g.Rank()), nil, 0o600))
			}
			time.Sleep(500 * time.Millisecond)
			g.Fail(errors.New("no space left on device"))
			for range 300 {
				time.Sleep(50 * time.Millisecond)
				_, err0 := os.Stat(file(0))
				_, err2 := os.Stat(file(2))
				if err0 == nil && err2 == nil {
					return nil
				}
			}
			return errors.New("the others go on waiting")
		})
	}
	bodies["error in a backward pass"] = func(g *Group, _ string) (any, error) {
		if g.Rank() != 1 {
			_, err := g.Exchange(context.Background(), nil)
			return nil, err
		}
		return nil, torch.With(func(s *torch.Scope) error {
			ps, err := weights(s, 3)
			if err != nil {
				return err
			}
			for range 3 { // the others are behind
				w, err := g.pg.AllReduce(s.Clone(ps[0]), torch.OpSum)
				if err != nil {
					return err
				}
				w.Free()
			}
			if s.Err() != nil {
				return s.Err()
			}
			return g.Explain(ps[0].Backward()) // of no scalar
		})
	}
	bodies["after the end"] = func(g *Group, _ string) (any, error) {
		if err := g.Close(); err != nil {
			return nil, err
		}
		_, err := g.Exchange(context.Background(), nil)
		return nil, err
	}
	bodies["no gradient"] = func(g *Group, where string) (any, error) {
		return nil, torch.With(func(s *torch.Scope) error {
			ps, err := weights(s, 3)
			if err != nil {
				return err
			}
			r, err := NewReducer(g, ps, ReducerConfig{Names: []string{"head.weight", "head.bias"}})
			if err != nil {
				return err
			}
			return steps(g, os.TempDir(), func(s *torch.Scope, i int) error {
				if i == 2 && (where == "everywhere" || g.Rank() == 1) {
					err = reduced(s, g, r, ps[:1])
				} else {
					err = reduced(s, g, r, ps)
				}
				if err != nil && g.Err() == nil {
					g.Fail(err)
				}
				return err
			})
		})
	}
}

func TestDisagreement(t *testing.T) {
	for name, want := range map[string]string{
		"different shapes": `^ranks disagree: rank 0 has all-reduce \[(5|5000)\] float32, ` +
			`rank 1 has all-reduce \[(5|5000)\] float32, rank 2 has all-reduce \[(7|5002)\] float32$`,
		"different calls": `^ranks disagree: rank 0 has an exchange, rank 1 has a barrier, ` +
			`rank 2 has an exchange$`,
		"different parameters": `^ranks disagree: rank 0 has 2 parameters ` +
			`\(sha256 of names, shapes and dtypes [0-9a-f]{12}…\), compression 0, rank 1 has .*, rank 2 has .*$`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []string{"5", "5000"} { // over the lines, over Gloo
				for _, rep := range ranks(t, name, 3, size) {
					require.Regexp(t, want, rep.Error)
					require.Equal(t, "*dist.Disagree", rep.Kind)
				}
				if name != "different shapes" {
					break
				}
			}
		})
	}
}

func TestErrorOfOneRankReachesAll(t *testing.T) {
	reports := ranks(t, "error on one rank", 3, "")
	require.Equal(t, "case LN_007: no space left on device", reports[1].Error)
	for _, r := range []int{0, 2} {
		require.Regexp(t, `^rank 1 \(host .*, pid \d+\): case LN_007: no space left on device$`, reports[r].Error)
		require.Equal(t, "*dist.Failed", reports[r].Kind)
		require.Less(t, reports[r].Took, 30*time.Second)
	}
	for _, rep := range ranks(t, "error in a backward pass", 3, "") {
		require.Regexp(t, `^rank 1 \(host .*, pid \d+\): torch: backward\(\[3\]\): grad can be `+
			`implicitly created`, rep.Error)
	}
	reports = ranks(t, "fails and stays", 3, t.TempDir())
	require.Empty(t, reports[1].Error)
	for _, r := range []int{0, 2} {
		require.Regexp(t, `^rank 1 \(host .*, pid \d+\): no space left on device$`, reports[r].Error)
	}
	for _, rep := range ranks(t, "after the end", 2, "") {
		require.Equal(t, "dist: the group is closed", rep.Error)
	}
	reports = ranks(t, "ends early", 2, "")
	require.Regexp(t, `^rank 1 \(host .*, pid \d+\) has ended$`, reports[0].Error)
}

// A parameter that no gradient reached is named, whether all ranks lack it or one.
func TestParameterWithoutGradient(t *testing.T) {
	const text = "no gradient reached head.bias; leave parameters out that do not take part in the loss"
	for _, rep := range ranks(t, "no gradient", 2, "everywhere") {
		require.Contains(t, rep.Error, text)
	}
	reports := ranks(t, "no gradient", 3, "on rank 1")
	require.Equal(t, text, reports[1].Error)
	require.Equal(t, "*dist.NoGradient", reports[1].Kind)
	for _, r := range []int{0, 2} {
		require.Regexp(t, `^rank 1 \(host .*, pid \d+\): `+text+"$", reports[r].Error)
	}
}

func TestConnectRefusesAtOnce(t *testing.T) {
	torchtest.Require(t)
	l, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer l.Close()
	base := Config{Size: 2, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Serve: true,
		Timeout: time.Minute}
	for name, c := range map[string]struct {
		change func(c *Config)
		want   string
	}{
		"busy port": {func(*Config) {}, "address already in use"},
		"no host": {func(c *Config) { c.Serve, c.Rank, c.Host = false, 1, "no-such-host.invalid" },
			"no such host"},
		"rank":       {func(c *Config) { c.Rank = 2 }, "no rank 2 of 2"},
		"time limit": {func(c *Config) { c.Timeout = 0 }, "time limit"},
	} {
		t.Run(name, func(t *testing.T) {
			config := base
			c.change(&config)
			start := time.Now()
			_, err := Connect(context.Background(), config)
			require.ErrorContains(t, err, c.want)
			require.Less(t, time.Since(start), 5*time.Second)
		})
	}
}

func TestContextEndsTheMeeting(t *testing.T) {
	torchtest.Require(t)
	for _, rank := range []int{0, 1} {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := Connect(ctx, Config{Rank: rank, Size: 2, Host: "127.0.0.1", Port: freePort(t),
			Serve: rank == 0, Timeout: time.Minute})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), 10*time.Second)
	}
}

package dist

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// A body is what each rank of a test does, in a process of its own, with the test's argument. It
// returns what the test compares.
type body func(g *Group, arg string) (any, error)

// bodies by name: the test binary executes itself, once for each rank.
var bodies = map[string]body{}

const (
	bodyVariable   = "LNTORCH_DIST_BODY"
	configVariable = "LNTORCH_DIST_CONFIG"
	argVariable    = "LNTORCH_DIST_ARG"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(bodyVariable); name != "" {
		os.Exit(asRank(bodies[name]))
	}
	os.Exit(m.Run())
}

// report is what a rank writes to its standard output.
type report struct {
	Value json.RawMessage
	Error string // the error's text
	Kind  string // its type
	Took  time.Duration
}

func asRank(f body) int {
	var c Config
	err := json.Unmarshal([]byte(os.Getenv(configVariable)), &c)
	start := time.Now()
	var value any
	if err == nil {
		err = torch.OnThread(1, func() error {
			g, err := Connect(context.Background(), c)
			if err != nil {
				return err
			}
			value, err = f(g, os.Getenv(argVariable))
			if err == nil {
				err = g.Close()
			}
			return err
		})
	}
	r := report{Took: time.Since(start)}
	if err != nil {
		r.Error, r.Kind = err.Error(), fmt.Sprintf("%T", err)
	}
	r.Value, _ = json.Marshal(value)
	json.NewEncoder(os.Stdout).Encode(r)
	return 0
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// ranks runs the body of a name on size ranks and returns their reports.
func ranks(t testing.TB, name string, size int, arg string) []report {
	t.Helper()
	return start(t, name, size, arg, 60*time.Second).wait()
}

// running are the processes of a test.
type running struct {
	t              testing.TB
	cmds           []*exec.Cmd // by rank
	stdout, stderr []bytes.Buffer
	errs           []error
	ended          sync.WaitGroup
}

// start starts the ranks in only, or all if there are none.
func start(t testing.TB, name string, size int, arg string, timeout time.Duration,
	only ...int) *running {
	t.Helper()
	return startAs(t, name, size, arg, timeout, func(*Config) {}, only...)
}

// startAs is start with what change makes of each rank's Config.
func startAs(t testing.TB, name string, size int, arg string, timeout time.Duration,
	change func(c *Config), only ...int) *running {
	t.Helper()
	torchtest.Require(t)
	require.Contains(t, bodies, name)
	port := freePort(t)
	p := &running{t: t, cmds: make([]*exec.Cmd, size), errs: make([]error, size),
		stdout: make([]bytes.Buffer, size), stderr: make([]bytes.Buffer, size)}
	for r := range size {
		if len(only) > 0 && !slices.Contains(only, r) {
			continue
		}
		c := Config{Rank: r, Size: size, Host: "127.0.0.1", Port: port, Serve: r == 0, Timeout: timeout}
		change(&c)
		cmd := rank(t, name, arg, c)
		cmd.Stdout, cmd.Stderr = &p.stdout[r], &p.stderr[r]
		require.NoError(t, cmd.Start())
		p.cmds[r] = cmd
		p.ended.Go(func() { p.errs[r] = cmd.Wait() })
	}
	t.Cleanup(func() {
		for _, cmd := range p.cmds {
			if cmd != nil {
				cmd.Process.Kill()
			}
		}
		p.ended.Wait()
	})
	return p
}

// wait returns the reports of the ranks that ended by themselves.
func (p *running) wait() []report {
	p.t.Helper()
	p.ended.Wait()
	reports := make([]report, len(p.cmds))
	for r, cmd := range p.cmds {
		if cmd == nil || !cmd.ProcessState.Exited() {
			continue
		}
		require.NoError(p.t, p.errs[r], "rank %d: %.2000s", r, p.stderr[r].String())
		err := json.Unmarshal(p.stdout[r].Bytes(), &reports[r])
		require.NoError(p.t, err, "rank %d: %.200s", r, p.stdout[r].String())
	}
	return reports
}

// rank is a process that runs the body of a name.
func rank(t testing.TB, name, arg string, c Config) *exec.Cmd {
	config, err := json.Marshal(c)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), bodyVariable+"="+name, configVariable+"="+string(config),
		argVariable+"="+arg)
	return cmd
}

func values[T any](t testing.TB, reports []report) []T {
	t.Helper()
	out := make([]T, len(reports))
	for r, rep := range reports {
		require.Empty(t, rep.Error, "rank %d", r)
		require.NoError(t, json.Unmarshal(rep.Value, &out[r]))
	}
	return out
}

func init() {
	bodies["collectives"] = func(g *Group, _ string) (any, error) {
		var out []float32
		err := torch.With(func(s *torch.Scope) error {
			r := float32(g.Rank())
			t := torch.FromSlice(s, []float32{r + 1, 10 * r}, 2)
			if err := g.AllReduce(s, t); err != nil {
				return err
			}
			x := torch.FromSlice(s, []float32{r, -r}, 2)
			if err := g.Broadcast([]*torch.Tensor{x}, g.Size()-1); err != nil {
				return err
			}
			for _, t := range []*torch.Tensor{t, x} {
				v, err := torch.Slice[float32](t)
				if err != nil {
					return err
				}
				out = append(out, v...)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		all, err := g.Exchange(context.Background(), make([]byte, g.Rank()))
		if err != nil {
			return nil, err
		}
		for _, data := range all {
			out = append(out, float32(len(data)))
		}
		return out, g.Barrier(context.Background())
	}
}

func TestCollectives(t *testing.T) {
	for _, size := range []int{1, 2, 3} {
		got := values[[]float32](t, ranks(t, "collectives", size, ""))
		want := map[int][]float32{1: {1, 0, 0, 0, 0}, 2: {3, 10, 1, -1, 0, 1},
			3: {6, 30, 2, -2, 0, 1, 2}}[size]
		for r := range size {
			require.Equal(t, want, got[r], "rank %d of %d", r, size)
		}
	}
}

// A network of one weight: the gradient of rank r is r+1 times the input.
func init() {
	bodies["reducer"] = func(g *Group, _ string) (any, error) {
		var out []float32
		err := torch.With(func(s *torch.Scope) error {
			w := torch.FromSlice(s, []float32{1, 2}, 2)
			b := torch.FromSlice(s, []float32{5, 5}, 2)
			for _, p := range []*torch.Tensor{w, b} {
				if err := p.SetRequiresGrad(true); err != nil {
					return err
				}
			}
			r, err := NewReducer(g, []*torch.Tensor{w, b}, ReducerConfig{Views: true})
			if err != nil {
				return err
			}
			defer r.Close()
			x := torch.FromSlice(s, []float32{float32(g.Rank() + 1), 3}, 2)
			for step := range 3 {
				if err := r.Forward(); err != nil {
					return err
				}
				loss := s.Sum(s.Add(s.Mul(w, x), b))
				if step != 1 { // accumulated
					if err := r.Backward(); err != nil {
						return err
					}
				}
				if err := g.Explain(loss.Backward()); err != nil {
					return err
				}
				if step != 1 {
					if _, err := r.Wait(context.Background()); err != nil {
						return err
					}
				}
				for _, p := range []*torch.Tensor{w, b} {
					v, err := torch.Slice[float32](s.Grad(p))
					if err != nil {
						return err
					}
					out = append(out, v...)
				}
				if step != 1 {
					if err := torch.ClearGrads([]*torch.Tensor{w, b}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		return out, err
	}
}

func TestReducerAverages(t *testing.T) {
	got := values[[]float32](t, ranks(t, "reducer", 2, ""))
	require.Equal(t, []float32{1.5, 3, 1, 1, 1, 3, 1, 1, 3, 6, 2, 2}, got[0])
	require.Equal(t, []float32{1.5, 3, 1, 1, 2, 3, 1, 1, 3, 6, 2, 2}, got[1])
}

// Under torchrun an agent serves the store, and every rank is a client. Attempts have keys of their
// own.
func TestStoreOfAnAgent(t *testing.T) {
	torchtest.Require(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	store, err := torch.NewStore("127.0.0.1", port, l.(*net.TCPListener), "", time.Minute)
	require.NoError(t, err)
	defer store.Free()
	l.Close()
	clients(t, port)
}

// clients joins two ranks in a store that somebody else serves, twice.
func clients(t *testing.T, port int) {
	for attempt := range 2 {
		var outputs [2]bytes.Buffer
		var wait sync.WaitGroup
		for r := range 2 {
			cmd := rank(t, "collectives", "", Config{Rank: r, Size: 2, Host: "127.0.0.1", Port: port,
				Prefix: fmt.Sprintf("/worker/attempt_%d", attempt), Timeout: 20 * time.Second})
			cmd.Stdout = &outputs[r]
			wait.Go(func() { cmd.Run() })
		}
		wait.Wait()
		for r := range 2 {
			var got report
			require.NoError(t, json.Unmarshal(outputs[r].Bytes(), &got))
			require.Empty(t, got.Error)
			require.JSONEq(t, "[3, 10, 1, -1, 0, 1]", string(got.Value))
		}
	}
}

// What NCCL lacks is said: its library or, on a machine without one, the GPU.
func TestNCCLSaysWhatIsMissing(t *testing.T) {
	torchtest.Require(t)
	config := Config{Size: 1, Host: "127.0.0.1", Serve: true, Timeout: time.Minute, Backend: NCCL}
	_, err := Connect(context.Background(), config)
	require.EqualError(t, err, "dist: NCCL connects GPUs, not cpu; use Gloo")
	if n, err := torch.DeviceCount(torch.DeviceCUDA); err != nil || n > 0 {
		t.Skip("there is a GPU")
	}
	config.Device = torch.Device{Type: torch.DeviceCUDA}
	_, err = Connect(context.Background(), config)
	library := filepath.Join(filepath.Dir(torch.LibraryPath()), "liblntorch_nccl.so")
	want := "no GPUs found"
	if _, missing := os.Stat(library); missing != nil {
		want = "liblntorch_nccl.so, which is missing: make shim CUDA=1 builds it"
	}
	require.ErrorContains(t, err, want)
}

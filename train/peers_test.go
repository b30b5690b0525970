package train

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch/dist"
)

// meeting runs f on each of the ranks of a group.
func meeting(t *testing.T, world int, f func(p *peers) error) {
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
			g, err := dist.Connect(t.Context(), dist.Config{Rank: rank, Size: world, Host: "127.0.0.1", Port: port, Serve: rank == 0, Timeout: 20 * time.Second})
			if err == nil {
				err = errors.Join(f(newPeers(g)), g.Close())
			}
			errs[rank] = err
		})
	}
	wait.Wait()
	require.NoError(t, errors.Join(errs...))
}

// A file that rank 0 alone has comes to the ranks that do not see it, in pieces, and goes again.
func TestFilesOfRankZeroReachTheOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint.pth")
	want := make([]byte, 2*piece+5)
	random := rand.New(rand.NewPCG(1, 1))
	for i := range want {
		want[i] = byte(random.Uint32())
	}
	require.NoError(t, os.WriteFile(path, want, 0o600))
	meeting(t, 3, func(p *peers) error {
		local, remove, err := p.copies(path, []bool{true, false, true})
		if err != nil {
			return err
		}
		got, err := os.ReadFile(local)
		if err != nil {
			return err
		}
		if string(got) != string(want) || (local == path) != (p.rank() != 1) {
			return errors.New(local)
		}
		remove()
		if _, err := os.Stat(filepath.Dir(local)); p.rank() == 1 && err == nil {
			return errors.New("the copy stays")
		}
		_, err = os.Stat(path)
		return err
	})
}

// Every value comes to every rank in the order of ranks, numbers that JSON does not know too.
func TestGatheredValuesComeInTheOrderOfRanks(t *testing.T) {
	meeting(t, 3, func(p *peers) error {
		all, err := gather(p, validated{Losses: []float64{float64(p.rank()), nan()}})
		if err != nil {
			return err
		}
		for rank, v := range all {
			if v.Losses[0] != float64(rank) || v.Losses[1] == v.Losses[1] {
				return errors.New("other losses")
			}
		}
		return nil
	})
}

func nan() float64 { zero := 0.0; return zero / zero }

// A difference names setting, values and ranks.
func TestDifferencesNameTheRanks(t *testing.T) {
	facts := func(lr, plans string) []fact {
		return []fact{{"setting lr", lr, false}, {"setting seed", "7", false}, {"plans", plans, true}}
	}
	require.NoError(t, differences([][]fact{facts("0.01", "a"), facts("0.01", "a")}))
	err := differences([][]fact{facts("0.01", "a"), facts("0.1", "b"), facts("0.01", "b")})
	require.EqualError(t, err, "the ranks were about to train different things, which differ in setting lr (0.01 on ranks 0, 2, 0.1 on rank 1); "+
		"plans (one on rank 0, another on ranks 1, 2): start all of them with the same program, settings and data")
	require.ErrorContains(t, differences([][]fact{facts("1", "a"), {{"setting lr", "1", false}}}), "setting seed (7 on rank 0, none on rank 1)")
}

// The rank that the others wait for is named, with the reason.
func TestSlowRanksAreNamed(t *testing.T) {
	team := []member{{Host: "a", Device: "cuda:0"}, {Host: "a", Device: "cuda:1"}, {Host: "b", Device: "cuda:0"}}
	s := time.Second
	even := []pace{{10 * s, s, s}, {10 * s, s, s}, {10 * s, s, 0}}
	require.Equal(t, []string{"waited for other ranks: rank 0 1.0 s (10.0 %), rank 1 1.0 s (10.0 %), rank 2 0.0 s (0.0 %)"}, paces(even, team))
	lines := paces([]pace{{10 * s, 0, 6 * s}, {10 * s, 0, 6 * s}, {10 * s, 7 * s, 0}}, team)
	require.Len(t, lines, 2)
	require.Contains(t, lines[1], "WARNING: rank 2 (host b, cuda:0) needs 2.5 times as long as the median of the ranks, which wait for it; it waits for its data")
	lines = paces([]pace{{10 * s, 0, 6 * s}, {10 * s, 0, 6 * s}, {10 * s, 0, 0}}, team)
	require.Contains(t, lines[1], "it computes longer")
	require.Len(t, paces([]pace{{10 * s, 0, 5 * s}, {10 * s, 0, 0}}, team), 2, "of two ranks, too")
}

// Cases are dealt out to the ranks that see the folder of the predictions.
func TestCasesAreDealtOut(t *testing.T) {
	all := []bool{true, true, true}
	require.Equal(t, []int{0, 3, 6}, dealt(all, 0, 7))
	require.Equal(t, []int{2, 5}, dealt(all, 2, 7))
	require.Nil(t, dealt(all, 2, 2), "more ranks than cases")
	some := []bool{true, false, true, false}
	require.Equal(t, []int{0, 2, 4}, dealt(some, 0, 5))
	require.Nil(t, dealt(some, 1, 5))
	require.Equal(t, []int{1, 3}, dealt(some, 2, 5))
	require.Equal(t, []int{0, 1, 2}, dealt([]bool{true}, 0, 3))
}

package torch_test

import (
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

func TestOpsEqualPyTorch(t *testing.T) {
	for _, name := range []string{"cpu", "cuda"} {
		t.Run(name, func(t *testing.T) {
			device := torchtest.Device(t, name)
			torchtest.NoLeak(t)
			require.Positive(t, torchtest.OpSuite(t, torchtest.Torch(device)))
		})
	}
}

// Every operator has a golden case, or is listed here with the test that covers it.
func TestEveryOperatorHasAGoldenCase(t *testing.T) {
	elsewhere := []string{
		"Empty", "EmptyPinned", "Full", "Zeros", "Arange", "ZerosLike", "Fill_", "Copy_", "To", "ToAsync", "Clone", "Contiguous", // TestCreate…
		"Normal_", "Uniform_", "RandPerm", "State", // TestRandom…
		"Detach", "Grad", // TestAutograd…
		"Retain", "Keep", "Block", "With", "Close", "Err", "Fail", // TestScope…
		"SGDStep", "ClipGradNorm", "AmpUnscale", "AmpUpdateScale", // TestSGD…, package optim
		"SumAs",                // TestSumsInAnotherType
		"TopKRows",             // TestTopKRows…
		"DiceCE", "DiceCESums", // TestDiceCE…
		"ConvLean", "DropoutLean", // TestLeanConvolution…, TestWinograd…, TestLeanDropout…
		"SetRows",                    // TestDropoutOfRows…
		"FromHandle",                 // TestHandlesShareATensor
		"Recompute",                  // TestRecompute…
		"GatheredFrom", "SummedFrom", // package torch/dist: TestLiveGradientsAreThoseOfDDP, TestSumsOverRanks…
	}
	covered := map[string]bool{}
	for _, c := range torchtest.Cases(t) {
		covered[c.Op] = true
	}
	scope := reflect.TypeFor[*torch.Scope]()
	for i := range scope.NumMethod() {
		name := scope.Method(i).Name
		if !covered[name] && !slices.Contains(elsewhere, name) {
			t.Errorf("Scope.%s has neither a case in scripts/golden/ops.py nor a test of its own "+
				"in this list", name)
		}
	}
}

// 1000 × 60000 is beyond float16, whose largest number is 65504; float32 has it.
func TestSumsInAnotherType(t *testing.T) {
	torchtest.EachDevice(t, func(t *testing.T, d torch.Device) {
		require.NoError(t, torch.With(func(s *torch.Scope) error {
			x := s.Full([]int64{2, 500}, 60000, torch.Float16, d)
			own, err := s.Sum(x).Item()
			require.NoError(t, err)
			require.True(t, math.IsInf(own, 1))
			sum := s.SumAs(x, torch.Float32)
			require.NoError(t, s.Err())
			require.Equal(t, torch.Float32, sum.DType())
			require.Empty(t, sum.Shape())
			v, err := sum.Item()
			require.NoError(t, err)
			require.Equal(t, 6e7, v)
			return s.Err()
		}))
	})
}

func TestRandomNumbersEqualPyTorch(t *testing.T) {
	torchtest.NoLeak(t)
	var file struct {
		Random struct {
			Seed                              uint64
			Normal, Uniform, RandPerm, Double torchtest.Array
		}
	}
	golden.LoadJSON(t, "ops.json", &file)
	want := file.Random
	g, err := torch.NewGenerator(torch.CPU, want.Seed)
	require.NoError(t, err)
	defer g.Close()
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		state := s.State(g)
		draw := func() {
			x := s.Empty(want.Normal.Shape, torch.Float32, torch.CPU)
			s.Normal_(x, 0.5, 2, g)
			near(t, "normal", want.Normal.Elements32(), torchtest.Float32s(t, x), 1e-6)
			u := s.Empty(want.Uniform.Shape, torch.Float32, torch.CPU)
			s.Uniform_(u, -1, 3, g)
			require.Equal(t, want.Uniform.Elements32(), torchtest.Float32s(t, u))
			p, err := torch.Slice[int64](s.RandPerm(12, g))
			require.NoError(t, err)
			for i, v := range want.RandPerm.Data {
				require.EqualValues(t, v, p[i])
			}
		}
		draw()
		require.NoError(t, g.SetState(state))
		draw()
		return nil
	}))
}

// near compares with a tolerance of rel times the largest |want|.
func near(t testing.TB, what string, want, got []float32, rel float64) {
	t.Helper()
	require.Len(t, got, len(want), what)
	tol := golden.Tolerance{Scale: rel}
	if d := golden.Compare(nil, want, got, tol); d.Count > 0 && !(d.Excess <= 1) {
		t.Errorf("%s: %v; allowed %v", what, d, tol)
	}
}

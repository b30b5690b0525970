package checkpoint

import (
	"math"
	"math/big"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// hostile lists values to put where others are expected.
func hostile(t testing.TB) []any {
	tensor := func(dtype pth.DType, size ...int64) *pth.Tensor {
		n := int64(dtype.Size())
		for _, d := range size {
			n *= d
		}
		s, err := pth.NewStorage(dtype, make([]byte, n))
		require.NoError(t, err)
		x, err := pth.NewTensor(s, 0, size, nil)
		require.NoError(t, err)
		return x
	}
	return []any{nil, true, int64(-1), int64(math.MaxInt64), int64(math.MinInt64),
		big.NewInt(0).Lsh(big.NewInt(1), 200), math.NaN(), math.Inf(-1), "", "x", []byte{1},
		&pickle.List{}, &pickle.List{Items: []any{nil}}, pickle.Tuple{},
		pickle.Tuple{int64(7), "x"}, &pickle.Dict{}, dict("", nil, int64(-5), "x", nil, nil),
		&pickle.OrderedDict{}, pickle.Global{Module: "torch", Name: "FloatStorage"},
		pickle.Size{1, -1}, pickle.Device{Type: "cpu"}, pickle.DType("float32"),
		pickle.NewSet(int64(1)), tensor(pth.Float32), tensor(pth.Float32, 0, 3),
		tensor(pth.Int64, 3), tensor(pth.Uint8, 2), tensor(pth.Complex128, 1),
		tensor(pth.Uint32, 1)}
}

// replace copies a tree with node number *n, in walk order, replaced by another value. It decreases
// *n by the number of nodes visited.
func replace(v any, n *int, with any) any {
	if *n--; *n == -1 {
		return with
	}
	switch x := v.(type) {
	case *pickle.Dict:
		d := &pickle.Dict{}
		for k, e := range x.All() {
			d.Set(k, replace(e, n, with))
		}
		return d
	case *pickle.OrderedDict:
		d := &pickle.OrderedDict{}
		for k, e := range x.All() {
			d.Set(k, replace(e, n, with))
		}
		return d
	case *pickle.List:
		l := &pickle.List{}
		for _, e := range x.Items {
			l.Items = append(l.Items, replace(e, n, with))
		}
		return l
	case pickle.Tuple:
		l := pickle.Tuple{}
		for _, e := range x {
			l = append(l, replace(e, n, with))
		}
		return l
	}
	return v
}

// thin cuts containers of many similar values down to three.
func thin(v any) any {
	few := func(d *pickle.Dict) {
		keys := d.Keys()
		for i, k := range keys {
			if e, _ := d.Get(k); i >= 3 && len(keys) > 40 {
				d.Delete(k)
			} else {
				d.Set(k, thin(e))
			}
		}
	}
	switch x := v.(type) {
	case *pickle.Dict:
		few(x)
	case *pickle.OrderedDict:
		few(&x.Dict)
	case *pickle.List:
		for i, e := range x.Items {
			x.Items[i] = thin(e)
		}
		if len(x.Items) > 10 {
			x.Items = x.Items[:3]
		}
	}
	return v
}

// realRoot is the dictionary saved by nnU-Net, thinned out, with a scaler and lntorch's state.
func realRoot(t testing.TB) *pickle.Dict {
	t.Helper()
	f, err := pth.Open(filepath.Join(golden.Root(t),
		"testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/fold_0/checkpoint_final.pth"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	root := thin(f.Root).(*pickle.Dict)
	root.Set("grad_scaler_state", dict("scale", 65536.0, "growth_factor", 2.0, "backoff_factor",
		0.5, "growth_interval", int64(2000), "_growth_tracker", int64(0)))
	masks, err := vector(pth.Int64, 16, func([]byte) {})
	require.NoError(t, err)
	root.Set("lntorch", dict("version", int64(1), "train_losses", &pickle.List{Items: []any{0.5}},
		"method/mask/w", masks))
	return root
}

// digest reads everything in a checkpoint's dictionary. Errors are fine, panics are not.
func digest(t testing.TB, root any) error {
	f := &File{Path: "hostile.pth"}
	if err := f.interpret(root); err != nil {
		return err
	}
	f.Lntorch()
	return torch.With(func(s *torch.Scope) error {
		m := nn.NewModule()
		m.Add("encoder.stages.0.0.convs.0.conv.weight",
			nn.Builder{Scope: s, Device: torch.CPU}.Param(8, 1, 1, 3, 3))
		if _, err := LoadWeights(m, f.Weights, LoadOptions{AllowUnexpected: true}); err != nil {
			return err
		}
		if _, err := f.Training(s); err != nil {
			return err
		}
		f.Notes()
		return f.Understood(KeyTrainer, KeyEpoch, KeyMirrorAxes, KeyInit, KeyConfiguration, KeyFold,
			KeyPlans, KeyDataset)
	})
}

// Every node of a real checkpoint is replaced by every hostile value in turn.
func TestNoValueInAnyPlacePanics(t *testing.T) {
	torchtest.NoLeak(t)
	root := realRoot(t)
	require.NoError(t, digest(t, root))
	total := math.MaxInt
	replace(root, &total, nil)
	total = math.MaxInt - total
	require.Greater(t, total, 200)
	failed := 0
	for n := range total {
		for _, v := range hostile(t) {
			at := n
			if digest(t, replace(root, &at, v)) != nil {
				failed++
			}
		}
	}
	t.Logf("%d places, %d of %d changes refused", total, failed, total*len(hostile(t)))
	require.Greater(t, failed, total*5, "most places have a type")
}

// FuzzTraining makes several such replacements at once.
func FuzzTraining(f *testing.F) {
	torchtest.Require(f)
	root := realRoot(f)
	values := hostile(f)
	total := math.MaxInt
	replace(root, &total, nil)
	total = math.MaxInt - total
	for seed := range uint64(20) {
		f.Add(seed, uint8(3))
	}
	f.Fuzz(func(t *testing.T, seed uint64, changes uint8) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var v any = root
		for range changes%8 + 1 {
			n := rng.IntN(total)
			v = replace(v, &n, values[rng.IntN(len(values))])
		}
		_ = digest(t, v)
	})
}

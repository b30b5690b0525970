package checkpoint_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// The model trained by nnU-Net.
const (
	sourceModel      = "testdata/phantom-mini/results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom"
	sourceCheckpoint = sourceModel + "/fold_0/checkpoint_final.pth"
)

func openSource(t *testing.T) *checkpoint.File {
	t.Helper()
	f, err := checkpoint.Open(filepath.Join(golden.Root(t), sourceCheckpoint))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func sourceNetwork(t *testing.T, s *torch.Scope) models.Network {
	t.Helper()
	f := openSource(t)
	c, err := f.Plans.Configuration(f.Configuration)
	require.NoError(t, err)
	a, err := models.Parse(c)
	require.NoError(t, err)
	n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU},
		models.Spec{Architecture: a, InputChannels: 1, NumClasses: 2})
	require.NoError(t, err)
	return n
}

func dict(pairs ...any) *pickle.Dict {
	d := &pickle.Dict{}
	for i := 0; i < len(pairs); i += 2 {
		d.Set(pairs[i], pairs[i+1])
	}
	return d
}

func list(items ...any) *pickle.List { return &pickle.List{Items: items} }

func read(t *testing.T, x *pth.Tensor) []byte {
	t.Helper()
	b := make([]byte, x.Bytes())
	require.NoError(t, x.ReadInto(b))
	return b
}

// lastJSON decodes the last line of a script's output.
func lastJSON(t *testing.T, out []byte, v any) {
	t.Helper()
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	require.NoError(t, json.Unmarshal(lines[len(lines)-1], v))
}

func TestOpenReadsWhatNnUNetSaved(t *testing.T) {
	f := openSource(t)
	require.True(t, f.NNUNet)
	require.Equal(t, "nnUNetTrainer", f.Trainer)
	require.Equal(t, "3d_phantom", f.Configuration)
	require.Equal(t, "0", f.Fold)
	require.Equal(t, 30, f.Epoch)
	require.Equal(t, []int{0, 1, 2}, f.MirrorAxes)
	require.Len(t, f.Weights, 188)
	require.Equal(t, "encoder.stages.0.0.convs.0.conv.weight", f.Weights[0].Name)
	method, iteration := f.Lntorch()
	require.Empty(t, method)
	require.Zero(t, iteration)

	// The plans and dataset.json that nnU-Net wrote next to the checkpoint equal those inside it.
	for _, c := range []struct {
		name   string
		inside *plans.Object
	}{{"plans.json", f.Plans.Raw()}, {"dataset.json", f.Dataset.Raw()}} {
		want, err := plans.ReadJSON(filepath.Join(golden.Root(t), sourceModel, c.name))
		require.NoError(t, err)
		a, err := plans.EncodeJSON(want, 1, false)
		require.NoError(t, err)
		b, err := plans.EncodeJSON(c.inside, 1, false)
		require.NoError(t, err)
		require.JSONEq(t, string(a), string(b), c.name)
	}
}

func TestTrainingReadsWhatNnUNetSaved(t *testing.T) {
	torchtest.NoLeak(t)
	f := openSource(t)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		tr, err := f.Training(s)
		require.NoError(t, err)
		require.Equal(t, 30, tr.Epoch)
		require.Equal(t, 0.703917549878526, *tr.BestEMA)
		require.Nil(t, tr.Scaler)
		require.Empty(t, tr.Extra)
		require.Equal(t, torch.SGD{LR: 0.00046837194216121523, Momentum: 0.99, WeightDecay: 3e-5,
			Nesterov: true}, tr.SGD.Options)
		require.Equal(t, 0.01, tr.SGD.InitialLR)
		require.Len(t, tr.SGD.Buffers, 68)
		// the lowest-resolution head has weight 0 in the loss: no gradient, no momentum
		for i, b := range tr.SGD.Buffers {
			require.Equal(t, i == 62 || i == 63, b == nil, "momentum %d", i)
		}
		root, _ := f.Root().Get("optimizer_state")
		states, _ := root.(*pickle.Dict).Get("state")
		state, _ := states.(*pickle.Dict).Get(67)
		want, _ := state.(*pickle.Dict).Get("momentum_buffer")
		b, err := tr.SGD.Buffers[67].Bytes()
		require.NoError(t, err)
		require.Equal(t, read(t, want.(*pth.Tensor)), b)

		l := tr.Logging
		for name, n := range map[string]int{"mean": len(l.MeanFgDice), "ema": len(l.EMAFgDice),
			"dice": len(l.Dice), "train": len(l.TrainLosses),
			"val": len(l.ValLosses), "lr": len(l.LRs), "start": len(l.EpochStart),
			"end": len(l.EpochEnd)} {
			require.Equal(t, 30, n, name)
		}
		require.Equal(t, []float64{0}, l.Dice[0])
		require.Equal(t, 0.01, l.LRs[0])
		require.InDelta(t, 0.7, l.EMAFgDice[29], 0.01)
		return nil
	}))
}

// sample is a training state with everything in it: missing momentum buffers, a scaler, several
// classes, a method's state.
func sample(t *testing.T, s *torch.Scope) *checkpoint.Training {
	t.Helper()
	n := newSmall(t, s)
	best := 0.25
	f := openSource(t)
	return &checkpoint.Training{
		Network: n.module,
		SGD: checkpoint.SGDState{Options: torch.SGD{LR: 1e-3, Momentum: 0.99, WeightDecay: 3e-5,
			Nesterov: true}, InitialLR: 1e-2,
			Buffers: []*torch.Tensor{torchtest.Tensor(s, 1, 2, 3), nil,
				torchtest.Tensor(s, 2, 1, 2)}},
		Scaler: &optim.GradScalerState{Scale: 1024, GrowthFactor: 2, BackoffFactor: 0.5,
			GrowthInterval: 2000, GrowthTracker: 17},
		Logging: checkpoint.Logging{MeanFgDice: []float64{0.1, 1.0 / 3},
			EMAFgDice: []float64{0.1, 0.25}, Dice: [][]float64{{0.1, 0.2}, {math.NaN(), 1}},
			TrainLosses: []float32{0.1, -0.3}, ValLosses: []float32{1e-8, 2},
			LRs: []float64{0.01, 0.005}, EpochStart: []float64{1e9 + 0.25, 1e9 + 1},
			EpochEnd: []float64{1e9 + 2, 1e9 + 3}},
		BestEMA: &best, Epoch: 2,
		InitArgs: checkpoint.InitArgs{Plans: f.Plans.Raw(), Configuration: "3d_phantom", Fold: "3",
			Dataset: f.Dataset.Raw(), UnpackDataset: true, Device: "cpu"},
		Trainer: "nnUNetTrainer_DGST", MirrorAxes: []int{0, 2},
		Extra: []checkpoint.Entry{{Name: "iteration", Value: int64(math.MaxInt64)},
			{Name: "losses", Value: []float64{0.1, math.Inf(1)}},
			{Name: "none", Value: []float64{}},
			{Name: "method", Value: "dgst"}, {Name: "on", Value: true}, {Name: "x", Value: -0.5},
			{Name: "method/touched/a.weight", Value: []byte{0, 255, 1}},
			{Name: "method/mask/a.weight", Value: []int64{-1, 1 << 40}},
			{Name: "method/mask/empty", Value: []int64{}}},
	}
}

func TestSavedTrainingComesBack(t *testing.T) {
	torchtest.NoLeak(t)
	path := filepath.Join(t.TempDir(), "c.pth")
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		want := sample(t, s)
		require.NoError(t, checkpoint.Save(path, want))
		f, err := checkpoint.Open(path)
		require.NoError(t, err)
		defer f.Close()
		require.Equal(t, "3", f.Fold)
		method, iteration := f.Lntorch()
		require.Equal(t, "dgst", method)
		require.EqualValues(t, math.MaxInt64, iteration)
		got, err := f.Training(s)
		require.NoError(t, err)

		require.Len(t, got.SGD.Buffers, 3)
		require.Nil(t, got.SGD.Buffers[1])
		for _, i := range []int{0, 2} {
			require.Equal(t, want.SGD.Buffers[i].Shape(), got.SGD.Buffers[i].Shape())
			require.Equal(t, torchtest.Float32s(t, want.SGD.Buffers[i]),
				torchtest.Float32s(t, got.SGD.Buffers[i]))
		}
		require.Equal(t, want.SGD.Options, got.SGD.Options)
		require.Equal(t, want.SGD.InitialLR, got.SGD.InitialLR)
		require.Equal(t, want.Scaler, got.Scaler)
		require.True(t, math.IsNaN(got.Logging.Dice[1][0]))
		want.Logging.Dice[1][0], got.Logging.Dice[1][0] = 0, 0
		require.Equal(t, want.Logging, got.Logging)
		require.Equal(t, want.BestEMA, got.BestEMA)
		require.Equal(t, want.Epoch, got.Epoch)
		require.Equal(t, want.Trainer, got.Trainer)
		require.Equal(t, want.MirrorAxes, got.MirrorAxes)
		require.Equal(t, want.Extra, got.Extra)
		require.Equal(t, want.InitArgs.Configuration, got.InitArgs.Configuration)
		for _, pair := range [][2]*plans.Object{{want.InitArgs.Plans, got.InitArgs.Plans},
			{want.InitArgs.Dataset, got.InitArgs.Dataset}} {
			a, err := plans.EncodeJSON(pair[0], 1, false)
			require.NoError(t, err)
			b, err := plans.EncodeJSON(pair[1], 1, false)
			require.NoError(t, err)
			require.Equal(t, string(a), string(b), "order included")
		}

		n := newSmall(t, s)
		s.Fill_(n.weight.T, 3)
		_, err = checkpoint.LoadWeights(n.module, f.Weights, checkpoint.LoadOptions{})
		require.NoError(t, err)
		require.Equal(t, float32(-1), torchtest.Float32s(t, n.weight.T)[0])
		return nil
	}))
}

func TestAbsentPartsAreNone(t *testing.T) {
	torchtest.NoLeak(t)
	path := filepath.Join(t.TempDir(), "c.pth")
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		want := sample(t, s)
		want.Scaler, want.BestEMA, want.MirrorAxes, want.Extra, want.InitArgs.Fold = nil, nil, nil,
			nil, "all"
		want.Logging = checkpoint.Logging{}
		require.NoError(t, checkpoint.Save(path, want))
		f, err := checkpoint.Open(path)
		require.NoError(t, err)
		defer f.Close()
		got, err := f.Training(s)
		require.NoError(t, err)
		require.Nil(t, got.Scaler)
		require.Nil(t, got.BestEMA)
		require.Nil(t, got.MirrorAxes)
		require.Equal(t, "all", got.InitArgs.Fold)
		require.Empty(t, got.Logging.TrainLosses)
		require.Empty(t, got.Extra)
		return nil
	}))
}

func TestWhatCannotBeSavedIsNamedAndLeavesNoFile(t *testing.T) {
	torchtest.NoLeak(t)
	path := filepath.Join(t.TempDir(), "c.pth")
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		tr := sample(t, s)
		tr.Extra = append(tr.Extra, checkpoint.Entry{Name: "method/odd", Value: []string{"x"}})
		require.ErrorContains(t, checkpoint.Save(path, tr),
			"c.pth: method/odd: a []string cannot be saved")
		require.NoFileExists(t, path)
		tr.Extra = nil
		require.ErrorContains(t, checkpoint.Save(filepath.Join(t.TempDir(), "no", "c.pth"), tr),
			"no such file")
		return nil
	}))
}

func TestSaveWeightsIsABareStateDict(t *testing.T) {
	torchtest.NoLeak(t)
	path := filepath.Join(t.TempDir(), "w.pth")
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		n := newSmall(t, s)
		require.NoError(t, checkpoint.SaveWeights(path, n.module))
		f, err := checkpoint.Open(path)
		require.NoError(t, err)
		defer f.Close()
		require.False(t, f.NNUNet)
		require.Len(t, f.Weights, 7)
		require.Same(t, f.Weights[0].Storage, f.Weights[3].Storage, "aliases share a storage")
		_, err = f.Training(s)
		require.ErrorContains(t, err, "w.pth: holds only weights")
		require.ErrorContains(t, err, "optimizer_state")
		return nil
	}))
}

// describe lists a pickled value, path by path: Python type, value, and for tensors everything but
// the bytes; storages are numbered by first appearance.
func describe(path string, v any, storages map[*pth.Storage]int, out *[]line) {
	add := func(kind string, value any) { *out = append(*out, line{path, kind, value}) }
	each := func(kind string, d *pickle.Dict) {
		add(kind, d.Len())
		for k, e := range d.All() {
			add("key", k)
			describe(path+"/"+toText(k), e, storages, out)
		}
	}
	items := func(kind string, list []any) {
		add(kind, len(list))
		for i, e := range list {
			describe(path+"/"+toText(int64(i)), e, storages, out)
		}
	}
	switch x := v.(type) {
	case *pickle.Dict:
		each("dict", x)
	case *pickle.OrderedDict:
		each("OrderedDict", &x.Dict)
		if x.Attrs != nil {
			describe(path+".attributes", x.Attrs, storages, out)
		}
	case *pickle.List:
		items("list", x.Items)
	case pickle.Tuple:
		items("tuple", x)
	case *pth.Tensor:
		id, ok := storages[x.Storage]
		if !ok {
			id = len(storages)
			storages[x.Storage] = id
		}
		add("tensor", []any{x.DType, x.Size, x.Stride, x.Offset, x.RequiresGrad, x.Parameter, id,
			x.Storage.Numel})
	case *pickle.NumpyScalar:
		add("numpy", x.Value())
	default:
		add("plain", v)
	}
}

type line struct {
	path, kind string
	value      any
}

func toText(k any) string {
	b, err := json.Marshal(k)
	if err != nil {
		return "?"
	}
	return string(b)
}

// The real checkpoint, read and saved by this package, has nnU-Net's structure: keys, order, types,
// _metadata, shared storages. Numpy scalars become floats, the device becomes its name, and lntorch
// adds a last key.
func TestSavedCheckpointHasTheStructureOfNnUNets(t *testing.T) {
	torchtest.NoLeak(t)
	path := resave(t)
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var want, got []line
	source := openSource(t)
	describe("", source.Root(), map[*pth.Storage]int{}, &want)
	describe("", f.Root(), map[*pth.Storage]int{}, &got)
	require.Equal(t, line{"", "dict", 10}, got[0])
	got[0].value = 9
	require.Equal(t, []line{{"", "key", "lntorch"}, {`/"lntorch"`, "dict", 0}}, got[len(got)-2:])
	got = got[:len(got)-2]
	require.Len(t, got, len(want))
	numpy := 0
	for i, w := range want {
		switch {
		case w.kind == "numpy":
			require.IsType(t, 0.0, got[i].value, w.path)
			numpy++
			w.kind = "plain"
		case w.path == `/"init_args"/"device"` && w.kind == "plain":
			require.Equal(t, pickle.Device{Type: "cpu", Index: -1}, w.value)
			w.value = "cpu"
		}
		require.Equal(t, w, got[i])
	}
	require.Greater(t, numpy, 100, "the file of nnU-Net has numpy scalars")
	for i, w := range source.Weights {
		require.Equal(t, read(t, w.Tensor), read(t, f.Weights[i].Tensor), w.Name)
	}
}

// resave loads the real checkpoint into a network and saves it.
func resave(t *testing.T) string {
	t.Helper()
	f := openSource(t)
	path := filepath.Join(t.TempDir(), "again.pth")
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		n := sourceNetwork(t, s)
		_, err := checkpoint.LoadWeights(n.Module(), f.Weights, checkpoint.LoadOptions{})
		require.NoError(t, err)
		tr, err := f.Training(s)
		require.NoError(t, err)
		tr.Network = n.Module()
		tr.InitArgs.UnpackDataset, tr.InitArgs.Device = true, "cpu"
		return checkpoint.Save(path, tr)
	}))
	return path
}

func TestLivePythonOpensWhatSaveWrote(t *testing.T) {
	golden.Python(t)
	torchtest.NoLeak(t)
	path := resave(t)
	golden.Run(t, "nnunet_stack.py", "weights-only", path)
	for _, key := range []string{"network_weights", "optimizer_state"} {
		var r struct {
			Equal             bool
			Tensors, Storages int
		}
		lastJSON(t, golden.Run(t, "nnunet_stack.py", "compare-pth", sourceCheckpoint, path,
			"--only", key), &r)
		require.True(t, r.Equal, key)
		require.Positive(t, r.Tensors)
	}
	full := filepath.Join(t.TempDir(), "full.pth")
	require.NoError(t,
		torch.With(func(s *torch.Scope) error { return checkpoint.Save(full, sample(t, s)) }))
	golden.Run(t, "nnunet_stack.py", "weights-only", full)
}

func TestOpenSaysWhatItFoundAndExpected(t *testing.T) {
	w := weight(t, "", pth.Float32, []float64{1}, 1).Tensor
	dir := t.TempDir()
	for name, c := range map[string]struct {
		root any
		want string
	}{
		"a list": {list(int64(1)),
			"found a value of type list, expected a dictionary: nnU-Net's checkpoint or a state dict"},
		"a tensor": {w, "found a value of type torch.Tensor, expected a dictionary"},
		"odd weights": {dict("network_weights", "x"),
			"network_weights is of type str, expected a dict"},
		"an odd weight": {dict("network_weights", dict("a", 1.5)),
			"weight a is of type float, expected a tensor"},
		"a number": {dict(int64(0), w),
			"the name 0 of a weight is of type int, expected text"},
		"neither": {dict("a", w, "b", int64(1)),
			"found a dictionary with the keys a, b, expected nnU-Net's checkpoint (network_weights) or a state dict, as it is or " +
				"under one key: weight b is of type int, expected a tensor; save only the weights, in Python: torch.save(network.state_dict(), path)"},
		"two networks": {dict("model", dict("a", w), "ema", dict("a", w)),
			`found weights under 2 keys (model, ema), expected one: save only the right one, in Python: ` +
				`torch.save(torch.load(path, map_location="cpu")["model"], new_path)`},
		"two levels": {dict("state", dict("model", dict("a", w))),
			"found a dictionary with the keys state, expected"},
		"odd Lightning": {dict("state_dict", dict("a", w, "b", int64(1))),
			"weight b is of type int"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "odd.pth")
			require.NoError(t, pth.Save(path, c.root))
			_, err := checkpoint.Open(path)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := checkpoint.Open(filepath.Join(dir, "none.pth"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "none.pth")
}

// Invalid metadata affects only its own fields: the weights are read, and Understood returns the
// reason.
func TestOddMetadataLeavesTheWeights(t *testing.T) {
	w := weight(t, "", pth.Float32, []float64{1}, 1).Tensor
	path := filepath.Join(t.TempDir(), "odd.pth")
	init := func(pairs ...any) any { return dict(pairs...) }
	for name, c := range map[string]struct {
		key   string
		value any
		asked string
		want  string
	}{
		"trainer": {"trainer_name", int64(1), checkpoint.KeyTrainer,
			"trainer_name is of type int, expected text"},
		"epoch": {"current_epoch", "3", checkpoint.KeyEpoch,
			"current_epoch is of type str, expected a whole number"},
		"half an epoch": {"current_epoch", 30.5, checkpoint.KeyEpoch,
			"current_epoch is of type float, expected a whole number"},
		"negative epoch": {"current_epoch", int64(-1), checkpoint.KeyEpoch,
			"current_epoch is -1"},
		"axes": {"inference_allowed_mirroring_axes", int64(1),
			checkpoint.KeyMirrorAxes, "found a value of type int, expected a list"},
		"an axis": {"inference_allowed_mirroring_axes", pickle.Tuple{int64(3)},
			checkpoint.KeyMirrorAxes, "3 is not an axis, expected 0, 1 or 2"},
		"text as axis": {"inference_allowed_mirroring_axes", pickle.Tuple{"x"},
			checkpoint.KeyMirrorAxes, "holds a value of type str, expected axes"},
		"arguments": {"init_args", int64(1), checkpoint.KeyPlans,
			"init_args is of type int, expected a dict"},
		"configuration": {"init_args", init("configuration", nil), checkpoint.KeyConfiguration,
			"init_args: configuration is of type NoneType, expected text"},
		"fold": {"init_args", init("fold", 1.5), checkpoint.KeyFold,
			"init_args: fold is of type float, expected text"},
		"plans": {"init_args", init("plans", list()), checkpoint.KeyPlans,
			"init_args: plans is of type list, expected a dict"},
		"a tensor in plans": {"init_args", init("plans", dict("x", w)), checkpoint.KeyPlans,
			"init_args: plans: a value of type torch.Tensor cannot be stored in JSON"},
		"dataset": {"init_args", init("dataset_json", "x"), checkpoint.KeyDataset,
			"init_args: dataset_json is of type str, expected a dict"},
		"incomplete dataset": {"init_args", init("dataset_json", dict()), checkpoint.KeyDataset,
			`dataset_json: key "channel_names" is missing`},
		"label of a word": {"init_args",
			init("dataset_json", dict("channel_names", dict("0", "CT"), "labels",
				dict("background", int64(0), "a", "one"))), checkpoint.KeyDataset,
			`dataset_json: labels: a: expected an integer, a string of one, or a list of them, found "one"`},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, pth.Save(path,
				dict("network_weights", dict("a", w), c.key, c.value)))
			f, err := checkpoint.Open(path)
			require.NoError(t, err)
			defer f.Close()
			require.Len(t, f.Weights, 1)
			err = f.Understood(c.asked)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, c.want)
			require.Len(t, f.Notes(), 1)
			require.ErrorContains(t, errors.New(f.Notes()[0]), c.want)
			for _, key := range []string{checkpoint.KeyTrainer, checkpoint.KeyEpoch,
				checkpoint.KeyMirrorAxes} {
				if key != c.key {
					require.NoError(t, f.Understood(key))
				}
			}
			out := path + ".safetensors"
			about, err := f.About()
			require.NoError(t, err)
			require.NoError(t, checkpoint.SaveSafetensors(out, f.Weights, about))
		})
	}
}

// Values that Python accepts as numbers.
func TestMetadataIsReadAsPythonReadsIt(t *testing.T) {
	w := weight(t, "", pth.Float32, []float64{1}, 1).Tensor
	path := filepath.Join(t.TempDir(), "lenient.pth")
	numpy := func(kind byte, data ...byte) *pickle.NumpyScalar {
		s := &pickle.NumpyScalar{Data: data}
		s.DType.Order, s.DType.Kind, s.DType.Size = '<', kind, len(data)
		return s
	}
	name := numpy('U', 'n', 0, 0, 0, 'n', 0, 0, 0)
	axes := &pickle.NumpyArray{Shape: []int64{2}, Data: []byte{0, 2}}
	axes.DType.Order, axes.DType.Kind, axes.DType.Size = '|', 'u', 1
	dataset := dict("channel_names", dict(int64(0), "CT"), "labels",
		dict("background", "0", "a", 1.0, "b", numpy('i', 2, 0)), "numTraining", 5.0)
	require.NoError(t,
		pth.Save(path, dict("network_weights", dict("a", w), "trainer_name", name, "current_epoch",
			30.0, "inference_allowed_mirroring_axes", axes,
			"init_args", dict("configuration", name, "fold", numpy('i', 3, 0, 0, 0), "dataset_json",
				dataset,
				"plans", dict("configurations", dict(), "transpose_forward",
					pickle.Tuple{0.0, int64(1)}, "op",
					pickle.Global{Module: "builtins", Name: "list"})))))
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.Empty(t, f.Notes())
	require.Equal(t, []any{"nn", 30, []int{0, 2}, "nn", "3"},
		[]any{f.Trainer, f.Epoch, f.MirrorAxes, f.Configuration, f.Fold})
	require.Equal(t, []int{0, 1, 2}, f.Dataset.Labels.AllLabels)
	require.Equal(t, []string{"CT"}, f.Dataset.ChannelNames)
	n, err := f.Dataset.NumTraining()
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.Equal(t, []int{0, 1}, f.Plans.TransposeForward)
	for _, fold := range []any{int64(3), "3", 3.0} {
		require.NoError(t, pth.Save(path,
			dict("network_weights", dict("a", w), "init_args", dict("fold", fold))))
		f, err := checkpoint.Open(path)
		require.NoError(t, err)
		defer f.Close()
		require.Equal(t, "3", f.Fold)
	}
}

func TestStateDictInsideADictIsFound(t *testing.T) {
	w := weight(t, "", pth.Float32, []float64{1}, 1).Tensor
	path := filepath.Join(t.TempDir(), "s.pth")
	open := func(root any) *checkpoint.File {
		require.NoError(t, pth.Save(path, root))
		f, err := checkpoint.Open(path)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		require.False(t, f.NNUNet)
		require.Equal(t, "a", f.Weights[0].Name)
		require.Len(t, f.Weights, 1)
		return f
	}
	optimizer := dict("state", dict(int64(0), dict("momentum_buffer", w)), "param_groups", list())
	for _, key := range []string{"model", "net", "state_dict", "network", "model_state_dict", "ema",
		"anything"} {
		f := open(dict("epoch", int64(3), key, dict("_orig_mod.module.a", w), "optimizer",
			optimizer, "empty", dict()))
		require.Equal(t, key, f.Under)
		require.Equal(t, []string{`the weights are those under the key "` + key + `"`}, f.Notes())
	}
	require.Equal(t, "state_dict",
		open(dict("ema", dict("b", w), "state_dict", dict("module.a", w))).Under,
		"Lightning's place")
	f := open(dict("a", w, "b._extra_state", nil))
	require.Empty(t, f.Under)
	require.Equal(t,
		[]string{"skipped 1 entries that are not weights, for example b._extra_state"},
		f.Notes())
}

func TestTrainingSaysWhatItFoundAndExpected(t *testing.T) {
	torchtest.NoLeak(t)
	w := weight(t, "", pth.Float32, []float64{1}, 1).Tensor
	group := func(more ...any) *pickle.List {
		return list(dict(append([]any{"lr", 0.1, "params", list(int64(0))}, more...)...))
	}
	sgd := func(state any) *pickle.Dict { return dict("state", state, "param_groups", group()) }
	logging := func(more ...any) *pickle.Dict {
		d := dict()
		for _, key := range []string{"mean_fg_dice", "ema_fg_dice", "dice_per_class_or_region",
			"train_losses", "val_losses", "lrs", "epoch_start_timestamps", "epoch_end_timestamps"} {
			d.Set(key, list())
		}
		for i := 0; i < len(more); i += 2 {
			d.Set(more[i], more[i+1])
		}
		return d
	}
	for name, c := range map[string]struct {
		key   string
		value any
		want  string
	}{
		"no optimizer": {"optimizer_state", nil,
			"optimizer_state is of type NoneType, expected a dict"},
		"no groups": {"optimizer_state", dict("state", dict()),
			"param_groups: found a value of type NoneType, expected a list"},
		"two groups": {"optimizer_state",
			dict("state", dict(), "param_groups", list(dict(), dict())), "2 parameter groups"},
		"odd group": {"optimizer_state",
			dict("state", dict(), "param_groups", list(int64(1))), "expected one dict"},
		"odd rate": {"optimizer_state",
			dict("state", dict(), "param_groups", group("lr", "x")),
			"lr is of type str, expected a number"},
		"odd parameters": {"optimizer_state",
			dict("state", dict(), "param_groups", group("params", int64(3))),
			"params: found a value of type int, expected a list"},
		"odd state": {"optimizer_state", sgd(list()),
			"optimizer_state.state is of type list, expected a dict"},
		"state beyond": {"optimizer_state", sgd(dict(int64(1), dict())),
			"entry 1, expected a dict for a parameter below 1"},
		"negative state":    {"optimizer_state", sgd(dict(int64(-1), dict())), "entry -1"},
		"state by name":     {"optimizer_state", sgd(dict("a", dict())), "entry a"},
		"state of a number": {"optimizer_state", sgd(dict(int64(0), 1.5)), "entry 0"},
		"odd momentum": {"optimizer_state", sgd(dict(int64(0), dict("momentum_buffer", "x"))),
			"momentum of parameter 0 is of type str, expected a tensor"},
		"complex momentum": {"optimizer_state",
			sgd(dict(int64(0), dict("momentum_buffer",
				weight(t, "", pth.Complex64, []float64{0}, 1).Tensor))),
			"momentum of parameter 0: element type complex64 is not supported"},
		"odd scaler": {"grad_scaler_state", "x",
			"grad_scaler_state is of type str, expected a dict"},
		"odd scale": {"grad_scaler_state", dict("scale", list()),
			"grad_scaler_state: scale is of type list, expected a number"},
		"odd best": {"_best_ema", "x", "_best_ema is of type str, expected a number"},
		"no log":   {"logging", nil, "logging is of type NoneType, expected a dict"},
		"log of a number": {"logging", logging("lrs", 1.5),
			"logging: lrs: found a value of type float, expected a list"},
		"odd log entry": {"logging", logging("train_losses", list(0.5, "x")),
			"logging: train_losses[1] is of type str, expected a number"},
		"odd dice": {"logging", logging("dice_per_class_or_region", list(0.5)),
			"logging: dice_per_class_or_region[0]: found a value of type float, expected a list"},
		"odd class": {"logging", logging("dice_per_class_or_region", list(list("x"))),
			"logging: dice_per_class_or_region[0] holds a value of type str, expected numbers"},
		"odd lntorch": {"lntorch", int64(1), "lntorch is of type int, expected a dict"},
		"odd entry": {"lntorch", dict("a", dict()),
			"lntorch: a: a value of type dict is not supported"},
		"odd list": {"lntorch", dict("a", list("x")),
			"lntorch: a: a list holds a value of type str, expected numbers"},
		"odd entry tensor": {"lntorch", dict("a", w),
			"lntorch: a: a tensor of float32 is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			root := dict("network_weights", dict("a", w), "optimizer_state", sgd(dict()), "logging",
				logging())
			path := filepath.Join(t.TempDir(), "odd.pth")
			load := func() error {
				require.NoError(t, pth.Save(path, root))
				f, err := checkpoint.Open(path)
				require.NoError(t, err)
				defer f.Close()
				return torch.With(func(s *torch.Scope) error {
					_, err := f.Training(s)
					return err
				})
			}
			require.NoError(t, load())
			root.Set(c.key, c.value)
			err := load()
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, c.want)
		})
	}
}

package checkpoint

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// Logging holds nnU-Net's log lists, one entry per epoch.
type Logging struct {
	MeanFgDice  []float64
	EMAFgDice   []float64
	Dice        [][]float64
	TrainLosses []float32
	ValLosses   []float32
	LRs         []float64
	EpochStart  []float64
	EpochEnd    []float64
}

// InitArgs holds the arguments of nnU-Net's trainer, which every checkpoint contains.
type InitArgs struct {
	Plans         *plans.Object // plans.json
	Configuration string
	Fold          string        // a number or "all"
	Dataset       *plans.Object // dataset.json
	UnpackDataset bool
	Device        string // "cpu", "cuda"; nnU-Net writes a torch.device here and never reads it
}

// SGDState is the optimizer's state: settings, and momentum buffers by parameter index, nil if
// there is none.
type SGDState struct {
	Options   torch.SGD
	InitialLR float64
	Buffers   []*torch.Tensor
}

// Entry is one named value of lntorch's own state: int64, float64, string, bool, []int64, []float64
// or []byte.
type Entry struct {
	Name  string
	Value any
}

// Training is the complete state from which a training run resumes.
type Training struct {
	Network    *nn.Module
	SGD        SGDState
	Scaler     *optim.GradScalerState // nil without mixed precision
	Logging    Logging
	BestEMA    *float64 // nil before the first epoch
	Epoch      int      // the epoch to start or to resume
	InitArgs   InitArgs
	Trainer    string
	MirrorAxes []int // nil for None
	// Extra is stored under the key "lntorch", which nnU-Net ignores.
	Extra []Entry
}

// Save writes t as nnU-Net's trainer does, with adapters merged into the weights: the same keys in
// the same order, every alias of a weight, and numpy scalars as Python floats (Differs: torch's
// weights_only loader can then open the file, and nnU-Net only rounds and compares them). The file
// appears complete or not at all.
func Save(path string, t *Training) error {
	return withStateDict(t.Network, path,
		func(weights *pickle.OrderedDict) error { return save(path, t, weights) })
}

func save(path string, t *Training, weights *pickle.OrderedDict) error {
	root := &pickle.Dict{}
	root.Set("network_weights", weights)
	sgd, err := sgdDict(t.SGD)
	if err != nil {
		return fmt.Errorf("checkpoint: %s: optimizer: %w", path, err)
	}
	root.Set("optimizer_state", sgd)
	if t.Scaler == nil {
		root.Set("grad_scaler_state", nil)
	} else {
		root.Set("grad_scaler_state", dict("scale", t.Scaler.Scale, "growth_factor",
			t.Scaler.GrowthFactor,
			"backoff_factor", t.Scaler.BackoffFactor, "growth_interval", t.Scaler.GrowthInterval,
			"_growth_tracker", t.Scaler.GrowthTracker))
	}
	root.Set("logging", t.Logging.dict())
	if t.BestEMA == nil {
		root.Set("_best_ema", nil)
	} else {
		root.Set("_best_ema", *t.BestEMA)
	}
	t.setAbout(root)
	extra := &pickle.Dict{}
	for _, e := range t.Extra {
		v, err := entryValue(e.Value)
		if err != nil {
			return fmt.Errorf("checkpoint: %s: %s: %w", path, e.Name, err)
		}
		extra.Set(e.Name, v)
	}
	root.Set("lntorch", extra)
	if err := pth.Save(path, root); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// setAbout sets the entries that describe the weights.
func (t *Training) setAbout(root *pickle.Dict) {
	root.Set("current_epoch", int64(t.Epoch))
	var fold any = t.InitArgs.Fold
	if n, err := strconv.ParseInt(t.InitArgs.Fold, 10, 64); err == nil {
		fold = n
	}
	root.Set("init_args", dict("plans", fromJSON(t.InitArgs.Plans), "configuration",
		t.InitArgs.Configuration, "fold", fold,
		"dataset_json", fromJSON(t.InitArgs.Dataset), "unpack_dataset", t.InitArgs.UnpackDataset,
		"device", t.InitArgs.Device))
	root.Set("trainer_name", t.Trainer)
	if t.MirrorAxes == nil {
		root.Set("inference_allowed_mirroring_axes", nil)
	} else {
		axes := pickle.Tuple{}
		for _, a := range t.MirrorAxes {
			axes = append(axes, int64(a))
		}
		root.Set("inference_allowed_mirroring_axes", axes)
	}
}

// SaveWeights writes a network's bare state dict, as torch.save(network.state_dict()) does, with
// adapters merged.
func SaveWeights(path string, m *nn.Module) error {
	return withStateDict(m, path, func(weights *pickle.OrderedDict) error {
		if err := pth.Save(path, weights); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		return nil
	})
}

// withStateDict calls f with the network's state dict, whose tensors are valid during the call.
func withStateDict(m *nn.Module, path string, f func(*pickle.OrderedDict) error) error {
	return torch.NoGrad(func() error {
		return torch.With(func(s *torch.Scope) error {
			weights, err := stateDict(s, m)
			if err != nil {
				return fmt.Errorf("checkpoint: %s: %w", path, err)
			}
			return f(weights)
		})
	})
}

func dict(pairs ...any) *pickle.Dict {
	d := &pickle.Dict{}
	for i := 0; i < len(pairs); i += 2 {
		d.Set(pairs[i], pairs[i+1])
	}
	return d
}

// stateDict returns the pickled form of state_dict(): every name, aliases sharing a tensor, and
// _metadata. Merged weights live in s.
func stateDict(s *torch.Scope, m *nn.Module) (*pickle.OrderedDict, error) {
	d := &pickle.OrderedDict{}
	files := map[*nn.Param]*pth.Tensor{}
	for _, p := range m.StateDict() {
		t := files[p.Param]
		if t == nil {
			var err error
			if t, err = toFile(p.Plain(s)); err != nil {
				return nil, fmt.Errorf("%s: %w", p.Name, err)
			}
			files[p.Param] = t
		}
		d.Set(p.Name, t)
	}
	meta := &pickle.OrderedDict{}
	for _, e := range m.Metadata() {
		meta.Set(e.Path, dict("version", int64(e.Version)))
	}
	d.Attrs = dict("_metadata", meta)
	return d, nil
}

func sgdDict(o SGDState) (*pickle.Dict, error) {
	state := &pickle.Dict{}
	params := &pickle.List{}
	for i, b := range o.Buffers {
		params.Items = append(params.Items, int64(i))
		if b == nil {
			continue
		}
		t, err := toFile(b)
		if err != nil {
			return nil, fmt.Errorf("momentum of parameter %d: %w", i, err)
		}
		state.Set(int64(i), dict("momentum_buffer", t))
	}
	group := dict("lr", o.Options.LR, "momentum", o.Options.Momentum, "dampening", int64(0),
		"weight_decay", o.Options.WeightDecay,
		"nesterov", o.Options.Nesterov, "maximize", false, "foreach", nil, "differentiable", false,
		"fused", nil,
		"initial_lr", o.InitialLR, "params", params)
	return dict("state", state, "param_groups", &pickle.List{Items: []any{group}}), nil
}

func floats[T float32 | float64](v []T) *pickle.List {
	l := &pickle.List{}
	for _, x := range v {
		l.Items = append(l.Items, float64(x))
	}
	return l
}

func (l *Logging) dict() *pickle.Dict {
	perClass := &pickle.List{}
	for _, d := range l.Dice {
		perClass.Items = append(perClass.Items, floats(d))
	}
	return dict("mean_fg_dice", floats(l.MeanFgDice), "ema_fg_dice", floats(l.EMAFgDice),
		"dice_per_class_or_region", perClass,
		"train_losses", floats(l.TrainLosses), "val_losses", floats(l.ValLosses), "lrs",
		floats(l.LRs),
		"epoch_start_timestamps", floats(l.EpochStart), "epoch_end_timestamps", floats(l.EpochEnd))
}

func entryValue(v any) (any, error) {
	switch x := v.(type) {
	case nil, bool, int64, float64, string:
		return x, nil
	case []float64:
		return floats(x), nil
	case []int64:
		return vector(pth.Int64, 8*len(x), func(b []byte) { putInt64s(b, x) })
	case []byte:
		return vector(pth.Uint8, len(x), func(b []byte) { copy(b, x) })
	}
	return nil, fmt.Errorf("a %T cannot be saved", v)
}

func vector(t pth.DType, bytes int, put func([]byte)) (*pth.Tensor, error) {
	b := make([]byte, bytes)
	put(b)
	s, err := pth.NewStorage(t, b)
	if err != nil {
		return nil, err
	}
	return pth.NewTensor(s, 0, []int64{s.Numel}, nil)
}

func putInt64s(b []byte, v []int64) {
	for i, x := range v {
		for j := range 8 {
			b[8*i+j] = byte(x >> (8 * j))
		}
	}
}

// Training reads the state from which training resumes, except for the network's weights
// (LoadWeights). Momentum buffers live in s. The file may come from lntorch or from nnU-Net.
func (f *File) Training(s *torch.Scope) (*Training, error) {
	t, err := f.training(s)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %s: %w", f.Path, err)
	}
	return t, nil
}

func (f *File) training(s *torch.Scope) (*Training, error) {
	if !f.NNUNet {
		return nil, fmt.Errorf("holds only weights; training resumes from a checkpoint in " +
			"nnU-Net's form (optimizer_state, logging, …)")
	}
	if err := f.Understood(KeyEpoch, KeyTrainer, KeyMirrorAxes, KeyInit); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "checkpoint: "+f.Path+": "))
	}
	t := &Training{Epoch: f.Epoch, Trainer: f.Trainer, MirrorAxes: f.MirrorAxes,
		InitArgs: InitArgs{Configuration: f.Configuration, Fold: f.Fold}}
	if args, _ := f.root.Get(KeyInit); pickle.AsDict(args) != nil {
		t.InitArgs.Device, _ = text(pickle.AsDict(args), "device") // nnU-Net's is an object of torch
	}
	if f.Plans != nil {
		t.InitArgs.Plans = f.Plans.Raw()
	}
	if f.Dataset != nil {
		t.InitArgs.Dataset = f.Dataset.Raw()
	}
	if err := f.readSGD(s, t); err != nil {
		return nil, err
	}
	if err := f.readScaler(t); err != nil {
		return nil, err
	}
	if v, _ := f.root.Get("_best_ema"); v != nil {
		x, ok := pickle.AsFloat(v)
		if !ok {
			return nil, fmt.Errorf("_best_ema is of type %s, expected a number", pickle.TypeName(v))
		}
		t.BestEMA = &x
	}
	var err error
	if t.Logging, err = f.readLogging(); err != nil {
		return nil, err
	}
	t.Extra, err = f.readExtra()
	return t, err
}

// History returns how a training went so far: its log lists, and lntorch's own entries, which are nil
// in a file of nnU-Net. Weights and momentum are not read.
func (f *File) History() (l Logging, extra []Entry, err error) {
	if !f.NNUNet {
		return l, nil, fmt.Errorf("checkpoint: %s: holds only weights, expected nnU-Net's form (logging, …)", f.Path)
	}
	if l, err = f.readLogging(); err == nil {
		extra, err = f.readExtra()
	}
	if err != nil {
		return l, nil, fmt.Errorf("checkpoint: %s: %w", f.Path, err)
	}
	return l, extra, nil
}

func (f *File) readLogging() (l Logging, err error) {
	v, _ := f.root.Get("logging")
	d := pickle.AsDict(v)
	if d == nil {
		return l, fmt.Errorf("logging is of type %s, expected a dict", pickle.TypeName(v))
	}
	return l, l.read(d)
}

func (f *File) readExtra() (list []Entry, err error) {
	v, ok := f.root.Get("lntorch")
	if !ok {
		return nil, nil
	}
	d := pickle.AsDict(v)
	if d == nil {
		return nil, fmt.Errorf("lntorch is of type %s, expected a dict", pickle.TypeName(v))
	}
	for k, e := range d.All() {
		value, err := readEntry(e)
		if err != nil {
			return nil, fmt.Errorf("lntorch: %v: %w", k, err)
		}
		list = append(list, Entry{fmt.Sprint(k), value})
	}
	return list, nil
}

func (f *File) readScaler(t *Training) error {
	v, _ := f.root.Get("grad_scaler_state")
	if v == nil {
		return nil
	}
	d := pickle.AsDict(v)
	if d == nil {
		return fmt.Errorf("grad_scaler_state is of type %s, expected a dict", pickle.TypeName(v))
	}
	if d.Len() == 0 { // from a disabled scaler
		return nil
	}
	t.Scaler = &optim.GradScalerState{}
	var errs [5]error
	t.Scaler.Scale, errs[0] = float(d, "scale")
	t.Scaler.GrowthFactor, errs[1] = float(d, "growth_factor")
	t.Scaler.BackoffFactor, errs[2] = float(d, "backoff_factor")
	t.Scaler.GrowthInterval, errs[3] = integer(d, "growth_interval")
	t.Scaler.GrowthTracker, errs[4] = integer(d, "_growth_tracker")
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("grad_scaler_state: %w", err)
	}
	return nil
}

// maxParams bounds the parameter index of an optimizer state; ResEncL has 264 parameters.
const maxParams = 1 << 20

func (f *File) readSGD(s *torch.Scope, t *Training) error {
	v, _ := f.root.Get("optimizer_state")
	d := pickle.AsDict(v)
	if d == nil {
		return fmt.Errorf("optimizer_state is of type %s, expected a dict", pickle.TypeName(v))
	}
	groups, _ := d.Get("param_groups")
	list, err := items(groups)
	if err != nil {
		return fmt.Errorf("optimizer_state.param_groups: %w", err)
	}
	if len(list) != 1 || pickle.AsDict(list[0]) == nil {
		return fmt.Errorf("optimizer_state has %d parameter groups, expected one dict as in "+
			"nnU-Net's", len(list))
	}
	n, err := t.SGD.readGroup(pickle.AsDict(list[0]))
	if err != nil {
		return fmt.Errorf("optimizer_state.param_groups: %w", err)
	}
	t.SGD.Buffers = make([]*torch.Tensor, n)
	state, _ := d.Get("state")
	sd := pickle.AsDict(state)
	if sd == nil {
		return fmt.Errorf("optimizer_state.state is of type %s, expected a dict",
			pickle.TypeName(state))
	}
	for k, e := range sd.All() {
		i, ok := wholeNumber(k)
		entry := pickle.AsDict(e)
		if !ok || i < 0 || i >= int64(n) || entry == nil {
			return fmt.Errorf("optimizer_state.state has an entry %v, expected a dict for a "+
				"parameter below %d", k, n)
		}
		b, _ := entry.Get("momentum_buffer")
		if b == nil {
			continue
		}
		tensor, ok := b.(*pth.Tensor)
		if !ok {
			return fmt.Errorf("momentum of parameter %d is of type %s, expected a tensor", i,
				pickle.TypeName(b))
		}
		m, err := readTensor(s, tensor)
		if err != nil {
			return fmt.Errorf("momentum of parameter %d: %w", i, err)
		}
		t.SGD.Buffers[i] = m
	}
	return nil
}

// readGroup reads the settings and returns the number of parameters.
func (o *SGDState) readGroup(g *pickle.Dict) (int, error) {
	var errs [5]error
	o.Options.LR, errs[0] = float(g, "lr")
	o.Options.Momentum, errs[1] = float(g, "momentum")
	o.Options.Dampening, errs[2] = float(g, "dampening")
	o.Options.WeightDecay, errs[3] = float(g, "weight_decay")
	o.InitialLR, errs[4] = float(g, "initial_lr")
	if err := errors.Join(errs[:]...); err != nil {
		return 0, err
	}
	nesterov, _ := g.Get("nesterov")
	switched, _ := pickle.AsFloat(nesterov)
	o.Options.Nesterov = switched != 0
	v, _ := g.Get("params")
	params, err := items(v)
	if err != nil {
		return 0, fmt.Errorf("params: %w", err)
	}
	if len(params) > maxParams {
		return 0, fmt.Errorf("params: %d of them", len(params))
	}
	return len(params), nil
}

func readTensor(s *torch.Scope, t *pth.Tensor) (*torch.Tensor, error) {
	dtype, err := dtypeOf(t.DType)
	if err != nil {
		return nil, err
	}
	out := s.Empty(t.Size, dtype, torch.CPU)
	if out == nil {
		return nil, s.Err()
	}
	b, err := out.Bytes()
	if err != nil {
		return nil, err
	}
	return out, t.ReadInto(b)
}

func (l *Logging) read(d *pickle.Dict) error {
	var err error
	get := func(key string) []any {
		v, _ := d.Get(key)
		list, wrong := items(v)
		if wrong != nil && err == nil {
			err = fmt.Errorf("logging: %s: %w", key, wrong)
		}
		return list
	}
	list := func(key string) []float64 {
		out := []float64{}
		for i, e := range get(key) {
			x, ok := pickle.AsFloat(e)
			if !ok && err == nil {
				err = fmt.Errorf("logging: %s[%d] is of type %s, expected a number", key, i,
					pickle.TypeName(e))
			}
			out = append(out, x)
		}
		return out
	}
	narrow := func(v []float64) []float32 {
		out := make([]float32, len(v))
		for i, x := range v {
			out[i] = float32(x)
		}
		return out
	}
	*l = Logging{MeanFgDice: list("mean_fg_dice"), EMAFgDice: list("ema_fg_dice"),
		TrainLosses: narrow(list("train_losses")),
		ValLosses:   narrow(list("val_losses")), LRs: list("lrs"),
		EpochStart: list("epoch_start_timestamps"), EpochEnd: list("epoch_end_timestamps")}
	for i, e := range get("dice_per_class_or_region") {
		row := []float64{}
		classes, wrong := items(e)
		if wrong != nil && err == nil {
			err = fmt.Errorf("logging: dice_per_class_or_region[%d]: %w", i, wrong)
		}
		for _, c := range classes {
			x, ok := pickle.AsFloat(c)
			if !ok && err == nil {
				err = fmt.Errorf("logging: dice_per_class_or_region[%d] holds a value of type "+
					"%s, expected numbers", i, pickle.TypeName(c))
			}
			row = append(row, x)
		}
		l.Dice = append(l.Dice, row)
	}
	return err
}

func readEntry(v any) (any, error) {
	switch x := v.(type) {
	case nil, bool, int64, float64, string:
		return x, nil
	case *pickle.List:
		out := []float64{}
		for _, e := range x.Items {
			f, ok := pickle.AsFloat(e)
			if !ok {
				return nil, fmt.Errorf("a list holds a value of type %s, expected numbers",
					pickle.TypeName(e))
			}
			out = append(out, f)
		}
		return out, nil
	case *pth.Tensor:
		b := make([]byte, x.Bytes())
		if err := x.ReadInto(b); err != nil {
			return nil, err
		}
		switch x.DType {
		case pth.Uint8:
			return b, nil
		case pth.Int64:
			out := make([]int64, len(b)/8)
			for i := range out {
				for j := range 8 {
					out[i] |= int64(b[8*i+j]) << (8 * j)
				}
			}
			return out, nil
		}
		return nil, fmt.Errorf("a tensor of %s is not supported", x.DType)
	}
	return nil, fmt.Errorf("a value of type %s is not supported", pickle.TypeName(v))
}

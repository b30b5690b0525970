package train

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// TraceSettings are what a user may set of a trace.
type TraceSettings struct {
	finetune.Refine
	Optimizer
	Seed       uint64 `flag:"seed" help:"seed of dropout and of methods that draw random numbers"`
	Accumulate int    `flag:"accumulate" default:"1" range:"1.." help:"batches that a step's gradient is the mean of, each with its own loss"`
}

// TraceConfig holds what Trace runs.
type TraceConfig struct {
	Checkpoint    string
	Source        *checkpoint.File // it, where the caller has opened it; not closed here
	Plans         *plans.Plans
	Dataset       *plans.Dataset
	Configuration string
	Batches       string // folder of batch_NN_data.npy and batch_NN_target_K.npy
	Output        string
	MethodName    string
	Method        finetune.Method
	Options       map[string]string // the method's, for ranks to compare
	TraceSettings
	machine.Machine
	Ranks    Ranks  // that train together
	Version  string // of lntorch, for ranks to compare
	Progress Progress
}

// Trace makes one optimizer step for each batch of a folder, or for each TraceSettings.Accumulate, starting from all weights of a checkpoint, and writes what
// is needed to compare two stacks: losses.json, first_gradients.npz, mask.npz for methods with masks, and final.pth. The
// learning rate of step i of n is lr·(1-i/n)^0.9. Of ranks that train together each takes its rows of every batch; rank 0
// writes.
func Trace(ctx context.Context, cfg TraceConfig) error {
	if _, err := cfg.Machine.Resolve(); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if cfg.AMP == machine.AMPFP16 {
		return errors.New("trace: fp16 needs a gradient scaler, whose skipped steps a trace does not show: use off or bf16")
	}
	if cfg.Progress == nil {
		cfg.Progress = quiet{}
	}
	return cfg.Machine.Run(func() error { return trace(ctx, cfg) })
}

// record is losses.json.
type record struct {
	Method  string    `json:"method"`
	LR0     float64   `json:"lr0"`
	Losses  []float64 `json:"losses"`
	Norms   []float64 `json:"grad_norms_before_clip"`
	LRs     []float64 `json:"lrs"`
	Seconds []float64 `json:"seconds"`

	// of several ranks
	World      int         `json:"world_size,omitempty"`
	Rows       []int       `json:"rows,omitempty"`         // of each rank, in the last batch
	RankLosses [][]float64 `json:"rank_losses,omitempty"`  // of each rank, by step
	Waits      []float64   `json:"comm_seconds,omitempty"` // rank 0's wait for the gradients after its backward pass
	Weights    []string    `json:"weights_sha256,omitempty"`
	Masks      []string    `json:"mask_sha256,omitempty"`
}

func trace(ctx context.Context, cfg TraceConfig) error {
	conf, err := cfg.Plans.Configuration(cfg.Configuration)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	file := cfg.Source
	if file == nil {
		if file, err = checkpoint.Open(cfg.Checkpoint); err != nil {
			return fmt.Errorf("trace: %w", err)
		}
		defer file.Close()
	}
	arch, err := models.ForWeights(checkpoint.Shapes(file.Weights), conf)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	n, err := countBatches(cfg.Batches)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	each := max(cfg.Accumulate, 1)
	if n%each != 0 {
		return fmt.Errorf("trace: %s holds %d batches, expected a multiple of --accumulate %d", cfg.Batches, n, each)
	}
	n /= each
	t := &tracer{cfg: cfg, steps: n, each: each, record: record{Method: cfg.MethodName, LR0: cfg.LR}, peers: newPeers(cfg.Ranks.Group),
		masks: maskFile{path: filepath.Join(cfg.Output, "mask.npz"), sum: sha256.New()}}
	t.shape = []int{cfg.Dataset.NumInputChannels(conf), arch.Dim()}
	t.Session, err = NewSession(SessionConfig{
		Spec:   models.Spec{Architecture: arch, InputChannels: t.shape[0], NumClasses: cfg.Dataset.Labels.NumSegmentationHeads()},
		Labels: cfg.Dataset.Labels, BatchDice: conf.BatchDice,
		MethodName: cfg.MethodName, Method: cfg.Method, Refine: cfg.Refine, Optimizer: cfg.Optimizer, Machine: cfg.Machine,
		Seed: cfg.Seed, Wait: true, Steps: int64(t.steps), peers: t.peers,
	})
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	defer t.Close()
	defer t.masks.close()
	t.Hook = t.observe
	if _, err := checkpoint.LoadWeights(t.Net.Module(), file.Weights, checkpoint.LoadOptions{}); err != nil {
		return fmt.Errorf("trace: %s: %w", file.Path, err)
	}
	if err := t.agree(); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if err := t.Join(); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if t.peers.first() {
		if err := os.MkdirAll(cfg.Output, 0o755); err != nil {
			return fmt.Errorf("trace: %w", err)
		}
	}
	t.Net.SetTraining(true)
	t.Net.SetDeepSupervision(true)
	cfg.Progress.Begin("trace", n)
	defer cfg.Progress.End()
	for i := range n {
		on, err := t.GoOn(ctx)
		if err != nil {
			return fmt.Errorf("trace: step %d: %w", i, err)
		}
		if !on {
			return context.Canceled
		}
		if err := t.step(i); err != nil {
			return fmt.Errorf("trace: step %d: %w", i, err)
		}
		cfg.Progress.Done(i+1, fmt.Sprintf("loss %.4f", t.record.Losses[i]))
	}
	if err := t.masks.close(); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if err := t.sums(); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if !t.peers.first() {
		return nil
	}
	if err := writeJSON(filepath.Join(cfg.Output, "losses.json"), t.record); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	return checkpoint.SaveWeights(filepath.Join(cfg.Output, "final.pth"), t.Net.Module())
}

// tracer is a trace under way.
type tracer struct {
	*Session
	peers   *peers // other ranks; nil alone
	cfg     TraceConfig
	shape   []int // channels and spatial axes of an image
	steps   int
	each    int // batches of a step
	current int // step
	record  record
	masks   maskFile
}

// agree is an error, the same on every rank, where ranks are about to trace different things.
func (t *tracer) agree() error {
	if t.peers == nil {
		return nil
	}
	libtorch, err := torch.Version()
	if err != nil {
		return err
	}
	c := &t.cfg
	all := settings.Record(&c.TraceSettings)
	maps.Copy(all, settings.Record(&c.Machine))
	for name, value := range c.Options {
		all[name] = value
	}
	own := append([]fact{{"lntorch's version", c.Version, false}, {"libtorch's version", libtorch, false}, {"method", c.MethodName, false},
		{"configuration", c.Configuration, false}, {"number of steps", fmt.Sprint(t.steps), false}}, settingFacts(all)...)
	hashed, err := hashedFacts(document{"plans", c.Plans.Raw()}, document{"dataset.json", c.Dataset.Raw()}, t.weightNames())
	if err != nil {
		return err
	}
	return t.peers.agree(append(own, hashed...))
}

// step makes optimizer step i.
func (t *tracer) step(i int) error {
	var uploads []Upload
	for k := range t.each {
		u, err := t.read(i*t.each + k)
		if err != nil {
			return err
		}
		uploads = append(uploads, u)
	}
	start := time.Now()
	lr := optim.PolyLR(t.cfg.LR, i, t.steps, 0.9)
	t.SGD.SetLR(lr)
	t.current = i
	outcomes, err := t.Step(int64(i), uploads...)
	if err != nil {
		return err
	}
	r := &t.record
	r.Losses, r.Norms = append(r.Losses, outcomes[0].Loss), append(r.Norms, outcomes[0].Norm)
	r.LRs, r.Seconds = append(r.LRs, lr), append(r.Seconds, time.Since(start).Seconds())
	if t.ranks != nil {
		r.RankLosses, r.Waits = append(r.RankLosses, outcomes[0].Each), append(r.Waits, t.Waited().Seconds())
	}
	return nil
}

// read reads this rank's rows of batch i.
func (t *tracer) read(i int) (Upload, error) {
	x, targets, err := readBatch(t.cfg.Batches, i, len(t.Scales), t.cfg.Dataset.Labels.HasRegions)
	if err != nil {
		return nil, err
	}
	if len(x.shape) != t.shape[1]+2 || x.shape[1] != int64(t.shape[0]) {
		return nil, fmt.Errorf("%s: shape %v, expected (n, %d channels, %d spatial axes) for this network", batchFile(t.cfg.Batches, i, "data"), x.shape, t.shape[0], t.shape[1])
	}
	rows, err := t.rows(x.shape[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", batchFile(t.cfg.Batches, i, "data"), err)
	}
	return func(s *torch.Scope) (Batch, error) {
		own := func(x *torch.Tensor) *torch.Tensor {
			if rows.Count == rows.All {
				return x
			}
			return s.Contiguous(s.Narrow(x, 0, rows.First, rows.Count), torch.Contiguous)
		}
		b := Batch{Image: own(s.To(torch.FromSlice(s, x.values, x.shape...), torch.Float32, t.cfg.Device)), Rows: rows}
		for _, y := range targets {
			b.Targets = append(b.Targets, own(y(s, t.cfg.Device)))
		}
		return b, s.Err()
	}, nil
}

// rows are this rank's of a batch of n, all of them where there is one rank.
func (t *tracer) rows(n int64) (torch.Rows, error) {
	world := t.peers.size()
	if n < int64(world) {
		return torch.Rows{}, fmt.Errorf("%d rows for %d ranks, each of which needs one at least", n, world)
	}
	if t.peers == nil {
		return torch.Rows{}, nil
	}
	t.record.Rows = nil
	for rank := range world {
		part := loader.Split(int(n), rank, world)
		t.record.Rows = append(t.record.Rows, part[1]-part[0])
	}
	part := loader.Split(int(n), t.peers.rank(), world)
	return torch.Rows{First: int64(part[0]), Count: int64(part[1] - part[0]), All: n}, nil
}

// sums records every rank's own weights and masks: as long as all is well they are the same.
func (t *tracer) sums() error {
	if t.peers == nil {
		return nil
	}
	weights, err := weightsDigest(t.Net.Module())
	if err != nil {
		return err
	}
	t.record.World = t.peers.size()
	if t.record.Weights, err = gather(t.peers, weights); err != nil {
		return err
	}
	mask := ""
	if t.masks.any {
		mask = hex.EncodeToString(t.masks.sum.Sum(nil))
	}
	all, err := gather(t.peers, mask)
	if t.masks.any {
		t.record.Masks = all
	}
	return err
}

// weightsDigest is checkpoint.File.Digest of what SaveWeights writes.
func weightsDigest(m *nn.Module) (string, error) {
	weights := map[string]nn.Named{}
	for _, p := range m.StateDict() {
		if c := models.Canonical(p.Name); weights[c].Param == nil || c == p.Name {
			weights[c] = p
		}
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		err := torch.With(func(s *torch.Scope) error {
			var w *torch.Tensor
			if err := torch.NoGrad(func() error { w = weights[name].Plain(s); return s.Err() }); err != nil {
				return err
			}
			fmt.Fprintf(h, "%s %s %v\n", name, w.DType(), w.Shape())
			return eachBytes(w, func(b []byte) { h.Write(b) })
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// observe writes what a step shows on its way.
func (t *tracer) observe(s *torch.Scope, p Phase, masks []optim.Mask) error {
	switch {
	case p == Unscaled && t.current == 0 && t.peers.first():
		return t.writeGradients(s, filepath.Join(t.cfg.Output, "first_gradients.npz"))
	case p == Chosen:
		return t.masks.write(s, t.current, t.Trained, masks, t.cfg.Method, t.peers.first())
	}
	return nil
}

func (t *tracer) writeGradients(s *torch.Scope, path string) error {
	w, err := npz.Create(path, false)
	if err != nil {
		return err
	}
	for _, p := range t.Params {
		g := s.Grad(p.T)
		if g == nil {
			continue
		}
		v, err := torch.Slice[float32](g)
		if err == nil {
			err = addArray(w, p.Name, v, p.Shape)
		}
		if err != nil {
			return errors.Join(err, w.Close())
		}
	}
	return errors.Join(s.Err(), w.Close())
}

func addArray[T uint8 | float32 | bool](w *npz.Writer, name string, v []T, shape []int64) error {
	dims := make([]int, len(shape))
	for i, d := range shape {
		dims[i] = int(d)
	}
	a, err := npz.New(v, dims...)
	if err != nil {
		return err
	}
	return w.Add(name, a)
}

// maskFile is mask.npz, made when the first mask comes: bool arrays, true where an entry is updated, under the
// parameter's name when the selection never changes, else under stepNN/name.
type maskFile struct {
	path string
	w    *npz.Writer
	sum  hash.Hash // of the masks, whether they are written or not
	any  bool      // there was one
}

func (m *maskFile) write(s *torch.Scope, step int, params []finetune.Param, masks []optim.Mask, method finetune.Method, keep bool) error {
	first, once := int64(0), false
	if m, ok := method.(finetune.Fixed); ok {
		first, once = m.FixedFrom()
	}
	if once && int64(step) != first {
		return nil
	}
	for i, mask := range masks {
		if mask.Indices == nil {
			continue
		}
		if m.w == nil && keep {
			var err error
			if m.w, err = npz.Create(m.path, true); err != nil {
				return err
			}
		}
		flat, err := torch.Slice[int64](s.To(mask.Indices, torch.Int64, torch.CPU))
		if err != nil {
			return errors.Join(s.Err(), err)
		}
		dense := make([]bool, params[i].T.Numel())
		for _, j := range flat {
			dense[j] = true
		}
		name := params[i].Name
		if !once {
			name = fmt.Sprintf("step%02d/%s", step, name)
		}
		m.any = true
		fmt.Fprintln(m.sum, name, len(flat))
		if err := binary.Write(m.sum, binary.LittleEndian, flat); err != nil {
			return err
		}
		if !keep {
			continue
		}
		if err := addArray(m.w, name, dense, params[i].T.Shape()); err != nil {
			return err
		}
	}
	return nil
}

func (m *maskFile) close() error {
	if m.w == nil {
		return nil
	}
	w := m.w
	m.w = nil
	return w.Close()
}

func countBatches(folder string) (int, error) {
	n := 0
	for {
		_, err := os.Stat(batchFile(folder, n, "data"))
		if os.IsNotExist(err) {
			break
		}
		if err != nil {
			return 0, err
		}
		n++
	}
	if n == 0 {
		return 0, fmt.Errorf("%s: no %s, expected batch_NN_data.npy and batch_NN_target_K.npy", folder, filepath.Base(batchFile(folder, 0, "data")))
	}
	return n, nil
}

func batchFile(folder string, i int, what string) string {
	return filepath.Join(folder, fmt.Sprintf("batch_%02d_%s.npy", i, what))
}

type array struct {
	values []float32
	shape  []int64
}

// wholeNumbers reads integers. Floating-point numbers are taken where all of them are whole and fit the
// type.
func wholeNumbers[T uint8 | int16](a *npz.Array, integers func() ([]T, error)) ([]T, error) {
	if v, err := integers(); err == nil {
		return v, nil
	}
	x, err := a.Float64s()
	if err != nil {
		return integers()
	}
	v := make([]T, len(x))
	for i, f := range x {
		if v[i] = T(f); float64(v[i]) != f {
			return nil, fmt.Errorf("value %v at index %d, expected a whole number that fits the labels' type", f, i)
		}
	}
	return v, nil
}

// readBatch reads the image and the targets of batch i; a target becomes a tensor when it is asked to.
func readBatch(folder string, i, levels int, regions bool) (*array, []func(*torch.Scope, torch.Device) *torch.Tensor, error) {
	a, err := npz.OpenNpy(batchFile(folder, i, "data"))
	if err != nil {
		return nil, nil, err
	}
	x, err := a.Float32s()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", batchFile(folder, i, "data"), err)
	}
	var targets []func(*torch.Scope, torch.Device) *torch.Tensor
	for k := range levels {
		path := batchFile(folder, i, "target_"+strconv.Itoa(k))
		a, err := npz.OpenNpy(path)
		if err != nil {
			return nil, nil, err
		}
		shape := torch.Sizes(a.Shape)
		if regions {
			v, err := wholeNumbers(a, a.Uint8s)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			targets = append(targets, func(s *torch.Scope, d torch.Device) *torch.Tensor {
				return s.To(torch.FromSlice(s, v, shape...), torch.Uint8, d)
			})
			continue
		}
		v, err := wholeNumbers(a, a.Int16s)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		targets = append(targets, func(s *torch.Scope, d torch.Device) *torch.Tensor {
			return s.To(torch.FromSlice(s, v, shape...), torch.Int16, d)
		})
	}
	return &array{x, torch.Sizes(slices.Clone(a.Shape))}, targets, nil
}

package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// TraceConfig says what Trace runs.
type TraceConfig struct {
	Checkpoint    string
	Plans         *plans.Plans
	Dataset       *plans.Dataset
	Configuration string
	Batches       string // folder of batch_NN_data.npy and batch_NN_target_K.npy
	Output        string
	MethodName    string
	Method        finetune.Method
	Refine        finetune.Refine
	Seed          uint64 // of methods that draw random numbers
	LR            float64
	WeightDecay   float64
	Momentum      float64
	Device        torch.Device
	Threads       int
	AMP           AMP
	Reference     bool // the reference's operators in its order, as in Config
	Progress      Progress
}

// Trace makes one optimizer step for each batch of a folder, starting from all weights of a checkpoint, and writes what
// one needs to compare two stacks: losses.json, first_gradients.npz, mask.npz for methods with masks, and final.pth. The
// learning rate of step i of n is lr·(1-i/n)^0.9.
func Trace(ctx context.Context, cfg TraceConfig) error {
	if cfg.AMP == AMPFP16 {
		return errors.New("trace: fp16 needs a gradient scaler, whose skipped steps a trace does not show: use off or bf16")
	}
	if err := torch.CheckDevice(cfg.Device); err != nil {
		return err
	}
	if cfg.Threads == 0 {
		cfg.Threads = runtime.NumCPU()
	}
	if cfg.Progress == nil {
		cfg.Progress = quiet{}
	}
	return torch.OnThread(cfg.Threads, func() error { return trace(ctx, cfg) })
}

// record is losses.json.
type record struct {
	Method  string    `json:"method"`
	LR0     float64   `json:"lr0"`
	Losses  []float64 `json:"losses"`
	Norms   []float64 `json:"grad_norms_before_clip"`
	LRs     []float64 `json:"lrs"`
	Seconds []float64 `json:"seconds"`
}

func trace(ctx context.Context, cfg TraceConfig) error {
	conf, err := cfg.Plans.Configuration(cfg.Configuration)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	file, err := checkpoint.Open(cfg.Checkpoint)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	defer file.Close()
	arch, err := models.ForWeights(checkpoint.Shapes(file.Weights), conf)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	n, err := countBatches(cfg.Batches)
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	t := &trainer{cfg: Config{Method: cfg.Method, MethodName: cfg.MethodName, Refine: cfg.Refine, Seed: cfg.Seed, Device: cfg.Device, AMP: cfg.AMP, Reference: cfg.Reference, Iterations: n},
		plans: cfg.Plans, dataset: cfg.Dataset, conf: conf, arch: arch, toDev: newUploader(cfg.Device)}
	defer t.close()
	if t.scope, err = torch.NewScope(); err != nil {
		return err
	}
	spec := models.Spec{Architecture: arch, InputChannels: cfg.Dataset.NumInputChannels(conf), NumClasses: cfg.Dataset.Labels.NumSegmentationHeads()}
	b := nn.Builder{Scope: t.scope, Device: cfg.Device}
	if t.net, err = models.Build(b, spec); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if err := t.inject(b); err != nil {
		return err
	}
	if err := t.collect(torch.SGD{LR: cfg.LR, Momentum: cfg.Momentum, WeightDecay: cfg.WeightDecay, Nesterov: true}); err != nil {
		return err
	}
	if err := t.loadWeights(file, checkpoint.LoadOptions{}); err != nil {
		return err
	}
	weights := plans.DeepSupervisionWeights(len(arch.DeepSupervisionScales()))
	t.loss, err = loss.New(loss.Config{Regions: cfg.Dataset.Labels.HasRegions, IgnoreLabel: cfg.Dataset.Labels.IgnoreLabel,
		BatchDice: conf.BatchDice, Weights: weights, Fast: !cfg.Reference})
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if err := os.MkdirAll(cfg.Output, 0o755); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	t.net.SetFast(!cfg.Reference)
	t.net.SetTraining(true)
	t.net.SetDeepSupervision(true)
	rec := record{Method: cfg.MethodName, LR0: cfg.LR}
	masks := &maskFile{path: filepath.Join(cfg.Output, "mask.npz")}
	defer masks.close()
	cfg.Progress.Begin("trace", n)
	defer cfg.Progress.End()
	for i := range n {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := t.traceStep(cfg, i, n, len(weights), &rec, masks); err != nil {
			return fmt.Errorf("trace: step %d: %w", i, err)
		}
		cfg.Progress.Done(i+1, fmt.Sprintf("loss %.4f", rec.Losses[i]))
	}
	if err := masks.close(); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	text, err := json.MarshalIndent(rec, "", " ")
	if err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(cfg.Output, "losses.json"), append(text, '\n')); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	return checkpoint.SaveWeights(filepath.Join(cfg.Output, "final.pth"), t.net.Module())
}

func (t *trainer) traceStep(cfg TraceConfig, i, n, levels int, rec *record, masks *maskFile) error {
	x, targets, err := readBatch(cfg.Batches, i, levels, cfg.Dataset.Labels.HasRegions)
	if err != nil {
		return err
	}
	if channels := cfg.Dataset.NumInputChannels(t.conf); len(x.shape) != t.arch.Dim()+2 || x.shape[1] != int64(channels) {
		return fmt.Errorf("%s: shape %v, expected (n, %d channels, %d spatial axes) for this network", batchFile(cfg.Batches, i, "data"), x.shape, channels, t.arch.Dim())
	}
	start := time.Now()
	lr := optim.PolyLR(cfg.LR, i, n, 0.9)
	t.sgd.SetLR(lr)
	return torch.With(func(s *torch.Scope) error {
		if err := torch.ManualSeed(mix(0, uint64(i))); err != nil { // dropout draws from it
			return err
		}
		if err := torch.ClearGrads(t.tensors); err != nil {
			return err
		}
		image := s.To(torch.FromSlice(s, x.values, x.shape...), torch.Float32, cfg.Device)
		var ts []*torch.Tensor
		for _, y := range targets {
			ts = append(ts, y(s, cfg.Device))
		}
		l, _, err := t.forward(s, image, ts)
		if err != nil {
			return err
		}
		if err := l.Backward(); err != nil {
			return err
		}
		if i == 0 {
			if err := t.writeGradients(s, filepath.Join(cfg.Output, "first_gradients.npz")); err != nil {
				return err
			}
		}
		norm := optim.ClipGradNorm(s, t.tensors, gradNorm)
		chosen, err := t.choose(s, int64(i))
		if err != nil {
			return err
		}
		if err := masks.write(s, i, t.trained, chosen, t.cfg.Method); err != nil {
			return err
		}
		t.sgd.Step(s, t.spread(chosen))
		if s.Err() != nil {
			return s.Err()
		}
		for list, v := range map[*[]float64]*torch.Tensor{&rec.Losses: l, &rec.Norms: norm} {
			x, err := v.Item()
			if err != nil {
				return err
			}
			if math.IsNaN(x) || math.IsInf(x, 0) {
				return fmt.Errorf("loss or gradient norm is %v", x)
			}
			*list = append(*list, x)
		}
		rec.LRs = append(rec.LRs, lr)
		rec.Seconds = append(rec.Seconds, time.Since(start).Seconds())
		return nil
	})
}

func (t *trainer) writeGradients(s *torch.Scope, path string) error {
	w, err := npz.Create(path, false)
	if err != nil {
		return err
	}
	for _, p := range t.params {
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
}

func (m *maskFile) write(s *torch.Scope, step int, params []finetune.Param, masks []optim.Mask, method finetune.Method) error {
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
		if m.w == nil {
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
		shape := wide(a.Shape)
		if regions {
			v, err := a.Uint8s()
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			targets = append(targets, func(s *torch.Scope, d torch.Device) *torch.Tensor {
				return s.To(torch.FromSlice(s, v, shape...), torch.Uint8, d)
			})
			continue
		}
		v, err := a.Int16s()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		targets = append(targets, func(s *torch.Scope, d torch.Device) *torch.Tensor {
			return s.To(torch.FromSlice(s, v, shape...), torch.Int16, d)
		})
	}
	return &array{x, wide(slices.Clone(a.Shape))}, targets, nil
}

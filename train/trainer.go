package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/dataset"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/report/nnlog"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
)

// Names of nnU-Net's checkpoint files.
const (
	fileFinal  = "checkpoint_final.pth"
	fileLatest = "checkpoint_latest.pth"
	fileBest   = "checkpoint_best.pth"
)

// Result tells where a training left what.
type Result struct {
	Folder     string  // of the fold
	Checkpoint string  // final weights; empty with checkpointing disabled
	Validation string  // summary.json of the final validation
	Dice       float64 // its mean foreground Dice, on the preprocessed grid
}

// trainer is a training under way. All of it belongs to one goroutine, tied to its OS thread.
type trainer struct {
	cfg     Config
	plans   *plans.Plans
	dataset *plans.Dataset
	conf    *plans.Configuration
	arch    *plans.Architecture
	out     string // result folder of the configuration
	fold    string // result folder of the fold

	data   *dataset.Dataset
	split  dataset.Split
	train  *loader.Loader
	val    *loader.Loader
	scales [][]float64

	scope   *torch.Scope // owns the parameters
	net     models.Network
	params  []nn.Named
	tensors []*torch.Tensor
	trained []finetune.Param
	sgd     *optim.SGD
	scaler  *optim.GradScaler
	loss    *loss.Loss
	toDev   *uploader

	log       nnlog.Log
	file      *nnlog.File
	events    *report.Events
	best      *float64
	epoch     int
	iteration int       // done in this epoch
	losses    []float64 // of this epoch's iterations
	late      *late     // losses that the device still owes; nil where iterations wait for theirs
	loading   *checkpoint.Report
	decisions []string // what became of heads and first layers of pretrained weights
	timing    timing
	started   time.Time
	restored  bool // by a checkpoint of lntorch or nnU-Net
	base      base // what the fine-tuning began with
}

// Run trains as cfg says, or only validates. Cancelling ctx ends it after the running iteration, saved, with *Interrupted.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	if err := torch.CheckDevice(cfg.Device); err != nil {
		return nil, err
	}
	if cfg.Threads == 0 {
		cfg.Threads = runtime.NumCPU()
	}
	var result *Result
	err := torch.OnThread(cfg.Threads, func() error {
		t := &trainer{cfg: cfg, started: time.Now()}
		defer t.close()
		var err error
		result, err = t.run(ctx)
		return err
	})
	return result, err
}

func (t *trainer) run(ctx context.Context) (*Result, error) {
	if err := t.open(); err != nil {
		return nil, err
	}
	if err := t.restore(); err != nil {
		return nil, err
	}
	if !t.cfg.ValidateOnly {
		if err := t.prepareFolder(); err != nil {
			return nil, err
		}
		if err := t.openLoaders(); err != nil {
			return nil, err
		}
		t.announce()
		for t.epoch < t.cfg.Epochs {
			if err := t.runEpoch(ctx); err != nil {
				return nil, err
			}
		}
		if err := t.finish(); err != nil {
			return nil, err
		}
		if m, ok := t.cfg.Method.(finetune.Injector); ok {
			if err := m.Merge(); err != nil {
				return nil, fmt.Errorf("train: %w", err)
			}
		}
	}
	return t.validate(ctx)
}

// open reads plans, dataset and folds and builds the network.
func (t *trainer) open() error {
	c := &t.cfg
	var err error
	if t.plans, err = plans.Load(filepath.Join(c.Preprocessed, c.PlansName+".json")); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if t.dataset, err = plans.LoadDataset(filepath.Join(c.Preprocessed, "dataset.json")); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if t.conf, err = t.plans.Configuration(c.Configuration); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if t.conf.PreviousStage != "" {
		return fmt.Errorf("train: configuration %s is the second stage of a cascade (previous stage %s), which lntorch does not train yet", c.Configuration, t.conf.PreviousStage)
	}
	if c.BatchSize == 0 {
		c.BatchSize = t.conf.BatchSize
	}
	if c.PatchSize == nil {
		c.PatchSize = t.conf.PatchSize
	}
	t.out = c.folder(t.plans)
	t.fold = filepath.Join(t.out, "fold_"+c.Fold)
	if t.arch, err = t.architecture(); err != nil {
		return err
	}
	channels := t.dataset.NumInputChannels(t.conf)
	classes := t.dataset.Labels.NumSegmentationHeads()

	t.data, err = dataset.Open(filepath.Join(c.Preprocessed, t.conf.DataIdentifier))
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	t.data.Channels = channels
	if t.split, err = dataset.Fold(filepath.Join(c.Preprocessed, "splits_final.json"), t.data.Keys(), c.Fold); err != nil {
		return fmt.Errorf("train: %w", err)
	}

	if t.scope, err = torch.NewScope(); err != nil {
		return err
	}
	b := nn.Builder{Scope: t.scope, Device: c.Device}
	if t.net, err = models.Build(b, models.Spec{Architecture: t.arch, InputChannels: channels, NumClasses: classes}); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	t.net.SetFast(!c.Reference)
	if c.Recompute {
		r, ok := t.net.(models.Recomputer)
		if !ok {
			return fmt.Errorf("train: --recompute: %s keeps its activations; it is for networks such as those of %s", t.arch.NetworkClass, strings.Join(models.Trainers(), ", "))
		}
		if _, ok := c.Method.(finetune.Injector); ok {
			return fmt.Errorf("train: --recompute: the adapters of method %s would draw other random numbers the second time", c.MethodName)
		}
		r.SetRecompute(true)
	}
	if err := t.net.CheckInput(wide(c.PatchSize)); err != nil {
		return fmt.Errorf("train: patch_size: %w", err)
	}
	if !c.ValidateOnly { // the weights of a checkpoint have them merged in
		if err := t.inject(b); err != nil {
			return err
		}
	}
	if err := t.collect(torch.SGD{LR: c.LR, Momentum: c.Momentum, WeightDecay: c.WeightDecay, Nesterov: c.Momentum > 0, Impl: t.impl()}); err != nil {
		return err
	}
	if c.AMP == AMPFP16 {
		if t.scaler, err = optim.NewGradScaler(c.Device, optim.DefaultGradScaler()); err != nil {
			return err
		}
	}
	t.scales = t.arch.DeepSupervisionScales()
	t.loss, err = loss.New(loss.Config{Regions: t.dataset.Labels.HasRegions, IgnoreLabel: t.dataset.Labels.IgnoreLabel,
		BatchDice: t.conf.BatchDice, Weights: plans.DeepSupervisionWeights(len(t.scales)), Fast: !c.Reference})
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := torch.Deterministic(c.Deterministic); err != nil {
		return err
	}
	if err := torch.BenchmarkCuDNN(!c.Deterministic); err != nil {
		return err
	}
	t.toDev = newUploader(c.Device)
	if t.lateLosses() {
		t.late, err = newLate(c.Device)
	}
	return err
}

// inject lets the method attach adapters to the network.
func (t *trainer) inject(b nn.Builder) error {
	m, ok := t.cfg.Method.(finetune.Injector)
	if !ok {
		return nil
	}
	in := finetune.Injection{Module: t.net.Module(), Builder: b, Seed: mix(t.cfg.Seed, injectionStream), Reference: t.cfg.Reference}
	if err := m.Inject(in); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// injectionStream keeps the adapters' first values apart from the numbers that iterations, which count from 0, draw.
const injectionStream = 1 << 62

// architecture is the plans' network, or the one that the trainer builds whatever they say; a file of that network to
// validate, to go on from or to start from says how large it is.
func (t *trainer) architecture() (*plans.Architecture, error) {
	c := &t.cfg
	path := c.Checkpoint
	if c.Pretrained != "" && path == "" {
		path = c.Pretrained
	}
	if path == "" && (c.Continue || c.ValidateOnly) {
		var err error
		if path, err = t.newest(); err != nil {
			return nil, err
		}
	}
	if path != "" {
		f, err := checkpoint.Open(path)
		if err != nil {
			return nil, fmt.Errorf("train: %w", err)
		}
		defer f.Close()
		if s := models.Recognise(checkpoint.Shapes(f.Weights)); s != nil && !models.Planned(s.Architecture.NetworkClass) {
			own, ok := models.ByTrainer(c.Trainer)
			if c.Trainer == "" || own.Class == s.Architecture.NetworkClass {
				return s.Architecture, nil
			}
			if !ok {
				return nil, fmt.Errorf("train: %s holds a %s, which plans do not describe and trainer %s does not build: name its trainer with -tr (%s)",
					path, s.Architecture.NetworkClass, c.Trainer, strings.Join(models.Trainers(), ", "))
			}
		}
	}
	a, err := models.Architecture(c.Trainer, t.conf)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	return a, nil
}

// collect lists the network's parameters, asks the method which of them train, and makes the optimizer. It holds all
// parameters, as nnU-Net's does; those that do not train never have a gradient, and are left alone.
func (t *trainer) collect(o torch.SGD) error {
	t.params = t.net.Module().Parameters()
	var names []string
	for _, p := range t.params {
		names = append(names, p.Name)
	}
	if err := t.cfg.Refine.Check(names); err != nil {
		return err
	}
	for _, p := range t.params {
		t.tensors = append(t.tensors, p.T)
		trains := t.cfg.Refine.Apply(p.Name, t.cfg.Method.Trains(p.Name, p.Shape))
		if err := p.T.SetRequiresGrad(trains); err != nil {
			return err
		}
		if trains {
			t.trained = append(t.trained, finetune.Param{Name: p.Name, T: p.T})
		}
	}
	if len(t.trained) == 0 {
		return fmt.Errorf("train: method %s with --train %q and --freeze %q trains no parameter of this network", t.cfg.MethodName, t.cfg.Refine.Train, t.cfg.Refine.Freeze)
	}
	if m, ok := t.cfg.Method.(finetune.Seeded); ok {
		m.Seed(t.cfg.Seed)
	}
	var err error
	t.sgd, err = optim.NewSGD(t.tensors, o)
	return err
}

// impl: PyTorch steps tensor by tensor on the CPU and over whole lists on CUDA, where one kernel is quicker.
func (t *trainer) impl() torch.Impl {
	switch {
	case t.cfg.Device.Type == torch.DeviceCPU:
		return torch.SingleTensor
	case t.cfg.Reference:
		return torch.Foreach
	}
	return torch.Fused
}

// openLoaders starts the workers at the batches where the training stands.
func (t *trainer) openLoaders() error {
	c := &t.cfg
	base := loader.Config{Dataset: t.data, Labels: t.dataset.Labels, BatchSize: c.BatchSize, PatchSize: c.PatchSize,
		Oversample: c.Oversample, Scales: t.scales, Seed: c.Seed, Workers: c.Workers}
	train := base
	train.Keys, train.Stream, train.RequireForeground = t.split.Train, "train", true
	train.Augmentation = augment.Training(augment.Setting{PatchSize: c.PatchSize})
	train.StartIndex = t.epoch*c.Iterations + t.iteration
	var err error
	if t.train, err = loader.New(train); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	val := base
	val.Keys, val.Stream = t.split.Val, "val"
	val.StartIndex = t.epoch * c.ValIterations
	if len(val.Keys) == 0 {
		return fmt.Errorf("train: fold %s has no validation case; add one to splits_final.json or use fold all", c.Fold)
	}
	if t.val, err = loader.New(val); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// restore gives the network its weights: a checkpoint's to go on, pretrained ones, or random ones.
func (t *trainer) restore() error {
	c := &t.cfg
	if c.ValidateOnly {
		path := c.Checkpoint
		if path == "" && c.ValidateBest {
			path = filepath.Join(t.fold, fileBest)
		}
		if path == "" {
			path = filepath.Join(t.fold, fileFinal)
		}
		return t.loadNetwork(path, checkpoint.LoadOptions{})
	}
	if c.Continue {
		path, err := t.newest()
		if err != nil {
			return err
		}
		if path != "" {
			return t.resume(path)
		}
		fmt.Fprintf(c.Echo, "WARNING: --c, but %s holds no checkpoint: a new training begins\n", t.fold)
	}
	gen, err := torch.NewGenerator(torch.CPU, c.Seed)
	if err != nil {
		return err
	}
	defer gen.Close()
	if c.Pretrained == "" {
		return t.net.Module().Reset(gen, nil)
	}
	return t.loadPretrained(gen)
}

// newest is the checkpoint that --c goes on from: the later one of final and latest, else best, else "".
// Differs: nnU-Net takes the final one first, even one that an earlier training left in the folder.
func (t *trainer) newest() (string, error) {
	found, written := "", time.Time{}
	for _, name := range []string{fileFinal, fileLatest, fileBest} {
		path := filepath.Join(t.fold, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("train: %w", err)
		}
		if found == "" || name == fileLatest && info.ModTime().After(written) {
			found, written = path, info.ModTime()
		}
	}
	return found, nil
}

func (t *trainer) loadNetwork(path string, o checkpoint.LoadOptions) error {
	f, err := checkpoint.Open(path)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	defer f.Close()
	return t.loadWeights(f, o)
}

func (t *trainer) loadWeights(f *checkpoint.File, o checkpoint.LoadOptions) error {
	var err error
	if t.loading, err = checkpoint.LoadWeights(t.net.Module(), f.Weights, o); err != nil {
		return fmt.Errorf("train: %s: %w", f.Path, err)
	}
	return nil
}

// prepareFolder makes the result folder and writes what nnU-Net writes at the start.
func (t *trainer) prepareFolder() error {
	if err := os.MkdirAll(t.fold, 0o755); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	for _, folder := range []string{t.out, t.fold} {
		if err := atomicfile.Sweep(folder); err != nil { // of a training that was killed
			return fmt.Errorf("train: %w", err)
		}
	}
	for name, doc := range map[string]*plans.Object{"plans.json": t.plans.Raw(), "dataset.json": t.dataset.Raw()} {
		b, err := plans.EncodeJSON(doc, 4, false)
		if err != nil {
			return fmt.Errorf("train: %s: %w", name, err)
		}
		if err := atomicfile.Write(filepath.Join(t.out, name), b); err != nil {
			return fmt.Errorf("train: %w", err)
		}
	}
	const fingerprint = "dataset_fingerprint.json"
	b, err := os.ReadFile(filepath.Join(t.cfg.Preprocessed, fingerprint))
	if err == nil {
		err = atomicfile.Write(filepath.Join(t.out, fingerprint), b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("train: %w", err)
	}
	if err := t.writeDebug(); err != nil {
		return err
	}
	if t.file, err = nnlog.Create(t.fold, t.started, t.cfg.Echo); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	board := filepath.Join(t.fold, "tensorboard")
	if err := os.MkdirAll(board, 0o755); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if t.events, err = report.OpenEvents(board, int64(t.epoch), t.started); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// announce says what was loaded, what trains, and what it will need.
func (t *trainer) announce() {
	c := &t.cfg
	if t.loading != nil {
		source := c.Pretrained
		if t.restored {
			source = "the checkpoint"
		}
		t.file.Print("weights from", source+":", t.loading.Table(20))
	}
	for _, line := range slices.Concat(t.decisions, []string{t.summary()}, t.untrained()) {
		t.file.Print(line)
	}
	if m, ok := c.Method.(finetune.Noter); ok {
		for _, line := range m.Notes() {
			t.file.Print(line)
		}
	}
	t.file.Print(fmt.Sprintf("%d training and %d validation cases, batch %d, patch %v, %d epochs of %d + %d iterations, device %s, %d threads, seed %d",
		len(t.split.Train), len(t.split.Val), c.BatchSize, c.PatchSize, c.Epochs, c.Iterations, c.ValIterations, c.Device, c.Threads, c.Seed))
	for _, line := range t.forecast() {
		t.file.Print(line)
	}
	if over := t.split.Overlap(); len(over) > 0 && c.Fold != "all" {
		t.file.Print("WARNING: cases in training and validation both:", strings.Join(over, ", "))
	}
	t.file.Print("results in", t.fold)
}

func (t *trainer) close() {
	if t.train != nil {
		t.train.Close()
	}
	if t.val != nil {
		t.val.Close()
	}
	if t.events != nil {
		t.events.Close()
	}
	if t.sgd != nil {
		t.sgd.Close()
	}
	if t.scaler != nil {
		t.scaler.Close()
	}
	if m, ok := t.cfg.Method.(io.Closer); ok {
		m.Close()
	}
	t.toDev.close()
	if t.late != nil {
		t.late.numbers.Close()
	}
	if t.scope != nil {
		t.scope.Close()
	}
}

func wide(v []int) []int64 {
	w := make([]int64, len(v))
	for i, x := range v {
		w[i] = int64(x)
	}
	return w
}

// thousands prints n with separators: 31,195,594.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/loss"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/torch/optim"
	"github.com/lntorch/lntorch/train"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench PART",
		Short: "times parts of the program",
		Long: `bench prepares one part of the program's work on made-up data and repeats it. ` + "`make bench`" + ` sets the same parts beside the Python
stack, one repeat of each in turn.

  step    a training step: forward, loss, backward, clip, the method's choice, SGD
  update  the end of a step alone: the method's choice and SGD
  masks   a method's choice of entries for every sparse weight
  open    opening a checkpoint and reading its weights into the network
  window  sliding-window prediction of one image, without mirroring
  first   a training until its first iteration is over; then it says so and ends (to be timed from outside)`,
		Example: `  lntorch bench step --network mid
  lntorch bench step --network mid --method dgst --amp bf16
  lntorch bench step --network full --patch-size 64,128,128 --repeats 1
  lntorch bench step --network resenc --device cuda --amp fp16 --steps 10
  lntorch bench masks --network full --json
  lntorch bench open --network full
  lntorch bench window --network phantom --patch-size 24,64,64
  lntorch bench first --preprocessed FOLDER/Dataset102_PhantomTarget --plans nnUNetPlansSource --configuration 3d_phantom`,
		Args: exactly("PART"),
		RunE: runBench,
	}
	f := cmd.Flags()
	_, sizes := benchSizes()
	f.String("network", "mid", strings.Join(sizes, ", "))
	f.IntSlice("patch-size", nil, "patch size z,y,x (default: the network's)")
	f.Int("steps", 1, "steps of a repeat of step; the time told is that of one")
	f.IntSlice("image", []int{60, 192, 192}, "z,y,x of the image that window predicts")
	f.String("method", "", "fine-tuning method of step, update, masks and first: "+strings.Join(methodNames(), ", ")+
		" (default: nnU-Net's own training; masks: the first that chooses entries)")
	refineFlags(f)
	f.String("checkpoint", "", "file that open opens (default: one that bench writes); pretrained weights of first")
	f.String("preprocessed", "", "preprocessed dataset that first trains on")
	f.String("plans", "nnUNetPlans", "its plans, without .json")
	f.String("configuration", "3d_fullres", "its configuration")
	f.Int("repeats", 5, "timed repeats")
	f.Int("warmup", 1, "repeats before them")
	f.Bool("json", false, "a line of JSON for each repeat")
	f.Bool("serve", false, "one repeat for each line of standard input, answered in JSON; the first line says that all is prepared")
	f.MarkHidden("serve")
	machineFlags(cmd, "cpu")
	methodFlags(cmd)
	return cmd
}

// benchResult is one repeat, as JSON.
type benchResult struct {
	Part        string  `json:"part"`
	Variant     string  `json:"variant"`
	Ready       bool    `json:"ready,omitempty"` // prepared, nothing repeated yet
	Seconds     float64 `json:"seconds"`
	PeakRSS     int64   `json:"peak_rss_bytes"`            // of the process so far
	TensorsPeak int64   `json:"tensors_peak_bytes"`        // of its large tensors on the CPU
	DevicePeak  int64   `json:"device_peak_bytes"`         // of its tensors on the device, in the repeat
	Held        int64   `json:"held_bytes,omitempty"`      // step: large tensors before the forward pass: weights, momentum, the batch
	Kept        int64   `json:"kept_bytes,omitempty"`      // step: what forward pass and loss keep for the backward pass
	Gradients   int64   `json:"gradients_bytes,omitempty"` // step: what the backward pass leaves
	Parameters  int64   `json:"parameters"`
	Torch       string  `json:"torch"`
	CPU         string  `json:"cpu_capability"` // instruction set of libtorch's kernels
	Threads     int     `json:"threads"`
	Loss        float64 `json:"loss,omitempty"`    // step: the last one
	Entries     int64   `json:"entries,omitempty"` // masks, update: chosen ones
	Loaded      int     `json:"loaded,omitempty"`  // open: tensors read
	Tiles       int     `json:"tiles,omitempty"`   // window: patches
}

func runBench(cmd *cobra.Command, args []string) error {
	m, err := readMachine(cmd)
	if err != nil {
		return err
	}
	if err := torch.CheckDevice(m.device); err != nil {
		return err
	}
	if m.threads == 0 {
		m.threads = runtime.NumCPU()
	}
	if m.amp == train.AMPAuto {
		m.amp = train.AMPOff
	}
	if m.amp == train.AMPFP16 && (m.device.Type == torch.DeviceCPU || args[0] != "step") {
		return usage(cmd, errors.New("--amp fp16: bench knows it for step on a CUDA device, elsewhere off and bf16"))
	}
	part := args[0]
	entry, chosen, err := benchMethod(cmd, part)
	if err != nil {
		return err
	}
	if c, ok := chosen.(io.Closer); ok {
		defer c.Close()
	}
	if part == "first" {
		return firstIteration(cmd, m, entry, chosen)
	}
	prepare, ok := map[string]func(*bench) (func() error, error){
		"step": (*bench).step, "update": (*bench).update, "masks": (*bench).masks, "open": (*bench).open, "window": (*bench).window}[part]
	if !ok {
		return usage(cmd, fmt.Errorf("part %q: expected step, update, masks, open, window or first", part))
	}
	return torch.OnThread(m.threads, func() error {
		return torch.With(func(s *torch.Scope) error {
			b := &bench{cmd: cmd, s: s, m: m, method: chosen}
			defer b.close()
			if err := b.build(); err != nil {
				return err
			}
			b.out.Part, b.out.Variant, b.out.Threads = part, variant(cmd, part, entry), m.threads
			repeat, err := prepare(b)
			if err == nil {
				err = s.Err()
			}
			if err != nil {
				return err
			}
			if serve, _ := cmd.Flags().GetBool("serve"); serve {
				return b.serve(repeat)
			}
			return b.repeat(repeat)
		})
	})
}

// benchMethod makes the method that a part is timed with.
func benchMethod(cmd *cobra.Command, part string) (finetune.Entry, finetune.Method, error) {
	name, _ := cmd.Flags().GetString("method")
	if name == "" && part == "masks" {
		for _, e := range finetune.Entries() {
			m, err := e.Make(nil)
			if err != nil {
				return e, nil, err
			}
			if _, ok := m.(finetune.Chooser); ok {
				name = e.Name
				break
			}
		}
	}
	entry, err := finetune.Stock()
	if name != "" {
		entry, err = finetune.Lookup(name)
	}
	if err != nil {
		return entry, nil, usage(cmd, err)
	}
	m, _, err := makeMethod(cmd, entry)
	return entry, m, err
}

// variant names what distinguishes one bench of a part from another.
func variant(cmd *cobra.Command, part string, entry finetune.Entry) string {
	f := cmd.Flags()
	name, _ := f.GetString("network")
	words := []string{name}
	if part == "step" || part == "update" {
		words = append(words, entry.Name)
		for _, o := range entry.Options {
			if f.Changed(o.Name) {
				value, _ := f.GetString(o.Name)
				words = append(words, value)
			}
		}
	}
	for _, flag := range []string{"train", "freeze", "amp", "numerics"} {
		if f.Changed(flag) {
			words = append(words, f.Lookup(flag).Value.String())
		}
	}
	return strings.Join(words, " ")
}

// bench is a network and what its parts prepare. The scope owns the tensors of the whole run.
type bench struct {
	cmd     *cobra.Command
	s       *torch.Scope
	m       machine
	method  finetune.Method
	plans   *plans.Plans
	arch    models.Architecture
	patch   []int
	net     models.Network
	trained []finetune.Param
	tensors []*torch.Tensor // of trained
	sgd     *optim.SGD
	scaler  *optim.GradScaler // of fp16
	late    *torch.Late       // losses and norms on their way from the device; nil on the CPU
	folder  string            // temporary; removed by close
	out     benchResult
}

func (b *bench) close() {
	if b.sgd != nil {
		b.sgd.Close()
	}
	if b.scaler != nil {
		b.scaler.Close()
	}
	if b.late != nil {
		b.late.Close()
	}
	if b.folder != "" {
		os.RemoveAll(b.folder)
	}
}

const benchPlans = `{"dataset_name": "bench", "plans_name": "bench", "configurations": {"bench": {
  "data_identifier": "bench", "preprocessor_name": "DefaultPreprocessor", "patch_size": [1, 1, 1], "batch_size": 2, "spacing": [1, 1, 1],
  "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [false], "batch_dice": false,
  "architecture": %s}}}`

// benchArchitecture is a named size of a network, and the plans that mean it; nil where plans do not describe the network.
func benchArchitecture(e models.Entry, n models.Size) (models.Architecture, *plans.Plans, error) {
	if n.Block == "" {
		return e.Released(3), nil, nil
	}
	doc, err := plans.DecodeJSON(fmt.Appendf(nil, benchPlans, n.Block))
	if err != nil {
		return nil, nil, err
	}
	p, err := plans.FromObject(doc.(*plans.Object), "bench")
	if err != nil {
		return nil, nil, err
	}
	c, err := p.Configuration("bench")
	if err != nil {
		return nil, nil, err
	}
	a, err := models.Parse(c)
	return a, p, err
}

// benchSizes lists the names of the sizes, sorted, and for --help what each is and its patch.
func benchSizes() (names, help []string) {
	for _, e := range models.Entries() {
		for _, s := range e.Sizes {
			names = append(names, s.Name)
			help = append(help, fmt.Sprintf("%s (%s; patch %s)", s.Name, s.Summary, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(s.Patch)), ","), "[]")))
		}
	}
	slices.Sort(names)
	return names, help
}

// build makes the network, with random weights and two classes, and the optimizer of what the method trains.
func (b *bench) build() error {
	name, _ := b.cmd.Flags().GetString("network")
	e, n, ok := models.Sized(name)
	if !ok {
		names, _ := benchSizes()
		return usage(b.cmd, fmt.Errorf("--network %q: expected one of %s", name, strings.Join(names, ", ")))
	}
	var err error
	if b.arch, b.plans, err = benchArchitecture(e, n); err != nil {
		return err
	}
	b.patch = n.Patch
	if p, _ := b.cmd.Flags().GetIntSlice("patch-size"); len(p) > 0 {
		b.patch = p
	}
	builder := nn.Builder{Scope: b.s, Device: b.m.device}
	b.net, err = models.Build(builder, models.Spec{Architecture: b.arch, InputChannels: 1, NumClasses: 2})
	if err != nil {
		return err
	}
	b.net.SetFast(!b.m.reference)
	if err := b.net.CheckInput(long(b.patch)); err != nil {
		return usage(b.cmd, fmt.Errorf("--patch-size: %w", err))
	}
	gen, err := torch.NewGenerator(torch.CPU, 1)
	if err != nil {
		return err
	}
	defer gen.Close()
	if err := b.net.Module().Reset(gen, nil); err != nil {
		return err
	}
	if m, ok := b.method.(finetune.Injector); ok {
		if err := m.Inject(finetune.Injection{Module: b.net.Module(), Builder: builder, Seed: 1, Reference: b.m.reference}); err != nil {
			return err
		}
	}
	refine := readRefine(b.cmd.Flags())
	var names []string
	for _, p := range b.net.Module().Parameters() {
		names = append(names, p.Name)
	}
	if err := refine.Check(names); err != nil {
		return usage(b.cmd, err)
	}
	for _, p := range b.net.Module().Parameters() {
		trains := refine.Apply(p.Name, b.method.Trains(p.Name, p.Shape))
		if err := p.T.SetRequiresGrad(trains); err != nil {
			return err
		}
		if trains {
			b.trained, b.tensors = append(b.trained, finetune.Param{Name: p.Name, T: p.T}), append(b.tensors, p.T)
		}
	}
	b.out.Parameters = models.ParameterCount(b.net)
	if b.out.Torch, err = torch.Version(); err != nil {
		return err
	}
	if b.out.CPU, err = torch.CPUCapability(); err != nil {
		return err
	}
	impl := torch.SingleTensor
	if b.m.device.Type != torch.DeviceCPU {
		impl = torch.Fused
		if err := torch.BenchmarkCuDNN(true); err != nil {
			return err
		}
	}
	b.sgd, err = optim.NewSGD(b.tensors, torch.SGD{LR: 1e-2, Momentum: 0.99, WeightDecay: 3e-5, Nesterov: true, Impl: impl})
	return err
}

// step is an iteration of train on one batch of two random patches, a tenth of whose voxels are foreground.
func (b *bench) step() (func() error, error) {
	scales := b.arch.DeepSupervisionScales()
	l, err := loss.New(loss.Config{Weights: plans.DeepSupervisionWeights(len(scales)), Fast: !b.m.reference})
	if err != nil {
		return nil, err
	}
	b.net.SetTraining(true)
	b.net.SetDeepSupervision(true)
	x := b.random(0, 1, append([]int64{2, 1}, long(b.patch)...)...)
	var targets []*torch.Tensor
	for _, scale := range scales {
		size := []int64{2, 1}
		for i, f := range scale {
			size = append(size, int64(math.Round(float64(b.patch[i])*f)))
		}
		targets = append(targets, b.s.To(b.s.CompareScalar(b.random(0, 1, size...), torch.Gt, 1.28), torch.Int16, b.m.device))
	}
	if b.m.amp == train.AMPFP16 {
		if b.scaler, err = optim.NewGradScaler(b.m.device, optim.DefaultGradScaler()); err != nil {
			return nil, err
		}
	}
	if _, chooses := b.method.(finetune.Updater); b.m.device.Type != torch.DeviceCPU && !chooses {
		if b.late, err = torch.NewLate(b.m.device); err != nil {
			return nil, err
		}
	}
	steps, _ := b.cmd.Flags().GetInt("steps")
	if steps < 1 {
		return nil, usage(b.cmd, fmt.Errorf("--steps %d: expected one step or more", steps))
	}
	n := int64(0)
	one := func() error {
		return torch.With(func(s *torch.Scope) error {
			if err := torch.ClearGrads(b.tensors); err != nil {
				return err
			}
			var inUse [3]int64 // before the forward pass, after it, after the backward pass
			var v *torch.Tensor
			err := b.mixed(func() (err error) {
				if inUse[0], _, _, err = torch.CPUMemory(); err != nil {
					return err
				}
				v = l.Forward(s, b.net.Forward(s, x), targets)
				return s.Err()
			})
			if err != nil {
				return err
			}
			if inUse[1], _, _, err = torch.CPUMemory(); err != nil {
				return err
			}
			if err := b.backward(s, v); err != nil {
				return err
			}
			if inUse[2], _, _, err = torch.CPUMemory(); err != nil {
				return err
			}
			b.out.Held, b.out.Kept, b.out.Gradients = inUse[0], inUse[1]-inUse[0], inUse[2]-inUse[0]
			norm := optim.ClipGradNorm(s, b.tensors, 12)
			if b.late != nil {
				return b.moveLate(s, v, norm)
			}
			if err := b.finite(v, norm); err != nil {
				return errors.Join(s.Err(), err)
			}
			if b.scaler == nil {
				err = b.move(s, n)
			} else {
				b.scaler.Step(s, func() { err = b.move(s, n) })
				b.scaler.Update(s)
				err = errors.Join(err, s.Err())
			}
			n++
			return err
		})
	}
	return func() error {
		for range steps {
			if err := one(); err != nil {
				return err
			}
		}
		return b.readLate(0)
	}, nil
}

// backward differentiates the loss v; with a scaler, its gradients come back unscaled.
func (b *bench) backward(s *torch.Scope, v *torch.Tensor) error {
	if b.scaler == nil {
		return v.Backward()
	}
	scaled := b.scaler.Scale(s, v)
	if s.Err() != nil {
		return s.Err()
	}
	if err := scaled.Backward(); err != nil {
		return err
	}
	b.scaler.Unscale(s, b.tensors)
	return s.Err()
}

// moveLate is the end of a step on a device, for which nobody waits, as in train.
func (b *bench) moveLate(s *torch.Scope, v, norm *torch.Tensor) error {
	if b.scaler != nil {
		b.scaler.StepUnless(s, func(skip *torch.Tensor) { b.sgd.StepUnless(s, skip) })
		b.scaler.Update(s)
		norm = v // gradients may overflow
	} else {
		b.sgd.StepUnless(s, optim.NotFinite(s, v, norm))
	}
	if s.Err() != nil {
		return s.Err()
	}
	if err := b.late.Put(v, norm); err != nil {
		return err
	}
	return b.readLate(1)
}

// readLate reads the losses on their way, but for the last few.
func (b *bench) readLate(left int) error {
	for b.late != nil && b.late.Queued() > left {
		values, err := b.late.Take()
		if err == nil {
			err = b.check(values)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finite reads loss and norm; with a scaler, a norm may be anything.
func (b *bench) finite(v, norm *torch.Tensor) error {
	if b.scaler != nil {
		norm = v
	}
	var values []float64
	for _, t := range []*torch.Tensor{v, norm} {
		x, err := t.Item()
		if err != nil {
			return err
		}
		values = append(values, x)
	}
	return b.check(values)
}

func (b *bench) check(values []float64) error {
	for _, x := range values {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("bench: loss or gradient norm is %v, expected a number", x)
		}
	}
	b.out.Loss = values[0]
	return nil
}

// mixed runs f in the precision of --amp.
func (b *bench) mixed(f func() error) error {
	switch b.m.amp {
	case train.AMPFP16:
		return torch.Autocast(b.m.device.Type, torch.Float16, f)
	case train.AMPBF16:
		return torch.Autocast(b.m.device.Type, torch.BFloat16, f)
	}
	return f()
}

// move lets the method choose and the optimizer step.
func (b *bench) move(s *torch.Scope, n int64) error {
	var masks []optim.Mask
	if u, ok := b.method.(finetune.Updater); ok {
		var err error
		if masks, err = u.Update(s, n, b.trained); err != nil {
			return err
		}
	}
	b.sgd.Step(s, masks)
	if c, ok := b.method.(finetune.Counter); ok {
		b.out.Entries, _ = c.Counts()
	}
	return s.Err()
}

// update is move with random gradients.
func (b *bench) update() (func() error, error) {
	if err := b.gradients(b.trained); err != nil {
		return nil, err
	}
	n := int64(0)
	return func() error {
		err := torch.With(func(s *torch.Scope) error { return b.move(s, n) })
		n++
		return err
	}, nil
}

// masks is the choice of entries alone: their indices, no mask of the weight's size.
func (b *bench) masks() (func() error, error) {
	m, ok := b.method.(finetune.Chooser)
	if !ok {
		return nil, usage(b.cmd, errors.New("masks: --method chooses no entries"))
	}
	if err := b.gradients(b.trained); err != nil {
		return nil, err
	}
	n := int64(0)
	return func() error {
		return torch.With(func(s *torch.Scope) error {
			var err error
			b.out.Entries, err = m.Choose(s, n, b.trained)
			n++
			return err
		})
	}, nil
}

// open reads a checkpoint's weights into the network.
func (b *bench) open() (func() error, error) {
	path, _ := b.cmd.Flags().GetString("checkpoint")
	if path == "" {
		if b.plans == nil {
			return nil, usage(b.cmd, errors.New("open: --checkpoint must be given for a network that plans do not describe"))
		}
		var err error
		if path, err = b.write(); err != nil {
			return nil, err
		}
	}
	return func() error {
		f, err := checkpoint.Open(path)
		if err != nil {
			return err
		}
		report, err := checkpoint.LoadWeights(b.net.Module(), f.Weights, checkpoint.LoadOptions{})
		if err == nil {
			b.out.Loaded = report.Count(checkpoint.Loaded)
		}
		return errors.Join(err, f.Close())
	}, nil
}

// write saves the network with momentum, as training does, to a temporary file.
func (b *bench) write() (string, error) {
	if err := b.gradients(b.trained); err != nil {
		return "", err
	}
	err := torch.With(func(s *torch.Scope) error { b.sgd.Step(s, nil); return s.Err() })
	if err != nil {
		return "", err
	}
	if b.folder, err = os.MkdirTemp("", "lntorch-bench-*"); err != nil {
		return "", err
	}
	o := b.sgd.Options()
	data, err := plans.DecodeJSON([]byte(`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph_node": 1}, "numTraining": 1, "file_ending": ".nii.gz"}`))
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.folder, "checkpoint.pth")
	return path, checkpoint.Save(path, &checkpoint.Training{
		Network: b.net.Module(), SGD: checkpoint.SGDState{Options: o, InitialLR: o.LR, Buffers: b.sgd.State()}, Epoch: 1, Trainer: "nnUNetTrainer",
		InitArgs: checkpoint.InitArgs{Plans: b.plans.Raw(), Configuration: "bench", Fold: "0", Dataset: data.(*plans.Object), Device: "cpu"}})
}

// window predicts an image of noise.
func (b *bench) window() (func() error, error) {
	size, _ := b.cmd.Flags().GetIntSlice("image")
	if len(size) != 3 {
		return nil, usage(b.cmd, fmt.Errorf("--image %v: expected z,y,x", size))
	}
	shape := [4]int{1, size[0], size[1], size[2]}
	image, err := torch.Slice[float32](b.s.To(b.random(0, 1, int64(size[0]*size[1]*size[2])), torch.Float32, torch.CPU))
	if err != nil {
		return nil, err
	}
	cfg := infer.DefaultConfig(b.m.device)
	if b.m.reference {
		cfg.Numerics = infer.Reference
	}
	if b.m.amp == train.AMPBF16 {
		cfg.Autocast = torch.BFloat16
	}
	cfg.Threads = b.m.threads
	p, err := infer.New(b.net, b.patch, 2, cfg)
	if err != nil {
		return nil, err
	}
	return func() error {
		return torch.With(func(s *torch.Scope) error {
			_, err := p.Logits(b.cmd.Context(), s, image, shape, func(done, _ int) { b.out.Tiles = done })
			return err
		})
	}, nil
}

// random makes a tensor of normally distributed numbers.
func (b *bench) random(mean, std float64, size ...int64) *torch.Tensor {
	t := b.s.Empty(size, torch.Float32, b.m.device)
	b.s.Normal_(t, mean, std, nil)
	return t
}

// gradients gives parameters random gradients.
func (b *bench) gradients(params []finetune.Param) error {
	for _, p := range params {
		g := b.random(0, 1e-3, p.T.Shape()...)
		if b.s.Err() != nil {
			return b.s.Err()
		}
		if err := p.T.SetGrad(g); err != nil {
			return err
		}
	}
	return nil
}

// time makes one repeat and fills out.
func (b *bench) time(repeat func() error) error {
	if _, err := b.m.device.Peak(true); err != nil {
		return err
	}
	start := time.Now()
	err := repeat()
	if err == nil {
		err = b.m.device.Synchronize()
	}
	if err != nil {
		return err
	}
	b.out.Seconds = time.Since(start).Seconds()
	if b.out.Part == "step" {
		steps, _ := b.cmd.Flags().GetInt("steps")
		b.out.Seconds /= float64(steps)
	}
	b.out.PeakRSS = peakRSS()
	if b.out.DevicePeak, err = b.m.device.Peak(false); err != nil {
		return err
	}
	_, b.out.TensorsPeak, _, err = torch.CPUMemory()
	return err
}

// serve makes a repeat for each line on standard input.
func (b *bench) serve(repeat func() error) error {
	out := json.NewEncoder(os.Stdout)
	b.out.Ready = true
	if err := out.Encode(b.out); err != nil {
		return err
	}
	b.out.Ready = false
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if err := b.time(repeat); err != nil {
			return err
		}
		if err := out.Encode(b.out); err != nil {
			return err
		}
	}
	return in.Err()
}

// repeat makes --warmup and --repeats repeats and prints them, or a summary.
func (b *bench) repeat(repeat func() error) error {
	f := b.cmd.Flags()
	warmup, _ := f.GetInt("warmup")
	repeats, _ := f.GetInt("repeats")
	asJSON, _ := f.GetBool("json")
	if repeats < 1 || warmup < 0 {
		return usage(b.cmd, fmt.Errorf("--repeats %d, --warmup %d: expected one repeat or more", repeats, warmup))
	}
	var seconds []float64
	for i := range warmup + repeats {
		if err := b.cmd.Context().Err(); err != nil {
			return err
		}
		if err := b.time(repeat); err != nil {
			return err
		}
		if i < warmup {
			continue
		}
		seconds = append(seconds, b.out.Seconds)
		if asJSON {
			if err := json.NewEncoder(os.Stdout).Encode(b.out); err != nil {
				return err
			}
		}
	}
	if asJSON {
		return nil
	}
	slices.Sort(seconds)
	round := func(s float64) time.Duration { return time.Duration(s * 1e9).Round(10 * time.Microsecond) }
	fmt.Printf("%s, %s: median %v, %v to %v in %d repeats; %d threads, libtorch %s with %s kernels, peak memory %.2f GiB\n", b.out.Part, b.out.Variant,
		round(median(seconds)), round(seconds[0]), round(seconds[repeats-1]), repeats, b.out.Threads, b.out.Torch, b.out.CPU, gib(b.out.PeakRSS))
	return nil
}

// median of sorted numbers.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// peakRSS is the most memory the process has held, in bytes; 0 where the system does not tell. (getrusage would count
// the parent's, too.)
func peakRSS() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	var kb int64
	fmt.Sscan(line, &kb)
	return kb << 10
}

func long(v []int) []int64 {
	w := make([]int64, len(v))
	for i, x := range v {
		w[i] = int64(x)
	}
	return w
}

// firstIteration is train, up to the end of the first iteration. Nothing of it stays.
func firstIteration(cmd *cobra.Command, m machine, entry finetune.Entry, method finetune.Method) error {
	f := cmd.Flags()
	folder, err := os.MkdirTemp("", "lntorch-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	c := train.Config{Results: folder, Fold: "0", Trainer: entry.Trainer, MethodName: entry.Name, Method: method, Head: train.HeadNNUNet,
		Epochs: 2, Iterations: 2, LR: entry.LR, Momentum: 0.99, WeightDecay: 3e-5, Oversample: 0.33, DisableCheckpointing: true,
		Device: m.device, Threads: m.threads, AMP: m.amp, Reference: m.reference, Version: version}
	c.Preprocessed, _ = f.GetString("preprocessed")
	c.PlansName, _ = f.GetString("plans")
	c.Configuration, _ = f.GetString("configuration")
	c.Pretrained, _ = f.GetString("checkpoint")
	c.PatchSize, _ = f.GetIntSlice("patch-size")
	if len(c.PatchSize) == 0 {
		c.PatchSize = nil
	}
	if c.Preprocessed == "" {
		return usage(cmd, errors.New("first needs --preprocessed"))
	}
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	c.Progress = &untilFirst{stop: stop}
	_, err = train.Run(ctx, c)
	var stopped *train.Interrupted
	if errors.As(err, &stopped) && cmd.Context().Err() == nil {
		return nil
	}
	return err
}

// untilFirst stops a training after its first iteration.
type untilFirst struct{ stop context.CancelFunc }

func (u *untilFirst) Begin(string, int) {}
func (u *untilFirst) End()              {}

func (u *untilFirst) Done(n int, note string) {
	if n == 1 {
		json.NewEncoder(os.Stdout).Encode(map[string]string{"part": "first", "note": note})
		u.stop()
	}
}

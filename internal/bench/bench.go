// Package bench times parts of the program on made-up data: a training step, its end alone, a method's
// choice, opening a checkpoint, the sliding window, the export of a case, and the starts of a training and
// of a prediction. What is timed is the program's own code: the step is train.Session's.
package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/launch"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
)

// Config holds what is timed.
type Config struct {
	Part      string // a key of parts, or first, tile or export
	Network   string `flag:"network" default:"mid" help:"size of a network"`
	PatchSize []int  `flag:"patch-size" range:"1.." help:"patch size z,y,x (default: the network's)"`
	Steps     int    `flag:"steps" default:"1" range:"1.." help:"steps of a repeat of step; the time printed is that of one"`
	Image     []int  `flag:"image" default:"60,192,192" range:"1.." help:"z,y,x of the image that window predicts; of the logits that export reads"`
	Mirror    []int  `flag:"mirror" range:"0.." help:"axes that window mirrors (default: none)"`
	Batch     int    `flag:"batch" range:"0.." help:"patches that window computes at a time, mirrored ones included (default: the program's choice)"`
	pipeline.Method
	finetune.Refine
	Checkpoint    string  `flag:"checkpoint" path:"true" help:"file that open opens (default: one that bench writes); pretrained weights of first"`
	Preprocessed  string  `flag:"preprocessed" path:"true" help:"preprocessed dataset that first trains on"`
	Plans         string  `flag:"plans" default:"nnUNetPlans" help:"its plans, without .json"`
	Configuration string  `flag:"configuration" default:"3d_fullres" help:"its configuration"`
	Model         string  `flag:"model" short:"m" path:"true" help:"model folder of tile; folder of plans.json and dataset.json of export"`
	Input         string  `flag:"input" short:"i" path:"true" help:"images that tile predicts"`
	Logits        string  `flag:"logits" path:"true" help:"logits that export reads: (classes, z, y, x), float32, little-endian, without a header"`
	Properties    string  `flag:"properties" path:"true" help:"nnU-Net's properties of that case, .pkl"`
	Output        string  `flag:"output" short:"o" path:"true" help:"files of export, without ending"`
	Probabilities bool    `flag:"save-probabilities" help:"export writes probabilities, too"`
	Repeats       int     `flag:"repeats" default:"5" range:"1.." help:"timed repeats"`
	Warmup        *int    `flag:"warmup" default:"1" range:"0.." help:"repeats before them"`
	JSON          bool    `flag:"json" help:"a line of JSON for each repeat"`
	Serve         bool    `flag:"serve" hidden:"true" help:"one repeat for each line of standard input, answered in JSON; the first line says that all is prepared"`
	Scaling       int     `flag:"scaling" range:"2.." help:"number of ranks for which step works out, on paper, how much of their time they compute, with --bandwidth"`
	Bandwidth     float64 `flag:"bandwidth" range:">0.." help:"GB/s of an all-reduce between them"`
	machine.Machine
	launch.Config
	World pipeline.World
}

// result is one repeat, as JSON.
type result struct {
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
	Ranks       int     `json:"world_size,omitempty"`
	Exchanged   int64   `json:"exchanged_bytes,omitempty"` // step: gradients, between ranks
	Waited      float64 `json:"comm_seconds,omitempty"`    // step: the least that a rank waited for them after the last step's backward pass
}

// parts prepare what is repeated, by name.
var parts = map[string]func(*bench) (func() error, error){
	"step": (*bench).step, "update": (*bench).update, "masks": (*bench).masks, "open": (*bench).open, "window": (*bench).window,
}

// Run times a part. given lists the flags that were set, which name the variant. in is read with Serve;
// results go to out.
func Run(ctx context.Context, c Config, given []string, in io.Reader, out io.Writer, o pipeline.Output) (err error) {
	prepare, ok := parts[c.Part]
	if !ok && !slices.Contains([]string{"first", "tile", "export"}, c.Part) {
		return settings.Usage("part %q: expected step, update, masks, open, window, first, tile or export", c.Part)
	}
	if c.Part != "step" && (c.Scaling > 0 || c.Bandwidth > 0 || c.World != nil && !c.World.Alone()) {
		return settings.Usage("bench %s: --scaling, --bandwidth and several ranks are for step", c.Part)
	}
	if (c.Scaling > 0) != (c.Bandwidth > 0) {
		return settings.Usage("--scaling and --bandwidth belong together: give both")
	}
	if c.Part == "export" { // without libtorch
		return export(ctx, c, out)
	}
	if c.AMP == machine.AMPAuto {
		c.AMP = machine.AMPOff
	}
	if c.AMP == machine.AMPFP16 && c.Part != "step" {
		return settings.Usage("--amp fp16: bench takes it for step on a CUDA device, elsewhere off and bf16")
	}
	if c.Part == "tile" {
		return tile(ctx, c, out, o)
	}
	ranks, err := pipeline.Join(ctx, c.Config, c.World, &c.Machine, &o, nil)
	if err != nil {
		return err
	}
	defer func() { err = ranks.Leave(ctx, err) }()
	if c.MethodName == "" && c.Part == "masks" {
		c.MethodName = chooser()
	}
	entry, method, err := c.Method.Make()
	if err != nil {
		return err
	}
	if c.Part == "first" {
		return first(ctx, c, entry, method, out, o)
	}
	return c.Machine.Run(func() error {
		return torch.With(func(s *torch.Scope) error {
			b := &bench{ctx: ctx, cfg: c, scope: s, method: method, entry: entry, ranks: ranks.Ranks, w: out}
			if g := b.ranks.Group; g != nil && g.Rank() > 0 {
				b.w = io.Discard
			}
			defer b.close()
			if err := b.build(); err != nil {
				return err
			}
			b.out.Part, b.out.Variant, b.out.Threads = c.Part, b.variant(given), c.Threads
			repeat, err := prepare(b)
			if err == nil {
				err = s.Err()
			}
			if err != nil {
				return err
			}
			if c.Serve {
				return b.serve(in, repeat)
			}
			return b.repeat(repeat)
		})
	})
}

// chooser is the first method that chooses entries.
func chooser() string {
	for _, e := range finetune.Entries() {
		if m, err := e.Make(nil); err == nil {
			if _, ok := m.(finetune.Chooser); ok {
				return e.Name
			}
		}
	}
	return ""
}

// bench is a session and what its parts prepare. The scope owns the tensors of the whole run.
type bench struct {
	ctx     context.Context
	cfg     Config
	scope   *torch.Scope
	entry   finetune.Entry
	method  finetune.Method
	plans   *plans.Plans // nil for a network that plans do not describe
	arch    models.Architecture
	patch   []int
	session *train.Session
	ranks   train.Ranks
	folder  string // temporary; removed by close
	w       io.Writer
	out     result
}

func (b *bench) close() {
	b.session.Close()
	if b.folder != "" {
		os.RemoveAll(b.folder)
	}
}

// variant names what distinguishes one bench of a part from another.
func (b *bench) variant(given []string) string {
	c := &b.cfg
	words := []string{c.Network}
	if c.Part == "step" || c.Part == "update" {
		words = append(words, b.entry.Name)
		for _, o := range b.entry.Options {
			if slices.Contains(given, o.Name) {
				words = append(words, c.Options[o.Name].Text)
			}
		}
	}
	for _, x := range []struct{ flag, value string }{{"train", strings.Join(c.Train, ",")}, {"freeze", strings.Join(c.Freeze, ",")},
		{"amp", string(c.AMP)}, {"numerics", string(c.Numerics)}} {
		if slices.Contains(given, x.flag) {
			words = append(words, x.value)
		}
	}
	return strings.Join(words, " ")
}

// time makes one repeat and fills out.
func (b *bench) time(repeat func() error) error {
	if _, err := b.cfg.Device.Peak(true); err != nil {
		return err
	}
	start := time.Now()
	err := repeat()
	if err == nil {
		err = b.cfg.Device.Synchronize()
	}
	if err != nil {
		return err
	}
	b.out.Seconds = time.Since(start).Seconds()
	if b.cfg.Part == "step" {
		b.out.Seconds /= float64(b.cfg.Steps)
	}
	b.out.PeakRSS = system.PeakRSS()
	if b.out.DevicePeak, err = b.cfg.Device.Peak(false); err != nil {
		return err
	}
	_, b.out.TensorsPeak, _, err = torch.CPUMemory()
	return err
}

// serve makes a repeat for each line that it reads.
func (b *bench) serve(in io.Reader, repeat func() error) error {
	out := json.NewEncoder(b.w)
	b.out.Ready = true
	if err := out.Encode(b.out); err != nil {
		return err
	}
	b.out.Ready = false
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if err := b.time(repeat); err != nil {
			return err
		}
		if err := out.Encode(b.out); err != nil {
			return err
		}
	}
	return lines.Err()
}

// repeat makes the repeats and prints them, or a summary.
func (b *bench) repeat(repeat func() error) error {
	var seconds []float64
	for i := range *b.cfg.Warmup + b.cfg.Repeats {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		if err := b.time(repeat); err != nil {
			return err
		}
		if i < *b.cfg.Warmup {
			continue
		}
		seconds = append(seconds, b.out.Seconds)
		if b.cfg.JSON {
			if err := json.NewEncoder(b.w).Encode(b.out); err != nil {
				return err
			}
		}
	}
	if b.cfg.JSON {
		return nil
	}
	slices.Sort(seconds)
	n := len(seconds)
	if c := &b.cfg; c.Scaling > 0 {
		exchange, efficiency := scaling(c.Scaling, c.Bandwidth*1e9, seconds, b.session.GradientBytes())
		fmt.Fprintf(b.w, "%d ranks at %g GB/s: gradients %.3g MB, exchanged in %.3g ms, %.0f %% of the time computing (on paper)\n", c.Scaling, c.Bandwidth,
			float64(b.session.GradientBytes())/1e6, exchange*1e3, 100*efficiency)
	}
	round := func(s float64) time.Duration { return time.Duration(s * 1e9).Round(10 * time.Microsecond) }
	fmt.Fprintf(b.w, "%s, %s: median %v, %v to %v in %d repeats; %d threads, libtorch %s with %s kernels, peak memory %.2f GiB\n", b.out.Part, b.out.Variant,
		round((seconds[(n-1)/2]+seconds[n/2])/2), round(seconds[0]), round(seconds[n-1]), n, b.out.Threads, b.out.Torch, b.out.CPU, float64(b.out.PeakRSS)/(1<<30))
	return nil
}

// first is a training up to the end of its first iteration. Nothing of it stays.
func first(ctx context.Context, c Config, entry finetune.Entry, method finetune.Method, out io.Writer, o pipeline.Output) error {
	if c.Preprocessed == "" {
		return settings.Usage("first needs --preprocessed")
	}
	folder, err := os.MkdirTemp("", "lntorch-bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	inner, stop := context.WithCancel(ctx)
	defer stop()
	t := train.Config{Settings: settings.New[train.Settings](), Machine: c.Machine, Preprocessed: c.Preprocessed, Results: folder,
		PlansName: c.Plans, Configuration: c.Configuration, Fold: "0", Trainer: entry.Trainer, MethodName: entry.Name, Method: method,
		Pretrained: c.Checkpoint, Version: o.Version, Progress: &untilFirst{stop: stop, out: out, part: c.Part}}
	t.Epochs, t.Iterations, t.LR, t.PatchSize, t.DisableCheckpointing = 2, 2, entry.LR, c.PatchSize, true
	_, err = train.Run(inner, t)
	var stopped *train.Interrupted
	if errors.As(err, &stopped) && ctx.Err() == nil {
		return nil
	}
	return err
}

// untilFirst stops a training after its first iteration, a prediction after its first tile.
type untilFirst struct {
	stop context.CancelFunc
	out  io.Writer
	part string
	came bool
}

func (u *untilFirst) Begin(string, int) {}
func (u *untilFirst) End()              {}

func (u *untilFirst) Done(n int, note string) {
	if n == 1 {
		json.NewEncoder(u.out).Encode(map[string]string{"part": u.part, "note": note})
		u.came = true
		u.stop()
	}
}

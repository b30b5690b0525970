package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/train"
)

// LoaderConfig says which batches are prepared, and who takes them.
type LoaderConfig struct {
	Preprocessed  string `flag:"preprocessed" path:"true" help:"folder of a preprocessed dataset, with plans and dataset.json"`
	Plans         string `flag:"plans" bare:"true" nnunet:"p" default:"nnUNetPlans" help:"its plans, without .json"`
	Configuration string `flag:"configuration" short:"c" default:"3d_fullres" help:"its configuration"`
	Fold          string `flag:"fold" bare:"true" default:"0" help:"its fold, a number or all (default 0)"`
	Trainer       string `flag:"trainer" bare:"true" nnunet:"tr" default:"nnUNetTrainer" help:"trainer, whose name may choose list and axes"`
	train.BatchSettings
	Threads    int     `flag:"threads" range:"1.." help:"cores that all goroutines together may use (default: all)"`
	Iterations int     `flag:"iterations" default:"50" range:"1.." help:"batches that are taken and timed"`
	Warmup     *int    `flag:"warmup" default:"5" range:"0.." help:"batches before them: cases are read, memory is taken"`
	StepMS     float64 `flag:"step-ms" range:">0..3600000" help:"milliseconds that the consumer sleeps after each batch, as a GPU would compute (default: batches are taken as fast as they come)"`
	JSON       bool    `flag:"json" help:"one JSON object instead of text"`
}

// loaderResult is what bench loader prints.
type loaderResult struct {
	Part         string        `json:"part"`
	Augmentation string        `json:"augmentation"`
	PatchSize    []int         `json:"patch_size"`
	BatchSize    int           `json:"batch_size"`
	Patches      int           `json:"patches"` // taken
	Seconds      float64       `json:"seconds"` // from the last batch of the warm-up to the last one
	Rate         float64       `json:"patches_per_second"`
	Wait         float64       `json:"wait_share"` // of seconds that the consumer waited for a batch
	Workers      int           `json:"workers"`
	Threads      int           `json:"threads"`
	Busy         float64       `json:"busy_share"`
	Queue        queueDepth    `json:"queue_depth"`
	PerPatch     patchTimes    `json:"per_patch_ms"` // of the workers
	CPU          float64       `json:"cpu_ms_per_patch"`
	transforms   []transformMS // in the order of time spent
	TransformMS  oneEach       `json:"transforms_ms"` // mean where applied
	PeakRSS      int64         `json:"peak_rss_bytes"`
	StepMS       float64       `json:"step_ms,omitempty"`
	BatchMS      float64       `json:"batch_ms"` // cost of a patch × patches of a batch ÷ workers
	WaitExpected *bool         `json:"wait_expected,omitempty"`
}

type (
	queueDepth struct {
		Median int `json:"median"`
		Min    int `json:"min"`
	}
	patchTimes struct {
		Read    float64 `json:"read"`
		Augment float64 `json:"augment"`
		Targets float64 `json:"targets"`
	}
	oneEach     map[string]float64
	transformMS struct {
		name  string
		mean  float64
		share float64 // of the patches
	}
)

// Loader times a training's loader: how fast batches come, or, with a step, how long a GPU that
// computes so long would wait for them. It needs no libtorch.
func Loader(ctx context.Context, c LoaderConfig, out io.Writer, o pipeline.Output) error {
	if c.Preprocessed == "" {
		return settings.Usage("--preprocessed is not given: expected the folder of a " +
			"preprocessed dataset")
	}
	if c.Threads != 0 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(c.Threads))
	}
	cfg, err := c.loader(o)
	if err != nil {
		return err
	}
	l, err := loader.New(cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	r, err := c.consume(ctx, l, cfg)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(out).Encode(r)
	}
	return r.print(out)
}

// loader configures the loader as a training does.
func (c *LoaderConfig) loader(o pipeline.Output) (loader.Config, error) {
	d, err := train.OpenData(c.Preprocessed, c.Plans, c.Configuration, c.Fold)
	if err != nil {
		return loader.Config{}, err
	}
	list, err := pipeline.BatchList(d, &c.BatchSettings, c.Trainer, o)
	if err != nil {
		return loader.Config{}, err
	}
	return d.Batches(&c.BatchSettings, list, 0), nil
}

// consume takes the batches.
func (c *LoaderConfig) consume(ctx context.Context, l *loader.Loader,
	cfg loader.Config) (*loaderResult, error) {
	step := time.Duration(c.StepMS * float64(time.Millisecond))
	waited := time.Duration(0)
	take := func(n int) error {
		for range n {
			begin := time.Now()
			b, err := l.Next(ctx)
			if err != nil {
				return err
			}
			waited += time.Since(begin)
			b.Release()
			time.Sleep(step)
		}
		return nil
	}
	if err := take(*c.Warmup); err != nil {
		return nil, err
	}
	before, used, begin := l.Stats(), system.CPUTime(), time.Now()
	waited = 0
	if err := take(c.Iterations); err != nil {
		return nil, err
	}
	took := time.Since(begin)
	s := l.Stats().Since(before)
	used = system.CPUTime() - used

	made := float64(max(s.Patches, 1))
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	threads := runtime.GOMAXPROCS(0)
	r := &loaderResult{
		Part: "loader", Augmentation: cfg.Augmentation.Augmentation, PatchSize: cfg.PatchSize,
		BatchSize: cfg.BatchSize, Patches: c.Iterations * cfg.BatchSize, Seconds: took.Seconds(),
		Wait: waited.Seconds() / took.Seconds(), Workers: s.Workers, Threads: threads,
		Busy: s.Busy(), Queue: queueDepth{s.QueueMedian, s.QueueMin},
		PerPatch: patchTimes{ms(s.Read) / made, ms(s.Augment) / made, ms(s.Targets) / made},
		CPU:      ms(used) / made, TransformMS: oneEach{}, PeakRSS: system.PeakRSS(),
		StepMS: c.StepMS,
	}
	r.Rate = float64(r.Patches) / r.Seconds
	r.BatchMS = r.cost() * float64(r.BatchSize) / float64(r.Workers)
	if c.StepMS != 0 {
		expected := r.BatchMS > c.StepMS
		r.WaitExpected = &expected
	}
	for name, t := range s.Transforms {
		if t.Count > 0 {
			r.TransformMS[name] = ms(t.Total) / float64(t.Count)
			r.transforms = append(r.transforms,
				transformMS{name, r.TransformMS[name], float64(t.Count) / made})
		}
	}
	slices.SortFunc(r.transforms, func(a, b transformMS) int {
		return cmp.Or(cmp.Compare(b.mean*b.share, a.mean*a.share), strings.Compare(a.name, b.name))
	})
	return r, nil
}

// cost of a patch, in a worker's milliseconds.
func (r *loaderResult) cost() float64 {
	return r.PerPatch.Read + r.PerPatch.Augment + r.PerPatch.Targets
}

// print writes the result as text.
func (r *loaderResult) print(out io.Writer) error {
	var b strings.Builder
	size := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(r.PatchSize)), "×"), "[]")
	fmt.Fprintf(&b, "%d patches of %s in %.2f s, augmentation %s: %.1f a second; %s on %s, "+
		"%.0f %% busy\n", r.Patches, size, r.Seconds, r.Augmentation, r.Rate,
		count(r.Workers, "worker"), count(r.Threads, "core"), 100*r.Busy)
	fmt.Fprintf(&b, "waited for data %.1f %% of the time; batches ready when one was taken: "+
		"median %d, least %d\n", 100*r.Wait, r.Queue.Median, r.Queue.Min)
	fmt.Fprintf(&b, "a patch: %.2f ms of a worker (read %.2f, augment %.2f, targets %.2f), "+
		"%.2f ms of processor time\n", r.cost(), r.PerPatch.Read, r.PerPatch.Augment,
		r.PerPatch.Targets, r.CPU)
	for _, t := range r.transforms {
		fmt.Fprintf(&b, "  %-44s %8.3f ms where applied, to %5.1f %% of the patches\n",
			t.name, t.mean, 100*t.share)
	}
	fmt.Fprintf(&b, "a batch: %.2f ms × %s ÷ %s = %.2f ms", r.cost(), count(r.BatchSize, "patch"),
		count(r.Workers, "worker"), r.BatchMS)
	if r.StepMS != 0 {
		verdict := "less than"
		if *r.WaitExpected {
			verdict = "more than"
		}
		fmt.Fprintf(&b, ", %s the %g ms of a step", verdict, r.StepMS)
	}
	b.WriteString("\n")
	_, err := io.WriteString(out, b.String())
	return err
}

func count(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case what == "patch":
		what = "patche"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

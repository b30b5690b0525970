package pipeline

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
	"github.com/lntorch/lntorch/volume"
)

// AdaptForecast is what an adaptation is going to take, in seconds.
type AdaptForecast struct {
	Iteration     float64 `json:"iteration"` // measured
	Epochs        int     `json:"epochs"`
	Iterations    int     `json:"iterations"` // of an epoch
	ValIterations int     `json:"val_iterations"`
	Predict       float64 `json:"predict"` // all held-out cases, once
	Prepare       float64 `json:"prepare"`
	Train         float64 `json:"train"`
	Total         float64 `json:"total"`
}

// Parts of an iteration that a validation iteration takes, which goes forward only, and least number of
// epochs that --time leaves: the learning rate falls from epoch to epoch.
const (
	validationShare = 1.0 / 3
	leastEpochs     = 20
)

// fit shortens the training to so many seconds: fewer epochs, and where that would leave fewer than
// leastEpochs, shorter ones.
func (f *AdaptForecast) fit(limit float64, valGiven bool) {
	if f.train() <= limit {
		return
	}
	perEpoch := f.train() / float64(f.Epochs)
	if n := int(limit / perEpoch); n >= min(leastEpochs, f.Epochs) {
		f.Epochs = n
		return
	}
	f.Epochs = min(leastEpochs, f.Epochs)
	for f.Iterations > 1 && f.train() > limit {
		f.Iterations = max(1, min(f.Iterations-1, int(float64(f.Iterations)*limit/f.train())))
		if !valGiven {
			f.ValIterations = train.DefaultValIterations(f.Iterations)
		}
	}
	for f.Epochs > 1 && f.train() > limit {
		f.Epochs--
	}
}

// train is the time of the epochs.
func (f *AdaptForecast) train() float64 {
	return float64(f.Epochs) * f.Iteration * (float64(f.Iterations) + validationShare*float64(f.ValIterations))
}

// forecast measures an iteration and a tile, fits the training to --time, and says what all will take.
func (a *adaptation) forecast(ctx context.Context) error {
	p := a.record.Plan
	f := &p.Forecast
	f.Epochs, f.Iterations, f.ValIterations = a.Epochs, a.Iterations, a.ValIterations
	if f.Epochs == 0 {
		f.Epochs = a.epochs()
	}
	if f.ValIterations == 0 {
		f.ValIterations = train.DefaultValIterations(f.Iterations)
	}
	var err error
	if f.Iteration, err = a.measure(ctx); err != nil {
		return err
	}
	if a.limit > 0 {
		f.fit(a.limit.Seconds(), a.ValIterations > 0)
	}
	p.Epochs, p.Iterations, p.ValIterations = f.Epochs, f.Iterations, f.ValIterations
	f.Train = f.train()
	for _, c := range a.record.withRole(RoleTrain, RoleVal) {
		f.Prepare += inputRate * float64(voxels(c.Size)) * float64(len(a.dataset.ChannelNames))
	}
	if len(a.heldOut()) > 0 {
		c := a.prediction(a.checkpoint, a.folder("forecast"))
		c.DryRun, c.Headers = true, a.headers()
		silent := Output{Version: a.out.Version}
		err := Predict(ctx, c, silent, func(p Prediction) error {
			if p.Forecast != nil {
				f.Predict += p.Forecast.Seconds
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	f.Total = f.Prepare + f.Train + f.Predict
	if a.comparable() {
		f.Total += f.Predict
	}
	if a.refits() {
		f.Total += f.Train
	}
	if !a.DryRun { // whose result it is
		a.out.Print(f)
	}
	return nil
}

// headers are those of the held-out cases' images, from the table of cases.
func (a *adaptation) headers() map[string]*volume.Header {
	list := map[string]*volume.Header{}
	for _, c := range a.heldOut() {
		g := &volume.ITK{Origin: make([]float64, 3), Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1},
			Spacing: []float64{c.Spacing[2], c.Spacing[1], c.Spacing[0]}}
		for _, path := range a.channelFiles(c, a.heldOutFolder("images")) {
			list[path] = &volume.Header{Size: []int{c.Size[2], c.Size[1], c.Size[0]}, Type: "int16", Geometry: g}
		}
	}
	return list
}

// epochs are the method's, or of a network with a trainer of its own that one's.
func (a *adaptation) epochs() int {
	if e, ok := models.ByTrainer(a.record.Plan.Trainer); ok && a.entry.Stock {
		return e.Epochs
	}
	return a.entry.Epochs
}

// String is the forecast in words.
func (f *AdaptForecast) String() string {
	text := fmt.Sprintf("forecast: training %s (%d epochs of %d iterations, %s each), scoring %s, all together %s",
		roughly(f.Train), f.Epochs, f.Iterations, short(f.Iteration), roughly(f.Total-f.Train-f.Prepare), roughly(f.Total))
	if f.Train > 3600 {
		text += "; --time 30m or --epochs shortens it"
	}
	return text
}

// short is a duration of an iteration.
func short(seconds float64) string { return fmt.Sprintf("%.2g s", seconds) }

// network is what the checkpoint's weights tell.
func (a *adaptation) network() (*network, error) {
	f, err := checkpoint.Open(a.checkpoint)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return recogniseNetwork(f.Weights), nil
}

// measure is how long an iteration takes, in seconds: of the network with random weights, on random
// patches.
func (a *adaptation) measure(ctx context.Context) (seconds float64, err error) {
	p := a.record.Plan
	own, err := plans.Load(a.plansFile())
	if err != nil {
		return 0, err
	}
	conf, err := own.Configuration(p.Configuration)
	if err != nil {
		return 0, err
	}
	net, err := a.network()
	if err != nil {
		return 0, err
	}
	arch := net.Architecture
	if arch == nil || models.Planned(net.Class) {
		if arch, err = models.ForTrainer(p.Trainer, conf); err != nil {
			return 0, err
		}
	}
	_, method, err := a.Method.Make()
	if err != nil {
		return 0, err
	}
	optimizer := a.Optimizer
	if optimizer.LR == 0 {
		optimizer.LR = a.entry.LR
	}
	err = a.Machine.Run(func() error {
		s, err := train.NewSession(train.SessionConfig{
			Spec:   models.Spec{Architecture: arch, InputChannels: a.dataset.NumInputChannels(conf), NumClasses: a.dataset.Labels.NumSegmentationHeads()},
			Labels: a.dataset.Labels, BatchDice: conf.BatchDice, Patch: p.Patch, MethodName: a.entry.Name, Method: method,
			Refine: a.Refine, Optimizer: optimizer, Machine: a.Machine, Seed: a.Seed,
		})
		if err != nil {
			return err
		}
		defer s.Close()
		gen, err := torch.NewGenerator(torch.CPU, a.Seed)
		if err != nil {
			return err
		}
		defer gen.Close()
		if err := s.Net.Module().Reset(gen, nil); err != nil {
			return err
		}
		seconds, err = timeSteps(ctx, s, a.dataset, conf, p)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("an iteration cannot be measured: %w", err)
	}
	return seconds, nil
}

// timeSteps makes a few steps, one where that takes long, and returns the time of the fastest.
func timeSteps(ctx context.Context, s *train.Session, d *plans.Dataset, conf *plans.Configuration, p *adaptPlan) (float64, error) {
	s.Net.SetTraining(true)
	s.Net.SetDeepSupervision(true)
	device := s.Trained[0].T.Device()
	upload := func(sc *torch.Scope) (train.Batch, error) {
		size := append([]int64{int64(p.Batch), int64(d.NumInputChannels(conf))}, torch.Sizes(p.Patch)...)
		image := sc.Empty(size, torch.Float32, device)
		sc.Normal_(image, 0, 1, nil)
		batch := train.Batch{Image: image}
		channels, dtype := int64(1), torch.Int16
		if d.Labels.HasRegions {
			channels, dtype = int64(len(d.Labels.Regions)), torch.Uint8
		}
		for _, scale := range s.Scales {
			size := []int64{int64(p.Batch), channels}
			for i, f := range scale {
				size = append(size, int64(math.Round(float64(p.Patch[i])*f)))
			}
			noise := sc.Empty(size, torch.Float32, device)
			sc.Normal_(noise, 0, 1, nil)
			batch.Targets = append(batch.Targets, sc.To(sc.CompareScalar(noise, torch.Gt, 1.28), dtype, device))
		}
		return batch, sc.Err()
	}
	const most, enough = 4, 3 * time.Second
	best := math.Inf(1)
	for n, started := int64(0), time.Now(); n < most && (n == 0 || time.Since(started) < enough); n++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		begin := time.Now()
		if _, err := s.Step(n, upload); err != nil {
			return 0, err
		}
		if _, err := s.Settle(0); err != nil {
			return 0, err
		}
		best = min(best, time.Since(begin).Seconds())
	}
	return best, nil
}

// stageProgress names the stage before each task, and says when all is done.
type stageProgress struct {
	inner   Progress
	title   string
	own     float64 // forecast of the stage, seconds
	later   float64 // of the stages behind it
	started time.Time

	total      int
	epoch, of  int     // of a training
	first      float64 // share that was done when the stage began
	firstKnown bool
}

func newStageProgress(a *adaptation, name, title string, later []string) *stageProgress {
	p := &stageProgress{inner: a.out.progress(), title: title, started: time.Now(), own: a.stageSeconds(name)}
	for _, l := range later {
		p.later += a.stageSeconds(l)
	}
	return p
}

// stageSeconds is the forecast of a stage, 0 where there is none yet.
func (a *adaptation) stageSeconds(name string) float64 {
	if a.record.Plan == nil {
		return 0
	}
	f := &a.record.Plan.Forecast
	switch name {
	case stageBefore, stageAfter:
		return f.Predict
	case stagePrepare:
		return f.Prepare
	case stageTrain, stageRefit:
		return f.Train
	}
	return 0
}

// announcement is the log line at the start of the stage.
func (p *stageProgress) announcement() string {
	if p.own == 0 {
		return p.title
	}
	return fmt.Sprintf("%s: about %s, all done in %s", p.title, roughly(p.own), roughly(p.own+p.later))
}

func (p *stageProgress) Begin(task string, total int) {
	p.total = total
	if n, err := fmt.Sscanf(task, "epoch %d of %d", &p.epoch, &p.of); n != 2 || err != nil {
		p.epoch, p.of = 0, 0
	}
	p.inner.Begin(p.title+": "+task, total)
}

func (p *stageProgress) Done(n int, note string) {
	if p.own > 0 {
		if note != "" {
			note += ", "
		}
		note += "all done in " + roughly(p.left(n)+p.later)
	}
	p.inner.Done(n, note)
}

func (p *stageProgress) End() { p.inner.End() }

// left is the rest of the stage: by its own pace where that shows, else by the forecast.
func (p *stageProgress) left(n int) float64 {
	spent := time.Since(p.started).Seconds()
	if p.of > 0 && p.total > 0 {
		share := (float64(p.epoch-1) + float64(n)/float64(p.total)) / float64(p.of)
		if !p.firstKnown {
			p.first, p.firstKnown = share, true
		}
		if done := share - p.first; done > 0.02 {
			return spent / done * (1 - share)
		}
		return p.own * (1 - share)
	}
	return max(p.own-spent, 0)
}

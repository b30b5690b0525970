package experiment

import (
	"cmp"
	"context"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/torch"
)

// forecasts are the forecasts of memory that were asked for; nil where there is none.
type forecasts struct {
	trainings   map[forecastOf]*pipeline.Memory
	predictions map[forecastOf]*pipeline.Memory
}

// forecastOf is what runs with one forecast have in common: a combination, or of predictions dataset and network.
type forecastOf struct {
	combination *combination
	dataset     *gridDataset
	network     *gridNetwork
	gpu         bool
}

// IsGPU tells the name of a GPU from cpu.
func IsGPU(device string) bool { return strings.HasPrefix(device, "cuda") }

// need forecasts what a run takes on a device, training and prediction, whichever is more of each kind of memory.
// What is not known is nil: it shows in the run.
func (p *Plan) need(ctx context.Context, r *Run, device string) *pipeline.Memory {
	if r.base == nil {
		return nil
	}
	training, prediction := p.trainingNeed(r, device), p.predictionNeed(ctx, r, device)
	switch {
	case training == nil:
		return prediction
	case prediction == nil:
		return training
	}
	most := training.Most(*prediction)
	return &most
}

func (p *Plan) trainingNeed(r *Run, device string) *pipeline.Memory {
	if !r.Trains() {
		return nil
	}
	return remember(&p.forecasts.trainings, forecastOf{combination: r.base, gpu: IsGPU(device)}, func() (pipeline.Memory, error) {
		c, err := p.Training(r)
		if err != nil {
			return pipeline.Memory{}, err
		}
		c.DeviceName = device
		return pipeline.TrainingMemory(c, r.base.network.model)
	})
}

// predictionNeed is that of the network as it is: what a run predicts with is not there yet.
func (p *Plan) predictionNeed(ctx context.Context, r *Run, device string) *pipeline.Memory {
	at := forecastOf{dataset: r.base.dataset, network: r.base.network, gpu: IsGPU(device)}
	return remember(&p.forecasts.predictions, at, func() (pipeline.Memory, error) {
		c, err := p.foundationPrediction(r)
		if err != nil {
			return pipeline.Memory{}, err
		}
		c.DeviceName = device
		return pipeline.PredictionMemory(ctx, c)
	})
}

// foundationPrediction is the prediction of the test cases with the network as it is, to be forecast or timed:
// nothing is written.
func (p *Plan) foundationPrediction(r *Run) (pipeline.PredictConfig, error) {
	model, err := p.Checkpoint(r)
	if err != nil {
		return pipeline.PredictConfig{}, err
	}
	c, err := p.Prediction(r, model, filepath.Join(p.Dir, predictions))
	c.DryRun = true
	return c, err
}

// remember asks for a forecast once.
func remember(known *map[forecastOf]*pipeline.Memory, of forecastOf, ask func() (pipeline.Memory, error)) *pipeline.Memory {
	m, ok := (*known)[of]
	if ok {
		return m
	}
	if got, err := ask(); err == nil {
		m = &got
	}
	if *known == nil {
		*known = map[forecastOf]*pipeline.Memory{}
	}
	(*known)[of] = m
	return m
}

// Forecast says what memory each run takes: on the device of Prefer or Measure, else on that of the runs that were
// timed, else on the CPU. It returns the device.
func (p *Plan) Forecast(ctx context.Context) (string, error) {
	device := cmp.Or(p.prefer.device, p.timed, torch.CPU.String())
	p.Cost.Memory = nil
	for _, r := range p.Runs {
		r.Memory = p.need(ctx, r, device)
		if r.State == Done || r.Memory == nil {
			continue
		}
		most := *r.Memory
		if m := p.Cost.Memory; m != nil {
			most = most.Most(*m)
		}
		p.Cost.Memory = &most
	}
	return device, ctx.Err()
}

package train

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/torch"
)

// timing gathers how long iterations take, and how long they wait for data.
type timing struct {
	iteration, wait []time.Duration
	others          []time.Duration // waited for other ranks; none alone
	// of all iterations but the run's first, which waits for the first batch
	total, waited time.Duration
	any           bool
}

// timingWindow bounds what is kept; the latest iterations count.
const timingWindow = 5000

func (t *timing) add(iteration, wait time.Duration) {
	t.iteration, t.wait = keep(t.iteration, iteration), keep(t.wait, wait)
	if t.any {
		t.total, t.waited = t.total+iteration, t.waited+wait
	}
	t.any = true
}

// share is the part of the time that iterations waited for data.
func share(waited, total time.Duration) float64 {
	if total <= 0 {
		return 0
	}
	return float64(waited) / float64(total)
}

func keep(list []time.Duration, d time.Duration) []time.Duration {
	if len(list) == timingWindow {
		list = slices.Delete(list, 0, timingWindow/2)
	}
	return append(list, d)
}

func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(list))
	return s[int(q*float64(len(s)-1)+0.5)]
}

// median of the last iterations, for forecasts.
func (t *timing) median() time.Duration {
	return quantile(t.iteration[max(0, len(t.iteration)-200):], 0.5)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Status of run.json: stopped by the user, trained, and validated too.
const (
	statusInterrupted = "interrupted"
	statusTrained     = "trained"
	statusValidated   = "validated"
)

// writeRun writes run.json: everything that one would need to repeat the run, and how it went.
func (t *trainer) writeRun(status string) error {
	if !t.peers.first() {
		return nil
	}
	c := &t.cfg
	torchVersion, err := torch.Version()
	if err != nil {
		return err
	}
	capability, err := torch.CPUCapability()
	if err != nil {
		return err
	}
	// A training that was stopped does not wait for the sums of what it read.
	sums := map[string]string{}
	maps.Copy(sums, t.hashes.known(status != statusInterrupted))
	for _, name := range []string{fileFinal, fileBest, fileLatest} {
		sum, err := t.hashes.checkpoint(filepath.Join(t.fold, name))
		if err != nil {
			return fmt.Errorf("train: run.json: %w", err)
		}
		if sum != "" {
			sums[name] = sum
		}
	}
	doc := map[string]any{
		"status":   status,
		"started":  t.started.Format(time.RFC3339),
		"written":  time.Now().Format(time.RFC3339),
		"versions": map[string]string{"lntorch": c.Version, "libtorch": torchVersion, "go": runtime.Version(), "cpu_capability": capability},
		"dataset":  t.data.Plans.DatasetName, "plans": t.data.Plans.PlansName, "configuration": c.Configuration, "fold": c.Fold, "trainer": c.Trainer,
		"method": c.MethodName, "settings": t.settings(),
		"cases":      map[string][]string{"train": t.data.Split.Train, "val": t.data.Split.Val},
		"split":      map[string]any{"file": t.data.Split.File, "random": t.data.Split.Random},
		"parameters": map[string]int64{"all": models.ParameterCount(t.Net), "trained": t.TrainedCount()},
		"sha256":     sums,
		"epochs":     t.epoch,
		"timing": map[string]any{
			"iterations": len(t.timing.iteration),
			"iteration_ms": map[string]float64{"median": milliseconds(quantile(t.timing.iteration, 0.5)),
				"p90": milliseconds(quantile(t.timing.iteration, 0.9))},
			"wait_for_data_ms": map[string]float64{"median": milliseconds(quantile(t.timing.wait, 0.5)),
				"p90":   milliseconds(quantile(t.timing.wait, 0.9)),
				"share": share(t.timing.waited, t.timing.total)},
			"loader": t.aboutLoader(),
		},
	}
	if t.peers != nil {
		if doc["distributed"], err = t.aboutRanks(); err != nil {
			return fmt.Errorf("train: run.json: %w", err)
		}
	}
	data := t.aboutData()
	doc["data"] = data
	if status != statusInterrupted { // reads the properties of every training case
		data["orientations"] = t.orientations()
	}
	if peak := system.PeakRSS(); peak > 0 {
		doc["peak_memory_bytes"] = peak
	}
	if _, doc["peak_tensor_bytes"], _, err = torch.CPUMemory(); err != nil { // the allocator's high-water mark
		return fmt.Errorf("train: run.json: %w", err)
	}
	if err := writeJSON(filepath.Join(t.fold, "run.json"), doc); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// aboutLoader tells what the workers did that prepare the training's batches.
func (t *trainer) aboutLoader() map[string]any {
	s := t.train.Stats()
	patch := func(d time.Duration) float64 { return milliseconds(d) / float64(max(s.Patches, 1)) }
	return map[string]any{
		"workers": s.Workers, "busy_share": s.Busy(),
		"queue_depth":  map[string]int{"median": s.QueueMedian, "min": s.QueueMin},
		"per_patch_ms": map[string]float64{"read": patch(s.Read), "augment": patch(s.Augment), "targets": patch(s.Targets)},
	}
}

// writeJSON writes a record; NaN and infinite numbers are null.
func writeJSON(path string, doc any) error {
	var b bytes.Buffer
	if _, err := report.JSON(&b, doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Write(path, b.Bytes())
}

// writeDebug writes debug.json when training starts or resumes: as in nnU-Net, every value is text.
func (t *trainer) writeDebug() error {
	c := &t.cfg
	libtorch, err := torch.Version()
	if err != nil {
		return err
	}
	host, _ := os.Hostname() // for the record
	doc := map[string]string{
		"dataset_name": t.data.Plans.DatasetName, "plans_name": t.data.Plans.PlansName, "configuration_name": c.Configuration, "fold": c.Fold,
		"trainer": c.Trainer, "method": c.MethodName, "network": t.arch.Class(), "deep_supervision_scales": fmt.Sprint(t.Scales),
		"preprocessed_dataset_folder": t.data.Cases.Folder(), "output_folder": t.fold, "current_epoch": fmt.Sprint(t.epoch),
		"hostname": host, "lntorch_version": c.Version, "torch_version": libtorch, "go_version": runtime.Version(),
	}
	for name, value := range t.settings() {
		doc[name] = fmt.Sprint(value)
	}
	if t.peers != nil || c.Ranks.RunID != "" {
		doc[debugWorld], doc[debugRun], doc[debugAgent] = fmt.Sprint(t.peers.size()), c.Ranks.RunID, c.Ranks.Agent
	}
	b, err := json.MarshalIndent(doc, "", "    ")
	if err == nil {
		err = atomicfile.Write(filepath.Join(t.fold, "debug.json"), b)
	}
	if err != nil {
		return fmt.Errorf("train: debug.json: %w", err)
	}
	return nil
}

// Entries of debug.json about ranks.
const (
	debugWorld = "world_size"
	debugRun   = "run_id"
	debugAgent = "agent"
)

// unnamed is the id of torchrun's jobs that were given none.
const unnamed = "none"

// restarted reports whether a launcher started these ranks in place of others of the same training, which
// goes on from what they saved. A restart is none for a training that an earlier job left in the folder: the
// attempts before may have failed before they wrote there. Where that cannot be told it is an error.
func (t *trainer) restarted() (bool, error) {
	r := &t.cfg.Ranks
	if r.RunID == "" && r.Restart == 0 || t.cfg.DisableCheckpointing { // then no attempt saved anything
		return false, nil
	}
	var was map[string]string
	b, err := os.ReadFile(filepath.Join(t.fold, "debug.json"))
	if err != nil || json.Unmarshal(b, &was) != nil {
		return false, nil // of this job it would be whole
	}
	named := func(id string) bool { return id != "" && id != unnamed }
	switch {
	case r.Agent != "" && was[debugAgent] == r.Agent, named(r.RunID) && was[debugRun] == r.RunID:
		// torchrun does not count the restart that another number of ranks brings.
		return r.Restart > 0 || was[debugWorld] != fmt.Sprint(t.peers.size()), nil
	case r.Restart == 0, named(r.RunID), was[debugRun] != unnamed:
		return false, nil
	}
	newest, err := t.newest()
	if newest == "" || err != nil {
		return false, err
	}
	return false, fmt.Errorf("train: torchrun starts the ranks again, and %s is of a job without an id, as this one is: whether it is the same "+
		"job, which goes on, or an earlier one cannot be told. Give the job an id of its own by torchrun --rdzv-id NAME, "+
		"and --c to go on with the training that is there", newest)
}

// settings lists every setting as it was in force.
func (t *trainer) settings() map[string]any {
	c := &t.cfg
	all := settings.Record(&c.Settings)
	maps.Copy(all, settings.Record(&c.Machine))
	all["pretrained_weights"] = c.Pretrained
	for name, value := range c.Options {
		all[name] = value
	}
	return all
}

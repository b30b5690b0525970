package train

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
)

// timing gathers how long iterations take, and how long they wait for data.
type timing struct{ iteration, wait []time.Duration }

// timingWindow bounds what is kept; the latest iterations count.
const timingWindow = 5000

func (t *timing) add(iteration, wait time.Duration) {
	t.iteration, t.wait = keep(t.iteration, iteration), keep(t.wait, wait)
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

// writeRun writes run.json: everything that one would need to repeat the run, and how it went.
func (t *trainer) writeRun(status string) error {
	c := &t.cfg
	torchVersion, err := torch.Version()
	if err != nil {
		return err
	}
	capability, err := torch.CPUCapability()
	if err != nil {
		return err
	}
	sums := map[string]string{}
	add := func(name, path string) error {
		if sums[name] != "" || path == "" {
			return nil
		}
		sum, err := fileSHA256(path)
		if os.IsNotExist(err) {
			return nil
		}
		sums[name] = sum
		return err
	}
	if err := add("plans", filepath.Join(c.Preprocessed, c.PlansName+".json")); err != nil {
		return fmt.Errorf("train: run.json: %w", err)
	}
	if err := add("pretrained_weights", c.Pretrained); err != nil {
		return fmt.Errorf("train: run.json: %w", err)
	}
	for _, name := range []string{fileFinal, fileBest, fileLatest} {
		if err := add(name, filepath.Join(t.fold, name)); err != nil {
			return fmt.Errorf("train: run.json: %w", err)
		}
	}
	for _, k := range slices.Concat(t.split.Train, t.split.Val) {
		if err := add("case "+k, filepath.Join(t.data.Folder(), k+".npz")); err != nil {
			return fmt.Errorf("train: run.json: %w", err)
		}
	}
	doc := map[string]any{
		"status":   status,
		"started":  t.started.Format(time.RFC3339),
		"written":  time.Now().Format(time.RFC3339),
		"versions": map[string]string{"lntorch": c.Version, "libtorch": torchVersion, "go": runtime.Version(), "cpu_capability": capability},
		"dataset":  t.plans.DatasetName, "plans": t.plans.PlansName, "configuration": c.Configuration, "fold": c.Fold, "trainer": c.Trainer,
		"method": c.MethodName, "settings": t.settings(),
		"cases":      map[string][]string{"train": t.split.Train, "val": t.split.Val},
		"parameters": map[string]int64{"all": models.ParameterCount(t.Net), "trained": t.TrainedCount()},
		"sha256":     sums,
		"epochs":     t.epoch,
		"timing": map[string]any{
			"iterations": len(t.timing.iteration),
			"iteration_ms": map[string]float64{"median": milliseconds(quantile(t.timing.iteration, 0.5)),
				"p90": milliseconds(quantile(t.timing.iteration, 0.9))},
			"wait_for_data_ms": map[string]float64{"median": milliseconds(quantile(t.timing.wait, 0.5)),
				"p90": milliseconds(quantile(t.timing.wait, 0.9))},
		},
	}
	if b, err := os.ReadFile("/proc/self/status"); err == nil {
		if peak, ok := procField(b, "VmHWM:"); ok {
			doc["peak_memory_bytes"] = peak
		}
	}
	if _, doc["peak_tensor_bytes"], _, err = torch.CPUMemory(); err != nil { // the allocator's high-water mark
		return fmt.Errorf("train: run.json: %w", err)
	}
	b, err := json.MarshalIndent(doc, "", "    ")
	if err != nil {
		return fmt.Errorf("train: run.json: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(t.fold, "run.json"), append(b, '\n')); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// writeDebug writes debug.json when a training begins or goes on: as in nnU-Net, everything as text.
func (t *trainer) writeDebug() error {
	c := &t.cfg
	libtorch, err := torch.Version()
	if err != nil {
		return err
	}
	host, _ := os.Hostname() // only told
	doc := map[string]string{
		"dataset_name": t.plans.DatasetName, "plans_name": t.plans.PlansName, "configuration_name": c.Configuration, "fold": c.Fold,
		"trainer": c.Trainer, "method": c.MethodName, "network": t.arch.Class(), "deep_supervision_scales": fmt.Sprint(t.Scales),
		"preprocessed_dataset_folder": t.data.Folder(), "output_folder": t.fold, "current_epoch": fmt.Sprint(t.epoch),
		"hostname": host, "lntorch_version": c.Version, "torch_version": libtorch, "go_version": runtime.Version(),
	}
	for name, value := range t.settings() {
		doc[name] = fmt.Sprint(value)
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

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// procField reads a "Name:   123 kB" line of a file in /proc, in bytes.
func procField(b []byte, name string) (int64, bool) {
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 3 && f[0] == name && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err == nil
		}
	}
	return 0, false
}

package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/train"
)

// Preprocessing holds which configurations are made, and how.
type Preprocessing struct {
	Configurations []string `flag:"configurations" short:"c" list:"true" default:"2d,3d_fullres,3d_lowres" help:"configurations of the plans; those that are not in them are left out"`
	Workers        []int    `flag:"np" nnunet:"np" range:"1.." list:"true" help:"cases at a time, one number or one for each configuration (default: the cores, eight at most)"`
	Threads        int      `flag:"threads" range:"1.." help:"threads of all the cases together (default: all cores)"`
	MaxRAM         float64  `flag:"max-ram" range:">0.." help:"GiB for the cases at work (default: three quarters of what is free)"`
}

// PreprocessConfig makes training data.
type PreprocessConfig struct {
	Datasets
	PlansName string `flag:"plans-name" bare:"true" nnunet:"plans_name" default:"nnUNetPlans" help:"plans to follow, without .json"`
	Preprocessing
	Clean   bool `flag:"clean" help:"do again what is done already"`
	Verbose bool `flag:"verbose" hidden:"true" help:"accepted as nnU-Net's; see --quiet"`
}

// Preprocessed is what became of one configuration of a dataset.
type Preprocessed struct {
	Dataset       string             `json:"dataset"`
	Configuration string             `json:"configuration"`
	Folder        string             `json:"folder"`
	Made          int                `json:"made"`
	Kept          int                `json:"kept"`
	Removed       []string           `json:"removed"`
	Failed        []string           `json:"failed"`
	Seconds       map[string]float64 `json:"seconds"` // of the steps, all cases together
}

// Preprocess makes the training data of raw datasets as planned; done is called for each configuration, of
// those too in which cases failed.
func Preprocess(ctx context.Context, c PreprocessConfig, o Output, done func(Preprocessed) error) error {
	if err := settings.Check(&c); err != nil {
		return err
	}
	if err := given("preprocessed", c.Preprocessed); err != nil {
		return err
	}
	list, err := c.open()
	if err != nil {
		return err
	}
	return c.Preprocessing.run(ctx, list, c.Preprocessed, c.Clean, func(*raw.Dataset) string { return c.PlansName }, o, done)
}

// run makes the configurations of every dataset.
func (p Preprocessing) run(ctx context.Context, list []*raw.Dataset, root string, clean bool, plansName func(*raw.Dataset) string, o Output,
	done func(Preprocessed) error) error {
	if n := len(p.Workers); n > 1 && n != len(p.Configurations) {
		return settings.Usage("-np has %d numbers, expected one, or one for each of the %d configurations", n, len(p.Configurations))
	}
	var failed []error
	for _, d := range list {
		name := plansName(d)
		own, err := plans.Load(filepath.Join(root, d.Name, name+".json"))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w; run `lntorch plan -d %s` first", err, d.Name)
		}
		if err != nil {
			return err
		}
		made := 0
		for i, c := range p.Configurations {
			if !slices.Contains(own.ConfigurationNames(), c) {
				o.Printf("%s: %s has no configuration %s, which is left out", d.Name, name, c)
				continue
			}
			made++
			job := preparation{threads: p.Threads, maxRAM: int64(p.MaxRAM * (1 << 30)), clean: clean}
			if len(p.Workers) > 0 {
				job.workers = p.Workers[min(i, len(p.Workers)-1)]
			}
			s, err := job.run(ctx, d, own, c, filepath.Join(root, d.Name), o)
			if s != nil {
				if err := done(*s); err != nil {
					return err
				}
			}
			if err != nil && ctx.Err() != nil {
				return err
			}
			failed = append(failed, err)
		}
		if made == 0 {
			failed = append(failed, fmt.Errorf("%s: none of the configurations %s is in %s, which has %s", d.Name, strings.Join(p.Configurations, ", "), name, strings.Join(own.ConfigurationNames(), ", ")))
		}
	}
	return errors.Join(failed...)
}

// preparation holds how the cases of one configuration are made.
type preparation struct {
	workers int   // 0: the cores, eight at most
	threads int   // 0: all cores
	maxRAM  int64 // bytes; 0: three quarters of what is free
	clean   bool
}

// run makes the data of one configuration in folder, that of the preprocessed dataset.
func (p preparation) run(ctx context.Context, d *raw.Dataset, own *plans.Plans, name, folder string, o Output) (*Preprocessed, error) {
	c, err := own.Configuration(name)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, "dataset.json")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := planner.CopyDatasetJSON(d.Folder, folder); err != nil {
			return nil, err
		}
	}
	doc, err := plans.LoadDataset(path)
	if err != nil {
		return nil, err
	}
	settings, err := preprocess.NewSettings(own, c, doc)
	if err != nil {
		return nil, err
	}
	reader, err := images.ForName(own.ImageReaderWriter)
	if err != nil {
		return nil, err
	}
	to := filepath.Join(folder, c.DataIdentifier)
	if c.DataIdentifier == "" || c.DataIdentifier != filepath.Base(c.DataIdentifier) || c.DataIdentifier == ".." {
		return nil, fmt.Errorf("configuration %s: data_identifier %q is not the name of a folder", name, c.DataIdentifier)
	}
	threads := cmp.Or(p.threads, system.Cores())
	workers := max(1, min(cmp.Or(p.workers, casesAtATime()), threads, len(d.Cases)))
	if p.maxRAM == 0 {
		if m, err := system.ReadMemory(); err == nil {
			p.maxRAM = system.Budget(m.Available)
		}
	}
	if p.maxRAM > 0 {
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(p.maxRAM))
	}
	job := preprocess.Job{Dataset: d, Reader: reader, Settings: settings, Folder: to, Workers: workers, Threads: max(1, threads/workers), MaxRAM: p.maxRAM, Clean: p.clean,
		Progress: o.progress(), Log: o.Log}
	s, err := job.Run(ctx)
	return &Preprocessed{
		Dataset: d.Name, Configuration: name, Folder: to, Made: s.Made, Kept: s.Kept, Removed: append([]string{}, s.Removed...), Failed: append([]string{}, s.Failed...),
		Seconds: map[string]float64{"read": s.Times.Read.Seconds(), "crop": s.Times.Crop.Seconds(), "labels": s.Times.Labels.Seconds(), "image": s.Times.Image.Seconds(), "write": s.Times.Write.Seconds()},
	}, err
}

// prepareTraining makes the plans and the training data that a training lacks, if the raw dataset is there.
func prepareTraining(ctx context.Context, root string, c train.Config, o Output) error {
	if root == "" {
		return nil
	}
	name := filepath.Base(c.Preprocessed)
	d, err := raw.Open(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil { // the data may exist already
		o.Print("WARNING: what the training lacks is not made:", err)
		return nil
	}
	p, err := plans.Load(filepath.Join(c.Preprocessed, c.PlansName+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		if p, err = planTraining(ctx, c, d, o); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	configuration, err := p.Configuration(c.Configuration)
	if err != nil {
		return nil // train reports it
	}
	owner, err := preprocess.FindOwner(filepath.Join(c.Preprocessed, configuration.DataIdentifier))
	if err != nil {
		return err
	}
	if owner.Refusal() != nil {
		return nil // training reads the folder of another program as it is, or says what it is
	}
	o.Printf("%s: training data of %s, from %s", name, c.Configuration, d.Folder)
	s, err := preparation{threads: c.Threads}.run(ctx, d, p, c.Configuration, c.Preprocessed, o)
	var held *folderlock.HeldError
	for waiting := false; errors.As(err, &held); waiting = true {
		// Another fold began just before and prepares the same data.
		if !waiting {
			o.Print("waiting:", held)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		s, err = preparation{threads: c.Threads}.run(ctx, d, p, c.Configuration, c.Preprocessed, o)
	}
	if err != nil {
		return err
	}
	o.Printf("%s: %d cases made, %d kept", name, s.Made, s.Kept)
	return nil
}

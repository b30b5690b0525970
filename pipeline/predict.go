package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// PredictConfig segments images with a trained model.
type PredictConfig struct {
	Input  []string `flag:"input" short:"i" list:"true" path:"true" help:"folder of images in nnU-Net's naming (CASE_0000.nii.gz), or image files and DICOM series (each a file, a folder or a zip)"`
	Output string   `flag:"output" short:"o" path:"true" help:"folder for the segmentations; for one image also a file"`
	ModelChoice
	DICOMChoice
	DICOMLabels
	StepSize      float64 `flag:"step-size" nnunet:"step_size" default:"0.5" range:">0..1" help:"distance of tiles in patch sizes"`
	NoMirror      bool    `flag:"disable-tta" help:"no mirroring"`
	Probabilities bool    `flag:"save-probabilities" help:"write CASE.npz and CASE.pkl, too, which lntorch ensemble and nnU-Net read"`
	Continue      bool    `flag:"continue-prediction" help:"leave out cases whose files are all there (--c)"`
	ContinueShort bool    `flag:"c" hidden:"true" help:"nnU-Net's short name of --continue_prediction"`
	Previous      string  `flag:"prev-stage-predictions" nnunet:"prev_stage_predictions" path:"true" help:"for a cascade: folder of the previous stage's segmentations"`
	Preprocessing int     `flag:"npp" nnunet:"npp" default:"1" range:"0.." record:"npp" help:"cases that are read and preprocessed ahead of the network"`
	Export        int     `flag:"nps" nnunet:"nps" default:"1" range:"0.." record:"nps" help:"cases that are written at a time beside the network"`
	NumParts      int     `flag:"num-parts" nnunet:"num_parts" default:"1" range:"1.." help:"runs that share the cases"`
	PartID        int     `flag:"part-id" nnunet:"part_id" range:"0.." help:"which of them this is, from 0"`
	Dist          string  `flag:"dist" values:"auto,off" default:"auto" help:"auto: ranks that torchrun, mpirun or srun started are the parts; off: their variables are not read"`
	World         World
	MaxRAM        float64 `flag:"max-ram" range:">0.." help:"GiB for the sums of logits, above which a plane is cut into strips, and for the weights of all folds, above which they are loaded in turn (default: three quarters of what is free)"`
	MaxVRAM       float64 `flag:"max-vram" range:">0.." help:"the same of a GPU's memory (default: three quarters of what is free)"`
	SkipAir       string  `flag:"skip-air" values:"on,check" alone:"on" help:"leave out tiles that show nothing but air, below -900 HU; on, or check: compute them all the same and count the labels that would change"`
	Reorient      string  `flag:"reorient" alone:"trained" help:"turn images to the orientation of the training images, or to the one named (--reorient=LPS), and the labels back"`
	DryRun        bool    `flag:"dry-run" help:"list the cases and what they will take, and write nothing"`
	machine.Machine
	Verbose    bool `flag:"verbose" hidden:"true" help:"accepted as nnU-Net's; see --quiet"`
	NoProgress bool `flag:"disable-progress-bar" help:"no progress bar"`

	// Headers of images by path, for the forecast of images that are not there yet; nil: their own.
	Headers map[string]*volume.Header
}

// States of a predicted case.
const (
	PredictionOK      = "ok"
	PredictionSkipped = "skipped" // its files were there
	PredictionPlanned = "planned" // by --dry-run
	PredictionFailed  = "failed"
)

// Prediction is what became of one image.
type Prediction struct {
	Case        string                `json:"case"`
	Status      string                `json:"status"`
	Error       string                `json:"error"`
	Output      string                `json:"output"`
	Labels      map[string]LabelCount `json:"labels"`         // by value
	Tiles       int                   `json:"tiles"`          // places of the window, for one fold
	Repeated    int                   `json:"tiles_repeated"` // of Tiles, at the borders of strips
	Strips      int                   `json:"strips"`
	Forecast    *CaseForecast         `json:"forecast,omitempty"`
	Air         *AirRecord            `json:"air,omitempty"`
	Orientation string                `json:"orientation,omitempty"` // where the image's axes x, y, z lead
	TurnedTo    string                `json:"turned_to,omitempty"`   // by --reorient
	Seconds     PredictionTimes       `json:"seconds"`
	PeakBytes   int64                 `json:"peak_bytes"` // of the program so far
	Warnings    []string              `json:"warnings"`
}

// LabelCount is how much of a segmentation has one label.
type LabelCount struct {
	Name       string  `json:"name"`
	Voxels     int64   `json:"voxels"`
	MM3        float64 `json:"mm3"`
	Components int     `json:"components"` // connected over faces, edges and corners
}

// PredictionTimes are seconds of the steps, which overlap those of other cases.
type PredictionTimes struct {
	Read       float64 `json:"read"`
	Preprocess float64 `json:"preprocess"`
	Network    float64 `json:"network"`
	Export     float64 `json:"export"`
}

// segmenter is a run of Predict.
type segmenter struct {
	PredictConfig
	out         Output
	model       *trainedModel
	how         *preprocess.Settings
	reader      images.Reader
	cases       []imageCase
	folder      bool // the cases are those of a folder in nnU-Net's naming
	predict     *infer.Predictor
	window      infer.Config
	limit       int64  // bytes, of sums and of weights
	reload      bool   // of one fold after the other
	orientation string // that images are turned to, or empty

	forecasts  []*CaseForecast // nil where the case is skipped or its header cannot be read
	unreadable []error         // of the headers
	cost       infer.Cost
	memory     int64 // forecast
	left       remaining

	mu      sync.Mutex
	records []Prediction // of the cases
	done    func(Prediction) error
	failed  error // of done
}

// Predict segments images on their own grids. done is told of each case; a case that fails does not
// end the others: the error in the end names them. Where -o is a folder it also gets nnU-Net's
// copies of dataset.json, plans.json and the arguments, and run.json. Cancelling ctx ends the run;
// files that are there by then are whole.
// Source: nnU-Net 2.5.1, predict_from_raw_data.py.
func Predict(ctx context.Context, c PredictConfig, o Output, done func(Prediction) error) error {
	if err := settings.Check(&c); err != nil {
		return err
	}
	if c.Output == "" {
		return settings.Usage("-o is not given: a folder for the segmentations")
	}
	c.Continue = c.Continue || c.ContinueShort
	if c.NoProgress {
		o.Progress = nil
	}
	if w := c.World; w != nil && c.NumParts == 1 {
		c.NumParts, c.PartID = w.Size, w.Rank
	}
	model, err := c.ModelChoice.open()
	if err != nil {
		return err
	}
	defer model.close()
	s := &segmenter{PredictConfig: c, out: o, model: model, done: done}
	if err := s.prepare(); err != nil {
		return err
	}
	if err := place(c.World, &s.Machine, &s.out); err != nil {
		return err
	}
	s.setWindow()
	if err := s.forecastCases(ctx); err != nil {
		return err
	}
	if c.DryRun {
		return s.dryRun(ctx)
	}
	folder := c.Output
	if s.single() {
		folder = filepath.Dir(c.Output)
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return fmt.Errorf("-o %s: %w: name a folder that can be written", c.Output, err)
	}
	lock, err := s.lock()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		err = fmt.Errorf("-o %s: %w: name a folder that can be written", c.Output, err)
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	if lock.Warning != "" {
		o.Print("WARNING:", lock.Warning)
	}
	if err := atomicfile.Sweep(folder); err != nil {
		return err
	}
	if !s.single() {
		if err := s.writeModel(); err != nil {
			return err
		}
	}
	if s.single() {
		return s.run(ctx)
	}
	started := time.Now()
	sums := model.sums()
	err = s.run(ctx)
	known, sumErr := sums()
	return errors.Join(err, sumErr, s.writeRun(started, known))
}

// single says that -o names a file: nothing but the segmentation is written.
func (s *segmenter) single() bool { return s.outputIsFile() }

// prepare finds the cases and how they are preprocessed.
func (s *segmenter) prepare() error {
	m := s.model
	ending := m.dataset.FileEnding
	if ending == "" {
		return fmt.Errorf("dataset.json of the model has no file_ending")
	}
	if err := m.dataset.Labels.CheckConsecutive(); err != nil {
		return fmt.Errorf("dataset.json of the model: %w", err)
	}
	var err error
	if s.reader, err = images.ForName(m.plans.ImageReaderWriter); err != nil {
		return err
	}
	if s.how, err = preprocess.NewSettings(m.plans, m.configuration, m.dataset); err != nil {
		return err
	}
	cases, folder, err := findImages(s.Input, ending, s.out)
	if err != nil {
		return err
	}
	s.folder = folder
	if err := s.checkDICOM(cases); err != nil {
		return err
	}
	if s.cases, err = part(cases, s.NumParts, s.PartID); err != nil {
		return err
	}
	if err := s.place(!folder); err != nil {
		return err
	}
	if err := s.checkAir(); err != nil {
		return err
	}
	if err := s.chooseOrientation(); err != nil {
		return err
	}
	previous := m.configuration.PreviousStage
	if previous == "" {
		return nil
	}
	if s.Previous == "" {
		return settings.Usage("%s is the second stage of a cascade: give the segmentations of %s with -prev_stage_predictions",
			m.configuration.Name, previous)
	}
	if err := exists("-prev_stage_predictions", s.Previous, "the folder of the segmentations of "+previous); err != nil {
		return err
	}
	for i := range s.cases {
		s.cases[i].previous = filepath.Join(s.Previous, s.cases[i].id+ending)
	}
	return nil
}

// setWindow chooses how the window slides, and what memory it may take.
func (s *segmenter) setWindow() {
	s.window = s.windowOn(s.Device)
	s.window.Autocast = s.DType()
	s.window.Notice = func(text string) { s.out.Print("WARNING:", text) }
	s.setLimit()
}

// windowOn is how the window slides.
func (s *segmenter) windowOn(device torch.Device) infer.Config {
	w := infer.DefaultConfig(device)
	w.TileStep = s.StepSize
	if !s.NoMirror {
		w.Mirror = s.model.mirror
	}
	if s.IsReference() {
		w.Numerics = infer.Reference
	}
	return w
}

// setLimit sets what memory the sums and the weights may take on the window's device.
func (s *segmenter) setLimit() {
	given := s.MaxRAM
	free := func() (int64, error) {
		memory, err := system.ReadMemory()
		return memory.Available, err
	}
	if device := s.window.Device; device.Type != torch.DeviceCPU {
		given = s.MaxVRAM
		free = func() (int64, error) {
			free, _, err := device.Memory()
			return free, err
		}
	} else if s.MaxVRAM > 0 {
		s.out.Print("WARNING: --max-vram has no effect on the CPU; --max-ram has")
	}
	s.limit, s.window.MaxBytes, s.reload = int64(given*(1<<30)), 0, false
	if given == 0 {
		n, err := free()
		if err != nil {
			return // without a limit
		}
		s.limit = system.Budget(n)
	}
	weights := s.model.weightBytes() * int64(len(s.model.folds))
	s.reload = len(s.model.folds) > 1 && weights > s.limit
	if s.window.MaxBytes = s.limit; given == 0 && !s.reload {
		s.window.MaxBytes = max(s.limit-weights, 1)
	}
}

// lock keeps other programs out of the folder, or from the file. Runs that share the cases share
// the folder.
func (s *segmenter) lock() (*folderlock.Lock, error) {
	switch {
	case s.single():
		return folderlock.Beside(s.Output)
	case s.NumParts > 1:
		return folderlock.Beside(filepath.Join(s.Output, s.runName()))
	}
	return folderlock.In(s.Output)
}

// runName is the name of run.json, one for each run that shares the cases.
func (s *segmenter) runName() string {
	if s.NumParts > 1 {
		return fmt.Sprintf("run_%d_of_%d.json", s.PartID, s.NumParts)
	}
	return "run.json"
}

// run does the cases: some are read and preprocessed ahead, one is in the network, which stays on
// this goroutine's thread, some are written.
func (s *segmenter) run(ctx context.Context) error {
	s.records = make([]Prediction, len(s.cases))
	ready := make([]chan *preparedCase, len(s.cases))
	for i, c := range s.cases {
		s.records[i] = Prediction{Case: c.id, Output: c.output, Warnings: []string{}}
		ready[i] = make(chan *preparedCase, 1)
	}
	user := ctx // cancelled by the user only
	ctx, cancel := context.WithCancelCause(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel(nil) // first: what prepares cases ahead waits for the network
	ahead := make(chan struct{}, max(s.Preprocessing, 1))
	writing := make(chan struct{}, max(s.Export, 1))
	prepare := func() {
		for i := range s.cases {
			select {
			case ahead <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wait.Go(func() { ready[i] <- s.prepareCase(ctx, i) })
		}
	}
	err := s.onDevice(ctx, func() error {
		for i, f := range s.forecasts { // of the device that the networks are on
			s.records[i].Forecast = f
		}
		s.left = remaining{forecasts: s.forecasts}
		s.announce()
		wait.Go(prepare) // not before: it would disturb the timing
		for i := range s.cases {
			var p *preparedCase
			select {
			case p = <-ready[i]:
			case <-ctx.Done():
				return ctx.Err()
			}
			<-ahead
			if p == nil {
				continue // skipped, or failed
			}
			if err := s.segment(ctx, p); err != nil {
				s.end(ctx, i, err)
				continue
			}
			select {
			case writing <- struct{}{}:
			case <-ctx.Done():
				p.close()
				return ctx.Err()
			}
			wait.Go(func() {
				s.end(ctx, i, s.write(ctx, p))
				<-writing
			})
		}
		return nil
	})
	if err != nil {
		cancel(err)
	}
	wait.Wait()
	return s.outcome(user, err)
}

// interrupted is the end of a run that its context cancelled, in words for a user.
type interrupted struct {
	text  string
	cause error
}

func (e *interrupted) Error() string { return e.text }
func (e *interrupted) Unwrap() error { return e.cause }

// outcome is the error of the whole run.
func (s *segmenter) outcome(ctx context.Context, err error) error {
	finished := 0
	var failed []string
	for _, r := range s.records {
		switch r.Status {
		case PredictionOK, PredictionSkipped:
			finished++
		case PredictionFailed:
			failed = append(failed, r.Case)
		}
	}
	switch {
	case ctx.Err() != nil:
		return &interrupted{fmt.Sprintf("interrupted: %d of %d cases are done; --continue_prediction goes on from there",
			finished, len(s.cases)), ctx.Err()}
	case err != nil:
		return err
	case s.failed != nil:
		return s.failed
	case len(failed) > 0:
		return fmt.Errorf("%d of %d cases failed: %s", len(failed), len(s.cases), strings.Join(failed, ", "))
	}
	return nil
}

// end says what became of a case. One that ctx interrupted is none.
func (s *segmenter) end(ctx context.Context, i int, err error) {
	if err != nil && ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.records[i]
	r.PeakBytes = system.PeakRSS()
	if r.Status == "" {
		r.Status = PredictionOK
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		err = fmt.Errorf("%w: make room there and run again with --continue_prediction", err)
	}
	if err != nil {
		r.Status, r.Error = PredictionFailed, err.Error()
		s.out.Printf("PROBLEM case %s: %v", r.Case, err)
	}
	if s.done != nil && s.failed == nil {
		s.failed = s.done(*r)
	}
}

// writeModel writes what nnU-Net's ensembling and postprocessing want to know of the model and the
// call.
func (s *segmenter) writeModel() error {
	var list any = s.Input[0]
	var to any = s.Output
	if !s.folder {
		inputs, outputs := []any{}, []any{}
		for _, c := range s.cases {
			inputs = append(inputs, c.images)
			outputs = append(outputs, c.stem)
		}
		list, to = inputs, outputs
	}
	var previous any
	if s.Previous != "" {
		previous = s.Previous
	}
	for _, doc := range []struct {
		name  string
		value *plans.Object
		sort  bool
	}{
		{"predict_from_raw_data_args.json", plans.NewObject(
			"list_of_lists_or_source_folder", list,
			"output_folder_or_list_of_truncated_output_files", to,
			"save_probabilities", s.Probabilities,
			"overwrite", !s.Continue,
			"num_processes_preprocessing", s.Preprocessing,
			"num_processes_segmentation_export", s.Export,
			"folder_with_segs_from_prev_stage", previous,
			"num_parts", s.NumParts,
			"part_id", s.PartID), true},
		{"dataset.json", s.model.dataset.Raw(), false},
		{"plans.json", s.model.plans.Raw(), false},
	} {
		b, err := plans.EncodeJSON(doc.value, 4, doc.sort)
		if err == nil {
			err = atomicfile.Write(filepath.Join(s.Output, doc.name), b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// earlierRun is what an earlier run recorded in the folder.
type earlierRun struct {
	Weights map[string]string `json:"weights"`
	Cases   []Prediction      `json:"cases"`
	cases   map[string]Prediction
}

// readRun reads the run.json of an earlier run; nothing where there is none that can be read.
func (s *segmenter) readRun() earlierRun {
	var e earlierRun
	b, err := regular.ReadFile(filepath.Join(s.Output, s.runName()))
	if err != nil || json.Unmarshal(b, &e) != nil {
		return earlierRun{}
	}
	e.cases = map[string]Prediction{}
	for _, c := range e.Cases {
		e.cases[c.Case] = c
	}
	return e
}

// writeRun writes run.json: what was asked for, with which weights, and what became of each case
// that the run came to.
func (s *segmenter) writeRun(started time.Time, sums map[string]string) error {
	libtorch, err := torch.Version()
	if err != nil {
		return err
	}
	before := s.readRun()
	cases := []Prediction{}
	for _, r := range s.records {
		if old, ok := before.cases[r.Case]; ok && r.Status == PredictionSkipped {
			old.Status = PredictionSkipped
			r = old // what is known of its labels
			if !maps.Equal(before.Weights, sums) {
				s.out.Printf("WARNING: case %s was there, of other weights than these: name another folder, or leave --continue_prediction out", r.Case)
			}
		}
		if r.Status != "" {
			cases = append(cases, r)
		}
	}
	record := settings.Record(&s.PredictConfig)
	if _, err := strconv.Atoi(s.Series); err != nil && s.Series != "" {
		record["series"] = "a SeriesInstanceUID" // which would lead back to the patient
	}
	b, err := json.MarshalIndent(map[string]any{
		"command":  "predict",
		"started":  started.Format(time.RFC3339),
		"written":  time.Now().Format(time.RFC3339),
		"versions": map[string]string{"lntorch": s.out.Version, "libtorch": libtorch},
		"settings": record,
		"weights":  sums,
		"reloaded": s.reload,
		"memory":   map[string]int64{"forecast_bytes": s.memory, "limit_bytes": s.limit},
		"pass_ms":  s.cost.Pass.Seconds() * 1000,
		"cases":    cases,
	}, "", "    ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.Output, s.runName()), append(b, '\n'))
}

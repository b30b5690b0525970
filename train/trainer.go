package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/data/loader"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/report/nnlog"
	"github.com/lntorch/lntorch/torch"
)

// Names of nnU-Net's checkpoint files.
const (
	fileFinal  = "checkpoint_final.pth"
	fileLatest = "checkpoint_latest.pth"
	fileBest   = "checkpoint_best.pth"
)

// Result names what training wrote, and its score.
type Result struct {
	Folder     string  // of the fold
	Checkpoint string  // final weights; empty with checkpointing disabled
	Validation string  // summary.json of the final validation
	Dice       float64 // its mean foreground Dice
	// Preprocessed: it was scored on the preprocessed grid, since references are missing.
	Preprocessed bool
}

// trainer is a training under way. All of it belongs to one goroutine, tied to its OS thread.
type trainer struct {
	cfg  Config
	arch models.Architecture
	out  string // result folder of the configuration
	fold string // result folder of the fold

	data  *Data
	seen  map[string]int // orientations; nil until they are counted
	train *loader.Loader
	val   *loader.Loader

	setting   augment.Setting
	list      augment.List // of the training's batches; prediction mirrors over its axes
	fixes     bool
	listNotes []string // on it, for the log
	sums      []string // of the training's first batches

	*Session
	peers *peers     // other ranks; nil alone
	rows  torch.Rows // of each batch, that this rank has; zero: all
	team  []member   // the ranks, of several
	feed  *feed      // of batches on the device; nil without training

	log        nnlog.Log
	file       *nnlog.File
	events     *report.Events
	best       *float64
	epoch      int
	iteration  int       // done in this epoch
	losses     []float64 // of this epoch's iterations
	loading    *checkpoint.Report
	notes      []string // on the checkpoint, for the log
	saved      string   // what --c goes on from, of what this training wrote or resumed from
	savedEpoch int
	decisions  []string // what became of heads and first layers of pretrained weights
	timing     timing
	spent      pace     // of this epoch, since began
	began      int      // the iteration at which this run took the epoch up
	profile    *profile // nil without --profile
	// at the end of the last epoch
	total, waited time.Duration
	stats         loader.Stats
	started       time.Time
	restored      bool             // by a checkpoint of lntorch or nnU-Net
	base          base             // what the fine-tuning began with
	source        *checkpoint.File // of the weights to begin with; open as long as it may be asked
	ownSource     bool             // it is to be closed here
	origin        string           // its path on rank 0
	forget        func()           // removes the copy that came from there
	resuming      bool             // it is a training's, which goes on
	hashes        *hashes
	locks         []*folderlock.Lock
}

// Run trains as cfg says, or only validates. Cancelling ctx ends it after the running iteration, saved, with *Interrupted.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if _, err := cfg.Machine.Resolve(); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	var result *Result
	err := cfg.Machine.Run(func() error {
		t := &trainer{cfg: cfg, peers: newPeers(cfg.Ranks.Group), forget: func() {}, started: time.Now()}
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
	if err := t.agree(); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	if err := t.restore(); err != nil {
		return nil, err
	}
	if !t.cfg.ValidateOnly {
		if err := t.list.CheckPatch(); err != nil {
			return nil, fmt.Errorf("train: %w", err)
		}
		if t.peers.first() {
			if err := t.prepareFolder(); err != nil {
				return nil, err
			}
		}
		if err := t.Join(); err != nil {
			return nil, fmt.Errorf("train: %w", err)
		}
		if err := t.openLoaders(); err != nil {
			return nil, err
		}
		if t.peers.first() {
			t.announce()
		}
		if err := t.runEpochs(ctx); err != nil {
			return nil, t.howToGoOn(err)
		}
		t.closeLoaders() // the final validation takes their memory
		if err := t.finish(); err != nil {
			return nil, t.howToGoOn(err)
		}
		if m, ok := t.cfg.Method.(finetune.Injector); ok {
			if err := m.Merge(); err != nil {
				return nil, fmt.Errorf("train: %w", err)
			}
		}
	}
	if t.cfg.NoValidation {
		if !t.peers.first() {
			return nil, nil
		}
		return &Result{Folder: t.fold, Checkpoint: filepath.Join(t.fold, fileFinal)}, nil
	}
	return t.validate(ctx)
}

// runEpochs trains what is left, and writes the profile however it ends.
func (t *trainer) runEpochs(ctx context.Context) (err error) {
	if (t.epoch > 0 || t.iteration > 0) && t.epoch < t.cfg.Epochs {
		if err := t.rehearse(t.rows); err != nil {
			return t.failed(err)
		}
	}
	if dir := t.cfg.Profile; dir != "" && t.peers.first() {
		if t.profile, err = openProfile(dir, t.cfg.Device); err != nil {
			return fmt.Errorf("train: profile: %w", err)
		}
		t.Hook = t.profile.hook
		defer func() {
			if e := t.profile.close(t.profiled()); e != nil && err == nil {
				err = fmt.Errorf("train: profile: %w", e)
			}
		}()
	}
	for t.epoch < t.cfg.Epochs {
		if err := t.runEpoch(ctx); err != nil {
			return err
		}
	}
	return nil
}

// profiled says what a profile is of.
func (t *trainer) profiled() string {
	c := &t.cfg
	return fmt.Sprintf("lntorch %s: %s %s fold %s, method %s, on %s\n%d threads, %d workers, batches of %d patches of %v, %d an iteration, augmentation %s",
		c.Version, t.data.Plans.DatasetName, c.Configuration, c.Fold, c.MethodName, c.Device, c.Threads, t.train.Stats().Workers,
		c.BatchSize, c.PatchSize, c.Accumulate, t.list.Augmentation)
}

// open reads plans, dataset and folds and builds the network.
func (t *trainer) open() error {
	c := &t.cfg
	var err error
	if t.data, err = OpenData(c.Preprocessed, c.PlansName, c.Configuration, c.Fold); err != nil {
		return err
	}
	if err := t.data.Only(c.Cases, c.Fold); err != nil {
		return err
	}
	if c.BatchSize == 0 {
		c.BatchSize = t.data.Conf.BatchSize
	}
	if c.PatchSize == nil {
		c.PatchSize = t.data.Conf.PatchSize
	}
	if world := t.peers.size(); t.peers != nil && !c.ValidateOnly {
		if c.BatchSize < world {
			return fmt.Errorf("train: batches of %d for %d ranks: each needs a patch at least; give --batch-size %d or more, for all ranks together", c.BatchSize, world, world)
		}
		part := loader.Split(c.BatchSize, t.peers.rank(), world)
		t.rows = torch.Rows{First: int64(part[0]), Count: int64(part[1] - part[0]), All: int64(c.BatchSize)}
	}
	t.out = c.folder(t.data.Plans)
	t.fold = filepath.Join(t.out, "fold_"+c.Fold)
	if err := t.openSource(); err != nil {
		return err
	}
	if t.arch, err = t.architecture(); err != nil {
		return err
	}
	channels := t.data.Dataset.NumInputChannels(t.data.Conf)
	classes := t.data.Dataset.Labels.NumSegmentationHeads()

	t.Session, err = NewSession(SessionConfig{
		Spec:   models.Spec{Architecture: t.arch, InputChannels: channels, NumClasses: classes},
		Labels: t.data.Dataset.Labels, BatchDice: t.data.Conf.BatchDice, Patch: c.PatchSize,
		MethodName: c.MethodName, Method: c.Method, Refine: c.Refine, Optimizer: c.Optimizer, Machine: c.Machine,
		Seed: c.Seed, Recompute: c.Recompute, NoAdapters: c.ValidateOnly,
		Steps: int64(c.Epochs) * int64(c.Iterations), Compress: c.Compress, peers: t.peers,
	})
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := torch.Deterministic(c.Deterministic); err != nil {
		return err
	}
	if err := torch.BenchmarkCuDNN(!c.Deterministic); err != nil {
		return err
	}
	if c.ValidateOnly {
		return nil
	}
	return t.openList()
}

// openSource opens the checkpoint that the weights come from, if there is one: once, for everything that
// wants to know about it. Rank 0 finds it, and the others get it from there.
func (t *trainer) openSource() error {
	c := &t.cfg
	var own origin
	if t.peers.first() {
		var err error
		if own, err = t.findSource(); err != nil {
			return err
		}
		own.Out, own.Fold = t.out, t.fold
	}
	all, err := gather(t.peers, own)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	from := all[0]
	t.origin, t.out, t.fold = from.Path, from.Out, from.Fold
	t.resuming = from.Resumes
	if from.Path == "" {
		return nil
	}
	path, forget, err := t.peers.spread(from.Path)
	t.forget = forget
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if c.Source != nil && c.Source.Path == path {
		t.source = c.Source
		return nil
	}
	if t.source, err = checkpoint.Open(path); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	t.ownSource = true
	return nil
}

// origin is where a training's weights come from.
type origin struct {
	Path    string // of a checkpoint; empty: they are random
	Resumes bool   // the training in it goes on

	Out, Fold string // folders of the results
}

func (t *trainer) findSource() (origin, error) {
	c := &t.cfg
	switch {
	case c.ValidateOnly && c.Checkpoint != "":
		return origin{Path: c.Checkpoint}, nil
	case c.ValidateOnly:
		path := filepath.Join(t.fold, fileFinal)
		if c.ValidateBest {
			path = filepath.Join(t.fold, fileBest)
		}
		return origin{Path: path}, t.validatable(path)
	}
	goesOn := c.Continue
	if !goesOn {
		var err error
		if goesOn, err = t.restarted(); err != nil {
			return origin{}, err
		}
	}
	if goesOn {
		path, err := t.newest()
		if path != "" || err != nil {
			return origin{Path: path, Resumes: true}, err
		}
		if c.Continue {
			fmt.Fprintf(c.Echo, "WARNING: --c, but %s holds no checkpoint: a new training begins\n", t.fold)
		}
	}
	return origin{Path: c.Pretrained}, nil
}

// validatable says what to do where a training has not written the checkpoint to validate.
func (t *trainer) validatable(path string) error {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // opening it says more
	}
	newest, err := t.newest()
	if err != nil {
		return err
	}
	next := "it was not trained yet: train it without --val first"
	if newest != "" {
		next = fmt.Sprintf("the training stopped at %s: --c without --val finishes it, and `lntorch validate "+
			"--checkpoint` scores any checkpoint", filepath.Base(newest))
	}
	return fmt.Errorf("train: %s is missing, which is to be validated; %s", path, next)
}

// closeSource closes what openSource opened.
func (t *trainer) closeSource() {
	if t.ownSource {
		t.source.Close()
	}
	t.source, t.ownSource = nil, false
	t.forget()
}

// architecture is the plans' network, or the one that the trainer builds whatever they say; a checkpoint of that
// network to validate, resume or start from gives its size.
func (t *trainer) architecture() (models.Architecture, error) {
	c := &t.cfg
	if f := t.source; f != nil {
		if s := models.Recognise(checkpoint.Shapes(f.Weights)); s != nil && !models.Planned(s.Architecture.Class()) {
			own, ok := models.ByTrainer(c.Trainer)
			if c.Trainer == "" || own.Name() == s.Architecture.Class() {
				return s.Architecture, nil
			}
			if !ok {
				return nil, fmt.Errorf("train: %s holds a %s, which plans do not describe and trainer %s does not build: name its trainer with -tr (%s)",
					f.Path, s.Architecture.Class(), c.Trainer, strings.Join(models.Trainers(), ", "))
			}
		}
	}
	a, err := models.ForTrainer(c.Trainer, t.data.Conf)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	return a, nil
}

// openLoaders starts the workers at the batches where the training stands.
func (t *trainer) openLoaders() error {
	c := &t.cfg
	var err error
	if t.feed, err = newFeed(&c.Machine, c.AugmentOn); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	t.feed.rows = t.rows
	part := [2]int{int(t.rows.First), int(t.rows.First + t.rows.Count)}
	batches := t.data.Batches(&c.BatchSettings, t.list, (t.epoch*c.Iterations+t.iteration)*c.Accumulate)
	batches.Rows = part
	batches.Crops, batches.Memory = c.AugmentOn == AugmentOnDevice, t.feed.memory()
	if t.train, err = loader.New(batches); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if len(t.data.Split.Val) == 0 {
		return fmt.Errorf("train: fold %s has no validation case; add one to splits_final.json or use fold all", c.Fold)
	}
	val, err := t.data.validation(&c.BatchSettings, t.setting, t.epoch*c.ValIterations)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	val.Memory, val.Rows = t.feed.memory(), part
	if t.val, err = loader.New(val); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// restore gives the network its weights: a checkpoint's to resume, pretrained ones, or random ones.
func (t *trainer) restore() error {
	c := &t.cfg
	switch {
	case c.ValidateOnly:
		defer t.closeSource()
		if t.list.MirrorAxes = augment.MirrorAxesOf(c.Trainer, len(c.PatchSize)); t.source.MirrorAxesKnown {
			t.list.MirrorAxes = t.source.MirrorAxes
		}
		return t.loadWeights(t.source, checkpoint.LoadOptions{})
	case t.resuming:
		defer t.closeSource()
		return t.resume(t.source)
	}
	gen, err := torch.NewGenerator(torch.CPU, c.Seed)
	if err != nil {
		return err
	}
	defer gen.Close()
	if t.source == nil {
		return t.Net.Module().Reset(gen, nil)
	}
	return t.loadPretrained(gen)
}

// newest is the checkpoint that --c resumes from: the later one of final and latest, else best, else "".
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
	if t.loading, err = checkpoint.LoadWeights(t.Net.Module(), f.Weights, o); err != nil {
		return fmt.Errorf("train: %s: %w", f.Path, err)
	}
	t.notes = nil
	for _, note := range f.Notes() {
		t.notes = append(t.notes, f.Path+": "+note)
	}
	t.notes = append(t.notes, t.dataWarnings(f)...)
	return nil
}

// prepareFolder makes the result folder and writes what nnU-Net writes at the start.
func (t *trainer) prepareFolder() error {
	if err := os.MkdirAll(t.fold, 0o755); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if err := t.acquire(t.fold); err != nil {
		return err
	}
	for _, folder := range []string{t.out, t.fold} {
		if err := atomicfile.Sweep(folder); err != nil { // of a training that was killed
			return fmt.Errorf("train: %w", err)
		}
	}
	if err := t.keepEarlier(); err != nil {
		return err
	}
	for name, doc := range map[string]*plans.Object{"plans.json": t.data.Plans.Raw(), "dataset.json": t.data.Dataset.Raw()} {
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

// keepEarlier gives the checkpoint of an earlier training in the folder a second name, that this one does
// not write to: the final one, or if there is none the latest.
// Differs: a training that nnU-Net begins anew replaces them without a word.
func (t *trainer) keepEarlier() error {
	if t.cfg.Continue || t.resuming || t.cfg.DisableCheckpointing {
		return nil
	}
	names := []string{fileFinal, fileLatest}
	if t.cfg.Ranks.RunID != "" { // a restart takes what it finds under these names for this training's
		names = append(names, fileBest)
	}
	for _, name := range names {
		path := filepath.Join(t.fold, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("train: %w", err)
		}
		base := strings.TrimSuffix(name, ".pth") + info.ModTime().Format("_2006_01_02_15_04_05")
		kept := base + ".pth"
		for n := 2; ; n++ {
			err = os.Link(path, filepath.Join(t.fold, kept))
			if !errors.Is(err, fs.ErrExist) {
				break
			}
			if other, e := os.Stat(filepath.Join(t.fold, kept)); e == nil && os.SameFile(info, other) {
				err = nil // since a start that did not get far
				break
			}
			kept = fmt.Sprintf("%s_%d.pth", base, n)
		}
		if err != nil { // a file system without links
			if err = os.Rename(path, filepath.Join(t.fold, kept)); err != nil {
				return fmt.Errorf("train: %w", err)
			}
		}
		t.notes = append(t.notes, fmt.Sprintf("WARNING: %s holds a training already, and a new one begins: "+
			"%s stays there as %s. --c continues a training instead", t.fold, name, kept))
		if t.cfg.Ranks.RunID == "" {
			return nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("train: %w", err)
		}
	}
	return nil
}

// acquire keeps other programs from writing into a folder as long as this training does.
func (t *trainer) acquire(folder string) error {
	lock, err := folderlock.In(folder)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if lock.Warning != "" {
		fmt.Fprintln(t.cfg.Echo, "WARNING:", lock.Warning)
	}
	t.locks = append(t.locks, lock)
	return nil
}

// announce logs what was loaded, what trains, and what it needs.
func (t *trainer) announce() {
	c := &t.cfg
	if t.loading != nil {
		source := c.Pretrained
		if t.restored {
			source = "the checkpoint"
		}
		t.file.Print("weights from", source+":", t.loading.Table(20))
	}
	for _, line := range slices.Concat(t.notes, t.listNotes) {
		t.file.Print(line)
	}
	for _, line := range slices.Concat(t.decisions, []string{t.summary()}, t.untrained()) {
		t.file.Print(line)
	}
	if m, ok := c.Method.(finetune.Noter); ok {
		for _, line := range m.Notes() {
			t.file.Print(line)
		}
	}
	batch := fmt.Sprint(c.BatchSize)
	if c.Accumulate > 1 {
		batch = fmt.Sprintf("%d × %d (--accumulate)", c.Accumulate, c.BatchSize)
	}
	t.file.Print(fmt.Sprintf("%d training and %d validation cases, batch %s, patch %v, %d epochs of %d + %d iterations, device %s, %d threads, seed %d",
		len(t.data.Split.Train), len(t.data.Split.Val), batch, c.PatchSize, c.Epochs, c.Iterations, c.ValIterations, c.Device, c.Threads, c.Seed))
	t.file.Print(t.augmentation())
	for _, line := range t.forecast() {
		t.file.Print(line)
	}
	if t.data.Split.Warning != "" {
		t.file.Print(t.data.Split.Warning)
	}
	if over := t.data.Split.Overlap(); len(over) > 0 && c.Fold != "all" {
		t.file.Print("WARNING: cases in training and validation both:", strings.Join(over, ", "))
	}
	if t.peers != nil {
		t.file.Print(t.together())
	}
	t.file.Print("results in", t.fold)
	t.hashes = startHashes(filepath.Join(t.out, filehash.Name), t.hashFiles())
}

// closeLoaders ends the workers and what carries their batches to the device.
func (t *trainer) closeLoaders() {
	t.feed.halt()
	for _, l := range []*loader.Loader{t.train, t.val} {
		if l != nil {
			l.Close()
		}
	}
	t.feed.close()
}

func (t *trainer) close() {
	t.closeLoaders()
	if t.events != nil {
		t.events.Close()
	}
	t.Session.Close()
	t.closeSource()
	t.hashes.close()
	for _, l := range t.locks {
		l.Release()
	}
}

// thousands prints n with separators: 31,195,594.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/delta"
	"github.com/lntorch/lntorch/formats/peft"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
)

// ModelChoice names a trained model, and the folds of it whose logits are averaged.
type ModelChoice struct {
	Dataset string `flag:"dataset" short:"d" help:"dataset of the model: number or name"`
	ResultsFolder
	Trainer       string   `flag:"trainer" nnunet:"tr" default:"nnUNetTrainer" help:"trainer class of the model"`
	PlansName     string   `flag:"plans" nnunet:"p" default:"nnUNetPlans" help:"plans of the model"`
	Configuration string   `flag:"configuration" short:"c" help:"configuration of the model"`
	Model         string   `flag:"model" short:"m" path:"true" help:"instead of -d, -tr, -p, -c: model folder, fold's folder, one checkpoint; with --base an adapter's folder, a sparse delta, or a model folder that has one of these"`
	Base          string   `flag:"base" path:"true" help:"checkpoint that an adapter or delta was trained from"`
	Folds         []string `flag:"folds" short:"f" list:"true" help:"folds, numbers or all (default: every fold that holds the checkpoint; all when it is alone)"`
	Checkpoint    string   `flag:"checkpoint" nnunet:"chk" default:"checkpoint_final.pth" help:"name of the checkpoint in a fold's folder"`
}

// trainedModel is a model with the checkpoints of its folds, open.
type trainedModel struct {
	plans         *plans.Plans
	dataset       *plans.Dataset
	configuration *plans.Configuration
	mirror        []int // axes that inference mirrors
	folds         []trainedFold
	merger        *merger        // holds the files of an adapter or delta open; nil for a checkpoint
	spacings      [][]float64    // of the training cases, as read; nil where they are not known
	orientations  map[string]int // of the training images; nil where they are not known
}

type trainedFold struct {
	name string
	path string
	file *checkpoint.File
}

// close closes the checkpoints.
func (m *trainedModel) close() {
	for _, f := range m.folds {
		if f.file != nil {
			f.file.Close()
		}
	}
	if m.merger != nil {
		m.merger.close()
	}
}

// open finds the model and opens its checkpoints. Plans and dataset.json of a model folder are the
// folder's; those of a checkpoint are its own, else the ones beside it or in the folder above.
// Trainer, configuration and mirror axes are those of the first fold's checkpoint.
// Source: nnU-Net 2.5.1, predict_from_raw_data.py, initialize_from_trained_model_folder.
func (c *ModelChoice) open() (*trainedModel, error) {
	path, err := c.path()
	if err != nil {
		return nil, err
	}
	if err := exists("-m", path, "a model folder, a fold's folder or a checkpoint"); err != nil {
		return nil, err
	}
	if c.Base != "" {
		if err := exists("--base", c.Base, "the checkpoint that the fine-tuning began with"); err != nil {
			return nil, err
		}
	}
	m := &trainedModel{}
	folder, err := c.find(m, path)
	if err != nil {
		return nil, err
	}
	for i := range m.folds {
		f := &m.folds[i]
		if f.file, err = c.weights(m, f.path); err != nil {
			m.close()
			return nil, err
		}
		if f.name == "" {
			if f.name = f.file.Fold; f.name == "" {
				f.name = filepath.Base(f.path)
			}
		}
	}
	if err := c.describe(m, folder); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// weights opens a checkpoint, or what an adapter or delta makes of its base.
func (c *ModelChoice) weights(m *trainedModel, path string) (*checkpoint.File, error) {
	if c.Base == "" && !isChange(path) {
		return checkpoint.Open(path)
	}
	m.merger = &merger{base: c.Base}
	edit, err := m.merger.open(path)
	if err != nil {
		return nil, err
	}
	return edit.File()
}

// isChange tells the folder of a PEFT adapter and a sparse delta from a checkpoint.
func isChange(path string) bool {
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return err == nil
	}
	if !strings.HasSuffix(path, checkpoint.Extension) {
		return false
	}
	d, err := delta.Open(path)
	if err == nil {
		d.Close()
	}
	return !errors.Is(err, delta.ErrNoDelta)
}

// path is the folder or file of the model.
func (c *ModelChoice) path() (string, error) {
	switch {
	case c.Model != "" && c.Dataset != "":
		return "", settings.Usage("-m and -d are both given: -m names the model alone")
	case c.Model != "":
		return filepath.Clean(c.Model), nil
	case c.Dataset == "":
		return "", settings.Usage("neither -m nor -d is given: name a model folder or checkpoint, or a dataset and its configuration (-c)")
	case c.Configuration == "":
		return "", settings.Usage("-c is not given: the configuration of the model")
	}
	if err := given("results", c.Results); err != nil {
		return "", err
	}
	name, err := raw.FindName(c.Dataset, c.Results)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(c.Results, name, c.Trainer+"__"+c.PlansName+"__"+c.Configuration)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		there, _ := filepath.Glob(filepath.Join(c.Results, name, "*__*__*"))
		for i := range there {
			there[i] = filepath.Base(there[i])
		}
		return "", fmt.Errorf("%s: there is no such model; %s has %s", folder, filepath.Dir(folder), orNone(there))
	}
	return folder, nil
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// find fills in names and paths of the folds. folder is the model folder, empty where the model is
// one checkpoint.
func (c *ModelChoice) find(m *trainedModel, path string) (folder string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	single := func(file string) (string, error) {
		if len(c.Folds) > 0 {
			return "", settings.Usage("-f: %s is one checkpoint; folds are chosen in a model folder", path)
		}
		m.folds = []trainedFold{{path: file}}
		return "", nil
	}
	if !info.IsDir() {
		return single(path)
	}
	if _, err := os.Stat(filepath.Join(path, peft.ConfigFile)); err == nil {
		return single(path)
	}
	if c.Base != "" {
		switch found := changes(path); len(found) {
		case 0:
			return "", settings.Usage("--base is for an adapter's folder or a delta; %s is a model folder without them", path)
		case 1:
			return single(filepath.Join(path, found[0]))
		default:
			return "", settings.Usage("--base is for one adapter or delta; %s has %s: name one with -m", path, strings.Join(found, ", "))
		}
	}
	own := filepath.Join(path, c.Checkpoint)
	if _, err := os.Stat(own); err == nil {
		return single(own)
	}
	held, err := filepath.Glob(filepath.Join(path, "fold_*", c.Checkpoint))
	if err != nil {
		return "", err
	}
	var names []string
	for _, h := range held {
		names = append(names, strings.TrimPrefix(filepath.Base(filepath.Dir(h)), "fold_"))
	}
	if len(names) == 0 {
		other, _ := filepath.Glob(filepath.Join(path, "fold_*", "*"+filepath.Ext(c.Checkpoint)))
		for i := range other {
			other[i], _ = filepath.Rel(path, other[i])
		}
		if found := changes(path); len(other) == 0 && len(found) > 0 {
			return "", settings.Usage("%s holds no weights but what has changed of them (%s): give --base, the checkpoint that "+
				"the fine-tuning began with", path, strings.Join(found, ", "))
		}
		return "", fmt.Errorf("%s: expected %s, or fold_*/%[2]s; found %s; name another with -chk, or its file with -m",
			path, c.Checkpoint, orNone(other))
	}
	chosen := c.Folds
	if len(chosen) == 0 {
		chosen = names
		if len(names) > 1 { // Compat: fold_all is of all cases, and no fold of a cross-validation
			chosen = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "all" })
		}
	}
	for i, n := range chosen {
		if !slices.Contains(names, n) {
			return "", fmt.Errorf("%s: no fold_%s/%s; the folds with it are %s", path, n, c.Checkpoint, strings.Join(names, ", "))
		}
		if slices.Contains(chosen[:i], n) {
			return "", settings.Usage("-f names fold %s twice", n)
		}
		m.folds = append(m.folds, trainedFold{name: n, path: filepath.Join(path, "fold_"+n, c.Checkpoint)})
	}
	return path, nil
}

// changes are the adapters' folders and the deltas in the folds of a model folder, or in a fold's folder.
func changes(path string) (list []string) {
	folder := os.DirFS(path)
	for _, name := range []string{"adapter/" + peft.ConfigFile, deltaFile} {
		for _, fold := range []string{"", "fold_*/"} {
			found, _ := fs.Glob(folder, fold+name) // the pattern is right
			for _, f := range found {
				list = append(list, strings.TrimSuffix(f, "/"+peft.ConfigFile))
			}
		}
	}
	return list
}

// describe fills in what is to know of the model beside its weights.
func (c *ModelChoice) describe(m *trainedModel, folder string) error {
	first := m.folds[0].file
	dirs := []string{folder}
	if folder == "" {
		m.plans, m.dataset = first.Plans, first.Dataset
		above := filepath.Dir(m.folds[0].path)
		dirs = []string{above, filepath.Dir(above)}
	}
	name := first.Configuration
	for _, dir := range dirs {
		if err := m.read(dir); err != nil {
			return err
		}
		absolute, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		if parts := strings.Split(filepath.Base(absolute), "__"); len(parts) == 3 && name == "" {
			name = parts[2]
		}
	}
	if m.plans == nil {
		m.plans = first.Plans
	}
	if m.dataset == nil {
		m.dataset = first.Dataset
	}
	if name == "" {
		name = c.Configuration
	}
	where := m.folds[0].path
	if m.plans == nil || m.dataset == nil || name == "" {
		if err := first.Understood(checkpoint.KeyPlans, checkpoint.KeyDataset, checkpoint.KeyConfiguration); err != nil {
			return err
		}
	}
	switch {
	case m.plans == nil:
		return fmt.Errorf("%s: the checkpoint holds no plans, and there is no plans.json beside it or in the folder above: copy the model's there", where)
	case m.dataset == nil:
		return fmt.Errorf("%s: the checkpoint holds no dataset.json, and there is none beside it or in the folder above: copy the model's there", where)
	case name == "":
		return settings.Usage("%s does not say which configuration it was trained with: give -c; the plans have %s",
			where, strings.Join(m.plans.ConfigurationNames(), ", "))
	}
	var err error
	if m.configuration, err = m.plans.Configuration(name); err != nil {
		return err
	}
	m.mirror = first.MirrorAxes
	m.orientations = trainedOrientations(where)
	return first.Understood(checkpoint.KeyMirrorAxes)
}

// read takes what is still missing from a folder's plans.json, dataset.json and
// dataset_fingerprint.json.
func (m *trainedModel) read(dir string) error {
	absent := func(err error) bool { return errors.Is(err, fs.ErrNotExist) }
	if m.plans == nil {
		p, err := plans.Load(filepath.Join(dir, "plans.json"))
		if err != nil && !absent(err) {
			return err
		}
		m.plans = p
	}
	if m.dataset == nil {
		d, err := plans.LoadDataset(filepath.Join(dir, "dataset.json"))
		if err != nil && !absent(err) {
			return err
		}
		m.dataset = d
	}
	if f, err := fingerprint.Load(filepath.Join(dir, "dataset_fingerprint.json")); err == nil && m.spacings == nil {
		m.spacings = f.Spacings // for a warning alone, so that no other model needs it
	}
	return nil
}

// fold gives the network of a fold, as infer.NewEnsemble takes it.
type fold = func(i int) (models.Network, error)

// networks builds the networks of all folds in s; with reload one, into which the weights of a fold
// are loaded when it is asked for. That every checkpoint fits is known afterwards.
func (m *trainedModel) networks(s *torch.Scope, where *machine.Machine, device torch.Device,
	reload bool) (fold, error) {
	first := m.folds[0].file
	if n := recogniseNetwork(first.Weights); n.Adapters > 0 {
		return nil, fmt.Errorf("%s: %d of its tensors belong to adapters: put them into the weights with `lntorch merge` first",
			m.folds[0].path, n.Adapters)
	}
	arch, err := models.ForWeights(checkpoint.Shapes(first.Weights), m.configuration)
	if err != nil {
		return nil, err
	}
	spec := models.Spec{Architecture: arch, InputChannels: m.channels(), NumClasses: m.heads()}
	build := func() (models.Network, error) {
		net, err := models.Build(nn.Builder{Scope: s, Device: device}, spec)
		if err == nil {
			net.SetFast(!where.IsReference())
			err = s.Err()
		}
		return net, err
	}
	load := func(net models.Network, i int) error {
		f := m.folds[i]
		if _, err := checkpoint.LoadWeights(net.Module(), f.file.Weights, checkpoint.LoadOptions{}); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		return nil
	}
	var list []models.Network
	for range m.folds {
		net, err := build()
		if err != nil {
			return nil, err
		}
		list = append(list, net)
		if reload {
			break
		}
	}
	for i := len(m.folds) - 1; i >= 0; i-- { // the first one last: it is asked for first
		if err := load(list[min(i, len(list)-1)], i); err != nil {
			return nil, err
		}
	}
	loaded := 0
	return func(i int) (models.Network, error) {
		if !reload {
			return list[i], nil
		}
		if loaded == i {
			return list[0], nil
		}
		loaded = -1
		if err := load(list[0], i); err != nil {
			return nil, err
		}
		loaded = i
		return list[0], nil
	}, nil
}

// weightBytes is the memory of one fold's weights.
func (m *trainedModel) weightBytes() int64 {
	return recogniseNetwork(m.folds[0].file.Weights).Parameters * 4
}

// channels and heads are those of the network: of its input, a cascade's labels included, and of
// its logits.
func (m *trainedModel) channels() int { return m.dataset.NumInputChannels(m.configuration) }
func (m *trainedModel) heads() int    { return m.dataset.Labels.NumSegmentationHeads() }

// predictor averages the folds' logits.
func (m *trainedModel) predictor(network fold, cfg infer.Config) (*infer.Predictor, error) {
	return infer.NewEnsemble(len(m.folds), network, m.configuration.PatchSize, m.heads(), cfg)
}

// sums works out the sha256 of the checkpoints by fold, beside other work: the result is asked for
// in the end.
func (m *trainedModel) sums() func() (map[string]string, error) {
	files := map[string]string{}
	for _, f := range m.folds {
		files[f.name] = f.path
		if info, err := os.Stat(f.path); err == nil && info.IsDir() {
			files[f.name] = filepath.Join(f.path, peft.TensorsFile)
		}
	}
	if m.merger != nil && m.merger.base != "" {
		files["base"] = m.merger.base
	}
	sums := map[string]string{}
	var failed []error
	var wait sync.WaitGroup
	wait.Go(func() {
		var cache *filehash.Cache // remembers nothing: each file is read once
		for name, path := range files {
			sum, err := cache.SHA256(path)
			if err != nil {
				failed = append(failed, err)
			}
			sums[name] = sum.String()
		}
	})
	return func() (map[string]string, error) {
		wait.Wait()
		return sums, errors.Join(failed...)
	}
}

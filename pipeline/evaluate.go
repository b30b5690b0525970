package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/eval"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/eval/scores"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/report/page"
	"github.com/lntorch/lntorch/volume"
)

// EvaluateConfig scores label volumes against references.
type EvaluateConfig struct {
	Reference  string // folder or file
	Prediction string // folder or file
	Labels     []int  `flag:"labels" short:"l" list:"true" range:"0.." help:"labels to score, without dataset.json and plans.json; several may follow"`
	Ignore     int    `flag:"ignore-label" nnunet:"il" range:"1..65535" help:"with -l: label of the reference whose voxels do not count (default: none)"`
	Plans      string `flag:"plans" nnunet:"pfile" path:"true" help:"plans.json (default: beside the predictions)"`
	Dataset    string `flag:"dataset" nnunet:"djfile" path:"true" help:"dataset.json (default: beside the predictions, then beside the references)"`
	Summary    string `flag:"output" short:"o" path:"true" help:"summary.json to write; the other files go beside it (default: summary.json in the folder of predictions; for two files none)"`
	Chill      bool   `flag:"chill" help:"score the predictions that are there, even if references have none"`

	Tolerances    []float64 `flag:"tolerances" list:"true" default:"1,2,3" range:"0.." help:"tolerances of NSD in mm; several may follow"`
	Match         []string  `flag:"match" default:"iou:0.3,iou:0.5,any" help:"when a node counts as found: iou:T one to one, any by a shared voxel; the first is in the table"`
	SizeClasses   []float64 `flag:"size-classes" default:"5,10" range:">0.." help:"bounds of the classes of short axes, mm"`
	Connectivity  int       `flag:"connectivity" default:"26" range:"6..26" help:"neighbours of a voxel that belong to its node: 6, 18 or 26"`
	EmptyDistance string    `flag:"empty-distance" help:"diagonal: a distance to an empty mask is the image's diagonal (default: undefined)"`
	AnyGeometry   bool      `flag:"ignore-geometry" help:"compare arrays of one shape, wherever they lie"`
	Workers       int       `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most; fewer where they have not 512 MiB each)"`
	MaxRAM        float64   `flag:"max-ram" range:">0.." help:"GiB for the cases at work (default: three quarters of what is free)"`
	EvaluateObjects

	Command bool // it is the command: messages name its flags
}

// Evaluated is what Evaluate found and wrote.
type Evaluated struct {
	*scores.Scores
	Files []string // written
}

// Evaluate scores predictions against references: voxels as nnU-Net does, surfaces, and nodes. It
// writes summary.json, and beside it scores.json, scores.csv, nodes.csv and scores.html. A case that
// fails does not stop the others; the error, which then comes with the result, names all of them, and
// summary.json is written only with Chill.
//
// Differs: nnU-Net compares arrays, wherever their files say they lie; here grids must agree.
// Source: nnunetv2/evaluation/evaluate_predictions.py.
func Evaluate(ctx context.Context, c EvaluateConfig, o Output) (*Evaluated, error) {
	if err := settings.Check(&c); err != nil {
		return nil, err
	}
	s, err := c.settings()
	if err != nil {
		return nil, &settings.UsageError{Err: err}
	}
	e := &evaluation{config: c, settings: s, out: o}
	if err := e.open(); err != nil {
		return nil, err
	}
	if err := e.checkOutput(); err != nil {
		return nil, err
	}
	if err := e.writable(); err != nil {
		return nil, err
	}
	return e.run(ctx)
}

// settings turns the flags into the settings of scores.
func (c *EvaluateConfig) settings() (scores.Settings, error) {
	s := scores.Settings{Tolerances: c.Tolerances, SizeClasses: c.SizeClasses,
		Connectivity:  components.Connectivity(c.Connectivity),
		EmptyDistance: c.EmptyDistance}
	for _, text := range c.Match {
		rule, err := scores.ParseRule(text)
		if err != nil {
			return s, fmt.Errorf("--match: %w", err)
		}
		s.Match = append(s.Match, rule)
	}
	return s, s.Check()
}

// evaluation is what is scored, and how it is read.
type evaluation struct {
	config   EvaluateConfig
	settings scores.Settings
	out      Output

	reader  images.Reader // of files with the ending; nil where predictions are DICOM
	ending  string
	objects objects
	targets []eval.Target
	names   map[string]string // of the targets
	ignore  *int
	known   []int        // labels of dataset.json; nil without
	dataset *raw.Dataset // cases: one prediction and its reference

	lock   sync.Mutex
	others [2]unknown // of references, predictions
}

// unknown is the labels of files that dataset.json does not have.
type unknown struct {
	labels []int
	files  []string
}

// open finds the labels and the cases.
func (e *evaluation) open() error {
	c := &e.config
	file := func(path string) (bool, error) {
		info, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		return !info.IsDir(), nil
	}
	one, err := file(c.Reference)
	if err != nil {
		return err
	}
	other, err := file(c.Prediction)
	if err != nil {
		return err
	}
	folder := c.Reference
	if one {
		folder = c.Prediction
	}
	if one != other && !isDICOM(folder) {
		return fmt.Errorf("%s and %s: found a file and a folder, expected two files or two folders; a "+
			"folder of DICOM stands for one case, too", c.Reference, c.Prediction)
	}
	one = one || other
	if e.ending, err = e.labels(one); err != nil {
		return err
	}
	e.objects = objects{EvaluateObjects: c.EvaluateObjects, out: e.out}
	if e.names, err = e.objects.open(e.names, c.Labels); err != nil {
		return err
	}
	if e.targets == nil { // neither -l nor dataset.json
		for _, v := range e.objects.values {
			e.targets = append(e.targets, eval.Label(v))
		}
	}
	if one {
		name := strings.TrimSuffix(filepath.Base(c.Prediction), e.ending)
		if e.ending == "" {
			if name, err = seriesName(c.Prediction); err != nil {
				return err
			}
		}
		e.dataset = &raw.Dataset{Cases: []raw.Case{{ID: name, Images: []string{c.Prediction},
			Label: c.Reference}}}
		return nil
	}
	if c.Summary == "" {
		c.Summary = joined(c.Prediction, "summary.json")
	}
	return e.pair()
}

// labels finds what is scored, the reader, and the ending of the files.
func (e *evaluation) labels(files bool) (ending string, err error) {
	c := &e.config
	if ending = image.Ending(c.Prediction); !files {
		ending, err = labelEnding(c.Prediction)
	}
	if err != nil {
		return "", err
	}
	if len(c.Labels) > 0 {
		if c.Dataset != "" || c.Plans != "" {
			return "", settings.Usage("-l and -djfile or -pfile: the labels come from one of them")
		}
		for i, l := range c.Labels {
			if slices.Contains(c.Labels[:i], l) {
				return "", settings.Usage("-l: label %d is listed twice", l)
			}
			e.targets = append(e.targets, eval.Label(l))
		}
		if c.Ignore > 0 {
			e.ignore = &c.Ignore
		}
		return ending, nil
	}
	if c.Ignore > 0 {
		return "", settings.Usage("-il belongs to -l: dataset.json has an ignore label of its own")
	}
	path, err := c.find(files)
	if err != nil && len(c.ROIs) > 0 {
		return ending, nil
	}
	if err != nil {
		return "", err
	}
	d, err := plans.LoadDataset(path)
	if err != nil {
		return "", err
	}
	c.Dataset = path
	e.targets, e.ignore = labelmap.Targets(d.Labels), d.Labels.IgnoreLabel
	e.names = targetNames(d)
	e.known = d.Labels.AllLabels
	if e.ignore != nil {
		e.known = append(slices.Clone(e.known), *e.ignore)
	}
	if !files && d.FileEnding != "" {
		ending = d.FileEnding
	}
	if c.Plans == "" {
		if p := filepath.Join(filepath.Dir(path), "plans.json"); isFile(p) {
			c.Plans = p
		}
	}
	if c.Plans == "" {
		return ending, nil
	}
	p, err := plans.Load(c.Plans)
	if err != nil {
		return "", err
	}
	if e.reader, err = images.ForName(p.ImageReaderWriter); err != nil {
		return "", fmt.Errorf("%s: %w", c.Plans, err)
	}
	return ending, nil
}

// find returns the path of dataset.json.
func (c *EvaluateConfig) find(files bool) (string, error) {
	if c.Dataset != "" {
		return c.Dataset, nil
	}
	var tried []string
	for _, folder := range []string{c.Prediction, c.Reference} {
		if files {
			folder = filepath.Dir(folder)
		}
		for _, f := range []string{folder, filepath.Dir(filepath.Clean(folder))} {
			path := filepath.Join(f, "dataset.json")
			if isFile(path) {
				return path, nil
			}
			tried = append(tried, path)
		}
	}
	return "", fmt.Errorf("found no dataset.json, which names the labels (looked for %s): name it "+
		"with -djfile, or the labels with -l 1 2", strings.Join(tried, ", "))
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// targetNames are the names of what is scored in dataset.json.
func targetNames(d *plans.Dataset) map[string]string {
	names := map[string]string{}
	for _, l := range d.Labels.Entries {
		if len(l.Values) == 1 && !l.Region {
			names[eval.Label(l.Values[0]).Key()] = l.Name
			continue
		}
		names[eval.Region(l.Values...).Key()] = l.Name
	}
	return names
}

// labelEnding is the ending of the first label volume of a folder; "" where it holds DICOM.
func labelEnding(folder string) (string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if ending := image.Ending(e.Name()); ending != "" && !e.IsDir() {
			return ending, nil
		}
	}
	if isDICOM(folder) {
		return "", nil
	}
	return "", fmt.Errorf("%s holds no label volumes, expected files that end in %s, or DICOM", folder,
		strings.Join(image.Endings(), ", "))
}

// The files beside summary.json.
const (
	scoresJSON = "scores.json"
	scoresCSV  = "scores.csv"
	nodesCSV   = "nodes.csv"
	scoresHTML = "scores.html"
)

// checkOutput refuses an -o whose files would take each other's place, or that of a file that is read.
func (e *evaluation) checkOutput() error {
	c := &e.config
	if c.Summary == "" {
		return nil
	}
	folder, name := filepath.Dir(c.Summary), filepath.Base(c.Summary)
	switch {
	case filepath.Ext(name) != ".json":
		return settings.Usage("-o %s: expected a file that ends in .json", c.Summary)
	case name == scoresJSON:
		return settings.Usage("-o %s: a %s of its own comes beside summary.json: give this one another name",
			c.Summary, name)
	}
	read := []string{c.Reference, c.Prediction, c.Dataset, c.Plans, c.Image}
	for _, one := range e.dataset.Cases {
		read = append(read, one.Label, one.Images[0])
	}
	for _, name := range []string{name, scoresJSON, scoresCSV, nodesCSV, scoresHTML} {
		path := filepath.Join(folder, name)
		if lost := replaced(path, read...); lost != "" {
			return settings.Usage("-o %s: %s would take the place of %s, which is read: name another folder "+
				"or file", c.Summary, path, lost)
		}
	}
	return nil
}

// writable fails before the work where the files cannot be written after it.
func (e *evaluation) writable() error {
	if e.config.Summary == "" {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(e.config.Summary), 0o755)
	if err == nil {
		var f *atomicfile.File
		if f, err = atomicfile.Create(e.config.Summary); err == nil {
			f.Abort()
		}
	}
	if err != nil {
		return fmt.Errorf("-o %s: %w: name a place that can be written to", e.config.Summary, err)
	}
	return nil
}

// pair finds the reference of each prediction.
func (e *evaluation) pair() error {
	c := &e.config
	predictions, order, err := labelPaths(c.Prediction, e.ending)
	if err != nil {
		return err
	}
	references, all, err := labelPaths(c.Reference, e.ending)
	if err != nil {
		return err
	}
	e.dataset = &raw.Dataset{}
	for _, name := range order {
		path := predictions[name]
		label := references[name]
		if label == "" {
			label = joined(c.Reference, filepath.Base(path))
		}
		e.dataset.Cases = append(e.dataset.Cases, raw.Case{ID: name, Images: []string{path},
			Label: label})
	}
	var missing []string
	for _, name := range all {
		if predictions[name] == "" {
			missing = append(missing, filepath.Base(references[name]))
		}
	}
	if missing != nil && !c.Chill {
		return fmt.Errorf("%s: found no prediction for %d of %d references (%s): predict them, or "+
			"score those that are there with --chill", c.Prediction, len(missing), len(references),
			several(missing))
	}
	if missing != nil {
		e.out.Printf("WARNING: %d of %d references have no prediction and are not scored: %s",
			len(missing), len(references), several(missing))
	}
	return nil
}

// run scores all cases and writes the files.
func (e *evaluation) run(ctx context.Context) (*Evaluated, error) {
	c := &e.config
	bounds, err := c.bounds(len(e.dataset.Cases))
	if err != nil {
		return nil, err
	}
	memory := system.NewShare(bounds.limit)
	// Cases of a few MB leave more garbage than they hold: it is collected less often, as long as there is no
	// large one, or one of many nodes.
	defer debug.SetGCPercent(debug.SetGCPercent(garbageOfSmall))
	large := func() { debug.SetGCPercent(100) }
	cases := make([]*scores.Case, len(e.dataset.Cases))
	counted := make([]eval.Case, len(e.dataset.Cases))
	kept := keeping{cases: cases, done: make([]bool, len(cases)), most: bounds.all / scores.NodeBytes, large: large,
		forgotten: map[*scores.Label]bool{}}
	wrong := map[int]error{}
	err = e.dataset.Each(ctx, bounds.workers, "scoring", e.out.progress(),
		func(i int, one raw.Case) error {
			defer kept.add(i)
			need := estimateLabels(e.objects.bytes(), one.Label, one.Images[0])
			if need > smallCase {
				large()
			}
			room := bounds.room(need)
			if err := memory.Take(ctx, need+room); err != nil {
				return err
			}
			defer memory.Give(need + room)
			var err error
			cases[i], counted[i], err = e.score(one, scores.Room{Bytes: room, Large: large})
			if err != nil {
				e.lock.Lock()
				wrong[i] = err
				e.lock.Unlock()
			}
			return err
		})
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e.warn()
	kept.warn(e.out, e.targets, c.Command, bounds.workers)
	var failed []scores.Failed
	var good []eval.Case
	var scored []*scores.Case
	for i, one := range e.dataset.Cases {
		if wrong[i] != nil {
			failed = append(failed, scores.Failed{Case: one.ID, ReferenceFile: one.Label,
				PredictionFile: one.Images[0], Error: wrong[i].Error()})
			continue
		}
		scored, good = append(scored, cases[i]), append(good, counted[i])
	}
	result := &Evaluated{Scores: scores.New(e.settings, e.targets, e.names, scored, failed)}
	if c.Summary != "" {
		files, writeErr := e.write(result.Scores, good)
		result.Files = files
		err = errors.Join(err, writeErr)
	}
	return result, err
}

// leastRoom is what the nodes and surfaces of a case may always take: 100,000 nodes, or surfaces of 4
// million elements. A body has one node; a node of one voxel has 8 elements, so that of such there are 87,000.
const leastRoom = 512 << 20

// bounds is how much memory evaluation takes, and how many cases at a time.
type bounds struct {
	workers int
	limit   int64 // bytes for the cases at work
	all     int64 // bytes for the nodes of all cases, until they are written
}

// bounds finds them for so many cases.
func (c *EvaluateConfig) bounds(cases int) (bounds, error) {
	m, err := system.ReadMemory()
	if err != nil && c.MaxRAM == 0 {
		return bounds{}, err
	}
	return c.boundsOf(cases, system.Budget(m.Available)), nil
}

// boundsOf finds them where so much memory is free.
func (c *EvaluateConfig) boundsOf(cases int, free int64) bounds {
	b := bounds{workers: c.Workers, limit: int64(c.MaxRAM * (1 << 30))}
	if b.limit == 0 {
		b.limit = free
	}
	if b.workers == 0 {
		b.workers = min(runtime.GOMAXPROCS(0), 8)
	}
	b.workers = max(1, min(b.workers, cases, int(b.limit/leastRoom)))
	b.all = max(b.limit, leastRoom, min(int64(cases)*leastRoom, free))
	return b
}

// room is the part of the nodes and surfaces of a case that takes so many bytes without: with them, it takes one of
// the cases at a time, or more, and then others wait.
func (b bounds) room(need int64) int64 { return max(b.limit/int64(b.workers)-need, leastRoom) }

// How much garbage, in per cent of what is held, is left while cases are small, and what small is in bytes.
const (
	garbageOfSmall = 800
	smallCase      = 8 << 20
)

// estimateLabels is about how many bytes reading and scoring two label volumes takes. One whose header
// cannot be read, as a DICOM object's, counts as the other; if neither can be, unknown is the result.
func estimateLabels(unknown int64, paths ...string) int64 {
	total, known := int64(0), int64(0)
	for _, path := range paths {
		h, err := image.Header(path)
		if err != nil {
			continue
		}
		n := int64(1)
		for _, d := range h.Size {
			n *= int64(d)
		}
		if one := volume.MakePixels(h.Type, 1); one != nil {
			// The file's pixels, their labels, and masks and surfaces.
			total += n * int64(2*len(one.Bytes())+2)
			known++
		}
	}
	if known == 0 {
		return unknown
	}
	return total * int64(len(paths)) / known
}

// score scores one case, whose nodes and surfaces have that room.
func (e *evaluation) score(c raw.Case, room scores.Room) (*scores.Case, eval.Case, error) {
	counted := eval.Case{ReferenceFile: c.Label, PredictionFile: c.Images[0]}
	reference, prediction, err := e.read(c)
	if err != nil {
		return nil, counted, err
	}
	if err := e.sameGrid(c, reference, prediction); err != nil {
		return nil, counted, err
	}
	if e.known != nil {
		e.note(0, c.Label, reference)
		e.note(1, c.Images[0], prediction)
	}
	counted.Counts, err = labelmap.Compare(reference, prediction, e.targets, e.ignore)
	if err != nil {
		return nil, counted, fmt.Errorf("%s and %s: %w", c.Label, c.Images[0], err)
	}
	labels, err := e.settings.ScoreWithin(room, reference, prediction, e.targets, e.ignore)
	if err != nil {
		return nil, counted, fmt.Errorf("%s and %s: %w", c.Label, c.Images[0], err)
	}
	return &scores.Case{Case: c.ID, ReferenceFile: c.Label, PredictionFile: c.Images[0],
		Spacing: reference.Geometry.Spacing, Labels: labels}, counted, nil
}

// keeping keeps the nodes of cases, in their order, as long as all of them can be held until they are written:
// which are kept does not depend on which case is scored first.
type keeping struct {
	cases []*scores.Case // nil where one failed
	large func()         // called before files are made of many

	lock sync.Mutex
	done []bool
	next int   // case
	most int64 // nodes
	kept int64

	forgotten map[*scores.Label]bool
}

// add adds a case that is done.
func (k *keeping) add(i int) {
	k.lock.Lock()
	defer k.lock.Unlock()
	k.done[i] = true
	for ; k.next < len(k.done) && k.done[k.next]; k.next++ {
		if c := k.cases[k.next]; c != nil {
			k.keep(c)
		}
	}
}

func (k *keeping) keep(c *scores.Case) {
	own := int64(0)
	for _, l := range c.Labels {
		own += int64(l.Nodes.Len())
	}
	if k.kept+own <= k.most {
		if k.kept += own; k.kept*scores.NodeBytes > smallCase {
			k.large()
		}
		return
	}
	for _, l := range c.Labels {
		if l.Measured() {
			l.Forget(k.kept)
			k.forgotten[l] = true
		}
	}
}

// warn says which labels of which cases have more nodes, or larger surfaces, than there is memory for; with flags also
// which of them give more.
func (k *keeping) warn(out Output, targets []eval.Target, flags bool, workers int) {
	const most = 10 // labels that are named
	found := 0
	for _, c := range k.cases {
		for _, t := range targets {
			if c == nil || c.Labels[t.Key()].Measured() {
				continue
			}
			if found++; found > most {
				continue
			}
			l := c.Labels[t.Key()]
			next := ""
			switch {
			case !flags:
			case k.forgotten[l]:
				next = " If they are, score fewer cases with one call, or give it more memory with --max-ram."
			case workers > 1:
				next = " If they are, give it more memory with --max-ram, or fewer cases at a time with --np."
			default:
				next = " If they are, give it more memory with --max-ram."
			}
			out.Printf("WARNING: case %s, label %s: found %s. Are they labels, and not noise?%s", c.Case, t.Key(),
				l.Excess, next)
		}
	}
	if found > most {
		out.Printf("WARNING: the same holds for %d further labels of cases: those with detection null in %s", found-most,
			scoresJSON)
	}
}

// note notes the labels of a file that dataset.json does not have.
func (e *evaluation) note(side int, path string, m *labelmap.Map) {
	labels := m.Others(e.known)
	if labels == nil {
		return
	}
	e.lock.Lock()
	defer e.lock.Unlock()
	o := &e.others[side]
	o.labels, o.files = append(o.labels, labels...), append(o.files, path)
}

// warn says which labels counted as background because dataset.json does not have them.
func (e *evaluation) warn() {
	for side, what := range []string{"references", "predictions"} {
		o := &e.others[side]
		if o.files == nil {
			continue
		}
		slices.Sort(o.labels)
		slices.Sort(o.files)
		e.out.Printf("WARNING: %d of %d %s hold labels that dataset.json does not have, %v (%s): these "+
			"voxels count as background", len(o.files), len(e.dataset.Cases), what,
			slices.Compact(o.labels), several(o.files))
	}
}

// sameGrid refuses volumes of which a corner lies elsewhere by more than 5 % of the smallest
// spacing.
func (e *evaluation) sameGrid(c raw.Case, reference, prediction *labelmap.Map) error {
	if reference.Shape == prediction.Shape {
		if e.config.AnyGeometry {
			return nil
		}
		if sameCorners(reference.Shape, reference.Geometry, prediction.Geometry) {
			return nil
		}
	}
	next := "score files of one image"
	if reference.Shape == prediction.Shape {
		next += ", or compare the arrays as they are with --ignore-geometry"
	}
	return fmt.Errorf("the grids do not agree:\n  %s: %s\n  %s: %s\n%s", c.Label,
		gridText(reference), c.Images[0], gridText(prediction), next)
}

// sameCorners reports whether the corners of two grids of that shape (z, y, x) lie within 5 % of the
// smallest spacing of each other.
func sameCorners(shape [3]int, a, b volume.Geometry) bool {
	least := min(a.Spacing[0], a.Spacing[1], a.Spacing[2])
	for corner := range 8 {
		var index [3]float64
		for axis := range 3 {
			index[axis] = float64((corner >> axis & 1) * (shape[axis] - 1))
		}
		p, q := a.Point(index), b.Point(index)
		apart := math.Hypot(math.Hypot(p[0]-q[0], p[1]-q[1]), p[2]-q[2])
		if !(apart <= 0.05*least) {
			return false
		}
	}
	return true
}

func gridText(m *labelmap.Map) string {
	g := m.Geometry
	return fmt.Sprintf("size %d×%d×%d, spacing %.5g×%.5g×%.5g mm, origin %.6g, %.6g, %.6g, "+
		"direction %.4g", m.Shape[2], m.Shape[1], m.Shape[0], g.Spacing[2], g.Spacing[1],
		g.Spacing[0], g.OriginXYZ[0], g.OriginXYZ[1], g.OriginXYZ[2], g.DirectionXYZ)
}

// write writes summary.json, unless cases failed, and the other files beside it.
func (e *evaluation) write(s *scores.Scores, good []eval.Case) (files []string, err error) {
	c := &e.config
	folder := filepath.Dir(c.Summary)
	var all sync.WaitGroup // files are made and synced side by side
	var errs []error
	var lock sync.Mutex
	start := func(path string, write func() error) {
		files = append(files, path)
		all.Go(func() {
			if err := write(); err != nil {
				lock.Lock()
				defer lock.Unlock()
				errs = append(errs, err)
			}
		})
	}
	put := func(path string, content func(io.Writer) error) {
		start(path, func() error {
			var b bytes.Buffer
			if err := content(&b); err != nil {
				return err
			}
			return atomicfile.Write(path, b.Bytes())
		})
	}
	if len(s.Failed) == 0 || c.Chill && len(good) > 0 {
		summary, err := eval.Summarise(e.targets, good)
		if err != nil {
			return nil, err
		}
		put(c.Summary, func(w io.Writer) error {
			_, err := w.Write(summary.Encode())
			return err
		})
	} else {
		before := ""
		if isFile(c.Summary) {
			before = ", and the one that is there is of an earlier run"
		}
		e.out.Printf("WARNING: %s is not written, as cases failed%s: --chill writes it for the others",
			c.Summary, before)
	}
	put(filepath.Join(folder, scoresJSON), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		e.SetEscapeHTML(false)
		return e.Encode(s)
	})
	put(filepath.Join(folder, scoresCSV), s.WriteCSV)
	put(filepath.Join(folder, nodesCSV), s.WriteNodesCSV)
	html := filepath.Join(folder, scoresHTML)
	start(html, func() error {
		return page.Scores(html, s, filepath.Base(c.Prediction)+" against "+filepath.Base(c.Reference))
	})
	all.Wait()
	return files, errors.Join(errs...)
}

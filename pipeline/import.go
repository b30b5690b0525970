package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/data/pairing"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/internal/settings"
)

// ImportConfig makes a raw dataset of an archive: of DICOM series with RTSTRUCT and SEG, or of files in
// pairs.
type ImportConfig struct {
	Sources []string // folders, files and zips
	RawFolder
	ID          int      `flag:"id" short:"d" range:"1..999" help:"number of the dataset, 1 to 999"`
	Name        string   `flag:"name" help:"name of the dataset and, with a number, of its cases"`
	Labels      []string // of the flag --label, which may hold commas: NAME=PATTERN, in the order of the values
	ImageFiles  string   `flag:"images" help:"for files in pairs: path of a case's image below SRC, such as {case}-ct.nrrd; {case} is any text without /"`
	LabelFiles  string   `flag:"labels" help:"for files in pairs: path of a case's labels below SRC: a label map, RTSTRUCT or SEG"`
	Newest      bool     `flag:"newest" help:"of several RTSTRUCT and SEG for a series take the last by date"`
	AllowEmpty  bool     `flag:"allow-empty" help:"import cases in which nothing matches, with an empty label map"`
	Unlabelled  string   `flag:"unlabelled" default:"skip" values:"skip,test" help:"images without labels: leave them out, or put them into imagesTs"`
	FileEnding  string   `flag:"file-ending" default:".nii.gz" values:".nii.gz,.nii,.nrrd,.mha" help:"format of the dataset's files"`
	Modality    string   `flag:"modality" default:"CT" help:"kind of the images: name of the channel in dataset.json, and of DICOM the Modality of series that are taken"`
	FixGeometry bool     `flag:"fix-geometry" help:"of DICOM: resample slices that do not lie on a regular grid"`
	Threshold   float64  `flag:"threshold" default:"0.5" range:">0..1" help:"of a fractional SEG: the smallest share that is foreground"`
	Resample    bool     `flag:"resample" help:"of a SEG that does not fall on the grid of its image: take the nearest pixel"`
	Map         string   `flag:"map" path:"true" help:"write there, readable by you alone, from which files each case comes (.csv)"`
	Workers     int      `flag:"np" nnunet:"np" range:"1.." help:"cases at a time (default: the cores, eight at most)"`
	DryRun      bool     `flag:"dry-run" help:"write nothing; show the cases, what is left out and why, and the names of ROIs and segments"`
}

// Imported is what an import found and did.
type Imported struct {
	Dataset string         `json:"dataset,omitempty"` // folder
	Cases   []ImportedCase `json:"cases"`             // in the order of their sources' paths
	LeftOut []LeftOut      `json:"left_out"`
	Names   []FoundName    `json:"names,omitempty"` // with DryRun
}

// States of a case.
const (
	ImportPlanned = "planned"
	ImportWritten = "written"
	ImportKept    = "kept" // it was there already
	ImportFailed  = "failed"
)

// An ImportedCase is an image with its labels, if it has any.
type ImportedCase struct {
	Case     string         `json:"case,omitempty"`
	Status   string         `json:"status"`
	Test     bool           `json:"test"`             // in imagesTs, without labels
	Image    string         `json:"image"`            // where it comes from: folder or file
	Labels   string         `json:"labels,omitempty"` // and they
	Size     []int          `json:"size,omitempty"`   // x, y, z
	Spacing  []float64      `json:"spacing,omitempty"`
	Problems []string       `json:"problems"`         // of the slices' geometry
	Parts    map[string]int `json:"parts,omitempty"`  // of each label: ROIs, segments or values that match
	Voxels   map[string]int `json:"voxels,omitempty"` // of each label that was written
	Found    int            `json:"found"`            // ROIs, segments or values there are, matching or not
	Warnings []string       `json:"warnings"`
	Error    string         `json:"error,omitempty"`
}

// LeftOut is something that could have been a case or a part of one.
type LeftOut struct {
	What   string `json:"what"`             // image, labels, file
	Source string `json:"source,omitempty"` // "" where the reason names it
	Reason string `json:"reason"`
	failed bool
}

// A FoundName is the name of ROIs or segments, or a value of label maps.
type FoundName struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`   // ROI, segment, value
	Count  int      `json:"count"`  // RTSTRUCT, SEG or label maps that hold something of it
	Labels []string `json:"labels"` // that it would become
}

var goodDatasetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)

// An importer is an import under way.
type importer struct {
	ImportConfig
	o        Output
	choices  []labels.Choice
	values   map[int]int // of label maps: the label, from 1, that a value becomes
	valueErr error       // why the patterns are no lists of values
	pictures *pairing.Pattern
	maps     *pairing.Pattern
	cases    []*importCase
	leftOut  []LeftOut
	names    map[foundKey]*FoundName
	record   *importRecord
	adapting bool // it only finds the cases, for an adaptation

	lock sync.Mutex // of what follows, while cases are written
}

// foundKey tells names apart.
type foundKey struct{ Kind, Name string }

// Import finds the cases of an archive and writes those that the dataset does not have yet. Cases that
// fail do not stop the others: the error names them all, and the result is complete. With DryRun it
// writes nothing. Texts of DICOM files reach nothing but FoundName, and dataset.json by the flags.
func Import(ctx context.Context, c ImportConfig, o Output) (*Imported, error) {
	m := &importer{ImportConfig: c, o: o, names: map[foundKey]*FoundName{}}
	if err := m.check(); err != nil {
		return nil, err
	}
	if m.ID != 0 && m.Name != "" && m.Raw != "" { // refused before the long walk
		if err := m.readRecord(); err != nil {
			return nil, err
		}
	}
	if err := m.find(ctx); err != nil {
		return nil, err
	}
	slices.SortStableFunc(m.cases, func(a, b *importCase) int { return cmp.Compare(a.key, b.key) })
	if !c.DryRun && len(m.cases) > 0 {
		release, err := m.openDataset()
		if err != nil {
			return nil, err
		}
		defer release()
	}
	if err := m.assign(ctx); err != nil {
		return nil, err
	}
	var err error
	if !c.DryRun && len(m.cases) > 0 {
		err = m.writeAll(ctx)
	}
	r := m.result()
	if err == nil && !c.DryRun {
		err = m.failures(r)
	}
	return r, err
}

// check reports flags that do not fit together.
func (m *importer) check() error {
	if m.LabelFiles != "" && m.ImageFiles == "" {
		return settings.Usage("--labels needs --images, the paths of the images")
	}
	if m.ImageFiles != "" && m.LabelFiles == "" && m.Unlabelled != "test" {
		return settings.Usage("--images needs --labels, or --unlabelled test")
	}
	if m.ImageFiles != "" && m.Newest {
		return settings.Usage("--newest is for DICOM, not for --images")
	}
	var err error
	if m.choices, err = labels.ParseChoices(m.ImportConfig.Labels); err != nil {
		return settings.Usage("--label %w", err)
	}
	for i := range m.choices {
		m.choices[i].Optional = true
		if m.choices[i].Name == "background" {
			return settings.Usage("--label: background is label 0, expected another name")
		}
	}
	if m.values, err = labelValues(m.ImportConfig.Labels); err != nil {
		m.valueErr = err
	}
	for _, p := range []struct {
		flag, text string
		to         **pairing.Pattern
	}{{"images", m.ImageFiles, &m.pictures}, {"labels", m.LabelFiles, &m.maps}} {
		if p.text == "" {
			continue
		}
		if *p.to, err = pairing.ParsePattern(p.text); err != nil {
			return settings.Usage("--%s %w", p.flag, err)
		}
	}
	if m.Name != "" && !goodDatasetName.MatchString(m.Name) {
		return settings.Usage("--name %q: expected letters, digits, - and _", m.Name)
	}
	if m.DryRun {
		return nil
	}
	switch {
	case m.ID == 0 || m.Name == "":
		return settings.Usage("-d ID and --name NAME must be given; --dry-run shows what there " +
			"is without them")
	case len(m.choices) == 0:
		return settings.Usage("--label NAME=PATTERN is not given; --dry-run shows the names of " +
			"ROIs and segments that there are")
	}
	if err := given("raw", m.Raw); err != nil {
		return err
	}
	if m.Map != "" && within(m.Map, m.folder()) {
		return settings.Usage("--map %s lies in the dataset: it says where the cases come from, "+
			"and belongs elsewhere", m.Map)
	}
	return nil
}

// within reports whether a path lies in a folder or is it.
func within(path, folder string) bool {
	rel, err := filepath.Rel(realPath(folder), realPath(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// realPath is the absolute path, with the links in the part of it that exists resolved.
func realPath(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	rest := ""
	for at := path; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return path
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

// labelValues reads NAME=1,3 for each label: which label, from 1, a value of a label map becomes.
func labelValues(texts []string) (map[int]int, error) {
	values := map[int]int{}
	for i, text := range texts {
		_, list, ok := strings.Cut(text, "=")
		if !ok {
			list = text
		}
		for _, one := range strings.Split(list, ",") {
			v, err := strconv.Atoi(strings.TrimSpace(one))
			if err != nil || v < 1 || v > 65535 {
				return nil, fmt.Errorf("%s: found %q, expected values of the label maps, 1 to "+
					"65535, as in LN=1,3", text, one)
			}
			if values[v] != 0 {
				return nil, fmt.Errorf("%s: the value %d is there twice", text, v)
			}
			values[v] = i + 1
		}
	}
	return values, nil
}

// each calls f for 0 to n-1, several at a time. It stops when ctx is done.
func (m *importer) each(ctx context.Context, n int, task string, f func(i int)) error {
	d := &raw.Dataset{Cases: make([]raw.Case, n)}
	return d.Each(ctx, m.workers(), task, m.o.progress(), func(i int, _ raw.Case) error {
		f(i)
		return nil
	})
}

func (m *importer) workers() int { return cmp.Or(m.Workers, casesAtATime()) }

// result is what there is to tell.
func (m *importer) result() *Imported {
	slices.SortStableFunc(m.leftOut, func(a, b LeftOut) int {
		return cmp.Compare(pathKey(cmp.Or(a.Source, a.Reason)), pathKey(cmp.Or(b.Source, b.Reason)))
	})
	r := &Imported{Cases: []ImportedCase{}, LeftOut: m.leftOut}
	if m.ID != 0 && m.Name != "" && m.Raw != "" {
		r.Dataset = m.folder()
	}
	for _, c := range m.cases {
		if c.err != nil {
			c.Status, c.Error = ImportFailed, c.err.Error()
		}
		c.Status = cmp.Or(c.Status, ImportPlanned)
		r.Cases = append(r.Cases, c.ImportedCase)
	}
	if r.LeftOut == nil {
		r.LeftOut = []LeftOut{}
	}
	if m.DryRun {
		r.Names = []FoundName{}
		for _, n := range m.names {
			r.Names = append(r.Names, *n)
		}
		slices.SortFunc(r.Names, func(a, b FoundName) int {
			return cmp.Or(cmp.Compare(a.Kind, b.Kind), -cmp.Compare(a.Count, b.Count), cmp.Compare(a.Name, b.Name))
		})
	}
	return r
}

// failures is the error of a result: what was to be imported and was not.
func (m *importer) failures(r *Imported) error {
	var all []string
	for _, c := range r.Cases {
		if c.Error != "" {
			all = append(all, "case "+c.Case+" ("+c.Image+"): "+strings.TrimPrefix(c.Error, c.Image+": "))
		}
	}
	cases := len(all)
	for _, l := range r.LeftOut {
		if l.failed {
			all = append(all, strings.TrimPrefix(l.Source+": "+l.Reason, ": "))
		}
	}
	switch {
	case len(all) > 0:
		what := fmt.Sprintf("%d of %d cases were not imported", cases, len(r.Cases))
		switch n := len(all) - cases; {
		case cases == 0:
			what = fmt.Sprintf("%d files could not be used", n)
		case n > 0:
			what += fmt.Sprintf(", %d other files could not be used", n)
		}
		return fmt.Errorf("%s; the same command does what is missing when they are "+
			"mended:\n%s", what,
			strings.Join(all, "\n"))
	case len(r.Cases) == 0:
		return errors.New("found no case to import; --dry-run shows what there is and why it is " +
			"left out")
	}
	return nil
}

// folder is the dataset's.
func (m *importer) folder() string {
	return filepath.Join(m.Raw, fmt.Sprintf("Dataset%03d_%s", m.ID, m.Name))
}

// leave notes what is left out. failed: it makes the import incomplete.
func (m *importer) leave(failed bool, what, source, format string, args ...any) {
	m.leftOut = append(m.leftOut, LeftOut{what, source, fmt.Sprintf(format, args...), failed})
}

// sources drops folders that lie in others.
func (m *importer) sources() ([]string, error) {
	var kept []string
	for i, s := range m.Sources {
		info, err := os.Stat(s)
		if err != nil {
			return nil, err
		}
		inside := func(k int) bool {
			return k != i && within(s, m.Sources[k]) && (k < i || !within(m.Sources[k], s))
		}
		covered := false
		for k := range m.Sources {
			covered = covered || info.IsDir() && inside(k)
		}
		if !covered && !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	return kept, nil
}

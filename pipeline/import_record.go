package pipeline

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/folderlock"
	"github.com/lntorch/lntorch/internal/regular"
)

// importRecord is import.json: what the dataset holds, so that the same command does only what is
// missing. It has no name and no path of a source.
type importRecord struct {
	Version    int      `json:"lntorch_import"`
	Program    string   `json:"lntorch"`
	Labels     []string `json:"labels"` // NAME=PATTERN
	FileEnding string   `json:"file_ending"`
	Modality   string   `json:"modality"`
	Threshold  float64  `json:"threshold"`
	// Pending are cases that were being written: files with their names belong to no one else.
	Pending []string        `json:"pending,omitempty"`
	Cases   []*recordedCase `json:"cases"`
}

// recordedCase is a case that was written.
type recordedCase struct {
	Case        string         `json:"case"`
	Test        bool           `json:"test,omitempty"`
	Size        []int          `json:"size"`     // x, y, z
	Spacing     []float64      `json:"spacing"`  // mm, x, y, z
	Problems    []string       `json:"problems"` // of the slices' geometry, before they were resampled
	Voxels      map[string]int `json:"voxels,omitempty"`
	SHA256      string         `json:"sha256"` // of the image file
	Source      string         `json:"source"` // digests of what the source's files hold
	Series      string         `json:"series,omitempty"`
	LabelSource string         `json:"label_source,omitempty"`
}

const importVersion = 1

// recordFile is the record's name.
const recordFile = "import.json"

// newRecord is that of an empty dataset.
func (m *importer) newRecord() *importRecord {
	return &importRecord{Version: importVersion, Program: m.o.Version, Labels: m.ImportConfig.Labels,
		FileEnding: m.FileEnding, Modality: m.Modality, Threshold: m.Threshold, Cases: []*recordedCase{}}
}

// readRecord reads what the dataset holds. It fails if the dataset was made otherwise.
func (m *importer) readRecord() error {
	m.record = m.newRecord()
	entries, err := os.ReadDir(m.Raw)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), fmt.Sprintf("Dataset%03d_", m.ID)) && e.Name() != filepath.Base(m.folder()) {
			return fmt.Errorf("%s already has the number %d: nnU-Net needs unique numbers, "+
				"choose another -d",
				filepath.Join(m.Raw, e.Name()), m.ID)
		}
	}
	path := filepath.Join(m.folder(), recordFile)
	data, err := regular.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if !bare(m.folder()) {
			return fmt.Errorf("%s exists and has no %s: it was not made by lntorch import, "+
				"choose another -d and --name",
				m.folder(), recordFile)
		}
		return nil
	}
	if err != nil {
		return err
	}
	r := &importRecord{}
	if err := json.Unmarshal(data, r); err != nil || r.Version != importVersion || !m.sound(r) {
		return fmt.Errorf("%s: expected a record of lntorch import, version %d: choose another "+
			"-d and --name, or delete the dataset",
			path, importVersion)
	}
	if m.DryRun && len(m.choices) == 0 {
		m.record = r
		return nil
	}
	for _, change := range []struct {
		flag, was, is string
	}{
		{"--label", strings.Join(r.Labels, " "), strings.Join(m.ImportConfig.Labels, " ")},
		{"--file-ending", r.FileEnding, m.FileEnding},
		{"--modality", r.Modality, m.Modality},
		{"--threshold", fmt.Sprint(r.Threshold), fmt.Sprint(m.Threshold)},
	} {
		if change.was != change.is {
			return fmt.Errorf("%s was imported with %s %s, now it is %s: give the same, or "+
				"choose another -d and --name",
				m.folder(), change.flag, change.was, change.is)
		}
	}
	r.Program = m.o.Version
	m.record = r
	return nil
}

// sound reports whether the names in a record are those of cases: they become names of files.
func (m *importer) sound(r *importRecord) bool {
	seen := map[string]bool{}
	for _, c := range r.Cases {
		if c == nil || seen[c.Case] {
			return false
		}
		seen[c.Case] = true
		number, ok := strings.CutPrefix(c.Case, m.Name+"_")
		if !ok || number == "" || strings.Trim(number, "0123456789") != "" {
			return false
		}
	}
	return true
}

// bare reports whether a folder does not exist or holds nothing but empty folders, as an import leaves
// that was killed before it wrote its record.
func bare(folder string) bool {
	all, _ := os.ReadDir(folder)
	return !slices.ContainsFunc(all, func(e fs.DirEntry) bool {
		if !e.IsDir() {
			return !strings.HasPrefix(e.Name(), ".lntorch.")
		}
		in, err := os.ReadDir(filepath.Join(folder, e.Name()))
		return err != nil || len(in) > 0
	})
}

// openDataset makes the dataset's folder and locks it. The record is read anew.
func (m *importer) openDataset() (release func(), err error) {
	if err := os.MkdirAll(m.folder(), 0o777); err != nil {
		return nil, err
	}
	// The arguments may name patients: the lock's file does not hold them.
	lock, err := folderlock.Named(m.folder(), "lntorch import")
	if err != nil {
		return nil, err
	}
	if lock.Warning != "" {
		m.o.Print("WARNING:", lock.Warning)
	}
	if err = m.readRecord(); err == nil {
		for _, part := range m.folders() {
			if err = errors.Join(err, os.MkdirAll(part, 0o777)); err == nil {
				err = atomicfile.Sweep(part)
			}
		}
	}
	if err == nil && m.Map != "" {
		_, err = readMap(m.Map)
	}
	if err != nil {
		lock.Release()
		return nil, err
	}
	return lock.Release, nil
}

// folders are those that are written to.
func (m *importer) folders() []string {
	f := m.folder()
	all := []string{f, filepath.Join(f, "imagesTr"), filepath.Join(f, "labelsTr")}
	if m.Unlabelled == "test" {
		all = append(all, filepath.Join(f, "imagesTs"))
	}
	return all
}

// files are a case's image and labels; for tests there are none.
func (m *importer) files(name string, test bool) (image, label string) {
	if test {
		return filepath.Join(m.folder(), "imagesTs", name+"_0000"+m.FileEnding), ""
	}
	return filepath.Join(m.folder(), "imagesTr", name+"_0000"+m.FileEnding),
		filepath.Join(m.folder(), "labelsTr", name+m.FileEnding)
}

// there reports whether the files of a case are.
func (m *importer) there(name string, test bool) bool {
	image, label := m.files(name, test)
	_, err := os.Stat(image)
	if err == nil && label != "" {
		_, err = os.Stat(label)
	}
	return err == nil
}

// assign names the cases: one that the dataset has keeps its name, others get the lowest free numbers
// in their order.
func (m *importer) assign(ctx context.Context) error {
	if m.record == nil || m.Name == "" {
		return nil
	}
	if len(m.record.Cases) > 0 {
		err := m.each(ctx, len(m.cases), "comparing with what is there", func(i int) {
			if err := m.cases[i].identify(ctx); err != nil && m.cases[i].err == nil {
				m.cases[i].err = err
			}
		})
		if err != nil {
			return err
		}
	}
	var kept []*recordedCase // whose files are there, or will be
	used := map[string]bool{}
	rest := slices.Clone(m.record.Cases)
	for _, same := range []func(c *importCase, r *recordedCase) bool{
		func(c *importCase, r *recordedCase) bool {
			return r.Source == c.source && r.LabelSource == c.labelSource()
		},
		func(c *importCase, r *recordedCase) bool { return r.Source == c.source },
		// slices came later, or were written anew: it is one patient's image all the same
		func(c *importCase, r *recordedCase) bool { return r.Series != "" && r.Series == c.series },
	} {
		for _, c := range m.cases {
			if c.known != nil || c.source == "" {
				continue
			}
			if k := slices.IndexFunc(rest, func(r *recordedCase) bool { return same(c, r) }); k >= 0 {
				c.known, c.Case = rest[k], rest[k].Case
				rest = slices.Delete(rest, k, k+1)
				used[c.Case] = true
				m.compare(c)
				if c.Status == ImportKept || c.err != nil && m.there(c.Case, c.known.Test) {
					kept = append(kept, c.known)
				}
			}
		}
	}
	elsewhere := 0
	for _, r := range rest {
		if m.there(r.Case, r.Test) {
			kept, elsewhere = append(kept, r), elsewhere+1
			used[r.Case] = true
		}
	}
	if elsewhere > 0 {
		m.o.Printf("%s: %d cases come from other sources than these, and "+
			"stay", m.folder(), elsewhere)
	}
	m.record.Cases = kept
	number := 0
	for _, c := range m.cases {
		if c.Case != "" {
			continue
		}
		for c.Case == "" || used[c.Case] || m.foreign(c.Case) {
			number++
			c.Case = fmt.Sprintf("%s_%04d", m.Name, number)
		}
		used[c.Case] = true
	}
	return nil
}

// foreign reports whether there are files of that name that no import wrote.
func (m *importer) foreign(name string) bool {
	if slices.Contains(m.record.Pending, name) {
		return false
	}
	for _, test := range []bool{false, true} {
		image, label := m.files(name, test)
		for _, path := range []string{image, label} {
			if _, err := os.Lstat(path); path != "" && err == nil {
				return true
			}
		}
	}
	return false
}

// compare decides what becomes of a case that the dataset knows.
func (m *importer) compare(c *importCase) {
	r := c.known
	if !m.there(r.Case, r.Test) {
		return // it is written again, under the same name
	}
	image, _ := m.files(r.Case, r.Test)
	if r.Source != c.source {
		if c.err == nil {
			c.err = fmt.Errorf("its slices are others than when it was imported: delete %s to "+
				"import it anew", image)
		}
		return
	}
	if r.Test != c.Test || r.LabelSource != c.labelSource() {
		if c.err != nil { // which labels it has is not clear
			return
		}
		c.err = fmt.Errorf("its labels are others than when it was imported: delete %s to "+
			"import it anew", image)
		return
	}
	c.err = nil
	c.Status, c.Size, c.Spacing, c.Problems, c.Voxels = ImportKept, r.Size, r.Spacing, r.Problems, r.Voxels
}

// saveEvery is how often the record is written while cases are.
const saveEvery = 2 * time.Second

// save writes dataset.json, the record and the map.
func (m *importer) save() error {
	training, err := raw.Images(filepath.Join(m.folder(), "imagesTr"), m.FileEnding)
	if err != nil {
		return err
	}
	path := filepath.Join(m.folder(), "dataset.json")
	doc := m.describe()
	if before, err := plans.ReadJSON(path); err == nil {
		if o, ok := before.(*plans.Object); ok {
			doc = o // with what the user changed in it
		}
	}
	doc.Set("numTraining", int64(len(training)))
	if err := plans.WriteJSON(path, doc, false); err != nil {
		return err
	}
	slices.SortFunc(m.record.Cases, func(a, b *recordedCase) int { return strings.Compare(a.Case, b.Case) })
	text, err := json.MarshalIndent(m.record, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(m.folder(), recordFile), append(text, '\n')); err != nil {
		return err
	}
	if m.Map == "" {
		return nil
	}
	return m.saveMap()
}

// describe is a new dataset.json.
func (m *importer) describe() *plans.Object {
	values := plans.NewObject("background", int64(0))
	for i, c := range m.choices {
		values.Set(c.Name, int64(i+1))
	}
	return plans.NewObject("channel_names", plans.NewObject("0", m.Modality), "labels", values,
		"numTraining", int64(0), "file_ending", m.FileEnding, "name", filepath.Base(m.folder()),
		"description", "made by lntorch import")
}

// mapHead is the first line of a map.
var mapHead = []string{"case", "image", "series_uid", "labels"}

// readMap reads the rows of a map by case; none if the file does not exist.
func readMap(path string) (map[string][]string, error) {
	rows := map[string][]string{}
	data, err := regular.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return rows, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil || len(all) == 0 || !slices.Equal(all[0], mapHead) {
		return nil, fmt.Errorf("--map %s exists and is no map of lntorch import: give another "+
			"name", path)
	}
	for _, row := range all[1:] {
		rows[row[0]] = row
	}
	return rows, nil
}

// saveMap writes from which files the cases come, and keeps what the map says of others.
func (m *importer) saveMap() error {
	rows, err := readMap(m.Map)
	if err != nil {
		return err
	}
	for _, c := range m.cases {
		if c.Status != ImportKept && c.Status != ImportWritten {
			continue
		}
		row := []string{c.Case, absolute(c.Image), "", ""}
		if c.stack != nil {
			row[2] = c.stack.SeriesUID
		}
		if c.ImportedCase.Labels != "" {
			row[3] = absolute(c.ImportedCase.Labels)
		}
		rows[c.Case] = row
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.Write(mapHead)
	for _, r := range m.record.Cases {
		if row := rows[r.Case]; row != nil {
			w.Write(row)
		}
	}
	w.Flush()
	f, err := atomicfile.Create(m.Map)
	if err != nil {
		return err
	}
	if err = f.Chmod(0o600); err == nil { // before it holds anything
		_, err = f.Write(b.Bytes())
	}
	if err != nil {
		f.Abort()
		return err
	}
	return f.Commit()
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

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
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// adaptRecordFile, in the folder train, is what an adaptation continues from.
const adaptRecordFile = "adapt.json"

// adaptRecordVersion is that of its form.
const adaptRecordVersion = 1

// adaptRecord is what an adaptation began with, what it decided, and which stages it has done.
type adaptRecord struct {
	Version    int                 `json:"version"`
	Lntorch    string              `json:"lntorch"`
	Started    time.Time           `json:"started"`
	Settings   map[string][]string `json:"settings"` // by flag
	Checkpoint string              `json:"checkpoint"`
	SHA256     map[string]string   `json:"sha256"` // of the checkpoint, images and labels that are files
	// Voxels are those of the cases that are used, by name.
	Voxels map[string]voxelHashes `json:"voxels_sha256"`
	Cases  []AdaptCase            `json:"cases"`
	Plan   *adaptPlan             `json:"plan"` // of stageCases
	Stages []stageRecord          `json:"stages"`
}

// voxelHashes are sha256 sums of a case's voxels, as volume.Image.Content makes them: they tell of images that
// are no file but a folder.
type voxelHashes struct {
	Image string `json:"image"`
	Label string `json:"label"`
}

// stageRecord is a stage that is done.
type stageRecord struct {
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
}

// changeable are flags that an adaptation may be continued with another value of.
var changeable = []string{"output", "c", "dry-run", "device", "threads", "workers"}

// Names under which the record has settings that are not fields with a flag.
const (
	recordROIs      = "roi"
	recordLabelsMap = "labels-map"
	recordOption    = "option:"
)

// texts gives every setting as the command line would.
func (c *AdaptConfig) texts() map[string][]string {
	out := map[string][]string{recordROIs: c.ROIs, recordLabelsMap: c.LabelsMap}
	for _, f := range settings.Fields(c) {
		if !slices.Contains(changeable, f.Name) {
			out[f.Name] = f.GetSlice()
		}
	}
	for name, v := range c.Options {
		out[recordOption+name] = []string{v.Text}
	}
	return out
}

func newAdaptRecord(c *AdaptConfig, version string, cases []AdaptCase) *adaptRecord {
	r := &adaptRecord{Version: adaptRecordVersion, Lntorch: version, Started: time.Now(),
		Settings: c.texts(), Cases: cases, SHA256: map[string]string{}, Voxels: map[string]voxelHashes{}}
	for _, one := range cases {
		if one.Role != "" {
			r.Voxels[one.Case] = voxelHashes{one.imageHash, one.labelHash}
		}
	}
	return r
}

// earlier reads the record of an adaptation that is to be continued; nil where a new one begins.
func (a *adaptation) earlier() (*adaptRecord, error) {
	path := filepath.Join(a.work, adaptRecordFile)
	b, err := os.ReadFile(path)
	switch {
	case err == nil && !a.Continue && !a.DryRun:
		return nil, fmt.Errorf("-o %s holds an adaptation already: --c goes on with it, and a new one needs "+
			"another folder", a.Output)
	case err == nil && a.Continue:
		r := &adaptRecord{}
		if err := json.Unmarshal(b, r); err != nil {
			return nil, fmt.Errorf("%s: %w: it is damaged; begin anew in another folder", path, err)
		}
		if r.Version != adaptRecordVersion {
			return nil, fmt.Errorf("%s: version %d, this program continues version %d: continue with lntorch %s",
				path, r.Version, adaptRecordVersion, r.Lntorch)
		}
		return r, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("-o %s: %w", a.Output, err)
	case a.Continue && (a.Checkpoint == "" || a.Cases == ""):
		return nil, errNothingToGoOn
	case a.Continue:
		a.out.Printf("--c: no adaptation has begun in %s: a new one begins", a.Output)
	}
	if a.DryRun {
		return nil, nil
	}
	entries, err := os.ReadDir(a.Output)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("-o %s: %w: name a folder", a.Output, err)
	}
	// Without a record the folder train is of a start that did not get far.
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "train" })
	if len(entries) > 0 {
		return nil, fmt.Errorf("-o %s is not empty, it holds %s: name a new folder", a.Output, listed(entries))
	}
	return nil, nil
}

// restore gives c the settings that it began with, and refuses those that are given now with another
// value. A setting at its default counts as not given.
func (r *adaptRecord) restore(c *AdaptConfig) error {
	fresh := settings.New[AdaptConfig]()
	standard, now := fresh.texts(), c.texts()
	var changed []string
	refuse := func(name string) {
		was := strings.Join(r.Settings[name], " ")
		if was == "" {
			was = "not given"
		}
		changed = append(changed, fmt.Sprintf("--%s was %s and is %s", strings.TrimPrefix(name, recordOption),
			was, strings.Join(now[name], " ")))
	}
	differs := func(name string) bool {
		return !slices.Equal(now[name], standard[name]) && !slices.Equal(now[name], r.Settings[name])
	}
	for _, f := range settings.Fields(c) {
		was, known := r.Settings[f.Name]
		switch {
		case !known: // newer than the record, or changeable
		case differs(f.Name):
			refuse(f.Name)
		case !slices.Equal(was, now[f.Name]):
			given := slices.DeleteFunc(slices.Clone(was), func(text string) bool { return text == "" })
			if err := f.Replace(given); err != nil {
				return fmt.Errorf("%s: setting %s: %w", adaptRecordFile, f.Name, err)
			}
		}
	}
	for name, list := range map[string]*[]string{recordROIs: &c.ROIs, recordLabelsMap: &c.LabelsMap} {
		if differs(name) {
			refuse(name)
		}
		*list = r.Settings[name]
	}
	for name := range now {
		if strings.HasPrefix(name, recordOption) && differs(name) {
			refuse(name)
		}
	}
	for name, was := range r.Settings {
		if option, ok := strings.CutPrefix(name, recordOption); ok && len(was) == 1 {
			if c.Options == nil {
				c.Options = map[string]OptionValue{}
			}
			c.Options[option] = OptionValue{Text: was[0]}
		}
	}
	if len(changed) > 0 {
		slices.Sort(changed)
		return settings.Usage("--c continues with the settings that the adaptation began with, but %s: leave "+
			"them out, or begin anew in another folder", strings.Join(changed, "; "))
	}
	return nil
}

// done says that a stage needs not be done again.
func (r *adaptRecord) done(name string) bool {
	return slices.ContainsFunc(r.Stages, func(s stageRecord) bool { return s.Stage == name })
}

// withRole lists the cases that have one of the roles.
func (r *adaptRecord) withRole(roles ...string) []AdaptCase {
	var list []AdaptCase
	for _, c := range r.Cases {
		if slices.Contains(roles, c.Role) {
			list = append(list, c)
		}
	}
	return list
}

func (r *adaptRecord) save(folder string) error {
	return writeIndented(filepath.Join(folder, adaptRecordFile), r)
}

// writeIndented writes a JSON file for people and programs.
func writeIndented(path string, doc any) error {
	b, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(b, '\n'))
}

// files lists the files that the results depend on, with the data files that headers name. Folders of DICOM are
// left to sameVoxels.
func (r *adaptRecord) files(checkpoint string) []string {
	list := []string{checkpoint}
	for _, c := range r.Cases {
		if c.Role == "" {
			continue
		}
		for _, path := range append(slices.Clone(c.Image), c.Label) {
			if !isFile(path) {
				continue
			}
			list = append(list, path)
			if isDICOM(path) {
				continue
			}
			if h, err := image.Header(path); err == nil {
				for _, name := range h.DataFiles {
					list = append(list, filepath.Join(filepath.Dir(path), name))
				}
			}
		}
	}
	return list
}

// sameVoxels complains of a case whose voxels or spacing are not those that were checked when the adaptation
// began.
func (r *adaptRecord) sameVoxels(c AdaptCase, im, seg *volume.Image) error {
	was, known := r.Voxels[c.Case]
	changed := func(what string) error {
		return fmt.Errorf("%s has changed since the adaptation began: begin anew in another folder", what)
	}
	switch {
	case !known: // a record of an earlier version
		return nil
	case im.Content() != was.Image || im.Geometry.Spacing != c.Spacing:
		return changed("the image " + strings.Join(c.Image, ", "))
	case seg.Content() != was.Label:
		return changed("what the labels " + c.Label + " mark")
	}
	return nil
}

// hash records the sums of the files.
func (r *adaptRecord) hash(ctx context.Context, checkpoint string) error {
	r.Checkpoint = checkpoint
	var cache filehash.Cache
	for _, path := range r.files(checkpoint) {
		sum, err := cache.Sum(ctx, path)
		if err != nil {
			return err
		}
		r.SHA256[path] = sum.String()
	}
	return nil
}

// unchanged complains of files that are not what they were when the adaptation began.
func (r *adaptRecord) unchanged(ctx context.Context) error {
	for _, path := range slices.Sorted(maps.Keys(r.SHA256)) {
		sum, err := (*filehash.Cache)(nil).Sum(ctx, path)
		if err != nil {
			return fmt.Errorf("%w: the adaptation began with it", err)
		}
		if sum.String() != r.SHA256[path] {
			return fmt.Errorf("%s has changed since the adaptation began: begin anew in another folder", path)
		}
	}
	return nil
}

// Package cases finds the annotated cases of a folder: which files are images, and which are their
// labels. It goes by names alone and opens no image; of files without an image format's ending it
// looks at the first bytes, whether they are DICOM. What is in the files, and whether it fits, is
// for its callers. What names cannot settle is never guessed: it becomes the problem of a case,
// with the flags --images and --labels that settle it.
package cases

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
)

// A Layout is a way in which folders hold cases. Its text completes "found as …".
type Layout string

// The layouts, in the order in which they are tried.
const (
	Patterns Layout = "--images and --labels say"
	NNUNet   Layout = "nnU-Net's raw layout"
	Folders  Layout = "a folder of images and one of labels"
	Each     Layout = "a folder for each case"
	Flat     Layout = "images and labels in one folder"
	DICOM    Layout = "DICOM" // whose references say what belongs to what: Find lists no cases
)

// A Case is an image with its labels, or what is there of it.
type Case struct {
	Name string
	// one file per channel, or a file, folder or zip of DICOM; empty if there is none
	Images  []string
	Label   string // "" if there is none
	Problem string // why it is no case; "" if it is one
	Advice  string // how the problem is settled
}

// Found is what a folder holds.
type Found struct {
	Layout Layout
	Cases  []Case   // by name
	Test   []Case   // of nnU-Net's imagesTs and labelsTs, which are for testing
	Notes  []string // what was left out, for people
}

// Options say where to look.
type Options struct {
	// Images and Labels are paths of a case's files below the folder; both or none are given.
	Images, Labels string
	// Without lists folders and files that are no cases, such as the one of the results.
	Without []string
}

// Check reports what is wrong with the patterns.
func (o *Options) Check() error {
	for i, text := range []string{o.Images, o.Labels} {
		if _, err := parse(text); err != nil && o.Images+o.Labels != "" {
			return fmt.Errorf("%s %w", []string{"--images", "--labels"}[i], err)
		}
	}
	if o.Images == o.Labels && o.Images != "" {
		return fmt.Errorf("--images and --labels are both %q, expected different files", o.Images)
	}
	return nil
}

// Find finds the cases of a folder by the first layout that fits. Symbolic links are followed, but
// never deeper than a layout reaches. The error says what was expected, and what is there instead.
func Find(ctx context.Context, folder string, o Options) (*Found, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	info, err := os.Stat(folder)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file, expected a folder of images and labels", folder)
	}
	f := &finder{ctx: ctx, root: folder}
	for _, path := range o.Without {
		if info, err := os.Stat(path); err == nil {
			f.without = append(f.without, info)
		}
	}
	found, err := f.find(o)
	if err != nil {
		return nil, err
	}
	for _, list := range [][]Case{found.Cases, found.Test} {
		slices.SortStableFunc(list, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
		for i := range list {
			for k, rel := range list[i].Images {
				list[i].Images[k] = f.path(rel)
			}
			if list[i].Label != "" {
				list[i].Label = f.path(list[i].Label)
			}
		}
	}
	found.Notes = f.notes
	return found, nil
}

// finder looks through a folder. Its paths are relative to that, with slashes.
type finder struct {
	ctx     context.Context
	root    string
	without []os.FileInfo
	notes   []string
}

func (f *finder) path(rel string) string {
	if filepath.IsAbs(rel) {
		return rel
	}
	return filepath.Join(f.root, rel)
}

func (f *finder) note(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, args...))
}

func (f *finder) find(o Options) (*Found, error) {
	if o.Images != "" || o.Labels != "" {
		return f.patterns(o.Images, o.Labels)
	}
	entries, err := f.list("")
	if err != nil {
		return nil, err
	}
	for _, try := range []func([]entry) (*Found, error){f.folders, f.eachOrFlat} {
		if found, err := try(entries); found != nil || err != nil {
			return found, err
		}
	}
	return nil, f.nothing(entries)
}

// folders finds cases of nnU-Net's raw layout, and of a folder of images beside one of labels.
func (f *finder) folders(entries []entry) (*Found, error) {
	named := func(names []string) (found []entry) {
		for _, e := range entries {
			if e.kind == folder && slices.Contains(names, strings.ToLower(e.name)) {
				found = append(found, e)
			}
		}
		return found
	}
	images, labels := named(imageFolders), named(labelFolders)
	if len(images) == 0 || len(labels) == 0 {
		return nil, nil
	}
	if len(images) > 1 || len(labels) > 1 {
		return nil, f.severalFolders(images, labels)
	}
	found := &Found{Layout: Folders}
	if strings.EqualFold(images[0].name, "imagesTr") &&
		strings.EqualFold(labels[0].name, "labelsTr") {
		found.Layout = NNUNet
	}
	var err error
	if found.Layout == NNUNet {
		if found.Cases, err = f.listed(); err != nil {
			return nil, err
		}
	}
	if found.Cases == nil {
		found.Cases, err = f.pairFolders(images[0], labels[0])
	}
	if err != nil || found.Layout != NNUNet {
		return found, err
	}
	images, labels = named([]string{"imagests"}), named([]string{"labelsts"})
	switch {
	case len(images) == 1 && len(labels) == 1:
		found.Test, err = f.pairFolders(images[0], labels[0])
	case len(images) > 0:
		f.note("%s is left out: there is no labelsTs beside it", f.path(images[0].path))
	}
	return found, err
}

// listed are the cases that dataset.json lists, nil if it lists none or is not there.
func (f *finder) listed() ([]Case, error) {
	path := DatasetJSON(f.root)
	if path == "" {
		return nil, nil
	}
	d, err := plans.LoadDataset(path)
	if err != nil {
		return nil, fmt.Errorf("%w; without it, which the cases do not need: %s", err,
			flags("imagesTr/"+place+f.endingIn(entry{path: "imagesTr"}),
				"labelsTr/"+place+f.endingIn(entry{path: "labelsTr"})))
	}
	if _, ok := d.Raw().Get("dataset"); !ok {
		return nil, nil
	}
	all, err := raw.Open(f.root, "")
	if err != nil {
		return nil, err
	}
	list := []Case{}
	for _, c := range all.Cases {
		one := Case{Name: c.ID, Images: c.Images, Label: c.Label}
		if len(c.Images) == 0 {
			one.Problem = "no image: dataset.json lists none"
		}
		list = append(list, one)
	}
	return list, nil
}

// pairFolders pairs the files of a folder of images with those of a folder of labels.
func (f *finder) pairFolders(images, labels entry) ([]Case, error) {
	a, err := f.list(images.path)
	if err != nil {
		return nil, err
	}
	b, err := f.list(labels.path)
	if err != nil {
		return nil, err
	}
	a, b = f.usable(a), f.usable(b)
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	list := pair(a, b)
	matched := slices.ContainsFunc(list, func(c Case) bool {
		return len(c.Images) > 0 && c.Label != ""
	})
	if matched {
		return list, nil
	}
	slice := func(e entry) bool { return e.kind == dicomFile }
	if len(a) > 1 && !slices.ContainsFunc(a, func(e entry) bool { return !slice(e) }) {
		return nil, fmt.Errorf("%s holds the slices of DICOM series: put each series into a "+
			"folder of its own, named as its labels in %s", f.path(images.path), f.path(labels.path))
	}
	if len(a) == 0 || len(b) == 0 {
		return nil, f.emptyFolders(images, labels, len(a), len(b))
	}
	return list, nil
}

// DatasetJSON is the path of dataset.json in a folder of nnU-Net's raw layout, "" if it is none.
// That of the Decathlon and of nnU-Net 1, which lists training and has no file_ending, is not
// meant.
func DatasetJSON(folder string) string {
	at := filepath.Join(folder, "dataset.json")
	for _, part := range []string{"dataset.json", "imagesTr", "labelsTr"} {
		if _, err := os.Stat(filepath.Join(folder, part)); err != nil {
			return ""
		}
	}
	if v, err := plans.ReadJSON(at); err == nil {
		if o, ok := v.(*plans.Object); ok {
			_, listed := o.Get("training")
			if _, ending := o.Get("file_ending"); listed && !ending {
				return ""
			}
		}
	}
	return at
}

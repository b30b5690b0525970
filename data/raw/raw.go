// Package raw finds and checks nnU-Net's raw datasets: dataset.json, and the images and labels of
// each case. Images are only decoded to check them.
package raw

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/dicom"
)

// Dataset is a raw dataset.
type Dataset struct {
	Name   string // Dataset005_Prostate
	Folder string
	JSON   *plans.Dataset
	Cases  []Case // in nnU-Net's order: by name, or as listed in dataset.json
}

// Case is one training case.
type Case struct {
	ID     string
	Images []string // one file per channel
	Label  string   // segmentation file
}

// Open reads dataset.json of the named dataset in root (nnUNet_raw) and finds its cases, maybe
// none.
func Open(root, name string) (*Dataset, error) {
	d := &Dataset{Name: name, Folder: filepath.Join(root, name)}
	var err error
	if d.JSON, err = plans.LoadDataset(filepath.Join(d.Folder, "dataset.json")); err != nil {
		return nil, fmt.Errorf("raw: %w", err)
	}
	if d.Cases, err = cases(d.Folder, d.JSON.Raw()); err != nil {
		return nil, fmt.Errorf("raw: %w", err)
	}
	return d, nil
}

// Reader returns the reader class for the images: the one in dataset.json's
// overwrite_image_reader_writer, or the first of nnU-Net's list that supports the file ending and
// opens the first image.
func (d *Dataset) Reader() (images.Reader, error) {
	if r := d.namedReader(); r != nil {
		return r, nil
	}
	example, err := d.Example()
	if err != nil {
		return nil, err
	}
	r, err := images.Choose(d.JSON.FileEnding, example)
	if err != nil {
		return nil, fmt.Errorf("raw: %s: %w", d.Name, err)
	}
	return r, nil
}

// AnyReader is like Reader, but the class need not support the file ending: the first that opens
// the image is taken.
// Compat: so SimpleITKIO reads .nii files for plans that were moved, NibabelIO for those created
// here.
func (d *Dataset) AnyReader() (images.Reader, error) {
	if r := d.namedReader(); r != nil {
		return r, nil
	}
	example, err := d.Example()
	if err != nil {
		return nil, err
	}
	var failed []string
	for _, class := range []string{
		"NaturalImage2DIO", "SimpleITKIO", "Tiff3DIO", "NibabelIO", "NibabelIOWithReorient",
	} {
		r, err := images.ForName(class)
		if err == nil {
			if _, _, err = r.Read([]string{example}); err == nil {
				return r, nil
			}
			failed = append(failed, class+": "+err.Error())
		}
	}
	return nil, fmt.Errorf("raw: %s: no image reader opens %s: %s",
		d.Name, example, strings.Join(failed, "; "))
}

// namedReader returns the reader class in dataset.json, nil if there is none or it is unknown.
func (d *Dataset) namedReader() images.Reader {
	v, _ := d.JSON.Raw().Get("overwrite_image_reader_writer")
	class, ok := v.(string)
	if !ok || class == "None" {
		return nil
	}
	r, err := images.ForName(class)
	if err != nil {
		return nil // Compat: an unknown class is ignored
	}
	return r
}

// Example returns the first image of the first case.
func (d *Dataset) Example() (string, error) {
	if len(d.Cases) == 0 {
		folder, also := filepath.Join(d.Folder, "imagesTr"), ""
		if dicom.Holds(folder, "") {
			also = ", found " + importDICOM
		}
		return "", fmt.Errorf("raw: %s: no training case: expected files named CASE_0000%s in %s%s",
			d.Name, d.JSON.FileEnding, folder, also)
	}
	if len(d.Cases[0].Images) == 0 {
		return "", fmt.Errorf("raw: %s: case %s has no image: expected %s_0000%s",
			d.Name, d.Cases[0].ID, d.Cases[0].ID, d.JSON.FileEnding)
	}
	return d.Cases[0].Images[0], nil
}

// importDICOM is what was found where images are DICOM, and what to do.
const importDICOM = "DICOM: lntorch import makes a dataset of it"

// cases finds the training cases of the dataset in folder; doc is its dataset.json.
// Source: nnU-Net 2.5.1, get_filenames_of_train_images_and_targets.
func cases(folder string, doc *plans.Object) ([]Case, error) {
	if listed, ok := doc.Get("dataset"); ok {
		return listedCases(folder, listed)
	}
	v, _ := doc.Get("file_ending")
	ending, ok := v.(string)
	if !ok || ending == "" {
		return nil, fmt.Errorf("%s: file_ending: expected the ending of the image files, such as "+
			"\".nii.gz\", found %v", filepath.Join(folder, "dataset.json"), v)
	}
	files, err := filesIn(filepath.Join(folder, "imagesTr"), ending)
	if err != nil {
		return nil, err
	}
	list := caseFiles(filepath.Join(folder, "imagesTr"), files, ending)
	for i := range list {
		list[i].Label = filepath.Join(folder, "labelsTr", list[i].ID+ending)
	}
	return list, nil
}

// Images returns the cases of a folder of images with that ending, such as imagesTs, by
// nnU-Net's rule; they have no labels. A case whose files have no channel number has no images.
// Source: nnU-Net 2.5.1, create_lists_from_splitted_dataset_folder.
func Images(folder, ending string) ([]Case, error) {
	files, err := filesIn(folder, ending)
	if err != nil {
		return nil, fmt.Errorf("raw: %w", err)
	}
	return caseFiles(folder, files, ending), nil
}

// filesIn lists the files in a folder with the given ending, sorted.
func filesIn(folder, ending string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ending) {
			continue
		}
		isDir := e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 {
			info, err := os.Stat(filepath.Join(folder, e.Name()))
			isDir = err != nil || info.IsDir()
		}
		if !isDir {
			files = append(files, e.Name())
		}
	}
	return files, nil
}

// caseFiles groups the sorted names of the image files of a folder by case.
// Compat: the name of a case is a file name without its ending and five more characters, whatever
// they are; its images are the files with an underscore and four digits there. So a file with
// another name results in a case without images, which the integrity check and the readers report.
func caseFiles(folder string, files []string, ending string) []Case {
	channels := map[string][]string{}
	var names []string
	for _, f := range files {
		stem := strings.TrimSuffix(f, ending)
		name := stem
		for range 5 {
			_, n := utf8.DecodeLastRuneInString(name)
			name = name[:len(name)-n]
		}
		names = append(names, name)
		other := func(r rune) bool { return r < '0' || r > '9' }
		if s := stem[len(name):]; len(s) == 5 && s[0] == '_' &&
			!strings.ContainsFunc(s[1:], other) {
			channels[name] = append(channels[name], filepath.Join(folder, f))
		}
	}
	slices.Sort(names)
	var list []Case
	for _, n := range slices.Compact(names) {
		list = append(list, Case{ID: n, Images: channels[n]})
	}
	return list
}

// listedCases reads the key dataset of dataset.json. Relative paths are relative to folder.
func listedCases(folder string, v any) ([]Case, error) {
	where := filepath.Join(folder, "dataset.json") + ": dataset"
	o, ok := v.(*plans.Object)
	if !ok {
		return nil, fmt.Errorf(`%s: expected an object such as `+
			`{"CASE": {"images": ["imagesTr/CASE_0000.nii.gz"], "label": "labelsTr/CASE.nii.gz"}}`,
			where)
	}
	absolute := func(path string) (string, error) {
		if filepath.IsAbs(path) {
			return path, nil
		}
		return filepath.Abs(filepath.Join(folder, path))
	}
	var list []Case
	for _, name := range o.Keys() {
		if name == "" || name != filepath.Base(name) || name == "." || name == ".." {
			return nil, fmt.Errorf("%s: %q: expected a case name that is valid in a file name",
				where, name)
		}
		c := Case{ID: name}
		e, _ := o.Get(name)
		entry, _ := e.(*plans.Object)
		label, _ := entry.Get("label")
		files, _ := entry.Get("images")
		path, okLabel := label.(string)
		paths, okImages := files.([]any)
		if !okLabel || !okImages {
			return nil, fmt.Errorf(`%s: %s: expected {"images": [files], "label": file}`, where, name)
		}
		var err error
		if c.Label, err = absolute(path); err != nil {
			return nil, err
		}
		for _, p := range paths {
			path, ok := p.(string)
			if !ok {
				return nil, fmt.Errorf("%s: %s: images: expected file names, found %v", where, name, p)
			}
			if path, err = absolute(path); err != nil {
				return nil, err
			}
			c.Images = append(c.Images, path)
		}
		list = append(list, c)
	}
	return list, nil
}

// FindName returns the folder name of a dataset given by its full name or its number, which is
// looked up in the folders roots; empty roots are skipped.
func FindName(arg string, roots ...string) (string, error) {
	if strings.HasPrefix(arg, "Dataset") {
		return arg, nil
	}
	id, err := strconv.Atoi(arg)
	if err != nil || id < 0 {
		return "", fmt.Errorf("dataset %q: expected a number or a name starting with Dataset", arg)
	}
	roots = slices.DeleteFunc(slices.Clone(roots), func(r string) bool { return r == "" })
	prefix := fmt.Sprintf("Dataset%03d", id)
	var found []string
	for _, root := range roots {
		entries, err := os.ReadDir(root)
		if err != nil {
			continue // like nnU-Net, which treats a missing root as empty
		}
		for _, e := range entries {
			rest, ok := strings.CutPrefix(e.Name(), prefix)
			// Differs: for nnU-Net number 100 also matches Dataset1001_X.
			if !ok || rest != "" && rest[0] >= '0' && rest[0] <= '9' ||
				slices.Contains(found, e.Name()) {
				continue
			}
			if info, err := os.Stat(filepath.Join(root, e.Name())); err == nil && info.IsDir() {
				found = append(found, e.Name())
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("dataset %s: no folder %s_… in %s",
			arg, prefix, strings.Join(roots, ", "))
	}
	return "", fmt.Errorf("dataset %s: found %s; give the full name",
		arg, strings.Join(found, ", "))
}

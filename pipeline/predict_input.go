package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/derived"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/settings"
)

// imageCase is an image to segment and where its segmentation goes.
type imageCase struct {
	id       string
	images   []string // one file a channel
	dicom    bool     // images is one path: a DICOM file, folder or zip
	misnamed string   // a file of a folder without a channel number, where there are no images
	previous string   // segmentation of a cascade's previous stage; empty where there is none
	output   string   // the segmentation's file
	stem     string   // output without its ending
}

// imageEnding is the ending of an image file's name as it stands there, "" for another file's.
func imageEnding(path string) string {
	lower := strings.ToLower(filepath.Base(path))
	longest := 0
	for _, e := range images.Supported {
		if strings.HasSuffix(lower, e) && len(lower) > len(e) {
			longest = max(longest, len(e))
		}
	}
	return path[len(path)-longest:]
}

// findImages finds the cases of a folder, by nnU-Net's naming, or of the files and DICOM series that
// are named. A folder that holds images in that naming is one of these, whatever else it holds; any
// other that holds DICOM is a series.
func findImages(inputs []string, ending string, o Output) (cases []imageCase, folder bool, err error) {
	if len(inputs) == 0 {
		return nil, false, settings.Usage("-i is not given: a folder of images, image files, or DICOM")
	}
	for _, path := range inputs {
		if err := exists("-i", path, "a folder of images, or image files"); err != nil {
			return nil, false, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, false, err
		}
		if !info.IsDir() {
			continue
		}
		found, err := raw.Images(path, ending)
		if err != nil {
			return nil, false, err
		}
		named := slices.ContainsFunc(found, func(c raw.Case) bool { return len(c.Images) > 0 })
		if len(inputs) > 1 {
			if named {
				return nil, false, settings.Usage("-i: %s is a folder of images in nnU-Net's naming: "+
					"give it alone", path)
			}
			continue // DICOM, or none: its case fails
		}
		held := dicom.Holds(path, ending)
		if held && named {
			o.Printf("%s: the images in nnU-Net's naming are taken; DICOM that lies there, too, is not", path)
		}
		if named || !held {
			cases, err = folderImages(path, ending)
			return cases, true, err
		}
	}
	cases, err = namedImages(inputs)
	return cases, false, err
}

func folderImages(folder, ending string) ([]imageCase, error) {
	found, err := raw.Images(folder, ending)
	if err != nil {
		return nil, err
	}
	var cases []imageCase
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, c := range found {
		if len(c.Images) > 0 && c.ID != "" { // without a name the results would be hidden files
			cases = append(cases, imageCase{id: c.ID, images: c.Images})
		}
	}
	// nnU-Net makes one case of all files that share a name but for five letters; each is a mistake.
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ending)
		if ok && !e.IsDir() && (!channelNumber.MatchString(stem) || len(stem) == 5) {
			cases = append(cases, imageCase{id: stem, misnamed: filepath.Join(folder, e.Name())})
		}
	}
	slices.SortStableFunc(cases, func(a, b imageCase) int { return cmp.Compare(a.id, b.id) })
	if len(cases) > 0 {
		return cases, nil
	}
	return nil, fmt.Errorf("%s: no images: expected names such as CASE_0000%s or DICOM, found %s; give files of other names one by one with -i",
		folder, ending, listed(entries))
}

// listed names the first entries of a folder.
func listed(entries []os.DirEntry) string {
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return cmp.Or(several(names), "none")
}

// exists complains of a path that a flag names and that is not there, with what is there instead.
func exists(flag, path, expected string) error {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		entries, err := os.ReadDir(dir)
		if err == nil {
			return fmt.Errorf("%s %s: no such file or folder, expected %s; %s holds %s", flag, path,
				expected, dir, listed(entries))
		}
		if dir == filepath.Dir(dir) {
			return fmt.Errorf("%s %s: no such file or folder, expected %s", flag, path, expected)
		}
	}
}

// channelNumber is what stands before the ending in nnU-Net's names of images.
var channelNumber = regexp.MustCompile(`_\d{4}$`)

// namedImages makes cases of files: the name of a case is that of its file without ending and _0000,
// and the files with other numbers in its place are its further channels. Without a file of channel 0
// such a number belongs to the name, as in LN_0017. DICOM is told by its content.
func namedImages(paths []string) ([]imageCase, error) {
	numbered := map[string]bool{} // names with a channel 0
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), imageEnding(path))
		if id, ok := strings.CutSuffix(name, "_0000"); ok {
			numbered[id] = true
		}
	}
	var cases []imageCase
	for i, path := range paths {
		if slices.Contains(paths[:i], path) {
			return nil, settings.Usage("-i: %s is given twice", path)
		}
		if series.Is(path) {
			id, err := seriesName(path)
			if err != nil {
				return nil, err
			}
			if at := slices.IndexFunc(cases, func(c imageCase) bool { return c.id == id }); at >= 0 {
				return nil, sameName(cases[at].images[0], path, id)
			}
			cases = append(cases, imageCase{id: id, images: []string{path}, dicom: true})
			continue
		}
		ending := imageEnding(path)
		if ending == "" {
			return nil, settings.Usage("-i: %s: expected a name that ends in %s, DICOM, or one folder", path, strings.Join(images.Supported, " or "))
		}
		name := strings.TrimSuffix(filepath.Base(path), ending)
		id := channelNumber.ReplaceAllString(name, "")
		if id != name && !numbered[id] {
			first := strings.TrimSuffix(path, filepath.Base(path)) + id + "_0000" + ending
			if _, err := os.Stat(first); err == nil {
				return nil, settings.Usage("-i: %s is a further channel of %s: give both",
					path, first)
			}
			id = name
		}
		if id == "" {
			id = name
		}
		at := slices.IndexFunc(cases, func(c imageCase) bool { return c.id == id })
		if at < 0 {
			cases = append(cases, imageCase{id: id, images: []string{path}})
			continue
		}
		c := &cases[at]
		first := c.images[0]
		numberless := id == name || filepath.Base(first) == id+ending
		if c.dicom || numberless || filepath.Dir(first) != filepath.Dir(path) || imageEnding(first) != ending {
			return nil, sameName(first, path, id)
		}
		c.images = append(c.images, path)
	}
	for _, c := range cases {
		slices.SortFunc(c.images, func(a, b string) int { return cmp.Compare(filepath.Base(a), filepath.Base(b)) })
		for channel, path := range c.images {
			if want := fmt.Sprintf("%s_%04d%s", c.id, channel, imageEnding(path)); channel > 0 && filepath.Base(path) != want {
				return nil, settings.Usage("-i: channel %d of %s is missing: expected %s before %s", channel, c.id, want, path)
			}
		}
	}
	return cases, nil
}

// sameName is the error of two inputs that would be segmented to one file.
func sameName(first, second, id string) error {
	folder := func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && info.IsDir()
	}
	above := ""
	if folder(first) && folder(second) { // PATIENT/CT
		above = " the folders above, if they hold no other image, or"
	}
	return settings.Usage("-i: %s and %s are both of a case named %s: give%s them in two runs", first, second, id, above)
}

// isImageName says that -o names a file and not a folder.
func isImageName(path string) bool {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return false
	}
	return image.ForName(path) != nil
}

// otherEndings are those of files that a segmentation cannot be.
var otherEndings = []string{".gz", ".hdr", ".img", ".mgz", ".mgh", ".dcm", ".tif", ".tiff",
	".png", ".jpg", ".npz", ".npy", ".pkl", ".json", ".zip"}

// outputIsFile says that -o names the file of the segmentation.
func (c *PredictConfig) outputIsFile() bool {
	if c.To == "" {
		return isImageName(c.Output)
	}
	info, err := os.Stat(c.Output)
	return isObjectName(c.Output) && (err != nil || !info.IsDir())
}

// place says where the segmentations go, and refuses to write over an image.
func (s *segmenter) place(named bool) error {
	cases, output := s.cases, s.Output
	for _, path := range s.Input {
		in, err := os.Stat(path)
		out, outErr := os.Stat(output)
		if err == nil && outErr == nil && in.IsDir() && os.SameFile(in, out) {
			return settings.Usage("-o %s is the folder of the images, where segmentations would count "+
				"as images in the next run: name another folder", output)
		}
	}
	if err := s.checkOutput(); err != nil {
		return err
	}
	if s.outputIsFile() {
		if len(cases) != 1 {
			return settings.Usage("-o %s is a file, but there are %d images: name a folder", output, len(cases))
		}
		cases[0].output = output
		cases[0].stem = strings.TrimSuffix(output, cmp.Or(imageEnding(output), filepath.Ext(output)))
	} else {
		for i := range cases {
			c := &cases[i]
			own := s.model.dataset.FileEnding
			switch {
			case s.To != "":
				own = objectEnding
			case named && !c.dicom:
				own = imageEnding(c.images[0])
			}
			c.stem = filepath.Join(output, c.id)
			c.output = c.stem + own
		}
	}
	for _, c := range cases {
		if _, err := os.Stat(c.output); err != nil {
			continue
		}
		if path := replaced(c.output, c.images...); path != "" {
			return settings.Usage("the segmentation of %s would take its place: name another -o", path)
		}
		if s.To != "" && !derived.Made(c.output) {
			return settings.Usage("%s is there, and lntorch did not make it: name another -o", c.output)
		}
	}
	return nil
}

// checkOutput refuses an -o of another format than the segmentations will have.
func (s *segmenter) checkOutput() error {
	output := s.Output
	if info, err := os.Stat(output); err == nil && info.IsDir() {
		return nil
	}
	switch e := strings.ToLower(filepath.Ext(output)); {
	case isObjectName(output) && s.To == "":
		return settings.Usage("-o %s: a segmentation of a DICOM series becomes a DICOM object with --to seg "+
			"or --to rtstruct", output)
	case isObjectName(output):
	case s.To != "" && (image.ForName(output) != nil || slices.Contains(otherEndings, e)):
		return settings.Usage("-o %s: --to %s writes files that end in %s; for a folder of another name add "+
			"a / to it", output, s.To, objectEnding)
	case image.ForName(output) != nil && s.reader.Name() != "SimpleITKIO" && image.ForName(output) != &nifti.Format:
		return settings.Usage("-o %s: the model's %s writes files that end in %s", output, s.reader.Name(),
			strings.Join(nifti.Endings, " or "))
	case image.ForName(output) == nil && slices.Contains(otherEndings, e):
		return settings.Usage("-o %s: segmentations end in %s; for a folder of another name add a / to it", output, strings.Join(images.Supported, " or "))
	}
	return nil
}

// part takes every numParts-th case from partID on, as nnU-Net does.
func part(cases []imageCase, numParts, partID int) ([]imageCase, error) {
	if partID >= numParts {
		return nil, settings.Usage("-part_id %d: expected 0 to %d, for -num_parts %d", partID, numParts-1, numParts)
	}
	var own []imageCase
	for i := partID; i < len(cases); i += numParts {
		own = append(own, cases[i])
	}
	return own, nil
}

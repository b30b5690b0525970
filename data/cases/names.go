package cases

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/image"
)

// Names of folders, in lower case.
var (
	imageFolders = []string{"images", "imagestr", "image", "img", "imgs", "ct", "cts", "scans",
		"scan", "volumes", "volume"}
	labelFolders = []string{"labels", "labelstr", "label", "masks", "mask", "seg", "segs",
		"segmentations", "segmentation", "gt", "annotations", "annotation"}
)

// Words in names of files, in lower case.
var (
	imageWords = []string{"image", "images", "img", "ct", "cect", "cbct", "scan", "volume", "pet",
		"pt", "mr", "mri"}
	labelWords  = []string{"label", "labels", "seg", "segmentation", "mask", "gt", "nodes", "ln"}
	objectWords = []string{"rtstruct", "rtss", "rs"} // of DICOM
)

// separators stand between the words of a name.
const separators = "_-."

// channelNumber is what ends the stem of a channel's file in nnU-Net's naming.
var channelNumber = regexp.MustCompile(`_\d{4}$`)

type kind int

const (
	other     kind = iota
	picture        // file of an image format
	dicomFile      // file or zip of DICOM
	folder
	dicomFolder
)

// An entry is a file or a folder in a folder.
type entry struct {
	name string
	path string // relative to the root
	stem string // name without the ending of an image format, of DICOM or a zip
	kind kind
}

// list lists a folder in the order of names, without hidden files (macOS puts ._NAME beside NAME)
// and what is not to be looked at. A link counts as what it leads to; one that leads nowhere as the
// file that its name says, so that it is not silently missing.
func (f *finder) list(rel string) ([]entry, error) {
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	all, err := os.ReadDir(f.path(rel))
	if err != nil {
		return nil, err
	}
	var list []entry
	for _, d := range all {
		e := entry{name: d.Name(), path: path.Join(rel, d.Name()), stem: d.Name()}
		if strings.HasPrefix(e.name, ".") || f.leftOut(e, d) {
			continue
		}
		isFolder := d.IsDir()
		if d.Type()&fs.ModeSymlink != 0 {
			info, err := os.Stat(f.path(e.path))
			isFolder = err == nil && info.IsDir()
		}
		ending := image.Ending(e.name)
		switch ext := filepath.Ext(e.name); {
		case isFolder:
			e.kind = folder
		case ending != "" && len(ending) < len(e.name):
			e.kind, e.stem = picture, strings.TrimSuffix(e.name, ending)
		case dicom.IsName(e.name):
			e.kind, e.stem = dicomFile, strings.TrimSuffix(e.name, ext)
		case strings.EqualFold(ext, ".zip"):
			if dicom.Is(f.path(e.path)) {
				e.kind, e.stem = dicomFile, strings.TrimSuffix(e.name, ext)
			}
		case strings.Trim(ext, ".0123456789") == "": // IM0001, 1.2.840.113619, IM.0001
			if dicom.Is(f.path(e.path)) {
				e.kind = dicomFile
			}
		}
		list = append(list, e)
		if len(list)%1024 == 0 && f.ctx.Err() != nil {
			return nil, f.ctx.Err()
		}
	}
	return list, nil
}

// leftOut reports whether an entry is one that is not to be looked at.
func (f *finder) leftOut(e entry, d fs.DirEntry) bool {
	if len(f.without) == 0 || !d.IsDir() && d.Type()&fs.ModeSymlink == 0 {
		return false
	}
	info, err := os.Stat(f.path(e.path))
	return err == nil && slices.ContainsFunc(f.without, func(w os.FileInfo) bool {
		return os.SameFile(info, w)
	})
}

// usable are the entries that may be an image or labels: files, and folders that hold DICOM.
func (f *finder) usable(entries []entry) (list []entry) {
	for _, e := range entries {
		if e.kind == folder && f.holdsDICOM(e.path) {
			e.kind = dicomFolder
		}
		if e.kind != other && e.kind != folder {
			list = append(list, e)
		}
	}
	return list
}

// maxLooked bounds the files of a folder that are looked at for DICOM.
const maxLooked = 1000

// holdsDICOM reports whether a folder, or one below it, holds DICOM and no image of another format.
func (f *finder) holdsDICOM(rel string) bool {
	real, err := filepath.EvalSymlinks(f.path(rel))
	if err != nil {
		return false
	}
	found, looked := false, 0
	filepath.WalkDir(real, func(at string, d fs.DirEntry, err error) error {
		looked++
		if looked > maxLooked || f.ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return nil
		}
		if image.Ending(d.Name()) != "" {
			found = false
			return fs.SkipAll
		}
		found = found || dicom.IsName(d.Name()) ||
			strings.Trim(filepath.Ext(at), ".0123456789") == "" && dicom.Is(at)
		return nil
	})
	return found
}

// withoutWord is a stem without a word and the separators before it at its end; false if it ends in
// none of them, or is nothing else.
func withoutWord(stem string, words []string) (string, bool) {
	at := strings.LastIndexAny(stem, separators)
	if at < 0 || !slices.Contains(words, strings.ToLower(stem[at+1:])) {
		return stem, false
	}
	short := strings.TrimRight(stem[:at], separators)
	return short, short != ""
}

// says reports whether one of the words of a stem is among these.
func says(stem string, words []string) bool {
	parts := strings.FieldsFunc(strings.ToLower(stem), func(r rune) bool {
		return strings.ContainsRune(separators+" ", r)
	})
	return slices.ContainsFunc(parts, func(p string) bool { return slices.Contains(words, p) })
}

// isPart reports whether a folder is called as one of all images or all labels.
func isPart(name string) bool {
	lower := strings.ToLower(name)
	return slices.Contains(imageFolders, lower) || slices.Contains(labelFolders, lower)
}

// imageKeys are the names of cases that an image with this stem may be of, the likeliest first.
func imageKeys(stem string) []string {
	keys := []string{stem}
	base := channelNumber.ReplaceAllString(stem, "")
	for _, k := range []string{stem, base} {
		if k != "" && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
		if short, ok := withoutWord(k, imageWords); ok {
			keys = append(keys, short)
		}
	}
	return keys
}

package cases

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// severalFolders refuses more than one folder of images or of labels.
func (f *finder) severalFolders(images, labels []entry) error {
	what := "folders of images: " + listed(images, len(images)) + "; of labels: " + listed(labels, len(labels))
	var texts []string
	for i := range min(3, max(len(images), len(labels))) {
		a, b := images[min(i, len(images)-1)], labels[min(i, len(labels)-1)]
		texts = append(texts, flags(a.name+"/"+place+f.endingIn(a), b.name+"/"+place+f.endingIn(b)))
	}
	return fmt.Errorf("%s: found several %s: say which with %s", f.root, what,
		strings.Join(texts, " or "))
}

// endingIn is the ending of the first image file in a folder, with its channel number.
func (f *finder) endingIn(sub entry) string {
	inside, err := f.list(sub.path)
	at := slices.IndexFunc(inside, func(e entry) bool { return e.kind == picture })
	if err != nil || at < 0 {
		return ""
	}
	e := inside[at]
	return channelNumber.FindString(e.stem) + e.name[len(e.stem):]
}

// emptyFolders is the error of a folder of images or labels in which there are none.
func (f *finder) emptyFolders(images, labels entry, n, m int) error {
	empty, what := images, "images"
	if m == 0 && n > 0 {
		empty, what = labels, "labels"
	}
	deeper := ""
	a, b := f.example(images, 3), f.example(labels, 3)
	if n > 0 {
		// of DICOM folders without an ending
		a = &entry{path: images.name + "/" + place + f.endingIn(images)}
	}
	if a != nil && b != nil && (strings.Count(a.path, "/") > 1 || strings.Count(b.path, "/") > 1) {
		deeper = fmt.Sprintf("; %s lies deeper: say where with %s", b.path,
			flags(deepPattern(a.path), deepPattern(b.path)))
	}
	return fmt.Errorf("%s: found no %s, expected files such as CASE.nii.gz%s", f.path(empty.path),
		what, deeper)
}

// example is the first image file in a folder or, so many levels deep, below it.
func (f *finder) example(sub entry, levels int) *entry {
	inside, err := f.list(sub.path)
	if err != nil {
		return nil
	}
	if at := slices.IndexFunc(inside, func(e entry) bool { return e.kind == picture }); at >= 0 {
		return &inside[at]
	}
	for _, e := range inside {
		if e.kind != folder || levels == 0 {
			continue
		}
		return f.example(e, levels-1) // the first is like the others
	}
	return nil
}

// deepPattern is FOLDER/{case}/FILE for FOLDER/CASE/FILE.
func deepPattern(rel string) string {
	parts := strings.Split(rel, "/")
	switch {
	case strings.Contains(rel, place):
	case len(parts) < 3:
		parts[len(parts)-1] = place + ".nii.gz"
	default:
		parts[1] = place
	}
	return strings.Join(parts, "/")
}

// unknownFolders notices two folders that hold files of the same names, but are not called images
// and labels.
func (f *finder) unknownFolders(entries []entry) error {
	var folders []entry
	var stems []map[string]bool
	for _, e := range entries {
		if e.kind != folder {
			continue
		}
		inside, err := f.list(e.path)
		if err != nil {
			continue
		}
		names := map[string]bool{}
		for _, file := range inside {
			if file.kind == picture {
				names[channelNumber.ReplaceAllString(file.stem, "")] = true
			}
		}
		if len(names) > 0 {
			folders, stems = append(folders, e), append(stems, names)
		}
		if len(folders) > 2 {
			return nil // folders of cases, in which names repeat
		}
	}
	if len(folders) != 2 {
		return nil
	}
	for name := range stems[0] {
		if !stems[1][name] {
			continue
		}
		var patterns [2]string
		for i, e := range folders {
			patterns[i] = e.name + "/" + place + f.endingIn(e)
		}
		return fmt.Errorf("%s: the folders %s and %s hold files of the same names, and which "+
			"holds the labels is not known: say so with %s or %s", f.root, folders[0].name, folders[1].name,
			flags(patterns[0], patterns[1]), flags(patterns[1], patterns[0]))
	}
	return nil
}

// onlyOne reports whether the files are an image and its labels.
func (f *finder) onlyOne(files []entry) bool {
	images, labels := divide(entry{name: "/"}, files)
	return len(labels) == 1 && inChannels(images)
}

// nothing is the error where no layout fits.
func (f *finder) nothing(entries []entry) error {
	var below, lone []string
	deeper := "" // flags
	for i, e := range entries {
		if e.kind != folder {
			continue
		}
		if isPart(e.name) {
			lone = append(lone, e.name)
			continue
		}
		const most = 100
		if i < most {
			if said := f.below(e); said != "" {
				below, deeper = append(below, f.path(e.path)), said
			}
		}
	}
	holds := "nothing"
	if len(entries) > 0 {
		holds = listed(entries, 8)
	}
	next := "; say what is what with " + f.deepExample(entries)
	switch {
	case len(below) > 3:
		next = "; there are cases one folder deeper: say so with " + deeper
	case len(below) > 0:
		next = "; there are cases in " + strings.Join(below, ", ") + ": give that folder"
		if len(below) > 1 {
			next += ", and another one, if it holds test cases, with --test"
		}
	case len(lone) > 0:
		next = fmt.Sprintf("; beside %s there is no folder for the other part (names of such "+
			"folders: images, ct, scans, volumes; labels, masks, segmentations, gt, "+
			"annotations)%s", strings.Join(lone, ", "), next)
	case len(entries) == 0:
		next = ""
	}
	return fmt.Errorf("%s: found no annotated cases, expected a folder of images and one of "+
		"labels, a folder for each case, or images and labels in one folder; it holds %s%s",
		f.root, holds, next)
}

// below are flags for the cases that a folder holds itself, in whatever folder they lie; "" if it
// holds none.
func (f *finder) below(sub entry) string {
	in := &finder{ctx: f.ctx, root: f.path(sub.path), without: f.without}
	entries, err := in.list("")
	if err != nil {
		return ""
	}
	for _, try := range []func([]entry) (*Found, error){in.folders, in.eachOrFlat} {
		found, err := try(entries)
		if err != nil || found == nil {
			continue
		}
		c := whole(found.Cases)
		if c == nil {
			continue
		}
		image, labels := patternOf(c.Name, c.Images[0]), patternOf(c.Name, c.Label)
		if image == "" || labels == "" {
			return anyPatterns
		}
		return flags("*/"+image, "*/"+labels)
	}
	return ""
}

// deepExample are flags made of the first files that lie deeper.
func (f *finder) deepExample(entries []entry) string {
	for _, e := range entries {
		if e.kind != folder {
			continue
		}
		x := f.example(e, 3)
		if x == nil {
			continue
		}
		dir := path.Dir(x.path)
		inside, err := f.list(dir)
		if err != nil || strings.Count(x.path, "/") < 2 {
			break
		}
		parts := strings.Split(dir, "/")
		for i := range parts {
			parts[i] = "*"
		}
		parts[0] = place
		images, labels := divide(entry{name: parts[0]}, f.usable(inside))
		if len(labels) == 0 && len(images) > 1 {
			images, labels = images[:1], images[1:]
		}
		if len(images) > 0 && len(labels) > 0 {
			at := strings.Join(parts, "/") + "/"
			return "flags such as " + flags(at+images[0].name, at+labels[0].name) + " (there is " +
				x.path + ")"
		}
		break
	}
	return anyPatterns
}

package cases

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/internal/brief"
)

// eachOrFlat finds cases of folders that hold a case each, and of one folder that holds all.
func (f *finder) eachOrFlat(entries []entry) (*Found, error) {
	each, dicomOnly, err := f.each(entries)
	if err != nil {
		return nil, err
	}
	files := slices.DeleteFunc(slices.Clone(entries), func(e entry) bool {
		return e.kind != picture && e.kind != dicomFile
	})
	flat := pairFlat(files)
	inFolders, inOne := whole(each), whole(flat)
	switch {
	case inFolders != nil && inOne != nil:
		a, b := settled(inFolders), settled(inOne)
		return nil, fmt.Errorf("%s: found cases in folders of their own (%s) and beside these "+
			"(%s): say which are meant with %s or with %s", f.root, inFolders.Name,
			inOne.Name, a, b)
	case inFolders != nil:
		if n := pictures(files); n > 0 {
			f.note("%s: left out: %s beside the cases' folders", f.root,
				count(n, "image file", "image files"))
		}
		return &Found{Layout: Each, Cases: each}, nil
	case inOne != nil:
		return &Found{Layout: Flat, Cases: flat}, nil
	}
	if unknown := f.unknownFolders(entries); unknown != nil {
		return nil, unknown
	}
	if pictures(files) > 0 && f.onlyOne(files) {
		return nil, fmt.Errorf("%s is one case, an image and its labels: give the folder above "+
			"it, which holds a folder for each case", f.root)
	}
	ambiguous := func(c Case) bool { return c.Advice != "" }
	switch {
	case slices.ContainsFunc(each, ambiguous):
		return &Found{Layout: Each, Cases: each}, nil
	case slices.ContainsFunc(flat, ambiguous):
		return &Found{Layout: Flat, Cases: flat}, nil
	case dicomOnly || len(each) == 0 && pictures(files) == 0 && len(files) > 0:
		return &Found{Layout: DICOM}, nil
	}
	return nil, nil
}

// whole is the first case without a problem, or nil.
func whole(list []Case) *Case {
	at := slices.IndexFunc(list, func(c Case) bool { return c.Problem == "" })
	if at < 0 {
		return nil
	}
	return &list[at]
}

// settled are the flags that mean cases such as this one.
func settled(c *Case) string {
	image, labels := patternOf(c.Name, c.Images[0]), patternOf(c.Name, c.Label)
	if image == "" || labels == "" {
		return anyPatterns
	}
	return flags(image, labels)
}

func pictures(entries []entry) (n int) {
	for _, e := range entries {
		if e.kind == picture {
			n++
		}
	}
	return n
}

// each finds the cases of folders that hold one each. Folders in which there is no image file are
// no cases; dicom says that there are such with DICOM alone.
func (f *finder) each(entries []entry) (list []Case, dicom bool, err error) {
	var empty []string
	for _, sub := range entries {
		if sub.kind != folder {
			continue
		}
		inside, err := f.list(sub.path)
		if err != nil {
			if f.ctx.Err() != nil {
				return nil, false, err
			}
			list = append(list, Case{Name: sub.name, Problem: "cannot be read: " + err.Error()})
			continue
		}
		all := inside
		inside = f.usable(inside)
		if pictures(inside) == 0 {
			dicom = dicom || len(inside) > 0
			empty = append(empty, sub.name)
			continue
		}
		images, labels := divide(sub, inside)
		c := decide(sub.name, images, labels)
		if c.Problem != "" && isPart(sub.name) {
			continue // images without their labels, or the reverse
		}
		if len(images) == 1 && len(labels) == 0 {
			c.Advice = f.deeperLabels(sub, images[0], all)
		}
		list = append(list, c)
	}
	if whole(list) != nil && len(empty) > 0 {
		f.note("%s: folders in which there is no image file: %s", f.root, brief.Join(empty, ", ", 5))
	}
	return list, dicom, nil
}

// divide tells the image of a case's folder from its labels. Files whose names do not say what they
// are become images, so that two of them are noticed.
func divide(sub entry, inside []entry) (images, labels []entry) {
	series := false // slices lie in the folder itself
	for _, e := range inside {
		loose := e.kind == dicomFile && !strings.EqualFold(e.name, e.stem+".zip")
		switch {
		case says(ownStem(sub, e), labelWords),
			e.kind != picture && says(ownStem(sub, e), objectWords):
			labels = append(labels, e)
		case loose:
			series = true
		default:
			images = append(images, e)
		}
	}
	if series {
		sub.kind = dicomFolder
		images = append(images, sub)
	}
	if len(labels) == 0 {
		return byName(sub, images)
	}
	return images, labels
}

// deeperLabels are the flags for labels that lie in a folder of the case's folder.
func (f *finder) deeperLabels(sub, image entry, inside []entry) string {
	for _, e := range inside {
		if e.kind != folder {
			continue
		}
		if x := f.example(e, 1); x != nil {
			pictures, maps := patternOf(sub.name, image.path), patternOf(sub.name, x.path)
			if pictures != "" && maps != "" {
				return "labels in " + e.name + " are meant by flags such as " +
					flags(pictures, maps)
			}
		}
	}
	return ""
}

// ownStem is the stem of a file without the name of its case, which may hold any words.
func ownStem(sub, e entry) string { return strings.TrimPrefix(e.stem, sub.name) }

// byName finds the labels among entries of which none is called so: all others are called images or
// are a DICOM series; or of two it has the name of the other and more.
func byName(sub entry, all []entry) (images, labels []entry) {
	var rest []entry
	for _, e := range all {
		if e.kind == dicomFolder || says(ownStem(sub, e), imageWords) {
			images = append(images, e)
		} else {
			rest = append(rest, e)
		}
	}
	if len(rest) == 1 && len(images) > 0 {
		return images, rest
	}
	if len(all) != 2 || inChannels(all) {
		return all, nil
	}
	for i, e := range all {
		more, ok := strings.CutPrefix(all[1-i].stem, e.stem)
		if ok && more != "" && strings.Contains(separators+" ", more[:1]) {
			return all[i : i+1], all[1-i:][:1]
		}
	}
	return all, nil
}

// pairFlat finds the cases of one folder: labels have the name of their image and a word.
func pairFlat(files []entry) []Case {
	var images, labels []entry
	named := map[string]bool{} // stems whose labels are there
	for _, e := range files {
		if short, ok := withoutWord(e.stem, labelWords); ok {
			named[short] = true
		}
	}
	for _, e := range files {
		short, ok := withoutWord(e.stem, labelWords)
		// An image may end in such a word, too: there are labels for it, and no image for it to
		// label.
		base := func(e entry) bool { return slices.Contains(imageKeys(e.stem), short) }
		if ok && !(named[e.stem] && !slices.ContainsFunc(files, base)) {
			labels = append(labels, e)
		} else {
			images = append(images, e)
		}
	}
	return pair(images, labels)
}

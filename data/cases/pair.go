package cases

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/internal/brief"
)

// pair finds the labels of images by their names. Labels are an image's if their stem, with or
// without a word such as _seg at its end, is the image's, with or without a channel number (_0000)
// or a word such as _ct. A name as it stands wins: x_0001 is case x_0001 where labels have that
// name, and the second channel of x where they are named x.
func pair(images, labels []entry) []Case {
	own := map[string]bool{} // stems of images
	for _, e := range images {
		own[e.stem] = true
	}
	of := map[string][]entry{} // the labels of a name
	for _, e := range labels {
		of[e.stem] = append(of[e.stem], e)
		if short, ok := withoutWord(e.stem, labelWords); ok && !own[e.stem] {
			of[short] = append(of[short], e)
		}
	}
	groups := map[string][]entry{} // images of a name
	var names []string
	var alone []entry
	used := map[string]bool{} // paths of labels
	for _, e := range images {
		keys := imageKeys(e.stem)
		at := slices.IndexFunc(keys, func(k string) bool { return len(of[k]) > 0 })
		if at < 0 {
			alone = append(alone, e)
			continue
		}
		name := keys[at]
		if groups[name] == nil {
			names = append(names, name)
		}
		groups[name] = append(groups[name], e)
		for _, l := range of[name] {
			used[l.path] = true
		}
	}
	var list []Case
	for _, name := range names {
		list = append(list, decide(name, groups[name], of[name]))
	}
	unmatched := slices.DeleteFunc(slices.Clone(labels), func(e entry) bool { return used[e.path] })
	list = append(list, unlabelled(alone, unmatched)...)
	for _, e := range unmatched {
		name, _ := withoutWord(e.stem, labelWords)
		list = append(list, Case{Name: name, Label: e.path, Problem: "no image for these labels"})
	}
	return list
}

// decide makes a case of the images and the labels that have its name.
func decide(name string, images, labels []entry) Case {
	c := Case{Name: name}
	one := inChannels(images)
	for _, e := range images {
		c.Images = append(c.Images, e.path)
	}
	if len(labels) == 1 {
		c.Label = labels[0].path
	}
	switch {
	case len(images) == 0 && len(labels) == 0:
		c.Problem = "neither image nor labels"
	case len(images) == 0:
		c.Problem = "no image for these labels"
	case !one && len(labels) > 1:
		c.Problem = fmt.Sprintf("%d images (%s) and %d labels (%s)", len(images), listed(images, 4),
			len(labels), listed(labels, 4))
	case !one:
		c.Problem = fmt.Sprintf("%d images: %s", len(images), listed(images, 4))
	case len(labels) == 0:
		c.Problem = "no labels for this image"
	case len(labels) > 1:
		c.Problem = fmt.Sprintf("%d labels for one image: %s", len(labels), listed(labels, 4))
	}
	if c.Problem != "" && len(images) > 0 {
		c.Advice = settle(name, images, labels)
	}
	return c
}

// inChannels reports whether images are one, or the channels of one in nnU-Net's naming, 0000,
// 0001, ….
func inChannels(images []entry) bool {
	if len(images) == 1 {
		return true
	}
	for i, e := range images {
		number := channelNumber.FindString(e.stem)
		base := strings.TrimSuffix(e.stem, number)
		if e.kind != picture || number != fmt.Sprintf("_%04d", i) ||
			base != channelNumber.ReplaceAllString(images[0].stem, "") ||
			path.Dir(e.path) != path.Dir(images[0].path) {
			return false
		}
	}
	return len(images) > 0
}

// unlabelled makes cases of images without labels, channels of one together. Labels that have no
// image but begin with such a name are likely theirs, which is said.
func unlabelled(images, unmatched []entry) []Case {
	first := map[string]bool{} // names that have a channel 0000
	for _, e := range images {
		if base, ok := strings.CutSuffix(e.stem, "_0000"); ok && base != "" {
			first[base] = true
		}
	}
	var list []Case
	at := map[string]int{}
	for _, e := range images {
		name := e.stem
		if base := channelNumber.ReplaceAllString(e.stem, ""); first[base] {
			name = base
		}
		i, ok := at[name]
		if !ok {
			i = len(list)
			at[name] = i
			list = append(list, Case{Name: name, Problem: "no labels for this image"})
			list[i].Advice = likely(e, unmatched)
		}
		list[i].Images = append(list[i].Images, e.path)
	}
	return list
}

// likely are the flags for an image whose labels have its name and more behind it; "" if there are
// none.
func likely(e entry, unmatched []entry) string {
	for _, key := range imageKeys(e.stem) {
		for _, sep := range separators {
			at, _ := slices.BinarySearchFunc(unmatched, key+string(sep),
				func(l entry, s string) int {
					return strings.Compare(l.stem, s)
				})
			if at == len(unmatched) || !strings.HasPrefix(unmatched[at].stem, key+string(sep)) {
				continue
			}
			image, labels := patternOf(key, e.path), patternOf(key, unmatched[at].path)
			if image != "" && labels != "" {
				return "if these belong together, say so with " + flags(image, labels)
			}
		}
	}
	return ""
}

// listed names the first most entries.
func listed(all []entry, most int) string {
	var names []string
	for _, e := range all {
		names = append(names, e.name)
	}
	return brief.Join(names, ", ", most)
}

// settle says with which flags what is meant is said. Without labels they are among the images.
func settle(name string, images, labels []entry) string {
	pictures, maps := patternsOf(name, images, true), patternsOf(name, labels, false)
	var texts []string
	switch {
	case len(labels) > 0 && len(pictures) > 0 && len(maps) > 0:
		for i := range min(3, max(len(pictures), len(maps))) {
			texts = append(texts, flags(pictures[min(i, len(pictures)-1)],
				maps[min(i, len(maps)-1)]))
		}
	case len(labels) == 0 && len(images) == 1:
		return "" // nothing is unclear: labels are missing
	case len(labels) == 0 && len(pictures) > 1:
		texts = []string{flags(pictures[0], pictures[1]), flags(pictures[1], pictures[0])}
	default:
		return "say which with " + anyPatterns
	}
	return "say which with " + strings.Join(texts, " or ")
}

// anyPatterns shows what the flags look like, where no names give an example.
const anyPatterns = "--images '{case}/ct.nii.gz' --labels '{case}/nodes.nii.gz', the paths of a " +
	"case's files; {case} is any text without /, * any"

// flags are the two flags as they are typed.
func flags(images, labels string) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	return "--images " + quote(images) + " --labels " + quote(labels)
}

// patternsOf are patterns of which each means one of the entries of a case; with channels a single
// one if they are its channels.
func patternsOf(name string, entries []entry, channels bool) []string {
	if channels && len(entries) > 1 && inChannels(entries) {
		if p := patternOf(name, entries[0].path); p != "" {
			return []string{regexp.MustCompile(`_0000(\.[^/]*)$`).ReplaceAllString(p, "_????$1")}
		}
	}
	var all []string
	for _, e := range entries {
		if p := patternOf(name, e.path); p != "" && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// patternOf is the path of a case's file with {case} for its name; "" if the name is not in it.
func patternOf(name, rel string) string {
	if strings.ContainsAny(rel, "*?") || name == "" || strings.Contains(rel, place) {
		return ""
	}
	parts, found := strings.Split(rel, "/"), false
	for i, p := range parts {
		if p == name || i == len(parts)-1 && strings.HasPrefix(p, name) {
			parts[i], found = place+p[len(name):], true
		}
	}
	if !found {
		return ""
	}
	return strings.Join(parts, "/")
}

// count is a number of things.
func count(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + several
}

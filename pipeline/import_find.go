package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/data/pairing"
	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/rtstruct"
	"github.com/lntorch/lntorch/formats/dicom/seg"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// An importCase is an image on its way into the dataset.
type importCase struct {
	ImportedCase
	key     string         // by which cases are in order
	stack   *series.Stack  // nil for an image file
	file    string         // image file, "" for a stack
	header  *volume.Header // of the image file
	labels  *foundLabels   // RTSTRUCT, SEG or label map; nil without
	byFrame bool           // they share the frame of reference alone
	source  string         // says which image it is, without naming it; "" until it is known
	series  string         // says of which series it is, as source does; "" if none is known
	known   *recordedCase  // the dataset has it
	err     error
}

// foundLabels are an RTSTRUCT, a SEG or a label map.
type foundLabels struct {
	name   string
	object *series.Object // nil for a label map
	file   string         // "" for an object
	kind   string         // ROI, segment, value
	parts  []labels.Part
	to     labels.References
	source string // as of importCase
	err    error  // why they cannot be read
	match  []labels.Label
}

// find finds the cases.
func (m *importer) find(ctx context.Context) error {
	paths, err := m.sources()
	if err != nil {
		return err
	}
	if m.pictures != nil {
		return m.findFiles(ctx, paths)
	}
	return m.findDICOM(ctx, paths)
}

// findDICOM makes cases of stacks, and of the objects that belong to them.
func (m *importer) findDICOM(ctx context.Context, paths []string) error {
	for _, path := range paths {
		if !series.Is(path) {
			return settings.Usage("%s is no DICOM file, folder or zip; for files of other "+
				"formats give --images and --labels", path)
		}
	}
	progress, begun := m.o.progress(), false
	x, err := series.FindAll(ctx, paths, system.Cores(), func(n, of int) {
		m.lock.Lock()
		defer m.lock.Unlock()
		if !begun {
			begun = true
			progress.Begin("reading headers", of)
		}
		progress.Done(n, "")
	})
	if begun {
		progress.End()
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, series.ErrNone) {
			err = fmt.Errorf("%w; for files of other formats give --images and --labels", err)
		}
		return err
	}
	objects := labelObjects(x)
	found := make([]*foundLabels, len(objects))
	if err := m.each(ctx, len(objects), "reading labels", func(i int) {
		found[i] = m.readObject(objects[i])
	}); err != nil {
		return err
	}
	found = m.withoutCopies(found)
	m.o.Printf("%s: image stacks: %d; RTSTRUCT and SEG: %d; files that are not DICOM: %d; "+
		"symbolic links, which are not followed: %d",
		x.Path, len(x.Stacks), len(objects), x.Others, x.Links)

	images := make([]pairing.Image, len(x.Stacks))
	for i, s := range x.Stacks {
		images[i] = pairing.Image{Series: s.SeriesUID, Study: s.StudyUID, Frame: s.FrameOfReference,
			Volume: s.Volume(), Other: s.Modality != "" && s.Modality != m.Modality}
		for _, slice := range s.Slices {
			images[i].Instances = append(images[i].Instances, slice.File.Instance)
		}
	}
	all := make([]pairing.Object, len(found))
	for i, f := range found {
		all[i] = pairing.Object{Series: f.to.Series, Frames: f.to.Frames, Study: f.object.StudyUID,
			Instances: f.object.Referenced}
	}
	links := pairing.Find(images, all)
	unclear := map[int]bool{} // stacks that labels may belong to
	for i, why := range links.Why {
		var several *pairing.Several
		if errors.As(why, &several) {
			for _, k := range several.Images {
				unclear[k] = true
			}
		}
		if why != nil {
			m.leave(several != nil, "labels", found[i].name, "%v", why)
		}
	}
	names := stackNames(x.Stacks)
	others := 0
	for i, s := range x.Stacks {
		c := &importCase{stack: s}
		c.Warnings = []string{}
		c.Image, c.key = names[i].name, names[i].key
		switch linked := links.Images[i]; {
		case len(linked) > 0:
			var of []*foundLabels
			for _, l := range linked {
				of = append(of, found[l.Object])
			}
			if !m.chooseLabels(c, of) {
				continue
			}
			if c.byFrame = linked[0].ByFrame; c.byFrame {
				c.Warnings = append(c.Warnings, c.labels.name+" refers to no series that is "+
					"here; it shares frame of reference and study with this one")
			}
		case images[i].Other || !images[i].Volume:
			others++
			continue
		case unclear[i]:
			m.leave(false, "image", c.Image, "labels may belong to it, or to another one")
			continue
		case m.Unlabelled == "test":
			c.Test = true
		default:
			m.leave(false, "image", c.Image, "has no labels")
			continue
		}
		m.describeStack(c, x)
		m.cases = append(m.cases, c)
	}
	if others > 0 {
		m.o.Printf("stacks that are no images to import (localizers, fewer than three slices, "+
			"not of modality %s): %d", m.Modality, others)
	}
	var told strings.Builder
	for _, c := range m.cases {
		if c.err != nil {
			told.WriteString(c.err.Error() + "\n")
		}
	}
	for _, name := range x.Zips {
		m.leave(false, "file", name, "is a zip in a folder, which is not looked into: give it as "+
			"another SRC")
	}
	for _, d := range x.Damaged {
		if text := d.Err.Error(); !strings.Contains(told.String(), text) {
			m.leave(true, "file", "", "%s", text)
		}
	}
	return nil
}

// withoutCopies drops objects that are there twice, byte for byte.
func (m *importer) withoutCopies(found []*foundLabels) []*foundLabels {
	seen := map[string]bool{}
	var kept []*foundLabels
	for _, f := range found {
		if f.source != "" && seen[f.source] {
			m.leave(false, "labels", f.name, "is a copy of another file")
			continue
		}
		seen[f.source] = true
		kept = append(kept, f)
	}
	return kept
}

// readObject reads what labels an object holds.
func (m *importer) readObject(o *series.Object) *foundLabels {
	f := &foundLabels{name: o.Name, object: o, kind: "segment"}
	if o.Class == dicom.ClassRTStructure {
		f.kind = "ROI"
		set, err := rtstruct.Read(o.Source)
		if f.err = err; err == nil {
			f.parts, f.to = set.Parts(), set.Referred
		}
	} else {
		s, err := seg.Read(o.Source)
		if f.err = err; err == nil {
			f.parts, f.to = s.Parts(), s.Referred
			for i := range f.parts {
				f.parts[i].Empty = f.parts[i].Empty || s.Segments[i].Frames == 0
			}
		}
	}
	if f.err != nil {
		f.to = labels.References{Series: o.ReferencedSeries, Frames: []string{o.FrameOfReference}}
		return f
	}
	f.source, f.err = objectDigest(o)
	m.matchParts(f)
	return f
}

// matchParts finds the parts for each label, and counts names.
func (m *importer) matchParts(f *foundLabels) {
	if len(m.choices) > 0 {
		var none *labels.NoMatchError
		match, err := labels.Choose(m.choices, f.parts, f.kind)
		if f.match = match; err != nil && !errors.As(err, &none) {
			f.err = err
		}
	}
	var to map[int][]string
	if f.kind != "value" {
		to = map[int][]string{}
		for _, l := range f.match {
			for _, i := range l.Parts {
				to[i] = append(to[i], l.Name)
			}
		}
	}
	m.countNames(f, to)
}

// countNames notes the names of what is not empty, once for each object.
func (m *importer) countNames(f *foundLabels, to map[int][]string) {
	m.lock.Lock()
	defer m.lock.Unlock()
	seen := map[string]bool{}
	for i, p := range f.parts {
		if p.Empty || seen[p.Name] {
			continue
		}
		seen[p.Name] = true
		key := foundKey{f.kind, p.Name}
		n := m.names[key]
		if n == nil {
			n = &FoundName{Name: p.Name, Kind: f.kind, Labels: append([]string{}, to[i]...)}
			m.names[key] = n
		}
		n.Count++
	}
}

// matches reports whether a label has something in it.
func (f *foundLabels) matches() bool {
	for _, l := range f.match {
		if slices.ContainsFunc(l.Parts, func(i int) bool { return !f.parts[i].Empty }) {
			return true
		}
	}
	return false
}

// mismatch says why a label has nothing in it.
func (f *foundLabels) mismatch() string {
	for _, l := range f.match {
		if len(l.Parts) > 0 {
			return "each " + f.kind + " of " + f.name + " that matches is empty"
		}
	}
	return "no " + f.kind + " of " + f.name + " matches"
}

// chooseLabels gives a case the labels of one of the objects that belong to it. It returns false if the
// case is left out.
func (m *importer) chooseLabels(c *importCase, of []*foundLabels) bool {
	fit := of
	if len(m.choices) > 0 {
		fit = slices.DeleteFunc(slices.Clone(of), func(f *foundLabels) bool { return f.err == nil && !f.matches() })
	}
	if len(fit) == 0 && m.AllowEmpty {
		fit = of
	} else if len(fit) == 0 {
		var why []string
		for _, f := range of {
			if text := f.mismatch(); !slices.Contains(why, text) {
				why = append(why, text)
			}
		}
		m.leave(false, "image", c.Image, "%s", strings.Join(why, "; "))
		return false
	}
	taken := fit[0]
	if len(fit) > 1 {
		var names []string
		for _, f := range fit {
			names = append(names, f.name)
		}
		if m.Newest {
			taken, c.err = newest(fit)
		} else {
			last := "--newest takes the last by date; or "
			if m.adapting {
				last = ""
			}
			c.err = fmt.Errorf("%d RTSTRUCT or SEG with such labels belong to it: %smove away all but one of %s",
				len(fit), last, several(names))
		}
	}
	for _, f := range of {
		if f != taken && c.err == nil {
			reason := "is older than %s"
			if !slices.Contains(fit, f) {
				reason = "holds nothing that matches; %s does"
			}
			m.leave(false, "labels", f.name, reason, taken.name)
		}
	}
	m.takeLabels(c, taken)
	return true
}

// takeLabels gives a case its labels.
func (m *importer) takeLabels(c *importCase, f *foundLabels) {
	c.labels, c.ImportedCase.Labels = f, f.name
	for _, p := range f.parts {
		if !p.Empty {
			c.Found++
		}
	}
	if c.err == nil {
		c.err = f.err
	}
	if len(m.choices) == 0 {
		return
	}
	c.Parts = map[string]int{}
	for i, choice := range m.choices {
		c.Parts[choice.Name] = 0
		if i < len(f.match) {
			for _, k := range f.match[i].Parts {
				if !f.parts[k].Empty {
					c.Parts[choice.Name]++
				}
			}
		}
	}
}

// newest returns the last of objects by their dates.
func newest(of []*foundLabels) (*foundLabels, error) {
	last, twice := of[0], false
	for _, f := range of {
		if len(f.object.Date) < 8 || strings.Trim(f.object.Date, "0123456789.") != "" {
			return last, fmt.Errorf("--newest: %s has no date", f.name)
		}
		if f == last {
			continue
		}
		switch strings.Compare(f.object.Date, last.object.Date) {
		case 1:
			last, twice = f, false
		case 0:
			twice = true
		}
	}
	if twice {
		return last, fmt.Errorf("--newest: two of %d RTSTRUCT or SEG have the last date: move "+
			"one away, %s is one of them", len(of), last.name)
	}
	return last, nil
}

// describeStack fills in what is told of a stack, and whether it can be read.
func (m *importer) describeStack(c *importCase, x *series.Index) {
	s := c.stack
	c.source = stackDigest(s)
	if s.SeriesUID != "" {
		sum := sha256.Sum256([]byte("series " + s.SeriesUID))
		c.series = hex.EncodeToString(sum[:])
	}
	c.Problems = append([]string{}, s.Geometry.Problems...)
	err := x.Whole(s) // it may be why the geometry is not regular
	size, g, failed := s.Grid(m.FixGeometry)
	if err == nil {
		err = failed
	}
	switch c.Size = s.Size[:]; {
	case g != nil:
		c.Size, c.Spacing = size, g.Spacing
	case s.Problem == nil: // otherwise it is not known
		c.Spacing = s.Spacing[:]
	}
	if c.err == nil {
		c.err = err
	}
}

type stackName struct{ name, key string }

// stackNames names stacks by their folders or, of one file, by that; by number, too, where several lie
// in one folder.
func stackNames(stacks []*series.Stack) []stackName {
	all := make([]stackName, len(stacks))
	count := map[string]int{}
	for i, s := range stacks {
		files := map[string]bool{}
		folder := ""
		for _, slice := range s.Slices {
			files[slice.File.Name] = true
			if k := pathKey(slice.File.Name); all[i].key == "" || k < all[i].key {
				all[i].key, folder = k, slice.File.Folder
			}
		}
		if all[i].name = folder; len(files) == 1 {
			all[i].name = s.Slices[0].File.Name
		}
		count[all[i].name]++
	}
	for i, s := range stacks {
		if count[all[i].name] > 1 {
			all[i].name += fmt.Sprintf(" (stack %d)", s.Number)
		}
	}
	return all
}

// pathKey orders paths folder by folder.
func pathKey(path string) string { return strings.ReplaceAll(path, "/", "\x00") }

// findFiles makes cases of files in pairs.
func (m *importer) findFiles(ctx context.Context, paths []string) error {
	var lone []*importCase
	files, example := 0, ""
	for _, root := range paths {
		pictures, maps, seen, err := m.walk(ctx, root)
		if err != nil {
			return err
		}
		if files += len(pictures); example == "" && seen != "" {
			example = fmt.Sprintf("; there is %s, for example", filepath.Join(root, seen))
		}
		for _, name := range pictures {
			c := &importCase{file: filepath.Join(root, m.pictures.Path(name))}
			c.Image, c.key = c.file, pathKey(c.file)
			switch {
			case maps[name]:
				path := filepath.Join(root, m.maps.Path(name))
				c.labels = &foundLabels{name: path, file: path}
				delete(maps, name)
			case m.Unlabelled == "test":
				c.Test = true
			default:
				m.leave(false, "image", c.Image, "has no labels")
				continue
			}
			lone = append(lone, c)
		}
		for name := range maps {
			path := filepath.Join(root, m.maps.Path(name))
			m.leave(false, "labels", path, "have no image")
		}
	}
	if files == 0 {
		return fmt.Errorf("%s: no file is called as --images says, %s%s", strings.Join(paths, ", "),
			m.ImageFiles, example)
	}
	keep := make([]bool, len(lone))
	left := make([][]LeftOut, len(lone))
	if err := m.each(ctx, len(lone), "reading headers and labels", func(i int) {
		keep[i] = m.readPair(lone[i])
		if c := lone[i]; !keep[i] {
			left[i] = []LeftOut{{"image", c.Image, c.labels.mismatch(), false}}
		}
	}); err != nil {
		return err
	}
	for i, c := range lone {
		m.leftOut = append(m.leftOut, left[i]...)
		if keep[i] {
			m.cases = append(m.cases, c)
		}
	}
	for _, c := range m.cases {
		if c.labels != nil && c.labels.kind == "value" && m.valueErr != nil && len(m.choices) > 0 {
			return settings.Usage("--label %w", m.valueErr)
		}
	}
	return nil
}

// walk lists the cases that have an image below a folder, and which have labels. seen is the first file
// of all.
func (m *importer) walk(ctx context.Context, root string) (pictures []string, maps map[string]bool,
	seen string, err error) {
	if info, err := os.Stat(root); err != nil {
		return nil, nil, "", err
	} else if !info.IsDir() {
		return nil, nil, "", settings.Usage("%s: --images is for folders", root)
	}
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, nil, "", err
	}
	depth := m.pictures.Depth()
	if m.maps != nil {
		depth = max(depth, m.maps.Depth())
	}
	maps = map[string]bool{}
	linked := 0
	err = filepath.WalkDir(real, func(at string, d fs.DirEntry, err error) error {
		rel, failed := filepath.Rel(real, at)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil || failed != nil {
			m.leave(true, "file", filepath.Join(root, rel), "%v", errors.Join(err, failed))
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			linked++
			return nil
		}
		if at == real || !d.Type().IsRegular() && !d.IsDir() {
			return nil
		}
		if seen == "" && !d.IsDir() {
			seen = rel
		}
		if name, ok := m.pictures.Match(rel); ok {
			pictures = append(pictures, name)
		}
		if m.maps != nil {
			if name, ok := m.maps.Match(rel); ok {
				maps[name] = true
			}
		}
		if d.IsDir() && strings.Count(rel, "/") >= depth {
			return fs.SkipDir
		}
		return nil
	})
	if linked > 0 {
		m.o.Printf("%s: symbolic links, which are not followed: %d", root, linked)
	}
	return pictures, maps, seen, err
}

// readPair reads the headers of a pair of files, and what labels there are. It returns false if the
// case is left out.
func (m *importer) readPair(c *importCase) bool {
	c.Problems, c.Warnings = []string{}, []string{}
	if series.Is(c.file) {
		x, err := series.Find(c.file, 1)
		if err == nil {
			c.stack, err = x.Choose("")
		}
		if c.err = err; err == nil {
			m.describeStack(c, x)
		}
	} else {
		c.header, c.err = image.Header(c.file)
		if c.err == nil {
			c.err = threeAxes(c.file, c.header)
		}
		if c.err == nil {
			c.Size, c.Spacing = c.header.Size[:3], c.header.Geometry.Spacing[:3]
		}
	}
	if c.labels == nil {
		return true
	}
	if series.Is(c.labels.file) {
		if o, err := labelObject(c.labels.file); err != nil {
			c.labels.err = err
		} else {
			c.labels = m.readObject(o)
		}
	} else {
		m.readLabelMap(c.labels)
	}
	if f := c.labels; f.err == nil && len(m.choices) > 0 && !m.AllowEmpty && !f.matches() &&
		(f.kind != "value" || m.valueErr == nil) {
		return false
	}
	m.takeLabels(c, c.labels)
	return true
}

// threeAxes refuses an image that is no single volume.
func threeAxes(path string, h *volume.Header) error {
	if h.Geometry == nil {
		return fmt.Errorf("%s: %w", path, h.Problem)
	}
	further := 1
	for _, n := range h.Size[min(3, len(h.Size)):] {
		further *= n
	}
	if len(h.Size) < 3 || len(h.Geometry.Spacing) < 3 || further != 1 {
		return fmt.Errorf("%s: found axes of %v voxels, expected x, y and z", path, h.Size)
	}
	return nil
}

// maxValues is how many different values a label map may have: with more it is an image.
const maxValues = 4096

// readLabelMap finds the values of a label map.
func (m *importer) readLabelMap(f *foundLabels) {
	f.kind = "value"
	h, err := image.Header(f.file)
	if err == nil {
		err = threeAxes(f.file, h)
	}
	var file volume.File
	if err == nil {
		file, err = image.Read(f.file)
	}
	if f.err = err; err != nil {
		return
	}
	values, _ := distinct(file.Values())
	if len(values) > maxValues {
		f.err = fmt.Errorf("%s: found %d different values, expected a label "+
			"map", f.file, len(values))
		return
	}
	to := map[int][]string{}
	f.match = make([]labels.Label, len(m.choices))
	for i, choice := range m.choices {
		f.match[i].Name = choice.Name
	}
	for _, v := range values {
		if v == 0 {
			continue
		}
		if v != math.Trunc(v) || v < 0 || v > math.MaxUint16 {
			f.err = fmt.Errorf("%s: found the value %g, expected whole numbers from 0 to "+
				"65535", f.file, v)
			return
		}
		part := len(f.parts)
		f.parts = append(f.parts, labels.Part{Number: int(v), Name: strconv.Itoa(int(v))})
		if k := m.values[int(v)]; k > 0 {
			f.match[k-1].Parts = append(f.match[k-1].Parts, part)
			to[part] = []string{f.match[k-1].Name}
		}
	}
	m.countNames(f, to)
}

// stackDigest tells a stack from others by its slices. Nobody finds the UIDs in it out who does not
// have them.
func stackDigest(s *series.Stack) string {
	h := sha256.New()
	for _, slice := range s.Slices {
		fmt.Fprintln(h, slice.File.Instance, slice.Frame, slice.Position, slice.Orientation,
			slice.Spacing, slice.File.Size)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// maxDigest bounds how much of an object is read for its digest.
const maxDigest = 256 << 20

// objectDigest is the sha256 of an object.
func objectDigest(o *series.Object) (string, error) {
	r, err := o.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	fmt.Fprintln(h, o.Size)
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, min(o.Size, maxDigest))); err != nil {
		return "", fmt.Errorf("%s: %w", o.Name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// fileDigest is the sha256 of an image file, with the pixels that lie beside it.
func fileDigest(ctx context.Context, path string) (string, error) {
	sum, err := (*filehash.Cache)(nil).Sum(ctx, path)
	if err != nil || image.Beside(path, true) == "" {
		return sum.String(), err
	}
	f, err := image.Read(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	h.Write(sum[:])
	h.Write(f.Stored().Bytes())
	return hex.EncodeToString(h.Sum(nil)), nil
}

// identify finds out which image and labels a case has, where that is not known yet.
func (c *importCase) identify(ctx context.Context) (err error) {
	if c.source == "" {
		if c.source, err = fileDigest(ctx, c.file); err != nil {
			return err
		}
	}
	if f := c.labels; f != nil && f.source == "" {
		f.source, err = fileDigest(ctx, f.file)
	}
	return err
}

// labelSource says which labels the case has, "" without.
func (c *importCase) labelSource() string {
	if c.labels == nil {
		return ""
	}
	return c.labels.source
}

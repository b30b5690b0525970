package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/eval/labelmap"
	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// readAdaptCase reads a case: the image (c, z, y, x) as m's reader reads it, what the reader found
// out about it, and the labels (1, z, y, x) on its grid, uint8 or uint16, with the values of
// dataset(). Of a DICOM series both are what the reader reads once they have been converted to that
// dataset's format.
func (c *AdaptCasesConfig) readAdaptCase(a AdaptCase, m adaptModel) (im *volume.Image,
	p *images.Properties, seg *volume.Image, err error) {
	k := &caseChecker{AdaptCasesConfig: *c, model: m}
	if k.dataset, err = c.dataset(m); err != nil {
		return nil, nil, nil, err
	}
	if k.labels, err = newCaseLabels(c, k.dataset); err != nil {
		return nil, nil, nil, err
	}
	r := k.open(&a)
	if im, p, err = r.image(); err != nil {
		return nil, nil, nil, err
	}
	if seg, _, err = r.labels(); err != nil {
		return nil, nil, nil, err
	}
	return im, p, seg, r.sameGrid(im, seg)
}

// A caseReader reads image and labels of a case.
type caseReader struct {
	*caseChecker
	of       *AdaptCase
	object   *series.Object // RTSTRUCT or SEG; nil for a label map
	stack    *series.Stack  // the image; nil for image files
	warnings []string
}

func (k *caseChecker) open(c *AdaptCase) *caseReader { return &caseReader{caseChecker: k, of: c} }

// workers are the goroutines for one of several cases.
func (r *caseReader) workers() int { return max(1, system.Cores()/max(1, r.Workers)) }

// image reads the image.
func (r *caseReader) image() (*volume.Image, *images.Properties, error) {
	if len(r.of.Image) == 0 || r.of.Label == "" {
		return nil, nil, errors.New("an image and labels are needed")
	}
	if err := r.findObject(); err != nil {
		return nil, nil, err
	}
	path := r.of.Image[0]
	if !isDICOM(path) {
		return r.model.Reader.Read(r.of.Image)
	}
	if r.stack == nil {
		x, err := series.Find(path, r.workers())
		if err != nil {
			return nil, nil, err
		}
		choice := ""
		if r.object != nil {
			to, err := referencesOf(r.object)
			if err != nil {
				return nil, nil, err
			}
			choice = referred(x, to)
		}
		if r.stack, err = x.Choose(choice); err != nil && len(x.Stacks) > 1 {
			return nil, nil, fmt.Errorf("%s holds %d image stacks, and which one is meant is not "+
				"known: put each series into a folder of its own", path, len(x.Stacks))
		}
		if err != nil {
			return nil, nil, err
		}
	}
	f, err := r.stack.Read(series.Options{Workers: r.workers()})
	if err != nil {
		return nil, nil, err
	}
	r.warnings = append(r.warnings, f.Warnings...)
	im, p, err := r.model.Reader.Take(f, r.dataset.FileEnding)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return im, p, nil
}

// findObject finds the RTSTRUCT or SEG, if the labels are one.
func (r *caseReader) findObject() error {
	if r.object != nil || !isDICOM(r.of.Label) {
		return nil
	}
	x, err := series.Find(r.of.Label, r.workers())
	if err != nil {
		return err
	}
	if len(x.Damaged) == 0 && len(labelObjects(x)) == 0 {
		return fmt.Errorf("%s is DICOM, but no RTSTRUCT and no SEG", r.of.Label)
	}
	if r.object, err = labelObject(r.of.Label); err != nil {
		return err
	}
	if len(r.choices()) == 0 {
		return fmt.Errorf("%s holds ROIs or segments: say with --roi NAME=PATTERN which are "+
			"labels (lntorch image info %s shows their names)", r.object.Name, r.of.Label)
	}
	return nil
}

func (r *caseReader) choices() []labels.Choice { return r.caseChecker.labels.choices }

// labels reads the labels, and whatever is to be said of them. It needs the image to have been
// read.
func (r *caseReader) labels() (seg *volume.Image, notes []string, err error) {
	translation := r.caseChecker.labels
	if r.object == nil {
		seg, _, err = r.model.Reader.ReadSeg(r.of.Label)
		if err != nil {
			return nil, nil, err
		}
		if seg.Shape[0] != 1 {
			return nil, nil, fmt.Errorf("%s: found %d channels, expected one of labels", r.of.Label,
				seg.Shape[0])
		}
		placed := *seg
		if placed.Pixels, notes, err = translation.translate(seg.Pixels); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", r.of.Label, err)
		}
		return &placed, notes, nil
	}
	drawn, notes, err := drawObject(r.object, translation.choices, LabelsChoice{Threshold: 0.5},
		func(labels.References) (*reference, error) {
			if r.stack != nil {
				return stackReference(r.of.Image[0], r.stack, false, r.workers())
			}
			h, err := image.Header(r.of.Image[0])
			if err != nil {
				return nil, err
			}
			return fileReference(r.of.Image[0], h, r.workers())
		})
	if err != nil {
		return nil, nil, err
	}
	drawn.Pixels = translation.fromROIs(drawn)
	if seg, _, err = r.model.Reader.Take(labelMap{drawn}, r.dataset.FileEnding); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r.of.Label, err)
	}
	return seg, notes, nil
}

// sameGrid refuses labels on another grid than the image's.
func (r *caseReader) sameGrid(im, seg *volume.Image) error {
	a := &labelmap.Map{Shape: [3]int(im.Shape[1:]), Geometry: im.Geometry}
	b := &labelmap.Map{Shape: [3]int(seg.Shape[1:]), Geometry: seg.Geometry}
	if a.Shape == b.Shape && sameCorners(a.Shape, a.Geometry, b.Geometry) {
		return nil
	}
	return fmt.Errorf("the labels lie on another grid than the image: the image has %s; the "+
		"labels have %s", gridText(a), gridText(b))
}

// estimateCase is about how many bytes checking a case takes. What cannot be known is left to
// reading.
func estimateCase(c *AdaptCase) int64 {
	total := int64(0)
	for _, path := range append(slices.Clone(c.Image), c.Label) {
		if path == "" {
			continue
		}
		if isDICOM(path) {
			total += 4 * bytesBelow(path) // inflated, and as read
			continue
		}
		h, err := image.Header(path)
		if err != nil {
			continue
		}
		n := 1.0
		for _, d := range h.Size {
			n *= float64(d)
		}
		if one := volume.MakePixels(h.Type, 1); one != nil {
			total += int64(min(n*float64(2*one.Size()+2), math.MaxInt64/16))
		}
	}
	return total
}

// bytesBelow is the size of a file, or of the files in a folder.
func bytesBelow(path string) (n int64) {
	filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	return n
}

// checkCase fills in what is to be told of a case, and what is wrong with it.
func (k *caseChecker) checkCase(c *AdaptCase) {
	bad := func(format string, args ...any) {
		c.Problems = append(c.Problems, fmt.Sprintf(format, args...))
	}
	for _, path := range append(slices.Clone(c.Image), c.Label) {
		if _, err := os.Stat(path); err != nil {
			bad("%v", linkError(path, err))
		} else if !utf8.ValidString(path) {
			bad("%s", notUTF8(path))
		}
	}
	if len(c.Problems) > 0 {
		return
	}
	defer func() {
		for _, flag := range []string{"--fix-geometry", "--ignore-references", "--resample"} {
			if strings.Contains(strings.Join(c.Problems, " "), flag) {
				c.advice = "--fix-geometry, --ignore-references and --resample are flags of " +
					"lntorch image convert, which makes files of such series and labels"
			}
		}
	}()
	r := k.open(c)
	im, p, err := r.image()
	if err != nil {
		bad("the image cannot be read: %v", err)
	} else {
		c.Size, c.Spacing = [3]int(im.Shape[1:]), im.Geometry.Spacing
		k.checkImage(c, im, p)
		c.imageHash = im.Content()
		im.Pixels = nil // the labels need memory, too
	}
	if err != nil && isDICOM(c.Label) {
		return // which are drawn on it
	}
	seg, notes, err := r.labels()
	if err != nil {
		bad("%v", err)
		return
	}
	c.Warnings = append(c.Warnings, r.warnings...)
	c.Warnings = append(c.Warnings, notes...)
	if im != nil {
		if err := r.sameGrid(im, seg); err != nil {
			bad("%v", err)
			c.advice = "labels that lie on the image's grid in another order of axes, and " +
				"RTSTRUCT and SEG: lntorch import makes a dataset of them"
			return
		}
	}
	if err := k.measure(c, seg); err != nil {
		bad("%v", err)
	}
}

// notUTF8 says of a path that JSON cannot hold it.
func notUTF8(path string) string {
	return fmt.Sprintf("%q holds bytes that are not UTF-8, so that no record could lead back to it: rename "+
		"it, or make a link to it under another name and give that", path)
}

// linkError says of a link that leads nowhere that it is one: datalad and git-annex leave such.
func linkError(path string, err error) error {
	if info, failed := os.Lstat(path); failed == nil && info.Mode()&fs.ModeSymlink != 0 &&
		errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is a link to a file that is not there: fetch it (datalad get, git "+
			"annex get) or mend the link", path)
	}
	return err
}

// checkImage looks for what makes an image unfit.
func (k *caseChecker) checkImage(c *AdaptCase, im *volume.Image, p *images.Properties) {
	bad := func(format string, args ...any) {
		c.Problems = append(c.Problems, fmt.Sprintf(format, args...))
	}
	channels := k.dataset.ChannelNames
	if im.Shape[0] != len(channels) {
		bad("found %d channels, expected %d: %s", im.Shape[0], len(channels),
			strings.Join(channels, ", "))
	}
	for _, w := range p.Warnings {
		bad("%s", w)
	}
	if p.NaNs > 0 {
		bad("%d voxels of the image are NaN, expected finite values: export it again", p.NaNs)
	}
	if p.Infinities > 0 {
		bad("%d voxels of the image are infinite, expected finite values: export it again",
			p.Infinities)
	}
	n := im.Shape[1] * im.Shape[2] * im.Shape[3]
	if n == 0 {
		bad("the image has no voxels")
		return
	}
	for channel := range im.Shape[0] {
		at, to := im.Pixels.Extremes(channel*n, (channel+1)*n)
		if at < 0 {
			continue
		}
		var least, most [1]float64
		im.Pixels.Float64s(least[:], at)
		im.Pixels.Float64s(most[:], to)
		switch isCT := channel < len(channels) && strings.EqualFold(channels[channel], "CT"); {
		case least[0] == most[0]:
			bad("every voxel of channel %d is %g: this is no image", channel, least[0])
		case isCT && least[0] >= -200:
			c.Warnings = append(c.Warnings, fmt.Sprintf("no voxel of the image is below -200, "+
				"the least is %g: are these HU?", least[0]))
		case isCT && most[0] < 0:
			c.Warnings = append(c.Warnings, fmt.Sprintf("no voxel of the image is above 0, the "+
				"largest is %g: are these HU?", most[0]))
		}
	}
}

// measure counts nodes and millilitres of the foreground.
func (k *caseChecker) measure(c *AdaptCase, seg *volume.Image) error {
	foreground := slices.DeleteFunc(slices.Clone(k.dataset.Labels.AllLabels),
		func(v int) bool { return v == 0 })
	sets := [][]int{foreground}
	if !k.dataset.Labels.HasRegions {
		sets = nil
		for _, v := range foreground {
			sets = append(sets, []int{v})
		}
	}
	voxels := 0
	for _, set := range sets {
		found, err := findNodes(seg, set)
		if err != nil {
			return err
		}
		c.Nodes += len(found.Voxels)
		for _, n := range found.Voxels {
			voxels += int(n)
		}
	}
	s := seg.Geometry.Spacing
	c.ML = float64(voxels) * s[0] * s[1] * s[2] / 1000
	c.emptyLabel, c.labelHash = voxels == 0, seg.Content()
	return nil
}

func findNodes(seg *volume.Image, set []int) (*components.Components, error) {
	shape := [3]int(seg.Shape[1:])
	switch p := seg.Pixels.(type) {
	case volume.Slice[uint8]:
		return components.Find([]uint8(p), shape, set, 26)
	case volume.Slice[uint16]:
		return components.Find(volume.Cast[int32](p), shape, set, 26)
	}
	return components.Find(volume.Cast[int32](seg.Pixels), shape, set, 26)
}

// findDICOM finds cases by what RTSTRUCT and SEG refer to, as import does.
func (k *caseChecker) findDICOM(ctx context.Context, folder, role string) ([]AdaptCase, error) {
	m := &importer{o: k.out, names: map[foundKey]*FoundName{}, choices: k.labels.choices,
		adapting: true}
	m.Modality, m.Unlabelled, m.Threshold, m.Workers = "CT", "skip", 0.5, k.Workers
	if name := strings.ToUpper(k.dataset.ChannelNames[0]); name == "MR" || name == "PT" {
		m.Modality = name
	}
	if err := m.findDICOM(ctx, []string{folder}); err != nil {
		return nil, err
	}
	if len(m.choices) == 0 {
		var names []string
		for _, n := range m.names {
			names = append(names, fmt.Sprintf("%q (%d)", n.Name, n.Count))
		}
		if names == nil {
			return nil, fmt.Errorf("%s is DICOM without RTSTRUCT and SEG: say where the labels "+
				"are with --images and --labels, as in --images 'ct/{case}' --labels "+
				"'masks/{case}.nii.gz'", folder)
		}
		slices.Sort(names)
		return nil, fmt.Errorf("%s is DICOM: say with --roi NAME=PATTERN which ROIs or segments "+
			"are labels; there are %s", folder,
			several(names))
	}
	for _, l := range m.leftOut {
		k.out.Printf("left out: %s", strings.TrimPrefix(l.Source+": "+l.Reason, ": "))
	}
	var list []AdaptCase
	names := map[string]bool{}
	for _, c := range m.cases {
		image := stackPath(c.stack)
		name := caseName(folder, image)
		for base, i := name, 2; names[name]; i++ {
			name = fmt.Sprintf("%s_%d", base, i)
		}
		names[name] = true
		row := AdaptCase{Case: name, Image: []string{image}, Role: role, Problems: []string{},
			Warnings: append([]string{}, c.Warnings...)}
		if c.labels != nil {
			row.Label = memberOf(c.labels.object.Name)
		}
		if c.err != nil {
			row.Problems = append(row.Problems, c.err.Error())
		}
		list = append(list, row)
	}
	return list, nil
}

// stackPath is the file, folder or zip that holds the slices of a stack.
func stackPath(s *series.Stack) string {
	first := s.Slices[0].File
	folder, several := first.Folder, false
	for _, slice := range s.Slices {
		several = several || slice.File.Name != first.Name
		for folder != slice.File.Folder && !within(slice.File.Folder, folder) {
			folder = filepath.Dir(folder)
		}
	}
	if !several {
		return memberOf(first.Name)
	}
	return memberOf(folder)
}

// memberOf is the zip that a member's name begins with; a name that begins with none as it is.
func memberOf(name string) string {
	for i := range name {
		if strings.HasPrefix(name[i:], ": ") && isFile(name[:i]) {
			return name[:i]
		}
	}
	return name
}

// caseName names a case by the first folder below the one that was given, which is the patient's or
// the study's in archives, or by its file.
func caseName(root, path string) string {
	rel, err := filepath.Rel(realPath(root), realPath(path))
	if err != nil || rel == "." {
		rel = filepath.Base(realPath(path))
	}
	name, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
	if dicom.IsName(name) || strings.EqualFold(filepath.Ext(name), ".zip") {
		name = strings.TrimSuffix(name, filepath.Ext(name))
	}
	if name = strings.TrimLeft(name, "."); name == "" {
		name = "case"
	}
	return name
}

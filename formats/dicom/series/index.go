// Package series finds the images in DICOM files: which slices make a stack, in which order, on
// which grid, and whether that grid is regular. It reads their pixels as one volume, or resamples a
// stack whose slices do not lie on a grid.
//
// Everything is in LPS and mm. A position t is a slice's ImagePositionPatient along the normal.
package series

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/formats/internal/parallel"
)

// An Index is what DICOM a path holds: a file, a folder with all below it, or a zip of either.
type Index struct {
	Path    string
	Stacks  []*Stack  // numbered from 1, by series number, then by UID
	Objects []*Object // DICOM that is no image, such as RTSTRUCT and SEG, in the order of the paths
	Damaged []Damaged // files that are DICOM but cannot be read, and what could not be opened
	Others  int       // files passed over, since they are not DICOM or are a DICOMDIR
	Links   int       // symbolic links in a folder, which are not followed
	Zips    []string  // of the others, those that are zips in a folder by their name: nobody looks into them
}

// An Object is a DICOM file that is no image. Its header is read again by dicom.Read.
type Object struct {
	*dicom.Source
	Class, Instance  string // SOP class and instance UIDs
	StudyUID         string
	SeriesUID        string
	FrameOfReference string // UID
	Modality         string
	SeriesNumber     *int     // nil if it has none
	Description      string   // SeriesDescription: a text, never for messages
	ReferencedSeries []string // UIDs of the series that its header names
	Referenced       []string // UIDs of the instances that it names as of these series
	// Date and time of the structure set, else of the content, else of the file: for their order
	// only, never for messages.
	Date string
}

// Damaged is a file that cannot be read.
type Damaged struct {
	Err       error  // names the file
	SeriesUID string // "" if the damage lies before it
	Folder    string
}

// ErrNone is the error of a path that holds no DICOM.
var ErrNone = errors.New("is DICOM (PS3.10, with DICM at byte 128)")

// Find reads the headers of all DICOM files at a path, on so many goroutines. The pixels are read
// where two slices have the same position. It fails if nothing there is DICOM.
func Find(at string, workers int) (*Index, error) {
	return FindAll(context.Background(), []string{at}, workers, nil)
}

// FindAll is Find for several paths, which make one index: slices of a series may lie in any of
// them. Of several, one that cannot be opened is damaged. It stops when ctx is done. read, unless it
// is nil, is called from several goroutines with how many of the files were read.
func FindAll(ctx context.Context, paths []string, workers int, read func(n, of int)) (*Index, error) {
	x := &Index{Path: strings.Join(paths, ", ")}
	found := &dicom.Found{}
	for _, at := range paths {
		here, err := dicom.List(at)
		if err != nil && (len(paths) == 1 || errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
		if err != nil { // one of many zips stops no other
			x.Damaged = append(x.Damaged, Damaged{Err: err, Folder: at})
			continue
		}
		found.Sources = append(found.Sources, here.Sources...)
		x.Links += here.Links
		for _, f := range here.Failed {
			x.Damaged = append(x.Damaged, Damaged{Err: f.Err, Folder: f.Folder})
		}
	}
	type result struct {
		slices  []*Slice
		object  *Object
		damaged *Damaged
		err     error
	}
	results := make([]result, len(found.Sources))
	var count atomic.Int64
	err := parallel.Each(len(found.Sources), workers, func(i int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n := int(count.Add(1)); read != nil {
			read(n, len(found.Sources))
		}
		s := found.Sources[i]
		f, err := dicom.Read(s, tag.ContourData) // millions of numbers, for who draws them
		switch r := &results[i]; {
		case errors.Is(err, dicom.ErrNotDICOM) && !dicom.IsName(s.Base): // else a slice that was damaged
			r.err = err
		case f != nil && f.Class == dicom.ClassDirectory, strings.EqualFold(s.Base, "DICOMDIR"):
			// by its name, too: a damaged one is no slice that is missing
			r.err = fmt.Errorf("%s is a DICOMDIR, which lists files: give the folder with the files", s.Name)
		case err != nil:
			r.damaged = &Damaged{Err: err, Folder: s.Folder}
			if f != nil {
				r.damaged.SeriesUID = f.Text(tag.SeriesInstanceUID)
			}
		case noImage(f):
			r.object = object(f)
		default:
			if r.slices, err = slicesOf(f); err != nil {
				r.damaged = &Damaged{Err: fmt.Errorf("%s: %w", s.Name, err), Folder: s.Folder,
					SeriesUID: f.Text(tag.SeriesInstanceUID)}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var all []*Slice
	for i := range results {
		switch r := &results[i]; {
		case r.slices != nil:
			all = append(all, r.slices...)
		case r.object != nil:
			x.Objects = append(x.Objects, r.object)
		case r.damaged != nil:
			x.Damaged = append(x.Damaged, *r.damaged)
		default:
			s := found.Sources[i]
			if x.Others++; slices.Contains(paths, s.Name) {
				return nil, r.err
			}
			if strings.EqualFold(path.Ext(s.Base), ".zip") {
				x.Zips = append(x.Zips, s.Name)
			}
		}
	}
	if len(all)+len(x.Objects)+len(x.Damaged) == 0 {
		links := ""
		if x.Links > 0 {
			links = fmt.Sprintf("; %d symbolic links are not followed", x.Links)
		}
		if len(x.Zips) > 0 {
			links += fmt.Sprintf("; zips in it are not looked into: give them, as in %s", x.Zips[0])
		}
		return nil, fmt.Errorf("%s: none of its %d files %w%s", x.Path, len(results),
			ErrNone, links)
	}
	x.Stacks = stacks(all)
	parallel.Each(len(x.Stacks), workers, func(i int) error {
		x.Stacks[i].measure()
		return nil
	})
	return x, nil
}

// noImage reports whether a file is DICOM but no slice or slices of an image.
func noImage(f *dicom.File) bool {
	switch f.Class {
	case dicom.ClassSegmentation, dicom.ClassLabelMap, dicom.ClassRTStructure, dicom.ClassRTDose:
		return true
	}
	return f.Pixels == nil && !f.Has(tag.Rows)
}

func object(f *dicom.File) *Object {
	o := &Object{Source: f.Source, Class: f.Class, Instance: f.Instance,
		StudyUID: f.Text(tag.StudyInstanceUID), SeriesUID: f.Text(tag.SeriesInstanceUID),
		FrameOfReference: f.Text(tag.FrameOfReferenceUID), Modality: f.Text(tag.Modality),
		SeriesNumber: whole(f.Dataset, tag.SeriesNumber), Description: f.Text(tag.SeriesDescription)}
	for _, pair := range [][2]tag.Tag{{tag.StructureSetDate, tag.StructureSetTime},
		{tag.ContentDate, tag.ContentTime}, {tag.InstanceCreationDate, tag.InstanceCreationTime}} {
		if date := f.Text(pair[0]); date != "" && o.Date == "" {
			o.Date = date + f.Text(pair[1])
		}
	}
	add := func(d dicom.Dataset, instances tag.Tag) {
		if uid := d.Text(tag.SeriesInstanceUID); uid != "" &&
			!slices.Contains(o.ReferencedSeries, uid) {
			o.ReferencedSeries = append(o.ReferencedSeries, uid)
		}
		for _, instance := range d.Items(instances) {
			o.Referenced = append(o.Referenced, instance.Text(tag.ReferencedSOPInstanceUID))
		}
	}
	for _, series := range f.Items(tag.ReferencedSeriesSequence) {
		add(series, tag.ReferencedInstanceSequence)
	}
	for _, frame := range f.Items(tag.ReferencedFrameOfReferenceSequence) {
		for _, study := range frame.Items(tag.RTReferencedStudySequence) {
			for _, series := range study.Items(tag.RTReferencedSeriesSequence) {
				add(series, tag.ContourImageSequence)
			}
		}
		if o.FrameOfReference == "" {
			o.FrameOfReference = frame.Text(tag.FrameOfReferenceUID)
		}
	}
	return o
}

// whole returns a whole number that no image depends on, or nil.
func whole(d dicom.Dataset, t tag.Tag) *int {
	if n, err := d.Int(t, math.MinInt32, math.MaxInt32); err == nil {
		return &n
	}
	return nil
}

// Choose returns the stack that s names, by its number or its SeriesInstanceUID. For "" it is the
// only one there is, else the only one with three slices or more that is no localizer. It fails
// where a damaged file may belong to the stack.
func (x *Index) Choose(s string) (*Stack, error) {
	of := x.Stacks
	if s != "" {
		of = nil
		for _, stack := range x.Stacks {
			if fmt.Sprint(stack.Number) == s || stack.SeriesUID == s {
				of = append(of, stack)
			}
		}
	}
	if len(of) > 1 {
		var images []*Stack
		for _, stack := range of {
			if stack.Volume() {
				images = append(images, stack)
			}
		}
		if len(images) == 1 {
			of = images
		}
	}
	if len(of) == 1 {
		return of[0], x.whole(of[0])
	}
	var damaged []error
	if len(x.Stacks) == 0 {
		for _, d := range x.Damaged {
			damaged = append(damaged, d.Err)
		}
		if len(damaged) == 0 {
			return nil, fmt.Errorf("%s: no image: it holds %d DICOM files of other kinds, such as "+
				"RTSTRUCT or SEG", x.Path, len(x.Objects))
		}
		return nil, errors.Join(damaged...)
	}
	what := "several image stacks, expected one"
	switch {
	case s != "" && len(of) == 0:
		what = "no such stack"
	case s != "":
		what = "several image stacks of that series, expected one"
	case len(of) == 0:
		what = "no image stack"
	}
	return nil, fmt.Errorf("%s: %s: give --series with the number or, where it is enough, the "+
		"SeriesInstanceUID (lntorch image info shows it) of one of\n%s", x.Path, what,
		strings.Join(List(x.Stacks), "\n"))
}

// Whole fails if a file that cannot be read may be a slice of the stack: one of its series, or one of
// an unknown series in a folder of the stack's slices. Choose is stricter, as what it looks at is one
// exam and no archive: there any file of an unknown series may be missing.
func (x *Index) Whole(s *Stack) error {
	folders := map[string]bool{}
	for _, slice := range s.Slices {
		folders[slice.File.Folder] = true
	}
	return x.without(s, func(d Damaged) bool { return folders[d.Folder] })
}

// whole fails if a file that cannot be read may be a slice of the stack.
func (x *Index) whole(s *Stack) error {
	return x.without(s, func(Damaged) bool { return true })
}

// without is whole, where near tells of a damaged file of an unknown series whether it may be a slice.
func (x *Index) without(s *Stack, near func(Damaged) bool) error {
	var all []error
	for _, d := range x.Damaged {
		if d.SeriesUID == "" && near(d) || d.SeriesUID != "" && d.SeriesUID == s.SeriesUID {
			all = append(all, d.Err)
		}
	}
	for _, other := range x.Stacks {
		if other != s && other.Problem != nil && !other.Slices[0].File.colour &&
			[2]int(other.Size[:2]) == [2]int(s.Size[:2]) &&
			other.Slices[0].File.seriesOrFolder == s.Slices[0].File.seriesOrFolder {
			all = append(all, other.Problem)
		}
	}
	if all == nil {
		return nil
	}
	return fmt.Errorf("%w\nIt may be a slice of the image: copy the file again, or move it away",
		errors.Join(all...))
}

// modalities are those that images of slices have (PS3.3 C.7.3.1.1.1): another text of the element may
// be anything.
var modalities = []string{"CT", "MR", "PT", "NM", "CR", "DX", "OT", "RF", "SC", "US", "XA"}

// List describes stacks for messages, a line each, with nothing of their free texts.
func List(of []*Stack) []string {
	lines := make([]string, len(of))
	for i, s := range of {
		kind, what := "", "slices"
		if s.Localizer {
			kind = ", localizer"
		}
		if len(s.Slices) == 1 {
			what = "slice"
		}
		if slices.Contains(modalities, s.Modality) {
			kind = ", " + s.Modality + kind
		}
		lines[i] = fmt.Sprintf("  %d: %d %s of %d × %d%s", s.Number, len(s.Slices), what, s.Size[0],
			s.Size[1], kind)
		if s.Problem != nil {
			lines[i] += ", cannot be read: " + s.Problem.Error()
			continue
		}
		lines[i] += fmt.Sprintf(", spacing %.4g × %.4g × %.4g mm", s.Spacing[0], s.Spacing[1],
			s.Spacing[2])
	}
	return lines
}

// byNumber is the order of stacks.
func byNumber(a, b *Stack) int {
	number := func(s *Stack) int {
		if s.SeriesNumber == nil {
			return math.MaxInt
		}
		return *s.SeriesNumber
	}
	return cmp.Or(cmp.Compare(number(a), number(b)), cmp.Compare(a.SeriesUID, b.SeriesUID))
}

// Package pairing finds out which labels belong to which image of an archive: of DICOM by the series
// and frames of reference that label objects refer to, of files by their names. It opens no file:
// its callers know how images and labels are read.
package pairing

import (
	"fmt"
	"slices"
)

// An Image is a stack of slices. UIDs are "" where they are not known, and then equal no other.
type Image struct {
	Series, Study, Frame string   // UIDs of series, study and frame of reference
	Volume               bool     // has slices enough for a volume, and is no localizer
	Other                bool     // is no image of the kind that is looked for: nothing is linked to it
	Instances            []string // UIDs of its slices
}

// An Object holds labels. It may refer to several series and frames of reference.
type Object struct {
	Series, Frames []string // UIDs that it refers to
	Study          string   // UID that it has itself
	Instances      []string // UIDs of the slices that it refers to
}

// A Link is an object of an image.
type Link struct {
	Object  int  // index
	ByFrame bool // it refers to no series that is here, but shares frame of reference and study
}

// Links says which objects belong to which images.
type Links struct {
	Images [][]Link // of each image, in the order of the objects
	Why    []error  // of each object: nil, or why an image that it may belong to is not known
}

// Several is the error of an object that may belong to several images.
type Several struct {
	Images  []int // indices
	ByFrame bool  // they share its frame of reference and study, otherwise its series
}

func (e *Several) Error() string {
	if e.ByFrame {
		return fmt.Sprintf("refers to no series that is here, and shares frame of reference and "+
			"study with %d of them: move away those on which it was not drawn", len(e.Images))
	}
	return fmt.Sprintf("refers to a series that has %d stacks of slices: move away those on which it was "+
		"not drawn", len(e.Images))
}

// Reasons why an object belongs to no image.
var (
	ErrNone = fmt.Errorf("refers to no series that is here, and shares frame of reference and " +
		"study with none")
	ErrTaken = fmt.Errorf("refers to no series that is here, and the one with its frame of " +
		"reference and study has labels of its own")
	ErrOther = fmt.Errorf("refers to a series that is here, but is of another modality")
)

// Find links objects to images. An object belongs to the images of the series that it refers to: of a
// series with several stacks to its only volume, or to the only one of whose slices it names some. One
// that refers to no image here belongs to the volume of its study and frame of reference, if there is
// one alone among those without objects of their own.
func Find(images []Image, objects []Object) *Links {
	l := &Links{Images: make([][]Link, len(images)), Why: make([]error, len(objects))}
	var rest []int // objects
	for i, o := range objects {
		linked := false
		seen := map[string]bool{"": true}
		for _, uid := range o.Series {
			if seen[uid] {
				continue
			}
			seen[uid] = true
			of := which(images, func(m Image) bool { return m.Series == uid && !m.Other })
			if len(of) > 1 {
				if volumes := slices.DeleteFunc(slices.Clone(of), func(k int) bool {
					return !images[k].Volume
				}); len(volumes) > 0 {
					of = volumes
				}
			}
			if len(of) > 1 { // phases of a 4D CT
				if named := slices.DeleteFunc(slices.Clone(of), func(k int) bool {
					return !share(images[k].Instances, o.Instances)
				}); len(named) > 0 {
					of = named
				}
			}
			switch len(of) {
			case 0:
			case 1:
				linked = true
				l.add(of[0], Link{Object: i})
			default:
				l.Why[i] = &Several{Images: of}
			}
		}
		if !linked && l.Why[i] == nil {
			rest = append(rest, i)
		}
	}
	byFrame := map[int]int{} // of these the image
	for _, i := range rest {
		o := objects[i]
		of := which(images, func(m Image) bool {
			return m.Volume && !m.Other && m.Frame != "" && slices.Contains(o.Frames, m.Frame) &&
				m.Study != "" && m.Study == o.Study
		})
		free := slices.DeleteFunc(slices.Clone(of), func(k int) bool { return len(l.Images[k]) > 0 })
		other := slices.ContainsFunc(images, func(m Image) bool {
			return m.Other && m.Series != "" && slices.Contains(o.Series, m.Series)
		})
		switch {
		case len(free) == 1:
			byFrame[i] = free[0]
		case len(free) > 1:
			l.Why[i] = &Several{Images: free, ByFrame: true}
		case len(of) > 0:
			l.Why[i] = ErrTaken
		case other:
			l.Why[i] = ErrOther
		default:
			l.Why[i] = ErrNone
		}
	}
	for _, i := range rest { // now that all know which images are free
		if image, ok := byFrame[i]; ok {
			l.add(image, Link{Object: i, ByFrame: true})
		}
	}
	return l
}

func (l *Links) add(image int, link Link) { l.Images[image] = append(l.Images[image], link) }

// share reports whether two lists have a UID in common.
func share(a, b []string) bool {
	in := map[string]bool{}
	for _, uid := range a {
		in[uid] = uid != ""
	}
	return slices.ContainsFunc(b, func(uid string) bool { return in[uid] })
}

// which returns the indices of the images that are meant.
func which(images []Image, meant func(Image) bool) []int {
	var all []int
	for i, m := range images {
		if meant(m) {
			all = append(all, i)
		}
	}
	return all
}

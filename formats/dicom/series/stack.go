package series

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/lntorch/lntorch/formats/dicom"
	"github.com/lntorch/lntorch/volume"
)

// A Stack is the slices of one image: of a series those of one size, orientation and spacing, and,
// where a position would otherwise be there twice, of one acquisition and one moment.
type Stack struct {
	Number           int // in the Index, from 1
	SeriesUID        string
	StudyUID         string
	FrameOfReference string // UID
	SeriesNumber     *int   // nil if the files have none
	Description      string // SeriesDescription: a text, never for messages
	Modality         string
	Localizer        bool
	Slices           []*Slice   // ascending along the normal; equal duplicates are left out
	Size             [3]int     // x, y, z
	Spacing          [3]float64 // mm, x, y, z: that of the regular grid through first and last slice
	Geometry         Geometry
	Problem          error    // why the stack cannot be read whatever its geometry; names the file
	Warnings         []string // what to tell the user when it is read
	axes             axes
}

// maxStacks bounds into how many stacks of one size a series falls.
const maxStacks = 1000

var errStacks = fmt.Errorf("the series has more than %d orientations and pixel spacings", maxStacks)

// stacks divides slices into stacks.
func stacks(all []*Slice) []*Stack {
	// The order decides whose orientation is compared with whose: it must not depend on file names.
	slices.SortStableFunc(all, func(a, b *Slice) int {
		flag := func(x bool) int {
			if x {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(a.File.seriesOrFolder, b.File.seriesOrFolder),
			cmp.Compare(a.File.Columns, b.File.Columns), cmp.Compare(a.File.Rows, b.File.Rows),
			cmp.Compare(flag(a.localizer), flag(b.localizer)),
			cmp.Compare(flag(a.problem != nil), flag(b.problem != nil)),
			slices.Compare(a.Orientation[:], b.Orientation[:]),
			slices.Compare(a.Spacing[:], b.Spacing[:]))
	})
	var groups [][]*Slice
	from := 0 // the first group that later slices may belong to
next:
	for _, s := range all {
		if last := len(groups) - 1; last >= 0 && groups[last][0].problem == errStacks &&
			s.sameKind(groups[last][0]) { // the rest is one stack, which cannot be read
			s.problem = errStacks
			groups[last] = append(groups[last], s)
			continue
		}
		for i := len(groups) - 1; i >= from; i-- {
			first := groups[i][0]
			if !s.similar(first) {
				if !s.comparable(first) {
					from = i + 1
				}
				continue
			}
			groups[i] = append(groups[i], s)
			continue next
		}
		if len(groups)-from == maxStacks {
			s.problem = errStacks
		}
		groups = append(groups, []*Slice{s})
	}
	var list []*Stack
	for _, g := range groups {
		for _, part := range divide(g) {
			f := part[0].File
			list = append(list, &Stack{SeriesUID: f.series, StudyUID: f.study,
				FrameOfReference: f.frame, SeriesNumber: f.number, Description: f.description,
				Modality: f.modality, Localizer: part[0].localizer, Slices: part,
				Size: [3]int{f.Columns, f.Rows, len(part)}})
		}
	}
	slices.SortStableFunc(list, byNumber)
	for i, s := range list {
		s.Number = i + 1
	}
	return list
}

// comparable reports whether slices sort so near to each other that some may be similar to both.
func (s *Slice) comparable(to *Slice) bool {
	return s.sameKind(to) && (s.problem == nil) == (to.problem == nil) &&
		s.Orientation[0]-to.Orientation[0] <= sameCosine
}

// sameKind compares series and size.
func (s *Slice) sameKind(to *Slice) bool {
	return s.File.seriesOrFolder == to.File.seriesOrFolder && s.File.Columns == to.File.Columns &&
		s.File.Rows == to.File.Rows && s.localizer == to.localizer
}

const (
	sameCosine  = 1e-3
	sameSpacing = 1e-4 // relative
)

// similar reports whether slices may belong to one stack.
func (s *Slice) similar(to *Slice) bool {
	if !s.comparable(to) {
		return false
	}
	if s.problem != nil {
		return true
	}
	for i := range s.Orientation {
		if math.Abs(s.Orientation[i]-to.Orientation[i]) > sameCosine {
			return false
		}
	}
	for i := range s.Spacing {
		if math.Abs(s.Spacing[i]-to.Spacing[i]) > sameSpacing*to.Spacing[i] {
			return false
		}
	}
	return true
}

// divide sorts similar slices along their normal and, where two acquisitions or moments have the
// same position, gives each its own stack.
func divide(all []*Slice) [][]*Slice {
	if all[0].problem != nil {
		slices.SortStableFunc(all, func(a, b *Slice) int { return cmp.Compare(a.number, b.number) })
		return [][]*Slice{all}
	}
	a, _ := axesOf(all[0].Orientation)
	along := func(s *Slice) float64 { return dot(s.Position, a[2]) }
	slices.SortStableFunc(all, func(p, q *Slice) int {
		return cmp.Or(cmp.Compare(along(p), along(q)), cmp.Compare(p.acquisition, q.acquisition),
			cmp.Compare(p.moment, q.moment), cmp.Compare(p.number, q.number),
			cmp.Compare(p.File.Name, q.File.Name), cmp.Compare(p.Frame, q.Frame))
	})
	parts := [][]*Slice{all}
	for _, key := range []func(*Slice) int{
		func(s *Slice) int { return s.acquisition }, func(s *Slice) int { return s.moment }} {
		var finer [][]*Slice
		for _, part := range parts {
			finer = append(finer, divideBy(part, along, key)...)
		}
		parts = finer
	}
	return parts
}

// divideBy divides sorted slices by a key if two of different keys have one position.
func divideBy(all []*Slice, along func(*Slice) float64, key func(*Slice) int) [][]*Slice {
	needed := false // of two keys among slices at one place, two neighbours have them
	for i := 1; i < len(all) && !needed; i++ {
		needed = along(all[i])-along(all[i-1]) <= samePlace && key(all[i]) != key(all[i-1])
	}
	if !needed {
		return [][]*Slice{all}
	}
	var keys []int
	parts := map[int][]*Slice{}
	for _, s := range all {
		k := key(s)
		if parts[k] == nil {
			keys = append(keys, k)
		}
		parts[k] = append(parts[k], s)
	}
	slices.Sort(keys)
	var list [][]*Slice
	for _, k := range keys {
		list = append(list, parts[k])
	}
	return list
}

// measure finds duplicates, the grid and what is wrong with it.
func (s *Stack) measure() {
	for _, slice := range s.Slices {
		if slice.problem != nil {
			s.Problem = fmt.Errorf("%s: %w", slice.File.Name, slice.problem)
			s.Geometry = Geometry{Problems: []string{}, Missing: []float64{}}
			return
		}
	}
	first := s.Slices[0]
	s.axes, _ = axesOf(first.Orientation)
	kept := []*Slice{first}
	different, equal := 0, 0
	var shown []*Slice // all but equal duplicates
	for _, slice := range s.Slices[1:] {
		before := kept[len(kept)-1]
		if dot(minus(slice.Position, before.Position), s.axes[2]) > samePlace {
			kept, shown = append(kept, slice), append(shown, slice)
			continue
		}
		same, err := slice.repeats(before)
		switch {
		case err != nil:
			s.Problem = err
			return
		case same:
			equal++
		default:
			different++
			shown = append(shown, slice)
		}
	}
	at := make([]vector, len(kept))
	for i, slice := range kept {
		at[i] = slice.Position
	}
	var spacing float64
	s.Geometry, spacing = measure(at, s.axes, first.Spacing)
	s.Geometry.Duplicates = equal + different
	if different > 0 {
		s.Geometry.Problems = append(s.Geometry.Problems, Duplicate)
		s.Geometry.Regular = false
	}
	if equal > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d slices are there twice, with the same "+
			"pixels: one of each is taken", equal))
	}
	if len(kept) == 1 {
		if spacing = math.Abs(first.between); spacing == 0 {
			spacing = math.Abs(first.thickness)
		}
		if spacing == 0 {
			spacing = 1
			s.Warnings = append(s.Warnings, "there is one slice, which says nothing of its "+
				"thickness: 1 mm is assumed")
		}
	}
	s.Slices = append([]*Slice{first}, shown...)
	s.Size[2] = len(s.Slices)
	s.Spacing = [3]float64{first.Spacing[0], first.Spacing[1], spacing}
}

// repeats reports whether a slice has the place and the pixels of another.
func (s *Slice) repeats(other *Slice) (bool, error) {
	for i := range s.Position {
		if math.Abs(s.Position[i]-other.Position[i]) > samePlace {
			return false, nil
		}
	}
	a, err := s.values()
	if err != nil {
		return false, err
	}
	b, err := other.values()
	if err != nil {
		return false, err
	}
	return bytes.Equal(a.Bytes(), b.Bytes()), nil
}

// Volume reports whether the stack is what one means by an image: three grey slices or more that lie
// somewhere, and no localizer.
func (s *Stack) Volume() bool {
	first := s.Slices[0]
	return !s.Localizer && len(s.Slices) > 2 && first.placed && !first.File.colour
}

// Axes returns the directions of the stack's rows (x), columns (y) and of its normal (z), LPS.
func (s *Stack) Axes() [3][3]float64 { return s.axes }

// Grid returns sizes (x, y, z) and geometry of the image that Read gives. With fix it is the grid to
// which the slices are resampled where they do not lie on one. It fails where Read would, but for
// damaged pixels.
func (s *Stack) Grid(fix bool) (size []int, g *volume.ITK, err error) {
	if s.Problem != nil {
		return nil, nil, s.Problem
	}
	if refusal := s.Geometry.Refusal(); refusal != nil {
		if !fix || slices.Contains(s.Geometry.Problems, Duplicate) {
			return nil, nil, fmt.Errorf("%s: %w", s.name(), refusal)
		}
		f, err := s.fixed()
		if err != nil {
			return nil, nil, err
		}
		return f.size[:], s.itk(f.origin, [3]float64{s.Spacing[0], s.Spacing[1], f.spacing}), nil
	}
	return s.Size[:], s.itk(s.Slices[0].Position, s.Spacing), nil
}

func (s *Stack) itk(origin vector, spacing [3]float64) *volume.ITK {
	g := &volume.ITK{Spacing: spacing[:], Origin: origin[:], Direction: make([]float64, 9)}
	for i := range 3 {
		for k := range 3 {
			g.Direction[3*i+k] = s.axes[k][i]
		}
	}
	return g
}

// name names the stack for messages: its only file, or its folder.
func (s *Stack) name() string {
	if f := s.Slices[0].File; f == s.Slices[len(s.Slices)-1].File {
		return f.Name
	}
	return s.Slices[0].File.Folder
}

// Syntax is the transfer syntax of the first slice, as a UID of the standard, or "".
func (s *Stack) Syntax() string { return dicom.StandardUID(s.Slices[0].File.Syntax) }

// Bytes is the size of the stack's files.
func (s *Stack) Bytes() int64 {
	n := int64(0)
	seen := map[*File]bool{}
	for _, slice := range s.Slices {
		if !seen[slice.File] {
			seen[slice.File] = true
			n += slice.File.Size
		}
	}
	return n
}

package pipeline

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// DICOMChoice says which image of a file, folder or zip of DICOM is meant, and how it is read.
type DICOMChoice struct {
	Series      string `flag:"series" help:"of DICOM: number of the stack in image info, or SeriesInstanceUID"`
	FixGeometry bool   `flag:"fix-geometry" help:"of DICOM: resample slices to a regular grid"`
}

// openImage reads an image file, or the DICOM stack that is chosen. What the user should know of it
// goes to o.
func openImage(path string, c DICOMChoice, o Output) (volume.File, error) {
	if !series.Is(path) {
		if c != (DICOMChoice{}) {
			return nil, settings.Usage("--series and --fix-geometry are for DICOM: %s is none", path)
		}
		return image.Read(path)
	}
	f, _, err := openStack(path, c, o)
	return f, err
}

// openStack reads the DICOM stack that is chosen. What the user should know of it goes to o.
func openStack(path string, c DICOMChoice, o Output) (volume.File, *series.Stack, error) {
	x, stack, err := c.choose(path)
	if err != nil {
		return nil, nil, err
	}
	im, err := stack.Read(series.Options{Fix: c.FixGeometry, Workers: system.Cores()})
	if err != nil {
		return nil, nil, err
	}
	c.tell(x, stack, o)
	for _, w := range im.Warnings {
		o.Printf("%s: %s", path, w)
	}
	return im, stack, nil
}

// convertStack converts a DICOM stack.
func convertStack(c ConvertImageConfig, o Output) (*Converted, error) {
	x, stack, err := c.choose(c.In)
	if err != nil {
		return nil, err
	}
	done := &Converted{Warnings: []string{}}
	warn := func(all []string) {
		c.tell(x, stack, o)
		for _, w := range all {
			o.Printf("%s: %s", c.In, w)
			done.Warnings = append(done.Warnings, c.In+": "+w)
		}
	}
	written, err := c.writeSlices(stack)
	if err != nil {
		return nil, err
	}
	if written {
		warn(stack.Warnings)
		return done, nil
	}
	im, err := stack.Read(series.Options{Fix: c.FixGeometry, Workers: system.Cores()})
	if err != nil {
		return nil, err
	}
	warn(im.Warnings)
	return done, c.write(im, o)
}

// writeSlices writes a stack to an uncompressed file slice by slice, so that no image is in memory. It
// reports false, and leaves no file behind, where the format does not take slices, or where they do
// not lie on a grid or are not all of int16, as those of most CTs are.
func (c ConvertImageConfig) writeSlices(stack *series.Stack) (bool, error) {
	if !c.Uncompressed || c.Type != "" || !stack.Geometry.Regular {
		return false, nil
	}
	size, g, err := stack.Grid(false)
	if err != nil {
		return false, err
	}
	file, err := image.Create(c.Out, size, g, "int16")
	if file == nil || err != nil {
		return false, err
	}
	whole, err := stack.Int16s(system.Cores(), func(slice int, values []int16) error {
		b := bits.Bytes(values)
		if !bits.LittleEndian {
			bits.Swap(b, 2)
		}
		_, err := file.WriteAt(b, int64(slice)*int64(len(b)))
		return err
	})
	if err != nil || !whole {
		file.Abort()
		return false, err
	}
	return true, file.Commit()
}

// choose finds the stack that is meant.
func (c DICOMChoice) choose(path string) (*series.Index, *series.Stack, error) {
	x, err := series.Find(path, system.Cores())
	if err != nil {
		return nil, nil, err
	}
	stack, err := x.Choose(c.Series)
	if err != nil && len(x.Stacks)+len(x.Damaged) == 0 && len(labelObjects(x)) > 0 {
		err = fmt.Errorf("%s holds RTSTRUCT or SEG and no image: --reference IMAGE draws its labels on the grid of an image", path)
	}
	return x, stack, err
}

// tell says which stack of several was taken, and what was passed over.
func (c DICOMChoice) tell(x *series.Index, stack *series.Stack, o Output) {
	if len(x.Stacks) > 1 && c.Series == "" {
		o.Printf("%s: stack %d is taken, of", x.Path, stack.Number)
		for _, line := range series.List(x.Stacks) {
			o.Printf("%s", line)
		}
	}
	if x.Links > 0 {
		o.Printf("%s: %d symbolic links are not followed", x.Path, x.Links)
	}
}

// dicomInfo is what only a DICOM stack has.
type dicomInfo struct {
	Series         int             `json:"series"`
	SeriesNumber   *int            `json:"series_number"` // null if there is none
	Modality       string          `json:"modality"`
	Slices         int             `json:"slices"`
	TransferSyntax string          `json:"transfer_syntax"` // UID
	Stored         storedBits      `json:"stored"`
	Localizer      bool            `json:"localizer"`
	Geometry       series.Geometry `json:"geometry"`
}

type storedBits struct {
	Bits   int  `json:"bits"`
	Signed bool `json:"signed"`
}

// InspectImages describes what is at a path: an image file, or the stacks, RTSTRUCT and SEG in a file,
// folder or zip of DICOM; of these only those that choice names, if it is not "". With an error it
// returns what could be read.
func InspectImages(path string, headerOnly bool, choice string) ([]*ImageInfo, error) {
	if !series.Is(path) {
		if choice != "" {
			return nil, settings.Usage("--series is for DICOM: %s is none", path)
		}
		info, err := InspectImage(path, headerOnly)
		if err != nil {
			return nil, err
		}
		return []*ImageInfo{info}, nil
	}
	x, err := series.Find(path, system.Cores())
	if err != nil {
		return nil, err
	}
	list := []*ImageInfo{}
	var failed []error
	for _, s := range x.Stacks {
		if choice != "" && choice != s.SeriesUID && choice != strconv.Itoa(s.Number) {
			continue
		}
		info, err := inspectStack(path, s, headerOnly)
		if err != nil {
			failed = append(failed, err)
		}
		list = append(list, info)
	}
	for _, o := range labelObjects(x) {
		if choice != "" && choice != o.SeriesUID {
			continue
		}
		info, err := inspectLabels(o)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		list = append(list, info)
	}
	for _, d := range x.Damaged {
		failed = append(failed, d.Err)
	}
	if len(list) == 0 && len(failed) == 0 {
		_, err := x.Choose(choice)
		return nil, err
	}
	return list, errors.Join(failed...)
}

func inspectStack(path string, s *series.Stack, headerOnly bool) (*ImageInfo, error) {
	h := s.Header()
	f := s.Slices[0].File
	info := &ImageInfo{File: path, Format: h.Format, Bytes: s.Bytes(), ByteOrder: "little",
		Type: h.Type, Size: h.Size, Description: s.Description, SeriesUID: s.SeriesUID}
	if h.BigEndian {
		info.ByteOrder = "big"
	}
	info.dicomInfo = &dicomInfo{Series: s.Number, SeriesNumber: s.SeriesNumber,
		Modality: s.Modality, Slices: len(s.Slices), TransferSyntax: s.Syntax(), Stored: storedBits{f.Bits, f.Signed},
		Localizer: s.Localizer, Geometry: s.Geometry}
	if h.Problem != nil {
		info.Problem = h.Problem.Error()
	} else {
		g := h.Geometry
		info.Spacing, info.Origin, info.Direction = g.Spacing, g.Origin, g.Direction
		info.Orientation, info.Oblique = orientationOf(h.Geometry)
	}
	if headerOnly || s.Problem != nil {
		return info, nil
	}
	pixels, err := s.Pixels(system.Cores())
	if err != nil {
		info.Problem = err.Error()
		return info, err
	}
	info.Type = pixels.Type()
	info.Intensities = intensities(pixels)
	return info, nil
}

// text prints what only DICOM has.
func (d *dicomInfo) text(line func(name, format string, args ...any)) {
	number := ""
	if d.SeriesNumber != nil {
		number = fmt.Sprintf(", series number %d", *d.SeriesNumber)
	}
	kind := d.Modality
	if d.Localizer {
		kind += " localizer"
	}
	slices := "slices"
	if d.Slices == 1 {
		slices = "slice"
	}
	line("stack", "%d, %s, %d %s%s", d.Series, kind, d.Slices, slices, number)
	sign := "unsigned"
	if d.Stored.Signed {
		sign = "signed"
	}
	line("stored", "%d bits, %s, transfer syntax %s", d.Stored.Bits, sign, d.TransferSyntax)
	if g := d.Geometry; len(g.Problems) > 0 {
		line("geometry", "%v: tilt %.3g°, %.4g mm off a regular grid, %d slices missing, %d duplicates",
			g.Problems, g.TiltDegrees, g.MaxDeviation, len(g.Missing), g.Duplicates)
	}
}

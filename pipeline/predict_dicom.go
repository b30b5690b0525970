package pipeline

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/formats/dicom/derived"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// seriesName is the case's name of a DICOM file, folder or zip: the name of that, never a text in it.
func seriesName(path string) (string, error) {
	whole, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	name := filepath.Base(whole)
	for _, ending := range []string{imageEnding(name), ".zip", ".dcm", ".dicom", ".ima"} {
		if n := len(name) - len(ending); n > 0 && ending != "" && strings.EqualFold(name[n:], ending) {
			name = name[:n]
			break
		}
	}
	if short := strings.TrimSuffix(name, "_0000"); short != "" {
		name = short
	}
	if name == string(filepath.Separator) {
		return "", settings.Usage("-i %s: name the folder of a DICOM series", path)
	}
	return name, nil
}

// checkDICOM checks the flags that are for DICOM, and that the model takes a series.
func (s *segmenter) checkDICOM(cases []imageCase) error {
	if err := s.DICOMLabels.check(); err != nil {
		return err
	}
	found := false
	for _, c := range cases {
		found = found || c.dicom
		if !c.dicom && s.To != "" {
			return settings.Usage("--to %s makes an object that belongs to a DICOM series: %s is none", s.To,
				append(c.images, c.misnamed)[0])
		}
		if channels := s.model.dataset.ChannelNames; c.dicom && len(channels) != 1 {
			return settings.Usage("-i %s: a DICOM series is one channel, and the model takes %d (%s): convert "+
				"each series, `lntorch image convert SERIES %s_0000%s`, and give the files", c.images[0],
				len(channels), strings.Join(channels, ", "), c.id, s.model.dataset.FileEnding)
		}
	}
	if !found && s.DICOMChoice != (DICOMChoice{}) {
		return settings.Usage("--series and --fix-geometry are for DICOM: %s is none", s.Input[0])
	}
	return nil
}

// findSeries finds the slices of a case. It fails where the series cannot be read, but for its
// pixels, or cannot have the object that is asked for.
func (s *segmenter) findSeries(c *imageCase) (*series.Index, *series.Stack, error) {
	x, err := series.Find(c.images[0], s.Threads)
	if err != nil {
		return nil, nil, err
	}
	stack, err := x.Choose(s.Series)
	if err != nil {
		if len(x.Stacks) > 1 && s.Series == "" {
			err = fmt.Errorf("%w\nTo segment several, give the folder of each with -i", err)
		}
		return nil, nil, err
	}
	if s.To != "" {
		_, err = derived.From(stack)
	} else {
		_, _, err = stack.Grid(s.FixGeometry)
	}
	return x, stack, err
}

// seriesHeader describes the image of a case without its pixels.
func (s *segmenter) seriesHeader(c *imageCase) (*volume.Header, error) {
	_, stack, err := s.findSeries(c)
	if err != nil {
		return nil, err
	}
	h := stack.Header()
	h.Size, h.Geometry, h.Problem = stack.Grid(s.FixGeometry)
	return h, nil
}

// readSeries reads the image of a case as the model's reader reads the file that `image convert`
// makes of it.
func (s *segmenter) readSeries(ctx context.Context, p *preparedCase) (*volume.Image, error) {
	x, stack, err := s.findSeries(&p.imageCase)
	if err != nil {
		return nil, err
	}
	s.DICOMChoice.tell(x, stack, s.out)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := stack.Read(series.Options{Fix: s.FixGeometry, Workers: s.Threads})
	if err != nil {
		return nil, err
	}
	p.record.Warnings = append(p.record.Warnings, f.Warnings...)
	p.stack = stack
	im, read, err := s.reader.Take(f, s.model.dataset.FileEnding)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.images[0], err)
	}
	p.read, p.written, p.where = read, read, im.Geometry
	if read.SITK != nil { // not rounded to the float32 of NIfTI
		g := f.Head().Geometry
		p.written = &images.Properties{SITK: &images.SITK{Spacing: g.Spacing, Origin: g.Origin,
			Direction: g.Direction}}
	}
	return im, nil
}

// writeObject writes the labels of a case, on the grid on which they were read, as a DICOM object that
// belongs to its series.
func (s *segmenter) writeObject(ctx context.Context, p *preparedCase, labels *volume.Image) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	placed := *labels
	placed.Geometry = p.where
	done, err := s.DICOMLabels.write(p.output, p.stack, &placed, labelNames(s.model.dataset.Labels),
		s.out.Version)
	if err != nil {
		return fmt.Errorf("%s: %w", p.output, err)
	}
	for _, text := range done.Warnings {
		p.record.Warnings = append(p.record.Warnings, text)
		s.out.Printf("WARNING: case %s: %s", p.id, text)
	}
	return nil
}

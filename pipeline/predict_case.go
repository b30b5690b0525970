package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/eval/components"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/segment"
	"github.com/lntorch/lntorch/volume"
)

// preparedCase is an image on its way through the network.
type preparedCase struct {
	imageCase
	index      int
	record     *Prediction
	read       *images.Properties
	written    *images.Properties // with the geometry of the segmentation
	stack      *series.Stack      // of DICOM
	where      volume.Geometry    // of the image as it was read
	properties *pickle.Dict       // for the .pkl
	spacing    [3]float64         // of the image, mm
	grid       preprocess.Grid
	data       *volume.Volume[float32] // until the network has seen it
	tissue     *airMap                 // with --skip-air
	turn       images.Turn             // of the image, by --reorient
	inverse    *preprocess.Inverse
	skipping   *preprocess.Inverse // without the tiles of air, with --skip-air=check
}

func (p *preparedCase) close() error {
	var err error
	for _, v := range []*preprocess.Inverse{p.inverse, p.skipping} {
		if v != nil {
			err = errors.Join(err, v.Close())
		}
	}
	return err
}

// freeAbove is the size of a preprocessed image, in bytes, from which on the memory of reading and
// preprocessing is given back at once.
const freeAbove = 64 << 20

// prepareCase reads and preprocesses case i; nil where it is skipped or fails, which it records.
func (s *segmenter) prepareCase(ctx context.Context, i int) *preparedCase {
	if s.Continue && s.complete(&s.cases[i]) {
		s.records[i].Status = PredictionSkipped
		s.end(ctx, i, nil)
		return nil
	}
	p := &preparedCase{imageCase: s.cases[i], index: i, record: &s.records[i]}
	if err := s.load(ctx, p); err != nil {
		s.end(ctx, i, err)
		return nil
	}
	return p
}

// complete says that a case's files are all there. They appear when they are whole.
func (s *segmenter) complete(c *imageCase) bool {
	want := []string{c.output}
	if s.Probabilities {
		want = append(want, c.stem+".npz", c.stem+".pkl")
	}
	return !slices.ContainsFunc(want, func(path string) bool {
		_, err := os.Stat(path)
		return err != nil
	})
}

// load reads the image, checks it and preprocesses it.
func (s *segmenter) load(ctx context.Context, p *preparedCase) error {
	start := time.Now()
	im, seg, err := s.readImages(ctx, p)
	if err != nil {
		return err
	}
	if err := s.turn(p); err != nil {
		return err
	}
	im = p.turn.Apply(im)
	s.warn(p, im)
	if seg != nil {
		seg = p.turn.Apply(seg)
	}
	if s.SkipAir != "" {
		p.tissue = newAirMap(im)
	}
	p.record.Seconds.Read = lap(&start)
	if err := ctx.Err(); err != nil {
		return err
	}
	p.spacing, p.properties = im.Spacing, p.read.Dict()
	if !p.turn.None() { // the grid is that of the turned image; --reorient writes no .pkl
		p.properties.Set("spacing", pickle.Tuple{im.Spacing[0], im.Spacing[1], im.Spacing[2]})
	}
	made, err := s.how.Run(im, seg, im.Spacing, p.properties, s.Threads)
	if err != nil {
		return fmt.Errorf("%s: %w", p.images[0], err)
	}
	p.data = made.Data
	if seg != nil {
		p.data = withLabels(made, s.model.dataset.Labels.ForegroundLabels)
	}
	p.grid, err = preprocess.NewGrid(s.model.plans, s.model.configuration, p.properties, p.data.Spatial())
	if err != nil {
		return fmt.Errorf("%s: %w", p.images[0], err)
	}
	if len(p.data.Data) > freeAbove/4 {
		debug.FreeOSMemory() // the image as read, before the network takes memory that Go does not see
	}
	p.record.Seconds.Preprocess = lap(&start)
	return nil
}

// lap gives the seconds since start, which becomes now.
func lap(start *time.Time) float64 {
	now := time.Now()
	d := now.Sub(*start).Seconds()
	*start = now
	return d
}

// readImages reads the channels of a case and, for a cascade, the labels of its previous stage.
func (s *segmenter) readImages(ctx context.Context, p *preparedCase) (im, seg *volume.Image, err error) {
	channels := s.model.dataset.ChannelNames
	if len(p.images) == 0 {
		return nil, nil, s.misnamed(&p.imageCase)
	}
	if p.dicom {
		im, err = s.readSeries(ctx, p)
	} else if im, p.read, err = s.reader.Read(p.images); err == nil {
		p.written = p.read
	}
	if err != nil {
		return nil, nil, err
	}
	files := strings.Join(p.images, ", ")
	if im.Shape[0] != len(channels) {
		return nil, nil, fmt.Errorf("%s: found %d channels, expected %d for this model: %s",
			files, im.Shape[0], len(channels), strings.Join(channels, ", "))
	}
	if len(p.read.Warnings) > 0 {
		return nil, nil, fmt.Errorf("%s: resample one onto the grid of the other", strings.Join(p.read.Warnings, "; "))
	}
	if n := p.read.Infinities; n > 0 {
		return nil, nil, fmt.Errorf("%s: %d voxels are infinite, expected HU or other finite values: export the image again",
			files, n)
	}
	if n := p.read.NaNs; n > 0 {
		if s.reader.Name() != "SimpleITKIO" {
			return nil, nil, fmt.Errorf("%s: %d voxels are NaN, which %s keeps: export the image again", files, n, s.reader.Name())
		}
		p.record.Warnings = append(p.record.Warnings, fmt.Sprintf("%d voxels are NaN and count as 0", n))
	}
	if p.previous == "" {
		return im, nil, nil
	}
	if err := exists("-prev_stage_predictions", p.previous, "the previous stage's segmentation of this case"); err != nil {
		ending := s.model.dataset.FileEnding
		object := strings.TrimSuffix(p.previous, ending) + objectEnding
		if _, missing := os.Stat(object); missing == nil {
			err = fmt.Errorf("-prev_stage_predictions %s is DICOM, expected %s: predict that stage without --to, "+
				"or `lntorch image convert %s %s --reference SERIES`", object, p.previous, object, p.previous)
		}
		return nil, nil, err
	}
	if seg, _, err = s.reader.ReadSeg(p.previous); err != nil {
		return nil, nil, fmt.Errorf("segmentation of the previous stage: %w", err)
	}
	if seg.Shape[1] != im.Shape[1] || seg.Shape[2] != im.Shape[2] || seg.Shape[3] != im.Shape[3] {
		return nil, nil, fmt.Errorf("%s: a segmentation of (z, y, x) %v, expected %v as %s: predict the previous stage from the same image",
			p.previous, seg.Shape[1:], im.Shape[1:], p.images[0])
	}
	return im, seg, nil
}

// warn looks for what makes a segmentation unlikely to be good.
func (s *segmenter) warn(p *preparedCase, im *volume.Image) {
	add := func(format string, args ...any) {
		p.record.Warnings = append(p.record.Warnings, fmt.Sprintf(format, args...))
	}
	voxels := im.Shape[1] * im.Shape[2] * im.Shape[3]
	for c, scheme := range s.how.Schemes {
		if scheme.Name != "CTNormalization" || voxels == 0 {
			continue
		}
		lo, _ := im.Pixels.Extremes(c*voxels, (c+1)*voxels)
		if lo < 0 {
			continue
		}
		least := make([]float64, 1)
		im.Pixels.Float64s(least, lo)
		if least[0] >= -200 {
			add("no voxel of channel %d is below -200, the least is %g: are these HU?", c, least[0])
		}
	}
	for axis, v := range im.Spacing {
		lo, hi := 0.0, 0.0
		for _, row := range s.model.spacings {
			if axis < len(row) {
				if lo == 0 || row[axis] < lo {
					lo = row[axis]
				}
				hi = max(hi, row[axis])
			}
		}
		if lo > 0 && (v < lo/2 || v > hi*2) {
			add("the spacing along %s is %.3g mm, the model was trained with %.3g to %.3g mm", "zyx"[axis:axis+1], v, lo, hi)
		}
	}
	for _, text := range p.record.Warnings {
		s.out.Printf("WARNING: case %s: %s", p.id, text)
	}
}

// withLabels appends one channel for each label to the data, 1 where the previous stage has it.
// Source: nnU-Net 2.5.1, data_iterators.py; label_handling.py, convert_labelmap_to_one_hot.
func withLabels(c *preprocess.Case, labels []int) *volume.Volume[float32] {
	shape := c.Data.Shape
	shape[0] += len(labels)
	out := volume.New[float32](shape)
	rest := out.Data[copy(out.Data, c.Data.Data):]
	n := shape[1] * shape[2] * shape[3]
	for k, label := range labels {
		channel := rest[k*n:][:n]
		switch seg := c.Seg.(type) {
		case *volume.Volume[int8]:
			mark(channel, seg.Data, label)
		case *volume.Volume[int16]:
			mark(channel, seg.Data, label)
		}
	}
	return out
}

func mark[L int8 | int16](channel []float32, seg []L, label int) {
	for i, l := range seg {
		if int(l) == label {
			channel[i] = 1
		}
	}
}

// segment runs the network over a case, on the calling thread, and makes labels of what it gives
// beside that.
func (s *segmenter) segment(ctx context.Context, p *preparedCase) (err error) {
	start := time.Now()
	need, err := infer.Forecast(s.model.configuration.PatchSize, s.model.heads(), len(s.model.folds), p.data.Shape, s.window)
	if err != nil {
		return fmt.Errorf("%s: %w", p.images[0], err)
	}
	p.record.Tiles, p.record.Repeated, p.record.Strips = need.Tiles, need.Repeated, need.Strips
	how := preprocess.InverseConfig{Labels: s.model.dataset.Labels, Reference: s.IsReference(),
		Shorten: !s.IsReference(), Threads: s.Threads}
	defer func() {
		p.data = nil
		s.left.end(p.index)
		p.record.Seconds.Network = lap(&start)
		if err != nil {
			p.close()
		}
	}()
	if s.SkipAir == airChecked {
		if p.skipping, err = preprocess.NewInverse(p.grid, how); err != nil {
			return err
		}
	}
	if s.Probabilities {
		how.Probabilities = filepath.Dir(p.output)
	}
	if p.inverse, err = preprocess.NewInverse(p.grid, how); err != nil {
		return err
	}
	if p.skipping != nil {
		if err := s.slide(ctx, p, p.skipping, s.air(p)); err != nil {
			return err
		}
		return s.slide(ctx, p, p.inverse, nil)
	}
	if s.SkipAir != "" {
		return s.slide(ctx, p, p.inverse, s.air(p))
	}
	return s.slide(ctx, p, p.inverse, nil)
}

// slide runs the window over a case once.
func (s *segmenter) slide(ctx context.Context, p *preparedCase, inverse *preprocess.Inverse, air *infer.Air) error {
	if err := s.predict.SkipAir(air); err != nil {
		return err
	}
	if air != nil {
		skipped, err := s.predict.Skipped(p.data.Shape)
		if err != nil {
			return err
		}
		p.record.Air = &AirRecord{Tiles: skipped}
	}
	bar := s.out.progress()
	began := false
	taken, err := segment.Run(ctx, s.predict, p.data, []*preprocess.Inverse{inverse}, func(done, total int) {
		if !began {
			began = true
			bar.Begin(p.id, total)
		}
		bar.Done(done, s.left.note(p.index, float64(done)/float64(total)))
	})
	if began {
		bar.End()
	}
	p.record.Seconds.Export += taken.Seconds()
	return err
}

// write writes the files of a case, the segmentation last.
func (s *segmenter) write(ctx context.Context, p *preparedCase) (err error) {
	start := time.Now()
	defer func() {
		err = errors.Join(err, p.close())
		p.record.Seconds.Export += lap(&start)
	}()
	labels, err := p.inverse.Finish()
	if err != nil {
		return err
	}
	if p.skipping != nil {
		other, err := p.skipping.Finish()
		if err != nil {
			return err
		}
		n, err := differences(labels, other)
		if err != nil {
			return err
		}
		p.record.Air.LabelsChanged = &n
	}
	labels = p.turn.Inverse().Apply(labels)
	if err := s.count(p, labels); err != nil {
		return err
	}
	if !s.Probabilities && !s.single() { // those of an earlier run would not be of these labels
		for _, ending := range []string{".npz", ".pkl"} {
			if err := os.Remove(p.stem + ending); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	files := segment.Files{Labels: p.output, Stem: p.stem, Reader: s.reader, Geometry: p.written,
		Properties: p.properties, Threads: s.Threads}
	if s.To == "" {
		return files.Write(ctx, p.inverse, labels)
	}
	if err := files.WriteProbabilities(p.inverse); err != nil {
		return err
	}
	return s.writeObject(ctx, p, labels)
}

// count fills in how much of each label there is, and in how many pieces.
func (s *segmenter) count(p *preparedCase, im *volume.Image) error {
	voxel := p.spacing[0] * p.spacing[1] * p.spacing[2]
	var counts []int64
	switch pixels := im.Pixels.(type) {
	case volume.Slice[uint8]:
		counts = histogram(pixels, 1<<8)
	case volume.Slice[uint16]:
		counts = histogram(pixels, 1<<16)
	}
	p.record.Labels = map[string]LabelCount{}
	add := func(name string, value int) error {
		n := counts[value]
		c := LabelCount{Name: name, Voxels: n, MM3: float64(n) * voxel}
		if n > 0 {
			var err error
			if c.Components, err = pieces(im, value); err != nil {
				return err
			}
		}
		p.record.Labels[strconv.Itoa(value)] = c
		return nil
	}
	l := s.model.dataset.Labels
	var failed []error
	if l.HasRegions {
		for i, value := range l.RegionsClassOrder {
			failed = append(failed, add(l.Regions[i].Name, value))
		}
		return errors.Join(failed...)
	}
	for _, e := range l.Entries {
		if e.Name != "ignore" && e.Values[0] != 0 {
			failed = append(failed, add(e.Name, e.Values[0]))
		}
	}
	return errors.Join(failed...)
}

func histogram[L uint8 | uint16](pixels []L, values int) []int64 {
	counts := make([]int64, values)
	for _, v := range pixels {
		counts[v]++
	}
	return counts
}

// pieces is the number of connected components of a label, over faces, edges and corners.
func pieces(im *volume.Image, value int) (int, error) {
	var found *components.Components
	var err error
	switch pixels := im.Pixels.(type) {
	case volume.Slice[uint8]:
		found, err = components.Find(pixels, [3]int(im.Shape[1:]), []int{value}, components.Full)
	case volume.Slice[uint16]:
		found, err = components.Find(pixels, [3]int(im.Shape[1:]), []int{value}, components.Full)
	}
	if err != nil {
		return 0, err
	}
	return len(found.Voxels), nil
}

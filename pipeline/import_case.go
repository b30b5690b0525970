package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/dicom/labels"
	"github.com/lntorch/lntorch/formats/dicom/series"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/internal/filehash"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/volume"
)

// writeAll writes the cases that the dataset does not have.
func (m *importer) writeAll(ctx context.Context) error {
	if _, err := plans.DatasetFromObject(m.describe(), "dataset.json"); err != nil {
		return settings.Usage("--label: %w", err)
	}
	todo := &raw.Dataset{}
	var cases []*importCase
	voxels, kept := 0.0, 0
	for _, c := range m.cases {
		switch {
		case c.Status == ImportKept:
			kept++
		case c.err == nil:
			todo.Cases = append(todo.Cases, raw.Case{ID: c.Case})
			cases = append(cases, c)
			voxels += c.voxels()
			m.record.Pending = append(m.record.Pending, c.Case)
		}
	}
	free := ""
	if n, err := system.FreeDisk(m.folder()); err == nil {
		free = fmt.Sprintf("; %s are free", system.Size(n))
	}
	m.o.Printf("%s: %d cases to write, %s before compression, %d are there already%s", m.folder(),
		len(cases), system.Size(int64(3*voxels)), kept, free)
	if err := m.save(); err != nil {
		return err
	}
	workers := min(m.workers(), max(len(cases), 1))
	room := newRoom()
	saved := time.Now()
	err := todo.Each(ctx, workers, "import", m.o.progress(), func(i int, _ raw.Case) error {
		c := cases[i]
		n := room.take(c.bytes())
		defer room.give(n)
		if ctx.Err() != nil {
			return nil
		}
		r, err := m.write(ctx, c, max(1, system.Cores()/workers))
		m.lock.Lock()
		defer m.lock.Unlock()
		for _, w := range c.Warnings {
			m.o.Printf("WARNING: case %s: %s", c.Case, w)
		}
		if c.err = err; err != nil {
			return nil
		}
		c.Status = ImportWritten
		m.record.Cases = append(m.record.Cases, r)
		if time.Since(saved) > saveEvery {
			saved = time.Now()
			return m.save()
		}
		return nil
	})
	m.record.Pending = nil
	if failed := m.save(); failed != nil && (err == nil || ctx.Err() != nil) {
		return failed
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped by the user; %d cases of %s are complete, the same command "+
			"goes on from there: %w",
			len(m.record.Cases), m.folder(), ctx.Err())
	}
	return err
}

// voxels is the size of a case.
func (c *importCase) voxels() float64 {
	n := 1.0
	for _, s := range c.Size {
		n *= float64(s)
	}
	return n
}

// bytes is about what a case takes in memory: the pixels, as they are read and resampled, or the labels
// in the widest form in which they are read.
func (c *importCase) bytes() int64 {
	const each = 2*4 + 2
	return int64(min(each*c.voxels(), math.MaxInt64/2))
}

// A room is memory that cases share.
type room struct {
	lock      sync.Mutex
	changed   *sync.Cond
	all, free int64
}

func newRoom() *room {
	r := &room{all: math.MaxInt64}
	if memory, err := system.ReadMemory(); err == nil {
		r.all = system.Budget(memory.Available)
	}
	r.free = r.all
	r.changed = sync.NewCond(&r.lock)
	return r
}

// take waits until there is room for so many bytes, for more than there can be until there is all of it.
// It returns how much was taken.
func (r *room) take(n int64) int64 {
	n = min(n, r.all)
	r.lock.Lock()
	defer r.lock.Unlock()
	for r.free < n {
		r.changed.Wait()
	}
	r.free -= n
	return n
}

func (r *room) give(n int64) {
	r.lock.Lock()
	r.free += n
	r.lock.Unlock()
	r.changed.Broadcast()
}

// write writes a case: its labels, then its image, so that a case with an image is complete.
func (m *importer) write(ctx context.Context, c *importCase, workers int) (*recordedCase, error) {
	// Before there are files: what follows is done, or nothing of it is left.
	if err := c.identify(ctx); err != nil {
		return nil, err
	}
	imageFile, labelFile := m.files(c.Case, c.Test)
	if labelFile != "" {
		if err := m.writeLabels(c, labelFile, workers); err != nil {
			return nil, err
		}
	}
	sum, err := m.writeImage(c, imageFile, workers)
	if err != nil {
		os.Remove(imageFile)
		if labelFile != "" {
			os.Remove(labelFile)
		}
		return nil, err
	}
	return &recordedCase{Case: c.Case, Test: c.Test, Size: c.Size, Spacing: c.Spacing, Problems: c.Problems,
		Voxels: c.Voxels, SHA256: sum.String(), Source: c.source, Series: c.series, LabelSource: c.labelSource()}, nil
}

// writeImage writes the values of the image, with its geometry and nothing else of its header. It
// returns the sum of the file.
func (m *importer) writeImage(c *importCase, to string, workers int) (filehash.Sum, error) {
	if err := m.writeValues(c, to, workers); err != nil {
		return filehash.Sum{}, err
	}
	return (*filehash.Cache)(nil).SHA256(to)
}

func (m *importer) writeValues(c *importCase, to string, workers int) error {
	if c.stack != nil {
		im, err := c.stack.Read(series.Options{Fix: m.FixGeometry, Workers: workers})
		if err != nil {
			return err
		}
		if c.Test { // with labels the reference has said them
			c.Warnings = append(c.Warnings, im.Warnings...)
		}
		h := im.Head()
		return image.Write(to, h.Size, h.Geometry, im.Values(), workers)
	}
	f, err := image.Read(c.file)
	if err != nil {
		return err
	}
	h := f.Head()
	if err := threeAxes(c.file, h); err != nil {
		return err
	}
	grid, err := labels.NewGrid(h.Size, h.Geometry)
	if err != nil {
		return fmt.Errorf("%s: %w", c.file, err)
	}
	return image.Write(to, grid.Size[:], grid.ITK, f.Values(), workers)
}

// reference is the case's image, for labels.
func (m *importer) reference(c *importCase, workers int) (*reference, error) {
	if c.stack != nil {
		r, err := stackReference(c.Image, c.stack, m.FixGeometry, workers)
		if err == nil {
			r.byFrame, r.some = c.byFrame, true
		}
		return r, err
	}
	return fileReference(c.file, c.header, workers)
}

var errNoVoxel = errors.New("its labels have no voxel in the image: --allow-empty imports it " +
	"all the same")

// writeLabels writes a case's label map, on the grid of its image.
func (m *importer) writeLabels(c *importCase, to string, workers int) error {
	r, err := m.reference(c, workers)
	if err != nil {
		return err
	}
	var pixels volume.Pixels
	counts := make([]int, len(m.choices))
	if c.labels.object == nil {
		if pixels, err = m.mapValues(c, r.grid, counts); err != nil {
			return err
		}
	} else {
		drawn, err := m.drawObject(c, r)
		if err != nil {
			return err
		}
		pixels = drawn.Pixels
		for i, l := range drawn.Labels {
			counts[i] = l.Voxels
		}
	}
	c.Voxels = map[string]int{}
	all := 0
	for i, choice := range m.choices {
		c.Voxels[choice.Name] = counts[i]
		all += counts[i]
	}
	if all == 0 && !m.AllowEmpty {
		return errNoVoxel
	}
	return image.Write(to, r.grid.Size[:], r.grid.ITK, pixels, workers)
}

// drawObject draws the labels of an RTSTRUCT or a SEG.
func (m *importer) drawObject(c *importCase, r *reference) (*labels.Map, error) {
	if !c.labels.matches() { // --allow-empty
		empty := make([]labels.Label, len(m.choices))
		for i, choice := range m.choices {
			empty[i].Name = choice.Name
		}
		c.Warnings = append(c.Warnings, "no "+c.labels.kind+" of "+c.labels.name+" matches: its "+
			"label map is empty")
		return labels.NewMap(r.grid, empty), nil
	}
	drawn, warnings, err := drawObject(c.labels.object, m.choices,
		LabelsChoice{Threshold: m.Threshold, Resample: m.Resample},
		func(labels.References) (*reference, error) { return r, nil })
	var none *labels.NoMatchError // which shows names
	if errors.As(err, &none) {
		return nil, fmt.Errorf("%s has changed since its names were read", c.labels.name)
	}
	if err != nil {
		return nil, err
	}
	c.Warnings = append(c.Warnings, warnings...)
	return drawn, nil
}

// mapValues reads a label map onto the grid of the image, and counts the voxels of each label.
func (m *importer) mapValues(c *importCase, grid *labels.Grid, counts []int) (volume.Pixels, error) {
	path := c.labels.file
	f, err := image.Read(path)
	if err != nil {
		return nil, err
	}
	h := f.Head()
	if err := threeAxes(path, h); err != nil {
		return nil, err
	}
	im := h.Geometry.Image(h.Size[:3], f.Values())
	values, err := labels.Place(im, grid, "image")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	pixels := make(volume.Slice[uint8], len(values))
	wide := volume.Slice[uint16](values)
	for i, v := range values {
		k := m.values[int(v)]
		if k > 0 {
			counts[k-1]++
		}
		wide[i] = uint16(k)
		pixels[i] = uint8(k)
	}
	if len(m.choices) > math.MaxUint8 {
		return wide, nil
	}
	return pixels, nil
}

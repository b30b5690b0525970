package pipeline

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/volume"
)

// EnsembleConfig joins predictions of several models for the same cases.
type EnsembleConfig struct {
	Inputs  []string  `flag:"input" short:"i" list:"true" path:"true" help:"folders of predictions with probabilities; several may follow"`
	Output  string    `flag:"output" short:"o" path:"true" help:"folder to write to"`
	Weights []float64 `flag:"weights" range:">0.." list:"true" help:"weight of each folder (default: all the same)"`
	SaveNpz bool      `flag:"save-npz" help:"write the mean probabilities, too"`
	LabelFiles
	Workers int `flag:"np" nnunet:"np" default:"1" range:"1.." help:"cases at a time; each takes 7 bytes a voxel"`
}

// Ensembled is what Ensemble made.
type Ensembled struct {
	Folder string   `json:"folder"`
	Cases  []string `json:"cases"`
}

// Ensemble writes the labels of the mean of the models' probabilities, which lie in .npz files. Plans and labels are those of
// the first folder. Probabilities are read as streams, class by class.
// Differs: nnU-Net 2.5.1 puts the mean through softmax or sigmoid once more, so that every region becomes foreground; with
// --save_npz its .pkl hold the probabilities instead of the properties; and it writes no plans.json.
// Source: nnunetv2/ensembling/ensemble.py.
func Ensemble(ctx context.Context, c EnsembleConfig, o Output) (*Ensembled, error) {
	if err := settings.Check(&c); err != nil {
		return nil, err
	}
	if len(c.Inputs) == 0 || c.Output == "" {
		return nil, settings.Usage("-i and -o must be given")
	}
	if n := len(c.Weights); n > 0 && n != len(c.Inputs) {
		return nil, settings.Usage("--weights: found %d, expected one for each of the %d folders", n, len(c.Inputs))
	}
	l, err := openLabelling(c.Inputs[0], c.Plans, c.Dataset)
	if err != nil {
		return nil, err
	}
	e, err := newEnsemble(l, len(c.Inputs), c.Weights)
	if err != nil {
		return nil, err
	}
	e.saveNpz = c.SaveNpz
	members := make([]member, len(c.Inputs))
	for i, folder := range c.Inputs {
		files, err := filesEnding(folder, ".npz")
		if err != nil {
			return nil, fmt.Errorf("%w: predict with --save_probabilities", err)
		}
		members[i] = newMember(folder, files)
	}
	cases, err := commonCases(members)
	if err != nil {
		return nil, err
	}
	for _, in := range c.Inputs {
		if same, err := sameFolder(in, c.Output); err != nil || same {
			return nil, errors.Join(err, settings.Usage("-o %s is one of the input folders: name another one", c.Output))
		}
	}
	if err := os.MkdirAll(c.Output, 0o777); err != nil {
		return nil, err
	}
	if err := l.copyInto(c.Output); err != nil {
		return nil, err
	}
	d := &raw.Dataset{}
	for _, name := range cases {
		d.Cases = append(d.Cases, raw.Case{ID: name})
	}
	err = d.Each(ctx, c.Workers, "ensembling", o.progress(), func(_ int, rc raw.Case) error {
		return e.merge(ctx, members, rc.ID, c.Output)
	})
	return &Ensembled{c.Output, cases}, err
}

// sameFolder says that a is the folder b, which need not be there.
func sameFolder(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y), nil
}

// member is the probabilities of one model: .npz files by case.
type member struct {
	folder string // as people named it
	files  map[string]string
}

func newMember(folder string, files []string) member {
	m := member{folder, map[string]string{}}
	for _, f := range files {
		m.files[strings.TrimSuffix(filepath.Base(f), ".npz")] = f
	}
	return m
}

// commonCases lists the cases of the members, which must be the same in all of them.
func commonCases(members []member) ([]string, error) {
	var all []string
	for _, m := range members {
		all = slices.AppendSeq(all, maps.Keys(m.files))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	var lacking []string
	for _, m := range members {
		missing := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return m.files[name] != "" })
		if len(missing) > 0 {
			lacking = append(lacking, fmt.Sprintf("%s lacks %s", m.folder, several(missing)))
		}
	}
	if lacking != nil {
		return nil, fmt.Errorf("the folders hold different cases: %s: predict them, or take the others away", strings.Join(lacking, "; "))
	}
	return all, nil
}

// ensemble is how the mean of models is made.
type ensemble struct {
	*labelling
	weights []float32
	total   float32
	saveNpz bool // write the mean, too
}

// newEnsemble gives each of n members its weight; without weights all have the same.
func newEnsemble(l *labelling, n int, weights []float64) (*ensemble, error) {
	if err := l.dataset.Labels.CheckConsecutive(); err != nil {
		return nil, fmt.Errorf("%s: %w", l.datasetPath, err)
	}
	for _, v := range append([]int{l.dataset.Labels.NumSegmentationHeads() - 1}, l.dataset.Labels.RegionsClassOrder...) {
		if v < 0 || v > math.MaxUint16 {
			return nil, fmt.Errorf("%s: found the label %d, expected labels from 0 to %d", l.datasetPath, v, math.MaxUint16)
		}
	}
	e := &ensemble{labelling: l, weights: make([]float32, n)}
	for i := range e.weights {
		e.weights[i] = 1
		if weights != nil {
			e.weights[i] = float32(weights[i])
		}
		e.total += e.weights[i]
	}
	return e, nil
}

// merge makes the files of a case in a folder.
func (e *ensemble) merge(ctx context.Context, members []member, name, folder string) (err error) {
	first := members[0].files[name]
	described := strings.TrimSuffix(first, ".npz") + ".pkl"
	properties, err := readProperties(described)
	if err != nil {
		return err
	}
	m := &merging{ensemble: e, ctx: ctx}
	defer m.close()
	for _, member := range members {
		if err := m.open(member.files[name]); err != nil {
			return err
		}
	}
	voxels := m.shape[1] * m.shape[2] * m.shape[3]
	m.labels = make([]uint16, voxels)
	if !e.dataset.Labels.HasRegions {
		m.best = make([]float32, voxels)
	}
	to := filepath.Join(folder, name)
	if !e.saveNpz {
		if _, err := m.WriteTo(io.Discard); err != nil {
			return err
		}
	} else {
		w, err := npz.CreateWith(to+".npz", npz.Options{Deflate: true, Threads: max(runtime.GOMAXPROCS(0), 1)})
		if err != nil {
			return err
		}
		added := w.AddFloat32s("probabilities", m.shape, m)
		closed := w.Close()
		if m.failed != nil {
			return m.failed // in its own words, not as a fault of the file that is written
		}
		if err := cmp.Or(added, closed); err != nil {
			return err
		}
		if err := copyFile(described, to+".pkl"); err != nil {
			return err
		}
	}
	m.best = nil
	seg := &volume.Image{Shape: [4]int{1, m.shape[1], m.shape[2], m.shape[3]}, Pixels: volume.Slice[uint16](m.labels)}
	return e.reader.WriteSeg(to+e.dataset.FileEnding, seg, properties)
}

// readProperties reads the geometry of a case from the .pkl beside its probabilities.
func readProperties(path string) (*images.Properties, error) {
	v, err := pickle.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: prediction writes it beside the .npz, and the labels need its geometry", path)
	}
	if err != nil {
		return nil, err
	}
	d, ok := v.(*pickle.Dict)
	if !ok {
		return nil, fmt.Errorf("%s: found a %s, expected the properties of an image", path, pickle.TypeName(v))
	}
	p, err := images.FromDict(d)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// merging is one case under way. Its WriteTo takes the mean, paints the labels and writes the mean on.
type merging struct {
	*ensemble
	ctx     context.Context
	shape   []int // (heads, z, y, x)
	streams []*probabilities
	labels  []uint16
	best    []float32 // largest mean so far; nil for regions
	failed  error     // of reading a member
}

// probabilities are those of one model, decompressed ahead of need on a goroutine of its own.
type probabilities struct {
	path   string
	file   *npz.File
	stream *npz.Stream
	ready  chan []float32
	free   chan []float32
	failed error // valid when ready is closed
}

// meanBlock is how many voxels of a class are taken at a time.
const meanBlock = 1 << 18

func (m *merging) open(path string) error {
	f, err := npz.OpenNpz(path)
	if err != nil {
		return err
	}
	p := &probabilities{path: path, file: f}
	m.streams = append(m.streams, p)
	if p.stream, err = f.Stream("probabilities"); err != nil {
		return err
	}
	shape := p.stream.Shape
	if len(shape) != 4 || slices.Min(shape) < 1 {
		return fmt.Errorf("%s: found probabilities of shape %v, expected (classes, z, y, x)", path, shape)
	}
	if heads := m.dataset.Labels.NumSegmentationHeads(); shape[0] != heads {
		return fmt.Errorf("%s: found probabilities of %d classes, expected the %d of %s", path, shape[0], heads, m.datasetPath)
	}
	if m.shape == nil {
		m.shape = shape
	} else if !slices.Equal(shape, m.shape) {
		return fmt.Errorf("%s: found probabilities of shape %v, expected %v as in %s", path, shape, m.shape, m.streams[0].path)
	}
	return nil
}

func (m *merging) close() {
	for _, p := range m.streams {
		if p.stream != nil {
			p.stream.Close()
		}
		p.file.Close()
	}
}

// each calls f for the blocks of the probabilities in the order of the files: class, first voxel, number of voxels.
func (m *merging) each(f func(class, at, n int) error) error {
	voxels := m.shape[1] * m.shape[2] * m.shape[3]
	for class := range m.shape[0] {
		for at := 0; at < voxels; at += meanBlock {
			if err := f(class, at, min(meanBlock, voxels-at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// read sends the blocks of a member until done is closed.
func (m *merging) read(p *probabilities, done chan struct{}) {
	defer close(p.ready)
	p.failed = m.each(func(_, _, n int) error {
		select {
		case b := <-p.free:
			if err := p.stream.Float32s(b[:n]); err != nil {
				return err
			}
			p.ready <- b[:n] // there is room for all blocks
			return nil
		case <-done:
			return context.Canceled
		}
	})
}

// WriteTo writes the mean as little-endian float32.
func (m *merging) WriteTo(w io.Writer) (written int64, err error) {
	const ahead = 3
	size := min(meanBlock, len(m.labels))
	done := make(chan struct{})
	var readers sync.WaitGroup
	defer func() {
		close(done)
		readers.Wait()
	}()
	for _, p := range m.streams {
		p.ready, p.free = make(chan []float32, ahead), make(chan []float32, ahead)
		for range ahead {
			p.free <- make([]float32, size)
		}
		readers.Go(func() { m.read(p, done) })
	}
	raw := make([]byte, 4*size)
	sum := make([]float32, size)
	err = m.each(func(class, at, n int) error {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		mean := sum[:n]
		for k, p := range m.streams {
			b, ok := <-p.ready
			if !ok {
				m.failed = p.failed
				return m.failed
			}
			if i := improbable(b); i >= 0 {
				m.failed = fmt.Errorf("%s: found %g for class %d, expected probabilities from 0 to 1: predict the case again with "+
					"--save_probabilities", p.path, b[i], class)
				return m.failed
			}
			weigh(mean, b, m.weights[k], k == 0)
			p.free <- b[:size]
		}
		for i := range mean {
			mean[i] /= m.total
		}
		m.paint(class, at, mean)
		if w == io.Discard {
			return nil
		}
		for i, v := range mean {
			binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
		}
		k, err := w.Write(raw[:4*n])
		written += int64(k)
		return err
	})
	return written, err
}

// improbable is the index of the first value that is no probability, NaN among them, or -1. A softmax may exceed 1 by rounding.
func improbable(b []float32) int {
	for i, v := range b {
		if !(v >= 0 && v <= 1.001) {
			return i
		}
	}
	return -1
}

// weigh adds weight·b to sum, or sets it. With weight 1 it is numpy's sum of float32.
func weigh(sum, b []float32, weight float32, first bool) {
	b = b[:len(sum)]
	if first {
		for i, v := range b {
			sum[i] = v * weight
		}
		return
	}
	for i, v := range b {
		sum[i] += float32(v * weight) // rounded by itself, on every processor
	}
}

// paint brings the labels up to date with a class: the one of the largest mean, the lowest of equals; or regions where the mean
// is above 0.5, later ones over earlier.
// Source: label_handling.py, convert_probabilities_to_segmentation.
func (m *merging) paint(class, at int, mean []float32) {
	labels := m.labels[at:][:len(mean)]
	if m.best == nil {
		value := uint16(m.dataset.Labels.RegionsClassOrder[class])
		for i, v := range mean {
			if v > 0.5 {
				labels[i] = value
			}
		}
		return
	}
	best := m.best[at:][:len(mean)]
	if class == 0 {
		copy(best, mean)
		return
	}
	for i, v := range mean {
		if v > best[i] {
			best[i], labels[i] = v, uint16(class)
		}
	}
}

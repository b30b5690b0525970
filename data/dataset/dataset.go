// Package dataset reads the folders of cases that nnU-Net's preprocessing writes, and determines
// the training and validation cases of a fold. Preprocessing is data/preprocess's, cutting patches
// data/loader's.
package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/volume"
)

// Case is one preprocessed case. It is shared between callers of Load and must not be modified.
type Case struct {
	Key       string
	Data      *volume.Volume[float32] // normalised intensities (c, z, y, x)
	Seg       *volume.Volume[int16]   // labels (1, z, y, x); -1: outside the non-zero region
	SegValues []int16                 // the distinct values of Seg, ascending
	Locations []Locations             // per class, in the order of the properties file
	Source    string                  // file of Data, for error messages

	disk *unpackedCase // where voxels are; nil: in Data and Seg
}

// Locations holds voxels of one class: a foreground label, a region, or all labels together (only
// with an ignore label). Preprocessing samples at most a few ten thousand.
type Locations struct {
	Labels []int // one value for a label, several for a region
	Voxels [][3]int32
}

// Dataset is a folder of preprocessed cases, <preprocessed>/<dataset>/<data_identifier>. It is safe
// for concurrent use; set its fields before the first Load.
type Dataset struct {
	// Channels is the required number of image channels; 0 accepts any.
	Channels int
	// CacheBytes bounds the memory of the cached cases. The least recently used case is evicted
	// first; a case that exceeds the bound is not cached. Of a case that LoadForPatches finds no room
	// for only what is beside the voxels is cached, where it is unpacked.
	CacheBytes int64

	folder string
	keys   []string

	mu    sync.Mutex
	cache map[string]*entry
	held  int64
	clock int64
}

type entry struct {
	once  sync.Once
	c     *Case
	err   error
	bytes int64
	used  int64 // logical time of the last use
}

// DefaultCacheBytes suffices for eighty CTs of 128×256×256 voxels.
const DefaultCacheBytes = 4 << 30

// Open finds the cases of a folder: the names of its *.npz files except those of a cascade's
// previous stage, sorted by code points. No file is read.
// Source: nnU-Net 2.5.1, nnunet_dataset.py and utils.py.
func Open(folder string) (*Dataset, error) {
	files, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("dataset: %s: no such folder, expected preprocessed cases; "+
			"preprocess the dataset first", folder)
	}
	if err != nil {
		return nil, fmt.Errorf("dataset: %w", err)
	}
	d := &Dataset{CacheBytes: DefaultCacheBytes, folder: folder, cache: make(map[string]*entry)}
	for _, f := range files {
		key, ok := strings.CutSuffix(f.Name(), ".npz")
		if ok && !strings.Contains(key, "segFromPrevStage") {
			d.keys = append(d.keys, key)
		}
	}
	slices.Sort(d.keys)
	if len(d.keys) == 0 {
		blosc2 := func(f os.DirEntry) bool { return strings.HasSuffix(f.Name(), ".b2nd") }
		if slices.ContainsFunc(files, blosc2) {
			return nil, fmt.Errorf("dataset: %s: found cases preprocessed by nnU-Net 2.6 or newer "+
				"(.b2nd), expected .npz as written by lntorch and nnU-Net up to 2.5; keep the "+
				"folder for that nnU-Net, and plan and preprocess for lntorch under another name "+
				"(plan -overwrite_plans_name)", folder)
		}
		return nil, fmt.Errorf("dataset: %s: found %d files but no *.npz, expected preprocessed "+
			"cases; preprocess the dataset first", folder, len(files))
	}
	return d, nil
}

// Keys returns the names of the cases, sorted. The slice is a copy.
func (d *Dataset) Keys() []string { return slices.Clone(d.keys) }

// Folder returns the folder of the cases.
func (d *Dataset) Folder() string { return d.folder }

// Load returns a case from the cache or from its files: <key>.npy and <key>_seg.npy if they exist,
// <key>.npz otherwise, and <key>.pkl. The shapes of data and segmentation must agree and the number
// of channels must be Channels. Errors name the file, what was found and expected.
func (d *Dataset) Load(key string) (*Case, error) {
	c, err := d.load(key, false)
	if err != nil || c.disk == nil {
		return c, err
	}
	return d.read(key) // the cache has it without its voxels
}

// load returns a case that may lack its voxels. parts: a new one may stay on disk.
func (d *Dataset) load(key string, parts bool) (*Case, error) {
	d.mu.Lock()
	e := d.cache[key]
	if e == nil {
		e = &entry{}
		d.cache[key] = e
	}
	d.clock++
	e.used = d.clock
	d.mu.Unlock()

	e.once.Do(func() {
		e.c, e.err = d.read(key)
		if e.err == nil && parts && !d.fits(e.c) {
			if u := d.unpacked(key, e.c.Data.Shape); u != nil {
				e.c = e.c.onDisk(u)
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if e.err != nil {
			delete(d.cache, key) // so that a repaired file is read again
			return
		}
		if size := e.c.size(); size <= d.CacheBytes {
			e.bytes = size
			d.held += size
			d.evict()
		} else {
			delete(d.cache, key)
		}
	})
	return e.c, e.err
}

// fits reports whether the cache has room for a case beside those that it holds.
func (d *Dataset) fits(c *Case) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held+c.size() <= d.CacheBytes
}

// evict removes the least recently used cases until the cache is within its bound. d.mu is held.
func (d *Dataset) evict() {
	for d.held > d.CacheBytes {
		oldest := ""
		for key, e := range d.cache {
			if e.bytes > 0 && (oldest == "" || e.used < d.cache[oldest].used) {
				oldest = key
			}
		}
		d.held -= d.cache[oldest].bytes
		delete(d.cache, oldest)
	}
}

func (c *Case) size() int64 {
	n := int64(4*len(c.Data.Data) + 2*len(c.Seg.Data))
	for _, l := range c.Locations {
		n += int64(12 * len(l.Voxels))
	}
	return n
}

// CheckForeground returns an error unless one of the cases has a foreground voxel. It reads
// properties files until it finds one.
func (d *Dataset) CheckForeground(keys []string) error {
	var classes []int
	for _, key := range keys {
		locations, _, err := d.readLocations(key)
		if err != nil {
			return err
		}
		for _, l := range locations {
			background := slices.Contains(l.Labels, 0)
			if !background && len(l.Voxels) > 0 {
				return nil
			}
			if !background {
				classes = append(classes, l.Labels...)
			}
		}
	}
	slices.Sort(classes)
	return fmt.Errorf("dataset: %s: no foreground in any of %d cases (%s), expected voxels of "+
		"label %v in at least one; check the labels of the raw dataset and preprocess again",
		d.folder, len(keys), abbreviate(keys), slices.Compact(classes))
}

func (d *Dataset) path(key, ending string) string {
	return filepath.Join(d.folder, key+ending)
}

func (d *Dataset) read(key string) (*Case, error) {
	if !slices.Contains(d.keys, key) {
		return nil, fmt.Errorf("dataset: %s: expected a case of %s, which has %s",
			d.path(key, ".npz"), d.folder, abbreviate(d.keys))
	}
	c := &Case{Key: key}
	data, err := d.readArray(key, "data", ".npy")
	if err != nil {
		return nil, err
	}
	seg, err := d.readArray(key, "seg", "_seg.npy")
	if err != nil {
		return nil, err
	}
	c.Source = data.source
	if c.Data, err = asVolume(data, data.Float32s); err != nil {
		return nil, err
	}
	if c.Seg, err = asVolume(seg, seg.Int16s); err != nil {
		return nil, err
	}
	if d.Channels != 0 && c.Data.Shape[0] != d.Channels {
		return nil, fmt.Errorf("dataset: %s: found %d channels, expected %d, the network's input "+
			"channels; check channel_names of dataset.json and preprocess again",
			c.Source, c.Data.Shape[0], d.Channels)
	}
	if want := [4]int{1, c.Data.Shape[1], c.Data.Shape[2], c.Data.Shape[3]}; c.Seg.Shape != want {
		return nil, fmt.Errorf("dataset: %s: found a segmentation of shape %v, expected %v, since "+
			"the data of %s have shape %v; delete it and preprocess the case again",
			seg.source, c.Seg.Shape, want, c.Source, c.Data.Shape)
	}
	if i := firstNotFinite(c.Data.Data); i >= 0 {
		size := c.Data.Spatial()
		plane := size[1] * size[2]
		voxel := [3]int{i / plane % size[0], i / size[2] % size[1], i % size[2]}
		return nil, fmt.Errorf("dataset: %s: found %v in channel %d at voxel %v, expected finite "+
			"intensities: the loss of a training would not be; look at the image of case %s, and "+
			"preprocess it again", c.Source, c.Data.Data[i], i/(plane*size[0]), voxel, key)
	}
	c.SegValues = distinct(c.Seg.Data)
	var properties string
	if c.Locations, properties, err = d.readLocations(key); err != nil {
		return nil, err
	}
	for _, l := range c.Locations {
		for _, v := range l.Voxels {
			for axis, i := range v {
				if i < 0 || int(i) >= c.Data.Shape[axis+1] {
					return nil, fmt.Errorf("dataset: %s: class_locations of %v has voxel %v, "+
						"expected one inside shape %v of %s; delete it and preprocess the case "+
						"again",
						properties, l.Labels, v, c.Data.Spatial(), c.Source)
				}
			}
		}
	}
	return c, nil
}

// array is an array and the file that it was read from.
type array struct {
	*npz.Array
	source string
}

// readArray reads an array from its unpacked copy <key><ending>, if that exists, or from <key>.npz.
func (d *Dataset) readArray(key, name, ending string) (array, error) {
	path := d.path(key, ending)
	a, err := npz.OpenNpy(path)
	if err == nil {
		return array{a, path}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return array{}, fmt.Errorf("dataset: %w; delete the file if %s.npz is intact", err, key)
	}
	path = d.path(key, ".npz")
	f, err := npz.OpenNpz(path)
	if errors.Is(err, fs.ErrNotExist) {
		return array{}, fmt.Errorf("dataset: %s: no such file, expected case %s; preprocess the "+
			"case again",
			path, key)
	}
	if err != nil {
		return array{}, fmt.Errorf("dataset: %w; delete it and preprocess case %s again", err, key)
	}
	defer f.Close()
	if a, err = f.Read(name); err != nil {
		return array{}, fmt.Errorf("dataset: %w; delete it and preprocess case %s again", err, key)
	}
	return array{a, path}, nil
}

// asVolume converts an array with four axes (c, z, y, x), none of them empty.
func asVolume[T any](a array, values func() ([]T, error)) (*volume.Volume[T], error) {
	if len(a.Shape) != 4 || slices.Min(a.Shape) < 1 {
		return nil, fmt.Errorf("dataset: %s: found an array of shape %v, expected four axes (c, "+
			"z, y, x); delete it and preprocess the case again", a.source, a.Shape)
	}
	data, err := values()
	if err != nil {
		return nil, fmt.Errorf("dataset: %s: %w", a.source, err)
	}
	return &volume.Volume[T]{Data: data, Shape: [4]int(a.Shape)}, nil
}

// firstNotFinite is the index of the first NaN or infinite number; -1 if there is none.
func firstNotFinite(data []float32) int {
	var a, b, c, d float32 // stay 0 with finite numbers alone
	whole := data[:len(data)&^3]
	for i := 0; i < len(whole); i += 4 {
		x := whole[i:][:4]
		a, b, c, d = a+x[0]*0, b+x[1]*0, c+x[2]*0, d+x[3]*0
	}
	for _, x := range data[len(whole):] {
		a += x * 0
	}
	if a+b+c+d == 0 {
		return -1
	}
	return slices.IndexFunc(data, func(x float32) bool { return x*0 != 0 })
}

func distinct(seg []int16) []int16 {
	var seen [1 << 16]bool
	for _, v := range seg {
		seen[uint16(v)] = true
	}
	var values []int16
	for v := -1 << 15; v < 1<<15; v++ {
		if seen[uint16(v)] {
			values = append(values, int16(v))
		}
	}
	return values
}

// Properties returns the content of <key>.pkl, which is not cached, and its path.
func (d *Dataset) Properties(key string) (*pickle.Dict, string, error) {
	path := d.path(key, ".pkl")
	v, err := pickle.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, path, fmt.Errorf("dataset: %s: no such file, expected the properties of case "+
			"%s beside its npz; preprocess the case again", path, key)
	}
	if err != nil {
		return nil, path,
			fmt.Errorf("dataset: %w; delete it and preprocess case %s again", err, key)
	}
	properties, ok := v.(*pickle.Dict)
	if !ok {
		return nil, path, fmt.Errorf("dataset: %s: found a pickled %s, expected a dict of "+
			"properties; preprocess the case again", path, pickle.TypeName(v))
	}
	return properties, path, nil
}

// Shape returns the shape (c, z, y, x) of a case's data without reading them.
func (d *Dataset) Shape(key string) ([4]int, error) {
	path := d.path(key, ".npz")
	f, err := npz.OpenNpz(path)
	if err != nil {
		return [4]int{}, fmt.Errorf("dataset: %w", err)
	}
	defer f.Close()
	shape, _, err := f.Shape("data")
	if err != nil {
		return [4]int{}, fmt.Errorf("dataset: %w", err)
	}
	if len(shape) != 4 {
		return [4]int{}, fmt.Errorf("dataset: %s: found an array of shape %v, expected four axes "+
			"(c, z, y, x); delete it and preprocess the case again", path, shape)
	}
	return [4]int(shape), nil
}

// readLocations reads class_locations from <key>.pkl and returns the file's name, too.
func (d *Dataset) readLocations(key string) ([]Locations, string, error) {
	properties, path, err := d.Properties(key)
	if err != nil {
		return nil, path, err
	}
	v, _ := properties.Get("class_locations")
	classes, ok := v.(*pickle.Dict)
	if !ok {
		return nil, path, fmt.Errorf("dataset: %s: found no dict class_locations, expected one; "+
			"was it written for training? delete it and preprocess the case again", path)
	}
	var out []Locations
	for k, v := range classes.All() {
		l, err := parseLocations(k, v)
		if err != nil {
			return nil, path, fmt.Errorf("dataset: %s: class_locations: %w", path, err)
		}
		out = append(out, l)
	}
	return out, path, nil
}

func parseLocations(key, value any) (Locations, error) {
	var l Locations
	labels, ok := key.(pickle.Tuple)
	if !ok {
		labels = pickle.Tuple{key}
	}
	for _, k := range labels {
		label, ok := pickle.AsInt(k)
		if !ok {
			return l, fmt.Errorf("found key %v, expected a label or a tuple of labels", key)
		}
		l.Labels = append(l.Labels, int(label))
	}
	switch v := value.(type) {
	case *pickle.List:
		if len(v.Items) == 0 { // written by preprocessing for a class that does not occur
			return l, nil
		}
	case *pickle.NumpyArray:
		if len(v.Shape) != 2 || v.Shape[1] != 4 {
			return l, fmt.Errorf("%v: found an array of shape %v, expected (n, 4)", l.Labels, v.Shape)
		}
		rows, err := v.Int64s()
		if err != nil {
			return l, fmt.Errorf("%v: %w", l.Labels, err)
		}
		l.Voxels = make([][3]int32, len(rows)/4)
		for i := range l.Voxels {
			for axis := range 3 {
				x := rows[4*i+1+axis]
				if x != int64(int32(x)) {
					return l, fmt.Errorf("%v: found coordinate %d", l.Labels, x)
				}
				l.Voxels[i][axis] = int32(x)
			}
		}
		return l, nil
	}
	return l, fmt.Errorf("%v: found %s, expected an array of voxels or an empty list",
		l.Labels, pickle.TypeName(value))
}

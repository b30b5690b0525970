package fingerprint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/data/raw"
	"github.com/lntorch/lntorch/internal/mt19937"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/volume"
)

// Options configure how the cases are read.
type Options struct {
	Workers  int          // cases at a time, at least 1
	Progress raw.Progress // nil: none
	// Read reads a case of the dataset by its index: the image (c, z, y, x), what is known about it, and
	// the labels (1, z, y, x). nil: the dataset's reader, from the case's files.
	Read func(i int) (im *volume.Image, p *images.Properties, seg *volume.Image, err error)
}

// ExtractFolder extracts the fingerprint of a dataset and writes dataset_fingerprint.json into
// folder, the dataset's folder of preprocessed data. An existing fingerprint is loaded instead,
// reported by found, unless clean is set or the file is truncated.
func ExtractFolder(ctx context.Context, d *raw.Dataset, folder string, clean bool,
	o Options) (f *Fingerprint, found bool, err error) {
	path := filepath.Join(folder, File)
	if !clean {
		if f, err = Load(path); err == nil {
			return f, true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !cutOff(path) {
			return nil, false, fmt.Errorf("%w; delete it to extract the fingerprint again", err)
		}
	}
	if f, err = Extract(ctx, d, o); err != nil {
		return nil, false, err
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, false, fmt.Errorf("fingerprint: %w", err)
	}
	if err := plans.WriteJSON(path, f.object(), true); err != nil {
		return nil, false, fmt.Errorf("fingerprint: %w", err)
	}
	return f, false, nil
}

// cutOff reports whether a file is readable but not JSON.
func cutOff(path string) bool {
	b, err := regular.ReadFile(path)
	if err != nil {
		return false
	}
	_, err = plans.DecodeJSON(b)
	return err != nil
}

// measured is the result of one case.
type measured struct {
	spacing []float64
	shape   []int
	share   float64 // voxels after the crop / before
	samples []*sample
}

// Extract extracts the fingerprint of a dataset. Every case is read once; only its foreground
// values are kept, or the sampled ones if these are fewer. All cases contribute the same number of
// samples, 100 million in total, whatever the size of their foreground; the ignore label counts as
// foreground. A case that cannot be read does not stop the others from being checked: the error
// names all of them.
// Differs: nnU-Net raises IndexError if the number of channels is not dataset.json's.
// Source: nnU-Net 2.5.1, fingerprint_extractor.py.
func Extract(ctx context.Context, d *raw.Dataset, o Options) (*Fingerprint, error) {
	read := o.Read
	if read == nil {
		reader, err := d.Reader()
		if err != nil {
			return nil, fmt.Errorf("fingerprint: %w", err)
		}
		read = func(i int) (im *volume.Image, p *images.Properties, seg *volume.Image, err error) {
			if im, p, err = reader.Read(d.Cases[i].Images); err == nil {
				seg, _, err = reader.ReadSeg(d.Cases[i].Label)
			}
			return im, p, seg, err
		}
	}
	if len(d.Cases) == 0 {
		_, err := d.Example()
		return nil, fmt.Errorf("fingerprint: %w", err)
	}
	perCase := samplesOfDataset / len(d.Cases)
	cases := make([]measured, len(d.Cases))
	err := d.Each(ctx, o.Workers, "fingerprint", o.Progress, func(i int, c raw.Case) error {
		im, properties, seg, err := read(i)
		if err == nil {
			cases[i], err = measure(c, im, properties, seg, len(d.JSON.ChannelNames), perCase)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fingerprint: %s: %w", d.Name, err)
	}
	f := &Fingerprint{}
	var shares []float64
	for _, m := range cases {
		f.Spacings = append(f.Spacings, m.spacing)
		f.Shapes = append(f.Shapes, m.shape)
		shares = append(shares, m.share)
	}
	f.RelativeSize = median(shares)
	parallel := func(n int, work func(int)) {
		next := make(chan int)
		var wait sync.WaitGroup
		for range min(max(o.Workers, 1), n) {
			wait.Go(func() {
				for i := range next {
					work(i)
				}
			})
		}
		for i := range n {
			next <- i
		}
		close(next)
		wait.Wait()
	}
	for c := range d.JSON.ChannelNames {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		samples := make([]*sample, len(cases))
		for i := range cases {
			samples[i] = cases[i].samples[c]
		}
		if !slices.ContainsFunc(samples, func(s *sample) bool { return s.n > 0 }) {
			return nil, fmt.Errorf("fingerprint: %s: no label file has a foreground voxel within "+
				"its image; run lntorch fingerprint --verify_dataset_integrity to find the reason",
				d.Name)
		}
		f.Channels = append(f.Channels, statistics(samples, parallel))
	}
	v, err := plans.EncodeJSON(f.object(), -1, true)
	if err != nil {
		return nil, err
	}
	doc, err := plans.DecodeJSON(v)
	if err != nil {
		return nil, err
	}
	return FromJSON(doc) // the same as loading the file
}

func measure(c raw.Case, im *volume.Image, properties *images.Properties, seg *volume.Image,
	channels, draws int) (measured, error) {
	var m measured
	if im.Shape[0] != channels {
		return m, fmt.Errorf("%s: found %d channels, dataset.json has %d", c.Images, im.Shape[0],
			channels)
	}
	if seg.Shape[0] != 1 || [3]int(seg.Shape[1:]) != [3]int(im.Shape[1:]) {
		return m, fmt.Errorf("%s: found a segmentation of %v voxels (channels, z, y, x), the "+
			"image has %v",
			c.Label, seg.Shape, im.Shape)
	}
	size := im.Shape[1] * im.Shape[2] * im.Shape[3]
	if size > math.MaxUint32 {
		return m, fmt.Errorf("%s: found %v voxels (channels, z, y, x), at most 2³² are supported",
			c.Images, im.Shape)
	}
	box := preprocess.NonZeroBox(im)
	before, after := 1, 1
	for a, b := range box {
		m.shape = append(m.shape, b[1]-b[0])
		before *= im.Shape[1+a]
		after *= b[1] - b[0]
	}
	m.spacing = properties.Spacing
	m.share = float64(after) / float64(before)

	voxels, err := foreground(seg, box)
	if err != nil {
		return m, fmt.Errorf("%s: %w", c.Label, err)
	}
	source := mt19937.New(sampleSeed)
	for ch := range channels {
		if volume.NaNs(im.Pixels, ch*size, (ch+1)*size) > 0 {
			return m, fmt.Errorf("%s: channel %d contains NaN; replace it with a finite value",
				c.Images, ch)
		}
		values := make([]float32, len(voxels))
		gather(values, im.Pixels, ch*size, voxels)
		m.samples = append(m.samples, draw(values, draws, source))
	}
	return m, nil
}

// foreground returns the indices of the voxels of the box with a label above 0, in row-major order.
func foreground(seg *volume.Image, box [3][2]int) ([]uint32, error) {
	if volume.NaNs(seg.Pixels, 0, seg.Pixels.Len()) > 0 {
		return nil, errors.New("the segmentation contains NaN")
	}
	var list []uint32
	row := make([]float32, box[2][1]-box[2][0])
	for z := box[0][0]; z < box[0][1]; z++ {
		for y := box[1][0]; y < box[1][1]; y++ {
			at := (z*seg.Shape[2]+y)*seg.Shape[3] + box[2][0]
			seg.Pixels.Float32s(row, at)
			for x, v := range row {
				if v > 0 {
					list = append(list, uint32(at+x))
				}
			}
		}
	}
	return list, nil
}

// gather converts the pixels at offset+voxels to float32. voxels ascend; runs are converted at
// once.
func gather(dst []float32, p volume.Pixels, offset int, voxels []uint32) {
	for i := 0; i < len(voxels); {
		j := i + 1
		for j < len(voxels) && voxels[j] == voxels[j-1]+1 {
			j++
		}
		p.Float32s(dst[i:j], offset+int(voxels[i]))
		i = j
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

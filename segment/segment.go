// Package segment turns preprocessed cases into segmentations of their images: it runs the
// sliding window of package infer and the inverse of preprocessing side by side, and writes the
// files that nnU-Net's export writes. Prediction and the final validation of a training run use it;
// reading and preprocessing images is left to them.
//
// Source of behaviour: nnU-Net 2.5.1, inference/export_prediction.py.
package segment

import (
	"context"
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/volume"
)

// Run runs the networks of p over a preprocessed case on the calling thread, and passes each slab
// of logits to all of the inverses, on another goroutine. It returns the time that the inverses
// took. progress, which may be nil, is called after each tile. The caller closes the inverses.
func Run(ctx context.Context, p *infer.Predictor, data *volume.Volume[float32],
	inverses []*preprocess.Inverse, progress func(done, total int)) (time.Duration, error) {
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	slabs, added := make(chan volume.Slab), make(chan time.Duration)
	free := make(chan []float32, 2) // one slab is computed while another is resampled
	free <- nil
	free <- nil
	go func() {
		var taken time.Duration
		for slab := range slabs {
			begin := time.Now()
			for _, v := range inverses {
				if err := v.Add(slab); err != nil {
					stop(err)
				}
			}
			taken += time.Since(begin)
			free <- slab.Data
		}
		added <- taken
	}()
	err := p.Slabs(run, data.Data, data.Shape, progress, func(slab volume.Slab) error {
		slab.Data = append((<-free)[:0], slab.Data...)
		slabs <- slab
		return nil
	})
	close(slabs)
	taken := <-added
	if err != nil && run.Err() != nil {
		err = context.Cause(run) // the error of an inverse, or that the user interrupts
	}
	return taken, err
}

// Files are the files of a segmented case.
type Files struct {
	Labels string // path of the segmentation
	// Stem is the path of the probabilities and properties without .npz and .pkl. They are written
	// if the inverse computes probabilities.
	Stem       string
	Reader     images.Reader
	Geometry   *images.Properties // of the image
	Properties *pickle.Dict       // for the .pkl
	Threads    int                // that compress
}

// Write writes the files of a case, labels being what v.Finish returned. Each appears when it is
// complete, the segmentation last. Cancelling ctx leaves out the segmentation.
func (f *Files) Write(ctx context.Context, v *preprocess.Inverse, labels *volume.Image) error {
	if err := f.WriteProbabilities(v); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.Reader.WriteSeg(f.Labels, labels, f.Geometry)
}

// WriteProbabilities writes probabilities and properties, if v computes them. Each file appears when
// it is complete.
func (f *Files) WriteProbabilities(v *preprocess.Inverse) error {
	p := v.Probabilities()
	if p == nil {
		return nil
	}
	b, err := pickle.Marshal(f.Properties, nil)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(f.Stem+".pkl", b); err != nil {
		return err
	}
	w, err := npz.CreateWith(f.Stem+".npz", npz.Options{Deflate: true, Threads: f.Threads})
	if err != nil {
		return err
	}
	shape := p.Shape()
	added := w.AddFloat32s("probabilities", shape[:], p)
	if err := w.Close(); err != nil {
		return err
	}
	return added
}

// WriteSeg writes labels as <case>.npz with the array seg (z, y, x), as the next stage of a cascade
// takes them.
// Source: nnU-Net 2.5.1, export_prediction.py, resample_and_save.
func WriteSeg(path string, labels []uint8, shape [3]int) error {
	a, err := npz.New(labels, shape[:]...)
	if err != nil {
		return err
	}
	w, err := npz.Create(path, true)
	if err != nil {
		return err
	}
	if err := w.Add("seg", a); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

package pipeline

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lntorch/lntorch/data/images"
	"github.com/lntorch/lntorch/data/preprocess"
	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/infer"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// CaseForecast is what a case is going to take, from the headers of its images. What lies outside
// the nonzero part of an image is cropped, so that a case may take less.
type CaseForecast struct {
	Size    [3]int     `json:"size"`       // of the image, z, y, x
	Spacing [3]float64 `json:"spacing_mm"` // z, y, x
	Grid    [3]int     `json:"grid"`       // of the preprocessed case, in the plans' order of axes
	Passes  int        `json:"passes"`     // patches through a network
	Bytes   int64      `json:"bytes"`      // of memory, while it is in the network
	Disk    int64      `json:"disk_bytes"` // at most
	Seconds float64    `json:"seconds"`    // estimated; 0 where the network was not timed

	need     infer.Need
	channels int
	pixel    int // bytes
}

// Rates of the stages beside the network, in seconds for a voxel on one core, as measured on CTs of
// 256×256×100 with 2 cores.
const (
	readRate   = 20e-9 // of a compressed image
	inputRate  = 60e-9 // of preprocessing: a voxel of the preprocessed case
	outputRate = 12e-9 // of the export: a voxel of the image, for each class
	writeRate  = 14e-9 // counting, compressing, writing
)

const (
	baseBytes = 180 << 20 // of the program with libtorch
	// garbage is how far memory grows before Go collects what is no longer used.
	garbage = 2
)

// voxels is the size of a grid.
func voxels(shape [3]int) int64 { return int64(shape[0]) * int64(shape[1]) * int64(shape[2]) }

// forecastCases reads the headers of the images.
func (s *segmenter) forecastCases(ctx context.Context) error {
	s.forecasts = make([]*CaseForecast, len(s.cases))
	s.unreadable = make([]error, len(s.cases))
	for i := range s.cases {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := &s.cases[i]
		if s.Continue && s.complete(c) {
			continue
		}
		f, err := s.forecastCase(c)
		if err != nil {
			s.unreadable[i] = err
			continue
		}
		s.forecasts[i] = f
	}
	return nil
}

func (s *segmenter) forecastCase(c *imageCase) (*CaseForecast, error) {
	if len(c.images) == 0 {
		return nil, s.misnamed(c)
	}
	f := &CaseForecast{}
	for i, path := range c.images {
		h, err := s.header(c, path)
		if err != nil {
			return nil, err
		}
		shape := volume.Shape(h.Size)
		f.channels += shape[0]
		if i > 0 {
			continue
		}
		geometry := h.Geometry.Image(h.Size, nil)
		f.Size, f.Spacing = [3]int(shape[1:]), geometry.Spacing
		if f.pixel = 4; h.Type == "int8" || h.Type == "uint8" {
			f.pixel = 1
		} else if h.Type == "int16" || h.Type == "uint16" {
			f.pixel = 2
		}
		to := s.orientation
		if s.reader.Name() == "NibabelIOWithReorient" {
			to = "RAS"
		}
		if to == "" {
			continue
		}
		own, err := images.Orientation(geometry.DirectionXYZ)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		turn, err := images.NewTurn(own, to)
		if err != nil {
			return nil, err
		}
		f.Size, f.Spacing = images.Size(turn, f.Size), images.Size(turn, f.Spacing)
	}
	var size [3]int
	var old, target [3]float64
	for i, axis := range s.how.Transpose {
		size[i], old[i] = f.Size[axis], f.Spacing[axis]
	}
	target = old
	copy(target[3-len(s.how.Spacing):], s.how.Spacing)
	f.Grid = preprocess.NewShape(size, old, target)
	most := max(slices.Max(f.Size[:]), slices.Max(f.Grid[:]))
	if slices.Min(f.Grid[:]) < 1 || most > 1<<20 || max(voxels(f.Size), voxels(f.Grid)) > preprocess.MaxVoxels {
		return nil, fmt.Errorf("%s: %v voxels of %v mm (z, y, x) would be resampled to %v: is the spacing right?",
			c.images[0], f.Size, f.Spacing, f.Grid)
	}
	need, err := infer.Forecast(s.model.configuration.PatchSize, s.model.heads(), len(s.model.folds),
		[4]int{s.model.channels(), f.Grid[0], f.Grid[1], f.Grid[2]}, s.window)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.images[0], err)
	}
	f.need, f.Passes = need, need.Passes
	if s.SkipAir == airChecked {
		f.Passes *= 2 // without the tiles of air, and with them: at most
	}
	f.Bytes = voxels(f.Grid)*4*int64(s.model.channels()) + voxels(f.Size)*s.labelBytes()
	if s.window.Device.Type == torch.DeviceCPU {
		f.Bytes += need.Bytes
	}
	f.Disk = voxels(f.Size) * s.labelBytes()
	if s.Probabilities {
		f.Disk += voxels(f.Size) * int64(s.model.heads()) * 4
	}
	return f, nil
}

// header reads the header of one of a case's images.
func (s *segmenter) header(c *imageCase, path string) (*volume.Header, error) {
	if c.dicom {
		return s.seriesHeader(c)
	}
	if h := s.Headers[path]; h != nil {
		return h, nil
	}
	h, err := image.Header(path)
	if err != nil {
		return nil, err
	}
	return h, h.Problem
}

// labelBytes is the size of a voxel of a segmentation.
func (s *segmenter) labelBytes() int64 {
	if s.model.heads() > 255 {
		return 2
	}
	return 1
}

// objectBytes is what a voxel takes more while a DICOM object is made of the labels.
func (s *segmenter) objectBytes() int64 {
	switch {
	case s.To == "":
		return 0
	case s.PerNode:
		return 4
	}
	return 2
}

// prepared is the memory of a case while it is read and preprocessed.
func (f *CaseForecast) prepared() int64 {
	return int64(f.channels) * (voxels(f.Size)*int64(f.pixel) + voxels(f.Grid)*4)
}

// seconds estimates what a case takes: in the network, and in the stages beside it.
func (s *segmenter) seconds(f *CaseForecast) (network, beside float64) {
	network = float64(f.Passes) * s.cost.Pass.Seconds()
	size, grid := float64(voxels(f.Size)), float64(voxels(f.Grid))
	work := inputRate*grid*float64(f.channels) + outputRate*size*float64(s.model.heads())
	single := readRate*size*float64(f.channels) + writeRate*size
	return network, work/float64(s.Threads) + single
}

// announce says what the run is going to take, once a pass of the network was timed.
func (s *segmenter) announce() {
	tiles, repeated, passes, strips, count := 0, 0, 0, 0, 0
	network, beside := 0.0, 0.0
	var disk, probabilities int64
	switches := 0
	for _, f := range s.forecasts {
		if f == nil {
			continue
		}
		count++
		tiles, repeated, passes = tiles+f.need.Tiles, repeated+f.need.Repeated, passes+f.Passes
		switches += f.need.Switches
		if f.need.Strips > 1 {
			strips++
		}
		n, b := s.seconds(f)
		if f.Seconds = n + b; s.cost.Pass == 0 {
			f.Seconds = 0
		}
		network, beside = network+n, beside+b
		disk += f.Disk
		if s.Probabilities {
			probabilities = max(probabilities, voxels(f.Size)*int64(s.model.heads())*4)
		}
	}
	if count == 0 {
		return
	}
	text := fmt.Sprintf("forecast: %s, %s", counted(count, "case"), counted(tiles, "tile"))
	if repeated > 0 {
		text += fmt.Sprintf(" (%d of them again at the borders of strips: %s in more than one)", repeated, counted(strips, "case"))
	}
	text += fmt.Sprintf(", %s of the network", counted(passes, "pass"))
	if s.cost.Pass > 0 {
		text += fmt.Sprintf(", %s each", s.cost.Pass.Round(100*time.Microsecond))
		total := network + beside
		if s.window.Device.Type != torch.DeviceCPU { // the stages beside it overlap
			total = max(network, beside)
		}
		text += fmt.Sprintf(": about %s (an estimate; a few passes were timed)", roughly(total))
	}
	s.out.Print(text)

	weights := s.model.weightBytes()
	if n := len(s.model.folds); s.reload {
		s.out.Printf("weights of %d folds take %s, more than %s allows: one fold is in memory at a time, loaded %d times",
			n, system.Size(weights*int64(n)), s.limitedBy(), switches)
	} else {
		weights *= int64(n)
	}
	need := s.need(weights + s.cost.Bytes)
	where := ""
	if need.Device > 0 {
		where = fmt.Sprintf(", and %s on %s", system.Size(need.Device), s.window.Device)
	}
	s.memory = need.Host
	// The temporary files of the cases that are in the network and being written.
	disk += probabilities * int64(min(count, 1+max(s.Export, 1)))
	line := fmt.Sprintf("needs about %s of memory%s, at most %s on disk", system.Size(need.Host), where, system.Size(disk))
	s.out.Print(line)
	if m, err := system.ReadMemory(); err == nil && m.Available < need.Host {
		s.out.Printf("WARNING: only %s of memory is free: a lower --max-ram takes less", system.Size(m.Available))
	}
	if free, err := system.FreeDisk(s.Output); err == nil && free < disk {
		s.out.Printf("WARNING: only %s are free where the segmentations go (%s)", system.Size(free), s.Output)
	}
}

// need is the memory of the run: of the network so much, of the cases what their forecasts say.
func (s *segmenter) need(network int64) Memory {
	var most, ahead, written int64
	for _, f := range s.forecasts {
		if f == nil {
			continue
		}
		most = max(most, f.Bytes)
		ahead = max(ahead, f.prepared())
		written = max(written, voxels(f.Size)*(s.labelBytes()+s.objectBytes())) // probabilities stream through a file
	}
	m := Memory{Host: baseBytes + garbage*(most+ahead*int64(max(s.Preprocessing, 1))+written*int64(max(s.Export, 1)))}
	if s.window.Device.Type == torch.DeviceCPU {
		m.Host += network
	} else {
		m.Device = network + s.deviceNeed()
	}
	return m
}

// deviceNeed is the largest need of sums on the device.
func (s *segmenter) deviceNeed() (most int64) {
	for _, f := range s.forecasts {
		if f != nil {
			most = max(most, f.need.Bytes)
		}
	}
	return most
}

// counted is a number of things, in words.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if what[len(what)-1] == 's' {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// roughly rounds a time to what an estimate deserves.
func roughly(seconds float64) string {
	switch {
	case seconds < 1.5:
		return "1 s"
	case seconds < 99.5:
		return fmt.Sprintf("%.0f s", seconds)
	case seconds < 99.5*60:
		return fmt.Sprintf("%.0f min", seconds/60)
	}
	return fmt.Sprintf("%.1f h", seconds/3600)
}

// remaining estimates the time left: the forecasts of what is left, times how far those of what is
// done were off. It is for the goroutine of the network.
type remaining struct {
	forecasts []*CaseForecast
	started   time.Time // of the first tile
	done      float64   // forecast seconds of cases that are done
}

// note is for the progress of case i, of which a share is done.
func (r *remaining) note(i int, share float64) string {
	if r.started.IsZero() {
		r.started = time.Now()
	}
	own, left := 0.0, 0.0
	for k, f := range r.forecasts[i:] {
		switch {
		case f == nil:
		case k == 0:
			own = f.Seconds
		default:
			left += f.Seconds
		}
	}
	spent := r.done + own*share
	text := fmt.Sprintf("case %d of %d", i+1, len(r.forecasts))
	if spent <= 0 {
		return text
	}
	left = (left + own*(1-share)) * time.Since(r.started).Seconds() / spent
	return text + ", about " + roughly(left) + " left"
}

// end is called when a case has left the network.
func (r *remaining) end(i int) {
	if f := r.forecasts[i]; f != nil {
		r.done += f.Seconds
	}
}

// dryRun builds the network, times it, and hands on what each case would take.
func (s *segmenter) dryRun(ctx context.Context) error {
	s.records = make([]Prediction, len(s.cases))
	for i, c := range s.cases {
		s.records[i] = Prediction{Case: c.id, Output: c.output, Warnings: []string{}}
	}
	err := s.onDevice(ctx, func() error {
		s.announce()
		return nil
	})
	if err != nil {
		return err
	}
	for i := range s.records {
		r := &s.records[i]
		switch f := s.forecasts[i]; {
		case f != nil:
			r.Status, r.Forecast = PredictionPlanned, f
			r.Tiles, r.Repeated, r.Strips = f.need.Tiles, f.need.Repeated, f.need.Strips
		case s.unreadable[i] == nil:
			r.Status = PredictionSkipped
		}
		s.end(ctx, i, s.unreadable[i])
	}
	return s.outcome(ctx, nil)
}

// onDevice builds the networks and the predictor, times a pass, and calls f. A device that has no
// room for the networks hands over to the CPU.
func (s *segmenter) onDevice(ctx context.Context, f func() error) error {
	return s.Machine.Run(func() error {
		err := s.withNetworks(ctx, f)
		var full *deviceError
		if !errors.As(err, &full) || s.window.Device.Type == torch.DeviceCPU {
			return err
		}
		why, _, _ := strings.Cut(full.Error(), "\n")
		s.window.Notice(fmt.Sprintf("%s has no room for the network (%s): continuing with the CPU", s.window.Device, why))
		s.toCPU()
		if err := s.forecastCases(ctx); err != nil {
			return err
		}
		return s.withNetworks(ctx, f)
	})
}

// toCPU leaves the device, whose memory was also the limit.
func (s *segmenter) toCPU() {
	s.window.Device, s.window.Autocast = torch.CPU, torch.Float32
	s.setLimit()
}

// deviceError is an error of libtorch while networks are built on a device.
type deviceError struct{ error }

// Unwrap gives libtorch's error.
func (e *deviceError) Unwrap() error { return e.error }

func (s *segmenter) withNetworks(ctx context.Context, f func() error) error {
	built := false
	err := torch.With(func(scope *torch.Scope) error {
		build := func(device torch.Device) (fold, error) {
			return s.model.networks(scope, &s.Machine, device, s.reload)
		}
		network, err := build(s.window.Device)
		if err != nil {
			return err
		}
		built = true
		s.window.OnCPU = func() (fold, int64, error) {
			s.toCPU()
			network, err := build(torch.CPU)
			return network, s.window.MaxBytes, err
		}
		if s.predict, err = s.model.predictor(network, s.window); err != nil {
			return err
		}
		if tiles := s.mostTiles(); tiles > 0 {
			if s.cost, err = s.predict.Measure(s.model.channels(), tiles); err != nil {
				s.out.Print("a pass of the network could not be timed:", err)
				s.cost = infer.Cost{}
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return f()
	})
	var native *torch.Error
	if !built && errors.As(err, &native) {
		return &deviceError{err}
	}
	return err
}

// mostTiles is the number of tiles of the largest case, 0 if there is nothing to do.
func (s *segmenter) mostTiles() int {
	most := 0
	for _, f := range s.forecasts {
		if f != nil {
			most = max(most, f.need.Tiles)
		}
	}
	return most
}

// limitedBy names the limit of the weights' memory.
func (s *segmenter) limitedBy() string {
	flag := "--max-ram"
	if s.window.Device.Type != torch.DeviceCPU {
		flag = "--max-vram"
	}
	return fmt.Sprintf("%s (%s)", flag, system.Size(s.limit))
}

// misnamed is the error of a file without a channel number.
func (s *segmenter) misnamed(c *imageCase) error {
	return fmt.Errorf("%s: expected the name %s_0000%s, with the number of the channel; or name the file itself with -i",
		c.misnamed, filepath.Base(c.id), s.model.dataset.FileEnding)
}

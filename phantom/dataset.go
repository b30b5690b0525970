package phantom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/volume"
)

// protocol is a scan protocol.
type protocol struct {
	spacing [3]float64 // mm, (z, y, x)
	shape   [3]int
}

// domain is a hospital: its scanners, protocols and patients.
type domain struct {
	full, small []protocol
	phases      []Phase // with equal probability
	kernel      Kernel
	noise       float64
	nodes       [2]int
	shortAxis   float64
	spread      float64
	metals      int // maximum number
}

// The two domains differ in spacing, field of view, phase, kernel, noise, number and size of nodes,
// and dental metal.
var domains = map[string]domain{
	"source": {
		full: []protocol{{[3]float64{1.5, 0.977, 0.977}, [3]int{130, 512, 512}},
			{[3]float64{3, 0.488, 0.488}, [3]int{66, 512, 512}}},
		small: []protocol{{[3]float64{2.5, 2, 2}, [3]int{64, 104, 104}},
			{[3]float64{3, 1.8, 1.8}, [3]int{54, 112, 112}}},
		phases: []Phase{PhaseVenous, PhaseVenous, PhaseVenous, PhaseNone}, kernel: KernelSoft,
		noise: 10,
		nodes: [2]int{10, 20}, shortAxis: 8, spread: 0.45, metals: 2,
	},
	"target": {
		full:   []protocol{{[3]float64{2.5, 1.172, 1.172}, [3]int{78, 512, 512}}},
		small:  []protocol{{[3]float64{3, 2.4, 2.4}, [3]int{54, 96, 96}}},
		phases: []Phase{PhaseNone, PhaseArterial}, kernel: KernelSharp, noise: 24,
		nodes: [2]int{6, 14}, shortAxis: 6, spread: 0.35, metals: 5,
	},
}

// Domains are the valid values of Dataset.Domain.
var Domains = []string{"source", "target"}

// Sizes are the valid values of Dataset.Size.
var Sizes = []string{"small", "full"}

// Dataset is a dataset to write. Fields after Seed, if set, override the domain.
type Dataset struct {
	ID        int
	Name      string // without Dataset and the number
	Cases     int    // for training
	TestCases int
	Domain    string
	Size      string
	Seed      uint64

	Shape     *[3]int
	Spacing   *[3]float64
	Phase     Phase
	Kernel    Kernel
	Noise     *float64
	Nodes     *[2]int
	ShortAxis *float64
	Metals    *int
	Levels    bool

	Threads int
}

// Record describes a case that was written.
type Record struct {
	Case    string     `json:"case"`
	Test    bool       `json:"test"`
	Shape   [3]int     `json:"shape_zyx"`
	Spacing [3]float64 `json:"spacing_zyx_mm"`
	Origin  [3]float64 `json:"origin_xyz_mm"`
	Phase   Phase      `json:"phase"`
	Kernel  Kernel     `json:"kernel"`
	Noise   float64    `json:"noise_hu"`
	Metals  int        `json:"teeth_with_metal"`
	Volume  float64    `json:"nodes_ml"`
	Nodes   []Node     `json:"nodes"`
}

// Summary is the result of Write: the dataset's folder, and its cases in order.
type Summary struct {
	Folder string   `json:"folder"`
	Domain string   `json:"domain"`
	Size   string   `json:"size"`
	Seed   uint64   `json:"seed"`
	Note   string   `json:"note"`
	Cases  []Record `json:"cases"`
}

// Note is the description of every dataset.
const Note = "Synthetic CTs of head and neck with lymph nodes, made by lntorch phantom: " +
	"a demonstration, not evidence about patients."

// Folder is the name of the dataset's folder in nnU-Net's convention.
func (d *Dataset) Folder() string { return fmt.Sprintf("Dataset%03d_%s", d.ID, d.Name) }

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)

// Configs returns the configurations of the cases, training cases first. They depend on the domain,
// the seed and their index.
func (d *Dataset) Configs() ([]Config, error) {
	var errs []error
	if d.ID < 1 || d.ID > 999 {
		errs = append(errs, fmt.Errorf("id %d: expected 1 to 999", d.ID))
	}
	if !goodName.MatchString(d.Name) {
		errs = append(errs, fmt.Errorf("name %q: expected letters, digits, - and _", d.Name))
	}
	if d.Cases < 1 || d.TestCases < 0 || d.Cases > 10000 || d.TestCases > 10000 {
		errs = append(errs, fmt.Errorf("%d cases and %d test cases: expected 1 to 10000 and 0 to "+
			"10000",
			d.Cases, d.TestCases))
	}
	dom, ok := domains[d.Domain]
	if !ok {
		errs = append(errs, fmt.Errorf("domain %q: expected %s",
			d.Domain, strings.Join(Domains, " or ")))
	}
	if !slices.Contains(Sizes, d.Size) {
		errs = append(errs, fmt.Errorf("size %q: expected %s", d.Size, strings.Join(Sizes, " or ")))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("phantom: %w", errors.Join(errs...))
	}
	protocols := dom.full
	if d.Size == "small" {
		protocols = dom.small
	}
	h := fnv.New64a()
	h.Write([]byte(d.Domain))
	configs := make([]Config, d.Cases+d.TestCases)
	for i := range configs {
		rng := rand.New(rand.NewPCG(d.Seed, h.Sum64()+uint64(i)))
		p := protocols[rng.IntN(len(protocols))]
		c := Config{
			Seed: rng.Uint64(), Shape: p.shape, Spacing: p.spacing,
			Phase: dom.phases[rng.IntN(len(dom.phases))], Kernel: dom.kernel,
			Noise: round(dom.noise*(0.85+0.3*rng.Float64()), 10), Nodes: dom.nodes,
			ShortAxis: dom.shortAxis, Spread: dom.spread,
			Metals: rng.IntN(dom.metals + 1), Levels: d.Levels, Threads: d.Threads,
		}
		c.Shape[0] += rng.IntN(max(c.Shape[0]/8, 1)) - c.Shape[0]/16 // scan lengths vary
		if d.Spacing != nil {
			// The same extent on a different grid.
			for k := range 3 {
				c.Shape[k] = max(1, int(math.Round(float64(c.Shape[k])*c.Spacing[k]/d.Spacing[k])))
			}
			c.Spacing = *d.Spacing
		}
		if d.Shape != nil {
			c.Shape = *d.Shape
		}
		set(&c.Noise, d.Noise)
		set(&c.Nodes, d.Nodes)
		set(&c.ShortAxis, d.ShortAxis)
		set(&c.Metals, d.Metals)
		if d.Phase != "" {
			c.Phase = d.Phase
		}
		if d.Kernel != "" {
			c.Kernel = d.Kernel
		}
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("phantom: %w", err)
		}
		configs[i] = c
	}
	return configs, nil
}

func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

// CaseName is the name of case i.
func CaseName(i int) string { return fmt.Sprintf("LN_%03d", i) }

// Write creates the cases and writes the dataset to the folder raw (nnUNet_raw). The dataset's
// folder appears when it is complete. An existing one is an error (*Exists), unless replace is set.
// made, if not nil, is called after each case.
func (d *Dataset) Write(ctx context.Context, raw string, replace bool,
	made func(done int, c *Case, r *Record) error) (*Summary, error) {
	configs, err := d.Configs()
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(raw, d.Folder())
	if err := d.vacant(raw, folder, replace); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(raw, 0o777); err != nil {
		return nil, fmt.Errorf("phantom: %w", err)
	}
	tmp := filepath.Join(raw, fmt.Sprintf(".%s.%08x.tmp", d.Folder(), rand.Uint32()))
	if err := os.Mkdir(tmp, 0o777); err != nil {
		return nil, fmt.Errorf("phantom: %w", err)
	}
	defer os.RemoveAll(tmp)
	s := &Summary{Folder: folder, Domain: d.Domain, Size: d.Size, Seed: d.Seed, Note: Note}
	for i, c := range configs {
		k, err := Make(ctx, c)
		if err != nil {
			return nil, err
		}
		r := Record{
			Case: CaseName(i), Test: i >= d.Cases, Shape: c.Shape, Spacing: c.Spacing,
			Origin: k.Origin, Phase: c.Phase, Kernel: c.Kernel,
			Noise: c.Noise, Metals: c.Metals, Nodes: append([]Node{}, k.Found...),
		}
		for _, n := range k.Found {
			r.Volume += n.Volume
		}
		r.Volume = round(r.Volume, 1e4)
		if err := k.write(tmp, r); err != nil {
			return nil, fmt.Errorf("phantom: write %w", err)
		}
		s.Cases = append(s.Cases, r)
		if made != nil {
			if err := made(i+1, k, &r); err != nil {
				return nil, err
			}
		}
	}
	if err := d.describe(tmp, s); err != nil {
		return nil, fmt.Errorf("phantom: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := swap(tmp, folder); err != nil {
		return nil, fmt.Errorf("phantom: %w", err)
	}
	return s, nil
}

// swap renames the folder tmp to folder; an existing folder is removed afterwards.
func swap(tmp, folder string) error {
	old := tmp + ".old"
	err := os.Rename(folder, old)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, folder); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// JSON returns the content of phantom.json.
func (s *Summary) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// Exists is the error for a dataset that exists already.
type Exists struct{ Folder string }

func (e *Exists) Error() string { return fmt.Sprintf("phantom: %s exists already", e.Folder) }

// vacant checks that the dataset's name and number are not in use.
func (d *Dataset) vacant(raw, folder string, replace bool) error {
	if _, err := os.Lstat(folder); err == nil && !replace {
		return &Exists{folder}
	}
	entries, err := os.ReadDir(raw)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("phantom: %w", err)
	}
	for _, e := range entries {
		used := strings.HasPrefix(e.Name(), fmt.Sprintf("Dataset%03d_", d.ID))
		if used && e.Name() != d.Folder() {
			return fmt.Errorf("phantom: %s already has the number %d: nnU-Net needs unique "+
				"numbers, choose another id",
				filepath.Join(raw, e.Name()), d.ID)
		}
	}
	return nil
}

// write writes image and label.
func (k *Case) write(folder string, r Record) error {
	part := "Tr"
	if r.Test {
		part = "Ts"
	}
	images, labels := filepath.Join(folder, "images"+part), filepath.Join(folder, "labels"+part)
	for _, f := range []string{images, labels} {
		if err := os.MkdirAll(f, 0o777); err != nil {
			return err
		}
	}
	shape := []int{k.Shape[2], k.Shape[1], k.Shape[0]}
	geometry := &volume.ITK{
		Spacing: []float64{k.Spacing[2], k.Spacing[1], k.Spacing[0]}, Origin: k.Origin[:],
		Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1},
	}
	for _, f := range []struct {
		path   string
		pixels volume.Pixels
	}{
		{filepath.Join(images, r.Case+"_0000.nii.gz"), volume.Slice[int16](k.CT)},
		{filepath.Join(labels, r.Case+".nii.gz"), volume.Slice[uint8](k.Labels)},
	} {
		h, err := nifti.NewITK(shape, f.pixels.Type(), geometry)
		if err != nil {
			return err
		}
		if err := nifti.Write(f.path, h, f.pixels, max(k.Threads, 1)); err != nil {
			return err
		}
	}
	return nil
}

// describe writes dataset.json, phantom.json and a readme.
func (d *Dataset) describe(folder string, s *Summary) error {
	object := func(pairs ...any) *plans.Object {
		o := &plans.Object{}
		for i := 0; i < len(pairs); i += 2 {
			o.Set(pairs[i].(string), pairs[i+1])
		}
		return o
	}
	labels := object("background", int64(0))
	if d.Levels {
		for i, l := range []string{"I", "II", "III", "IV", "V"} {
			labels.Set("lymph_node_level_"+l, int64(i+1))
		}
	} else {
		labels.Set("lymph_node", int64(1))
	}
	dataset, err := plans.EncodeJSON(object(
		"channel_names", object("0", "CT"), "labels", labels, "numTraining", int64(d.Cases),
		"file_ending", ".nii.gz",
		"name", d.Folder(), "description", Note), 4, false)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(folder, "dataset.json"), dataset); err != nil {
		return err
	}
	records, err := s.JSON()
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(folder, "phantom.json"), records); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(folder, "README.md"), fmt.Appendf(nil, `# %s

%s
Nothing in it was measured on a person. Scores on it test the software; they say nothing about
diagnosis.

Domain %s, size %s, seed %d: %d cases for training, %d for testing. phantom.json lists every case and
every node (level, side, centre, diameters, volume). The same command and version of lntorch
reproduce the voxels.
`, d.Folder(), Note, d.Domain, d.Size, d.Seed, d.Cases, d.TestCases))
}

// Package phantom creates synthetic CTs of head and neck with lymph nodes, as nnU-Net datasets.
//
// A patient is a set of implicit surfaces in mm (tubes through stations, ellipsoids, chains of
// rods): airway and larynx, spine, skull base, jaw with teeth and dental metal, muscles in fat,
// glands, carotids and jugular veins, with lymph nodes along them. A scanner samples it: spacing,
// field of view, contrast phase, reconstruction kernel, noise, artefacts.
//
// It is a demonstration and a test object, not evidence about patients: no shape, size or frequency
// was measured on anyone, and scores on it say nothing about scores in a hospital.
package phantom

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// Phase is the contrast phase.
type Phase string

// The contrast phases.
const (
	PhaseNone     Phase = "none"
	PhaseArterial Phase = "arterial"
	PhaseVenous   Phase = "venous"
)

// Phases lists the contrast phases.
var Phases = []Phase{PhaseNone, PhaseArterial, PhaseVenous}

// Kernel is the reconstruction kernel: the detail and noise that an image keeps.
type Kernel string

// The kernels.
const (
	KernelSoft   Kernel = "soft"
	KernelMedium Kernel = "medium"
	KernelSharp  Kernel = "sharp"
)

// Kernels lists the kernels.
var Kernels = []Kernel{KernelSoft, KernelMedium, KernelSharp}

// Config is the configuration of one CT. Axes are (z, y, x): z from foot to head, y from front to
// back, x from right to left.
type Config struct {
	Shape   [3]int
	Spacing [3]float64 // mm
	Phase   Phase
	Kernel  Kernel
	Noise   float64 // standard deviation in soft tissue, HU

	Nodes     [2]int  // minimum and maximum number; nodes without space are omitted
	ShortAxis float64 // median of the nodes' short axes (diameters), mm
	Spread    float64 // standard deviation of their logarithm
	Levels    bool    // labels 1 to 5 for levels I to V, not 1 for all nodes
	Metals    int     // teeth with metal

	Seed    uint64
	Threads int // slices computed in parallel; the voxels do not depend on it
}

// Range of the nodes' short axes in mm.
const (
	MinShortAxis = 3
	MaxShortAxis = 25
)

// Limits of Make: far beyond any scanner, without overflow.
const (
	maxSide   = 4096
	maxVoxels = 1 << 30
)

// Node is a lymph node in a case.
type Node struct {
	Label    int        `json:"label"`
	Level    string     `json:"level"` // I to V
	Side     string     `json:"side"`  // left or right
	Centre   [3]float64 `json:"centre_xyz_mm"`
	Axes     [3]float64 `json:"axes_mm"` // diameters, the shortest first
	Necrotic bool       `json:"necrotic"`
	Hilum    bool       `json:"fatty_hilum"`
	Voxels   int        `json:"voxels"`
	Volume   float64    `json:"volume_ml"` // of the voxels
}

// Case is a synthetic CT: row-major (z, y, x), in HU, with the nodes' labels.
type Case struct {
	Config
	CT     []int16
	Labels []uint8
	Origin [3]float64 // centre of the first voxel (x, y, z) in mm, LPS; the axes are the patient's
	Found  []Node     // with at least one voxel

	Back []int // for each slice, the row behind the patient's last one, where the couch is

	tissues []tissue // of each voxel, for tests
}

func (c *Config) check() error {
	var errs []error
	n := 1
	for i, axis := range []string{"z", "y", "x"} {
		if c.Shape[i] < 1 || c.Shape[i] > maxSide {
			errs = append(errs,
				fmt.Errorf("shape %v: expected 1 to %d voxels along %s", c.Shape, maxSide, axis))
			n = maxVoxels + 1
		} else if n <= maxVoxels {
			n *= c.Shape[i]
		}
		if !(c.Spacing[i] >= 0.05 && c.Spacing[i] <= 20) {
			errs = append(errs,
				fmt.Errorf("spacing %v mm: expected 0.05 to 20 along %s", c.Spacing, axis))
		}
	}
	if len(errs) == 0 && n > maxVoxels {
		errs = append(errs, fmt.Errorf("shape %v: %d voxels, expected at most %d",
			c.Shape, n, maxVoxels))
	}
	if !slices.Contains(Phases, c.Phase) {
		errs = append(errs, fmt.Errorf("phase %q: expected one of %s", c.Phase, names(Phases)))
	}
	if !slices.Contains(Kernels, c.Kernel) {
		errs = append(errs, fmt.Errorf("kernel %q: expected one of %s", c.Kernel, names(Kernels)))
	}
	if !(c.Noise >= 0 && c.Noise <= 500) {
		errs = append(errs, fmt.Errorf("noise %v HU: expected 0 to 500", c.Noise))
	}
	if c.Nodes[0] < 0 || c.Nodes[1] < c.Nodes[0] || c.Nodes[1] > 100 {
		errs = append(errs, fmt.Errorf("nodes %d to %d: expected a range within 0 to 100",
			c.Nodes[0], c.Nodes[1]))
	}
	if !(c.ShortAxis >= MinShortAxis && c.ShortAxis <= MaxShortAxis) {
		errs = append(errs, fmt.Errorf("median short axis %v mm: expected %d to %d",
			c.ShortAxis, MinShortAxis, MaxShortAxis))
	}
	if !(c.Spread >= 0 && c.Spread <= 2) {
		errs = append(errs, fmt.Errorf("spread of the short axes %v: expected 0 to 2", c.Spread))
	}
	if c.Metals < 0 || c.Metals > 28 {
		errs = append(errs, fmt.Errorf("%d teeth with metal: expected 0 to 28", c.Metals))
	}
	return errors.Join(errs...)
}

func names[T ~string](list []T) string {
	s := make([]string, len(list))
	for i, v := range list {
		s[i] = string(v)
	}
	return strings.Join(s, ", ")
}

// Make computes a CT. The same configuration gives the same voxels for any Threads. It stops when
// ctx is cancelled.
func Make(ctx context.Context, c Config) (*Case, error) { return build(ctx, c, false) }

func build(ctx context.Context, c Config, tissues bool) (*Case, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("phantom: %w", err)
	}
	rng := rand.New(rand.NewPCG(c.Seed, 0x6c6e746f726368))
	out := &Case{Config: c}
	s := newScanner(rng, &c)
	for i := range 3 {
		out.Origin[i] = s.origin[i]
	}
	a := newAnatomy(rng, c.Phase, c.Metals)
	nodes := a.placeNodes(s, &c)
	n := c.Shape[0] * c.Shape[1] * c.Shape[2]
	out.CT, out.Labels = make([]int16, n), make([]uint8, n)
	out.Back = make([]int, c.Shape[0])
	if tissues {
		out.tissues = make([]tissue, n)
	}
	counts, err := s.scan(ctx, a, out, nodes)
	if err != nil {
		return nil, err
	}
	for i, m := range nodes {
		if counts[i] == 0 {
			continue
		}
		m.Voxels = counts[i]
		m.Volume = round(float64(counts[i])*c.Spacing[0]*c.Spacing[1]*c.Spacing[2]/1000, 1e4)
		out.Found = append(out.Found, m.Node)
	}
	return out, nil
}

func round(x, per float64) float64 { return math.Round(x*per) / per }

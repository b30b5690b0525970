// Package plans reads nnU-Net's plans.json and dataset.json: configurations with their inheritance,
// the architecture block, label handling, and the deep-supervision scales that follow from the
// strides. Both documents are kept in file order, since checkpoints and result folders store them.
// Planning is data/planner's; nothing here depends on voxels.
package plans

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Plans is an nnU-Net plans file (nnUNetPlans.json, or plans.json of a result folder).
type Plans struct {
	DatasetName        string
	PlansName          string
	ImageReaderWriter  string
	ExperimentPlanner  string
	LabelManager       string    // "LabelManager" if the file has none
	TransposeForward   []int     // axes of the array, as read, that become axes 0, 1, 2
	TransposeBackward  []int     // inverse of TransposeForward
	MedianSpacing      []float64 // mm, after transposing
	MedianShape        []float64 // voxels, after transposing
	ChannelIntensities []Intensity

	file string
	raw  *Object
}

// Intensity holds the statistics of one channel's foreground voxels over the training cases (HU for
// CT), as used by CTNormalization.
type Intensity struct {
	Mean, Median, Std, Min, Max float64
	Percentile005               float64 // 0.5th percentile
	Percentile995               float64 // 99.5th percentile
}

// Load reads a plans file. Configurations are resolved and checked on request, so that one invalid
// configuration does not affect the others.
func Load(path string) (*Plans, error) {
	raw, err := readObject(path)
	if err != nil {
		return nil, fmt.Errorf("plans: %w", err)
	}
	return FromObject(raw, path)
}

// FromObject interprets raw, a decoded plans file, such as the one inside a checkpoint. source
// names it in errors. raw is kept, not copied.
func FromObject(raw *Object, source string) (*Plans, error) {
	var err error
	s := section{where: source, obj: raw, err: &err}
	p := &Plans{
		DatasetName:       s.str("dataset_name"),
		PlansName:         s.str("plans_name"),
		ImageReaderWriter: s.str("image_reader_writer"),
		ExperimentPlanner: s.str("experiment_planner_used"),
		LabelManager:      s.str("label_manager"),
		TransposeForward:  s.ints("transpose_forward"),
		TransposeBackward: s.ints("transpose_backward"),
		MedianSpacing:     s.floats("original_median_spacing_after_transp"),
		MedianShape:       s.floats("original_median_shape_after_transp"),
		file:              source,
		raw:               raw,
	}
	if p.LabelManager == "" {
		p.LabelManager = "LabelManager"
	}
	s.required("configurations", "an object of configurations")
	s.object("configurations")
	intensities := "foreground_intensity_properties_per_channel"
	if _, ok := raw.Get(intensities); !ok {
		intensities = "foreground_intensity_properties_by_modality" // older plans
	}
	p.ChannelIntensities = s.intensities(intensities)
	if err != nil {
		return nil, fmt.Errorf("plans: %w", err)
	}
	return p, nil
}

// intensities reads an object with the statistics of channels "0", "1", ….
func (s section) intensities(key string) (list []Intensity) {
	channels := section{where: s.where + ": " + key, obj: s.object(key), err: s.err}
	for i := range channels.obj.Len() {
		k := fmt.Sprint(i)
		if !channels.required(k, "statistics of channel "+k) {
			return nil
		}
		v := section{where: channels.where + "." + k, obj: channels.object(k), err: s.err}
		list = append(list, Intensity{
			Mean: v.float("mean", math.NaN()), Median: v.float("median", math.NaN()),
			Std: v.float("std", math.NaN()),
			Min: v.float("min", math.NaN()), Max: v.float("max", math.NaN()),
			Percentile005: v.float("percentile_00_5", math.NaN()),
			Percentile995: v.float("percentile_99_5", math.NaN()),
		})
	}
	return list
}

// Intensities reads foreground_intensity_properties_per_channel, which plans and fingerprints have.
func Intensities(o *Object) ([]Intensity, error) {
	const key = "foreground_intensity_properties_per_channel"
	var err error
	s := section{where: "statistics", obj: NewObject(key, o), err: &err}
	return s.intensities(key), err
}

// Raw returns the whole document in file order. It must not be modified.
func (p *Plans) Raw() *Object { return p.raw }

// ConfigurationNames returns the names of the configurations in file order.
func (p *Plans) ConfigurationNames() []string {
	return p.configurations().Keys()
}

func (p *Plans) configurations() *Object {
	v, _ := p.raw.Get("configurations")
	o, _ := v.(*Object)
	return o
}

// maxPatch bounds the sizes of patches, so that their products are whole numbers of 64 bits.
const maxPatch = 1 << 16

// Configuration is one configuration of the plans ("2d", "3d_fullres", …) with inheritance
// resolved. Sizes and spacing are in the axis order of the preprocessed arrays, (z, y, x) or (y,
// x).
type Configuration struct {
	Name                 string
	DataIdentifier       string // folder of the preprocessed cases
	PreprocessorName     string
	BatchSize            int
	PatchSize            []int // voxels; 2 or 3 axes
	Spacing              []float64
	MedianImageSize      []float64
	NormalizationSchemes []string // one per channel
	UseMaskForNorm       []bool   // one per channel
	ResampleData         Resampling
	ResampleSeg          Resampling
	ResampleProbs        Resampling
	BatchDice            bool
	NextStages           []string // cascade: configurations fed by this one
	PreviousStage        string   // cascade: configuration that feeds this one; "" if none

	file string
	raw  *Object
}

// Resampling is the name of a resampling function of the reference and its keyword arguments.
type Resampling struct {
	Function string
	Kwargs   *Object
}

// Configuration resolves the named configuration. A child's keys replace the parent's at the top
// level only, so a child's architecture block replaces the whole block; parents are resolved
// recursively. Plans from before the architecture block get one from their older keys. Unknown
// names or parents and circular inheritance are errors that list the configurations present.
// Source: nnU-Net 2.5.1, plans_handler.py.
func (p *Plans) Configuration(name string) (*Configuration, error) {
	raw, err := p.resolve(name, nil)
	if err != nil {
		return nil, fmt.Errorf("plans: %s: %w", p.file, err)
	}
	where := p.file + ": configuration " + name
	s := section{where: where, obj: raw, err: &err}
	s.required("data_identifier", "a string")
	s.required("batch_size", "an integer")
	s.required("patch_size", "a list of integers")
	s.required("spacing", "a list of numbers")
	c := &Configuration{
		Name:                 name,
		DataIdentifier:       s.str("data_identifier"),
		PreprocessorName:     s.str("preprocessor_name"),
		BatchSize:            s.integer("batch_size", 0),
		PatchSize:            s.ints("patch_size"),
		Spacing:              s.floats("spacing"),
		MedianImageSize:      s.floats("median_image_size_in_voxels"),
		NormalizationSchemes: s.strings("normalization_schemes"),
		UseMaskForNorm:       s.bools("use_mask_for_norm"),
		ResampleData:         s.resampling("resampling_fn_data"),
		ResampleSeg:          s.resampling("resampling_fn_seg"),
		ResampleProbs:        s.resampling("resampling_fn_probabilities"),
		BatchDice:            s.boolean("batch_dice", false),
		NextStages:           field(s, "next_stage", "a string or a list of strings", oneOrMany, nil),
		PreviousStage:        s.str("previous_stage"),
		file:                 p.file,
		raw:                  raw,
	}
	if err == nil {
		switch {
		case len(c.PatchSize) != 2 && len(c.PatchSize) != 3:
			s.fail("patch_size", "2 or 3 axes", raw.values["patch_size"])
		case slices.Min(c.PatchSize) < 1:
			s.fail("patch_size", "positive sizes", raw.values["patch_size"])
		case slices.Max(c.PatchSize) > maxPatch:
			s.fail("patch_size", fmt.Sprintf("sizes of at most %d voxels", maxPatch), raw.values["patch_size"])
		case len(c.Spacing) != len(c.PatchSize):
			s.fail("spacing", fmt.Sprintf("%d axes as in patch_size", len(c.PatchSize)),
				raw.values["spacing"])
		case c.BatchSize < 1:
			s.fail("batch_size", "at least 1", raw.values["batch_size"])
		}
	}
	if err == nil && !present(raw, "architecture") && present(raw, "UNet_class_name") {
		err = convertOldArchitecture(raw, where)
	}
	if err != nil {
		return nil, fmt.Errorf("plans: %w", err)
	}
	return c, nil
}

// Raw returns the resolved configuration in key order. It must not be modified.
func (c *Configuration) Raw() *Object { return c.raw }

func present(o *Object, key string) bool {
	_, ok := o.Get(key)
	return ok
}

func (s section) resampling(key string) Resampling {
	return Resampling{Function: s.str(key), Kwargs: s.object(key + "_kwargs")}
}

func oneOrMany(v any) ([]string, bool) {
	if s, ok := v.(string); ok {
		return []string{s}, true
	}
	return listOf(as[string])(v)
}

// maxInheritance bounds the chain of inherits_from. Python's recursion limit is not much higher.
const maxInheritance = 500

// resolve returns a new object; visited holds the names from the requested one to here.
func (p *Plans) resolve(name string, visited []string) (*Object, error) {
	v, ok := p.configurations().Get(name)
	if !ok {
		by := ""
		if len(visited) > 0 {
			by = fmt.Sprintf(" (inherited by %q)", visited[len(visited)-1])
		}
		return nil, fmt.Errorf("configuration %q%s does not exist; available: %s",
			name, by, list(p.ConfigurationNames()))
	}
	child, ok := v.(*Object)
	if !ok {
		return nil, fmt.Errorf("configuration %q: expected an object, found %s", name, describe(v))
	}
	if len(visited) > maxInheritance {
		return nil, fmt.Errorf("configuration %q inherits over more than %d steps",
			visited[0], maxInheritance)
	}
	if slices.Contains(visited, name) {
		return nil, fmt.Errorf("configurations inherit in a circle: %s; available: %s",
			strings.Join(append(visited, name), " -> "), list(p.ConfigurationNames()))
	}
	parentName, ok := child.Get("inherits_from")
	if !ok {
		return child.Clone(), nil
	}
	parent, ok := parentName.(string)
	if !ok {
		return nil, fmt.Errorf("configuration %q: inherits_from: expected a name, found %s; "+
			"available: %s",
			name, describe(parentName), list(p.ConfigurationNames()))
	}
	merged, err := p.resolve(parent, append(visited, name))
	if err != nil {
		return nil, err
	}
	for _, k := range child.Keys() {
		merged.Set(k, cloneValue(child.values[k]))
	}
	return merged, nil
}

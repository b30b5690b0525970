package train

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
)

// tolerance is how far spacings (relative) and intensity statistics (in standard deviations of the
// checkpoint's) may differ before it is worth a warning: rounding stays below, another scanner above.
const tolerance = 0.01

// ctNormalization is the scheme that uses the statistics in the plans. nnU-Net's other schemes measure
// each image.
const ctNormalization = "CTNormalization"

// dataWarnings reports where the data, as the plans describe it, is not what a checkpoint was trained
// on: spacing, order of axes, normalisation. Nothing is reported of a checkpoint without plans.
// Differs: nnU-Net loads the weights without comparing plans.
func (t *trainer) dataWarnings(f *checkpoint.File) []string {
	if f == nil || f.Plans == nil || f.Configuration == "" {
		return nil
	}
	was, err := f.Plans.Configuration(f.Configuration)
	if err != nil {
		return nil // its own network is not described by them either
	}
	var differ []string
	add := func(format string, a ...any) { differ = append(differ, fmt.Sprintf(format, a...)) }
	if !closeSpacing(was.Spacing, t.data.Conf.Spacing) {
		add("spacing %s mm (checkpoint: %s)", sizes(t.data.Conf.Spacing), sizes(was.Spacing))
	}
	if a, b := f.Plans.TransposeForward, t.data.Plans.TransposeForward; !slices.Equal(a, b) {
		add("axes in the order %v (checkpoint: %v)", b, a)
	}
	differ = append(differ, t.intensityDifferences(f, was)...)
	if len(differ) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("WARNING: the data of %s, configuration %s, is not prepared like the data that %s was trained on: "+
		"%s. `lntorch adopt` makes plans that fit the checkpoint",
		t.data.Plans.PlansName, t.cfg.Configuration, f.Path, strings.Join(differ, "; "))}
}

// intensityDifferences compares the normalisation of each channel with that of the checkpoint's channel of
// the same name, or number.
func (t *trainer) intensityDifferences(f *checkpoint.File, was *plans.Configuration) []string {
	var differ []string
	n := len(was.NormalizationSchemes)
	from, _ := match(channelNames(f.Dataset), t.data.Dataset.ChannelNames, n)
	for to, i := range from {
		if i < 0 || i >= n || to >= len(t.data.Conf.NormalizationSchemes) {
			continue
		}
		channel := fmt.Sprintf("channel %d (%s)", to, t.data.Dataset.ChannelNames[to])
		a, b := normalization(f.Plans, was, i), normalization(t.data.Plans, t.data.Conf, to)
		if !a.like(b) {
			differ = append(differ, fmt.Sprintf("%s: %v (checkpoint: %v)", channel, b, a))
		}
	}
	return differ
}

// normalized is how the intensities of one channel are normalised.
type normalized struct {
	scheme string
	mask   bool             // inside the nonzero region only
	values *plans.Intensity // of CTNormalization
}

func normalization(p *plans.Plans, c *plans.Configuration, channel int) normalized {
	n := normalized{scheme: c.NormalizationSchemes[channel]}
	if channel < len(c.UseMaskForNorm) {
		n.mask = c.UseMaskForNorm[channel]
	}
	if n.scheme == ctNormalization && channel < len(p.ChannelIntensities) {
		n.values = &p.ChannelIntensities[channel]
	}
	return n
}

func (n normalized) like(o normalized) bool {
	if n.scheme != o.scheme || n.mask != o.mask || (n.values == nil) != (o.values == nil) {
		return false
	}
	if n.values == nil {
		return true
	}
	a, b := n.values, o.values
	limit := tolerance * math.Abs(a.Std)
	for _, d := range []float64{a.Mean - b.Mean, a.Std - b.Std, a.Percentile005 - b.Percentile005, a.Percentile995 - b.Percentile995} {
		if math.Abs(d) > limit {
			return false
		}
	}
	return true
}

// String describes the normalisation with the numbers that it uses.
func (n normalized) String() string {
	text := n.scheme
	if n.mask {
		text += " inside the nonzero region"
	}
	if v := n.values; v != nil {
		text += fmt.Sprintf(" with mean %.4g, standard deviation %.4g, clipped to %.4g to %.4g", v.Mean, v.Std, v.Percentile005, v.Percentile995)
	}
	return text
}

func closeSpacing(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(x, y float64) bool { return math.Abs(x-y) <= tolerance*math.Abs(x) })
}

// sizes writes 2.5 × 0.8 × 0.8.
func sizes(v []float64) string {
	parts := make([]string, len(v))
	for i, x := range v {
		parts[i] = fmt.Sprintf("%.4g", x)
	}
	return strings.Join(parts, " × ")
}

package eval

import (
	"fmt"
	"slices"
	"strings"
)

// metrics lists the metrics of a segmentation, sorted by name. A new metric is a file of its own,
// or just a line, and a line here.
var metrics = []Metric{
	Dice,
	voxels("FN", func(c Counts) int64 { return c.FN }),
	voxels("FP", func(c Counts) int64 { return c.FP }),
	IoU,
	Precision,
	Recall,
	voxels("TN", func(c Counts) int64 { return c.TN }),
	voxels("TP", func(c Counts) int64 { return c.TP }),
	voxels("n_pred", func(c Counts) int64 { return c.TP + c.FP }),
	voxels("n_ref", func(c Counts) int64 { return c.TP + c.FN }),
}

// Metric is a score for one case and one target.
type Metric struct {
	Name string // the key in summary.json, for nnU-Net's metrics
	// Of computes the metric; NaN if undefined.
	Of func(Counts) float64
	// Voxels marks a number of voxels, an integer in summary.json.
	Voxels bool
	// NNUNet marks the metrics of nnU-Net's summary.json, which has no others.
	NNUNet bool
}

func voxels(name string, of func(Counts) int64) Metric {
	return Metric{Name: name, Of: func(c Counts) float64 { return float64(of(c)) }, Voxels: true,
		NNUNet: true}
}

// Metrics returns all metrics, sorted by name.
func Metrics() []Metric { return slices.Clone(metrics) }

// MetricNamed returns the metric with the given name. The error lists the names that exist.
func MetricNamed(name string) (Metric, error) {
	var names []string
	for _, m := range metrics {
		if m.Name == name {
			return m, nil
		}
		names = append(names, m.Name)
	}
	return Metric{}, fmt.Errorf("eval: metric %q, expected one of %s",
		name, strings.Join(names, ", "))
}

// summaryMetrics returns the metrics of summary.json, in key order.
func summaryMetrics() []Metric {
	return slices.DeleteFunc(Metrics(), func(m Metric) bool { return !m.NNUNet })
}

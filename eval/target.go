package eval

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Target is what is scored: one label, or a region, the union of several labels. The zero value is
// label 0.
type Target struct {
	labels []int // never modified
	region bool
}

// Label is the target of the voxels with this label.
func Label(label int) Target { return Target{labels: []int{label}} }

// Region is the target of the voxels with any of the labels, in the order of dataset.json (which
// only affects Key).
func Region(labels ...int) Target { return Target{labels: slices.Clone(labels), region: true} }

// Labels returns the labels of the target.
func (t Target) Labels() []int {
	if t.labels == nil && !t.region {
		return []int{0}
	}
	return slices.Clone(t.labels)
}

// IsRegion reports whether the target is a region, even one of a single label.
func (t Target) IsRegion() bool { return t.region }

// Key is the target's name in summary.json: the label, or the region formatted as a Python tuple,
// "(1, 2)" and "(1,)".
func (t Target) Key() string {
	if !t.region {
		return strconv.Itoa(t.Labels()[0])
	}
	parts := make([]string, len(t.labels))
	for i, l := range t.labels {
		parts[i] = strconv.Itoa(l)
	}
	if len(parts) == 1 {
		return "(" + parts[0] + ",)"
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

// ParseTarget parses a key of summary.json; it is the inverse of Key.
func ParseTarget(key string) (Target, error) {
	if l, err := strconv.Atoi(key); err == nil {
		return Label(l), nil
	}
	bad := fmt.Errorf("eval: key %q: expected a label such as 1 or a region such as (1, 2)", key)
	inner, ok := strings.CutPrefix(key, "(")
	if !ok {
		return Target{}, bad
	}
	if inner, ok = strings.CutSuffix(inner, ")"); !ok {
		return Target{}, bad
	}
	var labels []int
	for _, part := range strings.Split(strings.TrimSuffix(inner, ","), ",") {
		l, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil {
			return Target{}, bad
		}
		labels = append(labels, l)
	}
	return Region(labels...), nil
}

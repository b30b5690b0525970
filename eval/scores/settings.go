package scores

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/eval/components"
)

// Settings are what scores depend on beside the voxels.
type Settings struct {
	Tolerances   []float64               `json:"tolerances_mm"` // of NSD, ascending
	Connectivity components.Connectivity `json:"connectivity"`  // of a node's voxels
	Match        []Rule                  `json:"match"`         // the first is the headline
	SizeClasses  []float64               `json:"size_classes_mm"`
	// EmptyDistance is "diagonal" where a distance to an empty mask counts as the image's diagonal,
	// or "" where it is undefined.
	EmptyDistance string `json:"empty_distance"`
}

// Default returns the settings without flags.
func Default() Settings {
	return Settings{Tolerances: []float64{1, 2, 3}, Connectivity: components.Full,
		Match:       []Rule{{IoU: 0.3}, {IoU: 0.5}, {Any: true}},
		SizeClasses: []float64{5, 10}}
}

// Check returns an error that names what is wrong with the settings.
func (s Settings) Check() error {
	const most = 100 // of a list
	if n := max(len(s.Tolerances), len(s.SizeClasses), len(s.Match)); n > most {
		return fmt.Errorf("found a list of %d tolerances, size classes or rules, expected at most %d", n, most)
	}
	ascending := func(what string, values []float64, least float64) error {
		for i, v := range values {
			if !(v >= least) || math.IsInf(v, 0) || i > 0 && v <= values[i-1] {
				return fmt.Errorf("%s: found %v, expected ascending numbers of mm", what, values)
			}
		}
		return nil
	}
	if len(s.Tolerances) == 0 {
		return fmt.Errorf("tolerances: found none, expected at least one number of mm")
	}
	if err := ascending("tolerances", s.Tolerances, 0); err != nil {
		return err
	}
	if err := ascending("size classes", s.SizeClasses, math.SmallestNonzeroFloat64); err != nil {
		return err
	}
	if len(s.Match) == 0 {
		return fmt.Errorf("match: found no rule, expected iou:0.3 or any")
	}
	for i, r := range s.Match {
		if slices.Contains(s.Match[:i], r) {
			return fmt.Errorf("match: %s is listed twice", r)
		}
	}
	switch s.Connectivity {
	case components.Faces, components.Edges, components.Full:
	default:
		return fmt.Errorf("connectivity: found %d, expected 6, 18 or 26", int(s.Connectivity))
	}
	if s.EmptyDistance != "" && s.EmptyDistance != "diagonal" {
		return fmt.Errorf("empty distance: found %q, expected diagonal", s.EmptyDistance)
	}
	return nil
}

// Rule says when a node is found. The zero value matches one to one without a least IoU.
type Rule struct {
	Any bool    // one shared voxel is enough, on either side
	IoU float64 // else nodes match one to one, at this IoU or more
}

// ParseRule parses "iou:0.3" or "any".
func ParseRule(s string) (Rule, error) {
	if s == "any" {
		return Rule{Any: true}, nil
	}
	if text, ok := strings.CutPrefix(s, "iou:"); ok {
		if v, err := strconv.ParseFloat(text, 64); err == nil && v > 0 && v <= 1 {
			return Rule{IoU: v}, nil
		}
	}
	return Rule{}, fmt.Errorf("rule %q: expected iou:T with T above 0 and at most 1, or any", s)
}

// String is the rule as ParseRule takes it.
func (r Rule) String() string {
	if r.Any {
		return "any"
	}
	return "iou:" + short(r.IoU)
}

// MarshalText and UnmarshalText keep a rule as its text.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rule) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRule(string(text))
	return err
}

func short(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// Classes names the size classes, by the short axis in mm: "<5", "5-10", ">=10".
func (s Settings) Classes() []string {
	if len(s.SizeClasses) == 0 {
		return nil
	}
	names := []string{"<" + short(s.SizeClasses[0])}
	for i, v := range s.SizeClasses[1:] {
		names = append(names, short(s.SizeClasses[i])+"-"+short(v))
	}
	return append(names, ">="+short(s.SizeClasses[len(s.SizeClasses)-1]))
}

// class returns the number of a node's size class. A bound belongs to the class above it; an axis
// that misses it by a millionth of a millimetre, as sums of spacings do, lies on it.
func (s Settings) class(shortAxis float64) int {
	n := 0
	for n < len(s.SizeClasses) && shortAxis >= s.SizeClasses[n]-1e-6 {
		n++
	}
	return n
}

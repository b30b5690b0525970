package seg

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/lntorch/lntorch/formats/dicom/derived"
	"github.com/lntorch/lntorch/internal/regular"
)

// maxAttributes bounds the file that ReadAttributes reads.
const maxAttributes = 64 << 20

// attributes are the segmentAttributes of dcmqi's JSON; what else there is is passed over. Codes are
// a pointer: dcmqi writes one object.
type attributes struct {
	Label          *int       `json:"labelID"`
	Name           string     `json:"SegmentLabel"`
	Description    string     `json:"SegmentDescription"`
	Algorithm      string     `json:"SegmentAlgorithmType"`
	AlgorithmName  string     `json:"SegmentAlgorithmName"`
	Category       *dcmqiCode `json:"SegmentedPropertyCategoryCodeSequence"`
	Type           *dcmqiCode `json:"SegmentedPropertyTypeCodeSequence"`
	Modifier       *dcmqiCode `json:"SegmentedPropertyTypeModifierCodeSequence"`
	Region         *dcmqiCode `json:"AnatomicRegionSequence"`
	RegionModifier *dcmqiCode `json:"AnatomicRegionModifierSequence"`
	RGB            []int      `json:"recommendedDisplayRGBValue"`
	TrackingID     string     `json:"TrackingIdentifier"`
	TrackingUID    string     `json:"TrackingUniqueIdentifier"`
}

type dcmqiCode struct {
	Value   string `json:"CodeValue"`
	Scheme  string `json:"CodingSchemeDesignator"`
	Meaning string `json:"CodeMeaning"`
}

// ReadAttributes reads the segments that a JSON file of dcmqi describes (seg-schema.json: a list of
// lists named segmentAttributes), in ascending order of labelID. A segment's name is its
// SegmentLabel, else its SegmentDescription, else the meaning of its type.
func ReadAttributes(path string) ([]derived.Segment, error) {
	text, err := readAtMost(path, maxAttributes)
	if err != nil {
		return nil, err
	}
	var file struct {
		Attributes [][]attributes `json:"segmentAttributes"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s: not the JSON of dcmqi's segmentAttributes: %w", path, inJSON(err))
	}
	var all []derived.Segment
	for _, list := range file.Attributes {
		for i := range list {
			g, err := list[i].segment()
			if err != nil {
				return nil, fmt.Errorf("%s: segmentAttributes: entry %d: %w", path, len(all)+1, err)
			}
			all = append(all, *g)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: found no segmentAttributes, expected those of dcmqi's "+
			"seg-schema.json", path)
	}
	slices.SortStableFunc(all, func(a, b derived.Segment) int { return a.Value - b.Value })
	for i := 1; i < len(all); i++ {
		if all[i].Value == all[i-1].Value {
			return nil, fmt.Errorf("%s: labelID %d is there twice: one file of labels is written",
				path, all[i].Value)
		}
	}
	return all, nil
}

// inJSON is an error of encoding/json without the names of types.
func inJSON(err error) error {
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return fmt.Errorf("found a JSON %s as %s, at byte %d", wrong.Value, wrong.Field, wrong.Offset)
	case errors.As(err, &wrong):
		return fmt.Errorf("found a JSON %s, expected an object", wrong.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("%w, at byte %d", err, syntax.Offset)
	}
	return err
}

func readAtMost(path string, most int64) ([]byte, error) {
	f, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	f.Close()
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%s: %d bytes, expected at most %d", path, info.Size(), most)
	}
	return regular.ReadFile(path)
}

func (a *attributes) segment() (*derived.Segment, error) {
	if a.Label == nil || *a.Label < 1 || *a.Label > math.MaxUint16 {
		return nil, fmt.Errorf("expected a labelID from 1 to %d", math.MaxUint16)
	}
	g := &derived.Segment{Value: *a.Label, Name: a.Name, Description: a.Description,
		AlgorithmName: a.AlgorithmName, TrackingID: a.TrackingID, TrackingUID: a.TrackingUID}
	switch a.Algorithm {
	case "", derived.Automatic, derived.SemiAutomatic, derived.Manual:
		g.Algorithm = a.Algorithm
	default:
		return nil, fmt.Errorf("SegmentAlgorithmType %q: expected %s, %s or %s", a.Algorithm,
			derived.Automatic, derived.SemiAutomatic, derived.Manual)
	}
	codes := []struct {
		from *dcmqiCode
		name string
		to   func(derived.Code)
	}{
		{a.Category, "SegmentedPropertyCategoryCodeSequence",
			func(c derived.Code) { g.Category = &c }},
		{a.Type, "SegmentedPropertyTypeCodeSequence", func(c derived.Code) { g.Type = &c }},
		{a.Modifier, "SegmentedPropertyTypeModifierCodeSequence",
			func(c derived.Code) { g.TypeModifier = []derived.Code{c} }},
		{a.Region, "AnatomicRegionSequence", func(c derived.Code) { g.Region = []derived.Code{c} }},
		{a.RegionModifier, "AnatomicRegionModifierSequence",
			func(c derived.Code) { g.RegionModifier = []derived.Code{c} }},
	}
	for _, c := range codes {
		if c.from == nil {
			continue
		}
		code := derived.Code{Value: c.from.Value, Scheme: c.from.Scheme, Meaning: c.from.Meaning}
		if !short(code.Value, 16) || !short(code.Scheme, 16) || !short(code.Meaning, 64) {
			return nil, fmt.Errorf("%s: expected CodeValue and CodingSchemeDesignator of 1 to 16 "+
				"characters, CodeMeaning of 1 to 64", c.name)
		}
		c.to(code)
	}
	if len(g.RegionModifier) > 0 && len(g.Region) == 0 {
		return nil, fmt.Errorf("AnatomicRegionModifierSequence without AnatomicRegionSequence")
	}
	if g.Name == "" {
		g.Name = g.Description
	}
	if g.Name == "" {
		g.Name = g.TypeOrNode().Meaning
	}
	if err := derived.CheckName(g.Name); err != nil {
		return nil, err
	}
	for _, t := range []string{g.AlgorithmName, g.Description, g.TrackingID} {
		if t != "" && derived.CheckName(t) != nil {
			return nil, fmt.Errorf("SegmentAlgorithmName, SegmentDescription, TrackingIdentifier: " +
				"expected at most 64 characters, no backslash, no space around them")
		}
	}
	if g.TrackingUID != "" && !derived.IsUID(g.TrackingUID) || g.TrackingUID != "" && g.TrackingID == "" {
		return nil, fmt.Errorf("TrackingUniqueIdentifier: expected a UID, and a TrackingIdentifier " +
			"with it")
	}
	if a.RGB != nil {
		if len(a.RGB) != 3 || slices.Min(a.RGB) < 0 || slices.Max(a.RGB) > math.MaxUint8 {
			return nil, fmt.Errorf("recommendedDisplayRGBValue: expected three numbers from 0 to 255")
		}
		g.Colour = &[3]uint8{uint8(a.RGB[0]), uint8(a.RGB[1]), uint8(a.RGB[2])}
	}
	return g, nil
}

func short(text string, most int) bool {
	return derived.CheckName(text) == nil && len(strings.TrimSpace(text)) <= most
}

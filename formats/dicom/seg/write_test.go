package seg

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/dicom/derived"
)

// Colours are what highdicom makes of the same RGB, to the rounding of the matrix.
func TestColoursAreHighdicoms(t *testing.T) {
	text, err := os.ReadFile("../../../testdata/golden/dicom_objects/expected.json")
	require.NoError(t, err)
	var file struct {
		Colours []struct {
			RGB    [3]uint8
			CIELab [3]uint16
		}
	}
	require.NoError(t, json.Unmarshal(text, &file))
	require.Greater(t, len(file.Colours), 30)
	for _, c := range file.Colours {
		lab := cieLab(c.RGB)
		for i := range lab {
			require.InDelta(t, c.CIELab[i], lab[i], 4, "%v", c)
		}
	}
}

const attributesOfTwo = `{"SeriesDescription": "x", "segmentAttributes": [[
 {"labelID": 3, "SegmentDescription": "Spleen of it", "SegmentAlgorithmType": "MANUAL",
  "SegmentedPropertyCategoryCodeSequence": {"CodeValue": "123037004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"},
  "SegmentedPropertyTypeCodeSequence": {"CodeValue": "78961009", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Spleen"}}],
 [{"labelID": 1, "SegmentLabel": "Node", "SegmentAlgorithmType": "AUTOMATIC", "SegmentAlgorithmName": "net",
  "SegmentedPropertyCategoryCodeSequence": {"CodeValue": "91723000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"},
  "SegmentedPropertyTypeCodeSequence": {"CodeValue": "59441001", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lymph Node"},
  "SegmentedPropertyTypeModifierCodeSequence": {"CodeValue": "7771000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Left"},
  "AnatomicRegionSequence": {"CodeValue": "113257007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Abdomen"},
  "recommendedDisplayRGBValue": [10, 20, 255], "TrackingIdentifier": "N1", "TrackingUniqueIdentifier": "1.2.3"}]]}`

func TestReadAttributes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	require.NoError(t, os.WriteFile(path, []byte(attributesOfTwo), 0o666))
	all, err := ReadAttributes(path)
	require.NoError(t, err)
	require.Equal(t, []derived.Segment{
		{Value: 1, Name: "Node", Algorithm: derived.Automatic, AlgorithmName: "net",
			Category:     &derived.Code{Value: "91723000", Scheme: "SCT", Meaning: "Anatomical Structure"},
			Type:         &derived.Code{Value: "59441001", Scheme: "SCT", Meaning: "Lymph Node"},
			TypeModifier: []derived.Code{{Value: "7771000", Scheme: "SCT", Meaning: "Left"}},
			Region:       []derived.Code{{Value: "113257007", Scheme: "SCT", Meaning: "Abdomen"}},
			Colour:       &[3]uint8{10, 20, 255}, TrackingID: "N1", TrackingUID: "1.2.3"},
		{Value: 3, Name: "Spleen of it", Description: "Spleen of it", Algorithm: derived.Manual,
			Category: &derived.Code{Value: "123037004", Scheme: "SCT", Meaning: "Anatomical Structure"},
			Type:     &derived.Code{Value: "78961009", Scheme: "SCT", Meaning: "Spleen"}},
	}, all)
}

func TestBadAttributesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.json")
	for text, want := range map[string]string{
		"": "not the JSON", "[]": "found a JSON array, expected an object", "{}": "found no segmentAttributes",
		`{"segmentAttributes": [[{"labelID": "1"}]]}`:                                        "found a JSON string as segmentAttributes.labelID, at byte 39",
		`{"segmentAttributes": [[{"labelID": 1}]}`:                                           "at byte 40",
		`{"segmentAttributes": [[{"labelID": 1e400}]]}`:                                      "found a JSON number 1e400 as segmentAttributes.labelID",
		`{"segmentAttributes": [null, [null]]}`:                                              "entry 1: expected a labelID",
		`{"segmentAttributes": [[{}]]}`:                                                      "expected a labelID",
		`{"segmentAttributes": [[{"labelID": 0}]]}`:                                          "expected a labelID from 1 to 65535",
		`{"segmentAttributes": [[{"labelID": 1}], [{"labelID": 1}]]}`:                        "labelID 1 is there twice",
		`{"segmentAttributes": [[{"labelID": 1, "SegmentAlgorithmType": "x"}]]}`:             `SegmentAlgorithmType "x"`,
		`{"segmentAttributes": [[{"labelID": 1, "SegmentLabel": "a\\b"}]]}`:                  "no backslash",
		`{"segmentAttributes": [[{"labelID": 1, "recommendedDisplayRGBValue": [1, 2]}]]}`:    "three numbers",
		`{"segmentAttributes": [[{"labelID": 1, "recommendedDisplayRGBValue": [1,2,256]}]]}`: "three numbers",
		`{"segmentAttributes": [[{"labelID": 1, "TrackingUniqueIdentifier": "1.2"}]]}`:       "TrackingIdentifier",
		`{"segmentAttributes": [[{"labelID": 1, "AnatomicRegionSequence": {}}]]}`:            "AnatomicRegionSequence: expected",
	} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		_, err := ReadAttributes(path)
		require.ErrorContains(t, err, want, text)
		require.ErrorContains(t, err, "a.json")
	}
	_, err := ReadAttributes(t.TempDir())
	require.Error(t, err)
}

// Whatever the JSON, there are segments that can be written, or an error that names the file.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte(attributesOfTwo))
	dcmqi, err := os.ReadFile("../../../testdata/golden/dicom_objects/attributes.json")
	require.NoError(f, err)
	f.Add(dcmqi)
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "a.json")
		require.NoError(t, os.WriteFile(path, text, 0o666))
		all, err := ReadAttributes(path)
		if err != nil {
			require.Empty(t, all)
			require.ErrorContains(t, err, path)
			require.NotContains(t, err.Error(), "Go ") // a struct field, a value
			return
		}
		last := 0
		for _, s := range all {
			require.Greater(t, s.Value, last)
			require.LessOrEqual(t, s.Value, math.MaxUint16)
			require.NoError(t, derived.CheckName(s.Name))
			last = s.Value
		}
	})
}

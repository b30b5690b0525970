package planner_test

import (
	"testing"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
)

// FuzzPlan plans for arbitrary fingerprints: the result is an error or plans, in reasonable time.
func FuzzPlan(f *testing.F) {
	for _, s := range []string{
		`{"spacings": [[1, 1.0, 1]], "shapes_after_crop": [[64, 64, 64]], "median_relative_size_after_cropping": 1.0, "foreground_intensity_properties_per_channel": {"0": {"mean": 1}}}`,
		`{"spacings": [[999, 1, 1], [999.0, 1e-300, 1e300]], "shapes_after_crop": [[1, 2000000000, 64], [1, 64, 2000000000]], "median_relative_size_after_cropping": NaN, "foreground_intensity_properties_per_channel": {}}`,
		`{"spacings": [[5, 0.7, 0.7]], "shapes_after_crop": [[2147483647, 2147483647, 2147483647]], "median_relative_size_after_cropping": 0, "foreground_intensity_properties_per_channel": {}}`,
		`{"spacings": [[1e-308, 1e308, 1]], "shapes_after_crop": [[3, 4, 5]], "median_relative_size_after_cropping": 0, "foreground_intensity_properties_per_channel": {}}`,
	} {
		f.Add([]byte(s), 8.0)
		f.Add([]byte(s), 1e-9)
		f.Add([]byte(s), 1e30)
	}
	doc, err := plans.DecodeJSON([]byte(`{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 3, "file_ending": ".nii"}`))
	if err != nil {
		f.Fatal(err)
	}
	d, err := plans.DatasetFromObject(doc.(*plans.Object), "d")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, memory float64) {
		v, err := plans.DecodeJSON(data)
		if err != nil {
			return
		}
		fp, err := fingerprint.FromJSON(v)
		if err != nil {
			return
		}
		for _, name := range []string{"ExperimentPlanner", "nnUNetPlannerResEncM"} {
			p, err := planner.ForName(name)
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Plan(planner.Input{DatasetName: "D", Dataset: d, Fingerprint: fp, Reader: "R"}, planner.Options{MemoryGB: memory})
			if err != nil {
				continue
			}
			if _, err := plans.EncodeJSON(r.Plans, 4, false); err != nil {
				t.Fatal(err)
			}
		}
	})
}

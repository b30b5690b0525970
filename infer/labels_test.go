package infer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/torch"
)

// labelsOf parses labels and regions_class_order as in dataset.json.
func labelsOf(t *testing.T, labels, order any) *plans.Labels {
	t.Helper()
	raw := &plans.Object{}
	raw.Set("labels", labels)
	if order != nil {
		raw.Set("regions_class_order", order)
	}
	channels := &plans.Object{}
	channels.Set("0", "CT")
	raw.Set("channel_names", channels)
	raw.Set("file_ending", ".nii.gz")
	d, err := plans.DatasetFromObject(raw, "dataset.json")
	require.NoError(t, err)
	return d.Labels
}

func TestLabelsAreTheReferences(t *testing.T) {
	needTorch(t)
	raw, err := plans.ReadJSON(golden.Path(t, "logits_to_labels/cases.json"))
	require.NoError(t, err)
	cases, _ := raw.(*plans.Object).Get("cases")
	require.NotEmpty(t, cases)
	for _, c := range cases.([]any) {
		name, _ := c.(*plans.Object).Get("name")
		labels, _ := c.(*plans.Object).Get("labels")
		order, _ := c.(*plans.Object).Get("regions_class_order")
		t.Run(name.(string), func(t *testing.T) {
			f := golden.Load(t, "logits_to_labels/"+name.(string)+".npz")
			shape, logits := golden.Float32s(t, f, "logits")
			array, err := f.Read("labels")
			require.NoError(t, err)
			want, err := array.Uint8s()
			require.NoError(t, err)
			_, dtype, err := f.Shape("logits")
			require.NoError(t, err)
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				x := torch.FromSlice(s, logits, torch.Sizes(shape)...)
				if dtype == "<f2" {
					x = s.To(x, torch.Float16, torch.CPU)
				}
				got, err := Labels(x, labelsOf(t, labels, order))
				require.NoError(t, err)
				require.Equal(t, want, got)
				return nil
			}))
		})
	}
}

// A volume larger than one chunk gets the labels of its slices.
func TestLabelsOfLargeVolumes(t *testing.T) {
	needTorch(t)
	labels := &plans.Object{}
	labels.Set("background", int64(0))
	labels.Set("node", int64(1))
	l := labelsOf(t, labels, nil)
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		const depth, side = 7, 512
		zeros := s.Zeros([]int64{1, depth, side, side}, torch.Float16, torch.CPU)
		node := s.Full([]int64{1, depth, side, side}, -1, torch.Float16, torch.CPU)
		for z := int64(0); z < depth; z += 2 {
			s.Fill_(s.Narrow(node, 1, z, 1), 1)
		}
		got, err := Labels(s.Cat(0, zeros, node), l)
		require.NoError(t, err)
		for z := range depth {
			require.Equal(t, uint8(1-z%2), got[z*side*side], "slice %d", z)
			require.Equal(t, uint8(1-z%2), got[(z+1)*side*side-1], "slice %d", z)
		}
		return nil
	}))
}

func TestLabelsReportsWhatDoesNotFit(t *testing.T) {
	needTorch(t)
	two := &plans.Labels{AllLabels: []int{0, 1}, ForegroundLabels: []int{1}}
	require.NoError(t, torch.With(func(s *torch.Scope) error {
		x := s.Zeros([]int64{3, 2, 2, 2}, torch.Float32, torch.CPU)
		_, err := Labels(x, two)
		require.EqualError(t, err, "infer: logits have shape [3 2 2 2], expected (2 heads, z, y, "+
			"x) for these labels")
		_, err = Labels(s.Zeros([]int64{2, 2, 2}, torch.Float32, torch.CPU), two)
		require.ErrorContains(t, err, "expected (2 heads, z, y, x)")
		regions := &plans.Labels{HasRegions: true, Regions: make([]plans.Label, 3),
			RegionsClassOrder: []int{1, 2}}
		_, err = Labels(x, regions)
		require.ErrorContains(t, err,
			"regions_class_order [1 2]: expected one value for each of 3 regions")
		regions.RegionsClassOrder = []int{1, 2, 300}
		_, err = Labels(x, regions)
		require.ErrorContains(t, err, "label 300 does not fit 8 bits")
		return nil
	}))
}

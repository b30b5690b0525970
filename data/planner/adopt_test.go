package planner_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/fingerprint"
	"github.com/lntorch/lntorch/data/planner"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/models"
)

const mini = "../../testdata/phantom-mini/"

// source is phantom-mini's model, with the plans that nnU-Net stored beside it.
func source(t *testing.T) planner.Model {
	t.Helper()
	folder := mini + "results/Dataset101_PhantomSource/nnUNetTrainer__nnUNetPlans__3d_phantom/"
	p, err := plans.Load(folder + "plans.json")
	require.NoError(t, err)
	d, err := plans.LoadDataset(folder + "dataset.json")
	require.NoError(t, err)
	return planner.Model{Source: "model", Plans: p, Configuration: "3d_phantom", Dataset: d, Network: network}
}

// network returns the network that the plans describe.
func network(c *plans.Configuration) (planner.Network, error) {
	a, err := models.Parse(c)
	if err != nil {
		return planner.Network{}, err
	}
	u := planner.UNet(a.(models.Measured).Topology())
	return planner.Network{Divisor: a.Divisor(), UNet: &u}, nil
}

// target is the dataset that adopts the model's configuration.
func target(t *testing.T) planner.Input {
	t.Helper()
	d, err := plans.LoadDataset(mini + "preprocessed/Dataset102_PhantomTarget/dataset.json")
	require.NoError(t, err)
	fp, err := fingerprint.Load(mini + "preprocessed/Dataset102_PhantomTarget/dataset_fingerprint.json")
	require.NoError(t, err)
	return planner.Input{DatasetName: "Dataset102_PhantomTarget", Dataset: d, Fingerprint: fp, Reader: "SimpleITKIO"}
}

func configuration(t *testing.T, doc *plans.Object, name string) *plans.Configuration {
	t.Helper()
	b, err := plans.EncodeJSON(doc, -1, false)
	require.NoError(t, err)
	v, err := plans.DecodeJSON(b)
	require.NoError(t, err)
	p, err := plans.FromObject(v.(*plans.Object), "adopted")
	require.NoError(t, err)
	c, err := p.Configuration(name)
	require.NoError(t, err)
	return c
}

// nnU-Net moved the source's plans to the target, and the readme's configuration was added by hand:
// adopted plans must present images to the network in the same way.
func TestAdoptedPlansPreprocessAsMovedOnesDo(t *testing.T) {
	a, err := planner.Adopt(source(t), target(t), planner.AdoptOptions{PlansName: "nnUNetPlansSource"})
	require.NoError(t, err)
	moved, err := plans.Load(mini + "preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json")
	require.NoError(t, err)
	for _, key := range []string{"dataset_name", "plans_name", "image_reader_writer", "transpose_forward", "transpose_backward", "experiment_planner_used", "label_manager",
		"foreground_intensity_properties_per_channel"} {
		want, ok := moved.Raw().Get(key)
		require.True(t, ok)
		got, ok := a.Plans.Get(key)
		require.True(t, ok, key)
		require.Equal(t, text(t, want), text(t, got), key)
	}
	want, err := moved.Configuration("3d_phantom")
	require.NoError(t, err)
	got := configuration(t, a.Plans, "3d_phantom")
	for _, key := range want.Raw().Keys() {
		w, _ := want.Raw().Get(key)
		g, ok := got.Raw().Get(key)
		switch key {
		case "inherits_from": // resolved
			require.False(t, ok)
		case "data_identifier":
			require.Equal(t, "nnUNetPlansSource_3d_phantom", g)
		case "median_image_size_in_voxels":
			require.NotEqual(t, w, g) // the dataset's, at the model's spacing
			require.Equal(t, "[33.5, 80.0, 76.0]", line(t, g))
		default:
			require.Equal(t, text(t, w), text(t, g), key)
		}
	}
	require.Equal(t, len(want.Raw().Keys())-1, len(got.Raw().Keys()))
	v, _ := a.Plans.Get("original_median_spacing_after_transp")
	require.Equal(t, "[3.0, 1.7549999952316284, 1.7549999952316284]", line(t, v))
}

func line(t *testing.T, v any) string {
	b, err := plans.EncodeJSON(v, -1, false)
	require.NoError(t, err)
	return string(b)
}

// The configuration 3d_phantom was added to these plans by hand, following LN-Seg-FM's readme.
func TestRecipeEqualsTheChangeByHand(t *testing.T) {
	for _, path := range []string{"preprocessed/Dataset101_PhantomSource/nnUNetPlans.json"} {
		byHand, err := os.ReadFile(mini + path)
		require.NoError(t, err)
		v, err := plans.DecodeJSON(byHand)
		require.NoError(t, err)
		configurations, _ := v.(*plans.Object).Get("configurations")
		require.Equal(t, []string{"2d", "3d_fullres", "3d_phantom", "3d_phantom_resenc"}, configurations.(*plans.Object).Keys())
		last, _ := configurations.(*plans.Object).Get("3d_phantom_resenc")
		for _, name := range []string{"3d_phantom", "3d_phantom_resenc"} {
			configurations.(*plans.Object).Delete(name)
		}
		own, err := plans.FromObject(v.(*plans.Object), "plans")
		require.NoError(t, err)
		before := text(t, v)
		a, err := planner.Recipe(source(t), own, target(t), planner.AdoptOptions{Name: "3d_phantom", PatchSize: []int{16, 48, 48}, BatchSize: 2})
		require.NoError(t, err)
		require.Equal(t, before, text(t, v), "the plans were modified")
		made, _ := a.Plans.Get("configurations")
		made.(*plans.Object).Set("3d_phantom_resenc", last)
		want, err := plans.DecodeJSON(byHand)
		require.NoError(t, err)
		require.Equal(t, text(t, want), text(t, a.Plans))

		a, err = planner.Recipe(source(t), own, target(t), planner.AdoptOptions{})
		require.NoError(t, err)
		made, _ = a.Plans.Get("configurations")
		c, _ := made.(*plans.Object).Get("3d_phantom_adopted")
		require.Equal(t, []string{"inherits_from", "patch_size", "architecture"}, c.(*plans.Object).Keys())
	}
}

func TestKeepLeavesTheDatasetsOwn(t *testing.T) {
	in := target(t)
	in.Fingerprint.Spacings = [][]float64{{1.2, 0.9, 3}, {1.3, 0.9, 3}}
	in.Fingerprint.Shapes = [][]int{{100, 110, 40}, {100, 110, 40}}
	a, err := planner.Adopt(source(t), in, planner.AdoptOptions{KeepSpacing: true})
	require.NoError(t, err)
	c := configuration(t, a.Plans, "3d_phantom")
	require.Equal(t, []float64{3, 1.25, 0.9}, c.Spacing)
	require.Equal(t, []float64{40, 100, 110}, c.MedianImageSize)
	order, _ := a.Plans.Get("transpose_forward")
	require.Equal(t, []int{2, 0, 1}, order)
	back, _ := a.Plans.Get("transpose_backward")
	require.Equal(t, []int{1, 2, 0}, back)
	intensities, _ := a.Plans.Get("foreground_intensity_properties_per_channel")
	own, _ := source(t).Plans.Raw().Get("foreground_intensity_properties_per_channel")
	require.Equal(t, text(t, own), text(t, intensities))

	a, err = planner.Adopt(source(t), in, planner.AdoptOptions{KeepNormalisation: true})
	require.NoError(t, err)
	intensities, _ = a.Plans.Get("foreground_intensity_properties_per_channel")
	require.Equal(t, text(t, in.Fingerprint.Intensities()), text(t, intensities))
	require.Equal(t, []float64{2.5, 1.4700000286102295, 1.4700000286102295}, configuration(t, a.Plans, "3d_phantom").Spacing)
	warned := map[string]bool{}
	for _, f := range a.Findings {
		warned[f.What] = f.Warning
	}
	require.Equal(t, map[string]bool{"spacing in mm": true, "order of axes": true, "foreground intensities of channel CT": false}, warned)
}

func TestFlatModelsAreAdopted(t *testing.T) {
	in := target(t)
	in.Fingerprint.Spacings = [][]float64{{1.47, 2.94, 3}}
	in.Fingerprint.Shapes = [][]int{{100, 110, 40}}
	m := source(t)
	m.Configuration = "2d"
	a, err := planner.Adopt(m, in, planner.AdoptOptions{PatchSize: []int{32, 64}})
	require.NoError(t, err)
	c := configuration(t, a.Plans, "2d")
	require.Equal(t, []int{32, 64}, c.PatchSize)
	require.Equal(t, []float64{220, 82}, c.MedianImageSize) // at 1.47 mm in the model's order of axes
	require.True(t, c.BatchDice)
	a, err = planner.Adopt(m, in, planner.AdoptOptions{KeepSpacing: true})
	require.NoError(t, err)
	c = configuration(t, a.Plans, "2d")
	require.Equal(t, []float64{1.47, 2.94}, c.Spacing)
	require.Equal(t, []float64{100, 110}, c.MedianImageSize)
}

// SwinUNETR's trainer ignores the architecture block: the patch must fit the network, not the strides.
func TestNetworksOutsideOfPlansHaveTheirOwnDivisor(t *testing.T) {
	m := source(t)
	m.Network = func(c *plans.Configuration) (planner.Network, error) {
		a, err := models.ForTrainer("nnUNetTrainer_SwinUNETR", c)
		require.NoError(t, err)
		return planner.Network{Divisor: a.Divisor()}, nil
	}
	_, err := planner.Adopt(m, target(t), planner.AdoptOptions{})
	require.ErrorContains(t, err, "patch [16 48 48]: the strides of model need sizes divisible by [32 32 32]; the nearest are 32,64,64")
	a, err := planner.Adopt(m, target(t), planner.AdoptOptions{PatchSize: []int{32, 64, 96}, MemoryGB: 1e-6})
	require.NoError(t, err)
	require.Equal(t, []int{32, 64, 96}, a.PatchSize)
}

// Plans from before nnU-Net 2.4 have no architecture block: adopted ones get the equivalent block.
func TestOldPlansAreAdopted(t *testing.T) {
	m := source(t)
	doc := m.Plans.Raw().Clone()
	v, _ := doc.Get("configurations")
	full, _ := v.(*plans.Object).Get("3d_fullres")
	old := full.(*plans.Object)
	v, _ = old.Get("architecture")
	block := v.(*plans.Object)
	v, _ = block.Get("arch_kwargs")
	kwargs := v.(*plans.Object)
	for name, key := range map[string]string{"n_conv_per_stage_encoder": "n_conv_per_stage", "n_conv_per_stage_decoder": "n_conv_per_stage_decoder",
		"pool_op_kernel_sizes": "strides", "conv_kernel_sizes": "kernel_sizes"} {
		v, _ := kwargs.Get(key)
		old.Set(name, v)
	}
	for name, v := range map[string]any{"UNet_class_name": "PlainConvUNet", "UNet_base_num_features": int64(32), "unet_max_num_features": int64(320), "num_pool_per_axis": nil} {
		old.Set(name, v)
	}
	old.Set("num_pool_per_axis", []any{int64(2), int64(4), int64(4)})
	old.Delete("architecture")
	intensities, _ := doc.Get("foreground_intensity_properties_per_channel")
	doc.Delete("foreground_intensity_properties_per_channel")
	doc.Set("foreground_intensity_properties_by_modality", intensities)
	doc.Delete("label_manager")
	p, err := plans.FromObject(doc, "old")
	require.NoError(t, err)
	want, err := planner.Adopt(planner.Model{Source: "new", Plans: m.Plans, Configuration: "3d_fullres", Network: network}, target(t), planner.AdoptOptions{})
	require.NoError(t, err)
	got, err := planner.Adopt(planner.Model{Source: "old", Plans: p, Configuration: "3d_fullres", Network: network}, target(t), planner.AdoptOptions{})
	require.NoError(t, err)
	sorted := func(o *plans.Object) string { // the block moves to the end of the configuration
		b, err := plans.EncodeJSON(o, 1, true)
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, sorted(want.Plans), sorted(got.Plans))
}

func TestWarningsOfDataFarFromTheModels(t *testing.T) {
	in := target(t)
	find := func(what string) *planner.Finding {
		a, err := planner.Adopt(source(t), in, planner.AdoptOptions{KeepNormalisation: true})
		require.NoError(t, err)
		for i := range a.Findings {
			if a.Findings[i].What == what {
				return &a.Findings[i]
			}
		}
		return nil
	}
	const what = "foreground intensities of channel CT"
	require.False(t, find(what).Warning)
	in.Fingerprint.Channels[0].Mean += 1024 // not in HU
	in.Fingerprint.Channels[0].Median += 1024
	f := find(what)
	require.True(t, f.Warning)
	require.Contains(t, f.Note, "of the model's standard deviations")
	require.Contains(t, f.Note, "is outside [2, 151]")
	in = target(t)
	in.Fingerprint.Channels[0].Std *= 3
	require.Contains(t, find(what).Note, "standard deviations differ by a factor of 3.5")
	in = target(t)
	require.Nil(t, find("labels"))
	in.Dataset.Labels.Entries = append(in.Dataset.Labels.Entries, plans.Label{Name: "more", Values: []int{2}})
	in.Dataset.Labels.AllLabels = append(in.Dataset.Labels.AllLabels, 2)
	require.Contains(t, find("labels").Note, "the output layers have 2 channels, the dataset needs 3")
	in = target(t)
	in.Dataset.ChannelNames = []string{"MR"}
	require.True(t, find("normalisation of channel MR").Warning)
	for i := range in.Fingerprint.Spacings {
		in.Fingerprint.Spacings[i] = []float64{5.1, 1.7, 1.7}
	}
	require.True(t, find("spacing in mm").Warning)
}

func TestPatchesFitStridesAndMemory(t *testing.T) {
	in := target(t)
	for _, c := range []struct {
		o    planner.AdoptOptions
		want string
	}{
		{planner.AdoptOptions{PatchSize: []int{18, 50, 48}}, "patch [18 50 48]: the strides of model need sizes divisible by [4 8 8]; the nearest are 20,48,48"},
		{planner.AdoptOptions{PatchSize: []int{16, 48}}, "expected 3 positive sizes"},
		{planner.AdoptOptions{PatchSize: []int{4, 8, 8}}, "reduce it to one voxel"},
		{planner.AdoptOptions{BatchSize: -1}, "a batch of at least 1"},
	} {
		_, err := planner.Adopt(source(t), in, c.o)
		require.ErrorContains(t, err, c.want)
	}
	// The median image is 33.5×80×76: the patch axis that is largest relative to it shrinks first, by
	// its stride.
	for _, c := range []struct {
		gb    float64
		patch []int
		notes int
	}{{8, []int{16, 48, 48}, 0}, {0.03, []int{16, 48, 40}, 1}, {0.02, []int{16, 40, 32}, 1}, {0.01, []int{16, 32, 32}, 2}} {
		a, err := planner.Adopt(source(t), in, planner.AdoptOptions{MemoryGB: c.gb})
		require.NoError(t, err)
		require.Equal(t, c.patch, a.PatchSize, "%v GB", c.gb)
		require.Equal(t, 2, a.BatchSize)
		require.Len(t, a.Notes, c.notes)
		require.Equal(t, c.patch, configuration(t, a.Plans, "3d_phantom").PatchSize)
	}
	a, err := planner.Adopt(source(t), in, planner.AdoptOptions{MemoryGB: 0.01, PatchSize: []int{32, 64, 64}, BatchSize: 5})
	require.NoError(t, err)
	require.Equal(t, []int{32, 64, 64}, a.PatchSize)
	require.Equal(t, 5, a.BatchSize)
	require.Contains(t, a.Notes[0], "more than 0.01 GB")
}

func TestAdoptErrorsListWhatIsAvailable(t *testing.T) {
	m := source(t)
	m.Configuration = "3d_fulres"
	_, err := planner.Adopt(m, target(t), planner.AdoptOptions{})
	require.ErrorContains(t, err, `configuration "3d_fulres" does not exist; available: 2d, 3d_fullres, 3d_phantom`)
	in := target(t)
	in.Dataset.ChannelNames = []string{"CT", "PET"}
	_, err = planner.Adopt(source(t), in, planner.AdoptOptions{})
	require.ErrorContains(t, err, "normalises 1 channels with statistics for 1, the dataset has 2 (CT, PET)")
	own, err := plans.Load(filepath.Join(mini, "preprocessed/Dataset102_PhantomTarget/nnUNetPlansSource.json"))
	require.NoError(t, err)
	_, err = planner.Recipe(source(t), own, target(t), planner.AdoptOptions{Parent: "2d"})
	require.ErrorContains(t, err, "a model with 3 axes, 2d of the dataset's plans has 2")
	_, err = planner.Recipe(source(t), own, target(t), planner.AdoptOptions{Parent: "4d"})
	require.ErrorContains(t, err, "available: 2d, 3d_fullres, 3d_phantom, 3d_phantom_resenc")
	_, err = planner.Recipe(source(t), own, target(t), planner.AdoptOptions{Name: "3d_fullres"})
	require.ErrorContains(t, err, "cannot have the name 3d_fullres")
}

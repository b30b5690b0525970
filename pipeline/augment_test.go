package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// saveNpy writes an array as numpy.save does.
func saveNpy(t *testing.T, path string, a *npz.Array) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, npz.WriteNpy(f, a))
	require.NoError(t, f.Close())
}

// goldenCases are the cases of scripts/golden/augment_transforms.py.
func goldenCases(t *testing.T) (cases []struct {
	Name       string
	Chain      bool
	Transforms []map[string]any
}, f *npz.File) {
	t.Helper()
	var file struct{ Cases json.RawMessage }
	golden.LoadJSON(t, "augment_transforms.json", &file)
	require.NoError(t, json.Unmarshal(file.Cases, &cases))
	return cases, golden.Load(t, "augment_transforms.npz")
}

func TestAugmentApplyDoesWhatBatchgeneratorsDo(t *testing.T) {
	t.Run("cpu", func(t *testing.T) { applyGoldenCases(t, AugmentApplyConfig{On: "cpu"}) })
	t.Run("device", func(t *testing.T) {
		torchtest.NoLeak(t)
		applyGoldenCases(t, AugmentApplyConfig{On: "device", DeviceName: "cpu"})
	})
}

// applyGoldenCases applies them with a config that says where.
func applyGoldenCases(t *testing.T, config AugmentApplyConfig) {
	cases, f := goldenCases(t)
	tried := 0
	for i, c := range cases {
		if !c.Chain && i%11 != 0 {
			continue
		}
		tried++
		dir := t.TempDir()
		at := func(name string) string { return filepath.Join(dir, name) }
		read := func(name string) *npz.Array {
			a, err := f.Read(fmt.Sprintf("%d/%s", i, name))
			require.NoError(t, err)
			return a
		}
		saveNpy(t, at("image.npy"), read("image"))
		saveNpy(t, at("seg.npy"), read("seg"))
		for k, step := range c.Transforms {
			if step["transform"] == "GaussianNoiseTransform" {
				step["noise"] = fmt.Sprintf("noise_%d.npy", k)
				saveNpy(t, at(step["noise"].(string)), read(fmt.Sprintf("noise/%d", k)))
			}
		}
		spec, err := json.Marshal(map[string]any{"key": "LN_1", "transforms": c.Transforms})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(at("spec.json"), spec, 0o666))
		var log bytes.Buffer
		config.Spec, config.Data, config.Seg = at("spec.json"), at("image.npy"), at("seg.npy")
		config.Output, config.Repeat = at("out.npz"), 2
		require.NoError(t, AugmentApply(context.Background(), config, Output{Log: &log}), c.Name)
		require.Empty(t, log.String())
		out, err := npz.OpenNpz(at("out.npz"))
		require.NoError(t, err)
		shape, data := golden.Float32s(t, out, "data")
		wantShape, want := golden.Float32s(t, f, fmt.Sprintf("%d/data", i))
		require.Equal(t, wantShape, shape, c.Name)
		golden.Close(t, c.Name, "augment-chain", shape, want, data)
		for k := 0; f.Has(fmt.Sprintf("%d/target/%d", i, k)); k++ {
			want, name := read(fmt.Sprintf("target/%d", k)), fmt.Sprintf("seg_%d", k)
			if out.Has("seg") {
				name = "seg"
			}
			got, err := out.Read(name)
			require.NoError(t, err)
			require.Equal(t, want, got, c.Name)
		}
		require.NoError(t, out.Close())
	}
	require.Greater(t, tried, 30)
}

func TestAugmentApplyExplainsBadInput(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	save := func(name string, a *npz.Array, err error) {
		require.NoError(t, err)
		saveNpy(t, at(name), a)
	}
	nan := make([]float32, 24)
	nan[17] /= nan[0]
	numbers := make([]float32, 24)
	a, err := npz.New(numbers, 1, 2, 3, 4)
	save("x.npy", a, err)
	a, err = npz.New(make([]float64, 24), 1, 2, 3, 4)
	save("double.npy", a, err)
	a, err = npz.New(nan, 1, 2, 3, 4)
	save("nan.npy", a, err)
	a, err = npz.New(numbers, 4, 6)
	save("flat.npy", a, err)
	a, err = npz.New(numbers[:0], 1, 0, 3, 4)
	save("empty.npy", a, err)
	a, err = npz.New(make([]int16, 24), 1, 2, 3, 4)
	save("seg.npy", a, err)
	a, err = npz.New(make([]int16, 24), 1, 2, 4, 3)
	save("other.npy", a, err)
	a, err = npz.New([]int32{0, 70000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 1, 2, 3, 4)
	save("large.npy", a, err)
	write := func(name, text string) { require.NoError(t, os.WriteFile(at(name), []byte(text), 0o666)) }
	write("none.json", `{"transforms":[]}`)
	write("bad.json", "{\"transforms\":[\n  {]}")
	write("key.json", `{"transforms":[{"transform":"MirrorTransform","axis":[0]}]}`)
	write("axis.json", `{"transforms":[{"transform":"MirrorTransform","axes":[3]}]}`)
	write("noise.json", `{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[0],"sigmas":1,"noise":"double.npy"}]}`)
	write("missing.json", `{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[0],"sigmas":1,"noise":"none.npy"}]}`)
	write("nan.json", `{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[0],"sigmas":1,"noise":"nan.npy"}]}`)
	write("shape.json", `{"transforms":[{"transform":"GaussianNoiseTransform","apply_to_channel":[0],"sigmas":[1],"noise":"flat.npy"}]}`)
	for _, c := range []struct{ spec, data, seg, want string }{
		{"bad.json", "x.npy", "", "bad.json: line 2, column 4: not JSON"},
		{"key.json", "x.npy", "", `key.json: transform 0, MirrorTransform: unknown key "axis"; did you mean "axes"?`},
		{"axis.json", "x.npy", "", "axis.json: transform 0, MirrorTransform: axis 3, expected one of the 3 axes"},
		{"none.json", "nan.npy", "", "nan.npy: found NaN at [0 1 1 1], expected finite numbers"},
		{"none.json", "flat.npy", "", "flat.npy: found shape [4 6], expected (c,z,y,x) or (c,y,x)"},
		{"none.json", "empty.npy", "", "empty.npy: found shape [1 0 3 4], expected (c,z,y,x) or (c,y,x), none of them 0"},
		{"none.json", "x.npy", "other.npy", "other.npy: found shape [1 2 4 3], expected channels of [2 3 4]"},
		{"none.json", "x.npy", "x.npy", "x.npy: "},
		{"none.json", "x.npy", "large.npy", "large.npy: "},
		{"missing.json", "x.npy", "", "missing.json: transform 0, GaussianNoiseTransform: noise: "},
		{"nan.json", "x.npy", "", "nan.npy: found NaN at [0 1 1 1]"},
		{"shape.json", "x.npy", "", "noise: flat.npy: found shape [4 6], expected 1 channels of [2 3 4]"},
		{"nowhere.json", "x.npy", "", "nowhere.json"},
	} {
		config := AugmentApplyConfig{Spec: at(c.spec), Data: at(c.data), Output: at("out.npz")}
		if c.seg != "" {
			config.Seg = at(c.seg)
		}
		err := AugmentApply(context.Background(), config, Output{})
		require.ErrorContains(t, err, c.want)
		if config.On, config.DeviceName = "device", "cpu"; torch.Load() == nil {
			require.EqualError(t, AugmentApply(context.Background(), config, Output{}), err.Error())
		}
		var usage *settings.UsageError
		require.NotErrorAs(t, err, &usage)
		require.NoFileExists(t, at("out.npz"))
	}
	var log bytes.Buffer
	err = AugmentApply(context.Background(), AugmentApplyConfig{Spec: at("none.json"), Data: at("x.npy"), Output: at("out.npz"),
		On: "device", DeviceName: "gpu"}, Output{})
	require.ErrorContains(t, err, `-device: torch: device "gpu": expected cpu, cuda or cuda:N`)
	var usage *settings.UsageError
	require.ErrorAs(t, err, &usage)
	require.NoError(t, AugmentApply(context.Background(), AugmentApplyConfig{Spec: at("noise.json"), Data: at("double.npy"), Seg: at("seg.npy"),
		Output: at("out.npz")}, Output{Log: &log}))
	require.Contains(t, log.String(), "double.npy: converted from <f8 to float32")
}

func sampled(t *testing.T, c AugmentSampleConfig) []string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, AugmentSample(context.Background(), c, &out, Output{}))
	return strings.SplitAfter(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func TestAnySampleIsDrawnByItself(t *testing.T) {
	c := AugmentSampleConfig{AugmentConfig: AugmentConfig{PatchSize: []int{8, 16, 16}, Channels: 2}, Seed: 5, N: 7, BatchSize: 3}
	all := sampled(t, c)
	require.Len(t, all, 7)
	c.N, c.Start = 2, 4
	require.Equal(t, strings.Join(all[4:6], ""), strings.Join(sampled(t, c), "")+"\n")
	require.True(t, strings.HasPrefix(all[4], `{"iteration":1,"sample":1,"patch_size":[8,16,16],"initial_patch_size":[17,25,21],"transforms":[{"transform":"SpatialTransform",`), all[4])
	c.Output = filepath.Join(t.TempDir(), "drawn.jsonl")
	require.Equal(t, []string{""}, sampled(t, c))
	text, err := os.ReadFile(c.Output)
	require.NoError(t, err)
	require.Equal(t, strings.Join(all[4:6], ""), string(text))
	c.Output, c.Seed = "", 6
	require.NotEqual(t, all[4], sampled(t, c)[0]+"\n")
}

func TestAugmentPipelineFollowsThePlans(t *testing.T) {
	folder := filepath.Join(golden.Root(t), "testdata/phantom-mini/preprocessed/Dataset102_PhantomTarget")
	c := AugmentConfig{Plans: filepath.Join(folder, "nnUNetPlansSource.json"), Configuration: "3d_phantom", Trainer: "nnUNetTrainer_onlyMirror01"}
	l, err := AugmentPipeline(c, Output{})
	require.NoError(t, err)
	require.Equal(t, []int{0, 1}, l.MirrorAxes)
	require.Equal(t, "DownsampleSegForDSTransform", l.Transforms[len(l.Transforms)-1].Name())

	// edited, it comes back as a file
	text, err := json.Marshal(l)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "list.json")
	require.NoError(t, os.WriteFile(path, bytes.Replace(text, []byte(`"p_rotation":0.2`), []byte(`"p_rotation":0.7`), 1), 0o666))
	c.Augmentation, c.MirrorAxes = path, "none"
	edited, err := AugmentPipeline(c, Output{})
	require.NoError(t, err)
	require.Nil(t, edited.MirrorAxes)
	again, err := json.Marshal(edited)
	require.NoError(t, err)
	require.Contains(t, string(again), `"p_rotation":0.7`)

	require.NoError(t, os.WriteFile(path, bytes.Replace(text, []byte(`"p_rotation"`), []byte(`"p_rotaton"`), 1), 0o666))
	_, err = AugmentPipeline(c, Output{})
	require.ErrorContains(t, err, path+`: transform`)
	require.ErrorContains(t, err, `SpatialTransform: unknown key "p_rotaton"; did you mean "p_rotation"?`)
}

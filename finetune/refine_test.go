package finetune_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/finetune"
)

func TestRefineAddsAndRemoves(t *testing.T) {
	for _, c := range []struct {
		r      finetune.Refine
		name   string
		method bool
		want   bool
	}{
		{finetune.Refine{}, "a.weight", true, true},
		{finetune.Refine{}, "a.weight", false, false},
		{finetune.Refine{Train: []string{"a.*"}}, "a.b.c.weight", false, true},
		{finetune.Refine{Train: []string{"a.*"}}, "b.a.weight", false, false},
		{finetune.Refine{Freeze: []string{"*norm*"}}, "a.norm.weight", true, false},
		{finetune.Refine{Train: []string{"a.*"}, Freeze: []string{"*.bias"}}, "a.bias", false,
			false},
		{finetune.Refine{Train: []string{"x", "stages.[01].*"}}, "stages.1.weight", false, true},
		{finetune.Refine{Train: []string{"stages.?.weight"}}, "stages.12.weight", false, false},
	} {
		require.Equal(t, c.want, c.r.Apply(c.name, c.method), "%+v", c)
	}
}

func TestRefinePatternsMustMatch(t *testing.T) {
	names := []string{"encoder.a.weight", "decoder.b.bias", "c"}
	require.NoError(t, finetune.Refine{Train: []string{"enc*", "?"},
		Freeze: []string{"*"}}.Check(names))
	require.EqualError(t, finetune.Refine{Freeze: []string{"*", "encodr.*"}}.Check(names),
		`finetune: --freeze "encodr.*" matches none of the 3 parameters, which have names such as encoder.a.weight, decoder.b.bias (`+"`lntorch inspect` lists those of a checkpoint)")
	require.ErrorContains(t, finetune.Refine{Train: []string{"a[b"}}.Check(names),
		`--train "a[b" is not a valid pattern`)
}

func TestGroupsOfLayers(t *testing.T) {
	for name, want := range map[string]string{
		"encoder.stages.0.0.convs.0.conv.weight":   "encoder.stages.0",
		"encoder.stages.12.blocks.1.conv1.norm.w":  "encoder.stages.12",
		"encoder.stem.convs.0.conv.weight":         "encoder.stem.convs",
		"decoder.seg_layers.1.weight":              "decoder.seg_layers.1",
		"swinViT.layers1.0.blocks.0.norm1.weight":  "swinViT.layers1",
		"swinViT.patch_embed.proj.weight":          "swinViT.patch_embed.proj",
		"out.conv.conv.weight":                     "out.conv.conv",
		"encoder1.layer.conv1.conv.weight":         "encoder1",
		"swinViT.layers1c.0.layer.conv1.conv.bias": "swinViT.layers1c",
		"weight": "weight",
		"a.w1":   "a",
	} {
		require.Equal(t, want, finetune.Group(name))
	}
}

package models_test

import (
	"testing"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/models"
	"github.com/stretchr/testify/require"
)

// The names of nnU-Net's state dicts: every alias leads to the first name that stands for the same storage.
func TestCanonicalFindsTheFirstName(t *testing.T) {
	for _, path := range []string{"network/plain-nonlinfirst", "network/plain-dropout", "network/resenc-bottleneck", "network/plain-3d"} {
		var doc struct {
			StateDict [][4]any `json:"state_dict"`
		}
		golden.LoadJSON(t, path+".json", &doc)
		require.NotEmpty(t, doc.StateDict)
		first := map[any]string{}
		for _, row := range doc.StateDict {
			name := row[0].(string)
			if first[row[3]] == "" {
				first[row[3]] = name
			}
			require.Equal(t, first[row[3]], models.Canonical(name))
		}
	}
	for _, name := range []string{"out.conv.conv.weight", "swinViT.layers1.0.blocks.0.attn.qkv.weight", "x.all_modules.0", "decoder.stages.0.convs.0.conv.weight"} {
		require.Equal(t, name, models.Canonical(name))
	}
}

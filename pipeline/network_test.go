package pipeline

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
)

func repo(t *testing.T, path string) string {
	t.Helper()
	return filepath.Join(golden.Root(t), path)
}

// stateDict reads testdata/state-dicts: names, shapes and storages of a network of the reference. With copies, aliases
// have memory of their own, as in files of programs that know no sharing.
func stateDict(t *testing.T, name string, copies bool) (weights []checkpoint.Weight, constructor map[string]any, parameters int64, class string) {
	t.Helper()
	text, err := os.ReadFile(repo(t, "testdata/state-dicts/"+name+".json"))
	require.NoError(t, err)
	var doc struct {
		Class       string         `json:"network_class"`
		Constructor map[string]any `json:"constructor"`
		Counts      struct{ Parameters int64 }
		StateDict   [][4]any `json:"state_dict"`
	}
	require.NoError(t, json.Unmarshal(text, &doc))
	storages := map[any]*pth.Storage{}
	for i, row := range doc.StateDict {
		key := row[3]
		if copies {
			key = i
		}
		dtype := map[string]pth.DType{"float32": pth.Float32, "int64": pth.Int64}[row[2].(string)]
		if storages[key] == nil {
			storages[key] = &pth.Storage{DType: dtype}
		}
		w := checkpoint.Weight{Name: row[0].(string), Tensor: &pth.Tensor{Storage: storages[key], DType: dtype}}
		for _, n := range row[1].([]any) {
			w.Size = append(w.Size, int64(n.(float64)))
		}
		weights = append(weights, w)
	}
	return weights, doc.Constructor, doc.Counts.Parameters, doc.Class[strings.LastIndexByte(doc.Class, '.')+1:]
}

// The constructor's arguments and the number of parameters come out of names and shapes alone.
func TestNetworksAreRecognisedByTheirTensors(t *testing.T) {
	for _, name := range []string{"plainconvunet", "resencm", "tiny-plainconvunet-aniso", "tiny-resenc-basic", "tiny-resenc-bottleneck"} {
		for _, copies := range []bool{false, true} {
			weights, want, parameters, class := stateDict(t, name, copies)
			n := recogniseNetwork(weights)
			require.Equal(t, class, n.Class, name)
			require.Equal(t, parameters, n.Parameters, "%s, copies %v", name, copies)
			a := n.Architecture.Arguments()
			for _, key := range []string{"n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage",
				"n_conv_per_stage_decoder", "conv_bias", "bottleneck_channels", "stem_channels"} {
				if want[key] != nil {
					require.Equal(t, fmt.Sprint(want[key]), fmt.Sprint(a[key]), "%s: %s", name, key)
				}
			}
			require.Equal(t, fmt.Sprint(want["input_channels"], want["num_classes"]), fmt.Sprint(n.Channels, n.Classes), name)
			if class == "ResidualEncoderUNet" {
				require.Equal(t, want["bottleneck_channels"] != nil, a["block"] == "BottleneckD", name)
			}
		}
	}
	for name, class := range map[string]string{"swinunetr": "SwinUNETR", "swinunetrv2": "SwinUNETRv2", "tiny-swinunetr": "SwinUNETR"} {
		weights, want, parameters, _ := stateDict(t, name, false)
		n := recogniseNetwork(weights)
		require.Equal(t, class, n.Class)
		require.Equal(t, parameters, n.Parameters, "%s: index buffers are no parameters", name)
		require.Equal(t, fmt.Sprint(want["in_channels"], want["out_channels"]), fmt.Sprint(n.Channels, n.Classes))
	}
}

func TestHalfANetworkIsNotRecognised(t *testing.T) {
	weights, _, _, _ := stateDict(t, "tiny-plainconvunet-aniso", false)
	var encoder []checkpoint.Weight
	for _, w := range weights {
		if strings.HasPrefix(w.Name, "encoder.") {
			encoder = append(encoder, w)
		}
	}
	n := recogniseNetwork(encoder)
	require.Equal(t, notRecognised, n.Class)
	require.Nil(t, n.Architecture)
	require.Equal(t, notRecognised, recogniseNetwork(nil).Class)
}

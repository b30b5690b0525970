package train_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/train"
	"github.com/stretchr/testify/require"
)

// Every method takes steps on the networks that plans do not describe: what its rule names moves, every other bit stays.
// (TestTenStepsOfEveryMethod has the others.)
func TestEveryMethodStepsEverySwin(t *testing.T) {
	batches := t.TempDir()
	for i := range 2 {
		data, err := npz.New(torchtest.Fill(uint64(i), 1<<16), 1, 1, 32, 32, 64)
		require.NoError(t, err)
		target, err := npz.New(make([]int16, 1<<16), 1, 1, 32, 32, 64)
		require.NoError(t, err)
		for name, a := range map[string]*npz.Array{"data": data, "target_0": target} {
			file, err := os.Create(filepath.Join(batches, fmt.Sprintf("batch_%02d_%s.npy", i, name)))
			require.NoError(t, err)
			require.NoError(t, npz.WriteNpy(file, a))
			require.NoError(t, file.Close())
		}
	}
	for _, trainer := range []string{"nnUNetTrainer_SwinUNETR", "nnUNetTrainer_SwinUNETRv2"} {
		for _, entry := range finetune.Entries() {
			t.Run(trainer+"/"+entry.Name, func(t *testing.T) {
				torchtest.NoLeak(t)
				values := map[string]finetune.Values{"lora": {"lora-rank": "2", "lora-targets": "conv,qkv"}, "dgst": {"dgst-mode": "strict"}}[entry.Name]
				start, out := swinWeights(t, trainer, 3, 1, 2), t.TempDir()
				f, err := checkpoint.Open(mini(t, sourceModel+"/fold_0/checkpoint_final.pth"))
				require.NoError(t, err)
				defer f.Close()
				m, _ := makeMethod(t, entry.Name, values)
				require.NoError(t, train.Trace(context.Background(), train.TraceConfig{Checkpoint: start, Plans: f.Plans, Dataset: f.Dataset,
					Configuration: f.Configuration, Batches: batches, Output: out, MethodName: entry.Name, Method: m, TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: 0.01, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2}}))
				begin, end := bits(t, start), bits(t, filepath.Join(out, "final.pth"))
				require.Len(t, end, len(begin))
				rule, _ := makeMethod(t, entry.Name, values)
				moved, stayed := 0, 0
				for name, was := range begin {
					trains := rule.Trains(name, was.shape)
					if layer := strings.TrimSuffix(name, ".weight"); entry.Name == "lora" && !strings.Contains(layer, "transp_conv") {
						trains = trains || strings.HasSuffix(layer, ".conv") || strings.HasSuffix(layer, ".qkv") // adapters, merged
					}
					switch same := bytes.Equal(was.data, end[name].data); {
					case !trains:
						require.True(t, same, "%s is frozen", name)
					case same:
						stayed++
					default:
						moved++
					}
				}
				require.Positive(t, moved)
				require.LessOrEqual(t, stayed, moved/4, "%d moved", moved)
			})
		}
	}
}

type tensorBits struct {
	shape []int64
	data  []byte
}

func bits(t *testing.T, path string) map[string]tensorBits {
	t.Helper()
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	all := map[string]tensorBits{}
	for _, w := range f.Weights {
		b := make([]byte, w.Bytes())
		require.NoError(t, w.ReadInto(b))
		all[w.Name] = tensorBits{w.Size, b}
	}
	return all
}

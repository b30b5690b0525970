package train_test

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/train"
)

// relabel replaces text in the training's dataset.json.
func relabel(t *testing.T, c train.Config, old, now string) {
	t.Helper()
	path := filepath.Join(c.Preprocessed, "dataset.json")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(b), old)
	write(t, path, strings.Replace(string(b), old, now, 1))
}

// still trains so little that no bit of a pretrained weight changes, and gives weights and log.
func still(t *testing.T, c train.Config) (weights map[string][]float32, log string) {
	t.Helper()
	var b strings.Builder
	c.LR, c.WeightDecay, c.Echo = 1e-30, 0, &b
	return readWeights(t, run(t, c).Checkpoint), b.String()
}

func paper(t *testing.T) train.Config {
	return tiny{}.config(t, "plain", "dgst", finetune.Values{"dgst-mode": "paper"})
}

// The classes of testdata/golden/loader/plain are background, a, b, c.
func TestExtendedHeadsKeepTheKnownClasses(t *testing.T) {
	source := run(t, tiny{}.config(t, "plain", "full", nil))
	want := readWeights(t, source.Checkpoint)
	heads := []string{"decoder.seg_layers.0", "decoder.seg_layers.1"}
	for name, c := range map[string]struct {
		labels string
		from   []int
		says   []string
	}{
		"one more, by name": {`"a": 1, "b": 2, "c": 3, "d": 4`, []int{0, 1, 2, 3, -1},
			[]string{"class 1 (a): the checkpoint's 1, by name", "class 4 (d): reinitialised"}},
		"another order and one less": {`"c": 1, "new": 2, "a": 3`, []int{0, 3, -1, 1},
			[]string{"class 1 (c): the checkpoint's 3, by name", "class 2 (new): reinitialised", "class 3 (a): the checkpoint's 1, by name", "the checkpoint's class 2 (b) is dropped"}},
		"other names, by number": {`"x": 1, "y": 2, "z": 3, "w": 4, "v": 5`, []int{0, 1, 2, 3, -1, -1},
			[]string{"class 3 (z): the checkpoint's 3, by number", "class 5 (v): reinitialised"}},
	} {
		t.Run(name, func(t *testing.T) {
			torchtest.NoLeak(t)
			c2 := paper(t)
			relabel(t, c2, "\"a\": 1,\n        \"b\": 2,\n        \"c\": 3", c.labels)
			c2.Pretrained, c2.Head = source.Checkpoint, train.HeadExtend
			got, log := still(t, c2)
			fresh := c2
			fresh.Method, _ = makeMethod(t, "dgst", finetune.Values{"dgst-mode": "paper"})
			fresh.Head = train.HeadReset
			anew, _ := still(t, fresh)
			for _, head := range heads {
				for _, part := range []string{".weight", ".bias"} {
					w, g := want[head+part], got[head+part]
					size := len(w) / 4
					require.Len(t, g, size*len(c.from))
					for to, from := range c.from {
						row := g[to*size : (to+1)*size]
						if from >= 0 {
							golden.Equal(t, head+part, nil, w[from*size:(from+1)*size], row)
							continue
						}
						for i, v := range anew[head+part][to*size : (to+1)*size] { // biases begin at 0, which the smallest step moves
							require.InDelta(t, v, row[i], 1e-20, "as a reset head with the same seed")
							require.Equal(t, part == ".bias", math.Abs(float64(v)) < 1e-20)
						}
					}
				}
			}
			for name, w := range want {
				if !strings.Contains(name, "seg_layers") {
					golden.Equal(t, name, nil, w, got[name])
				}
			}
			for _, line := range c.says {
				require.Equal(t, 1, strings.Count(log, line), "%s\n%s", line, log)
			}
			require.Contains(t, log, "4 adapted")
		})
	}
}

// Labels and regions do not mean the same logits: nothing of the head is kept.
func TestHeadsOfRegionsDoNotExtendHeadsOfLabels(t *testing.T) {
	torchtest.NoLeak(t)
	source := run(t, tiny{}.config(t, "plain", "full", nil))
	c := tiny{}.config(t, "regions", "dgst", finetune.Values{"dgst-mode": "paper"})
	c.Pretrained, c.Head, c.Channels = source.Checkpoint, train.HeadExtend, train.ChannelsExtend
	got, log := still(t, c)
	require.Contains(t, log, "segmentation heads are reinitialised")
	want := readWeights(t, source.Checkpoint)
	require.NotEqual(t, want["decoder.seg_layers.1.weight"][:8], got["decoder.seg_layers.1.weight"][:8])
	golden.Equal(t, "stage", nil, want["decoder.stages.0.convs.0.conv.weight"], got["decoder.stages.0.convs.0.conv.weight"])
	// Three channels of one name and one of it: by number.
	require.Contains(t, log, "encoder.stages.0.0.convs.0.conv.weight, channel 0 (x): the checkpoint's 0, by number")
}

// Channels that the checkpoint does not know start at 0, so that they change nothing at first.
func TestExtendedChannels(t *testing.T) {
	torchtest.NoLeak(t)
	const first = "encoder.stages.0.0.convs.0.conv.weight"
	source := run(t, tiny{}.config(t, "regions", "full", nil)) // one channel
	want := readWeights(t, source.Checkpoint)
	c := paper(t) // three
	relabel(t, c, "\"0\": \"x\",\n        \"1\": \"x\",", "\"0\": \"PET\",\n        \"1\": \"MR\",")
	c.Pretrained = source.Checkpoint
	_, err := train.Run(context.Background(), c)
	require.ErrorContains(t, err, first+"  file [4 1 1 3 3], network [4 3 1 3 3]")
	require.ErrorContains(t, err, "the checkpoint's images have the channels x, these PET, MR, x: --channels extend takes the known ones along")

	c.Method, _ = makeMethod(t, "dgst", finetune.Values{"dgst-mode": "paper"})
	c.Channels = train.ChannelsExtend
	// The 0 of a new channel moves with the smallest rate; the first step of its neighbours does not show.
	got, log := still(t, c)
	require.Contains(t, log, first+", channel 2 (x): the checkpoint's 0, by name")
	require.Contains(t, log, first+", channel 0 (PET): starts at 0")
	for out := range 4 {
		for in := range 3 {
			kernel := got[first][(out*3+in)*9 : (out*3+in+1)*9]
			if in == 2 {
				golden.Equal(t, first, nil, want[first][out*9:(out+1)*9], kernel)
				continue
			}
			for _, v := range kernel {
				require.InDelta(t, 0, v, 1e-20)
			}
		}
	}
}

func TestDecisionsAreTold(t *testing.T) {
	torchtest.NoLeak(t)
	source := run(t, tiny{}.config(t, "plain", "full", nil))
	for head, want := range map[train.Head]string{
		"":               "segmentation heads by nnU-Net's rule: seg_layers are reinitialised",
		train.HeadReset:  "segmentation heads are reinitialised (--head reset)",
		train.HeadKeep:   "segmentation heads are kept (--head keep)",
		train.HeadExtend: "segmentation heads, class 3 (c): the checkpoint's 3, by name",
	} {
		c := paper(t)
		c.Pretrained, c.Head = source.Checkpoint, head
		_, log := still(t, c)
		require.Contains(t, log, want)
	}
	// A head that is reinitialised and does not train is worth a warning.
	c := paper(t)
	c.Pretrained, c.Refine = source.Checkpoint, finetune.Refine{Freeze: []string{"*seg_layers*"}}
	_, log := still(t, c)
	require.Contains(t, log, "WARNING: decoder.seg_layers.1.weight is reinitialised and method dgst does not train it")
	c = paper(t)
	c.Head = "half"
	_, err := train.Run(context.Background(), c)
	require.ErrorContains(t, err, `--head "half": expected nnunet, reset, keep or extend`)
	c.Head, c.Channels = "", "some"
	_, err = train.Run(context.Background(), c)
	require.ErrorContains(t, err, `--channels "some": expected keep or extend`)
}

package train_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/dgst"
	"github.com/lntorch/lntorch/finetune"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/lntorch/lntorch/train"
)

// oracleRun is what dgst.py records of four steps on phantom-mini.
type oracleRun struct {
	Now   []int64 `json:"sparse_entries"`
	Ever  []int64 `json:"sparse_entries_ever"`
	Final map[string]struct {
		At     []int
		Values []float32
	}
	SHA256 map[string]string `json:"final_sha256"`
}

// maskUnion reads mask.npz: entries that any step selected, by parameter, and checks that each row of each step has
// exactly k of them.
func maskUnion(t *testing.T, path string, k, steps int) map[string][]bool {
	t.Helper()
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	union, seen := map[string][]bool{}, map[string]int{}
	for _, key := range f.Names() {
		a, err := f.Read(key)
		require.NoError(t, err)
		mask, err := a.Bools()
		require.NoError(t, err)
		name := key[strings.Index(key, "/")+1:]
		require.GreaterOrEqual(t, len(a.Shape), 4, "%s is no convolution", name)
		if union[name] == nil {
			union[name] = make([]bool, len(mask))
		}
		seen[name]++
		width := len(mask) / a.Shape[0]
		for row := range a.Shape[0] {
			n := 0
			for i := row * width; i < (row+1)*width; i++ {
				if mask[i] {
					n++
					union[name][i] = true
				}
			}
			require.Equal(t, min(k, width), n, "%s: row %d", key, row)
		}
	}
	for name, n := range seen {
		require.Equal(t, steps, n, name)
	}
	return union
}

// What a mode moves, by the bits before and after four steps.
func TestDGSTMovesWhatItsModeSays(t *testing.T) {
	for _, c := range []struct{ mode, sel string }{{"gradmask", "dynamic"}, {"gradmask", "static"}, {"strict", "dynamic"}, {"strict", "static"},
		{"paper", "dynamic"}, {"paper", "static"}} {
		t.Run(c.mode+"-"+c.sel, func(t *testing.T) {
			torchtest.NoLeak(t)
			path := mini(t, sourceModel+"/fold_0/checkpoint_final.pth")
			f, err := checkpoint.Open(path)
			require.NoError(t, err)
			defer f.Close()
			m, entry := makeMethod(t, "dgst", finetune.Values{"dgst-mode": c.mode, "dgst-select": c.sel})
			out := t.TempDir()
			require.NoError(t, train.Trace(context.Background(), train.TraceConfig{
				Checkpoint: path, Plans: f.Plans, Dataset: f.Dataset, Configuration: f.Configuration, Batches: mini(t, "trajectory"), Output: out,
				MethodName: "dgst", Method: m, TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: entry.LR, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2, Numerics: machine.Reference},
			}))
			var want oracleRun
			golden.LoadJSON(t, "dgst/"+c.mode+"-"+c.sel+".json", &want)
			steps := map[string]int{"dynamic": len(want.Now), "static": 1}[c.sel]
			union := maskUnion(t, filepath.Join(out, "mask.npz"), 2, steps)
			now, ever := m.(finetune.Counter).Counts()
			require.Equal(t, want.Now[3], now)
			if sameMachine(t) {
				require.Equal(t, want.Ever[3], ever)
			}
			selected := int64(0)
			for _, mask := range union {
				for _, on := range mask {
					if on {
						selected++
					}
				}
			}
			require.Equal(t, selected, ever, "entries in any mask")

			before, after := readWeights(t, path), readWeights(t, filepath.Join(out, "final.pth"))
			for name, w := range before {
				if want.Final[name].At == nil { // an alias
					continue
				}
				moved, drifted := 0, 0
				mask := union[name]
				for i := range w {
					if w[i] == after[name][i] {
						continue
					}
					moved++
					if mask != nil && !mask[i] {
						drifted++
					}
				}
				switch {
				case strings.HasPrefix(name, "decoder.seg_layers.0."): // no gradient
					require.Zero(t, moved, name)
				case dgst.Classify(name, make([]int64, 5)) == dgst.Dense:
					require.Nil(t, mask, name)
					require.Positive(t, moved, name)
				case c.mode == "gradmask":
					// Weight decay moves every entry that is large enough for a float32 to show it.
					require.Greater(t, drifted, len(w)/4, "%s: entries outside the mask drift", name)
				default:
					require.Zero(t, drifted, "%s: outside the mask nothing moves", name)
					require.Positive(t, moved, name)
				}
			}
			for name, sample := range want.Final {
				var got []float32
				for _, i := range sample.At {
					got = append(got, after[name][i])
				}
				golden.Close(t, name, "trajectory-weight", nil, sample.Values, got)
				if sameMachine(t) {
					require.Equal(t, want.SHA256[name], digest(after[name]), "%s: every bit", name)
				}
			}
		})
	}
}

func digest(v []float32) string {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// The released file's masks are empty: it is full fine-tuning at its learning rate, bit for bit.
func TestReleasedDGSTIsFullFineTuning(t *testing.T) {
	torchtest.NoLeak(t)
	path := mini(t, sourceModel+"/fold_0/checkpoint_final.pth")
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	var runs []map[string][]float32
	for _, name := range []string{"dgst", "full"} {
		values := finetune.Values{}
		if name == "dgst" {
			values["dgst-mode"] = "released"
		}
		m, _ := makeMethod(t, name, values)
		out := t.TempDir()
		require.NoError(t, train.Trace(context.Background(), train.TraceConfig{
			Checkpoint: path, Plans: f.Plans, Dataset: f.Dataset, Configuration: f.Configuration, Batches: mini(t, "trajectory"), Output: out,
			MethodName: name, Method: m, TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: 1e-3, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2},
		}))
		runs = append(runs, readWeights(t, filepath.Join(out, "final.pth")))
	}
	require.Len(t, runs[0], 188)
	for name, w := range runs[0] {
		golden.Equal(t, name, nil, runs[1][name], w)
	}
}

// trainSpec is a network spec of scripts/golden with labels.
type trainSpec struct {
	Architecture      json.RawMessage
	InputChannels     int             `json:"input_channels"`
	NumClasses        int             `json:"num_classes"`
	Labels            json.RawMessage `json:"labels"`
	RegionsClassOrder []int           `json:"regions_class_order"`
	BatchDice         bool            `json:"batch_dice"`
}

// documents are plans.json and dataset.json that say what the spec says.
func (s trainSpec) documents(t *testing.T) (*plans.Plans, *plans.Dataset) {
	t.Helper()
	axes := "1, 1, 1"
	if strings.Contains(string(s.Architecture), "Conv2d") {
		axes = "1, 1"
	}
	parse := func(text string) *plans.Object {
		v, err := plans.DecodeJSON([]byte(text))
		require.NoError(t, err)
		return v.(*plans.Object)
	}
	schemes, channels := []string{}, map[string]string{}
	for i := range s.InputChannels {
		schemes, channels[fmt.Sprint(i)] = append(schemes, "CTNormalization"), "CT"
	}
	p, err := plans.FromObject(parse(fmt.Sprintf(`{"configurations": {"c": {"data_identifier": "d", "batch_size": 2, "patch_size": [%s], "spacing": [%s],
		"normalization_schemes": %s, "batch_dice": %v, "architecture": %s}}}`, axes, axes, text(t, schemes), s.BatchDice, s.Architecture)), "test")
	require.NoError(t, err)
	order := ""
	if s.RegionsClassOrder != nil {
		order = fmt.Sprintf(`"regions_class_order": %s,`, text(t, s.RegionsClassOrder))
	}
	d, err := plans.DatasetFromObject(parse(fmt.Sprintf(`{"channel_names": %s, "labels": %s, %s "numTraining": 1, "file_ending": ".nii.gz"}`,
		text(t, channels), s.Labels, order)), "test")
	require.NoError(t, err)
	return p, d
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// Networks that phantom-mini is not: 2d, several classes, regions, an ignore label, residual blocks. Bit for bit.
func TestLiveDGSTOfOtherNetworksHasPythonsBits(t *testing.T) {
	for _, c := range []struct{ spec, mode, sel string }{
		{"resenc-2d", "strict", "dynamic"}, {"multi-ignore", "paper", "dynamic"}, {"regions-ignore", "strict", "static"}, {"resenc-3d", "gradmask", "static"},
	} {
		t.Run(strings.Join([]string{c.spec, c.mode, c.sel}, "-"), func(t *testing.T) {
			golden.Python(t)
			torchtest.NoLeak(t)
			var file struct{ Spec json.RawMessage }
			golden.LoadJSON(t, "train/"+c.spec+".json", &file)
			var spec trainSpec
			require.NoError(t, json.Unmarshal(file.Spec, &spec))
			p, d := spec.documents(t)
			dir := t.TempDir()
			write(t, filepath.Join(dir, "spec.json"), string(file.Spec))
			start := filepath.Join(dir, "start.pth")
			require.NoError(t, torch.With(func(s *torch.Scope) error {
				conf, err := p.Configuration("c")
				require.NoError(t, err)
				a, err := models.Parse(conf)
				require.NoError(t, err)
				n, err := models.Build(nn.Builder{Scope: s, Device: torch.CPU}, models.Spec{Architecture: a, InputChannels: spec.InputChannels, NumClasses: spec.NumClasses})
				require.NoError(t, err)
				gen, err := torch.NewGenerator(torch.CPU, 11)
				require.NoError(t, err)
				defer gen.Close()
				require.NoError(t, n.Module().Reset(gen, nil))
				return checkpoint.SaveWeights(start, n.Module())
			}))
			theirs, ours, batches := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours"), filepath.Join(dir, "batches")
			golden.Run(t, "dgst.py", "--out", theirs, "--spec", filepath.Join(dir, "spec.json"), "--weights", start, "--make-batches", "3", "--batches-out", batches,
				"--mode", c.mode, "--select", c.sel, "--k", "3", "--lr", "0.01", "--threads", "2", "--deterministic")
			m, _ := makeMethod(t, "dgst", finetune.Values{"dgst-mode": c.mode, "dgst-select": c.sel, "dgst-k": "3"})
			require.NoError(t, train.Trace(context.Background(), train.TraceConfig{Checkpoint: start, Plans: p, Dataset: d, Configuration: "c", Batches: batches,
				Output: ours, MethodName: "dgst", Method: m, TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: 0.01, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2, Numerics: machine.Reference}}))
			require.Equal(t, readLosses(t, filepath.Join(theirs, "losses.json")), readLosses(t, filepath.Join(ours, "losses.json")))
			sameArrays(t, filepath.Join(theirs, "first_gradients.npz"), filepath.Join(ours, "first_gradients.npz"))
			sameArrays(t, filepath.Join(theirs, "mask.npz"), filepath.Join(ours, "mask.npz"))
			want, got := readWeights(t, filepath.Join(theirs, "final.pth")), readWeights(t, filepath.Join(ours, "final.pth"))
			require.Len(t, got, len(want))
			for name, w := range want {
				golden.Equal(t, name, nil, w, got[name])
			}
		})
	}
}

func TestTraceRefusesBatchesThatDoNotFit(t *testing.T) {
	torchtest.NoLeak(t)
	path := mini(t, sourceModel+"/fold_0/checkpoint_final.pth")
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	array := func(t *testing.T, dir, name string, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		a, err := npz.New(make([]int16, n), shape...)
		require.NoError(t, err)
		file, err := os.Create(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, npz.WriteNpy(file, a))
		require.NoError(t, file.Close())
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  []string
	}{
		"two channels": {func(t *testing.T, dir string) { array(t, dir, "batch_00_data.npy", 2, 2, 16, 48, 48) },
			[]string{"step 0", "batch_00_data.npy", "[2 2 16 48 48]", "1 channels"}},
		"two axes":             {func(t *testing.T, dir string) { array(t, dir, "batch_00_data.npy", 2, 1, 48, 48) }, []string{"step 0", "batch_00_data.npy", "[2 1 48 48]", "3 spatial axes"}},
		"no patch of this net": {func(t *testing.T, dir string) { array(t, dir, "batch_00_data.npy", 2, 1, 15, 48, 48) }, []string{"step 0", "15"}},
		"a level is missing": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "batch_00_target_2.npy")))
		}, []string{"batch_00_target_2.npy"}},
		"a level of wrong size": {func(t *testing.T, dir string) { array(t, dir, "batch_00_target_1.npy", 2, 1, 8, 8, 8) }, []string{"step 0", "[2 1 8 8 8]"}},
		"labels that are none":  {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "batch_00_target_0.npy"), "x") }, []string{"batch_00_target_0.npy"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"data", "target_0", "target_1", "target_2"} {
				b, err := os.ReadFile(mini(t, "trajectory/batch_00_"+name+".npy"))
				require.NoError(t, err)
				write(t, filepath.Join(dir, "batch_00_"+name+".npy"), string(b))
			}
			c.spoil(t, dir)
			m, _ := makeMethod(t, "full", nil)
			out := t.TempDir()
			err := train.Trace(context.Background(), train.TraceConfig{Checkpoint: path, Plans: f.Plans, Dataset: f.Dataset, Configuration: f.Configuration, Batches: dir, Output: out,
				MethodName: "full", Method: m, TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: 1e-3, WeightDecay: 3e-5, Momentum: 0.99}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2}})
			for _, w := range c.want {
				require.ErrorContains(t, err, w)
			}
			require.NoFileExists(t, filepath.Join(out, "final.pth"))
		})
	}
	m, _ := makeMethod(t, "full", nil)
	c := train.TraceConfig{Checkpoint: path, Plans: f.Plans, Dataset: f.Dataset, Configuration: f.Configuration, Batches: mini(t, "trajectory"), Output: t.TempDir(),
		MethodName: "full", Method: m, TraceSettings: train.TraceSettings{Optimizer: train.Optimizer{LR: 1e-3}}, Machine: machine.Machine{Device: torch.CPU, Threads: 2, AMP: machine.AMPFP16}}
	require.ErrorContains(t, train.Trace(context.Background(), c), "use bf16 or off")
	c.AMP = machine.AMPOff
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, train.Trace(ctx, c), context.Canceled)
	found, err := filepath.Glob(filepath.Join(c.Output, "*"))
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(found, func(s string) bool { return strings.HasSuffix(s, "final.pth") }))
}

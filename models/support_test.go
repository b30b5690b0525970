package models_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/data/plans"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/models"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/torch/nn"
	"github.com/stretchr/testify/require"
)

// threads is the thread count of the Python oracles; kernels split their sums by it.
const threads = 2

// spec is a network spec of scripts/golden/stack.py.
type spec struct {
	Name            string          `json:"name"`
	Architecture    json.RawMessage `json:"architecture,omitempty"`
	Swin            *swinSpec       `json:"swin,omitempty"`
	InputChannels   int             `json:"input_channels"`
	NumClasses      int             `json:"num_classes"`
	InputShape      []int64         `json:"input_shape"`
	DeepSupervision bool            `json:"deep_supervision"`
	Mode            string          `json:"mode"`
	Fast            bool            `json:"-"` // SetFast
	Device          torch.Device    `json:"-"` // the zero value is the CPU

	// For training.
	Labels            json.RawMessage `json:"labels,omitempty"`
	RegionsClassOrder []int           `json:"regions_class_order,omitempty"`
	BatchDice         bool            `json:"batch_dice"`
}

// numerics are the two numerics settings, by the value of SetFast.
var numerics = map[bool]string{false: "reference", true: "fast"}

// swinSpec replaces the architecture block for networks not described by plans.
type swinSpec struct {
	Class       string `json:"class"`
	FeatureSize int    `json:"feature_size"`
	Recompute   bool   `json:"use_checkpoint"`
}

// architecture of sp's network.
func (sp spec) architecture(t *testing.T) models.Architecture {
	t.Helper()
	if sp.Swin == nil {
		return architecture(t, string(sp.Architecture))
	}
	e, ok := models.ByTrainer("nnUNetTrainer_" + sp.Swin.Class)
	require.True(t, ok)
	a := e.Released(len(sp.InputShape) - 2).(*models.SwinUNETR)
	a.FeatureSize = sp.Swin.FeatureSize
	return a
}

// onTorch runs f in a scope on a locked thread with the oracle's thread count, and requires that no
// tensor leaks.
func onTorch(t *testing.T, f func(s *torch.Scope)) {
	t.Helper()
	torchtest.NoLeak(t)
	require.NoError(t, torch.OnThread(threads, func() error {
		return torch.With(func(s *torch.Scope) error {
			f(s)
			return s.Err()
		})
	}))
}

// architecture reads an architecture block as plans.json has it.
func architecture(t *testing.T, block string) models.Architecture {
	t.Helper()
	axes := "1, 1, 1"
	if strings.Contains(block, "Conv2d") {
		axes = "1, 1"
	}
	v, err := plans.DecodeJSON(fmt.Appendf(nil, `{"configurations": {"c": {"data_identifier": "d", "batch_size": 2,
		"patch_size": [%s], "spacing": [%s], "architecture": %s}}}`, axes, axes, block))
	require.NoError(t, err)
	p, err := plans.FromObject(v.(*plans.Object), "test")
	require.NoError(t, err)
	c, err := p.Configuration("c")
	require.NoError(t, err)
	a, err := models.Parse(c)
	require.NoError(t, err)
	return a
}

// build builds the network of sp in its mode, uninitialised.
func build(t *testing.T, s *torch.Scope, sp spec) models.Network {
	t.Helper()
	n, err := models.Build(nn.Builder{Scope: s, Device: sp.Device}, models.Spec{
		Architecture:  sp.architecture(t),
		InputChannels: sp.InputChannels, NumClasses: sp.NumClasses,
	})
	require.NoError(t, err)
	n.SetDeepSupervision(sp.DeepSupervision)
	n.SetTraining(sp.Mode != "eval")
	n.SetFast(sp.Fast)
	if sp.Swin != nil {
		n.(models.Recomputer).SetRecompute(sp.Swin.Recompute)
	}
	return n
}

func numel(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// hashTensor fills an input-like tensor: -1 is the network's input, -2-i the weight of head i in
// the oracle's loss.
func hashTensor(s *torch.Scope, p int, shape []int64) *torch.Tensor {
	return torch.FromSlice(s, golden.HashInput(p, shape), shape...)
}

// fill sets every parameter to its hash values.
func fill(t *testing.T, n models.Network) {
	t.Helper()
	for i, p := range n.Module().Parameters() {
		require.NoError(t, torch.CopyIn(p.T, golden.HashParameter(i, p.Name, p.Shape)))
	}
}

// load copies a state dict of a .pth file into n.
func load(t *testing.T, n models.Network, weights *pickle.OrderedDict) {
	t.Helper()
	for _, p := range n.Module().Parameters() {
		v, ok := weights.Get(p.Name)
		require.True(t, ok, p.Name)
		w := v.(*pth.Tensor)
		require.Equal(t, p.Shape, w.Size, p.Name)
		buf := make([]byte, 4*numel(p.Shape))
		require.NoError(t, w.ReadInto(buf))
		require.NoError(t, p.T.CopyBytesIn(buf))
	}
}

// openPth returns the root of a .pth file, which stays open until the test ends.
func openPth(t *testing.T, path string) any {
	t.Helper()
	f, err := pth.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f.Root
}

// arrays are the results of a run under the oracles' names.
type arrays map[string][]float32

func (a arrays) names() []string {
	var names []string
	for n := range a {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// gradients of every parameter that has one, under prefix and the parameter's name.
func gradients(t *testing.T, s *torch.Scope, n models.Network, prefix string) arrays {
	t.Helper()
	all := arrays{}
	for _, p := range n.Module().Parameters() {
		if p.T.HasGrad() {
			all[prefix+p.Name] = torchtest.Float32s(t, s.Grad(p.T))
		}
	}
	return all
}

// readNpz reads all of an oracle's arrays.
func readNpz(t *testing.T, path string) arrays {
	t.Helper()
	z, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer z.Close()
	all := arrays{}
	for _, name := range z.Names() {
		_, all[name] = golden.Float32s(t, z, name)
	}
	return all
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, v), path)
}

// toleranceOf returns the key of golden's tolerance table for an array of a run.
func toleranceOf(name string) string {
	for prefix, tolerance := range map[string]string{"initial/": "op",
		"rectified/": "gradient-rectified", "head_": "forward", "loss": "loss", "grad/": "gradient",
		"losses": "trajectory-loss", "norms": "trajectory-norm", "first/": "trajectory-gradient",
		"final/": "trajectory-weight"} {
		if strings.HasPrefix(name, prefix) && (prefix != "loss" || name == prefix) {
			return tolerance
		}
	}
	return ""
}

// requireClose requires the same names and sizes, and differences within golden's tolerances. It
// logs, for each tolerance, the array closest to the limit.
func requireClose(t *testing.T, want, got arrays) {
	t.Helper()
	require.Equal(t, want.names(), got.names())
	worst, where := map[string]golden.Difference{}, map[string]string{}
	for _, name := range want.names() {
		require.Len(t, got[name], len(want[name]), name)
		entry := toleranceOf(name)
		tol, ok := golden.Tolerances[entry]
		require.True(t, ok, "no tolerance for %s", name)
		if d := golden.Compare(nil, want[name], got[name], tol); where[entry] == "" ||
			!(d.Excess <= worst[entry].Excess) {
			worst[entry], where[entry] = d, name
		}
	}
	for entry, d := range worst {
		t.Logf("%s: %v; %.2g of tolerance %s", where[entry], d, d.Excess, entry)
		require.LessOrEqual(t, d.Excess, 1.0, "%s: %v", where[entry], d)
	}
}

// requireSameBits requires the same names, sizes and bits.
func requireSameBits(t *testing.T, want, got arrays) {
	t.Helper()
	require.Equal(t, want.names(), got.names())
	for _, name := range want.names() {
		golden.Equal(t, name, nil, want[name], got[name])
	}
}

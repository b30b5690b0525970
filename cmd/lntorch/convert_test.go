package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/internal/golden"
)

func TestConvertReplacesItsSourceOnlyWhenForced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.pth")
	changed(t, path, func(*pickle.Dict) {})
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	r := lntorch(t, "convert", path, "-o", path, "--strip-optimizer")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "c.pth exists already: give --force")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
	r = lntorch(t, "convert", path, "-o", path, "--strip-optimizer", "--force")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, path)
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.Len(t, f.Weights, 188)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(len(before))*6/10, "momentum was half of the file")
}

func TestConvertTakesTheWeightsOfOtherDictionaries(t *testing.T) {
	dir := t.TempDir()
	state, root := &pickle.OrderedDict{}, &pickle.Dict{}
	state.Set("w", tensor(t, []byte{1, 2, 3, 4}, 0, []int64{1}, nil))
	root.Set("epoch", int64(3))
	root.Set("state_dict", state)
	in, out := filepath.Join(dir, "in.pth"), filepath.Join(dir, "out.pth")
	require.NoError(t, pth.Save(in, root))
	require.Equal(t, 0, lntorch(t, "convert", in, "--weights-only", "-o", out).code)
	f, err := pth.Open(out)
	require.NoError(t, err)
	defer f.Close()
	require.IsType(t, state, f.Root)
	require.Equal(t, []any{"w"}, f.Root.(*pickle.OrderedDict).Keys())

	for _, c := range []struct{ flag, in, want string }{
		{"--weights-only", out, "neither network_weights nor state_dict"},
		{"--strip-optimizer", in, "no optimizer_state"},
		{"--weights-only", repo(t, "testdata/golden/pth/tensor.pth"), "no dictionary"},
	} {
		r := lntorch(t, "convert", c.in, c.flag, "-o", filepath.Join(dir, "x.pth"))
		require.Equal(t, 1, r.code)
		require.Contains(t, r.errOut, c.want)
		require.NoFileExists(t, filepath.Join(dir, "x.pth"))
	}
}

// The copy would have good checksums over bad data.
func TestConvertWarnsOfDamage(t *testing.T) {
	dir := t.TempDir()
	root := &pickle.Dict{}
	marker := bytes.Repeat([]byte("mark"), 64)
	root.Set("w", tensor(t, bytes.Clone(marker), 0, []int64{64}, nil))
	path := filepath.Join(dir, "damaged.pth")
	require.NoError(t, pth.Save(path, root))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	at := bytes.Index(b, marker)
	require.Positive(t, at)
	b[at+5] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
	r := lntorch(t, "convert", path, "-o", filepath.Join(dir, "out.pth"))
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "WARNING")
	require.Contains(t, r.errOut, "damaged.pth")
	require.Contains(t, r.errOut, "is damaged")
}

// Files of older and of other forms equal the original for Python, too: legacy containers, numpy values, views.
func TestLiveConvertKeepsEveryPythonType(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	for _, name := range []string{"values", "views", "values_legacy"} {
		in, out := repo(t, "testdata/golden/pth/"+name+".pth"), filepath.Join(dir, name+".pth")
		r := lntorch(t, "convert", in, "-o", out)
		require.Equal(t, 0, r.code, r.errOut)
		golden.Run(t, "nnunet_stack.py", "compare-pth", in, out)
	}
}

package delta_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/checkpoint"
	"github.com/lntorch/lntorch/delta"
	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/formats/pth"
	"github.com/lntorch/lntorch/formats/safetensors"
	"github.com/lntorch/lntorch/models"
)

func floats(v ...float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// base writes a state dict (a weight under three names, a bias and a head) and opens it.
func base(t *testing.T, head ...float32) *checkpoint.File {
	t.Helper()
	state := &pickle.OrderedDict{}
	w, err := checkpoint.NewFloat32([]float32{1, 2, 3, 4, 5, 6, 7, 8}, []int64{2, 4})
	require.NoError(t, err)
	b, err := checkpoint.NewFloat32([]float32{0, 0}, []int64{2})
	require.NoError(t, err)
	h, err := checkpoint.NewFloat32(head, []int64{int64(len(head))})
	require.NoError(t, err)
	state.Set("encoder.a.conv.weight", w)
	state.Set("encoder.a.norm.bias", b)
	state.Set("encoder.a.all_modules.0.weight", w)
	state.Set("decoder.encoder.a.all_modules.0.weight", w)
	state.Set("head", h)
	path := filepath.Join(t.TempDir(), "base.pth")
	require.NoError(t, pth.Save(path, state))
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func weight(name string, shape []int64, v ...float32) delta.Weight {
	return delta.Weight{Name: name, Shape: shape, Read: safetensors.Bytes(floats(v...))}
}

func values(t *testing.T, path, name string) (shape []int64, v []float32) {
	t.Helper()
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	for _, w := range f.Weights {
		if w.Name == name {
			b := make([]byte, w.Bytes())
			require.NoError(t, w.ReadInto(b))
			for i := 0; i < len(b); i += 4 {
				v = append(v, math.Float32frombits(binary.LittleEndian.Uint32(b[i:])))
			}
			return w.Size, v
		}
	}
	t.Fatalf("%s has no %s", path, name)
	return nil, nil
}

var negativeZero = float32(math.Copysign(0, -1))

func TestOnlyChangedEntriesAreKeptAndAppliedToEveryName(t *testing.T) {
	b := base(t, 9, 10)
	d, err := delta.Compare(b, []delta.Weight{
		weight("encoder.a.conv.weight", []int64{2, 4}, 1, 2, 3, -4, 5, 6, 7, 80),
		weight("encoder.a.norm.bias", []int64{2}, 0, 0),
		weight("head", []int64{3}, 1, 2, 3), // another number of classes
	})
	require.NoError(t, err)
	require.Equal(t, int64(13), d.Total)
	require.Equal(t, int64(5), d.Changed)
	require.Equal(t, int64(2*8+3*4), d.Bytes())
	require.Equal(t, int64(52), d.Plain())
	path := filepath.Join(t.TempDir(), "d.safetensors")
	require.NoError(t, d.Save(path, ""))

	s, err := safetensors.Open(path)
	require.NoError(t, err)
	defer s.Close()
	require.Len(t, s.Tensors, 3)
	require.Equal(t, []int64{2}, s.Tensor("encoder.a.conv.weight:index").Shape)
	require.Equal(t, []int64{3}, s.Tensor("head").Shape)

	f, err := delta.Open(path)
	require.NoError(t, err)
	defer f.Close()
	digest, err := b.Digest(models.Canonical)
	require.NoError(t, err)
	require.Equal(t, digest, f.Base)
	e := checkpoint.NewEdit(b, models.Canonical)
	require.NoError(t, f.Apply(b, e))
	out := filepath.Join(t.TempDir(), "out.pth")
	require.NoError(t, e.Save(out, ""))
	for _, name := range []string{"encoder.a.conv.weight", "encoder.a.all_modules.0.weight",
		"decoder.encoder.a.all_modules.0.weight"} {
		shape, v := values(t, out, name)
		require.Equal(t, []int64{2, 4}, shape)
		require.Equal(t, []float32{1, 2, 3, -4, 5, 6, 7, 80}, v, name)
	}
	shape, v := values(t, out, "head")
	require.Equal(t, []int64{3}, shape)
	require.Equal(t, []float32{1, 2, 3}, v)
}

// Bits are compared, not values: -0 differs from 0, and an unchanged NaN does not differ.
func TestBitsAreCompared(t *testing.T) {
	nan := float32(math.NaN())
	b := base(t, nan, 10, 11, 12)
	d, err := delta.Compare(b, []delta.Weight{weight("encoder.a.norm.bias", []int64{2}, 0,
		negativeZero), weight("head", []int64{4}, nan, 10, 11, 12)})
	require.NoError(t, err)
	require.Equal(t, int64(1), d.Changed)
}

func TestAnotherBaseIsRefused(t *testing.T) {
	b := base(t, 9, 10)
	d, err := delta.Compare(b, []delta.Weight{weight("head", []int64{2}, 9, 11)})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "d.safetensors")
	require.NoError(t, d.Save(path, ""))
	f, err := delta.Open(path)
	require.NoError(t, err)
	defer f.Close()
	other := base(t, 9, 12)
	err = f.Apply(other, checkpoint.NewEdit(other, models.Canonical))
	require.ErrorContains(t, err, "was not trained from "+other.Path)
	require.ErrorContains(t, err, "pass the checkpoint that the training run started from as --base")
	require.NoError(t, delta.CheckBase(other, "", path), "a file without a digest accepts any base")
	same := base(t, 9, 10)
	require.NoError(t, f.Apply(same, checkpoint.NewEdit(same, models.Canonical)))

	_, err = delta.Compare(b, []delta.Weight{weight("elsewhere", []int64{1}, 1)})
	require.ErrorContains(t, err, "has no weight elsewhere")
}

// The digest depends only on the weights, not on the file format, the order of names or the aliases
// listed.
func TestDigestIsOfTheWeights(t *testing.T) {
	b := base(t, 9, 10)
	want, err := b.Digest(models.Canonical)
	require.NoError(t, err)
	require.Len(t, want, 64)
	path := filepath.Join(t.TempDir(), "w.safetensors")
	require.NoError(t, checkpoint.SaveSafetensors(path,
		[]checkpoint.Weight{b.Weights[4], b.Weights[3], b.Weights[1]}, ""))
	f, err := checkpoint.Open(path)
	require.NoError(t, err)
	defer f.Close()
	got, err := f.Digest(models.Canonical)
	require.NoError(t, err)
	require.Equal(t, want, got)
	other, err := base(t, 9, 11).Digest(models.Canonical)
	require.NoError(t, err)
	require.NotEqual(t, want, other)
}

func TestDamagedDeltasAreRefused(t *testing.T) {
	b := base(t, 9, 10)
	digest, err := b.Digest(models.Canonical)
	require.NoError(t, err)
	meta := map[string]string{"format": "lntorch.delta", "version": "1", "base_sha256": digest}
	ints := func(v ...int32) func([]byte) error {
		var b []byte
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, uint32(x))
		}
		return safetensors.Bytes(b)
	}
	index := func(name string, v ...int32) safetensors.Entry {
		return safetensors.Entry{Name: name + ":index", DType: safetensors.Int32,
			Shape: []int64{int64(len(v))}, Read: ints(v...)}
	}
	value := func(name string, v ...float32) safetensors.Entry {
		return safetensors.Entry{Name: name + ":value", DType: safetensors.Float32,
			Shape: []int64{int64(len(v))}, Read: safetensors.Bytes(floats(v...))}
	}
	for message, entries := range map[string][]safetensors.Entry{
		"have no values of the same shape": {index("head", 0, 1), value("head", 1)},
		"its values have no indices":       {value("head", 1)},
		"is U8, expected F32": {{Name: "head", DType: safetensors.Uint8,
			Shape: []int64{0}, Read: safetensors.Bytes(nil)}},
		"index 2 after -1":               {index("head", 2), value("head", 1)},
		"index -1 after -1":              {index("head", -1), value("head", 1)},
		"index 1 after 1":                {index("head", 1, 1), value("head", 1, 2)},
		"the base has no float32 weight": {index("no", 0), value("no", 1)},
		"has no weight no: is it the right": {{Name: "no", DType: safetensors.Float32,
			Shape: []int64{0}, Read: safetensors.Bytes(nil)}},
	} {
		path := filepath.Join(t.TempDir(), "d.safetensors")
		require.NoError(t, safetensors.Save(path, entries, meta))
		f, err := delta.Open(path)
		if err == nil {
			err = f.Apply(b, checkpoint.NewEdit(b, models.Canonical))
			f.Close()
		}
		require.ErrorContains(t, err, message)
		require.ErrorContains(t, err, path)
	}
	path := filepath.Join(t.TempDir(), "d.safetensors")
	require.NoError(t, safetensors.Save(path, nil, map[string]string{"format": "pt"}))
	_, err = delta.Open(path)
	require.ErrorIs(t, err, delta.ErrNoDelta)
	meta["version"] = "2"
	require.NoError(t, safetensors.Save(path, nil, meta))
	_, err = delta.Open(path)
	require.ErrorContains(t, err, `its version is "2", expected 1`)
	require.NoError(t, os.Remove(path))
	_, err = delta.Open(path)
	require.ErrorContains(t, err, "no such file")
}

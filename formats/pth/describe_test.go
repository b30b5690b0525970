package pth

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/stretchr/testify/require"
)

// describer produces the same description of a value as scripts/golden/pth_corpus.py does in
// Python.
type describer struct {
	t        testing.TB
	seen     map[any]int
	storages map[*Storage]int
}

type object = map[string]any

func describe(t testing.TB, v any) string {
	d := &describer{t, map[any]int{}, map[*Storage]int{}}
	b, err := json.Marshal(d.describe(v))
	require.NoError(t, err)
	return string(b)
}

func (d *describer) describe(v any) any {
	switch id := v.(type) {
	case *pickle.List, *pickle.Dict, *pickle.OrderedDict, *pickle.DefaultDict, *Tensor,
		*pickle.NumpyArray:
		if n, ok := d.seen[id]; ok {
			return object{"ref": n}
		}
		d.seen[id] = len(d.seen)
	case *pickle.Set:
		if !id.Frozen {
			if n, ok := d.seen[id]; ok {
				return object{"ref": n}
			}
			d.seen[id] = len(d.seen)
		}
	}
	return d.value(v)
}

func (d *describer) pairs(v *pickle.Dict) any {
	out := []any{}
	for k, x := range v.All() {
		out = append(out, []any{d.describe(k), d.describe(x)})
	}
	return out
}

func (d *describer) list(items []any) []any {
	out := []any{}
	for _, x := range items {
		out = append(out, d.describe(x))
	}
	return out
}

func (d *describer) storage(s *Storage) int {
	if _, ok := d.storages[s]; !ok {
		d.storages[s] = len(d.storages)
	}
	return d.storages[s]
}

func floatHex(f ...float64) string {
	var b []byte
	for _, x := range f {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	return hex.EncodeToString(b)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func ints64(v []int64) []int64 { return append([]int64{}, v...) }

func (d *describer) value(v any) any {
	switch v := v.(type) {
	case nil:
		return object{"t": "None"}
	case *Tensor:
		data := make([]byte, v.Bytes())
		require.NoError(d.t, v.ReadInto(data))
		name := "Tensor"
		if v.Parameter {
			name = "Parameter"
		}
		return object{"t": name, "dtype": v.DType.String(), "size": ints64(v.Size),
			"stride": ints64(v.Stride), "offset": v.Offset,
			"requires_grad": v.RequiresGrad, "sha256": sum(data), "storage": d.storage(v.Storage),
			"bytes": v.Storage.Bytes()}
	case *Storage:
		data := make([]byte, v.Bytes())
		_, err := v.ReadAt(data, 0)
		require.NoError(d.t, err)
		return object{"t": "Storage", "dtype": v.DType.String(), "storage": d.storage(v),
			"bytes": v.Bytes(), "sha256": sum(data)}
	case pickle.Size:
		return object{"t": "Size", "v": ints64(v)}
	case pickle.Device:
		return object{"t": "device", "v": v.String()}
	case pickle.DType:
		return object{"t": "dtype", "v": string(v)}
	case *pickle.NumpyArray:
		data := v.Data
		if v.Fortran {
			data = fortranToC(v)
		}
		return object{"t": "ndarray", "dtype": v.DType.String(), "shape": ints64(v.Shape),
			"fortran": v.Fortran, "v": hex.EncodeToString(data)}
	case *pickle.NumpyScalar:
		return object{"t": "scalar", "dtype": v.DType.String(), "v": hex.EncodeToString(v.Data)}
	case *pickle.NumpyDType:
		return object{"t": "numpy.dtype", "v": v.String()}
	case bool:
		return object{"t": "bool", "v": v}
	case int64:
		return object{"t": "int", "v": big.NewInt(v).String()}
	case *big.Int:
		return object{"t": "int", "v": v.String()}
	case float64:
		return object{"t": "float", "v": floatHex(v)}
	case complex128:
		return object{"t": "complex", "v": floatHex(real(v), imag(v))}
	case string:
		if strings.ToValidUTF8(v, "") != v { // a lone surrogate
			return object{"t": "str", "v": hex.EncodeToString([]byte(v))}
		}
		return object{"t": "str", "v": v}
	case []byte:
		return object{"t": "bytes", "v": hex.EncodeToString(v)}
	case pickle.ByteArray:
		return object{"t": "bytearray", "v": hex.EncodeToString(v)}
	case pickle.Tuple:
		return object{"t": "tuple", "v": d.list(v)}
	case *pickle.List:
		return object{"t": "list", "v": d.list(v.Items)}
	case *pickle.Set:
		name := "set"
		if v.Frozen {
			name = "frozenset"
		}
		items := d.list(v.Items())
		slices.SortFunc(items,
			func(a, b any) int { return strings.Compare(pythonJSON(d.t, a), pythonJSON(d.t, b)) })
		return object{"t": name, "v": items}
	case *pickle.Dict:
		return object{"t": "dict", "v": d.pairs(v)}
	case *pickle.OrderedDict:
		var attrs any
		pairs := d.pairs(&v.Dict)
		if v.Attrs != nil {
			attrs = d.describe(v.Attrs)
		}
		return object{"t": "OrderedDict", "v": pairs, "attrs": attrs}
	case *pickle.DefaultDict:
		var factory any
		if v.Factory != nil {
			factory = v.Factory.(pickle.Global).Name
		}
		return object{"t": "defaultdict", "factory": factory, "v": d.pairs(&v.Dict)}
	}
	d.t.Fatalf("no description of %T", v)
	return nil
}

// pythonJSON spaces the separators as Python does, so that sets sort the same way.
func pythonJSON(t testing.TB, v any) string {
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return strings.ReplaceAll(strings.ReplaceAll(string(b), `":`, `": `), `,"`, `, "`)
}

// fortranToC reorders by plain index arithmetic, independently of the package's own gathering.
func fortranToC(a *pickle.NumpyArray) []byte {
	n := len(a.Shape)
	var out bytes.Buffer
	index := make([]int64, n)
	for range a.Numel() {
		at, step := int64(0), int64(1)
		for i := range n {
			at += index[i] * step
			step *= a.Shape[i]
		}
		out.Write(a.Data[at*int64(a.DType.Size) : (at+1)*int64(a.DType.Size)])
		for i := n - 1; i >= 0; i-- {
			if index[i]++; index[i] < a.Shape[i] {
				break
			}
			index[i] = 0
		}
	}
	return out.Bytes()
}

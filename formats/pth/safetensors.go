package pth

import (
	"fmt"

	"github.com/lntorch/lntorch/formats/safetensors"
)

var fromSafetensors = map[safetensors.DType]DType{
	safetensors.Bool: Bool, safetensors.Uint8: Uint8, safetensors.Int8: Int8,
	safetensors.Int16: Int16, safetensors.Uint16: Uint16,
	safetensors.Float16: Float16, safetensors.BFloat16: BFloat16, safetensors.Int32: Int32,
	safetensors.Uint32:  Uint32,
	safetensors.Float32: Float32, safetensors.Float64: Float64, safetensors.Int64: Int64,
	safetensors.Uint64: Uint64,
}

// FromSafetensors converts a tensor of a safetensors file to a Tensor, which can be read while the
// file is open.
func FromSafetensors(t *safetensors.Tensor) (*Tensor, error) {
	dtype, ok := fromSafetensors[t.DType]
	if !ok {
		return nil, fmt.Errorf("tensor %s: element type %s is not supported", t.Name, t.DType)
	}
	s, err := NewStorageFrom(dtype, t.Bytes()/int64(dtype.Size()), t, t.Name)
	if err != nil {
		return nil, err
	}
	return NewTensor(s, 0, t.Shape, nil)
}

// SafetensorsType returns a type's name in safetensors files; ok is false for a type that the
// format lacks.
func SafetensorsType(d DType) (name safetensors.DType, ok bool) {
	for s, p := range fromSafetensors {
		if p == d {
			return s, true
		}
	}
	return "", false
}

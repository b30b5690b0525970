package ondevice_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/data/augment"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/volume"
)

// FuzzSpecOnDevice: what a SPEC says is refused in the words of the CPU's path, or makes a patch of
// the same shape and the same labels.
func FuzzSpecOnDevice(f *testing.F) {
	torchtest.Require(f)
	var file struct {
		Cases []struct{ Transforms json.RawMessage }
	}
	golden.LoadJSON(f, "augment_transforms.json", &file)
	for i := 0; i < len(file.Cases); i += 5 {
		f.Add([]byte(`{"transforms":` + strings.ReplaceAll(string(file.Cases[i].Transforms),
			`"GaussianNoiseTransform",`, `"GaussianNoiseTransform","noise_seed":"1",`) + `}`))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		drawn, err := augment.DecodeSpec(text)
		if err != nil || len(drawn) > 20 {
			return
		}
		p := &augment.Patch{Image: volume.New[float32]([4]int{2, 3, 5, 7}), Seg: volume.New[int16]([4]int{2, 3, 5, 7}), Dim: 3}
		for i := range p.Image.Data {
			p.Image.Data[i], p.Seg.Data[i] = float32(i%11), int16(i%4-1)
		}
		for _, s := range drawn { // what takes long
			switch a := s.Parameters.(type) {
			case *augment.SpatialParameters:
				n := 1
				for _, size := range a.PatchSize {
					n *= size
				}
				if n > 1<<14 {
					return
				}
			case *augment.ApplyRandomBinaryOperatorParameters:
				for _, r := range a.StrelSize {
					if r > 30 {
						return
					}
				}
			}
		}
		want := clone(p)
		wantErr := drawn.Apply(want)
		got, err := apply(torch.CPU, drawn, p)
		if wantErr != nil {
			require.EqualError(t, err, wantErr.Error())
			return
		}
		require.NoError(t, err)
		require.Equal(t, want.Image.Shape, got.Image.Shape)
		require.Equal(t, want.Dim, got.Dim)
		require.Equal(t, want.Masks, got.Masks)
		require.Equal(t, want.Seg.Shape, got.Seg.Shape)
		n, of := compareLabels(t, "", []*volume.Volume[int16]{want.Seg}, []*volume.Volume[int16]{got.Seg})
		require.LessOrEqual(t, n, 1+of/10000)
	})
}

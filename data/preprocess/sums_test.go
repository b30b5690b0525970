package preprocess

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/volume"
)

// compareSums normalises the images described by sums in scripts/golden/preprocess.py and compares
// bits.
func compareSums(t *testing.T, folder string) {
	text, err := os.ReadFile(filepath.Join(folder, "sums.json"))
	require.NoError(t, err)
	var list []struct {
		Shape, Memory, Transpose [3]int
		Border, Channels         int
		Mask, Real               bool
		Seed                     uint64
		Result                   [4]int
		SHA256                   string
	}
	require.NoError(t, json.Unmarshal(text, &list))
	require.Greater(t, len(list), 10)
	for i, c := range list {
		if testing.Short() && volume.Numel(c.Result) > 1<<24 {
			continue
		}
		n := c.Channels * c.Shape[0] * c.Shape[1] * c.Shape[2]
		p := make(volume.Slice[int16], n)
		for k := range p {
			h := (uint64(k)*2654435761 + 40503*c.Seed) & 0xffffffff
			h ^= h >> 15
			p[k] = int16(h*2246822519&0xffffffff>>20) + 1
		}
		im := &volume.Image{Shape: [4]int{c.Channels, c.Shape[c.Memory[0]], c.Shape[c.Memory[1]], c.Shape[c.Memory[2]]}, Pixels: p}
		if c.Real {
			v := volume.Cast[float32](p)
			for k := range v {
				v[k] = v[k] * v[k] / 7
			}
			im.Pixels = volume.Slice[float32](v)
		}
		im = im.Transpose(inverse(c.Memory))
		im.Memory = c.Memory
		zero, size, k := im.Pixels.Make(1).Bytes(), im.Pixels.Size(), 0
		raw := im.Pixels.Bytes()
		for range c.Channels {
			for z := range c.Shape[0] {
				for y := range c.Shape[1] {
					for x := range c.Shape[2] {
						b := c.Border
						if min(z, y, x) < b || z >= c.Shape[0]-b || y >= c.Shape[1]-b || x >= c.Shape[2]-b || z+y+x < b+9 {
							copy(raw[k*size:], zero)
						}
						k++
					}
				}
			}
		}
		s := &Settings{Transpose: c.Transpose, Spacing: []float64{1, 1, 1}}
		for range c.Channels {
			s.Schemes = append(s.Schemes, Scheme{Name: "ZScoreNormalization", Mask: c.Mask})
		}
		got, err := s.Run(im, nil, [3]float64{1, 1, 1}, &pickle.Dict{}, 2)
		require.NoError(t, err)
		require.Equal(t, c.Result, got.Data.Shape, "case %d", i)
		sum := sha256.Sum256(bits.Bytes(got.Data.Data))
		require.Equal(t, c.SHA256, hex.EncodeToString(sum[:]), "case %d: %+v", i, c)
	}
}

func TestSumsAreNumpys(t *testing.T) { compareSums(t, goldens) }

package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/lntorch/lntorch/internal/bits"
)

// Content is the sha256, in hexadecimal, of an image's shape and voxels as float32, little-endian:
// the same whatever the file format, its type of pixels, compression or geometry. All NaNs are one
// value, and so are the two zeros.
func (im *Image) Content() string {
	h := sha256.New()
	fmt.Fprintln(h, im.Shape)
	block := make([]float32, min(16384, im.Pixels.Len()))
	for at := 0; at < im.Pixels.Len(); at += len(block) {
		part := block[:min(len(block), im.Pixels.Len()-at)]
		im.Pixels.Float32s(part, at)
		for i, v := range part {
			switch {
			case v != v:
				part[i] = float32(math.NaN())
			case v == 0:
				part[i] = 0
			}
		}
		h.Write(bits.Bytes(part))
	}
	return hex.EncodeToString(h.Sum(nil))
}

package nifti

import (
	"bufio"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

// scan is a CT of 512×512×100 voxels of int16: a noisy body in air of -1000 HU.
func scan() volume.Slice[int16] {
	rng := rand.New(rand.NewPCG(9, 9))
	p := make(volume.Slice[int16], 512*512*100)
	i := 0
	for z := range 100 {
		for y := range 512 {
			for x := range 512 {
				dx, dy := float64(x-256)/200, float64(y-256)/150
				v := -1000.0
				if dx*dx+dy*dy < 1 {
					v = 40 + 60*math.Sin(float64(x)/40)*math.Cos(float64(y+z)/30) +
						12*rng.NormFloat64()
				}
				p[i] = int16(v)
				i++
			}
		}
	}
	return p
}

// BenchmarkRead reads a CT. "inflate" times only its decompression, "big" a big-endian file.
// LNTORCH_SCAN keeps the file under that name, to read it with other programs.
func BenchmarkRead(b *testing.B) {
	pixels := scan()
	folder := b.TempDir()
	for _, name := range []string{"scan.nii.gz", "scan.nii", "big.nii.gz"} {
		h := plainHeader("int16", 512, 512, 100)
		h.BigEndian = name == "big.nii.gz"
		path := filepath.Join(folder, name)
		if keep := os.Getenv("LNTORCH_SCAN"); keep != "" && name == "scan.nii.gz" {
			path = keep
		}
		require.NoError(b, Write(path, h, pixels, 2))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(2 * len(pixels)))
			b.ReportAllocs()
			for b.Loop() {
				_, err := Read(path)
				require.NoError(b, err)
			}
		})
		if name == "scan.nii.gz" {
			b.Run("inflate", func(b *testing.B) {
				b.SetBytes(int64(2 * len(pixels)))
				buffer := make([]byte, 1<<20)
				for b.Loop() {
					f, err := os.Open(path)
					require.NoError(b, err)
					z, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<18))
					require.NoError(b, err)
					_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{z},
						buffer)
					require.NoError(b, err)
					f.Close()
				}
			})
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	pixels := scan()
	h := plainHeader("int16", 512, 512, 100)
	for _, workers := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(map[bool]string{true: "one", false: "all"}[workers == 1], func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "scan.nii.gz")
			b.SetBytes(int64(2 * len(pixels)))
			for b.Loop() {
				require.NoError(b, Write(path, h, pixels, workers))
			}
			info, err := os.Stat(path)
			require.NoError(b, err)
			b.ReportMetric(float64(info.Size())/1e6, "MB")
		})
	}
}

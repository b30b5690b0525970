package npz

import (
	"archive/zip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/internal/deflate"
)

// The standard library reads data of any length compressed by several goroutines.
func TestDeflateByBlocksIsOneStream(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, deflate.Block - 1, deflate.Block, deflate.Block + 1,
		3 * deflate.Block, 5*deflate.Block + 12345} {
		values := make([]uint8, n)
		for i := range values {
			values[i] = uint8(r.IntN(1 + i/deflate.Block*9))
		}
		a, err := New(values)
		require.NoError(t, err)
		for _, threads := range []int{0, 1, 2, 5} {
			path := filepath.Join(t.TempDir(), "a.npz")
			w, err := CreateWith(path, Options{Deflate: true, Threads: threads,
				Comment: "made by a test"})
			require.NoError(t, err)
			require.NoError(t, w.Add("first", a))
			require.NoError(t, w.Add("second", a))
			require.NoError(t, w.Close())
			comment, err := Comment(path)
			require.NoError(t, err)
			require.Equal(t, "made by a test", comment)
			z, err := zip.OpenReader(path)
			require.NoError(t, err)
			defer z.Close()
			require.Len(t, z.File, 2)
			for _, f := range z.File {
				in, err := f.Open()
				require.NoError(t, err)
				got, err := io.ReadAll(in) // verifies the CRC
				require.NoError(t, err)
				require.Equal(t, values, got[len(got)-n:])
				if n > deflate.Block {
					require.Less(t, int(f.CompressedSize64), n*2/3)
				}
			}
		}
	}
}

type fullDisk struct{ left int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		return 0, errors.New("no space left")
	}
	return len(p), nil
}

func TestDeflateTellsOfAFullDiskAndEnds(t *testing.T) {
	before := runtime.NumGoroutine()
	d := deflate.New(&fullDisk{100}, 3, deflate.Level)
	_, err := d.Write(make([]byte, 20*deflate.Block))
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, deflate.Block)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	_, err = d.Write(noise)
	require.NoError(t, err)
	require.ErrorContains(t, d.Close(), "no space left")
	waitFor(t, before)

	// An array that is refused after others were written leaves no file behind.
	folder := t.TempDir()
	w, err := CreateWith(filepath.Join(folder, "a.npz"), Options{Deflate: true, Threads: 3})
	require.NoError(t, err)
	require.NoError(t, w.Add("a", &Array{DType: "|u1", Shape: []int{len(noise)}, Data: noise}))
	require.Error(t, w.Add("a", &Array{DType: "|u1", Shape: []int{1}, Data: noise[:1]}))
	require.Error(t, w.Close())
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, entries)
	waitFor(t, before)
}

// waitFor waits until at most n goroutines run.
func waitFor(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(time.Second); runtime.NumGoroutine() > n; time.Sleep(
		time.Millisecond) {
		require.True(t, time.Now().Before(end), "%d goroutines run, %d did before",
			runtime.NumGoroutine(), n)
	}
}

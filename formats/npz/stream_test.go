package npz_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/npz"
)

// rest reads a stream to its end, a few elements at a time.
func rest(s *npz.Stream) ([]float32, error) {
	n := 1
	for _, d := range s.Shape {
		n *= d
	}
	var out []float32
	for len(out) < n {
		part := make([]float32, min(7, n-len(out)))
		if err := s.Float32s(part); err != nil {
			return out, err
		}
		out = append(out, part...)
	}
	return out, nil
}

func TestStreamsGiveWhatReadGives(t *testing.T) {
	values := make([]float32, 3*4*5)
	for i := range values {
		values[i] = float32(i*i) / 7
	}
	plain, err := npz.New(values, 3, 4, 5)
	require.NoError(t, err)
	double, err := npz.New([]float64{0.1, 1e-50, 3, 4, 5, 6}, 2, 3)
	require.NoError(t, err)
	fortran := *plain
	fortran.Fortran = true
	path := filepath.Join(t.TempDir(), "a.npz")
	for _, deflate := range []bool{false, true} {
		w, err := npz.Create(path, deflate)
		require.NoError(t, err)
		require.NoError(t, w.Add("plain", plain))
		require.NoError(t, w.Add("double", double))
		require.NoError(t, w.Add("fortran", &fortran))
		require.NoError(t, w.AddFloat32s("streamed", plain.Shape, bytes.NewReader(plain.Data)))
		require.NoError(t, w.Close())
		f, err := npz.OpenNpz(path)
		require.NoError(t, err)
		for _, name := range f.Names() {
			whole, err := f.Read(name)
			require.NoError(t, err)
			want, err := whole.Float32s()
			require.NoError(t, err)
			s, err := f.Stream(name)
			require.NoError(t, err)
			require.Equal(t, whole.Shape, s.Shape)
			got, err := rest(s)
			require.NoError(t, err)
			require.Equal(t, want, got, name)
			require.ErrorContains(t, s.Float32s(make([]float32, 1)), "1 elements asked for, 0 are left")
			require.NoError(t, s.Close())
		}
		streamed, err := f.Read("streamed")
		require.NoError(t, err)
		require.Equal(t, plain, streamed)
		require.NoError(t, f.Close())
	}
}

func TestStreamsNoticeADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.npz")
	a, err := npz.New(make([]float32, 1000), 1000)
	require.NoError(t, err)
	w, err := npz.Create(path, false)
	require.NoError(t, err)
	require.NoError(t, w.Add("x", a))
	require.NoError(t, w.Close())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[2000] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
	f, err := npz.OpenNpz(path)
	require.NoError(t, err)
	defer f.Close()
	s, err := f.Stream("x")
	require.NoError(t, err)
	_, err = rest(s)
	require.ErrorContains(t, err, `array "x": damaged or truncated: zip: checksum error`)
	_, err = f.Stream("y")
	require.ErrorContains(t, err, `no array "y"; there are ["x"]`)
}

func TestAStreamOfAnotherLengthIsNotWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.npz")
	w, err := npz.Create(path, true)
	require.NoError(t, err)
	require.ErrorContains(t, w.AddFloat32s("x", []int{2, 3}, io.WriterTo(bytes.NewReader(make([]byte, 20)))), "20 bytes for shape [2 3]")
	require.Error(t, w.Close())
	require.NoFileExists(t, path)
}

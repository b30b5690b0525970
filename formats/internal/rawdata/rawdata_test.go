package rawdata

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/volume"
)

func TestTextGivesNumbers(t *testing.T) {
	p := make(volume.Slice[float32], 4)
	require.NoError(t, text(bufio.NewReader(strings.NewReader(",1 ,,-2.5e1\v nan\f+inf")), p, 0, 4))
	require.Equal(t, []float32{1, -25}, []float32(p[:2]))
	require.True(t, p[2] != p[2])
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 1e39 3 4")), p, 0, 4), "number 2 of the text is one that float32 does not hold")
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 0x1p1 3 4")), p, 0, 4), "number 2 of the text is none")
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 1_0 3 4")), p, 0, 4), "number 2 of the text is none")
	q := make(volume.Slice[uint8], 2)
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 -1")), q, 0, 2), "number 2")
	require.ErrorContains(t, text(bufio.NewReader(strings.NewReader("1 ")), q, 0, 2), "found 1 numbers, expected 2")
}

// The parts of an image go to their places, in both byte orders.
func TestPartsAreInOrder(t *testing.T) {
	folder := t.TempDir()
	names := []string{"b", "a", "c"}
	for i, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte{'x', 0, byte(i), 1, byte(i)}, 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "header"), nil, 0o666))
	header, err := os.Open(filepath.Join(folder, "header"))
	require.NoError(t, err)
	defer header.Close()
	d := Data{BigEndian: true, From: 1, Names: names}
	p, err := d.Read(header, folder, []int{2, 3}, "int16")
	require.NoError(t, err)
	require.Equal(t, volume.Pixels(volume.Slice[int16]{0, 256, 1, 257, 2, 258}), p)
	d.BigEndian = false
	p, err = d.Read(header, folder, []int{2, 3}, "int16")
	require.NoError(t, err)
	require.Equal(t, volume.Pixels(volume.Slice[int16]{0, 1, 256, 257, 512, 513}), p)
}

package rawdata

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/internal/bits"
	"github.com/lntorch/lntorch/internal/regular"
	"github.com/lntorch/lntorch/volume"
)

// Open opens a file and parses its header, which takes at most so many bytes. Errors leave out the
// path, which callers name. A pipe would wait for its writer: it is not opened.
func Open[H any](path string, most int64, parse func([]byte) (*H, error)) (*H, *os.File, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, nil, bare(err)
	}
	f, err := regular.Open(path)
	if err != nil {
		return nil, nil, bare(err)
	}
	b := make([]byte, min(info.Size(), most))
	n, err := io.ReadFull(f, b)
	var h *H
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		h, err = parse(b[:n])
	}
	if err != nil {
		f.Close()
		return nil, nil, bare(err)
	}
	return h, f, nil
}

// Writable refuses sizes of the axes x, y, …, and a geometry, that a header cannot hold.
func Writable(size []int, g *volume.ITK) error {
	n := len(size)
	if n < 2 || n > 4 || len(g.Spacing) != n || len(g.Origin) != n || len(g.Direction) != n*n {
		return fmt.Errorf("found %d axes, with %d spacings, %d origins and %d directions: "+
			"expected 2, 3 or 4 axes", n, len(g.Spacing), len(g.Origin), len(g.Direction))
	}
	for _, v := range slices.Concat(g.Spacing, g.Origin, g.Direction) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("the geometry is not finite: spacing %v, origin %v, direction %v",
				g.Spacing, g.Origin, g.Direction)
		}
	}
	for i, v := range size {
		if v < 1 || v > math.MaxInt32 {
			return fmt.Errorf("axis %d has %d voxels, expected 1 to %d", i, v, math.MaxInt32)
		}
	}
	return nil
}

// LittleEndian returns the bytes of the pixels of an image of that size. They may be the pixels' own
// memory.
func LittleEndian(size []int, pixels volume.Pixels) ([]byte, error) {
	voxels := 1
	for _, n := range size {
		voxels *= n
	}
	if voxels != pixels.Len() {
		return nil, fmt.Errorf("found %d pixels, expected %d for %v", pixels.Len(), voxels, size)
	}
	raw := pixels.Bytes()
	if size := pixels.Size(); !bits.LittleEndian && size > 1 {
		raw = slices.Clone(raw)
		bits.Swap(raw, size)
	}
	return raw, nil
}

// Digits joins numbers of 17 digits, which come back to the bit.
func Digits(numbers []float64, separator string) string {
	words := make([]string, len(numbers))
	for i, v := range numbers {
		words[i] = strconv.FormatFloat(v, 'g', 17, 64)
	}
	return strings.Join(words, separator)
}

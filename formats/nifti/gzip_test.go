package nifti

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

// ending is a compressed file that does not end with the last byte of its one gzip member.
type ending struct {
	content []byte
	refused string // the message, "" if the pixels are read
}

// pixelsOfEndings are the pixels in the files of gzipEndings.
func pixelsOfEndings() volume.Slice[int16] {
	p := make(volume.Slice[int16], 60)
	for i := range p {
		p[i] = int16(i*997 - 20000)
	}
	return p
}

func gzipEndings(t testing.TB) map[string]ending {
	head, err := plainHeader("int16", 5, 4, 3).encode()
	require.NoError(t, err)
	content := append(head, pixelsOfEndings().Bytes()...)
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[len(b)-at] ^= 1
		return b
	}
	whole, first, second := zipped(content), zipped(content[:400]), zipped(content[400:])
	cut := func(n int) []byte { return whole[:len(whole)-n] }
	return map[string]ending{
		"two members":         {join(first, second), ""},
		"zeros":               {join(whole, make([]byte, 100)), ""},
		"two members, zeros":  {join(first, second, make([]byte, 7)), ""},
		"zeros, a member":     {join(whole, make([]byte, 20), whole), ""},
		"zeros between":       {join(first, make([]byte, 8), second), ""},
		"other bytes":         {join(whole, []byte("other bytes")), ""},
		"one byte":            {join(whole, []byte("x")), ""},
		"zeros, other bytes":  {join(whole, make([]byte, 20), []byte("other")), ""},
		"gzip's mark":         {join(whole, []byte{0x1f, 0x8b}), ""},
		"half of gzip's mark": {join(whole, []byte{0x1f}), ""},
		"a header of no method": {join(whole,
			[]byte{0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0}), ""},
		"a member that is cut off":  {join(whole, second[:len(second)-3]), ""},
		"no trailer":                {cut(8), ""},
		"no trailer, two members":   {join(first, second[:len(second)-8]), ""},
		"half a trailer":            {cut(4), ""},
		"a trailer but for its end": {cut(1), ""},
		"pixels cut off":            {cut(14), "the file is cut off: found 4"},
		"the second member missing": {first,
			"the file is cut off: found 400 bytes, expected 472"},
		"other bytes between": {join(first, []byte("other"), second),
			"the file is cut off: found 400 bytes, expected 472"},
		"wrong checksum": {flip(whole, 6), "the checksum of the gzip data is wrong"},
		"wrong size":     {flip(whole, 2), "the checksum of the gzip data is wrong"},
		"wrong checksum, then zeros": {join(flip(whole, 6), make([]byte, 9)),
			"the checksum of the gzip data is wrong"},
		"wrong checksum in the first": {join(flip(first, 6), second),
			"the checksum of the gzip data is wrong"},
	}
}

func TestEndingsOfGzipFiles(t *testing.T) {
	for name, e := range gzipEndings(t) {
		path := filepath.Join(t.TempDir(), "a.nii.gz")
		require.NoError(t, os.WriteFile(path, e.content, 0o666))
		f, err := Read(path)
		if e.refused != "" {
			require.ErrorContains(t, err, e.refused, name)
			require.ErrorContains(t, err, path, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, pixelsOfEndings(), f.Pixels, name)
	}
}

// SimpleITK reads the same files with the same pixels. It reads none of the others, except for the
// file cut in half.
func TestLiveEndingsOfGzipFilesAreSimpleITKs(t *testing.T) {
	python := golden.Python(t)
	folder := t.TempDir()
	for name, e := range gzipEndings(t) {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name+".nii.gz"), e.content, 0o666))
	}
	cmd := exec.Command(python, "-c", `
import glob, json, SimpleITK, numpy
want = (numpy.arange(60) * 997 - 20000).astype(numpy.int16)
read = {}
for f in glob.glob("*.nii.gz"):
    try: read[f[:-7]] = bool((SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f)).ravel() == want).all())
    except RuntimeError: read[f[:-7]] = False
print(json.dumps(read))`)
	cmd.Dir, cmd.Stderr = folder, os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	var read map[string]bool
	require.NoError(t, json.Unmarshal(out, &read))
	for name, e := range gzipEndings(t) {
		// Differs: nibabel reads the next member, as here; SimpleITK leaves the remaining pixels
		// undefined
		if name == "zeros between" {
			require.False(t, read[name])
			continue
		}
		require.Equal(t, e.refused == "", read[name], name)
	}
}

package sniff

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFilesAreNamedByTheirFirstBytes(t *testing.T) {
	tar := []byte(strings.Repeat("\x01", 257) + "ustar\x00" + strings.Repeat("\x01", 100))
	for head, want := range map[string]string{
		"\n <!doctype HTML>": "a web page", "\ufeff<html lang=en>": "a web page",
		"<?xml version='1.0'?><Error>":                 "an XML text",
		"version https://git-lfs.github.com/spec/v1\n": "a Git LFS pointer, which stands for the file", "\x1f\x8b\x08": "a gzip file (a .nii.gz image?)",
		"7z\xbc\xaf\x27\x1c": "an archive", "\x89HDF\r\n": "an HDF5 file (Keras or MATLAB)",
		strings.Repeat("\x00", 128) + "DICM": "a DICOM file", "%PDF-1.4": "a picture or a PDF", string(tar): "a tar file",
		"\x10\x00\x00\x00\x00\x00\x00\x00{\"a": "a safetensors file", "PK\x03\x04": "a zip archive",
		"\x00\x00\x00":                     "zero bytes",
		"just words, gr\u00fc\u00dfe \xc3": "a text", "": "", "\x80\x02}q\x00.": "", "\x01\x02": "",
	} {
		found, next := What([]byte(head))
		require.Equal(t, want, found, "%q", head)
		require.Equal(t, want == "", next == "", "%q", head)
	}
}

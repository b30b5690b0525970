// Package sniff identifies files that are not what their names suggest: a web page, a Git LFS
// pointer, an archive. It covers what users get when a download or a copy went wrong. Readers do
// not select their format with it.
package sniff

import (
	"bytes"
	"unicode/utf8"
)

// HeadSize is the number of bytes from the start of a file that What needs.
const HeadSize = 512

// What identifies the file that begins with head and suggests a next step, worded for messages such
// as "found …, expected a PyTorch checkpoint: …". Both are "" for an unknown file.
func What(head []byte) (found, next string) {
	start := bytes.ToLower(bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")),
		" \t\r\n"))
	has := func(prefix string) bool { return bytes.HasPrefix(start, []byte(prefix)) }
	raw := func(prefix string) bool { return bytes.HasPrefix(head, []byte(prefix)) }
	switch {
	case has("<!doctype html"), has("<html"), has("<head"):
		return "a web page", "the link led to a page about the file; download the file itself"
	case has("<?xml"), has("<error"):
		return "an XML text", "the server may have answered with an error message; download the " +
			"file again"
	case has("version https://git-lfs.github.com/spec/"):
		return "a Git LFS pointer, which stands for the file", "run `git lfs pull` in its " +
			"repository, or download the file itself"
	case len(head) > 131 && string(head[128:132]) == "DICM":
		return "a DICOM file", "lntorch image info shows what is in it"
	case raw("\x1f\x8b"):
		return "a gzip file (a .nii.gz image?)", "give a checkpoint; lntorch image info shows images, gunzip unpacks other files"
	case raw("7z\xbc\xaf\x27\x1c"), raw("Rar!"), raw("\xfd7zXZ"), raw("BZh"):
		return "an archive", "unpack it"
	case raw("\x89HDF"):
		return "an HDF5 file (Keras or MATLAB)", "save the weights with PyTorch"
	case raw("\x89PNG"), raw("\xff\xd8\xff"), raw("GIF8"), raw("%PDF"):
		return "a picture or a PDF", "choose another file"
	case len(head) > 262 && string(head[257:262]) == "ustar":
		return "a tar file", "unpack it; where PyTorch 0.1 wrote it, load and save it with a " +
			"newer PyTorch"
	case len(head) > 9 && head[8] == '{' && head[7] == 0 && head[6] == 0:
		return "a safetensors file", "give it the ending .safetensors"
	case raw("PK\x03\x04"):
		return "a zip archive", "unpack it, or give it the ending of its format (.pth, .npz)"
	case len(head) > 0 && allZero(head):
		return "zero bytes", "the file was not written to its end; copy it again"
	case len(head) > 0 && isText(head):
		return "a text", "choose another file"
	}
	return "", ""
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// isText reports whether b holds only printable text; its last character may be cut off.
func isText(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n <= 1 {
			return len(b) < utf8.UTFMax && !utf8.FullRune(b)
		}
		if r < ' ' && r != '\t' && r != '\r' && r != '\n' {
			return false
		}
		b = b[n:]
	}
	return true
}

package meta_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/meta"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

const corpus = "../../testdata/golden/meta"

// reading is what SimpleITK read from a file.
type reading struct {
	Error, Type, SHA256        string
	Crash                      bool
	Size                       []int
	Spacing, Origin, Direction []float64
}

func expectations(t testing.TB, folder string) map[string]reading {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	require.NoError(t, err)
	all := map[string]reading{}
	require.NoError(t, json.Unmarshal(text, &all))
	return all
}

func digest(p volume.Pixels) string {
	h := sha256.Sum256(p.Bytes())
	return hex.EncodeToString(h[:])
}

func requireReading(t *testing.T, path string, want reading) {
	t.Helper()
	f, err := meta.Read(path)
	require.NoError(t, err)
	_, g, err := f.Image()
	require.NoError(t, err, path)
	require.Equal(t, want.Size, f.Size, path)
	require.Equal(t, want.Type, f.Pixels.Type(), path)
	require.Equal(t, want.SHA256, digest(f.Pixels), path)
	require.Equal(t, volume.ITK{Spacing: want.Spacing, Origin: want.Origin, Direction: want.Direction}, *g, path)
	h, err := meta.ReadHeader(path)
	require.NoError(t, err)
	require.Equal(t, f.Head().Geometry, h.Head().Geometry)
}

func TestReadsAsSimpleITK(t *testing.T) {
	read, refused := readsAsSimpleITK(t, corpus)
	require.Greater(t, read, 60)
	require.Greater(t, refused, 15)
}

// readsAsSimpleITK returns how many files of a folder are read, and how many are refused as by
// SimpleITK.
func readsAsSimpleITK(t *testing.T, folder string) (read, refused int) {
	for name, want := range expectations(t, folder) {
		path := filepath.Join(folder, name)
		switch {
		case strings.HasPrefix(name, "differs-"):
		case want.Crash || want.Error != "":
			refused++
			f, err := meta.Read(path)
			if err == nil {
				_, _, err = f.Image()
			} else {
				require.ErrorContains(t, err, path)
			}
			require.Error(t, err, name)
		default:
			read++
			requireReading(t, path, want)
		}
	}
	return read, refused
}

// What ITK reads, but wrongly or by chance.
func TestDiffersFromSimpleITK(t *testing.T) {
	for name, want := range map[string]string{
		"zlib-checksum": "the compressed data are damaged after 16 of 16 bytes", "zlib-less": "the compressed data are cut off after 14 of 16 bytes",
		"zlib-more": "hold more than 16 bytes", "zlib-cut": "the compressed data are cut off after ",
		"no-voxels": "DimSize: found [2 0 2]", "nan-offset": `Offset: found "nan"`, "into-header": "HeaderSize: found 4, which lies in the header",
		"channels": `ElementNumberOfChannels: found "2"`, "text-short": "found 14 bytes of text, expected 8 numbers",
		"text-wide": "number 8 of the text is one that int16 does not hold", "text-word": "number 4 of the text is none that int16 holds", "text-zlib": "expected BinaryData = True",
	} {
		_, err := meta.Read(filepath.Join(corpus, "differs-"+name+".mha"))
		require.ErrorContains(t, err, want, name)
	}
	plain, err := meta.Read(filepath.Join(corpus, "plain.mha"))
	require.NoError(t, err)
	// The stream says where it ends, whatever CompressedDataSize.
	for _, name := range []string{"zlib-no-size.mha", "zlib-size-small.mha", "zlib-size-large.mha", "zlib-size-negative.mha", "zlib-beyond-the-end.mha", "text-end.mha", "text-lines.mha", "list-3D.mhd"} {
		f, err := meta.Read(filepath.Join(corpus, "differs-"+name))
		require.NoError(t, err)
		require.Equal(t, plain.Pixels, f.Pixels, name)
	}
	for name, want := range map[string]string{
		"list-lacking": "found 1 names of files behind LIST, expected 2", "list-absent": "none.raw: no such file", "pattern-absent": "h2.raw: no such file", "list-short": "short.raw: found 3 bytes of pixels, expected 8",
	} {
		_, err := meta.Read(filepath.Join(corpus, "differs-"+name+".mhd"))
		require.ErrorContains(t, err, want, name)
	}
}

var length = regexp.MustCompile(`CompressedDataSize = \d+`)

// head is the text of a file up to its pixels.
func head(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	i := bytes.Index(b, []byte("ElementDataFile"))
	require.Positive(t, i)
	return length.ReplaceAllString(string(b[:i]), "CompressedDataSize")
}

// A file that SimpleITK wrote, written again, has the same header but for the compressed length, and
// an uncompressed one the same bytes.
func TestWritesAsSimpleITK(t *testing.T) {
	for name, want := range expectations(t, corpus) {
		if !strings.HasPrefix(name, "sitk-") {
			continue
		}
		path := filepath.Join(corpus, name)
		f, err := meta.Read(path)
		require.NoError(t, err)
		_, g, err := f.Image()
		require.NoError(t, err)
		out := filepath.Join(t.TempDir(), name)
		theirs := head(t, path)
		if strings.Contains(theirs, "CompressedDataSize") {
			require.NoError(t, meta.Write(out, f.Size, g, f.Pixels, 2))
			requireReading(t, out, want)
			require.Equal(t, theirs, head(t, out), name)
			continue
		}
		require.NoError(t, meta.WriteRaw(out, f.Size, g, f.Pixels))
		requireReading(t, out, want)
		for _, ending := range []string{filepath.Ext(name), ".raw"} {
			theirs, err := os.ReadFile(strings.TrimSuffix(path, filepath.Ext(name)) + ending)
			if os.IsNotExist(err) && filepath.Ext(name) == ".mha" {
				continue
			}
			require.NoError(t, err)
			ours, err := os.ReadFile(strings.TrimSuffix(out, filepath.Ext(name)) + ending)
			require.NoError(t, err)
			require.True(t, bytes.Equal(theirs, ours), name)
		}
	}
}

func TestBytesDoNotDependOnTheThreads(t *testing.T) {
	p := make(volume.Slice[int16], 3<<20)
	for i := range p {
		p[i] = int16(i * i >> 7)
	}
	g := &volume.ITK{Spacing: []float64{1, 2, 3}, Origin: []float64{0, 0, 0}, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	folder := t.TempDir()
	var first []byte
	for _, workers := range []int{0, 1, 2, 5} {
		for _, name := range []string{"a.mha", "B.MHD"} {
			path := filepath.Join(folder, name)
			require.NoError(t, meta.Write(path, []int{1024, 1024, 3}, g, p, workers))
			f, err := meta.Read(path)
			require.NoError(t, err)
			require.Equal(t, volume.Pixels(p), f.Pixels)
		}
		b, err := os.ReadFile(filepath.Join(folder, "a.mha"))
		require.NoError(t, err)
		if first == nil {
			first = b
		}
		require.True(t, bytes.Equal(first, b), "%d workers", workers)
	}
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, files, 3) // a.mha, B.MHD, B.zraw
}

func TestWriteRefusesWhatNoFileHolds(t *testing.T) {
	g := &volume.ITK{Spacing: []float64{1, 2}, Origin: []float64{0, 0}, Direction: []float64{1, 0, 0, 1}}
	folder := t.TempDir()
	for want, write := range map[string]func() error{
		"found 3 pixels, expected 4": func() error { return meta.Write(folder+"/a.mha", []int{2, 2}, g, make(volume.Slice[int8], 3), 1) },
		"found 1 axes":               func() error { return meta.Write(folder+"/a.mha", []int{2}, g, make(volume.Slice[int8], 2), 1) },
		"axis 1 has 0 voxels":        func() error { return meta.Write(folder+"/a.mha", []int{2, 0}, g, make(volume.Slice[int8], 0), 1) },
		"cannot name a data file":    func() error { return meta.Write(folder+"/a%d.mhd", []int{1, 1}, g, make(volume.Slice[int8], 1), 1) },
		"no such file or directory":  func() error { return meta.Write(folder+"/b/a.mhd", []int{1, 1}, g, make(volume.Slice[int8], 1), 1) },
	} {
		require.ErrorContains(t, write(), want)
	}
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, files)
}

const detached = "NDims = 2\nDimSize = 2 2\nElementType = MET_UCHAR\nElementDataFile = "

func TestHostileDataFiles(t *testing.T) {
	outside, folder := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret.raw")
	require.NoError(t, os.WriteFile(secret, []byte("1234"), 0o666))
	require.NoError(t, os.Mkdir(filepath.Join(folder, "below"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "below", "a.raw"), []byte("1234"), 0o666))
	require.NoError(t, os.Symlink(secret, filepath.Join(folder, "link.raw")))
	require.NoError(t, os.Symlink("/dev/zero", filepath.Join(folder, "zero.raw")))
	require.NoError(t, os.Symlink(outside, filepath.Join(folder, "linked")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(folder, "pipe.raw"), 0o666))
	relative, err := filepath.Rel(folder, secret)
	require.NoError(t, err)
	path := filepath.Join(folder, "a.mhd")
	for name, want := range map[string]string{
		"below/a.raw": "", "./below/../below/a.raw": "", secret: "in the folder of the header or below it", relative: "in the folder of the header or below it",
		"link.raw": "path escapes", "zero.raw": "path escapes", "linked/secret.raw": "path escapes", "/dev/zero": "in the folder of the header or below it", "pipe.raw": "not a regular file", "below": "not a regular file", "absent.raw": "no such file",
		"LIST": "found 0 names of files behind LIST", "LIST 1D\nbelow/a.raw\n/etc/passwd": "in the folder of the header or below it", "LIST 1D\nbelow/a.raw\n./below/a.raw": "twice",
		"LIST 3D\nbelow/a.raw": "1 to 2 axes of a file", "d%02d.raw 1 2 1": "d01.raw: no such file", "../%d.raw 1 2 1": "in the folder of the header or below it", "%n%d.raw 1 2 1": "expected one number such as",
		"%s.raw 1 2 1": "expected one number such as", "%d.raw 1 2 0": "by steps of 0", "%d.raw 1 a 0": "expected a pattern", "a.mhd": "names itself", "": "found nothing",
	} {
		require.NoError(t, os.WriteFile(path, []byte(detached+name+"\n"), 0o666))
		f, err := meta.Read(path)
		if want == "" {
			require.NoError(t, err, name)
			require.Equal(t, volume.Pixels(volume.Slice[uint8]("1234")), f.Pixels)
			continue
		}
		require.ErrorContains(t, err, want, name)
		require.ErrorContains(t, err, path)
	}
	_, err = meta.Read(filepath.Join(folder, "pipe.raw"))
	require.ErrorContains(t, err, "not a regular file")
}

// Small files take neither memory nor time, whatever they claim.
func TestHostileHeaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.mha")
	var bomb bytes.Buffer // 64 MiB of zeros
	z := zlib.NewWriter(&bomb)
	_, err := z.Write(make([]byte, 64<<20))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	const sizes = "NDims = 3\nElementType = MET_DOUBLE\nDimSize = "
	for content, want := range map[string]string{
		sizes + "2147483647 2147483647 2147483647\nElementDataFile = LOCAL\n":                                   "more than any file holds",
		sizes + "100000 100000 10\nElementDataFile = LOCAL\nabc":                                                "found 3 bytes of pixels, expected 800000000000",
		sizes + "100000 100000 10\nCompressedData = True\nElementDataFile = LOCAL\nabc":                         "which hold at most 3096, expected 800000000000",
		sizes + "2 2 2\nCompressedData = True\nElementDataFile = LOCAL\nabc":                                    "do not begin as zlib's or gzip's",
		sizes + "2 2 2\nCompressedData = True\nElementDataFile = LOCAL\n" + bomb.String():                       "hold more than 64 bytes",
		sizes + "100000 100000 10\nCompressedData = True\nElementDataFile = LOCAL\n" + bomb.String():            "expected 800000000000",
		sizes + "2 2 2\nHeaderSize = -2\nElementDataFile = LOCAL\n":                                             "HeaderSize: found \"-2\"",
		sizes + "2 2 2\nHeaderSize = -9223372036854775808\nElementDataFile = LOCAL\n":                           "HeaderSize: found",
		sizes + "2 2 2\nCompressedData = True\nElementDataFile = LOCAL\n":                                       "found 0 compressed bytes",
		sizes + "2 2 2\nBinaryData = False\nElementDataFile = LOCAL\n1 2":                                       "found 3 bytes of text, expected 8 numbers",
		sizes + "2 2 2\nHeaderSize = 9223372036854775807\nElementDataFile = LOCAL\n":                            "found 0 bytes of pixels, expected 64",
		sizes + "2 2 1e300\nElementDataFile = LOCAL\n":                                                          "expected whole numbers of voxels",
		sizes + "100000 100000 10\nBinaryData = False\nElementDataFile = LOCAL\n" + strings.Repeat("1 ", 1<<16): "found 131072 bytes of text, expected 100000000000 numbers",
		sizes + "2 2 70000\nElementDataFile = s%d.raw 1 70000 1\n":                                              "found 70000 data files, expected 1 to 65536",
		sizes + "2 2 131072\nElementDataFile = LIST 2\n" + strings.Repeat("a\n", 1<<18):                         "data files, expected at most 65536",
		"": "found no line such as NDims = 3", strings.Repeat("\n", 3<<20): "found no line such as NDims = 3",
		"NDims = 3\n": "found no ElementDataFile", "NDims = 3\n" + strings.Repeat("a = b\n", 1<<18): "found no ElementDataFile",
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o666))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err = meta.Read(path)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
		require.Less(t, time.Since(start), 5*time.Second)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), want)
	}
}

// Files of SimpleITK and of the script, of every type in every encoding and byte order, attached and
// detached, are read as SimpleITK reads them, and so are those that we write of them.
func TestLiveImagesAreReadAndWrittenAsBySimpleITK(t *testing.T) {
	folder, ours := t.TempDir(), t.TempDir()
	golden.RunImages(t, "meta_corpus.py", folder, "--live", "--seed", golden.Seed(t))
	read, refused := readsAsSimpleITK(t, folder)
	require.Greater(t, read, 260)
	require.Greater(t, refused, 15)
	want := expectations(t, folder)
	for name := range want {
		path := filepath.Join(folder, name)
		f, err := meta.Read(path)
		if err != nil {
			continue
		}
		_, g, err := f.Image()
		if err != nil {
			continue
		}
		if strings.Contains(head(t, path), "CompressedDataSize") {
			require.NoError(t, meta.Write(filepath.Join(ours, name), f.Size, g, f.Pixels, 2))
		} else {
			require.NoError(t, meta.WriteRaw(filepath.Join(ours, name), f.Size, g, f.Pixels))
		}
	}
	golden.RunImages(t, "meta_corpus.py", ours, "--read")
	for name, r := range expectations(t, ours) {
		if !strings.HasPrefix(name, "differs-") {
			requireReading(t, filepath.Join(ours, name), r)
			require.Equal(t, want[name], r, name)
		}
	}
}

func FuzzRead(f *testing.F) {
	names, err := filepath.Glob(filepath.Join(corpus, "*.mha"))
	require.NoError(f, err)
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(detached + "../a.raw\n"))
	path := filepath.Join(f.TempDir(), fmt.Sprint(os.Getpid(), ".mha"))
	f.Fuzz(func(t *testing.T, content []byte) {
		require.NoError(t, os.WriteFile(path, content, 0o666))
		file, err := meta.Read(path)
		if err != nil {
			require.ErrorContains(t, err, path)
			return
		}
		im, g, err := file.Image()
		if err != nil {
			return
		}
		require.Equal(t, file.Pixels.Len(), volume.Numel(im.Shape))
		require.NoError(t, meta.Write(path, file.Size, g, file.Pixels, 1))
		again, err := meta.Read(path)
		require.NoError(t, err)
		require.Equal(t, digest(file.Pixels), digest(again.Pixels))
		_, other, err := again.Image()
		require.NoError(t, err)
		require.Equal(t, g, other)
	})
}

// The header says how long the compressed pixels behind it are, which is known last. Noise is longer than
// the half that is foreseen, zeros shorter, and both by the digits of the number.
func TestCompressedPixelsFollowAHeaderOfAnyLength(t *testing.T) {
	size := []int{190, 100, 100}
	noise := make(volume.Slice[uint8], 1_900_000)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for name, pixels := range map[string]volume.Slice[uint8]{"noise": noise, "zeros": make(volume.Slice[uint8], len(noise)),
		"half": append(slices.Clone(noise[:len(noise)/2]), make([]uint8, len(noise)/2)...)} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image.mha")
			g := &volume.ITK{Spacing: []float64{1, 1, 1}, Origin: []float64{0, 0, 0}, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
			require.NoError(t, meta.Write(path, size, g, pixels, 2))
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			head, packed, ok := bytes.Cut(b, []byte("ElementDataFile = LOCAL\n"))
			require.True(t, ok)
			require.Contains(t, string(head), fmt.Sprintf("\nCompressedDataSize = %d\n", len(packed)))
			z, err := zlib.NewReader(bytes.NewReader(packed))
			require.NoError(t, err)
			got, err := io.ReadAll(z)
			require.NoError(t, err)
			require.True(t, bytes.Equal(pixels, got))
		})
	}
}

package nrrd_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/nrrd"
	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/volume"
)

const corpus = "../../testdata/golden/nrrd"

// reading is what SimpleITK read from a file.
type reading struct {
	Error, Type, SHA256        string
	Crash, Vector              bool
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
	f, err := nrrd.Read(path)
	require.NoError(t, err)
	_, g, err := f.Image()
	require.NoError(t, err, path)
	require.Equal(t, want.Size, f.Size, path)
	require.Equal(t, want.Type, f.Pixels.Type(), path)
	require.Equal(t, want.SHA256, digest(f.Pixels), path)
	require.Equal(t, volume.ITK{Spacing: want.Spacing, Origin: want.Origin, Direction: want.Direction},
		*g, path)
	h, err := nrrd.ReadHeader(path)
	require.NoError(t, err)
	require.Equal(t, f.Head().Geometry, h.Head().Geometry)
}

// read reads a file with its geometry, as image convert does.
func read(path string) (*nrrd.File, error) {
	f, err := nrrd.Read(path)
	if err == nil {
		_, _, err = f.Image()
	}
	return f, err
}

func TestReadsAsSimpleITK(t *testing.T) {
	done, refused := readsAsSimpleITK(t, corpus)
	require.Greater(t, done, 240)
	require.Greater(t, refused, 60)
}

// readsAsSimpleITK returns how many files of a folder are read, and how many are refused as by
// SimpleITK.
func readsAsSimpleITK(t *testing.T, folder string) (done, refused int) {
	for name, want := range expectations(t, folder) {
		path := filepath.Join(folder, name)
		switch {
		case strings.HasPrefix(name, "differs-"), strings.HasPrefix(name, "pynrrd-bzip2-"):
		case name == "pynrrd-ascii-int64.nrrd", name == "pynrrd-ascii-uint64.nrrd":
			// pynrrd writes 9.2233720368547758e+18, of which SimpleITK reads 9.
			_, err := read(path)
			require.ErrorContains(t, err, "is none that", name)
		case want.Crash || want.Vector || want.Error != "":
			refused++
			_, err := read(path)
			require.Error(t, err, name)
		default:
			done++
			requireReading(t, path, want)
		}
	}
	return done, refused
}

// bzip2 is read although ITK does not: the same pixels as of the raw file of the same writer.
func TestReadsBzip2(t *testing.T) {
	require.Equal(t, 30, readsBzip2(t, corpus))
}

func readsBzip2(t *testing.T, folder string) (n int) {
	expected := expectations(t, folder)
	for name := range expected {
		twin := strings.Replace(strings.TrimPrefix(name, "differs-"), "bzip2", "raw", 1)
		want, ok := expected[twin]
		if !strings.Contains(name, "bzip2-") || !ok {
			continue
		}
		n++
		f, err := nrrd.Read(filepath.Join(folder, name))
		require.NoError(t, err)
		require.Equal(t, want.Type, f.Type)
		require.Equal(t, want.SHA256, digest(f.Pixels), name)
	}
	return n
}

func TestDiffersFromSimpleITK(t *testing.T) {
	plain, err := nrrd.Read(filepath.Join(corpus, "plain.nrrd"))
	require.NoError(t, err)
	for _, name := range []string{"bzip2.nrrd", "bz2.nrrd", "pair-of-colon.nrrd", "bzip2-skip.nrrd", "bzip2-skip-end.nrrd",
		"trailing-spaces.nrrd", "text-commas.nrrd", "units-and-directions.nrrd",
		"list-blank.nhdr", "no-end.nhdr", "one-bzip2.nhdr"} {
		f, err := read(filepath.Join(corpus, "differs-"+name))
		require.NoError(t, err, name)
		require.Equal(t, plain.Pixels, f.Pixels, name)
	}
	for name, want := range map[string]string{
		"bzip2-damaged": "the compressed data are damaged after 13 of 16 bytes",
		"bzip2-cut":     "the compressed data are cut off after 16 of 16 bytes",
		"text-fraction": "number 2 of the text is none that int16 holds",
		"text-wide":     "number 2 of the text is one that int16 does not hold",
		"spacings-unit": `spacings: found "1mm", expected a finite number`,
		"spacings-hex":  `spacings: found "0x2"`, "sizes-fraction": "sizes: found [2 2.5 2]",
		"byte-skip-into-header": "found 14 bytes of pixels, expected 16", "mins-part-nan": "axis mins: found no finite position of axis 2",
	} {
		_, err := read(filepath.Join(corpus, "differs-"+name+".nrrd"))
		require.ErrorContains(t, err, want, name)
	}
}

func TestRefusesSeveralValuesForEachPixel(t *testing.T) {
	for name, want := range map[string]string{
		"vector": `kinds: found the kind "vector" of axis 1, 2 values for each pixel`, "list-last": `found the kind "list" of axis 4`,
		"rgb": `found the kind "rgb-color" of axis 1, 3 values`, "complex": "store one channel per file",
	} {
		for _, f := range []func(string) error{
			func(path string) error { _, err := nrrd.Read(path); return err },
			func(path string) error { _, err := nrrd.ReadHeader(path); return err },
		} {
			require.ErrorContains(t, f(filepath.Join(corpus, name+".nrrd")), want)
		}
	}
}

// head is the text of a file up to its pixels, without the name of a data file.
func head(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b, _, _ = bytes.Cut(b, []byte("\n\n"))
	b, name, ok := bytes.Cut(b, []byte("data file: "))
	if ok {
		require.Contains(t, string(name), ".raw")
	}
	return strings.TrimSpace(string(b))
}

// A file that SimpleITK wrote, written again, has the same header; raw pixels make the same file.
func TestWritesAsSimpleITK(t *testing.T) {
	n := 0
	for name, want := range expectations(t, corpus) {
		if !strings.HasPrefix(name, "sitk-") {
			continue
		}
		n++
		path := filepath.Join(corpus, name)
		f, err := nrrd.Read(path)
		require.NoError(t, err)
		out := filepath.Join(t.TempDir(), name)
		if f.Encoding == "raw" {
			require.NoError(t, nrrd.WriteRaw(out, f.Size, &volume.ITK{Spacing: want.Spacing, Origin: want.Origin, Direction: want.Direction}, f.Pixels))
		} else {
			require.NoError(t, nrrd.Write(out, f.Size, &volume.ITK{Spacing: want.Spacing, Origin: want.Origin, Direction: want.Direction}, f.Pixels, 2))
		}
		again, err := nrrd.Read(out)
		require.NoError(t, err)
		require.Equal(t, f.Pixels, again.Pixels)
		require.Equal(t, f.Encoding, again.Encoding)
		// The last bits of a direction may differ: the vectors here are products of what was read.
		mine, theirs := strings.Split(head(t, out), "\n"), strings.Split(head(t, path), "\n")
		require.Len(t, mine, len(theirs), name)
		for i := range mine {
			if !strings.HasPrefix(mine[i], "space directions") {
				require.Equal(t, theirs[i], mine[i], name)
			}
		}
	}
	require.Equal(t, 30, n)
}

func TestBytesDoNotDependOnTheThreads(t *testing.T) {
	p := make(volume.Slice[int16], 3<<20)
	for i := range p {
		p[i] = int16(i * i >> 7)
	}
	g := &volume.ITK{Spacing: []float64{1, 2, 3}, Origin: []float64{0, 0, 0}, Direction: []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}}
	folder := t.TempDir()
	first := map[string][]byte{}
	for _, workers := range []int{0, 1, 2, 5} {
		for _, name := range []string{"a.nrrd", "B.NHDR"} {
			path := filepath.Join(folder, name)
			require.NoError(t, nrrd.Write(path, []int{1024, 1024, 3}, g, p, workers))
			f, err := nrrd.Read(path)
			require.NoError(t, err)
			require.Equal(t, volume.Pixels(p), f.Pixels)
		}
		for _, name := range []string{"a.nrrd", "B.raw.gz"} {
			b, err := os.ReadFile(filepath.Join(folder, name))
			require.NoError(t, err)
			if first[name] == nil {
				first[name] = b
			}
			require.True(t, bytes.Equal(first[name], b), "%s: %d workers", name, workers)
		}
	}
	// Another program's gzip takes it.
	z, err := gzip.NewReader(bytes.NewReader(first["B.raw.gz"]))
	require.NoError(t, err)
	var all bytes.Buffer
	_, err = all.ReadFrom(z)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p.Bytes(), all.Bytes()))

	require.NoError(t, nrrd.WriteRaw(filepath.Join(folder, "c.nhdr"), []int{1024, 1024, 3}, g, p))
	b, err := os.ReadFile(filepath.Join(folder, "c.raw"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(p.Bytes(), b))
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, files, 5) // a.nrrd, B.NHDR, B.raw.gz, c.nhdr, c.raw
}

func TestWriteRefusesWhatNoFileHolds(t *testing.T) {
	g := &volume.ITK{Spacing: []float64{1, 2}, Origin: []float64{0, 0}, Direction: []float64{1, 0, 0, 1}}
	huge := &volume.ITK{Spacing: []float64{1e300, 2}, Origin: []float64{0, 0}, Direction: []float64{1e300, 0, 0, 1}}
	folder := t.TempDir()
	for want, write := range map[string]func() error{
		"found 3 pixels, expected 4": func() error { return nrrd.Write(folder+"/a.nrrd", []int{2, 2}, g, make(volume.Slice[int8], 3), 1) },
		"found 1 axes":               func() error { return nrrd.Write(folder+"/a.nrrd", []int{2}, g, make(volume.Slice[int8], 2), 1) },
		"axis 1 has 0 voxels":        func() error { return nrrd.Write(folder+"/a.nrrd", []int{2, 0}, g, make(volume.Slice[int8], 0), 1) },
		"cannot name a data file":    func() error { return nrrd.Write(folder+"/a%d.nhdr", []int{1, 1}, g, make(volume.Slice[int8], 1), 1) },
		"more than a number holds":   func() error { return nrrd.Write(folder+"/a.nrrd", []int{1, 1}, huge, make(volume.Slice[int8], 1), 1) },
		"no such file or directory":  func() error { return nrrd.Write(folder+"/b/a.nhdr", []int{1, 1}, g, make(volume.Slice[int8], 1), 1) },
	} {
		require.ErrorContains(t, write(), want)
	}
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, files)
}

const detached = "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 2 2\nencoding: raw\ndata file: "

func TestHostileDataFiles(t *testing.T) {
	outside, folder := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret.raw")
	require.NoError(t, os.WriteFile(secret, []byte("1234"), 0o666))
	require.NoError(t, os.Mkdir(filepath.Join(folder, "below"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "below", "a.raw"), []byte("1234"), 0o666))
	require.NoError(t, os.Symlink("below/a.raw", filepath.Join(folder, "inside.raw")))
	require.NoError(t, os.Symlink(secret, filepath.Join(folder, "link.raw")))
	require.NoError(t, os.Symlink(outside, filepath.Join(folder, "linked")))
	require.NoError(t, os.Symlink("/dev/zero", filepath.Join(folder, "zero.raw")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(folder, "pipe.raw"), 0o666))
	relative, err := filepath.Rel(folder, secret)
	require.NoError(t, err)
	path := filepath.Join(folder, "a.nhdr")
	for name, want := range map[string]string{
		"below/a.raw": "", "./below/../below/a.raw": "", "inside.raw": "", secret: "in the folder of the header or below it", relative: "in the folder of the header or below it",
		"/dev/zero": "in the folder of the header or below it", "-": "no such file", "link.raw": "path escapes", "linked/secret.raw": "path escapes", "zero.raw": "path escapes",
		"pipe.raw": "not a regular file", "below": "not a regular file", "absent.raw": "no such file", "a.nhdr": "names itself", "./a.nhdr": "names itself",
		"LIST": "found 0 files", "LIST\nbelow/a.raw\n../b": "in the folder of the header or below it", "LIST 2\nbelow/a.raw\n./below/a.raw": "twice", "LIST 3": "from 1 to 2", "LIST x": "from 1 to 2",
		"d%02d.raw 1 2 1": "d01.raw: no such file", "../%d.raw 1 2 1": "in the folder of the header or below it", "%n%d.raw 1 2 1": "expected one number such as",
		"%s.raw 1 2 1": "expected one number such as", "%d.raw 1 99999999999 1": "expected a whole number", "%d.raw 1 2147483647 1": "expected 1 to 65536", "%d.raw 1 2 1 7": "from 1 to 2",
		"%9999999d.raw 1 2 1": "expected one number such as",
		" ":                   "found nothing",
	} {
		require.NoError(t, os.WriteFile(path, []byte(detached+name+"\n"), 0o666))
		f, err := nrrd.Read(path)
		if want == "" {
			require.NoError(t, err, name)
			require.Equal(t, volume.Pixels(volume.Slice[uint8]("1234")), f.Pixels)
			continue
		}
		require.ErrorContains(t, err, want, name)
		require.ErrorContains(t, err, path)
	}
	_, err = nrrd.Read(filepath.Join(folder, "pipe.raw"))
	require.ErrorContains(t, err, "not a regular file")
}

// zeros is a gzip stream of n zeros.
func zeros(t *testing.T, n int) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(make([]byte, n))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.String()
}

// Small files take neither memory nor time, whatever they claim.
func TestHostileHeaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.nrrd")
	const start = "NRRD0004\ntype: double\ndimension: 3\nendian: little\n"
	const huge = start + "sizes: 100000 100000 10\nencoding: "
	const small = start + "sizes: 2 2 2\nencoding: "
	bomb := zeros(t, 64<<20)
	for content, want := range map[string]string{
		start + "sizes: 2147483647 2147483647 2147483647\nencoding: raw\n\n": "more than any file holds",
		huge + "raw\n\nabc":                                                           "found 3 bytes of pixels, expected 800000000000",
		huge + "gzip\n\nabc":                                                          "which hold at most 3096, expected 800000000000",
		huge + "bzip2\n\nabc":                                                         "which hold at most 268435456, expected 800000000000",
		huge + "text\n\n1 2":                                                          "found 3 bytes of text, expected 100000000000 numbers",
		huge + "hex\n\n00 01":                                                         "found 5 hexadecimal digits, expected 1600000000000",
		huge + "gzip\n\n" + bomb:                                                      "expected 800000000000",
		small + "gzip\n\nabc":                                                         "do not begin as zlib's or gzip's",
		small + "gzip\n\n" + strings.Repeat("a", 99):                                  "do not begin as zlib's or gzip's",
		small + "bzip2\n\n" + strings.Repeat("a", 99):                                 "damaged",
		small + "gzip\nbyte skip: 70000000000\n\n" + bomb:                             "expected 70000000064",
		small + "gzip\nbyte skip: 60000000\n\n" + zeros(t, 1<<20):                     "expected 60000064",
		small + "gzip\nbyte skip: -60000000\n\n" + bomb[:len(bomb)/2]:                 "cut off",
		small + "raw\nbyte skip: 9223372036854775807\n\n":                             "more than any file holds",
		small + "raw\nbyte skip: -9223372036854775808\n\n":                            "more than any file holds",
		small + "raw\nbyte skip: -4000000000000000000\n\n" + strings.Repeat("a", 99):  "found 0 bytes of pixels",
		small + "raw\nbyte skip: 99999999999999999999\n\n":                            "expected a whole number",
		small + "raw\nline skip: 9223372036854775807\n\n" + strings.Repeat("a\n", 99): "found 99 lines",
		small + "text\nbyte skip: -1\n\n1 2 3 4 5 6 7 8":                              "found text to be read from its end",
		small + "text\n\n" + strings.Repeat("1", 1<<20):                               "more than 512 characters",
		"NRRD0004\ntype: short\ndimension: 3000\nsizes:" + strings.Repeat(" 1", 3000): `dimension: found "3000", expected 1 to 16 axes`,
		"NRRD0004\nspace dimension: 4000000000\n":                                     "space dimension",
		start + "sizes: 1e300 2 2\nencoding: raw\n\n":                                 "expected whole numbers of voxels",
		start + "sizes: nan 2 2\nencoding: raw\n\n":                                   "expected whole numbers of voxels",
		"": "found no line NRRD0001", "NRRD": "found no line NRRD0001", "NRRD0004\n": "no data file", "NRRD0004\n#" + strings.Repeat("x", 3<<20): "which ends the header, in the first",
		"NRRD0004\n" + strings.Repeat("a:=b\n", 1<<19):                                               "which ends the header, in the first",
		"NRRD0004\nspace: LPS\ndimension: 2\nspace directions: " + strings.Repeat("(", 1<<16) + "\n": "space directions: found no vector",
	} {
		require.NoError(t, os.WriteFile(path, []byte(content), 0o666))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := nrrd.Read(path)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
		require.Less(t, time.Since(start), 5*time.Second)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), want)
	}
}

// What people write into a header is in no message.
func TestErrorsQuoteNoPairs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.nrrd")
	for _, line := range []string{"Patient:=Marker", "Marker:=1", "content: Marker", "labels: \"Marker\"", "# Marker", "Marker", "Marker: 1", "Patient Marker: x:y"} {
		for _, rest := range []string{"\n\n", "\nencoding: raw\nencoding: raw\n\n", "\nsizes: 2 2 2\n\n"} {
			require.NoError(t, os.WriteFile(path, []byte("NRRD0004\ntype: short\ndimension: 3\n"+line+rest), 0o666))
			_, err := nrrd.Read(path)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "Marker")
		}
	}
	f, err := nrrd.ReadHeader(filepath.Join(corpus, "pairs.nrrd"))
	require.NoError(t, err)
	require.True(t, f.Head().Extensions)
	f, err = nrrd.ReadHeader(filepath.Join(corpus, "plain.nrrd"))
	require.NoError(t, err)
	require.False(t, f.Head().Extensions)
}

// Files of SimpleITK, of pynrrd and of the script, of every type in every encoding and byte order,
// attached and detached, are read as SimpleITK reads them. SimpleITK and pynrrd read what we write of
// them, and it is what SimpleITK writes.
func TestLiveImagesAreReadAndWrittenAsBySimpleITK(t *testing.T) {
	folder, ours, theirs := t.TempDir(), t.TempDir(), t.TempDir()
	golden.RunImages(t, "nrrd_corpus.py", folder, "--live", "--seed", golden.Seed(t))
	done, refused := readsAsSimpleITK(t, folder)
	require.Greater(t, done, 360)
	require.Greater(t, refused, 60)
	require.Equal(t, 50, readsBzip2(t, folder))
	want := expectations(t, folder)
	for name := range want {
		f, err := nrrd.Read(filepath.Join(folder, name))
		if err != nil {
			continue
		}
		_, g, err := f.Image()
		if err != nil {
			continue
		}
		write := func(path string) error { return nrrd.Write(path, f.Size, g, f.Pixels, 2) }
		if f.Encoding == "raw" {
			write = func(path string) error { return nrrd.WriteRaw(path, f.Size, g, f.Pixels) }
		}
		require.NoError(t, write(filepath.Join(ours, name)))
	}
	golden.RunImages(t, "nrrd_corpus.py", ours, "--read")
	golden.RunImages(t, "nrrd_corpus.py", theirs, "--copy", folder, "--only", "random-*")
	same := 0
	for name, r := range expectations(t, ours) {
		require.Empty(t, r.Error, name)
		requireReading(t, filepath.Join(ours, name), r)
		w := want[name]
		if strings.HasPrefix(name, "random-") {
			require.Equal(t, head(t, filepath.Join(theirs, name)), head(t, filepath.Join(ours, name)))
			same++
		}
		if strings.HasPrefix(name, "differs-") || strings.HasPrefix(name, "pynrrd-bzip2-") {
			continue // SimpleITK does not read them
		}
		require.Equal(t, []any{w.Size, w.Type, w.SHA256, w.Origin}, []any{r.Size, r.Type, r.SHA256, r.Origin}, name)
		// a vector's length is rounded once more
		require.InDeltaSlice(t, w.Spacing, r.Spacing, 1e-14, name)
		require.InDeltaSlice(t, w.Direction, r.Direction, 1e-14, name)
	}
	require.Equal(t, 60, same)
}

func FuzzRead(f *testing.F) {
	for _, pattern := range []string{"*.nrrd", "*.nhdr"} {
		names, err := filepath.Glob(filepath.Join(corpus, pattern))
		require.NoError(f, err)
		for _, name := range names {
			b, err := os.ReadFile(name)
			require.NoError(f, err)
			f.Add(b)
		}
	}
	f.Add([]byte(detached + "../a.raw\n"))
	path := filepath.Join(f.TempDir(), fmt.Sprint(os.Getpid(), ".nrrd"))
	f.Fuzz(func(t *testing.T, content []byte) {
		require.NoError(t, os.WriteFile(path, content, 0o666))
		file, err := nrrd.Read(path)
		if err != nil {
			require.ErrorContains(t, err, path)
			return
		}
		im, g, err := file.Image()
		if err != nil {
			return
		}
		require.Equal(t, file.Pixels.Len(), volume.Numel(im.Shape))
		if err := nrrd.Write(path, file.Size, g, file.Pixels, 1); err != nil {
			require.ErrorContains(t, err, path)
			return
		}
		again, err := nrrd.Read(path)
		require.NoError(t, err)
		require.Equal(t, digest(file.Pixels), digest(again.Pixels))
	})
}

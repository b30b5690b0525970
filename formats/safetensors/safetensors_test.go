package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

// described is what Python's library reads from a file.
type described struct {
	Metadata map[string]string `json:"metadata"`
	Tensors  map[string]struct {
		DType string  `json:"dtype"`
		Shape []int64 `json:"shape"`
		Hex   string  `json:"hex"`
	} `json:"tensors"`
}

var torchNames = map[DType]string{Bool: "bool", Uint8: "uint8", Int8: "int8", Int16: "int16",
	Float16: "float16", BFloat16: "bfloat16",
	Int32: "int32", Float32: "float32", Float64: "float64", Int64: "int64"}

func describe(t *testing.T, path string) described {
	t.Helper()
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	d := described{Metadata: f.Metadata, Tensors: map[string]struct {
		DType string  `json:"dtype"`
		Shape []int64 `json:"shape"`
		Hex   string  `json:"hex"`
	}{}}
	for _, x := range f.Tensors {
		require.Same(t, x, f.Tensor(x.Name))
		b := make([]byte, x.Bytes())
		require.NoError(t, x.ReadInto(b))
		e := d.Tensors[x.Name]
		e.DType, e.Shape, e.Hex = torchNames[x.DType], x.Shape, hex.EncodeToString(b)
		d.Tensors[x.Name] = e
	}
	return d
}

func corpus(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(golden.Path(t, "safetensors/*.safetensors"))
	require.NoError(t, err)
	require.Len(t, files, 5)
	return files
}

// rewrite reads a file and writes it again, passing the tensors to Save in another order.
func rewrite(t *testing.T, in, out string) {
	t.Helper()
	f, err := Open(in)
	require.NoError(t, err)
	defer f.Close()
	var entries []Entry
	for _, x := range f.Tensors {
		entries = append(entries, Entry{x.Name, x.DType, x.Shape, x.ReadInto})
	}
	slices.Reverse(entries)
	require.NoError(t, Save(out, entries, f.Metadata))
}

func TestFilesOfPythonAreReadAndWrittenToTheSameBytes(t *testing.T) {
	var want map[string]described
	golden.LoadJSON(t, "safetensors/corpus.json", &want)
	for _, path := range corpus(t) {
		name := strings.TrimSuffix(filepath.Base(path), ".safetensors")
		require.Equal(t, want[name], describe(t, path), name)
		out := filepath.Join(t.TempDir(), "again.safetensors")
		rewrite(t, path, out)
		was, err := os.ReadFile(path)
		require.NoError(t, err)
		is, err := os.ReadFile(out)
		require.NoError(t, err)
		require.Equal(t, was, is, name)
	}
}

// TestLiveBothDirections: Python reads what we write, including metadata with several keys, and
// writes the same bytes itself.
func TestLiveBothDirections(t *testing.T) {
	golden.Python(t)
	dir := t.TempDir()
	ours := filepath.Join(dir, "ours.safetensors")
	b := func(n int) []byte {
		out := make([]byte, n)
		for i := range out {
			out[i] = byte(i * 7)
		}
		return out
	}
	require.NoError(t, Save(ours, []Entry{
		{"z.weight", Float32, []int64{2, 3}, Bytes(b(24))},
		{"a.index", Int64, []int64{2}, Bytes(b(16))},
		{"b.half", Float16, []int64{3}, Bytes(b(6))},
		{"a.flag", Bool, []int64{}, Bytes([]byte{1})},
		{"b.weight", Float32, []int64{0, 4}, Bytes(nil)},
		{"ä/\u2028\x01", BFloat16, []int64{1}, Bytes(b(2))},
	}, map[string]string{"format": "pt"}))
	theirs := filepath.Join(dir, "theirs.safetensors")
	golden.Run(t, "safetensors_corpus.py", "--rewrite", ours, theirs)
	x, err := os.ReadFile(ours)
	require.NoError(t, err)
	y, err := os.ReadFile(theirs)
	require.NoError(t, err)
	require.Equal(t, y, x)

	several := filepath.Join(dir, "several.safetensors")
	require.NoError(t, Save(several, []Entry{{"w", Float32, []int64{1}, Bytes(b(4))}},
		map[string]string{"format": "pt", "a": "1", "": "é\n"}))
	fresh := filepath.Join(dir, "corpus")
	golden.Run(t, "safetensors_corpus.py", fresh)
	files, err := filepath.Glob(filepath.Join(fresh, "*.safetensors"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	files = append(files, ours, several)
	lines := strings.Split(strings.TrimSpace(string(golden.Run(t, "safetensors_corpus.py",
		append([]string{"--describe"}, files...)...))), "\n")
	require.Len(t, lines, len(files))
	for i, line := range lines {
		var want described
		require.NoError(t, json.Unmarshal([]byte(line), &want))
		require.Equal(t, want, describe(t, files[i]), files[i])
	}
}

// file returns a header preceded by its length and followed by data.
func file(header, data string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header+data...)
}

func TestHostileFilesAreRefused(t *testing.T) {
	w := `"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`
	for name, c := range map[string]struct {
		content []byte
		message string
	}{
		"empty": {nil, "found 0 bytes, expected a safetensors file"},
		"huge header": {append([]byte{255, 255, 255, 255, 255, 255, 255, 255}, "{}"...),
			"at most 8388608 are allowed"},
		"long header": {append([]byte{200, 0, 0, 0, 0, 0, 0, 0}, "{}"...), "it is truncated"},
		"no JSON":     {file("[1]", ""), "found [, expected {"},
		"cut JSON":    {file(`{"w":{"dtype":"F32"`, ""), "is incomplete"},
		"not UTF-8":   {file("{\"\xff\":{}}", ""), "not UTF-8"},
		"more behind": {file("{} {}", ""), "bytes follow its end"},
		"twice":       {file("{"+w+","+w+"}", "12345678"), `tensor "w" appears twice`},
		"shape twice": {
			file(`{"w":{"shape":[1],"dtype":"U8","shape":[2],"data_offsets":[0,1]}}`, "1"),
			`"shape" appears twice`},
		"metadata twice": {file(`{"__metadata__":{},"__metadata__":{}}`, ""),
			"__metadata__ appears twice"},
		"metadata number": {file(`{"__metadata__":{"a":1}}`, ""), `"a" is not text`},
		"metadata key":    {file(`{"__metadata__":{"a":"1","a":"2"}}`, ""), `"a" appears twice`},
		"dtype": {file(`{"w":{"dtype":"F31","shape":[],"data_offsets":[0,4]}}`, "1234"),
			"element type F31 is not known"},
		"dtype number": {file(`{"w":{"dtype":7,"shape":[],"data_offsets":[0,4]}}`, "1234"),
			"element type 7 is not known"},
		"missing": {file(`{"w":{"dtype":"F32","shape":[1]}}`, "1234"),
			"expected dtype, shape and two data_offsets"},
		"one offset": {file(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}}`, "1234"),
			"expected dtype, shape and two data_offsets"},
		"unknown key": {
			file(`{"w":{"dtype":"F32","shape":[1],"stride":[1],"data_offsets":[0,4]}}`, "1234"),
			`key "stride" is not known`},
		"negative": {file(`{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, "1234"),
			"found -1, expected whole numbers of 0 or more"},
		"fraction": {file(`{"w":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}`,
			"1234"), "expected whole numbers of 0 or more"},
		"huge shape": {
			file(`{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}`,
				"1234"), "more than 2^63"},
		"wraps": {
			file(`{"w":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}}`,
				"1234"), "larger than any file"},
		"many axes": {file(`{"w":{"dtype":"U8","shape":[`+strings.Repeat("1,",
			64)+`1],"data_offsets":[0,1]}}`, "1"), "more than 64 integers"},
		"size": {file(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}`, "1234"),
			"hold 4 bytes, shape [2] of F32 needs 8"},
		"backwards": {file(`{"w":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}`, "1234"),
			"hold -4 bytes"},
		"overlap": {file(`{`+w+`,"v":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`,
			"123456789012"), "neither overlap nor leave gaps"},
		"gap": {file(`{`+w+`,"v":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}`,
			"1234567890123456"), "neither overlap nor leave gaps"},
		"beyond": {file(`{`+w+`}`, "1234"), "describes 8 bytes of data, the file has 4"},
		"rest": {file(`{`+w+`}`, "1234567890"),
			"describes 8 bytes of data, the file has 10"},
		"far": {
			file(`{"w":{"dtype":"U8","shape":[0],"data_offsets":[9223372036854775807,9223372036854775807]}}`, ""), "neither overlap nor leave gaps"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f.safetensors")
			require.NoError(t, os.WriteFile(path, c.content, 0o644))
			_, err := Open(path)
			require.ErrorContains(t, err, c.message)
			require.ErrorContains(t, err, path)
		})
	}
	_, err := Open(t.TempDir())
	require.ErrorContains(t, err, "is not a regular file")
}

func TestReadingStaysInsideTheTensor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.safetensors")
	require.NoError(t,
		Save(path, []Entry{{"a", Uint8, []int64{4}, Bytes([]byte{1, 2, 3, 4})},
			{"b", Uint8, []int64{2}, Bytes([]byte{5, 6})}}, nil))
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	a := f.Tensor("a")
	p := make([]byte, 2)
	_, err = a.ReadAt(p, 2)
	require.NoError(t, err)
	require.Equal(t, []byte{3, 4}, p)
	for _, off := range []int64{3, -1} {
		_, err = a.ReadAt(p, off)
		require.ErrorContains(t, err, "of 4")
	}
	require.ErrorContains(t, a.ReadInto(p), "4 bytes into a buffer of 2")
	require.Nil(t, f.Tensor("c"))
	require.NoError(t, os.Truncate(path, f.Tensor("b").off+1))
	require.ErrorContains(t, f.Tensor("b").ReadInto(p), "truncated while being read")
}

func TestSaveRefusesAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f.safetensors")
	one := Bytes([]byte{1})
	for message, entries := range map[string][]Entry{
		"appears twice":          {{"a", Uint8, []int64{1}, one}, {"a", Uint8, []int64{1}, one}},
		"reserved by the format": {{metadataKey, Uint8, []int64{1}, one}},
		`element type "F31"`:     {{"a", "F31", []int64{1}, one}},
		"negative size":          {{"a", Uint8, []int64{-1}, one}},
		"its shape needs 2":      {{"a", Uint8, []int64{2}, one}},
		"is not UTF-8":           {{"\xff", Uint8, []int64{1}, one}},
		"the disk is on fire": {{"a", Uint8, []int64{1},
			func([]byte) error { return errors.New("the disk is on fire") }}},
	} {
		require.ErrorContains(t, Save(path, entries, nil), message)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func FuzzSafetensors(f *testing.F) {
	files, err := filepath.Glob(golden.Path(f, "safetensors/*.safetensors"))
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, path := range files {
		b, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := read(strings.NewReader(string(data)), int64(len(data)), "fuzz")
		if err != nil {
			return
		}
		total := int64(0)
		for _, tensor := range x.Tensors {
			total += tensor.Bytes()
			require.LessOrEqual(t, total, int64(len(data)))
			require.NoError(t, tensor.ReadInto(make([]byte, tensor.Bytes())))
		}
	})
}

// The largest accepted header, full of empty tensors, takes little time and memory.
func TestHeaderOfManyTensorsIsReadSoon(t *testing.T) {
	var header bytes.Buffer
	header.WriteByte('{')
	for i := 0; header.Len() < maxHeader-100; i++ {
		fmt.Fprintf(&header, `"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},`, i)
	}
	header.Truncate(header.Len() - 1)
	header.WriteByte('}')
	data := append(binary.LittleEndian.AppendUint64(nil, uint64(header.Len())), header.Bytes()...)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	f, err := read(bytes.NewReader(data), int64(len(data)), "x")
	require.NoError(t, err)
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d tensors, %v, %d MB", len(f.Tensors), took, (after.HeapAlloc-before.HeapAlloc)>>20)
	require.Less(t, took, 20*time.Second) // on a busy machine
	require.Less(t, after.HeapAlloc-before.HeapAlloc, uint64(160<<20))
	runtime.KeepAlive(f)
}

func TestFilesThatAreNoSafetensorsAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"<!DOCTYPE html><html>": "found a web page, expected a safetensors file: the link led to a page about the file; download the file itself",
		"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "found a Git LFS pointer, which stands for the file, expected a safetensors file: run `git lfs pull`",
		"PK\x03\x04ab":     "found a zip archive",
		"hi":               "found a text",
		"\x1f\x8b\x08\x00": "found a gzip file (a .nii.gz image?), expected a safetensors file: give a checkpoint",
	} {
		_, err := read(strings.NewReader(text), int64(len(text)), "x")
		require.ErrorContains(t, err, want)
	}
}

package npz

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const corpus = "../../testdata/golden/npz"

type want struct {
	DType  string
	Shape  []int
	Values []string
}

func expected(t testing.TB) map[string]want {
	b, err := os.ReadFile(filepath.Join(corpus, "expected.json"))
	require.NoError(t, err)
	raw := map[string]json.RawMessage{}
	require.NoError(t, json.Unmarshal(b, &raw))
	out := map[string]want{}
	for name, text := range raw {
		if name != "versions" {
			var w want
			require.NoError(t, json.Unmarshal(text, &w))
			out[name] = w
		}
	}
	return out
}

func requireValues(t *testing.T, w want, a *Array) {
	require.Equal(t, w.DType, a.DType)
	require.Equal(t, w.Shape, a.Shape)
	if a.DType[1] == 'f' {
		got, err := a.Float64s()
		require.NoError(t, err)
		require.Len(t, got, len(w.Values))
		for i, text := range w.Values {
			f, err := strconv.ParseFloat(text, 64)
			require.NoError(t, err)
			require.Equal(t, math.Float64bits(f), math.Float64bits(got[i]), "%d: %v %v", i, f,
				got[i])
		}
		return
	}
	got, err := a.Int64s()
	require.NoError(t, err)
	require.Len(t, got, len(w.Values))
	for i, text := range w.Values {
		require.Equal(t, text, strconv.FormatInt(got[i], 10))
	}
}

func TestNumpysFilesAreRead(t *testing.T) {
	for name, w := range expected(t) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(corpus, name+".npy")
			a, err := OpenNpy(path)
			require.NoError(t, err)
			requireValues(t, w, a)
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			b, err := ReadNpy(bytes.NewReader(raw))
			require.NoError(t, err)
			require.Equal(t, a, b)
			if !strings.HasPrefix(name, "version") {
				var out bytes.Buffer
				require.NoError(t, WriteNpy(&out, a))
				require.Equal(t, string(raw), out.String(), "the bytes of numpy.save")
			}
		})
	}
	for _, name := range []string{"stored", "deflated"} {
		f, err := OpenNpz(filepath.Join(corpus, name+".npz"))
		require.NoError(t, err)
		require.Equal(t, []string{"f4", "fortran_i2", "scalar", "empty"}, f.Names())
		for _, member := range f.Names() {
			a, err := f.Read(member)
			require.NoError(t, err)
			requireValues(t, expected(t)[member], a)
			shape, dtype, err := f.Shape(member)
			require.NoError(t, err)
			require.Equal(t, a.Shape, shape)
			require.Equal(t, a.DType, dtype)
		}
		_, err = f.Read("data")
		require.ErrorContains(t, err,
			`no array "data"; the file holds ["f4" "fortran_i2" "scalar" "empty"]`)
		require.NoError(t, f.Close())
	}
	_, err := OpenNpy(filepath.Join(corpus, "refused_object.npy"))
	require.ErrorContains(t, err, `"|O" is not supported`)
	_, err = OpenNpy(filepath.Join(corpus, "refused_structured.npy"))
	require.ErrorContains(t, err, "structured arrays are not supported")
}

func TestConversionsRefuseLoss(t *testing.T) {
	a, err := New([]int64{1, 70000})
	require.NoError(t, err)
	_, err = a.Int16s()
	require.ErrorContains(t, err, "value 70000 at index 1 does not fit into int16")
	_, err = a.Uint8s()
	require.Error(t, err)
	got, err := a.Float32s()
	require.NoError(t, err)
	require.Equal(t, []float32{1, 70000}, got)
	a, err = New([]int8{-1})
	require.NoError(t, err)
	_, err = a.Uint8s()
	require.ErrorContains(t, err, "value -1 at index 0 does not fit into uint8")
	a, err = New([]float32{1})
	require.NoError(t, err)
	_, err = a.Int64s()
	require.ErrorContains(t, err, "without loss")
	a, err = New([]uint64{math.MaxUint64})
	require.NoError(t, err)
	_, err = a.Int64s()
	require.ErrorContains(t, err, "does not fit")
	_, err = New([]int8{1, 2}, 3)
	require.ErrorContains(t, err, "shape [3] for 2 values")
}

func TestWriterRoundTrip(t *testing.T) {
	for _, deflate := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "a.npz")
		w, err := Create(path, deflate)
		require.NoError(t, err)
		x, err := New([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
		require.NoError(t, err)
		y, err := New([]bool{true, false})
		require.NoError(t, err)
		require.NoError(t, w.Add("x/sub", x))
		require.NoError(t, w.Add("y", y))
		require.NoFileExists(t, path)
		require.NoError(t, w.Close())
		f, err := OpenNpz(path)
		require.NoError(t, err)
		got, err := f.Read("x/sub")
		require.NoError(t, err)
		require.Equal(t, x, got)
		got, err = f.Read("y")
		require.NoError(t, err)
		b, err := got.Bools()
		require.NoError(t, err)
		require.Equal(t, []bool{true, false}, b)
		require.NoError(t, f.Close())
	}
}

func TestWriterErrorLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "a.npz"), false)
	require.NoError(t, err)
	require.ErrorContains(t,
		w.Add("x", &Array{DType: "<f4", Shape: []int{3}, Data: make([]byte, 8)}), "with 8 bytes")
	require.Error(t, w.Close())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func npy(header string, data string) []byte {
	b := append([]byte(magic), 1, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(header)))
	return append(append(b, header...), data...)
}

func TestHostileArraysAreRefused(t *testing.T) {
	head := func(shape string) string {
		return fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n", shape)
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "header (truncated?)"},
		{"other", []byte("hello world, hello"), "not a .npy array"},
		{"version", append([]byte(magic), 9, 0, 0, 0), "version 9.0"},
		{"long header", append([]byte(magic), 2, 0, 0xff, 0xff, 0xff, 0xff),
			"header of 4294967295 bytes"},
		{"absurd shape", npy(head("(1099511627776,)"), "x"), "needs 4398046511104 bytes"},
		{"overflowing shape", npy(head("(4611686018427387904, 4611686018427387904)"), "x"), "2^63"},
		{"overflowing bytes", npy(head("(4611686018427387904,)"), "x"), "larger than any memory"},
		{"size beyond int64", npy(head("(99999999999999999999,)"), "x"), "tuple"},
		{"negative", npy(head("(-1,)"), ""), "tuple"},
		{"many axes", npy(head("("+strings.Repeat("1,", 65)+")"), "abcd"), "at most 64"},
		{"code", npy("{'descr': __import__('os').system('true'), }", ""), "a string expected"},
		{"missing key", npy("{'descr': '<f4', 'shape': (1,)}", "abcd"), "nothing else"},
		{"key twice", npy("{'descr': '<f4', 'descr': '<f4', 'shape': (1,)}", "abcd"), "twice"},
		{"unknown key", npy("{'descr': '<f4', 'x': (1,)}", "abcd"), "unknown key"},
		{"type", npy(strings.Replace(head("(1,)"), "<f4", "<f3", 1), "abcd"), "not supported"},
		{"short", npy(head("(2,)"), "abcdefg"), "truncated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadNpy(bytes.NewReader(c.data))
			require.ErrorContains(t, err, c.want)
			path := filepath.Join(t.TempDir(), "x.npy")
			require.NoError(t, os.WriteFile(path, c.data, 0o644))
			_, err = OpenNpy(path)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, path)
		})
	}
	path := filepath.Join(t.TempDir(), "long.npy")
	require.NoError(t, os.WriteFile(path, npy(head("(1,)"), "abcdefg"), 0o644))
	_, err := OpenNpy(path)
	require.ErrorContains(t, err, "needs 4 bytes, the file holds 7")
}

func TestTruncatedArchivesAreRefused(t *testing.T) {
	whole, err := os.ReadFile(filepath.Join(corpus, "deflated.npz"))
	require.NoError(t, err)
	for n := range whole {
		_, err := read(bytes.NewReader(whole[:n]), int64(n))
		require.Error(t, err, n)
	}
}

func TestHostileArchivesAreRefused(t *testing.T) {
	archive := func(name, data string, method uint16) []byte {
		var buf bytes.Buffer
		w := zip.NewWriter(&buf)
		for _, n := range strings.Split(name, "|") {
			out, err := w.CreateHeader(&zip.FileHeader{Name: n, Method: method})
			require.NoError(t, err)
			_, err = io.WriteString(out, data)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		return buf.Bytes()
	}
	good := string(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", "abcd"))
	_, err := read(bytes.NewReader(archive("a.txt", good, 0)), 1<<20)
	require.Error(t, err)
	open := func(b []byte) (*File, error) { return read(bytes.NewReader(b), int64(len(b))) }
	_, err = open(archive("a.txt", good, 0))
	require.ErrorContains(t, err, "not a .npy array")
	_, err = open(archive("a.npy|a.npy", good, 0))
	require.ErrorContains(t, err, "two members")
	f, err := open(archive("a.npy", good[:len(good)-1], zip.Deflate))
	require.NoError(t, err)
	_, err = f.Read("a")
	require.ErrorContains(t, err,
		`array "a": an array of shape [1] and type <f4 needs 4 bytes, the file holds 3 (truncated?)`)

	damaged := archive("a.npy", good, 0)
	damaged[bytes.Index(damaged, []byte("abcd"))] ^= 1
	f, err = open(damaged)
	require.NoError(t, err)
	_, err = f.Read("a")
	require.ErrorIs(t, err, zip.ErrChecksum)

	// A member that claims far more data than deflate could have compressed.
	bomb := archive("a.npy", good, zip.Deflate)
	entry := bytes.LastIndex(bomb, []byte("a.npy")) - 46
	binary.LittleEndian.PutUint32(bomb[entry+24:], 1<<31)
	_, err = open(bomb)
	require.ErrorContains(t, err, "claims 2147483648 bytes")
}

func FuzzNpy(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(corpus, "*.npy"))
	require.NoError(f, err)
	for _, path := range files {
		b, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ReadNpy(bytes.NewReader(data))
		if err != nil {
			return
		}
		_, _ = a.Float32s()
		_, _ = a.Int16s()
		var out bytes.Buffer
		require.NoError(t, WriteNpy(&out, a))
		b, err := ReadNpy(&out)
		require.NoError(t, err)
		require.Equal(t, a, b)
	})
}

func FuzzNpz(f *testing.F) {
	for _, name := range []string{"stored.npz", "deflated.npz"} {
		b, err := os.ReadFile(filepath.Join(corpus, name))
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, name := range z.Names() {
			if a, err := z.Read(name); err == nil {
				_, _ = a.Float32s()
			}
		}
	})
}

package pth

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/stretchr/testify/require"
)

// member is an entry of a zip file made for a test.
type member struct {
	name, data string
	method     uint16
}

func zipped(t testing.TB, members ...member) []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, m := range members {
		out, err := w.CreateHeader(&zip.FileHeader{Name: m.name, Method: m.method})
		require.NoError(t, err)
		_, err = io.WriteString(out, m.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// tensorPickle is the data.pkl of one float32 tensor, with nothing checked.
func tensorPickle(t testing.TB, numel, offset int64, size, stride []int64) string {
	storage := pickle.Persistent{ID: pickle.Tuple{"storage", storageClass(Float32), "0", "cpu",
		numel}}
	b, err := pickle.Marshal(pickle.Call{Func: globalTensorV2,
		Args: pickle.Tuple{storage, offset, tuple(size), tuple(stride), false,
			&pickle.OrderedDict{}}}, nil)
	require.NoError(t, err)
	return string(b)
}

func marshal(t testing.TB, v any) string {
	b, err := pickle.Marshal(v, nil)
	require.NoError(t, err)
	return string(b)
}

func readBytes(b []byte) (*File, error) { return read(bytes.NewReader(b), int64(len(b)), "test") }

func TestHostileCheckpointsAreRefused(t *testing.T) {
	good := tensorPickle(t, 4, 0, []int64{2, 2}, []int64{2, 1})
	sixteen := strings.Repeat("x", 16)
	big := int64(math.MaxInt64)
	version := member{"a/version", "3\n", 0}
	storage := member{"a/data/0", sixteen, 0}
	one := func(pkl string) []byte {
		return zipped(t, member{"a/data.pkl", pkl, 0}, version, storage)
	}
	legacy := func(parts ...any) []byte {
		var b []byte
		for _, p := range parts {
			switch p := p.(type) {
			case string:
				b = append(b, p...)
			default:
				b = append(b, marshal(t, p)...)
			}
		}
		return b
	}
	system := &pickle.Dict{}
	system.Set("protocol_version", 1001)
	system.Set("little_endian", true)
	bigEndian := &pickle.Dict{}
	bigEndian.Set("little_endian", false)
	keys := &pickle.List{Items: []any{"0"}}
	four := string(binary.LittleEndian.AppendUint64(nil, 4))

	overlapping := zipped(t, member{"a/data.pkl", good, 0}, version, storage,
		member{"a/data/1", sixteen, 0})
	// The second storage's directory entry is pointed at the first one's local header.
	first := bytes.Index(overlapping, []byte("a/data/0")) - 30
	entry := bytes.LastIndex(overlapping, []byte("a/data/1")) - 46
	binary.LittleEndian.PutUint32(overlapping[entry+42:], uint32(first))

	encrypted := one(good)
	encrypted[bytes.LastIndex(encrypted, []byte("a/data/0"))-46+8] |= 1

	tar := make([]byte, 1024)
	copy(tar[257:], "ustar\x0000")

	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "empty"},
		{"text", []byte("hello, world"), "found a text, expected a PyTorch checkpoint"},
		{"tar", tar, "PyTorch 0.1"},
		{"plain pickle", []byte("\x80\x04N."), "a file of Python's pickle module"},
		{"safetensors", []byte("\x10\x00\x00\x00\x00\x00\x00\x00{\"a\":1}  "), "safetensors"},
		{"zip without a pickle", zipped(t, member{"a/b", "x", 0}), "FOLDER/data.pkl"},
		{"pickle without a folder", zipped(t, member{"data.pkl", good, 0}), "FOLDER/data.pkl"},
		{"nested folder", zipped(t, member{"a/b/data.pkl", good, 0}), "FOLDER/data.pkl"},
		{"two folders", zipped(t, member{"a/data.pkl", good, 0}, member{"b/data.pkl", good, 0}),
			"two checkpoints"},
		{"no version", zipped(t, member{"a/data.pkl", good, 0}, storage), `"a/version" is missing`},
		{"future version", zipped(t, member{"a/data.pkl", good, 0}, member{"a/version", "11", 0},
			storage), "container version"},
		{"TorchScript", zipped(t, member{"a/data.pkl", good, 0}, version, storage,
			member{"a/constants.pkl", "", 0}), "TorchScript"},
		{"big-endian", zipped(t, member{"a/data.pkl", good, 0}, version, storage,
			member{"a/byteorder", "big", 0}), "little-endian"},
		{"missing storage", zipped(t, member{"a/data.pkl", good, 0}, version),
			`"a/data/0" of a storage is missing`},
		{"short storage", zipped(t, member{"a/data.pkl", good, 0}, version,
			member{"a/data/0", "x", 0}), "has 1 bytes"},
		{"path upwards", zipped(t, member{"../data.pkl", good, 0}, version), "path"},
		{"path upwards inside", zipped(t, member{"a/data.pkl", good, 0},
			member{"a/../../etc/passwd", "", 0}), "path"},
		{"absolute path", zipped(t, member{"/a/data.pkl", good, 0}), "path"},
		{"backslash", zipped(t, member{`a\..\data.pkl`, good, 0}), "path"},
		{"duplicate entry", zipped(t, member{"a/data.pkl", good, 0}, version, storage, storage),
			"two zip entries"},
		{"overlapping entries", overlapping, "overlap"},
		{"encrypted", encrypted, "encrypted"},
		{"code", one("\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."),
			`global "os system" is not allowed`},
		{"whole module",
			one(marshal(t, pickle.Persistent{ID: pickle.Tuple{"module", "c", "f", "s"}})),
			"whole pickled module"},
		{"unknown class", one("\x80\x02ctorch\nQInt8Storage\n."),
			`"torch QInt8Storage" is not allowed`},
		{"calling a storage class", one("\x80\x02ctorch\nFloatStorage\n)R."), "calling"},
		{"beyond the storage", one(tensorPickle(t, 4, 1, []int64{2, 2}, []int64{2, 1})),
			"reaches beyond its storage"},
		{"stride beyond", one(tensorPickle(t, 4, 0, []int64{2, 2}, []int64{3, 1})),
			"reaches beyond its storage"},
		{"negative stride", one(tensorPickle(t, 4, 3, []int64{2, 2}, []int64{-2, -1})),
			"negative stride"},
		{"negative offset", one(tensorPickle(t, 4, -1, []int64{2}, []int64{1})),
			"negative storage offset"},
		{"negative size", one(tensorPickle(t, 4, 0, []int64{-2, -2}, []int64{2, 1})),
			"negative size"},
		{"overflowing shape", one(tensorPickle(t, 4, 0, []int64{big, big}, []int64{1, 1})), "2^63"},
		{"overflowing stride", one(tensorPickle(t, 4, 0, []int64{3, 3}, []int64{big, big})),
			"beyond its storage"},
		{"overflowing offset", one(tensorPickle(t, 4, big, []int64{2}, []int64{1})),
			"beyond its storage"},
		{"overflowing bytes", one(tensorPickle(t, 4, 0, []int64{big}, []int64{0})),
			"larger than any memory"},
		{"endless expansion", one(tensorPickle(t, 4, 0, []int64{1 << 40}, []int64{0})), "64 times"},
		{"sizes and strides differ", one(tensorPickle(t, 4, 0, []int64{2, 2}, []int64{1})),
			"2 sizes but 1 strides"},
		{"negative numel", one(tensorPickle(t, -4, 0, []int64{2}, []int64{1})), "malformed"},
		{"overflowing numel", one(tensorPickle(t, big, 0, []int64{2}, []int64{1})), "malformed"},
		{"storage of two sizes", one(marshal(t, pickle.Tuple{
			pickle.Persistent{ID: pickle.Tuple{"storage", storageClass(Float32), "0", "cpu",
				int64(4)}},
			pickle.Persistent{ID: pickle.Tuple{"storage", storageClass(Float64), "0", "cpu",
				int64(2)}}})), "named twice"},
		{"key as path",
			one(strings.Replace(good, "\x01\x00\x00\x000", "\x07\x00\x00\x00../../0", 1)),
			"is missing"},
		{"legacy, wrong magic", legacy("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
			"\x85."), "a file of Python's pickle module"},
		{"legacy, wrong version", legacy(legacyMagic, 7), "version 7"},
		{"legacy, big-endian", legacy(legacyMagic, 1001, bigEndian), "big-endian"},
		{"legacy, no data", legacy(legacyMagic, 1001, system, good, &pickle.List{}), "has no data"},
		{"legacy, unknown key", legacy(legacyMagic, 1001, system, good,
			&pickle.List{Items: []any{"7"}}), "no tensor uses"},
		{"legacy, key twice", legacy(legacyMagic, 1001, system, good,
			&pickle.List{Items: []any{"0", "0"}}, four, sixteen, four, sixteen), "listed twice"},
		{"legacy, other size", legacy(legacyMagic, 1001, system, good, keys,
			string(binary.LittleEndian.AppendUint64(nil, 5)), sixteen),
			"5 elements in the data, 4"},
		{"legacy, truncated", legacy(legacyMagic, 1001, system, good, keys, four, sixteen[:15]),
			"truncated"},
		{"legacy, huge storage", legacy(legacyMagic, 1001, system,
			tensorPickle(t, 1<<50, 0, []int64{2}, []int64{1}), keys), "in a file of"},
		{"legacy, code", legacy(legacyMagic, 1001, system, "cos\nsystem\n)R."), "os system"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := readBytes(c.data)
			require.ErrorContains(t, err, c.want)
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20))
		})
	}
	f, err := readBytes(one(good))
	require.NoError(t, err, "the template of the cases above is sound")
	require.Equal(t, []int64{2, 2}, f.Root.(*Tensor).Size)
	_, err = readBytes(legacy(legacyMagic, 1001, system, good, keys, four, sixteen))
	require.NoError(t, err)
}

// A file cut at any length is refused when opened.
func TestTruncatedFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.pth")
	require.NoError(t, Save(path, built(t)))
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	legacy, err := os.ReadFile(filepath.Join(goldenFolder, "pth", "views_legacy.pth"))
	require.NoError(t, err)
	for _, data := range [][]byte{whole, legacy} {
		_, err := readBytes(data)
		require.NoError(t, err)
		for n := range data {
			_, err := readBytes(data[:n])
			require.Error(t, err, "%d of %d bytes", n, len(data))
		}
	}
}

func TestFileTruncatedWhileReadIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.pth")
	s, err := NewStorage(Float32, make([]byte, 1<<20))
	require.NoError(t, err)
	x, err := NewTensor(s, 0, []int64{512, 512}, nil)
	require.NoError(t, err)
	require.NoError(t, Save(path, x))
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, os.Truncate(path, 1<<19))
	y := f.Root.(*Tensor)
	require.ErrorContains(t, y.ReadInto(make([]byte, 1<<20)), "truncated while being read")
	require.ErrorContains(t, ReadAll([]*Tensor{y}, [][]byte{make([]byte, 1<<20)}, 4),
		"truncated while being read")
	out := filepath.Join(t.TempDir(), "b.pth")
	require.ErrorContains(t, Save(out, f.Root), "truncated while being read")
	left, err := os.ReadDir(filepath.Dir(out))
	require.NoError(t, err)
	require.Empty(t, left, "an error leaves nothing behind")
}

func TestDeflatedStoragesAreRead(t *testing.T) {
	data := strings.Repeat("abcd", 1000)
	f, err := readBytes(zipped(t, member{"x/data.pkl",
		tensorPickle(t, 1000, 10, []int64{30, 2}, []int64{1, 30}), zip.Deflate},
		member{"x/version", "3", 0}, member{"x/data/0", data, zip.Deflate}))
	require.NoError(t, err)
	got := make([]byte, 240)
	require.NoError(t, f.Root.(*Tensor).ReadInto(got))
	require.Equal(t, data[:240], string(got))
}

func TestVerifyFindsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.pth")
	require.NoError(t, Save(path, built(t)))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[bytes.Index(b, []byte("a/data/0"))+100] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o644))
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.ErrorContains(t, f.Verify(0), `"a/data/0" is damaged`)
}

// A file may be overwritten while it is the source.
func TestSaveToItsOwnPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.pth")
	require.NoError(t, Save(path, built(t)))
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	f, err := Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, Save(path, f.Root))
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestSaveErrorsLeaveTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.pth")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o644))
	require.ErrorContains(t, Save(path, []string{"x"}), "no Python form")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(b))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Error(t, Save(filepath.Join(dir, "no", "such", "folder.pth"), nil))
	_, err = NewTensor(&Storage{DType: Float32, Numel: 3}, 0, []int64{2, 2}, nil)
	require.ErrorContains(t, err, "beyond its storage of 12 bytes")
}

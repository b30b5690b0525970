package pickle

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lntorch/lntorch/formats/internal/array"
	"github.com/stretchr/testify/require"
)

// billionLaughs doubles a list n times through the memo: 2^n elements when walked as a tree.
func billionLaughs(n int) string {
	s := "\x80\x02]q\x00"
	for i := range n {
		s += "](h" + string(rune(i)) + "h" + string(rune(i)) + "eq" + string(rune(i+1))
	}
	// All the lists are on the stack; one tuple collects them.
	return strings.Replace(s, "]q\x00", "(]q\x00", 1) + "t."
}

// hostile lists inputs that the reader must refuse, with part of the message.
var hostile = []struct{ name, data, want string }{
	{"os.system", "\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
		`global "os system" is not allowed`},
	{"posix by protocol 4", "\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
		`global "posix system" is not allowed`},
	{"eval", "\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
		`global "__builtin__ eval" is not allowed`},
	{"getattr", "\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", `"builtins getattr"`},
	{"dotted name", "\x80\x04\x8c\x0bcollections\x8c\x13OrderedDict.__init__\x93.", "not allowed"},
	{"class that is only a value", "\x80\x02c__builtin__\nlist\n)R.",
		"calling \"builtins list\" is not allowed"},
	{"INST", "(S'true'\nios\nsystem\n.", "opcode"},
	{"INST first", "(ios\nsystem\n.", "INST makes an object of any class"},
	{"OBJ", "(cos\nsystem\no.", "not allowed"},
	{"NEWOBJ", "\x80\x02ccollections\nOrderedDict\nK\x01\x85\x81.", "NEWOBJ"},
	{"NEWOBJ_EX", "\x80\x04N}\x92.", "NEWOBJ_EX"},
	{"EXT1", "\x80\x02\x82\x01.", "EXT1"},
	{"call of a string", "\x80\x02X\x01\x00\x00\x00a)R.", "call of a str"},
	{"persistent id", "\x80\x02K\x01Q.", "persistent id"},
	{"BUILD on a dict", "\x80\x02}}b.", "a dict takes no state"},
	{"long string, short file", "\x80\x02X\xff\xff\xff\xffab",
		"4294967295 bytes announced, 2 left"},
	{"huge bytes", "\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "truncated"},
	{"huge bytearray", "\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "truncated"},
	{"huge frame", "\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN.", "frame"},
	{"huge integer", "\x80\x02\x8b\x00\x10\x00\x00" + strings.Repeat("\xff", 4096) + ".",
		"integer of 4096 bytes"},
	{"negative length", "\x80\x02\x8b\xff\xff\xff\xffab.", "truncated"},
	{"empty", "", "truncated"},
	{"no STOP", "\x80\x02N", "truncated"},
	{"only STOP", ".", "STOP with 0 values"},
	{"two values", "NN.", "STOP with 2 values"},
	{"open mark", "(N.", "STOP with"},
	{"pop through a mark", "N(s.", "too few values"},
	{"underflow", "\x80\x02\x87.", "too few values"},
	{"no mark", "]Ne.", "no mark"},
	{"key without value", "}(Nu.", "key without a value"},
	{"missing memo", "h\x07.", "memo entry 7 does not exist"},
	{"unhashable key", "}]Ns.", "unhashable dict key of type list"},
	{"append to tuple", ")Na.", "append to a tuple"},
	{"set item on list", "]NNs.", "item assignment to a list"},
	{"list in itself", "]q\x00h\x00a.", "a list contains itself"},
	{"dict in itself", "}q\x00Nh\x00s.", "a dict contains itself"},
	{"list in itself through a tuple", "]q\x00h\x00\x85a.", "contains itself"},
	{"dict in itself as attribute", "ccollections\nOrderedDict\n)Rq\x00}X\x01\x00\x00\x00ah\x00sb.",
		"contains itself"},
	{"deep", strings.Repeat("]", 100000) + strings.Repeat("a", 99999) + ".",
		"nested deeper than 500 levels"},
	{"deep tuple", "N" + strings.Repeat("\x85", 100000) + ".", "nested deeper than 500 levels"},
	{"deep key", "}N" + strings.Repeat("\x85", 200) + "Ns.", "dict key is too large"},
	{"memo bomb", billionLaughs(60), "memo bomb"},
	{"memo bomb as key", "}N" + strings.Repeat("2\x86", 60) + "Ns.", "dict key is too large"},
	{"no UTF-8", "\x80\x02X\x02\x00\x00\x00\xff\xfe.", "not UTF-8"},
	{"protocol 9", "\x80\x09N.", "protocol 9"},
	{"object array", "\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R.", "not supported"},
	{"dtype of other size",
		"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNK\x01K\x01K\x00tb.", "element size"},
	{"short scalar",
		"\x80\x04cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n\x8c\x02f8\x89\x88\x87RC\x03abc\x86R.", "3 bytes for a scalar"},
	{"array larger than its data",
		"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R" +
			"(K\x01K\xff\x85cnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R\x89C\x08abcdefghtb.",
		"shape [255]"},
	{"array of overflowing shape",
		"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R" +
			"(K\x01\x8a\x05\x00\x00\x00\x00\x01\x8a\x05\x00\x00\x00\x00\x01\x86cnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R\x89C\x00tb.", "2^63"},
	{"array of negative shape",
		"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R" +
			"(K\x01J\xff\xff\xff\xff\x85cnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R\x89C\x00tb.",
		"negative size"},
	{"too many values", strings.Repeat("}", 3<<20) + ".", "more than 96 MB of memory"},
	{"hashing one long key", "\x80\x02}q\x01X\x00\x00\x10\x00" + strings.Repeat("k", 1<<20) +
		"q\x00N" + "s" + strings.Repeat("h\x00Ns", 1000) + ".", "copying limit"},
	{"bytes made again and again", "\x80\x02c_codecs\nencode\nq\x01X\x00\x00\x10\x00" +
		strings.Repeat("k", 1<<20) + "q\x00X\x06\x00\x00\x00latin1\x86q\x02R" +
		strings.Repeat("h\x01h\x02R", 1000) + ".", "copying limit"},
	{"bytes beyond latin1",
		"\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00\xc4\x80X\x06\x00\x00\x00latin1\x86R.",
		"above 255"},
	{"other codec", "\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
		"unexpected arguments"},
}

func TestHostilePicklesAreRefused(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := Unmarshal([]byte(h.data), Options{})
			require.ErrorContains(t, err, h.want)
			runtime.ReadMemStats(&after)
			require.Less(t, time.Since(start), 10*time.Second)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<30))
		})
	}
}

func TestTruncationAtEveryByteIsAnError(t *testing.T) {
	data, err := Marshal(sample(), nil)
	require.NoError(t, err)
	for n := range data {
		_, err := Unmarshal(data[:n], Options{})
		require.Error(t, err, n)
	}
}

func sample() any {
	d := &OrderedDict{Attrs: &Dict{}}
	d.Attrs.Set("_metadata", Tuple{int64(1), "x", 2.5, []byte{0, 200}})
	d.Set(int64(-5), &List{Items: []any{nil, true, int64(1) << 40, NewSet("a", int64(1))}})
	d.Set("array", &NumpyArray{DType: NumpyDType{array.DType{Order: 0x3c, Kind: 0x69, Size: 2}},
		Shape: []int64{2}, Data: []byte{1, 0, 2, 0}})
	return d
}

func TestWriterRefusesCyclesAndForeignValues(t *testing.T) {
	l := &List{}
	l.Items = []any{Tuple{l}}
	_, err := Marshal(l, nil)
	require.ErrorContains(t, err, "a list contains itself")
	d := &Dict{}
	d.Set("d", d)
	_, err = Marshal(d, nil)
	require.ErrorContains(t, err, "a dict contains itself")
	var deep any
	for range 1000 {
		deep = Tuple{deep}
	}
	_, err = Marshal(deep, nil)
	require.ErrorContains(t, err, "nested deeper")
	_, err = Marshal(&List{Items: []any{[]string{"x"}}}, nil)
	require.ErrorContains(t, err, "[]string has no Python form")
	_, err = Marshal("\xff", nil)
	require.ErrorContains(t, err, "not UTF-8")
	_, err = Marshal(Global{"os\nsystem", "x"}, nil)
	require.ErrorContains(t, err, "not the name of a global")
}

func TestSharedValuesStayShared(t *testing.T) {
	inner := &List{Items: []any{int64(1)}}
	tuple := Tuple{inner, inner}
	data, err := Marshal(&List{Items: []any{inner, tuple, tuple}}, nil)
	require.NoError(t, err)
	v, err := Unmarshal(data, Options{})
	require.NoError(t, err)
	items := v.(*List).Items
	require.Same(t, items[0], items[1].(Tuple)[0])
	require.Same(t, &items[1].(Tuple)[0], &items[2].(Tuple)[0])
}

func TestDictFollowsPythonsEquality(t *testing.T) {
	d := &Dict{}
	d.Set(1, "a")
	d.Set(1.0, "b")
	d.Set(true, "c")
	require.Equal(t, []any{int64(1)}, d.Keys())
	v, ok := d.Get(int64(1))
	require.True(t, ok)
	require.Equal(t, "c", v)
	for i := range 20 {
		d.Set(Tuple{int64(i), "k"}, i)
	}
	v, ok = d.Get(Tuple{7.0, "k"})
	require.True(t, ok)
	require.Equal(t, 7, v)
	d.Delete(1)
	_, ok = d.Get(1)
	require.False(t, ok)
	v, ok = d.Get(Tuple{int64(19), "k"})
	require.True(t, ok)
	require.Equal(t, 19, v)
	_, ok = d.Get("k")
	require.False(t, ok)
	_, ok = d.Get(&List{})
	require.False(t, ok)
	require.Panics(t, func() { d.Set(&List{}, 1) })
}

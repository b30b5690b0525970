package plans

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
)

// oracle is testdata/golden/plans.json, written by scripts/golden/plans.py.
type oracle struct {
	JSON []struct {
		Text, Plain, Indent4, Sorted4, Indent0 string
	}
	Rejected []string
	Labels   []struct {
		Labels            json.RawMessage
		RegionsClassOrder []int `json:"regions_class_order"`
		AllLabels         []int `json:"all_labels"`
		ForegroundLabels  []int `json:"foreground_labels"`
		HasRegions        bool  `json:"has_regions"`
		Regions           []json.RawMessage
		Ignore            *int
		Heads             int
		Rejected          bool
	}
	Resolved []struct {
		Plans          json.RawMessage
		Name, Resolved string
	}
	Supervision []struct {
		Strides [][]int
		Scales  [][]float64
		Weights []float64
	}
	InputChannels []struct {
		Dataset       json.RawMessage
		Configuration struct {
			PreviousStage string `json:"previous_stage"`
		}
		Channels int
	} `json:"input_channels"`
}

func readGolden(t *testing.T) *oracle {
	t.Helper()
	data, err := os.ReadFile("../../testdata/golden/plans.json")
	require.NoError(t, err)
	g := &oracle{}
	require.NoError(t, json.Unmarshal(data, g))
	return g
}

// TestLiveGoldenIsWhatPythonWrites runs the script again.
func TestLiveGoldenIsWhatPythonWrites(t *testing.T) {
	golden.Python(t)
	path := filepath.Join(t.TempDir(), "plans.json")
	golden.Run(t, "plans.py", path)
	want, err := ReadJSON(golden.Path(t, "plans.json"))
	require.NoError(t, err)
	got, err := ReadJSON(path)
	require.NoError(t, err)
	want.(*Object).Delete("versions")
	got.(*Object).Delete("versions")
	require.Equal(t, want, got)
}

func decodeObject(t *testing.T, data []byte) *Object {
	t.Helper()
	v, err := DecodeJSON(data)
	require.NoError(t, err)
	require.IsType(t, &Object{}, v)
	return v.(*Object)
}

func TestJSONIsWrittenAsPythonWritesIt(t *testing.T) {
	g := readGolden(t)
	require.Greater(t, len(g.JSON), 10)
	for _, c := range g.JSON {
		v, err := DecodeJSON([]byte(c.Text))
		require.NoError(t, err, c.Text)
		for _, f := range []struct {
			indent int
			sorted bool
			want   string
		}{{-1, false, c.Plain}, {4, false, c.Indent4}, {4, true, c.Sorted4}, {0, false, c.Indent0}} {
			got, err := EncodeJSON(v, f.indent, f.sorted)
			require.NoError(t, err)
			require.Equal(t, f.want, string(got), "indent %d sorted %v", f.indent, f.sorted)
		}
	}
}

func TestJSONRejectsWhatPythonRejects(t *testing.T) {
	texts := readGolden(t).Rejected
	require.NotEmpty(t, texts)
	for _, text := range texts {
		_, err := DecodeJSON([]byte(text))
		require.Error(t, err, "%q", text)
	}
}

func TestFilesOfNnUNetAreRewrittenByteForByte(t *testing.T) {
	files := 0
	for _, pattern := range []string{"*/preprocessed/*/*.json", "*/results/*/*/*.json", "*/results/*/*/*/*/summary.json",
		"*/predictions/*/*.json", "*/foundation/*/*.json"} {
		paths, err := filepath.Glob("../../testdata/" + pattern)
		require.NoError(t, err)
		for _, path := range paths {
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			v, err := DecodeJSON(want)
			require.NoError(t, err, path)
			got, err := EncodeJSON(v, 4, false)
			require.NoError(t, err)
			if !bytes.HasPrefix(want[2:], []byte("    ")) {
				continue // written by hand with another indent
			}
			require.Equal(t, string(want), string(got), path)
			files++
		}
	}
	require.Greater(t, files, 10)
}

func TestJSONErrorsSayWhere(t *testing.T) {
	_, err := DecodeJSON([]byte("{\n  \"a\": 1,\n  \"b\": nul\n}"))
	require.EqualError(t, err, "JSON line 3 column 8: expected a value")
	_, err = DecodeJSON([]byte(`{"a": [1, 2`))
	require.ErrorContains(t, err, "column 12: expected ',' or ']' in a list")
	_, err = DecodeJSON([]byte(`{"a":`))
	require.ErrorContains(t, err, "truncated")
	_, err = DecodeJSON([]byte(`"\ud800"`))
	require.ErrorContains(t, err, "lone surrogate")
	_, err = DecodeJSON([]byte("\"\xff\""))
	require.ErrorContains(t, err, "UTF-8")
	_, err = EncodeJSON(map[string]int{}, 4, false)
	require.ErrorContains(t, err, "map[string]int")
}

func TestDeepNestingIsAnError(t *testing.T) {
	deep := make([]byte, 1_000_000)
	for i := range deep {
		deep[i] = '['
	}
	_, err := DecodeJSON(deep)
	require.ErrorContains(t, err, "nested deeper than 1000")
}

func TestObjectKeepsOrderAndClonesDeeply(t *testing.T) {
	o := decodeObject(t, []byte(`{"z": 1, "a": {"k": [1]}, "m": 2}`))
	c := o.Clone()
	c.Set("z", int64(5))
	c.Delete("m")
	c.Delete("absent")
	c.Set("m", nil)
	inner, _ := c.Get("a")
	list, _ := inner.(*Object).Get("k")
	list.([]any)[0] = "changed"
	text, err := EncodeJSON(o, -1, false)
	require.NoError(t, err)
	require.Equal(t, `{"z": 1, "a": {"k": [1]}, "m": 2}`, string(text))
	text, err = EncodeJSON(c, -1, false)
	require.NoError(t, err)
	require.Equal(t, `{"z": 5, "a": {"k": ["changed"]}, "m": null}`, string(text))
}

func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{`{"a": [1, 2.5, NaN, null, true, "é\ud83d\ude00"]}`, `[1e400, -0, 12345678901234567890]`, `{"a":{"a":{}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := DecodeJSON(data)
		if err != nil {
			return
		}
		once, err := EncodeJSON(v, 4, false)
		require.NoError(t, err)
		again, err := DecodeJSON(once)
		require.NoError(t, err)
		twice, err := EncodeJSON(again, 4, false)
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
	})
}

// The same document in every encoding that json.loads takes.
func TestJSONIsReadInEveryUnicodeEncoding(t *testing.T) {
	const text = `{"name": "Łymphknoten 😀", "n": 1}`
	want, err := DecodeJSON([]byte(text))
	require.NoError(t, err)
	utf16Bytes := func(order binary.AppendByteOrder, mark bool) (b []byte) {
		units := utf16.Encode([]rune(text))
		if mark {
			units = append([]uint16{0xfeff}, units...)
		}
		for _, u := range units {
			b = order.AppendUint16(b, u)
		}
		return b
	}
	utf32Bytes := func(order binary.AppendByteOrder, mark bool) (b []byte) {
		if mark {
			b = order.AppendUint32(b, 0xfeff)
		}
		for _, r := range text {
			b = order.AppendUint32(b, uint32(r))
		}
		return b
	}
	cases := map[string][]byte{"UTF-8 with a byte order mark": []byte("\ufeff" + text)}
	for _, mark := range []bool{false, true} {
		for name, order := range map[string]binary.AppendByteOrder{"LE": binary.LittleEndian, "BE": binary.BigEndian} {
			cases[fmt.Sprint("UTF-16 ", name, mark)] = utf16Bytes(order, mark)
			cases[fmt.Sprint("UTF-32 ", name, mark)] = utf32Bytes(order, mark)
		}
	}
	for name, data := range cases {
		got, err := DecodeJSON(data)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	for text, message := range map[string]string{
		"\xff\xfe{": "odd number", "\xff\xfe{\x00\x00\xd8": "not valid UTF-16", "\xff\xfe\x00\x00{": "multiple of 4", "\xff\xfe\x00\x00\x00\xd8\x00\x00": "not valid UTF-32",
	} {
		_, err := DecodeJSON([]byte(text))
		require.ErrorContains(t, err, message, "%q", text)
	}
}

// Documents whose values would take far more memory than their text are rejected quickly.
func TestJSONOfEndlessValuesIsAnError(t *testing.T) {
	for _, part := range []string{"[],", "{},", `{"":0},`, "0,", "1.5,", `"",`, "null,", strings.Repeat("9", 4000) + ","} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := DecodeJSON([]byte("[" + strings.Repeat(part, maxFile/4/len(part))))
		runtime.ReadMemStats(&after)
		require.ErrorContains(t, err, "more than 96 MB of memory", part[:min(len(part), 8)])
		require.Less(t, time.Since(start), 20*time.Second) // on a busy machine
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(maxFile+512<<20), part[:min(len(part), 8)])
	}
	keys := &strings.Builder{}
	for i := range 1 << 20 {
		fmt.Fprintf(keys, `"%d":0,`, i)
	}
	_, err := DecodeJSON([]byte("{" + keys.String()))
	require.ErrorContains(t, err, "more than 96 MB of memory")
}

func TestReadJSONNamesOtherFileTypes(t *testing.T) {
	for text, want := range map[string]string{
		"<!DOCTYPE html><html>Not found</html>":                              "dataset.json: found a web page, expected JSON: the link led to a page about the file; download the file itself",
		"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n": "found a Git LFS pointer, which stands for the file, expected JSON: run `git lfs pull` in its repository, or download the file itself",
		"{\"a\": }": "JSON line 1 column 7: expected a value",
	} {
		path := filepath.Join(t.TempDir(), "dataset.json")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		_, err := ReadJSON(path)
		require.ErrorContains(t, err, want)
	}
}

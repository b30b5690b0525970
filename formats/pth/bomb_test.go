package pth

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lntorch/lntorch/formats/pickle"
	"github.com/stretchr/testify/require"
)

// bombSize is the length of the repeated part of a bomb's pickle.
const bombSize = 25 << 20

// bombEnv names the file that the test binary opens when it is started as a subprocess.
const bombEnv = "LNTORCH_TEST_BOMB"

func TestMain(m *testing.M) {
	path := os.Getenv(bombEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	f, err := Open(path)
	if err == nil {
		err = Walk(f.Root, func(string, *Tensor) error { return nil })
	}
	status, _ := os.ReadFile("/proc/self/status")
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println(strings.Fields(peak)[0], err)
}

// bombs are pickles that repeat a part; every opcode that creates, copies or stores something is in
// one of them.
func bombs() map[string]func(w *bytes.Buffer) {
	repeat := func(head, part string) func(*bytes.Buffer) {
		return func(w *bytes.Buffer) {
			w.WriteString("\x80\x04" + head)
			for w.Len() < bombSize {
				w.WriteString(part)
			}
			w.WriteString(".")
		}
	}
	put := func(n int) string {
		return "r" + string(binary.LittleEndian.AppendUint32(nil, uint32(n)))
	}
	counted := func(head string, part func(i int) string) func(*bytes.Buffer) {
		return func(w *bytes.Buffer) {
			w.WriteString("\x80\x04" + head)
			for i := 0; w.Len() < bombSize; i++ {
				w.WriteString(part(i))
			}
			w.WriteString(".")
		}
	}
	long := "X\x00\x00\x10\x00" + strings.Repeat("k", 1<<20)
	bytesLong := "B\x00\x00\x10\x00" + strings.Repeat("k", 1<<20)
	numbers := "](" + strings.Repeat("K\x01", 100000) + "e"
	many := strings.Repeat("K\x01", 64)
	tensor := "ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ" +
		"K\x00(" + many + "t(" + many + "t\x89ccollections\nOrderedDict\n)Rtq\x010"
	storage := "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tq\x000"
	array := "cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nK\x00\x85C\x01b\x87q\x01R(K\x01J\x00\x00\x04\x00\x85cnumpy\ndtype\nX\x02\x00\x00\x00i4\x89\x88\x87R" +
		"(K\x03X\x01\x00\x00\x00>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + bytesLong +
		"tq\x02b"
	return map[string]func(*bytes.Buffer){
		"DUP":              repeat("N", "2"),
		"MARK":             repeat("", "("),
		"None":             repeat("", "N"),
		"None and POP":     repeat("", "N0"),
		"PROTO":            repeat("", "\x80\x02"),
		"FRAME":            repeat("", "\x95\x00\x00\x00\x00\x00\x00\x00\x00"),
		"floats":           repeat("", "G\x40\x01\x00\x00\x00\x00\x00\x01"),
		"floats in a list": repeat("](", "G\x40\x01\x00\x00\x00\x00\x00\x01"),
		"APPEND":           repeat("]", "Na"),
		"integers":         repeat("", "M\x00\x10"),
		"LONG4":            repeat("", "\x8b\x00\x04\x00\x00"+strings.Repeat("\x7f", 1024)),
		"LONG1":            repeat("", "\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
		"INT":              repeat("", "I"+strings.Repeat("9", 2048)+"\n"),
		"short text":       repeat("", "\x8c\x01a"),
		"UNICODE":          repeat("", "V"+strings.Repeat("\xff", 1000)+"\n"),
		"bytes":            repeat("", "C\x01a"),
		"lists":            repeat("", "]"),
		"lists in a list":  repeat("](", "]"),
		"deep lists":       repeat("", "]"),
		"dicts":            repeat("", "}"),
		"dicts of nine": repeat("",
			"}(K\x01NK\x02NK\x03NK\x04NK\x05NK\x06NK\x07NK\x08NK\x09Nu"),
		"dict": counted("}",
			func(i int) string {
				return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(i))) + "Ns"
			}),
		"sets":              repeat("", "\x8f(K\x01K\x02\x90"),
		"OrderedDicts":      repeat("ccollections\nOrderedDict\nq\x00", "h\x00)R"),
		"sets of a list":    repeat("c__builtin__\nset\nq\x00"+numbers+"\x85q\x01", "h\x00h\x01R"),
		"MEMOIZE":           repeat("N", "\x94"),
		"LONG_BINPUT":       counted("N", put),
		"LONG_BINPUT apart": counted("N", func(i int) string { return put(1000 * i) }),
		"TUPLE3 of shared":  repeat("]q\x00", "h\x00h\x00h\x00\x87"),
		"TUPLE3 of itself":  repeat("]q\x00", "22\x87q\x00h\x00h\x00"),
		"EMPTY_TUPLE":       repeat("", ")"),
		"FROZENSET":         repeat("", "(K\x01\x91"),
		"long keys":         repeat(long+"q\x00", "}h\x00Ns"),
		"bytes as keys":     repeat(bytesLong+"q\x00", "}h\x00Ns"),
		"tuples as keys":    repeat("("+strings.Repeat("K\x01", 3000)+"tq\x00", "}h\x00Ns"),
		"latin1": repeat(
			"c_codecs\nencode\nq\x00"+long+"X\x06\x00\x00\x00latin1\x86q\x01", "h\x00h\x01R"),
		"bytearrays": repeat("c__builtin__\nbytearray\nq\x00"+bytesLong+"\x85q\x01",
			"h\x00h\x01R"),
		"big-endian arrays": repeat(array, "h\x00h\x01Rh\x02b"),
		"globals":           repeat("", "ctorch\nFloatStorage\n"),
		"tensors":           repeat(tensor, "h\x00h\x01R"),
		"storages":          repeat(storage, "h\x00Q"),
		"shared in lists":   repeat("]q\x00(", "h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00\x87\x87"),
	}
}

// zipBombs are files whose zip container is the bomb.
func zipBombs(t *testing.T) map[string][]byte {
	directory := func(name func(i int) string, n int) []byte {
		members := []member{{"a/data.pkl", "N.", 0}, {"a/version", "3", 0}}
		for i := range n {
			members = append(members, member{name(i), "", 0})
		}
		return zipped(t, members...)
	}
	zeros := strings.Repeat("\x00", 1<<30)
	return map[string][]byte{
		"300,000 entries": directory(func(i int) string { return fmt.Sprintf("a/%d", i) }, 300000),
		"long names": directory(
			func(i int) string { return fmt.Sprintf("a/%d%s", i, strings.Repeat("/a", 16000)) },
			1000),
		"zeros as pickle": zipped(t, member{"a/data.pkl", zeros, zip.Deflate},
			member{"a/version", "3", 0}),
		"zeros as tensor": zipped(t, member{"a/data.pkl",
			tensorPickle(t, 1<<28, 0, []int64{1 << 28}, []int64{1}), 0},
			member{"a/version", "3", 0},
			member{"a/data/0", zeros, zip.Deflate}),
	}
}

// No file takes 2 seconds or 256 MB to open, whatever its content. CPU time over all cores is
// measured, which tolerates a busy machine.
func TestNoFileTakesLongOrMuchMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes files of 25 MB")
	}
	check := func(t *testing.T, data []byte) string {
		path := filepath.Join(t.TempDir(), "bomb.pth")
		require.NoError(t, os.WriteFile(path, data, 0o644))
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), bombEnv+"="+path)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%.400s", out)
		text, reason, _ := strings.Cut(string(out), " ")
		peak, err := strconv.Atoi(text)
		require.NoError(t, err)
		took := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		reason = reason[max(0, len(reason)-100):]
		t.Logf("%5.2f s, %4d MB: %s", took.Seconds(), peak>>10, reason)
		require.Less(t, took, 4*time.Second, reason)
		require.Less(t, peak>>10, 256, "MB: %s", reason)
		return reason
	}
	for name, make := range bombs() {
		t.Run(name, func(t *testing.T) {
			var pkl bytes.Buffer
			make(&pkl)
			var buf bytes.Buffer
			w := zip.NewWriter(&buf)
			add := func(name string, method uint16, data []byte) {
				out, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
				require.NoError(t, err)
				_, err = io.Copy(out, bytes.NewReader(data))
				require.NoError(t, err)
			}
			add("a/data.pkl", zip.Store, pkl.Bytes())
			add("a/version", zip.Store, []byte("3"))
			add("a/data/0", zip.Store, bytes.Repeat([]byte{1}, 16))
			require.NoError(t, w.Close())
			check(t, buf.Bytes())
		})
	}
	for name, data := range zipBombs(t) {
		t.Run(name, func(t *testing.T) {
			reason := check(t, data)
			if name == "300,000 entries" || name == "long names" {
				require.Contains(t, reason, "its central directory has more than 8 MB")
			}
		})
	}
	t.Run("legacy", func(t *testing.T) {
		var pkl bytes.Buffer
		for _, v := range []any{legacyMagic, int64(legacyVersion)} {
			b, err := pickle.Marshal(v, nil)
			require.NoError(t, err)
			pkl.Write(b)
		}
		system := &pickle.Dict{}
		system.Set("little_endian", true)
		b, err := pickle.Marshal(system, nil)
		require.NoError(t, err)
		pkl.Write(b)
		bombs()["DUP"](&pkl)
		check(t, pkl.Bytes())
	})
}

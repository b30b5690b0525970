package openjpeg

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lntorch/lntorch/formats/dicom/codec"
	"github.com/lntorch/lntorch/formats/npz"
	"github.com/lntorch/lntorch/internal/golden"
)

func TestMain(m *testing.M) {
	if fake, ok := fakes[os.Args[0]]; ok {
		fake()
		return
	}
	if Start() {
		return
	}
	os.Exit(m.Run())
}

// A sample is a codestream of testdata/golden/dicom_jpeg2000, which scripts/golden/dicom_jpeg2000.py
// wrote.
type sample struct {
	Syntax            string
	Rows, Columns     int
	Allocated, Stored int
	Signed, Lossless  bool
	Writer, SHA256    string

	codestream []byte
}

func (s sample) frame() codec.Frame {
	return codec.Frame{Rows: s.Rows, Columns: s.Columns, BitsAllocated: s.Allocated,
		BitsStored: s.Stored, Signed: s.Signed}
}

func corpus(t testing.TB) map[string]sample {
	t.Helper()
	return corpusOf(t, golden.Path(t, "dicom_jpeg2000"))
}

// corpusOf reads a folder that the script wrote.
func corpusOf(t testing.TB, folder string) map[string]sample {
	t.Helper()
	samples := map[string]sample{}
	text, err := os.ReadFile(filepath.Join(folder, "expected.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &samples))
	f, err := npz.OpenNpz(filepath.Join(folder, "codestreams.npz"))
	require.NoError(t, err)
	defer f.Close()
	for name, s := range samples {
		a, err := f.Read(name)
		require.NoError(t, err)
		s.codestream, err = a.Uint8s()
		require.NoError(t, err)
		samples[name] = s
	}
	require.Equal(t, 91, len(samples))
	return samples
}

// need skips the test where there is no OpenJPEG, unless LNTORCH_REQUIRE names it.
func need(t testing.TB) Library {
	t.Helper()
	library, err := Find()
	if err != nil {
		golden.Missing(t, "openjpeg", err.Error())
	}
	return library
}

// decodeFrame decodes to memory with other memory behind it, which must stay as it is.
func decodeFrame(syntax string, codestream []byte, f codec.Frame) ([]byte, error) {
	n, err := f.Bytes()
	if err != nil {
		return nil, err
	}
	memory := bytes.Repeat([]byte{0xA5}, n+64)
	err = codec.Decode(memory[:n], syntax, codestream, f)
	if !bytes.Equal(memory[n:], bytes.Repeat([]byte{0xA5}, 64)) {
		panic("written beyond the frame")
	}
	return memory[:n], err
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// Of lossless frames the pixels are those that were compressed, of others what pylibjpeg-openjpeg
// makes of them: with the library that `make` builds and with the system's.
func TestFramesAreReadAsElsewhere(t *testing.T) { readAsElsewhere(t, corpus(t)) }

// Frames of other sizes and with other pixels, by the same encoders.
func TestLiveImagesOfJPEG2000AreReadAsElsewhere(t *testing.T) {
	if found, _ := filepath.Glob("/usr/lib*/*/libopenjp2.so.7"); found == nil {
		golden.Missing(t, "libopenjp2-7", "glymur needs the library; Debian, Ubuntu: apt-get install "+
			"libopenjp2-7")
	}
	folder := t.TempDir()
	golden.RunImages(t, "dicom_jpeg2000.py", folder, "--seed", golden.Seed(t))
	readAsElsewhere(t, corpusOf(t, folder))
}

func readAsElsewhere(t *testing.T, samples map[string]sample) {
	need(t)
	names := slices.Sorted(maps.Keys(samples))
	served := 0
	defer Start() // registers anew
	for _, path := range candidates() {
		p := newPool(2, limits, command)
		defer p.close()
		library, err := p.find([]string{path})
		if err != nil {
			continue
		}
		served++
		codec.RegisterJPEG2000(func() error { return nil },
			func(dst []byte, c codec.JPEG2000, f codec.Frame) error {
				return p.decode(library, dst, c, f)
			})
		t.Logf("%s is OpenJPEG %s", library.Path, library.Version)
		var all sync.WaitGroup
		for seed := range uint64(3) {
			all.Go(func() {
				for _, i := range rand.New(rand.NewPCG(seed, 0)).Perm(len(names)) {
					s := samples[names[i]]
					err := codec.Check(s.Syntax, s.codestream, s.frame())
					if err != nil {
						t.Errorf("%s of %s: Check: %v", names[i], s.Writer, err)
						continue
					}
					pixels, err := decodeFrame(s.Syntax, s.codestream, s.frame())
					if err != nil || digest(pixels) != s.SHA256 {
						t.Errorf("%s of %s: other pixels, or %v", names[i], s.Writer, err)
					}
				}
			})
		}
		all.Wait()
	}
	require.Positive(t, served)
}

// A cut codestream is an error, unless nothing is cut but its end marker and padding.
func TestCutCodestreamsAreErrors(t *testing.T) {
	need(t)
	for name, s := range corpus(t) {
		step := max(1, len(s.codestream)/12)
		for n := 0; n < len(s.codestream); n++ {
			if n%step != 0 && n < len(s.codestream)-6 {
				continue
			}
			pixels, err := decodeFrame(s.Syntax, s.codestream[:n], s.frame())
			if err == nil {
				require.LessOrEqual(t, len(s.codestream)-n, 3, "%s: %d of %d bytes", name, n,
					len(s.codestream))
				require.Equal(t, s.SHA256, digest(pixels), "%s: %d of %d bytes", name, n,
					len(s.codestream))
			}
		}
		// the same with a length that fits, of codestreams that lose nothing by their end
		if n := len(s.codestream) * 3 / 4; s.Lossless && bytes.Count(s.codestream,
			[]byte{0xFF, 0x90, 0, 10}) == 1 && n > 200 {
			_, err := decodeFrame(s.Syntax, cutWithin(s.codestream, n), s.frame())
			require.Error(t, err, name)
		}
		longer, err := decodeFrame(s.Syntax, append(slices.Clip(s.codestream), 0, 0), s.frame())
		require.NoError(t, err, "%s, padded", name)
		require.Equal(t, s.SHA256, digest(longer), name)
	}
}

// cutWithin cuts the last tile-part of a codestream to n bytes in all, and its length with it.
func cutWithin(codestream []byte, n int) []byte {
	b := slices.Clone(codestream[:n])
	last := bytes.LastIndex(b, []byte{0xFF, 0x90, 0, 10})
	binary.BigEndian.PutUint32(b[last+6:], uint32(n-last))
	return append(b, 0xFF, 0xD9)
}

// A codestream without one of its tiles is an error.
func TestMissingTilesAreErrors(t *testing.T) {
	need(t)
	for _, name := range []string{"tiles-16-16", "ht-tiles-16-16"} {
		s := corpus(t)[name]
		last := bytes.LastIndex(s.codestream, []byte{0xFF, 0x90})
		_, err := decodeFrame(s.Syntax, append(s.codestream[:last:last], 0xFF, 0xD9), s.frame())
		require.Error(t, err, name)
	}
}

// Whatever bytes change, the answer is an image or an error, soon, and the next frame is right.
func TestDamagedCodestreamsAreSurvived(t *testing.T) {
	need(t)
	samples := corpus(t)
	rng := rand.New(rand.NewPCG(14, 2000))
	good := samples["size-odd"]
	errs, begin := 0, time.Now()
	names := slices.Sorted(maps.Keys(samples))
	for range 300 {
		s := samples[names[rng.IntN(len(names))]]
		b := slices.Clone(s.codestream)
		for range 1 + rng.IntN(4) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
		if _, err := decodeFrame(s.Syntax, b, s.frame()); err != nil {
			require.NotContains(t, err.Error(), "garbage")
			errs++
		}
	}
	t.Logf("%d of 300 are errors, after %v", errs, time.Since(begin))
	require.Greater(t, errs, 50)
	pixels, err := decodeFrame(good.Syntax, good.codestream, good.frame())
	require.NoError(t, err)
	require.Equal(t, good.SHA256, digest(pixels))
}

// OpenJPEG leaves out a code block that makes no sense, with a warning.
func TestDamageThatOpenJPEGWarnsOfIsAnError(t *testing.T) {
	need(t)
	for name, damage := range map[string]struct {
		at  int
		xor byte
	}{"ht-square": {166, 51}, "style-16": {133, 1}} {
		s := corpus(t)[name]
		b := slices.Clone(s.codestream)
		b[damage.at] ^= damage.xor
		_, err := decodeFrame(s.Syntax, b, s.frame())
		require.Error(t, err, name)
		t.Log(err)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	need(t)
	s := corpus(t)["size-odd"]
	_, err := decodeFrame(s.Syntax, cutWithin(s.codestream, len(s.codestream)/2), s.frame())
	require.ErrorContains(t, err, "OpenJPEG does not decode the JPEG 2000 codestream: ")
	require.Less(t, len(err.Error()), 300)
	require.NotContains(t, err.Error(), "\n")
}

// Values that do not fit BitsStored would come out as others.
func TestValuesBeyondBitsStoredAreRefused(t *testing.T) {
	need(t)
	s := corpus(t)["bits-12"]
	for stored, fits := range map[int]bool{16: true, 12: true, 11: false, 8: false} {
		f := s.frame()
		f.BitsStored = stored
		pixels, err := decodeFrame(s.Syntax, s.codestream, f)
		if fits {
			require.NoError(t, err)
			require.Equal(t, s.SHA256, digest(pixels))
		} else {
			require.ErrorContains(t, err, fmt.Sprintf("more than the %d bits that BitsStored", stored))
		}
	}
}

// A frame of 16 bits allocated may hold 8 bits of a codestream.
func TestCellsAreAsWideAsTheHeaderSays(t *testing.T) {
	need(t)
	for _, name := range []string{"bits-8", "bits-8-signed", "ht-uint8", "ht-int8"} {
		s := corpus(t)[name]
		narrow, err := decodeFrame(s.Syntax, s.codestream, s.frame())
		require.NoError(t, err)
		s.Allocated = 16
		wide, err := decodeFrame(s.Syntax, s.codestream, s.frame())
		require.NoError(t, err)
		for i, v := range narrow {
			expected := uint16(v)
			if s.Signed {
				expected = uint16(int8(v))
			}
			require.Equal(t, expected, binary.LittleEndian.Uint16(wide[2*i:]), name)
		}
	}
}

// Precincts of one pixel make OpenJPEG take gigabytes for a frame of 16 million pixels: it gets
// what the frame may take, and the answer is an error.
func TestMemoryIsLimited(t *testing.T) {
	library := need(t)
	s := corpus(t)["flat-8-128"]
	b := slices.Clone(s.codestream)
	const side = 4096
	binary.BigEndian.PutUint32(b[8:], side)
	binary.BigEndian.PutUint32(b[12:], side)
	binary.BigEndian.PutUint32(b[24:], side)
	binary.BigEndian.PutUint32(b[28:], side)
	cod := bytes.Index(b, []byte{0xFF, 0x52}) // Lcod, Scod, SGcod, levels, width, height, style, wavelet
	levels := int(b[cod+9])
	b[cod+4] |= 1 // precincts follow
	binary.BigEndian.PutUint16(b[cod+2:], uint16(12+levels+1))
	b[cod+10], b[cod+11] = 0, 0 // code blocks of 4 by 4
	sizes := bytes.Repeat([]byte{0x22}, levels+1)
	sizes[0] = 0
	b = slices.Insert(b, cod+14, sizes...)
	f := codec.Frame{Rows: side, Columns: side, BitsAllocated: 8, BitsStored: 8}

	p := newPool(1, limits, command)
	defer p.close()
	c := codec.JPEG2000{Codestream: b, Precision: 8}
	dst := make([]byte, side*side)
	begin := time.Now()
	err := p.decode(library, dst, c, f)
	require.Error(t, err)
	t.Log(err, time.Since(begin))
	require.ErrorContains(t, err, "emory")
	require.NoError(t, codec.Check(s.Syntax, b, f), "Check would have refused it")
}

// ---- decoders that are not what they should be ------------------------------------------------

func fakeGreeting() {
	_ = writeResponse(os.Stdout, greeting, []byte(hello+"2.5.99"))
}

// fakeRequest reads a request and its codestream.
func fakeRequest() request {
	var r request
	_ = binary.Read(os.Stdin, binary.LittleEndian, &r)
	b := make([]byte, r.Length)
	_, _ = io.ReadFull(os.Stdin, b)
	return r
}

// die sends the process a signal whose default action ends it.
func die(s syscall.Signal) {
	defaultSignals()
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = syscall.Kill(os.Getpid(), s)
	time.Sleep(time.Minute)
}

var fakes = map[string]func(){
	"fake silence":  func() { time.Sleep(time.Minute) },
	"fake end":      func() {},
	"fake greeting": func() { _, _ = os.Stdout.WriteString("usage: something else entirely\n") },
	"fake stranger": func() { _ = writeResponse(os.Stdout, greeting, []byte("another program")) },
	"fake refusal": func() {
		fakeGreeting()
		for range 2 {
			fakeRequest()
			_ = writeResponse(os.Stdout, refused, []byte("\x1b[31mbad \x00\xff\n\nsecond line"))
		}
	},
	"fake hang": func() {
		fakeGreeting()
		fakeRequest()
		time.Sleep(time.Minute)
	},
	"fake deaf": func() { // does not even read
		fakeGreeting()
		time.Sleep(time.Minute)
	},
	"fake crash": func() {
		fakeGreeting()
		fakeRequest()
		die(syscall.SIGSEGV)
	},
	"fake killed in the answer": func() {
		fakeGreeting()
		r := fakeRequest()
		n := r.Rows * r.Columns * r.Allocated / 8
		_ = binary.Write(os.Stdout, binary.LittleEndian, response{decoded, n})
		_, _ = os.Stdout.Write(make([]byte, n/2))
		die(syscall.SIGKILL)
	},
	"fake exit": func() {
		fakeGreeting()
		fakeRequest()
		os.Exit(3)
	},
	"fake frame too long": func() {
		fakeGreeting()
		fakeRequest()
		_ = binary.Write(os.Stdout, binary.LittleEndian, response{decoded, 1 << 31})
		time.Sleep(time.Minute)
	},
	"fake frame too short": func() {
		fakeGreeting()
		r := fakeRequest()
		_ = writeResponse(os.Stdout, decoded, make([]byte, r.Rows*r.Columns*r.Allocated/8-1))
		time.Sleep(time.Minute)
	},
	"fake text too long": func() {
		fakeGreeting()
		fakeRequest()
		_ = binary.Write(os.Stdout, binary.LittleEndian, response{refused, 1 << 31})
		time.Sleep(time.Minute)
	},
	"fake kind": func() {
		fakeGreeting()
		fakeRequest()
		_ = writeResponse(os.Stdout, 77, nil)
		time.Sleep(time.Minute)
	},
	"fake greeting again": func() {
		fakeGreeting()
		fakeRequest()
		fakeGreeting()
		time.Sleep(time.Minute)
	},
	"fake spin": func() {
		fakeGreeting()
		defaultSignals()
		r := fakeRequest()
		if allow(0, request{AddressSpace: 1 << 40, ProcessorTime: r.ProcessorTime}) != nil {
			return
		}
		for n := 0; n >= 0; n ^= 1 {
		}
	},
	"fake thief": func() { // tries what a decoder must not
		if confine() != nil {
			return
		}
		fakeGreeting()
		r := fakeRequest()
		_, err := os.Open("/etc/passwd")
		_, socket := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		_ = exec.Command("/bin/true").Run()
		if errors.Is(err, unix.EMFILE) && errors.Is(socket, unix.EMFILE) {
			_ = writeResponse(os.Stdout, decoded, make([]byte, r.Rows*r.Columns*r.Allocated/8))
		}
	},
}

func fakePool(name string) *pool {
	p := newPool(1, func(codec.JPEG2000, codec.Frame) allowance {
		return allowance{memory: 1 << 30, processor: 0, wall: 2 * time.Second}
	}, func(string) *exec.Cmd {
		return &exec.Cmd{Path: "/proc/self/exe", Args: []string{name}}
	})
	p.start = 2 * time.Second
	return p
}

func TestDecodersThatMisbehaveAreErrors(t *testing.T) {
	f := codec.Frame{Rows: 300, Columns: 400, BitsAllocated: 16, BitsStored: 12}
	c := codec.JPEG2000{Codestream: make([]byte, 300000), Precision: 12} // more than a pipe holds
	for name, expected := range map[string]string{
		"fake silence":              "OpenJPEG does not start: it said nothing for 2s",
		"fake end":                  "OpenJPEG does not start: the decoder of JPEG 2000 ended before",
		"fake greeting":             "OpenJPEG does not start: the decoder of JPEG 2000 answers with garbage",
		"fake stranger":             "OpenJPEG does not start: the decoder of JPEG 2000 answers with garbage",
		"fake refusal":              "OpenJPEG does not decode the JPEG 2000 codestream: ?[31mbad ??",
		"fake hang":                 "was stopped: it took more than 2s",
		"fake deaf":                 "was stopped: it took more than 2s",
		"fake crash":                "ended before it answered: segmentation fault",
		"fake killed in the answer": "ended before it answered: killed",
		"fake exit":                 "ended before it answered: exit status 3",
		"fake frame too long":       "answers with garbage",
		"fake frame too short":      "answers with garbage",
		"fake text too long":        "answers with garbage",
		"fake kind":                 "answers with garbage",
		"fake greeting again":       "answers with garbage",
	} {
		t.Run(name[5:], func(t *testing.T) {
			t.Parallel()
			p := fakePool(name)
			defer p.close()
			begin := time.Now()
			err := p.decode(Library{}, make([]byte, 300*400*2), c, f)
			require.ErrorContains(t, err, expected)
			require.NotContains(t, err.Error(), "\n")
			require.Less(t, time.Since(begin), 8*time.Second)
		})
	}
}

func TestProcessorTimeIsLimited(t *testing.T) {
	p := fakePool("fake spin")
	defer p.close()
	p.limits = func(codec.JPEG2000, codec.Frame) allowance { return allowance{wall: time.Minute} }
	f := codec.Frame{Rows: 1, Columns: 1, BitsAllocated: 8, BitsStored: 8}
	err := p.decode(Library{}, make([]byte, 1), codec.JPEG2000{Codestream: []byte{0}}, f)
	require.ErrorContains(t, err, "it took too much processor time")
}

func TestADecoderOpensNoFiles(t *testing.T) {
	p := fakePool("fake thief")
	defer p.close()
	f := codec.Frame{Rows: 1, Columns: 1, BitsAllocated: 8, BitsStored: 8}
	err := p.decode(Library{}, make([]byte, 1), codec.JPEG2000{Codestream: []byte{0}}, f)
	require.NoError(t, err)
}

// One process decodes many frames; one that was killed meanwhile is replaced; one that waits long
// ends.
func TestDecodersAreKeptAndReplaced(t *testing.T) {
	library := need(t)
	s := corpus(t)["size-odd"]
	p := newPool(1, limits, command)
	defer p.close()
	decode := func() int {
		dst := make([]byte, s.Rows*s.Columns*2)
		c := codec.JPEG2000{Codestream: s.codestream, Precision: 16}
		require.NoError(t, p.decode(library, dst, c, s.frame()))
		require.Equal(t, s.SHA256, digest(dst))
		require.Len(t, p.waiting, 1)
		return p.waiting[0].cmd.Process.Pid
	}
	first := decode()
	require.Equal(t, first, decode())
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	second := decode()
	require.NotEqual(t, first, second)

	p.idle = 50 * time.Millisecond
	require.Equal(t, second, decode())
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.waiting) == 0 && errors.Is(syscall.Kill(second, 0), syscall.ESRCH)
	}, 10*time.Second, 20*time.Millisecond)
}

// The process has no way to the program's files but its two pipes.
func TestADecoderInheritsNothing(t *testing.T) {
	library := need(t)
	kept, err := syscall.Open("openjpeg_test.go", syscall.O_RDONLY, 0) // as C opens files
	require.NoError(t, err)
	defer syscall.Close(kept)
	t.Setenv("MARKER", "secret")
	p := newPool(1, limits, command)
	defer p.close()
	d, err := p.open(library.Path)
	require.NoError(t, err)
	p.give(d)
	proc := fmt.Sprintf("/proc/%d/", d.cmd.Process.Pid)
	fds, err := os.ReadDir(proc + "fd")
	require.NoError(t, err)
	for _, fd := range fds {
		target, err := os.Readlink(proc + "fd/" + fd.Name())
		require.NoError(t, err)
		switch fd.Name() {
		case "0", "1":
			require.Contains(t, target, "pipe:")
		case "2":
			require.Equal(t, os.DevNull, target)
		default: // Go's own
			require.True(t, strings.HasPrefix(target, "/sys/fs/cgroup/") ||
				strings.HasPrefix(target, "anon_inode:"), "%s is %s", fd.Name(), target)
		}
	}
	environ, err := os.ReadFile(proc + "environ")
	require.NoError(t, err)
	require.NotContains(t, string(environ), "secret")
	limits, err := os.ReadFile(proc + "limits")
	require.NoError(t, err)
	require.Regexp(t, `Max open files +0 +0`, string(limits))
	require.Regexp(t, `Max file size +0 +0`, string(limits))
	require.Regexp(t, `Max core file size +0 +0`, string(limits))
}

func TestLibrariesThatDoNotServeAreNamed(t *testing.T) {
	p := newPool(1, limits, command)
	defer p.close()
	_, err := p.find([]string{"/nowhere/libopenjp2.so", "libc.so.6"})
	require.ErrorContains(t, err, "tried /nowhere/libopenjp2.so: cannot open shared object file")
	_, long := p.find([]string{"/" + strings.Repeat("long/", 300)})
	require.ErrorContains(t, long, "long/long")
	require.ErrorContains(t, err, "; libc.so.6: it has no opj_version: it is not OpenJPEG")

	t.Setenv("LNTORCH_OPENJPEG", "/given/by/the/user.so")
	require.Equal(t, []string{"/given/by/the/user.so"}, candidates())
	require.NoError(t, os.Unsetenv("LNTORCH_OPENJPEG"))
	require.Equal(t, systemName, candidates()[len(candidates())-1])
}

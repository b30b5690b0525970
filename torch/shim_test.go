package torch_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/torch"
)

// loadWith loads the library path in a separate process and returns Load's error there, "" for
// success.
func loadWith(t *testing.T, path string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLoadChild$", "-test.v")
	cmd.Env = append(os.Environ(), "LNTORCH_LIB="+path, "LNTORCH_LOAD_CHILD=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	_, said, found := strings.Cut(string(out), "load says: <")
	require.True(t, found, string(out))
	said, _, _ = strings.Cut(said, ">\n")
	return said
}

// TestLoadChild is the body of loadWith's process. Everything here must work without libtorch or
// return an error.
func TestLoadChild(t *testing.T) {
	if os.Getenv("LNTORCH_LOAD_CHILD") == "" {
		t.Skip("runs as a process of its own")
	}
	err := torch.Load()
	if err == nil {
		fmt.Print("load says: <>\n")
		return
	}
	require.Equal(t, err, torch.Load(), "the second answer is the first")
	none := func() error { t.Error("ran without libtorch"); return nil }
	require.Equal(t, err, torch.With(func(*torch.Scope) error { return none() }))
	require.Equal(t, err, torch.NoGrad(none))
	require.Equal(t, err, torch.EnableGrad(none))
	require.Equal(t, err, torch.Autocast(torch.DeviceCPU, torch.BFloat16, none))
	require.Equal(t, err, torch.OnThread(1, none))
	require.Equal(t, err, torch.OnStream(torch.Stream{}, none))
	require.Equal(t, err, torch.ManualSeed(1))
	require.Equal(t, err, torch.CheckDevice(torch.CPU))
	_, e := torch.Version()
	require.Equal(t, err, e)
	_, e = torch.NewGenerator(torch.CPU, 1)
	require.Equal(t, err, e)
	require.NoError(t, torch.ClearGrads(nil))
	require.Zero(t, torch.Live())
	require.Zero(t, torch.Threads())
	fmt.Printf("load says: <%v>\n", err)
}

func TestLoadExplainsWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.so")
	said := loadWith(t, missing)
	require.Contains(t, said, missing+": no such file")
	require.Contains(t, said, "make shim")
	require.Contains(t, said, "LNTORCH_LIB")

	text := filepath.Join(dir, "text.so")
	require.NoError(t, os.WriteFile(text, []byte("not a library\n"), 0o644))
	require.Contains(t, loadWith(t, text), text+": ")

	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler for libraries that are out of date")
	}
	compile := func(name, source string) string {
		c, so := filepath.Join(dir, name+".c"), filepath.Join(dir, name+".so")
		require.NoError(t, os.WriteFile(c, []byte(source), 0o644))
		out, err := exec.Command(cc, "-w", "-shared", "-fPIC", "-o", so, c).CombinedOutput()
		require.NoError(t, err, string(out))
		return so
	}
	old := compile("old", "long lnt_abi(void) { return 0; }\n")
	require.Contains(t, loadWith(t, old), "symbol lnt_init is missing")

	header, err := os.ReadFile("csrc/lntorch.h")
	require.NoError(t, err)
	source := "long lnt_abi(void) { return 999; }\n"
	for _, m := range regexp.MustCompile(`(?m)^LNT_API .*?(lnt_\w+)\(`).FindAllStringSubmatch(string(header), -1) {
		if m[1] != "lnt_abi" {
			source += "void " + m[1] + "(void) {}\n"
		}
	}
	require.Contains(t, loadWith(t, compile("abi", source)), "ABI 999, this program needs")
}

func TestLoadedLibraryIsTheNamedOne(t *testing.T) {
	torchtest.Require(t)
	require.Empty(t, loadWith(t, torch.LibraryPath()))
	v, err := torch.Version()
	require.NoError(t, err)
	require.Regexp(t, `^\d+\.\d+\.\d+`, v)
	isa, err := torch.CPUCapability()
	require.NoError(t, err)
	require.NotEmpty(t, isa)
	t.Logf("libtorch %s, %s, %s", v, isa, torch.LibraryPath())
}

func TestOneOpenMPLibraryAndSeveralThreads(t *testing.T) {
	torchtest.Require(t)
	n, err := torch.ParallelThreads(1000)
	require.NoError(t, err)
	if runtime.NumCPU() > 1 {
		require.Greater(t, n, 1, "parallel loops of the shim run on one thread")
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	found := map[string]bool{}
	for _, line := range strings.Split(string(maps), "\n") {
		f := strings.Fields(line)
		if len(f) == 6 && regexp.MustCompile(`lib(gomp|iomp|omp)[-.5]`).MatchString(filepath.Base(f[5])) {
			found[f[5]] = true
		}
	}
	require.Len(t, found, 1, "OpenMP libraries in the process: %v", found)
}

// Package golden holds what tests that compare lntorch with the reference stack share: golden files
// written by Python, the Python interpreter for live comparisons, the table of tolerances, and
// comparisons that locate the largest difference.
//
// Only tests import it.
package golden

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lntorch/lntorch/formats/npz"
)

// Missing ends a test that needs something the machine lacks: the test is skipped, or fails if
// LNTORCH_REQUIRE, a comma-separated list, names it ("torch", "python", "images", "cuda"). reason
// says what is missing and how to get it.
func Missing(t testing.TB, what, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("LNTORCH_REQUIRE"), ","), what) {
		t.Fatalf("LNTORCH_REQUIRE names %s: %s", what, reason)
	}
	t.Skip(reason)
}

// Python returns the interpreter with nnU-Net 2.5.1 named by LNTORCH_PYTHON; without one it calls
// Missing. Tests that use it are named TestLive…: make test-nnunet runs them.
func Python(t testing.TB) string {
	t.Helper()
	return interpreter(t, "LNTORCH_PYTHON", "python",
		"needs a Python with nnU-Net 2.5.1; run make test-nnunet")
}

// interpreter returns the program that an environment variable names; without one it calls Missing.
func interpreter(t testing.TB, variable, what, reason string) string {
	t.Helper()
	python := os.Getenv(variable)
	if python == "" {
		Missing(t, what, reason+", or name one in "+variable)
	}
	if _, err := exec.LookPath(python); err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return python
}

// Run runs a script of scripts/golden with Python(t) in the module's root folder and returns its
// standard output. If the script fails, the test fails with both of its outputs.
func Run(t testing.TB, script string, args ...string) []byte {
	t.Helper()
	return run(t, Python(t), script, args)
}

func run(t testing.TB, python, script string, args []string) []byte {
	t.Helper()
	cmd := exec.Command(python, append([]string{filepath.Join("scripts", "golden", script)},
		args...)...)
	cmd.Dir = Root(t)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, stdout.String(), stderr.String())
	}
	return []byte(stdout.String())
}

// RunAll is Run for several argument lists in one process, as importing nnU-Net takes five seconds.
// Each list gives the same result as a separate Run: the script sets seed and threads at its start.
func RunAll(t testing.TB, script string, runs ...[]string) {
	t.Helper()
	lists, err := json.Marshal(runs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(Python(t), filepath.Join("scripts", "golden", "runs.py"), script)
	cmd.Dir = Root(t)
	cmd.Stdin = bytes.NewReader(lists)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// Root returns the module's root folder, searched upwards from the test's working directory.
func Root(t testing.TB) string {
	t.Helper()
	start, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatalf("no go.mod in %s or above", start)
		}
	}
}

// Path returns the path of a file under testdata/golden.
func Path(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(Root(t), "testdata", "golden", filepath.FromSlash(name))
}

// Load opens an .npz file of testdata/golden; it is closed when the test ends.
func Load(t testing.TB, name string) *npz.File {
	t.Helper()
	f, err := npz.OpenNpz(Path(t, name))
	if err != nil {
		t.Fatalf("%v\nmake golden writes the golden files", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Float32s returns the shape and the row-major elements of an array of the file.
func Float32s(t testing.TB, f *npz.File, name string) (shape []int, values []float32) {
	t.Helper()
	a, err := f.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	if values, err = a.Float32s(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return a.Shape, values
}

// LoadJSON decodes a .json file of testdata/golden into v.
func LoadJSON(t testing.TB, name string, v any) {
	t.Helper()
	text, err := os.ReadFile(Path(t, name))
	if err != nil {
		t.Fatalf("%v\nmake golden writes the golden files", err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

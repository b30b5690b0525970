package golden

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// Images returns the interpreter named by LNTORCH_IMAGES_PYTHON, which has SimpleITK, pydicom and
// the readers and writers of DICOM objects of scripts/requirements-images.txt; without one it calls
// Missing. Tests that use it are named TestLiveImages…: make test-images runs them.
func Images(t testing.TB) string {
	t.Helper()
	return interpreter(t, "LNTORCH_IMAGES_PYTHON", "images",
		"needs a Python with SimpleITK, pydicom and others; run make test-images")
}

// RunImages is Run with Images(t).
func RunImages(t testing.TB, script string, args ...string) []byte {
	t.Helper()
	return run(t, Images(t), script, args)
}

// Program ends a test that runs a program of a Debian package, or has a script run it, where it is
// not there: it calls Missing with the package's name.
func Program(t testing.TB, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Missing(t, debian, "needs the program "+program+"; Debian, Ubuntu: apt-get install "+debian)
	}
}

// Seed returns a seed for scripts that make files at random, as text: LNTORCH_SEED, else another one
// each time. A test that fails prints it.
func Seed(t testing.TB) string {
	t.Helper()
	seed := os.Getenv("LNTORCH_SEED")
	if seed == "" {
		seed = strconv.FormatInt(time.Now().UnixMicro()%1e9+100, 10)
	}
	t.Logf("seed %s: LNTORCH_SEED=%s repeats this", seed, seed)
	return seed
}

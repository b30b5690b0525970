package openjpeg

import (
	"os"

	"github.com/lntorch/lntorch/internal/sharedlib"
)

const (
	builtName  = "liblntorch_openjpeg.so" // by `make`
	systemName = "libopenjp2.so.7"        // all of OpenJPEG 2
)

// candidates lists what may be OpenJPEG: paths of files that are there, and the system's name.
func candidates() []string {
	if p := os.Getenv("LNTORCH_OPENJPEG"); p != "" {
		return []string{p}
	}
	var paths []string
	for _, p := range sharedlib.Candidates(builtName) {
		if _, err := os.Stat(p); err == nil {
			paths = append(paths, p)
		}
	}
	return append(paths, systemName)
}

// searchPath is the part of the environment that says where the system's libraries are.
func searchPath() []string {
	if p := os.Getenv("LD_LIBRARY_PATH"); p != "" {
		return []string{"LD_LIBRARY_PATH=" + p}
	}
	return nil
}

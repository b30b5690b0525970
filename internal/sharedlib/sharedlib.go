// Package sharedlib knows where the shared libraries lie that `make` builds and the program opens
// at run time.
package sharedlib

import (
	"os"
	"path/filepath"
	"slices"
)

// Candidates lists the paths at which a library of the given file name may lie: the program's
// folder; lib beside that folder, as in an installation; build/lib beside it; build/lib in the
// working directory and those above it, up to the first that holds a go.mod. They need not exist.
func Candidates(name string) []string {
	var paths []string
	add := func(p string) {
		if !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		dir := filepath.Dir(exe)
		add(filepath.Join(dir, name))
		add(filepath.Join(filepath.Dir(dir), "lib", name))
		add(filepath.Join(filepath.Dir(dir), "build", "lib", name))
	}
	if dir, err := os.Getwd(); err == nil {
		for {
			add(filepath.Join(dir, "build", "lib", name))
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				break
			}
			up := filepath.Dir(dir)
			if up == dir {
				break
			}
			dir = up
		}
	}
	return paths
}

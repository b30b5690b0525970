package golden

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// PublicFile is a file of a public package with its content as read by Python: an entry of the
// index written by scripts/public_files.py.
type PublicFile struct {
	Path    string // local path
	Name    string // package and path within it
	Kind    string
	Read    json.RawMessage // nil if Python refuses the file
	Refused string
}

// Public calls check with each public file of the given kinds. It skips the test if the files were
// not fetched: LNTORCH_PUBLIC names their folder.
func Public(t *testing.T, kinds []string, check func(t *testing.T, f PublicFile)) {
	folder := os.Getenv("LNTORCH_PUBLIC")
	if folder == "" {
		Missing(t, "public", "LNTORCH_PUBLIC names no folder of public files; make test-public "+
			"fetches them")
		return
	}
	b, err := os.ReadFile(filepath.Join(folder, "index.json"))
	require.NoError(t, err)
	var index []struct {
		Path, Kind, Refused string
		Read                json.RawMessage
	}
	require.NoError(t, json.Unmarshal(b, &index))
	n := 0
	for _, e := range index {
		if !slices.Contains(kinds, e.Kind) {
			continue
		}
		n++
		t.Run(e.Path, func(t *testing.T) {
			check(t, PublicFile{Path: filepath.Join(folder, e.Path), Name: e.Path, Kind: e.Kind,
				Read: e.Read, Refused: e.Refused})
		})
	}
	require.Positive(t, n, "no file of %v", kinds)
	t.Logf("%d files of %v", n, kinds)
}

// Refusals checks that a file that Python reads was read; a file that only Python refuses is
// logged. It reports whether there is content to compare.
func (f PublicFile) Refusals(t *testing.T, err error) bool {
	switch {
	case f.Read == nil && err != nil:
		t.Logf("both refuse: Python: %s; lntorch: %v", f.Refused, err)
	case f.Read == nil:
		t.Logf("only Python refuses: %s", f.Refused)
	default:
		require.NoError(t, err, "Python reads this file")
		return true
	}
	return false
}

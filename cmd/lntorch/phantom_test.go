package main

import (
	"bytes"
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/phantom"
)

func TestPhantomWritesADatasetAndSaysWhatIsInIt(t *testing.T) {
	raw, picture := t.TempDir(), filepath.Join(t.TempDir(), "p.png")
	args := []string{"phantom", "--id", "12", "--domain", "target", "--size", "small", "--cases", "1", "--test-cases", "1", "--seed", "4", "--spacing", "4,3,3"}
	cmd := command(t, append(args, "--preview", picture, "--nodes", "3,9", "--phase", "arterial")...)
	cmd.Env = append(cmd.Env, "nnUNet_raw="+raw)
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.errOut, "Dataset012_PhantomTarget: 2 synthetic cases")
	require.Contains(t, r.out, "not evidence about patients")
	require.Contains(t, r.out, "picture: "+picture)
	var s phantom.Summary
	text, err := os.ReadFile(filepath.Join(raw, "Dataset012_PhantomTarget", "phantom.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &s))
	lines := strings.Split(r.out, "\n")
	require.Equal(t, strings.Fields("case for shape z,y,x spacing mm phase noise HU nodes short axes mm volume ml"), strings.Fields(lines[0]))
	row := strings.Fields(lines[2])
	require.Equal(t, []string{"LN_000", "training"}, row[:2])
	require.Equal(t, []string{"4×3×3", "arterial"}, row[3:5])
	require.Equal(t, "test", strings.Fields(lines[3])[1])
	require.Len(t, s.Cases, 2)
	for _, c := range s.Cases {
		require.LessOrEqual(t, len(c.Nodes), 9)
		require.Positive(t, len(c.Nodes))
	}
	f, err := os.Open(picture)
	require.NoError(t, err)
	defer f.Close()
	_, err = png.Decode(f)
	require.NoError(t, err)

	// Again: refused, then replaced, by the same voxels.
	path := filepath.Join(raw, "Dataset012_PhantomTarget", "imagesTr", "LN_000_0000.nii.gz")
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	args = append(args, "--raw", raw, "--nodes", "3,9", "--phase", "arterial", "--threads", "1")
	r = execute(t, command(t, args...))
	require.Equal(t, 1, r.code)
	require.Contains(t, r.errOut, "Dataset012_PhantomTarget exists already; --force replaces it")
	r = execute(t, command(t, append(args, "--force", "--json", "--quiet")...))
	require.Equal(t, 0, r.code, r.errOut)
	require.Empty(t, r.errOut)
	require.Equal(t, string(text), r.out)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestPhantomPreviewAloneWritesNothingElse(t *testing.T) {
	folder := t.TempDir()
	cmd := command(t, "phantom", "--size", "small", "--spacing", "5,4,4", "--preview", "p.png")
	cmd.Dir = folder
	r := execute(t, cmd)
	require.Equal(t, 0, r.code, r.errOut)
	require.Equal(t, "picture: p.png\n", r.out)
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestPhantomInterruptedLeavesNothing(t *testing.T) {
	raw := t.TempDir()
	cmd := command(t, "phantom", "--id", "3", "--cases", "100", "--raw", raw)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		entries, err := os.ReadDir(raw)
		return err == nil && len(entries) > 0
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Error(t, cmd.Wait())
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode(), errOut.String())
	require.Contains(t, errOut.String(), "stopped by the user; nothing of the dataset is left")
	entries, err := os.ReadDir(raw)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestPhantomUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"--id is not given":                            {},
		"--raw is not given and nnUNet_raw is not set": {"--id", "3"},
		`--id: found "1000", expected a whole number of at least 1 and at most 999`: {"--id", "1000"},
		`--id: found "0", expected a whole number of at least 1 and at most 999`:    {"--id", "0", "--preview", "x.png"},
		`--domain: found "mars", expected source or target`:                         {"--id", "3", "--domain", "mars"},
		`--phase: found "late", expected none, arterial or venous`:                  {"--id", "3", "--phase", "late"},
		"--shape has 2 values, expected three: z,y,x":                               {"--id", "3", "--shape", "3,4"},
		"--spacing has 1 values, expected three: z,y,x":                             {"--id", "3", "--spacing", "3"},
		"--nodes has 3 values, expected two: least,most":                            {"--id", "3", "--nodes", "3,4,5"},
		"--classes 2: expected 1 or 5":                                              {"--id", "3", "--classes", "2"},
		"unknown flag: --case; did you mean --cases?":                               {"--id", "3", "--case", "4"},
		"found 1 arguments, expected 0":                                             {"3"},
	} {
		r := execute(t, command(t, append([]string{"phantom"}, args...)...))
		require.Equal(t, 2, r.code, want)
		require.Contains(t, r.errOut, want)
		require.Contains(t, r.errOut, "Run `lntorch phantom --help`")
	}
}

package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/pipeline"
)

// dicomArchive writes so many patients, each with a series and an RTSTRUCT of the corpus and UIDs of its
// own.
func dicomArchive(t *testing.T, patients int) string {
	corpus, root := repo(t, "testdata/golden/dicom_labels"), t.TempDir()
	for _, file := range []string{"ct.zip", "objects.zip"} {
		z, err := zip.OpenReader(filepath.Join(corpus, file))
		require.NoError(t, err)
		for _, m := range z.File {
			if m.Name != "stars-square.dcm" && filepath.Dir(m.Name) != "square" {
				continue
			}
			r, err := m.Open()
			require.NoError(t, err)
			data, err := io.ReadAll(r)
			require.NoError(t, err)
			for i := range patients {
				path := filepath.Join(root, fmt.Sprintf("p%02d", i), m.Name)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
				own := bytes.ReplaceAll(data, []byte(".498.15."), fmt.Appendf(nil, ".498.%d.", 20+i))
				require.NoError(t, os.WriteFile(path, own, 0o666))
			}
		}
		require.NoError(t, z.Close())
	}
	return root
}

func TestImportShowsThenWritesThenKeeps(t *testing.T) {
	root, raw := dicomArchive(t, 2), t.TempDir()
	r := lntorch(t, "import", root, "--dry-run")
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "24×24×7  0.8×0.8×2.5  4 names  "+root+"/p00/square\n")
	require.Contains(t, r.out, " 2  ROI   ZQMARKERQZ a\n")
	require.NotContains(t, r.errOut, "ZQMARKERQZ")

	args := []string{"import", root, "--raw", raw, "-d", "110", "--name", "NODES", "--label", "LN=zq.{1,20} (b|c)", "--label", "A=.* a", "-np", "1"}
	r = lntorch(t, append(args, "--dry-run")...)
	require.Equal(t, 0, r.code, r.errOut)
	require.Contains(t, r.out, "NODES_0002  24×24×7  0.8×0.8×2.5  A 1, LN 2  "+root+"/p01/square\n")
	require.Contains(t, r.out, " 2  ROI   ZQMARKERQZ a  A\n")
	require.Empty(t, names(t, raw))

	r = lntorch(t, args...)
	require.Equal(t, 0, r.code, r.errOut)
	folder := filepath.Join(raw, "Dataset110_NODES")
	require.Contains(t, r.out, folder+": 2 cases written, 0 were there, 0 failed\n")
	require.NotContains(t, r.out+r.errOut, "ZQMARKERQZ")
	require.Equal(t, []string{"NODES_0001_0000.nii.gz", "NODES_0002_0000.nii.gz"}, names(t, filepath.Join(folder, "imagesTr")))
	require.Equal(t, []string{"NODES_0001.nii.gz", "NODES_0002.nii.gz"}, names(t, filepath.Join(folder, "labelsTr")))
	r = lntorch(t, append(args, "--json")...)
	require.Equal(t, 0, r.code, r.errOut)
	var done pipeline.Imported
	require.NoError(t, json.Unmarshal([]byte(r.out), &done))
	require.Equal(t, folder, done.Dataset)
	require.Equal(t, pipeline.ImportKept, done.Cases[1].Status)
	require.Positive(t, done.Cases[1].Voxels["LN"])

	// what cannot be done fails, what is asked wrongly is usage
	require.NoError(t, os.WriteFile(filepath.Join(root, "p01", "square", "03.dcm"), []byte("broken"), 0o666))
	r = lntorch(t, "import", root, "--raw", raw, "-d", "111", "--name", "N", "--label", "LN=.* b")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.out, "Dataset111_N: 1 cases written, 0 were there, 1 failed\n")
	require.Contains(t, r.errOut, "lntorch: 1 of 2 cases were not imported")
	for want, args := range map[string][]string{
		"expected SRC":                         {"import"},
		"-d ID and --name NAME must be given":  {"import", root, "--label", "LN=.*"},
		"found \"0\", expected a whole number": {"import", root, "-d", "0"},
		"--label NAME=PATTERN is not given":    {"import", root, "-d", "5", "--name", "N", "--raw", raw},
		"expected NAME=PATTERN or PATTERN":     {"import", root, "-d", "5", "--name", "N", "--raw", raw, "--label", "=x"},
		"--raw is not given":                   {"import", root, "-d", "5", "--name", "N", "--label", "x"},
		"expected .nii.gz":                     {"import", root, "--file-ending", ".png"},
	} {
		r = lntorch(t, args...)
		require.Equal(t, 2, r.code, want)
		require.Contains(t, r.errOut, want)
	}
}

func names(t *testing.T, folder string) []string {
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// kill -9 at any moment leaves whole cases, and the same command makes what an undisturbed one does.
func TestImportIsKilledAndGoesOn(t *testing.T) {
	root, raw := dicomArchive(t, 60), t.TempDir()
	args := func(raw string) []string {
		return []string{"import", root, "--raw", raw, "-d", "3", "--name", "K", "--label", "LN=.* b", "-np", "2"}
	}
	images := filepath.Join(raw, "Dataset003_K", "imagesTr")
	there := func() int {
		all, err := filepath.Glob(filepath.Join(images, "K_*"))
		require.NoError(t, err)
		return len(all)
	}
	killed := 0
	for _, after := range []int{1, 8, 20, 35} {
		cmd := command(t, args(raw)...)
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return there() >= after }, time.Minute, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		if cmd.Wait() != nil {
			killed++
		}
	}
	require.Greater(t, killed, 1)
	left := there()
	require.Less(t, left, 60)
	r := lntorch(t, args(raw)...)
	require.Equal(t, 0, r.code, r.errOut)
	other := t.TempDir()
	require.Equal(t, 0, lntorch(t, args(other)...).code)
	for _, part := range []string{"", "imagesTr", "labelsTr"} {
		a, b := filepath.Join(raw, "Dataset003_K", part), filepath.Join(other, "Dataset003_K", part)
		require.Equal(t, names(t, b), names(t, a))
		for _, name := range names(t, a) {
			if info, err := os.Stat(filepath.Join(a, name)); err == nil && info.IsDir() {
				continue
			}
			x, err := os.ReadFile(filepath.Join(a, name))
			require.NoError(t, err)
			y, err := os.ReadFile(filepath.Join(b, name))
			require.NoError(t, err)
			require.Equal(t, y, x, name)
		}
	}
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/internal/torchtest"
	"github.com/lntorch/lntorch/pipeline"
)

func doctor(t *testing.T, code int, env []string, args ...string) map[string]pipeline.Check {
	t.Helper()
	cmd := command(t, append([]string{"doctor", "--json"}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	r := execute(t, cmd)
	require.Equal(t, code, r.code, r.errOut)
	var list []pipeline.Check
	require.NoError(t, json.Unmarshal([]byte(r.out), &list), "stdout is JSON alone, problems or not")
	out := map[string]pipeline.Check{}
	for _, c := range list {
		out[c.Name] = c
	}
	return out
}

func TestDoctorWithoutLibtorchSaysWhatMendsIt(t *testing.T) {
	c := doctor(t, 1, []string{"LNTORCH_LIB=/nowhere.so"})
	require.Equal(t, "problem", c["libtorch"].State)
	require.Contains(t, c["libtorch"].Text, "/nowhere.so: no such file")
	require.Contains(t, c["libtorch"].Text, "make shim")
	require.NotContains(t, c, "threads")
	for _, name := range []string{"lntorch", "memory", "disk", "niivue", "gotorch"} {
		require.Contains(t, c, name)
	}
}

func TestDoctorFindsLibtorch(t *testing.T) {
	torchtest.Require(t)
	c := doctor(t, 0, nil)
	require.Equal(t, "ok", c["libtorch"].State)
	require.Regexp(t, `^2\.[0-9]+\.[0-9]+.* kernels\n.*libtorch_cpu\.so.*\nthrough .*liblntorch\.so$`, c["libtorch"].Text)
	require.Contains(t, c, "cuda")
	require.Contains(t, c["threads"].Text, "threads")
}

func TestDoctorSaysWhichOpenJPEG(t *testing.T) {
	c := doctor(t, 1, []string{"LNTORCH_LIB=/nowhere.so", "LNTORCH_OPENJPEG=/nowhere/openjp2.so"})
	require.Equal(t, "warning", c["openjpeg"].State)
	require.Contains(t, c["openjpeg"].Text, "make openjpeg")
	require.Contains(t, c["openjpeg"].Text, "\ntried /nowhere/openjp2.so: cannot open shared object file")

	c = doctor(t, 1, []string{"LNTORCH_LIB=/nowhere.so"})
	if c["openjpeg"].State != "ok" {
		golden.Missing(t, "openjpeg", c["openjpeg"].Text)
	}
	require.Regexp(t, `^2\.[0-9]+\.[0-9]+ decodes DICOM in JPEG 2000\n.*(openjpeg\.so|libopenjp2.*)$`,
		c["openjpeg"].Text)
}

func TestDoctorLooksAtNnUNetsFolders(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	c := doctor(t, 1, []string{"LNTORCH_LIB=/nowhere.so", "nnUNet_raw=" + repo(t, "testdata/phantom-mini/raw")}, "--preprocessed", filepath.Join(dir, "no place"), "--results", file)
	require.Equal(t, "ok", c["nnUNet_raw"].State)
	require.Contains(t, c["nnUNet_raw"].Text, "2 datasets")
	require.Equal(t, "warning", c["nnUNet_preprocessed"].State)
	require.Contains(t, c["nnUNet_preprocessed"].Text, "mkdir -p '"+filepath.Join(dir, "no place")+"'")
	require.Equal(t, "warning", c["nnUNet_results"].State)
	require.Contains(t, c["nnUNet_results"].Text, "is no folder")
	c = doctor(t, 1, []string{"LNTORCH_LIB=/nowhere.so"})
	require.Contains(t, c["nnUNet_results"].Text, "export nnUNet_results=FOLDER")

	if os.Getuid() != 0 { // who may write everywhere
		require.NoError(t, os.Chmod(dir, 0o500))
		defer os.Chmod(dir, 0o700)
		c = doctor(t, 1, nil, "--results", dir)
		require.Equal(t, "problem", c["nnUNet_results"].State)
	}
}

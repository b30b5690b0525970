package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/golden"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/view"
)

const viewCT = "testdata/phantom-mini/raw/Dataset102_PhantomTarget/imagesTs/LN_004_0000.nii.gz"
const viewLabels = "testdata/phantom-mini/raw/Dataset102_PhantomTarget/labelsTs/LN_004.nii.gz"

// needNiiVue ends the test where the program is built without what draws the page.
func needNiiVue(t *testing.T) {
	t.Helper()
	if err := view.Check(); err != nil {
		golden.Missing(t, "niivue", err.Error())
	}
}

// viewer starts the command and returns it with the first line of its output.
func viewer(t *testing.T, environment []string, args ...string) (cmd *exec.Cmd, line string, errOut *bytes.Buffer) {
	t.Helper()
	needNiiVue(t)
	cmd = command(t, append([]string{"view"}, args...)...)
	cmd.Env = append(cmd.Env, "LNTORCH_LIB=/nowhere.so", "SSH_CONNECTION=", "DISPLAY=", "WAYLAND_DISPLAY=")
	cmd.Env = append(cmd.Env, environment...)
	errOut = &bytes.Buffer{}
	cmd.Stderr = errOut
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	r := bufio.NewReader(out)
	for !strings.Contains(line, "/\n") && !strings.Contains(line, "}\n") {
		more, err := r.ReadString('\n')
		line += more
		if err != nil {
			break
		}
	}
	go io.Copy(io.Discard, r)
	return cmd, line, errOut
}

// interrupt ends the command as Ctrl-C does.
func interrupt(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	time.Sleep(200 * time.Millisecond) // what it prints on stderr
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	cmd.Wait()
	require.Equal(t, 0, cmd.ProcessState.ExitCode())
}

func TestViewServesUntilItIsInterrupted(t *testing.T) {
	cmd, line, errOut := viewer(t, nil, repo(t, viewCT), repo(t, viewLabels))
	require.True(t, strings.HasSuffix(line, "/\n"), "one URL, found %q, %s", line, errOut)
	page, err := url.Parse(strings.TrimSpace(line))
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", page.Hostname())
	for path, code := range map[string]int{"": 200, "scene.json": 200, "volumes/1.nii": 200, "volumes/2.nii": 404} {
		answer, err := http.Get(page.String() + path)
		require.NoError(t, err)
		answer.Body.Close()
		require.Equal(t, code, answer.StatusCode, path)
	}
	answer, err := http.Get("http://" + page.Host + "/")
	require.NoError(t, err)
	answer.Body.Close()
	require.Equal(t, 403, answer.StatusCode)
	interrupt(t, cmd)
	require.Equal(t, "Ctrl-C ends it\n", errOut.String())
	_, err = http.Get(page.String())
	require.Error(t, err)

	// SIGTERM, too
	cmd, _, _ = viewer(t, nil, repo(t, viewCT))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	cmd.Wait()
	require.Equal(t, 0, cmd.ProcessState.ExitCode())
}

func TestViewPrintsJSON(t *testing.T) {
	cmd, text, _ := viewer(t, nil, "--json", repo(t, viewCT))
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &v))
	require.Len(t, v, 2)
	page, err := url.Parse(v["url"].(string))
	require.NoError(t, err)
	require.Equal(t, page.Port(), json.Number(strings.TrimSuffix(string(mustJSON(t, v["port"])), ".0")).String())
	interrupt(t, cmd)
}

func mustJSON(t *testing.T, v any) []byte {
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return data
}

func TestViewSaysHowToReachItOverSSH(t *testing.T) {
	cmd, line, errOut := viewer(t, []string{"SSH_CONNECTION=10.0.0.5 51000 10.0.0.9 2222"}, repo(t, viewCT))
	interrupt(t, cmd)
	page, err := url.Parse(strings.TrimSpace(line))
	require.NoError(t, err)
	require.Regexp(t, `\n  ssh -N -C -L `+page.Port()+`:127\.0\.0\.1:`+page.Port()+` -p 2222 \S+@10\.0\.0\.9\n`, errOut.String())

	at := pipeline.Viewing{URL: "http://[::1]:8000/x/", Port: 8000, Loopback: true}
	require.Contains(t, tunnel("a 1 fe80::1 22", at), "ssh -N -C -L 8000:[::1]:8000 ")
	require.NotContains(t, tunnel("a 1 fe80::1 22", at), "-p")
	require.Empty(t, tunnel("", at))
	require.Empty(t, tunnel("nonsense", at))
	at.Loopback = false // it is reached without
	require.Empty(t, tunnel("a 1 b 22", at))
}

func TestViewGoesOnWithoutABrowser(t *testing.T) {
	cmd, line, errOut := viewer(t, nil, "--open", repo(t, viewCT))
	require.Contains(t, line, "http://127.0.0.1:")
	interrupt(t, cmd)
	require.Contains(t, errOut.String(), "--open: found no browser: this session has no desktop (DISPLAY is not set): open the URL yourself")

	cmd, line, errOut = viewer(t, []string{"DISPLAY=:0", "PATH=" + t.TempDir()}, "--open", repo(t, viewCT))
	require.Contains(t, line, "http://127.0.0.1:")
	interrupt(t, cmd)
	require.Contains(t, errOut.String(), "--open: found no browser (looked for xdg-open, ")
}

func TestViewOpensTheBrowser(t *testing.T) {
	folder := t.TempDir()
	script := "#!/bin/sh\necho \"$1\" >" + folder + "/url\n"
	require.NoError(t, os.WriteFile(filepath.Join(folder, "xdg-open"), []byte(script), 0o755))
	cmd, line, _ := viewer(t, []string{"DISPLAY=:0", "PATH=" + folder}, "--open", repo(t, viewCT))
	require.Eventually(t, func() bool {
		opened, _ := os.ReadFile(filepath.Join(folder, "url"))
		return string(opened) == line
	}, 20*time.Second, 50*time.Millisecond)
	interrupt(t, cmd)
}

func TestViewWarnsOfOtherAddresses(t *testing.T) {
	cmd, _, errOut := viewer(t, nil, "--host", "0.0.0.0", repo(t, viewCT))
	interrupt(t, cmd)
	require.Contains(t, errOut.String(), "WARNING: --host 0.0.0.0: whoever reaches this machine and learns the URL sees the images, "+
		"and what is sent is not encrypted")
}

func TestViewRefusesWhatItCannotShow(t *testing.T) {
	needNiiVue(t)
	folder := t.TempDir()
	text := filepath.Join(folder, "notes.txt")
	require.NoError(t, os.WriteFile(text, []byte("no image at all"), 0o644))
	cut := filepath.Join(folder, "cut.nii.gz")
	whole, err := os.ReadFile(repo(t, viewCT))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cut, whole[:len(whole)/2], 0o644))
	taken, line, _ := viewer(t, nil, repo(t, viewCT))
	page, err := url.Parse(strings.TrimSpace(line))
	require.NoError(t, err)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "found no argument, expected IMAGE [LABELS…]"},
		{[]string{text}, 1, text + ": the file begins with 6e 6f 20 69, expected an image file: NIfTI"},
		{[]string{filepath.Join(folder, "none.nii.gz")}, 1, "none.nii.gz: no such file"},
		{[]string{cut}, 1, cut},
		{[]string{repo(t, viewCT), text}, 1, text + ": the file begins with"},
		{[]string{repo(t, viewLabels), repo(t, viewCT)}, 1, repo(t, viewCT) + ": found the value -"},
		{[]string{folder}, 1, folder},
		{[]string{"--port", page.Port(), repo(t, viewCT)}, 1, "--port " + page.Port() + ": another program listens at 127.0.0.1:" + page.Port() + ": give another port"},
		{[]string{"--port", "-1", repo(t, viewCT)}, 2, "--port"},
		{[]string{"--port", "70000", repo(t, viewCT)}, 2, "--port"},
		{[]string{"--host", "192.0.2.7", repo(t, viewCT)}, 1, "--host 192.0.2.7: found no such address of this machine"},
		{[]string{"--series", "1", repo(t, viewCT)}, 2, "--series and --fix-geometry are for DICOM"},
	} {
		cmd := command(t, append([]string{"view"}, c.args...)...)
		served := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		r := execute(t, cmd)
		served.Stop()
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.errOut)
		require.Contains(t, r.errOut, c.want)
		require.Empty(t, r.out)
		require.NotContains(t, r.errOut, "panic")
	}
	interrupt(t, taken)
}

// A DICOM series, and an RTSTRUCT and a SEG drawn on it.
func TestViewShowsDICOM(t *testing.T) {
	folder := t.TempDir()
	series := filepath.Join(folder, "CT.zip")
	data, err := os.ReadFile(repo(t, "testdata/golden/dicom_phantom/LN_004.zip"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(series, data, 0o644))
	var objects []string
	for _, kind := range []string{"seg", "rtstruct"} {
		out := filepath.Join(folder, kind+".dcm")
		r := lntorch(t, "image", "convert", repo(t, viewLabels), out, "--to", kind, "--reference", series, "--segment", "1=Lymph node")
		require.Equal(t, 0, r.code, r.errOut)
		objects = append(objects, out)
	}
	cmd, line, errOut := viewer(t, nil, append([]string{series}, objects...)...)
	require.Contains(t, line, "http://", errOut)
	answer, err := http.Get(strings.TrimSpace(line) + "scene.json")
	require.NoError(t, err)
	defer answer.Body.Close()
	var scene struct {
		Image  struct{ Name string }
		Labels []struct {
			Name   string
			Values []struct {
				Name   string
				Voxels int
			}
			Nodes []struct{ Matches []struct{ IoU float64 } }
		}
	}
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&scene))
	interrupt(t, cmd)
	require.Equal(t, "CT.zip", scene.Image.Name)
	require.Len(t, scene.Labels, 2)
	require.Equal(t, scene.Labels[0].Values[0].Voxels, scene.Labels[1].Values[0].Voxels)
	require.Equal(t, "Lymph node", scene.Labels[0].Values[0].Name)
	require.Len(t, scene.Labels[0].Nodes, 6)
	for _, n := range scene.Labels[0].Nodes {
		require.Equal(t, 1.0, n.Matches[0].IoU)
	}
}

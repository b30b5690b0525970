package view

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/formats/image"
	"github.com/lntorch/lntorch/formats/nifti"
	"github.com/lntorch/lntorch/internal/golden"
)

const phantom = "../testdata/phantom-mini/raw/Dataset102_PhantomTarget/"

// opened reads files as volumes.
func opened(t testing.TB, paths ...string) []Volume {
	t.Helper()
	var all []Volume
	for _, path := range paths {
		f, err := image.Read(path)
		require.NoError(t, err)
		all = append(all, Volume{Path: path, Name: path[strings.LastIndex(path, "/")+1:], File: f})
	}
	return all
}

// phantomScene is a CT with its label map.
func phantomScene(t testing.TB) *Scene {
	t.Helper()
	v := opened(t, phantom+"imagesTs/LN_004_0000.nii.gz", phantom+"labelsTs/LN_004.nii.gz")
	s, err := NewScene(t.Context(), v[0], v[1:])
	require.NoError(t, err)
	return s
}

// serving starts a server; it ends with the test, without an error.
func serving(t testing.TB, scene *Scene) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1", 0)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, scene) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	return s
}

// ask sends a request; edit may change it.
func ask(t testing.TB, method, address string, edit func(*http.Request)) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequest(method, address, nil)
	require.NoError(t, err)
	if edit != nil {
		edit(r)
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer, body
}

func TestEverythingIsForbiddenWithoutTheToken(t *testing.T) {
	s := serving(t, phantomScene(t))
	page, err := url.Parse(s.URL())
	require.NoError(t, err)
	base := "http://" + page.Host
	require.Equal(t, 34, len(page.Path), "24 random bytes between slashes")
	wrong := []string{"", "/", "/view.js", "/scene.json", "/volumes/0.nii", "/favicon.ico", "//",
		"/" + s.token[:len(s.token)-1] + "/", "/" + s.token + "x/", "/" + strings.ToLower(s.token) + "/",
		"/x/" + s.token + "/", "//" + s.token + "/scene.json", "/?token=" + s.token, "/..%2f" + s.token + "/"}
	for _, path := range wrong {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"} {
			answer, body := ask(t, method, base+path, nil)
			require.Equal(t, http.StatusForbidden, answer.StatusCode, method+" "+path)
			require.NotContains(t, string(body), s.token)
			require.NotContains(t, string(body), "LN_004")
		}
	}
	answer, _ := ask(t, "GET", s.URL(), nil)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	other := serving(t, phantomScene(t))
	require.NotEqual(t, s.token, other.token)
}

// A page elsewhere can make its own name point to this machine, and then read what it is answered.
func TestARequestForAnotherHostIsForbidden(t *testing.T) {
	s := serving(t, phantomScene(t))
	port := strconv.Itoa(s.Port())
	for host, want := range map[string]int{
		"127.0.0.1:" + port:              200,
		"127.0.0.1":                      403,
		"127.0.0.1:1":                    403,
		"127.0.0.2:" + port:              403,
		"evil.example:" + port:           403,
		"evil.example":                   403,
		"127.0.0.1.evil.example:" + port: 403,
		"[::1]:" + port:                  403,
	} {
		answer, _ := ask(t, "GET", s.URL()+"scene.json", func(r *http.Request) { r.Host = host })
		require.Equal(t, want, answer.StatusCode, host)
	}
}

func TestOnlyReadingIsAllowed(t *testing.T) {
	s := serving(t, phantomScene(t))
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"} {
		r := httptest.NewRequest(method, s.URL()+"scene.json", strings.NewReader("x"))
		w := httptest.NewRecorder()
		s.handler(phantomScene(t).files()).ServeHTTP(w, r)
		require.Equal(t, http.StatusMethodNotAllowed, w.Code, method)
		require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	}
	whole, body := ask(t, "GET", s.URL()+"volumes/1.nii", nil)
	head, none := ask(t, "HEAD", s.URL()+"volumes/1.nii", nil)
	require.Equal(t, http.StatusOK, head.StatusCode)
	require.Empty(t, none)
	require.Equal(t, whole.Header.Get("Content-Length"), head.Header.Get("Content-Length"))
	require.Equal(t, int64(len(body)), head.ContentLength)
}

func TestOnlyTheSceneIsServed(t *testing.T) {
	s := serving(t, phantomScene(t))
	for _, path := range []string{"volumes/2.nii", "volumes/", "volumes", "volumes/../scene.json", "../scene.json",
		"%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "index.html/", "page/index.html",
		"niivue/README.md", "view.go", ".git/config", "volumes/00.nii", "Scene.json", "scene.json%00"} {
		answer, body := ask(t, "GET", s.URL()+path, nil)
		require.Equal(t, http.StatusNotFound, answer.StatusCode, path)
		require.Equal(t, "404: no such file\n", string(body))
	}
	for path, kind := range map[string]string{"": "text/html; charset=utf-8", "view.css": "text/css; charset=utf-8",
		"view.js": "text/javascript; charset=utf-8", "draw.js": "text/javascript; charset=utf-8",
		"scene.json": "application/json", "volumes/0.nii": "application/octet-stream",
		"favicon.svg": "image/svg+xml", "niivue.js": "text/javascript; charset=utf-8"} {
		answer, body := ask(t, "GET", s.URL()+path, nil)
		require.Equal(t, http.StatusOK, answer.StatusCode, path)
		h := answer.Header
		require.Equal(t, kind, h.Get("Content-Type"))
		require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
		require.Equal(t, "no-store", h.Get("Cache-Control"))
		require.Equal(t, "no-referrer", h.Get("Referrer-Policy"))
		require.True(t, strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'self'; "))
		require.NotContains(t, h.Get("Content-Security-Policy"), "unsafe")
		require.Empty(t, h.Get("Access-Control-Allow-Origin"))
		require.Equal(t, int64(len(body)), answer.ContentLength)
	}
	// The headers come with refusals, too.
	answer, _ := ask(t, "GET", "http://127.0.0.1:"+strconv.Itoa(s.Port())+"/", nil)
	require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
	require.NotEmpty(t, answer.Header.Get("Content-Security-Policy"))
}

func TestNiiVueIsServedAsItWasFetched(t *testing.T) {
	if err := Check(); err != nil {
		golden.Missing(t, "niivue", err.Error())
	}
	s := serving(t, phantomScene(t))
	answer, body := ask(t, "GET", s.URL()+"niivue.js", nil)
	require.Equal(t, "gzip", answer.Header.Get("Content-Encoding"))
	r, err := gzip.NewReader(bytes.NewReader(body))
	require.NoError(t, err)
	script, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, 2284381, len(script))
}

func TestAProgramWithoutNiiVueSaysWhatToInstall(t *testing.T) {
	_, err := script(fstest.MapFS{"niivue/README.md": {Data: []byte("x")}})
	require.ErrorIs(t, err, ErrNoNiiVue)
	require.ErrorContains(t, err, "apt-get install npm")
	data, err := script(fstest.MapFS{"niivue/niivue.umd.js.gz": {Data: []byte("x")}})
	require.NoError(t, err)
	require.Equal(t, "x", string(data))
}

func TestOnlyThisMachineReachesTheServer(t *testing.T) {
	s := serving(t, phantomScene(t))
	require.True(t, s.Loopback())
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addresses {
		ip := netip.MustParsePrefix(a.String()).Addr()
		if ip.IsLoopback() || ip.Is6() {
			continue
		}
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ip.String(), strconv.Itoa(s.Port())), time.Second)
		if err == nil {
			c.Close()
		}
		require.Error(t, err, ip)
	}
}

func TestAllAddressesGoByNumbersAndTheMachinesName(t *testing.T) {
	s, err := Listen("0.0.0.0", 0)
	require.NoError(t, err)
	defer s.Close()
	require.False(t, s.Loopback())
	name, err := os.Hostname()
	require.NoError(t, err)
	port := ":" + strconv.Itoa(s.Port())
	for host, want := range map[string]bool{name + port: true, "10.1.2.3" + port: true, "127.0.0.1" + port: true,
		"10.1.2.3": false, "evil.example" + port: false, "localhost.evil.example" + port: false} {
		require.Equal(t, want, s.isHost(host), host)
	}
}

func TestAnAddressThatCannotBeTakenIsExplained(t *testing.T) {
	taken, err := Listen("127.0.0.1", 0)
	require.NoError(t, err)
	defer taken.Close()
	port := strconv.Itoa(taken.Port())
	_, err = Listen("127.0.0.1", taken.Port())
	require.EqualError(t, err, "--port "+port+": another program listens at 127.0.0.1:"+port+
		": give another port, or none for a free one")
	_, err = Listen("192.0.2.1", 0)
	require.ErrorContains(t, err, "--host 192.0.2.1: found no such address of this machine")
	_, err = Listen("no such host", 0)
	require.ErrorContains(t, err, "--host no such host: found no such address")
}

// A browser that reads nothing does not keep the program from ending.
func TestServeEndsWhileABrowserLoads(t *testing.T) {
	s, err := Listen("127.0.0.1", 0)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	scene := phantomScene(t)
	scene.volumes[0].pixels = make([]byte, 64<<20)
	go func() { ended <- s.Serve(ctx, scene) }()
	c, err := net.Dial("tcp", s.listener.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	path := strings.TrimPrefix(s.URL(), "http://"+s.listener.Addr().String())
	_, err = io.WriteString(c, "GET "+path+"volumes/0.nii HTTP/1.1\r\nHost: "+s.listener.Addr().String()+"\r\n\r\n")
	require.NoError(t, err)
	first := make([]byte, 12)
	_, err = io.ReadFull(c, first)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 200", string(first))
	stop()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the server goes on")
	}
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
	n, _ := io.Copy(io.Discard, c)
	require.Less(t, n, int64(64<<20), "the rest is not sent")
}

// The volumes are NIfTI files that hold what the files held.
func TestVolumesAreTheFilesAsNIfTI(t *testing.T) {
	s := serving(t, phantomScene(t))
	for i, path := range []string{phantom + "imagesTs/LN_004_0000.nii.gz", phantom + "labelsTs/LN_004.nii.gz"} {
		_, body := ask(t, "GET", s.URL()+volumeURL(i), nil)
		out := t.TempDir() + "/out.nii"
		require.NoError(t, os.WriteFile(out, body, 0o644))
		was, err := nifti.Read(path)
		require.NoError(t, err)
		is, err := nifti.Read(out)
		require.NoError(t, err)
		require.Equal(t, was.Type, is.Type)
		require.Equal(t, was.Pixels, is.Pixels)
		a, err := was.Affine()
		require.NoError(t, err)
		b, err := is.Affine()
		require.NoError(t, err)
		for r := range a {
			require.InDeltaSlice(t, a[r][:], b[r][:], 1e-4)
		}
	}
}

package view

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// policy lets the page load what this server serves, and nothing from elsewhere. NiiVue draws its
// font and materials from data: and blob: URLs.
const policy = "default-src 'self'; img-src 'self' data: blob:; worker-src 'self' blob:; " +
	"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Server serves one Scene at an address of this machine.
type Server struct {
	listener net.Listener
	host     string // as it was given
	port     int
	token    string
}

// Listen takes an address: host is a name or an address of this machine, port 0 any free port. The
// URL has a random token. Errors say what to do: the port is taken, or not for users; the machine has
// no such address.
func Listen(host string, port int) (*Server, error) {
	address := net.JoinHostPort(host, strconv.Itoa(port))
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--port %d: another program listens at %s: give another port, or none "+
			"for a free one", port, address)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("--port %d: ports below 1024 need root: give a higher one, or none for "+
			"a free one", port)
	case err != nil:
		return nil, fmt.Errorf("--host %s: found no such address of this machine: %w", host, err)
	}
	random := make([]byte, 24)
	if _, err := rand.Read(random); err != nil {
		l.Close()
		return nil, err
	}
	return &Server{listener: l, host: host, port: l.Addr().(*net.TCPAddr).Port,
		token: base64.RawURLEncoding.EncodeToString(random)}, nil
}

// Port is the port that the server listens at.
func (s *Server) Port() int { return s.port }

// URL is where the page is: whoever knows it sees the images.
func (s *Server) URL() string {
	return "http://" + net.JoinHostPort(s.name(), strconv.Itoa(s.port)) + "/" + s.token + "/"
}

// name is the host in the URL: the given one, or where that stands for all addresses, the machine's.
func (s *Server) name() string {
	if !s.everywhere() {
		return s.host
	}
	if name, err := os.Hostname(); err == nil {
		return name
	}
	return "127.0.0.1"
}

// everywhere reports whether the server listens at all addresses of the machine.
func (s *Server) everywhere() bool {
	return s.listener.Addr().(*net.TCPAddr).IP.IsUnspecified()
}

// Loopback reports whether only programs on this machine reach the server.
func (s *Server) Loopback() bool { return s.listener.Addr().(*net.TCPAddr).IP.IsLoopback() }

// Close gives up the address.
func (s *Server) Close() { s.listener.Close() }

// Serve serves the scene until ctx ends, which is no error.
func (s *Server) Serve(ctx context.Context, scene *Scene) error {
	server := &http.Server{
		Handler:           s.handler(scene.files()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // who came is nobody's business
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		soon, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(soon) != nil {
			server.Close() // a browser was still loading
		}
	})
	err := server.Serve(s.listener)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// handler answers GET and HEAD for files, by their path behind the token. Without the token, or for
// another host than the one that the server listens at (a name that someone else made point here),
// everything is refused.
func (s *Server) handler(files map[string]file) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		token, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		known := subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) == 1
		if !known || !s.isHost(r.Host) {
			http.Error(w, "403: the URL that lntorch view printed is needed, as it was printed",
				http.StatusForbidden)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "405: only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		f, ok := files[path]
		if !ok {
			http.Error(w, "404: no such file", http.StatusNotFound)
			return
		}
		f.serve(w, r)
	})
}

// isHost reports whether a request's Host is this server. Where it listens at all addresses it goes
// by many numbers, but by no name other than the machine's.
func (s *Server) isHost(given string) bool {
	host, port, err := net.SplitHostPort(given)
	if err != nil { // HTTP's own port goes without saying
		host, port = strings.Trim(given, "[]"), "80"
	}
	if port != strconv.Itoa(s.port) {
		return false
	}
	if strings.EqualFold(host, s.name()) {
		return true
	}
	_, err = netip.ParseAddr(host)
	return s.everywhere() && err == nil
}

// file is what a path stands for: parts that follow each other.
type file struct {
	kind    string // content type
	parts   [][]byte
	gzipped bool
}

func (f file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.kind)
	if f.gzipped {
		// Every browser that has WebGL 2 takes it.
		h.Set("Content-Encoding", "gzip")
	}
	size := 0
	for _, p := range f.parts {
		size += len(p)
	}
	h.Set("Content-Length", strconv.Itoa(size))
	if r.Method == http.MethodHead {
		return
	}
	for _, p := range f.parts {
		if _, err := w.Write(p); err != nil {
			return // the browser went away
		}
	}
}

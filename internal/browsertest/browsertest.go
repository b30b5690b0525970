// Package browsertest opens pages in headless Chromium, for tests of what a browser makes of them.
// It speaks the DevTools protocol over pipes: no port is opened, and no host can be reached beside
// this machine.
//
// Only tests import it.
package browsertest

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lntorch/lntorch/internal/golden"
)

// patience bounds each call and each wait; a browser beside a whole test suite is slow.
const patience = 90 * time.Second

// Page is a tab of a browser. Its methods end the test if they fail.
type Page struct {
	t       testing.TB
	in      io.Writer
	session string

	mu       sync.Mutex
	changed  *sync.Cond
	next     int
	replies  map[int]message
	loaded   int
	console  []string
	requests []string
	closed   error
}

// message is a command, a reply or an event of the protocol.
type message struct {
	ID      int             `json:"id,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// New starts a browser with one empty tab, with more flags if they are given; it ends with the test.
// Without Chromium the test is skipped, or fails if LNTORCH_REQUIRE names chromium.
func New(t testing.TB, flags ...string) *Page {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		golden.Missing(t, "chromium", "needs a browser: apt-get install chromium")
	}
	// Not t.TempDir: the browser's helpers may write for a moment after its end.
	home, err := os.MkdirTemp("", "browsertest")
	if err != nil {
		t.Fatal(err)
	}
	fromUs, toBrowser, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromBrowser, toUs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{"--headless", "--no-sandbox", "--disable-dev-shm-usage",
		"--remote-debugging-pipe", "--user-data-dir=" + filepath.Join(home, "profile"),
		"--no-first-run", "--disable-extensions", "--disable-background-networking",
		"--disable-component-update", "--hide-scrollbars", "--force-device-scale-factor=1",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"}, flags...)...)
	cmd.Env = append(cmd.Environ(), "HOME="+home)
	cmd.ExtraFiles = []*os.File{fromUs, toUs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fromUs.Close()
	toUs.Close()
	p := &Page{t: t, in: toBrowser, replies: map[int]message{}}
	p.changed = sync.NewCond(&p.mu)
	go p.read(fromBrowser)
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		toBrowser.Close()
		fromBrowser.Close()
		os.RemoveAll(home)
	})

	var target struct{ TargetID string }
	p.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	p.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true},
		&attached)
	p.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		p.call(domain+".enable", nil, nil)
	}
	return p
}

// read takes what the browser says until it ends.
func (p *Page) read(from io.Reader) {
	in := bufio.NewReader(from)
	for {
		text, err := in.ReadBytes(0)
		var m message
		if err == nil {
			err = json.Unmarshal(text[:len(text)-1], &m)
		}
		p.mu.Lock()
		if err != nil {
			p.closed = err
			p.changed.Broadcast()
			p.mu.Unlock()
			return
		}
		if m.Method == "" {
			p.replies[m.ID] = m
		} else {
			p.event(m)
		}
		p.changed.Broadcast()
		p.mu.Unlock()
	}
}

// event notes what tests ask for.
func (p *Page) event(m message) {
	var v struct {
		Type             string
		Args             []struct{ Description, Value any }
		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
		Entry   struct{ Level, Text, URL string }
		Request struct{ URL string }
	}
	json.Unmarshal(m.Params, &v)
	switch m.Method {
	case "Page.loadEventFired":
		p.loaded++
	case "Runtime.consoleAPICalled":
		p.console = append(p.console, fmt.Sprint(v.Type, ": ", v.Args))
	case "Runtime.exceptionThrown":
		p.console = append(p.console, v.ExceptionDetails.Text+" "+v.ExceptionDetails.Exception.Description)
	case "Log.entryAdded":
		p.console = append(p.console, v.Entry.Level+": "+v.Entry.Text+" "+v.Entry.URL)
	case "Network.requestWillBeSent":
		p.requests = append(p.requests, v.Request.URL)
	}
}

// wait waits until ready, which is called with the lock held, returns true.
func (p *Page) wait(what string, ready func() bool) {
	p.t.Helper()
	late := time.AfterFunc(patience, func() {
		p.mu.Lock()
		p.closed = fmt.Errorf("no answer within %v", patience)
		p.changed.Broadcast()
		p.mu.Unlock()
	})
	defer late.Stop()
	p.mu.Lock()
	for !ready() && p.closed == nil {
		p.changed.Wait()
	}
	done, err := ready(), p.closed
	p.mu.Unlock()
	if !done {
		p.t.Fatalf("browser: %s: %v", what, err)
	}
}

// call sends a command and waits for its result.
func (p *Page) call(method string, params, result any) {
	p.t.Helper()
	if params == nil {
		params = struct{}{}
	}
	text, err := json.Marshal(params)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.next++
	m := message{ID: p.next, Method: method, Params: text, Session: p.session}
	p.mu.Unlock()
	line, err := json.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, 0)); err != nil {
		p.t.Fatalf("browser: %s: %v", method, err)
	}
	var reply message
	p.wait(method, func() bool {
		r, ok := p.replies[m.ID]
		reply = r
		return ok
	})
	if reply.Error != nil {
		p.t.Fatalf("browser: %s: %s", method, reply.Error.Message)
	}
	if result != nil {
		if err := json.Unmarshal(reply.Result, result); err != nil {
			p.t.Fatalf("browser: %s: %v", method, err)
		}
	}
}

// Open loads an address, or the file of a path, and waits until it has loaded.
func (p *Page) Open(address string) {
	p.t.Helper()
	if !strings.Contains(address, "://") {
		path, err := filepath.Abs(address)
		if err != nil {
			p.t.Fatal(err)
		}
		address = "file://" + path
	}
	p.mu.Lock()
	before := p.loaded
	p.console, p.requests = nil, nil
	p.mu.Unlock()
	var reply struct{ ErrorText string }
	p.call("Page.navigate", map[string]any{"url": address}, &reply)
	if reply.ErrorText != "" {
		p.t.Fatalf("browser: open %s: %s", address, reply.ErrorText)
	}
	p.wait("load "+address, func() bool { return p.loaded > before })
}

// Eval evaluates JavaScript, waits where it is a promise, and stores its value, as JSON, in result,
// which may be nil.
func (p *Page) Eval(script string, result any) {
	p.t.Helper()
	var reply struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Exception struct{ Description string }
		}
	}
	p.call("Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true,
		"awaitPromise": true, "userGesture": true}, &reply)
	if reply.ExceptionDetails != nil {
		p.t.Fatalf("browser: %s: %s", script, reply.ExceptionDetails.Exception.Description)
	}
	if result != nil {
		if err := json.Unmarshal(reply.Result.Value, result); err != nil {
			p.t.Fatalf("browser: %s: %v", script, err)
		}
	}
}

// Key presses and releases a key, such as "Tab" or "Enter".
func (p *Page) Key(key string) {
	p.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
	event := map[string]any{"type": "rawKeyDown", "key": key, "code": key,
		"windowsVirtualKeyCode": codes[key]}
	if key == "Enter" {
		event["type"], event["text"] = "keyDown", "\r"
	}
	p.call("Input.dispatchKeyEvent", event, nil)
	event["type"] = "keyUp"
	delete(event, "text")
	p.call("Input.dispatchKeyEvent", event, nil)
}

// Show sets the width and height of the view in pixels, and whether the user prefers dark pages.
func (p *Page) Show(width, height int, dark bool) {
	p.t.Helper()
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height,
		"deviceScaleFactor": 1, "mobile": false}, nil)
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	p.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{
		{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// Screenshot returns what is seen as PNG.
func (p *Page) Screenshot() []byte {
	p.t.Helper()
	return p.data("Page.captureScreenshot", map[string]any{"format": "png"})
}

// PDF prints the page.
func (p *Page) PDF() []byte {
	p.t.Helper()
	return p.data("Page.printToPDF", map[string]any{"preferCSSPageSize": true, "printBackground": false})
}

func (p *Page) data(method string, params any) []byte {
	p.t.Helper()
	var reply struct{ Data string }
	p.call(method, params, &reply)
	data, err := base64.StdEncoding.DecodeString(reply.Data)
	if err != nil {
		p.t.Fatalf("browser: %s: %v", method, err)
	}
	return data
}

// Console lists what stands in the console since the page was opened: messages, errors, warnings.
func (p *Page) Console() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.console...)
}

// Requests lists the addresses that were asked for since the page was opened, its own first.
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.requests...)
}

package experiment

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lntorch/lntorch/internal/atomicfile"
	"github.com/lntorch/lntorch/internal/machine"
	"github.com/lntorch/lntorch/internal/settings"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/pipeline"
	"github.com/lntorch/lntorch/report"
	"github.com/lntorch/lntorch/torch"
)

// WorkConfig is how runs are done.
type WorkConfig struct {
	Jobs        int      `flag:"jobs" default:"1" range:"1..1024" help:"workers on this machine, a process each"`
	Devices     []string `flag:"devices" list:"true" help:"devices, dealt to the workers in turn: cuda:0,cuda:1 (default: all CUDA devices, else the CPU)"`
	Threads     int      `flag:"threads" range:"1.." help:"threads of each worker (default: cores / jobs); on the CPU they are part of the bits"`
	MaxRAM      float64  `flag:"max-ram" range:">0.." help:"GiB for all workers on this machine (default: three quarters of what is free)"`
	MaxVRAM     float64  `flag:"max-vram" range:">0.." help:"GiB of each GPU for all workers on it (default: three quarters of what is free)"`
	Only        []string `flag:"only" list:"true" help:"runs to do: dataset=, network=, method=, shots=, draw=, seed= or key=; the same name again adds to it, another one narrows"`
	LockTimeout float64  `flag:"lock-timeout" default:"60" range:">0..1e6" help:"seconds without a sign of life after which a worker on another machine is dead"`
	Worker      string   `flag:"worker" hidden:"true" values:"job,task,table" help:"what a process that the program starts does: job of --jobs and task of Slurm leave the table to others; table makes it and no run"`

	Device  string   // of this process' worker; empty: the first of Devices
	Command []string // this program with what comes before a run's arguments; for --jobs and Slurm
	Args    []string // behind it: the file and the folders
}

// Values of Worker.
const (
	workerJob   = "job"
	workerTable = "table"
)

// Tables says that this process makes scores.csv and the tables when its runs are done: it is nobody's
// worker, and has all runs to do.
func (c *WorkConfig) Tables() bool {
	return c.Worker == workerTable || c.Worker == "" && len(c.Only) == 0
}

func (c *WorkConfig) lockTimeout() time.Duration {
	return time.Duration(c.LockTimeout * float64(time.Second))
}

// select finds the runs that --only names.
func (p *Plan) only(list []string) ([]*Run, error) {
	wanted := map[string][]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if _, known := (Place{}).field(name); !ok || !known || value == "" {
			return nil, settings.Usage("--only: found %q, expected dataset=, network=, method=, shots=, draw=, seed= or key=", text)
		}
		wanted[name] = append(wanted[name], value)
	}
	var runs []*Run
	matched := map[string]bool{}
	for _, r := range p.Runs {
		all := true
		for name, values := range wanted {
			one := false
			for _, v := range values {
				if r.is(name, v) {
					one, matched[name+"="+v] = true, true
				}
			}
			all = all && one
		}
		if all {
			runs = append(runs, r)
		}
	}
	for _, text := range list {
		if !matched[text] {
			return nil, settings.Usage("--only %s: the experiment has no such run", text)
		}
	}
	if len(runs) == 0 {
		return nil, settings.Usage("--only %s: the experiment has no run that is all of it", strings.Join(list, ","))
	}
	return runs, nil
}

// field is what --only compares.
func (p Place) field(name string) (value string, known bool) {
	switch name {
	case "dataset":
		return p.Dataset, true
	case "network":
		return p.Network, true
	case "method":
		return p.Method, true
	case "shots":
		return p.Shots, true
	case "draw":
		return strconv.Itoa(p.Draw), true
	case "seed":
		return strconv.FormatUint(p.Seed, 10), true
	}
	return "", name == "key"
}

// is compares a field of any of the run's places.
func (r *Run) is(name, value string) bool {
	return name == "key" && value == r.Key || slices.ContainsFunc(r.Places(), func(p Place) bool {
		v, _ := p.field(name)
		return v == value && v != ""
	})
}

// Work does the runs that are missing, as one worker or as several, and counts how the grid stands then.
// If ctx ends it, trainings are saved and its error comes back. Failed runs are no error.
func (p *Plan) Work(ctx context.Context, c WorkConfig, o pipeline.Output) (Outcome, error) {
	if err := settings.Check(&c); err != nil {
		return Outcome{}, err
	}
	runs, err := p.only(c.Only)
	if err != nil {
		return Outcome{}, err
	}
	before := p.count(runs)
	if err := os.MkdirAll(p.Dir, 0o777); err != nil {
		return before, fmt.Errorf("-o %s: %w: name a folder that can be written", p.Dir, err)
	}
	if err := p.describe(o.Version); err != nil {
		return before, err
	}
	if c.Worker == "" {
		o.Printf("%d runs: %d done, %d to do", len(runs), before.Done, len(runs)-before.Done)
	}
	if before.Done == len(runs) || c.Worker == workerTable {
		return before, nil
	}
	if c.Jobs > 1 {
		err = c.workers(ctx, o)
	} else {
		err = p.worker(ctx, runs, c, o)
	}
	return p.count(runs), err
}

// worker is this process as one worker.
func (p *Plan) worker(ctx context.Context, runs []*Run, c WorkConfig, o pipeline.Output) error {
	m := machine.Machine{DeviceName: "auto", Threads: c.Threads}
	if len(c.Devices) > 0 {
		m.DeviceName = c.Devices[0]
	}
	if _, err := m.Resolve(); err != nil {
		return err
	}
	c.Device, c.Threads = m.DeviceName, m.Threads
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mem memory = noMemory{}
	if c.Worker == workerJob {
		free, _, err := m.Device.Memory() // 0 for the CPU
		if err != nil {
			return err
		}
		if mem, err = parentMemory(m.Device.String(), free, cancel); err != nil {
			return err
		}
	}
	w, err := newWorker(p, runs, &c, mem, o)
	if err != nil {
		return err
	}
	return errors.Join(w.work(ctx), w.journal.close())
}

// workers starts the processes, gives them memory as it comes free, and waits for all.
func (c *WorkConfig) workers(ctx context.Context, o pipeline.Output) error {
	devices, err := c.deal()
	if err != nil {
		return err
	}
	threads := c.Threads
	if threads == 0 {
		threads = max(1, system.Cores()/c.Jobs)
	}
	limit := int64(c.MaxRAM * (1 << 30))
	if limit == 0 {
		m, err := system.ReadMemory()
		if err != nil {
			return err
		}
		limit = system.Budget(m.Available)
	}
	shares := newShares(limit, int64(c.MaxVRAM*(1<<30)))
	var done sync.WaitGroup
	for i := range c.Jobs {
		args := append(append([]string{}, c.Command[1:]...), c.Args...)
		args = append(args, "--worker", workerJob, "--threads", strconv.Itoa(threads), "--devices", devices[i%len(devices)],
			"--lock-timeout", strconv.FormatFloat(c.LockTimeout, 'g', -1, 64))
		if len(c.Only) > 0 {
			args = append(args, "--only", strings.Join(c.Only, ","))
		}
		cmd := exec.Command(c.Command[0], args...)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C goes to this process, which tells them once
		j := &job{cmd: cmd, shares: shares, name: fmt.Sprintf("worker %d of %d", i+1, c.Jobs), out: o}
		if err := j.start(); err != nil {
			return err
		}
		done.Go(func() { j.wait(ctx) })
	}
	done.Wait()
	return ctx.Err()
}

// deal lists the devices of the workers.
func (c *WorkConfig) deal() ([]string, error) {
	if len(c.Devices) > 0 {
		return c.Devices, nil
	}
	if err := torch.Load(); err != nil {
		return nil, err
	}
	n, err := torch.DeviceCount(torch.DeviceCUDA)
	if err != nil || n == 0 {
		return []string{torch.CPU.String()}, nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = torch.Device{Type: torch.DeviceCUDA, Index: i}.String()
	}
	return list, nil
}

// shares is the memory of this machine and of its GPUs, which workers share.
type shares struct {
	host    *system.Share
	each    int64 // bytes of each GPU; 0: three quarters of what the first worker there finds free
	mu      sync.Mutex
	devices map[string]*system.Share
}

func newShares(host, each int64) *shares {
	return &shares{host: system.NewShare(host), each: each, devices: map[string]*system.Share{}}
}

// found tells what is free on a device. Only the first word on it counts: later ones see others' work.
func (s *shares) found(device string, free int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.devices[device]; ok || !IsGPU(device) {
		return
	}
	limit := s.each
	if limit == 0 {
		limit = system.Budget(free)
	}
	s.devices[device] = system.NewShare(limit)
}

// of is a device's memory. That of the CPU, and of a device of which nothing is known, has no bound.
func (s *shares) of(device string) *system.Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	if share, ok := s.devices[device]; ok {
		return share
	}
	return system.NewShare(0)
}

// take waits until what a run needs is free, on the device first: who has the host's memory waits for nothing.
func (s *shares) take(ctx context.Context, device string, m pipeline.Memory) error {
	on := s.of(device)
	if err := on.Take(ctx, m.Device); err != nil {
		return err
	}
	err := s.host.Take(ctx, m.Host)
	if err != nil {
		on.Give(m.Device)
	}
	return err
}

func (s *shares) give(device string, m pipeline.Memory) {
	s.host.Give(m.Host)
	s.of(device).Give(m.Device)
}

// job is a worker's process as its parent sees it.
type job struct {
	cmd     *exec.Cmd
	shares  *shares
	device  string // that it says it has
	name    string
	out     pipeline.Output
	asks    *os.File // the worker's questions
	answers *os.File
}

// Files of a worker beside the standard ones.
const (
	asksFile    = 3
	answersFile = 4
)

func (j *job) start() error {
	asks, theirAsks, err := os.Pipe()
	if err != nil {
		return err
	}
	theirAnswers, answers, err := os.Pipe()
	if err != nil {
		return err
	}
	j.asks, j.answers = asks, answers
	j.cmd.ExtraFiles = []*os.File{theirAsks, theirAnswers}
	err = j.cmd.Start()
	return errors.Join(err, theirAsks.Close(), theirAnswers.Close())
}

// wait answers the worker until it ends.
func (j *job) wait(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { j.cmd.Process.Signal(syscall.SIGTERM) })()
	j.answer(ctx, j.asks, j.answers)
	j.answers.Close() // which a worker takes for its parent's end
	err := j.cmd.Wait()
	j.asks.Close()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		j.out.Printf("WARNING: %s has died (%v): the others take its run over", j.name, err)
	} else if err != nil && ctx.Err() == nil && exit != nil && exit.ExitCode() > 1 {
		j.out.Printf("WARNING: %s has ended: %v", j.name, err)
	}
}

// answer gives the worker memory as it comes free, until it has no more to ask; of one that was killed it takes the
// memory back. The worker says "free N DEVICE" first, then in turn "take HOST DEVICE", which "go" answers, and
// "give".
func (j *job) answer(ctx context.Context, asks io.Reader, answers io.Writer) {
	var taken *pipeline.Memory
	give := func() {
		if taken != nil {
			j.shares.give(j.device, *taken)
			taken = nil
		}
	}
	defer give()
	for lines := bufio.NewScanner(asks); lines.Scan(); {
		var free int64
		var m pipeline.Memory
		switch text := lines.Text(); {
		case scanned(text, "free %d %s", &free, &j.device):
			j.shares.found(j.device, free)
		case scanned(text, "take %d %d", &m.Host, &m.Device) && m.Host >= 0 && m.Device >= 0 && taken == nil:
			if j.shares.take(ctx, j.device, m) != nil {
				continue // it is being told to stop
			}
			taken = &m
			io.WriteString(answers, "go\n")
		case text == "give":
			give()
		default:
			return
		}
	}
}

func scanned(text, format string, into ...any) bool {
	n, err := fmt.Sscanf(text, format, into...)
	return err == nil && n == len(into)
}

// memory is what runs on one machine share. A worker takes it for one run at a time.
type memory interface {
	take(ctx context.Context, m pipeline.Memory) error // waits until so much is free
	give()
}

// noMemory is that of a worker alone.
type noMemory struct{}

func (noMemory) take(ctx context.Context, _ pipeline.Memory) error { return ctx.Err() }
func (noMemory) give()                                             {}

// pipes ask the parent.
type pipes struct {
	asks    io.Writer
	answers chan struct{}
}

// parentMemory asks the process that started this one, and tells it what is free on this worker's device. When that
// one is gone, stop is called.
func parentMemory(device string, free int64, stop func()) (memory, error) {
	p := &pipes{asks: os.NewFile(asksFile, "asks"), answers: make(chan struct{})}
	answers := os.NewFile(answersFile, "answers")
	go func() {
		for lines := bufio.NewScanner(answers); lines.Scan(); {
			p.answers <- struct{}{}
		}
		stop()
	}()
	_, err := fmt.Fprintf(p.asks, "free %d %s\n", free, device)
	return p, err
}

func (p *pipes) take(ctx context.Context, m pipeline.Memory) error {
	if _, err := fmt.Fprintf(p.asks, "take %d %d\n", m.Host, m.Device); err != nil {
		return err
	}
	select {
	case <-p.answers:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pipes) give() { fmt.Fprintln(p.asks, "give") }

// Other is the name of another experiment whose folder this one was at last, "" if there is none. Files with
// the same folder share runs, and each overwrites what the other has made of them.
func (p *Plan) Other() string {
	var was struct {
		Name string `json:"name"`
	}
	if readJSON(filepath.Join(p.Dir, SettingsFile), &was) != nil || was.Name == p.File.Name {
		return ""
	}
	return was.Name
}

// Files of an experiment's folder that commands overwrite, as patterns, for Overwrites.
const (
	TableFiles   = "table.*"
	PictureFiles = "plots/*"
	PageFile     = "report.html"
)

// Overwrites warns of files, given as patterns, that are another experiment's and are about to be overwritten:
// "" if there are none.
func (p *Plan) Overwrites(files ...string) string {
	other := p.Other()
	if other == "" {
		return ""
	}
	there := slices.DeleteFunc(slices.Clone(files), func(pattern string) bool {
		found, err := filepath.Glob(filepath.Join(escape(p.Dir), pattern))
		return err != nil || len(found) == 0
	})
	if len(there) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is the folder of experiment %q, and this one is %q: they share its runs, and what the other has "+
		"made of them is overwritten: %s. For a folder of its own give another -o", p.Dir, other, p.File.Name,
		strings.Join(there, ", "))
}

// describe writes experiment.json, the settings in force, and splits.json, where they are not there as they
// are now.
func (p *Plan) describe(version string) error {
	datasets, networks := map[string]any{}, map[string]any{}
	for _, d := range p.File.Datasets {
		datasets[d.Name] = map[string]any{"dataset": p.Splits.Datasets[d.Name].Dataset, "test": d.Test.value(), "pool": d.Pool.value(),
			"patient": d.Patient, "patients": d.Patients}
	}
	for _, n := range p.File.Networks {
		networks[n.Name] = map[string]any{"checkpoint": n.Checkpoint, "trained_on": n.TrainedOn}
	}
	methods := []map[string]any{}
	seen := map[[3]string]bool{}
	for _, r := range p.Runs {
		for _, at := range r.Places() {
			if name := [3]string{at.Dataset, at.Network, at.Method}; !seen[name] {
				seen[name] = true
				methods = append(methods, map[string]any{"dataset": at.Dataset, "network": at.Network, "method": at.Method,
					"settings": r.Settings})
			}
		}
	}
	f := p.File
	doc := map[string]any{"name": f.Name, "version": version, "engine": Engine, "datasets": datasets, "networks": networks,
		"methods": methods, "splits": f.SplitsFile, "shots": f.Shots, "draws": f.Draws, "seeds": f.Seeds, "seed": f.Seed, "draw": f.Draw,
		"evaluate": settings.Record(&f.Evaluate), "statistics": settings.Record(&f.Statistics), "tie": f.Statistics.Tie,
		"keep": settings.Record(&f.Keep), "warnings": p.Warnings}
	for name, content := range map[string]any{SettingsFile: doc, SplitsFile: p.Splits} {
		path := filepath.Join(p.Dir, name)
		var now bytes.Buffer
		if _, err := report.JSON(&now, content); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if was, err := os.ReadFile(path); err == nil && bytes.Equal(was, now.Bytes()) {
			continue
		}
		if err := atomicfile.Write(path, now.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

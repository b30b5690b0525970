package pipeline

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lntorch/lntorch/formats/dicom/openjpeg"
	"github.com/lntorch/lntorch/internal/system"
	"github.com/lntorch/lntorch/torch"
	"github.com/lntorch/lntorch/view"
)

// Check is one line of Doctor's report.
type Check struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, warning, problem
	Text  string `json:"text"`
}

// DoctorConfig names the folders that Doctor looks at.
type DoctorConfig struct {
	RawFolder
	PreprocessedFolder
	ResultsFolder
}

// Doctor reports what this machine has, what is wrong, and how to fix it.
func Doctor(c DoctorConfig, o Output) []Check {
	paths := map[string]string{"raw": c.Raw, "preprocessed": c.Preprocessed, "results": c.Results}
	var list []Check
	add := func(name, state, format string, args ...any) {
		list = append(list, Check{name, state, fmt.Sprintf(format, args...)})
	}
	add("lntorch", "ok", "%s, %s, %s/%s, %d cores", o.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, system.Cores())
	if err := torch.Load(); err != nil {
		add("libtorch", "problem", "%v", err)
	} else {
		v, _ := torch.Version()
		cpu, _ := torch.CPUCapability()
		add("libtorch", "ok", "%s with %s kernels\n%s\nthrough %s", v, cpu, libtorchPath(), torch.LibraryPath())
		n, err := torch.ParallelThreads(64)
		switch {
		case err != nil:
			add("threads", "problem", "%v", err)
		case n < 2 && system.Cores() > 1:
			add("threads", "warning", "the shim's own kernels run on one thread: rebuild it with `make shim`")
		default:
			add("threads", "ok", "operators use %d threads", torch.Threads())
		}
		gpus, err := torch.DeviceCount(torch.DeviceCUDA)
		switch {
		case err != nil:
			add("cuda", "warning", "%v", err)
		case gpus == 0:
			add("cuda", "ok", "none; with an NVIDIA GPU build with `make libtorch shim CUDA=1`")
		default:
			for i := range gpus {
				d := torch.Device{Type: torch.DeviceCUDA, Index: i}
				name, _ := d.Name()
				free, total, _ := d.Memory()
				add(d.String(), "ok", "%s, %.1f of %.1f GiB free", name, gib(free), gib(total))
			}
		}
	}
	if m, err := system.ReadMemory(); err == nil {
		state, limit := "ok", ""
		if m.Available < 4<<30 {
			state = "warning"
		}
		if m.LimitedBy != "" {
			limit = "; the container's limit (" + m.LimitedBy + ")"
		}
		add("memory", state, "%.1f of %.1f GiB free%s", gib(m.Available), gib(m.Total), limit)
	}
	for _, name := range []string{"raw", "preprocessed", "results"} {
		state, text := examineFolder(name, paths[name])
		add("nnUNet_"+name, state, "%s", text)
	}
	disk := paths["results"]
	if info, err := os.Stat(disk); err != nil || !info.IsDir() {
		disk = "."
	}
	if free, err := system.FreeDisk(disk); err == nil {
		state, place := "ok", disk
		if free < 5<<30 {
			state = "warning"
		}
		if disk == "." {
			place = "the working directory"
		}
		add("disk", state, "%.1f GiB free for %s; a checkpoint takes up to 1 GiB", gib(free), place)
	}
	if lib, err := openjpeg.Find(); err != nil {
		add("openjpeg", "warning", "none, so DICOM in JPEG 2000 cannot be read: build it with "+
			"`make openjpeg`, or install libopenjp2 2.5\n%v", err)
	} else {
		add("openjpeg", "ok", "%s decodes DICOM in JPEG 2000\n%s", lib.Version, lib.Path)
	}
	if err := view.Check(); err != nil {
		add("niivue", "warning", "%v", err)
	} else {
		add("niivue", "ok", "embedded; it draws the pages of `lntorch view`")
	}
	text := ""
	if exe, err := os.Executable(); err == nil {
		for _, dir := range []string{filepath.Dir(torch.LibraryPath()), filepath.Join(filepath.Dir(filepath.Dir(exe)), "build", "lib"), filepath.Join("build", "lib")} {
			lib := filepath.Join(dir, "libcgotorch.so")
			if _, err := os.Stat(lib); err == nil && text == "" {
				text = lib
			}
		}
	}
	if text == "" {
		text = "not built; only `make test-gotorch` needs it"
	}
	add("gotorch", "ok", "%s", text)
	return list
}

// libtorchPath is where the system loaded libtorch from; empty where it cannot be told.
func libtorchPath() string {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if i := strings.IndexByte(line, '/'); i >= 0 && strings.Contains(line[i:], "/libtorch_cpu.so") {
			return strings.TrimSpace(line[i:])
		}
	}
	return ""
}

// examineFolder looks at one of nnU-Net's folders. Results are written, raw and preprocessed data only read.
func examineFolder(name, path string) (state, text string) {
	info, err := os.Stat(path)
	switch {
	case path == "":
		return "warning", fmt.Sprintf("is not set: give --%s, or `export nnUNet_%s=FOLDER`", name, name)
	case err != nil:
		return "warning", fmt.Sprintf("%v: make it with `mkdir -p %s`", err, Quoted(path))
	case !info.IsDir():
		return "warning", path + " is no folder"
	case name == "results" && unix.Access(path, unix.W_OK) != nil:
		return "problem", fmt.Sprintf("%s cannot be written to: `chmod u+w %s`, or give another --results", path, Quoted(path))
	case unix.Access(path, unix.R_OK|unix.X_OK) != nil:
		return "problem", fmt.Sprintf("%s cannot be read: `chmod u+rx %s`", path, Quoted(path))
	}
	sets := 0
	if list, err := os.ReadDir(path); err == nil {
		for _, e := range list {
			if strings.HasPrefix(e.Name(), "Dataset") {
				sets++
			}
		}
	}
	return "ok", fmt.Sprintf("%s, %d datasets", path, sets)
}

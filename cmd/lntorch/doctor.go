package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lntorch/lntorch/torch"
)

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "says what this machine has, what is wrong, and what mends it",
		Long: `doctor looks for libtorch, devices, memory and nnU-Net's folders. A line marked "!" is a problem, "?" something that may be one.
It ends with 1 when training could not run.`,
		Example: `  lntorch doctor
  LNTORCH_LIB=/opt/lntorch/liblntorch.so lntorch doctor`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths := map[string]string{}
			for _, name := range folderNames {
				paths[name], _ = cmd.Flags().GetString(name)
			}
			checks := examine(paths)
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				e := json.NewEncoder(os.Stdout)
				e.SetIndent("", "  ")
				if err := e.Encode(checks); err != nil {
					return err
				}
			} else {
				for _, c := range checks {
					mark := map[string]string{"ok": " ", "warning": "?", "problem": "!"}[c.State]
					fmt.Printf("%s %-19s %s\n", mark, c.Name, strings.ReplaceAll(c.Text, "\n", "\n"+strings.Repeat(" ", 22)))
				}
			}
			for _, c := range checks {
				if c.State == "problem" {
					return errors.New("training cannot run on this machine as it is: the lines marked ! say why")
				}
			}
			return nil
		},
	}
	folders(cmd, folderNames...)
	cmd.Flags().Bool("json", false, "print JSON")
	return cmd
}

var folderNames = []string{"raw", "preprocessed", "results"}

// check is one line of the doctor.
type check struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, warning, problem
	Text  string `json:"text"`
}

func examine(paths map[string]string) []check {
	var list []check
	add := func(name, state, format string, args ...any) {
		list = append(list, check{name, state, fmt.Sprintf(format, args...)})
	}
	add("lntorch", "ok", "%s, %s, %s/%s, %d cores", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
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
		case n < 2 && runtime.NumCPU() > 1:
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
	if free, total := memory(); total > 0 {
		state := "ok"
		if free < 4<<30 {
			state = "warning"
		}
		add("memory", state, "%.1f of %.1f GiB free", gib(free), gib(total))
	}
	for _, name := range folderNames {
		state, text := examineFolder(name, paths[name])
		add("nnUNet_"+name, state, "%s", text)
	}
	disk := paths["results"]
	if info, err := os.Stat(disk); err != nil || !info.IsDir() {
		disk = "."
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(disk, &fs); err == nil {
		free := int64(fs.Bavail) * int64(fs.Bsize)
		state, place := "ok", disk
		if free < 5<<30 {
			state = "warning"
		}
		if disk == "." {
			place = "the working directory"
		}
		add("disk", state, "%.1f GiB free for %s; a checkpoint takes up to 1 GiB", gib(free), place)
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

// memory gives the bytes that programs can still take and all that there are; a container's limit counts.
func memory() (free, total int64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		fmt.Sscanf(line, "MemAvailable: %d kB", &free)
		fmt.Sscanf(line, "MemTotal: %d kB", &total)
	}
	free, total = free<<10, total<<10
	number := func(name string) int64 {
		var n int64
		if b, err := os.ReadFile("/sys/fs/cgroup/" + name); err == nil {
			fmt.Sscan(string(b), &n) // "max" leaves 0
		}
		return n
	}
	if limit := number("memory.max"); limit > 0 && limit < total {
		free, total = min(free, max(0, limit-number("memory.current"))), limit
	}
	return free, total
}

// examineFolder looks at one of nnU-Net's folders. Results are written, raw and preprocessed data only read.
func examineFolder(name, path string) (state, text string) {
	info, err := os.Stat(path)
	switch {
	case path == "":
		return "warning", fmt.Sprintf("is not set: give --%s, or `export nnUNet_%s=FOLDER`", name, name)
	case err != nil:
		return "warning", fmt.Sprintf("%v: make it with `mkdir -p %s`", err, quoted(path))
	case !info.IsDir():
		return "warning", path + " is no folder"
	case name == "results" && unix.Access(path, unix.W_OK) != nil:
		return "problem", fmt.Sprintf("%s cannot be written to: `chmod u+w %s`, or give another --results", path, quoted(path))
	case unix.Access(path, unix.R_OK|unix.X_OK) != nil:
		return "problem", fmt.Sprintf("%s cannot be read: `chmod u+rx %s`", path, quoted(path))
	}
	sets := 0
	if list, err := os.ReadDir(path); err == nil {
		for _, e := range list {
			if strings.HasPrefix(e.Name(), "Dataset") {
				sets++
			}
		}
	}
	return "ok", fmt.Sprintf("%s, %d data sets", path, sets)
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

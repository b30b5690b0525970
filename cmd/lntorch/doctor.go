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
			checks := examine()
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				e := json.NewEncoder(os.Stdout)
				e.SetIndent("", "  ")
				if err := e.Encode(checks); err != nil {
					return err
				}
			} else {
				for _, c := range checks {
					mark := map[string]string{"ok": " ", "warning": "?", "problem": "!"}[c.State]
					fmt.Printf("%s %-14s %s\n", mark, c.Name, strings.ReplaceAll(c.Text, "\n", "\n                 "))
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
	cmd.Flags().Bool("json", false, "print JSON")
	return cmd
}

// check is one line of the doctor.
type check struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, warning, problem
	Text  string `json:"text"`
}

func examine() []check {
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
		add("libtorch", "ok", "%s with %s kernels, through %s", v, cpu, torch.LibraryPath())
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
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		var free int64
		for _, line := range strings.Split(string(b), "\n") {
			fmt.Sscanf(line, "MemAvailable: %d kB", &free)
		}
		state := "ok"
		if free < 4<<20 {
			state = "warning"
		}
		add("memory", state, "%.1f GiB free", gib(free<<10))
	}
	for _, name := range []string{"raw", "preprocessed", "results"} {
		path := os.Getenv("nnUNet_" + name)
		info, err := os.Stat(path)
		switch {
		case path == "":
			add("nnUNet_"+name, "warning", "is not set: give --%s, or `export nnUNet_%s=FOLDER`", name, name)
		case err != nil:
			add("nnUNet_"+name, "warning", "%v: make it with `mkdir -p %s`", err, path)
		case !info.IsDir():
			add("nnUNet_"+name, "warning", "%s is no folder", path)
		default:
			add("nnUNet_"+name, "ok", "%s", path)
		}
	}
	if exe, err := os.Executable(); err == nil {
		lib := filepath.Join(filepath.Dir(filepath.Dir(exe)), "build", "lib", "libcgotorch.so")
		if _, err := os.Stat(lib); err == nil {
			add("gotorch", "ok", "%s", lib)
		} else {
			add("gotorch", "ok", "not built; only `make test-gotorch` needs it")
		}
	}
	return list
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

// Package system says what the process may use of the machine: memory, cores and disk, with the
// limits of containers (cgroup v1 and v2) and CPU affinity, and what it uses itself. It decides
// nothing: budgets and worker counts are their callers'.
package system

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Memory is main memory as the process may use it, in bytes.
type Memory struct {
	Available int64  // what can still be taken without swapping; file cache that can be dropped counts
	Total     int64  // all there is, or the smallest limit
	LimitedBy string // the file that holds the smallest limit; empty where the machine is the limit
}

// ReadMemory reads the system's figures and the limits of the process's cgroup and those above it.
// It returns an error where the system has no /proc/meminfo.
func ReadMemory() (Memory, error) { return here().memory() }

// Cores is the number of cores that the process may keep busy, at least 1: those of its affinity
// when it started, or fewer where a cgroup has a CPU quota. A quota of 1.5 cores counts as 2.
func Cores() int { return here().cores() }

// RSS is the process's resident memory in bytes, 0 where the system does not say.
func RSS() int64 { return here().process("VmRSS:") }

// PeakRSS is the largest resident memory the process has had, in bytes, 0 where the system does
// not say. Unlike getrusage's, it does not count the parent before exec.
func PeakRSS() int64 { return here().process("VmHWM:") }

// FreeDisk is the number of bytes that the user may still write to the file system of path. Where
// path does not exist yet, its nearest parent that does is asked.
func FreeDisk(path string) (int64, error) {
	asked, err := filepath.Abs(path)
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(asked, &st)
		if err == nil {
			return freeBytes(&st), nil
		}
		parent := filepath.Dir(asked)
		if !errors.Is(err, unix.ENOENT) || parent == asked {
			return 0, fmt.Errorf("free space of %s: %w", path, err)
		}
		asked = parent
	}
}

// freeBytes counts in fragments, as df does: on FUSE the block size is only a hint for reading.
func freeBytes(st *unix.Statfs_t) int64 {
	unit := uint64(st.Frsize)
	if unit == 0 {
		unit = uint64(st.Bsize)
	}
	if unit != 0 && st.Bavail > math.MaxInt64/unit {
		return math.MaxInt64
	}
	return int64(st.Bavail * unit)
}

// Size prints a number of bytes: "512 B", "1.2 GiB", "104 MiB".
func Size(bytes int64) string {
	if bytes > -1024 && bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	v, unit := float64(bytes)/1024, 0
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	for math.Abs(v) >= 1023.5 && unit < len(units)-1 { // 1023.5 would print as 1024
		v, unit = v/1024, unit+1
	}
	if math.Abs(v) < 99.95 {
		return fmt.Sprintf("%.1f %s", v, units[unit])
	}
	return fmt.Sprintf("%.0f %s", v, units[unit])
}

// A machine is where the figures are read.
type machine struct {
	root fs.FS // the root folder, for /proc and the cgroup file systems
	cpus int   // the cores of the process's affinity
}

// here takes the affinity from the runtime, which asks when the process starts: later OpenMP may
// have bound the calling thread to one core.
func here() machine { return machine{os.DirFS("/"), runtime.NumCPU()} }

// read returns a file's text, "" where it cannot be read.
func (m machine) read(path string) string {
	b, err := fs.ReadFile(m.root, strings.TrimPrefix(path, "/"))
	if err != nil {
		return ""
	}
	return string(b)
}

func (m machine) memory() (Memory, error) {
	text := m.read("/proc/meminfo")
	available, found := field(text, "MemAvailable:")
	total, foundTotal := field(text, "MemTotal:")
	if !found || !foundTotal {
		return Memory{}, errors.New("free memory: /proc/meminfo has no MemAvailable and MemTotal")
	}
	mem := Memory{Available: available << 10, Total: total << 10}
	for _, g := range m.groups("memory") {
		g.limitMemory(m, &mem)
	}
	return mem, nil
}

func (m machine) cores() int {
	n := m.cpus
	for _, g := range m.groups("cpu") {
		if quota, ok := g.quota(m); ok {
			n = min(n, quota)
		}
	}
	return max(1, n)
}

func (m machine) process(name string) int64 {
	kb, _ := field(m.read("/proc/self/status"), name)
	return kb << 10
}

// field is the number behind a name that begins a line.
func field(text, name string) (int64, bool) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			return number(f[1])
		}
	}
	return 0, false
}

// number reads a whole number that is not negative; "max" and -1, which stand for no limit, are none.
func number(text string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return n, err == nil && n >= 0
}

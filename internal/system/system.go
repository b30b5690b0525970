// Package system reports the resources available to the process: memory, cores and disk, within the
// limits of containers (cgroup v1 and v2) and CPU affinity, and its own usage. It makes no
// decisions: budgets and worker counts are up to the callers.
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
	"time"

	"golang.org/x/sys/unix"
)

// Memory is the main memory available to the process, in bytes.
type Memory struct {
	// what can still be allocated without swapping; file cache that can be dropped counts as
	// available
	Available int64
	Total     int64  // the machine's memory or the smallest limit
	LimitedBy string // the file with the smallest limit; empty if the machine is the limit
}

// ReadMemory reads the system's values and the limits of the process's cgroup and its ancestors. It
// returns an error if there is no /proc/meminfo.
func ReadMemory() (Memory, error) { return here().memory() }

// Budget is the part of free memory that work is planned with: three quarters.
func Budget(free int64) int64 { return free / 4 * 3 }

// Cores returns the number of cores that the process may use, at least 1: those of its CPU affinity
// at start, or fewer if a cgroup has a CPU quota. A quota of 1.5 cores counts as 2.
func Cores() int { return here().cores() }

// PeakRSS returns the process's peak resident memory in bytes, 0 if unknown. Unlike getrusage's
// value, it does not include the parent before exec.
func PeakRSS() int64 { return here().process("VmHWM:") }

// CPUTime returns the processor time that the process has used so far, all threads together.
func CPUTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// FreeDisk returns the number of bytes that the user may still write to the file system of path. If
// path does not exist yet, the nearest existing parent is used.
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

// freeBytes counts in fragments, as df does: on FUSE the block size is only a read hint.
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

// Size formats a number of bytes: "512 B", "1.2 GiB", "104 MiB".
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

// A machine is the source of the values; tests use a fake one.
type machine struct {
	root fs.FS // the root folder, with /proc and the cgroup file systems
	cpus int   // cores in the process's CPU affinity
}

// here takes the affinity from Go's runtime, which reads it when the process starts: later, OpenMP
// may have bound the calling thread to one core.
func here() machine { return machine{os.DirFS("/"), runtime.NumCPU()} }

// read returns a file's text, "" if it cannot be read.
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

// field returns the number after a name at the start of a line.
func field(text, name string) (int64, bool) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			return number(f[1])
		}
	}
	return 0, false
}

// number parses a non-negative integer; "max" and -1, which stand for no limit, are rejected.
func number(text string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return n, err == nil && n >= 0
}

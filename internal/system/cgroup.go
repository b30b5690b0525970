package system

import (
	"path"
	"strconv"
	"strings"
)

// A group is the folder of a cgroup that contains the process.
type group struct {
	dir     string
	unified bool // cgroup v2
}

// groups lists the process's own cgroup and its visible ancestors, for a controller of v1 and for
// v2. On machines that have both, both impose limits.
func (m machine) groups(controller string) []group {
	own := map[bool]string{} // the process's cgroup in each version, from the hierarchy's root
	for line := range strings.Lines(m.read("/proc/self/cgroup")) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // 4:cpu,cpuacct:/docker/3f2a
		switch {
		case len(f) != 3:
		case f[0] == "0" && f[1] == "":
			own[true] = f[2]
		case listed(f[1], controller):
			own[false] = f[2]
		}
	}
	var all []group
	for line := range strings.Lines(m.read("/proc/self/mountinfo")) {
		// 31 24 0:27 /docker/3f2a /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory
		mount, system, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(mount), strings.Fields(system)
		if len(left) < 5 || len(right) < 3 {
			continue
		}
		unified := right[0] == "cgroup2"
		if !unified && (right[0] != "cgroup" || !listed(right[2], controller)) {
			continue
		}
		if path, ok := own[unified]; ok {
			all = append(all, walk(path, unescape(left[3]), unescape(left[4]), unified)...)
		}
	}
	return all
}

// walk lists the folders from a cgroup up to the one mounted at point, whose path is root.
func walk(own, root, point string, unified bool) []group {
	// "/../..": above the namespace, so above the process
	if strings.Trim(root, "./") == "" && root != "/" {
		return []group{{path.Clean(point), unified}}
	}
	below, ok := strings.CutPrefix(own, strings.TrimSuffix(root, "/"))
	if !ok || below != "" && below[0] != '/' || strings.Contains(own, "/..") {
		return nil // another container's, or not visible
	}
	var all []group
	for below = path.Clean("/" + below); ; below = path.Dir(below) {
		all = append(all, group{path.Join(point, below), unified})
		if below == "/" {
			return all
		}
	}
}

func listed(list, name string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if item == name {
			return true
		}
	}
	return false
}

// unescape decodes mountinfo's octal escapes, such as \040 for a space.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// limitMemory lowers mem to what the group's limits allow. File cache that the kernel drops first
// (inactive_file) does not count as used, as in Kubernetes' working set.
func (g group) limitMemory(m machine, mem *Memory) {
	// above memory.high the kernel throttles the group
	names := []string{"memory.max", "memory.high"}
	usage, cache := "memory.current", "inactive_file"
	if !g.unified {
		names = []string{"memory.limit_in_bytes"}
		usage, cache = "memory.usage_in_bytes", "total_inactive_file"
	}
	stat := m.read(path.Join(g.dir, "memory.stat"))
	used, _ := number(m.read(path.Join(g.dir, usage)))
	dropped, _ := field(stat, cache)
	limit := func(file string, n int64, ok bool) {
		if !ok {
			return
		}
		if n < mem.Total {
			mem.Total, mem.LimitedBy = n, file
		}
		mem.Available = min(mem.Available, max(0, n-max(0, used-dropped)))
	}
	for _, name := range names {
		file := path.Join(g.dir, name)
		n, ok := number(m.read(file))
		limit(file, n, ok)
	}
	if !g.unified { // includes limits of groups not visible in the container
		n, ok := field(stat, "hierarchical_memory_limit")
		limit(path.Join(g.dir, "memory.stat"), n, ok)
	}
}

// quota returns the number of cores that the group's CPU quota amounts to, rounded up.
func (g group) quota(m machine) (int, bool) {
	var quota, period string
	if g.unified {
		quota, period, _ = strings.Cut(strings.TrimSpace(m.read(path.Join(g.dir, "cpu.max"))), " ")
	} else {
		quota = m.read(path.Join(g.dir, "cpu.cfs_quota_us"))
		period = m.read(path.Join(g.dir, "cpu.cfs_period_us"))
	}
	q, ok := number(quota)
	p, known := number(period)
	if !ok || !known || p == 0 {
		return 0, false
	}
	return int((q-1)/p) + 1, q > 0
}

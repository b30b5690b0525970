package system

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A fixture holds the files of a machine, as written by the kernel and the container manager.
type fixture map[string]string

func (f fixture) machine(cpus int) machine {
	root := fstest.MapFS{}
	for name, text := range f {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return machine{root, cpus}
}

const (
	gib     = 1 << 30
	meminfo = "MemTotal:       65536000 kB\nMemFree:         1234567 kB\nMemAvailable:   40960000 kB\nBuffers:           10240 kB\n"
	total   = 65536000 << 10
	avail   = 40960000 << 10
	v2mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
)

var fixtures = map[string]struct {
	files  fixture
	memory Memory
	cores  int // of 16
}{
	"bare machine, v2": {fixture{
		"proc/self/cgroup":                                                     "0::/user.slice/user-1000.slice/session-3.scope\n",
		"proc/self/mountinfo":                                                  "22 28 0:21 / /proc rw shared:12 - proc proc rw\n" + v2mount,
		"sys/fs/cgroup/cpu.stat":                                               "usage_usec 1\n", // the highest cgroup has no memory.max and no cpu.max
		"sys/fs/cgroup/user.slice/memory.max":                                  "max\n",
		"sys/fs/cgroup/user.slice/cpu.max":                                     "max 100000\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/memory.max":                  "max\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope/memory.max":  "max\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope/memory.high": "max\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope/cpu.max":     "max 100000\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope/memory.stat": "anon 4096\ninactive_file 4096\n",
	}, Memory{avail, total, ""}, 16},

	"docker run --memory 8g --cpus 1.5, v2": {fixture{ // a namespace of its own: the container's cgroup is the root
		"proc/self/cgroup":         "0::/\n",
		"proc/self/mountinfo":      "1431 1420 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n",
		"sys/fs/cgroup/memory.max": "8589934592\n", "sys/fs/cgroup/memory.high": "max\n", "sys/fs/cgroup/memory.current": "3221225472\n",
		"sys/fs/cgroup/memory.stat": "anon 1073741824\nfile 2147483648\ninactive_file 2147483648\nactive_file 0\n",
		"sys/fs/cgroup/cpu.max":     "150000 100000\n",
	}, Memory{7 * gib, 8 * gib, "/sys/fs/cgroup/memory.max"}, 2},

	"docker run --memory 8g --cpus 3, v1": {fixture{ // the host's path, and mounts of that path
		"proc/self/cgroup": "12:cpuset:/docker/3f2a\n6:memory:/docker/3f2a\n4:cpu,cpuacct:/docker/3f2a\n1:name=systemd:/docker/3f2a\n0::/system.slice/containerd.service\n",
		"proc/self/mountinfo": "736 735 0:29 /docker/3f2a /sys/fs/cgroup/systemd ro,nosuid master:11 - cgroup cgroup rw,xattr,name=systemd\n" +
			"740 735 0:33 /docker/3f2a /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:18 - cgroup cgroup rw,cpu,cpuacct\n" +
			"741 735 0:34 /docker/3f2a /sys/fs/cgroup/memory ro,nosuid master:19 - cgroup cgroup rw,memory\n",
		"sys/fs/cgroup/memory/memory.limit_in_bytes": "8589934592\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "6442450944\n",
		"sys/fs/cgroup/memory/memory.stat": "cache 2147483648\ninactive_file 17\nhierarchical_memory_limit 8589934592\n" +
			"hierarchical_memsw_limit 17179869184\ntotal_cache 2147483648\ntotal_inactive_file 1073741824\n",
		"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
	}, Memory{3 * gib, 8 * gib, "/sys/fs/cgroup/memory/memory.limit_in_bytes"}, 3},

	"Kubernetes, v1, limit of the pod seen only in memory.stat": {fixture{
		"proc/self/cgroup": "6:memory:/kubepods/burstable/pod7c/ab12\n4:cpu,cpuacct:/kubepods/burstable/pod7c/ab12\n",
		"proc/self/mountinfo": "740 735 0:33 /kubepods/burstable/pod7c/ab12 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n" +
			"741 735 0:34 /kubepods/burstable/pod7c/ab12 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
		"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "1073741824\n",
		"sys/fs/cgroup/memory/memory.stat":           "hierarchical_memory_limit 4294967296\ntotal_inactive_file 0\n",
		"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
	}, Memory{3 * gib, 4 * gib, "/sys/fs/cgroup/memory/memory.stat"}, 16},

	"Kubernetes, v2, seen from the host": {fixture{ // a pod's limit above its container's, which has none
		"proc/self/cgroup":                                                                "0::/kubepods.slice/kubepods-pod7c.slice/cri-ab12.scope\n",
		"proc/self/mountinfo":                                                             v2mount,
		"sys/fs/cgroup/kubepods.slice/memory.max":                                         "53687091200\n",
		"sys/fs/cgroup/kubepods.slice/memory.current":                                     "51539607552\n",
		"sys/fs/cgroup/kubepods.slice/cpu.max":                                            "max 100000\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-pod7c.slice/memory.max":                    "6442450944\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-pod7c.slice/memory.current":                "1073741824\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-pod7c.slice/cpu.max":                       "50000 100000\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-pod7c.slice/cri-ab12.scope/memory.max":     "max\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-pod7c.slice/cri-ab12.scope/cpu.max":        "400000 100000\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-pod7c.slice/cri-ab12.scope/memory.current": "1073741824\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-other.slice/memory.max":                    "1\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-other.slice/cpu.max":                       "1 100000\n",
		"sys/fs/cgroup/kubepods.slice/kubepods-pod7c.slice/cri-another.scope/memory.max":  "1\n",
	}, Memory{2 * gib, 6 * gib, "/sys/fs/cgroup/kubepods.slice/kubepods-pod7c.slice/memory.max"}, 1}, // 48 of 50 GiB are taken

	"systemd-run -p MemoryHigh=2G -p CPUQuota=250%": {fixture{
		"proc/self/cgroup":    "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r5.scope\n",
		"proc/self/mountinfo": v2mount,
		"sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r5.scope/memory.max":     "max\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r5.scope/memory.high":    "2147483648\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r5.scope/memory.current": "2200000000\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r5.scope/memory.stat":    "inactive_file 0\n",
		"sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r5.scope/cpu.max":        "250000 100000\n",
	}, Memory{0, 2 * gib, "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-r5.scope/memory.high"}, 3},

	"LXC with lxcfs, v2": {fixture{ // /proc/meminfo is the container's already
		"proc/meminfo":             "MemTotal:        4194304 kB\nMemAvailable:    1048576 kB\n",
		"proc/self/cgroup":         "0::/.lxc/init.scope\n",
		"proc/self/mountinfo":      "500 480 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 none rw\n",
		"sys/fs/cgroup/memory.max": "4294967296\n", "sys/fs/cgroup/memory.current": "2147483648\n", "sys/fs/cgroup/memory.stat": "inactive_file 1\n",
		"sys/fs/cgroup/.lxc/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "200000 100000\n",
	}, Memory{gib, 4 * gib, ""}, 2},

	"v1 and v2 side by side": {fixture{
		"proc/self/cgroup": "4:memory:/job\n2:cpuacct:/other\n1:cpu:/job\n0::/\n",
		"proc/self/mountinfo": "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n33 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n" +
			"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
		"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1073741824\n",
		"sys/fs/cgroup/memory/job/memory.usage_in_bytes": "0\n",
		"sys/fs/cgroup/cpu/job/cpu.cfs_quota_us":         "10000\n", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
	}, Memory{gib, gib, "/sys/fs/cgroup/memory/job/memory.limit_in_bytes"}, 1},

	"a mount above the namespace, a space in its name, and another container's": {fixture{
		"proc/self/cgroup": "0::/\n",
		"proc/self/mountinfo": "50 40 0:26 /../.. /mnt/host\\040cgroup ro - cgroup2 cgroup2 rw\n" +
			"51 40 0:26 /../other /mnt/other ro - cgroup2 cgroup2 rw\n52 40 0:26 /elsewhere /mnt/elsewhere ro - cgroup2 cgroup2 rw\n",
		"mnt/host cgroup/memory.max": "10737418240\n", "mnt/host cgroup/cpu.max": "500000 100000\n",
		"mnt/other/memory.max": "1\n", "mnt/elsewhere/memory.max": "1\n", "mnt/other/cpu.max": "1 1\n",
	}, Memory{10 * gib, 10 * gib, "/mnt/host cgroup/memory.max"}, 5},

	"files that make no sense": {fixture{
		"proc/self/cgroup":         "\n::\n0::/../..\n7:memory\n0::/a (deleted)\nx:y:z:w\n",
		"proc/self/mountinfo":      "1\n\n - \n30 23 0:26 / /sys/fs/cgroup rw - cgroup2\n" + v2mount + "9 9 9 / /x\\0 rw - cgroup cgroup memory,cpu\n",
		"sys/fs/cgroup/memory.max": "many\n", "sys/fs/cgroup/cpu.max": "1 0\n", "sys/fs/cgroup/a (deleted)/cpu.max": "",
	}, Memory{avail, total, ""}, 16},

	"no cgroups": {fixture{}, Memory{avail, total, ""}, 16},
}

func TestLimitsOfContainers(t *testing.T) {
	for name, f := range fixtures {
		t.Run(name, func(t *testing.T) {
			if _, ok := f.files["proc/meminfo"]; !ok {
				f.files["proc/meminfo"] = meminfo
			}
			m := f.files.machine(16)
			got, err := m.memory()
			require.NoError(t, err)
			require.Equal(t, f.memory, got)
			require.Equal(t, f.cores, m.cores())
		})
	}
	m := fixtures["docker run --memory 8g --cpus 3, v1"].files.machine(2)
	require.Equal(t, 2, m.cores(), "the affinity is the smaller one")
}

func TestMemoryWithoutProcIsAnError(t *testing.T) {
	_, err := fixture{}.machine(1).memory()
	require.ErrorContains(t, err, "/proc/meminfo")
}

// The child starts with one core in its affinity mask; Go's runtime reads it then.
func TestCoresRespectAffinity(t *testing.T) {
	if os.Getenv("CORES_OF_CHILD") != "" {
		fmt.Printf("cores=%d\n", Cores())
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &all))
	for i := range 1024 {
		if all.IsSet(i) {
			one.Set(i)
			break
		}
	}
	require.NoError(t, unix.SchedSetaffinity(0, &one)) // of this thread; a child inherits it
	cmd := exec.Command(os.Args[0], "-test.run", "^TestCoresRespectAffinity$", "-test.v")
	cmd.Env = append(os.Environ(), "CORES_OF_CHILD=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, unix.SchedSetaffinity(0, &all))
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "cores=1\n")
}

func TestFiguresOfThisMachine(t *testing.T) {
	m, err := ReadMemory()
	require.NoError(t, err)
	require.Positive(t, m.Available)
	require.LessOrEqual(t, m.Available, m.Total)
	require.GreaterOrEqual(t, Cores(), 1)
	require.LessOrEqual(t, Cores(), runtime.NumCPU())
}

func TestResidentMemoryFollowsAllocation(t *testing.T) {
	const size = 64 << 20
	before := here().process("VmRSS:")
	if before == 0 {
		t.Skip("the system does not say how much memory a process has")
	}
	b := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		b[i] = 1
	}
	with := here().process("VmRSS:")
	require.Greater(t, with-before, int64(size*3/4))
	require.Less(t, with-before, int64(size*3)) // the race detector keeps as much again beside it
	require.GreaterOrEqual(t, PeakRSS(), with-1<<20)
	runtime.KeepAlive(b)
	b = nil
	debug.FreeOSMemory()
	require.Less(t, here().process("VmRSS:"), with-size/2)
	require.GreaterOrEqual(t, PeakRSS(), with-1<<20)
}

func TestCPUTimeIsTheProcessorsNotTheClocks(t *testing.T) {
	before := CPUTime()
	require.Positive(t, before)
	begin := time.Now()
	time.Sleep(300 * time.Millisecond)
	require.Less(t, CPUTime()-before, time.Since(begin)/2, "asleep")
	for before = CPUTime(); CPUTime()-before < 5*time.Millisecond; {
		require.Less(t, time.Since(begin), time.Minute, "busy")
	}
}

func TestFreeDisk(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("df", "-B1", "--output=avail", dir).Output()
	require.NoError(t, err)
	df, err := strconv.ParseInt(strings.Fields(string(out))[1], 10, 64) // below its heading
	require.NoError(t, err, "%s", out)
	for _, path := range []string{dir, filepath.Join(dir, "not", "yet")} {
		free, err := FreeDisk(path)
		require.NoError(t, err)
		require.InDelta(t, df, free, 1<<30, path)
	}
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	_, err = FreeDisk(filepath.Join(file, "below"))
	require.ErrorContains(t, err, file)
}

func TestFreeBytesCountFragments(t *testing.T) {
	require.EqualValues(t, 10*4096, freeBytes(&unix.Statfs_t{Bavail: 10, Bsize: 1 << 20, Frsize: 4096}))
	require.EqualValues(t, 10*512, freeBytes(&unix.Statfs_t{Bavail: 10, Bsize: 512}))
	require.EqualValues(t, math.MaxInt64, freeBytes(&unix.Statfs_t{Bavail: math.MaxUint64, Frsize: 4096}))
}

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1288490189: "1.2 GiB", 109051904: "104 MiB", 1<<20 - 1: "1.0 MiB", 1<<30 - 1: "1.0 GiB",
		104815657: "100 MiB", 104752742: "99.9 MiB", 3 << 50: "3072 TiB", -3 << 30: "-3.0 GiB", math.MaxInt64: "8388608 TiB", math.MinInt64: "-8388608 TiB",
	} {
		require.Equal(t, want, Size(bytes), bytes)
	}
}

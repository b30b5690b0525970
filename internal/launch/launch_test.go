package launch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/internal/settings"
)

// environment makes an Env of lines NAME=VALUE.
func environment(lines ...string) Env {
	return func(name string) string {
		for _, line := range lines {
			if key, value, _ := strings.Cut(line, "="); key == name {
				return value
			}
		}
		return ""
	}
}

// defaults is a Config as the command line gives it without flags.
func defaults() Config { return settings.New[Config]() }

// What the launchers set, from torch 2.4.1's torchrun (two ranks on each of two hosts, restarted
// twice), Open MPI 4.1.4, and Slurm 22.05.8: a batch script of two tasks, and the steps in it.
var (
	torchrunSets = []string{"RANK=3", "WORLD_SIZE=4", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=2", "GROUP_RANK=1", "MASTER_ADDR=node0",
		"MASTER_PORT=29400", "TORCHELASTIC_RUN_ID=job", "TORCHELASTIC_RESTART_COUNT=2", "TORCHELASTIC_MAX_RESTARTS=3",
		"TORCHELASTIC_USE_AGENT_STORE=True", "TORCHELASTIC_ERROR_FILE=/tmp/torchelastic_lq4iy9w2/job_x5pr0d1q/attempt_2/1/error.json",
		"OMP_NUM_THREADS=1"}
	openMPISets = []string{"OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_RANK=1", "OMPI_COMM_WORLD_LOCAL_SIZE=2",
		"OMPI_MCA_ess_base_jobid=1604124673", "PMIX_NAMESPACE=1604124673", "PMIX_RANK=1"}
	batchSets = []string{"SLURM_JOB_ID=4711", "SLURM_JOBID=4711", "SLURM_NTASKS=2", "SLURM_NPROCS=2", "SLURM_PROCID=0", "SLURM_LOCALID=0",
		"SLURM_NODEID=0", "SLURM_JOB_NODELIST=vm", "SLURM_NODELIST=vm", "SLURM_TASKS_PER_NODE=2", "SLURM_GTIDS=0"}
	oneTaskSets = []string{"SLURM_JOB_ID=4711", "SLURM_NTASKS=1", "SLURM_PROCID=0", "SLURM_LOCALID=0", "SLURM_NODEID=0", "SLURM_STEP_ID=1",
		"SLURM_STEP_NODELIST=vm", "SLURM_STEP_NUM_TASKS=1", "SLURM_STEP_TASKS_PER_NODE=1"}
	stepSets = []string{"SLURM_JOB_ID=4711", "SLURM_NTASKS=2", "SLURM_PROCID=1", "SLURM_LOCALID=1", "SLURM_NODEID=0", "SLURM_STEP_ID=0",
		"SLURM_STEP_NODELIST=vm", "SLURM_STEP_NUM_TASKS=2", "SLURM_STEP_TASKS_PER_NODE=2"}
	pmi2OneSets = append([]string{"PMI_RANK=0", "PMI_SIZE=1", "PMI_JOBID=4711.1", "PMI_FD=13"}, oneTaskSets...)
	pmi2Sets    = append([]string{"PMI_RANK=1", "PMI_SIZE=2", "PMI_JOBID=4711.2", "PMI_FD=13"}, stepSets...)
	// srun -N4 -n6 --distribution=cyclic
	hostsSets = []string{"SLURM_JOB_ID=70001", "SLURM_PROCID=3", "SLURM_LOCALID=0", "SLURM_NODEID=3", "SLURM_STEP_ID=0",
		"SLURM_STEP_NODELIST=gpu[07-09,12]", "SLURM_STEP_NUM_TASKS=6", "SLURM_STEP_TASKS_PER_NODE=2(x2),1(x2)"}
	// MPICH 4.0.2
	hydraSets = []string{"PMI_FD=8", "HYDI_CONTROL_FD=7", "PMI_RANK=2", "PMI_SIZE=3", "MPI_LOCALRANKID=2", "MPI_LOCALNRANKS=3"}
)

func TestWorldIsWhatTheLauncherSays(t *testing.T) {
	alone := &World{Size: 1, LocalSize: 1}
	two := func(c *Config) { c.GPUs = 2 }
	for name, test := range map[string]struct {
		set  []string
		with func(*Config)
		want *World
	}{
		"nothing": {nil, nil, alone},
		"torchrun": {torchrunSets, nil, &World{Rank: 3, Size: 4, LocalRank: 1, LocalSize: 2, Launcher: Torchrun, Restart: 2, RunID: "job", Agent: "job_x5pr0d1q",
			Master: "node0:29400", Prefix: "/worker/attempt_2"}},
		"torchrun's first rank": {append([]string{"RANK=0", "LOCAL_RANK=0"}, torchrunSets...), nil, &World{Size: 4, LocalSize: 2, Launcher: Torchrun,
			Restart: 2, RunID: "job", Agent: "job_x5pr0d1q", Master: "node0:29400", Prefix: "/worker/attempt_2"}},
		"torchrun that keeps no logs": {append([]string{"TORCHELASTIC_ERROR_FILE="}, torchrunSets...), nil, &World{Rank: 3, Size: 4, LocalRank: 1,
			LocalSize: 2, Launcher: Torchrun, Restart: 2, RunID: "job", Master: "node0:29400", Prefix: "/worker/attempt_2"}},
		"torchrun without its store": {append([]string{"RANK=0", "TORCHELASTIC_USE_AGENT_STORE=False"}, torchrunSets...), nil,
			&World{Rank: 0, Size: 4, LocalRank: 1, LocalSize: 2, Launcher: Torchrun, Restart: 2, RunID: "job", Agent: "job_x5pr0d1q", Master: "node0:29400", Serve: true}},
		"torchrun with another master": {torchrunSets, func(c *Config) { c.Master = "[fd00::2]:1" },
			&World{Rank: 3, Size: 4, LocalRank: 1, LocalSize: 2, Launcher: Torchrun, Restart: 2, RunID: "job", Agent: "job_x5pr0d1q", Master: "[fd00::2]:1"}},
		"torchrun with one rank": {append([]string{"RANK=0", "WORLD_SIZE=1", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1"}, torchrunSets...), nil,
			&World{Size: 1, LocalSize: 1, Launcher: Torchrun, Restart: 2, RunID: "job", Agent: "job_x5pr0d1q"}},
		"torchrun before srun": {append(torchrunSets, stepSets...), nil, &World{Rank: 3, Size: 4, LocalRank: 1, LocalSize: 2, Launcher: Torchrun,
			Restart: 2, RunID: "job", Agent: "job_x5pr0d1q", Master: "node0:29400", Prefix: "/worker/attempt_2"}},
		"the environment": {[]string{"GLOO_SOCKET_IFNAME=ib0", "RANK=0", "WORLD_SIZE=3", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1", "MASTER_ADDR=a", "MASTER_PORT=7"}, nil,
			&World{Size: 3, LocalSize: 1, Launcher: Environment, Master: "a:7", Serve: true, Interface: "ib0"}},
		"the environment as PyTorch wants it": {[]string{"RANK=1", "WORLD_SIZE=3", "MASTER_ADDR=a", "MASTER_PORT=7"}, nil,
			&World{Rank: 1, Size: 3, LocalSize: 1, Launcher: Environment, Master: "a:7"}},
		"the environment on one host": {[]string{"RANK=1", "WORLD_SIZE=3", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=7"}, nil,
			&World{Rank: 1, Size: 3, LocalRank: 1, LocalSize: 3, Launcher: Environment, Master: "127.0.0.1:7"}},
		// FNV-1a of "1604124673" by Python: 20000 + h % 20000.
		"mpirun": {openMPISets, nil, &World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Launcher: MPI, Master: "127.0.0.1:FNV"}},
		"mpirun with a master": {append([]string{"OMPI_COMM_WORLD_LOCAL_SIZE=1", "OMPI_COMM_WORLD_LOCAL_RANK=0"}, openMPISets...),
			func(c *Config) { c.Master = "a:7" }, &World{Rank: 1, Size: 2, LocalSize: 1, Launcher: MPI, Master: "a:7"}},
		"Hydra": {append([]string{"MASTER_PORT=7"}, hydraSets...), nil,
			&World{Rank: 2, Size: 3, LocalRank: 2, LocalSize: 3, Launcher: MPI, Master: "127.0.0.1:7"}},
		"a batch script":                {batchSets, nil, alone},
		"a step of one task":            {oneTaskSets, nil, alone},
		"a step":                        {stepSets, nil, &World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Launcher: Slurm, Master: "vm:24711"}},
		"a step of one task with PMI":   {pmi2OneSets, nil, alone},
		"a step with Slurm's PMI":       {pmi2Sets, nil, &World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Launcher: Slurm, Master: "vm:24711"}},
		"a step on several hosts":       {hostsSets, nil, &World{Rank: 3, Size: 6, LocalSize: 1, Launcher: Slurm, Master: "gpu07:30001"}},
		"a step with an address":        {append([]string{"MASTER_ADDR=ib0"}, stepSets...), nil, &World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Launcher: Slurm, Master: "ib0:24711"}},
		"--dist off":                    {torchrunSets, func(c *Config) { c.Dist = "off" }, alone},
		"--dist off with half of it":    {[]string{"WORLD_SIZE=4"}, func(c *Config) { c.Dist = "off" }, alone},
		"--dist on":                     {nil, func(c *Config) { c.Dist = "on" }, &World{Size: 1, LocalSize: 1, Forced: true, Serve: true, Master: "127.0.0.1:0"}},
		"-num_gpus under a launcher":    {stepSets, func(c *Config) { c.GPUs = 4 }, &World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Launcher: Slurm, Master: "vm:24711", Note: "-num_gpus 4 is not used: srun started 2 ranks"}},
		"-num_gpus that the launcher's": {stepSets, func(c *Config) { c.GPUs = 2 }, &World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Launcher: Slurm, Master: "vm:24711"}},
		"-num_gpus before it starts":    {nil, two, alone},
		"-num_gpus in a pod of one":     {[]string{"RANK=0", "WORLD_SIZE=1", "MASTER_ADDR=pod", "MASTER_PORT=7"}, two, &World{Size: 1, LocalSize: 1, Launcher: Environment}},
		"-num_gpus under mpirun -n 1": {append([]string{"OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=1", "OMPI_COMM_WORLD_LOCAL_RANK=0",
			"OMPI_COMM_WORLD_LOCAL_SIZE=1"}, openMPISets...), two, &World{Size: 1, LocalSize: 1, Launcher: MPI}},
		"-num_gpus in a step of one task": {pmi2OneSets, two, alone},
		"-num_gpus and torchrun's last rank": {append([]string{"RANK=0", "WORLD_SIZE=1", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1"}, torchrunSets...), two,
			&World{Size: 1, LocalSize: 1, Launcher: Torchrun, Restart: 2, RunID: "job", Agent: "job_x5pr0d1q", Note: "-num_gpus 2 is not used: torchrun started 1 rank"}},
		"a copy": {append([]string{copyMark + "=1", "RANK=1", "WORLD_SIZE=2", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1",
			"MASTER_PORT=7"}, stepSets...), func(c *Config) { c.GPUs, c.Dist = 2, "off" },
			&World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Launcher: NumGPUs, Master: "127.0.0.1:7"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := defaults()
			if test.with != nil {
				test.with(&c)
			}
			w, err := c.World(environment(test.set...))
			require.NoError(t, err)
			test.want.Master = strings.Replace(test.want.Master, "FNV", fmt.Sprint(fnvPort), 1)
			w.boundCores = false
			require.Equal(t, test.want, w)
			if c.GPUs == 2 && test.want.Size == 1 && test.want.Note == "" {
				require.Equal(t, 2, c.Copies(w))
			} else {
				require.Zero(t, c.Copies(w))
			}
		})
	}
}

// fnvPort is 20000 + h % 20000, where Python computes
// h = 0x811c9dc5; for b in b"1604124673": h = (h ^ b) * 0x01000193 % 2**32.
const fnvPort = 24941

func TestHalfALauncherIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		set  []string
		with func(*Config)
		want string
	}{
		"no rank":                   {[]string{"WORLD_SIZE=4"}, nil, "WORLD_SIZE=4 is set, but RANK is not: start the ranks by torchrun, mpirun, srun or -num_gpus"},
		"no size":                   {[]string{"RANK=1"}, nil, "RANK=1 is set, but WORLD_SIZE is not"},
		"no local size":             {[]string{"RANK=1", "WORLD_SIZE=2", "LOCAL_RANK=0"}, nil, "WORLD_SIZE=2 is set, but LOCAL_WORLD_SIZE is not"},
		"a rank that is none":       {append([]string{"RANK=x"}, torchrunSets...), nil, `RANK: found "x", expected a whole number from 0 on`},
		"a negative rank":           {append([]string{"RANK=-1"}, torchrunSets...), nil, `RANK: found "-1"`},
		"no ranks":                  {append([]string{"WORLD_SIZE=0"}, torchrunSets...), nil, `WORLD_SIZE: found "0", expected a whole number from 1 on`},
		"a rank too many":           {append([]string{"RANK=4"}, torchrunSets...), nil, "RANK=4 and WORLD_SIZE=4: expected a rank below the number of ranks"},
		"a local rank too many":     {append([]string{"LOCAL_RANK=2"}, torchrunSets...), nil, "LOCAL_RANK=2 and LOCAL_WORLD_SIZE=2"},
		"more here than at all":     {append([]string{"LOCAL_WORLD_SIZE=8"}, torchrunSets...), nil, "LOCAL_WORLD_SIZE=8 and WORLD_SIZE=4: more ranks on this host than there are"},
		"a wrong restart count":     {append([]string{"TORCHELASTIC_RESTART_COUNT=-"}, torchrunSets...), nil, "TORCHELASTIC_RESTART_COUNT: found"},
		"no master":                 {[]string{"RANK=1", "WORLD_SIZE=2", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1"}, nil, "MASTER_ADDR and MASTER_PORT are not set: say where the ranks meet, on the host of rank 0, by --master HOST:PORT"},
		"no port":                   {[]string{"RANK=1", "WORLD_SIZE=2", "MASTER_ADDR=a"}, nil, "2 ranks of the environment, and MASTER_PORT is not set"},
		"a wrong port":              {[]string{"RANK=1", "WORLD_SIZE=2", "MASTER_ADDR=a", "MASTER_PORT=70000"}, nil, `MASTER_PORT: found port "70000", expected a number from 1 to 65535`},
		"a master without a port":   {torchrunSets, func(c *Config) { c.Master = "a" }, `--master: found "a", expected HOST:PORT`},
		"a master without a host":   {torchrunSets, func(c *Config) { c.Master = ":7" }, `--master: found ":7", expected HOST:PORT`},
		"a master at port 0":        {torchrunSets, func(c *Config) { c.Master = "a:0" }, `--master: found port "0"`},
		"mpirun on two hosts":       {append([]string{"OMPI_COMM_WORLD_LOCAL_SIZE=1", "OMPI_COMM_WORLD_LOCAL_RANK=0"}, openMPISets...), nil, "2 ranks of mpirun, and MASTER_ADDR is not set"},
		"PMI in a step of one task": {append([]string{"PMI_RANK=1", "PMI_SIZE=2"}, oneTaskSets...), nil, "PMI_SIZE=2 is set, but MPI_LOCALRANKID is not"},
		"PMI without local ranks":   {[]string{"PMI_RANK=1", "PMI_SIZE=2"}, nil, "PMI_SIZE=2 is set, but MPI_LOCALRANKID is not"},
		"a list of no hosts":        {append([]string{"SLURM_STEP_NODELIST=a[1"}, stepSets...), nil, `SLURM_STEP_NODELIST: found "a[1", expected a list of hosts`},
		"tasks that are none":       {append([]string{"SLURM_STEP_TASKS_PER_NODE=2(x"}, stepSets...), nil, `SLURM_STEP_TASKS_PER_NODE: found "2(x"`},
		"a node too many":           {append([]string{"SLURM_NODEID=5"}, hostsSets...), nil, "SLURM_NODEID=5 and SLURM_STEP_TASKS_PER_NODE=2(x2),1(x2)"},
	} {
		t.Run(name, func(t *testing.T) {
			c := defaults()
			if test.with != nil {
				test.with(&c)
			}
			_, err := c.World(environment(test.set...))
			var usage *settings.UsageError
			require.ErrorAs(t, err, &usage)
			require.ErrorContains(t, err, test.want)
		})
	}
}

// Expected values from Slurm 22.05.8's scontrol show hostnames, which is asked here, too, where it is installed and
// has a configuration.
func TestNodesAreWhatScontrolLists(t *testing.T) {
	for list, want := range map[string]string{
		"gpu[07-09,12]":        "gpu07 gpu08 gpu09 gpu12",
		"a,b":                  "a b",
		"rack[1-2]node[01-03]": "rack1node01 rack1node02 rack1node03 rack2node01 rack2node02 rack2node03",
		"n[8-11]":              "n8 n9 n10 n11",
		"n[08-11]":             "n08 n09 n10 n11",
		"gpu[7]":               "gpu7",
		"vm":                   "vm",
		"n[0-2],n[2-3]":        "n0 n1 n2 n2 n3",
		"a[1-2][3-4]":          "a13 a14 a23 a24",
		"n[9-011]":             "n9 n10 n11",
		"n[001-2]":             "n001 n002",
	} {
		nodes, err := Nodes(list)
		require.NoError(t, err, list)
		require.Equal(t, strings.Fields(want), nodes, list)
		if out, err := exec.Command("scontrol", "show", "hostnames", list).Output(); err == nil && os.Getenv("SLURM_CONF") != "" {
			require.Equal(t, strings.Fields(string(out)), nodes, "scontrol: %s", list)
		}
	}
	for _, list := range []string{"", ",", "a[1-3", "a]1", "a[3-1]", "a[]", "a[x-y]", "a[1,,2]", "a[1-]", "a b", "a[1-99999999]",
		"a[0-9999][0-9999][0-9999]", strings.Repeat("[", 100), "a[-1]"} {
		_, err := Nodes(list)
		require.ErrorContains(t, err, "expected a list of hosts", "%.20q", list)
	}
}

func TestTasksPerNode(t *testing.T) {
	tasks, err := tasksPerNode("2(x3),1")
	require.NoError(t, err)
	require.Equal(t, []int{2, 2, 2, 1}, tasks)
	for _, text := range []string{"", "x", "2(x", "2(x)", "2(x3", "2(x0)", "2(x99999999)", "-1", "2,,1"} {
		_, err := tasksPerNode(text)
		require.Error(t, err, text)
	}
}

func FuzzNodes(f *testing.F) {
	f.Add("gpu[07-09,12],login")
	f.Add("rack[1-2]node[01-04]")
	f.Fuzz(func(t *testing.T, list string) {
		nodes, err := Nodes(list)
		if err == nil && (len(nodes) == 0 || len(nodes) > most) {
			t.Errorf("%q: %d hosts", list, len(nodes))
		}
	})
}

// The ranks of one mpirun agree on a port though MPICH gives the job no name.
func TestRanksOfMPICHMeetAtTheirProxys(t *testing.T) {
	ports := map[int]bool{}
	for rank := range 3 {
		w, err := defaults().World(environment(append([]string{fmt.Sprint("PMI_RANK=", rank)}, hydraSets...)...))
		require.NoError(t, err)
		host, port := w.HostPort()
		require.Equal(t, "127.0.0.1", host)
		require.GreaterOrEqual(t, port, 20000)
		require.Less(t, port, 40000)
		ports[port] = true
	}
	require.Len(t, ports, 1)
}

func TestThreadsAndDevice(t *testing.T) {
	w := &World{Rank: 5, Size: 8, LocalRank: 1, LocalSize: 4}
	require.Equal(t, 4, w.Threads(16))
	require.Equal(t, 1, w.Threads(2))
	require.Equal(t, 16, (&World{Size: 8, LocalSize: 1}).Threads(16))
	require.Equal(t, 3, (&World{Size: 8, LocalSize: 4, boundCores: true}).Threads(3))

	device := func(w *World, name string, gpus int) string {
		d, err := w.Device(name, gpus)
		require.NoError(t, err)
		return d
	}
	require.Equal(t, "cuda:1", device(w, "cuda", 4))
	require.Equal(t, "cuda:1", device(w, "auto", 4))
	require.Equal(t, "auto", device(w, "auto", 0))
	require.Equal(t, "cpu", device(w, "cpu", 4))
	require.Equal(t, "cuda:3", device(w, "cuda:3", 4), "as the user says")
	require.Equal(t, "cuda", device(&World{Size: 1, LocalSize: 1}, "cuda", 4))
	require.Equal(t, "cuda:0", device(&World{Size: 8, LocalSize: 4, LocalRank: 1, boundGPU: true}, "cuda", 1))

	_, err := w.Device("cuda", 3)
	require.ErrorContains(t, err, "4 ranks on this host, and 3 GPUs that libtorch can use: start at most one rank a GPU")
	_, err = w.Device("auto", 1)
	require.ErrorContains(t, err, "4 ranks on this host, and 1 GPU that")

	backend := func(name string, cuda bool) (string, error) { return Config{Backend: name}.BackendOn(cuda) }
	for _, test := range []struct {
		name string
		cuda bool
		want string
	}{{"auto", true, "nccl"}, {"auto", false, "gloo"}, {"gloo", false, "gloo"}, {"nccl", true, "nccl"}} {
		found, err := backend(test.name, test.cuda)
		require.NoError(t, err)
		require.Equal(t, test.want, found)
	}
	_, err = backend("nccl", false)
	require.ErrorContains(t, err, "--backend nccl connects GPUs")
	_, err = backend("gloo", true)
	require.ErrorContains(t, err, "--backend gloo connects CPUs: between GPUs use nccl")
}

func TestARankBoundToItsCoresHasThemAll(t *testing.T) {
	proc := t.TempDir()
	status := func(pid int, mask string) {
		require.NoError(t, os.MkdirAll(filepath.Join(proc, fmt.Sprint(pid)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(proc, fmt.Sprint(pid), "status"), []byte("Name:\tx\nCpus_allowed:\t"+mask+"\nMems_allowed:\t1\n"), 0o644))
	}
	status(1, "ffff,ffffffff")
	status(2, "0000,000000f0")
	status(3, "broken")
	require.Equal(t, 48, cores(proc, 1))
	require.True(t, narrower(proc, 2, 1))
	require.False(t, narrower(proc, 1, 1))
	require.False(t, narrower(proc, 1, 2))
	require.False(t, narrower(proc, 3, 1))
	require.False(t, narrower(proc, 2, 9))
}

func TestWhereRanksCannotMeetIsSaidAtOnce(t *testing.T) {
	w := &World{Size: 2, Rank: 1, LocalSize: 1, Master: "no-such-host.invalid:7"}
	require.ErrorContains(t, w.Resolve(t.Context()), "the ranks are to meet at no-such-host.invalid:7, but no-such-host.invalid has no address here")

	busy, err := freePort()
	require.NoError(t, err)
	w = &World{Size: 2, LocalSize: 2, Master: fmt.Sprintf("127.0.0.1:%d", busy), Serve: true}
	require.NoError(t, w.Resolve(t.Context()))
	l := listen(t, busy)
	require.ErrorContains(t, w.Resolve(t.Context()), "rank 0 cannot listen there: listen tcp")
	require.ErrorContains(t, w.Resolve(t.Context()), "address already in use; name another port by --master HOST:PORT")
	w.Serve, w.Rank = false, 1
	require.NoError(t, w.Resolve(t.Context()), "rank 1 connects")
	require.NoError(t, l.Close())
}

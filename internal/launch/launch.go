// Package launch finds out how many ranks train together, which of them this process is and where
// they meet: from the variables that torchrun, mpirun and srun set, or by starting copies of the
// program on this host. It connects nothing: that is package torch/dist.
package launch

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lntorch/lntorch/internal/settings"
)

// Config is what the command line says about ranks.
type Config struct {
	GPUs    int    `flag:"num-gpus" nnunet:"num_gpus" default:"1" range:"1.." help:"ranks on this host, on the CPU too: the program starts so many copies of itself"`
	Dist    string `flag:"dist" values:"auto,on,off" default:"auto" help:"auto: the ranks that torchrun, mpirun or srun started train together; off: their variables are not read; on: a single rank is a process group, too"`
	Master  string `flag:"master" help:"HOST:PORT of rank 0, where the ranks meet (default: MASTER_ADDR and MASTER_PORT, or what the launcher says)"`
	Backend string `flag:"backend" values:"auto,gloo,nccl" default:"auto" help:"what connects the ranks: nccl between GPUs, gloo between CPUs; auto: as the device needs"`
	Timeout int    `flag:"dist-timeout" default:"300" range:"1..86400" help:"seconds that ranks wait for each other before they take one for lost"`
}

// Launchers, as run.json names them.
const (
	Torchrun    = "torchrun"
	MPI         = "mpi"
	Slurm       = "slurm"
	NumGPUs     = "num_gpus"
	Environment = "environment" // RANK and WORLD_SIZE, set by something else
)

// A World is the ranks of one training as one of them sees them.
type World struct {
	Rank, Size           int    // among all
	LocalRank, LocalSize int    // among those on this host
	Launcher             string // empty for a rank that trains alone
	Restart              int    // how often torchrun has restarted the ranks
	RunID                string // torchrun's id of the job, the same after a restart; "none" for jobs without one
	Agent                string // of torchrun, on this host: the same after a restart, and of no other job; may be empty
	Master               string // HOST:PORT of the store
	Serve                bool   // this rank serves the store
	Prefix               string // of the keys in the store
	Interface            string // GLOO_SOCKET_IFNAME: of the network that Gloo is to use
	Note                 string // something that the user asked for and does not get; rank 0 says it
	Forced               bool   // a process group is wanted for one rank, too

	boundGPU   bool // the launcher shows each rank GPUs of its own
	boundCores bool // the launcher gave each rank cores of its own
}

// Alone reports whether there is nobody to talk to.
func (w *World) Alone() bool { return w.Size == 1 && !w.Forced }

// Env gives the value of a variable of the environment, as os.Getenv does.
type Env func(name string) string

// World reads the environment. Without a launcher, or with one rank, it is a world of size 1.
// Errors are the user's to mend: *settings.UsageError.
func (c Config) World(env Env) (*World, error) {
	if err := settings.Check(&c); err != nil {
		return nil, err
	}
	w := &World{Size: 1, LocalSize: 1}
	launchers := []func(Env) (*World, error){numGPUs, torchrun, openMPI, pmi, slurm}
	if c.Dist == "off" {
		launchers = launchers[:1] // the program's own copies are no surrounding
	}
	for _, find := range launchers {
		found, err := find(env)
		if err != nil {
			return nil, err
		}
		if found != nil {
			w = found
			break
		}
	}
	w.Forced = c.Dist == "on"
	if w.Launcher != "" && w.Launcher != NumGPUs && c.Copies(w) == 0 && c.GPUs > 1 && c.GPUs != w.Size && c.GPUs != w.LocalSize {
		w.Note = fmt.Sprintf("-num_gpus %d is not used: %s started %s", c.GPUs, w.starter(), count(w.Size, "rank"))
	}
	if w.Alone() {
		return w, nil
	}
	w.Interface = env("GLOO_SOCKET_IFNAME")
	w.boundCores = narrower("/proc", os.Getpid(), os.Getppid())
	return w, w.meet(c.Master, env)
}

// narrower reports whether a process may run on fewer cores than the one that started it.
func narrower(proc string, pid, parent int) bool {
	own, all := cores(proc, pid), cores(proc, parent)
	return own > 0 && own < all
}

// cores counts the cores that a process may run on; 0 if that cannot be read.
func cores(proc string, pid int) int {
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	_, mask, _ := strings.Cut(string(text), "Cpus_allowed:")
	mask, _, _ = strings.Cut(mask, "\n")
	n := 0
	for word := range strings.SplitSeq(strings.TrimSpace(mask), ",") {
		bit, err := strconv.ParseUint(word, 16, 64)
		if err != nil {
			return 0
		}
		n += bits.OnesCount64(bit)
	}
	return n
}

// Copies is how many copies of itself the program is to start (see Run): -num_gpus, where no launcher
// has started ranks already, as one that started a single rank has not; else 0. torchrun may have lost the
// others, and starts more when they come back.
func (c Config) Copies(w *World) int {
	if c.GPUs > 1 && w.Size == 1 && w.Launcher != Torchrun {
		return c.GPUs
	}
	return 0
}

// TimeLimit is --dist-timeout.
func (c Config) TimeLimit() time.Duration { return time.Duration(c.Timeout) * time.Second }

// BackendOn is --backend for a device: gloo or nccl.
func (c Config) BackendOn(cuda bool) (string, error) {
	switch {
	case c.Backend == "nccl" && !cuda:
		return "", settings.Usage("--backend nccl connects GPUs: on the CPU use gloo")
	case c.Backend == "gloo" && cuda: // what it brings back to a GPU would be read before it is there
		return "", settings.Usage("--backend gloo connects CPUs: between GPUs use nccl, or train on -device cpu")
	case !cuda:
		return "gloo", nil
	}
	return "nccl", nil
}

// Threads is how many threads of libtorch's operators a rank has, where the user does not say: the
// cores that this process may use, shared by the ranks of this host. mpirun and srun may have bound each
// rank to cores of its own: then it has them all. (OMP_NUM_THREADS, which torchrun sets to 1, says
// nothing about what the user wants.)
func (w *World) Threads(cores int) int {
	if w.LocalSize == 1 || w.boundCores {
		return cores
	}
	return max(1, cores/w.LocalSize)
}

// Device is the device of this rank for -device's value, where gpus are visible to it: cuda and auto
// stand for the GPU of the local rank. A numbered one is taken as it is.
func (w *World) Device(name string, gpus int) (string, error) {
	if w.Alone() || (name != "cuda" && (name != "auto" || gpus == 0)) {
		return name, nil
	}
	if w.boundGPU && gpus > 0 && gpus < w.LocalSize {
		return "cuda:0", nil
	}
	if gpus < w.LocalSize {
		return "", settings.Usage("%s on this host, and %s that libtorch can use: start at most one rank a GPU, or train on -device cpu "+
			"(where each rank sees a GPU of its own as the first: -device cuda:0)", count(w.LocalSize, "rank"), count(gpus, "GPU"))
	}
	return fmt.Sprintf("cuda:%d", w.LocalRank), nil
}

// HostPort is Master in parts.
func (w *World) HostPort() (host string, port int) {
	host, text, _ := net.SplitHostPort(w.Master)
	port, _ = strconv.Atoi(text)
	return host, port
}

// Resolve finds out within a few seconds whether Master's name has an address, and for the rank that
// serves whether the port is free: both end in a time-out of minutes later.
func (w *World) Resolve(ctx context.Context) error {
	host, port, _ := net.SplitHostPort(w.Master)
	limited, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	if _, err := net.DefaultResolver.LookupHost(limited, host); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return settings.Usage("the ranks are to meet at %s, but %s has no address here: name a host that every rank can reach by --master HOST:PORT",
			w.Master, host)
	}
	if !w.Serve {
		return nil
	}
	on := ""
	if loopback(host) { // as package dist listens
		on = host
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(on, port))
	if err != nil {
		return settings.Usage("the ranks are to meet at %s, but rank 0 cannot listen there: %w; name another port by --master HOST:PORT", w.Master, err)
	}
	return l.Close()
}

// numGPUs finds what Run gave a copy.
func numGPUs(env Env) (*World, error) {
	if env(copyMark) == "" {
		return nil, nil
	}
	return variables{env, NumGPUs}.world("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
}

// torchrun finds its variables, or those that something else sets for PyTorch's env:// rendezvous.
func torchrun(env Env) (*World, error) {
	rank, size := env("RANK"), env("WORLD_SIZE")
	if rank == "" && size == "" {
		return nil, nil
	}
	v := variables{env, Environment}
	if env("TORCHELASTIC_RUN_ID") != "" || env("TORCHELASTIC_RESTART_COUNT") != "" {
		v.launcher = Torchrun
	}
	local, locals := "LOCAL_RANK", "LOCAL_WORLD_SIZE"
	if v.launcher == Environment && env(local) == "" && env(locals) == "" {
		// PyTorch wants neither. What is known: ranks that meet on this host are all here.
		if !loopback(env("MASTER_ADDR")) {
			local, locals = "", ""
		} else {
			local, locals = "RANK", "WORLD_SIZE"
		}
	}
	w, err := v.world("RANK", "WORLD_SIZE", local, locals)
	if err != nil {
		return nil, err
	}
	w.RunID = env("TORCHELASTIC_RUN_ID")
	w.Agent = agent(env("TORCHELASTIC_ERROR_FILE"))
	if text := env("TORCHELASTIC_RESTART_COUNT"); text != "" {
		if w.Restart, err = v.number("TORCHELASTIC_RESTART_COUNT", 0); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// agent tells agents of torchrun apart, by the folder of logs that each makes when it starts, under a name that no
// other has: <logs>/<job's id>_<8 characters>/attempt_N/<local rank>/error.json.
func agent(errorFile string) string {
	attempt := filepath.Dir(filepath.Dir(errorFile))
	if !strings.HasPrefix(filepath.Base(attempt), "attempt_") {
		return ""
	}
	return filepath.Base(filepath.Dir(attempt))
}

func openMPI(env Env) (*World, error) {
	if env("OMPI_COMM_WORLD_SIZE") == "" {
		return nil, nil
	}
	return variables{env, MPI}.world("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
}

// pmi finds the variables of MPICH's and Intel's mpirun. Slurm's PMI has the first two only, and
// variables of its own, in a step of one task, too.
func pmi(env Env) (*World, error) {
	ofSlurm := inStep(env) || env("SLURM_STEP_ID") != "" && env("SLURM_STEP_NUM_TASKS") == env("PMI_SIZE")
	if env("PMI_SIZE") == "" || (env("MPI_LOCALNRANKS") == "" && ofSlurm) {
		return nil, nil
	}
	return variables{env, MPI}.world("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
}

// variables are those of one launcher.
type variables struct {
	env      Env
	launcher string
}

// world reads the four numbers. Without the names of the last two the rank is alone on its host.
func (v variables) world(rank, size, localRank, localSize string) (*World, error) {
	w := &World{Launcher: v.launcher, LocalSize: 1}
	var err error
	read := func(into *int, name string, from int) {
		if err == nil && name != "" {
			*into, err = v.number(name, from)
		}
	}
	for _, pair := range [][2]string{{rank, size}, {size, rank}, {localRank, size}, {localSize, size}} {
		if pair[0] != "" && v.env(pair[0]) == "" {
			return nil, settings.Usage("%s=%s is set, but %s is not: start the ranks by torchrun, mpirun, srun or -num_gpus, set it, or train alone by --dist off",
				pair[1], v.env(pair[1]), pair[0])
		}
	}
	read(&w.Size, size, 1)
	read(&w.Rank, rank, 0)
	read(&w.LocalSize, localSize, 1)
	read(&w.LocalRank, localRank, 0)
	switch {
	case err != nil:
		return nil, err
	case w.Rank >= w.Size:
		return nil, settings.Usage("%s=%d and %s=%d: expected a rank below the number of ranks", rank, w.Rank, size, w.Size)
	case w.LocalSize > w.Size:
		return nil, settings.Usage("%s=%d and %s=%d: more ranks on this host than there are", localSize, w.LocalSize, size, w.Size)
	case w.LocalRank >= w.LocalSize:
		return nil, settings.Usage("%s=%d and %s=%d: expected a local rank below the number of ranks on this host", localRank, w.LocalRank, localSize,
			w.LocalSize)
	}
	return w, nil
}

func (v variables) number(name string, from int) (int, error) {
	n, err := strconv.Atoi(v.env(name))
	if err != nil || n < from || n > 1<<20 {
		return 0, settings.Usage("%s: found %q, expected a whole number from %d on; to train alone, whatever is set: --dist off", name, v.env(name), from)
	}
	return n, nil
}

// meet finds where the store is and who serves it.
func (w *World) meet(master string, env Env) error {
	w.Serve = w.Rank == 0
	host, port := env("MASTER_ADDR"), env("MASTER_PORT")
	switch {
	case master != "":
		var err error
		if host, port, err = net.SplitHostPort(master); err != nil || host == "" {
			return settings.Usage("--master: found %q, expected HOST:PORT", master)
		}
		return w.meetAt(host, port, "--master")
	case env("TORCHELASTIC_USE_AGENT_STORE") == "True" && w.Launcher == Torchrun:
		w.Serve = false
		w.Prefix = fmt.Sprintf("/worker/attempt_%d", w.Restart)
	}
	switch w.Launcher {
	case Slurm:
		job := first(env("SLURM_JOB_ID"), env("SLURM_JOBID"))
		if host == "" {
			nodes, err := Nodes(env("SLURM_STEP_NODELIST"))
			if err != nil {
				return settings.Usage("SLURM_STEP_NODELIST: %w; say by --master HOST:PORT where the ranks meet", err)
			}
			host = nodes[0]
		}
		if n, err := strconv.ParseUint(job, 10, 64); port == "" && err == nil {
			port = strconv.FormatUint(20000+n%20000, 10)
		}
	case MPI:
		job := first(env("PMIX_NAMESPACE"), env("OMPI_MCA_ess_base_jobid"))
		if job == "" && w.LocalSize == w.Size {
			job = strconv.Itoa(os.Getppid()) // MPICH names no job: its proxy on this host
		}
		if port == "" && job != "" {
			h := fnv.New32a()
			h.Write([]byte(job))
			port = strconv.FormatUint(20000+uint64(h.Sum32()%20000), 10)
		}
	}
	if host == "" && w.LocalSize == w.Size {
		host = "127.0.0.1"
	}
	if w.Size == 1 && port == "" {
		port = "0" // nobody else needs to know it
	}
	if host == "" || port == "" {
		missing := "MASTER_ADDR and MASTER_PORT are"
		switch {
		case host != "":
			missing = "MASTER_PORT is"
		case port != "":
			missing = "MASTER_ADDR is"
		}
		return settings.Usage("%s of %s, and %s not set: say where the ranks meet, on the host of rank 0, by --master HOST:PORT or these variables",
			count(w.Size, "rank"), w.starter(), missing)
	}
	return w.meetAt(host, port, "MASTER_PORT")
}

func (w *World) meetAt(host, port, source string) error {
	lowest := 1
	if w.Size == 1 {
		lowest = 0
	}
	if n, err := strconv.Atoi(port); err != nil || n < lowest || n > 65535 {
		return settings.Usage("%s: found port %q, expected a number from 1 to 65535", source, port)
	}
	w.Master = net.JoinHostPort(host, port)
	return nil
}

// starter names the launcher in sentences.
func (w *World) starter() string {
	return map[string]string{Torchrun: "torchrun", MPI: "mpirun", Slurm: "srun", NumGPUs: "-num_gpus", Environment: "the environment"}[w.Launcher]
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

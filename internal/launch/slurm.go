package launch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/internal/settings"
)

// inStep reports whether srun started this process with others. A batch script carries the
// variables of its job, SLURM_NTASKS and SLURM_PROCID=0 among them, and is no step of it.
func inStep(env Env) bool {
	n, err := strconv.Atoi(env("SLURM_STEP_NUM_TASKS"))
	return env("SLURM_STEP_ID") != "" && (err != nil || n > 1) && env("SLURM_STEP_NUM_TASKS") != ""
}

func slurm(env Env) (*World, error) {
	if !inStep(env) {
		return nil, nil
	}
	v := variables{env, Slurm}
	tasks, err := tasksPerNode(env("SLURM_STEP_TASKS_PER_NODE"))
	if err != nil {
		return nil, settings.Usage("SLURM_STEP_TASKS_PER_NODE: %w", err)
	}
	node := 0
	if len(tasks) > 1 {
		if node, err = v.number("SLURM_NODEID", 0); err != nil {
			return nil, err
		}
		if node >= len(tasks) {
			return nil, settings.Usage("SLURM_NODEID=%d and SLURM_STEP_TASKS_PER_NODE=%s: expected a node of the step", node, env("SLURM_STEP_TASKS_PER_NODE"))
		}
	}
	here := func(name string) string {
		if name == "SLURM_STEP_TASKS_PER_NODE" {
			return strconv.Itoa(tasks[node])
		}
		return env(name)
	}
	w, err := variables{here, Slurm}.world("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
	if err != nil {
		return nil, err
	}
	w.boundGPU = env("SLURM_GPUS_PER_TASK") != "" || strings.Contains(env("SLURM_TRES_PER_TASK"), "gpu")
	return w, nil
}

// most is how many nodes and tasks a list may have: more than any cluster, little memory.
const most = 1 << 20

// tasksPerNode reads Slurm's "2(x3),1": the number of tasks on each node.
func tasksPerNode(text string) ([]int, error) {
	var tasks []int
	for part := range strings.SplitSeq(text, ",") {
		number, repeat, repeated := strings.Cut(part, "(x")
		times := 1
		n, err := strconv.Atoi(number)
		if repeated && err == nil {
			times, err = strconv.Atoi(strings.TrimSuffix(repeat, ")"))
			if !strings.HasSuffix(repeat, ")") {
				err = strconv.ErrSyntax
			}
		}
		if err != nil || n < 0 || times < 1 || len(tasks)+times > most {
			return nil, fmt.Errorf("found %q, expected numbers as in 2(x3),1", text)
		}
		tasks = append(tasks, slices.Repeat([]int{n}, times)...)
	}
	return tasks, nil
}

// Nodes expands Slurm's list of hosts: "gpu[07-09,12],login" and "rack[1-2]node[01-04]" are the hosts
// that `scontrol show hostnames` prints, in its order.
func Nodes(list string) ([]string, error) {
	bad := fmt.Errorf("found %q, expected a list of hosts as in gpu[07-09,12]", list)
	var nodes []string
	for _, part := range splitOutside(list) {
		names := []string{""}
		for part != "" {
			before, rest, bracket := strings.Cut(part, "[")
			if strings.ContainsAny(before, "] \t") {
				return nil, bad
			}
			numbers := []string{""}
			if bracket {
				inside, after, closed := strings.Cut(rest, "]")
				var ok bool
				if numbers, ok = ranges(inside); !ok || !closed {
					return nil, bad
				}
				rest = after
			}
			part = rest
			if len(names)*len(numbers)+len(nodes) > most {
				return nil, bad
			}
			product := make([]string, 0, len(names)*len(numbers))
			for _, name := range names {
				for _, n := range numbers {
					product = append(product, name+before+n)
				}
			}
			names = product
		}
		if slices.Contains(names, "") {
			return nil, bad
		}
		nodes = append(nodes, names...)
	}
	return nodes, nil
}

// splitOutside splits at commas that are in no brackets.
func splitOutside(list string) []string {
	var parts []string
	depth, start := 0, 0
	for i, c := range list {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == ',' && depth == 0:
			parts = append(parts, list[start:i])
			start = i + 1
		}
	}
	return append(parts, list[start:])
}

// ranges expands "07-09,12"; leading zeros stay.
func ranges(text string) ([]string, bool) {
	var numbers []string
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.ParseUint(from, 10, 32)
		b, errB := strconv.ParseUint(to, 10, 32)
		if errA != nil || errB != nil || a > b || b-a >= most || uint64(len(numbers))+b-a >= most || len(from) > 20 {
			return nil, false
		}
		for n := a; n <= b; n++ {
			numbers = append(numbers, fmt.Sprintf("%0*d", len(from), n))
		}
	}
	return numbers, true
}

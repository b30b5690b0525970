package system

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process reports whether a process of this host runs, and when it was started, in the kernel's ticks
// since boot; 0 where that is not known. One that has ended and waits for its parent to notice does not
// run.
func Process(pid int) (runs bool, start uint64) { return here().other(pid) }

func (m machine) other(pid int) (runs bool, start uint64) {
	err := unix.Kill(pid, 0)
	if err != nil && !errors.Is(err, unix.EPERM) {
		return false, 0
	}
	// pid (name) state …: the name may hold spaces and parentheses. Field 22 is the start.
	text := m.read("/proc/" + strconv.Itoa(pid) + "/stat")
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return true, 0
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return false, 0
	}
	start, _ = strconv.ParseUint(fields[19], 10, 64)
	return true, start
}

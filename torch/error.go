package torch

import (
	"fmt"
	"strings"
)

// Error is a libtorch error of one call.
type Error struct {
	Op     string    // operator, as PyTorch names it
	Shapes [][]int64 // shapes of the tensors given; nil entries are absent optional ones
	Msg    string    // libtorch's message without its C++ backtrace
}

// Error formats e in one line: torch: conv3d([1 4 8 8 8], [2 3 3 3 3]): message.
func (e *Error) Error() string {
	parts := make([]string, len(e.Shapes))
	for i, s := range e.Shapes {
		if s == nil {
			parts[i] = "none"
			continue
		}
		parts[i] = fmt.Sprint(s)
	}
	msg := e.Msg
	if i := strings.Index(msg, "\nException raised from"); i >= 0 {
		msg = msg[:i]
	}
	return fmt.Sprintf("torch: %s(%s): %s", e.Op, strings.Join(parts, ", "), strings.TrimSpace(msg))
}

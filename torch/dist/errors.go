package dist

import (
	"fmt"
	"strings"
	"time"

	"github.com/lntorch/lntorch/internal/brief"
)

// Member is a rank as the others know it.
type Member struct {
	Rank int
	Host string
	PID  int
}

// String is "rank 1 (host b, pid 4711)"; for a rank that nobody has met, "rank 1".
func (m Member) String() string {
	if m.Host == "" {
		return fmt.Sprintf("rank %d", m.Rank)
	}
	return fmt.Sprintf("rank %d (host %s, pid %d)", m.Rank, m.Host, m.PID)
}

func names(members []Member) string {
	list := make([]string, len(members))
	for i, m := range members {
		list[i] = m.String()
	}
	return strings.Join(list, ", ")
}

// Gone is the error of a collective when the connection to a rank has closed: its process or its
// machine has ended.
type Gone struct{ Member }

// Error is "rank 1 (host b, pid 4711) is gone".
func (e *Gone) Error() string { return e.Member.String() + " is gone" }

// TimedOut is the error of a collective when ranks did not answer within the time limit: stopped,
// hanging, or cut off.
type TimedOut struct {
	Members []Member // that did not answer
	Limit   time.Duration
}

// Error names the ranks.
func (e *TimedOut) Error() string {
	verb := "does"
	if len(e.Members) > 1 {
		verb = "do"
	}
	return fmt.Sprintf("%s %s not answer (time limit %v)", names(e.Members), verb, e.Limit)
}

// Absent is Connect's error when ranks did not come within the time limit.
type Absent struct {
	Came    []Member
	Missing []int
	Where   string // host:port of the store, where they were expected
	Limit   time.Duration
}

// Error says which ranks came, and from where.
func (e *Absent) Error() string {
	missing := make([]string, len(e.Missing))
	for i, r := range e.Missing {
		missing[i] = fmt.Sprint(r)
	}
	came := "none came"
	if len(e.Came) > 0 {
		came = "came: " + names(e.Came)
	}
	return fmt.Sprintf("ranks that did not come to %s within %v: %s (%s)", e.Where, e.Limit,
		strings.Join(missing, ", "), came)
}

// Disagree is the error of a collective that the ranks called with different tensors, or when they
// are not at the same call.
type Disagree struct {
	Said []string // by rank
}

// Error lists what each rank has.
func (e *Disagree) Error() string {
	var b strings.Builder
	b.WriteString("ranks disagree:")
	for r, said := range e.Said {
		if r > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " rank %d has %s", r, said)
	}
	return b.String()
}

// Failed is another rank's error.
type Failed struct {
	Member
	Message string
}

// Error is "rank 1 (host b, pid 4711): …".
func (e *Failed) Error() string { return e.Member.String() + ": " + e.Message }

// Left is the error of a collective when a rank has closed its group.
type Left struct{ Member }

// Error is "rank 1 (host b, pid 4711) has ended".
func (e *Left) Error() string { return e.Member.String() + " has ended" }

// NoGradient is Reducer.Wait's error when parameters got no gradient in the backward pass.
type NoGradient struct{ Names []string }

// Error names the parameters.
func (e *NoGradient) Error() string {
	return "no gradient reached " + brief.Join(e.Names, ", ", 8) +
		"; leave parameters out that do not take part in the loss"
}

// A trouble is what ends a group, as it is sent to all ranks.
type trouble struct {
	Kind    string // "gone", "timeout", "absent", "disagree", "failed", "left"
	Members []Member
	Missing []int         `json:",omitempty"`
	Text    string        `json:",omitempty"`
	Said    []string      `json:",omitempty"`
	Limit   time.Duration `json:",omitempty"`
}

func (t *trouble) err() error {
	first := Member{}
	if len(t.Members) > 0 {
		first = t.Members[0]
	}
	switch t.Kind {
	case "gone":
		return &Gone{first}
	case "timeout":
		return &TimedOut{t.Members, t.Limit}
	case "absent":
		return &Absent{t.Members, t.Missing, t.Text, t.Limit}
	case "disagree":
		return &Disagree{t.Said}
	case "left":
		return &Left{first}
	}
	return &Failed{first, t.Text}
}

package peft

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// expression is a regular expression of adapter_config.json. Python's re and Go's regexp differ:
// syntax that both interpret the same way is accepted, the rest is refused.
type expression struct {
	text    string
	literal bool // only letters, digits, "_", "-" and dots: compared without compiling
	cost    int  // approximate steps of the compiled expression per character of a name
	forms   map[string]*regexp.Regexp
}

// Limits on expressions, far above what layer names need.
const (
	maxExpression = 1000  // characters of one expression
	maxCost       = 10000 // cost of one expression, with its repeats expanded
	maxRepeat     = 99    // largest count of one repeat
	maxWork       = 1e8   // total cost of all comparisons for a folder
)

func newExpression(text string) (*expression, error) {
	e := &expression{text: text, literal: true, cost: 1, forms: map[string]*regexp.Regexp{}}
	if len(text) > maxExpression {
		return nil, fmt.Errorf("an expression of %d characters, expected at most %d: %.40q…",
			len(text), maxExpression, text)
	}
	for i := 0; i < len(text); {
		n, repeat, err := commonPart(text[i:])
		if err != nil {
			return nil, fmt.Errorf("%q: %w; name the layers without it, for example by whole names",
				text, err)
		}
		if e.cost *= repeat; e.cost*len(text) > maxCost {
			return nil, fmt.Errorf("%q: it has too many repeats", text)
		}
		if n > 1 || text[i] != '.' && text[i] != '_' && text[i] != '-' && !letter(text[i]) {
			e.literal = false
		}
		i += n
	}
	e.cost *= len(text) + 1
	return e, nil
}

func letter(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

// commonPart returns the length of the first part of an expression, and the most often that it
// repeats what precedes it. It checks that Python and Go interpret the part the same way; whether
// the whole is valid is left to the compiler.
func commonPart(s string) (n, repeat int, err error) {
	switch s[0] {
	case '\\':
		n, err := escape(s)
		return n, 1, err
	case '[':
		n, err := class(s)
		return n, 1, err
	case '(':
		if !strings.HasPrefix(s, "(?") || strings.HasPrefix(s, "(?:") {
			return 1, 1, nil
		}
		return 0, 0, fmt.Errorf("%q of Python's regular expressions is not supported",
			s[:min(3, len(s))])
	case '?':
		return 1, 1, nil // also for "(?:" and lazy repeats, which match the same names
	case '{':
		m := counts.FindStringSubmatch(s)
		if m == nil {
			return 0, 0, errors.New(`"{" is not followed by numbers as in {2} or {1,3}`)
		}
		for _, text := range m[1:] {
			if k, _ := strconv.Atoi(text); k > maxRepeat {
				return 0, 0, fmt.Errorf("it repeats %d times, expected at most %d", k, maxRepeat)
			} else if k > repeat {
				repeat = k
			}
		}
		return len(m[0]), max(repeat, 1), nil
	}
	if s[0] < ' ' || s[0] > '~' {
		return 0, 0, errors.New("it has a non-ASCII character")
	}
	return 1, 1, nil
}

var counts = regexp.MustCompile(`^\{(\d{1,9})(?:,(\d{0,9}))?\}`)

// escape returns the length of a part that begins with a backslash.
func escape(s string) (int, error) {
	if len(s) < 2 || s[1] < ' ' || s[1] > '~' ||
		letter(s[1]) && !strings.ContainsRune("dDwWsSbBA", rune(s[1])) {
		return 0, fmt.Errorf("%q of Python's regular expressions is not supported",
			s[:min(2, len(s))])
	}
	return 2, nil
}

// class returns the length of a bracket expression.
func class(s string) (int, error) {
	i := 1
	if strings.HasPrefix(s[i:], "^") {
		i++
	}
	for first := true; i < len(s); first = false {
		switch {
		case s[i] == ']' && !first:
			return i + 1, nil
		case s[i] == '[':
			return 0, errors.New(`"[" within brackets is not supported`)
		case s[i] < ' ' || s[i] > '~':
			return 0, errors.New("it has a non-ASCII character")
		case s[i] == '\\':
			n, err := escape(s[i:])
			if err != nil {
				return 0, err
			}
			i += n
		default:
			i++
		}
	}
	return 0, errors.New(`"[" is not closed`)
}

// matcher matches layer names against expressions and limits the total work, against hostile
// folders.
type matcher struct{ work int }

var errWork = errors.New("it has too many patterns and layers to compare")

func (m *matcher) spend(n int) error {
	if m.work += n; m.work > maxWork {
		return errWork
	}
	return nil
}

// match returns the groups of before+e+after matched at the start of name, which is ASCII, as
// Python's re.match does; nil for no match.
func (m *matcher) match(e *expression, before, after, name string) ([]string, error) {
	re := e.forms[before]
	if re == nil {
		if err := m.spend(100 * e.cost); err != nil {
			return nil, err
		}
		_, err := regexp.Compile(e.text) // alone first: its brackets must be balanced
		if err == nil {
			re, err = regexp.Compile("^(?:" + before + e.text + after + ")")
		}
		if err != nil {
			return nil, fmt.Errorf("%q is not a supported regular expression; name the layers "+
				"without it", e.text)
		}
		e.forms[before] = re
	}
	if err := m.spend(20 * e.cost * (len(name) + 1)); err != nil {
		return nil, err
	}
	return re.FindStringSubmatch(name), nil
}

// full implements Python's re.fullmatch.
func (m *matcher) full(e *expression, name string) (bool, error) {
	found, err := m.match(e, "(?:", ")$", name)
	return found != nil, err
}

// ends matches a key of rank_pattern or alpha_pattern. Up to PEFT 0.14 this is
// re.match(rf".*\.{key}$", name), whose ".*\." and "$" belong to the first and the last alternative
// of the key and which needs something before the key; later it is re.match(rf"(.*\.)?({key})$",
// name).
func (m *matcher) ends(e *expression, name string, old bool) (bool, error) {
	if e.literal {
		return m.literalEnd(e.text, name, old)
	}
	if old {
		found, err := m.match(e, `.*\.`, "$", name)
		return found != nil, err
	}
	found, err := m.match(e, `(.*\.)?(`, ")$", name)
	return found != nil, err
}

// literalEnd is ends for a key whose only special character is the dot, which matches any
// character.
func (m *matcher) literalEnd(key, name string, old bool) (bool, error) {
	if err := m.spend(len(key) + 1); err != nil {
		return false, err
	}
	at := len(name) - len(key)
	if at < 0 || old && at == 0 || at > 0 && name[at-1] != '.' {
		return false, nil
	}
	for i := range len(key) {
		if key[i] != '.' && key[i] != name[at+i] {
			return false, nil
		}
	}
	return true, nil
}

package pipeline

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lntorch/lntorch/internal/settings"
)

// heldOutNames are the cases that --val names, nil if it is a number or auto.
func (k *caseChecker) heldOutNames() []string {
	if _, err := strconv.Atoi(k.Val); err == nil || k.Val == "" || k.Val == "auto" {
		return nil
	}
	var names []string
	for _, name := range strings.Split(k.Val, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// drawKey orders cases for drawing: by the sha256 of "SEED/CASE", so that what is drawn depends on
// nothing but the seed and the names, and more cases are a few and others.
func drawKey(seed uint64, name string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%s", seed, name))
	return string(sum[:])
}

// assign says what the good cases of --cases are for. Of those that nothing names the first are
// held out, and the next are trained on, in the order of drawKey: so with another --shots the same
// are held out, and more shots are the fewer and others.
func (k *caseChecker) assign(list []AdaptCase) error {
	var pool []*AdaptCase
	test := 0
	for i := range list {
		switch c := &list[i]; c.Role {
		case RoleTrain:
			pool = append(pool, c)
		case RoleTest:
			test++
		}
	}
	slices.SortFunc(pool, func(a, b *AdaptCase) int {
		return cmp.Compare(drawKey(k.DrawSeed, a.Case), drawKey(k.DrawSeed, b.Case))
	})
	all := len(pool)
	names := k.heldOutNames()
	n := 0
	switch {
	case names != nil:
		for _, name := range names {
			at := slices.IndexFunc(pool, func(c *AdaptCase) bool { return c.Case == name })
			if at < 0 {
				return k.noSuchCase(name, list)
			}
			pool[at].Role = RoleVal
			pool = slices.Delete(pool, at, at+1)
		}
	case cmp.Or(k.Val, "auto") == "auto":
		if test == 0 && all >= 4 {
			n = max(1, int(math.Round(float64(all)/5)))
		}
	default:
		var err error
		if n, err = strconv.Atoi(k.Val); err != nil || n < 0 || strings.HasPrefix(k.Val, "+") {
			return settings.Usage("--val %s: expected auto, a number of cases, or names of cases",
				k.Val)
		}
	}
	if n > 0 && n >= all {
		return settings.Usage("--val %d: there are %d cases, and none would be left to train on", n,
			all)
	}
	for _, c := range pool[:n] {
		c.Role = RoleVal
	}
	pool = pool[n:]
	if len(pool) == 0 {
		return settings.Usage("--val %s: no case is left to train on", k.Val)
	}
	if k.Shots > len(pool) {
		return settings.Usage("--shots %d: there are %d cases to train on, %d are held out",
			k.Shots, len(pool), all-len(pool))
	}
	if k.Shots > 0 {
		for _, c := range pool[k.Shots:] {
			c.Role = ""
			c.Warnings = append(c.Warnings, fmt.Sprintf("not used: --shots %d", k.Shots))
		}
	}
	if held := all - n; n == 0 && test == 0 && names == nil && held > 0 {
		k.out.Printf("of %d cases none is held out: scores of the adapted model cannot be had", all)
	}
	return nil
}

// noSuchCase is the error of a name in --val.
func (k *caseChecker) noSuchCase(name string, list []AdaptCase) error {
	var names []string
	for _, c := range list {
		if c.Case != name {
			if c.Role == RoleTrain {
				names = append(names, c.Case)
			}
			continue
		}
		switch {
		case c.Role == RoleTest:
			return settings.Usage("--val %s: this case is of the test set already", name)
		case c.Role == RoleVal:
			return settings.Usage("--val: %s is there twice", name)
		}
		return settings.Usage("--val %s: this case cannot be used: %s", name,
			strings.Join(c.Problems, "; "))
	}
	return settings.Usage("--val %s: no case of that name, there are %s", name, several(names))
}

// refuseDuplicates refuses cases of which one is trained on and another one scored, or held out in
// two ways, and that have the same image or the same labels, voxel for voxel: scores would praise
// what the model has seen. Duplicates of one role are told.
func refuseDuplicates(list []AdaptCase, o Output) error {
	var lines []string
	for _, by := range []struct {
		what string
		hash func(*AdaptCase) string
	}{
		{"the same image", func(c *AdaptCase) string { return c.imageHash }},
		{"the same labels", func(c *AdaptCase) string {
			if c.emptyLabel { // as many another one
				return ""
			}
			return c.labelHash
		}},
	} {
		first := map[string][]*AdaptCase{}
		for i := range list {
			c := &list[i]
			hash := by.hash(c)
			if hash == "" || c.Role == "" {
				continue
			}
			for _, other := range first[hash] {
				if other.Role == c.Role {
					o.Printf("WARNING: cases %s and %s have %s", other.Case, c.Case, by.what)
					continue
				}
				if by.what != "the same image" && other.imageHash == c.imageHash {
					continue // told already
				}
				lines = append(lines, fmt.Sprintf("  %s (%s, %s) and %s (%s, %s) have %s",
					other.Case, other.Role, shownFile(other),
					c.Case, c.Role, shownFile(c), by.what))
			}
			first[hash] = append(first[hash], c)
		}
	}
	if lines == nil {
		return nil
	}
	const most = 20
	if n := len(lines) - most; n > 0 {
		lines = append(lines[:most], fmt.Sprintf("  and %d more", n))
	}
	return errors.New("cases that are held out are also among the others, voxel for voxel:\n" +
		strings.Join(lines, "\n") +
		"\ntake one of each pair away, or hold out both with --val CASE,CASE")
}

func shownFile(c *AdaptCase) string {
	if len(c.Image) == 0 {
		return c.Label
	}
	return c.Image[0]
}

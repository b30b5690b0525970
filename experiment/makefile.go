package experiment

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lntorch/lntorch/pipeline"
)

// Makefile writes the grid as a Makefile for the experiment's folder: a target for each run, all, and the
// table. args are flags that every call of the program needs besides FILE and -o.
func (p *Plan) Makefile(args []string) (string, error) {
	file, err := filepath.Abs(p.File.Path)
	if err != nil {
		return "", err
	}
	words := append([]string{file, "-o", p.Dir}, args...)
	for i, w := range words {
		if strings.ContainsAny(w, "\n\r") {
			return "", fmt.Errorf("found a line end in %q, which a Makefile cannot have", w)
		}
		words[i] = strings.ReplaceAll(pipeline.Quoted(w), "$", "$$")
	}
	call := strings.Join(words, " ")
	var b strings.Builder
	fmt.Fprintf(&b, "# %d runs of %s, made by lntorch experiment plan --make.\n", len(p.Runs), comment(p.File.Name))
	fmt.Fprintf(&b, "# make -C %s -j4 -f THIS_FILE; -k goes on behind a run that fails, -n lists what is missing.\n",
		comment(p.Dir))
	b.WriteString("LNTORCH ?= lntorch\n\n.PHONY: all table\nall: table\n\nRUNS :=")
	for _, r := range p.Runs {
		fmt.Fprintf(&b, " \\\n\t%s", target(r))
	}
	b.WriteString("\n\n")
	for _, r := range p.Runs {
		fmt.Fprintf(&b, "# %s\n%s:\n\t$(LNTORCH) experiment run %s --only key=%s\n", comment(r.What()), target(r), call, r.Key)
	}
	fmt.Fprintf(&b, "\ntable: $(RUNS)\n\t$(LNTORCH) experiment table %s\n", call)
	return b.String(), nil
}

func target(r *Run) string { return RunsFolder + "/" + r.Key + "/" + DoneFile }

// comment is text behind a #: a backslash at its end would go on in the next line.
func comment(text string) string {
	return strings.TrimRight(strings.Map(func(c rune) rune {
		if c == '\n' || c == '\r' {
			return ' '
		}
		return c
	}, text), `\`)
}

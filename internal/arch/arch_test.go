package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lntorch/lntorch/models"
)

const module = "github.com/lntorch/lntorch"

// A pkg is a package of the module, from go list and its files. Paths of the module's own packages
// are relative.
type pkg struct {
	path  string
	deps  []string // direct and indirect imports, without those of tests
	files []file
}

type file struct {
	name string // relative to the module
	text []byte
	ast  *ast.File
}

func (f file) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

// imports maps the local name of each import of the file to its path.
func (f file) imports() map[string]string {
	names := map[string]string{}
	for _, spec := range f.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		name := path.Base(p)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = p
	}
	return names
}

// relative strips the module path; other paths are returned unchanged.
func relative(importPath string) string { return strings.TrimPrefix(importPath, module+"/") }

func own(importPath string) bool { return strings.HasPrefix(importPath, module+"/") }

func standard(importPath string) bool {
	return !strings.Contains(strings.Split(importPath, "/")[0], ".")
}

// match reports whether pattern covers p: p itself, or with "/..." also what is below it.
func match(pattern, p string) bool {
	base, below := strings.CutSuffix(pattern, "/...")
	return p == base || below && strings.HasPrefix(p, base+"/")
}

func matchAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return match(pattern, p) })
}

func find(p string) (Rule, bool) {
	for _, r := range Rules {
		if match(r.Path, p) {
			return r, true
		}
	}
	return Rule{}, false
}

// load lists the module's packages, with every Go file in their folders regardless of build tags.
func load(t *testing.T) (packages []pkg, fset *token.FileSet) {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	cmd := exec.Command("go", "list", "-e", "-tags", "gotorch", "-json=ImportPath,Dir,Deps",
		"./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go list")

	fset = token.NewFileSet()
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var listed struct {
			ImportPath, Dir string
			Deps            []string
		}
		if err := decoder.Decode(&listed); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		p := pkg{path: relative(listed.ImportPath)}
		for _, d := range listed.Deps {
			p.deps = append(p.deps, relative(d))
		}
		names, err := filepath.Glob(filepath.Join(listed.Dir, "*.go"))
		require.NoError(t, err)
		for _, name := range names {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			parsed, err := parser.ParseFile(fset, name, text, parser.ParseComments)
			require.NoError(t, err)
			short, err := filepath.Rel(root, name)
			require.NoError(t, err)
			p.files = append(p.files, file{filepath.ToSlash(short), text, parsed})
		}
		packages = append(packages, p)
	}
	require.NotEmpty(t, packages)
	return packages, fset
}

// importFault returns what is wrong with one import, or "".
func importFault(from Rule, fromPath, importPath string, test bool) string {
	to := relative(importPath)
	switch {
	case importPath == "C" || importPath == "unsafe":
		if !slices.Contains(Unsafe, fromPath) {
			return fmt.Sprintf("only %s may", strings.Join(Unsafe, ", "))
		}
		return ""
	case standard(importPath):
		return ""
	case !test && matchAny(TestSupport, to) && !strings.HasPrefix(fromPath, "internal/"):
		return "only tests may"
	case test && matchAny(TestSupport, to):
		return ""
	case !own(importPath):
		for pattern, users := range Modules {
			if match(pattern, importPath) {
				if matchAny(users, fromPath) {
					return ""
				}
				return fmt.Sprintf("only %s may; see Modules in internal/arch",
					strings.Join(users, ", "))
			}
		}
		return "this module is not in Modules in internal/arch"
	}

	rule, ok := find(to)
	switch {
	case !ok:
		return "it has no entry in Rules in internal/arch"
	case test && rule.Level <= from.Level, to == fromPath:
		return ""
	case matchAny(from.Also, to), match(from.Path, to) && from.Only == nil && from.Also == nil:
		return ""
	case from.Only != nil && !matchAny(from.Only, to):
		return fmt.Sprintf("%s may import only %v of the module", from.Path, from.Only)
	case from.Only == nil && rule.Level >= from.Level:
		return fmt.Sprintf("%s is of level %d, %s of level %d: imports go to lower levels only",
			from.Path, from.Level, to, rule.Level)
	}
	return ""
}

func TestLevels(t *testing.T) {
	packages, fset := load(t)
	for _, p := range packages {
		rule, ok := find(p.path)
		if !ok {
			t.Errorf("%s: no entry in Rules in internal/arch/arch.go: give it a level", p.path)
			continue
		}
		if slices.Contains(BadNames, path.Base(p.path)) {
			t.Errorf("%s: the name says nothing about what is in it", p.path)
		}
		if rule.NoTorch && slices.Contains(p.deps, "torch") {
			t.Errorf("%s: imports torch, directly or not; it must work without", p.path)
		}
		for _, f := range p.files {
			for _, spec := range f.ast.Imports {
				importPath, _ := strconv.Unquote(spec.Path.Value)
				if fault := importFault(rule, p.path, importPath, f.isTest()); fault != "" {
					t.Errorf("%s: import %q: %s", fset.Position(spec.Pos()), importPath, fault)
				}
			}
		}
	}
}

func TestLevelsAreRefusedWhenBroken(t *testing.T) {
	for _, c := range []struct {
		from, imported string
		test, allowed  bool
	}{
		{"models", module + "/torch/nn", false, true},
		{"torch", module + "/models", false, false},
		{"train", module + "/finetune", false, true},
		{"train", module + "/dgst", false, false},
		{"finetune", module + "/dgst", false, false},
		{"data/loader", module + "/data/dataset", false, true},
		{"data/dataset", module + "/data/loader", false, false},
		{"models", module + "/checkpoint", false, false},
		{"models", module + "/checkpoint", true, true},
		{"models", module + "/train", true, false},
		{"models", "unsafe", false, false},
		{"torch", "C", false, true},
		{"eval", "github.com/stretchr/testify/require", false, false},
		{"eval", "github.com/stretchr/testify/require", true, true},
		{"eval", "github.com/spf13/viper", false, false},
		{"cmd/lntorch", "github.com/spf13/viper", false, true},
		{"cmd/lntorch", "example.com/unheard/of", false, false},
		{"torch/interop", "github.com/wangkuiyi/gotorch", false, true},
		{"torch", "github.com/wangkuiyi/gotorch", false, false},
		{"models", module + "/internal/golden", false, false},
	} {
		rule, ok := find(c.from)
		require.True(t, ok, c.from)
		fault := importFault(rule, c.from, c.imported, c.test)
		require.Equal(t, c.allowed, fault == "", "%s imports %s: %q", c.from, c.imported, fault)
	}
}

// The training loop and the program reach methods through the registry: they import their packages
// only for registration.
func TestMethodsAreReachedThroughTheRegistry(t *testing.T) {
	packages, _ := load(t)
	found := 0
	for _, p := range packages {
		if p.path != "train" && !match("cmd/...", p.path) {
			continue
		}
		for _, f := range p.files {
			for _, spec := range f.ast.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				require.NoError(t, err)
				if f.isTest() || !slices.Contains(Methods, relative(path)) {
					continue
				}
				found++
				require.True(t, spec.Name != nil && spec.Name.Name == "_",
					"%s imports %s by name; package finetune has its hooks and registry", f.name,
					path)
			}
		}
	}
	require.Equal(t, len(Methods), found)
}

// networkNames finds string constants and identifiers of package models that name one network.
func networkNames(f file, names []string) (found []ast.Node, which []string) {
	has := func(n ast.Node, text string) {
		if i := slices.IndexFunc(names,
			func(name string) bool { return strings.Contains(text, name) }); i >= 0 {
			found, which = append(found, n), append(which, names[i])
		}
	}
	imports := f.imports()
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				has(n, n.Value)
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && imports[x.Name] == module+"/models" {
				has(n, n.Sel.Name)
			}
		}
		return true
	})
	return found, which
}

// A network is one file: everything else that the program needs to know about it is in its registry
// entry.
func TestNetworksAreReachedThroughTheRegistry(t *testing.T) {
	packages, fset := load(t)
	names := append(models.Classes(), NetworkNames...)
	inModels := 0
	for _, p := range packages {
		for _, f := range p.files {
			if f.isTest() {
				continue
			}
			found, which := networkNames(f, names)
			if p.path == "models" {
				inModels += len(found)
			}
			for i, n := range found {
				if !matchAny(NetworkNamesIn, p.path) && !slices.Contains(NetworkNamesIn, f.name) {
					t.Errorf(
						"%s: %s is a fact of one network: package models has it in the registry",
						fset.Position(n.Pos()), which[i])
				}
			}
		}
	}
	require.Greater(t, inModels, len(names))
}

func TestNetworkNamesAreFound(t *testing.T) {
	text := "package train\nimport nets \"github.com/lntorch/lntorch/models\"\n" +
		"// PlainConvUNet may stand in a comment.\n" +
		"var a, b = nets.PlainConvUNet{}, \"module.\" + \"decoder.seg_layers.0\"\nvar c = nets.Canonical(`out.conv`)"
	parsed, err := parser.ParseFile(token.NewFileSet(), "train.go", text, 0)
	require.NoError(t, err)
	_, which := networkNames(file{ast: parsed}, append(models.Classes(), NetworkNames...))
	require.Equal(t, []string{"PlainConvUNet", "seg_layers"}, which)
}

// exempt reports whether a call is allowed in this file.
func exempt(c Call, p pkg, f file) bool {
	for _, e := range c.Except {
		switch e {
		case "main":
			if f.ast.Name.Name == "main" {
				return true
			}
		case "_test.go":
			if f.isTest() {
				return true
			}
		default:
			if match(e, p.path) || e == f.name {
				return true
			}
		}
	}
	return false
}

func forbidden(p pkg, f file) (found []ast.Node, calls []Call) {
	imports := f.imports()
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		for _, c := range Calls {
			if sel.Sel.Name == c.Name && imports[x.Name] == c.Package && !exempt(c, p, f) {
				found, calls = append(found, n), append(calls, c)
			}
		}
		return true
	})
	return found, calls
}

func TestForbiddenCalls(t *testing.T) {
	packages, fset := load(t)
	for _, p := range packages {
		for _, f := range p.files {
			found, calls := forbidden(p, f)
			for i, n := range found {
				t.Errorf("%s: %s.%s: %s", fset.Position(n.Pos()), calls[i].Package, calls[i].Name,
					calls[i].Why)
			}
		}
	}
}

func TestForbiddenCallsAreFound(t *testing.T) {
	text := "package loss\nimport (\n\"runtime\"\nenv \"os\"\n)\n" +
		"func f(x *int) { runtime.SetFinalizer(x, nil); _ = env.Getenv(\"A\"); runtime.GC() }"
	parsed, err := parser.ParseFile(token.NewFileSet(), "loss.go", text, 0)
	require.NoError(t, err)
	_, calls := forbidden(pkg{path: "loss"}, file{name: "loss/loss.go", ast: parsed})
	require.Len(t, calls, 2)
	require.Equal(t, "SetFinalizer", calls[0].Name)
	require.Equal(t, "Getenv", calls[1].Name)
}

// exported reports whether a function or method is part of the package's API.
func exported(d *ast.FuncDecl) bool {
	if !d.Name.IsExported() || d.Recv == nil {
		return d.Name.IsExported()
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

// standardMethods need no comment: they implement interfaces of the standard library.
var standardMethods = []string{"Error", "Unwrap", "String", "Close", "Len", "Less", "Swap", "Read",
	"Write", "MarshalJSON", "UnmarshalJSON"}

func TestExportedThingsAreDocumented(t *testing.T) {
	packages, fset := load(t)
	for _, p := range packages {
		described, sources := false, 0
		for _, f := range p.files {
			if f.isTest() {
				continue
			}
			sources++
			described = described || f.ast.Doc != nil
			if f.ast.Name.Name == "main" {
				continue
			}
			for _, d := range f.ast.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Doc == nil && exported(d) && (d.Recv == nil ||
						!slices.Contains(standardMethods, d.Name.Name)) {
						t.Errorf("%s: %s has no doc comment", fset.Position(d.Pos()), d.Name.Name)
					}
				case *ast.GenDecl:
					for _, s := range d.Specs {
						switch s := s.(type) {
						case *ast.TypeSpec:
							if s.Name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
								t.Errorf("%s: %s has no doc comment", fset.Position(s.Pos()),
									s.Name.Name)
							}
						case *ast.ValueSpec:
							if s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
								t.Errorf("%s: %s has no doc comment", fset.Position(s.Pos()),
									s.Names[0].Name)
							}
						}
					}
				}
			}
		}
		if sources > 0 && !described {
			t.Errorf("%s: no package comment", p.path)
		}
	}
}

// Golden files that no script writes any more could not be checked by anybody.
func TestMakeGoldenRunsEveryScript(t *testing.T) {
	root := "../.."
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	require.NoError(t, err)
	_, recipe, found := strings.Cut(string(text), "\ngolden:")
	require.True(t, found, "the Makefile has no target golden")
	recipe, _, _ = strings.Cut(recipe, "\n\n")
	var run []string
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:PYTHONPATH=\S+ )?run (\S+\.py)`).FindAllStringSubmatch(recipe,
		-1) {
		run = append(run, m[1])
	}
	require.NotEmpty(t, run)

	scripts, err := filepath.Glob(filepath.Join(root, "scripts", "golden", "*.py"))
	require.NoError(t, err)
	var python strings.Builder
	var names []string
	for _, s := range scripts {
		names = append(names, filepath.Base(s))
		text, err := os.ReadFile(s)
		require.NoError(t, err)
		python.Write(text)
	}
	packages, _ := load(t)
	var tests strings.Builder
	for _, p := range packages {
		for _, f := range p.files {
			if f.isTest() || p.path == "internal/golden" {
				tests.Write(f.text)
			}
		}
	}

	listed := slices.Concat(run, LiveScripts, SharedScripts)
	for _, name := range names {
		require.Contains(t, listed, name,
			"scripts/golden/%s: make golden does not run it; add it there, or to the lists in internal/arch", name)
	}
	for _, name := range listed {
		require.Contains(t, names, name, "there is no scripts/golden/%s", name)
	}
	for _, name := range LiveScripts {
		require.NotContains(t, run, name)
		require.Contains(t, tests.String(), `"`+name+`"`, "no test runs %s", name)
	}
	for _, name := range SharedScripts {
		require.NotContains(t, run, name)
		require.Regexp(t, `(?m)^\s*(import|from) `+strings.TrimSuffix(name, ".py")+`\b`,
			python.String(), "no script imports %s", name)
	}
}

func TestGofmt(t *testing.T) {
	packages, _ := load(t)
	for _, p := range packages {
		for _, f := range p.files {
			formatted, err := format.Source(f.text)
			require.NoError(t, err, f.name)
			if !bytes.Equal(formatted, f.text) {
				t.Errorf("%s: not as gofmt writes it; run make fmt", f.name)
			}
		}
	}
}

func TestVet(t *testing.T) {
	if testing.Short() {
		t.Skip("go vet compiles everything; not with -short")
	}
	cmd := exec.Command("go", "vet", "./...")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

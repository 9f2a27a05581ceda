package holdfast_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "holdfast"

// source is one Go file.
type source struct {
	path string // from the module's root, with slashes
	fset *token.FileSet
	file *ast.File
}

func (s source) folder() string { return path.Dir(s.path) }
func (s source) test() bool     { return strings.HasSuffix(s.path, "_test.go") }

// at is where a node stands, as an editor takes it.
func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(n.Pos()).Line)
}

// breach is a broken rule, told so that nobody has to read this file to mend it.
type breach struct {
	at   string
	what string
	why  string // the rule
	do   string
}

func (b breach) String() string {
	return fmt.Sprintf("%s: %s\n  Rule: %s.\n  Do: %s.", b.at, b.what, b.why, b.do)
}

// fence says to whom an engine belongs.
type fence struct {
	module  string // and every package below it
	folders string // as in room.ours
	tests   bool   // only tests and *test folders, anywhere
}

func parseSource(name string, text []byte) (source, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	return source{path: name, fset: fset, file: f}, err
}

// walkTree calls visit for each file that belongs to this module, and not to git, to a build or to a module of its own.
func walkTree(root string, visit func(name string, text []byte) error) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.ToSlash(p)
		if d.IsDir() {
			switch _, err := os.Stat(filepath.Join(p, "go.mod")); {
			case name != "." && strings.HasPrefix(d.Name(), "."), d.Name() == "testdata", name == "bin", name != root && err == nil:
				return fs.SkipDir
			}
			return nil
		}
		if ext := path.Ext(name); ext != ".go" && ext != ".md" {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return visit(name, text)
	})
}

func readTree(t *testing.T, root string) []source {
	t.Helper()
	var tree []source
	err := walkTree(root, func(name string, text []byte) error {
		if path.Ext(name) != ".go" {
			return nil
		}
		s, err := parseSource(name, text)
		tree = append(tree, s)
		return err
	})
	if err != nil {
		t.Fatalf("read the tree: %v", err)
	}
	return tree
}

// layoutBreaches holds a tree against every rule, in the order of the files.
func layoutBreaches(tree []source) []breach {
	var found []breach
	for _, s := range tree {
		found = append(found, roomBreaches(s)...)
		found = append(found, fenceBreaches(s)...)
		found = append(found, driverBreaches(s)...)
		if r, ok := roomOf(s.folder()); ok && !s.test() && (r.pure || r.folder == "sim") {
			found = append(found, effectBreaches(s)...)
			if r.pure {
				found = append(found, worldBreaches(s)...)
			}
		}
	}
	found = append(found, nameBreaches(tree)...)
	found = append(found, docBreaches(tree)...)
	slices.SortStableFunc(found, func(a, b breach) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.what, b.what)) })
	return found
}

// imports calls f with the path of each import.
func (s source) imports(f func(spec *ast.ImportSpec, name string)) {
	for _, spec := range s.file.Imports {
		if name, err := strconv.Unquote(spec.Path.Value); err == nil {
			f(spec, name)
		}
	}
}

// covers says whether a list such as "a b/..." names a folder.
func covers(list, folder string) bool {
	return slices.ContainsFunc(strings.Fields(list), func(one string) bool {
		if all, ok := strings.CutSuffix(one, "/..."); ok {
			return folder == all || strings.HasPrefix(folder, all+"/")
		}
		return folder == one
	})
}

// roomOf gives the row of the table that a folder belongs to: the longest that is the folder or lies above it.
func roomOf(folder string) (room, bool) {
	best, ok := room{}, false
	for _, r := range rooms {
		if covers(r.folder+"/...", folder) && (!ok || len(r.folder) > len(best.folder)) {
			best, ok = r, true
		}
	}
	return best, ok
}

// roomBreaches are imports of our own packages that the room's row does not allow.
func roomBreaches(s source) []breach {
	r, ok := roomOf(s.folder())
	if !ok {
		return []breach{{at: s.path, what: "the folder " + s.folder() + " has no row in the table of rooms",
			why: "every folder with code says first who may import it and whom it may import",
			do:  "add a row to rooms in layout_test.go (is it a new room, or does it belong into one that exists?)"}}
	}
	if s.test() {
		return nil // tests may use what they need; engines and drivers stay fenced for them too
	}
	var found []breach
	s.imports(func(spec *ast.ImportSpec, name string) {
		target, ours := strings.CutPrefix(name, modulePath+"/")
		if !ours || covers(r.ours, target) {
			return
		}
		if its, ok := roomOf(target); ok && its.folder == r.folder {
			return
		}
		found = append(found, breach{at: s.at(spec), what: fmt.Sprintf("%s imports %s", s.folder(), target), why: r.why,
			do: "let the caller hand in what is needed (a value, or an interface declared in " + s.folder() + "); or, if the rule is wrong, change its row in layout_test.go and say why in the commit"})
	})
	return found
}

// fenceBreaches are imports of other people's modules outside the folder that they belong to.
func fenceBreaches(s source) []breach {
	var found []breach
	s.imports(func(spec *ast.ImportSpec, name string) {
		first, _, _ := strings.Cut(name, "/")
		if !strings.Contains(first, ".") {
			return // the standard library, or ours
		}
		i := slices.IndexFunc(fences, func(f fence) bool { return covers(f.module+"/...", name) })
		if i < 0 {
			found = append(found, breach{at: s.at(spec), what: "imports " + name + ", which belongs to no room",
				why: "each engine belongs to one room, so that it can be replaced in one folder",
				do:  "do without it, or add it to fences in layout_test.go with the one folder that needs it, and say in the commit what it replaces and brings along"})
			return
		}
		r, _ := roomOf(s.folder())
		switch f := fences[i]; {
		case r.std && !s.test() && f.module != "golang.org/x/sys":
			found = append(found, breach{at: s.at(spec), what: s.folder() + " imports " + name, why: r.why, do: "do without it here"})
		case f.tests:
			if !s.test() && !strings.HasSuffix(s.folder(), "test") {
				found = append(found, breach{at: s.at(spec), what: "imports " + name + " outside tests",
					why: f.module + " is a tool of tests and must not be linked into the program",
					do:  "move the code into a _test.go file or a folder whose name ends in \"test\""})
			}
		case !covers(f.folders, s.folder()):
			found = append(found, breach{at: s.at(spec), what: s.folder() + " imports " + name,
				why: f.module + " is known to " + f.folders + " alone",
				do:  "ask that room for what you need, through its own types"})
		}
	})
	return found
}

// driverBreaches are imports of drivers by anybody but who puts hosts together.
func driverBreaches(s source) []breach {
	var found []breach
	s.imports(func(spec *ast.ImportSpec, name string) {
		target, ours := strings.CutPrefix(name, modulePath+"/")
		if !ours {
			return
		}
		i := slices.IndexFunc(driverFolders, func(d string) bool { return covers(d+"/...", target) })
		if i < 0 || covers(driverReaders, target) || covers(driverUsers, s.folder()) || covers(driverFolders[i]+"/...", s.folder()) {
			return
		}
		if s.test() && path.Dir(driverFolders[i]) == path.Dir(s.folder()) {
			return // tests of a driver beside it, or of the room
		}
		found = append(found, breach{at: s.at(spec), what: fmt.Sprintf("%s imports the driver %s", s.folder(), target),
			why: "a driver is known only to who puts a host together: " + driverUsers,
			do:  "declare the interface that is needed and let internal/host hand the driver in; in a test, use the room's fake"})
	})
	return found
}

// world are the packages of the standard library through which code touches something: exactly, or with all below.
const world = "os/... net/http/... net net/mail net/rpc/... net/smtp net/textproto syscall/... log/... math/rand/... crypto/rand crypto/tls database/sql/... io/ioutil plugin"

// worldBreaches are a pure room's imports of what does I/O or rolls dice.
func worldBreaches(s source) []breach {
	var found []breach
	s.imports(func(spec *ast.ImportSpec, name string) {
		if !covers(world, name) && !covers("golang.org/x/sys/... golang.org/x/sync/...", name) {
			return
		}
		found = append(found, breach{at: s.at(spec), what: s.folder() + " imports " + name,
			why: "a room that judges touches nothing: equal arguments, equal answer, in the agent, in a dry run and in the simulator",
			do:  "take what is needed as an argument and return reasons instead of logging them; effects live in the room's driver folders"})
	})
	return found
}

// clockCalls are the functions of package time that read a clock or wait for one.
var clockCalls = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

// contextClocks are the functions of package context that do.
var contextClocks = []string{"WithTimeout", "WithTimeoutCause", "WithDeadline", "WithDeadlineCause"}

// effectBreaches are real clocks and goroutines.
func effectBreaches(s source) []breach {
	const why = "a decision, and the simulated world, know only the time that they are told, and run in one goroutine"
	var found []breach
	clocks := map[string][]string{}
	s.imports(func(spec *ast.ImportSpec, name string) {
		calls := map[string][]string{"time": clockCalls, "context": contextClocks}[name]
		if calls == nil {
			return
		}
		local := name
		if spec.Name != nil {
			local = spec.Name.Name
		}
		if local == "." {
			found = append(found, breach{at: s.at(spec), what: "imports " + name + " with a dot, which hides its calls", why: why, do: "import it by its name"})
		}
		clocks[local] = calls
	})
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, breach{at: s.at(n), what: "starts a goroutine", why: why, do: "run to the end, and leave starting long work to the driver or the agent"})
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && slices.Contains(clocks[x.Name], n.Sel.Name) {
				found = append(found, breach{at: s.at(n), what: "uses " + x.Name + "." + n.Sel.Name, why: why, do: "take the instant, or the age, as an argument"})
			}
		}
		return true
	})
	return found
}

// nameBreaches are folders whose name says nothing.
func nameBreaches(tree []source) []breach {
	var found []breach
	seen := map[string]bool{}
	for _, s := range tree {
		for dir := s.folder(); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			if slices.Contains(forbiddenNames, path.Base(dir)) {
				found = append(found, breach{at: dir, what: "is called " + path.Base(dir), why: "a folder is a room named with a word the operator knows; this name says nothing",
					do: "name it after its promise, as durable and redact are, or move the code to the room that needs it"})
			}
		}
	}
	return found
}

// docBreaches are packages without a package comment, or with several that will drift apart.
func docBreaches(tree []source) []breach {
	docs, all := map[string][]string{}, map[string]bool{}
	for _, s := range tree {
		if s.test() {
			continue
		}
		all[s.folder()] = true
		if s.file.Doc != nil {
			docs[s.folder()] = append(docs[s.folder()], s.path)
		}
	}
	var found []breach
	for folder := range all {
		const why = "each package says once, in one file, what it is for and where to start reading"
		switch files := docs[folder]; {
		case len(files) == 0:
			found = append(found, breach{at: folder, what: "has no package comment", why: why, do: "write one above the package clause of the file named after the package"})
		case len(files) > 1:
			found = append(found, breach{at: folder, what: "has package comments in " + strings.Join(files, " and "), why: why, do: "keep one; leave an empty line between any other comment and the package clause"})
		}
	}
	return found
}

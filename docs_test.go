package holdfast_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const problemsPage = "docs/handbook/problems.md"

// TestEveryProblemHasItsPage holds the codes in the code against the headings of the handbook, in both directions.
func TestEveryProblemHasItsPage(t *testing.T) {
	page, err := os.ReadFile(problemsPage)
	if err != nil {
		t.Fatal(err)
	}
	codes, found := problemCodes(readTree(t, "."))
	if len(codes) < 30 {
		t.Fatalf("only %d problem codes were found: the search is broken", len(codes))
	}
	for _, b := range append(found, pageBreaches(codes, string(page))...) {
		t.Error(b)
	}
}

// TestEveryLinkLeadsSomewhere follows the relative links of all documents, with their anchors.
func TestEveryLinkLeadsSomewhere(t *testing.T) {
	pages := map[string]string{}
	err := walkTree(".", func(name string, text []byte) error {
		if path.Ext(name) == ".md" {
			pages[name] = string(text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages["README.md"] == "" {
		t.Fatal("there is no README.md: the walk over the tree is broken")
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.FromSlash(name))
		return err == nil
	}
	for _, b := range linkBreaches(pages, exists) {
		t.Error(b)
	}
}

var codeForm = regexp.MustCompile(`^[a-z]+(\.[a-z0-9]+(-[a-z0-9]+)*)+$`)

// problemCodes gives each code with the first place that raises it, and what is wrong with how codes are written.
func problemCodes(tree []source) (map[string]string, []breach) {
	const why = "a problem's code is a word of its own in the handbook, so it stands in the code as a literal that a search finds"
	codes := map[string]string{}
	var found []breach
	for _, s := range tree {
		local := problemImport(s)
		if local == "" || s.test() {
			continue
		}
		note := func(at ast.Node, e ast.Expr) {
			text, ok := literal(e)
			switch {
			case !ok:
				found = append(found, breach{at: s.at(at), what: "takes a problem's code from somewhere else", why: why, do: `write Code: "room.kind" where the problem is made`})
			case !codeForm.MatchString(text):
				found = append(found, breach{at: s.at(at), what: fmt.Sprintf("%q is no problem code", text), why: why, do: "name it room.kind, in lower case with hyphens"})
			case codes[text] == "":
				codes[text] = s.at(at)
			}
		}
		makers := codeMakers(s.file)
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok {
					if i, ok := makers[f.Name]; ok && i < len(n.Args) {
						note(n, n.Args[i])
					}
				}
			case *ast.CompositeLit:
				if !isProblem(n.Type, local) {
					break
				}
				code := slices.IndexFunc(n.Elts, func(e ast.Expr) bool { return keyOf(e) == "Code" })
				if code >= 0 {
					value := n.Elts[code].(*ast.KeyValueExpr).Value
					if id, ok := value.(*ast.Ident); !ok || id.Name != codeParameter || len(makers) == 0 {
						note(n, value)
					}
				} else if len(n.Elts) > 0 {
					found = append(found, breach{at: s.at(n), what: "makes a problem without a code", why: why, do: `begin it with Code: "room.kind"`})
				}
			case *ast.KeyValueExpr: // in a list of problems, whose elements need not repeat the type
				if text, ok := literal(n.Value); keyOf(n) == "Code" && ok && codeForm.MatchString(text) {
					note(n, n.Value)
				}
			case *ast.AssignStmt:
				for i, to := range n.Lhs {
					sel, ok := to.(*ast.SelectorExpr)
					if !ok || sel.Sel.Name != "Code" || len(n.Lhs) != len(n.Rhs) {
						continue
					}
					if text, ok := literal(n.Rhs[i]); ok && codeForm.MatchString(text) {
						note(n, n.Rhs[i])
					}
				}
			}
			return true
		})
	}
	return codes, found
}

// codeParameter is how a function that words several problems alike calls the code that it takes.
const codeParameter = "code"

// codeMakers are a file's functions that take a problem's code, by name, with the place of that parameter: then the literal
// stands at each call of them.
func codeMakers(f *ast.File) map[string]int {
	makers := map[string]int{}
	add := func(name string, t *ast.FuncType) {
		i := 0
		for _, field := range t.Params.List {
			for _, id := range field.Names {
				if id.Name == codeParameter {
					makers[name] = i
				}
				i++
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			add(n.Name.Name, n.Type)
		case *ast.AssignStmt:
			for i, to := range n.Lhs {
				id, named := to.(*ast.Ident)
				if len(n.Rhs) != len(n.Lhs) || !named {
					continue
				}
				if lit, ok := n.Rhs[i].(*ast.FuncLit); ok {
					add(id.Name, lit.Type)
				}
			}
		}
		return true
	})
	return makers
}

// problemImport gives the name by which a file knows internal/problem, or "".
func problemImport(s source) string {
	local := ""
	s.imports(func(spec *ast.ImportSpec, name string) {
		if name == modulePath+"/internal/problem" {
			local = "problem"
			if spec.Name != nil {
				local = spec.Name.Name
			}
		}
	})
	return local
}

func isProblem(e ast.Expr, local string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != "Problem" {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == local
}

func keyOf(e ast.Expr) string {
	if kv, ok := e.(*ast.KeyValueExpr); ok {
		if key, ok := kv.Key.(*ast.Ident); ok {
			return key.Name
		}
	}
	return ""
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// pageBreaches are codes without a part of the page, parts without a code, and parts that do not help.
func pageBreaches(codes map[string]string, page string) []breach {
	const why = "who meets a code at night looks it up in " + problemsPage + ", and finds what it means and what to do"
	parts := map[string]string{}
	var found []breach
	for i, part := range strings.Split("\n"+page, "\n### ") {
		if i == 0 {
			continue
		}
		title, text, _ := strings.Cut(part, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		code := strings.Trim(strings.TrimSpace(title), "`")
		if _, twice := parts[code]; twice {
			found = append(found, breach{at: problemsPage, what: code + " has two parts", why: why, do: "join them"})
		}
		parts[code] = text
	}
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		text, ok := parts[code]
		switch {
		case !ok:
			found = append(found, breach{at: codes[code], what: code + " is not in the handbook", why: why, do: "add a part headed \"### " + code + "\" to " + problemsPage + ", with **Means:** and **Do:**"})
		case !hasWords(text, "**Means:**") || !hasWords(text, "**Do:**"):
			found = append(found, breach{at: problemsPage, what: "the part of " + code + " lacks **Means:** or **Do:**", why: why, do: "say what it means for the application, and what to do next"})
		}
	}
	for _, code := range slices.Sorted(maps.Keys(parts)) {
		if codes[code] == "" {
			found = append(found, breach{at: problemsPage, what: "nothing raises " + code, why: why, do: "remove its part, or mend the code's name"})
		}
	}
	return found
}

// hasWords says whether words follow a label.
func hasWords(text, label string) bool {
	_, rest, ok := strings.Cut(text, label)
	return ok && len(strings.Fields(rest)) >= 3 && !strings.HasPrefix(strings.TrimSpace(rest), "**")
}

var (
	linkForm    = regexp.MustCompile(`\[[^\]\n]*\]\(([^)\s]+)\)`)
	headingForm = regexp.MustCompile(`(?m)^#{1,6} +(.+?)\s*$`)
	codeBlock   = regexp.MustCompile("(?s)(?:^|\n)```.*?\n```")
)

// linkBreaches are relative links of pages (name to text) that lead to no file, or to no heading of one.
func linkBreaches(pages map[string]string, exists func(string) bool) []breach {
	const why = "a document that points nowhere is read once and trusted never"
	var found []breach
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		for _, m := range linkForm.FindAllStringSubmatch(codeBlock.ReplaceAllString(pages[name], ""), -1) {
			link := m[1]
			if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(link, "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if text, isPage := pages[target]; isPage {
				if anchor != "" && !slices.Contains(anchors(text), anchor) {
					found = append(found, breach{at: name, what: target + " has no heading #" + anchor, why: why, do: "mend the link"})
				}
				continue
			}
			if strings.HasPrefix(target, "../") || !exists(target) {
				found = append(found, breach{at: name, what: "links to " + link + ", which does not exist", why: why, do: "mend the link, or write the page"})
			}
		}
	}
	return found
}

// anchors are the names by which the headings of a page can be linked to.
func anchors(text string) []string {
	var names []string
	for _, m := range headingForm.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		names = append(names, name)
	}
	return names
}

func TestProblemPagesCatchWhatIsPlanted(t *testing.T) {
	const head = "// Package x is planted.\npackage x\nimport \"holdfast/internal/problem\"\n"
	const part = "# Problems\n## x\n### x.one\n**Means:** nothing runs here any more.\n\n**Do:** bring it back soon.\n"
	for _, c := range []struct {
		name, code, page string
		want             []string
	}{
		{"a code with its part", `var p = problem.Problem{Code: "x.one"}`, part, nil},
		{"a code without a part", `var p = &problem.Problem{Code: "x.two"}; var q = problem.Problem{Code: "x.one"}`, part, []string{"x.two is not in the handbook"}},
		{"a code in a list of problems", `var p = []problem.Problem{{Code: "x.two"}, {Code: "x.one"}}`, part, []string{"x.two is not in the handbook"}},
		{"a code that is set later", `func f(p *problem.Problem) { p.Code = "x.two" }; var q = problem.Problem{Code: "x.one"}`, part, []string{"x.two is not in the handbook"}},
		{"a code that is made up while it runs", `var p = problem.Problem{Code: "x." + name}; var q = problem.Problem{Code: "x.one"}`, part, []string{"takes a problem's code from somewhere else"}},
		{"codes that are handed to a function of the file", `func f() { add := func(title, code string) { list(problem.Problem{Code: code}) }; add("it hurts", "x.one"); add("more", "x.two") }`, part, []string{"x.two is not in the handbook"}},
		{"a code that is handed on unseen", `func f(s string) { add := func(code string) { list(problem.Problem{Code: code}) }; add(s); add("x.one") }`, part, []string{"takes a problem's code from somewhere else"}},
		{"a problem without a code", `var p = problem.Problem{Title: "it hurts"}; var q = problem.Problem{Code: "x.one"}`, part, []string{"makes a problem without a code"}},
		{"an empty problem is none", `var p = problem.Problem{}; var q = problem.Problem{Code: "x.one"}`, part, nil},
		{"a code without a room", `var p = problem.Problem{Code: "one"}; var q = problem.Problem{Code: "x.one"}`, part, []string{`"one" is no problem code`}},
		{"a part that nothing raises", `var p = problem.Problem{}`, part, []string{"nothing raises x.one"}},
		{"a part that gives no advice", `var p = problem.Problem{Code: "x.one"}`, "### x.one\n**Means:** nothing runs here.\n", []string{"lacks **Means:** or **Do:**"}},
		{"a part whose advice is empty", `var p = problem.Problem{Code: "x.one"}`, "### x.one\n**Means:** nothing runs here.\n\n**Do:**\n", []string{"lacks **Means:** or **Do:**"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			codes, got := problemCodes(parseAll(t, map[string]string{"internal/x/x.go": head + c.code}))
			expectBreaches(t, append(got, pageBreaches(codes, c.page)...), c.want)
		})
	}
}

func TestLinksCatchWhatIsPlanted(t *testing.T) {
	pages := map[string]string{
		"README.md": "[good](docs/a.md) [anchor](docs/a.md#how-its-done-1st) [own](#top) [web](https://example.org/x) [file](Makefile)\n# Top\n```\n[not a link](nowhere)\n```\n",
		"docs/a.md": "# How it's done, 1st\n[back](../README.md) [gone](b.md) [no heading](../README.md#bottom) [outside](../../x.md)\n",
	}
	got := linkBreaches(pages, func(name string) bool { return name == "Makefile" })
	expectBreaches(t, got, []string{"links to b.md, which does not exist", "README.md has no heading #bottom", "links to ../../x.md, which does not exist"})
}

func expectBreaches(t *testing.T, got []breach, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d breaches, want %d:\n%v", len(got), len(want), got)
	}
	for _, part := range want {
		if !slices.ContainsFunc(got, func(b breach) bool { return strings.Contains(b.String(), part) }) {
			t.Errorf("no breach says %q:\n%v", part, got)
		}
	}
}

package holdfast_test

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"strings"
	"testing"
)

// vocabulary is the command line, as its source declares it: read without building it, so that the check stays cheap.
type vocabulary struct {
	commands map[string]bool // each command's own word
	groups   map[string]bool // those that do nothing but hold others
	leaves   map[string]bool // those that do something
	flags    map[string]bool // without dashes
}

var flagCall = regexp.MustCompile(`^(String|Bool|Int|Uint|Int64|Duration|StringSlice|StringArray)(Var)?P?$|^VarP?$`)

func readVocabulary(tree []source) vocabulary {
	v := vocabulary{
		commands: map[string]bool{"holdfast": true, "help": true, "completion": true}, // the last two come with cobra
		groups:   map[string]bool{"completion": true},
		leaves:   map[string]bool{},
		flags:    map[string]bool{"help": true, "version": true},
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		v.commands[shell] = true
	}
	for _, s := range tree {
		if s.folder() != "internal/cli" || s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				use, runs := "", false
				for _, e := range n.Elts {
					switch keyOf(e) {
					case "Use":
						use, _ = literal(firstOperand(e.(*ast.KeyValueExpr).Value))
					case "RunE", "Run":
						runs = true
					}
				}
				if words := strings.Fields(use); len(words) > 0 {
					v.commands[words[0]] = true
					if !runs && words[0] != "holdfast" {
						v.groups[words[0]] = true
					}
					if runs {
						v.leaves[words[0]] = true
					}
				}
			case *ast.CallExpr:
				if sel, ok := n.Fun.(*ast.SelectorExpr); ok && flagCall.MatchString(sel.Sel.Name) {
					for _, arg := range n.Args[:min(2, len(n.Args))] {
						if name, ok := literal(arg); ok && name != "" {
							v.flags[name] = true
							break
						}
					}
					if strings.HasSuffix(sel.Sel.Name, "P") {
						for _, arg := range n.Args {
							if short, ok := literal(arg); ok && len(short) == 1 {
								v.flags[short] = true
							}
						}
					}
				}
			}
			return true
		})
	}
	return v
}

// firstOperand is the leftmost part of "a" + b.
func firstOperand(e ast.Expr) ast.Expr {
	for {
		b, ok := e.(*ast.BinaryExpr)
		if !ok {
			return e
		}
		e = b.X
	}
}

// usage says what is wrong with a command line, or "".
func (v vocabulary) usage(line string) string {
	if i := strings.IndexAny(line, "|#;)"); i >= 0 {
		line = line[:i]
	}
	inGroup, args := "", false
	for _, word := range strings.Fields(line)[1:] {
		word = strings.Trim(word, "`.,:[]'\"")
		switch {
		case strings.HasPrefix(word, "-"):
			name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
			if name != "" && !v.flags[name] {
				return "there is no flag " + word
			}
			args = true
		case word == ">" || args:
			args = true
		case inGroup != "" && !v.commands[word] && !strings.ContainsRune(word, '|'):
			return fmt.Sprintf("%s has no command %s", inGroup, word)
		case inGroup == "" && !v.commands[word] && word == strings.ToLower(word):
			return "there is no command " + word
		case v.groups[word] && (inGroup == "" || !v.leaves[word]): // files backup is a command, though backup is a group
			inGroup = word
		default:
			args = true // what follows are arguments, and flags
		}
	}
	return ""
}

var (
	blockForm   = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```")
	typedForm   = regexp.MustCompile(`(?m)^\s*(?:\$ )?(?:bin/)?(holdfast(?: .*)?)$`)
	inlineForm  = regexp.MustCompile("`(?:bin/)?(holdfast [^`\n]+)`")
	adviceForm  = regexp.MustCompile(`\bholdfast [a-z][^;,()]*`)
	columnsForm = regexp.MustCompile(`   +`) // in a list of commands with explanations
)

// commandsOf gives the commands that a page tells people to type.
func commandsOf(page string) []string {
	var lines []string
	for _, block := range blockForm.FindAllStringSubmatch(page, -1) {
		for _, m := range typedForm.FindAllStringSubmatch(block[1], -1) {
			lines = append(lines, columnsForm.Split(m[1], 2)[0])
		}
	}
	for _, m := range inlineForm.FindAllStringSubmatch(blockForm.ReplaceAllString(page, ""), -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// TestEveryCommandThatIsToldExists holds the commands of README, handbook and remedies against the command line. That they
// do what they say is for other tests.
func TestEveryCommandThatIsToldExists(t *testing.T) {
	tree := readTree(t, ".")
	v := readVocabulary(tree)
	if !v.commands["up"] || !v.groups["plan"] || !v.flags["root"] {
		t.Fatalf("the command line was not understood: %v", v)
	}
	const why = "a command that does not exist is found out by the person who needs it"
	told := 0
	hold := func(at, line string) {
		told++
		if bad := v.usage(line); bad != "" {
			t.Error(breach{at: at, what: fmt.Sprintf("tells people to type %q: %s", line, bad), why: why, do: "write a command that internal/cli has, or leave it out"})
		}
	}
	err := walkTree(".", func(name string, text []byte) error {
		if name == "README.md" || strings.HasPrefix(name, "docs/handbook/") && path.Ext(name) == ".md" {
			for _, line := range commandsOf(string(text)) {
				hold(name, line)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range tree {
		if problemImport(s) == "" || s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			kv, ok := n.(*ast.KeyValueExpr)
			if !ok || keyOf(kv) != "Remedy" {
				return true
			}
			ast.Inspect(kv.Value, func(n ast.Node) bool {
				if e, ok := n.(ast.Expr); ok {
					if text, ok := literal(e); ok {
						for _, at := range adviceForm.FindAllStringIndex(text, -1) {
							if !strings.HasSuffix(text[:at[0]], "of ") { // "the version of holdfast that made it" is prose
								hold(s.at(n), text[at[0]:at[1]])
							}
						}
					}
				}
				return true
			})
			return true
		})
	}
	if told < 20 {
		t.Fatalf("only %d commands were found: the search is broken", told)
	}
}

func TestCommandsCatchWhatIsPlanted(t *testing.T) {
	v := readVocabulary(parseAll(t, map[string]string{"internal/cli/x.go": `// Package cli is planted.
package cli
var a = cobra.Command{Use: "plan"}
var b = cobra.Command{Use: "check [PLAN]", RunE: run}
var c = cobra.Command{Use: "status", RunE: run}
var d = cobra.Command{Use: "files"}
var e = cobra.Command{Use: "plan NAME", RunE: run}
func f() { c.Flags().BoolVarP(&watch, "watch", "w", false, "again"); c.Flags().String("root", "", "where"); c.Flags().Var(&lasts, "for", "how long") }
`}))
	for line, want := range map[string]string{
		"holdfast":                       "",
		"holdfast status --watch":        "",
		"holdfast status -w --root /tmp": "",
		"holdfast plan check some.yaml":  "",
		"holdfast status --for 2d":       "",
		"holdfast --help":                "",
		"holdfast status --often":        "there is no flag --often",
		"holdfast statsu":                "there is no command statsu",
		"holdfast plan chekc":            "plan has no command chekc",
		"holdfast files plan some":       "",
		"holdfast plan check --deep":     "there is no flag --deep",
	} {
		if got := v.usage(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	page := "See `holdfast one`.\n```\nbin/holdfast two --x     says two\n$ holdfast three\n```\nholdfast is no command here.\n"
	if got := strings.Join(commandsOf(page), "; "); got != "holdfast two --x; holdfast three; holdfast one" {
		t.Errorf("commands of the page: %q", got)
	}
}

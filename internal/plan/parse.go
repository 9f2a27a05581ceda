package plan

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Bounds on the bytes that the YAML parser is given: it recurses for each level of nesting and takes time
// with its square, and a plan needs a handful of levels.
const (
	sourceMax  = 64 << 10
	nestingMax = 50
)

// Parse reads a plan file. It gives either a plan with its defaults filled in, or every mistake that the
// file has, in the file's order. file names it in messages; relative paths in the plan lead from its
// directory, so a caller that wants absolute ones hands in an absolute file. Nothing is read but src.
func Parse(file string, src []byte) (*Plan, []Mistake) {
	ms := &mistakes{file: file, where: map[string]Place{}}
	root := readYAML(ms, src)
	if len(ms.found) > 0 {
		return nil, ms.sorted()
	}
	written, ok := document(filepath.Dir(file)).read(ms, root, startOf(root), nil)
	if !ok {
		return nil, ms.sorted()
	}
	p := resolve(ms, written)
	if len(ms.found) > 0 {
		return nil, ms.sorted()
	}
	p.Source, p.File, p.Where = bytes.Clone(src), file, ms.where
	return p, nil
}

// readYAML gives the one document's root, or notes why there is none.
func readYAML(ms *mistakes, src []byte) (root ast.Node) {
	if len(src) > sourceMax {
		ms.addAbout(Place{1, 1}, "", fmt.Sprintf("the file has %d bytes (at most %d)", len(src), sourceMax))
		return nil
	}
	if at, deep := tooDeep(src); deep {
		ms.addAbout(at, "", fmt.Sprintf("brackets or lists are nested too deeply (at most %d levels)", nestingMax))
		return nil
	}
	// The YAML parser indexes slices by what it reads, and fuzzing of it by others has found panics. A plan
	// comes from people and from the cluster: neither may take an agent down.
	defer func() {
		if recover() != nil {
			root = nil
			ms.addAbout(Place{1, 1}, "", "the file is not YAML that can be read (allowed: a mapping of keys and values)")
		}
	}()
	tree, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		at, message := Place{1, 1}, err.Error()
		if e, ok := errors.AsType[yaml.Error](err); ok {
			message = e.GetMessage()
			if t := e.GetToken(); t != nil && t.Position != nil {
				at = Place{Line: t.Position.Line, Column: t.Position.Column}
			}
		}
		first, _, _ := strings.Cut(message, "\n")
		ms.addAbout(at, "", "not YAML: "+first)
		return nil
	}
	for _, doc := range tree.Docs {
		switch {
		case doc.Body == nil:
		case root == nil:
			root = doc.Body
		default:
			ms.addAbout(startOf(doc.Body), "", "a second document begins (allowed: one plan for each file)")
		}
	}
	if root == nil && len(ms.found) == 0 {
		ms.addAbout(Place{1, 1}, "", "the file is empty (allowed: a plan; see holdfast plan --help for a small one)")
	}
	return root
}

// startOf is where a document begins; the parser itself places a mapping at its first colon.
func startOf(root ast.Node) Place {
	if m, ok := root.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return placeOf(m.Values[0].Key, Place{1, 1})
	}
	return placeOf(root, Place{1, 1})
}

// tooDeep finds nesting that no plan has. It counts letters and knows no YAML: brackets in comments and
// texts count too, but only those that are never closed again.
func tooDeep(src []byte) (Place, bool) {
	open, line, start := 0, 1, 0
	for i, c := range src {
		switch c {
		case '\n':
			line, start = line+1, i+1
		case '[', '{':
			open++
		case ']', '}':
			open = max(open-1, 0)
		}
		if open > nestingMax {
			return Place{line, i - start + 1}, true
		}
	}
	for i, text := range bytes.Split(src, []byte("\n")) {
		dashes := 0
		for _, c := range text {
			if c != '-' && c != '?' && c != ' ' && c != '\t' && c != ':' {
				break
			}
			if c == '-' || c == '?' || c == ':' {
				dashes++
			}
		}
		if dashes > nestingMax && bytes.Contains(text, []byte{' '}) {
			return Place{i + 1, 1}, true
		}
	}
	return Place{}, false
}

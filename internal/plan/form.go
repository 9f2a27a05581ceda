package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// A form is how one kind of value is written in the file. The parser and the JSON Schema are both made
// from it, so that neither can know a key or a pattern that the other does not.
type form[T any] struct {
	schema jsonSchema
	read   func(r *mistakes, n ast.Node, at Place, path keyPath) (value T, ok bool)
}

// jsonSchema is one schema object, draft 2020-12.
type jsonSchema map[string]any

// located is a value with the place where it was written.
type located[T any] struct {
	value T
	at    Place
}

// written reports whether the file states the value (and states it rightly: a wrong one was reported and
// stays unset, so that it causes no second mistake).
func (l located[T]) written() bool { return l.at.Line > 0 }

// or is the value, or a default when it was not written.
func (l located[T]) or(otherwise T) T {
	if l.written() {
		return l.value
	}
	return otherwise
}

// field is one key of a mapping with fixed keys.
type field[T any] struct {
	name     string
	doc      string
	required bool
	notYet   bool
	schema   jsonSchema
	read     func(r *mistakes, n ast.Node, at Place, path keyPath, into *T)
}

// key is a field that is kept in one place of T.
func key[T, V any](name string, f form[V], doc string, in func(*T) *located[V]) field[T] {
	return field[T]{name: name, doc: doc, schema: f.schema,
		read: func(r *mistakes, n ast.Node, at Place, path keyPath, into *T) {
			if v, ok := f.read(r, n, at, path); ok {
				*in(into) = located[V]{value: v, at: at}
			}
		}}
}

// must makes a field one that may not be left out.
func must[T any](f field[T]) field[T] {
	f.required = true
	return f
}

// notYet is a key of the plan file that this version does not build: refused by name, never ignored.
func notYet[T any](name string) field[T] { return field[T]{name: name, notYet: true} }

// object is a mapping with fixed keys.
func object[T any](fields ...field[T]) form[T] {
	properties, required, allowed := jsonSchema{}, []string{}, []string{}
	for _, f := range fields {
		if f.notYet {
			continue
		}
		s := jsonSchema{"description": f.doc}
		for k, v := range f.schema {
			s[k] = v
		}
		properties[f.name] = s
		allowed = append(allowed, f.name)
		if f.required {
			required = append(required, f.name)
		}
	}
	schema := jsonSchema{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		schema["required"] = required
	}
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (value T, ok bool) {
		entries, ok := entriesOf(r, n, at, path, "a mapping with "+strings.Join(allowed, ", "))
		if !ok {
			return value, false
		}
		seen := map[string]Place{}
		for _, e := range entries {
			if repeated(r, seen, e, path) {
				continue
			}
			i := slices.IndexFunc(fields, func(f field[T]) bool { return f.name == e.name })
			switch {
			case i < 0:
				r.addKey(e.at, path, "%s", unknownKey(e.name, allowed))
			case fields[i].notYet:
				r.addKey(e.at, path, "%s is not available in this version (available: %s)", e.name, strings.Join(allowed, ", "))
			default:
				below := path.to(e.name)
				r.where[below.String()] = e.valueAt
				fields[i].read(r, e.value, e.valueAt, below, &value)
			}
		}
		for _, name := range required {
			if _, there := seen[name]; !there {
				r.addKey(at, path, "%s is missing (%s)", name, docOf(fields, name))
			}
		}
		return value, true
	}
	return form[T]{schema: schema, read: read}
}

func docOf[T any](fields []field[T], name string) string {
	i := slices.IndexFunc(fields, func(f field[T]) bool { return f.name == name })
	doc := strings.TrimSuffix(fields[i].doc, ".")
	first, _, _ := strings.Cut(doc, " ")
	if first[1:] == strings.ToLower(first[1:]) { // not IP or PostgreSQL
		doc = strings.ToLower(doc[:1]) + doc[1:]
	}
	return doc
}

func unknownKey(name string, allowed []string) string {
	if near := nearest(name, allowed); near != "" {
		return fmt.Sprintf("unknown key %q, did you mean %q? (allowed: %s)", name, near, strings.Join(allowed, ", "))
	}
	return fmt.Sprintf("unknown key %q (allowed: %s)", name, strings.Join(allowed, ", "))
}

// named is one entry of a mapping whose keys are names that the operator chose.
type named[T any] struct {
	name    string
	at      Place // of the name
	value   T
	valueAt Place
}

// nameRule says which names a mapping takes.
type nameRule struct {
	pattern string // for the schema; allows tests the same
	allows  func(name string) bool
	allowed string // in words
}

// byName is a mapping whose keys are names; the file's order is kept. An entry with a wrong value is
// kept with what could be read, so that references to its name cause no second mistake.
func byName[T any](rule nameRule, f form[T]) form[[]named[T]] {
	schema := jsonSchema{"type": "object", "propertyNames": jsonSchema{"pattern": rule.pattern}, "additionalProperties": f.schema}
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) ([]named[T], bool) {
		entries, ok := entriesOf(r, n, at, path, "a mapping of names")
		if !ok {
			return nil, false
		}
		var all []named[T]
		seen := map[string]Place{}
		for _, e := range entries {
			if repeated(r, seen, e, path) {
				continue
			}
			if !rule.allows(e.name) {
				r.addKey(e.at, path, "%q is not a name (%s)", e.name, rule.allowed)
				continue
			}
			below := path.to(e.name)
			r.where[below.String()] = e.at
			value, _ := f.read(r, e.value, e.valueAt, below)
			all = append(all, named[T]{name: e.name, at: e.at, value: value, valueAt: e.valueAt})
		}
		return all, true
	}
	return form[[]named[T]]{schema: schema, read: read}
}

// listOf is a list of at least one value, written as a YAML sequence. An item that was reported as wrong
// stays in its place, not written, so that the others are still judged.
func listOf[T any](f form[T]) form[[]located[T]] {
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) ([]located[T], bool) {
		s, ok := n.(*ast.SequenceNode)
		if !ok || len(s.Values) == 0 {
			r.add(at, path, "is %s (allowed: a list of at least one, such as [a, b])", kindOf(n))
			return nil, false
		}
		all := make([]located[T], len(s.Values))
		for i, item := range s.Values {
			itemAt := placeOf(item, at)
			if v, ok := f.read(r, item, itemAt, path); ok {
				all[i] = located[T]{value: v, at: itemAt}
			}
		}
		return all, true
	}
	return form[[]located[T]]{schema: jsonSchema{"type": "array", "minItems": 1, "items": f.schema}, read: read}
}

// entry is one key and value of a mapping, before either is judged.
type entry struct {
	name    string
	at      Place
	value   ast.Node
	valueAt Place
}

// entriesOf lists what a mapping holds in the file's order.
func entriesOf(r *mistakes, n ast.Node, at Place, path keyPath, want string) ([]entry, bool) {
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	default:
		r.add(at, path, "is %s (allowed: %s)", kindOf(n), want)
		return nil, false
	}
	var all []entry
	for _, pair := range pairs {
		keyAt := placeOf(pair.Key, at)
		name, ok := scalarText(pair.Key)
		if !ok {
			r.addKey(keyAt, path, "a key is %s (allowed: plain text)", kindOf(pair.Key))
			continue
		}
		valueAt := placeOf(pair.Value, keyAt)
		switch pair.Value.(type) {
		case *ast.MappingNode, *ast.MappingValueNode, *ast.NullNode, nil:
			valueAt = keyAt // the parser's own place for these is a colon or nothing at all
		}
		all = append(all, entry{name: name, at: keyAt, value: pair.Value, valueAt: valueAt})
	}
	return all, true
}

// repeated reports a key that stands twice in one mapping.
func repeated(r *mistakes, seen map[string]Place, e entry, path keyPath) bool {
	first, twice := seen[e.name]
	if twice {
		r.addKey(e.at, path, "%s stands here twice (allowed: once; it is also in line %d)", e.name, first.Line)
		return true
	}
	seen[e.name] = e.at
	return false
}

// placeOf is where a node starts, or otherwise when the YAML parser does not know.
func placeOf(n ast.Node, otherwise Place) Place {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return otherwise
	}
	p := n.GetToken().Position
	return Place{Line: p.Line, Column: p.Column}
}

// scalarText is a scalar exactly as written: 8080, 0x10 and true stay those letters.
func scalarText(n ast.Node) (string, bool) {
	switch s := n.(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		if s.Value == nil {
			return "", false
		}
		return s.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// kindOf names what stands at a node, for messages.
func kindOf(n ast.Node) string {
	switch v := n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		if len(v.Values) == 0 {
			return "an empty list"
		}
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "a YAML anchor, alias or merge, which a plan does not take"
	case *ast.TagNode:
		return "a YAML tag, which a plan does not take"
	}
	return "something that a plan does not take"
}

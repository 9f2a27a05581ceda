package plan

import (
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// What the plan wants done with commits that a forced failover gave up.
const (
	SalvageKeep    = "keep" // they wait for a person
	SalvageDiscard = "discard"
	SalvageExport  = "export"
	SalvageCommand = "command"
)

// Salvage says what becomes of commits that a forced failover gave up, once they are listed.
type Salvage struct {
	Then    string        // SalvageKeep and so on
	To      string        // export: a folder on the host that holds them
	Run     []string      // command
	Timeout time.Duration // command: of one try
	Tries   int           // command: then a person is called
}

const (
	salvageTimeout = time.Hour
	salvageTries   = 3
)

// salvageFile is one word, or a mapping with one of the others.
type salvageFile struct {
	keep    located[string]
	discard located[string]
	export  located[string]
	command located[[]string]
	timeout located[time.Duration]
	tries   located[int]
}

func salvage(dir string) form[salvageFile] {
	word := oneOf(SalvageKeep)
	whole := object(
		key("discard", nameText(label()), "The name of this database, as a confirmation: what a forced failover gave up is never needed.", func(f *salvageFile) *located[string] { return &f.discard }),
		key("export", path(dir), "A folder on each host: the list and the rows are written below it.", func(f *salvageFile) *located[string] { return &f.export }),
		key("command", argv(), "A program of the application that takes the rows; when it ends well they count as salvaged. It may be run twice for the same ones.", func(f *salvageFile) *located[[]string] { return &f.command }),
		key("timeout", span(time.Second, 7*day), "How long one try of the command may take (default 1h).", func(f *salvageFile) *located[time.Duration] { return &f.timeout }),
		key("tries", whole("a number of tries", 1, 100), "How often the command is tried before a person is called (default 3).", func(f *salvageFile) *located[int] { return &f.tries }),
	)
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) (salvageFile, bool) {
		switch n.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			f, ok := whole.read(r, n, at, path)
			f.check(r, at, path)
			return f, ok
		}
		if text, ok := scalarText(n); ok && text != SalvageKeep {
			r.add(at, path, "%q is no policy by itself (allowed: keep, or a mapping: discard: %s, export: FOLDER, command: PROGRAM)", text, databaseOf(path))
			return salvageFile{}, false
		}
		text, ok := word.read(r, n, at, path)
		return salvageFile{keep: located[string]{value: text, at: at}}, ok
	}
	return form[salvageFile]{schema: jsonSchema{"anyOf": []any{word.schema, whole.schema}}, read: read}
}

// databaseOf is the database whose key path is.
func databaseOf(path keyPath) string { return path[1] }

// check notes what does not go together.
func (f salvageFile) check(ms *mistakes, at Place, path keyPath) {
	var named []string
	for _, x := range []struct {
		name    string
		written bool
	}{{"discard", f.discard.written()}, {"export", f.export.written()}, {"command", f.command.written()}} {
		if x.written {
			named = append(named, x.name)
		}
	}
	const allowed = "(allowed: one of discard, export, command)"
	readable := true
	for _, name := range []string{"discard", "export", "command"} {
		if at, stated := ms.where[path.to(name).String()]; stated && at.Line > 0 && len(named) == 0 {
			readable = false // its own mistake was said
		}
	}
	switch {
	case len(named) == 0 && readable:
		ms.addKey(at, path, "says nothing of what to do %s", allowed)
	case len(named) > 1:
		ms.addKey(at, path, "wants %s %s", strings.Join(named, " and "), allowed)
	}
	if f.discard.written() && f.discard.value != databaseOf(path) {
		ms.add(f.discard.at, path.to("discard"), "names %q, and must repeat the name of the database whose commits are never needed (allowed: %s)", f.discard.value, databaseOf(path))
	}
	for _, x := range []struct {
		name string
		at   Place
	}{{"timeout", f.timeout.at}, {"tries", f.tries.at}} {
		if x.at.Line > 0 && !f.command.written() && len(named) > 0 {
			ms.addKey(x.at, path, "%s belongs to a command, and there is none", x.name)
		}
	}
}

func (f salvageFile) resolved() Salvage {
	switch {
	case f.discard.written():
		return Salvage{Then: SalvageDiscard}
	case f.export.written():
		return Salvage{Then: SalvageExport, To: f.export.value}
	case f.command.written():
		return Salvage{Then: SalvageCommand, Run: f.command.value, Timeout: f.timeout.or(salvageTimeout), Tries: f.tries.or(salvageTries)}
	}
	return Salvage{Then: SalvageKeep}
}

// shown is the policy as a plan file has it.
func (s Salvage) shown(database string) any {
	var m mapping
	switch s.Then {
	case SalvageDiscard:
		m.put("discard", database)
	case SalvageExport:
		m.put("export", s.To)
	case SalvageCommand:
		m.putList("command", s.Run)
		m.putSpan("timeout", s.Timeout)
		m.put("tries", s.Tries)
	default:
		return SalvageKeep
	}
	return m
}

// words say the policy after "what a forced failover gives up ...".
func (s Salvage) words() string {
	switch s.Then {
	case SalvageDiscard:
		return "is discarded"
	case SalvageExport:
		return "is written to " + s.To
	case SalvageCommand:
		return "is given to " + s.Run[0]
	}
	return "waits for a person"
}

package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Place is where something stands in the plan file, counted from 1 as editors do. The zero place means
// "not written there": a default, or a plan that was built in code.
type Place struct {
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
}

// Mistake is one thing that is wrong in a plan file. A plan with mistakes changes nothing.
type Mistake struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	What   string `json:"what"` // what is wrong (what is allowed); never holds a secret's value
}

// String is the mistake as compilers print theirs, so that editors can jump to it.
func (m Mistake) String() string {
	return fmt.Sprintf("%s:%d:%d: %s", m.File, m.Line, m.Column, m.What)
}

// Error makes a mistake usable as an error.
func (m Mistake) Error() string { return m.String() }

// keyPath leads to a value in the file: services, web, port. Names may hold no dot, so joining is safe.
type keyPath []string

// to is the path of a key below p; p itself stays as it is.
func (p keyPath) to(key string) keyPath { return append(slices.Clone(p), key) }

func (p keyPath) String() string { return strings.Join(p, ".") }

// subject names the thing that a path lies in, in the operator's words, and what is left of the path:
// services.web.port is "service web" and "port".
func (p keyPath) subject() (thing, rest string) {
	if len(p) >= 4 && p[0] == "sites" && p[2] == "hosts" {
		return "host " + p[3], p[4:].String()
	}
	if len(p) >= 2 {
		if word, ok := map[string]string{
			"sites": "site", "services": "service", "databases": "database", "vaults": "vault", "backup": "backup of", "files": "file set",
		}[p[0]]; ok {
			return word + " " + p[1], p[2:].String()
		}
	}
	return "", p.String()
}

// mistakes collects what is wrong in one file, and where each value of it stands.
type mistakes struct {
	file  string
	found []Mistake
	where map[string]Place
}

// add notes a mistake about the value at path.
func (ms *mistakes) add(at Place, path keyPath, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	thing, rest := path.subject()
	switch {
	case rest != "":
		what = rest + " " + what
	case thing == "":
		what = "the plan " + what
	}
	ms.addAbout(at, thing, what)
}

// addKey notes a mistake about the thing at path as a whole: what starts with a subject of its own.
func (ms *mistakes) addKey(at Place, path keyPath, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	thing, rest := path.subject()
	if rest != "" {
		what = rest + ": " + what
	}
	ms.addAbout(at, thing, what)
}

func (ms *mistakes) addAbout(at Place, thing, what string) {
	if thing != "" {
		what = thing + ": " + what
	}
	at.Line, at.Column = max(at.Line, 1), max(at.Column, 1)
	ms.found = append(ms.found, Mistake{File: ms.file, Line: at.Line, Column: at.Column, What: what})
}

// sorted is every mistake once, in the order of the file.
func (ms *mistakes) sorted() []Mistake {
	slices.SortStableFunc(ms.found, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.What, b.What))
	})
	return slices.Compact(ms.found)
}

// nearest is the allowed word that word was probably meant to be: at most two letters away, and fewer
// than half of its own length. "" = none is near.
func nearest(word string, allowed []string) string {
	best, bestAway := "", 3
	for _, a := range allowed {
		away := lettersApart(strings.ToLower(word), a)
		if away < bestAway && away*2 < max(len(word), len(a)) {
			best, bestAway = a, away
		}
	}
	return best
}

// lettersApart counts the letters to insert, remove, replace or swap between two words (optimal string
// alignment: a swap of neighbours, the commonest slip, counts once).
func lettersApart(a, b string) int {
	older, old, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			differs := 1
			if a[i-1] == b[j-1] {
				differs = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+differs)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(b)]
}

// Nearest is the one of known that a misspelt name most probably means; "" when none is near.
func Nearest(name string, known []string) string { return nearest(name, known) }

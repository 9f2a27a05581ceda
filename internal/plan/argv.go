package plan

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

var errOpenQuote = errors.New("has a quote that does not end (close it, or write a list: [program, argument])")

// SplitWords splits a command line at spaces as a shell does: '...' keeps everything, "..." keeps all but
// \" and \\, and a backslash outside quotes keeps the next letter. Nothing is expanded. A plan's commands are
// read so, and the target of an exec: reference.
func SplitWords(s string) ([]string, error) {
	words, _, err := splitQuoted(s)
	return words, err
}

// splitQuoted also tells which words had quotes or backslashes.
func splitQuoted(s string) (words []string, quoted []bool, err error) {
	var word strings.Builder
	inWord, wasQuoted := false, false
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && strings.IndexByte(" \t\n\r", c) >= 0:
			if inWord {
				words, quoted = append(words, word.String()), append(quoted, wasQuoted)
				word.Reset()
				inWord, wasQuoted = false, false
			}
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord, wasQuoted = c, true, true
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && (quote == 0 || quote == '"' && i+1 < len(s) && strings.IndexByte(`"\`, s[i+1]) >= 0):
			if i+1 == len(s) {
				return nil, nil, errOpenQuote
			}
			i++
			word.WriteByte(s[i])
			inWord, wasQuoted = true, true
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, nil, errOpenQuote
	}
	if inWord {
		words, quoted = append(words, word.String()), append(quoted, wasQuoted)
	}
	return words, quoted, nil
}

// argv is a command: text that is split at spaces, or a list. No shell ever reads it.
func argv() form[[]string] {
	item := anyScalar("an argument")
	schema := jsonSchema{"oneOf": []any{
		jsonSchema{"type": "string", "minLength": 1},
		jsonSchema{"type": "array", "minItems": 1, "items": item.schema},
	}}
	list := listOf(item)
	read := func(r *mistakes, n ast.Node, at Place, path keyPath) ([]string, bool) {
		var words []string
		if s, ok := plainText(n); ok {
			split, quoted, err := splitQuoted(s)
			if err != nil {
				r.add(at, path, "%s", err)
				return nil, false
			}
			for i, w := range split {
				if !quoted[i] && shellOnly(w) {
					r.add(at, path, "holds %s, which only a shell understands and none is used (quote it, or run [sh, -c, ...])", w)
					return nil, false
				}
			}
			words = split
		} else if _, ok := n.(*ast.SequenceNode); ok {
			items, ok := list.read(r, n, at, path)
			if !ok {
				return nil, false
			}
			for _, item := range items {
				if !item.written() {
					return nil, false
				}
				words = append(words, item.value)
			}
		} else {
			r.add(at, path, "is %s (allowed: a command as text or as a list)", kindOf(n))
			return nil, false
		}
		if err := judgeArgv(words); err != nil {
			r.add(at, path, "%s", err)
			return nil, false
		}
		return words, true
	}
	return form[[]string]{schema: schema, read: read}
}

func judgeArgv(words []string) error {
	if len(words) == 0 || words[0] == "" {
		return errors.New("names no program (allowed: a program and its arguments)")
	}
	for _, w := range words {
		if strings.ContainsRune(w, 0) {
			return errors.New("holds a zero byte (allowed: a program and its arguments)")
		}
		if strings.Contains(w, "${") {
			return fmt.Errorf("holds the template %s, and none is filled in here (put it into env and let the program read that)", w)
		}
	}
	return nil
}

func shellOnly(word string) bool {
	switch word {
	case "&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1":
		return true
	}
	return false
}

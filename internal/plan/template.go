package plan

import (
	"errors"
	"fmt"
	"strings"
)

var errOpenTemplate = errors.New("has a ${ without its } (allowed: ${name}; $${ stands for the letters ${)")

// ExpandEnv fills the templates of a value in: each ${key} becomes what lookup says, and $${ becomes the
// letters ${. A lone $ stays. What lookup returns is not searched for templates again. A key that lookup
// does not know is an error that names it; so is a ${ that never ends.
func ExpandEnv(value string, lookup func(key string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		i := strings.Index(value, "${")
		if i < 0 {
			b.WriteString(value)
			return b.String(), nil
		}
		if i > 0 && value[i-1] == '$' {
			b.WriteString(value[:i-1] + "${")
			value = value[i+2:]
			continue
		}
		key, rest, ended := strings.Cut(value[i+2:], "}")
		if !ended {
			return "", errOpenTemplate
		}
		filled, ok := lookup(key)
		if !ok {
			return "", fmt.Errorf("expand ${%s}: nothing is known by this name", key)
		}
		b.WriteString(value[:i] + filled)
		value = rest
	}
}

// templatesIn lists the keys that ExpandEnv would look up, in order.
func templatesIn(value string) ([]string, error) {
	var keys []string
	_, err := ExpandEnv(value, func(key string) (string, bool) {
		keys = append(keys, key)
		return "", true
	})
	return keys, err
}

// DatabaseURL splits a template key such as databases.records.write_url; which is write_url or read_url.
func DatabaseURL(key string) (database, which string, ok bool) {
	rest, ok := strings.CutPrefix(key, "databases.")
	if !ok {
		return "", "", false
	}
	database, which, ok = strings.Cut(rest, ".")
	return database, which, ok && (which == "write_url" || which == "read_url")
}

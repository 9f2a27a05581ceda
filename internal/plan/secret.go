package plan

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

const secretPattern = `^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|exec:.+)$`

var secretShape = regexp.MustCompile(secretPattern)

// errLiteralSecret never repeats what was written: it may be the secret.
var errLiteralSecret = errors.New("is not a reference; what stands there is not repeated here (env:NAME, file:/path or exec:/path/to/program)")

// IsSecret reports whether a value of an environment variable is a reference to a secret rather than
// the value itself.
func IsSecret(value string) bool { return secretShape.MatchString(value) }

// secret is a reference to a secret; a relative file is resolved against dir.
func secret(dir string) form[Secret] {
	return text(jsonSchema{"pattern": secretPattern}, "a reference: env:NAME, file:/path or exec:/path/to/program",
		func(s string) (Secret, error) { return parseSecret(dir, s) })
}

// secretFile is a reference to a file: what is read anew when it changes.
func secretFile(dir string) form[Secret] {
	return text(jsonSchema{"pattern": `^file:.+$`}, "a reference to a file: file:/path", func(s string) (Secret, error) {
		if !strings.HasPrefix(s, "file:") {
			return "", errors.New("is not a reference to a file; what stands there is not repeated here (file:/path)")
		}
		return parseSecret(dir, s)
	})
}

func parseSecret(dir, s string) (Secret, error) {
	if !secretShape.MatchString(s) || strings.ContainsAny(s, "\n\x00") {
		return "", errLiteralSecret
	}
	kind, rest, _ := strings.Cut(s, ":")
	if strings.Contains(strings.ReplaceAll(rest, rootTemplate, ""), "${") {
		return "", errors.New("holds a template that has no place in a reference (${root} alone)")
	}
	switch kind {
	case "file":
		if strings.HasPrefix(rest, "//") && !strings.HasPrefix(rest, "///") {
			return "", errors.New("is not a file reference (file:/path, without a host)")
		}
		file, err := under(dir, rest)
		return Secret("file:" + file), err
	case "exec":
		words, err := SplitWords(rest)
		if err != nil {
			return "", errors.New("has a quote that does not end (exec:/path/to/program argument ...)")
		}
		if len(words) == 0 || !rooted(words[0]) {
			return "", errors.New("names no program by its whole path (exec:/path/to/program argument ...)")
		}
	}
	return Secret(s), nil
}

// Kind is env, file or exec, and Target what it names.
func (s Secret) Kind() string { kind, _, _ := strings.Cut(string(s), ":"); return kind }

// Target is the variable, the file or the command line that the reference names.
func (s Secret) Target() string { _, target, _ := strings.Cut(string(s), ":"); return target }

// rootTemplate stands for Holdfast's data root on the machine that reads the plan; see [Plan.WithRoot].
const rootTemplate = "${root}"

// rooted reports whether a path needs no directory to be complete.
func rooted(path string) bool {
	return filepath.IsAbs(path) || path == rootTemplate || strings.HasPrefix(path, rootTemplate+"/")
}

// under is path itself when it is complete, else the path below dir.
func under(dir, path string) (string, error) {
	if strings.HasPrefix(path, "~/") {
		return "", fmt.Errorf("%q: ~ is not expanded (a whole path, or one relative to the plan file)", path)
	}
	if !rooted(path) {
		return filepath.Join(dir, path), nil
	}
	clean := filepath.Clean(path)
	if !rooted(clean) || strings.HasPrefix(path, rootTemplate) && !strings.HasPrefix(clean, rootTemplate) {
		return "", fmt.Errorf("%q leads out of ${root} (a path below it)", path)
	}
	return clean, nil
}

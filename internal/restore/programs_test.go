package restore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The programs of another version, or none, are refused before anything is copied; what cannot be told is left to the server.
func TestProgramsOfAnotherVersionAreRefused(t *testing.T) {
	programs := func(says string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, c := range map[string]struct {
		dir  string
		says string // in the refusal; "" = accepted
	}{
		"the same":              {programs("postgres (PostgreSQL) 15.4 (Debian 15.4-1.pgdg120+1)"), ""},
		"another minor release": {programs("postgres (PostgreSQL) 15.18"), ""},
		"a later version":       {programs("postgres (PostgreSQL) 18.3"), "another version: postgres (PostgreSQL) 18.3"},
		"a beta of another":     {programs("postgres (PostgreSQL) 19beta1"), "19beta1"},
		"one that tells none":   {programs("postgres of my own"), ""},
		"no such directory":     {filepath.Join(t.TempDir(), "nowhere"), "does not hold its programs"},
		"an empty directory":    {t.TempDir(), "does not hold its programs"},
	} {
		got, err := Programs(c.dir, 15)
		switch {
		case c.says == "" && (err != nil || got != c.dir):
			t.Errorf("%s: %q, %v", name, got, err)
		case c.says != "" && (code(err) != "restore.no-postgres" || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--bin-dir")):
			t.Errorf("%s: %v", name, err)
		}
	}
}

package postgres

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/durable"
	"holdfast/internal/problem"
)

// programsOf is a folder whose programs call themselves a release.
func programsOf(t *testing.T, release string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range programs {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, release)
		if err := durable.WriteProgram(filepath.Join(dir, name), strings.NewReader(script)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What the plan names as programs is taken while the server runs, and what its data could not be run by is refused.
func TestProgramsAreChangedWithinTheirMajorVersion(t *testing.T) {
	was := programsOf(t, "15.18")
	s := &Server{cfg: Config{Database: "records", Major: 15}, programs: was}
	for name, c := range map[string]struct {
		dir, code string
	}{
		"another release":                 {programsOf(t, "15.19"), ""},
		"another major version":           {programsOf(t, "16.9"), "database.other-major"},
		"a release that forgets commits":  {programsOf(t, "15.12"), "database.no-postgres"},
		"a folder that is not there":      {filepath.Join(was, "nowhere"), "database.no-postgres"},
		"a folder without these programs": {t.TempDir(), "database.no-postgres"},
	} {
		s.programs = was
		err := s.SetBinDir(c.dir)
		p, refused := errors.AsType[*problem.Problem](err)
		switch {
		case c.code == "" && (err != nil || s.BinDir() != c.dir):
			t.Errorf("%s: %v, programs in %s", name, err, s.BinDir())
		case c.code != "" && (!refused || p.Code != c.code || s.BinDir() != was):
			t.Errorf("%s: %v, programs in %s", name, err, s.BinDir())
		}
	}
}

// Each plan that is applied names the folder again, in the midst of a round that a fence waits for.
func TestAFolderThatStaysIsNotAskedAgain(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "unmounted")
	s := &Server{cfg: Config{Database: "records", Major: 15, BinDir: gone}, programs: gone, given: gone}
	if err := s.SetBinDir(gone); err != nil {
		t.Errorf("it was looked at: %v", err)
	}
}

package restore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/problem"
)

// What has the name of an unfinished file is written anew when a restore that was killed has left it; anything else stays.
func TestAnUnfinishedFileIsTakenOverFromARestoreAlone(t *testing.T) {
	for name, c := range map[string]struct {
		make  func(t *testing.T, partial string) error
		taken bool
	}{
		"nothing is there":       {func(*testing.T, string) error { return nil }, true},
		"left by a kill":         {writes(dumpMark + "create table"), true},
		"left at its very first": {writes(""), true},
		"left in its first line": {writes(dumpMark[:9]), true},
		"somebody's own":         {writes("my list\n"), false},
		"somebody's own, longer": {writes("-- dumped by hand, and long enough to hold more than a mark does\n"), false},
		"another name of a dump": {func(_ *testing.T, p string) error { return errors.Join(writes(dumpMark)(nil, p), os.Link(p, p+".2")) }, false},
		"made by somebody else": {func(t *testing.T, p string) error {
			if os.Geteuid() != 0 {
				t.Skip("only root gives a file away")
			}
			return errors.Join(writes(dumpMark)(t, p), os.Chown(p, 65534, 65534))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a.sql")
			if err := c.make(t, file+".partial"); err != nil {
				t.Fatal(err)
			}
			was, errWas := os.ReadFile(file + ".partial")
			d, err := beginDump(file)
			now, errNow := os.ReadFile(file + ".partial")
			if c.taken {
				if err != nil || errNow != nil || string(now) != dumpMark {
					t.Fatalf("it is %q: %v, %v", now, err, errNow)
				}
				if err := d.end(); err != nil {
					t.Error(err)
				}
				return
			}
			if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "restore.name-taken" {
				t.Errorf("it was not refused: %v", err)
			}
			if errWas != nil || errNow != nil || string(now) != string(was) {
				t.Errorf("it was %q and is %q: %v, %v", was, now, errWas, errNow)
			}
		})
	}
}

func writes(text string) func(*testing.T, string) error {
	return func(_ *testing.T, at string) error { return os.WriteFile(at, []byte(text), 0o600) }
}

// A second restore that opened the unfinished file of a first one, which then finishes it, leaves it alone.
func TestAFileThatAnotherHasFinishedIsNotEmptied(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.sql")
	first, err := beginDump(file)
	if err != nil {
		t.Fatal(err)
	}
	second, err := openDump(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.claim(); err == nil {
		t.Error("it was taken while the first one writes it")
	}
	if _, err := first.keep(); err != nil {
		t.Fatal(err)
	}
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	if err := second.claim(); err == nil {
		t.Error("a file that is finished was taken")
	}
	if err := second.f.Close(); err != nil {
		t.Error(err)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != dumpMark {
		t.Errorf("it is %q: %v", now, err)
	}
}

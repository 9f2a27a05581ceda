package host

import (
	"os"
	"testing"
	"time"
)

// What the agent before knew of the vault is known when it is away, and is not told as less than it is.
func TestHowFarTheVaultWasIsKnownBehindARestart(t *testing.T) {
	a := anArchivist(t, t.TempDir())
	if a.recallKnown(7); !a.covered.IsZero() {
		t.Fatal("it is known before anybody wrote it down")
	}
	a.covered = a.host.clock.Now().Add(-time.Minute)
	a.keepKnown(7)
	again := &archivist{host: a.host, db: a.db, plan: a.plan}
	again.recallKnown(7)
	if again.covered.IsZero() || again.covered.After(a.covered) || again.covered.Before(a.covered.Add(-10*time.Second)) {
		t.Errorf("covered until %s, known is %s", a.covered, again.covered)
	}
	newer := a.host.clock.Now()
	again.covered = newer
	if again.recallKnown(7); !again.covered.Equal(newer) {
		t.Error("what is known by now is forgotten for it")
	}

	a.covered = a.host.clock.Now() // not written: that would be too often
	a.keepKnown(7)
	third := &archivist{host: a.host, db: a.db, plan: a.plan}
	if third.recallKnown(7); third.covered.After(a.covered.Add(-30 * time.Second)) {
		t.Error("it is written down again and again")
	}

	if err := os.WriteFile(a.knownPath(), []byte(`{"vault":"main","sys`), 0o600); err != nil {
		t.Fatal(err)
	}
	torn := &archivist{host: a.host, db: a.db, plan: a.plan}
	if torn.recallKnown(7); !torn.covered.IsZero() {
		t.Error("half a note is taken for one")
	}
}

func TestANoteOfAnotherTimeSaysNothing(t *testing.T) {
	n := knownNote{Vault: "main", SystemID: 7, Boot: "b", Up: time.Hour}
	for name, c := range map[string]struct {
		vault    string
		systemID uint64
		boot     string
		up, want time.Duration
	}{
		"half an hour later":                {"main", 7, "b", 90 * time.Minute, 30 * time.Minute},
		"another vault":                     {"other", 7, "b", 90 * time.Minute, -1},
		"the database was made anew":        {"main", 8, "b", 90 * time.Minute, -1},
		"the machine was started again":     {"main", 7, "c", 90 * time.Minute, -1},
		"it is of the future":               {"main", 7, "b", 59 * time.Minute, -1},
		"nobody knows which database it is": {"main", 0, "b", 90 * time.Minute, -1},
	} {
		if got, ok := n.age(c.vault, c.systemID, c.boot, c.up); ok != (c.want >= 0) || ok && got != c.want {
			t.Errorf("%s: %s, %v", name, got, ok)
		}
	}
}

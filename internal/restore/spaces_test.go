package restore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// placed is a restore over an older copy whose tablespace is shared with servers of other versions, and with people.
func placed(t *testing.T) (*run, string) {
	t.Helper()
	top := t.TempDir()
	dir, place := filepath.Join(top, "data"), filepath.Join(top, "place")
	for _, d := range []string{"data/pg_tblspc", "place/PG_15_202209061/5", "place/PG_15_202209061/6", "place/PG_14_202107181/5", "place/letters"} {
		if err := os.MkdirAll(filepath.Join(top, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"PG_15_202209061/5/1", "PG_15_202209061/5/2", "PG_15_202209061/6/1", "PG_14_202107181/5/1", "letters/one", "note"} {
		if err := os.WriteFile(filepath.Join(place, f), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(place, filepath.Join(dir, "pg_tblspc/7")); err != nil {
		t.Fatal(err)
	}
	b := vault.Backup{SystemID: 42, ServerVersion: 150014, Bytes: 10 << 20, Tablespaces: []vault.Tablespace{{OID: 7, Name: "fast", Bytes: 8 << 20}}}
	r := &run{o: Options{Dir: dir, Choice: Choice{Backup: b}, Tablespaces: map[string]string{"fast": place}}, again: true}
	var err error
	if r.spaces, err = planSpaces(dir, b, r.o.Tablespaces); err != nil {
		t.Fatal(err)
	}
	return r, place
}

func shared() []vault.Entry {
	at := vault.DataDir + "/pg_tblspc"
	return []vault.Entry{{Path: at, Dir: true}, {Path: at + "/7/PG_15_202209061", Dir: true}, {Path: at + "/7/PG_15_202209061/5", Dir: true}, {Path: at + "/7/PG_15_202209061/5/1", Size: 1 << 20}}
}

func TestInATablespaceOnlyTheBackupsOwnVersionIsCleared(t *testing.T) {
	r, place := placed(t)
	if err := r.claimSpaces(); err != nil || !r.spaces[0].ours {
		t.Fatalf("the place that the directory's own link leads to: %v, %v", r.spaces[0].ours, err)
	}
	all, err := needs(r.o.Dir, r.o.Choice, r.spaces, shared())
	if err != nil {
		t.Fatal(err)
	}
	own, err := usedBy(filepath.Join(place, "PG_15_202209061")) // the other version's and somebody's own files give no room
	has, kept := taken(filepath.Join(place, "PG_15_202209061/5/1"), 1<<20)
	if want := 8<<20 - own + has - kept; err != nil || all[1].bytes != want {
		t.Errorf("%d bytes are needed beside what is there, want %d, %v", all[1].bytes, want, err)
	}
	if err := r.clear(shared()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"PG_15_202209061/5/1": true, "PG_15_202209061/5/2": false, "PG_15_202209061/6": false,
		"PG_14_202107181/5/1": true, "letters/one": true, "note": true,
	} {
		if _, err := os.Stat(filepath.Join(place, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnotherSystemsUnfinishedTablespaceIsRefused(t *testing.T) {
	for text, accepted := range map[string]bool{
		`{"backup":"b1","system_id":"42"}`: true,
		`{"backup":"b1","system_id":"43"}`: false,
		`{"backup":"b1"}`:                  false,
	} {
		r, place := placed(t)
		if err := os.WriteFile(filepath.Join(place, markerFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := r.claimSpaces()
		p, refused := errors.AsType[*problem.Problem](err)
		if accepted != (err == nil) || !accepted && (!refused || p.Code != "restore.not-empty") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

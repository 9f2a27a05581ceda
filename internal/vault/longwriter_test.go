package vault_test

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// longWriting is for how many days a backup is written: longer than the safety margin, and much longer in make lab.
func longWriting() int {
	if os.Getenv("HOLDFAST_LAB") == "all" {
		return 20
	}
	return 4
}

// A backup finds in the vault what no listed backup uses any more, and is written for days, while a clean-up comes every
// day. Nothing it uses goes. A writer that has died keeps nothing from being freed for longer than a day.
func TestABackupThatLastsLongLosesNothingToACleanUp(t *testing.T) {
	days := longWriting()
	place := &memory{blobs: map[string]kept{}}
	synctest.Test(t, func(t *testing.T) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		cleanUp := func() error {
			t.Helper()
			m, err := vault.Open(t.Context(), config("").In(place))
			must(err)
			_, err = m.Reclaim(t.Context(), vault.ReclaimOptions{})
			must(m.Close(t.Context()))
			return err
		}
		v, err := vault.Create(t.Context(), config("").In(place))
		must(err)
		found := large() // of a pack of their own, which is freed whole
		gone := store(t, v, found)
		_, err = v.Forget(t.Context(), gone.ID)
		must(err)
		time.Sleep(80 * time.Hour) // long enough for it to be freed

		w, err := v.Begin(t.Context(), "long")
		must(err)
		put := func(w *vault.Writer, name string, content []byte) {
			t.Helper()
			f := w.File(vault.Entry{Path: name, Mode: 0o600})
			_, err := f.Write(content)
			must(errors.Join(err, f.Keep()))
		}
		for name, content := range found {
			put(w, name, content)
		}
		want, waited := map[string][]byte{}, 0
		for name, content := range found {
			want[name] = content
		}
		for step := range days * 24 {
			name, content := fmt.Sprintf("pgdata/step/%d", step), fmt.Appendf(nil, "step %d", step)
			put(w, name, content)
			want[name] = content
			time.Sleep(time.Hour)
			if step%24 != 20 {
				continue
			}
			err := cleanUp()
			if p, ok := errors.AsType[*problem.Problem](err); ok && p.Code == "vault.long-backup" {
				waited++
			} else if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		}
		if waited < days-2 {
			t.Errorf("%d clean-ups waited for the backup", waited)
		}
		b, err := w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, SegmentSize: 16 << 20})
		must(err)
		dead, err := v.Begin(t.Context(), "dead")
		must(err)
		put(dead, "pgdata/x", []byte("x"))
		for day := range 8 {
			time.Sleep(24 * time.Hour)
			if err := cleanUp(); err != nil {
				t.Errorf("%d days behind it: %v", day+1, err)
			}
		}
		late := dead.File(vault.Entry{Path: "pgdata/y", Mode: 0o600})
		if _, err := late.Write([]byte("y")); errors.Join(err, late.Keep()) == nil {
			t.Error("a writer that was taken to be dead goes on")
		}
		if n := place.count("writing/"); n != 0 {
			t.Errorf("%d marks of writers that are no more are left", n)
		}
		last, err := vault.Open(t.Context(), config("").In(place))
		must(err)
		if got, err := fetch(t.Context(), last, b.ID); err != nil || differ(want, got) != "" {
			t.Errorf("the long backup: %v %s", err, differ(want, got))
		}
		must(errors.Join(dead.Abort(), last.Close(t.Context()), v.Close(t.Context())))
	})
}

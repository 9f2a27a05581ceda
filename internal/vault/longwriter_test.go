package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
	stores "holdfast/internal/vault/store"
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
			err := cleanUp(t, place)
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
			if err := cleanUp(t, place); err != nil {
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

// slowRead gives a byte an hour.
type slowRead struct{ io.Reader }

func (r slowRead) Read(p []byte) (int, error) {
	time.Sleep(time.Hour)
	return r.Reader.Read(p[:min(1, len(p))])
}

// One file may take longer to read than it takes until a silent writer counts as dead.
func TestAFileThatTakesDaysToReadIsBackedUp(t *testing.T) {
	place := &memory{blobs: map[string]kept{}}
	synctest.Test(t, func(t *testing.T) {
		v, err := vault.Create(t.Context(), config("").In(place))
		if err != nil {
			t.Fatal(err)
		}
		w, err := v.BeginTree(t.Context(), "slow")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(vault.Node{Path: ".", Kind: vault.KindDir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		id, size, err := w.Content("slow", slowRead{bytes.NewReader(make([]byte, 30))}, make([]byte, 64<<10))
		if err != nil || size != 30 {
			t.Fatal(size, err)
		}
		if err := w.Add(vault.Node{Path: "slow", Kind: vault.KindFile, Mode: 0o600, Object: id, Size: size}); err != nil {
			t.Error(err)
		}
		if _, err := w.Commit(vault.FileBackup{Set: "attachments", Host: "h1", Path: "/srv/a"}); err != nil {
			t.Error(err)
		}
		if err := v.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// drowsy is a place of a host that sleeps once an index is stored.
type drowsy struct {
	*memory
	sleep  atomic.Pointer[func()] // taken by whoever stores the first index; nil = it stays awake
	before atomic.Pointer[func()] // the same, and the index that is stored is on its way meanwhile
}

func (d *drowsy) Put(ctx context.Context, name string, data stores.Data) error {
	if strings.HasPrefix(name, "repository/xn") {
		if sleep := d.before.Swap(nil); sleep != nil {
			(*sleep)()
		}
	}
	err := d.memory.Put(ctx, name, data)
	if strings.HasPrefix(name, "repository/xn") {
		if sleep := d.sleep.Swap(nil); sleep != nil {
			(*sleep)()
		}
	}
	return err
}

// A host sleeps while the entry of a backup is stored, and clean-ups take its writer to be dead: what the backup found in the vault may
// be freed. Nobody is told that it is stored, and it is not listed, whether the entry was on its way meanwhile or had arrived, and
// whether or not the epochs of the indexes went on.
func TestABackupWhoseEntryTakesADayIsNotListed(t *testing.T) {
	for name, c := range map[string]struct {
		arrived bool
		cleaned int // how often, in the time
	}{
		"on its way, and nobody cleans up":    {false, 0},
		"on its way, and others clean up":     {false, 4},
		"it has arrived, nobody cleans up":    {true, 0},
		"it has arrived, and others clean up": {true, 4},
	} {
		t.Run(name, func(t *testing.T) {
			place := &memory{blobs: map[string]kept{}}
			synctest.Test(t, func(t *testing.T) {
				must := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				host := &drowsy{memory: place}
				v, err := vault.Create(t.Context(), config("").In(host))
				must(err)
				w, err := v.Begin(t.Context(), "drowsy")
				must(err)
				f := w.File(vault.Entry{Path: "pgdata/PG_VERSION", Mode: 0o600})
				_, err = f.Write([]byte("15"))
				must(errors.Join(err, f.Keep()))
				entry := func() {
					for range c.cleaned {
						time.Sleep(time.Hour)
						must(cleanUp(t, place))
						time.Sleep(25 * time.Hour)
					}
					time.Sleep(25 * time.Hour)
				}
				first := func() { // the second index is that of the entry
					if c.arrived {
						host.sleep.Store(&entry)
					} else {
						host.before.Store(&entry)
					}
				}
				host.sleep.Store(&first)
				isNotStored(t, place, w)
				must(v.Close(t.Context()))
			})
		})
	}
}

// isNotStored commits what was written, which must not succeed, and looks whether it is listed all the same.
func isNotStored(t *testing.T, place *memory, w *vault.Writer) {
	t.Helper()
	if _, err := w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, SegmentSize: 16 << 20}); err == nil {
		t.Error("it is said to be stored")
	}
	v, err := vault.Open(t.Context(), config("").In(place))
	if err != nil {
		t.Fatal(err)
	}
	list, err := v.Backups(t.Context(), "")
	if err = errors.Join(err, v.Close(t.Context())); err != nil || len(list) != 0 {
		t.Errorf("%d backups are listed: %v", len(list), err)
	}
}

// cleanUp frees what nothing needs, by another opening of the vault.
func cleanUp(t *testing.T, place *memory) error {
	t.Helper()
	v, err := vault.Open(t.Context(), config("").In(place))
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Reclaim(t.Context(), vault.ReclaimOptions{})
	return errors.Join(err, v.Close(t.Context()))
}

// A host sleeps while a backup is committed, and what the backup found in the vault is freed meanwhile. It is not listed.
func TestABackupWhoseCommitSleepsForDaysIsNotListed(t *testing.T) {
	place := &memory{blobs: map[string]kept{}}
	synctest.Test(t, func(t *testing.T) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		host := &drowsy{memory: place}
		v, err := vault.Create(t.Context(), config("").In(host))
		must(err)
		gone := store(t, v, large())
		_, err = v.Forget(t.Context(), gone.ID)
		must(err)
		sleep := func() {
			for range 9 {
				time.Sleep(25 * time.Hour)
				must(cleanUp(t, place))
			}
		}
		w, err := v.Begin(t.Context(), "drowsy")
		must(err)
		for name, content := range large() {
			f := w.File(vault.Entry{Path: name, Mode: 0o600})
			_, err := f.Write(content)
			must(errors.Join(err, f.Keep()))
		}
		host.sleep.Store(&sleep)
		isNotStored(t, place, w)
		must(v.Close(t.Context()))
		place.mu.Lock()
		defer place.mu.Unlock()
		for name, b := range place.blobs {
			if strings.HasPrefix(name, "repository/p") && len(b.data) > 17<<20 {
				t.Error("what it found is still there: it proves nothing")
			}
		}
	})
}

package vault_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/disktest"
	"holdfast/internal/vault"
	stores "holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// pack is the content of a backup that takes a pack of its own, and can be made again from its number.
func pack(n int) map[string][]byte {
	big := make([]byte, 18<<20)
	_, _ = rand.NewChaCha8([32]byte{byte(n), 77}).Read(big) // never fails
	return map[string][]byte{"pgdata/base/5/1": big}
}

// tryStore is store for a vault that may refuse.
func tryStore(t *testing.T, v *vault.Vault, files map[string][]byte) (vault.Backup, error) {
	t.Helper()
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		return vault.Backup{}, err
	}
	for p, content := range files {
		f := w.File(vault.Entry{Path: p, Mode: 0o600, ModTime: time.Unix(1e9, 0)})
		_, err := f.Write(content)
		if err == nil {
			err = f.Keep()
		}
		if err != nil {
			return vault.Backup{}, errors.Join(err, w.Abort())
		}
	}
	return w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, ServerVersion: 150018, SegmentSize: wal.DefaultSegmentSize})
}

// The disk of the only vault is full: a backup ends with its reason and leaves no trace in the list, nothing that is stored
// is harmed, log and notes go on being taken, and what is let go of makes room for the next backup.
func TestAVaultWhoseDiskIsFullTakesLogAndCanBeEmptied(t *testing.T) {
	disk := t.TempDir()
	disktest.Small(t, disk, "60m", 0o700)
	dir := filepath.Join(disk, "vault")
	conf := config(dir)
	conf.Trash = -1 // what is deleted is gone at once
	v, err := vault.Create(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	ctx := t.Context()
	var kept []vault.Backup
	for n := 0; ; n++ {
		b, err := tryStore(t, v, pack(n))
		if err == nil {
			if kept = append(kept, b); n > 6 {
				t.Fatal("the disk is never full")
			}
			continue
		}
		if !errors.Is(err, stores.ErrReserve) || !strings.Contains(err.Error(), "MB are free") {
			t.Errorf("the backup that has no room: %v", err)
		}
		break
	}
	if len(kept) < 2 {
		t.Fatalf("only %d backups were stored", len(kept))
	}
	if listed, err := v.Backups(ctx, "orders"); err != nil || len(listed) != len(kept) {
		t.Errorf("%d backups are listed, want %d: %v", len(listed), len(kept), err)
	}
	log := v.Log(7, 1<<20)
	segment := func(n int) []byte {
		content := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{byte(n), 78}).Read(content) // never fails
		return content
	}
	for n := range 2 { // what backups left for it
		if err := log.PutSegment(ctx, 1, wal.LSN(n)<<20, segment(n), time.Unix(2e9, 0)); err != nil {
			t.Fatalf("segment %d is not taken: %v", n, err)
		}
	}
	if err := v.PutNote(ctx, vault.Note{Backup: kept[1].ID, Kind: vault.Pin, By: "ada", At: time.Unix(3e9, 0).UTC()}); err != nil {
		t.Errorf("a note is not taken: %v", err)
	}

	if gone, err := v.Forget(ctx, kept[0].ID); err != nil || !gone {
		t.Fatalf("a backup cannot be let go of: %v, %v", gone, err)
	}
	before := usage(t, v)
	maintainer := reopenedAs(t, conf)
	for deadline := time.Now().Add(5 * time.Minute); before-usage(t, v) < 16<<20; time.Sleep(300 * time.Millisecond) {
		if _, err := maintainer.Reclaim(ctx, vault.ReclaimOptions{Alone: true}); err != nil {
			t.Fatalf("space cannot be freed: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes before, %d after", before, usage(t, v))
		}
	}
	fresh := reopenedAs(t, conf)
	again, err := tryStore(t, fresh, pack(20))
	if err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if listed, err := fresh.Backups(ctx, "orders"); err != nil || len(listed) != len(kept) {
		t.Errorf("%d backups are listed, want %d: %v", len(listed), len(kept), err)
	}
	for id, n := range map[string]int{kept[1].ID: 1, again.ID: 20} {
		if got, err := fetch(ctx, fresh, id); err != nil || differ(pack(n), got) != "" {
			t.Errorf("backup %d: %v %s", n, err, differ(pack(n), got))
		}
	}
	for n := range 2 {
		got, err := fresh.Log(7, 1<<20).File(ctx, wal.SegmentName(1, wal.LSN(n)<<20, 1<<20))
		if err != nil || string(got) != string(segment(n)) {
			t.Errorf("segment %d: %d bytes, %v", n, len(got), err)
		}
	}
	if s, err := fresh.Scrub(ctx, vault.ScrubOptions{}); err != nil || len(s.Damage()) > 0 {
		t.Errorf("found %+v, %v", s.Damage(), err)
	}
}

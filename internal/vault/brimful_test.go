package vault_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/disktest"
	"holdfast/internal/vault"
	stores "holdfast/internal/vault/store"
	"holdfast/internal/vault/wal"
)

// Somebody else filled the disk to its last byte: nothing can be stored, and what is let go of goes all the same, whatever has
// to be written for that. Then there is room again, for the next time too.
func TestAVaultOnADiskThatOthersFilledCanBeEmptied(t *testing.T) {
	disk := t.TempDir()
	disktest.Small(t, disk, "75m", 0o700)
	conf := config(filepath.Join(disk, "vault"))
	conf.Trash = -1 // what is deleted is gone at once
	v, err := vault.Create(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var all []vault.Backup
	for n := range 2 {
		b, err := tryStore(t, v, pack(n))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	small := map[string]map[string][]byte{} // each in a short pack, which a clean-up would join with others
	for n := range 3 {
		content := map[string][]byte{"pgdata/base/5/1": pack(50 + n)["pgdata/base/5/1"][:3<<20]}
		b, err := tryStore(t, v, content)
		if err != nil {
			t.Fatal(err)
		}
		small[b.ID] = content
	}
	log := v.Log(7, bundleSize)
	putLog(t, log, 1, 3)
	if err := v.Close(ctx); err != nil {
		t.Fatal(err)
	}
	held := []string{}
	for round := range 2 {
		disktest.Fill(t, filepath.Join(disk, "theirs"))
		maintainer := reopenedAs(t, conf)
		goes := all[round].ID
		if _, err := tryStore(t, maintainer, pack(9)); err == nil {
			t.Fatal("a backup was stored on a full disk")
		}
		if err := maintainer.Log(7, bundleSize).PutSegment(ctx, 1, 9*bundleSize, segmentOf(9), time.Unix(9, 0)); err == nil {
			t.Error("log took what is kept for letting go")
		}
		if err := maintainer.PutNote(ctx, vault.Note{Backup: goes, Kind: vault.Doomed, By: "h1", At: time.Unix(3e9, 0)}); err != nil {
			t.Fatalf("a backup cannot be marked to go: %v", err)
		}
		if gone, err := maintainer.Forget(ctx, goes); err != nil || !gone {
			t.Fatalf("a backup cannot be let go of: %v, %v", gone, err)
		}
		pieces := []wal.Held{}
		list, err := maintainer.Log(7, bundleSize).Held(ctx)
		if err != nil {
			t.Fatal(err)
		}
		pieces = append(pieces, list[0])
		held = append(held, list[0].Object)
		if freed, err := maintainer.Log(7, bundleSize).Drop(ctx, pieces, time.Now().Add(time.Hour), func(context.Context) error { return nil }); err != nil || freed.Objects != 1 {
			t.Fatalf("log cannot be let go of: %+v, %v", freed, err)
		}
		before := usage(t, maintainer)
		for deadline := time.Now().Add(5 * time.Minute); before-usage(t, maintainer) < 16<<20; time.Sleep(300 * time.Millisecond) {
			if _, err := maintainer.Reclaim(ctx, vault.ReclaimOptions{Alone: true}); err != nil {
				t.Fatalf("space cannot be freed: %v", err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d bytes before, %d after", before, usage(t, maintainer))
			}
		}
		if _, err := tryStore(t, maintainer, map[string][]byte{"pgdata/PG_VERSION": []byte("15\n")}); err != nil {
			t.Errorf("with room again: %v", err)
		}
	}
	fresh := reopenedAs(t, conf)
	for id, content := range small {
		if got, err := fetch(ctx, fresh, id); err != nil || differ(content, got) != "" {
			t.Errorf("backup %s that stays: %v", id, err)
		}
	}
	left, err := fresh.Log(7, bundleSize).Held(ctx)
	if err != nil || len(left) != 1 {
		t.Errorf("of three segments, of which %v went, %d are left: %v", held, len(left), err)
	}
	if s, err := fresh.Scrub(ctx, vault.ScrubOptions{}); err != nil || len(s.Damage()) > 0 {
		t.Errorf("found %+v, %v", s.Damage(), err)
	}
}

// What base backups leave to the log is as much as the vault says, and log is taken from it.
func TestTheReserveOfAVaultIsAsLargeAsItSays(t *testing.T) {
	disk := t.TempDir()
	disktest.Small(t, disk, "60m", 0o700)
	conf := config(filepath.Join(disk, "vault"))
	conf.Reserve = 45 << 20
	v := createIn(t, place{filepath.Join(disk, "vault"), conf})
	if _, err := tryStore(t, v, pack(1)); !errors.Is(err, stores.ErrReserve) || !strings.Contains(err.Error(), "45 are kept") {
		t.Errorf("a backup that would leave less than is kept: %v", err)
	}
	putLog(t, v.Log(7, bundleSize), 1, 2)
	conf.Reserve = 10 << 20
	if _, err := tryStore(t, openAll(t, conf), pack(1)); err != nil {
		t.Errorf("a backup that leaves more than is kept: %v", err)
	}
}

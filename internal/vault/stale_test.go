package vault_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/vault"
	"holdfast/internal/vault/s3store/s3test"
	"holdfast/internal/vault/wal"
)

// lagging is a place in a bucket whose lists lag behind, and that does not find an object right behind its upload.
func lagging(t *testing.T, f s3test.Faults) (place, *s3test.Proxy) {
	t.Helper()
	server := s3test.Start(t)
	server.Bucket(t, "vaults", false)
	p := server.Worse(t, 5)
	p.Set(f)
	conf := config("")
	conf.S3, conf.URL = server.Config("", ""), "s3://vaults/clinic"
	conf.S3.Endpoint = "http://" + p.Address
	conf.S3.Patience.Attempts, conf.S3.Patience.Wait, conf.S3.Patience.WaitMax = 12, 5*time.Millisecond, 50*time.Millisecond
	return place{conf: conf}, p
}

// seen is how far the log is held by the lists as they come.
func seen(t *testing.T, l *vault.Log) wal.LSN {
	t.Helper()
	held, err := l.Held(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, err := wal.ParseHistory(1, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, end := wal.Reach(h, held, bundleSize, bundleSize)
	return end
}

// What a reader has seen of the log does not go away again while the log is stored, however far the lists lag: a beginning goes
// when what holds more of it is listed, and a segment when its bundle is.
func TestLogThatAnS3ListHasShownStaysListed(t *testing.T) {
	here, p := lagging(t, s3test.Faults{Unlisted: 4, Lookups: 2}) // what is deleted is gone from them at once
	v := createIn(t, here)
	l := v.Log(7, bundleSize)
	var far wal.LSN
	look := func(what string) {
		t.Helper()
		now := seen(t, l)
		if now < far {
			t.Errorf("%s: the log was listed up to %s, and is up to %s now", what, far, now)
		}
		far = max(far, now)
	}
	for n := 1; n <= 5; n++ {
		at, full := wal.LSN(n*bundleSize), segmentOf(n)
		for i, part := range []int{500, 9000} {
			if err := l.PutPartial(t.Context(), 1, at, full[:part], time.Unix(int64(n), 0)); err != nil {
				t.Fatal(err)
			}
			for range (n + i) % 6 {
				look("a beginning is stored")
			}
		}
		putLog(t, l, n, n)
		for range (n + 1) % 5 {
			look("a segment is stored")
		}
	}
	for range 5 {
		look("the lists catch up")
	}
	if want := wal.LSN(6 * bundleSize); far != want {
		t.Fatalf("listed up to %s, want %s", far, want)
	}
	for range 2 {
		bundleAtOnce(t, l)
		for range 2 {
			look("segments are bundled")
		}
	}
	if alone, bundles := objects(t, l); alone != 1 || bundles != 1 {
		t.Errorf("%d segments alone and %d bundles", alone, bundles)
	}
	for range 5 {
		look("the lists catch up")
	}
	putLog(t, l, 6, 6)
	p.Set(s3test.Faults{})
	held := wantLog(t, l, 1, 6)
	if len(held) != 6 {
		t.Errorf("of the beginnings %d are left", len(held)-6)
	}
}

// Of two writers of one segment at the same moment, whose lists show neither for a while, one is told at least.
func TestOtherLogThatAnS3ListHidesForAWhileIsTold(t *testing.T) {
	here, p := lagging(t, s3test.Faults{})
	v := createIn(t, here)
	l := v.Log(7, bundleSize)
	for n := 1; n <= 4; n++ {
		p.Set(s3test.Faults{Unlisted: n})
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i := range errs {
			wg.Go(func() {
				content := bytes.Repeat([]byte{byte(n), byte(i)}, bundleSize/2)
				errs[i] = l.PutSegment(t.Context(), 1, wal.LSN(n*bundleSize), content, time.Unix(10, 0))
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err == nil {
			t.Errorf("%d lists that lag: both contents were said to be stored", n)
		} else {
			wantDuplicate(t, err)
		}
	}
	// A list that never shows what was stored is an error, in so many requests.
	p.Set(s3test.Faults{Unlisted: 1 << 30})
	before := p.Asked()
	if err := l.PutSegment(t.Context(), 1, 20*bundleSize, segmentOf(20), time.Unix(10, 0)); err == nil {
		t.Error("a segment that no list shows was said to be stored")
	}
	if err := v.PutReceipt(t.Context(), "h1/1", []byte("signed")); err == nil {
		t.Error("a receipt that no list shows was said to be stored")
	}
	if n := p.Asked() - before; n > 2*(here.conf.S3.Patience.Attempts+8) {
		t.Errorf("it took %d requests", n)
	}
}

func wantDuplicate(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*vault.DuplicateError](err); !ok {
		t.Errorf("other content for a segment that is held: %v", err)
	}
}

func listedFiles() map[string][]byte {
	return map[string][]byte{"pgdata/PG_VERSION": []byte("15\n"), "pgdata/base/5/1": segmentOf(3)[:300_000]}
}

// Backups, notes and what is let go of, while every list is behind and every look comes too early: each call that gives no error
// has done what it says, and whoever looks later finds all of it and no damage.
func TestAVaultInAnS3BucketWhoseListsLagLosesNothing(t *testing.T) {
	here, p := lagging(t, s3test.Faults{Unlisted: 3, Listed: 3, Lookups: 2})
	v := createIn(t, here)
	kept, goes := store(t, v, listedFiles()), store(t, v, map[string][]byte{"pgdata/PG_VERSION": []byte("16\n")})
	putLog(t, v.Log(7, bundleSize), 1, 2)
	pin := vault.Note{Backup: kept.ID, Kind: vault.Pin, By: "ada", At: time.Unix(3e9, 0).UTC(), Reason: "before the move"}
	for _, n := range []vault.Note{pin, {Backup: goes.ID, Kind: vault.Doomed, By: "h1", At: time.Unix(3e9, 0)}} {
		if err := v.PutNote(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.PutReceipt(t.Context(), "h1/1", []byte("signed")); err != nil {
		t.Fatal(err)
	}
	reader := reopenedReadOnly(t, here.conf)
	scrubbed := func(what string) {
		t.Helper()
		s, err := reader.Scrub(t.Context(), vault.ScrubOptions{Clock: clock.Real()})
		if err != nil || len(s.Damage()) > 0 {
			t.Errorf("%s: %+v, %v", what, s.Damage(), err)
		}
	}
	scrubbed("lists that lag")
	if gone, err := v.Forget(t.Context(), goes.ID); err != nil || !gone {
		t.Errorf("%s: gone %v, %v", goes.ID, gone, err)
	}
	maintainer := reopenedAs(t, here.conf)
	for range 2 {
		if _, err := maintainer.Reclaim(t.Context(), vault.ReclaimOptions{Alone: true}); err != nil {
			t.Errorf("free space: %v", err)
		}
	}
	again := store(t, v, listedFiles())
	scrubbed("lists that lag behind a clean-up")
	p.Set(s3test.Faults{})
	for range 4 { // the lists catch up
		if _, err := reader.Backups(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if _, err := reader.ReceiptNames(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen(t, reader.Log(7, bundleSize))
	}
	fresh := reopenedReadOnly(t, here.conf)
	for _, id := range []string{kept.ID, again.ID} {
		if got, err := fetch(t.Context(), fresh, id); err != nil || differ(listedFiles(), got) != "" {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := fresh.OpenBackup(t.Context(), goes.ID); !errors.Is(err, vault.ErrNoBackup) {
		t.Errorf("what was let go of: %v", err)
	}
	wantLog(t, fresh.Log(7, bundleSize), 1, 2)
	if names, err := fresh.ReceiptNames(t.Context()); err != nil || len(names) != 1 {
		t.Errorf("receipts %v, %v", names, err)
	}
	if notes, err := fresh.Notes(t.Context()); err != nil || len(notes) != 1 || notes[0].Reason != pin.Reason {
		t.Errorf("notes %+v, %v", notes, err)
	}
	if s := scrub(t, fresh); len(s.Damage()) > 0 {
		t.Errorf("damage: %+v", s.Damage())
	}
}

package backup_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/backup/retention"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// listed stores a backup of one small file that ended at a moment.
func listed(t *testing.T, v *vault.Vault, at time.Time, passed bool) vault.Backup {
	t.Helper()
	w, err := v.Begin(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	f := w.File(vault.Entry{Path: "pgdata/PG_VERSION", Mode: 0o600, ModTime: at})
	if _, err := f.Write([]byte(at.String())); err != nil {
		t.Fatal(err)
	}
	if err := f.Keep(); err != nil {
		t.Fatal(err)
	}
	b, err := w.Commit(vault.Backup{Database: "orders", Kind: "full", SystemID: 7, Timeline: 1, Started: at, Stopped: at})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Mark(t.Context(), b.ID, vault.Validation{Passed: passed, At: at}); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestABackupGoesInTwoStepsAndOnlyWithLeave(t *testing.T) {
	v := newVault(t)
	ctx, now := t.Context(), time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	goes := listed(t, v, now.Add(-50*time.Hour), false)
	pinned := listed(t, v, now.Add(-49*time.Hour), false)
	keeps := listed(t, v, now.Add(-time.Hour), true)
	if err := v.PutNote(ctx, vault.Note{Backup: pinned.ID, Kind: vault.Pin, By: "ada", At: now}); err != nil {
		t.Fatal(err)
	}
	ids := func() map[string]bool {
		all, err := v.Backups(ctx, "orders")
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, b := range all {
			out[b.ID] = true
		}
		return out
	}
	marked := func() time.Time {
		notes, err := v.Notes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range notes {
			if n.Backup == goes.ID && n.Kind == vault.Doomed {
				return n.At
			}
		}
		return time.Time{}
	}
	o := backup.PruneOptions{Vault: v, Database: "orders", Policy: retention.Policy{}, By: "h1", DryRun: true}
	prune := func(after time.Duration) backup.Pruned {
		t.Helper()
		o.Now = now.Add(after)
		p, err := backup.Prune(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := prune(0); len(p.Fates) != 3 || p.Fates[0].ID != keeps.ID || !p.Fates[0].Keep || !p.Fates[1].Keep || p.Fates[2].Keep || p.Fates[2].Because == "" {
		t.Fatalf("judged %+v", p.Fates)
	}
	if !marked().IsZero() {
		t.Fatal("a dry run marked something")
	}
	o.DryRun = false
	elsewhere := errors.New("another host has the duty")
	o.May, o.Now = func(context.Context) error { return elsewhere }, now
	if _, err := backup.Prune(ctx, o); !errors.Is(err, elsewhere) || !marked().IsZero() {
		t.Fatalf("without leave: %v, marked %s", err, marked())
	}
	o.May = nil
	prune(0)
	if !marked().Equal(now) || !ids()[goes.ID] {
		t.Fatalf("marked %s, listed %v", marked(), ids())
	}
	prune(vault.Grace - time.Second - time.Hour)
	if !ids()[goes.ID] || !marked().Equal(now) {
		t.Fatalf("within the grace: marked %s, listed %v", marked(), ids())
	}
	o.Now = now.Add(400 * 24 * time.Hour) // a clock that jumped
	_, err := backup.Prune(ctx, o)
	if p, ok := errors.AsType[*problem.Problem](err); !ok || p.Code != "backup.not-pruned" {
		t.Fatalf("with nothing new for a year: %v", err)
	}
	o.DryRun = true // says the same
	if p, err := backup.Prune(ctx, o); err != nil || !strings.HasPrefix(p.Waits, "backup.not-pruned: ") {
		t.Fatalf("a dry run with nothing new for a year: %q, %v", p.Waits, err)
	}
	o.DryRun = false
	newer := listed(t, v, now.Add(vault.Grace), true)
	if p := prune(vault.Grace); !p.Fates[len(p.Fates)-1].Gone {
		t.Fatalf("after the grace: %+v", p.Fates)
	}
	if got := ids(); got[goes.ID] || !got[pinned.ID] || !got[keeps.ID] || !got[newer.ID] {
		t.Errorf("listed %v", got)
	}
	if !marked().IsZero() {
		t.Error("the mark of what is gone is left")
	}
}

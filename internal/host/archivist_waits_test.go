package host

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/clock"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
)

// quickClock lets every pause be short, and counts them.
type quickClock struct {
	clock.Clock
	pauses *atomic.Int64
}

func (c quickClock) NewTimer(time.Duration) clock.Timer {
	c.pauses.Add(1)
	return c.Clock.NewTimer(time.Millisecond)
}

// A base backup takes hours. Commits that wait for a copy of the vault to be back, or for log of the second place to be looked
// through, do not wait for its end.
func TestTheVaultIsLookedThroughWhileABaseBackupRuns(t *testing.T) {
	a := anArchivist(t, t.TempDir())
	pauses := new(atomic.Int64)
	a.host.clock = quickClock{a.host.clock, pauses}
	a.host.applied.now.Databases = []plan.Database{{Name: "orders"}}
	a.lookWhile(t.Context(), func(context.Context) { t.Error("it is looked though nobody waits") })()
	if pauses.Load() > 0 {
		t.Error("something runs though nobody waits")
	}

	a.host.applied.now.Databases[0].ByVault = "strict"
	base := vault.Backup{ID: "b", Timeline: 1, Start: 100}
	looks, judged := 0, make(chan struct{})
	stop := a.lookWhile(t.Context(), func(context.Context) {
		if looks++; looks != 3 { // a copy is away
			return
		}
		a.judge("", base)
		a.mu.Lock()
		a.listed = base.ID
		a.mu.Unlock()
		close(judged)
	})
	until := time.NewTimer(time.Minute)
	defer until.Stop()
	select {
	case <-judged:
	case <-until.C:
		t.Fatal("the vault is not looked through")
	}
	before := pauses.Load()
	for pauses.Load() < before+5 { // it goes on to pay attention
		select {
		case <-until.C:
			t.Fatal("it does not look on")
		case <-time.After(time.Millisecond):
		}
	}
	stop()
	if looks != 3 || !a.votes().Asked {
		t.Errorf("%d looks; it votes: %v", looks, a.votes().Asked)
	}
}

// What a base backup stands for counts once it is stored: its trial takes as long again.
func TestABaseBackupCountsBeforeItsTrial(t *testing.T) {
	gap := &backup.GapError{Database: "orders", Timeline: 1, From: 100, ToTimeline: 1, To: 200}
	for name, c := range map[string]struct {
		mode string
		lost *backup.GapError // meanwhile
		want string
		ask  bool
	}{
		"commits wait": {"strict", nil, "", true},
		"commits wait, and more was lost meanwhile": {"strict", &backup.GapError{Database: "orders", Timeline: 1, From: 300}, "more", false},
		"nobody waits: it counts after its trial":   {"", nil, gap.Error(), false},
	} {
		a := anArchivist(t, t.TempDir())
		a.host.applied.now.Databases = []plan.Database{{Name: "orders", ByVault: c.mode}}
		a.lost(gap)
		lost, _ := a.gapNow()
		if c.lost != nil {
			a.lost(c.lost)
			c.want = c.lost.Error()
		}
		looked := false
		b := vault.Backup{ID: "b", Timeline: 0, Start: 250}
		a.stored(t.Context(), lost, b, func(context.Context) {
			if looked = true; !a.newLead() { // what a look that fails leaves to the next one
				t.Errorf("%s: it is not looked for again", name)
			}
			a.judge("", b)
		})
		if looked != (c.mode != "") {
			t.Errorf("%s: the vault was looked through: %v", name, looked)
		}
		if got, _ := a.gapNow(); got != c.want || a.votes().Asked != c.ask {
			t.Errorf("%s: lost is %q, it votes: %v", name, got, a.votes().Asked)
		}
	}
}

package host

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/receipt"
)

// A base backup whose server changed begins again for as long as it is worth it: what a schedule wants always, what somebody
// asked for until they are better told.
func TestHowOftenABaseBackupBeginsAgain(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	one, two := &agent.Asked{ID: "one"}, &agent.Asked{ID: "two"}
	var x voids
	for n := 1; n < voidMax; n++ {
		if !x.count(one, now) || !x.until.After(now) {
			t.Fatalf("attempt %d is the last, the next waits until %s", n, x.until)
		}
	}
	if x.count(one, now) {
		t.Errorf("%d attempts, and it goes on", voidMax)
	}
	if !x.count(two, now) {
		t.Error("what another one asked for is not begun again")
	}
	for n := range 10 * voidMax {
		if !x.count(nil, now) {
			t.Fatal("what the schedule wants is given up")
		}
		want := []time.Duration{voidRest, 2 * voidRest, 4 * voidRest, 8 * voidRest, baseRetry}[min(n, 4)]
		if rest := x.until.Sub(now); rest != want {
			t.Errorf("after attempt %d it rests %s, want %s", n+1, rest, want)
		}
	}
}

func TestAVoidAttemptLeavesAReceipt(t *testing.T) {
	e := voidReceipt("orders", database.Record{Epoch: 3, Timeline: 2, Primary: "b"}, 2*time.Second, errors.New("back up orders: it was promoted\nmore"))
	if e.Kind != receipt.Backup || e.Outcome != receipt.Failed || e.Subject != "orders" || e.Figures["timeline"] != 2 || !strings.HasSuffix(e.Says, "it was promoted") {
		t.Errorf("%+v", e)
	}
}

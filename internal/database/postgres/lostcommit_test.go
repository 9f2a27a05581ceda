package postgres

import (
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
)

// A lost commit is listed as acknowledged when as many standbys as must had flushed its whole record, and else as in
// doubt: a wait that its client gave up is among those, for its record lies behind what any standby had.
func TestALostCommitIsListedAsAcknowledgedOrInDoubt(t *testing.T) {
	given := database.Parting{Timeline: 3, LSN: 0x1000, Acknowledged: 0x2000, Given: true}
	ledAway := given
	ledAway.Given = false
	for _, c := range []struct {
		name   string
		parted database.Parting
		end    walscan.LSN // of the commit's record
		want   database.LostState
	}{
		{"it ends before what was acknowledged", given, 0x1800, database.LostAcknowledged},
		{"it ends right there", given, 0x2000, database.LostAcknowledged},
		{"its record begins before that and ends behind it", given, 0x2001, database.LostInDoubt},
		{"it waited, and was cancelled: no standby had any of it", given, 0x3000, database.LostInDoubt},
		{"nobody gave anything up: behind the parting nothing was acknowledged", ledAway, 0x1800, database.LostInDoubt},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := lostCommit(walscan.Transaction{XID: 731, LSN: c.end - 0x40, End: c.end}, c.parted)
			if got.State != c.want || got.XID != 731 {
				t.Errorf("transaction %d is listed as %s, want %s", got.XID, got.State, c.want)
			}
		})
	}
	r := database.Salvage{Commits: []database.LostCommit{{State: database.LostAcknowledged}, {State: database.LostInDoubt}, {State: database.LostInDoubt}}}
	if n := r.Acknowledged(); n != 1 {
		t.Errorf("%d of three are counted as acknowledged, and one is", n)
	}
}

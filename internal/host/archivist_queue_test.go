package host

import (
	"testing"

	"holdfast/internal/database"
	"holdfast/internal/problem"
)

func TestLogThatWaitsForTheVaultIsToldBeforeItsRoomIsFull(t *testing.T) {
	const limit = 1000 << 20
	for name, c := range map[string]struct {
		head, archived database.LSN
		want           problem.Severity
		none           bool
	}{
		"there is room":                         {head: 1 + 699<<20, archived: 1, none: true},
		"at 70 %":                               {head: 1 + 700<<20, archived: 1, want: problem.Degraded},
		"below 85 %":                            {head: 1 + 849<<20, archived: 1, want: problem.Degraded},
		"at 85 %":                               {head: 1 + 850<<20, archived: 1, want: problem.Critical},
		"beyond its room":                       {head: 1 + 1200<<20, archived: 1, want: problem.Critical},
		"the vault is further than was heard":   {head: 5, archived: 6, none: true},
		"the primary is not heard":              {archived: 1, none: true},
		"how far the vault is was not seen yet": {head: 1 << 40, none: true},
	} {
		switch p := queueProblem("orders", c.head, c.archived, limit); {
		case c.none && p != nil, !c.none && p == nil:
			t.Errorf("%s: %v", name, p)
		case p != nil && (p.Severity != c.want || p.Code != "backup.queue-filling"):
			t.Errorf("%s: %s, %s", name, p.Code, p.Severity)
		}
	}
}

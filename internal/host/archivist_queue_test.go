package host

import (
	"testing"

	"holdfast/internal/backup"
	"holdfast/internal/database"
	"holdfast/internal/problem"
	"holdfast/internal/vault/wal"
)

func TestLogThatWaitsForTheVaultIsToldBeforeItsRoomIsFull(t *testing.T) {
	const limit = 1000 << 20
	for name, c := range map[string]struct {
		head, archived database.LSN
		want           problem.Severity
		none           bool
	}{
		"there is room":                       {head: 1 + 699<<20, archived: 1, none: true},
		"at 70 %":                             {head: 1 + 700<<20, archived: 1, want: problem.Degraded},
		"below 85 %":                          {head: 1 + 849<<20, archived: 1, want: problem.Degraded},
		"at 85 %":                             {head: 1 + 850<<20, archived: 1, want: problem.Critical},
		"beyond its room":                     {head: 1 + 1200<<20, archived: 1, want: problem.Critical},
		"the vault is further than was heard": {head: 5, archived: 6, none: true},
		"the primary is not heard":            {archived: 1, none: true},
		"nobody has said yet how far the vault is": {head: 1 << 40, none: true},
	} {
		switch p := queueProblem("orders", c.head, c.archived, limit); {
		case c.none && p != nil, !c.none && p == nil:
			t.Errorf("%s: %v", name, p)
		case p != nil && (p.Severity != c.want || p.Code != "backup.queue-filling"):
			t.Errorf("%s: %s, %s", name, p.Code, p.Severity)
		}
	}
}

// Whoever begins to archive while the vault is away, after a restart or a change of primary, tells by the primary's slot how
// much log waits.
func TestHowFarTheVaultIsIsKnownWhileItIsAway(t *testing.T) {
	const limit = 1000 << 20
	now := database.Record{Primary: "h2", Epoch: 7}
	says := func(at wal.LSN) seen { return seen{"h2", 7, backup.Queue{At: at}} }
	for name, c := range map[string]struct {
		told      database.LSN
		streaming bool
		said      seen
		at        database.LSN
		lost      bool
		want      problem.Severity // with the log up to 1 + 900 MiB
		none      bool
	}{
		"an agent that began a moment ago and could not ask":            {none: true},
		"an agent that began while the vault was away":                  {said: says(1), at: 1, want: problem.Critical},
		"one whose primary keeps little":                                {said: says(1 + 800<<20), at: 1 + 800<<20, none: true},
		"one that saw more stored than the slot says":                   {told: 1 + 150<<20, said: says(1), at: 1 + 150<<20, want: problem.Degraded},
		"one whose own turn is long over":                               {told: 1, said: says(1 + 850<<20), at: 1 + 850<<20, none: true},
		"a former primary's word does not count":                        {said: seen{"h1", 6, backup.Queue{At: 5}}, none: true},
		"nor does that of the same host in an earlier epoch":            {told: 1, said: seen{"h2", 6, backup.Queue{At: 1 + 850<<20, Lost: true}}, at: 1, want: problem.Critical},
		"a primary that keeps nothing for the vault says nothing of it": {said: says(0), none: true},
		"a primary that has dropped what the vault lacks":               {told: 1, said: seen{"h2", 7, backup.Queue{Lost: true}}, at: 1, lost: true, want: problem.Critical},
		"which is over once log comes in":                               {told: 1 + 800<<20, streaming: true, said: seen{"h2", 7, backup.Queue{Lost: true}}, at: 1 + 800<<20, none: true},
	} {
		at, lost := storedUpTo(c.told, c.streaming, c.said, now)
		if at != c.at || lost != c.lost {
			t.Errorf("%s: stored up to %s, lost %v", name, at, lost)
		}
		switch p := queueProblem("orders", 1+900<<20, at, limit); {
		case c.none && p != nil, !c.none && p == nil:
			t.Errorf("%s: %v", name, p)
		case p != nil && p.Severity != c.want:
			t.Errorf("%s: %s", name, p.Severity)
		}
	}
}

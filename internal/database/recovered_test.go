package database_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/database"
)

func TestARebuiltRecordIsAboveEverythingThatWasPromised(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := steady()
		r.Phase = rapid.SampledFrom([]database.Phase{database.Steady, database.Switching, database.Recruiting, database.Promoting}).Draw(t, "phase")
		if r.Phase == database.Promoting {
			r.Former, r.Timeline = voter("b2"), 4
		}
		var promises []database.Promise
		for range rapid.IntRange(0, 4).Draw(t, "promises") {
			promises = append(promises, database.Promise{Epoch: rapid.Int64Range(0, 9).Draw(t, "epoch"), Generation: rapid.Int64Range(0, 50).Draw(t, "generation")})
		}
		next := database.Recovered(r, promises, "b1", "two hosts are gone")
		if next.Epoch <= r.Epoch || next.Generation <= r.Generation || next.Phase != database.Recruiting || next.Opened {
			t.Fatalf("rebuilt as %+v", next)
		}
		for _, p := range promises {
			if next.Epoch <= p.Epoch || next.Generation <= p.Generation {
				t.Fatalf("epoch %d of generation %d is not above the promise %+v", next.Epoch, next.Generation, p)
			}
		}
		if next.W+next.E <= len(next.Voters) {
			t.Fatalf("W %d + E %d is not above %d voters", next.W, next.E, len(next.Voters))
		}
		again := database.Recovered(next, promises, "b1", "and once more")
		if again.Epoch <= next.Epoch || again.Former != next.Former || again.Assigned[len(again.Assigned)-1].Timeline <= next.Assigned[len(next.Assigned)-1].Timeline {
			t.Fatalf("rebuilt again as %+v", again)
		}
	})
}

func TestADatabaseThatNobodyHasMadeYetIsRebuiltAsItIs(t *testing.T) {
	r := database.Record{Epoch: 1, Generation: 1, Members: []string{"b1"}, Primary: "b1", W: 1, E: 1, Phase: database.Creating}
	if next := database.Recovered(r, nil, "b1", "gone"); next.Epoch != 1 || next.Phase != database.Creating {
		t.Errorf("rebuilt as %+v", next)
	}
}

// The former primary, which holds every commit of its epoch, comes back by itself after the rebuilding, but is not
// open before standbys hold what it has; a single voter that is left cannot be chosen without a forced failover.
func TestAfterARebuildingNobodyIsChosenByTooFew(t *testing.T) {
	r := database.Recovered(steady(), nil, "b1", "two hosts are gone")
	t.Run("a voter that is left waits", func(t *testing.T) {
		d, _ := database.Decide(policy(), view("b2", r, recruit(r, "b2", 3, lsn), silent("b1", time.Minute), silent("b3", time.Minute)), since(r, time.Minute))
		if got := asked(d); got != "problem database.no-candidate" {
			t.Errorf("asked for %s", got)
		}
	})
	t.Run("the former primary is promoted under a number that nobody can have used", func(t *testing.T) {
		d, _ := database.Decide(policy(), view("b1", r, gone(recruit(r, "b1", 3, lsn), "killed"), silent("b2", time.Minute), silent("b3", time.Minute)), since(r, time.Minute))
		if len(d.Actions) != 1 || d.Actions[0].Record == nil || !d.Actions[0].Record.Alone || d.Actions[0].Record.Timeline < 3+16 {
			t.Errorf("asked for %s", asked(d))
		}
	})
}

func TestAHostThatWasWrittenOffRunsNothing(t *testing.T) {
	r := steady()
	for _, c := range []struct {
		name string
		view database.View
		want string
	}{
		{"a primary is ended", view("b1", r, primary(r, "b1"), hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), "kill"},
		{"a standby is ended, for it may acknowledge for a second primary", view("b2", r, standby(r, "b2"), hears("b1", r, primary(r, "b1"))), "kill"},
		{"a stopped server stays stopped", view("b2", r, gone(standby(r, "b2"), "stopped"), hears("b1", r, primary(r, "b1"))), "nothing"},
		{"even before the agreed state was read", database.View{Self: "b2", Now: time.Hour, Local: standby(r, "b2")}, "kill"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.view.WrittenOff = "the others went on without it"
			d, _ := database.Decide(policy(), c.view, since(r, time.Minute))
			if got := asked(d); got != c.want {
				t.Errorf("asked for %s", got)
			}
			if d.Lease != 0 || d.Gate.State == database.GateOpen {
				t.Errorf("lease %s, listener %s", d.Lease, d.Gate.State)
			}
		})
	}
}

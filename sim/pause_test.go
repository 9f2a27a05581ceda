package sim_test

import (
	"testing"
	"time"

	"holdfast/sim"
)

// While a database is paused its primary may die, and nobody takes over; when the pause has ended by itself, somebody
// does. A switchover that an operator asks for meanwhile is carried out, the way back to a second standby included.
func TestAPausedDatabaseMovesOnlyOnRequest(t *testing.T) {
	pause := sim.Step{At: 30 * time.Second, Kind: sim.PauseMoves, Lasts: 25 * time.Second}
	for _, tt := range []struct {
		name   string
		script []sim.Step
		least  time.Duration // that writes stop for
		most   time.Duration
		epochs int64
	}{
		{"a primary that dies stays down until the pause is over", []sim.Step{pause, {At: 35 * time.Second, Kind: sim.CrashServer, Host: "h1"}},
			18 * time.Second, 30 * time.Second, 2},
		{"a host that dies is not replaced before that", []sim.Step{pause, {At: 35 * time.Second, Kind: sim.CrashHost, Host: "h1", Lasts: 40 * time.Second}},
			18 * time.Second, 45 * time.Second, 2},
		{"a switchover is carried out", []sim.Step{pause, {At: 35 * time.Second, Kind: sim.Switchover}}, 0, 10 * time.Second, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(4) {
				r := sim.Run(sim.Options{Seed: seed + 1, Hosts: 3, Standbys: 2, W: 1, FaultTime: 30 * time.Second, Script: tt.script})
				if r.Failure != nil {
					report(t, r)
				}
				if r.LongestWait < tt.least || r.LongestWait > tt.most || r.Epochs < 1 || r.Epochs > tt.epochs {
					t.Errorf("seed %d: writes stopped for %s (%s to %s), epoch %d (at most %d)", seed+1, r.LongestWait, tt.least, tt.most, r.Epochs, tt.epochs)
				}
			}
		})
	}
}

// A host that comes back from a power cut and stands still once more is not let go by what ends its former standstill,
// and no clock goes back.
func TestEachStandstillEndsByItself(t *testing.T) {
	script := []sim.Step{
		{At: 30 * time.Second, Kind: sim.FreezeHost, Host: "h3", Lasts: 10 * time.Second},
		{At: 31 * time.Second, Kind: sim.CrashHost, Host: "h3", Lasts: 2 * time.Second},
		{At: 34 * time.Second, Kind: sim.SuspendHost, Host: "h3", Lasts: 12 * time.Second},
		{At: 44 * time.Second, Kind: sim.SuspendHost, Host: "h3", Lasts: 4 * time.Second},
	}
	for seed := range uint64(4) {
		if r := sim.Run(sim.Options{Seed: seed + 1, Hosts: 3, Standbys: 2, W: 1, FaultTime: 30 * time.Second, Script: script}); r.Failure != nil {
			report(t, r)
		}
	}
}

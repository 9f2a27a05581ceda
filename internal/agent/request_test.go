package agent

import (
	"encoding/json"
	"testing"
	"time"

	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

func TestASwitchoverWithoutAMomentGrowsOld(t *testing.T) {
	now := time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)
	at := func(d time.Duration) map[string]string {
		return map[string]string{ArgAsked: now.Add(d).Format(time.RFC3339Nano)}
	}
	for name, c := range map[string]struct {
		args  map[string]string
		timed bool
		in    time.Duration
	}{
		"it is as old as it says":                                    {at(-6 * time.Minute), true, -6 * time.Minute},
		"a clock behind that of the host that took it delays it not": {at(time.Hour), true, 0},
		"one of an agent of before has no age":                       {nil, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if q := requestOf(Asked{Kind: "switchover", Args: c.args}, now); q.Timed != c.timed || q.In != c.in {
				t.Errorf("timed %t, in %s", q.Timed, q.In)
			}
		})
	}
}

func TestASwitchoverWithoutAMomentIsNotToldThatItPassed(t *testing.T) {
	value := func(name string) cluster.Entry {
		data, err := json.Marshal(Asked{ID: "q", Kind: "switchover", Args: map[string]string{name: "2026-03-01T04:00:00Z"}})
		if err != nil {
			t.Fatal(err)
		}
		return cluster.Entry{Value: data, Revision: 1}
	}
	core := database.Answer{ID: "q", Text: "its moment passed 6m0s ago, and nobody could take it up"}
	for name, want := range map[string]string{ArgAsked: "it was asked for 6m0s ago, and nobody could take it up", ArgAt: core.Text} {
		if got := askedWords(core, map[string]cluster.Entry{KeyRequests + "q": value(name)}); got.Text != want {
			t.Errorf("%s: %s", name, got.Text)
		}
	}
}

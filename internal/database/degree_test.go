package database_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/database"
)

func nothingAcknowledges(r database.Record) database.Record {
	r = r.Clone()
	r.W, r.E, r.Voters = 0, 3, nil
	return r
}

// Each change of the plan is carried out in one order, whatever crashes after which step.
func TestAPlanThatChangesIsFollowedStepByStep(t *testing.T) {
	r := steady()
	two := r.Clone()
	two.W, two.E = 2, 1
	withB4 := []string{"b1", "b2", "b3", "b4"}
	tests := []struct {
		name   string
		record database.Record
		change func(w *smallWorld)
		want   []string
	}{
		{"raise W: the server, a barrier, then fewer recruits", r, func(w *smallWorld) { w.policy.AcknowledgedBy = 2 }, []string{
			`names ANY 2 ("i-b2@3", "i-b3@3")`, "barrier", "record W=2 E=1 V=b2,b3 members=b1,b2,b3"}},
		{"lower W: more recruits, then the server", two, func(*smallWorld) {}, []string{
			"record W=1 E=2 V=b2,b3 members=b1,b2,b3", `names ANY 1 ("i-b2@3", "i-b3@3")`}},
		{"W 1 -> 0: nobody can be elected, then the server", r, func(w *smallWorld) { w.policy.AcknowledgedBy = 0 }, []string{
			"record W=0 E=3 V= members=b1,b2,b3", "names "}},
		{"W 2 -> 0", two, func(w *smallWorld) { w.policy.AcknowledgedBy = 0 }, []string{
			"record W=0 E=3 V= members=b1,b2,b3", "names "}},
		{"W 0 -> 1: closed, one standby, a barrier, then it is a voter and the others join", nothingAcknowledges(r), func(*smallWorld) {}, []string{
			`names ANY 1 ("closed")`, `names ANY 1 ("i-b2@3")`, "barrier", "record W=1 E=1 V=b2 members=b1,b2,b3",
			"record W=1 E=2 V=b2,b3 members=b1,b2,b3", `names ANY 1 ("i-b2@3", "i-b3@3")`}},
		{"add: a member, a voter, then the server", r, func(w *smallWorld) {
			w.policy.Hosts, w.policy.Standbys = withB4, 3
			w.standbys["b4"] = &smallStandby{incarnation: incarnation("b4"), flushed: lsn, up: true}
		}, []string{
			"record W=1 E=2 V=b2,b3 members=b1,b2,b3,b4", "record W=1 E=3 V=b2,b3,b4 members=b1,b2,b3,b4",
			`names ANY 1 ("i-b2@3", "i-b3@3", "i-b4@3")`}},
		{"remove: the server, a barrier, fewer recruits, then no member", r, func(w *smallWorld) {
			w.policy.Hosts, w.policy.Standbys = []string{"b1", "b2"}, 1
		}, []string{
			`names ANY 1 ("i-b2@3")`, "barrier", "record W=1 E=1 V=b2 members=b1,b2,b3", "record W=1 E=1 V=b2 members=b1,b2"}},
		{"remove one that is dead", r, func(w *smallWorld) {
			w.policy.Hosts, w.policy.Standbys = []string{"b1", "b2"}, 1
			w.standbys["b3"].up = false
		}, []string{
			`names ANY 1 ("i-b2@3")`, "barrier", "record W=1 E=1 V=b2 members=b1,b2,b3", "record W=1 E=1 V=b2 members=b1,b2"}},
		{"replace: the new one is a voter before the old one goes", r, func(w *smallWorld) {
			w.policy.Hosts = []string{"b1", "b2", "b4"}
			w.standbys["b4"] = &smallStandby{incarnation: incarnation("b4"), flushed: lsn, up: true}
		}, []string{
			"record W=1 E=2 V=b2,b3 members=b1,b2,b4,b3", "record W=1 E=3 V=b2,b3,b4 members=b1,b2,b4,b3",
			`names ANY 1 ("i-b2@3", "i-b3@3", "i-b4@3")`, `names ANY 1 ("i-b2@3", "i-b4@3")`, "barrier",
			"record W=1 E=2 V=b2,b4 members=b1,b2,b4,b3", "record W=1 E=2 V=b2,b4 members=b1,b2,b4"}},
		{"rename: the same data under another name leave before they join", r, func(w *smallWorld) {
			w.policy.Hosts = []string{"b1", "b2", "b4"}
			w.standbys["b4"], w.standbys["b3"].up = &smallStandby{incarnation: incarnation("b3"), flushed: lsn, up: true}, false
		}, []string{
			"record W=1 E=2 V=b2,b3 members=b1,b2,b4,b3", `names ANY 1 ("i-b2@3")`, "barrier", "record W=1 E=1 V=b2 members=b1,b2,b4,b3",
			"record W=1 E=2 V=b2,b4 members=b1,b2,b4,b3", `names ANY 1 ("i-b2@3", "i-b3@3")`, "record W=1 E=2 V=b2,b4 members=b1,b2,b4"}},
		{"asynchronous: it stays a member and votes no more", r, func(w *smallWorld) {
			w.policy.Standings = []database.Standing{{Host: "b3", Async: true}}
		}, []string{
			"record W=1 E=2 V=b2,b3 members=b1,b2,b3", `names ANY 1 ("i-b2@3")`, "barrier", "record W=1 E=1 V=b2 members=b1,b2,b3"}},
		{"relaxed, with every standby gone: nobody can be elected, then the server", r, func(w *smallWorld) {
			w.policy.Relaxed = true
			w.standbys["b2"].up, w.standbys["b3"].up = false, false
		}, []string{"record W=0 E=3 V= members=b1,b2,b3", "names "}},
		{"relaxed, with one of two gone: one suffices, then the other leaves", two, func(w *smallWorld) {
			w.policy.Relaxed, w.policy.AcknowledgedBy = true, 2
			w.standbys["b3"].up = false
		}, []string{"record W=1 E=2 V=b2,b3 members=b1,b2,b3", `names ANY 1 ("i-b2@3", "i-b3@3")`, `names ANY 1 ("i-b2@3")`, "barrier",
			"record W=1 E=1 V=b2 members=b1,b2,b3"}},
		{"strict, with one of two gone: writes wait and nothing changes", two, func(w *smallWorld) {
			w.policy.AcknowledgedBy = 2
			w.standbys["b3"].up = false
		}, nil},
		{"W is not raised to more than there are", r, func(w *smallWorld) {
			w.policy.AcknowledgedBy = 2
			w.standbys["b3"].up = false
		}, []string{`names ANY 1 ("i-b2@3")`, "barrier", "record W=1 E=1 V=b2 members=b1,b2,b3"}},
		{"the primary stays, whatever the plan says", r, func(w *smallWorld) {
			w.policy.Hosts, w.policy.Standbys, w.policy.AcknowledgedBy = []string{"b2", "b3"}, 1, 1
		}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for crash := -1; crash <= len(tt.want); crash++ {
				w := newSmallWorld(tt.record, "b2", "b3")
				tt.change(w)
				if err := w.run(crash); err != nil {
					t.Fatalf("crash after step %d: %v\n%s", crash, err, strings.Join(w.did, "\n"))
				}
				if crash < 0 && !slices.Equal(w.did, tt.want) {
					t.Fatalf("did\n%s\nwant\n%s", strings.Join(w.did, "\n"), strings.Join(tt.want, "\n"))
				}
				last := func(s []string, kind string) string {
					for _, x := range slices.Backward(s) {
						if strings.HasPrefix(x, kind) {
							return x
						}
					}
					return ""
				}
				if last(w.did, "record") != last(tt.want, "record") || last(w.did, "names") != last(tt.want, "names") {
					t.Fatalf("crash after step %d: ended at\n%s\nwant\n%s", crash, strings.Join(w.did, "\n"), strings.Join(tt.want, "\n"))
				}
			}
		})
	}
}

// Whatever the plan, the standbys and the agent's memory do meanwhile, at every instant any E voters hold all that
// was acknowledged.
func TestNoChangeOfThePlanForgetsACommit(t *testing.T) {
	all := []string{"b1", "b2", "b3", "b4", "b5"}
	rapid.Check(t, func(t *rapid.T) {
		w := newSmallWorld(steady(), "b2", "b3", "b4", "b5")
		made := 0
		for range rapid.IntRange(20, 120).Draw(t, "steps") {
			s := w.standbys[rapid.SampledFrom(w.hosts()).Draw(t, "standby")]
			switch rapid.IntRange(0, 12).Draw(t, "event") {
			case 0:
				s.up = !s.up
				w.fresh[s.incarnation] = s.up // it connects anew
			case 1:
				s.lags = !s.lags
			case 2:
				if s.up {
					made++
					s.incarnation, s.flushed, s.kept = s.incarnation+"'", w.head, 0
					w.fresh[s.incarnation] = true
				}
			case 3:
				w.memory, w.force = database.Memory{}, database.Force{}
			case 4:
				n := rapid.IntRange(1, 4).Draw(t, "standbys")
				hosts := append([]string{"b1"}, rapid.Permutation(all[1:]).Draw(t, "hosts")[:n]...)
				w.policy.Hosts, w.policy.Standbys = hosts, n
				w.policy.Standings = nil
				if n > 1 && rapid.Bool().Draw(t, "one is asynchronous") {
					w.policy.Standings = []database.Standing{{Host: hosts[n], Async: true}}
					n--
				}
				w.policy.AcknowledgedBy = rapid.IntRange(0, n).Draw(t, "acknowledged by")
				w.policy.Relaxed = rapid.Bool().Draw(t, "relaxed")
			}
			w.write()
			if err := w.meets(); err != nil {
				t.Fatalf("%v\n%s", err, strings.Join(w.did, "\n"))
			}
			if _, err := w.step(); err != nil {
				t.Fatalf("%v\n%s", err, strings.Join(w.did, "\n"))
			}
		}
		// Left alone, it comes to what the plan asks for.
		for _, s := range w.standbys {
			s.up, s.lags, s.flushed, w.fresh[s.incarnation] = true, false, w.head, true
		}
		if err := w.run(-1); err != nil {
			t.Fatal(err)
		}
		if w.record.W != w.policy.AcknowledgedBy || w.names.W != w.policy.AcknowledgedBy {
			t.Fatalf("W is %d and %s, the plan wants %d, because %v\n%s", w.record.W, w.names, w.policy.AcknowledgedBy, w.because, strings.Join(w.did, "\n"))
		}
		want := slices.Sorted(slices.Values(w.policy.Hosts))
		if got := slices.Sorted(slices.Values(w.record.Members)); !slices.Equal(got, want) {
			t.Fatalf("members %v, the plan wants %v, because %v\n%s", got, want, w.because, strings.Join(w.did, "\n"))
		}
	})
}

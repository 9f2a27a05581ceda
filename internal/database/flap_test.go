package database_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

// silenced is a record in which a host's silence has moved the primary so many times.
func silenced(r database.Record, host string, times int) database.Record {
	for i := range times {
		r.Silences = append(r.Silences, database.Silenced{Host: host, Epoch: int64(i + 1)})
	}
	return r
}

func TestTheSilenceOfAHostThatComesAndGoes(t *testing.T) {
	election := "swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"
	for _, tt := range []struct {
		moves  int
		host   string
		ago    time.Duration // when they were seen
		silent time.Duration
		want   string
	}{
		{0, "b1", time.Minute, 2500 * time.Millisecond, election},
		{2, "b1", time.Minute, 2500 * time.Millisecond, election},
		{3, "b1", time.Minute, 4500 * time.Millisecond, "nothing"},
		{3, "b1", time.Minute, 5 * time.Second, election},
		{4, "b1", time.Minute, 9500 * time.Millisecond, "nothing"},
		{4, "b1", time.Minute, 10 * time.Second, election},
		{9, "b1", time.Minute, 19500 * time.Millisecond, "nothing"},
		{9, "b1", time.Minute, 20 * time.Second, election},
		{9, "b1", 11 * time.Minute, 2500 * time.Millisecond, election},
		{9, "b3", time.Minute, 2500 * time.Millisecond, election}, // another host's are not its own
	} {
		t.Run(fmt.Sprintf("%d moves by %s %s ago, silent for %s", tt.moves, tt.host, tt.ago, tt.silent), func(t *testing.T) {
			r := silenced(steady(), tt.host, tt.moves)
			m := since(r, time.Hour)
			for _, s := range r.Silences {
				m.SilencesSeen = append(m.SilencesSeen, database.SilenceSeen{Epoch: s.Epoch, At: time.Hour - tt.ago})
			}
			v := view("b2", r, standby(r, "b2"), silent("b1", tt.silent), alsoDeaf(hears("b3", r, standby(r, "b3")), "b1", tt.silent))
			v.Advanced = database.Never
			d, _ := database.Decide(policy(), v, m)
			if got := asked(d); got != tt.want {
				t.Errorf("%s, want %s, because %v", got, tt.want, d.Because)
			}
			if tt.want == election {
				all := d.Actions[0].Record.Silences
				if last := all[len(all)-1]; last.Host != "b1" || last.Epoch != 4 || tt.ago > 10*time.Minute && len(all) != 1 {
					t.Errorf("the next record tells %+v", all)
				}
			}
		})
	}
}

// What its own host says of a server needs no silence.
func TestACrashOfAHostThatComesAndGoes(t *testing.T) {
	r := silenced(steady(), "b1", 5)
	m := since(r, time.Minute)
	m.Lost, m.LostSince = true, time.Hour-5*time.Second
	check(t, policy(), []situation{
		{"is replaced at once", view("b2", r, standby(r, "b2"), hears("b1", r, gone(primary(r, "b1"), "signal 9")), hears("b3", r, standby(r, "b3"))), m,
			"swap epoch=4 gen=21 phase=recruiting primary=b1 timeline=3 opened=false"},
	})
}

func TestAHostThatComesAndGoesIsChosenLast(t *testing.T) {
	r := silenced(steady(), "b2", 3)
	r.Primary, r.Incarnation, r.Epoch, r.Phase, r.Opened, r.Runner = "b1", incarnation("b1"), 4, database.Recruiting, false, "b3"
	r.Former = voter("b1")
	level, ahead := recruit(r, "b2", 3, lsn), recruit(r, "b2", 3, lsn+8)
	ours := recruit(r, "b3", 3, lsn)
	m := since(r, time.Second)
	m.Agreed = false
	check(t, policy(), []situation{
		{"among equals", view("b3", r, ours, silent("b1", time.Minute), hears("b2", r, level)), m,
			"swap epoch=4 gen=21 phase=promoting primary=b3 timeline=4 opened=false"},
		{"and first where it alone may hold a commit", view("b3", r, ours, silent("b1", time.Minute), hears("b2", r, ahead)), m,
			"swap epoch=4 gen=21 phase=promoting primary=b2 timeline=4 opened=false"},
	})
	now := silenced(steady(), "b2", 3)
	x := database.Explain(policy(), view("b1", now, primary(now, "b1"), hears("b2", now, standby(now, "b2")), hears("b3", now, standby(now, "b3"))), database.Decision{})
	if x.Wins != "b3" || len(x.Flaps) != 1 || x.Flaps[0].Host != "b2" || x.Flaps[0].After != 5*time.Second || !strings.Contains(x.Others[0].Why, "comes and goes") {
		t.Errorf("%+v", x)
	}
}

func TestSilencesOfLongAgoAreForgotten(t *testing.T) {
	r := silenced(steady(), "b2", 2)
	up := primary(r, "b1")
	m := since(r, time.Hour)
	m.SawPrimary, m.Names = true, up.Names
	m.SilencesSeen = []database.SilenceSeen{{Epoch: 1, At: 0}, {Epoch: 2, At: time.Hour - 9*time.Minute}}
	d, _ := database.Decide(policy(), view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), m)
	if len(d.Actions) != 0 {
		t.Errorf("one of them is recent, and %v", d.Actions)
	}
	m.SilencesSeen[1].At = time.Hour - 11*time.Minute
	d, _ = database.Decide(policy(), view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), m)
	if len(d.Actions) != 1 || len(d.Actions[0].Record.Silences) != 0 {
		t.Errorf("%v", d.Actions)
	}
}

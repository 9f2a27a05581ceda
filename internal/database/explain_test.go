package database_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

func TestExplainSaysWhoWouldWinAndWhyNotTheOthers(t *testing.T) {
	r := steady()
	up := primary(r, "b1")
	ahead := standby(r, "b3")
	ahead.Flushed += 100
	apart := standby(r, "b3")
	apart.Incarnation, apart.Promise.Incarnation = "i-new", "i-new"
	halted := r
	halted.Ends, halted.Halt = ends(sign, "b2", "b3"), &database.Halt{Sign: sign}
	nobody := r
	nobody.W, nobody.Voters, nobody.E = 0, nil, 3
	one := r
	one.E = 1
	paused := database.Decision{Pause: &database.Pause{By: "ann", Left: time.Minute}}
	for name, tt := range map[string]struct {
		v      database.View
		d      database.Decision
		wins   string
		why    map[string]string // by host, a part of it
		blocks []string          // a part of each
	}{
		"the one that is further": {view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, ahead)), database.Decision{}, "b3",
			map[string]string{"b2": "its log ends at"}, nil},
		"equal logs go by the plan's order": {view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), database.Decision{}, "b2",
			map[string]string{"b3": "comes first in the plan"}, nil},
		"too few answer": {view("b1", r, up, hears("b2", r, standby(r, "b2")), silent("b3", time.Minute)), database.Decision{}, "",
			map[string]string{"b2": "nobody can be elected", "b3": "does not answer"}, []string{"1 of 2 needed"}},
		"a copy that does not count": {view("b1", one, up, hears("b2", one, standby(one, "b2")), hears("b3", one, apart)), database.Decision{}, "b2",
			map[string]string{"b3": "counts for no commit yet"}, nil},
		"paused": {view("b1", r, up, hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3"))), paused, "b2",
			map[string]string{"b3": "comes first"}, []string{"ann paused it"}},
		"another host cannot help": {view("b1", halted, up, hears("b2", halted, standby(halted, "b2")), hears("b3", halted, standby(halted, "b3"))), database.Decision{}, "b2",
			map[string]string{"b3": "comes first"}, []string{"2 times, on b2, b3"}},
		"nobody need acknowledge": {view("b1", nobody, up, hears("b2", nobody, standby(nobody, "b2")), hears("b3", nobody, standby(nobody, "b3"))), database.Decision{}, "",
			map[string]string{"b2": "counts for no commit", "b3": "counts for no commit"}, []string{"no standby need hold"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := database.Explain(policy(), tt.v, tt.d)
			if x.Wins != tt.wins || len(x.Others) != len(tt.why) || len(x.Blocks) != len(tt.blocks) {
				t.Fatalf("wins %q, others %+v, blocks %q", x.Wins, x.Others, x.Blocks)
			}
			for _, o := range x.Others {
				if part, ok := tt.why[o.Host]; !ok || !strings.Contains(o.Why, part) {
					t.Errorf("%s: %q, want %q", o.Host, o.Why, part)
				}
			}
			for i, b := range x.Blocks {
				if !strings.Contains(b, tt.blocks[i]) {
					t.Errorf("blocks: %q, want %q", b, tt.blocks[i])
				}
			}
		})
	}
}

package database_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/database"
)

// recruitingThree is epoch 4, in which b2, b3 and b4 were asked, and E of them must answer.
func recruitingThree(standings ...database.Standing) database.Record {
	r := steady()
	r.Members, r.Voters, r.E, r.W = []string{"b1", "b2", "b3", "b4"}, []database.Voter{voter("b2"), voter("b3"), voter("b4")}, 2, 2
	r.Epoch, r.Phase, r.Opened, r.Runner, r.Standings = 4, database.Recruiting, false, "b2", standings
	r.Former = voter("b1")
	return r
}

func TestPriorityNeverCostsACommit(t *testing.T) {
	b4Never := database.Standing{Host: "b4", Promote: database.PromoteNever}
	tests := []struct {
		name      string
		standings []database.Standing
		at        map[string]database.LSN // who answered
		want      string
	}{
		{"between equals the plan's order decides", nil, map[string]database.LSN{"b2": lsn, "b3": lsn, "b4": lsn}, "b2"},
		{"between equals the gladder one is chosen", []database.Standing{{Host: "b3", Promote: database.PromoteHigh}}, map[string]database.LSN{"b2": lsn, "b3": lsn, "b4": lsn}, "b3"},
		{"and one that is promoted unwillingly is not", []database.Standing{{Host: "b2", Promote: database.PromoteLow}}, map[string]database.LSN{"b2": lsn, "b3": lsn}, "b3"},
		{"a priority never wins over a longer log", []database.Standing{{Host: "b3", Promote: database.PromoteHigh}}, map[string]database.LSN{"b2": lsn + 8, "b3": lsn}, "b2"},
		{"one that is never promoted is left out when enough others answered", []database.Standing{b4Never}, map[string]database.LSN{"b2": lsn, "b3": lsn, "b4": lsn + 8}, "b2"},
		{"but not when its answer is needed and it holds the most", []database.Standing{b4Never}, map[string]database.LSN{"b2": lsn, "b4": lsn + 8}, "b4"},
		{"nor is it preferred when it is needed and holds as much", []database.Standing{b4Never}, map[string]database.LSN{"b3": lsn, "b4": lsn}, "b3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := recruitingThree(tt.standings...)
			var peers []database.Peer
			for _, h := range []string{"b1", "b3", "b4"} {
				if at, ok := tt.at[h]; ok {
					peers = append(peers, hears(h, r, recruit(r, h, 3, at)))
				} else {
					peers = append(peers, silent(h, time.Minute))
				}
			}
			d, _ := database.Decide(policy(), view("b2", r, recruit(r, "b2", 3, tt.at["b2"]), peers...), since(r, time.Second))
			if tt.at["b2"] == 0 { // it did not answer: another runs the election
				for i, p := range peers {
					if p.Host == "b3" {
						local := peers[i].Report.Local
						peers[i] = silent("b2", time.Minute)
						d, _ = database.Decide(policy(), view("b3", r, local, peers...), since(r, 2*time.Second))
					}
				}
			}
			if len(d.Actions) != 1 || d.Actions[0].Kind != database.KindSwap || d.Actions[0].Record.Primary != tt.want {
				t.Fatalf("asked for %s, want %s as the primary: %v", asked(d), tt.want, d.Because)
			}
		})
	}
}

func TestPlannedMovesRefuseWhomThePlanHoldsBack(t *testing.T) {
	for _, tt := range []struct {
		standing database.Standing
		says     string
	}{
		{database.Standing{Host: "b3", Async: true}, "asynchronous and may lack acknowledged commits"},
		{database.Standing{Host: "b3", Async: true, Follows: "b2"}, "it follows b2"},
		{database.Standing{Host: "b3", Promote: database.PromoteNever}, "never promoted"},
	} {
		r := steady()
		r.Standings = []database.Standing{tt.standing}
		if !tt.standing.Votes() {
			r.Voters, r.E = r.Voters[:1], 1
		}
		v := view("b1", r, primary(r, "b1"), hears("b2", r, standby(r, "b2")), hears("b3", r, standby(r, "b3")))
		v.Requests = []database.Request{{ID: "q1", Kind: "switchover", To: "b3"}}
		p := policy()
		p.Standings = r.Standings
		d, _ := database.Decide(p, v, since(r, time.Minute))
		if len(d.Answers) != 1 || d.Answers[0].OK || !strings.Contains(d.Answers[0].Text, tt.says) {
			t.Errorf("%+v: answered %+v", tt.standing, d.Answers)
		}
		if why := database.Candidates(p, v)["b3"]; !strings.Contains(why, tt.says) {
			t.Errorf("%+v: the dry run says %q", tt.standing, why)
		}
	}
}

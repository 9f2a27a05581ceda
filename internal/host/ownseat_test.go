package host

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/internal/cluster/etcd"
	"holdfast/internal/problem"
)

func TestAHostSaysWhetherItsOwnMemberVotes(t *testing.T) {
	const away = "it does not answer"
	lost := errors.Join(etcd.ErrDataLost, &problem.Problem{Code: "cluster.member-lost"})
	for _, c := range []struct {
		name    string
		after   time.Duration // since the member served, or since the watching began
		served  bool
		why     string
		learner bool
		lost    error
		votes   string // yes, no, unknown
		code    string
	}{
		{"it serves", 0, false, "", false, nil, "yes", ""},
		{"it follows without a vote", 0, false, "", true, nil, "no", ""},
		{"it starts", time.Second, false, away, false, nil, "unknown", ""},
		{"it has served a moment ago", time.Second, true, away, false, nil, "yes", ""},
		{"it has not come up", ownSeatAwayMax, false, away, false, nil, "no", "cluster.member-away"},
		{"it has been away for long", ownSeatAwayMax, true, away, false, nil, "no", "cluster.member-away"},
		{"its data are gone", time.Second, true, away, false, lost, "no", "cluster.member-lost"},
		{"what a look at its data says otherwise is no verdict", time.Second, false, away, false, errors.New("no permission"), "unknown", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Unix(1000, 0)
			s := &ownSeat{served: began}
			if c.served {
				s.saw(began, "b1", "", false, nil)
			}
			s.saw(began.Add(c.after), "b1", c.why, c.learner, c.lost)
			votes, code := "unknown", ""
			if v := s.votes(); v != nil {
				votes = map[bool]string{true: "yes", false: "no"}[*v]
			}
			for _, p := range s.problems() {
				code += p.Code
				if p.Code == "cluster.member-away" && !strings.Contains(p.Remedy, "holdfast cluster replace b1") {
					t.Errorf("no way out of a member that was removed: %s", p.Remedy)
				}
			}
			if votes != c.votes || code != c.code {
				t.Errorf("it votes: %s, problem %q; want %s, %q", votes, code, c.votes, c.code)
			}
			s.saw(began.Add(time.Hour), "b1", "", false, nil)
			if v := s.votes(); v == nil || !*v || len(s.problems()) != 0 {
				t.Error("it serves again, and that is not said")
			}
		})
	}
	for name, c := range map[string]struct {
		p    etcd.Probe
		err  error
		ours uint64
		good bool
	}{
		"one that leads":                  {etcd.Probe{Leader: 5, ID: 5, ClusterID: 7}, nil, 7, true},
		"one that answers the first":      {etcd.Probe{Leader: 5, ID: 6, ClusterID: 7}, nil, 0, true},
		"one without a majority":          {etcd.Probe{ID: 5, ClusterID: 7}, nil, 7, false},
		"one of another cluster":          {etcd.Probe{Leader: 5, ClusterID: 8}, nil, 7, false},
		"one that does not answer at all": {etcd.Probe{}, errors.New("timeout"), 7, false},
	} {
		if why := notServing(c.p, c.err, c.ours); (why == "") != c.good {
			t.Errorf("%s: %q", name, why)
		}
	}
}

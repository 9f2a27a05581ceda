package database_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/internal/database"
)

func TestServersRestartInTurn(t *testing.T) {
	r := steady()
	up := []database.Pending{{Name: "max_connections", From: "100", To: "200"}}
	down := []database.Pending{{Name: "max_connections", From: "100", To: "50", Lower: true}}
	with := func(l database.Local, life string, p []database.Pending) database.Local {
		l.Life, l.Pending = life, p
		return l
	}
	lives := map[string]string{"b1": "1", "b2": "2", "b3": "3"}
	all := database.Request{ID: "r1", Kind: "restart", Lives: lives}
	pending := database.Request{ID: "r1", Kind: "restart", Lives: lives, PendingOnly: true}
	b1, b2, b3 := with(primary(r, "b1"), "1", nil), with(standby(r, "b2"), "2", nil), with(standby(r, "b3"), "3", nil)
	m := lately(since(r, time.Minute), "b1", "b2", "b3")
	old, unknown := m, since(r, time.Minute)
	old.Heard = []database.Heard{{Host: "b2", After: time.Hour - 6*time.Second, Bounded: true}, m.Heard[2]}
	prepared := m
	prepared.Prepared = "r1"
	on := func(self string, q database.Request, ls ...database.Local) database.View {
		hosts, locals := []string{"b1", "b2", "b3"}, map[string]database.Local{}
		var peers []database.Peer
		for i, h := range hosts {
			if locals[h] = ls[i]; h != self {
				peers = append(peers, hears(h, r, ls[i]))
			}
		}
		return while(view(self, r, locals[self], peers...), q)
	}
	oneStreams := b1
	oneStreams.Senders = b1.Senders[1:]
	stopped := gone(b2, "stopped")
	stopped.Life = ""
	unread := b3
	unread.Unapplied = true
	elsewhere := b3 // its host has not taken over the plan that the others know
	elsewhere.Settings = "of before"
	stands := b2
	stands.Stands = true
	switching := "swap epoch=3 gen=21 phase=switching primary=b1 timeline=3 opened=false"
	check(t, policy(), []situation{
		{"the first standby restarts first", on("b2", all, b1, b2, b3), m, "stop"},
		{"the second waits for it", on("b3", all, b1, b2, b3), m, "nothing"},
		{"and while it is away", on("b3", all, oneStreams, stopped, b3), m, "nothing"},
		{"and until it counts again", on("b3", all, oneStreams, with(b2, "2b", nil), b3), m, "nothing"},
		{"then it restarts", on("b3", all, b1, with(b2, "2b", nil), b3), m, "stop"},
		{"the first does not go again", on("b2", all, b1, with(b2, "2b", nil), b3), m, "nothing"},
		{"the primary waits for all of them", on("b1", all, b1, with(b2, "2b", nil), b3), m, "nothing"},
		{"then its switchover is prepared", on("b1", all, b1, with(b2, "2b", nil), with(b3, "3b", nil)), m, "checkpoint"},
		{"and begins", on("b1", all, b1, with(b2, "2b", nil), with(b3, "3b", nil)), prepared, switching},
		{"when all were restarted it is told", on("b1", all, with(b1, "1b", nil), with(b2, "2b", nil), with(b3, "3b", nil)), m, "answer true"},
		{"nothing happens where nothing waits", on("b1", pending, b1, b2, b3), m, "answer true"},
		{"only who waits restarts: not the first", on("b2", pending, b1, b2, with(b3, "3", up)), m, "nothing"},
		{"only who waits restarts: the second", on("b3", pending, b1, b2, with(b3, "3", up)), m, "stop"},
		{"a standby whose primary must come down first waits", on("b2", pending, with(b1, "1", down), with(b2, "2", down), with(b3, "3", down)), m, "nothing"},
		{"that primary is prepared at once", on("b1", pending, with(b1, "1", down), with(b2, "2", down), with(b3, "3", down)), m, "checkpoint"},
		{"and restarts in place", on("b1", pending, with(b1, "1", down), with(b2, "2", down), with(b3, "3", down)), prepared, switching},
		{"nobody's restart is judged before its settings were read", on("b1", pending, b1, b2, unread), m, "nothing"},
		{"nor before its host knows the same plan", on("b1", pending, b1, b2, elsewhere), m, "nothing"},
		{"nor before our own host's look is by that plan", on("b1", pending, func() database.Local { l := b1; l.Settings = "of before"; return l }(), b2, b3), m, "nothing"},
		{"nor when it was restarted meanwhile, for it may have begun by the plan of before", on("b1", pending, b1, b2, with(elsewhere, "3b", nil)), m, "nothing"},
		{"who restarts for another reason need not know it", on("b3", all, b1, with(b2, "2b", nil), elsewhere), m, "stop"},
		{"a standby whose replay stands still for its settings restarts unasked", on("b2", database.Request{}, b1, stands, b3), m, "stop"},
		{"a standby whose agent stood still may not have heard of the plan", on("b1", pending, b1, b2, b3), old, "nothing"},
		{"nor one that was never heard of before", on("b1", pending, b1, b2, b3), unknown, "nothing"},
		{"settings that are not in the file are brought there", on("b3", database.Request{}, b1, b2, unread), m, "reload"},
		{"one that was stopped for its restart is not left so by a pause", func() database.View {
			l := stopped
			l.Following = r.Epoch
			v := on("b2", all, b1, l, b3)
			v.Requests = append(v.Requests, pausing(time.Hour))
			return v
		}(), m, "recruit epoch=3"},
	})

	t.Run("in place the stopped primary comes back alone", func(t *testing.T) {
		s := r
		s.Phase, s.Opened, s.SwitchTo, s.Switch = database.Switching, false, "b1", "r1"
		l := gone(recruit(s, "b1", 3, lsn), "stopped")
		l.ShutDown, l.Promise.Epoch, l.Position.Epoch = true, 4, 4
		m := since(s, time.Second)
		m.SawPrimary, m.WasAlone, m.AloneAt = true, true, time.Hour-time.Minute
		check(t, policy(), []situation{{"whenever it last did so", view("b1", s, l, hears("b2", s, b2), hears("b3", s, b3)), m,
			"swap epoch=4 gen=21 phase=promoting primary=b1 timeline=4 opened=false"}})
	})
}

func TestADryRunShowsTheOrderOfARestart(t *testing.T) {
	r := steady()
	local := func(l database.Local, life string, p ...database.Pending) database.Local {
		l.Life, l.Pending = life, p
		return l
	}
	hosts := func(steps []database.RestartStep) (out []string) {
		for _, s := range steps {
			out = append(out, s.Host+" "+s.State)
		}
		return out
	}
	up := database.Pending{Name: "max_connections", From: "100", To: "200"}
	down := database.Pending{Name: "max_connections", From: "100", To: "50", Lower: true}
	for _, tt := range []struct {
		name    string
		p       []database.Pending
		pending bool
		want    []string
	}{
		{"all of them, the primary last", nil, false, []string{"b2 waits", "b3 waits", "b1 waits"}},
		{"none that needs it not", nil, true, []string{"b2 done, or not needed", "b3 done, or not needed", "b1 done, or not needed"}},
		{"standbys first when a setting comes up", []database.Pending{up}, true, []string{"b2 waits", "b3 waits", "b1 waits"}},
		{"the primary first when it comes down", []database.Pending{down}, true, []string{"b1 waits", "b2 waits", "b3 waits"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := view("b1", r, local(primary(r, "b1"), "1", tt.p...), hears("b2", r, local(standby(r, "b2"), "2", tt.p...)), hears("b3", r, local(standby(r, "b3"), "3", tt.p...)))
			if diff := cmp.Diff(tt.want, hosts(database.PlanRestart(policy(), v, tt.pending))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

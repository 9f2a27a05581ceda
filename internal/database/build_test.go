package database_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// The world of these tests: orders on b1 (primary), b2 and b3, one standby must acknowledge.
const (
	systemID = 7001
	lsn      = database.LSN(0x3000000)
)

func policy() database.Policy {
	return database.Policy{
		Name: "orders", Hosts: []string{"b1", "b2", "b3"}, Standbys: 2, AcknowledgedBy: 1, Times: database.DefaultTimes(),
	}
}

// incarnation is the first one of a host.
func incarnation(host string) string { return "i-" + host }

func voter(host string) database.Voter {
	return database.Voter{Host: host, Incarnation: incarnation(host)}
}

// steady is epoch 3 with b1 as the open primary on timeline 3.
func steady() database.Record {
	return database.Record{
		Epoch: 3, Generation: 20, Members: []string{"b1", "b2", "b3"}, SystemID: systemID,
		Primary: "b1", Incarnation: incarnation("b1"), Voters: []database.Voter{voter("b2"), voter("b3")}, E: 2, W: 1,
		Phase: database.Steady, Timeline: 3, Opened: true, Runner: "b1",
		Forks: []database.Fork{{Timeline: 2, Epoch: 1, Parent: 1, LSN: 0x1000000}, {Timeline: 3, Epoch: 3, Parent: 2, LSN: 0x2000000}},
	}
}

func history(r database.Record) []database.Fork {
	h := slices.Clone(r.Forks)
	for i := range h {
		h[i].Epoch = 0
	}
	return h
}

func names(r database.Record) database.Names {
	n := database.Names{W: r.W}
	for _, v := range r.Voters {
		n.List = append(n.List, database.StandbyName(v.Incarnation, r.Epoch))
	}
	slices.Sort(n.List)
	return n
}

// standby is a healthy follower of record r.
func standby(r database.Record, host string) database.Local {
	return database.Local{
		Known: true, Data: database.DataPresent, SystemID: systemID, Incarnation: incarnation(host),
		Promise:   database.Promise{Epoch: r.Epoch, Generation: r.Generation, Incarnation: incarnation(host)},
		PromiseOK: true, Running: true, Role: database.Standby, Ready: true, Timeline: r.Timeline, History: history(r),
		Flushed: lsn, Following: r.Epoch, Receiving: true, NamesOK: true, Names: database.Closed(),
	}
}

// recruit is a standby that has answered in record r's epoch.
func recruit(r database.Record, host string, timeline uint32, at database.LSN) database.Local {
	l := standby(r, host)
	l.Following, l.Receiving = 0, false
	l.Position = database.Position{Epoch: r.Epoch, Timeline: timeline, LSN: at}
	return l
}

// primary is a healthy primary of record r, with every voter streaming.
func primary(r database.Record, host string) database.Local {
	l := standby(r, host)
	l.Role, l.Following, l.Receiving, l.Admits, l.RolesReady = database.Primary, 0, false, true, true
	l.Names = names(r)
	for _, v := range r.Voters {
		l.Senders = append(l.Senders, sender(r, v, lsn))
	}
	return l
}

func sender(r database.Record, v database.Voter, at database.LSN) database.Sender {
	return database.Sender{
		Name: database.StandbyName(v.Incarnation, r.Epoch), State: "streaming", Sync: "quorum", Flushed: at, Fresh: true,
	}
}

// gone is what a host says of a server whose whole process tree has ended.
func gone(l database.Local, exit string) database.Local {
	l.Running, l.TreeGone, l.Exit, l.Role, l.Ready, l.Admits, l.Senders = false, true, exit, database.NoRole, false, false, nil
	l.Following, l.Receiving = 0, false
	return l
}

// view is what self knows when everybody is heard.
func view(self string, r database.Record, local database.Local, others ...database.Peer) database.View {
	slices.SortFunc(others, func(a, b database.Peer) int { return strings.Compare(a.Host, b.Host) })
	return database.View{
		Self: self, Now: time.Hour, Known: true, Record: r, Revision: 500, RecordAge: 100 * time.Millisecond,
		Local: local, Peers: others, Advanced: 100 * time.Millisecond,
	}
}

// hears is a peer whose last beat is young.
func hears(host string, r database.Record, l database.Local) database.Peer {
	return database.Peer{
		Host: host, AgentAge: 100 * time.Millisecond, GateAge: 100 * time.Millisecond, Contact: 100 * time.Millisecond,
		Report: &database.Report{Local: l, Epoch: r.Epoch, Revision: 500, Advanced: database.Never},
	}
}

// lately is a memory of peers whose looks at their servers are known to be of a moment ago.
func lately(m database.Memory, hosts ...string) database.Memory {
	for _, h := range hosts {
		m.Heard = append(m.Heard, database.Heard{Host: h, After: time.Hour - time.Second, Newest: time.Hour - time.Second, Bounded: true})
	}
	return m
}

// silent is a peer that nobody has heard for d.
func silent(host string, d time.Duration) database.Peer {
	return database.Peer{Host: host, AgentAge: d, GateAge: d, Contact: d}
}

// alsoDeaf makes a peer say that it, too, has heard nothing of host for d.
func alsoDeaf(p database.Peer, host string, d time.Duration) database.Peer {
	rep := *p.Report
	rep.Silent = []database.Silence{{Host: host, Agent: d, Gate: d}}
	p.Report = &rep
	return p
}

// since is a memory that has known record r for d at time.Hour.
func since(r database.Record, d time.Duration) database.Memory {
	return database.Memory{Epoch: r.Epoch, Phase: r.Phase, PhaseSince: time.Hour - d, Agreed: true, AgreedAt: time.Hour - d}
}

// asked is what a decision asks for, in a word and a half, or "nothing". Problems that only say that there is less
// margin are left out.
func asked(d database.Decision) string {
	var all []string
	for _, a := range d.Actions {
		all = append(all, a.String())
	}
	if d.Interrupt {
		all = append(all, "interrupt")
	}
	for _, p := range d.Problems {
		if p.Severity == problem.Critical {
			all = append(all, "problem "+p.Code)
		}
	}
	for _, a := range d.Answers {
		all = append(all, fmt.Sprintf("answer %t", a.OK))
	}
	if len(all) == 0 {
		return "nothing"
	}
	return strings.Join(all, "; ")
}

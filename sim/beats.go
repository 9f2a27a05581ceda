package sim

import (
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
)

// beatLoop beats at a steady pace and notices when it does not.
func (a *agentLife) beatLoop() {
	due := a.h.clock() + beatEvery
	a.beat()
	a.after(beatEvery, func() {
		if a.h.clock() > due+lateAfter {
			a.lateUntil = a.h.clock() + lateLasts
			a.w.note(a.h.name, "its timers ran late")
		}
		a.beatLoop()
	})
}

// beat tells every peer the newest report, and which of the peer's own beats was heard last.
func (a *agentLife) beat() {
	a.seq++
	seq, report := a.seq, a.report
	a.w.check.told(a.h.name, a.local.Promise)
	a.sent = append(a.sent, a.h.clock())
	for _, to := range a.h.others() {
		heardLife, heardSeq := a.peers[to.index].life, a.peers[to.index].seq
		a.w.beat(a.h, to, func() {
			b := to.agent
			if b == nil {
				return
			}
			b.hold(func() { b.hear(a, seq, report, heardLife, heardSeq) })
		})
	}
}

func (a *agentLife) hear(from *agentLife, seq int, report *agent.Report, heardLife *agentLife, heardSeq int) {
	p := &a.peers[from.h.index]
	if p.life == from && seq <= p.seq {
		return // twice, or overtaken
	}
	p.life, p.seq, p.at = from, seq, a.h.clock()
	if len(report.Databases) > 0 {
		p.report = report
		a.h.overruled = max(a.h.overruled, report.Recovery)
	}
	if heardLife == a && heardSeq > 0 {
		p.contact = max(p.contact, a.sent[heardSeq-1])
	}
	a.wakeIn(20 * time.Millisecond)
}

// signature stands for what peers should hear of at once.
type signature struct {
	revision    int64
	data        database.DataState
	incarnation string
	promise     database.Promise
	position    database.Position
	running     bool
	treeGone    bool
	role        database.Role
	ready       bool
	following   int64
	receiving   bool
	timeline    uint32
	stopping    bool
	late        bool
}

func (a *agentLife) sign() signature {
	r := a.report.Databases[databaseName]
	if r == nil {
		return signature{}
	}
	l := &r.Local
	return signature{r.Revision, l.Data, l.Incarnation, l.Promise, l.Position, l.Running, l.TreeGone, l.Role, l.Ready,
		l.Following, l.Receiving, l.Timeline, l.Stopping, r.Late}
}

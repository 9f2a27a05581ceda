package sim

import (
	"context"
	"slices"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/database/databasetest"
)

const (
	stuckPatience   = 12 * time.Second // clients are not served for so long before the operator forces anything
	operatorEvery   = 3 * time.Second
	operatorGivesUp = 40 * time.Second // on one request
)

// operator watches over the world when [Options.Operator] says so: it forces a failover when nobody is served, and
// settles what is put aside afterwards. It asks one host after the other, and believes what that one says.
type operator struct {
	w     *World
	asked string // id of the forced failover under way
}

func (w *World) startOperator() {
	o := &operator{w: w}
	w.at(operatorEvery, o.look)
}

func (o *operator) look() {
	w := o.w
	w.at(operatorEvery, o.look)
	if o.asked != "" && slices.ContainsFunc(w.openRequests(w.site), func(q *request) bool { return q.ID == o.asked }) {
		return
	}
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	if a := h.agent; a == nil || a.paused || h.frozen || !a.known || h.site != w.site {
		return
	}
	if w.now-w.check.ackAt > stuckPatience && w.check.ackAt > 0 {
		o.force(h)
	}
	o.settle()
}

// force asks one host what a forced failover would lose, and accepts it.
func (o *operator) force(h *host) {
	w := o.w
	f := h.agent.facts()
	v := agent.ViewOf(h.name, f, f.Databases[0])
	to := ""
	if w.chance(4) {
		to = w.hosts[w.rng.IntN(len(w.hosts))].name
	}
	k := database.FailoverRisk(w.policy, v, h.agent.closed, to)
	w.note(h.name, "would fail over to %q of %s, refused: %s; warned: %v", k.Chosen, k.Primary, k.Refused, k.Warn)
	if k.Refused != "" {
		return
	}
	o.asked = w.wish(database.Request{Kind: "failover", To: to, Via: h.name, Former: k.Former, Floor: k.At})
}

// settle decides about everything that waits, where the plan leaves that to a person; else it is the plan's work.
func (o *operator) settle() {
	w := o.w
	if w.opt.Salvage != database.SalvageKeep {
		for _, h := range w.hosts {
			if a := h.agent; a == nil || a.paused || h.frozen || !a.known {
				continue
			}
			if k, ok := database.ToSalvage(w.policy.Salvage, h.agent.record, h.name, h.srv.Observe(context.Background())); ok && w.chance(2) && h.srv.Salvage("exported") {
				w.note(h.name, "%s exported", k.ID)
			}
		}
		return
	}
	for _, l := range w.check.record.Losses {
		for _, x := range l.Left {
			if x.Settled == "" && l.Fork.Timeline != 0 && x.Kept != "" && w.chance(2) {
				w.wish(database.Request{Kind: "settle", To: x.Host, Kept: x.Kept, Text: "exported"})
				return
			}
		}
	}
}

// wish is a request that the operator gives up when nobody answers.
func (w *World) wish(q database.Request) string {
	asked := w.ask(q)
	w.at(operatorGivesUp, func() { asked.settled = true })
	return asked.ID
}

// gaveUp reports whether an operator accepted the loss of what lies at a place of an epoch's log.
func (c *checker) gaveUp(epoch int64, end database.LSN) bool {
	return slices.ContainsFunc(c.losses, func(l database.Loss) bool {
		return l.Fork.Parent != 0 && epoch < l.Epoch && end > l.Fork.LSN
	})
}

// statements takes the losses that a record confirms, and holds them against who has what: nothing is given up that
// somebody held who answered.
func (c *checker) statements(r database.Record) {
	for _, l := range r.Losses {
		known := slices.ContainsFunc(c.losses, func(x database.Loss) bool { return x.Request == l.Request })
		if known || l.Fork.Timeline == 0 || l.Fork.Parent == 0 { // of a rebuilding: rebuiltOn
			continue
		}
		c.losses = append(c.losses, l)
		c.w.note("", "given up by %s: what %v held behind %s", l.By, l.Left, l.Fork.LSN)
		for _, a := range c.acks {
			if a.epoch >= l.Epoch || a.end <= l.Fork.LSN {
				continue
			}
			c.given++
			for _, host := range c.w.copies(a.id) {
				if !slices.ContainsFunc(l.Left, func(x database.Left) bool { return x.Host == host }) {
					c.w.fail("a loss is what was stated", "row %d is given up, and %s holds it, which was not left behind: %v", a.id, host, l.Left)
				}
			}
		}
	}
}

// leftBehind reports whether a host's older epochs were given up: it may go on for a while where nobody reaches it.
func (c *checker) leftBehind(host string, epoch int64) bool {
	return slices.ContainsFunc(slices.Concat(c.losses, c.record.Losses), func(l database.Loss) bool {
		return epoch < l.Epoch && slices.ContainsFunc(l.Left, func(x database.Left) bool { return x.Host == host })
	})
}

// kept reports whether the primary holds a row, or, where its disk was lost since the copy of it was begun, some voter.
func (c *checker) kept(id int) bool {
	holds := c.w.copies(id)
	if i := slices.IndexFunc(c.w.hosts, func(h *host) bool { return h.name == c.record.Primary }); i >= 0 && len(c.w.hosts[i].srv.Log()) > 0 {
		return slices.Contains(holds, c.record.Primary)
	}
	return slices.ContainsFunc(c.record.Voters, func(v database.Voter) bool { return slices.Contains(holds, v.Host) })
}

// Discarded implements [databasetest.Observer].
func (c *checker) Discarded(host string, e databasetest.Entry, listed bool) {
	if !listed && !c.kept(e.ID) { // what it copies may itself be behind the primary
		c.w.fail("nothing is thrown away unlisted", "%s threw away row %d of epoch %d, and put nothing aside before", host, e.ID, e.Epoch)
	}
	if c.w.opt.Salvage != database.SalvageExport || slices.Contains(c.w.copies(e.ID), c.record.Primary) {
		return
	}
	acked := slices.ContainsFunc(c.acks, func(a ack) bool { return a.id == e.ID })
	salvaged := false
	for _, h := range c.w.hosts {
		salvaged = salvaged || h.srv.Salvaged(e.ID)
	}
	if acked && !salvaged && c.gaveUp(e.Epoch, e.End) {
		c.w.fail("nothing that was given up is thrown away before the plan's salvage", "%s threw away row %d of epoch %d", host, e.ID, e.Epoch)
	}
}

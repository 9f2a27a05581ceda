package database

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/problem"
)

// Reads is what the plan asks of the read-only listener. The zero value: there is none.
type Reads struct {
	MaxLag  time.Duration     // a standby that is further behind is not read; 0 = no read-only listener
	Primary bool              // with no standby to read, sessions go to the primary
	Site    map[string]string // where each host stands, to prefer what is near
}

// ReadOrder is where this host's read-only listener leads. The listener refuses an epoch below the highest that
// it knows, and drops a member by itself when its time is over.
type ReadOrder struct {
	Epoch      int64        `json:"epoch"`
	Generation int64        `json:"generation"`
	Members    []ReadMember `json:"members"` // sorted by host
	Out        []ReadOut    `json:"out"`     // the others, sorted by host
	Primary    bool         `json:"primary"` // with no member, lead to where the listener for writes leads
}

// ReadMember is a standby that may be read.
type ReadMember struct {
	Host string        `json:"host"`
	To   Endpoint      `json:"to"`   // empty in a decision; the agent fills it in
	Near int           `json:"near"` // 0 = this host, 1 = this site, 2 = elsewhere
	Keep bool          `json:"keep"` // sessions that it has go on, and it gets no new ones
	Lag  time.Duration `json:"lag"`
	For  time.Duration `json:"for"` // without another order it may be read for so long
}

// ReadOut is a member of the database that may not be read, and why.
type ReadOut struct {
	Host string `json:"host"`
	Why  string `json:"why"`
}

// Equal compares what a listener does, not the times.
func (o ReadOrder) Equal(p ReadOrder) bool {
	return o.Epoch == p.Epoch && o.Generation == p.Generation && o.Primary == p.Primary && slices.Equal(o.Out, p.Out) &&
		slices.EqualFunc(o.Members, p.Members, func(a, b ReadMember) bool {
			return a.Host == b.Host && a.Near == b.Near && a.Keep == b.Keep
		})
}

// Why says for people who is out, and for what reason.
func (o ReadOrder) Why() string {
	var parts []string
	for _, x := range o.Out {
		parts = append(parts, x.Host+": "+x.Why)
	}
	return strings.Join(parts, "; ")
}

// followGrace is how long a standby keeps its sessions after a new primary was opened to clients, without yet
// having shown that it follows: setting up the stream anew takes a fraction of it.
const followGrace = 2 * time.Second

// reads says which standbys this host's read-only listener leads to.
func (j *judgement) reads() {
	r := &j.v.Record
	if j.p.Reads.MaxLag == 0 || j.v.Revision == 0 {
		return
	}
	serves := r.Phase == Steady && r.Opened
	switch {
	case !serves:
		j.m.ServesIn = 0
	case j.m.ServesIn != r.Epoch:
		j.m.ServesIn, j.m.ServesSince = r.Epoch, j.v.Now
	}
	o := &ReadOrder{Epoch: r.Epoch, Generation: r.Generation, Primary: j.p.Reads.Primary}
	var reading []string
	members := slices.Clone(r.Members)
	slices.Sort(members)
	for _, host := range slices.Compact(members) {
		m, why := j.readable(host, serves)
		if why != "" {
			o.Out = append(o.Out, ReadOut{Host: host, Why: why})
			continue
		}
		o.Members = append(o.Members, m)
		reading = append(reading, host)
	}
	j.m.Reading = reading
	j.noReader(o, serves)
	j.d.Read = o
}

// noReader says that the read-only listener has nobody to lead to. The primary's host says it for all.
func (j *judgement) noReader(o *ReadOrder, serves bool) {
	if !serves || j.v.Self != j.v.Record.Primary || slices.ContainsFunc(o.Members, func(m ReadMember) bool { return !m.Keep }) {
		return
	}
	meaning := "Clients of the read-only listener are refused. Writes, and reads through the other listener, go on."
	if o.Primary {
		meaning = "Clients of the read-only listener are led to the primary, as the plan asks (read_fallback: primary)."
	}
	j.problem(problem.Problem{
		Code: "database.no-reader", Severity: problem.Degraded, Title: "no standby may be read",
		Meaning: meaning, Remedy: "the table of its servers says why each is not read: holdfast status",
	})
}

// readable judges one member; why is "" when it may be read.
func (j *judgement) readable(host string, serves bool) (m ReadMember, why string) {
	r := &j.v.Record
	m = ReadMember{Host: host, Near: j.near(host)}
	if host == r.Primary {
		return m, "is the primary"
	}
	l, behind, of := j.v.Local, j.d.Behind, j.d.BehindOf
	if host != j.v.Self {
		p, ok := j.peer(host)
		told, bounded := j.told(host)
		if !ok || p.Report == nil || !bounded {
			return m, "has not been heard yet"
		}
		l, behind, of = p.Report.Local, p.Report.Behind, p.Report.BehindOf
		if behind < Never {
			behind += j.v.Now - told
		}
	}
	was := slices.Contains(j.m.Reading, host)
	limit := j.p.Reads.MaxLag
	if !was {
		limit = limit * 3 / 4 // one that comes back stays for a while
	}
	switch {
	case !l.Known || l.Data != DataPresent || !l.Running:
		return m, "does not run"
	case l.Role != Standby || !l.Ready:
		return m, "does not answer queries as a standby"
	case l.Stopping:
		return m, "is being stopped"
	case !l.Admits:
		return m, "does not let clients in yet"
	case behind == Never:
		return m, "has not been level with the primary yet"
	case behind > limit:
		return m, fmt.Sprintf("may be %s behind; %s are allowed", behind.Round(100*time.Millisecond), limit)
	case serves && of < r.Epoch && (!was || j.v.Now-j.m.ServesSince > followGrace):
		return m, "has not been level with the new primary yet"
	}
	m.Keep = serves && of < r.Epoch || r.Phase == Switching && r.SwitchTo == host
	m.Lag, m.For = behind, j.p.Reads.MaxLag-behind
	return m, ""
}

// near ranks a host by its distance from this one.
func (j *judgement) near(host string) int {
	switch site := j.p.Reads.Site; {
	case host == j.v.Self:
		return 0
	case site[host] != "" && site[host] == site[j.v.Self]:
		return 1
	}
	return 2
}

// admitReaders lets clients into our standby while the plan has a read-only listener, and shuts them out when it
// has none. Promote shuts them out first, and ends the sessions that are there.
func (j *judgement) admitReaders() {
	l := &j.v.Local
	wanted := j.p.Reads.MaxLag > 0
	switch {
	case wanted && !l.Admits && l.Ready && l.Receiving:
		j.do(Action{Kind: KindAdmit, Clients: true, Why: "the read-only listener may lead here"})
	case !wanted && l.Admits:
		j.do(Action{Kind: KindAdmit, Clients: false, Why: "the plan has no read-only listener"})
	}
}

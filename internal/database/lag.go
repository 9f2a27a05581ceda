package database

import (
	"slices"
	"time"
)

// How far behind a standby is, told without comparing two clocks. The primary's host tells with each look at its
// server how far the log was flushed; a standby's host keeps each such mark with an instant of its own clock that
// lies before the look, and a mark that its server has replayed proves that everything the primary had flushed by
// that instant can be read. Lag is the age of the newest proof: it may be more than the truth, by the pace of
// looks and beats, and is never less. An idle primary writes a sign of life twice a second, so its proofs go on.

// Look is one look at a server, and how far behind it was then: fixed when it was first told. The ages go on at the
// reader, who knows by Began that nothing new has been seen.
type Look struct {
	Began    time.Duration `json:"began"`     // names the look, on its host's own clock
	Looked   time.Duration `json:"looked"`    // how old it was when it was first told
	Behind   time.Duration `json:"behind"`    // a standby: at most so far behind the primary then; Never if unknown
	BehindOf int64         `json:"behind_of"` // epoch of that primary

	// Confirmed: a primary had its lease when this was first told, so no other one was open by then. A host that was
	// frozen may still look at its old server before that is fenced.
	Confirmed bool `json:"confirmed,omitempty"`
}

// ReadMemory is what [Memory] holds for the read-only listener.
type ReadMemory struct {
	Heard       []Heard       // what peers told of their servers, sorted by host
	Level       Level         // standby: when it was last known to be level
	Marks       []Mark        // of the primary, oldest first, that our standby has not replayed
	MarksOf     int64         // their epoch
	MarkOf      time.Duration // the primary's look that the last one is of
	Reading     []string      // standbys that the read-only listener led to at the last judgement
	ServesIn    int64         // epoch whose primary was seen open, and since when
	ServesSince time.Duration
}

// Heard is what one host remembers of a peer's looks at its server, to know how old what it tells can be at most.
type Heard struct {
	Host   string
	Began  time.Duration // names the look that it told last; on that host's own clock
	After  time.Duration // that look was first told after this instant of ours, if Bounded
	Newest time.Duration // when our newest beat was sent that it confirmed while it told this look

	Bounded bool
}

// Mark is how far the primary of an epoch had flushed its log at some moment after At.
type Mark struct {
	LSN LSN
	At  time.Duration
}

// Level is the newest proof of a standby.
type Level struct {
	Known bool
	Epoch int64         // of the primary that it was compared with
	At    time.Duration // everything which that primary had flushed at this instant is replayed
	LSN   LSN           // what it had flushed; a server that is restarted may fall back behind it
}

// marksMax bounds the marks that wait to be replayed: at two a second half a minute at full resolution, and
// beyond that every other one is let go, which makes a lag larger and never smaller.
const marksMax = 64

// hear notes which look each peer tells, and how old it can be at most.
func (j *judgement) hear() {
	all := make([]Heard, 0, len(j.v.Peers))
	for _, p := range j.v.Peers {
		i := slices.IndexFunc(j.m.Heard, func(h Heard) bool { return h.Host == p.Host })
		known := i >= 0
		h := Heard{Host: p.Host}
		if known {
			h = j.m.Heard[i]
		}
		if p.Report == nil || p.Contact == Never {
			if known {
				all = append(all, h)
			}
			continue
		}
		confirmed := j.v.Now - p.Contact
		switch {
		case !known:
			h.Began, h.Newest = p.Report.Began, confirmed
		case h.Began != p.Report.Began:
			// The look of before was still told after our beat of h.Newest had been sent: this one is later.
			h.Began, h.After, h.Bounded, h.Newest = p.Report.Began, h.Newest, true, max(h.Newest, confirmed)
		default:
			h.Newest = max(h.Newest, confirmed)
		}
		all = append(all, h)
	}
	j.m.Heard = all
}

// told is the instant after which a peer first told what it tells now; false while that is not known.
func (j *judgement) told(host string) (time.Duration, bool) {
	for _, h := range j.m.Heard {
		if h.Host == host {
			return h.After, h.Bounded
		}
	}
	return 0, false
}

// measure proves how far behind our own standby is.
func (j *judgement) measure() {
	v, r, l := &j.v, &j.v.Record, &j.v.Local
	j.d.Behind = Never
	if !l.Known || l.Role != Standby || !l.Ready || r.Primary == v.Self || j.m.Level.Known && l.Replayed < j.m.Level.LSN {
		j.m.Marks, j.m.Level = nil, Level{}
		return
	}
	if j.m.MarksOf != r.Epoch {
		j.m.Marks, j.m.MarksOf, j.m.MarkOf = nil, r.Epoch, 0
	}
	// Positions compare only along one history, and a stream is set up only when ours was proved to be a prefix.
	follows := l.Promise.Epoch == r.Epoch && l.Following == r.Epoch
	if rep, up := j.primaryReport(); up && follows && rep.Confirmed && rep.Local.Ready && (r.Phase == Steady || r.Phase == Switching) {
		if told, ok := j.told(r.Primary); ok && rep.Began != j.m.MarkOf {
			j.m.MarkOf = rep.Began
			j.m.Marks = append(slices.Clone(j.m.Marks), Mark{LSN: rep.Local.Flushed, At: told - rep.Looked})
		}
	}
	for follows && len(j.m.Marks) > 0 && j.m.Marks[0].LSN <= l.Replayed {
		j.m.Level = Level{Known: true, Epoch: r.Epoch, At: j.m.Marks[0].At, LSN: j.m.Marks[0].LSN}
		j.m.Marks = j.m.Marks[1:]
	}
	if len(j.m.Marks) > marksMax {
		var thin []Mark
		for i, m := range j.m.Marks {
			if i%2 == 1 {
				thin = append(thin, m)
			}
		}
		j.m.Marks = thin
	}
	if j.m.Level.Known {
		j.d.Behind, j.d.BehindOf = v.Now-j.m.Level.At, j.m.Level.Epoch
	}
}

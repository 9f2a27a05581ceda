// Package stored lets commits be acknowledged only once the vault holds them, on top of the standbys that must. Start
// at [Decide]: it judges what the primary's host does next about that, and is carried out beside the rounds of the room
// database, which knows nothing of it: that room reads the names of a server as the most that may be acknowledged, and the
// vault only ever takes from this ([Setting]). docs/decisions/0035 gives the whole of it.
//
// What is agreed is one [Claim], beside the record. It is written before the vault is left, and after it was reached.
package stored

import (
	"fmt"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/problem"
)

// KeyPrefix is where claims lie below the root of what is agreed, by database.
const KeyPrefix = "stored/"

// Mode is what the plan asks of the vault.
type Mode string

// Modes.
const (
	Off     Mode = ""        // commits do not wait for the vault
	Strict  Mode = "strict"  // they do, for as long as it takes
	Relaxed Mode = "relaxed" // they do, until the vault has been away for a while, and that is agreed
)

// Claim is what is agreed about one database: with On, every commit that the primary of Epoch has acknowledged since is in
// the vault, and so is what was acknowledged before, for W standbys held it. It says nothing of another epoch or vault.
type Claim struct {
	Epoch   int64     `json:"epoch"`
	On      bool      `json:"on"`
	Done    bool      `json:"done,omitempty"` // without On: nobody asks for the vault, neither the plan nor the server of Epoch
	Vault   string    `json:"vault"`
	Primary string    `json:"primary"`
	Why     string    `json:"why"`
	At      time.Time `json:"at"` // by that host's clock, for people
}

// Holds reports whether c promises something of a record as it stands, and of that vault.
func (c Claim) Holds(r database.Record, vault string) bool {
	return c.On && c.Vault == vault && c.Epoch == r.Epoch && r.Phase == database.Steady && c.Primary == r.Primary
}

// Times are the limits of the judgement.
type Times struct {
	Say   time.Duration // commits that have waited for the vault so long are a problem, and it is level no more
	Leave time.Duration // relaxed: a vault that has not taken what was flushed so long ago is left
	Back  time.Duration // relaxed: a vault that has been level for so long is taken up again
}

// DefaultTimes are the figures of the decision.
func DefaultTimes() Times {
	return Times{Say: 3 * time.Second, Leave: 10 * time.Second, Back: 10 * time.Second}
}

// levelBytes is how much log may be on its way to a vault that counts as level: what comes while one object is stored.
const levelBytes = 16 << 20

// Server is what the primary's own server says.
type Server struct {
	Asks    bool         // it waits for the vault
	Open    bool         // its names can be read, and are not closed
	Between bool         // a change of that was cut short: it waits for more than anybody holds
	Foreign bool         // names of somebody else stood and were mended, and it was not asked again since
	InForce bool         // and nobody acts on an earlier setting that did not
	Mark    database.LSN // flushed when that began
	Flushed database.LSN
	Held    database.LSN // what each of the votes that are needed says; 0 = they are not all there

	// Its votes are counted out for more or for fewer standbys than the plan and the names have now: see [Setting.Miscounted].
	More, Less bool
}

// View is what the primary's host knows. Now is on its own monotonic clock.
type View struct {
	Now    time.Duration
	Self   string
	Leads  bool  // our server is the primary of Epoch, steady, and opened
	Epoch  int64 // of the record
	Server Server
	Claim  Claim  // as read last
	Read   bool   // it has been read at all, or is known to be absent
	Vault  string // that the plan names
	Voted  string // that the archivist says its log goes to; "" = it was not heard

	// Settled: the last that we wrote of this epoch, and know to be agreed, is that the vault is left. Else a claim that says
	// that the vault holds everything may still come into effect, unless another write comes before it.
	Settled bool
}

// Memory is what the host remembers between judgements. The zero value is a host that has just begun.
type Memory struct {
	Epoch    int64
	Mark     database.LSN // flushed at MarkAt; the vault had what came before
	MarkAt   time.Duration
	Level    bool
	LevelAt  time.Duration // since when it is level
	Begun    bool
	Deserted bool         // the epoch before ended without the vault, and it was not asked since
	Asked    bool         // it was, in this epoch
	Comes    bool         // it has just been asked: what is written is waited for only from now on
	Voted    string       // as in the view before
	From     database.LSN // flushed when it was first seen: what was acknowledged by votes for another vault lies before it
}

// Decision is what to do next: at most one of Ask and Write.
type Decision struct {
	Ask      bool // make the server ask the vault, or no more, as Vault says
	Vault    bool
	Write    *Claim // by compare-and-swap on what was read
	Because  string
	Problems []problem.Problem
}

// Decide says what the primary's host does next about the vault. It never lets the server leave the vault while a claim
// of this epoch stands, and never claims what is not in force. Equal arguments, equal result.
func Decide(name string, mode Mode, t Times, v View, m Memory) (Decision, Memory) {
	var d Decision
	if !v.Leads {
		return d, Memory{}
	}
	m = remember(v, m, t)
	behind := v.Now - m.MarkAt
	if v.Server.Held >= m.Mark {
		behind = 0
	}
	ours := v.Claim.Epoch == v.Epoch
	on := v.Claim.On && ours
	claimed := on && v.Claim.Vault == v.Vault && (v.Voted == v.Vault || v.Voted == "")
	off := v.Read && !v.Claim.On && ours
	left := off && v.Settled // agreed for this epoch, for good
	away := behind >= t.Leave || m.Deserted && !m.Level && behind > 0
	write := func(on bool, why string) {
		d.Because = why
		if !v.Read {
			d.Because += "; what is agreed has not been read yet"
			return
		}
		if v.Claim.Epoch > v.Epoch {
			d.Because += "; a later epoch has agreed on its own, and ours is over"
			return
		}
		d.Write = &Claim{Epoch: v.Epoch, On: on, Vault: v.Vault, Primary: v.Self, Why: why}
	}
	ask := func(vault bool, why string) {
		d.Ask, d.Vault, d.Because = true, vault, why
		if vault { // whoever votes is cut off by that, and comes back in its own time
			m.Deserted, m.Asked = false, true
		}
	}

	switch asks, between := v.Server.Asks, v.Server.Between; {
	case mode == Off && on:
		write(false, "the plan does not ask for the vault any more")
	case on && !claimed:
		write(false, fmt.Sprintf("it was agreed of the vault %q, the plan names %q, and the log goes to %q", v.Claim.Vault, v.Vault, v.Voted))
	case claimed && v.Server.Foreign: // by a hand, which the room has mended since
		write(false, "the server was found to have been told by somebody else what to wait for")
	case off && v.Claim.Done && (mode != Off || asks || between): // who votes has stopped asking
		write(false, "the vault is asked for again")
	case mode == Off && (asks || between) && !left:
		write(false, "the plan does not ask for the vault")
	case mode == Relaxed && (asks || between) && away && !left:
		write(false, fmt.Sprintf("the vault has not taken what was written %s ago", behind.Round(time.Second)))
	case mode == Relaxed && off && !left && between:
		write(false, v.Claim.Why) // once more: what came before it can take effect no more
	case between:
		ask(mode != Off && !left, "a change of what commits wait for was cut short")
	case mode == Off && asks:
		ask(false, v.Claim.Why)
	case mode == Off && v.Server.Open && v.Claim.Epoch > 0 && !(ours && v.Claim.Done):
		write(false, "the plan does not ask for the vault, and the server does not")
		if d.Write != nil {
			d.Write.Done = true
		}
	case mode == Off:
	case !asks && claimed: // by a hand: whatever was acknowledged since may not be there
		write(false, "the server was found not to ask the vault")
	case !asks && m.Level && (mode == Strict || v.Now-m.LevelAt >= t.Back):
		ask(true, "the vault is level: commits wait for it from now on")
		m.Comes = true
	case !asks:
		d.Because = "commits do not wait for the vault until it is level"
	case (!v.Server.InForce || v.Server.Foreign) && !claimed && m.Level:
		ask(true, "what was set before may still be acted on")
	case v.Server.InForce && !v.Server.Foreign && !claimed && m.Level && v.Server.Held >= max(v.Server.Mark, m.From) && v.Server.Mark > 0 && v.Voted == v.Vault:
		write(true, "the vault has everything")
	case mode == Relaxed && left && away:
		ask(false, v.Claim.Why)
	case v.Server.More || v.Server.Less && m.Level:
		ask(true, "the number of standbys has changed")
	}
	d.Problems = problems(name, mode, t, v, behind)
	return d, m
}

// remember keeps since when the vault lacks something, and since when it is level.
func remember(v View, m Memory, t Times) Memory {
	if !m.Begun || m.Epoch != v.Epoch {
		m = Memory{Begun: true, Epoch: v.Epoch, Mark: v.Server.Flushed, MarkAt: v.Now}
	}
	if v.Read && v.Claim.Epoch > 0 && v.Claim.Epoch < v.Epoch && !v.Claim.On && !m.Asked {
		m.Deserted = true
	}
	if m.Voted != v.Voted {
		m.Voted, m.From = v.Voted, v.Server.Flushed
	}
	if m.Comes {
		m.Comes, m.MarkAt = false, v.Now
	}
	if v.Server.Held >= m.Mark {
		m.Mark, m.MarkAt = v.Server.Flushed, v.Now
	}
	// Where commits wait little log is written: a vault that stands still is soon no further behind than one that goes on.
	level := v.Server.Held > 0 && v.Server.Held+levelBytes >= v.Server.Flushed && v.Now-m.MarkAt < t.Say
	if level && !m.Level {
		m.LevelAt = v.Now
	}
	m.Level = level
	return m
}

// problems say what an operator should know.
func problems(name string, mode Mode, t Times, v View, behind time.Duration) []problem.Problem {
	switch {
	case mode == Off:
		return nil
	case !v.Server.Asks && !v.Server.Between:
		return []problem.Problem{{
			Code: "database.vault-left", Subject: name, Severity: problem.Degraded,
			Title:   "commits are acknowledged without the vault",
			Meaning: "The plan wants a commit to be in the vault before the client hears of it. Standbys hold it as they always do; the loss of the whole site would cost what the vault does not have yet.",
			Remedy:  "none if the vault is coming back: commits wait for it again by themselves once it has everything (holdfast status says how far it is)",
		}}
	case behind >= t.Say:
		p := problem.Problem{
			Code: "database.waits-for-vault", Subject: name, Severity: problem.Critical,
			Title:   fmt.Sprintf("commits have waited for the vault for %s", behind.Round(time.Second)),
			Meaning: "Nothing is lost, and reads go on. The plan wants a commit to be in the vault before the client hears of it (acknowledged_by_vault: strict).",
			Remedy:  "bring the vault or its archivist back (holdfast status says what is wrong with it); or set acknowledged_by_vault: relaxed in the plan and run holdfast apply",
		}
		if mode == Relaxed {
			p.Meaning = fmt.Sprintf("Nothing is lost, and reads go on. After %s commits are acknowledged without the vault, once that is agreed.", t.Leave)
			p.Remedy = "bring the vault or its archivist back (holdfast status says what is wrong with it)"
		}
		return []problem.Problem{p}
	}
	return nil
}

// Package database keeps one primary writable and its standbys in step, and never forgets an acknowledged
// commit. Start at [Decide]: it judges what one host does next from what it knows; act.go carries one action
// out; neither knows more of PostgreSQL than [Server] tells them. DESIGN.md in this folder gives the flow.
//
// There is no messenger in an election: the record in the cluster store says what is asked (an epoch to
// promise, a primary to follow), each host answers through the report that its heartbeats carry, and every
// host runs the same judgement. Only compare-and-swap on the record's revision decides.
package database

import (
	"errors"
	"fmt"
	"time"
)

// Kind names an action.
type Kind string

// The actions, each carried out by [Act].
const (
	KindSwap       Kind = "swap"       // write Record by compare-and-swap on Revision
	KindInit       Kind = "init"       // make the first data directory
	KindClone      Kind = "clone"      // make a copy of the primary, a standby or what the vault holds
	KindRewind     Kind = "rewind"     // make a diverged server a copy again
	KindPreserve   Kind = "preserve"   // put aside what only a diverged server holds, and list it
	KindStart      Kind = "start"      // start as a closed standby
	KindStop       Kind = "stop"       // planned fast stop of a primary
	KindKill       Kind = "kill"       // fence
	KindRecruit    Kind = "recruit"    // promise, cut, read the position
	KindRemember   Kind = "remember"   // persist a newer generation
	KindFollow     Kind = "follow"     // stream from the confirmed primary
	KindPromote    Kind = "promote"    // become the primary
	KindNames      Kind = "names"      // set synchronous_standby_names
	KindBarrier    Kind = "barrier"    // begin I2
	KindAdmit      Kind = "admit"      // let clients in, or shut them out
	KindRoles      Kind = "roles"      // create roles and databases
	KindReadOnly   Kind = "read-only"  // new transactions may not write, or may again
	KindCheckpoint Kind = "checkpoint" // before a planned stop
	KindHook       Kind = "hook"       // run the plan's command for a primary in trouble
	KindReload     Kind = "reload"     // bring the plan's settings into a running server
)

// Action is one thing to do, as plain data. Only the fields that its kind needs are set.
type Action struct {
	Kind     Kind
	Epoch    int64
	Revision int64         // swap: the revision it was judged on
	Record   *Record       // swap
	From     string        // clone, rewind, follow: the host to copy; a clone: or FromVault
	Names    Names         // names
	Timeline uint32        // promote
	Hot      bool          // start
	Clients  bool          // admit
	Parted   Parting       // preserve
	Told     string        // swap: what changes, in words for the history; "" = nothing that people would tell
	On       bool          // read-only
	Trouble  string        // hook: what the trouble is, in a word
	Limit    time.Duration // hook: how long it may run
	Why      string
}

// String is the action for logs and golden files.
func (a Action) String() string {
	s := string(a.Kind)
	switch a.Kind {
	case KindSwap:
		s += fmt.Sprintf(" epoch=%d gen=%d phase=%s primary=%s timeline=%d opened=%t", a.Record.Epoch, a.Record.Generation,
			a.Record.Phase, a.Record.Primary, a.Record.Timeline, a.Record.Opened)
	case KindNames:
		s += " " + a.Names.String()
	case KindClone, KindRewind, KindFollow:
		s += fmt.Sprintf(" from=%s epoch=%d", a.From, a.Epoch)
	case KindPromote:
		s += fmt.Sprintf(" epoch=%d timeline=%d", a.Epoch, a.Timeline)
	case KindAdmit:
		s += fmt.Sprintf(" clients=%t", a.Clients)
	case KindPreserve:
		s += fmt.Sprintf(" after=%s timeline=%d", a.Parted.LSN, a.Parted.Timeline)
	case KindHook:
		s += " for " + a.Trouble
	case KindReadOnly:
		s += fmt.Sprintf(" on=%t", a.On)
	case KindRecruit, KindRemember, KindBarrier:
		s += fmt.Sprintf(" epoch=%d", a.Epoch)
	}
	return s
}

// Errors that drivers return and judgements understand.
var (
	ErrPromised   = errors.New("a higher epoch is promised")
	ErrNeedsClone = errors.New("only a new copy can help")
	ErrStale      = errors.New("the agreed state has moved on")
)

package database

import (
	"context"
	"time"
)

// Endpoint is where a server is reached by other hosts.
type Endpoint struct {
	Host    string `json:"host"`
	Address string `json:"address"` // IP
	Port    int    `json:"port"`
}

// Server is one host's own PostgreSQL server and its data directory. Every method re-checks what it can of
// its precondition, is harmless when repeated, returns when its effect is there or failed, and honours ctx.
// No method is called while another of the same database runs, except Observe, Kill and KeepSlots.
type Server interface {
	// Observe tells all that is known now. What could not be learnt is left zero and named in Why.
	Observe(ctx context.Context) Local

	// Init makes an empty, closed data directory with a new incarnation and the promise of epoch. It replaces
	// what is absent or partial, and refuses anything else.
	Init(ctx context.Context, epoch int64) error

	// Clone makes what is ours in the data directory a copy of the server at from, which is the primary or one of
	// its standbys: a new incarnation first, durably; then the copy, closed and cut, with the promise of epoch. Only
	// what differs travels, so a copy that was interrupted goes on where it was. The primary keeps the log that the
	// copy will want, from before it begins.
	Clone(ctx context.Context, from, primary Endpoint, epoch int64) error

	// Refill is Clone with the vault as its source: its newest base backup of this very system that lies on the committed
	// chain, and its log along that chain, up to where the primary still has it. It refuses before anything is touched when
	// the vault is away, holds no such backup, or its log has a gap or ends before what the primary keeps; nothing is
	// placed beyond what the primary has flushed.
	Refill(ctx context.Context, primary Endpoint, timeline uint32, chain []Fork, epoch int64) error

	// Rewind turns a diverged former primary into a copy of from: keeps the WAL that would be lost, makes a
	// new incarnation first, then pg_rewind. ErrNeedsClone when only a clone can help.
	Rewind(ctx context.Context, from Endpoint, epoch int64) error

	// Preserve stops a diverged server and puts aside, beside the data, its log from the last checkpoint before
	// the histories parted to its end, with what a reader of it needs; then it lists the commits behind that
	// point. Observe tells the outcome as Kept. The data stay as they are. Repeating it is harmless,
	// and lists anew when what there is does not cover the parting.
	Preserve(ctx context.Context, parted Parting) error

	// Start starts the server as a standby, closed, cut from any stream, with clients shut out. hot = it
	// answers queries while it is a standby.
	Start(ctx context.Context, hot bool) error

	// StopFast stops a primary in good order (fast shutdown, walsenders of lagging standbys cut first), and
	// returns when the whole process tree is gone.
	StopFast(ctx context.Context) error

	// Kill ends the whole process tree at once: cut clients, freeze, kill. It returns when nothing is left.
	Kill(ctx context.Context, why string) error

	// Recruit persists the promise of (epoch, generation), cuts the stream, waits until the very receiver
	// that used it has exited, reads the position from the WAL and syncs what it read. It works on a stopped
	// server too. A promise above epoch is refused with ErrPromised. A server whose promise is not OK gets a
	// new incarnation first, for it may have forgotten one. The position holds until the next Follow, Promote,
	// Rewind or Clone.
	Recruit(ctx context.Context, epoch, generation int64) (Position, error)

	// Remember persists a newer generation beside the promise of the same epoch.
	Remember(ctx context.Context, epoch, generation int64) error

	// Follow lets the standby stream from a confirmed primary under the name of epoch. The caller has proved
	// that the local history is a prefix of the primary's. It starts the server if it is stopped. The primary
	// never has two walsenders of one name at work: after a cut link an old one lives on, PostgreSQL counts each
	// of them, and one standby would then acknowledge as if it were two. A slot of the standby's own does that,
	// for a slot serves one connection at a time.
	Follow(ctx context.Context, from Endpoint, epoch int64) error

	// Promote makes the closed standby the primary of timeline: shuts clients out and ends the sessions that read
	// from it, fills the numbers below it that are not in
	// chain with comment-only history files, promotes, and checks the number that came out. Works with a
	// server that does not answer queries yet.
	Promote(ctx context.Context, epoch int64, timeline uint32, chain []Fork) error

	// SetNames replaces synchronous_standby_names and returns when a session opened after the reload shows them.
	SetNames(ctx context.Context, n Names) error

	// Barrier begins I2 for the names that are set: makes them in force (every walsender of before is ended and
	// gone) and notes the mark, which Observe tells as Force.
	Barrier(ctx context.Context, epoch int64) error

	// Admit opens or shuts the server's access rules for clients other than Holdfast's own role.
	Admit(ctx context.Context, clients bool) error

	// ReadOnly makes every new transaction of a primary's clients read-only, or takes that back. What is under way
	// ends as it would have. A server that is started anew is not read-only.
	ReadOnly(ctx context.Context, on bool) error

	// KeepSlots makes, moves and drops slots of ours. It may be called while another method runs.
	KeepSlots(ctx context.Context, o SlotOrder) error

	// EnsureRoles creates the plan's roles and databases where they are missing and sets their passwords.
	EnsureRoles(ctx context.Context) error

	// Reload brings the plan's settings into the running server, as far as it can take them without a restart. What
	// it refuses is not written, and told as Local.Refused; the server goes on, and starts, with what it had.
	Reload(ctx context.Context) error

	// Checkpoint writes a checkpoint (a restartpoint on a standby), so that a coming stop or start is short.
	Checkpoint(ctx context.Context) error

	// Extend lets a primary of epoch run for the given time from now before its keeper fences it.
	Extend(ctx context.Context, epoch int64, remainingMillis int64) error
}

// GateState is what a listener does with connections.
type GateState string

// Gate states.
const (
	GateOpen GateState = "open" // leads to Target
	GateHold GateState = "hold" // accepts and keeps waiting, for a bounded time
	GateShut GateState = "shut" // refuses
)

// GateOrder is what this host's listener shall do. The gate refuses an epoch below the highest it knows.
type GateOrder struct {
	Epoch      int64         `json:"epoch"`
	Generation int64         `json:"generation"` // within an epoch the newer order stands
	State      GateState     `json:"state"`
	Target     Endpoint      `json:"target"` // Host only in a decision; the agent fills in the rest
	Drain      time.Duration `json:"drain"`  // hold: how long sessions that exist may go on before they are cut
	Why        string        `json:"why"`
}

// Gate is this host's listener process.
type Gate interface {
	Order(ctx context.Context, o GateOrder) error

	// Read orders the read-only listener. The times in o count from now.
	Read(ctx context.Context, o ReadOrder) error

	// Extend lets the listener lead to our own primary of epoch for d from now, and half a second more; then it
	// cuts by itself, should the primary's keeper have failed to.
	Extend(ctx context.Context, epoch int64, d time.Duration) error
}

// Records keeps the record of one database. Swap loses with an error when the revision moved.
type Records interface {
	Read(ctx context.Context) (Record, int64, error) // linearizable
	Swap(ctx context.Context, revision int64, r Record) error
}

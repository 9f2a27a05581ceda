// Package databasetest is a model of PostgreSQL that implements [database.Server] over a simulated disk and a
// simulated network: enough of it that every rule of an election has something to break. Start at [Server];
// [World] is what it needs around itself. It uses no time, no goroutine and no chance of its own.
//
// What it keeps of PostgreSQL: synchronous_standby_names by application name, each walsender with its own copy
// of it; commits that are written, then flushed, then waited for; written WAL that a crash may take back;
// timelines, history files and the probing for a free number; a stream that starts only where the histories
// agree; fast shutdown that sends everything first; the flag that only the checkpointer sets.
package databasetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"holdfast/internal/database"
)

// World is the machine room. Every duration that is asked for on a host passes by that host's own clock.
type World interface {
	Now() time.Duration // virtual time, from the same origin for all
	Rand() *rand.Rand

	// Wait suspends the caller on host for d. An error means that it must give up at once, without any
	// further effect: its process is gone, or ctx has ended.
	Wait(ctx context.Context, host string, d time.Duration) error

	// After runs f on host later. It is dropped when the host crashes and waits while the host is frozen.
	After(host string, d time.Duration, f func())

	// Link says how long a message takes now, and whether it arrives.
	Link(from, to string) (time.Duration, bool)

	// Fsync says how long one takes now; false = the disk hangs.
	Fsync(host string) (time.Duration, bool)

	// Server is the server of another host of the same database.
	Server(host string) *Server

	// Vault is what was brought away.
	Vault() *Vault
}

// Observer is told what matters to checkers.
type Observer interface {
	// Acknowledged: the server of host, promised to epoch, told a client that its commit is safe.
	Acknowledged(host, incarnation string, epoch int64, e Entry)
	// Promoted: a server made a timeline.
	Promoted(host string, f database.Fork)
	// Exited: the server's process tree is gone.
	Exited(host, why string)
	// Discarded: a commit of this server's log is taken from its disk; listed = it was put aside before.
	Discarded(host string, e Entry, listed bool)
	// Note is for the trace.
	Note(host, format string, args ...any)
}

// Bugs are planted defects, for tests that prove the simulator would find them. All false is right.
type Bugs struct {
	ReceiveLSN      bool // a recruit tells where the receiver stood, not where the WAL ends
	NotFrozen       bool // a recruit promises, answers, and goes on receiving from the primary of before (I3)
	PromiseUnsynced bool // a promise is told before it is on the disk
	OpenAtStart     bool // data directories carry no names until they are opened (A1)
	OldIncarnation  bool // a rebuilt copy keeps the incarnation of what it replaced (A4)
	NoFence         bool // a keeper lets its deadline pass
	TwoOfAName      bool // no slots: a standby that reconnects is counted beside its own old walsender
	Unproven        bool // W leaves 0 without a commit having been seen to wait (A1)
	KeepReaders     bool // a promotion leaves the sessions of those who read from the standby
	KeepsNothing    bool // a diverged log is thrown away unlisted
	OldWalsenders   bool // a barrier does not end the walsenders of before (A3)
}

// Entry is one record of the log.
type Entry struct {
	Timeline uint32
	Start    database.LSN
	End      database.LSN
	Epoch    int64 // of the server that wrote it
	Kind     EntryKind
	ID       int // commits: what a client wrote
}

// EntryKind says what a record is.
type EntryKind string

// Kinds of records.
const (
	Commit   EntryKind = "commit"
	Tick     EntryKind = "tick" // the keeper's sign of life, and barriers on an idle server
	Roles    EntryKind = "roles"
	Switch   EntryKind = "switch"   // end of recovery: the first record of a timeline
	Shutdown EntryKind = "shutdown" // checkpoint of a clean stop
)

// fileOf says what a timeline's history file is.
type fileOf string

const (
	realFile    fileOf = "real"
	commentFile fileOf = "comment"
)

// disk is what a crash leaves.
type disk struct {
	state       database.DataState
	systemID    uint64
	incarnation string
	promise     database.Promise
	wal         []Entry
	flushed     int             // entries of wal that a power cut cannot take back
	history     []database.Fork // of its newest timeline
	files       map[uint32]fileOf
	names       database.Names
	following   int64 // epoch of the replication name; 0 = cut
	source      string
	admits      bool
	slots       map[string]database.LSN // by incarnation: log from there on is kept
	oldest      database.LSN            // the log begins here
	readOnly    bool
	clean       bool // shut down in good order as a primary
	checkpoint  database.LSN
	control     int // max_connections of the primary that wrote the log
}

// Server is one host's PostgreSQL with its keeper and its driver.
type Server struct {
	host string

	w    World
	o    Observer
	bugs Bugs

	d      disk
	synced database.Promise // what a power cut leaves of the promise; differs from d.promise only under a planted bug
	p      *process         // nil when there is none

	// keeper
	lingering bool          // processes of a dead tree are still there
	left      database.Role // what they were
	attested  bool          // the keeper saw the whole tree go
	exit      string
	words     *database.LastWords
	deadline  time.Duration // of the fence, in virtual time as scheduled
	keeper    keeper

	// driver: lost with the agent
	position   database.Position
	force      database.Force
	forceAfter int // connection number at the last barrier
	failed     string
	failedKind database.Kind
	failedFrom string
	giving     int // copies on their way from here
	used       int64
	measured   bool    // how full the disk is is known
	lead       *Server // the primary that a copy under way will follow

	unread Unread
	fault  database.DiskFault // of its disk
	how    Refusal            // who notices it
	plan   settings
	lives  int // starts of a process
	shelf  []shelved

	versions int // raised by whatever can change who may acknowledge
	minted   int // incarnations made here
}

var _ database.Server = (*Server)(nil)

// New is a host without data.
func New(host string, w World, o Observer, bugs Bugs) *Server {
	return &Server{host: host, w: w, o: o, bugs: bugs, d: disk{state: database.DataAbsent}, attested: true, plan: settings{wanted: SettingAtFirst, held: SettingAtFirst, applied: true}}
}

// Host is where the server stands.
func (s *Server) Host() string { return s.host }

// Version rises with whatever can change who may acknowledge.
func (s *Server) Version() int { return s.versions }

// RunsAsPrimary tells the epoch that a running primary promised; false when it is none.
func (s *Server) RunsAsPrimary() (int64, bool) {
	if s.p == nil || s.p.role != database.Primary {
		return 0, false
	}
	return s.d.promise.Epoch, true
}

// Log is every record that the server's disk holds now, flushed or not. It must not be changed.
func (s *Server) Log() []Entry { return s.d.wal }

// Commits are those that the disk holds now, by what a client wrote.
func (s *Server) Commits() map[int]bool {
	held := make(map[int]bool, len(s.d.wal))
	for _, e := range s.d.wal {
		if e.Kind == Commit {
			held[e.ID] = true
		}
	}
	return held
}

// OnDisk is the promise that lies in the data directory.
func (s *Server) OnDisk() database.Promise { return s.d.promise }

// Incarnation is that of the data directory.
func (s *Server) Incarnation() string { return s.d.incarnation }

// InForce are all the names under which this running primary may still acknowledge: those of new sessions, and
// each walsender's own copy.
func (s *Server) InForce() []database.Names {
	if s.p == nil || s.p.role != database.Primary {
		return nil
	}
	out := []database.Names{s.p.names}
	for _, x := range s.p.senders {
		if !slices.ContainsFunc(out, x.names.Equal) {
			out = append(out, x.names)
		}
	}
	return out
}

// Serves reports whether clients are let in by a running primary.
func (s *Server) Serves() bool {
	return s.p != nil && s.p.role == database.Primary && s.p.ready && s.d.admits && !s.p.stopping && s.keeper.cut != s.p
}

// ForgetDriver is what the end of the agent takes away.
func (s *Server) ForgetDriver() {
	s.position, s.force, s.forceAfter = database.Position{}, database.Force{}, 0
	s.failed, s.failedKind, s.failedFrom = "", "", ""
}

// Unread says what of a server's own files cannot be read for a while.
type Unread string

// What may be unreadable.
const (
	ReadsAll          Unread = ""
	UnreadPromise     Unread = "promise"
	UnreadIncarnation Unread = "incarnation"
	UnreadTimeline    Unread = "timeline"
	UnreadDirectory   Unread = "directory" // not even what lies there is known
)

// CannotRead makes files unreadable until it is called with ReadsAll.
func (s *Server) CannotRead(what Unread) { s.unread = what }

// Observe implements [database.Server].
func (s *Server) Observe(context.Context) database.Local {
	if s.unread == UnreadDirectory {
		return database.Local{Why: errRead.Error()}
	}
	if s.fault != "" && s.how == Blind {
		return database.Local{Why: errDisk.Error(), Disk: database.Disk{Fault: s.fault, Said: "open a directory: " + string(s.fault)}}
	}
	l := s.observe()
	switch s.unread {
	case UnreadPromise:
		l.Promise, l.PromiseOK = database.Promise{}, false
	case UnreadIncarnation:
		l.Incarnation, l.PromiseOK = "", false
	case UnreadTimeline:
		l.Timeline, l.History = 0, nil
	case ReadsAll, UnreadDirectory:
		return l
	}
	l.Why = errRead.Error()
	return l
}

// readsPromise is asked before whatever hangs on the promise.
func (s *Server) readsPromise() error {
	if s.unread != ReadsAll {
		return errRead
	}
	return nil
}

func (s *Server) observe() database.Local {
	l := database.Local{
		Known: true, Data: s.d.state, SystemID: s.d.systemID, Incarnation: s.d.incarnation, Promise: s.d.promise,
		Running: s.p != nil || s.lingering, TreeGone: s.p == nil && !s.lingering && s.attested, Exit: s.exit, Ended: s.words,
		Admits: s.d.admits, ShutDown: s.d.clean, Checkpoint: s.d.checkpoint, Following: s.d.following, Source: s.d.source,
		Names: s.d.names, NamesOK: true, Position: s.position, Force: s.force,
		Failed: s.failed, FailedKind: s.failedKind, FailedFrom: s.failedFrom, Giving: s.giving,
	}
	if s.d.state != database.DataPresent {
		l.Following, l.Source, l.Names = 0, "", database.Names{}
		return l
	}
	if s.fault != "" {
		l.Disk.Fault, l.Disk.Said = s.fault, "write a file: "+string(s.fault)
	}
	if s.measured {
		l.Disk.Size, l.Disk.Free = diskSize, diskSize-s.used
	}
	l.KeeperSilent = s.keeperSilent()
	l.PromiseOK, l.Oldest, l.ReadOnly = s.promiseOK(), s.d.oldest, s.d.readOnly
	l.Kept = s.keptOf(s.d.incarnation)
	l.Timeline, l.History = s.timeline(), slices.Clip(s.d.history)
	l.Flushed = s.flushedLSN()
	l.Redo = max(s.d.checkpoint, walStart)
	if s.p == nil {
		if s.lingering && s.left == database.Primary { // its control file still says so, and nothing answers
			l.Role, l.Writable = s.left, "hung"
		}
		return l
	}
	p := s.p
	l.Ended = nil
	l.Exit, l.Role, l.Ready, l.Stopping = "", p.role, p.ready, p.stopping
	l.Replayed, l.Receiving = s.replayed(), p.receiver != nil
	l.RolesReady = s.hasRoles()
	s.observeSettings(&l)
	l.Slots = s.slots()
	if p.role == database.Primary {
		l.Names = p.names
		for _, x := range p.senders {
			l.Senders = append(l.Senders, x.row(s.forceAfter))
		}
		l.Writable = "ok"
		if p.stalled && s.w.Now()-p.stalledAt > hungAfter {
			l.Writable = "hung"
		}
		if s.fault != "" {
			l.Writable = string(s.fault)
		}
	}
	return l
}

// diskSize is what a host's disk holds.
const diskSize = int64(100 << 30)

// FillDisk leaves free bytes on the disk; the model's own log is too small to matter.
func (s *Server) FillDisk(free int64) { s.used, s.measured = diskSize-free, true }

// noRoom: not even the log that a start needs fits on the disk.
func (s *Server) noRoom() bool { return s.measured && diskSize-s.used < 32<<20 }

// hungAfter is how long the write probe waits.
const hungAfter = 2 * time.Second

func (s *Server) promiseOK() bool {
	return s.d.promise.Incarnation == s.d.incarnation && s.d.promise.Told <= s.end()
}

func (s *Server) hasRoles() bool {
	return slices.ContainsFunc(s.d.wal[:min(len(s.d.wal), 64)], func(e Entry) bool { return e.Kind == Roles })
}

// newIncarnation is durable when it returns nil.
func (s *Server) newIncarnation(ctx context.Context) error {
	s.minted++
	next := fmt.Sprintf("%s#%d", s.host, s.minted)
	if err := s.fsync(ctx); err != nil {
		return err
	}
	s.d.incarnation = next
	return nil
}

// Refusal is how far a disk refuses.
type Refusal int

// Degrees of it.
const (
	Panics Refusal = iota // the server panics with its next record
	Quiet                 // the running server's own log is still taken: only a look at the disk tells
	Blind                 // it panics, and nothing can be read either
)

// BreakDisk lets the disk refuse whatever is written to it; "" mends it.
func (s *Server) BreakDisk(f database.DiskFault, how Refusal) { s.fault, s.how = f, how }

// fsync waits until the disk has taken what was written.
func (s *Server) fsync(ctx context.Context) error {
	for {
		if s.fault != "" {
			return fmt.Errorf("%w: %s", errDisk, s.fault)
		}
		d, ok := s.w.Fsync(s.host)
		if !ok {
			d = 100 * time.Millisecond
		}
		if err := s.w.Wait(ctx, s.host, d); err != nil {
			return err
		}
		if ok {
			return nil
		}
	}
}

// between is a duration in [lo, hi).
func (s *Server) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.w.Rand().Int64N(int64(hi-lo)))
}

var (
	errNoData  = errors.New("the data directory holds no complete copy")
	errGone    = errors.New("the server ended meanwhile")
	errStream  = errors.New("the other server does not answer")
	errNoRole  = errors.New("the server is not in the role for this")
	errRunning = errors.New("the server runs")
	errDisk    = errors.New("the disk refuses to be written to")
	errFull    = errors.New("no space left on device")
	errRead    = errors.New("a file cannot be read: input/output error")
)

// StreamsTo reports whether a standby of that name streams from this primary.
func (s *Server) StreamsTo(name string) bool {
	return s.p != nil && slices.ContainsFunc(s.p.senders, func(x *stream) bool { return x.name == name && x.state == "streaming" })
}

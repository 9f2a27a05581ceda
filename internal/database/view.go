package database

import (
	"time"

	"holdfast/internal/problem"
)

// Policy is what the plan asks of one database, and the times that judge.
type Policy struct {
	Name           string
	Hosts          []string // that may hold it, best first
	Standbys       int      // besides the primary: the first Standbys+1 of Hosts are its members
	AcknowledgedBy int      // W
	Standings      []Standing
	Relaxed        bool  // with too few standbys W goes down, through the agreed state, instead of writes waiting
	Reads          Reads // the read-only listener
	Slots          SlotLimits
	DiskFull       DiskPolicy
	CopyFrom       []CopySource // what copies are made of, best first; nil = a standby, then the primary
	Salvage        SalvagePolicy
	OnTrouble      time.Duration // how long the plan's command for a primary in trouble may run; 0 = there is none
	Settings       string        // names what the plan wants of each server's settings and programs; see Local.Settings
	Times          Times
}

// Times are the limits of the judgement. Zero values are not allowed; see [DefaultTimes].
type Times struct {
	Suspect   time.Duration // silence of agent and gate after which a host is suspected
	Veto      time.Duration // WAL that advanced within this vetoes suspicion by silence
	VetoMax   time.Duration // for at most this long
	Reachable time.Duration // a beat younger than this makes a peer reachable
	Open      time.Duration // opening rule (c): wait after the promotion was agreed when the old primary attests nothing
	Fence     time.Duration // a primary without contact for this long is fenced
	Remove    time.Duration // a voter that does not stream for this long leaves V
	Stagger   time.Duration // between hosts that could start the same election
	Stuck     time.Duration // a recruiting or promoting epoch without progress for this long may be run by another
	Alone     time.Duration // least time between two restarts in place
	Keeper    time.Duration // a server whose keeper is silent for this long is ended
	Hung      time.Duration // a primary whose disk hangs for this long is ended, if standbys can take over
	Faulty    time.Duration // the same of one whose disk refuses what is written to it
	Switch    time.Duration // a switchover that has not stopped the primary by then is given up
}

// DefaultTimes are the figures of DATABASE.md.
func DefaultTimes() Times {
	return Times{
		Suspect: 2500 * time.Millisecond, Veto: 2 * time.Second, VetoMax: 30 * time.Second,
		Reachable: time.Second, Open: 3500 * time.Millisecond, Fence: 3 * time.Second,
		Remove: 3 * time.Second, Stagger: 300 * time.Millisecond, Stuck: 3 * time.Second,
		Alone: 10 * time.Minute, Keeper: 2 * time.Second, Hung: 10 * time.Second, Faulty: 2 * time.Second, Switch: 10 * time.Second,
	}
}

// Role is what a running server is.
type Role string

// Roles.
const (
	NoRole  Role = ""        // not running, or not yet known
	Standby Role = "standby" // in recovery
	Primary Role = "primary" // takes writes as far as its names let it
)

// DataState is what lies in the data directory.
type DataState string

// Data states.
const (
	DataAbsent  DataState = "absent"  // nothing; may be made
	DataPartial DataState = "partial" // ours, half made (a clone or rewind that did not end); may be replaced
	DataPresent DataState = "present"
	DataForeign DataState = "foreign" // not ours, another version or another system: never touched
)

// Local is what a host knows of its own server. It is told to peers as it is.
type Local struct {
	Known    bool          `json:"known"` // false: not observed yet; nothing below means anything
	Age      time.Duration `json:"-"`     // since the observation, by the reader's clock
	Data     DataState     `json:"data"`
	Why      string        `json:"why,omitempty"` // what makes data foreign or an observation incomplete
	SystemID uint64        `json:"system_id"`

	// KeeperSilent is how long the keeper of a running server has lived and not answered: it fences nothing meanwhile.
	KeeperSilent time.Duration `json:"-"`

	Incarnation string  `json:"incarnation"`
	Promise     Promise `json:"promise"`
	PromiseOK   bool    `json:"promise_ok"` // readable, of this incarnation, and not above what pg_wal holds

	Running  bool       `json:"running"`   // some process of the server's tree lives
	TreeGone bool       `json:"tree_gone"` // attested by the keeper: no process of it is left
	Exit     string     `json:"exit,omitempty"`
	Ended    *LastWords `json:"ended,omitempty"` // not running: what it said of its end; nil = nothing, or it was ended
	Role     Role       `json:"role"`
	Ready    bool       `json:"ready"`     // answers queries
	Admits   bool       `json:"admits"`    // its access rules let clients in
	Stopping bool       `json:"stopping"`  // a planned stop is under way
	ShutDown bool       `json:"shut_down"` // stopped cleanly as a primary; Checkpoint is the shutdown checkpoint

	Timeline   uint32   `json:"timeline"`
	History    []Fork   `json:"history"` // its own timeline history; Epoch is 0 there, PostgreSQL knows none
	Checkpoint LSN      `json:"checkpoint"`
	Redo       LSN      `json:"redo,omitempty"` // where a recovery would begin; 0 = not known
	Held       LSN      `json:"held,omitempty"` // not running: the log surely reaches so far; 0 = not known
	Position   Position `json:"position"`       // of the last Recruit; Epoch 0 = none that still holds
	Flushed    LSN      `json:"flushed"`        // primary: flush position; standby: received and flushed
	Replayed   LSN      `json:"replayed"`

	Following int64         `json:"following"`        // epoch of the configured replication name; 0 = the stream is cut
	Source    string        `json:"source,omitempty"` // host that the configured stream comes from; "" = cut, or not known
	Receiving bool          `json:"receiving"`        // a WAL receiver streams
	ReplayLag time.Duration `json:"replay_lag"`

	Names      Names    `json:"names"`              // as a new session shows them
	NamesOK    bool     `json:"names_ok"`           // false: somebody wrote what Holdfast never writes
	Senders    []Sender `json:"senders"`            // primary: who streams from here
	Force      Force    `json:"force"`              // primary: the last barrier that was begun
	RolesReady bool     `json:"roles_ready"`        // primary: roles and databases of the plan exist
	Writable   string   `json:"writable,omitempty"` // primary: what the write probe says: "", ok, waiting, hung, or a [DiskFault]
	Progress   string   `json:"progress,omitempty"` // of a running clone or rewind
	Failed     string   `json:"failed,omitempty"`   // why the last long job failed
	FailedKind Kind     `json:"failed_kind,omitempty"`
	FailedFrom string   `json:"failed_from,omitempty"` // a copy: the host that was to be copied, or [FromVault]; "" when it was overtaken
	Giving     int      `json:"giving,omitempty"`      // copies of this server on their way to other hosts

	Copying  string `json:"copying,omitempty"` // partial data: the incarnation that they will have
	Slots    []Slot `json:"slots,omitempty"`   // that this server keeps for other members, sorted by incarnation
	Oldest   LSN    `json:"oldest,omitempty"`  // where the log begins that still lies here; 0 = not known
	Disk     Disk   `json:"disk"`
	ReadOnly bool   `json:"read_only,omitempty"` // primary: new transactions may not write

	FailedProblem *problem.Problem `json:"failed_problem,omitempty"` // the same, where a person can mend it; else nil

	Life      string    `json:"life,omitempty"`      // of the running server: another one after each start
	Version   string    `json:"version,omitempty"`   // of the running server, as PostgreSQL says it
	Settings  string    `json:"settings,omitempty"`  // by which Policy.Settings Unapplied, Refused and Pending were judged
	Unapplied bool      `json:"unapplied,omitempty"` // its file does not hold the plan's settings yet, or it has not read them
	Refused   string    `json:"refused,omitempty"`   // why PostgreSQL does not take the plan's settings
	Pending   []Pending `json:"pending,omitempty"`   // what its next start would change
	Stands    bool      `json:"stands,omitempty"`    // standby: replay stands still, for its settings are lower than the primary's
	Recovery  *Recovery `json:"recovery,omitempty"`  // its last recovery of some length; nil = none was measured
	Kept      *Kept     `json:"kept,omitempty"`      // what has been put aside of this incarnation's own history; nil = nothing
}

// Sender is one row of pg_stat_replication.
type Sender struct {
	Name    string `json:"name"` // application_name
	State   string `json:"state"`
	Sync    string `json:"sync"` // sync_state
	Flushed LSN    `json:"flushed"`
	Fresh   bool   `json:"fresh"` // connected after the last barrier began
}

// Force is a barrier (I2): Names were in force, every walsender of before was gone, and Mark was noted.
type Force struct {
	Names Names `json:"names"`
	Epoch int64 `json:"epoch"`
	Mark  LSN   `json:"mark"` // 0 = no barrier
}

// Peer is another host that may hold this database, as this host knows it.
type Peer struct {
	Host     string
	AgentAge time.Duration // since its agent's last beat, by our clock; Never when none came
	GateAge  time.Duration // since its gate's last beat
	Contact  time.Duration // since the sending of our newest beat that it confirmed: Report was true since; Never if none
	Report   *Report       // its last report, nil when none came
}

// Never is the age of what has not happened.
const Never = time.Duration(1<<63 - 1)

// Report is what a host tells its peers of one database with each beat.
type Report struct {
	Look

	Local    Local         `json:"local"`
	Epoch    int64         `json:"epoch"`            // of the record as it knows it
	Revision int64         `json:"revision"`         // of the record as it knows it
	Silent   []Silence     `json:"silent"`           // what it hears of the others, sorted by host
	Late     bool          `json:"late"`             // its own timers ran late: its silences mean nothing
	Advanced time.Duration `json:"advanced"`         // since the WAL it receives last advanced; Never if unknown
	Paused   string        `json:"paused,omitempty"` // id of the pause that it keeps to
}

// Silence is how long a host has heard nothing from another.
type Silence struct {
	Host  string        `json:"host"`
	Agent time.Duration `json:"agent"`
	Gate  time.Duration `json:"gate"`
}

// Request is an operator's wish for this database.
type Request struct {
	ID   string `json:"id"`
	Kind string `json:"kind"` // switchover, pause, resume, restart, failover, settle
	To   string `json:"to"`   // host; "" = the best one; settle: the host that was left behind
	By   string `json:"by"`

	Reason string        // pause
	For    time.Duration // pause: how long it lasts at most
	Left   time.Duration // pause: what is left of that by this host's wall clock
	Timed  bool          // switchover: it was asked for a moment; failover: it is known when it was asked for
	In     time.Duration // until that moment, by this host's wall clock; negative = it has passed

	PendingOnly bool              // restart: only servers whose next start would change something
	Lives       map[string]string // restart: by host, the server process that ran when it was asked for

	Via    string `json:"via,omitempty"`    // failover: the host whose view the operator saw; it alone takes the request up
	Former string `json:"former,omitempty"` // failover: incarnation of the primary that is given up
	Floor  LSN    `json:"floor,omitempty"`  // failover: nobody behind this may be chosen: the loss that was confirmed is not exceeded
	Kept   string `json:"kept,omitempty"`   // settle: the id of what was put aside; "" = whatever that host held
	Text   string `json:"text,omitempty"`   // settle: what was done with it, or why nothing need be
}

// View is all that one host knows of one database when it judges. Ages and Now are by its own monotonic clock.
type View struct {
	Self string
	Now  time.Duration // monotonic, from an arbitrary origin that lasts as long as Memory does

	Known     bool          // the record (or its absence) has been read
	Record    Record        // zero with Revision 0: there is none
	Revision  int64         // 0 = absent
	RecordAge time.Duration // since the last linearizable read that succeeded was SENT; Never if none

	Local    Local
	Peers    []Peer        // sorted by host, without Self
	Late     bool          // our own timers ran late
	Advanced time.Duration // since the WAL we receive last advanced

	Busy     []Kind    // actions that have been started and have not ended
	Requests []Request // oldest first
	Stopping bool      // the whole application is being stopped by its operator

	WrittenOff string // why our agreed state counts no more: it was rebuilt without this host; "" = it counts
}

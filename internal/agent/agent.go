// Package agent is one host's round: observe, decide, act. [Loop.Round] is one round: it reads a snapshot of
// facts, lets each room judge, and starts what they ask for through [Hands]; it starts no goroutine and can be
// called once by hand, which is how the simulator runs many hosts in one. [Run] is the thin part around it:
// observers that keep facts with their ages, and wake-ups. The agent owns order, deadlines and goroutines, and
// knows no engine.
package agent

import (
	"time"

	"holdfast/internal/database"
	"holdfast/internal/problem"
	"holdfast/internal/service"
)

// Facts are what one host knows at one instant. Ages and Now are by its own monotonic clock.
type Facts struct {
	Now        time.Duration   // from an arbitrary origin that lasts as long as the Loop
	Late       bool            // our own timers ran late: our silences mean nothing
	Stopping   bool            // the operator stops the whole application
	Known      bool            // the agreed state has been read
	ContactAge time.Duration   // since the last linearizable read that succeeded was sent; database.Never if none
	Databases  []DatabaseFacts // in the plan's order
	Services   ServiceFacts
	Peers      []PeerFacts // sorted by host

	// Recovery is how often the agreed state that this host reads was rebuilt after the loss of a majority; Overruled
	// the highest such number that it has ever heard of. A higher one means that this host was written off.
	Recovery, Overruled int64

	Adopted *Adopted // what the applied plan says; nil = what the loop began with
}

// Adopted is a plan that counts, as rounds need to know it.
type Adopted struct {
	Plan      string            // its hash
	Revision  int64             // of the agreed text that it was read from
	Databases []database.Policy // in the plan's order
	Services  []ServicePolicy
}

// DatabaseFacts are one database as this host knows it.
type DatabaseFacts struct {
	Name     string
	Record   database.Record
	Revision int64 // 0 = nothing is agreed yet
	Requests []database.Request
	Local    database.Local
	Advanced time.Duration // since the WAL that we receive last advanced; database.Never if never
	Busy     []database.Kind
}

// PeerFacts are another host as this host knows it.
type PeerFacts struct {
	Host     string
	AgentAge time.Duration            // since its agent's last beat; database.Never when none came
	GateAge  map[string]time.Duration // by database: since its gate's last beat
	Contact  time.Duration            // since the sending of our newest beat that it confirmed; database.Never if none
	Report   *Report                  // its last report, nil when none came
	Ahead    time.Duration            // of its wall clock when its agent's last beat came, compared to ours; no database is judged by it
}

// Report is what a host tells the others with each beat.
type Report struct {
	Host      string                      `json:"host"`
	Version   string                      `json:"version"`         // of the binary
	Plan      string                      `json:"plan"`            // hash of the plan's text
	Hosts     string                      `json:"hosts,omitempty"` // names the list of hosts that it follows; "" = an earlier version
	Late      bool                        `json:"late"`
	Databases map[string]*database.Report `json:"databases"`
	Instances []service.Report            `json:"instances"`
	Problems  []problem.Problem           `json:"problems"`
	Archive   map[string]Archive          `json:"archive,omitempty"`  // databases whose WAL this host archives
	Files     map[string]Files            `json:"files,omitempty"`    // file sets that this host backs up
	Planned   map[string]time.Time        `json:"planned,omitempty"`  // when chores of this host run next, by [Chore.Name]
	Recovery  int64                       `json:"recovery,omitempty"` // of the agreed state that it reads
	Votes     *bool                       `json:"votes,omitempty"`    // its etcd member serves and votes; nil = not known, or it keeps none
	Restored  []Restored                  `json:"restored,omitempty"` // copies that run beside the databases
}

// Restored is a restored copy of a database on this host, under a name of its own. Nothing is judged from it.
type Restored struct {
	Name    string `json:"name"`
	Of      string `json:"of"`
	At      string `json:"at"` // the moment, in words
	Address string `json:"address"`
	State   string `json:"state"` // serves, starts, stopped, or why not
	Wanted  bool   `json:"wanted"`
}

// Archive is how far a database's WAL has come into its vault.
type Archive struct {
	Vault    string        `json:"vault"`
	Received database.LSN  `json:"received"` // on this host's disk
	Archived database.LSN  `json:"archived"` // readable in the vault
	Lag      time.Duration `json:"lag"`      // how old the oldest WAL is that the vault lacks
	Trouble  string        `json:"trouble,omitempty"`
	Gap      string        `json:"gap,omitempty"`  // log that is lost, while no base backup stands behind it
	Last     *BaseBackup   `json:"last,omitempty"` // the newest base backup; nil = none
	Running  []Run         `json:"running,omitempty"`
}

// Run is a base backup that is being made, with the trial that follows, or a trial by itself.
type Run struct {
	ID      string    `json:"id"`   // whoever wants to end it names it
	Kind    string    `json:"kind"` // [ChoreBase] or [ChoreProve]
	Host    string    `json:"host"`
	Request string    `json:"request,omitempty"` // what it was asked for by; "" = it began by itself
	Backup  string    `json:"backup,omitempty"`  // what is restored on trial; "" = the base backup is not listed yet
	Since   time.Time `json:"since"`             // by that host's clock
	Phase   string    `json:"phase"`             // checkpoint, copy, log, commit, prove
	Check   string    `json:"check,omitempty"`   // of prove: what is done, such as restore or heap
	Done    int64     `json:"done"`              // bytes of this phase or check
	Total   int64     `json:"total"`             // 0 = it is not counted in bytes, or not known yet
	Rate    int64     `json:"bytes_per_second"`  // 0 = not known yet
	Left    int64     `json:"seconds_left"`      // of this phase or check; 0 = not known, or less
}

// BaseBackup is one base backup in a vault.
type BaseBackup struct {
	ID     string    `json:"id"`
	At     time.Time `json:"at"`
	Bytes  int64     `json:"bytes"`
	Stored int64     `json:"stored"`        // bytes that it added to the vault
	Proven bool      `json:"proven"`        // it has been restored and found good
	Bad    string    `json:"bad,omitempty"` // it has been restored and found bad: the first thing that was
}

// Files is how a host's directory of a file set is backed up.
type Files struct {
	Vault   string      `json:"vault"`
	Path    string      `json:"path"`
	Running bool        `json:"running,omitempty"` // a backup is under way
	Run     *FilesRun   `json:"run,omitempty"`     // how far that is; nil = none is
	Trouble string      `json:"trouble,omitempty"` // why the last try did not succeed
	Next    time.Time   `json:"next,omitzero"`     // when one is due
	Last    *FileBackup `json:"last,omitempty"`    // nil = none
}

// FilesRun is how far a backup of a host's directory is.
type FilesRun struct {
	ID      string    `json:"id"`                // whoever wants to end it names it
	Request string    `json:"request,omitempty"` // what it was asked for by; "" = it began by itself
	Since   time.Time `json:"since"`             // by that host's clock
	Names   int       `json:"names"`             // looked at
	Of      int       `json:"of"`                // names in the backup before, about as many as there will be; 0 = there was none
	Read    int64     `json:"bytes_read"`
	Stored  int64     `json:"bytes_stored"`
	Rate    int64     `json:"bytes_per_second"` // read; 0 = not known yet
	Left    int64     `json:"seconds_left"`     // by its names; 0 = not known, or less
}

// FileBackup is the newest backup of a host's directory.
type FileBackup struct {
	ID         string        `json:"id"`
	At         time.Time     `json:"at"` // when it began
	Took       time.Duration `json:"took"`
	Files      int           `json:"files"`
	Bytes      int64         `json:"bytes"`
	Read       int64         `json:"read"`
	Stored     int64         `json:"stored"`
	Unreadable int           `json:"unreadable,omitempty"` // names that are not in it
	Changed    int           `json:"changed,omitempty"`    // files that changed whenever they were read
}

// Hands carry out what a round asks for. Every call only starts the work; the next round's facts tell how it
// went.
type Hands interface {
	Act(name string, a database.Action)
	Interrupt(name string) // cancel the action under way
	Lease(name string, epoch int64, d time.Duration)
	Gate(name string, o database.GateOrder)
	Read(name string, o database.ReadOrder)
	Slots(name string, o database.SlotOrder) // at a steady pace, however often it is asked for
	Answer(name string, a []database.Answer)
	Service(a service.Action)
	Hold(id string, contact time.Duration) // a singleton may run on; contact = age of the proof that it is ours
}

// Outcome is what one round came to.
type Outcome struct {
	Report    Report
	Decisions map[string]database.Decision
	Problems  []problem.Problem
	Wake      time.Duration // the next round is due no later than this
	// Singletons is how old the proof is that our singletons are nobody else's; database.Never if there is none.
	Singletons time.Duration
}

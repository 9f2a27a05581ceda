// Package plan is what the operator wants: the plan file, parsed strictly with positions, checked with all
// its mistakes at once, and filled with defaults. Start at [Parse]. The types here are the resolved form
// that every other room reads; the shape of the file itself stays in file.go, the one table that the parser
// and the JSON Schema are made from.
package plan

import (
	"fmt"
	"strings"
	"time"
)

// Plan is one application as its operator described it, defaults filled in. Slices keep the file's order.
type Plan struct {
	Application string
	Objectives  Objectives
	Sites       []Site
	Release     string // directory or .tar.gz that every host runs, absolute; "" = services run from the host's own file system
	Ports       Ports
	Services    []Service
	Databases   []Database
	Files       []FileSet
	Vaults      []Vault
	Backups     []Backup // of databases
	Source      []byte   // the file as written; what the cluster keeps, so that each agent parses the same bytes
	File        string   // where it was read from; only for messages
	// Where each value stands in the file, by its dotted path (databases.records.standbys); what the file
	// does not state is missing, and a plan made in code has none.
	Where map[string]Place
}

// Objectives bound what a site's death may cost. Zero = not stated.
type Objectives struct {
	RPO    time.Duration // most data that may be lost, as time
	RTO    time.Duration // longest time without service
	Prefer string        // "rpo" (default: wait rather than lose) or "rto"
}

// Site is one place with hosts of its own.
type Site struct {
	Name   string
	Region string
	Hosts  []Host
}

// Host is one machine. Address is what other hosts and clients reach it by.
type Host struct {
	Name        string
	Site        string
	Address     string // IP, no port
	FaultDomain string // default: the host's own name
	Etcd        bool   // holds a member of the embedded etcd (default: the first 1, 3 or 5 hosts of the site, taking fault domains in turn)
}

// Ports are Holdfast's own, the same on each host of the plan.
type Ports struct {
	Agent      int // mutual TLS: API and heartbeats between agents (default 7400)
	Gossip     int // memberlist (default 7401)
	EtcdClient int // default 7402
	EtcdPeer   int // default 7403
	Gate       int // the first gate's heartbeat port; database i uses Gate+i (default 7410)
	Server     int // the first PostgreSQL server's own port; database i uses Server+i (default 7430)
	Scratch    int // first port for restored scratch servers (default 7450)
}

// Service is a stateless program that Holdfast keeps running.
type Service struct {
	Name      string
	Run       []string // argv; argv[0] is relative to the release when there is one
	Instances int      // 1 = a singleton: never two at once
	Port      int      // 0 = does not listen
	Route     *Route   // nil = none
	Live      *Check   // liveness: an instance that fails it is restarted
	Ready     *Check   // readiness: an instance that fails it gets no traffic
	Env       []EnvVar // in the file's order
	StopGrace time.Duration
	Hosts     []string // hosts it may run on; empty = any
	TLS       *TLSFiles
}

// Singleton reports whether two instances must never run at once.
func (s Service) Singleton() bool { return s.Instances == 1 }

// Route says how clients reach a service.
type Route struct {
	Scheme string // http, https or tcp
	Host   string // name clients ask for; "" with tcp or for any name
	Port   int
}

// TLSFiles are references to the certificate and key that the edge serves for a route.
type TLSFiles struct {
	Cert Secret
	Key  Secret
}

// Check asks an instance whether it is well.
type Check struct {
	Kind     string // http, tcp or exec
	Path     string // http
	Argv     []string
	Every    time.Duration // default 2 s
	Timeout  time.Duration // default 1 s
	Fall     int           // consecutive failures before it counts as failing (default 3)
	Rise     int           // consecutive successes before it counts as well (default 2)
	StartFor time.Duration // time after the start in which failing liveness is forgiven (default 30 s)
}

// EnvVar is one environment variable of a service. Value may hold ${databases.NAME.write_url},
// ${databases.NAME.read_url}, ${host.address}, ${instance.port}, ${instance.id}, or be a secret reference.
type EnvVar struct {
	Name  string
	Value string
}

// Database is one PostgreSQL cluster: a primary and its standbys.
type Database struct {
	Name           string
	Index          int // place in the plan, from 0; its ports follow from it
	Postgres       int // major version
	BinDir         string
	Standbys       int      // besides the primary
	AcknowledgedBy int      // standbys that hold a commit before the client hears of it (W)
	ByVault        string   // whether the vault must hold it too: VaultStrict, VaultRelaxed; "" = no
	Hosts          []string // candidates in order of preference; empty = all hosts of the home site
	Members        []Member // hosts that the file names, in its order: each holds a copy
	Relaxed        bool     // policy: with too few standbys commits are acknowledged by fewer, instead of waiting
	WritePort      int
	ReadPort       int           // 0 = no read-only listener
	MaxLag         time.Duration // a standby that is further behind is not read; 0 without a read-only listener
	Path           string        // of each host's own programs to the primary: PathProxy or PathKernel
	ReadFallback   string        // FallbackRefuse or FallbackPrimary; "" without a read-only listener
	Roles          []Role
	Parameters     []Parameter // postgresql.conf settings that Holdfast does not reserve
	CopyLimit      int64       // bytes a second that making a standby may move; 0 = no limit
	CopyFrom       []string    // what a standby is made of, best first; nil = a standby, then the primary
	SlotMax        int64       // bytes of log that are kept at most for a standby that is away
	SlotAfter      time.Duration
	DiskFull       string // what a primary does whose disk is nearly full: read-only, failover
	Salvage        Salvage
	OnTrouble      Trouble
}

// Trouble is a command that runs on a primary's own host before a standby takes over from it.
type Trouble struct {
	Run   []string      // nil = there is none
	Limit time.Duration // that a takeover waits for it
}

// String is what runs, for people.
func (t Trouble) String() string {
	if len(t.Run) == 0 {
		return "no command runs"
	}
	return fmt.Sprintf("%s runs, for at most %s", strings.Join(t.Run, " "), FormatDuration(t.Limit))
}

// How commits wait for the vault.
const (
	VaultStrict  = "strict"  // for as long as it takes
	VaultRelaxed = "relaxed" // until it has been away for a while, and that is agreed
)

// What a standby is made of.
const (
	CopyFromStandby = "standby"
	CopyFromVault   = "vault"
	CopyFromPrimary = "primary"
)

// The paths of a listener.
const (
	PathProxy  = "proxy"
	PathKernel = "kernel"
)

// What the read-only listener does while no standby may be read.
const (
	FallbackRefuse  = "refuse"  // tell the client, after a short wait
	FallbackPrimary = "primary" // lead it to the primary
)

// Member says how one host takes part in a database when it is not the primary.
type Member struct {
	Host    string
	Async   bool   // no commit waits for it, and it never takes over by itself
	Promote string // never, low, normal (default) or high
	Follows string // another member that it streams from in place of the primary; then it is asynchronous
}

// Votes reports whether commits may wait for the member and it may take over.
func (m Member) Votes() bool { return !m.Async && m.Follows == "" }

// Synchronous is how many standbys may hold a commit before the client hears of it.
func (d Database) Synchronous() int {
	n := d.Standbys
	for _, m := range d.Members {
		if !m.Votes() {
			n--
		}
	}
	return n
}

// Role is a login role, its secret and the databases it owns.
type Role struct {
	Name     string
	Password Secret
	Owns     []string
}

// Parameter is one PostgreSQL setting.
type Parameter struct{ Name, Value string }

// Vault is encrypted backup storage with its copies.
type Vault struct {
	Name     string
	Key      Secret
	Copies   []Copy
	Undelete time.Duration // how long what is deleted from a directory can be brought back; 0 = not at all
	Upkeep   Upkeep

	TwoPersons bool // must agree before something goes for good that the plan's tiers do not let go of

	Reserve int64 // bytes of a directory's disk that base backups and files leave to the log; 0 = a tenth, 4 GiB at most
}

// Copy is one place where a vault is stored. All copies are equal.
type Copy struct {
	Name string // usually the site's name
	URL  string // file:///absolute/path, file://${root}/path, s3://bucket/prefix or azblob://account/container/prefix
	S3   S3     // how an s3:// place is reached

	Azure Azure // how an azblob:// place is reached
}

// Azure says how a container is reached. The zero value leaves everything to the environment (AZURE_STORAGE_KEY and others).
type Azure struct {
	Endpoint   string // http(s)://host[:port]; "" = the account's own at blob.core.windows.net
	CAFile     string // authorities that sign the endpoint's certificate, PEM; "" = the system's
	AccountKey Secret // may do everything; or SAS
	SAS        Secret // a shared access signature that may write, and do what has none of its own
	ReadSAS    Secret
	DeleteSAS  Secret
}

// S3 says how a bucket is reached. The zero value leaves everything to the environment (AWS_ACCESS_KEY_ID and others).
type S3 struct {
	Endpoint  string // http(s)://host[:port]; "" = Amazon's
	Region    string
	CAFile    string // authorities that sign the endpoint's certificate, PEM; "" = the system's
	PathStyle string // "true", "false" or "" = by the endpoint
	Write     Access // and for reading and deleting, where those have none of their own
	Read      Access
	Delete    Access
	Lock      time.Duration // what is stored for ever cannot be deleted by anybody for so long; 0 = no lock
}

// Access is references to one pair of credentials; both are set, or neither.
type Access struct{ KeyID, Key Secret }

// Backup says what is backed up where, when, and how long it stays.
type Backup struct {
	Of          string // name of a database
	Vault       string
	Full        Schedule
	Incremental Schedule      // zero = none
	Prove       Schedule      // when one is restored on trial again; zero = only as it is made
	Zone        string        // in which the schedules are read; "" = UTC
	Jitter      time.Duration // by how much a run may be late
	Limit       int64         // bytes a second that a base backup which the schedule makes may read; 0 = no limit
	All         time.Duration // how long every backup stays (default 24 h); 0 = none
	HalfDaily   time.Duration // how long one of each 12 hours stays (default 7 d); 0 = none
	Daily       time.Duration // how long one of each day stays (default 15 d); 0 = a day longer than PITR
	PITR        time.Duration // how far back any moment can be restored (default 14 d); 0 = whole backups alone, by the word none
	Weekly      time.Duration // how long weekly backups stay (default 2 y); 0 = none stays for being weekly
	Validate    Validate      // how each is looked at after it was restored on trial
	Spill       string        // directory on another disk that takes log which waits for the vault; "" = none
}

// Gap is the longest time from one base backup to the next.
func (b Backup) Gap() time.Duration {
	full, between := b.Full.Longest(), b.Incremental.Longest()
	if between > 0 && (full == 0 || between < full) {
		return between
	}
	return full
}

// Schedule is a repeating time in words; the zero value never fires.
type Schedule struct {
	Text  string        // as written: "daily 01:00", "every 6h", "30 1 * * mon-fri"
	Cron  string        // the same as a five-field cron line; "" when Every is set
	Every time.Duration // 0 when Cron is set
}

// FileSet is a directory that is backed up as it is. Each of its hosts has one of its own.
type FileSet struct {
	Name    string
	Path    string   // absolute, the same on each of its hosts
	Hosts   []string // at least one
	Exclude []string // patterns of what is left out; see internal/files
	Backup  FileBackup
	Moment  Moment
}

// Moment says how a file set and a database are brought to stand still together for a recovery point.
type Moment struct {
	Database string        // "" = the set has no recovery points
	Before   []string      // command on the set's host: from its end on nothing changes files or database
	After    []string      // command that lets them go on; it runs whatever happened
	Freeze   time.Duration // from the beginning of Before to the beginning of After, at most
	Snapshot time.Duration // of that for taking files and position, at most

	AfterRestore [][]string    // commands that run in turn once both were restored, before anything serves
	Check        []string      // command that holds the restored database against the restored files; none = no such
	RestoreLimit time.Duration // of each of these commands
	RestoreUser  string        // user of the host as whom they run; "" = whoever restores

	Every  Schedule      // when points are made by themselves; zero = only when somebody asks
	Zone   string        // time zone of Every; "" = UTC
	Jitter time.Duration // by how much each may be late
}

// FileBackup says where a file set is backed up to and how often. No vault = it is not.
type FileBackup struct {
	Vault  string
	Every  Schedule
	Zone   string        // time zone of Every; "" = UTC
	Jitter time.Duration // by how much each may be late
	Keep   string        // how long backups stay: KeepForever, or KeepTiers and what follows counts

	All, HalfDaily, Daily, Weekly time.Duration // as in [Backup]; 0 = none
}

// How long the backups of a file set stay. The zero value is forever too.
const (
	KeepForever = "forever"
	KeepTiers   = "tiers"
)

// Secret is a reference: env:NAME, file:/path or exec:command. The value is never kept in the plan.
type Secret string

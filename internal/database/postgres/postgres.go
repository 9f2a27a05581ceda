// Package postgres drives one host's own PostgreSQL server for the room database. Start at [Open], which checks
// everything that can be checked before anything is touched, and gives the [Server] that implements
// database.Server. DESIGN.md beside this file tells how each promise of DATABASE.md is kept and why so.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"holdfast/internal/clock"
	"holdfast/internal/database"
	"holdfast/internal/keeper"
	"holdfast/internal/problem"
	"holdfast/internal/redact"
)

// Superuser is Holdfast's own role. Clients cannot log in as it: only this host's agent over the private
// socket, and peers by certificate.
const Superuser = "holdfast"

// Config is what a server is made of. Zero means the default where one is named.
type Config struct {
	Database string // the plan's name of it
	Host     string // this host's name, the common name of its certificate
	Address  string // IP that the server listens on
	Port     int
	Dir      string // the database's own directory, absolute; see layout.go for what lies in it

	Major  int    // PostgreSQL's major version
	BinDir string // "" = found by Major

	CertDir    string // holds ca.crt, host.crt, host.key of this host
	ServerName string // name that every server certificate carries; "" = each peer's host name is verified

	Peers      []database.Endpoint // every other host that may hold this database
	Roles      []Role
	RolesLater bool        // they are not known yet: [Server.SetRoles] brings them, and none is touched before
	SlotMax    int64       // bytes of log that one slot may keep; 0 = 8 GiB
	CopyLimit  int64       // bytes a second that a copy may move to this host; 0 = no limit
	Settings   string      // see [Server.TookSettings]
	Parameters []Parameter // applied over the defaults; what Holdfast reserves is refused

	Vault Vault `json:"-"` // that copies may be made of; nil = none

	Stored StoredWish // whether the vault must hold a commit too

	Executable  string // the holdfast program, for `holdfast keeper`
	GateControl string // Unix socket that the keeper asks to cut clients before it fences; "" = none

	Log   *slog.Logger // nil = discard
	Clock clock.Clock  // nil = clock.Real()

	// SpaceDir is where a tablespace lies here that lies at location on another host; nil = at the same path. What the log
	// makes lies where the log says, whatever this is.
	SpaceDir func(location string) string `json:"-"`

	// Free is what may still be written where a path lies, in bytes; nil = as the file system says.
	Free func(path string) (int64, error) `json:"-"`
}

// Role is a login role of the plan, and the databases that it owns.
type Role struct {
	Name     string
	Password redact.String
	Owns     []string
}

// Parameter is one PostgreSQL setting of the plan.
type Parameter struct{ Name, Value string }

// Server is one host's own server. Its methods are those of database.Server; Close ends what it started in the
// background, never PostgreSQL itself.
type Server struct {
	cfg   Config
	owner owner
	at    layout
	log   *slog.Logger
	clock clock.Clock

	op sync.Mutex // one method at a time, except Observe and Kill; taken before mu

	tidying sync.Mutex // one TidyPreserved at a time; nothing is taken within it

	background context.Context // ended by Close
	end        context.CancelFunc
	tasks      sync.WaitGroup

	mu           sync.Mutex // guards what follows; held for moments only
	now          memory
	planSettings []Parameter
	planRoles    wishes
	slotMax      int64
	copyLimit    int64
	stored       StoredWish
	programs     string   // folder with them
	given        string   // what the plan says of it
	watch        observer // has its own lock

	slots     slotKeeper // has its own lock
	following following  // too
}

// memory is what the driver knows besides the files. All of it may be lost: then it is learnt or done again.
type memory struct {
	keeper    *keeper.Client    // nil = look for it
	position  database.Position // of the last Recruit; zero = none that still holds
	force     database.Force
	forceAt   time.Time // database time; walsenders from after it are fresh
	stopping  bool
	ended     *database.LastWords // of endedLife; nil = none
	endedLife string              // the keeper's life whose last words were looked for
	killing   int                 // Kill calls under way
	written   written             // values of synchronous_standby_names that this process wrote
	asked     askedVault          // since when the vault is asked
	roles     bool                // they are as wished, in this life
	spaces    *problem.Problem    // of the tablespaces; nil = none
	progress  string
	failed    string
	kind      database.Kind
	trouble   *problem.Problem // of failed, where a person can mend it
	from      string           // whom the last copy was to be made of
	held      database.LSN     // known end of WAL on disk, at least; 0 = not looked
	heldFor   string           // incarnation that held belongs to

	refused     string // why PostgreSQL does not take refusedText
	refusedText string // of postgresql.conf
	settings    string // see [Server.TookSettings]
}

var _ database.Server = (*Server)(nil)

// Open checks the configuration and the host. Failures that an operator can mend are *problem.Problem.
// Nothing is written and nothing is started.
func Open(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("open the PostgreSQL server of %q: %w", cfg.Database, err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real()
	}
	if cfg.Free == nil {
		cfg.Free = freeBytes
	}
	o, err := findOwner(cfg.Database)
	if err != nil {
		return nil, err
	}
	bin, err := findBinaries(cfg.Database, cfg.Major, cfg.BinDir)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, programs: bin, given: cfg.BinDir, owner: o, at: layoutOf(cfg.Dir), clock: cfg.Clock,
		log: cfg.Log.With("database", cfg.Database),
	}
	if err := s.checkPlace(); err != nil {
		return nil, err
	}
	s.planRoles = wishes{known: !cfg.RolesLater, roles: cfg.Roles}
	s.planSettings, s.slotMax, s.copyLimit, s.now.settings = cfg.Parameters, cfg.SlotMax, cfg.CopyLimit, cfg.Settings
	s.stored = cfg.Stored
	s.background, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Close ends background work and waits for it. PostgreSQL and its keeper go on.
func (s *Server) Close() error {
	s.end()
	s.tasks.Wait()
	s.slots.close()
	return s.watch.close()
}

// BinDir is the folder of the PostgreSQL programs in use.
func (s *Server) BinDir() string { return s.bin() }

func (s *Server) bin() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.programs
}

// SetBinDir changes where the programs lie; "" = found by the major version. A server that runs goes on with the ones
// that it was started with, and tells Local.Pending where they are another release. Programs that are missing, or of
// another major version, are refused with a *problem.Problem.
func (s *Server) SetBinDir(given string) error {
	s.mu.Lock()
	same := given == s.given
	s.mu.Unlock()
	if same {
		return nil // programs are asked what they are, and who applies another plan must not wait for a slow disk
	}
	bin, err := findBinaries(s.cfg.Database, s.cfg.Major, given)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.programs, s.given = bin, given
	return nil
}

// TookSettings notes that the settings and programs that the plan calls so were brought here, as far as they can be had.
// Looks that begin from now on say so, as Local.Settings.
func (s *Server) TookSettings(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.settings = name
}

// SetLimits changes how much log one slot may keep, and what a copy that begins from now on may move; zero = as in
// [Config].
func (s *Server) SetLimits(slotMax, copyLimit int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slotMax, s.copyLimit = slotMax, copyLimit
}

// limits are those of [Server.SetLimits].
func (s *Server) limits() (slotMax, copyLimit int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slotMax, s.copyLimit
}

// SocketDir is the private folder of the server's Unix socket; with Superuser it is a local session's address.
func (s *Server) SocketDir() string { return s.at.run }

// DataDir is PostgreSQL's own directory.
func (s *Server) DataDir() string { return s.at.data }

var plainName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)

// check reports every bad field at once.
func (c Config) check() error {
	var bad []error
	say := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	if !plainName.MatchString(c.Database) {
		say("database name %q is not made of letters, digits, dots, dashes and underscores", c.Database)
	}
	if !plainName.MatchString(c.Host) {
		say("host name %q is not made of letters, digits, dots, dashes and underscores", c.Host)
	}
	if _, err := netip.ParseAddr(c.Address); err != nil {
		say("address %q is not an IP address", c.Address)
	}
	if c.Port < 1 || c.Port > 65535 {
		say("port %d is not a port (1 to 65535)", c.Port)
	}
	if c.Major < oldestMajor || c.Major > newestMajor {
		say("PostgreSQL %d is not supported (%d to %d)", c.Major, oldestMajor, newestMajor)
	}
	for name, path := range map[string]string{"directory": c.Dir, "certificate directory": c.CertDir, "holdfast program": c.Executable} {
		if !filepath.IsAbs(path) {
			say("%s %q is not an absolute path", name, path)
		}
	}
	for _, p := range c.Peers {
		if _, err := netip.ParseAddr(p.Address); err != nil || !plainName.MatchString(p.Host) || p.Port < 1 {
			say("peer %q at %s port %d is not reachable as written", p.Host, p.Address, p.Port)
		}
	}
	for _, r := range c.Roles {
		if err := r.check(); err != nil {
			bad = append(bad, err)
		}
	}
	for _, p := range c.Parameters {
		if err := p.check(); err != nil {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

func (r Role) check() error {
	if r.Name == "" || r.Name == Superuser || len(r.Name) > 63 {
		return fmt.Errorf("role name %q cannot be used", r.Name)
	}
	return nil
}

func (p Parameter) check() error {
	if !settingName.MatchString(p.Name) {
		return fmt.Errorf("parameter %q is not the name of a setting", p.Name)
	}
	if slices.Contains(reserved, p.Name) {
		return fmt.Errorf("parameter %s belongs to Holdfast: it decides it from the rest of the plan", p.Name)
	}
	return nil
}

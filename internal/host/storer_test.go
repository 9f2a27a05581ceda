package host

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/memory"
	"holdfast/internal/database"
	"holdfast/internal/database/stored"
	"holdfast/internal/plan"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

func TestFromWhichBaseBackupTheLogLeadsOn(t *testing.T) {
	rec := database.Record{SystemID: 7, Timeline: 4, Forks: []database.Fork{{Timeline: 2, Parent: 1, LSN: 100}, {Timeline: 4, Parent: 2, LSN: 200}}}
	b := func(id string, timeline uint32, start wal.LSN, change ...func(*vault.Backup)) vault.Backup {
		out := vault.Backup{ID: id, SystemID: 7, Timeline: timeline, Start: start}
		for _, f := range change {
			f(&out)
		}
		return out
	}
	bad := func(b *vault.Backup) { b.Validation = &vault.Validation{} }
	other := func(b *vault.Backup) { b.SystemID = 8 }
	for name, c := range map[string]struct {
		made []vault.Backup
		want string
	}{
		"none":                           {nil, ""},
		"the newest":                     {[]vault.Backup{b("a", 4, 210), b("b", 4, 300)}, "b"},
		"one of an earlier timeline":     {[]vault.Backup{b("a", 2, 150)}, "a"},
		"one begun where nobody follows": {[]vault.Backup{b("a", 1, 50), b("b", 2, 200)}, "a"},
		"one of a timeline that was not committed": {[]vault.Backup{b("a", 3, 150)}, ""},
		"one that was found bad":                   {[]vault.Backup{b("a", 4, 210), b("b", 4, 300, bad)}, "a"},
		"one of another database":                  {[]vault.Backup{b("a", 4, 210, other)}, ""},
	} {
		if got := leadsFrom(c.made, rec); got.ID != c.want {
			t.Errorf("%s: %q, want %q", name, got.ID, c.want)
		}
	}
}

func TestWhetherTheArchivistIsAskedToVote(t *testing.T) {
	claimed := agent.Snapshot{Agreed: map[string]cluster.Entry{storedKey("orders"): {Value: []byte(`{"epoch":2}`), Revision: 1}}}
	over := func(epoch int64) agent.Snapshot {
		return agent.Snapshot{Agreed: map[string]cluster.Entry{storedKey("orders"): {Value: []byte(`{"epoch":2,"done":true}`), Revision: 1}},
			Facts: agent.Facts{Databases: []agent.DatabaseFacts{{Name: "orders", Record: database.Record{Epoch: epoch}}}}}
	}
	for name, c := range map[string]struct {
		mode     string
		now      agent.Snapshot
		asked    bool
		standbys int
	}{
		"the plan does not ask for it":              {"", agent.Snapshot{}, false, -1},
		"not any more, and a server may still wait": {"", claimed, true, -1},
		"nor does a server in this epoch":           {"", over(2), false, -1},
		"one of a later epoch may":                  {"", over(3), true, -1},
		"the plan asks for it":                      {"strict", agent.Snapshot{}, true, 2},
		"and did before":                            {"relaxed", claimed, true, 2},
	} {
		asked, standbys := voting(plan.Database{Name: "orders", ByVault: c.mode, Standbys: 2}, c.now)
		if asked != c.asked || standbys != c.standbys {
			t.Errorf("%s: %v for %d standbys", name, asked, standbys)
		}
	}
}

// The archivist votes for a log that is whole, from a base backup on, and for nothing else.
func TestWhenTheArchivistVotes(t *testing.T) {
	a := anArchivist(t, t.TempDir())
	a.host.applied.now.Databases = []plan.Database{{Name: "orders", ByVault: "strict", Standbys: 2}}
	base := vault.Backup{ID: "b", SystemID: 7, Timeline: 1, Start: 100}
	begin := func() {
		a.turn()
		a.gaps = gaps{}
		a.useSecond("")
		a.judge("", base)
	}
	begin()
	if got := a.votes(); got != (backup.Vote{Asked: true, Standbys: 2, Timeline: 1, Base: 100}) {
		t.Fatalf("it votes %+v", got)
	}
	for name, then := range map[string]func(){
		"the log has not been looked through":  func() { a.turn(); a.from = base },
		"no base backup is known in this turn": func() { a.turn(); a.judge("", vault.Backup{}) },
		"log is lost":                          func() { a.lost(&backup.GapError{Database: "orders", From: 150}) },
		"log is missing in the vault":          func() { a.judge((&backup.GapError{Database: "orders", From: 150}).Error(), base) },
		"log came twice":                       func() { a.isTwice(&vault.DuplicateError{Name: "x"}) },
		"log of the second place was lost": func() {
			a.lostThere(&backup.GapError{Database: "orders", From: 150}, errors.New("it cannot be read"))
		},
		"the second place was brought in":            func() { a.tell(backup.Status{Spilled: 1 << 24}); a.tell(backup.Status{}) },
		"something befell the log between two looks": func() { a.tell(backup.Status{Doubts: 1}) },
		"the plan does not ask for it any more":      func() { a.host.applied.now.Databases[0].ByVault = "" },
	} {
		a.host.applied.now.Databases[0].ByVault = "strict"
		begin()
		then()
		if got := a.votes(); got.Asked {
			t.Errorf("%s, and it votes %+v", name, got)
		}
	}
}

// aServer answers what a test says, and keeps what it was told.
type aServer struct {
	says  stored.Server
	may   bool // its settings may ask the vault
	looks int
	told  []bool
}

func (s *aServer) AsksVault() bool { return s.may }

func (s *aServer) Stored(context.Context) (stored.Server, error) {
	s.looks++
	return s.says, nil
}

func (s *aServer) AskVault(_ context.Context, epoch int64, vault bool) error {
	if epoch != 3 {
		return database.ErrStale
	}
	s.told = append(s.told, vault)
	s.says.Asks = vault
	return nil
}

// slowStore lets writes take effect later, while nobody hears of them.
type slowStore struct {
	cluster.Store
	slow  bool
	late  func() error
	reads int
}

func (s *slowStore) Get(ctx context.Context, key string) (cluster.Entry, error) {
	s.reads++
	return s.Store.Get(ctx, key)
}

func (s *slowStore) Put(ctx context.Context, key string, value []byte, rev int64) (int64, error) {
	if !s.slow {
		return s.Store.Put(ctx, key, value, rev)
	}
	s.late = func() error { _, err := s.Store.Put(context.Background(), key, value, rev); return err }
	return 0, cluster.ErrUnavailable
}

// aStorer is on the host of a primary of epoch 3, of a plan with one database.
func aStorer(t *testing.T, mode string) (*storer, *aServer, *slowStore, agent.Snapshot) {
	t.Helper()
	h := aFilerHost(t, plan.Moment{})
	h.applied.now.Databases = []plan.Database{{Name: "orders", ByVault: mode, Standbys: 1}}
	h.applied.now.Backups = []plan.Backup{{Of: "orders", Vault: "main"}}
	store := &slowStore{Store: memory.New().Open("h1")}
	server := &aServer{may: mode != ""}
	now := agent.Snapshot{Agreed: map[string]cluster.Entry{agent.KeyArchivers + "orders": {Value: []byte(`"h1"`), Revision: 1}},
		Outcome: agent.Outcome{Report: agent.Report{Archive: map[string]agent.Archive{"orders": {Vault: "main"}}}}, Facts: agent.Facts{Known: true, Databases: []agent.DatabaseFacts{{Name: "orders",
			Record: database.Record{Epoch: 3, Phase: database.Steady, Opened: true, Primary: "h1"},
			Local:  database.Local{Known: true, Ready: true, Role: database.Primary, Promise: database.Promise{Epoch: 3}}}}}}
	return &storer{host: h, name: "orders", server: server, store: store}, server, store, now
}

func TestADatabaseThatNeverWaitedForTheVaultIsNotAskedAboutIt(t *testing.T) {
	s, server, store, now := aStorer(t, "")
	for range 3 {
		if err := s.look(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	if server.looks != 0 || store.reads != 0 {
		t.Errorf("%d questions to the server, %d to the store", server.looks, store.reads)
	}
	for name, change := range map[string]func(){
		"its settings may ask the vault": func() { server.may = true },
		"it did in an epoch before": func() {
			server.may = false
			now.Agreed = map[string]cluster.Entry{storedKey("orders"): {Value: []byte(`{"epoch":2,"done":true}`), Revision: 1}}
		},
		"it is claimed": func() {
			server.may = false
			now.Agreed = map[string]cluster.Entry{storedKey("orders"): {Value: []byte(`{"epoch":3,"on":true}`), Revision: 1}}
		},
	} {
		server.looks = 0
		change()
		if err := s.look(t.Context(), now); err != nil || server.looks != 1 {
			t.Errorf("%s, and the server was asked %d times (%v)", name, server.looks, err)
		}
	}
}

// A claim whose fate nobody heard of is written over before the vault is left, so that it never comes into effect behind that.
func TestAClaimOfUnknownFateIsWrittenOverBeforeTheVaultIsLeft(t *testing.T) {
	s, server, store, now := aStorer(t, "relaxed")
	key := cluster.Key[stored.Claim](storedKey("orders"))
	looks := func(n int) {
		t.Helper()
		for range n {
			now.Facts.Now += time.Second
			if err := s.look(t.Context(), now); err != nil {
				t.Fatal(err)
			}
		}
	}
	away := stored.Server{Asks: true, InForce: true, Mark: 100, Flushed: 1 << 30, Held: 200}
	back := stored.Server{InForce: true, Mark: 100, Flushed: 1 << 30, Held: 1 << 30}
	server.says = away
	looks(15)
	if !slices.Equal(server.told, []bool{false}) || s.leaves != 3 {
		t.Fatalf("the vault is away, and the server was told %v", server.told)
	}
	server.says = back
	store.slow = true
	looks(15)
	if !slices.Equal(server.told, []bool{false, true}) || store.late == nil {
		t.Fatalf("the vault is back, and the server was told %v, a claim was written: %v", server.told, store.late != nil)
	}
	store.slow = false
	away.Flushed += 1 << 30
	server.says = away
	looks(15)
	if !slices.Equal(server.told, []bool{false, true, false}) {
		t.Fatalf("the vault is away again, and the server was told %v", server.told)
	}
	if err := store.late(); !errors.Is(err, cluster.ErrConflict) {
		t.Errorf("the claim comes late: %v", err)
	}
	if c, _, err := key.Load(t.Context(), store); err != nil || c.On {
		t.Errorf("the vault is left, and agreed is %+v (%v)", c, err)
	}
}

func TestWhichVaultTheArchivistStoresIn(t *testing.T) {
	report := func(vault string) agent.Report {
		return agent.Report{Archive: map[string]agent.Archive{"orders": {Vault: vault}}}
	}
	for name, c := range map[string]struct {
		who    string
		change func(*agent.Snapshot)
		want   string
	}{
		"our own":                         {`"h1"`, nil, "main"},
		"another host's":                  {`"h2"`, nil, "new"},
		"nobody is named":                 {"", nil, ""},
		"a name that cannot be read":      {"{", nil, ""},
		"one of which nothing was heard":  {`"h3"`, nil, ""},
		"one that has been silent since":  {`"h2"`, func(s *agent.Snapshot) { s.Facts.Peers[0].AgentAge = archivistHeard }, ""},
		"one whose turn is only to begin": {`"h2"`, func(s *agent.Snapshot) { s.Facts.Peers[0].Report = &agent.Report{} }, ""},
	} {
		heard := report("new")
		now := agent.Snapshot{Agreed: map[string]cluster.Entry{}, Outcome: agent.Outcome{Report: report("main")}}
		now.Facts.Peers = []agent.PeerFacts{{Host: "h2", Report: &heard}, {Host: "h3"}}
		if c.who != "" {
			now.Agreed[agent.KeyArchivers+"orders"] = cluster.Entry{Value: []byte(c.who), Revision: 1}
		}
		if c.change != nil {
			c.change(&now)
		}
		if got := storesIn(now, "h1", "orders"); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A claim names the vault that the plan names, and another vault in the plan takes it back.
func TestAClaimIsOfThePlansVault(t *testing.T) {
	s, server, store, now := aStorer(t, "strict")
	key := cluster.Key[stored.Claim](storedKey("orders"))
	server.says = stored.Server{Asks: true, InForce: true, Mark: 100, Flushed: 200, Held: 200}
	look := func(want stored.Claim) {
		t.Helper()
		now.Facts.Now += time.Second
		if err := s.look(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if c, _, err := key.Load(t.Context(), store); err != nil || c.On != want.On || c.Vault != want.Vault {
			t.Fatalf("agreed is %+v (%v), want %+v", c, err, want)
		}
	}
	look(stored.Claim{On: true, Vault: "main"})
	s.host.applied.now.Backups[0].Vault = "new"
	look(stored.Claim{Vault: "new"})
	look(stored.Claim{Vault: "new"}) // the archivist still stores in the old one
	now.Outcome.Report.Archive["orders"] = agent.Archive{Vault: "new"}
	look(stored.Claim{On: true, Vault: "new"})
}

func TestWhoLeadsMayJudgeWhatCommitsWaitFor(t *testing.T) {
	facts := func(change func(*agent.Facts, *agent.DatabaseFacts)) agent.Snapshot {
		d := agent.DatabaseFacts{Name: "orders",
			Record: database.Record{Epoch: 3, Phase: database.Steady, Opened: true, Primary: "h1"},
			Local:  database.Local{Known: true, Ready: true, Role: database.Primary, Promise: database.Promise{Epoch: 3}}}
		f := agent.Facts{Known: true}
		if change != nil {
			change(&f, &d)
		}
		f.Databases = []agent.DatabaseFacts{d}
		return agent.Snapshot{Facts: f}
	}
	if v, leads := leading(facts(nil), "h1", "orders"); !leads || v.Epoch != 3 || v.Self != "h1" {
		t.Errorf("the primary's host does not lead: %+v", v)
	}
	for name, change := range map[string]func(*agent.Facts, *agent.DatabaseFacts){
		"another is the primary":         func(_ *agent.Facts, d *agent.DatabaseFacts) { d.Record.Primary = "h2" },
		"it is not open yet":             func(_ *agent.Facts, d *agent.DatabaseFacts) { d.Record.Opened = false },
		"an election is under way":       func(_ *agent.Facts, d *agent.DatabaseFacts) { d.Record.Phase = database.Recruiting },
		"it promised another epoch":      func(_ *agent.Facts, d *agent.DatabaseFacts) { d.Local.Promise.Epoch = 4 },
		"its server is a standby":        func(_ *agent.Facts, d *agent.DatabaseFacts) { d.Local.Role = database.Standby },
		"its names are closed":           func(_ *agent.Facts, d *agent.DatabaseFacts) { d.Local.Names = database.Closed() },
		"the application is stopped":     func(f *agent.Facts, _ *agent.DatabaseFacts) { f.Stopping = true },
		"nothing agreed was read":        func(f *agent.Facts, _ *agent.DatabaseFacts) { f.Known = false },
		"there is no such database here": func(_ *agent.Facts, d *agent.DatabaseFacts) { d.Name = "other" },
	} {
		if _, leads := leading(facts(change), "h1", "orders"); leads {
			t.Errorf("%s, and it leads", name)
		}
	}
}

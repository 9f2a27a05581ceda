package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/cluster"
	"holdfast/internal/database"
	"holdfast/internal/database/stored"
	"holdfast/internal/event"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
)

// Status is the whole application for a person or a program.
type Status struct {
	Application string            `json:"application"`
	From        string            `json:"from"`    // the host whose view this is
	Verdict     string            `json:"verdict"` // one sentence
	Hosts       []HostStatus      `json:"hosts"`
	Files       []FilesStatus     `json:"files,omitempty"`
	Services    []ServiceStatus   `json:"services"`
	Databases   []DatabaseStatus  `json:"databases"`
	Restored    []RestoredStatus  `json:"restored,omitempty"`
	Upkeep      []ChoreStatus     `json:"upkeep"` // what hosts do by themselves for vaults and backups
	Problems    []problem.Problem `json:"problems"`
	IfDied      []IfDied          `json:"if_died"`
}

// RestoredStatus is a restored copy of a database that stands beside the live ones.
type RestoredStatus struct {
	Host string `json:"host"`
	agent.Restored
}

// HostStatus is one host.
type HostStatus struct {
	Name        string         `json:"name"`
	Address     string         `json:"address"`
	FaultDomain string         `json:"fault_domain"`
	Heard       bool           `json:"heard"`
	Age         event.Duration `json:"age"` // since its last beat
	Version     string         `json:"version,omitempty"`
	Plan        string         `json:"plan,omitempty"`  // hash of the plan's text that it follows
	Member      bool           `json:"member"`          // gossip believes it alive; nothing is judged from it
	Votes       *bool          `json:"votes,omitempty"` // its etcd member serves and votes; nil = not known, or it keeps none
}

// Candidates says who could take over a database now.
type Candidates struct {
	Primary string            `json:"primary"`
	Open    bool              `json:"open"`
	Refused map[string]string `json:"refused"` // by standby: why not; "" = it could
}

// DatabaseStatus is one database.
type DatabaseStatus struct {
	Name           string         `json:"name"`
	Phase          string         `json:"phase"`
	Epoch          int64          `json:"epoch"`
	Timeline       uint32         `json:"timeline"`
	Primary        string         `json:"primary"`
	Open           bool           `json:"open"` // clients are let in
	AcknowledgedBy int            `json:"acknowledged_by"`
	ElectionNeeds  int            `json:"election_needs"`    // voters that must answer before one takes over; while a former self is still a voter, more than there are
	Because        []string       `json:"because,omitempty"` // why this primary
	Listener       []string       `json:"listener"`
	ReadListener   []string       `json:"read_listener,omitempty"` // none without listen.read
	Servers        []ServerStatus `json:"servers"`
	Archive        *ArchiveStatus `json:"archive,omitempty"`
	Paused         *PauseStatus   `json:"paused,omitempty"`
	Planned        []PlannedMove  `json:"planned,omitempty"`               // switchovers that wait for their moment, the oldest first
	ByVault        *ByVaultStatus `json:"acknowledged_by_vault,omitempty"` // none where the plan does not ask for it and nothing of it stands
}

// ServerStatus is one copy of a database.
type ServerStatus struct {
	Host     string         `json:"host"`
	Role     string         `json:"role"`  // primary, standby, stopped, unknown
	State    string         `json:"state"` // in words
	LSN      string         `json:"lsn,omitempty"`
	LagBytes *int64         `json:"lag_bytes,omitempty"` // behind the primary; nil = not known: it is no standby, or the primary does not answer
	Lag      event.Duration `json:"replay_lag"`
	Counts   bool           `json:"counts"`            // a commit may be acknowledged by it
	Read     *ReadStatus    `json:"read,omitempty"`    // nil without a read-only listener
	Version  string         `json:"version,omitempty"` // of PostgreSQL, as it runs
	Pending  []string       `json:"pending,omitempty"` // what its next start would change

	FreeBytes int64 `json:"free_bytes,omitempty"` // on the disk of its log; 0 = it is full, or with DiskBytes 0 not known
	DiskBytes int64 `json:"disk_bytes,omitempty"` // of that disk; 0 = not known
}

// ReadStatus is one copy as the read-only listener of the host that answers sees it.
type ReadStatus struct {
	In  bool           `json:"in"`            // sessions are led to it
	Lag event.Duration `json:"lag,omitempty"` // what it shows is at most this old; only when it is in
	Why string         `json:"why,omitempty"` // why it is not in, or gets no new sessions
}

// ArchiveStatus is how far the vault has a database's WAL.
type ArchiveStatus struct {
	Host     string            `json:"host"`
	Vault    string            `json:"vault"`
	Archived string            `json:"archived"`
	Lag      *event.Duration   `json:"lag"` // every commit that was acknowledged longer ago is there, but for what Gap says; nil = not known
	Trouble  string            `json:"trouble,omitempty"`
	Gap      string            `json:"gap,omitempty"`  // log that is lost, while no base backup stands behind it
	Last     *agent.BaseBackup `json:"last,omitempty"` // newest base backup; nil = none
	Running  []agent.Run       `json:"running,omitempty"`
}

// ByVaultStatus is whether commits wait for the vault.
type ByVaultStatus struct {
	Wanted string `json:"wanted"`        // by the plan: strict, relaxed, "" = not any more
	Holds  bool   `json:"holds"`         // every acknowledged commit is in the vault: the loss of all servers loses none
	Why    string `json:"why,omitempty"` // why it holds, or not
}

// FilesStatus is a host's directory of one file set.
type FilesStatus struct {
	Name string `json:"name"`
	Host string `json:"host"`
	agent.Files
	Heard bool `json:"heard"` // false = its host does not answer, and nothing is known
}

// ServiceStatus is one service.
type ServiceStatus struct {
	Name      string           `json:"name"`
	Wanted    int              `json:"wanted"`
	Ready     int              `json:"ready"`
	Route     string           `json:"route,omitempty"`
	Instances []InstanceStatus `json:"instances"`
}

// InstanceStatus is one running copy of a service.
type InstanceStatus struct {
	ID    string `json:"id"`
	Host  string `json:"host"`
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
}

// IfDied says what would happen if one host died now.
type IfDied struct {
	Host string `json:"host"`
	Text string `json:"text"`
	Safe bool   `json:"safe"` // nothing is lost and service comes back by itself
}

// Describe is the status as one host's newest round shows it.
func Describe(p *plan.Plan, self string, s agent.Snapshot) Status {
	st := Status{Application: p.Application, From: self}
	for _, h := range p.AllHosts() {
		st.Hosts = append(st.Hosts, describeHost(h, self, s))
	}
	for _, d := range p.Databases {
		st.Databases = append(st.Databases, describeDatabase(p, d, self, s))
	}
	st.Files = describeFiles(p, self, s)
	st.Services = describeServices(p, self, s)
	for _, h := range p.AllHosts() {
		if rep := reportOf(self, h.Name, s); rep != nil {
			for _, c := range rep.Restored {
				st.Restored = append(st.Restored, RestoredStatus{h.Name, c})
			}
		}
	}
	st.Upkeep = describeUpkeep(p, self, s)
	st.Problems = problems(p, self, s, st)
	for _, h := range p.AllHosts() {
		st.IfDied = append(st.IfDied, ifDied(p, h, st))
	}
	st.Verdict = verdict(st)
	return st
}

func peerOf(s agent.Snapshot, host string) (agent.PeerFacts, bool) {
	i := slices.IndexFunc(s.Facts.Peers, func(p agent.PeerFacts) bool { return p.Host == host })
	if i < 0 {
		return agent.PeerFacts{}, false
	}
	return s.Facts.Peers[i], true
}

// heardMax is how old a beat may be before a host counts as silent in the status.
const heardMax = 2500 * time.Millisecond

// reportOf is the newest word of a host, our own included; nil when it is silent.
func reportOf(self, host string, s agent.Snapshot) *agent.Report {
	if host == self {
		return &s.Outcome.Report
	}
	if p, ok := peerOf(s, host); ok && p.AgentAge < heardMax {
		return p.Report
	}
	return nil
}

// heardAgo is how old a host's newest word is.
func heardAgo(self, host string, s agent.Snapshot) time.Duration {
	if p, ok := peerOf(s, host); ok && host != self {
		return p.AgentAge
	}
	return 0
}

// later is the status as it reads so much later, when nothing was heard meanwhile.
func (st Status) later(since time.Duration) Status {
	for i := range st.Databases {
		if a := st.Databases[i].Archive; a != nil && a.Lag != nil {
			*a.Lag += event.Duration(max(since, 0))
		}
	}
	return st
}

func describeHost(h plan.Host, self string, s agent.Snapshot) HostStatus {
	out := HostStatus{Name: h.Name, Address: h.Address, FaultDomain: h.FaultDomain}
	if r := reportOf(self, h.Name, s); r != nil {
		out.Heard, out.Version, out.Plan, out.Votes = true, r.Version, r.Plan, r.Votes
	}
	if p, ok := peerOf(s, h.Name); ok {
		out.Age = event.Duration(min(p.AgentAge, 24*time.Hour))
	}
	return out
}

func describeDatabase(p *plan.Plan, d plan.Database, self string, s agent.Snapshot) DatabaseStatus {
	out := DatabaseStatus{Name: d.Name, Phase: "unknown", AcknowledgedBy: d.AcknowledgedBy}
	for _, h := range p.AllHosts() {
		out.Listener = append(out.Listener, fmt.Sprintf("%s:%d", h.Address, d.WritePort))
		if d.ReadPort != 0 {
			out.ReadListener = append(out.ReadListener, fmt.Sprintf("%s:%d", h.Address, d.ReadPort))
		}
	}
	i := slices.IndexFunc(s.Facts.Databases, func(f agent.DatabaseFacts) bool { return f.Name == d.Name })
	if i < 0 || !s.Facts.Known {
		return out
	}
	r := s.Facts.Databases[i].Record
	out.Phase, out.Epoch, out.Timeline, out.Primary = string(r.Phase), r.Epoch, r.Timeline, r.Primary
	out.Open, out.Because, out.ElectionNeeds = r.Opened, r.Because, r.E
	if r.Epoch > 0 {
		out.AcknowledgedBy = r.W
	}
	out.Paused = describePause(r, d.Name, self, s)
	out.Planned = plannedMoves(d.Name, s)
	head := database.LSN(0) // not known
	if rep := reportOf(self, r.Primary, s); rep != nil && rep.Databases[d.Name].Local.Running {
		head = rep.Databases[d.Name].Local.Flushed
	}
	for _, host := range r.Members {
		out.Servers = append(out.Servers, describeServer(r, d.Name, host, head, reportOf(self, host, s)))
		out.Servers[len(out.Servers)-1].Read = describeReads(s.Outcome.Decisions[d.Name].Read, host)
	}
	for _, h := range p.AllHosts() {
		rep := reportOf(self, h.Name, s)
		if rep == nil {
			continue
		}
		if a, ok := rep.Archive[d.Name]; ok {
			out.Archive = &ArchiveStatus{Host: h.Name, Vault: a.Vault, Archived: a.Archived.String(), Trouble: a.Trouble, Gap: a.Gap, Last: a.Last, Running: a.Running}
			if a.Lag >= 0 { // less than nothing is what an archiving host says that does not know
				out.Archive.Lag = new(event.Duration(a.Lag + heardAgo(self, h.Name, s)))
			}
		}
	}
	b, _ := p.BackupOf(d.Name)
	out.ByVault = describeByVault(d, b.Vault, r, s, out.Archive)
	return out
}

// describeByVault says what is agreed, not what the primary does at this moment: whoever is told that nothing can be lost must
// not learn it from a host that only hopes so. Log that is lost without a base backup behind it breaks what was agreed.
func describeByVault(d plan.Database, vault string, r database.Record, s agent.Snapshot, archive *ArchiveStatus) *ByVaultStatus {
	out := &ByVaultStatus{Wanted: d.ByVault, Why: "the vault does not have everything yet"}
	e, agreed := s.Agreed[agent.KeyRoot+stored.KeyPrefix+d.Name]
	c, err := cluster.Decode[stored.Claim](e)
	switch {
	case agreed && err != nil:
		out.Why = "what is agreed cannot be read: " + err.Error()
	case agreed && c.Epoch == r.Epoch:
		out.Holds, out.Why = c.Holds(r, vault), c.Why
		if c.On && (c.Vault != vault || archive != nil && archive.Vault != vault) {
			out.Holds, out.Why = false, "the vault is another one now, and does not have everything yet"
		}
	}
	if out.Holds && archive != nil && archive.Gap != "" {
		out.Holds, out.Why = false, archive.Gap
	}
	if out.Wanted == "" && (!agreed || c.Epoch != r.Epoch || !c.On) {
		return nil
	}
	return out
}

func describeFiles(p *plan.Plan, self string, s agent.Snapshot) []FilesStatus {
	var out []FilesStatus
	for _, f := range p.Files {
		if f.Backup.Vault == "" {
			continue
		}
		for _, host := range f.Hosts {
			st := FilesStatus{Name: f.Name, Host: host, Files: agent.Files{Vault: f.Backup.Vault, Path: f.Path}}
			if rep := reportOf(self, host, s); rep != nil {
				if told, ok := rep.Files[f.Name]; ok {
					st.Files, st.Heard = told, true
				}
			}
			out = append(out, st)
		}
	}
	return out
}

func describeServer(r database.Record, name, host string, head database.LSN, rep *agent.Report) ServerStatus {
	out := ServerStatus{Host: host, Role: "unknown", State: "its host does not answer"}
	if rep == nil {
		return out
	}
	l := rep.Databases[name].Local
	out.Counts = host != r.Primary && r.Has(database.Voter{Host: host, Incarnation: l.Incarnation})
	if l.Flushed > 0 {
		out.LSN = l.Flushed.String()
	}
	switch {
	case !l.Known:
		out.State = "not looked at yet"
	case l.Progress != "":
		out.Role, out.State = "standby", l.Progress
	case !l.Running:
		out.Role, out.State = "stopped", orWord(l.Exit, "not running")
	case l.Role == database.Primary:
		out.Role, out.State = "primary", "serves"
		if !r.Opened {
			out.State = "not open to clients yet"
		}
	case l.Role == database.Standby:
		out.Role, out.State = "standby", "streams"
		out.Lag = event.Duration(l.ReplayLag)
		if head > 0 {
			out.LagBytes = new(int64(max(head, l.Flushed) - l.Flushed))
		}
		if !l.Receiving {
			out.State = "does not stream"
		}
	default:
		out.State = orWord(l.Why, "starts")
	}
	if s := r.Standing(host); l.Role == database.Standby && l.Receiving && !s.Votes() {
		out.State += ", asynchronous"
		if s.Follows != "" && l.Source == s.Follows {
			out.State += " from " + s.Follows
		}
	}
	if l.Failed != "" {
		failed, _, _ := strings.Cut(l.Failed, "\n") // a problem goes on below, among the problems
		out.State += "; " + failed
	}
	out.Version, out.FreeBytes, out.DiskBytes = l.Version, l.Disk.Free, l.Disk.Size
	for _, p := range l.Pending {
		out.Pending = append(out.Pending, p.String())
	}
	return out
}

// describeReads is one member in the order of our own read-only listener.
func describeReads(o *database.ReadOrder, host string) *ReadStatus {
	if o == nil {
		return nil
	}
	for _, m := range o.Members {
		if m.Host == host {
			out := &ReadStatus{In: true, Lag: event.Duration(m.Lag)}
			if m.Keep {
				out.Why = "no new sessions while the primary changes"
			}
			return out
		}
	}
	for _, x := range o.Out {
		if x.Host == host {
			return &ReadStatus{Why: x.Why}
		}
	}
	return &ReadStatus{Why: "is no member"}
}

func orWord(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// problems joins what every host says is wrong, each once.
func problems(p *plan.Plan, self string, s agent.Snapshot, st Status) []problem.Problem {
	out := slices.Concat(pauseProblems(st), serviceProblems(st), backupProblems(p, st), upkeepProblems(st), planProblems(st))
	for _, h := range st.Hosts {
		if !h.Heard {
			out = append(out, problem.Problem{
				Code: "host.silent", Subject: h.Name, Severity: problem.Degraded, Title: "this host does not answer",
				Meaning: "What ran on it is served by the others, as far as the plan has others.",
				Remedy:  "bring the host or its agent back; it rejoins by itself",
			})
		}
	}
	for _, h := range p.AllHosts() {
		rep := reportOf(self, h.Name, s)
		if rep == nil {
			continue
		}
		for _, x := range rep.Problems {
			x = stopWords(withBackup(x, p, st), h.Name, s)
			if !slices.Contains(out, x) {
				out = append(out, x)
			}
		}
	}
	rank := map[problem.Severity]int{problem.Critical: 0, problem.Degraded: 1, problem.Note: 2}
	slices.SortStableFunc(out, func(a, b problem.Problem) int { return rank[a.Severity] - rank[b.Severity] })
	if out == nil {
		return []problem.Problem{} // in JSON an empty list, and not null
	}
	return out
}

// ifDied says what one host's death would cost now. It speaks only of what it can see; times are the design's
// figures until a drill has measured them, and are called so.
func ifDied(p *plan.Plan, h plan.Host, st Status) IfDied {
	out := IfDied{Host: h.Name, Safe: true}
	var parts []string
	for _, d := range st.Databases {
		text, safe := databaseWithout(d, h.Name)
		parts = append(parts, d.Name+": "+text)
		out.Safe = out.Safe && safe
	}
	for _, s := range st.Services {
		left := 0
		for _, i := range s.Instances {
			if i.Host != h.Name && i.State == "ready" {
				left++
			}
		}
		switch {
		case s.Ready == left:
		case left == 0:
			parts = append(parts, s.Name+": away until it has started on another host")
		default:
			parts = append(parts, fmt.Sprintf("%s: %d of %d instances go on", s.Name, left, s.Ready))
		}
	}
	members, alive := 0, 0
	for _, e := range p.HomeSite().EtcdHosts() {
		members++
		i := slices.IndexFunc(st.Hosts, func(x HostStatus) bool { return x.Name == e.Name })
		if e.Name != h.Name && i >= 0 && st.Hosts[i].mayVote() {
			alive++
		}
	}
	if alive <= members/2 {
		parts = append(parts, "no majority of hosts would be left: what runs goes on, nothing could take over")
		out.Safe = false
	}
	out.Text = strings.Join(parts, "; ")
	return out
}

// mayVote reports whether a host counts for a majority: it is heard, and nothing is known against its etcd member. Agents of
// before this was told say nothing of it.
func (h HostStatus) mayVote() bool { return h.Heard && (h.Votes == nil || *h.Votes) }

// Away says why nobody can write although a primary is agreed on; "" = it is there, or none is agreed on.
func (d DatabaseStatus) Away() string {
	i := slices.IndexFunc(d.Servers, func(s ServerStatus) bool { return s.Host == d.Primary })
	switch {
	case i < 0:
		return ""
	case d.Servers[i].Role == "stopped":
		return "its primary's server does not run"
	case d.Servers[i].Role == "unknown":
		return "its primary does not answer"
	}
	return ""
}

func databaseWithout(d DatabaseStatus, host string) (string, bool) {
	counting := 0
	holds := false
	for _, s := range d.Servers {
		holds = holds || s.Host == host
		if s.Host != host && s.Counts && s.State == "streams" {
			counting++
		}
	}
	switch {
	case d.Phase != string(database.Steady) || !d.Open:
		return "is not serving now", false
	case d.Away() != "":
		return "is not serving now, " + d.Away(), false
	case d.Paused != nil && host == d.Primary:
		return "nobody would take over before the pause ends", false
	case !holds:
		return "not touched", true
	case host != d.Primary && counting >= d.AcknowledgedBy:
		return "writes go on; one copy less", true
	case host != d.Primary:
		return "writes would wait for a standby", false
	case d.AcknowledgedBy == 0:
		return "commits that no standby has would be lost, and no standby takes over by itself", false
	case counting > 0 && counting >= d.AcknowledgedBy && counting >= d.ElectionNeeds:
		return "no acknowledged commit lost; a standby takes over in about 6 s (not measured here yet)", true
	}
	return "no acknowledged commit lost, but no standby could take over", false
}

func verdict(st Status) string {
	worst := problem.Severity("")
	for _, x := range st.Problems {
		if x.Severity == problem.Critical || worst == "" || worst == problem.Note {
			worst = x.Severity
		}
	}
	unsafe := 0
	for _, x := range st.IfDied {
		if !x.Safe {
			unsafe++
		}
	}
	switch {
	case worst == problem.Critical:
		return "A promise is broken: see the problems."
	case unsafe > 0:
		return fmt.Sprintf("Running, but the death of %d of %d hosts would not be survived in full.", unsafe, len(st.IfDied))
	case worst == problem.Degraded:
		return "Running with less margin: see the problems."
	}
	return "All is well: any one host may die."
}

package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/agent"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/database"
	"holdfast/internal/plan"
)

// planOf is a plan of these hosts; an address follows from the name's last letter, "*" gives a host a member of etcd.
func planOf(t testing.TB, hosts ...string) *plan.Plan {
	t.Helper()
	text := "application: clinic\nsites:\n  here:\n    hosts:\n"
	for _, h := range hosts {
		name, seated := strings.CutSuffix(h, "*")
		text += fmt.Sprintf("      %s: { address: 10.9.0.%d, etcd: %t }\n", name, name[len(name)-1], seated)
	}
	text += "services: { web: { run: /bin/web, instances: 2 } }\n"
	p, mistakes := plan.Parse("/etc/holdfast.yaml", []byte(text))
	if p == nil {
		t.Fatalf("%v\n%s", mistakes, text)
	}
	return p
}

// One host after the other takes a new list of hosts over, by name.
func TestWhoseTurnItIsToTakeOtherHostsOver(t *testing.T) {
	old, next := planOf(t, "a*", "b*", "c*"), planOf(t, "a*", "b*", "c*", "d")
	was, is := plan.HostsDigest(old), plan.HostsDigest(next)
	peer := func(name, hosts string, age time.Duration) agent.PeerFacts {
		return agent.PeerFacts{Host: name, AgentAge: age, Report: &agent.Report{Host: name, Hosts: hosts}}
	}
	for name, c := range map[string]struct {
		self   string
		peers  []agent.PeerFacts
		next   *plan.Plan
		waited time.Duration
		want   bool
	}{
		"the first by name waits for nobody":                {"a", []agent.PeerFacts{peer("b", was, 0), peer("c", was, 0)}, next, 0, true},
		"the next waits for the first":                      {"b", []agent.PeerFacts{peer("a", was, 0), peer("c", was, 0)}, next, 0, false},
		"and goes when the first has it":                    {"b", []agent.PeerFacts{peer("a", is, 0), peer("c", was, 0)}, next, 0, true},
		"the last waits for all":                            {"c", []agent.PeerFacts{peer("a", is, 0), peer("b", was, 0)}, next, 0, false},
		"whoever is silent is not waited for":               {"c", []agent.PeerFacts{peer("a", is, 0), peer("b", was, 10*time.Second)}, next, 0, true},
		"whoever was never heard is not waited for":         {"c", []agent.PeerFacts{peer("a", is, 0), {Host: "b", AgentAge: database.Never}}, next, 0, true},
		"one of an earlier version is not waited for":       {"b", []agent.PeerFacts{peer("a", "", 0)}, next, 0, true},
		"one that hangs is not waited for for ever":         {"b", []agent.PeerFacts{peer("a", was, 0)}, next, turnMax + time.Second, true},
		"a host that is taken away has no turn to wait for": {"b", []agent.PeerFacts{peer("a", was, 0)}, planOf(t, "b*", "c", "d"), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			now := agent.Snapshot{Facts: agent.Facts{Peers: c.peers}}
			if got := ourTurn(c.self, old, c.next, now, c.waited); got != c.want {
				t.Errorf("%t", got)
			}
		})
	}
}

func seat(id uint64, name string, learner bool) etcd.Seat {
	return etcd.Seat{ID: id, Name: name, PeerURL: "https://" + name, Learner: learner}
}

func byItsName(s etcd.Seat) string { return strings.TrimPrefix(s.PeerURL, "https://") }

func TestMembersComeToThePlanStepByStep(t *testing.T) {
	a, b, c := seat(1, "a", false), seat(2, "b", false), seat(3, "c", false)
	d, fresh := seat(4, "d", true), etcd.Seat{ID: 4, PeerURL: "https://d", Learner: true}
	voting, dead := seat(4, "d", false), c
	dead.ClientURL = "nobody answers there"
	for name, x := range map[string]struct {
		seats   []etcd.Seat
		wanted  string
		promote string
		remove  uint64
	}{
		"all is as the plan wants it":                          {[]etcd.Seat{a, b, c}, "a b c", "", 0},
		"nobody leaves before the other has come":              {[]etcd.Seat{a, b, c}, "a b d", "", 0},
		"nor before it has run":                                {[]etcd.Seat{a, b, c, fresh}, "a b d", "", 0},
		"it votes first":                                       {[]etcd.Seat{a, b, c, d}, "a b d", "d", 0},
		"then the other leaves":                                {[]etcd.Seat{a, b, c, voting}, "a b d", "", 3},
		"a learner that nobody wants leaves at once":           {[]etcd.Seat{a, b, c, d}, "a b c", "", 4},
		"one seat too many leaves one after the other":         {[]etcd.Seat{a, b, c}, "a", "", 2},
		"and the second":                                       {[]etcd.Seat{a, c}, "a", "", 3},
		"of one alone two learners make three at once":         {[]etcd.Seat{a, seat(5, "e", true), d}, "a d e", "d e", 0},
		"a learner alone does not make two":                    {[]etcd.Seat{a, d}, "a d e", "", 0},
		"a dead member's replacement votes, as before":         {[]etcd.Seat{a, b, d}, "a b d", "d", 0},
		"one that is silent and not wanted leaves first":       {[]etcd.Seat{a, b, dead}, "a b d", "", 3},
		"then the other votes":                                 {[]etcd.Seat{a, b, d}, "a b d", "d", 0},
		"one that is silent and wanted stays":                  {[]etcd.Seat{a, b, dead}, "a b c", "", 0},
		"the last that is not wanted stays while two are away": {[]etcd.Seat{c}, "a b d", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			silent := func(s etcd.Seat) bool { return s.ClientURL == "nobody answers there" }
			got := nextStep(x.seats, strings.Fields(x.wanted), byItsName, silent)
			removed := uint64(0)
			if got.Remove != nil {
				removed = got.Remove.ID
			}
			if strings.Join(got.Promote, " ") != x.promote || removed != x.remove {
				t.Errorf("promotes %v, removes %d", got.Promote, removed)
			}
		})
	}
}

// From whatever members to whatever plan, with a minority of those silent that the plan does not want: never fewer that
// serve vote than did, or than the plan wants; never do so few serve that nothing could be agreed; and in the end those
// vote whom the plan wants.
func TestMembersAlwaysReachThePlan(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f"}
	rapid.Check(t, func(t *rapid.T) {
		odd := func(label string) []string {
			n := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, label)
			return slices.Clone(rapid.Permutation(names).Draw(t, label+" hosts")[:n])
		}
		begun, wanted := odd("begun"), odd("wanted")
		dead := map[string]bool{}
		for _, n := range begun {
			if !slices.Contains(wanted, n) && len(dead) < (len(begun)-1)/2 && rapid.Bool().Draw(t, n+" is dead") {
				dead[n] = true
			}
		}
		var seats []etcd.Seat
		id := uint64(0)
		join := func(name string, learner bool) { id++; seats = append(seats, seat(id, name, learner)) }
		for _, n := range begun {
			join(n, false)
		}
		least := min(len(begun)-len(dead), len(wanted))
		for range 60 {
			for _, n := range wanted { // whoever is to keep a member and has none asks for one
				if !slices.ContainsFunc(seats, func(s etcd.Seat) bool { return s.Name == n }) && rapid.Bool().Draw(t, "asks") {
					join(n, true)
				}
			}
			next := nextStep(seats, wanted, byItsName, func(s etcd.Seat) bool { return dead[s.Name] })
			for i := range seats {
				if slices.Contains(next.Promote, seats[i].Name) {
					seats[i].Learner = false
				}
			}
			if next.Remove != nil {
				gone := next.Remove.ID
				seats = slices.DeleteFunc(seats, func(s etcd.Seat) bool { return s.ID == gone })
			}
			voters, serve := 0, 0
			for _, s := range seats {
				if s.Learner {
					continue
				}
				voters++
				if !dead[s.Name] {
					serve++
				}
			}
			if serve < least || serve <= voters/2 {
				t.Fatalf("of %d voters %d serve, and never may fewer than %d: %v, dead are %v", voters, serve, least, seats, dead)
			}
		}
		var vote []string
		for _, s := range seats {
			if s.Learner {
				t.Fatalf("%s does not vote in the end", s.Name)
			}
			vote = append(vote, s.Name)
		}
		slices.Sort(vote)
		slices.Sort(wanted)
		if !slices.Equal(vote, wanted) {
			t.Fatalf("%v vote, wanted are %v", vote, wanted)
		}
	})
}

// Machines that are new to a plan never found a cluster beside the one that runs, whatever their file says.
func TestWhoMayFoundACluster(t *testing.T) {
	for name, c := range map[string]struct {
		founders []string // nil = certificates of an earlier version
		hosts    []string
		lies     string // what lies in the host's directory
		keeps    bool   // a member runs from the beginning
		waits    bool   // it waits until the plan has it
	}{
		"a founder with all founders founds":             {[]string{"a", "b", "c"}, []string{"a*", "b*", "c*"}, "", true, false},
		"certificates of an earlier version found":       {nil, []string{"a*", "b*", "c*"}, "", true, false},
		"a newcomer founds nothing, and waits":           {[]string{"b", "c", "d"}, []string{"a*", "b*", "c*"}, "", false, true},
		"nobody founds an application that runs already": {[]string{}, []string{"a*", "b*", "c*"}, "", false, true},
		"a founder whose plan has others does not":       {[]string{"a", "b", "c"}, []string{"a*", "d*", "e*"}, "", false, false},
		"nor where it has reached a cluster":             {[]string{"a", "b", "c"}, []string{"a*", "b*", "c*"}, "etcd.cluster", false, false},
		"a member that was begun goes on":                {[]string{}, []string{"a*", "b*", "c*"}, "etcd", true, false},
		"also where the plan gives it none any more":     {[]string{"a", "b", "c"}, []string{"a", "b*", "c"}, "etcd", true, false},
		"one whose data are lost is not passed over":     {[]string{}, []string{"a*", "b*", "c*"}, "etcd.member", true, false},
		"a host without a seat keeps none":               {[]string{"a", "b", "c"}, []string{"a", "b*", "c"}, "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(os.MkdirAll(certDir(dir), 0o700))
			if c.founders != nil {
				must(WriteFounders(certDir(dir), c.founders))
			}
			if c.lies != "" {
				must(os.WriteFile(filepath.Join(dir, c.lies), []byte("{}"), 0o600))
			}
			cfg := Config{Plan: planOf(t, c.hosts...), Self: "a", Dir: dir}
			self, _ := cfg.Plan.Host("a")
			keeps, err := keepsMember(cfg, founding{}, self.Etcd)
			must(err)
			waits, err := waitsForPlace(cfg)
			must(err)
			if keeps != c.keeps || waits != c.waits {
				t.Errorf("it keeps a member: %t, waits: %t", keeps, waits)
			}
			if told, err := keepsMember(cfg, founding{Members: map[string]string{"a": "https://a"}}, self.Etcd); err != nil || !told {
				t.Errorf("told to enter a cluster it does not: %v", err)
			}
		})
	}
}

// What was removed leaves nothing that starts again, and its data are put aside.
func TestARemovedMemberIsForgotten(t *testing.T) {
	dir := t.TempDir()
	data, marker := memberFiles(dir)
	for _, path := range []string{filepath.Join(data, "life"), marker, specFile(dir, "etcd")} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("{}"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	f := founding{ClusterID: 7, Members: map[string]string{"a": "https://a"}, Join: true, Seat: 9, Clients: []string{"https://b"}}
	if err := f.write(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 { // cut short, it is repeated
		if err := forgetMember(dir, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	now, err := readFounding(dir)
	if err != nil || now.ClusterID != 7 || now.Members != nil || now.Join || now.Seat != 0 || len(now.Clients) != 1 {
		t.Errorf("%+v, %v", now, err)
	}
	kept, err := filepath.Glob(data + ".before-*/life")
	if hasMember(dir) || err != nil || len(kept) != 1 {
		t.Errorf("a member is left: %t; put aside: %v, %v", hasMember(dir), kept, err)
	}
}

// A life of the agent has the list of hosts that was applied last, whatever its file says; another one that is adopted
// waits for the next life; and a host that leaves does so by the plan that had it.
func TestAnotherListOfHostsWaitsForAnotherLife(t *testing.T) {
	file := planOf(t, "a*", "b*", "c*")
	four, without := planOf(t, "a*", "b*", "c*", "d"), planOf(t, "b*", "c*", "d*")
	cfg := Config{Plan: file, Self: "a", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	first := newApplied(cfg)
	if _, hash := first.adopt(four.Source); hash != first.named() || hasHost(first.plan(), "d") {
		t.Errorf("the list changed as it ran: %v", first.plan().HostNames())
	}
	if next := first.listOf(); next == nil || !plan.SameHosts(next, four) || plan.SameHosts(next, cfg.Plan) {
		t.Errorf("the next life would have %v", next)
	}
	if err := first.store(); err != nil {
		t.Fatal(err)
	}
	again := cfg
	again.former = first
	second := newApplied(again)
	if !plan.SameHosts(second.start, four) || second.named() != canonicalHash(four, nil, nil) {
		t.Errorf("the next life has %v", second.start.HostNames())
	}
	if _, _ = second.adopt(four.Source); len(second.problems()) != len(first.problems()) {
		t.Errorf("another life of one process says otherwise about its file: %v", second.problems())
	}
	second.adopt(without.Source)
	if err := second.store(); err != nil {
		t.Fatal(err)
	}
	if third := newApplied(again); !hasHost(third.start, "a") {
		t.Error("a host that leaves has no plan any more by which it could")
	}
	if err := second.storeText(second.text); err != nil {
		t.Fatal(err)
	}
	if fourth := newApplied(again); hasHost(fourth.start, "a") {
		t.Error("a host that has left begins again")
	}
	waited := cfg
	waited.Plan, waited.Dir = four, t.TempDir()
	if err := newApplied(waited).storeText(string(four.Source)); err != nil {
		t.Fatal(err)
	}
	waited.former = judgedNow(waited)
	late := newApplied(waited)
	if late.adopt(without.Source); len(late.problems()) != 0 {
		t.Errorf("a plan that was applied since this host was let in makes its file an old one: %v", late.problems())
	}
	waited.Plan = file
	waited.former = judgedNow(waited)
	if late := newApplied(waited); len(late.problems()) != 1 {
		t.Errorf("its file is older than the plan that let it in, and nothing is said: %v", late.problems())
	}
	if !placed(cfg, four.Source) || placed(cfg, without.Source) || placed(cfg, nil) {
		t.Error("whether the plan has this host is told wrongly")
	}
}

// A host that knows nothing of the agreed state, as before its first round, does not leave: a copy that counts may lie on it.
func TestAHostThatKnowsNothingDoesNotLeave(t *testing.T) {
	if h := aFilerHost(t, plan.Moment{}); h.mayLeave(t.Context()) {
		t.Error("it leaves")
	}
}

package lab_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/agent"
	"holdfast/internal/api"
	"holdfast/internal/auth"
	"holdfast/internal/cluster"
	"holdfast/internal/cluster/etcd"
	"holdfast/internal/database"
	"holdfast/lab"
)

// Standbys join and leave and the number that must hold a commit goes up and down under load, and each time that any of it is
// agreed the primary's agent is killed at once: most often before it has told its server. Whatever the server was told by
// then, whoever may be elected holds what was acknowledged; the next agent carries the change to its end.
func TestAgentsDieBetweenWhatIsAgreedAndWhatTheServerIsTold(t *testing.T) {
	lab.Long(t)
	w := lab.NewAs(t, "127.60.59", lab.Shape{Hosts: 4, Services: true, Plan: withoutBackup})
	w.Start()
	load := w.Load("between")
	first, err := os.ReadFile(w.Plan)
	must(t, err)
	next := filepath.Join(filepath.Dir(w.Plan), "next.yaml")
	k := newKiller(t, w)
	for _, step := range []struct{ standbys, acknowledgedBy int }{{2, 2}, {2, 1}, {3, 1}, {3, 2}, {2, 1}, {2, 0}, {2, 1}} {
		text := strings.Replace(string(first), "standbys: 2\n", fmt.Sprintf("standbys: %d\n", step.standbys), 1)
		applyText(t, w, next, strings.Replace(text, "acknowledged_by: 1\n", fmt.Sprintf("acknowledged_by: %d\n", step.acknowledgedBy), 1))
		what := fmt.Sprintf("%d standbys, %d of which hold each commit", step.standbys, step.acknowledgedBy)
		w.Await(what, 2*recoverMax, func(st api.Status) bool {
			r, err := k.record(t.Context())
			d := st.Databases[0]
			voters := step.standbys
			if step.acknowledgedBy == 0 {
				voters = 0
			}
			return err == nil && d.Open && len(d.Servers) == step.standbys+1 && d.AcknowledgedBy == step.acknowledgedBy && len(r.Voters) == voters
		})
		load.Recovered()
		t.Logf("%s: %d agents were killed so far, %d of them before the server was told", what, k.kills(), k.between())
	}
	k.end()
	for _, wrong := range k.wrong {
		t.Error(wrong)
	}
	if k.inBetween == 0 {
		t.Errorf("none of %d agents was killed between what is agreed and what its server is told", k.killed)
	}
	w.Await("well", recoverMax, lab.Well)
	load.Recovered()
	load.End()
}

// killer kills the agent of a database's primary as soon as its voters, members, W or E are agreed anew.
type killer struct {
	t     testing.TB
	w     *lab.World
	store cluster.Store
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu        sync.Mutex // guards what follows, while it works
	killed    int
	inBetween int // of them: the server did not wait for what the record says
	wrong     []string
}

const recordOf = "records"

// newKiller begins at once, and ends with the test at the latest.
func newKiller(t testing.TB, w *lab.World) *killer {
	t.Helper()
	cfg, err := auth.ClientTLS(filepath.Join(w.Root, "hosts", w.Hosts[0], "tls"), "")
	must(t, err)
	var members []string
	for h := range w.EtcdDirs() {
		members = append(members, "https://"+w.Address[h]+":7402")
	}
	slices.Sort(members)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	store, err := etcd.Open(ctx, etcd.Config{Endpoints: members, TLS: cfg, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	k := &killer{t: t, w: w, store: store, stop: stop}
	was, revision, err := k.key().Load(ctx, store)
	must(t, err)
	k.done.Go(func() { k.run(ctx, was, revision) })
	t.Cleanup(k.end)
	return k
}

func (k *killer) key() cluster.Key[database.Record] {
	return cluster.Key[database.Record](agent.RecordKey(recordOf))
}

func (k *killer) record(ctx context.Context) (database.Record, error) {
	r, _, err := k.key().Load(ctx, k.store)
	return r, err
}

func (k *killer) kills() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.killed
}

func (k *killer) between() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.inBetween
}

// end stops the killing. It may be called twice.
func (k *killer) end() {
	k.stop()
	k.done.Wait()
	if err := k.store.Close(); err != nil {
		k.t.Logf("close the store: %v", err)
	}
}

func (k *killer) run(ctx context.Context, was database.Record, revision int64) {
	for c := range k.store.Watch(ctx, string(k.key()), revision) {
		if c.Deleted || c.Lost || c.Key != string(k.key()) {
			continue
		}
		now, err := cluster.Decode[database.Record](c.Entry)
		if err != nil {
			k.t.Errorf("read the record: %v", err)
			return
		}
		same := now.W == was.W && now.E == was.E && slices.Equal(now.Voters, was.Voters) && slices.Equal(now.Members, was.Members)
		was = now
		if same || now.Phase != database.Steady {
			continue
		}
		if err := syscall.Kill(k.w.PID(now.Primary, "agent.pid"), syscall.SIGKILL); err != nil {
			continue // the one before it was killed a moment ago
		}
		k.judge(ctx, now, c.Revision)
	}
}

// judge compares what a server waits for with what is agreed, while nobody can change either.
func (k *killer) judge(ctx context.Context, agreed database.Record, revision int64) {
	names, err := k.names(ctx, agreed.Primary)
	_, after, late := k.key().Load(ctx, k.store)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.killed++
	if err != nil || late != nil || after != revision {
		return // nobody can say what held at that moment
	}
	if inStep(agreed, names) {
		return
	}
	k.inBetween++
	if held := surelyHeld(agreed, names); agreed.E+held <= len(agreed.Voters) {
		k.wrong = append(k.wrong, fmt.Sprintf("%d of %d voters may elect where %d of them surely hold a commit: %v, and the server waits for %s", agreed.E, len(agreed.Voters), held, agreed.Voters, names))
	}
}

// names are what a server waits for by its own word.
func (k *killer) names(ctx context.Context, host string) (database.Names, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, k.w.DSN(host))
	if err != nil {
		return database.Names{}, err
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	var text string
	if err := conn.QueryRow(ctx, "SHOW synchronous_standby_names").Scan(&text); err != nil {
		return database.Names{}, err
	}
	names, ok := database.ParseNames(text)
	if !ok {
		return database.Names{}, fmt.Errorf("%s waits for %q", host, text)
	}
	return names, nil
}

// inStep reports whether a server waits for what a record says, no more and no less.
func inStep(r database.Record, n database.Names) bool {
	var voters []string
	for _, v := range r.Voters {
		voters = append(voters, database.StandbyName(v.Incarnation, r.Epoch))
	}
	slices.Sort(voters)
	return n.W == r.W && slices.Equal(n.List, voters)
}

// surelyHeld is how many voters hold a commit that such names acknowledge, in the worst case: others in the names come first.
// Names that nobody has acknowledge nothing, as if all held it.
func surelyHeld(r database.Record, n database.Names) int {
	if n.IsClosed() {
		return len(r.Voters)
	}
	others := len(n.List)
	for _, v := range r.Voters {
		if slices.Contains(n.List, database.StandbyName(v.Incarnation, r.Epoch)) {
			others--
		}
	}
	return max(0, n.W-others)
}

// The judgement itself can fail.
func TestWhatIsSurelyHeld(t *testing.T) {
	v := []database.Voter{{Host: "h1", Incarnation: "a"}, {Host: "h2", Incarnation: "b"}}
	name := func(incarnation string) string { return database.StandbyName(incarnation, 7) }
	for _, c := range []struct {
		what   string
		r      database.Record
		n      database.Names
		inStep bool
		safe   bool
	}{
		{"as agreed", database.Record{Epoch: 7, Voters: v, W: 1, E: 2}, database.Names{W: 1, List: []string{name("a"), name("b")}}, true, true},
		{"W is raised at the server first", database.Record{Epoch: 7, Voters: v, W: 1, E: 2}, database.Names{W: 2, List: []string{name("a"), name("b")}}, false, true},
		{"W is raised in the record first", database.Record{Epoch: 7, Voters: v, W: 2, E: 1}, database.Names{W: 1, List: []string{name("a"), name("b")}}, false, false},
		{"a stranger acknowledges", database.Record{Epoch: 7, Voters: v, W: 1, E: 2}, database.Names{W: 1, List: []string{name("a"), name("b"), name("c")}}, false, false},
		{"a voter cannot acknowledge yet", database.Record{Epoch: 7, Voters: v, W: 1, E: 2}, database.Names{W: 1, List: []string{name("a")}}, false, true},
		{"nobody may acknowledge", database.Record{Epoch: 7, Voters: v[:1], W: 1, E: 1}, database.Closed(), false, true},
		{"nobody need hold a commit, and nobody may elect", database.Record{Epoch: 7, E: 1}, database.Names{}, true, true},
	} {
		if got := inStep(c.r, c.n); got != c.inStep {
			t.Errorf("%s: in step %t", c.what, got)
		}
		if held := surelyHeld(c.r, c.n); (c.r.E+held > len(c.r.Voters)) != c.safe {
			t.Errorf("%s: %d of %d surely hold it, and %d elect", c.what, held, len(c.r.Voters), c.r.E)
		}
	}
}

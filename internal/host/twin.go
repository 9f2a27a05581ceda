package host

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/clock"
	"holdfast/internal/cluster"
	"holdfast/internal/problem"
)

// Two machines with one host's files, say a copied disk, are the same host to everybody: same name, same certificate, same
// promises. A lock on the directory keeps two agents of one machine apart, and nothing else does so between machines. So each
// life of an agent writes its own mark under the host's name. Whoever finds another's there writes its own again: an agent
// that ended does not, and one that lives takes turns.

const (
	twinPace    = 5 * time.Second
	twinTurns   = 2           // of another life before it is told: the last write of an agent that ended may come late once
	twinForgets = time.Minute // without a turn, the other has ended
)

// mark is one life of an agent.
type mark struct {
	Life    string    `json:"life"`
	Machine string    `json:"machine"` // its name, and which boot of it
	Process int       `json:"process"`
	Dir     string    `json:"dir"`
	Since   time.Time `json:"since"` // by its own clock
}

func (m mark) String() string {
	return fmt.Sprintf("process %d in %s on %s, since %s", m.Process, m.Dir, m.Machine, m.Since.UTC().Format(time.RFC3339))
}

// twins looks whether another machine runs as this host.
type twins struct {
	host  string
	key   cluster.Key[mark]
	store cluster.Store
	clock clock.Clock
	own   mark

	mu      sync.Mutex // guards what follows
	claimed bool       // our mark was written once
	turns   int
	last    time.Time
	other   mark
}

func newTwins(host, dir string, store cluster.Store, c clock.Clock) *twins {
	name, err := os.Hostname()
	if err != nil {
		name = "a machine without a name"
	}
	if boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		name += " (boot " + strings.TrimSpace(string(boot)) + ")"
	}
	return &twins{
		host: host, key: cluster.Key[mark](agent.KeyLives + host), store: store, clock: c,
		own: mark{Life: rand.Text(), Machine: name, Process: os.Getpid(), Dir: dir, Since: c.Now()},
	}
}

// run looks until ctx ends. Without the agreed state nobody can tell, and nobody agrees on anything either.
func (t *twins) run(ctx context.Context, sleep func(context.Context, time.Duration) bool, failed func(error)) error {
	for {
		if err := t.look(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		if !sleep(ctx, twinPace) {
			return nil
		}
	}
}

// look reads the mark and puts ours there.
func (t *twins) look(ctx context.Context) error {
	now, revision, err := t.key.Load(ctx, t.store)
	if err != nil {
		return err
	}
	if !t.takesOver(now, revision) {
		return nil
	}
	_, err = t.key.Set(ctx, t.store, t.own)
	if err == nil {
		t.mu.Lock()
		t.claimed = true
		t.mu.Unlock()
	}
	return err
}

// takesOver notes whose mark stands, and reports whether ours must be written.
func (t *twins) takesOver(now mark, revision int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns > 0 && t.clock.Now().Sub(t.last) > twinForgets {
		t.turns = 0
	}
	if revision > 0 && now.Life == t.own.Life {
		return false
	}
	if t.claimed && revision > 0 {
		t.turns, t.last, t.other = t.turns+1, t.clock.Now(), now
	}
	return true
}

// problems says that there are two.
func (t *twins) problems() []problem.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns < twinTurns || t.clock.Now().Sub(t.last) > twinForgets {
		return nil
	}
	return []problem.Problem{{
		Code: "host.runs-twice", Subject: t.host, Severity: problem.Critical,
		Title:   fmt.Sprintf("two agents run as host %s: %s; and %s", t.host, t.own, t.other),
		Meaning: "Two machines use one host's identity, as after a copied disk. What one of them promised the other may not know, so a commit that both seem to hold may be on one alone.",
		Remedy:  "end one of them for good at once: stop its agent and move its files away; its machine can only be a host again under a name of its own, which waits for a stop of the application (handbook, standbys)",
	}}
}

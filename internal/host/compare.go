package host

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/database/postgres"
	"holdfast/internal/problem"
)

// comparer looks at what one database's server on this host has that the log does not bring, tells the others, and
// compares it with the primary's: a standby that would trip over something after a takeover says so before one.
type comparer struct {
	host   *Host
	name   string
	server *postgres.Server
	told   string // what was told last
	epoch  int64  // of the last look
	seen   map[string]bool

	mu  sync.Mutex // guards what follows
	now []problem.Problem
}

const (
	// comparePace is how often it is asked whether a look is due, compareEvery how old the last one may be.
	comparePace  = time.Second
	compareEvery = time.Minute
)

func newComparer(h *Host, name string, s *postgres.Server) *comparer {
	return &comparer{host: h, name: name, server: s, seen: map[string]bool{}}
}

// run looks once a minute, and soon after each change of primary, until ctx ends.
func (c *comparer) run(ctx context.Context) error {
	var last time.Time
	for c.host.sleep(ctx, comparePace) {
		d, ok := c.facts()
		if !ok || !d.Local.Ready || d.Record.Phase != database.Steady || !d.Record.Opened {
			continue
		}
		moved := d.Record.Epoch != c.epoch
		if !moved && c.host.clock.Now().Sub(last) < compareEvery {
			continue
		}
		if err := c.look(ctx, d, moved); err != nil {
			if ctx.Err() == nil {
				c.host.cfg.Log.Info("server state not compared", "database", c.name, "err", err)
			}
			c.host.sleep(ctx, 10*comparePace)
			continue
		}
		last, c.epoch = c.host.clock.Now(), d.Record.Epoch
	}
	return nil
}

func (c *comparer) facts() (agent.DatabaseFacts, bool) {
	snap := c.host.agent.Last()
	i := slices.IndexFunc(snap.Facts.Databases, func(d agent.DatabaseFacts) bool { return d.Name == c.name })
	if i < 0 || snap.Facts.WrittenOff() != "" || snap.Facts.Stopping {
		return agent.DatabaseFacts{}, false
	}
	return snap.Facts.Databases[i], true
}

// look is one comparison. The primary judges itself; a standby beside the primary's last word.
func (c *comparer) look(ctx context.Context, d agent.DatabaseFacts, moved bool) error {
	own, err := c.server.State(ctx)
	if err != nil {
		return err
	}
	if err := c.tell(ctx, own); err != nil {
		return err
	}
	self := c.host.cfg.Self
	found := own.Faults()
	if d.Record.Primary != self {
		// What hangs on the log is the primary's to say; and its own copy of it may be behind.
		found = slices.DeleteFunc(found, func(x database.Difference) bool { return x.Object == "roles" })
		var primary database.ServerState
		if e, ok := c.host.agent.Last().Agreed[agent.ServerKey(c.name, d.Record.Primary)]; ok && json.Unmarshal(e.Value, &primary) == nil {
			found = append(found, database.CompareServers(primary, own)...)
		}
	}
	c.keep(found)
	if moved && d.Record.Primary == self {
		c.note(found)
	}
	return nil
}

// tell puts our server's state where the others read it, when it has changed.
func (c *comparer) tell(ctx context.Context, own database.ServerState) error {
	b, err := json.Marshal(own)
	if err != nil || string(b) == c.told {
		return err
	}
	if _, err := c.host.store.Set(ctx, agent.ServerKey(c.name, c.host.cfg.Self), b); err != nil {
		return err
	}
	c.told = string(b)
	return nil
}

// keep makes problems of differences. One that comes with the log counts once it was seen twice, a minute apart.
func (c *comparer) keep(found []database.Difference) {
	seen := map[string]bool{}
	var problems []problem.Problem
	for _, d := range found {
		key := d.Object + "\x00" + d.Text
		seen[key] = true
		if d.Replicated && !c.seen[key] {
			continue
		}
		p := problem.Problem{
			Code: "database.server-differs", Subject: c.name, Severity: problem.Degraded, Title: fmt.Sprintf("%s, %s: %s", d.Host, d.Object, d.Text),
			Meaning: "The data are the same. After a takeover by this host the application would meet it.", Remedy: d.Remedy,
		}
		if d.Grave {
			p.Severity = problem.Critical
			p.Meaning = "A takeover by this host would give wrong answers or errors, although no commit is lost."
		}
		problems = append(problems, p)
	}
	c.seen = seen
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = problems
}

// note writes into the history what a new primary found on itself.
func (c *comparer) note(found []database.Difference) {
	why := []string{"the settings, access rules, extensions, collations and roles of the new primary were looked at"}
	what := "the new primary's own state is as it should be"
	for _, d := range found {
		what = "the new primary's own state differs from what it should be"
		why = append(why, d.Object+": "+d.Text)
	}
	c.host.diary.Note("database", c.name, what, why, 0)
}

func (c *comparer) problems() []problem.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.now)
}

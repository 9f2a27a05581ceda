package host

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/cluster"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// custodian does one chore for one vault of the plan, while this host is its [caretaker]. Two hosts never do
// the same at once: each run holds an office of the store, and every deletion asks the store whether it still does.
type custodian struct {
	host  *Host
	vault string
	kind  string
	do    func(ctx context.Context, v *vault.Vault, r *choreRun) (string, any, error)

	spread spread // of its schedule; run alone uses it
}

// spread is by how much the runs of a schedule may be put off. That takes a walk through 400 years, and is asked each second.
type spread struct {
	of   plan.Schedule
	most time.Duration
}

// within gives the spread of a schedule, worked out once for each.
func (s *spread) within(of plan.Schedule) time.Duration {
	if s.of != of {
		*s = spread{of, min(careJitter, of.Longest()/10)}
	}
	return s.most
}

// choreRun is one run.
type choreRun struct {
	custodian *custodian
	may       func(context.Context) error // this host has the duty still
	only      string                      // one database or file set; "" = all of the vault
}

const (
	// carePace is how often a custodian looks whether something is to be done.
	carePace = time.Second
	// careTTL is how long after a host fell silent in the midst of a chore another may begin it.
	careTTL = 20 * time.Second
	// careRetry is the pause after a run that did not succeed.
	careRetry = time.Hour
	// careJitter spreads what hosts of many applications do at the same hour.
	careJitter = 10 * time.Minute
)

// errNotOurs ends a run whose duty another host has now, or that the plan does not want any more.
var errNotOurs = errors.New("it is not this host's duty any more")

// custodians are those of every vault.
func (h *Host) custodians() []*custodian {
	var out []*custodian
	for _, v := range h.cfg.Plan.Vaults {
		for _, kind := range []string{agent.ChoreRetention, agent.ChoreScrub, agent.ChoreRenew, agent.ChoreSync, choreCompact} {
			c := &custodian{host: h, vault: v.Name, kind: kind}
			c.do = map[string]func(context.Context, *vault.Vault, *choreRun) (string, any, error){
				agent.ChoreRetention: h.retain, agent.ChoreScrub: h.scrub, agent.ChoreRenew: h.renew, agent.ChoreSync: h.sync,
				choreCompact: h.compact,
			}[kind]
			out = append(out, c)
		}
	}
	return out
}

// run does the chore whenever it is due or asked for, until ctx ends.
func (c *custodian) run(ctx context.Context) error {
	name := agent.Chore{Kind: c.kind, Subject: c.vault}.Name()
	for c.host.sleep(ctx, carePace) {
		if !c.ours() {
			c.host.agent.Planned(name, time.Time{})
			continue
		}
		due, at, err := c.due(ctx)
		if err != nil {
			c.host.cfg.Log.Debug("chore not looked at", "chore", name, "err", err)
			c.host.sleep(ctx, 10*carePace)
			continue
		}
		c.host.agent.Planned(name, at)
		asked := c.asked()
		if !due && asked == nil {
			continue
		}
		c.turn(ctx, asked)
	}
	return nil
}

// ours reports whether this host looks after the vault.
func (c *custodian) ours() bool {
	now := c.host.agent.Last()
	if !now.Facts.Known || now.Facts.Stopping || now.Facts.WrittenOff() != "" {
		return false
	}
	return c.host.cfg.Self == caretaker(c.host.cfg.Plan, c.vault, func(database string) string {
		var name string
		if e, ok := now.Agreed[agent.KeyArchivers+database]; !ok || json.Unmarshal(e.Value, &name) != nil {
			return ""
		}
		return name
	})
}

// caretaker is the host that looks after a vault: the one that archives the first database that has an archiver, of those
// that go to it. Of a vault of file sets alone it is the lowest-named host of any of them. Pure.
func caretaker(p *plan.Plan, name string, archiver func(database string) string) string {
	databases := false
	for _, b := range p.Backups {
		if b.Vault != name {
			continue
		}
		databases = true
		if h := archiver(b.Of); h != "" {
			return h
		}
	}
	var hosts []string
	for _, s := range p.Files {
		if s.Backup.Vault == name && !databases {
			hosts = append(hosts, s.Hosts...)
		}
	}
	if len(hosts) == 0 {
		return ""
	}
	return slices.Min(hosts)
}

// upkeep is what the plan that counts wants of the vault.
func (c *custodian) upkeep() (plan.Upkeep, plan.Schedule) {
	v, _ := c.host.plan().VaultNamed(c.vault)
	u := v.Upkeep
	locked := slices.ContainsFunc(v.Copies, func(x plan.Copy) bool { return x.S3.Lock > 0 })
	switch {
	case c.kind == agent.ChoreRetention:
		return u, u.Retention
	case c.kind == agent.ChoreScrub:
		return u, u.Scrub
	case c.kind == agent.ChoreRenew && locked:
		return u, u.Renew
	case c.kind == agent.ChoreSync && len(v.Copies) > 1:
		return u, u.Sync
	case c.kind == choreCompact:
		return u, u.Compact
	}
	return u, plan.Schedule{}
}

// due says whether the schedule wants a run now, and when the next is; zero = never. What was never seen waits for its
// hour: nothing is read or let go of the moment a plan begins to count.
func (c *custodian) due(ctx context.Context) (bool, time.Time, error) {
	u, s := c.upkeep()
	if s == (plan.Schedule{}) {
		return false, time.Time{}, nil
	}
	now := time.Now()
	last, known := agent.ChoreOf(c.host.agent.Last().Agreed, c.kind, c.vault)
	if !known {
		first := agent.Chore{Kind: c.kind, Subject: c.vault, Host: c.host.cfg.Self, Since: now.UTC(), OK: true, Text: "not run yet"}
		_, err := agent.ChoreKey(c.kind, c.vault).Swap(ctx, c.host.store, 0, first)
		if errors.Is(err, cluster.ErrConflict) {
			err = nil // somebody else was first
		}
		return false, time.Time{}, err
	}
	due, err := backup.Next(backup.Timing{Schedule: s, Zone: u.Zone, Jitter: c.spread.within(s), Of: c.vault + c.kind}, last.Since, now)
	if err != nil {
		return false, time.Time{}, err
	}
	if again := last.Ended.Add(careRetry); !last.OK && now.Before(again) && !due.At.After(again) {
		return false, again, nil
	}
	return due.Now, due.At, nil
}

// asked is the oldest request for a retention run of a database or a file set that goes to the vault.
func (c *custodian) asked() *agent.Asked {
	if c.kind != agent.ChoreRetention {
		return nil
	}
	for _, q := range agent.Open(c.host.agent.Last().Agreed) {
		if q.Kind != "prune" {
			continue
		}
		if b, ok := c.host.plan().BackupOf(q.Subject); ok && q.Room == "backup" && b.Vault == c.vault {
			return &q
		}
		if s, ok := c.host.plan().FileSetNamed(q.Subject); ok && q.Room == "files" && s.Backup.Vault == c.vault {
			return &q
		}
	}
	return nil
}

// turn takes the office, does the chore, tells how it went, and gives the office back.
func (c *custodian) turn(ctx context.Context, asked *agent.Asked) {
	log := c.host.cfg.Log.With("vault", c.vault, "chore", c.kind)
	run, cancel := context.WithCancelCause(ctx)
	office := cluster.Campaign(c.host.store, agent.KeyCare+c.vault+"/"+c.office(), c.host.cfg.Self+"/"+rand.Text()[:8], careTTL, c.host.clock, log)
	hold, leave := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	g.Go(func() error { return office.Run(hold) })
	defer func() {
		cancel(nil)
		leave()
		_ = g.Wait() // neither gives an error
	}()
	for !office.Leading() {
		if !c.ours() || !c.host.sleep(run, carePace) {
			return
		}
	}
	g.Go(func() error { c.watch(run, office, asked, cancel); return nil })
	r := &choreRun{custodian: c, may: func(ctx context.Context) error {
		if !c.ours() {
			return errNotOurs
		}
		return office.Confirm(ctx)
	}}
	if asked != nil {
		r.only = asked.Subject
	}
	began := time.Now()
	text, result, err := c.carry(run, r)
	if ctx.Err() != nil {
		return // the agent ends: the next one goes on from there
	}
	if cause := context.Cause(run); cause != nil && err != nil {
		err = cause
	}
	c.tell(ctx, asked, began, text, result, err)
}

// office is what two hosts never hold at once for a vault. Who joins and who lets go holds the same one.
func (c *custodian) office() string {
	if c.kind == choreCompact {
		return agent.ChoreRetention
	}
	return c.kind
}

// carry opens the vault for the chore alone.
func (c *custodian) carry(ctx context.Context, r *choreRun) (text string, result any, err error) {
	v, err := c.host.openVault(ctx, c.vault)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, v.Close(context.WithoutCancel(ctx))) }()
	return c.do(ctx, v, r)
}

// watch ends a run whose duty has gone, which the plan does not want any more, or which whoever asked for has taken back.
func (c *custodian) watch(ctx context.Context, office *cluster.Election, asked *agent.Asked, end context.CancelCauseFunc) {
	for c.host.sleep(ctx, carePace) {
		_, s := c.upkeep()
		switch {
		case !c.ours() || !office.Leading(), asked == nil && s == (plan.Schedule{}):
			end(errNotOurs)
		case asked != nil:
			if _, settled := c.host.agent.Last().Agreed[agent.KeyAnswers+asked.ID]; settled {
				end(errCancelled)
			}
		}
	}
}

// tell notes how a run went, for the schedule, for status and for whoever asked.
func (c *custodian) tell(ctx context.Context, asked *agent.Asked, began time.Time, text string, result any, err error) {
	last, _ := agent.ChoreOf(c.host.agent.Last().Agreed, c.kind, c.vault)
	now := agent.Chore{Kind: c.kind, Subject: c.vault, Host: c.host.cfg.Self, Since: last.Since, Began: began.UTC(), Ended: time.Now().UTC(), OK: err == nil, Text: text}
	if raw, e := json.Marshal(result); e == nil && result != nil && len(raw) < 8<<10 {
		now.Result = raw
	}
	if err != nil {
		now.Text, now.Problem = firstLine(err.Error()), choreProblem(c.kind, c.vault, err)
		c.host.cfg.Log.Warn("chore did not succeed", "vault", c.vault, "chore", c.kind, "err", err)
	}
	if asked == nil && err == nil || now.Since.IsZero() {
		now.Since = now.Began
	}
	if !errors.Is(err, errCancelled) && !errors.Is(err, errNotOurs) {
		if _, e := agent.ChoreKey(c.kind, c.vault).Set(ctx, c.host.store, now); e != nil && ctx.Err() == nil {
			c.host.cfg.Log.Warn("outcome of a chore not noted", "vault", c.vault, "chore", c.kind, "err", e)
		}
	}
	c.host.diary.Note("vault", c.vault, c.kind+": "+now.Text, nil, now.Took())
	if asked == nil {
		return
	}
	s := agent.Settled{ID: asked.ID, OK: err == nil, Host: c.host.cfg.Self, Text: now.Text}
	if err == nil {
		s.Result = now.Result
	} else if raw, e := json.Marshal(now.Problem); e == nil {
		s.Result = raw
	}
	c.host.agent.Settle(ctx, s)
}

// choreProblem is what a chore that did not succeed means.
func choreProblem(kind, subject string, err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	meaning := map[string]string{
		agent.ChoreRetention: "Nothing is let go of that was to stay; the vault may hold more than it should.",
		agent.ChoreScrub:     "Whether everything is what was stored is not known since the last scrub.",
		agent.ChoreRenew:     "Locks may run out of what is still kept.",
		choreCompact:         "Nothing is lost by that. The log stays as many small objects, and the vault opens the slower the longer this lasts.",
		agent.ChoreSync:      "Copies may differ. What is lost with one may not be in another.",
		agent.ChoreProve:     "Whether the backup can be restored is known from its last trial alone.",
	}
	return &problem.Problem{Code: "vault.upkeep-failed", Subject: subject, Severity: problem.Degraded,
		Title: fmt.Sprintf("%s did not succeed: %s", kind, firstLine(err.Error())), Meaning: meaning[kind],
		Remedy: "it is tried again within the hour; if it stays, see the log of the host that archives"}
}

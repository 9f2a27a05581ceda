package host

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/vault"
)

// errCancelled ends what an operator has taken back.
var errCancelled = errors.New("cancelled by an operator")

// cancelledError is [errCancelled] with who it was.
type cancelledError struct{ by string }

func (e *cancelledError) Error() string { return "cancelled by " + e.by }

// Is makes it an [errCancelled].
func (e *cancelledError) Is(target error) bool { return target == errCancelled }

// anOperator is who nobody named.
const anOperator = "an operator"

// run is a base backup or a trial that is under way here, so that the status can tell of it and an operator can end it.
type run struct {
	ctx  context.Context // ends with the cause [cancelledError] when somebody ends the run
	of   *archivist
	stop func()

	told  agent.Run    // guarded by the archivist's lock
	asked *agent.Asked // nil = it began by itself
	wrote time.Time    // when whoever asked was last told how far it is; of the goroutine that tells
}

// underWay begins a run of a kind, for a request or (nil) by itself. Its end must be told with [run.over].
func (a *archivist) underWay(ctx context.Context, kind string, asked *agent.Asked) *run {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &run{ctx: ctx, of: a, asked: asked, told: agent.Run{ID: strings.ToLower(rand.Text()[:12]), Kind: kind, Host: a.host.cfg.Self, Since: time.Now().UTC()}}
	if asked != nil {
		r.told.Request = asked.ID
	}
	var g errgroup.Group
	g.Go(func() error {
		for a.host.sleep(ctx, basePace) {
			if by := cancelledBy(a.host.agent.Last(), "backup", a.db.Name, r.told.ID, r.told.Request); by != "" {
				cancel(&cancelledError{by})
			}
		}
		return nil
	})
	r.stop = func() {
		cancel(nil)
		_ = g.Wait() // it gives no error
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runs = append(a.runs, r)
	a.sayRuns()
	return r
}

// cancelledBy says who has ended a run by its id, or taken the request for it back; "" = nobody. Pure.
func cancelledBy(now agent.Snapshot, room, subject, id, request string) string {
	if e, settled := now.Agreed[agent.KeyAnswers+request]; settled && request != "" {
		var by agent.Settled
		_ = json.Unmarshal(e.Value, &by) // of another version: nobody is named
		return cmp.Or(strings.TrimSuffix(by.Text, " cancelled it"), anOperator)
	}
	for _, q := range cancels(now, room, subject) {
		if q.Args[agent.ArgRun] == id {
			return cmp.Or(q.By, anOperator)
		}
	}
	return ""
}

// cancels are the open requests to end a run of a database or a file set, oldest first.
func cancels(now agent.Snapshot, room, subject string) []agent.Asked {
	return slices.DeleteFunc(agent.Open(now.Agreed), func(q agent.Asked) bool {
		return q.Room != room || q.Kind != "cancel" || q.Subject != subject
	})
}

// cancelled is who has ended the run; "" = nobody.
func (r *run) cancelled() string { return whoCancelled(r.ctx) }

// whoCancelled is who has ended what runs with a context; "" = nobody.
func whoCancelled(ctx context.Context) string {
	if c, ok := errors.AsType[*cancelledError](context.Cause(ctx)); ok {
		return c.by
	}
	return ""
}

// over takes the run off what is told, and answers those who wanted it ended: whether it was, and what came of it.
func (r *run) over(ctx context.Context, ended bool, text string) {
	r.stop()
	a := r.of
	for _, q := range cancels(a.host.agent.Last(), "backup", a.db.Name) { // before it is off the list: see [archivist.refuseCancels]
		if q.Args[agent.ArgRun] == r.told.ID && ctx.Err() == nil {
			a.host.agent.Settle(ctx, agent.Settled{ID: q.ID, OK: ended, Host: a.host.cfg.Self, Text: text})
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runs = slices.DeleteFunc(a.runs, func(x *run) bool { return x == r })
	a.sayRuns()
}

// sayRuns puts what is under way into what is told. The list is never changed afterwards: others read it. The caller holds the lock.
func (a *archivist) sayRuns() {
	a.told.Running = nil
	for _, r := range a.runs {
		a.told.Running = append(a.told.Running, r.told)
	}
}

// trial names the base backup that is restored on trial.
func (r *run) trial(backup string) {
	r.change(func(t *agent.Run) { t.Backup, t.Phase = backup, "prove" })
}

func (r *run) change(f func(*agent.Run)) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	f(&r.told)
	r.of.sayRuns()
}

// copies tells how far the making of a base backup is.
func (r *run) copies(p backup.Progress) { r.progress(p.Phase, "", p) }

// proves tells how far a trial is.
func (r *run) proves(p backup.Progress) { r.progress("prove", p.Phase, p) }

// progress tells how far the run is: all who look, and whoever asked for it, at most every second in one phase.
func (r *run) progress(phase, check string, p backup.Progress) {
	rate, left := p.Rate()
	fresh := false
	r.change(func(t *agent.Run) {
		fresh = t.Phase != phase || t.Check != check
		t.Phase, t.Check, t.Done, t.Total, t.Rate, t.Left = phase, check, p.Done, p.Total, rate, int64(left.Seconds())
	})
	now := r.of.host.clock.Now()
	if r.asked == nil || !fresh && now.Sub(r.wrote) < time.Second {
		return
	}
	r.wrote = now
	text := phase
	if check != "" {
		text += ": " + check
	}
	if p.Total > 0 {
		text += fmt.Sprintf(" %d%%", 100*p.Done/p.Total)
		if rate > 0 {
			text += fmt.Sprintf(", %d MiB/s, %s left", rate>>20, left.Round(time.Second))
		}
	}
	r.of.host.progress(r.ctx, r.asked, text)
}

// refuseCancels answers those who want a run ended that does not go on here: it has ended, or its host did.
func (a *archivist) refuseCancels(ctx context.Context) error {
	for a.host.sleep(ctx, basePace) {
		for _, q := range cancels(a.host.agent.Last(), "backup", a.db.Name) {
			a.mu.Lock()
			goesOn := slices.ContainsFunc(a.runs, func(r *run) bool { return r.told.ID == q.Args[agent.ArgRun] })
			a.mu.Unlock()
			if !goesOn {
				a.host.agent.Settle(ctx, agent.Settled{ID: q.ID, Host: a.host.cfg.Self, Text: "no such base backup or trial is under way: it had ended before"})
			}
		}
	}
	return nil
}

// cancelled is the newest end that somebody put to a run of a kind; the zero value = nobody did.
func (a *archivist) cancelled(kind string) agent.Chore {
	c, _ := agent.ChoreOf(a.host.agent.Last().Agreed, kind, a.db.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	if own := a.ended[kind]; own.Cancelled.After(c.Cancelled) { // it is not agreed on yet
		return own
	}
	return c
}

// noLead is why a base backup is begun where commits wait for the vault and none is listed that leads to the database as it is.
const noLead = "no base backup leads to what the database is now"

// waived reports whether somebody ended a base backup that was begun for a reason other than the schedule. What then comes for
// that reason is the next one of the schedule.
func (a *archivist) waived(why string) bool { return a.cancelled(agent.ChoreBase).Waived == why }

// lister gives the base backups of a database, oldest first, as [vault.Vault.Backups] does.
type lister = func(context.Context, string) ([]vault.Backup, error)

// wasCancelled notes that somebody ended a run, so that it is not begun again at once, and says what comes next. id is the base
// backup on trial ("" = none was listed yet), and why what else than the schedule had wanted the run.
func (a *archivist) wasCancelled(ctx context.Context, made lister, r *run, id, why string) string {
	all, err := made(ctx, a.db.Name)
	if n := len(all); id == "" && n > 0 && all[n-1].Written.After(r.told.Since) { // it was being listed that very moment
		id = all[n-1].ID
	}
	kind, by := agent.ChoreBase, context.Cause(r.ctx).Error()
	text := "the base backup was " + by + ", and nothing of it is listed"
	if id != "" {
		kind, why, text = agent.ChoreProve, "", "the trial of base backup "+id+" was "+by+"; the backup is listed, and not proven by it"
	}
	a.choreCancelled(ctx, r, kind, id, why, text)
	next := time.Time{}
	if err == nil {
		next, err = a.nextOf(ctx, all, kind)
	}
	switch {
	case err != nil: // whoever looks at the status learns it
	case !next.IsZero():
		text += "; the next is due " + next.UTC().Format("2006-01-02 15:04:05 MST")
	case id != "":
		text += "; none is due: holdfast backup validate " + a.db.Name + " --backup " + id
	default:
		text += "; none is due: holdfast backup run " + a.db.Name
	}
	a.host.diary.Note("backup", a.db.Name, text, nil, time.Since(r.told.Since))
	return text
}

// choreCancelled keeps what [archivist.wasCancelled] notes. How the chore last went stands otherwise.
func (a *archivist) choreCancelled(ctx context.Context, r *run, kind, id, why, text string) {
	now := time.Now().UTC()
	c, known := agent.ChoreOf(a.host.agent.Last().Agreed, kind, a.db.Name)
	if !known {
		c = agent.Chore{Kind: kind, Subject: a.db.Name, Since: now, OK: true}
	}
	c.Backup, c.Host, c.Began, c.Ended, c.Text = cmp.Or(id, c.Backup), a.host.cfg.Self, r.told.Since, now, text
	c.Cancelled, c.Waived = now, why
	a.mu.Lock()
	if a.ended == nil {
		a.ended = map[string]agent.Chore{}
	}
	a.ended[kind] = c
	a.mu.Unlock()
	a.host.agent.NoteChore(ctx, c)
	if kind != r.told.Kind { // the base backup itself was made
		a.host.choreEnded(ctx, r.told.Kind, a.db.Name, id, r.told.Since, r.told.Since, "base backup "+id+" was made; its trial was "+context.Cause(r.ctx).Error(), nil)
	}
}

// made forgets what was waived: a base backup was made meanwhile.
func (a *archivist) made() {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ended, agent.ChoreBase)
}

// nextOf is when the schedule wants the next run of a kind; zero = never.
func (a *archivist) nextOf(ctx context.Context, all []vault.Backup, kind string) (time.Time, error) {
	if kind == agent.ChoreProve {
		_, due, err := a.proveDue(ctx, a.wanted(), all, time.Now())
		return due.At, err
	}
	w, err := a.want(all, time.Now())
	if err == nil && w.Now {
		return time.Now(), nil
	}
	return w.Next, err
}

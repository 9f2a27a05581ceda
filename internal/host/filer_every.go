package host

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"holdfast/internal/agent"
	"holdfast/internal/backup"
	"holdfast/internal/plan"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

// pointRetry is the pause after a recovery point that was due and not made: each try makes the application stand still.
const pointRetry = time.Hour

// points are the recovery points of a set that are made by themselves.
type points struct {
	last    time.Time        // when the newest of this host began; zero = there is none
	since   time.Time        // when a schedule was first seen without any point: the first one waits for its hour
	stopped time.Time        // when somebody last ended one, of this agent; see [filer.pointCancelledAt]
	failed  time.Time        // when the last try ended that did not succeed; zero = the last one did
	wrong   *problem.Problem // guarded by the filer's mu
	// refused is the last one that somebody asked for, when it was not made; guarded by the filer's mu. Nothing tries it again,
	// so the next backup of the set that succeeds ends it.
	refused *problem.Problem
}

// pointWanted gives what the name of a recovery point ends in, when one is asked for or due; "" = none is wanted now.
func (f *filer) pointWanted(asked *agent.Asked, now time.Time) (string, error) {
	if asked != nil {
		if asked.Kind == "point" {
			return asked.ID, nil
		}
		return "", nil
	}
	m := f.now().Moment
	p := &f.points
	if m.Database == "" || m.Every == (plan.Schedule{}) {
		p.since = time.Time{}
		f.pointWrong(nil)
		return "", nil
	}
	if p.since.IsZero() {
		p.since = now
	}
	if !p.failed.IsZero() && now.Sub(p.failed) < pointRetry {
		return "", nil
	}
	from := p.last
	if from.IsZero() {
		from = p.since
	}
	due, err := backup.NextBut(backup.Timing{Schedule: m.Every, Zone: m.Zone, Jitter: m.Jitter, Of: f.set.Name}, from, f.pointCancelledAt(), now)
	if err != nil || !due.Now || f.stands() {
		return "", err
	}
	return strings.ToLower(rand.Text()), nil
}

// stands reports whether files and database have not been let go on: nothing is made to stand still then.
func (f *filer) stands() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stood != nil
}

// pointEnded tells how a recovery point went, that was asked for or due (asked is nil). The ordinary backups of the set are
// not judged by it: they go on at their own pace.
func (f *filer) pointEnded(ctx context.Context, asked *agent.Asked, b vault.FileBackup, err error) {
	if asked == nil {
		f.pointTried(b, err)
		return
	}
	f.host.diary.Note("files", f.set.Name, sayPoint(b, err), nil, b.Ended.Sub(b.Started))
	if err == nil {
		f.pointMade(b)
	} else {
		f.host.cfg.Log.Error("recovery point was not made", "files", f.set.Name, "err", err)
		p := f.noPoint("the recovery point that was asked for was not made: ", err)
		p.Severity = problem.Degraded
		p.Meaning = "No such point is listed. The application was let go on, unless files.still-frozen says otherwise. Backups go on. Nothing tries it again by itself."
		f.pointRefused(p)
	}
	f.settle(ctx, asked, b, err)
}

// pointTried tells how a point that was due went.
func (f *filer) pointTried(b vault.FileBackup, err error) {
	f.host.diary.Note("files", f.set.Name, sayPoint(b, err), nil, b.Ended.Sub(b.Started))
	if err == nil {
		f.pointMade(b)
		return
	}
	f.points.failed = time.Now()
	f.host.cfg.Log.Error("recovery point was not made", "files", f.set.Name, "err", err)
	p := f.noPoint("the recovery point that was due was not made: ", err)
	p.Meaning = "The application was let go on, unless files.still-frozen says otherwise. Backups go on. It is tried again every hour."
	f.pointWrong(p)
}

// pointMade takes back what was wrong with points and backups of the set.
func (f *filer) pointMade(b vault.FileBackup) {
	f.points.last, f.points.failed = b.Started, time.Time{}
	f.pointWrong(nil)
	f.pointRefused(nil)
	f.succeeded(b)
}

// noPoint is the problem of a point that was not made, but for what it means.
func (f *filer) noPoint(what string, err error) *problem.Problem {
	why := firstLine(err.Error())
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		why = p.Title
	}
	return &problem.Problem{Code: "files.no-point", Subject: f.set.Name, Severity: problem.Critical, Title: what + why,
		Remedy: "correct what is said, then: holdfast recovery-point create " + f.set.Name}
}

// sayPoint is [sayFiles] of a try at a recovery point.
func sayPoint(b vault.FileBackup, err error) string {
	if err != nil {
		return "recovery point was not made: " + firstLine(err.Error())
	}
	return sayFiles(b, nil)
}

func (f *filer) pointWrong(p *problem.Problem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.points.wrong = p
}

func (f *filer) pointRefused(p *problem.Problem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.points.refused = p
}

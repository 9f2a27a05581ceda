package host

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"holdfast/internal/agent"
)

// filesRun is a backup of a file set that is under way here.
type filesRun struct {
	ctx   context.Context // ends with the cause [cancelledError] when somebody ends the run
	stop  func()
	id    string
	began time.Time
	asked *agent.Asked // nil = it began by itself
}

// underWay begins a backup, for a request or (nil) by itself. Its end must be told with [filesRun.stop].
func (f *filer) underWay(ctx context.Context, asked *agent.Asked) *filesRun {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &filesRun{ctx: ctx, id: strings.ToLower(rand.Text()[:12]), began: time.Now(), asked: asked}
	var watch sync.WaitGroup
	watch.Go(func() {
		for f.host.sleep(ctx, filesPace) {
			if by := cancelledBy(f.host.agent.Last(), "files", f.set.Name, r.id, r.request()); by != "" {
				cancel(&cancelledError{by})
			}
		}
	})
	r.stop = func() {
		cancel(nil)
		watch.Wait()
	}
	return r
}

func (r *filesRun) request() string {
	if r.asked == nil {
		return ""
	}
	return r.asked.ID
}

// chore is what stands in the agreed state for this host's directory of the set.
func (f *filer) chore() agent.Chore {
	return agent.Chore{Kind: agent.ChoreFiles, Subject: f.set.Name + "@" + f.host.cfg.Self}
}

// pointChore is the same for the set's recovery points: whoever ends one leaves the backups their hours, and the other way round. No
// host has a # in its name.
func (f *filer) pointChore() agent.Chore {
	return agent.Chore{Kind: agent.ChoreFiles, Subject: f.chore().Subject + "#point"}
}

// cancelledAt is when somebody last ended a backup of it; zero = nobody did.
func (f *filer) cancelledAt() time.Time { return f.cancelled(f.chore(), f.stopped) }

// pointCancelledAt is when somebody last ended a recovery point of it; zero = nobody did.
func (f *filer) pointCancelledAt() time.Time { return f.cancelled(f.pointChore(), f.points.stopped) }

// cancelled is the later of what is agreed and what this agent did, which may not be agreed yet.
func (f *filer) cancelled(what agent.Chore, here time.Time) time.Time {
	c, _ := agent.ChoreOf(f.host.agent.Last().Agreed, what.Kind, what.Subject)
	if here.After(c.Cancelled) {
		return here
	}
	return c.Cancelled
}

// wasCancelled notes that somebody ended a backup, or with a point a recovery point, so that it is not begun again at once, and tells
// everybody what comes next.
func (f *filer) wasCancelled(ctx context.Context, r *filesRun, point string) error {
	c, stopped := f.chore(), &f.stopped
	text := "the backup of " + f.set.Name + " on " + f.host.cfg.Self + " was " + context.Cause(r.ctx).Error() + ", and nothing of it is listed"
	if point != "" {
		c, stopped = f.pointChore(), &f.points.stopped
		text = "the recovery point of " + f.set.Name + " was " + context.Cause(r.ctx).Error() + ", and no such point is listed"
	}
	r.stop()
	now := time.Now().UTC()
	c.Host, c.Since, c.Began, c.Ended, c.OK, c.Text, c.Cancelled = f.host.cfg.Self, r.began.UTC(), r.began.UTC(), now, true, text, now
	*stopped = now
	f.host.agent.NoteChore(ctx, c)
	due, err := f.due()
	if err != nil {
		return err
	}
	if due.Never || due.At.IsZero() {
		text += "; none is due: holdfast files backup " + f.set.Name
	} else {
		text += "; the next backup is due " + due.At.UTC().Format("2006-01-02 15:04:05 MST")
	}
	f.host.diary.Note("files", f.set.Name, text, nil, now.Sub(r.began))
	f.answerCancels(ctx, r.id, text)
	return nil
}

// answerCancels answers those who want a backup of this directory ended: the run of an id was ("" = none is under way), whatever else
// they name had ended before.
func (f *filer) answerCancels(ctx context.Context, id, text string) {
	for _, q := range cancels(f.host.agent.Last(), "files", f.set.Name) {
		s := agent.Settled{ID: q.ID, Host: f.host.cfg.Self, Text: "no such backup is under way: it had ended before"}
		if q.Args[agent.ArgOn] != f.host.cfg.Self {
			continue
		}
		if q.Args[agent.ArgRun] == id && id != "" {
			s.OK, s.Text = true, text
		}
		f.host.agent.Settle(ctx, s)
	}
}

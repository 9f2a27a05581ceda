// Package upkeep frees what no listed snapshot of a repository uses any more, by the rules and in the formats of the kopia program,
// so that both can look after a repository in turn. Start at [Run]; due.go has the rules, and reads no clock.
//
// Nothing goes in one step. What no listed snapshot uses is marked as deleted, and can still be read: a snapshot that is listed
// later may use it. A later run, far enough from that one, takes the mark from what turned out to be used; only then the mark
// counts as if the content had never been (the watermark). A pack is deleted when no content in it counts any more.
package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"holdfast/internal/vault/repo"
)

// ErrClock is returned by [Run] when the clock here and the one of the place differ by more than five minutes.
var ErrClock = errors.New("the clock here and the one of the repository's place differ")

const (
	skewMax   = 5 * time.Minute
	fullCycle = 24 * time.Hour // what a stock kopia program is told of when the next run is due
)

// upkeep is one run.
type upkeep struct {
	r        *repo.Repository
	w        *repo.Writer
	safety   Safety
	options  Options // filled
	log      *slog.Logger
	start    time.Time // by the place's clock
	schedule *Schedule
	marks    *marks // what is used, once collect has looked
}

// Run marks what is unused, joins packs that are half empty, and deletes what has been unused for long enough. w is a writer of r
// that has stored nothing. One run at a time; the caller sees to that. Cut off anywhere it leaves everything that is listed whole.
func Run(ctx context.Context, r *repo.Repository, w *repo.Writer, s Safety, o Options) error {
	u := &upkeep{r: r, w: w, safety: s, options: o.filled(), log: r.Log()}
	if err := u.begin(ctx); err != nil {
		return fmt.Errorf("begin upkeep: %w", err)
	}
	if err := u.task(ctx, TaskCollect, u.collect); err != nil {
		return err
	}
	if err := u.free(ctx); err != nil {
		return err
	}
	return u.indexes(ctx)
}

// begin writes down that a run begins, which also tells the time by the place's clock.
func (u *upkeep) begin(ctx context.Context) (err error) {
	if u.schedule, err = readSchedule(ctx, u.r); err != nil {
		return err
	}
	u.schedule.NextFull = u.r.Now().Add(fullCycle)
	if err := u.writeDown(ctx); err != nil {
		return err
	}
	at, err := u.r.StatBlob(ctx, scheduleBlob)
	if err != nil {
		return err
	}
	u.start = at.Time
	if skew := u.r.Now().Sub(u.start); skew.Abs() > skewMax {
		return fmt.Errorf("%w: by %s", ErrClock, skew.Round(time.Second))
	}
	return u.r.Refresh(ctx)
}

// free is what frees room.
func (u *upkeep) free(ctx context.Context) error {
	if err := u.join(ctx); err != nil {
		return err
	}
	if t := dropBefore(u.schedule, u.safety, u.r.Now()); !t.IsZero() {
		if err := u.task(ctx, TaskDrop, func(ctx context.Context) error { return u.w.Indexes().AdvanceWatermark(ctx, t) }); err != nil {
			return err
		}
	}
	if !deleteDue(u.schedule, u.safety, u.r.Now()) {
		return nil
	}
	return u.task(ctx, TaskDelete, u.deletePacks)
}

// join joins packs, when that is due and may be.
func (u *upkeep) join(ctx context.Context) error {
	if !rewriteDue(u.schedule, u.safety) {
		return nil
	}
	may, err := u.options.Join(ctx)
	if err != nil {
		return fmt.Errorf("upkeep, ask whether packs may be joined: %w", err)
	}
	if !may {
		return nil
	}
	if err := u.attempt(ctx); err != nil {
		return err
	}
	return u.task(ctx, TaskRewrite, u.rewrite)
}

// indexes keeps the indexes few, and deletes what is superseded among them.
func (u *upkeep) indexes(ctx context.Context) error {
	epochs := u.w.Indexes()
	for _, t := range []struct {
		Task
		do func(context.Context) error
	}{
		{TaskCompact, func(ctx context.Context) error { _, err := epochs.CompactOne(ctx); return err }},
		{TaskAdvance, epochs.MaybeAdvance},
		{TaskCheckpoint, func(ctx context.Context) error { _, err := epochs.MaybeCheckpoint(ctx); return err }},
		{TaskMarkers, epochs.CleanupMarkers},
		{TaskSuperseded, epochs.CleanupSuperseded},
		{TaskLogs, u.deleteLogs},
	} {
		if err := epochs.Refresh(ctx); err != nil {
			return err
		}
		if err := u.task(ctx, t.Task, t.do); err != nil {
			return err
		}
	}
	return nil
}

// task does one task and writes down how it went, unless another does so by now. What was done and cannot be written down is an
// error: the rules for what follows rest on it.
func (u *upkeep) task(ctx context.Context, t Task, do func(context.Context) error) error {
	i := RunInfo{Start: u.r.Now()}
	err := do(ctx)
	if err == nil {
		err = u.options.Finish(ctx)
	}
	if err == nil {
		err = ctx.Err()
	}
	i.End, i.Success = u.r.Now(), err == nil
	if err != nil {
		i.Error = err.Error()
	}
	u.schedule.report(t, i)
	told := u.writeDown(ctx)
	if err != nil {
		return fmt.Errorf("upkeep, %s: %w", t, err)
	}
	return told
}

// writeDown writes the schedule, unless another has done so meanwhile.
func (u *upkeep) writeDown(ctx context.Context) error {
	if err := u.options.May(ctx); err != nil {
		return err
	}
	return writeSchedule(ctx, u.r, u.schedule)
}

// flush makes known what was marked or moved.
func (u *upkeep) flush(ctx context.Context) error {
	if err := u.options.May(ctx); err != nil {
		return err
	}
	return u.w.Flush(ctx)
}

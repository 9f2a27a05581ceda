package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/durable"
)

// Recovered is a scratch server that stands at a target.
type Recovered struct {
	*Scratch
	Choice Choice
	Paused bool
	// Reached is false when a target time lies behind the last commit, or a position behind the beginning of the last
	// record: all log was replayed, and the vault knows that nothing was committed between.
	Reached bool
}

// Recover starts a scratch server on a directory that Run made, and waits until it stands at the target.
// When it returns an error, nothing runs.
func Recover(ctx context.Context, choice Choice, action Action, o ScratchOptions) (*Recovered, error) {
	if o.Superuser == "" {
		o.Superuser = choice.Backup.Superuser
	}
	if o.BinDir == "" {
		var err error
		if o.BinDir, err = FindBinDir(choice.Backup.ServerVersion / 10000); err != nil {
			return nil, err
		}
	}
	rec, err := recoverOnce(ctx, choice, o)
	early, ok := errors.AsType[*EndedEarlyError](err)
	switch {
	case !ok:
		return rec, err
	case early.Inconsistent || !atEnd(choice):
		if choice.Target.Kind == Latest || choice.Target.Kind == Consistent {
			return nil, err // no target that somebody could have named otherwise: the backup or its log is bad
		}
		return nil, unmet(ctx, choice, early, o)
	}
	// Nothing was committed, or written, between the end of the log and the target: the end of the log is the target.
	end := choice
	end.Target = Target{Kind: Latest}
	if err := writeBlock(o.Dir, append(isolation(), recovery(end, action, "")...)); err != nil {
		return nil, err
	}
	if rec, err = recoverOnce(ctx, choice, o); err != nil {
		return nil, err
	}
	rec.Reached = false
	return rec, nil
}

// atEnd reports whether a target that all replayed log did not hold is its end: no record begins at or behind the position,
// or no commit at or behind the time, and the vault knows of none. Pure.
func atEnd(c Choice) bool {
	switch c.Target.Kind {
	case AtTime:
		return !c.Target.Time.After(c.Covered)
	case AtLSN:
		n := len(c.Pieces)
		return n > 0 && c.Pieces[n-1].End == c.End && c.Target.LSN <= c.End
	}
	return false
}

func recoverOnce(ctx context.Context, choice Choice, o ScratchOptions) (*Recovered, error) {
	s, err := StartScratch(ctx, o)
	if err != nil {
		return nil, err
	}
	paused, err := s.WaitReady(ctx)
	if err != nil {
		return nil, errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	return &Recovered{Scratch: s, Choice: choice, Paused: paused, Reached: true}, nil
}

// Database restores to an empty directory and brings it to the target once, so that what lies there
// afterwards is a whole database with no recovery left to do. The server is stopped again.
func Database(ctx context.Context, o Options, so ScratchOptions) (Result, error) {
	o.marked = true // until the last record is replayed, so that an interruption there is gone on with too
	res, err := Run(ctx, o)
	if err != nil {
		return res, err
	}
	so.Dir, so.Owner, so.marked = o.Dir, o.Owner, true
	if so.Settings == nil {
		so.Settings = map[string]string{}
	}
	if !o.Throwaway {
		so.Settings["fsync"] = "on"
	}
	began := time.Now()
	rec, err := Recover(ctx, o.Choice, Promote, so)
	if err != nil {
		return res, fmt.Errorf("bring %s to %s: %w", o.Dir, o.Choice.Target, err)
	}
	res.Times = rec.Times(0)
	if err := rec.Stop(context.WithoutCancel(ctx)); err != nil {
		return res, err
	}
	res.Times.Fetch, res.Times.Start = res.Took, time.Since(began)-res.Times.Replay
	if err := os.Remove(filepath.Join(o.Dir, markerFile)); err != nil {
		return res, fmt.Errorf("end the restore to %s: %w", o.Dir, err)
	}
	return res, durable.SyncDir(o.Dir)
}

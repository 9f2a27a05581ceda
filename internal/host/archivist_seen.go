package host

import (
	"context"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/database"
)

const (
	// seenPace is how often the primary is asked how much log it keeps for the vault, while the log does not come in.
	seenPace = 5 * time.Second
	seenMax  = 5 * time.Second // for one answer
)

// seen is what a primary last said of the log that it keeps for the vault. An archivist that began while the vault was away
// has not seen what that holds, and an earlier turn of its own may be long over.
type seen struct {
	primary string
	epoch   int64
	queue   backup.Queue
}

// watchQueue asks the primary for as long as this host archives and nothing streams; a stream knows it better.
func (a *archivist) watchQueue(ctx context.Context) error {
	for a.host.sleep(ctx, seenPace) {
		rec := a.record()
		if _, streaming := a.gapNow(); streaming || !a.named() {
			a.says(seen{})
			continue
		}
		if rec.Phase != database.Steady || !rec.Opened {
			continue
		}
		q, err := a.askQueue(ctx, rec.Primary)
		if err != nil {
			a.host.cfg.Log.DebugContext(ctx, "not known how much log waits for the vault", "database", a.db.Name, "primary", rec.Primary, "err", err)
			continue
		}
		a.says(seen{rec.Primary, rec.Epoch, q})
	}
	return nil
}

func (a *archivist) says(s seen) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = s
}

func (a *archivist) askQueue(ctx context.Context, primary string) (backup.Queue, error) {
	ctx, cancel := context.WithTimeout(ctx, seenMax)
	defer cancel()
	dsn, err := a.host.primaryDSN(a.db, primary)
	if err != nil {
		return backup.Queue{}, err
	}
	conf, err := backup.ReadFrom(dsn)
	if err != nil {
		return backup.Queue{}, err
	}
	return backup.QueueAt(ctx, conf)
}

// storedUpTo is how far the vault holds the log: as this host saw it stored, or as the primary that is one now said, whichever is
// further. 0 = neither is known. lost: the primary has let go of log that the vault did not hold, and nothing came in since. Pure.
func storedUpTo(told database.LSN, streaming bool, said seen, now database.Record) (at database.LSN, lost bool) {
	if said.primary == "" || said.primary != now.Primary || said.epoch != now.Epoch {
		return told, false
	}
	return max(told, database.LSN(said.queue.At)), said.queue.Lost && !streaming
}

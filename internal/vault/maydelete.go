package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault/store"
)

// deleteLackMax is how long a copy may lack something before nothing is deleted: what is on its way is younger.
const deleteLackMax = time.Hour

// MayDelete is nil when things may be let go of: every copy answers and has what the others have, no index is lost, and the
// last scrub read every copy and left no damage. Who cleans up asks it first: a copy that is away or behind would bring back what was
// deleted, and what looks superfluous beside a damaged index may be all that is left.
func (v *Vault) MayDelete(ctx context.Context) error {
	lacks, err := v.Compare(ctx)
	if err != nil {
		return err
	}
	for _, l := range lacks {
		title := ""
		if l.Away != nil {
			title = fmt.Sprintf("copy %s does not answer: %v", l.Copy, l.Away)
		} else if old := l.Oldest(); !old.IsZero() && time.Since(old) > deleteLackMax {
			title = fmt.Sprintf("copy %s lacks %d objects that others have", l.Copy, len(l.Missing))
		}
		if title != "" {
			return &problem.Problem{Code: "vault.needs-every-copy", Subject: v.name, Severity: problem.Degraded, Title: title,
				Meaning: "Nothing is let go: it would come back from there. Backups and the log go on.",
				Remedy:  "bring it back, or take it out of the plan; holdfast vault sync " + v.name + " fills it"}
		}
	}
	lost, err := v.lostIndexes(ctx)
	if err != nil {
		return err
	}
	if len(lost) > 0 { // what they know of looks as if nobody wanted it: that may not wait for the next scrub
		p := indexesLost(v.name, lost)
		p.Meaning = "Nothing is let go, for backups that only they know of are not listed, and what those use is still there. Backups and the log go on."
		return p
	}
	last, err := v.LastScrub(ctx)
	if err != nil {
		return err
	}
	if last.Damage > 0 {
		return &problem.Problem{Code: "vault.damaged", Subject: v.name, Severity: problem.Critical,
			Title:   fmt.Sprintf("the last scrub left %d objects damaged or lost", last.Damage),
			Meaning: "Nothing is let go while that is so. Backups and the log go on.",
			Remedy:  "holdfast vault repair " + v.name}
	}
	if last.Away > 0 {
		return &problem.Problem{Code: "vault.needs-every-copy", Subject: v.name, Severity: problem.Degraded,
			Title:   fmt.Sprintf("the last scrub could not read %d copies", last.Away),
			Meaning: "Nothing is let go: nobody has looked whether what they hold is whole. Backups and the log go on.",
			Remedy:  "holdfast vault scrub " + v.name + ", once every copy answers"}
	}
	return nil
}

// indexPrefix begins the names of the repository's indexes.
const indexPrefix = repositoryDir + "/x"

// renewer is a place that can make locks longer.
type renewer interface {
	Renew(ctx context.Context, name string, stored time.Time) (bool, error)
}

// RenewLocks makes the locks of what is still kept as long as they were at first, in each copy whose place has locks, once
// half of that time is over. What a lock alone keeps from being let go of is left to run out. It gives their number; what cannot be
// renewed does not keep the rest from it.
func (v *Vault) RenewLocks(ctx context.Context) (int, error) {
	open, _ := v.copiesAlone()
	if v.recorder != nil && v.members == nil {
		open[""] = v.recorder.Store
	}
	condemned, err := v.doomed(ctx)
	if err != nil {
		return 0, fmt.Errorf("renew the locks of vault %s: %w", v.name, err)
	}
	n := 0
	var errs []error
	for _, c := range sortedKeys(open) {
		place, ok := open[c].(renewer)
		if !ok {
			continue
		}
		err := open[c].List(ctx, "", func(i store.Info) error {
			if condemned[i.Name] {
				return nil
			}
			did, err := place.Renew(ctx, i.Name, i.ModTime)
			if did {
				n++
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) && len(errs) < 5 {
				errs = append(errs, err)
			}
			return ctx.Err()
		})
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("renew the locks of vault %s: %w", v.name, err)
	}
	return n, nil
}

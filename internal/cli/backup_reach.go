package cli

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/event"
	"holdfast/internal/restore"
	"holdfast/internal/vault"
)

// logStanding is how far the log of a database can be read in one copy of its vault: what would be left of it if the others
// and the servers were lost now.
type logStanding struct {
	End    string         `json:"end"`            // the log is whole there up to this position
	Until  time.Time      `json:"until,omitzero"` // every commit up to this moment is in it; missing = not known
	Behind event.Duration `json:"behind"`         // how long ago that was; only with until
}

// logReach asks each copy how far its log goes from the base backup that a restore to the latest moment begins with.
func logReach(ctx context.Context, v *vault.Vault, database string, now time.Time) (map[string]logStanding, error) {
	c, err := restore.LoadReadable(ctx, v, database)
	if err != nil {
		return nil, err
	}
	choice, err := restore.Choose(c, restore.Target{Kind: restore.Latest})
	if err != nil {
		return nil, nil // nothing leads anywhere, which is told as such
	}
	log := v.Log(choice.Backup.SystemID, choice.Backup.SegmentSize)
	history, err := log.History(ctx, choice.Timeline)
	if err != nil {
		return nil, err
	}
	all, err := log.Reach(ctx, history, choice.Backup.Start)
	out := map[string]logStanding{}
	for _, r := range all {
		if r.Away == "" {
			out[r.Copy] = standingOf(r, now)
		}
	}
	return out, err
}

func standingOf(r vault.Reach, now time.Time) logStanding {
	s := logStanding{End: r.End.String(), Until: r.Until}
	if !r.Until.IsZero() {
		s.Behind = event.Duration(max(0, now.Sub(r.Until)))
	}
	return s
}

func (s logStanding) String() string {
	if s.Until.IsZero() {
		return "log up to " + s.End
	}
	return fmt.Sprintf("log up to %s, with every commit until %s (%s ago)", s.End, momentText(s.Until), round(s.Behind))
}

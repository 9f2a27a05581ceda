package database

import (
	"fmt"
	"time"
)

// Progress says of an open request how far it is, or what it waits for; "" when there is nothing to say.
func Progress(p Policy, v View, id string) string {
	j := &judgement{p: p, v: v}
	for _, q := range v.Requests {
		if q.ID != id {
			continue
		}
		switch q.Kind {
		case "pause":
			return fmt.Sprintf("%s left", max(q.Left, 0).Round(time.Second))
		case "switchover":
			return j.switchProgress(q)
		case "restart":
			return j.restartProgress(q)
		}
	}
	return ""
}

func (j *judgement) switchProgress(q Request) string {
	r := &j.v.Record
	switch {
	case r.Switch == q.ID && r.Phase != Steady:
		return "under way: " + string(r.Phase)
	case r.Switch == q.ID:
		return "done, not told yet"
	case q.Timed && q.In > 0:
		return fmt.Sprintf("due in %s", q.In.Round(time.Second))
	case r.Phase != Steady || !r.Opened:
		return "waits until the database is in order"
	}
	return "about to begin"
}

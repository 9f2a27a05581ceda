package host

import (
	"fmt"

	"holdfast/internal/agent"
	"holdfast/internal/database"
	"holdfast/internal/problem"
)

const (
	// queueWarn and queueAlarm are how much of its room, in percent, the log that waits for the vault may take before it is said.
	queueWarn  = 70
	queueAlarm = 85
)

// problems are those of the log that waits for the vault, or that it cannot take, and of pages that changed behind the log.
func (a *archivist) problems() []problem.Problem {
	if !a.named() {
		return a.leftProblems()
	}
	rec := a.record()
	a.mu.Lock()
	at, lost := storedUpTo(a.told.Archived, a.gaps.streaming, a.queue, rec)
	out := twiceProblem(a.db.Name, a.gaps.twice)
	second, dir := a.second, a.secondIn
	if a.changed != nil {
		out = append(out, a.changed.Problem(a.db.Name))
	}
	if a.gone != nil {
		out = append(out, *a.gone)
	}
	a.mu.Unlock()
	if dir == "" {
		out = append(out, a.leftProblems()...)
	} else {
		out = append(out, secondProblems(a.db.Name, dir, second)...)
		if second.Streaming {
			at = max(at, database.LSN(second.Told)) // the primary keeps what follows
		}
	}
	now := a.host.agent.Last()
	if lost {
		return append(out, queueLost(a.db.Name, rec.Primary))
	}
	if p := queueProblem(a.db.Name, headOf(now, a.host.cfg.Self, a.db.Name), at, a.slotMax()); p != nil {
		return append(out, *p)
	}
	return out
}

// archived is how far the vault holds the log, as far as this archivist knows; 0 = not known.
func (a *archivist) archived() database.LSN {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.told.Archived
}

// slotMax is how much log the primary keeps for the vault, in bytes, by the plan that counts.
func (a *archivist) slotMax() int64 {
	for _, d := range a.host.plan().Databases {
		if d.Name == a.db.Name && d.SlotMax > 0 {
			return d.SlotMax
		}
	}
	return database.SlotMax
}

// headOf is where a database's log ends at its primary, as that was last heard; 0 = it is not heard.
func headOf(now agent.Snapshot, self, name string) database.LSN {
	for _, d := range now.Facts.Databases {
		if d.Name != name {
			continue
		}
		if d.Record.Primary == self {
			return d.Local.Flushed
		}
		for _, p := range now.Facts.Peers {
			if p.Host == d.Record.Primary && p.Report != nil && p.Report.Databases[name] != nil {
				return p.Report.Databases[name].Local.Flushed
			}
		}
	}
	return 0
}

// queueLost is said where the primary could not keep all that waited for the vault, before anybody can look what that holds.
func queueLost(name, primary string) problem.Problem {
	return problem.Problem{Code: "backup.queue-filling", Subject: name, Severity: problem.Critical,
		Title:   fmt.Sprintf("%s no longer keeps all the log that the vault lacks", primary),
		Meaning: "More waited than the primary keeps, and it has dropped the oldest: no moment from there to the next base backup can be restored. Which those are is told once the vault answers, and a whole base backup begins by itself. The database goes on.",
		Remedy:  "bring the vault back (holdfast status says what is wrong with it)"}
}

// queueProblem judges how much log waits for the vault. Its server keeps up to limit bytes; beyond that it drops the oldest,
// which is then told as lost. nil = there is room, or a position is not known. Pure.
func queueProblem(name string, head, archived database.LSN, limit int64) *problem.Problem {
	if head == 0 || archived == 0 || head <= archived || limit <= 0 {
		return nil
	}
	waits := int64(head - archived)
	percent := int64(float64(waits) / float64(limit) * 100)
	if percent < queueWarn {
		return nil
	}
	p := &problem.Problem{Code: "backup.queue-filling", Subject: name, Severity: problem.Degraded,
		Title:   fmt.Sprintf("%d MiB of log wait for the vault, %d%% of the %d MiB that the primary keeps for it", waits>>20, percent, limit>>20),
		Meaning: "Nothing is lost yet. Beyond that the primary drops the oldest: no moment from there to the next base backup could be restored. That is recorded then, and a whole base backup begins by itself. The database goes on in any case.",
		Remedy:  "bring the vault back (holdfast status says what is wrong with it), or, if the primary's disk has the room, raise slots.max of the database in the plan and run holdfast apply"}
	if percent >= queueAlarm {
		p.Severity = problem.Critical
	}
	return p
}

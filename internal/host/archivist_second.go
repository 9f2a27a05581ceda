package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/backup"
	"holdfast/internal/durable"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
)

const (
	// keptBeside: while log lies in the second place, the primary keeps this part of its room full of the newest besides.
	keptBeside = 2
	// secondPace is how often one that does not archive looks whether it still keeps log of an earlier turn.
	secondPace = 30 * time.Second
)

// secondDir is the second place of this host and database in the directory of the plan; "" = there is none.
func (a *archivist) secondDir() string {
	dir := a.wanted().Spill
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "holdfast-"+a.host.cfg.Plan.Application+"-"+a.host.cfg.Self+"-"+a.db.Name)
}

// secondNote says which second place this host has used last: when the plan names another, what lies in that one goes into
// the vault first.
func (a *archivist) secondNote() string {
	return filepath.Join(a.host.cfg.Dir, "spool", a.db.Name+".second-place")
}

// secondPlace is the one that is in use: that of the plan, unless an earlier one still holds log.
func (a *archivist) secondPlace() (string, error) {
	dir := a.secondDir()
	raw, err := os.ReadFile(a.secondNote())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("find the second place of the log: %w", err)
	}
	if noted := string(raw); noted != "" && noted != dir {
		n, err := backup.SpillWaits(noted)
		if err != nil { // what cannot be looked into brings nothing, and must not hold the archive up
			a.host.cfg.Log.Error("the former second place of the log cannot be looked into, and is used no more", "database", a.db.Name, "dir", noted, "err", err)
		}
		if n > 0 && err == nil {
			return noted, nil
		}
	}
	if dir == "" || dir == string(raw) {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(a.secondNote()), 0o700); err != nil {
		return "", fmt.Errorf("note the second place of the log: %w", err)
	}
	return dir, durable.WriteFile(a.secondNote(), []byte(dir), 0o600)
}

// secondMoved reports whether the archive must begin anew for another second place: the plan names it, and the one in use
// holds nothing.
func (a *archivist) secondMoved(used string) bool {
	if used == a.secondDir() {
		return false
	}
	n, err := backup.SpillWaits(used)
	return used == "" || n == 0 && err == nil
}

// bringSecond brings what this host kept in an earlier turn into the vault: whoever archives now does not have it.
func (a *archivist) bringSecond(ctx context.Context) {
	at, now := a.host.clock.Now(), a.host.agent.Last()
	if at.Sub(a.secondAsked) < secondPace || now.Facts.Stopping || now.Facts.WrittenOff() != "" {
		return
	}
	a.secondAsked = at
	defer a.lookAtSecond(ctx)
	dir, err := a.secondPlace()
	if err == nil && dir != "" {
		err = a.bringFrom(ctx, dir)
	}
	if err != nil && ctx.Err() == nil {
		a.host.cfg.Log.WarnContext(ctx, "log of an earlier turn still waits for the vault", "database", a.db.Name, "dir", dir, "err", err)
	}
}

func (a *archivist) bringFrom(ctx context.Context, dir string) error {
	if n, err := backup.SpillWaits(dir); n == 0 || err != nil {
		return err
	}
	v, err := a.host.openVault(ctx, a.plan.Vault)
	if err != nil {
		return err
	}
	n, err := backup.DrainSpill(ctx, v, dir, func(object string, err error) {
		a.host.cfg.Log.ErrorContext(ctx, "log in the second place cannot be brought to the vault, and is set aside", "database", a.db.Name, "object", object, "err", err)
		a.host.diary.Note("backup", a.db.Name, "log in the second place of this host cannot be brought to the vault, and is set aside: "+firstLine(err.Error()), nil, 0)
	})
	if n > 0 {
		a.host.diary.Note("backup", a.db.Name, fmt.Sprintf("%d segments of log that waited in the second place of this host are in the vault", n), nil, 0)
	}
	return errors.Join(err, v.Close(context.WithoutCancel(ctx)))
}

// left is what lies in a second place.
type left struct {
	dir      string
	segments int
}

// useSecond begins and ends that a receiver tells how it stands with the second place.
func (a *archivist) useSecond(dir string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.second, a.secondIn, a.left = backup.Status{}, dir, left{}
}

// lookAtSecond keeps what lies in the second place that this host used last, for as long as no receiver does.
func (a *archivist) lookAtSecond(ctx context.Context) {
	var now left
	noted, err := os.ReadFile(a.secondNote())
	if err == nil {
		now.dir = string(noted)
		now.segments, err = backup.SpillWaits(now.dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.host.cfg.Log.WarnContext(ctx, "not known whether log lies in the second place", "database", a.db.Name, "dir", now.dir, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left = now
}

// leftProblems say what lies in the second place though no receiver works with it.
func (a *archivist) leftProblems() []problem.Problem {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left.segments == 0 {
		return nil
	}
	return []problem.Problem{{Code: "backup.log-spilled", Subject: a.db.Name, Severity: problem.Degraded,
		Title:   fmt.Sprintf("%d segments of log wait for the vault in the second place %s", a.left.segments, a.left.dir),
		Meaning: "This log is there alone, enciphered, and is not in the vault: were that disk lost, no moment from there to the next base backup could be restored. The database goes on in any case.",
		Remedy:  "bring the vault back (holdfast status says what is wrong with it); it gets the oldest first, by itself"}}
}

// lostThere takes it that log which was in the second place alone does not come into the vault.
func (a *archivist) lostThere(g *backup.GapError, why error) {
	var news bool
	text := g.Error()
	if twice, ok := errors.AsType[*vault.DuplicateError](why); ok {
		if news, text = a.isTwice(twice), twice.Error(); news {
			a.keepTwice()
		}
	} else {
		news = a.lost(g)
	}
	a.mu.Lock()
	a.gaps.judged = false
	a.mu.Unlock()
	if news {
		a.host.diary.Note("backup", a.db.Name, text+", for it was in the second place ("+firstLine(why.Error())+"); no moment from there to the next base backup can be restored", nil, 0)
	}
}

// secondProblems judge how it stands with the second place. Pure.
func secondProblems(name, dir string, s backup.Status) []problem.Problem {
	var out []problem.Problem
	if s.SpillError != "" {
		out = append(out, problem.Problem{Code: "backup.second-place", Subject: name, Severity: problem.Critical,
			Title:   "the second place for its log takes none: " + firstLine(s.SpillError),
			Meaning: "Log that waits for the vault stays with the primary, as if there were no second place, and what lies in the second place waits there. Nothing is lost yet.",
			Remedy:  "mount the disk of " + dir + ", make room on it, or name a directory on another disk in the plan (backup." + name + ".spill) and run holdfast apply"})
	}
	if s.Spilled == 0 {
		return out
	}
	percent := int64(100)
	if s.SpillRoom > 0 {
		percent = s.SpillHolds * 100 / s.SpillRoom
	}
	p := problem.Problem{Code: "backup.log-spilled", Subject: name, Severity: problem.Degraded,
		Title:   fmt.Sprintf("%d MiB of log wait for the vault in the second place %s, which is %d%% full", s.Spilled>>20, dir, percent),
		Meaning: "Nothing is lost. This log is there alone, enciphered, and is not in the vault: were that disk lost, no moment from there to the next base backup could be restored. The database goes on in any case. When the second place is full, the log waits with the primary again.",
		Remedy:  "bring the vault back (holdfast status says what is wrong with it); it gets the oldest first, by itself"}
	if percent >= queueAlarm {
		p.Severity = problem.Critical
	}
	return append(out, p)
}

// elsewhere says of log that is not kept here where it may be: with a second place the primary need not have it.
func (k *logKeeper) elsewhere(p *problem.Problem) *problem.Problem {
	if b, ok := k.host.plan().BackupOf(k.db.Name); p != nil && ok && b.Spill != "" {
		p.Meaning = "Nothing is lost yet: that log lies with the primary, or in the second place of the host that archives. If this host took over before the vault has it, that stretch would be told as lost, and a base backup made, until the second place has been brought to the vault. The database itself loses nothing."
	}
	return p
}

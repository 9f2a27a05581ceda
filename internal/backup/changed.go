package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Changed is a standing suspicion: a reading of everything found stretches that are not what they were, though no log changed
// them. Whether the disk or somebody's hand did that, or the backup before was wrong, nobody can tell here, so it stands until an
// operator accepts a backup of it ([vault.Accepted]). A later reading that finds no difference does not end it: what the log
// has written to since is not compared any more.
type Changed struct {
	Backup  string    `json:"backup"`           // the first whose reading found it
	At      time.Time `json:"at"`               // when that one was complete
	Before  string    `json:"before,omitempty"` // the newest proven backup from before, or what Backup was compared with; "" = none is left
	Objects []string  `json:"objects"`          // what differs, as Backup names it
	keep    []string  // those from before that stay
}

// changedNamed bounds how many places the problem names.
const changedNamed = 5

// Problem words it for a database; how many places and which.
func (c Changed) Problem(database string) problem.Problem {
	few := strings.Join(c.Objects[:min(len(c.Objects), changedNamed)], ", ")
	p := problem.Problem{Code: "backup.changed-silently", Subject: database, Severity: problem.Critical,
		Title:   fmt.Sprintf("pages changed on the disk though no log changed them, as base backup %s found in %d places: %s", c.Backup, len(c.Objects), few),
		Meaning: "A disk, a controller or a program other than PostgreSQL changed them: what the database reads there may be wrong, and that backup and those since are made of it, though they can be restored. ",
		Remedy:  "look at what is named and at the disk of that host, and move the database to another: holdfast database switchover " + database}
	if c.Before == "" {
		p.Meaning += "No backup from before is left."
	} else {
		at := c.At.UTC().Add(-time.Second).Format("2006-01-02 15:04:05")
		p.Meaning += fmt.Sprintf("Backup %s is from before; it stays, and so does the log since, so any moment from its end to %s UTC is restored without the change.", c.Before, at)
		p.Remedy += fmt.Sprintf("; compare with what was there: holdfast restore database %s --at %q --to DIR", database, at)
	}
	p.Remedy += "; when it is understood: holdfast backup accept " + c.Backup + " --reason TEXT"
	return p
}

// StandingChange is what backups of one database, oldest first, and the notes on them leave to be looked at; false = nothing.
// Accepting a backup accepts those before it too. Pure.
func StandingChange(made []vault.Backup, notes []vault.Note) (Changed, bool) {
	var c Changed
	first := -1
	for i, b := range made {
		if first < 0 && len(b.Differs) > 0 {
			first = i
		}
		if slices.ContainsFunc(notes, func(n vault.Note) bool { return n.Backup == b.ID && n.Kind == vault.Accepted }) {
			first = -1
		}
	}
	if first < 0 {
		return c, false
	}
	b := made[first]
	c.Backup, c.At, c.Objects = b.ID, b.Stopped, b.Differs
	for _, x := range made[:first] {
		if x.Validated() {
			c.Before = x.ID
		}
		if x.ID == b.Earlier {
			c.keep = append(c.keep, x.ID)
		}
	}
	if c.Before == "" && len(c.keep) > 0 {
		c.Before = c.keep[0]
	}
	if c.Before != "" {
		c.keep = append(c.keep, c.Before)
	}
	return c, true
}

// keepChanged keeps what a standing suspicion is about, and what from before it leads back. Pure.
func keepChanged(all []Fate, c Changed) {
	for i := range all {
		f := &all[i]
		why := ""
		switch {
		case f.Keep:
		case slices.Contains(c.keep, f.ID):
			why = "from before pages changed behind the log, as " + c.Backup + " found"
		case f.ID == c.Backup:
			why = "pages changed behind the log in it, and nobody has accepted that"
		}
		if why != "" {
			f.Keep, f.Because, f.Goes = true, why, time.Time{}
		}
	}
}

// withoutLog takes out of what may go the log since the good backup: with it any moment can be made again without what changed
// on the disk. own are the backups of that log. Pure.
func (c Changed) withoutLog(pieces []wal.Held, own []vault.Backup, segmentSize uint64) []wal.Held {
	at := slices.IndexFunc(own, func(b vault.Backup) bool { return b.ID == c.Before })
	if at < 0 {
		return pieces
	}
	from := own[at].Start.SegmentStart(segmentSize)
	return slices.DeleteFunc(pieces, func(p wal.Held) bool { return p.Timeline >= own[at].Timeline && p.End > from })
}

// StandingChangeIn is [StandingChange] of what a vault lists; nil = nothing stands.
func StandingChangeIn(ctx context.Context, v *vault.Vault, made []vault.Backup) (*Changed, error) {
	if !slices.ContainsFunc(made, func(b vault.Backup) bool { return len(b.Differs) > 0 }) {
		return nil, nil
	}
	notes, err := v.Notes(ctx)
	if err != nil {
		return nil, err
	}
	if c, stands := StandingChange(made, notes); stands {
		return &c, nil
	}
	return nil, nil
}

// nameRelations says which relations lie in the files that texts begin with. What the server does not tell stays a file's name.
func (r *baseRun) nameRelations(ctx context.Context, conn *pgx.Conn, texts []string) []string {
	files := newRelfiles()
	err := r.learnAll(ctx, conn, files)
	if err != nil {
		r.o.Log.WarnContext(ctx, "not known which relations lie in the files", "database", r.o.Database, "err", err)
	}
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = files.words(text)
	}
	return out
}

func (r *baseRun) learnAll(ctx context.Context, conn *pgx.Conn, files *relfiles) error {
	rows, err := conn.Query(ctx, "select datname from pg_catalog.pg_database where datallowconn order by 1")
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		conf := r.o.Conn.Copy()
		conf.Database = name
		if err := r.learnOne(ctx, conf, files); err != nil {
			return fmt.Errorf("ask database %s for its files: %w", name, err)
		}
	}
	return nil
}

func (r *baseRun) learnOne(ctx context.Context, conf *pgx.ConnConfig, files *relfiles) error {
	c, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // nothing was written through it
	return files.learn(ctx, conf.Database, c)
}

package backup

import (
	"cmp"
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
	Backup   string    `json:"backup"`             // the first whose reading found it
	Accept   string    `json:"accept,omitempty"`   // the newest that found it: accepting that accepts all of them; "" = Backup
	At       time.Time `json:"at"`                 // when Backup was complete
	Before   string    `json:"before,omitempty"`   // the newest proven one from before, or what Backup was compared with; "" = none is left
	BeforeAt time.Time `json:"before_at,omitzero"` // when Before was complete; zero = not known here
	Objects  []string  `json:"objects"`            // what differs, as all that found it name it; sorted
	Cut      bool      `json:"cut,omitempty"`      // more differ than Objects names: a backup lists [badPagesListed] at most
	keep     []string  // those from before that stay
}

// changedNamed bounds how many places the problem names.
const changedNamed = 5

// Problem words it for a database; how many places and which.
func (c Changed) Problem(database string) problem.Problem {
	places, cut := namedPlaces(c.Objects) // whoever has one backup alone hands its list over as it is
	few := strings.Join(places[:min(len(places), changedNamed)], ", ")
	accept, by := cmp.Or(c.Accept, c.Backup), "base backup "+c.Backup
	if accept != c.Backup {
		by = "base backups from " + c.Backup + " to " + accept
	}
	p := problem.Problem{Code: "backup.changed-silently", Subject: database, Severity: problem.Critical,
		Title:   fmt.Sprintf("pages changed on the disk though no log changed them, as %s found in %s: %s", by, countPlaces(len(places), cut || c.Cut), few),
		Meaning: "A disk, a controller or a program other than PostgreSQL changed them: what the database reads there may be wrong, and " + c.Backup + " and those since are made of it, though they can be restored. ",
		Remedy:  "look at what is named and at the disk of that host, and move the database to another: holdfast database switchover " + database}
	switch {
	case c.Before == "":
		p.Meaning += "No backup from before is left."
	case c.BeforeAt.IsZero():
		p.Meaning += "It was compared with backup " + c.Before + ", which is from before."
		p.Remedy += "; see what from before is left: holdfast backup status " + database
	default:
		at := c.justBehind()
		p.Meaning += fmt.Sprintf("Backup %s is from before; it stays, and so does the log since. What is restored to %s, just behind its end, is without the change; a later moment may be restored from a backup that holds it.", c.Before, at)
		p.Remedy += "; compare with what was there: " + c.RestoreBefore(database)
	}
	p.Remedy += "; when it is understood: holdfast backup accept " + accept + " --reason TEXT"
	return p
}

// justBehind is a moment just behind the end of Before: nothing but that backup is nearer then, so a restore takes it; later, one
// that holds the change may be.
func (c Changed) justBehind() string {
	return c.BeforeAt.UTC().Truncate(time.Second).Add(time.Second).Format("2006-01-02 15:04:05Z07:00")
}

// RestoreBefore is the command that restores the copy from before; only with Before and BeforeAt.
func (c Changed) RestoreBefore(database string) string {
	return fmt.Sprintf("holdfast restore database %s --at %q --to DIR", database, c.justBehind())
}

// ChangedPlaces says in how many places a backup found a change, for its list of them ([vault.Backup].Differs) is cut. Pure.
func ChangedPlaces(differs []string) string {
	places, cut := namedPlaces(differs)
	return countPlaces(len(places), cut)
}

func countPlaces(n int, cut bool) string {
	text := fmt.Sprintf("%d places", n)
	if n == 1 {
		text = "1 place"
	}
	if cut {
		text = "at least " + text
	}
	return text
}

// namedPlaces are the places that a backup's list names, without the line that counts what it does not name; cut = there is one.
func namedPlaces(list []string) (places []string, cut bool) {
	if len(list) == 0 {
		return nil, false
	}
	more, last := 0, list[len(list)-1]
	if _, err := fmt.Sscanf(last, "and %d more", &more); err != nil || last != fmt.Sprintf("and %d more", more) {
		return list, false
	}
	return list[:len(list)-1], true
}

// StandingChange is what backups of one database, oldest first, and the notes on them leave to be looked at; false = nothing.
// Accepting a backup accepts those before it too. While the first finding stands, whatever is made later is compared with a
// backup from before it, and finds the same again: it is one suspicion, which ends when the newest that found it is accepted. Pure.
func StandingChange(made []vault.Backup, notes []vault.Note) (Changed, bool) {
	var found []int
	for i, b := range made {
		if len(b.Differs) > 0 {
			found = append(found, i)
		}
		if accepted(notes, b.ID) {
			found = nil
		}
	}
	if len(found) == 0 {
		return Changed{}, false
	}
	first := made[found[0]]
	c := Changed{Backup: first.ID, Accept: made[found[len(found)-1]].ID, At: first.Stopped}
	for _, i := range found {
		places, cut := namedPlaces(made[i].Differs)
		c.Objects, c.Cut = append(c.Objects, places...), c.Cut || cut
		if e := made[i].Earlier; slices.ContainsFunc(made, func(b vault.Backup) bool { return b.ID == e }) {
			c.keep = append(c.keep, e)
		}
	}
	slices.Sort(c.Objects)
	c.Objects = slices.Compact(c.Objects)
	if b, ok := goodCopy(made[:found[0]], first); ok {
		c.Before, c.BeforeAt, c.keep = b.ID, b.Stopped, append(c.keep, b.ID)
	}
	slices.Sort(c.keep)
	c.keep = slices.Compact(c.keep)
	return c, true
}

func accepted(notes []vault.Note, backup string) bool {
	return slices.ContainsFunc(notes, func(n vault.Note) bool { return n.Backup == backup && n.Kind == vault.Accepted })
}

// goodCopy is the newest proven backup of those before the one that found a change which cannot hold it: of the same cluster, and
// made not later than what found was compared with, for the change happened somewhere between the two. When none is proven, it
// is what found was compared with, if nobody tried that.
func goodCopy(before []vault.Backup, found vault.Backup) (vault.Backup, bool) {
	compared := slices.IndexFunc(before, func(b vault.Backup) bool { return b.ID == found.Earlier })
	for i, b := range slices.Backward(before) {
		early := i <= compared
		if compared < 0 { // it was let go of; its ID tells when it was made
			then := madeAt(found.Earlier)
			early = madeAt(b.ID) != "" && madeAt(b.ID) <= then
		}
		if early && b.Validated() && b.SystemID == found.SystemID {
			return b, true
		}
	}
	if compared >= 0 && before[compared].Validation == nil && before[compared].SystemID == found.SystemID {
		return before[compared], true
	}
	return vault.Backup{}, false
}

// madeAt is the time in a backup's ID, which sorts as text; "" = it has none.
func madeAt(id string) string {
	parts := strings.Split(id, "-")
	if len(parts) < 3 {
		return ""
	}
	at := parts[len(parts)-2]
	if _, err := time.Parse("20060102T150405Z", at); err != nil {
		return ""
	}
	return at
}

// ToAccept are the backups on which an acceptance of one belongs, oldest first and that one last, from all of a vault: each
// earlier one of its database that differs needs its own, for a note is forgotten with its backup, and a pinned backup from
// before would stand as a finding again. false = it is no base backup. Pure.
func ToAccept(all []vault.Backup, notes []vault.Note, id string) ([]string, bool) {
	at := slices.IndexFunc(all, func(b vault.Backup) bool { return b.ID == id })
	if at < 0 {
		return nil, false
	}
	var out []string
	for _, b := range all[:at] {
		if b.Database == all[at].Database && len(b.Differs) > 0 && !accepted(notes, b.ID) {
			out = append(out, b.ID)
		}
	}
	return append(out, id), true
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

// withoutLog takes out of what may go the log since the oldest backup from before that stays: with it any moment can be made again
// without what changed on the disk. own are the backups of that log. Pure.
func (c Changed) withoutLog(pieces []wal.Held, own []vault.Backup, segmentSize uint64) []wal.Held {
	for _, b := range own {
		if !slices.Contains(c.keep, b.ID) {
			continue
		}
		from := b.Start.SegmentStart(segmentSize)
		pieces = slices.DeleteFunc(pieces, func(p wal.Held) bool { return p.Timeline >= b.Timeline && p.End > from })
	}
	return pieces
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

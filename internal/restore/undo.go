package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/problem"
)

// Undo is a restore in place that can be taken back.
type Undo struct {
	Run       string     `json:"run"` // when that restore was, in UTC
	At        string     `json:"restored_to"`
	Databases []Exchange `json:"databases"` // Kept is what comes back; NowBytes is what it takes the name from
	// Doubtful are SQL databases whose comments say that they were set aside, and why that is not believed.
	Doubtful []string `json:"doubtful,omitempty"`
}

// aside is an SQL database whose comment says that a restore in place has set it aside. Whoever owns a database can write
// that.
type aside struct {
	name, owner string
	super       bool    // its owner is a superuser
	now         *string // who owns what has its name today; nil = nobody
	kept        kept
}

// runTime is how the time of a restore in place is written.
const runTime = "20060102150405"

// doubt says why an aside is not believed at a time; "" = it is.
func (a aside) doubt(now time.Time) string {
	at, err := time.Parse(runTime, a.kept.Kept)
	switch {
	case err != nil || at.After(now.Add(24*time.Hour)): // clocks of hosts differ by less
		return "no restore was at " + a.kept.Kept
	case a.name != keptName(a.kept.Name, a.kept.Kept):
		return "what was set aside then is called " + keptName(a.kept.Name, a.kept.Kept)
	case a.now != nil && *a.now != a.owner && !a.super:
		return fmt.Sprintf("it belongs to %s, and %s belongs to %s", a.owner, a.kept.Name, *a.now)
	}
	return ""
}

// chooseUndo takes the last restore in place that is believed.
func chooseUndo(all []aside, now time.Time) (u Undo, doubted []string) {
	for _, a := range all {
		if why := a.doubt(now); why != "" {
			u.Doubtful = append(u.Doubtful, a.name+": "+why)
			doubted = append(doubted, a.kept.Kept)
			continue
		}
		if a.kept.Kept > u.Run {
			u.Run, u.At, u.Databases = a.kept.Kept, a.kept.At, nil
		}
		if a.kept.Kept == u.Run {
			u.Databases = append(u.Databases, Exchange{Name: a.kept.Name, Kept: a.name})
		}
	}
	return u, doubted
}

// FindUndo finds the last restore in place of a cluster whose kept databases are there.
func FindUndo(ctx context.Context, live func(string) string, subject string) (Undo, error) {
	conn, err := pgx.Connect(ctx, live("postgres"))
	if err != nil {
		return Undo{}, fmt.Errorf("reach the live database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	return findUndo(ctx, conn, subject)
}

func findUndo(ctx context.Context, conn *pgx.Conn, subject string) (Undo, error) {
	all, err := setAside(ctx, conn)
	if err != nil {
		return Undo{}, fmt.Errorf("look for kept databases: %w", err)
	}
	u, doubted := chooseUndo(all, time.Now())
	if slices.Contains(doubted, u.Run) { // half of a restore is not taken back
		return u, unclear(subject, "not all that it set aside can be believed: "+strings.Join(u.Doubtful, "; "))
	}
	if len(u.Databases) == 0 && len(u.Doubtful) > 0 {
		return u, unclear(subject, "nothing that says it was set aside can be believed: "+strings.Join(u.Doubtful, "; "))
	}
	if len(u.Databases) == 0 {
		return u, &problem.Problem{Code: "restore.nothing-kept", Subject: subject, Severity: problem.Note, Title: "there is nothing that a restore in place has set aside",
			Meaning: "Nothing was changed.", Remedy: "see which moments can be restored: holdfast backup window " + subject}
	}
	for i := range u.Databases {
		x := &u.Databases[i]
		if x.Bytes, err = sizeOf(ctx, conn, x.Kept); err == nil {
			x.NowBytes, err = sizeOf(ctx, conn, x.Name)
		}
		if err == nil && x.NowBytes > 0 {
			err = exchangeable(ctx, conn, x.Name)
		}
		if err != nil {
			return u, err
		}
	}
	return u, nil
}

func unclear(subject, title string) error {
	return &problem.Problem{Code: "restore.undo-unclear", Subject: subject, Severity: problem.Note, Title: title, Meaning: "Nothing was changed.",
		Remedy: "look again (holdfast restore undo " + subject + " --dry-run); what is nobody's from a restore loses its comment (comment on database NAME is null), " +
			"what is from one gets the owner that it had (alter database NAME owner to ROLE)"}
}

// setAside lists what says of itself that it was set aside.
func setAside(ctx context.Context, conn *pgx.Conn) ([]aside, error) {
	rows, err := conn.Query(ctx, `select d.datname::text, r.rolname::text, r.rolsuper, shobj_description(d.oid, 'pg_database') from pg_database d join pg_roles r on r.oid = d.datdba
		where shobj_description(d.oid, 'pg_database') like '{"holdfast\_kept"%' order by 1`)
	if err != nil {
		return nil, err
	}
	var out []aside
	var a aside
	var comment string
	if _, err = pgx.ForEachRow(rows, []any{&a.name, &a.owner, &a.super, &comment}, func() error {
		a.kept = kept{}
		if json.Unmarshal([]byte(comment), &a.kept) == nil { // else it is somebody's own
			out = append(out, a)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	for i := range out {
		if err := conn.QueryRow(ctx, "select max(pg_get_userbyid(datdba)::text) from pg_database where datname = $1", out[i].kept.Name).Scan(&out[i].now); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// believed are the names of what was set aside, as far as it is believed.
func believed(ctx context.Context, conn *pgx.Conn) (names []string, err error) {
	all, err := setAside(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("look for kept databases: %w", err)
	}
	now := time.Now()
	for _, a := range all {
		if a.doubt(now) == "" {
			names = append(names, a.name)
		}
	}
	return names, nil
}

// Apply takes it back: what was kept gets its name again, and what has that name now is kept in its turn. It refuses when
// something else would come back by now.
func (u Undo) Apply(ctx context.Context, live func(string) string, subject string) ([]Exchange, error) {
	conn, err := lockLive(ctx, live, subject)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // gives the lock back
	shown := u
	if u, err = findUndo(ctx, conn, subject); err != nil {
		return nil, err
	}
	if !slices.EqualFunc(shown.Databases, u.Databases, func(a, b Exchange) bool { return a.Name == b.Name && a.Kept == b.Kept }) {
		return nil, unclear(subject, "what would come back is not what it was a moment ago")
	}
	now := time.Now().UTC().Format(runTime)
	var moves []move
	var out []Exchange
	for _, x := range u.Databases {
		done := Exchange{Name: x.Name, Bytes: x.Bytes, NowBytes: x.NowBytes}
		if x.NowBytes > 0 {
			done.Kept = keptName(x.Name, now)
			moves = append(moves, move{from: x.Name, to: done.Kept, keep: &kept{Kept: now, Name: x.Name, At: "before the restore of " + u.Run + " was taken back"}})
		}
		moves = append(moves, move{from: x.Kept, to: x.Name, back: true})
		out = append(out, done)
	}
	return out, exchange(ctx, conn, live, moves)
}

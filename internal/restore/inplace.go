package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/problem"
)

// A database goes back in place by its content, through SQL on the primary: each SQL database of the moment is loaded
// beside the live one, and then their names are exchanged in one transaction. To PostgreSQL and to whoever keeps it highly
// available that is work like any other: standbys follow, the archive goes on, no history is cut, and a failover at any
// moment finds it done or not done. What was live stays under a name of its own, so that it can be taken back.

// InPlace is a restore in place that has been prepared. Nothing live is changed before [InPlace.Load].
type InPlace struct {
	Choice    Choice
	Databases []Exchange
	Alone     []string // SQL databases that are left as they are, and why
	Unknown   []string // hosts of standbys whose room nobody has told
	// Since is how many transactions began after the moment, in all SQL databases.
	Since int64

	into *Into
	live *pgx.Conn
	run  string
}

// Exchange is one SQL database that goes back, or came back.
type Exchange struct {
	Name     string `json:"name"`
	Kept     string `json:"kept"`      // the name under which what is live stays
	Bytes    int64  `json:"bytes"`     // of the moment
	NowBytes int64  `json:"now_bytes"` // of what is live
	// Tablespaces are those that it keeps.
	Tablespaces []Laid `json:"tablespaces,omitempty"`
	// LeftOut is what of the moment does not come, or comes to another place.
	LeftOut []string `json:"left_out,omitempty"`

	interim string
}

// loading is the number of the lock that one restore at a time holds on the live cluster.
const loading = 0x486f6c6466617374

// OpenInPlace restores to the moment on a scratch server and says what would be exchanged. only names SQL databases;
// none = all that were there then. It must end with Close.
func OpenInPlace(ctx context.Context, o IntoOptions, only []string) (p *InPlace, err error) {
	p = &InPlace{into: &Into{o: o}, run: time.Now().UTC().Format(runTime)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := p.into.choose(ctx); err != nil {
		return p, err
	}
	p.Choice = p.into.Choice
	if p.live, err = lockLive(ctx, o.Live, o.Database); err != nil {
		return p, err
	}
	if err := p.into.restore(ctx); err != nil {
		return p, err
	}
	then, err := p.into.then(ctx, "template1")
	if err != nil {
		return p, err
	}
	defer func() { _ = then.Close(ctx) }() // only asked
	if err := p.list(ctx, then, only); err != nil {
		return p, err
	}
	sum := int64(0)
	for i := range p.Databases {
		x := &p.Databases[i]
		if err := p.into.rolesExist(ctx, then, x.Name); err != nil {
			return p, err
		}
		if x.Tablespaces, x.LeftOut, err = p.into.lay(ctx, x.Name); err != nil {
			return p, err
		}
		sum += x.Bytes
	}
	err = p.into.roomFor(ctx, sum)
	p.Unknown = p.into.Unknown
	return p, err
}

// lockLive opens a session on the live cluster that no other restore in place has beside it.
func lockLive(ctx context.Context, live func(string) string, subject string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, live("postgres"))
	if err != nil {
		return nil, fmt.Errorf("reach the live database: %w", err)
	}
	var got bool
	if err = conn.QueryRow(ctx, "select pg_try_advisory_lock($1)", int64(loading)).Scan(&got); err == nil && !got {
		err = &problem.Problem{Code: "restore.busy", Subject: subject, Severity: problem.Note, Title: "another restore in place is under way",
			Meaning: "Nothing was changed by this one.", Remedy: "wait until it has ended"}
	}
	if err != nil {
		_ = conn.Close(ctx) // nothing was done in it
		return nil, err
	}
	return conn, nil
}

// list finds the SQL databases of then, and what they are now.
func (p *InPlace) list(ctx context.Context, then *pgx.Conn, only []string) error {
	var was, is int64
	const next = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
	if err := errors.Join(then.QueryRow(ctx, next).Scan(&was), p.live.QueryRow(ctx, next).Scan(&is)); err != nil {
		return fmt.Errorf("count the transactions since: %w", err)
	}
	p.Since = max(is-was, 0)
	names, err := databaseNames(ctx, then)
	if err != nil {
		return err
	}
	now, err := databaseNames(ctx, p.live)
	if err != nil {
		return err
	}
	for _, name := range only {
		if !slices.Contains(names, name) {
			return notThen(name, p.into.o.At)
		}
		if name == "postgres" {
			return &problem.Problem{Code: "restore.not-in-place", Subject: name, Severity: problem.Note, Title: "cannot be exchanged: Holdfast itself works in it",
				Meaning: "Nothing was changed.", Remedy: "bring it back beside: holdfast restore " + p.into.o.Database + " --database postgres --into NAME"}
		}
	}
	aside, err := believed(ctx, then)
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case len(only) == 0 && slices.Contains(aside, name): // it would be loaded again with each restore
			p.Alone = append(p.Alone, name+": an earlier restore in place had set it aside")
			continue
		case len(only) > 0 && !slices.Contains(only, name):
			continue
		case name == "postgres":
			p.Alone = append(p.Alone, "postgres: Holdfast itself works in it")
			continue
		}
		x := Exchange{Name: name}
		if x.Bytes, err = sizeOf(ctx, then, name); err != nil {
			return err
		}
		if slices.Contains(now, name) {
			x.Kept = keptName(name, p.run)
			if x.NowBytes, err = sizeOf(ctx, p.live, name); err != nil {
				return err
			}
			if err := exchangeable(ctx, p.live, name); err != nil {
				return err
			}
		}
		p.Databases = append(p.Databases, x)
	}
	for _, name := range now {
		if len(only) == 0 && name != "postgres" && !slices.Contains(names, name) {
			p.Alone = append(p.Alone, name+": it was not there then")
		}
	}
	if len(p.Databases) == 0 {
		return notThen("any SQL database but postgres", p.into.o.At)
	}
	return nil
}

func databaseNames(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, "select datname::text from pg_database where not datistemplate and datname not like 'holdfast\\_restore\\_%' and datname not like 'holdfast\\_inplace\\_%' order by 1")
	if err != nil {
		return nil, fmt.Errorf("list SQL databases: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// keptName is the name of what was live, within PostgreSQL's 63 bytes.
func keptName(name, run string) string {
	end := "_kept_" + run
	for len(name)+len(end) > 63 {
		r := []rune(name)
		name = string(r[:len(r)-1])
	}
	return name + end
}

// exchangeable refuses an SQL database to which something outside is tied by more than its name: it would stay tied to what
// is kept.
func exchangeable(ctx context.Context, live *pgx.Conn, name string) error {
	var tied []string
	err := live.QueryRow(ctx, `select array(select 'replication slot ' || slot_name from pg_replication_slots where database = $1
		union all select 'subscription ' || subname from pg_subscription s join pg_database d on d.oid = s.subdbid where datname = $1
		union all select 'prepared transaction ' || gid from pg_prepared_xacts where database = $1)::text[]`, name).Scan(&tied)
	if err != nil {
		return fmt.Errorf("ask what is tied to database %s: %w", name, err)
	}
	if len(tied) == 0 {
		return nil
	}
	return &problem.Problem{Code: "restore.not-in-place", Subject: name, Severity: problem.Note, Title: "cannot be exchanged: " + strings.Join(tied, ", ") + " would stay tied to what is set aside",
		Meaning: "Nothing was changed.", Remedy: "end these first, or bring it back beside: --as, or --into"}
}

// Load brings the moment's SQL databases into the live cluster under names of their own. What is live goes on as it is.
func (p *InPlace) Load(ctx context.Context, tell func(name string)) error {
	if err := errors.Join(p.sweep(ctx), sweepLoaded(ctx, p.live)); err != nil {
		return err
	}
	for i := range p.Databases {
		x := &p.Databases[i]
		tell(x.Name)
		var err error
		if x.interim, err = p.into.load(ctx, p.live, inPlaceName, x.Name, dumpSpaces(x.Tablespaces)...); err != nil {
			return notWritten(x.Name, err)
		}
	}
	return nil
}

// inPlaceName begins the name of a database that is being loaded to be exchanged.
const inPlaceName = "holdfast_inplace_"

// sweep removes what a restore in place that died has left: the lock says that none is under way.
func (p *InPlace) sweep(ctx context.Context) error {
	rows, err := p.live.Query(ctx, "select datname::text from pg_database where datname like 'holdfast\\_inplace\\_%'")
	if err != nil {
		return fmt.Errorf("look for unfinished databases: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		err = errors.Join(err, dropInterim(ctx, p.live, name))
	}
	return err
}

// Exchange gives the loaded SQL databases the names of the live ones, and these their names to be kept by, in one
// transaction. Sessions in them are ended; who comes meanwhile waits for a moment, or is refused once.
func (p *InPlace) Exchange(ctx context.Context) error {
	var moves []move
	for _, x := range p.Databases {
		if x.Kept != "" {
			if err := exchangeable(ctx, p.live, x.Name); err != nil { // loading may have taken hours
				return err
			}
			moves = append(moves, move{from: x.Name, to: x.Kept, keep: &kept{Kept: p.run, Name: x.Name, At: p.into.o.At.String()}})
		}
		moves = append(moves, move{from: x.interim, to: x.Name})
	}
	if err := exchange(ctx, p.live, p.into.o.Live, moves); err != nil {
		return err
	}
	for i := range p.Databases {
		p.Databases[i].interim = "" // the live one now
	}
	return nil
}

// Close removes what was loaded and not exchanged, ends the scratch server and removes its copy.
func (p *InPlace) Close(ctx context.Context) error {
	var errs []error
	for _, x := range p.Databases {
		if x.interim != "" {
			errs = append(errs, dropInterim(ctx, p.live, x.interim))
		}
	}
	errs = append(errs, p.into.Close(ctx))
	if p.live != nil {
		_ = p.live.Close(ctx) // gives the lock back
	}
	return errors.Join(errs...)
}

// kept is the comment of an SQL database that was set aside, by the restore in place of that time.
type kept struct {
	Kept    string  `json:"holdfast_kept"`
	Name    string  `json:"name"`
	At      string  `json:"restored_to"`
	Comment *string `json:"comment,omitempty"` // what it was before
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/stored"
	"holdfast/internal/durable"
)

// StoredWish is what the plan asks of the vault's part in each commit.
type StoredWish struct {
	Vault    bool // a server that opens waits for the vault
	Standbys int  // for how many standbys its votes are counted out
}

// askedVault is since when nobody acts on a setting that does not ask the vault. It may be lost: then it is begun anew.
type askedVault struct {
	acted stored.Acted // settings that some walsender may act on
	ever  bool         // in this life of the server it was asked, so that is how it opens again
	sure  bool         // every walsender knows that the vault is asked, or that the server is closed
	mark  database.LSN // flushed when the setting that stands was written; 0 = that is not known

	// How often names were written over what is not Holdfast's: commits may have waited for less meanwhile. Of these [Server.Stored]
	// has told so many, and so many were told before the vault was asked again, so that they count no more.
	foreign, told, forgiven int
}

// SetStoredWish changes what a server asks that opens from now on, and for how many standbys votes are counted out.
func (s *Server) SetStoredWish(w StoredWish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored = w
}

func (s *Server) storedWish() StoredWish {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored
}

// asksAtOpening reports whether names that are written over closed or empty ones ask the vault too.
func (s *Server) asksAtOpening() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored.Vault || s.now.asked.ever
}

// roomNames reads a setting as the room database knows it.
func roomNames(value string) (database.Names, bool) {
	set, ok := stored.Parse(value)
	return set.Names, ok
}

// withVault is what to write for names of the room. A server that asks the vault goes on to ask it, and one that does not
// goes on not to, for that is agreed elsewhere. One that opens, and one of which nothing can be read, asks if the plan wants
// it, and also if it did before in this life: a claim may stand that it does.
func (s *Server) withVault(from stored.Setting, known bool, n database.Names) stored.Setting {
	s.mu.Lock()
	wish, ever := s.stored, s.now.asked.ever
	s.mu.Unlock()
	to := stored.Setting{Names: n}
	if n.IsClosed() {
		return to
	}
	switch {
	case !known || from.Names.IsClosed():
		to.Vault = wish.Vault || ever
	default:
		to.Vault = from.Vault
	}
	if to.Vault {
		to.Standbys = wish.Standbys
	}
	return to
}

// putSetting goes the way from what d holds to a setting, ending walsenders where two values must not be acted on at once.
// known = from is what stands.
func (s *Server) putSetting(ctx context.Context, d dynamic, from stored.Setting, known bool, to stored.Setting) error {
	acted, err := s.acted(from, to)
	if err != nil {
		return err
	}
	if from.Vault || to.Vault {
		if err := s.noteVotes(); err != nil {
			return err
		}
	}
	way := stored.Way(from, known, to, acted)
	s.writes(from, known, to)
	for _, stage := range way {
		d.names = stage.Value
		if err := s.putNamesText(ctx, d); err != nil {
			return err
		}
		if !stage.Force {
			continue
		}
		if _, err := s.endOthers(ctx); err != nil {
			return fmt.Errorf("end the walsenders that act on %q: %w", from, err)
		}
		s.nobodyActs(to)
	}
	return s.askedSince(ctx, to, known && len(way) > 1)
}

// acted is what walsenders may act on while the way leads from one setting to another. A driver that has just begun does not
// know; but where no names of this life ever held votes, none of them counts one, and the room's own steps are enough.
func (s *Server) acted(from, to stored.Setting) (stored.Acted, error) {
	s.mu.Lock()
	acted := s.now.asked.acted
	s.mu.Unlock()
	if acted.Known || from.Vault || to.Vault {
		return acted, nil
	}
	voted, err := exists(s.at.votes)
	if err != nil {
		return acted, fmt.Errorf("look whether votes were ever asked for: %w", err)
	}
	acted.Known = !voted
	return acted, nil
}

// noteVotes keeps, beyond the life of this process, that names of the server's life hold votes.
func (s *Server) noteVotes() error {
	if noted, err := exists(s.at.votes); err != nil || noted {
		return err
	}
	if err := durable.WriteFile(s.at.votes, nil, 0o644); err != nil {
		return fmt.Errorf("note that votes are asked for: %w", err)
	}
	return nil
}

// forgetVotes is for a server that is about to start, closed: nobody acts on anything of the life before. A note that comes back
// with the next crash only costs an end of walsenders.
func (s *Server) forgetVotes() error {
	if err := os.Remove(s.at.votes); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget that votes were asked for: %w", err)
	}
	return nil
}

// writes notes what follows from a setting before it is written.
func (s *Server) writes(from stored.Setting, known bool, to stored.Setting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := &s.now.asked
	now.acted = now.acted.Add(from).Add(to)
	now.ever = now.ever || from.Vault || to.Vault
	if !known { // whatever stood there, commits may not have waited for the vault
		now.acted.Known, now.sure = false, false
		now.foreign++
	}
	switch {
	case to.Vault && from.Vault && known: // it goes on to be asked
	case to.Vault:
		now.mark = 0 // until it is noted
	case !to.Names.IsClosed():
		now.ever, now.sure, now.mark = false, false, 0 // it is left, which was agreed
	}
}

// nobodyActs notes that every walsender of before has ended: all act on what is written now.
func (s *Server) nobodyActs(on stored.Setting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.asked.acted = stored.Acted{Known: true}.Add(on)
}

// endOthers ends every walsender of before now, and returns where the log ends then.
func (s *Server) endOthers(ctx context.Context) (mark database.LSN, err error) {
	err = s.within(ctx, func(conn *pgx.Conn) error {
		var since time.Time
		var recovering bool
		if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery(), clock_timestamp()").Scan(&recovering, &since); err != nil {
			return err
		}
		if recovering {
			return errors.New("it is no primary")
		}
		if err := s.endWalsenders(ctx, conn, since); err != nil {
			return err
		}
		mark, err = flushedNow(ctx, conn)
		return err
	})
	return mark, err
}

func flushedNow(ctx context.Context, conn *pgx.Conn) (database.LSN, error) {
	var text string
	if err := conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
		return 0, fmt.Errorf("note where the log ends: %w", err)
	}
	return database.ParseLSN(text)
}

// askedSince notes that a setting that asks the vault was written. forced = nobody acts on one of before.
func (s *Server) askedSince(ctx context.Context, to stored.Setting, forced bool) error {
	s.mu.Lock()
	goesOn := s.now.asked.sure && s.now.asked.mark > 0
	s.mu.Unlock()
	if !to.Vault || goesOn {
		return nil
	}
	var mark database.LSN
	err := s.within(ctx, func(conn *pgx.Conn) (err error) {
		mark, err = flushedNow(ctx, conn)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.asked.sure = s.now.asked.sure || forced
	s.now.asked.mark = mark
	return nil
}

// promotedClosed notes that all walsenders of a server that has just been promoted know that it is closed: whatever setting
// it opens with is the first that anybody acts on.
func (s *Server) promotedClosed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.asked = askedVault{sure: true, acted: stored.Acted{Known: true}}
}

// AskVault makes a primary that is open wait for the vault with each commit, or no more, and returns when nobody acts on what was
// set before. Its standbys' part stays as it is. Who calls it has agreed on it, for the epoch: see [stored.Decide]. A server that
// has promised another one meanwhile is left alone, with database.ErrStale.
func (s *Server) AskVault(ctx context.Context, epoch int64, vault bool) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.askVault(ctx, epoch, vault); err != nil {
		return fmt.Errorf("make commits wait for the vault (%t): %w", vault, err)
	}
	return nil
}

func (s *Server) askVault(ctx context.Context, epoch int64, vault bool) error {
	if err := s.present("change the names"); err != nil {
		return err
	}
	switch p, ok, err := s.readPromise(); {
	case err != nil:
		return err
	case !ok || p.Epoch != epoch:
		return fmt.Errorf("it was agreed for epoch %d, and the server has promised %d: %w", epoch, p.Epoch, database.ErrStale)
	}
	d, err := readDynamic(s.at.data)
	if err != nil {
		return err
	}
	from, ok := stored.Parse(d.names)
	primary, err := s.isPrimary(ctx)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("the names %q are not Holdfast's", d.names)
	case !primary || from.Names.IsClosed():
		return fmt.Errorf("it is not open: %w", database.ErrStale)
	}
	to := stored.Setting{Names: from.Names}
	if vault {
		to = from.Asking(s.storedWish().Standbys)
	}
	if d.names == "" && vault {
		if d, err = s.proveClosed(ctx, d); err != nil {
			return err
		}
		from = stored.Setting{Names: database.Closed()}
	}
	if err := s.putSetting(ctx, d, from, true, to); err != nil || !vault || s.vaultIsSure() {
		return err
	}
	// The setting stood already, or the server opened with it after others.
	if _, err := s.endOthers(ctx); err != nil {
		return err
	}
	s.nobodyActs(to)
	if err := s.askedSince(ctx, to, true); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.asked.forgiven = s.now.asked.told
	return nil
}

// proveClosed closes an open server whose commits wait for nobody, and returns when a commit was seen to wait (DATABASE.md, A1).
func (s *Server) proveClosed(ctx context.Context, d dynamic) (dynamic, error) {
	if err := s.putSetting(ctx, d, stored.Setting{}, true, stored.Setting{Names: database.Closed()}); err != nil {
		return d, err
	}
	if err := s.seeCommitWait(ctx); err != nil {
		return d, err
	}
	return readDynamic(s.at.data)
}

func (s *Server) vaultIsSure() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.asked.sure && s.now.asked.foreign == s.now.asked.forgiven
}

// AsksVault reports, without a session, whether the settings of our server may make commits wait for the vault.
func (s *Server) AsksVault() bool {
	d, err := readDynamic(s.at.data)
	set, ok := stored.Parse(d.names)
	return err != nil || !ok || set.Vault
}

// Stored tells what our server says of the vault's part. It is asked beside other methods. A server that is no open primary
// has an empty answer.
func (s *Server) Stored(ctx context.Context) (out stored.Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, observeWait)
	defer cancel()
	s.mu.Lock()
	asked, wish := s.now.asked, s.stored
	s.now.asked.told = asked.foreign
	s.mu.Unlock()
	out.Foreign = asked.foreign > asked.forgiven
	var names, flushed string
	var votes, held *string
	err = s.within(ctx, func(conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, `SELECT current_setting('synchronous_standby_names'),
 CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_current_wal_flush_lsn()::text END`).Scan(&names, &flushed); err != nil {
			return err
		}
		set, ok := stored.Parse(names)
		if flushed == "" || !ok || set.Names.IsClosed() {
			return nil
		}
		out.Open = true
		out.Asks, out.Between = set.Vault && !set.Between, set.Between
		needed := set.Votes()
		if !out.Asks { // what it would need
			needed = set.Asking(wish.Standbys).Votes()
		}
		out.More, out.Less = set.Miscounted(wish.Standbys)
		var list []string
		for i := range needed {
			list = append(list, stored.VoteName(i+1))
		}
		return conn.QueryRow(ctx, `SELECT count(DISTINCT application_name)::text, min(flush_lsn)::text FROM pg_stat_replication
 WHERE state = 'streaming' AND flush_lsn IS NOT NULL AND application_name = ANY ($1::text[]) HAVING count(DISTINCT application_name) = $2::int`, list, needed).Scan(&votes, &held)
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return stored.Server{}, fmt.Errorf("ask the server about the vault: %w", err)
	}
	if flushed == "" {
		return stored.Server{}, nil
	}
	if out.Flushed, err = database.ParseLSN(flushed); err != nil {
		return stored.Server{}, err
	}
	if held != nil {
		if out.Held, err = database.ParseLSN(*held); err != nil {
			return stored.Server{}, err
		}
	}
	if out.Asks {
		out.InForce, out.Mark = asked.sure && asked.mark > 0, asked.mark // a mark may have got lost on the way
	}
	return out, nil
}

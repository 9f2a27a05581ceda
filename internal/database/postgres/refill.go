package postgres

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/replica"
	"holdfast/internal/problem"
)

// Vault is where base backups and log of this database lie. What it does touches no server.
type Vault interface {
	// Replica finds the base backup that a standby can begin with. A *problem.Problem says why there is none.
	Replica(ctx context.Context, w Wanted) (Replica, error)
}

// Wanted says for which running database.
type Wanted struct {
	SystemID    uint64
	SegmentSize uint64          // bytes
	Chain       []database.Fork // the committed timelines, without the first
}

// Replica is a base backup, and the log that leads on from it along the committed timelines.
type Replica interface {
	// String names it for people.
	String() string
	// Reach is how far the log leads now; it grows while somebody archives.
	Reach(ctx context.Context) (database.LSN, error)
	// Spaces says of each tablespace that it holds, by its number, where it lay.
	Spaces() map[uint32]string
	// Need is how many bytes more than there are now it takes, by directory: in dir, and in the places of its tablespaces.
	Need(ctx context.Context, dir string, spaces map[uint32]string) (map[string]int64, error)
	// Fill makes dir the replica, whatever it holds. Nothing can start there until it returns nil.
	Fill(ctx context.Context, o FillOrder) error
	Close(ctx context.Context) error
}

// FillOrder says how a data directory is filled from a vault.
type FillOrder struct {
	Dir       string
	Spaces    map[uint32]string // places of the tablespaces, by number; there, and ours
	UID, GID  int               // whom files belong to; below 0 = as whoever makes them
	Pay       func(ctx context.Context, n int64) error
	Progress  func(p replica.Progress)
	Histories map[string][]byte                               // files of pg_wal, by name
	Until     func(ctx context.Context) (database.LSN, error) // asked once the files are there: no log beyond it
	Made      func(dir string) error                          // told where the placed log makes a tablespace
	Furnish   func(ctx context.Context) error                 // called before pg_control comes
}

const (
	vaultReachWait  = 60 * time.Second // for log that is on its way into the vault
	vaultReachPause = time.Second
	slotMoveEvery   = 20 * time.Second // while the files come: the vault keeps the log, so the primary need not
)

// Refill implements [database.Server].
func (s *Server) Refill(ctx context.Context, primary database.Endpoint, timeline uint32, chain []database.Fork, epoch int64) error {
	s.op.Lock()
	defer s.op.Unlock()
	s.mu.Lock()
	s.now.from = database.FromVault
	s.mu.Unlock()
	return s.long(database.KindClone, func() error { return s.refill(ctx, primary, timeline, chain, epoch) })
}

// refill asks everything that can refuse before anything is touched, as clone does; from begin on the old data are no copy
// any more, and the next try, from whatever source, goes on with what lies there.
func (s *Server) refill(ctx context.Context, primary database.Endpoint, timeline uint32, chain []database.Fork, epoch int64) (err error) {
	state, why, err := s.dataState()
	if err != nil {
		return err
	}
	if state == database.DataForeign {
		return s.foreign(why)
	}
	if err := s.mayReplace(ctx, epoch); err != nil {
		return err
	}
	if s.cfg.Vault == nil {
		return errors.New("this host knows no vault")
	}
	s.setProgress("looking into the vault")
	lead, err := s.askLead(ctx, primary, timeline, chain)
	if err != nil {
		return err
	}
	from, err := s.cfg.Vault.Replica(ctx, Wanted{SystemID: lead.system, SegmentSize: lead.segment, Chain: chain})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close(context.WithoutCancel(ctx))) }()
	spaces, err := s.placeVaultSpaces(from, lead.spaces)
	if err != nil {
		return err
	}
	need, err := from.Need(ctx, s.at.data, spaces.places)
	if err != nil {
		return err
	}
	more := need[s.at.data]
	delete(need, s.at.data)
	if err := s.hasRoom(more, need); err != nil {
		return err
	}
	incarnation := newIncarnation()
	slot := slotPrefix + incarnation
	if err := s.reserveSlot(ctx, primary, slot); err != nil { // the log from here on stays until we stream
		return err
	}
	defer func() {
		if err != nil {
			s.giveUpSlot(primary, slot)
		}
	}()
	if _, err := s.awaitLog(ctx, from, primary, slot, lead); err != nil {
		return err
	}
	if err := s.stop(ctx); err != nil {
		return err
	}
	if err := s.begin(database.KindClone, epoch, incarnation); err != nil {
		return err
	}
	if err := s.makeOwned(s.at.data); err != nil {
		return err
	}
	if err := s.fill(ctx, from, primary, slot, lead, spaces, incarnation); err != nil {
		return err
	}
	return s.finish(s.at.data, incarnation)
}

// fill brings the files and the log, and lets the primary's slot go on meanwhile.
func (s *Server) fill(ctx context.Context, from Replica, primary database.Endpoint, slot string, lead leader, spaces *vaultSpaces, incarnation string) error {
	if err := spaces.empty(); err != nil {
		return err
	}
	moving, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { s.moveSlotOn(moving, from, primary, slot) })
	defer done.Wait()
	defer stop()
	_, limit := s.limits()
	pace := replica.NewPace(limit, s.clock)
	o := FillOrder{
		Dir: s.at.data, UID: -1, GID: -1, Pay: pace.Take, Progress: s.tellCopy("restoring", from.String()), Histories: lead.histories,
		Spaces: spaces.places, Made: spaces.made,
		Until: func(ctx context.Context) (database.LSN, error) {
			stop() // from here on the slot stays: we stream from where the log ends that is placed now
			done.Wait()
			s.setProgress("restoring the log from " + from.String())
			return s.awaitLog(ctx, from, primary, slot, lead)
		},
		Furnish: func(context.Context) error {
			if err := s.writeIncarnation(s.at.data, incarnation); err != nil {
				return err
			}
			return s.furnish(s.at.data, s.static(nil)) // closed, and following nobody, before it can start
		},
	}
	if s.owner.change {
		o.UID, o.GID = s.owner.uid, s.owner.gid
	}
	if err := from.Fill(ctx, o); err != nil {
		return err
	}
	s.log.Info("data directory restored from the vault", "from", from.String(), "slot", slot)
	return nil
}

// leader is the primary whose standby is to be made.
type leader struct {
	about
	histories map[string][]byte // files of its pg_wal, by name
	spaces    []space
}

// askLead proves that the primary is the one whose standby we shall be, and reads its history files.
func (s *Server) askLead(ctx context.Context, primary database.Endpoint, timeline uint32, chain []database.Fork) (lead leader, err error) {
	conn, err := s.connectPeer(ctx, primary)
	if err != nil {
		return leader{}, err
	}
	defer closeSession(conn)
	if lead.about, err = s.askPrimary(ctx, conn, primary.Host); err != nil {
		return leader{}, err
	}
	if lead.spaces, err = s.askSpaces(ctx, conn); err != nil {
		return leader{}, err
	}
	if n := len(chain); n == 0 && timeline != 1 || n > 0 && chain[n-1].Timeline != timeline {
		return leader{}, fmt.Errorf("restore from the vault: the agreed timelines do not end at %d", timeline)
	}
	lead.histories, err = s.askHistories(ctx, conn, primary, timeline)
	return lead, err
}

// askHistories reads the history files of a primary, up to its timeline.
func (s *Server) askHistories(ctx context.Context, conn *pgx.Conn, primary database.Endpoint, timeline uint32) (map[string][]byte, error) {
	rows, err := conn.Query(ctx, "SELECT name FROM pg_ls_dir('pg_wal') name WHERE name ~ '^[0-9A-F]{8}\\.history$'")
	if err != nil {
		return nil, fmt.Errorf("list the histories of the server on %s: %w", primary.Host, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list the histories of the server on %s: %w", primary.Host, err)
	}
	files := map[string][]byte{}
	main := &source{conn: conn}
	for _, name := range names {
		// What lies beyond the agreed timelines is none of ours: recovery would follow it.
		if n, err := strconv.ParseUint(strings.TrimSuffix(name, ".history"), 16, 32); err != nil || uint32(n) > timeline {
			continue
		}
		if files[name], err = main.read(ctx, path.Join("pg_wal", name), 0, 1<<20); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// awaitLog waits until the vault's log reaches what the slot on the primary keeps, and tells how far the primary has flushed:
// nothing beyond that is sure. Log that is written now needs a moment to be archived.
func (s *Server) awaitLog(ctx context.Context, from Replica, primary database.Endpoint, slot string, lead leader) (database.LSN, error) {
	for began := s.clock.Now(); ; {
		kept, flushed, err := s.keptFor(ctx, primary, slot)
		if err != nil {
			return 0, err
		}
		reach, err := from.Reach(ctx)
		if err != nil {
			return 0, err
		}
		// A stream begins with the segment that the log ends in.
		if segment := database.LSN(lead.segment); reach-reach%segment >= kept-kept%segment {
			return flushed, nil
		}
		if s.clock.Now().Sub(began) >= vaultReachWait {
			return 0, &problem.Problem{
				Code: "database.no-copy-in-vault", Subject: s.cfg.Database, Severity: problem.Degraded,
				Title:   fmt.Sprintf("the vault cannot give a copy: its log ends at %s, and the primary on %s keeps it from %s on", reach, primary.Host, kept),
				Meaning: "A standby made of it could not go on from there. The next source that copy_from names is asked; the database has one copy less meanwhile.",
				Remedy:  "see why the log is not archived: holdfast status, holdfast backup list " + s.cfg.Database,
			}
		}
		s.setProgress(fmt.Sprintf("waiting until the vault's log, now at %s, reaches %s", reach, kept))
		if err := pause(ctx, vaultReachPause); err != nil {
			return 0, err
		}
	}
}

// keptFor is where the log begins that the primary keeps for our slot, and how far it has flushed.
func (s *Server) keptFor(ctx context.Context, primary database.Endpoint, slot string) (kept, flushed database.LSN, err error) {
	conn, err := s.connectPeer(ctx, primary)
	if err != nil {
		return 0, 0, err
	}
	defer closeSession(conn)
	var begin, end *string
	err = conn.QueryRow(ctx, `SELECT (SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = $1 AND wal_status <> 'lost'),
 CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn()::text END`, slot).Scan(&begin, &end)
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("ask the server on %s what it keeps for us: %w", primary.Host, err)
	case end == nil:
		return 0, 0, fmt.Errorf("the server on %s is no primary: %w", primary.Host, database.ErrStale)
	case begin == nil:
		return 0, 0, fmt.Errorf("the server on %s has let go of the log that it kept for us", primary.Host)
	}
	if kept, err = database.ParseLSN(*begin); err != nil {
		return 0, 0, err
	}
	flushed, err = database.ParseLSN(*end)
	return kept, flushed, err
}

// moveSlotOn lets the primary's slot follow what the vault has, until ctx ends: a restore may last for hours.
func (s *Server) moveSlotOn(ctx context.Context, from Replica, primary database.Endpoint, slot string) {
	for pause(ctx, slotMoveEvery) == nil {
		at, err := from.Reach(ctx)
		if err == nil {
			err = s.advanceSlot(ctx, primary, slot, at)
		}
		if err != nil && ctx.Err() == nil { // it keeps more than it need
			s.log.Debug("slot of the copy not moved", "slot", slot, "primary", primary.Host, "err", err)
		}
	}
}

func (s *Server) advanceSlot(ctx context.Context, primary database.Endpoint, slot string, at database.LSN) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := s.connectPeer(ctx, primary)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	return advance(ctx, conn, slot, at)
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/pgcontrol"
)

// Recruit persists the promise, cuts the stream, waits until the receiver that used it has exited, and reads
// the position from the WAL.
func (s *Server) Recruit(ctx context.Context, epoch, generation int64) (database.Position, error) {
	s.op.Lock()
	defer s.op.Unlock()
	pos, err := s.recruit(ctx, epoch, generation)
	if err != nil {
		return database.Position{}, fmt.Errorf("recruit for epoch %d: %w", epoch, err)
	}
	return pos, nil
}

func (s *Server) recruit(ctx context.Context, epoch, generation int64) (database.Position, error) {
	if err := s.present("read the position"); err != nil {
		return database.Position{}, err
	}
	if p, _, err := s.readPromise(); err != nil {
		return database.Position{}, err
	} else if err := refuse(p, epoch, generation); err != nil {
		return database.Position{}, err
	}
	l := s.look(ctx)
	if !l.gone {
		primary, err := s.isPrimary(ctx)
		if err != nil {
			return database.Position{}, err
		}
		if primary {
			return database.Position{}, errors.New("it runs as a primary, which must be stopped first")
		}
	}
	p, err := s.swear(epoch, generation)
	if err != nil {
		return database.Position{}, err
	}
	if err := s.cut(ctx); err != nil {
		return database.Position{}, err
	}
	from := database.LSN(0)
	if !l.gone {
		from = s.replayed(ctx)
	}
	end, err := s.scan(from)
	if err != nil {
		return database.Position{}, err
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return database.Position{}, err
	}
	if err := walscan.Sync(s.at.wal(), c.SegSize, end.Read); err != nil {
		return database.Position{}, err
	}
	pos := database.Position{Epoch: epoch, Timeline: end.Timeline, LSN: database.LSN(end.LSN)}
	if p.Told < pos.LSN {
		p.Told = pos.LSN
		if err := s.writePromise(p); err != nil {
			return database.Position{}, err
		}
	}
	s.holds(p.Incarnation, pos.LSN)
	s.mu.Lock()
	s.now.position = pos
	s.mu.Unlock()
	s.log.Info("position read", "epoch", epoch, "timeline", pos.Timeline, "lsn", pos.LSN, "records", end.Records, "why", end.Why)
	return pos, nil
}

// scan finds the end of our log, from a position to which a record was replayed or (0) from where a recovery would begin.
// From a position it begins a little before: a standby's file holds what it had before behind the log's end, and a record
// there is as sound as any, but for the one that it names as the one before.
func (s *Server) scan(from database.LSN) (walscan.End, error) {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return walscan.End{}, err
	}
	tli, err := walscan.Newest(s.at.wal(), c.Timeline, c.SegSize)
	if err != nil {
		return walscan.End{}, err
	}
	in := walscan.Input{Dir: s.at.wal(), Start: walscan.LSN(c.Redo), Timeline: tli, SegSize: c.SegSize, SystemID: c.SystemID}
	if from > c.Redo {
		if end, ok, err := scanFrom(in, walscan.LSN(from)); err != nil || ok {
			return end, err
		}
	}
	end, err := walscan.Scan(in)
	if err == nil && end.Records == 0 {
		end, err = s.scanRewound(in, end)
	}
	switch {
	case err == nil && end.Records == 0:
		err = fmt.Errorf("read the position: the log does not begin at %s: %s", walscan.LSN(c.Redo), end.Why)
	case err == nil && database.LSN(end.LSN) < from:
		err = fmt.Errorf("read the position: the files end at %s, but %s was replayed: %s", end.LSN, from, end.Why)
	}
	return end, err
}

// scanRewound reads where no log begins at pg_control's checkpoint. pg_rewind copies pg_control last: when the source made a
// checkpoint meanwhile, it lies behind the end of the log that was copied before. Recovery begins where the label says, and gets
// the rest from the primary; without a label there is nothing else to go by.
func (s *Server) scanRewound(in walscan.Input, nothing walscan.End) (walscan.End, error) {
	text, err := os.ReadFile(filepath.Join(s.at.data, labelFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return nothing, fmt.Errorf("read where recovery begins: %w", err)
	}
	from, err := labelStart(string(text))
	if err != nil || walscan.LSN(from) >= in.Start {
		return nothing, err
	}
	in.Start = walscan.LSN(from)
	return walscan.Scan(in)
}

// scanFrom reads from just before a position; false = what lies there does not lead to it.
func scanFrom(in walscan.Input, at walscan.LSN) (end walscan.End, ok bool, err error) {
	start, err := walscan.Before(in, at)
	if err != nil || start < in.Start {
		return end, false, err
	}
	in.Start, in.Through = start, at
	end, err = walscan.Scan(in)
	return end, end.Through, err
}

// replayed is how far a running standby has replayed, and 0 when it cannot say.
func (s *Server) replayed(ctx context.Context) database.LSN {
	ctx, cancel := context.WithTimeout(ctx, observeWait)
	defer cancel()
	var text *string
	err := s.within(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_last_wal_replay_lsn()::text").Scan(&text)
	})
	if err != nil {
		return 0 // it is not ready for sessions; the scan begins further back
	}
	lsn, err := parseLSN(text)
	if err != nil {
		return 0
	}
	return lsn
}

// cut takes the stream away: its settings, its key, and every receiver that may still have either. A receiver
// that starts after the key is gone cannot log in, so only those that live right after that moment matter, and
// cut returns when each of them is gone.
func (s *Server) cut(ctx context.Context) error {
	d, err := readDynamic(s.at.data)
	if err != nil {
		d = closedDynamic() // unreadable: closed is always right for a standby
	}
	if err != nil || d.conninfo != "" { // else it is cut on the disk already; what follows makes sure of the server
		d.conninfo = ""
		if err := s.writeDynamic(s.at.data, d); err != nil {
			return err
		}
	}
	s.wrote(d)
	if err := s.removeStreamKeys(); err != nil {
		return err
	}
	p, err := s.postmaster()
	if err != nil || p.pid == 0 {
		return err
	}
	if err := s.signal(syscall.SIGHUP); err != nil {
		return err
	}
	receivers, err := s.receivers(ctx, p.pid)
	if err != nil {
		return err
	}
	for _, r := range receivers {
		if err := syscall.Kill(r.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end the receiver %d: %w", r.pid, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for _, r := range receivers {
		for r.lives() {
			if err := pause(ctx, 2*time.Millisecond); err != nil {
				return fmt.Errorf("await the end of the receiver %d: %w", r.pid, err)
			}
		}
	}
	return nil
}

// unknownWait is how long a child may take to show what it is. A client that connects and sends nothing never
// does; ending it harms nobody, and a receiver that has not got so far yet ends as well as a later one.
const unknownWait = 200 * time.Millisecond

// receivers lists the WAL receivers, once every child of the postmaster has shown what it is.
func (s *Server) receivers(ctx context.Context, pm int) ([]child, error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for begun := time.Now(); ; { // by the real clock, like the processes it waits for
		children, err := s.children(pm)
		if err != nil {
			return nil, err
		}
		unknown := 0
		var out []child
		for _, c := range children {
			switch {
			case !c.titled():
				unknown++
				if time.Since(begun) > unknownWait {
					if err := syscall.Kill(c.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
						return nil, fmt.Errorf("end process %d: %w", c.pid, err)
					}
				}
			case s.is(c, "walreceiver"):
				out = append(out, c)
			}
		}
		if unknown == 0 {
			return out, nil
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, fmt.Errorf("find the receivers among the postmaster's children: %w", err)
		}
	}
}

// wrote remembers which settings are in the file, to tell when a hand changed them.
func (s *Server) wrote(d dynamic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.written.only(d.names)
}

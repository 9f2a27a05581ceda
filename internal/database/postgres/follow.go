package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"holdfast/internal/database"
	"holdfast/internal/durable"
)

// Follow lets the standby stream from a confirmed primary under the name of epoch.
func (s *Server) Follow(ctx context.Context, from database.Endpoint, epoch int64) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.follow(ctx, from, epoch); err != nil {
		return fmt.Errorf("follow %s in epoch %d: %w", from.Host, epoch, err)
	}
	return nil
}

func (s *Server) follow(ctx context.Context, from database.Endpoint, epoch int64) error {
	if err := s.present("stream"); err != nil {
		return err
	}
	p, ok, err := s.readPromise()
	if err != nil {
		return err
	}
	incarnation, err := readIncarnation(s.at.data)
	if err != nil {
		return err
	}
	switch {
	case !ok || p.Incarnation != incarnation:
		return fmt.Errorf("the promise is not of the data that are here: %w", database.ErrStale)
	case p.Epoch > epoch:
		return fmt.Errorf("epoch %d is promised: %w", p.Epoch, database.ErrPromised)
	}
	if err := s.raise(p, epoch); err != nil {
		return err
	}
	if err := s.makePlace(); err != nil {
		return err
	}
	if err := s.copyCertificates(); err != nil {
		return err
	}
	key := s.streamKey(epoch)
	d := dynamic{
		names:    database.Closed().String(),
		conninfo: s.conninfo(from, database.StandbyName(incarnation, epoch), key),
	}
	l := s.look(ctx)
	if !l.gone {
		primary, err := s.isPrimary(ctx)
		if err != nil {
			return err
		}
		if primary {
			return errors.New("it runs as a primary")
		}
		pm, err := s.postmaster()
		if err != nil {
			return err
		}
		if hot, known := pm.hot(); known && !hot {
			// It was started to be promoted without showing anything before. A standby answers queries, and how
			// its stream goes is only learnt by asking.
			if err := s.stop(ctx); err != nil {
				return err
			}
			l = s.look(ctx)
		}
	}
	if now, err := readDynamic(s.at.data); err == nil && now.conninfo != "" && now.conninfo != d.conninfo {
		if err := s.cut(ctx); err != nil { // the stream of another epoch or primary ends for certain
			return err
		}
	}
	if err := s.makeStreamKey(epoch); err != nil {
		return err
	}
	if err := s.reserveSlot(ctx, from, slotOf(d.conninfo)); err != nil {
		return err
	}
	s.forgetPosition() // from here on the log grows
	if l.gone {
		if err := s.dropSlots(); err != nil {
			return err
		}
		return s.start(ctx, true, d)
	}
	if err := s.writeDynamic(s.at.data, d); err != nil {
		return err
	}
	s.wrote(d)
	return s.signal(syscall.SIGHUP)
}

// dropSlots removes the replication slots that a stopped server still has from its time as a primary. Nobody
// reads from them any more, and each would keep log until the disk is full; the new primary has its own. The archive's
// stays: what the vault lacks must not go with a restart, and it is moved or dropped as soon as the standby runs.
func (s *Server) dropSlots() error {
	dir := filepath.Join(s.at.data, "pg_replslot")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("drop the slots of a former primary: %w", err)
	}
	for _, e := range entries {
		if e.Name() == ArchiveSlot {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("drop the slots of a former primary: %w", err)
		}
	}
	return durable.SyncDir(dir)
}

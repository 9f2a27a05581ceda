package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// endReaders shuts clients out of a standby that is about to be promoted, and ends every session that they have:
// none may write before the listener leads here, and a session that began as a standby's would go on. It returns
// when none is left, those that were logging in included. A backend that was told to end starts no further
// transaction, and one that began in recovery stays read-only, so nothing is written meanwhile.
func (s *Server) endReaders(ctx context.Context) error {
	hba, err := os.ReadFile(filepath.Join(s.at.data, "pg_hba.conf"))
	if err != nil {
		return fmt.Errorf("read the access rules: %w", err)
	}
	inForce := false
	err = s.within(ctx, func(conn *pgx.Conn) error {
		// The time of a file is told in whole seconds.
		return conn.QueryRow(ctx, "SELECT pg_conf_load_time() > (pg_stat_file(current_setting('hba_file'))).modification + interval '1 second'").Scan(&inForce)
	})
	if nobody, failed := s.answersNobody(err); nobody {
		return nil
	} else if failed {
		return err
	}
	if admitsClients(hba) || !inForce { // a try before may have ended between the file and the reload
		if err := s.admit(ctx, false); err != nil {
			return err
		}
	}
	return s.within(ctx, func(conn *pgx.Conn) error {
		var since time.Time
		if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&since); err != nil {
			return err
		}
		return s.endSessions(ctx, conn, since, "sessions of clients", "backend_type = 'client backend' AND usename <> '"+Superuser+"'")
	})
}

// answersNobody reports whether err says that the server lets nobody in, so that no client can be there: it was
// started to show nothing, or it still replays towards a consistent state. failed = err is another one.
func (s *Server) answersNobody(err error) (nobody, failed bool) {
	if err == nil {
		return false, false
	}
	if pm, e := s.postmaster(); e == nil {
		if hot, known := pm.hot(); known && !hot {
			return true, true
		}
	}
	const cannotConnectNow = "57P03"
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == cannotConnectNow {
		return true, true
	}
	return false, true
}

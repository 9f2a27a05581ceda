package backup_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"holdfast/internal/backup"
	"holdfast/internal/pgdata"
)

// refused is how a base backup ends whose server lets nobody in.
func refused(t *testing.T) error {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed below
			}
			server := pgproto3.NewBackend(c, c)
			if _, err := server.ReceiveStartupMessage(); err == nil {
				server.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28000", Message: "no pg_hba.conf entry"})
				_ = server.Flush() // who has gone hears nothing
			}
			_ = c.Close() // it has its answer
		}
	}()
	defer func() {
		_ = l.Close() // ends the loop
		<-ended
	}()
	cfg, err := pgx.ParseConfig("host=" + dir + " port=5432 user=nobody dbname=none sslmode=disable connect_timeout=60")
	if err != nil {
		t.Fatal(err)
	}
	_, err = backup.Base(t.Context(), backup.BaseOptions{Conn: cfg, DataDir: directoryOf(t, pgdata.PageSize), Database: "orders"})
	if err == nil {
		t.Fatal("a server that lets nobody in was backed up")
	}
	return err
}

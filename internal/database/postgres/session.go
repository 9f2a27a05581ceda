package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"holdfast/internal/database"
)

// ourName marks Holdfast's own sessions. They commit under synchronous_commit=local: the driver must be able to
// work on a server that is closed.
const ourName = "holdfast"

// settle bounds what takes milliseconds on a server that is well.
const settle = 10 * time.Second

// connect opens a session with our own server over its private socket. The caller closes it.
func (s *Server) connect(ctx context.Context, dbname string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	c.Host, c.Port, c.Fallbacks = s.at.run, uint16(s.cfg.Port), nil
	c.Database = dbname
	conn, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open a session with our own server: %w", err)
	}
	return conn, nil
}

// connectPeer opens a session with a peer's server under this host's certificate.
func (s *Server) connectPeer(ctx context.Context, p database.Endpoint) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	if c.TLSConfig, err = s.peerTLS(p); err != nil {
		return nil, err
	}
	c.Host, c.Port, c.Fallbacks = p.Address, uint16(p.Port), nil
	c.Database, c.DialFunc = "postgres", dialPeer
	conn, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open a session with the server on %s: %w", p.Host, err)
	}
	return conn, nil
}

// peerDeadAfter is how long a peer's host may acknowledge nothing before a session with its server ends. The kernel alone waits a
// quarter of an hour, and a copy, a rewind or who wants to follow would wait with it (tcp(7), TCP_USER_TIMEOUT, TCP_KEEPIDLE).
const peerDeadAfter = 20 * time.Second

// dialPeer opens a connection whose kernel side notices a dead host, also while nothing is sent.
func dialPeer(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: peerDeadAfter / 4, Interval: peerDeadAfter / 4, Count: 3},
		Control: func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerDeadAfter.Milliseconds()))
			})
			return errors.Join(err, set)
		},
	}
	return d.DialContext(ctx, network, address)
}

func open(ctx context.Context, c *pgx.ConnConfig) (*pgx.Conn, error) {
	c.User, c.Password = Superuser, ""
	c.ConnectTimeout = 3 * time.Second
	c.RuntimeParams = map[string]string{"application_name": ourName, "synchronous_commit": "local", "search_path": "pg_catalog", readOnlySetting: "off"}
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	return pgx.ConnectConfig(ctx, c)
}

func closeSession(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // the server notices either way
}

// within runs f with a fresh session of our own server.
func (s *Server) within(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := s.connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer closeSession(conn)
	return f(conn)
}

// until repeats ask in fresh sessions until it says yes.
func (s *Server) until(ctx context.Context, what string, ask func(*pgx.Conn) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		yes := false
		err := s.within(ctx, func(conn *pgx.Conn) (err error) {
			yes, err = ask(conn)
			return err
		})
		if err == nil && yes {
			return nil
		}
		if waited := pause(ctx, 5*time.Millisecond); waited != nil {
			return fmt.Errorf("%s: %w", what, errors.Join(err, waited))
		}
	}
}

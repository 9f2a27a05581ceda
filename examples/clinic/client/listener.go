package client

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// rowsTable has no unique constraint on purpose: a row that was carried out twice must be seen.
const rowsTable = `CREATE TABLE IF NOT EXISTS load_rows (
	client text NOT NULL, number bigint NOT NULL, written_at timestamptz NOT NULL DEFAULT clock_timestamp())`

const warningKey = "clinic.client.warning"

// listenerConfig reads a connection string and sets what this client needs.
func listenerConfig(dsn string, dial Dial) (*pgx.ConnConfig, error) {
	pc, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("read the connection string: %w", err)
	}
	// An address that accepts may hold the session for a while, until there is a primary to lead it to.
	pc.ConnectTimeout = 3 * time.Second
	pc.DialFunc = bounded(dial)
	if pc.RuntimeParams["application_name"] == "" {
		pc.RuntimeParams["application_name"] = "clinicload"
	}
	pc.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			c.CustomData()[warningKey] = n.Message
		}
	}
	return pc, nil
}

// runListener commits one row after the other in one session until ctx ends, and opens the next session at
// the next address when one breaks. A number is never sent twice: what became of a failed one is not known.
func (c *Client) runListener(ctx context.Context) {
	var conn *pgx.Conn
	drop := func() {
		if conn == nil {
			return
		}
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
		_ = conn.Close(bye) // broken or done with: its goodbye does not matter
		cancel()
		conn = nil
	}
	defer drop()
	tick := time.NewTicker(time.Duration(float64(time.Second) / c.cfg.ListenerWrites))
	defer tick.Stop()
	address := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if conn == nil {
			var err error
			if conn, err = c.session(ctx, c.listeners[address%len(c.listeners)]); err != nil {
				conn = nil
				address++
				if ctx.Err() == nil {
					c.mu.Lock()
					c.failedConnects++
					c.mu.Unlock()
					c.cfg.Log.DebugContext(ctx, "listener not reached", "err", err)
				}
				continue
			}
		}
		if err := c.writeListener(ctx, conn); err != nil {
			drop()
			address++
		}
	}
}

// session opens one session and makes sure of the table.
func (c *Client) session(ctx context.Context, pc *pgx.ConnConfig) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, pc)
	if err != nil {
		return nil, err
	}
	var exists bool
	err = conn.QueryRow(ctx, `SELECT to_regclass('load_rows') IS NOT NULL`).Scan(&exists)
	if err == nil && !exists {
		_, err = conn.Exec(ctx, rowsTable)
	}
	if err != nil {
		_ = conn.Close(ctx) // the error that brought us here is the one to report
		return nil, fmt.Errorf("prepare the session: %w", err)
	}
	return conn, nil
}

// writeListener commits one row and records how that went. It is carried to its end when ctx ends meanwhile.
func (c *Client) writeListener(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Timeout)
	defer cancel()
	n := c.number(ListenerWrite)
	began := c.now()
	data := conn.PgConn().CustomData()
	delete(data, warningKey)
	_, err := conn.Exec(ctx, `INSERT INTO load_rows (client, number) VALUES ($1, $2)`, c.cfg.Client, n)
	if warning, warned := data[warningKey]; err == nil && warned {
		err = fmt.Errorf("%w: %v", errUnacknowledged, warning)
	}
	c.record(ListenerWrite, n, began, err)
	return err
}

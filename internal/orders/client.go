package orders

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Client asks Q and is answered A, over one socket. It connects when it is first used, and again after a failure;
// calls go one after another. Every order must be harmless when it is given twice.
type Client[Q, A any] struct {
	socket string

	mu   sync.Mutex // guards conn and in
	conn net.Conn
	in   *bufio.Reader
}

// callTimeout bounds a call whose ctx has no deadline.
const callTimeout = 5 * time.Second

// Dial makes a client. It does not wait for the other process: while that is away calls fail.
func Dial[Q, A any](socket string) *Client[Q, A] { return &Client[Q, A]{socket: socket} }

// Close ends the connection; a later call opens another.
func (c *Client[Q, A]) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drop()
}

func (c *Client[Q, A]) drop() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn, c.in = nil, nil
	return err
}

// Call gives one order and waits for its answer.
func (c *Client[Q, A]) Call(ctx context.Context, q Q) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	reused := c.conn != nil
	answer, err := c.exchange(ctx, q)
	if err != nil && reused && ctx.Err() == nil { // the other process was started anew since
		answer, err = c.exchange(ctx, q)
	}
	if err != nil {
		return answer, fmt.Errorf("ask on %s: %w", c.socket, err)
	}
	return answer, nil
}

// exchange sends one line and reads one. After any failure the connection is dropped, since an answer that is still
// under way would be taken for the next one's.
func (c *Client[Q, A]) exchange(ctx context.Context, q Q) (A, error) {
	var none A
	if c.conn == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", c.socket)
		if err != nil {
			return none, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // wakes a read that waits
	answer, err := talk[Q, A](conn, c.in, q)
	if !stop() && err == nil { // the deadline may strike the connection later on
		return answer, c.drop()
	}
	if err != nil {
		return none, errors.Join(err, ctx.Err(), c.drop())
	}
	return answer, nil
}

func talk[Q, A any](conn net.Conn, in *bufio.Reader, q Q) (A, error) {
	var answer A
	line, err := json.Marshal(q)
	if err != nil {
		return answer, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return answer, err
	}
	back, err := in.ReadBytes('\n')
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(back, &answer); err != nil {
		return answer, fmt.Errorf("read the answer: %w", err)
	}
	return answer, nil
}

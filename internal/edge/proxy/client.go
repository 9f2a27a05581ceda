package proxy

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

// Client gives snapshots to the edge behind one control socket. It connects when it is first used, and again
// after a failure; calls go one after another.
type Client struct {
	socket string

	mu   sync.Mutex // guards conn and in
	conn net.Conn
	in   *bufio.Reader
}

// callTimeout bounds a call whose ctx has no deadline.
const callTimeout = 5 * time.Second

// Dial makes a client. It does not wait for the edge: an edge that is away makes calls fail, until it is back.
func Dial(socket string) *Client { return &Client{socket: socket} }

// Close ends the connection; a later call opens another.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drop()
}

func (c *Client) drop() error {
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn, c.in = nil, nil
	return err
}

// Apply has the edge serve s. A *StaleError says that it serves a later revision. Repeating is harmless. The
// status that comes back names what could not be done at once.
func (c *Client) Apply(ctx context.Context, s Snapshot) (Status, error) {
	return c.call(ctx, request{Members: &s})
}

// Status asks how the edge is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return c.call(ctx, request{Status: true})
}

func (c *Client) call(ctx context.Context, r request) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	reused := c.conn != nil
	answer, err := c.exchange(ctx, r)
	if err != nil && reused && ctx.Err() == nil { // the edge was restarted since: every request may be repeated
		answer, err = c.exchange(ctx, r)
	}
	if err != nil {
		return Status{}, fmt.Errorf("ask the edge on %s: %w", c.socket, err)
	}
	var s Status
	if answer.Status != nil {
		s = *answer.Status
	}
	switch {
	case answer.OK:
		return s, nil
	case answer.Stale != nil:
		return s, answer.Stale
	}
	return s, errors.New(answer.Error)
}

// exchange sends one line and reads one. After any failure the connection is dropped, since an answer that
// is still under way would be taken for the next one's.
func (c *Client) exchange(ctx context.Context, r request) (response, error) {
	if c.conn == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", c.socket)
		if err != nil {
			return response{}, err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // wakes a read that waits
	answer, err := talk(conn, c.in, r)
	if !stop() && err == nil { // the deadline may strike the connection later on
		return answer, c.drop()
	}
	if err != nil {
		return response{}, errors.Join(err, ctx.Err(), c.drop())
	}
	return answer, nil
}

func talk(conn net.Conn, in *bufio.Reader, r request) (response, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return response{}, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return response{}, err
	}
	back, err := in.ReadBytes('\n')
	if err != nil {
		return response{}, err
	}
	var answer response
	if err := json.Unmarshal(back, &answer); err != nil {
		return response{}, fmt.Errorf("read the answer: %w", err)
	}
	return answer, nil
}

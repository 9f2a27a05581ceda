package proxy

import (
	"context"
	"errors"
	"fmt"

	"holdfast/internal/orders"
)

// Client gives snapshots to the edge behind one control socket. It connects when it is first used, and again
// after a failure; calls go one after another.
type Client struct {
	orders *orders.Client[request, response]
}

// Dial makes a client. It does not wait for the edge: an edge that is away makes calls fail, until it is back.
func Dial(socket string) *Client { return &Client{orders: orders.Dial[request, response](socket)} }

// Close ends the connection; a later call opens another.
func (c *Client) Close() error { return c.orders.Close() }

// Apply has the edge serve s. A *StaleError says that it serves a later revision. Repeating is harmless. The
// status that comes back names what could not be done at once.
func (c *Client) Apply(ctx context.Context, s Snapshot) (Status, error) {
	return c.call(ctx, request{Members: &s})
}

// SetAlone has the edge refuse what this host cannot answer while it is cut off.
func (c *Client) SetAlone(ctx context.Context, a Alone) (Status, error) {
	return c.call(ctx, request{Alone: &a})
}

// Status asks how the edge is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return c.call(ctx, request{Status: true})
}

func (c *Client) call(ctx context.Context, r request) (Status, error) {
	answer, err := c.orders.Call(ctx, r)
	if err != nil {
		return Status{}, fmt.Errorf("order the edge: %w", err)
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

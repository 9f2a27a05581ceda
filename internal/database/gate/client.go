package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/event"
	"holdfast/internal/orders"
)

// Client gives orders to the gate behind one control socket. It connects when it is first used, and again
// after a failure; calls go one after another.
type Client struct {
	orders *orders.Client[request, response]
}

// Dial makes a client. It does not wait for the gate: a gate that is away makes calls fail, until it is back.
func Dial(socket string) *Client { return &Client{orders: orders.Dial[request, response](socket)} }

// Close ends the connection; a later call opens another.
func (c *Client) Close() error { return c.orders.Close() }

// Order has the gate take o. A *StaleError says that it knows a higher epoch or generation. Repeating an
// order is harmless.
func (c *Client) Order(ctx context.Context, o Order) (Status, error) {
	return c.call(ctx, request{Order: &o})
}

// Read has the gate lead readers by o. A *StaleError says that it knows a higher epoch.
func (c *Client) Read(ctx context.Context, o ReadOrder) (Status, error) {
	return c.call(ctx, request{Read: &o})
}

// Cut has every connection of epoch reset and the gate shut; 0 means whatever epoch it is in.
func (c *Client) Cut(ctx context.Context, epoch uint64, reason string) (Status, error) {
	return c.call(ctx, request{Cut: true, Epoch: epoch, Reason: reason})
}

// Extend tells the gate how long the keeper's deadline is away; 0 takes the gate's own deadline away.
func (c *Client) Extend(ctx context.Context, epoch uint64, remaining time.Duration) (Status, error) {
	return c.call(ctx, request{Extend: &extension{Epoch: epoch, Remaining: event.Duration(remaining)}})
}

// Reread has the gate serve by another spec. [ErrFixed] says that it takes another process; any other error left
// everything as it was.
func (c *Client) Reread(ctx context.Context, s Spec) (Status, error) {
	return c.call(ctx, request{Reread: &s})
}

// Status asks how the gate is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return c.call(ctx, request{Status: true})
}

func (c *Client) call(ctx context.Context, r request) (Status, error) {
	answer, err := c.orders.Call(ctx, r)
	if err != nil {
		return Status{}, fmt.Errorf("order the gate: %w", err)
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
	case answer.Fixed:
		return s, fmt.Errorf("%s: %w", answer.Error, ErrFixed)
	}
	return s, errors.New(answer.Error)
}

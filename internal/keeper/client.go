package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Client gives orders to one life's keeper. It holds no connection, may be used from several goroutines, and
// needs no closing. Every method ends with ctx; a keeper that does not answer is unknown, not gone.
type Client struct {
	dir  string
	life string
}

// Dir is the keeper's directory.
func (c *Client) Dir() string { return c.dir }

// Life is the random id of the life that this client talks to.
func (c *Client) Life() string { return c.life }

// Status asks for the present state. ErrGone: no keeper answers there, look again with Find.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r, err := c.ask(ctx, request{Op: "status"})
	if err != nil {
		return Status{}, err
	}
	if r.Status == nil || r.Status.Life != c.life {
		return Status{}, fmt.Errorf("ask the keeper of %s: another life answers: %w", c.dir, ErrGone)
	}
	return *r.Status, nil
}

// Stop asks the child to end, kills the tree after grace, and returns when nothing of it is left and the
// directory is free. The order stands even when ctx ends first.
func (c *Client) Stop(ctx context.Context, grace time.Duration) (Exit, error) {
	return c.finish(ctx, request{Op: "stop", Grace: grace})
}

// Kill kills the whole tree at once and returns when nothing of it is left and the directory is free.
func (c *Client) Kill(ctx context.Context) (Exit, error) {
	return c.finish(ctx, request{Op: "kill"})
}

// Signal sends one signal to the child itself, not to what it started. ErrEnding: it has ended.
func (c *Client) Signal(ctx context.Context, sig syscall.Signal) error {
	_, err := c.ask(ctx, request{Op: "signal", Signal: sig})
	return err
}

// Extend moves the fence deadline to d after sentAt, which is when the request was sent whose answer allows
// the extension: an answer that took long has used up part of d already. It never shortens. ErrEpoch: a higher
// epoch was seen; ErrFenced: too late; ErrNoFence: the spec has no fence.
func (c *Client) Extend(ctx context.Context, epoch int64, sentAt time.Time, d time.Duration) error {
	until := bootClock() + d - time.Since(sentAt)
	_, err := c.ask(ctx, request{Op: "extend", Epoch: epoch, Until: until})
	return err
}

// Freeze stops the whole tree; Thaw lets it go on. A frozen tree still meets its deadline.
func (c *Client) Freeze(ctx context.Context) error {
	_, err := c.ask(ctx, request{Op: "freeze"})
	return err
}

// Thaw undoes Freeze.
func (c *Client) Thaw(ctx context.Context) error {
	_, err := c.ask(ctx, request{Op: "thaw"})
	return err
}

// Watch tells of the exit as soon as the keeper does: an Exit with TreeGone false when the child ended and
// others of its tree may live (left out when there were none, or the watch began later), then one with TreeGone
// true; or one with KeeperLost when the keeper itself died. Then, or when ctx ends, the channel is closed; it need
// not be read to the end.
func (c *Client) Watch(ctx context.Context) <-chan Exit {
	out := make(chan Exit, 2) // room for all there can be
	go func() {               // ends with ctx or the keeper; the closed channel says so
		defer close(out)
		c.follow(ctx, out)
	}()
	return out
}

// follow watches until the last Exit. A stream that ends before it means little by itself: the keeper may be on
// its way out, or may have refused one connection too many. Only a free lock says that it is gone.
func (c *Client) follow(ctx context.Context, out chan<- Exit) {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for told := false; ; {
		e, ok := c.watch(ctx, func(e Exit) {
			if !told {
				told = true
				out <- e
			}
		})
		if ctx.Err() != nil {
			return
		}
		if ok {
			out <- e
			return
		}
		held, err := lockHeld(c.dir)
		if r, rerr := readRecord(c.dir); err != nil || rerr != nil || !held || r == nil || r.Life != c.life {
			out <- c.aftermath()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// watch follows one stream. It calls early for an exit whose tree still lives, and returns the last Exit; ok
// false means that the stream ended before that.
func (c *Client) watch(ctx context.Context, early func(Exit)) (last Exit, ok bool) {
	conn, err := dial(ctx, c.dir)
	if err != nil {
		return Exit{}, false
	}
	defer c.hold(ctx, conn)()
	if err := writeRequest(conn, request{Op: "watch"}); err != nil {
		return Exit{}, false
	}
	dec := json.NewDecoder(conn)
	for {
		var r reply
		if err := dec.Decode(&r); err != nil || r.Exit == nil || r.Exit.Life != c.life {
			return Exit{}, false
		}
		if r.Exit.TreeGone {
			return *r.Exit, true
		}
		early(*r.Exit)
	}
}

// aftermath is how this life ended when its keeper speaks no more.
func (c *Client) aftermath() Exit {
	if e, err := readExit(c.dir); err == nil && e != nil && e.Life == c.life {
		return *e
	}
	lost := Exit{Life: c.life, Code: -1, KeeperLost: true, Reason: "the keeper died without a report", Ended: time.Now(), EndedMono: bootClock()}
	if r, err := readRecord(c.dir); err == nil && r != nil && r.Life == c.life {
		lost.Name, lost.KeeperPID, lost.PID = r.Name, r.Keeper.PID, r.Child.PID
		lost.Started, lost.StartedMono = r.Started, r.StartedMon
	}
	return lost
}

// finish gives an order that ends the life, and waits until the keeper has left its directory.
func (c *Client) finish(ctx context.Context, q request) (Exit, error) {
	r, err := c.ask(ctx, q)
	var exit Exit
	switch {
	case err == nil && r.Exit != nil && r.Exit.Life == c.life:
		exit = *r.Exit
	case err == nil:
		return Exit{}, fmt.Errorf("%s %s: another life answers: %w", q.Op, c.dir, ErrGone)
	case errors.Is(err, ErrGone) || errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET):
		// On its way out, or dead: once it holds its directory no more, its report says which.
		if err := waitFree(ctx, c.dir); err != nil {
			return Exit{}, fmt.Errorf("%s %s: %w", q.Op, c.dir, err)
		}
		if exit = c.aftermath(); exit.KeeperLost {
			return exit, fmt.Errorf("%s %s: %w", q.Op, c.dir, ErrLost)
		}
	default:
		return Exit{}, fmt.Errorf("%s %s: %w", q.Op, c.dir, err)
	}
	return exit, waitFree(ctx, c.dir)
}

// waitFree waits until no keeper holds dir.
func waitFree(ctx context.Context, dir string) error {
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		held, err := lockHeld(dir)
		if err != nil || !held {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until the keeper of %s has left: %w", dir, ctx.Err())
		case <-t.C:
		}
	}
}

// ask sends one request and reads its answer.
func (c *Client) ask(ctx context.Context, q request) (reply, error) {
	conn, err := dial(ctx, c.dir)
	if err != nil {
		return reply{}, err
	}
	defer c.hold(ctx, conn)()
	if err := writeRequest(conn, q); err != nil {
		return reply{}, c.worded(ctx, q, err)
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return reply{}, c.worded(ctx, q, err)
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return reply{}, fmt.Errorf("ask the keeper of %s for %s: %w", c.dir, q.Op, err)
	}
	if err := r.err(); err != nil {
		return r, fmt.Errorf("ask the keeper of %s for %s: %w", c.dir, q.Op, err)
	}
	return r, nil
}

func writeRequest(conn net.Conn, q request) error {
	data, err := json.Marshal(q)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(data, '\n'))
	return err
}

// worded gives ctx's end as the cause where it was one.
func (c *Client) worded(ctx context.Context, q request, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("ask the keeper of %s for %s: %w", c.dir, q.Op, err)
}

// hold ties conn to ctx; the returned function lets go and closes it.
func (c *Client) hold(ctx context.Context, conn net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // closing only ends the wait
	return func() {
		stop()
		_ = conn.Close() // the answer is in, or will not come
	}
}

package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// One line of JSON asks, one line of JSON answers; `watch` answers with a line for each Exit. A connection may
// ask again.

type request struct {
	Op     string         `json:"op"` // status, stop, kill, signal, extend, freeze, thaw, watch
	Grace  time.Duration  `json:"grace,omitempty"`
	Signal syscall.Signal `json:"signal,omitempty"`
	Epoch  int64          `json:"epoch,omitempty"`
	Until  time.Duration  `json:"until,omitempty"` // reading of bootClock
}

type reply struct {
	Error  string  `json:"error,omitempty"`
	Code   string  `json:"code,omitempty"` // key of wireErrors
	Status *Status `json:"status,omitempty"`
	Exit   *Exit   `json:"exit,omitempty"`
}

// wireErrors are the sentinels that cross the socket.
func wireErrors() map[string]error {
	return map[string]error{"epoch": ErrEpoch, "fenced": ErrFenced, "no-fence": ErrNoFence, "ending": ErrEnding}
}

func refuse(err error) reply {
	for code, sentinel := range wireErrors() {
		if errors.Is(err, sentinel) {
			return reply{Error: err.Error(), Code: code}
		}
	}
	return reply{Error: err.Error()}
}

// remoteError is what a keeper answered; it is the sentinel that it names.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

func (r reply) err() error {
	if r.Error == "" {
		return nil
	}
	return &remoteError{text: r.Error, is: wireErrors()[r.Code]}
}

// socketPathMax is what fits into sockaddr_un with its closing zero (unix(7)).
const socketPathMax = 107

// withSocketPath calls use with a path to dir's socket that fits into a socket address. A long one is reached
// through a descriptor of the directory, so the socket always lies in its own private directory.
func withSocketPath(dir string, use func(path string) error) error {
	path := filepath.Join(dir, socketName)
	if len(path) <= socketPathMax {
		return use(path)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer func() { _ = unix.Close(fd) }() // O_PATH: nothing to lose
	return use("/proc/self/fd/" + strconv.Itoa(fd) + "/" + socketName)
}

// listen makes the socket, mode 0600. The caller holds the lock, so an old socket belongs to nobody.
func listen(dir string) (*net.UnixListener, error) {
	if err := os.Remove(filepath.Join(dir, socketName)); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	mask := unix.Umask(0o177)
	defer unix.Umask(mask)
	var l *net.UnixListener
	err := withSocketPath(dir, func(path string) error {
		var err error
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false) // the path may lead through a descriptor that is closed by then
	return l, nil
}

// dial gives ErrGone when nobody listens.
func dial(ctx context.Context, dir string) (net.Conn, error) {
	var c net.Conn
	err := withSocketPath(dir, func(path string) error {
		var d net.Dialer
		var err error
		c, err = d.DialContext(ctx, "unix", path)
		return err
	})
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("reach the keeper of %s: %w", dir, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("reach the keeper of %s: %w", dir, err)
	}
	return c, nil
}

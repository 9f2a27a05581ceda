package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// bodyMax bounds what is read of an answer; only its status matters.
const bodyMax = 64 << 10

func (t Target) hostPort() string { return net.JoinHostPort(t.Address, strconv.Itoa(t.Port)) }

// checkHTTP wants a status from 200 to 399. Each check is a connection of its own: one kept open would not
// notice that nobody accepts new ones.
func checkHTTP(ctx context.Context, t Target, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.hostPort()+path, nil)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	req.Header.Set("User-Agent", "holdfast-check")
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req) // a transport follows no redirects
	if err != nil {
		return fmt.Errorf("ask for %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }() // the status is in
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, bodyMax)); err != nil {
		return fmt.Errorf("read the answer to %s: %w", path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return nil
}

func checkTCP(ctx context.Context, t Target) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", t.hostPort())
	if err != nil {
		return err
	}
	_ = c.Close() // it accepted, which was the question
	return nil
}

// checkExec wants exit status 0. Output is not kept, for it may hold secrets. At the timeout the whole process
// group is killed.
func checkExec(ctx context.Context, t Target, argv []string) error {
	if len(argv) == 0 {
		return errors.New("run the check: argv is empty")
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = append([]string{}, t.Env...), t.WorkDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if t.UID != 0 || t.GID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(t.UID), Gid: uint32(t.GID)}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/api"
	"holdfast/internal/database"
	"holdfast/internal/local"
)

const holdfastPlan = `application: failover
sites:
  here:
    hosts:
      h1: { address: %[1]s.1, fault_domain: rack-1 }
      h2: { address: %[1]s.2, fault_domain: rack-2 }
      h3: { address: %[1]s.3, fault_domain: rack-3 }
databases:
  records:
    postgres: 15
    standbys: 2
    acknowledged_by: 1
    listen: { write: 5432 }
    roles:
      clinic: { password: "file:${root}/secrets/clinic.password", owns: [clinic] }
`

// holdfast is one plan of three hosts on this machine, as `holdfast up` runs it.
type holdfast struct {
	program string
	dir     string
	root    string
	network string
	hosts   []string

	running *child
	conns   []*pgx.ConnConfig
}

func newHoldfast(program, dir, network string) *holdfast {
	return &holdfast{program: program, dir: dir, root: filepath.Join(dir, "root"), network: network, hosts: []string{"h1", "h2", "h3"}}
}

func (h *holdfast) name() string               { return "holdfast" }
func (h *holdfast) phase() time.Duration       { return time.Second } // nothing in it takes turns more slowly
func (h *holdfast) targets() []*pgx.ConnConfig { return h.conns }

func (h *holdfast) up(ctx context.Context) error {
	if err := os.RemoveAll(h.dir); err != nil {
		return fmt.Errorf("remove what was there: %w", err)
	}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return fmt.Errorf("make its directory: %w", err)
	}
	plan := filepath.Join(h.dir, "holdfast.yaml")
	if err := os.WriteFile(plan, fmt.Appendf(nil, holdfastPlan, h.network), 0o644); err != nil {
		return fmt.Errorf("write the plan: %w", err)
	}
	var err error
	if h.running, err = start(filepath.Join(h.dir, "up.log"), nil, h.dir, h.program, "up", "--root", h.root, plan); err != nil {
		return err
	}
	err = await(ctx, upMax, look, func() error {
		select {
		case <-h.running.done:
			return fmt.Errorf("it ended: %v; its words are in %s", h.running.err, filepath.Join(h.dir, "up.log"))
		default:
		}
		return h.redundant(ctx, "0/0")
	})
	if err != nil {
		return err
	}
	return h.address()
}

// address reads what clients need: every host has a listener, and any of them leads to the primary.
func (h *holdfast) address() error {
	password, err := os.ReadFile(filepath.Join(h.root, "secrets", "clinic.password"))
	if err != nil {
		return fmt.Errorf("read the client's password: %w", err)
	}
	h.conns = nil
	for i := range h.hosts {
		u := url.URL{
			Scheme: "postgres", User: url.UserPassword("clinic", strings.TrimSpace(string(password))), Path: "/clinic",
			Host:     fmt.Sprintf("%s.%d:5432", h.network, i+1),
			RawQuery: url.Values{"sslmode": {"verify-ca"}, "sslrootcert": {filepath.Join(h.root, "ca", "ca.crt")}}.Encode(),
		}
		pc, err := target(u.String())
		if err != nil {
			return err
		}
		h.conns = append(h.conns, pc)
	}
	return nil
}

// downMax is how long a good end may take, checkpoints included.
const downMax = time.Minute

func (h *holdfast) down() error {
	if h.running == nil {
		return nil
	}
	var errs []error
	for _, host := range h.hosts {
		if err := os.Remove(local.HoldFile(h.root, host)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := h.running.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	errs = append(errs, h.running.wait(downMax), killAll(h.mine))
	h.running = nil
	return errors.Join(errs...)
}

func (h *holdfast) mine(line []byte, cwd string) bool {
	return below(filepath.Join(h.root, "hosts"))(line, cwd) || bytes.Contains(line, []byte("\x00"+h.root+"\x00"))
}

// of matches every process of one host: those below its directory, and its agent.
func (h *holdfast) of(host string) func([]byte, string) bool {
	inside := below(local.HostDir(h.root, host))
	return func(line []byte, cwd string) bool {
		agent := bytes.Contains(line, []byte("--host\x00"+host+"\x00")) && bytes.Contains(line, []byte(h.root+"\x00"))
		return agent || inside(line, cwd)
	}
}

func (h *holdfast) strike(ctx context.Context, f fault) (func() error, error) {
	if f == switchover {
		out, err := h.command(ctx, "database", "switchover", "records", "--yes", "--root", h.root)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		return nil, nil
	}
	d, err := h.status(ctx)
	if err != nil {
		return nil, err
	}
	if f == crash {
		return nil, killPostmaster(filepath.Join(local.HostDir(h.root, d.Primary), "db", "records", "pgdata"))
	}
	lost := d.Primary
	if f == standbyLoss {
		i := slices.IndexFunc(d.Servers, func(s api.ServerStatus) bool { return s.Role == "standby" && s.Counts })
		if i < 0 {
			return nil, fmt.Errorf("find a standby that acknowledges: %+v", d.Servers)
		}
		lost = d.Servers[i].Host
	}
	hold := local.HoldFile(h.root, lost)
	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		return nil, fmt.Errorf("keep the host from coming back: %w", err)
	}
	return func() error { return os.Remove(hold) }, killAll(h.of(lost))
}

func (h *holdfast) redundant(ctx context.Context, lsn string) error {
	need, err := database.ParseLSN(lsn)
	if err != nil {
		return err
	}
	d, err := h.status(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, s := range d.Servers {
		if s.Role != "standby" || s.State != "streams" || !s.Counts {
			continue
		}
		if at, err := database.ParseLSN(s.LSN); err == nil && at >= need {
			n++
		}
	}
	if !d.Open || n < 2 {
		return fmt.Errorf("open %t, %d standbys up to date: %+v", d.Open, n, d.Servers)
	}
	return nil
}

func (h *holdfast) status(ctx context.Context) (api.DatabaseStatus, error) {
	var st api.Status
	out, err := h.command(ctx, "status", "--output", "json", "--root", h.root)
	if err == nil {
		err = json.Unmarshal(out, &st)
	}
	if err != nil {
		return api.DatabaseStatus{}, fmt.Errorf("ask for the status: %w: %s", err, out)
	}
	if len(st.Databases) != 1 {
		return api.DatabaseStatus{}, fmt.Errorf("ask for the status: %d databases", len(st.Databases))
	}
	return st.Databases[0], nil
}

// command returns what a command printed; when it fails, its complaints as well.
func (h *holdfast) command(ctx context.Context, args ...string) ([]byte, error) {
	var out, words bytes.Buffer
	cmd := exec.CommandContext(ctx, h.program, args...)
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return append(out.Bytes(), words.Bytes()...), err
	}
	return out.Bytes(), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/bench/machine"
)

// profile is how Patroni and the HAProxy before it are set.
type profile struct {
	name                    string
	lifetime, loop, retry   int    // seconds: ttl, loop_wait, retry_timeout
	server, connect, answer string // HAProxy: how servers are checked, and its limits
}

// profiles are Patroni's own defaults, and the quickest settings that its newer versions still accept. HAProxy checks
// more often than in the file that Patroni ships (inter 3s), which is to the peer's good.
var profiles = []profile{
	{"tuned", 20, 1, 3, "inter 1s fall 2 rise 1", "1s", "1s"},
	{"default", 30, 10, 10, "inter 2s fall 3 rise 2", "4s", "5s"},
}

const (
	peerBin  = "/usr/lib/postgresql/15/bin"
	peerUser = "postgres"
)

// peerInstalled returns nil when all that a Patroni cluster runs is there.
func peerInstalled() error {
	var errs []error
	for _, program := range []string{"patroni", "patronictl", "etcd", "haproxy", peerBin + "/postgres"} {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := user.Lookup(peerUser); err != nil {
		errs = append(errs, err)
	}
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("its servers run as user postgres, which only root may start"))
	}
	return errors.Join(errs...)
}

// patroni is a cluster of three hosts, each an etcd member, a Patroni and its server, and one HAProxy on an address of
// its own, which no fault befalls.
type patroni struct {
	profile profile
	dir     string
	network string
	conns   []*pgx.ConnConfig

	children map[string]*child // by name; only the latest of each
}

func newPatroni(p profile, dir, network string) *patroni {
	return &patroni{profile: p, dir: dir, network: network, children: map[string]*child{}}
}

func (p *patroni) name() string               { return "patroni-" + p.profile.name }
func (p *patroni) phase() time.Duration       { return time.Duration(p.profile.loop) * time.Second }
func (p *patroni) targets() []*pgx.ConnConfig { return p.conns }

func (p *patroni) address(host int) string { return fmt.Sprintf("%s.%d", p.network, host) }
func (p *patroni) hostDir(host int) string { return filepath.Join(p.dir, fmt.Sprintf("h%d", host)) }

// hosts are the numbers of a cluster's hosts; the balancer is none of them.
var hosts = []int{1, 2, 3}

const balancer = 9

func (p *patroni) up(ctx context.Context) error {
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("remove what was there: %w", err)
	}
	for _, h := range hosts {
		if err := p.layOut(h); err != nil {
			return err
		}
		if err := p.startMember(h, "new"); err != nil {
			return err
		}
	}
	if err := p.startBalancer(); err != nil {
		return err
	}
	for _, h := range hosts {
		if err := p.startPatroni(h); err != nil {
			return err
		}
	}
	pc, err := target(fmt.Sprintf("postgres://postgres:x@%s:5000/postgres?sslmode=disable", p.address(balancer)))
	if err != nil {
		return err
	}
	p.conns = []*pgx.ConnConfig{pc}
	return await(ctx, upMax, look, func() error { return p.redundant(ctx, "0/0") })
}

const patroniFile = `scope: failover
name: h%[1]d
restapi: { listen: "%[2]s:8008", connect_address: "%[2]s:8008" }
etcd3: { hosts: "%[3]s" }
bootstrap:
  dcs:
    ttl: %[4]d
    loop_wait: %[5]d
    retry_timeout: %[6]d
    maximum_lag_on_failover: 1048576
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: { max_connections: 100, wal_keep_size: 256MB }
  initdb: [ { encoding: UTF8 }, data-checksums ]
  pg_hba:
    - local all all trust
    - host all all 127.0.0.0/8 trust
    - host replication all 127.0.0.0/8 trust
postgresql:
  listen: "%[2]s:5432"
  connect_address: "%[2]s:5432"
  data_dir: %[7]s/pgdata
  bin_dir: %[8]s
  pgpass: %[7]s/pgpass
  authentication:
    replication: { username: replicator, password: x }
    superuser: { username: postgres, password: x }
    rewind: { username: rewinder, password: x }
  parameters: { unix_socket_directories: "%[7]s" }
watchdog: { mode: "off" }
`

// layOut makes one host's directory, which belongs to the servers' user, and its settings.
func (p *patroni) layOut(h int) error {
	dir := p.hostDir(h)
	cred, err := machine.User(peerUser)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.Chown(dir, int(cred.Uid), int(cred.Gid))
	}
	if err != nil {
		return fmt.Errorf("make the directory of host %d: %w", h, err)
	}
	var members []string
	for _, other := range hosts {
		members = append(members, p.address(other)+":2379")
	}
	text := fmt.Appendf(nil, patroniFile, h, p.address(h), strings.Join(members, ","), p.profile.lifetime, p.profile.loop, p.profile.retry, dir, peerBin)
	if err := os.WriteFile(p.settings(h), text, 0o644); err != nil {
		return fmt.Errorf("write the settings of host %d: %w", h, err)
	}
	return nil
}

func (p *patroni) settings(h int) string { return filepath.Join(p.hostDir(h), "patroni.yml") }

// start runs one program of the cluster.
func (p *patroni) start(name string, cred *syscall.Credential, dir string, argv ...string) error {
	c, err := start(filepath.Join(p.dir, name+".log"), cred, dir, argv...)
	if err != nil {
		return err
	}
	p.children[name] = c
	return nil
}

func (p *patroni) startMember(h int, state string) error {
	var cluster []string
	for _, other := range hosts {
		cluster = append(cluster, fmt.Sprintf("e%d=http://%s:2380", other, p.address(other)))
	}
	peer, clients := fmt.Sprintf("http://%s:2380", p.address(h)), fmt.Sprintf("http://%s:2379", p.address(h))
	return p.start(fmt.Sprintf("etcd%d", h), nil, p.hostDir(h), "etcd", "--name", fmt.Sprintf("e%d", h), "--data-dir", filepath.Join(p.hostDir(h), "etcd"),
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--listen-client-urls", clients, "--advertise-client-urls", clients,
		"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", state, "--log-level", "warn")
}

func (p *patroni) startPatroni(h int) error {
	cred, err := machine.User(peerUser)
	if err != nil {
		return err
	}
	return p.start(fmt.Sprintf("patroni%d", h), cred, p.hostDir(h), "patroni", p.settings(h))
}

func (p *patroni) startBalancer() error {
	var servers strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&servers, "    server h%d %s:5432 maxconn 100 check port 8008\n", h, p.address(h))
	}
	text := fmt.Appendf(nil, `global
    maxconn 200
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout server 30m
    timeout connect %s
    timeout check %s
listen primary
    bind %s:5000
    option httpchk GET /primary
    http-check expect status 200
    default-server %s on-marked-down shutdown-sessions
%s`, p.profile.connect, p.profile.answer, p.address(balancer), p.profile.server, servers.String())
	file := filepath.Join(p.dir, "haproxy.cfg")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("write the balancer's settings: %w", err)
	}
	return p.start("haproxy", nil, p.dir, "haproxy", "-db", "-f", file)
}

// down ends everything at once: nothing of it is used again.
func (p *patroni) down() error {
	errs := []error{killAll(below(p.dir))}
	for _, c := range p.children {
		errs = append(errs, c.wait(downMax))
	}
	clear(p.children)
	return errors.Join(errs...)
}

func (p *patroni) strike(ctx context.Context, f fault) (func() error, error) {
	primary, synchronous, err := p.roles(ctx)
	if err != nil {
		return nil, err
	}
	switch f {
	case crash:
		return nil, killPostmaster(filepath.Join(p.hostDir(primary), "pgdata"))
	case hostLoss, standbyLoss:
		lost := primary
		if f == standbyLoss {
			if _, err := fmt.Sscanf(synchronous, "h%d", &lost); err != nil {
				return nil, fmt.Errorf("find the host of %s: %w", synchronous, err)
			}
		}
		return func() error { return errors.Join(p.startMember(lost, "existing"), p.startPatroni(lost)) }, killAll(below(p.hostDir(lost)))
	default:
		cmd := exec.CommandContext(ctx, "patronictl", "-c", p.settings(primary), "switchover", "--force", "--candidate", synchronous)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8") // its library refuses to run in the locale C
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		if !strings.Contains(string(out), "Successfully") {
			return nil, fmt.Errorf("patronictl did not switch over: %s", out)
		}
		return nil, nil
	}
}

// roles finds the primary's host and the name of the synchronous standby.
func (p *patroni) roles(ctx context.Context) (primary int, synchronous string, err error) {
	var address string
	err = ask(ctx, p.conns, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT host(inet_server_addr()), application_name FROM pg_stat_replication
			WHERE sync_state = 'sync' AND state = 'streaming'`).Scan(&address, &synchronous)
	})
	if err != nil {
		return 0, "", fmt.Errorf("find the primary: %w", err)
	}
	ip := net.ParseIP(address).To4()
	if ip == nil {
		return 0, "", fmt.Errorf("find the primary: %q is no address of a host", address)
	}
	return int(ip[3]), synchronous, nil
}

func (p *patroni) redundant(ctx context.Context, lsn string) error {
	var standbys, synchronous int
	err := ask(ctx, p.conns, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync') FROM pg_stat_replication
			WHERE state = 'streaming' AND application_name LIKE 'h_' AND flush_lsn >= $1::text::pg_lsn`, lsn).Scan(&standbys, &synchronous)
	})
	if err != nil {
		return err
	}
	if standbys < 2 || synchronous < 1 {
		return fmt.Errorf("%d standbys up to date, %d of them synchronous", standbys, synchronous)
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"holdfast/bench/machine"
	"holdfast/internal/database/gate"
)

// way is one road to the server.
type way struct {
	name    string
	address func() string
	process *child // in the path; nil = none
	stop    func() error
}

// The ways' names.
const (
	direct  = "direct"
	proxied = gate.PathProxy
	peer    = "haproxy"
	kernel  = gate.PathKernel
)

func (b *bench) startWays(ctx context.Context) error {
	b.ways = []way{{direct, func() string { return b.server.addr }, nil, func() error { return nil }}}
	for _, name := range []string{proxied, kernel} {
		if name == kernel && b.address == loopback {
			fmt.Fprintf(b.out, "kernel is not measured: it needs root, and an address that is not loopback\n")
			continue
		}
		w, err := b.startGate(ctx, name)
		if err != nil {
			return err
		}
		b.ways = append(b.ways, w)
	}
	if _, err := exec.LookPath("haproxy"); err != nil {
		fmt.Fprintf(b.out, "HAProxy is not measured: it is not installed (scripts/setup --bench installs it)\n")
	} else if w, err := b.startHAProxy(ctx); err != nil {
		return err
	} else {
		b.ways = append(b.ways, w)
	}
	return nil
}

func (b *bench) stopWays() error {
	var errs []error
	for _, w := range b.ways {
		errs = append(errs, w.stop())
	}
	return errors.Join(errs...)
}

// startGate starts Holdfast's own listener process as a host does, and orders it to lead to the server.
func (b *bench) startGate(ctx context.Context, name string) (way, error) {
	port, err := machine.FreePort(b.address)
	if err != nil {
		return way{}, err
	}
	addr := net.JoinHostPort(b.address, port)
	spec := gate.Spec{
		Database: "bench", Host: "here", Listen: []string{addr},
		Control: filepath.Join(b.dir, name+".sock"), StateFile: filepath.Join(b.dir, name+".state"),
		Application: "bench-" + name, Path: name,
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return way{}, err
	}
	file := filepath.Join(b.dir, name+".json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return way{}, err
	}
	p, err := b.start(name, b.holdfast, "gate", file)
	if err != nil {
		return way{}, err
	}
	c := gate.Dial(spec.Control)
	open := func() error {
		s, err := c.Order(ctx, gate.Order{Epoch: 1, State: gate.Open, Target: b.server.addr})
		if err == nil && s.Path != name {
			err = fmt.Errorf("its path is %s: %s", s.Path, s.PathReason)
		}
		return err
	}
	if err := await(ctx, open); err != nil {
		return way{}, errors.Join(fmt.Errorf("open the listener: %w", err), p.stop())
	}
	return way{name, func() string { return addr }, p, func() error { return errors.Join(c.Close(), p.stop()) }}, nil
}

// haproxyConf passes TCP through, with as many threads as there are cores, which is its default.
const haproxyConf = `global
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen postgres
  bind %s
  server s %s
`

func (b *bench) startHAProxy(ctx context.Context) (way, error) {
	port, err := machine.FreePort(b.address)
	if err != nil {
		return way{}, err
	}
	addr := net.JoinHostPort(b.address, port)
	file := filepath.Join(b.dir, "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, haproxyConf, addr, b.server.addr), 0o600); err != nil {
		return way{}, err
	}
	p, err := b.start(peer, "haproxy", "-db", "-f", file)
	if err != nil {
		return way{}, err
	}
	answers := func() error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	if err := await(ctx, answers); err != nil {
		return way{}, errors.Join(fmt.Errorf("start HAProxy: %w", err), p.stop())
	}
	return way{peer, func() string { return addr }, p, p.stop}, nil
}

// await asks again and again until there is no error.
func await(ctx context.Context, ok func() error) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := ok()
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond) // another process starts
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"holdfast/internal/durable"
	"holdfast/internal/plan"
)

// place is where everything of one demo lies. The source tree is not touched.
type place struct {
	work string // everything below it belongs to the demo
	made bool   // work was made by us, and may be removed
}

func (p place) root() string     { return filepath.Join(p.work, "data") } // Holdfast's own
func (p place) planFile() string { return filepath.Join(p.work, "plan", "holdfast.yaml") }

// log outlives the demo: it is what a person reads when everything else has been removed.
func (p place) log() string       { return p.work + ".log" }
func (p place) clientLog() string { return filepath.Join(p.work, "client.log") }
func (p place) authority() string { return filepath.Join(p.root(), "ca", "ca.crt") }
func (p place) host(h string) string {
	return filepath.Join(p.root(), "hosts", h)
}

// newPlace makes the directories, and copies the plan and the application's release.
func newPlace(opt options) (p place, err error) {
	p.work = opt.root
	if p.work == "" {
		// Not in /tmp, which may be memory; and another user, PostgreSQL's, must be able to pass through.
		p.work, err = os.MkdirTemp("/var/tmp", "holdfast-demo-")
		if err != nil {
			return p, fmt.Errorf("make a directory for the demo: %w", err)
		}
		p.made = true
	} else {
		entries, err := os.ReadDir(p.work)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := os.MkdirAll(p.work, 0o755); err != nil {
				return p, fmt.Errorf("make a directory for the demo: %w", err)
			}
			p.made = true
		case err != nil:
			return p, fmt.Errorf("look at -root: %w", err)
		case len(entries) > 0:
			return p, fmt.Errorf("use %s: it is not empty, and nothing in it was touched; give -root an empty or absent directory", p.work)
		}
	}
	if err := p.fill(opt); err != nil {
		return p, errors.Join(err, p.remove())
	}
	return p, nil
}

func (p place) fill(opt options) error {
	if p.made {
		if err := os.Chmod(p.work, 0o755); err != nil {
			return fmt.Errorf("open %s for PostgreSQL's user: %w", p.work, err)
		}
	}
	bin := filepath.Join(filepath.Dir(p.planFile()), "build", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("make the release: %w", err)
	}
	if err := copyProgram(opt.clinic, filepath.Join(bin, "clinic")); err != nil {
		return fmt.Errorf("make the release: %w", err)
	}
	text, err := os.ReadFile(opt.plan)
	if err != nil {
		return fmt.Errorf("copy the plan: %w", err)
	}
	if text, err = onNetwork(text, opt.plan, opt.network); err != nil {
		return err
	}
	if err := os.WriteFile(p.planFile(), text, 0o644); err != nil {
		return fmt.Errorf("copy the plan: %w", err)
	}
	return nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // opened for reading alone
	return durable.WriteProgram(to, in)
}

// remove takes away what the demo made, and nothing that was there before.
func (p place) remove() error {
	if p.made {
		return os.RemoveAll(p.work)
	}
	entries, err := os.ReadDir(p.work)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(p.work, e.Name())))
	}
	return err
}

// isNetwork reports whether text is the first three numbers of a loopback address.
func isNetwork(text string) bool {
	a, err := netip.ParseAddr(text + ".1")
	return err == nil && a.Is4() && a.IsLoopback()
}

// readPlan parses the plan as `holdfast up` does.
func readPlan(file string, text []byte) (*plan.Plan, error) {
	p, mistakes := plan.Parse(file, text)
	if len(mistakes) > 0 {
		return nil, fmt.Errorf("read the plan: %v", mistakes[0])
	}
	return p, nil
}

// onNetwork gives the plan's hosts other addresses, so that two demos can run beside each other.
func onNetwork(text []byte, file, network string) ([]byte, error) {
	if network == "" {
		return text, nil
	}
	p, err := readPlan(file, text)
	if err != nil {
		return nil, err
	}
	for i, h := range p.AllHosts() {
		// Between their delimiters, so that 127.20.0.1 is not found in 127.20.0.11.
		for _, end := range []string{" ", ",", "}", "\n"} {
			text = bytes.ReplaceAll(text, []byte(" "+h.Address+end), []byte(" "+network+"."+strconv.Itoa(i+1)+end))
		}
	}
	return text, nil
}

// door is one address that a host of the plan listens on.
type door struct {
	what    string
	address string // host:port
}

// doors lists what the plan's hosts listen on for each other and for clients.
func doors(p *plan.Plan) []door {
	var all []door
	for _, h := range p.AllHosts() {
		add := func(what string, port int) {
			all = append(all, door{what + " on " + h.Name, net.JoinHostPort(h.Address, strconv.Itoa(port))})
		}
		add("agent", p.Ports.Agent)
		if h.Etcd {
			add("etcd", p.Ports.EtcdClient)
		}
		for _, d := range p.Databases {
			add("listener of "+d.Name, d.WritePort)
			if d.ReadPort != 0 {
				add("read-only listener of "+d.Name, d.ReadPort)
			}
		}
		for _, port := range routePorts(p) {
			add("edge", port)
		}
	}
	return all
}

func routePorts(p *plan.Plan) []int {
	var ports []int
	for _, s := range p.Services {
		if s.Route != nil {
			ports = append(ports, s.Route.Port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// inUse lists the doors that somebody else holds already, and those that cannot be had at all.
func inUse(ctx context.Context, p *plan.Plan) []string {
	all := doors(p)
	for _, h := range p.AllHosts() {
		for _, d := range p.Databases {
			all = append(all, door{"server of " + d.Name + " on " + h.Name, net.JoinHostPort(h.Address, strconv.Itoa(p.Ports.Server+d.Index))})
		}
	}
	var held []string
	for _, d := range all {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", d.address)
		switch {
		case err == nil:
			err = l.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			err = errors.New("in use by another program")
		}
		if err != nil {
			held = append(held, fmt.Sprintf("%s (%s): %v", d.address, d.what, err))
		}
	}
	return held
}

// secret reads a file that `holdfast up` made.
func secret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read a secret: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

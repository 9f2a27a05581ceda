package kernelpath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// probe tries everything once: our rules, in a transaction that leaves nothing; the end of a connection, on one of our
// own; the list of tracked connections; and whether the listener's addresses are this host's.
func (p *Path) probe() error {
	if err := p.probeAddresses(); err != nil {
		return err
	}
	name := p.table + ".probe"
	changes, err := replacement(name, p.cfg.Listen, Tag{Target: p.cfg.Listen[0]})
	if err != nil {
		return err
	}
	last, err := removal(name)
	if err != nil {
		return err
	}
	if err := commit(0, append(changes, last...)); err != nil {
		return fmt.Errorf("try rules (nf_tables, CAP_NET_ADMIN): %w", err)
	}
	for _, family := range families(p.cfg.Listen) {
		if _, err := flows(family); err != nil {
			return err
		}
	}
	if err := probeDestroy(p.cfg.Listen[0].Addr()); err != nil {
		return fmt.Errorf("try to end a connection (INET_DIAG_DESTROY, CAP_NET_ADMIN): %w", err)
	}
	return nil
}

func (p *Path) probeAddresses() error {
	if len(p.cfg.Listen) == 0 {
		return errors.New("there is no address to lead from")
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list this host's addresses: %w", err)
	}
	for _, l := range p.cfg.Listen {
		if l.Addr().IsLoopback() || l.Addr().IsUnspecified() {
			return fmt.Errorf("the listener's address %s is not one of this host alone: nothing leads from loopback to another host", l.Addr())
		}
		has := false
		for _, a := range own {
			prefix, err := netip.ParsePrefix(a.String())
			has = has || (err == nil && prefix.Addr() == l.Addr())
		}
		if !has {
			return fmt.Errorf("the listener's address %s is on no interface of this host", l.Addr())
		}
	}
	return nil
}

// probeDestroy makes a connection on a port of no interest, and ends it from outside.
func probeDestroy(address netip.Addr) (err error) {
	l, err := net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), answerMax)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // it is broken already
	all, err := connected(0, l.Addr().(*net.TCPAddr).AddrPort().Port())
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.local == c.LocalAddr().(*net.TCPAddr).AddrPort() {
			if err := s.destroy(); err != nil {
				return err
			}
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(answerMax)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("the connection goes on: %v", err)
	}
	return nil
}

// families lists the address families of addresses.
func families(listen []netip.AddrPort) (all []byte) {
	var four, six bool
	for _, l := range listen {
		four, six = four || l.Addr().Is4(), six || l.Addr().Is6()
	}
	if four {
		all = append(all, unix.AF_INET)
	}
	if six {
		all = append(all, unix.AF_INET6)
	}
	return all
}

package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"
)

// The library means to give the connections between members read and write deadlines of five seconds, but sets them by
// http.Transport.Dial, which is not asked where DialContext is set (client/pkg/v3/transport, NewTimeoutTransport). So a
// member whose host was cut off and comes back goes on with connections that the kernel retries ever more seldom: it
// heard nothing of its leader for up to half a minute, while clients reach it and wait for answers that it cannot give.
// Nobody hands us those sockets; but they are our own process's, and an option may be set on any of them.

const (
	// peerDeadAfter is how long bytes to another member, or a question whether it lives, may stay unacknowledged by its
	// kernel before the connection is given up and made anew: two elections.
	peerDeadAfter = 2 * time.Second
	// socketsEvery is how often new connections are looked for. None needs it before it has lived longer.
	socketsEvery = time.Second
)

// watchPeers keeps every connection with another member impatient until ctx ends.
func watchPeers(ctx context.Context, cfg MemberConfig, e *embed.Etcd) {
	own, err := hostPortOf(cfg.PeerURL)
	if err != nil {
		cfg.Log.ErrorContext(ctx, "connections with other members not watched", "err", err)
		return
	}
	told := ""
	tick := time.NewTicker(socketsEvery)
	defer tick.Stop()
	for {
		if err := hurryPeers(own, peersOf(e)); err != nil && err.Error() != told {
			told = err.Error()
			cfg.Log.WarnContext(ctx, "a connection with another member may live on when its host is gone", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// peersOf are the addresses where the other members are dialed.
func peersOf(e *embed.Etcd) map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	for _, m := range e.Server.Cluster().Members() {
		for _, u := range m.PeerURLs {
			if at, err := hostPortOf(u); err == nil { // a name is looked up by the library alone; our plans have addresses
				out[at] = true
			}
		}
	}
	return out
}

func hostPortOf(text string) (netip.AddrPort, error) {
	u, err := url.Parse(text)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(u.Host)
}

// hurryPeers sets the options on each TCP connection of this process that was accepted at own or leads to one of
// peers. A descriptor may be closed, and its number be another's, while this runs: setting an option harms nobody.
func hurryPeers(own netip.AddrPort, peers map[netip.AddrPort]bool) error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list our sockets: %w", err)
	}
	var bad []error
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if what, err := os.Readlink(filepath.Join(dir, entry.Name())); err != nil || len(what) < 7 || what[:7] != "socket:" {
			continue
		}
		local, remote := endsOf(fd)
		if !remote.IsValid() || local != own && !peers[remote] {
			continue
		}
		if err := hurry(fd); err != nil && !errors.Is(err, unix.EBADF) && !errors.Is(err, unix.ENOTSOCK) && !errors.Is(err, unix.EINVAL) {
			bad = append(bad, fmt.Errorf("hurry the connection with %s: %w", remote, err))
		}
	}
	return errors.Join(bad...)
}

// hurry lets the kernel end a connection whose other end acknowledges nothing.
func hurry(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerDeadAfter.Milliseconds())),
	)
}

// endsOf are both addresses of a connected socket; remote is not valid where there is none, and for anything but TCP.
func endsOf(fd int) (local, remote netip.AddrPort) {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || kind != unix.IPPROTO_TCP {
		return local, remote
	}
	here, err := unix.Getsockname(fd)
	if err != nil {
		return local, remote
	}
	there, err := unix.Getpeername(fd)
	if err != nil {
		return local, remote // it listens, or has been closed
	}
	return addrPort(here), addrPort(there)
}

func addrPort(s unix.Sockaddr) netip.AddrPort {
	var ip net.IP
	port := 0
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		ip, port = s.Addr[:], s.Port
	case *unix.SockaddrInet6:
		ip, port = s.Addr[:], s.Port
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port))
}

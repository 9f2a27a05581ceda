package kernelpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// socket is one TCP socket of this host.
type socket struct {
	local, remote netip.AddrPort
	state         byte
	family        byte
	id            []byte // struct inet_diag_sockid, which names it to the kernel
}

// The layout of struct inet_diag_req_v2 and of struct inet_diag_msg (inet_diag.h).
const (
	sockIDLen   = 48
	diagReqLen  = 8 + sockIDLen
	diagAnswer  = 4 + sockIDLen // family, state, timer, retrans, then the id
	synSent     = 2             // TCP_SYN_SENT (tcp_states.h)
	connectedTo = 1<<1 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
)

// connected lists the sockets that have a peer, by their own port or by the peer's; 0 is any.
func connected(localPort, remotePort uint16) (all []socket, err error) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		id := make([]byte, sockIDLen)
		binary.BigEndian.PutUint16(id[0:], localPort)
		binary.BigEndian.PutUint16(id[2:], remotePort)
		answers, err := ask(unix.NETLINK_SOCK_DIAG, diag(unix.SOCK_DIAG_BY_FAMILY, netlink.Dump, family, id))
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
		for _, m := range answers {
			s, err := readSocket(m.Data)
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
	}
	return all, nil
}

func diag(kind int, flags netlink.HeaderFlags, family byte, id []byte) netlink.Message {
	req := make([]byte, 8, diagReqLen)
	req[0], req[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], connectedTo)
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append(req, id...),
	}
}

func readSocket(b []byte) (socket, error) {
	if len(b) < diagAnswer {
		return socket{}, fmt.Errorf("list connections: an answer of %d bytes", len(b))
	}
	id := b[4:diagAnswer]
	size := 4
	if b[0] == unix.AF_INET6 {
		size = 16
	}
	address := func(at, port int) netip.AddrPort {
		a, _ := netip.AddrFromSlice(id[at : at+size]) // 4 and 16 bytes always are an address
		// A client of IPv6 sockets reaches IPv4 by mapped addresses.
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(id[port:]))
	}
	return socket{local: address(4, 0), remote: address(20, 2), family: b[0], state: b[1], id: append([]byte(nil), id...)}, nil
}

// destroy ends a connection at once: both its own process and its peer learn of it.
func (s socket) destroy() error {
	_, err := ask(unix.NETLINK_SOCK_DIAG, diag(unix.SOCK_DESTROY, netlink.Acknowledge, s.family, s.id))
	if errors.Is(err, unix.ENOENT) {
		return nil // it ended by itself
	}
	if err != nil {
		return fmt.Errorf("end the connection from %s to %s: %w", s.local, s.remote, err)
	}
	return nil
}

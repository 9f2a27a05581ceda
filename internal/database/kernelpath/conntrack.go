package kernelpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attributes of conntrack's messages (nfnetlink_conntrack.h).
const (
	ctGet, ctDelete = 1, 2

	ctTupleOrig, ctTupleReply, ctID = 1, 2, 12
	ctTupleIP, ctTupleProto         = 1, 2
	ctV4Src, ctV4Dst                = 1, 2
	ctV6Src, ctV6Dst                = 3, 4
	ctSrcPort, ctDstPort            = 2, 3
	ctProtoNum                      = 1
)

// flow is one connection that the kernel tracks.
type flow struct {
	family byte
	tcp    bool
	to     netip.AddrPort // where its first packet was sent
	by     netip.AddrPort // who answers: another one when the destination was changed
	orig   []byte         // its first direction, as the kernel wrote it
	id     []byte
}

// led says whether a rule led the flow elsewhere.
func (f flow) led() bool { return f.tcp && f.to != f.by }

func flows(family byte) (all []flow, err error) {
	answers, err := ask(unix.NETLINK_NETFILTER, nfMessage(unix.NFNL_SUBSYS_CTNETLINK, ctGet, netlink.Dump, family, nil))
	if err != nil {
		return nil, fmt.Errorf("list tracked connections: %w", err)
	}
	for _, m := range answers {
		f, err := readFlow(m)
		if err != nil {
			return nil, err
		}
		f.family = family
		all = append(all, f)
	}
	return all, nil
}

func readFlow(m netlink.Message) (f flow, err error) {
	ad, err := attributes(m)
	if err != nil {
		return flow{}, err
	}
	for ad.Next() {
		switch ad.Type() {
		case ctTupleOrig:
			f.orig = ad.Bytes()
			_, f.to, f.tcp, err = readTuple(f.orig)
		case ctTupleReply:
			f.by, _, _, err = readTuple(ad.Bytes())
		case ctID:
			f.id = ad.Bytes()
		}
		if err != nil {
			return flow{}, err
		}
	}
	return f, ad.Err()
}

// readTuple reads one direction.
func readTuple(b []byte) (src, dst netip.AddrPort, tcp bool, err error) {
	var from, to netip.Addr
	var ports [2]uint16
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return src, dst, false, fmt.Errorf("read a tracked connection: %w", err)
	}
	for ad.Next() {
		ad.Nested(func(in *netlink.AttributeDecoder) error {
			part := ad.Type()
			in.ByteOrder = binary.BigEndian
			for in.Next() {
				switch {
				case part == ctTupleIP && (in.Type() == ctV4Src || in.Type() == ctV6Src):
					from, _ = netip.AddrFromSlice(in.Bytes()) // an address of no length is none
				case part == ctTupleIP && (in.Type() == ctV4Dst || in.Type() == ctV6Dst):
					to, _ = netip.AddrFromSlice(in.Bytes()) // as above
				case part == ctTupleProto && in.Type() == ctProtoNum:
					tcp = in.Uint8() == unix.IPPROTO_TCP
				case part == ctTupleProto && in.Type() == ctSrcPort:
					ports[0] = in.Uint16()
				case part == ctTupleProto && in.Type() == ctDstPort:
					ports[1] = in.Uint16()
				}
			}
			return nil
		})
	}
	return netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1]), tcp, ad.Err()
}

// forget makes the kernel treat the flow's next packet as a new connection's. The message always names one flow: without
// a name it would mean every flow of the host.
func (f flow) forget() error {
	if len(f.orig) == 0 {
		return errors.New("forget a tracked connection: it has no name")
	}
	ae := encoder()
	ae.Bytes(unix.NLA_F_NESTED|ctTupleOrig, f.orig)
	if len(f.id) > 0 {
		ae.Bytes(ctID, f.id)
	}
	name, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = ask(unix.NETLINK_NETFILTER, nfMessage(unix.NFNL_SUBSYS_CTNETLINK, ctDelete, netlink.Acknowledge, f.family, name))
	if errors.Is(err, unix.ENOENT) {
		return nil // it ended by itself
	}
	if err != nil {
		return fmt.Errorf("forget the tracked connection to %s: %w", f.to, err)
	}
	return nil
}

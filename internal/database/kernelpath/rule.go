package kernelpath

import (
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The names inside our table, and where its chain stands: among what this host's own processes send, when a
// destination may still change.
const (
	chainName    = "out"
	natOutputPri = -100
)

// chain is the one chain of a table.
func chain(table string) ([]byte, error) {
	ae := encoder()
	ae.String(unix.NFTA_CHAIN_TABLE, table)
	ae.String(unix.NFTA_CHAIN_NAME, chainName)
	ae.String(unix.NFTA_CHAIN_TYPE, "nat")
	ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
		ae.Uint32(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT)
		ae.Int32(unix.NFTA_HOOK_PRIORITY, natOutputPri)
		return nil
	})
	return ae.Encode()
}

// anchor is a rule that does nothing: it asks for a state that no first packet has. But while it stands the kernel goes on
// tracking connections, and so sends packets of those that were led where they were led, also when the table leads
// nowhere: without it a drain would reset every session.
func anchor(table string) ([]byte, error) {
	ae := encoder()
	ae.String(unix.NFTA_RULE_TABLE, table)
	ae.String(unix.NFTA_RULE_CHAIN, chainName)
	ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
		r := expressions{ae}
		r.add("ct", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
			ae.Uint32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE)
		})
		r.equal(make([]byte, 4))
		return nil
	})
	return ae.Encode()
}

// flags of TCP's thirteenth byte.
const (
	tcpFin, tcpSyn, tcpRst, tcpAck = 0x01, 0x02, 0x04, 0x10
)

// rule leads new connections from one address to another:
//
//	ip daddr FROM tcp dport FROM tcp flags & (fin|syn|rst|ack) == syn dnat to TO
//
// Only a first packet matches. Connections that the gate has accepted may be unknown to conntrack, which then takes
// their next packet for new; they must stay where they are.
func rule(table string, from, to netip.AddrPort) ([]byte, error) {
	ae := encoder()
	ae.String(unix.NFTA_RULE_TABLE, table)
	ae.String(unix.NFTA_RULE_CHAIN, chainName)
	ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
		r := expressions{ae}
		family, daddr := byte(unix.NFPROTO_IPV4), uint32(16) // where the destination stands in a header
		if from.Addr().Is6() {
			family, daddr = unix.NFPROTO_IPV6, 24
		}
		port := []byte{byte(from.Port() >> 8), byte(from.Port())}
		r.meta(unix.NFT_META_NFPROTO, []byte{family})
		r.meta(unix.NFT_META_L4PROTO, []byte{unix.IPPROTO_TCP})
		r.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, daddr, nil, from.Addr().AsSlice())
		r.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, nil, port)
		r.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, []byte{tcpFin | tcpSyn | tcpRst | tcpAck}, []byte{tcpSyn})
		r.dnat(family, to)
		return nil
	})
	return ae.Encode()
}

// expressions writes those of one rule, in order.
type expressions struct{ ae *netlink.AttributeEncoder }

func (r expressions) add(name string, data func(ae *netlink.AttributeEncoder)) {
	r.ae.Nested(unix.NFTA_LIST_ELEM, func(ae *netlink.AttributeEncoder) error {
		ae.String(unix.NFTA_EXPR_NAME, name)
		ae.Nested(unix.NFTA_EXPR_DATA, func(ae *netlink.AttributeEncoder) error {
			data(ae)
			return nil
		})
		return nil
	})
}

func value(ae *netlink.AttributeEncoder, attribute uint16, v []byte) {
	ae.Nested(attribute, func(ae *netlink.AttributeEncoder) error {
		ae.Bytes(unix.NFTA_DATA_VALUE, v)
		return nil
	})
}

func (r expressions) equal(v []byte) {
	r.add("cmp", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ)
		value(ae, unix.NFTA_CMP_DATA, v)
	})
}

// meta goes on when what is known of the packet equals want.
func (r expressions) meta(key uint32, want []byte) {
	r.add("meta", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_META_DREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_META_KEY, key)
	})
	r.equal(want)
}

// payload goes on when bytes of a header, under a mask if there is one, equal want.
func (r expressions) payload(base, offset uint32, mask, want []byte) {
	r.add("payload", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_PAYLOAD_BASE, base)
		ae.Uint32(unix.NFTA_PAYLOAD_OFFSET, offset)
		ae.Uint32(unix.NFTA_PAYLOAD_LEN, uint32(len(want)))
	})
	if mask != nil {
		r.add("bitwise", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1)
			ae.Uint32(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
			ae.Uint32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
			value(ae, unix.NFTA_BITWISE_MASK, mask)
			value(ae, unix.NFTA_BITWISE_XOR, make([]byte, len(mask)))
		})
	}
	r.equal(want)
}

// dnat changes the destination.
func (r expressions) dnat(family byte, to netip.AddrPort) {
	for _, load := range []struct {
		register uint32
		value    []byte
	}{
		{unix.NFT_REG_1, to.Addr().AsSlice()},
		{unix.NFT_REG_2, []byte{byte(to.Port() >> 8), byte(to.Port())}},
	} {
		r.add("immediate", func(ae *netlink.AttributeEncoder) {
			ae.Uint32(unix.NFTA_IMMEDIATE_DREG, load.register)
			value(ae, unix.NFTA_IMMEDIATE_DATA, load.value)
		})
	}
	r.add("nat", func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		ae.Uint32(unix.NFTA_NAT_FAMILY, uint32(family))
		ae.Uint32(unix.NFTA_NAT_REG_ADDR_MIN, unix.NFT_REG_1)
		ae.Uint32(unix.NFTA_NAT_REG_PROTO_MIN, unix.NFT_REG_2)
	})
}

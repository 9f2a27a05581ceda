package kernelpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Tag is what a table says of itself in its comment, so that whoever starts next knows whose order it follows.
type Tag struct {
	Epoch      uint64
	Generation uint64
	Target     netip.AddrPort // where its rules lead; the zero value = nowhere: the gate holds
}

func (t Tag) above(other Tag) bool {
	return t.Epoch > other.Epoch || (t.Epoch == other.Epoch && t.Generation > other.Generation)
}

// Leads says whether rules lead anywhere.
func (t Tag) Leads() bool { return t.Target.IsValid() }

// commentMark begins the comment of every table of ours; a table of our name without it is somebody else's.
const (
	commentMark = "holdfast"
	nowhere     = "gate" // as a target
)

// comment is the tag in words, with the addresses that the rules lead from.
func (t Tag) comment(from []netip.AddrPort) string {
	target := nowhere
	if t.Leads() {
		target = t.Target.String()
	}
	return fmt.Sprintf("%s epoch=%d generation=%d target=%s from=%s", commentMark, t.Epoch, t.Generation, target, joined(from))
}

func joined(addresses []netip.AddrPort) string {
	words := make([]string, len(addresses))
	for i, a := range addresses {
		words[i] = a.String()
	}
	return strings.Join(words, ",")
}

// errForeign: a table has our name, and its comment is not ours.
var errForeign = errors.New("it was not made by Holdfast")

func parseComment(comment string) (t Tag, from []netip.AddrPort, err error) {
	var target, listen string
	_, err = fmt.Sscanf(comment, commentMark+" epoch=%d generation=%d target=%s from=%s", &t.Epoch, &t.Generation, &target, &listen)
	if err != nil {
		return Tag{}, nil, errForeign
	}
	if target != nowhere {
		if t.Target, err = netip.ParseAddrPort(target); err != nil {
			return Tag{}, nil, errForeign
		}
	}
	for word := range strings.SplitSeq(listen, ",") {
		a, err := netip.ParseAddrPort(word)
		if err != nil {
			return Tag{}, nil, errForeign
		}
		from = append(from, a)
	}
	return t, from, nil
}

// tablePrefix begins the names of an application's tables on a host. Names in a plan have no dot.
func tablePrefix(application, host string) string {
	return "holdfast." + application + "." + host + "."
}

// userComment is how nft keeps a comment among a table's user data: type 0, length, text, 0.
func userComment(text string) []byte {
	return append([]byte{0, byte(len(text) + 1)}, append([]byte(text), 0)...)
}

func commentOf(userData []byte) string {
	for len(userData) >= 2 && len(userData) >= 2+int(userData[1]) {
		kind, value := userData[0], userData[2:2+int(userData[1])]
		if kind == 0 {
			return strings.TrimRight(string(value), "\x00")
		}
		userData = userData[2+len(value):]
	}
	return ""
}

// tableUserData is NFTA_TABLE_USERDATA (nf_tables.h).
const tableUserData = 6

// table is one of the kernel's.
type table struct{ name, comment string }

func readTable(m netlink.Message) (t table, err error) {
	ad, err := attributes(m)
	if err != nil {
		return table{}, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			t.name = ad.String()
		case tableUserData:
			t.comment = commentOf(ad.Bytes())
		}
	}
	return t, ad.Err()
}

// tables lists those that rules for both IPv4 and IPv6 may stand in.
func tables() (all []table, err error) {
	answers, err := ask(unix.NETLINK_NETFILTER, nfMessage(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETTABLE, netlink.Dump, unix.NFPROTO_INET, nil))
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for _, m := range answers {
		t, err := readTable(m)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// generation numbers the whole rule set: a transaction that names one happens only if nobody changed anything since.
func generation() (uint32, error) {
	answers, err := ask(unix.NETLINK_NETFILTER, nfMessage(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN, 0, unix.NFPROTO_UNSPEC, nil))
	if err != nil {
		return 0, fmt.Errorf("read the rule set's generation: %w", err)
	}
	for _, m := range answers {
		ad, err := attributes(m)
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("read the rule set's generation: the kernel does not tell")
}

// errMoved: somebody changed some rule meanwhile.
var errMoved = errors.New("the rule set changed meanwhile")

// commit carries out changes of tables as one transaction, if the rule set is still at gen; gen 0 is any.
func commit(gen uint32, changes []netlink.Message) error {
	edge := func(kind int, attributes []byte) netlink.Message {
		m := nfMessage(unix.NFNL_SUBSYS_NONE, kind, 0, unix.AF_UNSPEC, attributes)
		binary.BigEndian.PutUint16(m.Data[2:], unix.NFNL_SUBSYS_NFTABLES)
		return m
	}
	ae := encoder()
	if gen != 0 {
		ae.Uint32(unix.NFNL_BATCH_GENID, gen)
	}
	guard, err := ae.Encode()
	if err != nil {
		return err
	}
	changes[len(changes)-1].Header.Flags |= netlink.Acknowledge // refusals come unasked, and before it
	batch := append([]netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN, guard)}, changes...)
	batch = append(batch, edge(unix.NFNL_MSG_BATCH_END, nil))
	return talk(unix.NETLINK_NETFILTER, func(c *netlink.Conn) error {
		if _, err := c.SendMessages(batch); err != nil {
			return err
		}
		_, err := c.Receive()
		if errors.Is(err, unix.ERESTART) {
			return errMoved
		}
		return err
	})
}

func tableMessage(kind int, flags netlink.HeaderFlags, attributes []byte) netlink.Message {
	return nfMessage(unix.NFNL_SUBSYS_NFTABLES, kind, flags, unix.NFPROTO_INET, attributes)
}

// removal is the transaction that leaves no table of that name, whether there is one or not.
func removal(name string) ([]netlink.Message, error) {
	ae := encoder()
	ae.String(unix.NFTA_TABLE_NAME, name)
	named, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	return []netlink.Message{
		tableMessage(unix.NFT_MSG_NEWTABLE, netlink.Create, named),
		tableMessage(unix.NFT_MSG_DELTABLE, 0, named),
	}, nil
}

// replacement is the transaction after which the table says tag and leads there from every address.
func replacement(name string, from []netip.AddrPort, tag Tag) ([]netlink.Message, error) {
	changes, err := removal(name)
	if err != nil {
		return nil, err
	}
	ae := encoder()
	ae.String(unix.NFTA_TABLE_NAME, name)
	ae.Bytes(tableUserData, userComment(tag.comment(from)))
	made, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	out, err := chain(name)
	if err != nil {
		return nil, err
	}
	still, err := anchor(name)
	if err != nil {
		return nil, err
	}
	// A look in the middle of a commit may see the table that is made only to be deleted: it says the same.
	changes[0] = tableMessage(unix.NFT_MSG_NEWTABLE, netlink.Create, made)
	changes = append(changes, tableMessage(unix.NFT_MSG_NEWTABLE, netlink.Create, made),
		tableMessage(unix.NFT_MSG_NEWCHAIN, netlink.Create, out),
		tableMessage(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, still))
	if !tag.Leads() {
		return changes, nil
	}
	for _, f := range from {
		if f.Addr().Is4() != tag.Target.Addr().Is4() {
			continue // whoever connects to it is led by the gate
		}
		r, err := rule(name, f, tag.Target)
		if err != nil {
			return nil, err
		}
		changes = append(changes, tableMessage(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, r))
	}
	return changes, nil
}

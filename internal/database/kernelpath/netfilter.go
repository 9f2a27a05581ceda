package kernelpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// answerMax bounds how long the kernel may take to answer; it needs about a millisecond.
const answerMax = 2 * time.Second

// talk opens a netlink socket of its own for each conversation, so that an answer that came late is never taken for
// another's.
func talk(family int, do func(*netlink.Conn) error) (err error) {
	c, err := netlink.Dial(family, nil)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(answerMax)); err != nil {
		return err
	}
	return do(c)
}

// ask sends one message and reads what comes back.
func ask(family int, m netlink.Message) (answers []netlink.Message, err error) {
	err = talk(family, func(c *netlink.Conn) error {
		answers, err = c.Execute(m)
		return err
	})
	return answers, err
}

// nfMessage is a message of a netfilter subsystem: its header is family, version and resource (nfnetlink.h).
func nfMessage(subsystem, kind int, flags netlink.HeaderFlags, family byte, attributes []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attributes...),
	}
}

const nfHeader = 4 // bytes before the attributes

// encoder writes attributes in network byte order, as netfilter has them.
func encoder() *netlink.AttributeEncoder {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	return ae
}

// attributes reads those of a netfilter message.
func attributes(m netlink.Message) (*netlink.AttributeDecoder, error) {
	if len(m.Data) < nfHeader {
		return nil, fmt.Errorf("read a netfilter message of %d bytes", len(m.Data))
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[nfHeader:])
	if err != nil {
		return nil, fmt.Errorf("read a netfilter message: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	return ad, nil
}

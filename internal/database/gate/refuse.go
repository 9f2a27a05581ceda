package gate

import (
	"encoding/binary"
	"io"
	"net"
	"time"
)

// A refused client is answered in PostgreSQL's own words (manual, "Message Flow" and "Message Formats"), as
// far as the client's first packet allows:
//
//	start-up packet      ErrorResponse with 57P03, which libpq and pgx print in full, and after which a client
//	                     with several hosts tries the next
//	request for TLS      the same ErrorResponse: what a server sends that cannot fork. Current libpq says "server
//	                     sent an error response during SSL exchange" (it trusts no text before TLS, CVE-2024-10977;
//	                     seen with psql 15, prefer and require), pgx "server refused TLS connection" or, with
//	                     sslmode=prefer, the text, for it connects again without TLS. Answering 'N' would be a lie
//	                     ("server does not support SSL"), and would invite the client to go on in plain text.
//	request for GSS      'N', as from any server without Kerberos; then the next packet decides
//	anything else        closed: TLS without asking first, a cancel request, another protocol
const (
	codeCannotConnectNow   = "57P03"
	codeTooManyConnections = "53300"

	requestCancel = 80877102
	requestSSL    = 80877103
	requestGSS    = 80877104
	protocol3     = 3 // major version of a start-up packet

	packetMax     = 10000           // PostgreSQL's own limit of a start-up packet
	refuseTimeout = 5 * time.Second // for the client's packet, the answer, and its good-bye together; a busy client is slow
)

// refusal is why a client is turned away.
type refusal struct {
	code, message string
	detail        string // the order's reason; "" = none
}

// refuse tells c why, and closes it.
func (g *Gate) refuse(c *net.TCPConn, why refusal) {
	defer func() { _ = c.Close() }() // whatever the client still wanted
	if g.refusing.Add(1) > refusingMax {
		g.refusing.Add(-1)
		reset(c)
		return
	}
	defer g.refusing.Add(-1)
	if err := c.SetDeadline(time.Now().Add(refuseTimeout)); err != nil {
		return
	}
	for range 2 { // a GSS request and what follows it
		code, ok := firstPacket(c)
		switch {
		case ok && code == requestGSS:
			if _, err := c.Write([]byte{'N'}); err != nil {
				return
			}
			continue
		case ok && (code == requestSSL || code>>16 == protocol3):
			if _, err := c.Write(why.packet()); err != nil {
				return
			}
			if err := c.CloseWrite(); err != nil {
				return
			}
			_, _ = io.CopyN(io.Discard, c, packetMax) // until its good-bye: closing over unread bytes would reset the answer
		}
		return
	}
}

// firstPacket reads one packet of the start-up phase whole, and gives its protocol or request code.
func firstPacket(c io.Reader) (code uint32, ok bool) {
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, false
	}
	length := binary.BigEndian.Uint32(head[:4]) // counts itself
	if length < 8 || length > packetMax {
		return 0, false
	}
	if _, err := io.CopyN(io.Discard, c, int64(length-8)); err != nil {
		return 0, false
	}
	return binary.BigEndian.Uint32(head[4:]), true
}

// packet is r as an ErrorResponse.
func (r refusal) packet() []byte {
	b := []byte{'E', 0, 0, 0, 0}
	field := func(kind byte, text string) {
		b = append(append(append(b, kind), text...), 0)
	}
	field('S', "FATAL")
	field('V', "FATAL")
	field('C', r.code)
	field('M', r.message)
	if r.detail != "" {
		field('D', r.detail)
	}
	field('H', "Connect again in a moment. \"holdfast status\" shows what the database waits for.")
	b = append(b, 0)
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	return b
}

package gate

import (
	"errors"
	"fmt"
	"net"

	"holdfast/internal/event"
)

// ReadOrder says where the read-only address leads. It replaces the one before, unless its epoch is lower than
// the highest that was seen in any order. It is not kept over a restart: a gate that was started anew holds
// readers until it is told.
type ReadOrder struct {
	Epoch   uint64       `json:"epoch"`
	Members []ReadMember `json:"members"`
	Primary bool         `json:"primary,omitempty"` // with no member, lead to where writes lead
	Reason  string       `json:"reason,omitempty"`  // for people: who is not read and why; refused clients read it
}

// ReadMember is a standby that may be read.
type ReadMember struct {
	Host   string         `json:"host"`
	Target string         `json:"target"` // addr:port of its server
	Near   int            `json:"near"`   // lower is nearer; decides between members with equally many sessions
	Keep   bool           `json:"keep,omitempty"`
	For    event.Duration `json:"for"` // without another order it is left after so long
}

func (o ReadOrder) check() error {
	if o.Epoch == 0 {
		return errors.New("a read order needs an epoch above 0")
	}
	hosts := map[string]bool{}
	for _, m := range o.Members {
		if _, _, err := net.SplitHostPort(m.Target); err != nil {
			return fmt.Errorf("a read order needs a target for %s: %w", m.Host, err)
		}
		if m.Host == "" || hosts[m.Host] {
			return fmt.Errorf("a read order names %q without a name or twice", m.Host)
		}
		hosts[m.Host] = true
	}
	return nil
}

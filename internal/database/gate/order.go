package gate

import (
	"errors"
	"fmt"
	"net"

	"holdfast/internal/event"
)

// State is what the gate does with a client that connects.
type State string

// States.
const (
	Open State = "open" // lead it to the target
	Hold State = "hold" // accept it and let it wait, until open or HoldMax
	Shut State = "shut" // tell it that there is no primary
)

// Order says where the database's address leads. An order of a lower epoch, or of the same epoch and a
// lower generation, than one already seen is refused; an equal one replaces its predecessor.
type Order struct {
	Epoch      uint64 `json:"epoch"`
	Generation uint64 `json:"generation"`
	State      State  `json:"state"`
	Target     string `json:"target,omitempty"` // addr:port of the primary's own server; needed with Open
	Reason     string `json:"reason,omitempty"` // for people: status shows it, and refused clients read it
	// DrainFor is how long a Hold leaves the connections that exist; then they are cut. Zero cuts at once.
	DrainFor event.Duration `json:"drain_for,omitempty"`
}

func (o Order) check() error {
	if o.Epoch == 0 {
		return errors.New("an order needs an epoch above 0")
	}
	switch o.State {
	case Hold, Shut:
	case Open:
		if _, _, err := net.SplitHostPort(o.Target); err != nil {
			return fmt.Errorf("an order to open needs a target: %w", err)
		}
	default:
		return fmt.Errorf("an order has no state %q (open, hold, shut)", o.State)
	}
	if o.DrainFor < 0 || (o.DrainFor > 0 && o.State != Hold) {
		return errors.New("only an order to hold drains, and for a positive time")
	}
	return nil
}

// StaleError refuses an order because a higher one has been seen. It tells the one who asked what it missed.
type StaleError struct {
	Epoch         uint64 `json:"epoch"` // of the order or extension that was refused
	Generation    uint64 `json:"generation"`
	HighestEpoch  uint64 `json:"highest_epoch"`  // that was seen
	HighestInside uint64 `json:"highest_inside"` // the generation inside it
	Cut           bool   `json:"cut,omitempty"`  // a fence cut the highest, so that not even its equal is taken
}

func (e *StaleError) Error() string {
	if e.Cut && e.Epoch == e.HighestEpoch {
		return fmt.Sprintf("epoch %d generation %d was cut at generation %d: only a higher one opens again",
			e.Epoch, e.Generation, e.HighestInside)
	}
	return fmt.Sprintf("epoch %d generation %d is behind epoch %d generation %d",
		e.Epoch, e.Generation, e.HighestEpoch, e.HighestInside)
}

// ledger is what a gate must not forget, and what its StateFile holds.
type ledger struct {
	Database  string `json:"database"`
	Host      string `json:"host"`
	Last      Order  `json:"last"` // the highest order taken; its epoch and generation never fall
	Cut       bool   `json:"cut,omitempty"`
	CutReason string `json:"cut_reason,omitempty"`
}

// judge says whether o may be taken.
func (l ledger) judge(o Order) error {
	if err := o.check(); err != nil {
		return err
	}
	behind := o.Epoch < l.Last.Epoch
	if o.Epoch == l.Last.Epoch {
		behind = o.Generation < l.Last.Generation || (l.Cut && o.Generation == l.Last.Generation)
	}
	if behind {
		return l.stale(o.Epoch, o.Generation)
	}
	return nil
}

func (l ledger) stale(epoch, generation uint64) *StaleError {
	return &StaleError{Epoch: epoch, Generation: generation,
		HighestEpoch: l.Last.Epoch, HighestInside: l.Last.Generation, Cut: l.Cut}
}

// take is the ledger after o, which judge let pass.
func (l ledger) take(o Order) ledger {
	l.Last, l.Cut, l.CutReason = o, false, ""
	return l
}

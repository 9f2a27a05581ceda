package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"holdfast/internal/event"
	"holdfast/internal/orders"
)

// request is one line on the control socket; exactly one field is set.
type request struct {
	Order  *Order     `json:"order,omitempty"`
	Read   *ReadOrder `json:"read,omitempty"`
	Cut    bool       `json:"cut,omitempty"`
	Epoch  uint64     `json:"epoch,omitempty"`  // with cut: the epoch to cut; 0 = whatever is now
	Reason string     `json:"reason,omitempty"` // with cut
	Extend *extension `json:"extend,omitempty"`
	Reread *Spec      `json:"reread,omitempty"`
	Status bool       `json:"status,omitempty"`
}

// extension moves the deadline of the primary on this host.
type extension struct {
	Epoch     uint64         `json:"epoch"`
	Remaining event.Duration `json:"remaining"` // until the keeper's own deadline; 0 takes it away
}

// response is the answer in one line.
type response struct {
	OK     bool        `json:"ok"`
	Error  string      `json:"error,omitempty"`
	Stale  *StaleError `json:"stale,omitempty"` // set when the epoch or generation was too low
	Fixed  bool        `json:"fixed,omitempty"` // a new spec needs a new process
	Status *Status     `json:"status,omitempty"`
}

const lineMax = 64 << 10

// serveControl answers until ctx ends, and returns when its last connection has.
func (g *Gate) serveControl(ctx context.Context, l net.Listener) error {
	return orders.Server{
		LineMax: lineMax, Log: g.log, Clock: g.cfg.Clock, Answer: func(ctx context.Context, line []byte) any { return g.answer(ctx, line) },
	}.Serve(ctx, l)
}

func (g *Gate) answer(ctx context.Context, line []byte) response {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return response{Error: fmt.Sprintf("read request: %v", err)}
	}
	var err error
	switch {
	case r.Cut:
		reason := r.Reason
		if reason == "" {
			reason = "cut by the fence"
		}
		g.Cut(r.Epoch, reason)
	case r.Order != nil:
		err = g.Obey(ctx, *r.Order)
		if _, stale := errors.AsType[*StaleError](err); !stale { // one who is behind this gate tells it nothing
			g.heard()
		}
	case r.Read != nil:
		err = g.ObeyRead(ctx, *r.Read)
	case r.Extend != nil:
		err = g.Extend(r.Extend.Epoch, time.Duration(r.Extend.Remaining))
	case r.Reread != nil:
		err = g.Reread(ctx, *r.Reread)
	case r.Status:
	default:
		err = errors.New("a request needs order, read, cut, extend, reread or status")
	}
	s := g.Status()
	answer := response{OK: err == nil, Status: &s}
	if err != nil {
		answer.Error = err.Error()
		answer.Stale, _ = errors.AsType[*StaleError](err)
		answer.Fixed = errors.Is(err, ErrFixed)
	}
	return answer
}

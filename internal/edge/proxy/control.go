package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"holdfast/internal/orders"
)

// request is one line on the control socket; exactly one field is set.
type request struct {
	Members *Snapshot `json:"members,omitempty"`
	Alone   *Alone    `json:"alone,omitempty"`
	Status  bool      `json:"status,omitempty"`
}

// response is the answer in one line.
type response struct {
	OK     bool        `json:"ok"`
	Error  string      `json:"error,omitempty"`
	Stale  *StaleError `json:"stale,omitempty"` // set when the revision was too low
	Status *Status     `json:"status,omitempty"`
}

const lineMax = 8 << 20 // a snapshot of some ten thousand backends

// serveControl answers until ctx ends, and returns when its last connection has.
func (e *Edge) serveControl(ctx context.Context, l net.Listener) error {
	return orders.Server{
		LineMax: lineMax, Log: e.log, Clock: e.cfg.Clock, Answer: func(ctx context.Context, line []byte) any { return e.answer(ctx, line) },
	}.Serve(ctx, l)
}

func (e *Edge) answer(ctx context.Context, line []byte) response {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return response{Error: fmt.Sprintf("read request: %v", err)}
	}
	var err error
	switch {
	case r.Members != nil:
		err = e.Apply(ctx, *r.Members)
	case r.Alone != nil:
		e.SetAlone(*r.Alone)
	case r.Status:
	default:
		err = errors.New("a request needs members, alone or status")
	}
	s := e.Status()
	answer := response{OK: err == nil, Status: &s}
	if err != nil {
		answer.Error = err.Error()
		answer.Stale, _ = errors.AsType[*StaleError](err)
	}
	return answer
}

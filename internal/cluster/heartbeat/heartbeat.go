// Package heartbeat lets hosts hear each other directly. Every host serves its beats ([Publisher], one long
// HTTP answer per peer with a JSON line per beat) and reads those of every peer ([Listener]). A beat carries
// the sender's report, opaque here, at once when it changes. Gates do the same on a port of their own.
//
// The package tells ages and judges nothing: a refused, reset, half-open or silent connection all look alike,
// the age of the last beat grows. Who is suspected, by how many, decides the room that reads them; whether
// the observer itself was awake, [Lateness] says.
//
// A beat proves that the peer lived lately. It does not prove that the peer hears us, nor when it was sent: a
// host that was frozen finds old beats waiting in its socket. Where that matters [Beat.Contact] counts from
// the moment our own beat was sent that the peer confirms; see [Pair].
package heartbeat

import (
	"encoding/json"
	"strings"
	"time"
)

const (
	// Interval is the usual distance of beats.
	Interval = 250 * time.Millisecond
	// Path is where a Publisher is served.
	Path = "/beats"

	connectTimeout = time.Second
	// silenceMin is the shortest wait after which a stream is taken for half-open and dialled anew.
	silenceMin = time.Second
	// lineMax bounds one beat, so that a broken peer cannot fill our memory.
	lineMax = 4 << 20
)

// beat is one line of the stream.
type beat struct {
	Sender  string          `json:"sender"`
	Life    string          `json:"life"`              // random for each life of the sending process
	Seq     uint64          `json:"seq"`               // rises with every beat of that life, to whomever
	Version uint64          `json:"version"`           // of the report
	Payload json.RawMessage `json:"payload,omitempty"` // the report, if this stream has not told this version yet
	Heard   *heard          `json:"heard,omitempty"`   // the reader's own newest beat as it arrived here
	Clock   int64           `json:"clock,omitempty"`   // the sender's wall clock, in milliseconds since 1970; 0 = it does not tell
}

// heard names one beat.
type heard struct {
	Life string `json:"life"`
	Seq  uint64 `json:"seq"`
}

// hostOf is the host that a sender runs on: "b1" for "b1" and for "b1/gate".
func hostOf(sender string) string {
	host, _, _ := strings.Cut(sender, "/")
	return host
}

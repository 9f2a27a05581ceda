package agent

import (
	"encoding/json"
	"strings"
	"time"

	"holdfast/internal/cluster"
	"holdfast/internal/database"
)

// Names of a request's arguments. Moments are RFC 3339, durations in Go's own notation.
const (
	ArgTo         = "to"          // switchover: the host that shall take over
	ArgAt         = "at"          // switchover: not before; failover: when it was asked for, by the clock of the host that took it
	ArgAsked      = "asked"       // switchover without a moment: when it was asked for, by the clock of the host that took it
	ArgReason     = "reason"      // pause
	ArgPending    = "pending"     // restart: "true" = only servers whose next start would change something
	ArgLives      = "lives"       // restart: the server processes that ran then, by host, as JSON
	ArgFor        = "for"         // pause: how long at most
	ArgUntil      = "until"       // pause: when that is over, by the clock of the host that took the request
	ArgVia        = "via"         // failover: the host whose view was shown
	ArgFormer     = "former"      // failover: incarnation of the primary that is given up
	ArgFloor      = "floor"       // failover: position of the one that would take over, as it was shown
	ArgKept       = "kept"        // settle: the id of what was put aside
	ArgText       = "text"        // settle: what becomes of it
	ArgMode       = "mode"        // base backup: full, proven, fast or auto
	ArgLimit      = "limit"       // base backup: bytes read a second at most
	ArgBackup     = "backup"      // validate: the base backup's id; none = the newest that has not been
	ArgRun        = "run"         // cancel: the id of the base backup or trial under way
	ArgOn         = "on"          // files: the host whose directory is meant
	ArgAllowEmpty = "allow-empty" // files: "true" = a directory without files is backed up though it had some
)

// requestOf is a request as the database room reads it. Moments become times left by this host's wall clock; what
// cannot be read counts as over, and the host that took the request has refused it already.
func requestOf(q Asked, now time.Time) database.Request {
	r := database.Request{ID: q.ID, Kind: q.Kind, To: q.Args[ArgTo], By: q.By, Reason: q.Args[ArgReason]}
	r.Via, r.Former, r.Kept, r.Text = q.Args[ArgVia], q.Args[ArgFormer], q.Args[ArgKept], q.Args[ArgText]
	if at, err := database.ParseLSN(q.Args[ArgFloor]); err == nil {
		r.Floor = at
	}
	if d, err := time.ParseDuration(q.Args[ArgFor]); err == nil {
		r.For = d
	}
	r.Left = left(q.Args[ArgUntil], now)
	r.PendingOnly = q.Args[ArgPending] == "true"
	if q.Args[ArgLives] != "" && json.Unmarshal([]byte(q.Args[ArgLives]), &r.Lives) != nil {
		r.Lives = nil // everything counts as restarted
	}
	if at := q.Args[ArgAt]; at != "" {
		r.Timed, r.In = true, left(at, now)
	} else if asked := q.Args[ArgAsked]; asked != "" { // due at once, also where the clock is behind that of the host that took it
		r.Timed, r.In = true, min(0, left(asked, now))
	}
	return r
}

// left is the time from now to a moment, by the wall clock.
func left(moment string, now time.Time) time.Duration {
	at, err := time.Parse(time.RFC3339Nano, moment)
	if err != nil {
		return 0
	}
	return at.Sub(now.Round(0)) // Round drops the monotonic reading
}

// askedWords is an answer as who asked reads it: a switchover for which no moment was named has none that could have passed.
func askedWords(x database.Answer, agreed map[string]cluster.Entry) database.Answer {
	var q Asked
	if json.Unmarshal(agreed[KeyRequests+x.ID].Value, &q) == nil && q.Args[ArgAsked] != "" {
		if rest, ok := strings.CutPrefix(x.Text, "its moment passed "); ok {
			x.Text = "it was asked for " + rest
		}
	}
	return x
}

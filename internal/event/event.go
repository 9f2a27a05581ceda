// Package event is what happened: typed happenings that the diary, the CLI and receipts show.
package event

import "time"

// Event is one happening. Fields are the same words as log attributes.
type Event struct {
	At      time.Time `json:"at"` // the reporting host's wall clock; for people, never for decisions
	Host    string    `json:"host"`
	Room    string    `json:"room"`    // database, service, backup, ...
	Subject string    `json:"subject"` // which database, service, ...
	What    string    `json:"what"`    // a constant sentence: "standby promoted"
	Because []string  `json:"because,omitempty"`
	Took    Duration  `json:"took,omitempty"`
	// Request is the id of what an operator asked for, where this tells of it, and Settled the revision of the agreed state
	// at which it was settled; 0 = it was not, yet.
	Request string `json:"request,omitempty"`
	Settled int64  `json:"settled,omitempty"`
	// Times says that this stands for so many happenings, equal but for their numbers, of which the first was at Since and
	// the last, whose words these are, at At. 0 = it stands for itself.
	Times int       `json:"times,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Duration prints as text in JSON ("1.2s").
type Duration time.Duration

// MarshalText gives Go's own notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's own notation.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

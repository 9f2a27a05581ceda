package database

import "time"

// Salvage is everything that was put aside of a server's own history: the log behind the place where it left the
// agreed one, and what was committed there.
type Salvage struct {
	ID          string       `json:"id"`
	Database    string       `json:"database"`
	Host        string       `json:"host"`
	Incarnation string       `json:"incarnation"`
	SystemID    uint64       `json:"system_id"`
	Made        time.Time    `json:"made"`
	Given       bool         `json:"given"` // an operator's forced failover gave it up; else nobody had acknowledged any of it
	Timeline    uint32       `json:"timeline"`
	From        string       `json:"from"` // position where the histories parted
	To          string       `json:"to"`   // where its log ends
	Bytes       uint64       `json:"bytes"`
	NextXID     uint32       `json:"next_xid"`         // first transaction number that was not in use at From; 0 = unknown
	Unread      int          `json:"unread,omitempty"` // records that could not be understood: the list may lack something
	Commits     []LostCommit `json:"commits"`
}

// LostCommit is one transaction that a server holds and the database does not.
type LostCommit struct {
	XID      uint32      `json:"xid"`
	Subs     []uint32    `json:"subtransactions,omitempty"`
	Outcome  string      `json:"outcome"` // commit, prepare, commit prepared
	GID      string      `json:"gid,omitempty"`
	LSN      string      `json:"lsn"`
	At       time.Time   `json:"at"` // by the clock of its server
	State    LostState   `json:"state"`
	Database string      `json:"database"` // its name, or its number where nobody knows the name
	Tables   []LostTable `json:"tables"`
	AtLeast  bool        `json:"at_least,omitempty"` // it began before what could be read: there may be more rows
}

// LostState says what its client may believe.
type LostState string

// States of lost commits.
const (
	LostAcknowledged LostState = "acknowledged" // as many standbys held it as must: its client was told, or could have been
	LostInDoubt      LostState = "in doubt"     // its client may or may not have been told; cancelled waits are among them
)

// LostTable is what a transaction did to one table.
type LostTable struct {
	Name      string `json:"name"` // schema.table, or file NODE where nobody knows the name
	Space     uint32 `json:"tablespace"`
	Database  uint32 `json:"database"`
	Node      uint32 `json:"node"`
	Catalog   bool   `json:"catalog,omitempty"` // a system catalog: tables were made, changed or dropped
	Inserted  int    `json:"inserted"`
	Updated   int    `json:"updated"`
	Deleted   int    `json:"deleted"`
	Truncated bool   `json:"truncated,omitempty"`
	Dropped   bool   `json:"dropped,omitempty"` // dropped, truncated or rewritten
}

// Acknowledged counts the commits whose clients were told.
func (r Salvage) Acknowledged() int {
	n := 0
	for _, c := range r.Commits {
		if c.State == LostAcknowledged {
			n++
		}
	}
	return n
}

package restore

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/vault/wal"
)

// Kind says by what a moment is named.
type Kind string

// Kinds of targets.
const (
	Latest Kind = "latest" // the end of what the vault holds
	AtTime Kind = "time"
	AtLSN  Kind = "lsn"
	AtXID  Kind = "xid"
	AtName Kind = "name" // pg_create_restore_point
	// Consistent is the end of the base backup itself: the least log with which a server starts.
	Consistent Kind = "consistent"
)

// Target is the moment to restore to. The zero value is the latest.
type Target struct {
	Kind      Kind
	Time      time.Time
	LSN       wal.LSN // the target, or with AtXID a position at or before its commit, which lets Choose take the nearest backup
	XID       uint32
	Name      string
	Exact     bool   // with AtName: LSN is the end of the restore point's own record, so nothing behind its segment is needed
	Exclusive bool   // stop just before instead of just after; not with Latest and AtName
	Timeline  uint32 // 0 = the newest that leads there
	SystemID  uint64 // in whose log; 0 = in whichever leads there
}

// String is the target as an operator wrote it or would have.
func (t Target) String() string {
	prefix := ""
	if t.Exclusive {
		prefix = "just before "
	}
	switch t.Kind {
	case AtTime:
		return prefix + t.Time.UTC().Format("2006-01-02 15:04:05.999999Z07:00")
	case AtLSN:
		return prefix + t.LSN.String()
	case AtXID:
		return fmt.Sprintf("%stransaction %d", prefix, t.XID)
	case AtName:
		return "restore point " + t.Name
	case Consistent:
		return "the end of the base backup"
	default:
		return "latest"
	}
}

// ParseTarget reads what stands behind --at: latest, a time, a log position (0/3000060), xid:1234 or
// name:before-upgrade, or immediate: the end of the newest base backup. Times are read as [ParseTime] does. "before:" in front stops just before it.
func ParseTarget(s string, zone *time.Location) (Target, error) {
	rest, exclusive := strings.CutPrefix(strings.TrimSpace(s), "before:")
	t := Target{Kind: Latest, Exclusive: exclusive}
	switch {
	case rest == "" || rest == "latest":
		if exclusive {
			return Target{}, fmt.Errorf("read target %q: there is nothing before the latest", s)
		}
		return t, nil
	case rest == "immediate" && !exclusive:
		t.Kind = Consistent
		return t, nil
	case strings.HasPrefix(rest, "xid:"):
		x, err := strconv.ParseUint(rest[4:], 10, 32)
		if err != nil || x < 3 {
			return Target{}, fmt.Errorf("read target %q: not a transaction number (3 to 4294967295)", s)
		}
		t.Kind, t.XID = AtXID, uint32(x)
		return t, nil
	case strings.HasPrefix(rest, "name:") && len(rest) > 5 && !exclusive:
		t.Kind, t.Name = AtName, rest[5:]
		return t, nil
	}
	if lsn, err := wal.ParseLSN(rest); err == nil {
		t.Kind, t.LSN = AtLSN, lsn
		return t, nil
	}
	if at, ok, err := ParseTime(rest, zone); ok {
		if err != nil {
			return Target{}, fmt.Errorf("read target %q: %w", s, err)
		}
		t.Kind, t.Time = AtTime, at
		return t, nil
	}
	return Target{}, fmt.Errorf("read target %q: not latest, a time (2026-11-20 14:30:00), a log position (0/3000060), xid:NUMBER, name:NAME or immediate", s)
}

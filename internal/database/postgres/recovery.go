package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/database"
	"holdfast/internal/durable"
)

const (
	recoveryLeast = 16 << 20              // bytes: what replays less tells nothing of the rate
	recoveryBrief = 50 * time.Millisecond // nor does what took less
)

// recovery keeps the last recovery of this server that was long enough to tell how fast it replays.
type recovery struct {
	read  bool   // the file was
	life  string // whose log was looked at, and in which role
	known *database.Recovery
}

// observeRecovery finds how fast the server replayed when it started, once for each life and role, and remembers it
// beyond its life.
func (s *Server) observeRecovery(l *database.Local) error {
	r := &s.watch.recovery
	if !r.read {
		known, err := readRecovery(s.at.recovery)
		if err != nil {
			return err
		}
		r.read, r.known = true, known
	}
	if life := l.Life + string(l.Role); l.Ready && l.Life != "" && life != r.life {
		log, err := readTail(s.at.output, wordsMax)
		if err != nil {
			return err
		}
		r.life = life
		if found, ok := recoveryOf(log); ok {
			r.known = &found
			b, err := json.Marshal(found)
			if err != nil {
				return fmt.Errorf("keep how fast the server replayed: %w", err)
			}
			if err := durable.WriteFile(s.at.recovery, append(b, '\n'), 0o644); err != nil {
				return err
			}
		}
	}
	l.Recovery = r.known
	return nil
}

func readRecovery(path string) (*database.Recovery, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how fast the server replayed: %w", err)
	}
	var r database.Recovery
	if json.Unmarshal(b, &r) != nil || r.Bytes == 0 || r.Took <= 0 {
		return nil, nil // a figure that is lost is measured again
	}
	return &r, nil
}

var (
	redoStarts = regexp.MustCompile(`^redo starts at ([0-9A-F]+/[0-9A-F]+)$`)
	redoSound  = regexp.MustCompile(`^consistent recovery state reached at ([0-9A-F]+/[0-9A-F]+)$`)
	redoDone   = regexp.MustCompile(`^redo done at ([0-9A-F]+/[0-9A-F]+) .*elapsed: ([0-9.]+) s$`)
)

// recoveryOf finds in a log what the last life replayed before it was consistent, or, where it never streamed, before it
// became a primary. ok = it was enough to tell a rate.
func recoveryOf(log string) (r database.Recovery, ok bool) {
	if i := strings.LastIndex(log, "LOG:  starting PostgreSQL "); i >= 0 {
		log = log[i:]
	}
	var from database.LSN
	var since time.Time
	streamed := false
	note := func(to database.LSN, took time.Duration) {
		if from != 0 && to > from && to-from >= recoveryLeast && took >= recoveryBrief && to-from > r.Bytes {
			r, ok = database.Recovery{Bytes: to - from, Took: took}, true
		}
	}
	for line := range strings.SplitSeq(log, "\n") {
		m := logLine.FindStringSubmatch(line)
		if m == nil || m[1] != "" || m[2] != "LOG" {
			continue
		}
		at, said := timeOf(line), m[3]
		if x := redoStarts.FindStringSubmatch(said); x != nil {
			from, since = lsnOr0(x[1]), at
		} else if x := redoSound.FindStringSubmatch(said); x != nil && !since.IsZero() && !at.IsZero() {
			note(lsnOr0(x[1]), at.Sub(since))
		} else if x := redoDone.FindStringSubmatch(said); x != nil && !streamed {
			if elapsed, err := strconv.ParseFloat(x[2], 64); err == nil {
				note(lsnOr0(x[1]), time.Duration(elapsed*float64(time.Second)))
			}
		}
		streamed = streamed || strings.HasPrefix(said, "started streaming WAL ")
	}
	return r, ok
}

// timeOf is the moment at the beginning of a line of PostgreSQL's log; zero when there is none. Its zone does not matter:
// only differences are taken.
func timeOf(line string) time.Time {
	const form = "2006-01-02 15:04:05.000"
	if len(line) < len(form) {
		return time.Time{}
	}
	at, err := time.Parse(form, line[:len(form)])
	if err != nil {
		return time.Time{}
	}
	return at
}

func lsnOr0(text string) database.LSN {
	at, err := database.ParseLSN(text)
	if err != nil {
		return 0
	}
	return at
}

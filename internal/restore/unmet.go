package restore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault/wal"
)

// namesTold bounds how many restore points a refusal names: those made last.
const namesTold = 20

// logged is what a stretch of log holds that a target may name.
type logged struct {
	commits     int
	first, last uint32 // transactions, in the order of their commits
	at          time.Time
	names       []string // restore points in their order; one that was made twice counts where it was made first, as for a restore
}

// unmet says that all log was replayed and the target was not among it, or lies before a server on the backup is consistent,
// and what would be possible. The directory is as the server left it: a restore to another target goes on with it.
func unmet(ctx context.Context, c Choice, early *EndedEarlyError, o ScratchOptions) error {
	b := c.Backup
	held, err := readLogged(ctx, c, o)
	what := fmt.Sprintf("Possible from base backup %s on timeline %d is what was written from %s (%s) to %s, known to be whole up to %s.",
		b.ID, c.Timeline, b.Stop, stamp(b.Stopped), c.End, stamp(c.Covered))
	switch {
	case err != nil:
		what += " Which transactions and restore points it holds is not known: " + err.Error() + "."
	case c.Target.Kind == AtName:
		what += " " + held.namesText()
	default:
		what += " " + held.commitsText()
	}
	title := fmt.Sprintf("cannot be restored to %s: the log does not hold it", c.Target)
	if early.Inconsistent {
		title = fmt.Sprintf("cannot be restored to %s: it lies before the end of the oldest base backup that leads there", c.Target)
	}
	remedy := "name another target, or a time inside the window: holdfast backup window " + b.Database
	if c.Target.LSN != 0 && !c.Target.Exact {
		remedy = "leave the position behind @ away, if it may be a later one; or " + remedy
	}
	return &problem.Problem{Code: "restore.not-in-log", Subject: b.Database, Severity: problem.Critical, Title: title, Meaning: what +
		"\n  No server was left on what was written. The vault and the live database are as they were.", Remedy: remedy}
}

func (l logged) commitsText() string {
	switch l.commits {
	case 0:
		return "No transaction was committed in it."
	case 1:
		return fmt.Sprintf("One transaction was committed in it: %d, at %s.", l.first, stamp(l.at))
	}
	return fmt.Sprintf("%d transactions were committed in it: the first is %d, the last %d at %s.", l.commits, l.first, l.last, stamp(l.at))
}

func (l logged) namesText() string {
	told := l.names[max(0, len(l.names)-namesTold):]
	switch {
	case len(told) == 0:
		return "No restore point was made in it."
	case len(told) < len(l.names):
		return fmt.Sprintf("%d restore points were made in it, lastly %q.", len(l.names), told)
	}
	return fmt.Sprintf("The restore points in it are %q.", told)
}

// readLogged reads what lies in the restored directory's log, from where the backup is consistent.
func readLogged(ctx context.Context, c Choice, o ScratchOptions) (logged, error) {
	program := filepath.Join(o.BinDir, logProgram)
	if _, err := os.Stat(program); err != nil {
		return logged{}, fmt.Errorf("%s is not in %s", logProgram, o.BinDir)
	}
	kind := "Transaction"
	if c.Target.Kind == AtName {
		kind = "XLOG"
	}
	var all logged
	dir := filepath.Join(o.Dir, "pg_wal")
	for _, s := range onDisk(c, dir) {
		cmd := exec.CommandContext(ctx, program, "-p", dir, "-t", fmt.Sprint(s.timeline), "-s", s.from.String(), "-r", kind)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
		var said strings.Builder
		cmd.Stderr = &said
		pipe, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return logged{}, err
		}
		scanErr := all.read(pipe, s.to)
		err = cmd.Wait()
		// As in scanLog: where the log ends it always ends with an error.
		if err != nil && !strings.Contains(said.String(), "error in WAL record at") && !strings.Contains(said.String(), "could not find file") {
			return logged{}, errors.Join(scanErr, fmt.Errorf("pg_waldump: %w: %s", err, strings.TrimSpace(said.String())))
		}
		if scanErr != nil {
			return logged{}, scanErr
		}
	}
	return all, nil
}

// logPart is log on one timeline: records that begin at from or behind it, and before to.
type logPart struct {
	timeline uint32
	from, to wal.LSN
}

// onDisk are the stretches behind the backup whose segments lie in dir to the end: a server that replayed much may have let
// go of the first ones.
func onDisk(c Choice, dir string) []logPart {
	var out []logPart
	for _, p := range c.Pieces {
		if p.End <= c.Backup.Stop {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, wal.SegmentName(p.Timeline, p.Start, c.Backup.SegmentSize))); err != nil {
			out = nil // what lies before it says nothing of the whole
			continue
		}
		if n := len(out); n > 0 && out[n-1].timeline == p.Timeline {
			out[n-1].to = p.End
			continue
		}
		out = append(out, logPart{timeline: p.Timeline, from: max(p.Start, c.Backup.Stop), to: p.End})
	}
	return out
}

// read adds what pg_waldump says, of records before end.
func (l *logged) read(r io.Reader, end wal.LSN) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), 16<<20)
	seen := map[string]bool{}
	for _, n := range l.names {
		seen[n] = true
	}
	for sc.Scan() {
		m := dumpLine.FindStringSubmatch(sc.Text())
		if m == nil {
			continue
		}
		if at, err := wal.ParseLSN(m[3]); err != nil || at >= end {
			continue // of a segment that another timeline goes on with
		}
		if name, ok := strings.CutPrefix(m[4], "RESTORE_POINT "); ok && m[1] == "XLOG" && !seen[name] {
			l.names, seen[name] = append(l.names, name), true
		}
		if err := l.commit(m); err != nil {
			return fmt.Errorf("read pg_waldump's line %q: %w", sc.Text(), err)
		}
	}
	return sc.Err()
}

// commit counts a line that tells of a commit; of a prepared transaction its own number counts, as for a restore.
func (l *logged) commit(m []string) error {
	c := dumpCommit.FindStringSubmatch(m[4])
	if m[1] != "Transaction" || c == nil {
		return nil
	}
	number := m[2]
	if rest, ok := strings.CutPrefix(m[4], "COMMIT PREPARED "); ok {
		number, _, _ = strings.Cut(rest, ":")
	}
	xid, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return err
	}
	if l.at, err = time.Parse("2006-01-02 15:04:05.999999 UTC", c[1]); err != nil {
		return err
	}
	if l.commits == 0 {
		l.first = uint32(xid)
	}
	l.commits, l.last = l.commits+1, uint32(xid)
	return nil
}

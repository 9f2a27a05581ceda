package restore

import (
	"os"
	"regexp"
	"strconv"
	"time"

	"holdfast/internal/restore/forecast"
	"holdfast/internal/vault/wal"
)

// Times is what the phases of a restore took. They follow each other without a gap.
type Times struct {
	Fetch    time.Duration
	Start    time.Duration // of the server, with the end of its recovery and a first replay that did not reach its target; of [Database] with its stop too
	Replay   time.Duration // until what it changed is on the disk: the checkpoint at the end of a recovery grows with the log
	Replayed int64         // bytes of log, as the server told; 0 = it did not, or replayed some of it twice
}

// Total is the whole of it.
func (t Times) Total() time.Duration { return t.Fetch + t.Start + t.Replay }

// Took gives the times by their phase: they come to Total. A phase that was not come to is missing, and so is the replay when the
// server did not tell it from its start.
func (t Times) Took() map[string]time.Duration {
	took := map[string]time.Duration{forecast.Fetch: t.Fetch}
	if t.Start > 0 || t.Replay > 0 {
		took[forecast.Start] = t.Start
	}
	if t.Replay > 0 || t.Replayed > 0 {
		took[forecast.Replay] = t.Replay
	}
	return took
}

// Times splits what the recovery took into the replay, by the server's own word, and the rest. Call it before Stop, which
// takes the server's log away.
func (r *Recovered) Times(recovery time.Duration) Times {
	raw, err := os.ReadFile(r.logPath())
	if err != nil {
		return Times{Start: recovery} // nothing is known of the replay: all of it counts as the start
	}
	took, bytes := redo(string(raw))
	if !r.Reached { // it was replayed once more
		bytes = 0
	}
	return Times{Start: max(recovery-took, 0), Replay: took, Replayed: bytes}
}

// PostgreSQL tells what it replayed at the level LOG (PerformWalRecovery, since version 14 with times), and with log_checkpoints
// how long it took to write what that changed (LogCheckpointEnd):
//
//	redo starts at 0/2000028
//	redo done at 0/90000A8 system usage: CPU: user: 0.41 s, system: 0.10 s, elapsed: 0.62 s
//	checkpoint starting: end-of-recovery immediate wait
//	checkpoint complete: wrote 5 buffers (0.0%); ... write=0.001 s, sync=0.001 s, total=0.003 s; sync files=4, ...
var (
	redoStarts = regexp.MustCompile(`redo starts at ([0-9A-F]+/[0-9A-F]+)`)
	redoDone   = regexp.MustCompile(`redo done at ([0-9A-F]+/[0-9A-F]+) .*elapsed: ([0-9.]+) s`)
	recovered  = regexp.MustCompile(`(?s)checkpoint starting: end-of-recovery.*?checkpoint complete: [^\n]* total=([0-9.]+) s`)
)

// redo reads from a server's log how long it replayed, and how many bytes; zero where it does not say. Pure.
func redo(log string) (took time.Duration, bytes int64) {
	begun, done := redoStarts.FindStringSubmatch(log), redoDone.FindStringSubmatch(log)
	if begun == nil || done == nil {
		return 0, 0
	}
	from, fromErr := wal.ParseLSN(begun[1])
	to, toErr := wal.ParseLSN(done[1])
	s, err := strconv.ParseFloat(done[2], 64)
	if fromErr != nil || toErr != nil || err != nil || to < from {
		return 0, 0
	}
	if written := recovered.FindStringSubmatch(log); written != nil {
		if x, err := strconv.ParseFloat(written[1], 64); err == nil {
			s += x
		}
	}
	return time.Duration(s * float64(time.Second)), int64(to - from)
}

// Work is what restoring a choice is to do. How much of the log lies before a moment is not known before it is replayed: it is
// taken as spread evenly over the time, and that is said. Pure.
func Work(c Choice, checks bool) forecast.Work {
	w := forecast.Work{Data: c.Backup.Bytes, Log: int64(len(c.Pieces)) * int64(c.Backup.SegmentSize), Checks: checks}
	end := c.End
	switch t := c.Target; t.Kind {
	case Consistent:
		end = min(end, c.Backup.Stop)
	case AtLSN:
		end = min(end, t.LSN)
	case AtName, AtXID:
		if t.LSN > 0 && t.Exact {
			end = min(end, t.LSN)
		} else {
			w.Says = "the moment lies at the end of the log that is there; where it comes earlier, less is replayed"
		}
	case AtTime:
		if all := c.Covered.Sub(c.Backup.Stopped); all > 0 && end > c.Backup.Stop {
			part := min(max(t.Time.Sub(c.Backup.Stopped).Seconds()/all.Seconds(), 0), 1)
			end = c.Backup.Stop + wal.LSN(part*float64(end-c.Backup.Stop))
			w.Says = "the log is spread evenly over the time that it covers"
		}
	}
	if end > c.Backup.Start {
		w.Replay = int64(end - c.Backup.Start)
	}
	return w
}

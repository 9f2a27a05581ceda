package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Catalogue is what a vault holds of one database, as data.
type Catalogue struct {
	Database string
	Backups  []vault.Backup
	Logs     map[uint64]HeldLog // by system identifier
	Unseen   *problem.Problem   // a copy or an index of the vault that could not be read, and what is not known for that; nil = all were
}

// HeldLog is the log of one cluster.
type HeldLog struct {
	SegmentSize uint64
	Held        []wal.Held
	Histories   map[uint32]wal.History
	Covered     map[uint32]Mark // by timeline: how far in time the log is known to be whole
	// Before says the same of each run of log behind which some is missing: by timeline, in the order of position.
	Before map[uint32][]Mark
}

// Mark says that everything written when the server's clock showed At ends at End.
type Mark struct {
	End wal.LSN
	At  time.Time
}

// Choice is a base backup and the log that leads from it to a target.
type Choice struct {
	Backup   vault.Backup
	Target   Target
	Timeline uint32
	Pieces   []wal.Held // in the order of replay
	End      wal.LSN    // where the pieces end
	Covered  time.Time  // every commit up to then is among them; zero = unknown
	Because  []string
	Unseen   *problem.Problem // as in [Catalogue]
}

// Window is what can be restored from one backup.
type Window struct {
	Backup string
	From   time.Time // the backup's end
	Start  wal.LSN   // the same as a position
	To     time.Time // zero = unknown, at least From
	End    wal.LSN

	SystemID uint64
	Missing  wal.Hole // log that is missing behind End, where some is held behind it; zero = none is known of
}

// marksTried bounds how many pieces of a run are asked for a time: whoever stores the log gives nearly each of them one.
const marksTried = 8

// recordSpan is how far behind a position its record may end, in bytes, and at least a segment. A longer one, which only a
// message of an extension or a commit of millions of things is, is not among the log: a restore to it is refused.
const recordSpan = 64 << 20

// Load reads a catalogue. A base backup whose entry cannot be read is an error.
func Load(ctx context.Context, v *vault.Vault, database string) (Catalogue, error) {
	return load(ctx, v, database, v.Backups)
}

// LoadReadable is [Load] for who shows a catalogue or restores, and lets nothing go by it: what cannot be read is told as Unseen.
func LoadReadable(ctx context.Context, v *vault.Vault, database string) (Catalogue, error) {
	return load(ctx, v, database, v.ReadableBackups)
}

func load(ctx context.Context, v *vault.Vault, database string, list func(context.Context, string) ([]vault.Backup, error)) (Catalogue, error) {
	c := Catalogue{Database: database, Logs: map[uint64]HeldLog{}}
	away := v.Away()
	var err error
	if c.Backups, err = list(ctx, database); err != nil {
		return c, err
	}
	for _, b := range c.Backups {
		if _, ok := c.Logs[b.SystemID]; ok {
			continue
		}
		if c.Logs[b.SystemID], err = loadLog(ctx, v.Log(b.SystemID, b.SegmentSize)); err != nil {
			return c, err
		}
	}
	if now := v.Away(); len(now) > len(away) { // one that comes back meanwhile had no part in all of it
		away = now
	}
	if c.Unseen = unseen(c, away); c.Unseen == nil {
		c.Unseen, err = v.Hides(ctx)
	}
	return c, err
}

// unseen says which copies had no part in a catalogue, and what may be there. Pure.
func unseen(c Catalogue, away []error) *problem.Problem {
	if len(away) == 0 {
		return nil
	}
	newest, known := time.Time{}, time.Time{}
	for _, b := range c.Backups {
		if b.Stopped.After(newest) {
			newest = b.Stopped
		}
	}
	for _, l := range c.Logs {
		for _, m := range l.Covered {
			if m.At.After(known) {
				known = m.At
			}
		}
	}
	what := "The copies that answer hold no base backup of it; that one may."
	if len(c.Backups) > 0 {
		what = fmt.Sprintf("The copies that answer hold %d base backups, the newest of %s, and log that is known to be whole up to %s. Whether the other holds newer ones, or log that is missing here, is not known.",
			len(c.Backups), stamp(newest), stamp(known))
	}
	return &problem.Problem{Code: "restore.copy-unseen", Subject: c.Database, Severity: problem.Degraded,
		Title: "not every copy of the vault could be read: " + errors.Join(away...).Error(), Meaning: what,
		Remedy: "bring it back and look again, if a later moment is wanted: holdfast vault status says how it stands"}
}

func loadLog(ctx context.Context, log *vault.Log) (HeldLog, error) {
	h := HeldLog{SegmentSize: log.SegmentSize(), Histories: map[uint32]wal.History{}, Covered: map[uint32]Mark{}, Before: map[uint32][]Mark{}}
	timelines, err := log.Timelines(ctx)
	if err != nil {
		return h, err
	}
	for _, t := range timelines {
		switch history, err := log.History(ctx, t); {
		case err == nil:
			h.Histories[t] = history
		case !errors.Is(err, vault.ErrNotHeld):
			return h, err
		}
		// Before the pieces are listed: a mark must not speak of log that the list has not seen.
		end, at, err := log.Covered(ctx, t)
		if err != nil {
			return h, err
		}
		h.Covered[t] = Mark{End: end, At: at}
	}
	for range listsTried {
		if h.Held, err = log.Held(ctx); err != nil {
			return h, err
		}
		if err = h.mark(ctx, log, timelines); !errors.Is(err, vault.ErrReplaced) {
			break
		}
	}
	if errors.Is(err, vault.ErrReplaced) { // somebody stores and stores; the marks of before the lists are true
		err = nil
	}
	return h, err
}

// listsTried is how often the log is listed, where what was listed last has been replaced before it could be asked.
const listsTried = 5

// mark asks the pieces until when they hold everything.
func (h *HeldLog) mark(ctx context.Context, log *vault.Log, timelines []uint32) error {
	clear(h.Before)
	var replaced error
	for _, t := range timelines {
		runs := runsOf(h.Held, t)
		for i, run := range runs {
			m, err := markOf(ctx, log, run)
			switch {
			case errors.Is(err, vault.ErrReplaced):
				replaced = err
			case err != nil:
				return err
			}
			switch {
			case i < len(runs)-1 && !m.At.IsZero():
				h.Before[t] = append(h.Before[t], m)
			case i == len(runs)-1 && m.At.After(h.Covered[t].At): // the last piece says so too, and may be newer
				h.Covered[t] = m
			}
		}
	}
	return replaced
}

// runsOf are the pieces of a timeline, cut where log is missing between them. held is in the order of [wal.Sorted]. Pure.
func runsOf(held []wal.Held, timeline uint32) (runs [][]wal.Held) {
	end := wal.LSN(0)
	for _, p := range held {
		if p.Timeline != timeline {
			continue
		}
		if len(runs) == 0 || p.Start > end {
			runs = append(runs, nil)
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], p)
		end = max(end, p.End)
	}
	return runs
}

// markOf is the newest moment that one of the last pieces of a run tells. The error is [vault.ErrReplaced], beside what others tell, where one
// of them is not there any more.
func markOf(ctx context.Context, log *vault.Log, run []wal.Held) (m Mark, err error) {
	for _, p := range slices.Backward(run[max(0, len(run)-marksTried):]) {
		at, failed := log.Covers(ctx, p)
		switch {
		case errors.Is(failed, vault.ErrReplaced):
			err = failed
		case failed != nil:
			return m, failed
		case !at.IsZero():
			return Mark{End: p.End, At: at}, err
		}
	}
	return m, err
}

// Choose picks the base backup and the log for a target: the backup that leaves the least to replay. When
// there is no way to the target it returns a problem with the window that can be reached, and with what could not be seen. Pure.
func Choose(c Catalogue, t Target) (Choice, error) {
	ch, err := choose(c, t)
	ch.Unseen = c.Unseen
	if p, ok := errors.AsType[*problem.Problem](err); ok && c.Unseen != nil {
		p.Meaning += "\n  " + c.Unseen.Title + ". " + c.Unseen.Meaning
		p.Remedy = c.Unseen.Remedy + "; or " + p.Remedy
	}
	return ch, err
}

func choose(c Catalogue, t Target) (Choice, error) {
	if len(c.Backups) == 0 {
		return Choice{}, &problem.Problem{Code: "restore.no-backup", Subject: c.Database, Severity: problem.Critical,
			Title: "the vault holds no base backup of it", Meaning: "There is nothing to restore from.", Remedy: "look into another vault, or make a backup: holdfast backup run " + c.Database}
	}
	backups := slices.SortedFunc(slices.Values(c.Backups), func(a, b vault.Backup) int {
		return cmp.Or(b.Stopped.Compare(a.Stopped), cmp.Compare(b.ID, a.ID)) // newest first
	})
	if (t.Kind == AtXID || t.Kind == AtName) && t.LSN == 0 {
		slices.Reverse(backups) // nothing tells where it lies: the oldest backup is before it if any is
	}
	var because []string
	for _, b := range backups {
		ch, why := try(c, b, t)
		if why != "" {
			because = append(because, b.ID+": "+why)
			continue
		}
		ch.Because = append(because, ch.Because...)
		return ch, nil
	}
	return Choice{}, outside(c, t, because)
}

// Beyond is the log that is missing behind all that the newest way reaches, when there is log behind it: no backup that was
// made leads there. Pure.
func Beyond(c Catalogue) (wal.Hole, bool) {
	ch, err := Choose(c, Target{Kind: Latest})
	if err != nil {
		return wal.Hole{}, false // nothing leads anywhere: that is said elsewhere
	}
	hole := wal.Hole{Timeline: ch.Timeline, From: ch.End}
	for _, h := range c.Logs[ch.Backup.SystemID].Held {
		if h.Timeline == ch.Timeline && h.Start > ch.End && (hole.To == 0 || h.Start < hole.To) {
			hole.To = h.Start
		}
	}
	return hole, hole.To != 0
}

// try judges one backup; why is empty when it serves.
func try(c Catalogue, b vault.Backup, t Target) (ch Choice, why string) {
	if b.Validation != nil && !b.Validation.Passed {
		return ch, "was restored on trial and found bad"
	}
	if t.SystemID != 0 && b.SystemID != t.SystemID {
		return ch, "is of another cluster"
	}
	log := c.Logs[b.SystemID]
	timeline, history, ok := way(log, b, t)
	if !ok {
		return ch, "no timeline that was asked for leads on from it"
	}
	pieces, end := wal.Reach(history, log.Held, b.Start, log.SegmentSize)
	covered := coveredOn(log, history, end)
	if end < b.Stop {
		return ch, fmt.Sprintf("the log that makes it consistent is missing behind %s (needed up to %s)", end, b.Stop)
	}
	switch {
	case t.Kind == AtTime && t.Time.Before(b.Stopped):
		return ch, "ended after that, at " + stamp(b.Stopped)
	case t.Kind == AtTime && t.Time.After(covered):
		return ch, "its log is known to be whole up to " + stamp(covered) + " only" + missingText(missing(log, history, end), ", and missing is ")
	case t.LSN != 0 && t.LSN < b.Stop:
		return ch, "became consistent behind that, at " + b.Stop.String()
	case t.LSN != 0 && t.LSN > end:
		return ch, "its log ends before that, at " + end.String() + missingText(missing(log, history, end), ", and missing is ")
	}
	switch t.Kind { // nothing behind the target's segment is read
	case AtLSN: // but what holds the first record at or behind the position: that ends the replay
		behind := wal.LSN(max(log.SegmentSize, recordSpan))
		pieces = slices.DeleteFunc(pieces, func(p wal.Held) bool { return p.Start > t.LSN+behind })
	case AtName:
		if !t.Exact {
			break
		}
		pieces = slices.DeleteFunc(pieces, func(p wal.Held) bool { return p.Start > t.LSN })
	case Consistent:
		pieces = slices.DeleteFunc(pieces, func(p wal.Held) bool { return p.Start > b.Stop })
	}
	ch = Choice{Backup: b, Target: t, Timeline: timeline, Pieces: pieces, End: end, Covered: covered}
	ch.Because = []string{fmt.Sprintf("%s is the nearest base backup, and the log from %s to %s on timeline %d follows it without a hole", b.ID, b.Start, end, timeline)}
	if !b.Validated() {
		ch.Because = append(ch.Because, b.ID+" has not been validated by a restore yet")
	}
	return ch, ""
}

// way is the timeline to follow from a backup: the one asked for, or the newest that leads on from it.
func way(log HeldLog, b vault.Backup, t Target) (uint32, wal.History, bool) {
	best, history := uint32(0), wal.History(nil)
	for tl, h := range log.Histories {
		if t.Timeline != 0 && tl != t.Timeline {
			continue
		}
		if tl > best && h.Holds(b.Timeline, b.Stop) {
			best, history = tl, h
		}
	}
	return best, history, best != 0
}

// coveredOn is the latest moment that the log up to end is known to cover, by the clock of the newest server on that way that tells: an
// earlier one's may have been ahead.
func coveredOn(log HeldLog, h wal.History, end wal.LSN) time.Time {
	for _, s := range slices.Backward(h) {
		var best Mark
		for _, m := range append([]Mark{log.Covered[s.Timeline]}, log.Before[s.Timeline]...) {
			if m.End <= end && (s.End == 0 || m.End <= s.End) && m.At.After(best.At) {
				best = m
			}
		}
		if !best.At.IsZero() {
			return best.At
		}
	}
	return time.Time{}
}

// missing is the log that is missing behind end, where some on the same history is held behind it; zero = none is known of.
func missing(log HeldLog, h wal.History, end wal.LSN) wal.Hole {
	hole := wal.Hole{From: end}
	for _, p := range log.Held {
		if p.Start > end && h.Holds(p.Timeline, p.Start) && (hole.To == 0 || p.Start < hole.To) {
			hole.To = p.Start
		}
	}
	tl, ok := h.At(end)
	if hole.To == 0 || !ok {
		return wal.Hole{}
	}
	hole.Timeline = tl
	return hole
}

func missingText(h wal.Hole, before string) string {
	if h.To == 0 {
		return ""
	}
	return fmt.Sprintf("%slog from %s to %s on timeline %d", before, h.From, h.To, h.Timeline)
}

// Windows lists what can be restored, newest backup first.
func Windows(c Catalogue) []Window {
	var out []Window
	for _, b := range slices.Backward(c.Backups) {
		if ch, why := try(c, b, Target{Kind: Latest}); why == "" {
			log := c.Logs[b.SystemID]
			w := Window{Backup: b.ID, From: b.Stopped, Start: b.Stop, To: ch.Covered, End: ch.End, SystemID: b.SystemID, Missing: missing(log, log.Histories[ch.Timeline], ch.End)}
			if w.To.Before(w.From) {
				w.To = w.From
			}
			out = append(out, w)
		}
	}
	return out
}

// ranges are the windows, oldest first, with those of one cluster that overlap in time as one.
func ranges(c Catalogue) []Window {
	sorted := slices.SortedFunc(slices.Values(Windows(c)), func(a, b Window) int {
		return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To))
	})
	var out []Window
	for _, w := range sorted {
		n := len(out) - 1
		if n < 0 || w.SystemID != out[n].SystemID || w.From.After(out[n].To) {
			out = append(out, w)
			continue
		}
		out[n].Start = min(out[n].Start, w.Start)
		if w.End >= out[n].End {
			out[n].End, out[n].Missing = w.End, w.Missing
		}
		if w.To.After(out[n].To) {
			out[n].To = w.To
		}
	}
	return out
}

func outside(c Catalogue, t Target, because []string) error {
	p := &problem.Problem{Code: "restore.outside-window", Subject: c.Database, Severity: problem.Critical,
		Title: fmt.Sprintf("cannot be restored to %s", t), Remedy: "choose a moment inside what is possible: holdfast backup window " + c.Database}
	possible := ranges(c)
	if len(possible) == 0 {
		p.Meaning = "No backup in the vault can be restored at all."
		p.Remedy = "make a new base backup at once: holdfast backup run " + c.Database
	}
	for i, r := range possible {
		text := r.text()
		if i == 0 {
			p.Meaning = "Possible is " + text + "."
			continue
		}
		p.Meaning += "\n  Possible is " + text + ", and nothing between that and the one before."
	}
	for _, why := range because {
		p.Meaning += "\n  " + why
	}
	return p
}

// text says no moment that is outside: seconds are rounded to the inside, where the range has one.
func (w Window) text() string {
	from := w.From.Add(time.Second - 1).Truncate(time.Second)
	if from.After(w.To) {
		from = w.From
	}
	return fmt.Sprintf("%s to %s (%s to %s%s)", stamp(from), stamp(w.To), w.Start, w.End, missingText(w.Missing, "; behind that is missing "))
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z07:00")
}

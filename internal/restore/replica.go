package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"holdfast/internal/database"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Wanted says which running database a standby is to be made for.
type Wanted struct {
	Database    string // the plan's name
	SystemID    uint64
	Major       int
	SegmentSize uint64          // bytes
	Chain       []database.Fork // the timelines that its hosts have agreed on, without the first; its last one is the primary's
}

// history is the way from the first timeline to the primary's.
func (w Wanted) history() wal.History {
	h := wal.History{{Timeline: 1}}
	for _, f := range w.Chain {
		h[len(h)-1].End = wal.LSN(f.LSN)
		h = append(h, wal.Stretch{Timeline: f.Timeline, Begin: wal.LSN(f.LSN)})
	}
	return h
}

// Replica is a base backup that a standby can be made of, and the log that leads on from it along the agreed timelines.
type Replica struct {
	vault  *vault.Vault
	choice Choice
	wanted Wanted
}

// FindReplica looks for what a standby can be made of. A *problem.Problem says why there is nothing.
func FindReplica(ctx context.Context, v *vault.Vault, w Wanted) (*Replica, error) {
	c, err := Load(ctx, v, w.Database)
	if err != nil {
		return nil, err
	}
	choice, err := ChooseReplica(c, w)
	if err != nil {
		return nil, err
	}
	return &Replica{vault: v, choice: choice, wanted: w}, nil
}

// ChooseReplica picks the base backup that a standby is made of: of this system, on the way to the primary's timeline, with
// log that makes it consistent; the newest that was proven, or else the newest. Pure.
func ChooseReplica(c Catalogue, w Wanted) (Choice, error) {
	backups := slices.SortedFunc(slices.Values(c.Backups), func(a, b vault.Backup) int {
		return cmp.Or(-cmp.Compare(rank(a.Validated()), rank(b.Validated())), b.Stopped.Compare(a.Stopped), cmp.Compare(b.ID, a.ID))
	})
	var because []string
	for _, b := range backups {
		ch, why := serve(c, b, w)
		if why == "" {
			ch.Because = append(because, ch.Because...)
			return ch, nil
		}
		because = append(because, b.ID+" "+why)
	}
	if len(backups) == 0 {
		because = []string{"it holds no base backup of it"}
	}
	return Choice{}, &problem.Problem{
		Code: "database.no-copy-in-vault", Subject: w.Database, Severity: problem.Degraded,
		Title:   "the vault cannot give a copy: " + strings.Join(because, "; "),
		Meaning: "Nothing was touched. The next source that copy_from names is asked; the database has one copy less meanwhile.",
		Remedy:  "make a base backup, and see what there is: holdfast backup list " + w.Database,
	}
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// serve judges one backup; why is empty when a standby can be made of it.
func serve(c Catalogue, b vault.Backup, w Wanted) (ch Choice, why string) {
	history := w.history()
	switch {
	case b.SystemID != w.SystemID:
		return ch, fmt.Sprintf("is of another system (%d, the primary is %d)", b.SystemID, w.SystemID)
	case b.ServerVersion/10000 != w.Major || b.SegmentSize != w.SegmentSize:
		return ch, fmt.Sprintf("is of PostgreSQL %d with segments of %d bytes", b.ServerVersion/10000, b.SegmentSize)
	case b.Validation != nil && !b.Validation.Passed:
		return ch, "was restored on trial and found bad"
	case !history.Holds(b.Timeline, b.Stop):
		return ch, fmt.Sprintf("ends at %s on timeline %d, which does not lead to the primary's timeline %d", b.Stop, b.Timeline, history[len(history)-1].Timeline)
	}
	pieces, end := wal.Reach(history, c.Logs[b.SystemID].Held, b.Start, b.SegmentSize)
	if end < b.Stop {
		return ch, fmt.Sprintf("needs log up to %s, and the vault's has a gap behind %s", b.Stop, end)
	}
	ch = Choice{Backup: b, Target: Target{Kind: Latest}, Timeline: history[len(history)-1].Timeline, Pieces: pieces, End: end}
	ch.Because = []string{fmt.Sprintf("%s is the newest that serves, and the log from %s to %s follows it without a hole", b.ID, b.Start, end)}
	return ch, ""
}

// Backup is the base backup that it begins with.
func (r *Replica) Backup() vault.Backup { return r.choice.Backup }

// Reach is how far the vault's log leads on from the backup now: it grows while somebody archives.
func (r *Replica) Reach(ctx context.Context) (database.LSN, error) {
	_, end, err := r.lead(ctx)
	return database.LSN(end), err
}

func (r *Replica) lead(ctx context.Context) ([]wal.Held, wal.LSN, error) {
	b := r.choice.Backup
	held, err := r.vault.Log(b.SystemID, b.SegmentSize).Held(ctx)
	if err != nil {
		return nil, 0, err
	}
	pieces, end := wal.Reach(r.wanted.history(), held, b.Start, b.SegmentSize)
	return pieces, end, nil
}

// Spaces says of each tablespace that the backup holds, by its number, where it lay.
func (r *Replica) Spaces() map[uint32]string {
	out := map[uint32]string{}
	for _, t := range r.choice.Backup.Tablespaces {
		out[t.OID] = t.Location
	}
	return out
}

// replicaSpaces are the tablespaces of a backup at the places that they were given, by their numbers.
func replicaSpaces(dir string, b vault.Backup, places map[uint32]string) ([]*space, error) {
	var out []*space
	for _, t := range b.Tablespaces {
		to, ok := places[t.OID]
		if !ok {
			return nil, fmt.Errorf("place tablespace %s: it was given no place", t.Name)
		}
		out = append(out, newSpace(b, t, to))
	}
	return out, apart(dir, out)
}

// Need is how many bytes more than there are now a replica takes, by directory: in dir, the log that there is now among them,
// and in the place of each tablespace.
func (r *Replica) Need(ctx context.Context, dir string, spaces map[uint32]string) (map[string]int64, error) {
	reader, err := r.vault.OpenBackup(ctx, r.choice.Backup.ID)
	if err != nil {
		return nil, err
	}
	placed, err := replicaSpaces(dir, r.choice.Backup, spaces)
	if err != nil {
		return nil, err
	}
	all, err := needs(dir, r.choice, placed, reader.Entries())
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, n := range all {
		out[n.dir] = n.bytes
	}
	return out, nil
}

// ReplicaOptions say where a replica goes.
type ReplicaOptions struct {
	Dir      string // the caller's own, in whatever state, and nothing runs on it: what does not belong is removed
	Owner    Owner
	Pace     func(ctx context.Context, bytes int) error // as in [Options]
	Progress func(Progress)

	// Spaces are the places of the backup's tablespaces, by their numbers. They are the caller's own as Dir is, and there; in
	// them only what is of this PostgreSQL version is touched.
	Spaces map[uint32]string
	// Made is told of each directory in which the placed log makes a tablespace. It makes that ready, or refuses.
	Made func(dir string) error

	// Histories are the timelines' history files, by name, as the primary has them.
	Histories map[string][]byte
	// Until is asked once the files are there: log beyond it is not placed.
	Until func(ctx context.Context) (database.LSN, error)
	// Furnish is called before pg_control comes, so that nothing ever starts with what the backup's server had.
	Furnish func(ctx context.Context) error
}

// Run makes dir the replica. Until it returns nil no server starts there.
func (r *Replica) Run(ctx context.Context, o ReplicaOptions) (Result, error) {
	return Run(ctx, Options{Vault: r.vault, Choice: r.choice, Dir: o.Dir, Owner: o.Owner, Pace: o.Pace, Progress: o.Progress, replica: &filling{Replica: r, o: o}})
}

// filling is a replica on its way.
type filling struct {
	*Replica
	o ReplicaOptions
}

// logUntil replaces the log that was chosen by what leads up to where the primary is sure of it now.
func (f *filling) logUntil(ctx context.Context) ([]wal.Held, error) {
	until, err := f.o.Until(ctx)
	if err != nil {
		return nil, err
	}
	pieces, end, err := f.lead(ctx)
	if err != nil {
		return nil, err
	}
	if stop := f.choice.Backup.Stop; min(end, wal.LSN(until)) < stop {
		return nil, fmt.Errorf("the log that makes the backup consistent is needed up to %s, and there is %s", stop, min(end, wal.LSN(until)))
	}
	return upTo(pieces, wal.LSN(until)), nil
}

// upTo cuts the log off at a position.
func upTo(pieces []wal.Held, end wal.LSN) []wal.Held {
	var out []wal.Held
	for _, p := range pieces {
		if p.Start >= end {
			break
		}
		if p.End > end {
			p.End, p.Partial = end, true
		}
		out = append(out, p)
	}
	return out
}

// finishReplica places the log up to where the primary is sure of it, and what makes the files a standby's.
func (r *run) finishReplica(ctx context.Context, reader *vault.Reader, control vault.Entry) error {
	var err error
	if r.o.Choice.Pieces, err = r.o.replica.logUntil(ctx); err != nil {
		return err
	}
	total := int64(len(r.o.Choice.Pieces)) * int64(r.o.Choice.Backup.SegmentSize)
	stop := r.reporter("log", total)
	err = r.placeReplicaLog(ctx, total)
	stop()
	if err != nil {
		return err
	}
	if err := r.tellTablespaces(); err != nil {
		return err
	}
	if err := r.linkSpaces(); err != nil {
		return err
	}
	if err := r.o.replica.o.Furnish(ctx); err != nil {
		return err
	}
	return r.finish(ctx, reader, control)
}

// tellTablespaces tells the caller which tablespaces the placed log makes: at the same path on every host.
func (r *run) tellTablespaces() error {
	made, err := r.madeTablespaces()
	if err != nil {
		return err
	}
	for _, m := range made {
		if err := r.o.replica.o.Made(m.Location); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) placeReplicaLog(ctx context.Context, total int64) error {
	b := r.o.Choice.Backup
	if err := r.placeHistoriesOf(r.o.replica.o.Histories); err != nil {
		return err
	}
	return r.placePieces(ctx, r.o.Vault.Log(b.SystemID, b.SegmentSize), total)
}

// placeHistoriesOf puts the primary's own history files into the log.
func (r *run) placeHistoriesOf(files map[string][]byte) error {
	var err error
	for _, name := range sortedKeys(files) {
		if path.Base(name) != name || !strings.HasSuffix(name, ".history") {
			return fmt.Errorf("place the history %q: it is none", name)
		}
		err = errors.Join(err, r.write(path.Join("pg_wal", name), 0o600, func(f *os.File) error {
			_, err := f.Write(files[name])
			return err
		}))
	}
	return err
}

func sortedKeys(m map[string][]byte) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Package backup streams a database into a vault: base backups ([Base]), the write-ahead log ([Receiver]),
// and the proof that a backup can be restored ([Validate]). When to do it is [Next]; how long to keep it is
// the package retention. All of it runs beside the server, and none of it can stop the server.
package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/pgcontrol"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Progress is how far a backup or a restore is.
type Progress struct {
	Phase  string        // checkpoint, copy, log, commit; of a trial its checks, such as restore or heap
	Done   int64         // bytes
	Total  int64         // bytes; 0 = not known yet
	Took   time.Duration // since the beginning
	Copied time.Duration // since the phase began
}

// Rate is bytes a second in this phase so far, and Left how long it will go on at that rate. Both are zero while
// that cannot be told.
func (p Progress) Rate() (bytes int64, left time.Duration) {
	if p.Copied < time.Second || p.Done <= 0 || p.Total <= 0 {
		return 0, 0
	}
	rate := float64(p.Done) / p.Copied.Seconds()
	return int64(rate), time.Duration(float64(max(p.Total-p.Done, 0)) / rate * float64(time.Second))
}

// BaseOptions say what to back up and where to.
type BaseOptions struct {
	Conn     *pgx.ConnConfig // to the server on this host, as a superuser or a member of pg_read_all_settings with the right to back up
	DataDir  string          // that server's data directory, readable by this process
	Primary  *pgx.ConnConfig // where Conn may lead to a standby: its primary, which is asked for a checkpoint first; nil = begin at whatever the standby's last one was
	Vault    *vault.Vault
	Database string // the plan's name for it
	Workers  int    // files read at once; 0 = twice the cores
	Mode     Mode   // how to learn what has changed; zero = read everything, a full backup
	Limit    int64  // bytes read a second at most; 0 = no limit
	// CheckpointEvery is after how many new bytes the vault is made to keep what it has, so that a backup that is cut off
	// is not begun from nothing. Bytes count when a pack of 20 MB is full. 0 = 1 GiB.
	CheckpointEvery int64
	Progress        func(Progress) // called a few times a second from one goroutine at a time; nil = none
	Log             *slog.Logger   // nil = silent
	// WaitLog returns once the vault holds the log up to a position. nil = look into the vault until it does.
	// ctx bounds it.
	WaitLog func(ctx context.Context, systemID uint64, segmentSize uint64, timeline uint32, to wal.LSN) error
}

// Result is a finished backup, or what is known of one that came to nothing.
type Result struct {
	Backup vault.Backup
	Begun  bool // the server had begun it
	Took   time.Duration
	Wall   map[string]time.Duration // how long each phase took
}

// Base makes a base backup by reading the data directory between pg_backup_start and pg_backup_stop.
// It is listed in the vault only when the log that makes it consistent is there too. Pages with wrong
// checksums do not fail it: they are named in the backup, whose validation will then say what they spoil.
func Base(ctx context.Context, o BaseOptions) (Result, error) {
	if o.Workers <= 0 {
		o.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CheckpointEvery <= 0 {
		o.CheckpointEvery = 1 << 30
	}
	r := &baseRun{o: o, began: time.Now(), wall: map[string]time.Duration{}, pace: newPacer(o.Limit)}
	r.report("checkpoint")
	backup, err := r.run(ctx)
	if err != nil {
		if why := context.Cause(ctx); why != nil { // whatever it met after that says nothing of the server
			err = fmt.Errorf("%w: %s", why, err.Error())
		}
		return Result{Begun: !r.started.IsZero()}, fmt.Errorf("back up %s: %w", o.Database, err)
	}
	res := Result{Backup: backup, Begun: true, Took: time.Since(r.began), Wall: r.wall}
	o.Log.InfoContext(ctx, "base backup finished", "database", o.Database, "backup", backup.ID, "bytes", backup.Bytes, "stored", backup.Stored, "took", res.Took)
	return res, nil
}

type baseRun struct {
	o       BaseOptions
	began   time.Time
	done    atomic.Int64
	total   int64
	pace    *pacer
	started time.Time // by our own clock, for what passed since the server said Started
	files   facts     // what was found in the directory
	from    *earlier  // as the vault has it; nil = none

	keeping sync.Mutex // held while the vault is made to keep what it has
	kept    int64      // bytes that it had then

	reportMu sync.Mutex // guards the rest
	phase    string
	phaseAt  time.Time
	last     time.Time
	wall     map[string]time.Duration
}

func (r *baseRun) run(ctx context.Context) (vault.Backup, error) {
	if err := r.pageSize(); err != nil {
		return vault.Backup{}, err
	}
	conn, err := pgx.ConnectConfig(ctx, r.o.Conn)
	if err != nil {
		return vault.Backup{}, err
	}
	// The session is the backup: when it ends, the server forgets about it, whatever happens here.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := r.freshen(ctx, conn); err != nil {
		return vault.Backup{}, fmt.Errorf("ask the primary for a checkpoint: %w", err)
	}
	w, b, err := r.beginBoth(ctx, conn)
	if err != nil {
		return vault.Backup{}, err
	}
	b, err = r.copyAll(ctx, conn, w, b)
	if err != nil {
		return vault.Backup{}, errors.Join(err, w.Abort())
	}
	r.report("commit")
	b, err = w.Commit(b)
	r.report("done")
	return b, err
}

// pageSize refuses a data directory whose pages have another size than those that are read here.
func (r *baseRun) pageSize() error {
	control, err := pgcontrol.Read(r.o.DataDir)
	if err != nil || control.BlockSize == pgdata.PageSize {
		return err
	}
	return &problem.Problem{Code: "backup.block-size", Subject: r.o.Database, Severity: problem.Critical,
		Title: fmt.Sprintf("the server uses blocks of %d bytes", control.BlockSize), Meaning: fmt.Sprintf("Holdfast reads pages of %d bytes. No backup was made.", pgdata.PageSize),
		Remedy: "use a server built with the usual block size"}
}

// beginBoth starts the backup in the server, which makes a checkpoint, and meanwhile in the vault.
func (r *baseRun) beginBoth(ctx context.Context, conn *pgx.Conn) (w *vault.Writer, b vault.Backup, err error) {
	var inVault sync.WaitGroup
	var unwritten error
	inVault.Go(func() { w, unwritten = r.o.Vault.Begin(ctx, "base backup of "+r.o.Database) })
	inVault.Go(func() { r.from = r.earlier(ctx) })
	b, err = r.begin(ctx, conn)
	inVault.Wait()
	if err = errors.Join(err, unwritten); err != nil && w != nil {
		err = errors.Join(err, w.Abort())
	}
	return w, b, err
}

// begin asks the server what it is, and starts the backup.
func (r *baseRun) begin(ctx context.Context, conn *pgx.Conn) (vault.Backup, error) {
	b := vault.Backup{Database: r.o.Database, Kind: "full", Host: r.o.Vault.Host()}
	if r.o.Mode != "" {
		b.Kind = "incremental"
	}
	var sysid, dataDir, checksums string
	err := conn.QueryRow(ctx, `
		select (select system_identifier::text from pg_control_system()),
			current_setting('server_version_num')::int,
			(select setting::bigint from pg_settings where name = 'wal_segment_size'),
			(select rolname from pg_roles where oid = 10),
			pg_is_in_recovery(), current_setting('data_checksums'), current_setting('data_directory')`).
		Scan(&sysid, &b.ServerVersion, &b.SegmentSize, &b.Superuser, &b.FromStandby, &checksums, &dataDir)
	if err != nil {
		return b, fmt.Errorf("ask the server about itself: %w", err)
	}
	if _, err := fmt.Sscan(sysid, &b.SystemID); err != nil {
		return b, fmt.Errorf("read system identifier %q: %w", sysid, err)
	}
	b.Checksums = checksums == "on"
	if err := sameDir(dataDir, r.o.DataDir); err != nil {
		return b, &problem.Problem{Code: "backup.other-directory", Subject: r.o.Database, Severity: problem.Critical,
			Title: "the server that answers does not run on " + r.o.DataDir, Meaning: "Reading another server's files would make a backup of nothing. " + err.Error() + ".",
			Remedy: "back up on the host where the server runs"}
	}
	if b.ServerVersion < 140000 {
		return b, &problem.Problem{Code: "backup.version", Subject: r.o.Database, Severity: problem.Critical,
			Title: fmt.Sprintf("PostgreSQL %d is not supported (14 and later are)", b.ServerVersion/10000), Meaning: "No backup was made.", Remedy: "upgrade the server"}
	}
	call := "pg_backup_start($1, true)"
	if b.ServerVersion < 150000 {
		call = "pg_start_backup($1, true, false)"
	}
	var start string
	if err := conn.QueryRow(ctx, "select "+call+"::text, clock_timestamp()", "holdfast "+r.o.Database).Scan(&start, &b.Started); err != nil {
		return b, fmt.Errorf("start the backup: %w", err)
	}
	b.Started, r.started = b.Started.UTC(), time.Now()
	b.Reread = b.Started
	if err := conn.QueryRow(ctx, "select timeline_id from pg_control_checkpoint()").Scan(&b.Timeline); err != nil {
		return b, fmt.Errorf("ask the server for its timeline: %w", err)
	}
	b.Start, err = wal.ParseLSN(start)
	return b, err
}

// copyAll reads the data directory, ends the backup in the server and waits for its log, and until all is stored.
func (r *baseRun) copyAll(ctx context.Context, conn *pgx.Conn, w *vault.Writer, b vault.Backup) (vault.Backup, error) {
	root, err := os.OpenRoot(r.o.DataDir)
	if err != nil {
		return b, err
	}
	defer func() { _ = root.Close() }() // nothing was written through it
	files, err := r.list(ctx, conn, w, &b)
	if err != nil {
		return b, err
	}
	spaces, closeSpaces, err := openSpaces(b.Tablespaces)
	if err != nil {
		return b, err
	}
	defer closeSpaces() // nothing was written through them
	c := &copier{
		log: r.o.Log, root: root, spaces: spaces, to: w, checksums: b.Checksums, start: uint64(b.Start), from: r.from, take: b.Took, compare: !b.Took && comparable(b, r.from),
		pace: r.pace.wait, keep: func() error { return r.keep(w) }, bytes: func(n int) { r.done.Add(int64(n)); r.tick() },
	}
	s, storing := c.store(ctx, r.o.Workers)
	if err := r.readAll(storing, conn, s, files, &b); err != nil {
		s.fail(err)
	}
	found, err := s.wait(storing)
	if err != nil {
		return b, err
	}
	r.tellOf(ctx, conn, found, &b)
	return b, nil
}

// readAll reads the listed files, and what makes a backup of them; some of it may have to be stored still.
func (r *baseRun) readAll(ctx context.Context, conn *pgx.Conn, s *storing, files []file, b *vault.Backup) error {
	err := r.whileItHolds(ctx, conn, *b, func(ctx context.Context) error { return r.copyListed(ctx, s, files) })
	if err != nil {
		return err
	}
	control, err := readControl(ctx, s.root) // last: it must not be newer than any file that was copied before
	if err != nil {
		return err
	}
	if err := storeBytes(s.to, pgdata.ControlFile, control, time.Now()); err != nil {
		return err
	}
	if err := r.finish(ctx, conn, s.to, b); err != nil {
		return err
	}
	r.report("log")
	wait := r.o.WaitLog
	if wait == nil {
		wait = func(ctx context.Context, systemID, size uint64, timeline uint32, to wal.LSN) error {
			return WaitLog(ctx, r.o.Vault.Log(systemID, size), timeline, b.Start, to)
		}
	}
	if err := wait(ctx, b.SystemID, b.SegmentSize, b.Timeline, b.Stop); err != nil {
		return fmt.Errorf("wait for the log up to %s in the vault: %w", b.Stop, err)
	}
	return nil
}

// list lists what is to be read, and judges what may be taken over instead.
func (r *baseRun) list(ctx context.Context, conn *pgx.Conn, w *vault.Writer, b *vault.Backup) ([]file, error) {
	scanned := time.Now()
	found, err := scan(r.o.DataDir)
	if err != nil {
		return nil, err
	}
	if b.Tablespaces, err = r.nameSpaces(ctx, conn, found.spaces); err != nil {
		return nil, err
	}
	for _, d := range found.dirs {
		d.Path = vault.DataDir + "/" + d.Path
		w.Dir(d)
	}
	for _, f := range found.files {
		r.total += f.size
	}
	if r.files, err = factsOf(b.Host, r.o.DataDir, scanned, found.files); err != nil {
		return nil, err
	}
	if r.from != nil && r.from.backup.SystemID != b.SystemID {
		r.from = nil
	}
	var why string
	b.Took, why = mayTake(r.o.Mode, *b, r.from, r.total, time.Now())
	r.o.Log.InfoContext(ctx, "base backup begins", "database", r.o.Database, "bytes", r.total, "takes", b.Took, "because", why)
	if r.from != nil {
		b.Earlier = r.from.backup.ID
	}
	if b.Took {
		b.Reread = r.from.backup.Reread
	}
	r.report("copy")
	return found.files, nil
}

// earlier is the backup to take chunks from or to compare with. One that cannot be read is no reason not to make a new
// one: then nothing is taken over.
func (r *baseRun) earlier(ctx context.Context) *earlier {
	here, err := factsOf(r.o.Vault.Host(), r.o.DataDir, time.Time{}, nil)
	var control pgcontrol.Control
	if err == nil {
		control, err = pgcontrol.Read(r.o.DataDir)
	}
	var from *earlier
	if err == nil {
		from, err = findEarlier(ctx, r.o.Vault, r.o.Database, control.SystemID, here)
	}
	if err != nil {
		r.o.Log.WarnContext(ctx, "the backup before cannot be read, so everything is", "database", r.o.Database, "err", err)
		return nil
	}
	return from
}

// copyListed reads files by several workers. Each of several stretches is opened by others, for what the vault has of it may be far away.
func (r *baseRun) copyListed(ctx context.Context, s *storing, files []file) error {
	reads, ctx := errgroup.WithContext(ctx)
	reads.SetLimit(r.o.Workers)
	var opens errgroup.Group
	opens.SetLimit(r.o.Workers)
	for _, f := range files {
		if ctx.Err() != nil {
			break
		}
		if f.size <= stretchSize {
			reads.Go(func() error { return s.copyFile(ctx, f) })
			continue
		}
		opens.Go(func() error {
			large, err := s.open(ctx, f)
			if err != nil {
				s.fail(err) // nothing more need be read
			}
			if large == nil {
				return err
			}
			for i := range large.parts {
				reads.Go(func() error { return large.read(ctx, i) })
			}
			return nil
		})
	}
	return errors.Join(opens.Wait(), reads.Wait())
}

// tellOf puts into the backup what was found in its files.
func (r *baseRun) tellOf(ctx context.Context, conn *pgx.Conn, found copied, b *vault.Backup) {
	b.BadPages, b.Differs, b.Reused = listFew(found.bad), listFew(found.differs), found.reused
	if len(found.bad) > 0 {
		r.o.Log.ErrorContext(ctx, "pages with wrong checksums", "database", r.o.Database, "pages", b.BadPages)
	}
	if len(found.differs) > 0 {
		r.o.Log.ErrorContext(ctx, "pages are not what they were though no log changed them", "database", r.o.Database, "backup", b.Earlier, "pages", b.Differs)
		b.Differs = r.nameRelations(ctx, conn, b.Differs)
	}
}

func listFew(all []string) []string {
	slices.Sort(all)
	if n := len(all) - badPagesListed; n > 0 {
		return append(all[:badPagesListed:badPagesListed], fmt.Sprintf("and %d more", n))
	}
	return all
}

// keep makes the vault keep what it has when that has become much. While one worker waits for that, the others go on.
func (r *baseRun) keep(w *vault.Writer) error {
	if !r.keeping.TryLock() {
		return nil
	}
	defer r.keeping.Unlock()
	if w.Stored()-r.kept < r.o.CheckpointEvery {
		return nil
	}
	r.kept = w.Stored()
	return w.Checkpoint()
}

// finish stops the backup, and stores the label with which recovery begins at the right place.
func (r *baseRun) finish(ctx context.Context, conn *pgx.Conn, w *vault.Writer, b *vault.Backup) error {
	call := "pg_backup_stop(false)"
	if b.ServerVersion < 150000 {
		call = "pg_stop_backup(false, false)"
	}
	var stop, label string
	if err := conn.QueryRow(ctx, "select lsn::text, labelfile from "+call).Scan(&stop, &label); err != nil {
		return fmt.Errorf("stop the backup: %w", stopped(err, *b))
	}
	var err error
	if b.Stop, err = wal.ParseLSN(stop); err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, "select clock_timestamp()").Scan(&b.Stopped); err != nil {
		return fmt.Errorf("ask the server for its time: %w", err)
	}
	b.Stopped = b.Stopped.UTC()
	if err := clockJumped(*b, time.Since(r.started)); err != nil {
		return err
	}
	if b.Timeline, err = labelTimeline(label); err != nil {
		return err
	}
	if err := stillTheSame(ctx, conn, *b); err != nil { // what was asked while it ran may be older than the last pages
		return err
	}
	if err := storeBytes(w, "backup_label", []byte(label), b.Stopped); err != nil {
		return err
	}
	return storeFacts(w, r.files) // its map of tablespaces would lead a server back to where they lay: a restore makes links of its own
}

// report tells of a new phase.
func (r *baseRun) report(phase string) {
	r.reportMu.Lock()
	defer r.reportMu.Unlock()
	now := time.Now()
	if r.phase != "" {
		r.wall[r.phase] += now.Sub(r.phaseAt)
	}
	r.phase, r.phaseAt = phase, now
	r.tell(now)
}

// tick tells of progress, at most every 200 ms.
func (r *baseRun) tick() {
	r.reportMu.Lock()
	defer r.reportMu.Unlock()
	if now := time.Now(); now.Sub(r.last) >= 200*time.Millisecond {
		r.tell(now)
	}
}

func (r *baseRun) tell(now time.Time) {
	r.last = now
	if r.o.Progress != nil {
		r.o.Progress(Progress{Phase: r.phase, Done: r.done.Load(), Total: r.total, Took: now.Sub(r.began), Copied: now.Sub(r.phaseAt)})
	}
}

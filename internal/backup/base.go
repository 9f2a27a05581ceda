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
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
	"holdfast/internal/vault"
	"holdfast/internal/vault/wal"
)

// Progress is how far a backup or a restore is.
type Progress struct {
	Phase string        // checkpoint, copy, log, commit
	Done  int64         // bytes
	Total int64         // bytes; 0 = not known yet
	Took  time.Duration // since the beginning
}

// BaseOptions say what to back up and where to.
type BaseOptions struct {
	Conn     *pgx.ConnConfig // to the server on this host, as a superuser or a member of pg_read_all_settings with the right to back up
	DataDir  string          // that server's data directory, readable by this process
	Primary  *pgx.ConnConfig // where Conn may lead to a standby: its primary, which is asked for a checkpoint first; nil = begin at whatever the standby's last one was
	Vault    *vault.Vault
	Database string         // the plan's name for it
	Workers  int            // files read at once; 0 = twice the cores
	Progress func(Progress) // called a few times a second from one goroutine at a time; nil = none
	Log      *slog.Logger   // nil = silent
	// WaitLog returns once the vault holds the log up to a position. nil = look into the vault until it does.
	// ctx bounds it.
	WaitLog func(ctx context.Context, systemID uint64, segmentSize uint64, timeline uint32, to wal.LSN) error
}

// Result is a finished backup.
type Result struct {
	Backup vault.Backup
	Took   time.Duration
	Wall   map[string]time.Duration // how long each phase took
}

// Base makes a full base backup by reading the data directory between pg_backup_start and pg_backup_stop.
// It is listed in the vault only when the log that makes it consistent is there too. Pages with wrong
// checksums do not fail it: they are named in the backup, whose validation will then say what they spoil.
func Base(ctx context.Context, o BaseOptions) (Result, error) {
	if o.Workers <= 0 {
		o.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &baseRun{o: o, began: time.Now(), wall: map[string]time.Duration{}}
	r.report("checkpoint")
	backup, err := r.run(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("back up %s: %w", o.Database, err)
	}
	res := Result{Backup: backup, Took: time.Since(r.began), Wall: r.wall}
	o.Log.InfoContext(ctx, "base backup finished", "database", o.Database, "backup", backup.ID, "bytes", backup.Bytes, "stored", backup.Stored, "took", res.Took)
	return res, nil
}

type baseRun struct {
	o     BaseOptions
	began time.Time
	done  atomic.Int64
	total int64

	reportMu sync.Mutex // guards the rest
	phase    string
	phaseAt  time.Time
	last     time.Time
	wall     map[string]time.Duration
}

func (r *baseRun) run(ctx context.Context) (vault.Backup, error) {
	conn, err := pgx.ConnectConfig(ctx, r.o.Conn)
	if err != nil {
		return vault.Backup{}, err
	}
	// The session is the backup: when it ends, the server forgets about it, whatever happens here.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := r.freshen(ctx, conn); err != nil {
		return vault.Backup{}, fmt.Errorf("ask the primary for a checkpoint: %w", err)
	}
	b, err := r.begin(ctx, conn)
	if err != nil {
		return vault.Backup{}, err
	}
	w, err := r.o.Vault.Begin(ctx, "base backup of "+r.o.Database)
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

// begin asks the server what it is, and starts the backup.
func (r *baseRun) begin(ctx context.Context, conn *pgx.Conn) (vault.Backup, error) {
	b := vault.Backup{Database: r.o.Database, Kind: "full"}
	var sysid, dataDir, checksums string
	var blockSize int
	err := conn.QueryRow(ctx, `
		select (select system_identifier::text from pg_control_system()),
			current_setting('server_version_num')::int, current_setting('block_size')::int,
			(select setting::bigint from pg_settings where name = 'wal_segment_size'),
			(select rolname from pg_roles where oid = 10),
			pg_is_in_recovery(), current_setting('data_checksums'), current_setting('data_directory')`).
		Scan(&sysid, &b.ServerVersion, &blockSize, &b.SegmentSize, &b.Superuser, &b.FromStandby, &checksums, &dataDir)
	if err != nil {
		return b, fmt.Errorf("ask the server about itself: %w", err)
	}
	if _, err := fmt.Sscan(sysid, &b.SystemID); err != nil {
		return b, fmt.Errorf("read system identifier %q: %w", sysid, err)
	}
	b.Checksums = checksums == "on"
	if blockSize != pgdata.PageSize {
		return b, &problem.Problem{Code: "backup.block-size", Subject: r.o.Database, Severity: problem.Critical,
			Title: fmt.Sprintf("the server uses blocks of %d bytes", blockSize), Meaning: "Holdfast reads pages of 8192 bytes. No backup was made.",
			Remedy: "use a server built with the usual block size"}
	}
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
	b.Started = b.Started.UTC()
	b.Start, err = wal.ParseLSN(start)
	return b, err
}

func (r *baseRun) copyAll(ctx context.Context, conn *pgx.Conn, w *vault.Writer, b vault.Backup) (vault.Backup, error) {
	root, err := os.OpenRoot(r.o.DataDir)
	if err != nil {
		return b, err
	}
	defer func() { _ = root.Close() }() // nothing was written through it
	if err := r.copyFiles(ctx, root, w, &b); err != nil {
		return b, err
	}
	control, err := readControl(ctx, root) // last: it must not be newer than any file that was copied before
	if err != nil {
		return b, err
	}
	if err := storeBytes(w, pgdata.ControlFile, control, time.Now()); err != nil {
		return b, err
	}
	if err := r.finish(ctx, conn, w, &b); err != nil {
		return b, err
	}
	r.report("log")
	wait := r.o.WaitLog
	if wait == nil {
		wait = func(ctx context.Context, systemID, size uint64, timeline uint32, to wal.LSN) error {
			return WaitLog(ctx, r.o.Vault.Log(systemID, size), timeline, b.Start, to)
		}
	}
	if err := wait(ctx, b.SystemID, b.SegmentSize, b.Timeline, b.Stop); err != nil {
		return b, fmt.Errorf("wait for the log up to %s in the vault: %w", b.Stop, err)
	}
	return b, nil
}

func (r *baseRun) copyFiles(ctx context.Context, root *os.Root, w *vault.Writer, b *vault.Backup) error {
	files, dirs, tablespaces, err := scan(r.o.DataDir)
	if err != nil {
		return err
	}
	if len(tablespaces) > 0 {
		return &problem.Problem{Code: "backup.tablespaces", Subject: r.o.Database, Severity: problem.Critical,
			Title: fmt.Sprintf("has %d tablespaces outside its data directory", len(tablespaces)), Meaning: "They are not backed up yet, so a backup would not be whole. None was made.",
			Remedy: "move the objects to the default tablespace: ALTER TABLE ... SET TABLESPACE pg_default"}
	}
	for _, d := range dirs {
		d.Path = vault.DataDir + "/" + d.Path
		w.Dir(d)
	}
	for _, f := range files {
		r.total += f.size
	}
	r.report("copy")
	c := &copier{root: root, to: w, checksums: b.Checksums, start: uint64(b.Start), bytes: func(n int) { r.done.Add(int64(n)); r.tick() }}
	var mu sync.Mutex
	var more int
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Workers)
	for _, f := range files {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			bad, err := c.copyFile(ctx, f)
			mu.Lock()
			defer mu.Unlock()
			for _, p := range bad {
				if len(b.BadPages) < badPagesListed {
					b.BadPages = append(b.BadPages, p)
				} else {
					more++
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if more > 0 {
		b.BadPages = append(b.BadPages, fmt.Sprintf("and %d more", more))
	}
	if len(b.BadPages) > 0 {
		r.o.Log.ErrorContext(ctx, "pages with wrong checksums", "database", r.o.Database, "pages", b.BadPages)
	}
	return nil
}

// finish stops the backup, and stores the label with which recovery begins at the right place.
func (r *baseRun) finish(ctx context.Context, conn *pgx.Conn, w *vault.Writer, b *vault.Backup) error {
	call := "pg_backup_stop(false)"
	if b.ServerVersion < 150000 {
		call = "pg_stop_backup(false, false)"
	}
	var stop, label, spaces string
	if err := conn.QueryRow(ctx, "select lsn::text, labelfile, coalesce(spcmapfile, '') from "+call).Scan(&stop, &label, &spaces); err != nil {
		return fmt.Errorf("stop the backup: %w", err)
	}
	var err error
	if b.Stop, err = wal.ParseLSN(stop); err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, "select clock_timestamp()").Scan(&b.Stopped); err != nil {
		return fmt.Errorf("ask the server for its time: %w", err)
	}
	b.Stopped = b.Stopped.UTC()
	if b.Timeline, err = labelTimeline(label); err != nil {
		return err
	}
	if err := storeBytes(w, "backup_label", []byte(label), b.Stopped); err != nil {
		return err
	}
	if spaces != "" {
		return storeBytes(w, "tablespace_map", []byte(spaces), b.Stopped)
	}
	return nil
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
		r.o.Progress(Progress{Phase: r.phase, Done: r.done.Load(), Total: r.total, Took: now.Sub(r.began)})
	}
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/internal/database"
	"holdfast/internal/database/postgres/replica"
	"holdfast/internal/database/postgres/walscan"
	"holdfast/internal/pgcontrol"
	"holdfast/internal/pgdata"
	"holdfast/internal/problem"
)

// Names of the sessions of a copy on its way, as the source shows them.
const (
	copyName       = "holdfast-copy"
	copyWorkerName = "holdfast-copy-worker"
)

const (
	copyWorkers = 4         // sessions that read from the source at once
	copyMargin  = 256 << 20 // bytes that must stay free beside a copy: the server has to start on it
	copyLogRoom = 1 << 30   // room for the log that is written while a copy is made
)

// Clone makes what lies in the data directory a copy of the server at from, moving only what differs.
func (s *Server) Clone(ctx context.Context, from, primary database.Endpoint, epoch int64) error {
	s.op.Lock()
	defer s.op.Unlock()
	s.mu.Lock()
	s.now.from = from.Host
	s.mu.Unlock()
	return s.long(database.KindClone, func() error { return s.clone(ctx, from, primary, epoch) })
}

// clone asks everything that can refuse before anything is touched. From begin on, the old data are no copy any
// more; whatever ends the work then, the next try finds on the disk what came over in this one.
func (s *Server) clone(ctx context.Context, from, primary database.Endpoint, epoch int64) (err error) {
	state, why, err := s.dataState()
	if err != nil {
		return err
	}
	if state == database.DataForeign {
		return s.foreign(why)
	}
	if err := s.mayReplace(ctx, epoch); err != nil {
		return err
	}
	main, a, err := s.openSource(ctx, from, primary)
	if err != nil {
		return err
	}
	defer main.Close()
	files, err := main.list(ctx)
	if err != nil {
		return err
	}
	more, err := s.growth(wanted(files))
	if err != nil {
		return err
	}
	if err := s.hasRoom(more, nil); err != nil {
		return err
	}
	spaces, err := s.askSpaces(ctx, main.conn)
	if err != nil {
		return err
	}
	if err := s.prepareSpaces(spaces); err != nil {
		return err
	}
	inSpaces, err := s.spaceGrowth(ctx, main, spaces)
	if err != nil {
		return err
	}
	if err := s.hasRoom(more, inSpaces); err != nil {
		return err
	}
	incarnation := newIncarnation()
	slot := slotPrefix + incarnation
	if err := s.reserveSlot(ctx, primary, slot); err != nil { // the log from here on stays until we stream
		return err
	}
	defer func() {
		if err != nil {
			s.giveUpSlot(primary, slot)
		}
	}()
	if err := s.stop(ctx); err != nil {
		return err
	}
	if err := s.begin(database.KindClone, epoch, incarnation); err != nil {
		return err
	}
	for _, old := range []string{s.at.fresh, s.at.old} { // of a version that copied beside the data
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	if err := s.makeOwned(s.at.data); err != nil {
		return err
	}
	if err := s.copyData(ctx, main, from, primary, a, spaces, incarnation); err != nil {
		return err
	}
	return s.finish(s.at.data, incarnation)
}

// openSource opens the session that a copy rests on, and proves that from may be copied: it is what it was taken
// for, of the same system as the primary that the copy will follow, and of our version.
func (s *Server) openSource(ctx context.Context, from, primary database.Endpoint) (*source, about, error) {
	head, err := s.connectPeer(ctx, primary)
	if err != nil {
		return nil, about{}, err
	}
	defer closeSession(head)
	lead, err := s.askPrimary(ctx, head, primary.Host)
	if err != nil {
		return nil, about{}, err
	}
	conn, err := s.connectNamed(ctx, from, copyName)
	if err != nil {
		return nil, about{}, err
	}
	a, err := s.askAbout(ctx, conn, from.Host)
	switch {
	case err != nil:
	case a.system != lead.system:
		err = &problem.Problem{
			Code: "database.foreign-system", Subject: s.cfg.Database, Severity: problem.Critical,
			Title:   fmt.Sprintf("the server on %s has the system identifier %d, the primary on %s %d", from.Host, a.system, primary.Host, lead.system),
			Meaning: "They hold different databases under one name. Nothing was copied and nothing was touched.",
			Remedy:  "find out which of them is right; move the other's data directory away",
		}
	case from.Host != primary.Host && !a.recovering:
		err = fmt.Errorf("the server on %s is no standby: %w", from.Host, database.ErrStale)
	}
	if err != nil {
		closeSession(conn)
		return nil, about{}, err
	}
	return &source{conn: conn, pages: a.pages}, a, nil
}

// askPrimary proves that a server is a primary that a standby can be made for.
func (s *Server) askPrimary(ctx context.Context, conn *pgx.Conn, host string) (about, error) {
	lead, err := s.askAbout(ctx, conn, host)
	switch {
	case err != nil:
		return about{}, err
	case lead.recovering:
		return about{}, fmt.Errorf("the server on %s is no primary: %w", host, database.ErrStale)
	}
	return lead, nil
}

// connectNamed is connectPeer under an application name of its own.
func (s *Server) connectNamed(ctx context.Context, p database.Endpoint, name string) (*pgx.Conn, error) {
	conn, err := s.connectPeer(ctx, p)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "SET application_name = '"+name+"'"); err != nil { // the names are ours, and plain
		closeSession(conn)
		return nil, fmt.Errorf("name the session with the server on %s: %w", p.Host, err)
	}
	return conn, nil
}

// spared is what a copy does not remove: Holdfast's own files, and what has a way of its own.
func spared(p string) bool {
	return ours(p) || strings.HasPrefix(p, pgdata.Spaces+"/") || p == pgdata.ControlFile || p == "pg_wal" || strings.HasPrefix(p, "pg_wal/")
}

// copyData does the work between the two ends of a backup (PostgreSQL manual, "Making a Base Backup Using the Low
// Level API"): all files but pg_control, the log that makes them consistent, the label, and pg_control at the very
// end, so that nothing can start on a half-made directory.
func (s *Server) copyData(ctx context.Context, main *source, from, primary database.Endpoint, a about, spaces []space, incarnation string) error {
	sources, err := s.openWorkers(ctx, main, from)
	defer func() {
		for _, w := range sources {
			w.Close()
		}
	}()
	if err != nil {
		return err
	}
	begins, err := main.beginBackup(ctx, a, incarnation)
	if err != nil {
		return err
	}
	tell := s.tellCopy("copying", from.Host)
	_, copyLimit := s.limits()
	o := replica.Options{Dir: s.at.data, UID: -1, GID: -1, Limit: copyLimit, Clock: s.clock, Progress: tell}
	if s.owner.change {
		o.UID, o.GID = s.owner.uid, s.owner.gid
	}
	for _, w := range sources {
		w.begins = begins
		o.Sources = append(o.Sources, w)
	}
	c, err := replica.New(o)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // Sync has told whatever matters
	if err := c.Remove(pgdata.ControlFile); err != nil {
		return err
	}
	if err := s.furnish(s.at.data, s.static(nil)); err != nil { // closed from the first moment on
		return err
	}
	if err := s.makeOwned(s.at.wal()); err != nil {
		return err
	}
	log := s.newLogStream(from, primary, slotPrefix+incarnation, a, c, begins)
	streaming, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { log.run(streaming) })
	defer done.Wait()
	defer stop()
	if err := log.begun(ctx); err != nil {
		return err
	}
	if err := main.letLogGo(ctx, incarnation); err != nil {
		return err
	}
	files, err := main.list(ctx)
	if err != nil {
		return err
	}
	files = wanted(files)
	if err := c.Tidy(".", files, spared); err != nil {
		return err
	}
	if err := c.Fetch(ctx, files); err != nil {
		return err
	}
	if err := s.linkSpaces(spaces); err != nil {
		return err
	}
	for _, x := range spaces {
		if err := s.copySpace(ctx, x, main, o); err != nil {
			return err
		}
	}
	control, err := main.control(ctx)
	if err != nil {
		return err
	}
	ends, label, err := main.endBackup(ctx, a)
	if err != nil {
		return err
	}
	s.setProgress("waiting for the log up to " + ends.String())
	if err := log.reach(ctx, ends); err != nil {
		return err
	}
	stop()
	done.Wait()
	if err := log.begun(ctx); err != nil {
		return err
	}
	if err := s.copyHistories(ctx, c, main, a, begins, ends, log.names()); err != nil {
		return err
	}
	if err := c.Put("backup_label", []byte(label)); err != nil {
		return err
	}
	s.setProgress("bringing the copy to the disk")
	if err := c.Sync(ctx); err != nil {
		return err
	}
	s.log.Info("data directory copied", "from", from.Host, "moved", c.Moved(), "begins", begins, "ends", ends)
	return c.Put(pgdata.ControlFile, control)
}

// openWorkers opens the sessions that read at once.
func (s *Server) openWorkers(ctx context.Context, main *source, from database.Endpoint) ([]*source, error) {
	var out []*source
	for range copyWorkers {
		conn, err := s.connectNamed(ctx, from, copyWorkerName)
		if err != nil {
			return out, err
		}
		out = append(out, &source{conn: conn, pages: main.pages})
	}
	return out, nil
}

// beginBackup secures the source's log for as long as the session lives, and tells the source that a backup begins.
func (s *source) beginBackup(ctx context.Context, a about, incarnation string) (database.LSN, error) {
	if _, err := s.conn.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true, true)", "holdfast_copying_"+incarnation); err != nil {
		return 0, fmt.Errorf("secure the source's log: %w", err)
	}
	call := "pg_backup_start($1, true)"
	if a.version < 150000 {
		call = "pg_start_backup($1, true, false)"
	}
	var text string
	if err := s.conn.QueryRow(ctx, "SELECT "+call+"::text", "holdfast copy "+incarnation).Scan(&text); err != nil {
		return 0, fmt.Errorf("begin the copy at the source: %w", err)
	}
	lsn, err := database.ParseLSN(text)
	s.begins = lsn
	return lsn, err
}

// letLogGo gives up the slot of beginBackup: a slot that keeps too much ends the session that made it.
func (s *source) letLogGo(ctx context.Context, incarnation string) error {
	if _, err := s.conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", "holdfast_copying_"+incarnation); err != nil {
		return fmt.Errorf("let the source's log go: %w", err)
	}
	return nil
}

func (s *source) endBackup(ctx context.Context, a about) (ends database.LSN, label string, err error) {
	call := "pg_backup_stop(false)"
	if a.version < 150000 {
		call = "pg_stop_backup(false, false)"
	}
	var text string
	if err := s.conn.QueryRow(ctx, "SELECT lsn::text, labelfile FROM "+call).Scan(&text, &label); err != nil {
		return 0, "", fmt.Errorf("end the copy at the source: %w", err)
	}
	ends, err = database.ParseLSN(text)
	return ends, label, err
}

// control reads pg_control until its checksum holds: the server may be writing it at that moment.
func (s *source) control(ctx context.Context) ([]byte, error) {
	for try := 0; ; try++ {
		b, err := s.read(ctx, pgdata.ControlFile, 0, 64<<10)
		if err != nil {
			return nil, err
		}
		_, err = pgcontrol.Parse(b)
		if err == nil {
			return b, nil
		}
		if try == 20 || !errors.Is(err, pgcontrol.ErrTorn) {
			return nil, fmt.Errorf("read the source's pg_control: %w", err)
		}
		if err := pause(ctx, rereadPause); err != nil {
			return nil, err
		}
	}
}

// copyHistories brings over every history, and sees that every segment is here from where replay begins to where the files
// are consistent. Other log of before goes.
func (s *Server) copyHistories(ctx context.Context, c *replica.Copier, main *source, a about, begins, ends database.LSN, streamed map[string]bool) error {
	all, err := main.list(ctx)
	if err != nil {
		return err
	}
	first, last := uint64(begins)/a.segment, uint64(ends-1)/a.segment
	held := map[uint64]bool{}
	for name := range streamed {
		if seg, ok := walscan.ParseName(path.Base(name), a.segment); ok {
			held[seg.Number] = true
		}
	}
	files := []replica.File{{Path: "pg_wal/archive_status", Dir: true}}
	for _, f := range all {
		if path.Dir(f.Path) != "pg_wal" || f.Dir {
			continue
		}
		if strings.HasSuffix(f.Path, ".history") {
			files = append(files, f)
		}
	}
	for n := first; n <= last; n++ {
		if !held[n] {
			return fmt.Errorf("copy the log from %s to %s: segment %d did not come", begins, ends, n)
		}
	}
	if err := c.Tidy("pg_wal", files, func(p string) bool { return streamed[p] }); err != nil {
		return err
	}
	return c.Fetch(ctx, files)
}

// tellEvery is how often the words of a copy's progress change.
const tellEvery = time.Second

// tellCopy turns bytes into words: how far, how much travelled, how fast, how long still.
func (s *Server) tellCopy(doing, from string) func(replica.Progress) {
	began := s.clock.Now()
	var told time.Time
	return func(p replica.Progress) {
		now := s.clock.Now()
		if !told.IsZero() && now.Sub(told) < tellEvery {
			return
		}
		told = now
		s.setProgress(copyText(doing, from, p, now.Sub(began)))
	}
}

// copyText is a copy's progress for people.
func copyText(doing, from string, p replica.Progress, took time.Duration) string {
	share := int64(100)
	if p.Total > 0 {
		share = min(100, 100*p.Settled/p.Total)
	}
	text := fmt.Sprintf("%s from %s: %d %% of %s, %s moved", doing, from, share, bytesText(p.Total), bytesText(p.Moved))
	if seconds := took.Seconds(); seconds >= 1 && p.Settled > 0 {
		left := time.Duration(float64(max(0, p.Total-p.Settled)) / (float64(p.Settled) / seconds) * float64(time.Second))
		text += fmt.Sprintf(", %s/s, %s left", bytesText(int64(float64(p.Moved)/seconds)), left.Round(time.Second))
	}
	return text
}

// bytesText is a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	default:
		return fmt.Sprintf("%d MiB", (n+1<<19)>>20)
	}
}

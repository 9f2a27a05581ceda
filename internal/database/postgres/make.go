package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast/internal/database"
	"holdfast/internal/pgcontrol"
)

// Init makes an empty, closed data directory with a new incarnation and the promise of epoch. It refuses a
// directory that holds anything but what an Init left that did not end. Where data are present it is overtaken
// ([database.ErrStale]): who asked had not seen them yet, and nothing has failed that status would have to tell of.
func (s *Server) Init(ctx context.Context, epoch int64) error {
	s.op.Lock()
	defer s.op.Unlock()
	if state, _, err := s.dataState(); err == nil && state == database.DataPresent {
		return fmt.Errorf("init the data directory: there are data already: %w", database.ErrStale)
	}
	return s.long(database.KindInit, func() error { return s.init(ctx, epoch) })
}

// long keeps the progress and outcome of a long job for observations. FailedKind is told only when the job has
// left its data unfit for another try, not when, say, the primary could not be reached.
func (s *Server) long(kind database.Kind, job func() error) error {
	s.setProgress(string(kind))
	err := job()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.progress, s.now.failed, s.now.kind, s.now.trouble = "", "", "", nil
	if err != nil {
		err = fmt.Errorf("%s the data directory: %w", kind, err)
		s.now.failed = err.Error()
		if errors.Is(err, context.Canceled) { // overtaken, and no source's fault
			s.now.from = ""
		}
		_ = errors.As(err, &s.now.trouble) // nil where no person is needed
		if state, _, serr := s.dataState(); serr != nil || state != database.DataPresent || errors.Is(err, database.ErrNeedsClone) {
			s.now.kind = kind // trying the same again cannot help: the data are no longer what it needs
		}
	}
	return err
}

func (s *Server) setProgress(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.progress = text
}

func (s *Server) init(ctx context.Context, epoch int64) error {
	state, why, err := s.dataState()
	if err != nil {
		return err
	}
	m, err := s.readPartial()
	if err != nil {
		return err
	}
	switch {
	case state == database.DataForeign:
		return s.foreign(why)
	case state == database.DataPresent, state == database.DataPartial && m.Job != database.KindInit: // they would be removed below
		return fmt.Errorf("there are data already (%s %s)", state, why)
	}
	p, _, err := s.readPromise()
	if err != nil {
		return err
	}
	if err := refuse(p, epoch, 0); err != nil {
		return err
	}
	incarnation := newIncarnation()
	if err := s.begin(database.KindInit, epoch, incarnation); err != nil {
		return err
	}
	if err := os.RemoveAll(s.at.data); err != nil { // empty, or of an Init that did not end
		return err
	}
	if err := s.makeOwned(s.at.data); err != nil {
		return err
	}
	args := []string{"-D", s.at.data, "--username=" + Superuser, "--encoding=UTF8", "--data-checksums",
		"--auth-local=peer", "--auth-host=reject", "--no-instructions"}
	if s.cfg.Major >= 17 {
		args = append(args, "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
	} else {
		args = append(args, "--locale=C.UTF-8")
	}
	if err := s.run(ctx, nil, "initdb", args...); err != nil {
		return err
	}
	return s.finish(s.at.data, incarnation)
}

// begin is the first step of whatever makes or remakes data: the mark, and the new incarnation with its promise,
// both durable before anything is touched. From here on the old data answer no election.
func (s *Server) begin(job database.Kind, epoch int64, incarnation string) error {
	if err := s.makePlace(); err != nil {
		return err
	}
	if err := s.copyCertificates(); err != nil {
		return err
	}
	replaces, err := s.replaces()
	if err != nil {
		return err
	}
	if err := s.markPartial(job, incarnation, replaces); err != nil {
		return err
	}
	if err := s.writePromise(database.Promise{Epoch: epoch, Incarnation: incarnation}); err != nil {
		return err
	}
	if err := s.noteReplaced(replaces, job, epoch); err != nil {
		return err
	}
	s.mu.Lock()
	s.now.position, s.now.held, s.now.heldFor = database.Position{}, 0, ""
	s.mu.Unlock()
	return nil
}

// finish is the last step: the data get their incarnation and our settings, and count as whole.
func (s *Server) finish(data, incarnation string) error {
	if err := s.writeIncarnation(data, incarnation); err != nil {
		return err
	}
	if err := s.furnish(data, s.static(nil)); err != nil {
		return err
	}
	return s.clearPartial()
}

// mayReplace refuses to replace data by the order of an older epoch, and those of a running primary.
func (s *Server) mayReplace(ctx context.Context, epoch int64) error {
	p, _, err := s.readPromise()
	if err != nil {
		return err
	}
	if err := refuse(p, epoch, p.Generation); err != nil {
		return err
	}
	if l := s.look(ctx); l.gone {
		return nil
	}
	primary, err := s.isPrimary(ctx)
	if err != nil {
		return err
	}
	if primary {
		return errors.New("our server runs as a primary")
	}
	return nil
}

// rewindProgram is not in every package of PostgreSQL.
const rewindProgram = "pg_rewind"

// Rewind turns a diverged server into a copy of from. What it alone holds is kept under Dir/preserved first.
// ErrNeedsClone when only a clone can help.
func (s *Server) Rewind(ctx context.Context, from database.Endpoint, epoch int64) error {
	s.op.Lock()
	defer s.op.Unlock()
	return s.long(database.KindRewind, func() error { return s.rewind(ctx, from, epoch) })
}

func (s *Server) rewind(ctx context.Context, from database.Endpoint, epoch int64) error {
	if err := s.present("rewind"); err != nil {
		return err
	}
	if err := s.mayReplace(ctx, epoch); err != nil {
		return err
	}
	if err := s.sameSystem(ctx, from); err != nil { // before anything is touched
		return err
	}
	if err := s.stop(ctx); err != nil {
		return err
	}
	if err := s.keepWhole(epoch); err != nil {
		return fmt.Errorf("keep the diverged WAL: %w", err)
	}
	if there, err := exists(filepath.Join(s.bin(), rewindProgram)); err != nil {
		return err
	} else if !there { // what would be lost is kept now, and a copy moves little more than a rewind
		return fmt.Errorf("there is no %s on this host: %w", rewindProgram, database.ErrNeedsClone)
	}
	incarnation := newIncarnation()
	if err := s.begin(database.KindRewind, epoch, incarnation); err != nil {
		return err
	}
	if err := s.writeIncarnation(s.at.data, incarnation); err != nil {
		return err
	}
	// pg_rewind recovers a crashed server in single-user mode, where standby mode is refused.
	if err := os.Remove(filepath.Join(s.at.data, "standby.signal")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.setProgress("rewinding")
	err := s.run(ctx, nil, rewindProgram, "--target-pgdata="+s.at.data,
		"--source-server="+s.conninfo(from, copyName, filepath.Join(s.at.tls, keyFile), "dbname=postgres"))
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w: %w", database.ErrNeedsClone, err)
	}
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return fmt.Errorf("%w: %w", database.ErrNeedsClone, err)
	}
	// It goes by pg_control, which a promotion that ended before its first checkpoint has not brought up to date.
	if rewound, err := exists(filepath.Join(s.at.data, labelFile)); err != nil {
		return err
	} else if !rewound {
		return fmt.Errorf("%w: %s found nothing to do, and the history went another way all the same", database.ErrNeedsClone, rewindProgram)
	}
	if err := logWhole(s.at.data, c.SegSize); err != nil {
		return fmt.Errorf("%w: %w", database.ErrNeedsClone, err)
	}
	return s.finish(s.at.data, incarnation)
}

// sameSystem proves that from is a primary of our own system whose tablespaces may lie here, and writes its checkpoint: pg_rewind
// believes pg_control for the timeline, which only a checkpoint brings up to date.
func (s *Server) sameSystem(ctx context.Context, from database.Endpoint) error {
	c, err := pgcontrol.Read(s.at.data)
	if err != nil {
		return err
	}
	conn, err := s.connectPeer(ctx, from)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	var recovering bool
	var system int64
	if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery(), system_identifier FROM pg_control_system()").Scan(&recovering, &system); err != nil {
		return fmt.Errorf("ask the server on %s: %w", from.Host, err)
	}
	switch {
	case recovering:
		return fmt.Errorf("the server on %s is no primary: %w", from.Host, database.ErrStale)
	case uint64(system) != c.SystemID:
		return fmt.Errorf("the server on %s is of another system: %w", from.Host, database.ErrNeedsClone)
	}
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("write a checkpoint on %s: %w", from.Host, err)
	}
	spaces, err := s.askSpaces(ctx, conn) // pg_rewind links those that are new to the same path
	if err != nil {
		return err
	}
	return s.prepareSpaces(spaces)
}

// copyFile makes a file that is on the disk when it returns.
func copyFile(from, to string) error { return copyThen(from, to, (*os.File).Sync) }

// copyThen makes a file, and calls last when all is written to it.
func copyThen(from, to string, last func(*os.File) error) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read only
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil { // a reflink where the file system can
		return err
	}
	return last(out)
}
